package vhdx

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

// guest makes a raw file of size bytes with data at both ends, in the middle
// and across block boundaries, and holes.
func guest(t *testing.T, dir string, size int64) []byte {
	t.Helper()
	want := make([]byte, size)
	add := func(off, n int64) {
		if off >= 0 && off < size {
			copy(want[off:], disktest.Random(uint64(off), min(n, size-off)))
		}
	}
	add(0, 512)
	add(1<<20-4096, 8192)
	add(5<<20+512, 70000)
	add(8<<20, 4<<20)
	add(size-512, 512)
	put(t, dir, "guest.raw", want)
	return want
}

// TestQEMU reads what qemu-img writes, of both subformats and many sizes, and
// compares with what QEMU, libvhdi and, for sizes that it takes, 7-Zip read.
func TestQEMU(t *testing.T) {
	for _, subformat := range []string{"dynamic", "fixed"} {
		for _, block := range []string{"1M", "8M", "256M"} {
			for _, size := range []int64{512, 1<<20 - 512, 1 << 20, 1<<20 + 512, 16<<20 + 12288} {
				if block == "256M" && size > 1<<20 || block == "8M" && size < 1<<20 {
					continue
				}
				t.Run(fmt.Sprintf("%s %s %d", subformat, block, size), func(t *testing.T) {
					dir := t.TempDir()
					want := guest(t, dir, size)
					disktest.Run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vhdx", "-o", "subformat="+subformat+",block_size="+block, "guest.raw", "disk.vhdx")
					img := disktest.MustOpen(t, dir, "disk.vhdx", Open)
					disktest.Check(t, img, want)
					info := img.Info()
					if info.Format != "vhdx" || info.Subformat != subformat || info.Size != size || len(info.Chain) != 1 || len(info.Notes) != 0 {
						t.Errorf("info is %+v", info)
					}
					says := fmt.Sprintf("(%d bytes)", size)
					if out := disktest.Run(t, dir, "vhdiinfo", "disk.vhdx"); !bytes.Contains(out, []byte(says)) {
						t.Errorf("vhdiinfo does not say %s:\n%s", says, out)
					}
					if size%4096 == 0 {
						disktest.Same(t, disktest.Read7z(t, filepath.Join(dir, "disk.vhdx"), "VHDX"), want)
					}
				})
			}
		}
	}
}

// TestSectors4K: logical sectors of 4 KiB, which QEMU does not make.
func TestSectors4K(t *testing.T) {
	dir := t.TempDir()
	data := disktest.Random(1, 3<<20)
	spec{size: 3 << 20, logical: 4096, data: data}.put(t, dir, "disk.vhdx")
	disktest.Check(t, disktest.MustOpen(t, dir, "disk.vhdx", Open), data)
}

// TestStates: what each state of a block reads as, alone and in front of a
// parent ([MS-VHDX] 2.5.1.1).
func TestStates(t *testing.T) {
	dir := t.TempDir()
	const size = 7 << 20
	base, own := disktest.Random(1, size), disktest.Random(2, size)
	spec{size: size, data: base, write: [16]byte{1}}.put(t, dir, "base.vhdx")
	// The entry of a block that is not there may point anywhere.
	s := spec{size: size, data: own, state: map[int64]byte{0: 0, 1: 1, 2: 2, 3: 3}, offset: map[int64]byte{1: 1, 2: 200, 3: 9}}
	want := bytes.Clone(own)
	clear(want[:4<<20])
	s.put(t, dir, "alone.vhdx")
	disktest.Check(t, disktest.MustOpen(t, dir, "alone.vhdx", Open), want)
	disktest.Run(t, dir, "qemu-img", "convert", "-f", "vhdx", "-O", "raw", "alone.vhdx", "alone.raw")
	got, err := os.ReadFile(filepath.Join(dir, "alone.raw"))
	if err != nil {
		t.Fatal(err)
	}
	disktest.Same(t, got, want)

	s.child = true
	s.pairs = [][2]string{{"parent_linkage", linkage(1)}, {"relative_path", "base.vhdx"}}
	s.put(t, dir, "child.vhdx")
	copy(want, base[:1<<20]) // only "not present" leads to the parent
	disktest.Check(t, disktest.MustOpen(t, dir, "child.vhdx", Open), want)
}

// TestFullyPresentIgnoresBitmap: the bitmap of a block that is there as a whole
// must not be looked at ([MS-VHDX] 2.5.1.1).
func TestFullyPresentIgnoresBitmap(t *testing.T) {
	dir := t.TempDir()
	const size = 2 << 20
	base, own := disktest.Random(1, size), disktest.Random(2, size)
	spec{size: size, data: base, write: [16]byte{1}}.put(t, dir, "base.vhdx")
	s := spec{size: size, data: own, child: true, pairs: [][2]string{{"parent_linkage", linkage(1)}, {"relative_path", "base.vhdx"}}}
	m := s.build()
	at := int(uint32(m.p[m.bat+8*m.ratio+2])|uint32(m.p[m.bat+8*m.ratio+3])<<8) >> 4 << 20
	if !bytes.Equal(m.p[at:at+512], bytes.Repeat([]byte{0xff}, 512)) {
		t.Fatalf("there is no bitmap at %d", at)
	}
	clear(m.p[at : at+512])
	put(t, dir, "child.vhdx", m.p)
	disktest.Check(t, disktest.MustOpen(t, dir, "child.vhdx", Open), own)
}

