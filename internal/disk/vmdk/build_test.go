package vmdk

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write puts a file into dir.
func write(tb testing.TB, dir, name string, data []byte) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		tb.Fatal(err)
	}
}

func read(tb testing.TB, dir, name string) []byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// pattern is size bytes of which about half the 64 KiB blocks are zeros, and
// the first and the last sector are not. Some blocks compress and some do not.
func pattern(size int64, seed uint64) []byte {
	source := rand.NewChaCha8([32]byte{byte(seed), byte(size >> 9)})
	r := rand.New(source)
	p := make([]byte, size)
	for off := int64(0); off < size; off += 64 << 10 {
		block := p[off:min(off+64<<10, size)]
		switch r.IntN(4) {
		case 0:
			_, _ = source.Read(block)
		case 1:
			copy(block, bytes.Repeat([]byte(fmt.Sprintf("block at %d. ", off)), len(block)/8))
		}
	}
	copy(p, "first")
	copy(p[size-4:], "last")
	return p
}

// text makes a descriptor of the given settings and extent lines.
func text(settings string, extents ...string) []byte {
	return []byte("# Disk DescriptorFile\nversion=1\n" + settings + "\n\n# Extent description\n" + strings.Join(extents, "\n") +
		"\n\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.adapterType = \"lsilogic\"\n")
}

// sparseFile describes a sparse file to be made by build, independently of the
// reader's own code.
type sparseFile struct {
	version, flags   uint32
	capacity, grain  uint64 // sectors
	entries          uint32
	descriptor       []byte
	packed, atEnd    bool
	grains           map[uint64][]byte // whole grains by number
	zero             map[uint64]bool
	lba              func(uint64) uint64 // what markers say; nil: the truth
	header           func([]byte)        // last changes to header and footer
	footer           func([]byte)        // last changes to the footer alone
	noTrailingMarker bool
}

// newSparseFile is one of 1 MiB in grains of 4 KiB, with four grains stored and
// three tables.
func newSparseFile() *sparseFile {
	s := &sparseFile{
		version: 1, flags: 3, capacity: 2048, grain: 8, entries: 128,
		descriptor: text("CID=11223344\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"", `RW 2048 SPARSE "x.vmdk"`),
		grains:     map[uint64][]byte{}, zero: map[uint64]bool{},
	}
	for i, g := range []uint64{0, 1, 100, 255} {
		s.grains[g] = bytes.Repeat([]byte{byte('a' + i)}, 4096)
	}
	return s
}

// newStream is the same as a stream with its directory at the end.
func newStream() *sparseFile {
	s := newSparseFile()
	s.version, s.flags, s.packed, s.atEnd = 3, 0x30001, true, true
	s.descriptor = text("CID=11223344\nparentCID=ffffffff\ncreateType=\"streamOptimized\"", `RDONLY 2048 SPARSE "generated-stream.vmdk"`)
	return s
}

// resize sets the capacity, in the descriptor as well.
func (s *sparseFile) resize(sectors uint64) {
	s.descriptor = bytes.Replace(s.descriptor, fmt.Appendf(nil, " %d SPARSE", s.capacity), fmt.Appendf(nil, " %d SPARSE", sectors), 1)
	s.capacity = sectors
}

// disk is what the file must read as.
func (s *sparseFile) disk() []byte {
	p := make([]byte, s.capacity*512)
	for g, data := range s.grains {
		copy(p[g*s.grain*512:], data)
	}
	return p
}

func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&511)...) }

