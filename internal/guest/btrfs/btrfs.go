// Package btrfs reads btrfs file systems that lie on one device: profiles single and
// DUP, and the copy of a mirror that is at hand. Facts are those of the kernel's
// include/uapi/linux/btrfs_tree.h and of the on-disk format that btrfs-progs
// documents. The log tree is not replayed: what is read is the last transaction, and
// Super says so. A subvolume is seen as a folder of the one that holds it.
package btrfs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"sync"

	"ascend/internal/guest/vfs"
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const (
	superAt    = 0x10000
	headerSize = 101
	itemSize   = 25
	ptrSize    = 33
	maxCached  = 256
	maxChunks  = 1 << 20

	rootTree = 1
	fsTree   = 5

	typeInode   = 1
	typeXattr   = 24
	typeDirItem = 84
	typeDir     = 96
	typeExtent  = 108
	typeRoot    = 132
	typeChunk   = 228

	striped = 0x8 | 0x40 | 0x80 | 0x100 // RAID0, 10, 5, 6

	// MIXED_BACKREF, DEFAULT_SUBVOL, MIXED_GROUPS, COMPRESS_LZO, COMPRESS_ZSTD, BIG_METADATA,
	// EXTENDED_IREF, RAID56, SKINNY_METADATA, NO_HOLES, METADATA_UUID, RAID1C34: none
	// changes what is read here.
	known = 0xfff
)

// key orders the items of a tree.
type key struct {
	object uint64
	typ    uint8
	offset uint64
}

func keyOf(b []byte) key { return key{le.Uint64(b), b[8], le.Uint64(b[9:])} }

func (k key) less(o key) bool {
	switch {
	case k.object != o.object:
		return k.object < o.object
	case k.typ != o.typ:
		return k.typ < o.typ
	}
	return k.offset < o.offset
}

type chunk struct{ logical, length, physical uint64 }

// FS is an opened file system; Root is that of the top level.
type FS struct {
	r        io.ReaderAt
	size     int64
	nodeSize int64
	sumType  uint16
	chunks   []chunk // by logical address
	roots    tree
	super    vfs.Super

	mu    sync.Mutex
	nodes map[uint64][]byte
	order []uint64
}

// tree is one tree of the file system.
type tree struct {
	fs    *FS
	id    uint64
	node  uint64
	level uint8
	top   uint64 // inode of its root folder
}

func corrupt(format string, a ...any) error {
	return fmt.Errorf("btrfs: %w: %s", vfs.ErrCorrupt, fmt.Sprintf(format, a...))
}

// Open opens the file system on r, which is size bytes long.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	b := make([]byte, 4096)
	if n, err := r.ReadAt(b, superAt); n < len(b) {
		return nil, fmt.Errorf("%w: %w", vfs.ErrFormat, err)
	}
	if string(b[0x40:0x48]) != "_BHRfS_M" {
		return nil, vfs.ErrFormat
	}
	f := &FS{r: r, size: size, nodeSize: int64(le.Uint32(b[0x94:])), sumType: le.Uint16(b[0xc4:]), nodes: map[uint64][]byte{}}
	if f.sumType == 0 && crc32.Checksum(b[32:], castagnoli) != le.Uint32(b) {
		return nil, corrupt("checksum of the super block")
	}
	if f.nodeSize < 4096 || f.nodeSize > 65536 || f.nodeSize&(f.nodeSize-1) != 0 {
		return nil, corrupt("nodes of %d bytes", f.nodeSize)
	}
	if x := le.Uint64(b[0xbc:]) &^ known; x != 0 {
		return nil, fmt.Errorf("btrfs %w: incompatible features %#x", vfs.ErrUnsupported, x)
	}
	total, used := le.Uint64(b[0x70:]), le.Uint64(b[0x78:])
	f.super = vfs.Super{
		Type: "btrfs", UUID: fmt.Sprintf("%x-%x-%x-%x-%x", b[0x20:0x24], b[0x24:0x26], b[0x26:0x28], b[0x28:0x2a], b[0x2a:0x30]),
		Label: strings.ToValidUTF8(cstr(b[0x12b:0x22b]), "?"), Size: int64(total & (1<<62 - 1)), Free: int64((total - min(used, total)) & (1<<62 - 1)), FreeInodes: -1,
	}
	if le.Uint64(b[0x60:]) != 0 {
		f.super.Dirty = true
		f.super.Notes = append(f.super.Notes, "log not replayed: read as of the last transaction")
	}
	if n := le.Uint64(b[0x88:]); n != 1 {
		f.super.Notes = append(f.super.Notes, fmt.Sprintf("the file system is on %d devices, of which one is read", n))
	}
	device := le.Uint64(b[0xc9:])
	if err := f.systemChunks(b[0x32b:], int(le.Uint32(b[0xa0:])), device); err != nil {
		return nil, err
	}
	chunks := tree{fs: f, id: 3, node: le.Uint64(b[0x58:]), level: b[0xc7]}
	err := chunks.each(key{256, typeChunk, 0}, key{256, typeChunk, 1<<64 - 1}, func(k key, d []byte) error {
		_, err := f.chunk(k.offset, d, device)
		return err
	})
	if err != nil {
		return nil, err
	}
	f.roots = tree{fs: f, id: rootTree, node: le.Uint64(b[0x50:]), level: b[0xc6]}
	if _, err := f.subvolume(fsTree); err != nil {
		return nil, err
	}
	return f, nil
}

