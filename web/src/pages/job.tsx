import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import { Ban, Circle, CircleCheck, CircleX, Download, LoaderCircle, RotateCw, Undo2 } from "lucide-react";
import { useEffect, useRef, useState } from "react";
import { api, type Schemas, take } from "../api/client";
import { keep, type Line, useStream } from "../api/live";
import { between, bytes, left, multiline, platform, time, visible } from "../format";
import { may, useMe } from "../session";
import { t } from "../text";
import { Ask } from "../ui/dialog";
import { Bar, Facts, Head, Loading, Status, tone, Trouble } from "../ui/parts";
import { VirtualList } from "../ui/virtual";
import { ReceiptView } from "./receipt";
import { Changes } from "./wizard/review";

type Job = Schemas["JobDetails"];
const atRest = (s: string) => tone(s) !== "live" && s !== "pending";

function StepIcon({ status }: { status: string }) {
  const k = tone(status);
  if (status === "pending") return <Circle size={17} className="soft" aria-hidden />;
  if (k === "good") return <CircleCheck size={17} color="var(--good)" aria-hidden />;
  if (k === "bad") return <CircleX size={17} color="var(--bad)" aria-hidden />;
  return <LoaderCircle size={17} color="var(--accent)" aria-hidden />;
}

function Steps({ steps }: { steps: Schemas["Step"][] }) {
  return (
    <VirtualList className="step-list" items={steps} size={46} row={(s) => (
      <>
        <StepIcon status={s.status} />
        <span>{s.name}{s.attempt > 1 && <span className="small soft"> · {t.job.attempt} {s.attempt}</span>}</span>
        <span className="grow">{s.total > 0 && s.status !== "pending" && <Bar done={s.done} total={s.total} label={s.name} kind={tone(s.status) === "good" ? "done" : tone(s.status) === "bad" ? "bad" : ""} />}</span>
        <span className="small soft">
          {s.total > 0 && s.status !== "pending" ? `${bytes(s.done)} of ${bytes(s.total)}${tone(s.status) === "live" && s.rate ? `, ${bytes(s.rate)}/s` : ""}` : s.status === "pending" ? "" : s.status.replaceAll("_", " ")}
          {s.finished ? `, ${between(s.started, s.finished)}` : ""}
        </span>
        {s.error && <span className="why small">{multiline(s.error)}</span>}
      </>
    )} />
  );
}

function Log({ lines, job }: { lines: Line[]; job: string }) {
  const box = useRef<HTMLDivElement>(null);
  const stick = useRef(true);
  useEffect(() => {
    const b = box.current;
    if (b && stick.current) b.scrollTop = b.scrollHeight;
  }, [lines]);
  return (
    <section className="card flush">
      <div className="head" style={{ padding: "1rem 1.2rem 0", margin: 0 }}><h2>{t.job.log}</h2><div className="right"><a className="small" href={`/api/v1/jobs/${job}/log`} download>{t.job.logAll}</a></div></div>
      <div className="log" ref={box} tabIndex={0} role="log" aria-label={t.job.log} onScroll={(e) => { const b = e.currentTarget; stick.current = b.scrollHeight - b.scrollTop - b.clientHeight < 30; }}>
        {lines.length === 0 && <span className="soft">{t.job.noLog}</span>}
        {lines.map((l) => <div key={l.seq} className={l.level}><span className="soft">{new Date(l.time).toLocaleTimeString()}</span> {l.step ? `${l.step}: ` : ""}{multiline(l.text)}</div>)}
      </div>
    </section>
  );
}

/** What is kept of the boot proof: the screen as it was last, and files beside it. */
function BootProof({ job, status }: { job: string; status: string }) {
  const q = useQuery({ queryKey: ["evidence", job, status], queryFn: () => take(api.GET("/api/v1/jobs/{id}/evidence", { params: { path: { id: job } } })) });
  const list = q.data?.items ?? [];
  const at = (name: string) => `/api/v1/jobs/${job}/evidence/${encodeURIComponent(name)}`;
  const screen = list.find((e) => e.type === "image/png");
  if (list.length === 0) return null;
  return (
    <section className="card">
      <h2>{t.job.bootProof}</h2>
      <p className="soft small">{t.job.bootProofText}</p>
      {screen && <a href={at(screen.name)} target="_blank" rel="noreferrer"><img className="screen" src={at(screen.name)} alt={t.job.screen} loading="lazy" /></a>}
      <p className="row">{list.filter((e) => e !== screen).map((e) => <a key={e.name} className="btn" href={at(e.name)} download={`${job}-${e.name}`}><Download size={16} aria-hidden />{visible(e.name)}</a>)}</p>
    </section>
  );
}

