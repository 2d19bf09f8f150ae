package sim

import (
	"math"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

func one(cores, nic float64, slots int) Fleet {
	return Fleet{Sites: []Site{{Name: "A"}}, Workers: []Worker{{Cores: cores, NIC: nic, Slots: slots}}, Targets: []Target{{Name: "T"}}}
}

func policy(name string) Policy {
	for _, p := range Policies() {
		if p.Name == name {
			return p
		}
	}
	panic("no policy " + name)
}

func play(t *testing.T, f Fleet, jobs []Job, p string, seed uint64) *Result {
	t.Helper()
	r, err := Run(f, jobs, policy(p), seed)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func near(t *testing.T, what string, got time.Duration, want float64) {
	t.Helper()
	if math.Abs(got.Seconds()-want) > 1e-6*max(want, 1) {
		t.Errorf("%s: %v, want %v s", what, got, want)
	}
}

// What can be worked out by hand.
func TestByHand(t *testing.T) {
	jobs := func(n int, bytes float64) (out []Job) {
		for range n {
			out = append(out, Job{Bytes: bytes, Before: 2 * time.Second, After: 3 * time.Second})
		}
		return out
	}
	f := one(0, 100, 4)
	near(t, "one job over a network of 100 B/s", play(t, f, jobs(1, 1000), "least loaded", 1).Makespan, 2+10+3)
	near(t, "four share it", play(t, f, jobs(4, 1000), "least loaded", 1).Makespan, 2+40+3)
	// Four, then one: its planning and creating lie outside the others' transfer.
	near(t, "five in four slots", play(t, f, jobs(5, 1000), "least loaded", 1).Makespan, 2+40+3+2+10+3)

	f = one(2, 0, 4)
	f.Cost.CPU = 0.01
	near(t, "processors", play(t, f, jobs(2, 1000), "least loaded", 1).Makespan, 2+10+3)
	f.Cost.Each = 50
	near(t, "one job is bounded by itself", play(t, f, jobs(1, 1000), "least loaded", 1).Makespan, 2+20+3)
	if r := play(t, f, jobs(1, 1000), "least loaded", 1); r.Bottleneck != alone {
		t.Errorf("the bottleneck is %s", r.Bottleneck)
	}

	f = one(0, 0, 2)
	f.Targets[0].Take, f.Targets[0].Slots, f.Cost.Wire = 100, 1, 0.5
	near(t, "a target takes one at a time, compressed", play(t, f, jobs(2, 1000), "least loaded", 1).Makespan, 2*(2+5+3))

	// A job at the other site crosses the WAN.
	f = Fleet{Sites: []Site{{Name: "A"}, {Name: "B"}}, Workers: []Worker{{Site: 1, Slots: 1}}, Targets: []Target{{}}, WAN: 10}
	r := play(t, f, jobs(1, 1000), "least loaded", 1)
	near(t, "over the WAN", r.Makespan, 2+100+3)
	if r.Bottleneck != "wan" || math.Abs(r.Busy["wan into B"]-100.0/105) > 1e-9 {
		t.Errorf("bottleneck %s, %v", r.Bottleneck, r.Busy)
	}
	if _, err := Run(f, jobs(1, 1), policy("near only"), 1); err == nil {
		t.Error("a job that no worker may take ends")
	}
}

// Two flows over a shared link, one of them bounded elsewhere: the other has the
// rest (Bertsekas and Gallager, figure 6.22's principle).
func TestShareIsMaxMinFair(t *testing.T) {
	link, slow := &resource{kind: "link", capacity: 10}, &resource{kind: "slow", capacity: 2}
	a := &flow{uses: []use{{link, 1}, {slow, 1}}, most: math.Inf(1)}
	b := &flow{uses: []use{{link, 1}}, most: math.Inf(1)}
	c := &flow{uses: []use{{link, 1}}, most: 3}
	share([]*flow{a, b, c})
	if a.rate != 2 || b.rate != 5 || c.rate != 3 || a.held != "slow" || b.held != "link" || c.held != alone {
		t.Errorf("%+v %+v %+v", *a, *b, *c)
	}
}

// In any network: nothing is used beyond its capacity, and every flow is held by
// a full resource in which no flow is faster, or by its own limit.
func TestShareAnywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		var rs []*resource
		for range 1 + rng.IntN(8) {
			rs = append(rs, &resource{kind: "r", capacity: 1 + 99*rng.Float64()})
		}
		var fs []*flow
		for range 1 + rng.IntN(20) {
			f := &flow{most: math.Inf(1)}
			if rng.IntN(3) == 0 {
				f.most = 1 + 20*rng.Float64()
			}
			for _, i := range rng.Perm(len(rs))[:1+rng.IntN(len(rs))] {
				f.uses = append(f.uses, use{rs[i], 1})
			}
			fs = append(fs, f)
		}
		share(fs)
		used, top := map[*resource]float64{}, map[*resource]float64{}
		for _, f := range fs {
			for _, u := range f.uses {
				used[u.r] += f.rate
				top[u.r] = max(top[u.r], f.rate)
			}
		}
		for _, f := range fs {
			ok := f.rate >= f.most*(1-1e-6)
			for _, u := range f.uses {
				if used[u.r] > u.r.capacity*(1+1e-6) {
					t.Fatalf("%v of %v used", used[u.r], u.r.capacity)
				}
				ok = ok || used[u.r] >= u.r.capacity*(1-1e-6) && f.rate >= top[u.r]*(1-1e-6)
			}
			if !ok {
				t.Fatalf("a flow of %v could be faster", f.rate)
			}
		}
	}
}

