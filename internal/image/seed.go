package image

import (
	"crypto/sha256"
	"encoding/binary"
)

// uuid derives an identifier from the seed; label tells the identifiers of one
// file apart. It is a UUID of version 8, "custom" (RFC 9562 section 5.8), in
// the byte order of that document.
func (o Options) uuid(label string) (u [16]byte) {
	sum := sha256.Sum256(append(o.Seed[:], label...))
	copy(u[:], sum[:])
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}

// mixedEndian is a UUID as Microsoft's formats store a GUID: the first three
// fields in little-endian order.
func mixedEndian(u [16]byte) [16]byte {
	u[0], u[1], u[2], u[3] = u[3], u[2], u[1], u[0]
	u[4], u[5] = u[5], u[4]
	u[6], u[7] = u[7], u[6]
	return u
}

// contentID derives a VMDK content identifier. ffffffff means "no parent" and
// fffffffe "never written" (VMware Virtual Disk Format 1.1, "The Header"), so
// neither is given.
func (o Options) contentID() uint32 {
	u := o.uuid("vmdk content")
	return binary.BigEndian.Uint32(u[12:]) &^ (1 << 31)
}
