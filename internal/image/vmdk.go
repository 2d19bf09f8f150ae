package image

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"

	"ascend/internal/disk"
)

// newVMDKSparse is a monolithicSparse VMDK ("Hosted Sparse Extents"): header,
// descriptor, redundant grain directory and tables, grain directory and tables,
// grains in the disk's order. All grain tables are there, as VMware makes them.
func newVMDKSparse(src Source, f Format, o Options) (*File, error) {
	size := roundUp(src.Size(), sectorSize)
	capacity := size / sectorSize
	tables := ceilDiv(size, vmdkGTCover)
	dirBytes := roundUp(tables*4, sectorSize)
	data := &blocks{m: src.Map.Coarse(vmdkGrain), block: vmdkGrain}

	rgd := int64(vmdkDescriptorSector+vmdkDescriptorSectors) * sectorSize
	gd := rgd + dirBytes + tables*vmdkGT
	first := roundUp(gd+dirBytes+tables*vmdkGT, vmdkGrain)

	grainTables := &table{
		put: func(p []byte, off int64) { putVMDKGT(p, off, data.m, first/sectorSize, vmdkGrainSectors) },
		empty: func(off, n int64) int64 {
			return holes(data.m, off/4, n/4+1)*4 - off%4
		},
	}
	directory := func(at int64) rule {
		return prefixTable(4, tables, func(p []byte, i int64) {
			binary.LittleEndian.PutUint32(p, uint32((at+dirBytes+i*vmdkGT)/sectorSize))
		})
	}
	var b builder
	b.bytes(vmdkHeader{
		version: 1, flags: vmdkFlagNewline | vmdkFlagRedundant, capacity: capacity,
		rgd: uint64(rgd / sectorSize), gd: uint64(gd / sectorSize), overHead: first / sectorSize,
	}.bytes())
	b.bytes(vmdkDescriptor("monolithicSparse", "SPARSE", vmdkExtentName(o.Name), capacity, o))
	for _, at := range []int64{rgd, gd} {
		b.zero(at)
		b.add(dirBytes, directory(at))
		b.add(tables*vmdkGT, grainTables)
	}
	b.zero(first)
	b.add(data.length(), data)
	if err := checkVMDKFile(f, src, b.off); err != nil {
		return nil, err
	}
	return b.file(src, f), nil
}

// putVMDKGT generates grain table entries for consecutive grains, off counted
// from the entry of grain 0: the sector of each grain that is there, the others
// 0. The i-th allocated grain lies at sector first + i × stride.
func putVMDKGT(p []byte, off int64, m *disk.Map, first, stride int64) {
	putEntries(p, off, 4, func(p []byte, g int64) {
		allocatedRuns(m, g, g+int64(len(p)/4), func(b, n, rank int64) {
			sector := first + rank*stride
			for q := p[(b-g)*4:][:n*4]; len(q) > 0; q = q[4:] {
				binary.LittleEndian.PutUint32(q, uint32(sector))
				sector += stride
			}
		})
	})
}

// checkVMDKFile refuses a sparse extent that its own 32-bit sector numbers
// cannot address.
func checkVMDKFile(f Format, src Source, file int64) error {
	if file <= vmdkMaxSectors*sectorSize {
		return nil
	}
	return &SizeError{Format: f, Size: src.Size(), Reason: fmt.Sprintf(
		"with its %d allocated bytes the file would take %d bytes and the format addresses %d", src.Map.Bytes(), file, int64(vmdkMaxSectors*sectorSize))}
}

// FlatDescriptor is the text of a VMDK descriptor for a disk of size bytes
// whose content is the raw file extent, in the descriptor's folder: what a VMFS
// or NFS datastore of ESXi calls name.vmdk and name-flat.vmdk. Size is rounded
// up to whole sectors; the raw file must be, too.
func FlatDescriptor(extent string, size int64, o Options) ([]byte, error) {
	switch {
	case size <= 0 || size > disk.MaxSize:
		return nil, fmt.Errorf("cannot describe a flat VMDK of %d bytes", size)
	case extent == "" || len(extent) > vmdkMaxName || !utf8.ValidString(extent) ||
		strings.ContainsFunc(extent, func(r rune) bool { return r < ' ' || r == 0x7f || r == '"' || r == '/' || r == '\\' }):
		return nil, fmt.Errorf("cannot describe a flat VMDK: %q cannot stand in a descriptor", extent)
	}
	return vmdkDescriptor("vmfs", "VMFS", extent, ceilDiv(size, sectorSize), o), nil
}
