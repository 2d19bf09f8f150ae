package nbd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
	"ascend/internal/qemu"
)

func TestMain(m *testing.M) {
	qemu.Main()
	os.Exit(m.Run())
}

func TestReadsWhatQEMUReads(t *testing.T) {
	for _, format := range Formats {
		dir := t.TempDir()
		name := "disk ü." + format
		path := filepath.Join(dir, name)
		run(t, "qemu-img", "create", "-q", "-f", format, path, "64M")
		run(t, "qemu-io", "-f", format, "-c", "write -q -P 1 0 64k", "-c", "write -q -P 2 5M 3M", "-c", "write -q -P 3 67107840 1024", path)
		img, err := disktest.Open(t, dir, name, Driver(format))
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, 64<<20)
		fill := func(off, n int, v byte) { copy(want[off:off+n], bytes.Repeat([]byte{v}, n)) }
		fill(0, 64<<10, 1)
		fill(5<<20, 3<<20, 2)
		fill(67107840, 1024, 3)
		got := make([]byte, img.Size())
		if _, err := img.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %v, or bytes differ", format, err)
		}
		at, data := int64(0), int64(0)
		err = img.Extents(t.Context(), 0, img.Size(), func(e disk.Extent) error {
			if e.Off != at {
				t.Fatalf("%s: extent at %d, want %d", format, e.Off, at)
			}
			if e.Data {
				data += e.Len
			} else if strings.Trim(string(want[e.Off:e.Off+e.Len]), "\x00") != "" {
				t.Fatalf("%s: data in a hole at %d", format, e.Off)
			}
			at += e.Len
			return nil
		})
		if err != nil || at != img.Size() || data > 32<<20 {
			t.Errorf("%s: extents: %v, up to %d, %d of data", format, err, at, data)
		}
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s (Debian package qemu-utils): %v: %s", name, err, out)
	}
}

// TestDeadServerIsAnError kills qemu-nbd under a reader.
func TestDeadServerIsAnError(t *testing.T) {
	dir := t.TempDir()
	run(t, "qemu-img", "create", "-q", "-f", "vdi", filepath.Join(dir, "d.vdi"), "64M")
	img, err := disktest.Open(t, dir, "d.vdi", Driver("vdi"))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if err := img.(*image).srv.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := img.ReadAt(make([]byte, 4096), 0); err == nil {
		t.Error("read from a dead server")
	}
}

func TestHostileImage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "d.vdi"), bytes.Repeat([]byte{0x7f}, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if img, err := disktest.Open(t, dir, "d.vdi", Driver("vdi")); err == nil {
		img.Close()
		t.Error("opened nonsense")
	}
}

// FuzzServer answers a client with arbitrary bytes.
func FuzzServer(f *testing.F) {
	hello := binary.BigEndian.AppendUint64(nil, magicServer)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, 3)
	ack := binary.BigEndian.AppendUint64(nil, magicReply)
	ack = append(ack, 0, 0, 0, optGo, 0, 0, 0, repAck, 0, 0, 0, 0)
	f.Add(append(hello, ack...), false)
	f.Add(hello, true)
	f.Fuzz(func(t *testing.T, b []byte, status bool) {
		server, client := net.Pipe()
		go func() {
			_, _ = bufio.NewReader(server).WriteTo(discard{})
		}()
		go func() {
			_, _ = server.Write(b)
			server.Close()
		}()
		c := &conn{c: client, r: bufio.NewReader(client)}
		if c.handshake(status) == nil {
			if status {
				_ = c.status(0, 1<<20, func(int64, bool) {})
			} else {
				_ = c.read(make([]byte, 512), 0)
			}
		}
		client.Close()
	})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
