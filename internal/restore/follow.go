package restore

import (
	"context"
	"maps"
	"slices"
	"time"
)

// Follow is for processes that share the store with other machines: until ctx
// ends it forgets what this process remembers of jobs that have come to rest,
// wherever their last step ran, and closes their sessions. With report, which
// one process sets, it writes the percentage and the estimated end of every job.
func (s *Service) Follow(ctx context.Context, report bool) {
	tick := time.NewTicker(max(s.tick, time.Second))
	defer tick.Stop()
	estimates := map[string]*estimate{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		known := s.remembered() // before the list: one that is on neither is at rest
		all, err := s.store.Jobs(ctx, Filter{Unfinished: true})
		if err != nil {
			continue // the tables are away; nothing is forgotten for it
		}
		active := map[string]bool{}
		for _, j := range all {
			active[j.ID] = true
			if !report || j.Status == Pending || j.Status == Compensating {
				continue
			}
			if estimates[j.ID] == nil {
				estimates[j.ID] = &estimate{}
			}
			if err := s.reportOnce(ctx, j.ID, estimates[j.ID]); err != nil && ctx.Err() == nil {
				s.log.Warn("cannot write progress", "job", j.ID, "error", err)
			}
		}
		maps.DeleteFunc(estimates, func(id string, _ *estimate) bool { return !active[id] })
		for _, id := range known {
			if !active[id] {
				s.forget(ctx, id)
			}
		}
	}
}

// remembered are the jobs that this process knows something of.
func (s *Service) remembered() []string {
	ids := map[string]bool{}
	s.mu.Lock()
	for id := range s.specs {
		ids[id] = true
	}
	for id := range s.own {
		ids[id] = true
	}
	s.mu.Unlock()
	s.sessions.mu.Lock()
	for id := range s.sessions.open {
		ids[id] = true
	}
	s.sessions.mu.Unlock()
	return slices.Collect(maps.Keys(ids))
}

func (s *Service) forget(ctx context.Context, id string) {
	s.sessions.close(ctx, id)
	s.limits.bandwidth.forget(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.specs, id)
	delete(s.own, id)
}
