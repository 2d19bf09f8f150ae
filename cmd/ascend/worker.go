package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"

	"ascend/internal/engine"
	"ascend/internal/restore"
	"ascend/internal/server/api"
	"ascend/internal/server/fleet"
	"ascend/internal/server/restores"
	"ascend/internal/server/storage"
	"ascend/internal/store"
	"ascend/internal/target/all"
	"ascend/internal/vault"
)

type workerFlags struct {
	serverFlags
	temporal      temporalFlags
	site          string
	regions       []string
	jobs          int
	wait          time.Duration
	liveness      time.Duration
	level, format string
}

func (a *app) workerCommand() *cobra.Command {
	var s workerFlags
	c := &cobra.Command{
		Use:   "worker --site NAME",
		Short: "carry out the jobs of a server on this machine, beside others",
		Long: `Carry out jobs of a server that was started with "ascend serve --engine temporal".
A worker shares the server's database and its key of secrets, and reads backups
and writes to targets by itself: no byte of a disk passes through the server.

Workers belong to a site, a place from which the same repositories can be read
and the same targets reached. A job goes to a site that can read its repository,
rather one near the target's region (--region), then the one with the least to
do. Within a site one worker holds a job; when it is lost, another goes on with
it where it stopped, and what the lost one still tries is refused.

Repositories are folders: mount them at the path that the server knows them by. A
worker says every few seconds which of them it can read ("ascend workers ls").

SIGTERM and Ctrl-C hand the jobs over to other workers of the site; with
--finish the worker first waits for them to end. "ascend workers drain" has it
take no more jobs and end after its last. A newer version may be started beside
an older one: see docs/scale.md.`,
		Example: `  ascend worker --site berlin --database-file /etc/ascend/database --key file:/etc/ascend/server.key
  ascend worker --site frankfurt --region eu-central-1 --jobs 8 --temporal temporal.example.org:7233`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.work(c.Context(), &s) },
	}
	s.register(c)
	s.temporal.register(c)
	f := c.Flags()
	f.StringVar(&s.site, "site", os.Getenv("ASCEND_SITE"), "`NAME` of the place this machine is at (default $ASCEND_SITE)")
	f.StringArrayVar(&s.regions, "region", nil, "`REGION` of a cloud that is near, as eu-central-1 or westeurope; may be repeated")
	f.IntVar(&s.jobs, "jobs", 4, "jobs at once")
	f.DurationVar(&s.wait, "finish", 0, "at a stop, wait up to this `time` for jobs to end before the rest is handed over")
	f.DurationVar(&s.liveness, "liveness", 15*time.Second, "after this `time` without a sign of life another worker takes the jobs over")
	f.StringVar(&s.level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&s.format, "log-format", "auto", "text, json, or auto: text on a terminal")
	complete(c, "log-level", "debug", "info", "warn", "error")
	complete(c, "log-format", "auto", "text", "json")
	return c
}

var siteName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// work is a worker's life.
func (a *app) work(ctx context.Context, s *workerFlags) error {
	switch {
	case !siteName.MatchString(s.site):
		return usageError{errors.New("--site NAME is wanted: letters, digits and dashes, at most 64")}
	case s.jobs < 1 || s.jobs > 1000:
		return usageError{errors.New("--jobs is 1 to 1000")}
	case s.liveness < 2*time.Second || s.liveness > time.Hour:
		return usageError{errors.New("--liveness is 2s to 1h")}
	}
	log, err := newLog(os.Stderr, s.level, s.format)
	if err != nil {
		return err
	}
	w, err := a.joinFleet(ctx, s, log)
	if err != nil {
		return err
	}
	defer w.leave()
	if err := w.start(ctx); err != nil {
		return errors.Join(withHint(err, "see %s", "docs/scale.md"), w.stop(true))
	}
	log.Info("working", "worker", w.id, "site", s.site, "jobs", s.jobs, "version", version, "data", w.dir, "database", w.db.String())
	drained := w.attend(ctx)
	log.Info("stopping", "worker", w.id, "held", w.engine.Held(), "drained", drained)
	return w.stop(drained)
}

