package vhdx

import (
	"bytes"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/disktest"
)

// TestHostile: each way of lying is told, and quickly.
func TestHostile(t *testing.T) {
	const size = 2 << 20
	m := spec{size: size, data: disktest.Random(1, size)}.build()
	headers := func(p []byte, edit func(h []byte)) {
		for i := range 2 {
			h := p[(64+64*i)<<10:][:4096]
			edit(h)
			putCRC(h)
		}
	}
	tables := func(p []byte, edit func(r []byte)) {
		for i := range 2 {
			r := p[(192+64*i)<<10:][:65536]
			edit(r)
			putCRC(r)
		}
	}
	// In the region table, the table of blocks is first; in the metadata the items
	// are parameters, size, identifier, logical, physical.
	item := func(k int) int { return int(m.meta) + 32 + 32*k }
	value := int(m.meta) + 65536
	bat := int(m.bat)
	for _, c := range []struct {
		name string
		edit func(p []byte) []byte
		want error
		says string
	}{
		{"empty", func([]byte) []byte { return nil }, disk.ErrFormat, "too short"},
		{"not a VHDX", func(p []byte) []byte { p[0] = 'x'; return p }, disk.ErrFormat, "no VHDX signature"},
		{"only a signature", func(p []byte) []byte { return p[:8] }, disk.ErrCorrupt, "too short"},
		{"both headers damaged", func(p []byte) []byte { p[64<<10+80] ^= 1; p[128<<10+80] ^= 1; return p }, disk.ErrCorrupt, "neither header"},
		{"different headers of one number", func(p []byte) []byte {
			n := byte(0)
			headers(p, func(h []byte) { le64(h[8:], 5); h[40] = n; n++ })
			return p
		}, disk.ErrCorrupt, "two different headers"},
		{"version", func(p []byte) []byte { headers(p, func(h []byte) { le16(h[66:], 2) }); return p }, disk.ErrUnsupported, "version 2"},
		{"log beyond the end", func(p []byte) []byte {
			headers(p, func(h []byte) { le64(h[72:], uint64(len(p))) })
			return p
		}, disk.ErrCorrupt, "log of"},
		{"log at 2^64-1 MiB", func(p []byte) []byte {
			headers(p, func(h []byte) { le64(h[72:], ^uint64(0)-1<<20+1) })
			return p
		}, disk.ErrCorrupt, "log of"},
		{"log on the headers", func(p []byte) []byte { headers(p, func(h []byte) { le64(h[72:], 0) }); return p }, disk.ErrCorrupt, "log of"},
		{"log of 100 bytes", func(p []byte) []byte { headers(p, func(h []byte) { le32(h[68:], 100) }); return p }, disk.ErrCorrupt, "log of"},
		{"a log without length", func(p []byte) []byte { headers(p, func(h []byte) { le32(h[68:], 0); h[48] = 1 }); return p }, disk.ErrCorrupt, "log of"},
		{"log on the metadata", func(p []byte) []byte { headers(p, func(h []byte) { le64(h[72:], uint64(m.meta)) }); return p }, disk.ErrCorrupt, "overlap"},
		{"both region tables damaged", func(p []byte) []byte { p[192<<10+9] ^= 1; p[256<<10+9] ^= 1; return p }, disk.ErrCorrupt, "neither region table"},
		{"2048 regions", func(p []byte) []byte { tables(p, func(r []byte) { le32(r[8:], 2048) }); return p }, disk.ErrCorrupt, "2048 entries"},
		{"no regions", func(p []byte) []byte { tables(p, func(r []byte) { le32(r[8:], 0) }); return p }, disk.ErrCorrupt, "without a block allocation table"},
		{"a region twice", func(p []byte) []byte { tables(p, func(r []byte) { copy(r[48:], r[16:32]) }); return p }, disk.ErrCorrupt, "named twice"},
		{"unknown required region", func(p []byte) []byte {
			tables(p, func(r []byte) { le32(r[8:], 3); r[80] = 1; le64(r[96:], 4<<20); le32(r[104:], 1<<20); le32(r[108:], 1) })
			return p
		}, disk.ErrUnsupported, "required region"},
		{"unknown region on the table", func(p []byte) []byte {
			tables(p, func(r []byte) { le32(r[8:], 3); r[80] = 1; le64(r[96:], uint64(bat)); le32(r[104:], 1<<20) })
			return p
		}, disk.ErrCorrupt, "overlap"},
		{"regions overlap", func(p []byte) []byte { tables(p, func(r []byte) { le64(r[32:], uint64(m.meta)) }); return p }, disk.ErrCorrupt, "overlap"},
		{"region on the headers", func(p []byte) []byte { tables(p, func(r []byte) { le64(r[32:], 0) }); return p }, disk.ErrCorrupt, "overlap"},
		{"region beyond the end", func(p []byte) []byte { tables(p, func(r []byte) { le64(r[32:], 1<<40) }); return p }, disk.ErrCorrupt, "incomplete copy"},
		{"region of 4 GiB", func(p []byte) []byte { tables(p, func(r []byte) { le32(r[40:], 0xfff00000) }); return p }, disk.ErrCorrupt, "incomplete copy"},
		{"region at an odd offset", func(p []byte) []byte { tables(p, func(r []byte) { le64(r[32:], uint64(bat+4096)) }); return p }, disk.ErrCorrupt, "region"},
		{"truncated within the table", func(p []byte) []byte { return p[:bat+100] }, disk.ErrCorrupt, "incomplete copy"},
		{"truncated within blocks", func(p []byte) []byte { return p[:len(p)-1] }, disk.ErrCorrupt, "incomplete copy"},
		{"metadata signature", func(p []byte) []byte { p[m.meta] = 'x'; return p }, disk.ErrCorrupt, "no metadata table"},
		{"2048 items", func(p []byte) []byte { le16(p[m.meta+10:], 2048); return p }, disk.ErrCorrupt, "2048 entries"},
		{"unknown required item", func(p []byte) []byte { le16(p[m.meta+10:], 6); p[item(5)] = 1; p[item(5)+24] = 4; return p }, disk.ErrUnsupported, "required metadata item"},
		{"unknown required item of a user", func(p []byte) []byte { le16(p[m.meta+10:], 6); p[item(5)] = 1; p[item(5)+24] = 5; return p }, disk.ErrUnsupported, "required metadata item"},
		{"an item twice", func(p []byte) []byte { copy(p[item(4):item(4)+16], p[item(0):]); return p }, disk.ErrCorrupt, "named twice"},
		{"items overlap", func(p []byte) []byte { copy(p[item(4)+16:item(4)+20], p[item(3)+16:]); return p }, disk.ErrCorrupt, "overlap"},
		{"item on the table", func(p []byte) []byte { le32(p[item(1)+16:], 100); return p }, disk.ErrCorrupt, "metadata item"},
		{"item beyond the region", func(p []byte) []byte { le32(p[item(1)+16:], 1<<20); return p }, disk.ErrCorrupt, "metadata item"},
		{"item at 2^32-1", func(p []byte) []byte { le32(p[item(1)+16:], ^uint32(0)); return p }, disk.ErrCorrupt, "metadata item"},
		{"item of 2 MiB", func(p []byte) []byte { le32(p[item(1)+20:], 2<<20); return p }, disk.ErrCorrupt, "metadata item"},
		{"size item too short", func(p []byte) []byte { le32(p[item(1)+20:], 4); return p }, disk.ErrCorrupt, "metadata item"},
		{"size item missing", func(p []byte) []byte { p[item(1)] ^= 1; p[item(1)+24] = 0; return p }, disk.ErrCorrupt, "missing"},
		{"block size 0", func(p []byte) []byte { le32(p[value:], 0); return p }, disk.ErrCorrupt, "block size"},
		{"block size 3 MiB", func(p []byte) []byte { le32(p[value:], 3<<20); return p }, disk.ErrCorrupt, "block size"},
		{"block size 512 MiB", func(p []byte) []byte { le32(p[value:], 512<<20); return p }, disk.ErrCorrupt, "block size"},
		{"huge size", func(p []byte) []byte { le64(p[value+8:], 65<<40); return p }, disk.ErrUnsupported, "above the limit"},
		{"negative size", func(p []byte) []byte { le64(p[value+8:], 1<<63); return p }, disk.ErrUnsupported, "above the limit"},
		{"odd size", func(p []byte) []byte { le64(p[value+8:], 1000); return p }, disk.ErrCorrupt, "no multiple"},
		{"more blocks than the table has", func(p []byte) []byte { le64(p[value+8:], 64<<40); return p }, disk.ErrCorrupt, "room for"},
		{"sector size", func(p []byte) []byte { le32(p[value+32:], 520); return p }, disk.ErrCorrupt, "logical sectors"},
		{"differencing without a locator", func(p []byte) []byte { le32(p[value+4:], 2); return p }, disk.ErrCorrupt, "without a parent locator"},
		{"block beyond the end", func(p []byte) []byte { le64(p[bat:], 1<<40|6); return p }, disk.ErrCorrupt, "beyond the end"},
		{"block at the end of the world", func(p []byte) []byte { le64(p[bat:], ^uint64(0)&^7|6); return p }, disk.ErrCorrupt, "beyond the end"},
		{"block on the headers", func(p []byte) []byte { le64(p[bat:], 6); return p }, disk.ErrCorrupt, "overlaps"},
		{"block on the log", func(p []byte) []byte { le64(p[bat:], 1<<20|6); return p }, disk.ErrCorrupt, "overlaps"},
		{"block on the metadata", func(p []byte) []byte { le64(p[bat:], uint64(m.meta)|6); return p }, disk.ErrCorrupt, "overlaps"},
		{"block on the table", func(p []byte) []byte { le64(p[bat:], uint64(bat)|6); return p }, disk.ErrCorrupt, "overlaps"},
		{"one block twice", func(p []byte) []byte { copy(p[bat:bat+8], p[bat+8:]); return p }, disk.ErrCorrupt, "overlaps"},
		{"state 4", func(p []byte) []byte { le64(p[bat:], 4); return p }, disk.ErrCorrupt, "state 4"},
		{"state 5", func(p []byte) []byte { le64(p[bat:], 5); return p }, disk.ErrCorrupt, "state 5"},
		{"partly present without a parent", func(p []byte) []byte { p[bat] |= 7; return p }, disk.ErrCorrupt, "state 7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir, "bad.vhdx", c.edit(bytes.Clone(m.p)))
			disktest.Refused(t, dir, "bad.vhdx", Open, c.want, c.says)
		})
	}
}

