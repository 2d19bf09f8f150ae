package qcow2

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

// files is size bytes of files of the system: real data for compression.
func files(tb testing.TB, size int) []byte {
	tb.Helper()
	var b []byte
	err := filepath.WalkDir("/usr/lib", func(p string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fs.SkipDir // not ours to read
		case !e.Type().IsRegular():
			return nil
		}
		d, err := os.ReadFile(p)
		if b = append(b, d[:min(len(d), size-len(b), 256<<10)]...); len(b) == size {
			return filepath.SkipAll
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	if len(b) < size {
		tb.Fatalf("only %d bytes in /usr/lib", len(b))
	}
	return b
}

// rawFile writes a raw disk of size bytes with data in some places, the first
// and the last sector among them.
func rawFile(tb testing.TB, path string, size int) []byte {
	tb.Helper()
	b := make([]byte, size)
	src := files(tb, 1<<20)
	r := rand.New(rand.NewPCG(1, uint64(size)))
	for range 6 {
		at := r.IntN(size)
		copy(b[at:min(size, at+r.IntN(size/6))], src)
	}
	copy(b[:512], src[4096:])
	copy(b[max(size-512, 0):], src[8192:])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return b
}

// check compares an image with want, and its extents with qemu-img's: exactly,
// on copies of the files in dir without holes, which QEMU mostly does not see.
func check(t *testing.T, dir, name string, want []byte) {
	t.Helper()
	disktest.Check(t, mustOpen(t, dir, name), want)
	full := t.TempDir()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		disktest.Run(t, dir, "cp", "--sparse=never", e.Name(), full)
	}
	qemu := qemuMap(t, full, name)
	got := extents(t, mustOpen(t, full, name), 0, int64(len(want)))
	if !slices.Equal(got, qemu) {
		t.Fatalf("extents are\n%v, qemu-img has\n%v", got, qemu)
	}
	sparse := extents(t, mustOpen(t, dir, name), 0, int64(len(want)))
	for _, e := range sparse {
		for _, q := range qemu {
			if e.Data && !q.Data && e.Off < q.Off+q.Len && q.Off < e.Off+e.Len {
				t.Fatalf("%+v is data, qemu-img has %+v", e, q)
			}
		}
	}
}

// Every kind of image that qemu-img makes of a raw disk reads as that disk.
func TestConvert(t *testing.T) {
	for _, c := range []struct {
		options    string
		compressed bool
		size       int
	}{
		{"cluster_size=512", false, 1<<20 + 512},
		{"cluster_size=4096,compat=0.10", false, 5<<20 - 512},
		{"cluster_size=65536", false, 9<<20 + 12<<10},
		{"cluster_size=2M", false, 9<<20 + 512},
		{"cluster_size=65536,lazy_refcounts=on", false, 4 << 20},
		{"cluster_size=65536,preallocation=metadata", false, 9 << 20},
		{"cluster_size=16384,extended_l2=on", false, 9<<20 + 512},
		{"cluster_size=2M,extended_l2=on", false, 9<<20 + 1536},
		{"cluster_size=65536,refcount_bits=1", false, 512},
		{"cluster_size=512", true, 1<<20 + 512},
		{"cluster_size=4096,compat=0.10", true, 5<<20 + 512},
		{"cluster_size=65536", true, 9<<20 + 12<<10},
		{"cluster_size=2M", true, 9<<20 + 512},
		{"cluster_size=65536,extended_l2=on", true, 5 << 20},
		{"cluster_size=4096,compression_type=zstd", true, 5<<20 + 512},
		{"cluster_size=65536,compression_type=zstd", true, 9<<20 + 12<<10},
		{"cluster_size=2M,compression_type=zstd", true, 9<<20 + 512},
	} {
		t.Run(fmt.Sprintf("%s,%t,%d", c.options, c.compressed, c.size), func(t *testing.T) {
			t.Parallel()
			tmp, dir := t.TempDir(), t.TempDir()
			want := rawFile(t, filepath.Join(tmp, "raw"), c.size)
			args := []string{"convert", "-f", "raw", "-O", "qcow2", "-o", c.options}
			if c.compressed {
				args = append(args, "-c")
			}
			qemuImg(t, tmp, append(args, "raw", filepath.Join(dir, "a.qcow2"))...)
			check(t, dir, "a.qcow2", want)
			info := mustOpen(t, dir, "a.qcow2").Info()
			if info.Format != "qcow2" || info.Size != int64(c.size) || len(info.Notes) > 0 || info.Compressed != c.compressed {
				t.Errorf("info is %+v", info)
			}
		})
	}
}

// script is random writes, zero writes and discards on a disk of size bytes.
func script(r *rand.Rand, size, n int) (commands []string) {
	commands = []string{fmt.Sprintf("write -q -P %d 0 512", 1+r.IntN(255)), fmt.Sprintf("write -q -P %d %d 512", 1+r.IntN(255), size-512)}
	for range n {
		unit := []int{512, 4096, 64 << 10}[r.IntN(3)]
		at := r.IntN(size/unit) * unit
		length := min((1+r.IntN(1<<r.IntN(8)))*unit, size-at)
		switch r.IntN(6) {
		case 0:
			commands = append(commands, fmt.Sprintf("write -q -z %d %d", at, length))
		case 1:
			commands = append(commands, fmt.Sprintf("write -q -z -u %d %d", at, length))
		case 2:
			commands = append(commands, fmt.Sprintf("discard -q %d %d", at, length))
		default:
			commands = append(commands, fmt.Sprintf("write -q -P %d %d %d", 1+r.IntN(255), at, length))
		}
	}
	return commands
}

// Chains of images of different sizes, cluster sizes and versions over a raw or
// a compressed base.
func TestChain(t *testing.T) {
	type link struct {
		options string
		size    int
	}
	for name, c := range map[string]struct {
		base  string
		links []link
	}{
		"1":         {"", []link{{"cluster_size=65536", 6 << 20}}},
		"2":         {"", []link{{"cluster_size=65536", 5<<20 + 512}, {"cluster_size=65536", 8 << 20}}},
		"2 shorter": {"", []link{{"cluster_size=65536", 8 << 20}, {"cluster_size=4096", 5<<20 + 512}}},
		"on raw":    {"raw", []link{{"cluster_size=65536", 9<<20 + 512}}},
		"on zlib":   {"zlib", []link{{"cluster_size=512", 3 << 20}, {"cluster_size=2M", 7 << 20}}},
		"v2":        {"", []link{{"compat=0.10", 5 << 20}, {"compat=0.10,cluster_size=4096", 6 << 20}}},
		"5": {"zstd", []link{
			{"cluster_size=65536", 6<<20 + 1024}, {"cluster_size=65536,extended_l2=on", 4 << 20}, {"cluster_size=4096", 9 << 20},
			{"cluster_size=1M,extended_l2=on,lazy_refcounts=on", 8<<20 + 512}, {"cluster_size=65536", 7<<20 + 512},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, tmp := t.TempDir(), t.TempDir()
			below, format := "", "qcow2"
			switch c.base {
			case "raw":
				below, format = "base", "raw"
				rawFile(t, filepath.Join(dir, below), 5<<20)
			case "zlib", "zstd":
				below = "base"
				rawFile(t, filepath.Join(tmp, "raw"), 5<<20)
				qemuImg(t, tmp, "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "cluster_size=256k,compression_type="+c.base, "raw", filepath.Join(dir, below))
			}
			r := rand.New(rand.NewPCG(3, uint64(len(name))))
			for i, l := range c.links {
				top := fmt.Sprintf("l%d.qcow2", i)
				args := []string{"create", "-q", "-f", "qcow2", "-o", l.options}
				if below != "" {
					args = append(args, "-b", below, "-F", format)
				}
				qemuImg(t, dir, append(args, top, fmt.Sprint(l.size))...)
				qemuIO(t, dir, top, script(r, l.size, 40)...)
				below, format = top, "qcow2"
			}
			check(t, dir, below, content(t, dir, below))

			info := mustOpen(t, dir, below).Info()
			links := len(c.links)
			if c.base != "" {
				links++
			}
			var bytes int64
			for i, l := range info.Chain {
				st, err := os.Stat(filepath.Join(dir, l.Path))
				if err != nil {
					t.Fatal(err)
				}
				bytes += st.Size()
				if !l.Modified.Equal(st.ModTime()) || i+1 < len(info.Chain) && l.Reference != info.Chain[i+1].Path {
					t.Errorf("layer %d is %+v", i, l)
				}
			}
			if len(info.Chain) != links || info.FileBytes != bytes {
				t.Errorf("info is %+v; %d files of %d bytes", info, links, bytes)
			}
		})
	}
}

// An overlay with compressed clusters over plain ones, and partly overwritten.
func TestMixed(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "a", "8M")
	qemuIO(t, dir, "a", "write -q -P 1 0 1M", "write -q -c -P 2 1M 128k", "write -q -P 3 1100k 4k", "write -q -c -P 4 3M 64k", "write -q -P 1 4M 4M")
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2", "b", "10M")
	qemuIO(t, dir, "b", "write -q -c -P 5 0 64k", "write -q -c -P 6 9M 192k", "write -q -z 9280k 4k")
	check(t, dir, "b", content(t, dir, "b"))
	if !mustOpen(t, dir, "b").Info().Compressed {
		t.Error("not seen to be compressed")
	}
}

// Any number of goroutines may read, whatever they share.
func TestConcurrent(t *testing.T) {
	tmp, dir := t.TempDir(), t.TempDir()
	rawFile(t, filepath.Join(tmp, "raw"), 12<<20)
	qemuImg(t, tmp, "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "cluster_size=2M", "raw", filepath.Join(dir, "a"))
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "-b", "a", "-F", "qcow2", "b", "13M")
	qemuIO(t, dir, "b", script(rand.New(rand.NewPCG(5, 5)), 13<<20, 30)...)
	want := content(t, dir, "b")
	img := mustOpen(t, dir, "b")
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(6, uint64(g)))
			p := make([]byte, 1<<20)
			for range 60 {
				off := r.IntN(len(want))
				n, err := img.ReadAt(p[:1+r.IntN(1<<r.IntN(21))], int64(off))
				if n == 0 || err != nil && off+n != len(want) || !bytes.Equal(p[:n], want[off:off+n]) {
					t.Errorf("%d bytes at %d: %v", n, off, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// Preallocated tables refer to clusters that were never written; the file's
// holes tell.
func TestPreallocated(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "a", "256M")
	qemuIO(t, dir, "a", "write -q -P 7 100M 1M")
	img := mustOpen(t, dir, "a")
	m, err := disk.ReadMap(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if m.Bytes() > 2<<20 || !m.Has(100<<20/disk.LeafSize) {
		t.Errorf("%d bytes are allocated, 1 MiB was written", m.Bytes())
	}
	check(t, dir, "a", content(t, dir, "a"))
}

// A chain made on another machine, whose paths are absolute there.
func TestMoved(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "base.qcow2", "3M")
	qemuIO(t, dir, "base.qcow2", "write -q -P 9 1M 1M")
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
	want := content(t, dir, "top.qcow2")
	qemuImg(t, dir, "rebase", "-u", "-b", "/var/lib/another/machine/base.qcow2", "-F", "qcow2", "top.qcow2")
	img := mustOpen(t, dir, "top.qcow2")
	disktest.Check(t, img, want)
	if c := img.Info().Chain; c[0].Reference != "/var/lib/another/machine/base.qcow2" || c[1].Path != "base.qcow2" {
		t.Errorf("chain is %+v", c)
	}
	// Without a format for the backing file, as older programs wrote it, the
	// caller is asked to tell it.
	patch(t, dir, "top.qcow2", func(b []byte) []byte {
		binary.BigEndian.PutUint32(b[bytes.Index(b, []byte("\xe2\x79\x2a\xca")):], 0x12345678)
		return b
	})
	disktest.Check(t, mustOpen(t, dir, "top.qcow2"), want)
}

func TestSnapshots(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "a", "4M")
	qemuIO(t, dir, "a", "write -q -P 1 0 2M")
	qemuImg(t, dir, "snapshot", "-c", "before", "a")
	qemuIO(t, dir, "a", "write -q -P 2 1M 2M")
	check(t, dir, "a", content(t, dir, "a"))
	if n := mustOpen(t, dir, "a").Info().Notes; len(n) != 1 || !strings.Contains(n[0], "snapshots (1)") {
		t.Errorf("notes are %q", n)
	}
}

// Closing and Unchanged reach the whole chain.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "a", "4M")
	qemuIO(t, dir, "a", "write -q -P 1 0 2M")
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2", "b")
	img := mustOpen(t, dir, "b")
	if err := img.Unchanged(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "a"), 1<<20); err != nil {
		t.Fatal(err)
	}
	wantErr(t, img.Unchanged(), disk.ErrChanged)
	_, err := img.ReadAt(make([]byte, 2<<20), 0)
	wantErr(t, err, disk.ErrChanged)
	if err := img.Close(); err != nil {
		t.Fatal(err)
	}
	for l := img.(*layer); l != nil; l, _ = l.parent.(*layer) {
		wantErr(t, l.f.Close(), os.ErrClosed)
	}
}
