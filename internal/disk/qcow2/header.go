package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"ascend/internal/disk"
)

// All facts of the format are of "Qcow2 Image File Format", QEMU's
// docs/interop/qcow2, by the sections named below. Numbers are big-endian.

// Section "Header".
const (
	magic = "QFI\xfb"

	minClusterBits, maxClusterBits = 9, 21

	headerV2 = 72  // length of the header of version 2
	headerV3 = 104 // least length of the header of version 3
	maxName  = 1023
	// maxL1 is the largest L1 table that QEMU opens (QCOW_MAX_L1_SIZE).
	maxL1 = 32 << 20

	incompatDirty       = 1 << 0 // refcounts may be wrong
	incompatCorrupt     = 1 << 1
	incompatData        = 1 << 2 // data in another file
	incompatCompression = 1 << 3 // the compression_type field is not 0
	incompatExtended    = 1 << 4 // extended L2 entries
	incompatKnown       = incompatDirty | incompatCorrupt | incompatData | incompatCompression | incompatExtended

	compressionZlib = 0 // raw deflate, in spite of the name
	compressionZstd = 1
)

// Section "Header extensions".
const (
	extEnd           = 0
	extBackingFormat = 0xe2792aca
	maxFormatName    = 63
)

// header is what is used of an image's header, checked against the format's
// rules and the file's length.
type header struct {
	version       uint32
	clusterBits   uint
	size          int64 // virtual size in bytes
	l1Off         int64
	l1Len         int64 // entries that the virtual size needs
	extended      bool
	compression   uint8
	backing       string // "" without a backing file
	backingFormat string
	notes         []string
}

// parseHeader reads the header of an image in a file of size bytes.
func parseHeader(f io.ReaderAt, size int64) (*header, error) {
	b := make([]byte, 112)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read header: %w", err)
	}
	if n < 4 || string(b[:4]) != magic {
		return nil, disk.ErrFormat
	}
	clear(b[n:])
	if n < headerV2 {
		return nil, corrupt("the file ends in its header")
	}
	h := &header{version: binary.BigEndian.Uint32(b[4:])}
	length := uint32(headerV2)
	var incompat uint64
	switch h.version {
	case 2:
	case 3:
		if n < headerV3 {
			return nil, corrupt("the file ends in its header")
		}
		incompat = binary.BigEndian.Uint64(b[72:])
		if length = binary.BigEndian.Uint32(b[100:]); length < headerV3 {
			return nil, corrupt("header length of %d bytes", length)
		}
		if order := binary.BigEndian.Uint32(b[96:]); order > 6 {
			return nil, corrupt("refcounts of 2^%d bits", order)
		}
		if length > headerV3 {
			h.compression = b[104]
		}
	default:
		return nil, fmt.Errorf("qcow version %d: %w", h.version, disk.ErrUnsupported)
	}
	if err := h.features(incompat); err != nil {
		return nil, err
	}
	if method := binary.BigEndian.Uint32(b[32:]); method != 0 {
		return nil, fmt.Errorf("the image is encrypted (method %d): %w", method, disk.ErrUnsupported)
	}
	bits := binary.BigEndian.Uint32(b[20:])
	if bits < minClusterBits || bits > maxClusterBits {
		return nil, corrupt("clusters of 2^%d bytes", bits)
	}
	h.clusterBits = uint(bits)
	if h.extended && h.clusterBits < minClusterBits+5 {
		return nil, corrupt("subclusters of 2^%d bytes", bits-5)
	}
	if length > 1<<bits {
		return nil, corrupt("header length of %d bytes", length)
	}
	if n := binary.BigEndian.Uint32(b[60:]); n > 0 {
		h.notes = append(h.notes, fmt.Sprintf("internal snapshots (%d) are not read, only the current state", n))
	}
	if err := h.geometry(b, size); err != nil {
		return nil, err
	}
	return h, h.readNames(f, b, int64(length))
}

func (h *header) features(incompat uint64) error {
	switch {
	case incompat&incompatCorrupt != 0:
		return corrupt("it is marked as corrupt; qemu-img check -r all on a copy may repair it")
	case incompat&incompatData != 0:
		return fmt.Errorf("its data is in another file (external data file): %w", disk.ErrUnsupported)
	case incompat&^uint64(incompatKnown) != 0:
		return fmt.Errorf("unknown features (incompatible bits %#x): %w", incompat&^uint64(incompatKnown), disk.ErrUnsupported)
	case (h.compression != compressionZlib) != (incompat&incompatCompression != 0):
		return corrupt("compression type %d contradicts the feature bits %#x", h.compression, incompat)
	case h.compression > compressionZstd:
		return fmt.Errorf("compression type %d: %w", h.compression, disk.ErrUnsupported)
	}
	h.extended = incompat&incompatExtended != 0
	if incompat&incompatDirty != 0 {
		h.notes = append(h.notes, "it was not closed cleanly (dirty bit); its reference counts, which reading does not need, may be wrong")
	}
	return nil
}

