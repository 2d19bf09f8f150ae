package digest

import (
	"bytes"
	"encoding/binary"
)

// IsZero tells whether p holds only zeros. It stops at the first other byte.
func IsZero(p []byte) bool {
	// Most data differs in its first bytes; a look there saves the call.
	if len(p) >= 8 && binary.NativeEndian.Uint64(p) != 0 {
		return false
	}
	for len(p) > LeafSize {
		if !bytes.Equal(p[:LeafSize], zeros[:]) {
			return false
		}
		p = p[LeafSize:]
	}
	return bytes.Equal(p, zeros[:len(p)])
}
