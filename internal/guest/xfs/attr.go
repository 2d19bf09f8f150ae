package xfs

import (
	"fmt"

	"ascend/internal/guest/vfs"
)

const (
	attrLocal      = 0x1
	attrRoot       = 0x2
	attrSecure     = 0x4
	attrParent     = 0x8
	attrIncomplete = 0x80
	maxValue       = 64 << 10
	maxLeaves      = 4096
)

// XAttrs reads the extended attributes under the names Linux gives them; access
// control lists in the form of system.posix_acl_*.
func (n *node) XAttrs() (map[string][]byte, error) {
	out := map[string][]byte{}
	switch {
	case n.attr.f == nil:
		return out, nil
	case n.attr.format == formatLocal:
		return out, n.shortAttrs(out)
	case n.attr.format == formatExtents && n.attr.count == 0:
		return out, nil
	}
	return out, n.leaves(out)
}

func keep(out map[string][]byte, flags byte, name, value []byte) {
	if flags&(attrIncomplete|attrParent) != 0 {
		return
	}
	prefix := "user."
	switch {
	case flags&attrRoot != 0:
		key := map[string]string{"SGI_ACL_FILE": "system.posix_acl_access", "SGI_ACL_DEFAULT": "system.posix_acl_default"}[string(name)]
		if key != "" {
			// A length, then {tag, id: 4 bytes each, permissions: 2, padding: 2}.
			var e []vfs.ACLEntry
			for b := value[min(4, len(value)):]; len(b) >= 12; b = b[12:] {
				e = append(e, vfs.ACLEntry{Tag: uint16(be.Uint32(b)), ID: be.Uint32(b[4:]), Perm: be.Uint16(b[8:])})
			}
			out[key] = vfs.EncodeACL(e)
			return
		}
		prefix = "trusted."
	case flags&attrSecure != 0:
		prefix = "security."
	}
	out[prefix+string(name)] = append([]byte{}, value...)
}

func (n *node) shortAttrs(out map[string][]byte) error {
	bad := fmt.Errorf("%w: XFS attributes", vfs.ErrCorrupt)
	b := n.attr.raw
	if len(b) < 4 || int(be.Uint16(b)) > len(b) || be.Uint16(b) < 4 {
		return bad
	}
	count := int(b[2])
	b = b[4:be.Uint16(b)]
	for range count {
		if len(b) < 3 || 3+int(b[0])+int(b[1]) > len(b) {
			return bad
		}
		name := b[3 : 3+b[0]]
		keep(out, b[2], name, b[3+int(b[0]):3+int(b[0])+int(b[1])])
		b = b[3+int(b[0])+int(b[1]):]
	}
	return nil
}

// leaves goes down to the leftmost leaf of the attributes' tree and along the
// leaves.
func (n *node) leaves(out map[string][]byte) error {
	bad := fmt.Errorf("%w: XFS attribute tree", vfs.ErrCorrupt)
	b := make([]byte, n.f.bs)
	leaf, inner, countAt, entries, first := uint16(0xfbee), uint16(0xfebe), 12, 32, 16
	if n.f.v5 {
		leaf, inner, countAt, entries, first = 0x3bee, 0x3ebe, 56, 80, 64
	}
	at := uint32(0)
	for depth := 0; ; depth++ {
		if err := n.attr.read(b, uint64(at)); err != nil {
			return err
		}
		if be.Uint16(b[8:]) != inner {
			break
		}
		if depth > 5 || be.Uint16(b[countAt:]) == 0 {
			return bad
		}
		at = be.Uint32(b[first+4:])
	}
	for range maxLeaves {
		count := int(be.Uint16(b[countAt:]))
		if be.Uint16(b[8:]) != leaf || entries+8*count > len(b) {
			return bad
		}
		for i := range count {
			e := b[entries+8*i:]
			if err := n.leafAttr(out, b, int(be.Uint16(e[4:])), e[6]); err != nil {
				return err
			}
		}
		next := be.Uint32(b)
		if next == 0 {
			return nil
		}
		if err := n.attr.read(b, uint64(next)); err != nil {
			return err
		}
	}
	return bad
}

func (n *node) leafAttr(out map[string][]byte, b []byte, at int, flags byte) error {
	bad := fmt.Errorf("%w: XFS attribute", vfs.ErrCorrupt)
	if at+3 > len(b) {
		return bad
	}
	if flags&attrLocal != 0 {
		vl, nl := int(be.Uint16(b[at:])), int(b[at+2])
		if at+3+nl+vl > len(b) {
			return bad
		}
		keep(out, flags, b[at+3:at+3+nl], b[at+3+nl:at+3+nl+vl])
		return nil
	}
	if at+9 > len(b) || at+9+int(b[at+8]) > len(b) {
		return bad
	}
	if flags&attrIncomplete != 0 {
		return nil
	}
	block, size, name := be.Uint32(b[at:]), int(be.Uint32(b[at+4:])), b[at+9:at+9+int(b[at+8])]
	if size > maxValue {
		return bad
	}
	value := make([]byte, 0, size)
	v := make([]byte, n.f.bs)
	for lb := uint64(block); len(value) < size; lb++ {
		if err := n.attr.read(v, lb); err != nil {
			return err
		}
		p := v
		if n.f.v5 { // each block says what it holds
			if string(v[:4]) != "XARM" || int(be.Uint32(v[4:])) != len(value) || int64(be.Uint32(v[8:])) > int64(len(v)-56) || be.Uint32(v[8:]) == 0 {
				return bad
			}
			p = v[56 : 56+be.Uint32(v[8:])]
		}
		value = append(value, p[:min(len(p), size-len(value))]...)
	}
	keep(out, flags, name, value)
	return nil
}
