package vhdx

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

// unreplayed is a file whose log holds what makes it whole.
type unreplayed struct {
	want   []byte // the disk
	before []byte // the file with the updates of the log not yet made
	writes []logWrite
	made   made
}

// crashed makes a dynamic image whose table still says that blocks 2 and 5 are
// not there, and that block 3, which was given up, is.
func crashed() unreplayed {
	const size = 7 << 20
	data := disktest.Random(11, size)
	s := spec{size: size, data: data, state: map[int64]byte{3: 0}, log: 1 << 20}
	want := bytes.Clone(data)
	clear(want[3<<20 : 4<<20])
	after := s.build()
	before := bytes.Clone(after.p)
	table := before[after.bat:]
	clear(table[2*8 : 3*8])
	clear(table[5*8 : 6*8])
	copy(table[3*8:4*8], table[4*8:5*8])
	return unreplayed{want, before, changes(before, after.p), after}
}

// TestReplay: what the reader sees is what QEMU sees after it has replayed the
// log of a copy, and what the log was made to say; the file stays as it was.
func TestReplay(t *testing.T) {
	const ring = 1 << 20
	u := crashed()
	size := int64(len(u.before))
	nothing := logEntry{guid: 1, flushed: size, last: size}
	final := func(seq uint64, tail int) logEntry {
		return logEntry{seq: seq, guid: 1, tail: tail, flushed: size, last: size, writes: u.writes}
	}
	wrong := disktest.Random(3, 4096) // must never be applied, or be overwritten
	for _, c := range []struct {
		name    string
		at      int
		log     func(at int) []byte
		entries string
		// differs says why QEMU 7.2 reads it otherwise, if it does.
		differs string
	}{
		{"one entry", 0, func(int) []byte { return final(1, 0).bytes() }, "1 entries", ""},
		{"in the middle of the ring", 40960, func(at int) []byte { return final(9, at).bytes() }, "1 entries", ""},
		{"wrapping around", ring - 4096, func(at int) []byte { return final(9, at).bytes() }, "1 entries", ""},
		{"entries after an empty one", 8192, func(at int) []byte {
			e := nothing
			e.seq, e.tail = 5, at
			return append(e.bytes(), final(6, at).bytes()...)
		}, "2 entries", ""},
		{"several entries, wrapping, the last one wins", ring - 8192 - 4096, func(at int) []byte {
			// 8 KiB, of which the second half holds what the next entry replaces.
			a := logEntry{seq: 100, guid: 1, tail: at, flushed: size, last: size, writes: []logWrite{{off: u.made.bat, data: wrong}}}
			b := logEntry{seq: 101, guid: 1, tail: at, flushed: size, last: size, writes: []logWrite{{off: u.made.bat, n: 4096}}}
			return append(append(a.bytes(), b.bytes()...), final(102, at).bytes()...)
		}, "3 entries", ""},
		{"zeros, then data", 0, func(at int) []byte {
			a := logEntry{seq: 1, guid: 1, tail: at, flushed: size, last: size, writes: []logWrite{{off: u.made.bat, n: 1 << 20}, u.writes[0]}}
			return append(a.bytes(), final(2, at).bytes()...)
		}, "2 entries", ""},
		{"the tail is not the oldest entry", 0, func(int) []byte {
			old := logEntry{seq: 1, guid: 1, tail: 0, flushed: size, last: size, writes: []logWrite{{off: u.made.bat + 8192, data: wrong}}}
			p := old.bytes()
			e := final(2, len(p))
			return append(p, e.bytes()...)
		}, "1 entries", ""},
		{"a torn entry at the end", 0, func(at int) []byte {
			torn := logEntry{seq: 2, guid: 1, tail: at, flushed: size, last: size, writes: []logWrite{{off: u.made.bat, data: wrong}, {off: u.made.meta, n: 4096}}}.bytes()
			torn[len(torn)-1000] ^= 1
			return append(final(1, at).bytes(), torn...)
		}, "1 entries", ""},
		{"an entry cut short", 0, func(at int) []byte {
			torn := logEntry{seq: 2, guid: 1, tail: at, flushed: size, last: size, writes: []logWrite{{off: u.made.bat, data: wrong}}}.bytes()
			return append(final(1, at).bytes(), torn[:4096]...)
		}, "1 entries", ""},
		{"an entry of an earlier session follows", 0, func(at int) []byte {
			old := logEntry{seq: 2, guid: 9, tail: at, flushed: size, last: size, writes: []logWrite{{off: u.made.bat, data: wrong}}}
			return append(final(1, at).bytes(), old.bytes()...)
		}, "1 entries", ""},
		{"a gap in the numbers", 0, func(at int) []byte {
			old := logEntry{seq: 4, guid: 1, tail: at, flushed: size, last: size, writes: []logWrite{{off: u.made.bat, data: wrong}}}
			return append(final(6, at).bytes(), old.bytes()...)
		}, "1 entries", "takes the second entry of a sequence whatever its number"},
		{"an older sequence elsewhere", 0, func(int) []byte {
			old := logEntry{seq: 3, guid: 1, tail: 0, flushed: size, last: size, writes: []logWrite{{off: u.made.bat, data: wrong}}}
			p := append(old.bytes(), make([]byte, 4096)...)
			return append(p, final(7, len(p)).bytes()...)
		}, "1 entries", ""},
		{"many descriptors", 0, func(at int) []byte {
			e := final(1, at)
			var w []logWrite
			for i := range int64(125) { // with one more, a full sector of them
				w = append(w, logWrite{off: u.made.bat + 4096*(1+i%200), n: 4096})
			}
			e.writes = append(w, e.writes...)
			return e.bytes()
		}, "1 entries", ""},
		{"several sectors of descriptors", 0, func(at int) []byte {
			e := final(1, at)
			var w []logWrite
			for i := range int64(300) {
				w = append(w, logWrite{off: u.made.bat + 4096*(1+i%200), n: 4096})
			}
			e.writes = append(w, e.writes...)
			return e.bytes()
		}, "1 entries", "reads all descriptor sectors over one another"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			p := bytes.Clone(u.before)
			setLog(p, ring, c.at, c.log(c.at), 1)
			put(t, dir, "disk.vhdx", p)
			img := disktest.MustOpen(t, dir, "disk.vhdx", Open)
			disktest.Check(t, img, u.want)
			if n := img.Info().Notes; len(n) != 1 || !strings.Contains(n[0], c.entries) {
				t.Errorf("notes are %q, want %s", n, c.entries)
			}
			now, err := os.ReadFile(filepath.Join(dir, "disk.vhdx"))
			if err != nil || !bytes.Equal(now, p) {
				t.Fatalf("the file was written to (%v)", err)
			}
			if c.differs == "" {
				disktest.Same(t, byQEMU(t, dir, "disk.vhdx"), u.want)
			}
		})
	}
}

