package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/bits"
	"sort"
)

// Map says which leaves (LeafSize runs) of a disk hold data, with constant-time
// rank: the position of a block among the allocated ones, which is what target
// formats are computed from. Memory is at most one bit a leaf (2 MiB a TiB)
// plus 24 bytes for every 256 MiB, and far less where the disk is all data or
// all hole. A finished Map is immutable and safe for concurrent use.
type Map struct {
	size   int64 // of the disk, bytes
	leaf   int64 // bytes a bit stands for
	leaves int64
	pages  []page
}

const pageLeaves = 4096

type page struct {
	rank int64    // allocated leaves before this page
	bits []uint64 // nil: all the same, as count says
	n    int32    // allocated leaves in the page
}

// NewMap makes an empty map of a disk of size bytes, one bit for each
// granularity bytes (a power of two of at least 512).
func NewMap(size, granularity int64) *Map {
	m := &Map{size: size, leaf: granularity, leaves: (size + granularity - 1) / granularity}
	m.pages = make([]page, (m.leaves+pageLeaves-1)/pageLeaves)
	return m
}

// ReadMap asks the disk for all its extents.
func ReadMap(ctx context.Context, d Disk) (*Map, error) {
	m := NewMap(d.Size(), LeafSize)
	err := d.Extents(ctx, 0, d.Size(), func(e Extent) error {
		if e.Data {
			m.Add(e.Off, e.Len)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.Seal()
	return m, nil
}

// Add marks the leaves touched by [off, off+n). Not after Seal.
func (m *Map) Add(off, n int64) {
	if n <= 0 || off >= m.size {
		return
	}
	first, last := off/m.leaf, min((min(off+n, m.size)-1)/m.leaf, m.leaves-1)
	for l := first; l <= last; {
		p := &m.pages[l/pageLeaves]
		in := l % pageLeaves
		end := min(last-l+in, pageLeaves-1)
		full := m.pageLen(l / pageLeaves)
		switch {
		case p.bits == nil && int64(p.n) == full:
		case p.bits == nil && in == 0 && end+1 >= full:
			p.n = int32(full)
		default:
			if p.bits == nil {
				p.bits = make([]uint64, pageLeaves/64)
			}
			p.n += setBits(p.bits, in, end)
			if int64(p.n) == full {
				p.bits = nil
			}
		}
		l += end - in + 1
	}
}

// setBits sets bits [from, to] and returns how many were clear.
func setBits(w []uint64, from, to int64) (added int32) {
	for i := from / 64; i <= to/64; i++ {
		mask := ^uint64(0)
		if i == from/64 {
			mask &= ^uint64(0) << (from % 64)
		}
		if i == to/64 {
			mask &= ^uint64(0) >> (63 - to%64)
		}
		added += int32(bits.OnesCount64(mask &^ w[i]))
		w[i] |= mask
	}
	return added
}

// Clear marks the leaf with number l as a hole. Not after Seal.
func (m *Map) Clear(l int64) {
	p := &m.pages[l/pageLeaves]
	full := m.pageLen(l / pageLeaves)
	if p.bits == nil {
		if p.n == 0 {
			return
		}
		p.bits = make([]uint64, pageLeaves/64)
		setBits(p.bits, 0, full-1)
	}
	in := l % pageLeaves
	if p.bits[in/64]&(1<<(in%64)) == 0 {
		return
	}
	p.bits[in/64] &^= 1 << (in % 64)
	if p.n--; p.n == 0 {
		p.bits = nil
	}
}

func (m *Map) pageLen(p int64) int64 { return min(pageLeaves, m.leaves-p*pageLeaves) }

// Seal computes the ranks; call it once, after the last Add or Clear.
func (m *Map) Seal() *Map {
	var rank int64
	for i := range m.pages {
		m.pages[i].rank = rank
		rank += int64(m.pages[i].n)
	}
	return m
}

// Size is the disk's size in bytes.
func (m *Map) Size() int64 { return m.size }

// Granularity is the number of bytes each bit stands for.
func (m *Map) Granularity() int64 { return m.leaf }

// Len is the number of blocks, allocated or not.
func (m *Map) Len() int64 { return m.leaves }

// Count is the number of allocated blocks.
func (m *Map) Count() int64 { return m.Rank(m.leaves) }

// Bytes is the number of allocated bytes; a short last block counts as what it is.
func (m *Map) Bytes() int64 {
	n := m.Count() * m.leaf
	if m.leaves > 0 && m.Has(m.leaves-1) {
		n -= m.leaves*m.leaf - m.size
	}
	return n
}

// Has tells whether block b is allocated. Blocks beyond the end are not.
func (m *Map) Has(b int64) bool {
	if b < 0 || b >= m.leaves {
		return false
	}
	p := &m.pages[b/pageLeaves]
	if p.bits == nil {
		return p.n != 0
	}
	in := b % pageLeaves
	return p.bits[in/64]&(1<<(in%64)) != 0
}

// Rank is the number of allocated blocks before block b.
func (m *Map) Rank(b int64) int64 {
	if b <= 0 || m.leaves == 0 {
		return 0
	}
	if b >= m.leaves {
		p := &m.pages[len(m.pages)-1]
		return p.rank + int64(p.n)
	}
	p := &m.pages[b/pageLeaves]
	in := b % pageLeaves
	if p.bits == nil {
		if p.n == 0 {
			return p.rank
		}
		return p.rank + in
	}
	rank := p.rank
	for i := int64(0); i < in/64; i++ {
		rank += int64(bits.OnesCount64(p.bits[i]))
	}
	return rank + int64(bits.OnesCount64(p.bits[in/64]&(1<<(in%64)-1)))
}

// Select is the block that has exactly i allocated blocks before it and is
// allocated itself, the inverse of Rank; -1 beyond Count.
func (m *Map) Select(i int64) int64 {
	if i < 0 || i >= m.Count() {
		return -1
	}
	pi := int64(sort.Search(len(m.pages), func(k int) bool { return m.pages[k].rank > i }) - 1)
	p := &m.pages[pi]
	i -= p.rank
	if p.bits == nil {
		return pi*pageLeaves + i
	}
	for w, word := range p.bits {
		if n := int64(bits.OnesCount64(word)); i >= n {
			i -= n
			continue
		}
		for ; i > 0; i-- {
			word &= word - 1
		}
		return pi*pageLeaves + int64(w)*64 + int64(bits.TrailingZeros64(word))
	}
	return -1
}

// Run is the length, in blocks, of the run of blocks of the same kind that
// starts at b, at most limit, and its kind.
func (m *Map) Run(b, limit int64) (n int64, data bool) {
	limit = min(limit, m.leaves-b)
	if limit <= 0 {
		return 0, false
	}
	data = m.Has(b)
	for n < limit {
		p := &m.pages[(b+n)/pageLeaves]
		in := (b + n) % pageLeaves
		if p.bits == nil {
			if (p.n != 0) != data {
				break
			}
			n += m.pageLen((b+n)/pageLeaves) - in
			continue
		}
		word := p.bits[in/64] >> (in % 64)
		if data {
			word = ^word
		}
		k := min(int64(bits.TrailingZeros64(word)), 64-in%64)
		n += k
		if k < 64-in%64 {
			break
		}
	}
	return min(n, limit), data
}

// Coarse is the map in which a block of granularity bytes, a multiple of this
// map's, is allocated when any part of it is.
func (m *Map) Coarse(granularity int64) *Map {
	if granularity == m.leaf {
		return m
	}
	c := NewMap(m.size, granularity)
	for b := int64(0); b < m.leaves; {
		n, data := m.Run(b, m.leaves-b)
		if data {
			c.Add(b*m.leaf, n*m.leaf)
		}
		b += n
	}
	return c.Seal()
}

// AppendBinary appends the map as run lengths: a version byte, the size and the
// granularity, then the lengths of alternating hole and data runs, all as
// uvarints. It grows with the number of runs, not with the disk.
func (m *Map) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, 1)
	b = binary.AppendUvarint(b, uint64(m.size))
	b = binary.AppendUvarint(b, uint64(m.leaf))
	want := false
	for l := int64(0); l < m.leaves; {
		n, data := m.Run(l, m.leaves-l)
		if data != want {
			b = append(b, 0)
			want = data
		}
		b = binary.AppendUvarint(b, uint64(n))
		want = !want
		l += n
	}
	return b, nil
}

// ParseMap reads what AppendBinary wrote. The result is sealed.
func ParseMap(b []byte) (*Map, error) {
	bad := fmt.Errorf("cannot read extent map: %w", ErrCorrupt)
	if len(b) == 0 || b[0] != 1 {
		return nil, bad
	}
	b = b[1:]
	next := func() (int64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<62 {
			return 0, false
		}
		b = b[n:]
		return int64(v), true
	}
	size, ok1 := next()
	leaf, ok2 := next()
	if !ok1 || !ok2 || leaf < LeafSize || leaf > 1<<30 || leaf&(leaf-1) != 0 || size > MaxSize {
		return nil, bad
	}
	m := NewMap(size, leaf)
	data := false
	for l := int64(0); l < m.leaves; data = !data {
		n, ok := next()
		if !ok || n > m.leaves-l {
			return nil, bad
		}
		if data {
			m.Add(l*leaf, n*leaf)
		}
		l += n
	}
	return m.Seal(), nil
}
