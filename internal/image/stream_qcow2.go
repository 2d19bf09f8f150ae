package image

import (
	"encoding/binary"
	"errors"

	"github.com/klauspost/compress/zstd"
)

const (
	// qcow2Window is the deflate window of compressed clusters: QEMU inflates
	// them with that of 4 KiB (block/qcow2-threads.c, windowBits -12).
	qcow2Window = 4 << 10

	// A compressed L2 entry is the file offset, not aligned, in the low bits and
	// above them the number of 512-byte sectors that the data touch, less one
	// (qcow2.txt, "Compressed Clusters Descriptor": x = 62 - (cluster_bits - 8)).
	qcow2SectorsShift = 54
	qcow2OffsetMask   = 1<<qcow2SectorsShift - 1

	// qcow2Saving is the least that compression must save for a cluster to be
	// stored compressed.
	qcow2Saving = sectorSize

	qcow2PerL2  = streamPiece / 8                             // entries of an L2 table
	qcow2PerRef = streamPiece * 8 / (1 << qcow2RefcountOrder) // clusters that a refcount block counts
)

// qcow2Stream is the layout of a compressed QCOW2 of 64 KiB clusters, made in
// one pass:
//
//	zeros                         the header's cluster, see patch
//	for each 512 MiB of the disk that have data:
//	    compressed clusters one behind the other, wherever a host cluster begins
//	    or ends, and aligned the clusters that do not shrink
//	    L2 table
//	L1 table, the last refcount blocks, refcount table
//
// and between them, behind every 2 GiB of the file, the refcount block of these.
// The gap before an aligned cluster is never larger than what compression saved
// before it; within a block the clusters that do not shrink are placed where
// that gap is the smallest.
//
// The encoded form of a cluster is a word, little-endian, of its number in the
// block (from bit 24) and the number of bytes that follow; streamPiece bytes are
// not compressed.
type qcow2Stream struct {
	size int64 // virtual, bytes
	zstd bool

	// Positions in the file are counted in clusters here; no file has 1<<32.
	l1       []uint32 // of L2 tables, 0: has no entries
	reftable []uint32 // of refcount blocks
	refs     []uint16 // how often each host cluster from len(reftable) × qcow2PerRef on is used
	table    int64    // number of the L2 table being filled, -1: none
	l2       []uint64

	header qcow2Header // known at the end
}

func newQCOW2Stream(size int64, zstd bool) layout {
	return &qcow2Stream{
		size: size, zstd: zstd, table: -1,
		l1: make([]uint32, qcow2L1Entries(size, streamPiece)),
		l2: make([]uint64, qcow2PerL2),
	}
}

// zstdCodec makes frames of one segment (RFC 8878), that is with a window of
// the cluster's size, without checksum.
type zstdCodec struct{ *zstd.Encoder }

// newZstd takes the levels of the zstd library, mapped to the four there are
// here; 0 is the fastest.
func newZstd(level int) (codec, error) {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(max(level, 1))),
		zstd.WithEncoderConcurrency(1), // clusters are compressed concurrently by their callers
		zstd.WithWindowSize(streamPiece),
		zstd.WithSingleSegment(true),
		zstd.WithEncoderCRC(false),
		zstd.WithLowerEncoderMem(true))
	return zstdCodec{e}, err
}

func (c zstdCodec) Append(dst, src []byte) []byte { return c.EncodeAll(src, dst) }

func (l *qcow2Stream) encode(dst []byte, c codec, cluster int64, data []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	body := len(dst)
	dst = c.Append(dst, data)
	if len(dst)-body > streamPiece-qcow2Saving {
		dst = append(dst[:body], data...)
	}
	binary.LittleEndian.PutUint32(dst[start:], uint32(cluster%blockPieces)<<24|uint32(len(dst)-body))
	return dst
}

func (l *qcow2Stream) start(w *fileEnd) { l.whole(w, zeroPiece[:]) }

// whole writes a cluster at the next cluster boundary, counts it and gives its
// number.
func (l *qcow2Stream) whole(w *fileEnd, p []byte) uint32 {
	n := writeCluster(w, p)
	l.refs = append(l.refs, 1)
	l.endRefs(w)
	return n
}

func writeCluster(w *fileEnd, p []byte) uint32 {
	w.align(streamPiece)
	n := uint32(w.off() / streamPiece)
	w.write(p)
	return n
}

// encodedCluster is a cluster of a block in encoded form.
type encodedCluster struct {
	entry int64 // in the L2 table
	data  []byte
}

