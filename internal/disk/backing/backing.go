// Package backing holds what the readers of formats with parents share: finding
// the right parent among several names, reading a parent that may be smaller
// than its child, and joining extents.
package backing

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ascend/internal/disk"
)

// maxRefs bounds the names of a parent that are tried for one layer.
const maxRefs = 16

// Open opens the parent of the layer from. refs are the names that the layer
// states for it, the best first; the first whose file check accepts is opened
// as format, and the name is returned with it. check reads what it needs of the
// file, follows no reference and does not close it.
//
// Only one name is ever opened as an image, so that the cost of a chain grows
// with its length even where every layer states many names.
func Open(env *disk.Env, from string, refs []string, format string, check func(*disk.File) error) (disk.Image, string, error) {
	var failed error
	tried := make(map[string]bool, maxRefs)
	for _, ref := range refs {
		if ref == "" || tried[ref] || len(tried) == maxRefs {
			continue
		}
		tried[ref] = true
		err := try(env, from, ref, check)
		if err == nil {
			img, err := env.Parent(from, ref, format)
			return img, ref, err
		}
		// A file that is there and is the wrong one says more than one that is not.
		if failed == nil || errors.Is(failed, disk.ErrMissing) && !errors.Is(err, disk.ErrMissing) {
			failed = err
		}
	}
	if failed == nil {
		failed = fmt.Errorf("%s states no usable name of its parent: %w", from, disk.ErrCorrupt)
	}
	return nil, "", failed
}

func try(env *disk.Env, from, ref string, check func(*disk.File) error) error {
	f, err := env.Part(from, ref)
	if err != nil {
		return err
	}
	defer f.Close()
	return check(f)
}

// ReadAt fills p from the parent; what lies beyond the parent's end is zeros,
// as a child may be larger than its parent.
func ReadAt(parent disk.Disk, p []byte, off int64) error {
	n := min(int64(len(p)), max(parent.Size()-off, 0))
	clear(p[n:])
	if n == 0 {
		return nil
	}
	got, err := parent.ReadAt(p[:n], off)
	if int64(got) == n {
		return nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Extents gives the parent's extents of [off, off+n) to m, with a hole for what
// lies beyond the parent's end.
func Extents(ctx context.Context, parent disk.Disk, off, n int64, m *Merger) error {
	in := min(n, max(parent.Size()-off, 0))
	if in > 0 {
		if err := parent.Extents(ctx, off, in, m.Add); err != nil {
			return err
		}
	}
	if n > in {
		return m.Add(disk.Extent{Off: off + in, Len: n - in})
	}
	return nil
}

// Merger joins neighbouring extents of one kind before they are yielded. The
// zero value with Yield set is ready to use, by one goroutine.
type Merger struct {
	Yield func(disk.Extent) error
	last  disk.Extent
}

// Add takes the next extent, which starts where the last one ended. Empty
// extents are dropped.
func (m *Merger) Add(e disk.Extent) error {
	if e.Len == 0 {
		return nil
	}
	if m.last.Len > 0 && m.last.Data == e.Data && m.last.Off+m.last.Len == e.Off {
		m.last.Len += e.Len
		return nil
	}
	err := m.Flush()
	m.last = e
	return err
}

// Flush yields what is held back; call it once after the last Add.
func (m *Merger) Flush() error {
	e := m.last
	m.last = disk.Extent{}
	if e.Len == 0 {
		return nil
	}
	return m.Yield(e)
}
