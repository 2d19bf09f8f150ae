// Package vmdk reads VMware disks: monolithicSparse and streamOptimized files,
// descriptors with sparse, flat, ESX (VMFS) and zero extents beside them, ESX
// redo logs of type vmfsSparse, and chains of differencing disks.
//
// The format is that of VMware's technical notes "Virtual Disk Format 1.1" and
// "Virtual Disk Format 5.0". Nothing is opened by a name but through disk.Env,
// and only what the text descriptor of the disk, or of its chain, names; the
// descriptor inside a sparse file names that file and is never followed.
//
// An opened image is safe for any number of goroutines. It holds the grain
// directories (4 bytes for every 32 MiB of the disk with the usual
// parameters), at most 2 MiB of grain tables and about 1 MiB of inflated grains.
package vmdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"

	"ascend/internal/disk"
	"ascend/internal/disk/backing"
)

// image is one opened VMDK with its parents.
type image struct {
	size     int64
	sections []section
	starts   []int64 // of each section on the disk
	files    []*disk.File
	parent   disk.Image // nil when there is none or nothing is read from it
	info     disk.Info
	cid      uint32
	hasCID   bool
}

// Open opens f, a descriptor or a sparse file that holds its own, as a disk.
// It is a disk.Driver: f is the image's from now on, and is closed on failure.
// Extents are opened with env.Part, the parent of a differencing disk with
// env.Parent; a parent whose content ID is not the one the child states was
// changed since and is ErrCorrupt. One extent of a split disk, or one redo log
// without its descriptor, is ErrUnsupported: it is no disk.
func Open(env *disk.Env, f *disk.File) (disk.Image, error) {
	im := &image{files: []*disk.File{f}}
	if err := im.open(env); err != nil {
		_ = im.Close() // that the disk does not open is the error to tell
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return im, nil
}

func (im *image) open(env *disk.Env) error {
	f := im.files[0]
	d, h, err := describe(f)
	if err != nil {
		return err
	}
	b := builder{env: env, im: im, desc: d, budget: maxDirectories, named: map[string]*disk.File{f.Name(): f}}
	if h != nil {
		err = b.monolithic(h)
	} else {
		err = b.described()
	}
	if err != nil {
		return err
	}
	return b.finish()
}

// Size is the disk's size in bytes.
func (im *image) Size() int64 { return im.size }

// Info describes the disk. Chain holds the file that was opened and its
// parents, without the extents a descriptor names; FileBytes counts them all.
func (im *image) Info() disk.Info { return im.info }

// ReadAt reads the disk; see io.ReaderAt and disk.Disk.
func (im *image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: cannot read at offset %d", im.files[0].Name(), off)
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= im.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(p)) > im.size-off {
		p, end = p[:im.size-off], io.EOF
	}
	n := 0
	for i := im.find(off); n < len(p); i++ {
		in := off + int64(n) - im.starts[i]
		part := p[n:][:min(int64(len(p)-n), im.length(i)-in)]
		if err := im.sections[i].readAt(part, in); err != nil {
			return n, fmt.Errorf("cannot read disk: %w", err)
		}
		n += len(part)
	}
	return n, end
}

// find is the section that holds the byte at off.
func (im *image) find(off int64) int {
	return sort.Search(len(im.starts), func(i int) bool { return im.starts[i] > off }) - 1
}

func (im *image) length(i int) int64 {
	if i+1 < len(im.starts) {
		return im.starts[i+1] - im.starts[i]
	}
	return im.size - im.starts[i]
}

// Extents implements disk.Disk. Runs are exact to the grain, and to the file
// system's block in flat extents; neighbours are of different kinds.
func (im *image) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	if off < 0 || n < 0 {
		return fmt.Errorf("%s: cannot map %d bytes at offset %d: negative range", im.files[0].Name(), n, off)
	}
	if off >= im.size || n == 0 {
		return nil
	}
	n = min(n, im.size-off)
	m := backing.Merger{Yield: yield}
	for i := im.find(off); n > 0; i++ {
		in := off - im.starts[i]
		part := min(n, im.length(i)-in)
		if err := im.sections[i].extents(ctx, in, part, &m); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return m.Flush()
}

// Unchanged is nil, or disk.ErrChanged when one of the files of the disk or of
// its parents was touched since it was opened.
func (im *image) Unchanged() error {
	for _, f := range im.files {
		if err := f.Unchanged(); err != nil {
			return err
		}
	}
	if im.parent != nil {
		return im.parent.Unchanged()
	}
	return nil
}

// Close closes the files of the disk and of its parents.
func (im *image) Close() error {
	var errs []error
	for _, f := range im.files {
		errs = append(errs, f.Close())
	}
	if im.parent != nil {
		errs = append(errs, im.parent.Close())
	}
	return errors.Join(errs...)
}