func TestFailures(t *testing.T) {
	f := one(0, 100, 2)
	f.Workers = append(f.Workers, f.Workers[0])
	f.Failures = Failures{Between: time.Minute, Repair: 10 * time.Second, Notice: 5 * time.Second, Lost: 50}
	var jobs []Job
	for range 40 {
		jobs = append(jobs, Job{Bytes: 1000, Before: time.Second, After: time.Second})
	}
	r := play(t, f, jobs, "least loaded", 5)
	if r.Failures == 0 || r.Again == 0 || r.Again > float64(r.Failures)*2*50 {
		t.Errorf("%d failures, %v bytes again", r.Failures, r.Again)
	}
	for i, d := range r.Done {
		if d <= 0 || d > r.Makespan {
			t.Errorf("job %d was done at %v of %v", i, d, r.Makespan)
		}
	}
	f.Failures = Failures{}
	if calm := play(t, f, jobs, "least loaded", 5); calm.Makespan >= r.Makespan {
		t.Errorf("%v without failures, %v with", calm.Makespan, r.Makespan)
	}
}

func TestRepeats(t *testing.T) {
	f, jobs := Disaster(10)
	a, b := play(t, f, jobs, "near, else least loaded", 1), play(t, f, jobs, "near, else least loaded", 1)
	if !reflect.DeepEqual(a, b) {
		t.Error("two runs of one seed differ")
	}
	if c := play(t, f, jobs, "near, else least loaded", 2); reflect.DeepEqual(a, c) {
		t.Error("two seeds give one result")
	}
}

// The chosen policy is the fastest one at each size, or as good as it.
func TestPolicy(t *testing.T) {
	for _, workers := range []int{1, 10, 100} {
		f, jobs := Disaster(workers)
		chosen := play(t, f, jobs, Chosen, 1)
		for _, p := range Policies() {
			if workers == 1 && p.Name == "near only" {
				continue // would wait for ever
			}
			r := play(t, f, jobs, p.Name, 1)
			for _, share := range []float64{0.5, 1} {
				if a, b := r.Percentile(share), chosen.Percentile(share); a < b*97/100 {
					t.Errorf("%d workers: %v of the jobs are done after %v with %s, %v with %s", workers, share, a, p.Name, b, Chosen)
				}
			}
		}
	}
}
