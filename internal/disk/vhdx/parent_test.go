package vhdx

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

// TestExtentsOfChain: only what some layer holds is data, to the sector, in
// blocks that are partly there as well.
func TestExtentsOfChain(t *testing.T) {
	dir := t.TempDir()
	const size = 4 << 20
	one := func(sectors ...int) []bool {
		has := make([]bool, size/512)
		for _, s := range sectors {
			has[s] = true
		}
		return has
	}
	// The base has block 2.
	second := make([]bool, size/512)
	for i := range 2048 {
		second[4096+i] = true
	}
	base := disktest.Merge(nil, disktest.Random(1, size), second, 512)
	spec{size: size, write: [16]byte{1}, data: base, has: second}.put(t, dir, "base.vhdx")
	spec{
		size: size, child: true, data: disktest.Random(2, size), has: one(4, 4095, 8191), stale: 1,
		pairs: [][2]string{{"parent_linkage", linkage(1)}, {"relative_path", "base.vhdx"}},
	}.put(t, dir, "child.vhdx")
	want := disktest.Merge(base, disktest.Random(2, size), one(4, 4095, 8191), 512)
	img := disktest.MustOpen(t, dir, "child.vhdx", Open)
	got := fmt.Sprint(disktest.CheckExtents(t, img, 0, size, want))
	if want := fmt.Sprint([]disk.Extent{{Off: 4 * 512, Len: 512, Data: true}, {Off: 4095 * 512, Len: 512 + 1<<20, Data: true}, {Off: 8191 * 512, Len: 512, Data: true}}); got != want {
		t.Errorf("data is %v, want %v", got, want)
	}
}

// TestParentSize: a child may be larger or smaller than its parent.
func TestParentSize(t *testing.T) {
	for _, size := range []int64{1 << 20, 3<<20 + 512, 7 << 20} {
		dir := t.TempDir()
		base, own := disktest.Random(1, 3<<20), disktest.Random(2, size)
		has := disktest.Scattered(3, size/512)
		spec{size: 3 << 20, write: [16]byte{1}, data: base}.put(t, dir, "base.vhdx")
		spec{size: size, child: true, data: own, has: has, pairs: [][2]string{{"parent_linkage", linkage(1)}, {"relative_path", "base.vhdx"}}}.put(t, dir, "child.vhdx")
		disktest.Check(t, disktest.MustOpen(t, dir, "child.vhdx", Open), disktest.Merge(base, own, has, 512))
	}
}

// TestLastChunk: the last bitmap is behind the entries of blocks that the disk
// does not have.
func TestLastChunk(t *testing.T) {
	dir := t.TempDir()
	const size = 5<<30 + 1<<20 // blocks of 256 MiB, 16 to a chunk: 16 + 5
	m := spec{size: size, block: 256 << 20, child: true, pairs: [][2]string{{"parent_linkage", linkage(1)}, {"relative_path", "base.vhdx"}}}.build()
	own := disktest.Random(1, 1<<20)
	spec{size: 1 << 20, data: own, write: [16]byte{1}}.put(t, dir, "base.vhdx")
	// Block 20, the last, is partly there: its fourth sector.
	bitmap, block := m.bat+8*(2*17-1), m.bat+8*(20+1)
	at := int64(len(m.p))
	le64(m.p[block:], uint64(at)|7)
	var sb int64
	for i := range 8 {
		sb |= int64(m.p[bitmap+int64(i)]) << (8 * i)
	}
	sb &^= 1<<20 - 1
	m.p[sb+(4<<30%(4<<30)+1<<30)/512/8] = 1 << 3
	m.p = append(m.p, own...)
	put(t, dir, "child.vhdx", m.p)
	img := disktest.MustOpen(t, dir, "child.vhdx", Open)
	want := make([]byte, 1<<20)
	copy(want[3*512:4*512], own[3*512:])
	got := make([]byte, 1<<20)
	if _, err := img.ReadAt(got, 5<<30); err != nil {
		t.Fatal(err)
	}
	disktest.Same(t, got, want)
	if _, err := img.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	disktest.Same(t, got, own)
}

