package transfer

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/transfer/digest"
	"ascend/internal/transfer/journal"
)

// Scan reads every allocated byte of the disk and returns its digest.
func Scan(ctx context.Context, src image.Source, o Options) (digest.Sum, error) {
	root := newRoot(src)
	err := scan(ctx, src, o, func(blocks []journal.Block, _ []int64) { root.put(blocks) })
	if err != nil || o.NoDigest {
		return digest.Sum{}, err
	}
	return root.root.Sum()
}

// Read reads every allocated byte of the disk and does nothing with it, to
// measure reading alone.
func Read(ctx context.Context, src image.Source, o Options) error {
	o.NoDigest = true
	return scan(ctx, src, o, func([]journal.Block, []int64) {})
}

// FindZeros reads the disk and returns a map without the leaves that hold only
// zeros: for images that claim every byte as data.
func FindZeros(ctx context.Context, src image.Source, o Options) (*disk.Map, error) {
	var mu sync.Mutex
	m := disk.NewMap(src.Size(), disk.LeafSize)
	for l := int64(0); l < m.Len(); {
		n, data := src.Map.Run(l, m.Len()-l)
		if data {
			m.Add(l*disk.LeafSize, n*disk.LeafSize)
		}
		l += n
	}
	o.NoDigest = true
	err := scan(ctx, src, o, func(_ []journal.Block, zeros []int64) {
		mu.Lock()
		defer mu.Unlock()
		for _, l := range zeros {
			m.Clear(l)
		}
	})
	if err != nil {
		return nil, err
	}
	return m.Seal(), nil
}

// scan reads the disk block by block, many at once, and hands each block's
// digest and the numbers of its leaves of zeros to done, concurrently.
func scan(ctx context.Context, src image.Source, o Options, done func([]journal.Block, []int64)) error {
	o = o.withDefaults()
	o.Meter.SetTotal(src.Map.Bytes())
	o.Meter.begin()
	p := &streamProducer{src: src, coarse: src.Map.Coarse(digest.BlockSize)}
	g, ctx := errgroup.WithContext(ctx)
	jobs := make(chan *piece)
	g.Go(func() error {
		defer close(jobs)
		return p.pieces(0, func(pc *piece) error {
			select {
			case jobs <- pc:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	for range min(o.Workers, 2*runtime.GOMAXPROCS(0)) {
		g.Go(func() error {
			buf := make([]byte, scanRead)
			for pc := range jobs {
				var blocks []journal.Block
				var zeros []int64
				h := hasher{size: src.Size(), off: o.NoDigest}
				err := eachLeaf(src, pc.number*digest.BlockSize, buf, func(off int64, leaf []byte) {
					if h.leaf(off, leaf, &blocks) {
						zeros = append(zeros, off/disk.LeafSize)
					}
				})
				if err != nil {
					return err
				}
				done(h.end(blocks), zeros)
				o.Meter.add(pc.data)
			}
			return nil
		})
	}
	return g.Wait()
}

// scanRead is the size of one read: small enough that what was read is hashed
// from the processor's cache.
const scanRead = 256 << 10

// eachLeaf reads the allocated leaves of the block at off through buf.
func eachLeaf(src image.Source, off int64, buf []byte, yield func(off int64, leaf []byte)) error {
	end := min(off+digest.BlockSize, src.Size())
	for off < end {
		count, data := src.Map.Run(off/disk.LeafSize, (end-off+disk.LeafSize-1)/disk.LeafSize)
		stop := min(off+count*disk.LeafSize, end)
		for data && off < stop {
			p := buf[:min(int64(len(buf)), stop-off)]
			if err := readFull(src.Disk, p, off); err != nil {
				return err
			}
			for i := 0; i < len(p); i += disk.LeafSize {
				yield(off+int64(i), p[i:min(i+disk.LeafSize, len(p))])
			}
			off += int64(len(p))
		}
		off = stop
	}
	return nil
}
