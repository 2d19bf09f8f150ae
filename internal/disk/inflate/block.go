package inflate

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Margins of the fast loop. One pass of it takes at most 2 × 7 bytes of input
// and loads 8 at a time; it writes at most three bytes of literals or a match
// of 258, in words of 8 of which the last may stick out, behind two literals.
const (
	inMargin  = 32
	outMargin = 320
)

// block decodes the symbols of one block with the tables as they stand, up to
// its end symbol.
func (d *Decoder) block(r *reader) error {
	if len(r.src)-r.in >= inMargin && len(r.dst)-r.out >= outMargin {
		done, err := d.fast(r)
		if done || err != nil {
			return err
		}
	}
	return d.slow(r)
}

// fast decodes symbols while both buffers have their margins; done tells that
// the block ended.
//
// After a refill at least 56 bits are valid. Two literals of the first table
// take 22 of them, a length 20 and a distance 28.
func (d *Decoder) fast(r *reader) (done bool, err error) {
	dst, src := r.dst, r.src
	in, out := r.in, r.out
	inEnd, outEnd := len(src)-inMargin, len(dst)-outMargin
	buf, n := r.buf, uint8(r.bits)
	lit, dist := &d.lit, &d.dist

	buf |= binary.LittleEndian.Uint64(src[in:]) << (n & 63)
	in += int((63 - n) >> 3)
	n |= 56
	e := lit[buf&(1<<litBits-1)]
	for in <= inEnd && out <= outEnd {
		saved := buf
		buf >>= e & 63
		n -= uint8(e & 63)
		if e&literal != 0 {
			dst[out] = byte(e >> 16)
			out++
			e = lit[buf&(1<<litBits-1)]
			saved = buf
			buf >>= e & 63
			n -= uint8(e & 63)
			if e&literal != 0 {
				dst[out] = byte(e >> 16)
				out++
				e = lit[buf&(1<<litBits-1)]
				saved = buf
				buf >>= e & 63
				n -= uint8(e & 63)
				if e&literal != 0 {
					dst[out] = byte(e >> 16)
					out++
					buf |= binary.LittleEndian.Uint64(src[in:]) << (n & 63)
					in += int((63 - n) >> 3)
					n |= 56
					e = lit[buf&(1<<litBits-1)]
					continue
				}
			}
		}
		if e&special != 0 {
			if e&link != 0 {
				e = lit[(uint64(e>>16)+buf&(1<<(e>>8&15)-1))&litMask]
				saved = buf
				buf >>= e & 63
				n -= uint8(e & 63)
				if e&literal != 0 {
					dst[out] = byte(e >> 16)
					out++
					buf |= binary.LittleEndian.Uint64(src[in:]) << (n & 63)
					in += int((63 - n) >> 3)
					n |= 56
					e = lit[buf&(1<<litBits-1)]
					continue
				}
			}
			if e&special != 0 {
				if e&end != 0 {
					done = true
				} else {
					err = fmt.Errorf("%w: invalid symbol", ErrCorrupt)
				}
				break
			}
		}
		length := int(e>>16) + int(saved&(1<<(e&63)-1)>>(e>>8&15))

		buf |= binary.LittleEndian.Uint64(src[in:]) << (n & 63)
		in += int((63 - n) >> 3)
		n |= 56
		e = dist[buf&(1<<distBits-1)]
		if e&link != 0 {
			buf >>= distBits
			n -= distBits
			e = dist[(uint64(e>>16)+buf&(1<<(e>>8&15)-1))&distMask]
		}
		if e&special != 0 {
			err = fmt.Errorf("%w: invalid distance", ErrCorrupt)
			break
		}
		off := int(e>>16) + int(buf&(1<<(e&63)-1)>>(e>>8&15))
		buf >>= e & 63
		n -= uint8(e & 63)
		if off > out {
			err = fmt.Errorf("%w: distance before the start", ErrCorrupt)
			break
		}

		// Words are copied in ascending order, each loaded after the one before it
		// was stored: right for any distance of at least a word.
		buf |= binary.LittleEndian.Uint64(src[in:]) << (n & 63)
		in += int((63 - n) >> 3)
		n |= 56
		e = lit[buf&(1<<litBits-1)]
		from, to := dst[out-off:], dst[out:]
		out += length
		switch {
		case off >= 8:
			binary.LittleEndian.PutUint64(to, binary.LittleEndian.Uint64(from))
			binary.LittleEndian.PutUint64(to[8:], binary.LittleEndian.Uint64(from[8:]))
			binary.LittleEndian.PutUint64(to[16:], binary.LittleEndian.Uint64(from[16:]))
			switch {
			case length <= 24:
			case length > 64 && off >= length:
				copy(to[:length], from)
			default:
				for i := 24; i < length; i += 8 {
					binary.LittleEndian.PutUint64(to[i:], binary.LittleEndian.Uint64(from[i:]))
				}
			}
		case off == 1:
			word := uint64(from[0]) * 0x0101010101010101
			for i := 0; i < length; i += 8 {
				binary.LittleEndian.PutUint64(to[i:], word)
			}
		default:
			// Each word stored has off right bytes.
			for i := 0; i < length; i += off {
				binary.LittleEndian.PutUint64(to[i:], binary.LittleEndian.Uint64(from[i:]))
			}
		}
	}
	r.in, r.out = in, out
	r.buf, r.bits = buf&(1<<n-1), uint(n)
	return done, err
}

// slow decodes symbols byte by byte, to the last byte of both buffers.
func (d *Decoder) slow(r *reader) error {
	for {
		r.fill()
		e := d.lit[r.buf&(1<<litBits-1)]
		if e&(literal|link|special) == link|special {
			r.take(litBits)
			e = d.lit[(uint64(e>>16)+r.buf&(1<<(e>>8&15)-1))&litMask]
		}
		saved := r.buf
		r.take(uint(e & 63))
		if r.ended() {
			return io.ErrUnexpectedEOF
		}
		if e&literal != 0 {
			if r.out == len(r.dst) {
				return ErrFull
			}
			r.dst[r.out] = byte(e >> 16)
			r.out++
			continue
		}
		if e&special != 0 {
			if e&end != 0 {
				return nil
			}
			return fmt.Errorf("%w: invalid symbol", ErrCorrupt)
		}
		length := int(e>>16) + int(saved&(1<<(e&63)-1)>>(e>>8&15))

		r.fill()
		e = d.dist[r.buf&(1<<distBits-1)]
		if e&link != 0 {
			r.take(distBits)
			e = d.dist[(uint64(e>>16)+r.buf&(1<<(e>>8&15)-1))&distMask]
		}
		off := int(e>>16) + int(r.buf&(1<<(e&63)-1)>>(e>>8&15))
		r.take(uint(e & 63))
		switch {
		case r.ended():
			return io.ErrUnexpectedEOF
		case e&special != 0:
			return fmt.Errorf("%w: invalid distance", ErrCorrupt)
		case off > r.out:
			return fmt.Errorf("%w: distance before the start", ErrCorrupt)
		}
		stop := min(r.out+length, len(r.dst))
		for i := r.out; i < stop; i++ {
			r.dst[i] = r.dst[i-off]
		}
		if stop < r.out+length {
			r.out = stop
			return ErrFull
		}
		r.out = stop
	}
}
