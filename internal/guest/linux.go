package guest

import (
	"debug/elf"
	"errors"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"ascend/internal/guest/initrd"
	"ascend/internal/guest/kmod"
	"ascend/internal/guest/vfs"
	"ascend/internal/vm"
)

// linux fills in what is known of the Linux system whose root is t.
func (in *inspector) linux(t *vfs.Tree, root *Volume, r *Root) {
	l := r.Linux
	in.containers(t)
	in.fstab(t, root, l)
	in.crypttab(t, l)
	l.EncryptedRoot = l.EncryptedRoot || in.encrypted(root)
	r.OS.Arch = arch(t)
	switch {
	case t.Exists("/lib/systemd/systemd"), t.Exists("/usr/lib/systemd/systemd"):
		l.Init = "systemd"
	case t.Exists("/sbin/openrc"):
		l.Init = "openrc"
	case t.Exists("/etc/inittab"):
		l.Init = "sysvinit"
	}
	for _, x := range [][2]string{
		{"/usr/sbin/update-initramfs", "initramfs-tools"}, {"/usr/bin/dracut", "dracut"}, {"/usr/sbin/dracut", "dracut"}, {"/sbin/dracut", "dracut"},
		{"/usr/bin/mkinitcpio", "mkinitcpio"}, {"/sbin/mkinitfs", "mkinitfs"}, {"/usr/bin/booster", "booster"}, {"/sbin/mkinitrd", "mkinitrd"},
	} {
		if l.InitramfsTool == "" && t.Exists(x[0]) {
			l.InitramfsTool = x[1]
		}
	}
	if s := keyValues(read(t, "/etc/selinux/config"))["SELINUX"]; s != "" {
		l.SELinux = s
	}
	l.LVMDevices = t.Exists("/etc/lvm/devices/system.devices")
	l.PersistentNet = strings.Contains(read(t, "/etc/udev/rules.d/70-persistent-net.rules"), "NAME=")
	l.Pins = pins(t)
	in.kernels(t, r)
	network(t, r)
	agents(t, r)
}

var unstable = regexp.MustCompile(`/dev/((?:[shv]d|xvd)[a-z]+\d*|nvme\d+n\d+(?:p\d+)?|mmcblk\d+(?:p\d+)?)\b`)

// byName resolves a name like /dev/sda1: names of the source in its disks'
// order, which is how it was when the file was written, as far as one can tell.
func (in *inspector) byName(name string) *Volume {
	m := regexp.MustCompile(`^/dev/(?:(?:[shv]d|xvd)([a-z])(\d*)|nvme(\d+)n1(?:p(\d+))?)$`).FindStringSubmatch(name)
	if m == nil {
		return nil
	}
	d, p := 0, m[2]
	if m[1] != "" {
		d = int(m[1][0] - 'a')
	} else {
		d, p = int(m[3][0]-'0'), m[4]
	}
	for i := range in.Volumes {
		v := &in.Volumes[i]
		if v.Disk == d && (p == "" && v.Partition == 0 || p != "" && v.ID == "disk"+string(rune('0'+d%10))+"p"+p && d < 10) {
			return v
		}
	}
	return nil
}

// resolve finds the volume that a mount's first field means.
func (in *inspector) resolve(spec string) *Volume {
	k, val, tagged := strings.Cut(spec, "=")
	val = strings.Trim(val, `"'`)
	for _, x := range [][2]string{{"/dev/disk/by-uuid/", "UUID"}, {"/dev/disk/by-label/", "LABEL"}, {"/dev/disk/by-partuuid/", "PARTUUID"}} {
		if s, ok := strings.CutPrefix(spec, x[0]); ok {
			k, val, tagged = x[1], s, true
		}
	}
	for i := range in.Volumes {
		v := &in.Volumes[i]
		switch {
		case tagged && k == "UUID" && v.UUID != "" && strings.EqualFold(v.UUID, val),
			tagged && k == "PARTUUID" && v.PartUUID != "" && strings.EqualFold(v.PartUUID, val),
			tagged && k == "LABEL" && v.Super != nil && v.Super.Label != "" && v.Super.Label == val:
			return v
		}
		if name, ok := strings.CutPrefix(spec, "/dev/mapper/"); ok && v.Unlocks != "" && (v.ID == name || v.ID == Unlocked(in.mapped[name])) {
			return v
		}
		if vg, lv, ok := strings.Cut(v.ID, "/"); ok {
			esc := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
			if spec == "/dev/"+v.ID || spec == "/dev/mapper/"+esc(vg)+"-"+esc(lv) {
				return v
			}
		}
	}
	if tagged {
		return nil
	}
	return in.byName(spec)
}

func (in *inspector) device(l *Linux, file, name string) {
	d := Device{File: file, Name: name}
	if v := in.byName(name); v != nil {
		d.Volume, d.UUID = v.ID, v.UUID
	}
	if !slices.Contains(l.DeviceNames, d) && len(l.DeviceNames) < 200 {
		l.DeviceNames = append(l.DeviceNames, d)
	}
}

