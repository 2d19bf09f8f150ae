package xfs

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ascend/internal/guest/vfs"
)

func unzip(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
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

type fact struct {
	Mode   uint32
	UID    uint32
	GID    uint32
	Links  uint32
	MTime  int64
	Size   int64
	SHA256 string
	Link   string
	XAttrs map[string]string
}

// TestKernel compares with what the kernel wrote and told of it (testdata/make).
func TestKernel(t *testing.T) {
	for _, name := range []string{"v5", "dirty"} {
		t.Run(name, func(t *testing.T) {
			img := unzip(t, name+".gz")
			f, err := Open(bytes.NewReader(img), int64(len(img)))
			if err != nil {
				t.Fatal(err)
			}
			if s := f.Super(); s.Label != name || s.Size != 32<<20 || s.Free <= 0 || s.Dirty != (name == "dirty") {
				t.Errorf("super block: %+v", s)
			}
			var want map[string]fact
			if err := json.Unmarshal(unzip(t, name+".json.gz"), &want); err != nil {
				t.Fatal(err)
			}
			got := 0
			tr := vfs.NewTree(f)
			var walk func(dir string)
			walk = func(dir string) {
				names, err := tr.ReadDir(dir)
				if err != nil {
					t.Fatalf("%s: %v", dir, err)
				}
				for _, n := range names {
					got++
					p := strings.TrimSuffix(dir, "/") + "/" + n
					w, ok := want[hex.EncodeToString([]byte(p))]
					if !ok {
						t.Errorf("%q should not be there", p)
						continue
					}
					check(t, tr, p, w)
					if w.Mode&0xf000 == 0x4000 {
						walk(p)
					}
				}
			}
			walk("/")
			if got != len(want) {
				t.Errorf("%d names, want %d", got, len(want))
			}
		})
	}
}

func check(t *testing.T, tr *vfs.Tree, p string, w fact) {
	t.Helper()
	n, _, err := tr.Node(p, false)
	if err != nil {
		t.Errorf("%q: %v", p, err)
		return
	}
	i := n.Stat()
	if i.Mode != vfs.UnixMode(w.Mode) || i.UID != w.UID || i.GID != w.GID || i.Links != w.Links || i.ModTime.UnixNano() != w.MTime {
		t.Errorf("%q: %+v, want %+v", p, i, w)
	}
	switch {
	case i.Mode&fs.ModeSymlink != 0:
		if l, err := n.Link(); err != nil || l != w.Link {
			t.Errorf("%q: link %q, %v", p, l, err)
		}
	case i.Mode.IsRegular():
		if i.Size != w.Size {
			t.Errorf("%q: %d bytes, want %d", p, i.Size, w.Size)
		}
		d, err := n.Data()
		if err != nil {
			t.Fatal(err)
		}
		if w.SHA256 != "" {
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(d, 0, i.Size)); err != nil {
				t.Errorf("%q: %v", p, err)
			}
			if s := hex.EncodeToString(h.Sum(nil)); s != w.SHA256 {
				t.Errorf("%q: digest %s, want %s", p, s, w.SHA256)
			}
		}
		if w.XAttrs != nil {
			x, err := n.(vfs.Attributed).XAttrs()
			if err != nil {
				t.Fatalf("%q: %v", p, err)
			}
			for k, v := range w.XAttrs {
				if hex.EncodeToString(x[k]) != v {
					t.Errorf("%q: %s is %x, want %s", p, k, x[k], v)
				}
			}
			if len(x) != len(w.XAttrs) {
				t.Errorf("%q: %d attributes, want %d", p, len(x), len(w.XAttrs))
			}
		}
	}
}

// TestSparse: 20 GiB with one run of data are three answers.
func TestSparse(t *testing.T) {
	img := unzip(t, "v5.gz")
	f, err := Open(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		t.Fatal(err)
	}
	n, _, err := vfs.NewTree(f).Node("/sparse", false)
	if err != nil {
		t.Fatal(err)
	}
	d, err := n.Data()
	if err != nil {
		t.Fatal(err)
	}
	var runs []string
	for at := int64(0); at < n.Stat().Size; {
		k, data, err := d.(vfs.Runs).Run(at)
		if err != nil || k <= 0 {
			t.Fatal(k, err)
		}
		if data {
			b := make([]byte, 6)
			if _, err := d.ReadAt(b, at); err != nil || string(b) != "middle" {
				t.Errorf("%q, %v", b, err)
			}
			runs = append(runs, fmt.Sprint(at))
		}
		if at += k; len(runs) > 10 {
			break
		}
	}
	if !slices.Equal(runs, []string{"5242880"}) {
		t.Errorf("runs of data at %v", runs)
	}
}

