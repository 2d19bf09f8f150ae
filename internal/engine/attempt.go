package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"ascend/internal/store"
)

// Why an attempt's context ends, besides ErrCancelled and ErrFenced.
var (
	errClosing = errors.New("the program shuts down")
	errSibling = errors.New("another step of the stage failed")
	errAlone   = errors.New("the database was out of reach for so long that another worker may have taken the step over")
)

// watchEvery is how often a running attempt looks whether it is fenced or
// cancelled from elsewhere, and about how often progress is written.
const watchEvery = time.Second

// runner runs attempts; every engine has one.
type runner struct {
	store    *store.Store
	handlers Handlers
	worker   string
	log      *slog.Logger
	trace    func(point string)
	// lease is for how long an attempt may go on without a look at its row, where
	// another worker may take it over meanwhile; 0: for ever.
	lease time.Duration
}

// call names one attempt of one step.
type call struct {
	Job, Step    string
	Undo         bool
	Drive, Epoch int64
}

// epoch orders attempts: those of a later drive, of a later call within it, and
// later repetitions of one call are higher, and fence the lower ones even when
// these begin late.
func epoch(drive, nth int64, repetition int32) int64 {
	return drive<<40 | min(nth, 1<<24-1)<<16 | int64(min(repetition, 1<<16-1))
}

// answer is how an attempt went.
type answer struct {
	result
	After  time.Duration // before the next attempt, with verdict again
	alone  bool          // stopped by errAlone
	stepID string
	fence  int64
}

// attempt runs one attempt of one step. ctx's cause tells why it ends. An error
// is the store's: how the attempt went could not be stored, and it is to be
// tried again.
func (r *runner) attempt(ctx context.Context, c call) (answer, error) {
	out := answer{result: result{Step: c.Step}}
	stores := context.WithoutCancel(ctx) // an end must be stored whatever ended the attempt
	b, err := r.store.BeginAttempt(stores, store.Begin{Job: c.Job, Step: c.Step, Attempt: store.NewID(), Worker: r.worker, Undo: c.Undo, Drive: c.Drive, Epoch: c.Epoch})
	switch {
	case errors.Is(err, ErrCancelled):
		out.Verdict = cancelled
		return out, nil
	case errors.Is(err, ErrFenced):
		out.Verdict = fenced
		return out, nil
	case err != nil:
		return out, err
	}
	out.Begun, out.stepID, out.fence = true, b.Step.ID, b.Step.Fence
	switch {
	case b.Finished:
		out.Verdict = done
		return out, nil
	case b.Exhausted:
		out.Verdict, out.Error = failed, b.Step.ErrorMessage
		return out, nil
	}
	r.point("begun", c)
	log := r.log.With("job", c.Job, "step", c.Step, "attempt", b.Step.Attempt, "undo", c.Undo)

	hctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	h := &host{r: r, c: c, b: b, cancel: cancel, ctx: hctx}
	var watch sync.WaitGroup
	watch.Add(1)
	stop := make(chan struct{})
	go func() {
		defer watch.Done()
		h.watch(stop)
	}()
	err = r.handle(hctx, log, &Attempt{Job: c.Job, Step: stepOf(&b.Step), Number: b.Number, Checkpoint: b.Checkpoint, Host: h}, c.Undo)
	close(stop)
	watch.Wait()
	cause := context.Cause(hctx)
	r.point("did", c)
	if err == nil && !errors.Is(cause, ErrFenced) {
		switch lost := h.flush(stores); {
		case errors.Is(lost, ErrFenced):
			err = lost
		case store.IsTrouble(lost):
			return out, lost
		}
	}

	end := store.End{Job: c.Job, Step: c.Step, StepID: b.Step.ID, Fence: b.Step.Fence, Undo: c.Undo, Status: store.Pending, Refund: true}
	if c.Undo {
		end.Status = store.Compensating
	}
	var later *RetryAfter
	switch {
	case errors.Is(err, ErrFenced), errors.Is(cause, ErrFenced):
		out.Verdict = fenced
		return out, nil
	case err == nil:
		out.Verdict, end.Refund, end.Status = done, false, store.Completed
		if c.Undo {
			end.Status = store.RolledBack
		}
	case !c.Undo && (errors.Is(err, ErrCancelled) || errors.Is(cause, ErrCancelled)):
		out.Verdict = cancelled
	case errors.Is(cause, errClosing), errors.Is(cause, errSibling), errors.Is(cause, errAlone):
		out.Verdict, out.alone = stopped, errors.Is(cause, errAlone)
	case ctx.Err() != nil: // an engine's own reason
		out.Verdict = stopped
	case errors.As(err, &later):
		out.Verdict, out.After = again, max(later.After, 10*time.Millisecond)
		end.Error, end.RetryIn = err.Error(), out.After
	case store.IsTrouble(err): // not the handler's fault
		out.Verdict, out.After = again, 5*time.Second
		end.Error, end.RetryIn = err.Error(), out.After
	case errors.Is(err, ErrPermanent), b.Last && !h.moved(), r.handlers[b.Step.Kind] == nil:
		out.Verdict, out.Error = failed, err.Error()
		end.Status, end.Error, end.Refund = store.Failed, err.Error(), false
	default:
		out.Verdict, out.After = again, backoff(&b.Step, b.Number)
		end.Error, end.RetryIn, end.Refund = err.Error(), out.After, false
	}
	if end.Error != "" {
		log.Warn("attempt failed", "error", end.Error, "next", out.After)
	}
	err = r.store.EndAttempt(stores, end)
	if errors.Is(err, ErrFenced) {
		out.Verdict, err = fenced, nil
	}
	if err == nil {
		r.point("ended", c)
	}
	return out, err
}

