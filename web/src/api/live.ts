import { useEffect, useRef, useState } from "react";

/** maxLines bounds what a page that is open for a day keeps of a log. */
export const maxLines = 2000;

export type Line = { seq: number; time: string; level: string; step?: string; text: string };

/** keep adds a line to a bounded log, once, in the order of its numbers. */
export function keep(lines: Line[], l: Line): Line[] {
  const last = lines[lines.length - 1];
  if (last && l.seq <= last.seq) return lines;
  const next = lines.length >= maxLines ? lines.slice(lines.length - maxLines + 1) : lines.slice();
  next.push(l);
  return next;
}

/**
 * useStream listens to server-sent events. The browser connects again by itself
 * and says the last event's number, so that no line is lost or shown twice. on
 * is called for each event; a stream that ends with "end" is closed.
 */
export function useStream(url: string | null, on: (event: string, data: unknown) => void): boolean {
  const handler = useRef(on);
  handler.current = on;
  const [connected, setConnected] = useState(false);
  useEffect(() => {
    if (!url) return;
    const source = new EventSource(url);
    source.onopen = () => setConnected(true);
    source.onerror = () => setConnected(false);
    for (const name of ["job", "log", "run", "end"]) {
      source.addEventListener(name, (e) => {
        handler.current(name, JSON.parse((e as MessageEvent<string>).data));
        if (name === "end") source.close();
      });
    }
    return () => source.close();
  }, [url]);
  return connected;
}
