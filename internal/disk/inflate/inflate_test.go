package inflate

import (
	"bytes"
	stdflate "compress/flate"
	stdzlib "compress/zlib"
	"encoding/hex"
	"errors"
	"hash/adler32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/flate"
)

// realData is up to size bytes of files of the system, the same on each run.
func realData(tb testing.TB, size int) []byte {
	tb.Helper()
	var b []byte
	err := filepath.WalkDir("/usr", func(p string, e os.DirEntry, err error) error {
		switch {
		case err != nil:
			return filepath.SkipDir // not ours to read
		case !e.Type().IsRegular() || adler32.Checksum([]byte(p))%53 != 0:
			return nil
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		d, err := io.ReadAll(io.LimitReader(f, int64(min(size-len(b), 1<<20))))
		b = append(b, d...)
		err = errors.Join(err, f.Close())
		if len(b) == size {
			return filepath.SkipAll
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	if len(b) < size/2 {
		tb.Fatalf("only %d bytes of files in /usr", len(b))
	}
	return b
}

func compress(tb testing.TB, data []byte, level int) []byte {
	tb.Helper()
	var z bytes.Buffer
	w, err := stdflate.NewWriter(&z, level)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return z.Bytes()
}

// inputs have the shapes that the paths of the decoder differ for.
func inputs(tb testing.TB) map[string][]byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 100<<10)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	m := map[string][]byte{
		"empty": {}, "one": {7}, "zeros": make([]byte, 100<<10), "noise": noise,
		"files": realData(tb, 400<<10),
		"short": []byte("short enough to be decoded by the careful loop only"),
	}
	for period := 1; period < 20; period++ { // every distance below and around a word
		m["period "+string(rune('a'+period))] = bytes.Repeat(noise[:period], 5000/period)
	}
	// Symbols whose frequencies fall like Fibonacci numbers have the longest codes.
	var skew []byte
	for i, a, b := 0, 1, 1; i < 24; i, a, b = i+1, b, a+b {
		skew = append(skew, bytes.Repeat([]byte{byte(i * 11)}, a)...)
	}
	rnd.Shuffle(len(skew), func(i, j int) { skew[i], skew[j] = skew[j], skew[i] })
	m["skewed"] = skew
	return m
}

func TestDeflate(t *testing.T) {
	for name, want := range inputs(t) {
		for _, level := range []int{-2, 0, 1, 6, 9} {
			z := compress(t, want, level)
			dst := make([]byte, len(want)+1000)
			for _, room := range []int{0, 1, 319, 320, 1000} {
				clear(dst)
				d := dst[: len(want)+room : len(want)+room]
				n, err := Deflate(d, append(z[:len(z):len(z)], "padding"...))
				if err != nil || !bytes.Equal(d[:n], want) {
					t.Fatalf("%s level %d room %d: %d bytes of %d, %v", name, level, room, n, len(want), err)
				}
				if tail := dst[len(want)+room:]; !bytes.Equal(tail, make([]byte, len(tail))) {
					t.Fatalf("%s level %d room %d: wrote behind dst", name, level, room)
				}
			}
		}
	}
}

// A buffer that is too small is filled with the start of the data.
func TestFull(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for name, want := range inputs(t) {
		for _, level := range []int{-2, 0, 6} {
			z := compress(t, want, level)
			for range 10 {
				if len(want) == 0 {
					continue
				}
				size := rnd.IntN(len(want))
				dst := make([]byte, len(want)+100)
				n, err := Deflate(dst[:size], z)
				if !errors.Is(err, ErrFull) || n != size || !bytes.Equal(dst[:n], want[:n]) {
					t.Fatalf("%s level %d size %d: %d, %v", name, level, size, n, err)
				}
				if tail := dst[size:]; !bytes.Equal(tail, make([]byte, len(tail))) {
					t.Fatalf("%s level %d size %d: wrote behind dst", name, level, size)
				}
			}
		}
	}
}

// Every prefix of a stream is an error, and a fast one.
func TestTruncated(t *testing.T) {
	data := realData(t, 4000)
	for _, level := range []int{-2, 0, 6} {
		z := compress(t, data, level)
		dst := make([]byte, len(data))
		for n := range z {
			if _, err := Deflate(dst, z[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("level %d: %d bytes of %d: %v", level, n, len(z), err)
			}
		}
	}
}

func TestCorrupt(t *testing.T) {
	for _, c := range []struct{ name, hex string }{
		{"block type 3", "07"},
		{"stored length", "01 0100 0000 ff"},
		{"286 and more literal symbols", "fd ff ff ff ff ff ff ff ff"},
		{"repeat of no length", "04 00 02 24 09 00 00 00 00 00 00 00"},
		{"distance before the start", "4b 04 12 00"},
		{"distance symbol 30", "4b 84 3c 00 00"},
		{"length symbol 286", "1b 03 00"},
		{"oversubscribed code lengths", "04 00 ff ff ff ff ff ff ff ff ff ff"},
		{"incomplete code lengths", "05 e0 81 00 00 00 00 00 00 00 00"},
	} {
		src, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(c.hex), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, 4096)
		for _, pad := range []int{0, 100} {
			in := append(src[:len(src):len(src)], make([]byte, pad)...)
			_, want := io.ReadAll(stdflate.NewReader(bytes.NewReader(in)))
			if want == nil {
				t.Fatalf("%s: the standard library accepts it", c.name)
			}
			if _, err := Deflate(dst, in); pad > 0 && !errors.Is(err, ErrCorrupt) || err == nil {
				t.Errorf("%s padded by %d: %v (the standard library says %v)", c.name, pad, err, want)
			}
		}
	}
}

func TestZlib(t *testing.T) {
	data := realData(t, 200<<10)
	var z bytes.Buffer
	w := stdzlib.NewWriter(&z)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	stream := z.Bytes()
	dst := make([]byte, len(data))
	n, err := Zlib(dst, append(stream[:len(stream):len(stream)], 0, 0, 0))
	if err != nil || !bytes.Equal(dst[:n], data) {
		t.Fatalf("%d bytes of %d: %v", n, len(data), err)
	}
	if n, err := Zlib(dst[:1000], stream); !errors.Is(err, ErrFull) || n != 1000 {
		t.Errorf("short buffer: %d, %v", n, err)
	}
	for cut := 1; cut < 10; cut++ {
		if _, err := Zlib(dst, stream[:len(stream)-cut]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut by %d: %v", cut, err)
		}
	}
	for _, i := range []int{0, 1, len(stream) - 1} {
		bad := bytes.Clone(stream)
		bad[i] ^= 1
		if _, err := Zlib(dst, bad); !errors.Is(err, ErrCorrupt) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	if _, err := Zlib(dst, []byte{0x78, 0x20 | (31-(0x7820)%31)%31, 0, 0, 0, 1, 3, 0, 0, 0, 0, 1}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("preset dictionary: %v", err)
	}
}

func TestAdler32(t *testing.T) {
	data := realData(t, 100<<10)
	ones := bytes.Repeat([]byte{0xff}, 100<<10)
	for _, p := range [][]byte{data, ones} {
		for n := range 400 {
			for _, q := range [][]byte{p[:n], p[n : n+n*100]} {
				if got, want := Adler32(q), adler32.Checksum(q); got != want {
					t.Fatalf("%d bytes: %08x, want %08x", len(q), got, want)
				}
			}
		}
	}
}

func FuzzDeflate(f *testing.F) {
	for _, p := range inputs(f) {
		p = p[:min(len(p), 3000)]
		for _, level := range []int{-2, 0, 1, 9} {
			z := compress(f, p, level)
			f.Add(z, uint16(len(p)))
			f.Add(z[:len(z)/2], uint16(len(p)))
			f.Add(append(z, z...), uint16(len(p)/2))
		}
	}
	f.Add([]byte{0x05, 0xe0, 0x81, 0x08, 0x00, 0x00, 0x00, 0x00, 0x20, 0x7f, 0xeb, 0x0b, 0x00, 0x00}, uint16(100))
	std := stdflate.NewReader(nil)
	f.Fuzz(func(t *testing.T, src []byte, size uint16) {
		dst := make([]byte, int(size)+64)
		want := make([]byte, int(size)+1)
		if err := std.(stdflate.Resetter).Reset(bytes.NewReader(src), nil); err != nil {
			t.Fatal(err)
		}
		// Not io.ReadFull, whose error for the end is the one for a stream cut short.
		var m int
		var oracle error
		for oracle == nil && m < len(want) {
			var k int
			k, oracle = std.Read(want[m:])
			m += k
		}
		if oracle == io.EOF {
			oracle = nil
		}
		n, err := Deflate(dst[:size:size], src)
		switch {
		case m > int(size):
			if !errors.Is(err, ErrFull) || n != int(size) {
				t.Fatalf("%d bytes, %v; want %d and ErrFull", n, err, size)
			}
		case oracle != nil:
			if err == nil {
				t.Fatalf("decoded %d bytes; the standard library says %v", n, oracle)
			}
			return
		case err != nil || n != m:
			t.Fatalf("%d bytes, %v; want %d", n, err, m)
		}
		if !bytes.Equal(dst[:n], want[:n]) {
			t.Fatal("other bytes than the standard library's")
		}
		if !bytes.Equal(dst[size:], make([]byte, 64)) {
			t.Fatal("wrote behind dst")
		}
	})
}

func FuzzZlib(f *testing.F) {
	for _, p := range inputs(f) {
		var z bytes.Buffer
		w := stdzlib.NewWriter(&z)
		if _, err := w.Write(p[:min(len(p), 3000)]); err != nil {
			f.Fatal(err)
		}
		if err := w.Close(); err != nil {
			f.Fatal(err)
		}
		f.Add(z.Bytes())
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		const limit = 64 << 10
		var want []byte
		r, oracle := stdzlib.NewReader(bytes.NewReader(src))
		if oracle == nil {
			want, oracle = io.ReadAll(io.LimitReader(r, limit+1))
		}
		dst := make([]byte, limit)
		n, err := Zlib(dst, src)
		switch {
		case len(want) > limit:
			if !errors.Is(err, ErrFull) || n != limit {
				t.Fatalf("%d bytes, %v; want ErrFull", n, err)
			}
		case oracle != nil || src[1]&0x20 != 0:
			// The standard library takes a stream that wants an empty dictionary.
			if err == nil {
				t.Fatalf("decoded %d bytes; the standard library says %v", n, oracle)
			}
			return
		case err != nil || n != len(want):
			t.Fatalf("%d bytes, %v; want %d", n, err, len(want))
		}
		if !bytes.Equal(dst[:n], want[:n]) {
			t.Fatal("other bytes than the standard library's")
		}
	})
}

// BenchmarkDeflate decodes 64 KiB clusters of files of the system.
func BenchmarkDeflate(b *testing.B) {
	const cluster = 64 << 10
	data := realData(b, 16<<20)
	for _, level := range []struct {
		name  string
		level int
	}{{"level1", 1}, {"level6", 6}} {
		var streams [][]byte
		for o := 0; o+cluster <= len(data); o += cluster {
			streams = append(streams, compress(b, data[o:o+cluster], level.level))
		}
		dst := make([]byte, cluster)
		run := func(name string, decode func(src []byte) (int, error)) {
			b.Run(level.name+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(streams)) * cluster)
				for b.Loop() {
					for _, z := range streams {
						if n, err := decode(z); err != nil || n != cluster {
							b.Fatal(n, err)
						}
					}
				}
			})
		}
		run("ascend", func(z []byte) (int, error) { return Deflate(dst, z) })
		kp, std := flate.NewReader(nil), stdflate.NewReader(nil)
		run("klauspost", func(z []byte) (int, error) {
			if err := kp.(flate.Resetter).Reset(bytes.NewReader(z), nil); err != nil {
				return 0, err
			}
			return io.ReadFull(kp, dst)
		})
		run("standard", func(z []byte) (int, error) {
			if err := std.(stdflate.Resetter).Reset(bytes.NewReader(z), nil); err != nil {
				return 0, err
			}
			return io.ReadFull(std, dst)
		})
	}
}

func BenchmarkAdler32(b *testing.B) {
	data := realData(b, 64<<10)
	b.Run("ascend", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			Adler32(data)
		}
	})
	b.Run("standard", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			adler32.Checksum(data)
		}
	})
}
