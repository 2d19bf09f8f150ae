package vhd

import (
	"os"
	"path/filepath"
	"testing"

	"ascend/internal/disk/disktest"
)

// FuzzOpen opens any file as VHD, beside a parent that it may name, and reads
// what opens: nothing may panic, be endless or disagree with its own extents.
func FuzzOpen(f *testing.F) {
	const size = 64 << 10
	data := disktest.Random(1, size)
	base := spec{kind: 3, size: size, block: 4096, id: [16]byte{1}, data: data, has: disktest.Scattered(2, (size+511)/512)}
	f.Add(base.build())
	f.Add(spec{kind: 2, size: 4096, data: data[:4096]}.build())
	f.Add(spec{kind: 2, size: 4096, data: data[:4096], oldFooter: true}.build())
	f.Add(spec{kind: 3, size: size, block: 512, data: data, has: disktest.Scattered(4, (size+511)/512), creator: "qemu", chs: [3]int{8, 4, 4}}.build())
	f.Add(spec{kind: 3, block: 4096}.build())
	child := spec{kind: 4, size: size, block: 8192, id: [16]byte{2}, parent: [16]byte{1}, data: data, has: disktest.Scattered(3, (size+511)/512), parentName: "base.vhd",
		locators: []place{{code: "W2ru", name: `.\base.vhd`}, {code: "W2ku", name: `C:\base.vhd`}, {code: "MacX", name: "file://./base.vhd"}}}
	f.Add(child.build())
	self := child
	self.id = self.parent
	self.locators[0].name = `.\fuzz.vhd`
	f.Add(self.build())
	f.Fuzz(func(t *testing.T, p []byte) {
		// So that the fuzzer gets past the checksums.
		for _, v := range [][]byte{p, p[max(0, len(p)-512):], p[max(0, len(p)-511):]} {
			if len(v) >= 511 && string(v[:8]) == "conectix" {
				putSum(v[:min(len(v), 512)], 64)
			}
		}
		if len(p) >= 1536 && string(p[512:520]) == "cxsparse" {
			putSum(p[512:1536], 36)
		}
		dir := t.TempDir()
		base.write(t, dir, "base.vhd")
		if err := os.WriteFile(filepath.Join(dir, "fuzz.vhd"), p, 0o600); err != nil {
			t.Fatal(err)
		}
		img, err := disktest.Open(t, dir, "fuzz.vhd", Open)
		if err != nil {
			return
		}
		defer img.Close()
		buf := make([]byte, min(img.Size(), 1<<20))
		if n, err := img.ReadAt(buf, 0); n != len(buf) || err != nil && n > 0 {
			t.Fatalf("an image that opens cannot be read: %v", err)
		}
		disktest.CheckExtents(t, img, 0, int64(len(buf)), buf)
		info := img.Info()
		if len(info.Chain) == 0 || info.FileBytes < int64(len(p)) {
			t.Fatalf("info is %+v", info)
		}
	})
}

// TestConcurrent reads one chain from many goroutines under the race detector.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	const size = 5<<20 + 512
	want := buildChain(t, dir, 3, size, 512<<10, 3)
	img := disktest.MustOpen(t, dir, "disk2.vhd", Open)
	disktest.Concurrent(t, img, want)
}
