// Package digest computes the digest of a virtual disk: a hash tree over what
// the guest sees, independent of the image's format, of its extent map, and of
// the order in which parts are read. Holes cost nothing.
//
// Definition (version 1), H being BLAKE3 with 256 bits:
//
//	leaf   = H(64 KiB of the disk)          the last one may be shorter
//	block  = H(leaf₀ ‖ … ‖ leaf₁₅)          1 MiB of the disk; the last may have fewer leaves
//	disk   = H("ascend disk digest 1\n" ‖ size as uint64 little-endian ‖ block₀ ‖ block₁ ‖ …)
//
// A leaf of zeros has the digest of its zeros, so a hole and written zeros are
// the same. The text form is "b3d1:" and 64 hexadecimal digits.
package digest

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/zeebo/blake3"
)

// Sizes of the tree's parts in bytes of the disk.
const (
	LeafSize  = 64 << 10
	BlockSize = 1 << 20
)

// Sum is one node of the tree.
type Sum [32]byte

const prefix = "b3d1:"

// String is the text form.
func (s Sum) String() string { return prefix + hex.EncodeToString(s[:]) }

// MarshalText writes the text form.
func (s Sum) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the text form.
func (s *Sum) UnmarshalText(b []byte) error {
	p, err := Parse(string(b))
	*s = p
	return err
}

// Parse reads the text form.
func Parse(t string) (Sum, error) {
	var s Sum
	h, ok := strings.CutPrefix(t, prefix)
	b, err := hex.DecodeString(h)
	if !ok || err != nil || len(b) != len(s) {
		return s, fmt.Errorf("%q is not a disk digest (%s and 64 hexadecimal digits)", t, prefix)
	}
	copy(s[:], b)
	return s, nil
}

var (
	zeros     [LeafSize]byte
	zeroLeaf  = Sum(blake3.Sum256(zeros[:]))
	zeroBlock = Block(BlockSize, func(int) (Sum, bool) { return Sum{}, false })
)

// Leaf is the digest of one leaf's bytes and whether they are all zeros.
// It allocates nothing.
func Leaf(p []byte) (s Sum, zero bool) {
	if IsZero(p) {
		return emptyLeaf(len(p)), true
	}
	if len(p) == LeafSize && wide {
		return wideLeaf((*[LeafSize]byte)(p)), false
	}
	return blake3.Sum256(p), false
}

func emptyLeaf(n int) Sum {
	if n == LeafSize {
		return zeroLeaf
	}
	return blake3.Sum256(zeros[:n])
}

// Block is the digest of a block of n bytes (BlockSize but for the last of a
// disk). leaf gives the digest of leaf i, or false where it is a hole.
func Block(n int, leaf func(i int) (Sum, bool)) Sum {
	var buf [BlockSize / LeafSize * 32]byte
	b := buf[:0]
	for i, off := 0, 0; off < n; i, off = i+1, off+LeafSize {
		s, ok := leaf(i)
		if !ok {
			s = emptyLeaf(min(LeafSize, n-off))
		}
		b = append(b, s[:]...)
	}
	return blake3.Sum256(b)
}

// Root puts block digests together. Blocks may come in any order; memory is
// that of the blocks that came before their predecessors. Not for concurrent use.
type Root struct {
	size    int64
	next    int64
	blocks  int64
	h       *blake3.Hasher
	hole    func(block int64) bool
	pending map[int64]Sum
}

// NewRoot starts the digest of a disk of size bytes. hole tells which blocks
// are left out by Put because they are holes; it is asked once for each.
func NewRoot(size int64, hole func(block int64) bool) *Root {
	r := &Root{size: size, blocks: (size + BlockSize - 1) / BlockSize, h: blake3.New(), hole: hole, pending: map[int64]Sum{}}
	head := binary.LittleEndian.AppendUint64([]byte("ascend disk digest 1\n"), uint64(size))
	_, _ = r.h.Write(head)
	return r
}

// Put gives the digest of a block; a block that was given before is ignored.
func (r *Root) Put(block int64, s Sum) {
	if block < r.next || block >= r.blocks {
		return
	}
	r.pending[block] = s
	r.advance()
}

func (r *Root) advance() {
	for r.next < r.blocks {
		s, ok := r.pending[r.next]
		switch {
		case ok:
			delete(r.pending, r.next)
		case r.hole(r.next):
			s = r.zero(r.next)
		default:
			return
		}
		_, _ = r.h.Write(s[:])
		r.next++
	}
}

func (r *Root) zero(block int64) Sum {
	if n := r.size - block*BlockSize; n < BlockSize {
		return Block(int(n), func(int) (Sum, bool) { return Sum{}, false })
	}
	return zeroBlock
}

// Sum is the disk's digest; an error when blocks are missing.
func (r *Root) Sum() (Sum, error) {
	r.advance()
	var s Sum
	if r.next != r.blocks {
		return s, fmt.Errorf("cannot finish the disk's digest: block %d of %d was never read", r.next, r.blocks)
	}
	r.h.Sum(s[:0])
	return s, nil
}
