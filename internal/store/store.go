// Package store keeps what must survive: jobs, steps and their checkpoints,
// resources made on targets, backups, targets, events, audit, users and
// settings, in SQLite (embedded), MariaDB/MySQL or PostgreSQL. The tables are
// the truth; docs/store.md says what each column means. Package store alone
// speaks SQL.
//
// Every method is one transaction and is safe for concurrent use. A method that
// meets a database that does not answer waits and tries again, up to
// Options.Patience or the context's end, and Trouble tells so in words. Methods
// that change something are idempotent under such a repetition.
//
// Lists are ordered by a sequence number that the database hands out, never by
// a clock; identifiers are ULIDs.
package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/mysqldialect"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
)

// Errors a caller tells apart.
var (
	// ErrNotFound: no such row.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the row's version is not the one given: someone changed it.
	ErrConflict = errors.New("changed by someone else in the meantime")
	// ErrExists: a name or key that must be unique is taken.
	ErrExists = errors.New("already exists")
	// ErrInUse: other rows refer to this one.
	ErrInUse = errors.New("still in use")
	// ErrState: the job's state does not allow it.
	ErrState = errors.New("not possible in the job's state")
	// ErrFenced: a later attempt of the step, or another driver of the job, has begun.
	ErrFenced = errors.New("another worker has taken this step over")
	// ErrCancelled: the job is to be cancelled.
	ErrCancelled = errors.New("job cancelled")
	// ErrUnavailable: the database did not answer for as long as was waited.
	ErrUnavailable = errors.New("the database does not answer")
	// ErrDiskFull: the database cannot write for want of space.
	ErrDiskFull = errors.New("no space left where the database is kept")
	// ErrLocked: another process uses the data.
	ErrLocked = errors.New("in use by another process")
)

// Options of Open.
type Options struct {
	// Exclusive holds the one-server lock for as long as the store is open: a
	// lock file beside an SQLite database, a named lock in the others.
	Exclusive bool
	// Patience bounds how long a method waits for a database that does not
	// answer; 0: a minute.
	Patience time.Duration
	// Log receives what happens to the connection; nil: nothing is logged.
	Log *slog.Logger
	// NoMigrate leaves the schema as it is and fails when it is not current.
	NoMigrate bool
}

// Store is an open database. Create one with Open.
type Store struct {
	db   bun.IDB // the database, or the transaction in which Tx runs
	root *shared
	isTx bool
	kind Kind
}

// shared is what a store and its transactions have in common.
type shared struct {
	db       *bun.DB
	sql      *sql.DB
	dsn      DSN
	patience time.Duration
	log      *slog.Logger
	lock     *serverLock

	mu      sync.Mutex
	trouble error
	since   time.Time
}

// Open opens the database that dsn names, makes or migrates its schema, and
// takes the one-server lock if asked. It retries a server that does not answer
// yet. See ParseDSN for the forms of dsn.
func Open(ctx context.Context, dsn string, o Options) (*Store, error) {
	d, err := ParseDSN(dsn)
	if err != nil {
		return nil, err
	}
	if o.Patience == 0 {
		o.Patience = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	sdb, err := d.open()
	if err != nil {
		return nil, fmt.Errorf("cannot open database %s: %w", d, err)
	}
	sh := &shared{sql: sdb, dsn: d, patience: o.Patience, log: o.Log}
	switch d.Kind {
	case SQLite:
		sh.db = bun.NewDB(sdb, sqlitedialect.New())
	case MySQL:
		sh.db = bun.NewDB(sdb, mysqldialect.New(mysqldialect.WithTimeLocation("UTC")))
	case Postgres:
		sh.db = bun.NewDB(sdb, pgdialect.New())
	}
	s := &Store{db: sh.db, root: sh, kind: d.Kind}
	fail := func(err error) (*Store, error) {
		_ = s.Close()
		return nil, fmt.Errorf("cannot open database %s: %w", d, err)
	}
	if err := s.retry(ctx, "connect", func(ctx context.Context) error { return sdb.PingContext(ctx) }); err != nil {
		return fail(err)
	}
	if o.Exclusive {
		if sh.lock, err = s.lockServer(ctx); err != nil {
			return fail(err)
		}
	}
	if err := s.migrate(ctx, o.NoMigrate); err != nil {
		return fail(err)
	}
	return s, nil
}

// Close closes the connections and gives up the lock.
func (s *Store) Close() error {
	if s.isTx {
		return errors.New("a transaction's store is not closed")
	}
	s.root.lock.release()
	return s.root.db.Close()
}

// Kind is the kind of database.
func (s *Store) Kind() Kind { return s.kind }

// String names the database without its password.
func (s *Store) String() string { return s.root.dsn.String() }

// Lost is closed when the one-server lock was lost to another process, which
// can happen when a database server was gone for a while; the server must then
// stop driving jobs. It is nil without Options.Exclusive.
func (s *Store) Lost() <-chan struct{} {
	if s.root.lock == nil {
		return nil
	}
	return s.root.lock.lost
}

// Ping asks the database for a sign of life, without waiting for a lost one.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	return s.words("reach the database", s.db.NewSelect().ColumnExpr("1").Scan(ctx, &one))
}

