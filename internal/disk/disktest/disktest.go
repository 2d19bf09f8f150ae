// Package disktest holds what the tests of the image readers share: opening a
// chain in a folder, comparing a disk with the bytes it must have, and running
// the programs that serve as independent readers.
package disktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ascend/internal/disk"
)

// Open opens the image name in the folder dir with driver. Parents are opened
// with the same driver, by the rules of disk.Env.
func Open(tb testing.TB, dir, name string, driver disk.Driver) (disk.Image, error) {
	tb.Helper()
	root, err := disk.OpenRoot(dir)
	if err != nil {
		tb.Fatal(err)
	}
	defer root.Close()
	f, err := root.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	return driver(env(root, driver, []string{name}), f)
}

func env(root *disk.Root, driver disk.Driver, above []string) *disk.Env {
	part := func(from, ref string) (*disk.File, error) {
		name, err := root.Resolve(from, ref)
		if err != nil {
			return nil, err
		}
		return root.Open(name)
	}
	return &disk.Env{Root: root, Part: part, Parent: func(from, ref, _ string) (disk.Image, error) {
		if len(above) >= disk.MaxChain {
			return nil, fmt.Errorf("chain too long: %w", disk.ErrCorrupt)
		}
		f, err := part(from, ref)
		if err != nil {
			return nil, err
		}
		for _, a := range above {
			if same, err := f.Same(root, a); err != nil || same {
				f.Close()
				return nil, fmt.Errorf("chain comes back to %s: %w", a, disk.ErrCorrupt)
			}
		}
		return driver(env(root, driver, append(above[:len(above):len(above)], f.Name())), f)
	}}
}

// MustOpen is Open where failing is not expected. The image is closed with the
// test.
func MustOpen(tb testing.TB, dir, name string, driver disk.Driver) disk.Image {
	tb.Helper()
	img, err := Open(tb, dir, name, driver)
	if err != nil {
		tb.Fatalf("cannot open %s: %v", name, err)
	}
	tb.Cleanup(func() { img.Close() })
	return img
}

// Check compares the disk with want: read as a whole, in random pieces and past
// its end, and its extents, which must cover it and call no data a hole.
func Check(tb testing.TB, img disk.Disk, want []byte) {
	tb.Helper()
	if img.Size() != int64(len(want)) {
		tb.Fatalf("size is %d, want %d", img.Size(), len(want))
	}
	got := make([]byte, len(want))
	if n, err := img.ReadAt(got, 0); n != len(want) || err != nil && !errors.Is(err, io.EOF) {
		tb.Fatalf("read %d of %d bytes: %v", n, len(want), err)
	}
	Same(tb, got, want)
	r := rand.New(rand.NewPCG(1, uint64(len(want))))
	for range 100 {
		if len(want) == 0 {
			break
		}
		off := r.Int64N(int64(len(want)))
		n := min(int64(len(want))-off, 1+r.Int64N(1<<r.IntN(22)))
		p := bytes.Repeat([]byte{0xee}, int(n))
		if got, err := img.ReadAt(p, off); int64(got) != n || err != nil {
			tb.Fatalf("read %d of %d bytes at %d: %v", got, n, off, err)
		}
		if !bytes.Equal(p, want[off:off+n]) {
			tb.Fatalf("%d bytes at %d are not as they must be", n, off)
		}
		CheckExtents(tb, img, off, n, want[off:off+n])
	}
	if n, err := img.ReadAt(make([]byte, 8), img.Size()); n != 0 || !errors.Is(err, io.EOF) {
		tb.Fatalf("read at the end gave %d bytes and %v, want io.EOF", n, err)
	}
	CheckExtents(tb, img, 0, img.Size(), want)
	if err := img.Unchanged(); err != nil {
		tb.Fatal(err)
	}
}

