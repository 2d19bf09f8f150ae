package ext

import (
	"fmt"

	"ascend/internal/guest/vfs"
)

const attrMagic = 0xea020000

var prefixes = map[byte]string{1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.", 7: "system.", 8: "system.richacl"}

// XAttrs reads the extended attributes kept with the inode and those of its
// attribute block; access control lists in the form of system.posix_acl_*.
// Values that have an inode of their own (ea_inode) are refused.
func (n *node) XAttrs() (map[string][]byte, error) {
	out := map[string][]byte{}
	if len(n.extra) >= 4 && le.Uint32(n.extra) == attrMagic {
		if err := attrs(out, n.extra[4:], n.extra[4:]); err != nil {
			return nil, err
		}
	}
	if n.attrBlock == 0 {
		return out, nil
	}
	b := make([]byte, n.f.bs)
	if err := n.f.read(b, n.attrBlock, 0); err != nil {
		return nil, err
	}
	if le.Uint32(b) != attrMagic {
		return nil, fmt.Errorf("%w: attribute block", vfs.ErrCorrupt)
	}
	return out, attrs(out, b[32:], b)
}

// attrs reads a list of entries; the places of values count from base.
func attrs(out map[string][]byte, b, base []byte) error {
	bad := fmt.Errorf("%w: extended attribute", vfs.ErrCorrupt)
	for len(b) >= 16 && le.Uint32(b) != 0 {
		nl, at, size := int(b[0]), int(le.Uint16(b[2:])), int64(le.Uint32(b[8:]))
		if 16+nl > len(b) {
			return bad
		}
		if le.Uint32(b[4:]) != 0 {
			return fmt.Errorf("large extended attributes %w", vfs.ErrUnsupported)
		}
		if int64(at)+size > int64(len(base)) {
			return bad
		}
		name, value := prefixes[b[1]]+string(b[16:16+nl]), base[at:int64(at)+size]
		if b[1] == 7 && string(b[16:16+nl]) == "data" {
			name = "" // a small file's content
		}
		if b[1] == 2 || b[1] == 3 {
			value = acl(value)
		}
		if name != "" {
			out[name] = append([]byte{}, value...)
		}
		b = b[min(len(b), (16+nl+3)&^3):]
	}
	return nil
}

// acl translates version 1, where only named users and groups have an id.
func acl(b []byte) []byte {
	var e []vfs.ACLEntry
	for b = b[min(4, len(b)):]; len(b) >= 4; {
		x := vfs.ACLEntry{Tag: le.Uint16(b), Perm: le.Uint16(b[2:])}
		b = b[4:]
		if (x.Tag == 2 || x.Tag == 8) && len(b) >= 4 {
			x.ID = le.Uint32(b)
			b = b[4:]
		}
		e = append(e, x)
	}
	return vfs.EncodeACL(e)
}
