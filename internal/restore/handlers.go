package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ascend/internal/backup"
	"ascend/internal/engine"
	"ascend/internal/target"
	"ascend/internal/transfer/digest"
	"ascend/internal/vm"
)

// validate asks the target whether it can be reached, signed in to and used.
func (t *task) validate(ctx context.Context) error {
	tgt, err := t.s.resolver.Target(ctx, t.spec.Plan.Target.Name)
	if err != nil {
		return fmt.Errorf("cannot open target %s: %w", t.spec.Plan.Target.Name, err)
	}
	defer tgt.Close()
	var failed []string
	for _, c := range tgt.Validate(ctx) {
		if !c.OK {
			line := c.Name
			for _, s := range []string{c.Detail, c.Hint} {
				if s != "" {
					line += ": " + s
				}
			}
			failed = append(failed, line)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("target %s is not ready: %s", t.spec.Plan.Target.Name, strings.Join(failed, "; "))
	}
	return nil
}

// spareState is what the job's folder must have free: journals take about 40
// bytes for each MiB sent.
const spareState = 16 << 20

// reserve sees to it that there is room: here for the journals, and on the
// target for what the plan places on named storage.
func (t *task) reserve(ctx context.Context) error {
	dir, err := t.dir()
	if err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("cannot look at the job's folder: %w", err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < spareState {
		return fmt.Errorf("the folder of jobs %s has %s free and needs %s: make room there", dir, vm.FormatSize(free), vm.FormatSize(spareState))
	}
	recorded, err := t.recorder().Recorded(ctx)
	if err != nil || len(recorded) > 0 {
		return err // what was created takes its room already
	}
	tgt, err := t.s.resolver.Target(ctx, t.spec.Plan.Target.Name)
	if err != nil {
		return err
	}
	defer tgt.Close()
	inv, err := tgt.Inventory(ctx)
	if err != nil {
		return fmt.Errorf("cannot ask %s what it has: %w", t.spec.Plan.Target.Name, err)
	}
	return room(t.spec, inv)
}

// room compares the free space of named storage with what the plan puts there.
// Storage that several placement fields name alike is one.
func room(s *Spec, inv *target.Inventory) error {
	free := map[string]int64{}
	for _, places := range inv.Places {
		for _, p := range places {
			free[p.Name] = max(free[p.Name], p.Free)
		}
	}
	need := map[string]int64{}
	for i, d := range s.Plan.Disks {
		if st := s.Plan.Placement.Storage; i < len(st) && st[i] != "" {
			need[st[i]] += d.Source.Allocated
		}
	}
	for name, n := range need {
		if f := free[name]; f > 0 && n > f {
			return fmt.Errorf("%s has %s free and the disks placed there hold %s: make room or place them elsewhere: %w",
				name, vm.FormatSize(f), vm.FormatSize(n), engine.ErrPermanent)
		}
	}
	return nil
}

// forgetFiles removes what is left of the job's files when all is undone.
func (t *task) forgetFiles(context.Context) error {
	for i := range t.spec.Plan.Disks {
		if err := os.Remove(t.file(journalName(i))); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove journal: %w", err)
		}
	}
	return nil
}

// openSource opens every disk, so that a backup that is gone or changed stops
// the job before anything is created, and checks the backup's own digests.
func (t *task) openSource(ctx context.Context) error {
	src, err := t.source(ctx)
	if err != nil {
		return gone(err)
	}
	defer src.Close()
	for i := range t.spec.Plan.Disks {
		img, err := t.openBackup(ctx, src, i)
		if err != nil {
			return gone(err)
		}
		img.Close()
	}
	if !t.spec.Options.CheckBackup {
		return nil
	}
	var lost error
	err = src.Check(ctx, func(done, total int64) {
		if err := t.a.Host.Progress(ctx, done, total); errors.Is(err, engine.ErrFenced) || errors.Is(err, engine.ErrCancelled) {
			lost = err
			t.stop(err)
		}
	})
	if errors.Is(err, backup.ErrNoManifest) {
		return t.note(ctx, levelWarning, "the backup carries no digests to check; its disks are read as they are")
	}
	return errors.Join(lost, err)
}

// gone marks the error of a source that is not there, or may not be read: before
// anything is created nobody is served by waiting whether it comes back.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return &permanent{fmt.Errorf("%w (is the repository mounted, and readable for this user?)", err)}
	}
	return err
}

// begin has the target make what uploads need.
func (t *task) begin(ctx context.Context) error {
	u, err := t.session(ctx)
	if err == nil {
		u.done(nil)
	}
	return err
}

