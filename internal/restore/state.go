// Package restore carries a plan out: it opens the source, begins the restore
// on the target, moves the disks, makes and starts the machine, proves what
// landed and writes the receipt. What it does is kept in a folder of its own,
// so that a killed restore is continued and everything it made can be undone.
package restore

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/oklog/ulid/v2"

	"ascend/internal/disk"
	"ascend/internal/plan"
	"ascend/internal/target"
)

// Status of a job.
type Status string

// Statuses. A job found Running whose lock is free was killed and is resumed.
const (
	Running   Status = "running"
	Completed Status = "completed"
	Failed    Status = "failed"    // what it made is still there
	Cancelled Status = "cancelled" // likewise
	Undone    Status = "undone"
)

// Record is what job.json holds.
type Record struct {
	ID      string     `json:"id"`
	Key     string     `json:"key"` // what was asked for: the same request resumes the job
	Status  Status     `json:"status"`
	Error   string     `json:"error,omitempty"`
	Created time.Time  `json:"created"`
	Updated time.Time  `json:"updated"`
	Plan    *plan.Plan `json:"plan"`
	// Source identifies the files read: a backup changed since is not resumed.
	Source []string `json:"source"`
	// Sums are the digests of disks that have landed, by position.
	Landed map[int]*DiskReceipt `json:"landed,omitempty"`
	VM     *target.VM           `json:"vm,omitempty"`
}

// State is the folder of all jobs of this machine.
type State struct{ dir string }

// OpenState makes the folder when it is not there. It is for this user only.
func OpenState(dir string) (*State, error) {
	if err := os.MkdirAll(filepath.Join(dir, "jobs"), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make state folder: %w", err)
	}
	return &State{dir: dir}, nil
}

// Dir is the folder's path.
func (s *State) Dir() string { return s.dir }

// Job is one restore, locked by this process until Close.
type Job struct {
	Record
	dir  string
	lock *flock.Flock
	mu   sync.Mutex
}

// Create starts a job for a plan. maps are the disks' extent maps, which are
// kept and never made again.
func (s *State) Create(key string, p *plan.Plan, source []string, maps []*disk.Map) (*Job, error) {
	id := ulid.MustNew(ulid.Now(), rand.Reader).String()
	j := &Job{dir: filepath.Join(s.dir, "jobs", id)}
	j.Record = Record{ID: id, Key: key, Status: Running, Created: time.Now().UTC(), Plan: p, Source: source, Landed: map[int]*DiskReceipt{}}
	if err := os.Mkdir(j.dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make job folder: %w", err)
	}
	if err := j.takeLock(); err != nil {
		return nil, err
	}
	for i, m := range maps {
		b, err := m.AppendBinary(nil)
		if err == nil {
			err = writeFile(j.path(fmt.Sprintf("disk-%d.map", i)), b)
		}
		if err != nil {
			j.Close()
			return nil, fmt.Errorf("cannot write job: %w", err)
		}
	}
	if err := j.save(); err != nil {
		j.Close()
		return nil, err
	}
	return j, nil
}

// ErrNoJob: there is no such job.
var ErrNoJob = errors.New("no such restore job")

// ErrLocked: another process is at work on the job.
var ErrLocked = errors.New("another process is at work on this restore")

// Open opens a job by its id, or by the beginning of it, and locks it.
func (s *State) Open(id string) (*Job, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(r Record) bool { return id != "" && len(id) <= len(r.ID) && r.ID[:len(id)] == id })
	if i < 0 {
		return nil, fmt.Errorf("%s: %w", id, ErrNoJob)
	}
	j := &Job{dir: filepath.Join(s.dir, "jobs", all[i].ID)}
	if err := j.takeLock(); err != nil {
		return nil, err
	}
	if j.Record, err = load(j.dir); err != nil {
		j.Close()
		return nil, err
	}
	return j, nil
}

// Unfinished finds the job that the same request has begun and not finished.
func (s *State) Unfinished(key string) (*Job, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Key == key && r.Status != Completed && r.Status != Undone {
			return s.Open(r.ID)
		}
	}
	return nil, ErrNoJob
}

// List reads all jobs, the newest first. Folders that cannot be read are left out.
func (s *State) List() ([]Record, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "jobs"))
	if err != nil {
		return nil, fmt.Errorf("cannot list jobs: %w", err)
	}
	var out []Record
	for _, e := range slices.Backward(entries) {
		if r, err := load(filepath.Join(s.dir, "jobs", e.Name())); err == nil {
			out = append(out, r)
		}
	}
	return out, nil
}

func load(dir string) (Record, error) {
	var r Record
	b, err := os.ReadFile(filepath.Join(dir, "job.json"))
	if err != nil {
		return r, fmt.Errorf("cannot read job: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("cannot read job: %w", err)
	}
	if r.Landed == nil {
		r.Landed = map[int]*DiskReceipt{}
	}
	return r, nil
}

func (j *Job) path(name string) string { return filepath.Join(j.dir, name) }

func (j *Job) takeLock() error {
	j.lock = flock.New(j.path("lock"))
	ok, err := j.lock.TryLock()
	if err != nil {
		return fmt.Errorf("cannot lock job: %w", err)
	}
	if !ok {
		return fmt.Errorf("%s: %w", filepath.Base(j.dir), ErrLocked)
	}
	return nil
}

// Close releases the job; its folder stays.
func (j *Job) Close() { _ = j.lock.Unlock() }

// Receipt is the path of the job's receipt.
func (j *Job) Receipt() string { return j.path("receipt.json") }

// Map reads the extent map of disk i as it was when the job was planned.
func (j *Job) Map(i int) (*disk.Map, error) {
	b, err := os.ReadFile(j.path(fmt.Sprintf("disk-%d.map", i)))
	if err != nil {
		return nil, fmt.Errorf("cannot read job: %w", err)
	}
	return disk.ParseMap(b)
}

func (j *Job) save() error {
	j.Updated = time.Now().UTC()
	b, err := json.MarshalIndent(j.Record, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(j.path("job.json"), append(b, '\n')); err != nil {
		return fmt.Errorf("cannot write job: %w", err)
	}
	return nil
}

func (j *Job) update(f func(r *Record)) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	f(&j.Record)
	return j.save()
}

// writeFile replaces a file so that a crash leaves the old one or the new one.
func writeFile(path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// recorder is the job's target.Recorder: an entry survives a crash before the
// thing it names is created.
type recorder struct {
	mu  sync.Mutex
	f   string
	all []target.Resource
}

func (j *Job) recorder() (*recorder, error) {
	r := &recorder{f: j.path("resources.json")}
	b, err := os.ReadFile(r.f)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r.all)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the job's resources: %w", err)
	}
	return r, nil
}

// Record stores an entry; one with the same kind and name is replaced.
func (r *recorder) Record(_ context.Context, res target.Resource) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.all, func(o target.Resource) bool { return o.Kind == res.Kind && o.Name == res.Name })
	next := slices.Clone(r.all)
	if i < 0 {
		next = append(next, res)
	} else {
		next[i] = res
	}
	b, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := writeFile(r.f, append(b, '\n')); err != nil {
		return fmt.Errorf("cannot record what is created: %w", err)
	}
	r.all = next
	return nil
}

// Recorded lists the entries in the order they were first recorded.
func (r *recorder) Recorded(context.Context) ([]target.Resource, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all), nil
}
