package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Record is a small versioned document of the server, in JSON. Kind and ID name
// it; Ref, which may be empty, is what it belongs to. One that has expired is not
// found. Users, tokens, sessions, targets, mapping sets, plans, channels,
// deliveries, settings and idempotency keys have tables of their own.
type Record struct {
	bun.BaseModel `bun:"table:records,alias:r"`

	Kind      string    `bun:"kind,pk"`
	ID        string    `bun:"id,pk"`
	Ref       string    `bun:"ref"`
	Version   int64     `bun:"version"`
	Data      []byte    `bun:"data"`
	ExpiresAt time.Time `bun:"expires_at,nullzero"`
	CreatedAt time.Time `bun:"created_at"`
	UpdatedAt time.Time `bun:"updated_at"`
}

const unexpired = "(expires_at IS NULL OR expires_at > ?)"

// find selects records of a kind into model.
func (s *Store) find(model any, kind string) *bun.SelectQuery {
	sh, own := shelfOf(kind)
	q := s.db.NewSelect().Model(model).ModelTableExpr("? AS r", bun.Ident(sh.table))
	if own {
		return q.ColumnExpr("?, id, ref, version, data, expires_at, created_at, updated_at", bun.Safe("'"+kind+"' AS kind"))
	}
	return q.Where("kind = ?", kind)
}

// Record returns one.
func (s *Store) Record(ctx context.Context, kind, id string) (*Record, error) {
	r := new(Record)
	err := s.read(ctx, "read "+cut(kind, 80), func(ctx context.Context) error {
		return s.find(r, kind).Where("id = ?", id).Where(unexpired, now()).Scan(ctx)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// PutRecord stores a record and fills its version and times. version must be the
// one that was read, 0 for a record that is not there, else ErrConflict; -1 stores
// whatever there is.
func (s *Store) PutRecord(ctx context.Context, r *Record, version int64) error {
	what := "write " + cut(r.Kind, 80)
	sh, own := shelfOf(r.Kind)
	err := s.tx(ctx, what, func(t *Store) error {
		var old Record
		q := t.find(&old, r.Kind).Where("id = ?", r.ID)
		if t.kind != SQLite {
			q = q.For("UPDATE")
		}
		err := q.Scan(ctx)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		there := err == nil
		at := now()
		if there && !old.ExpiresAt.IsZero() && !at.Before(old.ExpiresAt) {
			old.Version, old.CreatedAt = 0, time.Time{}
		}
		if version >= 0 && version != old.Version {
			return fmt.Errorf("cannot %s: %w", what, ErrConflict)
		}
		r.Version, r.UpdatedAt, r.CreatedAt = old.Version+1, at, old.CreatedAt
		if r.CreatedAt.IsZero() {
			r.CreatedAt = at
		}
		r.ExpiresAt = r.ExpiresAt.UTC().Truncate(time.Microsecond)
		row := map[string]any{
			"id": r.ID, "ref": r.Ref, "version": r.Version, "data": string(r.Data), "expires_at": nil, "created_at": r.CreatedAt, "updated_at": r.UpdatedAt,
		}
		if !r.ExpiresAt.IsZero() {
			row["expires_at"] = r.ExpiresAt
		}
		if !own {
			row["kind"] = r.Kind
		}
		sh.columns(row, r.Data)
		if !there {
			_, err = t.db.NewInsert().Model(&row).TableExpr("?", bun.Ident(sh.table)).Exec(ctx)
			return err
		}
		u := t.db.NewUpdate().Model(&row).TableExpr("?", bun.Ident(sh.table)).Where("id = ?", r.ID)
		if !own {
			u = u.Where("kind = ?", r.Kind)
		}
		_, err = u.Exec(ctx)
		return err
	})
	if errors.Is(err, ErrExists) { // made between the look and the insert
		return fmt.Errorf("cannot %s: %w", what, ErrConflict)
	}
	return err
}

// DeleteRecord removes one whose version is the one given; -1: any.
func (s *Store) DeleteRecord(ctx context.Context, kind, id string, version int64) error {
	what := "delete " + cut(kind, 80)
	sh, own := shelfOf(kind)
	return s.tx(ctx, what, func(t *Store) error {
		q := t.db.NewDelete().TableExpr("?", bun.Ident(sh.table)).Where("id = ?", id)
		if !own {
			q = q.Where("kind = ?", kind)
		}
		if version >= 0 {
			q = q.Where("version = ?", version)
		}
		res, err := q.Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n > 0 {
			return err
		}
		ok, err := t.find((*Record)(nil), kind).Where("id = ?", id).Exists(ctx)
		if err == nil && ok {
			return fmt.Errorf("cannot %s: %w", what, ErrConflict)
		}
		return errors.Join(err, fmt.Errorf("cannot %s: %w", what, ErrNotFound))
	})
}

// Records lists at most limit records of a kind after one, by their ids or, desc,
// backwards; of ref only unless it is empty.
func (s *Store) Records(ctx context.Context, kind, ref, after string, limit int, desc bool) ([]Record, error) {
	var rows []Record
	err := s.read(ctx, "list "+cut(kind, 80), func(ctx context.Context) error {
		rows = nil
		q := s.find(&rows, kind).Where(unexpired, now()).Limit(limit)
		if ref != "" {
			q = q.Where("ref = ?", ref)
		}
		switch {
		case desc && after != "":
			q = q.Where("id < ?", after)
		case after != "":
			q = q.Where("id > ?", after)
		}
		if desc {
			return q.OrderExpr("id DESC").Scan(ctx)
		}
		return q.OrderExpr("id").Scan(ctx)
	})
	return rows, err
}

// ExpireRecords removes what has expired.
func (s *Store) ExpireRecords(ctx context.Context, at time.Time) error {
	tables := []string{"records"}
	for _, sh := range shelves {
		tables = append(tables, sh.table)
	}
	for _, table := range tables {
		err := s.tx(ctx, "remove what has expired", func(t *Store) error {
			_, err := t.db.NewDelete().TableExpr("?", bun.Ident(table)).Where("expires_at <= ?", at.UTC()).Exec(ctx)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
