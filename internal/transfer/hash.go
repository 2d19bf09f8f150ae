package transfer

import (
	"sync"

	"ascend/internal/image"
	"ascend/internal/transfer/digest"
	"ascend/internal/transfer/journal"
)

// hasher takes the leaves of a disk in ascending order, whole blocks at a time,
// and puts them together to block digests. It is used by one goroutine.
type hasher struct {
	size   int64 // of the disk
	off    bool  // no digest is wanted
	block  int64
	open   bool
	leaves [digest.BlockSize / digest.LeafSize]digest.Sum
	have   uint32 // bit i: leaves[i] is set
	part   []byte // the beginning of a leaf that comes in pieces
}

// leaf takes one leaf at an offset of the disk, or the next piece of one,
// appends the block before it to blocks when that is finished, and tells whether
// p is zeros.
func (h *hasher) leaf(off int64, p []byte, blocks *[]journal.Block) (zero bool) {
	if h.off {
		return digest.IsZero(p)
	}
	end := off + int64(len(p))
	if whole := end%digest.LeafSize == 0 || end == h.size; !whole || off%digest.LeafSize != 0 {
		zero = digest.IsZero(p)
		h.part = append(h.part, p...)
		if !whole {
			return zero
		}
		h.leaf(off/digest.LeafSize*digest.LeafSize, h.part, blocks)
		h.part = h.part[:0]
		return zero
	}
	if b := off / digest.BlockSize; !h.open || b != h.block {
		*blocks = h.end(*blocks)
		h.block, h.open = b, true
	}
	s, zero := digest.Leaf(p)
	i := off % digest.BlockSize / digest.LeafSize
	h.leaves[i] = s
	h.have |= 1 << i
	return zero
}

// end appends the open block.
func (h *hasher) end(blocks []journal.Block) []journal.Block {
	if !h.open {
		return blocks
	}
	n := min(h.size-h.block*digest.BlockSize, digest.BlockSize)
	sum := digest.Block(int(n), func(i int) (digest.Sum, bool) { return h.leaves[i], h.have&(1<<i) != 0 })
	blocks = append(blocks, journal.Block{Number: h.block, Sum: sum})
	h.open, h.have = false, 0
	return blocks
}

// lockedRoot puts blocks of several workers together when there is no journal
// to do it.
type lockedRoot struct {
	mu   sync.Mutex
	root *digest.Root
}

func newRoot(src image.Source) *lockedRoot {
	coarse := src.Map.Coarse(digest.BlockSize)
	r := &lockedRoot{}
	r.root = digest.NewRoot(src.Size(), func(b int64) bool { return !coarse.Has(b) })
	return r
}

func (r *lockedRoot) put(blocks []journal.Block) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range blocks {
		r.root.Put(b.Number, b.Sum)
	}
}

// setDigest fills in the disk's digest from the journal or, without one, root.
func (res *Result) setDigest(root *lockedRoot, j *journal.Journal, o Options) (err error) {
	switch {
	case o.NoDigest:
	case j != nil:
		res.Digest, err = j.Sum()
	default:
		res.Digest, err = root.root.Sum()
	}
	return err
}
