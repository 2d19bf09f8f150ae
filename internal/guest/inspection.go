// Package guest inspects the operating system on a backup's disks and decides
// what must change for it to come up on a target. Inspect reads, in pure Go
// and nothing but reads; Decide is a pure function of what Inspect found and
// of the target. What cannot be read here is a named Gap, never an error that
// hides the rest.
//
// The JSON form of Inspection and Adaptation is described in docs/guest.md;
// fields are added, never renamed.
package guest

import (
	"ascend/internal/guest/initrd"
	"ascend/internal/guest/part"
	"ascend/internal/guest/vfs"
	"ascend/internal/vm"
)

// Inspection is what was found on all disks of a machine together.
type Inspection struct {
	Version  int         `json:"version"`   // 1
	BootDisk int         `json:"boot_disk"` // position of the disk the machine starts from; -1: none can be told
	Firmware vm.Firmware `json:"firmware,omitempty"`
	// BIOSBoots and UEFIBoots tell which firmware finds a boot loader; both
	// may be true.
	BIOSBoots bool         `json:"bios_boots"`
	UEFIBoots bool         `json:"uefi_boots"`
	Disks     []DiskLayout `json:"disks"`
	Volumes   []Volume     `json:"volumes"`
	Roots     []Root       `json:"roots"` // the systems found; the one that boots first
	ESP       *ESP         `json:"esp,omitempty"`
	Gaps      []Gap        `json:"gaps,omitempty"`
}

// DiskLayout is one disk's partition table.
type DiskLayout struct {
	Index int   `json:"index"`
	Size  int64 `json:"size"`
	part.Table
}

// Volume is a partition, logical volume or whole disk and what is on it.
type Volume struct {
	ID        string     `json:"id"` // "disk0p1", "vg/lv", "disk0"
	Disk      int        `json:"disk"`
	Partition int        `json:"partition,omitempty"`
	Size      int64      `json:"size"`
	Content   string     `json:"content"` // ext4, xfs, vfat, ntfs, btrfs, luks1, luks2, bitlocker, lvm2, swap, iso9660, mdraid, zfs, ldm, unknown, empty
	Super     *vfs.Super `json:"super,omitempty"`
	UUID      string     `json:"uuid,omitempty"`
	PartUUID  string     `json:"part_uuid,omitempty"`
	MountedAt []string   `json:"mounted_at,omitempty"`
	// Unlocks is the LUKS container that this is the content of.
	Unlocks string `json:"unlocks,omitempty"`

	part   part.Kind
	driver vfs.Driver
}

// ESP is the EFI system partition that was read.
type ESP struct {
	Volume   string   `json:"volume"`
	Loaders  []string `json:"loaders,omitempty"` // *.efi below \EFI, slashes forward
	Fallback bool     `json:"fallback"`          // \EFI\BOOT\BOOT<arch>.EFI is there
	Vendors  []string `json:"vendors,omitempty"` // folders of \EFI with loaders
	UKIs     []string `json:"ukis,omitempty"`    // unified kernel images
	SysdBoot bool     `json:"systemd_boot,omitempty"`
}

// Gap is something that cannot be read here and needs the appliance.
type Gap struct {
	Code   string `json:"code"` // btrfs, luks, lvm, bitlocker, mdraid, zfs, ntfs, unreadable, …
	Where  string `json:"where"`
	Reason string `json:"reason"`
}

// Root is one installed system.
type Root struct {
	Volume     string      `json:"volume"`
	Subvolume  string      `json:"subvolume,omitempty"` // of btrfs; "" its default
	OS         vm.GuestOS  `json:"os"`
	Name       string      `json:"name"` // PRETTY_NAME or ProductName
	Hostname   string      `json:"hostname,omitempty"`
	Linux      *Linux      `json:"linux,omitempty"`
	Windows    *Windows    `json:"windows,omitempty"`
	Interfaces []Interface `json:"interfaces,omitempty"`
	Agents     []Agent     `json:"agents,omitempty"`
}

