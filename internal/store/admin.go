package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Setting is one named JSON value.
type Setting struct {
	bun.BaseModel `bun:"table:settings,alias:s"`

	Name      string          `bun:"name,pk"`
	Body      json.RawMessage `bun:"body"`
	Version   int64           `bun:"version"`
	UpdatedAt time.Time       `bun:"updated_at"`
}

// Setting returns one; ErrNotFound when it was never set.
func (s *Store) Setting(ctx context.Context, name string) (*Setting, error) {
	return get[Setting](ctx, s, "read setting "+cut(name, 80), "name = ?", name)
}

// Settings lists all by name.
func (s *Store) Settings(ctx context.Context) ([]Setting, error) {
	return all[Setting](ctx, s, "list settings", "name", "1 = 1")
}

// PutSetting stores a value and returns its new version. version must be the
// one that was read, 0 for a setting that is not there, else ErrConflict; -1
// stores whatever there is.
func (s *Store) PutSetting(ctx context.Context, name string, body json.RawMessage, version int64) (int64, error) {
	v := &Setting{Name: name, Body: body}
	err := s.tx(ctx, "store setting "+cut(name, 80), func(t *Store) error {
		var old Setting
		q := t.db.NewSelect().Model(&old).Where("name = ?", name)
		if t.kind != SQLite {
			q = q.For("UPDATE")
		}
		err := q.Scan(ctx)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if version >= 0 && version != old.Version {
			return fmt.Errorf("cannot store setting %s: %w", name, ErrConflict)
		}
		v.Version, v.UpdatedAt = old.Version+1, now()
		if old.Version == 0 {
			_, err = t.db.NewInsert().Model(v).Exec(ctx)
		} else {
			_, err = t.db.NewUpdate().Model(v).WherePK().Exec(ctx)
		}
		return err
	})
	return v.Version, err
}

// Audit is one line of the record of who changed what, from where.
type Audit struct {
	bun.BaseModel `bun:"table:audit,alias:a"`

	Seq        int64           `bun:"seq,pk"`
	ID         string          `bun:"id"`
	Actor      string          `bun:"actor"`
	ActorKind  string          `bun:"actor_kind"` // user, token, system
	Action     string          `bun:"action"`     // "target.update"
	ObjectKind string          `bun:"object_kind"`
	ObjectID   string          `bun:"object_id"`
	Remote     string          `bun:"remote"`
	Result     string          `bun:"result"` // ok, denied, failed
	Detail     json.RawMessage `bun:"detail,nullzero"`
	Time       time.Time       `bun:"created_at"`
}

// AppendAudit appends to the record; called within Tx it stands or falls with
// the change it tells of.
func (s *Store) AppendAudit(ctx context.Context, a *Audit) error {
	if a.ID == "" {
		a.ID = NewID()
	}
	a.Actor, a.Action, a.ObjectID, a.Remote = cut(a.Actor, maxName), cut(a.Action, maxName), cut(a.ObjectID, maxName), cut(a.Remote, maxName)
	return s.tx(ctx, "write the audit record", func(t *Store) error {
		if ok, err := t.db.NewSelect().Model((*Audit)(nil)).Where("id = ?", a.ID).Exists(ctx); err != nil || ok {
			return err
		}
		a.Time = now()
		var err error
		if a.Seq, err = t.next(ctx, "audit", 1); err != nil {
			return err
		}
		_, err = t.db.NewInsert().Model(a).Exec(ctx)
		return err
	})
}

// AuditFilter chooses audit records; zero fields choose all.
type AuditFilter struct {
	Actor, Action        string
	ObjectKind, ObjectID string
	Since, Until         time.Time
}

// Audits lists the record, the newest first.
func (s *Store) Audits(ctx context.Context, f AuditFilter, p Page) (Listing[Audit], error) {
	var rows []Audit
	err := s.read(ctx, "list the audit record", func(ctx context.Context) error {
		rows = nil
		q, err := p.apply(s.db.NewSelect().Model(&rows), "seq")
		if err != nil {
			return err
		}
		for column, v := range map[string]string{"actor": f.Actor, "action": f.Action, "object_kind": f.ObjectKind, "object_id": f.ObjectID} {
			if v != "" {
				q = q.Where("? = ?", bun.Ident(column), v)
			}
		}
		return between(q, "created_at", f.Since, f.Until).Scan(ctx)
	})
	if err != nil {
		return Listing[Audit]{}, err
	}
	return listing(p, rows, func(a *Audit) int64 { return a.Seq }), nil
}

// Idempotency is a remembered request of an actor and its answer.
type Idempotency struct {
	bun.BaseModel `bun:"table:idempotency_keys,alias:i"`

	Actor       string    `bun:"actor,pk"`
	Key         string    `bun:"idem_key,pk"` // hashed by the store
	Fingerprint string    `bun:"fingerprint"` // of the request, at most 64 characters
	Status      int       `bun:"status"`      // of the answer; 0 while the first request runs
	Answer      []byte    `bun:"answer,nullzero"`
	CreatedAt   time.Time `bun:"created_at"`
	ExpiresAt   time.Time `bun:"expires_at"`
}

