package vhd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"

	"ascend/internal/disk"
)

const (
	headerSize = 1024
	// freeBlock is the BAT entry of a block that is not in the file.
	freeBlock = 0xffffffff
	// maxEntries bounds the BAT: 2040 GiB, the format's limit, in blocks of
	// 512 KiB, the smallest that was ever tested with Microsoft's products ("Block
	// Allocation Table and Data Blocks").
	maxEntries = 4 << 20
	// maxBlock bounds the block size; 2 MiB is the default and all that is in use.
	maxBlock = 256 << 20
	// maxLocator bounds the bytes of one parent locator: a Windows path has at
	// most 32,767 UTF-16 units.
	maxLocator = 64 << 10
)

// header is the dynamic disk header ("Dynamic Disk Header Format").
type header struct {
	tableOffset int64 // of the BAT, bytes
	entries     int64 // in the BAT
	block       int64 // bytes
	bitmap      int64 // bytes of the sector bitmap before each block's data
	parent      uid
	parentTime  uint32 // seconds since 2000-01-01 UTC
	parentName  string
	locators    [8]locator
}

// locator is a parent locator entry ("Dynamic Disk Header Format", Parent
// Locator Entries).
type locator struct {
	code   string // platform code: W2ru, W2ku, MacX, …
	length uint32 // bytes
	offset uint64 // bytes, in the file
}

// readHeader reads the header of a dynamic or differencing image at off. Blocks
// and tables must end before end.
func readHeader(f *disk.File, off uint64, end int64) (header, error) {
	corrupt := func(format string, args ...any) (header, error) {
		return header{}, fmt.Errorf("%s: %s: %w", f.Name(), fmt.Sprintf(format, args...), disk.ErrCorrupt)
	}
	if off < footerSize || off > uint64(end) || end-int64(off) < headerSize {
		return corrupt("dynamic disk header at offset %d lies outside the file", off)
	}
	p := make([]byte, headerSize)
	if err := f.ReadFull(p, int64(off)); err != nil {
		return header{}, err
	}
	if !bytes.HasPrefix(p, []byte("cxsparse")) {
		return corrupt("no dynamic disk header at offset %d", off)
	}
	if sum, want := checksum(p, 36), binary.BigEndian.Uint32(p[36:]); sum != want {
		return corrupt("dynamic disk header has checksum %08x and states %08x", sum, want)
	}
	if v := binary.BigEndian.Uint32(p[24:]); v != formatVersion {
		return header{}, fmt.Errorf("%s: dynamic disk header version %d.%d: %w", f.Name(), v>>16, v&0xffff, disk.ErrUnsupported)
	}
	h := header{
		entries:    int64(binary.BigEndian.Uint32(p[28:])),
		block:      int64(binary.BigEndian.Uint32(p[32:])),
		parent:     uid(p[40:56]),
		parentTime: binary.BigEndian.Uint32(p[56:]),
		parentName: utf16String(p[64:576], binary.BigEndian),
	}
	if h.block < sectorSize || h.block&(h.block-1) != 0 || h.block > maxBlock {
		return corrupt("block size of %d bytes is not a power of two between %d and %d", h.block, sectorSize, maxBlock)
	}
	// One bit a sector, padded to whole sectors ("Block Allocation Table and Data
	// Blocks").
	h.bitmap = (h.block/sectorSize/8 + sectorSize - 1) / sectorSize * sectorSize
	table := binary.BigEndian.Uint64(p[16:])
	if table < footerSize || table > uint64(end) || h.entries*4 > end-int64(table) {
		return corrupt("block allocation table of %d entries at offset %d lies outside the file", h.entries, table)
	}
	h.tableOffset = int64(table)
	if h.tableOffset < int64(off)+headerSize && int64(off) < h.tableOffset+h.entries*4 {
		return corrupt("block allocation table at offset %d overlaps the header at %d", table, off)
	}
	for i := range h.locators {
		e := p[576+24*i:]
		h.locators[i] = locator{
			code:   string(e[:4]),
			length: binary.BigEndian.Uint32(e[8:]),
			offset: binary.BigEndian.Uint64(e[16:]),
		}
	}
	return h, nil
}

// readTable reads the BAT's entries for a disk of size bytes and checks that
// each block lies after the tables and before end, and shares no byte with
// another.
func (h header) readTable(f *disk.File, dataOffset uint64, size, end int64) ([]uint32, error) {
	n := (size + h.block - 1) / h.block
	if n > h.entries {
		return nil, fmt.Errorf("%s: block allocation table has %d entries and the disk %d blocks: %w", f.Name(), h.entries, n, disk.ErrCorrupt)
	}
	if n > maxEntries {
		return nil, fmt.Errorf("%s: block allocation table of %d entries, more than %d: %w", f.Name(), n, maxEntries, disk.ErrUnsupported)
	}
	raw := make([]byte, n*4)
	if err := f.ReadFull(raw, h.tableOffset); err != nil {
		return nil, err
	}
	table := make([]uint32, n)
	used := make([]uint32, 0, n)
	for i := range table {
		e := binary.BigEndian.Uint32(raw[4*i:])
		table[i] = e
		if e == freeBlock {
			continue
		}
		at := int64(e) * sectorSize
		// The block that holds the end of the disk need not be there beyond it.
		need := h.bitmap + min(h.block, size-int64(i)*h.block)
		if at > end || end-at < need {
			return nil, fmt.Errorf("%s: block %d lies at offset %d and the file's blocks end at %d (an incomplete copy?): %w", f.Name(), i, at, end, disk.ErrCorrupt)
		}
		for _, r := range [][2]int64{{0, footerSize}, {int64(dataOffset), headerSize}, {h.tableOffset, h.entries * 4}} {
			if at < r[0]+r[1] && r[0] < at+need {
				return nil, fmt.Errorf("%s: block %d at offset %d overlaps a header or a table: %w", f.Name(), i, at, disk.ErrCorrupt)
			}
		}
		used = append(used, e)
	}
	slices.Sort(used)
	for i := 1; i < len(used); i++ {
		if int64(used[i]-used[i-1])*sectorSize < h.bitmap+h.block {
			return nil, fmt.Errorf("%s: the blocks at offsets %d and %d overlap: %w", f.Name(), int64(used[i-1])*sectorSize, int64(used[i])*sectorSize, disk.ErrCorrupt)
		}
	}
	return table, nil
}

// utf16String decodes p up to the first NUL.
func utf16String(p []byte, order binary.ByteOrder) string {
	var units []uint16
	for i := 0; i+1 < len(p); i += 2 {
		u := order.Uint16(p[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return strings.TrimSpace(string(utf16.Decode(units)))
}
