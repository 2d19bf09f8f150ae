package qcow2

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// img is a small image that is built by hand: the header in cluster 0, the L1
// table in cluster 1, one L2 table in cluster 2, and then what is appended.
type img struct {
	bits uint
	b    []byte
}

// newImg is an image of version 3 with clusters of 1<<bits bytes and a disk of
// size bytes, which one L2 table must do for.
func newImg(bits uint, size int64) *img {
	m := &img{bits: bits, b: make([]byte, 3<<bits)}
	copy(m.b, magic)
	m.put32(4, 3)
	m.put32(20, uint32(bits))
	m.put64(24, uint64(size))
	m.put32(36, 1)
	m.put64(40, 1<<bits)
	m.put64(48, 1<<bits) // QEMU wants a refcount table, anything will do
	m.put32(56, 1)
	m.put32(96, 4)
	m.put32(100, headerV3)
	m.put64(1<<bits, 2<<bits|1<<63)
	return m
}

func (m *img) put32(at int, v uint32) *img { binary.BigEndian.PutUint32(m.b[at:], v); return m }
func (m *img) put64(at int, v uint64) *img { binary.BigEndian.PutUint64(m.b[at:], v); return m }

func (m *img) incompat(bits uint64) *img { return m.put64(72, bits) }

// zstd makes zstd the compression type.
func (m *img) zstd() *img {
	m.incompat(incompatCompression).put32(100, 112)
	m.b[104] = compressionZstd
	return m
}

// l2 sets L2 entry i.
func (m *img) l2(i int, entry uint64) *img { return m.put64(2<<m.bits+8*i, entry) }

// l2x sets extended L2 entry i.
func (m *img) l2x(i int, entry, bitmap uint64) *img {
	m.incompat(incompatExtended)
	m.put64(2<<m.bits+16*i, entry)
	return m.put64(2<<m.bits+16*i+8, bitmap)
}

// add appends data at the next cluster boundary and returns its offset.
func (m *img) add(data []byte) uint64 {
	off := (len(m.b) + 1<<m.bits - 1) >> m.bits << m.bits
	m.b = append(m.b, make([]byte, off-len(m.b))...)
	m.b = append(m.b, data...)
	return uint64(off)
}

// entry is the L2 entry of a compressed cluster of n bytes at off.
func (m *img) entry(off uint64, n int) uint64 {
	sectors := (off+uint64(n)-1)/512 - off/512
	return flagPacked | off | sectors<<(62-(m.bits-8))
}

// backing makes name the backing file.
func (m *img) backing(name string, format string) *img {
	at := headerV3
	if format != "" {
		m.put32(at, extBackingFormat).put32(at+4, uint32(len(format)))
		copy(m.b[at+8:], format)
		at += 16
	}
	m.put64(8, uint64(at+8)).put32(16, uint32(len(name)))
	copy(m.b[at+8:], name)
	return m
}

func (m *img) write(tb testing.TB, dir, name string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), m.b, 0o600); err != nil {
		tb.Fatal(err)
	}
}

func deflated(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var z bytes.Buffer
	w, err := flate.NewWriter(&z, 6)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return z.Bytes()
}

func zstandard(tb testing.TB, data []byte, o ...zstd.EOption) []byte {
	tb.Helper()
	w, err := zstd.NewWriter(nil, o...)
	if err != nil {
		tb.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}
