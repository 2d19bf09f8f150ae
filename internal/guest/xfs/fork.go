package xfs

import (
	"fmt"

	"ascend/internal/guest/vfs"
)

// fork maps logical blocks of a file to those of the disk.
type fork struct {
	f      *FS
	raw    []byte
	format byte
	count  int // of extents in the inode
}

func (f *FS) fork(raw []byte, format byte, count uint64) (fork, error) {
	k := fork{f: f, raw: raw, format: format}
	bad := fmt.Errorf("%w: XFS fork", vfs.ErrCorrupt)
	switch format {
	case formatDev, formatLocal:
	case formatExtents:
		if count > uint64(len(raw)/16) {
			return k, bad
		}
		k.count = int(count)
	case formatBtree:
		if len(raw) < 4+16 {
			return k, bad
		}
	default:
		return k, bad
	}
	return k, nil
}

// lookup maps a logical block to the run that begins there; phys 0 is a hole, or
// space that was never written. What is returned lies within one allocation group
// and within the file system.
func (k fork) lookup(lb uint64) (phys, count uint64, err error) {
	const end = uint64(1) << 54
	bad := fmt.Errorf("%w: XFS extent tree", vfs.ErrCorrupt)
	switch k.format {
	case formatExtents:
		return k.find(k.raw[:16*k.count], lb, end)
	case formatBtree:
	default:
		return 0, 0, bad
	}
	level, num := int(be.Uint16(k.raw)), int(be.Uint16(k.raw[2:]))
	keys, ptrs := 4, 4+(len(k.raw)-4)/16*8
	if level < 1 || level > 9 || num < 1 || num > (len(k.raw)-4)/16 {
		return 0, 0, bad
	}
	b, stop := k.raw, end
	for {
		hit := -1
		for lo, hi := 0, num; lo < hi; {
			m := (lo + hi) / 2
			if first := be.Uint64(b[keys+8*m:]); first <= lb {
				hit, lo = m, m+1
			} else {
				stop, hi = min(stop, first), m
			}
		}
		if hit < 0 {
			return 0, stop - lb, nil
		}
		next := be.Uint64(b[ptrs+8*hit:])
		b = make([]byte, k.f.bs)
		if err := k.f.read(b, next, 0); err != nil {
			return 0, 0, err
		}
		magic := "BMAP"
		if k.f.v5 {
			magic = "BMA3"
		}
		level--
		num = int(be.Uint16(b[6:]))
		room := (len(b) - k.f.longHdr) / 16
		if string(b[:4]) != magic || int(be.Uint16(b[4:])) != level || num > room {
			return 0, 0, bad
		}
		if level == 0 {
			return k.find(b[k.f.longHdr:k.f.longHdr+16*num], lb, stop)
		}
		keys, ptrs = k.f.longHdr, k.f.longHdr+8*room
	}
}

// find looks a block up in sorted extent records; what they cover ends at stop.
func (k fork) find(b []byte, lb, stop uint64) (phys, count uint64, err error) {
	bad := fmt.Errorf("%w: XFS extent", vfs.ErrCorrupt)
	for lo, hi := 0, len(b)/16; lo < hi; {
		m := (lo + hi) / 2
		h, l := be.Uint64(b[16*m:]), be.Uint64(b[16*m+8:])
		first, start, n := h&^unwritten>>9, h&0x1ff<<43|l>>21, l&(1<<21-1)
		switch {
		case lb < first:
			stop, hi = min(stop, first), m
		case lb >= first+n:
			lo = m + 1
		default:
			count = first + n - lb
			if h&unwritten != 0 {
				return 0, count, nil
			}
			phys = start + lb - first
			if phys == 0 || phys&(1<<k.f.agLog-1)+count > uint64(k.f.agBlocks) {
				return 0, 0, bad
			}
			if _, err := k.f.pos(phys + count - 1); err != nil {
				return 0, 0, err
			}
			return phys, count, nil
		}
	}
	if stop <= lb {
		return 0, 0, bad
	}
	return 0, stop - lb, nil
}

// read reads a whole run of logical blocks, none of them a hole.
func (k fork) read(p []byte, lb uint64) error {
	for len(p) > 0 {
		phys, count, err := k.lookup(lb)
		if err != nil {
			return err
		}
		if phys == 0 {
			return fmt.Errorf("%w: a hole in XFS metadata", vfs.ErrCorrupt)
		}
		want := p[:min(uint64(len(p)), count*uint64(k.f.bs))]
		if err := k.f.read(want, phys, 0); err != nil {
			return err
		}
		p, lb = p[len(want):], lb+uint64(len(want))/uint64(k.f.bs)
	}
	return nil
}