func (l *qcow2Stream) put(w *fileEnd, first, n int64, enc []byte) error {
	var packed, plain [blockPieces]encodedCluster
	np, nw := 0, 0
	for last := int64(-1); len(enc) > 0; {
		if len(enc) < 4 {
			return errEncoded
		}
		word := int64(binary.LittleEndian.Uint32(enc))
		i, length := word>>24, word&(1<<24-1)
		if enc = enc[4:]; i <= last || i >= n || length == 0 || length > streamPiece || length > int64(len(enc)) {
			return errEncoded
		}
		last = i
		c := encodedCluster{(first + i) % qcow2PerL2, enc[:length]}
		if enc = enc[length:]; length == streamPiece {
			plain[nw] = c
			nw++
		} else {
			packed[np] = c
			np++
		}
	}
	if np+nw == 0 {
		return nil
	}
	if table := first / qcow2PerL2; table != l.table {
		l.endTable(w)
		l.table = table
	}
	cut := bestCut(w.off(), packed[:np])
	if nw == 0 {
		cut = np
	}
	for _, c := range packed[:cut] {
		if err := l.putPacked(w, c); err != nil {
			return err
		}
	}
	for _, c := range plain[:nw] {
		l.l2[c.entry] = uint64(l.whole(w, c.data))*streamPiece | qcow2Copied
	}
	for _, c := range packed[cut:np] {
		if err := l.putPacked(w, c); err != nil {
			return err
		}
	}
	return nil
}

// bestCut is how many of the compressed clusters to write at off so that the
// gap to the next cluster boundary is the smallest.
func bestCut(off int64, packed []encodedCluster) (best int) {
	gap := func() int64 { return roundUp(off, streamPiece) - off }
	least := gap()
	for i, c := range packed {
		off += int64(len(c.data))
		if g := gap(); g < least {
			best, least = i+1, g
		}
	}
	return best
}

// putPacked writes a compressed cluster at the end of the file.
func (l *qcow2Stream) putPacked(w *fileEnd, c encodedCluster) error {
	off := w.off()
	end := off + int64(len(c.data)) - 1 // its last byte
	l.l2[c.entry] = uint64(off) | uint64(end/sectorSize-off/sectorSize)<<qcow2SectorsShift | qcow2Compressed
	for host := off / streamPiece; host <= end/streamPiece; host++ {
		i := host - int64(len(l.reftable))*qcow2PerRef
		if i == int64(len(l.refs)) {
			l.refs = append(l.refs, 0)
		}
		if l.refs[i]++; l.refs[i] == 0 {
			return errors.New("more compressed clusters in one host cluster than can be counted")
		}
	}
	w.write(c.data)
	l.endRefs(w)
	return nil
}

// endTable writes the L2 table that was filled.
func (l *qcow2Stream) endTable(w *fileEnd) {
	if l.table < 0 {
		return
	}
	var p [streamPiece]byte
	for i, e := range l.l2 {
		binary.BigEndian.PutUint64(p[i*8:], e)
	}
	clear(l.l2)
	l.l1[l.table] = l.whole(w, p[:])
	l.table = -1
}

// endRefs writes the next refcount block once nothing that it counts can
// change any more.
func (l *qcow2Stream) endRefs(w *fileEnd) {
	if len(l.refs) >= qcow2PerRef {
		l.putRefs(w)
		l.refs = append(l.refs, 1) // the block's own cluster
	}
}

// putRefs moves the oldest counts into a refcount block at the next cluster
// boundary.
func (l *qcow2Stream) putRefs(w *fileEnd) {
	n := min(qcow2PerRef, len(l.refs))
	var p [streamPiece]byte
	for i, c := range l.refs[:n] {
		binary.BigEndian.PutUint16(p[i*2:], c)
	}
	l.reftable = append(l.reftable, writeCluster(w, p[:]))
	l.refs = append(l.refs[:0], l.refs[n:]...)
}

