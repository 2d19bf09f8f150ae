package files

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"ascend/internal/disk"
)

type memory struct {
	io.ReaderAt
	size int64
}

func (m memory) Size() int64      { return m.size }
func (m memory) Close() error     { return nil }
func (m memory) Unchanged() error { return nil }
func (m memory) Extents(_ context.Context, off, n int64, yield func(disk.Extent) error) error {
	return yield(disk.Extent{Off: off, Len: n, Data: true})
}

func run(t *testing.T, stdin string, argv ...string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if _, err := os.Stat(dir + argv[0]); err == nil {
			argv[0] = dir + argv[0]
			break
		}
	}
	c := exec.Command(argv[0], argv[1:]...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is missing: run build/deps", argv[0])
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return string(out)
}

// xfsImage is the one the kernel wrote (guest/xfs/testdata/make).
func xfsImage(t *testing.T) []byte {
	t.Helper()
	f, err := os.Open("../guest/xfs/testdata/v5.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// ext4Image has what mke2fs copies of a folder, and what debugfs adds.
func ext4Image(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(src, "etc", "deep"), 0o755))
	must(os.WriteFile(filepath.Join(src, "etc", "passwd"), []byte("root:x:0:0\n"), 0o640))
	must(os.WriteFile(filepath.Join(src, "etc", "a\xff\"b\n"), []byte("odd"), 0o600))
	must(os.WriteFile(filepath.Join(src, "etc", "aux.TXT "), []byte("reserved"), 0o600))
	must(os.WriteFile(filepath.Join(src, "etc", "AUX.txt "), []byte("twice"), 0o600))
	must(os.Link(filepath.Join(src, "etc", "passwd"), filepath.Join(src, "etc", "deep", "passwd-")))
	must(os.Symlink("../../../../../../etc/passwd", filepath.Join(src, "etc", "deep", "up")))
	must(os.Symlink("/etc", filepath.Join(src, "abs")))
	img, cmds := filepath.Join(dir, "img"), filepath.Join(dir, "cmds")
	run(t, "", "mke2fs", "-q", "-t", "ext4", "-d", src, img, "32M")
	must(os.WriteFile(cmds, []byte("ea_set /etc/passwd user.note hello\nsif /etc/passwd uid 70000\nsif /etc/passwd mtime 20200102030405\n"), 0o600))
	run(t, "", "debugfs", "-w", "-f", cmds, img)
	b, err := os.ReadFile(img)
	must(err)
	return b
}

