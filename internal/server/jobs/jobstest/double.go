// Package jobstest has a jobs.Service that moves nothing: for tests of the API
// that need jobs in every state at once, and many.
package jobstest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"ascend/internal/plan"
	"ascend/internal/server/jobs"
	"ascend/internal/target"
)

// Double is a jobs.Service in memory. Its jobs stay as Set leaves them.
type Double struct {
	mu     sync.Mutex
	jobs   map[string]*job
	events []jobs.Event
	keys   map[string]string
	made   int // jobs by Submit
	Limits jobs.Limits
}

type job struct {
	jobs.Job
	steps []jobs.Step
	plan  *plan.Plan
}

var _ jobs.Service = (*Double)(nil)

// New makes one.
func New() *Double { return &Double{jobs: map[string]*job{}, keys: map[string]string{}} }

// Set makes a job, or changes one.
func (d *Double) Set(j jobs.Job, steps ...jobs.Step) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.jobs[j.ID]
	n := &job{Job: j, steps: steps}
	if was != nil {
		n.plan = was.plan
		if steps == nil {
			n.steps = was.steps
		}
	}
	d.jobs[j.ID] = n
	d.events = append(d.events, jobs.Event{Seq: int64(len(d.events) + 1), Time: time.Now().UTC(), Job: j.ID, Level: "info", Text: "job is " + j.Status})
}

// Measured has measured nothing.
func (d *Double) Measured(context.Context, string) (rate int64, jobs int, err error) {
	return 0, 0, nil
}

// Submit makes a pending job.
func (d *Double) Submit(_ context.Context, o jobs.Order) (jobs.Job, error) {
	d.mu.Lock()
	id, ok := d.keys[o.Key]
	n := d.made
	d.made++
	d.mu.Unlock()
	if ok && o.Key != "" {
		return d.Job(context.Background(), id)
	}
	j := jobs.Job{ID: fmt.Sprintf("01J%05d", n), Status: "pending", Backup: o.Plan.Backup, Target: o.Plan.Target, Name: o.Plan.Machine.Name, Created: time.Now().UTC(), Keep: o.Options.Keep}
	d.Set(j, jobs.Step{Name: "transfer disk 0", Kind: "transfer", Status: "pending", Total: 1 << 20})
	d.mu.Lock()
	defer d.mu.Unlock()
	d.jobs[j.ID].plan = o.Plan
	d.keys[o.Key] = j.ID
	return j, nil
}

func (d *Double) find(id string) (*job, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	j := d.jobs[id]
	if j == nil {
		return nil, fmt.Errorf("%.80q: %w", id, jobs.ErrNotFound)
	}
	return j, nil
}

// List lists the newest first.
func (d *Double) List(_ context.Context, f jobs.Filter) ([]jobs.Job, string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []jobs.Job
	for _, j := range d.jobs {
		if len(f.Status) > 0 && !slices.Contains(f.Status, j.Status) || f.Unfinished && jobs.Resting(j.Status) || f.Target != "" && f.Target != j.Target.Name || f.Cursor != "" && j.ID >= f.Cursor ||
			f.VM != "" && !strings.Contains(strings.ToLower(j.Name), strings.ToLower(f.VM)) {
			continue
		}
		out = append(out, j.Job)
	}
	slices.SortFunc(out, func(a, b jobs.Job) int { return cmp.Compare(b.ID, a.ID) })
	if f.Limit > 0 && len(out) > f.Limit {
		return out[:f.Limit], out[f.Limit-1].ID, nil
	}
	return out, "", nil
}

// Job finds one.
func (d *Double) Job(_ context.Context, id string) (jobs.Job, error) {
	j, err := d.find(id)
	if err != nil {
		return jobs.Job{}, err
	}
	return j.Job, nil
}

// ByKey finds the job of a key.
func (d *Double) ByKey(ctx context.Context, key string) (jobs.Job, error) {
	d.mu.Lock()
	id := d.keys[key]
	d.mu.Unlock()
	return d.Job(ctx, id)
}

// Steps are as Set left them.
func (d *Double) Steps(_ context.Context, id string) ([]jobs.Step, error) {
	j, err := d.find(id)
	if err != nil {
		return nil, err
	}
	return slices.Clone(j.steps), nil
}

// Resources are none.
func (d *Double) Resources(_ context.Context, id string) ([]target.Resource, error) {
	_, err := d.find(id)
	return nil, err
}

// Events are those of one job.
func (d *Double) Events(ctx context.Context, id string, after int64, limit int) ([]jobs.Event, error) {
	if _, err := d.find(id); err != nil {
		return nil, err
	}
	all, err := d.AllEvents(ctx, after, 1<<30)
	all = slices.DeleteFunc(all, func(e jobs.Event) bool { return e.Job != id })
	return all[:min(len(all), limit)], err
}

// AllEvents are those of all.
func (d *Double) AllEvents(_ context.Context, after int64, limit int) ([]jobs.Event, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	after = min(max(after, 0), int64(len(d.events)))
	rest := d.events[after:]
	return slices.Clone(rest[:min(len(rest), limit)]), nil
}

// LastEvent is the highest number.
func (d *Double) LastEvent(context.Context) (int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(len(d.events)), nil
}

// Receipt is a completed job's.
func (d *Double) Receipt(_ context.Context, id string) ([]byte, error) {
	j, err := d.find(id)
	if err != nil {
		return nil, err
	}
	if j.Status != "completed" {
		return nil, jobs.ErrNoReceipt
	}
	return json.Marshal(map[string]string{"job": id})
}

// Evidence is of every completed job: its screen.
func (d *Double) Evidence(_ context.Context, id string) ([]string, error) {
	j, err := d.find(id)
	if err != nil || j.Status != "completed" {
		return nil, err
	}
	return []string{"console.txt", "screen.png"}, nil
}

// EvidenceFile is one of them.
func (d *Double) EvidenceFile(ctx context.Context, id, name string) ([]byte, error) {
	names, err := d.Evidence(ctx, id)
	if err == nil && !slices.Contains(names, name) {
		err = jobs.ErrNoEvidence
	}
	return []byte(name), err
}

// Plan is the one that was submitted.
func (d *Double) Plan(_ context.Context, id string) (*plan.Plan, error) {
	j, err := d.find(id)
	if err != nil {
		return nil, err
	}
	if j.plan == nil {
		return &plan.Plan{Version: 1}, nil
	}
	return j.plan, nil
}

func (d *Double) move(id, to string, from ...string) error {
	j, err := d.find(id)
	if err != nil {
		return err
	}
	if !slices.Contains(from, j.Status) {
		return fmt.Errorf("the job is %s: %w", j.Status, jobs.ErrState)
	}
	n := j.Job
	n.Status = to
	d.Set(n)
	return nil
}

// Retry makes a failed job run.
func (d *Double) Retry(_ context.Context, id string) error { return d.move(id, "running", "failed") }

// Cancel makes a job cancelled.
func (d *Double) Cancel(_ context.Context, id string) error {
	return d.move(id, "cancelled", "pending", "running")
}

// Undo makes a job undone.
func (d *Double) Undo(_ context.Context, id string) error {
	return d.move(id, "undone", "completed", "failed", "cancelled")
}

// SetLimits keeps them.
func (d *Double) SetLimits(l jobs.Limits) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Limits = l
}
