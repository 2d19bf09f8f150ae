package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Step is a row of restore_steps. Zero times and empty strings stand for NULL.
type Step struct {
	bun.BaseModel `bun:"table:restore_steps,alias:s"`

	ID           string          `bun:"id,pk"`
	Job          string          `bun:"restore_job_id"`
	Name         string          `bun:"step_name"`
	Order        int64           `bun:"step_order"` // from 1
	Status       Status          `bun:"status"`
	StartedAt    time.Time       `bun:"started_at,nullzero"`
	CompletedAt  time.Time       `bun:"completed_at,nullzero"`
	ErrorMessage string          `bun:"error_message,nullzero"` // of the last attempt that failed
	Metadata     json.RawMessage `bun:"metadata,nullzero"`      // the handler's result, for people and later steps

	Kind        string          `bun:"kind"`
	Stage       int             `bun:"stage"`
	Phase       Status          `bun:"phase"` // the job's status while the stage runs
	Input       json.RawMessage `bun:"input,nullzero"`
	MaxAttempts int             `bun:"max_attempts"`
	BackoffMS   int64           `bun:"backoff_ms"`
	Attempt     int             `bun:"attempt"`    // attempts begun, undo's included
	Tries       int             `bun:"tries"`      // attempts of do since the last progress, which MaxAttempts bounds
	UndoTries   int             `bun:"undo_tries"` // likewise of undo
	Fence       int64           `bun:"fence"`
	Epoch       int64           `bun:"epoch"`
	AttemptID   string          `bun:"attempt_id"`
	Worker      string          `bun:"worker"` // who carries it out
	Done        int64           `bun:"done"`   // allocated bytes, or units
	Best        int64           `bun:"best"`   // highest Done ever
	Total       int64           `bun:"total"`
	RetryAt     time.Time       `bun:"retry_at,nullzero"` // next attempt not before
	UpdatedAt   time.Time       `bun:"updated_at"`
}

type checkpoint struct {
	bun.BaseModel `bun:"table:checkpoints,alias:c"`

	StepID  string    `bun:"step_id,pk"`
	Fence   int64     `bun:"fence"`
	Data    string    `bun:"data"`
	SavedAt time.Time `bun:"saved_at"`
}

func (s *Store) insertSteps(ctx context.Context, j *Job, steps []Step) error {
	if len(steps) == 0 {
		return nil
	}
	rows := make([]Step, len(steps))
	for i, st := range steps {
		st.ID, st.Job, st.Order, st.Status, st.UpdatedAt = NewID(), j.ID, int64(i+1), Pending, j.CreatedAt
		if st.MaxAttempts <= 0 {
			st.MaxAttempts = 5
		}
		if st.BackoffMS <= 0 {
			st.BackoffMS = 1000
		}
		rows[i] = st
	}
	_, err := s.db.NewInsert().Model(&rows).Exec(ctx)
	return err
}

// Steps lists a job's steps in their order.
func (s *Store) Steps(ctx context.Context, job string) ([]Step, error) {
	var rows []Step
	err := s.read(ctx, "read the job's steps", func(ctx context.Context) error {
		rows = nil
		return s.db.NewSelect().Model(&rows).Where("restore_job_id = ?", job).OrderExpr("step_order").Scan(ctx)
	})
	return rows, err
}

// Step returns one step by its name.
func (s *Store) Step(ctx context.Context, job, name string) (*Step, error) {
	st := new(Step)
	err := s.read(ctx, "read the step", func(ctx context.Context) error {
		return s.db.NewSelect().Model(st).Where("restore_job_id = ? AND step_name = ?", job, name).Scan(ctx)
	})
	if err != nil {
		return nil, err
	}
	return st, nil
}

// Checkpoint is what the step's handler saved last; nil when it saved nothing.
func (s *Store) Checkpoint(ctx context.Context, stepID string) (json.RawMessage, error) {
	var c checkpoint
	err := s.read(ctx, "read the checkpoint", func(ctx context.Context) error {
		return s.db.NewSelect().Model(&c).Where("step_id = ?", stepID).Scan(ctx)
	})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return json.RawMessage(c.Data), err
}

// Begin describes an attempt that is to begin.
type Begin struct {
	Job, Step string
	Attempt   string // identifier of this attempt, used once
	Worker    string // who carries it out, for people
	Undo      bool
	Drive     int64 // the job's drive, which must still be it; 0: not compared
	Epoch     int64 // must not be lower than that of an earlier attempt
}

// Begun is an attempt that has begun. Fence goes with every write.
type Begun struct {
	Step       Step
	Checkpoint json.RawMessage
	Number     int  // of this attempt of do or undo, from 1
	Last       bool // no further attempt is left
	Finished   bool // the step is completed (or undone) already: nothing to do
	// Exhausted: no attempt was left; the step is stored as failed, and
	// Step.ErrorMessage is the last attempt's error.
	Exhausted bool
}

