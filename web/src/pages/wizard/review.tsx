import { lazy, Suspense } from "react";
import { visible } from "../../format";
import { t } from "../../text";
import { Check, Loading, Severity } from "../../ui/parts";
import type { Schemas } from "../../api/client";
import { Cost, Estimate } from "./machine";
import type { Plan } from "./index";

const Flow = lazy(() => import("./flow"));

export function Findings({ list, accepted, setAccepted, need }: { list: Schemas["PlanFinding"][]; accepted?: string[]; setAccepted?: (v: string[]) => void; need?: string[] }) {
  const order = ["critical", "warning", "information"];
  const sorted = [...list].sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity));
  const asked = new Set<string>();
  return (
    <div className="card flush">
      <table>
        <tbody>
          {sorted.map((f, i) => {
            const ask = need?.includes(f.code) && !asked.has(f.code) && setAccepted;
            asked.add(f.code);
            return (
              <tr key={i}>
                <td style={{ width: "1%" }}><Severity severity={f.severity} /></td>
                <td className="break">
                  {visible(f.text)}
                  {f.advice && <div className="small soft">{visible(f.advice)}</div>}
                  {ask && <Check label={`${t.wizard.accept} (${f.code})`} on={accepted!.includes(f.code)} set={(v) => setAccepted(v ? [...accepted!, f.code] : accepted!.filter((c) => c !== f.code))} />}
                </td>
                <td style={{ width: "1%" }}><code className="soft">{f.code}</code></td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

export function Changes({ list }: { list: Schemas["PlanChange"][] }) {
  if (!list.length) return <p className="soft">{t.wizard.noChanges}</p>;
  return (
    <div className="card flush scroll" tabIndex={0} role="region" aria-label={t.wizard.before}>
      <table>
        <thead><tr><th>{t.wizard.field}</th><th>{t.wizard.before}</th><th>{t.wizard.after}</th><th>{t.wizard.reason}</th></tr></thead>
        <tbody>
          {list.map((c, i) => <tr key={i}><td>{visible(c.field)}</td><td className="break">{visible(c.from)}</td><td className="break"><b>{visible(c.to)}</b></td><td className="small soft">{visible(c.reason)}</td></tr>)}
        </tbody>
      </table>
    </div>
  );
}

export function Review({ plan, accepted, setAccepted, keep, setKeep }: { plan: Plan; accepted: string[]; setAccepted: (v: string[]) => void; keep: boolean; setKeep: (v: boolean) => void }) {
  const findings = plan.plan.findings ?? [];
  return (
    <section>
      <div className="head"><h2>{t.wizard.review}</h2><div className="right"><a className="btn" href={`/api/v1/plans/${plan.id}/export`} download={`plan-${plan.id}.yaml`}>{t.wizard.export}</a></div></div>
      {plan.stopped && <div className="note bad" role="alert">{t.wizard.stopped}</div>}
      {!plan.stopped && plan.consent.length > 0 && <div className="note warn">{t.wizard.consent}</div>}
      <h2>{t.wizard.flow}</h2>
      <Suspense fallback={<Loading />}><Flow plan={plan} /></Suspense>
      <h2>{t.wizard.findings}</h2>
      {findings.length ? <Findings list={findings} accepted={accepted} setAccepted={setAccepted} need={plan.consent} /> : <p className="soft">{t.wizard.noFindings}</p>}
      <h2>{t.wizard.before} / {t.wizard.after.toLowerCase()}</h2>
      <Changes list={plan.plan.changes ?? []} />
      <Estimate plan={plan} />
      <Cost plan={plan} />
      <Check label={t.wizard.keep} on={keep} set={setKeep} />
    </section>
  );
}
