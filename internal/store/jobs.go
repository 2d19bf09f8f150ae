package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"ascend/internal/vm"
)

// Status of a job or step, as people see it. While a job runs, its status is
// the phase of the stage under way (a step's Phase; "running" for steps without
// one).
type Status string

// A job's states.
const (
	Pending      Status = "pending"
	Running      Status = "running"
	Validating   Status = "validating"
	Adapting     Status = "adapting"
	Converting   Status = "converting"
	Uploading    Status = "uploading"
	Creating     Status = "creating"
	Verifying    Status = "verifying"
	Compensating Status = "compensating"
	Completed    Status = "completed"
	Failed       Status = "failed"    // RolledBack tells whether all is removed again
	Cancelled    Status = "cancelled" // and all is removed again
	Undone       Status = "undone"    // completed once, then removed on demand
)

// A step is pending, running, compensating, completed, failed, or this: done or
// half-done once, and undone.
const RolledBack Status = "rolled_back"

// AtRest tells whether nothing more happens to a job by itself.
func (s Status) AtRest() bool {
	return s == Completed || s == Failed || s == Cancelled || s == Undone
}

// Directions of a job.
const (
	Forward  = "forward"
	Backward = "backward" // compensating; stored before the first undo
)

// Restore types.
const (
	FullVM    = "full_vm"
	FileLevel = "file_level"
)

// Job is a row of restore_jobs. Zero times and empty strings stand for NULL.
type Job struct {
	bun.BaseModel `bun:"table:restore_jobs,alias:j"`

	ID                  string          `bun:"id,pk"`
	BackupJobID         string          `bun:"backup_job_id,nullzero"`
	SourcePlatform      vm.Platform     `bun:"source_platform"`
	TargetPlatform      vm.Platform     `bun:"target_platform"`
	RestoreType         string          `bun:"restore_type"`
	Status              Status          `bun:"status"`
	TargetConfig        json.RawMessage `bun:"target_config,nullzero"` // references and choices, no secrets
	ProgressPercent     float64         `bun:"progress_percent"`
	EstimatedCompletion time.Time       `bun:"estimated_completion,nullzero"`
	ErrorMessage        string          `bun:"error_message,nullzero"`
	TargetVMID          string          `bun:"target_vm_id,nullzero"`
	TargetVMName        string          `bun:"target_vm_name,nullzero"`
	CreatedAt           time.Time       `bun:"created_at"`
	StartedAt           time.Time       `bun:"started_at,nullzero"`
	CompletedAt         time.Time       `bun:"completed_at,nullzero"`

	Seq             int64           `bun:"seq"`                // order of creation
	Key             string          `bun:"idem_key,nullzero"`  // unique; creating again with it gives the same job
	BackupID        string          `bun:"backup_id,nullzero"` // of table backups
	PlanID          string          `bun:"plan_id,nullzero"`   // of table plans
	VMName          string          `bun:"vm_name"`            // on the source
	TargetName      string          `bun:"target_name"`        // the configured target
	Site            string          `bun:"site"`               // whose workers carry it out; "" is any
	Spec            json.RawMessage `bun:"spec,nullzero"`      // the restore room's own; not in lists
	CreatedBy       string          `bun:"created_by"`         // who asked
	KeepOnFailure   bool            `bun:"keep_on_failure"`    // fail without undo, so that Retry can go on
	Direction       string          `bun:"direction"`          // Forward or Backward
	Outcome         Status          `bun:"outcome"`            // what the job comes to after compensation
	CancelRequested bool            `bun:"cancel_requested"`   // seen at each checkpoint
	RolledBack      bool            `bun:"rolled_back"`        // nothing that the job made is left
	Drive           int64           `bun:"drive"`              // fence of whoever drives the job
	Driver          string          `bun:"driver"`             // identifier of that one
	Version         int64           `bun:"version"`            // for ETags; grows with every change
	UpdatedAt       time.Time       `bun:"updated_at"`
}

