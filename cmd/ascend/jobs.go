package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"ascend/internal/backup"
	"ascend/internal/disk"
	"ascend/internal/engine"
	"ascend/internal/plan"
	"ascend/internal/restore"
	"ascend/internal/store"
	"ascend/internal/target"
)

// jobs is the service of this command and the database behind it: one for all
// commands of the state folder. Each process carries out only the jobs whose
// lock file it holds, so several restores may run from several shells.
type jobs struct {
	*restore.Service
	db     *store.Store
	closed bool
}

// databaseName is the database's file in the state folder.
const databaseName = "ascend.db"

func (a *app) jobs() (*jobs, error) {
	dir := a.state()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make state folder: %w", err)
	}
	key, err := restore.SigningKey(filepath.Join(dir, "receipt.key"))
	if err != nil {
		return nil, err
	}
	db, err := store.Open(context.Background(), "sqlite:"+filepath.Join(dir, databaseName), store.Options{})
	if err != nil {
		return nil, err
	}
	s, err := restore.New(restore.Config{
		Store: restore.Tables(db), Resolver: a, Dir: dir, Key: key, Software: software(), Tick: 200 * time.Millisecond,
		Engine: func(h engine.Handlers) (engine.Engine, error) {
			return engine.NewLocal(db, h, engine.LocalOptions{}), nil
		},
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return &jobs{Service: s, db: db}, nil
}

func (s *jobs) close() {
	if s.closed {
		return
	}
	s.closed = true
	_ = s.Close(context.Background()) // what did not stop goes on at the next start
	_ = s.db.Close()
}

// goOn carries an unfinished job on.
func (s *jobs) goOn(ctx context.Context, j *restore.Job) error {
	if j.Status == restore.Failed {
		return s.Retry(ctx, j.ID)
	}
	return s.Resume(ctx, j.ID)
}

// Target implements restore.Resolver.
func (a *app) Target(ctx context.Context, name string) (target.Target, error) {
	t, _, err := a.openTarget(ctx, name)
	return t, err
}

// Source implements restore.Resolver.
func (a *app) Source(ctx context.Context, ref restore.SourceRef) (restore.Source, error) {
	if len(ref.Files) > 0 {
		r, b, err := backup.FromFilesAs(ctx, ref.Files, ref.Format)
		if err != nil {
			return nil, err
		}
		return &source{r, b}, nil
	}
	r, err := backup.Open(ref.Repository)
	if err != nil {
		return nil, err
	}
	b, err := r.Find(ctx, ref.Backup)
	if err != nil {
		r.Close()
		return nil, err
	}
	return &source{r, b}, nil
}

// sourceOf is the backup that a plan names, as a job keeps it.
func sourceOf(ref plan.BackupRef) restore.SourceRef {
	s := restore.SourceRef{Repository: ref.Repository, Backup: ref.ID, Format: ref.Format}
	for _, f := range ref.Files {
		s.Files = append(s.Files, filepath.Join(ref.Repository, f))
	}
	return s
}

// source is an opened backup.
type source struct {
	r *backup.Repository
	b backup.Backup
}

func (s *source) OpenDisk(ctx context.Context, i int) (disk.Image, error) {
	return s.r.OpenDisk(ctx, s.b, i)
}

func (s *source) Check(ctx context.Context, progress func(done, total int64)) error {
	return s.r.Verify(ctx, s.b, progress)
}

func (s *source) Close() error { return s.r.Close() }

// status is a job's status for people.
func status(j *restore.Job) string {
	if j.Idle {
		return "interrupted"
	}
	return string(j.Status)
}

func (a *app) jobsCommand() *cobra.Command {
	c := &cobra.Command{Use: "jobs", Short: "the restores that this machine has made or begun", Args: cobra.NoArgs}
	c.AddCommand(
		&cobra.Command{Use: "ls", Short: "list the jobs, the newest first", Args: cobra.NoArgs, RunE: a.jobsList},
		a.jobVerb("show JOB", "show a job: its steps, and what it made", a.jobShow),
		a.jobVerb("logs JOB", "show a job's log", a.jobLogs),
		a.jobVerb("retry JOB", "go on with an interrupted job, or with a failed one that was kept", func(c *cobra.Command, s *jobs, j *restore.Job) error {
			if err := s.goOn(c.Context(), j); err != nil {
				return err
			}
			return a.follow(c.Context(), s, &restoreFlags{keep: true}, j, time.Now())
		}),
		a.jobVerb("cancel JOB", "stop a job and remove what it made", func(c *cobra.Command, s *jobs, j *restore.Job) error {
			if err := s.Cancel(c.Context(), j.ID); err != nil {
				return err
			}
			return a.removed(c, s, j, restore.Cancelled, "cancelled")
		}),
		a.jobVerb("undo JOB", "remove exactly what a job made, and nothing else", a.undo),
	)
	return c
}

func (a *app) undoCommand() *cobra.Command {
	c := a.jobVerb("undo JOB", "remove exactly what a restore created, and nothing else", a.undo)
	c.Long = `Remove what a restore created on its target, the newest first: what the job
recorded, and nothing else. It may be run again when something failed. JOB is the
id or the beginning of it ("ascend jobs ls").`
	return c
}

// jobVerb is a command about one job.
func (a *app) jobVerb(use, short string, f func(*cobra.Command, *jobs, *restore.Job) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.jobs()
			if err != nil {
				return err
			}
			defer s.close()
			j, err := s.Job(c.Context(), args[0])
			if err != nil {
				return err
			}
			return f(c, s, j)
		},
	}
}

