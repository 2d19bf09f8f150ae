// Package ntfs reads NTFS volumes: the master file table, attribute lists,
// folder indexes, data runs, resident data. Compressed and encrypted files are
// refused. Facts are those of the Linux-NTFS project's documentation. $LogFile
// is not replayed.
package ntfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"time"
	"unicode/utf16"

	"ascend/internal/guest/vfs"
)

var le = binary.LittleEndian

const (
	attrList    = 0x20
	attrName    = 0x30
	attrVolume  = 0x70
	attrData    = 0x80
	attrRoot    = 0x90
	attrAlloc   = 0xa0
	attrReparse = 0xc0
	maxRuns     = 1 << 20
	maxIndex    = 256 << 20
)

// FS is an opened volume.
type FS struct {
	r                     io.ReaderAt
	cluster, record, size int64
	mft                   *stream
	super                 vfs.Super
}

// Open opens the volume on r, which is size bytes long.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	b := make([]byte, 512)
	if n, _ := r.ReadAt(b, 0); n < len(b) || string(b[3:11]) != "NTFS    " {
		return nil, vfs.ErrFormat
	}
	bad := fmt.Errorf("%w: NTFS boot sector", vfs.ErrCorrupt)
	ss, spc := int64(le.Uint16(b[11:])), int64(b[13])
	if spc > 0x80 {
		spc = 1 << min(256-spc, 30)
	}
	f := &FS{r: r, size: size, cluster: ss * spc}
	if ss < 256 || ss > 4096 || ss&(ss-1) != 0 || f.cluster < 512 || f.cluster > 2<<20 {
		return nil, bad
	}
	if c := int8(b[64]); c > 0 {
		f.record = int64(c) * f.cluster
	} else if c > -20 {
		f.record = 1 << -c
	}
	at := int64(le.Uint64(b[48:]))
	if f.record < 512 || f.record > 65536 || at <= 0 || at > size/f.cluster {
		return nil, bad
	}
	rec := make([]byte, f.record)
	if n, err := r.ReadAt(rec, at*f.cluster); n < len(rec) {
		return nil, err
	}
	// The table's own first record tells where the rest of the table stands.
	f.mft = &stream{f: f}
	if err := fixup(rec, "FILE"); err != nil {
		return nil, err
	}
	attrs, err := attributes(rec)
	if err != nil {
		return nil, err
	}
	for _, a := range attrs {
		if a.typ == attrData && a.name == "" {
			if err := f.mft.add(a); err != nil {
				return nil, err
			}
		}
	}
	if len(f.mft.runs) == 0 {
		return nil, fmt.Errorf("%w: master file table", vfs.ErrCorrupt)
	}
	if n, err := f.node(0); err == nil { // again, with its attribute list
		if d, ok := n.stream(attrData, ""); ok && len(d.runs) > 0 {
			f.mft = d
		}
	}
	f.super = vfs.Super{Type: "ntfs", UUID: fmt.Sprintf("%016X", le.Uint64(b[72:])), Size: int64(le.Uint64(b[40:])) * ss, Free: -1, FreeInodes: -1}
	if n, err := f.node(3); err == nil {
		if s, ok := n.stream(attrVolume, ""); ok && len(s.resident) >= 12 {
			f.super.Dirty = le.Uint16(s.resident[10:])&1 != 0
		}
		if s, ok := n.stream(0x60, ""); ok {
			f.super.Label = utf(s.resident)
		}
	}
	f.super.Free = f.free()
	return f, nil
}

// free counts clear bits of $Bitmap where it is small enough to be read.
func (f *FS) free() int64 {
	n, err := f.node(6)
	if err != nil {
		return -1
	}
	s, ok := n.stream(attrData, "")
	if !ok || s.size > 8<<20 {
		return -1
	}
	b := make([]byte, s.size)
	if k, _ := s.ReadAt(b, 0); k < len(b) {
		return -1
	}
	free, total := int64(0), f.super.Size/f.cluster
	for i := int64(0); i < total && i/8 < int64(len(b)); i++ {
		if b[i/8]>>(i%8)&1 == 0 {
			free++
		}
	}
	return free * f.cluster
}

