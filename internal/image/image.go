// Package image computes target files: each is a pure function of a disk, its
// map of allocated blocks and the options, so that its exact size is known
// before a byte is read and any range of it can be computed at any time, in any
// order, by many goroutines (File). Formats whose layout depends on compressed
// sizes are ordered streams, resumable at a checkpoint (Stream).
//
// The same disk, map and options give the same bytes, always.
package image

import (
	"errors"
	"fmt"
	"io"
	"sort"

	"ascend/internal/disk"
)

// Source is the logical disk that an image is made of. Map must be sealed, of
// granularity disk.LeafSize and of the disk's size.
type Source struct {
	Disk io.ReaderAt
	Map  *disk.Map
}

// Size is the disk's virtual size in bytes.
func (s Source) Size() int64 { return s.Map.Size() }

// Kind says what a run of a target file consists of.
type Kind uint8

// Kinds of segments.
const (
	Zero Kind = iota // reads as zeros; need not be sent to a clean target
	Meta             // computed: headers, tables, bitmaps
	Data             // a copy of a run of the disk
)

// Segment is a run of the target file. A Data segment never ends inside a leaf
// of the disk (disk.LeafSize) unless the range asked for, or the disk, ends
// there; only streamOptimized+stored VMDK cuts each leaf into halves.
type Segment struct {
	Off, Len int64 // in the target file
	Kind     Kind
	DiskOff  int64 // for Data: where on the disk the run starts
}

// File is a target file that is computed on demand. All methods are safe for
// concurrent use; memory does not grow with the file.
type File struct {
	src      Source
	format   Format
	size     int64
	sections []section
	// seen, when not nil, is shown every Data segment that was read.
	seen func(p []byte, s Segment)
}

// Size is the exact length of the target file in bytes.
func (f *File) Size() int64 { return f.size }

// Format is what the file was made as, with the defaults filled in.
func (f *File) Format() Format { return f.format }

// Source is the disk the file is made of.
func (f *File) Source() Source { return f.src }

// ReadAt computes bytes of the file; see io.ReaderAt. The disk is read only
// where the map says that there is data.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	if off >= f.size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), f.size-off))
	err := f.Segments(off, int64(n), func(s Segment) error {
		return f.Fill(p[s.Off-off:s.Off-off+s.Len], s)
	})
	if err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

var errNegative = errors.New("cannot read target file: negative offset")

// Fill computes one segment into p, which is as long as the segment. The
// segment is one that Segments yielded, or a part of one.
func (f *File) Fill(p []byte, s Segment) error {
	switch s.Kind {
	case Zero:
		clear(p)
		return nil
	case Data:
		if err := f.readDisk(p, s.DiskOff); err != nil {
			return err
		}
		if f.seen != nil {
			f.seen(p, s)
		}
		return nil
	}
	clear(p)
	sec := &f.sections[f.find(s.Off)]
	return sec.rule.fill(f, p, s.Off-sec.off)
}

// readDisk fills p from the disk. Bytes beyond the disk's end are zeros.
func (f *File) readDisk(p []byte, off int64) error {
	if rest := max(f.src.Size()-off, 0); int64(len(p)) > rest {
		clear(p[rest:])
		p = p[:rest]
	}
	n, err := f.src.Disk.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("cannot read disk at offset %d: %w", off+int64(n), err)
}

// find is the index of the section that file offset off lies in.
func (f *File) find(off int64) int {
	return sort.Search(len(f.sections), func(i int) bool { return f.sections[i].off+f.sections[i].len > off })
}

// Segments yields the segments that cover [off, off+n) exactly, ascending,
// cut to the range; n beyond the end is cut. Neighbours may be of one kind. It
// reads nothing of the disk. It stops at yield's first error and returns it.
func (f *File) Segments(off, n int64, yield func(Segment) error) error {
	if off < 0 || n < 0 {
		return errNegative
	}
	if off >= f.size {
		return nil
	}
	end := off + min(n, f.size-off)
	for i := f.find(off); off < end; i++ {
		sec := &f.sections[i]
		stop := min(end, sec.off+sec.len)
		if err := sec.rule.segments(f, off, off-sec.off, stop-off, yield); err != nil {
			return err
		}
		off = stop
	}
	return nil
}

// section is a run of the file made by one rule. Sections are contiguous and
// ascending; together they cover the file.
type section struct {
	off, len int64
	rule     rule
}

// builder puts a file's sections together in ascending order.
type builder struct {
	off      int64
	sections []section
}

// add appends n bytes made by r.
func (b *builder) add(n int64, r rule) {
	if n <= 0 {
		return
	}
	b.sections = append(b.sections, section{off: b.off, len: n, rule: r})
	b.off += n
}

// zero adds zeros up to the file offset end.
func (b *builder) zero(end int64) { b.add(end-b.off, zeros{}) }

// bytes adds literal bytes.
func (b *builder) bytes(p []byte) { b.add(int64(len(p)), literal(p)) }

func (b *builder) file(src Source, format Format) *File {
	return &File{src: src, format: format, size: b.off, sections: b.sections}
}