// member is this machine as a worker.
type member struct {
	s       *workerFlags
	log     *slog.Logger
	id, dir string
	lock    *flock.Flock
	db      *store.Store
	records *storage.Store
	vault   *vault.Vault
	fleet   *fleet.Fleet
	scanner *api.Scanner
	limits  *api.SettingsStore
	svc     *restore.Service
	engine  *engine.Temporal
	reach   *fleet.Reach
	began   time.Time
}

// joinFleet opens what all machines share. It makes and migrates nothing there:
// that is the server's.
func (a *app) joinFleet(ctx context.Context, s *workerFlags, log *slog.Logger) (_ *member, err error) {
	dir := s.data
	if dir == "" {
		if dir = os.Getenv("ASCEND_DATA_DIR"); dir == "" {
			dir = filepath.Join(a.state(), "worker")
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the data folder: %w", err)
	}
	m := &member{s: s, log: log, dir: dir, id: workerID(), began: time.Now().UTC().Truncate(time.Second), lock: flock.New(filepath.Join(dir, "worker.lock"))}
	defer func() {
		if err != nil {
			m.leave()
		}
	}()
	// The journals of disks under way stand there: two workers would write over each
	// other's.
	if ok, err := m.lock.TryLock(); err != nil || !ok {
		return nil, withHint(errors.Join(fmt.Errorf("another worker uses the folder %s", dir), err), "give each worker of this machine a folder of its own: --data DIR")
	}
	src, err := s.keySource(dir)
	if err != nil {
		return nil, err
	}
	const same = "a worker has the key of its server: --key, or $ASCEND_KEY_SOURCE"
	key, err := src.Load(false)
	if err != nil {
		return nil, withHint(err, same)
	}
	if m.vault, err = vault.New(key); err != nil {
		return nil, err
	}
	dsn, err := s.dsn(dir)
	if err != nil {
		return nil, err
	}
	if d, err := store.ParseDSN(dsn.Reveal()); err == nil && d.Kind == store.SQLite {
		return nil, withHint(errors.New("a worker shares its server's database, and SQLite cannot be shared"), "name the server's PostgreSQL or MariaDB: --database-file, or $ASCEND_DATABASE")
	}
	if m.db, err = store.Open(ctx, dsn.Reveal(), store.Options{NoMigrate: true, Log: log}); err != nil {
		return nil, withHint(err, "start the server of this version first: it makes and migrates the schema")
	}
	m.records = storage.New(m.db)
	m.fleet, m.scanner, m.limits = fleet.New(m.records), api.NewScanner(m.records, log), api.NewSettings(m.records, m.vault)
	m.reach = fleet.NewReach()
	receipts, err := fleet.Key(ctx, m.records, m.vault, nil)
	if errors.Is(err, fleet.ErrNoKey) {
		return nil, withHint(err, "start the server first: ascend serve --engine temporal")
	}
	if err != nil {
		return nil, withHint(err, same)
	}
	targets := api.NewTargets(m.records, m.vault, all.Registry())
	m.svc, err = restore.New(restore.Config{
		Store: restore.Tables(m.db), Resolver: restores.Resolver{Targets: targets, Scanner: m.scanner}, Dir: dir, Key: receipts, Software: software(), Log: log, Shared: true,
		Engine: func(h engine.Handlers) (engine.Engine, error) {
			o, err := s.temporal.options(log)
			if err != nil {
				return nil, err
			}
			o.Site, o.Jobs, o.Worker, o.Liveness, o.Held = s.site, s.jobs, m.id, s.liveness, true
			m.engine, err = newTemporal(ctx, m.db, h, o)
			return m.engine, err
		},
	})
	return m, err
}

// workerID names this process; it is never used again.
func workerID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "worker"
	}
	host = strings.Trim(regexp.MustCompile(`[^A-Za-z0-9.-]+`).ReplaceAllString(host, "-"), "-.")
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%.60s-%s", host, hex.EncodeToString(b[:]))
}

