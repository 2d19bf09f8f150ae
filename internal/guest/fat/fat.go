// Package fat reads FAT12, FAT16 and FAT32 volumes with long names, as EFI
// system partitions use them (Microsoft FAT Specification, 2005).
package fat

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"
	"unicode/utf16"

	"ascend/internal/guest/vfs"
)

var le = binary.LittleEndian

// FS is an opened volume.
type FS struct {
	r                                   io.ReaderAt
	bits                                int
	fat, rootAt, rootLen, data, cluster int64
	clusters                            uint32
	rootCluster                         uint32
	super                               vfs.Super
}

// Open opens the volume on r, which is size bytes long.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	b := make([]byte, 512)
	if n, _ := r.ReadAt(b, 0); n < len(b) || b[510] != 0x55 || b[511] != 0xaa || b[0] != 0xeb && b[0] != 0xe9 {
		return nil, vfs.ErrFormat
	}
	ss, spc, res, nf := int64(le.Uint16(b[11:])), int64(b[13]), int64(le.Uint16(b[14:])), int64(b[16])
	if ss < 512 || ss > 4096 || ss&(ss-1) != 0 || spc == 0 || spc&(spc-1) != 0 || res == 0 || nf == 0 || nf > 4 {
		return nil, vfs.ErrFormat
	}
	rootEnts := int64(le.Uint16(b[17:]))
	total, fatSecs := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if total == 0 {
		total = int64(le.Uint32(b[32:]))
	}
	is32 := fatSecs == 0
	ext := b[36:]
	if is32 {
		fatSecs = int64(le.Uint32(b[36:]))
		ext = b[64:]
	}
	f := &FS{r: r, fat: res * ss, cluster: spc * ss}
	f.rootAt = f.fat + nf*fatSecs*ss
	f.rootLen = rootEnts * 32
	f.data = f.rootAt + (f.rootLen+ss-1)/ss*ss
	if fatSecs == 0 || total*ss <= f.data {
		return nil, vfs.ErrFormat
	}
	n := (total*ss - f.data) / f.cluster
	switch {
	case is32:
		f.bits, f.rootCluster = 32, le.Uint32(b[44:])
	case n < 4085:
		f.bits = 12
	default:
		f.bits = 16
	}
	// The table bounds the clusters, the volume's size the table.
	n = min(n, fatSecs*ss*8/int64(f.bits)-2)
	if n <= 0 || f.data > size {
		return nil, fmt.Errorf("%w: FAT of %d bytes", vfs.ErrCorrupt, fatSecs*ss)
	}
	f.clusters = uint32(min(n, 0x0ffffff0))
	f.super = vfs.Super{
		Type: "vfat", UUID: fmt.Sprintf("%04X-%04X", le.Uint16(ext[5:]), le.Uint16(ext[3:])), Label: strings.ToValidUTF8(strings.TrimRight(string(ext[7:18]), " \x00"), "?"),
		Size: total * ss, Free: -1, FreeInodes: -1,
	}
	if f.super.Label == "NO NAME" {
		f.super.Label = ""
	}
	f.super.Dirty = ext[1]&1 != 0
	f.super.Free = f.free()
	return f, nil
}

// free counts free clusters; the table of an ESP is small, and a large one is
// not worth the reading.
func (f *FS) free() int64 {
	length := (int64(f.clusters)+2)*int64(f.bits)/8 + 1
	if length > 4<<20 {
		return -1
	}
	b := make([]byte, length)
	if n, _ := f.r.ReadAt(b, f.fat); int64(n) < length {
		return -1
	}
	free := int64(0)
	for c := uint32(2); c < f.clusters+2; c++ {
		if f.entry(b, c) == 0 {
			free++
		}
	}
	return free * f.cluster
}

func (f *FS) entry(b []byte, c uint32) uint32 {
	switch f.bits {
	case 12:
		v := uint32(le.Uint16(b[c+c/2:]))
		if c&1 != 0 {
			return v >> 4
		}
		return v & 0xfff
	case 16:
		return uint32(le.Uint16(b[c*2:]))
	}
	return le.Uint32(b[c*4:]) & 0x0fffffff
}

func (f *FS) next(c uint32) (uint32, bool, error) {
	var b [4]byte
	off := int64(c) * int64(f.bits) / 8
	want := 4
	if f.bits < 32 {
		want = 2
	}
	if n, err := f.r.ReadAt(b[:want], f.fat+off); n < want {
		return 0, false, err
	}
	var v, eoc uint32
	switch f.bits {
	case 12:
		v, eoc = uint32(le.Uint16(b[:])), 0xff8
		if c&1 != 0 {
			v >>= 4
		}
		v &= 0xfff
	case 16:
		v, eoc = uint32(le.Uint16(b[:])), 0xfff8
	default:
		v, eoc = le.Uint32(b[:])&0x0fffffff, 0x0ffffff8
	}
	return v, v >= eoc, nil
}

// Super describes the volume.
func (f *FS) Super() vfs.Super { return f.super }

// FoldsCase is true.
func (f *FS) FoldsCase() bool { return true }

// Root is the root folder.
func (f *FS) Root() (vfs.Node, error) {
	return &node{f: f, root: true, first: f.rootCluster, info: vfs.Info{Mode: fs.ModeDir | 0o755}}, nil
}

type node struct {
	f     *FS
	root  bool
	first uint32
	info  vfs.Info
}

