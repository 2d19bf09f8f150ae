package enginetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ascend/internal/engine"
	"ascend/internal/store"
)

// Bench is one database and world, with the engine under test.
type Bench struct {
	Store *store.Store
	World *World
	// New makes an engine over them; each stands for a process of its own.
	New func(t testing.TB) engine.Engine
}

// scenario is a set-up, what is done to the job, and what must come of it.
type scenario struct {
	steps string
	act   string // "cancel a": once a has begun; "keep"; then "retry", "undo" after rest
	log   string // expected order of do and undo
	end   store.Status
	left  string // things that exist in the end
}

var scenarios = []scenario{
	{steps: "a b c", log: "do a, do b, do c", end: store.Completed, left: "a b c"},
	{steps: "a b! c", log: "do a, do b, undo b, undo a", end: store.Failed},
	{steps: "a!", log: "do a, undo a", end: store.Failed},
	{steps: "a b~2 c", log: "do a, do b, do b, do b, do c", end: store.Completed, left: "a b c"},
	{steps: "a b~9", log: "do a, do b, do b, do b, do b, undo b, undo a", end: store.Failed},
	{steps: "a b?1", log: "do a, do b, do b", end: store.Completed, left: "a b"},
	{steps: "a b?9", log: "do a, do b, do b, do b, do b, undo b, undo a", end: store.Failed},
	{steps: "a@9 b", log: "do a, do a, do a, do a, do a, do a, do a, do a, do a, do a, do b", end: store.Completed, left: "a b"},
	{steps: "a^~2 b!", log: "do a, do b, undo b, undo a, undo a, undo a", end: store.Failed},
	{steps: "a b^ c!", log: "do a, do b, do c, undo c, undo b", end: store.Failed, left: "a b"},
	{steps: "a b% c", act: "cancel b", log: "do a, do b, undo b, undo a", end: store.Cancelled},
	{steps: "a%", act: "cancel a", log: "do a, undo a", end: store.Cancelled},
	{steps: "a b+c!>b d", log: "do a, do b, do c, undo c, undo b, undo a", end: store.Failed},
	{steps: "a b%+c!>b d", log: "do a, do b, do c, undo c, undo b, undo a", end: store.Failed},
	{steps: "a b%+c%>b d", act: "cancel c", log: "do a, do b, do c, undo c, undo b, undo a", end: store.Cancelled},
	{steps: "a b! c", act: "keep", log: "do a, do b", end: store.Failed, left: "a"},
	{steps: "a b! c", act: "keep retry", log: "do a, do b, do b", end: store.Failed, left: "a"},
	{steps: "a b~4 c", act: "keep retry", log: "do a, do b, do b, do b, do b, do b, do c", end: store.Completed, left: "a b c"},
	{steps: "a b! c", act: "keep undo", log: "do a, do b, undo b, undo a", end: store.Undone},
	{steps: "a b c", act: "undo", log: "do a, do b, do c, undo c, undo b, undo a", end: store.Undone},
	{steps: "a b c^~4", act: "undo undo", log: "do a, do b, do c, undo c, undo c, undo c, undo c, undo c, undo b, undo a", end: store.Undone},
	{steps: "a b#5", log: "do a, do b", end: store.Completed, left: "a b"},
}

// Run runs the scenarios that need no other process, each on a bench of its own.
func Run(t *testing.T, bench func(t *testing.T) *Bench) {
	for _, sc := range scenarios {
		t.Run(sc.steps+" "+sc.act, func(t *testing.T) { sc.run(t, bench(t)) })
	}
	t.Run("cancel at every checkpoint", func(t *testing.T) { cancelEverywhere(t, bench) })
	t.Run("what the state does not allow", func(t *testing.T) { states(t, bench(t)) })
	t.Run("asked twice", func(t *testing.T) { twice(t, bench(t)) })
}

// Submit stores a job with a scenario's steps.
func (b *Bench) Submit(t testing.TB, steps string, keep bool) string {
	t.Helper()
	j := &store.Job{VMName: steps, KeepOnFailure: keep}
	if _, err := b.Store.CreateJob(t.Context(), j, engine.Rows(Parse(steps))); err != nil {
		t.Fatal(err)
	}
	return j.ID
}

// Rest waits until a job is at rest, and returns it.
func (b *Bench) Rest(t testing.TB, e engine.Engine, job string) *store.Job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := e.Wait(ctx, job); err != nil {
		t.Fatalf("job does not come to rest: %v: %q", err, b.World.Log())
	}
	j, err := b.Store.Job(ctx, job)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// Until waits for something in the world.
