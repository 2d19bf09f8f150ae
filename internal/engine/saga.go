package engine

import (
	"fmt"
	"slices"

	"ascend/internal/store"
)

// This file is the saga: what comes next. It does no I/O and knows no clock, so
// that it decides alike in a process and in a workflow that is replayed.

type op string

const (
	opPhase  op = "phase"  // store the job's status
	opRun    op = "run"    // do the steps, in parallel; when one fails, stop the others and await them
	opTurn   op = "turn"   // store that the job goes backward
	opUndo   op = "undo"   // undo one step
	opSettle op = "settle" // store that the job has come to rest
)

// command is what a port is asked to do.
type command struct {
	Op         op
	Steps      []string     `json:",omitempty"`
	Status     store.Status `json:",omitempty"`
	Reason     string       `json:",omitempty"`
	RolledBack bool         `json:",omitempty"`
}

type verdict string

const (
	done      verdict = "done"
	again     verdict = "again"     // another attempt, after a time; never leaves a port
	failed    verdict = "failed"    // for good
	cancelled verdict = "cancelled" // the job is to be cancelled
	stopped   verdict = "stopped"   // broken off: a sibling failed, or the engine closes
	fenced    verdict = "fenced"    // someone else drives
)

// result is how a command went, or one step of it.
type result struct {
	Step    string `json:",omitempty"`
	Verdict verdict
	Error   string `json:",omitempty"`
	Begun   bool   `json:",omitempty"` // an attempt was begun: there may be something to undo
}

// port carries commands out. For opRun it answers for each step, for others once.
type port interface {
	Do(command) []result
}

// saga is a job as its rows tell it.
type saga struct {
	Backward bool
	Keep     bool // fail without undo
	Outcome  store.Status
	Reason   string // why it goes backward
	Steps    []sagaStep
}

type sagaStep struct {
	Name   string
	Stage  int
	Phase  store.Status
	Done   bool // completed
	Begun  bool // an attempt was begun
	Undone bool
}

func sagaOf(j *store.Job, steps []store.Step) saga {
	s := saga{Backward: j.Direction == store.Backward, Keep: j.KeepOnFailure, Outcome: j.Outcome, Reason: j.ErrorMessage}
	for _, r := range steps {
		s.Steps = append(s.Steps, sagaStep{Name: r.Name, Stage: r.Stage, Phase: r.Phase,
			Done: r.Status == store.Completed, Begun: r.Attempt > 0, Undone: r.Status == store.RolledBack})
	}
	return s
}

// drive takes a job to its rest. It returns done, or why it could not: stopped or fenced.
func (s *saga) drive(p port) verdict {
	if !s.Backward {
		if v := s.forward(p); v != again {
			return v
		}
	}
	return s.backward(p)
}

// forward returns again when the job has turned.
func (s *saga) forward(p port) verdict {
	var stages []int
	for _, st := range s.Steps {
		if !st.Done && !slices.Contains(stages, st.Stage) {
			stages = append(stages, st.Stage)
		}
	}
	slices.Sort(stages)
	for _, stage := range stages {
		c := command{Op: opRun}
		phase := store.Running
		for _, st := range s.Steps {
			if st.Stage == stage && !st.Done {
				c.Steps = append(c.Steps, st.Name)
				if st.Phase != "" {
					phase = st.Phase
				}
			}
		}
		if v := p.Do(command{Op: opPhase, Status: phase})[0].Verdict; v != done {
			return v
		}
		if v, on := s.ran(p, p.Do(c)); !on {
			return v
		}
	}
	switch v := p.Do(command{Op: opSettle, Status: store.Completed})[0].Verdict; v {
	case cancelled: // asked for since the last step
		return s.turn(p, store.Cancelled, "")
	default:
		return v
	}
}

// ran decides what the results of a stage mean: to go on, or forward's answer.
func (s *saga) ran(p port, rs []result) (v verdict, on bool) {
	var worst *result
	rank := []verdict{done, stopped, failed, cancelled, fenced}
	for i, r := range rs {
		st := &s.Steps[slices.IndexFunc(s.Steps, func(x sagaStep) bool { return x.Name == r.Step })]
		st.Begun = st.Begun || r.Begun
		st.Done = r.Verdict == done
		if worst == nil || slices.Index(rank, r.Verdict) > slices.Index(rank, worst.Verdict) {
			worst = &rs[i]
		}
	}
	switch {
	case worst == nil || worst.Verdict == done:
		return done, true
	case worst.Verdict == cancelled:
		return s.turn(p, store.Cancelled, ""), false
	case worst.Verdict == failed:
		reason := fmt.Sprintf("%s: %s", worst.Step, worst.Error)
		if !s.Keep {
			return s.turn(p, store.Failed, reason), false
		}
		v := p.Do(command{Op: opSettle, Status: store.Failed, Reason: reason})[0].Verdict
		if v == cancelled { // what failed is not kept when it was cancelled
			return s.turn(p, store.Cancelled, ""), false
		}
		return v, false
	}
	return worst.Verdict, false
}

func (s *saga) turn(p port, outcome store.Status, reason string) verdict {
	s.Backward, s.Outcome, s.Reason = true, outcome, reason
	if v := p.Do(command{Op: opTurn, Status: outcome, Reason: reason})[0].Verdict; v != done {
		return v
	}
	return again
}

// backward undoes every step that was begun, the last first, one at a time. It
// stops at one that cannot be undone: what came before it may be in use by it.
func (s *saga) backward(p port) verdict {
	order := slices.Clone(s.Steps)
	slices.SortStableFunc(order, func(a, b sagaStep) int { return a.Stage - b.Stage })
	slices.Reverse(order)
	for _, st := range order {
		if !st.Begun || st.Undone {
			continue
		}
		switch r := p.Do(command{Op: opUndo, Steps: []string{st.Name}})[0]; r.Verdict {
		case done:
		case failed:
			reason := fmt.Sprintf("cannot undo %s: %s", st.Name, r.Error)
			if s.Reason != "" {
				reason = s.Reason + "; and " + reason
			}
			return p.Do(command{Op: opSettle, Status: store.Failed, Reason: reason})[0].Verdict
		default:
			return r.Verdict
		}
	}
	return p.Do(command{Op: opSettle, Status: s.Outcome, RolledBack: true})[0].Verdict
}
