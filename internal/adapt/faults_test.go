package adapt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"ascend/internal/appliance/appliancetest"
	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/disk/overlay"
	"ascend/internal/guest"
	"ascend/internal/vm"
)

func sh(t *testing.T, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		name = "/usr/sbin/" + name
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s (Debian packages e2fsprogs, qemu-utils)", name, args, err, out)
	}
}

// small is a disk with nothing but an ext4 with these files.
func small(t *testing.T, size string, files map[string]string, args ...string) disk.Image {
	t.Helper()
	return image(t, smallFile(t, size, files, args...))
}

func smallFile(t *testing.T, size string, files map[string]string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	for n, s := range files {
		p := filepath.Join(dir, "tree", n)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(s), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	raw := filepath.Join(dir, "disk.raw")
	sh(t, "mke2fs", append(append([]string{"-q", "-t", "ext4", "-m", "0"}, args...), "-d", filepath.Join(dir, "tree"), raw, size)...)
	return raw
}

func image(t *testing.T, raw string) disk.Image {
	t.Helper()
	root, err := disk.OpenRoot(filepath.Dir(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	img, err := open.Disk(root, filepath.Base(raw), "raw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

var system1 = map[string]string{"etc/os-release": "ID=debian\nPRETTY_NAME=one\n", "etc/hostname": "before\n", "etc/fstab": "", "sbin/init": ""}

func with(more map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range []map[string]string{system1, more} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// TestWhatIsFound has disks that nothing or not all can be done with: the decision says
// so, and no appliance is needed to.
func TestWhatIsFound(t *testing.T) {
	kernel := map[string]string{
		"boot/vmlinuz-6.1": "kernel", "boot/initrd.img-6.1": "", "lib/modules/6.1/modules.dep": "kernel/virtio_blk.ko:\nkernel/virtio_pci.ko:\n",
		"boot/grub/grub.cfg": "menuentry 'x' {\n linux /boot/vmlinuz-6.1 root=UUID=1\n initrd /boot/initrd.img-6.1\n}\n",
	}
	luks := filepath.Join(t.TempDir(), "luks.raw")
	if err := os.WriteFile(luks, append([]byte("LUKS\xba\xbe\x00\x02"), make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.raw")
	if err := os.WriteFile(empty, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		disks []disk.Image
		codes []string
	}{
		{"no system", []disk.Image{image(t, empty)}, []string{"guest-unknown-os", "guest-no-boot-loader"}},
		{"locked, no key", []disk.Image{image(t, luks)}, []string{"guest-encrypted", "guest-unknown-os"}},
		{"a system and a locked disk", []disk.Image{small(t, "16M", with(nil)), image(t, luks)}, []string{"guest-no-kernel"}},
		{"two systems", []disk.Image{small(t, "16M", with(nil)), small(t, "16M", with(map[string]string{"etc/hostname": "other\n"}))}, []string{"guest-several-systems"}},
		{"a broken fstab", []disk.Image{small(t, "16M", with(map[string]string{"etc/fstab": "UUID=nowhere /data ext4 defaults 0 2\n/dev/sdq7 /x ext4 defaults 0 0\n\x00\xff garbage\nUUID\n"}))}, []string{"guest-fstab-missing", "guest-device-name"}},
		{"an initramfs that is none", []disk.Image{small(t, "16M", with(kernel))}, []string{"guest-kernel-unreadable"}},
		{"a full file system", []disk.Image{small(t, "4M", with(nil))}, []string{"guest-no-space"}},
		{"no inodes", []disk.Image{small(t, "64M", with(nil), "-N", "32")}, []string{"guest-no-inodes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var disks []disk.Disk
			for _, d := range c.disks {
				disks = append(disks, d)
			}
			in, err := guest.Inspect(t.Context(), disks, guest.Options{})
			if err != nil {
				t.Fatal(err)
			}
			a := guest.Decide(in, guest.Target{Platform: vm.CloudStack}, guest.Choices{Hostname: "after"})
			for _, want := range c.codes {
				if !slices.ContainsFunc(a.Findings, func(f guest.Finding) bool { return f.Code == want && f.Text != "" }) {
					t.Errorf("%s is not said: %+v", want, a.Findings)
				}
			}
			if a.Stopped() && Unfit(in, a) == "" {
				t.Errorf("carried out in spite of %+v", a.Findings)
			}
		})
	}
}

// TestDamagedDisks flips bytes of a real guest's metadata: the decision comes to an end
// with whatever it says.
func TestDamagedDisks(t *testing.T) {
	img := small(t, "16M", with(map[string]string{"etc/network/interfaces": "iface eth0 inet static\n address 192.0.2.1/24\n"}))
	b := make([]byte, img.Size())
	if _, err := img.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		x := slices.Clone(b)
		for range 1 + r.IntN(40) {
			x[r.IntN(1<<20)] ^= byte(1 << r.IntN(8)) // where ext4 keeps its tables
		}
		in, err := guest.Inspect(t.Context(), []disk.Disk{bent{img, bytes.NewReader(x)}}, guest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		a := guest.Decide(in, guest.Target{Platform: vm.CloudStack, NICs: []vm.NIC{{MAC: "02:00:00:00:00:01"}}}, guest.Choices{Hostname: "after"})
		_, _ = Unfit(in, a), Mends(a)
	}
}

// bent is a disk with other bytes.
type bent struct {
	disk.Disk
	r *bytes.Reader
}

func (b bent) ReadAt(p []byte, off int64) (int, error) { return b.r.ReadAt(p, off) }

// hostnameOf is a decision to change the host name of the system on a disk.
func hostnameOf(volume string) (*guest.Inspection, *guest.Adaptation) {
	return &guest.Inspection{Volumes: []guest.Volume{{ID: volume, Content: "ext4"}}, Roots: []guest.Root{{Volume: volume, Hostname: "before", Linux: &guest.Linux{}}}},
		&guest.Adaptation{Changes: []guest.Change{{Kind: guest.SetHostname, Root: volume, Subject: "after", Reason: "as asked"}}}
}

func over(t *testing.T, img disk.Image) *overlay.Overlay {
	t.Helper()
	o, err := overlay.Create(filepath.Join(t.TempDir(), "layer"), borrowed{img})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

type borrowed struct{ disk.Disk }

func (borrowed) Close() error { return nil }

// TestCannot has changes that fail in the middle: an immutable file, a file system
// without a free block, one whose super block is damaged.
func TestCannot(t *testing.T) {
	im := appliancetest.Image(t)
	immutable := smallFile(t, "16M", with(nil))
	sh(t, "debugfs", "-w", "-R", "set_inode_field /etc/hostname flags 0x80010", immutable)
	fill := filepath.Join(t.TempDir(), "fill")
	if err := os.WriteFile(fill, []byte(strings.Repeat("y", 32<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	rawFull := smallFile(t, "16M", with(nil))
	_ = exec.Command("/usr/sbin/debugfs", "-w", "-R", "write "+fill+" more", rawFull).Run() // ends when the disk is full
	_ = exec.Command("/usr/sbin/e2fsck", "-fy", rawFull).Run()                              // 1: it mended the counts
	rawBroken := smallFile(t, "16M", with(nil))
	f, err := os.OpenFile(rawBroken, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(make([]byte, 64<<10), 1<<11) // the group descriptors, and what follows
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, raw, says string }{
		{"immutable", immutable, "hostname"}, {"full", rawFull, "space"}, {"damaged", rawBroken, "cannot mount"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			before, err := os.ReadFile(c.raw)
			if err != nil {
				t.Fatal(err)
			}
			in, a := hostnameOf("disk0")
			_, err = Apply(t.Context(), []disk.Disk{over(t, image(t, c.raw))}, in, a, Options{Image: im})
			var failed *Failure
			if !errors.As(err, &failed) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "--guest=off") {
				t.Errorf("%v", err)
			}
			after, err := os.ReadFile(c.raw)
			if err != nil || string(before) != string(after) {
				t.Errorf("the backup was changed: %v", err)
			}
		})
	}
}

// dying is a layer that kills the appliance on the first write to it.
type dying struct {
	*overlay.Overlay
	once *sync.Once
	t    *testing.T
}

func (d dying) WriteAt(p []byte, off int64) (int, error) {
	n, err := d.Overlay.WriteAt(p, off)
	d.once.Do(func() {
		procs, _ := filepath.Glob("/proc/[0-9]*/stat")
		killed := false
		for _, p := range procs {
			b, err := os.ReadFile(p)
			name, rest, ok := strings.Cut(string(b), ") ")
			if err != nil || !ok || !strings.Contains(name, "(qemu-system") {
				continue
			}
			if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
				pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
				killed = syscall.Kill(pid, syscall.SIGKILL) == nil
			}
		}
		if !killed {
			d.t.Error("no appliance was found to kill")
		}
	})
	return n, err
}

// TestDies kills the appliance in the middle of its writing. The layer it leaves is
// like a machine that lost its power: it is adapted cleanly all the same.
func TestDies(t *testing.T) {
	im := appliancetest.Image(t)
	img := small(t, "32M", with(nil))
	o := over(t, img)
	in, a := hostnameOf("disk0")
	_, err := Apply(t.Context(), []disk.Disk{dying{o, &sync.Once{}, t}}, in, a, Options{Image: im})
	var failed *Failure
	if !errors.As(err, &failed) {
		t.Fatalf("%v", err)
	}
	seen, err := guest.Inspect(t.Context(), []disk.Disk{o}, guest.Options{})
	if err != nil || len(seen.Volumes) != 1 || seen.Volumes[0].Super == nil || !seen.Volumes[0].Super.Dirty {
		t.Fatalf("the layer is not like a crash: %+v, %v", seen, err)
	}
	if _, err := Apply(t.Context(), []disk.Disk{o}, in, a, Options{Image: im}); err != nil {
		t.Fatal(err)
	}
	sh(t, "e2fsck", "-fn", raw(t, o))
	if seen, err = guest.Inspect(t.Context(), []disk.Disk{o}, guest.Options{}); err != nil || len(seen.Roots) != 1 || seen.Roots[0].Hostname != "after" || seen.Volumes[0].Super.Dirty {
		t.Errorf("after: %+v, %v", seen, err)
	}
	if err := img.Unchanged(); err != nil {
		t.Error(fmt.Errorf("the backup: %w", err))
	}
}
