package local

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

var (
	formatRaw      = image.Format{Name: "raw"}
	formatQCOW2    = image.Format{Name: "qcow2"}
	formatZlib     = image.Format{Name: "qcow2", Compression: "zlib"}
	formatDeflate  = image.Format{Name: "vmdk", Subformat: "streamOptimized", Compression: "deflate"}
	formatStored   = image.Format{Name: "vmdk", Subformat: "streamOptimized", Compression: "stored"}
	errNotExpected = errors.New("no error")
)

// delivery finds one of the target's deliveries.
func delivery(path string, f image.Format) target.Delivery {
	all := deliveries("", "")
	i := slices.IndexFunc(all, func(d target.Delivery) bool { return d.Path == path && d.Format == f })
	if i < 0 {
		panic("no delivery of " + f.String() + " by " + path)
	}
	return all[i]
}

// newOrder is an order for a machine with disks whose files have these sizes.
func newOrder(name string, path string, f image.Format, sizes ...int64) *target.Order {
	o := &target.Order{Job: "job-" + name, Machine: &vm.Machine{
		Name: name, CPU: vm.CPU{Sockets: 2}, Memory: vm.GiB, Firmware: vm.UEFI,
		Guest: vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64},
		NICs:  []vm.NIC{{MAC: "00:50:56:00:00:01", Network: "net <&> \"one\""}},
	}}
	for i, size := range sizes {
		o.Machine.Disks = append(o.Machine.Disks, vm.Disk{Index: i, Size: 10 * vm.GiB, Unit: i})
		d := delivery(path, f)
		if d.Mode == target.Ordered {
			size = -1
		}
		o.Disks = append(o.Disks, target.DiskOrder{Delivery: d, Virtual: 10 * vm.GiB, FileSize: size})
	}
	return o
}

func begin(t testing.TB, dir string, o *target.Order, rec target.Recorder) target.Session {
	t.Helper()
	sess, err := openTarget(t, dir).Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sess.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return sess
}

