package image

import (
	"encoding/binary"
	"hash/adler32"
	"sort"
	"sync"

	"ascend/internal/disk"
)

// A grain as stored deflate blocks takes the same room whatever it holds, so
// that a streamOptimized VMDK of them has a size known before a byte is read:
//
//	grain marker   12 bytes
//	zlib header     2                  RFC 1950 section 2.2
//	block header    5, 32,768 bytes    RFC 1951 section 3.2.4
//	block header    5, 32,768 bytes
//	Adler-32        4
//	zeros         484                  up to a whole sector
//
// One stored block holds 65,535 bytes at most, hence two halves.
const (
	storedHalf   = vmdkGrain / 2
	storedHead   = vmdkGrainMarkerSize + 2 + storedBlock
	storedBlock  = 5
	storedMid    = storedHead + storedHalf   // the second block's header
	storedSecond = storedMid + storedBlock   // the second half
	storedTail   = storedSecond + storedHalf // Adler-32
	storedZlib   = storedTail + 4 - vmdkGrainMarkerSize
	storedGrain  = (storedTail + 4 + sectorSize - 1) / sectorSize * sectorSize

	// storedTable is a grain table with its marker, which follows its grains.
	storedTable = sectorSize + vmdkGT
)

// newVMDKStored is a streamOptimized VMDK of stored blocks: header and
// descriptor, for each 32 MiB of the disk that have data their grains and their
// grain table, the grain directory, the footer, the end-of-stream marker.
func newVMDKStored(src Source, f Format, o Options) (*File, error) {
	size := roundUp(src.Size(), sectorSize)
	capacity := size / sectorSize
	tables := ceilDiv(size, vmdkGTCover)
	dirBytes := roundUp(tables*4, sectorSize)
	body := &storedGrains{
		m: src.Map.Coarse(vmdkGrain), tables: src.Map.Coarse(vmdkGTCover),
		sums: make([]halfSums, storedSums),
	}
	body.buffers.New = func() any { return new([vmdkGrain]byte) }

	var b builder
	b.bytes(vmdkStreamStart(capacity, o))
	body.at = b.off
	b.add(body.start(body.tables.Count()), body)
	b.bytes(vmdkMarker(vmdkMarkerGD, dirBytes/sectorSize))
	gd := b.off / sectorSize
	b.add(dirBytes, &table{
		put: body.putDirectory,
		empty: func(off, n int64) int64 {
			return holes(body.tables, off/4, n/4+1)*4 - off%4
		},
	})
	b.bytes(vmdkMarker(vmdkMarkerFooter, 1))
	b.bytes(vmdkStreamHeader(capacity, uint64(gd)))
	b.bytes(vmdkMarker(vmdkMarkerEOS, 0))
	if err := checkVMDKFile(f, src, b.off); err != nil {
		return nil, err
	}
	file := b.file(src, f)
	file.seen = body.seen
	return file, nil
}

// storedGrains is the rule of the grains and grain tables.
type storedGrains struct {
	m      *disk.Map // of grains
	tables *disk.Map // of what a grain table stands for
	at     int64     // file offset of the section

	// The checksum of a grain's bytes stands behind them. It is kept from when
	// they were read until it is asked for, which saves a second reading.
	mu      sync.Mutex
	sums    []halfSums
	buffers sync.Pool // of *[vmdkGrain]byte
}

// storedSums is how many grains' checksums are kept.
const storedSums = 512

type halfSums struct {
	grain int64
	have  [2]bool
	sum   [2]uint32
}

// start is where the grains of the k-th grain table begin, for k up to the
// number of tables.
func (d *storedGrains) start(k int64) int64 {
	grains := d.m.Count()
	if k < d.tables.Count() {
		grains = d.m.Rank(d.tables.Select(k) * vmdkGTEs)
	}
	return grains*storedGrain + k*storedTable
}

// group is a grain table and its grains.
type group struct {
	k      int64 // number among the tables that are there
	table  int64 // number of the table
	start  int64 // offset of its first grain
	grains int64 // how many it has
	rank   int64 // of the first
}

// group finds the group that off lies in.
func (d *storedGrains) group(off int64) group {
	n := int(d.tables.Count())
	k := int64(sort.Search(n, func(k int) bool { return d.start(int64(k)) > off }) - 1)
	t := d.tables.Select(k)
	rank := d.m.Rank(t * vmdkGTEs)
	return group{k: k, table: t, start: rank*storedGrain + k*storedTable, rank: rank, grains: d.m.Rank((t+1)*vmdkGTEs) - rank}
}

// end is where the group's grains end and its marker and table begin.
func (g group) end() int64 { return g.start + g.grains*storedGrain }

