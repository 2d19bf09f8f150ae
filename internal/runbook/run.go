package runbook

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ascend/internal/plan"
)

// Status of a run, a group or a machine.
type Status string

// A run is planning, planned, running, cancelling and at rest. A group is
// pending, running, waiting (its pause), and at rest; held when a group before it
// failed. A machine is pending, starting, running (its job), checking (its
// condition), and at rest.
const (
	Planning   Status = "planning"
	Planned    Status = "planned"
	Pending    Status = "pending"
	Starting   Status = "starting"
	Running    Status = "running"
	Checking   Status = "checking"
	Waiting    Status = "waiting"
	Held       Status = "held"
	Cancelling Status = "cancelling"
	Completed  Status = "completed"
	Failed     Status = "failed"
	Cancelled  Status = "cancelled"
)

// AtRest tells whether nothing more happens by itself; a planned run is at rest.
func (s Status) AtRest() bool {
	return s == Planned || s == Completed || s == Failed || s == Cancelled || s == Held
}

// Run is a runbook under way, and all that is known of it. It is stored after
// every change, and goes on from there whoever drives it next. Not safe for
// concurrent use.
type Run struct {
	ID       string     `json:"id"`
	Runbook  string     `json:"runbook,omitempty"` // the id of the stored runbook it was made from
	Document *Document  `json:"document"`          // as it was then
	Status   Status     `json:"status"`
	Groups   []GroupRun `json:"groups"`
	By       string     `json:"by"`
	Accepted []string   `json:"accepted,omitempty"` // codes of warnings, when it was applied
	Created  time.Time  `json:"created"`
	Started  time.Time  `json:"started,omitzero"`
	Finished time.Time  `json:"finished,omitzero"`
}

// GroupRun is a group of a run.
type GroupRun struct {
	Name     string       `json:"name"`
	Status   Status       `json:"status"`
	Machines []MachineRun `json:"machines"`
	Started  time.Time    `json:"started,omitzero"`
	Finished time.Time    `json:"finished,omitzero"`
	// Until is the end of its pause.
	Until time.Time `json:"until,omitzero"`
}

// MachineRun is a machine of a run.
type MachineRun struct {
	Status Status `json:"status"`
	// Plan is what a restore would do; nil: not planned yet.
	Plan *Outline `json:"plan,omitempty"`
	// Trouble is why no plan can be made.
	Trouble string `json:"trouble,omitempty"`
	Job     string `json:"job,omitempty"`
	// Attempt counts the jobs begun for this machine.
	Attempt int    `json:"attempt"`
	Error   string `json:"error,omitempty"` // why it failed, for people
	// RolledBack: nothing of what the failed job made is left.
	RolledBack bool `json:"rolled_back,omitempty"`
	// Seen is what the condition found.
	Seen     string    `json:"seen,omitempty"`
	Evidence Evidence  `json:"evidence,omitzero"`
	Started  time.Time `json:"started,omitzero"`
	Restored time.Time `json:"restored,omitzero"` // the job was completed
	Finished time.Time `json:"finished,omitzero"`
	// Deadline of its condition.
	Deadline time.Time `json:"deadline,omitzero"`
}

// Outline is what the plan of one machine says.
type Outline struct {
	ID      string         `json:"id"` // of the plan
	Backup  string         `json:"backup"`
	VM      string         `json:"vm"`
	Taken   time.Time      `json:"taken,omitzero"` // the backup
	Name    string         `json:"name"`
	Target  plan.TargetRef `json:"target"`
	Disks   int            `json:"disks"`
	Bytes   int64          `json:"bytes"` // allocated
	Seconds int64          `json:"seconds,omitempty"`
	// Cost a month, a decimal amount; "": not known.
	Cost     string         `json:"cost,omitempty"`
	Currency string         `json:"currency,omitempty"`
	Findings []plan.Finding `json:"findings,omitempty"`
	Needs    []plan.Need    `json:"needs,omitempty"`
}

