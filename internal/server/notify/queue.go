package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"ascend/internal/secret"
	"ascend/internal/server/records"
	"ascend/internal/vault"
)

// Stored is a channel as the store has it: its secrets are sealed.
type Stored struct {
	Channel
	Sealed []byte `json:"sealed,omitempty"`
}

// Delivery is one message to one channel, and what became of it.
type Delivery struct {
	Channel  string    `json:"channel"`
	Message  Message   `json:"message"`
	State    string    `json:"state" enum:"waiting,delivered,given-up"`
	Attempts int       `json:"attempts"`
	Next     time.Time `json:"next,omitzero" doc:"when it is tried again"`
	Error    string    `json:"error,omitempty" doc:"of the last attempt"`
	Sent     time.Time `json:"sent,omitzero"`
}

// States of a delivery.
const (
	Waiting   = "waiting"
	Delivered = "delivered"
	GivenUp   = "given-up"
)

// How often a message is tried, and how long what became of it is kept. The waits
// double from firstWait to longestWait: about a day in all.
const (
	maxAttempts = 16
	longestWait = 2 * time.Hour
	keepFor     = 30 * 24 * time.Hour
	workers     = 4
)

// Queue stores messages and sends them. Safe for concurrent use.
type Queue struct {
	Channels   records.Table[Stored]
	Deliveries records.Table[Delivery]
	waiting    records.Table[string] // ids of the deliveries to be made
	vault      *vault.Vault
	guard      func(context.Context) (Guard, error)
	log        *slog.Logger
	wake       chan struct{}
	firstWait  time.Duration
	now        func() time.Time
}

// NewQueue makes a queue; guard is asked for every message.
func NewQueue(s records.Store, v *vault.Vault, guard func(context.Context) (Guard, error), log *slog.Logger) *Queue {
	return &Queue{
		Channels:   records.Table[Stored]{Store: s, Kind: "channel"},
		Deliveries: records.Table[Delivery]{Store: s, Kind: "delivery"},
		waiting:    records.Table[string]{Store: s, Kind: "waiting"},
		vault:      v, guard: guard, log: log, wake: make(chan struct{}, 1), firstWait: 2 * time.Second, now: time.Now,
	}
}

// sealed is what is sealed of a channel.
type sealed struct{ URL, Key, Password string }

// Seal puts a channel's secrets away.
func (q *Queue) Seal(id string, c Channel) (Stored, error) {
	b, err := json.Marshal(sealed{c.Secrets.URL.Reveal(), c.Secrets.Key.Reveal(), c.Secrets.Password.Reveal()})
	if err != nil {
		return Stored{}, err
	}
	s := Stored{Channel: c}
	s.Secrets = Secrets{}
	s.Sealed, err = q.vault.Seal("channel "+id, b)
	return s, err
}

// Open is a stored channel with its secrets.
func (q *Queue) Open(id string, s Stored) (Channel, bool, error) {
	b, stale, err := q.vault.Open("channel "+id, s.Sealed)
	if err != nil {
		return Channel{}, false, err
	}
	var x sealed
	if err := json.Unmarshal(b, &x); err != nil {
		return Channel{}, false, fmt.Errorf("cannot read channel %s", id)
	}
	c := s.Channel
	c.Secrets = Secrets{URL: secret.New(x.URL), Key: secret.New(x.Key), Password: secret.New(x.Password)}
	return c, stale, nil
}

// Tell stores a message for every channel that asks for its event; it is sent
// soon. The ids come from the message's: telling it again after a crash tells
// nobody twice.
func (q *Queue) Tell(ctx context.Context, m Message) error {
	all, err := q.Channels.All(ctx, "")
	if err != nil {
		return err
	}
	for _, c := range all {
		if !c.Value.Disabled && slices.Contains(c.Value.Events, m.Event) {
			err = errors.Join(err, q.add(ctx, c.ID, m))
		}
	}
	q.kick()
	return err
}

