package image

import (
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"strings"
	"unicode/utf16"

	"ascend/internal/disk"
)

// Facts of VHDX: [MS-VHDX]. Numbers in the file are little-endian.
const (
	vhdxMiB          = 1 << 20
	vhdxDefaultBlock = 1 << 20
	vhdxMinBlock     = 1 << 20   // 2.6.2.1
	vhdxMaxBlock     = 256 << 20 // 2.6.2.1

	vhdxPart    = 64 << 10 // identifier, headers and region tables stand 64 KiB apart (2.2)
	vhdxHeader  = 4096     // bytes of a header (2.2.2)
	vhdxLog     = 1 * vhdxMiB
	vhdxMeta    = 2 * vhdxMiB
	vhdxBAT     = 3 * vhdxMiB
	vhdxItems   = 64 << 10 // offset of the first item in the metadata region (2.6.1)
	vhdxLogSize = 1 * vhdxMiB

	vhdxPresent = 6 // PAYLOAD_BLOCK_FULLY_PRESENT (2.5.1.1)

	vhdxItemVirtual  = 1 << 1 // metadata entry flags (2.6.1.2)
	vhdxItemRequired = 1 << 2
)

// GUIDs of regions (2.2.3.2) and of metadata items (2.6.2).
const (
	vhdxRegionBAT      = "2dc27766-f623-4200-9d64-115e9bfd4a08"
	vhdxRegionMetadata = "8b7ca206-4790-4b9a-b8fe-575f050f886e"

	vhdxItemParameters = "caa16737-fa36-4d43-b3b6-33f0aa44e76b"
	vhdxItemSize       = "2fa54224-cd1b-4876-b211-5dbed83bf4b8"
	vhdxItemPage83     = "beca12ab-b2e6-4523-93ef-c309e000c746"
	vhdxItemLogical    = "8141bf1d-a96f-4709-ba47-f233a8faab5f"
	vhdxItemPhysical   = "cda348c7-445d-4471-9cc9-e9885251c556"
)

// newVHDX is a dynamic VHDX: identifier, headers, region tables, an empty log,
// metadata, BAT, blocks in the disk's order. The size is exact, as 2.6.2.2 has
// it a multiple of the logical sector; 7-Zip takes multiples of 4,096 bytes only.
func newVHDX(src Source, f Format, o Options) *File {
	block := o.BlockSize
	size := roundUp(src.Size(), sectorSize)
	data := &blocks{m: src.Map.Coarse(block), block: block}
	bat := vhdxTable{m: data.m, ratio: (1 << 23) * sectorSize / block}
	n := ceilDiv(size, block)
	bat.bytes = roundUp((n+(n-1)/bat.ratio)*8, vhdxMiB) // 2.5
	bat.first = vhdxBAT + bat.bytes

	var b builder
	b.bytes(vhdxIdentifier())
	for i := range int64(2) {
		b.zero((1 + i) * vhdxPart)
		b.bytes(vhdxHeaderBytes(uint64(i), o))
	}
	regions := vhdxRegions(bat.bytes)
	for i := range int64(2) {
		b.zero((3 + i) * vhdxPart)
		b.bytes(regions)
	}
	b.zero(vhdxMeta)
	entries, items := vhdxMetadata(size, block, o)
	b.bytes(entries)
	b.zero(vhdxMeta + vhdxItems)
	b.bytes(items)
	b.zero(vhdxBAT)
	b.add(bat.bytes, &table{put: bat.put, empty: bat.empty})
	b.add(data.length(), data)
	return b.file(src, f)
}

// vhdxTable generates the BAT (2.5): after every ratio payload entries stands
// one of a sector bitmap block, which a disk without a parent does not have.
type vhdxTable struct {
	m     *disk.Map
	ratio int64 // payload blocks in a chunk, 2^23 sectors (2.5)
	first int64 // file offset of the first block
	bytes int64 // of the region
}

func (t *vhdxTable) put(p []byte, off int64) {
	putEntries(p, off, 8, func(p []byte, e int64) {
		for len(p) > 0 {
			chunk, in := e/(t.ratio+1), e%(t.ratio+1)
			n := min(int64(len(p)/8), t.ratio-in) // payload entries before the bitmap's
			first := chunk*t.ratio + in
			allocatedRuns(t.m, first, first+n, func(b, n, rank int64) {
				at := t.first + rank*t.m.Granularity()
				for q := p[(b-first)*8:][:n*8]; len(q) > 0; q = q[8:] {
					binary.LittleEndian.PutUint64(q, uint64(at)|vhdxPresent)
					at += t.m.Granularity()
				}
			})
			n = min(n+1, int64(len(p)/8))
			p, e = p[n*8:], e+n
		}
	})
}

