package vmdk

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"ascend/internal/disk"
	"ascend/internal/disk/backing"
)

// builder puts an image together while it is opened.
type builder struct {
	env    *disk.Env
	im     *image
	desc   *descriptor
	budget int64 // bytes of grain directories that may still be loaded
	named  map[string]*disk.File
	sparse []*sparse
	notes  []string
}

// describe reads the descriptor of the disk that f holds or describes. h is the
// sparse header where f is a sparse file, which then holds all of the disk.
func describe(f *disk.File) (d *descriptor, h *header, err error) {
	head := make([]byte, min(sector, f.Size()))
	if err := f.ReadFull(head, 0); err != nil {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("KDMV")):
		if h, err = readHosted(f); err != nil {
			return nil, nil, err
		}
		d, err = embedded(f, h)
		return d, h, err
	case bytes.HasPrefix(head, []byte("COWD")):
		return nil, nil, fmt.Errorf("this is the data of an ESX snapshot; open the descriptor that names it: %w", disk.ErrUnsupported)
	case !isDescriptor(head):
		return nil, nil, disk.ErrFormat
	case f.Size() > maxDescriptor:
		return nil, nil, fmt.Errorf("descriptor of %d bytes is above the limit of %d: %w", f.Size(), maxDescriptor, disk.ErrCorrupt)
	}
	text := make([]byte, f.Size())
	if err := f.ReadFull(text, 0); err != nil {
		return nil, nil, err
	}
	d, err = parseDescriptor(text)
	return d, nil, err
}

// embedded reads the descriptor inside a sparse file.
func embedded(f *disk.File, h *header) (*descriptor, error) {
	alone := fmt.Errorf("this is one extent of a disk; open the descriptor that names it: %w", disk.ErrUnsupported)
	if h.descriptor == 0 {
		return nil, alone
	}
	text := make([]byte, h.descLen*sector)
	if err := f.ReadFull(text, h.descriptor*sector); err != nil {
		return nil, err
	}
	if text[0] == 0 {
		return nil, alone
	}
	return parseDescriptor(text)
}

