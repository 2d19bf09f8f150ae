package vmdk

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

var subformats = []string{"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"}

// convert makes dir/name, a VMDK of the raw disk data, with qemu-img.
func convert(t *testing.T, dir, name string, data []byte, options string) {
	t.Helper()
	write(t, dir, "disk.raw", data)
	disktest.Run(t, dir, "qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", options, "disk.raw", name)
}

// dataGrains are the extents that a sparse disk of these bytes has: the grains
// that are not all zeros.
func dataGrains(data []byte, grain int) (want []disk.Extent) {
	for off := 0; off < len(data); off += grain {
		part := data[off:min(off+grain, len(data))]
		if disktest.NonZero(part) < 0 {
			continue
		}
		if n := len(want); n > 0 && want[n-1].Off+want[n-1].Len == int64(off) {
			want[n-1].Len += int64(len(part))
			continue
		}
		want = append(want, disk.Extent{Off: int64(off), Len: int64(len(part)), Data: true})
	}
	return want
}

func TestQEMU(t *testing.T) {
	adapters := []string{"ide", "buslogic", "lsilogic", "legacyESX"}
	for i, subformat := range subformats {
		for j, size := range []int64{512, 1<<20 - 512, 1 << 20, 1<<20 + 512, 64<<20 + 12288} {
			adapter := adapters[(i+j)%len(adapters)]
			t.Run(fmt.Sprintf("%s/%d/%s", subformat, size, adapter), func(t *testing.T) {
				dir := t.TempDir()
				data := pattern(size, 1)
				convert(t, dir, "disk.vmdk", data, "subformat="+subformat+",adapter_type="+adapter)
				img := disktest.MustOpen(t, dir, "disk.vmdk", Open)
				disktest.Check(t, img, data)
				info := img.Info()
				if info.Format != "vmdk" || info.Subformat != subformat || info.Size != size || info.Compressed != (subformat == "streamOptimized") {
					t.Errorf("info is %+v", info)
				}
				if len(info.Chain) != 1 || info.Chain[0].Path != "disk.vmdk" || info.FileBytes != filesBytes(t, dir, "disk*.vmdk") {
					t.Errorf("files are %+v of %d bytes", info.Chain, info.FileBytes)
				}
				if info.Cluster > 0 {
					got := disktest.CheckExtents(t, img, 0, size, data)
					if want := dataGrains(data, int(info.Cluster)); !slices.Equal(got, want) {
						t.Errorf("data extents are %v, want %v", got, want)
					}
				}
				checkSize(t, dir, "disk.vmdk", size)
				// 7-Zip reads streams of VMware's layout (TestMade), not QEMU's.
				if info.Subformat == "monolithicSparse" {
					disktest.Same(t, disktest.Read7z(t, filepath.Join(dir, "disk.vmdk"), "vmdk"), data)
				}
			})
		}
	}
}

func filesBytes(t *testing.T, dir, glob string) (sum int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, glob))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		st, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		sum += st.Size()
	}
	return sum
}

// checkSize has libvmdk read the size of dir/name.
func checkSize(t *testing.T, dir, name string, size int64) {
	t.Helper()
	out := disktest.Run(t, dir, "vmdkinfo", name)
	m := regexp.MustCompile(`Media size:.*\((\d+) bytes\)|Media size:\s+(\d+) bytes`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("vmdkinfo states no size: %s", out)
	}
	if got, err := strconv.ParseInt(string(append(m[1], m[2]...)), 10, 64); err != nil || got != size {
		t.Errorf("vmdkinfo says %d bytes (%v), want %d", got, err, size)
	}
}

