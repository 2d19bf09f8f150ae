// Package xfs reads XFS file systems of version 4 (with version 2 directories)
// and version 5. Facts are those of "XFS Algorithms & Data Structures", 3rd
// edition, and of the kernel's fs/xfs/libxfs/xfs_format.h. The log is not
// replayed: what is read is then the state on disk, and Super says so. Files of
// the realtime device are refused.
package xfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"ascend/internal/guest/vfs"
)

var be = binary.BigEndian

const (
	versionDirV2  = 0x2000
	versionMore   = 0x8000
	feature2Type  = 0x200 // file types in directories, version 4
	incompatType  = 0x1   // the same, version 5
	incompatKnown = 0xff
	incompatNeeds = 0x10 // needs repair
	unwritten     = 1 << 63
)

// FS is an opened file system.
type FS struct {
	r                        io.ReaderAt
	bs, isize, dirBlock      int64
	blocks, root             uint64
	agBlocks, agCount        uint32
	agLog, inodesLog         uint8
	v5, ftype                bool
	super                    vfs.Super
	logStart, logBlocks512   int64
	forkAt, longHdr, dataHdr int
}

// Open opens the file system on r, which is size bytes long.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	b := make([]byte, 512)
	if n, _ := r.ReadAt(b, 0); n < len(b) || string(b[:4]) != "XFSB" {
		return nil, vfs.ErrFormat
	}
	bad := func(what string) (*FS, error) { return nil, fmt.Errorf("%w: XFS %s", vfs.ErrCorrupt, what) }
	f := &FS{
		r: r, bs: int64(be.Uint32(b[4:])), blocks: be.Uint64(b[8:]), root: be.Uint64(b[56:]), agBlocks: be.Uint32(b[84:]), agCount: be.Uint32(b[88:]),
		isize: int64(be.Uint16(b[104:])), inodesLog: b[123], agLog: b[124], forkAt: 100, longHdr: 24, dataHdr: 16,
	}
	version := be.Uint16(b[100:])
	switch {
	case version&15 == 5:
		f.v5, f.forkAt, f.longHdr, f.dataHdr = true, 176, 72, 64
		in := be.Uint32(b[216:])
		if in&^incompatKnown != 0 {
			return nil, fmt.Errorf("XFS %w: incompatible features %#x", vfs.ErrUnsupported, in)
		}
		f.ftype = in&incompatType != 0
		if in&incompatNeeds != 0 {
			f.super.Errors = true
			f.super.Notes = append(f.super.Notes, "the file system asks for xfs_repair")
		}
	case version&15 == 4 && version&versionDirV2 != 0:
		f.ftype = version&versionMore != 0 && be.Uint32(b[200:])&feature2Type != 0
	default:
		return nil, fmt.Errorf("XFS version %d %w", version&15, vfs.ErrUnsupported)
	}
	if f.bs < 512 || f.bs > 65536 || f.bs&(f.bs-1) != 0 || f.isize < 256 || f.isize > 2048 || f.isize > f.bs || f.isize&(f.isize-1) != 0 || f.v5 && f.isize < 512 {
		return bad("sizes")
	}
	if f.inodesLog > 8 || int64(1)<<f.inodesLog != f.bs/f.isize || f.agLog > 31 || f.agBlocks == 0 || uint64(f.agBlocks) > 1<<f.agLog || f.agCount == 0 {
		return bad("allocation groups")
	}
	if f.blocks == 0 || f.blocks > uint64(f.agBlocks)*uint64(f.agCount) || f.blocks > 1<<50 || b[192] > 7 || f.bs<<b[192] > 65536 {
		return bad("super block")
	}
	f.dirBlock = f.bs << b[192]
	f.super.Type, f.super.UUID = "xfs", fmt.Sprintf("%x-%x-%x-%x-%x", b[32:36], b[36:38], b[38:40], b[40:42], b[42:48])
	label, _, _ := strings.Cut(string(b[108:120]), "\x00")
	f.super.Label = strings.ToValidUTF8(label, "?")
	f.super.Size, f.super.Free, f.super.FreeInodes = int64(f.blocks)*f.bs, int64(min(be.Uint64(b[144:]), f.blocks))*f.bs, -1
	if f.super.Size > size {
		f.super.Notes = append(f.super.Notes, "the file system is larger than its volume")
	}
	if start := be.Uint64(b[48:]); start != 0 {
		if at, err := f.pos(start); err == nil {
			f.logStart, f.logBlocks512 = at, int64(be.Uint32(b[96:]))*f.bs/512
			f.log()
		}
	}
	return f, nil
}

