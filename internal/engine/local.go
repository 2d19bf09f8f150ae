package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"ascend/internal/store"
)

// LocalOptions are those of NewLocal.
type LocalOptions struct {
	// Jobs bounds how many jobs run at once; the others wait in the order of
	// their start. 0: 4.
	Jobs int
	// Worker names this process, for people; empty: the host's name.
	Worker string
	// Log receives what happens to attempts; nil: nothing is logged.
	Log *slog.Logger
	// Trace is called at each transition of a job or step, after it is stored;
	// for tests that kill the process there.
	Trace func(point string)
}

// Local is the engine of one process. Of several that drive the same job, the
// last that took it over goes on and the others are fenced.
type Local struct {
	runner
	root  context.Context //nolint:containedctx // ends with Close
	close context.CancelCauseFunc

	mu      sync.Mutex
	slots   int
	used    int
	waiting []*driven
	jobs    map[string]*driven
	closed  bool
	all     sync.WaitGroup
}

// driven is a job this process drives.
type driven struct {
	job    string
	ctx    context.Context //nolint:containedctx // of do; ends with cancel or Close
	cancel context.CancelCauseFunc
	turn   chan struct{} // closed when it has a slot, or needs none any more
	ready  bool          // turn is closed
	slot   bool
	again  bool // look at the job once more before leaving it
	done   chan struct{}
}

var _ Engine = (*Local)(nil)

// NewLocal makes the engine of this process. handlers is not changed afterwards.
func NewLocal(s *store.Store, handlers Handlers, o LocalOptions) *Local {
	if o.Jobs <= 0 {
		o.Jobs = 4
	}
	l := &Local{runner: newRunner(s, handlers, o.Worker, o.Log, o.Trace), slots: o.Jobs, jobs: map[string]*driven{}}
	l.root, l.close = context.WithCancelCause(context.Background())
	return l
}

func newRunner(s *store.Store, h Handlers, worker string, log *slog.Logger, trace func(string)) runner {
	if worker == "" {
		worker, _ = os.Hostname() // an empty name does no harm
		worker = fmt.Sprintf("%s/%d", worker, os.Getpid())
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return runner{store: s, handlers: h, worker: worker, log: log, trace: trace}
}

// SetJobs changes how many jobs run at once. Running ones go on.
func (l *Local) SetJobs(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots = max(n, 1)
	l.serve()
}

// serve gives free slots to those who wait. l.mu is held.
func (l *Local) serve() {
	for len(l.waiting) > 0 && l.used < l.slots {
		d := l.waiting[0]
		l.waiting = l.waiting[1:]
		if !d.ready {
			l.used++
			d.slot, d.ready = true, true
			close(d.turn)
		}
	}
}

// Start implements Engine. It returns at once; the job waits for its turn.
func (l *Local) Start(ctx context.Context, job string) error {
	j, err := l.store.Job(ctx, job)
	if err != nil || j.Status.AtRest() {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	if d := l.jobs[job]; d != nil {
		d.again = true
		return nil
	}
	d := &driven{job: job, turn: make(chan struct{}), done: make(chan struct{})}
	d.ctx, d.cancel = context.WithCancelCause(l.root)
	l.jobs[job] = d
	l.waiting = append(l.waiting, d)
	l.serve()
	l.all.Add(1)
	go l.carry(d)
	return nil
}

// carry drives a job until it is at rest, or the engine closes, or another
// engine has it.
func (l *Local) carry(d *driven) {
	defer l.all.Done()
	defer close(d.done)
	defer func() { d.cancel(nil) }()
	select {
	case <-d.turn:
	case <-l.root.Done():
	}
	wait := 100 * time.Millisecond
	for {
		v, err := stopped, error(nil)
		if l.root.Err() == nil {
			v, err = l.driveOnce(d)
		}
		if err != nil && l.root.Err() == nil && !errors.Is(err, store.ErrNotFound) {
			l.log.Error("cannot go on with the job, trying again", "job", d.job, "error", err, "in", wait)
			select {
			case <-time.After(wait):
			case <-l.root.Done():
			}
			wait = min(2*wait, 10*time.Second)
			continue
		}
		if v == fenced {
			l.log.Warn("job is carried out elsewhere now", "job", d.job)
		}
		l.mu.Lock()
		if d.again && l.root.Err() == nil && v == done {
			// Retry or Undo came while the job was coming to rest.
			d.again = false
			if context.Cause(d.ctx) != nil {
				d.cancel(nil)
				d.ctx, d.cancel = context.WithCancelCause(l.root)
			}
			l.mu.Unlock()
			continue
		}
		delete(l.jobs, d.job)
		if d.slot {
			l.used--
			l.serve()
		}
		l.mu.Unlock()
		return
	}
}

// driveOnce takes the job over and drives it. An error is the store's.
func (l *Local) driveOnce(d *driven) (verdict, error) {
	j, err := l.store.Job(l.root, d.job)
	if err != nil || j.Status.AtRest() {
		return done, err
	}
	if j, err = l.store.TakeDrive(l.root, d.job, store.NewID()); err != nil {
		return stopped, err
	}
	steps, err := l.store.Steps(l.root, d.job)
	if err != nil {
		return stopped, err
	}
	if j.CancelRequested {
		d.cancel(ErrCancelled)
	}
	p := &localPort{l: l, d: d, drive: j.Drive}
	s := sagaOf(j, steps)
	v := s.drive(p)
	return v, p.err
}

// localPort carries a saga's commands out in this process.
type localPort struct {
	l     *Local
	d     *driven
	drive int64
	err   error // of the store; the saga has stopped for it
}

func (p *localPort) Do(c command) []result {
	if p.l.root.Err() != nil || p.err != nil {
		rs := []result{{Verdict: stopped}}
		for i, n := range c.Steps {
			if i > 0 {
				rs = append(rs, result{Verdict: stopped})
			}
			rs[i].Step = n
		}
		return rs
	}
	switch c.Op {
	case opRun:
		return p.run(c.Steps)
	case opUndo:
		r, err := p.step(p.l.root, c.Steps[0], true)
		p.err = err
		return []result{r}
	}
	v, err := p.l.command(context.WithoutCancel(p.l.root), p.d.job, p.drive, c)
	p.err = err
	return []result{{Verdict: v}}
}

// command stores a change of the job itself.
func (r *runner) command(ctx context.Context, job string, drive int64, c command) (verdict, error) {
	var err error
	switch c.Op {
	case opPhase:
		err = r.store.SetPhase(ctx, job, drive, c.Status)
	case opTurn:
		err = r.store.Turn(ctx, job, drive, c.Status, c.Reason)
	case opSettle:
		err = r.store.Settle(ctx, job, drive, c.Status, c.Reason, c.RolledBack)
	}
	switch {
	case errors.Is(err, ErrFenced), errors.Is(err, store.ErrNotFound):
		return fenced, nil
	case errors.Is(err, ErrCancelled):
		return cancelled, nil
	case err != nil:
		return stopped, err
	}
	if r.trace != nil {
		r.trace(fmt.Sprintf("%s %s", c.Op, c.Status))
	}
	return done, nil
}

// run does steps in parallel. When one fails, the others are stopped and awaited.
func (p *localPort) run(names []string) []result {
	ctx, cancel := context.WithCancelCause(p.d.ctx)
	defer cancel(nil)
	rs := make([]result, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() {
			rs[i], errs[i] = p.step(ctx, n, false)
			if rs[i].Verdict != done {
				cancel(errSibling)
			}
		})
	}
	wg.Wait()
	p.err = errors.Join(errs...)
	return rs
}

// step runs attempts of a step until it is done or has failed.
func (p *localPort) step(ctx context.Context, name string, undo bool) (result, error) {
	c := call{Job: p.d.job, Step: name, Undo: undo, Drive: p.drive, Epoch: epoch(p.drive, 0, 0)}
	begun := false
	for {
		select {
		case <-ctx.Done():
			return result{Step: name, Verdict: why(ctx), Begun: begun}, nil
		default:
		}
		a, err := p.l.attempt(ctx, c)
		begun = begun || a.Begun
		a.Begun = begun
		if err != nil {
			a.Verdict = stopped
			return a.result, err
		}
		if a.Verdict != again {
			return a.result, nil
		}
		if v := p.l.pause(ctx, c, a); v != again {
			a.Verdict = v
			return a.result, nil
		}
	}
}

// why is the verdict on a step whose context ended.
func why(ctx context.Context) verdict {
	if errors.Is(context.Cause(ctx), ErrCancelled) {
		return cancelled
	}
	return stopped
}

// pause waits for the next attempt, and looks for a cancellation from elsewhere
// meanwhile.
func (r *runner) pause(ctx context.Context, c call, a answer) verdict {
	t := time.NewTimer(a.After)
	defer t.Stop()
	look := time.NewTicker(watchEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return why(ctx)
		case <-t.C:
			return again
		case <-look.C:
			isCancelled, err := r.store.WatchAttempt(ctx, c.Job, a.stepID, a.fence)
			switch {
			case errors.Is(err, ErrFenced):
				return fenced
			case err == nil && isCancelled && !c.Undo:
				return cancelled
			}
		}
	}
}

