package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"ascend/internal/store"
)

// TemporalOptions are those of NewTemporal.
type TemporalOptions struct {
	Address   string // of the cluster's frontend, "host:7233"
	Namespace string // empty: "default"
	// Site is the place whose jobs this process carries out (store.Job.Site):
	// each has a task queue of its own. Empty: jobs of no site.
	Site string
	// Jobs bounds how many jobs this process carries out at once; others of the
	// site wait, or go to another worker. 0: 4.
	Jobs int
	// Held: nothing is taken on before Work is called.
	Held bool
	// ClientOnly hands jobs over and carries nothing out: no byte of a disk
	// passes through this process.
	ClientOnly bool
	// TLS to the cluster; nil: none.
	TLS *tls.Config
	// Liveness is after how long without a sign of life a worker counts as
	// lost, and another takes its steps over; 0: 15 s.
	Liveness time.Duration
	Worker   string
	Log      *slog.Logger
	Trace    func(point string)
}

// Temporal is the engine of many processes: they share a database and a
// Temporal cluster, which decides who carries out what. History holds names of
// jobs and steps, never their inputs or results.
//
// A job is held by one worker of its site at a time, which runs all of its
// steps: they share a session on the target. When that worker is lost, another
// one holds the job and goes on.
type Temporal struct {
	flow
	client client.Client
	// rows decides what comes next and stores it; jobs takes jobs on; steps runs
	// those of the jobs held here. nil of a client only.
	rows, jobs, steps worker.Worker
	drain             sync.Once
	drained           chan struct{} // closed when nothing is taken on or held any more
	working           bool
	deployment        string
}

var _ Engine = (*Temporal)(nil)

