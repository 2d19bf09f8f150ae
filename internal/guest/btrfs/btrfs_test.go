package btrfs

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"testing"

	"ascend/internal/guest/vfs"
)

// sparse is an image of which only some nodes are there: a super block at its place, and
// what the address of each other block stands before.
type sparse struct{ parts map[int64][]byte }

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	for at, b := range s.parts {
		for i := range p {
			if k := off + int64(i) - at; k >= 0 && k < int64(len(b)) {
				p[i] = b[k]
			}
		}
	}
	return len(p), nil
}

// parts takes a file apart: 8 bytes of address, 4 of length, that many bytes, and so on.
// Checksums are made right, so that what is changed in it is looked at.
func parts(b []byte) sparse {
	s := sparse{map[int64][]byte{}}
	for len(b) >= 12 && len(s.parts) < 64 {
		at, n := int64(binary.LittleEndian.Uint64(b)&(1<<40-1)), int(binary.LittleEndian.Uint32(b[8:]))
		b = b[12:]
		n = min(n, len(b), 65536)
		p := bytes.Clone(b[:n])
		if n >= 32 {
			binary.LittleEndian.PutUint32(p, crc32.Checksum(p[32:], castagnoli))
		}
		s.parts[at] = p
		b = b[n:]
	}
	return s
}

const size = 128 << 20

// seed is the metadata of a file system that the kernel wrote (testdata/make).
func seed(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("testdata/metadata.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func walk(n vfs.Node, depth int, left *int, yield func(depth int, name string, n vfs.Node)) error {
	list, err := n.List()
	if err != nil {
		return err
	}
	for _, e := range list {
		if *left--; *left < 0 {
			return nil
		}
		c, err := e.Open()
		if err != nil {
			continue
		}
		yield(depth, e.Name, c)
		if c.Stat().Mode.IsDir() && depth < 16 {
			_ = walk(c, depth+1, left, yield) // an error is fine
		}
	}
	return nil
}

func TestMetadata(t *testing.T) {
	fs, err := Open(parts(seed(t)), size)
	if err != nil {
		t.Fatal(err)
	}
	s := fs.Super()
	if s.Label != "seed" || s.Size != size || s.Dirty || s.Free <= 0 {
		t.Errorf("%+v", s)
	}
	root, err := fs.Root()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	left := 1000
	if err := walk(root, 0, &left, func(_ int, name string, n vfs.Node) { found[name] = n.Stat().Size }); err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int64{"@": 0, "inline": 5, "sparse": 3 << 20, "link": 6} {
		if got, ok := found[name]; !ok || got != n {
			t.Errorf("%s: %d, %v of %v", name, got, ok, found)
		}
	}
	d, err := fs.Subvolume("@")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := vfs.NewTree(d).ReadFile("/inline", 10); err != nil || string(b) != "text\n" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := fs.Subvolume("@/inline"); err == nil {
		t.Error("a file is no subvolume")
	}
	if _, err := Open(bytes.NewReader(make([]byte, 1<<20)), 1<<20); !errors.Is(err, vfs.ErrFormat) {
		t.Errorf("%v", err)
	}
}

// FuzzOpen changes a real file system's metadata, checksums made right.
func FuzzOpen(f *testing.F) {
	f.Add(seed(f))
	f.Fuzz(func(_ *testing.T, b []byte) {
		fs, err := Open(parts(b), size)
		if err != nil {
			return
		}
		root, err := fs.Root()
		if err != nil {
			return
		}
		left := 200
		_ = walk(root, 0, &left, func(_ int, _ string, n vfs.Node) {
			if a, ok := n.(vfs.Attributed); ok {
				_, _ = a.XAttrs()
			}
			_, _ = n.Link()
			if r, err := n.Data(); err == nil {
				_, _ = r.ReadAt(make([]byte, 8192), 0)
			}
		})
	})
}
