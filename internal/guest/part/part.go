// Package part reads partition tables: MBR with extended partitions and GPT
// (UEFI Specification 2.10, chapter 5), its backup header included. It is
// bounded and never trusts a table beyond the disk's size.
package part

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"unicode/utf16"
)

// Kind is what a partition type means to us.
type Kind string

// Kinds. The empty value is any other type.
const (
	ESP      Kind = "esp"
	BIOSBoot Kind = "bios-boot" // GRUB's core image on GPT
	LDM      Kind = "ldm"       // Windows dynamic disk
	MSR      Kind = "msr"
	Linux    Kind = "linux"
	LVM      Kind = "lvm"
	RAID     Kind = "raid"
	Swap     Kind = "swap"
	Windows  Kind = "windows" // basic data, NTFS, FAT
	Recovery Kind = "windows-recovery"
	XBootLdr Kind = "xbootldr"
)

// Partition is one entry, in bytes.
type Partition struct {
	Number int    `json:"number"` // as the kernel counts
	Start  int64  `json:"start"`
	Size   int64  `json:"size"`
	Type   string `json:"type"` // "0x83" or a GUID
	Kind   Kind   `json:"kind,omitempty"`
	GUID   string `json:"guid,omitempty"` // PARTUUID
	Name   string `json:"name,omitempty"`
	Active bool   `json:"active,omitempty"`
}

// Table is a disk's partition table.
type Table struct {
	Scheme string `json:"scheme"` // mbr, gpt, none
	Sector int64  `json:"sector"` // bytes of a logical sector
	GUID   string `json:"guid,omitempty"`
	// BootCode tells that the first sector holds code a BIOS would run.
	BootCode   bool        `json:"boot_code,omitempty"`
	BootLoader string      `json:"boot_loader,omitempty"` // grub, windows, syslinux, lilo; told from the code
	Partitions []Partition `json:"partitions,omitempty"`
	Notes      []string    `json:"notes,omitempty"`
}

const maxPartitions = 256

// Read reads the table of a disk of size bytes. A disk without one is not an
// error: its Scheme is "none".
func Read(r io.ReaderAt, size int64) (*Table, error) {
	t := &Table{Scheme: "none", Sector: 512}
	if size < 512 {
		return t, nil
	}
	b := make([]byte, 512)
	if n, err := r.ReadAt(b, 0); n < 512 {
		return nil, fmt.Errorf("cannot read the partition table: %w", err)
	}
	signed := b[510] == 0x55 && b[511] == 0xaa
	if signed {
		t.bootCode(b)
	}
	protective := false
	for i := range 4 {
		protective = protective || signed && b[446+16*i+4] == 0xee
	}
	for _, ss := range []int64{512, 4096} {
		if ok := t.gpt(r, size, ss, protective); ok {
			return t, nil
		}
	}
	if !signed || isVolume(b) {
		return t, nil
	}
	if protective {
		t.note("a protective MBR stands without a readable GPT")
	}
	t.mbr(r, size, b)
	return t, nil
}

func (t *Table) note(f string, a ...any) {
	if len(t.Notes) < 32 {
		t.Notes = append(t.Notes, fmt.Sprintf(f, a...))
	}
}

// isVolume tells a file system's boot sector, which carries the same mark, from
// a table.
func isVolume(b []byte) bool {
	if slices.Contains([]string{"NTFS    ", "-FVE-FS-", "EXFAT   "}, string(b[3:11])) {
		return true
	}
	if !bytes.HasPrefix(b[54:], []byte("FAT")) && !bytes.HasPrefix(b[82:], []byte("FAT32")) {
		return false
	}
	for i := range 4 { // entries that could not be ones
		if b[446+16*i]&0x7f != 0 {
			return true
		}
	}
	return bytes.Equal(b[446:510], make([]byte, 64))
}

func (t *Table) bootCode(b []byte) {
	if b[0] == 0 && bytes.Equal(b[:64], make([]byte, 64)) {
		return
	}
	t.BootCode = true
	for _, m := range []struct{ mark, name string }{
		{"GRUB", "grub"}, {"LILO", "lilo"}, {"SYSLINUX", "syslinux"}, {"EXTLINUX", "syslinux"},
		{"Missing operating system.", "syslinux"}, {"Missing operating system", "windows"},
	} {
		if bytes.Contains(b[:446], []byte(m.mark)) {
			t.BootLoader = m.name
			return
		}
	}
}

func (t *Table) add(p Partition, size int64) {
	if len(t.Partitions) >= maxPartitions {
		return
	}
	if p.Size <= 0 || p.Start < 0 || p.Start >= size {
		t.note("partition %d lies outside the disk", p.Number)
		return
	}
	if p.Size > size-p.Start {
		t.note("partition %d ends %d bytes beyond the disk", p.Number, p.Size-(size-p.Start))
		p.Size = size - p.Start
	}
	for _, q := range t.Partitions {
		if p.Start < q.Start+q.Size && q.Start < p.Start+p.Size {
			t.note("partitions %d and %d overlap", q.Number, p.Number)
		}
	}
	t.Partitions = append(t.Partitions, p)
}

var mbrKinds = map[byte]Kind{0xef: ESP, 0x42: LDM, 0x83: Linux, 0x8e: LVM, 0xfd: RAID, 0x82: Swap, 7: Windows, 0xb: Windows, 0xc: Windows, 6: Windows, 0xe: Windows, 0x27: Recovery}

func extended(t byte) bool { return t == 5 || t == 0xf || t == 0x85 }

