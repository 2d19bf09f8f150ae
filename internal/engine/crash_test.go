package engine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ascend/internal/engine"
	"ascend/internal/engine/enginetest"
	"ascend/internal/store"
	"ascend/internal/store/storetest"
)

// outcome is what is left of a job in the end: what people see.
type outcome struct {
	status store.Status
	things string
	steps  string
}

func ending(t testing.TB, s *store.Store, w *enginetest.World, job string) outcome {
	t.Helper()
	j, err := s.Job(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := s.Steps(t.Context(), job)
	if err != nil {
		t.Fatal(err)
	}
	o := outcome{status: j.Status, things: strings.Join(w.Things(), " ")}
	for _, st := range steps {
		o.steps += fmt.Sprintf("%s %s, ", st.Name, st.Status)
	}
	return o
}

// TestKilledAtEveryTransition kills a process at each transition of a job, lets
// a new process carry on, and compares what is left with an undisturbed run.
func TestKilledAtEveryTransition(t *testing.T) {
	for _, k := range storetest.Kinds() {
		scenarios := []struct {
			steps  string
			before func(s *store.Store, job string) error
		}{
			{steps: "a b+c#3 d"},
			{steps: "a b+c d!"},
			{steps: "a b", before: func(s *store.Store, job string) error { return s.RequestCancel(context.Background(), job) }},
		}
		if k != store.SQLite {
			scenarios = scenarios[1:2]
		}
		for _, sc := range scenarios {
			t.Run(string(k)+" "+sc.steps, func(t *testing.T) {
				want := outcome{}
				dsn := storetest.DSN(t, k)
				s, err := store.Open(t.Context(), dsn, store.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				for n := 0; ; n++ { // n = 0 is not killed
					dir := t.TempDir()
					b := &enginetest.Bench{Store: s, World: enginetest.NewWorld(dir)}
					job := b.Submit(t, sc.steps, false)
					if sc.before != nil {
						if err := sc.before(s, job); err != nil {
							t.Fatal(err)
						}
					}
					killed := enginetest.Process(t, n, dsn, dir)
					if killed && enginetest.Process(t, 0, dsn, dir) {
						t.Fatal("killed again")
					}
					got := ending(t, s, b.World, job)
					b.Sound(t, job)
					if n == 0 {
						want = got
					} else if got != want {
						t.Errorf("killed at %d: %+v, undisturbed: %+v: %q", n, got, want, b.World.Log())
					}
					if n > 0 && !killed {
						if n < 4 {
							t.Errorf("only %d transitions", n)
						}
						break
					}
					// After the direction is stored nothing is done any more.
					log := b.World.Log()
					if i := slices.IndexFunc(log, func(l string) bool { return strings.HasPrefix(l, "point turn") }); i >= 0 {
						for _, l := range log[i:] {
							if strings.HasPrefix(l, "do ") {
								t.Errorf("killed at %d: done after the turn: %q", n, log)
							}
						}
					}
				}
			})
		}
	}
}

// TestCrashLoopEnds kills a process in each attempt of a step that makes no
// progress: the attempts are used up although no attempt ever ended.
func TestCrashLoopEnds(t *testing.T) {
	dsn := storetest.DSN(t, store.SQLite)
	s, err := store.Open(t.Context(), dsn, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dir := t.TempDir()
	b := &enginetest.Bench{Store: s, World: enginetest.NewWorld(dir)}
	job := b.Submit(t, "a", false)
	kills := 0
	for enginetest.Process(t, 2, dsn, dir) { // the second transition: the attempt has begun
		if kills++; kills > 10 {
			t.Fatal("crashes for ever")
		}
	}
	got := ending(t, s, b.World, job)
	// Four attempts of do, and then one more process, killed at its second
	// transition: undo's beginning.
	if got.status != store.Failed || kills < 4 || b.World.Begun("a") {
		t.Errorf("%+v after %d kills: %q", got, kills, b.World.Log())
	}
}

func TestCloseLeavesStepsResumable(t *testing.T) {
	for _, k := range storetest.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			ctx := t.Context()
			s := storetest.Open(t, k, store.Options{})
			b := bench(s)(t)
			e := b.New(t)
			job := b.Submit(t, "a b% c", false)
			for range 6 { // more often than there are attempts
				if err := e.Start(ctx, job); err != nil {
					t.Fatal(err)
				}
				n := len(b.World.Log())
				enginetest.Until(t, "b runs", func() bool { return len(b.World.Log()) > n || n == 1 && b.World.Begun("b") })
				if err := e.Close(ctx); err != nil {
					t.Fatal(err)
				}
				if err := e.Start(ctx, job); !errors.Is(err, engine.ErrClosed) {
					t.Errorf("a closed engine started a job: %v", err)
				}
				e = b.New(t)
				st, err := s.Step(ctx, job, "b")
				if err != nil {
					t.Fatal(err)
				}
				if b.World.Begun("b") && (st.Status != store.Pending || st.Tries != 0) {
					t.Errorf("step %s with %d attempts used", st.Status, st.Tries)
				}
			}
			b.World.Go()
			if err := e.Recover(ctx); err != nil {
				t.Fatal(err)
			}
			if j := b.Rest(t, e, job); j.Status != store.Completed {
				t.Errorf("ended %s: %s", j.Status, j.ErrorMessage)
			}
		})
	}
}

