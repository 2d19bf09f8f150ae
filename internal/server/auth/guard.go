package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"ascend/internal/server/records"
)

// Guard slows down the guessing of passwords: after some failures an account, and
// an address, must wait; the wait doubles with each further failure. The counts
// are stored, so that a restart forgives nothing. Attempts of one account go one
// after the other, or many at once would pass before the first is counted.
type Guard struct {
	counts records.Table[count]
	mu     sync.Mutex
	busy   map[string]bool
	now    func() time.Time
}

type count struct {
	Failures int       `json:"failures"`
	Until    time.Time `json:"until,omitzero"` // refused until then
}

// Bounds of the guard: failures before the first wait, and the longest wait. An
// account's wait is short at most, or anybody could lock anybody out for long.
const (
	accountFree = 5
	accountMax  = 5 * time.Minute
	firstWait   = 4 * time.Second
	addressFree = 20
	addressMax  = time.Hour
	countLife   = 24 * time.Hour
)

// Wait is the error of an attempt that comes too early.
type Wait struct{ For time.Duration }

func (w *Wait) Error() string {
	return fmt.Sprintf("too many failed sign-ins: try again in %s", max(w.For.Round(time.Second), time.Second))
}

// NewGuard makes a guard over a store.
func NewGuard(s records.Store) *Guard {
	return &Guard{counts: records.Table[count]{Store: s, Kind: "signin"}, busy: map[string]bool{}, now: time.Now}
}

// Begin asks for an attempt. free ends it. The error is a *Wait when it comes too
// early.
func (g *Guard) Begin(ctx context.Context, account, address string) (free func(), err error) {
	for _, k := range []string{"a:" + account, "n:" + network(address)} {
		d, err := g.counts.Get(ctx, k)
		if errors.Is(err, records.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if left := d.Value.Until.Sub(g.now()); left > 0 {
			return nil, &Wait{left}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy[account] {
		return nil, &Wait{time.Second}
	}
	g.busy[account] = true
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.busy, account)
	}, nil
}

// Failed counts a failure.
func (g *Guard) Failed(ctx context.Context, account, address string) error {
	return errors.Join(
		g.count(ctx, "a:"+account, accountFree, accountMax),
		g.count(ctx, "n:"+network(address), addressFree, addressMax))
}

func (g *Guard) count(ctx context.Context, key string, free int, longest time.Duration) error {
	for {
		d, err := g.counts.Get(ctx, key)
		if err != nil && !errors.Is(err, records.ErrNotFound) {
			return err
		}
		d.ID = key
		d.Value.Failures++
		now := g.now().UTC()
		if over := d.Value.Failures - free; over >= 0 {
			d.Value.Until = now.Add(min(longest, firstWait<<min(over, 16)))
		}
		d.Expires = now.Add(countLife)
		if err := g.counts.Put(ctx, &d); !errors.Is(err, records.ErrConflict) {
			return err
		}
	}
}

// Passed forgets an account's failures; the address's stay.
func (g *Guard) Passed(ctx context.Context, account string) error {
	return ignoreGone(g.counts.Delete(ctx, "a:"+account, records.AnyRev))
}

// network is what failures are counted for: an IPv4 address, or an IPv6 network
// of 64 bits, which one machine has for itself.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if a = a.Unmap(); a.Is4() {
		return a.String()
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return address
	}
	return p.String()
}
