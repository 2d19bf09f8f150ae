package image

import (
	"errors"
	"fmt"
	"io"

	"ascend/internal/disk"
)

// Patch is a run of the disk whose content Pad changed; for the receipt.
type Patch struct {
	Off int64  `json:"off"` // on the disk, bytes
	Len int64  `json:"len"`
	Why string `json:"why"`
}

// patch is a Patch and its bytes.
type patch struct {
	Patch
	data []byte
}

// Padded is a disk rounded up to an alignment.
type Padded struct {
	Source
	// Patches lists what is not as on the original disk, ascending and without
	// overlap. What was added besides is zeros.
	Patches []Patch
	// Note says, for people, why a partition table was left as it is although
	// the disk's end moved; empty otherwise.
	Note string
}

// Pad rounds the disk's size up to a multiple of align bytes with zeros. When
// that moves the end of a disk that has a valid GUID partition table with its
// backup at the end, the backup is put at the new end and everything that names
// its place is adapted; a table that is damaged, or whose backup is elsewhere,
// is left alone. An align of 0 or 1 changes nothing, and so does a size that is
// a multiple already. It reads the partition table only. The new source reads
// from src, which must stay open.
func Pad(src Source, align int64) (*Padded, error) {
	old := src.Size()
	switch {
	case align < 0 || align > disk.MaxSize:
		return nil, fmt.Errorf("cannot pad a disk to a multiple of %d bytes", align)
	case align <= 1 || old%align == 0:
		return &Padded{Source: src}, nil
	}
	size := roundUp(old, align)
	if size > disk.MaxSize {
		return nil, fmt.Errorf("cannot pad a disk of %d bytes to a multiple of %d: the largest disk has %d", old, align, int64(disk.MaxSize))
	}
	d := &paddedDisk{disk: src.Disk, old: old, size: size}
	p := &Padded{}
	g, err := readGPT(src.Disk, old)
	switch {
	case errors.Is(err, errNoGPT):
	case errors.Is(err, errGPT):
		p.Note = fmt.Sprintf("the partition table was left as it is: %v", err)
	case err != nil:
		return nil, fmt.Errorf("cannot read the partition table: %w", err)
	case !g.movable(size):
		p.Note = "the partition table was left as it is: there is no room for its backup after the usable sectors"
	default:
		d.patches = g.move(size)
	}
	m := disk.NewMap(size, disk.LeafSize)
	allocatedRuns(src.Map, 0, src.Map.Len(), func(b, n, _ int64) { m.Add(b*disk.LeafSize, n*disk.LeafSize) })
	for _, q := range d.patches {
		p.Patches = append(p.Patches, q.Patch)
		m.Add(q.Off, q.Len)
	}
	p.Source = Source{Disk: d, Map: m.Seal()}
	return p, nil
}

// paddedDisk is a disk with zeros after its end and patches over it. It is safe
// for concurrent use if the disk is.
type paddedDisk struct {
	disk    io.ReaderAt
	old     int64 // size of the disk
	size    int64
	patches []patch
}

// ReadAt follows io.ReaderAt.
func (d *paddedDisk) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errNegative
	}
	if off >= d.size {
		return 0, io.EOF
	}
	end := error(nil)
	if rest := d.size - off; int64(len(p)) > rest {
		p, end = p[:rest], io.EOF
	}
	n := int(min(max(d.old-off, 0), int64(len(p))))
	if n > 0 {
		if k, err := d.disk.ReadAt(p[:n], off); k < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return k, err
		}
	}
	clear(p[n:])
	for _, q := range d.patches {
		from, to := max(q.Off, off), min(q.Off+q.Len, off+int64(len(p)))
		if from < to {
			copy(p[from-off:to-off], q.data[from-q.Off:])
		}
	}
	return len(p), end
}
