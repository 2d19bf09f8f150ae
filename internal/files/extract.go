package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"ascend/internal/guest/vfs"
)

// Extract writes a file or tree to dest, which must not exist: content with its
// holes, permissions, times, links and hard links; owners where this process may
// give them. Extended attributes, special files and set-user-ID bits stay behind:
// Tar keeps those. Nothing is written outside dest, whatever links the tree holds.
// With an error dest holds what was written until then.
func (v *Volume) Extract(ctx context.Context, name, dest string, count func(int64)) (Result, error) {
	var res Result
	top, err := v.Stat(name, false)
	if err != nil {
		return res, err
	}
	if _, err := os.Lstat(dest); err == nil {
		return res, &fs.PathError{Op: "write", Path: dest, Err: fs.ErrExist}
	}
	parent, err := os.OpenRoot(filepath.Dir(dest))
	if err != nil {
		return res, err
	}
	defer parent.Close()
	x := &extraction{ctx: ctx, res: &res, count: count, links: map[uint64]string{}, buf: make([]byte, bufferSize), own: os.Geteuid() == 0}
	base := filepath.Base(dest)
	x.root = parent
	skips, err := v.walk(ctx, name, func(e Entry, n vfs.Node) error {
		at := base
		if e.Path != top.Path {
			rel, err := filepath.Rel(top.Path, e.Path)
			if err != nil {
				return err
			}
			at = filepath.Join(base, filepath.FromSlash(rel))
		}
		return x.write(at, e, n)
	})
	// Folders get their permissions and times once nothing is written in them.
	for _, d := range slices.Backward(x.dirs) {
		if err == nil {
			err = x.settle(d.at, d.e)
		}
	}
	res.Skipped = skips.with(x.skips)
	return res, err
}

type extraction struct {
	ctx   context.Context
	root  *os.Root
	res   *Result
	count func(int64)
	skips Skips
	links map[uint64]string
	buf   []byte
	own   bool
	dirs  []extracted
}

type extracted struct {
	at string
	e  Entry
}

func (x *extraction) write(at string, e Entry, n vfs.Node) error {
	switch e.Type {
	case "directory":
		if err := x.root.Mkdir(at, 0o700); err != nil {
			return err
		}
		x.dirs = append(x.dirs, extracted{at, e})
	case "symlink":
		if err := x.root.Symlink(e.Target, at); err != nil {
			return err
		}
		if x.own {
			if err := x.root.Lchown(at, int(e.UID), int(e.GID)); err != nil {
				return err
			}
		}
	case "file":
		if first, ok := x.links[e.Inode]; ok && e.Links > 1 {
			if err := x.root.Link(first, at); err != nil {
				return err
			}
			break
		}
		f, err := open(e.Path, n)
		if err != nil {
			x.skips.add(e.Path, err)
			return nil
		}
		if err := x.file(at, f); err != nil {
			return err
		}
		if e.Links > 1 {
			x.links[e.Inode] = at
		}
	default:
		x.skips.add(e.Path, fmt.Errorf("a %s is not made; tar keeps it", e.Type))
		return nil
	}
	x.res.Files++
	return nil
}

func (x *extraction) file(at string, f *File) error {
	w, err := x.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer w.Close()
	before := x.res.Bytes
	err = f.Runs(x.ctx, func(off, n int64) error {
		return x.res.copy(x.ctx, &counted{w, off, x.count}, f, off, n, x.buf)
	})
	if err == nil {
		err = w.Truncate(f.Size)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return fmt.Errorf("cannot write %s (%d bytes of it are): %w", at, x.res.Bytes-before, err)
	}
	return x.settle(at, f.Entry)
}

func (x *extraction) settle(at string, e Entry) error {
	if x.own {
		if err := x.root.Lchown(at, int(e.UID), int(e.GID)); err != nil {
			return err
		}
	}
	if err := x.root.Chmod(at, e.Mode.Perm()); err != nil {
		return err
	}
	return x.root.Chtimes(at, e.Time, e.Time)
}

// counted writes at an offset and tells how much.
type counted struct {
	f     *os.File
	off   int64
	count func(int64)
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.f.WriteAt(p, c.off)
	c.off += int64(n)
	if c.count != nil {
		c.count(int64(n))
	}
	return n, err
}
