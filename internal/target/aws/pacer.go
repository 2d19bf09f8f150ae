package aws

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// putRate is the number of PutSnapshotBlock a second that is planned for: 98 %
// of the account's quota of 1,000 (Amazon EBS endpoints and quotas), which is
// 490 MiB/s.
const putRate = 980

const (
	minRate   = 10                     // puts a second that are always tried
	calm      = 250 * time.Millisecond // throttling within it is one event
	recoverIn = 20 * time.Second       // from nothing back to the full rate
)

// pacer holds requests to a rate that falls when the service throttles and
// grows again when it does not: additive increase, multiplicative decrease.
// Other programs share the account's quota, so that it has to be found out.
type pacer struct {
	l    *rate.Limiter
	full rate.Limit

	mu   sync.Mutex
	cut  time.Time // of the last decrease
	grew time.Time
}

func newPacer(perSecond float64) *pacer {
	return &pacer{l: rate.NewLimiter(rate.Limit(perSecond), 8), full: rate.Limit(perSecond)}
}

// wait returns when a request may be sent.
func (p *pacer) wait(ctx context.Context) error {
	p.mu.Lock()
	if now := time.Now(); p.l.Limit() < p.full && now.Sub(p.cut) > calm && now.Sub(p.grew) > calm {
		p.l.SetLimit(min(p.full, p.l.Limit()+p.full*rate.Limit(calm.Seconds()/recoverIn.Seconds())))
		p.grew = now
	}
	p.mu.Unlock()
	return p.l.Wait(ctx)
}

// throttled is told of every answer that asks to slow down.
func (p *pacer) throttled() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.cut) > calm {
		p.l.SetLimit(max(minRate, p.l.Limit()*0.7))
		p.cut = now
	}
}
