package vhdx

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/disk/disktest"
)

// linkage is the text of the DataWriteGuid that starts with the byte b.
func linkage(b byte) string {
	return fmt.Sprintf("{%08x-0000-0000-0000-000000000000}", b)
}

// buildChain makes disk0.vhdx to disk<n-1>.vhdx, each on the one before, and
// returns what the last one shows.
func buildChain(t testing.TB, dir string, n int, size, block int64, logical uint32) []byte {
	t.Helper()
	sectors := size / int64(logical)
	has, data := disktest.Scattered(99, sectors), disktest.Random(0, size)
	want := disktest.Merge(nil, data, has, int(logical))
	spec{size: size, block: block, logical: logical, write: [16]byte{1}, data: want, has: has}.put(t, dir, "disk0.vhdx")
	for i := 1; i < n; i++ {
		has, data := disktest.Scattered(uint64(i), sectors), disktest.Random(uint64(i), size)
		parent := fmt.Sprintf("disk%d.vhdx", i-1)
		spec{
			size: size, block: block, logical: logical, child: true, data: data, has: has, stale: 0xaa,
			write: [16]byte{byte(i + 1)},
			pairs: [][2]string{{"absolute_win32_path", `\\?\D:\vm\` + parent}, {"relative_path", `.\` + parent}, {"parent_linkage", linkage(byte(i))}, {"volume_path", `\\?\Volume{26a21bda-a627-11d7-9931-806e6f6e6963}\vm\` + parent}},
		}.put(t, dir, fmt.Sprintf("disk%d.vhdx", i))
		want = disktest.Merge(want, data, has, int(logical))
	}
	return want
}

// TestDifferencing reads chains, and has 7-Zip, which shares nothing with this
// reader or the generator, read the same bytes. (QEMU refuses such images.)
func TestDifferencing(t *testing.T) {
	for _, c := range []struct {
		size, block int64
		logical     uint32
		links       int
	}{
		{5<<20 + 4096, 1 << 20, 512, 2},
		{5<<20 + 4096, 1 << 20, 4096, 5},
		{9 << 20, 4 << 20, 512, 5},
		{5 << 20, 32 << 20, 512, 2},
	} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			dir := t.TempDir()
			top := fmt.Sprintf("disk%d.vhdx", c.links-1)
			want := buildChain(t, dir, c.links, c.size, c.block, c.logical)
			img := disktest.MustOpen(t, dir, top, Open)
			disktest.Check(t, img, want)
			if c.logical == 512 { // 7-Zip takes no others
				disktest.Same(t, disktest.Read7z(t, filepath.Join(dir, top), "VHDX"), want)
			}
			info := img.Info()
			if info.Subformat != "differencing" || info.Cluster != c.block || len(info.Chain) != c.links || len(info.Notes) != 0 {
				t.Errorf("info is %+v", info)
			}
			if l := info.Chain[0]; l.Path != top || l.Reference != fmt.Sprintf(`.\disk%d.vhdx`, c.links-2) || info.Chain[c.links-1].Reference != "" {
				t.Errorf("chain is %+v", info.Chain)
			}
			if out := string(disktest.Run(t, dir, "vhdiinfo", top)); !strings.Contains(out, "Differential") || !strings.Contains(out, linkage(byte(c.links - 1))[1:36]) {
				t.Errorf("vhdiinfo says:\n%s", out)
			}
		})
	}
}
