import { useInfiniteQuery, useQuery } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import { Download, File, Folder, Link2 } from "lucide-react";
import { useState } from "react";
import { api, type Schemas, take } from "../api/client";
import { bytes, time, visible } from "../format";
import { t } from "../text";
import { Empty, Head, Loading, Pick, Trouble } from "../ui/parts";

type Item = Schemas["FilesRecord"];

/** where gives a place in a volume as the API takes it: names need not be UTF-8. */
export function where(volume: string, p: { path?: string; path_base64?: string }): Record<string, string> {
  return p.path_base64 ? { volume, path_base64: p.path_base64 } : { volume, path: p.path || "/" };
}

const link = (id: string, what: string, query: Record<string, string>) => `/api/v1/backups/${encodeURIComponent(id)}/files/${what}?${new URLSearchParams(query)}`;

/** Files looks into the file systems of a backup, without restoring it. */
export function Files() {
  const { id } = useParams({ strict: false }) as { id: string };
  const volumes = useQuery({ queryKey: ["volumes", id], queryFn: () => take(api.GET("/api/v1/backups/{id}/volumes", { params: { path: { id } } })), staleTime: 60_000 });
  const [chosen, setChosen] = useState("");
  const [at, setAt] = useState<Item[]>([]);
  const list = volumes.data?.items ?? [];
  const volume = list.find((v) => v.id === chosen) ?? list.find((v) => v.readable);
  const here = at[at.length - 1] ?? {};
  const entries = useInfiniteQuery({
    queryKey: ["files", id, volume?.id, here.path, here.path_base64], enabled: !!volume?.readable,
    queryFn: ({ pageParam }) => take(api.GET("/api/v1/backups/{id}/files", { params: { path: { id }, query: { ...where(volume!.id, here), limit: 200, cursor: pageParam || undefined } } })),
    initialPageParam: "", getNextPageParam: (p) => p.next || undefined,
  });
  if (volumes.isPending) return <Loading />;
  if (volumes.error) return <Trouble error={volumes.error} retry={() => void volumes.refetch()} />;
  const items = entries.data?.pages.flatMap((p) => p.items) ?? [];
  const base = (x: Item) => visible(x.name) || "?";
  return (
    <>
      <Head title={t.files.title}>
        {volume?.readable && <a className="btn" href={link(id, "archive", { ...where(volume.id, here), as: "tar" })}><Download size={16} aria-hidden />{t.files.tar}</a>}
        {volume?.readable && <a className="btn" href={link(id, "archive", { ...where(volume.id, here), as: "zip" })}><Download size={16} aria-hidden />{t.files.zip}</a>}
      </Head>
      {!list.length ? <Empty title={t.files.none} /> : (
        <Pick label={t.files.volume} value={volume?.id ?? ""} set={(v) => { setChosen(v); setAt([]); }}
          options={list.map((v) => ({ value: v.id, label: `${visible(v.id)}: ${v.type}${v.label ? ` “${visible(v.label)}”` : ""}, ${bytes(v.size)}${v.readable ? "" : `: ${visible(v.reason)}`}` }))} />
      )}
      {list.length > 0 && !volume?.readable && <div className="note warn">{visible(volume?.reason) || t.files.none}</div>}
      {volume?.readable && (
        <>
          <nav className="row" aria-label={t.files.path} style={{ marginBottom: "0.8rem" }}>
            <button className="btn" onClick={() => setAt([])}>/</button>
            {at.map((x, i) => <button className="btn" key={i} onClick={() => setAt(at.slice(0, i + 1))}>{base(x)}</button>)}
          </nav>
          <Trouble error={entries.error} retry={() => void entries.refetch()} />
          {entries.isPending ? <Loading /> : (
            <div className="card flush scroll">
              <table>
                <thead><tr><th>{t.files.name}</th><th className="num">{t.backups.size}</th><th>{t.files.changed}</th><th>{t.files.mode}</th></tr></thead>
                <tbody>
                  {items.map((x, i) => (
                    <tr key={i}>
                      <td className="name">
                        {x.type === "directory" ? <button className="btn plain" style={{ padding: 0 }} onClick={() => setAt([...at, x])}><Folder size={16} aria-hidden />{base(x)}</button>
                          : x.type === "file" ? <a href={link(id, "content", where(volume.id, x))} download><File size={16} aria-hidden /> {base(x)}</a>
                            : <span><Link2 size={16} aria-hidden /> {base(x)}{x.target ? ` → ${visible(x.target)}` : ""}</span>}
                      </td>
                      <td className="num">{x.type === "file" ? bytes(x.size) : ""}</td>
                      <td>{time(x.modified)}</td>
                      <td className="mono">{x.mode}{x.uid !== undefined ? ` ${x.uid}:${x.gid ?? ""}` : ""}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
          )}
          {entries.hasNextPage && <button className="btn" onClick={() => void entries.fetchNextPage()}>{t.more}</button>}
        </>
      )}
    </>
  );
}
