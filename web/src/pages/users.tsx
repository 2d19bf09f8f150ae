import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Plus } from "lucide-react";
import { useState } from "react";
import { api, type Schemas, take } from "../api/client";
import { time, visible } from "../format";
import { useMe } from "../session";
import { t } from "../text";
import { Ask, Modal } from "../ui/dialog";
import { Head, Loading, Pick, Text, Trouble } from "../ui/parts";

type Role = Schemas["NewUser"]["role"];
export const roles = Object.entries(t.roles).map(([value, label]) => ({ value, label }));

export function Users() {
  const me = useMe();
  const cache = useQueryClient();
  const [open, setOpen] = useState(false);
  const [name, setName] = useState("");
  const [email, setEmail] = useState("");
  const [password, setPassword] = useState("");
  const [role, setRole] = useState<Role>("viewer");
  const [error, setError] = useState<unknown>();
  const list = useQuery({ queryKey: ["users"], queryFn: () => take(api.GET("/api/v1/users", { params: { query: { limit: 200 } } })) });
  const again = () => cache.invalidateQueries({ queryKey: ["users"] });
  const save = async () => {
    setError(undefined);
    try {
      await take(api.POST("/api/v1/users", { body: { name, password, role, email: email || undefined } }));
      await again();
      setOpen(false);
    } catch (e) {
      setError(e);
    }
  };
  const change = (u: Schemas["User"], body: Schemas["UserChange"]) => take(api.PATCH("/api/v1/users/{id}", { params: { path: { id: u.id } }, body })).then(again, setError);
  return (
    <>
      <Head title={t.users.title}><button className="btn main-action" onClick={() => setOpen(true)}><Plus size={16} aria-hidden />{t.users.add}</button></Head>
      <Trouble error={list.error ?? (open ? undefined : error)} retry={() => void list.refetch()} />
      {list.isPending ? <Loading /> : (
        <div className="card flush scroll">
          <table>
            <thead><tr><th>{t.users.name}</th><th>{t.users.role}</th><th>{t.users.signIn}</th><th>{t.users.seen}</th><th><span className="sr">{t.remove}</span></th></tr></thead>
            <tbody>
              {(list.data?.items ?? []).map((u) => (
                <tr key={u.id}>
                  <td className="break"><b>{visible(u.name)}</b> {u.disabled && <span className="badge">{t.users.disabled}</span>}<div className="small soft">{visible(u.email)}</div></td>
                  <td><select aria-label={`${t.users.role}: ${visible(u.name)}`} value={u.role} disabled={u.id === me.id} onChange={(e) => void change(u, { role: e.target.value as Role })}>{!t.roles[u.role] && <option value={u.role}>{u.role}</option>}{roles.map((r) => <option key={r.value} value={r.value}>{r.value}</option>)}</select></td>
                  <td>{u.sign_in}</td><td>{time(u.last_seen)}</td>
                  <td>{u.id !== me.id && <Ask label={t.remove} ask={t.users.removeAsk} run={async () => { await take(api.DELETE("/api/v1/users/{id}", { params: { path: { id: u.id } } })); await again(); }} />}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <Modal open={open} close={() => setOpen(false)} title={t.users.add}>
        <form onSubmit={(e) => { e.preventDefault(); void save(); }}>
          <Text label={t.users.name} value={name} set={setName} required />
          <Text label={t.users.email} value={email} set={setEmail} type="email" />
          <Text label={t.users.password} value={password} set={setPassword} type="password" auto="new-password" required />
          <Pick label={t.users.role} value={role} set={(v) => setRole(v as Role)} options={roles} />
          <Trouble error={error} />
          <div className="foot"><button type="button" className="btn" onClick={() => setOpen(false)}>{t.close}</button><button className="btn main-action">{t.add}</button></div>
        </form>
      </Modal>
    </>
  );
}