// monolithic adds the one extent of a sparse file that holds its own descriptor.
func (b *builder) monolithic(h *header) error {
	size := h.capacity * sector
	// The header's capacity is the disk's size; the line of the descriptor may
	// be off by the rounding to grains.
	for _, e := range b.desc.extents {
		switch {
		case len(b.desc.extents) > 1 || e.kind != "SPARSE":
			return fmt.Errorf("the descriptor inside a sparse file describes more than that file: %w", disk.ErrCorrupt)
		case strings.ContainsAny(e.name, `/\`):
			return fmt.Errorf("the descriptor inside a sparse file names %.120q: %w", e.name, disk.ErrEscape)
		case max(e.sectors, h.capacity)-min(e.sectors, h.capacity) >= h.grain:
			return fmt.Errorf("header and descriptor state sizes of %d and %d sectors: %w", h.capacity, e.sectors, disk.ErrCorrupt)
		}
	}
	if b.desc.createType == "" {
		b.desc.createType = "monolithicSparse"
		if h.packed {
			b.desc.createType = "streamOptimized"
		}
	}
	return b.addSparse(b.im.files[0], h, size)
}

// described opens the extents that a text descriptor names.
func (b *builder) described() error {
	switch {
	case b.desc.createType == "":
		return fmt.Errorf("descriptor does not say what type the disk is of: %w", disk.ErrCorrupt)
	case len(b.desc.extents) == 0:
		return fmt.Errorf("descriptor names no extents: %w", disk.ErrCorrupt)
	}
	for i, e := range b.desc.extents {
		if err := b.addExtent(e); err != nil {
			return fmt.Errorf("extent %d: %w", i+1, err)
		}
	}
	return nil
}

func (b *builder) addExtent(e extentLine) error {
	size := e.sectors * sector
	if e.kind == "ZERO" {
		return b.add(zeros{b.im.size}, size)
	}
	if e.access == "NOACCESS" {
		return fmt.Errorf("%q may not be accessed: %w", e.name, disk.ErrUnsupported)
	}
	var read func(*disk.File) (*header, error)
	switch e.kind {
	case "FLAT", "VMFS":
		f, err := b.part(e.name, true)
		if err != nil {
			return err
		}
		at := e.offset * sector
		if at > f.Size() || size > f.Size()-at {
			return fmt.Errorf("%s has %d bytes where %d from byte %d on are needed: %w", f.Name(), f.Size(), size, at, disk.ErrCorrupt)
		}
		return b.add(flat{f, at, b.im.size}, size)
	case "SPARSE":
		read = readHosted
	case "VMFSSPARSE":
		read = readCOWD
	default:
		return fmt.Errorf("%q is of type %.40q: %w", e.name, e.kind, disk.ErrUnsupported)
	}
	f, err := b.part(e.name, false)
	if err != nil {
		return err
	}
	h, err := read(f)
	if err != nil {
		if errors.Is(err, disk.ErrFormat) {
			err = fmt.Errorf("not the %s extent the descriptor says it is: %w", e.kind, disk.ErrCorrupt)
		}
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	// A capacity may be rounded up to whole grains.
	if h.capacity < e.sectors || h.capacity-e.sectors >= h.grain {
		return fmt.Errorf("%s holds %d sectors where the descriptor says %d: %w", f.Name(), h.capacity, e.sectors, disk.ErrCorrupt)
	}
	if e.offset != 0 {
		return fmt.Errorf("%s: offset in a sparse extent: %w", f.Name(), disk.ErrCorrupt)
	}
	if err := b.addSparse(f, h, size); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	return nil
}

// part opens the extent file name. Several flat extents may lie in one file,
// which is opened once; a sparse file is one extent, the descriptor none.
func (b *builder) part(name string, shared bool) (*disk.File, error) {
	var first error
	for _, try := range b.desc.names(name) {
		f, err := b.env.Part(b.im.files[0].Name(), try)
		switch {
		case errors.Is(err, disk.ErrMissing):
			if first == nil {
				first = err
			}
			continue
		case err != nil:
			return nil, err
		}
		if was := b.named[f.Name()]; was != nil {
			_ = f.Close() // a second handle of a file that stays open
			if !shared || was == b.im.files[0] {
				return nil, fmt.Errorf("%s is named twice: %w", was.Name(), disk.ErrCorrupt)
			}
			return was, nil
		}
		b.named[f.Name()] = f
		b.im.files = append(b.im.files, f)
		return f, nil
	}
	return nil, first
}

func (b *builder) addSparse(f *disk.File, h *header, size int64) error {
	s, note, err := newSparse(f, h, size, &b.budget)
	if err != nil {
		return err
	}
	if note != "" {
		b.notes = append(b.notes, note)
	}
	if h.dirty {
		b.notes = append(b.notes, f.Name()+": the disk was in use or its host crashed when this copy was made; its tables are read as they are")
	}
	s.base = b.im.size
	b.sparse = append(b.sparse, s)
	return b.add(s, size)
}

func (b *builder) add(s section, size int64) error {
	im := b.im
	if size > disk.MaxSize-im.size {
		return fmt.Errorf("the disk is larger than the limit of %d bytes: %w", int64(disk.MaxSize), disk.ErrUnsupported)
	}
	im.sections = append(im.sections, s)
	im.starts = append(im.starts, im.size)
	im.size += size
	return nil
}

// finish opens the parent, makes the caches and fills the info.
func (b *builder) finish() error {
	im, d := b.im, b.desc
	im.cid, im.hasCID = d.cid, d.hasCID
	im.info = disk.Info{
		Format:    "vmdk",
		Subformat: d.createType,
		Size:      im.size,
		Allocated: -1,
		Chain:     []disk.Layer{{Path: im.files[0].Name(), Format: "vmdk", Size: im.size, Modified: im.files[0].Modified(), Reference: d.parentHint}},
		Notes:     b.notes,
	}
	for _, f := range im.files {
		im.info.FileBytes += f.Size()
	}
	if err := b.openParent(); err != nil {
		return err
	}
	var tables, tableBytes, grainBytes int64
	for _, s := range b.sparse {
		s.firstTable = tables
		tables += int64(len(s.gd))
		tableBytes = max(tableBytes, s.tableBytes)
		if s.h.packed {
			grainBytes = max(grainBytes, s.grainBytes)
			im.info.Compressed = true
		}
		im.info.Cluster = max(im.info.Cluster, s.grainBytes)
	}
	cache := newTableCache(tables, tableBytes)
	var kept *grainCache
	if grainBytes > 0 {
		kept = newGrainCache(grainBytes)
	}
	for _, s := range b.sparse {
		s.tables, s.kept, s.parent = cache, kept, im.parent
	}
	return nil
}

// openParent opens the disk that this one holds the differences from. Where no
// grain can be missing, as in flat extents, the parent is not needed.
func (b *builder) openParent() error {
	im, d := b.im, b.desc
	switch {
	case d.parentCID == noParent && d.parentHint == "":
		return nil
	case len(b.sparse) == 0:
		im.info.Notes = append(im.info.Notes, fmt.Sprintf("the parent %.200q is not needed: every extent is whole", d.parentHint))
		return nil
	case d.parentCID == noParent:
		return fmt.Errorf("descriptor names a parent, %.200q, and states that there is none: %w", d.parentHint, disk.ErrCorrupt)
	case d.parentHint == "":
		return fmt.Errorf("descriptor states that there is a parent, of content ID %08x, and does not name it: %w", d.parentCID, disk.ErrCorrupt)
	}
	from := im.files[0].Name()
	parent, _, err := backing.Open(b.env, from, d.names(d.parentHint), "vmdk", func(f *disk.File) error {
		p, _, err := describe(f)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		return d.isParent(f.Name(), p.cid, p.hasCID)
	})
	if err != nil {
		return fmt.Errorf("cannot open the parent disk: %w", err)
	}
	im.parent = parent
	info := parent.Info()
	p, ok := parent.(*image)
	if !ok {
		return fmt.Errorf("parent %s was not opened as a VMDK: %w", info.Chain[0].Path, disk.ErrFormat)
	}
	// Once more: the file may have been replaced between the two looks at it.
	if err := d.isParent(p.files[0].Name(), p.cid, p.hasCID); err != nil {
		return err
	}
	im.info.FileBytes += info.FileBytes
	im.info.Chain = append(im.info.Chain, info.Chain...)
	im.info.Notes = append(im.info.Notes, info.Notes...)
	im.info.Compressed = info.Compressed
	return nil
}

// isParent checks that the disk name, of content ID cid, is in the state in
// which it was when this one's differences began (Virtual Disk Format 5.0, "The
// Descriptor File": a parent that is written to gets another ID).
func (d *descriptor) isParent(name string, cid uint32, stated bool) error {
	switch {
	case !stated:
		return fmt.Errorf("%s states no content ID, so that nothing tells whether it is the parent: %w", name, disk.ErrCorrupt)
	case cid != d.parentCID:
		return fmt.Errorf("%s is not the parent, or was changed since: its content ID is %08x, not %08x: %w", name, cid, d.parentCID, disk.ErrCorrupt)
	}
	return nil
}
