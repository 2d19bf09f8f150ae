// Package engine carries jobs out: a job is a list of steps, made before it
// starts, and each step has a do and an undo. The tables of package store are
// the truth; an engine only drives. Whatever drives — the local runner of this
// process, or workers joined by Temporal — the same deterministic driver decides
// what comes next, the same function runs one attempt of one step, and the
// conformance suite in package enginetest holds for all of them.
//
// A job's life:
//
//	pending ──► running ──► completed        (running: shown as the phase of the stage)
//	               │
//	               ├─ a step fails for good ──► compensating ──► failed, with rolled_back set
//	               │       (keep on failure) ──► failed
//	               └─ cancel ────────────────► compensating ──► cancelled
//
// completed ──undo on demand──► compensating ──► undone
// failed (kept) ──retry──► running: done steps return at once
//
// The direction is stored before the first undo, so that recovery goes back and
// never forward again.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"ascend/internal/store"
)

// Step is one step of a job. The list is stored with the job before it starts,
// so that every future step is shown, and is never made again. It holds
// references only, never a secret: an engine may keep it in clear for ever.
type Step struct {
	Name  string `json:"name"`  // unique in the job, for people: "transfer disk 2"
	Kind  string `json:"kind"`  // the handler: "transfer"
	Stage int    `json:"stage"` // stages run in ascending order; steps of one stage in parallel
	// Input is the handler's own; small.
	Input json.RawMessage `json:"input,omitempty"`
	// Phase is the job's status while the step's stage runs: "uploading"; empty: "running".
	Phase string `json:"phase,omitempty"`
	// Attempts bounds how often do, and likewise undo, is tried without progress
	// in between, across crashes; 0: 5. An attempt whose Progress goes beyond
	// what any attempt reached gives all attempts back.
	Attempts int `json:"attempts,omitempty"`
	// Backoff is the wait before the second attempt, doubled up to a minute; 0: 1 s.
	Backoff time.Duration `json:"backoff,omitempty"`
}

// Handler does and undoes the steps of one kind. Both are idempotent: a step
// found running after a crash is run again, and undo is called for steps that
// never started, that failed half-way and that are already undone.
type Handler interface {
	Do(ctx context.Context, a *Attempt) error
	Undo(ctx context.Context, a *Attempt) error
}

// Handlers maps kinds to handlers. It is filled before the engine starts.
type Handlers map[string]Handler

// Attempt is what a handler is given. ctx of the call ends when the job is
// cancelled (in do; undo ignores the cancel), when another worker has taken the
// step over (the fence), or when the process shuts down.
type Attempt struct {
	Job    string
	Step   Step
	Number int // of this attempt, from 1, across crashes
	// Checkpoint is what the last attempt saved; nil on the first.
	Checkpoint json.RawMessage
	// Host stands for the tables behind Progress, Save and Result.
	Host AttemptHost
}

// AttemptHost is the attempt's way to the tables. Its methods may be called
// concurrently. They return ErrFenced when a later attempt has begun, and
// ErrCancelled when the job is to be cancelled: the handler then returns.
type AttemptHost interface {
	// Progress says what is done, in allocated bytes (or units), of a total;
	// written about once a second, at once when done = total.
	Progress(ctx context.Context, done, total int64) error
	// Save stores the handler's resume cursor now.
	Save(ctx context.Context, checkpoint any) error
	// Result stores what the step found or made, for people and later steps.
	Result(ctx context.Context, v any) error
	// Note adds an event to the job's log, for people. No secrets.
	Note(ctx context.Context, level, text string) error
}

// Errors an engine tells apart.
var (
	// ErrFenced: a later attempt of the step has begun elsewhere.
	ErrFenced = store.ErrFenced
	// ErrCancelled: the job is being cancelled.
	ErrCancelled = store.ErrCancelled
	// ErrPermanent, wrapped by a handler: trying the step again will not help.
	ErrPermanent = errors.New("permanent")
	// ErrBusy: the job is driven by someone else. An engine that finds itself
	// fenced leaves the job to that one.
	ErrBusy = errors.New("job is being carried out elsewhere")
	// ErrState: the job's state does not allow it (retry after compensation, …).
	ErrState = store.ErrState
	// ErrClosed: the engine was closed.
	ErrClosed = errors.New("the engine is closed")
)

// RetryAfter is returned by a handler to ask for another attempt not before a time
// (a target's Retry-After, a quota); it does not count as an attempt.
type RetryAfter struct {
	After  time.Duration
	Reason error
}

func (e *RetryAfter) Error() string { return e.Reason.Error() }
func (e *RetryAfter) Unwrap() error { return e.Reason }

// Engine drives jobs whose rows exist in the store. Start, Cancel, Retry and
// Undo are durable when they return and idempotent.
type Engine interface {
	// Start drives a pending job, or goes on with an unfinished one.
	Start(ctx context.Context, job string) error
	// Cancel stops the running steps and undoes what was done.
	Cancel(ctx context.Context, job string) error
	// Retry goes on with a failed job that was kept, from the failed step.
	Retry(ctx context.Context, job string) error
	// Undo removes what a completed, failed or cancelled job made.
	Undo(ctx context.Context, job string) error
	// Wait returns when the job has come to rest (completed, failed, …).
	Wait(ctx context.Context, job string) error
	// Recover goes on with every unfinished job of the store; called once at start.
	Recover(ctx context.Context) error
	// Close stops running steps at their next checkpoint, without failing them,
	// and returns when they have stopped.
	Close(ctx context.Context) error
}

// Rows makes the steps' rows for store.CreateJob.
func Rows(steps []Step) []store.Step {
	rows := make([]store.Step, len(steps))
	for i, s := range steps {
		rows[i] = store.Step{Name: s.Name, Kind: s.Kind, Stage: s.Stage, Phase: store.Status(s.Phase), Input: s.Input,
			MaxAttempts: s.Attempts, BackoffMS: s.Backoff.Milliseconds()}
	}
	return rows
}

func stepOf(r *store.Step) Step {
	return Step{Name: r.Name, Kind: r.Kind, Stage: r.Stage, Phase: string(r.Phase), Input: r.Input,
		Attempts: r.MaxAttempts, Backoff: time.Duration(r.BackoffMS) * time.Millisecond}
}
