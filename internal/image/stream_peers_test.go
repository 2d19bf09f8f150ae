package image

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/lima-vm/go-qcow2reader"
	"github.com/lima-vm/go-qcow2reader/image/qcow2"

	"ascend/internal/disk"
)

// writeStream makes the file of a stream.
func writeStream(t *testing.T, src Source, f Format, path string) {
	t.Helper()
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	streamTo(t, mustStream(t, src, f, streamOptions), src, w)
}

// TestStreamPeers makes streams of disks of awkward sizes, and has QEMU, 7-Zip,
// libvmdk, libqcow and a QCOW2 reader in Go read them.
func TestStreamPeers(t *testing.T) {
	qcow2.SetDecompressor(qcow2.CompressionTypeZstd, func(r io.Reader) (io.ReadCloser, error) {
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	})
	disks := []*kindDisk{
		kinds(512, "n"),
		kinds(1<<20-512, "tnfs"),
		kinds(1<<20, "h"),
		kinds(1<<20+512, "n-t0"),
		kinds(1<<20+100, "t"),
		kinds(3<<20, "-"),
		kinds(5<<20, "n"),
		kinds(8<<20+512, "tnt-0fnns-tthn0ttnnnt-f"),
		{64<<20 + 12288, func(l int64) byte { return "tn-s------------------f-------0---"[l*l*l%33] }},
	}
	for i, d := range disks {
		t.Run(fmt.Sprintf("%d of %d bytes", i, d.size), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			size := roundUp(d.size, sectorSize)
			raw := filepath.Join(dir, "source.raw")
			w, err := os.Create(raw)
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.New()
			if _, err := io.Copy(io.MultiWriter(w, sum), io.NewSectionReader(d, 0, d.size)); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			sum.Write(make([]byte, size-d.size))
			want := fmt.Sprintf("%x", sum.Sum(nil))
			for _, f := range ordered() {
				checkStreamPeers(t, d.source(), f, raw, want)
			}
		})
	}
}

func checkStreamPeers(t *testing.T, src Source, f Format, raw, want string) {
	t.Helper()
	size := roundUp(src.Size(), sectorSize)
	// libvmdk opens the extent by the name in the descriptor.
	path := filepath.Join(filepath.Dir(raw), streamOptions.Name+"."+f.Extension())
	writeStream(t, src, f, path)
	defer os.Remove(path)
	checkQEMUInfo(t, f.String(), path, f, size)
	if out := run(t, "qemu-img", "compare", "-f", "raw", "-F", f.Name, raw, path); !strings.Contains(out, "identical") {
		t.Errorf("%s: qemu-img compare: %s", f, out)
	}
	checkQEMUCheck(t, f.String(), path, f)
	if f.Name == "qcow2" {
		checkGoReader(t, path, size, want)
	}
	if f.Compression == "zstd" {
		return // which 7-Zip and libqcow do not know
	}
	if got := libraryRead(t, path, fmt.Sprintf("0:%d", size)); got != fmt.Sprintf("%d %s", size, want) {
		t.Errorf("%s: library reads %s, want %d %s", f, got, size, want)
	}
	h := sha256.New()
	if out, err := start(t, h, "7zz", "e", "-so", "-t"+strings.TrimSuffix(f.Name, "2"), path); err != nil {
		t.Errorf("%s: 7-Zip: %v\n%s", f, err, out)
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != want {
		t.Errorf("%s: 7-Zip reads SHA-256 %s, want %s", f, got, want)
	}
}

// checkGoReader reads a QCOW2 with github.com/lima-vm/go-qcow2reader.
func checkGoReader(t *testing.T, path string, size int64, want string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := qcow2reader.OpenWithType(f, qcow2.Type)
	if err != nil {
		t.Fatalf("go-qcow2reader: %v", err)
	}
	defer img.Close()
	if img.Size() != size {
		t.Errorf("go-qcow2reader sees %d bytes, want %d", img.Size(), size)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(img, 0, size)); err != nil {
		t.Fatalf("go-qcow2reader: %v", err)
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)); got != want {
		t.Errorf("go-qcow2reader reads SHA-256 %s, want %s", got, want)
	}
}

// TestStreamPeersLarge has sparse disks of more than 2 TiB read where they have
// data, and around; QCOW2 as a whole.
func TestStreamPeersLarge(t *testing.T) {
	for _, size := range []int64{2<<40 - 512, 2<<40 + 1<<20, 3 << 40} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			d := &leafDisk{size: size, flat: true, data: map[int64]bool{}}
			last := (size - 1) / disk.LeafSize
			for _, l := range []int64{0, 1, 5, 511, 512, 100_000, 20_000_001, last / 2, last - 700, last} {
				d.data[l] = true
			}
			dir := t.TempDir()
			for _, f := range ordered() {
				checkStreamLarge(t, dir, d, f)
			}
		})
	}
}

