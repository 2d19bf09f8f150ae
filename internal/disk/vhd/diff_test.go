package vhd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

// buildChain makes disk0.vhd to disk<n-1>.vhd, each on the one before, and
// returns what the last one shows.
func buildChain(t *testing.T, dir string, n int, size, block int64, base uint32) []byte {
	t.Helper()
	has := disktest.Scattered(99, (size+511)/512)
	data := disktest.Random(0, size)
	s := spec{kind: base, size: size, block: block, id: [16]byte{1}, data: data, has: has}
	want := disktest.Merge(nil, data, has, 512)
	if base == 2 {
		s.has, want = nil, data
	}
	s.write(t, dir, "disk0.vhd")
	for i := 1; i < n; i++ {
		parent := fmt.Sprintf("disk%d.vhd", i-1)
		has, data := disktest.Scattered(uint64(i), (size+511)/512), disktest.Random(uint64(i), size)
		spec{
			kind: 4, size: size, block: block, data: data, has: has, stale: 0xaa,
			id: [16]byte{byte(i + 1)}, parent: [16]byte{byte(i)}, parentName: parent,
			locators: []place{{code: "W2ku", name: `D:\vm\` + parent}, {code: "W2ru", name: `.\` + parent}},
		}.write(t, dir, fmt.Sprintf("disk%d.vhd", i))
		want = disktest.Merge(want, data, has, 512)
	}
	return want
}

// TestDifferencing reads chains, and has 7-Zip, which shares nothing with this
// reader or the generator, read the same bytes. (QEMU reads such an image as if
// it had no parent.)
func TestDifferencing(t *testing.T) {
	for _, block := range []int64{512 << 10, 2 << 20} {
		for _, base := range []uint32{2, 3} {
			for _, links := range []int{2, 5} {
				t.Run(fmt.Sprintf("block %d base type %d links %d", block, base, links), func(t *testing.T) {
					dir := t.TempDir()
					top := fmt.Sprintf("disk%d.vhd", links-1)
					want := buildChain(t, dir, links, 5<<20+512, block, base)
					img := disktest.MustOpen(t, dir, top, Open)
					disktest.Check(t, img, want)
					disktest.Same(t, disktest.Read7z(t, filepath.Join(dir, top), "VHD"), want)
					info := img.Info()
					if info.Subformat != "differencing" || info.Cluster != block || len(info.Chain) != links || len(info.Notes) != 0 {
						t.Errorf("info is %+v", info)
					}
					if l := info.Chain[0]; l.Path != top || l.Reference != fmt.Sprintf(`.\disk%d.vhd`, links-2) || info.Chain[links-1].Reference != "" {
						t.Errorf("chain is %+v", info.Chain)
					}
					var sum int64
					for _, l := range info.Chain {
						st, err := os.Stat(filepath.Join(dir, l.Path))
						if err != nil {
							t.Fatal(err)
						}
						sum += st.Size()
					}
					if info.FileBytes != sum {
						t.Errorf("files have %d bytes, info says %d", sum, info.FileBytes)
					}
					out := disktest.Run(t, dir, "vhdiinfo", top)
					for _, s := range []string{"Differential", fmt.Sprintf("%02d000000-0000", links-1), fmt.Sprintf("disk%d.vhd", links-2)} {
						if !strings.Contains(string(out), s) {
							t.Errorf("vhdiinfo does not say %q:\n%s", s, out)
						}
					}
				})
			}
		}
	}
}

// TestExtentsOfChain: only what some layer holds is data, to the sector.
func TestExtentsOfChain(t *testing.T) {
	dir := t.TempDir()
	const size = 8 << 20
	one := func(sectors ...int) []bool {
		has := make([]bool, size/512)
		for _, s := range sectors {
			has[s] = true
		}
		return has
	}
	spec{kind: 3, size: size, id: [16]byte{1}, data: disktest.Random(1, size), has: one(3, 4096, 8191)}.write(t, dir, "base.vhd")
	spec{kind: 4, size: size, id: [16]byte{2}, parent: [16]byte{1}, parentName: "base.vhd", data: disktest.Random(2, size), has: one(4, 4095, 16383), stale: 1}.write(t, dir, "child.vhd")
	want := disktest.Merge(disktest.Merge(nil, disktest.Random(1, size), one(3, 4096, 8191), 512), disktest.Random(2, size), one(4, 4095, 16383), 512)
	img := disktest.MustOpen(t, dir, "child.vhd", Open)
	got := fmt.Sprint(disktest.CheckExtents(t, img, 0, size, want))
	if want := fmt.Sprint([]disk.Extent{{Off: 3 * 512, Len: 1024, Data: true}, {Off: 4095 * 512, Len: 1024, Data: true}, {Off: 8191 * 512, Len: 512, Data: true}, {Off: 16383 * 512, Len: 512, Data: true}}); got != want {
		t.Errorf("data is %v, want %v", got, want)
	}
}

// TestParentSize: a child may be larger or smaller than its parent.
func TestParentSize(t *testing.T) {
	for _, size := range []int64{1 << 20, 3<<20 + 512, 7 << 20} {
		dir := t.TempDir()
		base, own := disktest.Random(1, 3<<20), disktest.Random(2, size)
		has := disktest.Scattered(3, (size+511)/512)
		spec{kind: 2, size: 3 << 20, id: [16]byte{1}, data: base}.write(t, dir, "base.vhd")
		spec{kind: 4, size: size, id: [16]byte{2}, parent: [16]byte{1}, parentName: "base.vhd", data: own, has: has}.write(t, dir, "child.vhd")
		disktest.Check(t, disktest.MustOpen(t, dir, "child.vhd", Open), disktest.Merge(base, own, has, 512))
	}
}

// TestParentNames: each kind of name leads to the parent, the relative one
// first, and a wrong file under one name does not hide the right one.
func TestParentNames(t *testing.T) {
	const size = 1 << 20
	base, own := disktest.Random(1, size), disktest.Random(2, size)
	has := disktest.Scattered(3, (size+511)/512)
	want := disktest.Merge(base, own, has, 512)
	parent := spec{kind: 2, size: size, id: [16]byte{1}, data: base}
	wrong := spec{kind: 2, size: size, id: [16]byte{9}, data: own}
	for _, c := range []struct {
		name     string
		at       string // the parent's path
		locators []place
		title    string
		wrongAt  string
		ref      string
	}{
		{"relative", "base/p.vhd", []place{{code: "W2ru", name: `..\base\p.vhd`}}, "", "", `..\base\p.vhd`},
		{"relative before absolute", "vm/p.vhd", []place{{code: "W2ku", name: `C:\x\p.vhd`}, {code: "W2ru", name: `.\p.vhd`}}, "p.vhd", "", `.\p.vhd`},
		{"absolute, of another machine", "base/p.vhd", []place{{code: "W2ku", name: `C:\Hyper-V\base\p.vhd`}}, "", "", `C:\Hyper-V\base\p.vhd`},
		{"relative leads nowhere", "base/p.vhd", []place{{code: "W2ru", name: `..\gone\q.vhd`}, {code: "W2ku", name: `D:\base\p.vhd`}}, "", "", `D:\base\p.vhd`},
		{"relative leads out", "base/p.vhd", []place{{code: "W2ru", name: `..\..\..\q.vhd`}, {code: "W2ku", name: `D:\base\p.vhd`}}, "", "", `D:\base\p.vhd`},
		{"relative leads to another image", "base/p.vhd", []place{{code: "W2ru", name: `.\q.vhd`}, {code: "W2ku", name: `D:\base\p.vhd`}}, "", "vm/q.vhd", `D:\base\p.vhd`},
		{"file URL, XenServer", "vm/p.vhd", []place{{code: "MacX", name: "file://./p.vhd"}}, "", "", "./p.vhd"},
		{"file URL", "vm/a b.vhd", []place{{code: "MacX", name: "file://localhost/vm/a%20b.vhd"}}, "", "", "/vm/a b.vhd"},
		{"name only", "vm/p.vhd", nil, "p.vhd", "", "p.vhd"},
		{"not only ASCII", "vm/Größe.vhd", []place{{code: "W2ru", name: `.\Größe.vhd`}}, "", "", `.\Größe.vhd`},
		{"locators are nonsense", "vm/p.vhd", []place{{code: "W2ru", raw: make([]byte, 70000)}, {code: "W2ku", raw: []byte{1}}, {code: "Wi2k", name: "x"}}, "p.vhd", "", "p.vhd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, d := range []string{"vm", "base"} {
				if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			parent.write(t, dir, c.at)
			if c.wrongAt != "" {
				wrong.write(t, dir, c.wrongAt)
			}
			spec{kind: 4, size: size, id: [16]byte{2}, parent: [16]byte{1}, parentName: c.title, locators: c.locators, data: own, has: has}.write(t, dir, "vm/child.vhd")
			img := disktest.MustOpen(t, dir, "vm/child.vhd", Open)
			disktest.Check(t, img, want)
			if got := img.Info().Chain; got[0].Reference != c.ref || got[1].Path != c.at {
				t.Errorf("chain is %+v, want reference %q", got, c.ref)
			}
		})
	}
}

// TestParentTime: a parent with another modification time is read, with a note.
func TestParentTime(t *testing.T) {
	dir := t.TempDir()
	const size = 1 << 20
	base := disktest.Random(1, size)
	made := time.Date(2020, 2, 29, 12, 0, 0, 0, time.UTC)
	spec{kind: 2, size: size, id: [16]byte{1}, data: base}.write(t, dir, "base.vhd")
	spec{kind: 4, size: size, id: [16]byte{2}, parent: [16]byte{1}, parentName: "base.vhd", data: base, has: make([]bool, size/512), parentTime: uint32(made.Unix() - 946684800)}.write(t, dir, "child.vhd")
	for _, when := range []time.Time{made, made.Add(time.Hour)} {
		if err := os.Chtimes(filepath.Join(dir, "base.vhd"), when, when); err != nil {
			t.Fatal(err)
		}
		img := disktest.MustOpen(t, dir, "child.vhd", Open)
		disktest.Check(t, img, base)
		notes := strings.Join(img.Info().Notes, "\n")
		if when.Equal(made) != (notes == "") || notes != "" && !strings.Contains(notes, "2020-02-29T13:00:00Z") {
			t.Errorf("parent of %v: notes are %q", when, notes)
		}
	}
}

// TestWrongParent: a chain that is not what it was is told, not read.
func TestWrongParent(t *testing.T) {
	const size = 1 << 20
	data := disktest.Random(1, size)
	none := make([]bool, size/512)
	child := spec{kind: 4, size: size, id: [16]byte{2}, parent: [16]byte{1}, parentName: "base.vhd", data: data, has: none}
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string)
		want error
		says string
	}{
		{"missing", func(*testing.T, string) {}, disk.ErrMissing, "base.vhd"},
		{"another identifier", func(t *testing.T, dir string) {
			spec{kind: 2, size: size, id: [16]byte{7}, data: data}.write(t, dir, "base.vhd")
		}, disk.ErrCorrupt, "it is not its parent"},
		{"no VHD", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "base.vhd"), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}, disk.ErrFormat, "base.vhd"},
		{"a link out of the repository", func(t *testing.T, dir string) {
			out := t.TempDir()
			spec{kind: 2, size: size, id: [16]byte{1}, data: data}.write(t, out, "base.vhd")
			if err := os.Symlink(filepath.Join(out, "base.vhd"), filepath.Join(dir, "base.vhd")); err != nil {
				t.Fatal(err)
			}
		}, disk.ErrMissing, "base.vhd"},
		{"itself", func(t *testing.T, dir string) {
			s := child
			s.id = s.parent
			s.write(t, dir, "base.vhd")
		}, disk.ErrCorrupt, "comes back to base.vhd"},
		{"a loop of two", func(t *testing.T, dir string) {
			s := child
			s.id, s.parent, s.parentName = [16]byte{1}, [16]byte{2}, "child.vhd"
			s.write(t, dir, "base.vhd")
		}, disk.ErrCorrupt, "comes back to child.vhd"},
		{"too long", func(t *testing.T, dir string) {
			for i := range disk.MaxChain {
				s := child
				s.id, s.parent = [16]byte{1, byte(i)}, [16]byte{1, byte(i + 1)}
				s.parentName = fmt.Sprintf("base%d.vhd", i+1)
				// Many names to the same file must not make many tries.
				for range 8 {
					s.locators = append(s.locators, place{code: "W2ru", name: strings.Repeat(`.\`, len(s.locators)) + s.parentName})
				}
				s.write(t, dir, strings.Replace(fmt.Sprintf("base%d.vhd", i), "base0", "base", 1))
			}
		}, disk.ErrCorrupt, "chain too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			child.write(t, dir, "child.vhd")
			c.make(t, dir)
			disktest.Refused(t, dir, "child.vhd", Open, c.want, c.says)
		})
	}
}
