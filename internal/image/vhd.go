package image

import (
	"encoding/binary"

	"ascend/internal/disk"
)

// Facts of VHD: "Virtual Hard Disk Image Format Specification", version 1.0
// (Microsoft, 2006). Numbers in the file are big-endian.
const (
	vhdBlock     = 2 << 20 // bytes of the disk in a block of a dynamic disk, the default
	vhdBitmap    = 512     // bytes of its sector bitmap: one bit a sector
	vhdHead      = 4096    // zeros and the bitmap, so that a block's data is 4 KiB-aligned
	vhdFooter    = 512
	vhdDynHeader = 1024
	vhdBATOffset = vhdFooter + vhdDynHeader

	vhdFixed   = 2 // disk types
	vhdDynamic = 3

	// vhdMaxDynamic is the largest dynamic disk that Windows and QEMU open, 2,040
	// GiB: a BAT entry is a 32-bit sector number.
	vhdMaxDynamic = 2040 << 30

	vhdUnused = 0xff // each byte of the BAT entry of a block that is not there
)

// newVHDFixed is the disk and a footer ("Hard Disk Footer Format").
func newVHDFixed(src Source, f Format, o Options) *File {
	size := roundUp(src.Size(), sectorSize)
	var b builder
	b.add(size, identity{})
	b.bytes(vhdFooterBytes(size, vhdFixed, o))
	return b.file(src, f)
}

// newVHDDynamic is: a copy of the footer, the dynamic disk header, the BAT, the
// blocks in the disk's order, the footer.
func newVHDDynamic(src Source, f Format, o Options) *File {
	size := roundUp(src.Size(), sectorSize)
	entries := ceilDiv(size, vhdBlock)
	data := &blocks{m: src.Map.Coarse(vhdBlock), block: vhdBlock, head: vhdHead, put: putVHDHead}
	footer := vhdFooterBytes(size, vhdDynamic, o)
	first := roundUp(vhdBATOffset+entries*4, vhdHead)

	var b builder
	b.bytes(footer)
	b.bytes(vhdDynamicHeader(entries))
	// What follows the last entry up to the blocks is filled like unused entries.
	b.add(first-vhdBATOffset, &table{put: func(p []byte, off int64) { putVHDBAT(p, off, data.m, first) }})
	b.add(data.length(), data)
	b.bytes(footer)
	return b.file(src, f)
}

// putVHDBAT generates the block allocation table: for each block the sector of
// its bitmap ("Block Allocation Table and Data Blocks").
func putVHDBAT(p []byte, off int64, m *disk.Map, first int64) {
	putEntries(p, off, 4, func(p []byte, e int64) {
		for i := range p {
			p[i] = vhdUnused
		}
		allocatedRuns(m, e, e+int64(len(p)/4), func(b, n, rank int64) {
			sector := (first + vhdHead - vhdBitmap + rank*(vhdHead+vhdBlock)) / sectorSize
			for q := p[(b-e)*4:][:n*4]; len(q) > 0; q = q[4:] {
				binary.BigEndian.PutUint32(q, uint32(sector))
				sector += (vhdHead + vhdBlock) / sectorSize
			}
		})
	})
}

// putVHDHead generates what stands before a block's data: zeros and a bitmap
// that says that every sector is there.
func putVHDHead(p []byte, off int64) {
	const bitmap = vhdHead - vhdBitmap
	for i := max(bitmap-off, 0); i < int64(len(p)); i++ {
		p[i] = 0xff
	}
}

// vhdFooterBytes is the footer of a disk of size bytes. The creator "win " makes
// QEMU and Azure go by the size; other creators' sizes are taken from the
// geometry, which cannot express most sizes.
func vhdFooterBytes(size int64, kind uint32, o Options) []byte {
	p := make([]byte, vhdFooter)
	be := binary.BigEndian
	copy(p, "conectix")
	be.PutUint32(p[8:], 2)           // features: the bit that is always set
	be.PutUint32(p[12:], 0x00010000) // format version 1.0
	be.PutUint64(p[16:], vhdFooter)  // offset of the dynamic disk header
	if kind == vhdFixed {
		be.PutUint64(p[16:], ^uint64(0))
	}
	// p[24:28], the time of creation in seconds since 2000, is 0: the same disk
	// gives the same bytes.
	copy(p[28:], "win ")
	be.PutUint32(p[32:], 0x000a0000) // creator version
	copy(p[36:], "Wi2k")             // creator host system
	be.PutUint64(p[40:], uint64(size))
	be.PutUint64(p[48:], uint64(size))
	c, h, s := vhdGeometry(size / sectorSize)
	be.PutUint16(p[56:], uint16(c))
	p[58], p[59] = byte(h), byte(s)
	be.PutUint32(p[60:], kind)
	id := o.uuid("vhd unique id")
	copy(p[68:], id[:])
	be.PutUint32(p[64:], vhdChecksum(p))
	return p
}

// vhdDynamicHeader is the "Dynamic Disk Header Format".
func vhdDynamicHeader(entries int64) []byte {
	p := make([]byte, vhdDynHeader)
	be := binary.BigEndian
	copy(p, "cxsparse")
	be.PutUint64(p[8:], ^uint64(0)) // data offset: unused
	be.PutUint64(p[16:], vhdBATOffset)
	be.PutUint32(p[24:], 0x00010000) // header version 1.0
	be.PutUint32(p[28:], uint32(entries))
	be.PutUint32(p[32:], vhdBlock)
	be.PutUint32(p[36:], vhdChecksum(p))
	return p
}

// vhdChecksum is the one's complement of the sum of all bytes, the checksum
// field itself being zero.
func vhdChecksum(p []byte) uint32 {
	var sum uint32
	for _, b := range p {
		sum += uint32(b)
	}
	return ^sum
}

// vhdGeometry is cylinders, heads and sectors per track ("CHS Calculation" in
// the specification's appendix). Disks beyond about 127 GiB get the largest.
func vhdGeometry(sectors int64) (c, h, s int64) {
	sectors = min(sectors, 65535*16*255)
	if sectors >= 65535*16*63 {
		return sectors / 255 / 16, 16, 255
	}
	s = 17
	tracks := sectors / s
	h = max((tracks+1023)/1024, 4)
	if tracks >= h*1024 || h > 16 {
		s, h = 31, 16
		tracks = sectors / s
	}
	if tracks >= h*1024 {
		s, h = 63, 16
		tracks = sectors / s
	}
	return tracks / h, h, s
}
