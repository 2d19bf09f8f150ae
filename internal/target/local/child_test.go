package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/target/targettest"
)

// Some tests need a process of their own: one that is killed, one without
// privileges, one with a file system of its own. The test binary starts itself
// with the child's name in this variable.
const childVar = "ASCEND_LOCAL_TEST_CHILD"

var children = map[string]func(dir string) error{
	"full": childFull, "limit": childLimit, "readonly": childReadOnly, "slow": childSlow,
}

func TestMain(m *testing.M) {
	name, dir, child := strings.Cut(os.Getenv(childVar), ":")
	if !child {
		os.Exit(m.Run())
	}
	if err := children[name](dir); err != nil {
		fmt.Println("child:", err)
		os.Exit(3)
	}
	os.Exit(0)
}

func child(t testing.TB, name, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVar+"="+name+":"+dir)
	return cmd
}

// childOrder is the order of all children.
func childOrder(f image.Format) *target.Order {
	return newOrder("vm", PathFolder, f, childSize)
}

const childSize = 32 << 20

// restoreInto restores random bytes and gives the first error.
func restoreInto(dir string, f image.Format, rec target.Recorder) error {
	ctx := context.Background()
	tgt, err := Open(settings(dir))
	if err != nil {
		return err
	}
	sess, err := tgt.Begin(ctx, childOrder(f), rec)
	if err != nil {
		return err
	}
	defer func() { _ = sess.Close(ctx) }() // the first error counts
	up, err := sess.Upload(ctx, 0)
	if err != nil {
		return err
	}
	for off := int64(0); off < childSize; off += 1 << 20 {
		switch u := up.(type) {
		case target.RangeUpload:
			err = u.WriteRange(ctx, off, random(1<<20))
		case target.StreamUpload:
			err = u.Append(ctx, random(1<<20))
		}
		if err != nil {
			return err
		}
	}
	_, err = up.Complete(ctx, target.Sum{Bytes: childSize})
	return err
}

// expect restores, wants the error to say words and to be permanent, and wants
// nothing left after undoing.
func expect(dir string, words ...string) error {
	for _, f := range []image.Format{formatRaw, formatDeflate} {
		rec := new(targettest.MemRecorder)
		err := restoreInto(dir, f, rec)
		if err == nil {
			return fmt.Errorf("%s: no error", f)
		}
		fmt.Println(f, err)
		if !errors.Is(err, target.ErrPermanent) {
			return fmt.Errorf("%s: not permanent: %w", f, err)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				return fmt.Errorf("%s: %q is not said: %w", f, w, err)
			}
		}
		tgt, err := Open(settings(dir))
		if err != nil {
			return err
		}
		if err := targettest.UndoAll(context.Background(), tgt, rec); err != nil {
			return err
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			return fmt.Errorf("%s: left behind: %v, %w", f, left, err)
		}
	}
	return nil
}

func childFull(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		return fmt.Errorf("cannot mount a small file system: %w", err)
	}
	return expect(dir, "is full", "free", dir)
}

// A full file system is a clear error, and undoing makes room again.
func TestDiskFull(t *testing.T) {
	cmd := child(t, "full", t.TempDir())
	// A mount namespace of its own; for users other than root, in a user
	// namespace of its own.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Unshareflags: 0}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\nthis test mounts a tmpfs in a namespace: run it as root with CAP_SYS_ADMIN, or as a user where unprivileged user namespaces are allowed", err, out)
	}
}

func childLimit(dir string) error {
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 4 << 20, Max: 4 << 20}); err != nil {
		return err
	}
	return expect(dir, "no file of this size")
}