func (n *node) Stat() vfs.Info        { return n.info }
func (n *node) Link() (string, error) { return "", fs.ErrInvalid }

func (n *node) Data() (io.ReaderAt, error) {
	runs, err := n.f.chain(n.first, n.info.Size)
	if err != nil {
		return nil, err
	}
	return &data{n.f, runs, n.info.Size}, nil
}

type run struct{ at, pos, size int64 } // at: in the file, pos: on the volume

// chain follows the clusters of limit bytes; -1: to the end of the chain.
func (f *FS) chain(c uint32, limit int64) ([]run, error) {
	var runs []run
	at := int64(0)
	for steps := uint32(0); limit < 0 || at < limit; steps++ {
		if c < 2 || c >= f.clusters+2 || steps > f.clusters {
			return nil, fmt.Errorf("%w: cluster chain", vfs.ErrCorrupt)
		}
		pos := f.data + int64(c-2)*f.cluster
		if k := len(runs); k > 0 && runs[k-1].pos+runs[k-1].size == pos {
			runs[k-1].size += f.cluster
		} else {
			runs = append(runs, run{at, pos, f.cluster})
		}
		at += f.cluster
		v, end, err := f.next(c)
		if err != nil {
			return nil, err
		}
		if end {
			break
		}
		c = v
	}
	if at < limit {
		return nil, fmt.Errorf("%w: cluster chain is short", vfs.ErrCorrupt)
	}
	return runs, nil
}

type data struct {
	f    *FS
	runs []run
	size int64
}

// ReadAt reads the file's bytes.
func (d *data) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at < 0 || at >= d.size {
			return n, io.EOF
		}
		lo, hi := 0, len(d.runs)
		for hi-lo > 1 {
			if m := (lo + hi) / 2; d.runs[m].at <= at {
				lo = m
			} else {
				hi = m
			}
		}
		r := d.runs[lo]
		want := p[n:min(int64(len(p)), int64(n)+min(r.size-(at-r.at), d.size-at))]
		k, err := d.f.r.ReadAt(want, r.pos+at-r.at)
		n += k
		if k < len(want) {
			return n, err
		}
	}
	return n, nil
}

const maxDir = 2 << 20 // 65,536 entries of 32 bytes

func (n *node) List() ([]vfs.Entry, error) {
	if !n.info.Mode.IsDir() {
		return nil, fs.ErrInvalid
	}
	var b []byte
	if n.root && n.f.bits != 32 {
		b = make([]byte, n.f.rootLen)
		if k, err := n.f.r.ReadAt(b, n.f.rootAt); k < len(b) {
			return nil, err
		}
	} else {
		runs, err := n.f.chain(n.first, -1)
		if err != nil {
			return nil, err
		}
		last := runs[len(runs)-1]
		size := min(last.at+last.size, maxDir)
		b = make([]byte, size)
		if k, err := (&data{n.f, runs, size}).ReadAt(b, 0); k < len(b) {
			return nil, err
		}
	}
	var out []vfs.Entry
	var long [20][]uint16
	parts := 0
	for ; len(b) >= 32 && b[0] != 0; b = b[32:] {
		attr := b[11]
		switch {
		case b[0] == 0xe5:
			parts = 0
			continue
		case attr&0x3f == 0x0f:
			i := int(b[0] & 0x1f)
			if i == 0 || i > len(long) {
				parts = 0
				continue
			}
			if b[0]&0x40 != 0 {
				parts = i
			}
			u := make([]uint16, 0, 13)
			for _, s := range [][]byte{b[1:11], b[14:26], b[28:32]} {
				for j := 0; j < len(s); j += 2 {
					u = append(u, le.Uint16(s[j:]))
				}
			}
			long[i-1] = u
			continue
		case attr&8 != 0:
			parts = 0
			continue
		}
		name := shortName(b)
		if parts > 0 {
			var u []uint16
			for _, l := range long[:parts] {
				u = append(u, l...)
			}
			for i, c := range u {
				if c == 0 {
					u = u[:i]
					break
				}
			}
			name = string(utf16.Decode(u))
		}
		parts = 0
		if name == "." || name == ".." {
			continue
		}
		e := &node{f: n.f, first: uint32(le.Uint16(b[20:]))<<16 | uint32(le.Uint16(b[26:]))}
		if n.f.bits != 32 {
			e.first &= 0xffff
		}
		e.info = vfs.Info{Mode: 0o644, Size: int64(le.Uint32(b[28:])), ModTime: dosTime(le.Uint16(b[24:]), le.Uint16(b[22:]))}
		if attr&0x10 != 0 {
			e.info.Mode, e.info.Size, e.info.Inode = fs.ModeDir|0o755, 0, uint64(e.first)
		}
		out = append(out, vfs.Entry{Name: name, Open: func() (vfs.Node, error) { return e, nil }})
	}
	return out, nil
}

func shortName(b []byte) string {
	base, ext := strings.TrimRight(string(b[:8]), " "), strings.TrimRight(string(b[8:11]), " ")
	if b[12]&8 != 0 {
		base = strings.ToLower(base)
	}
	if b[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		base += "." + ext
	}
	return strings.ToValidUTF8(base, "?")
}

func dosTime(d, t uint16) time.Time {
	return time.Date(1980+int(d>>9), time.Month(d>>5&15), int(d&31), int(t>>11), int(t>>5&63), int(t&31)*2, 0, time.UTC)
}
