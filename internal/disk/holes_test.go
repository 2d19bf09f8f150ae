package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// sparse makes a file of size bytes with data in the given ranges.
func sparse(t *testing.T, size int64, data ...Extent) *File {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, d := range data {
		if _, err := f.WriteAt(bytes.Repeat([]byte{1}, int(d.Len)), d.Off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	root, err := OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	file, err := root.Open("disk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func fileExtents(t *testing.T, f *File, off, n int64) []Extent {
	t.Helper()
	var got []Extent
	if err := f.Extents(t.Context(), off, n, func(e Extent) error {
		got = append(got, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestFileExtents(t *testing.T) {
	const m = 1 << 20
	f := sparse(t, 8*m+512, Extent{Off: m, Len: m}, Extent{Off: 4 * m, Len: 2 * m}, Extent{Off: 8 * m, Len: 512})
	all := []Extent{
		{0, m, false}, {m, m, true}, {2 * m, 2 * m, false}, {4 * m, 2 * m, true}, {6 * m, 2 * m, false}, {8 * m, 512, true},
	}
	for _, c := range []struct {
		name   string
		off, n int64
		want   []Extent
	}{
		{"whole", 0, 8*m + 512, all},
		{"beyond the end", 0, 1 << 62, all},
		{"from within data to within data", m + 512, 4 * m, []Extent{{m + 512, m - 512, true}, {2 * m, 2 * m, false}, {4 * m, m + 512, true}}},
		{"within a hole", 2*m + 1, 7, []Extent{{2*m + 1, 7, false}}},
		{"within data", 4*m + 1, 7, []Extent{{4*m + 1, 7, true}}},
		{"nothing", m, 0, nil},
		{"after the end", 9 * m, m, nil},
	} {
		if got := fileExtents(t, f, c.off, c.n); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	if got := fileExtents(t, sparse(t, 3*m), 0, 3*m); !slices.Equal(got, []Extent{{0, 3 * m, false}}) {
		t.Errorf("a file of one hole: got %v", got)
	}
	if got := fileExtents(t, sparse(t, 0), 0, m); got != nil {
		t.Errorf("an empty file: got %v", got)
	}
}

func TestFileExtentsStops(t *testing.T) {
	f := sparse(t, 1<<20, Extent{Off: 1 << 19, Len: 4096})
	stop := errors.New("enough")
	calls := 0
	err := f.Extents(t.Context(), 0, 1<<20, func(Extent) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("got %v after %d calls, want yield's own error after one", err, calls)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Extents(ctx, 0, 1<<20, func(Extent) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: got %v", err)
	}
	for _, r := range [][2]int64{{-1, 1}, {0, -1}} {
		if err := f.Extents(t.Context(), r[0], r[1], func(Extent) error { return nil }); err == nil {
			t.Errorf("range %v: no error", r)
		}
	}
}

// TestExtentsAgain: what was found before does not change what is found, in
// whatever order it is asked for.
func TestExtentsAgain(t *testing.T) {
	const m = 1 << 20
	f := sparse(t, 64*m, Extent{Off: 8 * m, Len: 4 * m}, Extent{Off: 32 * m, Len: 32 * m})
	for range 2 {
		for _, c := range []struct {
			off, n int64
			want   []Extent
		}{
			{0, 64 * m, []Extent{{0, 8 * m, false}, {8 * m, 4 * m, true}, {12 * m, 20 * m, false}, {32 * m, 32 * m, true}}},
			{40 * m, m, []Extent{{40 * m, m, true}}},
			{9 * m, 2 * m, []Extent{{9 * m, 2 * m, true}}},
			{33 * m, 3 * m, []Extent{{33 * m, 3 * m, true}}},
			{31 * m, 2 * m, []Extent{{31 * m, m, false}, {32 * m, m, true}}},
		} {
			if got := fileExtents(t, f, c.off, c.n); !slices.Equal(got, c.want) {
				t.Errorf("[%d, +%d): %v, want %v", c.off, c.n, got, c.want)
			}
		}
	}
}

// TestPreallocated: space that was set aside and not written reads as zeros, and
// is a hole although it takes place.
func TestPreallocated(t *testing.T) {
	const m = 1 << 20
	f := sparse(t, 64*m, Extent{Off: 8 * m, Len: m})
	w, err := os.OpenFile(f.Fd().Name(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := errors.Join(unix.Fallocate(int(w.Fd()), 0, 0, 64*m), w.Sync()); err != nil {
		t.Fatal(err)
	}
	again, err := OpenDevice(f.Fd().Name())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	var data int64
	for _, e := range fileExtents(t, again, 0, 64*m) {
		if e.Data {
			data += e.Len
		}
	}
	if data > 2*m {
		t.Errorf("%d bytes are data, 1 MiB was written", data)
	}
}

// TestReadFull tells a file that became shorter from a range that never was in it.
func TestReadFull(t *testing.T) {
	f := sparse(t, 4096, Extent{Off: 0, Len: 4096})
	p := make([]byte, 1024)
	if err := f.ReadFull(p, 3072); err != nil || p[1023] != 1 {
		t.Errorf("last bytes: %v", err)
	}
	if err := f.ReadFull(p, 3073); !errors.Is(err, ErrCorrupt) {
		t.Errorf("beyond the end: %v", err)
	}
	if err := os.Truncate(f.Fd().Name(), 2048); err != nil {
		t.Fatal(err)
	}
	if err := f.ReadFull(p, 3072); !errors.Is(err, ErrChanged) {
		t.Errorf("shortened: %v", err)
	}
}
