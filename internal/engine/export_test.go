package engine

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"

	"ascend/internal/store"
)

// TestFlow is an engine that runs the workflow in the SDK's test environment.
type TestFlow struct {
	flow
	t    testing.TB
	mu   sync.Mutex
	envs map[string]*testFlow
}

type testFlow struct {
	env  *testsuite.TestWorkflowEnvironment
	done chan struct{}
	// started is closed when the workflow runs; the environment takes no
	// signal before.
	started chan struct{}
}

func NewTestFlow(t testing.TB, s *store.Store, h Handlers) *TestFlow {
	return &TestFlow{flow: flow{runner: newRunner(s, h, "test", nil, nil), liveness: time.Minute}, t: t, envs: map[string]*testFlow{}}
}

func (f *TestFlow) signal(ctx context.Context, job, name string) error {
	j, err := f.store.Job(ctx, job)
	if err != nil || j.Status.AtRest() {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if run := f.envs[job]; run != nil {
		select {
		case <-run.done:
		default:
			select {
			case <-run.started:
			case <-run.done:
			}
			run.env.SignalWorkflow(name, nil)
			return nil
		}
	}
	steps, err := f.store.Steps(ctx, job)
	if err != nil {
		return err
	}
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(nopLogger{})
	run := &testFlow{env: suite.NewTestWorkflowEnvironment(), done: make(chan struct{}), started: make(chan struct{})}
	var once sync.Once
	run.env.SetOnActivityStartedListener(func(*activity.Info, context.Context, converter.EncodedValues) {
		once.Do(func() { close(run.started) })
	})
	run.env.SetTestTimeout(time.Minute)
	// A machine that stands still for a second, as a busy one does, is no deadlock:
	// by default the environment fails the workflow for it.
	run.env.SetWorkerOptions(worker.Options{DeadlockDetectionTimeout: time.Minute})
	f.registerRows(run.env)
	f.registerSteps(run.env)
	f.envs[job] = run
	go func() {
		defer close(run.done)
		run.env.ExecuteWorkflow(flowName, flowInput{Job: job, Steps: sagaOf(j, steps).Steps})
		if err := run.env.GetWorkflowError(); err != nil {
			f.t.Errorf("workflow: %v", err)
		}
	}()
	return nil
}

type nopLogger struct{}

func (nopLogger) Debug(string, ...any) {}
func (nopLogger) Info(string, ...any)  {}
func (nopLogger) Warn(string, ...any)  {}
func (nopLogger) Error(string, ...any) {}

func (f *TestFlow) Start(ctx context.Context, job string) error {
	return f.signal(ctx, job, signalLook)
}

func (f *TestFlow) Cancel(ctx context.Context, job string) error {
	if err := f.store.RequestCancel(ctx, job); err != nil {
		return err
	}
	return f.signal(ctx, job, signalCancel)
}

func (f *TestFlow) Retry(ctx context.Context, job string) error {
	if err := f.store.RequestRetry(ctx, job); err != nil {
		return err
	}
	return f.Start(ctx, job)
}

func (f *TestFlow) Undo(ctx context.Context, job string) error {
	if err := f.store.RequestUndo(ctx, job); err != nil {
		return err
	}
	return f.Start(ctx, job)
}

func (f *TestFlow) Wait(ctx context.Context, job string) error {
	if err := waitRest(ctx, f.store, job); err != nil {
		return err
	}
	f.mu.Lock()
	run := f.envs[job]
	f.mu.Unlock()
	if run == nil {
		return nil
	}
	select {
	case <-run.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *TestFlow) Recover(context.Context) error { return nil }
func (f *TestFlow) Close(context.Context) error   { return nil }

// SetBuild makes workers of this process ones of another version of the driver.
func SetBuild(driver int) { build = driver }

// Decider is the worker that decided last what comes next in a job.
func (t *Temporal) Decider(ctx context.Context, job string) (worker string, err error) {
	h := t.client.GetWorkflowHistory(ctx, "ascend/"+job, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for h.HasNext() {
		e, err := h.Next()
		if err != nil {
			return "", err
		}
		if a := e.GetWorkflowTaskCompletedEventAttributes(); a != nil {
			worker = a.Identity
		}
	}
	return worker, nil
}
