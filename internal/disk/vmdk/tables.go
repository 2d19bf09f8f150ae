package vmdk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"ascend/internal/disk"
)

const (
	// maxDirectories bounds the grain directories of one disk together, in
	// bytes. A directory entry stands for 32 MiB of disk with VMware's and
	// QEMU's parameters, so that 64 TiB take 8 MiB.
	maxDirectories = 16 << 20
	// cacheBytes is what a disk's grain tables take in memory at most.
	cacheBytes = 2 << 20
	// batchBytes is how much of adjacent grain tables a scan reads at once.
	batchBytes = 256 << 10
)

// table is one grain table as it stands in the file: little-endian words, each
// the sector of a grain. nil stands for a table of nothing but zeros.
type table []byte

func (t table) entry(i int64) int64 {
	if t == nil {
		return 0
	}
	return int64(binary.LittleEndian.Uint32(t[i*4:]))
}

// tableCache keeps grain tables of one disk, each in the one slot its number
// leads to. Any number of goroutines may use it; none ever waits.
type tableCache struct {
	slots []atomic.Pointer[cachedTable]
}

type cachedTable struct {
	number int64 // counted over all extents of the disk
	table  table
}

// newTableCache makes a cache for n tables of at most size bytes.
func newTableCache(n, size int64) *tableCache {
	return &tableCache{slots: make([]atomic.Pointer[cachedTable], max(1, min(n, cacheBytes/max(size, 1))))}
}

func (c *tableCache) get(number int64) table {
	if t := c.slots[number%int64(len(c.slots))].Load(); t != nil && t.number == number {
		return t.table
	}
	return nil
}

func (c *tableCache) put(number int64, t table) {
	c.slots[number%int64(len(c.slots))].Store(&cachedTable{number, t})
}

// loadDirectory reads the grain directory at sector at and checks that every
// table it leads to lies in the file, in no other's place as far as their
// number tells.
func (s *sparse) loadDirectory(at int64) ([]uint32, error) {
	n := s.h.tables()
	size := s.file.Size()
	if n*4 > size || at > (size-n*4)/sector {
		return nil, fmt.Errorf("grain directory of %d entries at sector %d ends beyond the file: %w", n, at, disk.ErrCorrupt)
	}
	raw := make([]byte, n*4)
	if err := s.file.ReadFull(raw, at*sector); err != nil {
		return nil, fmt.Errorf("cannot read the grain directory: %w", err)
	}
	gd := make([]uint32, n)
	var used int64
	for i := range gd {
		gd[i] = binary.LittleEndian.Uint32(raw[i*4:])
		if gd[i] == 0 {
			continue
		}
		used++
		off := int64(gd[i]) * sector
		if off > size-s.tableBytes {
			return nil, fmt.Errorf("grain table %d at sector %d ends beyond the file: %w", i, gd[i], disk.ErrCorrupt)
		}
		if off < at*sector+n*4 && at*sector < off+s.tableBytes {
			return nil, fmt.Errorf("grain table %d lies in the grain directory: %w", i, disk.ErrCorrupt)
		}
	}
	if used*s.tableBytes > size {
		return nil, fmt.Errorf("%d grain tables cannot lie in a file of %d bytes without being shared: %w", used, size, disk.ErrCorrupt)
	}
	return gd, nil
}

// checkTable holds the entries of grain table i to the file's bounds.
func (s *sparse) checkTable(i int64, t table) error {
	first := i * s.h.entries
	n := min(s.h.entries, s.grains-first)
	last := (s.file.Size() - s.grainBytes) / sector
	if s.h.packed {
		last = (s.file.Size() - packedHeader - 1) / sector
	}
	for g := range n {
		e := t.entry(g)
		if e == 0 || e >= s.h.firstData && e <= last || e == 1 && s.h.zeroGrains {
			continue
		}
		// The last grain need only be there as far as the disk goes.
		if !s.h.packed && first+g == s.grains-1 && e >= s.h.firstData && e*sector <= s.file.Size()-(s.size-(first+g)*s.grainBytes) {
			continue
		}
		return fmt.Errorf("grain %d at sector %d is outside the file's data: %w", first+g, e, disk.ErrCorrupt)
	}
	return nil
}

// tableSource gives the grain table i, whose directory entry is not 0.
type tableSource interface {
	table(i int64) (table, error)
}

// cached is the tableSource for reads: one table at a time, kept.
type cached struct{ s *sparse }

func (c cached) table(i int64) (table, error) {
	s := c.s
	if t := s.tables.get(s.firstTable + i); t != nil {
		return t, nil
	}
	t := make(table, s.tableBytes)
	if err := s.file.ReadFull(t, int64(s.gd[i])*sector); err != nil {
		return nil, fmt.Errorf("cannot read grain table %d: %w", i, err)
	}
	if err := s.checkTable(i, t); err != nil {
		return nil, err
	}
	s.tables.put(s.firstTable+i, t)
	return t, nil
}

// scan is the tableSource for maps: it is asked for ascending tables up to
// last, reads adjacent ones together and those not at all that lie in a hole of
// the file, as most of a thin disk's preallocated tables do. It leaves the
// cache alone.
type scan struct {
	ctx  context.Context
	s    *sparse
	last int64

	buf              []byte
	first, end       int64 // the tables in buf
	holeOff, holeEnd int64 // a hole of the file, in bytes
}

var errSeen = errors.New("seen enough")

func (c *scan) table(i int64) (table, error) {
	s := c.s
	if i >= c.first && i < c.end {
		return c.buf[(i-c.first)*s.tableBytes:][:s.tableBytes], nil
	}
	off := int64(s.gd[i]) * sector
	inHole := func() bool { return off >= c.holeOff && off+s.tableBytes <= c.holeEnd }
	if inHole() {
		return nil, nil
	}
	err := s.file.Extents(c.ctx, off, s.file.Size()-off, func(e disk.Extent) error {
		if !e.Data {
			c.holeOff, c.holeEnd = off, off+e.Len
		}
		return errSeen
	})
	if err != nil && !errors.Is(err, errSeen) {
		return nil, err
	}
	if inHole() {
		return nil, nil
	}
	n := int64(1)
	for n < max(1, batchBytes/s.tableBytes) && i+n <= c.last && int64(s.gd[i+n])*sector == off+n*s.tableBytes {
		n++
	}
	c.first, c.end = 0, 0
	if int64(cap(c.buf)) < n*s.tableBytes {
		c.buf = make([]byte, n*s.tableBytes)
	}
	c.buf = c.buf[:n*s.tableBytes]
	if err := s.file.ReadFull(c.buf, off); err != nil {
		return nil, fmt.Errorf("cannot read grain tables from %d on: %w", i, err)
	}
	for k := range n {
		if err := s.checkTable(i+k, c.buf[k*s.tableBytes:][:s.tableBytes]); err != nil {
			return nil, err
		}
	}
	c.first, c.end = i, i+n
	return c.buf[:s.tableBytes], nil
}
