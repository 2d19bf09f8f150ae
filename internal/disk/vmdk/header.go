package vmdk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"

	"ascend/internal/disk"
)

// sector is the unit of every offset and size in the format, in bytes
// (Virtual Disk Format 5.0, "Layout Basics").
const sector = 512

const (
	// Flags of the sparse header (Virtual Disk Format 5.0, "Hosted Sparse Extents").
	flagNewlines  = 1 << 0 // the newline test bytes are valid
	flagRedundant = 1 << 1 // the redundant grain directory is valid
	flagZeroGrain = 1 << 2 // a grain table entry of 1 is a grain of zeros
	flagPacked    = 1 << 16
	flagMarkers   = 1 << 17
	flagsKnown    = flagNewlines | flagRedundant | flagZeroGrain | flagPacked | flagMarkers

	deflate = 1 // the only compressAlgorithm besides none

	// gdAtEnd as gdOffset sends the reader to the footer ("Stream-Optimized
	// Compressed Sparse Extents", GD_AT_END).
	gdAtEnd = ^uint64(0)

	// maxGrain bounds a grain in sectors, 4 MiB: what one compressed grain can
	// cost in memory. VMware and QEMU write 128 sectors.
	maxGrain = 8192
	// maxTableEntries bounds numGTEsPerGT; the format says 512, COWD has 4096.
	maxTableEntries = 4096
)

// header is what the reader needs of a sparse file's header, of either kind,
// checked. Offsets and sizes are in sectors.
type header struct {
	capacity   int64
	grain      int64 // a power of two
	entries    int64 // in a grain table, a power of two
	gd         int64 // offset of the grain directory
	rgd        int64 // offset of the redundant one; 0 when there is none
	firstData  int64 // no grain lies before this sector
	descriptor int64 // offset of the embedded descriptor; 0 when there is none
	descLen    int64
	zeroGrains bool
	packed     bool // grains are compressed and carry markers
	dirty      bool // the writer did not finish properly
}

// hosted is the header of hosted sparse extents as it stands in the file: 512
// bytes, little-endian, packed (Virtual Disk Format 5.0, "Hosted Sparse Extents").
type hosted struct {
	Magic             [4]byte // "KDMV"
	Version           uint32
	Flags             uint32
	Capacity          uint64
	GrainSize         uint64
	DescriptorOffset  uint64
	DescriptorSize    uint64
	NumGTEsPerGT      uint32
	RGDOffset         uint64
	GDOffset          uint64
	OverHead          uint64
	UncleanShutdown   uint8
	Newlines          [4]byte // single, non, double 1, double 2
	CompressAlgorithm uint16
	_                 [433]byte
}

func decodeHosted(b []byte) (h hosted) {
	// The buffer is always one sector: the decoder has nothing to refuse.
	_, _ = binary.Decode(b, binary.LittleEndian, &h)
	return h
}

// readHosted reads and checks the header of a hosted sparse file. A file of
// another kind is ErrFormat.
func readHosted(f *disk.File) (*header, error) {
	var b [sector]byte
	if n, err := f.ReadAt(b[:], 0); err != nil {
		if n < 4 || !bytes.Equal(b[:4], []byte("KDMV")) {
			return nil, fmt.Errorf("no sparse header: %w", disk.ErrFormat)
		}
		return nil, fmt.Errorf("sparse header is cut short: %w", disk.ErrCorrupt)
	}
	h := decodeHosted(b[:])
	if string(h.Magic[:]) != "KDMV" {
		return nil, fmt.Errorf("no sparse header: %w", disk.ErrFormat)
	}
	if h.GDOffset == gdAtEnd {
		foot, err := readFooter(f)
		if err != nil {
			return nil, err
		}
		if !h.agrees(foot) {
			return nil, fmt.Errorf("header and footer contradict each other: %w", disk.ErrCorrupt)
		}
		if foot.GDOffset == gdAtEnd {
			return nil, fmt.Errorf("footer does not say where the grain directory is: %w", disk.ErrCorrupt)
		}
		h = foot
	}
	return h.check(f.Size() / sector)
}

// readFooter reads the copy of the header near the end of a stream: the last
// three sectors are the footer's marker, the footer, and the marker of the end
// ("Stream-Optimized Compressed Sparse Extents"). A metadata marker is {value
// u64, size u32 = 0, type u32}, type 3 being the footer's and 0 the end's.
func readFooter(f *disk.File) (h hosted, err error) {
	var b [3 * sector]byte
	if f.Size() < 4*sector {
		return h, fmt.Errorf("stream has no footer: %w", disk.ErrCorrupt)
	}
	if _, err := f.ReadAt(b[:], f.Size()-int64(len(b))); err != nil {
		return h, fmt.Errorf("cannot read the footer: %w", err)
	}
	h = decodeHosted(b[sector : 2*sector])
	if !isMarker(b[:], 3) || string(h.Magic[:]) != "KDMV" || !isMarker(b[2*sector:], 0) {
		return h, fmt.Errorf("stream has no footer where its last sectors should be; it was cut short or something follows it: %w", disk.ErrCorrupt)
	}
	return h, nil
}

func isMarker(b []byte, kind uint32) bool {
	return binary.LittleEndian.Uint32(b[8:]) == 0 && binary.LittleEndian.Uint32(b[12:]) == kind
}

// agrees tells whether header and footer describe the same disk; they may
// differ in where the tables are.
func (h hosted) agrees(foot hosted) bool {
	h.GDOffset, h.RGDOffset, h.OverHead, h.UncleanShutdown = foot.GDOffset, foot.RGDOffset, foot.OverHead, foot.UncleanShutdown
	return h == foot
}

