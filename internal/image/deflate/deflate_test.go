package deflate

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
)

// levels stand for all of them, whose difference is in numbers only.
var levels = []int{Default, 2, 5, Best}

// program is real data: the start of this test's own executable.
func program(tb testing.TB, n int) []byte {
	tb.Helper()
	name, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, n)
	if _, err := io.ReadFull(f, p); err != nil {
		tb.Fatal(err)
	}
	return p
}

func noise(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed)})
	p := make([]byte, n)
	_, _ = r.Read(p) // never fails
	return p
}

// fewSymbols is noise of so many different bytes: nothing but Huffman codes helps.
func fewSymbols(symbols, n int) []byte {
	p := noise(uint64(symbols), n)
	for i := range p {
		p[i] = byte(int(p[i]) % symbols)
	}
	return p
}

// skewed has bytes whose frequencies are Fibonacci's numbers, for which Huffman's
// algorithm makes the longest codes there are.
func skewed() []byte {
	var p []byte
	for i, a, b := 0, 1, 1; len(p)+a <= segment; i, a, b = i+1, b, a+b {
		p = append(p, bytes.Repeat([]byte{byte(i)}, a)...)
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(p), func(i, j int) { p[i], p[j] = p[j], p[i] })
	return p
}

func pieces(tb testing.TB) map[string][]byte {
	far := append(noise(1, MaxWindow), noise(1, MaxWindow)...) // one match of the largest distance
	near := append(noise(1, MinWindow), noise(1, MinWindow)...)
	return map[string][]byte{
		"one byte":      {7},
		"two bytes":     {7, 7},
		"nine":          []byte("aaaaaaaaa"),
		"ten":           []byte("abcabcabca"),
		"zeros":         make([]byte, 64<<10),
		"odd zeros":     make([]byte, 12345),
		"noise":         noise(2, 64<<10),
		"2 symbols":     fewSymbols(2, 64<<10),
		"3 symbols":     fewSymbols(3, 64<<10),
		"200 symbols":   fewSymbols(200, 64<<10),
		"skewed":        skewed(),
		"program":       program(tb, 64<<10),
		"large program": program(tb, 300<<10+17),
		"large noise":   noise(3, 200<<10),
		"far":           far,
		"near":          near,
		"a sector":      append(make([]byte, 65024), noise(4, 512)...),
		"bits left":     append(program(tb, 64<<10), noise(5, 64<<10)...), // stored behind compressed
	}
}

func inflate(tb testing.TB, p []byte) []byte {
	tb.Helper()
	r := bytes.NewReader(p)
	got, err := io.ReadAll(flate.NewReader(r))
	if err != nil {
		tb.Fatalf("cannot inflate: %v", err)
	}
	if r.Len() != 0 {
		tb.Fatalf("%d bytes behind the final block", r.Len())
	}
	return got
}

func TestAppend(t *testing.T) {
	for name, src := range pieces(t) {
		for _, window := range []int{MinWindow, MaxWindow} {
			for _, level := range levels {
				t.Run(fmt.Sprintf("%s/%d/%d", name, window, level), func(t *testing.T) {
					e := New(window, level)
					prefix := []byte("prefix")
					got := e.Append(prefix[:6:6], src)
					if !bytes.HasPrefix(got, prefix) {
						t.Fatal("what was in dst is gone")
					}
					got = got[6:]
					if !bytes.Equal(inflate(t, got), src) {
						t.Error("inflated bytes differ")
					}
					if len(got) > Bound(len(src)) {
						t.Errorf("%d bytes of %d, bound is %d", len(got), len(src), Bound(len(src)))
					}
					checkWindow(t, e, len(src))
				})
			}
		}
	}
}

// checkWindow looks at the sequences of the last segment.
func checkWindow(tb testing.TB, e *Encoder, n int) {
	tb.Helper()
	pos := 0
	for i, s := range e.seqs[:e.nseq] {
		pos += int(s & (1<<seqLenShift - 1))
		d := int(s>>seqDistShift&(1<<15-1)) + 1
		if d > e.window || d > pos {
			tb.Fatalf("sequence %d of %d: distance %d at %d, window %d", i, n, d, pos, e.window)
		}
		pos += int(s>>seqLenShift&255) + minMatch
	}
}

func TestEmpty(t *testing.T) {
	got := New(MaxWindow, Default).Append(nil, nil)
	if want := []byte{1, 0, 0, 0xff, 0xff}; !bytes.Equal(got, want) {
		t.Errorf("%x, want a stored block of no bytes, %x", got, want)
	}
}

func TestStored(t *testing.T) {
	for _, n := range []int{1 << 10, 65535, 65536} {
		src := noise(6, n)
		got := New(MaxWindow, Default).Append(nil, src)
		want := []byte{}
		for p := src; len(p) > 0; {
			k := min(len(p), maxStored)
			last := byte(0)
			if k == len(p) {
				last = 1
			}
			want = append(want, last, byte(k), byte(k>>8), ^byte(k), ^byte(k>>8))
			want = append(want, p[:k]...)
			p = p[k:]
		}
		if !bytes.Equal(got, want) {
			t.Errorf("noise of %d bytes is not just stored", n)
		}
	}
}