func (q *Queue) add(ctx context.Context, channel string, m Message) error {
	now := q.now().UTC()
	d := records.Doc[Delivery]{
		Record: records.Record{ID: m.ID + "." + channel, Ref: channel, Expires: now.Add(keepFor)},
		Value:  Delivery{Channel: channel, Message: m, State: Waiting, Next: now},
	}
	if err := q.Deliveries.Put(ctx, &d); err != nil {
		if errors.Is(err, records.ErrConflict) {
			return nil // told before
		}
		return err
	}
	w := records.Doc[string]{Record: records.Record{ID: d.ID}, Value: d.ID}
	return q.waiting.Force(ctx, &w)
}

func (q *Queue) kick() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Run sends until ctx ends.
func (q *Queue) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := q.round(ctx); err != nil && ctx.Err() == nil {
			q.log.Warn("cannot look for notifications", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-q.wake:
		}
	}
}

// round makes the deliveries that are due.
func (q *Queue) round(ctx context.Context) error {
	list, err := q.waiting.All(ctx, "")
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, workers)
	for _, w := range list {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := q.deliver(ctx, w.Value); err != nil && ctx.Err() == nil {
				q.log.Warn("cannot record a notification", "delivery", w.Value, "error", err)
			}
		})
	}
	wg.Wait()
	return nil //nolint:nilerr // each delivery has recorded its own
}

// deliver tries one delivery and records what became of it.
func (q *Queue) deliver(ctx context.Context, id string) error {
	d, err := q.Deliveries.Get(ctx, id)
	if errors.Is(err, records.ErrNotFound) {
		return q.waiting.Delete(ctx, id, records.AnyRev)
	}
	if err != nil {
		return err
	}
	v := &d.Value
	if v.State == Waiting {
		if q.now().Before(v.Next) {
			return nil
		}
		err := q.send(ctx, v)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it is tried again at the next start
		}
		v.Attempts++
		now := q.now().UTC()
		switch {
		case err == nil:
			v.State, v.Sent, v.Error, v.Next = Delivered, now, "", time.Time{}
		case v.Attempts >= maxAttempts, errors.Is(err, ErrRefused), errors.Is(err, records.ErrNotFound):
			v.State, v.Error, v.Next = GivenUp, err.Error(), time.Time{}
			q.log.Warn("notification given up", "channel", v.Channel, "event", v.Message.Event, "job", v.Message.Job, "error", err)
		default:
			v.Error, v.Next = err.Error(), now.Add(min(longestWait, q.firstWait<<min(v.Attempts-1, 16)))
		}
		if err := q.Deliveries.Put(ctx, &d); err != nil {
			return err
		}
	}
	if v.State == Waiting {
		return nil
	}
	return q.waiting.Delete(ctx, id, records.AnyRev)
}

func (q *Queue) send(ctx context.Context, v *Delivery) error {
	s, err := q.Channels.Get(ctx, v.Channel)
	if err != nil {
		return err
	}
	return q.Try(ctx, s, &v.Message)
}

// Try sends a message to a channel now and records nothing.
func (q *Queue) Try(ctx context.Context, s records.Doc[Stored], m *Message) error {
	c, _, err := q.Open(s.ID, s.Value)
	if err != nil {
		return err
	}
	g, err := q.guard(ctx)
	if err != nil {
		return err
	}
	return c.Send(ctx, g, m)
}

// Rotate seals every channel's secrets with the vault's first key.
func (q *Queue) Rotate(ctx context.Context) (int, error) {
	all, err := q.Channels.All(ctx, "")
	n := 0
	for _, d := range all {
		c, stale, err := q.Open(d.ID, d.Value)
		if err != nil {
			return n, err
		}
		if !stale {
			continue
		}
		if d.Value, err = q.Seal(d.ID, c); err != nil {
			return n, err
		}
		if err := q.Channels.Put(ctx, &d); err != nil {
			return n, err
		}
		n++
	}
	return n, err
}
