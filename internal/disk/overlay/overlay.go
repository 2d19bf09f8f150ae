// Package overlay puts a copy-on-write layer over any disk: what is written
// goes to a sparse file of the overlay's own, the disk below is never touched.
// It carries the changes made to a guest on their way to a target.
//
// Beside the data file PATH stands PATH.map, which Sync writes: magic, size and
// for each group of 64 blocks that has any its number and two bit sets (written,
// zero), all little-endian 64-bit, and a CRC-32C. Blocks are 4 KiB.
package overlay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"slices"
	"sync"

	"ascend/internal/disk"
)

const (
	block = 4096
	magic = "ASCOVL01"
)

// group is the state of 64 blocks: written ones stand in the data file, zero
// ones read as zeros, the others are the disk's below.
type group struct{ written, zero uint64 }

// Overlay is a disk that can be written. Reads and writes may be concurrent, also
// within one block; what a read sees of a write under way, or two writes to the
// same bytes leave, is not defined. It owns the disk below.
type Overlay struct {
	base disk.Disk
	f    *os.File
	path string

	// part lets one write at a time change a block in part: it reads the rest.
	part sync.Mutex

	mu     sync.RWMutex
	groups map[int64]group
}

var _ disk.Disk = (*Overlay)(nil)

// Create makes an overlay at path, which must not exist, over base.
func Create(path string, base disk.Disk) (*Overlay, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot make overlay: %w", err)
	}
	if err := f.Truncate(base.Size()); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make overlay: %w", err), f.Close(), os.Remove(path))
	}
	o := &Overlay{base: base, f: f, path: path, groups: map[int64]group{}}
	return o, o.Sync()
}

// Open opens an overlay that was made over a disk of the same size.
func Open(path string, base disk.Disk) (*Overlay, error) {
	index, err := os.ReadFile(path + ".map")
	if err != nil {
		return nil, fmt.Errorf("cannot open overlay: %w", err)
	}
	groups, err := parse(index, base.Size())
	if err != nil {
		return nil, fmt.Errorf("cannot open overlay %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open overlay: %w", err)
	}
	return &Overlay{base: base, f: f, path: path, groups: groups}, nil
}

func parse(b []byte, size int64) (map[int64]group, error) {
	if len(b) < len(magic)+12 || string(b[:8]) != magic || (len(b)-len(magic)-12)%24 != 0 ||
		crc32.Checksum(b[:len(b)-4], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(b[len(b)-4:]) {
		return nil, disk.ErrCorrupt
	}
	if got := binary.LittleEndian.Uint64(b[8:]); got != uint64(size) {
		return nil, fmt.Errorf("it was made over a disk of %d bytes, not %d: %w", got, size, disk.ErrCorrupt)
	}
	groups := map[int64]group{}
	for p := b[16 : len(b)-4]; len(p) > 0; p = p[24:] {
		groups[int64(binary.LittleEndian.Uint64(p))] = group{binary.LittleEndian.Uint64(p[8:]), binary.LittleEndian.Uint64(p[16:])}
	}
	return groups, nil
}

// Size is that of the disk below.
func (o *Overlay) Size() int64 { return o.base.Size() }

// run is the state of the blocks from off on, up to end.
func (o *Overlay) run(off, end int64) (n int64, written, zero bool) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	at := func(b int64) (bool, bool) {
		g := o.groups[b/64]
		bit := uint64(1) << (b % 64)
		return g.written&bit != 0, g.zero&bit != 0
	}
	b := off / block
	written, zero = at(b)
	for b++; b*block < end; b++ {
		if b%64 == 0 && !written && !zero { // whole groups that are not touched
			if _, ok := o.groups[b/64]; !ok {
				b += 63
				continue
			}
		}
		if w, z := at(b); w != written || z != zero {
			break
		}
	}
	return min(b*block, end) - off, written, zero
}

// ReadAt reads what was written, and the disk below where nothing was.
func (o *Overlay) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= o.Size() {
		return 0, io.EOF
	}
	end := min(off+int64(len(p)), o.Size())
	for at := off; at < end; {
		n, written, zero := o.run(at, end)
		q := p[at-off:][:n]
		var err error
		switch {
		case zero:
			clear(q)
		case written:
			_, err = o.f.ReadAt(q, at)
		default:
			var k int
			if k, err = o.base.ReadAt(q, at); k == len(q) {
				err = nil
			}
		}
		if err != nil {
			return int(at - off), fmt.Errorf("cannot read overlay at %d: %w", at, err)
		}
		at += n
	}
	if n := int(end - off); n < len(p) {
		return n, io.EOF
	}
	return len(p), nil
}

