// Package vm is the vocabulary every room speaks: platforms, the machine and
// its parts. It imports nothing of the project and no SDK.
//
// The JSON form of Machine is the file vm.json that may stand beside a backup
// (docs/vm.md). It is stable: fields are added, never renamed or given another
// meaning; readers ignore fields they do not know.
package vm

import (
	"fmt"
	"slices"
	"strings"
)

// Platform names a virtualisation platform.
type Platform string

// The platforms a backup may come from; all but Local may also be a target.
// Local is a folder of disk files or an OVA, as source or target.
const (
	VMware     Platform = "vmware"
	CloudStack Platform = "cloudstack"
	HyperV     Platform = "hyperv"
	AWS        Platform = "aws"
	Azure      Platform = "azure"
	Nutanix    Platform = "nutanix"
	Local      Platform = "local"
	Unknown    Platform = ""
)

// Platforms lists every known platform in the order they are shown.
func Platforms() []Platform {
	return []Platform{VMware, CloudStack, HyperV, AWS, Azure, Nutanix, Local}
}

// ParsePlatform reads a platform's name, case-insensitively.
func ParsePlatform(s string) (Platform, error) {
	p := Platform(strings.ToLower(s))
	if slices.Contains(Platforms(), p) {
		return p, nil
	}
	return Unknown, fmt.Errorf("unknown platform %q: one of %v", s, Platforms())
}

// Firmware is what starts the machine.
type Firmware string

// Firmware kinds. The empty value means not known.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Arch is the processor architecture, by Go's names.
type Arch string

// Architectures. The empty value means not known.
const (
	AMD64 Arch = "amd64"
	I386  Arch = "386"
	ARM64 Arch = "arm64"
)

// OSFamily is the coarse kind of guest operating system.
type OSFamily string

// Families. The empty value means not known.
const (
	Linux   OSFamily = "linux"
	Windows OSFamily = "windows"
	BSD     OSFamily = "bsd"
	OtherOS OSFamily = "other"
)

// GuestOS is what is known of the operating system on the disks.
type GuestOS struct {
	Family OSFamily `json:"family,omitempty"`
	// Distribution is the ID of os-release for Linux ("debian", "rhel"),
	// "windows-server" or "windows-client" for Windows.
	Distribution string `json:"distribution,omitempty"`
	Version      string `json:"version,omitempty"` // "12", "9.4", "2019"
	Arch         Arch   `json:"arch,omitempty"`
	// SourceID is the identifier of the source platform (a VMware guestId, an
	// OVF osType), kept as found.
	SourceID string `json:"source_id,omitempty"`
}

// CPU is the processor's topology. Total = Sockets × CoresPerSocket × Threads.
type CPU struct {
	Sockets        int `json:"sockets,omitempty"`
	CoresPerSocket int `json:"cores_per_socket,omitempty"`
	Threads        int `json:"threads_per_core,omitempty"` // 0 is read as 1
}

// Total is the number of virtual processors the guest sees.
func (c CPU) Total() int {
	return max(c.Sockets, 0) * max(c.CoresPerSocket, 1) * max(c.Threads, 1)
}

// Bus is a disk controller's kind.
type Bus string

// Controllers, named as the field names them. The empty value means not known.
const (
	BusIDE         Bus = "ide"
	BusSATA        Bus = "sata" // AHCI
	BusNVMe        Bus = "nvme"
	BusLSILogic    Bus = "lsilogic"
	BusLSISAS      Bus = "lsilogic-sas"
	BusLSIBus      Bus = "buslogic"
	BusPVSCSI      Bus = "pvscsi"
	BusSCSI        Bus = "scsi" // model not known, or Hyper-V's synthetic SCSI
	BusVirtioBlk   Bus = "virtio-blk"
	BusVirtioSCSI  Bus = "virtio-scsi"
	BusXenBlk      Bus = "xen-blk"
	BusVMBusSCSI   Bus = "vmbus-scsi"
	BusUnspecified Bus = ""
)

