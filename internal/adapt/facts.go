package adapt

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"ascend/internal/guest"
	"ascend/internal/plan"
	"ascend/internal/vm"
)

// Facts are an inspection in a plan's words.
func Facts(in *guest.Inspection) *plan.GuestFacts {
	g := &plan.GuestFacts{Roots: len(in.Roots), BootsBIOS: in.BIOSBoots, BootsUEFI: in.UEFIBoots, EFIFallback: in.ESP != nil && in.ESP.Fallback}
	if in.BootDisk >= 0 {
		d := in.BootDisk
		g.BootDisk = &d
	}
	for _, p := range in.Gaps {
		switch p.Code {
		case "luks", "bitlocker":
			root := len(in.Roots) == 0
			if p.Code == "luks" && len(in.Roots) > 0 && in.Roots[0].Linux != nil {
				root = in.Roots[0].Linux.EncryptedRoot
			}
			g.Encrypted = append(g.Encrypted, plan.Encrypted{Volume: p.Where, Kind: p.Code, Root: root})
		default:
			g.Incomplete = append(g.Incomplete, fmt.Sprintf("%s: %s", p.Where, p.Reason))
		}
	}
	for _, v := range in.Volumes {
		switch {
		case v.Content == "ldm" && v.Disk == in.BootDisk:
			g.LDMBoot = true
		case v.Content == "ldm":
			g.LDMData = true
		}
		if v.Super != nil && v.Super.Dirty {
			g.Dirty = append(g.Dirty, v.ID)
		}
	}
	if len(in.Roots) == 0 {
		return g
	}
	r := &in.Roots[0]
	g.Family, g.Distribution, g.Version, g.Arch, g.Hostname = r.OS.Family, r.OS.Distribution, r.OS.Version, r.OS.Arch, r.Hostname
	for _, a := range r.Agents {
		g.Agents = append(g.Agents, plan.Agent{Name: a.Name, Platform: a.Platform})
	}
	for _, i := range r.Interfaces {
		if i.MAC != "" {
			g.Pinned = true
		} else if i.Name != "" && !strings.ContainsAny(i.Name, "*?") && i.Name != "lo" {
			g.Named = true
		}
		if !i.DHCP {
			g.StaticIP = append(g.StaticIP, i.Addresses...)
		}
	}
	switch {
	case r.Linux != nil:
		linuxFacts(g, r.Linux)
	case r.Windows != nil:
		windowsFacts(g, r)
	}
	return g
}

func linuxFacts(g *plan.GuestFacts, l *guest.Linux) {
	g.LVMDevices, g.Initramfs = l.LVMDevices, l.InitramfsTool
	g.Pinned = g.Pinned || l.PersistentNet
	for _, d := range l.DeviceNames {
		g.FstabDevices = append(g.FstabDevices, d.Name)
	}
	if len(l.Kernels) == 0 {
		return
	}
	k := &l.Kernels[0]
	g.Kernel, g.UKI = k.Version, k.UKI
	if k.Problem != "" {
		g.Incomplete = append(g.Incomplete, fmt.Sprintf("kernel %s: %s", k.Version, k.Problem))
		return
	}
	g.Boot, g.Installed = []string{}, []string{}
	for m, at := range k.Drivers {
		if at == guest.Builtin || at == guest.InInitrd {
			g.Boot = append(g.Boot, m)
		}
		if at != guest.Missing {
			g.Installed = append(g.Installed, m)
		}
	}
	slices.Sort(g.Boot)
	slices.Sort(g.Installed)
}

func windowsFacts(g *plan.GuestFacts, r *guest.Root) {
	w := r.Windows
	if w.Hibernated {
		g.Hibernated = []string{r.Volume}
	}
	if w.DirtyVolume && !slices.Contains(g.Dirty, r.Volume) {
		g.Dirty = append(g.Dirty, r.Volume)
	}
	g.HiveDirty = len(w.DirtyHives) > 0
	utc := w.UTCClock
	g.ClockUTC = &utc
	if len(w.Services) == 0 {
		return
	}
	g.Boot, g.Installed = []string{}, []string{}
	for n, s := range w.Services {
		held := slices.ContainsFunc(slices.Collect(maps.Values(s.Override)), func(v int) bool { return v != 0 })
		if s.Start == 0 && !held {
			g.Boot = append(g.Boot, n)
		}
		if s.Start >= 0 || s.File {
			g.Installed = append(g.Installed, n)
		}
	}
	slices.Sort(g.Boot)
	slices.Sort(g.Installed)
}

// For decides for the machine that a plan has made.
func For(in *guest.Inspection, p *plan.Plan, c guest.Choices) *guest.Adaptation {
	t := guest.Target{Platform: p.Target.Platform, Firmware: p.Machine.Firmware, NICs: p.Machine.NICs}
	if b := p.Machine.BootDisk(); b >= 0 {
		t.Controller = p.Machine.Disks[b].Controller
	}
	if len(p.Machine.NICs) > 0 {
		t.NIC = p.Machine.NICs[0].Model
	}
	return guest.Decide(in, t, c)
}

// Mends are the plan's rules whose findings an adaptation puts right.
func Mends(a *guest.Adaptation) []string {
	var out []string
	for _, c := range a.Changes {
		code := map[guest.ChangeKind]string{
			guest.AppendInitramfs: "boot-driver-missing", guest.DeviceToUUID: "fstab-devices", guest.RemoveLVMDevices: "lvm-devices",
			guest.AddFallbackLoader: "efi-fallback", guest.DisableAgent: "foreign-agents",
		}[c.Kind]
		if code != "" && !slices.Contains(out, code) {
			out = append(out, code)
		}
	}
	return out
}

// Unfit says why an adaptation is not carried out; "" when it is.
func Unfit(in *guest.Inspection, a *guest.Adaptation) string {
	for _, f := range a.Findings {
		if f.Severity == guest.Critical {
			return f.Text
		}
	}
	for _, c := range a.Changes {
		if !Can(in, c) {
			if r := system(in, c.Root); r != nil && r.OS.Family == vm.Windows {
				return "Windows guests are inspected and not changed"
			}
			return fmt.Sprintf("%s of %s is not carried out", c.Kind, c.Subject)
		}
	}
	return ""
}
