package plan

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"ascend/internal/plan/sizing"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

// Document is a plan as a file: YAML, or JSON, which is YAML too. The same plan
// gives the same bytes.
type Document struct {
	Plan *Plan
	name string
	// lines are the lines of the file by path: "machine.disks[0].controller".
	lines map[string]int
}

// DocumentOf is a plan that was read before; its errors name no line.
func DocumentOf(name string, p *Plan) *Document { return &Document{Plan: p, name: name} }

// maxDocument bounds a plan's file.
const maxDocument = 16 << 20

const documentHead = `# A plan of ascend. What may be edited: machine, placement, options, power_on, guest, and
# delivery, block_size and level of disks. Everything else is checked against the
# world when the plan is carried out: ascend apply FILE. Schema: ascend plan --schema.
`

// YAML is the plan as a file.
func (p *Plan) YAML() ([]byte, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	y, err := yaml.JSONToYAML(b)
	if err != nil {
		return nil, fmt.Errorf("cannot write plan: %w", err)
	}
	return append([]byte(documentHead), y...), nil
}

// EditError is a plan that was edited to what cannot be.
type EditError struct {
	File    string
	Line    int // 0: not known
	Field   string
	Problem string
	Allowed []string // the values that can be; empty where they cannot be listed
}

func (e *EditError) Error() string {
	s := e.File
	if e.Line > 0 {
		s += ":" + strconv.Itoa(e.Line)
	}
	s += ": " + e.Field + ": " + e.Problem
	if len(e.Allowed) > 0 {
		s += "; allowed: " + strings.Join(e.Allowed, ", ")
	}
	return s
}

// ParseDocument reads a plan's file. name is for messages. Unknown fields and
// values of the wrong type are errors that name the line.
func ParseDocument(name string, b []byte) (*Document, error) {
	if len(b) > maxDocument {
		return nil, fmt.Errorf("cannot read plan %s: longer than %d bytes", name, maxDocument)
	}
	f, err := parser.ParseBytes(b, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot read plan %s: %w", name, err)
	}
	if len(f.Docs) != 1 || f.Docs[0].Body == nil {
		return nil, fmt.Errorf("cannot read plan %s: it holds no plan", name)
	}
	d := &Document{Plan: &Plan{}, name: name, lines: map[string]int{}}
	d.walk("", f.Docs[0].Body, 0)
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(d.Plan); err != nil {
		return nil, d.explain(err)
	}
	return d, d.form()
}

// walk notes the line of every value.
func (d *Document) walk(path string, n ast.Node, depth int) {
	if n == nil || depth > 64 {
		return
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		if _, ok := d.lines[path]; !ok {
			d.lines[path] = tk.Position.Line
		}
	}
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			d.pair(path, v, depth)
		}
	case *ast.MappingValueNode:
		d.pair(path, n, depth)
	case *ast.SequenceNode:
		for i, v := range n.Values {
			d.walk(path+"["+strconv.Itoa(i)+"]", v, depth+1)
		}
	}
}

func (d *Document) pair(path string, v *ast.MappingValueNode, depth int) {
	key := v.Key.GetToken().Value
	if path != "" {
		key = path + "." + key
	}
	d.lines[key] = v.Key.GetToken().Position.Line
	d.walk(key, v.Value, depth+1)
}

// explain is a decoder's error as an EditError.
func (d *Document) explain(err error) error {
	e := &EditError{File: d.name, Field: "plan", Problem: err.Error()}
	var syntax *yaml.SyntaxError
	var unknown *yaml.UnknownFieldError
	var kind *yaml.TypeError
	switch {
	case errors.As(err, &unknown):
		e.Line, e.Field, e.Problem = unknown.Token.Position.Line, unknown.Token.Value, "a plan has no such field"
		e.Allowed = d.siblings(e.Line, unknown.Token.Value)
	case errors.As(err, &kind):
		e.Line, e.Problem = kind.Token.Position.Line, fmt.Sprintf("%q is not of the type %s", kind.Token.Value, kind.DstType)
		e.Field = d.at(e.Line)
	case errors.As(err, &syntax):
		e.Line, e.Problem = syntax.Token.Position.Line, syntax.Message
	default:
		e.Problem, _, _ = strings.Cut(err.Error(), "\n")
	}
	return e
}

