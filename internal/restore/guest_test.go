package restore

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/appliance"
	"ascend/internal/appliance/appliancetest"
	"ascend/internal/guest"
	"ascend/internal/image"
)

// withGuest is a fixture whose backup is one disk with a small system on it.
func withGuest(t *testing.T) (*fixture, Request) {
	t.Helper()
	f := setup(t, 1, 2<<20)
	root := filepath.Join(f.dir, "root")
	for n, s := range map[string]string{"etc/fstab": "", "etc/hostname": "before\n", "etc/os-release": "ID=debian\n", "sbin/init": ""} {
		p := filepath.Join(root, n)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(s), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	raw := filepath.Join(f.dir, "raw")
	mke2fs, err := exec.LookPath("mke2fs")
	if err != nil {
		mke2fs = "/usr/sbin/mke2fs"
	}
	sh(t, mke2fs, "-q", "-t", "ext4", "-d", root, raw, "32M")
	f.files = []string{filepath.Join(filepath.Dir(f.files[0]), "guest.qcow2")}
	sh(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, f.files[0])
	r := f.request("adapted", &image.Format{Name: "qcow2"}, asFile, nil) // its length depends on what was changed
	r.Guest = &Guest{
		Inspection: &guest.Inspection{Volumes: []guest.Volume{{ID: "disk0", Content: "ext4"}}, Roots: []guest.Root{{Volume: "disk0", Hostname: "before", Linux: &guest.Linux{}}}},
		Adaptation: &guest.Adaptation{Changes: []guest.Change{{Kind: guest.SetHostname, Root: "disk0", Subject: "after", Reason: "as asked"}}},
	}
	return f, r
}

func content(t *testing.T, disk, file string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	sh(t, "qemu-img", "convert", "-O", "raw", disk, raw)
	disk = raw
	debugfs, err := exec.LookPath("debugfs")
	if err != nil {
		debugfs = "/usr/sbin/debugfs"
	}
	out, err := exec.Command(debugfs, "-R", "cat "+file, disk).Output()
	if err != nil {
		t.Fatalf("debugfs (Debian package e2fsprogs): %v", err)
	}
	return string(out)
}

func bytesOf(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestGuestIsAdapted stops the service in the middle of the adaptation and again
// in mid-transfer: what lands holds the change, and the backup is as it was.
func TestGuestIsAdapted(t *testing.T) {
	im := appliancetest.Image(t)
	f, r := withGuest(t)
	before := bytesOf(t, f.files[0])
	with := func(c *Config) {
		c.Appliance = func() (*appliance.Image, error) { return im, nil }
	}
	restart := func() {
		if err := f.s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.start(with)
		if err := f.s.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.start(with)
	r.Options = Options{Bandwidth: 512 << 10, Workers: 1, InFlight: window}
	j := f.submit(r)
	layer := filepath.Join(f.s.jobDir(j.ID), layerName(0))
	until(t, "the adaptation is under way", func() bool { _, err := os.Stat(layer); return err == nil })
	restart()
	sent := func() (n int64) {
		steps, err := f.s.Steps(t.Context(), j.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range steps {
			if s.Kind == "transfer" {
				n += s.Done
			}
		}
		return n
	}
	until(t, "the disk is under way", func() bool { return sent() > 0 })
	was := bytesOf(t, layer+".map")
	restart()
	f.wait(j.ID, Completed)
	rc := f.receipt(j.ID)
	if got := content(t, rc.Disks[0].Object, "/etc/hostname"); got != "after\n" {
		t.Errorf("landed with %q", got)
	}
	if st, err := os.Stat(rc.Disks[0].Object); err != nil || len(rc.Guest.FileSizes) != 1 || st.Size() != rc.Guest.FileSizes[0] || st.Size() == r.Plan.Disks[0].FileSize {
		t.Errorf("the file's length: %v, planned %d, %v", st, r.Plan.Disks[0].FileSize, err)
	}
	if rc.Guest == nil || len(rc.Guest.Layers) != 1 || len(rc.Guest.Changes) != 1 || len(rc.Guest.Changes[0].Files) != 1 || rc.Disks[0].Verified == "" || !rc.Guest.Changed(0) {
		t.Errorf("the receipt: %+v", rc.Guest)
	}
	if was == "" || bytesOf(t, f.files[0]) != before {
		t.Error("the backup was changed")
	}
	if _, err := os.Stat(layer); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layer is left: %v", err)
	}
}

// TestAdaptationFails has a guest whose file system is not where it should be: the job
// stops before anything is made on the target, and says why.
func TestAdaptationFails(t *testing.T) {
	im := appliancetest.Image(t)
	f, r := withGuest(t)
	if err := f.s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.start(func(c *Config) { c.Appliance = func() (*appliance.Image, error) { return im, nil } })
	r.Guest.Inspection.Roots[0].Volume = "disk0p9"
	r.Guest.Adaptation.Changes[0].Root = "disk0p9"
	before := bytesOf(t, f.files[0])
	j := f.wait(f.submit(r).ID, RolledBack)
	if !strings.Contains(j.Error, "cannot mount disk0p9") || !strings.Contains(j.Error, "--guest=off") {
		t.Errorf("%s", j.Error)
	}
	if left, err := os.ReadDir(f.out); err != nil || len(left) != 0 {
		t.Errorf("left on the target: %v, %v", left, err)
	}
	if bytesOf(t, f.files[0]) != before {
		t.Error("the backup was changed")
	}
	if _, err := os.Stat(filepath.Join(f.s.jobDir(j.ID), layerName(0))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layer is left: %v", err)
	}
}

// TestLayerLost: a layer that is not the one recorded is never sent.
func TestLayerLost(t *testing.T) {
	im := appliancetest.Image(t)
	f, r := withGuest(t)
	if err := f.s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.start(func(c *Config) { c.Appliance = func() (*appliance.Image, error) { return im, nil } })
	r.Options = Options{Bandwidth: 256 << 10, Workers: 1, InFlight: window, Keep: true}
	j := f.submit(r)
	until(t, "the disk is under way", func() bool {
		steps, err := f.s.Steps(t.Context(), j.ID)
		for _, s := range steps {
			if s.Kind == "transfer" && s.Done > 0 {
				return true
			}
		}
		return err != nil
	})
	if err := f.s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	layer := filepath.Join(f.s.jobDir(j.ID), layerName(0))
	b := []byte(bytesOf(t, layer))
	for i := range b {
		b[i] ^= 1
	}
	if err := os.WriteFile(layer, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f.start(nil)
	if err := f.s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if j := f.wait(j.ID, Failed); !strings.Contains(j.Error, "not what was recorded") {
		t.Errorf("%s", j.Error)
	}
}
