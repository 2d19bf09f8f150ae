// Package deflate is a fast encoder of RFC 1951 for pieces of a disk: the
// grains and clusters of 64 KiB that compressed images are made of.
//
// It stands beside the general libraries because images ask for what those do
// not have together: a window of 4 KiB that costs no speed, no state from piece
// to piece, output that never changes (a file continued by a later version
// must fit its first half), and a better ratio at their fastest level's speed.
package deflate

import (
	"encoding/binary"
	"math/bits"
)

const (
	// MinWindow and MaxWindow bound the window in bytes; the format's own bound
	// is 32 KiB (RFC 1951 section 2).
	MinWindow = 4 << 10
	MaxWindow = 32 << 10

	minMatch  = 3         // RFC 1951 section 3.2.5
	maxMatch  = 258       // likewise
	maxStored = 1<<16 - 1 // bytes in a stored block, section 3.2.4

	// segment is the most bytes in one compressed block: positions are 16 bits
	// wide, and matches do not reach into the segment before.
	segment = 1 << 16
)

// Levels: Default is the fastest; from 2 on hash chains are searched, deeper
// with every level.
const (
	Default = 1
	Best    = 9
)

// Encoder compresses one piece after another. It is large (about 400 KiB), made
// to be kept in a pool, and not for concurrent use. What it makes of a piece
// depends on nothing but the piece, the window and the level.
type Encoder struct {
	window int
	level  int

	table [1 << tableBits]uint16 // newest position of the hash of 4 bytes
	short [1 << shortBits]uint16 // newest position of the hash of 3 bytes
	chain []uint16               // above level 1: the position before with the same hash

	seqs   [segment/minMatch + 1]uint64
	nseq   int
	anchor int // first byte of the segment that is not yet in a sequence

	lit, dist, clen huffman
	extra           int       // extra bits of all lengths and distances
	lens            [256]code // of lengths less minMatch, extra bits included
	w               bitWriter
}

// New makes an encoder whose distances do not exceed window, which is brought
// into MinWindow to MaxWindow. Levels are Default to Best; 0 is Default.
func New(window, level int) *Encoder {
	e := &Encoder{window: min(max(window, MinWindow), MaxWindow), level: min(max(level, Default), Best)}
	e.lit.init(maxLit, codeLimit)
	e.dist.init(maxDist, codeLimit)
	e.clen.init(maxClen, clenLimit)
	if e.level > Default {
		e.chain = make([]uint16, segment)
	}
	return e
}

// Bound is the most bytes that Append adds for a piece of n bytes: two stored
// blocks for every 64 KiB.
func Bound(n int) int { return n + 10*max((n+segment-1)/segment, 1) }

// Append compresses src and appends the stream, of which the last block is
// marked as final, to dst. What does not shrink is put into stored blocks, so that
// Bound holds.
func (e *Encoder) Append(dst, src []byte) []byte {
	e.w = bitWriter{p: dst}
	if len(src) == 0 {
		e.stored(src, true)
	}
	for len(src) > 0 {
		n := min(len(src), segment)
		e.segment(src[:n], n == len(src))
		src = src[n:]
	}
	e.w.align()
	dst = e.w.p
	e.w.p = nil
	return dst
}

// segment writes one compressed block, or stored ones when that is shorter.
func (e *Encoder) segment(src []byte, final bool) {
	e.nseq, e.anchor = 0, 0
	if e.level == Default {
		e.quick(src)
	} else {
		e.thorough(src)
	}
	e.count(src)
	e.lit.build()
	e.dist.build()
	size := e.header() + e.lit.size() + e.dist.size() + e.extra
	if size/8 >= len(src) {
		e.stored(src, final)
		return
	}
	e.w.grow(size/8 + 16)
	e.writeHeader(final)
	e.write(src)
}

// stored writes src as stored blocks, RFC 1951 section 3.2.4.
func (e *Encoder) stored(src []byte, final bool) {
	for {
		n := min(len(src), maxStored)
		e.w.grow(n + 16)
		last := uint64(0)
		if final && n == len(src) {
			last = 1
		}
		e.w.put(last, 3)
		e.w.align()
		e.w.p = binary.LittleEndian.AppendUint16(e.w.p, uint16(n))
		e.w.p = binary.LittleEndian.AppendUint16(e.w.p, ^uint16(n))
		e.w.p = append(e.w.p, src[:n]...)
		if src = src[n:]; len(src) == 0 {
			return
		}
	}
}

// A sequence is a run of literals and the match behind it, in one word:
// 17 bits run, 8 bits length - minMatch, 15 bits distance - 1, 5 bits symbol of
// the distance.
const (
	seqLenShift  = 17
	seqDistShift = 25
	seqSymShift  = 40
)

// add records the literals from the anchor to at, then a match of length n,
// distance d back. Longer matches than the format has are cut in several.
func (e *Encoder) add(at, n, d int) {
	run := uint64(at - e.anchor)
	e.anchor = at + n
	s := distSymbol(uint32(d - 1))
	tail := uint64(d-1)<<seqDistShift | uint64(s)<<seqSymShift
	for n > maxMatch {
		k := maxMatch
		if n-k < minMatch {
			k = n - minMatch
		}
		e.seqs[e.nseq] = run | uint64(k-minMatch)<<seqLenShift | tail
		e.nseq++
		run, n = 0, n-k
	}
	e.seqs[e.nseq] = run | uint64(n-minMatch)<<seqLenShift | tail
	e.nseq++
}

// distSymbol is the symbol of a distance less one, RFC 1951 section 3.2.5.
func distSymbol(d uint32) uint32 {
	if d < 2 {
		return d
	}
	n := uint32(bits.Len32(d)) - 1
	return 2*n + d>>(n-1)&1
}

// count makes the histograms of what the sequences will be written as.
func (e *Encoder) count(src []byte) {
	lit, dist := &e.lit.freq, &e.dist.freq
	clear(lit[:])
	clear(dist[:])
	pos := 0
	for _, s := range e.seqs[:e.nseq] {
		run := int(s & (1<<seqLenShift - 1))
		for _, b := range src[pos : pos+run] {
			lit[b]++
		}
		l := s >> seqLenShift & 255
		lit[lengthSymbol[l]]++
		dist[s>>seqSymShift&31]++
		pos += run + int(l) + minMatch
	}
	for _, b := range src[pos:] {
		lit[b]++
	}
	lit[endOfBlock] = 1
	e.extra = 0
	for i, n := range lengthExtra {
		e.extra += int(n) * int(lit[firstLength+i])
	}
	for i := range maxDist {
		e.extra += int(distExtra[i]) * int(dist[i])
	}
}