// Disk is one virtual disk of the machine. Disks stand in the source's order;
// Index is the disk's number on the source and may have gaps.
type Disk struct {
	Index      int    `json:"index"`
	Name       string `json:"name,omitempty"`
	Size       int64  `json:"size"` // bytes the guest sees
	Controller Bus    `json:"controller,omitempty"`
	// ControllerNumber and Unit place the disk; both 0 with an empty
	// Controller mean not known.
	ControllerNumber int  `json:"controller_number,omitempty"`
	Unit             int  `json:"unit,omitempty"`
	Boot             bool `json:"boot,omitempty"`
	ReadOnly         bool `json:"read_only,omitempty"`
	Shared           bool `json:"shared,omitempty"`
	// Serial is the identifier the guest can see, when the source had one.
	Serial string `json:"serial,omitempty"`
	// Independent disks are left out of snapshots; RawDevice ones were no file but
	// a device of the host or the storage.
	Independent bool `json:"independent,omitempty"`
	RawDevice   bool `json:"raw_device,omitempty"`
	// SectorSize is the logical sector in bytes; 0 means 512 or not known.
	SectorSize int `json:"sector_size,omitempty"`
}

// Device is other hardware that the machine had: what no backup can carry.
type Device struct {
	Kind DeviceKind `json:"kind"`
	Name string     `json:"name,omitempty"`
}

// DeviceKind is the kind of a Device.
type DeviceKind string

// Kinds of devices.
const (
	PCIPassthrough DeviceKind = "pci-passthrough"
	SRIOV          DeviceKind = "sriov"
	GPU            DeviceKind = "gpu"
	USB            DeviceKind = "usb"
	SerialPort     DeviceKind = "serial"
	ParallelPort   DeviceKind = "parallel"
	Floppy         DeviceKind = "floppy"
)

// Clock is what a machine's hardware clock shows.
type Clock string

// Clocks. The empty value means not known.
const (
	ClockUTC   Clock = "utc"
	ClockLocal Clock = "local"
)

// NICModel is a network adapter's kind.
type NICModel string

// Adapter models. The empty value means not known.
const (
	VMXNET3   NICModel = "vmxnet3"
	E1000     NICModel = "e1000"
	E1000E    NICModel = "e1000e"
	VirtioNet NICModel = "virtio"
	NetVSC    NICModel = "netvsc"
	ENA       NICModel = "ena"
	RTL8139   NICModel = "rtl8139"
	PCNet32   NICModel = "pcnet32"
)

// NIC is one network adapter. NICs stand in the source's order, which guests
// rely on for their interface names.
type NIC struct {
	Name      string   `json:"name,omitempty"`
	MAC       string   `json:"mac,omitempty"` // 6 bytes as aa:bb:cc:dd:ee:ff
	Model     NICModel `json:"model,omitempty"`
	Network   string   `json:"network,omitempty"`   // the source's network, by its name there
	Addresses []string `json:"addresses,omitempty"` // CIDR or bare addresses
	Connected *bool    `json:"connected,omitempty"` // nil: connected
}

// Machine is a virtual machine as every platform describes it. The zero value
// of a field means the source did not say.
type Machine struct {
	Name         string            `json:"name"`
	Platform     Platform          `json:"platform,omitempty"` // where it ran
	UUID         string            `json:"uuid,omitempty"`     // SMBIOS UUID
	CPU          CPU               `json:"cpu"`
	Memory       int64             `json:"memory,omitempty"` // bytes
	Firmware     Firmware          `json:"firmware,omitempty"`
	SecureBoot   bool              `json:"secure_boot,omitempty"`
	TPM          bool              `json:"tpm,omitempty"`
	Guest        GuestOS           `json:"guest"`
	Disks        []Disk            `json:"disks"`
	NICs         []NIC             `json:"nics,omitempty"`
	HardwareNote string            `json:"hardware_note,omitempty"` // e.g. VMware hardware version
	Annotation   string            `json:"annotation,omitempty"`
	Clock        Clock             `json:"clock,omitempty"`
	Devices      []Device          `json:"devices,omitempty"`
	Snapshots    int               `json:"snapshots,omitempty"` // that the machine had when it was backed up
	Tags         map[string]string `json:"tags,omitempty"`
}

// BootDisk is the position in Disks of the disk marked as boot disk, else of
// the first disk; -1 without disks.
func (m *Machine) BootDisk() int {
	if len(m.Disks) == 0 {
		return -1
	}
	return max(slices.IndexFunc(m.Disks, func(d Disk) bool { return d.Boot }), 0)
}

// Clone is a deep copy.
func (m *Machine) Clone() *Machine {
	c := *m
	c.Disks = slices.Clone(m.Disks)
	c.NICs = slices.Clone(m.NICs)
	c.Devices = slices.Clone(m.Devices)
	for i := range c.NICs {
		c.NICs[i].Addresses = slices.Clone(m.NICs[i].Addresses)
	}
	if m.Tags != nil {
		c.Tags = make(map[string]string, len(m.Tags))
		for k, v := range m.Tags {
			c.Tags[k] = v
		}
	}
	return &c
}
