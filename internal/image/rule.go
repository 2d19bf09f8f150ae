package image

import (
	"ascend/internal/disk"
)

// rule makes the bytes of a section. Offsets are relative to the section.
type rule interface {
	// segments yields what [off, off+n) of the section consists of; at is the
	// file offset of off. The range lies inside the section and is not empty.
	segments(f *File, at, off, n int64, yield func(Segment) error) error
	// fill computes the bytes of a Meta segment, or of a part of one, into p,
	// which is zeroed.
	fill(f *File, p []byte, off int64) error
}

// zeros is a run of zeros.
type zeros struct{}

func (zeros) segments(_ *File, at, _, n int64, yield func(Segment) error) error {
	return yield(Segment{Off: at, Len: n, Kind: Zero})
}

func (zeros) fill(*File, []byte, int64) error { return nil }

// literal is a run of given bytes.
type literal []byte

func (literal) segments(_ *File, at, _, n int64, yield func(Segment) error) error {
	return yield(Segment{Off: at, Len: n, Kind: Meta})
}

func (l literal) fill(_ *File, p []byte, off int64) error {
	copy(p, l[off:])
	return nil
}

// table is a generated table, which is never held in memory.
type table struct {
	// put computes bytes [off, off+len(p)) of the table into p, which is zeroed.
	put func(p []byte, off int64)
	// empty tells how many of the n bytes from off on are surely zero, so that
	// sparse tables need not be sent. Nil: none.
	empty func(off, n int64) int64
}

// tablePiece is the granularity at which a table's zeros are left out.
const tablePiece = 64 << 10

func (t *table) segments(_ *File, at, off, n int64, yield func(Segment) error) error {
	if t.empty == nil {
		return yield(Segment{Off: at, Len: n, Kind: Meta})
	}
	for n > 0 {
		s := Segment{Off: at, Kind: Meta, Len: min(tablePiece-off%tablePiece, n)}
		if z := min(t.empty(off, n), n); z >= s.Len {
			s.Kind = Zero
			if z == n {
				s.Len = n
			} else {
				s.Len += (z - s.Len) / tablePiece * tablePiece
			}
		}
		if err := yield(s); err != nil {
			return err
		}
		at, off, n = at+s.Len, off+s.Len, n-s.Len
	}
	return nil
}

func (t *table) fill(_ *File, p []byte, off int64) error {
	t.put(p, off)
	return nil
}

// identity is the disk itself: the section's offsets are the disk's.
type identity struct{}

func (identity) segments(f *File, at, off, n int64, yield func(Segment) error) error {
	return f.runs(at, off, n, yield)
}

func (identity) fill(*File, []byte, int64) error { return nil }

// runs yields the disk range [diskOff, diskOff+n) at file offset at, by what
// the fine map says; beyond the disk's end there are zeros.
func (f *File) runs(at, diskOff, n int64, yield func(Segment) error) error {
	m := f.src.Map
	for n > 0 {
		if diskOff >= m.Size() {
			return yield(Segment{Off: at, Len: n, Kind: Zero})
		}
		leaf := diskOff / disk.LeafSize
		count, data := m.Run(leaf, (diskOff+n-1)/disk.LeafSize-leaf+1)
		s := Segment{Off: at, Len: min((leaf+count)*disk.LeafSize-diskOff, n, m.Size()-diskOff), Kind: Zero}
		if data {
			s.Kind, s.DiskOff = Data, diskOff
		}
		if err := yield(s); err != nil {
			return err
		}
		at, diskOff, n = at+s.Len, diskOff+s.Len, n-s.Len
	}
	return nil
}

// blocks is a run of target blocks, the i-th of which holds the i-th allocated
// block of a coarse map: [head bytes of metadata][block bytes of the disk].
type blocks struct {
	m     *disk.Map // at the target's block granularity
	block int64     // bytes of the disk in each
	head  int64     // bytes of metadata before them
	// put generates bytes [off, off+len(p)) of a head, the same in every block,
	// into p, which is zeroed. Nil when head is 0.
	put func(p []byte, off int64)
}

// length is the section's length in bytes.
func (d *blocks) length() int64 { return d.m.Count() * (d.head + d.block) }

func (d *blocks) segments(f *File, at, off, n int64, yield func(Segment) error) error {
	stride := d.head + d.block
	for n > 0 {
		i, in := off/stride, off%stride
		var l int64
		if in < d.head {
			l = min(d.head-in, n)
			if err := yield(Segment{Off: at, Len: l, Kind: Meta}); err != nil {
				return err
			}
		} else {
			b := d.m.Select(i)
			l = min(stride-in, n)
			if d.head == 0 && n > l {
				// Allocated neighbours on the disk are neighbours in the file.
				count, _ := d.m.Run(b, ceilDiv(in+n, stride))
				l = min(count*stride-in, n)
			}
			if err := f.runs(at, b*d.block+in-d.head, l, yield); err != nil {
				return err
			}
		}
		at, off, n = at+l, off+l, n-l
	}
	return nil
}

func (d *blocks) fill(_ *File, p []byte, off int64) error {
	d.put(p, off%(d.head+d.block))
	return nil
}

// putEntries calls put to generate whole entries of width bytes (at most 8), a
// power of two, so that p becomes the table's bytes from off on: entries may be
// cut at both ends of p. put gets the number of the first entry.
func putEntries(p []byte, off, width int64, put func(p []byte, first int64)) {
	var one [8]byte
	if cut := off % width; cut != 0 {
		put(one[:width], off/width)
		n := copy(p, one[cut:width])
		p, off = p[n:], off+int64(n)
		clear(one[:])
	}
	whole := int64(len(p)) / width * width
	if whole > 0 {
		put(p[:whole], off/width)
	}
	if int64(len(p)) > whole {
		put(one[:width], (off+whole)/width)
		copy(p[whole:], one[:width])
	}
}

// allocatedRuns yields the runs of allocated blocks among [first, end), each
// with its first block, its length and the rank of its first block.
func allocatedRuns(m *disk.Map, first, end int64, yield func(b, n, rank int64)) {
	end = min(end, m.Len())
	if first >= end {
		return
	}
	rank := m.Rank(first)
	for b := first; b < end; {
		n, data := m.Run(b, end-b)
		if data {
			yield(b, n, rank)
			rank += n
		}
		b += n
	}
}

// holes is the length of the run of holes that starts at block b, at most
// limit, counting blocks beyond the map's end as holes; 0 when b is allocated.
func holes(m *disk.Map, b, limit int64) int64 {
	if b >= m.Len() {
		return limit
	}
	n, data := m.Run(b, limit)
	switch {
	case data:
		return 0
	case b+n == m.Len():
		return limit
	}
	return n
}
