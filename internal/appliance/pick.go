package appliance

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"ascend/internal/cpio"
)

// tools are the programs of the appliance; those of wanted must be there.
var (
	wanted = []string{"lvm", "cryptsetup", "ntfs-3g", "ntfs-3g.probe", "e2fsck", "mke2fs", "xfs_repair", "btrfs", "fsck.fat"}
	handy  = []string{"mkfs.xfs", "mkfs.btrfs", "mkfs.fat", "dmsetup", "thin_check"}
)

// modules are the kernel modules of the appliance, with those they need; ones that
// the kernel has built in, or has not at all, are passed over, but for virtio.
var modules = []string{
	"virtio_pci", "virtio_blk", "virtio_console", "ext4", "xfs", "btrfs", "vfat", "nls_cp437", "nls_ascii", "nls_utf8", "nls_iso8859_1", "fuse",
	"isofs", "udf", "dm_mod", "dm_crypt", "dm_thin_pool", "dm_snapshot", "dm_raid", "aes_generic", "aesni_intel", "xts", "cbc", "sha256_generic", "sha512_generic",
	"algif_skcipher", "algif_hash", "crc32c_generic", "xxhash_generic", "blake2b_generic",
}

// picker takes what the appliance needs from a tree of unpacked packages, or from
// the root of a running system.
type picker struct {
	root string
	c    *cpio.Writer
	libs map[string]bool
}

// pick writes the initramfs and returns the kernel's path and version.
func pick(root string, w io.Writer) (kernel, version string, err error) {
	p := &picker{root: root, c: cpio.NewWriter(w), libs: map[string]bool{}}
	if kernel, version, err = p.kernel(); err != nil {
		return "", "", err
	}
	for _, d := range []string{"proc", "sys", "run", "tmp", "mnt", "etc/lvm", "root"} {
		p.c.Dir(d)
	}
	p.c.Console()
	p.c.Dir("usr/bin")
	p.c.Dir("usr/lib/x86_64-linux-gnu")
	p.c.Dir("usr/lib64")
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		p.c.Link(l, "usr/"+strings.Replace(l, "sbin", "bin", 1))
	}
	p.c.Link("usr/sbin", "bin")
	p.c.Link("etc/mtab", "/proc/self/mounts")
	for _, t := range append(slices.Clone(wanted), handy...) {
		if err := p.program(t); err != nil {
			if errors.Is(err, fs.ErrNotExist) && slices.Contains(handy, t) {
				continue
			}
			return "", "", err
		}
	}
	if err := p.modules(version); err != nil {
		return "", "", err
	}
	return kernel, version, p.c.Close()
}

// kernel is the newest kernel that has its modules.
func (p *picker) kernel() (file, version string, err error) {
	for _, base := range []string{"lib/modules", "usr/lib/modules"} {
		dirs, _ := os.ReadDir(filepath.Join(p.root, base))
		for _, d := range slices.Backward(dirs) {
			for _, f := range []string{"boot/vmlinuz-" + d.Name(), base + "/" + d.Name() + "/vmlinuz"} {
				if _, err := os.Stat(filepath.Join(p.root, f)); err == nil {
					return filepath.Join(p.root, f), d.Name(), nil
				}
			}
		}
	}
	return "", "", fmt.Errorf("cannot find a kernel with its modules below %s: %w", p.root, fs.ErrNotExist)
}

// find looks for a file in folders of the tree.
func (p *picker) find(name string, dirs ...string) (string, error) {
	for _, d := range dirs {
		f := filepath.Join(p.root, d, name)
		if _, err := os.Stat(f); err == nil {
			return f, nil
		}
	}
	return "", fmt.Errorf("cannot find %s below %s: %w", name, p.root, fs.ErrNotExist)
}

func (p *picker) program(name string) error {
	f, err := p.find(name, "usr/sbin", "usr/bin", "sbin", "bin")
	if err != nil {
		return err
	}
	b, err := os.ReadFile(f)
	if err != nil {
		return err
	}
	p.c.File("usr/bin/"+name, 0o755, b)
	return p.needs(name, b)
}

var libDirs = []string{"usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64", "usr/lib", "lib"}

