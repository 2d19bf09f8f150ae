package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/gofrs/flock"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*/*.sql
var migrations embed.FS

func (s *Store) provider() (*goose.Provider, error) {
	dialect := map[Kind]goose.Dialect{SQLite: goose.DialectSQLite3, MySQL: goose.DialectMySQL, Postgres: goose.DialectPostgres}[s.kind]
	dir, err := fs.Sub(migrations, "migrations/"+string(s.kind))
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(dialect, s.root.sql, dir, goose.WithDisableGlobalRegistry(true))
}

// migrate brings the schema up to date, one process at a time.
func (s *Store) migrate(ctx context.Context, onlyCheck bool) error {
	p, err := s.provider()
	if err != nil {
		return err
	}
	newest := p.ListSources()[len(p.ListSources())-1].Version
	var version int64
	check := func(ctx context.Context) error {
		version, err = p.GetDBVersion(ctx)
		return err
	}
	up := func() error {
		if err := s.retry(ctx, "read the schema's version", check); err != nil {
			return err
		}
		if version > newest {
			return fmt.Errorf("the schema is of version %d and this program knows %d: use a newer ascend", version, newest)
		}
		if version == newest {
			return nil
		}
		if onlyCheck {
			return fmt.Errorf("the schema is of version %d and this program needs %d: migrate it first", version, newest)
		}
		_, err := p.Up(ctx)
		return s.words("migrate the schema", err)
	}
	return s.alone(ctx, up)
}

// MigrateDown takes the schema back to a version; 0 removes every table with
// all it holds. For administrators and tests.
func (s *Store) MigrateDown(ctx context.Context, version int64) error {
	p, err := s.provider()
	if err != nil {
		return err
	}
	return s.alone(ctx, func() error {
		_, err := p.DownTo(ctx, version)
		return s.words("migrate the schema down", err)
	})
}

// alone runs fn while no other process migrates the same database.
func (s *Store) alone(ctx context.Context, fn func() error) error {
	if s.kind == SQLite {
		l := flock.New(s.root.dsn.Path + ".migrate")
		if _, err := l.TryLockContext(ctx, lockPoll); err != nil {
			return fmt.Errorf("cannot lock %s: %w", l.Path(), err)
		}
		defer func() { _ = l.Unlock() }()
		return fn()
	}
	c, err := s.root.sql.Conn(ctx)
	if err != nil {
		return s.words("connect", err)
	}
	defer c.Close() // closing the session gives the lock up too
	name := s.root.dsn.lockName() + "-migrate"
	if err := namedLock(ctx, s.kind, c, name, 60); err != nil {
		return err
	}
	defer namedUnlock(s.kind, c, name)
	return fn()
}
