package sim

import (
	"container/heap"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// state of a job.
type running struct {
	n      int
	job    *Job
	worker int
	left   float64 // bytes
	epoch  int     // events of an earlier run of the job do not count
	flow   *flow   // while it transfers
	served bool    // it has begun once: what it did before the transfer stays done
}

type event struct {
	at    float64
	seq   int // breaks ties, so that a run repeats
	do    func()
	job   *running // with epoch: the event is void when the job was begun again
	epoch int
}

type events []*event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	if e[i].at != e[j].at {
		return e[i].at < e[j].at
	}
	return e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(*event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

type worker struct {
	Worker
	cpu, nic *resource
	jobs     []*running
	last     int
	down     bool
}

type run struct {
	fleet   *Fleet
	policy  Policy
	rng     *rand.Rand
	now     float64
	queue   events
	seq     int
	workers []*worker
	read    []*resource
	uplink  []*resource
	wan     []*resource
	take    []*resource
	at      []int // jobs at each target
	waiting []*running
	moving  []*running
	res     Result
	left    int
	held    map[string]float64
}

func limit(v float64) float64 {
	if v <= 0 {
		return math.Inf(1)
	}
	return v
}

// Run plays the jobs, begun in their order as slots are free, until all are done.
func Run(fleet Fleet, jobs []Job, policy Policy, seed uint64) (*Result, error) {
	r := &run{fleet: &fleet, policy: policy, rng: rand.New(rand.NewPCG(seed, 1)), held: map[string]float64{}, left: len(jobs), at: make([]int, len(fleet.Targets))}
	if err := r.build(jobs); err != nil {
		return nil, err
	}
	r.res.Done = make([]time.Duration, len(jobs))
	for i := range r.workers {
		r.breakdown(i)
	}
	r.dispatch()
	for r.left > 0 {
		if err := r.step(); err != nil {
			return nil, err
		}
	}
	r.finish()
	return &r.res, nil
}

func (r *run) build(jobs []Job) error {
	for i, s := range r.fleet.Sites {
		r.read = append(r.read, &resource{name: "repository " + s.Name, kind: "repositories", capacity: limit(s.Read)})
		r.uplink = append(r.uplink, &resource{name: "uplink " + s.Name, kind: "uplinks", capacity: limit(s.Uplink)})
		r.wan = append(r.wan, &resource{name: fmt.Sprintf("wan into %s", r.fleet.Sites[i].Name), kind: "wan", capacity: limit(r.fleet.WAN)})
	}
	for _, t := range r.fleet.Targets {
		r.take = append(r.take, &resource{name: "target " + t.Name, kind: "targets", capacity: limit(t.Take)})
	}
	for i, w := range r.fleet.Workers {
		if w.Site < 0 || w.Site >= len(r.fleet.Sites) || w.Slots < 1 {
			return fmt.Errorf("worker %d has no site or no slots", i)
		}
		r.workers = append(r.workers, &worker{
			Worker: w, last: -1,
			cpu: &resource{name: fmt.Sprintf("processors of worker %d", i), kind: "worker processors", capacity: limit(w.Cores)},
			nic: &resource{name: fmt.Sprintf("network of worker %d", i), kind: "worker networks", capacity: limit(w.NIC)},
		})
	}
	if len(r.workers) == 0 {
		return fmt.Errorf("there are no workers")
	}
	for i := range jobs {
		j := &jobs[i]
		if j.Site < 0 || j.Site >= len(r.fleet.Sites) || j.Target < 0 || j.Target >= len(r.fleet.Targets) || j.Bytes < 0 {
			return fmt.Errorf("job %d has no site or no target", i)
		}
		r.waiting = append(r.waiting, &running{n: i, job: j, left: j.Bytes})
	}
	return nil
}

func (r *run) after(d float64, j *running, do func()) {
	e := &event{at: r.now + d, seq: r.seq, do: do, job: j}
	if j != nil {
		e.epoch = j.epoch
	}
	r.seq++
	heap.Push(&r.queue, e)
}

// step goes on to the next event: one of the queue, or the end of a transfer.
func (r *run) step() error {
	flows := make([]*flow, len(r.moving))
	for i, m := range r.moving {
		flows[i] = m.flow
	}
	share(flows)
	next, first := math.Inf(1), -1
	for i, m := range r.moving {
		if t := r.now + m.left/m.flow.rate; t < next {
			next, first = t, i
		}
	}
	if r.stuck() {
		return fmt.Errorf("%d jobs wait for ever: no worker is allowed to take them", len(r.waiting))
	}
	if len(r.queue) > 0 && r.queue[0].at <= next {
		r.advance(r.queue[0].at)
		e := heap.Pop(&r.queue).(*event)
		if e.job == nil || e.epoch == e.job.epoch {
			e.do()
		}
		return nil
	}
	m := r.moving[first]
	r.advance(next)
	m.left = 0
	r.stop(m)
	r.after(m.job.After.Seconds(), m, func() { r.done(m) })
	return nil
}

// stuck tells that nothing but waiting goes on although every worker is up.
func (r *run) stuck() bool {
	return len(r.waiting) == r.left && !slices.ContainsFunc(r.workers, func(w *worker) bool { return w.down })
}

// advance moves the transfers to a time.
func (r *run) advance(to float64) {
	dt := to - r.now
	for _, m := range r.moving {
		m.left = max(0, m.left-m.flow.rate*dt)
		r.held[m.flow.held] += dt
		for _, u := range m.flow.uses {
			u.r.used += u.each * m.flow.rate * dt
		}
	}
	r.now = to
}

// dispatch begins what waits, in order, where there is a free slot.
func (r *run) dispatch() {
	var free []Candidate
	still := r.waiting[:0]
	for i, j := range r.waiting {
		if n := r.fleet.Targets[j.job.Target].Slots; n > 0 && r.at[j.job.Target] >= n {
			still = append(still, j)
			continue
		}
		free = free[:0]
		for k, w := range r.workers {
			if !w.down && len(w.jobs) < w.Slots {
				free = append(free, Candidate{Index: k, Jobs: len(w.jobs), Near: w.Site == j.job.Site, Last: w.last})
			}
		}
		if len(free) == 0 {
			still = append(still, r.waiting[i:]...)
			break
		}
		if c := r.policy.Choose(j.job, free); c >= 0 {
			r.begin(j, free[c].Index)
		} else {
			still = append(still, j)
		}
	}
	r.waiting = still
}

func (r *run) begin(j *running, k int) {
	w := r.workers[k]
	j.worker, w.last = k, j.n
	w.jobs = append(w.jobs, j)
	r.at[j.job.Target]++
	before := j.job.Before.Seconds()
	if j.served {
		before = 0
	}
	j.served = true
	r.after(before, j, func() { r.move(j) })
}

func (r *run) move(j *running) {
	w, c, t := r.workers[j.worker], r.fleet.Cost, r.fleet.Targets[j.job.Target]
	wire := c.Wire
	if wire == 0 {
		wire = 1
	}
	j.flow = &flow{
		most: min(limit(c.Each), limit(t.Each)/wire),
		uses: []use{{r.read[j.job.Site], 1}, {w.cpu, c.CPU}, {w.nic, wire}, {r.uplink[w.Site], wire}, {r.take[j.job.Target], wire}},
	}
	if w.Site != j.job.Site {
		j.flow.uses = append(j.flow.uses, use{r.wan[w.Site], 1})
	}
	r.moving = append(r.moving, j)
}

// stop takes a job out of those that move.
func (r *run) stop(j *running) {
	r.moving = slices.DeleteFunc(r.moving, func(m *running) bool { return m == j })
	j.flow = nil
}

// drop takes a job off its worker.
func (r *run) drop(j *running) {
	w := r.workers[j.worker]
	w.jobs = slices.DeleteFunc(w.jobs, func(o *running) bool { return o == j })
	r.at[j.job.Target]--
	j.epoch++
}

func (r *run) done(j *running) {
	r.drop(j)
	r.left--
	r.res.Done[j.n] = seconds(r.now)
	r.dispatch()
}

func (r *run) breakdown(k int) {
	f := r.fleet.Failures
	if f.Between <= 0 {
		return
	}
	r.after(r.rng.ExpFloat64()*f.Between.Seconds(), nil, func() {
		w := r.workers[k]
		w.down = true
		r.res.Failures++
		for _, j := range slices.Clone(w.jobs) {
			if j.flow != nil {
				again := min(f.Lost, j.job.Bytes-j.left)
				j.left += again
				r.res.Again += again
				r.stop(j)
			}
			r.drop(j)
			r.after(f.Notice.Seconds(), nil, func() {
				r.waiting = append([]*running{j}, r.waiting...)
				r.dispatch()
			})
		}
		r.after(r.rng.ExpFloat64()*f.Repair.Seconds(), nil, func() {
			w.down = false
			r.breakdown(k)
			r.dispatch()
		})
	})
}

func (r *run) finish() {
	r.res.Makespan = seconds(r.now)
	r.res.Busy = map[string]float64{}
	all := slices.Concat(r.read, r.uplink, r.wan, r.take)
	for _, w := range r.workers {
		all = append(all, w.cpu, w.nic)
	}
	for _, x := range all {
		if !math.IsInf(x.capacity, 1) && r.now > 0 {
			r.res.Busy[x.name] = x.used / x.capacity / r.now
		}
	}
	kinds := slices.Sorted(maps.Keys(r.held))
	total := 0.0
	for _, k := range kinds {
		total += r.held[k]
	}
	r.res.Held = map[string]float64{}
	for _, k := range kinds {
		r.res.Held[k] = r.held[k] / total
		if b := r.res.Bottleneck; b == "" || r.held[k] > r.held[b] {
			r.res.Bottleneck = k
		}
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