// CheckExtents asks for the extents of [off, off+n), whose content is want, and
// returns those of data.
func CheckExtents(tb testing.TB, img disk.Disk, off, n int64, want []byte) []disk.Extent {
	tb.Helper()
	var data []disk.Extent
	at := off
	err := img.Extents(context.Background(), off, n, func(e disk.Extent) error {
		if e.Off != at || e.Len <= 0 || e.Len > off+n-at {
			return fmt.Errorf("extent %+v does not continue at %d", e, at)
		}
		at += e.Len
		if e.Data {
			data = append(data, e)
		} else if i := NonZero(want[e.Off-off : e.Off-off+e.Len]); i >= 0 {
			return fmt.Errorf("hole %+v has data at %d", e, e.Off+int64(i))
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	if at != off+n {
		tb.Fatalf("extents of [%d, %d) end at %d", off, off+n, at)
	}
	return data
}

// NonZero is the index of the first byte of p that is not zero; -1 when all are.
func NonZero(p []byte) int {
	if bytes.Count(p, []byte{0}) == len(p) {
		return -1
	}
	for i, b := range p {
		if b != 0 {
			return i
		}
	}
	return -1
}

// Same fails the test at the first byte at which got and want differ.
func Same(tb testing.TB, got, want []byte) {
	tb.Helper()
	if bytes.Equal(got, want) {
		return
	}
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			tb.Fatalf("byte %d (sector %d) is %#x, want %#x", i, i/512, got[i], want[i])
		}
	}
	tb.Fatalf("%d bytes, want %d", len(got), len(want))
}

// Run runs a program in dir and returns what it wrote to standard output; the
// test fails when the program is missing or fails.
func Run(tb testing.TB, dir, program string, args ...string) []byte {
	tb.Helper()
	out, err := TryRun(tb, dir, program, args...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// TryRun is Run that returns the program's failure.
func TryRun(tb testing.TB, dir, program string, args ...string) ([]byte, error) {
	tb.Helper()
	packages := map[string]string{"qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "7zz": "7zip", "vhdiinfo": "libvhdi-utils", "vmdkinfo": "libvmdk-utils", "qcowinfo": "libqcow-utils"}
	if _, err := exec.LookPath(program); err != nil {
		tb.Fatalf("%s is missing; install the Debian package %s", program, packages[program])
	}
	cmd := exec.CommandContext(tb.Context(), program, args...)
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s %q: %w: %s%s", program, args, err, errs.Bytes(), out[:min(len(out), 2000)])
	}
	return out, nil
}

// Read7z is the disk of an image as 7-Zip reads it; kind is 7-Zip's name of the
// format.
func Read7z(tb testing.TB, path, kind string) []byte {
	tb.Helper()
	return Run(tb, filepath.Dir(path), "7zz", "e", "-so", "-y", "-t"+kind, filepath.Base(path))
}

// Refused fails the test unless opening the image name in dir fails with want,
// says so, and does it at once.
func Refused(tb testing.TB, dir, name string, driver disk.Driver, want error, says string) {
	tb.Helper()
	start := time.Now()
	img, err := Open(tb, dir, name, driver)
	if err == nil {
		img.Close()
	}
	if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), says) {
		tb.Errorf("error is %v, want %v with %q", err, want, says)
	}
	if d := time.Since(start); d > 5*time.Second {
		tb.Errorf("took %v", d)
	}
}

// Concurrent reads a disk, whose bytes are want, from many goroutines at once.
func Concurrent(t *testing.T, img disk.Disk, want []byte) {
	t.Helper()
	size := int64(len(want))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			p := make([]byte, 300000)
			for range 40 {
				off := r.Int64N(size)
				n := min(int64(len(p)), size-off)
				if _, err := img.ReadAt(p[:n], off); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(p[:n], want[off:off+n]) {
					t.Errorf("%d bytes at %d differ", n, off)
					return
				}
			}
			at := int64(0)
			if err := img.Extents(t.Context(), 0, size, func(e disk.Extent) error { at = e.Off + e.Len; return nil }); err != nil || at != size {
				t.Errorf("extents end at %d: %v", at, err)
			}
		})
	}
	wg.Wait()
}

// Random is n bytes of noise.
func Random(seed uint64, n int64) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	if _, err := r.Read(p); err != nil {
		panic(err)
	}
	return p
}

// Scattered marks sectors in runs of all lengths, leaving whole blocks out.
func Scattered(seed uint64, sectors int64) []bool {
	has := make([]bool, sectors)
	r := rand.New(rand.NewPCG(seed, 7))
	for i := 0; i < len(has); {
		n := 1 + r.IntN(1<<r.IntN(14))
		on := r.IntN(2) == 0
		for ; n > 0 && i < len(has); n, i = n-1, i+1 {
			has[i] = on
		}
	}
	return has
}

// Merge is what a child shows: its own sectors over the parent's bytes.
func Merge(parent, own []byte, has []bool, sector int) []byte {
	out := make([]byte, len(own))
	copy(out, parent)
	for i, on := range has {
		if on {
			copy(out[i*sector:min((i+1)*sector, len(own))], own[i*sector:])
		}
	}
	return out
}
