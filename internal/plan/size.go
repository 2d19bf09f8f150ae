package plan

import (
	"fmt"
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
		TPM: p.Machine.TPM, SecureBoot: p.Machine.SecureBoot,
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
		setField(&p.Placement, field, asked)
	}
	c := &SizeChoice{Field: field, Name: asked, Chosen: chosen}
	if price != nil {
		if h, ok := price(asked); ok {
			c.Hourly, c.Currency = h.String(), currency
		}
	}
	rest := list
	if len(list) > 0 && list[0].Name != asked {
		rest = append([]sizing.Choice{{Size: target.Size{Name: asked}}}, list...)
	}
	for _, a := range sizing.Alternatives(rest, 4) {
		o := SizeOption{Name: a.Name, CPUs: a.CPUs, Memory: a.Memory}
		if a.Hourly > 0 {
			o.Hourly = a.Hourly.String()
		}
		if a.Burst {
			o.Note = "its processors' time is rationed"
		}
		c.Alternatives = append(c.Alternatives, o)
	}
	p.Size = c
	if s, ok := findSize(sizes, asked); ok && !s.Custom {
		p.become(s)
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

// whyNone says what rules sizes out, from the one that comes nearest.
func whyNone(n sizing.Need, sizes []target.Size) string {
	count := map[string]int{}
	best, most := "", 0
	for _, s := range sizes {
		if s.Old || s.Special {
			continue
		}
		why := n.Why(s)
		if why == "" {
			why = "it is not offered in this region"
		}
		if i := strings.IndexFunc(why, func(r rune) bool { return r >= '0' && r <= '9' }); i > 0 && strings.HasPrefix(why, "it has") {
			why = "it is too small"
		}
		if count[why]++; count[why] > most || count[why] == most && why < best {
			best, most = why, count[why]
		}
	}
	if best == "" {
		return "the target lists no size that may be chosen"
	}
	return fmt.Sprintf("of most it holds that %s", best)
}

// sizeFields are the names that hold a size, for messages.
var sizeFields = map[string]string{caps.InstanceType: "instance type", caps.VMSize: "VM size", caps.ServiceOffering: "service offering"}
