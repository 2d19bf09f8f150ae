package nutanix

import (
	"cmp"
	"fmt"
	"slices"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// The machine as vmm takes it (vmm.v4.ahv.config.Vm): what a restore sets.
type vmSpec struct {
	Type       string     `json:"$objectType"`
	Name       string     `json:"name"`
	About      string     `json:"description"`
	Sockets    int        `json:"numSockets"`
	Cores      int        `json:"numCoresPerSocket"`
	Threads    int        `json:"numThreadsPerCore"`
	Memory     int64      `json:"memorySizeBytes"`
	Chipset    string     `json:"machineType"`
	Timezone   string     `json:"hardwareClockTimezone"`
	Cluster    extRef     `json:"cluster"`
	Project    *extRef    `json:"project,omitempty"`
	Categories []extRef   `json:"categories,omitempty"`
	Boot       *bootSpec  `json:"bootConfig"`
	TPM        *tpmSpec   `json:"vtpmConfig,omitempty"`
	Disks      []diskSpec `json:"disks"`
	NICs       []*nicSpec `json:"nics,omitempty"`
}

type extRef struct {
	ID string `json:"extId"`
}

type bootSpec struct {
	Type   string      `json:"$objectType"`
	Secure *bool       `json:"isSecureBootEnabled,omitempty"`
	Device *bootDevice `json:"bootDevice,omitempty"`
}

type bootDevice struct {
	Type    string      `json:"$objectType"`
	Address diskAddress `json:"diskAddress"`
}

type tpmSpec struct {
	Enabled bool `json:"isVtpmEnabled"`
}

type diskAddress struct {
	Bus   string `json:"busType"`
	Index int    `json:"index"`
}

type diskSpec struct {
	Address diskAddress `json:"diskAddress"`
	Backing vmDisk      `json:"backingInfo"`
}

type vmDisk struct {
	Type      string     `json:"$objectType"`
	Source    dataSource `json:"dataSource"`
	Container *extRef    `json:"storageContainer,omitempty"`
}

type dataSource struct {
	Reference imageReference `json:"reference"`
}

type imageReference struct {
	Type  string `json:"$objectType"`
	Image string `json:"imageExtId"`
}

type nicSpec struct {
	Backing struct {
		Model     string `json:"model"`
		MAC       string `json:"macAddress,omitempty"`
		Connected bool   `json:"isConnected"`
	} `json:"backingInfo"`
	Network struct {
		Kind   string    `json:"nicType"`
		Mode   string    `json:"vlanMode"`
		Subnet extRef    `json:"subnet"`
		IPv4   *ipv4Spec `json:"ipv4Config,omitempty"`
	} `json:"networkInfo"`
}

type ipv4Spec struct {
	Assign bool   `json:"shouldAssignIp"`
	IP     ipSpec `json:"ipAddress"`
}

type ipSpec struct {
	Value string `json:"value"`
}

// Buses, as vmm calls them, and how many disks each takes.
const (
	busSCSI = "SCSI"
	busSATA = "SATA"
	busIDE  = "IDE"
)

var busMost = map[string]int{busSCSI: 256, busSATA: 6, busIDE: 4}

// bus is the controller that the plan chose, as AHV calls it: what it does not
// have becomes virtio SCSI.
func bus(b vm.Bus) string {
	switch b {
	case vm.BusSATA:
		return busSATA
	case vm.BusIDE:
		return busIDE
	}
	return busSCSI
}

// addresses gives every disk a place on its bus, the boot disk the first.
func addresses(m *vm.Machine) ([]diskAddress, error) {
	out := make([]diskAddress, len(m.Disks))
	used := map[string]int{}
	boot := m.BootDisk()
	order := []int{boot}
	for i := range m.Disks {
		if i != boot {
			order = append(order, i)
		}
	}
	for _, i := range order {
		b := bus(m.Disks[i].Controller)
		if used[b] == busMost[b] {
			return nil, target.Permanent(fmt.Sprintf("AHV takes %d disks on %s", busMost[b], b), "choose virtio-scsi for the others")
		}
		out[i] = diskAddress{b, used[b]}
		used[b]++
	}
	return out, nil
}

// spec is the request that makes the machine of images, by disk.
func (s *session) spec(images []string) (*vmSpec, error) {
	m := s.order.Machine
	at, err := addresses(m)
	if err != nil {
		return nil, err
	}
	v := &vmSpec{
		Type: "vmm.v4.ahv.config.Vm", Name: s.name, About: describe(m.Annotation, s.order.Job),
		Sockets: max(m.CPU.Sockets, 1), Cores: max(m.CPU.CoresPerSocket, 1), Threads: max(m.CPU.Threads, 1),
		Memory: (max(m.Memory, 64*vm.MiB) + vm.MiB - 1) / vm.MiB * vm.MiB, Chipset: "PC", Timezone: cmp.Or(s.order.Options[optTimezone], "UTC"),
		Cluster: extRef{s.place.cluster.ID},
	}
	for _, c := range s.place.categories {
		v.Categories = append(v.Categories, extRef{c})
	}
	if s.place.project != "" {
		v.Project = &extRef{s.place.project}
	}
	v.Boot = &bootSpec{Type: "vmm.v4.ahv.config.LegacyBoot"}
	ide := slices.ContainsFunc(at, func(a diskAddress) bool { return a.Bus == busIDE })
	if m.Firmware == vm.UEFI {
		v.Boot = &bootSpec{Type: "vmm.v4.ahv.config.UefiBoot", Secure: &m.SecureBoot}
		if !ide { // Q35 has no IDE
			v.Chipset = "Q35"
		}
	}
	v.Boot.Device = &bootDevice{"vmm.v4.ahv.config.BootDeviceDisk", at[m.BootDisk()]}
	switch {
	case m.SecureBoot && m.Firmware != vm.UEFI:
		return nil, target.Permanent("Secure Boot needs UEFI", "restore without Secure Boot, or as UEFI")
	case m.SecureBoot && ide:
		return nil, target.Permanent("AHV does Secure Boot on machine type Q35, which has no IDE", "choose sata or virtio-scsi for the disks")
	case m.TPM && m.Firmware != vm.UEFI:
		return nil, target.Permanent("AHV gives a virtual TPM to UEFI machines only", "restore without TPM, or as UEFI")
	}
	if m.TPM {
		v.TPM = &tpmSpec{true}
	}
	for i, image := range images {
		d := diskSpec{Address: at[i], Backing: vmDisk{Type: "vmm.v4.ahv.config.VmDisk"}}
		d.Backing.Source.Reference = imageReference{"vmm.v4.ahv.config.ImageReference", image}
		if c := s.place.containers[i]; c != "" {
			d.Backing.Container = &extRef{c}
		}
		v.Disks = append(v.Disks, d)
	}
	for i, n := range m.NICs {
		p := s.place.nics[i]
		c := &nicSpec{}
		c.Backing.Model, c.Backing.MAC, c.Backing.Connected = "VIRTIO", p.mac, n.Connected == nil || *n.Connected
		if n.Model == vm.E1000 {
			c.Backing.Model = "E1000"
		}
		c.Network.Kind, c.Network.Mode, c.Network.Subnet = "NORMAL_NIC", "ACCESS", extRef{p.subnet}
		if p.ip != "" {
			c.Network.IPv4 = &ipv4Spec{Assign: true, IP: ipSpec{p.ip}}
		}
		v.NICs = append(v.NICs, c)
	}
	return v, nil
}
