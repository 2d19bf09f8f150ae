package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"ascend/internal/engine"
	"ascend/internal/restore"
	"ascend/internal/server/api"
	apijobs "ascend/internal/server/jobs"
	"ascend/internal/server/restores"
)

// runner carries a server's jobs out.
type runner struct {
	a   *app
	d   *opened
	log *slog.Logger
	svc *restore.Service
}

func (a *app) newRunner(d *opened, log *slog.Logger) *runner { return &runner{a: a, d: d, log: log} }

func (r *runner) start(t *api.Targets, s *api.Scanner) (apijobs.Service, error) {
	key, err := restore.SigningKey(filepath.Join(r.d.dir, "receipt.key"))
	if err != nil {
		return nil, err
	}
	r.svc, err = restore.New(restore.Config{
		Store: restore.Tables(r.d.db), Resolver: restores.Resolver{Targets: t, Scanner: s}, Dir: r.d.dir, Key: key, Software: software(), Log: r.log,
		Engine: func(h engine.Handlers) (engine.Engine, error) {
			return engine.NewLocal(r.d.db, h, engine.LocalOptions{Jobs: 1 << 10, Log: r.log}), nil // the service bounds them
		},
	})
	if err != nil {
		return nil, err
	}
	return restores.New(r.d.db, restores.Restores{Service: r.svc}), nil
}

// recover goes on with what the last stop left unfinished.
func (r *runner) recover(ctx context.Context) error { return r.svc.Recover(ctx) }

// stop has running steps checkpoint.
func (r *runner) stop(log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.svc.Close(ctx); err != nil {
		log.Warn("cannot stop every job in time; they go on from their last checkpoint", "error", err)
	}
}