func (a *app) jobsList(c *cobra.Command, _ []string) error {
	s, err := a.jobs()
	if err != nil {
		return err
	}
	defer s.close()
	all, err := s.Jobs(c.Context(), restore.Filter{})
	if err != nil {
		return err
	}
	if a.json {
		if all == nil {
			all = []restore.Job{}
		}
		return printJSON(c, all)
	}
	rows := [][]string{{"JOB", "STATUS", "", "VM", "TARGET", "CREATED", ""}}
	for _, j := range all {
		rows = append(rows, []string{j.ID, status(&j), fmt.Sprintf("%.0f %%", j.Percent), clean(j.Name), j.Target, when(j.Created), clean(j.Error)})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

func (a *app) jobShow(c *cobra.Command, s *jobs, j *restore.Job) error {
	steps, err := s.Steps(c.Context(), j.ID)
	if err != nil {
		return err
	}
	made, err := s.Resources(c.Context(), j.ID)
	if err != nil {
		return err
	}
	if a.json {
		return printJSON(c, map[string]any{"job": j, "steps": steps, "resources": made})
	}
	rows := [][]string{{"job", j.ID}, {"status", fmt.Sprintf("%s, %.1f %%", status(j), j.Percent)}, {"machine", clean(j.Name)}, {"target", j.Target}}
	if j.Error != "" {
		rows = append(rows, []string{"error", clean(j.Error)})
	}
	table(c.OutOrStdout(), rows)
	rows = [][]string{{"", ""}, {"STEP", "STATUS", "PROGRESS", ""}}
	for _, st := range steps {
		progress := ""
		if st.Total > 0 {
			progress = fmt.Sprintf("%.0f %%", 100*float64(st.Done)/float64(st.Total))
		}
		rows = append(rows, []string{st.Name, st.Status, progress, clean(st.Error)})
	}
	for i, r := range made {
		if i == 0 {
			rows = append(rows, []string{""}, []string{"MADE", "", "", ""})
		}
		state := "there"
		if r.Gone {
			state = "removed"
		}
		rows = append(rows, []string{r.Kind, state, clean(r.Name), clean(r.ID)})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

func (a *app) jobLogs(c *cobra.Command, s *jobs, j *restore.Job) error {
	all := []restore.Event{}
	for after := int64(0); ; {
		more, err := s.Events(c.Context(), j.ID, after, 0)
		if err != nil {
			return err
		}
		if len(more) == 0 {
			break
		}
		all, after = append(all, more...), more[len(more)-1].Seq
	}
	if a.json {
		return printJSON(c, all)
	}
	rows := [][]string{}
	for _, e := range all {
		rows = append(rows, []string{e.Time.Local().Format(time.DateTime), e.Level, clean(e.Step), clean(e.Text)})
	}
	table(c.OutOrStdout(), rows)
	return nil
}

func (a *app) undo(c *cobra.Command, s *jobs, j *restore.Job) error {
	var err error
	want := restore.Undone
	switch {
	case j.Status == restore.Compensating:
		err = s.Resume(c.Context(), j.ID)
	case !j.Status.AtRest():
		want, err = restore.Cancelled, s.Cancel(c.Context(), j.ID)
	default:
		err = s.Undo(c.Context(), j.ID)
	}
	if err != nil {
		return withHint(err, "run it again: ascend undo %s", j.ID)
	}
	return a.removed(c, s, j, want, "undone")
}

// removed waits until what a job made is removed, and says so.
func (a *app) removed(c *cobra.Command, s *jobs, j *restore.Job, want restore.Status, word string) error {
	end, err := s.Wait(c.Context(), j.ID)
	if err != nil {
		return err
	}
	if end.Status == restore.Failed || end.Status == restore.Completed {
		if end.Error == "" {
			return fmt.Errorf("the job is %s, not %s", end.Status, want)
		}
		return withHint(errors.New(end.Error), "run it again: ascend undo %s", j.ID)
	}
	a.note("%s: %s on %s", word, clean(j.Name), j.Target)
	if a.json {
		return printJSON(c, map[string]string{"job": j.ID, "status": string(end.Status)})
	}
	return nil
}

// show shows a job's progress until it is at rest, or ctx ends.
func (a *app) show(ctx context.Context, s *jobs, id string, force bool) (*restore.Job, error) {
	bars := a.startProgress(force, true)
	seen := map[string]string{}
	for u := range s.Watch(ctx, id, 0) {
		for _, st := range u.Steps {
			if st.Total > 0 && (st.Kind == "transfer" || st.Kind == "verify") && st.Status != "pending" {
				bars.set(st.Name, reading(&st))
			}
			if seen[st.Name] != st.Status && st.Status != "pending" {
				seen[st.Name] = st.Status
				a.event(map[string]any{"event": "step", "job": id, "step": st.Name, "state": st.Status, "detail": st.Error})
			}
		}
		for _, e := range u.Events {
			if e.Level == "warning" {
				a.note("%s", clean(e.Text))
			}
		}
	}
	bars.done()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.Wait(ctx, id)
}
