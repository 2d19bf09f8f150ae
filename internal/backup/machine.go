package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"ascend/internal/disk"
	"ascend/internal/vm"
)

// machineFile describes the machine of the backups beside it; see docs/vm.md.
const machineFile = "vm.json"

// ReadMachine reads a vm.json (docs/vm.md), at most 4 MiB, and checks it. Fields
// it does not know are ignored; values it does not know are left out, with a
// note. What cannot be true is an error.
func ReadMachine(r io.Reader) (*vm.Machine, []string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxMachine+1))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read machine: %w", err)
	}
	if len(b) > maxMachine {
		return nil, nil, fmt.Errorf("cannot read machine: longer than %d bytes", maxMachine)
	}
	m, notes, err := parseMachine(b)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read machine: %w", err)
	}
	return m, notes, nil
}

func parseMachine(b []byte) (*vm.Machine, []string, error) {
	m := &vm.Machine{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, nil, err
	}
	if err := plausibleMachine(m); err != nil {
		return nil, nil, err
	}
	var notes []string
	unknown := func(field, value string) {
		notes = append(notes, fmt.Sprintf("%s: %s %.40q is not known and left out", machineFile, field, value))
	}
	m.Name = clean(m.Name)
	if m.Platform != vm.Unknown && !slices.Contains(vm.Platforms(), m.Platform) {
		unknown("platform", string(m.Platform))
		m.Platform = vm.Unknown
	}
	switch m.Firmware {
	case "", vm.BIOS, vm.UEFI:
	default:
		unknown("firmware", string(m.Firmware))
		m.Firmware = ""
	}
	if m.SecureBoot && m.Firmware == vm.BIOS {
		return nil, nil, errors.New("secure_boot needs firmware uefi")
	}
	switch m.Guest.Arch {
	case "", vm.AMD64, vm.I386, vm.ARM64:
	default:
		unknown("architecture", string(m.Guest.Arch))
		m.Guest.Arch = ""
	}
	switch m.Clock {
	case "", vm.ClockUTC, vm.ClockLocal:
	default:
		unknown("clock", string(m.Clock))
		m.Clock = ""
	}
	for i := range m.Disks {
		if c := m.Disks[i].Controller; !knownBus(c) {
			unknown("controller", string(c))
			m.Disks[i].Controller, m.Disks[i].ControllerNumber, m.Disks[i].Unit = "", 0, 0
		}
	}
	for i := range m.NICs {
		n := &m.NICs[i]
		if n.MAC != "" {
			mac, err := net.ParseMAC(n.MAC)
			if err != nil || len(mac) != 6 {
				return nil, nil, fmt.Errorf("the MAC %.40q of adapter %d is not 6 bytes as aa:bb:cc:dd:ee:ff", n.MAC, i)
			}
			n.MAC = mac.String()
		}
		if !knownModel(n.Model) {
			unknown("adapter model", string(n.Model))
			n.Model = ""
		}
	}
	if len(notes) > maxNotes {
		notes = notes[:maxNotes]
	}
	return m, notes, nil
}

// plausibleMachine refuses numbers that no machine has.
func plausibleMachine(m *vm.Machine) error {
	const most = 1 << 16
	for name, n := range map[string]int{"sockets": m.CPU.Sockets, "cores_per_socket": m.CPU.CoresPerSocket, "threads_per_core": m.CPU.Threads} {
		if n < 0 || n > most {
			return fmt.Errorf("%d %s", n, name)
		}
	}
	switch {
	case m.CPU.Total() > most:
		return fmt.Errorf("%d processors", m.CPU.Total())
	case m.Memory < 0 || m.Memory > 1<<50:
		return fmt.Errorf("%d bytes of memory", m.Memory)
	case m.Memory > 0 && m.Memory < vm.MiB:
		return fmt.Errorf("%d bytes of memory; memory is in bytes", m.Memory)
	case len(m.Disks) > maxDisks:
		return fmt.Errorf("%d disks", len(m.Disks))
	case len(m.NICs) > maxDisks:
		return fmt.Errorf("%d network adapters", len(m.NICs))
	case len(m.Devices) > maxDisks || m.Snapshots < 0:
		return fmt.Errorf("%d other devices, %d snapshots", len(m.Devices), m.Snapshots)
	}
	for i, d := range m.Disks {
		if d.Index < 0 || d.Index > 1<<20 || d.Size < 0 || d.Size > disk.MaxSize || d.ControllerNumber < 0 || d.ControllerNumber > 1<<16 || d.Unit < 0 || d.Unit > 1<<20 || d.SectorSize < 0 || d.SectorSize > 1<<16 {
			return fmt.Errorf("disk %d has a negative or impossible number", i)
		}
	}
	return nil
}

