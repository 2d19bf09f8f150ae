package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/uptrace/bun"
)

// This file is what an engine does to a job; steps.go is what it does to steps.

// TakeDrive makes driver (an identifier used once) the one who drives the job,
// and returns the job with its new Drive. Whoever drove it before is fenced
// from then on: their writes to the job and its steps return ErrFenced. A driver of
// the form NAME#N comes after those of the same name with a lower number: one that
// comes late, after its successor, is refused with ErrFenced.
func (s *Store) TakeDrive(ctx context.Context, job, driver string) (*Job, error) {
	var j *Job
	err := s.tx(ctx, "take the job over", func(t *Store) (err error) {
		if j, err = t.lockJob(ctx, job); err != nil || j.Driver == driver {
			return err
		}
		if later(j.Driver, driver) {
			return ErrFenced
		}
		j.Drive++
		j.Driver = driver
		return t.setJob(ctx, job, -1, func(q *bun.UpdateQuery) *bun.UpdateQuery {
			return q.Set("drive = ?", j.Drive).Set("driver = ?", driver)
		})
	})
	if err != nil {
		return nil, err
	}
	return j, nil
}

// later tells whether driver a comes after b, of the same name.
func later(a, b string) bool {
	name, n, ok := strings.Cut(a, "#")
	other, m, also := strings.Cut(b, "#")
	x, err := strconv.Atoi(n)
	y, alsoErr := strconv.Atoi(m)
	return ok && also && name == other && err == nil && alsoErr == nil && x > y
}

// SetPhase stores the status of a job that goes forward. It starts the job's
// clock. One that comes late, when the job has turned or is at rest, is refused
// with ErrFenced.
func (s *Store) SetPhase(ctx context.Context, job string, drive int64, st Status) error {
	return s.tx(ctx, "store the job's phase", func(t *Store) error {
		j, err := t.lockJob(ctx, job)
		if err != nil || j.Status == st && j.Drive == drive {
			return err
		}
		if j.Status.AtRest() || j.Direction == Backward {
			return ErrFenced
		}
		err = t.setJob(ctx, job, drive, func(q *bun.UpdateQuery) *bun.UpdateQuery {
			return q.Set("status = ?", st).Set("started_at = COALESCE(started_at, ?)", now())
		})
		if err != nil {
			return err
		}
		return t.event(ctx, &Event{Job: job, Kind: EventJob, Message: "job is " + string(st), Data: statusData(st)})
	})
}

// Turn stores, before the first undo, that the job goes backward, what it comes
// to when all is undone, and why.
func (s *Store) Turn(ctx context.Context, job string, drive int64, outcome Status, reason string) error {
	return s.tx(ctx, "store the job's direction", func(t *Store) error {
		j, err := t.lockJob(ctx, job)
		if err != nil || j.Direction == Backward && j.Drive == drive {
			return err
		}
		err = t.setJob(ctx, job, drive, func(q *bun.UpdateQuery) *bun.UpdateQuery {
			return q.Set("status = ?", Compensating).Set("direction = ?", Backward).Set("outcome = ?", outcome).
				Set("error_message = ?", nullable(cut(reason, maxText))).Set("estimated_completion = NULL")
		})
		if err != nil {
			return err
		}
		return t.event(ctx, &Event{Job: job, Kind: EventJob, Message: "job is undone: " + string(outcome), Data: statusData(Compensating)})
	})
}

// Settle stores that a job has come to rest. An empty reason keeps the error
// that Turn stored; completed jobs have none. A job that goes forward and was
// asked to be cancelled in the meantime is not settled: ErrCancelled.
func (s *Store) Settle(ctx context.Context, job string, drive int64, st Status, reason string, rolledBack bool) error {
	return s.tx(ctx, "store the job's end", func(t *Store) error {
		j, err := t.lockJob(ctx, job)
		if err != nil || j.Status == st && j.Drive == drive {
			return err
		}
		if j.Direction == Forward && j.CancelRequested && j.Drive == drive {
			return ErrCancelled
		}
		err = t.setJob(ctx, job, drive, func(q *bun.UpdateQuery) *bun.UpdateQuery {
			q = q.Set("status = ?", st).Set("completed_at = ?", now()).Set("started_at = COALESCE(started_at, ?)", now()).
				Set("estimated_completion = NULL").Set("rolled_back = ?", rolledBack)
			switch {
			case st == Completed:
				q = q.Set("error_message = NULL").Set("progress_percent = 100")
			case reason != "":
				q = q.Set("error_message = ?", cut(reason, maxText))
			}
			return q
		})
		if err != nil {
			return err
		}
		level, msg := LevelInfo, "job "+string(st)
		if st == Failed {
			level = LevelError
			if reason == "" {
				reason = j.ErrorMessage
			}
			msg += ": " + reason
		}
		return t.event(ctx, &Event{Job: job, Kind: EventJob, Level: level, Message: msg, Data: statusData(st)})
	})
}

