package azure

import (
	"context"
	"sync"
	"time"
)

// Bounds of a disk's upload. A managed disk takes bytes as a standard HDD of its
// size does, 60 to 500 MiB/s; 128 writes at once are answered with 503.
const (
	startWorkers = 16
	maxWorkers   = 64
)

// chunks are the sizes of a write, largest first: Put Page takes 4 MiB at most,
// and slow links do not get 4 MiB through in time.
var chunks = []int{4 << 20, 1 << 20, 256 << 10}

// flow adapts how much is on its way: more writes at once while all goes well,
// half of them when the service is busy (additive increase, multiplicative
// decrease), and smaller ones when they do not get through in time.
type flow struct {
	mu      sync.Mutex
	limit   float64
	active  int
	chunk   int       // index in chunks
	good    int       // writes in a row that went well and quickly
	cut     time.Time // when limit was last halved
	waiting []chan struct{}
}

func newFlow() *flow { return &flow{limit: startWorkers} }

// size is how much one write may carry now.
func (f *flow) size() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return chunks[f.chunk]
}

// enter waits until another write may begin.
func (f *flow) enter(ctx context.Context) error {
	f.mu.Lock()
	if f.active < int(f.limit) && len(f.waiting) == 0 {
		f.active++
		f.mu.Unlock()
		return ctx.Err()
	}
	turn := make(chan struct{})
	f.waiting = append(f.waiting, turn)
	f.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, w := range f.waiting {
		if w == turn {
			f.waiting = append(f.waiting[:i], f.waiting[i+1:]...)
			return ctx.Err()
		}
	}
	f.active-- // it was our turn after all
	f.wake()
	return ctx.Err()
}

// wake lets in who may; f.mu is held.
func (f *flow) wake() {
	for len(f.waiting) > 0 && f.active < int(f.limit) {
		close(f.waiting[0])
		f.waiting = f.waiting[1:]
		f.active++
	}
}

// Outcomes of a write.
type outcome uint8

const (
	went outcome = iota
	busy         // 503, 429, 500
	slow         // not in time
	lost         // for a reason that says nothing of the load
)

// leave tells how a write went that took so long.
func (f *flow) leave(o outcome, took time.Duration, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active--
	switch o {
	case went:
		f.limit = min(f.limit+1/f.limit, maxWorkers)
		f.good++
		if took > 10*time.Second {
			f.good = 0
		}
		if f.good >= 32 && f.chunk > 0 {
			f.chunk--
			f.good = 0
		}
	case busy, slow:
		f.good = 0
		// What was under way when the first answer came says nothing new.
		if now.Sub(f.cut) > time.Second {
			if o == slow || f.limit < 2 {
				f.chunk = min(f.chunk+1, len(chunks)-1)
			}
			f.limit, f.cut = max(f.limit/2, 1), now
		}
	}
	f.wake()
}
