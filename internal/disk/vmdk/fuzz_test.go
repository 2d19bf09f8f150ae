package vmdk

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

// FuzzOpen opens an image beside one extent and a parent, and reads and maps
// what it can. Whatever is in the files, an error must be of a known kind, the
// extents must cover the disk, holes must read as zeros, and reading in one
// piece and in parts must give the same.
func FuzzOpen(f *testing.F) {
	base := newSparseFile().build()
	delta := newSparseFile()
	delta.version, delta.flags = 2, 7
	delta.zero[1] = true
	delete(delta.grains, 1)
	delta.descriptor = bytes.Replace(delta.descriptor, []byte("parentCID=ffffffff"), []byte("parentCID=11223344\nparentFileNameHint=\"base.vmdk\""), 1)
	stream := newStream()
	delete(stream.grains, 100)
	lines := text("CID=1\nparentCID=11223344\nparentFileNameHint=\"base.vmdk\"\ncreateType=\"custom\"", `RW 100 VMFSSPARSE "extent"`, "RW 8 ZERO", `RW 8 FLAT "base.vmdk" 3`)
	f.Add(base, []byte{})
	f.Add(delta.build(), []byte{})
	f.Add(stream.build(), []byte{})
	f.Add(lines, cowd(100, map[uint32][]byte{1: bytes.Repeat([]byte{1}, 512)}))
	f.Add(bytes.Replace(bytes.Replace(lines, []byte("VMFSSPARSE"), []byte("SPARSE"), 1), []byte("RW 100"), []byte("RW 2048"), 1), base)
	f.Fuzz(func(t *testing.T, image, extent []byte) {
		dir := t.TempDir()
		write(t, dir, "x.vmdk", image)
		write(t, dir, "extent", extent)
		write(t, dir, "base.vmdk", base)
		img, err := disktest.Open(t, dir, "x.vmdk", Open)
		if err != nil {
			known(t, err)
			return
		}
		defer img.Close()
		size := img.Size()
		if size <= 0 || size > disk.MaxSize || size != img.Info().Size {
			t.Fatalf("size is %d", size)
		}
		n := min(size, 4<<20)
		whole := make([]byte, n)
		got, err := img.ReadAt(whole, 0)
		if int64(got) != n {
			known(t, err)
			return
		}
		at := int64(0)
		err = img.Extents(t.Context(), 0, n, func(e disk.Extent) error {
			if e.Off != at || e.Len <= 0 {
				return fmt.Errorf("extent %+v does not continue at %d", e, at)
			}
			at += e.Len
			if i := disktest.NonZero(whole[e.Off:at]); !e.Data && i >= 0 {
				return fmt.Errorf("hole %+v has data at %d", e, i)
			}
			return nil
		})
		if err != nil || at != n {
			t.Fatalf("extents end at %d of %d: %v", at, n, err)
		}
		part := make([]byte, 1000)
		for off := int64(0); off < n; off += 77777 {
			got, err := img.ReadAt(part, off)
			if int64(got) != min(1000, size-off) {
				t.Fatalf("read %d at %d: %v", got, off, err)
			}
			if k := min(n-off, int64(got)); !bytes.Equal(part[:k], whole[off:][:k]) {
				t.Fatalf("%d bytes at %d are not as in one piece", k, off)
			}
		}
		p := make([]byte, 1<<16)
		if got, err := img.ReadAt(p, size-min(size, 1<<16)); int64(got) != min(size, 1<<16) {
			known(t, err)
		}
		if err := img.Unchanged(); err != nil {
			t.Fatal(err)
		}
	})
}

func known(t *testing.T, err error) {
	t.Helper()
	for _, kind := range []error{disk.ErrFormat, disk.ErrCorrupt, disk.ErrUnsupported, disk.ErrEscape, disk.ErrMissing} {
		if errors.Is(err, kind) {
			return
		}
	}
	t.Fatalf("error of no kind: %v", err)
}
