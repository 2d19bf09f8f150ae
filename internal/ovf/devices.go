package ovf

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"ascend/internal/vm"
)

// controller is a disk controller of a descriptor.
type controller struct {
	bus    vm.Bus
	number int
}

// controllers finds the disk controllers by instance.
func (b *builder) controllers(items []inItem) map[string]controller {
	out := map[string]controller{}
	taken := map[class][]int{}
	for i := range items {
		it := &items[i]
		bus, ok := busOf(it)
		if !ok || it.Instance == "" {
			continue
		}
		c, _ := controllerOf(bus)
		// The address is the number among controllers of one class where it is a
		// small free number; products also put PCI addresses there.
		n, ok := small(it.Address)
		if !ok || n > 15 || slices.Contains(taken[c], n) {
			for n = 0; slices.Contains(taken[c], n); n++ {
			}
		}
		taken[c] = append(taken[c], n)
		out[it.Instance] = controller{bus, n}
	}
	return out
}

// busOf is the controller kind of an item; ok is false for other devices.
// Subtypes may list alternatives, of which the first known one counts
// (DSP0243 8.3).
func busOf(it *inItem) (vm.Bus, bool) {
	names := strings.FieldsFunc(strings.ToLower(it.Subtype), func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' || r == '\r' })
	switch {
	case it.is(typeIDE):
		return vm.BusIDE, true
	case it.is(typeSCSI):
		for _, n := range names {
			switch n {
			case "lsilogic":
				return vm.BusLSILogic, true
			case "lsilogicsas":
				return vm.BusLSISAS, true
			case "virtualscsi", "pvscsi":
				return vm.BusPVSCSI, true
			case "buslogic":
				return vm.BusLSIBus, true
			case "virtio-scsi", "virtioscsi":
				return vm.BusVirtioSCSI, true
			}
		}
		return vm.BusSCSI, true
	case it.is(typeStorage):
		for _, n := range names {
			switch n {
			case "ahci", "vmware.sata.ahci", "sata":
				return vm.BusSATA, true
			case "nvme", "vmware.nvme.controller":
				return vm.BusNVMe, true
			case "virtioscsi", "virtio-scsi":
				return vm.BusVirtioSCSI, true
			case "lsilogicsas":
				return vm.BusLSISAS, true
			}
		}
	}
	return "", false
}

func (b *builder) disks(items []inItem) {
	controllers := b.controllers(items)
	for i := range items {
		it := &items[i]
		if !it.is(typeDisk) && !it.is(typeLogical) {
			continue
		}
		n := len(b.out.Disks)
		d, ok := b.disk(it, n)
		if !ok {
			continue
		}
		v := vm.Disk{Index: n, Name: strings.TrimSpace(it.Name), Size: d.Capacity}
		if v.Name == "" {
			v.Name = strings.TrimSpace(it.Caption)
		}
		if c, ok := controllers[it.Parent]; ok {
			v.Controller, v.ControllerNumber = c.bus, c.number
			if u, ok := small(it.OnParent); ok {
				v.Unit = u
			}
		}
		b.out.Disks = append(b.out.Disks, d)
		b.m.Disks = append(b.m.Disks, v)
	}
}

// disk follows an item's HostResource, which names an entry of the DiskSection
// ("ovf:/disk/ID", "/disk/ID") or a file itself ("ovf:/file/ID").
func (b *builder) disk(it *inItem, n int) (Disk, bool) {
	d := Disk{File: -1}
	host := ""
	if len(it.Host) > 0 {
		host = strings.TrimSpace(it.Host[0])
	}
	path := strings.TrimLeft(strings.TrimPrefix(host, "ovf:"), "/")
	switch kind, id, _ := strings.Cut(path, "/"); {
	case host == "":
		b.note("disk %d has no backing in the descriptor and is left out", n)
		return d, false
	case kind == "file":
		if d.File = b.file(id); d.File < 0 {
			d.Fault = fmt.Sprintf("it refers to the file %.80q, which the descriptor does not list", id)
		}
		return d, true
	case kind == "disk":
		for i := range b.env.Disks {
			if e := &b.env.Disks[i]; e.ID == id {
				return b.described(e, n), true
			}
		}
	}
	d.Fault = fmt.Sprintf("it refers to %.80q, which the descriptor does not describe", host)
	return d, true
}

func (b *builder) described(e *inDisk, n int) Disk {
	d := Disk{ID: e.ID, File: -1, Format: e.Format, Parent: e.Parent}
	if e.File != "" {
		if d.File = b.file(e.File); d.File < 0 {
			d.Fault = fmt.Sprintf("it refers to the file %.80q, which the descriptor does not list", e.File)
		}
	}
	capacity := strings.TrimSpace(e.Capacity)
	if key, ok := strings.CutPrefix(capacity, "${"); ok {
		capacity = b.property(strings.TrimSuffix(key, "}"))
	}
	var ok bool
	if d.Capacity, ok = quantity(capacity, e.Units); !ok {
		b.note("the capacity of disk %d, %.40q in units of %.40q, is not understood", n, e.Capacity, e.Units)
	}
	if v, ok := quantity(e.Populated, ""); ok {
		d.Populated = v
	}
	return d
}

func (b *builder) file(id string) int {
	return slices.IndexFunc(b.pkg.Files, func(f FileRef) bool { return f.ID == id })
}

// property is the default of a property that a capacity refers to
// (DSP0243 9.1).
func (b *builder) property(key string) string {
	for _, p := range b.sys.Products {
		for _, q := range p.Properties {
			if q.Key == key {
				return strings.TrimSpace(q.Value)
			}
		}
	}
	return ""
}

// adapters are the network adapters in the order of their places, which is the
// order guests see them in; in the descriptor's order where places are not
// stated for all.
func (b *builder) adapters(items []inItem) {
	type adapter struct {
		nic   vm.NIC
		place int
	}
	var all []adapter
	placed := true
	seen := map[int]bool{}
	for i := range items {
		it := &items[i]
		if !it.is(typeEthernet) {
			continue
		}
		a := adapter{nic: vm.NIC{Name: strings.TrimSpace(it.Name), Model: modelOf(it.Subtype)}}
		if a.nic.Name == "" {
			a.nic.Name = strings.TrimSpace(it.Caption)
		}
		if len(it.Connection) > 0 {
			a.nic.Network = strings.TrimSpace(it.Connection[0])
		}
		if strings.EqualFold(strings.TrimSpace(it.Automatic), "false") {
			off := false
			a.nic.Connected = &off
		}
		a.nic.MAC = macOf(it.Address)
		var ok bool
		if a.place, ok = small(it.OnParent); !ok || seen[a.place] {
			placed = false
		}
		seen[a.place] = true
		if strings.Contains(strings.ToLower(it.Subtype), "sriov") {
			b.note("an SR-IOV network adapter becomes an ordinary one")
		}
		all = append(all, a)
	}
	if placed {
		slices.SortStableFunc(all, func(a, b adapter) int { return a.place - b.place })
	}
	for _, a := range all {
		b.m.NICs = append(b.m.NICs, a.nic)
	}
}

// modelOf reads an adapter's subtype; the first known of a list.
func modelOf(subtype string) vm.NICModel {
	for _, n := range strings.FieldsFunc(strings.ToLower(subtype), func(r rune) bool { return r == ',' || r == ' ' }) {
		switch n {
		case "vmxnet3":
			return vm.VMXNET3
		case "e1000":
			return vm.E1000
		case "e1000e":
			return vm.E1000E
		case "pcnet32":
			return vm.PCNet32
		case "virtio", "virtionet":
			return vm.VirtioNet
		case "rtl8139":
			return vm.RTL8139
		}
	}
	return ""
}

// macOf reads a hardware address of 6 bytes, with or without separators; ""
// for anything else.
func macOf(s string) string {
	s = strings.TrimSpace(s)
	if len(s) == 12 {
		s = s[:2] + ":" + s[2:4] + ":" + s[4:6] + ":" + s[6:8] + ":" + s[8:10] + ":" + s[10:]
	}
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 {
		return ""
	}
	return m.String()
}
