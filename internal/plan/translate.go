package plan

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"ascend/internal/plan/sizing"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// facts are what was found while planning and rules look at.
type facts struct {
	networkWhy []string // parallel to the adapters: why each has its network
	sizes      []sizing.Choice
	need       sizing.Need
	noSize     string // why no size fits
}

// change notes what the machine will have otherwise than it had.
func (p *Plan) change(field, from, to, reason string) bool {
	if from == to {
		return false
	}
	p.Changes = append(p.Changes, Change{Field: field, From: from, To: to, Reason: reason})
	return true
}

// translate makes the machine as the target will have it and notes every
// difference with its reason.
func (p *Plan) translate(r Request) {
	m := p.Source.Clone()
	p.Machine = m
	t := r.Caps.Traits
	if r.Name != "" && p.change("name", m.Name, r.Name, "asked for") {
		m.Name = r.Name
	}
	if to := allowedName(m.Name, t.Name); p.change("name", m.Name, to, "as the target's names may be written") {
		m.Name = to
	}
	p.processor(t)
	p.firmware(r)
	if len(r.Caps.Controllers) > 0 {
		p.controllers(r)
	}
	p.adapters(r)
	p.identity(r)
	if r.Target.Platform != vm.Local {
		m.Platform = r.Target.Platform
	}
}

// processor sets processors and memory.
func (p *Plan) processor(t *target.Traits) {
	m := p.Machine
	if m.CPU.Total() == 0 {
		p.change("cpu", "not known", "1 socket × 1 core", "the backup does not say; set it with --cpus")
		m.CPU = vm.CPU{Sockets: 1, CoresPerSocket: 1}
	}
	from := m.CPU
	if m.CPU.CoresPerSocket == 0 {
		m.CPU.CoresPerSocket = 1
	}
	switch total := m.CPU.Total(); {
	case !t.Topology && (m.CPU.Sockets != 1 || m.CPU.Threads > 1) && total > 1:
		m.CPU = vm.CPU{Sockets: 1, CoresPerSocket: total}
		p.change("cpu topology", topology(from), topology(m.CPU), "the target counts processors only")
	case m.CPU.Threads > 1:
		m.CPU = vm.CPU{Sockets: m.CPU.Sockets, CoresPerSocket: m.CPU.CoresPerSocket * m.CPU.Threads}
		p.change("cpu topology", topology(from), topology(m.CPU), "the target has no threads inside a core")
	}
	if m.Memory == 0 {
		p.change("memory", "not known", vm.FormatSize(vm.GiB), "the backup does not say; set it with --memory")
		m.Memory = vm.GiB
	}
	if step := t.MemoryStep; step > 0 && m.Memory%step != 0 {
		to := (m.Memory + step - 1) / step * step
		p.change("memory", fmt.Sprintf("%d bytes", m.Memory), fmt.Sprintf("%d bytes", to), "the target takes multiples of "+vm.FormatSize(step))
		m.Memory = to
	}
}

func topology(c vm.CPU) string {
	s := fmt.Sprintf("%d × %d", c.Sockets, max(c.CoresPerSocket, 1))
	if c.Threads > 1 {
		s += fmt.Sprintf(" × %d", c.Threads)
	}
	return s
}

// firmware sets what starts the machine, Secure Boot and the TPM.
func (p *Plan) firmware(r Request) {
	m := p.Machine
	if g := r.Guest; m.Firmware == "" && g != nil && g.BootsBIOS != g.BootsUEFI {
		m.Firmware = map[bool]vm.Firmware{true: vm.UEFI, false: vm.BIOS}[g.BootsUEFI]
		p.change("firmware", "not known", string(m.Firmware), "as the guest's boot loader has it")
	}
	if b := m.BootDisk(); m.Firmware == "" && b >= 0 {
		if f := firmwareOf(r.Sources[b].Image); f != "" && p.change("firmware", "not known", string(f), "as the boot disk's partition table has it") {
			m.Firmware = f
		}
	}
	if m.Firmware == "" && len(r.Caps.Firmware) > 0 {
		p.change("firmware", "not known", string(r.Caps.Firmware[0]), "the backup does not say; set it with --firmware")
		m.Firmware = r.Caps.Firmware[0]
	}
	if m.SecureBoot && !r.Caps.SecureBoot {
		p.change("secure boot", "on", "off", "the target has no Secure Boot")
		m.SecureBoot = false
	}
	if m.TPM && !r.Caps.TPM {
		p.change("tpm", "present", "none", "the target has no virtual TPM")
		m.TPM = false
	}
	if m.TPM && m.Firmware == vm.BIOS && len(r.Caps.Traits.Drivers.LinuxStorage) > 0 {
		p.change("tpm", "present", "none", "a virtual TPM needs UEFI")
		m.TPM = false
	}
}

