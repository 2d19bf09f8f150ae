package restore

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"ascend/internal/target"
)

// sessions keeps the target session of each job under way in this process. A
// session lives across the steps of its job, in which an import lease of the
// platform may be held; after a crash, or on another machine, it is had again by
// Begin, which is idempotent.
type sessions struct {
	idle time.Duration // how long one without a user stays open

	mu   sync.Mutex
	open map[string]*session
}

const (
	sessionIdle     = time.Minute
	sessionFailures = 4 // in a row, after which a session is begun anew
)

// session is the place of one job's session.
type session struct {
	mu       sync.Mutex // held while it is opened and closed
	target   target.Target
	s        target.Session
	token    string // of this Begin
	users    int
	failures int // in a row
	lost     bool
	timer    *time.Timer
	cancel   context.CancelFunc // of what the session was begun with
}

func newSessions() *sessions { return &sessions{idle: sessionIdle, open: map[string]*session{}} }

// use is a step's use of the session. done must be called with the step's error.
type use struct {
	target.Session
	token string
	done  func(error)
}

// opener opens the target and begins the job on it.
type opener func(ctx context.Context) (target.Target, target.Session, error)

// get gives the job's session, and begins one where there is none or where the
// one there is was lost.
func (c *sessions) get(ctx context.Context, job string, begin opener) (*use, error) {
	c.mu.Lock()
	s, ok := c.open[job]
	if !ok {
		s = &session{}
		c.open[job] = s
	}
	c.mu.Unlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.s != nil && s.lost && s.users == 0 {
		s.end(ctx)
	}
	if s.s == nil {
		// The step's cancellation ends the beginning, not the session: its life is
		// longer than the step's.
		life, end := context.WithCancel(context.WithoutCancel(ctx))
		stop := context.AfterFunc(ctx, end)
		t, opened, err := begin(life)
		if !stop() && err == nil {
			err = errors.Join(ctx.Err(), opened.Close(context.WithoutCancel(ctx)), t.Close())
		}
		if err != nil {
			end()
			return nil, err
		}
		s.target, s.s, s.token, s.failures, s.lost, s.cancel = t, opened, rand.Text(), 0, false, end
	}
	s.users++
	if s.timer != nil {
		s.timer.Stop()
	}
	once := sync.Once{}
	return &use{s.s, s.token, func(err error) { once.Do(func() { c.release(ctx, s, err) }) }}, nil
}

// release ends a use. A session that says it is lost, or that fails again and
// again, is not used by the next step.
func (c *sessions) release(ctx context.Context, s *session, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	switch {
	case err == nil:
		s.failures = 0
	case errors.Is(err, target.ErrExpired):
		s.lost = true
	case ctx.Err() == nil:
		s.failures++
		s.lost = s.lost || s.failures >= sessionFailures
	}
	if s.users == 0 && s.s != nil {
		s.timer = time.AfterFunc(c.idle, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.users == 0 {
				s.end(context.Background())
			}
		})
	}
}

// end closes the session; the caller holds mu.
func (s *session) end(ctx context.Context) {
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_ = s.s.Close(ctx) // what was created stays and is recorded
	_ = s.target.Close()
	s.cancel()
	s.s, s.target = nil, nil
}

// close closes the job's session when no step uses it any more.
func (c *sessions) close(ctx context.Context, job string) {
	c.mu.Lock()
	s := c.open[job]
	delete(c.open, job)
	c.mu.Unlock()
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(ctx)
}

func (c *sessions) closeAll(ctx context.Context) {
	c.mu.Lock()
	var jobs []string
	for job := range c.open {
		jobs = append(jobs, job)
	}
	c.mu.Unlock()
	for _, job := range jobs {
		c.close(ctx, job)
	}
}