// Evidence is what a completed job proves.
type Evidence struct {
	VM       string `json:"vm,omitempty"` // the machine's id on the target
	Disks    int    `json:"disks,omitempty"`
	Verified int    `json:"verified,omitempty"` // of Disks
	Proof    string `json:"proof,omitempty"`    // the boot proof's grade
}

// At names a machine of a run.
type At struct{ Group, Machine int }

// Key is the same for every attempt to begin the same job, whoever makes it.
func (r *Run) Key(at At) string {
	return fmt.Sprintf("runbook/%s/%d/%d/%d", r.ID, at.Group, at.Machine, r.machine(at).Attempt)
}

func (r *Run) machine(at At) *MachineRun { return &r.Groups[at.Group].Machines[at.Machine] }

// Machine is one of a run's.
func (r *Run) Machine(at At) *MachineRun { return r.machine(at) }

// Entry is what the document says of a machine.
func (r *Run) Entry(at At) Machine { return r.Document.Groups[at.Group].Machines[at.Machine] }

// New makes a run that is to be planned.
func New(id, by string, d *Document, now time.Time) *Run {
	r := &Run{ID: id, Document: d, Status: Planning, By: by, Created: now}
	for _, g := range d.Groups {
		r.Groups = append(r.Groups, GroupRun{Name: g.Name, Status: Pending, Machines: make([]MachineRun, len(g.Machines))})
		for i := range g.Machines {
			r.Groups[len(r.Groups)-1].Machines[i].Status = Pending
		}
	}
	return r
}

// Each calls f for every machine, in order.
func (r *Run) Each(f func(At, *MachineRun)) {
	for i := range r.Groups {
		for j := range r.Groups[i].Machines {
			f(At{i, j}, &r.Groups[i].Machines[j])
		}
	}
}

// Seen is what is known now of a machine's job.
type Seen struct {
	Status     string // the job's
	AtRest     bool
	Error      string
	RolledBack bool
	Evidence   Evidence
}

// Look is what a condition found.
type Look struct {
	OK   bool
	Text string // what was seen, for people
	// Never: it cannot be any more.
	Never bool
}

// View is what a Run asks of the world. The functions are called during Step
// only, and are nil where nothing is known.
type View struct {
	Now time.Time
	// Job tells the state of a job; ok is false when nothing can be told now.
	Job func(id string) (Seen, bool)
	// Look tells whether a machine meets its group's condition; ok is false when
	// nothing can be told now.
	Look func(At) (Look, bool)
}

// Do is something to be done; each may be done again after a crash.
type Do struct {
	At
	What What
	Job  string
}

// What is to be done.
type What string

// Things to be done.
const (
	Begin  What = "begin"  // a job by the run's Key; then Begun or NotBegun
	Find   What = "find"   // whether a job was begun by the run's Key; then Begun or Dropped
	Cancel What = "cancel" // the job
	Redo   What = "retry"  // the job, from the step that failed; then Begun or NotBegun
)

// Begun notes the job of a machine.
func (r *Run) Begun(at At, job string, now time.Time) {
	m := r.machine(at)
	m.Job, m.Status = job, Running
	if m.Started.IsZero() {
		m.Started = now
	}
}

// NotBegun notes why no job could be begun.
func (r *Run) NotBegun(at At, why string, now time.Time) {
	r.fail(r.machine(at), why, now)
}

// Dropped notes that a machine of a cancelled run was never begun.
func (r *Run) Dropped(at At, now time.Time) {
	m := r.machine(at)
	m.Status, m.Finished = Cancelled, now
}

func (r *Run) fail(m *MachineRun, why string, now time.Time) {
	m.Status, m.Error, m.Finished = Failed, why, now
}

