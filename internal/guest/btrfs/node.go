package btrfs

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"ascend/internal/guest/vfs"
)

// node is a file, folder or link of a subvolume.
type node struct {
	tree  tree
	inode uint64
	info  vfs.Info
}

func (t tree) inode(n uint64) (*node, error) {
	k, d, ok, err := t.floor(key{n, typeInode, 0})
	if err != nil {
		return nil, err
	}
	if !ok || k.object != n || k.typ != typeInode || len(d) < 160 {
		return nil, corrupt("inode %d of tree %d is not there", n, t.id)
	}
	size := le.Uint64(d[16:])
	if size > 1<<62 {
		return nil, corrupt("inode %d of %d bytes", n, size)
	}
	return &node{t, n, vfs.Info{
		Mode: vfs.UnixMode(le.Uint32(d[52:])), Size: int64(size), UID: le.Uint32(d[44:]), GID: le.Uint32(d[48:]),
		ModTime: time.Unix(int64(le.Uint64(d[136:])), int64(le.Uint32(d[144:])%1e9)).UTC(),
		Inode:   t.id<<40 | n&(1<<40-1), Links: le.Uint32(d[40:]), Rdev: uint32(le.Uint64(d[56:])),
	}}, nil
}

// Stat implements vfs.Node.
func (n *node) Stat() vfs.Info {
	i := n.info
	if i.Mode.IsDir() {
		i.Size = 0 // twice the length of its names
	}
	return i
}

// dirent is one name, of a folder or an attribute.
type dirent struct {
	at   key
	name string
	data []byte
}

// entries reads what a directory item or an attribute's item holds: more than one
// where their hashes are alike.
func entries(d []byte, yield func(dirent) error) error {
	for len(d) > 0 {
		if len(d) < 30 {
			return corrupt("directory item")
		}
		data, name := int(le.Uint16(d[25:])), int(le.Uint16(d[27:]))
		if 30+name+data > len(d) {
			return corrupt("directory item")
		}
		if err := yield(dirent{keyOf(d), string(d[30 : 30+name]), d[30+name : 30+name+data]}); err != nil {
			return err
		}
		d = d[30+name+data:]
	}
	return nil
}

// List implements vfs.Node.
func (n *node) List() ([]vfs.Entry, error) {
	if !n.info.Mode.IsDir() {
		return nil, fs.ErrInvalid
	}
	var out []vfs.Entry
	err := n.tree.each(key{n.inode, typeDir, 0}, key{n.inode, typeDir, 1<<64 - 1}, func(_ key, d []byte) error {
		return entries(d, func(e dirent) error {
			if len(out) >= vfs.MaxEntries {
				return corrupt("folder of more than %d entries", vfs.MaxEntries)
			}
			out = append(out, vfs.Entry{Name: e.name, Open: func() (vfs.Node, error) {
				switch e.at.typ {
				case typeInode:
					return n.tree.inode(e.at.object)
				case typeRoot:
					return n.tree.fs.rootOf(e.at.object)
				}
				return nil, corrupt("entry %q", e.name)
			}})
			return nil
		})
	})
	return out, err
}

// Link implements vfs.Node.
func (n *node) Link() (string, error) {
	if n.info.Mode&fs.ModeSymlink == 0 {
		return "", fs.ErrInvalid
	}
	if n.info.Size > 4096 {
		return "", corrupt("link of %d bytes", n.info.Size)
	}
	b := make([]byte, n.info.Size)
	if k, err := (&data{n: n}).ReadAt(b, 0); k < len(b) {
		return "", err
	}
	return string(b), nil
}

// XAttrs implements vfs.Attributed.
func (n *node) XAttrs() (map[string][]byte, error) {
	out := map[string][]byte{}
	err := n.tree.each(key{n.inode, typeXattr, 0}, key{n.inode, typeXattr, 1<<64 - 1}, func(_ key, d []byte) error {
		return entries(d, func(e dirent) error {
			if len(out) > 4096 {
				return corrupt("attributes of inode %d", n.inode)
			}
			out[e.name] = bytes.Clone(e.data)
			return nil
		})
	})
	return out, err
}

// Data implements vfs.Node.
func (n *node) Data() (io.ReaderAt, error) {
	if !n.info.Mode.IsRegular() {
		return nil, fs.ErrInvalid
	}
	return &data{n: n}, nil
}

// data reads a file.
type data struct {
	n    *node
	mu   sync.Mutex
	last uint64 // address of the compressed extent that was read last
	text []byte
}

// extent is where a run of a file's bytes is.
type extent struct {
	off, length    int64
	kind           uint8 // inline, regular, preallocated
	compression    uint8
	inline         []byte
	disk, diskSize uint64
	from           uint64 // offset within what the extent holds
	ram            uint64
}

const (
	inline   = 0
	regular  = 1
	prealloc = 2
	// maxExtent is what is kept in memory of a compressed extent (BTRFS_MAX_UNCOMPRESSED is
	// 128 KiB).
	maxExtent = 1 << 20
)