func hashed(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// ClaimKey claims an idempotency key for a request. mine is true for the one
// who is to carry the request out and then calls AnswerKey (or ReleaseKey);
// otherwise the earlier claim is returned.
func (s *Store) ClaimKey(ctx context.Context, actor, key, fingerprint string, ttl time.Duration) (have *Idempotency, mine bool, err error) {
	row := &Idempotency{Actor: actor, Key: hashed(key), Fingerprint: fingerprint, CreatedAt: now(), ExpiresAt: now().Add(ttl)}
	err = s.tx(ctx, "claim the idempotency key", func(t *Store) error {
		have, mine = nil, false
		_, err := t.db.NewDelete().Model((*Idempotency)(nil)).Where("actor = ? AND idem_key = ? AND expires_at <= ?", actor, row.Key, now()).Exec(ctx)
		if err != nil {
			return err
		}
		var old Idempotency
		err = t.db.NewSelect().Model(&old).Where("actor = ? AND idem_key = ?", actor, row.Key).Scan(ctx)
		if err == nil {
			have = &old
			return nil
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		_, err = t.db.NewInsert().Model(row).Exec(ctx)
		mine = err == nil
		return err
	})
	if errors.Is(err, ErrExists) { // claimed between the look and the insert
		have, err = get[Idempotency](ctx, s, "read the idempotency key", "actor = ? AND idem_key = ?", actor, row.Key)
		return have, false, err
	}
	return have, mine, err
}

// AnswerKey stores the answer that later requests with the key get.
func (s *Store) AnswerKey(ctx context.Context, actor, key string, status int, answer []byte) error {
	return s.tx(ctx, "store the answer", func(t *Store) error {
		_, err := t.db.NewUpdate().Model(&Idempotency{Status: status, Answer: answer}).Column("status", "answer").
			Where("actor = ? AND idem_key = ?", actor, hashed(key)).Exec(ctx)
		return err
	})
}

// ReleaseKey gives a claimed key up, for a request that did nothing.
func (s *Store) ReleaseKey(ctx context.Context, actor, key string) error {
	return s.tx(ctx, "release the idempotency key", func(t *Store) error {
		_, err := t.db.NewDelete().Model((*Idempotency)(nil)).Where("actor = ? AND idem_key = ? AND status = 0", actor, hashed(key)).Exec(ctx)
		return err
	})
}

// Delivery is one notification to one channel.
type Delivery struct {
	bun.BaseModel `bun:"table:deliveries,alias:d"`

	ID           string          `bun:"id,pk"`
	Seq          int64           `bun:"seq"`
	Channel      string          `bun:"channel"` // the configured channel's name
	Job          string          `bun:"job_id"`
	Kind         string          `bun:"kind"` // started, failed, needs_consent, completed, undone
	Body         json.RawMessage `bun:"body"`
	Status       Status          `bun:"status"` // Pending, Completed, Failed
	Attempt      int             `bun:"attempt"`
	NextAt       time.Time       `bun:"next_at"`
	ErrorMessage string          `bun:"error_message,nullzero"`
	CreatedAt    time.Time       `bun:"created_at"`
	CompletedAt  time.Time       `bun:"completed_at,nullzero"`
}

// CreateDelivery stores a pending delivery, due now. An ID that is there
// already is not stored again: give one that follows from job, kind and channel.
func (s *Store) CreateDelivery(ctx context.Context, d *Delivery) error {
	if d.ID == "" {
		d.ID = NewID()
	}
	return s.tx(ctx, "store the notification", func(t *Store) error {
		if ok, err := t.db.NewSelect().Model(d).WherePK().Exists(ctx); err != nil || ok {
			return err
		}
		d.Status, d.CreatedAt = Pending, now()
		if d.NextAt.IsZero() {
			d.NextAt = d.CreatedAt
		}
		var err error
		if d.Seq, err = t.next(ctx, "deliveries", 1); err != nil {
			return err
		}
		_, err = t.db.NewInsert().Model(d).Exec(ctx)
		return err
	})
}

// DueDeliveries lists pending deliveries whose time has come, the oldest first.
func (s *Store) DueDeliveries(ctx context.Context, limit int) ([]Delivery, error) {
	var rows []Delivery
	err := s.read(ctx, "list notifications", func(ctx context.Context) error {
		rows = nil
		return s.db.NewSelect().Model(&rows).Where("status = ? AND next_at <= ?", Pending, now()).OrderExpr("seq").Limit(Page{Limit: limit}.limit()).Scan(ctx)
	})
	return rows, err
}

// EndDelivery stores the outcome of an attempt: Completed, Failed for good, or
// Pending with the time of the next attempt.
func (s *Store) EndDelivery(ctx context.Context, id string, st Status, problem string, next time.Time) error {
	return s.tx(ctx, "store the notification's outcome", func(t *Store) error {
		q := t.db.NewUpdate().Model((*Delivery)(nil)).Where("id = ?", id).Set("status = ?", st).Set("attempt = attempt + 1").
			Set("error_message = ?", nullable(cut(problem, maxText)))
		if st == Pending {
			q = q.Set("next_at = ?", next.UTC().Truncate(time.Microsecond))
		} else {
			q = q.Set("completed_at = ?", now())
		}
		_, err := q.Exec(ctx)
		return err
	})
}

// Deliveries lists deliveries of a job (of all when empty), the newest first.
func (s *Store) Deliveries(ctx context.Context, job string, p Page) (Listing[Delivery], error) {
	var rows []Delivery
	err := s.read(ctx, "list notifications", func(ctx context.Context) error {
		rows = nil
		q, err := p.apply(s.db.NewSelect().Model(&rows), "seq")
		if err != nil {
			return err
		}
		if job != "" {
			q = q.Where("job_id = ?", job)
		}
		return q.Scan(ctx)
	})
	if err != nil {
		return Listing[Delivery]{}, err
	}
	return listing(p, rows, func(d *Delivery) int64 { return d.Seq }), nil
}

// Retention says how long what has ended is kept; 0: for ever.
type Retention struct {
	Jobs  time.Duration // jobs at rest, with all that belongs to them
	Audit time.Duration
	// Events are the lines of the logs of jobs at rest.
	Events time.Duration
	// KeepJobs are kept however old, the newest of those at rest.
	KeepJobs int
}

// Pruned is what Prune removed.
type Pruned struct{ Jobs, Events, Audits, Sessions, Tokens, Keys, Plans int64 }

// pruneAtOnce bounds one transaction of Prune, so that others write in between.
const pruneAtOnce = 100

// Prune removes what is older than a retention, and whatever has expired. A job
// that has left something on a target (what it recorded is not all gone) is never
// removed: its record is what undo needs. Its log may be.
func (s *Store) Prune(ctx context.Context, r Retention) (Pruned, error) {
	var p Pruned
	if r.Jobs > 0 {
		before := now().Add(-r.Jobs)
		for {
			var ids []string
			err := s.tx(ctx, "remove old jobs", func(t *Store) error {
				ids = nil
				q := t.db.NewSelect().Model((*Job)(nil)).Column("id").
					Where("status IN (?) OR (status = ? AND rolled_back = ?)", bun.In([]Status{Completed, Cancelled, Undone}), Failed, true).
					Where("completed_at < ?", before).
					Where("id NOT IN (SELECT job_id FROM resources WHERE gone = ?)", false).OrderExpr("seq").Limit(pruneAtOnce)
				if r.KeepJobs > 0 {
					var floor int64
					err := t.db.NewSelect().Model((*Job)(nil)).Column("seq").
						Where("status IN (?)", bun.In([]Status{Completed, Failed, Cancelled, Undone})).
						OrderExpr("seq DESC").Offset(r.KeepJobs-1).Limit(1).Scan(ctx, &floor)
					if err != nil && !errors.Is(err, sql.ErrNoRows) {
						return err
					}
					q = q.Where("seq < ?", floor)
				}
				if err := q.Scan(ctx, &ids); err != nil || len(ids) == 0 {
					return err
				}
				return t.deleteJobs(ctx, ids)
			})
			if err != nil {
				return p, err
			}
			p.Jobs += int64(len(ids))
			if len(ids) < pruneAtOnce {
				break
			}
		}
	}
	for _, c := range []struct {
		n     *int64
		model any
		where string
		args  []any
		on    bool
	}{
		{&p.Events, (*Event)(nil), "created_at < ? AND job_id IN (SELECT id FROM restore_jobs WHERE status IN (?))",
			[]any{now().Add(-r.Events), bun.In([]Status{Completed, Failed, Cancelled, Undone})}, r.Events > 0},
		{&p.Audits, (*Audit)(nil), "created_at < ?", []any{now().Add(-r.Audit)}, r.Audit > 0},
		{&p.Plans, (*Plan)(nil), "created_at < ? AND id NOT IN (SELECT plan_id FROM restore_jobs WHERE plan_id IS NOT NULL)", []any{now().Add(-r.Jobs)}, r.Jobs > 0},
		{&p.Sessions, (*Session)(nil), "expires_at <= ?", []any{now()}, true},
		{&p.Tokens, (*Token)(nil), "expires_at <= ?", []any{now().Add(-30 * 24 * time.Hour)}, true},
		{&p.Keys, (*Idempotency)(nil), "expires_at <= ?", []any{now()}, true},
	} {
		if !c.on {
			continue
		}
		err := s.tx(ctx, "remove what has expired", func(t *Store) error {
			res, err := t.db.NewDelete().Model(c.model).Where(c.where, c.args...).Exec(ctx)
			if err != nil {
				return err
			}
			*c.n, err = res.RowsAffected()
			return err
		})
		if err != nil {
			return p, err
		}
	}
	return p, nil
}
