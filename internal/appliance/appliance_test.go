package appliance_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ascend/internal/appliance"
	"ascend/internal/appliance/appliancetest"
	"ascend/internal/appliance/proto"
	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/disk/overlay"
	"ascend/internal/qemu"
)

func TestMain(m *testing.M) {
	qemu.Main()
	os.Exit(m.Run())
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if p, err := exec.LookPath("/usr/sbin/" + name); err == nil {
		cmd.Path, cmd.Err = p, nil
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}

func blank(t *testing.T, dir, name string, mib int64) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(p, mib<<20); err != nil {
		t.Fatal(err)
	}
	return p
}

// over opens a raw file under an overlay.
func over(t *testing.T, dir, name string) *overlay.Overlay {
	t.Helper()
	root, err := disk.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	img, err := open.Disk(root, name, "raw")
	if err != nil {
		t.Fatal(err)
	}
	o, err := overlay.Create(filepath.Join(dir, name+".overlay"), img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// copyOut writes what a disk now holds into a file.
func copyOut(t *testing.T, d disk.Disk, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, io.NewSectionReader(d, 0, d.Size())); err != nil {
		t.Fatal(err)
	}
}

// tree makes what an ext4 file system is filled with.
func tree(t *testing.T, dir string) string {
	t.Helper()
	root := filepath.Join(dir, "tree")
	for _, d := range []string{"etc", "boot", "data/sub"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/real.conf", "old\n")
	write("etc/fstab", "fstab\n")
	write("boot/initrd", "0123456789")
	write("data/caf\xe9 'quoted'", "latin-1 name\n")
	write("data/sub/plain", "plain\n")
	for link, to := range map[string]string{"etc/link.conf": "/etc/real.conf", "etc/out": "../../../../../../etc/hostname", "data/up": "../../.."} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(root, "data/sub/plain"), filepath.Join(root, "data/sub/second")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(root, "data/sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(bytes.Repeat([]byte("x"), 5000), 20<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(40 << 20); err != nil {
		t.Fatal(err)
	}
	return root
}

// TestSession does in one appliance what adaptation and file-level restore need, on
// every kind of file system, and asks other programs what is left on the disks.
func TestSession(t *testing.T) {
	im := appliancetest.Image(t)
	dir := t.TempDir()
	ext := blank(t, dir, "ext4.raw", 128)
	run(t, "mke2fs", "-q", "-t", "ext4", "-d", tree(t, dir), ext)
	for _, n := range []string{"lvm.raw", "luks.raw", "btrfs.raw"} {
		blank(t, dir, n, 192)
	}
	blank(t, dir, "xfs.raw", 320)
	ntfs := blank(t, dir, "ntfs.raw", 32)
	run(t, "mkntfs", "-q", "-F", ntfs)
	hib := filepath.Join(dir, "hiberfil.sys")
	if err := os.WriteFile(hib, append([]byte("hibr"), make([]byte, 8192)...), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "ntfscp", "-q", ntfs, hib, "hiberfil.sys")
	before, err := os.ReadFile(ext)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"ext4.raw", "lvm.raw", "luks.raw", "xfs.raw", "btrfs.raw", "ntfs.raw"}
	var disks []disk.Disk
	for _, n := range names {
		disks = append(disks, over(t, dir, n))
	}
	ctx := t.Context()
	s, err := appliance.Start(ctx, appliance.Options{Image: im, Disks: disks})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	do := func(c proto.Call, result any) {
		t.Helper()
		if err := s.Do(ctx, c, result); err != nil {
			t.Fatalf("%v\n%s", err, s.Log())
		}
	}
	fails := func(code string, c proto.Call) {
		t.Helper()
		var e *proto.Error
		if err := s.Do(ctx, c, nil); !errors.As(err, &e) || e.Code != code {
			t.Errorf("got %v, want %s", err, code)
		}
	}
	var chk proto.CheckResult
	do(proto.Call{Check: &proto.Check{Device: "/dev/disk/0"}}, &chk)
	if !chk.Clean {
		t.Errorf("a clean file system: %+v", chk)
	}
	do(proto.Call{Mount: &proto.Mount{Root: "g", Device: "/dev/disk/0"}}, nil)

	// Links stay inside.
	fails("not-found", proto.Call{Read: &proto.Read{Root: "g", Path: "/etc/out"}})
	var list []proto.FileInfo
	do(proto.Call{List: &proto.List{Root: "g", Path: "/data/up"}}, &list)
	if !slices.ContainsFunc(list, func(f proto.FileInfo) bool { return f.Name == "data" }) || slices.ContainsFunc(list, func(f proto.FileInfo) bool { return f.Name == "proc" }) {
		t.Errorf("a link upwards leads to %v", list)
	}
	do(proto.Call{List: &proto.List{Root: "g", Path: "/data"}}, &list)
	if list[0].Name != "caf\xe9 'quoted'" {
		t.Errorf("names: %v", list)
	}
	// Writing through a link keeps the link, the mode and the owner.
	do(proto.Call{Write: &proto.Write{Root: "g", Path: "/etc/link.conf", Data: []byte("new\n")}}, nil)
	var st proto.FileInfo
	do(proto.Call{Stat: &proto.Stat{Root: "g", Path: "/etc/link.conf"}}, &st)
	if st.Target != "/etc/real.conf" {
		t.Errorf("the link: %+v", st)
	}
	do(proto.Call{Write: &proto.Write{Root: "g", Path: "/etc/new", Data: []byte("n"), Mode: 0o600, UID: 12, GID: 34, XAttrs: map[string][]byte{"user.a": {0, 1}, "security.selinux": []byte("system_u:object_r:etc_t:s0")}}}, nil)
	do(proto.Call{Write: &proto.Write{Root: "g", Path: "/etc/labelled", Data: []byte("n"), Like: "/etc/new"}}, nil)
	do(proto.Call{Stat: &proto.Stat{Root: "g", Path: "/etc/labelled"}}, &st)
	if string(st.XAttrs["security.selinux"]) != "system_u:object_r:etc_t:s0" {
		t.Errorf("label: %q", st.XAttrs)
	}
	do(proto.Call{Write: &proto.Write{Root: "g", Path: "/boot/initrd", Data: []byte("segment"), Append: true, Align: 512}}, nil)
	do(proto.Call{Mkdir: &proto.Mkdir{Root: "g", Path: "/a/b/c"}}, nil)
	do(proto.Call{Symlink: &proto.Symlink{Root: "g", Path: "/a/b/l", Target: "../x"}}, nil)
	do(proto.Call{Rename: &proto.Rename{Root: "g", From: "/etc/fstab", To: "/a/b/c/fstab"}}, nil)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20) // 16 MiB
	err = s.Send(ctx, func(p int) proto.Call { return proto.Call{Write: &proto.Write{Root: "g", Path: "/big", Port: &p}} }, bytes.NewReader(big), nil)
	if err != nil {
		t.Fatal(err)
	}
	var back bytes.Buffer
	err = s.Receive(ctx, func(p int) proto.Call {
		return proto.Call{Read: &proto.Read{Root: "g", Path: "/big", Port: &p, Length: -1}}
	}, &back, nil)
	if err != nil || !bytes.Equal(back.Bytes(), big) {
		t.Errorf("a file by port: %v, or bytes differ", err)
	}
	// A disk that is too small is an error, and leaves the rest as it was.
	err = s.Send(ctx, func(p int) proto.Call { return proto.Call{Write: &proto.Write{Root: "g", Path: "/toobig", Port: &p}} }, io.LimitReader(zeroes{}, 200<<20), nil)
	var e *proto.Error
	if !errors.As(err, &e) || e.Code != "no-space" {
		t.Errorf("a full file system: %v", err)
	}
	fails("not-found", proto.Call{Stat: &proto.Stat{Root: "g", Path: "/toobig"}})
	archive := filepath.Join(dir, "a.tar")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	var tr proto.TarResult
	err = s.Receive(ctx, func(p int) proto.Call { return proto.Call{Tar: &proto.Tar{Root: "g", Path: "/data", Port: p}} }, f, &tr)
	if err = errors.Join(err, f.Close()); err != nil || tr.Skips > 0 {
		t.Fatalf("tar: %v %+v", err, tr)
	}
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "tar", "-C", out, "-xf", archive) // GNU tar judges the format
	for _, n := range []string{"sparse", "caf\xe9 'quoted'", "sub/second"} {
		want, err1 := os.ReadFile(filepath.Join(dir, "tree/data", n))
		got, err2 := os.ReadFile(filepath.Join(out, "data", n))
		if err := errors.Join(err1, err2); err != nil || !bytes.Equal(want, got) {
			t.Errorf("%q of the archive: %v, or bytes differ", n, err)
		}
	}
	if st, err := os.Stat(archive); err != nil || st.Size() > 1<<20 {
		t.Errorf("the sparse file was archived whole: %v %v", st.Size(), err)
	}
	do(proto.Call{Remove: &proto.Remove{Root: "g", Path: "/big"}}, nil)
	do(proto.Call{Remove: &proto.Remove{Root: "g", Path: "/never"}}, nil)
	var trimmed int64
	do(proto.Call{Trim: &proto.Trim{Root: "g", Path: "/"}}, &trimmed)
	if trimmed < 16<<20 {
		t.Errorf("trimmed %d bytes", trimmed)
	}

	// The other kinds.
	key := []byte("a key \x00 with bytes")
	do(proto.Call{Format: &proto.Format{Device: "/dev/disk/1", FS: "lvm", Label: "vg0"}}, nil)
	do(proto.Call{LVM: &proto.LVM{}}, nil)
	do(proto.Call{Format: &proto.Format{Device: "/dev/mapper/vg0-root", FS: "ext4", Label: "inlvm"}}, nil)
	do(proto.Call{Format: &proto.Format{Device: "/dev/disk/2", FS: "luks", Key: key}}, nil)
	fails("wrong-key", proto.Call{LUKS: &proto.LUKS{Device: "/dev/disk/2", Name: "c", Key: []byte("no")}})
	do(proto.Call{LUKS: &proto.LUKS{Device: "/dev/disk/2", Name: "c", Key: key}}, nil)
	do(proto.Call{Format: &proto.Format{Device: "/dev/mapper/c", FS: "ext4"}}, nil)
	do(proto.Call{Format: &proto.Format{Device: "/dev/disk/3", FS: "xfs", UUID: "11111111-2222-3333-4444-555555555555"}}, nil)
	do(proto.Call{Format: &proto.Format{Device: "/dev/disk/4", FS: "btrfs"}}, nil)
	for root, dev := range map[string]string{"lvm": "/dev/mapper/vg0-root", "luks": "/dev/mapper/c", "xfs": "/dev/disk/3", "btrfs": "/dev/disk/4"} {
		do(proto.Call{Mount: &proto.Mount{Root: root, Device: dev}}, nil)
		tarball, err := os.Open(archive)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Send(ctx, func(p int) proto.Call { return proto.Call{Untar: &proto.Untar{Root: root, Path: "/", Port: p}} }, tarball, nil)
		tarball.Close()
		if err != nil {
			t.Fatalf("%s: %v", root, err)
		}
		var b []byte
		do(proto.Call{Read: &proto.Read{Root: root, Path: "/data/sub/second"}}, &b)
		if string(b) != "plain\n" {
			t.Errorf("%s: %q", root, b)
		}
		do(proto.Call{Unmount: &proto.Unmount{Root: root}}, nil)
		do(proto.Call{Check: &proto.Check{Device: dev}}, &chk)
		if !chk.Clean {
			t.Errorf("%s: %+v", root, chk)
		}
	}
	fails("hibernated", proto.Call{Mount: &proto.Mount{Root: "w", Device: "/dev/disk/5"}})
	do(proto.Call{Mount: &proto.Mount{Root: "w", Device: "/dev/disk/5", ReadOnly: true}}, nil)
	do(proto.Call{Stat: &proto.Stat{Root: "w", Path: "/hiberfil.sys"}}, &st)
	if st.Size != 8196 {
		t.Errorf("hiberfil.sys: %+v", st)
	}
	var devs []proto.Device
	do(proto.Call{Probe: &proto.Probe{}}, &devs)
	kinds := map[string]string{}
	for _, d := range devs {
		kinds[d.Path] = d.Type
	}
	for p, k := range map[string]string{"/dev/disk/0": "ext4", "/dev/disk/1": "LVM2_member", "/dev/disk/2": "crypto_LUKS", "/dev/disk/3": "xfs", "/dev/disk/4": "btrfs", "/dev/disk/5": "ntfs", "/dev/mapper/c": "ext4"} {
		if kinds[p] != k {
			t.Errorf("%s is %q, not %s", p, kinds[p], k)
		}
	}
	if strings.Contains(s.Log(), string(key)) {
		t.Error("a key stands in the console's log")
	}
	if err := s.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	s.Close()

	// What is on the disks, by other programs.
	after := filepath.Join(dir, "after.raw")
	copyOut(t, disks[0], after)
	run(t, "e2fsck", "-f", "-n", after)
	for _, c := range [][2]string{{"cat /etc/real.conf", "new\n"}, {"cat /boot/initrd", "0123456789" + strings.Repeat("\x00", 502) + "segment"}, {"cat /a/b/c/fstab", "fstab\n"}} {
		if out := run(t, "debugfs", "-R", c[0], after); !strings.HasSuffix(out, c[1]) {
			t.Errorf("%s: %q", c[0], out)
		}
	}
	if out := run(t, "debugfs", "-R", "stat /etc/new", after); !strings.Contains(out, "Mode:  0600") || !strings.Contains(out, "User:    12   Group:    34") {
		t.Errorf("owner and mode: %s", out)
	}
	if now, err := os.ReadFile(ext); err != nil || !bytes.Equal(before, now) {
		t.Errorf("the backup changed: %v", err)
	}
	copyOut(t, disks[3], after)
	if out := run(t, "blkid", "-p", "-o", "value", "-s", "UUID", after); !strings.Contains(out, "11111111-2222-3333-4444-555555555555") {
		t.Errorf("XFS: %s", out)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestOneShot runs a list, with a failure in it; a dirty journal is replayed.
func TestOneShot(t *testing.T) {
	im := appliancetest.Image(t)
	dir := t.TempDir()
	run(t, "mke2fs", "-q", "-t", "ext4", "-d", tree(t, dir), blank(t, dir, "d.raw", 128))
	o := over(t, dir, "d.raw")
	opts := appliance.Options{Image: im, Disks: []disk.Disk{o}}

	// Killed in the middle: the journal holds what is not in its place yet.
	s, err := appliance.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []proto.Call{
		{Mount: &proto.Mount{Root: "g", Device: "/dev/disk/0"}},
		{Write: &proto.Write{Root: "g", Path: "/etc/real.conf", Data: []byte("journalled\n")}},
		{Sync: &proto.Sync{}},
	} {
		if err := s.Do(t.Context(), c, nil); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	after := filepath.Join(dir, "after.raw")
	copyOut(t, o, after)
	if out := run(t, "dumpe2fs", "-h", after); !strings.Contains(out, "needs_recovery") {
		t.Fatalf("the journal is not dirty, so this test shows nothing:\n%s", out)
	}
	events, used, err := appliance.Run(t.Context(), opts,
		proto.Call{Mount: &proto.Mount{Root: "g", Device: "/dev/disk/0"}},
		proto.Call{Read: &proto.Read{Root: "g", Path: "/nothing"}, Continue: true},
		proto.Call{Read: &proto.Read{Root: "g", Path: "/etc/real.conf"}},
		proto.Call{Remove: &proto.Remove{Root: "g", Path: "/data", All: true}})
	if err != nil || len(events) != 4 || events[1].Error == nil || events[1].Error.Code != "not-found" || string(events[2].Result) != `"am91cm5hbGxlZAo="` {
		t.Fatalf("%v %+v", err, events)
	}
	t.Logf("one session: %v", used)
	copyOut(t, o, after)
	run(t, "e2fsck", "-f", "-n", after)
}

// TestEnds: one that hangs, one whose context ends, one that cannot boot.
func TestEnds(t *testing.T) {
	im := appliancetest.Image(t)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := appliance.Start(ctx, appliance.Options{Image: im})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.Do(t.Context(), proto.Call{Probe: &proto.Probe{}}, nil); err == nil {
		t.Error("a call after the end of the context succeeded")
	}
	s.Close()
	broken := *im
	broken.Agent = filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(broken.Agent, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, _, err := appliance.Run(t.Context(), appliance.Options{Image: &broken}, proto.Call{Probe: &proto.Probe{}}); !errors.Is(err, appliance.ErrDied) || !strings.Contains(err.Error(), "init") {
		t.Errorf("an appliance that cannot boot: %v", err)
	}
	// An operation that waits for a reader who never comes.
	dir := t.TempDir()
	run(t, "mke2fs", "-q", "-t", "ext4", "-d", tree(t, dir), blank(t, dir, "d.raw", 128))
	s, err = appliance.Start(t.Context(), appliance.Options{Image: im, Disks: []disk.Disk{over(t, dir, "d.raw")}, Inactivity: 8 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Do(t.Context(), proto.Call{Mount: &proto.Mount{Root: "g", Device: "/dev/disk/0"}}, nil); err != nil {
		t.Fatal(err)
	}
	port := 0
	if err := s.Do(t.Context(), proto.Call{Read: &proto.Read{Root: "g", Path: "/data/sparse", Port: &port, Length: -1}}, nil); !errors.Is(err, appliance.ErrInactive) {
		t.Errorf("an appliance that hangs: %v", err)
	}
}
