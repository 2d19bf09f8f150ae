package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync/atomic"

	"ascend/internal/disk"
)

// Sections "L1 table entry", "L2 table entry" and "Extended L2 Entries".
const (
	offsetMask  = 0x00fffffffffffe00 // L1 and L2: bits 9 to 55
	flagZero    = 1 << 0             // version 3, not in extended entries
	flagPacked  = 1 << 62            // compressed
	subclusters = 32
)

// Sizes of the cache of tables, as binary logarithms.
const (
	maxSliceBits = 12
	slotBits     = 10
)

// kind says where the bytes of a run are found.
type kind uint8

const (
	hole   kind = iota // not in this image: in the backing file, or zeros
	zero               // zeros, whatever the backing file has
	data               // in the file, one after the other
	packed             // in one compressed cluster
)

// run is a run of bytes of the disk of one kind.
type run struct {
	off, n int64
	kind   kind
	// host is the offset in the file for data, and the L2 entry for packed.
	host uint64
}

// join extends r by q, which starts where r ends, if both together are one run.
func (r *run) join(q *run) bool {
	if r.kind != q.kind || r.kind == packed || r.kind == data && r.host+uint64(r.n) != q.host {
		return false
	}
	r.n += q.n
	return true
}

// tableCache holds slices of the L1 and L2 tables of all layers of a chain, 1,024
// of at most 4 KiB. Slices never change once they
// are in it, so readers take no lock; two that miss at once both read the file.
type tableCache struct {
	slots [1 << slotBits]atomic.Pointer[tableSlice]
}

type tableSlice struct {
	of  *layer
	off int64
	b   []byte
}

func (t *tableSlice) entry(i int64) uint64 { return binary.BigEndian.Uint64(t.b[i*8:]) }

// slice is the slice of the layer's tables that starts at off, a multiple of
// its size.
func (l *layer) slice(off int64) (*tableSlice, error) {
	i := (uint64(off)>>l.sliceBits + l.salt) * 0x9e3779b97f4a7c15 >> (64 - slotBits)
	slot := &l.shared.tables.slots[i]
	if t := slot.Load(); t != nil && t.off == off && t.of == l {
		return t, nil
	}
	t := &tableSlice{of: l, off: off, b: make([]byte, 1<<l.sliceBits)}
	n, err := l.f.ReadAt(t.b, off)
	if n < len(t.b) {
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: cannot read table at offset %d: %w", l.f.Name(), off, err)
		}
		// Only an L1 table may end in the middle of its last slice.
		if off+int64(n) < l.f.Size() {
			return nil, fmt.Errorf("%s: it ends at offset %d: %w", l.f.Name(), off+int64(n), disk.ErrChanged)
		}
	}
	slot.Store(t)
	return t, nil
}

// checkL1 looks at every L1 entry that the disk needs. The L2 tables must be
// aligned and inside the file, and not more than there is room for in it: that
// bounds the time it takes to walk them by the file's length.
func (l *layer) checkL1() error {
	const step = 64 << 10
	buf := make([]byte, min(step, l.l1Len*8))
	var tables int64
	for i := int64(0); i < l.l1Len; {
		p := buf[:min(step, (l.l1Len-i)*8)]
		if err := read(l.f, p, uint64(l.l1Off+i*8)); err != nil {
			return err
		}
		for ; len(p) > 0; p = p[8:] {
			e := binary.BigEndian.Uint64(p) & offsetMask
			if e != 0 {
				tables++
				if e&l.clusterMask != 0 || int64(e) > l.f.Size()-l.cluster {
					return corrupt("L1 entry %d refers to a table at offset %#x", i, e)
				}
			}
			i++
		}
	}
	if tables > l.f.Size()>>l.clusterBits {
		return corrupt("%d L2 tables do not fit into the file", tables)
	}
	return nil
}

