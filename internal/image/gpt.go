package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// Facts of the GUID partition table: UEFI Specification 2.10, section 5.2.3
// (protective MBR) and 5.3 (GPT). Numbers are little-endian, LBAs count sectors.
const (
	gptSignature = "EFI PART"
	gptRevision  = 0x00010000
	gptMinHeader = 92 // bytes; 5.3.2

	// gptMaxEntries bounds the partition entry array, in bytes. The usual one has
	// 16 KiB.
	gptMaxEntries = 1 << 20

	mbrSize       = 512
	mbrEntry      = 446  // offset of the first partition record
	mbrProtective = 0xee // its type
	mbrSignature  = 510
)

// errNoGPT says that a disk has no GPT at all; any other error of readGPT that
// wraps errGPT, that it has one which breaks the rules.
var (
	errNoGPT = errors.New("no GUID partition table")
	errGPT   = errors.New("partition table is damaged")
)

// gpt is a valid GUID partition table whose backup is at the disk's end.
type gpt struct {
	sector  int64 // bytes, 512 or 4,096
	last    int64 // the disk's last LBA
	mbr     []byte
	header  []byte // the primary header's sector
	entries []byte // the partition entry array, whole sectors
}

// readGPT reads the table of a disk of size bytes. The disk is hostile: what is
// read is bounded, and anything that is not as the specification says is errGPT.
// Errors of reading are returned as they are.
func readGPT(r io.ReaderAt, size int64) (*gpt, error) {
	for _, sector := range []int64{512, 4096} {
		if size < 3*sector {
			continue
		}
		g := &gpt{sector: sector, last: size/sector - 1}
		var err error
		if g.header, err = readFull(r, sector, sector); err != nil {
			return nil, err
		}
		if string(g.header[:8]) != gptSignature {
			continue
		}
		return g, g.read(r, size)
	}
	return nil, errNoGPT
}

func readFull(r io.ReaderAt, off, n int64) ([]byte, error) {
	p := make([]byte, n)
	if k, err := r.ReadAt(p, off); int64(k) < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("cannot read disk at offset %d: %w", off+int64(k), err)
	}
	return p, nil
}

// read checks the primary table, its entries and the backup header.
func (g *gpt) read(r io.ReaderAt, size int64) error {
	le := binary.LittleEndian
	if err := checkGPTHeader(g.header, 1); err != nil {
		return fmt.Errorf("%w: primary header: %w", errGPT, err)
	}
	alternate, first, last := le.Uint64(g.header[32:]), le.Uint64(g.header[40:]), le.Uint64(g.header[48:])
	at, count, width := le.Uint64(g.header[72:]), le.Uint32(g.header[80:]), le.Uint32(g.header[84:])
	bytes := int64(count) * int64(width)
	switch {
	case size%g.sector != 0:
		return fmt.Errorf("%w: the disk ends inside a sector", errGPT)
	case alternate != uint64(g.last):
		return fmt.Errorf("%w: the backup is said to be at sector %d and the disk ends with %d", errGPT, alternate, g.last)
	case width < 128 || width&(width-1) != 0 || bytes == 0 || bytes > gptMaxEntries:
		return fmt.Errorf("%w: %d partition entries of %d bytes", errGPT, count, width)
	}
	sectors := ceilDiv(bytes, g.sector)
	// The entries stand between the header and the usable sectors, and these end
	// before the backup header.
	if at < 2 || at > uint64(g.last) || at+uint64(sectors) > first || first > last || last >= uint64(g.last) {
		return fmt.Errorf("%w: entries at sector %d, usable sectors from %d to %d", errGPT, at, first, last)
	}
	var err error
	if g.entries, err = readFull(r, int64(at)*g.sector, sectors*g.sector); err != nil {
		return err
	}
	if crc32.ChecksumIEEE(g.entries[:bytes]) != le.Uint32(g.header[88:]) {
		return fmt.Errorf("%w: checksum of the partition entries", errGPT)
	}
	for e := g.entries[:bytes]; len(e) > 0; e = e[width:] {
		start, end := le.Uint64(e[32:]), le.Uint64(e[40:])
		if [16]byte(e[:16]) != [16]byte{} && (start < first || end < start || end > last) {
			return fmt.Errorf("%w: a partition from sector %d to %d, outside the usable sectors", errGPT, start, end)
		}
	}
	backup, err := readFull(r, g.last*g.sector, g.sector)
	if err != nil {
		return err
	}
	if err := checkGPTHeader(backup, uint64(g.last)); err != nil {
		return fmt.Errorf("%w: backup header: %w", errGPT, err)
	}
	if g.mbr, err = readFull(r, 0, mbrSize); err != nil {
		return err
	}
	for e := g.mbr[mbrEntry:mbrSignature]; len(e) > 0; e = e[16:] {
		if e[4] == mbrProtective && g.mbr[mbrSignature] == 0x55 && g.mbr[mbrSignature+1] == 0xaa {
			return nil
		}
	}
	return fmt.Errorf("%w: no protective MBR stands before it", errGPT)
}

