// Package vhd reads VHD images, fixed, dynamic and differencing, by Microsoft's
// "Virtual Hard Disk Image Format Specification", version 1.0 of October 2006,
// whose sections are named in quotes throughout.
package vhd

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"ascend/internal/disk"
	"ascend/internal/disk/backing"
)

// image is an opened VHD with its parents. It is immutable but for full, which
// is a cache; any number of goroutines may read.
type image struct {
	backing.Blocks
	file  *disk.File
	foot  footer
	head  header // unless fixed
	size  int64
	table []uint32 // BAT: sector of each block's bitmap, or freeBlock; nil when fixed
	// full remembers, a bit a block, the blocks whose sector bitmap was seen to be
	// all ones.
	full   []atomic.Uint64
	parent *image
	// parentName is the name by which the parent was found, as the file states it.
	parentName string
	notes      []string
}

// Open opens f, with its parents if it is a differencing image; it is a
// disk.Driver. Parents are asked of env by the names that f states and must have
// the identifier that f states. The image's memory is four bytes a block.
func Open(env *disk.Env, f *disk.File) (disk.Image, error) {
	img, err := open(env, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	img.Blocks = backing.Blocks{Name: f.Name(), Length: img.size, Own: f, Runs: img.runs}
	if img.parent != nil {
		img.Parent = img.parent
	}
	return img, nil
}

func open(env *disk.Env, f *disk.File) (*image, error) {
	foot, err := findFooter(f)
	if err != nil {
		return nil, err
	}
	img := &image{file: f, foot: foot.footer, notes: foot.notes}
	if foot.saved {
		img.notes = append(img.notes, f.Name()+": the machine was in saved state; what was in its memory is not on the disk")
	}
	if foot.kind == typeFixed {
		// "Fixed Hard Disk Image": the data, then the footer.
		if img.size = foot.size; img.size > foot.end {
			return nil, fmt.Errorf("%s: a fixed disk of %d bytes in a file that has room for %d (an incomplete copy?): %w", f.Name(), img.size, foot.end, disk.ErrCorrupt)
		}
		return img, nil
	}
	if img.head, err = readHeader(f, foot.dataOffset, foot.end); err != nil {
		return nil, err
	}
	img.size = foot.diskSize(img.head.entries * img.head.block)
	if img.table, err = img.head.readTable(f, foot.dataOffset, img.size, foot.end); err != nil {
		return nil, err
	}
	img.full = make([]atomic.Uint64, (len(img.table)+63)/64)
	if foot.kind == typeDynamic {
		return img, nil
	}
	if img.parent, img.parentName, err = img.head.openParent(env, f); err != nil {
		return nil, err
	}
	note, err := img.head.parentNote(f.Name(), img.parent.file)
	if err != nil {
		img.parent.Close()
		return nil, err
	}
	if note != "" {
		img.notes = append(img.notes, note)
	}
	return img, nil
}

// Close closes the files of the whole chain.
func (d *image) Close() error {
	if d.parent == nil {
		return d.file.Close()
	}
	return errors.Join(d.file.Close(), d.parent.Close())
}

// Unchanged implements disk.Disk for the whole chain.
func (d *image) Unchanged() error {
	for l := d; l != nil; l = l.parent {
		if err := l.file.Unchanged(); err != nil {
			return err
		}
	}
	return nil
}

// Info implements disk.Image.
func (d *image) Info() disk.Info {
	info := disk.Info{
		Format:    "vhd",
		Subformat: map[uint32]string{typeFixed: "fixed", typeDynamic: "dynamic", typeDifferencing: "differencing"}[d.foot.kind],
		Size:      d.size,
		Allocated: -1,
		Cluster:   d.head.block,
	}
	for l := d; l != nil; l = l.parent {
		info.Chain = append(info.Chain, disk.Layer{Path: l.file.Name(), Format: "vhd", Size: l.size, Reference: l.parentName})
		info.FileBytes += l.file.Size()
		info.Notes = append(info.Notes, slices.Clone(l.notes)...)
	}
	return info
}
