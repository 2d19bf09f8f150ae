package restores

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"ascend/internal/backup"
	"ascend/internal/disk"
	"ascend/internal/plan"
	"ascend/internal/restore"
	"ascend/internal/server/api"
	"ascend/internal/server/jobs"
	"ascend/internal/server/records"
	"ascend/internal/target"
)

// Resolver opens what jobs refer to: the server's targets by their ids, and the
// backups of its repositories.
type Resolver struct {
	Targets *api.Targets
	Scanner *api.Scanner
}

var _ restore.Resolver = Resolver{}

// Target connects to a target; its secrets are unsealed for it.
func (r Resolver) Target(ctx context.Context, name string) (target.Target, error) {
	t, _, err := r.Targets.Open(ctx, name)
	if errors.Is(err, records.ErrNotFound) {
		err = fmt.Errorf("the target %s is no longer configured: %w: %w", name, target.ErrPermanent, err)
	}
	return t, err
}

// Source opens a backup of a repository of this server, and of no other folder.
func (r Resolver) Source(ctx context.Context, ref restore.SourceRef) (restore.Source, error) {
	all, err := r.Scanner.Table.All(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Value.Path != filepath.Clean(ref.Repository) {
			continue
		}
		b, err := r.Scanner.Table.Store.FindBackup(ctx, d.ID, ref.Backup)
		if err != nil {
			return nil, err
		}
		repo, err := backup.Open(d.Value.Path)
		if err != nil {
			return nil, err
		}
		return &source{repo, b.Backup}, nil
	}
	return nil, fmt.Errorf("%s is no longer a repository of this server: %w", ref.Repository, backup.ErrNotFound)
}

type source struct {
	repo *backup.Repository
	b    backup.Backup
}

func (s *source) OpenDisk(ctx context.Context, i int) (disk.Image, error) {
	return s.repo.OpenDisk(ctx, s.b, i)
}

func (s *source) Check(ctx context.Context, progress func(done, total int64)) error {
	return s.repo.Verify(ctx, s.b, progress)
}

func (s *source) Close() error { return s.repo.Close() }

// Restores is the Driver over package restore.
type Restores struct {
	*restore.Service
	// Sites are where workers carry jobs out; nil: this process does.
	Sites *Sites
}

var _ Driver = Restores{}

// Submit stores a job and begins it.
func (r Restores) Submit(ctx context.Context, o jobs.Order) (string, error) {
	proof, err := restore.ParseProof(o.Options.BootProof)
	if err != nil {
		return "", fmt.Errorf("%w: %w", jobs.ErrOptions, err)
	}
	if proof.Wanted() && o.Inspection == nil {
		return "", fmt.Errorf("%w: no boot can be proven: the system on the disks was not looked at", jobs.ErrOptions)
	}
	var g *restore.Guest
	if o.Inspection != nil && (o.Adaptation != nil || proof.Wanted()) {
		g = &restore.Guest{Inspection: o.Inspection, Adaptation: o.Adaptation, Proof: proof}
	}
	site := ""
	if r.Sites != nil {
		if site, err = r.Sites.place(ctx, o.Repository, o.Plan.Target.Name, o.Options.Site, true); err != nil {
			return "", err
		}
	}
	j, err := r.Service.Submit(ctx, restore.Request{
		Site: site,
		Spec: restore.Spec{
			Guest: g,
			Plan:  o.Plan, Source: restore.SourceRef{Repository: o.Repository, Backup: o.Plan.Backup.ID}, Fingerprint: restore.Fingerprint(o.Images),
			Options: restore.Options{Keep: o.Options.Keep, NoVerify: o.Options.NoVerify, CheckBackup: o.Options.CheckBackup, Disks: o.Options.Disks, Workers: o.Options.Workers, Bandwidth: o.Options.Bandwidth},
		},
		Maps: o.Maps, Unique: o.Key,
	})
	if err != nil {
		return "", err
	}
	return j.ID, nil
}

// Retry goes on with a failed job that was kept.
func (r Restores) Retry(ctx context.Context, id string) error {
	if err := r.Sites.again(ctx, r.Service, id, true); err != nil {
		return err
	}
	return r.Service.Retry(ctx, id)
}

// Undo removes what a job made.
func (r Restores) Undo(ctx context.Context, id string) error {
	if err := r.Sites.again(ctx, r.Service, id, false); err != nil {
		return err
	}
	return r.Service.Undo(ctx, id)
}

// SetLimits changes the limits of all jobs.
func (r Restores) SetLimits(l jobs.Limits) {
	r.Service.SetLimits(restore.Limits{Jobs: l.Jobs, Disks: l.Disks, Bandwidth: l.Bandwidth, Requests: l.Requests})
}

// Live fills in what the meters of steps under way say.
func (r Restores) Live(id string, steps []jobs.Step) {
	now, err := r.Steps(context.Background(), id)
	if err != nil {
		return // the tables say enough
	}
	by := map[string]restore.StepState{}
	for _, s := range now {
		by[s.Name] = s
	}
	for i := range steps {
		s, ok := by[steps[i].Name]
		if !ok || s.Rate <= 0 {
			r.Sites.live(id, &steps[i])
			continue
		}
		steps[i].Done, steps[i].Total, steps[i].Rate = s.Done, s.Total, int64(s.Rate)
		if s.ETA >= 0 {
			eta := time.Now().UTC().Add(s.ETA).Truncate(time.Second)
			steps[i].ETA = &eta
		}
	}
}

// Plan reads the plan of a job's spec.
func (r Restores) Plan(spec json.RawMessage) (*plan.Plan, error) {
	var s restore.Spec
	if err := json.Unmarshal(spec, &s); err != nil {
		return nil, fmt.Errorf("cannot read the job's plan: %w", err)
	}
	return s.Plan, nil
}
