// Package enginetest is the conformance suite of engines: one-line scenarios
// with the order of do and undo that each must show, whatever drives. The steps
// act on a world of files, so that what happened can be told after a process
// was killed.
package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ascend/internal/engine"
)

// World is what scenario steps act on: a folder with a log of deeds and a file
// for each thing that exists. Several processes may share it.
type World struct{ dir string }

// NewWorld uses an existing folder.
func NewWorld(dir string) *World { return &World{dir: dir} }

// deed is the input of a scenario step.
type deed struct {
	Fail     int    `json:",omitempty"` // so many attempts fail; <0: for good
	Panic    int    `json:",omitempty"` // so many attempts panic
	Wait     int    `json:",omitempty"` // so many attempts ask for another by RetryAfter
	UndoFail int    `json:",omitempty"` // so many undos fail; <0: for good
	Block    bool   `json:",omitempty"` // runs until its context ends, unless "go" exists
	Units    int    `json:",omitempty"` // counts so many units with checkpoints
	Await    string `json:",omitempty"` // waits until another step has begun
}

// Parse reads a scenario: steps in order, one stage each; "b+c" are two of one
// stage. A step is a name and marks:
//
//	a!      fails for good        a~2   fails twice, then succeeds
//	a?1     panics once           a@1   asks once for a later attempt
//	a^      cannot be undone      a^~1  the first undo fails
//	a%      blocks until its context ends
//	a#9     counts nine units, with a checkpoint after each
//	a>b     waits until b has begun, before it does what else is said
func Parse(scenario string) []engine.Step {
	var steps []engine.Step
	for stage, part := range strings.Fields(scenario) {
		for _, s := range strings.Split(part, "+") {
			name, marks := s, ""
			if i := strings.IndexAny(s, "!~?@^%#>"); i >= 0 {
				name, marks = s[:i], s[i:]
			}
			var d deed
			for marks != "" {
				m := marks[0]
				marks = marks[1:]
				undo := m == '^'
				if undo && strings.HasPrefix(marks, "~") {
					m, marks = '~', marks[1:]
				}
				digits := len(marks) - len(strings.TrimLeft(marks, "0123456789"))
				n, _ := strconv.Atoi(marks[:digits]) // 0 without digits
				marks = marks[digits:]
				switch m {
				case '!':
					d.Fail = -1
				case '~':
					if undo {
						d.UndoFail = n
					} else {
						d.Fail = n
					}
				case '^':
					d.UndoFail = -1
				case '?':
					d.Panic = n
				case '@':
					d.Wait = n
				case '%':
					d.Block = true
				case '#':
					d.Units = n
				case '>':
					d.Await, marks = marks[:1], marks[1:]
				}
			}
			in, _ := json.Marshal(d)
			steps = append(steps, engine.Step{Name: name, Kind: "deed", Stage: stage, Input: in, Attempts: 4, Backoff: time.Millisecond, Phase: "uploading"})
		}
	}
	return steps
}

// Handlers are those of the scenario steps.
func (w *World) Handlers() engine.Handlers { return engine.Handlers{"deed": handler{w}} }

type handler struct{ w *World }

// count adds one to a counter that survives the process, and returns it.
func (w *World) count(name string) int {
	f, err := os.OpenFile(filepath.Join(w.dir, "count "+name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString("x"); err != nil {
		panic(err)
	}
	fi, err := f.Stat()
	if err != nil {
		panic(err)
	}
	return int(fi.Size())
}

// log appends a line; lines are in the order of their deeds.
func (w *World) log(line string) {
	f, err := os.OpenFile(filepath.Join(w.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		panic(err)
	}
}

// Log is what happened, one deed a line.
func (w *World) Log() []string {
	b, _ := os.ReadFile(filepath.Join(w.dir, "log")) // none: nothing happened
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// Things are the names of what exists.
func (w *World) Things() []string {
	ms, _ := filepath.Glob(filepath.Join(w.dir, "thing *"))
	var names []string
	for _, m := range ms {
		names = append(names, strings.TrimPrefix(filepath.Base(m), "thing "))
	}
	slices.Sort(names)
	return names
}

// Begun tells whether a do of the step has begun.
func (w *World) Begun(step string) bool {
	_, err := os.Stat(filepath.Join(w.dir, "count do "+step))
	return err == nil
}

// Go lets blocking steps end.
func (w *World) Go() {
	if err := os.WriteFile(filepath.Join(w.dir, "go"), nil, 0o600); err != nil {
		panic(err)
	}
}

func (w *World) has(name string) bool {
	_, err := os.Stat(filepath.Join(w.dir, name))
	return err == nil
}

const tick = 2 * time.Millisecond

func (h handler) Do(ctx context.Context, a *engine.Attempt) error {
	var d deed
	if err := json.Unmarshal(a.Step.Input, &d); err != nil {
		return err
	}
	name := a.Step.Name
	poll := time.NewTicker(tick)
	defer poll.Stop()
	wait := func(until func() bool) error {
		for i := int64(0); !until(); i++ {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-poll.C:
			}
			if err := a.Host.Progress(ctx, 0, 1); err != nil {
				return err
			}
		}
		return nil
	}
	if d.Await != "" {
		if err := wait(func() bool { return h.w.Begun(d.Await) }); err != nil {
			return err
		}
	}
	h.w.log("do " + name)
	n := h.w.count("do " + name)
	switch {
	case d.Fail < 0:
		return fmt.Errorf("cannot do %s: %w", name, engine.ErrPermanent)
	case n <= d.Fail:
		return errors.New("not yet")
	case n <= d.Panic:
		panic("at the step " + name)
	case n <= d.Wait:
		return &engine.RetryAfter{After: tick, Reason: errors.New("slow down")}
	}
	// What the step makes exists once; made again is an error.
	if !h.w.has("thing " + name) {
		f, err := os.OpenFile(filepath.Join(h.w.dir, "thing "+name), os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		f.Close()
	}
	if d.Block {
		if err := wait(func() bool { return h.w.has("go") }); err != nil {
			return err
		}
	}
	at := 0
	if a.Checkpoint != nil {
		if err := json.Unmarshal(a.Checkpoint, &at); err != nil {
			return err
		}
	}
	for ; at < d.Units; at++ {
		h.w.log(fmt.Sprintf("unit %s %d", name, at))
		if err := a.Host.Progress(ctx, int64(at+1), int64(d.Units)); err != nil {
			return err
		}
		if err := a.Host.Save(ctx, at+1); err != nil {
			return err
		}
	}
	return a.Host.Result(ctx, map[string]int{"attempt": a.Number})
}

func (h handler) Undo(ctx context.Context, a *engine.Attempt) error {
	var d deed
	if err := json.Unmarshal(a.Step.Input, &d); err != nil {
		return err
	}
	name := a.Step.Name
	n := h.w.count("undo " + name)
	h.w.log("undo " + name)
	// Undo ignores the cancel: none of these fails for it.
	if err := a.Host.Progress(ctx, 1, 1); err != nil {
		return err
	}
	switch {
	case d.UndoFail < 0:
		return fmt.Errorf("cannot undo %s: %w", name, engine.ErrPermanent)
	case n <= d.UndoFail:
		return errors.New("not yet")
	}
	if err := os.Remove(filepath.Join(h.w.dir, "thing "+name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
