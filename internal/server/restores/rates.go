package restores

import (
	"sync"
	"time"
)

// rates works out how fast steps go on that are at work elsewhere, from what the
// tables say of them.
type rates struct {
	mu   sync.Mutex
	seen map[string]sample
}

type sample struct {
	done int64
	at   time.Time
	rate float64 // bytes a second, smoothed
}

const (
	rateStep   = 900 * time.Millisecond // workers write about once a second
	rateSmooth = 10 * time.Second
	rateOld    = time.Minute // after which what was seen says nothing
)

// of is the rate of a step that has come so far; 0: not known.
func (r *rates) of(step string, done int64, now time.Time) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, ok := r.seen[step]
	dt := now.Sub(was.at)
	switch {
	case !ok || dt > rateOld || done < was.done:
		if r.seen == nil {
			r.seen = map[string]sample{}
		}
		for k, s := range r.seen {
			if now.Sub(s.at) > rateOld {
				delete(r.seen, k)
			}
		}
		was = sample{done: done, at: now}
	case dt >= rateStep:
		fresh := float64(done-was.done) / dt.Seconds()
		weight := min(1, dt.Seconds()/rateSmooth.Seconds())
		if was.rate == 0 {
			weight = 1
		}
		was = sample{done, now, was.rate + weight*(fresh-was.rate)}
	default:
		return was.rate
	}
	r.seen[step] = was
	return was.rate
}
