package files

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ascend/internal/appliance"
	"ascend/internal/appliance/appliancetest"
	"ascend/internal/appliance/proto"
	"ascend/internal/disk"
	"ascend/internal/disk/overlay"
	"ascend/internal/guest"
	"ascend/internal/guest/vfs"
	"ascend/internal/qemu"
)

func TestMain(m *testing.M) {
	qemu.Main()
	os.Exit(m.Run())
}

// zeros is an empty disk.
type zeros struct{ size int64 }

func (z zeros) Size() int64      { return z.size }
func (z zeros) Close() error     { return nil }
func (z zeros) Unchanged() error { return nil }
func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	n := max(0, min(int64(len(p)), z.size-off))
	clear(p[:n])
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (z zeros) Extents(_ context.Context, off, n int64, yield func(disk.Extent) error) error {
	return yield(disk.Extent{Off: off, Len: n})
}

// content is what the guest's kernel is given to write: names, kinds, bytes.
type content struct {
	tar.Header
	data []byte
}

func manyKinds() []content {
	r := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 700_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	at := time.Unix(1700000000, 0)
	list := []content{
		{tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, nil},
		{tar.Header{Name: "etc/os-release", Mode: 0o644}, []byte("ID=debian\nPRETTY_NAME=made\n")},
		{tar.Header{Name: "etc/fstab", Mode: 0o600, Uid: 7, Gid: 70_000}, []byte("# nothing\n")},
		{tar.Header{Name: "sbin", Typeflag: tar.TypeSymlink, Linkname: "usr/sbin", Mode: 0o777}, nil},
		{tar.Header{Name: "text", Mode: 0o4755}, bytes.Repeat([]byte("the same line again and again\n"), 40_000)},
		{tar.Header{Name: "noise", Mode: 0o640, PAXRecords: map[string]string{"SCHILY.xattr.user.note": "kept\x00too"}}, noise},
		{tar.Header{Name: "mixed", Mode: 0o644}, slices.Concat(noise[:5000], make([]byte, 1<<20), []byte("end"))},
		{tar.Header{Name: "name \xff is no UTF-8", Mode: 0o644}, []byte("x")},
		{tar.Header{Name: "empty", Mode: 0o644}, nil},
		{tar.Header{Name: "other name of text", Typeflag: tar.TypeLink, Linkname: "text"}, nil},
		{tar.Header{Name: "many/", Typeflag: tar.TypeDir, Mode: 0o700}, nil},
	}
	for i := range 600 {
		list = append(list, content{tar.Header{Name: fmt.Sprintf("many/file %03d", i), Mode: 0o644}, fmt.Appendf(nil, "%d", i)})
	}
	for i := range list {
		c := &list[i]
		c.Format, c.ModTime, c.Size = tar.FormatPAX, at, int64(len(c.data))
		if c.Typeflag == 0 {
			c.Typeflag = tar.TypeReg
		}
	}
	return list
}