func TestFileSizeLimit(t *testing.T) {
	if out, err := child(t, "limit", t.TempDir()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func childReadOnly(dir string) error {
	if err := restoreInto(dir, formatRaw, new(targettest.MemRecorder)); !errors.Is(err, target.ErrPermanent) || !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("a restore to a folder without write permission: %w", err)
	}
	tgt, err := Open(settings(dir))
	if err != nil {
		return err
	}
	for _, c := range tgt.Validate(context.Background()) {
		if c.Name == "writable" && (c.OK || c.Hint == "" || !strings.Contains(c.Detail, "permission denied")) || c.Name == "folder" && !c.OK {
			return fmt.Errorf("check of a folder without write permission: %+v", c)
		}
	}
	return nil
}

func TestReadOnlyFolder(t *testing.T) {
	dir, err := os.MkdirTemp("", "local-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove1(t, dir) })
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	cmd := child(t, "readonly", dir)
	if os.Getuid() == 0 {
		// Root may write anywhere; nobody may not. The test binary must be
		// reachable for nobody, so give it to them open.
		bin, err := os.Open(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		defer bin.Close()
		cmd.Path, cmd.ExtraFiles = "/proc/self/fd/3", []*os.File{bin}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if left := list(t, dir); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// childSlow writes a stream and a range upload, one piece at a time, saying
// how far it is, until it is killed.
func childSlow(dir string) error {
	ctx := context.Background()
	format := formatDeflate
	if strings.HasSuffix(dir, "raw") {
		format = formatRaw
	}
	tgt, err := Open(settings(dir))
	if err != nil {
		return err
	}
	sess, err := tgt.Begin(ctx, childOrder(format), targettest.NewFileRecorder(dir+".journal"))
	if err != nil {
		return err
	}
	up, err := sess.Upload(ctx, 0)
	if err != nil {
		return err
	}
	p := random(childSize)
	for off := 0; ; {
		if st, ok := up.(target.StreamUpload); ok {
			have, err := st.Offset(ctx)
			if err != nil {
				return err
			}
			off = int(have)
			err = st.Append(ctx, p[off:off+7001])
			if err != nil {
				return err
			}
		} else if err := up.(target.RangeUpload).WriteRange(ctx, int64(off), p[off:off+7001]); err != nil {
			return err
		}
		off += 7001
		fmt.Println(off)
		time.Sleep(time.Millisecond)
	}
}

// kill -9 in the middle, twice: what was written stays, and goes on.
func TestKilled(t *testing.T) {
	for _, f := range []image.Format{formatDeflate, formatRaw} {
		dir := filepath.Join(t.TempDir(), f.Name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		landed := 0
		for round := range 2 {
			cmd := child(t, "slow", dir)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for n := 0; n < 20+7*round && lines.Scan(); n++ {
				if _, err := fmt.Sscan(lines.Text(), &landed); err != nil {
					t.Fatalf("%s: %v", lines.Text(), err)
				}
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // says that it was killed
		}
		o := childOrder(f)
		rec := targettest.NewFileRecorder(dir + ".journal")
		sess := begin(t, dir, o, rec)
		up, err := sess.Upload(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		p := random(childSize)
		switch u := up.(type) {
		case target.StreamUpload:
			off, err := u.Offset(t.Context())
			if err != nil || off < int64(landed) || off > int64(len(p)) {
				t.Fatalf("the offset after %d bytes is %d, %v", landed, off, err)
			}
			if err := u.Append(t.Context(), p[off:]); err != nil {
				t.Fatal(err)
			}
		case target.RangeUpload:
			if err := u.WriteRange(t.Context(), int64(landed), p[landed:]); err != nil {
				t.Fatal(err)
			}
		}
		sum := target.Sum{Bytes: childSize}
		if len(o.Disks[0].Delivery.Digests) > 0 {
			sum.SHA256 = sha(p)
		}
		if _, err := up.Complete(t.Context(), sum); err != nil {
			t.Fatal(err)
		}
		finish(t, sess)
		if got := readFile(t, one(t, filepath.Join(dir, "vm", "vm-disk1.*"))); !bytes.Equal(got, p) {
			t.Errorf("%s: other bytes landed", f)
		}
		undo(t, dir, rec)
		if left := list(t, dir); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}
