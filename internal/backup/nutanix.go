package backup

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"ascend/internal/vm"
)

// A Nutanix export is a folder of images with Prism Central's own description of
// their machines beside them: answers of GET vms in JSON files of any name, one
// machine or a list, of the v4 API (vmm.v4.ahv.config.Vm in "data") or the v3 API
// (vm_intent_response, alone or in "entities"). A disk's image has the disk's
// identifier in its name, or ends in its address as Nutanix writes it: web.scsi.0.qcow2.

// nxMachine is a machine as the files describe it.
type nxMachine struct {
	id    string
	m     *vm.Machine // without disks
	disks []nxDisk
}

type nxDisk struct {
	ids   []string // of the disk and of its vmdisk
	bus   string
	index int
	size  int64
	boot  bool
}

// nxExport is what the JSON files of a folder describe.
type nxExport struct {
	machines []nxMachine
	notes    []string
}

// read takes the machines out of one file.
func (e *nxExport) read(name string, b []byte) {
	var top struct {
		Data     json.RawMessage `json:"data"`
		Entities json.RawMessage `json:"entities"`
	}
	if json.Unmarshal(b, &top) != nil {
		return
	}
	one := func(raw json.RawMessage) json.RawMessage {
		if t := strings.TrimSpace(string(raw)); strings.HasPrefix(t, "{") {
			return json.RawMessage("[" + t + "]")
		}
		return raw
	}
	var list []json.RawMessage
	switch {
	case len(top.Data) > 0:
		_ = json.Unmarshal(one(top.Data), &list) // what is no list has no machines
	case len(top.Entities) > 0:
		_ = json.Unmarshal(top.Entities, &list)
	default:
		list = []json.RawMessage{b}
	}
	for i, raw := range list {
		if i >= maxExportRows || len(e.machines) >= maxExportRows {
			e.notes = append(e.notes, fmt.Sprintf("%s: more than %d machines; the others are not read", clean(name), maxExportRows))
			return
		}
		var kind struct {
			Type     string `json:"$objectType"`
			Metadata struct {
				Kind string `json:"kind"`
			} `json:"metadata"`
		}
		if json.Unmarshal(raw, &kind) != nil {
			continue
		}
		var m *nxMachine
		var err error
		switch {
		case kind.Type == "vmm.v4.ahv.config.Vm":
			m, err = nxV4(raw)
		case kind.Metadata.Kind == "vm":
			m, err = nxV3(raw)
		default:
			continue
		}
		if err != nil {
			e.notes = append(e.notes, fmt.Sprintf("%s: machine %d is left out: %v", clean(name), i, err))
			continue
		}
		if !slices.ContainsFunc(e.machines, func(x nxMachine) bool { return x.id == m.id }) {
			e.machines = append(e.machines, *m)
		}
	}
}

// nxAddress is where a disk hangs, in v4's words.
type nxAddress struct {
	BusType string
	Index   int
}

type nxV4Nic struct {
	MacAddress, Model string
	IsConnected       *bool
}

type nxV4Net struct {
	Subnet     struct{ ExtID string }
	Ipv4Config struct{ IPAddress struct{ Value string } }
	Ipv4Info   struct {
		LearnedIPAddresses []struct{ Value string }
	}
}

