package guest

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/guest/vfs"
)

// offered is the kernels of the first boot loader configuration found, the
// default first.
func offered(t *vfs.Tree, subvolume string) ([]Kernel, string) {
	for _, p := range []string{"/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/debian/grub.cfg"} {
		cfg := read(t, p)
		if cfg == "" {
			continue
		}
		if strings.Contains(cfg, "blscfg") {
			env := keyValues(read(t, path.Dir(p)+"/grubenv"))
			if ks := blsEntries(t, "/boot/loader/entries", env["saved_entry"]); len(ks) > 0 {
				return fixBoot(t, subvolume, ks), "grub"
			}
		}
		if ks := grub(cfg, keyValues(read(t, path.Dir(p)+"/grubenv"))); len(ks) > 0 {
			return fixBoot(t, subvolume, ks), "grub"
		}
	}
	for _, p := range []string{"/boot/grub/menu.lst", "/boot/grub/grub.conf"} {
		if ks := legacyGrub(read(t, p)); len(ks) > 0 {
			return fixBoot(t, subvolume, ks), "grub-legacy"
		}
	}
	for _, p := range []string{"/boot/extlinux.conf", "/boot/extlinux/extlinux.conf", "/boot/syslinux/syslinux.cfg", "/extlinux.conf"} {
		if ks := syslinux(read(t, p)); len(ks) > 0 {
			for i := range ks { // relative to the configuration
				ks[i].Image = under(path.Dir(p), ks[i].Image)
				for j := range ks[i].Initrd {
					ks[i].Initrd[j] = under(path.Dir(p), ks[i].Initrd[j])
				}
			}
			return fixBoot(t, subvolume, ks), "extlinux"
		}
	}
	return nil, ""
}

func under(dir, p string) string {
	if strings.HasPrefix(p, "/") {
		return p
	}
	return path.Join(dir, p)
}

// fixBoot turns names relative to a separate /boot into names of the tree, and those
// that begin with the root's btrfs subvolume; an ostree prefix stays.
func fixBoot(t *vfs.Tree, subvolume string, ks []Kernel) []Kernel {
	fix := func(p string) string {
		if rest, ok := strings.CutPrefix(p, "/"+subvolume+"/"); ok && subvolume != "" {
			p = "/" + rest
		}
		if !t.Exists(p) && t.Exists("/boot"+p) {
			return "/boot" + p
		}
		return p
	}
	for i := range ks {
		ks[i].Image = fix(ks[i].Image)
		if ks[i].Version == "" {
			ks[i].Version = versionOf(ks[i].Image)
		}
		for j, p := range ks[i].Initrd {
			ks[i].Initrd[j] = fix(p)
		}
	}
	return ks
}

// grub reads the menu entries of a generated grub.cfg. It is not a shell: it
// knows what grub-mkconfig writes.
func grub(cfg string, env map[string]string) []Kernel {
	type entry struct {
		k     Kernel
		title string
		id    string
		depth []int // position in the menu and submenus
	}
	var all []entry
	var cur *entry
	def := "0"
	depth := []int{0}
	var blocks []string // kinds of open braces
	for line := range strings.Lines(cfg) {
		f := words(line)
		if len(f) == 0 {
			continue
		}
		switch f[0] {
		case "set":
			if len(f) > 1 {
				if v, ok := strings.CutPrefix(f[1], "default="); ok && v != "" {
					if strings.Contains(v, "saved_entry") {
						v = env["saved_entry"]
					} else if strings.Contains(v, "next_entry") {
						v = ""
					}
					if v != "" {
						def = v
					}
				}
			}
		case "menuentry", "submenu":
			if len(f) < 2 {
				continue
			}
			pos := slices.Clone(depth)
			depth[len(depth)-1]++
			if f[0] == "submenu" {
				depth = append(depth, 0)
				blocks = append(blocks, "submenu")
				continue
			}
			e := entry{title: f[1], depth: pos}
			for i, w := range f {
				if (w == "--id" || w == "$menuentry_id_option") && i+1 < len(f) {
					e.id = f[i+1]
				}
			}
			all = append(all, e)
			cur = &all[len(all)-1]
			blocks = append(blocks, "menuentry")
			continue
		case "linux", "linux16", "linuxefi":
			if cur != nil && len(f) > 1 && cur.k.Image == "" {
				cur.k.Image, cur.k.Options = f[1], strings.Join(f[2:], " ")
			}
		case "initrd", "initrd16", "initrdefi":
			if cur != nil {
				cur.k.Initrd = append(cur.k.Initrd, f[1:]...)
			}
		case "}":
			if n := len(blocks); n > 0 {
				if blocks[n-1] == "menuentry" {
					cur = nil
				} else if len(depth) > 1 {
					depth = depth[:len(depth)-1]
				}
				blocks = blocks[:n-1]
			}
		}
	}
	var out []Kernel
	first := -1
	last := def
	if i := strings.LastIndexByte(def, '>'); i >= 0 {
		last = def[i+1:]
	}
	for _, e := range all {
		if e.k.Image == "" {
			continue
		}
		var pos []string
		for _, n := range e.depth {
			pos = append(pos, strconv.Itoa(n))
		}
		if first < 0 && (strings.Join(pos, ">") == def || e.title == last || e.id != "" && e.id == last) {
			first = len(out)
		}
		out = append(out, e.k)
	}
	if first > 0 {
		k := out[first]
		out = slices.Insert(slices.Delete(out, first, first+1), 0, k)
	}
	return out
}