// Trouble is since when, and what, keeps the database from answering; nil
// while it answers.
func (s *Store) Trouble() (since time.Time, err error) {
	s.root.mu.Lock()
	defer s.root.mu.Unlock()
	return s.root.since, s.root.trouble
}

// Tx runs fn in one transaction. The store it is given is only good within fn,
// which must have no other effects: it is called again when the database did
// not answer or chose this transaction to end a deadlock.
func (s *Store) Tx(ctx context.Context, fn func(*Store) error) error {
	return s.tx(ctx, "write", fn)
}

func (s *Store) tx(ctx context.Context, what string, fn func(*Store) error) error {
	if s.isTx {
		return fn(s)
	}
	opts := &sql.TxOptions{}
	if s.kind != SQLite {
		opts.Isolation = sql.LevelReadCommitted
	}
	return s.retry(ctx, what, func(ctx context.Context) error {
		return s.root.db.RunInTx(ctx, opts, func(_ context.Context, t bun.Tx) error {
			return fn(&Store{db: t, root: s.root, isTx: true, kind: s.kind})
		})
	})
}

// read runs a query, again while the database does not answer.
func (s *Store) read(ctx context.Context, what string, fn func(ctx context.Context) error) error {
	if s.isTx {
		return s.words(what, fn(ctx))
	}
	return s.retry(ctx, what, fn)
}

// next takes n numbers of a counter and returns the first. The counter's row
// stays locked until the transaction ends, so that numbers become visible in
// their order: a reader who has seen n has seen every number below. It is
// called last in a transaction.
func (s *Store) next(ctx context.Context, counter string, n int64) (int64, error) {
	if _, err := s.db.NewRaw("UPDATE counters SET val = val + ? WHERE name = ?", n, counter).Exec(ctx); err != nil {
		return 0, err
	}
	var v int64
	err := s.db.NewRaw("SELECT val FROM counters WHERE name = ?", counter).Scan(ctx, &v)
	return v - n + 1, err
}

var entropy = struct {
	sync.Mutex
	*ulid.MonotonicEntropy
}{MonotonicEntropy: ulid.Monotonic(rand.Reader, 0)}

// NewID makes a ULID. Those of one process ascend, as long as its clock does.
func NewID() string {
	entropy.Lock()
	defer entropy.Unlock()
	id, err := ulid.New(ulid.Timestamp(now()), entropy.MonotonicEntropy)
	if err != nil { // the entropy of this millisecond overflowed
		return ulid.Make().String()
	}
	return id.String()
}

// skew is added to the clock, in nanoseconds.
var skew atomic.Int64

// Skew shifts what the stores of this process take for the time: for tests of
// clocks that jump.
func Skew(d time.Duration) { skew.Store(int64(d)) }

// now is the time to the microsecond, which every database keeps.
func now() time.Time {
	return time.Now().Add(time.Duration(skew.Load())).UTC().Truncate(time.Microsecond)
}

// cut shortens a string to n bytes at a character's boundary.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}

// Longest texts kept, in bytes.
const (
	maxName = 255
	maxText = 16 << 10
)