// log tells whether the log's last record is that of an unmount; every other end
// leaves work to be replayed. The head is found by the cycle number that each
// block of 512 bytes begins with, as the kernel does (xfs_log_recover.c).
func (f *FS) log() {
	dirty := func() {
		f.super.Dirty = true
		f.super.Notes = append(f.super.Notes, "log not replayed: read as it stands on disk")
	}
	b := make([]byte, 512)
	read := func(i int64) bool { n, _ := f.r.ReadAt(b, f.logStart+i*512); return n == len(b) }
	cycle := func() uint32 {
		if c := be.Uint32(b); c != 0xfeedbabe {
			return c
		}
		return be.Uint32(b[4:])
	}
	if f.logBlocks512 < 2 || !read(0) {
		dirty()
		return
	}
	first := cycle()
	lo, hi := int64(0), f.logBlocks512 // lo has the first block's cycle, hi has not
	for hi-lo > 1 {
		m := (lo + hi) / 2
		if !read(m) {
			dirty()
			return
		}
		if cycle() == first {
			lo = m
		} else {
			hi = m
		}
	}
	for i := lo; i >= 0 && i > lo-2048; i-- {
		if !read(i) || be.Uint32(b) != 0xfeedbabe {
			continue
		}
		one := be.Uint32(b[40:]) == 1
		at := i + max(1, (int64(be.Uint32(b[12:]))+32767)/32768)
		if !one || at >= f.logBlocks512 || !read(at) || b[9]&0x20 == 0 {
			break
		}
		return // an unmount record
	}
	dirty()
}

// Super describes the file system.
func (f *FS) Super() vfs.Super { return f.super }

// FoldsCase is false.
func (f *FS) FoldsCase() bool { return false }

// Root is the root folder.
func (f *FS) Root() (vfs.Node, error) { return f.inode(f.root) }

// pos is where a block stands, in bytes; block is an address that holds the
// allocation group in its upper bits.
func (f *FS) pos(block uint64) (int64, error) {
	ag, in := block>>f.agLog, block&(1<<f.agLog-1)
	if ag >= uint64(f.agCount) || in >= uint64(f.agBlocks) || ag*uint64(f.agBlocks)+in >= f.blocks {
		return 0, fmt.Errorf("%w: XFS block %#x beyond the end", vfs.ErrCorrupt, block)
	}
	return int64(ag*uint64(f.agBlocks)+in) * f.bs, nil
}

func (f *FS) read(p []byte, block uint64, off int64) error {
	at, err := f.pos(block)
	if err != nil {
		return err
	}
	if n, err := f.r.ReadAt(p, at+off); n < len(p) {
		return fmt.Errorf("cannot read XFS block %#x: %w", block, err)
	}
	return nil
}

// Formats of a fork.
const (
	formatDev = iota
	formatLocal
	formatExtents
	formatBtree
)

type node struct {
	f          *FS
	info       vfs.Info
	data, attr fork
	realtime   bool
}

func (f *FS) inode(ino uint64) (*node, error) {
	block := ino >> f.inodesLog
	raw := make([]byte, f.isize)
	if err := f.read(raw, block, int64(ino&(1<<f.inodesLog-1))*f.isize); err != nil {
		return nil, err
	}
	bad := func(what string) (*node, error) {
		return nil, fmt.Errorf("%w: XFS inode %d: %s", vfs.ErrCorrupt, ino, what)
	}
	if raw[0] != 'I' || raw[1] != 'N' {
		return bad("no inode")
	}
	if v := raw[4]; v < 1 || v > 3 || (v == 3) != f.v5 {
		return bad("version")
	}
	if f.v5 && be.Uint64(raw[152:]) != ino {
		return bad("another's number")
	}
	mode := be.Uint16(raw[2:])
	if mode == 0 {
		return nil, fs.ErrNotExist // freed
	}
	n := &node{f: f, realtime: be.Uint16(raw[90:])&1 != 0}
	flags2 := uint64(0)
	if f.v5 {
		flags2 = be.Uint64(raw[120:])
	}
	stamp := func(at int) time.Time {
		if flags2&8 != 0 { // bigtime: nanoseconds since 1901-12-13T20:45:52Z
			v := be.Uint64(raw[at:])
			return time.Unix(int64(v/1e9)-1<<31, int64(v%1e9)).UTC()
		}
		return time.Unix(int64(int32(be.Uint32(raw[at:]))), int64(be.Uint32(raw[at+4:])%1e9)).UTC()
	}
	links := be.Uint32(raw[16:])
	if raw[4] == 1 {
		links = uint32(be.Uint16(raw[6:]))
	}
	n.info = vfs.Info{Mode: vfs.UnixMode(uint32(mode)), Size: int64(be.Uint64(raw[56:])), UID: be.Uint32(raw[8:]), GID: be.Uint32(raw[12:]), ModTime: stamp(40), Inode: ino, Links: links}
	if n.info.Size < 0 {
		return bad("size")
	}
	count, acount := uint64(be.Uint32(raw[76:])), uint64(be.Uint16(raw[80:]))
	if flags2&0x10 != 0 { // large extent counters
		count, acount = be.Uint64(raw[24:]), uint64(be.Uint32(raw[76:]))
	}
	body := raw[f.forkAt:]
	split := int(raw[82]) * 8
	if split > len(body) {
		return bad("fork offset")
	}
	var err error
	if split > 0 {
		if n.attr, err = f.fork(body[split:], raw[83], acount); err != nil {
			return nil, err
		}
		body = body[:split]
	}
	n.data, err = f.fork(body, raw[5], count)
	if err == nil && raw[5] == formatDev {
		n.info.Rdev = be.Uint32(body)
	}
	return n, err
}

