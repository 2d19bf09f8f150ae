import { useInfiniteQuery } from "@tanstack/react-query";
import { api, take } from "../api/client";
import { time, visible } from "../format";
import { t } from "../text";
import { Empty, Head, Loading, Trouble } from "../ui/parts";

export function Audit() {
  const list = useInfiniteQuery({
    queryKey: ["audit"], queryFn: ({ pageParam }) => take(api.GET("/api/v1/audit", { params: { query: { limit: 100, cursor: pageParam || undefined } } })),
    initialPageParam: "", getNextPageParam: (p) => p.next || undefined,
  });
  const items = list.data?.pages.flatMap((p) => p.items) ?? [];
  return (
    <>
      <Head title={t.audit.title} />
      <Trouble error={list.error} retry={() => void list.refetch()} />
      {list.isPending ? <Loading /> : !items.length ? <Empty title={t.audit.empty} /> : (
        <div className="card flush scroll" tabIndex={0} role="region" aria-label={t.audit.title}>
          <table>
            <thead><tr><th>{t.audit.when}</th><th>{t.audit.who}</th><th>{t.audit.did}</th><th>{t.audit.to}</th></tr></thead>
            <tbody>{items.map((e, i) => { const x = e as Record<string, unknown>; const s = (k: string) => visible(x[k] === undefined ? "" : String(x[k])); return <tr key={s("seq") || i}><td>{time(s("time"))}</td><td className="break">{s("actor")}<div className="small soft">{s("address")}</div></td><td><code>{s("action")}</code>{s("outcome") && <div className="small soft">{s("outcome")}</div>}</td><td className="break">{s("object")}</td></tr>; })}</tbody>
          </table>
        </div>
      )}
      {list.hasNextPage && <button className="btn" onClick={() => void list.fetchNextPage()}>{t.more}</button>}
    </>
  );
}
