// Package raw reads raw disk images: files and block devices whose bytes are
// the disk's.
package raw

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ascend/internal/disk"
)

// sector is what a disk's size is a multiple of. A file that ends inside one is
// read as if zeros followed, as QEMU does.
const sector = 512

// Open is the disk.Driver for raw images. Any file is one.
func Open(_ *disk.Env, f *disk.File) (disk.Image, error) {
	if f.Size() > disk.MaxSize {
		err := fmt.Errorf("%s: size of %d bytes is above the limit of %d: %w", f.Name(), f.Size(), int64(disk.MaxSize), disk.ErrUnsupported)
		return nil, errors.Join(err, f.Close())
	}
	return &image{f}, nil
}

type image struct{ f *disk.File }

// Size is the length of the file when it was opened, in whole sectors.
func (m *image) Size() int64 { return (m.f.Size() + sector - 1) / sector * sector }

// ReadAt reads from the file; see disk.Disk. A file that became shorter since it
// was opened is disk.ErrChanged.
func (m *image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: cannot read at negative offset %d", m.f.Name(), off)
	}
	if off >= m.Size() {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), m.Size()-off)]
	in := min(int64(len(want)), max(m.f.Size()-off, 0))
	switch n, err := m.f.ReadAt(want[:in], off); {
	case int64(n) == in:
	case err == nil || errors.Is(err, io.EOF):
		return n, fmt.Errorf("%s: it ends at offset %d: %w", m.f.Name(), off+int64(n), disk.ErrChanged)
	default:
		return n, fmt.Errorf("%s: cannot read at offset %d: %w", m.f.Name(), off, err)
	}
	clear(want[in:])
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}

// Extents yields the file's holes and data as its file system tells them; see
// disk.File.Extents. What follows the file's end is a hole.
func (m *image) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	if err := m.f.Extents(ctx, off, n, yield); err != nil {
		return err
	}
	from, end := max(off, m.f.Size()), min(off+min(n, disk.MaxSize), m.Size())
	if from >= end {
		return nil
	}
	return yield(disk.Extent{Off: from, Len: end - from})
}

// Unchanged is disk.ErrChanged when the file is not as it was opened.
func (m *image) Unchanged() error { return m.f.Unchanged() }

// Close closes the file.
func (m *image) Close() error { return m.f.Close() }

// Info describes the image.
func (m *image) Info() disk.Info {
	size := m.Size()
	return disk.Info{
		Format: "raw", Size: size, Allocated: -1, FileBytes: m.f.Size(),
		Chain: []disk.Layer{{Path: m.f.Name(), Format: "raw", Size: size, Modified: m.f.Modified()}},
	}
}
