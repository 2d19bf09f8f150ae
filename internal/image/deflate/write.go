package deflate

import "encoding/binary"

// bitWriter packs bits, the lowest first, RFC 1951 section 3.1.1.
type bitWriter struct {
	p   []byte
	acc uint64
	n   uint // bits in acc, fewer than 8 between calls
}

// grow makes room for n more bytes.
func (w *bitWriter) grow(n int) {
	if cap(w.p)-len(w.p) < n {
		p := make([]byte, len(w.p), 2*cap(w.p)+n)
		copy(p, w.p)
		w.p = p
	}
}

// put writes n bits, at most 32.
func (w *bitWriter) put(v uint64, n uint) {
	w.acc |= v << w.n
	for w.n += n; w.n >= 8; w.n -= 8 {
		w.p = append(w.p, byte(w.acc))
		w.acc >>= 8
	}
}

// align fills the last byte with zero bits.
func (w *bitWriter) align() {
	if w.n > 0 {
		w.p = append(w.p, byte(w.acc))
		w.acc, w.n = 0, 0
	}
}

// header builds the code length code of a dynamic block, RFC 1951 section
// 3.2.7, and returns the header's size in bits.
func (e *Encoder) header() (size int) {
	nlit, ndist := e.counts()
	clear(e.clen.freq[:])
	e.runs(nlit, ndist, func(sym, _, extra uint) {
		e.clen.freq[sym]++
		size += int(extra)
	})
	e.clen.build()
	return size + 3 + 5 + 5 + 4 + 3*e.clenCount() + e.clen.size()
}

func (e *Encoder) writeHeader(final bool) {
	nlit, ndist := e.counts()
	head := uint64(2 << 1) // dynamic Huffman codes
	if final {
		head |= 1
	}
	e.w.put(head, 3)
	e.w.put(uint64(nlit-257), 5)
	e.w.put(uint64(ndist-1), 5)
	n := e.clenCount()
	e.w.put(uint64(n-4), 4)
	for _, s := range clenOrder[:n] {
		e.w.put(uint64(e.clen.codes[s]&255), 3)
	}
	e.runs(nlit, ndist, func(sym, v, extra uint) {
		c := e.clen.codes[sym]
		e.w.put(uint64(c>>8), uint(c&255))
		e.w.put(uint64(v), extra)
	})
}

// counts is how many code lengths of each alphabet are written.
func (e *Encoder) counts() (nlit, ndist int) {
	for nlit = maxLit; nlit > 257 && e.lit.codes[nlit-1] == 0; nlit-- {
	}
	for ndist = maxDist; ndist > 1 && e.dist.codes[ndist-1] == 0; ndist-- {
	}
	return nlit, ndist
}

func (e *Encoder) clenCount() int {
	n := maxClen
	for n > 4 && e.clen.codes[clenOrder[n-1]] == 0 {
		n--
	}
	return n
}

// runs yields the code lengths of both alphabets as symbols of the code length
// code, each with the value and the number of its extra bits.
func (e *Encoder) runs(nlit, ndist int, yield func(sym, v, extra uint)) {
	at := func(i int) uint {
		if i < nlit {
			return uint(e.lit.codes[i] & 255)
		}
		return uint(e.dist.codes[i-nlit] & 255)
	}
	for i := 0; i < nlit+ndist; {
		l, n := at(i), 1
		for i+n < nlit+ndist && at(i+n) == l {
			n++
		}
		i += n
		if l != 0 { // the length itself, then repeats of it
			yield(l, 0, 0)
			n--
		}
		for n > 0 {
			k := 1
			switch {
			case l == 0 && n >= 11:
				k = min(n, 138)
				yield(18, uint(k-11), 7)
			case l == 0 && n >= 3:
				k = n
				yield(17, uint(k-3), 3)
			case l != 0 && n >= 3:
				k = min(n, 6)
				yield(16, uint(k-3), 2)
			default:
				yield(l, 0, 0)
			}
			n -= k
		}
	}
}

// write writes the sequences with the codes made for them, and the end of the
// block. The bytes needed must be there.
func (e *Encoder) write(src []byte) {
	for l := range e.lens { // codes of lengths together with their extra bits
		s := int(lengthSymbol[l]) - firstLength
		c := e.lit.codes[firstLength+s]
		n := c & 255
		e.lens[l] = c>>8<<8 | code(l-lengthBase[s])<<(8+n) | (n + code(lengthExtra[s]))
	}
	lit := (*[256]code)(e.lit.codes[:256])
	p := e.w.p[:cap(e.w.p)]
	at, acc, n := len(e.w.p), e.w.acc, e.w.n
	pos := 0
	for _, s := range e.seqs[:e.nseq] {
		run := int(s & (1<<seqLenShift - 1))
		q := src[pos : pos+run]
		pos += run
		for len(q) >= 4 {
			c := lit[q[0]]
			acc |= uint64(c>>8) << (n & 63)
			n += uint(c & 255)
			c = lit[q[1]]
			acc |= uint64(c>>8) << (n & 63)
			n += uint(c & 255)
			c = lit[q[2]]
			acc |= uint64(c>>8) << (n & 63)
			n += uint(c & 255)
			c = lit[q[3]]
			acc |= uint64(c>>8) << (n & 63)
			n += uint(c & 255)
			binary.LittleEndian.PutUint64(p[at:], acc)
			at += int(n >> 3)
			acc >>= n & 56
			n &= 7
			q = q[4:]
		}
		for _, b := range q {
			c := lit[b]
			acc |= uint64(c>>8) << (n & 63)
			n += uint(c & 255)
		}
		binary.LittleEndian.PutUint64(p[at:], acc)
		at += int(n >> 3)
		acc >>= n & 56
		n &= 7

		l := int(s >> seqLenShift & 255)
		c := e.lens[l]
		acc |= uint64(c>>8) << (n & 63)
		n += uint(c & 255)
		sym := s >> seqSymShift & 31
		c = e.dist.codes[sym]
		acc |= uint64(c>>8) << (n & 63)
		n += uint(c & 255)
		x := uint(distExtra[sym])
		acc |= (s >> seqDistShift & (1<<x - 1)) << (n & 63)
		n += x
		binary.LittleEndian.PutUint64(p[at:], acc)
		at += int(n >> 3)
		acc >>= n & 56
		n &= 7
		pos += l + minMatch
	}
	e.w.p, e.w.acc, e.w.n = p[:at], acc, n
	for _, b := range src[pos:] {
		c := lit[b]
		e.w.put(uint64(c>>8), uint(c&255))
	}
	c := e.lit.codes[endOfBlock]
	e.w.put(uint64(c>>8), uint(c&255))
}
