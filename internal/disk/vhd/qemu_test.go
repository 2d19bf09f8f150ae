package vhd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

// guest makes a raw file of size bytes with data at both ends, in the middle
// and across block boundaries, and holes.
func guest(t *testing.T, dir string, size int64) []byte {
	t.Helper()
	want := make([]byte, size)
	put := func(off, n int64) {
		if off >= 0 && off < size {
			copy(want[off:], disktest.Random(uint64(off), min(n, size-off)))
		}
	}
	put(0, 512)
	put(2<<20-4096, 8192)
	put(5<<20+512, 70000)
	put(8<<20, 4<<20)
	put(size-512, 512)
	if err := os.WriteFile(filepath.Join(dir, "guest.raw"), want, 0o600); err != nil {
		t.Fatal(err)
	}
	return want
}

// TestQEMU reads what qemu-img writes, of all subformats and sizes.
func TestQEMU(t *testing.T) {
	for _, subformat := range []string{"dynamic", "fixed"} {
		for _, force := range []string{"on", "off"} {
			for _, size := range []int64{512, 1<<20 - 512, 1 << 20, 1<<20 + 512, 2 << 20, 20<<20 + 12288} {
				t.Run(fmt.Sprintf("%s force_size=%s %d", subformat, force, size), func(t *testing.T) {
					dir := t.TempDir()
					want := guest(t, dir, size)
					disktest.Run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", "subformat="+subformat+",force_size="+force, "guest.raw", "disk.vhd")
					img := disktest.MustOpen(t, dir, "disk.vhd", Open)
					// Without force_size QEMU rounds the disk up to a geometry.
					if force == "on" && img.Size() != size || img.Size() < size {
						t.Fatalf("size is %d, want %d", img.Size(), size)
					}
					want = append(want, make([]byte, img.Size()-size)...)
					disktest.Check(t, img, want)
					back := filepath.Join(dir, "back.raw")
					disktest.Run(t, dir, "qemu-img", "convert", "-f", "vpc", "-O", "raw", "disk.vhd", back)
					got, err := os.ReadFile(back)
					if err != nil {
						t.Fatal(err)
					}
					disktest.Same(t, got, want)
					info := img.Info()
					if info.Format != "vhd" || info.Subformat != subformat || info.Size != img.Size() || len(info.Chain) != 1 || len(info.Notes) != 0 {
						t.Errorf("info is %+v", info)
					}
					size := fmt.Sprintf("(%d bytes)", img.Size())
					if out := disktest.Run(t, dir, "vhdiinfo", "disk.vhd"); !bytes.Contains(out, []byte(size)) {
						t.Errorf("vhdiinfo does not say %s:\n%s", size, out)
					}
				})
			}
		}
	}
}

// TestHoles: a fixed image's holes and a dynamic image's unwritten sectors and
// blocks are known without reading them.
func TestHoles(t *testing.T) {
	dir := t.TempDir()
	const size = 64 << 20
	for subformat, limit := range map[string]int64{"fixed": 1 << 20, "dynamic": 4<<20 + 1<<20} {
		name := subformat + ".vhd"
		disktest.Run(t, dir, "qemu-img", "create", "-q", "-f", "vpc", "-o", "force_size=on,subformat="+subformat, name, fmt.Sprint(int64(size)))
		disktest.Run(t, dir, "qemu-io", "-f", "vpc", "-c", "write -P 1 21M 64k", "-c", "write -P 2 50M 64k", name)
		img := disktest.MustOpen(t, dir, name, Open)
		want := make([]byte, size)
		copy(want[21<<20:], bytes.Repeat([]byte{1}, 64<<10))
		copy(want[50<<20:], bytes.Repeat([]byte{2}, 64<<10))
		data := disktest.CheckExtents(t, img, 0, size, want)
		var sum int64
		for _, e := range data {
			sum += e.Len
		}
		if sum < 128<<10 || sum > limit {
			t.Errorf("%s: %d bytes of data in %v, want %d to %d", subformat, sum, data, 128<<10, limit)
		}
	}
}

// TestLarge reads the largest dynamic image that there is.
func TestLarge(t *testing.T) {
	dir := t.TempDir()
	const size = 2040 << 30
	disktest.Run(t, dir, "qemu-img", "create", "-q", "-f", "vpc", "-o", "force_size=on", "disk.vhd", fmt.Sprint(int64(size)))
	disktest.Run(t, dir, "qemu-io", "-f", "vpc", "-c", "write -P 7 0 512", "-c", "write -P 8 1T 1M", "-c", "write -P 9 2088959M 1M", "disk.vhd")
	img := disktest.MustOpen(t, dir, "disk.vhd", Open)
	if img.Size() != size {
		t.Fatalf("size is %d", img.Size())
	}
	for off, want := range map[int64]byte{0: 7, 512: 0, 1 << 40: 8, 1<<40 + 1<<20: 0, size - 1<<20: 9, size - 512: 9} {
		p := make([]byte, 512)
		if _, err := img.ReadAt(p, off); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{want}, 512)) {
			t.Errorf("at %d: %v, first byte %d, want %d", off, err, p[0], want)
		}
	}
	m, err := disk.ReadMap(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if m.Bytes() < 2<<20+512 || m.Bytes() > 8<<20 {
		t.Errorf("%d bytes are allocated", m.Bytes())
	}
}

