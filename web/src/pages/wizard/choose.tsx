import { Radio, RadioGroup } from "@headlessui/react";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { useState } from "react";
import { api, type Schemas, take } from "../../api/client";
import { platform, visible } from "../../format";
import { t } from "../../text";
import { Empty, Loading, Mark, Severity, Trouble } from "../../ui/parts";
import { Modal } from "../../ui/dialog";
import { BackupFilter, BackupList } from "../backups";

export function ChooseBackup({ picked, pick, imported }: { picked: string; pick: (b: Schemas["BackupRow"]) => void; imported: (p: Schemas["Plan"]) => void }) {
  const [q, setQ] = useState("");
  const [origin, setOrigin] = useState("");
  const [open, setOpen] = useState(false);
  const [text, setText] = useState("");
  const [error, setError] = useState<unknown>();
  const send = async () => {
    setError(undefined);
    try {
      imported(await take(api.POST("/api/v1/plans/import", { body: { document: text } })));
    } catch (e) {
      setError(e);
    }
  };
  return (
    <section>
      <div className="head"><h2>{t.wizard.backup}</h2><div className="right"><button className="btn" onClick={() => setOpen(true)}>{t.wizard.import}</button></div></div>
      <BackupFilter {...{ q, setQ, origin, setOrigin }} />
      <BackupList q={q} origin={origin} pick={pick} picked={picked} />
      <Modal open={open} close={() => setOpen(false)} title={t.wizard.import}>
        <p className="soft">{t.wizard.importText}</p>
        <textarea aria-label={t.wizard.import} value={text} onChange={(e) => setText(e.target.value)} />
        <Trouble error={error} />
        <div className="foot">
          <button className="btn" onClick={() => setOpen(false)}>{t.close}</button>
          <button className="btn main-action" disabled={!text} onClick={() => void send()}>{t.wizard.import}</button>
        </div>
      </Modal>
    </section>
  );
}

/** ChooseTarget shows each target with what stands in the way of this backup. */
export function ChooseTarget({ backup, picked, pick }: { backup: string; picked: string; pick: (id: string) => void }) {
  const list = useQuery({ queryKey: ["possible", backup], queryFn: () => take(api.GET("/api/v1/backups/{id}/targets", { params: { path: { id: backup } } })), staleTime: 3_000 });
  if (list.isPending) return <Loading />;
  if (list.error) return <Trouble error={list.error} retry={() => void list.refetch()} />;
  if (!list.data.items.length) return <Empty title={t.wizard.noTargets} text={t.wizard.noTargetsText}><Link className="btn main-action" to="/targets">{t.wizard.addTarget}</Link></Empty>;
  return (
    <section>
      <h2 id="where">{t.wizard.target}</h2>
      <RadioGroup value={picked} onChange={pick} aria-labelledby="where">
        {list.data.items.map((p) => {
          const stops = p.findings.filter((f) => f.severity === "critical");
          const warns = p.findings.filter((f) => f.severity === "warning");
          return (
            <Radio key={p.target.name} value={p.target.name} className="choice">
              <div className="row">
                <Mark ok={!p.error && stops.length === 0} />
                <b>{visible(p.target.name)}</b>
                <span className="soft">{platform(p.target.platform)}</span>
                {p.error ? <span className="badge bad">not reached</span> : stops.length ? <span className="badge warn">{stops.length} to settle</span> : <span className="badge good">{t.backup.possible}</span>}
                {warns.length > 0 && <span className="badge warn">{warns.length} warnings</span>}
              </div>
              {p.error && <p className="small">{visible(p.error)}</p>}
              {stops.length > 0 && (
                <ul className="small">
                  {stops.map((f) => <li key={f.code + f.text}><Severity severity={f.severity} /> {visible(f.text)} <span className="soft">{visible(f.advice)}</span></li>)}
                </ul>
              )}
            </Radio>
          );
        })}
      </RadioGroup>
    </section>
  );
}
