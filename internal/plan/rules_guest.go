package plan

import (
	"strings"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// inspected makes a rule's function of one that looks at an inspected guest on a
// target where it will run.
func inspected(find func(p *Plan, r Request, g *GuestFacts, say say)) func(p *Plan, r Request, say say) {
	return func(p *Plan, r Request, say say) {
		if r.Guest != nil && r.Target.Platform != vm.Local {
			find(p, r, r.Guest, say)
		}
	}
}

var guestRules = []rule{
	{"guest-not-inspected", Information, "Without an inspection of the disks nothing is known of drivers, encryption, names and free space.", "have the guest inspected", "guest inspection", func(_ *Plan, r Request, say say) {
		if r.Guest == nil && r.Target.Platform != vm.Local {
			say("the guest was not inspected: whether it has the target's drivers is not known")
		}
	}},
	{"guest-incomplete", Information, "What an inspection could not look at is not known.", "look at it yourself", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, s := range g.Incomplete {
			say("%s", s)
		}
	})},
	{"guest-no-root", Warning, "Disks without an installed system do not start.", "look whether all disks are in the backup", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		if g.Roots == 0 && len(g.Incomplete) == 0 && len(g.Encrypted) == 0 {
			say("no operating system was found on the disks")
		}
	})},
	{"several-roots", Warning, "With several systems on the disks it is not certain which one starts.", "state the boot disk, and look at the boot loader's menu", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		if g.Roots > 1 {
			say("the disks hold %d systems", g.Roots)
		}
	})},
	{"arch-differs", Critical, "The description of the machine and its disks must agree.", "correct vm.json", "guest inspection, machine", inspected(func(p *Plan, _ Request, g *GuestFacts, say say) {
		if a := p.Source.Guest.Arch; g.Arch != "" && a != "" && a != g.Arch && (a == vm.ARM64 || g.Arch == vm.ARM64) {
			say("the machine is described as %s and the guest is %s", a, g.Arch)
		}
	})},
	{"bitlocker-locked", Critical, "A locked BitLocker volume can be neither adapted nor started without its key.", "suspend BitLocker before the backup, or give the recovery key", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, e := range g.Encrypted {
			if e.Kind == "bitlocker" && e.Root && !e.Open && !e.Key {
				say("%s is locked by BitLocker", e.Volume)
			}
		}
	})},
	{"luks-locked", Warning, "The root in LUKS cannot be adapted without its key; what is in /boot can.", "give the key, or be ready to adapt the guest by hand", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, e := range g.Encrypted {
			if e.Kind == "luks" && e.Root && !e.Open && !e.Key {
				say("%s is encrypted and no key was given", e.Volume)
			}
		}
	})},
	{"encrypted-data", Information, "Encrypted data volumes travel as they are and are not looked into.", "have the keys at hand", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, e := range g.Encrypted {
			if !e.Root && !e.Key {
				say("%s is encrypted by %s", e.Volume, e.Kind)
			}
		}
	})},
	{"key-in-tpm", Warning, "A key sealed to the machine's TPM does not open on another machine.", "have the recovery key or passphrase at hand", "guest inspection, TPM", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, e := range g.Encrypted {
			if e.TPM {
				say("%s opens by the TPM, whose content is lost: the recovery key will be asked for", e.Volume)
			}
		}
	})},
	{"hibernated", Critical, "A hibernated or fast-started Windows cannot be changed, and wakes into hardware that is gone.", "shut the machine down fully (shutdown /s /f) before the backup, and switch fast startup off", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, v := range g.Hibernated {
			say("%s is hibernated or was shut down by fast startup", v)
		}
	})},
	{"dirty-volume", Information, "A backup of a running machine holds file systems that were not unmounted.", "nothing to do: the journal is replayed; check the applications' own data", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, v := range g.Dirty {
			say("%s was not unmounted cleanly", v)
		}
	})},
	{"registry-dirty", Warning, "A registry with unwritten logs cannot be edited as it stands.", "take a backup with the machine quiesced or shut down", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		if g.HiveDirty {
			say("the registry has changes that only its logs hold")
		}
	})},
	{"fstab-devices", Warning, "Names such as /dev/sdb1 stand for other disks in other hardware.", "use UUIDs or labels in the guest", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		if len(g.FstabDevices) > 0 {
			say("fstab or crypttab names devices: %s", list(g.FstabDevices))
		}
	})},
	{"lvm-devices", Warning, "LVM's devices file lists disks by identifiers that change.", "remove /etc/lvm/devices/system.devices in the guest", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		if g.LVMDevices {
			say("LVM takes only the devices of its devices file, and these change")
		}
	})},
	{"lvm-missing-disk", Critical, "A volume group of which a disk is missing does not start.", "add the disk's backup", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, v := range g.MissingPVs {
			say("of the volume group %s a disk is not in the backup", v)
		}
	})},
	{"btrfs-roots", Warning, "Of several btrfs subvolumes it is not certain which is the root.", "look at the default subvolume", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		if g.BtrfsRoots > 1 {
			say("btrfs holds %d subvolumes that may be the root", g.BtrfsRoots)
		}
	})},
	{"multi-device", Warning, "File systems over several disks need all of them, and are not adapted.", "make sure that all disks are in the backup", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, v := range g.MultiDevice {
			say("%s lies on several disks", v)
		}
	})},
	{"ldm-boot", Critical, "A Windows dynamic disk that starts the machine cannot be adapted.", "convert the disk to a basic one before the backup", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		if g.LDMBoot {
			say("the boot disk is a dynamic disk (LDM)")
		}
	})},
	{"ldm-data", Warning, "Windows shows dynamic disks of another machine as foreign.", "import the foreign disks in Disk Management after the restore", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		if g.LDMData {
			say("a data disk is a dynamic disk (LDM)")
		}
	})},
	{"resolv-conf", Warning, "An immutable resolv.conf keeps name servers that are not on the target.", "remove the attribute (chattr -i) in the guest", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		if g.ResolvFixed {
			say("resolv.conf is immutable and keeps the source's name servers")
		}
	})},
	{"guest-space", Critical, "Adaptation needs room in the guest: 50 MB in /boot, 100 MB in /, 100 inodes.", "free space in the guest before the backup", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, s := range g.Space {
			if s.Free >= s.Need {
				continue
			}
			if s.Inodes {
				say("%s has %d inodes free and adaptation needs %d", s.Volume, s.Free, s.Need)
			} else {
				say("%s has %s free and adaptation needs %s", s.Volume, vm.FormatSize(s.Free), vm.FormatSize(s.Need))
			}
		}
	})},
	{"initramfs-tool", Warning, "Without dracut, initramfs-tools, mkinitcpio or mkinitrd the guest cannot rebuild its initramfs.", "rebuild the initramfs by hand after a new kernel", "guest inspection", inspected(func(p *Plan, _ Request, g *GuestFacts, say say) {
		if p.Machine.Guest.Family == vm.Linux && g.Roots > 0 && g.Initramfs == "" {
			say("the guest has no tool that builds its initramfs")
		}
	})},
	{"initramfs-signed", Warning, "To a unified kernel image nothing can be added without breaking its signature.", "add the drivers in the guest before the backup", "guest inspection", inspected(func(p *Plan, r Request, g *GuestFacts, say say) {
		if g.UKI && !storageReady(p, r, g) {
			say("the kernel and its initramfs are one signed file, to which drivers cannot be added")
		}
	})},
	{"boot-driver-missing", Critical, "Without the disk's driver in the initramfs or at boot start the machine finds no root.", "have the guest adapted, or add the driver before the backup", "guest inspection, disk controllers, target's drivers", inspected(func(p *Plan, r Request, g *GuestFacts, say say) {
		if g.Boot != nil && !storageReady(p, r, g) && kernelHas(p, r, g) {
			say("the driver of the boot disk's controller is in the guest and not loaded at start: %s", strings.Join(want(p, r), " or "))
		}
	})},
	{"kernel-driver-missing", Critical, "A guest without any driver for the target's disks cannot start there.", "give a pack with the Windows driver (--drivers), install a kernel or driver that has it before the backup, or choose another target", "guest inspection, disk controllers, target's drivers", inspected(func(p *Plan, r Request, g *GuestFacts, say say) {
		if g.Installed != nil && !kernelHas(p, r, g) {
			text := strings.Join(want(p, r), " or ")
			if g.Kernel != "" {
				text += " for kernel " + g.Kernel
			}
			say("the guest has no driver of the boot disk's controller: %s", text)
		}
	})},
	{"windows-driver-unknown", Information, "Windows brings no driver for some platforms' disks: virtio, and NVMe before 2012 R2.", "have the driver added, or keep the disks on a controller that Windows knows", "guest, disk controllers, target's drivers", func(p *Plan, r Request, say say) {
		d := r.Caps.Traits.Drivers
		if p.Machine.Guest.Family == vm.Windows && d.Pack != "" && (r.Guest == nil || r.Guest.Boot == nil) && bootBus(p) != "" && !starts(bootBus(p), p.Machine, nil) {
			say("Windows %s brings no driver for %s; it is in %s", p.Machine.Guest.Version, bootBus(p), d.Pack)
		}
	}},
	{"driver-pack", Information, "Drivers of the operator's pack go into the guest.", "compare the digests with the pack's, if it is not your own", "guest inspection, driver pack", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, d := range g.Packed {
			say("%s", d)
		}
	})},
	{"guest-unsettled", Warning, "What the adaptation cannot settle is left to a person.", "look at the guest after its first start", "guest inspection, adapters", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		for _, u := range g.Unsettled {
			say("%s", u)
		}
	})},
	{"xen-only", Critical, "A kernel for Xen paravirtualisation alone starts on no other hypervisor.", "install an ordinary kernel before the backup", "guest inspection", inspected(func(_ *Plan, _ Request, g *GuestFacts, say say) {
		if g.XenOnly {
			say("every kernel of the guest is for Xen paravirtualisation only")
		}
	})},
	{"efi-fallback", Warning, "Without \\EFI\\BOOT\\BOOTX64.EFI an empty firmware finds nothing to start.", "copy the boot loader there before the backup, or make the entry by hand", "guest inspection, firmware", inspected(func(p *Plan, _ Request, g *GuestFacts, say say) {
		if p.Machine.Firmware == vm.UEFI && g.Roots > 0 && !g.EFIFallback {
			say("the EFI system partition has no fallback boot loader")
		}
	})},
	{"foreign-agents", Information, "Guest tools of another platform do nothing, or harm.", "remove them after the restore", "guest inspection, target's platform", inspected(func(_ *Plan, r Request, g *GuestFacts, say say) {
		for _, a := range g.Agents {
			if a.Platform != vm.Unknown && a.Platform != r.Target.Platform {
				say("the guest has %s, which belongs to %s", a.Name, a.Platform)
			}
		}
	})},
}

