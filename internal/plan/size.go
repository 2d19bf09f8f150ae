package plan

import (
	"fmt"
	"slices"
	"strings"

	"ascend/internal/plan/sizing"
	"ascend/internal/prices"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

// homeRegion stands in where no region is known.
var homeRegion = map[vm.Platform]string{vm.AWS: "us-east-1", vm.Azure: "eastus"}

// region is the region whose prices count.
func region(r Request) string {
	switch {
	case r.Inventory != nil && r.Inventory.Region != "":
		return r.Inventory.Region
	case r.Region != "":
		return r.Region
	}
	return homeRegion[r.Target.Platform]
}

// needOf is what the machine needs of a size.
func (p *Plan) needOf(r Request) sizing.Need {
	m := p.Source
	n := sizing.Need{
		CPUs: max(m.CPU.Total(), 1), Memory: m.Memory, Arch: p.Machine.Guest.Arch, Firmware: p.Machine.Firmware, Disks: len(m.Disks), NICs: len(m.NICs),
	}
	if at := r.Target.Platform; at == vm.AWS || at == vm.Azure { // elsewhere these are no matter of the size
		n.TPM, n.SecureBoot = p.Machine.TPM, p.Machine.SecureBoot
	}
	if n.Memory == 0 {
		n.Memory = p.Machine.Memory
	}
	if n.Arch == "" {
		n.Arch = vm.AMD64
	}
	if g := r.Guest; g != nil && g.Installed != nil {
		n.NoNVMe = !has(g.Installed, drivers(vm.BusNVMe, m.Guest.Family)) && !g.mends("kernel-driver-missing")
		n.NoENA = !has(g.Installed, []string{"ena"}) && !g.mends("network-driver-missing")
	}
	for i := range m.Disks {
		if c, ok := r.Caps.Traits.Class(p.storageOf(i, r.Caps.Traits)); ok && c.Premium {
			n.Premium = true
		}
	}
	return n
}

// size chooses the machine's size where the platform has sizes: the cheapest
// that fits, unless one is asked for. Processors and memory become the size's.
func (p *Plan) size(r Request) {
	field := r.Caps.Traits.SizeField
	if field == "" {
		return
	}
	sizes, price, currency := p.offered(r)
	p.facts.need = p.needOf(r)
	asked := p.Placement.Fields[field]
	if len(sizes) == 0 {
		if asked == "" {
			p.facts.noSize = "the target's sizes are not known"
		} else {
			p.Size = &SizeChoice{Field: field, Name: asked, Chosen: "asked for"}
		}
		return
	}
	list := sizing.Choose(p.facts.need, sizes, price)
	if len(list) == 0 && p.facts.need.TPM && asked == "" {
		n := p.facts.need
		n.TPM = false
		if list = sizing.Choose(n, sizes, price); len(list) > 0 {
			p.facts.need = n
			p.change("tpm", "present", "none", "no size that fits has a virtual TPM")
			p.Machine.TPM = false
		}
	}
	p.facts.sizes = list
	chosen := ""
	switch {
	case asked != "":
		chosen = "asked for"
	case len(list) == 0:
		p.facts.noSize = whyNone(p.facts.need, sizes)
		return
	default:
		asked, chosen = list[0].Name, fmt.Sprintf("the cheapest of %d that fit", len(list))
		if price == nil {
			chosen = fmt.Sprintf("the smallest of %d that fit", len(list))
		}
		if list[0].Custom {
			chosen = "it takes the machine's own processors and memory"
		}
		setField(&p.Placement, field, asked)
	}
	c := &SizeChoice{Field: field, Name: asked, Chosen: chosen}
	if price != nil {
		if h, ok := price(asked); ok {
			c.Hourly, c.Currency = h.Exact(), currency
		}
	}
	rest := list
	if len(list) > 0 && list[0].Name != asked {
		rest = append([]sizing.Choice{{Size: target.Size{Name: asked}}}, list...)
	}
	for _, a := range sizing.Alternatives(rest, 4) {
		o := SizeOption{Name: a.Name, CPUs: a.CPUs, Memory: a.Memory}
		if a.Hourly > 0 {
			o.Hourly = a.Hourly.Exact()
		}
		if a.Burst {
			o.Note = "its processors' time is rationed"
		}
		c.Alternatives = append(c.Alternatives, o)
	}
	p.Size = c
	if s, ok := findSize(sizes, asked); ok {
		p.follow(s, r.Target.Platform)
		if !s.Custom {
			p.become(s)
		}
	}
}

// follow gives the machine the virtual hardware that comes with a size of AWS or
// Azure.
func (p *Plan) follow(s target.Size, on vm.Platform) {
	bus := vm.BusVMBusSCSI
	switch {
	case s.NVMe:
		bus = vm.BusNVMe
	case on == vm.AWS:
		bus = vm.BusXenBlk
	}
	if on != vm.AWS && on != vm.Azure {
		return
	}
	set := func(field, from, to string) {
		p.Changes = slices.DeleteFunc(p.Changes, func(c Change) bool { return c.Field == field })
		p.change(field, from, to, "as the size "+s.Name+" has it")
	}
	for i := range p.Machine.Disks {
		if d := &p.Machine.Disks[i]; d.Controller != bus {
			d.Controller = bus
			set(fmt.Sprintf("disk %d controller", d.Index), orUnknown(string(p.Source.Disks[i].Controller)), string(bus))
		}
	}
	for i := range p.Machine.NICs {
		if n := &p.Machine.NICs[i]; n.Model == vm.ENA && !s.ENA {
			n.Model = ""
			set(fmt.Sprintf("nic %d model", i), orUnknown(string(p.Source.NICs[i].Model)), orUnknown(""))
		}
	}
}

// become gives the machine the size's processors and memory.
func (p *Plan) become(s target.Size) {
	m := p.Machine
	why := "as the size " + s.Name + " has it"
	if s.CPUs > 0 && p.change("cpus", fmt.Sprint(m.CPU.Total()), fmt.Sprint(s.CPUs), why) {
		m.CPU = vm.CPU{Sockets: 1, CoresPerSocket: s.CPUs}
	}
	if s.Memory > 0 && p.change("memory", vm.FormatSize(m.Memory), vm.FormatSize(s.Memory), why) {
		m.Memory = s.Memory
	}
}

func findSize(sizes []target.Size, name string) (target.Size, bool) {
	for _, s := range sizes {
		if s.Name == name {
			return s, true
		}
	}
	return target.Size{}, false
}

// offered are the sizes that a machine can have: those the target lists, with
// what the price table knows besides; else the table's.
func (p *Plan) offered(r Request) (sizes []target.Size, price sizing.Price, currency string) {
	if r.Inventory != nil {
		sizes = r.Inventory.Sizes
	}
	t := r.Prices.Table(r.Target.Platform)
	if t == nil {
		return sizes, nil, ""
	}
	at, os := region(r), prices.OSOf(p.Machine.Guest)
	price = func(name string) (prices.Micro, bool) { return t.Hourly(name, at, os) }
	if len(sizes) == 0 {
		sizes = t.Sizes
	}
	return sizes, price, t.Currency
}

// whyNone says what rules every size out: what, left out alone, would let one
// fit.
func whyNone(n sizing.Need, sizes []target.Size) string {
	fits := func(change func(n *sizing.Need)) bool {
		relaxed := n
		change(&relaxed)
		return slices.ContainsFunc(sizes, func(s target.Size) bool { return !s.Old && !s.Special && relaxed.Why(s) == "" })
	}
	if fits(func(*sizing.Need) {}) {
		return "those that would are not offered in this region with this system"
	}
	var out []string
	for _, c := range []struct {
		what   string
		change func(n *sizing.Need)
	}{
		{fmt.Sprintf("%d processors", n.CPUs), func(n *sizing.Need) { n.CPUs = 0 }},
		{vm.FormatSize(n.Memory) + " of memory", func(n *sizing.Need) { n.Memory = 0 }},
		{fmt.Sprintf("the architecture %s", n.Arch), func(n *sizing.Need) { n.Arch = "" }},
		{fmt.Sprintf("starting by %s", n.Firmware), func(n *sizing.Need) { n.Firmware = "" }},
		{plural(n.Disks, "disk"), func(n *sizing.Need) { n.Disks = 0 }},
		{plural(n.NICs, "network adapter"), func(n *sizing.Need) { n.NICs = 0 }},
		{"a guest without an NVMe driver", func(n *sizing.Need) { n.NoNVMe = false }},
		{"a guest without an ENA driver", func(n *sizing.Need) { n.NoENA = false }},
		{"premium storage", func(n *sizing.Need) { n.Premium = false }},
		{"a virtual TPM", func(n *sizing.Need) { n.TPM = false }},
		{"Secure Boot", func(n *sizing.Need) { n.SecureBoot = false }},
	} {
		if fits(c.change) {
			out = append(out, c.what)
		}
	}
	if len(out) == 0 {
		return "several of its needs together rule every size out"
	}
	return "none takes " + strings.Join(out, ", nor ") + " with the rest"
}

// sizeFields are the names that hold a size, for messages.
var sizeFields = map[string]string{caps.InstanceType: "instance type", caps.VMSize: "VM size", caps.ServiceOffering: "service offering"}
