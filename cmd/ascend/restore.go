package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ascend/internal/engine"
	"ascend/internal/plan"
	"ascend/internal/restore"
	"ascend/internal/target"
	"ascend/internal/vm"
)

type restoreFlags struct {
	requestFlags
	accept, keep, fresh, noVerify, noManifest, progress bool
	limit, receipt                                      string
	workers, disks                                      int
	proof                                               string
}

func (a *app) restoreCommand() *cobra.Command {
	var r restoreFlags
	c := &cobra.Command{
		Use:   "restore BACKUP --repo DIR --to TARGET",
		Short: "restore a backup to a target, and prove it",
		Long: `Restore the backup of a machine to a target: its disks, computed in the target's
format while they are sent, and the machine around them. The plan is shown first;
a critical finding stops the restore, warnings need --accept.

A killed restore goes on where it stopped when the same command is run again.
Ctrl-C or a failure removes exactly what was made, unless --keep is given. The
signed receipt says what was read, what landed and how that was verified.

BACKUP is an id, a VM's name (its newest backup), VM@TIME or a path in the
repository. Without --repo, name the image files of the machine's disks, in order.`,
		Example: `  ascend restore web01 --repo /backups --to vc1 --network "VM Network" --power-on
  ascend restore web01 --repo /backups --to local:/restored --format ova
  ascend restore disk.qcow2 --cpus 2 --memory 4G --firmware uefi --to vc1 --network "VM Network"`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return a.restore(c, &r, args) },
	}
	r.register(c, a, "o")
	_ = c.MarkFlagRequired("to")
	r.registerRun(c)
	return c
}

// registerRun registers the flags that restore and apply share: how it is done.
func (r *restoreFlags) registerRun(c *cobra.Command) {
	f := c.Flags()
	f.BoolVarP(&r.accept, "accept", "y", false, "accept the plan's warnings")
	f.BoolVar(&r.keep, "keep", false, "keep what was made on Ctrl-C or failure; the same command goes on, or: ascend undo JOB")
	f.BoolVar(&r.fresh, "new", false, "begin a new job although one of the same request is unfinished")
	f.BoolVar(&r.noVerify, "no-verify", false, "do not read landed disks back where the platform has no verdict of its own")
	f.BoolVar(&r.noManifest, "no-manifest", false, "do not compare an OVA's or OVF's files with its manifest first")
	f.BoolVarP(&r.progress, "progress", "p", false, "show bars although stderr is no terminal")
	f.StringVar(&r.limit, "limit", "", "bandwidth cap of all disks together, `BYTES` a second, as 100M")
	f.StringVar(&r.receipt, "receipt", "", "write the receipt to this `file` too")
	f.IntVarP(&r.workers, "workers", "m", 0, "ranges at once for each disk (default: the target's)")
	f.StringVar(&r.proof, "boot-proof", "off", "boot the machine on the target's virtual hardware, here and cut off, before anything is sent: off, advise, require or require:`GRADE` (A, B, C)")
	f.IntVar(&r.disks, "parallel-disks", 4, "disks at once")
}

func (a *app) restore(c *cobra.Command, r *restoreFlags, args []string) error {
	ch, err := choose(c, r.repo, r.sourceFormat, args)
	if err != nil {
		return err
	}
	defer ch.repo.Close()
	t, s, err := a.openTarget(c.Context(), r.to)
	if err != nil {
		return err
	}
	defer t.Close()
	return a.carryOut(c, r, ch, t, r.key(ch.b, ch.name, s.Name), func() (*prepared, error) {
		return r.prepare(c.Context(), ch, t, s)
	})
}

// carryOut carries on the unfinished job of key, else begins one of the plan
// that prepare makes, once it is consented to, and follows it to its end.
func (a *app) carryOut(c *cobra.Command, r *restoreFlags, ch *chosen, _ target.Target, key string, prepare func() (*prepared, error)) error {
	limit, err := parseLimit(r.limit)
	if err != nil {
		return usageError{err}
	}
	o := restore.Options{Keep: r.keep, Disks: r.disks, Workers: r.workers, NoVerify: r.noVerify}
	proof, err := restore.ParseProof(r.proof)
	if err != nil {
		return usageError{err}
	}
	if limit != nil {
		o.Bandwidth = int64(limit.Limit())
	}
	made, err := makeLocal(r.to)
	if err != nil {
		return err
	}
	defer func() {
		if made != "" {
			_ = os.Remove(made) // only when nothing was left in it
		}
	}()
	s, err := a.jobs()
	if err != nil {
		return err
	}
	defer s.close()
	begin := time.Now()
	j, err := a.job(c.Context(), s, r, ch, o, proof, key, prepare)
	if err != nil {
		return err
	}
	return a.follow(c.Context(), s, r, j, begin)
}

