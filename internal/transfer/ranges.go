package transfer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"ascend/internal/image"
	"ascend/internal/transfer/digest"
	"ascend/internal/transfer/journal"
)

// Ranges sends the file to sink, many ranges at once, and returns when all of
// it has landed and was flushed. Units that the journal says have landed are
// neither read nor sent again. The journal may be nil: then a broken transfer
// begins again. It returns the first error; the journal then holds what landed.
func Ranges(ctx context.Context, f *image.File, sink RangeSink, j *journal.Journal, o Options) (*Result, error) {
	o = o.withDefaults()
	if o.Block > unitSize || o.Block&(o.Block-1) != 0 {
		return nil, fmt.Errorf("invalid block size of %d bytes", o.Block)
	}
	o.Meter.SetTotal(f.Source().Map.Bytes())
	o.Meter.begin()
	root := newRoot(f.Source())
	flush := startSyncer(ctx, sink, j, o.SyncEvery)

	g, gctx := errgroup.WithContext(ctx)
	units := make(chan unit)
	g.Go(func() error {
		defer close(units)
		return cutUnits(f, o.Dirty, func(u unit) error {
			if j != nil && j.Has(u.number) {
				o.Meter.addOld(u.dataBytes())
				return nil
			}
			select {
			case units <- u:
				return nil
			case <-gctx.Done():
				return gctx.Err()
			}
		})
	})
	var (
		sumsMu sync.Mutex
		sums   journal.FileSums // without a journal
	)
	workers := max(1, min(o.Workers, int(o.InFlight/min(unitSize, max(o.MaxRange, o.Block)))))
	for range workers {
		g.Go(func() error {
			w := newWorker(f, sink, o)
			for u := range units {
				if err := w.do(gctx, u); err != nil {
					return err
				}
				if j != nil {
					if err := j.LandedSums(u.number, w.blocks, w.sums); err != nil {
						return err
					}
					continue
				}
				if !o.NoDigest {
					root.put(w.blocks)
				}
				sumsMu.Lock()
				sums.Put(w.sums)
				sumsMu.Unlock()
			}
			return nil
		})
	}
	if err := flush.finish(ctx, g.Wait()); err != nil {
		return nil, err
	}
	res := &Result{Bytes: f.Size(), Sent: o.Meter.sent.Load()}
	switch {
	case !o.BlockSums:
	case j != nil:
		res.Blocks = j.FileSums()
	default:
		res.Blocks = sums.All()
	}
	return res, res.setDigest(root, j, o)
}

// worker reads, hashes and writes units, one after the other, through one
// buffer that stands for a contiguous run of the file.
type worker struct {
	f    *image.File
	sink RangeSink
	o    Options

	buf    []byte
	base   int64 // file offset of buf[0]
	from   int   // buf[from:n] is filled and not yet sent
	n      int
	hash   hasher
	blocks []journal.Block   // of the unit
	sums   []journal.FileSum // of the blocks sent for the unit
}

func newWorker(f *image.File, sink RangeSink, o Options) *worker {
	w := &worker{f: f, sink: sink, o: o}
	unit := max(o.Block, digest.LeafSize)
	w.buf = make([]byte, max(o.MaxRange/unit, 1)*unit)
	w.hash = hasher{size: f.Source().Size(), off: o.NoDigest}
	return w
}

func (w *worker) do(ctx context.Context, u unit) error {
	w.from, w.n = 0, 0
	w.blocks, w.sums = w.blocks[:0], w.sums[:0]
	for _, s := range u.segs {
		for s.Len > 0 {
			if err := w.makeRoom(ctx, s.Off); err != nil {
				return err
			}
			part := s
			if s.Len > int64(len(w.buf)-w.n) { // cut at a leaf, so that each leaf is hashed whole
				part.Len = int64(len(w.buf)-w.n) / digest.LeafSize * digest.LeafSize
			}
			if err := w.take(ctx, part); err != nil {
				return err
			}
			s.Off, s.DiskOff, s.Len = s.Off+part.Len, s.DiskOff+part.Len, s.Len-part.Len
		}
	}
	w.blocks = w.hash.end(w.blocks)
	return w.send(ctx, w.n)
}

