package vmdk

import (
	"context"
	"fmt"
	"math/bits"

	"ascend/internal/disk"
	"ascend/internal/disk/backing"
)

// section is one extent of a disk. Ranges are relative to it and within it.
type section interface {
	// readAt fills p.
	readAt(p []byte, off int64) error
	// extents adds to m what covers [off, off+n), with offsets of the disk.
	extents(ctx context.Context, off, n int64, m *backing.Merger) error
}

// sparse is an extent that is stored by grains, hosted or ESX.
type sparse struct {
	file *disk.File
	h    *header
	size int64 // bytes of the disk that the extent stands for
	base int64 // where the extent starts on the disk

	grainBytes int64
	grainShift int
	tableBytes int64
	tableShift int   // entries of a table, as a power of two
	grains     int64 // of size, the last one perhaps in part
	gd         []uint32
	firstTable int64 // number of the extent's first table among the disk's

	tables *tableCache
	kept   *grainCache // nil where no extent is compressed
	parent disk.Image  // answers for grains that are not here; nil: they are zeros
}

// newSparse checks the tables' place in the file and loads the directory.
// budget is how many bytes of directories the disk may still load. note is not
// "" when the redundant directory had to be used.
func newSparse(f *disk.File, h *header, size int64, budget *int64) (s *sparse, note string, err error) {
	s = &sparse{
		file:       f,
		h:          h,
		size:       size,
		grainBytes: h.grain * sector,
		grainShift: bits.TrailingZeros64(uint64(h.grain * sector)),
		tableBytes: h.entries * 4,
		tableShift: bits.TrailingZeros64(uint64(h.entries)),
	}
	s.grains = (size + s.grainBytes - 1) >> s.grainShift
	if *budget -= h.tables() * 4; *budget < 0 {
		return nil, "", fmt.Errorf("grain directories take more than %d bytes: %w", maxDirectories, disk.ErrUnsupported)
	}
	s.gd, err = s.loadDirectory(h.gd)
	if err != nil && h.rgd != 0 {
		if gd, redundant := s.loadDirectory(h.rgd); redundant == nil {
			s.gd = gd
			return s, fmt.Sprintf("%s: the redundant grain directory was used, because of the first: %v", f.Name(), err), nil
		}
	}
	return s, "", err
}

// kind is what a run of grains is.
type kind int

const (
	absent   kind = iota // not stored: the parent's, or zeros
	zero                 // stored as "zeros"
	stored               // bytes of the file
	deflated             // one compressed grain
)

// run is a piece of the extent of one kind.
type run struct {
	kind kind
	n    int64 // bytes
	pos  int64 // of the first byte, in the file; of a compressed grain's marker
	room int64 // from a compressed grain's marker to the next in the file; 0: not known
}

// next is the longest run at off, at most n bytes, that one table shows; runs
// of tables that are not there are as long as they are.
func (s *sparse) next(off, n int64, from tableSource) (run, error) {
	g := off >> s.grainShift
	i := g >> s.tableShift
	if s.gd[i] == 0 {
		j, stop := i+1, (off+n-1)>>s.grainShift>>s.tableShift
		for j <= stop && s.gd[j] == 0 {
			j++
		}
		return run{kind: absent, n: min(n, j<<s.tableShift<<s.grainShift-off)}, nil
	}
	t, err := from.table(i)
	if err != nil {
		return run{}, err
	}
	in := g - i<<s.tableShift
	e := t.entry(in)
	r := run{kind: s.kindOf(e), pos: e*sector + off - g<<s.grainShift}
	end := min(s.h.entries, (off+n-1)>>s.grainShift-i<<s.tableShift+1)
	j := in + 1
	switch {
	case t == nil:
		j = end
	case r.kind == deflated:
		r.pos = e * sector
		if j < s.h.entries && t.entry(j) > e {
			r.room = (t.entry(j) - e) * sector
		}
	case r.kind == stored:
		for j < end && t.entry(j) == e+(j-in)*s.h.grain {
			j++
		}
	default:
		for j < end && s.kindOf(t.entry(j)) == r.kind {
			j++
		}
	}
	r.n = min(n, (i<<s.tableShift+j)<<s.grainShift-off)
	return r, nil
}

func (s *sparse) kindOf(entry int64) kind {
	switch {
	case entry == 0:
		return absent
	case entry == 1 && s.h.zeroGrains:
		return zero
	case s.h.packed:
		return deflated
	}
	return stored
}

func (s *sparse) readAt(p []byte, off int64) error {
	for len(p) > 0 {
		r, err := s.next(off, int64(len(p)), cached{s})
		if err != nil {
			return s.wrap(err)
		}
		part := p[:r.n]
		switch {
		case r.kind == stored:
			err = s.file.ReadFull(part, r.pos)
		case r.kind == deflated:
			err = s.wrap(s.readPacked(part, off, r))
		case r.kind == absent && s.parent != nil:
			err = backing.ReadAt(s.parent, part, s.base+off)
		default:
			clear(part)
		}
		if err != nil {
			return err
		}
		p, off = p[r.n:], off+r.n
	}
	return nil
}

func (s *sparse) extents(ctx context.Context, off, n int64, m *backing.Merger) error {
	var from tableSource = cached{s}
	last := (off + n - 1) >> s.grainShift >> s.tableShift
	// Few tables: they may be in the cache, and are asked for again where this
	// disk is the parent of another whose grains interleave with its own.
	if last-off>>s.grainShift>>s.tableShift > 1 {
		from = &scan{ctx: ctx, s: s, last: last}
	}
	for end := off + n; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := s.next(off, end-off, from)
		if err != nil {
			return s.wrap(err)
		}
		if r.kind == absent && s.parent != nil {
			err = backing.Extents(ctx, s.parent, s.base+off, r.n, m)
		} else {
			err = m.Add(disk.Extent{Off: s.base + off, Len: r.n, Data: r.kind == stored || r.kind == deflated})
		}
		if err != nil {
			return err
		}
		off += r.n
	}
	return nil
}

func (s *sparse) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", s.file.Name(), err)
}