export function Job() {
  const { id } = useParams({ strict: false }) as { id: string };
  const me = useMe();
  const cache = useQueryClient();
  const path = { params: { path: { id } } };
  const job = useQuery({ queryKey: ["job", id], queryFn: () => take(api.GET("/api/v1/jobs/{id}", path)) });
  const [lines, setLines] = useState<Line[]>([]);
  const [round, setRound] = useState(0); // the line that the stream goes on from
  const connected = useStream(`/api/v1/jobs/${id}/stream?after=${round}`, (event, data) => {
    if (event === "log") setLines((l) => keep(l, data as Line));
    else if (event === "job") cache.setQueryData<Job>(["job", id], (old) => ({ ...old, ...(data as Job) }));
    else void cache.invalidateQueries({ queryKey: ["job", id] });
  });
  const j = job.data;
  const rest = j ? atRest(j.status) : false;
  const resources = useQuery({ queryKey: ["resources", id, j?.status], queryFn: () => take(api.GET("/api/v1/jobs/{id}/resources", path)), enabled: !!j });
  const plan = useQuery({ queryKey: ["jobplan", id], queryFn: () => take(api.GET("/api/v1/jobs/{id}/plan", path)), enabled: !!j, staleTime: Infinity });
  if (job.isPending) return <Loading />;
  if (!j) return <Trouble error={job.error} retry={() => void job.refetch()} />;

  const act = (what: "cancel" | "retry" | "undo") => async () => {
    await take(api.POST(`/api/v1/jobs/{id}/${what}` as "/api/v1/jobs/{id}/retry", path));
    setRound(lines[lines.length - 1]?.seq ?? round); // a stream that came to its end is opened again
    await cache.invalidateQueries({ queryKey: ["job", id] });
  };
  const operator = may(me, "operator");
  const made = (resources.data?.items ?? []).filter((r) => !r.gone);
  return (
    <>
      <Head title={visible(j.name)}>
        {operator && !rest && <Ask label={t.job.cancel} ask={t.job.cancelAsk} run={act("cancel")} icon={<Ban size={16} aria-hidden />} />}
        {operator && j.status === "failed" && <Ask label={t.job.retry} ask={`${t.job.retry}?`} run={act("retry")} danger={false} icon={<RotateCw size={16} aria-hidden />} />}
        {operator && (j.status === "failed" || j.status === "completed") && <Ask label={t.job.undo} ask={t.job.undoAsk} run={act("undo")} icon={<Undo2 size={16} aria-hidden />} />}
      </Head>
      {!rest && !connected && job.isFetched && <div className="note warn" role="status">{t.offline}</div>}
      {j.status === "completed" && (
        <div className="note good" role="status">
          <h2>{t.job.doneTitle}</h2>
          <p>{t.job.took} {between(j.started ?? j.created, j.finished)}. {j.vm?.url && /^https?:/.test(j.vm.url) && <a href={j.vm.url} rel="noreferrer" target="_blank">{t.job.open}</a>}</p>
          {j.vm?.url && !/^https?:/.test(j.vm.url) && <p className="mono break">{visible(j.vm.url)}</p>}
        </div>
      )}
      {(j.status === "failed" || j.status === "rolled_back") && (
        <div className="note bad" role="alert">
          <h2>{t.job.failedTitle}</h2>
          <dl>
            <dt>{t.what.happened}</dt><dd>{multiline(j.error)}</dd>
            {j.hint && <><dt>{t.what.advice}</dt><dd>{visible(j.hint)}</dd></>}
            <dt /><dd>{j.status === "rolled_back" ? t.job.rolledBack : t.job.kept}</dd>
          </dl>
        </div>
      )}
      <section className="card">
        <div className="row" style={{ marginBottom: "0.7rem" }}>
          <Status status={j.status} />
          {!rest && <span>{j.percent.toFixed(1)} %</span>}
          {!rest && j.rate > 0 && <span className="soft">{bytes(j.rate)}/s</span>}
          {!rest && <span className="soft">{left(j.eta)}</span>}
          {!rest && <span className={`badge ${connected ? "live" : "warn"}`}>{connected ? t.job.live : t.job.reconnecting}</span>}
        </div>
        <Bar done={j.status === "completed" ? 100 : j.percent} total={100} label={t.jobs.progress} kind={tone(j.status) === "good" ? "done" : tone(j.status) === "bad" ? "bad" : ""} />
        <div style={{ marginTop: "0.9rem" }}>
          <Facts rows={[["From", `${visible(j.backup.vm)}, ${time(j.backup.created)}`], [t.jobs.target, `${visible(j.target.name)} (${platform(j.target.platform)})`], [t.jobs.when, time(j.created)], ["Job", <code key="i">{j.id}</code>]]} />
        </div>
      </section>
      <section className="card flush"><h2>{t.job.steps}</h2><Steps steps={j.steps ?? []} /></section>
      <BootProof job={id} status={j.status} />
      {j.status === "completed" && <ReceiptView job={id} />}
      <Log lines={lines} job={id} />
      {made.length > 0 && (
        <section className="card flush scroll"><h2>{t.job.resources}</h2>
          <table><tbody>{made.map((r, i) => <tr key={i}><td>{r.kind}</td><td className="break">{visible(r.name)}</td><td className="break"><code>{visible(r.id)}</code></td></tr>)}</tbody></table>
        </section>
      )}
      {plan.data && <section><h2>{t.job.plan}</h2><Changes list={plan.data.changes ?? []} /><a className="btn" href={`/api/v1/jobs/${id}/plan`} download><Download size={16} aria-hidden />JSON</a></section>}
    </>
  );
}
