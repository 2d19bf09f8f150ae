package restore

import (
	"context"
	"time"

	"ascend/internal/engine"
	"ascend/internal/target"
)

// Status of a job, as package engine draws it.
type Status string

// Statuses. A job under way has, besides these, those of its stages: validating,
// uploading, creating, verifying.
const (
	Pending      Status = "pending"
	Running      Status = "running"
	Completed    Status = "completed"
	Failed       Status = "failed" // what it made is still there
	Compensating Status = "compensating"
	RolledBack   Status = "rolled_back" // failed, and what it made is removed
	Cancelled    Status = "cancelled"   // likewise
	Undone       Status = "undone"
)

// AtRest tells whether nothing is to be done for a job of this status.
func (s Status) AtRest() bool {
	return s == Completed || s == Failed || s == RolledBack || s == Cancelled || s == Undone
}

// Job is one restore, as the store has it.
type Job struct {
	ID        string    `json:"id"`
	Key       string    `json:"key,omitempty"` // of the request; see Request.Key
	Status    Status    `json:"status"`
	Error     string    `json:"error,omitempty"`
	Name      string    `json:"name"` // of the machine
	VM        string    `json:"vm,omitempty"`
	MachineID string    `json:"machine_id,omitempty"` // on the target, once it exists
	Target    string    `json:"target"`
	Percent   float64   `json:"percent"` // of the allocated bytes to send and to verify; never falls
	ETA       time.Time `json:"eta,omitzero"`
	Created   time.Time `json:"created"`
	Started   time.Time `json:"started,omitzero"`
	Finished  time.Time `json:"finished,omitzero"`
	// Idle: the job is unfinished and nobody is at work on it; filled in by
	// Service where this machine can tell.
	Idle bool `json:"idle,omitempty"`
}

// StepState is one step of a job, as the store has it.
type StepState struct {
	Name     string    `json:"name"`
	Kind     string    `json:"kind"`
	Stage    int       `json:"stage"`
	Status   string    `json:"status"` // pending, running, completed, failed, compensating, compensated, …
	Attempt  int       `json:"attempt"`
	Done     int64     `json:"done"`
	Total    int64     `json:"total"` // allocated bytes, of steps that move data
	Error    string    `json:"error,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	// Rate and ETA of the step, filled in by Service while it is under way.
	Rate float64       `json:"rate,omitempty"` // bytes a second, smoothed
	ETA  time.Duration `json:"eta,omitempty"`  // -1: not known
}

// Event is a line of a job's log.
type Event struct {
	Seq   int64     `json:"seq"`
	Time  time.Time `json:"time"`
	Step  string    `json:"step,omitempty"`
	Level string    `json:"level"`
	Text  string    `json:"text"`
}

// Filter chooses jobs. Zero fields choose all.
type Filter struct {
	Statuses   []Status
	Target     string
	Key        string
	Unfinished bool // not at rest
	Limit      int  // 0: 1000
}

// NewJob is what is stored with a job that begins.
type NewJob struct {
	Unique string // see Request.Unique
	Site   string // see Request.Site
	Spec   []byte
	Keep   bool // what was made when a step fails for good
	Steps  []engine.Step
	Blobs  map[string][]byte
}

// Store is what this package needs of the tables. Every method returns when its
// change survives a crash, and may be called concurrently, by several processes.
type Store interface {
	// Create stores a pending job with its steps and blobs, all or nothing. Of two
	// with the same unique key, when it is not empty, the second is not stored: the
	// first's id is returned.
	Create(ctx context.Context, j *Job, n *NewJob) (id string, err error)
	// Job, Spec and Steps return ErrNoJob when there is none.
	Job(ctx context.Context, id string) (*Job, error)
	Spec(ctx context.Context, id string) ([]byte, error)
	Steps(ctx context.Context, id string) ([]StepState, error)
	// ByPrefix finds the one job whose id begins so.
	ByPrefix(ctx context.Context, id string) (*Job, error)
	// Jobs lists the newest first.
	Jobs(ctx context.Context, f Filter) ([]Job, error)
	// SetProgress never lowers the percentage.
	SetProgress(ctx context.Context, id string, percent float64, eta time.Time) error
	SetMachine(ctx context.Context, id, machine, name string) error
	// RequestCancel asks whoever drives the job to cancel it.
	RequestCancel(ctx context.Context, id string) error

	// Record is target.Recorder's; Resources lists in the order first recorded.
	Record(ctx context.Context, id string, r target.Resource) error
	Resources(ctx context.Context, id string) ([]target.Resource, error)

	// Blobs are the job's own small data. Blob is nil when there is none; Blobs
	// lists names with a prefix, ascending.
	PutBlob(ctx context.Context, id, name string, b []byte) error
	Blob(ctx context.Context, id, name string) ([]byte, error)
	Blobs(ctx context.Context, id, prefix string) ([]string, error)
	DeleteBlob(ctx context.Context, id, name string) error

	// Events lists those after a sequence number, ascending.
	Events(ctx context.Context, id string, after int64, limit int) ([]Event, error)

	// Measured keeps the rate that a target was seen to take or give; Rate is
	// that of the last ones, in bytes a second, 0 when there is none.
	Measured(ctx context.Context, target, what string, bytes int64, took time.Duration) error
	Rate(ctx context.Context, target, what string) (float64, error)
}
