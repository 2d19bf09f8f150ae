import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useState } from "react";
import { api, ApiError, type Schemas, take } from "../../api/client";
import { t } from "../../text";
import { Head, Loading, Trouble } from "../../ui/parts";
import { ChooseBackup, ChooseTarget } from "./choose";
import { Guest, Size } from "./machine";
import { Placement } from "./placement";
import { Findings, Review } from "./review";

export type Wish = Schemas["PlanningWish"];
export type Plan = Schemas["Plan"];

export function Wizard() {
  const search = useSearch({ strict: false }) as { backup?: string; plan?: string };
  const go = useNavigate();
  const cache = useQueryClient();
  const [step, setStep] = useState(search.plan ? 5 : search.backup ? 1 : 0);
  const [backup, setBackup] = useState(search.backup ?? "");
  const [target, setTarget] = useState("");
  const [planID, setPlanID] = useState(search.plan ?? "");
  const [wish, setWish] = useState<Wish>();
  const [accepted, setAccepted] = useState<string[]>([]);
  const [keep, setKeep] = useState(true);

  const plan = useQuery({
    queryKey: ["plan", planID], enabled: !!planID, staleTime: Infinity,
    queryFn: () => take(api.GET("/api/v1/plans/{id}", { params: { path: { id: planID } } })),
  });
  const current = plan.data;
  const wanted = wish ?? current?.wish ?? {};
  const change = (w: Partial<Wish>) => setWish({ ...wanted, ...w });

  const make = useMutation({
    mutationFn: async () => {
      if (planID && current && current.backup === backup) {
        if (current.target === target && !wish) return current;
        return take(api.PATCH("/api/v1/plans/{id}", { params: { path: { id: planID } }, body: { target, wish: wanted } }));
      }
      return take(api.POST("/api/v1/plans", { body: { backup, target, wish: wanted } }));
    },
    onSuccess: (p) => {
      cache.setQueryData(["plan", p.id], p);
      setPlanID(p.id);
      setWish(undefined);
      setBackup(p.backup);
      setTarget(p.target);
    },
  });
  const start = useMutation({
    mutationFn: () => take(api.POST("/api/v1/jobs", { body: { plan: planID, accept: accepted, options: { keep_on_failure: keep } }, headers: { "Idempotency-Key": `${planID}-${current?.updated ?? ""}` } })),
    onSuccess: (j) => void go({ to: "/jobs/$id", params: { id: j.id } }),
  });

  if (planID && !current && plan.isPending) return <Loading />;
  const backupOf = backup || current?.backup || "";
  const targetOf = target || current?.target || "";
  const ready = [!!backupOf, !!targetOf, true, true, true, false][step];
  const missing = current?.consent.filter((c) => !accepted.includes(c)) ?? [];
  const stops = (current?.plan.findings ?? []).filter((f) => f.severity === "critical");
  const next = () => {
    make.reset();
    if (step === 0) return setStep(1);
    if (!backup) setBackup(backupOf);
    if (!target) setTarget(targetOf);
    make.mutate(undefined, { onSuccess: () => setStep(step + 1) });
  };
  const outdated = start.error instanceof ApiError && start.error.problem.code === "plan-outdated";

  return (
    <>
      <Head title={t.wizard.title} />
      <ol className="steps-nav" aria-label={t.wizard.title}>
        {t.wizard.steps.map((s, i) => <li key={s} className={i < step ? "past" : ""} aria-current={i === step ? "step" : undefined}><span>{i + 1}</span>{s}</li>)}
      </ol>
      <Trouble error={plan.error ?? make.error} />
      {step === 0 && <ChooseBackup picked={backupOf} pick={(b) => { setBackup(b.id); setTarget(""); setPlanID(""); setWish(undefined); }} imported={(p) => { cache.setQueryData(["plan", p.id], p); setPlanID(p.id); setBackup(p.backup); setTarget(p.target); setStep(5); }} />}
      {step === 1 && <ChooseTarget backup={backupOf} picked={targetOf} pick={(id) => { setTarget(id); setWish({ ...wanted, mapping: undefined, options: undefined }); }} />}
      {current && step >= 2 && step < 5 && stops.length > 0 && <><h2>{t.wizard.settle}</h2><Findings list={stops} /></>}
      {current && step === 2 && <Placement plan={current} wish={wanted} change={change} />}
      {current && step === 3 && <Size plan={current} wish={wanted} change={change} />}
      {current && step === 4 && <Guest plan={current} wish={wanted} change={change} />}
      {current && step === 5 && <Review plan={current} accepted={accepted} setAccepted={setAccepted} keep={keep} setKeep={setKeep} />}
      <Trouble error={start.error} />
      {outdated && <p><button className="btn" onClick={() => { setWish(wanted); start.reset(); make.mutate(); }}>{t.wizard.replan}</button></p>}
      <div className="wizard-foot">
        {step > 0 && <button className="btn" onClick={() => { make.reset(); start.reset(); setStep(step - 1); }}>{t.wizard.back}</button>}
        {step < 5 && <button className="btn main-action" disabled={!ready || make.isPending} onClick={next}>{make.isPending ? t.loading : t.wizard.next}</button>}
        {step === 5 && current && <button className="btn main-action" disabled={current.stopped || missing.length > 0 || start.isPending} onClick={() => start.mutate()}>{t.wizard.start}</button>}
      </div>
    </>
  );
}