// WriteAt writes within the disk's size; a write beyond it is an error.
func (o *Overlay) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > o.Size() {
		return 0, fmt.Errorf("cannot write %d bytes at %d: the disk has %d", len(p), off, o.Size())
	}
	if len(p) == 0 {
		return 0, nil
	}
	first, last := off-off%block, min((off+int64(len(p))+block-1)/block*block, o.Size())
	whole := p
	if first != off || last != off+int64(len(p)) { // blocks written in part keep the rest
		o.part.Lock()
		defer o.part.Unlock()
		whole = make([]byte, last-first)
		for _, edge := range [][2]int64{{first, min(first+block, last)}, {max(first, (last-1)/block*block), last}} {
			if _, err := o.ReadAt(whole[edge[0]-first:edge[1]-first], edge[0]); err != nil && !errors.Is(err, io.EOF) {
				return 0, err
			}
		}
		copy(whole[off-first:], p)
	}
	if _, err := o.f.WriteAt(whole, first); err != nil {
		return 0, fmt.Errorf("cannot write overlay: %w", err)
	}
	o.mark(first, last, func(g *group, bits uint64) { g.written |= bits; g.zero &^= bits })
	return len(p), nil
}

// Zero makes [off, off+n) read as zeros and, in whole blocks, count as a hole.
func (o *Overlay) Zero(off, n int64) error {
	if off < 0 || n < 0 || n > o.Size()-off {
		return fmt.Errorf("cannot clear %d bytes at %d: the disk has %d", n, off, o.Size())
	}
	end := off + n
	first := (off + block - 1) / block * block
	last := end / block * block
	if end == o.Size() {
		last = end
	}
	if first >= last {
		_, err := o.WriteAt(make([]byte, n), off)
		return err
	}
	for _, edge := range [][2]int64{{off, first}, {last, end}} {
		if _, err := o.WriteAt(make([]byte, edge[1]-edge[0]), edge[0]); err != nil {
			return err
		}
	}
	o.mark(first, last, func(g *group, bits uint64) { g.zero |= bits; g.written &^= bits })
	return nil
}

func (o *Overlay) mark(first, last int64, set func(g *group, bits uint64)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for b := first / block; b*block < last; b++ {
		g := o.groups[b/64]
		set(&g, 1<<(b%64))
		o.groups[b/64] = g
	}
}

// Extents are those of the disk below with what was written and cleared.
func (o *Overlay) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	end := min(off+n, o.Size())
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, written, zero := o.run(off, end)
		var err error
		if written || zero {
			err = yield(disk.Extent{Off: off, Len: n, Data: written})
		} else {
			err = o.base.Extents(ctx, off, n, yield)
		}
		if err != nil {
			return err
		}
		off += n
	}
	return nil
}

// Unchanged is that of the disk below: the overlay itself is ours to write.
func (o *Overlay) Unchanged() error { return o.base.Unchanged() }

// Sync puts everything written so far on stable storage, for Open.
func (o *Overlay) Sync() error {
	if err := o.f.Sync(); err != nil {
		return fmt.Errorf("cannot flush overlay: %w", err)
	}
	o.mu.RLock()
	b := bytes.NewBufferString(magic)
	put := func(v uint64) { b.Write(binary.LittleEndian.AppendUint64(nil, v)) }
	put(uint64(o.Size()))
	for _, k := range slices.Sorted(maps.Keys(o.groups)) {
		put(uint64(k))
		put(o.groups[k].written)
		put(o.groups[k].zero)
	}
	o.mu.RUnlock()
	sum := crc32.Checksum(b.Bytes(), crc32.MakeTable(crc32.Castagnoli))
	b.Write(binary.LittleEndian.AppendUint32(nil, sum))
	f, err := os.OpenFile(o.path+".map.new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot flush overlay: %w", err)
	}
	_, err = f.Write(b.Bytes())
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(o.path+".map.new", o.path+".map")
	}
	if err != nil {
		return fmt.Errorf("cannot flush overlay: %w", err)
	}
	return nil
}

// Digest identifies all that the overlay changes of the disk below: SHA-256 over
// each group's number and bit sets, and the blocks written. Two overlays with the
// same one over the same disk read alike. Nobody may write meanwhile.
func (o *Overlay) Digest() (sum [sha256.Size]byte, err error) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	h, b := sha256.New(), make([]byte, block)
	for _, k := range slices.Sorted(maps.Keys(o.groups)) {
		g := o.groups[k]
		for _, v := range []uint64{uint64(k), g.written, g.zero} {
			h.Write(binary.LittleEndian.AppendUint64(nil, v))
		}
		for i := range int64(64) {
			if g.written>>i&1 == 0 {
				continue
			}
			n, err := o.f.ReadAt(b, (k*64+i)*block)
			if err != nil && !errors.Is(err, io.EOF) {
				return sum, fmt.Errorf("cannot read overlay: %w", err)
			}
			h.Write(b[:n])
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// Close flushes and closes the overlay and the disk below.
func (o *Overlay) Close() error { return errors.Join(o.Sync(), o.f.Close(), o.base.Close()) }

// Remove closes the overlay and deletes its files.
func (o *Overlay) Remove() error {
	return errors.Join(o.f.Close(), o.base.Close(), os.Remove(o.path), os.Remove(o.path+".map"))
}
