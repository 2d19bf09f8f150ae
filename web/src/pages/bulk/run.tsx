import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { Ban, Download, Play, RotateCw } from "lucide-react";
import { useState } from "react";
import { api, type Schemas, take } from "../../api/client";
import { useStream } from "../../api/live";
import { between, bytes, left, multiline, platform, seconds, time, visible } from "../../format";
import { may, useMe } from "../../session";
import { t } from "../../text";
import { Ask, Modal } from "../../ui/dialog";
import { Bar, Check, Facts, Head, Loading, Severity, Status, tone, Trouble } from "../../ui/parts";

type Run = Schemas["RunReport"];
type Machine = Schemas["RunbookMachineRun"];

const busy = (s: string) => s === "planning" || s === "running" || s === "cancelling";

function label(r: Run, g: number, m: number): string {
  const e = r.document.groups?.[g]?.machines?.[m];
  const vm = e?.vm || r.groups?.[g]?.machines?.[m]?.plan?.vm || e?.backup || "";
  return visible(e?.name && e.name !== vm ? `${vm} as ${e.name}` : vm);
}

function Row({ r, g, m, x }: { r: Run; g: number; m: number; x: Machine }) {
  const job = x.job ? r.jobs[x.job] : undefined;
  const name = label(r, g, m);
  const why = x.trouble || x.error || x.seen;
  const findings = (x.plan?.findings ?? []).filter((f) => f.severity !== "information");
  return (
    <tr>
      <td className="name">{x.job ? <Link to="/jobs/$id" params={{ id: x.job }}>{name}</Link> : <b>{name}</b>}
        {x.plan && <div className="small soft">{time(x.plan.taken)}, {bytes(x.plan.bytes)}</div>}</td>
      <td>{x.plan ? <>{visible(x.plan.target.name)}<div className="small soft">{platform(x.plan.target.platform)}</div></> : "–"}</td>
      <td><Status status={x.trouble ? "failed" : x.status} />{x.attempt > 1 && <div className="small soft">{t.job.attempt} {x.attempt}</div>}</td>
      <td style={{ minWidth: "9rem" }}>
        {job ? <><Bar done={job.percent} total={100} label={name} /><span className="small soft">{Math.floor(job.percent)} %{job.rate > 0 ? `, ${bytes(job.rate)}/s` : ""} {left(job.eta)}</span></>
          : x.restored ? <span className="small">{between(x.started, x.finished ?? x.restored)}{x.evidence?.disks ? `, ${x.evidence.verified ?? 0} / ${x.evidence.disks} ${t.bulk.proven}` : ""}{x.evidence?.proof ? `, ${t.bulk.grade} ${x.evidence.proof}` : ""}</span> : null}
      </td>
      <td className="break small">
        {why && <p style={{ whiteSpace: "pre-line" }}>{multiline(why)}</p>}
        {findings.map((f, i) => <p key={i}><Severity severity={f.severity} /> {visible(f.text)} <span className="soft">{visible(f.advice)}</span></p>)}
      </td>
    </tr>
  );
}

function Whole({ r }: { r: Run }) {
  const s = r.summary;
  return (
    <div className="grid" style={{ marginBottom: "1.1rem" }}>
      <section className="card">
        <h2>{t.bulk.whole}</h2>
        <Facts rows={[
          [t.bulk.machinesLabel, `${s.planned} / ${s.machines} ${t.bulk.planned}`], [t.backup.disks, `${s.disks}, ${bytes(s.bytes)}`], [t.wizard.time, seconds(s.seconds)],
          [t.wizard.cost, Object.entries(s.costs ?? {}).map(([c, v]) => `${v} ${c} ${t.wizard.monthly}`).join(", ") + (s.unpriced && Object.keys(s.costs ?? {}).length ? `; ${s.unpriced} ${t.bulk.unpriced}` : "")],
          [t.wizard.findings, `${s.critical} critical, ${s.warnings} warnings`],
        ]} />
      </section>
      {(s.capacity ?? []).length > 0 && (
        <section className="card">
          <h2>{t.wizard.space}</h2>
          {(s.capacity ?? []).map((c) => (
            <div key={c.target + c.place} style={{ marginBottom: "0.6rem" }}>
              <div className="break">{visible(c.place) || visible(c.target)} <span className="soft small">{visible(c.target)}</span></div>
              {c.free > 0 && <Bar done={c.needs} total={c.free} label={visible(c.place)} kind={c.needs > c.free ? "bad" : ""} />}
              <span className="small soft">{bytes(c.needs)} {c.free > 0 ? `${t.bulk.of} ${bytes(c.free)}` : t.bulk.freeUnknown}</span>
            </div>
          ))}
        </section>
      )}
    </div>
  );
}

/** Save keeps the run's document under a name. */
function Save({ r, close }: { r: Run; close: () => void }) {
  const cache = useQueryClient();
  const [id, setID] = useState(r.runbook ?? "");
  const [error, setError] = useState<unknown>();
  const save = async () => {
    setError(undefined);
    try {
      await take(api.PUT("/api/v1/runbooks/{id}", { params: { path: { id } }, body: { document: JSON.stringify(r.document) } }));
      await cache.invalidateQueries({ queryKey: ["runbooks"] });
      close();
    } catch (e) {
      setError(e);
    }
  };
  return (
    <form onSubmit={(e) => { e.preventDefault(); void save(); }}>
      <label htmlFor="book">{t.bulk.name}</label>
      <input id="book" value={id} required onChange={(e) => setID(e.target.value)} />
      <Trouble error={error} />
      <div className="foot"><button type="button" className="btn" onClick={close}>{t.close}</button><button className="btn main-action">{t.save}</button></div>
    </form>
  );
}

