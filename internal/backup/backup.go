// Package backup finds the backups in a folder and reads what they say of their
// machine. It reads these kinds of things, side by side in one tree:
//
//   - the layout that the platform's own backup phases write (context.go):
//     ctx-<vm>-<timestamp>/disk-<N>/backup-<vm>-disk<N>-<timestamp>.qcow2 with
//     JSON sidecars and chain.json, full and incremental;
//   - OVA archives and OVF folders (package.go), whose disks are read in place;
//   - images with CloudStack's own description of their machines beside them
//     (cloudstack.go), or Nutanix' (nutanix.go);
//   - folders that Hyper-V exported (hyperv.go);
//   - bare image files (image.go), each a backup of one disk, or of one machine
//     together where a vm.json stands beside them.
//
// In place of a folder it reads the EBS snapshots and images of an AWS account
// (ebs.go), without a file in between.
//
// All of it is hostile input: nothing outside the folder is read, whatever
// names, links or headers say; text files are bounded; a broken or foreign entry
// is listed with its fault and never hides the others.
package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/vm"
)

// Type says what a backup holds by itself. Each of them is a whole point in
// time: what an incremental one leaves to its parents is read from them.
type Type string

// Types.
const (
	Full         Type = "full"
	Incremental  Type = "incremental"
	Differential Type = "differential"
)

// Layout is the kind of thing a backup was found as.
type Layout string

// Layouts.
const (
	LayoutContext Layout = "context" // the platform's own repository
	LayoutOVA     Layout = "ova"
	LayoutOVF     Layout = "ovf"
	LayoutImage   Layout = "image" // bare image files
	// LayoutCloudStack is images beside answers of CloudStack's API.
	LayoutCloudStack Layout = "cloudstack"
	// LayoutNutanix is images beside answers of Prism Central's API.
	LayoutNutanix Layout = "nutanix"
	LayoutEBS     Layout = "ebs" // snapshots in an AWS account
	// LayoutHyperV is a folder that Hyper-V exported.
	LayoutHyperV Layout = "hyperv"
)

// Backup is one machine at one point in time.
type Backup struct {
	// ID names the backup within the repository: the identifier the backup
	// software gave it where there is one, else derived from the path. It is the
	// same in every listing as long as the files keep their places.
	ID     string      `json:"id"`
	VM     string      `json:"vm"`
	Origin vm.Platform `json:"origin,omitempty"` // where the machine ran
	Type   Type        `json:"type"`
	// Created is when the backup was made, in UTC; for files that do not say, the
	// time of their last modification.
	Created time.Time `json:"created"`
	Layout  Layout    `json:"layout"`
	// Path is the folder or file that the backup was found as, relative to the
	// repository's root.
	Path string `json:"path"`
	// Disks stand in the order of their numbers, parallel to Machine.Disks.
	Disks []Disk `json:"disks"`
	// Machine is never nil. Processors and memory are 0 where the backup does not
	// say, and must then come from the user.
	Machine *vm.Machine `json:"machine"`
	// Fault says why the backup cannot be restored; empty for a good one.
	Fault string `json:"fault,omitempty"`
	// Notes say what a user should know; they do not stand in the way.
	Notes []string `json:"notes,omitempty"`
}

// Disk is one disk of a backup.
type Disk struct {
	Index int    `json:"index"` // its number in the machine
	ID    string `json:"id,omitempty"`
	Name  string `json:"name"`
	// Path is the image file relative to the root: the top of its chain; the
	// archive for a disk inside one; empty for a disk that starts blank.
	Path   string `json:"path,omitempty"`
	Member string `json:"member,omitempty"` // name inside the archive
	Format string `json:"format,omitempty"` // as package open names it
	Size   int64  `json:"size"`             // bytes the guest sees; 0: not known
	// Bytes is the length of the files of the chain that this backup reads.
	Bytes int64     `json:"bytes"`
	Type  Type      `json:"type,omitempty"`
	Time  time.Time `json:"time"`
	// Parent names the point in time that this one is an increment of, where the
	// two are stored by somebody else and each can be read by itself (ebs.go).
	Parent string `json:"parent,omitempty"`
	// Chain counts the files the disk is read from.
	Chain int    `json:"chain,omitempty"`
	Fault string `json:"fault,omitempty"`
}

// Bytes is the length of all files of the backup.
func (b *Backup) Bytes() int64 {
	var n int64
	for _, d := range b.Disks {
		n += d.Bytes
	}
	return n
}

func (b *Backup) note(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); len(b.Notes) < maxNotes {
		b.Notes = append(b.Notes, s)
	}
}

// fail sets the fault; the first one stays.
func (b *Backup) fail(format string, args ...any) {
	if b.Fault == "" {
		b.Fault = fmt.Sprintf(format, args...)
	}
}

