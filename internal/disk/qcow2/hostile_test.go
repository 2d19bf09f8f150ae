package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

// quick fails the test when f does not come to an end soon.
func quick(t *testing.T, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if d := time.Since(start); d > time.Minute {
		t.Errorf("it took %v", d)
	}
}

// Images that must not be opened.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		want error
		make func() *img
	}{
		"another format":            {disk.ErrFormat, func() *img { m := newImg(12, 1<<20); copy(m.b, "KDMV"); return m }},
		"empty file":                {disk.ErrFormat, func() *img { return &img{} }},
		"cut in the magic":          {disk.ErrFormat, func() *img { m := newImg(12, 1<<20); m.b = m.b[:3]; return m }},
		"cut in the header":         {disk.ErrCorrupt, func() *img { m := newImg(12, 1<<20); m.b = m.b[:71]; return m }},
		"cut in the header of v3":   {disk.ErrCorrupt, func() *img { m := newImg(12, 1<<20); m.b = m.b[:103]; return m }},
		"version 1":                 {disk.ErrUnsupported, func() *img { return newImg(12, 1<<20).put32(4, 1) }},
		"version 4":                 {disk.ErrUnsupported, func() *img { return newImg(12, 1<<20).put32(4, 4) }},
		"small clusters":            {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put32(20, 8) }},
		"large clusters":            {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put32(20, 22) }},
		"nonsense cluster bits":     {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put32(20, 1<<31) }},
		"small subclusters":         {disk.ErrCorrupt, func() *img { return newImg(13, 1<<20).incompat(incompatExtended) }},
		"size of 2 PiB":             {disk.ErrUnsupported, func() *img { return newImg(12, 2<<50) }},
		"negative size":             {disk.ErrUnsupported, func() *img { return newImg(12, -512) }},
		"refcounts of 2^7 bits":     {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put32(96, 7) }},
		"encryption":                {disk.ErrUnsupported, func() *img { return newImg(12, 1<<20).put32(32, 1) }},
		"corrupt bit":               {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).incompat(incompatCorrupt) }},
		"data file bit":             {disk.ErrUnsupported, func() *img { return newImg(12, 1<<20).incompat(incompatData) }},
		"unknown bit":               {disk.ErrUnsupported, func() *img { return newImg(12, 1<<20).incompat(1 << 5) }},
		"last unknown bit":          {disk.ErrUnsupported, func() *img { return newImg(12, 1<<20).incompat(1 << 63) }},
		"compression without a bit": {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).zstd().incompat(0) }},
		"compression bit alone":     {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).incompat(incompatCompression) }},
		"compression type 2":        {disk.ErrUnsupported, func() *img { m := newImg(12, 1<<20).zstd(); m.b[104] = 2; return m }},
		"header of 96 bytes":        {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put32(100, 96) }},
		"header above a cluster":    {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put32(100, 4104) }},
		"giant header":              {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put32(100, 0xfffffff8) }},
		"giant extension":           {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put32(104, 0x1234).put32(108, 0xffffffff) }},
		"extension of a cluster":    {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put32(104, 0x1234).put32(108, 4096) }},
		"long backing format": {disk.ErrCorrupt, func() *img {
			return newImg(12, 1<<20).put32(104, extBackingFormat).put32(108, 64)
		}},
		"extension behind the file": {disk.ErrCorrupt, func() *img { m := newImg(12, 0).put32(104, 1).put32(108, 8); m.b = m.b[:112]; return m }},
		"backing name far away":     {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put64(8, 4097).put32(16, 1) }},
		"backing name at 2^63":      {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put64(8, 1<<63).put32(16, 1) }},
		"backing name over the end": {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put64(8, 4000).put32(16, 97) }},
		"backing name of 1024":      {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put64(8, 2000).put32(16, 1024) }},
		"giant L1":                  {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put32(36, 0x7fffffff) }},
		"L1 of 32 MiB, small file":  {disk.ErrCorrupt, func() *img { return newImg(12, 8<<40).put32(36, 4<<20) }},
		"L1 too small":              {disk.ErrCorrupt, func() *img { return newImg(12, 3<<20) }},
		"L1 missing":                {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put32(36, 0) }},
		"L1 at the header":          {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put64(40, 0) }},
		"L1 not aligned":            {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put64(40, 4096+512) }},
		"L1 behind the file":        {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put64(40, 4<<12) }},
		"L1 at 2^64 − 4096":         {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put64(40, ^uint64(4095)) }},
		"L2 not aligned":            {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put64(4096, 8192+512) }},
		"L2 behind the file":        {disk.ErrCorrupt, func() *img { return newImg(12, 1<<20).put64(4096, 3<<12) }},
		"L2 cut off":                {disk.ErrCorrupt, func() *img { m := newImg(12, 1<<20); m.b = m.b[:len(m.b)-1]; return m }},
		"more L2 tables than room": {disk.ErrCorrupt, func() *img {
			m := newImg(12, 8<<20).put32(36, 4)
			for i := range 4 {
				m.put64(4096+8*i, 8192)
			}
			return m
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c.make().write(t, dir, "a")
			quick(t, func() {
				if _, err := open(t, dir, "a"); !errors.Is(err, c.want) || !strings.HasPrefix(err.Error(), "a: ") {
					t.Errorf("error is %q, want %v", err, c.want)
				}
			})
		})
	}
}