// next is the run at off, which is cut at end. It may end before the kind
// changes, at the end of a slice of a table; it is not empty.
func (l *layer) next(off, end int64) (run, error) {
	table, stop, err := l.table(off, end)
	if err != nil {
		return run{}, err
	}
	if table == 0 {
		return run{off: off, n: stop - off, kind: hole}, nil
	}
	// Where in the table the cluster's entry is, and in which slice of it.
	entry := off >> l.clusterBits & (1<<(l.clusterBits-l.entryBits()) - 1)
	at := entry << l.entryBits()
	t, err := l.slice(table + at&^(1<<l.sliceBits-1))
	if err != nil {
		return run{}, err
	}
	at &= 1<<l.sliceBits - 1
	stop = min(stop, (off>>l.clusterBits+(1<<l.sliceBits-at)>>l.entryBits())<<l.clusterBits)

	var r run
	for pos := off; pos < stop; {
		q := run{off: pos}
		if l.extended {
			err = l.extendedRun(&q, t.entry(at/8), t.entry(at/8+1))
		} else {
			err = l.clusterRun(&q, t.entry(at/8))
		}
		if err != nil {
			return run{}, fmt.Errorf("%s: %w", l.f.Name(), err)
		}
		q.n = min(q.n, stop-pos)
		pos += q.n
		if pos&int64(l.clusterMask) == 0 {
			at += 1 << l.entryBits()
		}
		if r.n == 0 {
			r = q
		} else if !r.join(&q) {
			break
		}
	}
	return r, nil
}

// table is the offset of the L2 table for off, 0 when there is none, and the
// end of what it, or the lack of tables, holds for, at most end.
func (l *layer) table(off, end int64) (table, stop int64, err error) {
	perSlice := int64(1) << (l.sliceBits - 3)
	i := off >> l.l1Shift()
	t, err := l.slice(l.l1Off + i/perSlice*perSlice*8)
	if err != nil {
		return 0, 0, err
	}
	e := t.entry(i%perSlice) & offsetMask
	if e&l.clusterMask != 0 || int64(e) > l.f.Size()-l.cluster {
		return 0, 0, fmt.Errorf("%s: its L1 table is not the one it had: %w", l.f.Name(), disk.ErrChanged)
	}
	i++
	if e == 0 {
		for last := min(end-1, l.size-1) >> l.l1Shift(); i <= last && i%perSlice != 0 && t.entry(i%perSlice)&offsetMask == 0; {
			i++
		}
	}
	return int64(e), min(end, i<<l.l1Shift()), nil
}

// clusterRun tells what a standard L2 entry says of the bytes from q.off to the
// end of their cluster.
func (l *layer) clusterRun(q *run, e uint64) error {
	in := uint64(q.off) & l.clusterMask
	q.n = l.cluster - int64(in)
	host := e & offsetMask
	switch {
	case e&flagPacked != 0:
		q.kind, q.host = packed, e
	case e&flagZero != 0 && l.version < 3:
		return corrupt("a zero cluster in an image of version 2, at %d of the disk", q.off)
	case host&l.clusterMask != 0:
		return corrupt("the cluster for %d of the disk is at offset %#x, which is not aligned", q.off, host)
	case e&flagZero != 0:
		q.kind = zero
	case host == 0:
		q.kind = hole
	default:
		return l.dataRun(q, host, in)
	}
	return nil
}

// extendedRun tells what an extended L2 entry says of the bytes from q.off to
// the end of the last of the following subclusters of the same kind.
func (l *layer) extendedRun(q *run, e, bitmap uint64) error {
	in := uint64(q.off) & l.clusterMask
	q.n = l.cluster - int64(in)
	if e&flagPacked != 0 {
		q.kind, q.host = packed, e
		return nil
	}
	host := e & offsetMask
	here, zeros := uint32(bitmap), uint32(bitmap>>32)
	switch {
	case host&l.clusterMask != 0:
		return corrupt("the cluster for %d of the disk is at offset %#x, which is not aligned", q.off, host)
	case here&zeros != 0 || host == 0 && here != 0:
		return corrupt("the subclusters for %d of the disk are marked as %#x", q.off, bitmap)
	}
	size := l.cluster / subclusters
	first := int64(in) / size
	var of uint32 // the subclusters of the same kind
	switch bit := uint32(1) << first; {
	case zeros&bit != 0:
		q.kind, of = zero, zeros
	case here&bit != 0:
		q.kind, of = data, here
	default:
		q.kind, of = hole, ^(zeros | here)
	}
	last := first + int64(bits.TrailingZeros32(^(of >> first)))
	q.n = min(last*size, l.cluster) - int64(in)
	if q.kind == data {
		return l.dataRun(q, host, in)
	}
	return nil
}

// dataRun makes q a run of data at in of the cluster at host. The file may end
// in a cluster, whose rest then reads as zeros as QEMU has it; a cluster behind
// its end is that of a file that was cut off.
func (l *layer) dataRun(q *run, host, in uint64) error {
	if host >= uint64(l.f.Size()) {
		return corrupt("the cluster for %d of the disk is at offset %#x, beyond the end of the file", q.off, host)
	}
	q.kind, q.host = data, host+in
	return nil
}
