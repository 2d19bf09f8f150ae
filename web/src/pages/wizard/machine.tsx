import { Radio, RadioGroup } from "@headlessui/react";
import { useQuery } from "@tanstack/react-query";
import { api, take } from "../../api/client";
import { bytes, seconds, visible } from "../../format";
import { t } from "../../text";
import { Facts, Text } from "../../ui/parts";
import { Findings } from "./review";
import type { Plan, Wish } from "./index";

const gib = 1024 ** 3;

export function Cost({ plan }: { plan: Plan }) {
  const c = plan.plan.estimate.cost;
  if (!c) return null;
  return (
    <div className="card flush">
      <h2>{t.wizard.cost}{c.region ? `, ${c.region}` : ""}</h2>
      <table>
        <tbody>
          {(c.monthly ?? []).map((l) => <tr key={"m" + l.what}><td>{l.what}</td><td className="num">{l.amount} {c.currency} {t.wizard.monthly}</td></tr>)}
          {(c.once ?? []).map((l) => <tr key={"o" + l.what}><td>{l.what}</td><td className="num">{l.amount} {c.currency}</td></tr>)}
          {c.total && <tr><td><b>Together</b></td><td className="num"><b>{c.total} {c.currency} {t.wizard.monthly}</b></td></tr>}
        </tbody>
      </table>
      {(c.left_out ?? []).length > 0 && <p className="small soft" style={{ padding: "0 1.2rem" }}>Left out: {(c.left_out ?? []).join("; ")}. Prices of {c.date || "an unknown date"}.</p>}
    </div>
  );
}

export function Size({ plan, wish, change }: { plan: Plan; wish: Wish; change: (w: Partial<Wish>) => void }) {
  const size = plan.plan.size;
  const m = plan.plan.machine;
  const memory = wish.memory ?? m.memory ?? 0;
  const cpus = wish.cpu?.sockets && wish.cpu.cores_per_socket ? wish.cpu.sockets * wish.cpu.cores_per_socket : (m.cpu.sockets ?? 1) * (m.cpu.cores_per_socket ?? 1);
  const name = size?.field ? wish.mapping?.fields?.[size.field] ?? size.name ?? "" : "";
  const choose = (v: string) => size?.field && change({ mapping: { ...wish.mapping, fields: { ...wish.mapping?.fields, [size.field]: v } } });
  return (
    <section>
      <h2>{t.wizard.size}</h2>
      <div className="card">
        <div className="cols">
          <Text label={t.wizard.cpus} type="number" value={String(cpus)} set={(v) => change({ cpu: { sockets: 1, cores_per_socket: Math.max(1, Number(v) || 1) } })} />
          <Text label={t.wizard.memory} type="number" value={String(memory / gib)} set={(v) => change({ memory: Math.round(Math.max(0.125, Number(v) || 1) * gib) })} />
        </div>
      </div>
      {size && (size.alternatives ?? []).length > 0 && (
        <>
          <h2 id="sizes">{t.wizard.alternatives}</h2>
          <RadioGroup value={name} onChange={choose} aria-labelledby="sizes">
            {(size.alternatives ?? []).map((a) => (
              <Radio key={a.name} value={a.name} className="choice">
                <div className="row">
                  <b>{a.name}</b><span className="soft">{a.cpus} × CPU, {bytes(a.memory)}</span>
                  {a.hourly && <span>{a.hourly} {size.currency} {t.wizard.hourly}</span>}
                  {a.name === size.name && <span className="badge live">{t.wizard.chosen}</span>}
                  {a.note && <span className="small soft">{visible(a.note)}</span>}
                </div>
              </Radio>
            ))}
          </RadioGroup>
        </>
      )}
      <Cost plan={plan} />
      <Estimate plan={plan} />
    </section>
  );
}

export function Estimate({ plan }: { plan: Plan }) {
  const e = plan.plan.estimate;
  return (
    <div className="card">
      <h2>{t.wizard.time}, {t.wizard.space.toLowerCase()}</h2>
      <Facts rows={[
        [t.wizard.time, e.seconds ? `${seconds(e.seconds)} at ${bytes(e.rate)}/s (${e.rate_from ?? ""})` : undefined],
        [t.wizard.space, `${bytes(e.allocated)} of data in ${bytes(e.virtual)}; ${bytes(e.sent || e.allocated)} ${t.wizard.sent}`],
        [t.wizard.staging, bytes(e.staging ?? 0)],
      ]} />
    </div>
  );
}

/** Guest shows what the plan knows of the system on the disks. */
export function Guest({ plan }: { plan: Plan; wish: Wish; change: (w: Partial<Wish>) => void }) {
  const rules = useQuery({ queryKey: ["rules"], queryFn: () => take(api.GET("/api/v1/rules")), staleTime: Infinity });
  const about = new Set((rules.data?.items ?? []).filter((r) => (r.facts ?? []).some((f) => f.startsWith("guest"))).map((r) => r.code));
  const findings = (plan.plan.findings ?? []).filter((f) => about.has(f.code));
  const g = plan.plan.machine.guest;
  const from = plan.plan.source;
  const to = plan.plan.machine;
  return (
    <section>
      <h2>{t.wizard.guest}</h2>
      <div className="card">
        <Facts rows={[
          ["System", [g.family, g.distribution, g.version, g.arch].filter(Boolean).join(" ") || "not known"],
          ["Firmware", `${from.firmware || "?"} → ${to.firmware || "?"}`],
          ["Disk controllers", `${[...new Set((from.disks ?? []).map((d) => d.controller || "?"))].join(", ")} → ${[...new Set((to.disks ?? []).map((d) => d.controller || "?"))].join(", ")}`],
          ["Network adapters", `${[...new Set((from.nics ?? []).map((n) => n.model || "?"))].join(", ") || t.none} → ${[...new Set((to.nics ?? []).map((n) => n.model || "?"))].join(", ") || t.none}`],
          ["Interfaces in the guest", (plan.plan.guest_names ?? []).join(", ") || undefined],
        ]} />
      </div>
      <h2>{t.wizard.guestFindings}</h2>
      {findings.length ? <Findings list={findings} /> : <p className="soft">{t.wizard.guestNone}</p>}
    </section>
  );
}