// A file cut at any length is an error or reads as it is, and never more.
func TestCut(t *testing.T) {
	dir := t.TempDir()
	whole := newImg(9, 16<<10)
	whole.l2(0, whole.add(bytes.Repeat([]byte{1}, 512)))
	for n := range len(whole.b) {
		(&img{b: whole.b[:n]}).write(t, dir, "a")
		m, err := open(t, dir, "a")
		if err == nil {
			_, err = m.ReadAt(make([]byte, 512), 0)
			if n > 3<<9 {
				if err != nil {
					t.Fatalf("%d bytes: %v", n, err)
				}
				err = disk.ErrCorrupt // The cut cluster is as QEMU reads it.
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if !errors.Is(err, disk.ErrCorrupt) && !errors.Is(err, disk.ErrFormat) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// What QEMU itself makes of features that are refused here.
func TestRefusedByQEMU(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "data", "1M")
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=abcdef", "-o", "encrypt.format=aes,encrypt.key-secret=s", "aes", "1M")
	for _, name := range []string{"data", "aes"} {
		_, err := open(t, dir, name)
		wantErr(t, err, disk.ErrUnsupported)
	}
}

func TestBackingReferences(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]error{
		"/etc/passwd":        disk.ErrEscape,
		secret:               disk.ErrEscape,
		"../../../../../a/b": disk.ErrEscape,
		`json:{"driver":"raw","file":{"driver":"file","filename":"/etc/passwd"}}`: disk.ErrEscape,
		"nbd://localhost:10809/x":   disk.ErrEscape,
		"missing.qcow2":             disk.ErrMissing,
		"self":                      disk.ErrCorrupt,
		"/somewhere/else/self":      disk.ErrMissing, // a file is not its own backing file by its name's tail
		"link":                      disk.ErrMissing,
		strings.Repeat("a/", 511):   disk.ErrMissing,
		"\x00":                      nil, // no name
		"/etc/passwd\x00self":       disk.ErrEscape,
		strings.Repeat("../", 340):  disk.ErrEscape,
		"other\\..\\..\\etc\\passw": disk.ErrEscape,
	} {
		t.Run(fmt.Sprintf("%.20q", ref), func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Symlink(secret, filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			newImg(12, 1<<20).backing(ref, "qcow2").write(t, dir, "self")
			quick(t, func() {
				m, err := open(t, dir, "self")
				if err == nil {
					defer func() { _ = m.Close() }()
				}
				if want == nil && err == nil {
					return
				}
				wantErr(t, err, want)
			})
		})
	}
}

// Chains that loop or are too long end, and leave no file open.
func TestLongChains(t *testing.T) {
	dir := t.TempDir()
	newImg(12, 1<<20).backing("y", "qcow2").write(t, dir, "x")
	newImg(12, 1<<20).backing("x", "qcow2").write(t, dir, "y")
	for i := range disk.MaxChain + 1 {
		newImg(12, 1<<20).backing(fmt.Sprint(i+1), "qcow2").write(t, dir, fmt.Sprint(i))
	}
	before := openFiles(t)
	for _, name := range []string{"x", "0"} {
		quick(t, func() {
			_, err := open(t, dir, name)
			wantErr(t, err, disk.ErrCorrupt)
		})
	}
	if n := openFiles(t); n > before {
		t.Errorf("%d files were left open", n-before)
	}
	// The longest chain there may be.
	last := newImg(12, 1<<20)
	last.l2(3, last.add([]byte("deep below")))
	last.write(t, dir, fmt.Sprint(disk.MaxChain-1))
	want := make([]byte, 1<<20)
	copy(want[3<<12:], "deep below")
	disktest.Check(t, mustOpen(t, dir, "0"), want)
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// Damage that shows when a cluster is read.
func TestDamagedClusters(t *testing.T) {
	big := bytes.Repeat([]byte("compressible "), 1<<20)
	for name, c := range map[string]func() *img{
		"not aligned":            func() *img { return newImg(14, 1<<20).l2(1, 3<<14|512) },
		"behind the file":        func() *img { return newImg(14, 1<<20).l2(1, 3<<14) },
		"far behind the file":    func() *img { return newImg(14, 1<<20).l2(1, offsetMask&^(1<<14-1)) },
		"zero flag in version 2": func() *img { return newImg(14, 1<<20).put32(4, 2).l2(1, 1) },
		"subclusters of nothing": func() *img { return newImg(14, 1<<20).l2x(1, 0, 1) },
		"subcluster here and zero": func() *img {
			m := newImg(14, 1<<20)
			return m.l2x(1, m.add(make([]byte, 1<<14)), 1<<32|1)
		},
		"extended, not aligned":      func() *img { return newImg(14, 1<<20).l2x(1, 1<<14|512, 1) },
		"compressed behind the file": func() *img { m := newImg(14, 1<<20); return m.l2(1, m.entry(3<<14, 100)) },
		"compressed far behind": func() *img {
			m := newImg(14, 1<<20)
			return m.l2(1, flagPacked|(1<<62-1))
		},
		"nonsense deflate": func() *img {
			m := newImg(14, 1<<20)
			return m.l2(1, m.entry(m.add(bytes.Repeat([]byte{0xff}, 512)), 512))
		},
		"short deflate": func() *img {
			m := newImg(14, 1<<20)
			z := deflated(t, big[:1<<14-1])
			return m.l2(1, m.entry(m.add(z), len(z)))
		},
		"cut deflate": func() *img {
			m := newImg(14, 1<<20)
			z := deflated(t, files(t, 1<<14))
			return m.l2(1, m.entry(m.add(z), 512))
		},
		"nonsense zstd": func() *img {
			m := newImg(14, 1<<20).zstd()
			return m.l2(1, m.entry(m.add(bytes.Repeat([]byte{0xff}, 512)), 512))
		},
		"short zstd": func() *img {
			m := newImg(14, 1<<20).zstd()
			z := zstandard(t, big[:1<<14-1])
			return m.l2(1, m.entry(m.add(z), len(z)))
		},
		"zstd bomb": func() *img {
			m := newImg(14, 1<<20).zstd()
			z := zstandard(t, big)
			return m.l2(1, m.entry(m.add(z), len(z)))
		},
		"zstd bomb without a size": func() *img {
			m := newImg(14, 1<<20).zstd()
			var z bytes.Buffer
			w, err := zstd.NewWriter(&z)
			if err != nil {
				t.Fatal(err)
			}
			for range 4 {
				if _, err := w.Write(big); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			return m.l2(1, m.entry(m.add(z.Bytes()), z.Len()))
		},
		"zstd window of 1 TiB": func() *img {
			m := newImg(14, 1<<20).zstd()
			z := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf0, 0x03, 0x00, 0x10, 0x41}
			return m.l2(1, m.entry(m.add(z), len(z)))
		},
		"zstd size of 2^63": func() *img {
			m := newImg(14, 1<<20).zstd()
			z := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x03, 0x00, 0x10, 0x41)
			return m.l2(1, m.entry(m.add(z), len(z)))
		},
		"only skippable zstd frames": func() *img {
			m := newImg(14, 1<<20).zstd()
			z := bytes.Repeat([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, 64)
			return m.l2(1, m.entry(m.add(z), len(z)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c().write(t, dir, "a")
			m := mustOpen(t, dir, "a")
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			quick(t, func() {
				for _, p := range [][]byte{make([]byte, 3<<14), make([]byte, 100)} {
					if _, err := m.ReadAt(p, 1<<14); !errors.Is(err, disk.ErrCorrupt) {
						t.Errorf("reading %d bytes gave %v", len(p), err)
					}
				}
				// The clusters beside it can be read.
				for _, off := range []int64{0, 2 << 14} {
					if _, err := m.ReadAt(make([]byte, 1<<14), off); err != nil {
						t.Errorf("reading at %d: %v", off, err)
					}
				}
				err := m.Extents(t.Context(), 0, m.Size(), func(disk.Extent) error { return nil })
				if err != nil {
					wantErr(t, err, disk.ErrCorrupt)
				}
			})
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 24<<20 {
				t.Errorf("%d bytes were allocated", n)
			}
		})
	}
}

// Things that are odd, and read as QEMU reads them.
func TestOdd(t *testing.T) {
	data := files(t, 4<<14)
	z := deflated(t, data)
	for name, c := range map[string]func() *img{
		"refcounts are nonsense": func() *img {
			m := newImg(14, 1<<20)
			return m.l2(2, m.add(data[:1<<14]))
		},
		"file ends in a cluster": func() *img {
			m := newImg(14, 1<<20)
			return m.l2(2, m.add(data[:1000]))
		},
		"file ends in a compressed cluster's sector": func() *img {
			m := newImg(14, 1<<20)
			return m.l2(2, m.entry(m.add(z[:len(z):len(z)]), len(z)+511))
		},
		"deflate goes on behind the cluster": func() *img {
			m := newImg(14, 1<<20)
			return m.l2(2, m.entry(m.add(z), len(z)))
		},
		"one compressed cluster many times": func() *img {
			m := newImg(14, 1<<20)
			e := m.entry(m.add(z), len(z))
			return m.l2(2, e).l2(3, e).l2(4, e)
		},
		"one cluster many times": func() *img {
			m := newImg(14, 1<<20)
			off := m.add(data[:1<<14])
			return m.l2(2, off).l2(3, off).l2(4, off)
		},
		"zstd in two frames": func() *img {
			m := newImg(14, 1<<20).zstd()
			z := append(zstandard(t, data[:5000]), zstandard(t, data[5000:1<<14])...)
			return m.l2(2, m.entry(m.add(append(z, "and something"...)), len(z)))
		},
		"zstd before another frame": func() *img {
			m := newImg(14, 1<<20).zstd()
			a, b := zstandard(t, data[:1<<14], zstd.WithEncoderCRC(false)), zstandard(t, make([]byte, 1<<14))
			off := m.add(append(append([]byte(nil), a...), b...))
			return m.l2(2, m.entry(off, len(a))).l2(3, m.entry(off+uint64(len(a)), len(b)))
		},
		"reserved bits": func() *img {
			m := newImg(14, 1<<20)
			m.put64(1<<14, 2<<14|0x7f<<56|1)
			return m.l2(2, m.add(data[:1<<14])|0x3f<<56|0x1fe)
		},
		"disk of nothing": func() *img { return newImg(14, 0).put32(36, 0) },
		"L1 for more":     func() *img { return newImg(14, 1<<20).put32(36, 5).put64(1<<14+8, 0x1200) },
		"subclusters": func() *img {
			m := newImg(14, 1<<20)
			m.l2x(2, m.add(data[:1<<14]), 0x00f000060f00f0f1)
			return m.l2x(3, 0, 0xfffffffe<<32).l2x(4, m.add(data[:1<<14]), 0xffffffff)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c().write(t, dir, "a")
			want := content(t, dir, "a")
			m := mustOpen(t, dir, "a")
			disktest.Check(t, m, want)
			if m.Size() > 0 {
				want := qemuMap(t, dir, "a")
				if name == "file ends in a cluster" { // QEMU does not tell where in it
					want = []disk.Extent{{Len: 2 << 14}, {Off: 2 << 14, Len: 1000, Data: true}, {Off: 2<<14 + 1000, Len: 1<<20 - 2<<14 - 1000}}
				}
				if got := extents(t, m, 0, m.Size()); !slices.Equal(got, want) {
					t.Errorf("extents are %v, want %v", got, want)
				}
			}
		})
	}
}

func TestNotes(t *testing.T) {
	dir := t.TempDir()
	newImg(14, 1<<20+100).incompat(incompatDirty).put32(60, 3).write(t, dir, "a")
	m := mustOpen(t, dir, "a")
	notes := strings.Join(m.Info().Notes, "\n")
	for _, want := range []string{"dirty", "snapshots (3)", "last 100 bytes"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes %q do not say %q", notes, want)
		}
	}
	disktest.Check(t, m, make([]byte, 1<<20))
}

// A large sparse disk is mapped in no time, and so is a chain of them.
func TestLarge(t *testing.T) {
	dir := t.TempDir()
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "a", "16T")
	qemuIO(t, dir, "a", "write -q -P 1 0 1M", "write -q -P 2 8T 1M", "write -q -P 3 17592184995840 1M")
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2", "b", "32T")
	qemuImg(t, dir, "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "-b", "b", "-F", "qcow2", "c", "8T")
	for name, want := range map[string][]disk.Extent{
		"a": {{Off: 0, Len: 1 << 20, Data: true}, {Off: 1 << 20, Len: 8<<40 - 1<<20}, {Off: 8 << 40, Len: 1 << 20, Data: true}, {Off: 8<<40 + 1<<20, Len: 8<<40 - 2<<20}, {Off: 16<<40 - 1<<20, Len: 1 << 20, Data: true}},
		"c": {{Off: 0, Len: 1 << 20, Data: true}, {Off: 1 << 20, Len: 8<<40 - 1<<20}},
	} {
		m := mustOpen(t, dir, name)
		quick(t, func() {
			if got := extents(t, m, 0, m.Size()); !slices.Equal(got, want) {
				t.Errorf("%s: extents are %v, want %v", name, got, want)
			}
		})
	}
	p := make([]byte, 1<<20)
	if _, err := mustOpen(t, dir, "b").ReadAt(p, 8<<40); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{2}, 1<<20)) {
		t.Errorf("reading at 8 TiB: %v", err)
	}
}