// What a window forbids and another allows shows in the size.
func TestWindowReaches(t *testing.T) {
	p := pieces(t)
	for _, level := range levels {
		if n := len(New(MaxWindow, level).Append(nil, p["far"])); n > MaxWindow+2000 {
			t.Errorf("level %d: %d bytes, the match 32 KiB back was not found", level, n)
		}
		if n := len(New(MinWindow, level).Append(nil, p["far"])); n < 2*MaxWindow {
			t.Errorf("level %d: %d bytes, a match beyond the window was taken", level, n)
		}
		if n := len(New(MinWindow, level).Append(nil, p["near"])); n > MinWindow+1000 {
			t.Errorf("level %d: %d bytes, the match 4 KiB back was not found", level, n)
		}
	}
}

// An encoder that was used gives what a new one gives.
func TestNoState(t *testing.T) {
	all := pieces(t)
	for _, level := range levels {
		used := New(MinWindow, level)
		for name, src := range all {
			got := used.Append(nil, src)
			if want := New(MinWindow, level).Append(nil, src); !bytes.Equal(got, want) {
				t.Errorf("level %d, %s: %d bytes, from a new encoder %d", level, name, len(got), len(want))
			}
		}
	}
}

// Higher levels are worth their time on real data, and the sizes are near those
// of the standard library's best.
func TestRatio(t *testing.T) {
	src := program(t, 1<<20)
	size := func(level int) (n int) {
		e := New(MaxWindow, level)
		for p := range bytesChunks(src) {
			n += len(e.Append(nil, p))
		}
		return n
	}
	var std int
	for p := range bytesChunks(src) {
		var b bytes.Buffer
		w, err := flate.NewWriter(&b, 6)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		std += b.Len()
	}
	if n := size(Default); n > std*108/100 {
		t.Errorf("level %d: %d bytes, the standard library's level 6 %d", Default, n, std)
	}
	if n := size(Best); n > std*101/100 {
		t.Errorf("level %d: %d bytes, the standard library's level 6 %d", Best, n, std)
	}
	for i, level := range levels[1:] {
		if a, b := size(levels[i]), size(level); b > a {
			t.Errorf("level %d makes %d bytes, level %d %d", levels[i], a, level, b)
		}
	}
}

func bytesChunks(p []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(p) > 0 {
			n := min(len(p), 64<<10)
			if !yield(p[:n]) {
				return
			}
			p = p[n:]
		}
	}
}

// Codes never exceed the limit and fill the code space exactly.
func TestHuffman(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var h huffman
	for round := range 2000 {
		n, limit := maxLit, codeLimit
		if round%2 == 1 {
			n, limit = maxClen, clenLimit
		}
		h.init(n, limit)
		clear(h.freq[:])
		total, most := 0, 1+r.IntN(segment)
		for s := range h.freq[:n] {
			f := uint32(0)
			switch round % 5 {
			case 0: // Fibonacci-like
				if s < 24 {
					f = uint32(1) << (s * 2 / 3)
				}
			case 1:
				f = uint32(r.IntN(2))
			case 2:
				f = uint32(r.ExpFloat64() * 10)
			default:
				f = uint32(r.IntN(1 + most/n))
			}
			h.freq[s] = f
			total += int(f)
		}
		h.build()
		space := 0
		for s, c := range h.codes[:n] {
			l := int(c & 255)
			if l > limit {
				t.Fatalf("round %d: symbol %d has %d bits", round, s, l)
			}
			if (h.freq[s] != 0) != (l != 0) {
				t.Fatalf("round %d: symbol %d occurs %d times and has %d bits", round, s, h.freq[s], l)
			}
			if l > 0 {
				space += 1 << (limit - l)
			}
		}
		if space != 1<<limit {
			t.Fatalf("round %d: codes take %d of %d", round, space, 1<<limit)
		}
	}
}

func FuzzAppend(f *testing.F) {
	for _, p := range []string{"", "a", "abcabcabcabc", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"} {
		f.Add([]byte(p), uint8(0), uint16(1))
	}
	f.Add([]byte("some text, some text, and some more text"), uint8(9), uint16(2000))
	f.Fuzz(func(t *testing.T, p []byte, level uint8, repeat uint16) {
		src := p
		for len(src) < 150<<10 && repeat > 0 && len(p) > 0 {
			src = append(src, p[:len(p)-int(repeat)%len(p)]...)
			repeat--
		}
		for _, window := range []int{MinWindow, MaxWindow} {
			e := New(window, int(level%(Best+1)))
			got := e.Append(nil, src)
			if !bytes.Equal(inflate(t, got), src) {
				t.Fatal("inflated bytes differ")
			}
			if len(got) > Bound(len(src)) {
				t.Fatalf("%d bytes of %d, bound is %d", len(got), len(src), Bound(len(src)))
			}
			checkWindow(t, e, len(src))
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	src := program(b, 4<<20)
	for _, window := range []int{MinWindow, MaxWindow} {
		for level := Default; level <= Best; level++ {
			b.Run(fmt.Sprintf("window=%d/level=%d", window, level), func(b *testing.B) {
				e := New(window, level)
				var dst []byte
				b.SetBytes(int64(len(src)))
				for b.Loop() {
					n := 0
					for p := range bytesChunks(src) {
						dst = e.Append(dst[:0], p)
						n += len(dst)
					}
					b.ReportMetric(float64(len(src))/float64(n), "ratio")
				}
			})
		}
	}
}