// geometry checks the virtual size and the place of the L1 table.
func (h *header) geometry(b []byte, file int64) error {
	size := binary.BigEndian.Uint64(b[24:])
	if size > disk.MaxSize {
		return fmt.Errorf("virtual size of %d bytes is above the limit of %d: %w", size, int64(disk.MaxSize), disk.ErrUnsupported)
	}
	// QEMU counts whole sectors and cannot see what follows them.
	h.size = int64(size) &^ 511
	if h.size != int64(size) {
		h.notes = append(h.notes, fmt.Sprintf("its size of %d bytes is no multiple of 512; the last %d bytes, which QEMU never shows, are left out", size, int64(size)-h.size))
	}
	l1Size := int64(binary.BigEndian.Uint32(b[36:]))
	l1Off := binary.BigEndian.Uint64(b[40:])
	h.l1Len = (h.size + 1<<h.l1Shift() - 1) >> h.l1Shift()
	switch {
	case l1Size*8 > maxL1:
		return corrupt("an L1 table of %d entries", l1Size)
	case l1Size < h.l1Len:
		return corrupt("an L1 table of %d entries, where %d bytes need %d", l1Size, h.size, h.l1Len)
	case h.l1Len == 0:
		return nil
	case l1Off&(1<<h.clusterBits-1) != 0 || l1Off == 0:
		return corrupt("the L1 table is at offset %#x", l1Off)
	case l1Off > uint64(file) || h.l1Len*8 > file-int64(l1Off):
		return corrupt("the L1 table at offset %#x lies beyond the end of the file", l1Off)
	}
	h.l1Off = int64(l1Off)
	return nil
}

// readNames reads the header extensions and the name of the backing file, which
// lie between the header and the end of the first cluster.
func (h *header) readNames(f io.ReaderAt, b []byte, length int64) error {
	off := binary.BigEndian.Uint64(b[8:])
	n := binary.BigEndian.Uint32(b[16:])
	first := uint64(1) << h.clusterBits
	end := first
	if off != 0 {
		if off > first || n > maxName || uint64(n) > first-off {
			return corrupt("a backing file's name of %d bytes at offset %#x", n, off)
		}
		end = off
	}
	// Extensions that are of use fit these bytes; the others are stepped over.
	for at := uint64(length); at+8 <= end; {
		e := make([]byte, 8)
		if err := read(f, e, at); err != nil {
			return err
		}
		kind, n := binary.BigEndian.Uint32(e), uint64(binary.BigEndian.Uint32(e[4:]))
		if kind == extEnd {
			break
		}
		at += 8
		if n > end-at {
			return corrupt("a header extension of %d bytes", n)
		}
		if kind == extBackingFormat {
			if n > maxFormatName {
				return corrupt("a backing format's name of %d bytes", n)
			}
			name := make([]byte, n)
			if err := read(f, name, at); err != nil {
				return err
			}
			h.backingFormat = string(bytes.TrimRight(name, "\x00"))
		}
		at += (n + 7) &^ 7
	}
	if off == 0 || n == 0 {
		return nil
	}
	name := make([]byte, n)
	if err := read(f, name, off); err != nil {
		return err
	}
	if i := bytes.IndexByte(name, 0); i >= 0 {
		name = name[:i]
	}
	h.backing = string(name)
	return nil
}

// read fills p; bytes behind the end of the file are an error.
func read(f io.ReaderAt, p []byte, off uint64) error {
	n, err := f.ReadAt(p, int64(off))
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return corrupt("the file ends in its header")
	}
	return fmt.Errorf("cannot read header: %w", err)
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, disk.ErrCorrupt)...)
}

// entryBits is the binary logarithm of the bytes of an L2 entry.
func (h *header) entryBits() uint {
	if h.extended {
		return 4
	}
	return 3
}

// l1Shift is the binary logarithm of the bytes of the disk that one L1 entry
// stands for: a table of one cluster of entries of one cluster each.
func (h *header) l1Shift() uint { return 2*h.clusterBits - h.entryBits() }
