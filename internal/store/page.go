package store

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// Page asks for one page of a list. The zero value is the first page.
type Page struct {
	Cursor string // Next of the page before
	Limit  int    // rows; 0: 50, at most 1000
	// Ascending lists the oldest first; otherwise the newest.
	Ascending bool
}

// Listing is one page of a list.
type Listing[T any] struct {
	Items []T
	Next  string // cursor of the next page; empty on the last
}

// ErrCursor: a cursor that this store did not make.
var ErrCursor = fmt.Errorf("not a cursor of this list")

func (p Page) limit() int {
	switch {
	case p.Limit <= 0:
		return 50
	case p.Limit > 1000:
		return 1000
	}
	return p.Limit
}

func cursor(seq int64) string {
	return base64.RawURLEncoding.EncodeToString(binary.AppendUvarint(nil, uint64(seq))) //nolint:gosec // never negative
}

// apply orders by the sequence column and starts after the cursor. One row more
// than asked for tells whether there is a next page.
func (p Page) apply(q *bun.SelectQuery, column string) (*bun.SelectQuery, error) {
	if p.Cursor != "" {
		b, err := base64.RawURLEncoding.DecodeString(p.Cursor)
		seq, n := binary.Uvarint(b)
		if err != nil || n <= 0 || n != len(b) || seq > 1<<62 {
			return nil, fmt.Errorf("cannot list: %w", ErrCursor)
		}
		if p.Ascending {
			q = q.Where("? > ?", bun.Ident(column), seq)
		} else {
			q = q.Where("? < ?", bun.Ident(column), seq)
		}
	}
	if p.Ascending {
		q = q.OrderExpr("? ASC", bun.Ident(column))
	} else {
		q = q.OrderExpr("? DESC", bun.Ident(column))
	}
	return q.Limit(p.limit() + 1), nil
}

// rows reads the rows of a page whose sequence numbers a query gives. Choosing
// and sorting bare numbers first is several times faster than sorting rows.
func (p Page) rows(q, page *bun.SelectQuery, column string) *bun.SelectQuery {
	order := "DESC"
	if p.Ascending {
		order = "ASC"
	}
	// MySQL takes no LIMIT directly within IN.
	return q.Where("? IN (SELECT page.? FROM (?) AS page)", bun.Ident(column), bun.Ident(column), page).OrderExpr("? "+order, bun.Ident(column))
}

func listing[T any](p Page, rows []T, seq func(*T) int64) Listing[T] {
	l := Listing[T]{Items: rows}
	if len(rows) > p.limit() {
		l.Items = rows[:p.limit()]
		l.Next = cursor(seq(&l.Items[p.limit()-1]))
	}
	return l
}

// contains is a LIKE pattern for rows that hold text, which is taken literally.
func contains(text string) string {
	return "%" + strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(strings.ToLower(text)) + "%"
}

func between(q *bun.SelectQuery, column string, since, until time.Time) *bun.SelectQuery {
	if !since.IsZero() {
		q = q.Where("? >= ?", bun.Ident(column), since.UTC())
	}
	if !until.IsZero() {
		q = q.Where("? < ?", bun.Ident(column), until.UTC())
	}
	return q
}