// TestTwoEnginesFence has a second engine take a job over from one that lives:
// the first can write nothing any more.
func TestTwoEnginesFence(t *testing.T) {
	for _, k := range storetest.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			ctx := t.Context()
			s := storetest.Open(t, k, store.Options{})
			b := bench(s)(t)
			var late atomic.Value
			entered, left := make(chan struct{}), make(chan struct{})
			var n atomic.Int32
			hs := engine.Handlers{"deed": doing(func(ctx context.Context, a *engine.Attempt) error {
				if n.Add(1) > 1 {
					return a.Host.Save(ctx, "two")
				}
				close(entered)
				<-ctx.Done() // the watch finds the fence
				err := a.Host.Save(context.WithoutCancel(ctx), "one")
				late.Store(&err)
				close(left)
				return nil // as if it had succeeded
			})}
			one, two := engine.NewLocal(s, hs, engine.LocalOptions{}), engine.NewLocal(s, hs, engine.LocalOptions{})
			defer one.Close(ctx)
			defer two.Close(ctx)
			job := b.Submit(t, "a", false)
			if err := one.Start(ctx, job); err != nil {
				t.Fatal(err)
			}
			<-entered
			if err := two.Start(ctx, job); err != nil {
				t.Fatal(err)
			}
			if j := b.Rest(t, two, job); j.Status != store.Completed {
				t.Errorf("ended %s", j.Status)
			}
			<-left
			if err := *late.Load().(*error); !errors.Is(err, engine.ErrFenced) {
				t.Errorf("the first wrote after it was fenced: %v", err)
			}
			st, err := s.Step(ctx, job, "a")
			if err != nil {
				t.Fatal(err)
			}
			if c, err := s.Checkpoint(ctx, st.ID); err != nil || string(c) != `"two"` {
				t.Errorf("checkpoint %s, %v", c, err)
			}
		})
	}
}

// doing is a handler of one function, with nothing to undo.
type doing func(ctx context.Context, a *engine.Attempt) error

func (d doing) Do(ctx context.Context, a *engine.Attempt) error { return d(ctx, a) }
func (doing) Undo(context.Context, *engine.Attempt) error       { return nil }

// TestDatabaseGone kills the database server under a running job.
func TestDatabaseGone(t *testing.T) {
	for _, k := range []store.Kind{store.MySQL, store.Postgres} {
		t.Run(string(k), func(t *testing.T) {
			ctx := t.Context()
			// Less patience than the server is away: the engine must wait, too.
			s := storetest.Open(t, k, store.Options{Patience: 200 * time.Millisecond})
			b := bench(s)(t)
			e := b.New(t)
			job := b.Submit(t, "a b% c#5 d", false)
			if err := e.Start(ctx, job); err != nil {
				t.Fatal(err)
			}
			enginetest.Until(t, "b runs", func() bool { return slices.Contains(b.World.Things(), "b") })
			storetest.Stop(t, k)
			b.World.Go()
			enginetest.Until(t, "the trouble is known", func() bool {
				_, err := s.Trouble()
				return errors.Is(err, store.ErrUnavailable)
			})
			if _, err := s.Job(ctx, job); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("error is %v", err)
			}
			storetest.Start(t, k)
			enginetest.Until(t, "the database answers", func() bool { return s.Ping(ctx) == nil })
			if j := b.Rest(t, e, job); j.Status != store.Completed {
				t.Errorf("ended %s: %s", j.Status, j.ErrorMessage)
			}
			b.Sound(t, job)
		})
	}
}

// TestJobsTakeTurns runs more jobs than may run at once.
func TestJobsTakeTurns(t *testing.T) {
	ctx := t.Context()
	s := storetest.Open(t, store.SQLite, store.Options{})
	var now, most atomic.Int32
	var order []string
	hs := engine.Handlers{"deed": doing(func(ctx context.Context, a *engine.Attempt) error {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		return a.Host.Result(ctx, json.RawMessage(`{}`))
	})}
	e := engine.NewLocal(s, hs, engine.LocalOptions{Jobs: 2, Trace: nil})
	defer e.Close(ctx)
	b := &enginetest.Bench{Store: s, World: enginetest.NewWorld(t.TempDir())}
	for range 12 {
		job := b.Submit(t, "a b", false)
		order = append(order, job)
		if err := e.Start(ctx, job); err != nil {
			t.Fatal(err)
		}
	}
	for _, job := range order {
		if j := b.Rest(t, e, job); j.Status != store.Completed {
			t.Errorf("ended %s", j.Status)
		}
	}
	if most.Load() > 2 {
		t.Errorf("%d jobs at once", most.Load())
	}
	// One that waits for its turn is cancelled at once.
	blocked := engine.NewLocal(s, bench(s)(t).World.Handlers(), engine.LocalOptions{Jobs: 1})
	defer blocked.Close(ctx)
	first, second := b.Submit(t, "a%", false), b.Submit(t, "a", false)
	for _, j := range []string{first, second} {
		if err := blocked.Start(ctx, j); err != nil {
			t.Fatal(err)
		}
	}
	if err := blocked.Cancel(ctx, second); err != nil {
		t.Fatal(err)
	}
	if j := b.Rest(t, blocked, second); j.Status != store.Cancelled || !j.RolledBack {
		t.Errorf("ended %s", j.Status)
	}
}

// TestOneServer: a data directory has one server.
func TestOneServer(t *testing.T) {
	for _, k := range storetest.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			dsn := storetest.DSN(t, k)
			s, err := store.Open(t.Context(), dsn, store.Options{Exclusive: true})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.Open(t.Context(), dsn, store.Options{Exclusive: true}); !errors.Is(err, store.ErrLocked) {
				t.Errorf("a second server opened the database: %v", err)
			}
			other, err := store.Open(t.Context(), dsn, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			other.Close()
			s.Close()
			s, err = store.Open(t.Context(), dsn, store.Options{Exclusive: true})
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
		})
	}
}
