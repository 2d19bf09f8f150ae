package restore

import (
	"context"
	"sync"
	"time"

	"ascend/internal/transfer"
)

// live holds the meters of steps at work in this process, which say more than
// the store's rows, written about once a second.
type live struct {
	mu     sync.Mutex
	meters map[string]map[string]*transfer.Meter // by job and step
}

func (l *live) list(job, step string, m *transfer.Meter) (unlist func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.meters == nil {
		l.meters = map[string]map[string]*transfer.Meter{}
	}
	if l.meters[job] == nil {
		l.meters[job] = map[string]*transfer.Meter{}
	}
	l.meters[job][step] = m
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.meters[job][step] != m {
			return
		}
		delete(l.meters[job], step)
		if len(l.meters[job]) == 0 {
			delete(l.meters, job)
		}
	}
}

// overlay fills in what the meters show.
func (l *live) overlay(job string, steps []StepState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range steps {
		s := &steps[i]
		s.ETA = -1
		if m := l.meters[job][s.Name]; m != nil {
			p := m.Read()
			s.Done, s.Total, s.Rate, s.ETA = p.Done, max(p.Total, p.Done), p.Rate, p.ETA
		}
	}
}

// report writes the job's percentage and its estimated end about once a second
// until stop is called.
func (s *Service) report(id string) (stop func()) {
	ctx, cancel := context.WithCancel(s.life)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(max(s.tick, 100*time.Millisecond))
		defer tick.Stop()
		var e estimate
		last := time.Time{}
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if time.Since(last) < time.Second {
				continue
			}
			last = time.Now()
			if err := s.reportOnce(ctx, id, &e); err != nil && ctx.Err() == nil {
				s.log.Warn("cannot write progress", "job", id, "error", err)
			}
		}
	}()
	return func() { cancel(); <-ended }
}

func (s *Service) reportOnce(ctx context.Context, id string, e *estimate) error {
	spec, err := s.spec(ctx, id)
	if err != nil {
		return err
	}
	steps, err := s.Steps(ctx, id)
	if err != nil {
		return err
	}
	if e.past == nil {
		e.past = map[string]float64{}
		for _, what := range []string{"transfer", "verify"} {
			r, err := s.store.Rate(ctx, spec.Plan.Target.Name, what)
			if err != nil {
				return err
			}
			e.past[what] = r
		}
	}
	percent, left := e.read(time.Now(), spec, steps)
	eta := time.Time{}
	if left >= 0 {
		eta = time.Now().Add(left).UTC()
	}
	return s.store.SetProgress(ctx, id, percent, eta)
}

// estimate works out when a job will be done: the bytes left of each kind over
// the rate of that kind, which is the smoothed rate now, or what the target was
// seen to do before.
type estimate struct {
	past map[string]float64
	at   time.Time
	done map[string]int64
	rate map[string]float64
}

// smoothing is the time over which rates are smoothed.
const smoothing = 10 * time.Second

// read gives the percentage, at most 99.9 before the job is completed, and the
// time left, -1 when it is not known.
func (e *estimate) read(now time.Time, spec *Spec, steps []StepState) (percent float64, left time.Duration) {
	done, total := map[string]int64{}, map[string]int64{}
	finished := 0
	for _, s := range steps {
		if s.Status == stepCompleted {
			finished++
		}
		p := phaseOf(s.Kind)
		if p == nil || !p.bytes {
			continue
		}
		t := s.Total
		if t == 0 {
			t = planned(spec, s.Name, p)
		}
		d := min(s.Done, t)
		if s.Status == stepCompleted {
			d = t
		}
		done[s.Kind] += d
		total[s.Kind] += t
	}
	e.smooth(now, done)
	var allDone, all int64
	known := true
	for kind, t := range total {
		allDone, all = allDone+done[kind], all+t
		rest := float64(t - done[kind])
		r := e.rate[kind]
		if r <= 0 {
			r = e.past[kind]
		}
		switch {
		case rest <= 0:
		case r > 0:
			left += time.Duration(rest / r * float64(time.Second))
		case kind == "verify" && e.rate["transfer"] > 0: // reading is rarely slower than sending
			left += time.Duration(rest / e.rate["transfer"] * float64(time.Second))
		default:
			known = false
		}
	}
	switch {
	case all > 0:
		percent = 100 * float64(allDone) / float64(all)
	case len(steps) > 0:
		percent = 100 * float64(finished) / float64(len(steps))
	}
	if !known {
		left = -1
	}
	return min(percent, 99.9), left
}

func (e *estimate) smooth(now time.Time, done map[string]int64) {
	if e.rate == nil {
		e.rate = map[string]float64{}
	}
	dt := now.Sub(e.at)
	if e.done != nil && dt > 0 && dt < time.Minute { // a clock that jumped says nothing
		for kind, d := range done {
			fresh := float64(d-e.done[kind]) / dt.Seconds()
			if fresh < 0 {
				continue // sent again from the start
			}
			weight := min(1, dt.Seconds()/smoothing.Seconds())
			if e.rate[kind] == 0 {
				weight = 1
			}
			e.rate[kind] += weight * (fresh - e.rate[kind])
		}
	}
	e.at, e.done = now, done
}

const stepCompleted = "completed"

func phaseOf(kind string) *phase {
	for i := range phases {
		if phases[i].kind == kind {
			return &phases[i]
		}
	}
	return nil
}

// planned is the bytes of a step that has not begun.
func planned(spec *Spec, name string, p *phase) int64 {
	for _, d := range spec.Plan.Disks {
		if diskStep(p.title, &d) == name {
			return d.Source.Allocated
		}
	}
	return 0
}

// Update is what Watch tells: the job and its steps now, and the lines of its
// log since the last one.
type Update struct {
	Job    Job
	Steps  []StepState
	Events []Event
}

// Watch tells what happens in a job from the event after a sequence number on.
// The first update comes at once. The channel is closed after the one that shows
// the job at rest, when ctx ends, and when nothing more will happen here because
// the process stops. The receiver must go on receiving or end ctx.
func (s *Service) Watch(ctx context.Context, id string, after int64) <-chan Update {
	out := make(chan Update)
	go func() {
		defer close(out)
		tick := time.NewTicker(s.tick)
		defer tick.Stop()
		for {
			u, err := s.update(ctx, id, after)
			if err == nil {
				if n := len(u.Events); n > 0 {
					after = u.Events[n-1].Seq
				}
				select {
				case out <- *u:
				case <-ctx.Done():
					return
				}
				if u.Job.Status.AtRest() {
					return
				}
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			case <-s.life.Done():
				return
			}
		}
	}()
	return out
}

func (s *Service) update(ctx context.Context, id string, after int64) (*Update, error) {
	j, err := s.store.Job(ctx, id) // first: what it shows has happened in the rest
	if err != nil {
		return nil, err
	}
	u := &Update{Job: *j}
	if u.Steps, err = s.Steps(ctx, id); err != nil {
		return nil, err
	}
	for {
		more, err := s.Events(ctx, id, after, 1000)
		if err != nil {
			return nil, err
		}
		u.Events = append(u.Events, more...)
		if len(more) < 1000 {
			return u, nil
		}
		after = more[len(more)-1].Seq
	}
}
