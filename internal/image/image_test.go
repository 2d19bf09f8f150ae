package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"ascend/internal/disk"
)

// leafDisk is a disk of which some leaves hold data. Reading any other leaf is
// an error: a file must read the disk only where the map has data.
type leafDisk struct {
	size int64
	data map[int64]bool
	// flat makes each leaf of one byte, patternOf, which qemu-io can check.
	flat bool
}

func patternOf(leaf int64) byte { return byte(leaf*37%255) + 1 }

func (d *leafDisk) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) && off < d.size {
		leaf, in := off/disk.LeafSize, off%disk.LeafSize
		if !d.data[leaf] {
			return n, fmt.Errorf("leaf %d was read and is a hole", leaf)
		}
		k := copy(p[n:], d.leaf(leaf)[in:min(disk.LeafSize, d.size-leaf*disk.LeafSize)])
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// noise holds the leaves' content: a different part of it for each.
var noise = func() []byte {
	r := rand.NewPCG(1, 7)
	p := make([]byte, 0, 2*disk.LeafSize)
	for len(p) < cap(p) {
		p = binary.LittleEndian.AppendUint64(p, r.Uint64())
	}
	return p
}()

// leaf is the content of leaf l, which must not be changed.
func (d *leafDisk) leaf(l int64) []byte {
	if d.flat {
		return bytes.Repeat([]byte{patternOf(l)}, disk.LeafSize)
	}
	return noise[l*97%disk.LeafSize:][:disk.LeafSize]
}

func (d *leafDisk) source() Source {
	m := disk.NewMap(d.size, disk.LeafSize)
	for l := range d.data {
		m.Add(l*disk.LeafSize, 1)
	}
	return Source{Disk: d, Map: m.Seal()}
}

// newLeafDisk has data in the first and the last leaf and in about one in
// sparse of the others, in runs; at most 300.
func newLeafDisk(size int64, sparse int, seed uint64) *leafDisk {
	r := rand.New(rand.NewPCG(seed, uint64(size)))
	leaves := ceilDiv(size, disk.LeafSize)
	d := &leafDisk{size: size, data: map[int64]bool{0: true, leaves - 1: true}}
	for want := min(leaves/int64(sparse), 300); int64(len(d.data)) < want; {
		l := r.Int64N(leaves)
		for range 1 + r.Int64N(20) {
			if l < leaves {
				d.data[l] = true
			}
			l++
		}
	}
	return d
}

type variant struct {
	Format  Format
	Options Options
}

// made are the formats computed at random, with blocks of several sizes.
func made() (list []variant) {
	add := func(f Format, blocks ...int64) {
		for _, b := range blocks {
			list = append(list, variant{f, Options{BlockSize: b, Seed: [32]byte{1, 2, 3}, Name: "disk one"}})
		}
	}
	add(Format{Name: "raw"}, 0)
	add(Format{Name: "qcow2"}, 64<<10, 512<<10, 2<<20)
	add(Format{Name: "vmdk"}, 0)
	add(Format{Name: "vmdk", Subformat: "streamOptimized", Compression: "stored"}, 0)
	add(Format{Name: "vhdx"}, 1<<20, 8<<20)
	add(Format{Name: "vpc"}, 0)
	add(Format{Name: "vpc", Subformat: "fixed"}, 0)
	return list
}

func mustNew(t testing.TB, src Source, f Format, o Options) *File {
	t.Helper()
	file, err := New(src, f, o)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// write makes the file as a transfer to a clean target does: Zero segments are
// left out.
func write(t testing.TB, f *File, path string) {
	t.Helper()
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Truncate(f.Size()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	next := int64(0)
	err = f.Segments(0, f.Size(), func(s Segment) error {
		if s.Off != next || s.Len <= 0 {
			return fmt.Errorf("segment %+v does not follow %d", s, next)
		}
		next += s.Len
		for s.Kind != Zero && s.Len > 0 {
			part := s
			part.Len = min(s.Len, int64(len(buf)))
			if err := f.Fill(buf[:part.Len], part); err != nil {
				return err
			}
			if _, err := w.WriteAt(buf[:part.Len], s.Off); err != nil {
				return err
			}
			s.Off, s.DiskOff, s.Len = s.Off+part.Len, s.DiskOff+part.Len, s.Len-part.Len
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if next != f.Size() {
		t.Fatalf("segments end at %d, the file has %d bytes", next, f.Size())
	}
}

func writeRaw(t testing.TB, d *leafDisk, path string) {
	t.Helper()
	write(t, mustNew(t, d.source(), Format{Name: "raw"}, Options{}), path)
}

// TestRandomAccess holds every way of asking for the bytes to the file written
// segment by segment.
func TestRandomAccess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	var want, got []byte
	for _, size := range []int64{512, 100_000, 1<<20 + 512, 34<<20 + 1} {
		for _, k := range made() {
			d := newLeafDisk(size, 6, 11)
			f := mustNew(t, d.source(), k.Format, k.Options)
			write(t, f, path)
			want = slices.Grow(want[:0], int(f.Size()))[:f.Size()]
			readFile(t, path, want)
			name := fmt.Sprintf("%s block %d of %d bytes", k.Format, k.Options.BlockSize, size)
			// Another file of the same source: no state of the first helps it.
			f = mustNew(t, d.source(), k.Format, k.Options)
			got = slices.Grow(got[:0], len(want))[:len(want)]
			if n, err := f.ReadAt(got, 0); n != len(got) || err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s: whole read: %d bytes, %v, equal %t", name, n, err, bytes.Equal(got, want))
			}
			f = mustNew(t, d.source(), k.Format, k.Options)
			checkRanges(t, name, f, want, 200)
			checkSegments(t, name, f, want, 8)
			checkEnds(t, name, f, want)
		}
	}
}

func readFile(t *testing.T, path string, p []byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.ReadFull(f, p); err != nil {
		t.Fatal(err)
	}
}

func checkRanges(t *testing.T, name string, f *File, want []byte, count int) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, uint64(len(want))))
	buf := make([]byte, 300<<10)
	for range count {
		off := r.Int64N(int64(len(want)))
		if r.IntN(2) == 0 { // metadata stands at the start
			off = r.Int64N(min(int64(len(want)), 4<<20))
		}
		n := min(1+r.Int64N([]int64{16, 600, 4096, 300 << 10}[r.IntN(4)]), int64(len(want))-off)
		for i := range buf[:n] {
			buf[i] = 0xa5
		}
		k, err := f.ReadAt(buf[:n], off)
		if err != nil || int64(k) != n || !bytes.Equal(buf[:n], want[off:off+n]) {
			t.Fatalf("%s: read of %d bytes at %d: %d, %v; differs from the written file", name, n, off, k, err)
		}
	}
}

// checkSegments holds segments of random ranges to what the kinds promise.
func checkSegments(t *testing.T, name string, f *File, want []byte, count int) {
	t.Helper()
	r := rand.New(rand.NewPCG(5, uint64(len(want))))
	for range count {
		off := r.Int64N(int64(len(want)))
		n := 1 + r.Int64N(int64(len(want)))
		next := off
		err := f.Segments(off, n, func(s Segment) error {
			if s.Off != next || s.Len <= 0 {
				return fmt.Errorf("%+v does not follow %d", s, next)
			}
			next += s.Len
			p := want[s.Off:][:s.Len]
			switch s.Kind {
			case Zero:
				if len(bytes.Trim(p, "\x00")) != 0 {
					return fmt.Errorf("%+v is not zeros", s)
				}
			case Data:
				q := make([]byte, s.Len)
				if n, err := f.Source().Disk.ReadAt(q, s.DiskOff); n != len(q) || !bytes.Equal(p, q) {
					return fmt.Errorf("%+v is not the disk's bytes: %w", s, err)
				}
			}
			return nil
		})
		if err != nil || next != min(off+n, int64(len(want))) {
			t.Fatalf("%s: segments of [%d, +%d) end at %d: %v", name, off, n, next, err)
		}
	}
}

func checkEnds(t *testing.T, name string, f *File, want []byte) {
	t.Helper()
	p := make([]byte, 100)
	if n, err := f.ReadAt(p, f.Size()-10); n != 10 || !errors.Is(err, io.EOF) || !bytes.Equal(p[:10], want[len(want)-10:]) {
		t.Errorf("%s: read over the end: %d, %v", name, n, err)
	}
	if n, err := f.ReadAt(p, f.Size()); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("%s: read at the end: %d, %v", name, n, err)
	}
	if _, err := f.ReadAt(p, -1); err == nil {
		t.Errorf("%s: read at -1 succeeded", name)
	}
	if err := f.Segments(-1, 5, func(Segment) error { return nil }); err == nil {
		t.Errorf("%s: segments at -1 succeeded", name)
	}
	total := int64(0)
	if err := f.Segments(1, 1<<63-1, func(s Segment) error { total += s.Len; return nil }); err != nil || total != f.Size()-1 {
		t.Errorf("%s: segments to beyond the end: %d bytes, %v", name, total, err)
	}
	stop := errors.New("stop")
	calls := 0
	if err := f.Segments(0, f.Size(), func(Segment) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%s: after yield's error: %v, %d calls", name, err, calls)
	}
}

