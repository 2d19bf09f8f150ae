package restore

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"ascend/internal/awsapi"
	"ascend/internal/boot"
	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/guest"
	"ascend/internal/secret"
	"ascend/internal/target/aws/awssim"
	"ascend/internal/vm"
)

// TestSnapshotBootsOnNVMe restores the Debian guest, which stood on an IDE disk, to
// AWS. What landed in the snapshot is read by GetSnapshotBlock into a raw file, which
// comes up on NVMe, as the inspection said.
func TestSnapshotBootsOnNVMe(t *testing.T) {
	t.Parallel()
	f := setup(t, 1, diskSize)
	dir := os.Getenv("ASCEND_GUESTS")
	if dir == "" {
		dir = "/var/cache/ascend-guests"
	}
	f.files = []string{filepath.Join(dir, "debian.qcow2")}
	src, err := openFiles(t.Context(), SourceRef{Files: f.files})
	if err != nil {
		t.Fatalf("%v (\"make guests-ci\" builds the guests)", err)
	}
	defer src.Close()
	img, err := src.OpenDisk(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	in, err := guest.Inspect(t.Context(), []disk.Disk{img}, guest.Options{Firmware: vm.BIOS})
	if err != nil {
		t.Fatal(err)
	}
	a := guest.Decide(in, guest.Target{Platform: vm.AWS, Firmware: vm.BIOS, Controller: vm.BusNVMe, NIC: vm.ENA}, guest.Choices{})
	if a.Boot.Verdict != guest.Boots {
		t.Fatalf("%+v", a.Boot)
	}
	sim, ask := onAWS(t, f)
	j := f.submit(f.request("debian", nil, "", ask))
	f.wait(j.ID, Completed)
	rc := f.receipt(j.ID)
	raw := filepath.Join(f.dir, "landed.raw")
	readSnapshot(t, sim, rc.Disks[0].Object, rc.Disks[0].Virtual, raw)
	root, err := disk.OpenRoot(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	landed, err := open.Disk(root, filepath.Base(raw), "raw")
	if err != nil {
		t.Fatal(err)
	}
	defer landed.Close()
	if err := CheckDigest(t.Context(), landed, rc.Disks[0].Virtual, rc.Disks[0], nil); err != nil {
		t.Errorf("what was read back: %v", err)
	}
	res, err := boot.Prove(t.Context(), boot.Request{Disks: []disk.Disk{landed}, Platform: vm.AWS, Firmware: vm.BIOS, Until: boot.Root})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("boot: %.0f s, %.0f s of processor time", res.Seconds, res.CPU)
	if res.Hardware.Storage != vm.BusNVMe || res.Grade != boot.C || !res.Milestone.Reached(boot.Root) || res.Reads == 0 || res.Failure != "" {
		t.Errorf("%+v", res)
	}
}

// readSnapshot writes a snapshot into a sparse file, block by block as EBS serves it.
func readSnapshot(t *testing.T, sim *awssim.Sim, id string, size int64, file string) {
	t.Helper()
	c, err := awsapi.New(t.Context(), awsapi.Config{Region: "eu-central-1", Endpoint: sim.URL, AccessKey: awssim.AccessKey, SecretKey: secret.New(awssim.SecretKey)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.OpenSnapshot(t.Context(), id, size)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Extents(t.Context(), 0, s.Size(), func(e disk.Extent) error {
		if !e.Data {
			return nil
		}
		if _, err := out.Seek(e.Off, io.SeekStart); err != nil {
			return err
		}
		_, err := io.Copy(out, io.NewSectionReader(s, e.Off, e.Len))
		return err
	})
	if err == nil {
		err = out.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestProofHardware: a job's own boot proof is on the target's storage where QEMU
// has a model of it.
func TestProofHardware(t *testing.T) {
	for p, want := range map[vm.Platform]boot.Hardware{
		vm.AWS:    {Storage: vm.BusNVMe, NIC: vm.E1000E},
		vm.Azure:  {Storage: vm.BusIDE, NIC: vm.E1000},
		vm.HyperV: {Storage: vm.BusIDE, NIC: vm.E1000},
		vm.VMware: {Storage: vm.BusPVSCSI, NIC: vm.VMXNET3},
	} {
		q := boot.Request{Platform: p, Firmware: vm.BIOS, Storage: vm.BusPVSCSI, NIC: vm.VMXNET3}
		onModels(&q)
		h, err := boot.HardwareFor(q.Platform, q.Firmware, q.Storage, q.NIC)
		if err != nil || h.Storage != want.Storage || h.NIC != want.NIC {
			t.Errorf("%s: %+v, %v", p, h, err)
		}
	}
}
