import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { api, setCSRF, take } from "../api/client";
import { t } from "../text";
import { Text, Trouble } from "../ui/parts";

export function SignIn() {
  const cache = useQueryClient();
  const methods = useQuery({ queryKey: ["methods"], queryFn: () => take(api.GET("/api/v1/auth/methods")) });
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  const [token, setToken] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const setup = methods.data?.setup ?? false;

  const submit = async (e: FormEvent) => {
    e.preventDefault();
    setBusy(true);
    setError(undefined);
    try {
      if (setup) {
        await take(api.POST("/api/v1/users", { body: { name, password, role: "admin" }, headers: { Authorization: `Bearer ${token.trim()}` } }));
      }
      const me = await take(api.POST("/api/v1/auth/sign-in", { body: { username: name, password } }));
      setCSRF(me.csrf_token);
      await cache.invalidateQueries();
      cache.setQueryData(["me"], me);
    } catch (x) {
      setError(x);
    } finally {
      setBusy(false);
    }
  };

  return (
    <main className="signin">
      <form className="card" onSubmit={(e) => void submit(e)}>
        <div className="brand"><img src="/icon.svg" alt="" width={28} height={28} />{t.product}</div>
        <h1>{setup ? t.signIn.setupTitle : t.signIn.title}</h1>
        <p className="soft">{setup ? t.signIn.setupText : ""}</p>
        <Trouble error={error ?? methods.error} />
        {setup && <Text label={t.signIn.token} value={token} set={setToken} type="password" required />}
        <Text label={t.signIn.name} value={name} set={setName} auto="username" required />
        <Text label={t.signIn.password} value={password} set={setPassword} type="password" auto={setup ? "new-password" : "current-password"} required />
        <p><button className="btn main-action" disabled={busy}>{setup ? t.signIn.setupButton : t.signIn.button}</button></p>
        {methods.data?.oidc && <p><a className="btn" href={`/api/v1/auth/oidc/start?return=${encodeURIComponent(location.pathname)}`}>{t.signIn.oidc}</a></p>}
      </form>
    </main>
  );
}
