// Package ext reads ext2, ext3 and ext4 file systems. Facts are those of the
// Linux kernel's Documentation/filesystems/ext4. A journal that was not
// replayed is not: what is read is then the state on disk, and Super says so.
package ext

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"ascend/internal/guest/vfs"
)

var le = binary.LittleEndian

const (
	incompatCompression = 0x1
	incompatRecover     = 0x4
	incompatJournalDev  = 0x8
	incompatMetaBG      = 0x10
	incompatExtents     = 0x40
	incompat64          = 0x80
	incompatDirData     = 0x1000
	known               = 0x3ffff
	flagEncrypt         = 0x800
	flagExtents         = 0x80000
	flagInline          = 0x10000000
	maxDir              = 64 << 20 // bytes of a directory
)

// FS is an opened file system.
type FS struct {
	r                io.ReaderAt
	size             int64
	bs               int64
	blocks           uint64
	inodes, ipg, bpg uint32
	isize, dsize     int64
	first, metaFirst uint32
	incompat         uint32
	super            vfs.Super
	descIs64         bool
}

// Open opens the file system on r, which is size bytes long.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	b := make([]byte, 1024)
	if n, err := r.ReadAt(b, 1024); n < len(b) {
		return nil, fmt.Errorf("%w: %w", vfs.ErrFormat, err)
	}
	if le.Uint16(b[0x38:]) != 0xef53 {
		return nil, vfs.ErrFormat
	}
	f := &FS{r: r, size: size, inodes: le.Uint32(b), first: le.Uint32(b[0x14:]), bpg: le.Uint32(b[0x20:]), ipg: le.Uint32(b[0x28:])}
	lg := le.Uint32(b[0x18:])
	if lg > 6 {
		return nil, fmt.Errorf("%w: block size", vfs.ErrCorrupt)
	}
	f.bs = 1024 << lg
	f.incompat = le.Uint32(b[0x60:])
	if f.incompat&(incompatCompression|incompatJournalDev|incompatDirData) != 0 || f.incompat&^known != 0 {
		return nil, fmt.Errorf("ext %w: incompatible features %#x", vfs.ErrUnsupported, f.incompat)
	}
	f.blocks = uint64(le.Uint32(b[4:]))
	free := uint64(le.Uint32(b[0xc:]))
	f.isize, f.dsize = 128, 32
	if le.Uint32(b[0x4c:]) > 0 {
		f.isize = int64(le.Uint16(b[0x58:]))
	}
	if f.incompat&incompat64 != 0 {
		f.blocks |= uint64(le.Uint32(b[0x150:])) << 32
		free |= uint64(le.Uint32(b[0x158:])) << 32
		f.dsize = int64(le.Uint16(b[0xfe:]))
		f.descIs64 = f.dsize >= 64
	}
	f.metaFirst = le.Uint32(b[0x104:])
	if f.isize < 128 || f.isize > f.bs || f.dsize < 32 || f.dsize > f.bs || f.ipg == 0 || f.bpg == 0 || f.inodes == 0 || f.blocks == 0 || f.blocks > 1<<48 {
		return nil, fmt.Errorf("%w: super block", vfs.ErrCorrupt)
	}
	typ := "ext2"
	if le.Uint32(b[0x5c:])&4 != 0 {
		typ = "ext3"
	}
	if f.incompat&(incompatExtents|incompat64|0x200) != 0 || le.Uint32(b[0x64:])&0x78 != 0 {
		typ = "ext4"
	}
	f.super = vfs.Super{
		Type: typ, UUID: fmt.Sprintf("%x-%x-%x-%x-%x", b[0x68:0x6c], b[0x6c:0x6e], b[0x6e:0x70], b[0x70:0x72], b[0x72:0x78]),
		Label: strings.ToValidUTF8(cstr(b[0x78:0x88]), "?"), Size: int64(f.blocks) * f.bs, Free: int64(min(free, f.blocks)) * f.bs, FreeInodes: int64(le.Uint32(b[0x10:])),
	}
	if f.incompat&incompatRecover != 0 {
		f.super.Dirty = true
		f.super.Notes = append(f.super.Notes, "journal not replayed: read as it stands on disk")
	}
	if le.Uint16(b[0x3a:])&2 != 0 {
		f.super.Errors = true
		f.super.Notes = append(f.super.Notes, "the file system has recorded errors")
	}
	if f.super.Size > size {
		f.super.Notes = append(f.super.Notes, "the file system is larger than its volume")
	}
	return f, nil
}

