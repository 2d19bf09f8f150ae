package vmdk

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

// Files of layouts that qemu-img does not write, made here and read by QEMU and
// 7-Zip as well, so that it is known that they are what they are meant to be.
func TestMade(t *testing.T) {
	zeroed := newSparseFile()
	zeroed.version, zeroed.flags = 2, 7
	zeroed.zero[2], zeroed.zero[101] = true, true
	odd := newSparseFile()
	odd.resize(2048 - 3) // the last grain is cut
	odd.grains[255] = bytes.Repeat([]byte{9}, 4096)
	oddStream := newStream()
	oddStream.resize(2048 - 3)
	usual, usualStream := newSparseFile(), newStream()
	for _, s := range []*sparseFile{usual, usualStream} {
		s.entries, s.grain = 512, 128
		s.resize(66 << 11)
		data := pattern(1<<20, 3)
		clear(s.grains)
		for i, g := range []uint64{0, 1, 511, 512, 1055} {
			data[i<<16] = 1 // stored even where the pattern is zeros
			s.grains[g] = data[i<<16:][:1<<16]
		}
	}
	unknown := newSparseFile()
	unknown.descriptor = bytes.Replace(unknown.descriptor, []byte("version=1"), []byte("version=1\r\nisNativeSnapshot=\"no\"\r\n"), 1)
	for name, c := range map[string]struct {
		file  *sparseFile
		seven bool // 7-Zip reads it; it wants the usual parameters
	}{
		"sparse": {newSparseFile(), false}, "stream": {newStream(), false}, "zero grains": {zeroed, false}, "cut grain": {odd, false},
		"cut stream": {oddStream, false}, "usual": {usual, true}, "usual stream": {usualStream, true}, "unknown setting": {unknown, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "x.vmdk", c.file.build())
			want := c.file.disk()
			disktest.Run(t, dir, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", "x.vmdk", "qemu.raw")
			disktest.Same(t, read(t, dir, "qemu.raw"), want)
			if c.seven {
				disktest.Same(t, disktest.Read7z(t, filepath.Join(dir, "x.vmdk"), "vmdk"), want)
			}
			img := disktest.MustOpen(t, dir, "x.vmdk", Open)
			disktest.Check(t, img, want)
			if got := disktest.CheckExtents(t, img, 0, img.Size(), want); !slices.Equal(got, dataGrains(want, int(c.file.grain*512))) {
				t.Errorf("data extents are %v, want %v", got, dataGrains(want, int(c.file.grain*512)))
			}
		})
	}
}

// A grain of 1 MiB, and 64 KiB grains that do not compress.
func TestLargeGrains(t *testing.T) {
	for _, s := range []*sparseFile{newSparseFile(), newStream()} {
		s.grain, s.entries = 2048, 512
		s.resize(8192)
		data := pattern(4<<20, 5)
		clear(s.grains)
		for g := range uint64(4) {
			s.grains[g] = data[g<<20:][:1<<20]
		}
		dir := t.TempDir()
		write(t, dir, "x.vmdk", s.build())
		disktest.Check(t, disktest.MustOpen(t, dir, "x.vmdk", Open), data)
	}
}

// The first directory is damaged, the redundant one is not.
func TestRedundantDirectory(t *testing.T) {
	s := newSparseFile()
	b := s.build()
	gd := int(le64(b[56:])) * 512
	copy(b[gd:], "\xff\xff\xff\xff")
	dir := t.TempDir()
	write(t, dir, "x.vmdk", b)
	img := disktest.MustOpen(t, dir, "x.vmdk", Open)
	disktest.Check(t, img, s.disk())
	if notes := img.Info().Notes; len(notes) != 1 || !strings.Contains(notes[0], "redundant") {
		t.Errorf("notes are %q", notes)
	}
}

func TestUncleanShutdown(t *testing.T) {
	s := newSparseFile()
	s.header = func(h []byte) { h[72] = 1 }
	dir := t.TempDir()
	write(t, dir, "x.vmdk", s.build())
	img := disktest.MustOpen(t, dir, "x.vmdk", Open)
	disktest.Check(t, img, s.disk())
	if notes := img.Info().Notes; len(notes) != 1 || !strings.Contains(notes[0], "in use") {
		t.Errorf("notes are %q", notes)
	}
}