// NewTemporal connects to a cluster and begins to carry out steps. The store
// must be one that several machines can share.
func NewTemporal(ctx context.Context, s *store.Store, handlers Handlers, o TemporalOptions) (*Temporal, error) {
	if s.Kind() == store.SQLite {
		return nil, fmt.Errorf("cannot use Temporal with %s: several machines cannot share it; use PostgreSQL or MariaDB", s)
	}
	if o.Jobs <= 0 {
		o.Jobs = 4
	}
	t := &Temporal{flow: flow{runner: newRunner(s, handlers, o.Worker, o.Log, o.Trace), liveness: o.Liveness}, drained: make(chan struct{})}
	if t.liveness == 0 {
		t.liveness = 15 * time.Second
	}
	t.lease = t.liveness
	var err error
	t.client, err = client.DialContext(ctx, client.Options{
		HostPort: o.Address, Namespace: o.Namespace, Identity: t.worker, Logger: sdkLog{t.log},
		ConnectionOptions: client.ConnectionOptions{TLS: o.TLS},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot reach Temporal at %s: %w", o.Address, err)
	}
	if o.ClientOnly {
		return t, nil
	}
	t.holder = &holder{queue: queue(o.Site) + "/worker/" + store.NewID(), closing: make(chan struct{}), said: t.client.SignalWorkflow}
	t.deployment = deploymentName(o.Site)
	t.rows = worker.New(t.client, queue(o.Site), worker.Options{
		WorkerStopTimeout: time.Minute, DeadlockDetectionTimeout: standstill,
		DeploymentOptions: worker.DeploymentOptions{
			UseVersioning: true, Version: worker.WorkerDeploymentVersion{DeploymentName: t.deployment, BuildID: buildID(build)},
			DefaultVersioningBehavior: workflow.VersioningBehaviorAutoUpgrade,
		},
	})
	t.registerRows(t.rows)
	t.jobs = worker.New(t.client, jobsQueue(o.Site), worker.Options{
		DisableWorkflowWorker: true, MaxConcurrentActivityExecutionSize: o.Jobs, WorkerStopTimeout: stepLife,
		MaxHeartbeatThrottleInterval: holdBeat, DefaultHeartbeatThrottleInterval: holdBeat,
	})
	t.registerHold(t.jobs)
	t.steps = worker.New(t.client, t.holder.queue, worker.Options{
		DisableWorkflowWorker: true, WorkerStopTimeout: time.Minute,
		MaxHeartbeatThrottleInterval: t.liveness / 4, DefaultHeartbeatThrottleInterval: t.liveness / 4,
	})
	t.registerSteps(t.steps)
	if o.Held {
		return t, nil
	}
	if err := t.Work(ctx); err != nil {
		return nil, errors.Join(err, t.Close(ctx))
	}
	return t, nil
}

// Work begins to take jobs on and to carry out steps, of an engine that was made
// with TemporalOptions.Held.
func (t *Temporal) Work(ctx context.Context) error {
	for _, w := range []worker.Worker{t.steps, t.rows} {
		if err := w.Start(); err != nil {
			return fmt.Errorf("cannot work for Temporal: %w", err)
		}
	}
	t.working = true
	if err := t.claim(ctx); err != nil {
		return fmt.Errorf("cannot work for Temporal: %w", err)
	}
	if err := t.jobs.Start(); err != nil {
		return fmt.Errorf("cannot work for Temporal: %w", err)
	}
	return nil
}

// sdkLog takes down what the SDK says for those who look for its troubles: that an
// attempt failed, a worker was lost or the cluster does not answer is normal life,
// and is told elsewhere in this program's words.
type sdkLog struct{ log *slog.Logger }

func (l sdkLog) Debug(msg string, kv ...any) { l.log.Debug("temporal: "+msg, kv...) }
func (l sdkLog) Info(msg string, kv ...any)  { l.log.Debug("temporal: "+msg, kv...) }
func (l sdkLog) Warn(msg string, kv ...any)  { l.log.Debug("temporal: "+msg, kv...) }
func (l sdkLog) Error(msg string, kv ...any) { l.log.Info("temporal: "+msg, kv...) }

// standstill is how long the driver may seem to hang before the SDK takes it for
// deadlocked: on a busy machine a process stands still for more than the SDK's
// own second, and the driver itself waits for nothing.
const standstill = 8 * time.Second

func queue(site string) string {
	if site == "" {
		return "ascend"
	}
	return "ascend/" + site
}

// Signals of the workflow.
const (
	signalLook   = "look"   // the job's row changed: look at it again before leaving it
	signalCancel = "cancel" // likewise, and stop what runs
)

// signal tells the job's workflow to look at its row, and starts it if it does
// not run. This is durable when it returns.
func (t *Temporal) signal(ctx context.Context, job, name string) error {
	j, err := t.store.Job(ctx, job)
	if err != nil || j.Status.AtRest() {
		return err
	}
	steps, err := t.store.Steps(ctx, job)
	if err != nil {
		return err
	}
	in := flowInput{Job: job, Site: j.Site, Hold: true, Steps: sagaOf(j, steps).Steps}
	_, err = t.client.SignalWithStartWorkflow(ctx, "ascend/"+job, name, nil, client.StartWorkflowOptions{
		TaskQueue: queue(j.Site),
		// What it cannot cope with does not leave the job behind: it looks at the tables again.
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: 10 * time.Second, BackoffCoefficient: 2, MaximumInterval: 5 * time.Minute},
	}, flowName, in)
	if err != nil {
		return fmt.Errorf("cannot hand job %s to Temporal: %w", job, err)
	}
	return nil
}

// Start implements Engine.
func (t *Temporal) Start(ctx context.Context, job string) error {
	return t.signal(ctx, job, signalLook)
}

// Cancel implements Engine.
func (t *Temporal) Cancel(ctx context.Context, job string) error {
	if err := t.store.RequestCancel(ctx, job); err != nil {
		return err
	}
	return t.signal(ctx, job, signalCancel)
}

// Retry implements Engine.
func (t *Temporal) Retry(ctx context.Context, job string) error {
	if err := t.store.RequestRetry(ctx, job); err != nil {
		return err
	}
	return t.Start(ctx, job)
}

// Undo implements Engine.
func (t *Temporal) Undo(ctx context.Context, job string) error {
	if err := t.store.RequestUndo(ctx, job); err != nil {
		return err
	}
	return t.Start(ctx, job)
}

