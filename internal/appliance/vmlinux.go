package appliance

import (
	"bytes"
	"encoding/binary"
)

// unpackKernel takes the ELF kernel out of a bzImage that is compressed by LZ4, as
// Debian's cloud kernel is: QEMU starts it directly (PVH), which saves the firmware's
// and the decompressor's work, a second under emulation. It returns nil for any
// other kernel, or when the result has no PVH entry; the bzImage then serves.
//
// Linux Documentation/arch/x86/boot.rst gives payload_offset and payload_length;
// the LZ4 legacy frame is doc/lz4_Frame_format.md of LZ4.
func unpackKernel(b []byte) []byte {
	if len(b) < 0x260 || string(b[0x202:0x206]) != "HdrS" {
		return nil
	}
	setup := int(b[0x1f1])
	if setup == 0 {
		setup = 4
	}
	off := (setup+1)*512 + int(binary.LittleEndian.Uint32(b[0x248:]))
	n := int(binary.LittleEndian.Uint32(b[0x24c:]))
	if off < 0 || n < 8 || off > len(b)-n {
		return nil
	}
	p := b[off : off+n]
	if binary.LittleEndian.Uint32(p) != 0x184C2102 {
		return nil
	}
	size := int(binary.LittleEndian.Uint32(p[n-4:])) // the build appends it
	if size <= 0 || size > 256<<20 {
		return nil
	}
	out := make([]byte, 0, size)
	for p = p[4 : n-4]; len(p) >= 4 && len(out) < size; {
		k := int(binary.LittleEndian.Uint32(p))
		if k <= 0 || k > len(p)-4 {
			break
		}
		var ok bool
		if out, ok = lz4Block(out, p[4:4+k], size); !ok {
			return nil
		}
		p = p[4+k:]
	}
	// The note XEN_ELFNOTE_PHYS32_ENTRY (18) of "Xen" is the PVH entry.
	if len(out) != size || !bytes.HasPrefix(out, []byte("\x7fELF")) || !bytes.Contains(out, []byte("\x04\x00\x00\x00\x08\x00\x00\x00\x12\x00\x00\x00Xen\x00")) {
		return nil
	}
	return out
}

// lz4Block appends a decompressed block to out, which grows to limit at most.
// Blocks of a legacy frame do not refer to one another.
func lz4Block(out, src []byte, limit int) ([]byte, bool) {
	begin := len(out)
	length := func(n int) (int, bool) {
		if n < 15 {
			return n, true
		}
		for len(src) > 0 {
			c := src[0]
			src = src[1:]
			n += int(c)
			if c != 255 {
				return n, true
			}
		}
		return 0, false
	}
	for len(src) > 0 {
		token := src[0]
		src = src[1:]
		n, ok := length(int(token >> 4))
		if !ok || n > len(src) || n > limit-len(out) {
			return nil, false
		}
		out = append(out, src[:n]...)
		if src = src[n:]; len(src) == 0 {
			return out, true
		}
		if len(src) < 2 {
			return nil, false
		}
		back := int(binary.LittleEndian.Uint16(src))
		src = src[2:]
		n, ok = length(int(token & 15))
		n += 4
		if !ok || back == 0 || back > len(out)-begin || n > limit-len(out) {
			return nil, false
		}
		for range n {
			out = append(out, out[len(out)-back])
		}
	}
	return out, true
}