func (t *Table) mbr(r io.ReaderAt, size int64, b []byte) {
	t.Scheme = "mbr"
	sig := binary.LittleEndian.Uint32(b[440:])
	t.GUID = fmt.Sprintf("%08x", sig)
	ext := int64(0)
	for i := range 4 {
		e := b[446+16*i:][:16]
		if e[4] == 0 {
			continue
		}
		start, n := int64(binary.LittleEndian.Uint32(e[8:]))*512, int64(binary.LittleEndian.Uint32(e[12:]))*512
		if extended(e[4]) {
			if ext == 0 {
				ext = start
			}
			continue
		}
		t.add(t.mbrPart(i+1, start, n, e), size)
	}
	// The chain of extended tables: each names one partition, relative to
	// itself, and the next table, relative to the first.
	num := 5
	seen := map[int64]bool{}
	for at := ext; at > 0 && at < size && num < maxPartitions; {
		if seen[at] {
			t.note("the chain of extended partitions is a circle")
			return
		}
		seen[at] = true
		s := make([]byte, 512)
		if n, _ := r.ReadAt(s, at); n < 512 || s[510] != 0x55 || s[511] != 0xaa {
			t.note("an extended partition table is unreadable")
			return
		}
		next := int64(0)
		for i := range 2 {
			e := s[446+16*i:][:16]
			start, n := int64(binary.LittleEndian.Uint32(e[8:]))*512, int64(binary.LittleEndian.Uint32(e[12:]))*512
			switch {
			case e[4] == 0 || n == 0:
			case extended(e[4]):
				next = ext + start
			default:
				t.add(t.mbrPart(num, at+start, n, e), size)
				num++
			}
		}
		at = next
	}
}

func (t *Table) mbrPart(num int, start, n int64, e []byte) Partition {
	return Partition{Number: num, Start: start, Size: n, Type: fmt.Sprintf("0x%02x", e[4]), Kind: mbrKinds[e[4]], Active: e[0] == 0x80, GUID: fmt.Sprintf("%s-%02x", t.GUID, num)}
}

var gptKinds = map[string]Kind{
	"c12a7328-f81f-11d2-ba4b-00a0c93ec93b": ESP, "21686148-6449-6e6f-744e-656564454649": BIOSBoot,
	"5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": LDM, "af9b60a0-1431-4f62-bc68-3311714a69ad": LDM,
	"e3c9e316-0b5c-4db8-817d-f92df00215ae": MSR, "0fc63daf-8483-4772-8e79-3d69d8477de4": Linux,
	"e6d6d379-f507-44c2-a23c-238f2a3df928": LVM, "a19d880f-05fc-4d3b-a006-743f0f84911e": RAID,
	"0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": Swap, "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": Windows,
	"de94bba4-06d1-4d40-a16a-bfd50179d6ac": Recovery, "bc13c2ff-59e6-4262-a352-b275fd6f7172": XBootLdr,
	"4f68bce3-e8cd-4db1-96e7-fbcaf984b709": Linux, "44479540-f297-41b2-9af7-d131d5f0458a": Linux,
	"b921b045-1df0-41c3-af44-4c6f280d3fae": Linux, "933ac7e1-2eb4-4f13-b844-0e14e2aef915": Linux,
}

func (t *Table) gpt(r io.ReaderAt, size, ss int64, protective bool) bool {
	if t.gptAt(r, size, ss, ss) {
		return true
	}
	if protective && t.gptAt(r, size, ss, (size/ss-1)*ss) {
		t.note("the primary GPT is damaged; its backup was read")
		return true
	}
	return false
}

func (t *Table) gptAt(r io.ReaderAt, size, ss, at int64) bool {
	h := make([]byte, ss)
	if n, _ := r.ReadAt(h, at); at <= 0 || n < len(h) || string(h[:8]) != "EFI PART" {
		return false
	}
	le := binary.LittleEndian
	hs := int(le.Uint32(h[12:]))
	if hs < 92 || hs > len(h) {
		return false
	}
	sum := le.Uint32(h[16:])
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:hs]) != sum {
		return false
	}
	lba, n, es := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if es < 128 || es > 4096 || n > 1024 || lba == 0 || lba > uint64(size/ss) {
		return false
	}
	tab := make([]byte, n*es)
	if k, _ := r.ReadAt(tab, int64(lba)*ss); k < len(tab) || crc32.ChecksumIEEE(tab) != le.Uint32(h[88:]) {
		return false
	}
	t.Scheme, t.Sector, t.GUID = "gpt", ss, guid(h[56:])
	for i := range int(n) {
		e := tab[i*int(es):][:es]
		typ := guid(e)
		if typ == "00000000-0000-0000-0000-000000000000" {
			continue
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first > uint64(size/ss) || last < first {
			t.note("partition %d lies outside the disk", i+1)
			continue
		}
		last = min(last, uint64(size/ss)*2) // add cuts it and says so
		u := make([]uint16, 0, 36)
		for j := 56; j < 128; j += 2 {
			c := le.Uint16(e[j:])
			if c == 0 {
				break
			}
			u = append(u, c)
		}
		t.add(Partition{
			Number: i + 1, Start: int64(first) * ss, Size: int64(last-first+1) * ss, Type: typ, Kind: gptKinds[typ],
			GUID: guid(e[16:]), Name: strings.ToValidUTF8(string(utf16.Decode(u)), "?"), Active: e[48]&4 != 0,
		}, size)
	}
	return true
}

func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}
