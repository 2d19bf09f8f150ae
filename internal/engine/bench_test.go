package engine_test

import (
	"context"
	"encoding/json"
	"syscall"
	"testing"
	"time"

	"ascend/internal/engine"
	"ascend/internal/store"
	"ascend/internal/store/storetest"
)

// instant is a handler that does nothing but save a checkpoint: what is measured
// is the engine and the tables.
type instant struct{}

func (instant) Do(ctx context.Context, a *engine.Attempt) error {
	if err := a.Host.Progress(ctx, 1, 1); err != nil {
		return err
	}
	return a.Host.Save(ctx, json.RawMessage(`{"at":1}`))
}

func (instant) Undo(context.Context, *engine.Attempt) error { return nil }

// thousand is how many jobs are driven at once.
const thousand = 1000

// drive stores a thousand jobs of three steps, begins them all and waits until all
// have completed.
func drive(b *testing.B, s *store.Store, e engine.Engine) {
	ctx := b.Context()
	for b.Loop() {
		ids := make([]string, thousand)
		cpu := used()
		began := time.Now()
		for i := range ids {
			j := &store.Job{VMName: "bench"}
			steps := []engine.Step{{Name: "validate", Kind: "instant"}, {Name: "transfer", Kind: "instant", Stage: 1}, {Name: "finish", Kind: "instant", Stage: 2}}
			if _, err := s.CreateJob(ctx, j, engine.Rows(steps)); err != nil {
				b.Fatal(err)
			}
			ids[i] = j.ID
			if err := e.Start(ctx, j.ID); err != nil {
				b.Fatal(err)
			}
		}
		for _, id := range ids {
			if err := e.Wait(ctx, id); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(thousand/time.Since(began).Seconds(), "jobs/s")
		b.ReportMetric((used()-cpu)/thousand*1000, "cpu-ms/job")
		for _, id := range []string{ids[0], ids[thousand/2], ids[thousand-1]} {
			if j, err := s.Job(ctx, id); err != nil || j.Status != store.Completed {
				b.Fatalf("%+v %v", j, err)
			}
		}
	}
}

// used is the processor time of this process, in seconds.
func used() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// BenchmarkThousandJobs drives a thousand jobs in this process over each database;
// with the tag distributed also through a Temporal server.
func BenchmarkThousandJobs(b *testing.B) {
	for _, k := range storetest.Kinds() {
		b.Run("local "+string(k), func(b *testing.B) {
			s := storetest.Open(b, k, store.Options{})
			e := engine.NewLocal(s, engine.Handlers{"instant": instant{}}, engine.LocalOptions{Jobs: 8})
			drive(b, s, e)
			if err := e.Close(context.Background()); err != nil {
				b.Fatal(err)
			}
		})
	}
}