// CreateJob stores a pending job with its steps, in their order, and fills
// what the store decides: ID (kept when given), Seq, times. A job whose ID or
// Key exists already is not made again: j becomes the stored one, and made is
// false.
func (s *Store) CreateJob(ctx context.Context, j *Job, steps []Step) (made bool, err error) {
	if j.ID == "" {
		j.ID = NewID()
	}
	want := *j
	err = s.tx(ctx, "create the job", func(t *Store) error {
		*j, made = want, false
		q := t.db.NewSelect().Model(j).Where("id = ?", want.ID)
		if want.Key != "" {
			q = q.WhereOr("idem_key = ?", want.Key)
		}
		err := q.Limit(1).Scan(ctx)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		*j = want
		j.Status, j.Direction, j.Version = Pending, Forward, 1
		j.CreatedAt = now()
		j.UpdatedAt = j.CreatedAt
		j.VMName, j.TargetVMName = cut(j.VMName, maxName), cut(j.TargetVMName, maxName)
		if j.RestoreType == "" {
			j.RestoreType = FullVM
		}
		if j.Seq, err = t.next(ctx, "jobs", 1); err != nil {
			return err
		}
		if _, err := t.db.NewInsert().Model(j).Exec(ctx); err != nil {
			return err
		}
		if err := t.insertSteps(ctx, j, steps); err != nil {
			return err
		}
		made = true
		return t.event(ctx, &Event{Job: j.ID, Kind: EventJob, Message: "job created", Data: statusData(Pending)})
	})
	if errors.Is(err, ErrExists) && want.Key != "" { // another process was faster
		return false, s.read(ctx, "read the job", func(ctx context.Context) error {
			return s.db.NewSelect().Model(j).Where("idem_key = ?", want.Key).Scan(ctx)
		})
	}
	return made, err
}

func statusData(st Status) json.RawMessage {
	b, _ := json.Marshal(map[string]Status{"status": st})
	return b
}

// Job returns one job.
func (s *Store) Job(ctx context.Context, id string) (*Job, error) {
	j := new(Job)
	err := s.read(ctx, "read job "+cut(id, 64), func(ctx context.Context) error {
		return s.db.NewSelect().Model(j).Where("id = ?", id).Scan(ctx)
	})
	if err != nil {
		return nil, err
	}
	return j, nil
}

// JobByPrefix returns the one job whose ID begins so, in either case. Several
// are an error that is not ErrNotFound.
func (s *Store) JobByPrefix(ctx context.Context, prefix string) (*Job, error) {
	var js []Job
	prefix = strings.ToUpper(prefix)
	err := s.read(ctx, "find the job", func(ctx context.Context) error {
		return s.db.NewSelect().Model(&js).Where("id >= ? AND id < ?", prefix, prefix+"~").OrderExpr("seq DESC").Limit(3).Scan(ctx)
	})
	switch {
	case err != nil:
		return nil, err
	case len(js) == 0:
		return nil, fmt.Errorf("cannot find job %s: %w", cut(prefix, 64), ErrNotFound)
	case len(js) > 1 && js[0].ID != prefix && !slices.ContainsFunc(js, func(j Job) bool { return j.ID == prefix }):
		return nil, fmt.Errorf("cannot find job %s: several begin so, such as %s and %s: give more characters", cut(prefix, 64), js[0].ID, js[1].ID)
	}
	return &js[max(0, slices.IndexFunc(js, func(j Job) bool { return j.ID == prefix }))], nil
}

// JobByKey returns the job with an idempotency key.
func (s *Store) JobByKey(ctx context.Context, key string) (*Job, error) {
	j := new(Job)
	err := s.read(ctx, "find the job", func(ctx context.Context) error {
		return s.db.NewSelect().Model(j).Where("idem_key = ?", key).Scan(ctx)
	})
	if err != nil {
		return nil, err
	}
	return j, nil
}

// JobFilter chooses jobs; zero fields choose all.
type JobFilter struct {
	Status         []Status
	Platform       vm.Platform // source or target
	SourcePlatform vm.Platform
	TargetPlatform vm.Platform
	Target         string    // configured target's name
	VM             string    // name on the source or the target, exactly
	BackupID       string    // of table backups
	Since, Until   time.Time // created in [Since, Until)
	Text           string    // in a name, the error, or the beginning of the ID; any case
	Unfinished     bool      // not at rest
}

