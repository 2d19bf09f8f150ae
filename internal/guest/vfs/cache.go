package vfs

import (
	"io"
	"sync"
)

const (
	page     = 64 << 10 // disk.LeafSize: aligned reads are the fastest
	maxPages = 256
)

// Cache is a reader that keeps the pages last read, for metadata that is read
// in small pieces again and again. Large reads pass by it.
type Cache struct {
	r     io.ReaderAt
	size  int64
	mu    sync.Mutex
	pages map[int64][]byte
	order []int64
}

// NewCache caches r, which is size bytes long.
func NewCache(r io.ReaderAt, size int64) *Cache {
	return &Cache{r: r, size: size, pages: map[int64][]byte{}}
}

// ReadAt is io.ReaderAt.
func (c *Cache) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= c.size {
		return 0, io.EOF
	}
	if len(p) >= page {
		return io.NewSectionReader(c.r, 0, c.size).ReadAt(p, off)
	}
	n := 0
	for n < len(p) && off < c.size {
		b, err := c.page(off / page)
		if err != nil {
			return n, err
		}
		k := copy(p[n:], b[off%page:])
		n += k
		off += int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (c *Cache) page(i int64) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.pages[i]; ok {
		return b, nil
	}
	b := make([]byte, min(page, c.size-i*page))
	if n, err := c.r.ReadAt(b, i*page); n < len(b) {
		if err == nil || err == io.EOF { //nolint:errorlint // io.ReaderAt returns it bare
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	if len(c.order) >= maxPages {
		delete(c.pages, c.order[0])
		c.order = c.order[1:]
	}
	c.pages[i] = b
	c.order = append(c.order, i)
	return b, nil
}
