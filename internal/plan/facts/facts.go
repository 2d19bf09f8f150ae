// Package facts maps what the inspection of a guest found onto what plans are
// made from.
package facts

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ascend/internal/disk"
	"ascend/internal/guest"
	"ascend/internal/guest/winpack"
	"ascend/internal/plan"
	"ascend/internal/vm"
)

// patience bounds an inspection: a plan is to be seen soon, and what is not read
// by then is said.
const patience = time.Minute

// Look inspects the guest on a machine's disks, in their order. firmware is what
// the backup says, or "". It never fails a plan: what could not be looked at is in
// Incomplete, and the inspection is nil when nothing could be. The end of ctx is an
// error.
func Look[D disk.Disk](ctx context.Context, disks []D, firmware vm.Firmware) (*guest.Inspection, *plan.GuestFacts, error) {
	list := make([]disk.Disk, len(disks))
	for i, d := range disks {
		list[i] = d
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	in, err := guest.Inspect(bounded, list, guest.Options{Firmware: firmware})
	switch {
	case ctx.Err() != nil:
		return nil, nil, ctx.Err()
	case err != nil:
		return nil, Unread(err), nil
	}
	return in, Of(in), nil
}

// Unread are the facts of a guest that could not be inspected.
func Unread(err error) *plan.GuestFacts {
	return &plan.GuestFacts{Incomplete: []string{fmt.Sprintf("the guest could not be inspected: %v", err)}}
}

// Of is an inspection as facts of a plan.
func Of(in *guest.Inspection) *plan.GuestFacts {
	g := &plan.GuestFacts{Roots: len(in.Roots), BootsBIOS: in.BIOSBoots, BootsUEFI: in.UEFIBoots}
	if in.BootDisk >= 0 {
		g.BootDisk = &in.BootDisk
	}
	if in.ESP != nil {
		g.EFIFallback = in.ESP.Fallback
	}
	volumes(g, in)
	for i := range in.Roots {
		r := &in.Roots[i]
		if w := r.Windows; w != nil {
			if w.Hibernated {
				g.Hibernated = append(g.Hibernated, r.Volume)
			}
			if w.DirtyVolume && !slices.Contains(g.Dirty, r.Volume) {
				g.Dirty = append(g.Dirty, r.Volume)
			}
			g.HiveDirty = g.HiveDirty || len(w.DirtyHives) > 0
		}
	}
	if len(in.Roots) > 0 {
		system(g, &in.Roots[0])
	}
	return g
}

func volumes(g *plan.GuestFacts, in *guest.Inspection) {
	for _, gap := range in.Gaps {
		switch gap.Code {
		case "luks", "bitlocker":
			root := len(in.Roots) == 0 || in.Roots[0].Linux != nil && in.Roots[0].Linux.EncryptedRoot
			g.Encrypted = append(g.Encrypted, plan.Encrypted{Volume: gap.Where, Kind: gap.Code, Root: root})
		case "ldm": // below
		default:
			g.Incomplete = append(g.Incomplete, fmt.Sprintf("%s: %s", gap.Where, gap.Reason))
		}
	}
	for _, v := range in.Volumes {
		if v.Content == "ldm" {
			g.LDMBoot = g.LDMBoot || v.Disk == in.BootDisk
			g.LDMData = g.LDMData || v.Disk != in.BootDisk
		}
		if v.Super != nil && v.Super.Dirty {
			g.Dirty = append(g.Dirty, v.ID)
		}
	}
}

// system is what is known of the system that boots.
func system(g *plan.GuestFacts, r *guest.Root) {
	g.Family, g.Distribution, g.Version, g.Arch, g.Hostname = r.OS.Family, r.OS.Distribution, r.OS.Version, r.OS.Arch, r.Hostname
	for _, a := range r.Agents {
		g.Agents = append(g.Agents, plan.Agent{Name: a.Name, Platform: a.Platform})
	}
	pinned := true
	for _, i := range r.Interfaces {
		if !i.DHCP {
			g.StaticIP = append(g.StaticIP, i.Addresses...)
		}
		g.Named = g.Named || i.Name != "" && i.Name != "lo" && !strings.ContainsAny(i.Name, "*?")
		pinned = pinned && i.MAC != ""
	}
	switch {
	case r.Linux != nil:
		linux(g, r.Linux)
		g.Pinned = len(r.Interfaces) > 0 && (pinned || r.Linux.PersistentNet)
	case r.Windows != nil:
		windows(g, r.Windows)
		g.Named, g.Pinned = false, false // Windows knows its adapters by their drivers
	}
}

func linux(g *plan.GuestFacts, l *guest.Linux) {
	g.Initramfs, g.LVMDevices = l.InitramfsTool, l.LVMDevices
	for _, d := range l.DeviceNames {
		if !slices.Contains(g.FstabDevices, d.Name) {
			g.FstabDevices = append(g.FstabDevices, d.Name)
		}
	}
	if len(l.Kernels) == 0 {
		return
	}
	k := l.Kernels[max(0, slices.IndexFunc(l.Kernels, func(k guest.Kernel) bool { return k.Default }))] // else the first that is offered
	g.Kernel, g.UKI = k.Version, k.UKI
	if k.Problem != "" {
		g.Incomplete = append(g.Incomplete, fmt.Sprintf("kernel %s could not be looked into: %s", k.Version, k.Problem))
		return
	}
	g.Boot, g.Installed = []string{}, []string{}
	for m, at := range k.Drivers {
		switch at {
		case guest.Builtin, guest.InInitrd:
			g.Boot, g.Installed = append(g.Boot, m), append(g.Installed, m)
		case guest.OnDisk:
			g.Installed = append(g.Installed, m)
		}
	}
	slices.Sort(g.Boot)
	slices.Sort(g.Installed)
}

// bootStart is a service that Windows starts with its kernel (SERVICE_BOOT_START).
const bootStart = 0

func windows(g *plan.GuestFacts, w *guest.Windows) {
	g.ClockUTC = &w.UTCClock
	if w.Services == nil {
		return
	}
	g.Boot, g.Installed = []string{}, []string{}
	for name, s := range w.Services {
		if s.Start < 0 || !s.File {
			continue
		}
		g.Installed = append(g.Installed, name)
		held := false // by a StartOverride, as the installed system gives disks it was not installed on
		for _, v := range s.Override {
			held = held || v != bootStart
		}
		if s.Start == bootStart && !held {
			g.Boot = append(g.Boot, name)
		}
	}
	slices.Sort(g.Boot)
	slices.Sort(g.Installed)
}

// With adds to the facts of a Windows guest what a pack of drivers brings, as if all
// of it were installed: so a plan finds the hardware that the pack is for.
func With(g *plan.GuestFacts, in *guest.Inspection, pack *winpack.Pack) {
	if len(in.Roots) == 0 || in.Roots[0].Windows == nil || pack == nil || g.Installed == nil {
		return
	}
	drivers, _ := pack.For(guest.SystemOf(&in.Roots[0]))
	for _, d := range drivers {
		install(g, d)
	}
}

func install(g *plan.GuestFacts, d *winpack.Driver) {
	s := strings.ToLower(d.Service)
	if i, ok := slices.BinarySearch(g.Installed, s); !ok {
		g.Installed = slices.Insert(g.Installed, i, s)
	}
}

// Decided adds what an adaptation of a Windows guest will take from a pack, and
// what it leaves to a person.
func Decided(g *plan.GuestFacts, a *guest.Adaptation) {
	for _, c := range a.Changes {
		d := c.Driver
		if d == nil {
			continue
		}
		install(g, d)
		for _, f := range d.Files {
			if f.Name == d.INF {
				g.Packed = append(g.Packed, fmt.Sprintf("%s %s of %s from %s, folder %s (SHA-256 of %s: %s)", d.Service, d.Version, d.Provider, d.Source, d.Folder, f.Name, f.SHA256))
			}
		}
	}
	for _, f := range a.Findings {
		if f.Code == guest.StaticAddress || f.Code == guest.DomainMember {
			g.Unsettled = append(g.Unsettled, f.Text)
		}
	}
}