func cstr(b []byte) string { s, _, _ := strings.Cut(string(b), "\x00"); return s }

// systemChunks reads the super block's own array: key, chunk, key, chunk, …
func (f *FS) systemChunks(b []byte, n int, device uint64) error {
	if n > 2048 || n > len(b) {
		return corrupt("system chunks")
	}
	for b = b[:n]; len(b) >= 17+48; {
		k := keyOf(b)
		size, err := f.chunk(k.offset, b[17:], device)
		if err != nil {
			return err
		}
		b = b[17+size:]
	}
	return nil
}

// chunk adds a chunk's place on our device and tells its item's length.
func (f *FS) chunk(logical uint64, b []byte, device uint64) (int, error) {
	if len(b) < 48 {
		return 0, corrupt("chunk")
	}
	length, kind, stripes := le.Uint64(b), le.Uint64(b[24:]), int(le.Uint16(b[44:]))
	size := 48 + 32*stripes
	if size > len(b) || stripes == 0 || length == 0 || logical+length < logical {
		return 0, corrupt("chunk")
	}
	if len(f.chunks) >= maxChunks {
		return 0, corrupt("too many chunks")
	}
	for i := range stripes {
		s := b[48+32*i:]
		if le.Uint64(s) == device && kind&striped == 0 {
			c := chunk{logical, length, le.Uint64(s[8:])}
			at := len(f.chunks)
			for at > 0 && f.chunks[at-1].logical > logical {
				at--
			}
			if at > 0 && f.chunks[at-1].logical == logical { // the system's are in the tree too
				return size, nil
			}
			f.chunks = append(f.chunks, chunk{})
			copy(f.chunks[at+1:], f.chunks[at:])
			f.chunks[at] = c
			break
		}
	}
	return size, nil
}

// read reads at a logical address.
func (f *FS) read(p []byte, logical uint64) error {
	for len(p) > 0 {
		lo, hi := 0, len(f.chunks)
		for lo < hi {
			if m := (lo + hi) / 2; f.chunks[m].logical <= logical {
				lo = m + 1
			} else {
				hi = m
			}
		}
		if lo == 0 || logical-f.chunks[lo-1].logical >= f.chunks[lo-1].length {
			return fmt.Errorf("btrfs %w: address %#x is on another device or striped", vfs.ErrUnsupported, logical)
		}
		c := f.chunks[lo-1]
		in := logical - c.logical
		n := min(uint64(len(p)), c.length-in)
		at := c.physical + in
		if at < c.physical || at > uint64(f.size) || uint64(f.size)-at < n {
			return corrupt("address %#x lies outside of the device", logical)
		}
		if k, err := f.r.ReadAt(p[:n], int64(at)); uint64(k) < n {
			return fmt.Errorf("btrfs: cannot read: %w", err)
		}
		p, logical = p[n:], logical+n
	}
	return nil
}

// block is a node of a tree, checked.
func (f *FS) block(logical uint64, level uint8) ([]byte, error) {
	f.mu.Lock()
	b := f.nodes[logical]
	f.mu.Unlock()
	if b == nil {
		b = make([]byte, f.nodeSize)
		if err := f.read(b, logical); err != nil {
			return nil, err
		}
		if f.sumType == 0 && crc32.Checksum(b[32:], castagnoli) != le.Uint32(b) {
			return nil, corrupt("checksum of node %#x", logical)
		}
		f.mu.Lock()
		if len(f.order) >= maxCached {
			delete(f.nodes, f.order[0])
			f.order = f.order[1:]
		}
		f.nodes[logical] = b
		f.order = append(f.order, logical)
		f.mu.Unlock()
	}
	size := itemSize
	if level > 0 {
		size = ptrSize
	}
	if n := int64(le.Uint32(b[96:])); le.Uint64(b[48:]) != logical || b[100] != level || level > 7 || headerSize+n*int64(size) > f.nodeSize {
		return nil, corrupt("node %#x", logical)
	}
	return b, nil
}

