package guest

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"

	"ascend/internal/disk"
	"ascend/internal/guest/part"
	"ascend/internal/guest/vfs"
	"ascend/internal/vm"
)

// Options of an inspection.
type Options struct {
	// Firmware is what the backup says the machine starts with; used where
	// the disks allow both.
	Firmware vm.Firmware
	// Keys are tried on LUKS containers: passphrases, or what key files hold.
	Keys [][]byte
}

// Inspect looks at all disks of a machine together. The error is ctx's, or
// that there are no disks; everything else is in the result.
func Inspect(ctx context.Context, disks []disk.Disk, o Options) (*Inspection, error) {
	if len(disks) == 0 {
		return nil, errors.New("cannot inspect: the machine has no disks")
	}
	in := &inspector{Inspection: &Inspection{Version: 1, BootDisk: -1, Disks: []DiskLayout{}, Volumes: []Volume{}, Roots: []Root{}}, ctx: ctx, keys: o.Keys}
	in.volumes(disks)
	in.esp()
	for i := range in.Volumes {
		if v := &in.Volumes[i]; v.driver != nil && ctx.Err() == nil {
			in.root(v)
		}
	}
	in.boots(o)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return in.Inspection, nil
}

// Volumes is what Inspect finds without looking for systems: partition tables,
// logical volumes and the file systems on them, in LUKS containers too that one of
// keys opens. They are read until ctx ends.
func Volumes(ctx context.Context, disks []disk.Disk, keys ...[]byte) (*Inspection, error) {
	in := &inspector{Inspection: &Inspection{Version: 1, BootDisk: -1, Disks: []DiskLayout{}, Volumes: []Volume{}, Roots: []Root{}}, ctx: ctx, keys: keys}
	in.volumes(disks)
	return in.Inspection, ctx.Err()
}

// esp reads the first EFI system partition with loaders.
func (in *inspector) esp() {
	for i := range in.Volumes {
		v := &in.Volumes[i]
		if v.Content != "vfat" || v.driver == nil {
			continue
		}
		t := vfs.NewTree(v.driver)
		e := &ESP{Volume: v.ID}
		dirs, err := t.ReadDir("/EFI")
		if err != nil {
			continue
		}
		for _, d := range dirs {
			names, _ := t.ReadDir("/EFI/" + d)
			found := false
			for _, n := range names {
				l := strings.ToLower(n)
				if !strings.HasSuffix(l, ".efi") || len(e.Loaders) > 200 {
					continue
				}
				found = true
				e.Loaders = append(e.Loaders, "/EFI/"+d+"/"+n)
				if strings.EqualFold(d, "boot") && slices.Contains([]string{"bootx64.efi", "bootaa64.efi", "bootia32.efi"}, l) {
					e.Fallback = true
				}
				if strings.EqualFold(d, "linux") {
					e.UKIs = append(e.UKIs, "/EFI/"+d+"/"+n)
				}
				if strings.HasPrefix(l, "systemd-boot") {
					e.SysdBoot = true
				}
			}
			// Windows keeps its loader one folder deeper.
			if t.Exists("/EFI/" + d + "/Boot/bootmgfw.efi") {
				found = true
				e.Loaders = append(e.Loaders, "/EFI/"+d+"/Boot/bootmgfw.efi")
			}
			if found && !strings.EqualFold(d, "boot") && !strings.EqualFold(d, "linux") {
				e.Vendors = append(e.Vendors, d)
			}
		}
		if len(e.Loaders) > 0 && (in.ESP == nil || v.part == part.ESP) {
			in.ESP = e
			if v.part == part.ESP {
				return
			}
		}
	}
}

// boots decides which disk starts the machine, and by which firmware.
func (in *inspector) boots(o Options) {
	bios, uefi := -1, -1
	if in.ESP != nil {
		uefi = in.find(in.ESP.Volume).Disk
	}
	for _, d := range in.Disks {
		if bios >= 0 || !d.BootCode {
			continue
		}
		ok := false
		switch d.Scheme {
		case "gpt":
			ok = slices.ContainsFunc(d.Partitions, func(p part.Partition) bool { return p.Kind == part.BIOSBoot }) || d.BootLoader == "syslinux"
		case "mbr":
			// Windows' code starts the active partition; others say who they are.
			ok = slices.ContainsFunc(d.Partitions, func(p part.Partition) bool { return p.Active }) || d.BootLoader == "grub" || d.BootLoader == "lilo"
		}
		if ok {
			bios = d.Index
		}
	}
	in.BIOSBoots, in.UEFIBoots = bios >= 0, uefi >= 0
	switch {
	case bios >= 0 && uefi >= 0:
		in.Firmware = o.Firmware
		if in.Firmware == "" {
			in.Firmware = vm.UEFI
			if in.rootUsesBIOS() {
				in.Firmware = vm.BIOS
			}
		}
	case bios >= 0:
		in.Firmware = vm.BIOS
	case uefi >= 0:
		in.Firmware = vm.UEFI
	}
	in.BootDisk = bios
	if in.Firmware == vm.UEFI {
		in.BootDisk = uefi
	}
	// The system that boots stands first: the one whose volume is on the boot disk.
	slices.SortStableFunc(in.Roots, func(a, b Root) int {
		rank := func(r Root) int {
			if v := in.find(r.Volume); v != nil && (v.Disk == in.BootDisk || v.Disk < 0) {
				return 0
			}
			return 1
		}
		return rank(a) - rank(b)
	})
}