// find is the extent that holds a byte; one of a hole has no kind: length is then
// how far the hole reaches at least.
func (d *data) find(at int64) (e extent, hole bool, err error) {
	n := d.n
	k, b, ok, err := n.tree.floor(key{n.inode, typeExtent, uint64(at)})
	if err != nil {
		return e, false, err
	}
	if ok && k.object == n.inode && k.typ == typeExtent {
		if e, err = parseExtent(k, b); err != nil {
			return e, false, err
		}
		if at < e.off+e.length {
			return e, e.kind != inline && e.disk == 0 || e.kind == prealloc, nil
		}
	}
	e = extent{off: at, length: n.info.Size - at}
	stop := errors.New("found")
	err = n.tree.each(key{n.inode, typeExtent, uint64(at) + 1}, key{n.inode, typeExtent, 1<<64 - 1}, func(k key, _ []byte) error {
		e.length = min(e.length, int64(k.offset&(1<<62-1))-at)
		return stop
	})
	if errors.Is(err, stop) {
		err = nil
	}
	return e, true, err
}

func parseExtent(k key, b []byte) (extent, error) {
	if len(b) < 21 || k.offset > 1<<62 {
		return extent{}, corrupt("extent")
	}
	e := extent{off: int64(k.offset), ram: le.Uint64(b[8:]), compression: b[16], kind: b[20]}
	if b[17] != 0 || b[18] != 0 || b[19] != 0 {
		return e, fmt.Errorf("btrfs %w: an encrypted extent", vfs.ErrUnsupported)
	}
	switch {
	case e.kind == inline:
		e.inline, e.length = b[21:], int64(e.ram&(1<<62-1))
		if e.length > maxExtent || e.compression == 0 && e.length > int64(len(e.inline)) {
			return e, corrupt("inline extent of %d bytes", e.length)
		}
	case e.kind > prealloc || len(b) < 53:
		return e, corrupt("extent")
	default:
		e.disk, e.diskSize, e.from, e.length = le.Uint64(b[21:]), le.Uint64(b[29:]), le.Uint64(b[37:]), int64(le.Uint64(b[45:])&(1<<62-1))
	}
	if e.length <= 0 || e.off+e.length < 0 {
		return e, corrupt("extent of %d bytes", e.length)
	}
	return e, nil
}

// Run implements vfs.Runs.
func (d *data) Run(at int64) (int64, bool, error) {
	e, hole, err := d.find(at)
	if err != nil {
		return 0, false, err
	}
	return max(1, min(e.off+e.length, d.n.info.Size)-at), !hole, nil
}

// ReadAt implements io.ReaderAt.
func (d *data) ReadAt(p []byte, off int64) (int, error) {
	size := d.n.info.Size
	if off < 0 || off >= size {
		return 0, io.EOF
	}
	want := len(p)
	p = p[:min(int64(want), size-off)]
	done := 0
	for len(p) > 0 {
		e, hole, err := d.find(off)
		if err != nil {
			return done, err
		}
		k := int(min(int64(len(p)), e.off+e.length-off))
		if k <= 0 {
			return done, corrupt("extents of inode %d", d.n.inode)
		}
		if hole {
			clear(p[:k])
		} else if err := d.content(p[:k], &e, uint64(off-e.off)); err != nil {
			return done, err
		}
		p, off, done = p[k:], off+int64(k), done+k
	}
	if done < want {
		return done, io.EOF
	}
	return done, nil
}

// content reads an extent from a byte of what it holds.
func (d *data) content(p []byte, e *extent, at uint64) error {
	if e.compression == 0 {
		if e.kind == inline {
			copy(p, e.inline[at:])
			return nil
		}
		logical := e.disk + e.from + at
		if e.from+at+uint64(len(p)) > e.diskSize || logical < e.disk {
			return corrupt("extent outside of its disk extent")
		}
		return d.n.tree.fs.read(p, logical)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.text == nil || e.kind == inline || d.last != e.disk {
		packed := e.inline
		if e.kind != inline {
			if e.diskSize > maxExtent || e.ram > maxExtent {
				return corrupt("compressed extent of %d bytes", e.diskSize)
			}
			packed = make([]byte, e.diskSize)
			if err := d.n.tree.fs.read(packed, e.disk); err != nil {
				return err
			}
		}
		text, err := unpack(e.compression, packed, int(e.ram))
		if err != nil {
			return err
		}
		d.text, d.last = text, e.disk
	}
	at += e.from
	if at+uint64(len(p)) < at || at+uint64(len(p)) > uint64(len(d.text)) {
		return corrupt("extent outside of what it holds")
	}
	copy(p, d.text[at:])
	return nil
}

func unpack(how uint8, packed []byte, size int) ([]byte, error) {
	var r io.Reader
	switch how {
	case 1:
		z, err := zlib.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, corrupt("zlib: %v", err)
		}
		r = z
	case 3:
		z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20), zstd.IgnoreChecksum(false))
		if err != nil {
			return nil, corrupt("zstd: %v", err)
		}
		defer z.Close()
		r = z
	default:
		return nil, fmt.Errorf("btrfs %w: compression %d (LZO is 2)", vfs.ErrUnsupported, how)
	}
	b := make([]byte, size)
	// What was packed may end before its last sector: the rest is zeros.
	if _, err := io.ReadFull(r, b); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !errors.Is(err, zstd.ErrMagicMismatch) {
		return nil, corrupt("compressed extent: %v", err)
	}
	return b, nil
}
