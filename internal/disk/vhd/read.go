package vhd

import (
	"fmt"
	"math/bits"

	"ascend/internal/disk/backing"
)

// maxWindow is the largest piece of a sector bitmap that is read at once: all of
// it for blocks of up to 16 MiB.
const maxWindow = 4096

// cursor walks over the runs of [off, end) in order.
type cursor struct {
	d        *image
	off, end int64
	// window holds the bitmap's bits for the sectors [first, first+8×len(window))
	// of block, the first sector in the least significant bit.
	window []byte
	block  int64
	first  int64
}

// runs is backing.Blocks.Runs.
func (d *image) runs(off, end int64) func() (backing.Run, error) {
	if d.table == nil { // "Fixed Hard Disk Image": the disk from the file's start
		return func() (backing.Run, error) { return backing.Run{Len: end - off, From: backing.Own, At: off}, nil }
	}
	c := &cursor{d: d, off: off, end: end}
	return c.next
}

// next returns the run at the cursor and moves past it. A run is as long as it
// can be told cheaply: within a block for own data, any number of blocks where
// there is none.
//
// A sector whose bit is 0 is the parent's in a differencing disk. In a dynamic
// disk it was never written, and the specification has it "contain 512 bytes of
// zero on disk" ("Block Allocation Table and Data Blocks"), so that bit and bytes
// agree. Where a writer broke that rule (an image on a raw volume, as XenServer's
// on LVM, can have older bytes in such sectors) XenServer and libvhdi go by the
// bit, QEMU by the bytes, and 7-Zip gives up. The bit decides here: what was
// never written is not the guest's.
func (c *cursor) next() (backing.Run, error) {
	d := c.d
	b, in := c.off/d.head.block, c.off%d.head.block
	if d.table[b] == freeBlock {
		n := d.head.block - in
		for b++; n < c.end-c.off && d.table[b] == freeBlock; b++ {
			n += d.head.block
		}
		return c.take(backing.Run{Len: n, From: backing.Parent}), nil
	}
	data := int64(d.table[b])*sectorSize + d.head.bitmap
	r := backing.Run{Len: d.head.block - in, From: backing.Own, At: data + in}
	if d.full[b/64].Load()&(1<<(b%64)) != 0 {
		return c.take(r), nil
	}
	if err := c.load(b, in/sectorSize); err != nil {
		return backing.Run{}, err
	}
	n, set := backing.BitRun(c.window, in/sectorSize-c.first)
	r.Len = min(n*sectorSize-in%sectorSize, r.Len)
	if !set {
		r.From = backing.Parent
	}
	return c.take(r), nil
}

func (c *cursor) take(r backing.Run) backing.Run {
	r.Len = min(r.Len, c.end-c.off)
	c.off += r.Len
	return r
}

// load makes the window cover a sector of block b.
func (c *cursor) load(b, sector int64) error {
	if c.window != nil && c.block == b && sector >= c.first && sector < c.first+int64(len(c.window))*8 {
		return nil
	}
	d := c.d
	// Bits beyond the block's last sector pad the bitmap.
	total := max(d.head.block/sectorSize/8, 1)
	at := sector / 8 / maxWindow * maxWindow
	if n := min(total-at, maxWindow); int64(cap(c.window)) < n {
		c.window = make([]byte, n)
	} else {
		c.window = c.window[:n]
	}
	c.block, c.first = b, at*8
	if err := d.file.ReadFull(c.window, int64(d.table[b])*sectorSize+at); err != nil {
		c.window = nil
		return fmt.Errorf("cannot read the sector bitmap of block %d: %w", b, err)
	}
	// The first sector has the most significant bit ("Block Allocation Table and
	// Data Blocks").
	for i, v := range c.window {
		c.window[i] = bits.Reverse8(v)
	}
	if n, set := backing.BitRun(c.window, 0); set && n == total*8 {
		d.full[b/64].Or(1 << (b % 64))
	}
	return nil
}