// byQEMU lets QEMU open a copy of the image for writing, which makes it replay
// the log, and reads the result with it.
func byQEMU(t testing.TB, dir, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "copy.vhdx", p)
	disktest.Run(t, dir, "qemu-img", "check", "-q", "-f", "vhdx", "-r", "all", "copy.vhdx")
	disktest.Run(t, dir, "qemu-img", "convert", "-f", "vhdx", "-O", "raw", "copy.vhdx", "copy.raw")
	got, err := os.ReadFile(filepath.Join(dir, "copy.raw"))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestReplayOfQEMU replays a log that QEMU wrote. QEMU applies each entry at once
// and gives its log a new GUID for each; the moment before that is made by
// giving the table back the state it had, and the header the entry's GUID.
func TestReplayOfQEMU(t *testing.T) {
	for _, block := range []string{"1M", "8M"} {
		t.Run(block, func(t *testing.T) {
			dir := t.TempDir()
			read := func() []byte {
				p, err := os.ReadFile(filepath.Join(dir, "disk.vhdx"))
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			disktest.Run(t, dir, "qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size="+block, "disk.vhdx", "40M")
			disktest.Run(t, dir, "qemu-io", "-f", "vhdx", "-c", "write -P 3 9M 1M", "disk.vhdx")
			before := read()
			table := disktest.MustOpen(t, dir, "disk.vhdx", Open).(*image).bat.at
			disktest.Run(t, dir, "qemu-io", "-f", "vhdx", "-c", "write -P 4 33M 1M", "disk.vhdx")
			after := read()
			want := make([]byte, 40<<20)
			copy(want[9<<20:], bytes.Repeat([]byte{3}, 1<<20))
			copy(want[33<<20:], bytes.Repeat([]byte{4}, 1<<20))
			disktest.Check(t, disktest.MustOpen(t, dir, "disk.vhdx", Open), want)

			entries := 0
			for at := logAt; at < logAt+1<<20; at += 4096 {
				e := after[at:]
				if string(e[:4]) != "loge" || bytes.Equal(e[:4096], before[at:at+4096]) {
					continue
				}
				entries++
				for i := range 2 {
					h := after[(64+64*i)<<10:][:4096]
					if !checkSum(h) {
						t.Fatal("the generator and QEMU compute another checksum")
					}
					copy(h[48:64], e[32:48])
					putCRC(h)
				}
			}
			if entries != 1 {
				t.Fatalf("QEMU wrote %d log entries, want 1", entries)
			}
			copy(after[table.off:table.off+table.len], before[table.off:])
			put(t, dir, "crashed.vhdx", after)
			img := disktest.MustOpen(t, dir, "crashed.vhdx", Open)
			disktest.Check(t, img, want)
			if n := img.Info().Notes; len(n) != 1 || !strings.Contains(n[0], "1 entries of its log were replayed") {
				t.Errorf("notes are %q", n)
			}
			disktest.Same(t, byQEMU(t, dir, "crashed.vhdx"), want)
		})
	}
}

// TestReplayExtends: a block that the crash left beyond the end of the file
// reads as zeros, since replaying makes the file as long as the log says.
func TestReplayExtends(t *testing.T) {
	u := crashed()
	dir := t.TempDir()
	p := u.before
	length := int64(len(p))
	// Block 5 is moved to where the file ends.
	w := logWrite{off: u.made.bat, data: bytes.Clone(u.writes[0].data)}
	le64(w.data[5*8:], uint64(length)|6)
	clear(u.want[5<<20 : 6<<20])
	for _, last := range []int64{length + 1<<20, length + 1<<20 - 4096} {
		setLog(p, 1<<20, 0, logEntry{seq: 1, guid: 1, flushed: length, last: last, writes: []logWrite{w}}.bytes(), 1)
		put(t, dir, "disk.vhdx", p)
		img := disktest.MustOpen(t, dir, "disk.vhdx", Open)
		disktest.Check(t, img, u.want)
		for _, e := range disktest.CheckExtents(t, img, 5<<20, 1<<20, u.want[5<<20:6<<20]) {
			t.Errorf("extent %+v is data", e)
		}
	}
	// QEMU makes the file longer only when the length is no multiple of 1 MiB.
	disktest.Same(t, byQEMU(t, dir, "disk.vhdx"), u.want)
}

// TestReplayMetadata: the region tables and the metadata are read through the
// log as well.
func TestReplayMetadata(t *testing.T) {
	dir := t.TempDir()
	data := disktest.Random(2, 3<<20)
	after := spec{size: 3 << 20, data: data}.build().p
	before := bytes.Clone(after)
	clear(before[192<<10 : 320<<10])
	clear(before[2<<20 : 2<<20+128<<10])
	length := int64(len(before))
	setLog(before, 1<<20, 0, logEntry{seq: 1 << 33, guid: 1, flushed: length, last: length, writes: changes(before, after)}.bytes(), 1)
	put(t, dir, "disk.vhdx", before)
	img := disktest.MustOpen(t, dir, "disk.vhdx", Open)
	disktest.Check(t, img, data)
}

// TestReplayData: the log should not hold payload; if it does, it is what counts.
func TestReplayData(t *testing.T) {
	dir := t.TempDir()
	data := disktest.Random(2, 3<<20)
	m := spec{size: 3 << 20, data: data}.build()
	length := int64(len(m.p))
	first := int64(0) // where block 0 is
	for i, b := range m.p[m.bat:][:8] {
		first |= int64(b) << (8 * i)
	}
	first &^= 1<<20 - 1
	patch := disktest.Random(9, 4096)
	setLog(m.p, 1<<20, 0, logEntry{seq: 1, guid: 1, flushed: length, last: length, writes: []logWrite{{off: first + 8192, data: patch}, {off: first + 65536, n: 12288}}}.bytes(), 1)
	put(t, dir, "disk.vhdx", m.p)
	copy(data[8192:], patch)
	clear(data[65536 : 65536+12288])
	disktest.Check(t, disktest.MustOpen(t, dir, "disk.vhdx", Open), data)
	disktest.Same(t, byQEMU(t, dir, "disk.vhdx"), data)
}

// TestEmptyLog: an entry that asks for nothing is no reason for a note.
func TestEmptyLog(t *testing.T) {
	dir := t.TempDir()
	data := disktest.Random(2, 1<<20)
	m := spec{size: 1 << 20, data: data}.build()
	length := int64(len(m.p))
	setLog(m.p, 1<<20, 0, logEntry{seq: 1, guid: 1, flushed: length, last: length}.bytes(), 1)
	put(t, dir, "disk.vhdx", m.p)
	img := disktest.MustOpen(t, dir, "disk.vhdx", Open)
	disktest.Check(t, img, data)
	if n := img.Info().Notes; len(n) != 0 {
		t.Errorf("notes are %q", n)
	}
}

// TestBadLog: a log that cannot be replayed is told.
func TestBadLog(t *testing.T) {
	u := crashed()
	size := int64(len(u.before))
	good := logEntry{seq: 1, guid: 1, flushed: size, last: size, writes: u.writes}
	for _, c := range []struct {
		name string
		edit func(p []byte)
		want error
		says string
	}{
		{"empty", func(p []byte) { setLog(p, 1<<20, 0, nil, 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"another identifier", func(p []byte) { setLog(p, 1<<20, 0, good.bytes(), 2) }, disk.ErrCorrupt, "no valid sequence"},
		{"its checksum", func(p []byte) { b := good.bytes(); b[5000] ^= 1; setLog(p, 1<<20, 0, b, 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"its tail is elsewhere", func(p []byte) { e := good; e.tail = 65536; setLog(p, 1<<20, 0, e.bytes(), 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"its tail is beyond the log", func(p []byte) { e := good; e.tail = 1 << 20; setLog(p, 1<<20, 0, e.bytes(), 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"number 0", func(p []byte) { e := good; e.seq = 0; setLog(p, 1<<20, 0, e.bytes(), 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"length 0", func(p []byte) { b := good.bytes(); le32(b[8:], 0); setLog(p, 1<<20, 0, b, 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"length 4 GiB", func(p []byte) { b := good.bytes(); le32(b[8:], 0xfffff000); setLog(p, 1<<20, 0, b, 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"descriptors 2^32-1", func(p []byte) { b := good.bytes(); le32(b[24:], 0xffffffff); putCRC(b); setLog(p, 1<<20, 0, b, 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"fewer data sectors", func(p []byte) { b := good.bytes(); le32(b[24:], 2); putCRC(b); setLog(p, 1<<20, 0, b, 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"unknown descriptor", func(p []byte) { b := good.bytes(); b[64] = 'x'; putCRC(b); setLog(p, 1<<20, 0, b, 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"descriptor of another entry", func(p []byte) { b := good.bytes(); b[64+24]++; putCRC(b); setLog(p, 1<<20, 0, b, 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"data sector of another entry", func(p []byte) { b := good.bytes(); b[8191]++; putCRC(b); setLog(p, 1<<20, 0, b, 1) }, disk.ErrCorrupt, "no valid sequence"},
		{"descriptor at an odd offset", func(p []byte) {
			e := good
			e.writes = []logWrite{{off: 100, n: 4096}}
			setLog(p, 1<<20, 0, e.bytes(), 1)
		}, disk.ErrCorrupt, "no valid sequence"},
		{"zeros to the end of the world", func(p []byte) {
			e := good
			e.writes = []logWrite{{off: 4096, n: -4096}}
			setLog(p, 1<<20, 0, e.bytes(), 1)
		}, disk.ErrCorrupt, "no valid sequence"},
		{"descriptor at 2^63", func(p []byte) {
			e := good
			e.writes = []logWrite{{off: -1 << 63, n: 4096}}
			setLog(p, 1<<20, 0, e.bytes(), 1)
		}, disk.ErrCorrupt, "no valid sequence"},
		{"the file was longer", func(p []byte) { e := good; e.flushed = size + 1; setLog(p, 1<<20, 0, e.bytes(), 1) }, disk.ErrCorrupt, "it is truncated"},
		{"the file becomes huge", func(p []byte) { e := good; e.last = 1 << 62; setLog(p, 1<<20, 0, e.bytes(), 1) }, disk.ErrUnsupported, "bytes long"},
		{"log version", func(p []byte) {
			setLog(p, 1<<20, 0, good.bytes(), 1)
			for i := range 2 {
				h := p[(64+64*i)<<10:][:4096]
				h[64] = 1
				putCRC(h)
			}
		}, disk.ErrUnsupported, "log version 1"},
		{"the log destroys the metadata", func(p []byte) {
			e := good
			e.writes = []logWrite{{off: 2 << 20, n: 4096}}
			setLog(p, 1<<20, 0, e.bytes(), 1)
		}, disk.ErrCorrupt, "no metadata table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			p := bytes.Clone(u.before)
			c.edit(p)
			put(t, dir, "disk.vhdx", p)
			disktest.Refused(t, dir, "disk.vhdx", Open, c.want, c.says)
		})
	}
}

// TestHugeLog: the largest log that is read, full of entries that all claim to
// be long, or that make one sequence with no tail, takes no longer than it may.
func TestHugeLog(t *testing.T) {
	const ring = maxLog
	m := spec{size: 1 << 20, data: disktest.Random(1, 1<<20), log: ring}.build()
	length := int64(len(m.p))
	long := make([]byte, ring)
	for at := 0; at < ring; at += 4096 {
		copy(long[at:], logEntry{seq: 1, guid: 1, flushed: length, last: length}.bytes())
		le32(long[at+8:], ring-4096)
	}
	one := make([]byte, 0, ring)
	for i := range uint64(ring / 4096) {
		one = append(one, logEntry{seq: i + 1, guid: 1, tail: 4096 * int(i+1) % ring, flushed: length, last: length}.bytes()...)
	}
	zeros := logEntry{seq: 1, guid: 1, flushed: length, last: length}
	for i := range int64((ring - 4096) / 32) {
		zeros.writes = append(zeros.writes, logWrite{off: i * 8192, n: 8192})
	}
	for name, log := range map[string][]byte{"long": long, "one sequence": one[:ring-4096], "zeros": zeros.bytes()} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := bytes.Clone(m.p)
			setLog(p, ring, 0, log, 1)
			put(t, dir, "disk.vhdx", p)
			start := time.Now()
			_, err := disktest.Open(t, dir, "disk.vhdx", Open)
			if err == nil {
				t.Error("it was opened")
			}
			t.Logf("%v in %v", err, time.Since(start))
			if d := time.Since(start); d > time.Minute {
				t.Errorf("took %v", d)
			}
		})
	}
	// One more MiB is not read at all.
	over := spec{size: 1 << 20, data: disktest.Random(1, 1<<20), log: ring + 1<<20}.build().p
	setLog(over, ring+1<<20, 0, nil, 1)
	dir := t.TempDir()
	put(t, dir, "disk.vhdx", over)
	if _, err := disktest.Open(t, dir, "disk.vhdx", Open); !errors.Is(err, disk.ErrUnsupported) {
		t.Errorf("error is %v", err)
	}
}

// TestFlatten compares with writing one after the other.
func TestFlatten(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var writes []write
		want := bytes.Repeat([]byte{0xff}, 200)
		for k := range 1 + r.IntN(12) {
			off := r.Int64N(190)
			w := write{off: off, len: 1 + r.Int64N(200-off)}
			if r.IntN(2) == 0 {
				w.data = bytes.Repeat([]byte{byte(k + 1)}, int(w.len))
				copy(want[off:], w.data)
			} else {
				clear(want[off : off+w.len])
			}
			writes = append(writes, w)
		}
		got := bytes.Repeat([]byte{0xff}, 200)
		end := int64(-1)
		for _, w := range flatten(writes) {
			if w.off < end || w.len <= 0 || w.data != nil && int64(len(w.data)) != w.len {
				t.Fatalf("%+v gives %+v", writes, flatten(writes))
			}
			end = w.off + w.len
			copy(got[w.off:end], make([]byte, w.len))
			copy(got[w.off:], w.data)
		}
		disktest.Same(t, got, want)
	}
}
