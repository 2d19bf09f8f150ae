package api

import (
	"context"

	"ascend/internal/guest"
	"ascend/internal/plan/facts"
	"ascend/internal/server/planning"
	"ascend/internal/vm"
)

// Guest is what was found on a backup's disks.
type Guest struct {
	BIOSBoots bool          `json:"bios_boots" doc:"BIOS finds a boot loader"`
	UEFIBoots bool          `json:"uefi_boots" doc:"UEFI finds a boot loader"`
	Systems   []GuestSystem `json:"systems" nullable:"false" doc:"the one that boots first"`
	Volumes   []GuestVolume `json:"volumes" nullable:"false"`
	// Unread are parts that could not be looked at, and why.
	Unread []string `json:"unread" nullable:"false"`
}

// GuestSystem is an installed system.
type GuestSystem struct {
	Name       string     `json:"name"`
	OS         vm.GuestOS `json:"os"`
	Hostname   string     `json:"hostname,omitempty"`
	Volume     string     `json:"volume" doc:"of its root"`
	BootLoader string     `json:"boot_loader,omitempty"`
	Kernels    []string   `json:"kernels,omitempty" doc:"those the boot loader offers, the default first"`
	Interfaces []GuestNIC `json:"interfaces,omitempty"`
	Agents     []string   `json:"agents,omitempty" doc:"platforms' guest software"`
	Notes      []string   `json:"notes,omitempty" doc:"what matters for a restore"`
}

// GuestNIC is a network configuration of the guest.
type GuestNIC struct {
	Name      string   `json:"name,omitempty"`
	MAC       string   `json:"mac,omitempty"`
	DHCP      bool     `json:"dhcp"`
	Addresses []string `json:"addresses,omitempty"`
}

// GuestVolume is a partition or logical volume.
type GuestVolume struct {
	ID        string   `json:"id"`
	Size      int64    `json:"size" doc:"bytes"`
	Content   string   `json:"content"`
	MountedAt []string `json:"mounted_at,omitempty"`
}

// guestOf looks at the system on a backup's disks. Like file-level restore it reads
// them, and so is one of few at a time.
func (a *API) guestOf(ctx context.Context, src planning.Source) (Guest, error) {
	out := Guest{Systems: []GuestSystem{}, Volumes: []GuestVolume{}, Unread: []string{}}
	select {
	case a.looks <- struct{}{}:
		defer func() { <-a.looks }()
	case <-ctx.Done():
		return out, ctx.Err()
	}
	images, err := src.Open(ctx)
	if err != nil {
		return out, err
	}
	defer (&planning.Made{Images: images}).Close()
	firmware := vm.Firmware("")
	if src.Backup.Machine != nil {
		firmware = src.Backup.Machine.Firmware
	}
	in, f, err := facts.Look(ctx, images, firmware)
	if err != nil {
		return out, err
	}
	if in == nil {
		out.Unread = append(out.Unread, f.Incomplete...)
		return out, nil
	}
	out.BIOSBoots, out.UEFIBoots = in.BIOSBoots, in.UEFIBoots
	for i := range in.Roots {
		out.Systems = append(out.Systems, systemOf(&in.Roots[i]))
	}
	for _, v := range in.Volumes {
		out.Volumes = append(out.Volumes, GuestVolume{v.ID, v.Size, v.Content, v.MountedAt})
	}
	for _, g := range in.Gaps {
		out.Unread = append(out.Unread, g.Where+": "+g.Reason)
	}
	return out, nil
}

func systemOf(r *guest.Root) GuestSystem {
	s := GuestSystem{Name: r.Name, OS: r.OS, Hostname: r.Hostname, Volume: r.Volume}
	for _, i := range r.Interfaces {
		s.Interfaces = append(s.Interfaces, GuestNIC{i.Name, i.MAC, i.DHCP, i.Addresses})
	}
	for _, g := range r.Agents {
		s.Agents = append(s.Agents, g.Name)
	}
	note := func(is bool, text string) {
		if is {
			s.Notes = append(s.Notes, text)
		}
	}
	if l := r.Linux; l != nil {
		s.BootLoader = l.BootLoader
		for _, k := range l.Kernels {
			s.Kernels = append(s.Kernels, k.Version)
		}
		note(len(l.DeviceNames) > 0, "disks are named as /dev/sdX where a UUID should stand")
		note(l.EncryptedRoot, "the root file system is encrypted")
		note(l.SELinux == "enforcing", "SELinux is enforcing")
		note(l.PersistentNet, "names of network adapters are bound to their MAC addresses")
	}
	if w := r.Windows; w != nil {
		note(w.Hibernated, "it is hibernated")
		note(w.FastStartup, "fast startup is on")
		note(w.DirtyVolume, "its volume was not closed cleanly")
		note(len(w.DirtyHives) > 0, "its registry was not closed cleanly")
		note(w.PendingReboot, "a reboot is pending")
	}
	return s
}