// Linux is what matters of a Linux system.
type Linux struct {
	Kernels       []Kernel `json:"kernels"` // what the boot loader offers, the default first
	BootLoader    string   `json:"boot_loader,omitempty"`
	Mounts        []Mount  `json:"mounts,omitempty"`
	DeviceNames   []Device `json:"device_names,omitempty"`   // /dev/sdX and the like where a UUID should stand
	InitramfsTool string   `json:"initramfs_tool,omitempty"` // initramfs-tools, dracut, mkinitcpio, mkinitfs, booster
	SELinux       string   `json:"selinux,omitempty"`        // enforcing, permissive, disabled
	Init          string   `json:"init,omitempty"`           // systemd, openrc, sysvinit
	LVMDevices    bool     `json:"lvm_devices_file,omitempty"`
	CloudInit     []string `json:"cloud_init_datasources,omitempty"` // as configured
	NetworkStyle  []string `json:"network_style,omitempty"`          // ifcfg, netplan, networkmanager, interfaces, networkd, wicked
	PersistentNet bool     `json:"persistent_net_rules,omitempty"`
	// AgentUnits are the services of each agent that systemd knows and nobody masked.
	AgentUnits map[string][]string `json:"agent_units,omitempty"`
	// Pins are names of interfaces that .link files or udev's rules give: to a MAC
	// address, else to a driver.
	Pins          map[string]string `json:"pins,omitempty"`
	EncryptedRoot bool              `json:"encrypted_root,omitempty"`
}

// Kernel is one kernel the boot loader offers.
type Kernel struct {
	Version   string           `json:"version"`
	Image     string           `json:"image"`
	Initrd    []string         `json:"initrd,omitempty"`
	Options   string           `json:"options,omitempty"`
	Default   bool             `json:"default,omitempty"`
	UKI       bool             `json:"uki,omitempty"`
	Generator string           `json:"generator,omitempty"`
	ModuleDir string           `json:"initrd_module_dir,omitempty"`
	Segments  []initrd.Segment `json:"segments,omitempty"`
	// Drivers maps every module of the driver matrix to where it is.
	Drivers map[string]Where `json:"drivers"`
	Problem string           `json:"problem,omitempty"` // why it could not be looked into
}

// Where says where a module is found.
type Where string

// Places, best first.
const (
	Builtin  Where = "builtin"
	InInitrd Where = "initramfs"
	OnDisk   Where = "disk"
	Missing  Where = "missing"
)

// Mount is one line of fstab.
type Mount struct {
	Spec    string `json:"spec"`
	Path    string `json:"path"`
	Type    string `json:"type"`
	Options string `json:"options,omitempty"`
	Volume  string `json:"volume,omitempty"` // "" when it is not found
}

// Device is a name that will mean another device, or none, on the target.
type Device struct {
	File   string `json:"file"`
	Name   string `json:"name"`           // /dev/sda1
	UUID   string `json:"uuid,omitempty"` // of the volume it means, when known
	Volume string `json:"volume,omitempty"`
}

// Interface is one configured network interface.
type Interface struct {
	Name      string   `json:"name,omitempty"`
	MAC       string   `json:"mac,omitempty"` // the configuration is bound to it
	DHCP      bool     `json:"dhcp"`
	Addresses []string `json:"addresses,omitempty"` // CIDR
	Gateways  []string `json:"gateways,omitempty"`
	DNS       []string `json:"dns,omitempty"`
	Source    string   `json:"source"` // the file or key
}

// Agent is a platform's guest software.
type Agent struct {
	Name     string      `json:"name"`
	Platform vm.Platform `json:"platform,omitempty"`
	Path     string      `json:"path"`
}

// Windows is what matters of a Windows system.
type Windows struct {
	Build         string             `json:"build"`
	Edition       string             `json:"edition,omitempty"`
	Major         int                `json:"major"`    // 6 or 10
	Minor         int                `json:"minor"`    // 1: 7/2008 R2, 2: 8/2012, 3: 8.1/2012 R2
	Services      map[string]Service `json:"services"` // storage and network services of the driver matrix
	Hibernated    bool               `json:"hibernated,omitempty"`
	FastStartup   bool               `json:"fast_startup,omitempty"` // enabled in the registry
	DirtyVolume   bool               `json:"dirty_volume,omitempty"`
	DirtyHives    []string           `json:"dirty_hives,omitempty"` // hives whose logs must be replayed
	PendingReboot bool               `json:"pending_reboot,omitempty"`
	VMwareTools   bool               `json:"vmware_tools,omitempty"`
	UTCClock      bool               `json:"utc_clock,omitempty"`  // RealTimeIsUniversal
	SANPolicy     *int               `json:"san_policy,omitempty"` // partmgr's: 1 brings every disk online
	SystemHive    string             `json:"system_hive"`
	ControlSet    string             `json:"control_set"`
}

// Service is a driver's service.
type Service struct {
	Start    int            `json:"start"` // 0 boot … 4 disabled; -1: the service is not there
	Override map[string]int `json:"start_override,omitempty"`
	File     bool           `json:"file"` // the .sys is in system32/drivers
}