func (n *node) Stat() vfs.Info { return n.info }

// Link reads a link: in the inode, or in blocks that version 5 gives headers of 56
// bytes, one for each extent.
func (n *node) Link() (string, error) {
	if n.info.Mode&fs.ModeSymlink == 0 {
		return "", fs.ErrInvalid
	}
	size := n.info.Size
	if size > 1024 {
		return "", fmt.Errorf("%w: an XFS link of %d bytes", vfs.ErrCorrupt, size)
	}
	if n.data.format == formatLocal {
		if size > int64(len(n.data.raw)) {
			return "", fmt.Errorf("%w: XFS link", vfs.ErrCorrupt)
		}
		return string(n.data.raw[:size]), nil
	}
	var out []byte
	for lb := uint64(0); int64(len(out)) < size; {
		phys, count, err := n.data.lookup(lb)
		if err != nil {
			return "", err
		}
		if phys == 0 {
			return "", fmt.Errorf("%w: a hole in an XFS link", vfs.ErrCorrupt)
		}
		b := make([]byte, min(int64(count)*n.f.bs, size+56))
		if err := n.f.read(b, phys, 0); err != nil {
			return "", err
		}
		if n.f.v5 {
			if string(b[:4]) != "XSLM" || len(b) < 56 || int64(be.Uint32(b[8:])) > int64(len(b)-56) || be.Uint32(b[8:]) == 0 {
				return "", fmt.Errorf("%w: XFS link", vfs.ErrCorrupt)
			}
			b = b[56 : 56+be.Uint32(b[8:])]
		}
		out = append(out, b[:min(int64(len(b)), size-int64(len(out)))]...)
		lb += count
	}
	return string(out), nil
}

// Data reads the file's bytes; it is a vfs.Runs too.
func (n *node) Data() (io.ReaderAt, error) {
	if n.realtime {
		return nil, fmt.Errorf("file on the realtime device %w", vfs.ErrUnsupported)
	}
	if n.data.format != formatExtents && n.data.format != formatBtree {
		return nil, fmt.Errorf("%w: XFS file", vfs.ErrCorrupt)
	}
	return n, nil
}

// ReadAt reads the file's bytes.
func (n *node) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at < 0 || at >= n.info.Size {
			return done, io.EOF
		}
		length, phys, err := n.run(at)
		if err != nil {
			return done, err
		}
		want := p[done:min(int64(len(p)), int64(done)+length)]
		if phys == 0 {
			clear(want)
		} else if err := n.f.read(want, phys, at%n.f.bs); err != nil {
			return done, err
		}
		done += len(want)
	}
	return done, nil
}

// run is the run of data or hole that begins at a byte of the file, cut at its
// end; phys 0 is a hole.
func (n *node) run(at int64) (length int64, phys uint64, err error) {
	phys, count, err := n.data.lookup(uint64(at / n.f.bs))
	if err != nil {
		return 0, 0, err
	}
	return min(int64(min(count, 1<<30))*n.f.bs-at%n.f.bs, n.info.Size-at), phys, nil
}

// Run is vfs.Runs.
func (n *node) Run(at int64) (length int64, data bool, err error) {
	length, phys, err := n.run(at)
	return length, phys != 0, err
}
