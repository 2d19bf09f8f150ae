import { useMutation, useQuery } from "@tanstack/react-query";
import { Download, ShieldCheck } from "lucide-react";
import { api, take } from "../api/client";
import { bytes, seconds, visible } from "../format";
import { t } from "../text";
import { Facts, Loading, Mark, Trouble } from "../ui/parts";

type DiskLine = { index: number; digest: string; allocated?: number; sent?: number; verified?: string; unverified?: string };
type Proof = { grade: string; milestone?: string; failure?: string; limit?: string; seconds?: number; accelerator?: string };
type Receipt = { disks?: DiskLine[]; guest?: { proof?: Proof } } & Record<string, unknown>;

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
  const check = useMutation({
    mutationFn: async () => {
      const text = await take(api.GET("/api/v1/jobs/{id}/receipt", { params: { path: { id: job } }, parseAs: "text" }));
      return take(api.POST("/api/v1/receipts/verify", { body: { receipt: text as string } }));
    },
  });
  if (q.isPending) return <Loading />;
  if (q.error) return <Trouble error={q.error} retry={() => void q.refetch()} />;
  const r = read(q.data);
  return (
    <section className="card flush">
      <div className="head" style={{ padding: "1rem 1.2rem 0", margin: 0 }}>
        <h2>{t.receipt.title}</h2>
        <div className="right"><button className="btn" disabled={check.isPending} onClick={() => check.mutate()}><ShieldCheck size={16} aria-hidden />{t.receipt.verify}</button><a className="btn" href={`/api/v1/jobs/${job}/receipt`} download={`receipt-${job}.json`}><Download size={16} aria-hidden />{t.receipt.download}</a></div>
      </div>
      <p className="soft small" style={{ padding: "0 1.2rem" }}>{t.receipt.text}</p>
      <div style={{ padding: "0 1.2rem" }}>
        <Trouble error={check.error} />
        {check.data && (check.data.valid
          ? <div className="note good" role="status"><b>{t.receipt.valid}</b><p className="small break">{t.receipt.signedBy} <code>{check.data.key}</code>, {check.data.verified} / {check.data.disks} {t.bulk.proven}</p></div>
          : <div className="note bad" role="alert"><b>{t.receipt.invalid}</b><p className="break">{visible(check.data.error)}</p></div>)}
        {r?.guest?.proof && (
          <Facts rows={[
            [t.receipt.boot, `${t.bulk.grade} ${visible(r.guest.proof.grade)}`], [t.receipt.reached, visible(r.guest.proof.milestone)], [t.what.happened, visible(r.guest.proof.failure)], [t.receipt.limit, visible(r.guest.proof.limit)],
            [t.job.took, r.guest.proof.seconds ? seconds(r.guest.proof.seconds) : undefined],
          ]} />
        )}
      </div>
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
