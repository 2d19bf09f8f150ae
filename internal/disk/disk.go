// Package disk reads the virtual disks of backups: qcow2, VMDK, VHD, VHDX and
// raw files and their chains, as one random-access byte array with a map of
// what is allocated. It writes nothing but overlays of its own.
//
// Every image is hostile input: each header is bounded by its file's size and
// by the limits in limits.go before anything is allocated, references are
// resolved by name inside one folder tree (Root) and never beyond it, and a
// file that changes while it is read is an error (Disk.Unchanged).
package disk

import (
	"context"
	"errors"
	"io"
	"time"
)

// Disk is the guest's view of one virtual disk, read-only.
//
// ReadAt follows io.ReaderAt: it fills p, or returns io.EOF at the end of the
// disk. Any number of goroutines may call it. Reads aligned to LeafSize are
// the fastest; reads that cut a compressed cluster inflate it more than once.
type Disk interface {
	io.ReaderAt
	io.Closer

	// Size is the number of bytes the guest sees; it may be any multiple of
	// 512.
	Size() int64

	// Extents yields consecutive extents that cover [off, off+n) exactly, in
	// ascending order; neighbours may be of one kind. n beyond the end is cut.
	// What is not Data reads as zeros. It stops at yield's first error and
	// returns it. Memory used does not grow with the disk.
	Extents(ctx context.Context, off, n int64, yield func(Extent) error) error

	// Unchanged is nil while every file the disk is read from is the one that
	// was opened, byte size and times included; call it once more after the
	// last read. The error is ErrChanged.
	Unchanged() error
}

// Extent is a run of bytes of one kind.
type Extent struct {
	Off, Len int64
	// Data is false where the image itself says that the run reads as zeros.
	// True says nothing of the content: data may be zeros too.
	Data bool
}

// Info describes an opened disk for people and for plans.
type Info struct {
	Format    string `json:"format"`              // qcow2, vmdk, vhd, vhdx, raw
	Subformat string `json:"subformat,omitempty"` // streamOptimized, dynamic, …
	Size      int64  `json:"size"`                // virtual size in bytes
	// Allocated counts the bytes that the image does not say are zeros; -1
	// until it was counted.
	Allocated int64 `json:"allocated"`
	FileBytes int64 `json:"file_bytes"` // bytes the chain's files occupy (their lengths)
	Cluster   int64 `json:"cluster,omitempty"`
	// Compressed tells that clusters of the image are stored compressed.
	Compressed bool `json:"compressed,omitempty"`
	// Chain lists the files, the top layer first, relative to the root.
	Chain []Layer  `json:"chain"`
	Notes []string `json:"notes,omitempty"` // what a user should know: dirty log replayed, …
}

// Layer is one link of a backing chain.
type Layer struct {
	Path   string `json:"path"`
	Format string `json:"format"`
	Size   int64  `json:"size"`
	// Modified is the file's time of last modification.
	Modified time.Time `json:"modified,omitzero"`
	// Reference is the parent's name as the file itself states it, which may
	// be a path of another machine.
	Reference string `json:"reference,omitempty"`
}

// LeafSize is the granularity of maps and digests: 64 KiB.
const LeafSize = 64 << 10

// Errors that callers tell apart; all are wrapped with the file's name.
var (
	// ErrFormat: the file is not of the format asked for (not "broken").
	ErrFormat = errors.New("not an image of this format")
	// ErrCorrupt: the file claims the format and breaks its rules.
	ErrCorrupt = errors.New("image is damaged or hostile")
	// ErrUnsupported: a valid image using a feature that is not read here.
	ErrUnsupported = errors.New("image uses an unsupported feature")
	// ErrEscape: a reference leaves the repository.
	ErrEscape = errors.New("reference leaves the repository")
	// ErrMissing: a file the image refers to is not there.
	ErrMissing = errors.New("a file of the image is missing")
	// ErrChanged: a file was modified while it was read.
	ErrChanged = errors.New("file changed while it was read")
)
