package plan

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"ascend/internal/vm"
)

// GUIDs of partition types as they stand on disk, mixed-endian (UEFI
// specification 2.10, 5.3.3 and table 5-7; GRUB manual, "BIOS installation").
var (
	guidESP      = []byte{0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b}
	guidBIOSBoot = []byte{0x48, 0x61, 0x68, 0x21, 0x49, 0x64, 0x6f, 0x6e, 0x74, 0x4e, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49}
)

// firmwareOf tells from a boot disk's partition table which firmware starts it:
// an EFI system partition means UEFI, unless a BIOS boot partition stands beside
// it, for which both work and nothing is said; an MBR with boot code means BIOS.
func firmwareOf(d io.ReaderAt) vm.Firmware {
	head := make([]byte, 2*512+128*128)
	n, err := d.ReadAt(head, 0)
	if n < 512 || err != nil && !errors.Is(err, io.EOF) || head[510] != 0x55 || head[511] != 0xaa {
		return ""
	}
	head = head[:n]
	if n >= 1024+128 && bytes.HasPrefix(head[512:], []byte("EFI PART")) {
		size := int(binary.LittleEndian.Uint32(head[512+84:]))
		if size < 128 || size > 4096 || binary.LittleEndian.Uint64(head[512+72:]) != 2 {
			return ""
		}
		esp, bios := false, false
		for e := head[1024:]; len(e) >= size; e = e[size:] {
			esp = esp || bytes.Equal(e[:16], guidESP)
			bios = bios || bytes.Equal(e[:16], guidBIOSBoot)
		}
		switch {
		case esp && !bios:
			return vm.UEFI
		case bios && !esp:
			return vm.BIOS
		}
		return ""
	}
	for p := head[446:510]; len(p) >= 16; p = p[16:] {
		if p[4] == 0xef { // an EFI system partition in an MBR (UEFI specification 2.10, 5.2.2)
			return vm.UEFI
		}
	}
	if head[0] != 0 {
		return vm.BIOS
	}
	return ""
}

// tableOf tells a disk's partition table: "mbr", "gpt" (with a BIOS boot
// partition), "gpt-no-bios", or "" where there is none.
func tableOf(d io.ReaderAt) string {
	head := make([]byte, 2*512+128*128)
	n, err := d.ReadAt(head, 0)
	if n < 512 || err != nil && !errors.Is(err, io.EOF) || head[510] != 0x55 || head[511] != 0xaa {
		return ""
	}
	head = head[:n]
	if n < 1024+128 || !bytes.HasPrefix(head[512:], []byte("EFI PART")) {
		return "mbr"
	}
	size := int(binary.LittleEndian.Uint32(head[512+84:]))
	if size < 128 || size > 4096 {
		return "gpt-no-bios"
	}
	for e := head[1024:]; len(e) >= size; e = e[size:] {
		if bytes.Equal(e[:16], guidBIOSBoot) {
			return "gpt"
		}
	}
	return "gpt-no-bios"
}
