package backup

import (
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

	"ascend/internal/disk"
	"ascend/internal/vm"
)

func byPath(t *testing.T, all []Backup, path string) Backup {
	t.Helper()
	for _, b := range all {
		if b.Path == path {
			return b
		}
	}
	t.Fatalf("no backup %s in %+v", path, all)
	return Backup{}
}

func TestImages(t *testing.T) {
	dir := t.TempDir()
	raw := filepath.Join(t.TempDir(), "raw")
	want := rawFile(t, raw, 9)
	in := func(n string) string { return filepath.Join(dir, n) }
	qemu(t, "convert", "-f", "raw", "-O", "qcow2", raw, in("base.qcow2"))
	qemu(t, "create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", in("top.qcow2"))
	qemu(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, in("flat.vmdk"))
	qemu(t, "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", raw, in("split.vmdk"))
	qemu(t, "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on", raw, in("disk.vhd"))
	qemu(t, "convert", "-f", "raw", "-O", "vhdx", raw, in("disk.vhdx"))
	write(t, in("sub folder/disk.raw"), string(want))
	mkdir(t, in("0f0e"))
	qemu(t, "convert", "-f", "raw", "-O", "qcow2", raw, in("0f0e/4711"))
	qemu(t, "convert", "-f", "raw", "-O", "vdi", raw, in("box.vdi"))
	qemu(t, "convert", "-f", "raw", "-O", "parallels", raw, in("box.hdd"))
	write(t, in("readme.txt"), "no image")
	write(t, in("NOTES"), "no image")
	write(t, in("broken.vmdk"), "no image")
	write(t, in(".hidden/x.raw"), "no backup")
	write(t, in("1/2/3/4/5/6/deep.raw"), strings.Repeat("x", 512))
	write(t, in("1/2/3/4/5/6/7/deeper.raw"), strings.Repeat("x", 512))
	if err := os.Symlink("..", in("sub folder/loop")); err != nil {
		t.Fatal(err)
	}
	r, all := list(t, dir)
	var paths []string
	for _, b := range all {
		paths = append(paths, b.Path)
	}
	if len(all) != 12 {
		t.Fatalf("%d backups: %q", len(all), paths)
	}
	for _, name := range []string{"base.qcow2", "top.qcow2", "flat.vmdk", "split.vmdk", "disk.vhd", "disk.vhdx", "sub folder/disk.raw", "0f0e/4711", "box.vdi", "box.hdd"} {
		b := byPath(t, all, name)
		got := []byte(nil)
		if b.Fault == "" {
			got = content(t, r, b, 0)
		}
		if b.Fault != "" || b.Layout != LayoutImage || len(b.Disks) != 1 || b.Disks[0].Size != int64(len(got)) || !bytes.Equal(got[:len(want)], want) || b.Created.IsZero() {
			t.Errorf("%s: %+v", name, b)
		}
	}
	if b := byPath(t, all, "broken.vmdk"); b.Fault == "" {
		t.Errorf("%+v", b)
	}
	if b := byPath(t, all, "base.qcow2"); !hasNote(b, "top.qcow2 has this image as its parent") || b.VM != "base" || b.Type != Full {
		t.Errorf("%+v", b)
	}
	if b := byPath(t, all, "top.qcow2"); len(b.Notes) > 0 || b.Type != Incremental || b.Disks[0].Chain != 2 {
		t.Errorf("%+v", b)
	}
}