func archiveOf(t *testing.T, list []content) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, c := range list {
		if err := w.WriteHeader(&c.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(c.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestSealed has the kernel in the appliance write a btrfs with subvolumes and
// compression, and two LUKS containers, and reads them by our own readers.
func TestSealed(t *testing.T) {
	im := appliancetest.Image(t)
	var disks []disk.Disk
	for i := range 3 {
		o, err := overlay.Create(filepath.Join(t.TempDir(), fmt.Sprint("disk", i)), zeros{160 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { o.Close() })
		disks = append(disks, o)
	}
	list := manyKinds()
	few := list[:len(list)-600]
	pack, small := archiveOf(t, list), archiveOf(t, few)
	const first, second = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	keyA, keyB := []byte("a passphrase"), []byte("\x00\x01binary\n")
	s, err := appliance.Start(t.Context(), appliance.Options{Image: im, Disks: disks, Memory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	do := func(cs ...proto.Call) {
		t.Helper()
		for _, c := range cs {
			if err := s.Do(t.Context(), c, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	untar := func(root string, at proto.Name, pack []byte) {
		t.Helper()
		err := s.Send(t.Context(), func(p int) proto.Call { return proto.Call{Untar: &proto.Untar{Root: root, Path: at, Port: p}} }, bytes.NewReader(pack), nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	do(proto.Call{Format: &proto.Format{Device: "/dev/disk/0", FS: "btrfs", Label: "pool", UUID: first}})
	for how, pack := range map[string][]byte{"zstd": pack, "zlib": small} {
		name := proto.Name("/" + how)
		do(proto.Call{Mount: &proto.Mount{Root: how, Device: "/dev/disk/0", Options: []string{"compress-force=" + how}}}, proto.Call{Subvolume: &proto.Subvolume{Root: how, Path: name}})
		untar(how, name, pack)
		do(proto.Call{Unmount: &proto.Unmount{Root: how}})
	}
	do(proto.Call{Mount: &proto.Mount{Root: "plain", Device: "/dev/disk/0"}}, proto.Call{Mkdir: &proto.Mkdir{Root: "plain", Path: "/plain"}}, proto.Call{Subvolume: &proto.Subvolume{Root: "plain", Path: "/plain/@"}})
	untar("plain", "/plain/@", small)
	do(proto.Call{Truncate: &proto.Truncate{Root: "plain", Path: "/plain/@/empty", Size: 20 << 20}}, proto.Call{Unmount: &proto.Unmount{Root: "plain"}})
	for i, c := range []struct {
		uuid, kdf string
		key       []byte
		name      string
	}{{first, "argon2id", keyA, "one"}, {second, "", keyB, "two"}} {
		dev := fmt.Sprint("/dev/disk/", i+1)
		do(proto.Call{Format: &proto.Format{Device: dev, FS: "luks", UUID: c.uuid, Key: c.key, KDF: c.kdf}}, proto.Call{LUKS: &proto.LUKS{Device: dev, Name: c.name, Key: c.key}},
			proto.Call{Format: &proto.Format{Device: "/dev/mapper/" + c.name, FS: "ext4"}}, proto.Call{Mount: &proto.Mount{Root: c.name, Device: "/dev/mapper/" + c.name}})
		untar(c.name, "/", small)
		do(proto.Call{Unmount: &proto.Unmount{Root: c.name}})
	}
	if err := s.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	u := s.Usage()
	t.Logf("written in %v, %v of processor time", u.Wall, u.CPU)

	set, err := Open(t.Context(), disks)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range set.Volumes() {
		if v.Readable != (v.Type == "btrfs") || !v.Readable && !strings.Contains(v.Reason, "a key is needed") {
			t.Errorf("without keys: %+v", v)
		}
	}
	wrong, err := Open(t.Context(), disks, []byte("no"))
	if err != nil || len(wrong.Volumes()) != 3 || !strings.Contains(wrong.Volumes()[1].Reason, "no key slot") {
		t.Errorf("with a wrong key: %+v, %v", wrong, err)
	}
	// A passphrase as an editor leaves it in its file.
	set, err = Open(t.Context(), disks, append(slices.Clone(keyA), '\n'), keyB)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct{ volume, dir string }{{"disk0", "/zstd"}, {"disk0", "/zlib"}, {"disk0", "/plain/@"}, {guest.Unlocked(first), ""}, {guest.Unlocked(second), ""}} {
		v, err := set.Volume(at.volume, "/")
		if err != nil {
			t.Fatal(err)
		}
		list := few
		if at.dir == "/zstd" {
			list = manyKinds()
			if names, err := v.tree.ReadDir(at.dir + "/many"); err != nil || len(names) != 600 {
				t.Errorf("%v: %d names, %v", at, len(names), err)
			}
		}
		for _, c := range list {
			if at.dir == "/plain/@" && c.Name == "empty" {
				continue
			}
			same(t, v.tree, at.volume+at.dir, at.dir+"/"+strings.TrimSuffix(c.Name, "/"), c)
		}
	}
	v, _ := set.Volume("disk0", "/")
	n, _, err := v.tree.Node("/plain/@/empty", false)
	if err != nil {
		t.Fatal(err)
	}
	d, err := n.Data()
	if err != nil {
		t.Fatal(err)
	}
	if k, data, err := d.(vfs.Runs).Run(0); err != nil || data || k != 20<<20 {
		t.Errorf("a hole of 20 MiB: %d, %v, %v", k, data, err)
	}
	in, err := guest.Inspect(t.Context(), disks, guest.Options{Keys: [][]byte{keyA, keyB}})
	if err != nil || len(in.Roots) != 2 || in.Roots[0].Volume != guest.Unlocked(first) || !in.Roots[0].Linux.EncryptedRoot {
		t.Errorf("systems: %+v, %v", in, err)
	}
	damage(t, disks)
}

func same(t *testing.T, tree *vfs.Tree, where, name string, c content) {
	t.Helper()
	n, _, err := tree.Node(name, false)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	i := n.Stat()
	kind := map[byte]fs.FileMode{tar.TypeDir: fs.ModeDir, tar.TypeSymlink: fs.ModeSymlink}[c.Typeflag]
	if c.Typeflag == tar.TypeLink { // the file that it names too
		if first, err := tree.Lstat(filepath.Dir(name) + "/" + c.Linkname); err != nil || first.Inode != i.Inode || i.Links != 2 {
			t.Errorf("%s: %s is no other name: %+v %+v %v", where, name, i, first, err)
		}
		return
	}
	if i.Mode.Type() != kind || int64(i.Mode.Perm()) != c.Mode&0o777 || int(i.UID) != c.Uid || int(i.GID) != c.Gid || (i.Mode&fs.ModeSetuid != 0) != (c.Mode&0o4000 != 0) {
		t.Errorf("%s: %s: %+v", where, name, i)
	}
	switch c.Typeflag {
	case tar.TypeSymlink:
		if to, err := n.Link(); err != nil || to != c.Linkname {
			t.Errorf("%s: %s leads to %q, %v", where, name, to, err)
		}
	case tar.TypeReg:
		if !i.ModTime.Equal(c.ModTime) {
			t.Errorf("%s: %s is of %v", where, name, i.ModTime)
		}
		d, err := n.Data()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(io.NewSectionReader(d, 0, i.Size))
		if err != nil || !bytes.Equal(b, c.data) {
			t.Errorf("%s: %s has %d bytes, not the %d written: %v", where, name, len(b), len(c.data), err)
		}
		if want, ok := c.PAXRecords["SCHILY.xattr.user.note"]; ok {
			x, err := n.(vfs.Attributed).XAttrs()
			if err != nil || string(x["user.note"]) != want {
				t.Errorf("%s: attributes %q, %v", where, x, err)
			}
		}
	}
}

// damage changes bytes of the disks, one run at a time: reading ends, and with what was
// written or an error.
func damage(t *testing.T, disks []disk.Disk) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 40 {
		d := disks[i%2]
		var at []int64 // what holds data
		err := d.Extents(t.Context(), 0, d.Size(), func(e disk.Extent) error {
			if e.Data {
				at = append(at, e.Off+int64(r.Uint64()%uint64(e.Len)))
			}
			return nil
		})
		if err != nil || len(at) == 0 {
			t.Fatal(err)
		}
		set, err := Open(t.Context(), []disk.Disk{bent{d, at[r.IntN(len(at))], byte(1 + r.IntN(255))}}, []byte("a passphrase"))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range set.Volumes() {
			if v.Readable {
				n := 0
				walkAll(v.tree, "/", &n)
			}
		}
	}
}

func walkAll(tree *vfs.Tree, name string, n *int) {
	if *n++; *n > 3000 {
		return
	}
	names, err := tree.ReadDir(name)
	if err != nil {
		_, _ = tree.ReadFile(name, 4<<20) // an error is fine
		return
	}
	for _, x := range names {
		walkAll(tree, filepath.Join(name, x), n)
	}
}

// bent is a disk with one run of bytes that is otherwise.
type bent struct {
	disk.Disk
	at int64
	by byte
}

func (b bent) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.Disk.ReadAt(p, off)
	for i := range int64(8) {
		if k := b.at + i - off; k >= 0 && k < int64(n) {
			p[k] ^= b.by
		}
	}
	return n, err
}
