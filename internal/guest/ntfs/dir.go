package ntfs

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"

	"ascend/internal/guest/vfs"
)

func sortRuns(r []run) {
	slices.SortFunc(r, func(a, b run) int { return cmp.Compare(a.vcn, b.vcn) })
}

// List reads the index root and every block of the index allocation that is
// whole; the tree's order does not matter to a listing.
func (n *node) List() ([]vfs.Entry, error) {
	if !n.info.Mode.IsDir() {
		return nil, fs.ErrInvalid
	}
	root, ok := n.stream(attrRoot, "$I30")
	if !ok || len(root.resident) < 32 {
		return nil, fmt.Errorf("%w: NTFS folder without index", vfs.ErrCorrupt)
	}
	out, err := n.entries(nil, root.resident[16:])
	if err != nil {
		return nil, err
	}
	alloc, ok := n.stream(attrAlloc, "$I30")
	if !ok {
		return out, nil
	}
	block := int64(le.Uint32(root.resident[8:]))
	if block < 512 || block > 65536 || alloc.size > maxIndex {
		return nil, fmt.Errorf("%w: NTFS index", vfs.ErrCorrupt)
	}
	used := []byte(nil)
	if m, ok := n.stream(0xb0, "$I30"); ok && m.size <= maxIndex/512/8 {
		used = make([]byte, m.size)
		if k, err := m.ReadAt(used, 0); k < len(used) {
			return nil, err
		}
	}
	b := make([]byte, block)
	for i := int64(0); (i+1)*block <= alloc.size; i++ {
		if used != nil && (i/8 >= int64(len(used)) || used[i/8]>>(i%8)&1 == 0) {
			continue
		}
		if k, err := alloc.ReadAt(b, i*block); k < len(b) {
			return nil, err
		}
		if err := fixup(b, "INDX"); err != nil {
			return nil, err
		}
		if out, err = n.entries(out, b[24:]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// entries reads the entries behind an index header.
func (n *node) entries(out []vfs.Entry, b []byte) ([]vfs.Entry, error) {
	bad := fmt.Errorf("%w: NTFS index entry", vfs.ErrCorrupt)
	at, end := int(le.Uint32(b)), int(le.Uint32(b[4:]))
	if at < 16 || end > len(b) {
		return nil, bad
	}
	for at+16 <= end {
		e := b[at:end]
		k, content := int(le.Uint16(e[8:])), int(le.Uint16(e[10:]))
		if k < 16 || k > len(e) {
			return nil, bad
		}
		if e[12]&2 != 0 {
			return out, nil
		}
		if content < 66 || 16+content > k {
			return nil, bad
		}
		name := e[16 : 16+content]
		nl := 2 * int(name[64])
		if 66+nl > len(name) {
			return nil, bad
		}
		// Short names of the DOS name space stand beside the long ones.
		ref := le.Uint64(e) & 0xffffffffffff
		if name[65] != 2 && ref > 23 || ref == 5 && name[65] != 2 {
			if s := utf(name[66 : 66+nl]); s != "." {
				if len(out) >= vfs.MaxEntries {
					return nil, bad
				}
				out = append(out, vfs.Entry{Name: s, Open: func() (vfs.Node, error) { return n.f.node(ref) }})
			}
		}
		at += k
	}
	return out, nil
}