// rootUsesBIOS tells a system that was installed for BIOS from one for UEFI,
// where the disk has loaders for both: fstab mounts the ESP only on the latter.
func (in *inspector) rootUsesBIOS() bool {
	for _, r := range in.Roots {
		if r.Linux != nil {
			return !slices.ContainsFunc(r.Linux.Mounts, func(m Mount) bool {
				return m.Path == "/boot/efi" || m.Path == "/efi" || m.Type == "vfat" && m.Path == "/boot"
			})
		}
	}
	return false
}

func (in *Inspection) find(id string) *Volume {
	for i := range in.Volumes {
		if in.Volumes[i].ID == id {
			return &in.Volumes[i]
		}
	}
	return nil
}

// root reads the system on a volume, if one is.
func (in *inspector) root(v *Volume) {
	if v.Content == "ntfs" {
		in.windows(v)
		return
	}
	if v.driver.FoldsCase() {
		return
	}
	if b, ok := v.driver.(subvolumes); ok {
		in.subvolumes(v, b)
		return
	}
	in.system(v, vfs.NewTree(v.driver), "")
}

// subvolumes is what a btrfs is beside its top level.
type subvolumes interface {
	Default() (vfs.Driver, error)
	Subvolume(name string) (vfs.Driver, error)
}

// subvolumes looks for the system on a btrfs: in the subvolume that is mounted without
// options, then in those that distributions name so.
func (in *inspector) subvolumes(v *Volume, b subvolumes) {
	d, err := b.Default()
	if err != nil {
		in.gap("unreadable", v.ID, "its default subvolume: %v", err)
	} else if in.system(v, vfs.NewTree(d), "") {
		return
	}
	for _, name := range []string{"@", "@rootfs", "root", "@/.snapshots/1/snapshot"} {
		if d, err := b.Subvolume(name); err == nil && in.system(v, vfs.NewTree(d), name) {
			return
		}
	}
}

// system reads the system whose tree t is; it tells whether there is one.
func (in *inspector) system(v *Volume, t *vfs.Tree, subvolume string) bool {
	osr := keyValues(read(t, "/etc/os-release"))
	if len(osr) == 0 {
		osr = keyValues(read(t, "/usr/lib/os-release"))
	}
	old := read(t, "/etc/redhat-release")
	if len(osr) == 0 && old == "" && (!t.Exists("/etc/fstab") || !t.Exists("/sbin")) {
		return false
	}
	r := Root{Volume: v.ID, Subvolume: subvolume, Name: osr["PRETTY_NAME"], Linux: &Linux{Kernels: []Kernel{}}}
	r.OS = vm.GuestOS{Family: vm.Linux, Distribution: osr["ID"], Version: osr["VERSION_ID"]}
	if len(osr) == 0 && old != "" {
		oldRedHat(&r, strings.TrimSpace(old))
	}
	r.Hostname = strings.TrimSpace(firstLine(read(t, "/etc/hostname")))
	in.linux(t, v, &r)
	in.Roots = append(in.Roots, r)
	v.MountedAt = append(v.MountedAt, "/")
	return true
}

func oldRedHat(r *Root, s string) {
	r.Name = s
	r.OS.Distribution = "rhel"
	if strings.HasPrefix(s, "CentOS") {
		r.OS.Distribution = "centos"
	}
	if _, v, ok := strings.Cut(s, "release "); ok {
		r.OS.Version, _, _ = strings.Cut(v, " ")
	}
}

const maxText = 4 << 20

// read is a text file's content, "" when it cannot be read.
func read(t *vfs.Tree, name string) string {
	b, err := t.ReadFile(name, maxText)
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(string(b), "?")
}

func firstLine(s string) string { l, _, _ := strings.Cut(s, "\n"); return l }

// keyValues reads shell-like assignments: os-release, ifcfg, /etc/default.
func keyValues(s string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		k, v, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") || strings.ContainsAny(k, " \t") {
			continue
		}
		v = strings.TrimSpace(v)
		if len(v) >= 2 && (v[0] == '"' || v[0] == '\'') {
			if i := strings.LastIndexByte(v, v[0]); i > 0 {
				v = v[1:i]
			}
		} else if i := strings.Index(v, " #"); i >= 0 {
			v = strings.TrimSpace(v[:i])
		}
		m[k] = v
	}
	return m
}

// glob is the names in a folder with a suffix, as paths.
func glob(t *vfs.Tree, dir, suffix string) []string {
	names, _ := t.ReadDir(dir)
	var out []string
	for _, n := range names {
		if strings.HasSuffix(n, suffix) && len(out) < 1000 {
			out = append(out, path.Join(dir, n))
		}
	}
	return out
}
