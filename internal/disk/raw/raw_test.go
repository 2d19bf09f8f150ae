package raw

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"ascend/internal/disk"
)

func open(t *testing.T, path string) disk.Image {
	t.Helper()
	root, err := disk.OpenRoot(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	f, err := root.Open(filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	img, err := Open(&disk.Env{Root: root}, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = img.Close() })
	return img
}

func extents(t *testing.T, d disk.Disk, off, n int64) []disk.Extent {
	t.Helper()
	var all []disk.Extent
	err := d.Extents(context.Background(), off, n, func(e disk.Extent) error {
		all = append(all, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// sparse makes a file of holes and data, of odd size, and returns its bytes.
func sparse(t *testing.T) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk.raw")
	const size = 9<<20 + 12345
	content = make([]byte, size)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, r := range [][2]int{{1 << 20, 4096}, {3 << 20, 1 << 20}, {8 << 20, 100}, {size - 3, 3}} {
		p := content[r[0] : r[0]+r[1]]
		for i := range p {
			p[i] = byte(rnd.Uint32() | 1)
		}
		if _, err := f.WriteAt(p, int64(r[0])); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	// The disk ends with a whole sector.
	return path, append(content, make([]byte, -size&511)...)
}

func TestReadAt(t *testing.T) {
	path, want := sparse(t)
	img := open(t, path)
	if img.Size() != int64(len(want)) {
		t.Fatalf("size %d, want %d", img.Size(), len(want))
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(2, uint64(g)))
			for range 200 {
				off := rnd.IntN(len(want))
				p := make([]byte, rnd.IntN(300<<10))
				n, err := img.ReadAt(p, int64(off))
				rest := want[off:min(off+len(p), len(want))]
				if !bytes.Equal(p[:n], rest) || n < len(p) && !errors.Is(err, io.EOF) || n == len(p) && err != nil {
					t.Errorf("%d bytes at %d: %d, %v", len(p), off, n, err)
				}
			}
		})
	}
	wg.Wait()
	if n, err := img.ReadAt(make([]byte, 1), img.Size()); n != 0 || err != io.EOF {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	if _, err := img.ReadAt(make([]byte, 1), -1); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("before the start: %v", err)
	}
}

// The extents cover the disk, hide no data, and are those that qemu-img tells.
func TestExtents(t *testing.T) {
	path, want := sparse(t)
	img := open(t, path)
	all := extents(t, img, 0, 1<<62)
	var at, data int64
	for _, e := range all {
		if e.Off != at || e.Len <= 0 {
			t.Fatalf("extent %+v after offset %d", e, at)
		}
		at += e.Len
		if e.Data {
			data += e.Len
		} else if p := want[e.Off:at]; !bytes.Equal(p, make([]byte, len(p))) {
			t.Fatalf("%+v is not zeros", e)
		}
	}
	if at != img.Size() {
		t.Fatalf("extents end at %d", at)
	}
	if data > 2<<20 {
		t.Fatalf("%d bytes are data: the holes are lost", data)
	}

	out, err := exec.Command("qemu-img", "map", "-f", "raw", "--output=json", path).Output()
	if err != nil {
		t.Fatalf("qemu-img (package qemu-utils) is needed: %v", err)
	}
	var qemu []struct {
		Start, Length int64
		Data          bool
	}
	if err := json.Unmarshal(out, &qemu); err != nil {
		t.Fatal(err)
	}
	if len(qemu) != len(all) {
		t.Fatalf("%d extents, qemu-img has %d", len(all), len(qemu))
	}
	for i, q := range qemu {
		if (disk.Extent{Off: q.Start, Len: q.Length, Data: q.Data}) != all[i] {
			t.Errorf("extent %d is %+v, qemu-img has %+v", i, all[i], q)
		}
	}

	part := extents(t, img, 3<<20+5, 1<<20)
	if len(part) != 2 || part[0] != (disk.Extent{Off: 3<<20 + 5, Len: 1<<20 - 5, Data: true}) || part[1].Data || part[1].Len != 5 {
		t.Errorf("part of the disk: %+v", part)
	}
	stop := errors.New("stop")
	if err := img.Extents(context.Background(), 0, img.Size(), func(disk.Extent) error { return stop }); err != stop {
		t.Errorf("yield's error came back as %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := img.Extents(ctx, 0, img.Size(), func(disk.Extent) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestEmptyAndInfo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	img := open(t, path)
	if got := extents(t, img, 0, 100); len(got) != 0 {
		t.Errorf("extents of nothing: %v", got)
	}
	if n, err := img.ReadAt(make([]byte, 1), 0); n != 0 || err != io.EOF {
		t.Errorf("read of nothing: %d, %v", n, err)
	}
	info := img.Info()
	if info.Format != "raw" || info.Size != 0 || len(info.Chain) != 1 || info.Chain[0].Path != "empty" {
		t.Errorf("info %+v", info)
	}
}

func TestChanged(t *testing.T) {
	path, want := sparse(t)
	img := open(t, path)
	if err := img.Unchanged(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4<<20); err != nil {
		t.Fatal(err)
	}
	if err := img.Unchanged(); !errors.Is(err, disk.ErrChanged) {
		t.Errorf("cut file: %v", err)
	}
	p := make([]byte, 2<<20)
	if n, err := img.ReadAt(p, 3<<20); !errors.Is(err, disk.ErrChanged) || !bytes.Equal(p[:n], want[3<<20:4<<20]) {
		t.Errorf("read over the new end: %d, %v", n, err)
	}
}

func TestTooLarge(t *testing.T) {
	// tmpfs: ext4 has no files of this size.
	big, err := os.CreateTemp("/dev/shm", "ascend-raw-")
	if err != nil {
		t.Fatal(err)
	}
	path := big.Name()
	defer func() { _ = os.Remove(path) }()
	if err := errors.Join(big.Truncate(disk.MaxSize+1), big.Close()); err != nil {
		t.Fatal(err)
	}
	root, err := disk.OpenRoot("/dev/shm")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	f, err := root.Open(filepath.Base(path))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(&disk.Env{Root: root}, f); !errors.Is(err, disk.ErrUnsupported) {
		t.Fatalf("%v, want ErrUnsupported", err)
	}
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file was left open: %v", err)
	}
}
