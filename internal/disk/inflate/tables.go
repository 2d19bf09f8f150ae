package inflate

import (
	"fmt"
	"io"
	"math/bits"
)

// Sizes of RFC 1951, 3.2.5 to 3.2.7, and of the decoding tables. A code of n
// symbols with lengths up to 15 needs at most 2,342 entries for 288 symbols and
// a first table of 11 bits, 402 for 32 symbols and 8 bits (zlib's enough.c);
// the tables are powers of two so that a masked index needs no bounds check.
const (
	maxLit  = 288
	maxDist = 32
	maxBits = 15

	litBits       = 11
	litTableSize  = 4096
	litMask       = litTableSize - 1
	distBits      = 8
	distTableSize = 512
	distMask      = distTableSize - 1
	preBits       = 7
)

// entry is what a table says of the next bits of the stream:
//
//	literal   1<<31 | byte<<16 | n
//	length    base<<16 | code<<8 | n     n = code + extra bits
//	distance  base<<16 | code<<8 | n
//	end       special | end | n
//	longer    special | link | start<<16 | width<<8 | n
//	invalid   special
//
// n is the number of bits to consume, in the lowest 6 bits; code, 4 bits that only
// lengths and distances use, is the part of them that is the Huffman code; the entry for a longer code is at start plus
// the next width bits. In the table of code lengths base is the symbol.
type entry uint32

const (
	literal entry = 1 << 31
	special entry = 1 << 15
	link    entry = 1 << 14
	end     entry = 1 << 13
)

// litBase, distBase and preBase hold, for each symbol, its entry without the
// lengths and, in the low bits, the number of extra bits.
var (
	litBase  = makeLitBase()
	distBase = makeDistBase()
	preBase  = makePreBase()
)

func makeLitBase() (t [maxLit]entry) {
	for i := range t {
		switch {
		case i < 256:
			t[i] = literal | entry(i)<<16
		case i == 256:
			t[i] = special | end
		case i < 265:
			t[i] = entry(i-257+3) << 16
		case i < 285:
			extra := entry(i-261) / 4
			t[i] = (3+(4+entry(i-261)%4)<<extra)<<16 | extra
		case i == 285:
			t[i] = 258 << 16
		default:
			t[i] = special // 286 and 287 take part in the fixed code only
		}
	}
	return t
}

func makeDistBase() (t [maxDist]entry) {
	for i := range t {
		switch {
		case i < 4:
			t[i] = entry(i+1) << 16
		case i < 30:
			extra := entry(i-2) / 2
			t[i] = (1+(2+entry(i)%2)<<extra)<<16 | extra
		default:
			t[i] = special
		}
	}
	return t
}

func makePreBase() (t [19]entry) {
	for i := range t {
		t[i] = entry(i) << 16
	}
	return t
}

// build makes the decoding table of a canonical Huffman code (RFC 1951, 3.2.2)
// from its symbols' lengths. The first 1<<width entries are indexed by the next
// width bits, the ones behind them are for longer codes. A code must be
// complete; an empty one, and one symbol of length 1, are accepted too.
func build(table, base []entry, lens []uint8, width uint, sorted *[maxLit]uint16) bool {
	var count, next [maxBits + 2]int
	for _, l := range lens {
		count[l&15]++
	}
	count[0] = 0
	space := 0
	for l := 1; l <= maxBits; l++ {
		space += count[l] << (maxBits - l)
		next[l+1] = next[l] + count[l]
	}
	used := next[maxBits+1]
	first := 1 << width
	if space != 1<<maxBits {
		if used > 1 || used == 1 && count[1] != 1 {
			return false
		}
		for i := range table[:first] {
			table[i] = special
		}
	}
	for sym, l := range lens {
		if l != 0 {
			sorted[next[l]] = uint16(sym)
			next[l]++
		}
	}
	if used == 1 && count[1] == 1 {
		e := complete(base[sorted[0]], 1)
		for i := 0; i < first; i += 2 {
			table[i] = e
		}
		return true
	}
	// Codes are counted up in order of length with their bits reversed, as the
	// stream has them. While they fit the first table its filled part is doubled
	// with each length, which repeats every shorter code at its stride.
	code, i, filled := 0, 0, 2
	length := uint(1)
	for ; length <= width; length++ {
		for n := count[length]; n > 0; n-- {
			table[code] = complete(base[sorted[i]], length)
			i++
			code = increment(code, length)
		}
		if length < width {
			copy(table[filled:2*filled], table[:filled])
			filled *= 2
		}
	}
	prefix, start, free, sub := -1, 0, first, uint(0)
	for ; i < used; length++ {
		for n := count[length]; n > 0; n-- {
			if p := code & (first - 1); p != prefix {
				// A new second table, wide enough for the codes that share its prefix:
				// those of this length that are left, then longer ones.
				prefix = p
				sub = length - width
				for room := n; room < 1<<sub && width+sub < maxBits; {
					sub++
					room = room*2 + count[width+sub]
				}
				start = free
				free += 1 << sub
				table[prefix] = special | link | entry(start)<<16 | entry(sub)<<8 | entry(width)
			}
			e := complete(base[sorted[i]], length-width)
			i++
			for k := code >> width; k < 1<<sub; k += 1 << (length - width) {
				table[start+k] = e
			}
			code = increment(code, length)
		}
	}
	return true
}

