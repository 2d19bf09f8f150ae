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

	rates rates
}

// live fills in how fast a step goes on that is at work on a worker. A nil s knows
// of none.
func (s *Sites) live(job string, step *jobs.Step) {
	if s == nil || step.Status != string(store.Running) || step.Total == 0 {
		return
	}
	now := time.Now()
	rate := s.rates.of(job+"/"+step.Name, step.Done, now)
	if rate < 1 {
		return
	}
	eta := now.UTC().Add(time.Duration(float64(step.Total-step.Done) / rate * float64(time.Second))).Truncate(time.Second)
	step.Rate, step.ETA = int64(rate), &eta
}

// place chooses the site of a job that reads a repository, by its folder, unless
// it need not (reads), and writes to a target; wanted is the site that was asked
// for, if any.
func (s *Sites) place(ctx context.Context, folder, target, wanted string, reads bool) (string, error) {
	need := fleet.Need{Region: s.Targets.Region(ctx, target), Site: wanted, Load: map[string]int{}}
	repositories, err := s.Scanner.Table.All(ctx, "")
	if err != nil {
		return "", err
	}
	for _, d := range repositories {
		if reads && d.Value.Path == filepath.Clean(folder) {
			need.Repository = d.ID
			break
		}
	}
	if reads && need.Repository == "" {
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
	if err == nil && j.Site == "" {
		err = s.give(ctx, svc, j, j.Direction == store.Forward)
	}
	if err != nil {
		return err
	}
	return svc.Resume(ctx, id)
}

// give gives a job to the site that suits it.
func (s *Sites) give(ctx context.Context, svc *restore.Service, j *store.Job, reads bool) error {
	spec, err := svc.Spec(ctx, j.ID)
	if err != nil {
		return err
	}
	site, err := s.place(ctx, spec.Source.Repository, spec.Plan.Target.Name, "", reads)
	if err != nil {
		return err
	}
	_, err = s.Store.SetSite(ctx, j.ID, site)
	return err
}

// again sees to it that a job at rest that is to go on, or back, belongs to a site
// that has workers: it may never have had one, or have outlived it. A nil s has
// nothing to see to.
func (s *Sites) again(ctx context.Context, svc *restore.Service, id string, reads bool) error {
	if s == nil {
		return nil
	}
	j, err := s.Store.Job(ctx, id)
	if err != nil || !j.Status.AtRest() {
		return err
	}
	workers, err := s.Fleet.List(ctx)
	if err != nil {
		return err
	}
	for _, w := range workers {
		if w.Site == j.Site && w.State() == fleet.Alive {
			return nil
		}
	}
	return s.give(ctx, svc, j, reads)
}
