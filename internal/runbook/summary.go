package runbook

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"ascend/internal/plan"
	"ascend/internal/vm"
)

// Summary is a run's plan as a whole.
type Summary struct {
	Machines int   `json:"machines"`
	Planned  int   `json:"planned"` // machines that have a plan
	Disks    int   `json:"disks"`
	Bytes    int64 `json:"bytes"` // allocated
	// Seconds is how long the copies take with the limits of the run, each at the
	// rate of its own plan, pauses included; conditions are not.
	Seconds int64 `json:"seconds"`
	// Costs are the amounts a month by currency; Unpriced machines are not in them.
	Costs    map[string]string `json:"costs,omitempty"`
	Unpriced int               `json:"unpriced"`
	Capacity []Capacity        `json:"capacity"`
	// Findings are those of the whole; each machine has its own besides.
	Findings []plan.Finding `json:"findings"`
	Critical int            `json:"critical"` // findings of all, and machines without a plan
	Warnings int            `json:"warnings"`
	// Consent are the codes of warnings that are to be accepted still.
	Consent []string `json:"consent"`
	Stopped bool     `json:"stopped"`

	why []string
}

// Capacity is the space that the machines take together at one place.
type Capacity struct {
	Target   string `json:"target"`
	Place    string `json:"place"`
	Machines int    `json:"machines"`
	Needs    int64  `json:"needs"`
	Free     int64  `json:"free"` // 0: not known
}

// Why are the first reasons why a run is stopped.
func (s *Summary) Why() string {
	if n := len(s.why); n > 3 {
		return strings.Join(s.why[:3], "; ") + fmt.Sprintf("; and %d more", n-3)
	}
	return strings.Join(s.why, "; ")
}

// Summary adds the plans of all machines up.
func (r *Run) Summary() *Summary {
	s := &Summary{Capacity: []Capacity{}, Findings: []plan.Finding{}, Consent: []string{}, Costs: map[string]string{}}
	consent, names, places := map[string]bool{}, map[[2]string]int{}, map[[2]string]*Capacity{}
	costs := map[string]*big.Rat{}
	r.Each(func(at At, m *MachineRun) {
		s.Machines++
		o := m.Plan
		if m.Trouble != "" {
			s.stop("%s: %s", r.Label(at), m.Trouble)
		}
		if o == nil {
			return
		}
		s.Planned++
		s.Disks += o.Disks
		s.Bytes += o.Bytes
		if c, ok := new(big.Rat).SetString(o.Cost); ok {
			if costs[o.Currency] == nil {
				costs[o.Currency] = new(big.Rat)
			}
			costs[o.Currency].Add(costs[o.Currency], c)
		} else {
			s.Unpriced++
		}
		accepted := r.Accept(at)
		for _, f := range o.Findings {
			switch f.Severity {
			case plan.Critical:
				s.stop("%s: %s", r.Label(at), f.Text)
			case plan.Warning:
				s.Warnings++
				if !slices.Contains(accepted, f.Code) {
					consent[f.Code] = true
				}
			}
		}
		names[[2]string{o.Target.Name, strings.ToLower(o.Name)}]++
		for _, n := range o.Needs {
			k := [2]string{o.Target.Name, n.Place}
			if places[k] == nil {
				places[k] = &Capacity{Target: o.Target.Name, Place: n.Place}
			}
			places[k].Machines++
			places[k].Needs += n.Bytes
			places[k].Free = max(places[k].Free, n.Free)
		}
	})
	s.Consent = append(s.Consent, slices.Sorted(maps.Keys(consent))...)
	for c, sum := range costs {
		s.Costs[c] = sum.FloatString(2)
	}
	byText := func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }
	for _, k := range slices.SortedFunc(maps.Keys(names), byText) {
		if n := names[k]; n > 1 {
			s.whole("runbook-name-twice", fmt.Sprintf("%d machines of this runbook would be called %q on %s", n, k[1], k[0]), "give them names of their own")
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(places), byText) {
		c := places[k]
		s.Capacity = append(s.Capacity, *c)
		if c.Free > 0 && c.Needs > c.Free {
			s.whole("runbook-space", fmt.Sprintf("%s on %s has %s free, and %d machines together need %s", c.Place, c.Target, vm.FormatSize(c.Free), c.Machines, vm.FormatSize(c.Needs)), "place some of them elsewhere, or make room")
		}
	}
	s.Seconds = int64(r.length() / time.Second)
	s.Stopped = s.Critical > 0
	return s
}

func (s *Summary) stop(format string, args ...any) {
	s.Critical++
	s.why = append(s.why, fmt.Sprintf(format, args...))
}

func (s *Summary) whole(code, text, advice string) {
	s.Findings = append(s.Findings, plan.Finding{Code: code, Severity: plan.Critical, Text: text, Advice: advice})
	s.stop("%s", text)
}

// Label names a machine for people.
func (r *Run) Label(at At) string {
	m := r.Entry(at)
	name := m.VM
	if name == "" {
		name = m.Backup
	}
	if o := r.machine(at).Plan; o != nil && m.VM == "" {
		name = o.VM
	}
	if m.Name != "" && m.Name != name {
		name += " as " + m.Name
	}
	return name
}

// length is how long the groups take one after the other, each with its slots
// given to the next machine as they come free.
func (r *Run) length() time.Duration {
	var sum time.Duration
	for i, g := range r.Groups {
		d := &r.Document.Groups[i]
		n := r.Document.Limits.Concurrency
		if n <= 0 {
			n = defaultConcurrency
		}
		if d.Concurrency > 0 {
			n = min(n, d.Concurrency)
		}
		slots := make([]int64, min(n, len(g.Machines)))
		for _, m := range g.Machines {
			if m.Plan == nil {
				continue
			}
			k := slices.Index(slots, slices.Min(slots))
			slots[k] += m.Plan.Seconds
		}
		sum += time.Duration(slices.Max(slots)) * time.Second
		if pause, err := Duration(d.Wait, 0); err == nil {
			sum += pause
		}
	}
	return sum
}
