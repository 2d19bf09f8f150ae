package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/disk"
)

// gptFile makes a disk with sgdisk and opens it, all of it data up to 4 MiB and
// in the last MiB.
func gptFile(t *testing.T, size int64, args ...string) (Source, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	run(t, "sgdisk", append(args, path)...)
	m := disk.NewMap(size, disk.LeafSize)
	m.Add(0, 4<<20)
	m.Add(max(size-1<<20, 0), 1<<20)
	return Source{Disk: f, Map: m.Seal()}, path
}

// verify has sgdisk judge the padded disk.
func verify(t *testing.T, src Source) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "padded.raw")
	write(t, mustNew(t, src, Format{Name: "raw"}, Options{}), path)
	return run(t, "sgdisk", "-v", path) + run(t, "sgdisk", "-p", path)
}

func mustPad(t *testing.T, src Source, align int64) *Padded {
	t.Helper()
	p, err := Pad(src, align)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPad pads GPT disks so that the backup moves by less than, as much as, and
// far more than its own length, and has sgdisk verify the result.
func TestPad(t *testing.T) {
	const end = 8<<20 + 12288
	for _, c := range []struct {
		size, align int64
	}{
		{end, 1 << 20}, {end, 1 << 30}, {end, 3 << 40},
		{8<<20 - 512, 1 << 20}, {8<<20 - 16*512, 1 << 20}, {8<<20 - 32*512, 1 << 20}, {8<<20 - 33*512, 1 << 20}, {8<<20 - 34*512, 1 << 20},
		{2 << 40, 3 << 40}, // the protective MBR's size reaches its limit
	} {
		t.Run(fmt.Sprintf("%d to %d", c.size, c.align), func(t *testing.T) {
			t.Parallel() // sgdisk sleeps after it wrote
			testPad(t, c.size, c.align)
		})
	}
}

func testPad(t *testing.T, before, align int64) {
	src, path := gptFile(t, before, "-n", "1:2048:+2M", "-n", "2:0:0", "-c", "2:last")
	out := run(t, "sgdisk", "-v", path)
	if !strings.Contains(out, "No problems found") {
		t.Fatalf("the disk to pad: %s", out)
	}
	p := mustPad(t, src, align)
	size := roundUp(before, align)
	if p.Size() != size || p.Note != "" || len(p.Patches) < 4 {
		t.Errorf("size %d, patches %v, note %q", p.Size(), p.Patches, p.Note)
	}
	out = verify(t, p.Source)
	if !strings.Contains(out, "No problems found") || !strings.Contains(out, fmt.Sprintf(": %d sectors,", size/512)) ||
		!strings.Contains(out, fmt.Sprintf("last usable sector is %d\n", size/512-34)) {
		t.Errorf("sgdisk says %s", out)
	}
	checkPatches(t, src, p)
	// Padding what is padded finds the backup at the end.
	if again := mustPad(t, p.Source, 4<<40); again.Note != "" || len(again.Patches) < 4 {
		t.Errorf("padded again: %v, note %q", again.Patches, again.Note)
	}
	if g, err := readGPT(p.Disk, p.Size()); err != nil || int64(binary.LittleEndian.Uint32(g.mbr[mbrEntry+12:])) != min(size/512-1, 0xffffffff) {
		t.Errorf("read back: %v", err)
	}
}

// checkPatches: outside the patches the disk is what it was and then zeros; the
// map covers them; random reads agree with the whole.
func checkPatches(t *testing.T, src Source, p *Padded) {
	t.Helper()
	last := int64(0)
	for _, q := range p.Patches {
		if q.Off < last || q.Len <= 0 || q.Why == "" {
			t.Errorf("patch %+v after %d", q, last)
		}
		last = q.Off + q.Len
		for l := q.Off / disk.LeafSize; l <= (last-1)/disk.LeafSize; l++ {
			if !p.Map.Has(l) {
				t.Errorf("patch %+v: leaf %d is a hole", q, l)
			}
		}
	}
	allocatedRuns(src.Map, 0, src.Map.Len(), func(b, n, _ int64) {
		if got, data := p.Map.Run(b, n); got != n || !data {
			t.Errorf("leaves %d to %d are not all data any more", b, b+n)
		}
	})
	n := min(p.Size(), 10<<20)
	whole := make([]byte, n)
	if k, err := p.Disk.ReadAt(whole, 0); int64(k) != n || err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("%d bytes, %v", k, err)
	}
	want := make([]byte, n)
	if _, err := src.Disk.ReadAt(want[:min(src.Size(), n)], 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for _, q := range p.Patches {
		if q.Off+q.Len <= n {
			copy(want[q.Off:q.Off+q.Len], whole[q.Off:])
		}
	}
	if !bytes.Equal(whole, want) {
		t.Error("the disk changed outside the patches")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		q := p.Patches[r.IntN(len(p.Patches))]
		off := min(max(q.Off-600+r.Int64N(q.Len+1200), 0), p.Size()-1)
		one, more := make([]byte, 1), make([]byte, 1+r.Int64N(2000))
		k, err := p.Disk.ReadAt(more, off)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		i := r.IntN(k)
		if _, err := p.Disk.ReadAt(one, off+int64(i)); err != nil && !errors.Is(err, io.EOF) || one[0] != more[i] {
			t.Fatalf("byte %d: %v", off+int64(i), err)
		}
	}
	if _, err := p.Disk.ReadAt(make([]byte, 1), p.Size()); !errors.Is(err, io.EOF) {
		t.Errorf("read at the end: %v", err)
	}
	if _, err := p.Disk.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("read at -1 succeeded")
	}
}