// build lays the file out: header, descriptor, then redundant tables and
// tables, or, with atEnd, grains first and tables, directory and footer after.
func (s *sparseFile) build() []byte {
	le := binary.LittleEndian
	tables := (s.capacity + s.grain*uint64(s.entries) - 1) / (s.grain * uint64(s.entries))
	desc := pad(bytes.Clone(s.descriptor))
	head := make([]byte, 512)
	copy(head, "KDMV")
	le.PutUint32(head[4:], s.version)
	le.PutUint32(head[8:], s.flags)
	le.PutUint64(head[12:], s.capacity)
	le.PutUint64(head[20:], s.grain)
	if len(desc) > 0 {
		le.PutUint64(head[28:], 1)
		le.PutUint64(head[36:], uint64(len(desc)/512))
	}
	le.PutUint32(head[44:], s.entries)
	copy(head[73:], "\n \r\n")
	if s.packed {
		le.PutUint16(head[77:], 1)
	}
	out := append(bytes.Clone(head), desc...)
	here := func() uint32 { return uint32(len(out) / 512) }
	gt := make([]byte, 4*uint64(s.entries)*tables)
	var gd, rgd []byte
	var gdAt, rgdAt int
	if !s.atEnd {
		for _, d := range []struct {
			at *int
			gd *[]byte
		}{{&rgdAt, &rgd}, {&gdAt, &gd}} {
			*d.at = len(out)
			out = append(out, make([]byte, len(pad(make([]byte, 4*tables))))...)
			for range tables {
				*d.gd = le.AppendUint32(*d.gd, here())
				out = append(out, make([]byte, 4*s.entries)...)
			}
		}
	}
	overhead := (uint64(here()) + s.grain - 1) / s.grain * s.grain
	out = append(out, make([]byte, overhead*512-uint64(len(out)))...)
	for g := range (s.capacity + s.grain - 1) / s.grain {
		data, ok := s.grains[g]
		if s.zero[g] {
			le.PutUint32(gt[4*g:], 1)
		}
		if !ok {
			continue
		}
		le.PutUint32(gt[4*g:], here())
		if s.packed {
			lba := g * s.grain
			if s.lba != nil {
				lba = s.lba(lba)
			}
			data = marked(lba, compress(data))
		}
		out = append(out, data...)
	}
	size := int(4 * s.entries)
	if s.atEnd {
		for t := range int(tables) {
			if part := gt[t*size:][:size]; bytes.Count(part, []byte{0}) == size {
				gd = le.AppendUint32(gd, 0)
			} else {
				out = append(out, marker(uint64(size/512), 1)...)
				gd = le.AppendUint32(gd, here())
				out = append(out, part...)
			}
		}
		out = append(out, marker(1, 2)...)
		gdAt = len(out)
		out = append(out, pad(gd)...)
	} else {
		for t := range int(tables) {
			copy(out[le.Uint32(gd[4*t:])*512:], gt[t*size:][:size])
			copy(out[le.Uint32(rgd[4*t:])*512:], gt[t*size:][:size])
		}
		copy(out[gdAt:], gd)
		copy(out[rgdAt:], rgd)
	}
	le.PutUint64(head[48:], uint64(rgdAt/512))
	le.PutUint64(head[56:], uint64(gdAt/512))
	le.PutUint64(head[64:], overhead)
	if s.header != nil {
		s.header(head)
	}
	foot := bytes.Clone(head)
	if s.atEnd {
		le.PutUint64(head[56:], 1<<64-1)
		out = append(out, marker(1, 3)...)
		if s.footer != nil {
			s.footer(foot)
		}
		out = append(out, foot...)
		if !s.noTrailingMarker {
			out = append(out, marker(0, 0)...)
		}
	}
	copy(out, head)
	return out
}

func marker(value uint64, kind uint32) []byte {
	b := make([]byte, 512)
	binary.LittleEndian.PutUint64(b, value)
	binary.LittleEndian.PutUint32(b[12:], kind)
	return b
}

func compress(data []byte) []byte {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	_, _ = w.Write(data)
	_ = w.Close()
	return b.Bytes()
}

// marked is compressed data behind a grain's marker.
func marked(lba uint64, data []byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, lba)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return pad(append(b, data...))
}

// cowd makes an ESX sparse file of capacity sectors, grains of one sector.
func cowd(capacity uint32, grains map[uint32][]byte) []byte {
	le := binary.LittleEndian
	tables := (capacity + 4095) / 4096
	out := make([]byte, 2048)
	copy(out, "COWD")
	for i, v := range []uint32{1, 3, capacity, 1, 4, tables} {
		le.PutUint32(out[4+4*i:], v)
	}
	out = append(out, pad(make([]byte, 4*tables))...)
	for t := range tables {
		gt := make([]byte, 4*4096)
		at := len(out)
		out = append(out, gt...)
		used := false
		for i := range uint32(4096) {
			if data, ok := grains[t*4096+i]; ok {
				used = true
				le.PutUint32(out[at+int(4*i):], uint32(len(out)/512))
				out = append(out, data...)
			}
		}
		if !used {
			out = out[:at]
			continue
		}
		le.PutUint32(out[2048+4*t:], uint32(at/512))
	}
	le.PutUint32(out[28:], uint32(len(out)/512))
	return out
}
