package plan

import (
	"slices"
	"strings"

	"ascend/internal/vm"
)

// GuestFacts are plain facts of a guest, as the inspection of its disks found
// them. The zero value of a field says that nothing of the kind was found; nil
// in place of GuestFacts, that nobody looked. Whoever inspects maps its result
// onto this; a plan knows no file systems.
type GuestFacts struct {
	Family       vm.OSFamily
	Distribution string // as vm.GuestOS
	Version      string
	Arch         vm.Arch
	Hostname     string
	// BootDisk is the position of the disk that the guest starts from; nil: not
	// found out.
	BootDisk *int
	// Roots counts the installed systems; 0: none was found.
	Roots int
	// Incomplete says what could not be looked at, in sentences.
	Incomplete []string

	// Encrypted lists volumes and how they are locked.
	Encrypted  []Encrypted
	Hibernated []string // volumes of a hibernated or fast-started Windows
	Dirty      []string // file systems that were not unmounted
	HiveDirty  bool     // the registry has changes that only its logs hold

	FstabDevices []string // entries of fstab and crypttab by device names: /dev/sdb1
	LVMDevices   bool     // LVM's devices file pins device names
	BtrfsRoots   int      // subvolumes that may be the root; more than 1 is unclear
	MultiDevice  []string // btrfs, ZFS or Storage Spaces over several devices
	MissingPVs   []string // volume groups of which a disk is not in the backup
	LDMBoot      bool     // the boot disk is a Windows dynamic disk
	LDMData      bool     // another is
	ResolvFixed  bool     // resolv.conf is immutable

	// Space lists file systems with little room: what adaptation needs and what
	// is free, in bytes or inodes.
	Space []Space

	// Initramfs is the tool that builds it: "dracut", "initramfs-tools",
	// "mkinitcpio", "mkinitrd"; "" when none was found.
	Initramfs string
	UKI       bool // the kernel and its initramfs are one signed file
	XenOnly   bool // every kernel is for Xen paravirtualisation alone
	// Kernel is the version of the kernel that starts.
	Kernel string
	// Boot lists the drivers that are there when the root is looked for: built in,
	// in the initramfs, or boot-start services of Windows. Installed lists those
	// that the guest has at all. nil: not found out.
	Boot, Installed []string
	Unsigned        []string // modules without a signature that the kernel needs

	// BootsBIOS and BootsUEFI tell which firmware finds a boot loader; both false:
	// not found out.
	BootsBIOS, BootsUEFI bool
	EFIFallback          bool // \EFI\BOOT\BOOT*.EFI is there
	// Pinned says that network names are bound to MAC addresses; Named that the
	// guest configures interfaces by names that depend on the slot.
	Named, Pinned bool
	StaticIP      []string // addresses configured in the guest
	Agents        []Agent  // guest tools found
	ClockUTC      *bool    // what the guest expects of the clock

	// Packed are the drivers that the adaptation takes from the operator's pack, each
	// as a text; Unsettled is what it cannot settle.
	Packed, Unsettled []string
	// Adapts says that drivers which the guest has installed can be made to find its
	// root, so that hardware need not be chosen by what does so already.
	Adapts bool
	// Mends lists the codes of rules whose findings the adaptation of this restore
	// will put right: they inform, and stop nothing.
	Mends []string
}

// GuestWish is what is wanted of the system on the disks beyond that it comes up.
// Whoever adapts guests carries it out; a plan only holds it.
type GuestWish struct {
	Hostname string `json:"hostname,omitempty"`
	// Addresses are those that the guest itself configures, by adapter: "" or "keep",
	// "dhcp", or ADDRESS/PREFIX[,GATEWAY]. They are not the platform's to give.
	Addresses []string `json:"addresses,omitempty"`
	// KeepAgents leaves the agents of the platform that the machine comes from enabled.
	KeepAgents bool `json:"keep_agents,omitempty"`
}

// Wants tells whether something is to be changed that a machine comes up without.
func (w *GuestWish) Wants() bool { return w != nil && (w.Hostname != "" || len(w.Addresses) > 0) }

