package runbook

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Errors of what a run is told to do.
var (
	// ErrState: not possible in the run's status.
	ErrState = errors.New("not possible in the run's status")
	// ErrStopped: something critical stands in the way.
	ErrStopped = errors.New("the runbook cannot work as it is")
)

// Consent is the error of a run whose warnings were not accepted.
type Consent struct{ Missing []string }

func (e *Consent) Error() string {
	return "there are warnings that were not accepted: " + strings.Join(e.Missing, ", ")
}

func (r *Run) wrong(what string) error {
	return fmt.Errorf("cannot %s the run: it is %s: %w", what, r.Status, ErrState)
}

// PlanNext is the next machine that is to be planned; ok is false when all are.
func (r *Run) PlanNext() (next At, ok bool) {
	r.Each(func(at At, m *MachineRun) {
		if !ok && r.Status == Planning && m.Plan == nil && m.Trouble == "" {
			next, ok = at, true
		}
	})
	return next, ok
}

// NotePlan notes the plan of a machine, or why there is none. With the last one
// the run is planned.
func (r *Run) NotePlan(at At, o *Outline, trouble string) {
	m := r.machine(at)
	m.Plan, m.Trouble = o, trouble
	if _, more := r.PlanNext(); !more && r.Status == Planning {
		r.Status = Planned
	}
}

// Apply begins a planned run. It is ErrStopped or a *Consent when it may not.
func (r *Run) Apply(accept []string, now time.Time) error {
	if r.Status != Planned {
		return r.wrong("apply")
	}
	s := r.Summary()
	if s.Stopped {
		return fmt.Errorf("%w: %s", ErrStopped, s.Why())
	}
	if missing := slices.DeleteFunc(s.Consent, func(c string) bool { return slices.Contains(accept, c) }); len(missing) > 0 {
		return &Consent{missing}
	}
	r.Accepted, r.Status, r.Started = accept, Running, now
	return nil
}

// Accept are the codes that are accepted for a machine.
func (r *Run) Accept(at At) []string {
	return slices.Concat(r.Document.Settings(r.Entry(at)).Accept, r.Accepted)
}

// Cancel stops a run: jobs under way are cancelled, with what they made removed;
// machines that are restored stay.
func (r *Run) Cancel(now time.Time) error {
	switch r.Status {
	case Planning, Planned:
		r.Each(func(_ At, m *MachineRun) { m.Status = Cancelled })
		for i := range r.Groups {
			r.Groups[i].Status = Cancelled
		}
		r.Status, r.Finished = Cancelled, now
	case Running:
		r.Status = Cancelling
	default:
		return r.wrong("cancel")
	}
	return nil
}

// Retry goes on with a failed run: machines whose restore failed go on from the
// step that failed, or anew where nothing of it is left; those that are restored
// and did not meet their condition are looked at again; held groups follow.
func (r *Run) Retry(now time.Time) error {
	if r.Status != Failed {
		return r.wrong("retry")
	}
	r.Each(func(at At, m *MachineRun) {
		switch m.Status {
		case Failed, Cancelled, Held:
		default:
			return
		}
		m.Error, m.Finished = "", time.Time{}
		if m.Status == Failed && !m.Restored.IsZero() && !m.RolledBack {
			r.check(at, m, now)
			return
		}
		if m.RolledBack || m.Status == Cancelled {
			m.Job, m.RolledBack, m.Restored = "", false, time.Time{}
		}
		m.Status = Pending
	})
	for i := range r.Groups {
		if g := &r.Groups[i]; g.Status != Completed {
			g.Finished, g.Until = time.Time{}, time.Time{}
			if g.Status = Pending; !g.Started.IsZero() {
				g.Status = Running
			}
		}
	}
	r.Status, r.Finished = Running, time.Time{}
	return nil
}
