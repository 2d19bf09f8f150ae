// Package conduct carries runs of runbooks out: it asks what was seen, has the
// run decide, stores that, and does what the run said. Whatever it is stopped at,
// the next start goes on from what is stored.
package conduct

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"ascend/internal/runbook"
	"ascend/internal/server/records"
)

// World is what a run is carried out in. Methods are called concurrently.
type World interface {
	// Plan makes the plan of a machine. Its error is for people.
	Plan(ctx context.Context, r *runbook.Run, at runbook.At) (*runbook.Outline, error)
	// Begin begins the job of a machine; the same Key gives the same job.
	Begin(ctx context.Context, r *runbook.Run, at runbook.At) (job string, err error)
	// Find is the job of a Key; empty: none was begun.
	Find(ctx context.Context, key string) (job string, err error)
	// Job is the state of a job.
	Job(ctx context.Context, id string) (runbook.Seen, error)
	// Look tells whether a machine meets its group's condition.
	Look(ctx context.Context, r *runbook.Run, at runbook.At) (runbook.Look, error)
	// Cancel and Retry are those of jobs; a job that is past that is no error.
	Cancel(ctx context.Context, job string) error
	Retry(ctx context.Context, job string) error
}

// Records of runs refer to one of these.
const (
	active  = "active"
	resting = "resting"
)

// Conductor carries runs out. Safe for concurrent use.
type Conductor struct {
	Runs  records.Table[*runbook.Run]
	world World
	log   *slog.Logger

	// Tick is the time between two looks at jobs, and Look between two at a
	// machine's condition. Set before Run.
	Tick, Look time.Duration

	mu   sync.Mutex
	busy map[string]chan struct{} // by run; a value wakes its goroutine
	kick chan struct{}
}

// New makes a Conductor; nothing runs yet.
func New(s records.Store, w World, log *slog.Logger) *Conductor {
	return &Conductor{
		Runs: records.Table[*runbook.Run]{Store: s, Kind: "runbook-run"}, world: w, log: log, Tick: time.Second, Look: 5 * time.Second,
		busy: map[string]chan struct{}{}, kick: make(chan struct{}, 1),
	}
}

// Add stores a new run.
func (c *Conductor) Add(ctx context.Context, r *runbook.Run) error {
	d := records.Doc[*runbook.Run]{Record: records.Record{ID: r.ID, Ref: active}, Value: r}
	err := c.Runs.Put(ctx, &d)
	c.Kick()
	return err
}

// Change changes a run and stores it; f is called again when somebody else was
// quicker. Its error is returned, and nothing is stored.
func (c *Conductor) Change(ctx context.Context, id string, f func(*runbook.Run) (changed bool, err error)) (*runbook.Run, error) {
	for {
		d, err := c.Runs.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		changed, err := f(d.Value)
		if err != nil || !changed {
			return d.Value, err
		}
		d.Ref = active
		if d.Value.Status.AtRest() {
			d.Ref = resting
		}
		if err = c.Runs.Put(ctx, &d); errors.Is(err, records.ErrConflict) {
			continue
		}
		c.Kick()
		return d.Value, err
	}
}

// Kick has the conductor look now.
func (c *Conductor) Kick() {
	wake := func(ch chan struct{}) {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
	wake(c.kick)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.busy {
		wake(ch)
	}
}

// Run carries all runs out until ctx ends.
func (c *Conductor) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(10 * c.Tick)
	defer tick.Stop()
	for {
		list, err := c.Runs.All(ctx, active)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("cannot look for runs of runbooks", "error", err)
		}
		for _, d := range list {
			c.mu.Lock()
			wake := make(chan struct{}, 1)
			if c.busy[d.ID] == nil {
				c.busy[d.ID] = wake
				wg.Go(func() { c.drive(ctx, d.ID, wake) })
			}
			c.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.kick:
		}
	}
}

// drive carries one run out until it is at rest.
func (c *Conductor) drive(ctx context.Context, id string, wake chan struct{}) {
	looked := map[runbook.At]time.Time{}
	for {
		rest, moved, err := c.round(ctx, id, looked)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("cannot carry on a run of a runbook; trying again", "run", id, "error", err)
		}
		if rest || errors.Is(err, records.ErrNotFound) || ctx.Err() != nil {
			c.mu.Lock()
			delete(c.busy, id)
			c.mu.Unlock()
			if rest {
				c.again(ctx, id)
			}
			return
		}
		if moved && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-time.After(c.Tick):
		}
	}
}

// again sees to a run that was moved on between its rest and its being forgotten.
func (c *Conductor) again(ctx context.Context, id string) {
	if d, err := c.Runs.Get(ctx, id); err == nil && !d.Value.Status.AtRest() {
		c.Kick()
	}
}

