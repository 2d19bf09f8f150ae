package store

import (
	"context"
	"database/sql"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"github.com/gofrs/flock"
)

const lockPoll = 50 * time.Millisecond

// serverLock is the right to be the one server of a database. A nil one is not held.
type serverLock struct {
	file *flock.Flock
	lost chan struct{}
	stop context.CancelFunc
	done sync.WaitGroup
}

// lockServer takes the one-server lock or returns ErrLocked.
func (s *Store) lockServer(ctx context.Context) (*serverLock, error) {
	if s.kind == SQLite {
		l := flock.New(s.root.dsn.Path + ".lock")
		ok, err := l.TryLock()
		if err != nil {
			return nil, fmt.Errorf("cannot lock %s: %w", l.Path(), err)
		}
		if !ok {
			return nil, fmt.Errorf("%s is %w: stop the other ascend server first", s.root.dsn, ErrLocked)
		}
		return &serverLock{file: l, lost: make(chan struct{}), stop: func() {}}, nil
	}
	c, err := s.root.sql.Conn(ctx)
	if err != nil {
		return nil, s.words("connect", err)
	}
	name := s.root.dsn.lockName()
	// The session of a server that was killed lives on for a moment.
	if err := namedLock(ctx, s.kind, c, name, 5); err != nil {
		c.Close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &serverLock{lost: make(chan struct{}), stop: cancel}
	l.done.Add(1)
	go func() {
		defer l.done.Done()
		s.keep(ctx, l, c, name)
	}()
	return l, nil
}

// keep holds the session that holds the lock, and takes the lock again when the
// session broke; it is lost only when someone else has it by then.
func (s *Store) keep(ctx context.Context, l *serverLock, c *sql.Conn, name string) {
	defer func() { c.Close() }()
	t := time.NewTicker(2 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			namedUnlock(s.kind, c, name)
			return
		case <-t.C:
		}
		if c.PingContext(ctx) == nil {
			continue
		}
		again, err := s.root.sql.Conn(ctx)
		if err != nil {
			continue // the server is gone, and with it everybody's lock
		}
		c.Close()
		c = again
		// The broken session may live on at the server for a moment.
		if err := namedLock(ctx, s.kind, c, name, 5); err != nil && ctx.Err() == nil {
			if c.PingContext(ctx) != nil {
				continue
			}
			s.root.log.Error("the one-server lock was lost to another server", "database", s.root.dsn.String())
			close(l.lost)
			return
		}
	}
}

func (l *serverLock) release() {
	if l == nil {
		return
	}
	l.stop()
	l.done.Wait()
	if l.file != nil {
		_ = l.file.Unlock()
	}
}

// namedLock takes a lock of the session, waiting so many seconds.
func namedLock(ctx context.Context, k Kind, c *sql.Conn, name string, seconds int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds+10)*time.Second)
	defer cancel()
	for start := time.Now(); ; {
		var got sql.NullBool
		var err error
		if k == MySQL {
			err = c.QueryRowContext(ctx, "SELECT GET_LOCK(?, 0) = 1", name).Scan(&got)
		} else {
			err = c.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1)", lockNumber(name)).Scan(&got)
		}
		if err != nil {
			return fmt.Errorf("cannot lock the database: %w", err)
		}
		if got.Bool {
			return nil
		}
		if time.Since(start) >= time.Duration(seconds)*time.Second {
			return fmt.Errorf("the database is %w: stop the other ascend server first", ErrLocked)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

func namedUnlock(k Kind, c *sql.Conn, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	// An error means that the session is gone, and the lock with it.
	if k == MySQL {
		_, _ = c.ExecContext(ctx, "SELECT RELEASE_LOCK(?)", name)
	} else {
		_, _ = c.ExecContext(ctx, "SELECT pg_advisory_unlock($1)", lockNumber(name))
	}
}

func lockNumber(name string) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return int64(h.Sum64()) //nolint:gosec // any number does
}
