//go:build linux

package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ascend/internal/appliance/proto"
)

// open resolves a path within the root as if the root were /: links to absolute
// paths and dots lead nowhere else (openat2(2), RESOLVE_IN_ROOT).
func (r *root) open(name proto.Name, flags int, mode uint32) (int, error) {
	fd, err := unix.Openat2(r.fd, "./"+strings.TrimLeft(string(name), "/"), &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: string(name), Err: err}
	}
	return fd, nil
}

// parent opens the directory of a path; the last component is not followed.
func (r *root) parent(name proto.Name) (fd int, base string, err error) {
	dir, base := path.Split(path.Clean("/" + string(name)))
	if base == "" {
		return -1, "", errors.New("the root itself cannot be changed")
	}
	fd, err = r.open(proto.Name(dir), unix.O_PATH|unix.O_DIRECTORY, 0) // -1 with an error
	return fd, base, err
}

func (r *root) file(name proto.Name, flags int) (*os.File, error) {
	// Not to wait for a FIFO's other end, nor to open a device.
	fd, err := r.open(name, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, errors.Join(err, &os.PathError{Op: "open", Path: string(name), Err: errors.New("not a regular file")})
	}
	return os.NewFile(uintptr(fd), string(name)), nil
}

func info(name string, st *unix.Stat_t) proto.FileInfo {
	return proto.FileInfo{
		Name: proto.Name(name), Mode: st.Mode, UID: st.Uid, GID: st.Gid, Size: st.Size, Blocks: st.Blocks,
		Links: st.Nlink, Inode: st.Ino, Time: time.Unix(st.Mtim.Unix()).UTC(),
	}
}

// at tells of one entry of a directory, not following links.
func at(dir int, name string) (proto.FileInfo, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return proto.FileInfo{}, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	i := info(name, &st)
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, name, b)
		if err != nil {
			return i, &os.PathError{Op: "readlink", Path: name, Err: err}
		}
		i.Target = proto.Name(b[:n])
	}
	return i, nil
}

func (r *root) list(q *proto.List) ([]proto.FileInfo, error) {
	fd, err := r.open(q.Path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	d := os.NewFile(uintptr(fd), string(q.Path))
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	out := []proto.FileInfo{}
	limit := q.Limit
	if limit <= 0 {
		limit = 10000
	}
	for _, n := range names {
		if q.After != "" && n <= string(q.After) {
			continue
		}
		if len(out) == limit {
			break
		}
		i, err := at(fd, n)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			return nil, err
		}
		out = append(out, i)
	}
	return out, nil
}

