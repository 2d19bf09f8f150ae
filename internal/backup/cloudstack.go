package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"

	"ascend/internal/vm"
)

// A CloudStack export is a folder of images with the API's own description of
// their machines beside them: the answers to listVirtualMachines and listVolumes
// as JSON files of any name, as curl or CloudMonkey write them. A volume's image
// has the volume's identifier, its path or its name in its own name:
// root.<path>.qcow2 and datadisk.<path>.qcow2 of CloudStack's NAS backups do.

// Bounds of an export.
const (
	maxExportFiles = 16     // JSON files of a folder that are looked into
	maxExportRows  = 10_000 // machines or volumes of one file
)

// csMachine is what is used of a row of listVirtualMachines (its response tags).
type csMachine struct {
	ID, Name, DisplayName          string
	CPUNumber                      int
	Memory                         int64 // MiB
	OSDisplayName, Arch            string
	BootType, BootMode, Hypervisor string
	Details                        map[string]string
	Tags                           []struct{ Key, Value string }
	NIC                            []csNIC
}

type csNIC struct {
	DeviceID                                   json.Number
	MACAddress, IPAddress, Netmask, IP6Address string
	NetworkName                                string
}

// csVolume is what is used of a row of listVolumes.
type csVolume struct {
	ID, Name, Path, Type string
	DeviceID             int
	Size                 int64
	VirtualMachineID     string
}

// csExport is what the JSON files of a folder describe.
type csExport struct {
	machines []csMachine
	volumes  []csVolume
	notes    []string
}

// export looks for descriptions of CloudStack in a folder that has images; nil
// when there are none, or a vm.json says more.
func (l *lister) export(f *folder) *csExport {
	e := &csExport{}
	l.descriptions(f, e.read)
	if len(e.machines) == 0 || len(e.volumes) == 0 {
		return nil
	}
	return e
}

// descriptions reads the JSON files of a folder that has images, but for sidecars
// of images; none when a vm.json says more.
func (l *lister) descriptions(f *folder, read func(name string, b []byte)) {
	if slices.Contains(f.files, machineFile) || !slices.ContainsFunc(f.files, isImageName) {
		return
	}
	looked := 0
	for _, n := range f.files {
		if strings.ToLower(path.Ext(n)) != ".json" || slices.Contains(f.files, strings.TrimSuffix(n, path.Ext(n))) {
			continue
		}
		if looked++; looked > maxExportFiles {
			break
		}
		if b, _, err := l.text(f.join(n), maxMachine); err == nil {
			read(n, b)
		}
	}
}

// read takes the rows out of one file: {"count":…,"virtualmachine":[…]}, with or
// without {"listvirtualmachinesresponse":…} around it.
func (e *csExport) read(name string, b []byte) {
	var top map[string]json.RawMessage
	if json.Unmarshal(b, &top) != nil {
		return
	}
	for _, wrapper := range []string{"listvirtualmachinesresponse", "listvolumesresponse"} {
		if raw, ok := top[wrapper]; ok {
			var inner map[string]json.RawMessage
			if json.Unmarshal(raw, &inner) == nil {
				for k, v := range inner {
					top[k] = v
				}
			}
		}
	}
	for key, into := range map[string]func(json.RawMessage) error{
		"virtualmachine": func(raw json.RawMessage) error { return rows(raw, &e.machines) },
		"volume":         func(raw json.RawMessage) error { return rows(raw, &e.volumes) },
	} {
		if raw, ok := top[key]; ok {
			if err := into(raw); err != nil {
				e.notes = append(e.notes, fmt.Sprintf("%s: %s: %v", clean(name), key, err))
			}
		}
	}
}

// rows reads a list row by row, so that one bad row does not spoil the others.
func rows[T any](raw json.RawMessage, all *[]T) error {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return err
	}
	var bad error
	for i, r := range list {
		var t T
		if i >= maxExportRows || len(*all) >= maxExportRows {
			return fmt.Errorf("more than %d rows; the others are not read", maxExportRows)
		}
		if err := json.Unmarshal(r, &t); err != nil {
			bad = fmt.Errorf("row %d is left out: %w", i, err)
			continue
		}
		*all = append(*all, t)
	}
	return bad
}

// imageOf is the image of a volume among names; "" when there is none or it is
// not clear which.
func (v *csVolume) imageOf(names []string) string {
	for _, key := range []string{v.ID, path.Base("/" + v.Path), v.Name} {
		if len(key) < 3 {
			continue
		}
		var hits []string
		for _, n := range names {
			if isImageName(n) && (stem(n) == key || len(key) >= 32 && strings.Contains(n, key)) {
				hits = append(hits, n)
			}
		}
		if len(hits) == 1 {
			return hits[0]
		}
	}
	return ""
}

