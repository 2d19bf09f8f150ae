import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Plus } from "lucide-react";
import { useState } from "react";
import { api, type Schemas, take } from "../api/client";
import { platform, time, visible } from "../format";
import { may, useMe } from "../session";
import { t } from "../text";
import { Ask, Modal } from "../ui/dialog";
import { Empty, Field, Head, Loading, Mark, Pick, Text, Trouble } from "../ui/parts";

type Target = Schemas["Target"];

export function CheckList({ checks }: { checks: Schemas["Checks"] }) {
  return (
    <div className="card flush scroll">
      <h2>{t.targets.checks}</h2>
      <table>
        <tbody>{(checks.checks ?? []).map((c, i) => <tr key={i}><td style={{ width: "1%" }}><Mark ok={c.ok} /></td><td><b>{visible(c.name)}</b></td><td className="break">{visible(c.detail)}{c.hint && <div className="small soft">{visible(c.hint)}</div>}</td></tr>)}</tbody>
      </table>
    </div>
  );
}

function Editor({ target, close }: { target?: Target; close: () => void }) {
  const cache = useQueryClient();
  const platforms = useQuery({ queryKey: ["platforms"], queryFn: () => take(api.GET("/api/v1/platforms")), staleTime: Infinity });
  const [id, setID] = useState(target?.id ?? "");
  const [kind, setKind] = useState(target?.platform ?? "");
  const [note, setNote] = useState(target?.note ?? "");
  const [values, setValues] = useState<Record<string, string>>(target?.settings ?? {});
  const [secrets, setSecrets] = useState<Record<string, string>>({});
  const [checks, setChecks] = useState<Schemas["Checks"]>();
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const settings = platforms.data?.items.find((p) => p.platform === kind)?.settings ?? [];
  const given = (m: Record<string, string>) => Object.fromEntries(Object.entries(m).filter(([, v]) => v !== ""));
  const run = async (what: () => Promise<void>) => {
    setBusy(true);
    setError(undefined);
    try {
      await what();
    } catch (e) {
      setError(e);
    } finally {
      setBusy(false);
    }
  };
  const body = () => ({ id, platform: kind, note: note || undefined, settings: given(values), secrets: given(secrets) });
  const save = () => run(async () => {
    if (target) await take(api.PATCH("/api/v1/targets/{id}", { params: { path: { id: target.id } }, body: { note, settings: given(values), secrets: given(secrets) } }));
    else await take(api.POST("/api/v1/targets", { body: body() as Schemas["NewTarget"] }));
    await Promise.all([cache.invalidateQueries({ queryKey: ["targets"] }), cache.invalidateQueries({ queryKey: ["possible"] })]);
    close();
  });
  const test = () => run(async () => setChecks(await take(api.POST("/api/v1/targets/validate", { body: body() as Schemas["NewTarget"] }))));
  return (
    <form onSubmit={(e) => { e.preventDefault(); void save(); }}>
      <Trouble error={platforms.error} />
      {!target && <Text label={t.targets.name} value={id} set={setID} required />}
      {!target && <Pick label={t.targets.platform} value={kind} none={t.wizard.choose} set={(v) => { setKind(v); setValues({}); setSecrets({}); }} options={(platforms.data?.items ?? []).map((p) => ({ value: p.platform, label: platform(p.platform) }))} />}
      {(settings ?? []).map((s) => {
        const label = s.name.replaceAll("_", " ") + (s.required ? " *" : "");
        if (s.secret) return <Text key={s.name} label={label} type="password" auto="new-password" help={target?.secrets?.includes(s.name) ? t.targets.secretSet : s.help} value={secrets[s.name] ?? ""} set={(v) => setSecrets({ ...secrets, [s.name]: v })} />;
        if (s.values?.length) return <Pick key={s.name} label={label} help={s.help} none={s.default || t.wizard.choose} value={values[s.name] ?? ""} set={(v) => setValues({ ...values, [s.name]: v })} options={s.values.map((v) => ({ value: v, label: v }))} />;
        return <Field key={s.name} label={label} help={s.help}>{(fid) => <input id={fid} value={values[s.name] ?? ""} placeholder={s.default} required={s.required} onChange={(e) => setValues({ ...values, [s.name]: e.target.value })} />}</Field>;
      })}
      <Text label={t.targets.note} value={note} set={setNote} />
      {checks && <CheckList checks={checks} />}
      <Trouble error={error} />
      <div className="foot">
        <button type="button" className="btn" onClick={close}>{t.close}</button>
        {!target && <button type="button" className="btn" disabled={busy || !kind} onClick={() => void test()}>{t.targets.test}</button>}
        <button className="btn main-action" disabled={busy || !kind || !id}>{t.save}</button>
      </div>
    </form>
  );
}