// Recover implements Engine. The tables being the truth, it is also the way
// from a lost cluster, or from the local engine: every unfinished job is
// submitted again under its own identifier, and does not run twice.
func (t *Temporal) Recover(ctx context.Context) error {
	ids, err := t.store.UnfinishedJobs(ctx)
	for _, id := range ids {
		if err == nil {
			err = t.Start(ctx, id)
		}
	}
	return err
}

// Wait implements Engine.
func (t *Temporal) Wait(ctx context.Context, job string) error { return waitRest(ctx, t.store, job) }

func waitRest(ctx context.Context, s *store.Store, job string) error {
	for {
		j, err := s.Job(ctx, job)
		if err != nil || j.Status.AtRest() {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(watchEvery / 4):
		}
	}
}

// Drain takes no more jobs on and returns when those held here have come to
// rest, or ctx ends. The process goes on deciding what comes next meanwhile.
func (t *Temporal) Drain(ctx context.Context) error {
	if !t.working {
		return nil
	}
	t.drain.Do(func() {
		go func() {
			t.jobs.Stop() // returns when no job is held any more
			close(t.drained)
		}()
	})
	select {
	case <-t.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Held is how many jobs this process holds.
func (t *Temporal) Held() int {
	if t.holder == nil {
		return 0
	}
	return int(t.holder.held.Load())
}

// Close implements Engine. Other workers go on with what ran here.
func (t *Temporal) Close(ctx context.Context) error {
	rest := make(chan struct{})
	go func() {
		defer close(rest)
		defer t.client.Close()
		if !t.working {
			return
		}
		t.holder.close()
		_ = t.Drain(context.Background())
		t.steps.Stop()
		t.rows.Stop()
	}()
	select {
	case <-rest:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot wait for the running steps: %w", ctx.Err())
	}
}

// flow is the workflow and its activities.
type flow struct {
	runner
	liveness time.Duration
	holder   *holder // nil where jobs are not held
}

// stepLife bounds one attempt: a restore may take long; life is told by heartbeats.
const stepLife = 60 * 24 * time.Hour

// Names under which Temporal knows the workflow and its activities. Running
// workflows refer to them: they never change.
const (
	flowName    = "ascend.job"
	takeName    = "ascend.take"
	commandName = "ascend.command"
	stepName    = "ascend.step"
	holdName    = "ascend.hold"
)

// registry is what both a worker and the test environment are.
type registry interface {
	RegisterWorkflowWithOptions(w any, o workflow.RegisterOptions)
	RegisterActivityWithOptions(a any, o activity.RegisterOptions)
}

func (f *flow) registerRows(r registry) {
	r.RegisterWorkflowWithOptions(f.workflow, workflow.RegisterOptions{Name: flowName})
	r.RegisterActivityWithOptions(f.takeActivity, activity.RegisterOptions{Name: takeName})
	r.RegisterActivityWithOptions(f.commandActivity, activity.RegisterOptions{Name: commandName})
}

func (f *flow) registerSteps(r registry) {
	r.RegisterActivityWithOptions(f.stepActivity, activity.RegisterOptions{Name: stepName})
}

// flowInput is the workflow's input: the step list that was stored with the job.
type flowInput struct {
	Job, Site string
	Hold      bool // by one worker, which runs its steps
	Steps     []sagaStep
}

// taken is a job taken over.
type taken struct {
	AtRest    bool
	Drive     int64
	Cancelled bool
	Saga      saga
}

// driverVersion is raised whenever the saga decides otherwise than before; the
// workflow then keeps the earlier behaviour for workflows that began with it.
const driverVersion = 1

func (f *flow) workflow(ctx workflow.Context, in flowInput) error {
	workflow.GetVersion(ctx, "driver", workflow.DefaultVersion, driverVersion)
	// Jobs are cancelled by their flag in the table, which is the truth, not by
	// a cancellation of the workflow: undo would not run.
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	p := &flowPort{job: in.Job, f: f, ctx: ctx}
	looks, cancels, helds := workflow.GetSignalChannel(ctx, signalLook), workflow.GetSignalChannel(ctx, signalCancel), workflow.GetSignalChannel(ctx, signalHeld)
	news := false
	workflow.Go(ctx, func(ctx workflow.Context) {
		sel := workflow.NewSelector(ctx)
		sel.AddReceive(looks, func(c workflow.ReceiveChannel, _ bool) {
			c.Receive(ctx, nil)
			news = true
		})
		sel.AddReceive(cancels, func(c workflow.ReceiveChannel, _ bool) {
			c.Receive(ctx, nil)
			news = true
			p.cancelled = true
			if p.cancel != nil {
				p.cancel()
			}
		})
		sel.AddReceive(helds, func(c workflow.ReceiveChannel, _ bool) {
			var queue string
			c.Receive(ctx, &queue)
			p.move(queue)
		})
		for {
			sel.Select(ctx)
		}
	})
	// Who drives, in the order of turns: see store.TakeDrive.
	var me string
	if err := workflow.SideEffect(ctx, func(workflow.Context) any { return store.NewID() }).Get(&me); err != nil {
		return err
	}
	held := false
	for turn := 1; ; turn++ {
		news = false
		var t taken
		if err := workflow.ExecuteActivity(f.shortActivity(ctx), takeName, in.Job, fmt.Sprintf("%s#%d", me, turn)).Get(ctx, &t); err != nil {
			return err
		}
		if t.AtRest {
			if news {
				continue
			}
			return nil
		}
		p.cancelled = p.cancelled || t.Cancelled
		if in.Hold {
			if !held {
				held = true
				workflow.ExecuteActivity(f.holdOptions(ctx, in.Site), holdName, in.Job)
			}
			// A job that is cancelled before it began need not wait for its turn.
			err := workflow.Await(ctx, func() bool { return p.queue != "" || p.cancelled && !t.Saga.begun() })
			if err != nil {
				return err
			}
		}
		p.stay, p.leave = workflow.WithCancel(ctx)
		p.doCtx, p.cancel = workflow.WithCancel(p.stay)
		p.drive, p.moved = t.Drive, false
		if p.cancelled {
			p.cancel()
		}
		v := t.Saga.drive(p)
		if p.err != nil {
			return p.err
		}
		if v == fenced {
			return nil // another engine has the job
		}
	}
}

// shortActivity is for those that only store: tried until the database answers. A
// worker that stands still may have been given one: it is lost after the liveness,
// and comes too late when it wakes up.
func (f *flow) shortActivity(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: f.liveness,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 2, MaximumInterval: 10 * time.Second},
	})
}