// TestVersion4 reads what mkfs.xfs itself fills: kernels no longer mount it.
func TestVersion4(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	if err := os.WriteFile(src, big, 0o600); err != nil {
		t.Fatal(err)
	}
	var proto strings.Builder
	fmt.Fprintf(&proto, "boot\n0 0\nd--755 0 0\nbig ---640 3 4 %s\nlink l--777 0 0 many/f001\nlong l--777 0 0 /%s\nmany d--755 0 0\n", src, strings.Repeat("x", 600))
	for i := range 900 {
		fmt.Fprintf(&proto, "f%03d ---644 0 0 /dev/null\n", i)
	}
	proto.WriteString("$\nfew d--755 0 0\none ---644 0 0 /dev/null\n$\n$\n")
	pf, img := filepath.Join(dir, "proto"), filepath.Join(dir, "img")
	if err := os.WriteFile(pf, []byte(proto.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, opts := range [][]string{{"-m", "crc=0", "-n", "ftype=0"}, {"-m", "crc=0", "-n", "ftype=1,size=8192"}, {"-m", "crc=1,bigtime=0", "-n", "size=16384"}} {
		if err := os.WriteFile(img, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(img, 320<<20); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(tool(t), append([]string{"-q", "-f", "-p", pf, img}, opts...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		r, err := os.Open(img)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Open(r, 320<<20)
		if err != nil {
			t.Fatal(err)
		}
		if f.Super().Dirty {
			t.Error("a new file system is no dirty one")
		}
		tr := vfs.NewTree(f)
		if b, err := tr.ReadFile("/big", 1<<20); err != nil || !bytes.Equal(b, big) {
			t.Errorf("%v: %d bytes, %v", opts, len(b), err)
		}
		if i, err := tr.Stat("/big"); err != nil || i.Mode != 0o640 || i.UID != 3 || i.GID != 4 {
			t.Errorf("%v: %+v, %v", opts, i, err)
		}
		// (mkfs.xfs before 6.3 forgets the headers of version 5's long links.)
		if l, err := tr.ReadLink("/long"); opts[1] == "crc=0" && (err != nil || l != "/"+strings.Repeat("x", 600)) {
			t.Errorf("%v: %q, %v", opts, l, err)
		}
		if p, err := tr.Resolve("/link"); err != nil || p != "/many/f001" {
			t.Errorf("%v: %q, %v", opts, p, err)
		}
		if names, err := tr.ReadDir("/many"); err != nil || len(names) != 900 || names[899] != "f899" {
			t.Errorf("%v: %d names, %v", opts, len(names), err)
		}
		if names, err := tr.ReadDir("/few"); err != nil || !slices.Equal(names, []string{"one"}) {
			t.Errorf("%v: %v, %v", opts, names, err)
		}
		r.Close()
	}
}

func tool(t *testing.T) string {
	for _, p := range []string{"/usr/sbin/mkfs.xfs", "/sbin/mkfs.xfs"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Fatal("mkfs.xfs is missing: run build/deps (Debian package xfsprogs)")
	return ""
}

// patched lays small changes over an image, so that a fuzzer's input is small.
type patched struct {
	img, patch []byte
}

func (p patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(p.img).ReadAt(b, off)
	for q := p.patch; len(q) >= 5; q = q[5:] {
		// Four bytes of place, one of value; places beyond the image wrap around.
		if at := int64(be.Uint32(q)) % int64(len(p.img)); at >= off && at < off+int64(n) {
			b[at-off] = q[4]
		}
	}
	return n, err
}

func FuzzOpen(f *testing.F) {
	img := unzip(f, "v5.gz")
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 7, 9, 0, 0, 0, 124, 30}) // sizes of the super block
	for at := 64 * 1024; at < 64*1024+8*512; at += 97 {
		f.Add(append(be.AppendUint32(nil, uint32(at)), 0xff)) // inodes
	}
	f.Fuzz(func(t *testing.T, patch []byte) {
		if len(patch) > 500 {
			return
		}
		v, err := Open(patched{img, patch}, int64(len(img)))
		if err != nil {
			return
		}
		r, err := v.Root()
		if err != nil {
			return
		}
		touch(t, r, 0)
	})
}

// touch reads a node and some of what is below it.
func touch(t *testing.T, n vfs.Node, depth int) {
	i := n.Stat()
	if _, err := n.(vfs.Attributed).XAttrs(); err != nil && !errors.Is(err, vfs.ErrCorrupt) && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	_, _ = n.Link()
	if d, err := n.Data(); err == nil && i.Mode.IsRegular() {
		at := int64(0)
		for range 50 {
			k, _, err := d.(vfs.Runs).Run(at)
			if err != nil || at >= i.Size {
				break
			}
			if k <= 0 && at < i.Size {
				t.Fatalf("a run of %d bytes at %d of %d", k, at, i.Size)
			}
			at += k
		}
		_, _ = io.Copy(io.Discard, io.NewSectionReader(d, 0, min(i.Size, 1<<16)))
	}
	if es, err := n.List(); err == nil && depth < 2 {
		for _, e := range es[:min(len(es), 12)] {
			if c, err := e.Open(); err == nil {
				touch(t, c, depth+1)
			}
		}
	}
}
