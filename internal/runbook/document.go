// Package runbook restores many machines by one document: groups in order, what
// must hold before the next group begins, and limits. It is pure: a Run is told
// what was seen and answers what is to be done, and whoever drives it asks the
// clock, the targets and the jobs.
package runbook

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"ascend/internal/plan"
	"ascend/internal/vm"
)

// Bounds of a document.
const (
	MaxBytes    = 4 << 20
	maxMachines = 5000
	maxGroups   = 500
	maxName     = 255
	maxWait     = 7 * 24 * time.Hour
)

// Document is a runbook. Its YAML and JSON forms have the same fields;
// docs/runbook.schema.json is their schema.
type Document struct {
	Version int    `json:"version"` // 1
	Name    string `json:"name"`
	Note    string `json:"note,omitempty"`
	// Defaults are what a machine leaves open.
	Defaults Settings `json:"defaults,omitzero"`
	Limits   Limits   `json:"limits,omitzero"`
	// Groups follow one another: the next one begins when the machines of the one
	// before are as its Until says.
	Groups []Group `json:"groups"`
}

// Limits of a run.
type Limits struct {
	// Concurrency is the restores at once, of all groups; 0: 4.
	Concurrency int `json:"concurrency,omitempty"`
	// Bandwidth caps the bytes a second of each restore, as "200MiB"; "": none.
	Bandwidth string `json:"bandwidth,omitempty"`
}

// Settings say how a machine is restored. Empty fields leave it to the defaults,
// and then to the plan.
type Settings struct {
	Target string `json:"target,omitempty"` // the target's id
	// Mappings are names of saved mappings; the first goes before the others, and
	// Mapping before them all.
	Mappings []string      `json:"mappings,omitempty"`
	Mapping  *plan.Mapping `json:"mapping,omitempty"`
	Format   string        `json:"format,omitempty"` // of the disks
	PowerOn  *bool         `json:"power_on,omitempty"`
	// Keep leaves what was made when a restore fails, so that a retry goes on from
	// the step that failed; nil: yes.
	Keep *bool `json:"keep_on_failure,omitempty"`
	// BootProof is off, advise or require: whether the machine is started from a
	// throw-away layer before it is sent. "": off, or what the group's Until needs.
	BootProof string            `json:"boot_proof,omitempty"`
	Options   map[string]string `json:"options,omitempty"` // of the platform
	// Accept are the codes of warnings that are consented to.
	Accept []string `json:"accept,omitempty"`
}

// Machine names one machine to be restored, by its name or by a backup's id.
type Machine struct {
	VM     string `json:"vm,omitempty"`     // the newest backup of it that is whole
	Backup string `json:"backup,omitempty"` // the id of one backup
	// Repository is where VM is looked for; "": everywhere.
	Repository string `json:"repository,omitempty"`
	// Before takes the newest backup of VM that is not newer; the zero time: the
	// newest of all.
	Before time.Time `json:"before,omitzero"`
	// Name of the new machine; "": as backed up.
	Name     string           `json:"name,omitempty"`
	CPUs     int              `json:"cpus,omitempty"`
	Memory   string           `json:"memory,omitempty"` // as "4GiB"
	Settings `yaml:",inline"` // they stand beside these
}

// Group is machines that are restored side by side.
type Group struct {
	Name     string    `json:"name"`
	Machines []Machine `json:"machines"`
	// Concurrency is the restores at once in this group; 0: the limit of the run.
	Concurrency int `json:"concurrency,omitempty"`
	// Until must hold of each machine before the next group begins.
	Until Condition `json:"until,omitzero"`
	// Wait is a pause after that, as "90s".
	Wait string `json:"wait,omitempty"`
	// OnFailure is "stop" (the default: the groups after this one are held back when
	// one of its machines fails) or "continue".
	OnFailure string `json:"on_failure,omitempty"`
}

// Condition is what a restored machine must show.
type Condition struct {
	// Is: see the constants; "": restored.
	Is string `json:"is,omitempty"`
	// Grade is the least boot proof that counts, with Is boot_proof; "": C.
	Grade string `json:"grade,omitempty"`
	// Timeout is how long after the restore it may take, as "10m"; "": 10 minutes.
	Timeout string `json:"timeout,omitempty"`
}

// What a condition may be.
const (
	Restored  = "restored"   // the job is completed: every disk has landed and is proven
	PoweredOn = "powered_on" // and the platform says that the machine runs
	Address   = "address"    // and the platform knows an address of its guest
	BootProof = "boot_proof" // the job's boot proof has the grade or a better one
)

// What a group's failure does.
const (
	Stop     = "stop"
	Continue = "continue"
)