// BeginAttempt takes a new fence for a step and stores that it runs. From then
// on writes of earlier attempts return ErrFenced. It returns ErrExhausted, with
// the last attempt's error, when no attempt is left; ErrCancelled when the job
// is to be cancelled (for do only); ErrFenced when the job is driven by another.
func (s *Store) BeginAttempt(ctx context.Context, b Begin) (*Begun, error) {
	g := new(Begun)
	err := s.tx(ctx, "begin step "+b.Step, func(t *Store) error {
		*g = Begun{}
		st := &g.Step
		q := t.db.NewSelect().Model(st).Where("restore_job_id = ? AND step_name = ?", b.Job, b.Step)
		if t.kind != SQLite {
			q = q.For("UPDATE")
		}
		if err := q.Scan(ctx); err != nil {
			return err
		}
		var c checkpoint
		switch err := t.db.NewSelect().Model(&c).Where("step_id = ?", st.ID).Scan(ctx); {
		case err == nil:
			g.Checkpoint = json.RawMessage(c.Data)
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		if st.AttemptID == b.Attempt {
			g.Number = st.tries(b.Undo)
			g.Last = g.Number >= st.MaxAttempts
			g.Exhausted = st.Status == Failed
			return nil // begun already, when the answer was lost
		}
		var j Job
		if err := t.db.NewSelect().Model(&j).ExcludeColumn("spec").Where("id = ?", b.Job).Scan(ctx); err != nil {
			return err
		}
		switch {
		case b.Drive > 0 && j.Drive != b.Drive, b.Epoch < st.Epoch:
			return ErrFenced
		case !b.Undo && st.Status == Completed, b.Undo && st.Status == RolledBack:
			g.Finished = true
			return nil
		case !b.Undo && j.Direction == Backward, b.Undo && j.Direction == Forward:
			return fmt.Errorf("cannot begin step %s: %w: the job goes %s", b.Step, ErrState, j.Direction)
		case !b.Undo && j.CancelRequested:
			return ErrCancelled
		case st.tries(b.Undo) >= st.MaxAttempts:
			g.Exhausted = true
			return t.exhausted(ctx, b, st)
		}
		st.Fence++
		st.Attempt++
		st.Epoch, st.AttemptID, st.Worker, st.UpdatedAt, st.RetryAt = b.Epoch, b.Attempt, cut(b.Worker, maxName), now(), time.Time{}
		if b.Undo {
			st.UndoTries++
			st.Status = Compensating
		} else {
			st.Tries++
			st.Status = Running
			if st.StartedAt.IsZero() {
				st.StartedAt = st.UpdatedAt
			}
		}
		st.CompletedAt = time.Time{}
		g.Number = st.tries(b.Undo)
		g.Last = g.Number >= st.MaxAttempts
		_, err := t.db.NewUpdate().Model(st).WherePK().
			Column("fence", "attempt", "epoch", "attempt_id", "worker", "updated_at", "retry_at", "undo_tries", "tries", "status", "started_at", "completed_at").Exec(ctx)
		if err != nil {
			return err
		}
		return t.event(ctx, &Event{Job: b.Job, Step: b.Step, Kind: EventStep, Message: verb(b.Undo), Data: statusData(st.Status)})
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// exhausted stores that a step without attempts has failed, and fences what may
// still run of the last one.
func (s *Store) exhausted(ctx context.Context, b Begin, st *Step) error {
	if st.ErrorMessage == "" {
		st.ErrorMessage = fmt.Sprintf("the program ended during each of %d attempts", st.MaxAttempts)
	}
	st.Fence++
	st.Epoch, st.AttemptID, st.Status, st.UpdatedAt, st.CompletedAt = b.Epoch, b.Attempt, Failed, now(), now()
	_, err := s.db.NewUpdate().Model(st).WherePK().
		Column("fence", "epoch", "attempt_id", "status", "error_message", "updated_at", "completed_at").Exec(ctx)
	if err != nil {
		return err
	}
	return s.event(ctx, &Event{Job: b.Job, Step: b.Step, Kind: EventStep, Level: LevelError,
		Message: "step failed, no attempt left: " + st.ErrorMessage, Data: statusData(Failed)})
}

func verb(undo bool) string {
	if undo {
		return "undo started"
	}
	return "step started"
}

func (st *Step) tries(undo bool) int {
	if undo {
		return st.UndoTries
	}
	return st.Tries
}

// Save is what a running attempt stores.
type Save struct {
	Job, StepID string
	Fence       int64
	// Done and Total, when Progress.
	Progress    bool
	Done, Total int64
	Checkpoint  json.RawMessage // nil: left as it is
	Metadata    json.RawMessage // nil: left as it is
}

// SaveAttempt stores progress, checkpoint and metadata of a running attempt.
// Progress beyond what any attempt reached gives the step all its attempts
// back. It returns ErrFenced, and has stored nothing, when a later attempt has
// begun; cancelled tells, after storing, that the job is to be cancelled.
func (s *Store) SaveAttempt(ctx context.Context, v Save) (cancelled bool, err error) {
	err = s.tx(ctx, "store the checkpoint", func(t *Store) error {
		q := t.db.NewUpdate().Model((*Step)(nil)).Where("id = ? AND fence = ?", v.StepID, v.Fence).Set("updated_at = ?", now())
		if v.Progress {
			// MySQL assigns from left to right: tries is decided before best changes.
			q = q.Set("tries = CASE WHEN best < ? THEN 0 ELSE tries END", v.Done).
				Set("best = CASE WHEN best < ? THEN ? ELSE best END", v.Done, v.Done).
				Set("done = ?", v.Done).Set("total = ?", v.Total)
		}
		if v.Metadata != nil {
			q = q.Set("metadata = ?", rawOrNull(v.Metadata))
		}
		r, err := q.Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, ErrFenced)
		}
		if v.Checkpoint != nil {
			if err := t.putCheckpoint(ctx, &checkpoint{StepID: v.StepID, Fence: v.Fence, Data: string(v.Checkpoint), SavedAt: now()}); err != nil {
				return err
			}
		}
		return t.db.NewSelect().Model((*Job)(nil)).Column("cancel_requested").Where("id = ?", v.Job).Scan(ctx, &cancelled)
	})
	return cancelled, err
}

func (s *Store) putCheckpoint(ctx context.Context, c *checkpoint) error {
	r, err := s.db.NewUpdate().Model(c).WherePK().Column("fence", "data", "saved_at").Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n > 0 {
		return err
	}
	_, err = s.db.NewInsert().Model(c).Exec(ctx)
	return err
}

// WatchAttempt tells whether an attempt is still the step's last one (else
// ErrFenced) and whether the job is to be cancelled, without writing.
func (s *Store) WatchAttempt(ctx context.Context, job, stepID string, fence int64) (cancelled bool, err error) {
	var row struct {
		Fence           int64
		CancelRequested bool
	}
	err = s.read(ctx, "look after the step", func(ctx context.Context) error {
		return s.db.NewSelect().TableExpr("restore_steps AS s").Join("JOIN restore_jobs AS j ON j.id = s.restore_job_id").
			ColumnExpr("s.fence, j.cancel_requested").Where("s.id = ?", stepID).Scan(ctx, &row)
	})
	if err == nil && row.Fence != fence {
		err = ErrFenced
	}
	return row.CancelRequested, err
}

// End is how an attempt ended.
type End struct {
	Job, Step, StepID string
	Fence             int64
	Undo              bool
	// Status: Completed, RolledBack, Failed; Pending for a do that is to be
	// tried again or was interrupted, Compensating for such an undo.
	Status  Status
	Error   string        // for people; empty when there was none
	RetryIn time.Duration // before the next attempt, for people
	Refund  bool          // the attempt does not count
}

// EndAttempt stores how an attempt ended, unless a later one has begun (ErrFenced).
func (s *Store) EndAttempt(ctx context.Context, e End) error {
	return s.tx(ctx, "store the end of step "+e.Step, func(t *Store) error {
		var was Status
		err := t.db.NewSelect().Model((*Step)(nil)).Column("status").Where("id = ? AND fence = ?", e.StepID, e.Fence).Scan(ctx, &was)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return ErrFenced
		case err != nil || was == e.Status && (was == Completed || was == RolledBack || was == Failed):
			return err // stored already, when the answer was lost
		}
		q := t.db.NewUpdate().Model((*Step)(nil)).Where("id = ? AND fence = ?", e.StepID, e.Fence).
			Set("status = ?", e.Status).Set("updated_at = ?", now())
		switch {
		case e.Error != "":
			q = q.Set("error_message = ?", cut(e.Error, maxText))
		case e.Status == Completed:
			q = q.Set("error_message = NULL")
		}
		if e.Status == Completed || e.Status == RolledBack || e.Status == Failed {
			q = q.Set("completed_at = ?", now())
		}
		if e.RetryIn > 0 {
			q = q.Set("retry_at = ?", now().Add(e.RetryIn))
		}
		if e.Refund {
			column := bun.Ident("tries")
			if e.Undo {
				column = "undo_tries"
			}
			q = q.Set("? = CASE WHEN ? > 0 THEN ? - 1 ELSE 0 END", column, column, column)
		}
		r, err := q.Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, ErrFenced)
		}
		ev := &Event{Job: e.Job, Step: e.Step, Kind: EventStep, Message: "step " + string(e.Status), Data: statusData(e.Status)}
		if e.Error != "" {
			ev.Level = LevelWarn
			if e.Status == Failed {
				ev.Level = LevelError
			}
			ev.Message = "step failed: " + e.Error
			if e.RetryIn > 0 {
				ev.Message += fmt.Sprintf(" (next attempt in %s)", e.RetryIn.Round(time.Second/10))
			}
		}
		return t.event(ctx, ev)
	})
}