// flowPort carries a saga's commands out by activities.
type flowPort struct {
	f         *flow
	job       string
	drive     int64
	ctx       workflow.Context
	stay      workflow.Context // of steps; ends when another worker holds the job
	doCtx     workflow.Context // likewise, and when it is cancelled
	leave     workflow.CancelFunc
	cancel    workflow.CancelFunc
	queue     string // of the worker that holds the job
	moved     bool
	cancelled bool
	started   int64 // activities started in all
	err       error
}

func (p *flowPort) Do(c command) []result {
	switch c.Op {
	case opRun:
		return p.run(c.Steps)
	case opUndo:
		return []result{p.get(p.start(p.stay, c.Steps[0], true), p.ctx, c.Steps[0])}
	}
	var r result
	if err := workflow.ExecuteActivity(p.f.shortActivity(p.ctx), commandName, p.job, p.drive, c).Get(p.ctx, &r); err != nil {
		p.err = err
		r.Verdict = stopped
	}
	return []result{r}
}

func (p *flowPort) start(ctx workflow.Context, step string, undo bool) workflow.Future {
	p.started++
	return workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		TaskQueue:           p.queue,
		StartToCloseTimeout: stepLife,
		HeartbeatTimeout:    p.f.liveness,
		WaitForCancellation: true,
		// Attempts are counted in the table, across crashes and workers.
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, BackoffCoefficient: 1},
	}), stepName, call{Job: p.job, Step: step, Undo: undo, Drive: p.drive, Epoch: p.started})
}