// TestQEMUBitmapRubbish: QEMU before 8.0.3 left rubbish in the table where the
// entries of sector bitmaps would be.
func TestQEMUBitmapRubbish(t *testing.T) {
	dir := t.TempDir()
	// Blocks of 256 MiB, 16 to a chunk, and a disk of 20.
	m := spec{size: 5 << 30, block: 256 << 20}.build()
	le64(m.p[m.bat+8*16:], 7<<20|7)
	put(t, dir, "disk.vhdx", m.p)
	img := disktest.MustOpen(t, dir, "disk.vhdx", Open)
	p := make([]byte, 2<<20)
	if _, err := img.ReadAt(p, 4<<30-1<<20); err != nil || disktest.NonZero(p) >= 0 {
		t.Errorf("reading around the rubbish: %v", err)
	}
}

// TestHoles: what no block holds, and what is a hole in the file, is known
// without reading it. (QEMU knows nothing of a VHDX's holes.)
func TestHoles(t *testing.T) {
	dir := t.TempDir()
	const size = 64 << 20
	for subformat, limit := range map[string]int64{"fixed": 1 << 20, "dynamic": 1 << 20} {
		name := subformat + ".vhdx"
		disktest.Run(t, dir, "qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=32M,subformat="+subformat, name, fmt.Sprint(size))
		disktest.Run(t, dir, "qemu-io", "-f", "vhdx", "-c", "write -P 1 21M 64k", "-c", "write -P 2 50M 64k", name)
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

// TestLarge reads sparse images of up to 64 TiB, with bounded memory and time.
func TestLarge(t *testing.T) {
	for _, c := range []struct {
		size  int64
		block string
	}{
		{2<<40 - 512, "8M"},
		{2<<40 + 1<<20, "1M"},
		{16 << 40, "1M"}, // a table of 128 MiB
		{64 << 40, "32M"},
	} {
		t.Run(fmt.Sprintf("%d %s", c.size, c.block), func(t *testing.T) {
			dir := t.TempDir()
			disktest.Run(t, dir, "qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size="+c.block, "disk.vhdx", fmt.Sprint(c.size))
			last := c.size/(1<<20)*(1<<20) - 1<<20
			disktest.Run(t, dir, "qemu-io", "-f", "vhdx", "-c", "write -P 7 1M 512", "-c", "write -P 8 1T 1M", "-c", fmt.Sprintf("write -P 9 %d 1M", last), "disk.vhdx")
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			start := time.Now()
			img := disktest.MustOpen(t, dir, "disk.vhdx", Open)
			if img.Size() != c.size {
				t.Fatalf("size is %d", img.Size())
			}
			for off, want := range map[int64]byte{0: 0, 1 << 20: 7, 1<<20 + 512: 0, 1 << 40: 8, 1<<40 + 1<<20: 0, last: 9, last + 1<<20 - 512: 9, last - 512: 0} {
				p := make([]byte, 512)
				if _, err := img.ReadAt(p, off); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{want}, 512)) {
					t.Errorf("at %d: %v, first byte %d, want %d", off, err, p[0], want)
				}
			}
			var sum int64
			err := img.Extents(t.Context(), 0, c.size, func(e disk.Extent) error {
				if e.Data {
					sum += e.Len
				}
				return nil
			})
			if err != nil || sum < 2<<20+512 || sum > 4<<20 {
				t.Errorf("%d bytes are data: %v", sum, err)
			}
			took := time.Since(start)
			runtime.GC()
			runtime.ReadMemStats(&after)
			t.Logf("%v, %d KiB", took, (int64(after.HeapAlloc)-int64(before.HeapAlloc))>>10)
			if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 12<<20 {
				t.Errorf("%d bytes of memory", grown)
			}
			runtime.KeepAlive(img)
		})
	}
}

// TestConcurrent reads one chain from many goroutines under the race detector.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	const size = 5<<20 + 4096
	want := buildChain(t, dir, 3, size, 1<<20, 512)
	img := disktest.MustOpen(t, dir, "disk2.vhdx", Open)
	disktest.Concurrent(t, img, want)
}

// TestHeaders: one damaged header or region table is survived, and told.
func TestHeaders(t *testing.T) {
	dir := t.TempDir()
	data := disktest.Random(3, 1<<20)
	for at, says := range map[int]string{64: "header 1 of 2", 128: "header 2 of 2", 192: "region table 1 of 2", 256: "region table 2 of 2"} {
		p := spec{size: 1 << 20, data: data}.build().p
		p[at<<10+100] ^= 1
		put(t, dir, "disk.vhdx", p)
		img := disktest.MustOpen(t, dir, "disk.vhdx", Open)
		disktest.Check(t, img, data)
		if n := img.Info().Notes; len(n) != 1 || !strings.Contains(n[0], says) {
			t.Errorf("notes are %q, want %s", n, says)
		}
	}
	// The current header is the one with the higher number, wherever it is.
	m := spec{size: 1 << 20, data: data, write: [16]byte{5}}.build()
	old := m.p[128<<10:][:4096]
	le64(old[8:], 1)
	le64(old[72:], 77) // nonsense that must not be looked at
	putCRC(old)
	put(t, dir, "disk.vhdx", m.p)
	disktest.Check(t, disktest.MustOpen(t, dir, "disk.vhdx", Open), data)
}
