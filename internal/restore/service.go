package restore

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/oklog/ulid/v2"
	"golang.org/x/time/rate"

	"ascend/internal/appliance"
	"ascend/internal/disk"
	"ascend/internal/engine"
	"ascend/internal/target"
)

// Config is what a Service is made of.
type Config struct {
	Store Store
	// Engine makes the engine that drives the jobs of Store by these handlers.
	Engine   func(engine.Handlers) (engine.Engine, error)
	Resolver Resolver
	// Dir is the folder of the jobs' files on this machine, for this user only.
	Dir      string
	Key      ed25519.PrivateKey // receipts are signed with it
	Software string             // name and version, for receipts
	Limits   Limits
	// Shared: other machines drive jobs of this store too. Journals are copied to
	// the store, and whose a job is is the engine's business. Otherwise processes
	// of this machine share the store, and a lock file in the job's folder says
	// which of them a job is carried out by.
	Shared bool
	Log    *slog.Logger // nil: none
	// Appliance finds the appliance that guests are adapted in; nil: the one in the
	// user's cache.
	Appliance func() (*appliance.Image, error)

	// SyncEvery is the time between flushes to stable storage; 0: 5 s, or 1 s
	// where journals are copied.
	SyncEvery time.Duration
	// Tick is the time between two looks at progress; 0: half a second.
	Tick time.Duration
}

// Service takes restores on and has them carried out. Its methods may be called
// concurrently.
//
// Several processes of one machine may have a Service over the same store and
// folder: each job is carried out by one, the one that holds its lock; all can
// look at every job, and ask for one to be cancelled.
type Service struct {
	store     Store
	engine    engine.Engine
	resolver  Resolver
	folder    string
	key       ed25519.PrivateKey
	software  string
	shared    bool
	log       *slog.Logger
	appliance func() (*appliance.Image, error)
	syncEvery time.Duration
	tick      time.Duration

	limits   *limiter
	sessions *sessions
	live     live

	mu     sync.Mutex
	closed bool
	drives map[string]*drive
	here   map[string]*presence
	specs  map[string]*Spec
	own    map[string]*ownLimits
	wg     sync.WaitGroup
	life   context.Context
	end    context.CancelFunc
}

// ownLimits are those of one job.
type ownLimits struct {
	disks slots
	rate  *rate.Limiter
}

// drive is a job that this process carries out.
type drive struct {
	done chan struct{}
	err  error // why the process stopped carrying it out, not the job's
}

// presence is a job of a shared store some of whose steps are at work here.
type presence struct {
	steps int
	stop  func() // of writing the job's progress
}

// attend notes that a step of a job of a shared store is at work here: while one
// is, this process writes the job's progress.
func (s *Service) attend(id string) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.here[id]
	if p == nil {
		p = &presence{stop: s.report(id)}
		s.here[id] = p
	}
	p.steps++
	return func() {
		s.mu.Lock()
		if p.steps--; p.steps > 0 {
			s.mu.Unlock()
			return
		}
		delete(s.here, id)
		delete(s.specs, id)
		delete(s.own, id)
		s.mu.Unlock()
		p.stop()
	}
}

