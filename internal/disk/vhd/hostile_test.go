package vhd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

// TestHostile: each way of lying in a dynamic image is told, and quickly.
func TestHostile(t *testing.T) {
	be := binary.BigEndian
	const size = 6 << 20
	good := spec{kind: 3, size: size, data: disktest.Random(1, size), entries: 8}.build()
	const bat = 1536
	foot := len(good) - 512
	footers := func(p []byte, edit func([]byte)) { // both copies
		edit(p[:512])
		edit(p[foot:])
		putSum(p[:512], 64)
		putSum(p[foot:], 64)
	}
	header := func(p []byte, edit func([]byte)) {
		edit(p[512:1536])
		putSum(p[512:1536], 36)
	}
	for _, c := range []struct {
		name string
		edit func(p []byte) []byte
		want error
		says string
	}{
		{"empty", func([]byte) []byte { return nil }, disk.ErrFormat, "too short"},
		{"not a VHD", func([]byte) []byte { return make([]byte, 1<<20) }, disk.ErrFormat, "no VHD footer"},
		{"511 bytes of nothing", func([]byte) []byte { return make([]byte, 511) }, disk.ErrFormat, ""},
		{"511 bytes of cookie", func([]byte) []byte { return append([]byte("conectix"), make([]byte, 503)...) }, disk.ErrCorrupt, "checksum"},
		{"both footers", func(p []byte) []byte { p[20] ^= 1; p[foot+20] ^= 1; return p }, disk.ErrCorrupt, "checksum"},
		{"both footers, cookie at the end gone", func(p []byte) []byte { p[20] ^= 1; p[foot] = 0; return p }, disk.ErrCorrupt, "checksum"},
		{"truncated within blocks", func(p []byte) []byte { return p[:len(p)-1<<20] }, disk.ErrCorrupt, "incomplete copy"},
		{"truncated within the table", func(p []byte) []byte { return p[:1540] }, disk.ErrCorrupt, "lies outside the file"},
		{"truncated within the header", func(p []byte) []byte { return p[:700] }, disk.ErrCorrupt, "lies outside the file"},
		{"version", func(p []byte) []byte { footers(p, func(f []byte) { be.PutUint32(f[12:], 0x20000) }); return p }, disk.ErrUnsupported, "version 2.0"},
		{"disk type", func(p []byte) []byte { footers(p, func(f []byte) { be.PutUint32(f[60:], 5) }); return p }, disk.ErrUnsupported, "disk type 5"},
		{"huge size", func(p []byte) []byte { footers(p, func(f []byte) { be.PutUint64(f[48:], 1<<62) }); return p }, disk.ErrUnsupported, "above the limit"},
		{"negative size", func(p []byte) []byte { footers(p, func(f []byte) { be.PutUint64(f[48:], 1<<63) }); return p }, disk.ErrUnsupported, "above the limit"},
		{"odd size", func(p []byte) []byte { footers(p, func(f []byte) { be.PutUint64(f[48:], 1000) }); return p }, disk.ErrCorrupt, "no multiple"},
		{"fixed, larger than the file", func(p []byte) []byte {
			footers(p, func(f []byte) { be.PutUint32(f[60:], 2); be.PutUint64(f[48:], 1<<40) })
			return p
		}, disk.ErrCorrupt, "has room for"},
		{"header beyond the end", func(p []byte) []byte { footers(p, func(f []byte) { be.PutUint64(f[16:], uint64(len(p))) }); return p }, disk.ErrCorrupt, "lies outside"},
		{"header at 2^64-1", func(p []byte) []byte { footers(p, func(f []byte) { be.PutUint64(f[16:], ^uint64(0)) }); return p }, disk.ErrCorrupt, "lies outside"},
		{"header on the footer", func(p []byte) []byte { footers(p, func(f []byte) { be.PutUint64(f[16:], 0) }); return p }, disk.ErrCorrupt, "lies outside"},
		{"header checksum", func(p []byte) []byte { p[600] ^= 1; return p }, disk.ErrCorrupt, "header has checksum"},
		{"header cookie", func(p []byte) []byte { p[512] ^= 1; return p }, disk.ErrCorrupt, "no dynamic disk header"},
		{"header version", func(p []byte) []byte { header(p, func(h []byte) { h[25] = 9 }); return p }, disk.ErrUnsupported, "header version"},
		{"block size 0", func(p []byte) []byte { header(p, func(h []byte) { be.PutUint32(h[32:], 0) }); return p }, disk.ErrCorrupt, "block size"},
		{"block size 3 MiB", func(p []byte) []byte { header(p, func(h []byte) { be.PutUint32(h[32:], 3<<20) }); return p }, disk.ErrCorrupt, "block size"},
		{"block size 2 GiB", func(p []byte) []byte { header(p, func(h []byte) { be.PutUint32(h[32:], 1<<31) }); return p }, disk.ErrCorrupt, "block size"},
		{"too few entries", func(p []byte) []byte { header(p, func(h []byte) { be.PutUint32(h[28:], 2) }); return p }, disk.ErrCorrupt, "2 entries and the disk 3"},
		{"giant table", func(p []byte) []byte { header(p, func(h []byte) { be.PutUint32(h[28:], ^uint32(0)) }); return p }, disk.ErrCorrupt, "lies outside"},
		{"table beyond the end", func(p []byte) []byte { header(p, func(h []byte) { be.PutUint64(h[16:], uint64(len(p))) }); return p }, disk.ErrCorrupt, "lies outside"},
		{"table at 2^63", func(p []byte) []byte { header(p, func(h []byte) { be.PutUint64(h[16:], 1<<63) }); return p }, disk.ErrCorrupt, "lies outside"},
		{"table on the header", func(p []byte) []byte { header(p, func(h []byte) { be.PutUint64(h[16:], 1528) }); return p }, disk.ErrCorrupt, "overlaps the header"},
		{"block beyond the end", func(p []byte) []byte { be.PutUint32(p[bat:], 0xfffffffe); return p }, disk.ErrCorrupt, "incomplete copy"},
		{"block on the footer", func(p []byte) []byte { be.PutUint32(p[bat:], uint32(foot/512-4095)); return p }, disk.ErrCorrupt, "incomplete copy"},
		{"block on the header", func(p []byte) []byte { be.PutUint32(p[bat:], 1); return p }, disk.ErrCorrupt, "overlaps a header"},
		{"block on the first footer", func(p []byte) []byte { be.PutUint32(p[bat:], 0); return p }, disk.ErrCorrupt, "overlaps a header"},
		{"one block twice", func(p []byte) []byte { copy(p[bat:bat+4], p[bat+4:]); return p }, disk.ErrCorrupt, "overlap"},
		{"blocks overlap", func(p []byte) []byte { be.PutUint32(p[bat:], be.Uint32(p[bat+4:])-1); return p }, disk.ErrCorrupt, "overlap"},
		{"differencing without a parent", func(p []byte) []byte {
			footers(p, func(f []byte) { be.PutUint32(f[60:], 4) })
			return p
		}, disk.ErrUnsupported, "without its parent's identifier"},
		{"differencing without a name", func(p []byte) []byte {
			footers(p, func(f []byte) { be.PutUint32(f[60:], 4) })
			header(p, func(h []byte) { h[40] = 1 })
			return p
		}, disk.ErrCorrupt, "no usable name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "bad.vhd"), c.edit(bytes.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			disktest.Refused(t, dir, "bad.vhd", Open, c.want, c.says)
		})
	}
}

