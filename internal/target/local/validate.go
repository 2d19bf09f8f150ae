package local

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"ascend/internal/target"
)

// Magic numbers of file systems without holes (linux/magic.h).
var solid = map[int64]string{0x4d44: "FAT", 0x2011bab0: "exFAT"}

// Validate implements target.Target. Writing is tried with a file that never
// gets a name (open(2), O_TMPFILE).
func (t *Target) Validate(ctx context.Context) []target.Check {
	var checks []target.Check
	add := func(name, hint string, f func() (string, error)) bool {
		c := target.Check{Name: name, OK: true}
		err := ctx.Err()
		if err == nil {
			c.Detail, err = f()
		}
		if err != nil {
			c.OK, c.Detail, c.Hint = false, err.Error(), hint
		}
		checks = append(checks, c)
		return c.OK
	}
	if !add("folder", "make the folder, or mount the file system it is on", func() (string, error) {
		st, err := os.Stat(t.dir)
		if err == nil && !st.IsDir() {
			err = fmt.Errorf("%s is not a folder", t.dir)
		}
		return t.dir, err
	}) {
		return checks
	}
	var sparse string
	var sparseErr error
	if add("writable", "give this user write permission, or mount the file system read-write", func() (string, error) {
		var err error
		sparse, sparseErr, err = tryWrite(t.dir)
		return "", err
	}) {
		add("sparse files", "use another file system: on this one a disk takes its full size", func() (string, error) {
			return sparse, sparseErr
		})
	}
	add("free space", "make room in the folder's file system", func() (string, error) {
		st, err := statfs(t.dir)
		if err == nil && st.free == 0 {
			err = errors.New("the file system is full")
		}
		return st.note(), err
	})
	return checks
}

// tryWrite writes to a nameless file in dir and tells whether a hole in it
// takes room.
func tryWrite(dir string) (sparse string, sparseErr, err error) {
	st, err := statfs(dir)
	if err != nil {
		return "", nil, err
	}
	if name, ok := solid[st.kind]; ok {
		sparseErr = fmt.Errorf("%s has no holes in files", name)
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, uint32(fileMode))
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		// The file system makes no nameless files: ask for permission only.
		if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
			return "", nil, &os.PathError{Op: "access", Path: dir, Err: err}
		}
		return "not tried", sparseErr, nil
	}
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	const hole = 1 << 20
	if err := f.Truncate(hole); err != nil {
		return "", nil, err
	}
	if _, err := f.WriteAt([]byte{1}, hole); err != nil {
		return "", nil, err
	}
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return "", nil, err
	}
	// st_blocks counts in 512 bytes (stat(2)).
	if sparseErr == nil && info.Blocks*512 >= hole {
		sparseErr = errors.New("a hole of 1 MiB takes 1 MiB")
	}
	return "holes take no room", sparseErr, nil
}
