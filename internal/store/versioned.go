package store

import (
	"context"
	"fmt"
	"time"
)

// Stamp is what rows that people edit have in common.
type Stamp struct {
	Version   int64     `bun:"version"` // for ETags; grows with every change
	CreatedAt time.Time `bun:"created_at"`
	UpdatedAt time.Time `bun:"updated_at"`
}

func (st *Stamp) stamp() *Stamp { return st }

type stamped interface{ stamp() *Stamp }

// insert stores a new row of version 1.
func insert[T stamped](ctx context.Context, s *Store, what string, row T, fill func(*Store) error) error {
	return s.tx(ctx, what, func(t *Store) error {
		st := row.stamp()
		st.Version, st.CreatedAt = 1, now()
		st.UpdatedAt = st.CreatedAt
		if fill != nil {
			if err := fill(t); err != nil {
				return err
			}
		}
		_, err := t.db.NewInsert().Model(row).Exec(ctx)
		return err
	})
}

// update stores a row whose Version is the one that was read, else ErrConflict;
// Version 0 stores it whatever the version. omit names columns that stay.
func update[T stamped](ctx context.Context, s *Store, what string, row T, omit ...string) error {
	st := row.stamp()
	was := *st
	err := s.tx(ctx, what, func(t *Store) error {
		*st = was
		st.UpdatedAt = now()
		q := t.db.NewUpdate().Model(row).WherePK().ExcludeColumn(append(omit, "created_at")...).Value("version", "version + 1")
		if was.Version > 0 {
			q = q.Where("version = ?", was.Version)
		}
		r, err := q.Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			ok, err := t.db.NewSelect().Model(row).WherePK().Exists(ctx)
			switch {
			case err != nil:
				return err
			case ok:
				return fmt.Errorf("cannot %s: %w", what, ErrConflict)
			}
			return fmt.Errorf("cannot %s: %w", what, ErrNotFound)
		}
		return t.db.NewSelect().Model(row).WherePK().Column("version").Scan(ctx, &st.Version)
	})
	if err != nil {
		*st = was
	}
	return err
}

// get reads one row by a column.
func get[T any](ctx context.Context, s *Store, what, where string, args ...any) (*T, error) {
	row := new(T)
	err := s.read(ctx, what, func(ctx context.Context) error {
		return s.db.NewSelect().Model(row).Where(where, args...).Scan(ctx)
	})
	if err != nil {
		return nil, err
	}
	return row, nil
}

// all reads every row that fits, in an order.
func all[T any](ctx context.Context, s *Store, what, order, where string, args ...any) ([]T, error) {
	var rows []T
	err := s.read(ctx, what, func(ctx context.Context) error {
		rows = nil
		return s.db.NewSelect().Model(&rows).Where(where, args...).OrderExpr(order).Scan(ctx)
	})
	return rows, err
}

// remove deletes rows; none is ErrNotFound.
func remove[T any](ctx context.Context, s *Store, what, where string, args ...any) error {
	return s.tx(ctx, what, func(t *Store) error {
		r, err := t.db.NewDelete().Model((*T)(nil)).Where(where, args...).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return fmt.Errorf("cannot %s: %w", what, ErrNotFound)
	})
}

// removeVersion deletes only a row of the version that was read; 0: any.
func removeVersion[T any](ctx context.Context, s *Store, what, id string, version int64) error {
	if version == 0 {
		return remove[T](ctx, s, what, "id = ?", id)
	}
	return s.tx(ctx, what, func(t *Store) error {
		r, err := t.db.NewDelete().Model((*T)(nil)).Where("id = ? AND version = ?", id, version).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n > 0 {
			return err
		}
		ok, err := t.db.NewSelect().Model((*T)(nil)).Where("id = ?", id).Exists(ctx)
		switch {
		case err != nil:
			return err
		case ok:
			return fmt.Errorf("cannot %s: %w", what, ErrConflict)
		}
		return fmt.Errorf("cannot %s: %w", what, ErrNotFound)
	})
}
