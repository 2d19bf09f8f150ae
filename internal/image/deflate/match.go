package deflate

import (
	"encoding/binary"
	"math/bits"
)

const (
	tableBits = 13
	shortBits = 12

	// shortWindow is how far back a match of 3 bytes may lie: farther ones cost
	// as many bits as the literals.
	shortWindow = 1 << 10

	multiplier = 2654435761 // 2³² divided by the golden ratio
)

// hash4 and hash3 hash the low 4 and 3 bytes of x.
func hash4(x uint32) uint32 { return x * multiplier >> (32 - tableBits) }
func hash3(x uint32) uint32 { return x << 8 * multiplier >> (32 - shortBits) }

func load32(p []byte, i int) uint32 { return binary.LittleEndian.Uint32(p[i:]) }
func load64(p []byte, i int) uint64 { return binary.LittleEndian.Uint64(p[i:]) }

// extend is how many bytes from a and from b on are equal; a < b.
func extend(src []byte, a, b int) int {
	start := b
	for b+8 <= len(src) {
		if x := load64(src, a) ^ load64(src, b); x != 0 {
			return b - start + bits.TrailingZeros64(x)>>3
		}
		a, b = a+8, b+8
	}
	for b < len(src) && src[a] == src[b] {
		a, b = a+1, b+1
	}
	return b - start
}

// The tables are cleared for each segment. A cleared entry is position 0, which
// is a candidate like any other: whether its bytes match is always looked at.

// quick probes each table once, and takes the match of the next byte instead
// when that is longer.
func (e *Encoder) quick(src []byte) {
	const (
		longEnough = 32 // bytes of a match for which no longer one is looked for
		skip       = 7  // after 1<<skip bytes without a match every other position is tried, and so on
		step       = 4  // positions inside a match that are entered into the table
	)
	clear(e.table[:])
	clear(e.short[:])
	table, short := &e.table, &e.short
	limit := len(src) - 9
	for i := 1; i < limit; {
		x := load32(src, i)
		h, h3 := hash4(x), hash3(x)
		c, c3 := int(table[h]), int(short[h3])
		table[h], short[h3] = uint16(i), uint16(i)
		n := 0
		switch {
		case x == load32(src, c) && i-c <= e.window:
			n = 4 + extend(src, c+4, i+4)
		case (x^load32(src, c3))<<8 == 0 && i-c3 <= shortWindow:
			c, n = c3, 3 // the fourth byte differs, else the first table had it
		default:
			i += 1 + (i-e.anchor)>>skip
			continue
		}
		for n < longEnough && i+1 < limit {
			x := load32(src, i+1)
			h := hash4(x)
			k := int(table[h])
			table[h] = uint16(i + 1)
			if x != load32(src, k) || i+1-k > e.window {
				break
			}
			m := 4 + extend(src, k+4, i+5)
			if m <= n {
				break
			}
			i, c, n = i+1, k, m
		}
		for i > e.anchor && c > 0 && src[i-1] == src[c-1] {
			i, c, n = i-1, c-1, n+1
		}
		e.add(i, n, i-c)
		for j := i + 2; j < min(i+n, limit); j += step {
			table[hash4(load32(src, j))] = uint16(j)
		}
		if i += n; i < limit {
			x := load64(src, i-2)
			table[hash4(uint32(x))], short[hash3(uint32(x))] = uint16(i-2), uint16(i-2)
			x >>= 8
			table[hash4(uint32(x))], short[hash3(uint32(x))] = uint16(i-1), uint16(i-1)
		}
	}
}

// effort is what a level above 1 may spend: positions of a chain that are
// tried, the length of a match for which the next byte is not tried any more, and
// the one that is good enough to end a search.
var effort = [Best + 1]struct{ depth, lazy, nice int }{
	2: {2, 8, 16},
	3: {4, 12, 32},
	4: {6, 16, 48},
	5: {12, 24, 64},
	6: {24, 32, 128},
	7: {48, 64, 192},
	8: {128, 128, 258},
	9: {512, 258, 258},
}

// thorough searches the chain of positions with the same hash and, before it
// takes a match, whether the next byte begins a longer one.
func (e *Encoder) thorough(src []byte) {
	const skip = 8 // as in quick
	clear(e.table[:])
	clear(e.short[:])
	level := &effort[e.level]
	limit := len(src) - 8
	for i := 1; i < limit; {
		n, d := e.search(src, i, minMatch-1)
		if n == 0 {
			i += 1 + (i-e.anchor)>>skip
			continue
		}
		next := i + 1
		for n < level.lazy && next < limit {
			m, md := e.search(src, next, n)
			next++
			if m == 0 {
				break
			}
			i, n, d = next-1, m, md
		}
		for i > e.anchor && i > d && src[i-1] == src[i-1-d] {
			i, n = i-1, n+1
		}
		e.add(i, n, d)
		for i += n; next < min(i, limit); next++ {
			e.enter(load32(src, next), next)
		}
	}
}

// enter puts position i, where x is, into the tables, and gives the positions
// that were the newest for its hashes.
func (e *Encoder) enter(x uint32, i int) (c, c3 int) {
	h, h3 := hash4(x), hash3(x)
	c, c3 = int(e.table[h]), int(e.short[h3])
	e.chain[i] = uint16(c)
	e.table[h], e.short[h3] = uint16(i), uint16(i)
	return c, c3
}

// search enters position i and finds the longest match for it that is longer
// than best; n is 0 when there is none.
func (e *Encoder) search(src []byte, i, best int) (n, d int) {
	x := load32(src, i)
	c, c3 := e.enter(x, i)
	level := &effort[e.level]
	above := i
	for range level.depth {
		if c >= above || i-c > e.window {
			break
		}
		if i+best < len(src) && src[c+best] == src[i+best] && load32(src, c) == x {
			if m := 4 + extend(src, c+4, i+4); m > best {
				n, d, best = m, i-c, m
				if m >= level.nice {
					break
				}
			}
		}
		above, c = c, int(e.chain[c])
	}
	if best < minMatch && i-c3 <= shortWindow && (load32(src, c3)^x)<<8 == 0 {
		return 3, i - c3
	}
	return n, d
}
