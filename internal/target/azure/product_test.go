package azure

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/target/azure/armsim"
	"ascend/internal/target/targettest"
)

// A restore by the product, killed in the middle and run again: little is sent
// twice, the file that landed is one that others read as the disk, nothing
// secret is left anywhere, and undoing leaves nothing.
func TestProduct(t *testing.T) {
	s := newSim(t, armsim.Options{})
	p := targettest.NewProduct(t, s.settings())
	p.Run("target", "validate", "az")
	p.Run("target", "inventory", "az")
	const data, size = 40 * mib, 64*mib + 512*37
	raw := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(raw[:data])
	_, _ = rand.NewChaCha8([32]byte{8}).Read(raw[size-5000:])
	src := filepath.Join(p.Dir, "disk.raw")
	if err := os.WriteFile(src, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	restore := []string{"restore", src, "-f", "raw", "--cpus", "2", "--memory", "4G", "--firmware", "bios", "--name", "web 01", "--to", "az", "--accept",
		"--place", "vm_size=Standard_D2s_v5", "--place", "network=" + armsim.OtherGroup + "/" + armsim.Network + "/" + armsim.Subnet,
		"--receipt", p.ReceiptFile(), "--keep", "-m", "4"}
	p.Kill(func() bool { _, n := s.Puts(); return n > 8*mib }, restore...)
	_, before := s.Puts()
	if before >= data {
		t.Fatalf("all %d bytes were sent before the kill", before)
	}
	p.Run(restore...)
	_, sent := s.Puts()
	// 4 workers of at most 4 MiB were under way.
	const window = 16 * mib
	if again := sent - data - 65536 - footerSize; again > window {
		t.Errorf("%d bytes were sent twice; at most %d were under way", again, window)
	}
	receipt := p.Receipt()
	if len(receipt.Disks) != 1 || receipt.Disks[0].Verified != verdict {
		t.Fatalf("%+v", receipt)
	}
	file, err := s.Disk(receipt.Disks[0].Object)
	if err != nil {
		t.Fatal(err)
	}
	azureFile(t, p.Dir, file, raw)
	if m := s.Machine(receipt.VM.ID); m == nil || m.Name != "web-01" || m.Power != "deallocated" {
		t.Errorf("%+v", m)
	}
	p.Run("verify", p.ReceiptFile())
	p.Run("undo", receipt.Job)
	if left := s.Inventory(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	p.Run("jobs", "logs", receipt.Job)
	p.Run("jobs", "show", receipt.Job, "--json")
	wrong := s.settings("client_secret", "another-secret-that-is-wrong")
	wrong.Name = "wrong"
	p.Add(wrong)
	out, err := p.Try("target", "validate", "wrong")
	if err == nil || !strings.Contains(out, "AADSTS") {
		t.Errorf("a wrong secret: %v: %s", err, out)
	}
	p.NothingSecret("sig=", "simulated.")
}

// azureFile holds a file to Azure's rules and has qemu-img read it.
func azureFile(t testing.TB, dir string, file, raw []byte) {
	t.Helper()
	if (len(file)-footerSize)%mib != 0 {
		t.Errorf("the file has %d bytes: not whole MiB and a footer", len(file))
	}
	footerOf(t, file)
	vhd, want := filepath.Join(dir, "landed.vhd"), filepath.Join(dir, "want.raw")
	padded := append(append([]byte{}, raw...), make([]byte, len(file)-footerSize-len(raw))...)
	for name, b := range map[string][]byte{vhd: file, want: padded} {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), "vhdiinfo", vhd).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("Fixed")) || !bytes.Contains(out, fmt.Appendf(nil, "(%d bytes)", len(file)-footerSize)) {
		t.Errorf("vhdiinfo (Debian package libvhdi-utils): %v: %s", err, out)
	}
	// qemu-img check knows no checks for this format.
	for _, args := range [][]string{{"info", "-f", "vpc", "--output=json", vhd}, {"compare", "-s", "-f", "vpc", "-F", "raw", vhd, want}} {
		out, err := exec.CommandContext(t.Context(), "qemu-img", args...).CombinedOutput()
		if err != nil {
			t.Errorf("qemu-img %v: %v: %s", args, err, out)
		}
		if args[0] == "info" && !bytes.Contains(out, fmt.Appendf(nil, `"virtual-size": %d`, len(file)-footerSize)) {
			t.Errorf("qemu-img info: %s", out)
		}
	}
}

// footerOf holds every byte of a file's footer to "Hard Disk Footer Format" and to
// what Azure asks of it ("Prepare a Windows VHD or VHDX to upload to Azure"): a fixed
// disk whose size, and not whose geometry, counts, without a saved state. Only the
// identifier is free.
func footerOf(t testing.TB, file []byte) {
	t.Helper()
	got := file[len(file)-footerSize:]
	be := binary.BigEndian
	size := uint64(len(file) - footerSize)
	want := append([]byte("conectix"), make([]byte, footerSize-8)...)
	be.PutUint32(want[8:], 2)                   // features: reserved, always set
	be.PutUint32(want[12:], 0x00010000)         // version
	be.PutUint64(want[16:], 0xffffffffffffffff) // no further header: fixed
	copy(want[28:], "win ")
	be.PutUint32(want[32:], 0x000a0000)
	copy(want[36:], "Wi2k")
	be.PutUint64(want[40:], size)
	be.PutUint64(want[48:], size)
	// "CHS Calculation", literally, for disks of less than 504 MiB.
	sectors := size / 512
	perTrack, heads := uint64(17), uint64(0)
	tracks := sectors / perTrack
	if heads = (tracks + 1023) / 1024; heads < 4 {
		heads = 4
	}
	if tracks >= heads*1024 || heads > 16 {
		perTrack, heads = 31, 16
		tracks = sectors / perTrack
	}
	be.PutUint16(want[56:], uint16(tracks/heads))
	want[58], want[59] = byte(heads), byte(perTrack)
	be.PutUint32(want[60:], 2) // fixed
	copy(want[68:84], got[68:84])
	sum := uint32(0)
	for _, b := range want {
		sum += uint32(b)
	}
	be.PutUint32(want[64:], ^sum)
	if !bytes.Equal(got, want) {
		t.Errorf("the footer is\n% x, and not\n% x", got, want)
	}
	if bytes.Equal(got[68:84], make([]byte, 16)) {
		t.Error("the disk has no identifier")
	}
}