// Step takes in what is seen, moves the run on, and says what is to be done. It is
// called again with the same view without harm: what is to be done is said until
// it is noted. changed: the run is to be stored before anything is done.
func (r *Run) Step(v View) (do []Do, changed bool) {
	if r.Status != Running && r.Status != Cancelling {
		return nil, false
	}
	was := r.mark()
	r.observe(v)
	if r.Status == Cancelling {
		do = r.cancelStep(v.Now)
	} else {
		do = r.forward(v.Now)
	}
	return do, was != r.mark()
}

// mark is a text that changes when anything of a run's state does.
func (r *Run) mark() string {
	var b strings.Builder
	fmt.Fprintln(&b, r.Status)
	for _, g := range r.Groups {
		fmt.Fprintln(&b, g.Status, g.Until)
		for _, m := range g.Machines {
			fmt.Fprintln(&b, m.Status, m.Job, m.Attempt, m.Seen, m.Error)
		}
	}
	return b.String()
}

// observe takes in the state of jobs and conditions.
func (r *Run) observe(v View) {
	r.Each(func(at At, m *MachineRun) {
		if m.Status == Running && m.Job != "" && v.Job != nil {
			if s, ok := v.Job(m.Job); ok && s.AtRest {
				r.ended(at, m, s, v.Now)
			}
		}
		if m.Status == Checking && v.Look != nil {
			l, ok := v.Look(at)
			if ok {
				m.Seen = l.Text
			}
			switch {
			case ok && l.OK:
				m.Status, m.Finished = Completed, v.Now
			case ok && l.Never:
				r.fail(m, "the machine is restored, but "+l.Text, v.Now)
			case !v.Now.Before(m.Deadline):
				r.fail(m, "the machine is restored, but in time it was not seen that it is "+condition(r.Document.Groups[at.Group].Until)+last(m.Seen), v.Now)
			}
		}
	})
}

func last(seen string) string {
	if seen == "" {
		return ""
	}
	return "; last: " + seen
}

// condition says a condition in words.
func condition(c Condition) string {
	switch c.Is {
	case PoweredOn:
		return "powered on"
	case Address:
		return "reachable by an address"
	case BootProof:
		return "proven to boot"
	}
	return "restored"
}

// ended takes in a job that has come to rest.
func (r *Run) ended(at At, m *MachineRun, s Seen, now time.Time) {
	switch s.Status {
	case "completed":
		m.Restored, m.Evidence, m.Error, m.RolledBack = now, s.Evidence, "", false
		r.check(at, m, now)
	case "cancelled":
		m.Status, m.Error, m.RolledBack, m.Finished = Cancelled, "", true, now
		if r.Status == Running { // by somebody else
			m.Status, m.Error = Failed, "its restore was cancelled"
		}
	case "undone":
		m.RolledBack = true
		r.fail(m, "its restore was undone", now)
	default:
		m.RolledBack = s.RolledBack
		r.fail(m, s.Error, now)
	}
}

// check begins to look for the condition of a restored machine.
func (r *Run) check(at At, m *MachineRun, now time.Time) {
	c := r.Document.Groups[at.Group].Until
	if c.Is == "" || c.Is == Restored {
		m.Status, m.Finished = Completed, now
		return
	}
	limit, err := Duration(c.Timeout, defaultTimeout)
	if err != nil {
		limit = defaultTimeout
	}
	m.Status, m.Deadline, m.Seen, m.Error, m.Finished = Checking, now.Add(limit), "", "", time.Time{}
}

