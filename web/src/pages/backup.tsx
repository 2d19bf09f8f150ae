import { useQuery } from "@tanstack/react-query";
import { Link, useParams } from "@tanstack/react-router";
import { FolderOpen, RotateCcw } from "lucide-react";
import { api, take } from "../api/client";
import { bytes, platform, time, visible } from "../format";
import { may, useMe } from "../session";
import { t } from "../text";
import { Facts, Head, Loading, Mark, Severity, Trouble } from "../ui/parts";
import { Guest } from "./guest";

export function Backup() {
  const { id } = useParams({ strict: false }) as { id: string };
  const me = useMe();
  const path = { params: { path: { id } } };
  const b = useQuery({ queryKey: ["backup", id], queryFn: () => take(api.GET("/api/v1/backups/{id}", path)) });
  const chain = useQuery({ queryKey: ["chain", id], queryFn: () => take(api.GET("/api/v1/backups/{id}/chain", path)), enabled: !!b.data && !b.data.fault });
  const possible = useQuery({ queryKey: ["possible", id], queryFn: () => take(api.GET("/api/v1/backups/{id}/targets", path)), enabled: !!b.data && !b.data.fault, staleTime: 3_000 });
  if (b.isPending) return <Loading />;
  if (b.error) return <Trouble error={b.error} retry={() => void b.refetch()} />;
  const d = b.data;
  const m = d.machine;
  return (
    <>
      <Head title={visible(d.vm)}>
        {may(me, "operator") && !d.fault && <Link className="btn" to="/backups/$id/files" params={{ id }}><FolderOpen size={16} aria-hidden />{t.files.browse}</Link>}
        {may(me, "operator") && !d.fault && <Link className="btn main-action" to="/restore" search={{ backup: id } as never}><RotateCcw size={16} aria-hidden />{t.backup.restore}</Link>}
      </Head>
      {d.fault && <div className="note bad" role="alert"><h2>{t.backup.fault}</h2><p className="break">{visible(d.fault)}</p></div>}
      <div className="grid">
        <section className="card">
          <h2>{t.backup.machine}</h2>
          <Facts rows={[
            [t.backups.when, time(d.created)], [t.backups.kind, d.type], [t.backups.from, platform(d.origin)], ["Layout", d.layout],
            ["CPU", `${(m.cpu.sockets ?? 1) * (m.cpu.cores_per_socket ?? 1)}`], ["Memory", m.memory ? bytes(m.memory) : undefined], ["Firmware", [m.firmware, m.secure_boot ? "Secure Boot" : "", m.tpm ? "vTPM" : ""].filter(Boolean).join(", ")],
            ["Guest", [m.guest.family, m.guest.distribution, m.guest.version, m.guest.arch].filter(Boolean).join(" ")],
            ["Networks", (m.nics ?? []).map((n) => `${visible(n.network) || "?"} (${n.mac ?? ""})`).join(", ")],
            ["Repository", <code key="r" className="break">{visible(d.path)}</code>],
          ]} />
        </section>
        <section className="card flush">
          <h2>{t.backup.disks}</h2>
          <div className="scroll">
            <table>
              <thead><tr><th>Disk</th><th className="num">{t.backups.size}</th><th>Format</th><th>{t.backups.state}</th></tr></thead>
              <tbody>
                {(d.disk_list ?? []).map((x) => (
                  <tr key={x.index}><td className="break">{x.index} <span className="small soft">{visible(x.member || x.path)}</span></td><td className="num">{bytes(x.size)}</td><td>{x.format}</td><td>{x.fault ? <span className="badge bad">{visible(x.fault)}</span> : <span className="badge good">{t.backups.good}</span>}</td></tr>
                ))}
              </tbody>
            </table>
          </div>
        </section>
      </div>
      {(d.notes ?? []).length > 0 && <section className="card" style={{ marginTop: "1.1rem" }}><h2>{t.backup.notes}</h2>{(d.notes ?? []).map((n) => <p key={n} className="break">{visible(n)}</p>)}</section>}
      <Trouble error={chain.error} />
      {chain.data?.items.map((c) => (
        <section className="card flush" key={c.index} style={{ marginTop: "1.1rem" }}>
          <h2>{t.backup.chain} {c.index}</h2>
          {c.error ? <p className="break" style={{ padding: "0 1.2rem" }}>{visible(c.error)}</p> : (
            <div className="scroll">
              <table>
                <tbody>{(c.disk?.chain ?? []).map((l, i) => <tr key={i}><td style={{ width: "1%" }}>{i === 0 ? "top" : i}</td><td className="break"><code>{visible(l.path)}</code></td><td>{l.format}</td></tr>)}</tbody>
              </table>
              {c.disk && <p className="small soft" style={{ padding: "0 1.2rem" }}>{bytes(c.disk.allocated)} of {bytes(c.disk.size)} allocated</p>}
            </div>
          )}
        </section>
      ))}
      {!d.fault && <Guest id={id} />}
      {possible.isFetching && !possible.data && <Loading />}
      <Trouble error={possible.error} retry={() => void possible.refetch()} />
      {possible.data && possible.data.items.length > 0 && (
        <section className="card flush" style={{ marginTop: "1.1rem" }}>
          <h2>{t.backup.where}</h2>
          <table>
            <tbody>
              {possible.data.items.map((p) => (
                <tr key={p.target.name}>
                  <td style={{ width: "1%" }}><Mark ok={p.possible} /></td>
                  <td><b>{visible(p.target.name)}</b><div className="small soft">{platform(p.target.platform)}</div></td>
                  <td className="break">
                    {p.error ? visible(p.error) : (p.findings ?? []).filter((f) => f.severity !== "information").map((f, i) => <p key={i} className="small"><Severity severity={f.severity} /> {visible(f.text)} <span className="soft">{visible(f.advice)}</span></p>)}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </section>
      )}
    </>
  );
}
