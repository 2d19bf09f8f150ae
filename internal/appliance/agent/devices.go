//go:build linux

package agent

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ascend/internal/appliance/proto"
)

// device finds the node of a device by the names of package proto.
func device(name string) (string, error) {
	rest, ok := strings.CutPrefix(name, "/dev/disk/")
	if !ok {
		if !strings.HasPrefix(name, "/dev/") || strings.Contains(name, "..") {
			return "", fmt.Errorf("%q is no device", name)
		}
		if _, err := os.Stat(name); err != nil {
			return "", err
		}
		return name, nil
	}
	disk, part, _ := strings.Cut(rest, "p")
	serials, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return "", err
	}
	for _, s := range serials {
		if b, err := os.ReadFile(s); err == nil && strings.TrimSpace(string(b)) == "d"+disk {
			node := "/dev/" + filepath.Base(filepath.Dir(s)) + part
			if _, err := os.Stat(node); err != nil {
				return "", err
			}
			return node, nil
		}
	}
	return "", &proto.Error{Code: "not-found", Text: "there is no disk " + disk}
}

// probe lists disks, partitions and volumes.
func (a *Agent) probe() ([]proto.Device, error) {
	entries, err := os.ReadDir("/sys/class/block")
	if err != nil {
		return nil, err
	}
	var out []proto.Device
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, "vd") && !strings.HasPrefix(name, "dm-") {
			continue
		}
		sys := "/sys/class/block/" + name
		d := proto.Device{Disk: -1, Size: 512 * number(sys+"/size"), Part: int(number(sys + "/partition"))}
		owner := sys
		if d.Part > 0 {
			real, err := filepath.EvalSymlinks(sys)
			if err != nil {
				return nil, err
			}
			owner = filepath.Dir(real)
		}
		if b, err := os.ReadFile(owner + "/serial"); err == nil && len(b) > 1 {
			d.Disk, _ = strconv.Atoi(strings.TrimSpace(string(b[1:])))
			d.Path = "/dev/disk/" + strconv.Itoa(d.Disk)
			if d.Part > 0 {
				d.Path += "p" + strconv.Itoa(d.Part)
			}
		} else if b, err := os.ReadFile(sys + "/dm/name"); err == nil {
			d.Path = "/dev/mapper/" + strings.TrimSpace(string(b))
		} else {
			continue
		}
		if f, err := os.Open("/dev/" + name); err == nil {
			d.Type, d.UUID, d.Label = identify(f)
			f.Close()
		}
		out = append(out, d)
	}
	return out, nil
}

func number(file string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}

// identify tells what a device holds by its signatures; the names are blkid's.
// Offsets: ext4 Documentation/filesystems/ext4/super.rst; XFS xfs_format.h; btrfs
// on-disk format; NTFS and FAT boot sectors; LVM2 label; LUKS1/2 header; swap
// linux/swap.h.
func identify(f *os.File) (kind, uuid, label string) {
	b := make([]byte, 0x11000)
	n, err := f.ReadAt(b, 0)
	if n < 4096 && err != nil {
		return "", "", ""
	}
	text := func(off, n int) string {
		s, _, _ := bytes.Cut(b[off:off+n], []byte{0})
		return strings.TrimRight(string(s), " ")
	}
	switch {
	case bytes.HasPrefix(b, []byte("LUKS\xba\xbe")):
		return "crypto_LUKS", text(168, 40), text(24, 48)
	case bytes.Equal(b[3:11], []byte("-FVE-FS-")):
		return "BitLocker", "", ""
	case bytes.Equal(b[3:11], []byte("NTFS    ")):
		return "ntfs", fmt.Sprintf("%016X", binary.LittleEndian.Uint64(b[72:])), ""
	case bytes.HasPrefix(b, []byte("XFSB")):
		return "xfs", guid(b[32:48]), text(108, 12)
	case binary.LittleEndian.Uint16(b[0x438:]) == 0xEF53:
		kind = "ext2"
		compat, incompat := binary.LittleEndian.Uint32(b[0x45c:]), binary.LittleEndian.Uint32(b[0x460:])
		switch {
		case incompat&0x2C0 != 0: // extents, 64-bit, flexible groups
			kind = "ext4"
		case compat&4 != 0:
			kind = "ext3"
		}
		return kind, guid(b[0x468:0x478]), text(0x478, 16)
	case bytes.Equal(b[0x10040:0x10048], []byte("_BHRfS_M")):
		return "btrfs", guid(b[0x10020:0x10030]), text(0x1012b, 256)
	case bytes.Equal(b[0xff6:0x1000], []byte("SWAPSPACE2")):
		return "swap", guid(b[0x40c:0x41c]), text(0x41c, 16)
	}
	for s := range 4 { // the label stands in one of the first four sectors
		if p := b[s*512:]; bytes.HasPrefix(p, []byte("LABELONE")) && bytes.Equal(p[24:32], []byte("LVM2 001")) {
			return "LVM2_member", string(p[32:64]), ""
		}
	}
	for _, fat := range []int{54, 82} {
		if bytes.HasPrefix(b[fat:], []byte("FAT")) && b[510] == 0x55 && b[511] == 0xaa {
			id := b[fat-15:]
			return "vfat", fmt.Sprintf("%04X-%04X", binary.LittleEndian.Uint16(id[2:]), binary.LittleEndian.Uint16(id)), text(fat-11, 11)
		}
	}
	return "", "", ""
}