// Images of a folder with a vm.json are the disks of one machine.
func TestImagesTogether(t *testing.T) {
	dir := t.TempDir()
	var want [][]byte
	for i, n := range []string{"a.raw", "b.raw"} {
		want = append(want, rawFile(t, filepath.Join(dir, n), uint64(i)))
	}
	file := filepath.Join(dir, "vm.json")
	write(t, file, `{"name":"pair","memory":1073741824,"cpu":{"sockets":1},"disks":[{"index":0,"name":"b.raw"},{"index":3,"name":"a.raw","boot":true}]}`)
	r, all := list(t, dir)
	if len(all) != 1 || all[0].VM != "pair" || all[0].Disks[1].Index != 3 || !all[0].Machine.Disks[1].Boot || all[0].Machine.Disks[0].Size != size {
		t.Fatalf("%+v", all)
	}
	for i := range want {
		if !bytes.Equal(content(t, r, all[0], i), want[1-i]) {
			t.Errorf("disk %d reads other bytes", i)
		}
	}
	for text, c := range map[string]struct {
		n    int
		note string
	}{
		`{"name":"pair","disks":[{"index":0},{"index":1}]}`: {1, "in the order of their names"},
		`{"name":"pair"}`:                                        {1, "in the order of their names"},
		`{"disks":[{"index":0,"name":"a.raw"}]}`:                 {1, ""},
		`{"disks":[{"index":0},{"index":1},{"index":2}]}`:        {2, "describes 3 disks, which are not the 2 images"},
		`{"disks":[{"name":"../a.raw"},{"name":"/etc/passwd"}]}`: {1, "in the order of their names"},
		`nonsense`: {2, "not usable"},
	} {
		write(t, file, text)
		_, all := list(t, dir)
		if len(all) != c.n || !hasNote(all[0], c.note) || all[0].Fault != "" {
			t.Errorf("%s: %+v", text, all)
		}
	}
}

func TestFromFiles(t *testing.T) {
	dir := t.TempDir()
	raw := rawFile(t, filepath.Join(dir, "x", "one.raw"), 1)
	rawFile(t, filepath.Join(dir, "y", "src"), 2)
	two := filepath.Join(dir, "y", "two.qcow2")
	qemu(t, "convert", "-f", "raw", "-O", "qcow2", filepath.Join(dir, "y", "src"), two)
	ctx := context.Background()
	r, b, err := FromFiles(ctx, []string{filepath.Join(dir, "x", "one.raw"), two})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	if b.VM != "one" || len(b.Disks) != 2 || b.Disks[0].Path != "x/one.raw" || b.Disks[1].Path != "y/two.qcow2" || b.Disks[1].Format != "qcow2" || r.Root().Path() != dir || b.ID == "" {
		t.Errorf("%+v", b)
	}
	if !bytes.Equal(content(t, r, b, 0), raw) {
		t.Error("other bytes")
	}
	if got, err := r.Find(ctx, b.ID); err != nil || got.ID != b.ID {
		t.Errorf("Find: %v %+v", err, got)
	}
	if got, err := r.Find(ctx, ""); err != nil || got.ID != b.ID {
		t.Errorf("Find without a name: %v %+v", err, got)
	}

	// A link that the user names is followed; the folder is the target's.
	link := filepath.Join(t.TempDir(), "l.qcow2")
	relink(t, two, link)
	r2, b2, err := FromFiles(ctx, []string{link})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r2.Close() }()
	if b2.Disks[0].Path != "two.qcow2" || r2.Root().Path() != filepath.Dir(two) {
		t.Errorf("%+v", b2)
	}

	// A guest's qcow2 header in a raw disk is only read as what the user says.
	trap := filepath.Join(dir, "trap.img")
	qemu(t, "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", trap, "1M")
	if _, b, err := FromFiles(ctx, []string{trap}); err == nil {
		t.Errorf("a trap was opened: %+v", b)
	}
	r3, b3, err := FromFilesAs(ctx, []string{trap}, "raw")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r3.Close() }()
	if got := content(t, r3, b3, 0); !bytes.HasPrefix(got, []byte("QFI\xfb")) || b3.Disks[0].Format != "raw" {
		t.Errorf("%+v", b3)
	}

	p := makePackage(t)
	for _, name := range []string{p.ova(t, "ustar"), filepath.Join(p.dir, "shop.ovf")} {
		r, b, err := FromFiles(ctx, []string{name})
		if err != nil {
			t.Fatal(err)
		}
		p.check(t, r, b)
		_ = r.Close()
	}

	write(t, filepath.Join(dir, "y", "vm.json"), `{"name":"described","memory":1073741824,"disks":[{"index":4}]}`)
	r4, b4, err := FromFiles(ctx, []string{two})
	if err != nil || b4.VM != "described" || b4.Disks[0].Index != 4 || b4.Machine.Memory != 1<<30 || b4.Machine.Disks[0].Size != size {
		t.Errorf("%v %+v", err, b4)
	}
	_ = r4.Close()

	escaping := filepath.Join(dir, "y", "escaping.qcow2")
	qemu(t, "create", "-q", "-f", "qcow2", "-u", "-b", "../x/one.raw", "-F", "raw", escaping, "1M")
	for name, c := range map[string]struct {
		paths []string
		want  error
	}{
		"nothing":     {nil, nil},
		"missing":     {[]string{filepath.Join(dir, "none.raw")}, os.ErrNotExist},
		"folder":      {[]string{dir}, nil},
		"parent out":  {[]string{escaping}, disk.ErrEscape},
		"no ova":      {[]string{fakeOVA(t)}, nil},
		"second gone": {[]string{two, filepath.Join(dir, "none.raw")}, os.ErrNotExist},
	} {
		if r, b, err := FromFiles(ctx, c.paths); err == nil || r != nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v %+v", name, err, b)
		}
	}
}

