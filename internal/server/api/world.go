package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"ascend/internal/plan"
	"ascend/internal/runbook"
	"ascend/internal/server/auth"
	"ascend/internal/server/jobs"
	"ascend/internal/server/planning"
	"ascend/internal/server/records"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// world is what the conductor asks of this server. Who may run a runbook was asked
// when it was planned and applied.
type world struct{ a *API }

// as is a context whose changes are told as the run's.
func as(ctx context.Context, r *runbook.Run) context.Context {
	return auth.With(ctx, &auth.Principal{Name: "run " + r.ID + " of " + r.By})
}

// wish is what a document wants of one machine.
func (w world) wish(ctx context.Context, r *runbook.Run, at runbook.At) (planning.Wish, error) {
	m := r.Entry(at)
	s := r.Document.Settings(m)
	out := planning.Wish{Name: m.Name, Format: s.Format, Options: s.Options, PowerOn: s.PowerOn != nil && *s.PowerOn}
	if m.CPUs > 0 {
		out.CPU = &vm.CPU{Sockets: 1, CoresPerSocket: m.CPUs}
	}
	if m.Memory != "" {
		n, err := vm.ParseSize(m.Memory)
		if err != nil {
			return out, err
		}
		out.Memory = n
	}
	if s.Mapping != nil {
		out.Mapping = *s.Mapping
	}
	for _, id := range s.Mappings {
		set, err := w.a.sets.Get(ctx, id)
		if errors.Is(err, records.ErrNotFound) {
			return out, fmt.Errorf("there is no saved mapping %q", id)
		}
		if err != nil {
			return out, err
		}
		out.Mapping = out.Mapping.Then(set.Value.Mapping)
	}
	return out, nil
}

// backup finds the backup that a document names.
func (w world) backup(ctx context.Context, m runbook.Machine) (records.Backup, error) {
	if m.Backup != "" {
		b, err := w.a.Store.Backup(ctx, m.Backup)
		if errors.Is(err, records.ErrNotFound) {
			err = fmt.Errorf("there is no backup %q", m.Backup)
		}
		return b, err
	}
	whole := false
	list, _, err := w.a.Store.Backups(ctx, records.BackupFilter{VM: m.VM, Repository: m.Repository, Faulty: &whole, Until: m.Before, Limit: 1})
	if err != nil {
		return records.Backup{}, err
	}
	if len(list) == 0 {
		where, when := "", ""
		if m.Repository != "" {
			where = " in the repository " + m.Repository
		}
		if !m.Before.IsZero() {
			when = " from before " + m.Before.UTC().Format(time.RFC3339)
		}
		return records.Backup{}, fmt.Errorf("there is no backup of %q%s%s that is whole", m.VM, where, when)
	}
	return list[0], nil
}

// Plan makes the plan of a machine and stores it.
func (w world) Plan(ctx context.Context, r *runbook.Run, at runbook.At) (*runbook.Outline, error) {
	ctx = as(ctx, r)
	m := r.Entry(at)
	wish, err := w.wish(ctx, r, at)
	if err != nil {
		return nil, err
	}
	b, err := w.backup(ctx, m)
	if err != nil {
		return nil, err
	}
	d := records.Doc[StoredPlan]{
		Record: records.Record{ID: strings.ToLower(auth.NewID()), Expires: time.Now().UTC().Add(planLife)},
		Value:  StoredPlan{Backup: b.ID, Target: r.Document.Settings(m).Target, Wish: wish, By: r.By},
	}
	made, err := w.a.planAnew(ctx, &d)
	if err != nil {
		return nil, w.plain(ctx, err)
	}
	o := outline(d, made)
	if g := r.Document.Groups[at.Group]; g.Until.Is == runbook.Address {
		o.Findings = append(o.Findings, w.canLook(ctx, d.Value.Target)...)
	}
	if p := r.Document.Proof(r.Document.Groups[at.Group], m); p != "" && p != "off" && made.Inspection == nil {
		o.Findings = append(o.Findings, plan.Finding{Code: "runbook-no-proof", Severity: plan.Critical, Text: "no boot can be proven: the target runs no machines, or the system on the disks could not be looked at", Advice: "leave the boot proof out"})
	}
	return o, nil
}

