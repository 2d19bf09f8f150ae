// Package vfs is the one read-only view of a guest's file systems: a driver
// per file system behind two small interfaces, and a Tree that puts volumes
// together by mount point and resolves names in it. Symbolic links are
// resolved inside the tree and never leave it. Nothing here writes.
//
// A Tree and the drivers may be used by several goroutines.
package vfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"sync"
	"time"
)

// Errors that callers tell apart.
var (
	// ErrCorrupt: the structure breaks the rules of its file system.
	ErrCorrupt = errors.New("file system is damaged or hostile")
	// ErrUnsupported: a valid structure that is not read here.
	ErrUnsupported = errors.New("uses a feature that is not read here")
	// ErrFormat: not this file system.
	ErrFormat = errors.New("not a file system of this kind")
)

// MaxEntries bounds the entries of one directory.
const MaxEntries = 1 << 20

// Driver is one opened file system.
type Driver interface {
	Root() (Node, error)
	Super() Super
	// FoldsCase tells that names differing only in case are one name.
	FoldsCase() bool
}

// Super is what the super block says.
type Super struct {
	Type       string   `json:"type"` // ext4, xfs, vfat, ntfs, …
	UUID       string   `json:"uuid,omitempty"`
	Label      string   `json:"label,omitempty"`
	Size       int64    `json:"size"`             // bytes
	Free       int64    `json:"free"`             // bytes; -1: not known
	FreeInodes int64    `json:"free_inodes"`      // -1: no such limit, or not known
	Dirty      bool     `json:"dirty,omitempty"`  // journal not replayed, or not cleanly unmounted
	Errors     bool     `json:"errors,omitempty"` // the file system has recorded errors
	Notes      []string `json:"notes,omitempty"`
}

// Node is a file, folder or link.
type Node interface {
	Stat() Info
	// List is a folder's entries without "." and "..".
	List() ([]Entry, error)
	Link() (string, error)
	// Data reads a file's bytes; Stat().Size bounds it.
	Data() (io.ReaderAt, error)
}

// Info describes a node.
type Info struct {
	Mode     fs.FileMode
	Size     int64
	UID, GID uint32
	ModTime  time.Time
	// Inode is the file's number in its file system; 0: it has none. Names of one
	// file share it. Links is how many there are.
	Inode uint64
	Links uint32
	Rdev  uint32 // of a device, as the file system keeps it
}

// Runs is what a reader of Data may be, too: Run tells how far, from a byte within
// the file, data or a hole reaches at least.
type Runs interface {
	Run(at int64) (length int64, data bool, err error)
}

// Attributed is a Node with extended attributes, by the names Linux gives them.
type Attributed interface {
	XAttrs() (map[string][]byte, error)
}

// ACLEntry is one line of a POSIX access control list.
type ACLEntry struct {
	Tag, Perm uint16
	ID        uint32
}

// EncodeACL is a list in the form of system.posix_acl_access (Linux,
// include/uapi/linux/posix_acl_xattr.h, version 2).
func EncodeACL(entries []ACLEntry) []byte {
	b := []byte{2, 0, 0, 0}
	for _, e := range entries {
		if e.Tag != 2 && e.Tag != 8 { // only named users and groups have an id
			e.ID = 1<<32 - 1
		}
		b = binary.LittleEndian.AppendUint16(b, e.Tag)
		b = binary.LittleEndian.AppendUint16(b, e.Perm)
		b = binary.LittleEndian.AppendUint32(b, e.ID)
	}
	return b
}

// UnixMode translates st_mode.
func UnixMode(m uint32) fs.FileMode {
	o := fs.FileMode(m & 0o777)
	switch m & 0xf000 {
	case 0x8000:
	case 0x4000:
		o |= fs.ModeDir
	case 0xa000:
		o |= fs.ModeSymlink
	case 0x2000:
		o |= fs.ModeDevice | fs.ModeCharDevice
	case 0x6000:
		o |= fs.ModeDevice
	case 0x1000:
		o |= fs.ModeNamedPipe
	case 0xc000:
		o |= fs.ModeSocket
	default:
		o |= fs.ModeIrregular
	}
	for bit, f := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			o |= f
		}
	}
	return o
}

// Entry is a name in a folder.
type Entry struct {
	Name string
	Open func() (Node, error)
}

// Tree is volumes put together.
type Tree struct {
	mounts map[string]Driver // by clean absolute path
	mu     sync.Mutex
	dirs   map[string]map[string]Entry // listings by resolved path
}

// NewTree makes a tree with root at "/".
func NewTree(root Driver) *Tree {
	return &Tree{mounts: map[string]Driver{"/": root}, dirs: map[string]map[string]Entry{}}
}

// Mount puts d at a path; the folder need not exist.
func (t *Tree) Mount(at string, d Driver) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mounts[path.Clean("/"+at)] = d
	clear(t.dirs)
}

type step struct {
	path string
	node Node
	drv  Driver
}

const maxLinks = 40