func fakeOVA(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "x.ova")
	write(t, name, "nothing")
	return name
}

func TestFind(t *testing.T) {
	made := chain(t, "web", 3, 0, 1)
	other := chain(t, "db@home", 1, 0)
	for _, c := range []*repo{other} {
		if err := os.Rename(filepath.Join(c.dir, c.ctx), filepath.Join(made.dir, "ctx-db@home-20240101-000000")); err != nil {
			t.Fatal(err)
		}
	}
	rawFile(t, filepath.Join(made.dir, "a", "disk.raw"), 1)
	rawFile(t, filepath.Join(made.dir, "b", "disk.raw"), 2)
	r, all := list(t, made.dir)
	if len(all) != 6 {
		t.Fatalf("%d backups", len(all))
	}
	for ref, want := range map[string]string{
		"web":                             "b-2-0",
		"WEB":                             "b-2-0",
		"b-1-0":                           "b-1-0",
		"b-1-1":                           "b-1-0", // a disk's ID
		"web@2026-05-02":                  "b-1-0",
		"web@20260502-0312":               "b-1-0",
		"web@2026-05-03T03:12:07Z":        "b-2-0",
		made.ctx:                          "b-2-0",
		filepath.Join(made.dir, made.ctx): "b-2-0",
		made.ctx + "/":                    "b-2-0",
		strings.TrimPrefix(made.last[1], made.dir+"/"): "b-2-0",
		made.path(0, "20260502-031207"):                "b-1-0",
		"ctx-db@home-20240101-000000":                  "",
		"db@home":                                      "",
		"db@home@2026":                                 "",
		"a/disk.raw":                                   "",
	} {
		b, err := r.Find(context.Background(), ref)
		if err != nil || want != "" && b.ID != want || want == "" && b.VM != "db@home" && b.Path != "a/disk.raw" {
			t.Errorf("%s: %v, %+v", ref, err, b)
		}
	}
	for ref, want := range map[string]error{
		"":             ErrAmbiguous,
		"disk":         ErrAmbiguous,
		"disk.raw":     ErrAmbiguous,
		"web@2026":     ErrAmbiguous,
		"web@2025":     ErrNotFound,
		"web@x":        ErrNotFound,
		"nobody":       ErrNotFound,
		"../../../etc": ErrNotFound,
		"@":            ErrNotFound,
	} {
		b, err := r.Find(context.Background(), ref)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "(") {
			t.Errorf("%q: %v, %+v", ref, err, b)
		}
	}
	// The newest is named even when it is broken; a note names the good one.
	write(t, made.last[1], "broken")
	b, err := r.Find(context.Background(), "web")
	if err != nil || b.Fault == "" || !hasNote(b, "newest backup without a fault is b-1-0") {
		t.Errorf("%v %+v", err, b)
	}
	// Two machines of one name on two platforms.
	side := filepath.Join(made.dir, "ctx-db@home-20240101-000000", "disk-0")
	files, err := filepath.Glob(side + "/*.json")
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	write(t, files[0], `{"vm_name":"web","metadata":{"hyperv_info":{"a":"b"}}}`)
	if b, err := r.Find(context.Background(), "web"); !errors.Is(err, ErrAmbiguous) {
		t.Errorf("%v %+v", err, b)
	}
}

