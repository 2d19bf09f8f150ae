package restore

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/appliance"
	"ascend/internal/appliance/appliancetest"
	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/guest"
	"ascend/internal/guest/winpack"
	"ascend/internal/guest/winpack/winpacktest"
	"ascend/internal/image"
	"ascend/internal/vm"
)

// TestWindowsIsAdapted restores a disk that looks like Windows 2008 R2: what lands
// holds the driver of the operator's pack, the receipt names its digest, and a
// pack that is another than the plan's stops the job.
func TestWindowsIsAdapted(t *testing.T) {
	im := appliancetest.Image(t)
	f := setup(t, 1, 2<<20)
	if err := f.s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.start(func(c *Config) { c.Appliance = func() (*appliance.Image, error) { return im, nil } })
	guests := os.Getenv("ASCEND_GUESTS")
	if guests == "" {
		guests = "/var/cache/ascend-guests"
	}
	f.files = []string{filepath.Join(filepath.Dir(f.files[0]), "win.qcow2")}
	b, err := os.ReadFile(filepath.Join(guests, "win2008r2.qcow2"))
	if err != nil {
		t.Fatalf("%v (\"make guests-ci\" builds the guests)", err)
	}
	if err := os.WriteFile(f.files[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	winpacktest.Driver(t, source, "viostor/2k8R2/amd64", "viostor", "NTamd64.6.1", "01/02/2024,100.1.2.3")
	pack, err := winpack.Open(source)
	if err != nil {
		t.Fatal(err)
	}
	defer pack.Close()
	root, err := disk.OpenRoot(filepath.Dir(f.files[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	img, err := open.Disk(root, "win.qcow2", "qcow2")
	if err != nil {
		t.Fatal(err)
	}
	in, err := guest.Inspect(t.Context(), []disk.Disk{img}, guest.Options{})
	img.Close()
	if err != nil {
		t.Fatal(err)
	}
	r := f.request("windows", &image.Format{Name: "raw"}, asFile, nil)
	r.Guest = &Guest{Inspection: in, Adaptation: guest.Decide(in, guest.Target{Platform: vm.CloudStack, Controller: vm.BusVirtioBlk, NICs: []vm.NIC{{}}}, guest.Choices{Pack: pack})}
	j := f.wait(f.submit(r).ID, Completed)
	rc := f.receipt(j.ID)
	var digest string
	for _, c := range rc.Guest.Changes {
		if c.Kind == guest.InstallDriver && c.Driver != nil && len(c.Registry) > 0 {
			digest = c.Driver.ImageFile().SHA256
		}
	}
	if digest == "" || len(rc.Guest.Files) == 0 || rc.Disks[0].Verified == "" || !rc.Guest.Changed(0) {
		t.Errorf("the receipt: %+v", rc.Guest)
	}
	part := filepath.Join(f.dir, "part")
	sh(t, "dd", "if="+rc.Disks[0].Object, "of="+part, "bs=1M", "skip=1", "count=255", "conv=sparse", "status=none")
	out, err := exec.Command("ntfscat", part, "/Windows/System32/drivers/viostor.sys").Output()
	if err != nil || string(out) != "MZ viostor/2k8R2/amd64" {
		t.Errorf("landed with %q, %v", out, err)
	}
	if bytesOf(t, f.files[0]) != string(b) {
		t.Error("the backup was changed")
	}
	winpacktest.Put(t, source, "viostor/2k8R2/amd64/viostor.sys", []byte("MZ another"))
	again := f.request("another", &image.Format{Name: "raw"}, asFile, nil)
	again.Guest = r.Guest
	j = f.wait(f.submit(again).ID, RolledBack)
	if !strings.Contains(j.Error, "is not the file that was chosen") {
		t.Errorf("%s", j.Error)
	}
}