func checkStreamLarge(t *testing.T, dir string, d *leafDisk, f Format) {
	t.Helper()
	path := filepath.Join(dir, streamOptions.Name+"."+f.Extension())
	writeStream(t, d.source(), f, path)
	defer os.Remove(path)
	look := d.looks()
	checkQEMUInfo(t, f.String(), path, f, d.size)
	look.qemu(t, f.String(), path, f)
	if f.Name == "qcow2" {
		checkQEMUCheck(t, f.String(), path, f)
		raw := filepath.Join(dir, "source.raw")
		writeRaw(t, d, raw)
		defer os.Remove(raw)
		if out := run(t, "qemu-img", "compare", "-f", "raw", "-F", f.Name, raw, path); !strings.Contains(out, "identical") {
			t.Errorf("%s: qemu-img compare: %s", f, out)
		}
	}
	if f.Compression == "zstd" {
		return
	}
	look.library(t, f.String(), path)
}

// TestRefcountBlocks makes files of more than 2 GiB, whose refcounts no longer
// fit one block, of clusters that are claimed to be compressed and are nothing
// but zeros, so that they are holes on disk. qemu-img check does not inflate.
func TestRefcountBlocks(t *testing.T) {
	for name, length := range map[string]func(cluster int64) uint32{
		"packed": func(int64) uint32 { return 64_999 },
		"whole":  func(int64) uint32 { return streamPiece },
		"mixed": func(c int64) uint32 {
			if c%5 == 0 {
				return 33_333
			}
			return streamPiece
		},
	} {
		t.Run(name, func(t *testing.T) {
			const size = 2500 << 20
			src := Source{Map: disk.NewMap(size, disk.LeafSize).Seal()}
			f := Format{Name: "qcow2", Compression: "zlib"}
			s := mustStream(t, src, f, streamOptions)
			path := filepath.Join(t.TempDir(), "x.qcow2")
			w, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			buf, off := must(s.Start(nil)), int64(0)
			enc := make([]byte, 0, MaxEncoded)
			flush := func() {
				for len(buf) > 0 {
					p := buf[:min(len(buf), streamPiece)]
					if string(p) != string(zeroPiece[:len(p)]) {
						if _, err := w.WriteAt(p, off); err != nil {
							t.Fatal(err)
						}
					}
					buf, off = buf[len(p):], off+int64(len(p))
				}
			}
			var whole []byte
			for b := range s.blocks() {
				enc = enc[:0]
				for i := range int64(blockPieces) {
					n := length(b*blockPieces + i)
					enc = append(binary.LittleEndian.AppendUint32(enc, uint32(i)<<24|n), zeroPiece[:n]...)
				}
				whole = must(s.Append(buf, b, enc))
				buf = whole
				flush()
				buf = whole[:0]
				if b%500 == 0 { // a checkpoint with refcount blocks in it
					cp := must(s.MarshalBinary())
					s = mustStream(t, src, f, streamOptions)
					if err := s.UnmarshalBinary(cp); err != nil {
						t.Fatal(err)
					}
				}
			}
			buf = must(s.Finish(buf))
			flush()
			if off != s.Offset() || off <= 2<<30 {
				t.Fatalf("wrote %d bytes, offset %d", off, s.Offset())
			}
			if err := errors.Join(w.Truncate(off), func() error { _, err := w.WriteAt(s.Patch(), 0); return err }()); err != nil {
				t.Fatal(err)
			}
			checkQEMUCheck(t, name, path, f)
		})
	}
}

// TestVMDKFull: a file that comes to the end of its own sector numbers is a size
// error.
func TestVMDKFull(t *testing.T) {
	d := kinds(64<<20, "n")
	src := d.source()
	f := ordered()[0]
	s := mustStream(t, src, f, streamOptions)
	enc := map[int64][]byte{}
	for _, b := range []int64{0, 1, 40} {
		enc[b] = must(s.Encode(nil, b, readBlock(t, src, b)))
	}
	must(s.Start(nil))
	must(s.Append(nil, 0, enc[0]))
	cp := must(s.MarshalBinary())
	const grain = vmdkGrain + sectorSize
	for _, c := range []struct {
		room  int64 // bytes left
		block int64
		ok    bool
	}{
		{blockPieces * grain, 1, true},
		{(blockPieces-1)*grain + 1, 1, true}, // the last grain begins before the end
		{(blockPieces - 1) * grain, 1, false},
		{0, 1, false},
		{sectorSize + vmdkGT, 40, false}, // the table fits, the next grain does not
		{sectorSize, 40, false},          // nor does the table
	} {
		if err := s.UnmarshalBinary(cp); err != nil {
			t.Fatal(err)
		}
		s.off = vmdkMaxSectors*sectorSize - roundUp(c.room, sectorSize)
		_, err := s.Append(nil, c.block, enc[c.block])
		var size *SizeError
		if c.ok != (err == nil) || err != nil && !errors.As(err, &size) {
			t.Errorf("%d bytes left: %v, want success: %t", c.room, err, c.ok)
		}
	}
	for _, room := range []int64{sectorSize, sectorSize + vmdkGT + sectorSize} { // for the table's, the directory's marker
		if err := s.UnmarshalBinary(cp); err != nil {
			t.Fatal(err)
		}
		s.off = vmdkMaxSectors*sectorSize - room
		var size *SizeError
		if _, err := s.Finish(nil); !errors.As(err, &size) {
			t.Errorf("%d bytes left for the end: %v, want a size error", room, err)
		}
	}
}