// at is the path that stands on a line.
func (d *Document) at(line int) string {
	best := "plan"
	for p, l := range d.lines {
		if l == line && (best == "plan" || len(p) > len(best)) {
			best = p
		}
	}
	return best
}

// siblings are the fields that may stand where an unknown one does.
func (d *Document) siblings(line int, name string) []string {
	for p, l := range d.lines {
		if l == line && (p == name || strings.HasSuffix(p, "."+name)) {
			return schemaFields(strings.TrimSuffix(strings.TrimSuffix(p, name), "."))
		}
	}
	return nil
}

// bad is an error of one field.
func (d *Document) bad(field string, allowed []string, format string, args ...any) error {
	line := d.lines[field]
	for p := field; line == 0 && p != ""; {
		p = p[:max(strings.LastIndexAny(p, ".["), 0)]
		line = d.lines[p]
	}
	return &EditError{File: d.name, Line: line, Field: field, Problem: fmt.Sprintf(format, args...), Allowed: allowed}
}

// form checks what can be checked without a target.
func (d *Document) form() error {
	p := d.Plan
	switch {
	case p.Version != 1:
		return d.bad("version", []string{"1"}, "%d is not a version of plans that is known here", p.Version)
	case p.Machine == nil || p.Source == nil:
		return d.bad("machine", nil, "a plan needs machine and source")
	case len(p.Disks) != len(p.Machine.Disks) || len(p.Source.Disks) != len(p.Disks):
		return d.bad("machine.disks", nil, "there are %d disks, %d in machine and %d in source; disks cannot be added or left out here", len(p.Disks), len(p.Machine.Disks), len(p.Source.Disks))
	case len(p.Machine.NICs) != len(p.Source.NICs):
		return d.bad("machine.nics", nil, "the machine has %d adapters and its source %d; adapters cannot be added or left out here", len(p.Machine.NICs), len(p.Source.NICs))
	case p.Backup.ID == "" || p.Target.Name == "":
		return d.bad("backup", nil, "a plan names its backup and its target")
	}
	return nil
}

// Request is the request that makes the document's plan again: the machine as it
// was taken for the plan, everything editable as the document has it. The caller
// adds what is asked anew: backup, target, inventory, prices.
func (d *Document) Request(sources []Source, c target.Capabilities) (*Request, error) {
	p := d.Plan
	if len(sources) != len(p.Disks) {
		return nil, fmt.Errorf("cannot carry out the plan: the backup has %d disks and the plan %d", len(sources), len(p.Disks))
	}
	if err := d.sealed(); err != nil {
		return nil, err
	}
	r := &Request{Machine: p.Source, Sources: sources, Caps: caps.Fill(c), Want: p, Options: p.Options, PowerOn: p.PowerOn, GuestWish: p.Guest, Seed: p.Seed, Placement: p.Placement}
	if p.Estimate.Cost != nil {
		r.Region = p.Estimate.Cost.Region
	}
	return r, nil
}

// editable is the seal of what may be edited: it tells whether it was.
const editable = "editable"

// Edited tells whether the plan is otherwise than it was made.
func (p *Plan) Edited() bool { return p.Seal[editable] != p.seal()[editable] }

// seal is a short digest of each part of a plan that may not be edited.
func (p *Plan) seal() map[string]string {
	disks := []any{}
	for _, d := range p.Disks {
		disks = append(disks, []any{d.Index, d.Source, d.Virtual, d.FileSize})
	}
	deliveries := []any{}
	for _, d := range p.Disks {
		deliveries = append(deliveries, []any{d.Delivery, d.BlockSize, d.Level})
	}
	out := map[string]string{}
	for name, part := range map[string]any{"backup": p.Backup, "target": p.Target, "source": p.Source, "disks": disks,
		editable: []any{p.Machine, p.Placement, p.Options, p.PowerOn, p.Guest, deliveries}} {
		b, err := json.Marshal(part)
		if err != nil {
			b = []byte(err.Error())
		}
		out[name] = fmt.Sprintf("%x", sha256.Sum256(b))[:12]
	}
	return out
}

