import { useVirtualizer } from "@tanstack/react-virtual";
import { type ReactNode, useEffect, useRef } from "react";

/**
 * VirtualTable draws only the rows in sight, so that ten thousand stay smooth. row
 * gives a whole <tr>; end is called when the last rows come into sight.
 */
export function VirtualTable<T>({ items, label, head, columns, size, row, end }: { items: T[]; label: string; head: ReactNode; columns: number; size: number; row: (item: T) => ReactNode; end?: () => void }) {
  const box = useRef<HTMLDivElement>(null);
  const rows = useVirtualizer({ count: items.length, getScrollElement: () => box.current, estimateSize: () => size, overscan: 12 });
  const shown = rows.getVirtualItems();
  const last = shown[shown.length - 1]?.index ?? 0;
  useEffect(() => {
    if (last >= items.length - 20) end?.();
  }, [last, items.length, end]);
  const before = shown[0]?.start ?? 0;
  const after = rows.getTotalSize() - (shown[shown.length - 1]?.end ?? 0);
  return (
    <div className="card flush virtual" ref={box} tabIndex={0} role="region" aria-label={label}>
      <table aria-rowcount={items.length + 1}>
        <thead>{head}</thead>
        <tbody>
          {before > 0 && <tr style={{ height: before }}><td colSpan={columns} /></tr>}
          {shown.map((v) => row(items[v.index]!))}
          {after > 0 && <tr style={{ height: after }}><td colSpan={columns} /></tr>}
        </tbody>
      </table>
    </div>
  );
}

/** VirtualList is the same for a list whose rows are of different heights; few are drawn as they are. */
export function VirtualList<T>({ items, className, size, row }: { items: T[]; className: string; size: number; row: (item: T) => ReactNode }) {
  const box = useRef<HTMLDivElement>(null);
  const long = items.length > 100;
  const rows = useVirtualizer({ count: long ? items.length : 0, getScrollElement: () => box.current, estimateSize: () => size, overscan: 12 });
  if (!long) return <ol className={className}>{items.map((x, i) => <li key={i}>{row(x)}</li>)}</ol>;
  const shown = rows.getVirtualItems();
  return (
    <div className="virtual" ref={box} tabIndex={0}>
      <ol className={className} style={{ paddingTop: shown[0]?.start ?? 0, paddingBottom: rows.getTotalSize() - (shown[shown.length - 1]?.end ?? 0) }}>
        {shown.map((v) => <li key={v.key} data-index={v.index} ref={rows.measureElement} aria-posinset={v.index + 1} aria-setsize={items.length}>{row(items[v.index]!)}</li>)}
      </ol>
    </div>
  );
}