// exported makes a backup of every machine that has images in the folder, and
// notes which images they are.
func (l *lister) exported(f *folder, e *csExport, taken map[string]bool) []job {
	var jobs []job
	seen := map[string]bool{}
	for _, m := range e.machines {
		if m.ID == "" || seen[m.ID] {
			continue
		}
		seen[m.ID] = true
		var volumes []csVolume
		found := false
		for _, v := range e.volumes {
			if v.VirtualMachineID != m.ID || slices.ContainsFunc(volumes, func(x csVolume) bool { return x.ID == v.ID }) {
				continue
			}
			if n := v.imageOf(f.files); n != "" && !taken[n] {
				taken[n], found = true, true
			}
			volumes = append(volumes, v)
		}
		if !found {
			continue
		}
		slices.SortStableFunc(volumes, func(a, b csVolume) int { return a.DeviceID - b.DeviceID })
		jobs = append(jobs, func(context.Context) []Backup { return []Backup{l.exportedMachine(f, e, m, volumes)} })
	}
	return jobs
}

func (l *lister) exportedMachine(f *folder, e *csExport, c csMachine, volumes []csVolume) Backup {
	m := c.machine()
	b := Backup{VM: m.Name, Origin: vm.CloudStack, Type: Full, Layout: LayoutCloudStack, Path: f.path, Machine: m}
	for _, n := range e.notes {
		b.note("%s", n)
	}
	if len(volumes) > maxDisks {
		b.fail("listVolumes gives the machine %d disks", len(volumes))
		return b
	}
	used := map[string]bool{}
	for _, v := range volumes {
		d := Disk{Index: max(v.DeviceID, 0), Name: clean(v.Name), ID: clean(v.ID), Type: Full, Size: v.Size}
		n := v.imageOf(f.files)
		switch {
		case n == "" || used[n]:
			d.Fault = "its image is not in the folder: a file with the volume's identifier, path or name in its name"
			b.fail("disk %d (%s): %s", d.Index, d.Name, d.Fault)
		default:
			used[n] = true
			l.exportedImage(&b, &d, f.join(n), v.Size)
		}
		if d.Time.After(b.Created) {
			b.Created = d.Time
		}
		b.Disks = append(b.Disks, d)
		m.Disks = append(m.Disks, v.disk(d, c.Details))
	}
	if err := plausibleMachine(m); err != nil {
		b.fail("the JSON files describe a machine that cannot be: %v", err)
		b.bare(nil)
	}
	return b
}

// exportedImage fills in what the image of a disk says; size is what the
// description says of it, 0 when it does not.
func (l *lister) exportedImage(b *Backup, d *Disk, name string, size int64) {
	im := l.header(name)
	d.Time = im.file.modified.UTC()
	l.measure(d, im)
	if d.Chain > 1 {
		d.Type, b.Type = Incremental, Incremental
	}
	if size > 0 && d.Size > 0 && size != d.Size {
		b.note("the description says that disk %d has %d bytes, the image has %d", d.Index, size, d.Size)
	}
	if d.Fault != "" {
		b.fail("disk %d: %s", d.Index, d.Fault)
	}
	for _, s := range im.notes {
		b.note("%s", s)
	}
}

// disk is a volume as the guest had it. KVM's default controller is virtio; a
// guest sees the first 20 digits of the volume's identifier as serial number.
func (v *csVolume) disk(d Disk, details map[string]string) vm.Disk {
	root := strings.EqualFold(v.Type, "ROOT")
	key := "dataDiskController"
	if root {
		key = "rootDiskController"
	}
	serial := strings.ReplaceAll(d.ID, "-", "")
	return vm.Disk{Index: d.Index, Name: d.Name, Size: d.Size, Boot: root, Controller: csController(details[key]), Serial: serial[:min(20, len(serial))]}
}

func csController(s string) vm.Bus {
	switch strings.ToLower(s) {
	case "virtio", "virtio-blk":
		return vm.BusVirtioBlk
	case "scsi", "virtio-scsi":
		return vm.BusVirtioSCSI
	case "sata":
		return vm.BusSATA
	case "ide":
		return vm.BusIDE
	}
	return vm.BusUnspecified
}

func csModel(s string) vm.NICModel {
	switch strings.ToLower(s) {
	case "virtio":
		return vm.VirtioNet
	case "e1000":
		return vm.E1000
	case "rtl8139":
		return vm.RTL8139
	case "pcnet", "pcnet32":
		return vm.PCNet32
	case "vmxnet3":
		return vm.VMXNET3
	}
	return ""
}

