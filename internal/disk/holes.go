package disk

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Extents yields consecutive extents that cover [off, off+n) of the file
// exactly, in ascending order. Offsets are the file's; n beyond the end is cut.
// A hole is what the file system says is one (lseek(2), SEEK_HOLE and
// SEEK_DATA); where it cannot tell, as on devices, all is Data. It stops at
// yield's first error and returns it. Any number of goroutines may call it, and
// ReadAt, at once: reads do not use the file's own position, which this moves.
func (f *File) Extents(ctx context.Context, off, n int64, yield func(Extent) error) error {
	if off < 0 || n < 0 {
		return fmt.Errorf("%s: cannot map %d bytes at offset %d: negative range", f.name, n, off)
	}
	if off >= f.size {
		return nil
	}
	end := off + min(n, f.size-off)
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := f.extent(off)
		if err != nil {
			return err
		}
		e.Len = min(e.Len, end-off)
		if err := yield(e); err != nil {
			return err
		}
		off += e.Len
	}
	return nil
}

// extent is the extent at off, from there to its end. The last one found is
// remembered: the file system walks over all of an extent to find its end, and
// an image's blocks ask for the same one again and again.
func (f *File) extent(off int64) (Extent, error) {
	if k := f.known.Load(); k != nil && k.Off <= off && off < k.Off+k.Len {
		return Extent{Off: off, Len: k.Off + k.Len - off, Data: k.Data}, nil
	}
	e, err := f.findExtent(off)
	if err == nil {
		k := e
		f.known.Store(&k)
	}
	return e, err
}

func (f *File) findExtent(off int64) (Extent, error) {
	data, ok, err := f.seek(off, unix.SEEK_DATA)
	switch {
	case err != nil:
		return Extent{}, err
	case !ok:
		return Extent{Off: off, Len: f.size - off, Data: true}, nil
	case data > off:
		return Extent{Off: off, Len: data - off}, nil
	}
	hole, ok, err := f.seek(off, unix.SEEK_HOLE)
	switch {
	case err != nil:
		return Extent{}, err
	case !ok:
		hole = f.size
	case hole <= off:
		return Extent{}, fmt.Errorf("%s: %w", f.name, ErrChanged)
	}
	return Extent{Off: off, Len: hole - off, Data: true}, nil
}

// seek asks where the next byte of a kind is, at or after off; the end of the
// file when there is none. ok is false where the file system cannot say.
func (f *File) seek(off int64, whence int) (pos int64, ok bool, err error) {
	if f.device {
		return 0, false, nil
	}
	pos, err = f.f.Seek(f.base+off, whence)
	pos = min(pos-f.base, f.size)
	switch {
	case err == nil && pos < off:
		return 0, false, fmt.Errorf("%s: %w", f.name, ErrChanged)
	case err == nil:
		return pos, true, nil
	case errors.Is(err, unix.ENXIO):
		return f.size, true, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
		return 0, false, nil
	}
	return 0, false, fmt.Errorf("%s: cannot find the file's holes: %w", f.name, err)
}
