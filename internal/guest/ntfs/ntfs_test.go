package ntfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/guest/vfs"
)

func tool(t testing.TB, argv ...string) {
	t.Helper()
	if p := "/usr/sbin/" + argv[0]; !strings.Contains(argv[0], "/") {
		if _, err := os.Stat(p); err == nil {
			argv[0] = p
		}
	}
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is missing: run build/deps", argv[0])
	}
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
}

func made(t testing.TB) ([]byte, string) {
	t.Helper()
	dir := t.TempDir()
	img, src := filepath.Join(dir, "img"), filepath.Join(dir, "src")
	if err := os.WriteFile(img, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkntfs", "-q", "-F", "-s", "512", "-p", "0", "-H", "0", "-S", "0", "-L", "Système", img)
	big := strings.Repeat("0123456789abcdef", 60000)
	for n := range 40 { // enough that the root's index leaves the record
		data := fmt.Sprintf("file %d", n)
		if n == 7 {
			data = big
		}
		if err := os.WriteFile(src, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		tool(t, "ntfscp", "-q", "-f", img, src, fmt.Sprintf("/A long file name %02d é.txt", n))
	}
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b, big
}

func TestRead(t *testing.T) {
	img, big := made(t)
	f, err := Open(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		t.Fatal(err)
	}
	if s := f.Super(); s.Label != "Système" || s.Free <= 0 || s.Free > 8<<20 || s.Dirty {
		t.Errorf("%+v", s)
	}
	tr := vfs.NewTree(f)
	names, err := tr.ReadDir("/")
	if err != nil || len(names) != 40 {
		t.Fatalf("%d names, %v", len(names), err)
	}
	for n, name := range names {
		want := fmt.Sprintf("file %d", n)
		if n == 7 {
			want = big
		}
		if b, err := tr.ReadFile("/"+strings.ToUpper(name), 1<<20); err != nil || string(b) != want {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

// patched lays small changes over an image, so that a fuzzer's input is small.
type patched struct{ img, patch []byte }

func (p patched) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(p.img).ReadAt(b, off)
	for q := p.patch; len(q) >= 5; q = q[5:] {
		// Four bytes of place, one of value; places beyond the image wrap around.
		if at := int64(binary.BigEndian.Uint32(q)) % int64(len(p.img)); at >= off && at < off+int64(n) {
			b[at-off] = q[4]
		}
	}
	return n, err
}

// FuzzOpen changes single bytes of a volume: an input of megabytes would be
// copied and compared for each try.
func FuzzOpen(f *testing.F) {
	img, _ := made(f)
	mft := int(le.Uint64(img[48:])) * int(le.Uint16(img[11:])) * int(img[13])
	f.Add([]byte{})
	for _, at := range []int{11, 13, 48, 64, mft + 4, mft + 20, mft + 0x38, mft + 5*1024 + 0x40, mft + 64*1024 + 0x50} {
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(at)), 0xff))
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
		es, _ := r.List()
		for _, e := range es[:min(len(es), 50)] {
			if n, err := e.Open(); err == nil {
				if d, err := n.Data(); err == nil {
					_, _ = io.Copy(io.Discard, io.NewSectionReader(d, 0, min(n.Stat().Size, 1<<16)))
				}
			}
		}
	})
}