func (p *flowPort) get(f workflow.Future, ctx workflow.Context, step string) result {
	r := result{Step: step}
	err := f.Get(ctx, &r)
	if err == nil {
		return r
	}
	// A step that was told to end answers so, or its worker was lost meanwhile.
	r = result{Step: step, Verdict: stopped, Begun: true}
	switch {
	case !temporal.IsCanceledError(err) && !temporal.IsTimeoutError(err):
		p.err = err
	case p.cancelled && !p.moved:
		r.Verdict = cancelled
	}
	return r
}

// run does steps in parallel. When one fails, the others are stopped and awaited.
func (p *flowPort) run(names []string) []result {
	ctx, cancel := workflow.WithCancel(p.doCtx)
	defer cancel()
	rs := make([]result, len(names))
	sel := workflow.NewSelector(p.ctx)
	for i, n := range names {
		sel.AddFuture(p.start(ctx, n, false), func(f workflow.Future) {
			// Get on a context of its own: it must await a stopped step.
			rs[i] = p.get(f, p.ctx, n)
			if rs[i].Verdict != done {
				cancel()
			}
		})
	}
	for range names {
		sel.Select(p.ctx)
	}
	return rs
}

func (f *flow) takeActivity(ctx context.Context, job, driver string) (t taken, err error) {
	j, err := f.store.Job(ctx, job)
	if errors.Is(err, store.ErrNotFound) {
		return taken{AtRest: true}, nil
	}
	if err != nil || j.Status.AtRest() {
		return taken{AtRest: err == nil}, err
	}
	if j, err = f.store.TakeDrive(ctx, job, driver); err != nil {
		return t, err
	}
	steps, err := f.store.Steps(ctx, job)
	return taken{Drive: j.Drive, Cancelled: j.CancelRequested, Saga: sagaOf(j, steps)}, err
}

func (f *flow) commandActivity(ctx context.Context, job string, drive int64, c command) (result, error) {
	v, err := f.command(ctx, job, drive, c)
	return result{Verdict: v}, err
}

// stepActivity runs one attempt of a step. Temporal calls it again, here or
// elsewhere, when it returns an error or gives no sign of life.
func (f *flow) stepActivity(ctx context.Context, c call) (result, error) {
	c.Epoch = epoch(c.Drive, c.Epoch, activity.GetInfo(ctx).Attempt)
	actx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	stop := make(chan struct{})
	defer close(stop)
	go f.attend(ctx, actx, c, cancel, stop)
	a, err := f.attempt(actx, c)
	switch {
	case err != nil:
		return a.result, err
	case a.Verdict == again:
		return a.result, later(a.Error, a.After)
	case a.Verdict == stopped && errors.Is(context.Cause(actx), errClosing):
		return a.result, later("the worker shuts down", 10*time.Millisecond)
	case a.Verdict == stopped && a.alone:
		return a.result, later(errAlone.Error(), time.Second)
	}
	return a.result, nil
}

// attend gives signs of life while an attempt runs, until stop: also while it
// comes to its end after it was told to. It tells the attempt why it is to end.
func (f *flow) attend(ctx, actx context.Context, c call, end context.CancelCauseFunc, stop <-chan struct{}) {
	beat := time.NewTicker(f.liveness / 4)
	defer beat.Stop()
	closing, ended := activity.GetWorkerStopChannel(ctx), ctx.Done()
	for {
		select {
		case <-stop:
			return
		case <-closing:
			closing = nil
			end(errClosing)
		case <-ended:
			ended = nil
			// The flag tells a cancelled job from a stage that failed.
			if j, err := f.store.Job(actx, c.Job); err == nil && j.CancelRequested && !c.Undo {
				end(ErrCancelled)
			} else {
				end(errSibling)
			}
		case <-beat.C:
			activity.RecordHeartbeat(ctx)
		}
	}
}
