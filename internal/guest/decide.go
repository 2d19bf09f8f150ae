package guest

import (
	"fmt"
	"slices"
	"strings"

	"ascend/internal/guest/winpack"
	"ascend/internal/vm"
)

// Target is what is known of where the machine goes.
type Target struct {
	Platform vm.Platform
	Firmware vm.Firmware // of the new machine; "" keeps the guest's
	// Controller and NIC are the models the user or the target insists on;
	// "" lets Decide choose, hardware before drivers.
	Controller vm.Bus
	NIC        vm.NICModel
	NICs       []vm.NIC // of the new machine, in order; MACs where known
	KeepsMAC   bool     // the target can give the adapters the source's MACs
}

// Choices are the user's.
type Choices struct {
	DHCP      bool          // replace static addresses
	Addresses []Address     // of the adapters, in order
	Hostname  string        // "" keeps it
	Pack      *winpack.Pack // the operator's drivers for Windows; nil: none
	LUKSKey   bool          // a key of the encrypted volumes is at hand
	Agents    bool          // leave the source platform's agents enabled
}

// ChangeKind names a change.
type ChangeKind string

// Kinds of changes.
const (
	AppendInitramfs   ChangeKind = "initramfs-append"
	PersistModules    ChangeKind = "initramfs-persist"
	DeviceToUUID      ChangeKind = "device-name-to-uuid"
	RemoveLVMDevices  ChangeKind = "lvm-devices-remove"
	AddFallbackLoader ChangeKind = "efi-fallback"
	PinInterface      ChangeKind = "nic-pin"
	SetDHCP           ChangeKind = "nic-dhcp"
	SetAddress        ChangeKind = "nic-address"
	SetMAC            ChangeKind = "nic-mac"
	SetHostname       ChangeKind = "hostname"
	DisableAgent      ChangeKind = "agent-disable"
	CloudDatasource   ChangeKind = "cloud-init-datasource"
	BootStartService  ChangeKind = "service-boot-start"
	InstallDriver     ChangeKind = "driver-install"
	SetRegistry       ChangeKind = "registry-set"
	FirstBoot         ChangeKind = "first-boot"
)

// Change is one thing to be done to the guest.
type Change struct {
	Kind    ChangeKind        `json:"kind"`
	Root    string            `json:"root"` // volume of the system
	Subject string            `json:"subject"`
	Reason  string            `json:"reason"`
	Detail  []string          `json:"detail,omitempty"` // modules, values
	Args    map[string]string `json:"args,omitempty"`
	Driver  *winpack.Driver   `json:"driver,omitempty"` // of a pack, with its files' digests
}

// Severity of a finding, as plans have it.
type Severity string

// Severities.
const (
	Critical    Severity = "critical"
	Warning     Severity = "warning"
	Information Severity = "information"
)

// Finding has a stable code.
type Finding struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Text     string   `json:"text"`
	Advice   string   `json:"advice,omitempty"`
}

// Verdict is the static answer to whether the guest will boot.
type Verdict string

// Verdicts.
const (
	Boots        Verdict = "boots"
	BootsAdapted Verdict = "boots-adapted" // once the changes are made
	BootsNot     Verdict = "boots-not"
	CannotTell   Verdict = "cannot-tell"
)

// BootVerdict says which kernel boots and why.
type BootVerdict struct {
	Verdict Verdict         `json:"verdict"`
	Reason  string          `json:"reason"`
	Kernels []KernelVerdict `json:"kernels,omitempty"`
}

// KernelVerdict is one kernel's.
type KernelVerdict struct {
	Version string   `json:"version"`
	Verdict Verdict  `json:"verdict"`
	Append  []string `json:"append,omitempty"`  // modules its initramfs lacks
	Missing []string `json:"missing,omitempty"` // modules the kernel does not have
}

// Adaptation is the decision.
type Adaptation struct {
	Controller vm.Bus      `json:"controller,omitempty"`
	NIC        vm.NICModel `json:"nic,omitempty"`
	Boot       BootVerdict `json:"boot"`
	Changes    []Change    `json:"changes,omitempty"`
	Findings   []Finding   `json:"findings,omitempty"`
}

// Nothing tells that the guest is left untouched.
func (a *Adaptation) Nothing() bool { return len(a.Changes) == 0 }

// Stopped tells that a critical finding forbids the restore.
func (a *Adaptation) Stopped() bool {
	return slices.ContainsFunc(a.Findings, func(f Finding) bool { return f.Severity == Critical })
}

func (a *Adaptation) find(s Severity, code, advice, format string, args ...any) {
	a.Findings = append(a.Findings, Finding{code, s, fmt.Sprintf(format, args...), advice})
}

func (a *Adaptation) change(c Change) { a.Changes = append(a.Changes, c) }

// Decide works out what must change for the guest to come up. It is pure: the
// same facts give the same answer.
func Decide(in *Inspection, t Target, o Choices) *Adaptation {
	a := &Adaptation{Controller: t.Controller, NIC: t.NIC, Boot: BootVerdict{Verdict: CannotTell}}
	if t.Firmware == "" {
		t.Firmware = in.Firmware
	}
	a.general(in, t)
	if len(in.Roots) == 0 {
		a.noSystem(in, o)
		a.defaults(t)
		return a
	}
	if len(in.Roots) > 1 {
		var names []string
		for _, r := range in.Roots {
			names = append(names, r.Name+" on "+r.Volume)
		}
		a.find(Warning, "guest-several-systems", "check that the first one is the one that starts", "several systems are installed: %s", strings.Join(names, ", "))
	}
	for i := range in.Roots {
		r := &in.Roots[i]
		switch {
		case r.Linux != nil:
			a.linux(in, r, t, o, i == 0)
		case r.Windows != nil:
			a.windows(in, r, t, o, i == 0)
		}
	}
	a.defaults(t)
	if in.BootDisk < 0 && a.Boot.Verdict != CannotTell {
		a.Boot.Verdict = BootsNot
		a.Boot.Reason = "no boot loader was found on any disk"
	}
	return a
}

