package azure

import (
	"context"
	"testing"
	"time"
)

func TestFlowAdapts(t *testing.T) {
	f := newFlow()
	now := time.Now()
	turn := func(o outcome, took time.Duration, at time.Time) {
		t.Helper()
		if err := f.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.leave(o, took, at)
	}
	for range 5000 {
		turn(went, time.Second, now)
	}
	if f.limit != maxWorkers || f.size() != 4<<20 {
		t.Errorf("while all goes well: %v writes of %d bytes", f.limit, f.size())
	}
	for range 10 { // one storm
		turn(busy, time.Second, now)
	}
	if f.limit != maxWorkers/2 || f.size() != 4<<20 {
		t.Errorf("after one storm: %v writes of %d bytes", f.limit, f.size())
	}
	for i := range 10 {
		turn(busy, time.Second, now.Add(time.Duration(i+1)*2*time.Second))
	}
	if f.limit != 1 || f.size() != 256<<10 {
		t.Errorf("after long trouble: %v writes of %d bytes", f.limit, f.size())
	}
	for range 64 {
		turn(went, 20*time.Second, now)
	}
	if f.size() != 256<<10 {
		t.Error("writes grow although they are slow")
	}
	for range 64 {
		turn(went, time.Second, now)
	}
	if f.size() != 4<<20 {
		t.Errorf("writes stay at %d bytes", f.size())
	}
	now = now.Add(time.Hour)
	turn(slow, time.Minute, now)
	if f.size() != 1<<20 {
		t.Errorf("a write that was not in time is followed by %d bytes", f.size())
	}
}

// Nobody waits for ever, and a place that is not taken is given on.
func TestFlowCancelled(t *testing.T) {
	f := newFlow()
	f.limit = 1
	if err := f.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error)
	for range 3 {
		go func() { results <- f.enter(ctx) }()
	}
	cancel()
	for range 3 {
		if <-results == nil {
			t.Error("a cancelled wait succeeds")
		}
	}
	f.leave(went, 0, time.Now())
	if err := f.enter(t.Context()); err != nil || f.active != 1 || len(f.waiting) != 0 {
		t.Errorf("%v, %d active, %d waiting", err, f.active, len(f.waiting))
	}
}