// RequestCancel asks for a job's cancellation, from any process; whoever drives
// it sees the flag at the next checkpoint. Asking again does nothing. A job
// at rest is ErrState, unless it was cancelled.
func (s *Store) RequestCancel(ctx context.Context, job string) error {
	return s.tx(ctx, "cancel the job", func(t *Store) error {
		j, err := t.lockJob(ctx, job)
		if err != nil {
			return err
		}
		switch {
		case j.CancelRequested || j.Status == Cancelled || j.Direction == Backward && !j.Status.AtRest():
			return nil // being undone already
		case j.Status.AtRest():
			return fmt.Errorf("cannot cancel job %s: %w: it is %s", job, ErrState, j.Status)
		}
		err = t.setJob(ctx, job, -1, func(q *bun.UpdateQuery) *bun.UpdateQuery { return q.Set("cancel_requested = ?", true) })
		if err != nil {
			return err
		}
		return t.event(ctx, &Event{Job: job, Kind: EventJob, Message: "cancellation requested"})
	})
}

// RequestRetry makes a failed job that kept what it made ready to go on from
// the failed step, with new attempts. A job that was undone cannot: ErrState.
// It is idempotent for a job that goes forward.
func (s *Store) RequestRetry(ctx context.Context, job string) error {
	return s.tx(ctx, "retry the job", func(t *Store) error {
		j, err := t.lockJob(ctx, job)
		if err != nil {
			return err
		}
		switch {
		case !j.Status.AtRest() && j.Direction == Forward && !j.CancelRequested:
			return nil
		case j.Direction == Backward:
			return fmt.Errorf("cannot retry job %s: %w: what it made was removed; start a new restore", job, ErrState)
		case j.Status != Failed:
			return fmt.Errorf("cannot retry job %s: %w: it is %s", job, ErrState, j.Status)
		}
		_, err = t.db.NewUpdate().Model((*Step)(nil)).Where("restore_job_id = ? AND status <> ?", job, Completed).
			Set("status = ?", Pending).Set("tries = 0").Set("error_message = NULL").Set("completed_at = NULL").
			Set("retry_at = NULL").Set("updated_at = ?", now()).Exec(ctx)
		if err != nil {
			return err
		}
		err = t.setJob(ctx, job, -1, func(q *bun.UpdateQuery) *bun.UpdateQuery {
			return q.Set("status = ?", Running).Set("error_message = NULL").Set("completed_at = NULL").Set("cancel_requested = ?", false)
		})
		if err != nil {
			return err
		}
		return t.event(ctx, &Event{Job: job, Kind: EventJob, Message: "retry requested", Data: statusData(Running)})
	})
}

// RequestUndo turns a job at rest backward, to remove what it made. A job that
// has nothing left stays as it is.
func (s *Store) RequestUndo(ctx context.Context, job string) error {
	return s.tx(ctx, "undo the job", func(t *Store) error {
		j, err := t.lockJob(ctx, job)
		if err != nil {
			return err
		}
		switch {
		case j.Status == Compensating || j.Status.AtRest() && j.RolledBack:
			return nil
		case !j.Status.AtRest():
			return fmt.Errorf("cannot undo job %s: %w: it is %s; cancel it instead", job, ErrState, j.Status)
		}
		_, err = t.db.NewUpdate().Model((*Step)(nil)).Where("restore_job_id = ?", job).
			Set("undo_tries = 0").Set("retry_at = NULL").Set("updated_at = ?", now()).Exec(ctx)
		if err != nil {
			return err
		}
		outcome := Undone
		if j.Direction == Backward && j.Outcome != "" {
			outcome = j.Outcome // an undo that failed goes on to what it was for
		}
		err = t.setJob(ctx, job, -1, func(q *bun.UpdateQuery) *bun.UpdateQuery {
			return q.Set("status = ?", Compensating).Set("direction = ?", Backward).Set("outcome = ?", outcome).Set("completed_at = NULL")
		})
		if err != nil {
			return err
		}
		return t.event(ctx, &Event{Job: job, Kind: EventJob, Message: "undo requested", Data: statusData(Compensating)})
	})
}

// nullable is a text, or NULL when it is empty.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func rawOrNull(b json.RawMessage) any {
	if len(b) == 0 {
		return nil
	}
	return string(b)
}