// complete adds the length of a symbol's code to its entry.
func complete(base entry, length uint) entry {
	if base == special {
		return special
	}
	return base + entry(length)<<8 + entry(length)
}

// increment is the code of the given length after code, both bit-reversed; 0
// after the last one.
func increment(code int, length uint) int {
	clear := ^code & (1<<length - 1)
	if clear == 0 {
		return 0
	}
	top := 1 << (bits.Len(uint(clear)) - 1)
	return code&(top-1) | top
}

// fixedCodes sets the tables to the codes of RFC 1951, 3.2.6.
func (d *Decoder) fixedCodes() {
	if d.fixed {
		return
	}
	l := d.lens[:maxLit]
	for i := range l {
		switch {
		case i < 144:
			l[i] = 8
		case i < 256:
			l[i] = 9
		case i < 280:
			l[i] = 7
		default:
			l[i] = 8
		}
	}
	build(d.lit[:], litBase[:], l, litBits, &d.sort)
	for i := range maxDist {
		l[i] = 5
	}
	build(d.dist[:], distBase[:], l[:maxDist], distBits, &d.sort)
	d.fixed = true
}

// preOrder is the order in which the lengths of the code-length code come.
var preOrder = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamicCodes reads the head of a dynamic block, RFC 1951, 3.2.7, and builds
// the tables from it.
func (d *Decoder) dynamicCodes(r *reader) error {
	r.fill()
	lits, dists, pres := int(r.take(5))+257, int(r.take(5))+1, int(r.take(4))+4
	if lits > 286 || dists > 30 {
		return fmt.Errorf("%w: too many symbols", ErrCorrupt)
	}
	var pre [19]uint8
	for i, p := range preOrder[:pres] {
		if i%8 == 0 {
			r.fill()
		}
		pre[p] = uint8(r.take(3))
	}
	if r.ended() {
		return io.ErrUnexpectedEOF
	}
	if !build(d.pre[:], preBase[:], pre[:], preBits, &d.sort) {
		return fmt.Errorf("%w: invalid code-length code", ErrCorrupt)
	}
	d.fixed = false
	n := lits + dists
	for i := 0; i < n; {
		r.fill()
		e := d.pre[r.buf&(1<<preBits-1)]
		if e&special != 0 {
			return fmt.Errorf("%w: invalid code length", ErrCorrupt)
		}
		r.take(uint(e & 15))
		sym := uint8(e >> 16)
		repeat := 1
		switch sym {
		default:
		case 16:
			if i == 0 {
				return fmt.Errorf("%w: no length to repeat", ErrCorrupt)
			}
			repeat, sym = 3+int(r.take(2)), d.lens[i-1]
		case 17:
			repeat, sym = 3+int(r.take(3)), 0
		case 18:
			repeat, sym = 11+int(r.take(7)), 0
		}
		if r.ended() {
			return io.ErrUnexpectedEOF
		}
		if repeat > n-i {
			return fmt.Errorf("%w: too many code lengths", ErrCorrupt)
		}
		for range repeat {
			d.lens[i] = sym
			i++
		}
	}
	if !build(d.lit[:], litBase[:], d.lens[:lits], litBits, &d.sort) {
		return fmt.Errorf("%w: invalid literal code", ErrCorrupt)
	}
	if !build(d.dist[:], distBase[:], d.lens[lits:n], distBits, &d.sort) {
		return fmt.Errorf("%w: invalid distance code", ErrCorrupt)
	}
	return nil
}
