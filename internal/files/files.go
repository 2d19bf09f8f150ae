// Package files is file-level restore: it looks into the file systems of a
// backup's disks and streams files and trees out of them, straight from the backup,
// nothing copied and nothing written. ext2/3/4, XFS, btrfs, FAT and NTFS are read by our
// own readers (package guest/vfs and those below), on partitions, whole disks, LVM
// volumes and in LUKS containers. Journals are not replayed: what is read is the state on disk.
//
// Symbolic links are resolved inside their file system and never leave it. Names
// are bytes; where they are no UTF-8 the JSON form has them in base64 too. A Set
// and what it gives may be used by several goroutines; memory does not grow with
// the size of a file.
package files

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"ascend/internal/disk"
	"ascend/internal/guest"
	"ascend/internal/guest/vfs"
)

// Errors that callers tell apart; fs.ErrNotExist and those of vfs are others.
var (
	// ErrVolume: there is no such volume, or it has to be named.
	ErrVolume = errors.New("no such volume")
	// ErrKind: a folder where a file is wanted, or the other way round.
	ErrKind = errors.New("not of the kind that is wanted")
)

// Volume is a partition, logical volume or whole disk.
type Volume struct {
	ID       string   `json:"id"` // disk0p1, vg/lv, disk0
	Type     string   `json:"type"`
	Size     int64    `json:"size"`
	Free     int64    `json:"free" doc:"bytes; -1: not known"`
	Label    string   `json:"label,omitempty"`
	UUID     string   `json:"uuid,omitempty"`
	Readable bool     `json:"readable"`
	Reason   string   `json:"reason,omitempty" doc:"why it cannot be read"`
	Notes    []string `json:"notes,omitempty"`

	tree *vfs.Tree
}

// Set is all volumes of a machine's disks.
type Set struct{ volumes []Volume }

// Open finds the file systems on all disks of a machine together. The disks stay
// the caller's; they are read until ctx ends. keys are tried on LUKS containers.
func Open(ctx context.Context, disks []disk.Disk, keys ...[]byte) (*Set, error) {
	in, err := guest.Volumes(ctx, disks, keys...)
	if err != nil {
		return nil, err
	}
	s := &Set{}
	for i := range in.Volumes {
		g := &in.Volumes[i]
		v := Volume{ID: g.ID, Type: g.Content, Size: g.Size, Free: -1, UUID: g.UUID}
		if d := g.Driver(); d != nil {
			sup := d.Super()
			v.Readable, v.Label, v.Free, v.Notes, v.tree = true, sup.Label, sup.Free, sup.Notes, vfs.NewTree(d)
		} else {
			v.Reason = v.Type + " is not read"
			for _, gap := range in.Gaps {
				if gap.Where == g.ID {
					v.Reason = gap.Reason
				}
			}
		}
		s.volumes = append(s.volumes, v)
	}
	return s, nil
}

// Volumes lists all, in the disks' order.
func (s *Set) Volumes() []Volume { return slices.Clone(s.volumes) }

// Volume finds one. With id "" it is the only one that holds name.
func (s *Set) Volume(id, name string) (*Volume, error) {
	var found []*Volume
	for i := range s.volumes {
		v := &s.volumes[i]
		switch {
		case id == v.ID && !v.Readable:
			return nil, fmt.Errorf("cannot read volume %s: %s", id, v.Reason)
		case id == v.ID:
			return v, nil
		case id == "" && v.Readable:
			if _, _, err := v.tree.Node(name, false); err == nil {
				found = append(found, v)
			}
		}
	}
	switch {
	case id != "":
		return nil, fmt.Errorf("%w: %q", ErrVolume, id)
	case len(found) == 0:
		return nil, fmt.Errorf("no file system of the backup holds %s: %w", quote(name), fs.ErrNotExist)
	case len(found) > 1:
		var ids []string
		for _, v := range found {
			ids = append(ids, v.ID)
		}
		return nil, fmt.Errorf("%w was named, and %s is on several: %s", ErrVolume, quote(name), strings.Join(ids, ", "))
	}
	return found[0], nil
}

func quote(name string) string { return fmt.Sprintf("%q", name) }

// Entry is a file, folder, link or special file.
type Entry struct {
	Path     string // absolute in its volume, any bytes
	Type     string // file, directory, symlink, fifo, socket, device, other
	Mode     fs.FileMode
	Size     int64
	UID, GID uint32
	Time     time.Time
	Inode    uint64
	Links    uint32
	Target   string            // of a link
	XAttrs   map[string][]byte // Stat only

	rdev uint32
}

// Name is the last part of the path.
func (e Entry) Name() string { return path.Base(e.Path) }

// Record is an Entry as it is written in JSON.
type Record struct {
	Name    string            `json:"name"`
	Path    string            `json:"path"`
	Raw     []byte            `json:"path_base64,omitempty" doc:"the path's bytes, where they are no UTF-8"`
	Type    string            `json:"type" enum:"file,directory,symlink,fifo,socket,device,other"`
	Mode    string            `json:"mode" doc:"permissions, octal"`
	Size    int64             `json:"size"`
	UID     uint32            `json:"uid"`
	GID     uint32            `json:"gid"`
	Time    time.Time         `json:"modified"`
	Links   uint32            `json:"links,omitempty"`
	Target  string            `json:"target,omitempty" doc:"of a link, as it stands"`
	Attribs map[string][]byte `json:"xattrs,omitempty" doc:"extended attributes, base64"`
}