func (r *root) stat(q *proto.Stat) (*proto.FileInfo, error) {
	flags := unix.O_PATH
	if !q.Follow {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := r.open(q.Path, flags, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	i := info(path.Base("/"+string(q.Path)), &st)
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		b := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", b)
		if err != nil {
			return nil, err
		}
		i.Target = proto.Name(b[:n])
		return &i, nil
	}
	i.XAttrs, err = xattrs(fd)
	return &i, err
}

// xattrs reads all of them of an open file, also of one opened by O_PATH.
func xattrs(fd int) (map[string][]byte, error) {
	p := fmt.Sprintf("/proc/self/fd/%d", fd)
	b := make([]byte, 64<<10) // the kernel's bound, XATTR_LIST_MAX
	n, err := unix.Listxattr(p, b)
	if errors.Is(err, unix.EOPNOTSUPP) || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	v := make([]byte, 64<<10)
	for _, name := range strings.Split(strings.TrimRight(string(b[:n]), "\x00"), "\x00") {
		k, err := unix.Getxattr(p, name, v)
		if err != nil {
			if errors.Is(err, unix.ENODATA) {
				continue
			}
			return nil, err
		}
		out[name] = slices.Clone(v[:k])
	}
	return out, nil
}

// maxRead bounds a read whose bytes come as a result.
const maxRead = 16 << 20

func (a *Agent) read(r *root, q *proto.Read) (any, error) {
	f, err := r.file(q.Path, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if q.Port == nil {
		n := q.Length
		if n <= 0 || n > maxRead {
			n = maxRead
		}
		return io.ReadAll(io.NewSectionReader(f, q.Offset, n))
	}
	port, free, err := a.port(*q.Port)
	if err != nil {
		return nil, err
	}
	defer free()
	var src io.Reader = io.NewSectionReader(f, q.Offset, 1<<62)
	if q.Length >= 0 {
		src = io.LimitReader(src, q.Length)
	}
	w := &proto.FrameWriter{W: port}
	_, err = io.CopyBuffer(onlyWriter{w}, src, make([]byte, 256<<10))
	if err != nil {
		return nil, errors.Join(err, w.Fail(err))
	}
	return w.Bytes(), w.Close()
}

type onlyWriter struct{ io.Writer }

const label = "security.selinux"

func (a *Agent) write(r *root, q *proto.Write) error {
	var src io.Reader = strings.NewReader(string(q.Data))
	if q.Port != nil {
		port, free, err := a.port(*q.Port)
		if err != nil {
			return err
		}
		defer free()
		fr := &proto.FrameReader{R: port}
		defer fr.Drain()
		src = fr
	}
	if q.Append {
		return r.appendTo(q, src)
	}
	if q.InPlace {
		return r.overwrite(q, src)
	}
	dir, base, err := r.parent(q.Path)
	if err != nil {
		return err
	}
	defer func() { unix.Close(dir) }()
	mode, uid, gid := q.Mode, q.UID, q.GID
	if mode == 0 {
		mode = 0o644
	}
	set := map[string][]byte{}
	if old, err := r.open(q.Path, unix.O_PATH, 0); err == nil {
		// The file that is replaced may be reached by a link: write where it leads.
		var st unix.Stat_t
		err := unix.Fstat(old, &st)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = errors.New("not a regular file")
		}
		var all map[string][]byte
		if err == nil {
			all, err = xattrs(old)
		}
		var real string
		if err == nil {
			real, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", old))
		}
		unix.Close(old)
		if err != nil {
			return fmt.Errorf("cannot replace %s: %w", q.Path, err)
		}
		mode, uid, gid, set = st.Mode&0o7777, int(st.Uid), int(st.Gid), all
		if rel, ok := strings.CutPrefix(real, r.dir+"/"); ok && rel != strings.TrimPrefix(path.Clean("/"+string(q.Path)), "/") {
			unix.Close(dir)
			if dir, base, err = r.parent(proto.Name("/" + rel)); err != nil {
				return err // dir is -1
			}
		}
	} else if v := r.siblingLabel(q, dir); v != nil {
		set = map[string][]byte{label: v}
	}
	for k, v := range q.XAttrs {
		if set == nil {
			set = map[string][]byte{}
		}
		set[k] = v
	}
	tmp := ".ascend-" + fmt.Sprint(time.Now().UnixNano())
	fd, err := unix.Openat(dir, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "write", Path: string(q.Path), Err: err}
	}
	f := os.NewFile(uintptr(fd), string(q.Path))
	_, err = io.CopyBuffer(onlyWriter{f}, src, make([]byte, 256<<10))
	if err == nil {
		err = own(f, mode, uid, gid, set)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = unix.Renameat(dir, tmp, dir, base)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, tmp, 0)
		return fmt.Errorf("cannot write %s: %w", q.Path, err)
	}
	return nil
}

// siblingLabel is the SELinux label for a new file.
func (r *root) siblingLabel(q *proto.Write, dir int) []byte {
	fd := dir
	if q.Like != "" {
		if n, err := r.open(q.Like, unix.O_PATH, 0); err == nil {
			defer unix.Close(n)
			fd = n
		}
	}
	v := make([]byte, 4096)
	n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", fd), label, v)
	if err != nil {
		return nil
	}
	return v[:n]
}

func own(f *os.File, mode uint32, uid, gid int, set map[string][]byte) error {
	fd := int(f.Fd())
	err := unix.Fchown(fd, uid, gid)
	if e := unix.Fchmod(fd, mode); err == nil {
		err = e
	}
	// FAT, and NTFS without a user map, know neither owner nor mode.
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) {
		var st unix.Statfs_t
		if unix.Fstatfs(fd, &st) == nil && (st.Type == unix.MSDOS_SUPER_MAGIC || st.Type == unix.FUSE_SUPER_MAGIC) {
			err = nil
		}
	}
	for k, v := range set {
		if e := unix.Fsetxattr(fd, k, v, 0); e != nil && !errors.Is(e, unix.EOPNOTSUPP) {
			err = errors.Join(err, fmt.Errorf("cannot set %s: %w", k, e))
		}
	}
	return err
}