// makeRoom sees to it that the buffer takes a leaf at file offset off. With
// Block, zeros fill gaps inside a block and up to its ends.
func (w *worker) makeRoom(ctx context.Context, off int64) error {
	b := max(w.o.Block, 1)
	next := w.base + int64(w.n)
	if w.n > 0 && off != next && off/b == (next-1)/b {
		clear(w.buf[w.n : w.n+int(off-next)])
		w.n += int(off - next)
		next = off
	}
	if w.n > 0 && off == next && len(w.buf)-w.n >= digest.LeafSize {
		return nil
	}
	if err := w.send(ctx, w.n); err != nil {
		return err
	}
	w.base = off - off%b
	w.from, w.n = 0, int(off%b)
	clear(w.buf[:w.n])
	return nil
}

// take fills a segment, for which there is room, into the buffer. Leaves of
// zeros end the run to be sent where the sink promises zeros.
func (w *worker) take(ctx context.Context, s image.Segment) error {
	p := w.buf[w.n : w.n+int(s.Len)]
	if err := w.f.Fill(p, s); err != nil {
		return err
	}
	if s.Kind != image.Data {
		w.n += len(p)
		return nil
	}
	w.o.Meter.add(s.Len)
	for i := 0; i < len(p); i += digest.LeafSize {
		leaf := p[i:min(i+digest.LeafSize, len(p))]
		zero := w.hash.leaf(s.DiskOff+int64(i), leaf, &w.blocks)
		if zero && !w.o.Dirty && w.o.Block == 0 {
			if err := w.send(ctx, w.n); err != nil {
				return err
			}
			w.from = w.n + len(leaf)
		}
		w.n += len(leaf)
	}
	return nil
}

// send writes buf[from:to], in pieces the sink takes.
func (w *worker) send(ctx context.Context, to int) error {
	p, off := w.buf[w.from:to], w.base+int64(w.from)
	w.from = to
	if b := int(w.o.Block); b > 0 {
		return w.sendBlocks(ctx, p, off)
	}
	for len(p) > 0 {
		q := p[:min(int64(len(p)), w.o.MaxRange)]
		if err := w.write(ctx, off, q); err != nil {
			return err
		}
		p, off = p[len(q):], off+int64(len(q))
	}
	return nil
}

// sendBlocks writes whole aligned blocks and leaves out those of zeros.
func (w *worker) sendBlocks(ctx context.Context, p []byte, off int64) error {
	b := int(w.o.Block)
	for len(p) > 0 {
		q := p[:min(len(p), b)]
		if len(q) < b {
			q = w.buf[cap(w.buf)-cap(p) : cap(w.buf)-cap(p)+b]
			clear(q[len(p):])
		}
		if w.o.Dirty || !digest.IsZero(q) {
			if err := w.write(ctx, off, q); err != nil {
				return err
			}
		}
		p, off = p[min(len(p), b):], off+int64(b)
	}
	return nil
}

func (w *worker) write(ctx context.Context, off int64, p []byte) error {
	if err := w.o.wait(ctx, len(p)); err != nil {
		return err
	}
	if err := w.give(ctx, off, p); err != nil {
		return err
	}
	w.o.Meter.sent.Add(int64(len(p)))
	return nil
}

// give hands bytes to the sink, which may want the block's digest with them.
func (w *worker) give(ctx context.Context, off int64, p []byte) error {
	if !w.o.BlockSums || w.o.Block == 0 {
		return w.sink.WriteRange(ctx, off, p)
	}
	sum := sha256.Sum256(p)
	w.sums = append(w.sums, journal.FileSum{Number: off / w.o.Block, SHA256: sum})
	if b, ok := w.sink.(BlockSink); ok {
		return b.WriteBlock(ctx, off, p, sum)
	}
	return w.sink.WriteRange(ctx, off, p)
}