// item is the key and data of a leaf's item.
func item(b []byte, i int) (key, []byte, error) {
	h := b[headerSize+i*itemSize:]
	at, n := int64(le.Uint32(h[17:]))+headerSize, int64(le.Uint32(h[21:]))
	if at+n > int64(len(b)) {
		return key{}, nil, corrupt("item outside of its leaf")
	}
	return keyOf(h), b[at : at+n], nil
}

// each calls yield for the items from low to high, in order.
func (t tree) each(low, high key, yield func(key, []byte) error) error {
	return t.walk(t.node, t.level, low, high, yield)
}

func (t tree) walk(node uint64, level uint8, low, high key, yield func(key, []byte) error) error {
	b, err := t.fs.block(node, level)
	if err != nil {
		return err
	}
	n := int(le.Uint32(b[96:]))
	for i := range n {
		if level == 0 {
			k, d, err := item(b, i)
			if err != nil {
				return err
			}
			if high.less(k) {
				return nil
			}
			if !k.less(low) {
				if err := yield(k, d); err != nil {
					return err
				}
			}
			continue
		}
		p := b[headerSize+i*ptrSize:]
		if high.less(keyOf(p)) {
			return nil
		}
		if i+1 < n && !low.less(keyOf(b[headerSize+(i+1)*ptrSize:])) {
			continue // all of it is before the next one's first
		}
		if err := t.walk(le.Uint64(p[17:]), level-1, low, high, yield); err != nil {
			return err
		}
	}
	return nil
}

// floor is the last item that is not after k.
func (t tree) floor(k key) (key, []byte, bool, error) {
	node := t.node
	for level := t.level; ; level-- {
		b, err := t.fs.block(node, level)
		if err != nil {
			return key{}, nil, false, err
		}
		size := itemSize
		if level > 0 {
			size = ptrSize
		}
		lo, hi := 0, int(le.Uint32(b[96:]))
		for lo < hi {
			if m := (lo + hi) / 2; k.less(keyOf(b[headerSize+m*size:])) {
				hi = m
			} else {
				lo = m + 1
			}
		}
		if lo == 0 {
			return key{}, nil, false, nil
		}
		if level == 0 {
			at, d, err := item(b, lo-1)
			return at, d, err == nil, err
		}
		node = le.Uint64(b[headerSize+(lo-1)*ptrSize+17:])
	}
}

// subvolume opens the tree of a subvolume.
func (f *FS) subvolume(id uint64) (tree, error) {
	k, d, ok, err := f.roots.floor(key{id, typeRoot, 1<<64 - 1})
	if err != nil {
		return tree{}, err
	}
	if !ok || k.object != id || k.typ != typeRoot || len(d) < 239 {
		return tree{}, corrupt("subvolume %d is not there", id)
	}
	return tree{fs: f, id: id, top: le.Uint64(d[168:]), node: le.Uint64(d[176:]), level: d[238]}, nil
}

// Root implements vfs.Driver.
func (f *FS) Root() (vfs.Node, error) { return f.rootOf(fsTree) }

func (f *FS) rootOf(id uint64) (vfs.Node, error) {
	t, err := f.subvolume(id)
	if err != nil {
		return nil, err
	}
	return t.inode(t.top)
}

// Super implements vfs.Driver.
func (f *FS) Super() vfs.Super { return f.super }

// FoldsCase implements vfs.Driver.
func (f *FS) FoldsCase() bool { return false }

// view is the file system from one of its subvolumes.
type view struct {
	*FS
	id uint64
}

func (v view) Root() (vfs.Node, error) { return v.rootOf(v.id) }

// Default is the file system as it is mounted without options.
func (f *FS) Default() (vfs.Driver, error) {
	id := uint64(fsTree)
	err := f.roots.each(key{6, typeDirItem, 0}, key{6, typeDirItem, 1<<64 - 1}, func(_ key, d []byte) error {
		return entries(d, func(e dirent) error {
			if e.name == "default" && e.at.typ == typeRoot {
				id = e.at.object
			}
			return nil
		})
	})
	return view{f, id}, err
}

// Subvolume is the file system as it is mounted with subvol=name.
func (f *FS) Subvolume(name string) (vfs.Driver, error) {
	n, _, err := vfs.NewTree(f).Node("/"+name, false)
	if err != nil {
		return nil, err
	}
	x, ok := n.(*node)
	if !ok || x.inode != x.tree.top {
		return nil, fmt.Errorf("btrfs: %q is no subvolume", name)
	}
	return view{f, x.tree.id}, nil
}
