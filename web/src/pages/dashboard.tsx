import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { lazy, Suspense } from "react";
import { api, type Schemas, take } from "../api/client";
import { useStream } from "../api/live";
import { bytes, platform } from "../format";
import { may, useMe } from "../session";
import { t } from "../text";
import { Bar, Empty, Head, Loading, Trouble } from "../ui/parts";
import { JobTable } from "./jobs";

const Throughput = lazy(() => import("../ui/chart"));

const sum = (m: Record<string, number>, ...keys: string[]) => keys.reduce((n, k) => n + (m[k] ?? 0), 0);

export function Dashboard() {
  const me = useMe();
  const cache = useQueryClient();
  const summary = useQuery({ queryKey: ["summary"], queryFn: () => take(api.GET("/api/v1/summary")), refetchInterval: 10_000 });
  const jobs = useQuery({ queryKey: ["jobs", "recent"], queryFn: () => take(api.GET("/api/v1/jobs", { params: { query: { limit: 10 } } })), refetchInterval: 30_000 });
  useStream("/api/v1/events", (event, data) => {
    if (event === "job") {
      const j = data as Schemas["Job"];
      cache.setQueryData<Schemas["PageJob"]>(["jobs", "recent"], (old) => {
        if (!old) return old;
        const known = old.items.some((o) => o.id === j.id);
        return { ...old, items: known ? old.items.map((o) => (o.id === j.id ? { ...o, ...j } : o)) : [j, ...old.items].slice(0, 10) };
      });
    }
    if (event === "end") void cache.invalidateQueries({ queryKey: ["summary"] });
  });
  const s = summary.data;
  const total = s ? Object.values(s.backups).reduce((a, b) => a + b, 0) : 0;
  const start = may(me, "operator") && <Link to="/restore" className="btn main-action">{t.dashboard.start}</Link>;
  return (
    <>
      <Head title={t.dashboard.title}>{start}</Head>
      <Trouble error={summary.error ?? jobs.error} retry={() => void summary.refetch()} />
      {!s ? <Loading /> : (
        <div className="stats">
          <div className="stat"><span className="soft">{t.dashboard.running}</span><b>{s.running}</b></div>
          <div className={`stat ${sum(s.jobs, "failed", "rolled_back") ? "bad" : ""}`}><span className="soft">{t.dashboard.failed}</span><b>{sum(s.jobs, "failed", "rolled_back")}</b></div>
          <div className="stat"><span className="soft">{t.dashboard.completed}</span><b>{sum(s.jobs, "completed")}</b></div>
          <div className="stat"><span className="soft">{t.dashboard.rate}</span><b>{bytes(s.rate)}/s</b></div>
          <div className="stat"><span className="soft">{t.dashboard.backups}</span><b>{total}</b></div>
          <div className="stat"><span className="soft">{t.dashboard.targets}</span><b>{s.targets}</b></div>
        </div>
      )}
      {s && s.rates.length > 1 && (
        <section className="card flush"><h2>{t.dashboard.throughput}</h2><Suspense fallback={<Loading />}><Throughput rates={s.rates} label={t.dashboard.throughput} /></Suspense></section>
      )}
      {s && total > 0 && (
        <section className="card">
          <h2>{t.dashboard.byPlatform}</h2>
          {Object.entries(s.backups).sort((a, b) => b[1] - a[1]).map(([p, n]) => (
            <div key={p} style={{ display: "grid", gridTemplateColumns: "minmax(8rem, 12rem) 1fr 3rem", gap: "0.8rem", alignItems: "center" }}>
              <span>{platform(p)}</span><Bar done={n} total={total} label={platform(p)} /><span>{n}</span>
            </div>
          ))}
        </section>
      )}
      {jobs.data && (jobs.data.items.length ? (
        <section className="card flush"><h2>{t.dashboard.recent}</h2><JobTable jobs={jobs.data.items} /></section>
      ) : <Empty title={t.dashboard.empty} text={t.dashboard.emptyText}>{start}</Empty>)}
    </>
  );
}
