package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
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
