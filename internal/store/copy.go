package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// Copied is how many rows of a table were copied.
type Copied struct {
	Table string `json:"table"`
	Rows  int64  `json:"rows"`
}

// ErrNotEmpty: the database that is copied to holds something already.
var ErrNotEmpty = errors.New("it holds something already")

// Copy copies all that from holds into s, a database of any kind with nothing but
// its schema, in one transaction: all of it arrives, or nothing. No other process
// may write to either meanwhile (Options.Exclusive). Identifiers, numbers and
// times stay as they are, so that whoever goes on with s goes on where from was
// left.
func (s *Store) Copy(ctx context.Context, from *Store) (all []Copied, err error) {
	names, err := s.tables()
	if err != nil {
		return nil, err
	}
	err = s.tx(ctx, "copy the database", func(t *Store) error {
		all = nil
		for _, name := range names {
			if name == "counters" { // made with the schema
				if _, err := t.db.NewRaw("DELETE FROM counters").Exec(ctx); err != nil {
					return err
				}
			}
			n, err := t.count(ctx, name)
			if err != nil {
				return err
			}
			if n > 0 {
				return fmt.Errorf("cannot copy to %s: %w: %d rows of %s", s, ErrNotEmpty, n, name)
			}
		}
		for _, name := range names {
			n, err := t.copyTable(ctx, from, name)
			if err != nil {
				return fmt.Errorf("cannot copy table %s: %w", name, err)
			}
			there, err := t.count(ctx, name)
			if err == nil && there != n {
				err = fmt.Errorf("%d rows of %s were copied and %d are there", n, name, there)
			}
			if err != nil {
				return err
			}
			all = append(all, Copied{name, n})
		}
		return nil
	})
	return all, err
}

// What a migration does to tables, as far as it matters for a copy. A rebuilt table
// (made anew under another name and renamed) keeps what it refers to.
var (
	makeTable  = regexp.MustCompile(`(?is)^CREATE TABLE (\w+) \((.*)\)`)
	dropTable  = regexp.MustCompile(`(?i)^DROP TABLE (?:IF EXISTS )?(\w+)`)
	alterTable = regexp.MustCompile(`(?is)^ALTER TABLE (\w+) (.*)`)
	renameTo   = regexp.MustCompile(`(?i)^RENAME TO (\w+)`)
	refersTo   = regexp.MustCompile(`(?i)REFERENCES (\w+)`)
	sqlComment = regexp.MustCompile(`(?m)--.*$`)
)

// tables are those of the schema, each after those that it refers to.
func (s *Store) tables() ([]string, error) {
	files, err := fs.Glob(migrations, "migrations/"+string(s.kind)+"/*.sql")
	if err != nil {
		return nil, err
	}
	var all []string // of the migrations, one after the other by their numbers
	for _, f := range files {
		b, err := migrations.ReadFile(f)
		if err != nil {
			return nil, err
		}
		up, _, _ := strings.Cut(string(b), "-- +goose Down")
		all = append(all, up)
	}
	return tablesOf(strings.Join(all, ";")), nil
}

// tablesOf are the tables that are there after a script, each after those that it
// refers to, and else in the order in which they were made.
func tablesOf(script string) []string {
	var made []string
	refs := map[string][]string{}
	refer := func(table, text string) {
		for _, m := range refersTo.FindAllStringSubmatch(text, -1) {
			refs[table] = append(refs[table], m[1])
		}
	}
	remove := func(table string) {
		made = slices.DeleteFunc(made, func(n string) bool { return n == table })
		delete(refs, table)
	}
	for q := range strings.SplitSeq(sqlComment.ReplaceAllString(script, ""), ";") {
		q = strings.TrimSpace(q)
		if m := makeTable.FindStringSubmatch(q); m != nil {
			made = append(made, m[1])
			refer(m[1], m[2])
		} else if m := dropTable.FindStringSubmatch(q); m != nil {
			remove(m[1])
		} else if m := alterTable.FindStringSubmatch(q); m != nil {
			if to := renameTo.FindStringSubmatch(m[2]); to != nil {
				made[slices.Index(made, m[1])] = to[1]
				refs[to[1]] = refs[m[1]]
				delete(refs, m[1])
			} else {
				refer(m[1], m[2])
			}
		}
	}
	var out []string
	var visit func(table string)
	visit = func(table string) {
		if slices.Contains(out, table) || !slices.Contains(made, table) {
			return
		}
		for _, r := range refs[table] {
			if r != table {
				visit(r)
			}
		}
		out = append(out, table)
	}
	for _, t := range made {
		visit(t)
	}
	return out
}