// TestLeavesWhole: data come in the disk's order, each allocated byte once, and
// no segment ends inside a leaf, which a digest of leaves relies on.
func TestLeavesWhole(t *testing.T) {
	for _, k := range made() {
		d := newLeafDisk(200<<20+512, 2, 4)
		f := mustNew(t, d.source(), k.Format, k.Options)
		unit := int64(disk.LeafSize)
		if k.Format.Compression == "stored" {
			unit /= 2
		}
		var last, bytes int64
		err := f.Segments(0, f.Size(), func(s Segment) error {
			if s.Kind != Data {
				return nil
			}
			end := s.DiskOff + s.Len
			if s.DiskOff < last || s.DiskOff%unit != 0 || end%unit != 0 && end != d.size {
				return fmt.Errorf("%+v after disk offset %d", s, last)
			}
			last, bytes = end, bytes+s.Len
			return nil
		})
		if err != nil || bytes != d.source().Map.Bytes() {
			t.Errorf("%s: %d of %d data bytes, %v", k.Format, bytes, d.source().Map.Bytes(), err)
		}
	}
}

// TestSame: the same source, format and options give the same bytes, another
// seed other identifiers.
func TestSame(t *testing.T) {
	d := newLeafDisk(5<<20, 3, 4)
	for _, k := range made() {
		read := func(o Options) []byte {
			f := mustNew(t, d.source(), k.Format, o)
			p := make([]byte, f.Size())
			if _, err := f.ReadAt(p, 0); err != nil {
				t.Fatal(err)
			}
			return p
		}
		a, b := read(k.Options), read(k.Options)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two files of one disk differ", k.Format)
		}
		o := k.Options
		o.Seed[31] = 9
		named := k.Format.Name != "raw" && k.Format.Name != "qcow2" // the others carry identifiers
		if bytes.Equal(a, read(o)) == named {
			t.Errorf("%s: the seed changes the file: %t, want %t", k.Format, !named, named)
		}
	}
}