// New makes a Service. It carries nothing out before it is told to.
func New(c Config) (*Service, error) {
	if err := os.MkdirAll(filepath.Join(c.Dir, "jobs"), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the folder of jobs: %w", err)
	}
	s := &Service{
		store: c.Store, resolver: c.Resolver, folder: c.Dir, key: c.Key, software: c.Software, shared: c.Shared,
		log: c.Log, syncEvery: c.SyncEvery, tick: c.Tick,
		limits: newLimiter(c.Limits), sessions: newSessions(),
		drives: map[string]*drive{}, here: map[string]*presence{}, specs: map[string]*Spec{}, own: map[string]*ownLimits{},
	}
	if s.appliance = c.Appliance; s.appliance == nil {
		s.appliance = func() (*appliance.Image, error) { return appliance.Open("") }
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.syncEvery <= 0 && s.shared {
		s.syncEvery = time.Second
	}
	if s.tick <= 0 {
		s.tick = 500 * time.Millisecond
	}
	s.life, s.end = context.WithCancel(context.Background())
	var err error
	if s.engine, err = c.Engine(s.handlers()); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// Request is a restore that is asked for.
type Request struct {
	Spec
	// Maps are the disks' extent maps, which are kept and never made again.
	Maps []*disk.Map
	// Key names what is asked for; Unfinished finds a job by it.
	Key string
	// Unique, when not empty, makes Submit idempotent: of several requests with
	// the same one, all get the first's job.
	Unique string
	// Site is whose workers carry it out, where several machines share the store;
	// empty: any.
	Site string
}

// Submit stores a job for a plan and begins to carry it out. The job survives a
// crash when Submit returns.
func (s *Service) Submit(ctx context.Context, r Request) (*Job, error) {
	if len(r.Maps) != len(r.Plan.Disks) || len(r.Fingerprint) != len(r.Plan.Disks) {
		return nil, fmt.Errorf("cannot begin: the plan has %d disks, %d maps and %d fingerprints", len(r.Plan.Disks), len(r.Maps), len(r.Fingerprint))
	}
	spec, err := json.Marshal(r.Spec)
	if err != nil {
		return nil, err
	}
	j := &Job{
		ID: ulid.MustNew(ulid.Now(), rand.Reader).String(), Key: r.Key, Status: Pending, Created: stamp(),
		Name: r.Plan.Machine.Name, VM: r.Plan.Backup.VM, Target: r.Plan.Target.Name,
	}
	unlock, err := s.lock(j.ID) // before anybody else can see it
	if err != nil {
		return nil, err
	}
	id, err := s.create(ctx, j, r, spec)
	if err != nil || id != j.ID {
		unlock()
		_ = os.RemoveAll(s.jobDir(j.ID))
		if err != nil {
			return nil, fmt.Errorf("cannot store the job: %w", err)
		}
		return s.Job(ctx, id)
	}
	if s.shared { // whoever carries it out decides when it is its turn
		if err := s.engine.Start(ctx, id); err != nil {
			// The job is stored: Recover begins it, and takes it up again and again.
			s.log.Warn("the job waits until it can be handed over", "job", id, "error", err)
		}
		return s.Job(ctx, id)
	}
	if _, err := s.launch(id, unlock, true, s.engine.Start); err != nil {
		return nil, err
	}
	return s.Job(ctx, id)
}

func (s *Service) create(ctx context.Context, j *Job, r Request, spec []byte) (string, error) {
	n := &NewJob{Unique: r.Unique, Site: r.Site, Spec: spec, Keep: r.Options.Keep, Steps: Steps(&r.Spec), Blobs: map[string][]byte{}}
	for i, m := range r.Maps {
		b, err := m.AppendBinary(nil)
		if err != nil {
			return "", err
		}
		n.Blobs[blobMap(i)] = b
	}
	return s.store.Create(ctx, j, n)
}

// lock makes this process the one that carries the job out.
func (s *Service) lock(id string) (unlock func(), err error) {
	if s.shared {
		return func() {}, nil
	}
	dir := s.jobDir(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make job folder: %w", err)
	}
	l := flock.New(filepath.Join(dir, "lock"))
	ok, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("cannot lock job: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("%s: %w", id, ErrLocked)
	}
	return func() { _ = l.Unlock() }, nil
}

// launch has the engine carry a locked job out until it comes to rest. queue:
// only when it is the job's turn.
func (s *Service) launch(id string, unlock func(), queue bool, begin func(context.Context, string) error) (*drive, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.drives[id] != nil {
		unlock()
		if s.closed {
			return nil, ErrStopped
		}
		return nil, fmt.Errorf("%s: %w", id, ErrLocked)
	}
	d := &drive{done: make(chan struct{})}
	s.drives[id] = d
	s.wg.Go(func() {
		d.err = s.drive(id, queue, begin)
		if d.err != nil {
			s.log.Error("restore job is not carried on", "job", id, "error", d.err)
		}
		s.sessions.close(context.Background(), id)
		s.limits.bandwidth.forget(id)
		s.mu.Lock()
		delete(s.drives, id)
		delete(s.specs, id)
		delete(s.own, id)
		unlock() // before anybody can see that nobody is at work here
		s.mu.Unlock()
		close(d.done)
	})
	return d, nil
}

func (s *Service) drive(id string, queue bool, begin func(context.Context, string) error) error {
	var release func()
	var err error
	if queue {
		if release, err = s.limits.jobs.acquire(s.life, id, nil); err != nil {
			return ErrStopped
		}
	} else {
		release = s.limits.jobs.force(id)
	}
	defer release()
	stop := s.report(id)
	defer stop()
	if err := begin(s.life, id); err != nil {
		return err
	}
	return s.engine.Wait(s.life, id)
}

// Job finds a job by its id or the beginning of it.
func (s *Service) Job(ctx context.Context, id string) (*Job, error) {
	j, err := s.store.Job(ctx, id)
	if errors.Is(err, ErrNoJob) && id != "" {
		j, err = s.store.ByPrefix(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	j.Idle = s.idle(j)
	return j, nil
}

// Jobs lists jobs, the newest first.
func (s *Service) Jobs(ctx context.Context, f Filter) ([]Job, error) {
	all, err := s.store.Jobs(ctx, f)
	for i := range all {
		all[i].Idle = s.idle(&all[i])
	}
	return all, err
}

// idle tells that nobody on this machine is at work on an unfinished job.
func (s *Service) idle(j *Job) bool {
	if j.Status.AtRest() || s.shared {
		return false
	}
	s.mu.Lock()
	d := s.drives[j.ID]
	s.mu.Unlock()
	if d != nil {
		return false
	}
	unlock, err := s.lock(j.ID)
	if err != nil {
		return false
	}
	unlock()
	return true
}

// Unfinished finds the newest job of a request key that is not at rest, or was
// kept when it failed; ErrNoJob when there is none.
func (s *Service) Unfinished(ctx context.Context, key string) (*Job, error) {
	all, err := s.store.Jobs(ctx, Filter{Key: key})
	if err != nil {
		return nil, err
	}
	for i := range all {
		j := &all[i]
		if j.Status == Failed || !j.Status.AtRest() && j.Status != Compensating {
			j.Idle = s.idle(j)
			return j, nil
		}
	}
	return nil, ErrNoJob
}

// Spec is what a job was asked to do.
func (s *Service) Spec(ctx context.Context, id string) (*Spec, error) { return s.spec(ctx, id) }

func (s *Service) spec(ctx context.Context, id string) (*Spec, error) {
	s.mu.Lock()
	known := s.specs[id]
	s.mu.Unlock()
	if known != nil {
		return known, nil
	}
	b, err := s.store.Spec(ctx, id)
	if err != nil {
		return nil, err
	}
	var spec Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return nil, fmt.Errorf("cannot read the job's plan: %w: %w", engine.ErrPermanent, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drives[id] != nil || s.here[id] != nil {
		s.specs[id] = &spec
	}
	return &spec, nil
}

// Steps are a job's steps with what is known of their progress now.
func (s *Service) Steps(ctx context.Context, id string) ([]StepState, error) {
	steps, err := s.store.Steps(ctx, id)
	if err != nil {
		return nil, err
	}
	s.live.overlay(id, steps)
	return steps, nil
}

// Resources are what the job recorded that it creates.
func (s *Service) Resources(ctx context.Context, id string) ([]target.Resource, error) {
	return s.store.Resources(ctx, id)
}

// Events are the lines of the job's log after a sequence number; limit 0 is 1000.
func (s *Service) Events(ctx context.Context, id string, after int64, limit int) ([]Event, error) {
	if limit <= 0 {
		limit = 1000
	}
	return s.store.Events(ctx, id, after, limit)
}

// Receipt is the job's signed receipt as JSON, nil when there is none.
func (s *Service) Receipt(ctx context.Context, id string) ([]byte, error) {
	return s.store.Blob(ctx, id, blobReceipt)
}

// ReceiptFile is where the receipt stands on the machine that wrote it.
func (s *Service) ReceiptFile(id string) string { return filepath.Join(s.jobDir(id), receiptName) }

func (s *Service) jobDir(id string) string { return filepath.Join(s.folder, "jobs", id) }

// Resume carries an unfinished job on that nobody is at work on.
func (s *Service) Resume(ctx context.Context, id string) error {
	return s.order(ctx, id, true, s.engine.Start)
}

// Retry goes on with a failed job that was kept, from the step that failed. It
// is engine.ErrState when what the job made was removed.
func (s *Service) Retry(ctx context.Context, id string) error {
	return s.order(ctx, id, false, s.engine.Retry)
}

// Undo removes what a completed, failed or cancelled job made, as far as it was
// recorded, and nothing else. It may be called again when something failed.
func (s *Service) Undo(ctx context.Context, id string) error {
	return s.order(ctx, id, false, s.engine.Undo)
}

// Cancel stops a job and removes what it made. When another process is at work
// on the job it is asked to.
func (s *Service) Cancel(ctx context.Context, id string) error {
	s.mu.Lock()
	here := s.drives[id] != nil
	s.mu.Unlock()
	if here || s.shared {
		return s.engine.Cancel(ctx, id)
	}
	err := s.order(ctx, id, false, s.engine.Cancel)
	if errors.Is(err, ErrLocked) {
		return s.store.RequestCancel(ctx, id)
	}
	return err
}

// order has the engine do something to a job that is not under way here. It
// returns when that is durable.
func (s *Service) order(ctx context.Context, id string, queue bool, f func(context.Context, string) error) error {
	if _, err := s.store.Job(ctx, id); err != nil {
		return err
	}
	if s.shared {
		return f(ctx, id)
	}
	unlock, err := s.lock(id)
	if err != nil {
		return err
	}
	if queue {
		_, err := s.launch(id, unlock, true, f)
		return err
	}
	said := make(chan error, 1)
	d, err := s.launch(id, unlock, false, func(life context.Context, id string) error {
		err := f(life, id)
		said <- err
		return err
	})
	if err != nil {
		return err
	}
	select {
	case err := <-said:
		if err != nil { // nothing was begun: the next order finds the job free
			<-d.done
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Wait returns when the job has come to rest, or when this process stopped
// carrying it out.
func (s *Service) Wait(ctx context.Context, id string) (*Job, error) {
	for {
		s.mu.Lock()
		d := s.drives[id]
		s.mu.Unlock()
		if d != nil {
			select {
			case <-d.done:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		j, err := s.Job(ctx, id)
		if err != nil || j.Status.AtRest() {
			return j, err
		}
		if d != nil {
			if d.err == nil || s.life.Err() != nil {
				return j, ErrStopped
			}
			return j, d.err
		}
		if s.life.Err() != nil {
			return j, ErrStopped
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(s.tick):
		}
	}
}

// Recover goes on with every unfinished job that no other process is at work
// on; called once at start by a process that is to do so.
func (s *Service) Recover(ctx context.Context) error {
	if s.shared {
		return s.engine.Recover(ctx)
	}
	all, err := s.store.Jobs(ctx, Filter{Unfinished: true})
	if err != nil {
		return err
	}
	for i := len(all) - 1; i >= 0; i-- { // the oldest first
		err := s.Resume(ctx, all[i].ID)
		if err != nil && !errors.Is(err, ErrLocked) {
			return err
		}
	}
	return nil
}

// Sweep removes what only a resume needs of jobs that have come to rest elsewhere,
// where several machines share a store: the journals and layers of a worker that
// lost them. Called at start and now and then.
func (s *Service) Sweep(ctx context.Context) error {
	folders, err := os.ReadDir(filepath.Join(s.folder, "jobs"))
	if err != nil {
		return fmt.Errorf("cannot look for what jobs have left: %w", err)
	}
	for _, f := range folders {
		j, err := s.store.Job(ctx, f.Name())
		if err != nil && !errors.Is(err, ErrNoJob) {
			return err
		}
		s.mu.Lock()
		busy := s.here[f.Name()] != nil
		s.mu.Unlock()
		if busy || err == nil && (!j.Status.AtRest() || j.Status == Failed) { // a failed one may be retried here
			continue
		}
		dir := s.jobDir(f.Name())
		names, err := filepath.Glob(filepath.Join(dir, "disk-*"))
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("cannot remove what a job has left: %w", err)
			}
		}
		_ = os.Remove(dir) // stays where it holds something else
	}
	return nil
}

// Limits are those in force.
func (s *Service) Limits() Limits { return s.limits.get() }

// SetLimits changes them from now on.
func (s *Service) SetLimits(l Limits) { s.limits.set(l) }

func (s *Service) ofJob(id string, f func(o *ownLimits)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.own[id]
	if o == nil {
		o = &ownLimits{}
		s.own[id] = o
	}
	f(o)
}

// ownSlots bounds the disks of one job.
func (s *Service) ownSlots(id string, n int) (out *slots) {
	if n <= 0 {
		n = 4
	}
	s.ofJob(id, func(o *ownLimits) {
		if o.disks.size == 0 {
			o.disks.size = n
		}
		out = &o.disks
	})
	return out
}

// ownRate caps the bandwidth of one job.
func (s *Service) ownRate(id string, b int64) (out *rate.Limiter) {
	s.ofJob(id, func(o *ownLimits) {
		if o.rate == nil {
			o.rate = newRate(b)
		}
		out = o.rate
	})
	return out
}

// Close stops the running steps at their next checkpoint, without failing them,
// and closes sessions. The jobs go on when they are resumed.
func (s *Service) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	err := s.engine.Close(ctx)
	s.end()
	s.wg.Wait()
	s.sessions.closeAll(ctx)
	return err
}