// appendTo adds to a file in place; a failure takes the addition back.
func (r *root) appendTo(q *proto.Write, src io.Reader) error {
	f, err := r.file(q.Path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if q.Align > 0 && size%q.Align != 0 {
		_, err = f.Write(make([]byte, q.Align-size%q.Align))
	}
	if err == nil {
		_, err = io.CopyBuffer(onlyWriter{f}, src, make([]byte, 256<<10))
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot append to %s: %w", q.Path, err), f.Truncate(size))
	}
	return nil
}

// overwrite puts new content into a file that is there. A failure leaves it
// half-written.
func (r *root) overwrite(q *proto.Write, src io.Reader) error {
	f, err := r.file(q.Path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.CopyBuffer(onlyWriter{f}, src, make([]byte, 256<<10))
	if err == nil {
		err = f.Truncate(n)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("cannot write over %s: %w", q.Path, err)
	}
	return nil
}

func (r *root) truncate(q *proto.Truncate) error {
	f, err := r.file(q.Path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	return errors.Join(f.Truncate(q.Size), f.Sync())
}

func (r *root) mkdirAll(name proto.Name, mode uint32, set map[string][]byte) error {
	if mode == 0 {
		mode = 0o755
	}
	at := "/"
	for _, part := range strings.Split(strings.Trim(path.Clean("/"+string(name)), "/"), "/") {
		if part == "" {
			continue
		}
		dir, err := r.open(proto.Name(at), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		at = path.Join(at, part)
		err = unix.Mkdirat(dir, part, mode)
		if err == nil {
			v := make([]byte, 4096)
			if n, e := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", dir), label, v); e == nil {
				if fd, e := unix.Openat(dir, part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); e == nil {
					_ = unix.Fsetxattr(fd, label, v[:n], 0)
					unix.Close(fd)
				}
			}
			for k, v := range set {
				// By its path: a folder that was opened for nothing takes none.
				if e := unix.Setxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir, part), k, v, 0); e != nil {
					unix.Close(dir)
					return &os.PathError{Op: "setxattr " + k, Path: at, Err: e}
				}
			}
		}
		unix.Close(dir)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return &os.PathError{Op: "mkdir", Path: at, Err: err}
		}
	}
	fd, err := r.open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func (r *root) subvolume(name proto.Name) error {
	dir, base, err := r.parent(name)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	at, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir))
	if err != nil {
		return err
	}
	if out, err := tool(formatTime, nil, "btrfs", "subvolume", "create", "--", path.Join(at, base)); err != nil {
		return fmt.Errorf("cannot make subvolume %s: %w: %s", name, err, out)
	}
	return nil
}

func (r *root) symlink(q *proto.Symlink) error {
	dir, base, err := r.parent(q.Path)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	tmp := ".ascend-" + fmt.Sprint(time.Now().UnixNano())
	if err := unix.Symlinkat(string(q.Target), dir, tmp); err != nil {
		return &os.PathError{Op: "symlink", Path: string(q.Path), Err: err}
	}
	if err := unix.Renameat(dir, tmp, dir, base); err != nil {
		_ = unix.Unlinkat(dir, tmp, 0)
		return &os.PathError{Op: "symlink", Path: string(q.Path), Err: err}
	}
	return nil
}

func (r *root) rename(q *proto.Rename) error {
	from, fb, err := r.parent(q.From)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, tb, err := r.parent(q.To)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	if err := unix.Renameat(from, fb, to, tb); err != nil {
		return &os.LinkError{Op: "rename", Old: string(q.From), New: string(q.To), Err: err}
	}
	return nil
}

func (r *root) remove(name proto.Name, all bool) error {
	dir, base, err := r.parent(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	err = removeAt(dir, base, all)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "remove", Path: string(name), Err: err}
	}
	return nil
}

func removeAt(dir int, base string, all bool) error {
	err := unix.Unlinkat(dir, base, 0)
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	if e := unix.Unlinkat(dir, base, unix.AT_REMOVEDIR); e == nil || !all || !errors.Is(e, unix.ENOTEMPTY) {
		if errors.Is(e, unix.ENOTDIR) {
			return err // an immutable file
		}
		return e
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), base)
	names, err := d.Readdirnames(-1)
	for _, n := range names {
		if err == nil {
			err = removeAt(fd, n, true)
		}
	}
	d.Close()
	if err != nil {
		return err
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}
