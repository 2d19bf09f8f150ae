package xfs

import (
	"fmt"
	"io/fs"

	"ascend/internal/guest/vfs"
)

// Directories keep their entries in blocks below this offset of the file; what
// stands above is their index, which a listing does not need.
const leafOffset = 32 << 30

const maxDir = 128 << 20 // bytes of data blocks read of one directory

// List reads a directory: in the inode, or every data block of it.
func (n *node) List() ([]vfs.Entry, error) {
	if !n.info.Mode.IsDir() {
		return nil, fs.ErrInvalid
	}
	if n.data.format == formatLocal {
		return n.short()
	}
	var out []vfs.Entry
	b := make([]byte, n.f.dirBlock)
	per := uint64(n.f.dirBlock / n.f.bs)
	read := int64(0)
	for lb, end := uint64(0), uint64(min(n.info.Size, leafOffset)/n.f.bs); lb < end; {
		phys, count, err := n.data.lookup(lb)
		if err != nil {
			return nil, err
		}
		if phys == 0 {
			lb += max(count/per*per, per)
			continue
		}
		if read += n.f.dirBlock; read > maxDir {
			return nil, fmt.Errorf("%w: XFS directory is too large", vfs.ErrCorrupt)
		}
		if err := n.data.read(b, lb); err != nil {
			return nil, err
		}
		if out, err = n.block(out, b); err != nil {
			return nil, err
		}
		lb += per
	}
	return out, nil
}

func (n *node) entry(out []vfs.Entry, name []byte, ino uint64) ([]vfs.Entry, error) {
	s := string(name)
	if s == "." || s == ".." {
		return out, nil
	}
	if len(out) >= vfs.MaxEntries {
		return nil, fmt.Errorf("%w: too many directory entries", vfs.ErrCorrupt)
	}
	return append(out, vfs.Entry{Name: s, Open: func() (vfs.Node, error) { return n.f.inode(ino) }}), nil
}

func (n *node) short() (out []vfs.Entry, err error) {
	bad := fmt.Errorf("%w: XFS directory", vfs.ErrCorrupt)
	b := n.data.raw
	if n.info.Size > int64(len(b)) || n.info.Size < 6 {
		return nil, bad
	}
	b = b[:n.info.Size]
	count, width := int(b[0]), 4
	if b[1] > 0 {
		count, width = max(count, int(b[1])), 8
	}
	if 2+width > len(b) {
		return nil, bad
	}
	b = b[2+width:]
	for range count {
		if len(b) < 3 {
			return nil, bad
		}
		nl := int(b[0])
		at := 3 + nl
		if n.f.ftype {
			at++
		}
		if nl == 0 || at+width > len(b) {
			return nil, bad
		}
		ino := uint64(0)
		for _, c := range b[at : at+width] {
			ino = ino<<8 | uint64(c)
		}
		if out, err = n.entry(out, b[3:3+nl], ino); err != nil {
			return nil, err
		}
		b = b[at+width:]
	}
	return out, nil
}

// block reads a data block, or the one block of a small directory, which has its
// index at its end.
func (n *node) block(out []vfs.Entry, b []byte) (_ []vfs.Entry, err error) {
	bad := fmt.Errorf("%w: XFS directory block", vfs.ErrCorrupt)
	data, single := "XD2D", "XD2B"
	if n.f.v5 {
		data, single = "XDD3", "XDB3"
	}
	end := len(b)
	switch string(b[:4]) {
	case data:
	case single:
		leaves := int64(be.Uint32(b[end-8:]))
		if leaves*8+8 > int64(end-n.f.dataHdr) {
			return nil, bad
		}
		end -= 8 + int(leaves)*8
	default:
		return nil, bad
	}
	for p := n.f.dataHdr; p+8 <= end; {
		if be.Uint16(b[p:]) == 0xffff { // unused
			k := int(be.Uint16(b[p+2:]))
			if k < 8 || k%8 != 0 {
				return nil, bad
			}
			p += k
			continue
		}
		nl, more := int(b[p+8]), 2
		if n.f.ftype {
			more++
		}
		k := (9 + nl + more + 7) &^ 7
		if nl == 0 || p+k > end {
			return nil, bad
		}
		if out, err = n.entry(out, b[p+9:p+9+nl], be.Uint64(b[p:])); err != nil {
			return nil, err
		}
		p += k
	}
	return out, nil
}
