package qcow2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/raw"
)

// FuzzOpen opens any bytes as an image over a backing file of sevens. What can
// be read must read the same in pieces as in one, holes must be zeros, and
// nothing may take long.
func FuzzOpen(f *testing.F) {
	data := bytes.Repeat([]byte("some data to compress "), 1000)
	r := rand.New(rand.NewPCG(1, 1))
	for _, bits := range []uint{9, 12, 14} {
		m := newImg(bits, 32<<bits)
		z := deflated(f, data[:1<<bits])
		m.l2(1, m.add(data[:1<<bits])).l2(2, m.add(data[7:7+1<<bits])).l2(3, 1).l2(5, m.entry(m.add(z), len(z)))
		f.Add(bytes.Clone(m.b))
		f.Add(bytes.Clone(m.backing("base", "raw").b))
		m.put32(4, 2)
		f.Add(bytes.Clone(m.b))
		for range 20 { // damage
			b := bytes.Clone(m.b)
			for range 3 {
				b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			}
			f.Add(b)
		}
	}
	m := newImg(14, 1<<20)
	f.Add(m.l2x(1, m.add(make([]byte, 1<<14)), 0xff0f).l2x(2, 0, 0xf0f0<<32).b)
	m = newImg(12, 1<<20).zstd()
	z := zstandard(f, data[:1<<12])
	f.Add(m.l2(1, m.entry(m.add(z), len(z))).b)

	dir := f.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "base"), bytes.Repeat([]byte{7}, 70000), 0o600); err != nil {
		f.Fatal(err)
	}
	root, err := disk.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	env := &disk.Env{Root: root, Parent: func(string, string, string) (disk.Image, error) {
		b, err := root.Open("base")
		if err != nil {
			return nil, err
		}
		return raw.Open(nil, b)
	}}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		if err := os.WriteFile(filepath.Join(dir, "a"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := root.Open("a")
		if err != nil {
			t.Fatal(err)
		}
		m, err := Open(env, file)
		if err != nil {
			known(t, err)
			return
		}
		defer func() { _ = m.Close() }()
		tour(t, m)
	})
}

func known(t *testing.T, err error) {
	t.Helper()
	for _, k := range []error{disk.ErrFormat, disk.ErrCorrupt, disk.ErrUnsupported} {
		if errors.Is(err, k) {
			return
		}
	}
	t.Fatalf("unexpected error: %v", err)
}

// tour reads a disk by its extents, up to a bound.
func tour(t *testing.T, m disk.Image) {
	t.Helper()
	stop := errors.New("enough")
	read, at := int64(0), int64(0)
	err := m.Extents(t.Context(), 0, m.Size(), func(e disk.Extent) error {
		if e.Off != at || e.Len <= 0 || e.Len > m.Size()-at {
			return fmt.Errorf("extent %+v does not continue at %d of %d", e, at, m.Size())
		}
		at += e.Len
		if read > 4<<20 {
			return stop
		}
		n := min(e.Len, 256<<10)
		read += n
		whole := bytes.Repeat([]byte{0xee}, int(n))
		if got, err := m.ReadAt(whole, e.Off); err != nil {
			known(t, err)
			return nil
		} else if int64(got) != n {
			return fmt.Errorf("read %d of %d bytes at %d", got, n, e.Off)
		}
		if !e.Data && bytes.Count(whole, []byte{0}) != len(whole) {
			return fmt.Errorf("hole %+v is not zeros", e)
		}
		pieces := bytes.Repeat([]byte{0xdd}, int(n))
		for i := 0; i < len(pieces); i += 7777 {
			p := pieces[i:min(i+7777, len(pieces))]
			if got, err := m.ReadAt(p, e.Off+int64(i)); got != len(p) || err != nil {
				return fmt.Errorf("piece at %d: %d, %w", e.Off+int64(i), got, err)
			}
		}
		if !bytes.Equal(whole, pieces) {
			return fmt.Errorf("%+v reads differently in pieces", e)
		}
		return nil
	})
	switch {
	case errors.Is(err, stop):
		return
	case err == nil && at != m.Size():
		t.Fatalf("extents end at %d of %d", at, m.Size())
	case err != nil:
		known(t, err)
		return
	}
	if info := m.Info(); info.Size != m.Size() || len(info.Chain) == 0 {
		t.Fatalf("info is %+v", info)
	}
	if n, err := m.ReadAt(make([]byte, 1), m.Size()); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("read at the end: %d, %v", n, err)
	}
}

// FuzzFrame measures zstd frames: the length found must be one that the decoder
// takes whenever it takes the input as one frame or more.
func FuzzFrame(f *testing.F) {
	data := bytes.Repeat([]byte("some data to compress "), 400)
	f.Add(zstandard(f, data))
	f.Add(append(zstandard(f, nil), zstandard(f, data[:10])...))
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decoder()
		if err != nil {
			t.Fatal(err)
		}
		want, err := d.DecodeAll(b, make([]byte, 0, 16<<10))
		if err != nil || len(b) == 0 {
			n, err := frameLen(b)
			if err == nil && (n <= 0 || n > len(b)) {
				t.Fatalf("frame of %d in %d bytes", n, len(b))
			}
			return
		}
		var got []byte
		for rest := b; len(rest) > 0; {
			n, err := frameLen(rest)
			if err != nil {
				t.Fatalf("the decoder takes what has no frame: %v", err)
			}
			out, err := d.DecodeAll(rest[:n], make([]byte, 0, 16<<10))
			if err != nil {
				t.Fatalf("frame of %d bytes: %v", n, err)
			}
			got = append(got, out...)
			rest = rest[n:]
		}
		if !bytes.Equal(got, want) {
			t.Fatal("frames decode to something else than the whole")
		}
	})
}
