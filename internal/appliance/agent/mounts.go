//go:build linux

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"ascend/internal/appliance/proto"
)

// root is a tree of mounted file systems.
type root struct {
	dir    string
	fd     int      // of dir, O_PATH
	points []string // mount points in order
}

var rootName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func (a *Agent) root(name string) (*root, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.roots[name]; r != nil {
		return r, nil
	}
	return nil, &proto.Error{Code: "not-found", Text: fmt.Sprintf("nothing is mounted as root %q", name)}
}

// mount mounts; hostile file systems are what this machine is for.
func (a *Agent) mount(q *proto.Mount) error {
	if !rootName.MatchString(q.Root) {
		return fmt.Errorf("%q cannot name a root", q.Root)
	}
	node, err := device(q.Device)
	if err != nil {
		return err
	}
	kind, err := fsOf(node, q.FS)
	if err != nil {
		return fmt.Errorf("cannot mount %s: %w", q.Device, err)
	}
	at := "/mnt/" + q.Root
	if p := strings.Trim(string(q.At), "/"); p != "" {
		r, err := a.root(q.Root)
		if err != nil {
			return err
		}
		fd, err := r.open(q.At, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return fmt.Errorf("cannot mount at %s: %w", q.At, err)
		}
		at, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		unix.Close(fd)
		if err != nil {
			return err
		}
	} else if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	if kind == "ntfs" {
		err = a.mountNTFS(node, at, q)
	} else {
		err = a.mountKernel(node, at, kind, q)
	}
	if err != nil {
		return fmt.Errorf("cannot mount %s: %w", q.Device, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.roots[q.Root]
	if r == nil {
		fd, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		r = &root{dir: at, fd: fd}
		a.roots[q.Root] = r
	}
	r.points = append(r.points, at)
	return nil
}

func (a *Agent) mountKernel(node, at, kind string, q *proto.Mount) error {
	need := map[string][]string{"vfat": {"vfat", "nls_cp437", "nls_ascii", "nls_utf8"}, "iso9660": {"isofs"}}[kind]
	if need == nil {
		need = []string{kind}
	}
	for _, m := range need {
		if err := a.module(m); err != nil {
			return err
		}
	}
	flags := uintptr(unix.MS_NODEV | unix.MS_NOATIME)
	opts := slices.Clone(q.Options)
	if q.ReadOnly {
		flags |= unix.MS_RDONLY
		// Not even the journal is replayed: a read-only disk would refuse it.
		switch kind {
		case "ext4":
			opts = append(opts, "noload")
		case "xfs":
			opts = append(opts, "norecovery", "nouuid")
		case "btrfs":
			opts = append(opts, "rescue=nologreplay")
		}
	} else if kind == "xfs" {
		opts = append(opts, "nouuid")
	}
	err := unix.Mount(node, at, kind, flags, strings.Join(opts, ","))
	if errors.Is(err, unix.EINVAL) && q.ReadOnly && kind == "btrfs" {
		err = unix.Mount(node, at, kind, flags, strings.Join(q.Options, ","))
	}
	return err
}

// mountNTFS mounts by ntfs-3g. A volume that is hibernated or was left by fast
// startup is refused for writing: Windows would lay its memory of the volume over
// what is written (ntfs-3g.probe(8): 14 hibernated, 15 unclean, 13 corrupt).
func (a *Agent) mountNTFS(node, at string, q *proto.Mount) error {
	if err := a.module("fuse"); err != nil {
		return err
	}
	mode := "--readwrite"
	if q.ReadOnly {
		mode = "--readonly"
	}
	switch out, err := tool(checkTime, nil, "ntfs-3g.probe", mode, node); exitOf(err) {
	case 0:
	case 14:
		if !q.ReadOnly {
			return &proto.Error{Code: "hibernated", Text: "the NTFS volume is hibernated or was left by fast startup; shut Windows down fully (shutdown /s /f /t 0, powercfg /h off) and back it up again"}
		}
	case 15: // an unclean journal, which ntfs-3g clears when it may write
	case 12, 13:
		return &proto.Error{Code: "corrupt", Text: "the NTFS volume is damaged: " + out}
	default:
		return fmt.Errorf("ntfs-3g.probe: %w: %s", err, out)
	}
	opts := append([]string{"noatime", "streams_interface=xattr", "permissions", "windows_names"}, q.Options...)
	if q.ReadOnly {
		opts = append(opts, "ro")
	}
	if out, err := tool(luksTime, nil, "ntfs-3g", node, at, "-o", strings.Join(opts, ",")); err != nil {
		return fmt.Errorf("ntfs-3g: %w: %s", err, out)
	}
	return nil
}

func (a *Agent) unmount(name string) error {
	r, err := a.root(name)
	if err != nil {
		return err
	}
	a.mu.Lock()
	delete(a.roots, name)
	a.mu.Unlock()
	unix.Close(r.fd)
	for _, p := range slices.Backward(r.points) {
		if e := unix.Unmount(p, unix.UMOUNT_NOFOLLOW); e != nil {
			// What could not be unmounted is at least on the disk.
			unix.Sync()
			err = errors.Join(err, fmt.Errorf("cannot unmount %s: %w", strings.TrimPrefix(p, "/mnt/"), e))
		}
	}
	return err
}

// unmountAll leaves every file system clean. ntfs-3g answers an unmount before it
// has written everything; its process is waited for.
func (a *Agent) unmountAll() error {
	var err error
	for name := range a.roots {
		err = errors.Join(err, a.unmount(name))
	}
	for {
		busy := false
		procs, _ := filepath.Glob("/proc/[0-9]*/comm")
		for _, p := range procs {
			if b, e := os.ReadFile(p); e == nil && bytes.HasPrefix(b, []byte("ntfs-3g")) {
				busy = true
			}
		}
		if !busy {
			return err
		}
		var ts = unix.Timespec{Nsec: 10e6}
		_ = unix.Nanosleep(&ts, nil)
		var ws unix.WaitStatus
		_, _ = unix.Wait4(-1, &ws, unix.WNOHANG, nil)
	}
}

// fstrimRange is struct fstrim_range of linux/fs.h; FITRIM = _IOWR('X', 121, …).
type fstrimRange struct{ start, length, minimum uint64 }

const fitrim = 0xc0185879

func (r *root) trim(path proto.Name) (int64, error) {
	fd, err := r.open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	// Blocks that were freed count as free once the journal is written.
	if err := unix.Syncfs(fd); err != nil {
		return 0, err
	}
	q := fstrimRange{length: ^uint64(0)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), fitrim, uintptr(unsafe.Pointer(&q))); errno != 0 {
		if errno == unix.EOPNOTSUPP || errno == unix.ENOTTY {
			return 0, &proto.Error{Code: "unsupported", Text: "this file system cannot discard unused blocks"}
		}
		return 0, fmt.Errorf("cannot trim: %w", errno)
	}
	return int64(q.length), nil
}

func (r *root) statfs(path proto.Name) (*proto.Space, error) {
	fd, err := r.open(path, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return nil, err
	}
	return &proto.Space{
		Bytes: int64(st.Blocks) * st.Frsize, Free: int64(st.Bavail) * st.Frsize,
		Inodes: int64(st.Files), InodeFree: int64(st.Ffree), ReadOnly: st.Flags&unix.ST_RDONLY != 0,
	}, nil
}
