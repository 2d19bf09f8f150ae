import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Plus } from "lucide-react";
import { useState } from "react";
import { api, take } from "../api/client";
import { time, visible } from "../format";
import { may, useMe } from "../session";
import { t } from "../text";
import { Ask, Modal } from "../ui/dialog";
import { Empty, Head, Loading, Text, Trouble } from "../ui/parts";

export function Repositories() {
  const me = useMe();
  const cache = useQueryClient();
  const [open, setOpen] = useState(false);
  const [id, setID] = useState("");
  const [path, setPath] = useState("");
  const [error, setError] = useState<unknown>();
  const list = useQuery({
    queryKey: ["repositories"], queryFn: () => take(api.GET("/api/v1/repositories", { params: { query: { limit: 200 } } })),
    refetchInterval: (q) => (q.state.data?.items.some((r) => r.scan.running) ? 1000 : 15_000),
  });
  const again = () => Promise.all([cache.invalidateQueries({ queryKey: ["repositories"] }), cache.invalidateQueries({ queryKey: ["backups"] })]);
  const save = async () => {
    setError(undefined);
    try {
      await take(api.POST("/api/v1/repositories", { body: { id, path } }));
      await again();
      setOpen(false);
    } catch (e) {
      setError(e);
    }
  };
  const add = may(me, "admin") && <button className="btn main-action" onClick={() => setOpen(true)}><Plus size={16} aria-hidden />{t.repositories.add}</button>;
  return (
    <>
      <Head title={t.repositories.title}>{add}</Head>
      <Trouble error={list.error} retry={() => void list.refetch()} />
      {list.isPending ? <Loading /> : !list.data?.items.length ? <Empty title={t.repositories.empty} text={t.repositories.emptyText}>{add}</Empty> : list.data.items.map((r) => (
        <section className="card" key={r.id}>
          <div className="row">
            <h2 style={{ margin: 0 }} className="break">{visible(r.id)}</h2>
            <span>{r.backups} {t.repositories.backups.toLowerCase()}</span>
            {r.faulty > 0 && <span className="badge bad">{r.faulty} {t.repositories.faulty}</span>}
            {r.scan.running && <span className="badge live">{t.repositories.scanning}</span>}
            <span className="soft small">{time(r.scanned)}</span>
            {may(me, "operator") && (
              <span className="row" style={{ marginLeft: "auto" }}>
                <button className="btn" disabled={r.scan.running} onClick={() => void take(api.POST("/api/v1/repositories/{id}/scan", { params: { path: { id: r.id } } })).then(again, setError)}>{t.repositories.scan}</button>
                {may(me, "admin") && <Ask label={t.remove} ask={t.repositories.removeAsk} run={async () => { await take(api.DELETE("/api/v1/repositories/{id}", { params: { path: { id: r.id } } })); await again(); }} />}
              </span>
            )}
          </div>
          <code className="break">{visible(r.path)}</code>
          {r.error && <p className="break" style={{ color: "var(--bad)" }}>{visible(r.error)}</p>}
        </section>
      ))}
      <Modal open={open} close={() => setOpen(false)} title={t.repositories.add}>
        <form onSubmit={(e) => { e.preventDefault(); void save(); }}>
          <Text label={t.repositories.name} value={id} set={setID} required />
          <Text label={t.repositories.path} value={path} set={setPath} required />
          <Trouble error={error} />
          <div className="foot"><button type="button" className="btn" onClick={() => setOpen(false)}>{t.close}</button><button className="btn main-action" disabled={!id || !path}>{t.add}</button></div>
        </form>
      </Modal>
    </>
  );
}