// sealed tells whether the fixed parts are as they were made.
func (d *Document) sealed() error {
	have := d.Plan.seal()
	for _, name := range sortedKeys(d.Plan.Seal) {
		if name != editable && have[name] != d.Plan.Seal[name] {
			what := name
			if name == "disks" {
				what = "disks: source, virtual and file_size"
			}
			return d.bad(name, nil, "%s cannot be edited; make another plan", what)
		}
	}
	return nil
}

// Check holds what may be edited to what the target can do, before a plan is
// made of it again. The first error names the line and the values allowed.
func (d *Document) Check(r Request) error {
	p := d.Plan
	m := p.Machine
	c := r.Caps
	for i := range p.Disks {
		if p.Machine.Disks[i].Index != p.Source.Disks[i].Index {
			return d.bad(fmt.Sprintf("machine.disks[%d].index", i), []string{strconv.Itoa(p.Source.Disks[i].Index)}, "the order of the disks is the source's")
		}
	}
	if err := d.checkMachine(m, c); err != nil {
		return err
	}
	for i, disk := range p.Disks {
		if err := d.checkDelivery(fmt.Sprintf("disks[%d].delivery", i), disk.Delivery, c); err != nil {
			return err
		}
	}
	if err := d.checkPlacement(r); err != nil {
		return err
	}
	for _, k := range sortedKeys(p.Options) {
		i := slices.IndexFunc(c.Options, func(f target.Field) bool { return f.Name == k })
		if i < 0 {
			return d.bad("options."+k, fieldNames(c.Options), "the target has no such option")
		}
		if v := c.Options[i].Values; len(v) > 0 && !slices.Contains(v, p.Options[k]) {
			return d.bad("options."+k, v, "%q is not one of its values", p.Options[k])
		}
	}
	return d.checkSize(r)
}

// one checks that a value is one of a list.
func one[S ~string](d *Document, field string, v S, allowed []S) error {
	if slices.Contains(allowed, v) {
		return nil
	}
	return d.bad(field, texts(allowed), "%q is not one of its values", string(v))
}

func texts[S ~string](list []S) []string {
	var out []string
	for _, s := range list {
		if s != "" {
			out = append(out, string(s))
		}
	}
	return out
}

