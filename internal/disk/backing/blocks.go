package backing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"ascend/internal/disk"
)

// Place is where a run of a disk is read from.
type Place uint8

// Places.
const (
	Zeros  Place = iota
	Own          // the image's own file
	Parent       // the image below, or zeros where there is none
)

// Run is a piece of a disk that comes from one place.
type Run struct {
	Len  int64 // bytes
	From Place
	At   int64 // for Own: offset in the file
}

// Blocks is the disk that an image makes of blocks of its own file, of its
// parent's bytes and of zeros. Name, Parent, Own and Runs are set before the
// first use and never changed; any number of goroutines may read then.
type Blocks struct {
	Name   string // of the image, for errors
	Length int64  // of the disk, bytes
	// Parent is read where a run says so; nil: zeros.
	Parent disk.Disk
	Own    Store
	// Runs begins a walk over [off, end), which is not empty and lies in the disk:
	// each call of what it returns gives the next run, none of them empty or
	// beyond end.
	Runs func(off, end int64) func() (Run, error)
}

// Store is an image's own file as its blocks are read from it.
type Store interface {
	// ReadFull fills p from offset off.
	ReadFull(p []byte, off int64) error
	// Extents yields the extents of [off, off+n); see disk.File.Extents.
	Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error
	// Size is the file's length in bytes.
	Size() int64
}

// Size implements disk.Disk.
func (b *Blocks) Size() int64 { return b.Length }

// ReadAt implements disk.Disk. Bytes are read straight into p.
func (b *Blocks) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= b.Length {
		return 0, io.EOF
	}
	want := len(p)
	p = p[:min(int64(want), b.Length-off)]
	if len(p) > 0 {
		if err := b.fill(p, off); err != nil {
			return 0, err
		}
	}
	if len(p) < want {
		return len(p), io.EOF
	}
	return want, nil
}

func (b *Blocks) fill(p []byte, off int64) error {
	next := b.Runs(off, off+int64(len(p)))
	for len(p) > 0 {
		r, err := next()
		if err != nil {
			return err
		}
		q := p[:r.Len]
		switch {
		case r.From == Own:
			err = b.Own.ReadFull(q, r.At)
		case r.From == Parent && b.Parent != nil:
			err = ReadAt(b.Parent, q, off)
		default:
			clear(q)
		}
		if err != nil {
			return err
		}
		p, off = p[r.Len:], off+r.Len
	}
	return nil
}

// Extents implements disk.Disk: exact to the sector, and where the file system
// knows of holes in the file, exact to those.
func (b *Blocks) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	if off < 0 || n < 0 {
		return fmt.Errorf("%s: cannot map %d bytes at offset %d: negative range", b.Name, n, off)
	}
	n = min(n, max(b.Length-off, 0))
	if n == 0 {
		return nil
	}
	m := &Merger{Yield: yield}
	next := b.Runs(off, off+n)
	for end := off + n; off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := next()
		if err != nil {
			return err
		}
		switch {
		case r.From == Own:
			err = FileExtents(ctx, b.Own, off, r.At, r.Len, m)
		case r.From == Parent && b.Parent != nil:
			err = Extents(ctx, b.Parent, off, r.Len, m)
		default:
			err = m.Add(disk.Extent{Off: off, Len: r.Len})
		}
		if err != nil {
			return err
		}
		off += r.Len
	}
	return m.Flush()
}

// FileExtents gives m the extents of [off, off+n) of the disk, which lies in f
// from at on. What is beyond the file's end is a hole.
func FileExtents(ctx context.Context, f Store, off, at, n int64, m *Merger) error {
	in := min(n, max(f.Size()-at, 0))
	if in > 0 {
		err := f.Extents(ctx, at, in, func(e disk.Extent) error {
			e.Off += off - at
			return m.Add(e)
		})
		if err != nil {
			return err
		}
	}
	return m.Add(disk.Extent{Off: off + in, Len: n - in})
}

// BitRun is the number of equal bits of p from bit on, the least significant bit
// of a byte being the first, and whether they are ones.
func BitRun(p []byte, bit int64) (n int64, set bool) {
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
