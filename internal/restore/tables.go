package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"ascend/internal/engine"
	"ascend/internal/store"
	"ascend/internal/target"
)

// Tables is the Store in the tables of package store.
func Tables(s *store.Store) Store { return tables{s} }

type tables struct{ s *store.Store }

// choices is what a job's target_config holds.
type choices struct {
	Request string  `json:"request,omitempty"` // Request.Key
	Target  string  `json:"target"`
	Options Options `json:"options"`
}

func (t tables) Create(ctx context.Context, j *Job, n *NewJob) (string, error) {
	var spec Spec
	if err := json.Unmarshal(n.Spec, &spec); err != nil {
		return "", err
	}
	config, err := json.Marshal(choices{j.Key, j.Target, spec.Options})
	if err != nil {
		return "", err
	}
	row := &store.Job{
		ID: j.ID, Key: n.Unique, Spec: n.Spec, KeepOnFailure: n.Keep, TargetConfig: config, VMName: j.VM, TargetVMName: j.Name, TargetName: j.Target,
		TargetPlatform: spec.Plan.Target.Platform, Site: n.Site,
	}
	if spec.Plan.Source != nil {
		row.SourcePlatform = spec.Plan.Source.Platform
	}
	want := row
	err = t.s.Tx(ctx, func(tx *store.Store) error {
		again := *want
		made, err := tx.CreateJob(ctx, &again, engine.Rows(n.Steps))
		if row = &again; err != nil || !made {
			return err
		}
		for name, b := range n.Blobs {
			if err := tx.PutBlob(ctx, again.ID, name, b); err != nil {
				return err
			}
		}
		return nil
	})
	return row.ID, err
}

// missing is the error of a row that is not there, in this package's words.
func missing(id string, err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%q: %w", id, ErrNoJob)
	}
	return err
}

func jobOf(r *store.Job) *Job {
	j := &Job{
		ID: r.ID, Status: Status(r.Status), Error: r.ErrorMessage, Name: r.TargetVMName, VM: r.VMName, MachineID: r.TargetVMID,
		Target: r.TargetName, Percent: r.ProgressPercent, ETA: r.EstimatedCompletion, Created: r.CreatedAt, Started: r.StartedAt, Finished: r.CompletedAt,
	}
	if r.Status == store.Failed && r.RolledBack {
		j.Status = RolledBack
	}
	var c choices
	if json.Unmarshal(r.TargetConfig, &c) == nil {
		j.Key = c.Request
	}
	return j
}

func (t tables) Job(ctx context.Context, id string) (*Job, error) {
	r, err := t.s.Job(ctx, id)
	if err != nil {
		return nil, missing(id, err)
	}
	return jobOf(r), nil
}

func (t tables) Spec(ctx context.Context, id string) ([]byte, error) {
	r, err := t.s.Job(ctx, id)
	if err != nil {
		return nil, missing(id, err)
	}
	return r.Spec, nil
}

func (t tables) Steps(ctx context.Context, id string) ([]StepState, error) {
	rows, err := t.s.Steps(ctx, id)
	if err != nil {
		return nil, missing(id, err)
	}
	var out []StepState
	for _, r := range rows {
		out = append(out, StepState{
			Name: r.Name, Kind: r.Kind, Stage: r.Stage, Status: string(r.Status), Attempt: r.Attempt, Done: r.Done, Total: r.Total,
			Error: r.ErrorMessage, Started: r.StartedAt, Finished: r.CompletedAt,
		})
	}
	return out, nil
}

func (t tables) Jobs(ctx context.Context, f Filter) ([]Job, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = 1000
	}
	var out []Job
	page := store.Page{Limit: 1000}
	for {
		l, err := t.s.Jobs(ctx, store.JobFilter{Unfinished: f.Unfinished, Target: f.Target}, page)
		if err != nil {
			return nil, err
		}
		for _, r := range l.Items {
			j := jobOf(&r)
			if f.Key != "" && j.Key != f.Key || len(f.Statuses) > 0 && !slices.Contains(f.Statuses, j.Status) {
				continue
			}
			if out = append(out, *j); len(out) == limit {
				return out, nil
			}
		}
		if page.Cursor = l.Next; page.Cursor == "" {
			return out, nil
		}
	}
}

func (t tables) ByPrefix(ctx context.Context, id string) (*Job, error) {
	r, err := t.s.JobByPrefix(ctx, id)
	if err != nil {
		return nil, missing(id, err)
	}
	return jobOf(r), nil
}

func (t tables) SetProgress(ctx context.Context, id string, percent float64, eta time.Time) error {
	return t.s.SetProgress(ctx, id, percent, eta)
}

func (t tables) SetMachine(ctx context.Context, id, machine, name string) error {
	return t.s.SetVM(ctx, id, machine, name)
}

func (t tables) RequestCancel(ctx context.Context, id string) error {
	return t.s.RequestCancel(ctx, id)
}

func (t tables) Record(ctx context.Context, id string, r target.Resource) error {
	return t.s.RecordResource(ctx, &store.Resource{Job: id, Kind: r.Kind, Name: r.Name, ExternalID: r.ID, Data: r.Data, Done: r.Done, Gone: r.Gone})
}

func (t tables) Resources(ctx context.Context, id string) ([]target.Resource, error) {
	rows, err := t.s.Resources(ctx, id)
	var out []target.Resource
	for _, r := range rows {
		out = append(out, target.Resource{Job: r.Job, Kind: r.Kind, ID: r.ExternalID, Name: r.Name, Data: r.Data, Done: r.Done, Gone: r.Gone})
	}
	return out, err
}

func (t tables) PutBlob(ctx context.Context, id, name string, b []byte) error {
	if name == blobReceipt {
		return t.s.PutReceipt(ctx, id, b)
	}
	return t.s.PutBlob(ctx, id, name, b)
}

func (t tables) Blob(ctx context.Context, id, name string) (b []byte, err error) {
	if name == blobReceipt {
		b, err = t.s.Receipt(ctx, id)
	} else {
		b, err = t.s.Blob(ctx, id, name)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return b, err
}

func (t tables) Blobs(ctx context.Context, id, prefix string) ([]string, error) {
	names, err := t.s.Blobs(ctx, id, prefix)
	slices.Sort(names)
	return names, err
}

func (t tables) DeleteBlob(ctx context.Context, id, name string) error {
	return t.s.DeleteBlobs(ctx, id, name)
}

func (t tables) Events(ctx context.Context, id string, after int64, limit int) ([]Event, error) {
	rows, err := t.s.Events(ctx, id, after, limit)
	var out []Event
	for _, r := range rows {
		out = append(out, Event{Seq: r.Seq, Time: r.Time, Step: r.Step, Level: r.Level, Text: r.Message})
	}
	return out, err
}

func (t tables) Measured(ctx context.Context, name, what string, bytes int64, took time.Duration) error {
	return t.s.RecordRate(ctx, name, what, bytes, took)
}

func (t tables) Rate(ctx context.Context, name, what string) (float64, error) {
	rate, _, err := t.s.Rate(ctx, name, what)
	return rate, err
}
