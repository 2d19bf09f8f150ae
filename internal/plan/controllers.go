package plan

import (
	"fmt"
	"slices"
	"strconv"

	"ascend/internal/vm"
)

// places is how many disks one controller of a kind takes and which unit is its
// own.
func places(b vm.Bus) (units, self int) {
	switch b {
	case vm.BusIDE:
		return 2, -1
	case vm.BusSATA:
		return 30, -1
	case vm.BusVMBusSCSI:
		return 64, -1
	case vm.BusVirtioSCSI, vm.BusVirtioBlk, vm.BusXenBlk:
		return 256, -1
	}
	return 16, 7 // parallel SCSI: unit 7 is the controller
}

// maxControllers is how many controllers of a kind a machine has.
func maxControllers(b vm.Bus) int {
	if b == vm.BusIDE {
		return 2
	}
	return 1 << 16
}

// slots hands out places of disks.
type slots map[string]bool

func (s slots) key(d *vm.Disk) string {
	return string(d.Controller) + "/" + strconv.Itoa(d.ControllerNumber) + "/" + strconv.Itoa(d.Unit)
}

// take claims the place that the disk has.
func (s slots) take(d *vm.Disk) bool {
	if s[s.key(d)] {
		return false
	}
	s[s.key(d)] = true
	return true
}

// put gives the disk the first free place on a bus; false when there is none.
func (s slots) put(d *vm.Disk, b vm.Bus) bool {
	units, self := places(b)
	d.Controller, d.ControllerNumber, d.Unit = b, 0, 0
	for d.Unit == self || !s.take(d) {
		if d.Unit++; d.Unit >= units {
			d.Unit, d.ControllerNumber = 0, d.ControllerNumber+1
		}
		if d.ControllerNumber >= maxControllers(b) {
			return false
		}
	}
	return true
}

// controllers keeps each disk's controller where the target has that kind, and
// moves the others to the first kind that the guest can be expected to drive, in
// the source's order. Where a firmware starts from one bus only, the boot disk
// comes first on it.
func (p *Plan) controllers(r Request) {
	m := p.Machine
	limits := r.Caps.Traits.For(m.Firmware)
	list := r.Caps.Controllers
	if len(limits.Controllers) > 0 {
		list = limits.Controllers
	}
	first := bestBus(list, m, r.Guest)
	used := slots{}
	before := slices.Clone(m.Disks)
	done := make([]bool, len(m.Disks))
	why := make([]string, len(m.Disks))
	if b := m.BootDisk(); limits.BootBus != "" && b >= 0 {
		used.put(&m.Disks[b], limits.BootBus)
		done[b], why[b] = true, "the only controller that "+limits.What+" starts from"
		if first == limits.BootBus && len(list) > 1 {
			first = list[1] // a small bus is left to the boot disk
		}
	}
	boot := m.BootDisk()
	for i := range m.Disks {
		d := &m.Disks[i]
		if i == boot && !starts(d.Controller, m, r.Guest) && starts(first, m, r.Guest) && r.Guest != nil && r.Guest.Boot != nil {
			continue // as backed up it would not find its root, on another it does
		}
		if !done[i] && d.Controller != "" && slices.Contains(list, d.Controller) && (limits.BootBus == "" || d.Controller != vm.BusIDE) && used.take(d) {
			done[i] = true
		}
	}
	for i := range m.Disks {
		if done[i] {
			continue
		}
		if why[i] = "the target's first choice"; first != r.Caps.Controllers[0] {
			why[i] = "the first the guest can be expected to have a driver for"
			if limits.BootBus != "" {
				why[i] = limits.What + "'s controller of further disks"
			}
		}
		used.put(&m.Disks[i], first)
	}
	for i := range m.Disks {
		was, is := before[i], m.Disks[i]
		reason := why[i]
		if reason == "" {
			continue
		}
		if !p.change(fmt.Sprintf("disk %d controller", is.Index), orUnknown(string(was.Controller)), string(is.Controller), reason) && was.Controller != "" {
			p.change(fmt.Sprintf("disk %d place", is.Index), place(was), place(is), reason)
		}
	}
}

func place(d vm.Disk) string { return fmt.Sprintf("%d:%d", d.ControllerNumber, d.Unit) }

// bestBus is the first bus of a list that the guest is expected to start from.
func bestBus(list []vm.Bus, m *vm.Machine, g *GuestFacts) vm.Bus {
	for _, b := range list {
		if starts(b, m, g) {
			return b
		}
	}
	for _, b := range list { // adaptation can put an installed driver to use
		if g != nil && g.Installed != nil && has(g.Installed, drivers(b, m.Guest.Family)) {
			return b
		}
	}
	return list[0]
}