func (a *Adaptation) defaults(t Target) {
	if a.Controller == "" && len(platformBuses[t.Platform]) > 0 {
		a.Controller = platformBuses[t.Platform][0]
	}
	if a.NIC == "" && len(platformNICs[t.Platform]) > 0 {
		a.NIC = platformNICs[t.Platform][0]
	}
}

func (a *Adaptation) noSystem(in *Inspection, o Choices) {
	for _, g := range in.Gaps {
		switch g.Code {
		case "luks":
			if !o.LUKSKey {
				a.find(Warning, "guest-encrypted", "give the key, or rely on the drivers the guest has", "%s is encrypted and may hold the system", g.Where)
			}
		case "bitlocker":
			a.find(Critical, "guest-bitlocker", "suspend BitLocker on the source and back up again", "%s is protected by BitLocker: no driver can be put in place", g.Where)
		default:
			a.find(Information, "guest-not-read", "the appliance is needed to look inside", "%s: %s", g.Where, g.Reason)
		}
	}
	a.find(Warning, "guest-unknown-os", "the disks are restored as they are", "no operating system was found on the disks")
	a.Boot.Reason = "no operating system was found"
}

// general checks what holds for every system.
func (a *Adaptation) general(in *Inspection, t Target) {
	switch {
	case in.BootDisk < 0:
		a.find(Warning, "guest-no-boot-loader", "check that all disks were backed up", "no disk has a boot loader that was recognised")
	case in.BootDisk > 0:
		a.find(Information, "guest-boot-disk", "", "the machine starts from disk %d, not from disk 0", in.BootDisk)
	}
	if in.BootDisk >= 0 && t.Firmware == vm.UEFI && !in.UEFIBoots {
		a.find(Critical, "guest-firmware", "choose BIOS", "the target machine starts with UEFI and the disks have a boot loader for BIOS only")
	}
	if in.BootDisk >= 0 && t.Firmware == vm.BIOS && !in.BIOSBoots {
		a.find(Critical, "guest-firmware", "choose UEFI", "the target machine starts with BIOS and the disks have a boot loader for UEFI only")
	}
	for _, d := range in.Disks {
		if d.Scheme == "mbr" && d.Index == in.BootDisk && d.Size > 2<<40 {
			a.find(Warning, "guest-mbr-2tib", "", "disk %d starts by MBR and is larger than 2 TiB: what lies beyond cannot be used", d.Index)
		}
		if d.Sector == 4096 {
			a.find(Warning, "guest-4kn", "choose a target with 4096-byte sectors", "disk %d was partitioned with 4096-byte sectors", d.Index)
		}
		if strings.Contains(strings.Join(d.Notes, " "), "damaged") {
			a.find(Warning, "guest-partition-table", "", "disk %d: %s", d.Index, strings.Join(d.Notes, "; "))
		}
	}
	for _, v := range in.Volumes {
		switch {
		case v.Content == "ldm" && v.Disk == in.BootDisk:
			a.find(Critical, "guest-dynamic-disk", "convert the disk to basic on the source", "disk %d is a Windows dynamic disk", v.Disk)
			return
		case v.Content == "ldm":
			a.find(Warning, "guest-dynamic-disk", "", "disk %d is a Windows dynamic disk", v.Disk)
			return
		case v.Super != nil && v.Super.Errors:
			a.find(Warning, "guest-file-system-errors", "check the file system after the restore", "%s has recorded errors", v.ID)
		case v.Super != nil && v.Super.Dirty:
			a.find(Information, "guest-dirty", "", "%s was not unmounted cleanly, as a snapshot of a running machine is", v.ID)
		}
	}
}

// has tells whether all modules are where a kernel's boot finds them.
func lacks(k *Kernel, modules []string) (add, missing []string) {
	for _, m := range modules {
		switch k.Drivers[m] {
		case Builtin, InInitrd:
		case OnDisk:
			add = append(add, m)
		default:
			missing = append(missing, m)
		}
	}
	return add, missing
}

// choose picks the model that asks least of the guest: needing nothing, then
// modules on disk, in the platform's order.
func choose[M comparable](offered []M, needs map[M][]string, cost func([]string) int) (best M, ok bool) {
	least := 1 << 30
	for _, m := range offered {
		n, known := needs[m]
		if !known {
			continue
		}
		if c := cost(n); c < least {
			best, least, ok = m, c, true
		}
	}
	return best, ok && least < 1000
}

func sourceAgents(r *Root, to vm.Platform) []Agent {
	var out []Agent
	for _, g := range r.Agents {
		// The one of KVM serves both CloudStack and AHV.
		kvm := g.Platform == vm.CloudStack && to == vm.Nutanix
		if g.Platform != "" && g.Platform != to && !kvm {
			out = append(out, g)
		}
	}
	return out
}
