package digest

import (
	"encoding/binary"

	"golang.org/x/sys/cpu"
	"lukechampine.com/blake3/guts"
)

// wide: the processor hashes 16 chunks of BLAKE3 at once (AVX-512), which the
// library that hashes everything else does not use; it takes a third longer.
var wide = cpu.X86.HasAVX512F

const subtree = guts.MaxSIMD * guts.ChunkSize // 16 KiB

// wideLeaf is the BLAKE3 of one whole leaf: a perfect binary tree over four
// subtrees (BLAKE3 specification 2.1, "Tree Structure", and 2.5, "Parent Node
// Chaining Values"), of which the root is finished with the ROOT flag.
func wideLeaf(p *[LeafSize]byte) (s Sum) {
	var cv [LeafSize / subtree][8]uint32
	for i := range cv {
		part := (*[subtree]byte)(p[i*subtree:])
		cv[i] = guts.ChainingValue(guts.CompressBuffer(part, subtree, &guts.IV, uint64(i)*guts.MaxSIMD, 0))
	}
	left := guts.ChainingValue(guts.ParentNode(cv[0], cv[1], &guts.IV, 0))
	right := guts.ChainingValue(guts.ParentNode(cv[2], cv[3], &guts.IV, 0))
	for i, w := range guts.ChainingValue(guts.ParentNode(left, right, &guts.IV, guts.FlagRoot)) {
		binary.LittleEndian.PutUint32(s[4*i:], w)
	}
	return s
}
