package backup

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	confined "ascend/internal/qemu"
)

func relink(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
}

func fifo(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(name, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestMain lets the test binary become the confined child that reads VDI and
// Parallels images.
func TestMain(m *testing.M) {
	confined.Main()
	os.Exit(m.Run())
}

// Sizes that no image has, and images without a parent they need.
func TestDeclaredSizeHostile(t *testing.T) {
	dir := t.TempDir()
	head := func(sig string, at int, n uint64) []byte {
		b := make([]byte, 512)
		copy(b, sig)
		binary.LittleEndian.PutUint64(b[at:], n)
		return b
	}
	vdi := func(kind uint32, n uint64) []byte {
		b := head("<<< disk image >>>", 0x170, n)
		binary.LittleEndian.PutUint32(b[0x40:], 0xbeda107f)
		binary.LittleEndian.PutUint32(b[0x4c:], kind)
		return b
	}
	for name, b := range map[string][]byte{
		"a.vdi": vdi(1, 0), "b.vdi": vdi(1, 1<<63), "c.vdi": vdi(1, 1<<64-1), "d.vdi": vdi(4, 1<<30), "e.vdi": vdi(1, 1<<30)[:300],
		"a.hdd": head("WithouFreSpacExt", 36, 1<<63), "b.hdd": head("WithoutFreeSpace", 36, 1<<32), "c.hdd": head("WithouFreSpacExt", 36, 0),
	} {
		write(t, filepath.Join(dir, name), string(b))
	}
	_, all := list(t, dir)
	if len(all) != 8 {
		t.Errorf("%d images", len(all))
	}
	for _, b := range all {
		if b.Fault == "" {
			t.Errorf("%+v", b)
		}
	}
}
