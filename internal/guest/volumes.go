package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"ascend/internal/disk"
	"ascend/internal/guest/btrfs"
	"ascend/internal/guest/ext"
	"ascend/internal/guest/fat"
	"ascend/internal/guest/luks"
	"ascend/internal/guest/lvm"
	"ascend/internal/guest/ntfs"
	"ascend/internal/guest/part"
	"ascend/internal/guest/vfs"
	"ascend/internal/guest/xfs"
)

// inspector carries the state of one Inspect.
type inspector struct {
	*Inspection
	ctx context.Context
	pvs []*lvm.PV

	keys   [][]byte
	mapped map[string]string // names of crypttab: the container's UUID
}

// ctxReader ends reads when the context does.
type ctxReader struct {
	ctx context.Context
	r   io.ReaderAt
}

func (c ctxReader) ReadAt(p []byte, off int64) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.ReadAt(p, off)
}

const maxGaps = 256

func (in *inspector) gap(code, where, format string, a ...any) {
	if len(in.Gaps) < maxGaps {
		in.Gaps = append(in.Gaps, Gap{code, where, strings.ToValidUTF8(fmt.Sprintf(format, a...), "?")})
	}
}

// volumes reads all partition tables and what is on the partitions, then the
// logical volumes put together of all disks.
func (in *inspector) volumes(disks []disk.Disk) {
	for i, d := range disks {
		r := vfs.NewCache(ctxReader{in.ctx, d}, d.Size())
		t, err := part.Read(r, d.Size())
		if err != nil {
			in.gap("unreadable", fmt.Sprintf("disk%d", i), "%v", err)
			t = &part.Table{Scheme: "none"}
		}
		in.Disks = append(in.Disks, DiskLayout{i, d.Size(), *t})
		if t.Scheme == "none" {
			in.volume(Volume{ID: fmt.Sprintf("disk%d", i), Disk: i, Size: d.Size()}, r)
		}
		for _, p := range t.Partitions {
			v := Volume{ID: fmt.Sprintf("disk%dp%d", i, p.Number), Disk: i, Partition: p.Number, Size: p.Size, PartUUID: p.GUID, part: p.Kind}
			in.volume(v, io.NewSectionReader(r, p.Start, p.Size))
		}
	}
	vgs, err := lvm.Groups(in.pvs)
	if err != nil {
		in.gap("lvm", "physical volumes", "%v", err)
	}
	for _, g := range vgs {
		for j := range g.LVs {
			l := &g.LVs[j]
			v := Volume{ID: g.Name + "/" + l.Name, Disk: -1, Size: l.Size}
			if l.Gap != "" {
				in.gap("lvm", v.ID, "%s", l.Gap)
				v.Content = "unknown"
				in.Volumes = append(in.Volumes, v)
				continue
			}
			in.volume(v, l)
		}
	}
}

func (in *inspector) volume(v Volume, r io.ReaderAt) {
	v.Content = sniff(r, v.Size)
	var err error
	switch v.Content {
	case "ext":
		v.driver, err = driver(ext.Open(r, v.Size))
	case "vfat":
		v.driver, err = driver(fat.Open(r, v.Size))
	case "lvm2":
		var pv *lvm.PV
		if pv, err = lvm.OpenPV(r, v.Size); pv != nil {
			in.pvs = append(in.pvs, pv)
			v.UUID = pv.UUID
		}
	case "luks1", "luks2":
		b := make([]byte, 40)
		if n, _ := r.ReadAt(b, 168); n == len(b) {
			v.UUID = text(b)
		}
		in.Volumes = append(in.Volumes, v)
		in.unlock(v, r)
		return
	case "swap":
		b := make([]byte, 16)
		if n, _ := r.ReadAt(b, 1036); n == len(b) {
			v.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
		}
	case "bitlocker":
		in.gap("bitlocker", v.ID, "BitLocker: cannot be looked into")
	case "ntfs":
		v.driver, err = driver(ntfs.Open(r, v.Size))
	case "xfs":
		v.driver, err = driver(xfs.Open(r, v.Size))
	case "btrfs":
		v.driver, err = driver(btrfs.Open(r, v.Size))
	case "mdraid", "zfs":
		in.gap(v.Content, v.ID, "%s is not read here", v.Content)
	case "unknown":
		if v.part == part.LDM {
			v.Content = "ldm"
		}
	}
	if v.part == part.LDM && v.Content != "ldm" {
		v.Content = "ldm"
	}
	if err != nil {
		in.gap("unreadable", v.ID, "%s: %v", v.Content, err)
	}
	if v.driver != nil {
		s := v.driver.Super()
		v.Super, v.UUID, v.Content = &s, s.UUID, s.Type
	}
	in.Volumes = append(in.Volumes, v)
}

