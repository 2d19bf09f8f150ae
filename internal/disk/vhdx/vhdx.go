// Package vhdx reads VHDX images, fixed, dynamic and differencing (AVHDX is the
// same), by [MS-VHDX], "Virtual Hard Disk v2 (VHDX) File Format", of April 2024.
// A log that was not replayed is replayed in memory.
package vhdx

import (
	"errors"
	"fmt"

	"ascend/internal/disk"
	"ascend/internal/disk/backing"
)

// image is an opened VHDX with its parents. It is immutable but for caches; any
// number of goroutines may read.
type image struct {
	backing.Blocks
	view      *view
	dataWrite guid
	meta      metadata
	bat       bat
	parent    *image
	// parentName is the name by which the parent was found, as the file states it.
	parentName string
	notes      []string
}

// Open opens f, with its parents if it is a differencing image; it is a
// disk.Driver. Parents are asked of env by the names that f states and must have
// the identifier that f states. The image's memory is at most 4 MiB and the
// length of an unreplayed log.
func Open(env *disk.Env, f *disk.File) (disk.Image, error) {
	img, err := open(env, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	img.Blocks = backing.Blocks{Name: f.Name(), Length: img.meta.size, Own: img.view, Runs: img.runs}
	if img.parent != nil {
		img.Parent = img.parent
	}
	return img, nil
}

func open(env *disk.Env, f *disk.File) (*image, error) {
	if err := checkIdentifier(f); err != nil {
		return nil, err
	}
	h, err := readHeader(f)
	if err != nil {
		return nil, err
	}
	// Nothing but the headers may be read before the log is replayed ([MS-VHDX]
	// 2.3.3).
	v, err := replay(f, h)
	if err != nil {
		return nil, err
	}
	r, err := readRegions(v, h)
	if err != nil {
		return nil, err
	}
	img := &image{view: v, dataWrite: h.dataWrite, notes: append(h.notes, r.notes...)}
	if len(v.patches) > 0 {
		img.notes = append(img.notes, fmt.Sprintf("%s: it was not closed properly; %d entries of its log were replayed in memory (the file is left as it is)", f.Name(), v.entries))
	}
	if img.meta, err = readMetadata(v, r.metadata); err != nil {
		return nil, err
	}
	img.bat.v, img.bat.at = v, r.bat
	img.bat.ratio = (1 << 23) * img.meta.logical / img.meta.block // [MS-VHDX] 2.4
	if err := img.bat.check(img.meta, r.all); err != nil {
		return nil, err
	}
	if !img.meta.isChild {
		return img, nil
	}
	l, err := parentLink(f.Name(), img.meta.locator)
	if err != nil {
		return nil, err
	}
	if img.parent, img.parentName, err = l.open(env, f, img.meta.logical); err != nil {
		return nil, err
	}
	return img, nil
}

// Close closes the files of the whole chain.
func (d *image) Close() error {
	if d.parent == nil {
		return d.view.f.Close()
	}
	return errors.Join(d.view.f.Close(), d.parent.Close())
}

// Unchanged implements disk.Disk for the whole chain.
func (d *image) Unchanged() error {
	for l := d; l != nil; l = l.parent {
		if err := l.view.f.Unchanged(); err != nil {
			return err
		}
	}
	return nil
}

// Info implements disk.Image.
func (d *image) Info() disk.Info {
	info := disk.Info{
		Format:    "vhdx",
		Subformat: "dynamic",
		Size:      d.meta.size,
		Allocated: -1,
		Cluster:   d.meta.block,
	}
	switch {
	case d.meta.isChild:
		info.Subformat = "differencing"
	case d.meta.fixed:
		info.Subformat = "fixed"
	}
	for l := d; l != nil; l = l.parent {
		info.Chain = append(info.Chain, disk.Layer{Path: l.view.f.Name(), Format: "vhdx", Size: l.meta.size, Reference: l.parentName})
		info.FileBytes += l.view.f.Size()
		info.Notes = append(info.Notes, l.notes...)
	}
	return info
}
