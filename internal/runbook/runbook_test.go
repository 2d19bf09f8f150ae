package runbook

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ascend/internal/plan"
)

const sample = `version: 1
name: site A
note: everything that orders need
defaults:
  target: lab
  mappings: [prod]
  power_on: true
  accept: [mac-changes]
limits:
  concurrency: 2
  bandwidth: 200MiB
groups:
  - name: directory
    machines:
      - vm: dc01
        before: 2026-11-20T12:00:00Z
      - backup: 01jabc
        name: dc02-restored
        accept: [firmware]
    until:
      is: address
      timeout: 5m
    wait: 30s
  - name: databases
    concurrency: 1
    machines:
      - vm: db01
        cpus: 4
        memory: 8GiB
        mapping:
          networks: [{from: prod, to: dr}]
      - vm: db02
        target: other
      - vm: db03
        power_on: false
        keep_on_failure: false
  - name: web
    on_failure: continue
    machines: [{vm: web01}, {vm: web02}]
`

func parse(t testing.TB, text string) *Document {
	t.Helper()
	d, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParse(t *testing.T) {
	d := parse(t, sample)
	if d.Groups[0].Machines[1].Name != "dc02-restored" || d.Groups[1].Machines[0].Mapping.Networks[0].To != "dr" || d.Groups[0].Machines[0].Before.IsZero() {
		t.Fatalf("%+v", d)
	}
	s := d.Settings(d.Groups[0].Machines[1])
	if s.Target != "lab" || !*s.PowerOn || !slices.Equal(s.Accept, []string{"firmware", "mac-changes"}) || !slices.Equal(s.Mappings, []string{"prod"}) {
		t.Errorf("%+v", s)
	}
	if s := d.Settings(d.Groups[1].Machines[2]); *s.PowerOn || *s.Keep {
		t.Errorf("%+v", s)
	}
	// Both forms are read back as they were written.
	y, err := d.YAML()
	if err != nil {
		t.Fatal(err)
	}
	j, _ := json.Marshal(d)
	for _, b := range [][]byte{y, j} {
		again := parse(t, string(b))
		if x, _ := json.Marshal(again); string(x) != string(j) {
			t.Errorf("%s\n%s", x, j)
		}
	}
}

// TestInvalid: each mistake is named where it stands.
func TestInvalid(t *testing.T) {
	for _, c := range []struct{ from, to, where string }{
		{"version: 1", "version: 2", "version"},
		{"name: site A", "name: ''", "name"},
		{"concurrency: 2", "concurrency: -1", "limits.concurrency"},
		{"200MiB", "fast", "limits.bandwidth"},
		{"name: databases", "name: directory", "groups[1].name"},
		{"vm: dc01", "name: x", "groups[0].machines[0]"},
		{"backup: 01jabc", "backup: 01jabc\n        vm: dc02", "groups[0].machines[1]"},
		{"8GiB", "lots", "groups[1].machines[0].memory"},
		{"is: address", "is: happy", "groups[0].until.is"},
		{"is: address", "is: address\n      grade: A", "groups[0].until.grade"},
		{"timeout: 5m", "timeout: soon", "groups[0].until.timeout"},
		{"wait: 30s", "wait: -30s", "groups[0].wait"},
		{"wait: 30s", "wait: 300h", "groups[0].wait"},
		{"on_failure: continue", "on_failure: panic", "groups[2].on_failure"},
		{"  target: lab\n", "", "groups[0].machines[0].target"},
		{"power_on: true", "power_on: false", "groups[0].machines[0].power_on"},
		{"{from: prod, to: dr}", "{from: prod}", "groups[1].machines[0].mapping"},
		{"machines: [{vm: web01}, {vm: web02}]", "machines: []", "groups[2].machines"},
	} {
		text := strings.Replace(sample, c.from, c.to, 1)
		if text == sample {
			t.Fatalf("%q is not in the sample", c.from)
		}
		_, err := Parse([]byte(text))
		var bad *Invalid
		if !errors.As(err, &bad) || bad.Places[0].Path != c.where {
			t.Errorf("%q: %v, not at %s", c.to, err, c.where)
		}
	}
	for _, text := range []string{"", "x: [", "version: 1\nnonsense: 1\n", "[]", strings.Replace(sample, "cpus: 4", "cups: 4", 1), strings.Repeat("#", MaxBytes+1)} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%.40q is read", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(`{"version":1,"name":"x","groups":[{"name":"g","machines":[{"vm":"a","target":"t"}]}]}`))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b)
		if err != nil {
			return
		}
		r := New("r", "fuzz", d, time.Unix(0, 0))
		for at, ok := r.PlanNext(); ok; at, ok = r.PlanNext() {
			r.NotePlan(at, &Outline{}, "")
		}
		_ = r.Markdown()
		y, err := d.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(y); err != nil {
			t.Fatalf("what is written is not read: %v\n%s", err, y)
		}
	})
}