func (l *qcow2Stream) finish(w *fileEnd) error {
	l.endTable(w)
	w.align(streamPiece)
	// What is left to be counted: the clusters in refs, L1 table, refcount blocks,
	// refcount table.
	l1 := ceilDiv(int64(len(l.l1))*8, streamPiece)
	var blocks, table int64
	for {
		b := ceilDiv(int64(len(l.refs))+l1+blocks+table, qcow2PerRef)
		t := ceilDiv((int64(len(l.reftable))+b)*8, streamPiece)
		if b == blocks && t == table {
			break
		}
		blocks, table = b, t
	}
	l.header = qcow2Header{
		size: l.size, cluster: streamPiece, zstd: l.zstd,
		l1: w.off(), l1Entries: int64(len(l.l1)),
		reftable:         w.off() + (l1+blocks)*streamPiece,
		reftableClusters: table,
	}
	for _, n := range l.l1 {
		e := uint64(n) * streamPiece
		if n != 0 {
			e |= qcow2Copied
		}
		w.p = binary.BigEndian.AppendUint64(w.p, e)
	}
	w.align(streamPiece)
	for range l1 + blocks + table {
		l.refs = append(l.refs, 1)
	}
	for range blocks {
		l.putRefs(w)
	}
	for _, n := range l.reftable {
		w.p = binary.BigEndian.AppendUint64(w.p, uint64(n)*streamPiece)
	}
	w.align(streamPiece)
	return nil
}

func (l *qcow2Stream) needsPatch() bool { return true }

// patch is the header's cluster. Until it is written the file is no qcow2, so
// that a torn one is not taken for a disk.
func (l *qcow2Stream) patch() []byte {
	return append(make([]byte, 0, streamPiece), l.header.bytes()...)[:streamPiece]
}

// The state: refcount table and L1 table; number of the L2 table being filled
// and one; how many entries it has, then for each how many empty ones stand
// before it, by how much its offset is greater than the one before's, and the
// number of sectors it touches, 0 for one that is not compressed; the counts of
// the clusters up to the end of the file that no refcount block has.
func (l *qcow2Stream) appendState(p []byte) []byte {
	p = binary.AppendUvarint(p, uint64(len(l.reftable)))
	p = appendAscending(p, l.reftable)
	p = appendAscending(p, l.l1)
	p = binary.AppendUvarint(p, uint64(l.table+1))
	count := 0
	for _, e := range l.l2 {
		if e != 0 {
			count++
		}
	}
	p = binary.AppendUvarint(p, uint64(count))
	gap, last := uint64(0), int64(0)
	for _, e := range l.l2 {
		if e == 0 {
			gap++
			continue
		}
		off, sectors := int64(e&qcow2OffsetMask), uint64(0)
		if e&qcow2Compressed != 0 {
			sectors = e&^qcow2Compressed>>qcow2SectorsShift + 1
		}
		p = binary.AppendUvarint(p, gap)
		p = binary.AppendVarint(p, off-last)
		p = binary.AppendUvarint(p, sectors)
		gap, last = 0, off
	}
	for _, n := range l.refs {
		p = binary.AppendUvarint(p, uint64(n))
	}
	return p
}

func (l *qcow2Stream) readState(r *stateReader, off int64) {
	clusters := ceilDiv(off, streamPiece)
	l.reftable = make([]uint32, r.int(clusters/qcow2PerRef))
	r.check(r.ascending(l.reftable, qcow2PerRef, clusters) > 0 || len(l.reftable) == 0)
	for _, n := range l.reftable {
		r.check(n > 0)
	}
	r.ascending(l.l1, 1, clusters)
	l.table = r.int(int64(len(l.l1))) - 1
	if l.table >= 0 {
		for _, n := range l.l1[l.table:] {
			r.check(n == 0)
		}
	}
	l.readTable(r, off)
	n := clusters - int64(len(l.reftable))*qcow2PerRef
	if !r.check(n > 0 && n < qcow2PerRef) {
		return
	}
	for ; n > 0 && !r.bad; n-- {
		c := r.int(1<<16 - 1)
		r.check(c > 0)
		l.refs = append(l.refs, uint16(c))
	}
}

// readTable reads the L2 table being filled, which is empty when there is none.
func (l *qcow2Stream) readTable(r *stateReader, off int64) {
	count := r.int(qcow2PerL2)
	r.check(count > 0 == (l.table >= 0))
	i, at := int64(-1), int64(0)
	for ; count > 0 && !r.bad; count-- {
		i += 1 + r.int(qcow2PerL2)
		at += r.signed(off)
		sectors := r.int(streamPiece/sectorSize + 1)
		end := at + streamPiece
		e := uint64(at) | qcow2Copied
		if sectors > 0 {
			end = (at/sectorSize + sectors - 1) * sectorSize // the last sector need not be whole
			e = uint64(at) | uint64(sectors-1)<<qcow2SectorsShift | qcow2Compressed
		}
		if !r.check(i < qcow2PerL2 && at >= streamPiece && at < off && end <= off && (sectors > 0 || at%streamPiece == 0)) {
			return
		}
		l.l2[i] = e
	}
}
