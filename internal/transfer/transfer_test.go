package transfer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/transfer/digest"
	"ascend/internal/transfer/journal"
)

// sparse makes a disk of size bytes of which about one leaf in every has data,
// and some leaves that the map calls data are zeros.
func sparse(size int64, every int, seed uint64) (image.Source, []byte) {
	b := make([]byte, size)
	m := disk.NewMap(size, disk.LeafSize)
	r := rand.New(rand.NewPCG(seed, 1))
	for off := int64(0); off < size; off += disk.LeafSize {
		if r.IntN(every) != 0 && off != 0 && off+disk.LeafSize < size {
			continue
		}
		n := min(disk.LeafSize, size-off)
		m.Add(off, n)
		if r.IntN(5) == 0 {
			continue
		}
		for i := int64(0); i+8 <= n; i += 8 {
			binary.LittleEndian.PutUint64(b[off+i:], r.Uint64())
		}
	}
	m.Seal()
	return image.Source{Disk: bytes.NewReader(b), Map: m}, b
}

// memory is a sink in memory that may fail.
type memory struct {
	mu     sync.Mutex
	b      []byte
	wrote  []image.Segment // what was written, for traces
	failAt int64           // bytes until writes fail; 0: never
	n      int64
}

var errBroken = errors.New("connection broken")

func (s *memory) take(n int) error {
	s.n += int64(n)
	if s.failAt > 0 && s.n > s.failAt {
		return errBroken
	}
	return nil
}

func (s *memory) WriteRange(ctx context.Context, off int64, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.take(len(p)); err != nil {
		return err
	}
	if need := off + int64(len(p)); int64(len(s.b)) < need {
		s.b = append(s.b, make([]byte, need-int64(len(s.b)))...)
	}
	copy(s.b[off:], p)
	s.wrote = append(s.wrote, image.Segment{Off: off, Len: int64(len(p))})
	return ctx.Err()
}
func (s *memory) Sync(context.Context) error            { return nil }
func (s *memory) Offset(context.Context) (int64, error) { return int64(len(s.b)), nil }
func (s *memory) Append(ctx context.Context, p []byte) error {
	return s.WriteRange(ctx, int64(len(s.b)), p)
}
func (s *memory) Patch(ctx context.Context, p []byte) error { return s.WriteRange(ctx, 0, p) }

func formats() []image.Format {
	return []image.Format{{Name: "raw"}, {Name: "vpc", Subformat: "fixed"}, {Name: "vpc", Subformat: "dynamic"}, {Name: "vhdx"}, {Name: "qcow2"}, {Name: "vmdk", Subformat: "monolithicSparse"},
		{Name: "vmdk", Subformat: "streamOptimized", Compression: "stored"}}
}

