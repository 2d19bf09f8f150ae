package disk

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestPart(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, 3<<20)
	copy(content[1<<20:], "a member of an archive")
	copy(content[2<<20:], "the next member")
	path := filepath.Join(dir, "archive")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f, err := root.Open("archive")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][2]int64{{-1, 1}, {0, -1}, {3<<20 + 1, 0}, {1, 3 << 20}, {1 << 62, 1 << 62}, {0, 1<<63 - 1}} {
		if _, err := f.Part("bad", bad[0], bad[1]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("Part(%d, %d): %v, want ErrCorrupt", bad[0], bad[1], err)
		}
	}
	const size = 1<<20 - 100
	p, err := f.Part("archive#member", 1<<20, size)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Name() != "archive#member" || p.Size() != size {
		t.Errorf("the part is %q of %d bytes", p.Name(), p.Size())
	}
	got := make([]byte, size+500)
	if n, err := p.ReadAt(got, 0); n != size || !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], content[1<<20:1<<20+size]) {
		t.Errorf("reading beyond the part gives %d bytes, %v", n, err)
	}
	if n, err := p.ReadAt(got[:22], 0); n != 22 || err != nil || string(got[:22]) != "a member of an archive" {
		t.Errorf("read %q, %v", got[:n], err)
	}
	if n, err := p.ReadAt(got[:1], size); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("reading at the part's end gives %d bytes, %v", n, err)
	}
	if _, err := p.ReadAt(got[:1], -1); err == nil {
		t.Error("reading before the part gives no error")
	}
	var covered int64
	if err := p.Extents(t.Context(), 0, size, func(e Extent) error {
		if e.Off != covered || e.Len <= 0 {
			t.Errorf("extent %+v after %d bytes", e, covered)
		}
		covered = e.Off + e.Len
		return nil
	}); err != nil || covered != size {
		t.Errorf("the extents cover %d of %d bytes, %v", covered, size, err)
	}
	if err := p.Unchanged(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Unchanged(); !errors.Is(err, ErrChanged) {
		t.Errorf("the file was changed: %v", err)
	}
}