func guid(b []byte) string {
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// fsOf is the file system to use on a device.
func fsOf(node, asked string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	f, err := os.Open(node)
	if err != nil {
		return "", err
	}
	defer f.Close()
	kind, _, _ := identify(f)
	switch kind {
	case "":
		return "", &proto.Error{Code: "unsupported", Text: "no known file system is on it"}
	case "ext2", "ext3":
		kind = "ext4" // one driver for all three
	case "LVM2_member", "crypto_LUKS", "swap", "BitLocker":
		return "", &proto.Error{Code: "unsupported", Text: "it holds " + kind + ", no file system"}
	}
	return kind, nil
}

func (a *Agent) lvm() ([]string, error) {
	if err := a.mapper("dm_mod", "dm_thin_pool", "dm_snapshot", "dm_raid"); err != nil {
		return nil, err
	}
	out, err := tool(lvmTime, nil, "lvm", "vgchange", "-ay", "--noudevsync", "--config", lvmConfig)
	if err != nil {
		return nil, fmt.Errorf("cannot activate volume groups: %w: %s", err, out)
	}
	names, err := filepath.Glob("/dev/mapper/*")
	var volumes []string
	for _, n := range names {
		if filepath.Base(n) != "control" {
			volumes = append(volumes, n)
		}
	}
	return volumes, err
}

// There is no udev, and the guest's own device filters do not count.
const lvmConfig = `activation{udev_sync=0 udev_rules=0 monitoring=0} devices{use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source="none" hints="none"} backup{backup=0 archive=0} global{event_activation=0 locking_dir="/run/lock"}`

// mapper loads the device mapper; modules beyond the first may be missing.
func (a *Agent) mapper(names ...string) error {
	for i, n := range names {
		if err := a.module(n); err != nil && i == 0 {
			return err
		}
	}
	if _, err := os.Stat("/dev/mapper/control"); err != nil {
		return errors.Join(errors.New("the kernel has no device mapper"), err)
	}
	return nil
}

func (a *Agent) luks(q *proto.LUKS) error {
	if err := a.mapper("dm_mod", "dm_crypt", "aes_generic", "xts", "cbc", "sha256_generic", "sha512_generic", "algif_skcipher", "algif_hash", "aesni_intel"); err != nil {
		return err
	}
	if strings.ContainsAny(q.Name, "/\x00") || strings.HasPrefix(q.Name, "-") || q.Name == "" {
		return errors.New("the name of an opened device must be a plain word")
	}
	node, err := device(q.Device)
	if err != nil {
		return err
	}
	args := []string{"open", "--type", "luks", "--key-file", "-", "--batch-mode", "--disable-external-tokens", node, q.Name}
	if q.ReadOnly {
		args = append(args, "--readonly")
	}
	out, err := tool(luksTime, q.Key, "cryptsetup", args...)
	if exitOf(err) == 2 {
		return &proto.Error{Code: "wrong-key", Text: "no key slot of " + q.Device + " opens with this key"}
	}
	if err != nil {
		return fmt.Errorf("cannot open %s: %w: %s", q.Device, err, out)
	}
	return nil
}