const (
	defaultConcurrency = 4
	defaultTimeout     = 10 * time.Minute
)

// grades of a boot proof, the best first.
const grades = "ABC"

// Place is something in a document that is not right.
type Place struct {
	Path string `json:"path"` // as groups[1].machines[0].memory
	Text string `json:"text"`
}

// Invalid is the error of a document; each place is named.
type Invalid struct{ Places []Place }

func (e *Invalid) Error() string {
	var list []string
	for _, p := range e.Places {
		list = append(list, p.Path+": "+p.Text)
	}
	return "cannot use the runbook: " + strings.Join(list, "; ")
}

// Parse reads a document, YAML or JSON, and checks it. The error of a document
// that can be read is an *Invalid.
func Parse(b []byte) (*Document, error) {
	if len(b) > MaxBytes {
		return nil, fmt.Errorf("cannot read runbook: it is longer than %s", vm.FormatSize(MaxBytes))
	}
	var d Document
	if err := yaml.UnmarshalWithOptions(b, &d, yaml.Strict()); err != nil {
		return nil, fmt.Errorf("cannot read runbook: %w", err)
	}
	if d.Version == 0 && d.Name == "" && len(d.Groups) == 0 {
		return nil, errors.New("cannot read runbook: it is empty")
	}
	return &d, d.Check()
}

// checker gathers what is wrong.
type checker struct{ places []Place }

func (c *checker) say(bad bool, path, format string, args ...any) {
	if bad && len(c.places) < 50 {
		c.places = append(c.places, Place{path, fmt.Sprintf(format, args...)})
	}
}

func (c *checker) duration(path, s string) {
	if _, err := Duration(s, 0); err != nil {
		c.say(true, path, "%v", err)
	}
}

func (c *checker) size(path, s string) {
	if s != "" {
		n, err := vm.ParseSize(s)
		c.say(err != nil || n <= 0, path, "%q is no size, as 200MiB", s)
	}
}