func utf(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = le.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

// fixup undoes the update sequence of a record.
func fixup(b []byte, magic string) error {
	bad := fmt.Errorf("%w: NTFS record", vfs.ErrCorrupt)
	if len(b) < 48 || string(b[:4]) != magic {
		return bad
	}
	at, n := int(le.Uint16(b[4:])), int(le.Uint16(b[6:]))
	if n < 2 || at+2*n > len(b) || (n-1)*512 > len(b) {
		return bad
	}
	for i := 1; i < n; i++ {
		p := b[i*512-2 : i*512]
		if p[0] != b[at] || p[1] != b[at+1] {
			return bad // torn
		}
		copy(p, b[at+2*i:at+2*i+2])
	}
	return nil
}

type attribute struct {
	typ   uint32
	name  string
	flags uint16
	b     []byte // the whole attribute
}

func attributes(rec []byte) ([]attribute, error) {
	bad := fmt.Errorf("%w: NTFS attribute", vfs.ErrCorrupt)
	var out []attribute
	for at := int(le.Uint16(rec[20:])); ; {
		if at+8 > len(rec) {
			return nil, bad
		}
		typ, n := le.Uint32(rec[at:]), int(le.Uint32(rec[at+4:]))
		if typ == 0xffffffff {
			return out, nil
		}
		if n < 24 || n > len(rec)-at {
			return nil, bad
		}
		b := rec[at : at+n]
		nl, no := 2*int(b[9]), int(le.Uint16(b[10:]))
		if no+nl > n {
			return nil, bad
		}
		out = append(out, attribute{typ, utf(b[no : no+nl]), le.Uint16(b[12:]), b})
		at += n
	}
}

type run struct{ vcn, lcn, n int64 } // lcn -1: a hole

// stream is an attribute's content.
type stream struct {
	f        *FS
	resident []byte
	runs     []run
	size     int64
	valid    int64
	flags    uint16
}

func (s *stream) add(a attribute) error {
	bad := fmt.Errorf("%w: NTFS data runs", vfs.ErrCorrupt)
	b := a.b
	s.flags |= a.flags
	if b[8] == 0 {
		n, at := int(le.Uint32(b[16:])), int(le.Uint16(b[20:]))
		if at+n > len(b) || n < 0 {
			return bad
		}
		s.resident, s.size, s.valid = append([]byte{}, b[at:at+n]...), int64(n), int64(n)
		return nil
	}
	if len(b) < 64 {
		return bad
	}
	vcn := int64(le.Uint64(b[16:]))
	if vcn == 0 {
		s.size, s.valid = int64(le.Uint64(b[48:])), int64(le.Uint64(b[56:]))
		if s.size < 0 || s.size > 1<<50 || s.valid < 0 {
			return bad
		}
	}
	if at := int(le.Uint16(b[32:])); at < len(b) {
		b = b[at:]
	} else {
		return bad
	}
	lcn := int64(0)
	for len(b) > 0 && b[0] != 0 {
		ln, on := int(b[0]&15), int(b[0]>>4)
		if ln == 0 || ln > 8 || on > 8 || 1+ln+on > len(b) || len(s.runs) >= maxRuns {
			return bad
		}
		n := int64(0)
		for i := ln; i > 0; i-- {
			n = n<<8 | int64(b[i])
		}
		d := int64(0)
		if on > 0 {
			d = int64(int8(b[ln+on]))
			for i := ln + on - 1; i > ln; i-- {
				d = d<<8 | int64(b[i])
			}
		}
		b = b[1+ln+on:]
		if n <= 0 || n > 1<<40 || vcn < 0 || vcn > 1<<44 {
			return bad
		}
		r := run{vcn, -1, n}
		if on > 0 {
			lcn += d
			if r.lcn = lcn; lcn < 0 || lcn > s.f.size/s.f.cluster {
				return bad
			}
		}
		s.runs = append(s.runs, r)
		vcn += n
	}
	return nil
}

// ReadAt reads the attribute's bytes.
func (s *stream) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at < 0 || at >= s.size {
			return n, io.EOF
		}
		want := p[n:min(int64(len(p)), int64(n)+s.size-at)]
		if s.resident != nil {
			n += copy(want, s.resident[at:])
			continue
		}
		if at >= s.valid { // never written: zeros
			clear(want)
			n += len(want)
			continue
		}
		want = want[:min(int64(len(want)), s.valid-at)]
		c := at / s.f.cluster
		lo, hi := 0, len(s.runs)
		for hi-lo > 1 {
			if m := (lo + hi) / 2; s.runs[m].vcn <= c {
				lo = m
			} else {
				hi = m
			}
		}
		if hi == 0 || c < s.runs[lo].vcn || c >= s.runs[lo].vcn+s.runs[lo].n {
			return n, fmt.Errorf("%w: NTFS data runs are incomplete", vfs.ErrCorrupt)
		}
		r := s.runs[lo]
		in := at - r.vcn*s.f.cluster
		want = want[:min(int64(len(want)), r.n*s.f.cluster-in)]
		if r.lcn < 0 {
			clear(want)
		} else if k, err := s.f.r.ReadAt(want, r.lcn*s.f.cluster+in); k < len(want) {
			return n + k, err
		}
		n += len(want)
	}
	return n, nil
}

// Super describes the volume.
func (f *FS) Super() vfs.Super { return f.super }

// FoldsCase is true, as Windows has it.
func (f *FS) FoldsCase() bool { return true }

// Root is the root folder.
func (f *FS) Root() (vfs.Node, error) { return f.node(5) }

type node struct {
	f       *FS
	info    vfs.Info
	streams map[string]*stream
	reparse bool
}

