package restore

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"ascend/internal/engine"
	"ascend/internal/plan"
)

// phase is one kind of step: when a plan has it, and what it does. To add one,
// add a line to phases: its place there is its place in the job.
type phase struct {
	kind string
	// title is the step's name; of a phase with one step for each disk, it is
	// followed by the disk's number.
	title   string
	perDisk bool
	status  Status // of the job meanwhile
	// wanted tells whether a job has the phase; nil: every one has.
	wanted func(*Spec) bool
	// bytes tells that the progress is the allocated bytes of the disk.
	bytes bool
	do    func(*task, context.Context) error
	// undo is nil where there is nothing to undo.
	undo func(*task, context.Context) error
}

// phases in the order of a job. Steps of one phase run in parallel.
var phases = []phase{
	{kind: "validate", status: "validating", title: "validate target", do: (*task).validate},
	{kind: "reserve", status: "validating", title: "reserve", do: (*task).reserve, undo: (*task).forgetFiles},
	{kind: "source", status: "validating", title: "open source", do: (*task).openSource},
	{kind: "adapt", status: "validating", title: "adapt guest", wanted: (*Spec).adapts, do: (*task).adapt, undo: (*task).forgetLayers},
	{kind: "proof", status: "validating", title: "boot proof", wanted: (*Spec).proves, do: (*task).proof},
	{kind: "begin", status: "creating", title: "create resources", do: (*task).begin, undo: (*task).removeAll},
	{kind: "transfer", status: "uploading", title: "transfer", perDisk: true, bytes: true, do: (*task).transfer, undo: (*task).forgetDisk},
	{kind: "finish", status: "creating", title: "create machine", do: (*task).finish, undo: (*task).removeAll},
	{kind: "verify", status: "verifying", title: "verify", perDisk: true, bytes: true, do: (*task).verify},
	{kind: "power", title: "power on", wanted: func(s *Spec) bool { return s.Plan.PowerOn }, do: (*task).powerOn},
	{kind: "receipt", title: "receipt", do: (*task).receipt},
	{kind: "cleanup", title: "clean up", do: (*task).cleanup},
}

// Attempts of a step and the wait before the second, which doubles up to a
// minute: a target that is away for some minutes is waited for.
const (
	stepAttempts = 10
	stepBackoff  = time.Second
)

// input is what a step's Input holds.
type input struct {
	Disk  int   `json:"disk"`            // position in the plan; -1: none
	Bytes int64 `json:"bytes,omitempty"` // allocated, of steps that move data
}

// Steps are those of a job, before it starts.
func Steps(s *Spec) []engine.Step {
	var out []engine.Step
	for stage, p := range phases {
		if p.wanted != nil && !p.wanted(s) {
			continue
		}
		if !p.perDisk {
			out = append(out, p.step(stage, p.title, input{Disk: -1}))
			continue
		}
		for i, d := range s.Plan.Disks {
			out = append(out, p.step(stage, diskStep(p.title, &d), input{Disk: i, Bytes: d.Source.Allocated}))
		}
	}
	return out
}

func (p *phase) step(stage int, name string, in input) engine.Step {
	b, err := json.Marshal(in)
	if err != nil {
		panic(err) // two numbers
	}
	return engine.Step{Name: name, Kind: p.kind, Stage: stage, Phase: string(p.status), Input: b, Attempts: stepAttempts, Backoff: stepBackoff}
}

func diskStep(title string, d *plan.Disk) string { return fmt.Sprintf("%s disk %d", title, d.Index) }

// handlers are the phases as the engine calls them.
func (s *Service) handlers() engine.Handlers {
	h := engine.Handlers{}
	for _, p := range phases {
		h[p.kind] = &handler{s, p}
	}
	return h
}

type handler struct {
	s *Service
	p phase
}

func (h *handler) Do(ctx context.Context, a *engine.Attempt) error {
	return h.run(ctx, a, h.p.do)
}

func (h *handler) Undo(ctx context.Context, a *engine.Attempt) error {
	if h.p.undo == nil {
		return nil
	}
	return h.run(ctx, a, h.p.undo)
}

func (h *handler) run(ctx context.Context, a *engine.Attempt, f func(*task, context.Context) error) error {
	if h.s.shared {
		defer h.s.attend(a.Job)()
	}
	t := &task{s: h.s, a: a, in: input{Disk: -1}}
	if err := json.Unmarshal(a.Step.Input, &t.in); err != nil {
		return fmt.Errorf("cannot read the step's input: %w: %w", engine.ErrPermanent, err)
	}
	var err error
	if t.spec, err = h.s.spec(ctx, a.Job); err != nil {
		return err
	}
	ctx, t.stop = context.WithCancelCause(ctx)
	defer t.stop(nil)
	err = f(t, ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause // cancelled, fenced or shut down: not a failure of the step
	}
	return classify(err)
}
