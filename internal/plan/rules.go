package plan

import (
	"fmt"
	"slices"
	"strings"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// rule is one thing that may stand in a restore's way: data and a pure function
// that yields a sentence for each case it finds.
type rule struct {
	code     string
	severity Severity
	advice   string
	find     func(p *Plan, r Request, say func(format string, args ...any))
}

// Rule describes one rule for people.
type Rule struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	Advice   string   `json:"advice"`
}

// Rules lists all rules in the order they are asked.
func Rules() []Rule {
	var out []Rule
	for _, r := range rules {
		out = append(out, Rule{r.code, r.severity, r.advice})
	}
	return out
}

// check asks every rule.
func (p *Plan) check(r Request) {
	for _, rule := range rules {
		rule.find(p, r, func(format string, args ...any) {
			p.find(rule.code, rule.severity, fmt.Sprintf(format, args...), rule.advice)
		})
	}
}

type say = func(format string, args ...any)

var rules = []rule{
	{"no-disks", Critical, "choose a backup that holds disks", func(p *Plan, _ Request, say say) {
		if len(p.Disks) == 0 {
			say("the backup holds no disks")
		}
	}},
	{"zero-size-disk", Critical, "leave the disk out or restore another point in time", func(_ *Plan, r Request, say say) {
		for i, s := range r.Sources {
			if s.Info.Size == 0 {
				say("disk %d has no size", r.Machine.Disks[i].Index)
			}
		}
	}},
	{"empty-disk", Warning, "look whether the backup is whole: a machine cannot start from an empty disk", func(_ *Plan, r Request, say say) {
		for i, s := range r.Sources {
			if s.Info.Size > 0 && s.Info.Allocated == 0 {
				say("disk %d holds no data at all", r.Machine.Disks[i].Index)
			}
		}
	}},
	{"vm-name", Critical, "give a name with --name", func(p *Plan, _ Request, say say) {
		name := p.Machine.Name
		switch {
		case strings.TrimSpace(name) == "":
			say("the machine has no name")
		case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }):
			say("the machine's name %q holds characters that no platform takes", name)
		}
	}},
	{"name-taken", Critical, "give another name with --name", func(p *Plan, r Request, say say) {
		if r.Inventory != nil && slices.Contains(r.Inventory.Taken, p.Machine.Name) {
			say("the target already has a machine named %q", p.Machine.Name)
		}
	}},
	{"disk-count", Critical, "restore fewer disks or choose another target", func(p *Plan, r Request, say say) {
		if r.Caps.MaxDisks > 0 && len(p.Disks) > r.Caps.MaxDisks {
			say("the machine has %d disks and the target takes %d", len(p.Disks), r.Caps.MaxDisks)
		}
	}},
	{"disk-size", Critical, "shrink the disk in the guest before the backup or choose another target", func(p *Plan, r Request, say say) {
		for _, d := range p.Disks {
			if r.Caps.MaxDiskSize > 0 && d.Virtual > r.Caps.MaxDiskSize {
				say("disk %d has %s and the target takes %s", d.Index, vm.FormatSize(d.Virtual), vm.FormatSize(r.Caps.MaxDiskSize))
			}
		}
	}},
	{"disk-padded", Information, "nothing to do: the disk grows by zeros at its end", func(p *Plan, _ Request, say say) {
		for _, d := range p.Disks {
			if d.Virtual != d.Source.Size {
				say("disk %d grows from %d to %d bytes to fit the target's alignment", d.Index, d.Source.Size, d.Virtual)
			}
		}
	}},
	{"cpu-limit", Critical, "set fewer processors with --cpus", func(p *Plan, r Request, say say) {
		if r.Caps.MaxCPUs > 0 && p.Machine.CPU.Total() > r.Caps.MaxCPUs {
			say("the machine has %d processors and the target takes %d", p.Machine.CPU.Total(), r.Caps.MaxCPUs)
		}
	}},
	{"memory-limit", Critical, "set less memory with --memory", func(p *Plan, r Request, say say) {
		if r.Caps.MaxMemory > 0 && p.Machine.Memory > r.Caps.MaxMemory {
			say("the machine has %s of memory and the target takes %s", vm.FormatSize(p.Machine.Memory), vm.FormatSize(r.Caps.MaxMemory))
		}
	}},
	{"cpu-unknown", Information, "set --cpus", func(_ *Plan, r Request, say say) {
		if r.Machine.CPU.Total() == 0 {
			say("the backup does not say how many processors the machine had")
		}
	}},
	{"memory-unknown", Information, "set --memory", func(_ *Plan, r Request, say say) {
		if r.Machine.Memory == 0 {
			say("the backup does not say how much memory the machine had")
		}
	}},
	{"firmware-unknown", Information, "set --firmware bios or uefi if the machine does not start", func(p *Plan, r Request, say say) {
		if r.Machine.Firmware == "" {
			say("the backup does not say whether the machine started by BIOS or UEFI; it will by %s", p.Machine.Firmware)
		}
	}},
	{"firmware-unsupported", Critical, "choose another target", func(p *Plan, r Request, say say) {
		if p.Machine.Firmware != "" && len(r.Caps.Firmware) > 0 && !slices.Contains(r.Caps.Firmware, p.Machine.Firmware) {
			say("the target does not start machines by %s", p.Machine.Firmware)
		}
	}},
	{"arch-unsupported", Critical, "choose a target of that architecture", func(p *Plan, r Request, say say) {
		if a := p.Machine.Guest.Arch; a != "" && len(r.Caps.Arch) > 0 && !slices.Contains(r.Caps.Arch, a) {
			say("the guest is %s and the target runs %v", a, r.Caps.Arch)
		}
	}},
	{"uefi-nvram", Information, "the disk must hold \\EFI\\BOOT\\BOOTX64.EFI, or the boot entry be made by hand", func(p *Plan, r Request, say say) {
		if p.Machine.Firmware == vm.UEFI && r.Target.Platform != vm.Local {
			say("the firmware's variables are not in the disks and start empty")
		}
	}},
	{"secure-boot-lost", Warning, "turn it on again where the target has it", func(p *Plan, r Request, say say) {
		if r.Machine.SecureBoot && !p.Machine.SecureBoot {
			say("Secure Boot is switched off: the target does not have it")
		}
	}},
	{"vtpm-lost", Warning, "have the recovery keys of disks sealed to it at hand", func(_ *Plan, r Request, say say) {
		if r.Machine.TPM {
			say("what the virtual TPM held is not in a backup and is lost")
		}
	}},
	{"shared-disk", Warning, "restore the cluster's machines together and share the disk by hand", func(p *Plan, _ Request, say say) {
		for _, d := range p.Machine.Disks {
			if d.Shared {
				say("disk %d was shared between machines; the restored one is not", d.Index)
			}
		}
	}},
	{"boot-disk", Information, "look at the boot order if the machine does not start", func(p *Plan, _ Request, say say) {
		if b := p.Machine.BootDisk(); b > 0 {
			say("disk %d, not the first, is the boot disk", p.Machine.Disks[b].Index)
		}
	}},
	{"nic-count", Critical, "restore fewer adapters or choose another target", func(p *Plan, r Request, say say) {
		if r.Caps.MaxNICs > 0 && len(p.Machine.NICs) > r.Caps.MaxNICs {
			say("the machine has %d network adapters and the target takes %d", len(p.Machine.NICs), r.Caps.MaxNICs)
		}
	}},
	{"no-nic", Information, "add one after the restore if it needs a network", func(p *Plan, _ Request, say say) {
		if len(p.Machine.NICs) == 0 {
			say("the machine has no network adapter")
		}
	}},
	{"network-unmapped", Critical, "map it with --network SOURCE=TARGET or --network TARGET", func(p *Plan, r Request, say say) {
		if !r.Caps.NeedsNetwork {
			return
		}
		for i, n := range p.Machine.NICs {
			if i < len(p.Placement.Networks) && p.Placement.Networks[i] != "" {
				continue
			}
			say("adapter %d (network %q) has no network on the target%s", i, n.Network, candidates(r))
		}
	}},
	{"network-missing", Critical, "choose a network the target has", func(p *Plan, r Request, say say) {
		if r.Inventory == nil || len(r.Inventory.Networks) == 0 {
			return
		}
		for i, n := range p.Placement.Networks {
			if n != "" && !strings.Contains(n, "/") && !slices.ContainsFunc(names(r.Inventory), func(s string) bool { return s == n || strings.HasSuffix(s, "/"+n) }) {
				say("adapter %d: the target has no network %q%s", i, n, candidates(r))
			}
		}
	}},
	{"source-note", Information, "", func(p *Plan, _ Request, say say) {
		for _, d := range p.Disks {
			for _, n := range d.Source.Notes {
				say("disk %d: %s", d.Index, n)
			}
		}
	}},
}

func candidates(r Request) string {
	if r.Inventory == nil || len(r.Inventory.Networks) == 0 {
		return ""
	}
	return "; it has " + strings.Join(names(r.Inventory), ", ")
}

func names(inv *target.Inventory) []string {
	var out []string
	for _, n := range inv.Networks {
		out = append(out, n.Name)
	}
	return out
}
