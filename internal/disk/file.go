package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Root is a folder tree that images may be read from. References between
// images are resolved below it only: os.Root refuses names and symlinks that
// leave it, whatever changes meanwhile.
type Root struct {
	root *os.Root
	path string
}

// OpenRoot opens the folder dir as a Root.
func OpenRoot(dir string) (*Root, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open folder: %w", err)
	}
	return &Root{root: r, path: dir}, nil
}

// Close releases the folder. Files opened from it stay open.
func (r *Root) Close() error { return r.root.Close() }

// Path is the folder's name as it was given.
func (r *Root) Path() string { return r.path }

// FS reads the tree as a file system with slash-separated names.
func (r *Root) FS() fs.FS { return r.root.FS() }

// Open opens a regular file by its path relative to the root.
func (r *Root) Open(name string) (*File, error) {
	// O_NONBLOCK: a FIFO planted in the repository must not hang the open.
	f, err := r.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w", name, ErrMissing)
		}
		if strings.Contains(err.Error(), "escapes") {
			return nil, fmt.Errorf("%s: %w", name, ErrEscape)
		}
		return nil, err
	}
	file, err := newFile(f, name)
	if err != nil {
		f.Close()
		return nil, err
	}
	return file, nil
}

// Resolve finds the file that a layer at path from names ref: the reference as
// a relative path first; else, for a path of another machine, each of its
// shrinking tails (a/b/c.qcow2, b/c.qcow2, c.qcow2) beside the layer, then from
// each folder above it up to the root. Separators may be slashes or
// backslashes. It never leaves the root; the answer is relative to it.
func (r *Root) Resolve(from, ref string) (string, error) {
	clean := strings.TrimPrefix(ref, "file://")
	clean = strings.TrimPrefix(clean, "file:")
	if strings.ContainsRune(clean, 0) || len(clean) > 4096 || clean == "" {
		return "", fmt.Errorf("%s refers to an invalid name: %w", from, ErrEscape)
	}
	if strings.HasPrefix(clean, "json:") || isURL(clean) {
		return "", fmt.Errorf("%s refers to %.120q, which is no file of the repository: %w", from, clean, ErrEscape)
	}
	slash := clean
	windows := strings.Contains(clean, `\`) && !strings.Contains(clean, "/")
	if windows {
		slash = strings.ReplaceAll(clean, `\`, "/")
		if len(slash) > 1 && slash[1] == ':' {
			slash = "/" + strings.TrimPrefix(slash[2:], "/")
		}
	}
	dir := filepath.Dir(from)
	escaped := false
	if !filepath.IsAbs(slash) {
		p := filepath.Join(dir, slash)
		if p == ".." || strings.HasPrefix(p, "../") {
			escaped = true
		} else if r.isFile(p) {
			return p, nil
		}
	}
	if rel, ok := r.relative(slash); ok && r.isFile(rel) {
		return rel, nil
	}
	var parts []string
	for _, s := range strings.Split(filepath.Clean(slash), "/") {
		if s != "" && s != "." && s != ".." {
			parts = append(parts, s)
		}
	}
	for i := range parts {
		tail := filepath.Join(parts[i:]...)
		for d := dir; ; d = filepath.Dir(d) {
			if p := filepath.Join(d, tail); p != from && r.isFile(p) {
				return p, nil
			}
			if d == "." || d == "/" {
				break
			}
		}
	}
	if escaped || filepath.IsAbs(slash) && exists(slash) {
		return "", fmt.Errorf("%s refers to %.200q: %w", from, ref, ErrEscape)
	}
	return "", fmt.Errorf("%s refers to %.200q, which is not in the repository: %w", from, ref, ErrMissing)
}

// relative turns an absolute path that lies inside the root into a relative one.
func (r *Root) relative(abs string) (string, bool) {
	base, err := filepath.Abs(r.path)
	if err != nil || !filepath.IsAbs(abs) {
		return "", false
	}
	rel, err := filepath.Rel(base, abs)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", false
	}
	return rel, true
}

func (r *Root) isFile(name string) bool {
	st, err := r.root.Stat(name)
	return err == nil && st.Mode().IsRegular()
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

func isURL(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && scheme != "" && !strings.ContainsAny(scheme, `/\ `)
}

// File is an open file of a Root that knows whether it was changed since.
type File struct {
	f      *os.File
	name   string
	base   int64 // where a part starts in the file; 0 for a whole file
	whole  int64 // the file's length, of which a part has size bytes
	size   int64
	ino    uint64
	dev    uint64
	mtime  time.Time
	ctime  syscall.Timespec
	device bool
	known  *atomic.Pointer[Extent] // the extent that was last looked for
	remote Remoter                 // instead of f
}

// Remoter is a file that another machine holds.
type Remoter interface {
	io.ReaderAt
	io.Closer
}

// Remote is a file of size bytes that another machine holds: all of it is data,
// and that nobody changes it is its owner's word. It owns r.
func Remote(name string, size int64, r Remoter) *File {
	return &File{name: name, size: size, whole: size, device: true, known: new(atomic.Pointer[Extent]), remote: r}
}

// at reads from the file itself.
func (f *File) at(p []byte, off int64) (int, error) {
	if f.remote != nil {
		return f.remote.ReadAt(p, off)
	}
	return f.f.ReadAt(p, off)
}

func newFile(f *os.File, name string) (*File, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s: cannot read the file's identity", name)
	}
	file := &File{f: f, name: name, size: st.Size(), whole: st.Size(), ino: sys.Ino, dev: sys.Dev, mtime: st.ModTime(), ctime: sys.Ctim, known: new(atomic.Pointer[Extent])}
	switch {
	case st.Mode().IsRegular():
	case st.Mode()&fs.ModeDevice != 0 && st.Mode()&fs.ModeCharDevice == 0:
		if file.size, err = f.Seek(0, io.SeekEnd); err != nil {
			return nil, fmt.Errorf("%s: cannot find the device's size: %w", name, err)
		}
		file.whole = file.size
		file.device = true
	default:
		return nil, fmt.Errorf("%s is a %s, not a file: %w", name, kind(st.Mode()), ErrFormat)
	}
	return file, nil
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "folder"
	case m&fs.ModeNamedPipe != 0:
		return "pipe"
	case m&fs.ModeSocket != 0:
		return "socket"
	case m&fs.ModeCharDevice != 0:
		return "character device"
	}
	return "special file"
}

// Name is the file's path relative to its root.
func (f *File) Name() string { return f.name }

// Size is the file's length in bytes when it was opened.
func (f *File) Size() int64 { return f.size }

// Modified is the file's time of last modification when it was opened.
func (f *File) Modified() time.Time { return f.mtime }

// Fd is the open file, for SEEK_HOLE and the like; nil for a Remote. File keeps ownership.
func (f *File) Fd() *os.File { return f.f }

// ReadAt reads from the file; see io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("%s: cannot read at negative offset %d", f.name, off)
	}
	if f.size == f.whole {
		return f.at(p, off)
	}
	if off >= f.size {
		return 0, io.EOF
	}
	if rest := f.size - off; int64(len(p)) > rest {
		n, err := f.at(p[:rest], f.base+off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	return f.at(p, f.base+off)
}

// Part makes f the part of its file that has n bytes from off on, as a member
// of an archive has, and calls it name. The offsets of the part's methods are
// the part's own; those of Fd are the whole file's. The part takes the place of
// f, which must not be used or closed any more; on failure nothing has changed.
func (f *File) Part(name string, off, n int64) (*File, error) {
	if off < 0 || n < 0 || off > f.size || n > f.size-off {
		return nil, fmt.Errorf("%s: %d bytes at offset %d lie beyond the end: %w", name, n, off, ErrCorrupt)
	}
	part := *f
	part.name, part.base, part.size = name, f.base+off, n
	part.known = new(atomic.Pointer[Extent]) // offsets are others now
	return &part, nil
}

// Close closes the file.
func (f *File) Close() error {
	if f.remote != nil {
		return f.remote.Close()
	}
	return f.f.Close()
}

// Unchanged is nil, or ErrChanged when the file's length, times or identity
// differ from when it was opened.
func (f *File) Unchanged() error {
	if f.device {
		return nil
	}
	st, err := f.f.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	// A writer can set mtime back; ctime then shows it. A mere rename moves
	// ctime too and is refused as well: nobody should move a backup under a restore.
	if st.Size() != f.whole || !st.ModTime().Equal(f.mtime) || sys.Ctim != f.ctime {
		return fmt.Errorf("%s: %w", f.name, ErrChanged)
	}
	return nil
}

// Same tells whether the file is the one that name means in root now, by any
// name or link.
func (f *File) Same(root *Root, name string) (bool, error) {
	st, err := root.root.Stat(name)
	if err != nil {
		return false, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && sys.Ino == f.ino && sys.Dev == f.dev, nil
}

// OpenDevice opens a file or block device that the user named, outside any root.
func OpenDevice(path string) (*File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file, err := newFile(f, path)
	if err != nil {
		f.Close()
		return nil, err
	}
	return file, nil
}

// ReadFull fills p from offset off. A range that was not in the file when it
// was opened is ErrCorrupt, one that is not any more ErrChanged.
func (f *File) ReadFull(p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("%s: cannot read %d bytes at offset %d: %w", f.name, len(p), off, err)
	case off > f.size-int64(len(p)):
		return fmt.Errorf("%s: cannot read %d bytes at offset %d, beyond the end at %d: %w", f.name, len(p), off, f.size, ErrCorrupt)
	}
	return fmt.Errorf("%s: it ends at offset %d and is shorter than when it was opened: %w", f.name, off+int64(n), ErrChanged)
}
