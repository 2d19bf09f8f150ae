package store

import (
	"context"

	"github.com/uptrace/bun"
)

// Column reads one value of a document's row as text.
func (s *Store) Column(ctx context.Context, table, column, id string) (v string, err error) {
	return v, s.db.NewSelect().TableExpr("?", bun.Ident(table)).ColumnExpr("?", bun.Ident(column)).Where("id = ?", id).Scan(ctx, &v)
}