func knownBus(b vm.Bus) bool {
	return slices.Contains([]vm.Bus{
		vm.BusUnspecified, vm.BusIDE, vm.BusSATA, vm.BusNVMe, vm.BusLSILogic, vm.BusLSISAS, vm.BusLSIBus, vm.BusPVSCSI, vm.BusSCSI,
		vm.BusVirtioBlk, vm.BusVirtioSCSI, vm.BusXenBlk, vm.BusVMBusSCSI,
	}, b)
}

func knownModel(m vm.NICModel) bool {
	return slices.Contains([]vm.NICModel{
		"", vm.VMXNET3, vm.E1000, vm.E1000E, vm.VirtioNet, vm.NetVSC, vm.ENA, vm.RTL8139, vm.PCNet32,
	}, m)
}

// describe gives b the machine that vm.json describes, with the disks that the
// backup has: sizes are those of the images.
func (b *Backup) describe(m *vm.Machine) {
	unique := map[int]bool{}
	for _, d := range m.Disks {
		unique[d.Index] = true
	}
	byPosition := len(unique) < len(m.Disks)
	if byPosition {
		b.note("%s numbers several disks alike; its disks are taken in order", machineFile)
	}
	used := make([]bool, len(m.Disks))
	var disks []vm.Disk
	for i, d := range b.Disks {
		at := slices.IndexFunc(m.Disks, func(v vm.Disk) bool { return v.Index == d.Index })
		if byPosition {
			at = i
		}
		v := vm.Disk{Index: d.Index, Size: d.Size}
		switch {
		case at < 0 || at >= len(m.Disks):
			b.note("%s does not describe disk %d", machineFile, d.Index)
		default:
			v, used[at] = m.Disks[at], true
			if v.Size != 0 && d.Size != 0 && v.Size != d.Size {
				b.note("%s says that disk %d has %d bytes, the image has %d", machineFile, d.Index, v.Size, d.Size)
			}
			v.Index = d.Index
			if d.Size != 0 {
				v.Size = d.Size
			}
		}
		disks = append(disks, v)
	}
	var missing []string
	for i, d := range m.Disks {
		if !used[i] {
			missing = append(missing, fmt.Sprint(d.Index))
		}
	}
	if len(missing) > 0 {
		b.note("%s describes disks that the backup does not hold: %s", machineFile, strings.Join(missing, ", "))
	}
	tags := b.Machine.Tags
	b.Machine = m.Clone()
	b.Machine.Disks = disks
	for k, v := range tags {
		if b.Machine.Tags == nil {
			b.Machine.Tags = map[string]string{}
		}
		if _, ok := b.Machine.Tags[k]; !ok {
			b.Machine.Tags[k] = v
		}
	}
	if b.Machine.Platform == vm.Unknown {
		b.Machine.Platform = b.Origin
	}
	if b.Origin == vm.Unknown {
		b.Origin = b.Machine.Platform
	}
	if b.Machine.Name == "" {
		b.Machine.Name = b.VM
	}
}

// bare gives b a machine of nothing but disks.
func (b *Backup) bare(tags map[string]string) {
	m := &vm.Machine{Name: b.VM, Platform: b.Origin}
	if len(tags) > 0 {
		m.Tags = tags
	}
	for _, d := range b.Disks {
		m.Disks = append(m.Disks, vm.Disk{Index: d.Index, Size: d.Size})
	}
	b.Machine = m
}
