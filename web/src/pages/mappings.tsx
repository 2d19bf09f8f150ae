import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Plus, X } from "lucide-react";
import { useState } from "react";
import { api, type Schemas, take } from "../api/client";
import { time, visible } from "../format";
import { may, useMe } from "../session";
import { t } from "../text";
import { Ask, Modal } from "../ui/dialog";
import { Empty, Head, Loading, Text, Trouble } from "../ui/parts";

type Rule = { from: string; to: string };
type Mapping = Schemas["NamedMapping"];

const filled = (list: Rule[]) => list.filter((r) => r.from && r.to);

function Rules({ title, help, list, set }: { title: string; help: string; list: Rule[]; set: (l: Rule[]) => void }) {
  return (
    <fieldset className="rules">
      <legend>{title}</legend>
      <p className="small soft">{help}</p>
      {list.map((r, i) => (
        <div className="row pick" key={i}>
          <input aria-label={`${title} ${i + 1}: ${t.mappings.from}`} placeholder={t.mappings.from} value={r.from} onChange={(e) => set(list.map((o, k) => (k === i ? { ...o, from: e.target.value } : o)))} />
          <span aria-hidden>→</span>
          <input aria-label={`${title} ${i + 1}: ${t.mappings.to}`} placeholder={t.mappings.to} value={r.to} onChange={(e) => set(list.map((o, k) => (k === i ? { ...o, to: e.target.value } : o)))} />
          <button type="button" className="btn plain" aria-label={`${t.remove}: ${title} ${i + 1}`} onClick={() => set(list.filter((_, k) => k !== i))}><X size={16} aria-hidden /></button>
        </div>
      ))}
      <button type="button" className="btn" aria-label={`${t.add}: ${title}`} onClick={() => set([...list, { from: "", to: "" }])}><Plus size={16} aria-hidden />{t.add}</button>
    </fieldset>
  );
}

function Editor({ was, close }: { was?: Mapping; close: () => void }) {
  const cache = useQueryClient();
  const [id, setID] = useState(was?.id ?? "");
  const [note, setNote] = useState(was?.note ?? "");
  const [networks, setNetworks] = useState<Rule[]>(was?.mapping.networks ?? [{ from: "", to: "" }]);
  const [storage, setStorage] = useState<Rule[]>(was?.mapping.storage ?? []);
  const [fields, setFields] = useState<Rule[]>(Object.entries(was?.mapping.fields ?? {}).map(([from, to]) => ({ from, to })));
  const [error, setError] = useState<unknown>();
  const save = async () => {
    setError(undefined);
    try {
      // What this form does not show stays as it was.
      const keep = <T extends Rule>(rules: T[], old: Rule[] | null | undefined) => filled(rules).map((r) => ({ ...old?.find((o) => o.from === r.from), ...r }));
      await take(api.PUT("/api/v1/mappings/{id}", { params: { path: { id } }, body: { note: note || undefined, mapping: { networks: keep(networks, was?.mapping.networks), storage: keep(storage, was?.mapping.storage), fields: Object.fromEntries(filled(fields).map((f) => [f.from, f.to])) } } }));
      await cache.invalidateQueries({ queryKey: ["mappings"] });
      close();
    } catch (e) {
      setError(e);
    }
  };
  return (
    <form onSubmit={(e) => { e.preventDefault(); void save(); }}>
      {!was && <Text label={t.targets.name} value={id} set={setID} required />}
      <Text label={t.targets.note} value={note} set={setNote} />
      <Rules title={t.wizard.networks} help={t.mappings.networksHelp} list={networks} set={setNetworks} />
      <Rules title={t.wizard.storage} help={t.mappings.storageHelp} list={storage} set={setStorage} />
      <Rules title={t.wizard.fields} help={t.mappings.fieldsHelp} list={fields} set={setFields} />
      <Trouble error={error} />
      <div className="foot"><button type="button" className="btn" onClick={close}>{t.close}</button><button className="btn main-action" disabled={!id}>{t.save}</button></div>
    </form>
  );
}

export function Mappings() {
  const me = useMe();
  const cache = useQueryClient();
  const [editing, setEditing] = useState<Mapping | "new">();
  const list = useQuery({ queryKey: ["mappings"], queryFn: () => take(api.GET("/api/v1/mappings", { params: { query: { limit: 200 } } })) });
  const add = may(me, "operator") && <button className="btn main-action" onClick={() => setEditing("new")}><Plus size={16} aria-hidden />{t.mappings.add}</button>;
  const count = (m: Mapping) => [[t.wizard.networks, m.mapping.networks?.length], [t.wizard.storage, m.mapping.storage?.length], [t.wizard.fields, Object.keys(m.mapping.fields ?? {}).length]].filter(([, n]) => n).map(([k, n]) => `${String(n)} ${String(k).toLowerCase()}`).join(", ");
  return (
    <>
      <Head title={t.mappings.title}>{add}</Head>
      <Trouble error={list.error} retry={() => void list.refetch()} />
      {list.isPending ? <Loading /> : !list.data?.items.length ? <Empty title={t.mappings.empty} text={t.mappings.emptyText}>{add}</Empty> : (
        <div className="card flush scroll" tabIndex={0} role="region" aria-label={t.mappings.title}>
          <table>
            <tbody>
              {list.data.items.map((m) => (
                <tr key={m.id}><td className="break"><b>{m.id}</b><div className="small soft">{visible(m.note)}</div></td><td>{count(m)}</td><td>{time(m.updated)}</td>
                  <td>{may(me, "operator") && <span className="row"><button className="btn" aria-label={`${t.mappings.edit}: ${m.id}`} onClick={() => setEditing(m)}>{t.mappings.edit}</button>
                    <Ask label={t.remove} ask={t.mappings.removeAsk} run={async () => { await take(api.DELETE("/api/v1/mappings/{id}", { params: { path: { id: m.id } } })); await cache.invalidateQueries({ queryKey: ["mappings"] }); }} /></span>}</td></tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      <Modal open={!!editing} close={() => setEditing(undefined)} title={editing === "new" ? t.mappings.add : t.mappings.edit}>
        {editing && <Editor was={editing === "new" ? undefined : editing} close={() => setEditing(undefined)} />}
      </Modal>
    </>
  );
}
