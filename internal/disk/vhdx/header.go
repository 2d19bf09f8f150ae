package vhdx

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"

	"ascend/internal/disk"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	// headerSection is what the file identifier, the headers and the region tables
	// take ([MS-VHDX] 2.2); nothing else may lie there.
	headerSection = mib
	// maxFile bounds the file: 64 TiB of payload, the format's limit ([MS-VHDX]
	// 2.6.2.2), and as much again.
	maxFile = 2 * disk.MaxSize
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crcOf is the CRC-32C of p with the checksum field, four bytes at offset 4,
// taken as zero, as all checked structures have it.
func crcOf(p []byte) uint32 {
	c := crc32.Update(0, castagnoli, p[:4])
	c = crc32.Update(c, castagnoli, make([]byte, 4))
	return crc32.Update(c, castagnoli, p[8:])
}

// header is the current header ([MS-VHDX] 2.2.2).
type header struct {
	sequence  uint64
	dataWrite guid // identifies the guest-visible content
	logGUID   guid // zero: nothing to replay
	logOffset int64
	logLength int64
	notes     []string
}

// checkIdentifier tells whether f starts with the file type identifier
// ([MS-VHDX] 2.2.1).
func checkIdentifier(f *disk.File) error {
	p := make([]byte, 8)
	if f.Size() < int64(len(p)) {
		return fmt.Errorf("%s: too short for a VHDX: %w", f.Name(), disk.ErrFormat)
	}
	if err := f.ReadFull(p, 0); err != nil {
		return err
	}
	if string(p) != "vhdxfile" {
		return fmt.Errorf("%s: no VHDX signature: %w", f.Name(), disk.ErrFormat)
	}
	return nil
}

// readHeader reads both headers and returns the current one: the valid one with
// the higher sequence number ([MS-VHDX] 2.2.2). Two valid headers of one number
// must be the same.
func readHeader(f *disk.File) (header, error) {
	if f.Size() < headerSection {
		return header{}, fmt.Errorf("%s: %d bytes, too short for a VHDX's headers (an incomplete copy?): %w", f.Name(), f.Size(), disk.ErrCorrupt)
	}
	if f.Size() > maxFile {
		return header{}, fmt.Errorf("%s: file of %d bytes, more than %d: %w", f.Name(), f.Size(), int64(maxFile), disk.ErrUnsupported)
	}
	var valid [][]byte
	var notes []string
	for i, off := range []int64{64 * kib, 128 * kib} {
		p := make([]byte, 4*kib)
		if err := f.ReadFull(p, off); err != nil {
			return header{}, err
		}
		if string(p[:4]) == "head" && crcOf(p) == binary.LittleEndian.Uint32(p[4:]) {
			valid = append(valid, p)
		} else {
			notes = append(notes, fmt.Sprintf("%s: header %d of 2 is damaged; the other was used", f.Name(), i+1))
		}
	}
	sequence := func(p []byte) uint64 { return binary.LittleEndian.Uint64(p[8:]) }
	switch {
	case len(valid) == 0:
		return header{}, fmt.Errorf("%s: neither header is valid: %w", f.Name(), disk.ErrCorrupt)
	case len(valid) == 2 && sequence(valid[0]) < sequence(valid[1]):
		valid[0] = valid[1]
	case len(valid) == 2 && sequence(valid[0]) == sequence(valid[1]) && !bytes.Equal(valid[0], valid[1]):
		return header{}, fmt.Errorf("%s: two different headers of sequence number %d: %w", f.Name(), sequence(valid[0]), disk.ErrCorrupt)
	}
	p := valid[0]
	le := binary.LittleEndian
	if v := le.Uint16(p[66:]); v != 1 {
		return header{}, fmt.Errorf("%s: VHDX version %d: %w", f.Name(), v, disk.ErrUnsupported)
	}
	h := header{
		sequence:  sequence(p),
		dataWrite: guid(p[32:48]),
		logGUID:   guid(p[48:64]),
		logLength: int64(le.Uint32(p[68:])),
		notes:     notes,
	}
	if v := le.Uint16(p[64:]); v != 0 && h.logGUID != (guid{}) {
		return header{}, fmt.Errorf("%s: log version %d: %w", f.Name(), v, disk.ErrUnsupported)
	}
	off := le.Uint64(p[72:])
	if h.logLength == 0 && h.logGUID == (guid{}) {
		return h, nil
	}
	if h.logLength == 0 || h.logLength%mib != 0 || off%mib != 0 || off < headerSection || off > uint64(f.Size()) || uint64(f.Size())-off < uint64(h.logLength) {
		return header{}, fmt.Errorf("%s: log of %d bytes at offset %d in a file of %d: %w", f.Name(), h.logLength, off, f.Size(), disk.ErrCorrupt)
	}
	h.logOffset = int64(off)
	return h, nil
}