// Jobs lists jobs, without Spec, the newest first.
func (s *Store) Jobs(ctx context.Context, f JobFilter, p Page) (Listing[Job], error) {
	var rows []Job
	err := s.read(ctx, "list jobs", func(ctx context.Context) error {
		rows = nil
		q, err := p.apply(s.db.NewSelect().Model((*Job)(nil)).Column("seq"), "seq")
		if err != nil {
			return err
		}
		return p.rows(s.db.NewSelect().Model(&rows).ExcludeColumn("spec"), f.where(q), "seq").Scan(ctx)
	})
	if err != nil {
		return Listing[Job]{}, err
	}
	return listing(p, rows, func(j *Job) int64 { return j.Seq }), nil
}

func (f JobFilter) where(q *bun.SelectQuery) *bun.SelectQuery {
	if len(f.Status) > 0 {
		q = q.Where("status IN (?)", bun.In(f.Status))
	}
	if f.Unfinished {
		q = q.Where("status NOT IN (?)", bun.In([]Status{Completed, Failed, Cancelled, Undone}))
	}
	if f.Platform != "" {
		q = q.Where("(source_platform = ? OR target_platform = ?)", f.Platform, f.Platform)
	}
	for column, v := range map[string]string{
		"source_platform": string(f.SourcePlatform), "target_platform": string(f.TargetPlatform),
		"target_name": f.Target, "backup_id": f.BackupID,
	} {
		if v != "" {
			q = q.Where("? = ?", bun.Ident(column), v)
		}
	}
	if f.VM != "" {
		q = q.Where("(vm_name = ? OR target_vm_name = ?)", f.VM, f.VM)
	}
	if f.Text != "" {
		like := contains(f.Text)
		q = q.Where("(LOWER(vm_name) LIKE ? ESCAPE '!' OR LOWER(target_vm_name) LIKE ? ESCAPE '!' OR LOWER(target_name) LIKE ? ESCAPE '!' "+
			"OR LOWER(error_message) LIKE ? ESCAPE '!' OR LOWER(id) LIKE ? ESCAPE '!')", like, like, like, like, like[1:])
	}
	return between(q, "created_at", f.Since, f.Until)
}

// JobCounts is the number of jobs by status.
func (s *Store) JobCounts(ctx context.Context) (map[Status]int, error) {
	var rows []struct {
		Status Status
		N      int
	}
	err := s.read(ctx, "count jobs", func(ctx context.Context) error {
		rows = nil
		return s.db.NewSelect().Model((*Job)(nil)).Column("status").ColumnExpr("COUNT(*) AS n").Group("status").Scan(ctx, &rows)
	})
	m := map[Status]int{}
	for _, r := range rows {
		m[r.Status] = r.N
	}
	return m, err
}

// UnfinishedJobs are the identifiers of the jobs that are not at rest, the
// oldest first.
func (s *Store) UnfinishedJobs(ctx context.Context) ([]string, error) {
	var ids []string
	err := s.read(ctx, "list unfinished jobs", func(ctx context.Context) error {
		ids = nil
		return JobFilter{Unfinished: true}.where(s.db.NewSelect().Model((*Job)(nil)).Column("id")).OrderExpr("seq").Scan(ctx, &ids)
	})
	return ids, err
}

// SetSite gives a job that belongs to no site, or is at rest, to one; another keeps
// its site. It returns the site that the job then has.
func (s *Store) SetSite(ctx context.Context, job, site string) (string, error) {
	err := s.tx(ctx, "give the job to a site", func(t *Store) error {
		j, err := t.lockJob(ctx, job)
		if err != nil {
			return err
		}
		if j.Site != "" && !j.Status.AtRest() {
			site = j.Site
			return nil
		}
		return t.setJob(ctx, job, -1, func(q *bun.UpdateQuery) *bun.UpdateQuery { return q.Set("site = ?", site) })
	})
	return site, err
}