// A disk of many extents, with data across their borders.
func TestQEMUSplit(t *testing.T) {
	const size, border = 5<<30 + 512, 2 << 30
	for _, subformat := range []string{"twoGbMaxExtentSparse", "twoGbMaxExtentFlat"} {
		t.Run(subformat, func(t *testing.T) {
			dir := t.TempDir()
			disktest.Run(t, dir, "qemu-img", "create", "-f", "vmdk", "-o", "subformat="+subformat, "disk.vmdk", strconv.Itoa(size))
			disktest.Run(t, dir, "qemu-io", "-f", "vmdk", "-c", "write -P 17 0 512", "-c", fmt.Sprintf("write -P 34 %d 256k", border-128<<10),
				"-c", fmt.Sprintf("write -P 51 %d 1M", 2*border-512<<10), "-c", fmt.Sprintf("write -P 68 %d 512", size-512), "disk.vmdk")
			img := disktest.MustOpen(t, dir, "disk.vmdk", Open)
			if img.Size() != size {
				t.Fatalf("size is %d", img.Size())
			}
			for _, c := range []struct {
				off  int64
				n    int
				want byte
			}{{0, 512, 17}, {border - 128<<10, 256 << 10, 34}, {2*border - 512<<10, 1 << 20, 51}, {size - 512, 512, 68}, {border - 1<<20, 1 << 19, 0}} {
				p := make([]byte, c.n)
				if n, err := img.ReadAt(p, c.off); n != c.n || err != nil {
					t.Fatalf("read %d bytes at %d: %v", n, c.off, err)
				}
				disktest.Same(t, p, bytes.Repeat([]byte{c.want}, c.n))
			}
			var got []disk.Extent
			if err := img.Extents(t.Context(), 0, size, func(e disk.Extent) error { got = append(got, e); return nil }); err != nil {
				t.Fatal(err)
			}
			var data, end int64
			for i, e := range got {
				if e.Off != end || i > 0 && e.Data == got[i-1].Data {
					t.Fatalf("extent %d of %v does not follow the one before", i, got)
				}
				end = e.Off + e.Len
				if e.Data {
					data += e.Len
				}
			}
			if end != size || data < 256<<10+1<<20+1024 || data > 2<<20 {
				t.Errorf("extents %v end at %d and have %d bytes of data", got, end, data)
			}
			if err := img.Unchanged(); err != nil {
				t.Error(err)
			}
			last := filepath.Join(dir, map[string]string{"twoGbMaxExtentSparse": "disk-s003.vmdk", "twoGbMaxExtentFlat": "disk-f003.vmdk"}[subformat])
			if err := os.Truncate(last, 1<<20); err != nil {
				t.Fatal(err)
			}
			wantErr(t, img.Unchanged(), disk.ErrChanged)
		})
	}
}

// Huge disks: maps must not cost what the disk's size is.
func TestQEMUHuge(t *testing.T) {
	for _, subformat := range subformats {
		size := int64(3<<40 + 1<<20)
		if subformat == "twoGbMaxExtentFlat" {
			size = 300<<30 + 1<<20 // QEMU takes seconds to make the files of more
		}
		middle := size / 2 &^ 0xffff
		t.Run(subformat, func(t *testing.T) {
			dir := t.TempDir()
			disktest.Run(t, dir, "qemu-img", "create", "-f", "vmdk", "-o", "subformat="+subformat, "disk.vmdk", strconv.FormatInt(size, 10))
			disktest.Run(t, dir, "qemu-io", "-f", "vmdk", "-c", "write -P 1 0 64k", "-c", fmt.Sprintf("write -P 2 %d 64k", middle), "-c", fmt.Sprintf("write -P 3 %d 64k", size-64<<10), "disk.vmdk")
			img := disktest.MustOpen(t, dir, "disk.vmdk", Open)
			m, err := disk.ReadMap(t.Context(), img)
			if err != nil {
				t.Fatal(err)
			}
			want := int64(3)
			if subformat == "twoGbMaxExtentFlat" {
				want = size>>31 + 1 + 2 // QEMU allocates the first block of each file
			}
			if img.Size() != size || m.Count() != want || !m.Has(0) || !m.Has(middle>>16) || !m.Has(size>>16-1) {
				t.Errorf("%d bytes, %d blocks of data", img.Size(), m.Count())
			}
			p := make([]byte, 128<<10)
			if n, err := img.ReadAt(p, middle-64<<10); n != len(p) || err != nil {
				t.Fatalf("read %d: %v", n, err)
			}
			disktest.Same(t, p, append(make([]byte, 64<<10), bytes.Repeat([]byte{2}, 64<<10)...))
		})
	}
}