// region is an area of the file that a structure takes, in bytes.
type region struct {
	name     string
	off, len int64
}

// regions are the areas that the region table names, and all that is taken.
type regions struct {
	bat, metadata region
	all           []region // with the header section and the log, ascending
	notes         []string
}

var (
	batRegion      = known("2DC27766-F623-4200-9D64-115E9BFD4A08")
	metadataRegion = known("8B7CA206-4790-4B9A-B8FE-575F050F886E")
)

const maxRegions = 2047 // [MS-VHDX] 2.2.3.1

// readRegions reads the region table, through the replayed log as all updates
// to it go there ([MS-VHDX] 2.2.3). The second copy stands in for a damaged
// first.
func readRegions(v *view, h header) (regions, error) {
	var r regions
	var table []byte
	for i, off := range []int64{192 * kib, 256 * kib} {
		p := make([]byte, 64*kib)
		if err := v.ReadFull(p, off); err != nil {
			return r, err
		}
		switch {
		case string(p[:4]) != "regi" || crcOf(p) != binary.LittleEndian.Uint32(p[4:]):
			r.notes = append(r.notes, fmt.Sprintf("%s: region table %d of 2 is damaged; the other was used", v.f.Name(), i+1))
		case table == nil:
			table = p
		}
	}
	corrupt := func(format string, args ...any) (regions, error) {
		return regions{}, fmt.Errorf("%s: %s: %w", v.f.Name(), fmt.Sprintf(format, args...), disk.ErrCorrupt)
	}
	if table == nil {
		return corrupt("neither region table is valid")
	}
	le := binary.LittleEndian
	n := le.Uint32(table[8:])
	if n > maxRegions {
		return corrupt("region table of %d entries", n)
	}
	r.all = []region{{"the headers", 0, headerSection}}
	if h.logLength > 0 {
		r.all = append(r.all, region{"the log", h.logOffset, h.logLength})
	}
	seen := make(map[guid]bool, n)
	for i := range int(n) {
		e := table[16+32*i:]
		id := guid(e[:16])
		if seen[id] {
			return corrupt("region %v is named twice", id)
		}
		seen[id] = true
		off, length := le.Uint64(e[16:]), int64(le.Uint32(e[24:]))
		if off%mib != 0 || length%mib != 0 || length == 0 || off > uint64(v.size) || uint64(v.size)-off < uint64(length) {
			return corrupt("region %v of %d bytes at offset %d in a file of %d (an incomplete copy?)", id, length, off, v.size)
		}
		at := region{"region " + id.String(), int64(off), length}
		switch {
		case id == batRegion:
			at.name = "the block allocation table"
			r.bat = at
		case id == metadataRegion:
			at.name = "the metadata"
			r.metadata = at
		case le.Uint32(e[28:])&1 != 0:
			return regions{}, fmt.Errorf("%s: required region %v is unknown: %w", v.f.Name(), id, disk.ErrUnsupported)
		}
		r.all = append(r.all, at)
	}
	if r.bat.len == 0 || r.metadata.len == 0 {
		return corrupt("region table without a block allocation table or metadata")
	}
	slices.SortFunc(r.all, func(a, b region) int { return cmp.Compare(a.off, b.off) })
	for i := 1; i < len(r.all); i++ {
		if a, b := r.all[i-1], r.all[i]; a.off+a.len > b.off {
			return corrupt("%s and %s overlap at offset %d", a.name, b.name, b.off)
		}
	}
	return r, nil
}