// nxV4 reads a machine as v4 gives it.
func nxV4(raw []byte) (*nxMachine, error) {
	var v struct {
		ExtID, Name, Description, BiosUUID               string
		NumSockets, NumCoresPerSocket, NumThreadsPerCore int
		MemorySizeBytes                                  int64
		MachineType                                      string
		BootConfig                                       struct {
			Type                string `json:"$objectType"`
			IsSecureBootEnabled bool
			BootDevice          struct{ DiskAddress *nxAddress }
		}
		VtpmConfig struct{ IsVtpmEnabled bool }
		GuestTools struct {
			GuestInfo struct{ GuestOsFullName string }
		}
		Disks []struct {
			ExtID       string
			DiskAddress nxAddress
			BackingInfo struct {
				Type          string `json:"$objectType"`
				DiskExtID     string
				DiskSizeBytes int64
			}
		}
		Nics []struct {
			BackingInfo    *nxV4Nic
			NicBackingInfo *nxV4Nic
			NetworkInfo    *nxV4Net
			NicNetworkInfo *nxV4Net
		}
		Gpus []struct{ Name, Mode string }
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	m := nxBase(v.Name, v.ExtID, v.BiosUUID, v.Description)
	m.m.CPU = vm.CPU{Sockets: v.NumSockets, CoresPerSocket: v.NumCoresPerSocket, Threads: v.NumThreadsPerCore}
	m.m.Memory, m.m.TPM, m.m.HardwareNote = v.MemorySizeBytes, v.VtpmConfig.IsVtpmEnabled, clean(v.MachineType)
	m.m.Guest = csGuest(v.GuestTools.GuestInfo.GuestOsFullName, "")
	switch v.BootConfig.Type {
	case "vmm.v4.ahv.config.UefiBoot":
		m.m.Firmware, m.m.SecureBoot = vm.UEFI, v.BootConfig.IsSecureBootEnabled
	case "vmm.v4.ahv.config.LegacyBoot":
		m.m.Firmware = vm.BIOS
	}
	for _, d := range v.Disks {
		disk := nxDisk{ids: []string{d.ExtID, d.BackingInfo.DiskExtID}, bus: d.DiskAddress.BusType, index: d.DiskAddress.Index, size: d.BackingInfo.DiskSizeBytes}
		if a := v.BootConfig.BootDevice.DiskAddress; a != nil {
			disk.boot = a.BusType == disk.bus && a.Index == disk.index
		}
		m.disks = append(m.disks, disk)
	}
	for _, n := range v.Nics {
		back, netw := n.BackingInfo, n.NetworkInfo
		if n.NicBackingInfo != nil {
			back = n.NicBackingInfo
		}
		if n.NicNetworkInfo != nil {
			netw = n.NicNetworkInfo
		}
		var nic vm.NIC
		if back != nil {
			nic = nxAdapter(back.MacAddress, back.Model, back.IsConnected)
		}
		if netw != nil {
			nic.Network = clean(netw.Subnet.ExtID)
			ips := []string{netw.Ipv4Config.IPAddress.Value}
			for _, a := range netw.Ipv4Info.LearnedIPAddresses {
				ips = append(ips, a.Value)
			}
			nic.Addresses = nxAddresses(ips)
		}
		m.m.NICs = append(m.m.NICs, nic)
	}
	for _, g := range v.Gpus {
		m.m.Devices = append(m.m.Devices, vm.Device{Kind: vm.GPU, Name: clean(g.Name)})
	}
	return m, nil
}

// nxV3 reads a machine as v3 gives it. What is, the status, counts before what was
// wanted, the spec.
func nxV3(raw []byte) (*nxMachine, error) {
	type part struct {
		Name, Description string
		Resources         *struct {
			NumSockets  int    `json:"num_sockets"`
			Cores       int    `json:"num_vcpus_per_socket"`
			Threads     int    `json:"num_threads_per_core"`
			MemoryMiB   int64  `json:"memory_size_mib"`
			MachineType string `json:"machine_type"`
			BiosUUID    string `json:"bios_uuid"`
			GuestOS     string `json:"guest_os_id"`
			BootConfig  struct {
				Type   string `json:"boot_type"`
				Device struct {
					Address *nxV3Address `json:"disk_address"`
				} `json:"boot_device"`
			} `json:"boot_config"`
			Vtpm struct {
				Enabled bool `json:"vtpm_enabled"`
			} `json:"vtpm_config"`
			Disks []struct {
				UUID       string `json:"uuid"`
				SizeBytes  int64  `json:"disk_size_bytes"`
				SizeMiB    int64  `json:"disk_size_mib"`
				Properties struct {
					Type    string      `json:"device_type"`
					Address nxV3Address `json:"disk_address"`
				} `json:"device_properties"`
			} `json:"disk_list"`
			NICs []struct {
				MAC       string `json:"mac_address"`
				Model     string `json:"model"`
				Connected *bool  `json:"is_connected"`
				Subnet    struct {
					Name string `json:"name"`
					UUID string `json:"uuid"`
				} `json:"subnet_reference"`
				IPs []struct {
					IP string `json:"ip"`
				} `json:"ip_endpoint_list"`
			} `json:"nic_list"`
			GPUs []struct {
				Name string `json:"name"`
				Mode string `json:"mode"`
			} `json:"gpu_list"`
		} `json:"resources"`
	}
	var v struct {
		Metadata struct {
			UUID       string            `json:"uuid"`
			Categories map[string]string `json:"categories"`
		} `json:"metadata"`
		Spec   part `json:"spec"`
		Status part `json:"status"`
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, err
	}
	p := v.Status
	if p.Resources == nil {
		p = v.Spec
	}
	if p.Resources == nil {
		return nil, fmt.Errorf("it has no resources")
	}
	r := p.Resources
	m := nxBase(p.Name, v.Metadata.UUID, r.BiosUUID, p.Description)
	m.m.CPU = vm.CPU{Sockets: r.NumSockets, CoresPerSocket: r.Cores, Threads: r.Threads}
	m.m.Memory, m.m.TPM, m.m.HardwareNote = max(min(r.MemoryMiB, 1<<40), 0)*vm.MiB, r.Vtpm.Enabled, clean(r.MachineType)
	m.m.Guest = csGuest(r.GuestOS, "")
	switch r.BootConfig.Type {
	case "UEFI", "SECURE_BOOT":
		m.m.Firmware, m.m.SecureBoot = vm.UEFI, r.BootConfig.Type == "SECURE_BOOT"
	case "LEGACY":
		m.m.Firmware = vm.BIOS
	}
	for _, d := range r.Disks {
		if d.Properties.Type == "CDROM" {
			continue
		}
		disk := nxDisk{ids: []string{d.UUID}, bus: d.Properties.Address.Bus, index: d.Properties.Address.Index, size: d.SizeBytes}
		if disk.size == 0 {
			disk.size = max(min(d.SizeMiB, 1<<40), 0) * vm.MiB
		}
		if a := r.BootConfig.Device.Address; a != nil {
			disk.boot = a.Bus == disk.bus && a.Index == disk.index
		}
		m.disks = append(m.disks, disk)
	}
	for _, n := range r.NICs {
		nic := nxAdapter(n.MAC, n.Model, n.Connected)
		if nic.Network = clean(n.Subnet.Name); nic.Network == "" {
			nic.Network = clean(n.Subnet.UUID)
		}
		var ips []string
		for _, a := range n.IPs {
			ips = append(ips, a.IP)
		}
		nic.Addresses = nxAddresses(ips)
		m.m.NICs = append(m.m.NICs, nic)
	}
	for _, g := range r.GPUs {
		m.m.Devices = append(m.m.Devices, vm.Device{Kind: vm.GPU, Name: clean(g.Name)})
	}
	for k, x := range v.Metadata.Categories {
		if k, x := clean(k), clean(x); k != "" && x != "" && len(m.m.Tags) < maxTags {
			if m.m.Tags == nil {
				m.m.Tags = map[string]string{}
			}
			m.m.Tags[k] = x
		}
	}
	return m, nil
}

type nxV3Address struct {
	Bus   string `json:"adapter_type"`
	Index int    `json:"device_index"`
}

// nxBase begins a machine. AHV gives the guest the machine's identifier as SMBIOS
// UUID unless another was set.
func nxBase(name, id, bios, about string) *nxMachine {
	m := &nxMachine{id: id, m: &vm.Machine{Name: clean(name), Platform: vm.Nutanix, UUID: clean(id), Annotation: clean(about)}}
	if bios != "" {
		m.m.UUID = clean(bios)
	}
	if m.m.Name == "" {
		m.m.Name = clean(id)
	}
	return m
}

func nxAdapter(mac, model string, connected *bool) vm.NIC {
	n := vm.NIC{Model: map[string]vm.NICModel{"VIRTIO": vm.VirtioNet, "E1000": vm.E1000}[strings.ToUpper(model)]}
	if hw, err := net.ParseMAC(mac); err == nil && len(hw) == 6 {
		n.MAC = hw.String()
	}
	if connected != nil && !*connected {
		n.Connected = connected
	}
	return n
}

func nxAddresses(ips []string) (out []string) {
	for _, s := range ips {
		if ip, err := netip.ParseAddr(s); err == nil && len(out) < 64 && !slices.Contains(out, ip.String()) {
			out = append(out, ip.String())
		}
	}
	return out
}

var nxBuses = map[string]vm.Bus{"SCSI": vm.BusVirtioSCSI, "SATA": vm.BusSATA, "IDE": vm.BusIDE, "PCI": vm.BusVirtioBlk}

// address is where a disk hangs as Nutanix writes it: scsi.0.
func (d *nxDisk) address() string { return fmt.Sprintf("%s.%d", strings.ToLower(d.bus), d.index) }

// imageOf is the image of a disk among names; "" when there is none or it is not
// clear which. Addresses count where there is one machine only.
func (d *nxDisk) imageOf(names []string, alone bool) string {
	only := func(fits func(stem string) bool) string {
		hit := ""
		for _, n := range names {
			if !isImageName(n) || !fits(stem(n)) {
				continue
			}
			if hit != "" {
				return ""
			}
			hit = n
		}
		return hit
	}
	for _, id := range d.ids {
		if len(id) < 32 {
			continue
		}
		if n := only(func(s string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(id)) }); n != "" {
			return n
		}
	}
	if !alone || nxBuses[d.bus] == "" {
		return ""
	}
	return only(func(s string) bool {
		rest, ok := strings.CutSuffix(strings.ToLower(s), d.address())
		return ok && (rest == "" || strings.ContainsAny(rest[len(rest)-1:], ".-_ "))
	})
}

