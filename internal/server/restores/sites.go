package restores

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"ascend/internal/restore"
	"ascend/internal/server/api"
	"ascend/internal/server/fleet"
	"ascend/internal/server/jobs"
	"ascend/internal/store"
)

// Sites give jobs to the workers that carry them out.
type Sites struct {
	Fleet   *fleet.Fleet
	Store   *store.Store
	Scanner *api.Scanner
	Targets *api.Targets
}

// place chooses the site of a job that reads a repository, by its folder, and
// writes to a target; wanted is the site that was asked for, if any.
func (s *Sites) place(ctx context.Context, folder, target, wanted string) (string, error) {
	need := fleet.Need{Region: s.Targets.Region(ctx, target), Site: wanted, Load: map[string]int{}}
	repositories, err := s.Scanner.Table.All(ctx, "")
	if err != nil {
		return "", err
	}
	for _, d := range repositories {
		if d.Value.Path == filepath.Clean(folder) {
			need.Repository = d.ID
			break
		}
	}
	if need.Repository == "" {
		return "", fmt.Errorf("%s is no longer a repository of this server", folder)
	}
	for page := (store.Page{Limit: 1000}); ; {
		l, err := s.Store.Jobs(ctx, store.JobFilter{Unfinished: true}, page)
		if err != nil {
			return "", err
		}
		for i := range l.Items {
			need.Load[l.Items[i].Site]++
		}
		if page.Cursor = l.Next; page.Cursor == "" {
			break
		}
	}
	workers, err := s.Fleet.List(ctx)
	if err != nil {
		return "", err
	}
	site, err := fleet.Place(workers, need)
	if errors.Is(err, fleet.ErrNoSite) {
		err = fmt.Errorf("%w: %w", jobs.ErrNoWorker, err)
	}
	return site, err
}

// handEvery is the time between two looks for jobs that were not handed over.
const handEvery = 5 * time.Second

// HandOver hands jobs over that nobody was given yet, until ctx ends: those that
// the last stop left, those that came from a server that carried them out itself,
// and those that came while the workers' engine did not answer.
func (s *Sites) HandOver(ctx context.Context, svc *restore.Service, log *slog.Logger) {
	handed, told := map[string]bool{}, map[string]bool{}
	tick := time.NewTicker(handEvery)
	defer tick.Stop()
	for {
		ids, err := s.Store.UnfinishedJobs(ctx)
		if err != nil && ctx.Err() == nil {
			log.Warn("cannot look for jobs to hand over", "error", err)
		}
		still := map[string]bool{}
		for _, id := range ids {
			if !handed[id] {
				err := s.hand(ctx, svc, id)
				if err != nil && ctx.Err() == nil && !told[id] {
					log.Warn("a job waits until it can be handed over", "job", id, "error", err)
					told[id] = true
				}
				if err != nil {
					continue
				}
			}
			still[id] = true
		}
		if err == nil {
			handed = still
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Sites) hand(ctx context.Context, svc *restore.Service, id string) error {
	j, err := s.Store.Job(ctx, id)
	if err != nil {
		return err
	}
	if j.Site == "" {
		spec, err := svc.Spec(ctx, id)
		if err != nil {
			return err
		}
		site, err := s.place(ctx, spec.Source.Repository, spec.Plan.Target.Name, "")
		if err != nil {
			return err
		}
		if _, err := s.Store.SetSite(ctx, id, site); err != nil {
			return err
		}
	}
	return svc.Resume(ctx, id)
}