// words splits a line as a shell would, quotes kept together.
func words(line string) []string {
	var out []string
	var b strings.Builder
	quote, open := byte(0), false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				b.WriteByte(c)
			}
		case c == '\'' || c == '"':
			quote, open = c, true
		case c == '#' && b.Len() == 0 && !open:
			return out
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if b.Len() > 0 || open {
				out = append(out, b.String())
				b.Reset()
				open = false
			}
		default:
			b.WriteByte(c)
		}
	}
	if b.Len() > 0 || open {
		out = append(out, b.String())
	}
	return out
}

// blsEntries reads Boot Loader Specification entries, type 1: the saved one
// first, then by version descending.
// saved is the entry to start, its name or (systemd-boot's loader.conf) a pattern;
// of several that match the newest.
func blsEntries(t *vfs.Tree, dir, saved string) []Kernel {
	paths := glob(t, dir, ".conf")
	slices.SortFunc(paths, func(a, b string) int { return compareVersions(b, a) })
	var out []Kernel
	chosen := false
	for _, p := range paths {
		var k Kernel
		rescue := strings.Contains(p, "rescue")
		for line := range strings.Lines(read(t, p)) {
			key, v, _ := strings.Cut(strings.TrimSpace(line), " ")
			v = strings.TrimSpace(v)
			switch key {
			case "linux", "efi":
				k.Image, k.UKI = v, key == "efi"
			case "version":
				k.Version = v
			case "initrd":
				for _, w := range strings.Fields(v) {
					if !strings.HasPrefix(w, "$") {
						k.Initrd = append(k.Initrd, w)
					}
				}
			case "options":
				k.Options = strings.TrimSpace(k.Options + " " + v)
			}
		}
		switch id := strings.TrimSuffix(path.Base(p), ".conf"); {
		case k.Image == "":
		case saved != "" && matches(strings.TrimSuffix(saved, ".conf"), id) && !chosen:
			chosen = true
			out = slices.Insert(out, 0, k)
		case rescue:
			out = append(out, k)
		default:
			i := len(out)
			for i > 0 && strings.Contains(out[i-1].Image, "rescue") {
				i--
			}
			out = slices.Insert(out, i, k)
		}
	}
	return out
}

// compareVersions orders names by their numbers.
func compareVersions(a, b string) int {
	digit := func(c byte) bool { return c >= '0' && c <= '9' }
	for a != "" && b != "" {
		if digit(a[0]) && digit(b[0]) {
			i, j := 0, 0
			for i < len(a) && digit(a[i]) {
				i++
			}
			for j < len(b) && digit(b[j]) {
				j++
			}
			x, y := strings.TrimLeft(a[:i], "0"), strings.TrimLeft(b[:j], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[i:], b[j:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func legacyGrub(s string) []Kernel {
	var out []Kernel
	def := 0
	for line := range strings.Lines(s) {
		f := strings.Fields(strings.Replace(line, "default=", "default ", 1))
		if len(f) < 2 {
			continue
		}
		name := func(s string) string { // (hd0,0)/vmlinuz
			if i := strings.IndexByte(s, ')'); i >= 0 {
				return s[i+1:]
			}
			return s
		}
		for f[0] == "kernel" && len(f) > 2 && strings.HasPrefix(f[1], "--") { // --no-mem-option, --type=…
			f = slices.Delete(f, 1, 2)
		}
		switch f[0] {
		case "default":
			def, _ = strconv.Atoi(f[1])
		case "title":
			out = append(out, Kernel{})
		case "kernel":
			if n := len(out); n > 0 {
				out[n-1].Image, out[n-1].Options = name(f[1]), strings.Join(f[2:], " ")
			}
		case "initrd":
			if n := len(out); n > 0 {
				out[n-1].Initrd = []string{name(f[1])}
			}
		}
	}
	if def > 0 && def < len(out) {
		k := out[def]
		out = slices.Insert(slices.Delete(out, def, def+1), 0, k)
	}
	return slices.DeleteFunc(out, func(k Kernel) bool { return k.Image == "" })
}

func syslinux(s string) []Kernel {
	var out []Kernel
	var labels []string
	def := ""
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n := len(out)
		switch strings.ToLower(f[0]) {
		case "default":
			def = f[1]
		case "label":
			out, labels = append(out, Kernel{}), append(labels, f[1])
		case "kernel", "linux":
			if n > 0 {
				out[n-1].Image = f[1]
			}
		case "initrd":
			if n > 0 {
				out[n-1].Initrd = strings.Split(f[1], ",")
			}
		case "append":
			for _, w := range f[1:] {
				if v, ok := strings.CutPrefix(w, "initrd="); ok && n > 0 {
					out[n-1].Initrd = strings.Split(v, ",")
				}
			}
			if n > 0 {
				out[n-1].Options = strings.Join(f[1:], " ")
			}
		}
	}
	if i := slices.Index(labels, def); i > 0 {
		k := out[i]
		out = slices.Insert(slices.Delete(out, i, i+1), 0, k)
	}
	return slices.DeleteFunc(out, func(k Kernel) bool { return k.Image == "" || strings.HasSuffix(k.Image, ".c32") })
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok || err != nil && pattern == name
}