// Errors callers tell apart.
var (
	// ErrNotFound: no backup answers to the reference.
	ErrNotFound = errors.New("no such backup")
	// ErrAmbiguous: several backups answer to the reference.
	ErrAmbiguous = errors.New("several backups match")
	// ErrFault: the backup was listed with a fault.
	ErrFault = errors.New("backup cannot be restored")
	// ErrNoManifest: the backup carries no digests to verify.
	ErrNoManifest = errors.New("backup has no manifest")
	// ErrDigest: a file is not the one the manifest describes.
	ErrDigest = errors.New("file differs from the manifest")
)

// Bounds of what a listing takes in.
const (
	maxDepth    = 6         // folders below the root
	maxEntries  = 1_000_000 // names in the whole tree
	maxSidecar  = 1 << 20   // bytes of a sidecar or chain.json
	maxMachine  = 4 << 20   // bytes of a vm.json
	maxNotes    = 32        // of one backup
	maxMembers  = 10_000    // of an archive
	maxDisks    = 1024      // of one machine
	maxWorkers  = 4         // entries read at once
	maxNameSize = 255       // bytes of a name taken over from a file
)

// Repository is a folder of backups. Its methods may be called concurrently.
type Repository struct {
	root  *disk.Root // nil with ebs
	files *Backup    // what FromFiles was given, instead of the whole folder
	ebs   *ebs       // an AWS account instead of a folder
	name  string
}

// Open opens the folder dir as a repository: the root of one, one context
// folder, an OVF folder, or any folder with images in it. A name that begins
// with ebs: is an AWS account in a region (see ebs.go), which is not asked yet.
func Open(dir string) (*Repository, error) {
	if strings.HasPrefix(dir, ebsScheme) {
		e, err := parseEBS(dir)
		if err != nil {
			return nil, fmt.Errorf("cannot open repository: %w", err)
		}
		return &Repository{ebs: e, name: dir}, nil
	}
	root, err := disk.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open repository: %w", err)
	}
	name, err := filepath.Abs(dir)
	if err != nil {
		name = dir
	}
	return &Repository{root: root, name: name}, nil
}

// Root is the folder that all paths are relative to; nil for a repository that is
// none. The repository keeps it.
func (r *Repository) Root() *disk.Root { return r.root }

// Name opens the repository again, from any folder: its path, absolute, or what
// Open was given.
func (r *Repository) Name() string { return r.name }

// Close releases the folder. Opened disks stay open.
func (r *Repository) Close() error {
	if r.ebs != nil {
		r.ebs.close()
		return nil
	}
	return r.root.Close()
}

// OpenDisk opens disk i of b, with its whole chain. It refuses a disk that was
// listed with a fault. The caller closes the image.
func (r *Repository) OpenDisk(ctx context.Context, b Backup, i int) (disk.Image, error) {
	if i < 0 || i >= len(b.Disks) {
		return nil, fmt.Errorf("cannot open disk %d of backup %s: it has %d disks", i, b.ID, len(b.Disks))
	}
	d := b.Disks[i]
	img, err := r.openDisk(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s of backup %s: %w", d.Name, b.ID, err)
	}
	if d.Size > 0 && img.Size() != d.Size {
		size := img.Size()
		_ = img.Close()
		return nil, fmt.Errorf("cannot open %s of backup %s: it has %d bytes now and had %d: %w", d.Name, b.ID, size, d.Size, disk.ErrChanged)
	}
	return img, nil
}

func (r *Repository) openDisk(ctx context.Context, d Disk) (disk.Image, error) {
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case d.Fault != "":
		return nil, fmt.Errorf("%w: %s", ErrFault, d.Fault)
	case d.Path == "":
		if d.Size <= 0 {
			return nil, fmt.Errorf("%w: no file and no size", ErrFault)
		}
		return blank(d.Size), nil
	case r.ebs != nil:
		return r.ebs.open(ctx, d)
	case d.Member != "":
		return r.openMember(d.Path, d.Member, d.Format)
	}
	return open.Disk(r.root, d.Path, d.Format)
}

// blank is a disk of zeros: an OVF disk without a file, and what stands for a
// parent while only the header of a layer is read.
type blank int64

func (b blank) Size() int64      { return int64(b) }
func (b blank) Close() error     { return nil }
func (b blank) Unchanged() error { return nil }
func (b blank) Info() disk.Info  { return disk.Info{Format: "raw", Size: int64(b)} }

func (b blank) ReadAt(p []byte, off int64) (int, error) {
	return readZeros(p, off, int64(b))
}

func (b blank) Extents(_ context.Context, off, n int64, yield func(disk.Extent) error) error {
	if n = min(n, int64(b)-off); n <= 0 {
		return nil
	}
	return yield(disk.Extent{Off: off, Len: n})
}

// reason is an error as a sentence without the words of the file system's calls
// that led to it.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) && errors.Is(err, fs.ErrPermission) {
		return pe.Path + ": permission denied"
	}
	return err.Error()
}
