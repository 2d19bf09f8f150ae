package plan

import (
	"fmt"
	"slices"
	"strings"

	"ascend/internal/vm"
)

// limit is a firmware's limit where it has one, else the platform's.
func limit[N int | int64](special, general N) N {
	if special > 0 {
		return special
	}
	return general
}

var machineRules = []rule{
	{"vm-name", Critical, "A machine needs a name that a platform can write.", "give a name with --name", "machine's name", func(p *Plan, _ Request, say say) {
		name := p.Machine.Name
		switch {
		case strings.TrimSpace(name) == "":
			say("the machine has no name")
		case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }):
			say("the machine's name %q holds characters that no platform takes", name)
		}
	}},
	{"name-changed", Information, "Platforms bound what a name may hold.", "give another name with --name if this one does not suit", "machine's name, target's rule of names", func(p *Plan, r Request, say say) {
		if want := p.Source.Name; r.Name == "" && r.Want == nil && want != p.Machine.Name {
			say("the target cannot write the name %q; the machine is called %q", want, p.Machine.Name)
		}
	}},
	{"name-taken", Critical, "Two machines of one name are not told apart.", "give another name with --name", "machine's name, target's inventory", func(p *Plan, r Request, say say) {
		if r.Inventory != nil && slices.Contains(r.Inventory.Taken, p.Machine.Name) {
			say("the target already has a machine named %q", p.Machine.Name)
		}
	}},
	{"cpu-limit", Critical, "Every platform bounds the processors of a machine, some by firmware.", "set fewer processors with --cpus", "processors, firmware, target's limits", func(p *Plan, r Request, say say) {
		most := limit(r.Caps.Traits.For(p.Machine.Firmware).MaxCPUs, r.Caps.MaxCPUs)
		if n := max(p.Machine.CPU.Total(), p.Source.CPU.Total()); most > 0 && n > most && (r.Want == nil || p.Machine.CPU.Total() > most) {
			say("the machine has %d processors and the target takes %d", n, most)
		}
	}},
	{"memory-limit", Critical, "Every platform bounds the memory of a machine, some by firmware.", "set less memory with --memory", "memory, firmware, target's limits", func(p *Plan, r Request, say say) {
		most := limit(r.Caps.Traits.For(p.Machine.Firmware).MaxMemory, r.Caps.MaxMemory)
		if most > 0 && p.Machine.Memory > most {
			say("the machine has %s of memory and the target takes %s", vm.FormatSize(p.Machine.Memory), vm.FormatSize(most))
		}
	}},
	{"cpu-unknown", Information, "Processors that the backup does not state are guessed.", "set --cpus", "processors", func(_ *Plan, r Request, say say) {
		if r.Machine.CPU.Total() == 0 {
			say("the backup does not say how many processors the machine had")
		}
	}},
	{"memory-unknown", Information, "Memory that the backup does not state is guessed.", "set --memory", "memory", func(_ *Plan, r Request, say say) {
		if r.Machine.Memory == 0 {
			say("the backup does not say how much memory the machine had")
		}
	}},
	{"firmware-unknown", Information, "A machine that starts by the wrong firmware does not start.", "set --firmware bios or uefi if the machine does not start", "firmware, boot disk's partition table", func(p *Plan, r Request, say say) {
		if r.Machine.Firmware == "" {
			say("the backup does not say whether the machine started by BIOS or UEFI; it will by %s", p.Machine.Firmware)
		}
	}},
	{"firmware-mismatch", Warning, "The guest's own boot files say which firmware starts it.", "set --firmware as the guest has it", "firmware, guest inspection", func(p *Plan, r Request, say say) {
		g := r.Guest
		if g == nil || g.BootsBIOS == g.BootsUEFI {
			return
		}
		if starts := map[bool]vm.Firmware{true: vm.UEFI, false: vm.BIOS}[g.BootsUEFI]; p.Machine.Firmware != "" && starts != p.Machine.Firmware {
			say("the guest has a boot loader for %s only and the machine will start by %s", starts, p.Machine.Firmware)
		}
	}},
	{"firmware-changed", Warning, "A system installed for one firmware does not start by the other.", "keep the source's firmware unless the disk starts by both", "firmware", func(p *Plan, r Request, say say) {
		if was, is := p.Source.Firmware, p.Machine.Firmware; was != "" && is != "" && was != is {
			say("the machine started by %s and will by %s", was, is)
		}
	}},
	{"firmware-unsupported", Critical, "A platform without the firmware cannot start the machine.", "choose another target", "firmware, target's firmware", func(p *Plan, r Request, say say) {
		if p.Machine.Firmware != "" && len(r.Caps.Firmware) > 0 && !slices.Contains(r.Caps.Firmware, p.Machine.Firmware) {
			say("the target does not start machines by %s", p.Machine.Firmware)
		}
	}},
	{"uefi-host", Critical, "CloudStack starts UEFI machines on hosts that were enabled for it only.", "enable UEFI on a host, or choose another zone", "firmware, target's inventory", func(p *Plan, r Request, say say) {
		if p.Machine.Firmware == vm.UEFI && r.Inventory != nil && r.Inventory.UEFI != nil && !*r.Inventory.UEFI {
			say("no host of the target starts machines by UEFI")
		}
	}},
	{"uefi-host-unknown", Information, "Whether a host starts UEFI machines, some clouds tell administrators only.", "ask the cloud's administrator for a host that is enabled for UEFI", "firmware, target's inventory", func(p *Plan, r Request, say say) {
		if p.Machine.Firmware == vm.UEFI && r.Target.Platform == vm.CloudStack && (r.Inventory == nil || r.Inventory.UEFI == nil) {
			say("whether a host of the target starts machines by UEFI is not known")
		}
	}},
	{"arch-unsupported", Critical, "A machine runs on its own processor architecture only.", "choose a target of that architecture", "guest's architecture, target's, firmware", func(p *Plan, r Request, say say) {
		a := p.Machine.Guest.Arch
		list := r.Caps.Arch
		if l := r.Caps.Traits.For(p.Machine.Firmware); len(l.Arch) > 0 && a != vm.I386 {
			list = l.Arch
		}
		if a != "" && len(list) > 0 && !slices.Contains(list, a) {
			say("the guest is %s and the target runs %v", a, list)
		}
	}},
	{"arch-unknown", Information, "A guest of unknown architecture is taken for x86-64.", "state it in vm.json, or have the guest inspected", "guest's architecture", func(p *Plan, r Request, say say) {
		if p.Machine.Guest.Arch == "" && r.Target.Platform != vm.Local {
			say("the guest's processor architecture is not known and taken for amd64")
		}
	}},
	{"guest-32bit-uefi", Critical, "Firmware of 64 bits does not start 32-bit systems on these platforms.", "choose a target that starts the machine by BIOS", "guest's architecture, firmware, target's limits", func(p *Plan, r Request, say say) {
		if l := r.Caps.Traits.For(p.Machine.Firmware); p.Machine.Guest.Arch == vm.I386 && len(l.Arch) > 0 && !slices.Contains(l.Arch, vm.I386) {
			say("the guest has 32 bits and %s starts guests of 64 bits only", orWhat(l.What, string(p.Machine.Firmware)))
		}
	}},
	{"guest-32bit", Warning, "Few platforms still support 32-bit guests, and drivers for them are getting rare.", "plan to replace the system", "guest's architecture, target's platform", func(p *Plan, r Request, say say) {
		if p.Machine.Guest.Arch == vm.I386 && r.Target.Platform != vm.Local {
			say("the guest has 32 bits, which the target's vendor hardly supports any more")
		}
	}},
	{"uefi-nvram", Information, "The firmware's boot entries are not in the disks.", "the disk must hold \\EFI\\BOOT\\BOOTX64.EFI, or the boot entry be made by hand", "firmware, guest inspection", func(p *Plan, r Request, say say) {
		if p.Machine.Firmware == vm.UEFI && r.Target.Platform != vm.Local && (r.Guest == nil || r.Guest.Roots == 0) {
			say("the firmware's variables are not in the disks and start empty")
		}
	}},
	{"secure-boot-lost", Warning, "Secure Boot is a promise that the restored machine no longer keeps.", "turn it on again where the target has it", "Secure Boot, target's capabilities", func(p *Plan, r Request, say say) {
		if r.Machine.SecureBoot && !p.Machine.SecureBoot {
			say("Secure Boot is switched off: the target does not have it")
		}
	}},
	{"secure-boot-keys", Information, "A platform has keys of its own; a guest signed by others does not start.", "switch Secure Boot off if the machine refuses to start", "Secure Boot, guest", func(p *Plan, r Request, say say) {
		if p.Machine.SecureBoot && r.Target.Platform != vm.Local && p.Machine.Guest.Family != vm.Windows {
			say("Secure Boot starts what is signed by Microsoft's UEFI CA; keys enrolled on the source are not carried")
		}
	}},
	{"secure-boot-unsigned", Warning, "With Secure Boot a kernel loads signed modules only.", "sign the modules, or switch Secure Boot off", "Secure Boot, guest inspection", func(p *Plan, r Request, say say) {
		if r.Guest != nil && p.Machine.SecureBoot && len(r.Guest.Unsigned) > 0 {
			say("the kernel needs modules without a signature: %s", list(r.Guest.Unsigned))
		}
	}},
	{"vtpm-lost", Warning, "What a virtual TPM held is in no backup.", "have the recovery keys of disks sealed to it at hand", "TPM", func(_ *Plan, r Request, say say) {
		if r.Machine.TPM {
			say("what the virtual TPM held is not in a backup and is lost")
		}
	}},
	{"vtpm-key-provider", Critical, "vSphere makes virtual TPMs only where a key provider is configured.", "configure a key provider, or restore without the TPM", "TPM, target's inventory", func(p *Plan, r Request, say say) {
		if p.Machine.TPM && r.Inventory != nil && r.Inventory.KeyProvider != nil && !*r.Inventory.KeyProvider {
			say("the target has no key provider, without which it makes no virtual TPM")
		}
	}},
	{"vtpm-key-provider-unknown", Information, "Whether a key provider is configured may not be visible.", "make sure that vSphere has a key provider", "TPM, target's inventory", func(p *Plan, r Request, say say) {
		if p.Machine.TPM && r.Target.Platform == vm.VMware && (r.Inventory == nil || r.Inventory.KeyProvider == nil) {
			say("whether the target has a key provider for the virtual TPM is not known")
		}
	}},
	{"devices-dropped", Warning, "Passed-through and emulated extra devices do not travel.", "give the machine such a device on the target if it needs one", "other devices", func(p *Plan, _ Request, say say) {
		for _, d := range p.Source.Devices {
			say("%s is not carried", strings.TrimSpace(string(d.Kind)+" device "+d.Name))
		}
	}},
	{"snapshots-flattened", Information, "A restored machine has one state, not the tree of its snapshots.", "nothing to do", "snapshots", func(p *Plan, _ Request, say say) {
		if n := p.Source.Snapshots; n > 0 {
			say("the machine had %s, which the restored one has not", plural(n, "snapshot"))
		}
	}},
	{"os-unknown", Information, "Of an unknown system nothing can be said: drivers, licences, support.", "have the guest inspected, or state it in vm.json", "guest", func(p *Plan, r Request, say say) {
		if p.Machine.Guest.Family == "" && r.Target.Platform != vm.Local {
			say("the guest's operating system is not known")
		}
	}},
	{"os-too-old", Critical, "Old systems have no drivers for the target's hardware.", "choose a target with older virtual hardware", "guest's version, target's oldest", func(p *Plan, r Request, say say) {
		t, g := r.Caps.Traits, p.Machine.Guest
		if nt := ntVersion(g); nt > 0 && nt < t.OldestWindows {
			say("Windows %s has no drivers for the target's virtual hardware", g.Version)
		}
		if v := rhelVersion(g); v > 0 && v < t.OldestRHEL {
			say("%s %s has no drivers for the target's virtual hardware, which came with %.1f", g.Distribution, g.Version, t.OldestRHEL)
		}
	}},
	{"os-unsupported", Warning, "Vendors support some systems on their platforms only.", "ask the vendor, or try it and be ready to go elsewhere", "guest, target's platform", func(p *Plan, r Request, say say) {
		g := p.Machine.Guest
		cloud := r.Target.Platform == vm.AWS || r.Target.Platform == vm.Azure
		switch {
		case r.Target.Platform == vm.Local:
		case g.Family == vm.OtherOS:
			say("the guest is neither Linux, Windows nor BSD: nobody has tried it on the target")
		case g.Family == vm.BSD && cloud:
			say("the guest is a BSD, which the target starts only with its own drivers built in")
		case g.Family == vm.Windows && strings.Contains(g.Distribution, "client") && r.Target.Platform == vm.AWS:
			say("the licence of a Windows client allows AWS on dedicated hardware only")
		}
	}},
	{"cpu-baseline", Information, "RHEL 9 needs x86-64-v2 and RHEL 10 x86-64-v3: old processor models do not start them.", "choose a host or processor model that has it", "guest's version, target's platform", func(p *Plan, r Request, say say) {
		v := rhelVersion(p.Machine.Guest)
		if v < 9 || p.Machine.Guest.Arch == vm.ARM64 || r.Target.Platform == vm.Local || r.Target.Platform == vm.AWS || r.Target.Platform == vm.Azure {
			return
		}
		say("%s %s needs a processor of x86-64-v%d", p.Machine.Guest.Distribution, p.Machine.Guest.Version, map[bool]int{true: 3, false: 2}[v >= 10])
	}},
	{"aws-import-arm64", Critical, "AWS converts Windows by ImportImage, which takes no ARM64.", "choose another target", "guest, target's platform", func(p *Plan, r Request, say say) {
		if g := p.Machine.Guest; r.Target.Platform == vm.AWS && g.Family == vm.Windows && g.Arch == vm.ARM64 {
			say("ImportImage takes no Windows for ARM64")
		}
	}},
	{"uuid-changed", Information, "Software bound to the machine's UUID sees another machine.", "renew licences bound to the machine", "UUID, target's capabilities, options", func(p *Plan, r Request, say say) {
		if p.Source.UUID != "" && p.Machine.UUID == "" && r.Target.Platform != vm.Local {
			say("the machine gets a new UUID")
		}
	}},
	{"clock-changed", Information, "A guest that expects another hardware clock wakes in the wrong hour.", "check the guest's time after the restore; in Windows, RealTimeIsUniversal", "clock, guest, target's clock", func(p *Plan, r Request, say say) {
		if p.Source.Clock != "" && p.Machine.Clock != p.Source.Clock {
			say("the hardware clock shows %s time and the guest expects %s", p.Machine.Clock, p.Source.Clock)
		}
	}},
	{"azure-temp-disk", Information, "Many sizes of Azure have a temporary disk that Windows calls D:.", "look for programs that use D:", "guest, target's platform", func(p *Plan, r Request, say say) {
		if r.Target.Platform == vm.Azure && p.Machine.Guest.Family == vm.Windows && len(p.Disks) > 1 {
			say("the platform may give D: to a temporary disk, whose content is lost at every stop")
		}
	}},
	{"source-unknown", Information, "Guest tools and hardware of an unknown source cannot be told.", "state it with --source-platform", "backup's evidence", func(p *Plan, r Request, say say) {
		if p.Detected == nil && r.Target.Platform != vm.Local {
			say("where the machine ran is not known")
		}
	}},
	{"source-unsure", Information, "Evidence may speak for several platforms.", "state it with --source-platform", "backup's evidence", func(p *Plan, _ Request, say say) {
		if d := p.Detected; d != nil && d.Confidence == "guessed" {
			text := fmt.Sprintf("that the machine ran on %s is a guess", d.Platform)
			if d.Other != "" {
				text += fmt.Sprintf("; something speaks for %s", d.Other)
			}
			say("%s", text)
		}
	}},
}

func orWhat(what, otherwise string) string {
	if what == "" {
		return otherwise
	}
	return what
}

// list joins names for a sentence, the first few of many.
func list(names []string) string {
	if len(names) > 6 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:6], ", "), len(names)-6)
	}
	return strings.Join(names, ", ")
}
