import "uplot/dist/uPlot.min.css";
import { useEffect, useRef } from "react";
import UPlot from "uplot";
import type { Schemas } from "../api/client";
import { bytes } from "../format";

const colour = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Throughput draws the bytes a second of all jobs over the last hour. */
export default function Throughput({ rates, label }: { rates: Schemas["FeedRate"][]; label: string }) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot>(null);
  const xs = rates.map((r) => Date.parse(r.time) / 1000);
  const ys = rates.map((r) => r.rate);
  const data = useRef<UPlot.AlignedData>([xs, ys]);
  data.current = [xs, ys];
  useEffect(() => {
    const b = box.current;
    if (!b) return;
    const make = () => {
      plot.current?.destroy();
      const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
      plot.current = new UPlot({
        width: Math.max(b.clientWidth, 200), height: 180, legend: { show: false }, cursor: { show: false },
        scales: { y: { range: (_, _min, max) => [0, Math.max(max, 1)] } },
        axes: [axis, { ...axis, size: 90, values: (_, v) => v.map((n) => `${bytes(n)}/s`) }],
        series: [{}, { stroke: colour("--accent"), fill: colour("--accent-soft"), width: 2, points: { show: false } }],
      }, data.current, b);
    };
    make();
    const size = new ResizeObserver(() => plot.current?.setSize({ width: Math.max(b.clientWidth, 200), height: 180 }));
    size.observe(b);
    const look = new MutationObserver(make); // another appearance has other colours
    look.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => {
      size.disconnect();
      look.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, []);
  useEffect(() => plot.current?.setData(data.current), [rates]);
  const most = Math.max(0, ...ys);
  return <div ref={box} role="img" aria-label={`${label}: ${bytes(ys[ys.length - 1] ?? 0)}/s, ${bytes(most)}/s`} style={{ padding: "0 0.6rem 0.6rem" }} />;
}