// needs adds the shared libraries of a program or library (DT_NEEDED) and its
// interpreter.
func (p *picker) needs(name string, b []byte) error {
	e, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	libs, err := e.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, prog := range e.Progs {
		if prog.Type == elf.PT_INTERP {
			i, err := io.ReadAll(io.LimitReader(prog.Open(), 4096))
			if err != nil {
				return err
			}
			if err := p.lib(path.Base(strings.TrimRight(string(i), "\x00")), "usr/lib64/"); err != nil {
				return err
			}
		}
	}
	// cryptsetup and others load this one by name (pthread_cancel).
	for _, l := range append(libs, "libgcc_s.so.1") {
		if strings.HasPrefix(l, "ld-linux") {
			continue
		}
		if err := p.lib(l, "usr/lib/x86_64-linux-gnu/"); err != nil && l != "libgcc_s.so.1" {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (p *picker) lib(name, into string) error {
	if p.libs[name] {
		return nil
	}
	p.libs[name] = true
	f, err := p.find(name, libDirs...)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(f)
	if err != nil {
		return err
	}
	p.c.File(into+name, 0o755, b)
	return p.needs(name, b)
}

// modules adds the kernel modules and, for the agent, in which order each is loaded.
// The dependencies are read from the modules themselves: a package that is only
// unpacked has no modules.dep.
func (p *picker) modules(version string) error {
	base := filepath.Join(p.root, "lib/modules", version)
	if _, err := os.Stat(base); err != nil {
		base = filepath.Join(p.root, "usr/lib/modules", version)
	}
	files := map[string]string{}
	err := filepath.WalkDir(base, func(f string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, _, ok := strings.Cut(d.Name(), ".ko"); ok && d.Type().IsRegular() {
			files[strings.ReplaceAll(name, "-", "_")] = f
		}
		return nil
	})
	if err != nil {
		return err
	}
	builtin, err := os.ReadFile(filepath.Join(base, "modules.builtin"))
	if err != nil {
		return fmt.Errorf("cannot read the kernel's built-in modules: %w", err)
	}
	order := map[string][]string{}
	stored := map[string]bool{}
	var add func(name string, list []string, depth int) ([]string, error)
	add = func(name string, list []string, depth int) ([]string, error) {
		f := files[name]
		if f == "" || slices.Contains(list, name+".ko") || depth > 20 {
			return list, nil
		}
		b, err := readModule(f)
		if err != nil {
			return nil, err
		}
		deps, err := moduleNeeds(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		for _, d := range deps {
			if list, err = add(d, list, depth+1); err != nil {
				return nil, err
			}
		}
		if !stored[name] {
			stored[name] = true
			p.c.File("modules/"+name+".ko", 0o644, b)
		}
		return append(list, name+".ko"), nil
	}
	for _, m := range modules {
		list, err := add(m, nil, 0)
		if err != nil {
			return err
		}
		if list == nil && strings.HasPrefix(m, "virtio") && !bytes.Contains(bytes.ReplaceAll(builtin, []byte("-"), []byte("_")), []byte("/"+m+".ko")) {
			return fmt.Errorf("kernel %s has no module %s", version, m)
		}
		order[m] = list
	}
	b, err := json.Marshal(order)
	if err != nil {
		return err
	}
	p.c.File("modules/list.json", 0o644, b)
	return nil
}

// readModule reads a module, compressed as distributions do.
func readModule(f string) ([]byte, error) {
	b, err := os.ReadFile(f)
	if err != nil {
		return nil, err
	}
	switch path.Ext(f) {
	case ".zst":
		d, err := zstd.NewReader(nil)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return d.DecodeAll(b, nil)
	case ".gz":
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(z)
	case ".xz":
		out, err := exec.Command("xz", "-dc", f).Output() //nolint:noctx // a local file, at once
		if err != nil {
			return nil, fmt.Errorf("cannot run xz on %s: %w", f, err)
		}
		return out, nil
	}
	return b, nil
}

// moduleNeeds reads depends= and softdep=pre: of a module's .modinfo.
func moduleNeeds(b []byte) ([]string, error) {
	e, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	s := e.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no module information")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	var deps []string
	for _, kv := range strings.Split(string(info), "\x00") {
		if v, ok := strings.CutPrefix(kv, "depends="); ok && v != "" {
			deps = append(deps, strings.Split(v, ",")...)
		}
		if v, ok := strings.CutPrefix(kv, "softdep=pre:"); ok {
			pre, _, _ := strings.Cut(v, "post:")
			deps = append(deps, strings.Fields(pre)...)
		}
	}
	for i := range deps {
		deps[i] = strings.ReplaceAll(deps[i], "-", "_")
	}
	return deps, nil
}
