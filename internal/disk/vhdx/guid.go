package vhdx

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// guid is a GUID in its binary form: the first three fields little-endian
// ([MS-DTYP] 2.3.4.2).
type guid [16]byte

func (g guid) String() string {
	le := binary.LittleEndian
	return fmt.Sprintf("{%08x-%04x-%04x-%x-%x}", le.Uint32(g[:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
}

// parseGUID reads the form with hyphens, with or without braces, in either case
// ([MS-DTYP] 2.3.4.3).
func parseGUID(s string) (guid, bool) {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "{"), "}")
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return guid{}, false
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		return guid{}, false
	}
	var g guid
	le := binary.LittleEndian
	le.PutUint32(g[:], binary.BigEndian.Uint32(b))
	le.PutUint16(g[4:], binary.BigEndian.Uint16(b[4:]))
	le.PutUint16(g[6:], binary.BigEndian.Uint16(b[6:]))
	copy(g[8:], b[8:])
	return g, true
}

// known is the GUID of a text that is part of this program.
func known(s string) guid {
	g, ok := parseGUID(s)
	if !ok {
		panic("vhdx: " + s + " is no GUID")
	}
	return g
}
