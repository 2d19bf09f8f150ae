import { useInfiniteQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { api, type Schemas, take } from "../api/client";
import { left, platform, time, visible } from "../format";
import { t } from "../text";
import { Bar, Check, Empty, Head, Loading, Status, Text, tone, Trouble } from "../ui/parts";
import { VirtualTable } from "../ui/virtual";

const head = <tr><th>{t.jobs.machine}</th><th>{t.jobs.target}</th><th>{t.jobs.status}</th><th>{t.jobs.progress}</th><th>{t.jobs.when}</th></tr>;

function row(j: Schemas["Job"]) {
  return (
    <tr key={j.id}>
      <td className="name"><Link to="/jobs/$id" params={{ id: j.id }}>{visible(j.name) || j.id}</Link></td>
      <td>{visible(j.target.name)}<div className="small soft">{platform(j.target.platform)}</div></td>
      <td><Status status={j.status} /></td>
      <td style={{ minWidth: "9rem" }}>
        <Bar done={j.status === "completed" ? 100 : j.percent} total={100} label={`${visible(j.name)}: ${Math.floor(j.percent)} %`} kind={tone(j.status) === "good" ? "done" : tone(j.status) === "bad" ? "bad" : ""} />
        <span className="small soft">{tone(j.status) === "live" ? `${Math.floor(j.percent)} % ${left(j.eta)}` : ""}</span>
      </td>
      <td>{time(j.created)}</td>
    </tr>
  );
}

/** JobTable shows a few jobs. */
export function JobTable({ jobs }: { jobs: Schemas["Job"][] }) {
  return <div className="scroll"><table><thead>{head}</thead><tbody>{jobs.map(row)}</tbody></table></div>;
}

export function Jobs() {
  const [q, setQ] = useState("");
  const [active, setActive] = useState(false);
  const jobs = useInfiniteQuery({
    queryKey: ["jobs", "all", q, active],
    queryFn: ({ pageParam }) => take(api.GET("/api/v1/jobs", { params: { query: { limit: 100, q: q || undefined, active: active || undefined, cursor: pageParam || undefined } } })),
    initialPageParam: "", getNextPageParam: (p) => p.next || undefined, refetchInterval: 5000,
  });
  const items = jobs.data?.pages.flatMap((p) => p.items) ?? [];
  return (
    <>
      <Head title={t.jobs.title} />
      <div className="cols"><Text label={t.search} value={q} set={setQ} /><div style={{ alignSelf: "end" }}><Check label={t.jobs.active} on={active} set={setActive} /></div></div>
      <Trouble error={jobs.error} retry={() => void jobs.refetch()} />
      {jobs.isPending ? <Loading /> : items.length ? <VirtualTable items={items} label={t.jobs.title} head={head} columns={5} size={64} row={row} end={() => { if (jobs.hasNextPage && !jobs.isFetchingNextPage) void jobs.fetchNextPage(); }} /> : <Empty title={t.jobs.empty} text={t.jobs.emptyText} />}
    </>
  );
}
