package guest

import (
	"fmt"
	"slices"
	"strings"

	"ascend/internal/vm"
)

func (a *Adaptation) linux(in *Inspection, r *Root, t Target, o Choices, boots bool) {
	l := r.Linux
	if boots {
		a.linuxBoot(in, r, t, o)
	}
	switch r.OS.Arch {
	case vm.I386:
		if t.Platform == vm.Azure || t.Firmware == vm.UEFI && t.Platform == vm.HyperV {
			a.find(Critical, "guest-32-bit", "choose another target", "a 32-bit guest does not start there")
		} else {
			a.find(Warning, "guest-32-bit", "", "the guest is 32-bit")
		}
	case vm.ARM64:
		a.find(Critical, "guest-architecture", "choose a target with ARM processors", "the guest is built for ARM")
	}
	for _, d := range l.DeviceNames {
		switch {
		case d.UUID != "":
			a.change(Change{Kind: DeviceToUUID, Root: r.Volume, Subject: d.File + " " + d.Name, Reason: "the name depends on the controller and will be another on the target", Args: map[string]string{"file": d.File, "name": d.Name, "uuid": d.UUID}})
		default:
			a.find(Warning, "guest-device-name", "change it to a UUID on the source", "%s names %s, which no disk of the backup can be matched with", d.File, d.Name)
		}
	}
	for _, m := range l.Mounts {
		if m.Volume == "" && strings.Contains(m.Spec, "UUID=") && !strings.Contains(m.Options, "nofail") && !strings.Contains(m.Options, "noauto") {
			a.find(Warning, "guest-fstab-missing", "add the disk to the restore or the option nofail to the line", "fstab mounts %s at %s, which is on none of the disks", m.Spec, m.Path)
		}
	}
	if l.LVMDevices {
		a.change(Change{Kind: RemoveLVMDevices, Root: r.Volume, Subject: "/etc/lvm/devices/system.devices", Reason: "it names disks by identifiers that change on the target"})
	}
	if t.Firmware == vm.UEFI && in.ESP != nil && !in.ESP.Fallback && boots {
		a.change(Change{Kind: AddFallbackLoader, Root: r.Volume, Subject: "/EFI/BOOT", Reason: "the firmware's boot entries do not travel; only the fallback path is found", Detail: in.ESP.Loaders})
	}
	a.interfaces(r, t, o)
	if !o.Agents {
		for _, g := range sourceAgents(r, t.Platform) {
			switch units := l.AgentUnits[g.Name]; {
			case len(units) > 0:
				a.change(Change{Kind: DisableAgent, Root: r.Volume, Subject: g.Name, Reason: "it belongs to the platform the machine leaves", Detail: units})
			case l.Init != "systemd":
				a.find(Information, "guest-agent", "remove it after the restore", "%s belongs to the platform the machine leaves; without systemd it is not disabled", g.Name)
			}
		}
	}
	if ds := map[vm.Platform]string{vm.AWS: "Ec2", vm.Azure: "Azure", vm.CloudStack: "CloudStack", vm.VMware: "VMware", vm.Nutanix: "ConfigDrive"}[t.Platform]; ds != "" && len(l.CloudInit) > 0 && !slices.Contains(l.CloudInit, ds) {
		a.change(Change{Kind: CloudDatasource, Root: r.Volume, Subject: ds, Reason: "cloud-init is told to look for " + strings.Join(l.CloudInit, ", ") + " only"})
	}
	if o.Hostname != "" && o.Hostname != r.Hostname {
		a.change(Change{Kind: SetHostname, Root: r.Volume, Subject: o.Hostname, Reason: "as asked"})
	}
	writes := slices.ContainsFunc(a.Changes, func(c Change) bool { return c.Root == r.Volume })
	for _, v := range in.Volumes {
		at := slices.Contains(v.MountedAt, "/") && v.ID == r.Volume || slices.Contains(v.MountedAt, "/boot")
		if !writes || !at || v.Super == nil {
			continue
		}
		if v.Super.Free >= 0 && v.Super.Free < 10<<20 {
			a.find(Critical, "guest-no-space", "free space on the source", "%s has %s free, less than 10 MiB", v.ID, vm.FormatSize(v.Super.Free))
		}
		if v.Super.FreeInodes >= 0 && v.Super.FreeInodes < 100 && v.Super.Type != "vfat" {
			a.find(Critical, "guest-no-inodes", "delete files on the source", "%s has %d inodes free, fewer than 100", v.ID, v.Super.FreeInodes)
		}
	}
}

