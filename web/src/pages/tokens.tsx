import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Plus } from "lucide-react";
import { useState } from "react";
import { api, type Schemas, take } from "../api/client";
import { time, visible } from "../format";
import { t } from "../text";
import { Ask, Modal } from "../ui/dialog";
import { Empty, Head, Loading, Pick, Text, Trouble } from "../ui/parts";
import { roles } from "./users";

export function Tokens() {
  const cache = useQueryClient();
  const [open, setOpen] = useState(false);
  const [name, setName] = useState("");
  const [role, setRole] = useState<Schemas["NewToken"]["role"]>("viewer");
  const [days, setDays] = useState("90");
  const [made, setMade] = useState("");
  const [error, setError] = useState<unknown>();
  const list = useQuery({ queryKey: ["tokens"], queryFn: () => take(api.GET("/api/v1/tokens", { params: { query: { limit: 200 } } })) });
  const again = () => cache.invalidateQueries({ queryKey: ["tokens"] });
  const save = async () => {
    setError(undefined);
    try {
      setMade((await take(api.POST("/api/v1/tokens", { body: { name, role, days: Number(days) || 1 } }))).text);
      await again();
    } catch (e) {
      setError(e);
    }
  };
  const close = () => { setOpen(false); setMade(""); setName(""); };
  const add = <button className="btn main-action" onClick={() => setOpen(true)}><Plus size={16} aria-hidden />{t.tokens.add}</button>;
  return (
    <>
      <Head title={t.tokens.title}>{add}</Head>
      <Trouble error={list.error} retry={() => void list.refetch()} />
      {list.isPending ? <Loading /> : !list.data?.items.length ? <Empty title={t.tokens.empty} text={t.tokens.emptyText} /> : (
        <div className="card flush scroll">
          <table>
            <thead><tr><th>{t.tokens.name}</th><th>{t.tokens.role}</th><th>{t.tokens.until}</th><th>{t.tokens.used}</th><th><span className="sr">{t.tokens.revoke}</span></th></tr></thead>
            <tbody>
              {list.data.items.map((x) => (
                <tr key={x.id}><td className="break"><b>{visible(x.name)}</b><div className="small soft"><code>{x.prefix}…</code> {visible(x.user)}</div></td><td>{x.role}</td><td>{time(x.until)}</td><td>{time(x.used)}</td>
                  <td><Ask label={t.tokens.revoke} ask={t.tokens.revokeAsk} run={async () => { await take(api.DELETE("/api/v1/tokens/{id}", { params: { path: { id: x.id } } })); await again(); }} /></td></tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <Modal open={open} close={close} title={t.tokens.add}>
        {made ? (
          <>
            <p>{t.tokens.made}</p>
            <p><code className="break">{made}</code></p>
            <div className="foot"><button className="btn" onClick={() => void navigator.clipboard?.writeText(made)}>Copy</button><button className="btn main-action" onClick={close}>{t.close}</button></div>
          </>
        ) : (
          <form onSubmit={(e) => { e.preventDefault(); void save(); }}>
            <Text label={t.tokens.name} value={name} set={setName} required />
            <Pick label={t.tokens.role} value={role} set={(v) => setRole(v as typeof role)} options={roles} />
            <Text label={t.tokens.days} value={days} set={setDays} type="number" />
            <Trouble error={error} />
            <div className="foot"><button type="button" className="btn" onClick={close}>{t.close}</button><button className="btn main-action" disabled={!name}>{t.tokens.add}</button></div>
          </form>
        )}
      </Modal>
    </>
  );
}
