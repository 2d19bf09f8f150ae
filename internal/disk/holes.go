package disk

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Extents yields consecutive extents that cover [off, off+n) of the file
// exactly, in ascending order, neighbours being of different kinds. Offsets are
// the file's; n beyond the end is cut. A hole is what the file system says is
// one (lseek(2), SEEK_HOLE and SEEK_DATA); where it cannot tell, as on devices,
// all is Data. It stops at yield's first error and returns it. Any number of
// goroutines may call it, and ReadAt, at once: reads do not use the file's own
// position, which this moves.
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
		data, ok, err := f.seek(off, unix.SEEK_DATA)
		switch {
		case err != nil:
			return err
		case !ok:
			return yield(Extent{Off: off, Len: end - off, Data: true})
		}
		if data = min(data, end); data > off {
			if err := yield(Extent{Off: off, Len: data - off}); err != nil {
				return err
			}
		}
		if data == end {
			return nil
		}
		hole, ok, err := f.seek(data, unix.SEEK_HOLE)
		switch {
		case err != nil:
			return err
		case !ok:
			hole = end
		case hole <= data:
			return fmt.Errorf("%s: %w", f.name, ErrChanged)
		}
		off = min(hole, end)
		if err := yield(Extent{Off: data, Len: off - data, Data: true}); err != nil {
			return err
		}
	}
	return nil
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
