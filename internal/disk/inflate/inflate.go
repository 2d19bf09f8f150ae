// Package inflate decodes whole DEFLATE (RFC 1951) and zlib (RFC 1950) streams
// from one buffer into another, several times faster than a streaming decoder:
// the output buffer is its own window, and input is taken 64 bits at a time.
//
// It is meant for the compressed clusters and grains of disk images, whose
// decoded size is known. Input is hostile: nothing is read outside src or
// written outside dst, time is bounded by the lengths of both, and nothing is
// allocated but a Decoder of fixed size.
package inflate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Errors. ErrFull comes with dst filled: its bytes are the start of what the
// stream decodes to. ErrCorrupt is wrapped with what is wrong. A stream that
// ends before its last block does is io.ErrUnexpectedEOF.
var (
	ErrFull    = errors.New("decompressed data is longer than expected")
	ErrCorrupt = errors.New("compressed data is damaged")
)

var decoders = sync.Pool{New: func() any { return new(Decoder) }}

// Deflate decodes a raw DEFLATE stream from the start of src into dst and
// returns the number of bytes it came to. Bytes of src after the stream's last
// block are ignored. Where it fails, and behind the n bytes decoded, the
// content of dst is undefined, except with ErrFull. dst and src must not
// overlap. Any number of goroutines may call it.
func Deflate(dst, src []byte) (n int, err error) {
	d := decoders.Get().(*Decoder)
	n, err = d.Deflate(dst, src)
	decoders.Put(d)
	return n, err
}

// Zlib decodes a zlib stream from the start of src into dst and checks its
// Adler-32. It is otherwise as Deflate. With ErrFull the sum was not checked.
func Zlib(dst, src []byte) (n int, err error) {
	d := decoders.Get().(*Decoder)
	n, err = d.Zlib(dst, src)
	decoders.Put(d)
	return n, err
}

// Decoder holds the tables of a decoding under way, about 20 KiB. The zero
// value is ready. It serves one goroutine at a time; what one call leaves in it
// does not matter to the next.
type Decoder struct {
	lit   [litTableSize]entry
	dist  [distTableSize]entry
	pre   [1 << preBits]entry
	lens  [maxLit + maxDist]uint8
	sort  [maxLit]uint16
	fixed bool // lit and dist hold the fixed codes
}

// Deflate is as the function Deflate.
func (d *Decoder) Deflate(dst, src []byte) (n int, err error) {
	r := reader{dst: dst, src: src}
	err = d.stream(&r)
	return r.out, err
}

// Zlib is as the function Zlib.
func (d *Decoder) Zlib(dst, src []byte) (n int, err error) {
	// RFC 1950, 2.2: CMF (method 8, window), FLG (check bits, FDICT in bit 5).
	if len(src) < 2 {
		return 0, io.ErrUnexpectedEOF
	}
	if src[0]&15 != 8 || src[0]>>4 > 7 || binary.BigEndian.Uint16(src)%31 != 0 {
		return 0, fmt.Errorf("%w: no zlib header", ErrCorrupt)
	}
	if src[1]&0x20 != 0 {
		return 0, fmt.Errorf("%w: a preset dictionary is wanted", ErrCorrupt)
	}
	r := reader{dst: dst, src: src, in: 2}
	if err := d.stream(&r); err != nil {
		return r.out, err
	}
	if len(src)-r.in < 4 {
		return r.out, io.ErrUnexpectedEOF
	}
	if binary.BigEndian.Uint32(src[r.in:]) != Adler32(dst[:r.out]) {
		return r.out, fmt.Errorf("%w: wrong checksum", ErrCorrupt)
	}
	return r.out, nil
}

// reader is the state of a decoding between blocks.
type reader struct {
	dst, src []byte
	out, in  int
	// buf holds the next bits of the stream, the first one lowest; bits of them
	// are valid and the others zero. past counts zero bytes that were put into
	// it after the end of src.
	buf  uint64
	bits uint
	past int
}

// fill makes at least 56 bits of buf valid, with zeros after the end of src.
func (r *reader) fill() {
	for r.bits < 56 {
		if r.in < len(r.src) {
			r.buf |= uint64(r.src[r.in]) << r.bits
			r.in++
		} else {
			r.past++
		}
		r.bits += 8
	}
}

// take consumes n ≤ 16 bits, of which there must be enough in buf.
func (r *reader) take(n uint) uint {
	v := uint(r.buf) & (1<<n - 1)
	r.buf >>= n
	r.bits -= n
	return v
}

// ended tells that bits after the end of src were consumed.
func (r *reader) ended() bool { return uint(r.past)*8 > r.bits }

// stream decodes blocks up to the last one and leaves in on the first whole
// byte after it.
func (d *Decoder) stream(r *reader) error {
	for {
		r.fill()
		last := r.take(1) == 1
		kind := r.take(2)
		if r.ended() {
			return io.ErrUnexpectedEOF
		}
		var err error
		switch kind {
		case 0:
			err = r.stored()
		case 1:
			d.fixedCodes()
			err = d.block(r)
		case 2:
			if err = d.dynamicCodes(r); err == nil {
				err = d.block(r)
			}
		default:
			err = fmt.Errorf("%w: invalid block type", ErrCorrupt)
		}
		if err != nil {
			return err
		}
		if last {
			r.align()
			return nil
		}
	}
}

// align drops the bits up to the next byte boundary and gives whole bytes
// taken ahead back to src.
func (r *reader) align() {
	r.in -= max(int(r.bits/8)-r.past, 0)
	r.buf, r.bits, r.past = 0, 0, 0
}

// stored copies a stored block: RFC 1951, 3.2.4.
func (r *reader) stored() error {
	r.align()
	if len(r.src)-r.in < 4 {
		return io.ErrUnexpectedEOF
	}
	n := int(binary.LittleEndian.Uint16(r.src[r.in:]))
	if n != int(^binary.LittleEndian.Uint16(r.src[r.in+2:])) {
		return fmt.Errorf("%w: stored block with a wrong length", ErrCorrupt)
	}
	r.in += 4
	have := min(n, len(r.src)-r.in)
	c := copy(r.dst[r.out:], r.src[r.in:r.in+have])
	r.in += c
	r.out += c
	switch {
	case c < have:
		return ErrFull
	case have < n:
		return io.ErrUnexpectedEOF
	}
	return nil
}
