package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// Permissions of what is made: the disks of a machine hold its secrets.
const (
	folderMode fs.FileMode = 0o700
	fileMode   fs.FileMode = 0o600
)

// identity tells a file or folder from every other of its file system, from
// its creation to its removal and across renames: inode number and time of
// birth, because numbers are used again. Where the file system keeps no time
// of birth it is the number alone.
func identity(f *os.File) (string, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return "", err
	}
	var st unix.Statx_t
	var serr error
	err = raw.Control(func(fd uintptr) {
		serr = unix.Statx(int(fd), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st)
	})
	if err = errors.Join(err, serr); err != nil {
		return "", fmt.Errorf("cannot identify %s: %w", f.Name(), err)
	}
	id := strconv.FormatUint(st.Ino, 10)
	if st.Mask&unix.STATX_BTIME != 0 {
		id += fmt.Sprintf("@%d.%09d", st.Btime.Sec, st.Btime.Nsec)
	}
	return id, nil
}

// identityAt is the identity of what name means in root, and its type; it does
// not follow a symlink at name. It is "" when nothing is there, and for what
// is neither a folder nor a regular file.
func identityAt(root *os.Root, name string) (string, fs.FileMode, error) {
	st, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	if !st.IsDir() && !st.Mode().IsRegular() {
		return "", st.Mode(), nil
	}
	f, err := openSame(root, name, st, os.O_RDONLY)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	id, err := identity(f)
	return id, st.Mode(), err
}

// openSame opens what st was said of, and fails when the name means something
// else by now.
func openSame(root *os.Root, name string, st fs.FileInfo, flag int) (*os.File, error) {
	// O_NONBLOCK: a pipe put in the file's place must not hang the open.
	f, err := root.OpenFile(name, flag|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	now, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !os.SameFile(st, now) {
		f.Close()
		return nil, fmt.Errorf("%s was replaced while it was opened", name)
	}
	return f, nil
}

// moveNoReplace renames within root, names being single components. It fails
// with fs.ErrExist when there is anything at the new name. Only where the file
// system cannot promise that (renameat2(2): NFS) is it checked beforehand.
func moveNoReplace(root *os.Root, from, to string) error {
	return moveWith(root, from, to, unix.Renameat2)
}

func moveWith(root *os.Root, from, to string, renameat2 func(olddir int, old string, newdir int, name string, flags uint) error) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	raw, err := d.SyscallConn()
	if err != nil {
		return err
	}
	var rerr error
	if err := raw.Control(func(fd uintptr) {
		rerr = renameat2(int(fd), from, int(fd), to, unix.RENAME_NOREPLACE)
	}); err != nil {
		return err
	}
	if errors.Is(rerr, unix.EINVAL) || errors.Is(rerr, unix.ENOSYS) {
		if _, err := root.Lstat(to); err == nil {
			rerr = unix.EEXIST
		} else if errors.Is(err, fs.ErrNotExist) {
			rerr = root.Rename(from, to)
		} else {
			return err
		}
	}
	if rerr != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: rerr}
	}
	return syncDir(root)
}

// syncDir makes the names in root durable.
func syncDir(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	err = d.Sync()
	// Some file systems (FUSE, SMB) know no fsync of folders.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		err = nil
	}
	return errors.Join(err, d.Close())
}

// space is what a file system says of itself.
type space struct {
	free int64 // bytes, for this user
	kind int64 // magic number of statfs(2)
}

func statfs(dir string) (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return space{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return space{free: int64(min(st.Bavail, 1<<62/uint64(max(st.Bsize, 1)))) * st.Bsize, kind: st.Type}, nil
}

func (s space) note() string { return vm.FormatSize(s.free) + " free" }

// permanent wraps an error of the file system that trying again does not help
// against with target.ErrPermanent.
func permanent(err error) error {
	for _, e := range []error{
		fs.ErrPermission, fs.ErrNotExist, unix.EROFS, unix.ENOTDIR, unix.EISDIR, unix.ENAMETOOLONG, unix.EFBIG, unix.ENOSPC, unix.EDQUOT,
	} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", target.ErrPermanent, err)
		}
	}
	return err
}

// writeError says what a failed write to path means.
func writeError(path string, err error) error {
	dir := filepath.Dir(path)
	why := ""
	switch {
	case errors.Is(err, unix.ENOSPC):
		why = "the file system of " + dir + " is full"
		if st, serr := statfs(dir); serr == nil {
			why += " (" + st.note() + ")"
		}
	case errors.Is(err, unix.EDQUOT):
		why = "the disk quota in " + dir + " is used up"
	case errors.Is(err, unix.EFBIG):
		why = "the file system or a limit of the process takes no file of this size"
	case errors.Is(err, unix.EROFS):
		why = dir + " is mounted read-only"
	}
	if why == "" {
		return fmt.Errorf("cannot write %s: %w", path, permanent(err))
	}
	return fmt.Errorf("cannot write %s: %s: %w", path, why, permanent(err))
}

// pieceSize is how much is read or written between two looks at the context.
const pieceSize = 1 << 20

// writeAt writes p at off unless ctx ends.
func writeAt(ctx context.Context, f *os.File, p []byte, off int64) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.WriteAt(p[:min(len(p), pieceSize)], off)
		if err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
		if len(p) == 0 {
			return nil
		}
	}
}

// dataSync makes the file's bytes and its length durable.
func dataSync(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		for {
			if serr = unix.Fdatasync(int(fd)); !errors.Is(serr, syscall.EINTR) {
				return
			}
		}
	})
	if err = errors.Join(err, serr); err != nil {
		return writeError(f.Name(), err)
	}
	return nil
}

// isNotEmpty tells whether a folder could not be removed because of what is
// in it.
func isNotEmpty(err error) bool {
	return errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST)
}
