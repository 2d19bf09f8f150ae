import { useQuery } from "@tanstack/react-query";
import { Download } from "lucide-react";
import { api, take } from "../api/client";
import { bytes, visible } from "../format";
import { t } from "../text";
import { Loading, Mark, Trouble } from "../ui/parts";

type DiskLine = { index: number; digest: string; allocated?: number; sent?: number; verified?: string; unverified?: string };
type Receipt = { disks?: DiskLine[] } & Record<string, unknown>;

/** read finds the receipt in its signed envelope. */
export function read(text: unknown): Receipt | null {
  try {
    const r = (typeof text === "string" ? JSON.parse(text) : text) as { receipt?: Receipt; payload?: string } & Receipt;
    if (r.payload) return JSON.parse(atob(r.payload)) as Receipt;
    return r.receipt ?? r;
  } catch {
    return null;
  }
}

export function ReceiptView({ job }: { job: string }) {
  const q = useQuery({ queryKey: ["receipt", job], queryFn: () => take(api.GET("/api/v1/jobs/{id}/receipt", { params: { path: { id: job } } })), staleTime: Infinity });
  if (q.isPending) return <Loading />;
  if (q.error) return <Trouble error={q.error} retry={() => void q.refetch()} />;
  const r = read(q.data);
  return (
    <section className="card flush">
      <div className="head" style={{ padding: "1rem 1.2rem 0", margin: 0 }}>
        <h2>{t.receipt.title}</h2>
        <div className="right"><a className="btn" href={`/api/v1/jobs/${job}/receipt`} download={`receipt-${job}.json`}><Download size={16} aria-hidden />{t.receipt.download}</a></div>
      </div>
      <p className="soft small" style={{ padding: "0 1.2rem" }}>{t.receipt.text}</p>
      <div className="scroll">
        <table>
          <thead><tr><th>Disk</th><th>{t.receipt.digest}</th><th className="num">{t.receipt.bytes}</th><th className="num">{t.receipt.sent}</th><th>{t.receipt.verified}</th></tr></thead>
          <tbody>
            {(r?.disks ?? []).map((d) => (
              <tr key={d.index}><td>{d.index}</td><td className="break"><code>{d.digest}</code></td><td className="num">{bytes(d.allocated)}</td><td className="num">{bytes(d.sent)}</td><td><span className="row"><Mark ok={!!d.verified} />{visible(d.verified || d.unverified)}</span></td></tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
