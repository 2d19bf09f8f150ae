package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"ascend/internal/disk"
)

// kindDisk is a disk whose leaves are of kinds: '-' hole, '0' zeros that the
// map calls data, 'n' noise, 't' text, 'f' one byte all over, 's' zeros and one
// sector of noise, 'h' half noise, half text.
type kindDisk struct {
	size int64
	kind func(leaf int64) byte
}

// kinds is a disk of the leaves that the pattern says, again and again.
func kinds(size int64, pattern string) *kindDisk {
	return &kindDisk{size, func(leaf int64) byte { return pattern[leaf%int64(len(pattern))] }}
}

// noiseAndText are what leaves are cut from.
var noiseAndText = sync.OnceValues(func() (noise, text []byte) {
	const n = 4 * disk.LeafSize
	r := rand.New(rand.NewPCG(98, 99))
	for len(noise) < n {
		noise = binary.LittleEndian.AppendUint64(noise, r.Uint64())
	}
	words := strings.Fields("the disk of a machine has sectors and a machine of sectors has a disk while virtual hardware remains")
	for len(text) < n {
		text = append(append(text, words[r.IntN(len(words))]...), ' ')
	}
	return noise, text
})

func (d *kindDisk) leaf(l int64, p []byte) {
	noises, texts := noiseAndText()
	at := l * 1237 % (2 * disk.LeafSize) // no two leaves in a row are the same
	noise := func(p []byte) { copy(p, noises[at:]) }
	text := func(p []byte) { copy(p, texts[at:]) }
	clear(p)
	switch d.kind(l) {
	case 'n':
		noise(p)
	case 't':
		text(p)
	case 'f':
		for i := range p {
			p[i] = patternOf(l)
		}
	case 's':
		noise(p[17<<9 : 18<<9])
	case 'h':
		noise(p[:len(p)/2])
		text(p[len(p)/2:])
	}
}

