package overlay

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
	"ascend/internal/disk/qcow2"
)

func base(t *testing.T, dir string, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 1))
	for off := 0; off+70000 < size; off += 300000 {
		for i := range 70000 {
			b[off+i] = byte(r.Uint32())
		}
	}
	raw := filepath.Join(dir, "base.raw")
	if err := os.WriteFile(raw, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, filepath.Join(dir, "base.qcow2")).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img (Debian package qemu-utils): %v: %s", err, out)
	}
	return b
}

// TestWritesOverARealImage writes and clears at random over a compressed qcow2,
// closes and opens again, and compares with the same done to plain bytes.
func TestWritesOverARealImage(t *testing.T) {
	dir := t.TempDir()
	want := base(t, dir, 5<<20+512)
	file := filepath.Join(dir, "base.qcow2")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before := sha256.Sum256(content)
	open := func() disk.Disk {
		img, err := disktest.Open(t, dir, "base.qcow2", qcow2.Open)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	path := filepath.Join(dir, "overlay")
	o, err := Create(path, open())
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(2, 2))
	for i := range 400 {
		n := []int{1, 511, 512, 4096, 5000, 70000}[r.IntN(6)]
		off := r.IntN(len(want) - n + 1)
		if r.IntN(8) == 0 {
			off = len(want) - n
		}
		if r.IntN(3) == 0 {
			clear(want[off : off+n])
			err = o.Zero(int64(off), int64(n))
		} else {
			p := bytes.Repeat([]byte{byte(i) | 1}, n)
			copy(want[off:], p)
			_, err = o.WriteAt(p, int64(off))
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%100 == 50 {
			if err := o.Close(); err != nil {
				t.Fatal(err)
			}
			if o, err = Open(path, open()); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := make([]byte, len(want))
	if _, err := o.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%v, or bytes differ", err)
	}
	at := int64(0)
	err = o.Extents(t.Context(), 0, o.Size(), func(e disk.Extent) error {
		if e.Off != at {
			t.Fatalf("extent at %d, want %d", e.Off, at)
		}
		if at += e.Len; !e.Data && len(bytes.Trim(want[e.Off:at], "\x00")) > 0 {
			t.Fatalf("data in a hole at %d", e.Off)
		}
		return nil
	})
	if err != nil || at != o.Size() {
		t.Fatalf("extents: %v, up to %d", err, at)
	}
	if err := o.Unchanged(); err != nil {
		t.Error(err)
	}
	if _, err := o.WriteAt([]byte("xx"), o.Size()-1); err == nil {
		t.Error("written beyond the end")
	}
	if content, _ = os.ReadFile(file); sha256.Sum256(content) != before {
		t.Error("the base was changed")
	}
	if err := o.Remove(); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(magic), int64(4096))
	f.Fuzz(func(_ *testing.T, b []byte, size int64) { _, _ = parse(b, size) })
}
