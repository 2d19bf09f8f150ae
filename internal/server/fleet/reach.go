package fleet

import (
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"ascend/internal/server/jobs"
)

// Reach knows which folders can be read from this machine. A folder on a share
// that hangs holds nothing up: it is not reached while nothing is heard of it.
type Reach struct {
	read func(folder string) error
	mu   sync.Mutex
	seen map[string]*look
}

// look is what is known of a folder.
type look struct {
	busy bool      // somebody is reading it now
	ok   time.Time // when it could be read last; zero: not at the last try
}

// heard is how long a look is good for: several signs of life.
const heard = 4 * Every

// NewReach makes one.
func NewReach() *Reach { return &Reach{read: readable, seen: map[string]*look{}} }

// Of gives the ids of the folders, by id, that can be read, ascending. It has them
// looked at and waits for that, but for no more than a second.
func (r *Reach) Of(folders map[string]string) []string {
	var looks sync.WaitGroup
	r.mu.Lock()
	for folder := range r.seen {
		if !slices.Contains(slices.Collect(maps.Values(folders)), folder) {
			delete(r.seen, folder)
		}
	}
	for _, folder := range folders {
		l := r.seen[folder]
		if l == nil {
			l = &look{}
			r.seen[folder] = l
		}
		if l.busy {
			continue
		}
		l.busy = true
		looks.Go(func() {
			err := r.read(folder)
			r.mu.Lock()
			defer r.mu.Unlock()
			l.busy, l.ok = false, time.Now()
			if err != nil {
				l.ok = time.Time{}
			}
		})
	}
	r.mu.Unlock()
	all := make(chan struct{})
	go func() {
		looks.Wait()
		close(all)
	}()
	wait := time.NewTimer(time.Second)
	defer wait.Stop()
	select {
	case <-all:
	case <-wait.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []string{}
	for id, folder := range folders {
		if l := r.seen[folder]; l != nil && time.Since(l.ok) < heard {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func readable(folder string) error {
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.Readdirnames(1); errors.Is(err, io.EOF) {
		return nil // empty
	}
	return err
}

// Share is one worker's part of the limits that a server's settings give all jobs
// together: bandwidth, disks and requests are shared among the workers alive, so
// that together they keep to them.
func Share(l jobs.Limits, workers []Listed) jobs.Limits {
	n := 0
	for _, w := range workers {
		if w.Alive {
			n++
		}
	}
	if n < 2 {
		return l
	}
	out := jobs.Limits{Jobs: l.Jobs, Disks: part(l.Disks, n), Bandwidth: part(l.Bandwidth, n)}
	for id, r := range l.Requests {
		if out.Requests == nil {
			out.Requests = map[string]int{}
		}
		out.Requests[id] = part(r, n)
	}
	return out
}

// part is at least 1 of what is limited: 0 would mean no limit.
func part[T int | int64](all T, n int) T {
	if all == 0 {
		return 0
	}
	return max(all/T(n), 1)
}