func Until(t testing.TB, what string, fn func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !fn(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(tick)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// deeds is the log without units.
func deeds(w *World) string {
	return strings.Join(slices.DeleteFunc(w.Log(), func(l string) bool { return strings.HasPrefix(l, "unit") }), ", ")
}

func (sc scenario) run(t *testing.T, b *Bench) {
	ctx := t.Context()
	e := b.New(t)
	acts := strings.Fields(sc.act)
	job := b.Submit(t, sc.steps, slices.Contains(acts, "keep"))
	check(t, e.Start(ctx, job))
	for i, a := range acts {
		switch a {
		case "cancel":
			Until(t, acts[i+1]+" has begun", func() bool { return b.World.Begun(acts[i+1]) })
			check(t, e.Cancel(ctx, job))
		case "retry":
			b.Rest(t, e, job)
			check(t, e.Retry(ctx, job))
		case "undo":
			b.Rest(t, e, job)
			check(t, e.Undo(ctx, job))
		}
	}
	j := b.Rest(t, e, job)
	if got := deeds(b.World); got != sc.log {
		t.Errorf("happened: %s\nexpected: %s", got, sc.log)
	}
	left := strings.Join(b.World.Things(), " ")
	if j.Status != sc.end || left != sc.left {
		t.Errorf("ended %s (%s) with %q left, not %s with %q", j.Status, j.ErrorMessage, left, sc.end, sc.left)
	}
	b.Sound(t, job)
}

// Sound checks what holds for every job at rest.
func (b *Bench) Sound(t testing.TB, job string) {
	t.Helper()
	j, err := b.Store.Job(t.Context(), job)
	check(t, err)
	steps, err := b.Store.Steps(t.Context(), job)
	check(t, err)
	for _, s := range steps {
		undone := s.Status == store.RolledBack || s.Attempt == 0
		switch {
		case j.Status == store.Completed && s.Status != store.Completed,
			j.RolledBack && !undone,
			(j.Status == store.Cancelled || j.Status == store.Undone) && !j.RolledBack:
			t.Errorf("job %s (rolled back: %v) has step %s %s", j.Status, j.RolledBack, s.Name, s.Status)
		case s.Status == store.Running, s.Status == store.Compensating && j.Status != store.Failed:
			t.Errorf("step %s is %s at rest", s.Name, s.Status)
		}
	}
	if j.RolledBack && len(b.World.Things()) > 0 {
		t.Errorf("rolled back, and %q is left", b.World.Things())
	}
	if (j.Status == store.Failed) != (j.ErrorMessage != "") && j.Status != store.Undone {
		t.Errorf("job %s with error %q", j.Status, j.ErrorMessage)
	}
	if j.CompletedAt.IsZero() || j.StartedAt.IsZero() {
		t.Errorf("times: %v %v", j.StartedAt, j.CompletedAt)
	}
	// No unit is done twice but the last one before an attempt ended.
	seen := map[string]int{}
	for _, l := range b.World.Log() {
		if strings.HasPrefix(l, "unit") {
			seen[l]++
			if seen[l] > 3 {
				t.Errorf("%s done %d times", l, seen[l])
			}
		}
	}
}

func cancelEverywhere(t *testing.T, bench func(t *testing.T) *Bench) {
	for _, at := range []string{"unit a 0", "unit a 3", "do b", "unit b 4", "do c"} {
		t.Run(at, func(t *testing.T) {
			b := bench(t)
			e := b.New(t)
			job := b.Submit(t, "a#4 b#5 c%", false)
			check(t, e.Start(t.Context(), job))
			Until(t, at, func() bool { return slices.Contains(b.World.Log(), at) })
			// The flag alone, as another process sets it.
			check(t, b.Store.RequestCancel(t.Context(), job))
			j := b.Rest(t, e, job)
			if j.Status != store.Cancelled {
				t.Errorf("ended %s", j.Status)
			}
			b.Sound(t, job)
		})
	}
}

func states(t *testing.T, b *Bench) {
	ctx := t.Context()
	e := b.New(t)
	is := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("error is %v, not %v", err, want)
		}
	}
	is(e.Start(ctx, "none"), store.ErrNotFound)
	rolled := b.Submit(t, "a!", false)
	check(t, e.Start(ctx, rolled))
	b.Rest(t, e, rolled)
	is(e.Retry(ctx, rolled), engine.ErrState)
	is(e.Cancel(ctx, rolled), engine.ErrState)
	is(e.Undo(ctx, rolled), nil)
	running := b.Submit(t, "b%", false)
	check(t, e.Start(ctx, running))
	Until(t, "b has begun", func() bool { return b.World.Begun("b") })
	is(e.Undo(ctx, running), engine.ErrState)
	b.World.Go()
	b.Rest(t, e, running)
	is(e.Retry(ctx, running), engine.ErrState)
	is(e.Cancel(ctx, running), engine.ErrState)
}

func twice(t *testing.T, b *Bench) {
	ctx := t.Context()
	e := b.New(t)
	job := b.Submit(t, "a b% c", false)
	for range 3 {
		check(t, e.Start(ctx, job))
	}
	Until(t, "b has begun", func() bool { return b.World.Begun("b") })
	for range 3 {
		check(t, e.Cancel(ctx, job))
	}
	b.Rest(t, e, job)
	check(t, e.Start(ctx, job))
	b.Rest(t, e, job)
	if got := deeds(b.World); got != "do a, do b, undo b, undo a" {
		t.Error(got)
	}
}
