package runbook

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"ascend/internal/plan"
	"ascend/internal/vm"
)

// Counts are how many machines are how.
type Counts struct {
	Total     int `json:"total"`
	Completed int `json:"completed"`
	Failed    int `json:"failed"`
	Active    int `json:"active"` // starting, running, checking
	Waiting   int `json:"waiting"`
	Held      int `json:"held"`
	Cancelled int `json:"cancelled"`
}

// Counts counts the machines.
func (r *Run) Counts() Counts {
	var c Counts
	r.Each(func(_ At, m *MachineRun) {
		c.Total++
		switch m.Status {
		case Completed:
			c.Completed++
		case Failed:
			c.Failed++
		case Held:
			c.Held++
		case Cancelled:
			c.Cancelled++
		case Starting, Running, Checking:
			c.Active++
		default:
			c.Waiting++
		}
	})
	return c
}

// Report is a run for those who were not there.
type Report struct {
	*Run
	Counts  Counts   `json:"counts"`
	Summary *Summary `json:"summary"`
}

// Report makes it.
func (r *Run) Report() Report { return Report{r, r.Counts(), r.Summary()} }

// cell makes a text fit for a cell of a Markdown table, whatever it holds.
func cell(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 || c >= 0x202a && c <= 0x202e || c >= 0x2066 && c <= 0x2069 {
			return ' '
		}
		return c
	}, s)
	for _, c := range []string{`\`, "`", "*", "_", "[", "]", "<", ">", "|", "#"} {
		s = strings.ReplaceAll(s, c, `\`+c)
	}
	return s
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func took(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return "–"
	}
	return to.Sub(from).Round(time.Second).String()
}

// Markdown is the report for people.
func (r *Run) Markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	s, c := r.Summary(), r.Counts()
	line("# %s\n", cell(r.Document.Name))
	if r.Document.Note != "" {
		line("%s\n", cell(r.Document.Note))
	}
	line("Run `%s`, by %s: **%s**. Begun %s, ended %s, took %s.\n", r.ID, cell(r.By), r.Status, stamp(r.Started), stamp(r.Finished), took(r.Started, r.Finished))
	line("%d machines: %d completed, %d failed, %d under way, %d waiting, %d held back, %d cancelled.\n", c.Total, c.Completed, c.Failed, c.Active, c.Waiting, c.Held, c.Cancelled)
	line("## The plan\n")
	line("%d disks, %s of data, about %s of copying with the limits of the run.", s.Disks, vm.FormatSize(s.Bytes), time.Duration(s.Seconds)*time.Second)
	for _, cur := range slices.Sorted(maps.Keys(s.Costs)) {
		line("%s %s a month.", s.Costs[cur], cell(cur))
	}
	if s.Unpriced > 0 {
		line("%d machines have no price.", s.Unpriced)
	}
	if len(r.Accepted) > 0 {
		line("\nAccepted: %s.", cell(strings.Join(r.Accepted, ", ")))
	}
	if len(s.Capacity) > 0 {
		line("\n| target | place | machines | needs | free |\n|---|---|---|---|---|")
		for _, k := range s.Capacity {
			free := "not known"
			if k.Free > 0 {
				free = vm.FormatSize(k.Free)
			}
			line("| %s | %s | %d | %s | %s |", cell(k.Target), cell(k.Place), k.Machines, vm.FormatSize(k.Needs), free)
		}
	}
	for _, f := range s.Findings {
		line("\n**%s** %s: %s", f.Severity, cell(f.Text), cell(f.Advice))
	}
	for i, g := range r.Groups {
		line("\n## %d. %s: %s\n", i+1, cell(g.Name), g.Status)
		line("%s\n", r.waits(i))
		line("| machine | target | status | took | disks proven | boot proof | job | attempts | |\n|---|---|---|---|---|---|---|---|---|")
		for j := range g.Machines {
			m, at := &g.Machines[j], At{i, j}
			target, proven := "–", "–"
			if m.Plan != nil {
				target = m.Plan.Target.Name
			}
			if m.Evidence.Disks > 0 {
				proven = fmt.Sprintf("%d of %d", m.Evidence.Verified, m.Evidence.Disks)
			}
			why := m.Error
			if why == "" {
				why = m.Seen
			}
			if m.Trouble != "" {
				why = m.Trouble
			}
			line("| %s | %s | %s | %s | %s | %s | %s | %d | %s |", cell(r.Label(at)), cell(target), m.Status, took(m.Started, m.Finished), proven, m.Evidence.Proof, m.Job, m.Attempt, cell(why))
		}
		for j := range g.Machines {
			if o := g.Machines[j].Plan; o != nil {
				for _, f := range o.Findings {
					if f.Severity != plan.Information {
						line("\n- %s: **%s** `%s` %s", cell(r.Label(At{i, j})), f.Severity, f.Code, cell(f.Text))
					}
				}
			}
		}
	}
	return b.String()
}

// waits says what a group waits for before the next one begins.
func (r *Run) waits(i int) string {
	d := r.Document.Groups[i]
	text := "Each machine is to be " + condition(d.Until)
	if d.Until.Is == BootProof {
		g := d.Until.Grade
		if g == "" {
			g = "C"
		}
		text += " with grade " + g
	}
	if d.Until.Is != "" && d.Until.Is != Restored {
		limit, err := Duration(d.Until.Timeout, defaultTimeout)
		if err == nil {
			text += fmt.Sprintf(" within %s", limit)
		}
	}
	if d.Wait != "" {
		text += "; then " + d.Wait + " pass"
	}
	if d.OnFailure == Continue {
		return text + "; a failure holds nothing back."
	}
	return text + "; a failure holds the next groups back."
}

// Graded tells whether a boot proof's grade is at least the one that is wanted.
func Graded(have, want string) bool {
	if want == "" {
		want = "C"
	}
	i, j := strings.Index(grades, have), strings.Index(grades, want)
	return len(have) == 1 && i >= 0 && i <= j
}