type badDisk struct {
	err error
	n   int
}

func (d badDisk) ReadAt([]byte, int64) (int, error) { return d.n, d.err }

// TestReadErrors: a disk that fails, or ends too early, is an error and never
// zeros.
func TestReadErrors(t *testing.T) {
	src := newLeafDisk(1<<20, 1, 1).source()
	broken := errors.New("broken")
	for _, k := range made() {
		for _, c := range []struct {
			disk io.ReaderAt
			want error
		}{
			{badDisk{err: broken}, broken},
			{badDisk{err: io.EOF, n: 100}, io.ErrUnexpectedEOF},
			{badDisk{n: 100}, io.ErrUnexpectedEOF},
		} {
			f := mustNew(t, Source{Disk: c.disk, Map: src.Map}, k.Format, k.Options)
			if n, err := f.ReadAt(make([]byte, f.Size()), 0); n != 0 || !errors.Is(err, c.want) {
				t.Errorf("%s: %d, %v, want %v", k.Format, n, err, c.want)
			}
		}
	}
}

// TestEmptyDisk: a disk without data reads nothing and is a small file.
func TestEmptyDisk(t *testing.T) {
	m := disk.NewMap(10<<40, disk.LeafSize).Seal()
	for _, k := range made() {
		f, err := New(Source{Disk: badDisk{err: errors.New("read")}, Map: m}, k.Format, k.Options)
		if k.Format.Name == "vpc" && k.Format.Subformat == "" {
			var size *SizeError
			if !errors.As(err, &size) {
				t.Errorf("%s: %v, want a size error", k.Format, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var meta int64
		segments := 0
		err = f.Segments(0, f.Size(), func(s Segment) error {
			segments++
			if s.Kind == Data {
				return fmt.Errorf("data: %+v", s)
			}
			if s.Kind == Meta {
				meta += s.Len
				return f.Fill(make([]byte, s.Len), s)
			}
			return nil
		})
		if err != nil || meta > 4<<20 || segments > 100 {
			t.Errorf("%s: %d metadata bytes, %d segments, %v", k.Format, meta, segments, err)
		}
	}
}

// FuzzFile holds files of arbitrary maps to the tiling and to themselves.
func FuzzFile(f *testing.F) {
	f.Add(int64(1<<20+512), []byte{1, 0, 3}, uint8(1), int64(70000), int64(5000))
	f.Add(int64(700<<20), []byte{0xff, 0x0f}, uint8(5), int64(0), int64(1<<20))
	f.Add(int64(9<<30), []byte{255, 3, 9, 30}, uint8(6), int64(3<<20+32760), int64(17)) // a sector bitmap's entry
	f.Add(int64(9<<30), []byte{255, 3, 255, 39}, uint8(5), int64(100<<10), int64(300<<10))
	f.Add(int64(1), []byte{}, uint8(9), int64(3), int64(1))
	f.Fuzz(func(t *testing.T, size int64, spec []byte, kind uint8, off, n int64) {
		if size <= 0 || size > 1<<40 {
			return
		}
		d := &leafDisk{size: size, data: map[int64]bool{}}
		leaf := int64(0)
		for i := 0; i+1 < len(spec) && i < 200; i += 2 { // runs: leave out, then take
			leaf += int64(spec[i]) * int64(spec[i])
			for range spec[i+1] % 40 {
				if leaf < ceilDiv(size, disk.LeafSize) {
					d.data[leaf] = true
				}
				leaf++
			}
		}
		list := made()
		k := list[int(kind)%len(list)]
		file := mustNew(t, d.source(), k.Format, k.Options)
		off = (off & (1<<62 - 1)) % file.Size()
		n = 1 + (n&(1<<62-1))%(1<<20)
		whole := make([]byte, n)
		read, err := file.ReadAt(whole, off)
		if err != nil && !errors.Is(err, io.EOF) || int64(read) != min(n, file.Size()-off) {
			t.Fatalf("%d of %d bytes at %d of %d: %v", read, n, off, file.Size(), err)
		}
		whole = whole[:read]
		next := off
		err = file.Segments(off, n, func(s Segment) error {
			if s.Off != next || s.Len <= 0 {
				return fmt.Errorf("%+v does not follow %d", s, next)
			}
			next += s.Len
			// By two halves, which must be what the whole is.
			p := make([]byte, s.Len)
			cut := s.Len / 2
			first, second := s, s
			first.Len, second.Len = cut, s.Len-cut
			second.Off, second.DiskOff = s.Off+cut, s.DiskOff+cut
			if err := errors.Join(file.Fill(p[:cut], first), file.Fill(p[cut:], second)); err != nil {
				return err
			}
			if !bytes.Equal(p, whole[s.Off-off:][:s.Len]) {
				return fmt.Errorf("halves of %+v differ from the whole", s)
			}
			return nil
		})
		if err != nil || next != off+int64(read) {
			t.Fatalf("segments end at %d, want %d: %v", next, off+int64(read), err)
		}
	})
}