// identity sets the UUID and the clock.
func (p *Plan) identity(r Request) {
	m := p.Machine
	if m.UUID != "" {
		policy := r.UUID
		for _, o := range r.Caps.Options { // the connector's own option decides, where it has one
			if o.Name == "uuid" && policy == "" {
				if policy = r.Options["uuid"]; policy == "" {
					policy = o.Default
				}
			}
		}
		switch {
		case !r.Caps.KeepsUUID:
			p.change("uuid", m.UUID, "new", "the target gives identifiers of its own")
			m.UUID = ""
		case policy == "new":
			p.change("uuid", m.UUID, "new", "so that no two machines carry the same")
			m.UUID = ""
		}
	}
	if m.Guest.Family == "" {
		return
	}
	to := vm.ClockUTC
	if r.Caps.Traits.Clock == "guest" && m.Guest.Family == vm.Windows {
		to = vm.ClockLocal
	}
	if m.Clock != "" && r.Target.Platform != vm.Local && p.change("clock", string(m.Clock), string(to), "what the target's hardware clock shows this guest") {
		m.Clock = to
	}
}

// allowedName is a machine's name as the target may write it: what it forbids
// becomes a hyphen, what is too long is cut.
func allowedName(name string, r target.NameRule) string {
	if strings.TrimSpace(name) == "" || r == (target.NameRule{}) {
		return name
	}
	out := strings.Map(func(c rune) rune {
		host := c < 0x80 && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9')
		if r.Host && !host || strings.ContainsRune(r.Forbid, c) {
			return '-'
		}
		return c
	}, name)
	for r.Max > 0 && len(out) > r.Max {
		_, n := utf8.DecodeLastRuneInString(out)
		out = out[:len(out)-n]
	}
	if r.Host {
		for strings.Contains(out, "--") {
			out = strings.ReplaceAll(out, "--", "-")
		}
		out = strings.Trim(out, "-")
		if out == "" || out[0] >= '0' && out[0] <= '9' {
			out = strings.TrimSuffix("vm-"+out, "-")
		}
		if len(out) > r.Max {
			out = out[:r.Max]
		}
	}
	return out
}

// adapters sets the network adapters' models, addresses and networks; their
// order stays.
func (p *Plan) adapters(r Request) {
	m := p.Machine
	for i := range m.NICs {
		n := &m.NICs[i]
		if len(r.Caps.NICModels) > 0 {
			to, why := adapterFor(n.Model, m, r)
			p.change(fmt.Sprintf("nic %d model", i), orUnknown(string(n.Model)), string(to), why)
			n.Model = to
		}
		switch {
		case n.MAC == "":
		case !r.Caps.KeepsMAC:
			p.change(fmt.Sprintf("nic %d mac", i), n.MAC, "new", "the target gives addresses of its own")
			n.MAC = ""
		case r.MAC == "new":
			p.change(fmt.Sprintf("nic %d mac", i), n.MAC, "new", "asked for")
			n.MAC = ""
		}
		if to := p.networkOf(i); to != "" {
			why := "mapped"
			if i < len(p.facts.networkWhy) && p.facts.networkWhy[i] != "" {
				why = p.facts.networkWhy[i]
			}
			p.change(fmt.Sprintf("nic %d network", i), orUnknown(n.Network), to, why)
		}
		switch a := p.adapterOf(i); a.Address {
		case target.AddressDHCP:
			p.change(fmt.Sprintf("nic %d address", i), orUnknown(strings.Join(n.Addresses, ", ")), "by DHCP", "asked for")
			n.Addresses = nil
		case target.AddressNew:
			p.change(fmt.Sprintf("nic %d address", i), orUnknown(strings.Join(n.Addresses, ", ")), strings.Join(a.Addresses, ", "), "asked for")
			n.Addresses = slices.Clone(a.Addresses)
		}
	}
}

// nicDrivers are the Windows services of adapters that Windows does not bring.
var nicDrivers = map[vm.NICModel]struct {
	linux, windows string
}{
	vm.VMXNET3: {"vmxnet3", "vmxnet3ndis6"}, vm.VirtioNet: {"virtio_net", "netkvm"}, vm.ENA: {"ena", "ena"}, vm.NetVSC: {"hv_netvsc", "netvsc"},
	vm.E1000: {"e1000", "E1G60"}, vm.E1000E: {"e1000e", "e1i65x64"},
}

// adapterFor keeps a model the target has, as far as the guest is known to have
// its driver, and else takes the first that the guest can be expected to drive.
func adapterFor(model vm.NICModel, m *vm.Machine, r Request) (vm.NICModel, string) {
	list := r.Caps.NICModels
	if slices.Contains(list, model) {
		return model, ""
	}
	for _, n := range list {
		d := nicDrivers[n]
		switch {
		case m.Guest.Family == vm.Windows && (n == vm.VMXNET3 || n == vm.VirtioNet) && (r.Guest == nil || r.Guest.Installed == nil):
		case r.Guest != nil && r.Guest.Installed != nil && !slices.Contains(r.Guest.Installed, d.linux) && !slices.Contains(r.Guest.Installed, d.windows) && d.linux != "":
		case n == list[0]:
			return n, "the target's first choice"
		default:
			return n, "the first the guest is known to have a driver for"
		}
	}
	return list[0], "the target's first choice"
}

func orUnknown(s string) string {
	if s == "" {
		return "not known"
	}
	return s
}
