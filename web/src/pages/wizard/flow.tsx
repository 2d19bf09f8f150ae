import "@xyflow/react/dist/base.css";
import { type Edge, type Node, Position, ReactFlow } from "@xyflow/react";
import { bytes, platform, visible } from "../../format";
import { t } from "../../text";
import type { Plan } from "./index";

/** Flow draws which disk and adapter goes where. */
export default function Flow({ plan }: { plan: Plan }) {
  const p = plan.plan;
  const disks = p.disks ?? [];
  const nodes: Node[] = [];
  const edges: Edge[] = [];
  const add = (id: string, x: number, y: number, label: string) =>
    nodes.push({ id, position: { x, y }, data: { label }, sourcePosition: Position.Right, targetPosition: Position.Left, className: "flow-node", connectable: false, draggable: false });
  const link = (source: string, target: string, label?: string) => edges.push({ id: `${source}-${target}`, source, target, label, focusable: false });
  const rows = disks.length + (p.source.nics ?? []).length;
  const mid = ((rows - 1) * 64) / 2;
  add("from", 0, mid, `${visible(p.source.name)}\n${platform(p.source.platform ?? p.detected?.platform)}`);
  add("to", 860, mid, `${visible(p.machine.name)}\n${visible(p.target.name)}, ${platform(p.target.platform)}`);
  let y = 0;
  for (const [i, d] of disks.entries()) {
    add(`d${i}`, 250, y, `disk ${d.index}: ${bytes(d.virtual)}, ${d.source.format ?? ""}`);
    const f = d.delivery.format;
    add(`t${i}`, 560, y, `${[f.name, f.subformat].filter(Boolean).join("/")} by ${d.delivery.path}${p.placement.storage?.[i] ? `, ${visible(p.placement.storage[i])}` : ""}`);
    link("from", `d${i}`);
    link(`d${i}`, `t${i}`, bytes(d.source.allocated));
    link(`t${i}`, "to");
    y += 64;
  }
  for (const [i, n] of (p.source.nics ?? []).entries()) {
    add(`n${i}`, 250, y, `nic ${i}: ${visible(n.network) || "?"}`);
    add(`m${i}`, 560, y, visible(p.placement.networks?.[i]) || t.none);
    link("from", `n${i}`);
    link(`n${i}`, `m${i}`);
    link(`m${i}`, "to");
    y += 64;
  }
  return (
    <div className="flow" role="img" aria-label={t.wizard.flow}>
      <ReactFlow nodes={nodes} edges={edges} fitView proOptions={{ hideAttribution: true }} nodesFocusable={false} edgesFocusable={false} nodesConnectable={false} elementsSelectable={false} zoomOnScroll={false} preventScrolling={false} panOnDrag={false} />
    </div>
  );
}
