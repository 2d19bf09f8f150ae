package vhdx

import (
	"bytes"
	"encoding/binary"
	"testing"

	"ascend/internal/disk/disktest"
)

// FuzzOpen lays pieces over a differencing image beside its parent, with the
// checksums set right, and reads what opens: nothing may panic, be endless or
// disagree with its own extents.
func FuzzOpen(f *testing.F) {
	const size = 2 << 20
	own := disktest.Random(1, size)
	base := spec{size: size, data: disktest.Random(2, size), write: [16]byte{1}}.build()
	m := spec{size: size, data: own, has: disktest.Scattered(9, size/512), child: true, write: [16]byte{2},
		pairs: [][2]string{{"parent_linkage", linkage(1)}, {"relative_path", "base.vhdx"}, {"absolute_win32_path", `\\?\C:\fuzz.vhdx`}}}.build()
	length := int64(len(m.p))
	head := m.p[64<<10:][:80]
	regions := m.p[192<<10:][:80]
	table := m.p[m.meta:][:32+6*32]
	items := m.p[m.meta+65536:][:400]
	blocks := m.p[m.bat:][:16]
	bitmap := m.p[m.bat+8*m.ratio:][:8]
	f.Add(head, regions, table, items, blocks, bitmap, []byte(nil))
	entry := logEntry{seq: 1, guid: 1, flushed: length, last: length, writes: []logWrite{{off: m.bat, data: m.p[m.bat:][:4096]}, {off: m.bat + 8192, n: 4096}}}.bytes()
	logged := bytes.Clone(head)
	logged[48] = 1
	f.Add(logged, regions, table, items, blocks, bitmap, entry)
	second := logEntry{seq: 2, guid: 1, flushed: length, last: length + 1<<20, writes: []logWrite{{off: m.bat, n: 4096}}}.bytes()
	f.Add(logged, regions, table, items, blocks, bitmap, append(entry, second...))
	alone := bytes.Clone(items)
	alone[4] = 1 // no parent
	f.Add(head, regions, table, alone, []byte{0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}, bitmap, []byte(nil))
	empty := bytes.Clone(items)
	clear(empty[8:16]) // a disk of no bytes
	f.Add(head, regions, table, empty, blocks, bitmap, []byte(nil))

	f.Fuzz(func(t *testing.T, head, regions, table, items, blocks, bitmap, log []byte) {
		p := bytes.Clone(m.p)
		over := func(at, room int64, b []byte) { copy(p[at:at+room], b) }
		over(64<<10, 4096, head)
		putCRC(p[64<<10:][:4096])
		clear(p[128<<10:][:4096])
		over(192<<10, 65536, regions)
		putCRC(p[192<<10:][:65536])
		clear(p[256<<10:][:65536])
		over(m.meta, 65536, table)
		over(m.meta+65536, 1<<20-65536, items)
		over(m.bat, 1<<20, blocks)
		over(m.bat+8*m.ratio, 8, bitmap)
		over(logAt, 1<<20, log)
		for at := 0; at < len(log) && at < 1<<20; at += 4096 {
			e := p[logAt+at : logAt+1<<20]
			if n := int(binary.LittleEndian.Uint32(e[8:])); string(e[:4]) == "loge" && n >= 64 && n <= len(e) {
				putCRC(e[:n])
			}
		}
		dir := t.TempDir()
		put(t, dir, "base.vhdx", base.p)
		put(t, dir, "fuzz.vhdx", p)
		img, err := disktest.Open(t, dir, "fuzz.vhdx", Open)
		if err != nil {
			return
		}
		defer img.Close()
		n := min(img.Size(), 1<<20)
		for _, off := range []int64{0, img.Size() - n} {
			buf := make([]byte, n)
			if got, err := img.ReadAt(buf, off); got != len(buf) || err != nil && got > 0 {
				t.Fatalf("an image that opens cannot be read at %d: %v", off, err)
			}
			disktest.CheckExtents(t, img, off, n, buf)
		}
		if info := img.Info(); len(info.Chain) == 0 || info.FileBytes < length {
			t.Fatalf("info is %+v", info)
		}
	})
}

// FuzzLocator parses parent locators.
func FuzzLocator(f *testing.F) {
	f.Add(locatorItem([][2]string{{"parent_linkage", linkage(1)}, {"relative_path", `..\base.vhdx`}, {"volume_path", `\\?\Volume{x}\b`}}))
	f.Add(locatorItem([][2]string{{"parent_linkage2", "{83ED0EC3-24C8-49A6-A959-5E4BF1288BFB}"}, {"absolute_win32_path", `\\?\c:\b`}}))
	f.Add(locatorItem(nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		pairs, err := parseLocator(p)
		if err != nil {
			return
		}
		var sum int
		for k, v := range pairs {
			sum += len(k) + len(v)
		}
		if sum > 3*maxPairs*2*65535 {
			t.Fatalf("%d bytes of text from %d", sum, len(p))
		}
		l, err := parentLink("child", pairs)
		if err != nil {
			return
		}
		for _, id := range l.ids {
			if again, ok := parseGUID(id.String()); !ok || again != id {
				t.Fatalf("%v is read back as %v", id, again)
			}
		}
	})
}
