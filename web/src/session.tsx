import { useQuery, useQueryClient } from "@tanstack/react-query";
import { createContext, useContext } from "react";
import { api, ApiError, type Schemas, setCSRF, take } from "./api/client";

export type Me = Schemas["Me"];

const SessionContext = createContext<Me | null>(null);
export const SessionProvider = SessionContext.Provider;

/** useMe is who is signed in; below the shell there always is somebody. */
export function useMe(): Me {
  const me = useContext(SessionContext);
  if (!me) throw new Error("nobody is signed in");
  return me;
}

/** may tells whether a role allows what another one does. */
export function may(me: Me, role: "viewer" | "operator" | "admin"): boolean {
  const order = ["viewer", "operator", "admin"];
  const grants = (me.grants ?? []).map((g) => order.indexOf(g.role));
  return Math.max(order.indexOf(me.role), ...grants) >= order.indexOf(role);
}

/** useSession asks who is signed in; null: nobody. */
export function useSession() {
  return useQuery({
    queryKey: ["me"],
    queryFn: async () => {
      try {
        const me = await take(api.GET("/api/v1/me"));
        setCSRF(me.csrf_token);
        return me;
      } catch (e) {
        if (e instanceof ApiError && e.problem.status === 401) return null;
        throw e;
      }
    },
    staleTime: 60_000,
  });
}

export function useSignOut() {
  const cache = useQueryClient();
  return async () => {
    await api.POST("/api/v1/auth/sign-out");
    setCSRF("");
    cache.setQueryData(["me"], null);
    cache.removeQueries({ predicate: (q) => q.queryKey[0] !== "me" });
  };
}