func (d *storedGrains) segments(f *File, at, off, n int64, yield func(Segment) error) error {
	base := at - off
	stop := off + n
	for off < stop {
		g := d.group(off)
		for off < min(g.end(), stop) {
			i, in := (off-g.start)/storedGrain, (off-g.start)%storedGrain
			diskOff := d.m.Select(g.rank+i) * vmdkGrain
			var err error
			var end int64 // of the part of the grain that off lies in
			switch {
			case in >= storedHead && in < storedMid:
				end = min(off-in+storedMid, stop)
				err = f.runs(base+off, diskOff+in-storedHead, end-off, yield)
			case in >= storedSecond && in < storedTail:
				end = min(off-in+storedTail, stop)
				err = f.runs(base+off, diskOff+in-storedSecond+storedHalf, end-off, yield)
			default:
				next := int64(storedHead)
				if in >= storedTail {
					next = storedGrain
				} else if in >= storedMid {
					next = storedSecond
				}
				end = min(off-in+next, stop)
				err = yield(Segment{Off: base + off, Len: end - off, Kind: Meta})
			}
			if err != nil {
				return err
			}
			off = end
		}
		if end := min(g.end()+storedTable, stop); off < end {
			if err := yield(Segment{Off: base + off, Len: end - off, Kind: Meta}); err != nil {
				return err
			}
			off = end
		}
	}
	return nil
}

func (d *storedGrains) fill(f *File, p []byte, off int64) error {
	g := d.group(off)
	if off >= g.end() {
		d.putTable(p, off-g.end(), g)
		return nil
	}
	i, in := (off-g.start)/storedGrain, (off-g.start)%storedGrain
	grain := d.m.Select(g.rank + i)
	switch {
	case in < storedHead:
		var h [storedHead]byte
		putVMDKGrainMarker(h[:], grain*vmdkGrainSectors, storedZlib)
		h[vmdkGrainMarkerSize], h[vmdkGrainMarkerSize+1] = 0x78, 0x01 // deflate, 32 KiB window, no preset dictionary
		putStoredBlock(h[vmdkGrainMarkerSize+2:], false)
		copy(p, h[in:])
	case in < storedSecond:
		var h [storedBlock]byte
		putStoredBlock(h[:], true)
		copy(p, h[in-storedMid:])
	case in < storedTail+4:
		sum, err := d.checksum(f, grain)
		if err != nil {
			return err
		}
		var h [4]byte
		binary.BigEndian.PutUint32(h[:], sum)
		copy(p, h[in-storedTail:])
	}
	return nil
}

// putStoredBlock writes the header of a stored block of half a grain.
func putStoredBlock(p []byte, final bool) {
	if final {
		p[0] = 1
	}
	binary.LittleEndian.PutUint16(p[1:], storedHalf)
	binary.LittleEndian.PutUint16(p[3:], ^uint16(storedHalf))
}

// putTable generates a group's marker and grain table.
func (d *storedGrains) putTable(p []byte, off int64, g group) {
	if off < sectorSize {
		n := copy(p, vmdkMarker(vmdkMarkerGT, vmdkGTSectors)[off:])
		p, off = p[n:], off+int64(n)
	}
	if len(p) == 0 {
		return
	}
	// The table's grains are counted from the section's first one, tables between
	// them included.
	first := (d.at + g.k*storedTable) / sectorSize
	putVMDKGT(p, g.table*vmdkGT+off-sectorSize, d.m, first, storedGrain/sectorSize)
}

// putDirectory generates the grain directory: the sector of each grain table.
func (d *storedGrains) putDirectory(p []byte, off int64) {
	putEntries(p, off, 4, func(p []byte, t int64) {
		allocatedRuns(d.tables, t, t+int64(len(p)/4), func(b, n, k int64) {
			for i := range n {
				at := d.at + d.start(k+i+1) - vmdkGT
				binary.LittleEndian.PutUint32(p[(b-t+i)*4:], uint32(at/sectorSize))
			}
		})
	})
}

// seen keeps the checksum of half a grain that was read.
func (d *storedGrains) seen(p []byte, s Segment) {
	if len(p) != storedHalf || s.DiskOff%storedHalf != 0 {
		return
	}
	sum := adler32.Checksum(p)
	grain, half := s.DiskOff/vmdkGrain, s.DiskOff/storedHalf%2
	d.mu.Lock()
	defer d.mu.Unlock()
	h := &d.sums[grain%storedSums]
	if h.grain != grain {
		*h = halfSums{grain: grain}
	}
	h.have[half], h.sum[half] = true, sum
}

// checksum is the Adler-32 of a grain.
func (d *storedGrains) checksum(f *File, grain int64) (uint32, error) {
	d.mu.Lock()
	h := d.sums[grain%storedSums]
	d.mu.Unlock()
	if h.grain == grain && h.have[0] && h.have[1] {
		return joinAdler(h.sum[0], h.sum[1], storedHalf), nil
	}
	p := d.buffers.Get().(*[vmdkGrain]byte)
	defer d.buffers.Put(p)
	if err := f.readDisk(p[:], grain*vmdkGrain); err != nil {
		return 0, err
	}
	return adler32.Checksum(p[:]), nil
}

// joinAdler is the Adler-32 of a‖b from those of a and of b, n being b's length
// (RFC 1950 section 8.2: s1 is one and the sum of the bytes, s2 the sum of the
// s1 after each byte).
func joinAdler(a, b uint32, n int64) uint32 {
	const mod = 65521
	a1, a2 := int64(a&0xffff), int64(a>>16)
	b1, b2 := int64(b&0xffff), int64(b>>16)
	s1 := (a1 + b1 - 1 + mod) % mod
	s2 := (a2 + b2 + n*(a1-1+mod)) % mod
	return uint32(s2<<16 | s1)
}