func (d *Document) checkMachine(m *vm.Machine, c target.Capabilities) error {
	firmware, buses, models := c.Firmware, c.Controllers, c.NICModels
	if l := c.Traits.For(m.Firmware); len(l.Controllers) > 0 {
		buses = l.Controllers
	}
	if c.Traits.SizeField != "" {
		models = append(slices.Clone(models), "") // the size's own
	}
	if len(firmware) == 0 {
		firmware = []vm.Firmware{vm.BIOS, vm.UEFI}
	}
	if err := one(d, "machine.firmware", m.Firmware, firmware); err != nil {
		return err
	}
	switch {
	case strings.TrimSpace(m.Name) == "" || allowedName(m.Name, c.Traits.Name) != m.Name:
		return d.bad("machine.name", []string{allowedName(m.Name, c.Traits.Name)}, "%q cannot be written on the target", m.Name)
	case m.CPU.Total() < 1 || m.CPU.Sockets < 1 || m.CPU.CoresPerSocket < 0 || m.CPU.Threads < 0:
		return d.bad("machine.cpu", nil, "there must be 1 processor or more")
	case m.Memory < vm.MiB:
		return d.bad("machine.memory", nil, "%d bytes: memory is in bytes, 1048576 or more", m.Memory)
	case m.SecureBoot && (!c.SecureBoot || m.Firmware != vm.UEFI):
		return d.bad("machine.secure_boot", []string{"false"}, "Secure Boot needs UEFI and a target that has it")
	case m.TPM && !c.TPM:
		return d.bad("machine.tpm", []string{"false"}, "the target has no virtual TPM")
	}
	if err := one(d, "machine.guest.family", m.Guest.Family, []vm.OSFamily{"", vm.Linux, vm.Windows, vm.BSD, vm.OtherOS}); err != nil {
		return err
	}
	if err := one(d, "machine.guest.arch", m.Guest.Arch, []vm.Arch{"", vm.AMD64, vm.I386, vm.ARM64}); err != nil {
		return err
	}
	if err := one(d, "machine.clock", m.Clock, []vm.Clock{"", vm.ClockUTC, vm.ClockLocal}); err != nil {
		return err
	}
	used := map[string]int{}
	for i := range m.Disks {
		k := &m.Disks[i]
		at := fmt.Sprintf("machine.disks[%d]", i)
		if len(buses) > 0 {
			if err := one(d, at+".controller", k.Controller, buses); err != nil {
				return err
			}
		}
		units, self := places(k.Controller)
		if k.Controller != "" && (k.Unit < 0 || k.Unit >= units && k.Unit >= 64 || k.Unit == self || k.ControllerNumber < 0 || k.ControllerNumber >= maxControllers(k.Controller)) {
			return d.bad(at+".unit", nil, "%s has no place %s: units go from 0 to %d%s", k.Controller, place(*k), units-1, map[bool]string{true: fmt.Sprintf(" without %d", self)}[self >= 0])
		}
		key := slots{}.key(k)
		if j, ok := used[key]; ok && k.Controller != "" {
			return d.bad(at+".unit", nil, "disk %d is at %s %s already", m.Disks[j].Index, k.Controller, place(*k))
		}
		used[key] = i
	}
	for i, n := range m.NICs {
		at := fmt.Sprintf("machine.nics[%d]", i)
		if len(models) > 0 {
			if err := one(d, at+".model", n.Model, models); err != nil {
				return err
			}
		}
		if n.MAC != "" {
			if mac, err := net.ParseMAC(n.MAC); err != nil || len(mac) != 6 || mac[0]&1 != 0 {
				return d.bad(at+".mac", nil, "%q is not an address of a machine as aa:bb:cc:dd:ee:ff", n.MAC)
			}
			if !c.KeepsMAC {
				return d.bad(at+".mac", []string{"(empty)"}, "the target gives addresses of its own")
			}
		}
	}
	return nil
}

func (d *Document) checkDelivery(at string, v target.Delivery, c target.Capabilities) error {
	var paths, formats []string
	for _, o := range c.Deliveries {
		if o.Path == v.Path && o.Format == v.Format {
			return nil
		}
		if !slices.Contains(paths, o.Path) {
			paths = append(paths, o.Path)
		}
		if o.Path == v.Path {
			formats = append(formats, o.Format.String())
		}
	}
	if len(formats) == 0 {
		return d.bad(at+".path", paths, "the target has no way %q", v.Path)
	}
	at += ".format"
	if slices.ContainsFunc(c.Deliveries, func(o target.Delivery) bool { return o.Path == v.Path && o.Format.Name == v.Format.Name }) {
		at += ".subformat"
	}
	return d.bad(at, formats, "%s is not taken by the way %s", v.Format, v.Path)
}

