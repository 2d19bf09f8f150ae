package vhd

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"

	"ascend/internal/disk"
)

// Disk types ("Hard Disk Footer Format", Disk Type).
const (
	typeFixed        = 2
	typeDynamic      = 3
	typeDifferencing = 4
)

const (
	sectorSize = 512
	footerSize = 512
	// oldFooterSize is the length of the footer in images made before Virtual PC
	// 2004 ("Hard Disk Footer Format": "if the footer is 511 bytes").
	oldFooterSize = 511
	formatVersion = 0x00010000
	// maxGeometry is the largest disk, in sectors, that the footer's geometry can
	// express ("Appendix: CHS Calculation"); it stands for "too large for CHS".
	maxGeometry = 65535 * 16 * 255
)

var cookie = []byte("conectix")

// uid is the identifier of an image, 16 bytes as they are stored. It is only
// compared and shown.
type uid [16]byte

func (u uid) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// footer is the hard disk footer ("Hard Disk Footer Format"). All numbers in
// the file are big-endian.
type footer struct {
	dataOffset uint64  // of the dynamic disk header, bytes
	creator    [4]byte // creator application
	size       int64   // current size, bytes
	geometry   int64   // cylinders × heads × sectors, in sectors
	kind       uint32
	id         uid
	saved      bool // the machine was in saved state
}

// parseFooter reads a footer of 511 or 512 bytes whose cookie is known to be
// there.
func parseFooter(p []byte) (footer, error) {
	if sum, want := checksum(p, 64), binary.BigEndian.Uint32(p[64:]); sum != want {
		return footer{}, fmt.Errorf("footer has checksum %08x and states %08x: %w", sum, want, disk.ErrCorrupt)
	}
	if v := binary.BigEndian.Uint32(p[12:]); v != formatVersion {
		return footer{}, fmt.Errorf("VHD version %d.%d: %w", v>>16, v&0xffff, disk.ErrUnsupported)
	}
	size := binary.BigEndian.Uint64(p[48:])
	if size > disk.MaxSize {
		return footer{}, fmt.Errorf("virtual size of %d bytes is above the limit of %d: %w", size, int64(disk.MaxSize), disk.ErrUnsupported)
	}
	if size%sectorSize != 0 {
		return footer{}, fmt.Errorf("virtual size of %d bytes is no multiple of %d: %w", size, sectorSize, disk.ErrCorrupt)
	}
	f := footer{
		dataOffset: binary.BigEndian.Uint64(p[16:]),
		creator:    [4]byte(p[28:32]),
		size:       int64(size),
		geometry:   int64(binary.BigEndian.Uint16(p[56:])) * int64(p[58]) * int64(p[59]),
		kind:       binary.BigEndian.Uint32(p[60:]),
		id:         uid(p[68:84]),
		saved:      p[84] != 0,
	}
	if f.kind < typeFixed || f.kind > typeDifferencing {
		return footer{}, fmt.Errorf("disk type %d: %w", f.kind, disk.ErrUnsupported)
	}
	return f, nil
}

// checksum is the one's complement of the sum of all bytes but the checksum's
// own four at offset at ("Hard Disk Footer Format", Checksum).
func checksum(p []byte, at int) uint32 {
	var sum uint32
	for i, b := range p {
		if i < at || i >= at+4 {
			sum += uint32(b)
		}
	}
	return ^sum
}

// found is a footer and where it was.
type found struct {
	footer
	// end is where the blocks must end: at the footer, or at the end of the file
	// when there is no good footer.
	end   int64
	notes []string
}

// findFooter reads the footer at the end of the file. Dynamic and differencing
// images have a copy of it at offset 0, which stands in when the one at the end
// is damaged or gone. A fixed image has its data there, so what looks like a
// footer at 0 is then the guest's and must not be believed.
func findFooter(f *disk.File) (found, error) {
	var none found
	if f.Size() < oldFooterSize {
		return none, fmt.Errorf("%s: too short for a VHD footer: %w", f.Name(), disk.ErrFormat)
	}
	tail := make([]byte, min(footerSize, f.Size()))
	if err := f.ReadFull(tail, f.Size()-int64(len(tail))); err != nil {
		return none, err
	}
	var damaged error
	for _, n := range []int{footerSize, oldFooterSize} {
		p := tail[max(len(tail)-n, 0):]
		if len(p) < n || !bytes.HasPrefix(p, cookie) {
			continue
		}
		foot, err := parseFooter(p)
		if err == nil {
			return found{footer: foot, end: f.Size() - int64(n)}, nil
		}
		if !errors.Is(err, disk.ErrCorrupt) {
			return none, fmt.Errorf("%s: %w", f.Name(), err)
		}
		damaged = err
	}
	head := make([]byte, footerSize)
	if f.Size() < footerSize {
		return none, fmt.Errorf("%s: no VHD footer: %w", f.Name(), cmp.Or(damaged, disk.ErrFormat))
	}
	if err := f.ReadFull(head, 0); err != nil {
		return none, err
	}
	if !bytes.HasPrefix(head, cookie) {
		return none, fmt.Errorf("%s: no VHD footer: %w", f.Name(), cmp.Or(damaged, disk.ErrFormat))
	}
	foot, err := parseFooter(head)
	switch {
	case err != nil:
		return none, fmt.Errorf("%s: footer at the end is missing or damaged, and so is its copy at the start: %w", f.Name(), err)
	case foot.kind == typeFixed:
		return none, fmt.Errorf("%s: a fixed VHD without a good footer at its end: %w", f.Name(), disk.ErrCorrupt)
	}
	return found{
		footer: foot,
		end:    f.Size(),
		notes:  []string{f.Name() + ": the footer at the end is missing or damaged (an incomplete copy?); its copy at the start was used"},
	}, nil
}

// diskSize decides how large the guest's disk is, in bytes, for a dynamic or
// differencing image that has room for room bytes.
//
// The footer says it twice: as current size, and as geometry, which by the
// specification's algorithm is rounded down to whole cylinders. Hyper-V
// ("win "), Azure ("wa\0\0"), Disk2vhd ("d2v "), XenServer ("tap\0",
// "CTXS"), VirtualBox ("vbox") and QEMU when it says "qem2" mean the current
// size. Virtual PC ("vpc ") showed its guest the geometry only, so that up to a
// cylinder at the end was never used there; QEMU follows that and cuts such a
// disk. It is not cut here: Hyper-V, Windows and everything else that took over
// Virtual PC's images show the current size whatever the creator, so there may
// be data of the guest (a backup GPT, the end of a partition) in that cylinder,
// and where there is none a disk larger by 2 MiB of zeros harms nobody.
//
// Where the geometry is the larger one and the creator is "qemu", it is taken:
// QEMU gives the guest the geometry of such an image, so the guest's data may
// lie beyond the current size.
func (f footer) diskSize(room int64) int64 {
	chs := f.geometry * sectorSize
	if string(f.creator[:]) == "qemu" && chs > f.size && f.geometry < maxGeometry && chs <= room {
		return chs
	}
	return f.size
}