// Duration reads a time as "90s" or "10m"; "" is fallback.
func Duration(s string, fallback time.Duration) (time.Duration, error) {
	if s == "" {
		return fallback, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxWait {
		return 0, fmt.Errorf("%q is no time up to %d h, as 90s or 10m", s, int(maxWait.Hours()))
	}
	return d, nil
}

// Check tells what is wrong with a document, in full; nil: nothing.
func (d *Document) Check() error {
	c := &checker{}
	c.say(d.Version != 1, "version", "it is %d, and this program reads 1", d.Version)
	c.say(d.Name == "" || len(d.Name) > maxName, "name", "a runbook needs a name of at most %d bytes", maxName)
	c.say(d.Limits.Concurrency < 0 || d.Limits.Concurrency > 1000, "limits.concurrency", "it is 0 to 1000")
	c.size("limits.bandwidth", d.Limits.Bandwidth)
	c.settings("defaults", d.Defaults)
	c.say(len(d.Groups) == 0, "groups", "there is no group")
	c.say(len(d.Groups) > maxGroups, "groups", "there are more than %d", maxGroups)
	names := map[string]bool{}
	total := 0
	for i := range d.Groups {
		g := &d.Groups[i]
		path := fmt.Sprintf("groups[%d]", i)
		c.say(g.Name == "" || len(g.Name) > maxName, path+".name", "a group needs a name of at most %d bytes", maxName)
		c.say(names[g.Name], path+".name", "%q is there twice", g.Name)
		names[g.Name] = true
		c.say(len(g.Machines) == 0, path+".machines", "there is no machine")
		c.say(g.Concurrency < 0 || g.Concurrency > 1000, path+".concurrency", "it is 0 to 1000")
		c.say(!slices.Contains([]string{"", Stop, Continue}, g.OnFailure), path+".on_failure", "it is %s or %s", Stop, Continue)
		c.duration(path+".wait", g.Wait)
		u := g.Until
		c.say(!slices.Contains([]string{"", Restored, PoweredOn, Address, BootProof}, u.Is), path+".until.is", "it is %s, %s, %s or %s", Restored, PoweredOn, Address, BootProof)
		c.say(u.Grade != "" && (u.Is != BootProof || len(u.Grade) != 1 || !strings.Contains(grades, u.Grade)), path+".until.grade", "it is A, B or C, and stands with %s", BootProof)
		c.duration(path+".until.timeout", u.Timeout)
		total += len(g.Machines)
		for j := range g.Machines {
			c.machine(fmt.Sprintf("%s.machines[%d]", path, j), d, g, &g.Machines[j])
		}
	}
	c.say(total > maxMachines, "groups", "there are more than %d machines", maxMachines)
	if len(c.places) > 0 {
		return &Invalid{c.places}
	}
	return nil
}

func (c *checker) machine(path string, d *Document, g *Group, m *Machine) {
	c.say((m.VM == "") == (m.Backup == ""), path, "a machine is named by vm or by backup, and by one of them")
	c.say(m.Backup != "" && (m.Repository != "" || !m.Before.IsZero()), path, "repository and before choose among the backups of vm")
	c.say(len(m.VM) > maxName || len(m.Backup) > maxName || len(m.Name) > maxName || len(m.Repository) > maxName, path, "a name is longer than %d bytes", maxName)
	c.say(m.CPUs < 0 || m.CPUs > 4096, path+".cpus", "it is 0 to 4096")
	c.size(path+".memory", m.Memory)
	c.settings(path, m.Settings)
	s := d.Settings(*m)
	c.say(s.Target == "", path+".target", "no target is named, here or in the defaults")
	needs := g.Until.Is == PoweredOn || g.Until.Is == Address
	proof := g.Until.Is == BootProof
	c.say(proof && (s.BootProof == "off" || s.BootProof == "advise" && g.Until.Grade == "A"), path+".boot_proof", "the group waits for a boot proof that is not made so: leave it out")
	c.say(needs && (s.PowerOn == nil || !*s.PowerOn), path+".power_on", "the group waits until its machines are %s: they must be powered on", g.Until.Is)
}

func (c *checker) settings(path string, s Settings) {
	c.say(len(s.Target) > maxName || len(s.Format) > maxName, path, "a name is longer than %d bytes", maxName)
	c.say(!slices.Contains([]string{"", "off", "advise", "require"}, s.BootProof), path+".boot_proof", "it is off, advise or require")
	c.say(len(s.Mappings) > 100 || slices.Contains(s.Mappings, ""), path+".mappings", "they are at most 100 names")
	c.say(len(s.Accept) > 1000, path+".accept", "they are at most 1000 codes")
	if s.Mapping != nil {
		if err := s.Mapping.Check(); err != nil {
			c.say(true, path+".mapping", "%v", err)
		}
	}
}

// Settings are a machine's with the defaults where it says nothing. Mappings,
// options and accepted warnings of both count; the machine's go first.
func (d *Document) Settings(m Machine) Settings {
	s, o := m.Settings, d.Defaults
	if s.Target == "" {
		s.Target = o.Target
	}
	if s.Format == "" {
		s.Format = o.Format
	}
	if s.PowerOn == nil {
		s.PowerOn = o.PowerOn
	}
	if s.Keep == nil {
		s.Keep = o.Keep
	}
	if s.BootProof == "" {
		s.BootProof = o.BootProof
	}
	s.Mappings = slices.Concat(s.Mappings, o.Mappings)
	switch {
	case s.Mapping == nil:
		s.Mapping = o.Mapping
	case o.Mapping != nil:
		both := s.Mapping.Then(*o.Mapping)
		s.Mapping = &both
	}
	s.Accept = slices.Concat(s.Accept, o.Accept)
	if len(o.Options) > 0 {
		all := map[string]string{}
		for _, from := range []map[string]string{o.Options, s.Options} {
			for k, v := range from {
				all[k] = v
			}
		}
		s.Options = all
	}
	return s
}

// Proof is the boot proof that a machine of a group is restored with: off, advise,
// require or require:GRADE.
func (d *Document) Proof(g Group, m Machine) string {
	s := d.Settings(m).BootProof
	if g.Until.Is == BootProof && s != "advise" {
		s = "require"
		if g.Until.Grade != "" {
			s += ":" + g.Until.Grade
		}
	}
	return s
}

// YAML is the document as people write it.
func (d *Document) YAML() ([]byte, error) {
	b, err := yaml.MarshalWithOptions(d, yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("cannot write runbook: %w", err)
	}
	return b, nil
}

// Schema is the JSON Schema (2020-12) of a document.
func Schema() []byte {
	s := plan.SchemaOf(reflect.TypeFor[Document]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["$id"] = "urn:ascend:runbook:1"
	s["title"] = "A runbook of ascend"
	props := func(of map[string]any, path ...string) map[string]any {
		for _, p := range path {
			of, _ = of[p].(map[string]any)
		}
		return of
	}
	props(s, "properties")["version"] = map[string]any{"const": 1}
	group := props(s, "properties", "groups", "items", "properties")
	group["on_failure"] = map[string]any{"enum": []string{"", Stop, Continue}}
	until := props(group, "until", "properties")
	until["is"] = map[string]any{"enum": []string{"", Restored, PoweredOn, Address, BootProof}}
	until["grade"] = map[string]any{"enum": []string{"", "A", "B", "C"}}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // made of maps and strings
	}
	return append(b, '\n')
}