func (d *Document) checkPlacement(r Request) error {
	p, t := d.Plan, r.Caps.Traits
	for _, k := range sortedKeys(p.Placement.Fields) {
		i := slices.IndexFunc(r.Caps.Fields, func(f target.Field) bool { return f.Name == k })
		if i < 0 {
			return d.bad("placement.fields."+k, fieldNames(r.Caps.Fields), "the target has no such placement field")
		}
		if v := r.Caps.Fields[i].Values; len(v) > 0 && !slices.Contains(v, p.Placement.Fields[k]) {
			return d.bad("placement.fields."+k, v, "%q is not one of its values", p.Placement.Fields[k])
		}
	}
	if n := len(p.Placement.Networks); n > len(p.Machine.NICs) {
		return d.bad("placement.networks", nil, "%d networks for %d adapters", n, len(p.Machine.NICs))
	}
	if n := max(len(p.Placement.Storage), len(p.Placement.Volumes)); n > len(p.Disks) {
		return d.bad("placement.storage", nil, "%d entries for %d disks", n, len(p.Disks))
	}
	if n := len(p.Placement.Adapters); n > len(p.Machine.NICs) {
		return d.bad("placement.adapters", nil, "%d entries for %d adapters", n, len(p.Machine.NICs))
	}
	if r.Inventory != nil && len(r.Inventory.Networks) > 0 {
		for i, n := range p.Placement.Networks {
			if n != "" && !strings.Contains(n, "/") && !knows(r.Inventory.Networks, n) {
				return d.bad(fmt.Sprintf("placement.networks[%d]", i), names(r.Inventory.Networks), "the target has no network %q", n)
			}
		}
	}
	var stores []string
	for _, c := range t.Classes {
		stores = append(stores, c.Name)
	}
	if r.Inventory != nil && len(stores) == 0 && t.StorageField != "" {
		stores = names(r.Inventory.Places[t.StorageField])
	}
	for i, s := range p.Placement.Storage {
		if s != "" && len(stores) > 0 && !slices.Contains(stores, s) && !knows(placesOf(stores), s) {
			return d.bad(fmt.Sprintf("placement.storage[%d]", i), stores, "the target has no storage %q", s)
		}
	}
	for i, v := range p.Placement.Volumes {
		c, ok := t.Class(p.storageOf(i, t))
		at := fmt.Sprintf("placement.volumes[%d]", i)
		if v != (target.Volume{}) && !ok {
			return d.bad(at, nil, "only storage classes of the platform take IOPS and throughput")
		}
		if why := overClass(c, p.Disks[i].Virtual, v); ok && why != "" {
			return d.bad(at, nil, "%s %s", c.Name, why)
		}
	}
	for i, a := range p.Placement.Adapters {
		at := fmt.Sprintf("placement.adapters[%d].address", i)
		if err := one(d, at, a.Address, append([]target.AddressPolicy{""}, t.Addresses...)); err != nil {
			return err
		}
	}
	return nil
}

func placesOf(list []string) []target.Place {
	var out []target.Place
	for _, s := range list {
		out = append(out, target.Place{Name: s})
	}
	return out
}

// checkSize holds the size to those known, and processors and memory to the
// size, which they follow.
func (d *Document) checkSize(r Request) error {
	p := d.Plan
	f := r.Caps.Traits.SizeField
	name := p.Placement.Fields[f]
	if f == "" || name == "" {
		return nil
	}
	q := &Plan{Machine: p.Machine, Source: p.Source, Placement: p.Placement}
	sizes, price, _ := q.offered(r)
	s, ok := findSize(sizes, name)
	if !ok {
		if len(sizes) == 0 {
			return nil
		}
		var near []string
		for _, c := range sizing.Choose(q.needOf(r), sizes, price) {
			if near = append(near, c.Name); len(near) == 12 {
				break
			}
		}
		return d.bad("placement.fields."+f, append(near, "…"), "%q is no size of the target", name)
	}
	if p.Size == nil || p.Size.Name != name || s.Custom {
		return nil // the size was edited: processors and memory follow it
	}
	if s.CPUs > 0 && p.Machine.CPU.Total() != s.CPUs {
		return d.bad("machine.cpu.cores_per_socket", []string{strconv.Itoa(s.CPUs)}, "processors are those of the size %s; edit placement.fields.%s instead", name, f)
	}
	if s.Memory > 0 && p.Machine.Memory != s.Memory {
		return d.bad("machine.memory", []string{strconv.FormatInt(s.Memory, 10)}, "memory is that of the size %s; edit placement.fields.%s instead", name, f)
	}
	return nil
}