func (in *inspector) fstab(t *vfs.Tree, root *Volume, l *Linux) {
	for line := range strings.Lines(read(t, "/etc/fstab")) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") || len(l.Mounts) >= 500 {
			continue
		}
		m := Mount{Spec: f[0], Path: f[1], Type: f[2]}
		if len(f) > 3 {
			m.Options = f[3]
		}
		v := in.resolve(m.Spec)
		if v != nil {
			m.Volume = v.ID
		}
		if unstable.MatchString(m.Spec) {
			in.device(l, "/etc/fstab", m.Spec)
		}
		l.Mounts = append(l.Mounts, m)
	}
	// Parents are mounted before what lies below them.
	ms := slices.Clone(l.Mounts)
	slices.SortStableFunc(ms, func(a, b Mount) int { return len(a.Path) - len(b.Path) })
	for _, m := range ms {
		v := in.find(m.Volume)
		if v == nil || v == root && v.Content != "btrfs" || !strings.HasPrefix(m.Path, "/") || m.Path == "/" {
			continue
		}
		if b, ok := v.driver.(subvolumes); ok {
			if d, err := mounted(b, m.Options); err == nil {
				t.Mount(m.Path, d)
			}
			continue
		}
		v.MountedAt = append(v.MountedAt, m.Path)
		if v.driver != nil {
			t.Mount(m.Path, v.driver)
		}
	}
}

// mounted is what a btrfs shows where it is mounted with options.
func mounted(b subvolumes, options string) (vfs.Driver, error) {
	for _, o := range strings.Split(options, ",") {
		if name, ok := strings.CutPrefix(o, "subvol="); ok {
			return b.Subvolume(strings.Trim(name, "/"))
		}
	}
	return b.Default()
}

func (in *inspector) crypttab(t *vfs.Tree, l *Linux) {
	for line := range strings.Lines(read(t, "/etc/crypttab")) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		if unstable.MatchString(f[1]) {
			in.device(l, "/etc/crypttab", f[1])
		}
		for _, m := range l.Mounts {
			if m.Path == "/" && strings.HasPrefix(m.Spec, "/dev/mapper/"+f[0]) {
				l.EncryptedRoot = true
			}
		}
	}
}

// containers learns the names that crypttab gives to LUKS containers.
func (in *inspector) containers(t *vfs.Tree) {
	in.mapped = map[string]string{}
	for line := range strings.Lines(read(t, "/etc/crypttab")) {
		if f := strings.Fields(line); len(f) >= 2 && !strings.HasPrefix(f[0], "#") {
			if v := in.resolve(f[1]); v != nil {
				in.mapped[f[0]] = v.UUID
			}
		}
	}
}

// encrypted tells whether a volume lies in a LUKS container that was opened, itself
// or as a logical volume: those of a container of their own are told by the only one.
func (in *inspector) encrypted(v *Volume) bool {
	if v.Unlocks != "" {
		return true
	}
	return v.Disk < 0 && slices.ContainsFunc(in.Volumes, func(x Volume) bool { return x.Unlocks != "" && x.Content == "lvm2" })
}

// arch tells the processor of the system's first program.
func arch(t *vfs.Tree) vm.Arch {
	for _, p := range []string{"/sbin/init", "/usr/lib/systemd/systemd", "/bin/sh", "/bin/busybox"} {
		f, err := t.Open(p)
		if err != nil {
			continue
		}
		e, err := elf.NewFile(f)
		if err != nil {
			continue
		}
		switch e.Machine { //nolint:exhaustive // others are not known to us
		case elf.EM_X86_64:
			return vm.AMD64
		case elf.EM_386:
			return vm.I386
		case elf.EM_AARCH64:
			return vm.ARM64
		}
	}
	return ""
}

