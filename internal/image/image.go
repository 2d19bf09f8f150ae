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

// Segment is a run of the target file.
type Segment struct {
	Off, Len int64 // in the target file
	Kind     Kind
	DiskOff  int64 // for Data: where on the disk the run starts
}

// File is a target file that is computed on demand. All methods are safe for
// concurrent use. A section list describes it; see section.
type File struct {
	src      Source
	format   Format
	size     int64
	sections []section
}

// section is a run of the file made by one rule. Sections are contiguous and
// ascending; together they cover the file.
type section struct {
	off, len int64
	// fill computes bytes [off, off+len(p)) of the section, off relative to the
	// section's start. p is zeroed. Nil for data and zero sections.
	fill func(p []byte, off int64)
	// empty tells, for generated tables, how many bytes from off are surely zero
	// (0: not known to be zero), so that sparse tables need not be sent. May be nil.
	empty func(off int64) int64
	data  *blocks
}

// blocks describes a run of target blocks of one stride, the i-th of which
// holds the i-th allocated block of a coarse map:
// [head bytes of metadata][block bytes of the disk][zeros up to stride].
type blocks struct {
	m      *disk.Map                        // at the target's block granularity
	block  int64                            // bytes of the disk in each
	head   int64                            // bytes of metadata before the data in each
	stride int64                            // head + block + padding
	fill   func(p []byte, block, off int64) // generates the head; block is the disk's block number
	// identity: the file's offset is the disk's offset (raw); m is not used for placement.
	identity bool
}

// Size is the exact length of the target file in bytes.
func (f *File) Size() int64 { return f.size }

// Format is what the file was made as.
func (f *File) Format() Format { return f.format }

// Source is the disk the file is made of.
func (f *File) Source() Source { return f.src }

// ReadAt computes bytes of the file; see io.ReaderAt. The disk is read only
// where the map says that there is data.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= f.size {
		return 0, io.EOF
	}
	n := len(p)
	if rest := f.size - off; int64(n) > rest {
		n = int(rest)
	}
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

// Fill computes one segment into p, which is as long as the segment.
func (f *File) Fill(p []byte, s Segment) error {
	switch s.Kind {
	case Zero:
		clear(p)
		return nil
	case Data:
		n, err := f.src.Disk.ReadAt(p, s.DiskOff)
		if n < len(p) && (err == nil || errors.Is(err, io.EOF)) {
			if s.DiskOff+int64(n) < f.src.Size() {
				return fmt.Errorf("cannot read disk at offset %d: %w", s.DiskOff+int64(n), io.ErrUnexpectedEOF)
			}
			clear(p[n:]) // a last block that ends after the disk does
			return nil
		}
		if n == len(p) {
			return nil
		}
		return fmt.Errorf("cannot read disk at offset %d: %w", s.DiskOff, err)
	}
	clear(p)
	i := f.find(s.Off)
	sec := &f.sections[i]
	rel := s.Off - sec.off
	if sec.data != nil {
		d := sec.data
		b := d.m.Select(rel / d.stride)
		d.fill(p, b, rel%d.stride)
		return nil
	}
	sec.fill(p, rel)
	return nil
}

func (f *File) find(off int64) int {
	return sort.Search(len(f.sections), func(i int) bool { return f.sections[i].off+f.sections[i].len > off })
}

// Segments yields the segments that cover [off, off+n) exactly, ascending,
// cut to the range; n beyond the end is cut. Neighbours may be of one kind. It
// reads nothing of the disk. It stops at yield's first error and returns it.
func (f *File) Segments(off, n int64, yield func(Segment) error) error {
	end := min(off+n, f.size)
	for i := f.find(off); i < len(f.sections) && off < end; i++ {
		sec := &f.sections[i]
		stop := min(end, sec.off+sec.len)
		var err error
		switch {
		case sec.data != nil && sec.data.identity:
			err = f.runs(off, off-sec.off, stop-off, yield)
		case sec.data != nil:
			err = f.blockSegments(sec, off, stop, yield)
		case sec.fill == nil:
			err = yield(Segment{Off: off, Len: stop - off, Kind: Zero})
		default:
			err = tableSegments(sec, off, stop, yield)
		}
		if err != nil {
			return err
		}
		off = stop
	}
	return nil
}

// runs yields the disk range [diskOff, diskOff+n) by what the fine map says.
func (f *File) runs(off, diskOff, n int64, yield func(Segment) error) error {
	m := f.src.Map
	for n > 0 {
		if diskOff >= m.Size() {
			return yield(Segment{Off: off, Len: n, Kind: Zero})
		}
		leaf := diskOff / disk.LeafSize
		count, data := m.Run(leaf, (diskOff+n-1)/disk.LeafSize-leaf+1)
		l := min((leaf+count)*disk.LeafSize-diskOff, n, m.Size()-diskOff)
		s := Segment{Off: off, Len: l, Kind: Zero}
		if data {
			s.Kind, s.DiskOff = Data, diskOff
		}
		if err := yield(s); err != nil {
			return err
		}
		off, diskOff, n = off+l, diskOff+l, n-l
	}
	return nil
}

func (f *File) blockSegments(sec *section, off, stop int64, yield func(Segment) error) error {
	d := sec.data
	for off < stop {
		i, in := (off-sec.off)/d.stride, (off-sec.off)%d.stride
		b := d.m.Select(i)
		base := off - in
		if in < d.head {
			l := min(base+d.head, stop) - off
			if err := yield(Segment{Off: off, Len: l, Kind: Meta}); err != nil {
				return err
			}
			off += l
			in += l
		}
		if in < d.head+d.block && off < stop {
			l := min(base+d.head+d.block, stop) - off
			if d.head == 0 && d.stride == d.block {
				// Allocated neighbours on the disk are neighbours in the file.
				if more := stop - off - l; more > 0 {
					n, _ := d.m.Run(b, more/d.block+2)
					l = min(l+(n-1)*d.block, stop-off)
				}
			}
			if err := f.runs(off, b*d.block+in-d.head, l, yield); err != nil {
				return err
			}
			off += l
			in += l
		}
		if pad := min(base+d.stride, stop) - off; pad > 0 && d.stride > d.head+d.block {
			if err := yield(Segment{Off: off, Len: pad, Kind: Zero}); err != nil {
				return err
			}
			off += pad
		}
	}
	return nil
}

func tableSegments(sec *section, off, stop int64, yield func(Segment) error) error {
	const step = disk.LeafSize
	for off < stop {
		s := Segment{Off: off, Len: stop - off, Kind: Meta}
		if sec.empty != nil {
			if z := sec.empty(off - sec.off); z > 0 {
				s.Kind, s.Len = Zero, min(z, stop-off)
			} else {
				s.Len = min(step-(off-sec.off)%step, stop-off)
			}
		}
		if err := yield(s); err != nil {
			return err
		}
		off += s.Len
	}
	return nil
}

// builder puts a file's sections together in ascending order.
type builder struct {
	off      int64
	sections []section
}

func (b *builder) add(s section) {
	if s.len <= 0 {
		return
	}
	s.off = b.off
	b.off += s.len
	b.sections = append(b.sections, s)
}

// zero adds zeros up to the file offset end.
func (b *builder) zero(end int64) { b.add(section{len: end - b.off}) }

// bytes adds literal bytes.
func (b *builder) bytes(p []byte) {
	b.add(section{len: int64(len(p)), fill: func(q []byte, off int64) { copy(q, p[off:]) }})
}

func (b *builder) file(src Source, format Format) *File {
	return &File{src: src, format: format, size: b.off, sections: b.sections}
}
