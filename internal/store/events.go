package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/uptrace/bun"
)

// Levels of an event.
const (
	LevelDebug = "debug"
	LevelInfo  = "info"
	LevelWarn  = "warn"
	LevelError = "error"
)

// Kinds of an event that the store itself makes; Data holds {"status": …}.
const (
	EventJob  = "job"  // the job's status changed
	EventStep = "step" // a step's status changed
	EventNote = "note" // words of a handler
)

// Event is one line of a job's log, or of the server's when Job is empty.
type Event struct {
	bun.BaseModel `bun:"table:events,alias:e"`

	Seq     int64           `bun:"seq,pk"` // over all jobs; who has seen n has seen all below
	ID      string          `bun:"id"`
	Job     string          `bun:"job_id"`
	JobSeq  int64           `bun:"job_seq"` // within the job, from 1
	Step    string          `bun:"step_name"`
	Level   string          `bun:"level"`
	Kind    string          `bun:"kind"`
	Message string          `bun:"message"` // no secrets
	Data    json.RawMessage `bun:"data,nullzero"`
	Time    time.Time       `bun:"created_at"`
}

// AppendEvent appends to the log and fills Seq, JobSeq, ID, Time.
func (s *Store) AppendEvent(ctx context.Context, e *Event) error {
	if e.ID == "" {
		e.ID = NewID()
	}
	return s.tx(ctx, "write the event", func(t *Store) error {
		if ok, err := t.db.NewSelect().Model((*Event)(nil)).Where("id = ?", e.ID).Exists(ctx); err != nil || ok {
			return err // appended already, when the answer was lost
		}
		return t.event(ctx, e)
	})
}

// event appends within a transaction, as its last deed.
func (s *Store) event(ctx context.Context, e *Event) error {
	if e.ID == "" {
		e.ID = NewID()
	}
	if e.Level == "" {
		e.Level = LevelInfo
	}
	if e.Kind == "" {
		e.Kind = EventNote
	}
	e.Time = now()
	e.Message, e.Step = cut(e.Message, maxText), cut(e.Step, maxName)
	var err error
	if e.Seq, err = s.next(ctx, "events", 1); err != nil {
		return err
	}
	if e.JobSeq = 0; e.Job != "" {
		// The counter's row is locked: nobody else numbers events now.
		err := s.db.NewSelect().Model((*Event)(nil)).Column("job_seq").Where("job_id = ?", e.Job).OrderExpr("seq DESC").Limit(1).Scan(ctx, &e.JobSeq)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		e.JobSeq++
	}
	_, err = s.db.NewInsert().Model(e).Exec(ctx)
	return err
}

// Events lists a job's events (of all jobs when job is empty) after a sequence
// number, the oldest first; limit 0: 1000.
func (s *Store) Events(ctx context.Context, job string, after int64, limit int) ([]Event, error) {
	if limit <= 0 || limit > 1000 {
		limit = 1000
	}
	var rows []Event
	err := s.read(ctx, "read events", func(ctx context.Context) error {
		rows = nil
		q := s.db.NewSelect().Model(&rows).Where("seq > ?", after).OrderExpr("seq").Limit(limit)
		if job != "" {
			q = q.Where("job_id = ?", job)
		}
		return q.Scan(ctx)
	})
	return rows, err
}

// LastEvent is the highest sequence number of an event; 0 when there is none.
func (s *Store) LastEvent(ctx context.Context) (int64, error) {
	var n int64
	err := s.read(ctx, "read events", func(ctx context.Context) error {
		return s.db.NewSelect().Model((*Event)(nil)).ColumnExpr("COALESCE(MAX(seq), 0)").Scan(ctx, &n)
	})
	return n, err
}
