package vhdx

import (
	"fmt"

	"ascend/internal/disk/backing"
)

// maxWindow is the largest piece of a sector bitmap that is read at once: that
// of 16 MiB of disk at sectors of 512 bytes.
const maxWindow = 4096

// cursor walks over the runs of [off, end) in order.
type cursor struct {
	d        *image
	off, end int64
	// window holds the sector bitmap's bits for the sectors of the disk
	// [first, first+8×len(window)), the first sector in the least significant bit
	// ([MS-VHDX] 2.4).
	window []byte
	first  int64
}

// runs is backing.Blocks.Runs.
func (d *image) runs(off, end int64) func() (backing.Run, error) {
	c := &cursor{d: d, off: off, end: end}
	return c.next
}

// place says where payload block e is read from, as a whole; partial when its
// sector bitmap must be asked ([MS-VHDX] 2.5.1.1). What is undefined or unmapped
// reads as zeros, one of the behaviours that the specification offers, in a
// differencing disk too: the parent holds such a block's content no more.
func place(e batEntry) (from backing.Place, at int64, partial bool) {
	switch e.state() {
	case fullyPresent:
		return backing.Own, int64(e.offset()), false
	case partiallyPresent:
		return backing.Own, int64(e.offset()), true
	case notPresent:
		return backing.Parent, 0, false
	}
	return backing.Zeros, 0, false
}

// next returns the run at the cursor and moves past it. Blocks that are
// neighbours in the file as well make one run, and so do blocks of nothing.
func (c *cursor) next() (backing.Run, error) {
	d := c.d
	b, in := c.off/d.meta.block, c.off%d.meta.block
	e, err := d.bat.payload(b)
	if err != nil {
		return backing.Run{}, err
	}
	from, at, partial := place(e)
	r := backing.Run{Len: d.meta.block - in, From: from, At: at + in}
	if partial {
		return c.sectors(b, r)
	}
	for b++; r.Len < c.end-c.off; b++ {
		if e, err = d.bat.payload(b); err != nil {
			return backing.Run{}, err
		}
		from, at, partial = place(e)
		if partial || from != r.From || from == backing.Own && at != r.At+r.Len {
			break
		}
		r.Len += d.meta.block
	}
	return c.take(r), nil
}

func (c *cursor) take(r backing.Run) backing.Run {
	r.Len = min(r.Len, c.end-c.off)
	c.off += r.Len
	return r
}

// sectors cuts the run r, in block b, to the sectors at the cursor that the
// block's bitmap gives to one place ([MS-VHDX] 2.4).
func (c *cursor) sectors(b int64, r backing.Run) (backing.Run, error) {
	sector := c.off / c.d.meta.logical
	if err := c.load(b, sector); err != nil {
		return backing.Run{}, err
	}
	n, set := backing.BitRun(c.window, sector-c.first)
	r.Len = min(r.Len, n*c.d.meta.logical-c.off%c.d.meta.logical)
	if !set {
		r.From = backing.Parent
	}
	return c.take(r), nil
}

// load makes the window cover a sector of block b.
func (c *cursor) load(b, sector int64) error {
	if c.window != nil && sector >= c.first && sector < c.first+int64(len(c.window))*8 {
		return nil
	}
	d := c.d
	e, err := d.bat.entry(d.bat.bitmapIndex(b))
	if err != nil {
		return err
	}
	const perBitmap = bitmapBlock * 8
	// From the cursor's sector on, no further than is asked for.
	last := (c.end - 1) / d.meta.logical
	last = min(last, sector-sector%perBitmap+perBitmap-1)
	from := sector % perBitmap / 8
	c.first = sector - sector%8
	c.window = make([]byte, min(last/8-sector/8+1, maxWindow))
	if err := d.view.ReadFull(c.window, int64(e.offset())+from); err != nil {
		c.window = nil
		return fmt.Errorf("cannot read the sector bitmap of block %d: %w", b, err)
	}
	return nil
}
