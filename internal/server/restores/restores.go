// Package restores is jobs.Service over the tables of package store and whatever
// carries jobs out.
package restores

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ascend/internal/engine"
	"ascend/internal/plan"
	"ascend/internal/restore"
	"ascend/internal/server/jobs"
	"ascend/internal/server/records"
	"ascend/internal/store"
	"ascend/internal/target"
)

// Driver carries jobs out. What it says is durable when it returns.
type Driver interface {
	// Submit stores a job and begins it, and returns its id.
	Submit(ctx context.Context, o jobs.Order) (string, error)
	Retry(ctx context.Context, id string) error
	Cancel(ctx context.Context, id string) error
	Undo(ctx context.Context, id string) error
	SetLimits(l jobs.Limits)
	// Live fills in what is known of steps under way here.
	Live(id string, steps []jobs.Step)
	// Plan reads a job's plan from its stored form.
	Plan(spec json.RawMessage) (*plan.Plan, error)
}

// Service is a jobs.Service.
type Service struct {
	store  *store.Store
	driver Driver
}

var _ jobs.Service = (*Service)(nil)

// New makes one.
func New(s *store.Store, d Driver) *Service { return &Service{s, d} }

// Measured is the rate of the last transfers to a target.
func (s *Service) Measured(ctx context.Context, target string) (rate int64, jobs int, err error) {
	r, n, err := s.store.Rate(ctx, target, "transfer")
	return int64(r), n, err
}

// plain makes the errors of others this room's.
func plain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("%w: %w", jobs.ErrNotFound, err)
	case errors.Is(err, store.ErrState), errors.Is(err, engine.ErrState), errors.Is(err, engine.ErrBusy):
		return fmt.Errorf("%w: %w", jobs.ErrState, err)
	case errors.Is(err, store.ErrCursor):
		return fmt.Errorf("%w: %w", records.ErrCursor, err)
	}
	return err
}

func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func jobOf(j *store.Job) jobs.Job {
	out := jobs.Job{
		ID: j.ID, Status: string(j.Status), RolledBack: j.RolledBack, Error: j.ErrorMessage, Name: j.VMName, Percent: min(max(j.ProgressPercent, 0), 100), Keep: j.KeepOnFailure, Site: j.Site,
		Backup: plan.BackupRef{ID: j.BackupID, VM: j.VMName}, Target: plan.TargetRef{Name: j.TargetName, Platform: j.TargetPlatform},
		ETA: when(j.EstimatedCompletion), Created: j.CreatedAt.UTC(), Started: when(j.StartedAt), Finished: when(j.CompletedAt),
	}
	if j.TargetVMName != "" {
		out.Name = j.TargetVMName
	}
	if j.TargetVMID != "" {
		out.VM = &target.VM{ID: j.TargetVMID, Name: j.TargetVMName}
	}
	return out
}

// sum adds up what the steps that move data say.
func (s *Service) sum(ctx context.Context, j *jobs.Job) error {
	steps, err := s.Steps(ctx, j.ID)
	for _, t := range steps {
		if t.Kind == "transfer" {
			j.Done += t.Done
			j.Total += t.Total
			j.Rate += t.Rate
		}
	}
	return err
}

// Submit stores a job and begins it.
func (s *Service) Submit(ctx context.Context, o jobs.Order) (jobs.Job, error) {
	id, err := s.driver.Submit(ctx, o)
	if err != nil {
		return jobs.Job{}, plain(err)
	}
	return s.Job(ctx, id)
}

// List lists the newest first.
func (s *Service) List(ctx context.Context, f jobs.Filter) ([]jobs.Job, string, error) {
	q := store.JobFilter{Target: f.Target, Text: f.VM, BackupID: f.Backup, Since: f.Since, Until: f.Until, Unfinished: f.Unfinished}
	for _, st := range f.Status {
		q.Status = append(q.Status, store.Status(st))
	}
	l, err := s.store.Jobs(ctx, q, store.Page{Cursor: f.Cursor, Limit: f.Limit})
	if err != nil {
		return nil, "", plain(err)
	}
	out := make([]jobs.Job, 0, len(l.Items))
	for i := range l.Items {
		j := jobOf(&l.Items[i])
		if !jobs.Resting(j.Status) {
			if err := s.sum(ctx, &j); err != nil {
				return nil, "", err
			}
		}
		out = append(out, j)
	}
	return out, l.Next, nil
}

// Job finds one by its id or the beginning of it.
func (s *Service) Job(ctx context.Context, id string) (jobs.Job, error) {
	row, err := s.store.Job(ctx, id)
	if errors.Is(err, store.ErrNotFound) && len(id) >= 4 {
		row, err = s.store.JobByPrefix(ctx, id)
	}
	if err != nil {
		return jobs.Job{}, plain(err)
	}
	j := jobOf(row)
	if len(row.Spec) > 0 {
		if p, err := s.driver.Plan(row.Spec); err == nil && p != nil {
			j.Backup, j.Target = p.Backup, p.Target
			if p.Machine != nil && j.VM == nil {
				j.Name = p.Machine.Name
			}
		}
	}
	return j, s.sum(ctx, &j)
}