func cstr(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

// Super describes the file system.
func (f *FS) Super() vfs.Super { return f.super }

// FoldsCase is false: casefolded directories are read by their exact names.
func (f *FS) FoldsCase() bool { return false }

// Root is the root folder.
func (f *FS) Root() (vfs.Node, error) { return f.inode(2) }

func (f *FS) read(p []byte, block uint64, off int64) error {
	if block == 0 || block >= f.blocks {
		return fmt.Errorf("%w: block %d beyond the end", vfs.ErrCorrupt, block)
	}
	if n, err := f.r.ReadAt(p, int64(block)*f.bs+off); n < len(p) {
		return fmt.Errorf("cannot read block %d: %w", block, err)
	}
	return nil
}

func (f *FS) inode(ino uint32) (*node, error) {
	if ino == 0 || ino > f.inodes {
		return nil, fmt.Errorf("%w: inode %d", vfs.ErrCorrupt, ino)
	}
	g, i := (ino-1)/f.ipg, (ino-1)%f.ipg
	perBlock := uint32(f.bs / f.dsize)
	block := uint64(f.first) + 1 + uint64(g/perBlock)
	if f.incompat&incompatMetaBG != 0 && g/perBlock >= f.metaFirst {
		// The descriptors of a meta group stand in its first group, behind
		// the super block's copy if the group has one.
		mg := g / perBlock * perBlock
		block = uint64(f.first) + uint64(mg)*uint64(f.bpg)
		if sparse(mg) {
			block++
		}
	}
	d := make([]byte, f.dsize)
	if err := f.read(d, block, int64(g%perBlock)*f.dsize); err != nil {
		return nil, err
	}
	table := uint64(le.Uint32(d[8:]))
	if f.descIs64 {
		table |= uint64(le.Uint32(d[0x28:])) << 32
	}
	off := int64(i) * f.isize
	raw := make([]byte, f.isize)
	if err := f.read(raw, table+uint64(off/f.bs), off%f.bs); err != nil {
		return nil, err
	}
	n := &node{f: f, flags: le.Uint32(raw[0x20:])}
	copy(n.block[:], raw[0x28:])
	n.attrBlock = uint64(le.Uint32(raw[0x68:])) | uint64(le.Uint16(raw[0x76:]))<<32
	if f.isize > 130 {
		n.extra = raw[min(128+int(le.Uint16(raw[0x80:])), len(raw)):]
	}
	mode := le.Uint16(raw)
	n.info = vfs.Info{
		Mode: vfs.UnixMode(uint32(mode)), Size: int64(le.Uint32(raw[4:])), ModTime: stamp(raw), Inode: uint64(ino), Links: uint32(le.Uint16(raw[0x1a:])),
		UID: uint32(le.Uint16(raw[2:])) | uint32(le.Uint16(raw[0x78:]))<<16, GID: uint32(le.Uint16(raw[0x18:])) | uint32(le.Uint16(raw[0x7a:]))<<16,
	}
	if n.info.Mode.IsRegular() || n.info.Mode.IsDir() {
		n.info.Size |= int64(le.Uint32(raw[0x6c:])) << 32
	}
	if n.info.Mode&fs.ModeDevice != 0 {
		n.info.Rdev = le.Uint32(n.block[:])
		if n.info.Rdev == 0 {
			n.info.Rdev = le.Uint32(n.block[4:])
		}
	}
	if n.info.Size < 0 || n.info.Size > 1<<47 {
		return nil, fmt.Errorf("%w: size of inode %d", vfs.ErrCorrupt, ino)
	}
	return n, nil
}

// stamp is the time of the last change: seconds in the first 128 bytes, two more
// bits of them and nanoseconds behind those (i_mtime_extra).
func stamp(raw []byte) time.Time {
	sec, nsec := int64(int32(le.Uint32(raw[0x10:]))), int64(0)
	if len(raw) >= 0x8c && le.Uint16(raw[0x80:]) >= 0xc {
		x := le.Uint32(raw[0x88:])
		sec += int64(x&3) << 32
		nsec = int64(x>>2) % 1e9
	}
	return time.Unix(sec, nsec).UTC()
}

func sparse(g uint32) bool {
	if g <= 1 {
		return true
	}
	for _, b := range []uint32{3, 5, 7} {
		p := b
		for p < g && p < 1<<28 {
			p *= b
		}
		if p == g {
			return true
		}
	}
	return false
}