// forward moves the groups on in their order.
func (r *Run) forward(now time.Time) (do []Do) {
	room := r.Document.Limits.Concurrency
	if room <= 0 {
		room = defaultConcurrency
	}
	r.Each(func(_ At, m *MachineRun) {
		if m.Status == Starting || m.Status == Running {
			room--
		}
	})
	held, failed := false, false
	for i := range r.Groups {
		g, d := &r.Groups[i], &r.Document.Groups[i]
		if held {
			g.hold()
			continue
		}
		if g.Status == Pending || g.Status == Held {
			g.Status, g.Started = Running, now
		}
		do = append(do, r.beginSome(i, d, &room)...)
		if g.Status == Running && settled(g) {
			r.settle(g, d, now)
		}
		if g.Status == Waiting && !now.Before(g.Until) {
			g.Status, g.Finished = Completed, now
		}
		switch g.Status {
		case Completed:
			continue
		case Failed:
			failed = true
			if held = d.OnFailure != Continue; !held {
				continue
			}
		default: // at work: the next one is not begun
			return do
		}
	}
	r.Status, r.Finished = Completed, now
	if failed {
		r.Status = Failed
	}
	return do
}

// beginSome begins as many machines of a group as there is room for. A machine
// that is starting already was begun by who was killed since, perhaps.
func (r *Run) beginSome(i int, d *Group, room *int) (do []Do) {
	g := &r.Groups[i]
	own := d.Concurrency
	if own <= 0 {
		own = len(g.Machines)
	}
	for j := range g.Machines {
		if s := g.Machines[j].Status; s == Starting || s == Running {
			own--
		}
	}
	for j := range g.Machines {
		m := &g.Machines[j]
		if m.Status == Pending && own > 0 && *room > 0 && !stops(g, d) {
			own--
			*room--
			m.Status = Starting
			if m.Job == "" {
				m.Attempt++
			}
		}
		if m.Status == Starting {
			what := Begin
			if m.Job != "" {
				what = Redo
			}
			do = append(do, Do{At{i, j}, what, m.Job})
		}
	}
	return do
}

// stops tells that a group has failed and begins nothing more.
func stops(g *GroupRun, d *Group) bool {
	return d.OnFailure != Continue && slices.ContainsFunc(g.Machines, func(m MachineRun) bool { return m.Status == Failed })
}

// settled tells that nothing of a group is under way or will be.
func settled(g *GroupRun) bool {
	stopped := slices.ContainsFunc(g.Machines, func(m MachineRun) bool { return m.Status == Failed })
	for _, m := range g.Machines {
		if !m.Status.AtRest() && (m.Status != Pending || !stopped) {
			return false
		}
	}
	return true
}

// hold holds a group back, and all its machines.
func (g *GroupRun) hold() {
	g.Status = Held
	for j := range g.Machines {
		g.Machines[j].Status = Held
	}
}

func (r *Run) settle(g *GroupRun, d *Group, now time.Time) {
	bad := false
	for j := range g.Machines {
		m := &g.Machines[j]
		switch m.Status {
		case Failed, Cancelled:
			bad = true
		case Pending:
			if d.OnFailure == Continue {
				return // there will be room for it
			}
			m.Status = Held
		}
	}
	if bad {
		g.Status, g.Finished = Failed, now
		return
	}
	pause, err := Duration(d.Wait, 0)
	if err != nil || pause == 0 {
		g.Status, g.Finished = Completed, now
		return
	}
	g.Status, g.Until = Waiting, now.Add(pause)
}

// cancelStep ends what is under way.
func (r *Run) cancelStep(now time.Time) (do []Do) {
	busy := false
	r.Each(func(at At, m *MachineRun) {
		switch m.Status {
		case Running:
			busy = true
			do = append(do, Do{at, Cancel, m.Job})
		case Starting: // its job may have been begun: that is found out first
			busy = true
			what := Find
			if m.Job != "" {
				what = Cancel
			}
			do = append(do, Do{at, what, m.Job})
		case Checking: // it is restored, and stays
			m.Status, m.Finished = Completed, now
		case Pending, Held:
			m.Status = Cancelled
		}
	})
	if busy {
		return do
	}
	for i := range r.Groups {
		g := &r.Groups[i]
		if g.Status != Completed && g.Status != Failed {
			g.Status, g.Finished = Cancelled, now
		}
	}
	r.Status, r.Finished = Cancelled, now
	return nil
}
