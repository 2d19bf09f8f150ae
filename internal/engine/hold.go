package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// This file is how a worker holds a job. Holding is an activity that lasts as
// long as the job is carried out: the workers' free places for it are what
// spreads jobs over them. It tells the workflow the task queue of the worker's
// own, where the job's steps then go. When its heartbeat stops, Temporal hands
// it to another worker, which tells another queue: the job has moved.

// signalHeld tells the workflow which worker holds the job, by its task queue.
const signalHeld = "held"

// holdBeat is how often a holding worker gives a sign of life, and so about how
// soon its place is free when the job is at rest.
const holdBeat = time.Second

// jobsQueue is where the workers of a site take jobs on.
func jobsQueue(site string) string { return queue(site) + "/jobs" }

// holder is a worker's side of it.
type holder struct {
	queue   string // of this worker's own
	closing chan struct{}
	once    sync.Once
	held    atomic.Int64
	// said signals a workflow.
	said func(ctx context.Context, workflowID, runID, name string, arg any) error
}

// close lets go of every job: others are to go on with them.
func (h *holder) close() { h.once.Do(func() { close(h.closing) }) }

func (f *flow) registerHold(r registry) {
	r.RegisterActivityWithOptions(f.holdActivity, activity.RegisterOptions{Name: holdName})
}

func (f *flow) holdOptions(ctx workflow.Context, site string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:           jobsQueue(site),
		StartToCloseTimeout: stepLife,
		HeartbeatTimeout:    f.liveness,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 1},
	})
}

// holdActivity holds a job until its workflow ends. A worker that does not know
// one of the job's kinds of steps, as in the middle of an upgrade, leaves it to
// another.
func (f *flow) holdActivity(ctx context.Context, job string) error {
	steps, err := f.store.Steps(ctx, job)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if f.handlers[s.Kind] == nil {
			return later(fmt.Sprintf("this worker knows no steps of kind %q", s.Kind), 2*time.Second)
		}
	}
	h := f.holder
	select {
	case <-h.closing:
		return later("the worker shuts down", 10*time.Millisecond)
	default:
	}
	h.held.Add(1)
	defer h.held.Add(-1)
	w := activity.GetInfo(ctx).WorkflowExecution
	if err := h.said(ctx, w.ID, w.RunID, signalHeld, h.queue); err != nil {
		return fmt.Errorf("cannot take job %s on: %w", job, err)
	}
	beat := time.NewTicker(min(holdBeat, f.liveness/4))
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			select {
			case <-h.closing:
				return later("the worker shuts down", 10*time.Millisecond)
			default:
				return nil // the workflow has ended, or another worker holds the job: nobody listens
			}
		case <-h.closing:
			return later("the worker shuts down", 10*time.Millisecond)
		case <-beat.C:
			activity.RecordHeartbeat(ctx)
		}
	}
}

// later has Temporal try an activity again, here or elsewhere.
func later(why string, after time.Duration) error {
	return temporal.NewApplicationErrorWithOptions(why, "again", temporal.ApplicationErrorOptions{NextRetryDelay: after})
}

// move sends what is left of the job to the worker that holds it now.
func (p *flowPort) move(queue string) {
	if queue == p.queue {
		return
	}
	if p.queue != "" && p.leave != nil {
		p.moved = true
		p.leave()
	}
	p.queue = queue
}

// begun tells whether any step was begun: there may be something to undo.
func (s *saga) begun() bool {
	for _, st := range s.Steps {
		if st.Begun {
			return true
		}
	}
	return false
}