// Unlocked is the volume inside a LUKS container of a UUID, where a key opened it; it
// is the name of its device under /dev/mapper too.
func Unlocked(uuid string) string { return "luks-" + uuid }

// plainUUID is one that can name a device.
var plainUUID = regexp.MustCompile(`^[0-9A-Fa-f-]{8,40}$`)

// KeyForms are the keys that are tried: each as it is, and one that ends a line, as an
// editor leaves a passphrase, without the end too.
func KeyForms(keys [][]byte) (out [][]byte) {
	for _, k := range keys {
		out = append(out, k)
		if short := bytes.TrimRight(k, "\r\n"); len(short) < len(k) {
			out = append(out, short)
		}
	}
	return out
}

// unlock looks into a LUKS container where a key is at hand.
func (in *inspector) unlock(v Volume, r io.ReaderAt) {
	if len(in.keys) == 0 {
		in.gap("luks", v.ID, "encrypted; a key is needed to look inside")
		return
	}
	id := Unlocked(v.UUID)
	if !plainUUID.MatchString(v.UUID) || in.find(id) != nil {
		in.gap("luks", v.ID, "encrypted; its UUID %q is none, or another container's too", v.UUID)
		return
	}
	err := luks.ErrKey
	for _, key := range KeyForms(in.keys) {
		var c *luks.Volume
		if c, err = luks.Open(r, v.Size, key); err == nil {
			in.volume(Volume{ID: id, Disk: v.Disk, Size: c.Size(), Unlocks: v.ID}, vfs.NewCache(c, c.Size()))
			return
		}
		if !errors.Is(err, luks.ErrKey) {
			break
		}
	}
	in.gap("luks", v.ID, "encrypted: %v", err)
}

// driver keeps a nil pointer from becoming an interface that is not nil.
func driver[T vfs.Driver](d T, err error) (vfs.Driver, error) {
	if err != nil {
		return nil, err
	}
	return d, nil
}

func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return strings.ToValidUTF8(s, "?")
}

// sniff tells what a volume holds by its signatures.
func sniff(r io.ReaderAt, size int64) string {
	at := func(off int64, n int) []byte {
		b := make([]byte, n)
		if off < 0 || off+int64(n) > size {
			return b
		}
		_, _ = r.ReadAt(b, off) // what could not be read matches nothing
		return b
	}
	head := at(0, 4096)
	has := func(b []byte, s string) bool { return bytes.HasPrefix(b, []byte(s)) }
	le := binary.LittleEndian
	switch {
	case has(head, "LUKS\xba\xbe\x00\x01"):
		return "luks1"
	case has(head, "LUKS\xba\xbe\x00\x02"):
		return "luks2"
	case has(head[3:], "-FVE-FS-"), has(head[3:], "MSWIN4.1") && bytes.Contains(head[160:176], []byte{0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a}):
		return "bitlocker"
	case has(head[3:], "NTFS    "):
		return "ntfs"
	case has(head, "XFSB"):
		return "xfs"
	}
	for s := 0; s < 2048; s += 512 {
		if has(head[s:], "LABELONE") && has(head[s+24:], "LVM2 001") {
			return "lvm2"
		}
	}
	if has(at(65536+64, 8), "_BHRfS_M") {
		return "btrfs"
	}
	md := uint32(0xa92b4efc)
	tail := (size&^65535 - 65536) // version 0.90; 1.0 stands 8 KiB before the end
	if le.Uint32(at(4096, 4)) == md || le.Uint32(head) == md || le.Uint32(at(tail, 4)) == md || le.Uint32(at((size/512-16)&^7*512, 4)) == md {
		return "mdraid"
	}
	if has(at(4086, 10), "SWAPSPACE2") || has(at(65526, 10), "SWAPSPACE2") {
		return "swap"
	}
	if le.Uint16(at(1024+0x38, 2)) == 0xef53 {
		return "ext"
	}
	if has(at(32769, 5), "CD001") {
		return "iso9660"
	}
	for i := range int64(32) {
		if le.Uint64(at(128<<10+i*1024, 8)) == 0x00bab10c {
			return "zfs"
		}
	}
	if _, err := fat.Open(r, size); err == nil {
		return "vfat"
	} else if errors.Is(err, vfs.ErrCorrupt) {
		return "vfat"
	}
	if bytes.Equal(head, make([]byte, len(head))) {
		return "empty"
	}
	return "unknown"
}

// Driver is the file system on the volume, nil when it is not one that is read
// here. It reads the disks given to Inspect and is of use as long as they are.
func (v *Volume) Driver() vfs.Driver { return v.driver }
