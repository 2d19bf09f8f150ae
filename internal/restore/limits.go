package restore

import (
	"context"
	"crypto/sha256"
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"ascend/internal/target"
	"ascend/internal/transfer"
)

// Limits bound what all jobs of this process do together. They may be changed
// at any time; what is under way is not taken back.
type Limits struct {
	// Jobs carried out at once; the others wait, first come first served. 0: 4.
	Jobs int `json:"jobs,omitempty"`
	// Disks sent or read back at once, of all jobs. 0: 8.
	Disks int `json:"disks,omitempty"`
	// Bandwidth is the bytes sent a second by all jobs together, shared evenly
	// between them. 0: no cap.
	Bandwidth int64 `json:"bandwidth,omitempty"`
	// Requests is how many writes a target, by its name, is asked at once. 0 or
	// absent: as many as its deliveries allow.
	Requests map[string]int `json:"requests,omitempty"`
}

func (l Limits) withDefaults() Limits {
	if l.Jobs <= 0 {
		l.Jobs = 4
	}
	if l.Disks <= 0 {
		l.Disks = 8
	}
	l.Requests = maps.Clone(l.Requests)
	return l
}

// limiter holds what is bounded.
type limiter struct {
	jobs, disks slots
	bandwidth   bandwidth

	mu       sync.Mutex
	limits   Limits
	requests map[string]*slots // by target
}

func newLimiter(l Limits) *limiter {
	lim := &limiter{requests: map[string]*slots{}}
	lim.set(l)
	return lim
}

func (l *limiter) set(n Limits) {
	n = n.withDefaults()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limits = n
	l.jobs.resize(n.Jobs)
	l.disks.resize(n.Disks)
	l.bandwidth.set(float64(n.Bandwidth))
	for name, s := range l.requests {
		s.resize(n.Requests[name])
	}
}

func (l *limiter) get() Limits {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.limits
	n.Requests = maps.Clone(n.Requests)
	return n
}

func (l *limiter) ofTarget(name string) *slots {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.requests[name]
	if !ok {
		s = &slots{}
		s.resize(l.limits.Requests[name])
		l.requests[name] = s
	}
	return s
}

// slots is a counting semaphore that is fair between jobs: a free slot goes to
// the waiting job that holds the fewest, and among equals to the first come.
type slots struct {
	mu   sync.Mutex
	size int // 0: no bound
	used int
	held map[string]int
	wait []*turn
}

// turn is a place in a queue.
type turn struct {
	job   string
	bytes int
	ready chan struct{}
}

func (s *slots) resize(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size = n
	s.grant()
}

// acquire waits for a slot; waiting, when not nil, is called before it does.
func (s *slots) acquire(ctx context.Context, job string, waiting func()) (release func(), err error) {
	t := &turn{job: job, ready: make(chan struct{})}
	s.mu.Lock()
	s.wait = append(s.wait, t)
	s.grant()
	s.mu.Unlock()
	select {
	case <-t.ready:
		return s.releaser(job), nil
	default:
	}
	if waiting != nil {
		waiting()
	}
	select {
	case <-t.ready:
		return s.releaser(job), nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wait, err = without(s.wait, t), ctx.Err(); isReady(t) {
		s.drop(job)
	}
	return nil, err
}

// force takes a slot even where none is free.
func (s *slots) force(job string) (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take(job)
	return s.releaser(job)
}

func (s *slots) releaser(job string) func() {
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.drop(job)
	})
}

func (s *slots) take(job string) {
	if s.held == nil {
		s.held = map[string]int{}
	}
	s.used++
	s.held[job]++
}

func (s *slots) drop(job string) {
	s.used--
	if s.held[job]--; s.held[job] == 0 {
		delete(s.held, job)
	}
	s.grant()
}

func (s *slots) grant() {
	for len(s.wait) > 0 && (s.size <= 0 || s.used < s.size) {
		next := s.wait[0]
		for _, t := range s.wait[1:] {
			if s.held[t.job] < s.held[next.job] {
				next = t
			}
		}
		s.wait = without(s.wait, next)
		s.take(next.job)
		close(next.ready)
	}
}

func without(all []*turn, t *turn) []*turn {
	for i := range all {
		if all[i] == t {
			return append(all[:i:i], all[i+1:]...)
		}
	}
	return all
}

func isReady(t *turn) bool {
	select {
	case <-t.ready:
		return true
	default:
		return false
	}
}

