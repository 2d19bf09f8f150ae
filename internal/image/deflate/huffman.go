package deflate

import "math/bits"

// Alphabets of RFC 1951, section 3.2.5 and 3.2.7.
const (
	maxLit      = 286
	maxDist     = 30
	maxClen     = 19
	endOfBlock  = 256
	firstLength = 257

	clenLimit = 7 // bits of a code length code
	// codeLimit is the most bits in a code made here. The format has 15; with 14
	// four literals fit the bit buffer at once.
	codeLimit = 14
)

// code is a Huffman code as it is written: the bits, reversed, from bit 8 on and
// their number in the low bits.
type code uint32

var (
	lengthExtra  = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	distExtra    [32]uint8   // extra bits of a distance symbol
	lengthSymbol [256]uint16 // of a length less minMatch
	lengthBase   [29]int     // the smallest length less minMatch of a symbol
	clenOrder    = [maxClen]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
)

func init() {
	n := 0
	for s, x := range lengthExtra {
		if s == 28 {
			n = 255 // length 258 has a symbol of its own
		}
		lengthBase[s] = n
		for i := 0; i < 1<<x && n < 256; i++ {
			lengthSymbol[n] = uint16(firstLength + s)
			n++
		}
	}
	for s := range distExtra {
		distExtra[s] = uint8(max(s/2-1, 0))
	}
}

// huffman is one alphabet: how often symbols occur, and the codes made of it.
type huffman struct {
	freq  [maxLit]uint32
	codes [maxLit]code
	n     int // symbols in the alphabet
	limit int // most bits in a code

	order [2][maxLit]uint32  // freq<<9 | symbol, sorted
	node  [maxLit]uint32     // weights of inner nodes, later depths
	up    [2 * maxLit]uint16 // the inner node above a node
}

func (h *huffman) init(n, limit int) { h.n, h.limit = n, limit }

// size is the number of bits all symbols take.
func (h *huffman) size() (bits int) {
	for s, f := range h.freq[:h.n] {
		bits += int(f) * int(h.codes[s]&255)
	}
	return bits
}

// build makes the codes: lengths by Huffman's algorithm with two queues, cut to
// the limit, then the canonical codes of RFC 1951 section 3.2.2. At least two
// symbols get a code, because a decoder may refuse a tree of fewer.
func (h *huffman) build() {
	for s := 0; s < 2; s++ {
		if h.used() < 2 && h.freq[s] == 0 {
			h.freq[s] = 1
		}
	}
	leaves := h.sort()
	var count [32]int
	h.lengths(leaves, &count)

	// Symbols in ascending frequency get the lengths in descending order.
	clear(h.codes[:h.n])
	i := 0
	for l := h.limit; l > 0; l-- {
		for k := 0; k < count[l]; k++ {
			h.codes[leaves[i]&511] = code(l)
			i++
		}
	}
	var next [16]uint32
	for l, c := 1, uint32(0); l <= h.limit; l++ {
		c = (c + uint32(count[l-1])) << 1
		next[l] = c
	}
	for s := range h.codes[:h.n] {
		if l := h.codes[s]; l != 0 {
			h.codes[s] = code(bits.Reverse16(uint16(next[l]))>>(16-l))<<8 | l
			next[l]++
		}
	}
}

func (h *huffman) used() (n int) {
	for _, f := range h.freq[:h.n] {
		if f != 0 {
			n++
		}
	}
	return n
}

// sort gives the used symbols by frequency, as freq<<9 | symbol: a radix sort
// by two digits of 9 bits. Equal frequencies stay in the order of the symbols.
func (h *huffman) sort() []uint32 {
	var hist [2][512]uint16
	n := 0
	for s, f := range h.freq[:h.n] {
		if f != 0 {
			h.order[0][n] = f<<9 | uint32(s)
			n++
			hist[0][f&511]++
			hist[1][f>>9&511]++
		}
	}
	for pass := range hist {
		from, to, at := h.order[pass&1][:n], &h.order[1-pass&1], &hist[pass]
		sum := uint16(0)
		for i, c := range at {
			at[i] = sum
			sum += c
		}
		for _, x := range from {
			d := x >> (9 + 9*pass) & 511
			to[at[d]] = x
			at[d]++
		}
	}
	return h.order[0][:n]
}

// lengths counts how many codes there are of each length up to the limit.
func (h *huffman) lengths(leaves []uint32, count *[32]int) {
	n := len(leaves)
	// Nodes 0..n-1 are leaves, n..2n-2 inner nodes in the order they are made,
	// which is that of their weights.
	leaf, inner := 0, 0
	take := func(made int) (node int, weight uint32) {
		if leaf < n && (inner >= made || leaves[leaf]>>9 <= h.node[inner]) {
			leaf++
			return leaf - 1, leaves[leaf-1] >> 9
		}
		inner++
		return n + inner - 1, h.node[inner-1]
	}
	for made := 0; made < n-1; made++ {
		a, wa := take(made)
		b, wb := take(made)
		h.node[made] = wa + wb
		h.up[a], h.up[b] = uint16(made), uint16(made)
	}
	h.node[n-2] = 0 // the root; from here on node holds depths
	for i := n - 3; i >= 0; i-- {
		h.node[i] = h.node[h.up[n+i]] + 1
	}
	for i := range n {
		count[min(int(h.node[h.up[i]])+1, h.limit)]++
	}
	// Codes that were cut take more of the code space than there is: lengthen
	// the longest of the others until all fit.
	total := 0
	for l := 1; l <= h.limit; l++ {
		total += count[l] << (h.limit - l)
	}
	for ; total > 1<<h.limit; total-- {
		count[h.limit]--
		for l := h.limit - 1; l > 0; l-- {
			if count[l] > 0 {
				count[l]--
				count[l+1] += 2
				break
			}
		}
	}
}
