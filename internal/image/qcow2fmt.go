package image

import "encoding/binary"

// Facts of QCOW2 version 3: QEMU, docs/interop/qcow2.txt ("Header", "Host
// cluster management", "Cluster mapping"). Numbers in the file are big-endian.
const (
	qcow2Magic = 0x514649fb // "QFI\xfb"

	qcow2MinCluster     = 64 << 10 // smallest cluster made here: a leaf of the map
	qcow2MaxCluster     = 2 << 20  // the largest that QEMU opens
	qcow2DefaultCluster = 64 << 10

	qcow2Copied     = 1 << 63 // in L1 and L2 entries: the cluster's refcount is exactly 1
	qcow2Compressed = 1 << 62 // in L2 entries

	qcow2RefcountOrder = 4 // refcounts of 1 << 4 bits

	qcow2HeaderLength         = 104 // without the compression type
	qcow2HeaderLengthCompress = 112 // with it, padded to a multiple of 8
	qcow2IncompatCompression  = 1 << 3
	qcow2CompressionZstd      = 1 // compression type; zlib, raw deflate, is 0
)

// qcow2Header is what varies in the header; offsets in bytes.
type qcow2Header struct {
	size             int64 // of the disk, bytes
	cluster          int64 // bytes
	l1, l1Entries    int64
	reftable         int64
	reftableClusters int64
	zstd             bool
}

// bytes is the header and the end of its (empty) list of extensions, to be
// followed by zeros to the end of the first cluster.
func (h qcow2Header) bytes() []byte {
	length := qcow2HeaderLength
	if h.zstd {
		length = qcow2HeaderLengthCompress
	}
	p := make([]byte, length+8) // 8: end of the header extensions, type 0 and length 0
	be := binary.BigEndian
	be.PutUint32(p[0:], qcow2Magic)
	be.PutUint32(p[4:], 3)
	be.PutUint32(p[20:], log2(h.cluster))
	be.PutUint64(p[24:], uint64(h.size))
	be.PutUint32(p[36:], uint32(h.l1Entries))
	be.PutUint64(p[40:], uint64(h.l1))
	be.PutUint64(p[48:], uint64(h.reftable))
	be.PutUint32(p[56:], uint32(h.reftableClusters))
	if h.zstd {
		be.PutUint64(p[72:], qcow2IncompatCompression)
		p[104] = qcow2CompressionZstd
	}
	be.PutUint32(p[96:], qcow2RefcountOrder)
	be.PutUint32(p[100:], uint32(length))
	return p
}

// qcow2RefcountClusters is how many clusters the refcount table and the
// refcount blocks take in a file that has other clusters besides them. They
// count themselves, so this is the smallest fixed point.
func qcow2RefcountClusters(other, cluster int64) (table, blocks int64) {
	perBlock := cluster * 8 >> qcow2RefcountOrder // clusters a refcount block counts
	perTable := cluster / 8                       // refcount blocks a cluster of the table points to
	for {
		b := ceilDiv(other+table+blocks, perBlock)
		t := ceilDiv(b, perTable)
		if b == blocks && t == table {
			return table, blocks
		}
		table, blocks = t, b
	}
}

// qcow2L1Entries is the number of L1 entries a disk of size bytes needs.
func qcow2L1Entries(size, cluster int64) int64 {
	return ceilDiv(size, cluster*(cluster/8))
}