func (t *vhdxTable) empty(off, n int64) int64 {
	e := off / 8
	chunk, in := e/(t.ratio+1), e%(t.ratio+1)
	b := chunk*t.ratio + in // for the bitmap's entry: the block that follows it
	run := holes(t.m, b, n/8+1)
	if b+run >= t.m.Len() {
		return n
	}
	next := (b + run) + (b+run)/t.ratio // the entry of the next block that is there
	return next*8 - off
}

// vhdxIdentifier is the file type identifier (2.2.1); the creator is free text.
func vhdxIdentifier() []byte {
	p := []byte("vhdxfile")
	for _, c := range utf16.Encode([]rune("Ascend")) {
		p = binary.LittleEndian.AppendUint16(p, c)
	}
	return p
}

// vhdxHeaderBytes is one of the two headers (2.2.2); the greater sequence
// number is in force. The log's GUID is zero: there is nothing to replay.
func vhdxHeaderBytes(sequence uint64, o Options) []byte {
	p := make([]byte, vhdxHeader)
	le := binary.LittleEndian
	copy(p, "head")
	le.PutUint64(p[8:], sequence)
	fileWrite, dataWrite := mixedEndian(o.uuid("vhdx file write")), mixedEndian(o.uuid("vhdx data write"))
	copy(p[16:], fileWrite[:])
	copy(p[32:], dataWrite[:])
	le.PutUint16(p[66:], 1) // version; the log's, before it, is 0
	le.PutUint32(p[68:], vhdxLogSize)
	le.PutUint64(p[72:], vhdxLog)
	le.PutUint32(p[4:], crc32.Checksum(p, castagnoli))
	return p
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// vhdxRegions is a region table (2.2.3).
func vhdxRegions(batBytes int64) []byte {
	p := make([]byte, vhdxPart)
	le := binary.LittleEndian
	copy(p, "regi")
	le.PutUint32(p[8:], 2) // entries
	put := func(e []byte, id string, off, length int64) {
		copy(e, guid(id))
		le.PutUint64(e[16:], uint64(off))
		le.PutUint32(e[24:], uint32(length))
		le.PutUint32(e[28:], 1) // required
	}
	put(p[16:], vhdxRegionBAT, vhdxBAT, batBytes)
	put(p[48:], vhdxRegionMetadata, vhdxMeta, vhdxMiB)
	le.PutUint32(p[4:], crc32.Checksum(p, castagnoli))
	return p
}

// vhdxMetadata is the metadata table (2.6.1), which the region begins with, and
// the items (2.6.2), which stand at vhdxItems of the region.
func vhdxMetadata(size, block int64, o Options) (entries, items []byte) {
	le := binary.LittleEndian
	entries = make([]byte, 32)
	copy(entries, "metadata")
	add := func(id string, flags uint32, item []byte) {
		e := make([]byte, 32)
		copy(e, guid(id))
		le.PutUint32(e[16:], uint32(vhdxItems+len(items)))
		le.PutUint32(e[20:], uint32(len(item)))
		le.PutUint32(e[24:], flags)
		entries = append(entries, e...)
		items = append(items, item...)
		le.PutUint16(entries[10:], le.Uint16(entries[10:])+1)
	}
	page83 := mixedEndian(o.uuid("vhdx page 83"))
	const disk = vhdxItemVirtual | vhdxItemRequired
	add(vhdxItemParameters, vhdxItemRequired, le.AppendUint64(nil, uint64(block))) // block size, then flags: 0
	add(vhdxItemSize, disk, le.AppendUint64(nil, uint64(size)))
	add(vhdxItemPage83, disk, page83[:])
	add(vhdxItemLogical, disk, le.AppendUint32(nil, sectorSize))
	add(vhdxItemPhysical, disk, le.AppendUint32(nil, vhdxPhysicalSector(size)))
	return entries, items
}

// vhdxPhysicalSector is the physical sector size (2.6.2.5): 4,096 bytes, or 512
// for a disk that is not a whole number of those.
func vhdxPhysicalSector(size int64) uint32 {
	if size%4096 != 0 {
		return sectorSize
	}
	return 4096
}

// guid is the stored form of a GUID constant.
func guid(s string) []byte {
	b, _ := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	g := mixedEndian([16]byte(b))
	return g[:]
}
