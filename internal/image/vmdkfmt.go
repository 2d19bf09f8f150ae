package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Facts of VMware's sparse extents: "VMware Virtual Disk Format 1.1", Hosted
// Sparse Extents and Stream-Optimized Compressed Sparse Extents. Numbers in the
// file are little-endian, offsets in sectors of 512 bytes.
const (
	sectorSize = 512

	vmdkMagic        = 0x564d444b // "KDMV"
	vmdkGrain        = 64 << 10   // bytes in a grain
	vmdkGrainSectors = vmdkGrain / sectorSize
	vmdkGTEs         = 512                  // grain table entries in a grain table
	vmdkGT           = vmdkGTEs * 4         // bytes of a grain table
	vmdkGTSectors    = vmdkGT / sectorSize  // sectors of a grain table
	vmdkGTCover      = vmdkGTEs * vmdkGrain // disk bytes a grain table stands for

	// The descriptor embedded in an extent: sectors 1 to 20, as VMware's
	// products and QEMU place it.
	vmdkDescriptorSector  = 1
	vmdkDescriptorSectors = 20

	// vmdkStreamData is the sector at which the grains of a stream-optimized
	// extent begin (its overHead).
	vmdkStreamData = 128

	// vmdkMaxSectors bounds the sectors of an extent file: a grain table entry
	// is 32 bits wide.
	vmdkMaxSectors = 1 << 32

	vmdkFlagNewline    = 1 << 0 // the newline test bytes are valid
	vmdkFlagRedundant  = 1 << 1 // a redundant grain directory is there
	vmdkFlagCompressed = 1 << 16
	vmdkFlagMarkers    = 1 << 17

	vmdkGDAtEnd = ^uint64(0) // gdOffset of a stream's header: see the footer

	vmdkMarkerEOS    = 0 // end of stream
	vmdkMarkerGT     = 1 // a grain table follows
	vmdkMarkerGD     = 2 // the grain directory follows
	vmdkMarkerFooter = 3 // the footer, a header with the real gdOffset, follows

	vmdkGrainMarkerSize = 12 // bytes before a compressed grain's data
)

// vmdkHeader is the SparseExtentHeader; offsets and sizes in sectors.
type vmdkHeader struct {
	version  uint32
	flags    uint32
	capacity int64
	rgd      uint64 // redundant grain directory
	gd       uint64 // grain directory
	overHead int64  // sectors before the first grain
	compress uint16 // 1: deflate (zlib, RFC 1950)
}

// bytes is the header's sector.
func (h vmdkHeader) bytes() []byte {
	p := make([]byte, sectorSize)
	le := binary.LittleEndian
	le.PutUint32(p[0:], vmdkMagic)
	le.PutUint32(p[4:], h.version)
	le.PutUint32(p[8:], h.flags)
	le.PutUint64(p[12:], uint64(h.capacity))
	le.PutUint64(p[20:], vmdkGrainSectors)
	le.PutUint64(p[28:], vmdkDescriptorSector)
	le.PutUint64(p[36:], vmdkDescriptorSectors)
	le.PutUint32(p[44:], vmdkGTEs)
	le.PutUint64(p[48:], h.rgd)
	le.PutUint64(p[56:], h.gd)
	le.PutUint64(p[64:], uint64(h.overHead))
	copy(p[73:], "\n \r\n") // single, non-, and double end-of-line test bytes
	le.PutUint16(p[77:], h.compress)
	return p
}

// vmdkStreamHeader is the header sector of a stream-optimized extent: with gd
// vmdkGDAtEnd the one at its start, else its footer.
func vmdkStreamHeader(capacity int64, gd uint64) []byte {
	return vmdkHeader{
		version:  3,
		flags:    vmdkFlagNewline | vmdkFlagCompressed | vmdkFlagMarkers,
		capacity: capacity,
		gd:       gd,
		overHead: vmdkStreamData,
		compress: 1,
	}.bytes()
}

// vmdkStreamStart is everything before the first grain of a stream-optimized
// extent of capacity sectors: header and descriptor, vmdkStreamData sectors.
func vmdkStreamStart(capacity int64, o Options) []byte {
	p := make([]byte, vmdkStreamData*sectorSize)
	copy(p, vmdkStreamHeader(capacity, vmdkGDAtEnd))
	copy(p[vmdkDescriptorSector*sectorSize:], vmdkDescriptor("streamOptimized", "SPARSE", vmdkExtentName(o.Name), capacity, o))
	return p
}

// vmdkMarker is the sector of a metadata marker: sectors is the length of what
// follows it.
func vmdkMarker(kind uint32, sectors int64) []byte {
	p := make([]byte, sectorSize)
	binary.LittleEndian.PutUint64(p, uint64(sectors))
	binary.LittleEndian.PutUint32(p[12:], kind) // p[8:12], the size, is 0: not a grain
	return p
}

// putVMDKGrainMarker writes the vmdkGrainMarkerSize bytes before a compressed
// grain: the grain's first sector on the disk and the bytes of zlib data that
// follow. Marker and data are padded together to a whole sector.
func putVMDKGrainMarker(p []byte, lba int64, size int) {
	binary.LittleEndian.PutUint64(p, uint64(lba))
	binary.LittleEndian.PutUint32(p[8:], uint32(size))
}

// vmdkDescriptor is the text that describes a disk of capacity sectors in one
// extent ("The Descriptor File"). extentName must have passed checkExtentName or
// vmdkExtentName. The text is shorter than vmdkDescriptorSectors.
func vmdkDescriptor(createType, extentType, extentName string, capacity int64, o Options) []byte {
	var b bytes.Buffer
	cid := o.contentID()
	long := o.uuid("vmdk content")
	// The geometry of a SCSI disk; 65,535 is the most that BIOS translation knows.
	const heads, sectors = 255, 63
	cylinders := min(max(capacity/(heads*sectors), 1), 65535)
	fmt.Fprintf(&b, "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=%08x\nparentCID=ffffffff\ncreateType=%q\n\n", cid, createType)
	offset := ""
	if extentType == "FLAT" {
		offset = " 0"
	}
	fmt.Fprintf(&b, "# Extent description\nRW %d %s \"%s\"%s\n\n", capacity, extentType, extentName, offset)
	fmt.Fprintf(&b, "# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.adapterType = \"lsilogic\"\n")
	fmt.Fprintf(&b, "ddb.geometry.cylinders = \"%d\"\nddb.geometry.heads = \"%d\"\nddb.geometry.sectors = \"%d\"\n", cylinders, heads, sectors)
	fmt.Fprintf(&b, "ddb.longContentID = \"%x%08x\"\n", long[:12], cid)
	return b.Bytes()
}

// vmdkExtentName is the name of a sparse extent in its own descriptor, made of
// the disk's name. Readers of a monolithic file do not open it, so what the
// descriptor's syntax cannot hold is replaced.
func vmdkExtentName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune("\"/\\\x7f\uFFFD", r) {
			return '_'
		}
		return r
	}, strings.TrimSuffix(name, ".vmdk"))
	if len(name) > vmdkMaxName {
		name = strings.ToValidUTF8(name[:vmdkMaxName], "")
	}
	if name == "" {
		name = "disk"
	}
	return name + ".vmdk"
}

// vmdkMaxName bounds an extent's name so that the descriptor fits its sectors.
const vmdkMaxName = 255
