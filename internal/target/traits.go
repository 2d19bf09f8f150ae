package target

import "ascend/internal/vm"

// Traits are the facts of a platform that plans are made from and restores do
// not need. They are data; package target/caps holds each platform's.
type Traits struct {
	// Firmware holds what changes with the firmware: Hyper-V's and Azure's
	// generations, AWS's boot modes. Zero fields are those of Capabilities.
	Firmware     map[vm.Firmware]Limits `json:"firmware,omitempty"`
	SizeField    string                 `json:"size_field,omitempty"`    // placement field of the machine's size; "": processors and memory are free
	StorageField string                 `json:"storage_field,omitempty"` // placement field, and Inventory.Places key, of storage
	Classes      []StorageClass         `json:"classes,omitempty"`       // kinds of storage, where the platform defines them; the first is the default
	Addresses    []AddressPolicy        `json:"addresses,omitempty"`     // policies offered; empty: the guest's business alone
	Groups       bool                   `json:"groups,omitempty"`        // adapters have security groups
	Topology     bool                   `json:"topology,omitempty"`      // sockets and cores are kept
	// Clock is what the machine's hardware clock shows: "utc", or "guest" for
	// what the guest's kind expects (Windows local time, others UTC).
	Clock string `json:"clock"`
	// MemoryStep is what memory is a multiple of, in bytes.
	MemoryStep int64 `json:"memory_step,omitempty"`
	// Name is what the platform allows in a machine's name.
	Name NameRule `json:"name"`
	// Drivers are what a guest needs to find its disks and networks here.
	Drivers Drivers `json:"drivers"`
	// OldestWindows and OldestRHEL are the oldest releases that can start here:
	// Windows by NT version (6.1 is 2008 R2), RHEL and its kin by release.
	OldestWindows float64 `json:"oldest_windows,omitempty"`
	OldestRHEL    float64 `json:"oldest_rhel,omitempty"`
	// Rate is the bytes a second expected before any were measured.
	Rate int64 `json:"rate"`
}

// Limits are those of one firmware.
type Limits struct {
	What        string    `json:"what,omitempty"` // what the platform calls it: "generation 1"
	MaxBootDisk int64     `json:"max_boot_disk,omitempty"`
	MaxDisks    int       `json:"max_disks,omitempty"`
	MaxNICs     int       `json:"max_nics,omitempty"`
	MaxCPUs     int       `json:"max_cpus,omitempty"`
	MaxMemory   int64     `json:"max_memory,omitempty"`
	Controllers []vm.Bus  `json:"controllers,omitempty"` // by preference
	BootBus     vm.Bus    `json:"boot_bus,omitempty"`    // the only one that starts
	Arch        []vm.Arch `json:"arch,omitempty"`
}

// StorageClass is a kind of storage that the platform defines: an EBS volume
// type, a managed-disk SKU. Sizes are in bytes, throughput as in Volume; 0 is
// no bound.
type StorageClass struct {
	Name          string `json:"name"`
	Help          string `json:"help"`
	MinSize       int64  `json:"min_size,omitempty"`
	MaxSize       int64  `json:"max_size,omitempty"`
	Premium       bool   `json:"premium,omitempty"` // needs Size.Premium
	NoBoot        bool   `json:"no_boot,omitempty"` // cannot hold the boot disk
	IOPS          Range  `json:"iops,omitzero"`     // that may be asked for; zero: none may
	IOPSPerGiB    int    `json:"iops_per_gib,omitempty"`
	Throughput    Range  `json:"throughput,omitzero"`
	PerThroughput int    `json:"iops_per_throughput,omitempty"` // IOPS needed for each unit of throughput
}

// Range is a closed interval.
type Range struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

// NameRule bounds a machine's name. Zero is no bound.
type NameRule struct {
	Max    int    `json:"max,omitempty"`    // bytes
	Forbid string `json:"forbid,omitempty"` // characters
	// Host: only letters, digits and hyphens of ASCII, as in a host name.
	Host bool `json:"host,omitempty"`
}

// Drivers are a guest's drivers for the platform's virtual hardware.
type Drivers struct {
	// LinuxStorage lists, for each way that the disks can be attached, the
	// kernel modules that must be in the initramfs: one whole row is enough.
	LinuxStorage [][]string `json:"linux_storage,omitempty"`
	// LinuxNet lists modules of which one must be on the root file system.
	LinuxNet []string `json:"linux_net,omitempty"`
	// WindowsStorage lists services of which one must be boot-start;
	// WindowsNet such that one must be installed. Pack names where those that
	// Windows does not bring come from.
	WindowsStorage []string `json:"windows_storage,omitempty"`
	WindowsNet     []string `json:"windows_net,omitempty"`
	Pack           string   `json:"pack,omitempty"`
	// PackStorage and PackNet: no release of Windows brings the driver.
	PackStorage bool `json:"pack_storage,omitempty"`
	PackNet     bool `json:"pack_net,omitempty"`
}

// For is the limits of a firmware; zero where nothing is special about it.
func (t *Traits) For(f vm.Firmware) Limits {
	if t == nil {
		return Limits{}
	}
	return t.Firmware[f]
}

// Class finds a storage class by its name.
func (t *Traits) Class(name string) (StorageClass, bool) {
	if t != nil {
		for _, c := range t.Classes {
			if c.Name == name {
				return c, true
			}
		}
	}
	return StorageClass{}, false
}
