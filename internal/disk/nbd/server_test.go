package nbd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
	"ascend/internal/disk/overlay"
	"ascend/internal/disk/raw"
)

// sparse makes a raw file of size with data in [0,64k) and [1M,1M+256k), and its bytes.
func sparse(t testing.TB, dir string, size int) []byte {
	t.Helper()
	want := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(want[:64<<10])
	_, _ = r.Read(want[1<<20 : 1<<20+256<<10])
	f, err := os.Create(filepath.Join(dir, "base.raw"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{0, 1 << 20} {
		if _, err := f.WriteAt(want[at:at+256<<10], int64(at)); at > 0 && err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt(want[:64<<10], 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(size)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	return want
}

func served(t *testing.T, size int) (*Listener, *overlay.Overlay, []byte, string) {
	t.Helper()
	dir := t.TempDir()
	want := sparse(t, dir, size)
	img, err := disktest.Open(t, dir, "base.raw", raw.Open)
	if err != nil {
		t.Fatal(err)
	}
	o, err := overlay.Create(filepath.Join(dir, "overlay"), img)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Serve(dir, "s", Exports{"d0": o, "ro": img, "": img})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		o.Close()
	})
	return l, o, want, dir
}

// TestServesQEMU has qemu-io write, clear, trim and read, qemu-img and nbdinfo
// map, and nbdcopy copy; the file below stays as it was.
func TestServesQEMU(t *testing.T) {
	size := 8<<20 + 512
	l, o, want, dir := served(t, size)
	before, err := os.ReadFile(filepath.Join(dir, "base.raw"))
	if err != nil {
		t.Fatal(err)
	}
	url := "nbd+unix:///d0?socket=" + l.Socket
	run(t, "qemu-io", "-f", "raw", "-d", "unmap", "-c", "write -q -P 7 3000 70001", "-c", "write -q -z 1114112 65536", "-c", "discard -q 1048576 65536",
		"-c", "write -q -f -P 9 8388608 512", "-c", "flush", "-c", "read -q -P 7 3000 70001", url)
	copy(want[3000:], bytes.Repeat([]byte{7}, 70001))
	clear(want[1048576 : 1048576+131072])
	copy(want[8388608:], bytes.Repeat([]byte{9}, 512))
	got := make([]byte, size)
	if _, err := o.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the overlay: %v, or bytes differ", err)
	}
	out, err := exec.Command("nbdinfo", "--map", "--json", url).Output()
	if err != nil {
		t.Fatalf("nbdinfo (Debian package libnbd-bin): %v", err)
	}
	var extents []struct{ Offset, Length, Type int64 }
	if err := json.Unmarshal(out, &extents); err != nil {
		t.Fatal(err)
	}
	at, data := int64(0), int64(0)
	for _, e := range extents {
		if e.Offset != at {
			t.Fatalf("map: %s", out)
		}
		at += e.Length
		if e.Type == 0 {
			data += e.Length
		} else if len(bytes.Trim(want[e.Offset:e.Offset+e.Length], "\x00")) > 0 {
			t.Errorf("data in a hole at %d", e.Offset)
		}
	}
	if at != int64(size) || data > 400<<10 {
		t.Errorf("map up to %d with %d of data: %s", at, data, out)
	}
	copied := filepath.Join(dir, "copied")
	run(t, "nbdcopy", url, copied)
	if b, err := os.ReadFile(copied); err != nil || !bytes.Equal(b, want) {
		t.Errorf("nbdcopy: %v, or bytes differ", err)
	}
	if out, err := exec.Command("qemu-io", "-f", "raw", "-c", "write 0 512", "nbd+unix:///ro?socket="+l.Socket).CombinedOutput(); err == nil {
		t.Errorf("wrote to a read-only export: %s", out)
	}
	if out, err := exec.Command("nbdinfo", "nbd+unix:///none?socket="+l.Socket).CombinedOutput(); err == nil {
		t.Errorf("an export that is not there: %s", out)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "base.raw")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file below changed: %v", err)
	}
	if l.Err() != nil {
		t.Errorf("disk failures: %v", l.Err())
	}
}

// broken fails every read beyond 4096.
type broken struct{ disk.Disk }

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if off >= 4096 {
		return 0, io.ErrUnexpectedEOF
	}
	return b.Disk.ReadAt(p, off)
}

func TestFailingDiskIsTold(t *testing.T) {
	dir := t.TempDir()
	sparse(t, dir, 2<<20)
	img, err := disktest.Open(t, dir, "base.raw", raw.Open)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	l, err := Serve(dir, "s", Exports{"d0": broken{img}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	url := "nbd+unix:///d0?socket=" + l.Socket
	run(t, "qemu-io", "-r", "-f", "raw", "-c", "read -q 0 4096", url)
	if out, err := exec.Command("qemu-io", "-r", "-f", "raw", "-c", "read 8192 4096", url).CombinedOutput(); err == nil {
		t.Errorf("a failing read succeeded: %s", out)
	}
	if l.Err() == nil {
		t.Error("the failure is not told")
	}
}

// TestOwnClient: this package's client reads what its server serves.
func TestOwnClient(t *testing.T) {
	l, _, want, _ := served(t, 4<<20)
	c, err := dial(context.Background(), l.Socket, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	got := make([]byte, len(want))
	if err := c.read(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, or bytes differ", err)
	}
	if err := c.read(got, 512); err == nil {
		t.Error("read beyond the end")
	}
}

// FuzzClient sends the server arbitrary bytes after a good greeting.
func FuzzClient(f *testing.F) {
	opt := func(n uint32, data []byte) []byte {
		b := binary.BigEndian.AppendUint64(nil, magicOption)
		b = binary.BigEndian.AppendUint32(b, n)
		return append(binary.BigEndian.AppendUint32(b, uint32(len(data))), data...)
	}
	req := func(cmd uint16, off uint64, n uint32) []byte {
		b := binary.BigEndian.AppendUint32(nil, magicRequest)
		b = binary.BigEndian.AppendUint32(b, uint32(cmd))
		b = binary.BigEndian.AppendUint64(b, 5)
		b = binary.BigEndian.AppendUint64(b, off)
		return binary.BigEndian.AppendUint32(b, n)
	}
	start := append([]byte{0, 0, 0, 3}, opt(optStructured, nil)...)
	start = append(start, opt(optGo, make([]byte, 6))...)
	f.Add(append(append(start, req(cmdRead, 0, 512)...), req(cmdBlockStatus, 0, 1<<31)...))
	f.Add(append(start, req(cmdWrite, 1<<63, 4)...))
	f.Add(append([]byte{0, 0, 0, 1}, opt(optSetMeta, []byte{255, 255, 255, 255, 1})...))
	dir := f.TempDir()
	sparse(f, dir, 2<<20)
	root, err := disk.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	file, err := root.Open("base.raw")
	if err != nil {
		f.Fatal(err)
	}
	img, err := raw.Open(&disk.Env{Root: root}, file)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := overlay.Create(filepath.Join(t.TempDir(), fmt.Sprint("o", len(b))), img)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		s := &Listener{exports: Exports{"": o}}
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		go func() {
			_, _ = theirs.Write(b)
			theirs.Close()
		}()
		p := &peer{s: s, c: ours, r: bufio.NewReader(ours)}
		p.serve(context.Background())
		ours.Close()
	})
}
