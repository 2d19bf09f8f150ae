package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"maps"
	"slices"
)

// sumPage is the number of consecutive blocks whose digests are kept together.
const sumPage = 1024

// FileSum is the SHA-256 of one block of the file as it was sent, the filling of
// a last block included.
type FileSum struct {
	Number int64 // offset in the file over the block's size
	SHA256 [sha256.Size]byte
}

// FileSums collects the digests of a file's blocks: 32 bytes for each block, in
// pages, so that a sparse file costs what it holds. It is not safe for
// concurrent use.
type FileSums struct {
	pages map[int64]*page
}

type page struct {
	have [sumPage / 64]uint64
	sums [sumPage][sha256.Size]byte
}

// Put sets the digests of blocks; the last one of a number counts.
func (f *FileSums) Put(sums []FileSum) {
	for _, s := range sums {
		if f.pages == nil {
			f.pages = map[int64]*page{}
		}
		p := f.pages[s.Number/sumPage]
		if p == nil {
			p = new(page)
			f.pages[s.Number/sumPage] = p
		}
		i := s.Number % sumPage
		p.have[i/64] |= 1 << (i % 64)
		p.sums[i] = s.SHA256
	}
}

// All yields the blocks' numbers and digests in ascending order.
func (f *FileSums) All() iter.Seq2[int64, [sha256.Size]byte] {
	return func(yield func(int64, [sha256.Size]byte) bool) {
		for _, n := range slices.Sorted(maps.Keys(f.pages)) {
			p := f.pages[n]
			for i := range int64(sumPage) {
				if p.have[i/64]&(1<<(i%64)) != 0 && !yield(n*sumPage+i, p.sums[i]) {
					return
				}
			}
		}
	}
}

// FileSums yields the digests of the file's blocks that were recorded with
// LandedSums, by this process and those before it, in ascending order. It must
// not be called while ranges still land.
func (j *Journal) FileSums() iter.Seq2[int64, [sha256.Size]byte] { return j.sums.All() }

// LandedSums is Landed with the digests of the file's blocks in the unit.
func (j *Journal) LandedSums(unit int64, blocks []Block, sums []FileSum) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buf = binary.AppendUvarint(j.buf[:0], uint64(unit))
	j.buf = appendBlocks(j.buf, blocks)
	if len(sums) > 0 {
		j.buf = binary.AppendUvarint(j.buf, uint64(len(sums)))
		for _, s := range sums {
			j.buf = binary.AppendUvarint(j.buf, uint64(s.Number))
			j.buf = append(j.buf, s.SHA256[:]...)
		}
	}
	j.landed.set(unit)
	j.put(blocks)
	j.sums.Put(sums)
	return j.append(recUnit, j.buf)
}

// parseFileSums reads what LandedSums put behind the blocks: nothing, or sums
// to the record's end.
func parseFileSums(b []byte) ([]FileSum, bool) {
	if len(b) == 0 {
		return nil, true
	}
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)) {
		return nil, false
	}
	b = b[k:]
	sums := make([]FileSum, 0, n)
	for range n {
		num, k := binary.Uvarint(b)
		if k <= 0 || len(b) < k+sha256.Size || num > 1<<40 {
			return nil, false
		}
		s := FileSum{Number: int64(num)}
		copy(s.SHA256[:], b[k:])
		sums = append(sums, s)
		b = b[k+sha256.Size:]
	}
	return sums, len(b) == 0
}