func bootBus(p *Plan) vm.Bus {
	if b := p.Machine.BootDisk(); b >= 0 {
		return p.Machine.Disks[b].Controller
	}
	return ""
}

// want are the drivers of the boot disk: those of its controller, or, where the
// platform decides it, those of the platform.
func want(p *Plan, r Request) []string {
	// On Hyper-V Linux leaves IDE disks to storvsc: ata_piix ignores them.
	if f := p.Machine.Guest.Family; f != vm.Windows && r.Target.Platform == vm.HyperV {
		return platformDrivers(r.Caps.Traits, f)
	}
	if d := drivers(bootBus(p), p.Machine.Guest.Family); len(d) > 0 {
		return d
	}
	return platformDrivers(r.Caps.Traits, p.Machine.Guest.Family)
}

func platformDrivers(t *target.Traits, f vm.OSFamily) []string {
	if f == vm.Windows {
		return t.Drivers.WindowsStorage
	}
	var out []string
	for _, row := range t.Drivers.LinuxStorage {
		out = append(out, row[len(row)-1])
	}
	return out
}

func storageReady(p *Plan, r Request, g *GuestFacts) bool { return has(g.Boot, want(p, r)) }

func kernelHas(p *Plan, r Request, g *GuestFacts) bool {
	return has(g.Installed, want(p, r)) || g.Boot != nil && has(g.Boot, want(p, r))
}