func newFile(t *testing.T, src image.Source, f image.Format) *image.File {
	t.Helper()
	file, err := image.New(src, f, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// want is the file as read in one piece.
func want(t *testing.T, f *image.File) []byte {
	t.Helper()
	b := make([]byte, f.Size())
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

func plainDigest(t *testing.T, b []byte) digest.Sum {
	t.Helper()
	root := digest.NewRoot(int64(len(b)), func(int64) bool { return false })
	for off := 0; off < len(b); off += digest.BlockSize {
		block := b[off:min(off+digest.BlockSize, len(b))]
		root.Put(int64(off/digest.BlockSize), digest.Block(len(block), func(i int) (digest.Sum, bool) {
			s, _ := digest.Leaf(block[i*digest.LeafSize : min((i+1)*digest.LeafSize, len(block))])
			return s, true
		}))
	}
	s, err := root.Sum()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var sizes = []int64{512, 1<<20 - 512, 1 << 20, 1<<20 + 512, 9<<20 + 12288}

func TestRangesGiveTheFileAndTheDigest(t *testing.T) {
	for _, size := range sizes {
		for _, every := range []int{1, 3, 40} {
			src, plain := sparse(size, every, uint64(size))
			for _, format := range formats() {
				for _, o := range []Options{{}, {Workers: 1, MaxRange: 40000}, {MaxRange: 256 << 10}, {Dirty: true}} {
					f := newFile(t, src, format)
					sink := &memory{}
					res, err := Ranges(t.Context(), f, sink, nil, o)
					if err != nil {
						t.Fatal(err)
					}
					got := append(sink.b, make([]byte, f.Size()-int64(len(sink.b)))...)
					if !bytes.Equal(got, want(t, f)) {
						t.Fatalf("%s of %d bytes, every %d, %+v: bytes differ", format, size, every, o)
					}
					if res.Digest != plainDigest(t, plain) {
						t.Fatalf("%s of %d bytes, every %d, %+v: digest differs", format, size, every, o)
					}
					if o.Dirty && int64(len(sink.b)) != f.Size() {
						t.Fatalf("%s: a dirty sink got %d of %d bytes", format, len(sink.b), f.Size())
					}
				}
			}
		}
	}
}

// TestHolesAreNotSent asserts the trace: neither holes nor leaves of zeros
// reach a clean sink.
func TestHolesAreNotSent(t *testing.T) {
	b := make([]byte, 8<<20)
	m := disk.NewMap(int64(len(b)), disk.LeafSize)
	fill := func(leaf int64) {
		m.Add(leaf*disk.LeafSize, disk.LeafSize)
		b[leaf*disk.LeafSize+disk.LeafSize-1] = 1
	}
	fill(3)
	fill(4)
	m.Add(5*disk.LeafSize, disk.LeafSize) // claimed, and zeros
	fill(6)
	fill(100)
	m.Seal()
	sink := &memory{}
	f := newFile(t, image.Source{Disk: bytes.NewReader(b), Map: m}, image.Format{Name: "raw"})
	if _, err := Ranges(t.Context(), f, sink, nil, Options{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	const l = disk.LeafSize
	wantTrace := []image.Segment{{Off: 3 * l, Len: 2 * l}, {Off: 6 * l, Len: l}, {Off: 100 * l, Len: l}}
	if !slices.Equal(sink.wrote, wantTrace) {
		t.Errorf("written: %v, want %v", sink.wrote, wantTrace)
	}
}

func TestBlocksAreWholeAndAligned(t *testing.T) {
	for _, o := range []Options{
		{Block: 512 << 10},
		{Block: 512, MaxRange: 4 << 20},
		{Block: 4096, MaxRange: 40000},
		{Block: 1 << 20, MaxRange: 3 << 20},
	} {
		for _, size := range sizes {
			for _, format := range []image.Format{{Name: "raw"}, {Name: "vpc", Subformat: "fixed"}} {
				checkBlocks(t, size, format, o)
			}
		}
	}
	src, _ := sparse(9<<20+512, 6, 7)
	f := newFile(t, src, image.Format{Name: "vpc", Subformat: "dynamic"})
	if _, err := Ranges(t.Context(), f, &memory{}, nil, Options{Block: 512 << 10}); err == nil {
		t.Error("blocks that two units share were sent")
	}
}

func checkBlocks(t *testing.T, size int64, format image.Format, o Options) {
	t.Helper()
	src, _ := sparse(size, 6, 7)
	f := newFile(t, src, format)
	sink := &memory{}
	if _, err := Ranges(t.Context(), f, sink, nil, o); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("%s of %d bytes, block %d, range %d", format, size, o.Block, o.MaxRange)
	seen := map[int64]bool{}
	for _, w := range sink.wrote {
		if w.Off%o.Block != 0 || w.Len%o.Block != 0 || w.Len > max(o.MaxRange, o.Block) {
			t.Fatalf("%s: write of %d bytes at %d", name, w.Len, w.Off)
		}
		for off := w.Off; off < w.Off+w.Len; off += o.Block {
			if seen[off] {
				t.Fatalf("%s: block at %d was sent twice", name, off)
			}
			seen[off] = true
		}
	}
	w := want(t, f)
	for off := int64(0); off < f.Size(); off += o.Block {
		piece := w[off:min(off+o.Block, f.Size())]
		switch {
		case seen[off] && !bytes.Equal(sink.b[off:off+int64(len(piece))], piece):
			t.Fatalf("%s: block at %d differs", name, off)
		case !seen[off] && !digest.IsZero(piece):
			t.Fatalf("%s: block at %d was left out", name, off)
		case seen[off] && digest.IsZero(piece):
			t.Fatalf("%s: block of zeros at %d was sent", name, off)
		}
	}
}

// TestUnitsAreJoined: what lies together in the file goes in one write.
func TestUnitsAreJoined(t *testing.T) {
	const size = 24<<20 + 512
	plain := bytes.Repeat([]byte{7}, size)
	src := image.Source{Disk: bytes.NewReader(plain), Map: disk.NewMap(size, disk.LeafSize)}
	src.Map.Add(0, size)
	src.Map.Seal()
	for _, c := range []struct {
		o    Options
		most int
	}{{Options{}, 7}, {Options{MaxRange: 8 << 20}, 4}, {Options{MaxRange: 1 << 20}, 25}, {Options{InFlight: 4 << 20}, 25}} {
		sink := &memory{}
		f := newFile(t, src, image.Format{Name: "raw"})
		res, err := Ranges(t.Context(), f, sink, nil, c.o)
		if err != nil {
			t.Fatal(err)
		}
		if len(sink.wrote) > c.most || !bytes.Equal(sink.b, plain) || res.Digest != plainDigest(t, plain) {
			t.Errorf("%+v: %d writes, want at most %d; or bytes or digest differ", c.o, len(sink.wrote), c.most)
		}
	}
}

func TestBrokenRangesResume(t *testing.T) {
	for _, format := range formats() {
		src, plain := sparse(24<<20+512, 2, 3)
		f := newFile(t, src, format)
		path := filepath.Join(t.TempDir(), "journal")
		sink := &memory{}
		const inFlight = 4 << 20
		var sent int64
		for tries := 1; ; tries++ {
			j, err := journal.Load(path, "k")
			if errors.Is(err, journal.ErrNone) {
				j, err = journal.Create(path, "k", src.Map)
			}
			if err != nil {
				t.Fatal(err)
			}
			sink.failAt, sink.n = 3<<20, 0
			m := NewMeter()
			res, err := Ranges(t.Context(), f, sink, j, Options{Workers: 3, InFlight: inFlight, Meter: m})
			sent += m.Read().Sent
			j.Close()
			if err == nil {
				if res.Digest != plainDigest(t, plain) {
					t.Fatalf("%s: digest differs after %d tries", format, tries)
				}
				// Each try sends again at most what was in flight.
				all := int64(0)
				_ = f.Segments(0, f.Size(), func(s image.Segment) error {
					if s.Kind != image.Zero {
						all += s.Len
					}
					return nil
				})
				if sent > all+int64(tries)*inFlight {
					t.Errorf("%s: %d bytes were sent for a file of %d in %d tries", format, sent, all, tries)
				}
				break
			}
			if !errors.Is(err, errBroken) || tries > 30 {
				t.Fatal(err)
			}
		}
		if got := append(sink.b, make([]byte, f.Size()-int64(len(sink.b)))...); !bytes.Equal(got, want(t, f)) {
			t.Fatalf("%s: bytes differ", format)
		}
	}
}

func TestSequentialSendsEveryByteInOrder(t *testing.T) {
	for _, format := range formats() {
		src, plain := sparse(9<<20+512, 3, 11)
		f := newFile(t, src, format)
		sink := &memory{}
		j, err := journal.Create(filepath.Join(t.TempDir(), "journal"), "k", src.Map)
		if err != nil {
			t.Fatal(err)
		}
		sink.failAt = f.Size() / 2
		if _, err := Sequential(t.Context(), f, sink, j, Options{}); !errors.Is(err, errBroken) {
			t.Fatal(err)
		}
		sink.failAt = 0
		res, err := Sequential(t.Context(), f, sink, j, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sink.b, want(t, f)) || res.Digest != plainDigest(t, plain) {
			t.Fatalf("%s: bytes or digest differ", format)
		}
	}
}

// failing is a disk that cannot be read from byte at on.
type failing struct {
	io.ReaderAt
	at int64
}

func (d failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > d.at {
		return 0, fmt.Errorf("input/output error")
	}
	return d.ReaderAt.ReadAt(p, off)
}

func TestSourceThatFailsFailsTheTransfer(t *testing.T) {
	src, plain := sparse(8<<20, 1, 1)
	src.Disk = failing{bytes.NewReader(plain), 5 << 20}
	for _, format := range formats() {
		if _, err := Ranges(t.Context(), newFile(t, src, format), &memory{}, nil, Options{}); err == nil {
			t.Errorf("%s: no error", format)
		}
	}
	src.Disk = bytes.NewReader(plain[:5<<20]) // a disk that is shorter than its map says
	if _, err := Ranges(t.Context(), newFile(t, src, image.Format{Name: "raw"}), &memory{}, nil, Options{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short disk: %v", err)
	}
}

func TestCancelAndBandwidth(t *testing.T) {
	src, _ := sparse(8<<20, 1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	limit := rate.NewLimiter(1<<20, 1<<20)
	m := NewMeter()
	_, err := Ranges(ctx, newFile(t, src, image.Format{Name: "raw"}), &memory{}, nil, Options{Limit: limit, Meter: m})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if s := m.Read().Sent; s > 3<<20 {
		t.Errorf("%d bytes were sent in 50 ms at 1 MiB/s with a burst of 1 MiB", s)
	}
}

func TestScanAndFindZeros(t *testing.T) {
	src, plain := sparse(9<<20+512, 2, 9)
	sum, err := Scan(t.Context(), src, Options{})
	if err != nil || sum != plainDigest(t, plain) {
		t.Fatalf("digest %v, %v", sum, err)
	}
	m, err := FindZeros(t.Context(), src, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for l := int64(0); l < m.Len(); l++ {
		leaf := plain[l*disk.LeafSize : min((l+1)*disk.LeafSize, int64(len(plain)))]
		if m.Has(l) == digest.IsZero(leaf) {
			t.Fatalf("leaf %d: data %v", l, m.Has(l))
		}
	}
}

// TestMeterStopsAtTheEnd: what is done keeps its rate and its time.
func TestMeterStopsAtTheEnd(t *testing.T) {
	m := NewMeter()
	m.SetTotal(3 << 20)
	m.Add(1 << 20)
	if p := m.Read(); p.ETA == 0 {
		t.Errorf("a third is done and nothing is left: %+v", p)
	}
	m.Add(2 << 20)
	first := m.Read()
	time.Sleep(20 * time.Millisecond) // time passes; nothing is waited for
	if again := m.Read(); first != again || first.Rate <= 0 || first.ETA != 0 {
		t.Errorf("%+v, then %+v", first, again)
	}
}
