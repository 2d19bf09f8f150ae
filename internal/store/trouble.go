package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// class is what an error of a database asks for.
type class int

const (
	final    class = iota // not to be tried again
	again                 // to be tried again at once: a deadlock, a busy database
	gone                  // the database does not answer
	full                  // no space
	exists                // a unique key is taken
	referred              // a foreign key is in the way
)

func classify(err error) class {
	var se *sqlite.Error
	var me *mysql.MySQLError
	var pe *pgconn.PgError
	var ne net.Error
	switch {
	case errors.As(err, &se):
		return classifySQLite(se)
	case errors.As(err, &me):
		return classifyMySQL(me)
	case errors.As(err, &pe):
		return classifyPostgres(pe)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return final
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return full
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, mysql.ErrInvalidConn), errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, sql.ErrConnDone),
		errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.As(err, &ne), pgconn.Timeout(err), pgconn.SafeToRetry(err):
		return gone
	// A server's socket that is not there (yet).
	case errors.Is(err, syscall.ENOENT) && strings.Contains(err.Error(), "dial"):
		return gone
	}
	return final
}

// Codes: sqlite.org/rescode.html.
func classifySQLite(e *sqlite.Error) class {
	switch e.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return exists
	case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return referred
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return again
	case sqlite3.SQLITE_FULL:
		return full
	case sqlite3.SQLITE_IOERR:
		// A write that fails half-way is a full disk far more often than a
		// broken one, and SQLite does not tell them apart.
		switch e.Code() {
		case sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_TRUNCATE, sqlite3.SQLITE_IOERR_SHMSIZE:
			return full
		}
	}
	return final
}

// Numbers: MariaDB's and MySQL's error references agree on these.
func classifyMySQL(e *mysql.MySQLError) class {
	switch e.Number {
	case 1205, 1213: // lock wait timeout, deadlock
		return again
	case 1040, 1053, 1077, 1079, 1129, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1226, 1927, 2006, 2013, 4031:
		return gone
	case 1021, 1114, 1041, 3, 28, 1030, 1026:
		if e.Number == 1030 || e.Number == 1026 || e.Number == 3 {
			if !strings.Contains(strings.ToLower(e.Message), "space") && !strings.Contains(e.Message, "28") {
				return final
			}
		}
		return full
	case 1062, 1586:
		return exists
	case 1451, 1452, 1216, 1217:
		return referred
	}
	return final
}

// Codes: PostgreSQL's appendix A.
func classifyPostgres(e *pgconn.PgError) class {
	switch {
	case e.Code == "40001", e.Code == "40P01", e.Code == "55P03":
		return again
	case e.Code == "53100":
		return full
	case strings.HasPrefix(e.Code, "08"), strings.HasPrefix(e.Code, "57P"), e.Code == "53300", e.Code == "53400":
		return gone
	case e.Code == "23505":
		return exists
	case e.Code == "23503":
		return referred
	}
	return final
}

// words gives an error the form people read and callers tell apart.
func (s *Store) words(what string, err error) error {
	if err == nil {
		return nil
	}
	for _, own := range []error{ErrNotFound, ErrConflict, ErrExists, ErrInUse, ErrState, ErrFenced, ErrCancelled, ErrUnavailable, ErrDiskFull} {
		if errors.Is(err, own) {
			return err
		}
	}
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("cannot %s: %w", what, ErrNotFound)
	}
	switch classify(err) {
	case exists:
		return fmt.Errorf("cannot %s: %w (%w)", what, ErrExists, err)
	case referred:
		return fmt.Errorf("cannot %s: %w (%w)", what, ErrInUse, err)
	case full:
		return fmt.Errorf("cannot %s: %w: free some space for %s (%w)", what, ErrDiskFull, s.root.dsn, err)
	case gone, again:
		return fmt.Errorf("cannot %s: %w (%w)", what, ErrUnavailable, err)
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}

// retry calls fn until it succeeds, fails for good, or patience or the context
// ends. Waits grow from 20 ms to 1 s.
func (s *Store) retry(ctx context.Context, what string, fn func(context.Context) error) error {
	start := time.Now() // its monotonic reading: a clock that jumps changes nothing
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := fn(ctx)
		c := final
		if err != nil {
			c = classify(err)
		}
		if c == gone || c == full {
			s.root.setTrouble(s.words(what, err))
		} else if ctx.Err() == nil {
			s.root.setTrouble(nil)
		}
		if err == nil {
			return nil
		}
		// A full disk is told at once: whoever can wait for space does so itself.
		if c != gone && c != again {
			return s.words(what, err)
		}
		if left := s.root.patience - time.Since(start); left < wait {
			return fmt.Errorf("cannot %s: %w for %s: %w", what, ErrUnavailable, time.Since(start).Round(time.Second), err)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("cannot %s: %w (%w): %w", what, ErrUnavailable, err, ctx.Err())
		case <-t.C:
		}
	}
}

func (sh *shared) setTrouble(err error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	switch {
	case err != nil && sh.trouble == nil:
		sh.since = time.Now()
		sh.log.Warn("database in trouble, waiting for it", "database", sh.dsn.String(), "error", err)
	case err == nil && sh.trouble != nil:
		sh.log.Info("database answers again", "database", sh.dsn.String(), "after", time.Since(sh.since).Round(time.Millisecond))
		sh.since = time.Time{}
	}
	sh.trouble = err
}

// IsTrouble tells whether an error is the database's state (gone, full) and
// not the deed's: the same deed may succeed later.
func IsTrouble(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDiskFull)
}