// A chain of three, with grains of all kinds in each.
func TestQEMUChain(t *testing.T) {
	for _, subformat := range []string{"monolithicSparse", "twoGbMaxExtentSparse"} {
		t.Run(subformat, func(t *testing.T) {
			dir := t.TempDir()
			data := pattern(36<<20+512, 7)
			convert(t, dir, "base.vmdk", data, "subformat=streamOptimized")
			names := []string{"base.vmdk", "child.vmdk", "grand child ü.vmdk"}
			r := rand.New(rand.NewPCG(3, 4))
			for i, name := range names[1:] {
				disktest.Run(t, dir, "qemu-img", "create", "-f", "vmdk", "-b", names[i], "-F", "vmdk", "-o", "zeroed_grain=on,subformat="+subformat, name)
				args := []string{"-f", "vmdk"}
				for range 40 {
					off, n := r.Int64N(36<<10)<<10, (1+r.Int64N(200))<<10
					if r.IntN(3) == 0 {
						args = append(args, "-c", fmt.Sprintf("write -z %d 64k", off&^0xffff))
						continue
					}
					args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", 1+r.IntN(255), off, min(n, int64(len(data))-off)))
				}
				disktest.Run(t, dir, "qemu-io", append(args, name)...)
			}
			top := names[2]
			disktest.Run(t, dir, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", top, "want.raw")
			want := read(t, dir, "want.raw")
			img := disktest.MustOpen(t, dir, top, Open)
			disktest.Check(t, img, want)
			info := img.Info()
			if len(info.Chain) != 3 || info.Chain[0].Path != top || info.Chain[0].Reference != "child.vmdk" || info.Chain[2].Path != "base.vmdk" || !info.Compressed {
				t.Errorf("info is %+v", info)
			}
			if sum := filesBytes(t, dir, "*.vmdk"); info.FileBytes != sum {
				t.Errorf("files have %d bytes, info says %d", sum, info.FileBytes)
			}
			zeroed := 0
			for _, e := range disktest.CheckExtents(t, img, 0, img.Size(), want) {
				if disktest.NonZero(want[e.Off:e.Off+e.Len]) < 0 {
					zeroed++
				}
			}
			if zeroed > 0 {
				t.Errorf("%d extents of data hold zeros, which zero grains should have shown", zeroed)
			}
			// A write to the base gives it another content ID.
			disktest.Run(t, dir, "qemu-io", "-f", "vmdk", "-c", "write 0 512", "child.vmdk")
			_, err := disktest.Open(t, dir, top, Open)
			wantErr(t, err, disk.ErrCorrupt)
			wantErr(t, img.Unchanged(), disk.ErrChanged)
		})
	}
}

// Any number of readers, of any sizes.
func TestConcurrentReads(t *testing.T) {
	for _, subformat := range []string{"monolithicSparse", "streamOptimized"} {
		dir := t.TempDir()
		data := pattern(36<<20+512, 11)
		convert(t, dir, "disk.vmdk", data, "subformat="+subformat)
		img := disktest.MustOpen(t, dir, "disk.vmdk", Open)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), 1))
				for range 50 {
					off := r.Int64N(img.Size())
					p := make([]byte, min(1+r.Int64N(1<<r.IntN(20)), img.Size()-off))
					if n, err := img.ReadAt(p, off); n != len(p) || err != nil || !bytes.Equal(p, data[off:off+int64(n)]) {
						t.Errorf("%s: %d of %d bytes at %d, %v, or not as they must be", subformat, n, len(p), off, err)
						return
					}
				}
			})
		}
		wg.Go(func() {
			if err := img.Extents(context.Background(), 0, img.Size(), func(disk.Extent) error { return nil }); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
	}
}
