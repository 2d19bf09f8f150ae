// A runbook as the page puts it together.
import type { Schemas } from "../../api/client";

export type Doc = Schemas["RunbookDocument"];
export type Pick = { id: string; vm: string; group: number; name: string };
export type GroupDraft = { name: string; is: string; grade: string; timeout: string; wait: string; concurrency: string; carryOn: boolean };
export type Draft = { name: string; target: string; mapping: string; power: boolean; concurrency: string; picks: Pick[]; groups: GroupDraft[] };

export const newGroup = (n: number): GroupDraft => ({ name: `group ${n}`, is: "restored", grade: "C", timeout: "", wait: "", concurrency: "", carryOn: false });
export const newDraft = (): Draft => ({ name: "", target: "", mapping: "", power: false, concurrency: "4", picks: [], groups: [newGroup(1)] });

/** toggle takes a backup in, or out. */
export function toggle(d: Draft, b: { id: string; vm: string }): Draft {
  return d.picks.some((p) => p.id === b.id)
    ? { ...d, picks: d.picks.filter((p) => p.id !== b.id) }
    : { ...d, picks: [...d.picks, { id: b.id, vm: b.vm, group: d.groups.length - 1, name: "" }] };
}

/** move puts a machine one place up or down among those of its group. */
export function move(d: Draft, id: string, by: -1 | 1): Draft {
  const at = d.picks.findIndex((p) => p.id === id);
  const own = d.picks[at];
  if (!own) return d;
  let to = at + by;
  while (d.picks[to] && d.picks[to]!.group !== own.group) to += by;
  if (!d.picks[to]) return d;
  const picks = d.picks.slice();
  [picks[at], picks[to]] = [picks[to]!, own];
  return { ...d, picks };
}

/** dropGroup removes a group; its machines go to the one before. */
export function dropGroup(d: Draft, g: number): Draft {
  if (d.groups.length < 2) return d;
  return { ...d, groups: d.groups.filter((_, i) => i !== g), picks: d.picks.map((p) => ({ ...p, group: p.group > g || (p.group === g && g > 0) ? p.group - 1 : p.group })) };
}

/** document is what is sent; groups without a machine are left out. */
export function document(d: Draft): Doc {
  const count = (s: string) => (Number(s) > 0 ? Math.floor(Number(s)) : undefined);
  const groups = d.groups.map((g, i) => ({
    name: g.name.trim() || `group ${i + 1}`,
    machines: d.picks.filter((p) => p.group === i).map((p) => ({ backup: p.id, name: p.name.trim() || undefined })),
    concurrency: count(g.concurrency),
    until: g.is === "restored" ? undefined : { is: g.is, grade: g.is === "boot_proof" ? g.grade : undefined, timeout: g.timeout.trim() || undefined },
    wait: g.wait.trim() || undefined,
    on_failure: g.carryOn ? "continue" : undefined,
  }));
  return {
    version: 1, name: d.name.trim() || "bulk restore",
    defaults: { target: d.target, mappings: d.mapping ? [d.mapping] : undefined, power_on: d.power || undefined },
    limits: { concurrency: count(d.concurrency) },
    groups: groups.filter((g) => g.machines.length > 0),
  };
}