func (d *kindDisk) ReadAt(p []byte, off int64) (n int, err error) {
	var buf [disk.LeafSize]byte
	for n < len(p) && off < d.size {
		d.leaf(off/disk.LeafSize, buf[:])
		k := copy(p[n:], buf[off%disk.LeafSize:min(disk.LeafSize, d.size-off/disk.LeafSize*disk.LeafSize)])
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// source's map has every leaf but the holes.
func (d *kindDisk) source() Source {
	m := disk.NewMap(d.size, disk.LeafSize)
	for l := range ceilDiv(d.size, disk.LeafSize) {
		if d.kind(l) != '-' {
			m.Add(l*disk.LeafSize, 1)
		}
	}
	return Source{Disk: d, Map: m.Seal()}
}

// ordered are the formats made as streams.
func ordered() []Format {
	return []Format{
		{Name: "vmdk", Subformat: "streamOptimized", Compression: "deflate"},
		{Name: "qcow2", Compression: "zlib"},
		{Name: "qcow2", Compression: "zstd"},
	}
}

var streamOptions = Options{Seed: [32]byte{1, 2, 3}, Name: "disk one"}

func mustStream(t testing.TB, src Source, f Format, o Options) *stream {
	t.Helper()
	s, err := NewStream(src, f, o)
	if err != nil {
		t.Fatal(err)
	}
	return s.(*stream)
}

// dataBlocks are the blocks in which the map has data.
func dataBlocks(src Source) (list []int64) {
	m := src.Map.Coarse(streamBlock)
	for i := range m.Count() {
		list = append(list, m.Select(i))
	}
	return list
}

func readBlock(t testing.TB, src Source, b int64) []byte {
	t.Helper()
	p := make([]byte, min(streamBlock, src.Size()-b*streamBlock))
	for at := int64(0); at < int64(len(p)); at += disk.LeafSize {
		if !src.Map.Has((b*streamBlock + at) / disk.LeafSize) {
			continue
		}
		q := p[at:min(at+disk.LeafSize, int64(len(p)))]
		if n, err := src.Disk.ReadAt(q, b*streamBlock+at); n < len(q) {
			t.Fatal(err)
		}
	}
	return p
}

// encodeAll encodes the blocks that have data, concurrently.
func encodeAll(t testing.TB, s Stream, src Source) map[int64][]byte {
	t.Helper()
	enc := map[int64][]byte{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	blocks := dataBlocks(src)
	for worker := range 3 {
		wg.Go(func() {
			for i := worker; i < len(blocks); i += 3 {
				p, err := s.Encode(nil, blocks[i], readBlock(t, src, blocks[i]))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				enc[blocks[i]] = p
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return enc
}

// must panics in tests only: it unwraps what cannot fail there.
func must(p []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return p
}

// streamTo writes the whole stream's file, block after block, and its patch.
func streamTo(t testing.TB, s Stream, src Source, w io.WriterAt) int64 {
	t.Helper()
	enc := encodeAll(t, s, src)
	off := int64(0)
	put := func(p []byte, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
		if off += int64(len(p)); off != s.Offset() {
			t.Fatalf("offset is %d after %d bytes", s.Offset(), off)
		}
	}
	put(s.Start(nil))
	for _, b := range dataBlocks(src) {
		put(s.Append(nil, b, enc[b]))
	}
	put(s.Finish(nil))
	if (s.Patch() != nil) != s.NeedsPatch() {
		t.Fatalf("patch of %d bytes, needs patch: %t", len(s.Patch()), s.NeedsPatch())
	}
	if _, err := w.WriteAt(s.Patch(), 0); err != nil {
		t.Fatal(err)
	}
	return off
}

// growing is a file in memory.
type growing []byte

func (g *growing) WriteAt(p []byte, off int64) (int, error) {
	if n := off + int64(len(p)) - int64(len(*g)); n > 0 {
		*g = append(*g, make([]byte, n)...)
	}
	return copy((*g)[off:], p), nil
}

func streamBytes(t testing.TB, d *kindDisk, f Format, o Options) []byte {
	t.Helper()
	var g growing
	src := d.source()
	streamTo(t, mustStream(t, src, f, o), src, &g)
	return g
}

// patterns are disks of a few MiB.
func patterns() map[string]*kindDisk {
	return map[string]*kindDisk{
		"zeros":      kinds(2<<20, "0"),
		"holes":      kinds(2<<20, "-"),
		"noise":      kinds(2<<20, "n"),
		"text":       kinds(2<<20, "t"),
		"mixed":      kinds(4<<20+512, "tnt-0fnns-tthn0ttnnnt-f"),
		"holes data": kinds(4<<20, "----------------tt----n---------------------"),
		"sectors":    kinds(2<<20+4096, "s"),
		"one sector": kinds(512, "n"),
		"odd":        kinds(1<<20+100, "th"),
		"alternate":  kinds(2<<20, "nt"),
	}
}

// TestStreamContent reads every pattern back with the readers of this test.
func TestStreamContent(t *testing.T) {
	for name, d := range patterns() {
		for _, f := range ordered() {
			checkContent(t, fmt.Sprintf("%s, %s", name, f), streamBytes(t, d, f, streamOptions), d, f)
			if name == "mixed" {
				o := streamOptions
				o.Level = 6
				checkContent(t, fmt.Sprintf("%s, %s level %d", name, f, o.Level), streamBytes(t, d, f, o), d, f)
			}
		}
	}
}

// checkContent reads an image and holds it to the disk.
func checkContent(t testing.TB, name string, file []byte, d *kindDisk, f Format) {
	t.Helper()
	size := roundUp(d.size, sectorSize)
	var clusters map[int64][]byte
	var err error
	if f.Name == "vmdk" {
		clusters, err = parseStreamVMDK(file, size)
	} else {
		clusters, err = parseQCOW2(file, size, f.Compression == "zstd")
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	want := make([]byte, disk.LeafSize)
	for l := range ceilDiv(d.size, disk.LeafSize) {
		d.leaf(l, want)
		if rest := d.size - l*disk.LeafSize; rest < disk.LeafSize {
			clear(want[rest:])
		}
		got, there := clusters[l]
		if zero := bytes.Equal(want, zeroPiece[:]); there == zero {
			t.Fatalf("%s: leaf %d is zeros: %t; is in the file: %t", name, l, zero, there)
		}
		if there && !bytes.Equal(got, want) {
			t.Fatalf("%s: leaf %d differs", name, l)
		}
		delete(clusters, l)
	}
	if len(clusters) > 0 {
		t.Fatalf("%s: %d clusters beyond the disk", name, len(clusters))
	}
}

// TestStreamDeterminism: the order and the concurrency of Encode, empty blocks
// given to Append or left out, and buffers do not matter.
func TestStreamDeterminism(t *testing.T) {
	d := kinds(6<<20+1536, "tnt-0fnns-tthn0ttnnnt-f----------------------------------")
	src := d.source()
	for _, f := range ordered() {
		want := streamBytes(t, d, f, streamOptions)
		s := mustStream(t, src, f, streamOptions)
		blocks := ceilDiv(d.size, streamBlock)
		enc := make([][]byte, blocks)
		for b := blocks - 1; b >= 0; b-- { // backwards, holes too, into a dirty buffer
			buf := append(make([]byte, 0, MaxEncoded+3), "abc"...)
			enc[b] = must(s.Encode(buf, b, readBlock(t, src, b)))
			if !bytes.HasPrefix(enc[b], []byte("abc")) || cap(enc[b]) != MaxEncoded+3 {
				t.Fatalf("%s: Encode lost what was in dst or grew it", f)
			}
			enc[b] = enc[b][3:]
		}
		got := must(s.Start([]byte("abc")))
		for b := range blocks {
			got = must(s.Append(got, b, enc[b]))
		}
		got = must(s.Finish(got))
		if string(got[:3]) != "abc" || int64(len(got)-3) != s.Offset() {
			t.Fatalf("%s: dst is not kept or the offset, %d, is wrong", f, s.Offset())
		}
		got = got[3:]
		copy(got, s.Patch())
		if !bytes.Equal(got, want) {
			t.Errorf("%s: files differ", f)
		}
		o := streamOptions
		o.Seed[0]++
		if other := streamBytes(t, d, f, o); bytes.Equal(other, want) == (f.Name == "vmdk") {
			t.Errorf("%s: the seed changes the file: %t", f, f.Name != "vmdk")
		}
	}
}

// TestStreamBound: no block's encoded form is larger than said, and noise makes
// the file little larger than the disk.
func TestStreamBound(t *testing.T) {
	for _, f := range ordered() {
		d := kinds(2<<20, "n")
		src := d.source()
		s := mustStream(t, src, f, streamOptions)
		if enc := must(s.Encode(make([]byte, 0, MaxEncoded), 0, readBlock(t, src, 0))); len(enc) > MaxEncoded || cap(enc) != MaxEncoded {
			t.Errorf("%s: %d bytes, at most %d", f, len(enc), MaxEncoded)
		}
		file := streamBytes(t, d, f, streamOptions)
		if limit := d.size + d.size/64 + 400<<10; int64(len(file)) > limit {
			t.Errorf("%s: %d bytes, want at most %d", f, len(file), limit)
		}
	}
}

// TestStreamGaps: where clusters that shrink and clusters that do not take
// turns, little of the file is lost to their alignment.
func TestStreamGaps(t *testing.T) {
	d := kinds(8<<20, "nthn")
	src := d.source()
	s := mustStream(t, src, Format{Name: "qcow2", Compression: "zlib"}, streamOptions)
	var encoded int64
	for _, p := range encodeAll(t, s, src) {
		encoded += int64(len(p))
	}
	const tables = 6 * streamPiece // and the header
	if lost := int64(len(streamBytes(t, d, s.format, streamOptions))) - encoded - tables; lost > 8*8<<10 {
		t.Errorf("%d bytes of gaps in 8 blocks", lost)
	}
}

// TestStreamResume continues from a checkpoint at every block, by a new stream
// and by the same.
func TestStreamResume(t *testing.T) {
	sparse := map[int64]byte{}
	for i, l := range []int64{0, 511, 512, 8191, 8192, 8193, 20000, 20001, 1 << 20, 1<<20 + 16, 3<<24 + 5, 3<<24 + 6} {
		sparse[l] = "tnhs"[i%4]
	}
	large := &kindDisk{3<<40 + 12288, func(l int64) byte { return sparse[l] }}
	disks := patterns()
	for _, name := range []string{"mixed", "holes data", "zeros", "odd"} {
		src := disks[name].source()
		for _, f := range ordered() {
			checkResume(t, fmt.Sprintf("%s, %s", name, f), src, f)
		}
	}
	m := disk.NewMap(large.size, disk.LeafSize)
	for l := range sparse {
		m.Add(l*disk.LeafSize, 1)
	}
	for _, f := range ordered() {
		checkResume(t, fmt.Sprintf("large, %s", f), Source{Disk: large, Map: m.Seal()}, f)
	}
}

func checkResume(t *testing.T, name string, src Source, f Format) {
	t.Helper()
	s := mustStream(t, src, f, streamOptions)
	enc := encodeAll(t, s, src)
	blocks := dataBlocks(src)
	want := must(s.Start(nil))
	var states [][]byte // before each block, and before Finish
	var offsets []int64
	mark := func() {
		states = append(states, must(s.MarshalBinary()))
		offsets = append(offsets, s.Offset())
	}
	for _, b := range blocks {
		mark()
		want = must(s.Append(want, b, enc[b]))
	}
	mark()
	want = must(s.Finish(want))
	for i := range states {
		for _, again := range []*stream{mustStream(t, src, f, streamOptions), s} {
			if err := again.UnmarshalBinary(states[i]); err != nil {
				t.Fatalf("%s, before block %d of %d: %v", name, i, len(blocks), err)
			}
			if again.Offset() != offsets[i] {
				t.Fatalf("%s: continues at %d, want %d", name, again.Offset(), offsets[i])
			}
			if p := must(again.MarshalBinary()); !bytes.Equal(p, states[i]) {
				t.Fatalf("%s: the checkpoint of a continued stream differs", name)
			}
			got := append([]byte{}, want[:offsets[i]]...)
			for _, b := range blocks[i:] {
				got = must(again.Append(got, b, enc[b]))
			}
			got = must(again.Finish(got))
			if !bytes.Equal(got, want) || !bytes.Equal(again.Patch(), s.Patch()) {
				t.Fatalf("%s: continued before block %d of %d the file differs", name, i, len(blocks))
			}
		}
	}
}

// TestStreamOrder: what is called out of order is an error and no panic.
func TestStreamOrder(t *testing.T) {
	d := kinds(3<<20, "t")
	src := d.source()
	for _, f := range ordered() {
		s := mustStream(t, src, f, streamOptions)
		enc := encodeAll(t, s, src)
		fails := func(what string, err error) {
			t.Helper()
			if err == nil {
				t.Errorf("%s: %s succeeded", f, what)
			}
		}
		appendFails := func(what string, b int64, enc []byte) {
			t.Helper()
			cp := must(s.MarshalBinary())
			_, err := s.Append(nil, b, enc)
			fails(what, err)
			_, err = s.Append(nil, 2, nil)
			fails("Append after an error", err)
			if err := s.UnmarshalBinary(cp); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s.Append(nil, 0, enc[0])
		fails("Append before Start", err)
		_, err = s.Finish(nil)
		fails("Finish before Start", err)
		_, err = s.MarshalBinary()
		fails("a checkpoint before Start", err)
		if s.Patch() != nil || s.Offset() != 0 || s.BlockSize() != 1<<20 || s.Format() != f {
			t.Errorf("%s: patch of %d bytes, offset %d, blocks of %d, format %s", f, len(s.Patch()), s.Offset(), s.BlockSize(), s.Format())
		}
		must(s.Start(nil))
		if s.Patch() != nil {
			t.Errorf("%s: a patch before Finish", f)
		}
		must(s.Append(nil, 1, enc[1]))
		appendFails("a block twice", 1, enc[1])
		appendFails("a block before the last", 0, enc[0])
		appendFails("block 3 of 3", 3, enc[2])
		appendFails("block -1", -1, enc[2])
		if f.Name == "vmdk" {
			appendFails("another block's bytes", 2, enc[1])
		}
		appendFails("half a block", 2, enc[2][:len(enc[2])/2+1])
		appendFails("a block twice in one", 2, append(enc[2][:len(enc[2]):len(enc[2])], enc[2]...))
		appendFails("three bytes", 2, []byte{1, 2, 3})
		appendFails("zeros", 2, make([]byte, 1024))
		appendFails("ones", 2, bytes.Repeat([]byte{255}, 1024))
		must(s.Finish(nil))
		_, err = s.Start(nil)
		fails("Start after Finish", err)
		_, err = s.Append(nil, 2, enc[2])
		fails("Append after Finish", err)
		_, err = s.MarshalBinary()
		fails("a checkpoint after Finish", err)
		for _, c := range []struct {
			b int64
			n int
		}{{0, 0}, {0, 1<<20 - 1}, {0, 1<<20 + 1}, {-1, 1 << 20}, {3, 1 << 20}, {1 << 62, 1 << 20}} {
			_, err := s.Encode(nil, c.b, make([]byte, c.n))
			fails(fmt.Sprintf("Encode of %d bytes as block %d", c.n, c.b), err)
		}
	}
}

func TestNewStream(t *testing.T) {
	src := kinds(1<<20, "t").source()
	for _, c := range []struct {
		f    Format
		o    Options
		want string
	}{
		{Format{Name: "vmdk", Subformat: "streamOptimized"}, Options{}, "vmdk/streamOptimized+deflate"},
		{Format{Name: "qcow2"}, Options{}, "cannot make qcow2 in order: it is computed at random"},
		{Format{Name: "vmdk", Subformat: "streamOptimized", Compression: "stored"}, Options{},
			"cannot make vmdk/streamOptimized+stored in order: it is computed at random"},
		{Format{Name: "qcow2", Compression: "lz4"}, Options{}, "cannot make an image of format qcow2+lz4: not known"},
		{Format{Name: "qcow2", Compression: "zlib"}, Options{Level: 10}, "cannot make qcow2+zlib at level 10: use 1 to 9"},
		{Format{Name: "qcow2", Compression: "zstd"}, Options{BlockSize: 1 << 20},
			"cannot make qcow2+zstd with blocks of 1048576 bytes: the format has blocks of 65536 bytes"},
	} {
		s, err := NewStream(src, c.f, c.o)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = s.Format().String()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.f, got, c.want)
		}
	}
	for _, f := range ordered() {
		var tooLarge *SizeError
		for _, size := range []int64{0, disk.MaxSize + 1} {
			if _, err := NewStream(Source{Map: disk.NewMap(size, disk.LeafSize).Seal()}, f, Options{}); !errors.As(err, &tooLarge) {
				t.Errorf("%s of %d bytes: %v, want a size error", f, size, err)
			}
		}
		if _, err := NewStream(Source{Map: disk.NewMap(1<<20, 1<<20).Seal()}, f, Options{}); err == nil {
			t.Errorf("%s: a coarse map was taken", f)
		}
	}
}

// FuzzStream makes streams of arbitrary patterns and reads them back.
func FuzzStream(f *testing.F) {
	f.Add(uint8(0), uint16(0), []byte("tnt-0fnns-tthn0ttnnnt-f"), uint8(0))
	f.Add(uint8(1), uint16(512), []byte("n"), uint8(3))
	f.Add(uint8(2), uint16(100), []byte("nnnnnnnnnnnnnnnt0000000000000000sssss"), uint8(1))
	f.Fuzz(func(t *testing.T, which uint8, tail uint16, pattern []byte, cut uint8) {
		if len(pattern) == 0 || len(pattern) > 60 {
			return
		}
		d := &kindDisk{int64(len(pattern))*disk.LeafSize - int64(tail), func(l int64) byte { return "-0ntfsh"[pattern[l]%7] }}
		list := ordered()
		format := list[int(which)%len(list)]
		file := streamBytes(t, d, format, streamOptions)
		checkContent(t, format.String(), file, d, format)
		src := d.source()
		s := mustStream(t, src, format, streamOptions)
		enc := encodeAll(t, s, src)
		must(s.Start(nil))
		for i, b := range dataBlocks(src) {
			if i == int(cut) {
				cp := must(s.MarshalBinary())
				s = mustStream(t, src, format, streamOptions)
				if err := s.UnmarshalBinary(cp); err != nil {
					t.Fatal(err)
				}
			}
			off := s.Offset()
			got := must(s.Append(nil, b, enc[b]))
			if !bytes.Equal(got, file[off:][:len(got)]) {
				t.Fatalf("continued at block %d, bytes at %d differ", cut, off)
			}
		}
		if off, got := s.Offset(), must(s.Finish(nil)); !bytes.Equal(got, file[off:]) {
			t.Fatalf("continued at block %d, the end differs", cut)
		}
	})
}

// BenchmarkEncode compresses this test's own executable.
func BenchmarkEncode(b *testing.B) {
	name, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const blocks = 4
	data := make([]byte, blocks*streamBlock)
	if _, err := io.ReadFull(f, data); err != nil {
		b.Fatal(err)
	}
	m := disk.NewMap(int64(len(data)), disk.LeafSize)
	m.Add(0, m.Size())
	for _, format := range ordered() {
		for _, level := range []int{0, 3, 6, 9} {
			b.Run(fmt.Sprintf("%s/level=%d", strings.ReplaceAll(format.String(), "/", "-"), level), func(b *testing.B) {
				s := mustStream(b, Source{Map: m.Seal()}, format, Options{Level: level})
				buf := make([]byte, 0, MaxEncoded)
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					n := 0
					for k := range int64(blocks) {
						n += len(must(s.Encode(buf, k, data[k*streamBlock:][:streamBlock])))
					}
					b.ReportMetric(float64(len(data))/float64(n), "ratio")
				}
			})
		}
	}
}

// TestStreamWindow: what repeats after 8 KiB is found for VMDK, and not for
// QCOW2, whose readers look back 4 KiB.
func TestStreamWindow(t *testing.T) {
	noise, _ := noiseAndText()
	data := bytes.Repeat(noise[:8<<10], 8)
	src := Source{Map: disk.NewMap(int64(len(data)), disk.LeafSize).Seal()}
	for _, f := range ordered()[:2] {
		n := len(must(mustStream(t, src, f, streamOptions).Encode(nil, 0, data)))
		if whole := n > len(data); whole != (f.Name == "qcow2") {
			t.Errorf("%s: %d bytes of %d", f, n, len(data))
		}
	}
}