// TestSize: whose word counts when geometry and current size differ.
func TestSize(t *testing.T) {
	const size = 8 << 20 // 16384 sectors
	data := disktest.Random(4, size)
	for _, c := range []struct {
		creator string
		chs     [3]int
		current int64
		want    int64
	}{
		{"vpc ", [3]int{240, 4, 17}, size, size},                   // 8160 KiB: QEMU would cut 32 KiB
		{"win ", [3]int{240, 4, 17}, size, size},                   // Hyper-V
		{"qem2", [3]int{240, 4, 17}, size, size},                   // QEMU, force_size
		{"tap\x00", [3]int{240, 4, 17}, size, size},                // XenServer
		{"qemu", [3]int{240, 4, 17}, size, size},                   // resized by something else
		{"qemu", [3]int{256, 4, 16}, size - 65536, size},           // QEMU's guest saw the geometry
		{"qemu", [3]int{999, 16, 255}, size - 65536, size - 65536}, // more than the BAT has
		{"win ", [3]int{256, 4, 16}, size - 65536, size - 65536},   // Hyper-V does not look at it
		{"qemu", [3]int{65535, 16, 255}, size - 65536, size - 65536},
	} {
		t.Run(fmt.Sprintf("%q %v", c.creator, c.chs), func(t *testing.T) {
			dir := t.TempDir()
			spec{kind: 3, size: size, current: c.current, creator: c.creator, chs: c.chs, data: data}.write(t, dir, "disk.vhd")
			disktest.Check(t, disktest.MustOpen(t, dir, "disk.vhd", Open), data[:c.want])
			// QEMU told to go by the current size reads the same where that is ours too.
			if c.want == c.current {
				disktest.Run(t, dir, "qemu-img", "convert", "--image-opts", "driver=vpc,file.driver=file,file.filename=disk.vhd,force_size_calc=current_size", "-O", "raw", "back.raw")
				got, err := os.ReadFile(filepath.Join(dir, "back.raw"))
				if err != nil {
					t.Fatal(err)
				}
				disktest.Same(t, got, data[:c.want])
			}
		})
	}
}

// TestOldFooter: images of early Virtual PC end with 511 bytes of footer.
func TestOldFooter(t *testing.T) {
	dir := t.TempDir()
	data := disktest.Random(5, 3<<20)
	for i, kind := range []uint32{2, 3} {
		name := fmt.Sprintf("old%d.vhd", i)
		spec{kind: kind, size: int64(len(data)), data: data, oldFooter: true}.write(t, dir, name)
		disktest.Check(t, disktest.MustOpen(t, dir, name, Open), data)
	}
}

// TestFooterCopy: a dynamic image whose end is gone is read by the footer's copy
// at its start, and says so; a fixed one is not.
func TestFooterCopy(t *testing.T) {
	dir := t.TempDir()
	data := disktest.Random(6, 3<<20)
	write := func(name string, p []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dynamic := spec{kind: 3, size: int64(len(data)), data: data}.build()
	flipped := bytes.Clone(dynamic)
	flipped[len(flipped)-400] ^= 1
	for name, p := range map[string][]byte{
		"gone":    dynamic[:len(dynamic)-512],
		"flipped": flipped,
		"padded":  append(bytes.Clone(dynamic), make([]byte, 4096)...),
	} {
		write(name, p)
		img := disktest.MustOpen(t, dir, name, Open)
		disktest.Check(t, img, data)
		if n := img.Info().Notes; len(n) != 1 || !strings.Contains(n[0], "copy at the start was used") {
			t.Errorf("%s: notes are %q", name, n)
		}
	}
	// The guest of a fixed image can write a footer of its own to its first sector.
	foot := dynamic[:512]
	fixed := spec{kind: 2, size: int64(len(data)), data: append(bytes.Clone(foot), data[512:]...)}.build()
	write("fixed", fixed)
	disktest.Check(t, disktest.MustOpen(t, dir, "fixed", Open), fixed[:len(data)])
	copyAtStart := bytes.Clone(fixed[len(fixed)-512:])
	write("fixed-damaged", append(copyAtStart, fixed[512:len(fixed)-512]...))
	if _, err := disktest.Open(t, dir, "fixed-damaged", Open); err == nil {
		t.Error("a fixed disk without a footer at its end was opened")
	}
	if binary.BigEndian.Uint32(copyAtStart[60:]) != typeFixed {
		t.Fatal("the footer is not a fixed disk's")
	}
}
