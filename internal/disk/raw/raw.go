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

// Open is the disk.Driver for raw images. Any file is one; its size need not
// be a multiple of a sector.
func Open(_ *disk.Env, f *disk.File) (disk.Image, error) {
	if f.Size() > disk.MaxSize {
		err := fmt.Errorf("%s: size of %d bytes is above the limit of %d: %w", f.Name(), f.Size(), int64(disk.MaxSize), disk.ErrUnsupported)
		return nil, errors.Join(err, f.Close())
	}
	return &image{f}, nil
}

type image struct{ f *disk.File }

// Size is the length of the file when it was opened.
func (m *image) Size() int64 { return m.f.Size() }

// ReadAt reads from the file; see disk.Disk. A file that became shorter since it
// was opened is disk.ErrChanged.
func (m *image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: cannot read at negative offset %d", m.f.Name(), off)
	}
	if off >= m.f.Size() {
		return 0, io.EOF
	}
	want := int(min(int64(len(p)), m.f.Size()-off))
	n, err := m.f.ReadAt(p[:want], off)
	switch {
	case n < want && (err == nil || errors.Is(err, io.EOF)):
		return n, fmt.Errorf("%s: it ends at offset %d: %w", m.f.Name(), off+int64(n), disk.ErrChanged)
	case n < want:
		return n, fmt.Errorf("%s: cannot read at offset %d: %w", m.f.Name(), off, err)
	case want < len(p):
		return n, io.EOF
	}
	return n, nil
}

// Extents yields the file's holes and data as its file system tells them; see
// disk.File.Extents.
func (m *image) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	return m.f.Extents(ctx, off, n, yield)
}

// Unchanged is disk.ErrChanged when the file is not as it was opened.
func (m *image) Unchanged() error { return m.f.Unchanged() }

// Close closes the file.
func (m *image) Close() error { return m.f.Close() }

// Info describes the image.
func (m *image) Info() disk.Info {
	size := m.f.Size()
	return disk.Info{
		Format: "raw", Size: size, Allocated: -1, FileBytes: size,
		Chain: []disk.Layer{{Path: m.f.Name(), Format: "raw", Size: size, Modified: m.f.Modified()}},
	}
}
