// Package jobs is what the server asks of the restores it carries out, in the
// words of its API.
package jobs

import (
	"context"
	"errors"
	"time"

	"ascend/internal/disk"
	"ascend/internal/guest"
	"ascend/internal/plan"
	"ascend/internal/target"
)

// Statuses of a job that has come to rest.
var resting = map[string]bool{"completed": true, "failed": true, "cancelled": true, "undone": true}

// Resting tells whether a status is one that a job stays in by itself.
func Resting(status string) bool { return resting[status] }

// Job is one restore.
type Job struct {
	ID         string         `json:"id"`
	Status     string         `json:"status" doc:"pending; what a running job is at: running, validating, adapting, converting, uploading, creating, verifying; compensating; and at rest: completed, failed, cancelled, undone"`
	RolledBack bool           `json:"rolled_back" doc:"nothing of what it made is left"`
	Error      string         `json:"error,omitempty" doc:"why it failed, for people"`
	Hint       string         `json:"hint,omitempty" doc:"what to do about it"`
	Backup     plan.BackupRef `json:"backup"`
	Target     plan.TargetRef `json:"target"`
	Name       string         `json:"name" doc:"of the restored machine"`
	Site       string         `json:"site,omitempty" doc:"whose workers carry it out"`
	VM         *target.VM     `json:"vm,omitempty" doc:"the restored machine, once it exists"`
	Percent    float64        `json:"percent" minimum:"0" maximum:"100" doc:"of the allocated bytes"`
	Done       int64          `json:"done" doc:"bytes"`
	Total      int64          `json:"total" doc:"bytes"`
	Rate       int64          `json:"rate" doc:"bytes a second, smoothed; 0 when nothing moves"`
	ETA        *time.Time     `json:"eta,omitempty" doc:"when it should be finished"`
	Keep       bool           `json:"keep_on_failure" doc:"what was made stays when it fails, and it can be retried"`
	Created    time.Time      `json:"created"`
	Started    *time.Time     `json:"started,omitempty"`
	Finished   *time.Time     `json:"finished,omitempty"`
}

