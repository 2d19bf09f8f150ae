package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/guest/ext"
	"ascend/internal/guest/fat"
	"ascend/internal/guest/part"
	"ascend/internal/guest/vfs"
	"ascend/internal/vm"
)

type memory struct{ b []byte }

func (m memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }
func (m memory) Close() error                            { return nil }
func (m memory) Size() int64                             { return int64(len(m.b)) }
func (m memory) Unchanged() error                        { return nil }
func (m memory) Extents(_ context.Context, off, n int64, yield func(disk.Extent) error) error {
	return yield(disk.Extent{Off: off, Len: n, Data: true})
}

func tool(t testing.TB, argv ...string) {
	t.Helper()
	c := exec.Command(argv[0], argv[1:]...)
	c.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "MTOOLS_SKIP_CHECK=1")
	if p, err := exec.LookPath("/usr/sbin/" + argv[0]); err == nil {
		c.Path, c.Err = p, nil
	}
	out, err := c.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is missing: run build/deps", argv[0])
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
}

func write(t testing.TB, root string, files map[string]string) {
	t.Helper()
	for n, s := range files {
		p := filepath.Join(root, n)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if to, ok := strings.CutPrefix(s, "-> "); ok {
			if err := os.Symlink(to, p); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(p, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func cpio(names ...string) string {
	var b strings.Builder
	for _, n := range append(names, "TRAILER!!!") {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", 1, 0o100644, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(n)+1, 0, n)
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	return b.String()
}

const rootUUID = "11111111-2222-3333-4444-555555555555"

func linuxFiles() map[string]string {
	return map[string]string{
		"usr/lib/os-release": "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n",
		"etc/os-release":     "-> ../usr/lib/os-release",
		"lib":                "-> usr/lib",
		"etc/hostname":       "web01\n",
		"etc/fstab":          "# c\nUUID=" + rootUUID + " / ext4 defaults 0 1\n/dev/sda2 /boot/efi vfat umask=0077 0 1\n",
		"boot/grub/grub.cfg": "set default=\"1\"\nmenuentry 'A' {\n linux /boot/vmlinuz-6.0 root=/dev/sda1\n initrd /boot/initrd.img-6.0\n}\nmenuentry 'B' --class x {\n\tlinux /boot/vmlinuz-6.1 root=UUID=x quiet\n\tinitrd /boot/initrd.img-6.1\n}\n",
		"boot/vmlinuz-6.0":   "x", "boot/vmlinuz-6.1": "x", "boot/initrd.img-6.0": "junk",
		"boot/initrd.img-6.1":                 cpio("scripts/functions", "usr/lib/modules/6.1/kernel/ata_piix.ko", "usr/lib/modules/6.1/kernel/sd_mod.ko"),
		"usr/lib/modules/6.1/modules.dep":     "kernel/ata_piix.ko:\nkernel/sd_mod.ko:\nkernel/vmw_pvscsi.ko.xz:\nkernel/vmxnet3.ko:\n",
		"usr/lib/modules/6.1/modules.builtin": "kernel/virtio_pci.ko\n",
		"usr/sbin/update-initramfs":           "#!/bin/sh\n",
		"usr/sbin/waagent":                    "x",
		"etc/network/interfaces":              "auto lo\niface lo inet loopback\niface ens3 inet static\n address 192.0.2.10\n netmask 255.255.255.0\n gateway 192.0.2.1\n dns-nameservers 192.0.2.53 192.0.2.54\n",
		"outside":                             "-> ../../../../etc/hostname",
		"loop":                                "-> loop",
		"big":                                 strings.Repeat("0123456789abcdef", 40000),
	}
}

// machine is a GPT disk with an ESP and an ext4 root.
func machine(t testing.TB, files map[string]string, mkfs ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	root, img := filepath.Join(dir, "root"), filepath.Join(dir, "disk")
	write(t, root, files)
	fs, esp := filepath.Join(dir, "fs"), filepath.Join(dir, "esp")
	if len(mkfs) == 0 {
		mkfs = []string{"-t", "ext4"}
	}
	tool(t, append(append([]string{"mke2fs"}, mkfs...), "-q", "-F", "-U", rootUUID, "-d", root, fs, "16M")...)
	if err := os.WriteFile(esp, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.fat", "-F", "12", "-i", "ABCD1234", esp)
	tool(t, "mmd", "-i", esp, "::EFI", "::EFI/debian")
	shim := filepath.Join(dir, "shimx64-with-a-long-name.efi")
	write(t, dir, map[string]string{"shimx64-with-a-long-name.efi": strings.Repeat("MZ", 5000)})
	tool(t, "mcopy", "-i", esp, shim, "::EFI/debian/")
	out := make([]byte, 24<<20)
	if err := os.WriteFile(img, out, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "sgdisk", "-n1:2048:+16M", "-t1:8300", "-n2:0:+4M", "-t2:ef00", img)
	out, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	tb, err := part.Read(bytes.NewReader(out), int64(len(out)))
	if err != nil || len(tb.Partitions) != 2 || tb.Partitions[1].Kind != part.ESP {
		t.Fatalf("%+v, %v", tb, err)
	}
	for i, f := range []string{fs, esp} {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		copy(out[tb.Partitions[i].Start:], b)
	}
	return out
}

func TestInspectLinux(t *testing.T) {
	for _, mkfs := range [][]string{{"-t", "ext4"}, {"-t", "ext2", "-b", "1024"}, {"-t", "ext4", "-b", "4096", "-O", "64bit,metadata_csum,meta_bg,^resize_inode"}} {
		t.Run(strings.Join(mkfs, " "), func(t *testing.T) {
			img := machine(t, linuxFiles(), mkfs...)
			in, err := Inspect(context.Background(), []disk.Disk{memory{make([]byte, 1<<20)}, memory{img}}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if in.BootDisk != 1 || in.Firmware != vm.UEFI || in.ESP == nil || in.ESP.Fallback || len(in.Roots) != 1 {
				t.Fatalf("%+v", in)
			}
			r := in.Roots[0]
			if r.OS.Distribution != "debian" || r.Hostname != "web01" || r.Volume != "disk1p1" {
				t.Errorf("%+v", r)
			}
			k := r.Linux.Kernels[0]
			if len(r.Linux.Kernels) != 2 || k.Version != "6.1" || k.Generator != "initramfs-tools" || k.ModuleDir != "usr/lib/modules" {
				t.Fatalf("%+v", r.Linux.Kernels)
			}
			for m, w := range map[string]Where{"virtio_pci": Builtin, "sd_mod": InInitrd, "vmw_pvscsi": OnDisk, "mptsas": Missing} {
				if k.Drivers[m] != w {
					t.Errorf("%s is %s", m, k.Drivers[m])
				}
			}
			if r.Linux.Kernels[1].Problem == "" {
				t.Error("a broken initramfs is not reported")
			}
			i := r.Interfaces[0]
			if i.Addresses[0] != "192.0.2.10/24" || i.Gateways[0] != "192.0.2.1" || len(i.DNS) != 2 || len(r.Agents) != 1 {
				t.Errorf("%+v %+v", i, r.Agents)
			}
			v := in.find("disk1p1")
			tr := vfs.NewTree(v.driver)
			if s := read(tr, "/outside"); s != "web01\n" {
				t.Errorf("a link above the root reads %q", s)
			}
			if tr.Exists("/loop") {
				t.Error("a link to itself leads somewhere")
			}
			if s := read(tr, "/big"); s != linuxFiles()["big"] {
				t.Error("a large file reads otherwise")
			}
		})
	}
}

// Cut and bent images end in errors or gaps, never in a panic.
func TestInspectHostile(t *testing.T) {
	img := machine(t, linuxFiles())
	for _, n := range []int{0, 511, 512, 1 << 20, 1<<20 + 2048, 9 << 20} {
		if _, err := Inspect(context.Background(), []disk.Disk{memory{img[:n]}}, Options{}); err != nil {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for i := range 100 {
		b := bytes.Clone(img)
		at := 1<<20 + (i*28019)%(1<<18)
		for j := range 16 {
			b[at+j] ^= byte(0xff >> (j % 8))
		}
		if _, err := Inspect(context.Background(), []disk.Disk{memory{b}}, Options{}); err != nil {
			t.Errorf("bent at %d: %v", at, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Inspect(ctx, []disk.Disk{memory{img}}, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	broken := bytes.Clone(img)
	clear(broken[512:4096]) // the primary GPT
	in, err := Inspect(context.Background(), []disk.Disk{memory{broken}}, Options{})
	if err != nil || len(in.Roots) != 1 || len(in.Disks[0].Notes) == 0 {
		t.Errorf("the backup GPT is not used: %+v, %v", in, err)
	}
}

func walkAll(d vfs.Driver) {
	n := 0
	var walk func(vfs.Node, int)
	walk = func(x vfs.Node, depth int) {
		if n++; n > 200 || depth > 8 {
			return
		}
		_, _ = x.Link()
		if r, err := x.Data(); err == nil && x.Stat().Mode.IsRegular() {
			_, _ = io.Copy(io.Discard, io.NewSectionReader(r, 0, min(x.Stat().Size, 1<<16)))
		}
		es, _ := x.List()
		for _, e := range es[:min(len(es), 50)] {
			if c, err := e.Open(); err == nil {
				walk(c, depth+1)
			}
		}
	}
	if r, err := d.Root(); err == nil {
		walk(r, 0)
	}
}

func FuzzVolumes(f *testing.F) {
	img := machine(f, map[string]string{"a/b": "x", "l": "-> a"}, "-t", "ext2", "-b", "1024", "-N", "16")
	f.Add(img[1<<20 : 1<<20+128<<10])
	f.Add(img[17<<20 : 17<<20+64<<10])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, n := bytes.NewReader(b), int64(len(b))
		if d, err := ext.Open(r, n); err == nil {
			walkAll(d)
		}
		if d, err := fat.Open(r, n); err == nil {
			walkAll(d)
		}
		_, _ = part.Read(r, n)
		sniff(r, n)
	})
}