// Cancel implements Engine.
func (l *Local) Cancel(ctx context.Context, job string) error {
	if err := l.store.RequestCancel(ctx, job); err != nil {
		return err
	}
	l.mu.Lock()
	if d := l.jobs[job]; d != nil {
		d.cancel(ErrCancelled)
		if !d.ready { // it need not wait for its turn to be cancelled
			d.ready = true
			close(d.turn)
		}
	}
	l.mu.Unlock()
	return l.Start(ctx, job)
}

// Retry implements Engine.
func (l *Local) Retry(ctx context.Context, job string) error {
	if err := l.store.RequestRetry(ctx, job); err != nil {
		return err
	}
	return l.Start(ctx, job)
}

// Undo implements Engine.
func (l *Local) Undo(ctx context.Context, job string) error {
	if err := l.store.RequestUndo(ctx, job); err != nil {
		return err
	}
	return l.Start(ctx, job)
}

// Recover implements Engine.
func (l *Local) Recover(ctx context.Context) error {
	ids, err := l.store.UnfinishedJobs(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := l.Start(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// Wait implements Engine. A job that another process drives is asked after now
// and then.
func (l *Local) Wait(ctx context.Context, job string) error {
	for {
		l.mu.Lock()
		d := l.jobs[job]
		l.mu.Unlock()
		j, err := l.store.Job(ctx, job)
		switch {
		case err != nil:
			return err
		case j.Status.AtRest():
			return nil
		case l.root.Err() != nil:
			return ErrClosed
		}
		if d == nil {
			d = &driven{done: make(chan struct{})}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.done:
		case <-l.root.Done():
		case <-time.After(watchEvery / 4):
		}
	}
}

// Close implements Engine.
func (l *Local) Close(ctx context.Context) error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.close(errClosing)
	rest := make(chan struct{})
	go func() {
		l.all.Wait()
		close(rest)
	}()
	select {
	case <-rest:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot wait for the running steps: %w", ctx.Err())
	}
}
