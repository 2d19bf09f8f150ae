package plan

import (
	"fmt"
	"slices"
	"strings"

	"ascend/internal/target"
)

// Severity of a finding.
type Severity string

// Severities.
const (
	Critical    Severity = "critical"    // the restore does not start
	Warning     Severity = "warning"     // the user must consent
	Information Severity = "information" // worth knowing
)

// Finding is what a rule found.
type Finding struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	Advice   string   `json:"advice,omitempty"`
}

// Rule describes one rule for people.
type Rule struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Subject  string   `json:"subject"` // disks, machine, network, guest, target
	About    string   `json:"about"`   // what it looks for, one sentence
	Advice   string   `json:"advice,omitempty"`
	Facts    []string `json:"facts"` // what it looks at
}

// rule is one thing that may stand in a restore's way: data and a pure function
// that yields a sentence for each case it finds.
type rule struct {
	code     string
	severity Severity
	about    string
	advice   string
	facts    string // comma-separated
	find     func(p *Plan, r Request, say say)
}

type say = func(format string, args ...any)

var ruleSets = []struct {
	subject string
	rules   []rule
}{
	{"disks", diskRules}, {"storage", storageRules}, {"machine", machineRules}, {"network", networkRules}, {"guest", guestRules}, {"target", targetRules}, {"estimate", estimateRules},
}

// Rules lists all rules in the order they are asked.
func Rules() []Rule {
	var out []Rule
	for _, s := range ruleSets {
		for _, r := range s.rules {
			out = append(out, Rule{r.code, r.severity, s.subject, r.about, r.advice, strings.Split(r.facts, ", ")})
		}
	}
	return out
}

// FindRule finds a rule by its code.
func FindRule(code string) (Rule, bool) {
	list := Rules()
	i := slices.IndexFunc(list, func(r Rule) bool { return r.Code == code })
	if i < 0 {
		return Rule{}, false
	}
	return list[i], true
}

// check asks every rule. What the guest's adaptation will put right informs.
func (p *Plan) check(r Request) {
	for _, set := range ruleSets {
		for _, rule := range set.rules {
			rule.find(p, r, func(format string, args ...any) {
				f := Finding{Code: rule.code, Severity: rule.severity, Text: fmt.Sprintf(format, args...), Advice: rule.advice}
				if r.Guest.mends(rule.code) {
					f.Severity, f.Advice = Information, "nothing to do: the adaptation of the guest puts it right"
				}
				p.Findings = append(p.Findings, f)
			})
		}
	}
}

func names(list []target.Place) []string {
	var out []string
	for _, n := range list {
		out = append(out, n.Name)
	}
	return out
}

// candidates lists what might be chosen instead, for the end of a sentence.
func candidates(list []target.Place) string {
	if len(list) == 0 {
		return ""
	}
	n := names(list)
	if len(n) > 12 {
		n = append(n[:12:12], fmt.Sprintf("and %d more", len(n)-12))
	}
	return "; it has " + strings.Join(n, ", ")
}

// knows tells whether a list has a name, by itself or as the end of a path.
func knows(list []target.Place, name string) bool {
	return slices.ContainsFunc(list, func(p target.Place) bool { return p.Name == name || strings.HasSuffix(p.Name, "/"+name) })
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
