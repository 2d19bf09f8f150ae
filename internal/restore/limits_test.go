package restore

import (
	"context"
	"errors"
	"testing"
)

// TestSlotsAreFair: a free slot goes to the job that holds the fewest.
func TestSlotsAreFair(t *testing.T) {
	var s slots
	s.resize(2)
	take := func(job string) func() {
		t.Helper()
		release, err := s.acquire(t.Context(), job, nil)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	one, _ := take("a"), take("a")
	got := make(chan string, 3)
	for i, job := range []string{"a", "b"} {
		go func() {
			if _, err := s.acquire(context.Background(), job, nil); err == nil {
				got <- job
			}
		}()
		until(t, "it waits", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.wait) == i+1 })
	}
	one()
	if job := <-got; job != "b" {
		t.Errorf("%s came first", job)
	}
	s.resize(3)
	<-got
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.acquire(ctx, "c", nil); !errors.Is(err, context.Canceled) || len(s.wait) != 0 {
		t.Errorf("%v, %d wait", err, len(s.wait))
	}
}

// TestBandwidthIsFair: of a job that asks for much at once and one that asks
// later, neither is given more while both wait.
func TestBandwidthIsFair(t *testing.T) {
	var b bandwidth
	b.set(64 << 20)
	const each, n = 1 << 20, 30
	order := make(chan string, 2*n)
	ask := func(job string) {
		for range n {
			go func() {
				if err := b.pass(context.Background(), job, each); err == nil {
					order <- job
				}
			}()
		}
	}
	ask("greedy")
	until(t, "it waits", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.wait) > 2 })
	for len(order) > 0 {
		<-order
	}
	ask("late")
	count := map[string]int{}
	for range n {
		count[<-order]++
	}
	if count["late"] < n/4 {
		t.Errorf("%v", count)
	}
	b.set(0) // whoever waits goes at once
	until(t, "nobody waits", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.wait) == 0 })
}
