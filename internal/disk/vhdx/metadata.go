package vhdx

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf16"

	"ascend/internal/disk"
)

// metadata is what the metadata region says of the disk ([MS-VHDX] 2.6.2).
type metadata struct {
	block   int64 // bytes of a payload block
	fixed   bool  // LeaveBlockAllocated
	isChild bool  // HasParent: a differencing disk
	size    int64 // of the disk, bytes
	logical int64 // bytes of a logical sector
	locator map[string]string
}

// item is a metadata item's place, relative to the region.
type item struct{ off, len int64 }

// Known metadata items ([MS-VHDX] 2.6.2).
var (
	itemParameters = known("CAA16737-FA36-4D43-B3B6-33F0AA44E76B")
	itemSize       = known("2FA54224-CD1B-4876-B211-5DBED83BF4B8")
	itemDiskID     = known("BECA12AB-B2E6-4523-93EF-C309E000C746")
	itemLogical    = known("8141BF1D-A96F-4709-BA47-F233A8FAAB5F")
	itemPhysical   = known("CDA348C7-445D-4471-9CC9-E9885251C556")
	itemLocator    = known("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C")
)

const (
	metadataTable = 64 * kib // [MS-VHDX] 2.6
	maxItems      = 2047     // [MS-VHDX] 2.6.1.1
	maxItem       = mib      // [MS-VHDX] 2.6.1.2
)

// readMetadata reads the metadata region.
func readMetadata(v *view, r region) (metadata, error) {
	items, err := readItems(v, r)
	if err != nil {
		return metadata{}, err
	}
	corrupt := func(format string, args ...any) (metadata, error) {
		return metadata{}, fmt.Errorf("%s: %s: %w", v.f.Name(), fmt.Sprintf(format, args...), disk.ErrCorrupt)
	}
	get := func(id guid, n int64) ([]byte, error) {
		it, ok := items[id]
		if !ok || it.len < n {
			return nil, fmt.Errorf("%s: metadata item %v is missing or has %d bytes: %w", v.f.Name(), id, it.len, disk.ErrCorrupt)
		}
		p := make([]byte, n)
		return p, v.ReadFull(p, r.off+it.off)
	}
	parameters, err := get(itemParameters, 8)
	if err != nil {
		return metadata{}, err
	}
	size, err := get(itemSize, 8)
	if err != nil {
		return metadata{}, err
	}
	logical, err := get(itemLogical, 4)
	if err != nil {
		return metadata{}, err
	}
	le := binary.LittleEndian
	flags := le.Uint32(parameters[4:])
	m := metadata{
		block:   int64(le.Uint32(parameters)),
		fixed:   flags&1 != 0 && flags&2 == 0,
		isChild: flags&2 != 0,
		logical: int64(le.Uint32(logical)),
	}
	if m.block < mib || m.block > 256*mib || m.block&(m.block-1) != 0 {
		return corrupt("block size of %d bytes is not a power of two between 1 MiB and 256 MiB", m.block)
	}
	if m.logical != 512 && m.logical != 4096 {
		return corrupt("logical sectors of %d bytes", m.logical)
	}
	n := le.Uint64(size)
	if n > disk.MaxSize {
		return metadata{}, fmt.Errorf("%s: virtual size of %d bytes is above the limit of %d: %w", v.f.Name(), n, int64(disk.MaxSize), disk.ErrUnsupported)
	}
	if n%uint64(m.logical) != 0 {
		return corrupt("virtual size of %d bytes is no multiple of the sector size %d", n, m.logical)
	}
	m.size = int64(n)
	if !m.isChild {
		return m, nil
	}
	it, ok := items[itemLocator]
	if !ok {
		return corrupt("a differencing disk without a parent locator")
	}
	p := make([]byte, it.len)
	if err := v.ReadFull(p, r.off+it.off); err != nil {
		return metadata{}, err
	}
	m.locator, err = parseLocator(p)
	if err != nil {
		return metadata{}, fmt.Errorf("%s: %w", v.f.Name(), err)
	}
	return m, nil
}

