import "./app.css";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { ApiError } from "./api/client";
import { SignIn } from "./pages/signin";
import { router } from "./routes";
import { SessionProvider, useSession } from "./session";
import { followTheme } from "./theme";
import { Loading, Trouble } from "./ui/parts";

followTheme();

const queries: QueryClient = new QueryClient({
  defaultOptions: {
    queries: {
      // What the server refuses it refuses again; only silence and its own failures pass.
      retry: (n, e) => n < 3 && !(e instanceof ApiError && e.problem.status >= 400 && e.problem.status < 500),
      retryDelay: (n) => Math.min(500 * 2 ** n, 5000),
      staleTime: 2000,
      gcTime: 120_000,
    },
  },
});
queries.getQueryCache().subscribe((e) => {
  const error = e.type === "updated" ? e.query.state.error : null;
  if (error instanceof ApiError && error.problem.status === 401 && e.query.queryKey[0] !== "me") queries.setQueryData(["me"], null);
});

function App() {
  const session = useSession();
  if (session.isPending) return <div className="signin"><Loading /></div>;
  if (session.isError) return <div className="signin"><div className="card"><Trouble error={session.error} retry={() => void session.refetch()} /></div></div>;
  if (!session.data) return <SignIn />;
  return (
    <SessionProvider value={session.data}>
      <RouterProvider router={router} />
    </SessionProvider>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <QueryClientProvider client={queries}>
      <App />
    </QueryClientProvider>
  </StrictMode>,
);
