package vhdx

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"ascend/internal/disk"
)

// Payload block states ([MS-VHDX] 2.5.1.1); 4 and 5 are reserved.
const (
	notPresent       = 0
	undefined        = 1
	zero             = 2
	unmapped         = 3
	fullyPresent     = 6
	partiallyPresent = 7
)

// bitmapPresent is the state of a sector bitmap block that is in the file
// ([MS-VHDX] 2.5.1.2).
const bitmapPresent = 6

// bitmapBlock is the length of a sector bitmap block: a bit for each of 2^23
// sectors ([MS-VHDX] 2.4).
const bitmapBlock = mib

// batEntry is an entry of the block allocation table ([MS-VHDX] 2.5.1).
type batEntry uint64

func (e batEntry) state() uint { return uint(e & 7) }

// offset is where the block starts in the file, in bytes; at most 2^64 - 1 MiB
// when the entry is hostile, so that it must be compared before it is used.
func (e batEntry) offset() uint64 { return uint64(e) &^ (mib - 1) }

const (
	batPage  = 64 * kib // bytes of the table that are read at once
	batSlots = 64       // pages held
)

// bat reads the block allocation table in pages. Those in use are held in
// slots, by number modulo batSlots, so that memory stays at 4 MiB for any disk:
// enough for 512 GiB at blocks of 1 MiB, and one more read for every 8 GiB
// beyond. Any number of goroutines may read, without waiting for one another.
type bat struct {
	v     *view
	at    region
	ratio int64 // payload blocks to a sector bitmap block: the chunk ratio, a power of two
	slots [batSlots]atomic.Pointer[page]
}

type page struct {
	number int64
	b      [batPage]byte
}

// index is where the table has payload block b: after each ratio payload
// entries comes one of a sector bitmap ([MS-VHDX] 2.5).
func (t *bat) index(b int64) int64 { return b + b/t.ratio }

// bitmapIndex is where the table has the sector bitmap of payload block b.
func (t *bat) bitmapIndex(b int64) int64 { return (b/t.ratio+1)*(t.ratio+1) - 1 }

// entry reads entry i.
func (t *bat) entry(i int64) (batEntry, error) {
	number := i * 8 / batPage
	slot := &t.slots[number%batSlots]
	p := slot.Load()
	if p == nil || p.number != number {
		p = &page{number: number}
		n := min(batPage, t.at.len-number*batPage)
		if err := t.v.ReadFull(p.b[:n], t.at.off+number*batPage); err != nil {
			return 0, fmt.Errorf("cannot read the block allocation table: %w", err)
		}
		slot.Store(p)
	}
	return batEntry(binary.LittleEndian.Uint64(p.b[i*8%batPage:])), nil
}

// payload reads the entry of payload block b.
func (t *bat) payload(b int64) (batEntry, error) { return t.entry(t.index(b)) }

// check reads the whole table and sees that every block has a state that its
// kind of disk may have, lies inside the file and shares no byte with another
// or with what else is in taken.
//
// Entries of sector bitmaps mean something in differencing disks only. In
// others they should be zero, and QEMU before 8.0.3 left rubbish there.
func (t *bat) check(m metadata, taken []region) error {
	name := t.v.f.Name()
	blocks := (m.size + m.block - 1) / m.block
	if blocks == 0 {
		return nil
	}
	entries := t.index(blocks-1) + 1
	if m.isChild {
		entries = t.bitmapIndex(blocks-1) + 1
	}
	if entries > t.at.len/8 {
		return fmt.Errorf("%s: block allocation table has room for %d entries and needs %d: %w", name, t.at.len/8, entries, disk.ErrCorrupt)
	}
	used := newUsage(t.v.size, taken)
	buf := make([]byte, batPage)
	var partial bool // a block of this chunk needs its sector bitmap
	for i := int64(0); i < entries; i++ {
		in := i * 8 % batPage
		if in == 0 {
			buf = buf[:min(batPage, (entries-i)*8)]
			if err := t.v.ReadFull(buf, t.at.off+i*8); err != nil {
				return err
			}
		}
		e := batEntry(binary.LittleEndian.Uint64(buf[in:]))
		chunk, place := i/(t.ratio+1), i%(t.ratio+1)
		if place == t.ratio {
			if m.isChild {
				if partial && e.state() != bitmapPresent {
					return fmt.Errorf("%s: sector bitmap %d is needed and is not there: %w", name, chunk, disk.ErrCorrupt)
				}
				if e.state() == bitmapPresent && !used.add(e.offset(), bitmapBlock, bitmapBlock) {
					return fmt.Errorf("%s: sector bitmap %d at offset %d overlaps something else or lies beyond the end of the file at %d (an incomplete copy?): %w", name, chunk, e.offset(), t.v.size, disk.ErrCorrupt)
				}
			}
			partial = false
			continue
		}
		b := chunk*t.ratio + place
		switch s := e.state(); {
		case b >= blocks: // pads the last chunk of a differencing disk
		case s == partiallyPresent && !m.isChild, s > unmapped && s < fullyPresent:
			return fmt.Errorf("%s: block %d has the state %d: %w", name, b, s, disk.ErrCorrupt)
		case s >= fullyPresent:
			partial = partial || s == partiallyPresent
			// The block with the end of the disk need not be there beyond it.
			if !used.add(e.offset(), min(m.block, m.size-b*m.block), m.block) {
				return fmt.Errorf("%s: block %d at offset %d overlaps something else or lies beyond the end of the file at %d (an incomplete copy?): %w", name, b, e.offset(), t.v.size, disk.ErrCorrupt)
			}
		}
	}
	return nil
}

// usage marks each MiB of a file that something lies in.
type usage struct {
	size int64
	bits []uint64
}

func newUsage(size int64, taken []region) *usage {
	u := &usage{size: size, bits: make([]uint64, (size+mib-1)/mib/64+1)}
	for _, r := range taken {
		u.mark(r.off, r.len)
	}
	return u
}

// add marks a block at off of which need bytes must be in the file, and of which
// nothing else may lie in what is there of n bytes. Blocks start at whole MiB.
func (u *usage) add(off uint64, need, n int64) bool {
	if off > uint64(u.size) || u.size-int64(off) < need {
		return false
	}
	return u.mark(int64(off), min(n, u.size-int64(off)))
}

// mark marks [off, off+n) and tells whether all of it was free.
func (u *usage) mark(off, n int64) bool {
	for i := off / mib; i*mib < off+n; i++ {
		if u.bits[i/64]&(1<<(i%64)) != 0 {
			return false
		}
		u.bits[i/64] |= 1 << (i % 64)
	}
	return true
}
