package vhdx

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// logWrite is one update: 4 KiB of data, or n zeros.
type logWrite struct {
	off  int64
	data []byte
	n    int64
}

// logEntry is a log entry to be built from [MS-VHDX] 2.3.1.
type logEntry struct {
	seq           uint64
	guid          byte // the GUID's first byte
	tail          int
	flushed, last int64
	writes        []logWrite
}

// bytes makes the entry.
func (e logEntry) bytes() []byte {
	size := (64 + 32*len(e.writes) + 4095) / 4096 * 4096
	p := make([]byte, size)
	for i, w := range e.writes {
		d := p[64+32*i:]
		le64(d[16:], uint64(w.off))
		le64(d[24:], e.seq)
		if w.data == nil {
			copy(d, "zero")
			le64(d[8:], uint64(w.n))
			continue
		}
		copy(d, "desc")
		copy(d[4:8], w.data[4092:])
		copy(d[8:16], w.data)
		s := append([]byte("data"), make([]byte, 4092)...)
		le32(s[4:], uint32(e.seq>>32))
		copy(s[8:4092], w.data[8:])
		le32(s[4092:], uint32(e.seq))
		p = append(p, s...)
	}
	copy(p, "loge")
	le32(p[8:], uint32(len(p)))
	le32(p[12:], uint32(e.tail))
	le64(p[16:], e.seq)
	le32(p[24:], uint32(len(e.writes)))
	p[32] = e.guid
	le64(p[48:], uint64(e.flushed))
	le64(p[56:], uint64(e.last))
	putCRC(p)
	return p
}

// setLog puts p into the log's ring of n bytes at offset at of it, wrapping, and
// names its GUID in both headers.
func setLog(file []byte, n, at int, p []byte, guid byte) {
	ring := file[logAt:][:n]
	for i, b := range p {
		ring[(at+i)%n] = b
	}
	for i := range 2 {
		h := file[(64+64*i)<<10:][:4096]
		h[48] = guid
		putCRC(h)
	}
}

// changes lists the 4 KiB sectors in which after differs from before.
func changes(before, after []byte) []logWrite {
	var w []logWrite
	for off := 0; off < len(after); off += 4096 {
		a := after[off : off+4096]
		if off+4096 > len(before) || !bytes.Equal(before[off:off+4096], a) {
			w = append(w, logWrite{off: int64(off), data: a})
		}
	}
	return w
}

// checkSum is what the CRC-32C of a checked structure must be, for tests that
// read it back.
func checkSum(p []byte) bool {
	q := bytes.Clone(p)
	le32(q[4:], 0)
	return binary.LittleEndian.Uint32(p[4:]) == crc32.Checksum(q, crc32.MakeTable(crc32.Castagnoli))
}
