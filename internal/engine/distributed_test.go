//go:build distributed

package engine_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ascend/internal/engine"
	"ascend/internal/engine/enginetest"
	"ascend/internal/store"
	"ascend/internal/store/storetest"
)

// These tests run on a real Temporal server, built from its own module, and a
// real PostgreSQL; each worker is a process. make test-distributed runs them.

const workerEnv = "ASCEND_TEST_WORKER"

func init() {
	if os.Getenv(workerEnv) == "" {
		return
	}
	if n, err := strconv.Atoi(os.Getenv(workerEnv)); err == nil {
		engine.SetBuild(n)
	}
	if err := work(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// work is a worker: it carries jobs out until its standard input ends.
func work(name, address, namespace, dsn, dir string) error {
	ctx := context.Background()
	s, err := store.Open(ctx, dsn, store.Options{NoMigrate: true})
	if err != nil {
		return err
	}
	defer s.Close()
	e, err := engine.NewTemporal(ctx, s, enginetest.NewWorld(dir).Handlers(), engine.TemporalOptions{Address: address, Namespace: namespace, Worker: name, Liveness: 3 * time.Second})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return e.Close(ctx)
}

type process struct {
	*exec.Cmd
	in  io.Closer
	out *bufio.Reader
}

func begin(t testing.TB, env, name string, args ...string) *process {
	t.Helper()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), env)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatalf("%v (make test-distributed builds the Temporal server)", err)
	}
	p := &process{c, in, bufio.NewReader(out)}
	t.Cleanup(func() {
		_ = p.in.Close()
		_ = p.Process.Kill()
		_ = p.Wait()
	})
	return p
}

func (p *process) line(t testing.TB) string {
	t.Helper()
	s, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(s)
}

func TestWorkersAreLost(t *testing.T) {
	cluster := begin(t, "", os.Getenv("ASCEND_TEMPORAL"))
	address, namespace, _ := strings.Cut(cluster.line(t), " ")
	dsn := storetest.DSN(t, store.Postgres)
	s, err := store.Open(t.Context(), dsn, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	control, err := engine.NewTemporal(t.Context(), s, nil, engine.TemporalOptions{Address: address, Namespace: namespace, ClientOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close(context.Background())

	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			dir := t.TempDir()
			b := &enginetest.Bench{Store: s, World: enginetest.NewWorld(dir)}
			workers := map[string]*process{}
			for _, n := range []string{"one", "two"} {
				workers[n] = begin(t, workerEnv+"=1", os.Args[0], n, address, namespace, dsn, dir)
				workers[n].line(t)
			}
			job := b.Submit(t, "a b% c", false)
			if err := control.Start(t.Context(), job); err != nil {
				t.Fatal(err)
			}
			running := func() string {
				steps, err := s.Steps(t.Context(), job)
				if err != nil {
					t.Fatal(err)
				}
				if steps[1].Status != store.Running || !b.World.Begun("b") {
					return ""
				}
				return steps[1].Worker
			}
			first := ""
			enginetest.Until(t, "the step runs", func() bool { first = running(); return first != "" })
			lost := workers[first]
			if sig == syscall.SIGTERM { // asked to stop: it hands over
				_ = lost.in.Close()
			} else if err := lost.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			enginetest.Until(t, "the other one goes on", func() bool { now := running(); return now != "" && now != first })
			b.World.Go()
			if j := b.Rest(t, control, job); j.Status != store.Completed {
				t.Fatalf("%s: %s", j.Status, j.ErrorMessage)
			}
			steps, _ := s.Steps(t.Context(), job)
			if sig == syscall.SIGSTOP { // it wakes up and is told that it has lost the job
				if err := lost.Process.Signal(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
				_ = lost.in.Close()
			}
			if err := lost.Wait(); sig != syscall.SIGKILL && err != nil {
				t.Errorf("the lost worker: %v", err)
			}
			after, err := s.Steps(t.Context(), job)
			if err != nil {
				t.Fatal(err)
			}
			for i := range after {
				if after[i].Status != store.Completed || after[i].Worker != steps[i].Worker || after[i].Attempt != steps[i].Attempt {
					t.Errorf("%+v, and before the lost worker woke up %+v", after[i], steps[i])
				}
			}
			if steps[2].Worker != steps[1].Worker {
				t.Errorf("the job's steps ran on %s and %s", steps[1].Worker, steps[2].Worker)
			}
			b.Sound(t, job)
			if got := strings.Join(b.World.Things(), " "); got != "a b c" {
				t.Errorf("there are %s", got)
			}
		})
	}
}

// TestUpgrade starts a worker of a newer version beside an older one in the middle
// of a job: the older one carries its step to the end, the newer one decides what
// comes next from then on, and goes on when the older one is lost. An older one that
// starts again later takes nothing back.
func TestUpgrade(t *testing.T) {
	cluster := begin(t, "", os.Getenv("ASCEND_TEMPORAL"))
	address, namespace, _ := strings.Cut(cluster.line(t), " ")
	dsn := storetest.DSN(t, store.Postgres)
	s, err := store.Open(t.Context(), dsn, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	control, err := engine.NewTemporal(t.Context(), s, nil, engine.TemporalOptions{Address: address, Namespace: namespace, ClientOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close(context.Background())
	dir := t.TempDir()
	b := &enginetest.Bench{Store: s, World: enginetest.NewWorld(dir)}
	worker := func(name string, version int) *process {
		p := begin(t, fmt.Sprintf("%s=%d", workerEnv, version), os.Args[0], name, address, namespace, dsn, dir)
		p.line(t)
		return p
	}
	decider := func(job string) string {
		t.Helper()
		w, err := control.Decider(t.Context(), job)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	old := worker("old", 1)
	first := b.Submit(t, "a b% c", false)
	if err := control.Start(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	enginetest.Until(t, "b has begun", func() bool { return b.World.Begun("b") })
	if w := decider(first); w != "old" {
		t.Errorf("%s decided at first", w)
	}
	worker("new", 2)
	again := worker("old again", 1)
	b.World.Go()
	if j := b.Rest(t, control, first); j.Status != store.Completed {
		t.Fatalf("%s: %s", j.Status, j.ErrorMessage)
	}
	steps, err := s.Steps(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if w := decider(first); w != "new" || steps[1].Worker != "old" || steps[1].Attempt != 1 || steps[2].Worker != "old" {
		t.Errorf("decided by %s, steps by %s and %s", w, steps[1].Worker, steps[2].Worker)
	}
	b.Sound(t, first)
	for _, p := range []*process{old, again} {
		if err := p.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
	}
	b.World = enginetest.NewWorld(dir)
	second := b.Submit(t, "d e", false)
	if err := control.Start(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	if j := b.Rest(t, control, second); j.Status != store.Completed || decider(second) != "new" {
		t.Errorf("%s: %s, decided by %s", j.Status, j.ErrorMessage, decider(second))
	}
}

// BenchmarkThousandJobsTemporal drives a thousand jobs through a real Temporal
// server, by one worker in this process.
func BenchmarkThousandJobsTemporal(b *testing.B) {
	cluster := begin(b, "", os.Getenv("ASCEND_TEMPORAL"))
	address, namespace, _ := strings.Cut(cluster.line(b), " ")
	b.Run("temporal postgres", func(b *testing.B) {
		s := storetest.Open(b, store.Postgres, store.Options{})
		e, err := engine.NewTemporal(b.Context(), s, engine.Handlers{"instant": instant{}}, engine.TemporalOptions{Address: address, Namespace: namespace, Jobs: 64})
		if err != nil {
			b.Fatal(err)
		}
		drive(b, s, e)
		if err := e.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
	})
}
