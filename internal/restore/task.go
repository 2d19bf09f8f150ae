package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ascend/internal/backup"
	"ascend/internal/disk"
	"ascend/internal/engine"
	"ascend/internal/target"
	"ascend/internal/transfer"
)

// task is one attempt of one step of one job.
type task struct {
	s    *Service
	a    *engine.Attempt
	in   input
	spec *Spec
	stop context.CancelCauseFunc // ends the attempt
}

// classify marks the errors after which another attempt is of no use.
func classify(err error) error {
	var later *engine.RetryAfter
	if err == nil || errors.Is(err, engine.ErrPermanent) || errors.As(err, &later) {
		return err
	}
	for _, e := range []error{ErrSourceChanged, disk.ErrChanged, disk.ErrCorrupt, disk.ErrMissing, disk.ErrEscape, disk.ErrFormat, disk.ErrUnsupported, backup.ErrNotFound, backup.ErrAmbiguous, backup.ErrFault, backup.ErrDigest} {
		if errors.Is(err, e) {
			return &permanent{err}
		}
	}
	if target.IsPermanent(err) && !errors.Is(err, context.Canceled) {
		return &permanent{err}
	}
	return err
}

// permanent adds engine.ErrPermanent to an error without a word.
type permanent struct{ error }

func (p *permanent) Unwrap() []error { return []error{p.error, engine.ErrPermanent} }

// note adds a line to the job's log.
func (t *task) note(ctx context.Context, level, format string, args ...any) error {
	return t.a.Host.Note(ctx, level, fmt.Sprintf(format, args...))
}

// done says that the step has done all of its bytes.
func (t *task) done(ctx context.Context) error {
	return t.a.Host.Progress(ctx, t.in.Bytes, t.in.Bytes)
}

// follow tells the engine what a meter shows while a step is at work. When the
// engine says that the step is no longer this attempt's, the attempt ends. stop
// tells the end.
func (t *task) follow(ctx context.Context, m *transfer.Meter) (stop func()) {
	unlist := t.s.live.list(t.a.Job, t.a.Step.Name, m)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(t.s.tick)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-ctx.Done():
				return
			case <-tick.C:
				p := m.Read()
				err := t.a.Host.Progress(ctx, p.Done, max(p.Total, p.Done))
				if errors.Is(err, engine.ErrFenced) || errors.Is(err, engine.ErrCancelled) {
					t.stop(err)
					return
				}
				// Another error is one of the tables: work goes on, they may come back.
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(end)
		<-ended
		unlist()
	})
}

// dir is the job's folder on this machine.
func (t *task) dir() (string, error) {
	dir := t.s.jobDir(t.a.Job)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot make job folder: %w", err)
	}
	return dir, nil
}

func (t *task) file(name string) string { return filepath.Join(t.s.jobDir(t.a.Job), name) }

// Names of a job's blobs.
const (
	blobReceipt = "receipt"
	blobMachine = "machine"
)

func blobMap(i int) string    { return fmt.Sprintf("disk-%d.map", i) }
func blobLanded(i int) string { return fmt.Sprintf("disk-%d.landed", i) }

// landing is what is stored of a disk that has landed.
type landing struct {
	DiskReceipt
	// Session that it landed in: where uploads do not survive their session, it
	// is not believed in another.
	Session string `json:"session"`
}

func (t *task) landed(ctx context.Context, i int) (*landing, error) {
	l := &landing{}
	ok, err := t.load(ctx, blobLanded(i), l)
	if err != nil || !ok {
		return nil, err
	}
	return l, nil
}

// load reads a blob that holds JSON; it tells whether there is one.
func (t *task) load(ctx context.Context, name string, v any) (bool, error) {
	b, err := t.s.store.Blob(ctx, t.a.Job, name)
	if err != nil || b == nil {
		return false, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("cannot read the job's %s: %w", name, err)
	}
	return true, nil
}

func (t *task) save(ctx context.Context, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return t.s.store.PutBlob(ctx, t.a.Job, name, b)
}

// extents reads the extent map of a disk as it was when the job was planned.
func (t *task) extents(ctx context.Context, i int) (*disk.Map, error) {
	b, err := t.s.store.Blob(ctx, t.a.Job, blobMap(i))
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, fmt.Errorf("the job's map of disk %d is gone: %w", i, engine.ErrPermanent)
	}
	return disk.ParseMap(b)
}

// session is the job's session on its target, begun where there is none.
func (t *task) session(ctx context.Context) (*use, error) {
	return t.s.sessions.get(ctx, t.a.Job, func(ctx context.Context) (target.Target, target.Session, error) {
		tgt, err := t.s.resolver.Target(ctx, t.spec.Plan.Target.Name)
		if err != nil {
			return nil, nil, err
		}
		order, err := t.order(ctx)
		if err != nil {
			return nil, nil, errors.Join(err, tgt.Close())
		}
		s, err := tgt.Begin(ctx, order, t.recorder())
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("cannot begin on %s: %w", t.spec.Plan.Target.Name, err), tgt.Close())
		}
		return tgt, s, nil
	})
}

func (t *task) recorder() target.Recorder { return recorder{t.s.store, t.a.Job} }

// recorder is the table of resources, as targets see it.
type recorder struct {
	store Store
	job   string
}

func (r recorder) Record(ctx context.Context, res target.Resource) error {
	if err := r.store.Record(ctx, r.job, res); err != nil {
		return fmt.Errorf("cannot record what is created: %w", err)
	}
	return nil
}

func (r recorder) Recorded(ctx context.Context) ([]target.Resource, error) {
	return r.store.Resources(ctx, r.job)
}

// source opens the job's backup.
func (t *task) source(ctx context.Context) (Source, error) {
	return t.s.resolver.Source(ctx, t.spec.Source)
}

// openDisk opens a disk as it is to be sent: the one planned, and over it the
// layer of an adapted guest.
func (t *task) openDisk(ctx context.Context, src Source, i int) (disk.Image, error) {
	img, err := t.openBackup(ctx, src, i)
	if err != nil || !t.spec.adapts() {
		return img, err
	}
	return t.adapted(ctx, img, i)
}

// openBackup opens a disk of the backup and sees to it that it is the one planned.
func (t *task) openBackup(ctx context.Context, src Source, i int) (disk.Image, error) {
	img, err := src.OpenDisk(ctx, i)
	if err != nil {
		return nil, err
	}
	if i >= len(t.spec.Fingerprint) || fingerprint(img) != t.spec.Fingerprint[i] {
		img.Close()
		return nil, fmt.Errorf("disk %d: %w", t.spec.Plan.Disks[i].Index, ErrSourceChanged)
	}
	return img, nil
}