export function BulkRun() {
  const { id } = useParams({ strict: false }) as { id: string };
  const me = useMe();
  const cache = useQueryClient();
  const path = { params: { path: { id } } };
  const q = useQuery({ queryKey: ["run", id], queryFn: () => take(api.GET("/api/v1/runbook-runs/{id}", path)) });
  const [accepted, setAccepted] = useState<string[]>([]);
  const [saving, setSaving] = useState(false);
  const [round, setRound] = useState(0); // a stream that came to its end is opened again
  const r = q.data;
  const connected = useStream(r && busy(r.status) ? `/api/v1/runbook-runs/${id}/stream?after=${round}` : null, (event, data) => {
    if (event === "run") cache.setQueryData<Run>(["run", id], data as Run);
    else if (event === "end") void cache.invalidateQueries({ queryKey: ["run", id] });
  });
  if (q.isPending) return <Loading />;
  if (!r) return <Trouble error={q.error} retry={() => void q.refetch()} />;
  const act = (what: "apply" | "cancel" | "retry") => async () => {
    cache.setQueryData(["run", id], await take(api.POST(`/api/v1/runbook-runs/{id}/${what}` as "/api/v1/runbook-runs/{id}/apply", { ...path, body: { accept: accepted } })));
    setRound(round + 1);
    void cache.invalidateQueries({ queryKey: ["runs"] });
  };
  const operator = may(me, "operator");
  const missing = (r.summary.consent ?? []).filter((c) => !accepted.includes(c));
  const n = r.counts;
  return (
    <>
      <Head title={visible(r.document.name)}>
        {r.status !== "planning" && <a className="btn" href={`/api/v1/runbook-runs/${id}/report`} download={`run-${id}.md`}><Download size={16} aria-hidden />{t.bulk.report}</a>}
        {operator && <button className="btn" onClick={() => setSaving(true)}>{t.bulk.saveAs}</button>}
        {operator && (busy(r.status) || r.status === "planned") && r.status !== "cancelling" && <Ask label={t.cancel} ask={t.bulk.cancelAsk} run={act("cancel")} icon={<Ban size={16} aria-hidden />} />}
        {operator && r.status === "failed" && <Ask label={t.bulk.retry} ask={t.bulk.retryAsk} run={act("retry")} danger={false} icon={<RotateCw size={16} aria-hidden />} />}
      </Head>
      <section className="card">
        <div className="row" style={{ marginBottom: "0.7rem" }}>
          <Status status={r.status} />
          <span>{n.completed} / {n.total} {t.bulk.done.toLowerCase()}</span>
          {n.failed > 0 && <span className="badge bad">{n.failed} {t.bulk.failed}</span>}
          {n.held > 0 && <span className="badge warn">{n.held} {t.bulk.held}</span>}
          {busy(r.status) && <span className={`badge ${connected ? "live" : "warn"}`}>{connected ? t.job.live : t.job.reconnecting}</span>}
          {r.started && <span className="soft">{between(r.started, r.finished)}</span>}
        </div>
        <Bar done={r.status === "planning" ? r.summary.planned : n.completed} total={n.total} label={t.jobs.progress} kind={tone(r.status) === "good" ? "done" : tone(r.status) === "bad" ? "bad" : ""} />
      </section>
      <Whole r={r} />
      {(r.summary.findings ?? []).map((f) => <div className="note bad" key={f.code + f.text}><h2>{visible(f.text)}</h2><p>{visible(f.advice)}</p></div>)}
      {r.status === "planned" && (
        <section className="card">
          {r.summary.stopped ? <div className="note bad" role="alert">{t.bulk.stopped}</div> : (
            <>
              {(r.summary.consent ?? []).map((c) => <Check key={c} label={<>{t.wizard.accept}: <code>{c}</code></>} on={accepted.includes(c)} set={(on) => setAccepted(on ? [...accepted, c] : accepted.filter((a) => a !== c))} />)}
              {operator && <Apply disabled={missing.length > 0} run={act("apply")} />}
            </>
          )}
        </section>
      )}
      {(r.groups ?? []).map((g, i) => (
        <section className="card flush scroll" key={i} tabIndex={0} role="region" aria-label={visible(g.name)}>
          <div className="row" style={{ padding: "1rem 1.2rem 0.4rem" }}><h2 style={{ margin: 0 }}>{i + 1}. {visible(g.name)}</h2><Status status={g.status} />{g.status === "waiting" && <span className="soft">{left(g.until)}</span>}
            <span className="small soft">{t.bulk.conditions[(r.document.groups?.[i]?.until?.is || "restored") as keyof typeof t.bulk.conditions]}{r.document.groups?.[i]?.wait ? `, ${t.bulk.wait}: ${r.document.groups[i].wait}` : ""}</span></div>
          <table>
            <thead><tr><th>{t.jobs.machine}</th><th>{t.jobs.target}</th><th>{t.jobs.status}</th><th>{t.jobs.progress}</th><th>{t.wizard.findings}</th></tr></thead>
            <tbody>{(g.machines ?? []).map((m, j) => <Row key={j} r={r} g={i} m={j} x={m} />)}</tbody>
          </table>
        </section>
      ))}
      <Modal open={saving} close={() => setSaving(false)} title={t.bulk.saveAs}><Save r={r} close={() => setSaving(false)} /></Modal>
    </>
  );
}

function Apply({ disabled, run }: { disabled: boolean; run: () => Promise<void> }) {
  const [pending, setPending] = useState(false);
  const [error, setError] = useState<unknown>();
  const go = () => {
    setPending(true);
    setError(undefined);
    run().catch(setError).finally(() => setPending(false));
  };
  return (
    <>
      <Trouble error={error} />
      <button className="btn main-action" disabled={disabled || pending} onClick={go}><Play size={16} aria-hidden />{t.bulk.start}</button>
    </>
  );
}
