import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { api, take } from "../api/client";
import { visible } from "../format";
import { t } from "../text";
import { Head, Loading, Severity, Text, Trouble } from "../ui/parts";

export function Rules() {
  const [q, setQ] = useState("");
  const rules = useQuery({ queryKey: ["rules"], queryFn: () => take(api.GET("/api/v1/rules")), staleTime: Infinity });
  const word = q.toLowerCase();
  const items = (rules.data?.items ?? []).filter((r) => !word || `${r.code} ${r.about} ${r.subject} ${r.advice}`.toLowerCase().includes(word));
  return (
    <>
      <Head title={t.rules.title} />
      <p className="soft">{t.rules.text}</p>
      <Text label={t.search} value={q} set={setQ} />
      <Trouble error={rules.error} retry={() => void rules.refetch()} />
      {rules.isPending ? <Loading /> : (
        <div className="card flush scroll" tabIndex={0} role="region" aria-label={t.rules.title}>
          <table>
            <thead><tr><th>{t.what.code}</th><th>{t.rules.severity}</th><th>{t.rules.subject}</th><th>{t.rules.advice}</th></tr></thead>
            <tbody>{items.map((r) => <tr key={r.code}><td><code>{r.code}</code></td><td><Severity severity={r.severity} /></td><td>{visible(r.about)}</td><td className="soft">{visible(r.advice)}</td></tr>)}</tbody>
          </table>
        </div>
      )}
    </>
  );
}