// TestPadNothing: disks whose end does not move, or that have no GPT, are not
// touched.
func TestPadNothing(t *testing.T) {
	src, _ := gptFile(t, 8<<20, "-n", "1:0:0")
	for _, align := range []int64{0, 1, 512, 1 << 20} {
		if p := mustPad(t, src, align); p.Source != src || p.Patches != nil || p.Note != "" {
			t.Errorf("align %d: %+v", align, p)
		}
	}
	for _, size := range []int64{1, 511, 512, 1000, 1536, 5000, 100_000} {
		d := newLeafDisk(size, 1, 1)
		p := mustPad(t, d.source(), 1<<20)
		if p.Size() != 1<<20 || p.Patches != nil || p.Note != "" {
			t.Errorf("disk of %d bytes: %+v", size, p)
		}
		got := make([]byte, 1<<20)
		if _, err := mustNew(t, p.Source, Format{Name: "raw"}, Options{}).ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		want := make([]byte, 1<<20)
		copy(want, d.leaf(0)[:min(size, disk.LeafSize)])
		if size > disk.LeafSize {
			copy(want[disk.LeafSize:size], d.leaf(1))
		}
		if !bytes.Equal(got, want) {
			t.Errorf("disk of %d bytes: padded content differs", size)
		}
	}
	for _, align := range []int64{-1, disk.MaxSize + 1} {
		if _, err := Pad(src, align); err == nil {
			t.Errorf("align %d was taken", align)
		}
	}
	big := Source{Disk: zeroDisk{}, Map: disk.NewMap(disk.MaxSize-512, disk.LeafSize).Seal()}
	if _, err := Pad(big, 5<<40); err == nil {
		t.Error("padded beyond the largest disk")
	}
	broken := errors.New("broken")
	if _, err := Pad(Source{Disk: badDisk{err: broken}, Map: big.Map}, 1<<20); !errors.Is(err, broken) {
		t.Errorf("a disk that cannot be read: %v", err)
	}
}

// memory is a disk in memory, with its GPT made by hand.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m).ReadAt(p, off) }

func (m memory) source() Source {
	l := disk.NewMap(int64(len(m)), disk.LeafSize)
	l.Add(0, int64(len(m)))
	return Source{Disk: m, Map: l.Seal()}
}

