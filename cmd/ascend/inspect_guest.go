package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ascend/internal/disk"
	"ascend/internal/guest"
	"ascend/internal/restore"
	"ascend/internal/vm"
)

// guestFlags are those of inspect --guest.
type guestFlags struct {
	repo, platform, firmware, drivers string
	keys                              []string
}

func (a *app) inspectGuest(c *cobra.Command, g guestFlags, format string, args []string) error {
	firmware := vm.Firmware(strings.ToLower(g.firmware))
	if firmware != "" && firmware != vm.BIOS && firmware != vm.UEFI {
		return usageError{fmt.Errorf("--firmware is bios or uefi, not %q", g.firmware)}
	}
	var to vm.Platform
	if g.platform != "" {
		var err error
		if to, err = vm.ParsePlatform(g.platform); err != nil {
			return usageError{err}
		}
	}
	keys, err := restore.ReadKeys(g.keys)
	if err != nil {
		return usageError{err}
	}
	ch, err := choose(c, g.repo, format, args)
	if err != nil {
		return err
	}
	defer ch.repo.Close()
	if ch.b.Fault != "" {
		return withHint(fmt.Errorf("backup %s is broken: %s", ch.b.ID, ch.b.Fault), "choose another point in time")
	}
	var disks []disk.Disk
	for i := range ch.b.Disks {
		img, err := ch.repo.OpenDisk(c.Context(), ch.b, i)
		if err != nil {
			return err
		}
		defer img.Close()
		disks = append(disks, img)
	}
	if firmware == "" && ch.b.Machine != nil {
		firmware = ch.b.Machine.Firmware
	}
	in, err := guest.Inspect(c.Context(), disks, guest.Options{Firmware: firmware, Keys: keys})
	if err != nil {
		return err
	}
	for _, d := range disks {
		if err := d.Unchanged(); err != nil {
			return err
		}
	}
	out := struct {
		*guest.Inspection
		Adaptation *guest.Adaptation `json:"adaptation,omitempty"`
	}{Inspection: in}
	if to != "" {
		t := guest.Target{Platform: to}
		if ch.b.Machine != nil {
			t.NICs = ch.b.Machine.NICs
		}
		p := &prepared{}
		if err := p.openPack(g.drivers); err != nil {
			return err
		}
		defer p.close()
		out.Adaptation = guest.Decide(in, t, guest.Choices{Pack: p.pack})
	}
	if a.json {
		return printJSON(c, out)
	}
	rows := guestRows(in)
	if out.Adaptation != nil {
		rows = append(rows, adaptationRows(out.Adaptation)...)
	}
	table(c.OutOrStdout(), rows)
	return nil
}

func guestRows(in *guest.Inspection) [][]string {
	var rows [][]string
	row := func(k, f string, a ...any) { rows = append(rows, []string{k, clean(fmt.Sprintf(f, a...))}) }
	boot := "cannot be told"
	if in.BootDisk >= 0 {
		boot = fmt.Sprintf("disk %d, %s", in.BootDisk, in.Firmware)
	}
	row("boots from", "%s", boot)
	if in.BIOSBoots && in.UEFIBoots {
		row("", "the disks have boot loaders for BIOS and for UEFI")
	}
	for _, d := range in.Disks {
		row("disk", "%d: %s, %s, %d partitions", d.Index, vm.FormatSize(d.Size), d.Scheme, len(d.Partitions))
		for _, n := range d.Notes {
			row("note", "disk %d: %s", d.Index, n)
		}
	}
	for _, v := range in.Volumes {
		s := fmt.Sprintf("%s: %s, %s", v.ID, v.Content, vm.FormatSize(v.Size))
		if v.Super != nil && v.Super.Free >= 0 {
			s += ", " + vm.FormatSize(v.Super.Free) + " free"
		}
		if len(v.MountedAt) > 0 {
			s += ", mounted at " + strings.Join(v.MountedAt, " ")
		}
		if v.Super != nil && len(v.Super.Notes) > 0 {
			s += " (" + strings.Join(v.Super.Notes, "; ") + ")"
		}
		row("volume", "%s", s)
	}
	if in.ESP != nil {
		row("EFI partition", "%s: %s; fallback path: %v", in.ESP.Volume, strings.Join(in.ESP.Vendors, " "), in.ESP.Fallback)
	}
	for _, r := range in.Roots {
		row("system", "%s (%s %s %s) on %s", r.Name, r.OS.Distribution, r.OS.Version, r.OS.Arch, r.Volume)
		if r.Hostname != "" {
			row("host name", "%s", r.Hostname)
		}
		if l := r.Linux; l != nil {
			for _, k := range l.Kernels {
				s := k.Version
				if k.Default {
					s += " (default)"
				}
				for _, w := range []guest.Where{guest.Builtin, guest.InInitrd, guest.OnDisk, guest.Missing} {
					var names []string
					for m, at := range k.Drivers {
						if at == w {
							names = append(names, m)
						}
					}
					slices.Sort(names)
					if len(names) > 0 {
						s += "; " + string(w) + ": " + strings.Join(names, " ")
					}
				}
				if k.Problem != "" {
					s += "; " + k.Problem
				}
				row("kernel", "%s", s)
			}
			row("boot loader", "%s", orNone(l.BootLoader))
			row("initramfs tool", "%s", orNone(l.InitramfsTool))
			for _, d := range l.DeviceNames {
				row("device name", "%s in %s", d.Name, d.File)
			}
		}
		if w := r.Windows; w != nil {
			row("build", "%s %s", w.Build, w.Edition)
			var names []string
			for n, s := range w.Services {
				if s.Start >= 0 {
					names = append(names, fmt.Sprintf("%s=%d", n, s.Start))
				}
			}
			slices.Sort(names)
			row("services", "%s", strings.Join(names, " "))
		}
		for _, i := range r.Interfaces {
			s := i.Name + " " + i.MAC
			if i.DHCP {
				s += " DHCP"
			}
			row("interface", "%s %s gateway %s DNS %s (%s)", s, strings.Join(i.Addresses, " "), orNone(strings.Join(i.Gateways, " ")), orNone(strings.Join(i.DNS, " ")), i.Source)
		}
		for _, g := range r.Agents {
			row("agent", "%s", g.Name)
		}
	}
	for _, g := range in.Gaps {
		row("not read", "%s: %s", g.Where, g.Reason)
	}
	return rows
}

func adaptationRows(ad *guest.Adaptation) [][]string {
	var rows [][]string
	if ad.Nothing() {
		rows = append(rows, []string{"changes", "none are needed"})
	}
	rows = append(rows, []string{"hardware", join(string(ad.Controller), string(ad.NIC))}, []string{"verdict", clean(string(ad.Boot.Verdict) + ": " + ad.Boot.Reason)})
	for _, ch := range ad.Changes {
		rows = append(rows, []string{"change", clean(string(ch.Kind) + " " + ch.Subject + ": " + ch.Reason)})
	}
	for _, f := range ad.Findings {
		rows = append(rows, []string{string(f.Severity), clean(f.Code + ": " + f.Text)})
	}
	return rows
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
