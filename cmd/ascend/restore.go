package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ascend/internal/disk"
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

// carryOut runs the unfinished job of key, else a new one of the plan that
// prepare makes, once it is consented to.
func (a *app) carryOut(c *cobra.Command, r *restoreFlags, ch *chosen, t target.Target, key string, prepare func() (*prepared, error)) error {
	o := restore.Options{Disks: r.disks, Workers: r.workers, NoVerify: r.noVerify, Software: software()}
	var err error
	if o.Limit, err = parseLimit(r.limit); err != nil {
		return usageError{err}
	}
	st, err := restore.OpenState(a.state())
	if err != nil {
		return err
	}
	if o.Key, err = restore.SigningKey(filepath.Join(st.Dir(), "receipt.key")); err != nil {
		return err
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
	o.OpenDisk = func(ctx context.Context, i int) (disk.Image, error) { return ch.repo.OpenDisk(ctx, ch.b, i) }
	j, err := a.job(c.Context(), r, st, ch, key, prepare)
	if err != nil {
		return err
	}
	defer j.Close()
	return a.runJob(c, r, j, t, o)
}

// job resumes the unfinished job of the same request, or plans a new one.
func (a *app) job(ctx context.Context, r *restoreFlags, st *restore.State, ch *chosen, key string, prepare func() (*prepared, error)) (*restore.Job, error) {
	if !r.fresh {
		j, err := st.Unfinished(key)
		if err == nil {
			a.note("going on with job %s", j.ID)
			return j, nil
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
	return st.Create(key, p.plan, restore.Fingerprint(p.images), p.maps)
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

func (a *app) runJob(c *cobra.Command, r *restoreFlags, j *restore.Job, t target.Target, o restore.Options) error {
	bars := a.startProgress(r.progress, true)
	o.Observe = func(e restore.Event) { a.observe(bars, j, e) }
	begin := time.Now()
	rc, err := j.Run(c.Context(), t, o)
	bars.done()
	if err != nil {
		return a.afterFailure(c.Context(), r, j, t, err)
	}
	if r.receipt != "" {
		b, err := os.ReadFile(j.Receipt())
		if err == nil {
			err = os.WriteFile(r.receipt, b, 0o644)
		}
		if err != nil {
			return fmt.Errorf("cannot write receipt: %w", err)
		}
	}
	if a.json {
		a.event(map[string]any{"event": "completed", "job": j.ID, "receipt": j.Receipt(), "vm": rc.VM})
		return nil
	}
	a.summary(rc, j, time.Since(begin))
	return nil
}

func (a *app) observe(bars *progress, j *restore.Job, e restore.Event) {
	if e.Meter != nil {
		name := e.Step
		if e.Disk >= 0 {
			name = fmt.Sprintf("%s disk %d", e.Step, j.Plan.Disks[e.Disk].Index)
		}
		bars.add(name, e.Meter)
	}
	a.event(map[string]any{"event": "step", "job": e.Job, "step": e.Step, "disk": e.Disk, "state": e.State, "detail": e.Detail, "time": e.Time.UTC()})
}

// afterFailure undoes what the job made, unless it is to be kept.
func (a *app) afterFailure(ctx context.Context, r *restoreFlags, j *restore.Job, t target.Target, err error) error {
	if r.keep {
		return withHint(err, "run the same command again to go on, or remove what was made: ascend undo %s", j.ID)
	}
	a.note("removing what was made")
	undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Minute)
	defer cancel()
	if uerr := j.Undo(undoCtx, t); uerr != nil {
		return withHint(errors.Join(err, uerr), "not everything could be removed; try again: ascend undo %s", j.ID)
	}
	a.note("removed; nothing of this restore is left on the target")
	return err
}

func (a *app) summary(rc *restore.Receipt, j *restore.Job, took time.Duration) {
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
	a.note("receipt: %s (check it with: ascend verify)", j.Receipt())
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