// Record translates.
func (e Entry) Record() Record {
	text := func(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
	r := Record{Name: text(e.Name()), Path: text(e.Path), Type: e.Type, Mode: fmt.Sprintf("%04o", perm(e.Mode)), Size: e.Size, UID: e.UID, GID: e.GID, Time: e.Time, Links: e.Links, Target: text(e.Target)}
	if !utf8.ValidString(e.Path) {
		r.Raw = []byte(e.Path)
	}
	for k, v := range e.XAttrs {
		if r.Attribs == nil {
			r.Attribs = map[string][]byte{}
		}
		r.Attribs[text(k)] = v
	}
	return r
}

// MarshalJSON is Record's.
func (e Entry) MarshalJSON() ([]byte, error) { return json.Marshal(e.Record()) }

func perm(m fs.FileMode) int64 {
	p := int64(m.Perm())
	for f, bit := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&f != 0 {
			p |= bit
		}
	}
	return p
}

func entry(p string, n vfs.Node) (Entry, error) {
	i := n.Stat()
	e := Entry{Path: p, Mode: i.Mode, Size: i.Size, UID: i.UID, GID: i.GID, Time: i.ModTime, Inode: i.Inode, Links: i.Links, rdev: i.Rdev, Type: "other"}
	switch {
	case i.Mode.IsRegular():
		e.Type = "file"
	case i.Mode.IsDir():
		e.Type = "directory"
	case i.Mode&fs.ModeSymlink != 0:
		e.Type = "symlink"
		var err error
		if e.Target, err = n.Link(); err != nil {
			return e, err
		}
	case i.Mode&fs.ModeNamedPipe != 0:
		e.Type = "fifo"
	case i.Mode&fs.ModeSocket != 0:
		e.Type = "socket"
	case i.Mode&fs.ModeDevice != 0:
		e.Type = "device"
	}
	if e.Type != "file" {
		e.Size = 0
	}
	return e, nil
}

// Stat tells of one file with its extended attributes. A last link is told of
// itself, unless follow.
func (v *Volume) Stat(name string, follow bool) (Entry, error) {
	n, p, err := v.tree.Node(name, follow)
	if err != nil {
		return Entry{}, err
	}
	e, err := entry(p, n)
	if err != nil {
		return e, err
	}
	e.XAttrs, err = xattrs(n)
	return e, err
}

func xattrs(n vfs.Node) (map[string][]byte, error) {
	if a, ok := n.(vfs.Attributed); ok {
		return a.XAttrs()
	}
	return nil, nil
}

// List is a folder's entries by name, links followed to the folder. An entry that
// cannot be read is listed with the type "other".
func (v *Volume) List(ctx context.Context, dir string) ([]Entry, error) {
	n, p, err := v.tree.Node(dir, true)
	if err != nil {
		return nil, err
	}
	if !n.Stat().Mode.IsDir() {
		return nil, &fs.PathError{Op: "list", Path: dir, Err: fmt.Errorf("not a directory: %w", ErrKind)}
	}
	list, err := n.List()
	if err != nil {
		return nil, &fs.PathError{Op: "list", Path: dir, Err: err}
	}
	out := make([]Entry, 0, len(list))
	for _, c := range list {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !vfs.Valid(c.Name) {
			continue
		}
		e := Entry{Path: path.Join(p, c.Name), Type: "other"}
		if n, err := c.Open(); err == nil {
			if full, err := entry(e.Path, n); err == nil {
				e = full
			}
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return out, ctx.Err()
}

// File is an opened regular file; nothing has to be closed.
type File struct {
	Entry
	io.ReaderAt
	runs vfs.Runs // nil: all of it is data
}

// Open opens a file at any offset, links followed.
func (v *Volume) Open(name string) (*File, error) {
	n, p, err := v.tree.Node(name, true)
	if err != nil {
		return nil, err
	}
	return open(p, n)
}

func open(p string, n vfs.Node) (*File, error) {
	e, err := entry(p, n)
	if err != nil {
		return nil, err
	}
	if e.Type != "file" {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fmt.Errorf("a %s, no file: %w", e.Type, ErrKind)}
	}
	r, err := n.Data()
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	f := &File{Entry: e, ReaderAt: io.NewSectionReader(r, 0, e.Size)}
	f.runs, _ = r.(vfs.Runs)
	return f, nil
}

// Runs tells the pieces that hold data, in order; fn's error ends it and is
// returned.
func (f *File) Runs(ctx context.Context, fn func(off, length int64) error) error {
	if f.runs == nil {
		if f.Size == 0 {
			return nil
		}
		return fn(0, f.Size)
	}
	begin := int64(-1) // of a run that is not ended yet
	for at := int64(0); at < f.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, data, err := f.runs.Run(at)
		if err == nil && n <= 0 {
			err = vfs.ErrCorrupt
		}
		if err != nil {
			return &fs.PathError{Op: "read", Path: f.Path, Err: err}
		}
		if data && begin < 0 {
			begin = at
		}
		if !data && begin >= 0 {
			if err := fn(begin, at-begin); err != nil {
				return err
			}
			begin = -1
		}
		at += n
	}
	if begin >= 0 {
		return fn(begin, f.Size-begin)
	}
	return nil
}