func outline(d records.Doc[StoredPlan], made *planning.Made) *runbook.Outline {
	p := made.Plan
	o := &runbook.Outline{
		ID: d.ID, Backup: d.Value.Backup, VM: p.Backup.VM, Taken: p.Backup.Created, Name: p.Machine.Name, Target: p.Target, Disks: len(p.Disks),
		Bytes: p.Estimate.Allocated, Seconds: p.Estimate.Seconds, Needs: made.Needs,
	}
	if c := p.Estimate.Cost; c != nil {
		o.Cost, o.Currency = c.Total, c.Currency
	}
	for _, f := range p.Findings {
		if f.Severity != plan.Information {
			o.Findings = append(o.Findings, f)
		}
	}
	return o
}

// plain makes an error one for people, without what only the log may know.
func (w world) plain(ctx context.Context, err error) error {
	var p *Problem
	if errors.As(w.a.explain(ctx, err), &p) {
		text := p.Detail
		if p.Hint != "" {
			text += " (" + p.Hint + ")"
		}
		return errors.New(text)
	}
	return err
}

// canLook is a finding where a target cannot tell addresses.
func (w world) canLook(ctx context.Context, id string) []plan.Finding {
	t, d, err := w.a.Targets.Open(ctx, id)
	if err != nil {
		return nil // the plan says so
	}
	defer func() { _ = t.Close() }()
	if _, ok := target.As[target.Looker](t); ok {
		return nil
	}
	return []plan.Finding{{Code: "runbook-no-address", Severity: plan.Critical, Text: fmt.Sprintf("the group waits for an address, and this program does not ask %s for one", d.Value.Platform), Advice: "wait until powered_on, or a time"}}
}

// Begin begins the job of a machine. After a failure of which nothing is left the
// plan is made again, for the target is not as it was.
func (w world) Begin(ctx context.Context, r *runbook.Run, at runbook.At) (string, error) {
	ctx = as(ctx, r)
	m := r.Machine(at)
	s := r.Document.Settings(r.Entry(at))
	d, err := w.a.plans.Get(ctx, m.Plan.ID)
	if errors.Is(err, records.ErrNotFound) {
		err = errors.New("its plan is no longer kept: plan the runbook again")
	}
	if err == nil && m.Attempt > 1 {
		_, err = w.a.planAnew(ctx, &d)
	}
	if err != nil {
		return "", w.plain(ctx, err)
	}
	n := NewJob{Plan: d.ID, Accept: r.Accept(at), Options: jobs.Options{Keep: s.Keep == nil || *s.Keep, BootProof: r.Document.Proof(r.Document.Groups[at.Group], r.Entry(at))}}
	if b := r.Document.Limits.Bandwidth; b != "" {
		if n.Options.Bandwidth, err = vm.ParseSize(b); err != nil {
			return "", err
		}
	}
	j, err := w.a.carryOut(ctx, d, r.Key(at), n)
	if err != nil {
		return "", w.plain(ctx, err)
	}
	return j.ID, nil
}

// Find is the job of a key.
func (w world) Find(ctx context.Context, key string) (string, error) {
	j, err := w.a.Jobs.ByKey(ctx, key)
	if errors.Is(err, jobs.ErrNotFound) {
		return "", nil
	}
	return j.ID, err
}

// Job is the state of a job.
func (w world) Job(ctx context.Context, id string) (runbook.Seen, error) {
	j, err := w.a.Jobs.Job(ctx, id)
	if errors.Is(err, jobs.ErrNotFound) {
		return runbook.Seen{Status: "failed", AtRest: true, RolledBack: true, Error: "its job is no longer there"}, nil
	}
	s := runbook.Seen{Status: j.Status, AtRest: jobs.Resting(j.Status), Error: j.Error, RolledBack: j.RolledBack}
	if err == nil && j.Status == "completed" {
		s.Evidence, err = w.evidence(ctx, j)
	}
	return s, err
}