// An unreadable folder and an unreadable image hide nothing else. Permissions do
// not bind root, so the listing runs as another user where the test is root.
func TestPermission(t *testing.T) {
	if dir := os.Getenv("BACKUP_TEST_LIST"); dir != "" {
		_, all := list(t, dir)
		for _, b := range all {
			fmt.Printf("%s|%s\n", b.Path, b.Fault)
		}
		return
	}
	dir, err := os.MkdirTemp("/tmp", "backup-permission")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	rawFile(t, filepath.Join(dir, "good.raw"), 1)
	rawFile(t, filepath.Join(dir, "closed.raw"), 1)
	rawFile(t, filepath.Join(dir, "locked", "x.raw"), 1)
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	for name, err := range map[string]error{
		"program": os.WriteFile(program, exe, 0o755), "dir": os.Chmod(dir, 0o755), "closed": os.Chmod(filepath.Join(dir, "closed.raw"), 0),
		"locked": os.Chmod(filepath.Join(dir, "locked"), 0),
	} {
		if err != nil {
			t.Fatal(name, err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "locked"), 0o700) })
	cmd := exec.Command(program, "-test.run=^TestPermission$")
	cmd.Env, cmd.Dir = append(os.Environ(), "BACKUP_TEST_LIST="+dir, "TMPDIR=/tmp", "GOCOVERDIR="), "/"
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"good.raw|\n", "closed.raw|disk 0: closed.raw: permission denied\n", "locked|cannot read folder: locked: permission denied\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no line %q in\n%s", want, out)
		}
	}
}

func TestListBounds(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	dir := t.TempDir()
	for i := range 30 {
		rawFile(t, filepath.Join(dir, fmt.Sprintf("%02d.raw", i)), 1)
	}
	r := open1(t, dir)
	l := newLister(r)
	left := 20
	if _, err := l.folder(".", &left); !errors.Is(err, errTooMany) {
		t.Errorf("more names than the bound: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.List(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Listing reads headers only: a thousand backups of a large virtual size take
// no time that depends on it.
func TestListMany(t *testing.T) {
	made := chain(t, "web", 1, 0)
	first := made.last[0]
	b, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	side, err := os.ReadFile(first + ".json")
	if err != nil {
		t.Fatal(err)
	}
	const n = 1000
	for i := range n {
		name := filepath.Join(made.dir, fmt.Sprintf("ctx-vm%03d-20260501-031207", i), "disk-0", filepath.Base(first))
		write(t, name, string(b[:len(b)/8])) // the data is cut off, which no header tells
		write(t, name+".json", strings.ReplaceAll(string(side), `"web"`, fmt.Sprintf(`"vm%03d"`, i)))
	}
	start := time.Now()
	_, all := list(t, made.dir)
	t.Logf("%d backups in %v", len(all), time.Since(start))
	if len(all) != n+1 {
		t.Errorf("%d backups", len(all))
	}
}

func TestMachineOf(t *testing.T) {
	m, notes, err := ReadMachine(strings.NewReader(`{"name":"a","platform":"vmware","cpu":{"sockets":2},"memory":1048576,"firmware":"coreboot","guest":{"family":"linux"},"disks":[{"index":0,"size":512,"controller":"mfm","unit":9}]}`))
	if err != nil || len(notes) != 2 || m.Firmware != "" || m.Disks[0].Controller != "" || m.Disks[0].Unit != 0 || m.Platform != vm.VMware {
		t.Errorf("%v %q %+v", err, notes, m)
	}
	if _, _, err := ReadMachine(strings.NewReader(strings.Repeat(" ", maxMachine+1))); err == nil {
		t.Error("too long a file was read")
	}
}
