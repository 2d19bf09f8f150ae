import { AlertTriangle, CheckCircle2, CircleSlash, Info, XCircle } from "lucide-react";
import { type ReactNode, useId } from "react";
import { ApiError } from "../api/client";
import { t } from "../text";
import { multiline, visible } from "../format";

export function Head({ title, children }: { title: ReactNode; children?: ReactNode }) {
  return (
    <div className="head">
      <h1 className="break">{title}</h1>
      <div className="right">{children}</div>
    </div>
  );
}

export function Empty({ title, text, children }: { title: string; text?: string; children?: ReactNode }) {
  return (
    <div className="card empty">
      <h2>{title}</h2>
      {text && <p>{text}</p>}
      {children}
    </div>
  );
}

/** Trouble shows a failure in full: what happened, what to do, and the code. */
export function Trouble({ error, title, retry }: { error: unknown; title?: string; retry?: () => void }) {
  if (!error) return null;
  const p = error instanceof ApiError ? error.problem : undefined;
  const text = p?.detail ?? (error instanceof Error ? error.message : String(error));
  const places = p?.errors?.map((e) => [e.location, e.message].filter(Boolean).join(": ")) ?? [];
  return (
    <div className="note bad" role="alert">
      {title && <h2>{title}</h2>}
      <dl>
        <dt>{t.what.happened}</dt>
        <dd>{multiline(text)}{places.length > 0 && "\n" + places.map(visible).join("\n")}</dd>
        {p?.hint && (
          <>
            <dt>{t.what.advice}</dt>
            <dd>{visible(p.hint)}</dd>
          </>
        )}
        {p?.code && (
          <>
            <dt>{t.what.code}</dt>
            <dd><code>{p.code}</code></dd>
          </>
        )}
      </dl>
      {retry && <p><button className="btn" onClick={retry}>{t.again}</button></p>}
    </div>
  );
}

export function Field({ label, help, children }: { label: string; help?: string; children: (id: string) => ReactNode }) {
  const id = useId();
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      {children(id)}
      {help && <span className="help">{help}</span>}
    </div>
  );
}

export function Text({ label, value, set, help, type = "text", required, auto }: { label: string; value: string; set: (v: string) => void; help?: string; type?: string; required?: boolean; auto?: string }) {
  return (
    <Field label={label} help={help}>
      {(id) => <input id={id} type={type} value={value} required={required} autoComplete={auto ?? "off"} onChange={(e) => set(e.target.value)} />}
    </Field>
  );
}

export function Pick({ label, value, set, options, none, help }: { label: string; value: string; set: (v: string) => void; options: { value: string; label: string }[]; none?: string; help?: string }) {
  return (
    <Field label={label} help={help}>
      {(id) => (
        <select id={id} value={value} onChange={(e) => set(e.target.value)}>
          {none !== undefined && <option value="">{none}</option>}
          {options.map((o) => <option key={o.value} value={o.value}>{o.label}</option>)}
        </select>
      )}
    </Field>
  );
}

export function Check({ label, on, set }: { label: ReactNode; on: boolean; set: (v: boolean) => void }) {
  return (
    <label className="check">
      <input type="checkbox" checked={on} onChange={(e) => set(e.target.checked)} />
      <span>{label}</span>
    </label>
  );
}

const good = new Set(["completed"]);
const bad = new Set(["failed", "rolled_back"]);
const rest = new Set(["cancelled", "undone", "pending", "planned", "held"]);

/** tone of a job's or step's status. */
export function tone(status: string): "good" | "bad" | "live" | "" {
  return good.has(status) ? "good" : bad.has(status) ? "bad" : rest.has(status) ? "" : "live";
}

export function Status({ status }: { status: string }) {
  return <span className={`badge ${tone(status)}`}>{status.replaceAll("_", " ")}</span>;
}

export function Severity({ severity }: { severity: string }) {
  const [kind, icon] = severity === "critical" ? ["bad", <XCircle key="i" size={14} aria-hidden />] : severity === "warning" ? ["warn", <AlertTriangle key="i" size={14} aria-hidden />] : ["", <Info key="i" size={14} aria-hidden />];
  return <span className={`badge ${kind as string}`}>{icon}{severity}</span>;
}

export function Mark({ ok }: { ok: boolean | undefined }) {
  if (ok === undefined) return <CircleSlash size={17} className="soft" aria-hidden />;
  return ok ? <CheckCircle2 size={17} color="var(--good)" aria-hidden /> : <XCircle size={17} color="var(--bad)" aria-hidden />;
}

export function Facts({ rows }: { rows: [string, ReactNode][] }) {
  return (
    <dl className="facts">
      {rows.filter(([, v]) => v !== undefined && v !== "" && v !== null).map(([k, v]) => [<dt key={k}>{k}</dt>, <dd key={k + "v"}>{v}</dd>])}
    </dl>
  );
}

export function Bar({ done, total, label, kind = "" }: { done: number; total: number; label: string; kind?: string }) {
  return <progress className={kind} value={Math.min(done, Math.max(total, 1))} max={Math.max(total, 1)} aria-label={label} />;
}

export function Loading() {
  return <p className="soft" role="status">{t.loading}</p>;
}
