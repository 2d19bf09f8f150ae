// Package feed follows the jobs that are not at rest: it keeps their state for
// those who watch them, and tells of what begins and ends.
package feed

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"ascend/internal/server/jobs"
	"ascend/internal/server/records"
)

// Change is a job that has begun, come to rest, or moved on since the last look.
type Change struct {
	Job    jobs.Job
	Steps  []jobs.Step
	Before string // the status that was told last; empty for a new job
	Count  int    // of the changes of status of this job
}

// watched is what was told of a job; it is stored, so that what happens while the
// server is down is told after.
type watched struct {
	Status string `json:"status"`
	Count  int    `json:"count"`
}

// Feed follows jobs. Safe for concurrent use.
type Feed struct {
	svc   jobs.Service
	table records.Table[watched]
	tell  func(context.Context, Change) error
	look  func(jobs.Job, []jobs.Step)
	log   *slog.Logger
	every time.Duration
	kick  chan struct{}

	mu    sync.Mutex
	state map[string]jobs.Job // not at rest, or come to rest at the last look
	next  chan struct{}       // closed at the next look
	seen  time.Time           // of the last look that worked
	rates []Rate
	looks int64 // that the last of rates is the mean of
}

// New makes a feed. tell is called once for each change of a job's status, again
// when it fails; look for every job at every look.
func New(s records.Store, svc jobs.Service, log *slog.Logger, tell func(context.Context, Change) error, look func(jobs.Job, []jobs.Step)) *Feed {
	return &Feed{
		svc: svc, table: records.Table[watched]{Store: s, Kind: "watched"}, tell: tell, look: look, log: log,
		every: time.Second, kick: make(chan struct{}, 1), state: map[string]jobs.Job{}, next: make(chan struct{}),
	}
}

// Follow sees to it that a job's changes are told from now on, whatever happens.
func (f *Feed) Follow(ctx context.Context, id string) error {
	d := records.Doc[watched]{Record: records.Record{ID: id}}
	err := f.table.Put(ctx, &d)
	if errors.Is(err, records.ErrConflict) {
		err = nil // followed already
	}
	f.Kick()
	return err
}

// Again follows a job that has come to rest and is to be moved again.
func (f *Feed) Again(ctx context.Context, j jobs.Job) error {
	d := records.Doc[watched]{Record: records.Record{ID: j.ID}, Value: watched{Status: j.Status, Count: int(time.Now().Unix())}}
	err := f.table.Put(ctx, &d)
	if errors.Is(err, records.ErrConflict) {
		err = nil
	}
	return err
}

// Kick has the feed look now.
func (f *Feed) Kick() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

// Run follows until ctx ends.
func (f *Feed) Run(ctx context.Context) {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for {
		if err := f.round(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("cannot look at jobs", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-f.kick:
		}
	}
}

func (f *Feed) round(ctx context.Context) error {
	told, err := f.table.All(ctx, "")
	if err != nil {
		return err
	}
	active := map[string]jobs.Job{}
	for cursor := ""; ; {
		list, next, err := f.svc.List(ctx, jobs.Filter{Unfinished: true, Cursor: cursor, Limit: 200})
		if err != nil {
			return err
		}
		for _, j := range list {
			active[j.ID] = j
		}
		if cursor = next; next == "" {
			break
		}
	}
	known := map[string]records.Doc[watched]{}
	for _, d := range told {
		known[d.ID] = d
		if _, ok := active[d.ID]; ok {
			continue
		}
		j, err := f.svc.Job(ctx, d.ID)
		if errors.Is(err, jobs.ErrNotFound) {
			err = f.table.Delete(ctx, d.ID, records.AnyRev)
			if err == nil || errors.Is(err, records.ErrNotFound) {
				continue
			}
		}
		if err != nil {
			return err
		}
		active[j.ID] = j
	}
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(active)) {
		errs = append(errs, f.one(ctx, active[id], known[id]))
	}
	f.mu.Lock()
	f.state, f.seen = active, time.Now()
	f.measure(f.seen)
	close(f.next)
	f.next = make(chan struct{})
	f.mu.Unlock()
	return errors.Join(errs...)
}

// one tells what is new of a job.
func (f *Feed) one(ctx context.Context, j jobs.Job, d records.Doc[watched]) error {
	rest := jobs.Resting(j.Status)
	var steps []jobs.Step
	var err error
	if d.Value.Status != j.Status || !rest {
		if steps, err = f.svc.Steps(ctx, j.ID); err != nil {
			return err
		}
		f.look(j, steps)
		if d.Value.Status == j.Status {
			return nil
		}
	}
	d.ID = j.ID
	if d.Value.Status != j.Status {
		before := d.Value.Status
		d.Value.Status = j.Status
		d.Value.Count++
		if err := f.tell(ctx, Change{Job: j, Steps: steps, Before: before, Count: d.Value.Count}); err != nil {
			return err
		}
		if err := f.table.Force(ctx, &d); err != nil {
			return err
		}
		return nil // at rest, it is forgotten at the next look
	}
	err = f.table.Delete(ctx, d.ID, d.Rev)
	if errors.Is(err, records.ErrNotFound) || errors.Is(err, records.ErrConflict) {
		err = nil
	}
	return err
}

// Jobs are those that are not at rest or have just come to it, the newest first,
// and a channel that is closed when that may have changed.
func (f *Feed) Jobs() ([]jobs.Job, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := slices.SortedFunc(maps.Values(f.state), func(a, b jobs.Job) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(b.ID, a.ID))
	})
	return out, f.next
}

// Rate is the mean throughput of all jobs in the ten seconds from a time.
type Rate struct {
	Time time.Time `json:"time"`
	Rate int64     `json:"rate" doc:"bytes a second"`
}

const (
	rateEvery = 10 * time.Second
	maxRates  = 360
)

// measure notes the throughput of this look. The lock is held.
func (f *Feed) measure(now time.Time) {
	r := Rate{Time: now.UTC().Truncate(time.Second)}
	for _, j := range f.state {
		if !jobs.Resting(j.Status) {
			r.Rate += j.Rate
		}
	}
	if n := len(f.rates); n > 0 && now.Sub(f.rates[n-1].Time) < rateEvery {
		last := &f.rates[n-1]
		f.looks++
		last.Rate += (r.Rate - last.Rate) / f.looks
		return
	}
	f.looks = 1
	if len(f.rates) == maxRates {
		f.rates = slices.Delete(f.rates, 0, 1)
	}
	f.rates = append(f.rates, r)
}

// Rates are the throughput of the last hour, the oldest first, as far as this
// server has run.
func (f *Feed) Rates() []Rate {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.rates)
}

// Age is how long ago the last look that worked was.
func (f *Feed) Age() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.seen)
}