// TestSchema holds docs/runbook.schema.json to the types. With ASCEND_UPDATE=1 it
// writes it.
func TestSchema(t *testing.T) {
	const name = "../../docs/runbook.schema.json"
	if os.Getenv("ASCEND_UPDATE") != "" {
		if err := os.WriteFile(name, Schema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != string(Schema()) {
		t.Errorf("%s is not current: run ASCEND_UPDATE=1 go test ./internal/runbook -run TestSchema (%v)", name, err)
	}
}

// world drives a run by a clock of its own: a job takes ten seconds, and fails
// when its machine's name is in fails.
type world struct {
	t       *testing.T
	run     *Run
	now     time.Time
	jobs    map[string]*Seen
	began   map[string]time.Time
	keys    map[string]string
	fails   map[string]Seen
	looks   map[string]Look
	most    int
	cancels int
	redone  int
	order   []string
}

func begin(t *testing.T, text string) *world {
	w := &world{t: t, now: time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC), jobs: map[string]*Seen{}, began: map[string]time.Time{}, keys: map[string]string{}, fails: map[string]Seen{}, looks: map[string]Look{}}
	w.run = New("r1", "ada", parse(t, text), w.now)
	for at, ok := w.run.PlanNext(); ok; at, ok = w.run.PlanNext() {
		w.run.NotePlan(at, w.outline(at), "")
	}
	return w
}

func (w *world) outline(at At) *Outline {
	e := w.run.Entry(at)
	name := e.VM + e.Name
	return &Outline{ID: fmt.Sprint("p", at), VM: name, Name: name, Target: plan.TargetRef{Name: w.run.Document.Settings(e).Target}, Disks: 1, Bytes: 1 << 30, Seconds: 60, Cost: "10.25", Currency: "USD", Needs: []plan.Need{{Place: "ds", Bytes: 1 << 30, Free: 100 << 30}}}
}

func (w *world) view() View {
	return View{Now: w.now, Job: func(id string) (Seen, bool) {
		j := w.jobs[id]
		if j == nil {
			return Seen{}, false
		}
		if !j.AtRest && w.now.Sub(w.began[id]) >= 10*time.Second {
			*j = Seen{Status: "completed", AtRest: true, Evidence: Evidence{Disks: 1, Verified: 1}}
			if f, ok := w.fails[strings.TrimPrefix(id, "job ")]; ok {
				*j = f
			}
		}
		return *j, true
	}, Look: func(at At) (Look, bool) {
		l, ok := w.looks[w.run.Label(at)]
		if !ok {
			l = Look{OK: true, Text: "10.0.0.1"}
		}
		return l, true
	}}
}

// step does one round; killed: what is to be done is done and not noted.
func (w *world) step(killed bool) {
	stored, _ := json.Marshal(w.run) // what a driver that is killed leaves
	do, changed := w.run.Step(w.view())
	if changed {
		stored, _ = json.Marshal(w.run)
	}
	active := 0
	for _, d := range do {
		name := w.run.Label(d.At)
		switch d.What {
		case Begin:
			id := "job " + name
			key := w.run.Key(d.At)
			if w.keys[key] == "" {
				w.keys[key] = id
				w.jobs[id], w.began[id] = &Seen{Status: "running"}, w.now
				w.order = append(w.order, name)
			}
			if !killed {
				w.run.Begun(d.At, w.keys[key], w.now)
			}
		case Redo:
			w.redone++
			delete(w.fails, name)
			w.jobs[d.Job], w.began[d.Job] = &Seen{Status: "running"}, w.now
			w.run.Begun(d.At, d.Job, w.now)
		case Find:
			if id := w.keys[w.run.Key(d.At)]; id != "" {
				w.run.Begun(d.At, id, w.now)
			} else {
				w.run.Dropped(d.At, w.now)
			}
		case Cancel:
			w.cancels++
			*w.jobs[d.Job] = Seen{Status: "cancelled", AtRest: true, RolledBack: true}
		}
	}
	if killed {
		w.run = &Run{}
		if err := json.Unmarshal(stored, w.run); err != nil {
			w.t.Fatal(err)
		}
	}
	for _, j := range w.jobs {
		if !j.AtRest {
			active++
		}
	}
	w.most = max(w.most, active)
	w.now = w.now.Add(time.Second)
}

func (w *world) rest(limit int) {
	w.t.Helper()
	for range limit {
		if w.run.Status.AtRest() {
			return
		}
		w.step(false)
	}
	w.t.Fatalf("not at rest: %s", w.run.Markdown())
}

func (w *world) apply(accept ...string) {
	w.t.Helper()
	if err := w.run.Apply(accept, w.now); err != nil {
		w.t.Fatal(err)
	}
}

func TestRun(t *testing.T) {
	w := begin(t, sample)
	s := w.run.Summary()
	if s.Machines != 7 || s.Costs["USD"] != "71.75" || s.Stopped || s.Seconds != 60+30+3*60+60 || s.Capacity[0].Machines != 6 {
		t.Errorf("%+v", s)
	}
	w.apply()
	w.rest(200)
	if w.run.Status != Completed || w.most != 2 || !slices.Equal(w.order, []string{"dc01", " as dc02-restored", "db01", "db02", "db03", "web01", "web02"}) && w.order[2] != "db01" {
		t.Errorf("%s at once %d: %q", w.run.Status, w.most, w.order)
	}
	g := w.run.Groups
	if pause := g[1].Started.Sub(g[0].Machines[1].Finished); pause < 30*time.Second {
		t.Errorf("the pause took %s", pause)
	}
	if d := g[1].Machines[1].Started.Sub(g[1].Machines[0].Finished); d < 0 {
		t.Error("two databases at once")
	}
	if err := w.run.Retry(w.now); !errors.Is(err, ErrState) {
		t.Error(err)
	}
}

// TestKilled: a driver that is killed after any step, before it noted what it did,
// begins every job once.
func TestKilled(t *testing.T) {
	for at := 0; at < 60; at += 3 {
		w := begin(t, sample)
		w.apply()
		for i := range 300 {
			w.step(i == at || i%7 == at%7)
			if w.run.Status.AtRest() {
				break
			}
		}
		if w.run.Status != Completed || len(w.order) != 7 || len(w.keys) != 7 {
			t.Fatalf("killed at %d: %s, %q", at, w.run.Status, w.order)
		}
	}
}

// TestFailure: one of a group fails; those beside it end, the next groups are held
// back, and a retry goes on.
func TestFailure(t *testing.T) {
	for _, rolledBack := range []bool{true, false} {
		w := begin(t, sample)
		w.fails["db01"] = Seen{Status: "failed", AtRest: true, Error: "disk full", RolledBack: rolledBack}
		w.apply()
		w.rest(200)
		g := w.run.Groups
		if w.run.Status != Failed || g[0].Status != Completed || g[1].Status != Failed || g[2].Status != Held || g[1].Machines[0].Error != "disk full" || g[1].Machines[1].Status != Held {
			t.Fatal(w.run.Markdown())
		}
		for _, n := range []string{"web01", "db02"} {
			if slices.Contains(w.order, n) {
				t.Errorf("%s was begun", n)
			}
		}
		delete(w.fails, "db01")
		if rolledBack {
			delete(w.jobs, "job db01")
		}
		if err := w.run.Retry(w.now); err != nil {
			t.Fatal(err)
		}
		w.rest(200)
		m := w.run.Groups[1].Machines[0]
		if want := map[bool]int{true: 2, false: 1}[rolledBack]; w.run.Status != Completed || m.Attempt != want || w.redone != 2-want {
			t.Fatalf("attempt %d, redone %d: %s", m.Attempt, w.redone, w.run.Markdown())
		}
		if n := len(slices.DeleteFunc(slices.Clone(w.order), func(s string) bool { return s != "dc01" })); n != 1 {
			t.Errorf("what was restored is restored %d times", n)
		}
	}
}

// TestContinue: a group whose failure holds nothing back.
func TestContinue(t *testing.T) {
	w := begin(t, strings.Replace(sample, "  - name: databases\n", "  - name: databases\n    on_failure: continue\n", 1))
	w.fails["db01"] = Seen{Status: "failed", AtRest: true, Error: "x", RolledBack: true}
	w.apply()
	w.rest(200)
	if g := w.run.Groups; w.run.Status != Failed || g[1].Status != Failed || g[2].Status != Completed || g[1].Machines[2].Status != Completed {
		t.Error(w.run.Markdown())
	}
}

// TestCondition: a machine that is restored and not seen holds the next group
// back; it is not restored again by a retry.
func TestCondition(t *testing.T) {
	w := begin(t, sample)
	w.looks["dc01"] = Look{Text: "no address yet"}
	w.apply()
	w.rest(400)
	m := w.run.Groups[0].Machines[0]
	if w.run.Status != Failed || m.Status != Failed || !strings.Contains(m.Error, "restored, but") || !strings.Contains(m.Error, "no address yet") || w.run.Groups[1].Status != Held {
		t.Fatal(w.run.Markdown())
	}
	if took := m.Finished.Sub(m.Restored); took < 5*time.Minute || took > 6*time.Minute {
		t.Errorf("waited %s", took)
	}
	delete(w.looks, "dc01")
	if err := w.run.Retry(w.now); err != nil {
		t.Fatal(err)
	}
	w.rest(300)
	if w.run.Status != Completed || w.run.Groups[0].Machines[0].Attempt != 1 {
		t.Error(w.run.Markdown())
	}
	// What can never be is not waited for.
	w = begin(t, sample)
	w.looks["dc01"] = Look{Text: "grade F", Never: true}
	w.apply()
	w.rest(60)
}

func TestCancel(t *testing.T) {
	for at := 0; at < 80; at += 3 {
		w := begin(t, sample)
		w.apply()
		for i := range at {
			w.step(i == at-1) // the last one is killed
		}
		if w.run.Status.AtRest() {
			break
		}
		if err := w.run.Cancel(w.now); err != nil {
			t.Fatal(err)
		}
		w.rest(30)
		for id, j := range w.jobs {
			if !j.AtRest {
				t.Fatalf("cancelled at %d, and %s goes on", at, id)
			}
		}
		if c := w.run.Counts(); w.run.Status != Cancelled || c.Active+c.Waiting+c.Held > 0 {
			t.Fatalf("%d: %+v", at, c)
		}
	}
	w := begin(t, sample)
	if err := w.run.Cancel(w.now); err != nil || w.run.Status != Cancelled {
		t.Error(err)
	}
	if err := w.run.Cancel(w.now); !errors.Is(err, ErrState) {
		t.Error(err)
	}
}

// TestApply: nothing begins without consent, or against a critical finding.
func TestApply(t *testing.T) {
	warn := plan.Finding{Code: "firmware", Severity: plan.Warning, Text: "w"}
	w := begin(t, sample)
	w.run.Groups[1].Machines[0].Plan.Findings = []plan.Finding{warn, {Code: "mac-changes", Severity: plan.Warning}}
	w.run.Groups[0].Machines[1].Plan.Findings = []plan.Finding{warn} // accepted there
	var need *Consent
	if err := w.run.Apply(nil, w.now); !errors.As(err, &need) || !slices.Equal(need.Missing, []string{"firmware"}) {
		t.Fatal(err)
	}
	w.apply("firmware")
	if err := w.run.Apply(nil, w.now); !errors.Is(err, ErrState) {
		t.Error(err)
	}
	for what, spoil := range map[string]func(r *Run){
		"a critical finding": func(r *Run) {
			r.Groups[2].Machines[0].Plan.Findings = []plan.Finding{{Code: "x", Severity: plan.Critical, Text: "no way"}}
		},
		"no plan":       func(r *Run) { r.Groups[2].Machines[0].Plan, r.Groups[2].Machines[0].Trouble = nil, "no backup" },
		"one name":      func(r *Run) { r.Groups[2].Machines[0].Plan.Name = "WEB02" },
		"too much data": func(r *Run) { r.Groups[2].Machines[0].Plan.Needs[0].Bytes = 99 << 30 },
	} {
		w := begin(t, sample)
		spoil(w.run)
		if err := w.run.Apply(nil, w.now); !errors.Is(err, ErrStopped) || !w.run.Summary().Stopped {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestMarkdown: no name breaks out of the report's tables.
func TestMarkdown(t *testing.T) {
	w := begin(t, strings.Replace(sample, "vm: web01", `vm: "a | b\n# <script>\u202egnp"`, 1))
	text := w.run.Markdown()
	for _, bad := range []string{"<script>", "\u202e", "\n# <", "a | b"} {
		if strings.Contains(text, bad) {
			t.Errorf("%q is in the report", bad)
		}
	}
	if !strings.Contains(text, `a \| b`) || !strings.Contains(text, "reachable by an address within 5m0s; then 30s pass") {
		t.Error(text)
	}
}

func TestGraded(t *testing.T) {
	for _, c := range []struct {
		have, want string
		ok         bool
	}{{"A", "B", true}, {"B", "B", true}, {"C", "B", false}, {"F", "", false}, {"", "", false}, {"C", "", true}, {"AB", "C", false}} {
		if Graded(c.have, c.want) != c.ok {
			t.Errorf("%+v", c)
		}
	}
}