// round moves a run one step on. moved: there may be more to do at once.
func (c *Conductor) round(ctx context.Context, id string, looked map[runbook.At]time.Time) (rest, moved bool, err error) {
	d, err := c.Runs.Get(ctx, id)
	if err != nil {
		return false, false, err
	}
	r := d.Value
	if r.Status.AtRest() {
		return true, false, nil
	}
	if r.Status == runbook.Planning {
		return false, true, c.plan(ctx, r)
	}
	seen, looks := c.see(ctx, r), c.look(ctx, r, looked)
	var do []runbook.Do
	r, err = c.Change(ctx, id, func(r *runbook.Run) (changed bool, err error) {
		do, changed = r.Step(runbook.View{Now: now(), Job: known(seen), Look: known(looks)})
		return changed, nil
	})
	if err != nil {
		return false, false, err
	}
	return r.Status.AtRest(), len(do) > 0, c.carry(ctx, r, do)
}

func known[K comparable, V any](m map[K]V) func(K) (V, bool) {
	return func(k K) (V, bool) { v, ok := m[k]; return v, ok }
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// atOnce bounds what a run does at once besides its jobs.
const atOnce = 4

// each calls f for every element, some at once, and waits.
func each[T any](list []T, f func(T)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, v := range list {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			f(v)
		})
	}
	wg.Wait()
}

// plan makes the plans of the next machines.
func (c *Conductor) plan(ctx context.Context, r *runbook.Run) error {
	var next []runbook.At
	r.Each(func(at runbook.At, m *runbook.MachineRun) {
		if m.Plan == nil && m.Trouble == "" && len(next) < 2*atOnce {
			next = append(next, at)
		}
	})
	var mu sync.Mutex
	var errs []error
	each(next, func(at runbook.At) {
		o, err := c.world.Plan(ctx, r, at)
		if ctx.Err() != nil {
			return
		}
		trouble := ""
		if err != nil {
			o, trouble = nil, err.Error()
		}
		_, err = c.Change(ctx, r.ID, func(r *runbook.Run) (bool, error) {
			r.NotePlan(at, o, trouble)
			return true, nil
		})
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	})
	if len(next) == 0 { // its last machine was noted by somebody who was killed
		_, err := c.Change(ctx, r.ID, func(r *runbook.Run) (bool, error) {
			if _, more := r.PlanNext(); r.Status != runbook.Planning || more {
				return false, nil
			}
			r.Status = runbook.Planned
			return true, nil
		})
		return err
	}
	return errors.Join(errs...)
}

// see asks for the jobs under way.
func (c *Conductor) see(ctx context.Context, r *runbook.Run) map[string]runbook.Seen {
	var ids []string
	r.Each(func(_ runbook.At, m *runbook.MachineRun) {
		if m.Status == runbook.Running && m.Job != "" {
			ids = append(ids, m.Job)
		}
	})
	out := map[string]runbook.Seen{}
	var mu sync.Mutex
	each(ids, func(id string) {
		s, err := c.world.Job(ctx, id)
		if err != nil {
			if ctx.Err() == nil {
				c.log.Warn("cannot look at a runbook's job", "job", id, "error", err)
			}
			return
		}
		mu.Lock()
		defer mu.Unlock()
		out[id] = s
	})
	return out
}

// look looks at machines whose condition is waited for, each now and then.
func (c *Conductor) look(ctx context.Context, r *runbook.Run, looked map[runbook.At]time.Time) map[runbook.At]runbook.Look {
	var list []runbook.At
	r.Each(func(at runbook.At, m *runbook.MachineRun) {
		if m.Status == runbook.Checking && time.Since(looked[at]) >= c.Look {
			looked[at] = time.Now()
			list = append(list, at)
		}
	})
	out := map[runbook.At]runbook.Look{}
	var mu sync.Mutex
	each(list, func(at runbook.At) {
		l, err := c.world.Look(ctx, r, at)
		if err != nil {
			l = runbook.Look{Text: err.Error()}
		}
		mu.Lock()
		defer mu.Unlock()
		out[at] = l
	})
	return out
}

// carry does what a run said, and notes what came of it.
func (c *Conductor) carry(ctx context.Context, r *runbook.Run, do []runbook.Do) error {
	var mu sync.Mutex
	var errs []error
	each(do, func(d runbook.Do) {
		err := c.one(ctx, r, d)
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	})
	return errors.Join(errs...)
}

func (c *Conductor) one(ctx context.Context, r *runbook.Run, d runbook.Do) error {
	job := d.Job
	var err error
	switch d.What {
	case runbook.Cancel:
		return c.world.Cancel(ctx, d.Job)
	case runbook.Redo:
		err = c.world.Retry(ctx, d.Job)
	case runbook.Find:
		if job, err = c.world.Find(ctx, r.Key(d.At)); err != nil {
			return err // it is asked for again
		}
	case runbook.Begin:
		if job, err = c.world.Find(ctx, r.Key(d.At)); err != nil {
			return err
		}
		if job == "" {
			job, err = c.world.Begin(ctx, r, d.At)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err() // the next start finds out
	}
	attempt := r.Machine(d.At).Attempt
	_, cerr := c.Change(ctx, r.ID, func(r *runbook.Run) (bool, error) {
		m := r.Machine(d.At)
		switch {
		case m.Status != runbook.Starting || m.Attempt != attempt:
			return false, nil
		case err != nil:
			r.NotBegun(d.At, err.Error(), now())
		case job == "":
			r.Dropped(d.At, now())
		default:
			r.Begun(d.At, job, now())
		}
		return true, nil
	})
	return cerr
}
