package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"ascend/internal/engine"
	"ascend/internal/restore"
	"ascend/internal/server/api"
	"ascend/internal/server/fleet"
	apijobs "ascend/internal/server/jobs"
	"ascend/internal/server/restores"
	"ascend/internal/server/storage"
)

// runner has a server's jobs carried out: here, or by workers.
type runner struct {
	d     *opened
	log   *slog.Logger
	svc   *restore.Service
	sites *restores.Sites // nil: here

	handing sync.WaitGroup
	end     context.CancelFunc
}

// start is server.Options.Jobs. temporal says where the cluster is whose workers
// carry jobs out; nil: this process does.
func (r *runner) start(ctx context.Context, temporal *temporalFlags, t *api.Targets, s *api.Scanner) (apijobs.Service, error) {
	key, err := restore.SigningKey(filepath.Join(r.d.dir, "receipt.key"))
	if err != nil {
		return nil, err
	}
	drive := func(h engine.Handlers) (engine.Engine, error) {
		return engine.NewLocal(r.d.db, h, engine.LocalOptions{Jobs: 1 << 10, Log: r.log}), nil // the service bounds them
	}
	if temporal != nil {
		o, err := temporal.options(r.log)
		if err != nil {
			return nil, err
		}
		o.ClientOnly = true
		drive = func(h engine.Handlers) (engine.Engine, error) { return newTemporal(ctx, r.d.db, h, o) }
		st := storage.New(r.d.db)
		if key, err = fleet.Key(ctx, st, r.d.vault, key); err != nil {
			return nil, err
		}
		r.sites = &restores.Sites{Fleet: fleet.New(st), Store: r.d.db, Scanner: s, Targets: t}
	} else if err := r.alone(ctx); err != nil {
		return nil, err
	}
	r.svc, err = restore.New(restore.Config{
		Store: restore.Tables(r.d.db), Resolver: restores.Resolver{Targets: t, Scanner: s}, Dir: r.d.dir, Key: key, Software: software(), Log: r.log, Engine: drive, Shared: r.sites != nil,
	})
	if err != nil {
		return nil, err
	}
	return restores.New(r.d.db, restores.Restores{Service: r.svc, Sites: r.sites}), nil
}

// alone sees to it that no workers carry out what this process is about to.
func (r *runner) alone(ctx context.Context) error {
	workers, err := fleet.New(storage.New(r.d.db)).List(ctx)
	if err != nil {
		return err
	}
	for _, w := range workers {
		if w.Alive {
			return withHint(fmt.Errorf("worker %s of site %s is at work for this database, or was half a minute ago", w.ID, w.Site), "serve with --engine temporal, or stop the workers first")
		}
	}
	return nil
}

// recover goes on with what the last stop left unfinished.
func (r *runner) recover(ctx context.Context) error {
	if r.sites == nil {
		return r.svc.Recover(ctx)
	}
	ctx, r.end = context.WithCancel(ctx)
	r.handing.Go(func() { r.sites.HandOver(ctx, r.svc, r.log) })
	return nil
}

// stop has running steps checkpoint.
func (r *runner) stop(log *slog.Logger) {
	if r.end != nil {
		r.end()
		r.handing.Wait()
	}
	if r.svc == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.svc.Close(ctx); err != nil {
		log.Warn("cannot stop every job in time; they go on from their last checkpoint", "error", err)
	}
}
