package qcow2

import (
	"context"
	"errors"
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
	written := segment{f: l.f}
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
			err = written.extents(ctx, &r, m)
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

// segment is the last extent of the file that was asked for. Clusters mostly
// lie in the file in the order of the disk, so that one question to the file
// system answers for many runs.
type segment struct {
	f *disk.File
	disk.Extent
}

// extents adds the extents of r, a run of data, to m.
func (s *segment) extents(ctx context.Context, r *run, m *backing.Merger) error {
	for at, host, end := r.off, int64(r.host), r.off+r.n; at < end; {
		if host < s.Off || host >= s.Off+s.Len {
			if err := s.find(ctx, host); err != nil {
				return err
			}
		}
		n := min(end-at, s.Off+s.Len-host)
		if err := m.Add(disk.Extent{Off: at, Len: n, Data: s.Data}); err != nil {
			return err
		}
		at += n
		host += n
	}
	return nil
}

// find makes s the extent of the file from host on. What lies behind the end of
// the file, in its last cluster, is a hole.
func (s *segment) find(ctx context.Context, host int64) error {
	s.Extent = disk.Extent{Off: host, Len: disk.MaxSize}
	err := s.f.Extents(ctx, host, s.f.Size(), func(e disk.Extent) error {
		s.Extent = e
		return errFound
	})
	if err == nil || errors.Is(err, errFound) {
		return nil
	}
	return err
}

var errFound = errors.New("found")
