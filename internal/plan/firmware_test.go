package plan

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ascend/internal/vm"
)

// TestFirmwareOfRealTables lets sgdisk make the tables.
func TestFirmwareOfRealTables(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want vm.Firmware
	}{
		"esp":    {[]string{"-n1::+1M", "-t1:ef00", "-n2", "-t2:8300"}, vm.UEFI},
		"grub":   {[]string{"-n1::+1M", "-t1:ef02", "-n2", "-t2:8300"}, vm.BIOS},
		"hybrid": {[]string{"-n1::+1M", "-t1:ef02", "-n2::+1M", "-t2:ef00", "-n3", "-t3:8300"}, ""},
		"data":   {[]string{"-n1", "-t1:8300"}, ""},
	} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, make([]byte, 16<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("sgdisk", append(c.args, path)...).CombinedOutput(); err != nil {
			t.Fatalf("sgdisk (Debian package gdisk): %v: %s", err, out)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := firmwareOf(f); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		f.Close()
	}
	mbr := make([]byte, 512)
	mbr[510], mbr[511] = 0x55, 0xaa
	if got := firmwareOf(bytes.NewReader(mbr)); got != "" {
		t.Errorf("an empty MBR: %q", got)
	}
	mbr[0] = 0xeb
	if got := firmwareOf(bytes.NewReader(mbr)); got != vm.BIOS {
		t.Errorf("an MBR with boot code: %q", got)
	}
	if got := firmwareOf(bytes.NewReader(nil)); got != "" {
		t.Errorf("no disk: %q", got)
	}
}

func FuzzFirmware(f *testing.F) {
	b := make([]byte, 4096)
	b[510], b[511] = 0x55, 0xaa
	f.Add(b)
	copy(b[512:], "EFI PART")
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) { firmwareOf(bytes.NewReader(b)) })
}
