import { useQuery } from "@tanstack/react-query";
import { api, take } from "../../api/client";
import { bytes, visible } from "../../format";
import { t } from "../../text";
import { Check, Loading, Pick, Text, Trouble } from "../../ui/parts";
import type { Plan, Wish } from "./index";

type Rule = { from: string; to: string };

/** put sets the entry of a mapping for one name; an empty value removes it. */
export function put(rules: Rule[] | null | undefined, from: string, to: string): Rule[] {
  const rest = (rules ?? []).filter((r) => r.from !== from);
  return to ? [...rest, { from, to }] : rest;
}

export function Placement({ plan, wish, change }: { plan: Plan; wish: Wish; change: (w: Partial<Wish>) => void }) {
  const id = plan.target;
  const caps = useQuery({ queryKey: ["caps", id], queryFn: () => take(api.GET("/api/v1/targets/{id}/capabilities", { params: { path: { id } } })), staleTime: 60_000 });
  const inventory = useQuery({ queryKey: ["inventory", id], queryFn: () => take(api.GET("/api/v1/targets/{id}/inventory", { params: { path: { id } } })), staleTime: 60_000 });
  const saved = useQuery({ queryKey: ["mappings"], queryFn: () => take(api.GET("/api/v1/mappings", { params: { query: { limit: 200 } } })) });
  if (caps.isPending || inventory.isPending) return <Loading />;
  if (caps.error || inventory.error) return <Trouble error={caps.error ?? inventory.error} retry={() => { void caps.refetch(); void inventory.refetch(); }} />;
  const map = wish.mapping ?? {};
  const set = (m: Partial<NonNullable<Wish["mapping"]>>) => change({ mapping: { ...map, ...m } });
  const placement = plan.plan.placement;
  const sizeField = caps.data.traits?.size_field;
  const storageField = caps.data.traits?.storage_field ?? "";
  const fields = (caps.data.fields ?? []).filter((f) => f.name !== sizeField);
  const places = (name: string) => (inventory.data.places[name] ?? []).map((p) => ({ value: p.name, label: visible(p.name) + (p.free ? ` (${bytes(p.free)} free)` : "") + (p.note ? `, ${visible(p.note)}` : "") }));
  const networks = (inventory.data.networks ?? []).map((n) => ({ value: n.name, label: visible(n.name) + (n.note ? `, ${visible(n.note)}` : "") }));
  const formats = [...new Set((caps.data.deliveries ?? []).map((d) => d.format.name))];
  return (
    <section>
      <h2>{t.wizard.placement}</h2>
      <div className="card">
        <div className="cols">
          <Text label={t.wizard.name} value={wish.name ?? plan.plan.machine.name} set={(v) => change({ name: v })} />
          {formats.length > 1 && <Pick label={t.wizard.format} value={wish.format ?? ""} none={t.wizard.asSource} set={(v) => change({ format: v || undefined })} options={formats.map((f) => ({ value: f, label: f }))} />}
          <Pick label={t.wizard.saved} value={wish.mapping_set ?? ""} none={t.wizard.noSaved} set={(v) => change({ mapping_set: v || undefined })} options={(saved.data?.items ?? []).map((m) => ({ value: m.id, label: m.id }))} />
        </div>
        <Check label={t.wizard.power} on={wish.power_on ?? false} set={(v) => change({ power_on: v })} />
      </div>
      {fields.length > 0 && (
        <div className="card">
          <h2>{t.wizard.fields}</h2>
          <div className="cols">
            {fields.map((f) => {
              const value = map.fields?.[f.name] ?? placement.fields?.[f.name] ?? "";
              const options = f.values?.length ? f.values.map((v) => ({ value: v, label: v })) : places(f.name);
              const put = (v: string) => set({ fields: { ...map.fields, [f.name]: v } });
              const label = f.name.replaceAll("_", " ") + (f.required ? " *" : "");
              return options.length
                ? <Pick key={f.name} label={label} help={f.help} value={value} none={f.default ? `${t.wizard.choose} (${f.default})` : t.wizard.choose} set={put} options={options} />
                : <Text key={f.name} label={label} help={f.help} value={value} set={put} />;
            })}
          </div>
        </div>
      )}
      {(plan.plan.source.nics ?? []).length > 0 && (
        <div className="card">
          <h2>{t.wizard.networks}</h2>
          <div className="cols">
            {(plan.plan.source.nics ?? []).map((n, i) => {
              const label = `nic${i}: ${visible(n.network) || "?"} →`;
              const value = map.networks?.find((r) => r.from === `nic${i}`)?.to ?? placement.networks?.[i] ?? "";
              const put1 = (v: string) => set({ networks: put(map.networks, `nic${i}`, v) });
              return networks.length ? <Pick key={i} label={label} help={n.mac} value={value} none={t.wizard.choose} set={put1} options={networks} /> : <Text key={i} label={label} help={n.mac} value={value} set={put1} />;
            })}
          </div>
        </div>
      )}
      {storageField && places(storageField).length > 0 && (
        <div className="card">
          <h2>{t.wizard.storage}</h2>
          <div className="cols">
            {(plan.plan.disks ?? []).map((d, i) => (
              <Pick key={d.index} label={`disk${d.index}: ${bytes(d.virtual)} →`} value={map.storage?.find((r) => r.from === `disk${d.index}`)?.to ?? placement.storage?.[i] ?? ""} none={t.wizard.choose}
                set={(v) => set({ storage: put(map.storage, `disk${d.index}`, v) })} options={places(storageField)} />
            ))}
          </div>
        </div>
      )}
    </section>
  );
}
