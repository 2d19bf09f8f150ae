package vmdk

import (
	"context"

	"ascend/internal/disk"
	"ascend/internal/disk/backing"
)

// flat is an extent whose bytes stand in a file as they are (Virtual Disk
// Format 5.0, "Simple Extents").
type flat struct {
	file *disk.File
	at   int64 // where the extent starts in the file
	base int64 // where it starts on the disk
}

func (x flat) readAt(p []byte, off int64) error { return x.file.ReadFull(p, x.at+off) }

func (x flat) extents(ctx context.Context, off, n int64, m *backing.Merger) error {
	return x.file.Extents(ctx, x.at+off, n, func(e disk.Extent) error {
		e.Off += x.base - x.at
		return m.Add(e)
	})
}

// zeros is an extent of type ZERO.
type zeros struct {
	base int64 // where it starts on the disk
}

func (zeros) readAt(p []byte, _ int64) error {
	clear(p)
	return nil
}

func (x zeros) extents(_ context.Context, off, n int64, m *backing.Merger) error {
	return m.Add(disk.Extent{Off: x.base + off, Len: n})
}