function Row({ target, edit }: { target: Target; edit: () => void }) {
  const cache = useQueryClient();
  const me = useMe();
  const [checks, setChecks] = useState<Schemas["Checks"]>();
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const validate = async () => {
    setBusy(true);
    setError(undefined);
    try {
      setChecks(await take(api.POST("/api/v1/targets/{id}/validate", { params: { path: { id: target.id } } })));
      await Promise.all([cache.invalidateQueries({ queryKey: ["targets"] }), cache.invalidateQueries({ queryKey: ["possible"] })]);
    } catch (e) {
      setError(e);
    } finally {
      setBusy(false);
    }
  };
  return (
    <section className="card">
      <div className="row">
        <Mark ok={target.healthy} />
        <h2 style={{ margin: 0 }} className="break">{visible(target.id)}</h2>
        <span className="soft">{platform(target.platform)}</span>
        <span className="badge">{target.healthy === undefined ? t.targets.never : target.healthy ? t.targets.ok : t.targets.bad}{target.checked ? `, ${time(target.checked)}` : ""}</span>
        <span style={{ marginLeft: "auto" }} className="row">
          <button className="btn" disabled={busy} onClick={() => void validate()}>{busy ? t.loading : t.targets.validate}</button>
          {may(me, "admin") && <button className="btn" onClick={edit}>{t.targets.settings}</button>}
          {may(me, "admin") && <Ask label={t.remove} ask={t.targets.removeAsk} run={async () => { await take(api.DELETE("/api/v1/targets/{id}", { params: { path: { id: target.id } } })); await Promise.all([cache.invalidateQueries({ queryKey: ["targets"] }), cache.invalidateQueries({ queryKey: ["possible"] })]); }} />}
        </span>
      </div>
      {target.note && <p className="soft break">{visible(target.note)}</p>}
      <Trouble error={error} />
      {checks && <CheckList checks={checks} />}
    </section>
  );
}

export function Targets() {
  const me = useMe();
  const [editing, setEditing] = useState<Target | "new">();
  const list = useQuery({ queryKey: ["targets"], queryFn: () => take(api.GET("/api/v1/targets", { params: { query: { limit: 200 } } })) });
  const add = may(me, "admin") && <button className="btn main-action" onClick={() => setEditing("new")}><Plus size={16} aria-hidden />{t.targets.add}</button>;
  return (
    <>
      <Head title={t.targets.title}>{add}</Head>
      <Trouble error={list.error} retry={() => void list.refetch()} />
      {list.isPending ? <Loading /> : list.data?.items.length ? list.data.items.map((x) => <Row key={x.id} target={x} edit={() => setEditing(x)} />) : <Empty title={t.targets.empty} text={t.targets.emptyText}>{add}</Empty>}
      <Modal open={!!editing} close={() => setEditing(undefined)} title={editing === "new" ? t.targets.add : t.targets.settings}>
        {editing && <Editor target={editing === "new" ? undefined : editing} close={() => setEditing(undefined)} />}
      </Modal>
    </>
  );
}
