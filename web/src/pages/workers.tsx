import { useQuery } from "@tanstack/react-query";
import { api, take } from "../api/client";
import { time, visible } from "../format";
import { may, useMe } from "../session";
import { t } from "../text";
import { Ask } from "../ui/dialog";
import { Empty, Head, Loading, Trouble } from "../ui/parts";

export function Workers() {
  const me = useMe();
  const list = useQuery({ queryKey: ["workers"], queryFn: () => take(api.GET("/api/v1/workers")), refetchInterval: 5000 });
  const items = list.data?.items ?? [];
  return (
    <>
      <Head title={t.workers.title} />
      <Trouble error={list.error} retry={() => void list.refetch()} />
      {list.isPending ? <Loading /> : !items.length ? <Empty title={t.workers.empty} text={t.workers.emptyText} /> : (
        <div className="card flush scroll" tabIndex={0} role="region" aria-label={t.workers.title}>
          <table>
            <thead><tr><th>{t.workers.worker}</th><th>{t.workers.site}</th><th>{t.workers.state}</th><th>{t.workers.jobs}</th><th>{t.workers.repositories}</th><th>{t.workers.seen}</th><th>{t.workers.action}</th></tr></thead>
            <tbody>{items.map((w) => {
              const state = !w.alive ? "lost" : w.draining ? "draining" : "alive";
              return (
                <tr key={w.id}>
                  <td className="break">{visible(w.id)}<div className="small soft">{visible(w.version)}</div></td>
                  <td className="break">{visible(w.site)}<div className="small soft">{visible((w.regions ?? []).join(", "))}</div></td>
                  <td><span className={`badge ${state === "alive" ? "good" : state === "lost" ? "bad" : ""}`}>{t.workers.states[state]}</span></td>
                  <td>{w.jobs} / {w.capacity}</td>
                  <td className="break">{visible(w.repositories.join(", "))}</td>
                  <td>{time(w.seen)}</td>
                  <td>{state === "alive" && may(me, "admin") && <Ask label={t.workers.drain} ask={t.workers.drainAsk} run={async () => { await take(api.POST("/api/v1/workers/{id}/drain", { params: { path: { id: w.id } } })); await list.refetch(); }} />}</td>
                </tr>
              );
            })}</tbody>
          </table>
        </div>
      )}
    </>
  );
}