// TestGiantTable: a sparse file may have room for a table that no disk needs.
func TestGiantTable(t *testing.T) {
	dir := t.TempDir()
	be := binary.BigEndian
	p := spec{kind: 3, size: 1 << 20, block: 512, has: make([]bool, 2048)}.build()
	be.PutUint64(p[48:], 512*(maxEntries+1))
	putSum(p[:512], 64)
	be.PutUint32(p[512+28:], maxEntries+1)
	putSum(p[512:1536], 36)
	name := filepath.Join(dir, "bad.vhd")
	if err := os.WriteFile(name, p, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 1<<40); err != nil {
		t.Fatal(err)
	}
	if _, err := disktest.Open(t, dir, "bad.vhd", Open); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("error is %v", err)
	}
}

// TestChanged: a file that is written to while it is read is noticed, in every
// layer.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	buildChain(t, dir, 3, 4<<20, 2<<20, 2)
	img := disktest.MustOpen(t, dir, "disk2.vhd", Open)
	if err := img.Unchanged(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "disk0.vhd"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1}, 5000); err != nil {
		t.Fatal(err)
	}
	if err := img.Unchanged(); !errors.Is(err, disk.ErrChanged) {
		t.Errorf("error is %v", err)
	}
	if err := f.Truncate(8192); err != nil {
		t.Fatal(err)
	}
	if _, err := img.ReadAt(make([]byte, 4<<20), 0); err == nil {
		t.Error("a truncated file was read")
	}
}