func (t *Tree) walk(name string, follow bool) (step, error) {
	fail := func(err error) (step, error) { return step{}, &fs.PathError{Op: "open", Path: name, Err: err} }
	t.mu.Lock()
	defer t.mu.Unlock()
	rd := t.mounts["/"]
	root, err := rd.Root()
	if err != nil {
		return fail(err)
	}
	stack := []step{{"/", root, rd}}
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		c := rest[0]
		rest = rest[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			if len(stack) > 1 {
				stack = stack[:len(stack)-1]
			}
			continue
		}
		cur := stack[len(stack)-1]
		p := path.Join(cur.path, c)
		if d, ok := t.mounts[p]; ok {
			n, err := d.Root()
			if err != nil {
				return fail(err)
			}
			stack = append(stack, step{p, n, d})
			continue
		}
		if !cur.node.Stat().Mode.IsDir() {
			return fail(fs.ErrNotExist)
		}
		dir, err := t.list(cur)
		if err != nil {
			return fail(err)
		}
		e, ok := dir[fold(cur.drv, c)]
		if !ok {
			return fail(fs.ErrNotExist)
		}
		n, err := e.Open()
		if err != nil {
			return fail(err)
		}
		if n.Stat().Mode&fs.ModeSymlink != 0 && (follow || len(rest) > 0) {
			if links++; links > maxLinks {
				return fail(errors.New("too many symbolic links"))
			}
			to, err := n.Link()
			if err != nil {
				return fail(err)
			}
			if strings.HasPrefix(to, "/") {
				stack = stack[:1]
			}
			rest = append(strings.Split(to, "/"), rest...)
			if len(rest) > 4096 {
				return fail(errors.New("name is too long"))
			}
			continue
		}
		stack = append(stack, step{p, n, cur.drv})
	}
	return stack[len(stack)-1], nil
}

func fold(d Driver, s string) string {
	if d.FoldsCase() {
		return strings.ToLower(s)
	}
	return s
}

// list is called with the lock held.
func (t *Tree) list(s step) (map[string]Entry, error) {
	if m, ok := t.dirs[s.path]; ok {
		return m, nil
	}
	es, err := s.node.List()
	if err != nil {
		return nil, err
	}
	m := make(map[string]Entry, len(es))
	for _, e := range es {
		if !Valid(e.Name) {
			continue // a name no path can mean
		}
		m[fold(s.drv, e.Name)] = e
	}
	if len(t.dirs) > 512 {
		clear(t.dirs)
	}
	t.dirs[s.path] = m
	return m, nil
}

// Valid tells whether a name is one that a path can mean.
func Valid(n string) bool {
	return n != "" && n != "." && n != ".." && !strings.ContainsAny(n, "/\x00")
}

// Stat describes what name means, links followed.
func (t *Tree) Stat(name string) (Info, error) {
	s, err := t.walk(name, true)
	if err != nil {
		return Info{}, err
	}
	return s.node.Stat(), nil
}

// Lstat describes name itself.
func (t *Tree) Lstat(name string) (Info, error) {
	s, err := t.walk(name, false)
	if err != nil {
		return Info{}, err
	}
	return s.node.Stat(), nil
}

// Exists tells whether name means something that can be read.
func (t *Tree) Exists(name string) bool {
	_, err := t.walk(name, true)
	return err == nil
}

// Resolve is the path in the tree that name means.
func (t *Tree) Resolve(name string) (string, error) {
	s, err := t.walk(name, true)
	return s.path, err
}

// ReadLink is the target of a link as it stands.
func (t *Tree) ReadLink(name string) (string, error) {
	s, err := t.walk(name, false)
	if err != nil {
		return "", err
	}
	if s.node.Stat().Mode&fs.ModeSymlink == 0 {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return s.node.Link()
}

// ReadDir is the sorted names of a folder, mount points not added.
func (t *Tree) ReadDir(name string) ([]string, error) {
	s, err := t.walk(name, true)
	if err != nil {
		return nil, err
	}
	if !s.node.Stat().Mode.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m, err := t.list(s)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(m))
	for _, e := range m {
		out = append(out, e.Name)
	}
	sort.Strings(out)
	return out, nil
}

// File is an opened regular file.
type File struct {
	io.ReaderAt
	Info
}

// Open opens a regular file, links followed.
func (t *Tree) Open(name string) (*File, error) {
	s, err := t.walk(name, true)
	if err != nil {
		return nil, err
	}
	i := s.node.Stat()
	if !i.Mode.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	r, err := s.node.Data()
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &File{io.NewSectionReader(r, 0, i.Size), i}, nil
}

// ReadFile reads a file of at most limit bytes.
func (t *Tree) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := t.Open(name)
	if err != nil {
		return nil, err
	}
	if f.Size > limit {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("%d bytes, more than %d", f.Size, limit)}
	}
	b := make([]byte, f.Size)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return b, nil
}

// Node is what name means: with follow the target of a last link, without it the
// link itself. path is where it was found.
func (t *Tree) Node(name string, follow bool) (n Node, path string, err error) {
	s, err := t.walk(name, follow)
	return s.node, s.path, err
}
