import { useInfiniteQuery } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { Check } from "lucide-react";
import { useState } from "react";
import { api, type Schemas, take } from "../api/client";
import type { paths } from "../api/schema";
import { bytes, platform, time, visible } from "../format";
import { t } from "../text";
import { Empty, Head, Loading, Pick, Text, Trouble } from "../ui/parts";
import { VirtualTable } from "../ui/virtual";

type Origin = NonNullable<paths["/api/v1/backups"]["get"]["parameters"]["query"]>["origin"];

const origins = ["vmware", "cloudstack", "hyperv", "aws", "azure", "nutanix"];

/** useBackups pages through the backups that match. */
export function useBackups(q: string, origin: string) {
  return useInfiniteQuery({
    queryKey: ["backups", q, origin],
    queryFn: ({ pageParam }) => take(api.GET("/api/v1/backups", { params: { query: { limit: 100, q: q || undefined, origin: (origin || undefined) as Origin, cursor: pageParam || undefined } } })),
    initialPageParam: "", getNextPageParam: (p) => p.next || undefined, staleTime: 10_000,
  });
}

/** BackupList draws only the rows in sight, and asks for more at the end. */
export function BackupList({ q, origin, pick, picked }: { q: string; origin: string; pick: (b: Schemas["BackupRow"]) => void; picked?: string | ReadonlySet<string> }) {
  const list = useBackups(q, origin);
  const items = list.data?.pages.flatMap((p) => p.items) ?? [];
  if (list.isPending) return <Loading />;
  if (list.error) return <Trouble error={list.error} retry={() => void list.refetch()} />;
  if (!items.length) return q || origin ? <Empty title={t.backups.noMatch} /> : <Empty title={t.backups.empty} text={t.backups.emptyText}><Link className="btn main-action" to="/repositories">{t.backups.addRepository}</Link></Empty>;
  const isPicked = (id: string) => (typeof picked === "string" ? picked === id : !!picked?.has(id));
  return (
    <VirtualTable items={items} label={t.backups.title} columns={5} size={62} end={() => { if (list.hasNextPage && !list.isFetchingNextPage) void list.fetchNextPage(); }}
      head={<tr><th>{t.backups.vm}</th><th>{t.backups.when}</th><th>{t.backups.from}</th><th className="num">{t.backups.size}</th><th>{t.backups.state}</th></tr>}
      row={(b) => (
        <tr key={b.id} className="link" aria-selected={isPicked(b.id)} style={isPicked(b.id) ? { background: "var(--accent-soft)" } : undefined} onClick={() => pick(b)}>
          <td className="name"><button type="button" className="btn plain break" aria-pressed={picked ? isPicked(b.id) : undefined} style={{ padding: 0, textAlign: "left" }} onClick={(e) => { e.stopPropagation(); pick(b); }}>{isPicked(b.id) && <Check size={16} aria-hidden />}{visible(b.vm)}</button><div className="small soft">{b.type}, {b.disks} {b.disks === 1 ? "disk" : "disks"}</div></td>
          <td>{time(b.created)}</td>
          <td>{platform(b.origin)}</td>
          <td className="num">{bytes(b.size)}</td>
          <td>{b.fault ? <span className="badge bad" title={visible(b.fault)}>broken</span> : <span className="badge good">{t.backups.good}</span>}</td>
        </tr>
      )} />
  );
}

export function BackupFilter({ q, setQ, origin, setOrigin }: { q: string; setQ: (v: string) => void; origin: string; setOrigin: (v: string) => void }) {
  return (
    <div className="cols">
      <Text label={t.search} value={q} set={setQ} />
      <Pick label={t.backups.filter} value={origin} set={setOrigin} none={t.backups.all} options={origins.map((o) => ({ value: o, label: platform(o) }))} />
    </div>
  );
}

export function Backups() {
  const [q, setQ] = useState("");
  const [origin, setOrigin] = useState("");
  const go = useNavigate();
  return (
    <>
      <Head title={t.backups.title} />
      <BackupFilter {...{ q, setQ, origin, setOrigin }} />
      <BackupList q={q} origin={origin} pick={(b) => void go({ to: "/backups/$id", params: { id: b.id } })} />
    </>
  );
}
