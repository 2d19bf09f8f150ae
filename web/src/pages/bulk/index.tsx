import { useInfiniteQuery, useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { ArrowDown, ArrowUp, Plus, X } from "lucide-react";
import { useState } from "react";
import { api, type Schemas, take } from "../../api/client";
import { time, visible } from "../../format";
import { may, useMe } from "../../session";
import { t } from "../../text";
import { Ask, Modal } from "../../ui/dialog";
import { Check, Empty, Head, Loading, Pick, Status, Text, Trouble } from "../../ui/parts";
import { BackupFilter, BackupList } from "../backups";
import { document, type Draft, dropGroup, type GroupDraft, move, newDraft, newGroup, toggle } from "./document";

const conditions = Object.entries(t.bulk.conditions).map(([value, label]) => ({ value, label }));

/** usePlan has a runbook planned and goes to its run. */
function usePlan() {
  const go = useNavigate();
  const cache = useQueryClient();
  return useMutation({
    mutationFn: (body: Schemas["NewRun"]) => take(api.POST("/api/v1/runbook-runs", { body })),
    onSuccess: (r) => {
      cache.setQueryData(["run", r.id], r);
      void cache.invalidateQueries({ queryKey: ["runs"] });
      void go({ to: "/bulk/$id", params: { id: r.id } });
    },
  });
}

function GroupForm({ g, n, only, set, drop }: { g: GroupDraft; n: number; only: boolean; set: (g: Partial<GroupDraft>) => void; drop: () => void }) {
  return (
    <>
      <div className="row" style={{ marginBottom: "0.7rem" }}>
        <h2 style={{ margin: 0 }}>{n + 1}. {visible(g.name)}</h2>
        {!only && <button type="button" className="btn plain" aria-label={`${t.bulk.dropGroup}: ${g.name}`} onClick={drop}><X size={16} aria-hidden /></button>}
      </div>
      <div className="cols">
        <Text label={t.bulk.groupName} value={g.name} set={(v) => set({ name: v })} />
        <Pick label={t.bulk.until} value={g.is} set={(v) => set({ is: v })} options={conditions} />
        {g.is === "boot_proof" && <Pick label={t.bulk.grade} value={g.grade} set={(v) => set({ grade: v })} options={["A", "B", "C"].map((v) => ({ value: v, label: v }))} />}
        {g.is !== "restored" && <Text label={t.bulk.timeout} value={g.timeout} set={(v) => set({ timeout: v })} />}
        <Text label={t.bulk.wait} value={g.wait} set={(v) => set({ wait: v })} />
        <Text label={t.bulk.groupConcurrency} type="number" value={g.concurrency} set={(v) => set({ concurrency: v })} />
      </div>
      <Check label={t.bulk.carryOn} on={g.carryOn} set={(v) => set({ carryOn: v })} />
    </>
  );
}

function Builder() {
  const [d, setD] = useState<Draft>(newDraft);
  const [q, setQ] = useState("");
  const [origin, setOrigin] = useState("");
  const targets = useQuery({ queryKey: ["targets"], queryFn: () => take(api.GET("/api/v1/targets", { params: { query: { limit: 200 } } })) });
  const saved = useQuery({ queryKey: ["mappings"], queryFn: () => take(api.GET("/api/v1/mappings", { params: { query: { limit: 200 } } })) });
  const plan = usePlan();
  const set = (c: Partial<Draft>) => setD({ ...d, ...c });
  const setGroup = (i: number, g: Partial<GroupDraft>) => set({ groups: d.groups.map((o, k) => (k === i ? { ...o, ...g } : o)) });
  return (
    <form onSubmit={(e) => { e.preventDefault(); plan.mutate({ document: JSON.stringify(document(d)) }); }}>
      <section>
        <h2>{t.bulk.which}</h2>
        <BackupFilter {...{ q, setQ, origin, setOrigin }} />
        <BackupList q={q} origin={origin} pick={(b) => !b.fault && setD(toggle(d, b))} picked={new Set(d.picks.map((p) => p.id))} />
      </section>
      <section className="card">
        <h2>{t.bulk.all}</h2>
        <div className="cols">
          <Text label={t.bulk.name} value={d.name} set={(v) => set({ name: v })} />
          <Pick label={t.bulk.target} value={d.target} none={t.wizard.choose} set={(v) => set({ target: v })} options={(targets.data?.items ?? []).map((x) => ({ value: x.id, label: visible(x.id) }))} />
          <Pick label={t.wizard.saved} value={d.mapping} none={t.wizard.noSaved} set={(v) => set({ mapping: v })} options={(saved.data?.items ?? []).map((m) => ({ value: m.id, label: m.id }))} />
          <Text label={t.bulk.concurrency} type="number" value={d.concurrency} set={(v) => set({ concurrency: v })} />
        </div>
        <Check label={t.bulk.power} on={d.power} set={(v) => set({ power: v })} />
      </section>
      {d.groups.map((g, i) => (
        <section className="card" key={i}>
          <GroupForm g={g} n={i} only={d.groups.length < 2} set={(c) => setGroup(i, c)} drop={() => setD(dropGroup(d, i))} />
          {d.picks.filter((p) => p.group === i).map((p) => (
            <div className="row pick" key={p.id}>
              <b className="break">{visible(p.vm)}</b>
              <input aria-label={`${t.bulk.newName}: ${visible(p.vm)}`} placeholder={t.bulk.newName} value={p.name} onChange={(e) => set({ picks: d.picks.map((o) => (o.id === p.id ? { ...o, name: e.target.value } : o)) })} />
              <select aria-label={`${t.bulk.inGroup}: ${visible(p.vm)}`} value={p.group} onChange={(e) => set({ picks: d.picks.map((o) => (o.id === p.id ? { ...o, group: Number(e.target.value) } : o)) })}>
                {d.groups.map((o, k) => <option key={k} value={k}>{k + 1}. {visible(o.name)}</option>)}
              </select>
              <button type="button" className="btn plain" aria-label={`${t.bulk.up}: ${visible(p.vm)}`} onClick={() => setD(move(d, p.id, -1))}><ArrowUp size={16} aria-hidden /></button>
              <button type="button" className="btn plain" aria-label={`${t.bulk.down}: ${visible(p.vm)}`} onClick={() => setD(move(d, p.id, 1))}><ArrowDown size={16} aria-hidden /></button>
              <button type="button" className="btn plain" aria-label={`${t.remove}: ${visible(p.vm)}`} onClick={() => setD(toggle(d, p))}><X size={16} aria-hidden /></button>
            </div>
          ))}
          {!d.picks.some((p) => p.group === i) && <p className="soft">{t.bulk.emptyGroup}</p>}
        </section>
      ))}
      <Trouble error={plan.error ?? targets.error} />
      <div className="wizard-foot">
        <button type="button" className="btn" onClick={() => set({ groups: [...d.groups, newGroup(d.groups.length + 1)] })}><Plus size={16} aria-hidden />{t.bulk.addGroup}</button>
        <button className="btn main-action" disabled={!d.target || !d.picks.length || plan.isPending}>{plan.isPending ? t.loading : t.bulk.plan}</button>
      </div>
    </form>
  );
}

/** Paste plans a document that was written elsewhere. */
function Paste({ close }: { close: () => void }) {
  const [text, setText] = useState("");
  const plan = usePlan();
  return (
    <form onSubmit={(e) => { e.preventDefault(); plan.mutate({ document: text }); }}>
      <p className="soft">{t.bulk.pasteText}</p>
      <textarea aria-label={t.bulk.paste} value={text} onChange={(e) => setText(e.target.value)} />
      <Trouble error={plan.error} />
      <div className="foot"><button type="button" className="btn" onClick={close}>{t.close}</button><button className="btn main-action" disabled={!text || plan.isPending}>{t.bulk.plan}</button></div>
    </form>
  );
}

function Books() {
  const cache = useQueryClient();
  const me = useMe();
  const plan = usePlan();
  const list = useQuery({ queryKey: ["runbooks"], queryFn: () => take(api.GET("/api/v1/runbooks", { params: { query: { limit: 200 } } })) });
  if (!list.data?.items.length) return <Trouble error={list.error} />;
  return (
    <section className="card flush scroll" tabIndex={0} role="region" aria-label={t.bulk.books}>
      <h2>{t.bulk.books}</h2>
      <table>
        <tbody>
          {list.data.items.map((b) => (
            <tr key={b.id}>
              <td className="break"><b>{visible(b.name)}</b><div className="small soft">{b.id}, {t.bulk.machines(b.machines)}</div></td><td>{time(b.updated)}</td>
              <td>{may(me, "operator") && <span className="row"><button className="btn" disabled={plan.isPending} onClick={() => plan.mutate({ runbook: b.id })}>{t.bulk.plan}</button>
                <Ask label={t.remove} ask={t.bulk.removeAsk} run={async () => { await take(api.DELETE("/api/v1/runbooks/{id}", { params: { path: { id: b.id } } })); await cache.invalidateQueries({ queryKey: ["runbooks"] }); }} /></span>}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <Trouble error={plan.error} />
    </section>
  );
}

export function Bulk() {
  const me = useMe();
  const [making, setMaking] = useState(false);
  const [pasting, setPasting] = useState(false);
  const runs = useInfiniteQuery({
    queryKey: ["runs"], queryFn: ({ pageParam }) => take(api.GET("/api/v1/runbook-runs", { params: { query: { limit: 50, cursor: pageParam || undefined } } })),
    initialPageParam: "", getNextPageParam: (p) => p.next || undefined, refetchInterval: making ? false : 5000,
  });
  const items = runs.data?.pages.flatMap((p) => p.items) ?? [];
  const start = may(me, "operator") && <><button className="btn" onClick={() => setPasting(true)}>{t.bulk.paste}</button><button className="btn main-action" onClick={() => setMaking(true)}><Plus size={16} aria-hidden />{t.bulk.new}</button></>;
  if (making) return <><Head title={t.bulk.new}><button className="btn" onClick={() => setMaking(false)}>{t.cancel}</button></Head><Builder /></>;
  return (
    <>
      <Head title={t.bulk.title}>{start}</Head>
      <Trouble error={runs.error} retry={() => void runs.refetch()} />
      {runs.isPending ? <Loading /> : !items.length ? <Empty title={t.bulk.empty} text={t.bulk.emptyText} /> : (
        <section className="card flush scroll" tabIndex={0} role="region" aria-label={t.bulk.runs}>
          <table>
            <thead><tr><th>{t.bulk.name}</th><th>{t.jobs.status}</th><th>{t.bulk.done}</th><th>{t.audit.who}</th><th>{t.jobs.when}</th></tr></thead>
            <tbody>
              {items.map((r) => (
                <tr key={r.id}><td className="name"><Link to="/bulk/$id" params={{ id: r.id }}>{visible(r.name)}</Link></td><td><Status status={r.status} /></td>
                  <td>{r.counts.completed} / {r.counts.total}{r.counts.failed > 0 && <span className="badge bad">{r.counts.failed} {t.bulk.failed}</span>}</td><td className="break">{visible(r.by)}</td><td>{time(r.started ?? r.created)}</td></tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
      {runs.hasNextPage && <button className="btn" onClick={() => void runs.fetchNextPage()}>{t.more}</button>}
      <Books />
      <Modal open={pasting} close={() => setPasting(false)} title={t.bulk.paste}><Paste close={() => setPasting(false)} /></Modal>
    </>
  );
}
