package guest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/guest/ext"
	"ascend/internal/guest/vfs"
)

// treeOf makes an ext4 file system of files.
func treeOf(t *testing.T, files map[string]string) *vfs.Tree {
	t.Helper()
	dir := t.TempDir()
	src, img := filepath.Join(dir, "src"), filepath.Join(dir, "img")
	for name, text := range files {
		p := filepath.Join(src, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", src, img, "8M").CombinedOutput(); err != nil {
		t.Fatalf("%v (build/deps installs e2fsprogs): %s", err, out)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	f, err := ext.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return vfs.NewTree(f)
}

// TestOffered reads configurations as the distributions write them.
func TestOffered(t *testing.T) {
	for name, c := range map[string]struct {
		files  map[string]string
		loader string
		want   string // image initrd options, by entry, the default first
	}{
		"extlinux as Alpine writes it": {map[string]string{
			"boot/extlinux.conf": "DEFAULT menu.c32\nPROMPT 0\nMENU TITLE Alpine\nTIMEOUT 10\nLABEL lts\n  MENU DEFAULT\n  MENU LABEL Linux lts\n  LINUX vmlinuz-lts\n  INITRD initramfs-lts\n  APPEND root=UUID=1 rootfstype=ext4\n",
		}, "extlinux", "/boot/vmlinuz-lts /boot/initramfs-lts root=UUID=1 rootfstype=ext4"},
		"syslinux with a default that is not the first": {map[string]string{
			"boot/syslinux/syslinux.cfg": "DEFAULT two\nLABEL one\n KERNEL /boot/one\n APPEND initrd=/boot/i1,/boot/u1 a\nLABEL two\n KERNEL ../two\n APPEND b initrd=/boot/i2\nLABEL menu\n KERNEL hdt.c32\n",
		}, "extlinux", "/boot/two /boot/i2 b initrd=/boot/i2; /boot/one /boot/i1,/boot/u1 initrd=/boot/i1,/boot/u1 a"},
		"GRUB 0.97 as RHEL 6 writes it, /boot of its own": {map[string]string{
			"boot/vmlinuz-2.6.32-754.el6.x86_64": "k", "boot/initramfs-2.6.32-754.el6.x86_64.img": "i",
			"boot/grub/grub.conf": "#boot=/dev/sda\ndefault=1\ntimeout=5\nsplashimage=(hd0,0)/grub/splash.xpm.gz\ntitle old\n\troot (hd0,0)\n\tkernel /vmlinuz-old ro root=/dev/sda2\ntitle CentOS (2.6.32-754.el6.x86_64)\n\troot (hd0,0)\n\tkernel --no-mem-option (hd0,0)/vmlinuz-2.6.32-754.el6.x86_64 ro root=/dev/mapper/vg-root quiet\n\tinitrd /initramfs-2.6.32-754.el6.x86_64.img\ntitle other\n\tchainloader +1\n",
		}, "grub-legacy", "/boot/vmlinuz-2.6.32-754.el6.x86_64 /boot/initramfs-2.6.32-754.el6.x86_64.img ro root=/dev/mapper/vg-root quiet; /vmlinuz-old  ro root=/dev/sda2"},
		"BLS entries as Fedora writes them": {map[string]string{
			"boot/grub2/grub.cfg": "load_env\nset default=\"${saved_entry}\"\ninsmod blscfg\nblscfg\n", "boot/grub2/grubenv": "# GRUB Environment Block\nsaved_entry=aa-6.1.9-1\n####\n",
			"boot/loader/entries/aa-6.1.10-1.conf":  "title Fedora\nversion 6.1.10-1\nlinux /vmlinuz-6.1.10-1\ninitrd /initramfs-6.1.10-1.img $tuned_initrd\noptions root=UUID=2 ro\noptions quiet\ngrub_users $grub_users\n",
			"boot/loader/entries/aa-6.1.9-1.conf":   "version 6.1.9-1\nlinux /vmlinuz-6.1.9-1\ninitrd /initramfs-6.1.9-1.img\n",
			"boot/loader/entries/aa-0-rescue.conf":  "linux /vmlinuz-0-rescue-aa\ninitrd /initramfs-0-rescue-aa.img\n",
			"boot/loader/entries/aa-broken-1.conf":  "title without a kernel\n",
			"boot/loader/entries/aa-6.1.9-1.conf.x": "linux /not-an-entry\n", "boot/vmlinuz-6.1.9-1": "k",
		}, "grub", "/boot/vmlinuz-6.1.9-1 /initramfs-6.1.9-1.img ; /vmlinuz-6.1.10-1 /initramfs-6.1.10-1.img root=UUID=2 ro quiet; /vmlinuz-0-rescue-aa /initramfs-0-rescue-aa.img "},
		"nothing": {map[string]string{"etc/fstab": ""}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			ks, loader := offered(treeOf(t, c.files), "")
			if got := show(ks); loader != c.loader || got != c.want {
				t.Errorf("%s: %q, want %s: %q", loader, got, c.loader, c.want)
			}
		})
	}
}

func show(ks []Kernel) string {
	var out []string
	for _, k := range ks {
		out = append(out, k.Image+" "+strings.Join(k.Initrd, ",")+" "+k.Options)
	}
	return strings.Join(out, "; ")
}

// TestSystemdBoot: the default is a pattern, and of those that match the newest.
func TestSystemdBoot(t *testing.T) {
	tr := treeOf(t, map[string]string{
		"loader/entries/arch.conf":    "title Arch\nlinux /vmlinuz-linux\ninitrd /intel-ucode.img\ninitrd /initramfs-linux.img\noptions root=LABEL=a rw\n",
		"loader/entries/zz-uki.conf":  "efi /EFI/Linux/zz.efi\n",
		"loader/entries/deb-6.1.conf": "version 6.1\nlinux /deb/6.1/linux\n", "loader/entries/deb-6.10.conf": "version 6.10\nlinux /deb/6.10/linux\n",
	})
	for saved, want := range map[string]string{"deb-*": "/deb/6.10/linux", "arch.conf": "/vmlinuz-linux", "deb-6.1": "/deb/6.1/linux", "[": "/EFI/Linux/zz.efi", "": "/EFI/Linux/zz.efi"} {
		ks := blsEntries(tr, "/loader/entries", saved)
		if len(ks) != 4 || ks[0].Image != want {
			t.Errorf("%q: %s", saved, show(ks))
		}
		for _, k := range ks {
			if k.UKI != (k.Image == "/EFI/Linux/zz.efi") || k.Image == "/vmlinuz-linux" && strings.Join(k.Initrd, " ") != "/intel-ucode.img /initramfs-linux.img" {
				t.Errorf("%+v", k)
			}
		}
	}
}

// TestXFSRoot: a system on XFS is inspected like any other.
func TestXFSRoot(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	osr := write("os-release", "ID=rocky\nVERSION_ID=\"9.4\"\nPRETTY_NAME=\"Rocky Linux 9.4\"\n")
	host := write("hostname", "db01\n")
	fstab := write("fstab", "/dev/sda1 / xfs defaults 0 0\n")
	proto := write("proto", "boot\n0 0\nd--755 0 0\netc d--755 0 0\nos-release ---644 0 0 "+osr+"\nhostname ---644 0 0 "+host+"\nfstab ---644 0 0 "+fstab+"\n$\n$\n")
	img := write("img", "")
	if err := os.Truncate(img, 320<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/usr/sbin/mkfs.xfs", "-q", "-f", "-p", proto, img).CombinedOutput(); err != nil {
		t.Fatalf("%v (build/deps installs xfsprogs): %s", err, out)
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	in, err := Inspect(t.Context(), []disk.Disk{memory{b}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(in.Roots) != 1 || in.Roots[0].OS.Distribution != "rocky" || in.Roots[0].OS.Version != "9.4" || in.Roots[0].Hostname != "db01" || in.Volumes[0].Content != "xfs" || len(in.Gaps) != 0 {
		t.Errorf("%+v", in)
	}
}