// bandwidth shares a number of bytes a second between the jobs that want to
// send: of those that wait, the one that was given least goes next, so that what
// one job leaves goes to the others and none gets more by asking more often.
type bandwidth struct {
	mu    sync.Mutex
	rate  float64   // bytes a second; 0: no cap
	free  time.Time // when the next byte may go
	wait  []*turn
	given map[string]float64 // bytes, by job
	level float64            // given to the job that went last
	timer *time.Timer
}

// burst is how far a pause is made up for.
const burst = 100 * time.Millisecond

func (b *bandwidth) set(rate float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.rate != rate {
		b.rate, b.free = rate, time.Time{}
		b.pump()
	}
}

// pass waits until the job may send n bytes.
func (b *bandwidth) pass(ctx context.Context, job string, n int) error {
	b.mu.Lock()
	if b.rate <= 0 {
		b.mu.Unlock()
		return ctx.Err()
	}
	if b.given == nil {
		b.given = map[string]float64{}
	}
	b.given[job] = max(b.given[job], b.level) // idle time earns nothing
	t := &turn{job: job, bytes: n, ready: make(chan struct{})}
	b.wait = append(b.wait, t)
	b.pump()
	b.mu.Unlock()
	select {
	case <-t.ready:
		return nil
	case <-ctx.Done():
		b.mu.Lock()
		defer b.mu.Unlock()
		b.wait = without(b.wait, t)
		return ctx.Err()
	}
}

// pump lets go whoever may; the caller holds mu.
func (b *bandwidth) pump() {
	for len(b.wait) > 0 {
		now := time.Now()
		if d := b.free.Sub(now); b.rate > 0 && d > 0 {
			if b.timer != nil {
				b.timer.Stop()
			}
			b.timer = time.AfterFunc(d, func() {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.pump()
			})
			return
		}
		next := b.wait[0]
		for _, t := range b.wait[1:] {
			if b.given[t.job] < b.given[next.job] {
				next = t
			}
		}
		b.wait = without(b.wait, next)
		b.level = b.given[next.job]
		b.given[next.job] += float64(next.bytes)
		if b.rate > 0 {
			if earliest := now.Add(-burst); b.free.Before(earliest) {
				b.free = earliest
			}
			b.free = b.free.Add(time.Duration(float64(next.bytes) / b.rate * float64(time.Second)))
		}
		close(next.ready)
	}
}

// forget drops a job that sends no more.
func (b *bandwidth) forget(job string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.given, job)
}

// gate is what every write of a job passes.
type gate struct {
	job      string
	all      *bandwidth
	own      *rate.Limiter // of the job alone; may be nil
	requests *slots
}

func (g *gate) pass(ctx context.Context, n int) (release func(), err error) {
	for left := n; g.own != nil && left > 0; {
		k := min(left, g.own.Burst())
		if err := g.own.WaitN(ctx, k); err != nil {
			return nil, err
		}
		left -= k
	}
	if err := g.all.pass(ctx, g.job, n); err != nil {
		return nil, err
	}
	return g.requests.acquire(ctx, g.job, nil)
}

// guard decorates an upload with a gate.
func guard(u target.Upload, g *gate) target.Upload {
	switch u := u.(type) {
	case target.BlockUpload:
		return &guardedBlocks{&guardedRanges{u, g}, u}
	case target.RangeUpload:
		return &guardedRanges{u, g}
	case target.StreamUpload:
		s := &guardedStream{u, g}
		if r, ok := u.(transfer.Rewinder); ok {
			return struct {
				*guardedStream
				transfer.Rewinder
			}{s, r}
		}
		return s
	}
	return u
}

type guardedRanges struct {
	target.RangeUpload
	g *gate
}

func (u *guardedRanges) Unwrap() any { return u.RangeUpload }

func (u *guardedRanges) WriteRange(ctx context.Context, off int64, p []byte) error {
	release, err := u.g.pass(ctx, len(p))
	if err != nil {
		return err
	}
	defer release()
	return u.RangeUpload.WriteRange(ctx, off, p)
}

type guardedBlocks struct {
	*guardedRanges
	u target.BlockUpload
}

func (u *guardedBlocks) WriteBlock(ctx context.Context, off int64, p []byte, sum [sha256.Size]byte) error {
	release, err := u.g.pass(ctx, len(p))
	if err != nil {
		return err
	}
	defer release()
	return u.u.WriteBlock(ctx, off, p, sum)
}

type guardedStream struct {
	target.StreamUpload
	g *gate
}

func (u *guardedStream) Unwrap() any { return u.StreamUpload }

func (u *guardedStream) Append(ctx context.Context, p []byte) error {
	release, err := u.g.pass(ctx, len(p))
	if err != nil {
		return err
	}
	defer release()
	return u.StreamUpload.Append(ctx, p)
}