func (s *Store) count(ctx context.Context, table string) (n int64, err error) {
	err = s.db.NewRaw("SELECT COUNT(*) FROM ?", bun.Ident(table)).Scan(ctx, &n)
	return n, err
}

// Bounds of one INSERT.
const (
	copyRows  = 200
	copyBytes = 4 << 20
)

func (s *Store) copyTable(ctx context.Context, from *Store, table string) (n int64, err error) {
	columns, takes, err := s.columns(ctx, table)
	if err != nil {
		return 0, err
	}
	list := make([]string, len(columns))
	args := make([]any, 0, len(columns)+1)
	for i, c := range columns {
		list[i] = "?"
		args = append(args, bun.Ident(c))
	}
	marks := strings.Join(list, ", ")
	rows, err := from.db.QueryContext(ctx, from.root.db.Formatter().FormatQuery("SELECT "+marks+" FROM ?", append(args, bun.Ident(table))...))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var batch []any
	pending, size := 0, 0
	flush := func() error {
		if pending == 0 {
			return nil
		}
		q := "INSERT INTO ? (" + marks + ") VALUES " + strings.TrimSuffix(strings.Repeat("("+marks+"), ", pending), ", ")
		_, err := s.db.NewRaw(q, append(append([]any{bun.Ident(table)}, args...), batch...)...).Exec(ctx)
		n += int64(pending)
		batch, pending, size = batch[:0], 0, 0
		return err
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return n, err
		}
		for i, v := range values {
			if v, err = takes[i].value(v); err != nil {
				return n, fmt.Errorf("column %s: %w", columns[i], err)
			}
			switch v := v.(type) {
			case []byte:
				size += len(v)
			case string:
				size += len(v)
			}
			batch = append(batch, v)
		}
		if pending++; pending == copyRows || size >= copyBytes {
			if err := flush(); err != nil {
				return n, err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return n, err
	}
	return n, flush()
}

// holds is what a column holds, whatever the database calls it.
type holds int

const (
	holdsAny holds = iota
	holdsBool
	holdsTime
	holdsText
	holdsBytes
)

// columns are those of a table, and what each takes.
func (s *Store) columns(ctx context.Context, table string) (names []string, takes []holds, err error) {
	rows, err := s.db.QueryContext(ctx, s.root.db.Formatter().FormatQuery("SELECT * FROM ? WHERE 1 = 0", bun.Ident(table)))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	types, err := rows.ColumnTypes()
	if err != nil {
		return nil, nil, err
	}
	for _, t := range types {
		names = append(names, t.Name())
		takes = append(takes, holdsOf(t))
	}
	return names, takes, rows.Err()
}

func holdsOf(t *sql.ColumnType) holds {
	switch name := strings.ToUpper(t.DatabaseTypeName()); {
	case strings.HasPrefix(name, "BOOL"), name == "TINYINT":
		return holdsBool
	case strings.HasPrefix(name, "TIMESTAMP"), name == "DATETIME":
		return holdsTime
	case name == "BYTEA", strings.HasSuffix(name, "BLOB"), strings.HasSuffix(name, "BINARY"):
		return holdsBytes
	case strings.HasSuffix(name, "TEXT"), strings.HasSuffix(name, "CHAR"), strings.HasPrefix(name, "JSON"):
		return holdsText
	}
	return holdsAny
}

// times as SQLite keeps them.
var times = []string{"2006-01-02 15:04:05.999999999-07:00", time.RFC3339Nano, "2006-01-02 15:04:05.999999999"}

// value is a value as a column takes it that was read from another database.
func (h holds) value(v any) (any, error) {
	b, isBytes := v.([]byte)
	text, isText := v.(string)
	switch {
	case v == nil:
		return nil, nil
	case h == holdsBool:
		switch v := v.(type) {
		case bool:
			return v, nil
		case int64:
			return v != 0, nil
		}
	case h == holdsTime:
		if t, ok := v.(time.Time); ok {
			return t.UTC(), nil
		}
		if isBytes {
			text, isText = string(b), true
		}
		for _, layout := range times {
			if t, err := time.Parse(layout, text); isText && err == nil {
				return t.UTC(), nil
			}
		}
	case h == holdsText && isBytes:
		return string(b), nil
	case h == holdsBytes && isText:
		return []byte(text), nil
	case isBytes && h == holdsAny: // a decimal number
		return string(b), nil
	case isBytes:
		return append([]byte(nil), b...), nil
	default:
		return v, nil
	}
	return nil, fmt.Errorf("cannot take over %T %v", v, v)
}