// removeAll removes everything that the job recorded, the newest first, and
// nothing else. It goes on after a failure and returns all of them.
func (t *task) removeAll(ctx context.Context) error {
	t.s.sessions.close(ctx, t.a.Job)
	all, err := t.recorder().Recorded(ctx)
	if err != nil {
		return err
	}
	left := 0
	for _, r := range all {
		if !r.Gone {
			left++
		}
	}
	if left == 0 {
		return nil
	}
	tgt, err := t.s.resolver.Target(ctx, t.spec.Plan.Target.Name)
	if err != nil {
		return fmt.Errorf("cannot open target %s: %w", t.spec.Plan.Target.Name, err)
	}
	defer tgt.Close()
	var errs []error
	for _, r := range slices.Backward(all) {
		if r.Gone {
			continue
		}
		if err := tgt.Undo(ctx, r); err != nil {
			errs = append(errs, fmt.Errorf("cannot undo %s %q: %w", r.Kind, r.Name, err))
			continue
		}
		r.Gone = true
		if err := t.recorder().Record(ctx, r); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := t.note(ctx, levelInfo, "removed %s %s", r.Kind, r.Name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// finish has the target make the machine. Where uploads do not survive their
// session, disks that landed in another one are sent again first.
func (t *task) finish(ctx context.Context) (err error) {
	u, err := t.session(ctx)
	if err != nil {
		return err
	}
	defer func() { u.done(err) }()
	for i := range t.spec.Plan.Disks {
		if err := t.deliver(ctx, u, i); err != nil {
			return diskError(t.spec, i, err)
		}
	}
	v, err := u.Finish(ctx)
	if err != nil {
		return fmt.Errorf("cannot create the machine: %w", err)
	}
	if err := t.save(ctx, blobMachine, v); err != nil {
		return err
	}
	return t.s.store.SetMachine(ctx, t.a.Job, v.ID, v.Name)
}

func (t *task) machine(ctx context.Context) (*target.VM, error) {
	v := &target.VM{}
	ok, err := t.load(ctx, blobMachine, v)
	if err == nil && !ok {
		err = fmt.Errorf("the job's machine is not recorded: %w", engine.ErrPermanent)
	}
	return v, err
}

func (t *task) powerOn(ctx context.Context) (err error) {
	v, err := t.machine(ctx)
	if err != nil {
		return err
	}
	u, err := t.session(ctx)
	if err != nil {
		return err
	}
	defer func() { u.done(err) }()
	was := *v
	if err := u.PowerOn(ctx, v); err != nil {
		return fmt.Errorf("cannot power on the machine: %w", err)
	}
	if *v == was {
		return nil
	}
	// Where what is powered on is another thing, as an instance of an image is,
	// that is the machine from here on.
	if err := t.save(ctx, blobMachine, v); err != nil {
		return err
	}
	return t.s.store.SetMachine(ctx, t.a.Job, v.ID, v.Name)
}

// receipt writes and signs what was read, what landed and how that was
// verified. Without a digest of every disk there is none, and the job fails.
func (t *task) receipt(ctx context.Context) error {
	v, err := t.machine(ctx)
	if err != nil {
		return err
	}
	created, err := t.s.store.Job(ctx, t.a.Job)
	if err != nil {
		return err
	}
	p := t.spec.Plan
	rc := &Receipt{
		Version: 1, Job: t.a.Job, Software: t.s.software, Started: created.Created.UTC().Truncate(stampUnit), Finished: stamp(),
		Backup: p.Backup, Target: p.Target, VM: *v, PoweredOn: p.PowerOn,
	}
	for i, d := range p.Disks {
		l, err := t.landed(ctx, i)
		if err != nil {
			return err
		}
		if l == nil || l.Digest == (digest.Sum{}) || l.Verified == "" && l.Unverified == "" {
			return fmt.Errorf("disk %d has no proof of what landed: %w", d.Index, engine.ErrPermanent)
		}
		rc.Disks = append(rc.Disks, &l.DiskReceipt)
	}
	if rc.Guest, err = t.guestReceipt(ctx); err != nil {
		return err
	}
	if err := rc.SignWith(t.s.key); err != nil {
		return err
	}
	b, err := json.MarshalIndent(rc, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if err := t.s.store.PutBlob(ctx, t.a.Job, blobReceipt, b); err != nil {
		return err
	}
	if _, err := t.dir(); err != nil {
		return err
	}
	if err := writeFile(t.file(receiptName), b); err != nil {
		return fmt.Errorf("cannot write receipt: %w", err)
	}
	return nil
}

// cleanup removes what only a resume needs, and ends the session.
func (t *task) cleanup(ctx context.Context) error {
	t.s.sessions.close(ctx, t.a.Job)
	if err := t.forgetLayers(ctx); err != nil {
		return err
	}
	for i := range t.spec.Plan.Disks {
		if err := t.dropJournal(ctx, i); err != nil {
			return err
		}
		if err := t.s.store.DeleteBlob(ctx, t.a.Job, blobMap(i)); err != nil {
			return err
		}
	}
	return nil
}

func diskError(s *Spec, i int, err error) error {
	return fmt.Errorf("disk %d: %w", s.Plan.Disks[i].Index, err)
}