// linuxBoot chooses the hardware and judges every kernel.
func (a *Adaptation) linuxBoot(in *Inspection, r *Root, t Target, o Choices) {
	l := r.Linux
	if l.EncryptedRoot {
		a.find(Warning, "guest-encrypted", "keep the passphrase at hand: a TPM's seal does not travel", "the root file system is encrypted")
	}
	if len(l.Kernels) == 0 {
		a.find(Warning, "guest-no-kernel", "check that all disks were backed up", "no kernel was found that the boot loader offers")
		a.Boot.Reason = "no kernel was found"
		return
	}
	def := &l.Kernels[0]
	cost := func(modules []string) int {
		add, missing := lacks(def, modules)
		return len(add) + 1000*len(missing)
	}
	if a.Controller == "" {
		best, ok := choose(platformBuses[t.Platform], linuxStorage, cost)
		if ok {
			a.Controller = best
			if want := platformBuses[t.Platform][0]; best != want {
				a.find(Information, "hardware-controller", "", "%s is chosen instead of %s: kernel %s has what it needs", best, want, def.Version)
			}
		}
	}
	if a.NIC == "" {
		if best, ok := choose(platformNICs[t.Platform], linuxNIC, func(ms []string) int {
			n := 0
			for _, m := range ms {
				if w := def.Drivers[m]; w == Missing || w == "" {
					n += 1000
				}
			}
			return n
		}); ok {
			a.NIC = best
			if want := platformNICs[t.Platform][0]; best != want {
				a.find(Information, "hardware-nic", "", "%s is chosen instead of %s: kernel %s has its driver", best, want, def.Version)
			}
		} else if len(platformNICs[t.Platform]) > 0 {
			a.find(Warning, "guest-nic-driver", "install a kernel with the driver before the backup", "kernel %s has no driver for any network adapter of the target", def.Version)
		}
	}
	a.defaults(t)
	need := linuxStorage[a.Controller]
	if t.Platform == vm.HyperV && t.Firmware == vm.BIOS {
		// Gen1 starts from IDE, which Linux drives through VMBus: ata_piix
		// leaves Hyper-V's disks alone.
		need = linuxStorage[vm.BusVMBusSCSI]
	}
	if len(need) == 0 {
		a.Boot.Reason = "no controller of the target is known"
		return
	}
	var persist []string
	a.Boot.Verdict = ""
	for i := range l.Kernels {
		k := &l.Kernels[i]
		add, missing := lacks(k, need)
		v := KernelVerdict{Version: k.Version, Append: add, Missing: missing}
		switch {
		case k.UKI:
			v.Verdict = CannotTell
			text := "its initramfs is inside a signed program and cannot be added to"
			if len(add) > 0 {
				text += "; it may lack " + strings.Join(add, ", ") + ", which " + string(a.Controller) + " needs"
			}
			a.find(Warning, "guest-uki", "have the image built anew on the source with the drivers of all platforms (dracut --no-hostonly), or prove the boot with --boot-proof require", "kernel %s is a unified image: %s", k.Version, text)
		case k.Problem != "":
			v.Verdict = CannotTell
			a.find(Warning, "guest-kernel-unreadable", "", "kernel %s: %s", k.Version, k.Problem)
		case len(missing) > 0:
			v.Verdict = BootsNot
			sev := Warning
			if k.Default {
				sev = Critical
			}
			a.find(sev, "guest-driver-missing", "choose another controller or install a kernel that has the driver", "kernel %s has no %s, which %s needs", k.Version, strings.Join(missing, ", "), a.Controller)
		case len(add) > 0:
			v.Verdict = BootsAdapted
			if len(k.Initrd) == 0 {
				v.Verdict = BootsNot
				a.find(Critical, "guest-no-initramfs", "", "kernel %s starts without an initramfs and lacks %s", k.Version, strings.Join(add, ", "))
				break
			}
			a.change(Change{
				Kind: AppendInitramfs, Root: r.Volume, Subject: k.Initrd[len(k.Initrd)-1], Detail: storageOnDisk(k),
				Reason: fmt.Sprintf("kernel %s needs %s to find its root on %s", k.Version, strings.Join(add, ", "), a.Controller),
				Args:   map[string]string{"kernel": k.Version, "module_dir": k.ModuleDir},
			})
			for _, m := range add {
				if !slices.Contains(persist, m) {
					persist = append(persist, m)
				}
			}
		default:
			v.Verdict = Boots
		}
		a.Boot.Kernels = append(a.Boot.Kernels, v)
		if i == 0 {
			a.Boot.Verdict = v.Verdict
			a.Boot.Reason = verdictReason(k, v, a.Controller)
		}
	}
	if len(persist) > 0 {
		if l.InitramfsTool == "" {
			a.find(Warning, "guest-no-initramfs-tool", "after a kernel update the drivers may be missing again", "no known tool that makes the initramfs is installed")
			return
		}
		a.change(Change{Kind: PersistModules, Root: r.Volume, Subject: l.InitramfsTool, Detail: persist, Reason: "so that a rebuilt initramfs has the drivers too"})
		if l.Init == "systemd" {
			a.change(Change{Kind: FirstBoot, Root: r.Volume, Subject: "initramfs rebuild", Reason: "the distribution's own tool makes the final initramfs on the target"})
		}
	}
}

func verdictReason(k *Kernel, v KernelVerdict, bus vm.Bus) string {
	switch v.Verdict {
	case Boots:
		return fmt.Sprintf("kernel %s has the drivers of %s built in or in its initramfs", k.Version, bus)
	case BootsAdapted:
		return fmt.Sprintf("kernel %s lacks %s in its initramfs, and gets it", k.Version, strings.Join(v.Append, ", "))
	case BootsNot:
		return fmt.Sprintf("kernel %s has no %s", k.Version, strings.Join(append(v.Missing, v.Append...), ", "))
	}
	return k.Problem
}

// storageOnDisk is all storage modules of all targets that the kernel has on
// disk only: once an initramfs is added to, the machine may as well move again.
func storageOnDisk(k *Kernel) []string {
	var out []string
	for _, ms := range linuxStorage {
		for _, m := range ms {
			if k.Drivers[m] == OnDisk && !slices.Contains(out, m) {
				out = append(out, m)
			}
		}
	}
	slices.Sort(out)
	return out
}