func ranges(t testing.TB, sess target.Session, i int) target.RangeUpload {
	t.Helper()
	up, err := sess.Upload(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	return up.(target.RangeUpload)
}

func stream(t testing.TB, sess target.Session, i int) target.StreamUpload {
	t.Helper()
	up, err := sess.Upload(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	return up.(target.StreamUpload)
}

func random(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(p) // documented to never fail
	return p
}

// send writes all of disk i in one piece and completes.
func send(t testing.TB, sess target.Session, i int, p []byte) *target.Landed {
	t.Helper()
	up, err := sess.Upload(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	switch u := up.(type) {
	case target.RangeUpload:
		err = u.WriteRange(t.Context(), 0, p)
	case target.StreamUpload:
		err = u.Append(t.Context(), p)
	}
	if err != nil {
		t.Fatal(err)
	}
	landed, err := up.Complete(t.Context(), target.Sum{Bytes: int64(len(p))})
	if err != nil {
		t.Fatal(err)
	}
	return landed
}

func finish(t testing.TB, sess target.Session) *target.VM {
	t.Helper()
	vm, err := sess.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func undo(t testing.TB, dir string, rec target.Recorder) {
	t.Helper()
	if err := targettest.UndoAll(t.Context(), openTarget(t, dir), rec); err != nil {
		t.Fatal(err)
	}
}

// says asserts that err is what and says every one of the words.
func says(t testing.TB, err, what error, words ...string) {
	t.Helper()
	if err == nil {
		err = errNotExpected
	}
	if !errors.Is(err, what) {
		t.Errorf("%v; want %v", err, what)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v; want a word of %q", err, w)
		}
	}
}

func TestOrdersRefused(t *testing.T) {
	dir := t.TempDir()
	good := func() *target.Order { return newOrder("vm", PathFolder, formatRaw, 512) }
	for name, o := range map[string]*target.Order{
		"no order": nil,
		"no job":   func() *target.Order { o := good(); o.Job = ""; return o }(),
		"no machine": func() *target.Order {
			o := good()
			o.Machine = nil
			return o
		}(),
		"foreign delivery": func() *target.Order { o := good(); o.Disks[0].Delivery.Path = "nfc"; return o }(),
		"wrong mode":       func() *target.Order { o := good(); o.Disks[0].Delivery.Mode = target.Ordered; return o }(),
		"no file size":     func() *target.Order { o := good(); o.Disks[0].FileSize = -1; return o }(),
		"no size":          func() *target.Order { o := good(); o.Disks[0].Virtual = 0; return o }(),
		"option":           func() *target.Order { o := good(); o.Options = map[string]string{"x": "y"}; return o }(),
		"package":          func() *target.Order { o := good(); o.Options = map[string]string{"package": "zip"}; return o }(),
		"manifest":         func() *target.Order { o := good(); o.Options = map[string]string{"manifest": "maybe"}; return o }(),
		"raw in an OVA":    func() *target.Order { o := good(); o.Options = map[string]string{"package": "ova"}; return o }(),
		"an OVA that is a folder": func() *target.Order {
			o := newOrder("vm", PathOVA, formatDeflate, 512)
			o.Options = map[string]string{"package": "folder"}
			return o
		}(),
		"modes mixed in an OVA": func() *target.Order {
			o := newOrder("vm", PathOVA, formatDeflate, 512, 512)
			o.Disks[1] = newOrder("vm", PathOVA, formatStored, 512).Disks[0]
			return o
		}(),
		"an empty OVA":    {Job: "job", Machine: &vm.Machine{Name: "vm"}, Options: map[string]string{"package": "ova"}},
		"no description":  func() *target.Order { o := good(); o.Machine.CPU = vm.CPU{}; return o }(),
		"a file too long": newOrder("vm", PathFolder, formatRaw, 1<<62),
	} {
		rec := new(targettest.MemRecorder)
		_, err := openTarget(t, dir).Begin(t.Context(), o, rec)
		t.Log(name, err)
		says(t, err, target.ErrPermanent)
		if err := targettest.UndoAll(t.Context(), openTarget(t, dir), rec); err != nil {
			t.Error(err)
		}
		if left := list(t, dir); len(left) > 0 {
			t.Errorf("%s: left behind: %q", name, left)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, values := range []map[string]string{
		{}, {"dir": ""}, {"dir": "a\x00b"}, {"dir": "/tmp", "package": "zip"}, {"dir": "/tmp", "format": "vdi"}, {"dir": "/tmp", "x": "y"},
	} {
		if _, err := target.NewRegistry(Kind()).Open(t.Context(), target.Settings{Name: "t", Platform: "local", Values: values}); err == nil {
			t.Errorf("settings %q are taken", values)
		}
	}
	first := func(values map[string]string) target.Delivery {
		values["dir"] = "/tmp"
		tgt, err := Open(target.Settings{Values: values})
		if err != nil {
			t.Fatal(err)
		}
		return tgt.Capabilities().Deliveries[0]
	}
	for _, c := range []struct {
		values       map[string]string
		path, format string
	}{
		{map[string]string{}, PathFolder, "qcow2"},
		{map[string]string{"format": "vhdx"}, PathFolder, "vhdx/dynamic"},
		{map[string]string{"format": "vpc/fixed"}, PathFolder, "vpc/fixed"},
		{map[string]string{"package": "ova", "format": "raw"}, PathOVA, "vmdk/streamOptimized+deflate"},
	} {
		if d := first(c.values); d.Path != c.path || d.Format.String() != c.format {
			t.Errorf("%q: %s %s comes first, want %s %s", c.values, d.Path, d.Format, c.path, c.format)
		}
	}
	all := deliveries("", "")
	for _, f := range image.Formats() {
		if !slices.ContainsFunc(all, func(d target.Delivery) bool { return d.Path == PathFolder && d.Format == f.Format }) {
			t.Errorf("no delivery of %s", f.Format)
		}
	}
}

func TestSparse(t *testing.T) {
	for _, path := range []string{PathFolder, PathOVA} {
		dir := t.TempDir()
		o := newOrder("sparse", path, formatStored, vm.GiB)
		sess := begin(t, dir, o, new(targettest.MemRecorder))
		up := ranges(t, sess, 0)
		if err := up.WriteRange(t.Context(), vm.GiB-512, random(512)); err != nil {
			t.Fatal(err)
		}
		if _, err := up.Complete(t.Context(), target.Sum{Bytes: vm.GiB}); err != nil {
			t.Fatal(err)
		}
		var blocks int64
		_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
			if st, serr := e.Info(); serr == nil && e.Type().IsRegular() {
				blocks += st.Sys().(*syscall.Stat_t).Blocks * 512
			}
			return err
		})
		if blocks == 0 || blocks > vm.MiB {
			t.Errorf("%s: 512 bytes in a file of 1 GiB take %d bytes", path, blocks)
		}
	}
}

// In an OVA of unknown sizes a disk waits for the one before it.
func TestSerialUploads(t *testing.T) {
	dir := t.TempDir()
	sess := begin(t, dir, newOrder("serial", PathOVA, formatDeflate, -1, -1), new(targettest.MemRecorder))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := sess.Upload(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the second disk does not wait for the first: %v", err)
	}
	opened := make(chan error, 1)
	go func() {
		_, err := sess.Upload(t.Context(), 1)
		opened <- err
	}()
	send(t, sess, 0, random(5000))
	select {
	case err := <-opened:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the second disk waits for ever")
	}
	send(t, sess, 1, random(700))
	finish(t, sess)
}

// After a power loss the length of a file says nothing: only what was synced
// counts.
func TestPowerLoss(t *testing.T) {
	for _, c := range []struct {
		path   string
		format image.Format
	}{{PathFolder, formatDeflate}, {PathFolder, formatZlib}, {PathOVA, formatDeflate}} {
		dir := t.TempDir()
		o := newOrder("vm", c.path, c.format, -1)
		rec := new(targettest.MemRecorder)
		up := stream(t, begin(t, dir, o, rec), 0)
		p := random(9000)
		for i, n := range []int{3000, 5000} {
			if err := up.Append(t.Context(), p[i*3000:i*3000+n]); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				if err := up.Sync(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		again := stream(t, begin(t, dir, o, rec), 0)
		if off, err := again.Offset(t.Context()); err != nil || off != 8000 {
			t.Errorf("%s: the process died and the offset is %d, %v, want 8000", c.format, off, err)
		}
		made, err := rec.Recorded(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range made {
			if _, ok := r.Data["disk1.boot"]; ok {
				r.Data["disk1.boot"] = "another"
				if err := rec.Record(t.Context(), r); err != nil {
					t.Fatal(err)
				}
			}
		}
		sess := begin(t, dir, o, rec)
		after := stream(t, sess, 0)
		if off, err := after.Offset(t.Context()); err != nil || off != 3000 {
			t.Errorf("%s: the power failed and the offset is %d, %v, want 3000", c.format, off, err)
		}
		if err := after.Append(t.Context(), p[3000:]); err != nil {
			t.Fatal(err)
		}
		if _, err := after.Complete(t.Context(), target.Sum{Bytes: 9000}); err != nil {
			t.Fatal(err)
		}
		finish(t, sess)
		undo(t, dir, rec)
		if left := list(t, dir); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}

func TestMoveNoReplace(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	old := func(int, string, int, string, uint) error { return unix.EINVAL }
	for name, rename := range map[string]func(int, string, int, string, uint) error{"renameat2": unix.Renameat2, "older": old} {
		for _, n := range []string{"from", "taken"} {
			if err := root.WriteFile(n, []byte(n), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := moveWith(root, "from", "taken", rename); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: %v, want ErrExist", name, err)
		}
		if b, err := root.ReadFile("taken"); err != nil || string(b) != "taken" {
			t.Errorf("%s: the name was taken by %q, %v", name, b, err)
		}
		if err := moveWith(root, "from", "to", rename); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if b, err := root.ReadFile("to"); err != nil || string(b) != "from" {
			t.Errorf("%s: moved %q, %v", name, b, err)
		}
		if err := root.Remove("to"); err != nil {
			t.Fatal(err)
		}
	}
}