// Small reads of a compressed grain must not each inflate it.
func TestGrainIsKept(t *testing.T) {
	s := newStream()
	dir := t.TempDir()
	write(t, dir, "x.vmdk", s.build())
	img := disktest.MustOpen(t, dir, "x.vmdk", Open).(*image)
	p := make([]byte, 512)
	for off := int64(0); off < 4096; off += 512 {
		if _, err := img.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
		disktest.Same(t, p, bytes.Repeat([]byte("a"), 512))
	}
	if n := len(img.sections[0].(*sparse).kept.kept); n != 1 {
		t.Errorf("%d grains are kept after reads of one", n)
	}
}

// Tables that lead to one cache slot must not be taken for each other, and the
// cache must stay within its bound.
func TestTableCache(t *testing.T) {
	c := newTableCache(1<<40, 2048)
	if n := len(c.slots) * 2048; n > cacheBytes {
		t.Fatalf("cache holds up to %d bytes", n)
	}
	n := int64(len(c.slots))
	c.put(3, table{3})
	c.put(3+n, table{4})
	if c.get(3) != nil || c.get(3 + n)[0] != 4 || c.get(4) != nil {
		t.Error("cache mixes tables up")
	}
}

// An ESX snapshot over a flat disk, as QEMU reads it.
func TestESXSnapshot(t *testing.T) {
	dir := t.TempDir()
	const sectors = 3*4096 + 100
	base := pattern(sectors*512, 21)
	write(t, dir, "vm one-flat.vmdk", base)
	write(t, dir, "vm one.vmdk", text("CID=0badcafe\nparentCID=ffffffff\ncreateType=\"vmfs\"", fmt.Sprintf(`RW %d VMFS "vm one-flat.vmdk"`, sectors)))
	grains := map[uint32][]byte{}
	for _, g := range []uint32{0, 7, 8, 9, 4095, 4096, 3 * 4096, sectors - 1} {
		grains[g] = bytes.Repeat([]byte{byte(g)}, 512)
	}
	grains[9] = make([]byte, 512)
	write(t, dir, "vm one-000001-delta.vmdk", cowd(sectors, grains))
	write(t, dir, "vm one-000001.vmdk", text("CID=11111111\nparentCID=0badcafe\ncreateType=\"vmfsSparse\"\nparentFileNameHint=\"vm one.vmdk\"",
		fmt.Sprintf(`RW %d VMFSSPARSE "vm one-000001-delta.vmdk"`, sectors)))
	want := bytes.Clone(base)
	for g, data := range grains {
		copy(want[g*512:], data)
	}
	disktest.Run(t, dir, "qemu-img", "convert", "-f", "vmdk", "-O", "raw", "vm one-000001.vmdk", "qemu.raw")
	disktest.Same(t, read(t, dir, "qemu.raw"), want)
	img := disktest.MustOpen(t, dir, "vm one-000001.vmdk", Open)
	disktest.Check(t, img, want)
	if info := img.Info(); info.Subformat != "vmfsSparse" || len(info.Chain) != 2 || info.Cluster != 512 || info.FileBytes != filesBytes(t, dir, "vm*") {
		t.Errorf("info is %+v", info)
	}
	checkSize(t, dir, "vm one-000001.vmdk", sectors*512)

	// The data file alone is no disk.
	_, err := disktest.Open(t, dir, "vm one-000001-delta.vmdk", Open)
	wantErr(t, err, disk.ErrUnsupported)
}

// Extents of all kinds on one disk, two of them in one file.
func TestMixedExtents(t *testing.T) {
	dir := t.TempDir()
	flat := pattern(1<<20, 31)
	write(t, dir, "flat.vmdk", flat)
	s := newSparseFile()
	s.descriptor = nil
	write(t, dir, "sparse.vmdk", s.build())
	write(t, dir, "disk.vmdk", text("CID=1\nparentCID=ffffffff\ncreateType=\"custom\"",
		`RW 1000 FLAT "flat.vmdk" 10`, `RDONLY 64 ZERO`, `RW 2048 SPARSE "sparse.vmdk"`, `NOACCESS 1 ZERO`, `RW 8 FLAT "flat.vmdk"`))
	want := slices.Concat(flat[5120:][:512000], make([]byte, 64*512), s.disk(), make([]byte, 512), flat[:4096])
	img := disktest.MustOpen(t, dir, "disk.vmdk", Open)
	disktest.Check(t, img, want)
	if n := len(img.(*image).files); n != 3 {
		t.Errorf("%d files are open", n)
	}
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range img.(*image).files {
		if _, err := f.ReadAt(make([]byte, 1), 0); err == nil {
			t.Errorf("%s is still open", f.Name())
		}
	}
	// An extent of a split disk alone is no disk.
	_, err := disktest.Open(t, dir, "sparse.vmdk", Open)
	wantErr(t, err, disk.ErrUnsupported)
}

