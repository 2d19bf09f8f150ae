// Package lvm reads LVM2 metadata from physical volumes and offers the logical
// volumes that can be read by arithmetic alone: linear and striped segments.
// Layout facts are those of lvm2's lib/format_text and libdm.
package lvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"

	"ascend/internal/guest/vfs"
)

var le = binary.LittleEndian

const (
	maxMeta = 16 << 20
	mdaMark = " LVM2 x[5A%r0N*>"
)

// PV is a physical volume found on a partition or disk.
type PV struct {
	UUID string
	Size int64
	Text string // newest metadata; "" when the areas are empty
	r    io.ReaderAt
}

// OpenPV reads the label and metadata of the physical volume on r.
func OpenPV(r io.ReaderAt, size int64) (*PV, error) {
	b := make([]byte, 2048)
	if n, _ := r.ReadAt(b, 0); n < len(b) {
		return nil, vfs.ErrFormat
	}
	for s := 0; s < 2048; s += 512 {
		l := b[s : s+512]
		if string(l[:8]) != "LABELONE" || string(l[24:32]) != "LVM2 001" {
			continue
		}
		off := int(le.Uint32(l[20:]))
		if off < 32 || off > 400 {
			return nil, fmt.Errorf("%w: LVM label", vfs.ErrCorrupt)
		}
		h := l[off:]
		pv := &PV{UUID: dashed(string(h[:32])), Size: int64(le.Uint64(h[32:])), r: r}
		h = h[40:]
		list := 0 // data areas first, then metadata areas, each ended by zeros
		for ; len(h) >= 16 && list < 2; h = h[16:] {
			at, n := le.Uint64(h), le.Uint64(h[8:])
			if at == 0 {
				list++
				continue
			}
			if list == 1 && pv.Text == "" && at < uint64(size) && n >= 512 && n <= uint64(size)-at {
				text, err := metadata(r, int64(at), int64(n))
				if err != nil {
					return pv, err
				}
				pv.Text = text
			}
		}
		return pv, nil
	}
	return nil, vfs.ErrFormat
}

func dashed(s string) string {
	var p []string
	for _, n := range []int{6, 4, 4, 4, 4, 4, 6} {
		p = append(p, s[:n])
		s = s[n:]
	}
	return strings.ToValidUTF8(strings.Join(p, "-"), "?")
}

func metadata(r io.ReaderAt, at, size int64) (string, error) {
	h := make([]byte, 512)
	if n, err := r.ReadAt(h, at); n < len(h) {
		return "", err
	}
	if string(h[4:20]) != mdaMark || crc(h[4:]) != le.Uint32(h) {
		return "", fmt.Errorf("%w: LVM metadata area", vfs.ErrCorrupt)
	}
	off, n := le.Uint64(h[40:]), le.Uint64(h[48:])
	if off == 0 {
		return "", nil
	}
	if off < 512 || off >= uint64(size) || n > maxMeta || n > uint64(size)-512 {
		return "", fmt.Errorf("%w: LVM metadata location", vfs.ErrCorrupt)
	}
	b := make([]byte, n)
	first := min(int64(n), size-int64(off))
	if k, err := r.ReadAt(b[:first], at+int64(off)); int64(k) < first {
		return "", err
	}
	if rest := b[first:]; len(rest) > 0 { // the area is a ring
		if k, err := r.ReadAt(rest, at+512); k < len(rest) {
			return "", err
		}
	}
	if crc(b) != le.Uint32(h[56:]) {
		return "", fmt.Errorf("%w: LVM metadata checksum", vfs.ErrCorrupt)
	}
	return string(bytes.TrimRight(b, "\x00")), nil
}

// crc is LVM's: the usual polynomial, its own start, not inverted.
func crc(b []byte) uint32 {
	c := uint32(0xf597a6cf)
	for _, x := range b {
		c ^= uint32(x)
		for range 8 {
			c = c>>1 ^ 0xedb88320&-(c&1)
		}
	}
	return c
}

// VG is a volume group with the volumes found of it.
type VG struct {
	Name    string
	UUID    string
	Missing []string // UUIDs of physical volumes not found
	LVs     []LV
}

// LV is a logical volume. Gap says why it cannot be read here.
type LV struct {
	Name string
	UUID string
	Size int64
	Gap  string
	segs []segment
}

type segment struct {
	at, size int64
	stripe   int64 // bytes; 0: linear
	legs     []leg
}

type leg struct {
	r   io.ReaderAt
	off int64
}

// Groups puts physical volumes together into groups.
func Groups(pvs []*PV) ([]VG, error) {
	byUUID := map[string]*PV{}
	newest := map[string]*group{}
	var errs []error
	for _, pv := range pvs {
		byUUID[pv.UUID] = pv
		if pv.Text == "" {
			continue
		}
		g, err := parse(pv.Text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if old := newest[g.id]; old == nil || old.seq < g.seq {
			newest[g.id] = g
		}
	}
	var out []VG
	for _, g := range newest {
		out = append(out, g.build(byUUID))
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, errors.Join(errs...)
}

// ReadAt reads the logical volume.
func (l *LV) ReadAt(p []byte, off int64) (int, error) {
	if l.Gap != "" {
		return 0, fmt.Errorf("logical volume %s: %s", l.Name, l.Gap)
	}
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at < 0 || at >= l.Size {
			return n, io.EOF
		}
		i := sort.Search(len(l.segs), func(i int) bool { return l.segs[i].at > at }) - 1
		if i < 0 || at >= l.segs[i].at+l.segs[i].size {
			return n, fmt.Errorf("%w: logical volume has a hole", vfs.ErrCorrupt)
		}
		s := l.segs[i]
		in, room := at-s.at, s.size-(at-s.at)
		g := s.legs[0]
		pos := g.off + in
		if s.stripe > 0 {
			chunk := in / s.stripe
			k := int64(len(s.legs))
			g = s.legs[chunk%k]
			pos = g.off + chunk/k*s.stripe + in%s.stripe
			room = s.stripe - in%s.stripe
		}
		want := p[n:min(int64(len(p)), int64(n)+min(room, l.Size-at))]
		k, err := g.r.ReadAt(want, pos)
		n += k
		if k < len(want) {
			return n, err
		}
	}
	return n, nil
}