// backoff doubles from the step's first wait up to a minute.
func backoff(s *store.Step, number int) time.Duration {
	d := time.Duration(s.BackoffMS) * time.Millisecond
	for range number - 1 {
		d *= 2
		if d > time.Minute {
			break
		}
	}
	return min(d, max(time.Minute, time.Duration(s.BackoffMS)*time.Millisecond))
}

// handle calls the handler. One that panics has failed its attempt.
func (r *runner) handle(ctx context.Context, log *slog.Logger, a *Attempt, undo bool) (err error) {
	h := r.handlers[a.Step.Kind]
	if h == nil {
		return fmt.Errorf("cannot carry out step %q: this program has no handler of kind %q: %w", a.Step.Name, a.Step.Kind, ErrPermanent)
	}
	defer func() {
		if v := recover(); v != nil {
			log.Error("step panicked", "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			err = fmt.Errorf("cannot carry out step %q: a defect of this program: %v (the log has the stack)", a.Step.Name, v)
		}
	}()
	if undo {
		return h.Undo(ctx, a)
	}
	return h.Do(ctx, a)
}

func (r *runner) point(name string, c call) {
	if r.trace == nil {
		return
	}
	if c.Undo {
		name += " undo"
	}
	r.trace(name + " " + c.Step)
}

// host is an attempt's way to the tables.
type host struct {
	r      *runner
	c      call
	b      *store.Begun
	ctx    context.Context //nolint:containedctx // of the attempt, for its cause
	cancel context.CancelCauseFunc

	mu          sync.Mutex
	done, total int64
	dirty       bool
	best        int64
	written     time.Time
}

var _ AttemptHost = (*host)(nil)

func (h *host) Progress(ctx context.Context, done, total int64) error {
	h.mu.Lock()
	full := done == total && (h.done != done || h.total != total)
	h.done, h.total, h.dirty = done, total, true
	h.best = max(h.best, done)
	due := full || time.Since(h.written) >= watchEvery
	if due {
		h.written = time.Now()
	}
	h.mu.Unlock()
	if !due {
		return h.state()
	}
	return h.save(ctx, store.Save{})
}

// state is why the attempt is to end, as a handler is told.
func (h *host) state() error {
	if h.ctx.Err() == nil {
		return nil
	}
	return context.Cause(h.ctx)
}

func (h *host) Save(ctx context.Context, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot store the checkpoint: %w: %w", ErrPermanent, err)
	}
	return h.save(ctx, store.Save{Checkpoint: b})
}

func (h *host) Result(ctx context.Context, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot store the result: %w: %w", ErrPermanent, err)
	}
	return h.save(ctx, store.Save{Metadata: b})
}

func (h *host) save(ctx context.Context, v store.Save) error {
	v.Job, v.StepID, v.Fence = h.c.Job, h.b.Step.ID, h.b.Step.Fence
	h.mu.Lock()
	// An undo's progress would overwrite how far do came.
	if h.dirty && !h.c.Undo {
		v.Progress, v.Done, v.Total = true, h.done, h.total
	}
	h.dirty = false
	h.mu.Unlock()
	// What was reached is stored even when the attempt is being stopped.
	isCancelled, err := h.r.store.SaveAttempt(context.WithoutCancel(ctx), v)
	switch {
	case errors.Is(err, ErrFenced):
		h.cancel(ErrFenced)
		return ErrFenced
	case err != nil:
		return err
	case isCancelled && !h.c.Undo:
		h.cancel(ErrCancelled)
		return ErrCancelled
	}
	return h.state()
}

func (h *host) flush(ctx context.Context) error {
	h.mu.Lock()
	dirty := h.dirty
	h.mu.Unlock()
	if !dirty {
		return nil
	}
	return h.save(ctx, store.Save{})
}

// moved tells whether the attempt came further than any before.
func (h *host) moved() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.c.Undo && h.best > h.b.Step.Best
}

func (h *host) Note(ctx context.Context, level, text string) error {
	return h.r.store.AppendEvent(context.WithoutCancel(ctx), &store.Event{Job: h.c.Job, Step: h.c.Step, Level: level, Message: text})
}

// watch ends the attempt when it was fenced, or cancelled from elsewhere, or when
// that cannot be told for longer than the lease.
func (h *host) watch(stop <-chan struct{}) {
	t := time.NewTicker(watchEvery)
	defer t.Stop()
	seen := func() {}
	if h.r.lease > 0 {
		alone := time.AfterFunc(h.r.lease, func() { h.cancel(errAlone) })
		defer alone.Stop()
		seen = func() { alone.Reset(h.r.lease) }
	}
	for {
		select {
		case <-stop:
			return
		case <-h.ctx.Done():
			return
		case <-t.C:
		}
		isCancelled, err := h.r.store.WatchAttempt(h.ctx, h.c.Job, h.b.Step.ID, h.b.Step.Fence)
		if err == nil {
			seen()
		}
		switch {
		case errors.Is(err, ErrFenced):
			h.cancel(ErrFenced)
		case err == nil && isCancelled && !h.c.Undo:
			h.cancel(ErrCancelled)
		}
	}
}
