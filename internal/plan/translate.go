package plan

import (
	"fmt"
	"slices"
	"strconv"

	"ascend/internal/vm"
)

// translate makes the machine as the target will have it and notes every
// difference with its reason.
func (p *Plan) translate(r Request) {
	m := r.Machine.Clone()
	p.Machine = m
	set := func(field, from, to, reason string) bool {
		if from == to {
			return false
		}
		p.Changes = append(p.Changes, Change{Field: field, From: from, To: to, Reason: reason})
		return true
	}
	if r.Name != "" && set("name", m.Name, r.Name, "asked for") {
		m.Name = r.Name
	}
	if m.CPU.Total() == 0 {
		set("cpu", "not known", "1 socket × 1 core", "the backup does not say; set it with --cpus")
		m.CPU = vm.CPU{Sockets: 1, CoresPerSocket: 1}
	}
	if m.CPU.CoresPerSocket == 0 {
		m.CPU.CoresPerSocket = 1
	}
	if m.Memory == 0 {
		set("memory", "not known", vm.FormatSize(vm.GiB), "the backup does not say; set it with --memory")
		m.Memory = vm.GiB
	}
	if b := m.BootDisk(); m.Firmware == "" && b >= 0 {
		if f := firmwareOf(r.Sources[b].Image); f != "" && set("firmware", "not known", string(f), "as the boot disk's partition table has it") {
			m.Firmware = f
		}
	}
	if m.Firmware == "" && len(r.Caps.Firmware) > 0 {
		set("firmware", "not known", string(r.Caps.Firmware[0]), "the backup does not say; set it with --firmware")
		m.Firmware = r.Caps.Firmware[0]
	}
	if m.SecureBoot && !r.Caps.SecureBoot {
		set("secure boot", "on", "off", "the target has no Secure Boot")
		m.SecureBoot = false
	}
	if m.TPM && !r.Caps.TPM {
		set("tpm", "present", "none", "the target has no virtual TPM")
		m.TPM = false
	}
	if len(r.Caps.Controllers) > 0 {
		p.controllers(r, set)
	}
	for i := range m.NICs {
		n := &m.NICs[i]
		if len(r.Caps.NICModels) > 0 && !slices.Contains(r.Caps.NICModels, n.Model) {
			to := r.Caps.NICModels[0]
			set(fmt.Sprintf("nic %d model", i), orUnknown(string(n.Model)), string(to), "the target's first choice")
			n.Model = to
		}
		if n.MAC != "" && !r.Caps.KeepsMAC {
			set(fmt.Sprintf("nic %d mac", i), n.MAC, "new", "the target gives addresses of its own")
			n.MAC = ""
		}
		if i < len(r.Placement.Networks) && r.Placement.Networks[i] != "" {
			set(fmt.Sprintf("nic %d network", i), orUnknown(n.Network), r.Placement.Networks[i], "mapped")
		}
	}
	if m.UUID != "" && !r.Caps.KeepsUUID {
		set("uuid", m.UUID, "new", "the target gives identifiers of its own")
		m.UUID = ""
	}
	if r.Target.Platform != vm.Local {
		m.Platform = r.Target.Platform
	}
}

// controllers keeps each disk's controller where the target has that kind, and
// moves the others to its first choice, in the source's order.
func (p *Plan) controllers(r Request, set func(field, from, to, reason string) bool) {
	m := p.Machine
	used := map[string]bool{}
	slot := func(d *vm.Disk) string {
		return string(d.Controller) + "/" + strconv.Itoa(d.ControllerNumber) + "/" + strconv.Itoa(d.Unit)
	}
	kept := make([]bool, len(m.Disks))
	for i := range m.Disks {
		d := &m.Disks[i]
		if d.Controller != "" && slices.Contains(r.Caps.Controllers, d.Controller) && !used[slot(d)] {
			used[slot(d)], kept[i] = true, true
		}
	}
	for i := range m.Disks {
		d := &m.Disks[i]
		if kept[i] {
			continue
		}
		to := r.Caps.Controllers[0]
		set(fmt.Sprintf("disk %d controller", d.Index), orUnknown(string(d.Controller)), string(to), "the target's first choice")
		d.Controller, d.ControllerNumber, d.Unit = to, 0, 0
		for used[slot(d)] || d.Unit == 7 { // 7 is the SCSI controller's own
			if d.Unit++; d.Unit > 14 {
				d.Unit, d.ControllerNumber = 0, d.ControllerNumber+1
			}
		}
		used[slot(d)] = true
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "not known"
	}
	return s
}
