package vhd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"ascend/internal/disk"
	"ascend/internal/disk/backing"
)

// source is where a run of the disk is read from.
type source uint8

const (
	zeros source = iota
	own          // this file
	above        // the parent
)

// run is a piece of the disk that comes from one place.
type run struct {
	n   int64 // bytes
	src source
	at  int64 // for own: offset in the file
}

// maxWindow is the largest piece of a sector bitmap that is read at once: all of
// it for blocks of up to 16 MiB.
const maxWindow = 4096

// cursor walks over the runs of [off, end) in order.
type cursor struct {
	d        *image
	off, end int64
	// window holds the bitmap's bits for the sectors [first, first+8×len(window))
	// of block.
	window []byte
	block  int64
	first  int64
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
func (c *cursor) next() (run, error) {
	d := c.d
	hole := zeros
	if d.parent != nil {
		hole = above
	}
	b, in := c.off/d.head.block, c.off%d.head.block
	if d.table[b] == freeBlock {
		n := d.head.block - in
		for b++; n < c.end-c.off && d.table[b] == freeBlock; b++ {
			n += d.head.block
		}
		return c.take(run{n: n, src: hole}), nil
	}
	data := int64(d.table[b])*sectorSize + d.head.bitmap
	r := run{n: d.head.block - in, src: own, at: data + in}
	if d.full[b/64].Load()&(1<<(b%64)) != 0 {
		return c.take(r), nil
	}
	if err := c.load(b, in/sectorSize); err != nil {
		return run{}, err
	}
	n, set := bitRun(c.window, in/sectorSize-c.first)
	r.n = min(n*sectorSize-in%sectorSize, r.n)
	if !set {
		r.src = hole
	}
	return c.take(r), nil
}

func (c *cursor) take(r run) run {
	r.n = min(r.n, c.end-c.off)
	c.off += r.n
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
	c.window = make([]byte, min(total-at, maxWindow))
	c.block, c.first = b, at*8
	if err := readFull(d.file, c.window, int64(d.table[b])*sectorSize+at); err != nil {
		c.window = nil
		return fmt.Errorf("cannot read the sector bitmap of block %d: %w", b, err)
	}
	if n, set := bitRun(c.window, 0); set && n == total*8 {
		d.full[b/64].Or(1 << (b % 64))
	}
	return nil
}

// bitRun is the number of equal bits from bit on, the most significant bit of a
// byte being the first, and whether they are ones.
func bitRun(p []byte, bit int64) (n int64, set bool) {
	set = p[bit/8]&(0x80>>(bit%8)) != 0
	i := bit / 8
	rest := func() byte { // with the bits that are not of the run set
		if set {
			return ^p[i]
		}
		return p[i]
	}
	if v := rest() << (bit % 8); v != 0 {
		return int64(bits.LeadingZeros8(v)), set
	}
	n = 8 - bit%8
	for i++; i < int64(len(p)); i++ {
		v := rest()
		n += int64(bits.LeadingZeros8(v))
		if v != 0 {
			break
		}
	}
	return n, set
}

// ReadAt implements disk.Disk. Data is read straight into p.
func (d *image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= d.size {
		return 0, io.EOF
	}
	want := len(p)
	p = p[:min(int64(want), d.size-off)]
	var err error
	if d.table == nil {
		err = readFull(d.file, p, off)
	} else {
		err = d.read(p, off)
	}
	switch {
	case err != nil:
		return 0, err
	case len(p) < want:
		return len(p), io.EOF
	}
	return want, nil
}

func (d *image) read(p []byte, off int64) error {
	c := cursor{d: d, off: off, end: off + int64(len(p))}
	for c.off < c.end {
		at := c.off
		r, err := c.next()
		if err != nil {
			return err
		}
		q := p[at-off : at-off+r.n]
		switch r.src {
		case own:
			err = readFull(d.file, q, r.at)
		case above:
			err = backing.ReadAt(d.parent, q, at)
		default:
			clear(q)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Extents implements disk.Disk: exact to the sector, and where the file system
// knows of holes in the file, exact to those.
func (d *image) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	if off < 0 || n < 0 {
		return fmt.Errorf("%s: cannot map %d bytes at offset %d: negative range", d.file.Name(), n, off)
	}
	n = min(n, max(d.size-off, 0))
	if n == 0 {
		return nil
	}
	if d.table == nil {
		return d.file.Extents(ctx, off, n, yield)
	}
	m := backing.Merger{Yield: yield}
	c := cursor{d: d, off: off, end: off + n}
	for c.off < c.end {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := c.off
		r, err := c.next()
		if err != nil {
			return err
		}
		switch r.src {
		case own:
			err = d.file.Extents(ctx, r.at, r.n, func(e disk.Extent) error {
				e.Off += at - r.at
				return m.Add(e)
			})
		case above:
			err = backing.Extents(ctx, d.parent, at, r.n, &m)
		default:
			err = m.Add(disk.Extent{Off: at, Len: r.n})
		}
		if err != nil {
			return err
		}
	}
	return m.Flush()
}
