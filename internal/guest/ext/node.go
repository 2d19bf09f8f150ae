package ext

import (
	"fmt"
	"io"
	"io/fs"

	"ascend/internal/guest/vfs"
)

type node struct {
	f     *FS
	info  vfs.Info
	flags uint32
	block [60]byte
	// Where extended attributes stand: behind the inode's fields, and in a block.
	extra     []byte
	attrBlock uint64
}

func (n *node) Stat() vfs.Info { return n.info }

func (n *node) Link() (string, error) {
	if n.info.Mode&fs.ModeSymlink == 0 {
		return "", fs.ErrInvalid
	}
	if n.flags&flagEncrypt != 0 {
		return "", fmt.Errorf("encrypted link %w", vfs.ErrUnsupported)
	}
	if n.info.Size < 60 && n.flags&flagExtents == 0 {
		return string(n.block[:n.info.Size]), nil
	}
	if n.info.Size > 4096 {
		return "", fmt.Errorf("%w: a link of %d bytes", vfs.ErrCorrupt, n.info.Size)
	}
	b := make([]byte, n.info.Size)
	if k, err := n.ReadAt(b, 0); k < len(b) {
		return "", err
	}
	return string(b), nil
}

func (n *node) Data() (io.ReaderAt, error) {
	if n.flags&flagEncrypt != 0 {
		return nil, fmt.Errorf("encrypted file %w", vfs.ErrUnsupported)
	}
	if n.flags&flagInline != 0 && n.info.Size > int64(len(n.block)) {
		return nil, fmt.Errorf("inline data of more than 60 bytes %w", vfs.ErrUnsupported)
	}
	return n, nil
}

func (n *node) List() ([]vfs.Entry, error) {
	if !n.info.Mode.IsDir() {
		return nil, fs.ErrInvalid
	}
	if n.flags&(flagInline|flagEncrypt) != 0 {
		return nil, fmt.Errorf("inline or encrypted directory %w", vfs.ErrUnsupported)
	}
	if n.info.Size > maxDir {
		return nil, fmt.Errorf("%w: a directory of %d bytes", vfs.ErrCorrupt, n.info.Size)
	}
	var out []vfs.Entry
	b := make([]byte, n.f.bs)
	for at := int64(0); at < n.info.Size; at += n.f.bs {
		if k, err := n.ReadAt(b, at); k < len(b) && int64(k) < n.info.Size-at {
			return nil, err
		}
		// Index blocks of a hashed directory look like unused entries.
		for p := 0; p+8 <= len(b); {
			ino, rl, nl := le.Uint32(b[p:]), int(le.Uint16(b[p+4:])), int(b[p+6])
			if rl == 0xffff || rl == 0 {
				rl = len(b) - p
			}
			if rl < 8 || rl%4 != 0 || p+rl > len(b) || ino != 0 && 8+nl > rl {
				return nil, fmt.Errorf("%w: directory entry", vfs.ErrCorrupt)
			}
			if name := b[p+8 : p+8+nl*min(int(ino), 1)]; ino != 0 && nl > 0 && string(name) != "." && string(name) != ".." {
				if len(out) >= vfs.MaxEntries {
					return nil, fmt.Errorf("%w: too many directory entries", vfs.ErrCorrupt)
				}
				out = append(out, vfs.Entry{Name: string(name), Open: func() (vfs.Node, error) { return n.f.inode(ino) }})
			}
			p += rl
		}
	}
	return out, nil
}

// ReadAt reads the file's bytes.
func (n *node) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at < 0 || at >= n.info.Size {
			return done, io.EOF
		}
		want := p[done:min(int64(len(p)), int64(done)+n.info.Size-at)]
		if n.flags&flagInline != 0 {
			if at >= int64(len(n.block)) {
				return done, vfs.ErrUnsupported
			}
			done += copy(want, n.block[at:])
			continue
		}
		lb := uint64(at / n.f.bs)
		phys, count, err := n.lookup(lb)
		if err != nil {
			return done, err
		}
		in := at % n.f.bs
		want = want[:min(int64(len(want)), int64(min(count, 1<<24))*n.f.bs-in)]
		if phys == 0 {
			clear(want)
		} else {
			if phys+count > n.f.blocks {
				return done, fmt.Errorf("%w: extent beyond the end", vfs.ErrCorrupt)
			}
			if err := n.f.read(want, phys, in); err != nil {
				return done, err
			}
		}
		done += len(want)
	}
	return done, nil
}

// Run is vfs.Runs.
func (n *node) Run(at int64) (length int64, data bool, err error) {
	if n.flags&flagInline != 0 {
		return n.info.Size - at, true, nil
	}
	phys, count, err := n.lookup(uint64(at / n.f.bs))
	if err != nil {
		return 0, false, err
	}
	return min(int64(min(count, 1<<30))*n.f.bs-at%n.f.bs, n.info.Size-at), phys != 0, nil
}

// lookup maps a logical block to the run that begins there; physical 0 is a
// hole.
func (n *node) lookup(lb uint64) (phys, count uint64, err error) {
	if n.flags&flagExtents != 0 {
		return n.extent(lb)
	}
	ppb := uint64(n.f.bs / 4)
	if lb < 12 {
		return uint64(le.Uint32(n.block[lb*4:])), 1, nil
	}
	lb -= 12
	span := uint64(1)
	for level := range 3 {
		if lb < span*ppb {
			b := uint64(le.Uint32(n.block[(12+level)*4:]))
			for ; b != 0; span /= ppb {
				var w [4]byte
				if err := n.f.read(w[:], b, int64(lb/span*4)); err != nil {
					return 0, 0, err
				}
				b = uint64(le.Uint32(w[:]))
				lb %= span
				if span == 1 {
					return b, 1, nil
				}
			}
			return 0, 1, nil
		}
		lb -= span * ppb
		span *= ppb
	}
	return 0, 0, fmt.Errorf("%w: block beyond the map", vfs.ErrCorrupt)
}

func (n *node) extent(lb uint64) (phys, count uint64, err error) {
	b := n.block[:]
	end := uint64(1) << 32 // what the node covers ends here
	for depth := -1; ; {
		if le.Uint16(b) != 0xf30a {
			return 0, 0, fmt.Errorf("%w: extent node", vfs.ErrCorrupt)
		}
		num, d := int(le.Uint16(b[2:])), int(le.Uint16(b[6:]))
		if d > 5 || depth >= 0 && d != depth-1 || 12+num*12 > len(b) {
			return 0, 0, fmt.Errorf("%w: extent node", vfs.ErrCorrupt)
		}
		depth = d
		hit := -1
		for i := range num {
			first := uint64(le.Uint32(b[12+12*i:]))
			if first > lb {
				end = min(end, first)
				break
			}
			hit = i
		}
		if hit < 0 {
			return 0, end - lb, nil
		}
		e := b[12+12*hit:]
		first := uint64(le.Uint32(e))
		if d == 0 {
			length, unwritten := uint64(le.Uint16(e[4:])), false
			if length > 32768 {
				length, unwritten = length-32768, true
			}
			if lb >= first+length {
				return 0, max(end, lb+1) - lb, nil
			}
			phys = uint64(le.Uint16(e[6:]))<<32 | uint64(le.Uint32(e[8:]))
			if unwritten {
				return 0, first + length - lb, nil
			}
			return phys + lb - first, first + length - lb, nil
		}
		next := uint64(le.Uint16(e[8:]))<<32 | uint64(le.Uint32(e[4:]))
		nb := make([]byte, n.f.bs)
		if err := n.f.read(nb, next, 0); err != nil {
			return 0, 0, err
		}
		b = nb
	}
}
