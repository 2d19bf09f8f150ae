package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/uptrace/bun"
)

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
type Pruned struct{ Jobs, Events, Audits int64 }

// pruneAtOnce bounds one transaction of Prune, so that others write in between.
const pruneAtOnce = 100

// Prune removes what is older than a retention. A job that has left something on a
// target (what it recorded is not all gone) is never removed: its record is what
// undo needs. Its log may be.
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
	} {
		if !c.on {
			continue
		}
		err := s.tx(ctx, "remove what is old", func(t *Store) error {
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