// machine is everything but the disks.
func (c *csMachine) machine() *vm.Machine {
	m := &vm.Machine{
		Name: clean(c.DisplayName), Platform: vm.CloudStack, CPU: vm.CPU{Sockets: max(c.CPUNumber, 0), CoresPerSocket: 1}, Memory: max(min(c.Memory, 1<<40), 0) * vm.MiB,
		Guest: csGuest(c.OSDisplayName, c.Arch), HardwareNote: clean(c.Hypervisor),
	}
	if m.Name == "" {
		m.Name = clean(c.Name)
	}
	if m.Name == "" {
		m.Name = clean(c.ID)
	}
	if c.CPUNumber <= 0 {
		m.CPU = vm.CPU{}
	}
	// KVM gives the guest the machine's identifier as its SMBIOS UUID.
	m.UUID = clean(c.ID)
	mode := strings.ToUpper(c.Details["UEFI"])
	switch {
	case strings.EqualFold(c.BootType, "UEFI") || mode != "":
		m.Firmware, m.SecureBoot = vm.UEFI, mode == "SECURE" || strings.EqualFold(c.BootMode, "SECURE")
	case c.BootType != "":
		m.Firmware = vm.BIOS
	}
	for _, t := range c.Tags {
		if k, v := clean(t.Key), clean(t.Value); k != "" && v != "" && len(m.Tags) < maxTags {
			if m.Tags == nil {
				m.Tags = map[string]string{}
			}
			m.Tags[k] = v
		}
	}
	nics := slices.Clone(c.NIC)
	slices.SortStableFunc(nics, func(a, b csNIC) int {
		x, _ := a.DeviceID.Int64() // one that says nothing is the first
		y, _ := b.DeviceID.Int64()
		return int(min(max(x-y, -1), 1))
	})
	for _, n := range nics {
		m.NICs = append(m.NICs, n.adapter(csModel(c.Details["nicAdapter"])))
	}
	return m
}

func (n *csNIC) adapter(model vm.NICModel) vm.NIC {
	out := vm.NIC{Network: clean(n.NetworkName), Model: model}
	if mac, err := net.ParseMAC(n.MACAddress); err == nil && len(mac) == 6 {
		out.MAC = mac.String()
	}
	if ip, err := netip.ParseAddr(n.IPAddress); err == nil {
		s := ip.String()
		if mask := net.ParseIP(n.Netmask).To4(); mask != nil {
			if ones, bits := net.IPMask(mask).Size(); bits == 32 {
				s = fmt.Sprintf("%s/%d", ip, ones)
			}
		}
		out.Addresses = append(out.Addresses, s)
	}
	if ip, err := netip.ParseAddr(n.IP6Address); err == nil {
		out.Addresses = append(out.Addresses, ip.String())
	}
	return out
}

// csNames are beginnings of CloudStack's names of operating systems, and what
// os-release calls them.
var csNames = []struct{ name, distribution string }{
	{"Debian GNU/Linux", "debian"}, {"Ubuntu", "ubuntu"}, {"Red Hat Enterprise Linux", "rhel"}, {"CentOS Stream", "centos"}, {"CentOS", "centos"},
	{"Rocky Linux", "rocky"}, {"AlmaLinux", "almalinux"}, {"Alma Linux", "almalinux"}, {"Oracle Linux", "ol"}, {"Oracle Enterprise Linux", "ol"},
	{"SUSE Linux Enterprise Server", "sles"}, {"openSUSE", "opensuse"}, {"Fedora", "fedora"},
}

// csGuest reads a name such as "Debian GNU/Linux 12 (64-bit)".
func csGuest(name, arch string) vm.GuestOS {
	g := vm.GuestOS{SourceID: clean(name)}
	switch {
	case strings.Contains(name, "32-bit"):
		g.Arch = vm.I386
	case strings.Contains(name, "64-bit"):
		g.Arch = vm.AMD64
	}
	switch strings.ToLower(arch) {
	case "aarch64":
		g.Arch = vm.ARM64
	case "x86_64":
		if g.Arch == "" {
			g.Arch = vm.AMD64
		}
	}
	version := func(rest string) string {
		for _, w := range strings.Fields(rest) {
			if w[0] >= '0' && w[0] <= '9' {
				return strings.TrimSuffix(clean(w), ".x")
			}
		}
		return ""
	}
	if rest, ok := strings.CutPrefix(name, "Windows"); ok {
		g.Family, g.Distribution = vm.Windows, "windows-client"
		if strings.Contains(rest, "Server") {
			g.Distribution = "windows-server"
		}
		g.Version = version(rest)
		return g
	}
	for _, n := range csNames {
		if rest, ok := strings.CutPrefix(name, n.name); ok {
			g.Family, g.Distribution, g.Version = vm.Linux, n.distribution, version(rest)
			return g
		}
	}
	switch {
	case strings.Contains(name, "Linux"):
		g.Family = vm.Linux
	case strings.Contains(name, "BSD"):
		g.Family, g.Version = vm.BSD, version(name)
	}
	return g
}