// evidence reads what a completed job's receipt proves.
func (w world) evidence(ctx context.Context, j jobs.Job) (runbook.Evidence, error) {
	var e runbook.Evidence
	if j.VM != nil {
		e.VM = j.VM.ID
	}
	b, err := w.a.Jobs.Receipt(ctx, j.ID)
	if errors.Is(err, jobs.ErrNoReceipt) {
		return e, nil
	}
	if err != nil {
		return e, err
	}
	var receipt struct {
		Disks []struct {
			Verified string `json:"verified"`
		} `json:"disks"`
		Guest struct {
			Proof struct {
				Grade string `json:"grade"`
			} `json:"proof"`
		} `json:"guest"`
	}
	if err := json.Unmarshal(b, &receipt); err != nil {
		return e, fmt.Errorf("cannot read the receipt of job %s: %w", j.ID, err)
	}
	e.Disks, e.Proof = len(receipt.Disks), receipt.Guest.Proof.Grade
	for _, d := range receipt.Disks {
		if d.Verified != "" {
			e.Verified++
		}
	}
	return e, nil
}

// watchTime bounds one look at a machine.
const watchTime = 30 * time.Second

// Look tells whether a machine meets its group's condition.
func (w world) Look(ctx context.Context, r *runbook.Run, at runbook.At) (runbook.Look, error) {
	m, until := r.Machine(at), r.Document.Groups[at.Group].Until
	if until.Is == runbook.BootProof {
		ok := runbook.Graded(m.Evidence.Proof, until.Grade)
		text := "boot proof with grade " + m.Evidence.Proof
		if m.Evidence.Proof == "" {
			text = "there is no boot proof"
		}
		return runbook.Look{OK: ok, Never: !ok, Text: text}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, watchTime)
	defer cancel()
	t, _, err := w.a.Targets.Open(ctx, m.Plan.Target.Name)
	if err != nil {
		return runbook.Look{}, w.plain(ctx, err)
	}
	defer func() { _ = t.Close() }()
	looker, ok := target.As[target.Looker](t)
	if !ok {
		// A job that powers on is completed when the platform says that it runs.
		return runbook.Look{OK: until.Is == runbook.PoweredOn, Never: until.Is != runbook.PoweredOn, Text: "the platform said that it runs when it was powered on"}, nil
	}
	s, err := looker.Look(ctx, target.VM{ID: m.Evidence.VM, Name: m.Plan.Name})
	if err != nil {
		return runbook.Look{}, w.plain(ctx, fmt.Errorf("%w: %w", errTarget, err))
	}
	l := runbook.Look{OK: s.Running, Text: map[bool]string{true: "it runs", false: "it does not run"}[s.Running]}
	if until.Is == runbook.Address {
		l.OK = s.Running && len(s.Addresses) > 0
		if l.Text += ", no address is known"; len(s.Addresses) > 0 {
			l.Text = strings.Join(s.Addresses, ", ")
		}
	}
	return l, nil
}

// past makes an error of a job that is beyond what was asked none.
func past(err error) error {
	if errors.Is(err, jobs.ErrState) || errors.Is(err, jobs.ErrNotFound) {
		return nil
	}
	return err
}

// Cancel stops a job.
func (w world) Cancel(ctx context.Context, id string) error {
	return past(w.move(ctx, id, w.a.Jobs.Cancel))
}

// Retry goes on with a failed job.
func (w world) Retry(ctx context.Context, id string) error {
	return past(w.move(ctx, id, w.a.Jobs.Retry))
}

func (w world) move(ctx context.Context, id string, do func(context.Context, string) error) error {
	j, err := w.a.Jobs.Job(ctx, id)
	if err == nil {
		err = w.a.Feed.Again(ctx, j)
	}
	if err == nil {
		err = do(ctx, id)
	}
	w.a.Feed.Kick()
	return err
}
