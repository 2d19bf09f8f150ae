package store

import (
	"context"
	"time"

	"github.com/uptrace/bun"
)

type rateRow struct {
	bun.BaseModel `bun:"table:rates,alias:r"`

	ID         string    `bun:"id,pk"`
	Target     string    `bun:"target"`
	Kind       string    `bun:"kind"`
	Bytes      int64     `bun:"bytes"`
	DurationMS int64     `bun:"duration_ms"`
	CreatedAt  time.Time `bun:"created_at"`
}

// ratesKept is how many measurements a rate is computed from.
const ratesKept = 10

// RecordRate stores that a transfer of a kind to a target moved so many bytes
// in a time. Measurements of less than a second or a MiB say nothing and are
// left out.
func (s *Store) RecordRate(ctx context.Context, target, kind string, bytes int64, d time.Duration) error {
	if d < time.Second || bytes < 1<<20 {
		return nil
	}
	row := &rateRow{ID: NewID(), Target: cut(target, maxName), Kind: kind, Bytes: bytes, DurationMS: d.Milliseconds(), CreatedAt: now()}
	return s.tx(ctx, "store the rate", func(t *Store) error {
		if _, err := t.db.NewInsert().Model(row).Exec(ctx); err != nil {
			return err
		}
		var old []string
		err := t.db.NewSelect().Model((*rateRow)(nil)).Column("id").Where("target = ? AND kind = ?", row.Target, kind).
			OrderExpr("id DESC").Offset(ratesKept).Limit(100).Scan(ctx, &old)
		if err != nil || len(old) == 0 {
			return err
		}
		_, err = t.db.NewDelete().Model((*rateRow)(nil)).Where("id IN (?)", bun.In(old)).Exec(ctx)
		return err
	})
}

// Rate is the rate of the last transfers of a kind to a target, in bytes a
// second, and how many were measured; 0 when none was.
func (s *Store) Rate(ctx context.Context, target, kind string) (rate float64, n int, err error) {
	rows, err := all[rateRow](ctx, s, "read the rate", "id", "target = ? AND kind = ?", cut(target, maxName), kind)
	var bytes, ms int64
	for _, r := range rows {
		bytes += r.Bytes
		ms += r.DurationMS
	}
	if err != nil || ms == 0 {
		return 0, 0, err
	}
	return float64(bytes) / (float64(ms) / 1000), len(rows), nil
}
