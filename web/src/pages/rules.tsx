import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, type Schemas, take } from "../api/client";
import { platform, visible } from "../format";
import { t } from "../text";
import { Modal } from "../ui/dialog";
import { Head, Loading, Severity, Text, Trouble } from "../ui/parts";

type Cell = Schemas["PlanCell"];

const look = (v: string) => (v === "yes" ? "good" : v === "no" ? "bad" : "warn");

/** Grid is the matrix: what goes where, and on a click why not. */
function Grid({ matrix }: { matrix: Schemas["PlanMatrix"] }) {
  const [cell, setCell] = useState<Cell>();
  const cells = matrix.cells ?? [];
  return (
    <>
      <div className="card flush scroll" tabIndex={0} role="region" aria-label={t.rules.matrix}>
        <table>
          <thead><tr><th>{t.rules.fromTo}</th>{(matrix.targets ?? []).map((x) => <th key={x} scope="col">{platform(x)}</th>)}</tr></thead>
          <tbody>
            {(matrix.sources ?? []).map((s) => (
              <tr key={s}>
                <th scope="row">{platform(s)}</th>
                {(matrix.targets ?? []).map((x) => {
                  const c = cells.find((k) => k.source === s && k.target === x);
                  return <td key={x}>{c && <button className={`badge ${look(c.verdict)}`} onClick={() => setCell(c)}>{c.verdict}{c.of ? ` ${c.plain}/${c.of}` : ""}</button>}</td>;
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Modal open={!!cell} close={() => setCell(undefined)} title={cell ? `${platform(cell.source)} → ${platform(cell.target)}: ${cell.verdict}` : ""}>
        {!(cell?.reasons ?? []).length && <p>{t.wizard.noFindings}</p>}
        {(cell?.reasons ?? []).map((r, i) => <p key={i} className="break"><code>{r.code}</code> {visible(r.when)}: {visible(r.text)} <span className="soft">{visible(r.advice)}</span></p>)}
        <div className="foot"><button className="btn" onClick={() => setCell(undefined)}>{t.close}</button></div>
      </Modal>
    </>
  );
}

export function Rules() {
  const [q, setQ] = useState("");
  const rules = useQuery({ queryKey: ["rules"], queryFn: () => take(api.GET("/api/v1/rules")), staleTime: Infinity });
  const matrix = useQuery({ queryKey: ["matrix"], queryFn: () => take(api.GET("/api/v1/matrix")), staleTime: Infinity });
  const word = q.toLowerCase();
  const items = (rules.data?.items ?? []).filter((r) => !word || `${r.code} ${r.about} ${r.subject} ${r.advice}`.toLowerCase().includes(word));
  return (
    <>
      <Head title={t.rules.title} />
      <Trouble error={rules.error ?? matrix.error} retry={() => { void rules.refetch(); void matrix.refetch(); }} />
      <h2>{t.rules.matrix}</h2>
      <p className="soft">{t.rules.matrixText}</p>
      {matrix.data ? <Grid matrix={matrix.data} /> : matrix.isPending && <Loading />}
      <h2>{t.rules.rules}</h2>
      <p className="soft">{t.rules.text}</p>
      <Text label={t.search} value={q} set={setQ} />
      {rules.isPending ? <Loading /> : (
        <div className="card flush scroll" tabIndex={0} role="region" aria-label={t.rules.rules}>
          <table>
            <thead><tr><th>{t.what.code}</th><th>{t.rules.severity}</th><th>{t.rules.subject}</th><th>{t.rules.advice}</th></tr></thead>
            <tbody>{items.map((r) => <tr key={r.code}><td><code>{r.code}</code></td><td><Severity severity={r.severity} /></td><td>{visible(r.about)}</td><td className="soft">{visible(r.advice)}</td></tr>)}</tbody>
          </table>
        </div>
      )}
    </>
  );
}