// kernels finds what the boot loader offers and looks into each.
func (in *inspector) kernels(t *vfs.Tree, r *Root) {
	l := r.Linux
	var found []Kernel
	found, l.BootLoader = offered(t, r.Subvolume)
	if in.ESP != nil {
		if v := in.find(in.ESP.Volume); v != nil && v.driver != nil {
			for _, u := range in.ESP.UKIs {
				found = append(found, Kernel{Image: u, UKI: true, Version: versionOf(u)})
			}
			if len(found) == 0 || in.ESP.SysdBoot {
				et := vfs.NewTree(v.driver)
				def := ""
				for line := range strings.Lines(read(et, "/loader/loader.conf")) {
					if f := strings.Fields(line); len(f) == 2 && f[0] == "default" {
						def = f[1]
					}
				}
				ks := blsEntries(et, "/loader/entries", def)
				if len(ks) > 0 {
					l.BootLoader = "systemd-boot"
					mount := "/boot/efi"
					if len(v.MountedAt) > 0 {
						mount = v.MountedAt[0]
					}
					t.Mount(mount, v.driver)
					for i := range ks {
						ks[i].Image = path.Join(mount, ks[i].Image)
						for j := range ks[i].Initrd {
							ks[i].Initrd[j] = path.Join(mount, ks[i].Initrd[j])
						}
					}
					found = append(found, ks...)
				}
			}
		}
	}
	if len(found) == 0 {
		for _, p := range glob(t, "/boot", "") {
			if b := path.Base(p); strings.HasPrefix(b, "vmlinuz-") && !strings.Contains(b, "rescue") {
				found = append(found, Kernel{Image: p, Version: versionOf(p), Initrd: guessInitrd(t, versionOf(p))})
			}
		}
		slices.Reverse(found) // the newest first, roughly
	}
	seen := map[string]bool{}
	cache := map[string]*initrd.Archive{}
	for _, k := range found {
		key := k.Image + "\x00" + strings.Join(k.Initrd, "\x00")
		if seen[key] || len(l.Kernels) >= 32 || in.ctx.Err() != nil {
			continue
		}
		seen[key] = true
		k.Default = len(l.Kernels) == 0
		in.look(t, &k, cache)
		for _, n := range unstable.FindAllString(k.Options, 8) {
			in.device(l, "boot loader", n)
		}
		l.Kernels = append(l.Kernels, k)
	}
	for _, p := range []string{"/etc/default/grub", "/etc/kernel/cmdline", "/etc/initramfs-tools/conf.d/resume"} {
		for line := range strings.Lines(read(t, p)) {
			if !strings.HasPrefix(strings.TrimSpace(line), "#") {
				for _, n := range unstable.FindAllString(line, 8) {
					in.device(l, p, n)
				}
			}
		}
	}
}

func versionOf(image string) string {
	b := strings.TrimSuffix(path.Base(image), ".efi")
	for _, p := range []string{"vmlinuz-", "vmlinux-", "linux-", "kernel-", "Image-"} {
		if s, ok := strings.CutPrefix(b, p); ok {
			return s
		}
	}
	return ""
}

func guessInitrd(t *vfs.Tree, kv string) []string {
	for _, p := range []string{"/boot/initrd.img-" + kv, "/boot/initramfs-" + kv + ".img", "/boot/initrd-" + kv, "/boot/initramfs-" + kv} {
		if t.Exists(p) {
			return []string{p}
		}
	}
	return nil
}

// look finds where a kernel has each module of the matrix.
func (in *inspector) look(t *vfs.Tree, k *Kernel, cache map[string]*initrd.Archive) {
	k.Drivers = map[string]Where{}
	problem := func(s string) {
		if k.Problem == "" {
			k.Problem = s
		}
	}
	if k.Version == "" || !t.Exists("/lib/modules/"+k.Version) {
		if v := in.versionByInitrd(t, k, cache); v != "" {
			k.Version = v
		}
	}
	if !k.UKI && !t.Exists(k.Image) {
		problem("the kernel image is not there")
	}
	have := map[string]string{}
	for _, p := range k.Initrd {
		a, err := openInitrd(t, p, cache)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				problem("its initramfs is not there: " + p)
			} else {
				problem("its initramfs cannot be read: " + err.Error())
			}
			continue
		}
		for n, at := range a.Modules {
			have[n] = at
		}
		if a.Generator != "" {
			k.Generator = a.Generator
		}
		if a.ModuleDir != "" {
			k.ModuleDir = a.ModuleDir
		}
		k.Segments = append(k.Segments, a.Segments...)
	}
	if k.UKI {
		problem("unified kernel image: its initramfs is inside the signed program")
	}
	base := "/lib/modules/" + k.Version
	dep, err := t.ReadFile(base+"/modules.dep", 16<<20)
	if k.Version == "" || err != nil {
		problem("no modules.dep for version " + k.Version)
	}
	x := kmod.Parse(string(dep), read(t, base+"/modules.builtin"))
	for _, m := range matrixModules() {
		switch {
		case x.Builtin[m]:
			k.Drivers[m] = Builtin
		case have[m] != "":
			k.Drivers[m] = InInitrd
		case x.Path[m] != "":
			k.Drivers[m] = OnDisk
		default:
			k.Drivers[m] = Missing
		}
	}
}

func (in *inspector) versionByInitrd(t *vfs.Tree, k *Kernel, cache map[string]*initrd.Archive) string {
	for _, p := range k.Initrd {
		if a, err := openInitrd(t, p, cache); err == nil && len(a.Kernels) == 1 {
			return a.Kernels[0]
		}
	}
	if vs, _ := t.ReadDir("/lib/modules"); len(vs) == 1 {
		return vs[0]
	}
	return ""
}

func openInitrd(t *vfs.Tree, p string, cache map[string]*initrd.Archive) (*initrd.Archive, error) {
	at, err := t.Resolve(p)
	if err != nil {
		return nil, err
	}
	if a, ok := cache[at]; ok {
		return a, nil
	}
	f, err := t.Open(p)
	if err != nil {
		return nil, err
	}
	a, err := initrd.Parse(f, f.Size)
	if err == nil {
		cache[at] = a
	}
	return a, err
}