func key(typ uint32, name string) string { return fmt.Sprintf("%x:%s", typ, name) }

func (n *node) stream(typ uint32, name string) (*stream, bool) {
	s, ok := n.streams[key(typ, name)]
	return s, ok
}

func (f *FS) recordAt(i uint64) ([]byte, error) {
	if i > uint64(f.mft.size/f.record) {
		return nil, fmt.Errorf("%w: NTFS record %d", vfs.ErrCorrupt, i)
	}
	b := make([]byte, f.record)
	if n, err := f.mft.ReadAt(b, int64(i)*f.record); n < len(b) {
		return nil, fmt.Errorf("cannot read NTFS record %d: %w", i, err)
	}
	return b, fixup(b, "FILE")
}

func (f *FS) node(i uint64) (*node, error) {
	rec, err := f.recordAt(i)
	if err != nil {
		return nil, err
	}
	if le.Uint16(rec[22:])&1 == 0 {
		return nil, fs.ErrNotExist
	}
	attrs, err := attributes(rec)
	if err != nil {
		return nil, err
	}
	n := &node{f: f, streams: map[string]*stream{}, info: vfs.Info{Mode: 0o644, Inode: i}}
	add := func(as []attribute, skip uint32) error {
		for _, a := range as {
			if a.typ == skip {
				continue
			}
			k := key(a.typ, a.name)
			s := n.streams[k]
			if s == nil {
				s = &stream{f: f}
				n.streams[k] = s
			} else if a.typ == attrName {
				continue
			}
			if err := s.add(a); err != nil {
				return err
			}
		}
		return nil
	}
	if err := add(attrs, 0); err != nil {
		return nil, err
	}
	if l, ok := n.stream(attrList, ""); ok {
		if err := n.extend(l, i, add); err != nil {
			return nil, err
		}
	}
	if le.Uint16(rec[22:])&2 != 0 {
		n.info.Mode = fs.ModeDir | 0o755
	} else if d, ok := n.stream(attrData, ""); ok {
		n.info.Size = d.size
	}
	if s, ok := n.stream(0x10, ""); ok && len(s.resident) >= 16 {
		n.info.ModTime = time.Unix(int64(le.Uint64(s.resident[8:])/1e7)-11644473600, 0).UTC()
	}
	if _, n.reparse = n.stream(attrReparse, ""); n.reparse && n.info.Mode.IsDir() {
		n.info.Mode = fs.ModeIrregular // a junction: never followed
	}
	return n, nil
}

// extend reads the further records an attribute list names, each once.
func (n *node) extend(l *stream, self uint64, add func([]attribute, uint32) error) error {
	if l.size > 1<<20 {
		return fmt.Errorf("%w: NTFS attribute list", vfs.ErrCorrupt)
	}
	b := make([]byte, l.size)
	if k, err := l.ReadAt(b, 0); k < len(b) {
		return err
	}
	seen := map[uint64]bool{self: true}
	for len(b) >= 26 {
		k := int(le.Uint16(b[4:]))
		if k < 26 || k > len(b) {
			return fmt.Errorf("%w: NTFS attribute list", vfs.ErrCorrupt)
		}
		ref := le.Uint64(b[16:]) & 0xffffffffffff
		b = b[k:]
		if seen[ref] {
			continue
		}
		if seen[ref] = true; len(seen) > 4096 {
			return fmt.Errorf("%w: NTFS attribute list", vfs.ErrCorrupt)
		}
		rec, err := n.f.recordAt(ref)
		if err != nil {
			return err
		}
		as, err := attributes(rec)
		if err != nil {
			return err
		}
		if err := add(as, attrList); err != nil {
			return err
		}
	}
	for _, s := range n.streams {
		sortRuns(s.runs)
	}
	return nil
}

func (n *node) Stat() vfs.Info        { return n.info }
func (n *node) Link() (string, error) { return "", fs.ErrInvalid }

func (n *node) Data() (io.ReaderAt, error) {
	s, ok := n.stream(attrData, "")
	if !ok {
		return nil, fmt.Errorf("%w: file without data", vfs.ErrCorrupt)
	}
	if s.flags&0x40ff != 0 || n.reparse {
		return nil, fmt.Errorf("compressed, encrypted or redirected file %w", vfs.ErrUnsupported)
	}
	return s, nil
}

// Run is vfs.Runs.
func (s *stream) Run(at int64) (length int64, data bool, err error) {
	if s.resident != nil {
		return s.size - at, true, nil
	}
	if at >= s.valid {
		return s.size - at, false, nil
	}
	for _, r := range s.runs {
		if end := (r.vcn + r.n) * s.f.cluster; at >= r.vcn*s.f.cluster && at < end {
			return min(end, s.valid) - at, r.lcn >= 0, nil
		}
	}
	return 0, false, fmt.Errorf("%w: NTFS data runs are incomplete", vfs.ErrCorrupt)
}