// TestHostileChild: the same for what only a differencing image has.
func TestHostileChild(t *testing.T) {
	const size = 2 << 20
	base := spec{size: size, data: disktest.Random(2, size), write: [16]byte{1}}
	child := spec{size: size, data: disktest.Random(1, size), has: disktest.Scattered(9, size/512), child: true, pairs: [][2]string{{"parent_linkage", linkage(1)}, {"relative_path", "base.vhdx"}}}
	m := child.build()
	bitmap := m.bat + 8*m.ratio
	locator := m.meta + 65536 + 8 + 8 + 16 + 4 + 4
	length := m.meta + 32 + 32*5 + 20
	for _, c := range []struct {
		name string
		edit func(p []byte)
		want error
		says string
	}{
		{"no bitmap", func(p []byte) { le64(p[bitmap:], 0) }, disk.ErrCorrupt, "sector bitmap 0 is needed"},
		{"bitmap beyond the end", func(p []byte) { le64(p[bitmap:], 1<<50|6) }, disk.ErrCorrupt, "sector bitmap 0 at"},
		{"bitmap on the headers", func(p []byte) { le64(p[bitmap:], 6) }, disk.ErrCorrupt, "sector bitmap 0 at"},
		{"bitmap on a block", func(p []byte) { copy(p[bitmap+1:bitmap+8], p[m.bat+1:]) }, disk.ErrCorrupt, "overlaps"},
		{"locator of another type", func(p []byte) { p[locator] ^= 1 }, disk.ErrUnsupported, "parent locator of type"},
		{"locator of 65535 entries", func(p []byte) { le16(p[locator+18:], 65535) }, disk.ErrCorrupt, "65535 entries"},
		{"locator of 10 bytes", func(p []byte) { le32(p[length:], 10) }, disk.ErrCorrupt, "locator of 10 bytes"},
		{"locator empty", func(p []byte) { le32(p[length:], 0) }, disk.ErrCorrupt, "locator of 0 bytes"},
		{"key outside", func(p []byte) { le32(p[locator+20:], 1<<31) }, disk.ErrCorrupt, "lies outside"},
		{"value outside", func(p []byte) { le32(p[locator+24:], ^uint32(0)) }, disk.ErrCorrupt, "lies outside"},
		{"value of odd length", func(p []byte) { le16(p[locator+30:], 7) }, disk.ErrCorrupt, "lies outside"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			base.put(t, dir, "base.vhdx")
			p := bytes.Clone(m.p)
			c.edit(p)
			put(t, dir, "bad.vhdx", p)
			disktest.Refused(t, dir, "bad.vhdx", Open, c.want, c.says)
		})
	}
}
