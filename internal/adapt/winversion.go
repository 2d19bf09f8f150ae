package adapt

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"ascend/internal/guest/winpack"
	"ascend/internal/vm"
)

// packageVersion is the value Version of a driver's package in the DriverDatabase,
// as Windows itself writes it: a mark with the processor architecture
// (PROCESSOR_ARCHITECTURE_*, winnt.h), the setup class, the driver's date as
// FILETIME, its version from the last number to the first, and eight bytes of zero.
func packageVersion(d *winpack.Driver, arch vm.Arch) ([]byte, error) {
	class, err := guidBytes(d.ClassGUID)
	if err != nil {
		return nil, err
	}
	machine := byte(9) // AMD64
	switch arch {
	case vm.I386:
		machine = 0
	case vm.ARM64:
		machine = 12
	}
	b := make([]byte, 48)
	copy(b, []byte{0, 0xff, machine, 0})
	copy(b[8:], class)
	v := winpack.DriverVersion(d.Version)
	if v[0] >= 1601 {
		date := time.Date(v[0], time.Month(v[1]), v[2], 0, 0, 0, 0, time.UTC)
		const toUnix = 11644473600 // seconds from 1601 to 1970
		binary.LittleEndian.PutUint64(b[24:], uint64(date.Unix()+toUnix)*1e7)
	}
	for i, n := range v[3:] {
		binary.LittleEndian.PutUint16(b[38-2*i:], uint16(n))
	}
	return b, nil
}

// guidBytes is a GUID as it lies in memory: the first three numbers little-endian.
func guidBytes(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Trim(s, "{}"), "-", ""))
	if err != nil || len(b) != 16 {
		return nil, fmt.Errorf("%q is no class of devices", s)
	}
	for _, r := range [][2]int{{0, 4}, {4, 6}, {6, 8}} {
		for i, j := r[0], r[1]-1; i < j; i, j = i+1, j-1 {
			b[i], b[j] = b[j], b[i]
		}
	}
	return b, nil
}
