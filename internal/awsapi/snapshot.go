package awsapi

import (
	"context"
	"fmt"
	"io"
	"sort"
	"sync"

	"ascend/internal/disk"
)

var _ disk.Disk = (*Snapshot)(nil)

// Snapshot is a completed EBS snapshot as a disk. Blocks are read when asked
// for; the last few are kept, because maps and digests go by smaller leaves.
type Snapshot struct {
	c      *Client
	ctx    context.Context //nolint:containedctx // io.ReaderAt has none; ended by Close
	cancel context.CancelFunc
	id     string
	size   int64
	blocks []Block

	mu    sync.Mutex
	cache map[int64]*cached
	order []int64
}

type cached struct {
	once sync.Once
	p    []byte
	err  error
}

// cacheBlocks bounds the memory of a Snapshot: 64 blocks are 32 MiB.
const cacheBlocks = 64

// OpenSnapshot lists the snapshot's blocks. size is the guest's size in bytes,
// or 0 for the volume's.
func (c *Client) OpenSnapshot(ctx context.Context, id string, size int64) (*Snapshot, error) {
	blocks, gib, err := c.ListBlocks(ctx, id, "")
	if err != nil {
		return nil, err
	}
	if size <= 0 {
		size = gib << 30
	}
	if size > gib<<30 {
		return nil, fmt.Errorf("cannot open snapshot %s: %d bytes do not fit its volume of %d GiB", id, size, gib)
	}
	s := &Snapshot{c: c, id: id, size: size, blocks: blocks, cache: map[int64]*cached{}}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s, nil
}

// Size implements disk.Disk.
func (s *Snapshot) Size() int64 { return s.size }

// Close stops reads under way.
func (s *Snapshot) Close() error { s.cancel(); return nil }

// Unchanged implements disk.Disk: a completed snapshot never changes.
func (s *Snapshot) Unchanged() error { return nil }

// at is the position in blocks of the first one at or after index.
func (s *Snapshot) at(index int64) int {
	return sort.Search(len(s.blocks), func(i int) bool { return s.blocks[i].Index >= index })
}

// Extents implements disk.Disk by the list of blocks.
func (s *Snapshot) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	end := min(off+n, s.size)
	for i := s.at(off / BlockSize); off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		e := disk.Extent{Off: off, Len: end - off}
		if i < len(s.blocks) {
			if start := s.blocks[i].Index * BlockSize; start > off {
				e.Len = min(start, end) - off
			} else {
				e.Data = true
				e.Len = min(start+BlockSize, end) - off
				i++
			}
		}
		if err := yield(e); err != nil {
			return err
		}
		off += e.Len
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (s *Snapshot) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("cannot read snapshot %s at %d", s.id, off)
	}
	for n < len(p) && off < s.size {
		index, in := off/BlockSize, off%BlockSize
		part := p[n:min(int64(len(p)), int64(n)+min(BlockSize-in, s.size-off))]
		if i := s.at(index); i < len(s.blocks) && s.blocks[i].Index == index {
			b, err := s.block(s.blocks[i])
			if err != nil {
				return n, err
			}
			copy(part, b[in:])
		} else {
			clear(part)
		}
		n += len(part)
		off += int64(len(part))
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (s *Snapshot) block(b Block) ([]byte, error) {
	s.mu.Lock()
	c := s.cache[b.Index]
	if c == nil {
		c = new(cached)
		s.cache[b.Index] = c
		s.order = append(s.order, b.Index)
		if len(s.order) > cacheBlocks {
			delete(s.cache, s.order[0])
			s.order = s.order[1:]
		}
	}
	s.mu.Unlock()
	c.once.Do(func() { c.p, c.err = s.c.GetBlock(s.ctx, s.id, b) })
	if c.err != nil { // the next read asks again
		s.mu.Lock()
		if s.cache[b.Index] == c {
			delete(s.cache, b.Index)
		}
		s.mu.Unlock()
	}
	return c.p, c.err
}
