package vhdx

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"

	"ascend/internal/disk/disktest"
)

// spec describes an image to be built from the specification's text alone,
// sharing nothing with the reader.
type spec struct {
	size    int64
	block   int64  // 1 MiB when 0
	logical uint32 // 512 when 0
	fixed   bool
	child   bool
	write   [16]byte // DataWriteGuid
	pairs   [][2]string
	data    []byte         // what the sectors hold; nil: no block is there
	has     []bool         // the sectors that are in the image; nil: all
	state   map[int64]byte // a block's state, other than by has; 7 is made 6 where all sectors are there
	offset  map[int64]byte // MiB in the entries of blocks that are not there
	stale   byte           // what fills sectors that are not in the image
	log     int64          // bytes of the log, 1 MiB when 0
}

const (
	batGUID  = "\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08"
	metaGUID = "\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e"
	logAt    = 1 << 20
)

func le16(p []byte, v int)    { binary.LittleEndian.PutUint16(p, uint16(v)) }
func le32(p []byte, v uint32) { binary.LittleEndian.PutUint32(p, v) }
func le64(p []byte, v uint64) { binary.LittleEndian.PutUint64(p, v) }

// putCRC stores the CRC-32C of p at its offset 4.
func putCRC(p []byte) {
	le32(p[4:], 0)
	le32(p[4:], crc32.Checksum(p, crc32.MakeTable(crc32.Castagnoli)))
}

// made is a built file and where its parts are.
type made struct {
	p         []byte
	bat, meta int64
	ratio     int64
}

func (s spec) build() made {
	const m = 1 << 20
	if s.block == 0 {
		s.block = m
	}
	if s.logical == 0 {
		s.logical = 512
	}
	if s.log == 0 {
		s.log = m
	}
	logical := int64(s.logical)
	ratio := (1 << 23) * logical / s.block
	blocks := (s.size + s.block - 1) / s.block
	chunks := (blocks + ratio - 1) / ratio
	batLen := (chunks*(ratio+1)*8 + m - 1) / m * m
	f := made{ratio: ratio, meta: logAt + s.log, bat: logAt + s.log + m}
	f.p = make([]byte, f.bat+batLen)

	copy(f.p, "vhdxfile")
	copy(f.p[8:], "t\x00e\x00s\x00t\x00")
	for i := range 2 {
		h := f.p[(64+64*i)<<10:][:4096]
		copy(h, "head")
		le64(h[8:], uint64(7+i))
		copy(h[16:32], s.write[:])
		copy(h[32:48], s.write[:])
		le16(h[66:], 1)
		le32(h[68:], uint32(s.log))
		le64(h[72:], logAt)
		putCRC(h)
		r := f.p[(192+64*i)<<10:][:65536]
		copy(r, "regi")
		le32(r[8:], 2)
		region := func(k int, id string, off, n int64) {
			e := r[16+32*k:]
			copy(e, id)
			le64(e[16:], uint64(off))
			le32(e[24:], uint32(n))
			le32(e[28:], 1)
		}
		region(0, batGUID, f.bat, batLen)
		region(1, metaGUID, f.meta, m)
		putCRC(r)
	}

	t := f.p[f.meta:]
	copy(t, "metadata")
	n, at := 0, 65536
	add := func(id string, flags uint32, v []byte) {
		e := t[32+32*n:]
		copy(e, id)
		le32(e[16:], uint32(at))
		le32(e[20:], uint32(len(v)))
		le32(e[24:], flags)
		copy(t[at:], v)
		at += len(v)
		n++
		le16(t[10:], n)
	}
	u32 := func(v ...uint32) []byte {
		p := make([]byte, 4*len(v))
		for i, v := range v {
			le32(p[4*i:], v)
		}
		return p
	}
	var flags uint32
	if s.fixed {
		flags |= 1
	}
	if s.child {
		flags |= 2
	}
	add("\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b", 4, u32(uint32(s.block), flags))
	add("\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8", 6, u32(uint32(s.size), uint32(s.size>>32)))
	add("\xab\x12\xca\xbe\xe6\xb2\x23\x45\x93\xef\xc3\x09\xe0\x00\xc7\x46", 6, []byte("a virtual diskid"))
	add("\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f", 6, u32(s.logical))
	add("\xc7\x48\xa3\xcd\x5d\x44\x71\x44\x9c\xc9\xe9\x88\x52\x51\xc5\x56", 6, u32(4096))
	if s.child {
		add("\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c", 4, locatorItem(s.pairs))
	}

	stale := bytes.Repeat([]byte{s.stale}, int(logical))
	// Sector bitmaps, then blocks in an order of their own.
	entry := func(i int64, off int, state byte) { le64(f.p[f.bat+8*i:], uint64(off)|uint64(state)) }
	bitmaps := make([]int, chunks)
	if s.child {
		for c := range bitmaps {
			bitmaps[c] = len(f.p)
			f.p = append(f.p, make([]byte, m)...)
			entry(int64(c)*(ratio+1)+ratio, bitmaps[c], 6)
		}
	}
	order := rand.New(rand.NewPCG(5, uint64(s.size))).Perm(int(blocks))
	for _, k := range order {
		b := int64(k)
		var buf []byte
		if s.data != nil {
			buf = make([]byte, s.block)
		}
		per := s.block / logical
		there, all := 0, 0
		for i := range per {
			if s.data == nil {
				break
			}
			sector := b*per + i
			off := sector * logical
			if off >= s.size {
				break
			}
			all++
			if s.has != nil && !s.has[sector] {
				copy(buf[i*logical:], stale)
				continue
			}
			there++
			copy(buf[i*logical:], s.data[off:min(off+logical, s.size)])
			if s.child {
				bit := sector % (1 << 23)
				f.p[int64(bitmaps[b/ratio])+bit/8] |= 1 << (bit % 8)
			}
		}
		state, ok := s.state[b]
		switch {
		case ok:
		case there == 0:
		case there < all && s.child:
			state = 7
		default:
			state = 6
		}
		if state < 6 {
			entry(b+b/ratio, int(s.offset[b])<<20, state)
			continue
		}
		entry(b+b/ratio, len(f.p), state)
		f.p = append(f.p, buf...)
	}
	return f
}

func locatorItem(pairs [][2]string) []byte {
	p := make([]byte, 20+12*len(pairs))
	copy(p, "\xb7\xef\x4a\xb0\x9e\xd1\x81\x4a\xb7\x89\x25\xb8\xe9\x44\x59\x13")
	le16(p[18:], len(pairs))
	put := func(s string) (off, n int) {
		off = len(p)
		for _, u := range utf16.Encode([]rune(s)) {
			p = append(p, byte(u), byte(u>>8))
		}
		return off, len(p) - off
	}
	for i, kv := range pairs {
		ko, kn := put(kv[0])
		vo, vn := put(kv[1])
		e := p[20+12*i:]
		le32(e, uint32(ko))
		le32(e[4:], uint32(vo))
		le16(e[8:], kn)
		le16(e[10:], vn)
	}
	return p
}

func (s spec) put(t testing.TB, dir, name string) {
	t.Helper()
	put(t, dir, name, s.build().p)
}

// put writes a file, with holes where there are pages of zeros.
func put(t testing.TB, dir, name string, p []byte) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(p))); err != nil {
		t.Fatal(err)
	}
	const page = 64 << 10
	for off := 0; off < len(p); off += page {
		q := p[off:min(off+page, len(p))]
		if disktest.NonZero(q) < 0 {
			continue
		}
		if _, err := f.WriteAt(q, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
}