// Step is one step of a job; every step is there from the start.
type Step struct {
	Name     string     `json:"name"`
	Kind     string     `json:"kind"`
	Order    int        `json:"order"`
	Stage    int        `json:"stage" doc:"stages follow one another; the steps of one run side by side"`
	Status   string     `json:"status" doc:"pending, running, completed, failed, undone and what else a step may be"`
	Attempt  int        `json:"attempt"`
	Done     int64      `json:"done" doc:"allocated bytes, or units"`
	Total    int64      `json:"total"`
	Rate     int64      `json:"rate" doc:"bytes a second, smoothed"`
	ETA      *time.Time `json:"eta,omitempty"`
	Error    string     `json:"error,omitempty"`
	Worker   string     `json:"worker,omitempty" doc:"that ran it last"`
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`
}

// Event is one line of a job's log.
type Event struct {
	Seq   int64     `json:"seq" doc:"grows with each event"`
	Time  time.Time `json:"time"`
	Job   string    `json:"job"`
	Step  string    `json:"step,omitempty"`
	Level string    `json:"level" doc:"debug, info, warn, error"`
	Text  string    `json:"text"`
}

// Options of one job.
type Options struct {
	Keep        bool  `json:"keep_on_failure,omitempty" doc:"leave what was made when it fails, so that it can be retried"`
	NoVerify    bool  `json:"no_verify,omitempty" doc:"do not read landed disks back where the platform has no verdict of its own"`
	CheckBackup bool  `json:"check_backup,omitempty" doc:"compare the backup's files with its digests first"`
	Disks       int   `json:"disks,omitempty" minimum:"0" maximum:"64" doc:"disks at once; 0: the default"`
	Workers     int   `json:"workers,omitempty" minimum:"0" maximum:"64" doc:"ranges at once for each disk; 0: the target's"`
	Bandwidth   int64 `json:"bandwidth,omitempty" minimum:"0" doc:"bytes a second of this job; 0: no cap"`
	// BootProof is as restore.ParseProof reads it.
	BootProof string `json:"boot_proof,omitempty" enum:",off,advise,require,require:A,require:B,require:C" doc:"boot the machine on the target's virtual hardware, on the server and cut off, before anything is sent"`

	Site string `json:"site,omitempty" maxLength:"64" doc:"whose workers carry it out, where there are workers; empty: the one that suits it best"`
}

// Order is a plan to be carried out.
type Order struct {
	Plan       *plan.Plan
	Repository string // its folder
	Images     []disk.Image
	Maps       []*disk.Map
	Inspection *guest.Inspection // of the system on the disks; nil: not looked at
	Adaptation *guest.Adaptation // what is changed of it; nil: nothing
	Options    Options
	Key        string // the same key gives the same job
}

// Filter chooses jobs; zero fields choose all.
type Filter struct {
	Status []string
	// Unfinished: only those that are not at rest.
	Unfinished bool
	Target     string
	VM         string // in the machine's name, whatever the case
	Backup     string // the backup's id in its repository
	Since      time.Time
	Until      time.Time
	Cursor     string
	Limit      int
}

// Errors of a service.
var (
	// ErrNotFound: there is no such job.
	ErrNotFound = errors.New("no such restore job")
	// ErrState: not possible in the job's state.
	ErrState = errors.New("not possible in the job's state")
	// ErrOptions: the options are not possible for this restore.
	ErrOptions = errors.New("these options are not possible")
	// ErrNoReceipt: the job has not proved anything yet.
	ErrNoReceipt = errors.New("the job has no receipt")
	// ErrNoEvidence: the job's boot proof kept nothing of that name.
	ErrNoEvidence = errors.New("the job has no such evidence")
	// ErrNoWorker: nobody is there who could carry the job out.
	ErrNoWorker = errors.New("no worker can carry this restore out")
)

// Limits of all jobs together.
type Limits struct {
	Jobs      int            `json:"jobs,omitempty" minimum:"0" maximum:"1000" doc:"jobs at once; 0: the default"`
	Disks     int            `json:"disks,omitempty" minimum:"0" maximum:"1000" doc:"disks at once, of all jobs; 0: the default"`
	Bandwidth int64          `json:"bandwidth,omitempty" minimum:"0" doc:"bytes a second, of all jobs; 0: no cap"`
	Requests  map[string]int `json:"requests,omitempty" doc:"writes at once for each target, by its id"`
}

// Service carries jobs out. What it says is durable when it returns.
type Service interface {
	Submit(ctx context.Context, o Order) (Job, error)
	List(ctx context.Context, f Filter) (list []Job, next string, err error)
	Job(ctx context.Context, id string) (Job, error)
	// ByKey finds the job of an order's key.
	ByKey(ctx context.Context, key string) (Job, error)
	Steps(ctx context.Context, id string) ([]Step, error)
	Resources(ctx context.Context, id string) ([]target.Resource, error)
	// Events are those of a job after one, the oldest first.
	Events(ctx context.Context, id string, after int64, limit int) ([]Event, error)
	// AllEvents are those of all jobs; a sequence number that was seen stands for
	// all below it.
	AllEvents(ctx context.Context, after int64, limit int) ([]Event, error)
	// LastEvent is the highest sequence number.
	LastEvent(ctx context.Context) (int64, error)
	Receipt(ctx context.Context, id string) ([]byte, error)
	// Evidence lists what is kept of a boot proof, by names; EvidenceFile is one.
	Evidence(ctx context.Context, id string) ([]string, error)
	EvidenceFile(ctx context.Context, id, name string) ([]byte, error)
	Plan(ctx context.Context, id string) (*plan.Plan, error)
	// Measured is the rate of the last transfers to a target, in bytes a second,
	// and how many were measured.
	Measured(ctx context.Context, target string) (rate int64, jobs int, err error)
	Retry(ctx context.Context, id string) error
	Cancel(ctx context.Context, id string) error
	Undo(ctx context.Context, id string) error
	SetLimits(Limits)
}