// readItems reads the metadata table ([MS-VHDX] 2.6.1). It returns the system
// items; those of users are of no use here, but one that is required and unknown
// is refused whosever it is.
func readItems(v *view, r region) (map[guid]item, error) {
	corrupt := func(format string, args ...any) (map[guid]item, error) {
		return nil, fmt.Errorf("%s: %s: %w", v.f.Name(), fmt.Sprintf(format, args...), disk.ErrCorrupt)
	}
	table := make([]byte, metadataTable)
	if err := v.ReadFull(table, r.off); err != nil {
		return nil, err
	}
	if string(table[:8]) != "metadata" {
		return corrupt("no metadata table at offset %d", r.off)
	}
	le := binary.LittleEndian
	n := int(le.Uint16(table[10:]))
	if n > maxItems {
		return corrupt("metadata table of %d entries", n)
	}
	type key struct {
		id   guid
		user bool
	}
	seen := make(map[key]bool, n)
	items := make(map[guid]item)
	var taken []item
	for i := range n {
		e := table[32+32*i:]
		id, flags := guid(e[:16]), le.Uint32(e[24:])
		it := item{int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:]))}
		k := key{id, flags&1 != 0}
		if seen[k] {
			return corrupt("metadata item %v is named twice", id)
		}
		seen[k] = true
		if it.len > maxItem || it.len > 0 && (it.off < metadataTable || it.off > r.len-it.len) {
			return corrupt("metadata item %v of %d bytes at offset %d in a region of %d", id, it.len, it.off, r.len)
		}
		if it.len > 0 {
			taken = append(taken, it)
		}
		switch id {
		case itemParameters, itemSize, itemDiskID, itemLogical, itemPhysical, itemLocator:
			if !k.user {
				items[id] = it
				continue
			}
		}
		if flags&4 != 0 {
			return nil, fmt.Errorf("%s: required metadata item %v is unknown: %w", v.f.Name(), id, disk.ErrUnsupported)
		}
	}
	slices.SortFunc(taken, func(a, b item) int { return cmp.Compare(a.off, b.off) })
	for i := 1; i < len(taken); i++ {
		if taken[i-1].off+taken[i-1].len > taken[i].off {
			return corrupt("metadata items overlap at offset %d", taken[i].off)
		}
	}
	return items, nil
}

var locatorVHDX = known("B04AEFB7-D19E-4A81-B789-25B8E9445913")

// maxPairs bounds the entries of a parent locator; five are defined.
const maxPairs = 256

// parseLocator reads a parent locator item: its keys and values ([MS-VHDX]
// 2.6.2.6).
func parseLocator(p []byte) (map[string]string, error) {
	if len(p) < 20 {
		return nil, fmt.Errorf("parent locator of %d bytes: %w", len(p), disk.ErrCorrupt)
	}
	if id := guid(p[:16]); id != locatorVHDX {
		return nil, fmt.Errorf("parent locator of type %v: %w", id, disk.ErrUnsupported)
	}
	le := binary.LittleEndian
	n := int(le.Uint16(p[18:]))
	if n > maxPairs || 20+12*n > len(p) {
		return nil, fmt.Errorf("parent locator of %d entries in %d bytes: %w", n, len(p), disk.ErrCorrupt)
	}
	pairs := make(map[string]string, n)
	for i := range n {
		e := p[20+12*i:]
		key, ok1 := text(p, le.Uint32(e), le.Uint16(e[8:]))
		value, ok2 := text(p, le.Uint32(e[4:]), le.Uint16(e[10:]))
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("parent locator entry %d lies outside the item: %w", i, disk.ErrCorrupt)
		}
		if _, twice := pairs[key]; twice {
			return nil, fmt.Errorf("parent locator has %.40q twice: %w", key, disk.ErrCorrupt)
		}
		pairs[key] = value
	}
	return pairs, nil
}

// text is the UTF-16 little-endian string of n bytes at offset off of p.
func text(p []byte, off uint32, n uint16) (string, bool) {
	if uint64(off)+uint64(n) > uint64(len(p)) || n%2 != 0 {
		return "", false
	}
	units := make([]uint16, n/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(p[int(off)+2*i:])
	}
	return string(utf16.Decode(units)), true
}