// nutanix makes a backup of every machine that has images in the folder, and
// notes which images they are.
func (l *lister) nutanix(f *folder, taken map[string]bool) []job {
	e := &nxExport{}
	l.descriptions(f, e.read)
	var jobs []job
	for _, m := range e.machines {
		images := make([]string, len(m.disks))
		found := false
		for i := range m.disks {
			if n := m.disks[i].imageOf(f.files, len(e.machines) == 1); n != "" && !taken[n] {
				images[i], taken[n], found = n, true, true
			}
		}
		if found {
			jobs = append(jobs, func(context.Context) []Backup { return []Backup{l.nutanixMachine(f, e, m, images)} })
		}
	}
	return jobs
}

func (l *lister) nutanixMachine(f *folder, e *nxExport, x nxMachine, images []string) Backup {
	m := x.m
	b := Backup{VM: m.Name, Origin: vm.Nutanix, Type: Full, Layout: LayoutNutanix, Path: f.path, Machine: m}
	for _, n := range e.notes {
		b.note("%s", n)
	}
	if len(x.disks) > maxDisks {
		b.fail("the description gives the machine %d disks", len(x.disks))
		return b
	}
	for i, at := range x.disks {
		d := Disk{Index: i, Name: clean(at.address()), ID: clean(at.ids[0]), Type: Full, Size: at.size}
		if images[i] == "" {
			d.Fault = "its image is not in the folder: a file with the disk's identifier, or " + d.Name + ", in its name"
			b.fail("disk %d (%s): %s", d.Index, d.Name, d.Fault)
		} else {
			l.exportedImage(&b, &d, f.join(images[i]), at.size)
		}
		if d.Time.After(b.Created) {
			b.Created = d.Time
		}
		b.Disks = append(b.Disks, d)
		m.Disks = append(m.Disks, vm.Disk{Index: i, Name: d.Name, Size: d.Size, Controller: nxBuses[at.bus], Unit: max(min(at.index, 1<<16), 0), Boot: at.boot})
	}
	if err := plausibleMachine(m); err != nil {
		b.fail("the JSON files describe a machine that cannot be: %v", err)
		b.bare(nil)
	}
	return b
}