func openSet(t *testing.T, imgs ...[]byte) *Set {
	t.Helper()
	var disks []disk.Disk
	for _, b := range imgs {
		disks = append(disks, memory{bytes.NewReader(b), int64(len(b))})
	}
	s, err := Open(t.Context(), disks)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func volume(t *testing.T, s *Set, id, name string) *Volume {
	t.Helper()
	v, err := s.Volume(id, name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestLook(t *testing.T) {
	s := openSet(t, ext4Image(t), xfsImage(t))
	if l := s.Volumes(); len(l) != 2 || l[0].Type != "ext4" || l[1].Type != "xfs" || !l[1].Readable {
		t.Fatalf("%+v", l)
	}
	if _, err := s.Volume("", "/"); !errors.Is(err, ErrVolume) {
		t.Errorf("two roots: %v", err)
	}
	if _, err := s.Volume("disk7", "/"); !errors.Is(err, ErrVolume) {
		t.Errorf("no disk: %v", err)
	}
	if _, err := s.Volume("", "/nowhere"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no path: %v", err)
	}
	v := volume(t, s, "", "/etc/passwd")
	e, err := v.Stat("/abs/deep/up", true)
	if err != nil || e.Path != "/etc/passwd" || e.UID != 70000 || e.Links != 2 || string(e.XAttrs["user.note"]) != "hello" || e.Mode != 0o640 {
		t.Errorf("%+v, %v", e, err)
	}
	list, err := v.List(t.Context(), "/etc")
	if err != nil || len(list) != 5 {
		t.Fatalf("%v, %v", list, err)
	}
	i := slices.IndexFunc(list, func(e Entry) bool { return e.Name() == "a\xff\"b\n" })
	if i < 0 {
		t.Fatalf("%v", list)
	}
	if r := list[i].Record(); string(r.Raw) != "/etc/a\xff\"b\n" || r.Name != "a\ufffd\"b\n" {
		t.Errorf("%+v", r)
	}
	if _, err := v.List(t.Context(), "/etc/passwd"); !errors.Is(err, ErrKind) {
		t.Errorf("list of a file: %v", err)
	}
	if _, err := v.Open("/etc"); !errors.Is(err, ErrKind) {
		t.Errorf("open of a folder: %v", err)
	}
	for pattern, want := range map[string]string{"passwd*": "/etc/deep/passwd- /etc/passwd", "/etc/*/up": "/etc/deep/up", "/**/deep": "/etc/deep", "/etc/pass[a-w]d": "/etc/passwd", "/nothing*": ""} {
		var got []string
		if _, err := v.Find(t.Context(), pattern, func(e Entry) error { got = append(got, e.Path); return nil }); err != nil {
			t.Error(err)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", pattern, got, want)
		}
	}
}

// TestTar unpacks by GNU tar, which knows sparse files and attributes.
func TestTar(t *testing.T) {
	s := openSet(t, ext4Image(t), xfsImage(t))
	dir := t.TempDir()
	for id, top := range map[string]string{"disk0": "/etc", "disk1": "/"} {
		f, err := os.Create(filepath.Join(dir, id+".tar"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := volume(t, s, id, top).Tar(t.Context(), top, f)
		if err != nil || res.Skipped.Count != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
		f.Close()
		if err := os.Mkdir(filepath.Join(dir, id), 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, "", "tar", "-xf", f.Name(), "-C", filepath.Join(dir, id), "--no-same-owner", "--exclude=./null", "--exclude=null", "--xattrs")
	}
	same := func(p, want string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(dir, p)); err != nil || string(b) != want {
			t.Errorf("%q: %q, %v", p, b, err)
		}
	}
	same("disk0/etc/passwd", "root:x:0:0\n")
	same("disk0/etc/deep/passwd-", "root:x:0:0\n")
	same("disk0/etc/a\xff\"b\n", "odd")
	same("disk1/latin-\xe9\xff", "x")
	same("disk1/node-dir/a name that takes room 01499", "hello\n")
	if l, err := os.Readlink(filepath.Join(dir, "disk0/etc/deep/up")); err != nil || l != "../../../../../../etc/passwd" {
		t.Errorf("%q, %v", l, err)
	}
	i, err := os.Stat(filepath.Join(dir, "disk1/sparse"))
	if err != nil || i.Size() != 20<<30 {
		t.Fatalf("sparse: %v, %v", i, err)
	}
	if st := i.Sys().(*syscall.Stat_t); st.Blocks > 1000 {
		t.Errorf("the sparse file takes %d blocks", st.Blocks)
	}
	a, errA := os.Stat(filepath.Join(dir, "disk0/etc/passwd"))
	b, errB := os.Stat(filepath.Join(dir, "disk0/etc/deep/passwd-"))
	if errA != nil || errB != nil || !os.SameFile(a, b) || a.ModTime().Unix() != 1577934245 {
		t.Errorf("hard link or time: %v %v", a, b)
	}
	// Owners and attributes as archive/tar reads them.
	f, err := os.Open(filepath.Join(dir, "disk0.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatal("passwd is not in the archive: ", err)
		}
		if h.Linkname == "" && strings.HasPrefix(filepath.Base(h.Name), "passwd") {
			if h.Uid != 70000 || h.PAXRecords["SCHILY.xattr.user.note"] != "hello" {
				t.Errorf("%+v", h)
			}
			break
		}
	}
}

// TestZip is read by 7-Zip; names are such as Windows takes.
func TestZip(t *testing.T) {
	s := openSet(t, ext4Image(t))
	out := filepath.Join(t.TempDir(), "etc.zip")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := volume(t, s, "", "/etc").Zip(t.Context(), "/etc", f); err != nil || res.Skipped.Count != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	f.Close()
	run(t, "", "7zz", "t", out)
	list := run(t, "", "7zz", "l", "-slt", out)
	for _, want := range []string{"Path = etc/passwd\n", "Path = etc/a__b_\n", "Path = etc/_AUX.txt_\n", "Path = etc/_aux.TXT_~2\n", "Path = etc/deep/up\n"} {
		if !strings.Contains(list, want) {
			t.Errorf("no %q in %s", want, list)
		}
	}
}

func TestExtract(t *testing.T) {
	s := openSet(t, xfsImage(t))
	v := volume(t, s, "", "/")
	dest := filepath.Join(t.TempDir(), "out")
	res, err := v.Extract(t.Context(), "/", dest, nil)
	if err != nil || res.Skipped.Count != 2 { // a FIFO and a device
		t.Fatalf("%+v, %v", res, err)
	}
	i, err := os.Stat(filepath.Join(dest, "sparse"))
	if err != nil || i.Size() != 20<<30 || i.Sys().(*syscall.Stat_t).Blocks > 1000 {
		t.Errorf("%+v, %v", i, err)
	}
	if i, err = os.Stat(filepath.Join(dest, "hello")); err != nil || i.Mode().Perm() != 0o711 || i.Mode()&fs.ModeSetuid != 0 {
		t.Errorf("%v, %v", i, err)
	}
	if _, err := v.Extract(t.Context(), "/", dest, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("again: %v", err)
	}
	// A file that fails in the middle, and one that is given up.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Tar(ctx, "/", io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// broken fails beyond a byte of the disk.
type broken struct {
	b  []byte
	at int64
}

var errDisk = errors.New("the disk failed")

func (x broken) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > x.at {
		return 0, errDisk
	}
	return copy(p, x.b[off:]), nil
}

// TestBroken: whatever byte fails, there is an error or a count of what is missing.
func TestBroken(t *testing.T) {
	img := xfsImage(t)
	for at := int64(1 << 20); at < int64(len(img)); at += 3 << 20 {
		s, err := Open(t.Context(), []disk.Disk{memory{broken{img, at}, int64(len(img))}})
		if err != nil {
			t.Fatal(err)
		}
		v, err := s.Volume("disk0", "/")
		if err != nil {
			continue
		}
		if res, err := v.Tar(t.Context(), "/", io.Discard); err == nil && res.Skipped.Count == 0 && at < 9<<20 {
			t.Errorf("a disk that fails at %d gave a whole archive: %+v", at, res)
		}
	}
}

// TestConstantMemory streams 20 GiB by several readers at once.
func TestConstantMemory(t *testing.T) {
	v := volume(t, openSet(t, xfsImage(t)), "", "/")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for i := range 4 {
		wg.Go(func() {
			f, err := v.Open("/sparse")
			if err != nil {
				errs <- err
				return
			}
			b := make([]byte, bufferSize)
			for off := int64(i) << 30; off < f.Size; off += 64 << 20 {
				if _, err := f.ReadAt(b, off); err != nil {
					errs <- err
					return
				}
			}
			if n, err := f.ReadAt(b[:6], 5<<20); err != nil || string(b[:n]) != "middle" {
				errs <- fmt.Errorf("%q, %w", b[:n], err)
			}
			if _, err := v.Tar(context.Background(), "/sparse", io.Discard); err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if d := after.TotalAlloc - before.TotalAlloc; d > 64<<20 {
		t.Errorf("%d bytes were allocated", d)
	}
}
