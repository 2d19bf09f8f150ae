package awsapi

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"sync"

	"ascend/internal/disk"
)

var _ disk.Disk = (*Snapshot)(nil)

// Snapshot is a completed EBS snapshot as a disk. Blocks are read when asked
// for; the last few are kept, because maps and digests go by smaller leaves. Of
// the list of blocks only one bit each is kept, 16 MiB for the largest volume:
// the tokens that read them, which end after some days, are asked for again.
type Snapshot struct {
	c      *Client
	ctx    context.Context //nolint:containedctx // io.ReaderAt has none; ended by Close
	cancel context.CancelFunc
	id     string
	size   int64
	count  int64
	has    []uint64

	mu     sync.Mutex
	blocks cache[[]byte]
	tokens cache[map[int64]string] // by index / tokenSpan
}

const (
	cacheBlocks = 64   // 32 MiB
	cacheTokens = 16   // lists of tokens
	tokenSpan   = 4096 // blocks that one list of tokens spans: 2 GiB
)

// cache keeps the last few things that were asked for, each asked for once.
type cache[T any] struct {
	most    int
	entries map[int64]*entry[T]
	order   []int64
}

type entry[T any] struct {
	once sync.Once
	v    T
	err  error
}

// at is the entry of a key, made when there is none. The caller holds the lock.
func (c *cache[T]) at(k int64) *entry[T] {
	if e := c.entries[k]; e != nil {
		return e
	}
	if c.entries == nil {
		c.entries = map[int64]*entry[T]{}
	}
	e := &entry[T]{}
	c.entries[k] = e
	if c.order = append(c.order, k); len(c.order) > c.most {
		delete(c.entries, c.order[0])
		c.order = c.order[1:]
	}
	return e
}

// get asks for a key's value, unless it was; an error is not kept.
func get[T any](mu *sync.Mutex, c *cache[T], k int64, ask func() (T, error)) (T, error) {
	mu.Lock()
	e := c.at(k)
	mu.Unlock()
	e.once.Do(func() { e.v, e.err = ask() })
	if e.err != nil {
		drop(mu, c, k, e)
	}
	return e.v, e.err
}

// drop forgets an entry; nil: whichever there is.
func drop[T any](mu *sync.Mutex, c *cache[T], k int64, e *entry[T]) {
	mu.Lock()
	defer mu.Unlock()
	if e == nil || c.entries[k] == e {
		delete(c.entries, k) // its place in the order is used up by what comes next
	}
}

// OpenSnapshot lists the snapshot's blocks. size is the guest's size in bytes,
// or 0 for the volume's.
func (c *Client) OpenSnapshot(ctx context.Context, id string, size int64) (*Snapshot, error) {
	s := &Snapshot{c: c, id: id, size: size, blocks: cache[[]byte]{most: cacheBlocks}, tokens: cache[map[int64]string]{most: cacheTokens}}
	gib, err := c.EachBlocks(ctx, id, "", 0, maxPage, func(page []Block) bool {
		for _, b := range page {
			for int64(len(s.has)) <= b.Index/64 {
				s.has = append(s.has, 0)
			}
			s.has[b.Index/64] |= 1 << (b.Index % 64)
			s.count++
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if size <= 0 {
		s.size = gib << 30
	}
	if s.size > gib<<30 {
		return nil, fmt.Errorf("cannot open snapshot %s: %d bytes do not fit its volume of %d GiB", id, size, gib)
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s, nil
}

// Size implements disk.Disk.
func (s *Snapshot) Size() int64 { return s.size }

// Allocated is the bytes of the blocks that the snapshot holds.
func (s *Snapshot) Allocated() int64 { return s.count * BlockSize }

// Close stops reads under way.
func (s *Snapshot) Close() error { s.cancel(); return nil }

// Unchanged implements disk.Disk: a completed snapshot never changes.
func (s *Snapshot) Unchanged() error { return nil }

func (s *Snapshot) holds(index int64) bool {
	return index/64 < int64(len(s.has)) && s.has[index/64]>>(index%64)&1 != 0
}

// next is the first block at or after index that is there, or not, as want says;
// -1 without one that is.
func (s *Snapshot) next(index int64, want bool) int64 {
	for w := index / 64; w < int64(len(s.has)); w++ {
		word := s.has[w]
		if !want {
			word = ^word
		}
		if w == index/64 {
			word &= ^uint64(0) << (index % 64)
		}
		if word != 0 {
			return w*64 + int64(bits.TrailingZeros64(word))
		}
	}
	if want {
		return -1
	}
	return max(index, int64(len(s.has))*64)
}

// Extents implements disk.Disk by the list of blocks.
func (s *Snapshot) Extents(ctx context.Context, off, n int64, yield func(disk.Extent) error) error {
	for end := min(off+n, s.size); off < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		e := disk.Extent{Off: off, Data: s.holds(off / BlockSize)}
		stop := end
		if i := s.next(off/BlockSize, !e.Data); i >= 0 {
			stop = min(i*BlockSize, end)
		}
		e.Len = stop - off
		if err := yield(e); err != nil {
			return err
		}
		off = stop
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
		if s.holds(index) {
			b, err := get(&s.mu, &s.blocks, index, func() ([]byte, error) { return s.block(index) })
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

// block reads one block. A token that is refused is asked for again, once.
func (s *Snapshot) block(index int64) ([]byte, error) {
	for again := false; ; again = true {
		tokens, err := get(&s.mu, &s.tokens, index/tokenSpan, func() (map[int64]string, error) { return s.list(index / tokenSpan * tokenSpan) })
		if err != nil {
			return nil, err
		}
		p, err := s.c.GetBlock(s.ctx, s.id, Block{index, tokens[index]})
		if again || Code(err) != "ValidationException" {
			return p, err
		}
		drop(&s.mu, &s.tokens, index/tokenSpan, nil)
	}
}

// list is the tokens of tokenSpan blocks.
func (s *Snapshot) list(from int64) (map[int64]string, error) {
	out := map[int64]string{}
	_, err := s.c.EachBlocks(s.ctx, s.id, "", from, tokenSpan, func(page []Block) bool {
		for _, b := range page {
			if b.Index >= from+tokenSpan {
				return false
			}
			out[b.Index] = b.Token
		}
		return true
	})
	return out, err
}