// SetProgress stores a job's progress, in percent, and its expected end (zero:
// not known). The percentage never falls.
func (s *Store) SetProgress(ctx context.Context, job string, percent float64, eta time.Time) error {
	percent = math.Round(min(max(percent, 0), 100)*100) / 100
	return s.changeJob(ctx, "store the progress", job, func(q *bun.UpdateQuery) *bun.UpdateQuery {
		q = q.Set("progress_percent = CASE WHEN progress_percent < ? THEN ? ELSE progress_percent END", percent, percent)
		if eta.IsZero() {
			return q.Set("estimated_completion = NULL")
		}
		return q.Set("estimated_completion = ?", eta.UTC().Truncate(time.Microsecond))
	})
}

// SetVM stores the identifier and name of the machine that a job made.
func (s *Store) SetVM(ctx context.Context, job, id, name string) error {
	return s.changeJob(ctx, "store the machine", job, func(q *bun.UpdateQuery) *bun.UpdateQuery {
		return q.Set("target_vm_id = ?", cut(id, maxName)).Set("target_vm_name = ?", cut(name, maxName))
	})
}

// SetKeepOnFailure changes whether a failing job keeps what it made.
func (s *Store) SetKeepOnFailure(ctx context.Context, job string, keep bool) error {
	return s.changeJob(ctx, "change the job", job, func(q *bun.UpdateQuery) *bun.UpdateQuery {
		return q.Set("keep_on_failure = ?", keep)
	})
}

func (s *Store) changeJob(ctx context.Context, what, job string, set func(*bun.UpdateQuery) *bun.UpdateQuery) error {
	return s.tx(ctx, what, func(t *Store) error {
		return t.setJob(ctx, job, -1, set)
	})
}

// setJob updates a job's row; with drive ≥ 0 only while that drive holds it.
func (s *Store) setJob(ctx context.Context, job string, drive int64, set func(*bun.UpdateQuery) *bun.UpdateQuery) error {
	q := s.db.NewUpdate().Model((*Job)(nil)).Where("id = ?", job).Set("version = version + 1").Set("updated_at = ?", now())
	if drive >= 0 {
		q = q.Where("drive = ?", drive)
	}
	r, err := set(q).Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n > 0 {
		return err
	}
	if drive >= 0 {
		if ok, err := s.db.NewSelect().Model((*Job)(nil)).Where("id = ?", job).Exists(ctx); err != nil || ok {
			return errors.Join(err, ErrFenced)
		}
	}
	return fmt.Errorf("cannot change job %s: %w", cut(job, 64), ErrNotFound)
}

// DeleteJob removes a job at rest with all that belongs to it but its audit.
func (s *Store) DeleteJob(ctx context.Context, id string) error {
	return s.tx(ctx, "delete the job", func(t *Store) error {
		j, err := t.lockJob(ctx, id)
		if err != nil {
			return err
		}
		if !j.Status.AtRest() {
			return fmt.Errorf("cannot delete job %s: %w: it is %s", id, ErrState, j.Status)
		}
		return t.deleteJobs(ctx, []string{id})
	})
}

func (s *Store) deleteJobs(ctx context.Context, ids []string) error {
	if _, err := s.db.NewDelete().Model((*Event)(nil)).Where("job_id IN (?)", bun.In(ids)).Exec(ctx); err != nil {
		return err
	}
	if _, err := s.db.NewDelete().TableExpr("deliveries").Where("job_id IN (?)", bun.In(ids)).Exec(ctx); err != nil {
		return err
	}
	_, err := s.db.NewDelete().Model((*Job)(nil)).Where("id IN (?)", bun.In(ids)).Exec(ctx)
	return err
}

// lockJob reads a job's row and keeps others from changing it in this transaction.
func (s *Store) lockJob(ctx context.Context, id string) (*Job, error) {
	j := new(Job)
	q := s.db.NewSelect().Model(j).Where("id = ?", id)
	if s.kind != SQLite { // there a writing transaction is alone from its start
		q = q.For("UPDATE")
	}
	if err := q.Scan(ctx); err != nil {
		if errors.Is(err, sql.ErrNoRows) {
			err = fmt.Errorf("cannot find job %s: %w", cut(id, 64), ErrNotFound)
		}
		return nil, err
	}
	return j, nil
}
