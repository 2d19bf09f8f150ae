package vhd

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf16"
)

// spec describes an image to be built from the specification's text alone,
// sharing nothing with the reader.
type spec struct {
	kind       uint32 // 2 fixed, 3 dynamic, 4 differencing
	size       int64
	current    int64 // current size in the footer, when it is not size
	block      int64 // 2 MiB when 0
	creator    string
	chs        [3]int
	id, parent [16]byte
	parentTime uint32
	parentName string
	locators   []place
	data       []byte // what the sectors hold
	has        []bool // the sectors that are in the image; nil: all
	entries    int    // BAT entries, when there are more than blocks
	oldFooter  bool   // 511 bytes
	stale      byte   // what fills sectors that are not in the image
}

type place struct {
	code string
	name string
	raw  []byte // instead of name
}

// build makes the file's bytes.
func (s spec) build() []byte {
	if s.block == 0 {
		s.block = 2 << 20
	}
	if s.creator == "" {
		s.creator = "win "
	}
	if s.current == 0 {
		s.current = s.size
	}
	foot := make([]byte, 512)
	copy(foot, "conectix")
	be := binary.BigEndian
	be.PutUint32(foot[8:], 2)
	be.PutUint32(foot[12:], 0x00010000)
	be.PutUint64(foot[16:], ^uint64(0))
	if s.kind != 2 {
		be.PutUint64(foot[16:], 512)
	}
	copy(foot[28:], s.creator)
	copy(foot[36:], "Wi2k")
	be.PutUint64(foot[40:], uint64(s.current))
	be.PutUint64(foot[48:], uint64(s.current))
	be.PutUint16(foot[56:], uint16(s.chs[0]))
	foot[58], foot[59] = byte(s.chs[1]), byte(s.chs[2])
	be.PutUint32(foot[60:], s.kind)
	copy(foot[68:], s.id[:])
	putSum(foot, 64)
	end := foot
	if s.oldFooter {
		end = foot[:511]
	}
	if s.kind == 2 {
		return append(append([]byte{}, s.data...), end...)
	}

	blocks := int((s.size + s.block - 1) / s.block)
	entries := max(blocks, s.entries)
	head := make([]byte, 1024)
	copy(head, "cxsparse")
	be.PutUint64(head[8:], ^uint64(0))
	be.PutUint64(head[16:], 1536)
	be.PutUint32(head[24:], 0x00010000)
	be.PutUint32(head[28:], uint32(entries))
	be.PutUint32(head[32:], uint32(s.block))
	copy(head[40:], s.parent[:])
	be.PutUint32(head[56:], s.parentTime)
	for i, u := range utf16.Encode([]rune(s.parentName)) {
		be.PutUint16(head[64+2*i:], u)
	}
	bat := make([]byte, (entries*4+511)/512*512)
	for i := range bat {
		bat[i] = 0xff
	}
	out := append(append(append([]byte{}, foot...), head...), bat...)
	for i, l := range s.locators {
		raw := l.raw
		if raw == nil && l.code == "MacX" {
			raw = []byte(l.name)
		} else if raw == nil {
			for _, u := range utf16.Encode([]rune(l.name)) {
				raw = append(raw, byte(u), byte(u>>8))
			}
		}
		e := head[576+24*i:]
		copy(e, l.code)
		space := (len(raw) + 511) / 512 * 512
		be.PutUint32(e[4:], uint32(space))
		be.PutUint32(e[8:], uint32(len(raw)))
		be.PutUint64(e[16:], uint64(len(out)))
		out = append(out, append(raw, make([]byte, space-len(raw))...)...)
	}
	putSum(head, 36)
	copy(out[512:], head)

	stale := bytes.Repeat([]byte{s.stale}, 512)
	// Blocks in an order of their own.
	order := rand.New(rand.NewPCG(3, uint64(s.size))).Perm(blocks)
	bitmap := max(s.block/512/8, 512)
	for _, b := range order {
		buf := make([]byte, bitmap+s.block)
		any := false
		for i := int64(0); i < s.block/512; i++ {
			sector := int64(b)*(s.block/512) + i
			off := sector * 512
			if off >= s.size {
				break
			}
			if s.has != nil && !s.has[sector] {
				copy(buf[bitmap+i*512:], stale)
				continue
			}
			any = true
			buf[i/8] |= 0x80 >> (i % 8)
			copy(buf[bitmap+i*512:], s.data[off:min(off+512, s.size)])
		}
		if any {
			be.PutUint32(out[1536+4*b:], uint32(len(out)/512))
			out = append(out, buf...)
		}
	}
	return append(out, end...)
}

func (s spec) write(t testing.TB, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), s.build(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// putSum stores the checksum of a footer or header at offset at.
func putSum(p []byte, at int) {
	copy(p[at:at+4], []byte{0, 0, 0, 0})
	var sum uint32
	for _, b := range p {
		sum += uint32(b)
	}
	binary.BigEndian.PutUint32(p[at:], ^sum)
}