// A sparse file may hold the largest L1 table there is, and it stays cheap.
func TestLargestL1(t *testing.T) {
	dir := t.TempDir()
	m := newImg(12, 8<<40).put32(36, 4<<20).put64(40, 1<<20)
	m.write(t, dir, "a")
	if err := os.Truncate(filepath.Join(dir, "a"), 33<<20); err != nil {
		t.Fatal(err)
	}
	quick(t, func() {
		if got := extents(t, mustOpen(t, dir, "a"), 0, 1<<62); len(got) != 1 || got[0] != (disk.Extent{Len: 8 << 40}) {
			t.Errorf("extents are %v", got)
		}
	})
	// All entries refer to one table.
	f, err := os.OpenFile(filepath.Join(dir, "a"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	table := bytes.Repeat(binary.BigEndian.AppendUint64(nil, 2<<12), 4<<20)
	if _, err := f.WriteAt(table, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	quick(t, func() {
		_, err := open(t, dir, "a")
		wantErr(t, err, disk.ErrCorrupt)
	})
}

func TestRanges(t *testing.T) {
	dir := t.TempDir()
	newImg(12, 1<<20).write(t, dir, "a")
	m := mustOpen(t, dir, "a")
	if n, err := m.ReadAt(make([]byte, 10), 1<<20); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	if _, err := m.ReadAt(make([]byte, 10), -1); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("before the start: %v", err)
	}
	if n, err := m.ReadAt(nil, 5); n != 0 || err != nil {
		t.Errorf("nothing: %d, %v", n, err)
	}
	none := func(disk.Extent) error { return errors.New("an extent") }
	if err := m.Extents(t.Context(), 1<<20, 1<<62, none); err != nil {
		t.Errorf("extents behind the end: %v", err)
	}
	if err := m.Extents(t.Context(), 0, 0, none); err != nil {
		t.Errorf("no extents: %v", err)
	}
	if err := m.Extents(t.Context(), -1, 10, none); err == nil {
		t.Error("extents before the start")
	}
}
