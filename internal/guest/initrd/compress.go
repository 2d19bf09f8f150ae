package initrd

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// maxWindow bounds the memory a decompressor takes.
const maxWindow = 128 << 20

// decompress opens the stream that begins at off by its magic number. length
// is the stored stream's, -1 where src has consumed exactly it at its end.
func decompress(magic []byte, src *source, r io.ReaderAt, off, size int64) (name string, plain io.ReadCloser, length int64, err error) {
	has := func(m string) bool { return bytes.HasPrefix(magic, []byte(m)) }
	switch {
	case has("\x1f\x8b"):
		z, err := gzip.NewReader(src)
		if err != nil {
			return "", nil, 0, err
		}
		z.Multistream(false)
		return "gzip", z, -1, nil
	case has("\x28\xb5\x2f\xfd"), len(magic) > 3 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18}):
		n, err := zstdLength(r, off, size)
		if err != nil {
			return "", nil, 0, err
		}
		z, err := zstd.NewReader(io.NewSectionReader(r, off, n), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return "", nil, 0, err
		}
		return "zstd", z.IOReadCloser(), n, nil
	case has("\xfd7zXZ\x00"):
		z, err := xz.ReaderConfig{DictCap: 8 << 20, SingleStream: true}.NewReader(src)
		if err != nil {
			return "", nil, 0, err
		}
		// The reader looks one byte beyond the stream, whose length is a
		// multiple of four.
		return "xz", &single{z, src, "unexpected data after stream", func(n int64) int64 { return (n - 1) &^ 3 }}, -1, nil
	case has("BZh"):
		// The reader looks for the two letters of a further stream.
		return "bzip2", &single{bzip2.NewReader(src), src, "bad magic value in continuation file", func(n int64) int64 { return n - 2 }}, -1, nil
	case has("\x02\x21\x4c\x18"):
		return "lz4", io.NopCloser(&lz4Legacy{src: src}), -1, nil
	case has("\x5d\x00\x00"):
		if len(magic) < 5 || binary.LittleEndian.Uint32(magic[1:]) > maxWindow {
			return "", nil, 0, fmt.Errorf("%w: lzma dictionary", ErrFormat)
		}
		z, err := lzma.NewReader(src)
		if err != nil {
			return "", nil, 0, err
		}
		return "lzma", io.NopCloser(z), size - off, nil
	case has("\x89LZO"):
		return "", nil, 0, fmt.Errorf("%w: compressed with lzo", ErrFormat)
	}
	return "", nil, 0, fmt.Errorf("%w: unknown magic number % x", ErrFormat, magic[:min(len(magic), 6)])
}

// single ends a stream where its decompressor complains of what follows, and
// gives back what that looked at.
type single struct {
	io.Reader
	src   *source
	after string
	back  func(int64) int64
}

func (s *single) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && strings.HasSuffix(err.Error(), s.after) {
		s.src.n = s.back(s.src.n)
		err = io.EOF
	}
	return n, err
}

func (s *single) Close() error { return nil }

// zstdLength walks the frames (RFC 8878, section 3.1) that begin at off and
// follow one another without a gap.
func zstdLength(r io.ReaderAt, off, size int64) (int64, error) {
	at := off
	frames := 0
	bad := fmt.Errorf("%w: zstd frame", ErrFormat)
	for at < size {
		b := make([]byte, 18)
		n, _ := r.ReadAt(b, at)
		if n < 8 {
			break
		}
		m := binary.LittleEndian.Uint32(b)
		if m&0xfffffff0 == 0x184d2a50 {
			at += 8 + int64(binary.LittleEndian.Uint32(b[4:]))
			continue
		}
		if m != 0xfd2fb528 {
			break
		}
		d := b[4]
		h := int64(5)
		if d&0x20 == 0 {
			h++
		}
		h += []int64{0, 1, 2, 4}[d&3]
		switch d >> 6 {
		case 0:
			if d&0x20 != 0 {
				h++
			}
		default:
			h += 1 << (d >> 6)
		}
		at += h
		for last := false; !last; {
			w := make([]byte, 3)
			if n, _ := r.ReadAt(w, at); n < 3 {
				return 0, bad
			}
			v := uint32(w[0]) | uint32(w[1])<<8 | uint32(w[2])<<16
			last = v&1 != 0
			at += 3
			switch v >> 1 & 3 {
			case 1:
				at++
			case 3:
				return 0, bad
			default:
				at += int64(v >> 3)
			}
			if at > size {
				return 0, bad
			}
		}
		if d&4 != 0 {
			at += 4
		}
		frames++
	}
	if frames == 0 || at > size {
		return 0, bad
	}
	return at - off, nil
}

// lz4Legacy reads the legacy frame that "lz4 -l" and the kernel's build use:
// blocks of 8 MiB, each with its stored size.
type lz4Legacy struct {
	src   *source
	began bool
	out   []byte
	buf   []byte
}

func (z *lz4Legacy) Read(p []byte) (int, error) {
	for len(z.out) == 0 {
		if !z.began {
			z.began = true
			if _, err := io.CopyN(io.Discard, z.src, 4); err != nil {
				return 0, err
			}
		}
		w, err := z.src.Peek(4)
		if err != nil || len(w) < 4 {
			return 0, io.EOF
		}
		n := binary.LittleEndian.Uint32(w)
		// Zeros or something else than a block's size end the stream.
		if n == 0 || n > 8<<20+(8<<20)/255+16 {
			return 0, io.EOF
		}
		if _, err := io.CopyN(io.Discard, z.src, 4); err != nil {
			return 0, err
		}
		in := make([]byte, n)
		if _, err := io.ReadFull(z.src, in); err != nil {
			return 0, err
		}
		if z.buf == nil {
			z.buf = make([]byte, 8<<20)
		}
		k, err := lz4.UncompressBlock(in, z.buf)
		if err != nil {
			return 0, err
		}
		z.out = z.buf[:k]
	}
	n := copy(p, z.out)
	z.out = z.out[n:]
	return n, nil
}