// checkGPTHeader checks a header's sector by itself (5.3.2).
func checkGPTHeader(p []byte, lba uint64) error {
	le := binary.LittleEndian
	length := le.Uint32(p[12:])
	switch {
	case string(p[:8]) != gptSignature:
		return errors.New("no signature")
	case le.Uint32(p[8:]) != gptRevision:
		return fmt.Errorf("revision %#x", le.Uint32(p[8:]))
	case length < gptMinHeader || int(length) > len(p):
		return fmt.Errorf("%d bytes long", length)
	case gptHeaderSum(p[:length]) != le.Uint32(p[16:]):
		return errors.New("checksum")
	case le.Uint64(p[24:]) != lba:
		return fmt.Errorf("it is at sector %d and says %d", lba, le.Uint64(p[24:]))
	}
	return nil
}

// gptHeaderSum is the CRC-32 of a header with the checksum's field zero.
func gptHeaderSum(p []byte) uint32 {
	sum := crc32.ChecksumIEEE(p[:16])
	sum = crc32.Update(sum, crc32.IEEETable, make([]byte, 4))
	return crc32.Update(sum, crc32.IEEETable, p[20:])
}

// move is what must be overwritten when the disk grows to size bytes, so that
// the backup is at the end again. Patches do not overlap.
func (g *gpt) move(size int64) []patch {
	le := binary.LittleEndian
	last := size/g.sector - 1
	if last <= g.last {
		return nil
	}
	sectors := int64(len(g.entries)) / g.sector
	array := last - sectors
	header := func(my, alternate, entries int64) []byte {
		p := append([]byte(nil), g.header...)
		le.PutUint64(p[24:], uint64(my))
		le.PutUint64(p[32:], uint64(alternate))
		le.PutUint64(p[48:], uint64(array-1))
		le.PutUint64(p[72:], uint64(entries))
		le.PutUint32(p[16:], gptHeaderSum(p[:le.Uint32(p[12:])]))
		return p
	}
	primary := int64(le.Uint64(g.header[72:]))
	var patches []patch
	if m := g.protective(last); m != nil {
		patches = append(patches, patch{Patch{Off: 0, Why: "protective MBR: size of the disk"}, m})
	}
	patches = append(patches, patch{Patch{Off: g.sector, Why: "GPT: place of the backup and last usable sector"}, header(1, last, primary)})
	if g.last < array {
		patches = append(patches, patch{Patch{Off: g.last * g.sector, Why: "GPT: backup header at the former end removed"}, make([]byte, g.sector)})
	}
	patches = append(patches,
		patch{Patch{Off: array * g.sector, Why: "GPT: backup of the partition entries at the new end"}, g.entries},
		patch{Patch{Off: last * g.sector, Why: "GPT: backup header at the new end"}, header(last, 1, array)})
	for i := range patches {
		patches[i].Len = int64(len(patches[i].data))
	}
	return patches
}

// movable tells whether the backup at the new end leaves all usable sectors
// usable, which a backup of an unusual shape may not.
func (g *gpt) movable(size int64) bool {
	last := size/g.sector - 1 - int64(len(g.entries))/g.sector - 1
	return last >= int64(binary.LittleEndian.Uint64(g.header[48:]))
}

// protective is the MBR for a disk that ends with sector last (5.2.3), or nil
// when it is not a protective one for the disk as it was, or needs no change.
func (g *gpt) protective(last int64) []byte {
	le := binary.LittleEndian
	e := g.mbr[mbrEntry : mbrEntry+16]
	was, now := min(g.last, math.MaxUint32), min(last, math.MaxUint32)
	if e[4] != mbrProtective || le.Uint32(e[8:]) != 1 || int64(le.Uint32(e[12:])) != was || was == now {
		return nil
	}
	m := append([]byte(nil), g.mbr...)
	e = m[mbrEntry : mbrEntry+16]
	copy(e[5:8], "\xff\xff\xff") // the end as cylinder, head, sector: cannot be expressed
	le.PutUint32(e[12:], uint32(now))
	return m
}