// start begins to take jobs, after the others know of this worker.
func (m *member) start(ctx context.Context) error {
	if _, err := m.beat(ctx, false); err != nil {
		return err
	}
	m.sweep(ctx)
	return m.engine.Work(ctx)
}

// sweepEvery is the time between two looks for what lost jobs have left here.
const sweepEvery = time.Minute

func (m *member) sweep(ctx context.Context) {
	if err := m.svc.Sweep(ctx); err != nil && ctx.Err() == nil {
		m.log.Warn("cannot clean up after jobs that went on elsewhere", "error", err)
	}
}

// beat says that this worker lives and how it is, and takes over the limits.
func (m *member) beat(ctx context.Context, draining bool) (drain bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*fleet.Every)
	defer cancel()
	repositories, err := m.scanner.Table.All(ctx, "")
	if err != nil {
		return false, err
	}
	folders := map[string]string{}
	for _, d := range repositories {
		folders[d.ID] = d.Value.Path
	}
	host, _ := os.Hostname()
	drain, err = m.fleet.Beat(ctx, m.id, fleet.Worker{
		Site: m.s.site, Host: host, PID: os.Getpid(), Version: version, Driver: engine.Driver, Regions: m.s.regions, Repositories: m.reach.Of(folders),
		Jobs: m.engine.Held(), Capacity: m.s.jobs, Draining: draining, Started: m.began,
	})
	if err != nil {
		return drain, err
	}
	set, err := m.limits.Get(ctx)
	if err != nil {
		return drain, err
	}
	list, err := m.fleet.List(ctx)
	if err != nil {
		return drain, err
	}
	l := fleet.Share(set.Value.Limits, list)
	m.svc.SetLimits(restore.Limits{Jobs: l.Jobs, Disks: l.Disks, Bandwidth: l.Bandwidth, Requests: l.Requests})
	return drain, nil
}

// attend gives signs of life until ctx ends, or until this worker was told to
// drain and holds nothing any more.
func (m *member) attend(ctx context.Context) (drained bool) {
	tick, sweep := time.NewTicker(fleet.Every), time.NewTicker(sweepEvery)
	defer tick.Stop()
	defer sweep.Stop()
	var empty chan struct{}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-empty:
			return true
		case <-sweep.C:
			m.sweep(ctx)
			continue
		case <-tick.C:
		}
		drain, err := m.beat(ctx, empty != nil)
		if err != nil && ctx.Err() == nil {
			m.log.Warn("cannot give a sign of life", "error", err)
		}
		if drain && empty == nil {
			m.log.Info("draining: no more jobs are taken", "held", m.engine.Held())
			empty = make(chan struct{})
			go func(done chan struct{}) {
				if m.engine.Drain(ctx) == nil {
					close(done)
				}
			}(empty)
			if _, err := m.beat(ctx, true); err != nil && ctx.Err() == nil {
				m.log.Warn("cannot give a sign of life", "error", err)
			}
		}
	}
}

// stop ends the work: what is still held is checkpointed and handed over.
func (m *member) stop(drained bool) error {
	if m.s.wait > 0 && !drained {
		ctx, cancel := context.WithTimeout(context.Background(), m.s.wait)
		beats := make(chan struct{})
		go func() {
			defer close(beats)
			tick := time.NewTicker(fleet.Every)
			defer tick.Stop()
			for {
				if _, err := m.beat(ctx, true); err != nil && ctx.Err() == nil {
					m.log.Warn("cannot give a sign of life", "error", err)
				}
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		}()
		if err := m.engine.Drain(ctx); err != nil {
			m.log.Info("handing over what has not ended in time", "held", m.engine.Held())
		}
		cancel()
		<-beats
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := m.svc.Close(ctx)
	if err != nil {
		m.log.Warn("cannot stop every step in time; others go on from its last checkpoint", "error", err)
	}
	m.sweep(ctx)
	return errors.Join(err, m.fleet.Leave(ctx, m.id))
}

// leave closes what was opened.
func (m *member) leave() {
	if m.db != nil {
		_ = m.db.Close()
	}
	_ = m.lock.Unlock()
}
