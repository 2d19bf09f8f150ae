import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { api, type Schemas, take } from "../api/client";
import { visible } from "../format";
import { t } from "../text";
import { Ask, Modal } from "../ui/dialog";
import { Empty, Head, Loading, Pick, Text, Trouble } from "../ui/parts";

const mib = 1 << 20;

function Channels() {
  const cache = useQueryClient();
  const list = useQuery({ queryKey: ["channels"], queryFn: () => take(api.GET("/api/v1/channels", { params: { query: { limit: 200 } } })) });
  const [open, setOpen] = useState(false);
  const [id, setID] = useState("");
  const [kind, setKind] = useState<Schemas["ChannelIn"]["kind"]>("webhook");
  const [url, setURL] = useState("");
  const [key, setKey] = useState("");
  const [error, setError] = useState<unknown>();
  const [told, setTold] = useState("");
  const again = () => cache.invalidateQueries({ queryKey: ["channels"] });
  const save = async () => {
    setError(undefined);
    try {
      await take(api.PUT("/api/v1/channels/{id}", { params: { path: { id } }, body: { kind, url, key: key || undefined, events: ["completed", "failed"] } }));
      await again();
      setOpen(false);
    } catch (e) {
      setError(e);
    }
  };
  return (
    <section>
      <div className="head"><h2>{t.settings.notify}</h2><div className="right"><button className="btn" onClick={() => setOpen(true)}>{t.add}</button></div></div>
      <Trouble error={list.error ?? (open ? undefined : error)} />
      {told && <div className="note good" role="status">{told}</div>}
      {!list.data?.items.length ? <Empty title={t.settings.emptyChannels} text={t.settings.emptyChannelsText} /> : list.data.items.map((c) => (
        <div className="card row" key={c.id}>
          <b className="break">{visible(c.id)}</b><span className="badge">{c.kind}</span><span className="soft">{(c.events ?? []).join(", ")}</span>
          <span className="row" style={{ marginLeft: "auto" }}>
            <button className="btn" onClick={() => { setTold(""); void take(api.POST("/api/v1/channels/{id}/test", { params: { path: { id: c.id } } })).then(() => setTold(t.settings.sent), setError); }}>{t.settings.test}</button>
            <Ask label={t.remove} ask={`${t.remove}?`} run={async () => { await take(api.DELETE("/api/v1/channels/{id}", { params: { path: { id: c.id } } })); await again(); }} />
          </span>
        </div>
      ))}
      <Modal open={open} close={() => setOpen(false)} title={t.settings.channel}>
        <form onSubmit={(e) => { e.preventDefault(); void save(); }}>
          <Text label={t.targets.name} value={id} set={setID} required />
          <Pick label={t.settings.kind} value={kind} set={(v) => setKind(v as typeof kind)} options={[{ value: "webhook", label: "webhook" }, { value: "chat", label: "chat (Slack-compatible)" }]} />
          <Text label={t.settings.url2} value={url} set={setURL} type="password" required />
          {kind === "webhook" && <Text label={t.settings.key} value={key} set={setKey} type="password" />}
          <Trouble error={error} />
          <div className="foot"><button type="button" className="btn" onClick={() => setOpen(false)}>{t.close}</button><button className="btn main-action">{t.save}</button></div>
        </form>
      </Modal>
    </section>
  );
}

export function Settings() {
  const cache = useQueryClient();
  const q = useQuery({ queryKey: ["settings"], queryFn: () => take(api.GET("/api/v1/settings")) });
  const [jobs, setJobs] = useState("0");
  const [disks, setDisks] = useState("0");
  const [rate, setRate] = useState("0");
  const [url, setURL] = useState("");
  const [keep, setKeep] = useState({ job_days: "0", keep_jobs: "0", event_days: "0", audit_days: "0" });
  const [error, setError] = useState<unknown>();
  const [saved, setSaved] = useState(false);
  useEffect(() => {
    if (!q.data) return;
    setJobs(String(q.data.limits?.jobs ?? 0));
    setDisks(String(q.data.limits?.disks ?? 0));
    setRate(String((q.data.limits?.bandwidth ?? 0) / mib));
    setURL(q.data.public_url ?? "");
    const r = q.data.retention;
    setKeep({ job_days: String(r?.job_days ?? 0), keep_jobs: String(r?.keep_jobs ?? 0), event_days: String(r?.event_days ?? 0), audit_days: String(r?.audit_days ?? 0) });
  }, [q.data]);
  const save = async () => {
    setError(undefined);
    setSaved(false);
    try {
      await take(api.PATCH("/api/v1/settings", { body: { limits: { ...q.data?.limits, jobs: Number(jobs) || 0, disks: Number(disks) || 0, bandwidth: Math.round((Number(rate) || 0) * mib) }, public_url: url || undefined, retention: Object.fromEntries(Object.entries(keep).map(([k, v]) => [k, Math.max(0, Math.floor(Number(v) || 0))])) } }));
      await cache.invalidateQueries({ queryKey: ["settings"] });
      setSaved(true);
    } catch (e) {
      setError(e);
    }
  };
  return (
    <>
      <Head title={t.settings.title} />
      <Trouble error={q.error} retry={() => void q.refetch()} />
      {q.isPending ? <Loading /> : (
        <form className="card" onSubmit={(e) => { e.preventDefault(); void save(); }}>
          <h2>{t.settings.limits}</h2>
          <div className="cols">
            <Text label={t.settings.jobs} value={jobs} set={setJobs} type="number" />
            <Text label={t.settings.disks} value={disks} set={setDisks} type="number" />
            <Text label={t.settings.bandwidth} value={rate} set={setRate} type="number" />
            <Text label={t.settings.url} value={url} set={setURL} type="url" />
          </div>
          <h2>{t.settings.retention}</h2>
          <p className="soft small">{t.settings.retentionText}</p>
          <div className="cols">
            {(["job_days", "keep_jobs", "event_days", "audit_days"] as const).map((k) => <Text key={k} label={t.settings[k]} value={keep[k]} set={(v) => setKeep({ ...keep, [k]: v })} type="number" />)}
          </div>
          <Trouble error={error} />
          <div className="row"><button className="btn main-action">{t.save}</button>{saved && <span role="status">{t.settings.saved}</span>}</div>
        </form>
      )}
      <Channels />
    </>
  );
}