// job carries the unfinished job of the same request on, or begins a new one.
func (a *app) job(ctx context.Context, s *jobs, r *restoreFlags, ch *chosen, o restore.Options, proof restore.Proof, key string, prepare func() (*prepared, error)) (*restore.Job, error) {
	if !r.fresh {
		j, err := s.Unfinished(ctx, key)
		if err == nil {
			a.note("going on with job %s", j.ID)
			return j, s.goOn(ctx, j)
		}
		if !errors.Is(err, restore.ErrNoJob) {
			return nil, err
		}
	}
	p, err := prepare()
	if err != nil {
		return nil, err
	}
	defer p.close()
	if !a.quiet && !a.json {
		printPlan(os.Stderr, p.plan)
	}
	if err := consent(p.plan, r.accept); err != nil {
		return nil, err
	}
	if err := a.beforeRestore(ctx, r, ch); err != nil {
		return nil, err
	}
	if err := p.prove(proof); err != nil {
		return nil, err
	}
	spec := restore.Spec{Guest: p.guest, Plan: p.plan, Source: sourceOf(p.plan.Backup), Fingerprint: restore.Fingerprint(p.images), Options: o}
	return s.Submit(ctx, restore.Request{Spec: spec, Maps: p.maps, Key: key})
}

// consent refuses plans that must not or may not be carried out.
func consent(p *plan.Plan, accepted bool) error {
	var critical, warnings []string
	for _, f := range p.Findings {
		switch f.Severity {
		case plan.Critical:
			critical = append(critical, f.Text)
		case plan.Warning:
			warnings = append(warnings, f.Text)
		}
	}
	if len(critical) > 0 {
		return refusedError{withHint(fmt.Errorf("this cannot work: %s", strings.Join(critical, "; ")), "ascend plan shows every finding with advice")}
	}
	if len(warnings) > 0 && !accepted {
		return refusedError{withHint(fmt.Errorf("the plan has warnings: %s", strings.Join(warnings, "; ")), "set what is missing, or accept them with --accept")}
	}
	return nil
}

// follow shows a job until it is at rest. The first signal cancels it and what
// it made is removed; with --keep it only stops.
func (a *app) follow(ctx context.Context, s *jobs, r *restoreFlags, j *restore.Job, begin time.Time) error {
	end, err := a.show(ctx, s, j.ID, r.progress)
	if ctx.Err() != nil {
		after := context.WithoutCancel(ctx)
		if r.keep {
			s.close()
			return withHint(fmt.Errorf("restore stopped: %w", ctx.Err()), "run the same command again to go on, or remove what was made: ascend undo %s", j.ID)
		}
		a.note("removing what was made")
		if err := s.Cancel(after, j.ID); err != nil && !errors.Is(err, engine.ErrState) {
			return withHint(err, "try again: ascend jobs cancel %s", j.ID)
		}
		end, err = s.Wait(after, j.ID)
	}
	if err != nil {
		return err
	}
	switch end.Status {
	case restore.Completed:
		return a.completed(ctx, s, r, end, begin)
	case restore.Cancelled:
		a.note("removed; nothing of this restore is left on the target")
		return fmt.Errorf("restore cancelled: %w", context.Canceled)
	case restore.RolledBack:
		a.note("removed; nothing of this restore is left on the target")
		return jobError{end.Error}
	}
	return withHint(jobError{end.Error}, "go on with: ascend jobs retry %s, or remove what was made: ascend undo %s", end.ID, end.ID)
}

// jobError is the error that a job came to rest with, as the store has it.
type jobError struct{ text string }

func (e jobError) Error() string { return e.text }

// Is tells the errors apart that have exit codes and hints of their own, after
// their text: a job's error may come from another process.
func (e jobError) Is(err error) bool {
	for _, c := range codes {
		if c.err == err {
			return strings.Contains(e.text, err.Error())
		}
	}
	return false
}

func (a *app) completed(ctx context.Context, s *jobs, r *restoreFlags, j *restore.Job, begin time.Time) error {
	b, err := s.Receipt(ctx, j.ID)
	if err != nil {
		return err
	}
	rc, err := restore.ParseReceipt(b, nil)
	if err != nil {
		return err
	}
	if r.receipt != "" {
		if err := os.WriteFile(r.receipt, b, 0o644); err != nil {
			return fmt.Errorf("cannot write receipt: %w", err)
		}
	}
	if a.json {
		a.event(map[string]any{"event": "completed", "job": j.ID, "receipt": s.ReceiptFile(j.ID), "vm": rc.VM})
		return nil
	}
	a.summary(rc, s.ReceiptFile(j.ID), time.Since(begin))
	return nil
}

func (a *app) summary(rc *restore.Receipt, file string, took time.Duration) {
	if a.quiet {
		return
	}
	a.note("")
	for _, d := range rc.Disks {
		verified := d.Verified
		if verified == "" {
			verified = "not verified"
		}
		a.note("disk %d  %s  %s of data, %s sent, verified: %s\n        %s", d.Index, d.Digest, vm.FormatSize(d.Allocated), vm.FormatSize(d.Sent), verified, d.Object)
	}
	where := rc.VM.URL
	if where == "" {
		where = rc.VM.ID
	}
	a.note("restored %s in %s: %s", clean(rc.VM.Name), took.Round(10*time.Millisecond), where)
	a.note("receipt: %s (check it with: ascend verify)", file)
}

// makeLocal makes the folder of local:DIR when it is not there, and says which
// one it made.
func makeLocal(to string) (string, error) {
	dir, ok := strings.CutPrefix(to, "local:")
	if !ok {
		return "", nil
	}
	if _, err := os.Stat(dir); err == nil {
		return "", nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make folder: %w", err)
	}
	return dir, nil
}