// TestParentNames: each kind of name leads to the parent, in the order that the
// specification says, and a wrong file under one name does not hide the right
// one.
func TestParentNames(t *testing.T) {
	const size = 1 << 20
	base, own := disktest.Random(1, size), disktest.Random(2, size)
	has := disktest.Scattered(3, size/512)
	want := disktest.Merge(base, own, has, 512)
	parent := spec{size: size, write: [16]byte{1}, data: base}
	wrong := spec{size: size, write: [16]byte{9}, data: own}
	for _, c := range []struct {
		name    string
		at      string // the parent's path
		pairs   [][2]string
		wrongAt string
		ref     string
	}{
		{"relative", "base/p.vhdx", [][2]string{{"relative_path", `..\base\p.vhdx`}}, "", `..\base\p.vhdx`},
		{"relative before absolute", "vm/p.vhdx", [][2]string{{"absolute_win32_path", `\\?\C:\x\p.vhdx`}, {"relative_path", `.\p.vhdx`}}, "", `.\p.vhdx`},
		{"volume", "base/p.vhdx", [][2]string{{"volume_path", `\\?\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\base\p.vhdx`}}, "", `\\?\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\base\p.vhdx`},
		{"absolute, of another machine", "base/p.vhdx", [][2]string{{"relative_path", `.\gone.vhdx`}, {"absolute_win32_path", `\\?\C:\Hyper-V\base\p.vhdx`}}, "", `\\?\C:\Hyper-V\base\p.vhdx`},
		{"relative leads out", "base/p.vhdx", [][2]string{{"relative_path", `..\..\..\q.vhdx`}, {"absolute_win32_path", `\\?\C:\base\p.vhdx`}}, "", `\\?\C:\base\p.vhdx`},
		{"relative leads to another image", "base/p.vhdx", [][2]string{{"relative_path", `.\q.vhdx`}, {"absolute_win32_path", `\\?\C:\base\p.vhdx`}}, "vm/q.vhdx", `\\?\C:\base\p.vhdx`},
		{"not only ASCII", "vm/Größe 😀.vhdx", [][2]string{{"relative_path", `.\Größe 😀.vhdx`}}, "", `.\Größe 😀.vhdx`},
	} {
		for _, key := range []string{"parent_linkage", "parent_linkage2"} {
			t.Run(c.name+" "+key, func(t *testing.T) {
				dir := t.TempDir()
				for _, d := range []string{"vm", "base"} {
					if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
						t.Fatal(err)
					}
				}
				parent.put(t, dir, c.at)
				if c.wrongAt != "" {
					wrong.put(t, dir, c.wrongAt)
				}
				pairs := append([][2]string{{key, strings.ToUpper(linkage(1))}}, c.pairs...)
				if key == "parent_linkage2" { // as during a merge
					pairs = append(pairs, [2]string{"parent_linkage", linkage(77)})
				}
				spec{size: size, child: true, data: own, has: has, pairs: pairs}.put(t, dir, "vm/child.avhdx")
				img := disktest.MustOpen(t, dir, "vm/child.avhdx", Open)
				disktest.Check(t, img, want)
				if got := img.Info().Chain; got[0].Reference != c.ref || got[1].Path != c.at {
					t.Errorf("chain is %+v, want reference %q", got, c.ref)
				}
			})
		}
	}
}

