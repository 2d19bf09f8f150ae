package qcow2

import (
	"context"
	"fmt"

	"ascend/internal/disk"
	"ascend/internal/disk/backing"
)

// Extents yields what the tables of the chain say, neighbours joined; see
// disk.Disk. A cluster is Data when the topmost image that says anything of it
// has it, and is no hole in that image's file: images with preallocated tables
// have clusters that were never written.
func (l *layer) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	if off < 0 || n < 0 {
		return fmt.Errorf("%s: cannot map %d bytes at offset %d: negative range", l.f.Name(), n, off)
	}
	if off >= l.size {
		return nil
	}
	end := off + min(n, l.size-off)
	m := &backing.Merger{Yield: yield}
	for i := 0; off < end; i++ {
		if i%1024 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		r, err := l.next(off, end)
		if err != nil {
			return err
		}
		off += r.n
		switch {
		case r.kind == data:
			err = backing.FileExtents(ctx, l.f, r.off, int64(r.host), r.n, m)
		case r.kind == hole && l.parent != nil:
			err = backing.Extents(ctx, l.parent, r.off, r.n, m)
		default:
			err = m.Add(disk.Extent{Off: r.off, Len: r.n, Data: r.kind == packed})
		}
		if err != nil {
			return err
		}
	}
	return m.Flush()
}
