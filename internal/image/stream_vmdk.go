package image

import (
	"encoding/binary"
	"fmt"
	"hash/adler32"
)

// vmdkStream is the layout of a streamOptimized VMDK ("VMware Virtual Disk
// Format 1.1", Stream-Optimized Compressed Sparse Extents):
//
//	header, descriptor         vmdkStreamData sectors
//	for each 32 MiB of the disk that have data:
//	    for each grain that is not zeros, ascending:
//	        grain marker, grain as zlib data (RFC 1950), zeros up to a sector
//	    grain table marker, grain table
//	grain directory marker, grain directory
//	footer marker, footer
//	end-of-stream marker
//
// The encoded form of a grain is what stands in the file, so that only tables
// are left to be made in order. A grain that does not shrink is stored deflate
// blocks, which with their marker take one sector more than the grain, the most
// that VMware's readers take.
type vmdkStream struct {
	format  Format
	size    int64 // virtual, bytes
	options Options

	gd    []uint32 // sector of each grain table, 0: has no grains
	table int64    // number of the grain table being filled, -1: none
	gt    [vmdkGTEs]uint32
}

// vmdkMaxGrain is the most bytes of a grain's zlib data.
const vmdkMaxGrain = vmdkGrain + sectorSize - vmdkGrainMarkerSize

func newVMDKStream(f Format, size int64, o Options) layout {
	return &vmdkStream{format: f, size: size, options: o, gd: make([]uint32, ceilDiv(size, vmdkGTCover)), table: -1}
}

func (l *vmdkStream) encode(dst []byte, c codec, grain int64, data []byte) []byte {
	start := len(dst)
	var head [vmdkGrainMarkerSize + 2]byte
	head[vmdkGrainMarkerSize], head[vmdkGrainMarkerSize+1] = 0x78, 0x01 // deflate, 32 KiB window, no preset dictionary
	dst = append(dst, head[:]...)
	dst = c.Append(dst, data)
	dst = binary.BigEndian.AppendUint32(dst, adler32.Checksum(data))
	putVMDKGrainMarker(dst[start:], grain*vmdkGrainSectors, len(dst)-start-vmdkGrainMarkerSize)
	return append(dst, zeroPiece[:-(len(dst)-start)&(sectorSize-1)]...)
}

func (l *vmdkStream) start(w *fileEnd) { w.write(vmdkStreamStart(l.size/sectorSize, l.options)) }

func (l *vmdkStream) put(w *fileEnd, first, n int64, enc []byte) error {
	for last := first - 1; len(enc) > 0; {
		if len(enc) < sectorSize {
			return errEncoded
		}
		lba := binary.LittleEndian.Uint64(enc)
		grain := int64(lba / vmdkGrainSectors)
		data := int64(binary.LittleEndian.Uint32(enc[8:]))
		length := roundUp(vmdkGrainMarkerSize+data, sectorSize)
		if lba%vmdkGrainSectors != 0 || grain <= last || grain >= first+n ||
			data == 0 || data > vmdkMaxGrain || length > int64(len(enc)) {
			return errEncoded
		}
		last = grain
		if table := grain / vmdkGTEs; table != l.table {
			if err := l.endTable(w); err != nil {
				return err
			}
			l.table = table
		}
		sector, err := l.sector(w)
		if err != nil {
			return err
		}
		l.gt[grain%vmdkGTEs] = sector
		w.write(enc[:length])
		enc = enc[length:]
	}
	return nil
}

// sector is the end of the file in sectors.
func (l *vmdkStream) sector(w *fileEnd) (uint32, error) {
	s := w.off() / sectorSize
	if s >= vmdkMaxSectors {
		return 0, &SizeError{Format: l.format, Size: l.size, Reason: fmt.Sprintf(
			"the file has grown to the %d bytes that the format addresses", int64(vmdkMaxSectors*sectorSize))}
	}
	return uint32(s), nil
}

// endTable writes the grain table that was filled.
func (l *vmdkStream) endTable(w *fileEnd) (err error) {
	if l.table < 0 {
		return nil
	}
	w.write(vmdkMarker(vmdkMarkerGT, vmdkGTSectors))
	if l.gd[l.table], err = l.sector(w); err != nil {
		return err
	}
	for i, sector := range l.gt {
		w.p = binary.LittleEndian.AppendUint32(w.p, sector)
		l.gt[i] = 0
	}
	l.table = -1
	return nil
}

func (l *vmdkStream) finish(w *fileEnd) error {
	if err := l.endTable(w); err != nil {
		return err
	}
	w.write(vmdkMarker(vmdkMarkerGD, ceilDiv(int64(len(l.gd))*4, sectorSize)))
	gd, err := l.sector(w)
	if err != nil {
		return err
	}
	for _, sector := range l.gd {
		w.p = binary.LittleEndian.AppendUint32(w.p, sector)
	}
	w.align(sectorSize)
	w.write(vmdkMarker(vmdkMarkerFooter, 1))
	w.write(vmdkStreamHeader(l.size/sectorSize, uint64(gd)))
	w.write(vmdkMarker(vmdkMarkerEOS, 0))
	return nil
}

func (l *vmdkStream) patch() []byte    { return nil }
func (l *vmdkStream) needsPatch() bool { return false }

// The state: grain directory, number of the table being filled and one, and
// that table.
func (l *vmdkStream) appendState(p []byte) []byte {
	p = appendAscending(p, l.gd)
	p = binary.AppendUvarint(p, uint64(l.table+1))
	return appendAscending(p, l.gt[:])
}

func (l *vmdkStream) readState(r *stateReader, off int64) {
	sectors := min(off/sectorSize, vmdkMaxSectors)
	r.check(off%sectorSize == 0 && sectors >= vmdkStreamData)
	last := r.ascending(l.gd, vmdkStreamData, sectors)
	l.table = r.int(int64(len(l.gd))) - 1
	grains := r.ascending(l.gt[:], max(last+vmdkGTSectors, vmdkStreamData), sectors)
	if r.bad {
		return
	}
	if l.table < 0 {
		r.check(grains == 0)
		return
	}
	r.check(grains > 0)
	for _, sector := range l.gd[l.table:] {
		r.check(sector == 0)
	}
}