// check holds the header to the format's rules and to a file of size sectors.
func (h *hosted) check(size int64) (*header, error) {
	corrupt := func(format string, args ...any) (*header, error) {
		return nil, fmt.Errorf("sparse header: "+format+": %w", append(args, disk.ErrCorrupt)...)
	}
	unsupported := func(format string, args ...any) (*header, error) {
		return nil, fmt.Errorf("sparse header: "+format+": %w", append(args, disk.ErrUnsupported)...)
	}
	end := uint64(size)
	switch {
	case h.Version < 1 || h.Version > 3:
		return unsupported("version %d", h.Version)
	case h.Flags&^flagsKnown != 0:
		return unsupported("flags %#x", h.Flags)
	case h.Flags&flagNewlines != 0 && string(h.Newlines[:]) != "\n \r\n":
		return corrupt("line ends were converted, so the file was damaged by a transfer as text")
	case h.Capacity == 0:
		return corrupt("capacity of 0")
	case h.Capacity > disk.MaxSize/sector:
		return unsupported("capacity of %d sectors is above the limit of %d bytes", h.Capacity, int64(disk.MaxSize))
	case h.GrainSize < 8 || h.GrainSize > maxGrain || bits.OnesCount64(h.GrainSize) != 1:
		return corrupt("grain of %d sectors is not a power of two from 8 to %d", h.GrainSize, maxGrain)
	case h.NumGTEsPerGT < 128 || h.NumGTEsPerGT > maxTableEntries || bits.OnesCount32(h.NumGTEsPerGT) != 1:
		return corrupt("%d entries in a grain table is not a power of two from 128 to %d", h.NumGTEsPerGT, maxTableEntries)
	case h.GDOffset == 0 || h.GDOffset >= end:
		return corrupt("grain directory at sector %d of a file of %d", h.GDOffset, end)
	case h.DescriptorOffset > end || h.DescriptorSize > end-h.DescriptorOffset:
		return corrupt("descriptor of %d sectors at %d ends beyond the file", h.DescriptorSize, h.DescriptorOffset)
	case h.DescriptorOffset != 0 && h.DescriptorSize > maxDescriptor/sector:
		return corrupt("descriptor of %d sectors is above the limit of %d", h.DescriptorSize, maxDescriptor/sector)
	case h.CompressAlgorithm > deflate:
		return unsupported("compression algorithm %d", h.CompressAlgorithm)
	case (h.Flags&flagPacked != 0) != (h.CompressAlgorithm == deflate):
		return corrupt("flags and compression algorithm contradict each other")
	case (h.Flags&flagPacked != 0) != (h.Flags&flagMarkers != 0):
		return unsupported("compressed grains without markers, or markers without compression")
	}
	out := &header{
		capacity:   int64(h.Capacity),
		grain:      int64(h.GrainSize),
		entries:    int64(h.NumGTEsPerGT),
		gd:         int64(h.GDOffset),
		firstData:  2,
		zeroGrains: h.Flags&flagZeroGrain != 0,
		packed:     h.CompressAlgorithm == deflate,
		dirty:      h.UncleanShutdown != 0,
	}
	if h.DescriptorOffset != 0 && h.DescriptorSize != 0 {
		out.descriptor, out.descLen = int64(h.DescriptorOffset), int64(h.DescriptorSize)
	}
	if h.Flags&flagRedundant != 0 && h.RGDOffset != 0 && h.RGDOffset < end {
		out.rgd = int64(h.RGDOffset)
	}
	return out, nil
}

// cowdHeader is the length of the header of ESX Server sparse extents, in bytes.
const cowdHeader = 4 * sector

// readCOWD reads and checks the header of an ESX Server sparse file (Virtual
// Disk Format 5.0, "ESXi Host Sparse Extents", COWDisk_Header): little-endian
// words magic "COWD", version, flags, capacity, grain size, grain directory
// offset and entries at 0 to 24; an unclean-shutdown word at 1648. A grain
// table has 4096 entries. The parent named in it is not used by ESX, which
// goes by the descriptor.
func readCOWD(f *disk.File) (*header, error) {
	var b [cowdHeader]byte
	if n, err := f.ReadAt(b[:], 0); err != nil || string(b[:4]) != "COWD" {
		if n >= 4 && string(b[:4]) == "COWD" {
			return nil, fmt.Errorf("ESX sparse header is cut short: %w", disk.ErrCorrupt)
		}
		return nil, fmt.Errorf("no ESX sparse header: %w", disk.ErrFormat)
	}
	word := func(off int) int64 { return int64(binary.LittleEndian.Uint32(b[off:])) }
	h := &header{
		capacity:  word(12),
		grain:     word(16),
		entries:   4096,
		gd:        word(20),
		firstData: cowdHeader / sector,
		dirty:     word(1648) != 0,
	}
	corrupt := func(format string, args ...any) (*header, error) {
		return nil, fmt.Errorf("ESX sparse header: "+format+": %w", append(args, disk.ErrCorrupt)...)
	}
	switch size := f.Size() / sector; {
	case word(4) != 1:
		return nil, fmt.Errorf("ESX sparse header: version %d: %w", word(4), disk.ErrUnsupported)
	case h.capacity == 0:
		return corrupt("capacity of 0")
	case h.grain < 1 || h.grain > maxGrain || bits.OnesCount64(uint64(h.grain)) != 1:
		return corrupt("grain of %d sectors is not a power of two up to %d", h.grain, maxGrain)
	case h.gd < h.firstData || h.gd >= size:
		return corrupt("grain directory at sector %d of a file of %d", h.gd, size)
	case word(24) < h.tables():
		return corrupt("grain directory of %d entries where %d are needed", word(24), h.tables())
	}
	return h, nil
}

// tables is the number of grain tables, and so of entries of the directory.
func (h *header) tables() int64 {
	span := h.grain * h.entries
	return (h.capacity + span - 1) / span
}
