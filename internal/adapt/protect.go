package adapt

import (
	"encoding/binary"
	"slices"
)

// ntfsACL is the extended attribute by which ntfs-3g takes a security descriptor.
// Without one it lets everyone write new files.
const ntfsACL = "system.ntfs_acl"

// Rights (winnt.h, FILE_ALL_ACCESS, FILE_GENERIC_READ|FILE_GENERIC_EXECUTE) and the
// inheritance of a folder's (OBJECT_INHERIT_ACE|CONTAINER_INHERIT_ACE).
const (
	allAccess   = 0x1f01ff
	readExecute = 0x1200a9
	inherited   = 3
)

// protection is a self-relative security descriptor ([MS-DTYP] 2.4.6): the system
// and administrators, who own the file, may do all, users read and run it, and
// nothing is taken over from above.
func protection(flags byte) []byte {
	le := binary.LittleEndian
	sid := func(sub ...uint32) []byte {
		b := []byte{1, byte(len(sub)), 0, 0, 0, 0, 0, 5} // of the NT authority
		for _, s := range sub {
			b = le.AppendUint32(b, s)
		}
		return b
	}
	system, admins, users := sid(18), sid(32, 544), sid(32, 545)
	var aces []byte
	for _, a := range []struct {
		mask uint32
		sid  []byte
	}{{allAccess, system}, {allAccess, admins}, {readExecute, users}} {
		aces = append(aces, 0, flags)
		aces = le.AppendUint16(aces, uint16(8+len(a.sid)))
		aces = append(le.AppendUint32(aces, a.mask), a.sid...)
	}
	acl := le.AppendUint16([]byte{2, 0}, uint16(8+len(aces)))
	acl = append(append(acl, 3, 0, 0, 0), aces...)
	const header, control = 20, 0x9004 // self-relative, with a protected DACL
	b := le.AppendUint16([]byte{1, 0}, control)
	at := uint32(header + len(acl))
	for _, off := range []uint32{at, at + uint32(len(admins)), 0, header} { // owner, group, SACL, DACL
		b = le.AppendUint32(b, off)
	}
	return slices.Concat(b, acl, admins, system)
}

var (
	fileProtection   = map[string][]byte{ntfsACL: protection(0)}
	folderProtection = map[string][]byte{ntfsACL: protection(inherited)}
)