// handGPT is a disk of sectors with one partition.
func handGPT(sector, sectors int64) memory {
	le := binary.LittleEndian
	m := make(memory, sector*sectors)
	copy(m[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	le.PutUint32(m[458:], uint32(sectors-1))
	m[510], m[511] = 0x55, 0xaa
	array := (128*128 + sector - 1) / sector
	entry := m[2*sector:]
	copy(entry, "sixteen type id.unique partition")
	le.PutUint64(entry[32:], uint64(2+array))
	le.PutUint64(entry[40:], uint64(sectors-2-array))
	sum := crc32.ChecksumIEEE(entry[:128*128])
	copy(m[(sectors-1-array)*sector:], entry[:128*128])
	for _, h := range [][3]int64{{1, sectors - 1, 2}, {sectors - 1, 1, sectors - 1 - array}} {
		p := m[h[0]*sector:][:92]
		copy(p, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		le.PutUint64(p[24:], uint64(h[0]))
		le.PutUint64(p[32:], uint64(h[1]))
		le.PutUint64(p[40:], uint64(2+array))
		le.PutUint64(p[48:], uint64(sectors-2-array))
		copy(p[56:], "sixteen disk id.")
		le.PutUint64(p[72:], uint64(h[2]))
		le.PutUint32(p[80:], 128)
		le.PutUint32(p[84:], 128)
		le.PutUint32(p[88:], sum)
		le.PutUint32(p[16:], crc32.ChecksumIEEE(p))
	}
	return m
}

// TestPad4K: a disk of 4,096-byte sectors becomes what one of the new size
// would have been, but for the last usable sector's partition.
func TestPad4K(t *testing.T) {
	for _, sector := range []int64{512, 4096} {
		m := handGPT(sector, (8<<20-12*4096)/sector)
		p := mustPad(t, m.source(), 8<<20)
		if p.Note != "" || p.Size() != 8<<20 {
			t.Fatalf("note %q, size %d", p.Note, p.Size())
		}
		got := make(memory, 8<<20)
		if _, err := p.Disk.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		want := handGPT(sector, 8<<20/sector)
		array := 16384 / sector
		// The backup and the headers, but for the sums of entries that differ.
		last := 8<<20/sector - 1
		le := binary.LittleEndian
		for _, lba := range []int64{1, last} {
			a, b := got[lba*sector:][:92], want[lba*sector:][:92]
			if !bytes.Equal(a[:16], b[:16]) || !bytes.Equal(a[20:88], b[20:88]) || checkGPTHeader(got[lba*sector:][:sector], uint64(lba)) != nil {
				t.Errorf("header at %d:\n%x\n%x", lba, a, b)
			}
			entries := got[int64(le.Uint64(a[72:]))*sector:][:16384]
			if crc32.ChecksumIEEE(entries) != le.Uint32(a[88:]) || !bytes.Equal(entries, m[2*sector:][:16384]) {
				t.Errorf("entries of the header at %d differ", lba)
			}
		}
		if !bytes.Equal(got[:512], want[:512]) {
			t.Error("protective MBR differs")
		}
		if old := int64(len(m)) - sector; len(bytes.Trim(got[old:old+sector], "\x00")) != 0 && old/sector < last-array {
			t.Error("the former backup header is still there")
		}
	}
}

// TestPadHostile: tables that break a rule are left alone, with a note.
func TestPadHostile(t *testing.T) {
	le := binary.LittleEndian
	const last = 8<<20/512 - 1 - 100
	// resum makes the headers' checksums right again.
	resum := func(m memory) {
		for _, off := range []int64{512, last * 512} {
			n := min(le.Uint32(m[off+12:]), 512)
			le.PutUint32(m[off+16:], 0)
			le.PutUint32(m[off+16:], crc32.ChecksumIEEE(m[off:off+int64(n)]))
		}
	}
	for name, spoil := range map[string]func(m memory){
		"revision":                 func(m memory) { m[512+8] = 1; resum(m) },
		"header length 0":          func(m memory) { le.PutUint32(m[512+12:], 0); resum(m) },
		"header length huge":       func(m memory) { le.PutUint32(m[512+12:], 1<<31) },
		"header checksum":          func(m memory) { m[512+60] ^= 1 },
		"own place":                func(m memory) { m[512+24] = 2; resum(m) },
		"backup elsewhere":         func(m memory) { le.PutUint64(m[512+32:], last-5); resum(m) },
		"backup beyond the end":    func(m memory) { le.PutUint64(m[512+32:], 1<<63); resum(m) },
		"entries at 2^64":          func(m memory) { le.PutUint64(m[512+72:], ^uint64(0)); resum(m) },
		"entries over the header":  func(m memory) { le.PutUint64(m[512+72:], 1); resum(m) },
		"entries in usable space":  func(m memory) { le.PutUint64(m[512+72:], 5000); resum(m) },
		"2^32 entries":             func(m memory) { le.PutUint32(m[512+80:], ^uint32(0)); resum(m) },
		"no entries":               func(m memory) { le.PutUint32(m[512+80:], 0); resum(m) },
		"entries of 2^31 bytes":    func(m memory) { le.PutUint32(m[512+84:], 1<<31); resum(m) },
		"entries of 130 bytes":     func(m memory) { le.PutUint32(m[512+84:], 130); resum(m) },
		"entries of 0 bytes":       func(m memory) { le.PutUint32(m[512+84:], 0); resum(m) },
		"first usable after last":  func(m memory) { le.PutUint64(m[512+40:], last-3); resum(m) },
		"last usable is the end":   func(m memory) { le.PutUint64(m[512+48:], last); resum(m) },
		"entries' checksum":        func(m memory) { m[1024+60] ^= 1 },
		"partition beyond the end": func(m memory) { le.PutUint64(m[1024+40:], 1<<40); reEntry(m); resum(m) },
		"partition turned round":   func(m memory) { le.PutUint64(m[1024+40:], 35); le.PutUint64(m[1024+32:], 36); reEntry(m); resum(m) },
		"partition in the table":   func(m memory) { le.PutUint64(m[1024+32:], 3); reEntry(m); resum(m) },
		"no backup":                func(m memory) { clear(m[last*512:]) },
		"backup checksum":          func(m memory) { m[last*512+60] ^= 1 },
		"backup is a copy":         func(m memory) { copy(m[last*512:], m[512:1024]) },
		"no protective MBR":        func(m memory) { m[450] = 7 },
		"no MBR signature":         func(m memory) { m[510] = 0 },
		"space after the disk":     nil,
	} {
		m := handGPT(512, last+1)
		if p := mustPad(t, m.source(), 8<<20); p.Note != "" || p.Patches == nil {
			t.Fatalf("the unspoiled disk: %q, %v", p.Note, p.Patches)
		}
		if spoil != nil {
			spoil(m)
		} else {
			m = append(m, make([]byte, 100)...) // ends inside a sector
		}
		before := bytes.Clone(m)
		p := mustPad(t, m.source(), 8<<20)
		if !strings.HasPrefix(p.Note, "the partition table was left as it is: ") || p.Patches != nil {
			t.Errorf("%s: note %q, patches %v", name, p.Note, p.Patches)
		}
		got := make([]byte, 8<<20)
		if _, err := p.Disk.ReadAt(got, 0); err != nil || !bytes.Equal(got[:len(before)], before) || len(bytes.Trim(got[len(before):], "\x00")) != 0 {
			t.Errorf("%s: the disk was changed (%v)", name, err)
		}
	}
}

// reEntry makes the checksum of the entries right again.
func reEntry(m memory) {
	binary.LittleEndian.PutUint32(m[512+88:], crc32.ChecksumIEEE(m[1024:1024+16384]))
}

// TestPadNoRoom: where the backup was smaller than its own entries, moving it by
// one sector could cut usable space; then nothing is moved.
func TestPadNoRoom(t *testing.T) {
	le := binary.LittleEndian
	m := handGPT(512, 4096-1)
	for _, lba := range []int64{1, 4094} {
		p := m[lba*512:][:92]
		le.PutUint64(p[48:], 4093) // up to the header itself
		le.PutUint32(p[16:], 0)
		le.PutUint32(p[16:], crc32.ChecksumIEEE(p))
	}
	if p := mustPad(t, m.source(), 2<<20); !strings.Contains(p.Note, "no room") || p.Patches != nil {
		t.Errorf("note %q, patches %v", p.Note, p.Patches)
	}
	if p := mustPad(t, m.source(), 3<<20); p.Note != "" || p.Patches == nil {
		t.Errorf("with room: note %q, patches %v", p.Note, p.Patches)
	}
}

// FuzzPad: whatever the disk says, padding it neither panics nor changes
// anything but what it names, and a table that was moved is valid at the new end.
func FuzzPad(f *testing.F) {
	const sectors = 200
	small := handGPT(512, sectors)
	for _, off := range []int64{512, (sectors - 1) * 512} {
		binary.LittleEndian.PutUint32(small[off+80:], 4) // entries: one sector of them keeps the input small
	}
	head, tail := []byte(small[:1536]), []byte(small[(sectors-1)*512:])
	f.Add(head, tail, uint16(0), int64(128<<10))
	f.Add(head, tail, uint16(0), int64(101<<10))
	f.Add(head, []byte{}, uint16(511), int64(1<<20))
	f.Add([]byte{}, tail, uint16(100), int64(512))
	spoiled := bytes.Clone(head)
	binary.LittleEndian.PutUint32(spoiled[512+80:], 1<<31)
	f.Add(spoiled, tail, uint16(0), int64(1<<20))
	f.Fuzz(func(t *testing.T, head, tail []byte, more uint16, align int64) {
		m := make([]byte, sectors*512+int64(more)%4096)
		if len(head) > len(m) || len(tail) > len(m) || align <= 0 || align > 1<<20 {
			return
		}
		copy(m, head)
		copy(m[len(m)-len(tail):], tail)
		fixSums(m)
		p, err := Pad(memory(m).source(), align)
		if err != nil {
			t.Fatal(err) // no read failed
		}
		got := make([]byte, p.Size())
		if n, err := p.Disk.ReadAt(got, 0); int64(n) != p.Size() || err != nil {
			t.Fatalf("%d of %d bytes, %v", n, p.Size(), err)
		}
		want := make([]byte, p.Size())
		copy(want, m)
		for _, q := range p.Patches {
			copy(want[q.Off:q.Off+q.Len], got[q.Off:])
		}
		if !bytes.Equal(got, want) {
			t.Fatal("changed outside the patches")
		}
		if len(p.Patches) > 0 {
			if _, err := readGPT(memory(got), p.Size()); err != nil && p.Size()%4096 == 0 {
				t.Fatalf("the moved table: %v", err)
			}
		}
	})
}

// fixSums makes checksums right, so that fuzzing gets beyond them.
func fixSums(m []byte) {
	le := binary.LittleEndian
	fix := func(off int64) {
		if off < 0 || off+92 > int64(len(m)) {
			return
		}
		p := m[off:]
		at, bytes := le.Uint64(p[72:]), uint64(le.Uint32(p[80:]))*uint64(le.Uint32(p[84:]))
		if at < 4096 && bytes < 1<<20 && at*512+bytes <= uint64(len(m)) {
			le.PutUint32(p[88:], crc32.ChecksumIEEE(m[at*512:at*512+bytes]))
		}
		if n := le.Uint32(p[12:]); n >= 92 && n <= 512 && int(n) <= len(p) {
			le.PutUint32(p[16:], 0)
			le.PutUint32(p[16:], crc32.ChecksumIEEE(p[:n]))
		}
	}
	fix(512)
	fix(int64(len(m))/512*512 - 512)
}