// Agent is a guest tool and the platform it belongs to; "" for one that has none
// of its own, such as qemu-ga.
type Agent struct {
	Name     string
	Platform vm.Platform
}

// Encrypted is one locked volume.
type Encrypted struct {
	Volume string
	Kind   string // "bitlocker", "luks", "filevault", …
	Root   bool   // the system cannot start without it
	// Open: it opens without a key that has to be given (a clear key, a suspended
	// BitLocker).
	Open bool
	TPM  bool // its key is sealed to the machine's TPM
	Key  bool // a key was given
}

// Space is a file system with less room than adaptation needs.
type Space struct {
	Volume     string
	Need, Free int64
	Inodes     bool // the numbers count inodes
}

func (g *GuestFacts) mends(code string) bool { return g != nil && slices.Contains(g.Mends, code) }

// busDrivers are the drivers that find a disk on a bus: Linux modules and
// Windows services.
var busDrivers = map[vm.Bus]struct{ linux, windows []string }{
	vm.BusIDE:        {[]string{"ata_piix", "ata_generic"}, []string{"intelide", "atapi"}},
	vm.BusSATA:       {[]string{"ahci"}, []string{"storahci", "msahci"}},
	vm.BusNVMe:       {[]string{"nvme"}, []string{"stornvme", "AWSNVMe"}},
	vm.BusLSILogic:   {[]string{"mptspi"}, []string{"LSI_SCSI", "symmpi"}},
	vm.BusLSISAS:     {[]string{"mptsas"}, []string{"LSI_SAS"}},
	vm.BusLSIBus:     {[]string{"BusLogic"}, []string{"buslogic"}},
	vm.BusPVSCSI:     {[]string{"vmw_pvscsi"}, []string{"pvscsi"}},
	vm.BusVirtioBlk:  {[]string{"virtio_blk"}, []string{"viostor"}},
	vm.BusVirtioSCSI: {[]string{"virtio_scsi"}, []string{"vioscsi"}},
	vm.BusXenBlk:     {[]string{"xen-blkfront", "xen_blkfront"}, []string{"xenvbd"}},
	vm.BusVMBusSCSI:  {[]string{"hv_storvsc"}, []string{"storvsc"}},
}

// drivers are those of a bus for a family of guests.
func drivers(b vm.Bus, f vm.OSFamily) []string {
	if f == vm.Windows {
		return busDrivers[b].windows
	}
	return busDrivers[b].linux
}

// has tells whether any of the drivers is in a list; a list that was not found
// out has everything.
func has(list, want []string) bool {
	if list == nil || len(want) == 0 {
		return true
	}
	return slices.ContainsFunc(want, func(d string) bool {
		return slices.ContainsFunc(list, func(l string) bool { return strings.EqualFold(l, d) }) // Windows' services have no case
	})
}

// inbox are the buses that a Windows finds without a driver of another maker, by
// NT version from which on.
var inbox = []struct {
	bus vm.Bus
	nt  float64
}{
	{vm.BusVMBusSCSI, 6.1}, {vm.BusLSISAS, 6.0}, {vm.BusNVMe, 6.3}, {vm.BusSATA, 6.1}, {vm.BusLSILogic, 5.2}, {vm.BusIDE, 0},
}

// starts tells whether a guest can be expected to find its disks on a bus: as
// inspected, else as Windows' in-box drivers have it. Linux is taken to.
func starts(b vm.Bus, m *vm.Machine, g *GuestFacts) bool {
	if g != nil && g.Boot != nil {
		return has(g.Boot, drivers(b, m.Guest.Family)) || g.Adapts && g.Installed != nil && has(g.Installed, drivers(b, m.Guest.Family))
	}
	if m.Guest.Family != vm.Windows {
		return true
	}
	nt := ntVersion(m.Guest)
	for _, i := range inbox {
		if i.bus == b {
			return nt == 0 && i.nt <= 6.1 || nt >= i.nt
		}
	}
	return false
}