// ByKey finds the job of an order's key.
func (s *Service) ByKey(ctx context.Context, key string) (jobs.Job, error) {
	row, err := s.store.JobByKey(ctx, key)
	if err != nil {
		return jobs.Job{}, plain(err)
	}
	return jobOf(row), nil
}

// Plan is what a job carries out.
func (s *Service) Plan(ctx context.Context, id string) (*plan.Plan, error) {
	row, err := s.store.Job(ctx, id)
	if err != nil {
		return nil, plain(err)
	}
	return s.driver.Plan(row.Spec)
}

// Steps are those of a job with what is known of them now.
func (s *Service) Steps(ctx context.Context, id string) ([]jobs.Step, error) {
	rows, err := s.store.Steps(ctx, id)
	if err != nil {
		return nil, plain(err)
	}
	out := make([]jobs.Step, 0, len(rows))
	for _, r := range rows {
		out = append(out, jobs.Step{
			Name: r.Name, Kind: r.Kind, Order: int(r.Order), Stage: r.Stage, Status: string(r.Status), Attempt: r.Attempt, Done: r.Done, Total: max(r.Total, r.Done),
			Error: r.ErrorMessage, Worker: r.Worker, Started: when(r.StartedAt), Finished: when(r.CompletedAt),
		})
	}
	s.driver.Live(id, out)
	return out, nil
}

// Resources are what the job recorded, in that order.
func (s *Service) Resources(ctx context.Context, id string) ([]target.Resource, error) {
	rows, err := s.store.Resources(ctx, id)
	if err != nil {
		return nil, plain(err)
	}
	out := make([]target.Resource, 0, len(rows))
	for _, r := range rows {
		out = append(out, target.Resource{Job: r.Job, Kind: r.Kind, ID: r.ExternalID, Name: r.Name, Data: r.Data, Done: r.Done, Gone: r.Gone})
	}
	return out, nil
}

// Events are those of a job after one.
func (s *Service) Events(ctx context.Context, id string, after int64, limit int) ([]jobs.Event, error) {
	rows, err := s.store.Events(ctx, id, after, limit)
	if err != nil {
		return nil, plain(err)
	}
	out := make([]jobs.Event, 0, len(rows))
	for _, e := range rows {
		out = append(out, jobs.Event{Seq: e.Seq, Time: e.Time.UTC(), Job: e.Job, Step: e.Step, Level: e.Level, Text: e.Message})
	}
	return out, nil
}

// AllEvents are those of all jobs.
func (s *Service) AllEvents(ctx context.Context, after int64, limit int) ([]jobs.Event, error) {
	return s.Events(ctx, "", after, limit)
}

// LastEvent is the highest number.
func (s *Service) LastEvent(ctx context.Context) (int64, error) {
	n, err := s.store.LastEvent(ctx)
	return n, plain(err)
}

// Receipt is a job's, byte for byte.
func (s *Service) Receipt(ctx context.Context, id string) ([]byte, error) {
	b, err := s.store.Receipt(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		names, berr := s.store.Blobs(ctx, id, "receipt")
		if berr != nil {
			return nil, plain(berr)
		}
		if !slices.Contains(names, "receipt") {
			return nil, jobs.ErrNoReceipt
		}
		b, err = s.store.Blob(ctx, id, "receipt")
	}
	return b, plain(err)
}

// Evidence lists what is kept of a boot proof.
func (s *Service) Evidence(ctx context.Context, id string) ([]string, error) {
	names, err := s.store.Blobs(ctx, id, restore.BlobEvidence)
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], restore.BlobEvidence)
	}
	slices.Sort(names)
	return names, plain(err)
}

// EvidenceFile is one of them.
func (s *Service) EvidenceFile(ctx context.Context, id, name string) ([]byte, error) {
	b, err := s.store.Blob(ctx, id, restore.BlobEvidence+name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, jobs.ErrNoEvidence
	}
	return b, plain(err)
}

// Retry goes on with a failed job.
func (s *Service) Retry(ctx context.Context, id string) error { return plain(s.driver.Retry(ctx, id)) }

// Cancel stops a job.
func (s *Service) Cancel(ctx context.Context, id string) error {
	return plain(s.driver.Cancel(ctx, id))
}

// Undo removes what a job made.
func (s *Service) Undo(ctx context.Context, id string) error { return plain(s.driver.Undo(ctx, id)) }

// SetLimits changes them from now on.
func (s *Service) SetLimits(l jobs.Limits) { s.driver.SetLimits(l) }
