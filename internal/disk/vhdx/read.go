package vhdx

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

// maxWindow is the largest piece of a sector bitmap that is read at once: that
// of 16 MiB of disk at sectors of 512 bytes.
const maxWindow = 4096

// cursor walks over the runs of [off, end) in order.
type cursor struct {
	d        *image
	off, end int64
	// window holds the sector bitmap's bits for the sectors of the disk
	// [first, first+8×len(window)).
	window []byte
	first  int64
}

// place says where payload block e is read from, as a whole; partial when its
// sector bitmap must be asked ([MS-VHDX] 2.5.1.1). What is undefined or unmapped
// reads as zeros, one of the behaviours that the specification offers, in a
// differencing disk too: the parent holds such a block's content no more.
func (d *image) place(e batEntry) (src source, at int64, partial bool) {
	switch e.state() {
	case fullyPresent:
		return own, int64(e.offset()), false
	case partiallyPresent:
		return own, int64(e.offset()), true
	case notPresent:
		if d.parent != nil {
			return above, 0, false
		}
	}
	return zeros, 0, false
}

// next returns the run at the cursor and moves past it. Blocks that are
// neighbours in the file as well make one run, and so do blocks of nothing.
func (c *cursor) next() (run, error) {
	d := c.d
	b, in := c.off/d.meta.block, c.off%d.meta.block
	e, err := d.bat.payload(b)
	if err != nil {
		return run{}, err
	}
	src, at, partial := d.place(e)
	r := run{n: d.meta.block - in, src: src, at: at + in}
	if partial {
		return c.sectors(b, r)
	}
	for b++; r.n < c.end-c.off; b++ {
		if e, err = d.bat.payload(b); err != nil {
			return run{}, err
		}
		src, at, partial = d.place(e)
		if partial || src != r.src || src == own && at != r.at+r.n {
			break
		}
		r.n += d.meta.block
	}
	return c.take(r), nil
}

func (c *cursor) take(r run) run {
	r.n = min(r.n, c.end-c.off)
	c.off += r.n
	return r
}

// sectors cuts the run r, in block b, to the sectors at the cursor that the
// block's bitmap gives to one place ([MS-VHDX] 2.4).
func (c *cursor) sectors(b int64, r run) (run, error) {
	sector := c.off / c.d.meta.logical
	if err := c.load(b, sector); err != nil {
		return run{}, err
	}
	n, set := bitRun(c.window, sector-c.first)
	r.n = min(r.n, n*c.d.meta.logical-c.off%c.d.meta.logical)
	if !set {
		r.src = above
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
	if err := d.view.readFull(c.window, int64(e.offset())+from); err != nil {
		c.window = nil
		return fmt.Errorf("cannot read the sector bitmap of block %d: %w", b, err)
	}
	return nil
}

// bitRun is the number of equal bits from bit on, the least significant bit of a
// byte being the first, and whether they are ones.
func bitRun(p []byte, bit int64) (n int64, set bool) {
	set = p[bit/8]&(1<<(bit%8)) != 0
	i := bit / 8
	rest := func() byte { // with the bits that are not of the run set
		if set {
			return ^p[i]
		}
		return p[i]
	}
	if v := rest() >> (bit % 8); v != 0 {
		return int64(bits.TrailingZeros8(v)), set
	}
	n = 8 - bit%8
	for i++; i < int64(len(p)); i++ {
		v := rest()
		n += int64(bits.TrailingZeros8(v))
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
	if off >= d.meta.size {
		return 0, io.EOF
	}
	want := len(p)
	p = p[:min(int64(want), d.meta.size-off)]
	if err := d.read(p, off); err != nil {
		return 0, err
	}
	if len(p) < want {
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
			err = d.view.readFull(q, r.at)
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
		return fmt.Errorf("%s: cannot map %d bytes at offset %d: negative range", d.view.f.Name(), n, off)
	}
	n = min(n, max(d.meta.size-off, 0))
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
			err = d.view.extents(ctx, r.at, r.n, func(e disk.Extent) error {
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
