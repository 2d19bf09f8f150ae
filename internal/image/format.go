package image

import (
	"encoding"
	"fmt"
)

// Format names a target format: Name as qemu-img says it, and a subformat.
type Format struct {
	// Name is raw, qcow2, vmdk, vhdx or vpc.
	Name string `json:"name"`
	// Subformat is monolithicSparse (default) or streamOptimized for vmdk;
	// dynamic (default) or fixed for vpc; dynamic for vhdx; empty otherwise.
	Subformat string `json:"subformat,omitempty"`
	// Compression is the codec of an ordered stream: deflate (default) or
	// stored for streamOptimized VMDK; zlib or zstd for compressed qcow2; empty
	// for formats computed at random.
	Compression string `json:"compression,omitempty"`
}

func (f Format) String() string {
	s := f.Name
	if f.Subformat != "" {
		s += "/" + f.Subformat
	}
	if f.Compression != "" {
		s += "+" + f.Compression
	}
	return s
}

// Options are what a format can be made with besides itself. The zero value
// gives each format's defaults.
type Options struct {
	// BlockSize is the allocation unit in bytes: qcow2 cluster (64 KiB default,
	// 64 KiB to 2 MiB), VHDX block (1 MiB default, 1 to 256 MiB), 2 MiB for
	// dynamic VHD and 64 KiB for VMDK, which cannot be changed. A power of two.
	BlockSize int64 `json:"block_size,omitempty"`
	// Level is the compression level of the codec; 0 is the codec's default.
	Level int `json:"level,omitempty"`
	// Seed makes the identifiers in the file (GUIDs, CIDs). The same seed gives
	// the same file.
	Seed [32]byte `json:"seed"`
	// Name is the disk's name where the format carries one: a VMDK's descriptor
	// names its own file, which should be called Name and ".vmdk" (libvmdk opens it
	// by that; VMware and QEMU do not). What cannot stand there is replaced.
	Name string `json:"name,omitempty"`
}

// Stream is a target file that can only be made in order, because its layout
// depends on compressed sizes. The transfer calls Encode for many blocks in
// parallel and Append in ascending order, from one goroutine.
//
// The bytes are those of Start, then of every Append, then of Finish; after
// that Patch, when not nil, replaces the bytes at the start of the file (a
// header that holds offsets known last). The bytes are a pure function of the
// source, the format and the options: a stream continued from a checkpoint
// gives exactly the bytes an undisturbed one gives.
type Stream interface {
	// BlockSize is the number of disk bytes each Encode takes (1 MiB).
	BlockSize() int64
	// Encode compresses the disk bytes of block b (those at b × BlockSize) and
	// appends the result to dst. data is short only for the disk's last block.
	// Leaves that are all zeros are left out. It holds no state and may be called
	// concurrently. Blocks in which the map has no data need not be encoded.
	Encode(dst []byte, b int64, data []byte) ([]byte, error)
	// Start appends the first bytes of the file to dst.
	Start(dst []byte) ([]byte, error)
	// Append appends to dst the file's bytes for block b, of which enc is the
	// encoded form. Blocks come in ascending order; a block that is left out is a
	// hole.
	Append(dst []byte, b int64, enc []byte) ([]byte, error)
	// Finish appends the last bytes to dst.
	Finish(dst []byte) ([]byte, error)
	// Patch is what the start of the file must be overwritten with after Finish;
	// nil when nothing must. With a patch the file cannot go to a target that
	// takes bytes strictly in order.
	Patch() []byte
	// NeedsPatch tells before the first byte whether Patch will be used.
	NeedsPatch() bool
	// Offset is the number of bytes appended so far.
	Offset() int64
	// BinaryMarshaler gives a checkpoint, taken between two Appends;
	// BinaryUnmarshaler continues from one made with the same source and options.
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
	// Format is what the stream makes.
	Format() Format
}

// Ordered tells whether the format can only be made as a Stream.
func (f Format) Ordered() bool {
	return f.Compression != "stored" && (f.Compression != "" || f.Subformat == "streamOptimized")
}

// Extension is the usual file name ending, without the dot.
func (f Format) Extension() string {
	if f.Name == "vpc" {
		return "vhd"
	}
	return f.Name
}

// SizeError is returned for a disk that a format cannot hold, before any byte.
type SizeError struct {
	Format Format
	Size   int64 // of the disk, bytes
	Reason string
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("a disk of %d bytes does not fit %s: %s", e.Size, e.Format, e.Reason)
}