// TestWrongParent: a chain that is not what it was is told, not read.
func TestWrongParent(t *testing.T) {
	const size = 1 << 20
	data := disktest.Random(1, size)
	link := func(id byte, name string) [][2]string {
		return [][2]string{{"parent_linkage", linkage(id)}, {"relative_path", name}}
	}
	none := make([]bool, size/512)
	child := spec{size: size, child: true, write: [16]byte{2}, data: data, has: none, pairs: link(1, "base.vhdx")}
	with := func(pairs ...[2]string) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			s := child
			s.pairs = pairs
			s.put(t, dir, "child.vhdx")
			spec{size: size, data: data, write: [16]byte{1}}.put(t, dir, "base.vhdx")
		}
	}
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string)
		want error
		says string
	}{
		{"missing", func(*testing.T, string) {}, disk.ErrMissing, "base.vhdx"},
		{"written to since", func(t *testing.T, dir string) {
			spec{size: size, data: data, write: [16]byte{7}}.put(t, dir, "base.vhdx")
		}, disk.ErrCorrupt, "it is not its parent, or was written to since"},
		{"no VHDX", func(t *testing.T, dir string) { put(t, dir, "base.vhdx", data) }, disk.ErrFormat, "base.vhdx"},
		{"other sectors", func(t *testing.T, dir string) {
			spec{size: size, data: data, write: [16]byte{1}, logical: 4096}.put(t, dir, "base.vhdx")
		}, disk.ErrCorrupt, "sectors of 512 bytes and its parent base.vhdx of 4096"},
		{"itself", func(t *testing.T, dir string) {
			s := child
			s.write = [16]byte{1}
			s.put(t, dir, "base.vhdx")
		}, disk.ErrCorrupt, "comes back to base.vhdx"},
		{"a loop of two", func(t *testing.T, dir string) {
			s := child
			s.write, s.pairs = [16]byte{1}, link(2, "child.vhdx")
			s.put(t, dir, "base.vhdx")
		}, disk.ErrCorrupt, "comes back to child.vhdx"},
		{"too long", func(t *testing.T, dir string) {
			for i := range disk.MaxChain {
				s := spec{size: 512, child: true, write: [16]byte{byte(i + 1)}, pairs: [][2]string{{"parent_linkage", linkage(byte(i + 2))}}}
				for k, key := range []string{"relative_path", "volume_path", "absolute_win32_path"} {
					s.pairs = append(s.pairs, [2]string{key, strings.Repeat(`.\`, k+1) + fmt.Sprintf("base%d.vhdx", i+1)})
				}
				s.put(t, dir, strings.Replace(fmt.Sprintf("base%d.vhdx", i), "base0", "base", 1))
			}
		}, disk.ErrCorrupt, "chain too long"},
		{"without an identifier", with([2]string{"relative_path", "base.vhdx"}), disk.ErrCorrupt, "without the parent's identifier"},
		{"identifier zero", with([2]string{"parent_linkage", linkage(0)}, [2]string{"relative_path", "base.vhdx"}), disk.ErrCorrupt, "without the parent's identifier"},
		{"identifier no GUID", with([2]string{"parent_linkage", "{no}"}, [2]string{"relative_path", "base.vhdx"}), disk.ErrCorrupt, "no GUID"},
		{"without a name", with([2]string{"parent_linkage", linkage(1)}), disk.ErrCorrupt, "no usable name"},
		{"a key twice", with([2]string{"parent_linkage", linkage(1)}, [2]string{"parent_linkage", linkage(1)}, [2]string{"relative_path", "base.vhdx"}), disk.ErrCorrupt, "twice"},
		{"a name with a NUL", with([2]string{"parent_linkage", linkage(1)}, [2]string{"relative_path", "base.vhdx\x00"}), disk.ErrEscape, "invalid name"},
		{"a link out of the repository", func(t *testing.T, dir string) {
			out := t.TempDir()
			spec{size: size, data: data, write: [16]byte{1}}.put(t, out, "base.vhdx")
			if err := os.Symlink(filepath.Join(out, "base.vhdx"), filepath.Join(dir, "base.vhdx")); err != nil {
				t.Fatal(err)
			}
		}, disk.ErrMissing, "base.vhdx"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			child.put(t, dir, "child.vhdx")
			c.make(t, dir)
			disktest.Refused(t, dir, "child.vhdx", Open, c.want, c.says)
		})
	}
}

// TestChanged: a file that is written to while it is read is noticed, in every
// layer.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	buildChain(t, dir, 3, 4<<20, 1<<20, 512)
	img := disktest.MustOpen(t, dir, "disk2.vhdx", Open)
	if err := img.Unchanged(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "disk0.vhdx"), 4<<20); err != nil {
		t.Fatal(err)
	}
	if err := img.Unchanged(); !errors.Is(err, disk.ErrChanged) {
		t.Errorf("error is %v", err)
	}
	if _, err := img.ReadAt(make([]byte, 4<<20), 0); err == nil {
		t.Error("a truncated file was read")
	}
}