// Names as VMware writes them: with spaces, in Unicode, in a Western code page,
// and with paths of another machine.
func TestNames(t *testing.T) {
	for stated, file := range map[string]string{
		"a disk with spaces-flat.vmdk":           "a disk with spaces-flat.vmdk",
		"Größe 磁盘-flat.vmdk":                     "Größe 磁盘-flat.vmdk",
		"Gr\xf6\xdfe \x80-flat.vmdk":             "Größe €-flat.vmdk",
		"raw \xff\xfe bytes-flat.vmdk":           "raw \xff\xfe bytes-flat.vmdk",
		"/vmfs/volumes/4c5d/vm/flat.vmdk":        "flat.vmdk",
		`C:\Virtual Machines\vm\flat.vmdk`:       "flat.vmdk",
		"sub/flat.vmdk":                          "sub/flat.vmdk",
		"../somewhere/else/flat.vmdk":            "flat.vmdk",
		"/vmfs/volumes/datastore1/sub/flat.vmdk": "sub/flat.vmdk",
	} {
		t.Run(stated, func(t *testing.T) {
			dir := t.TempDir()
			disktest.Run(t, dir, "mkdir", "sub")
			data := pattern(4096, 1)
			write(t, dir, file, data)
			write(t, dir, "disk.vmdk", text("encoding=\"windows-1252\"\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"", fmt.Sprintf("RW 8 FLAT \"%s\" 0", stated)))
			disktest.Check(t, disktest.MustOpen(t, dir, "disk.vmdk", Open), data)
		})
	}
}

// The parent is not needed where every extent is whole.
func TestFlatWithParent(t *testing.T) {
	dir := t.TempDir()
	data := pattern(4096, 1)
	write(t, dir, "flat.vmdk", data)
	write(t, dir, "disk.vmdk", text("CID=1\nparentCID=12345678\nisNativeSnapshot=\"yes\"\nparentFileNameHint=\"gone.vmdk\"\ncreateType=\"vmfs\"", `RW 8 VMFS "flat.vmdk"`))
	img := disktest.MustOpen(t, dir, "disk.vmdk", Open)
	disktest.Check(t, img, data)
	if notes := img.Info().Notes; len(notes) != 1 || !strings.Contains(notes[0], "gone.vmdk") {
		t.Errorf("notes are %q", notes)
	}
}

// A child larger than its parent has zeros there, and a smaller one less.
func TestParentOfOtherSize(t *testing.T) {
	for _, sectors := range []uint32{8, 24} {
		dir := t.TempDir()
		base := pattern(16*512, 1)
		write(t, dir, "flat.vmdk", base)
		write(t, dir, "base.vmdk", text("CID=5\nparentCID=ffffffff\ncreateType=\"vmfs\"", `RW 16 VMFS "flat.vmdk"`))
		write(t, dir, "delta.vmdk", cowd(sectors, map[uint32][]byte{2: bytes.Repeat([]byte("x"), 512)}))
		write(t, dir, "top.vmdk", text("CID=6\nparentCID=00000005\nparentFileNameHint=\"base.vmdk\"\ncreateType=\"vmfsSparse\"", fmt.Sprintf(`RW %d VMFSSPARSE "delta.vmdk"`, sectors)))
		want := make([]byte, sectors*512)
		copy(want, base)
		copy(want[1024:], bytes.Repeat([]byte("x"), 512))
		disktest.Check(t, disktest.MustOpen(t, dir, "top.vmdk", Open), want)
	}
}

// A disk inside an archive: all offsets, the footer's above all, are the part's.
func TestPartOfArchive(t *testing.T) {
	for _, s := range []*sparseFile{newSparseFile(), newStream()} {
		b := s.build()
		dir := t.TempDir()
		write(t, dir, "vm.ova", slices.Concat(bytes.Repeat([]byte("KDMV"), 333), b, bytes.Repeat([]byte("x"), 5000)))
		root, err := disk.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		f, err := root.Open("vm.ova")
		if err != nil {
			t.Fatal(err)
		}
		if f, err = f.Part("vm.ova/disk1.vmdk", 4*333, int64(len(b))); err != nil {
			t.Fatal(err)
		}
		img, err := Open(&disk.Env{Root: root}, f)
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		disktest.Check(t, img, s.disk())
		if info := img.Info(); info.FileBytes != int64(len(b)) || info.Chain[0].Path != "vm.ova/disk1.vmdk" {
			t.Errorf("info is %+v", info)
		}
	}
}
