import { useQuery } from "@tanstack/react-query";
import { Search } from "lucide-react";
import { useState } from "react";
import { api, take } from "../api/client";
import { bytes, visible } from "../format";
import { t } from "../text";
import { Facts, Trouble } from "../ui/parts";

/** Guest looks at the system on a backup's disks, when it is asked to: that reads them. */
export function Guest({ id }: { id: string }) {
  const [asked, setAsked] = useState(false);
  const q = useQuery({ queryKey: ["guest", id], queryFn: () => take(api.GET("/api/v1/backups/{id}/guest", { params: { path: { id } } })), enabled: asked, staleTime: Infinity });
  const g = q.data;
  return (
    <section className="card" style={{ marginTop: "1.1rem" }}>
      <div className="head" style={{ margin: 0 }}><h2>{t.guest.title}</h2>{!g && <div className="right"><button className="btn" disabled={q.isFetching} onClick={() => (asked ? void q.refetch() : setAsked(true))}><Search size={16} aria-hidden />{q.isFetching ? t.loading : t.guest.look}</button></div>}</div>
      {!g && <p className="soft">{t.guest.text}</p>}
      <Trouble error={q.error} />
      {g && g.systems.length === 0 && <p>{t.guest.none}</p>}
      {g?.systems.map((s) => (
        <Facts key={s.volume} rows={[
          [t.guest.system, visible(s.name)], [t.guest.host, visible(s.hostname)], [t.guest.root, visible(s.volume)], [t.guest.loader, visible(s.boot_loader)],
          [t.guest.kernels, (s.kernels ?? []).map(visible).join(", ")], [t.guest.agents, (s.agents ?? []).map(visible).join(", ")],
          [t.wizard.networks, (s.interfaces ?? []).map((i) => `${visible(i.name) || visible(i.mac)}: ${i.dhcp ? "DHCP" : (i.addresses ?? []).map(visible).join(" ")}`).join(", ")],
          [t.guest.notes, (s.notes ?? []).join("; ")],
        ]} />
      ))}
      {g && <p className="small soft">{t.guest.boots}: {[g.bios_boots && "BIOS", g.uefi_boots && "UEFI"].filter(Boolean).join(", ") || t.none}</p>}
      {g && g.volumes.length > 0 && (
        <div className="scroll"><table><tbody>{g.volumes.map((v) => <tr key={v.id}><td><code>{visible(v.id)}</code></td><td>{visible(v.content)}</td><td className="num">{bytes(v.size)}</td><td className="break">{(v.mounted_at ?? []).map(visible).join(", ")}</td></tr>)}</tbody></table></div>
      )}
      {g?.unread.map((u) => <p key={u} className="small break">{visible(u)}</p>)}
    </section>
  );
}
