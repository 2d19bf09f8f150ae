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
	batches := make(chan []unit)
	g.Go(func() error {
		defer close(batches)
		return cutBatches(f, j, o, func(b []unit) error {
			select {
			case batches <- b:
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
	for range max(1, min(o.Workers, int(o.InFlight/max(o.MaxRange, o.Block)))) {
		g.Go(func() error {
			w := newWorker(f, sink, o)
			for batch := range batches {
				if err := w.do(gctx, batch); err != nil {
					return err
				}
				for i, u := range batch {
					if j != nil {
						if err := j.LandedSums(u.number, w.landed(i), w.sums); err != nil {
							return err
						}
					} else if !o.NoDigest {
						root.put(w.landed(i))
					}
					o.Meter.add(u.dataBytes())
				}
				if j == nil {
					sumsMu.Lock()
					sums.Put(w.sums)
					sumsMu.Unlock()
				}
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

// cutBatches yields the units that have not landed, those that lie together in
// the file joined up to the size of one write; with BlockSums each by itself, so
// that its record holds its own blocks' digests. The slice belongs to the receiver.
func cutBatches(f *image.File, j *journal.Journal, o Options, yield func([]unit) error) error {
	var batch []unit
	var bytes int64
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		b := batch
		batch, bytes = nil, 0
		return yield(b)
	}
	var end int64
	err := cutUnits(f, o.Dirty, func(u unit) error {
		if b := o.Block; b > 0 && u.number > 0 && u.off/b == (end-1)/b {
			// Two writes would each fill the rest of the block with zeros.
			return fmt.Errorf("cannot send %s in whole blocks of %d bytes: its data is not aligned to them", f.Format(), b)
		}
		end = u.off + u.len
		if j != nil && j.Has(u.number) {
			o.Meter.addOld(u.dataBytes())
			return nil
		}
		if n := len(batch); n > 0 && (o.BlockSums || batch[n-1].off+batch[n-1].len != u.off || bytes+u.len > o.MaxRange) {
			if err := flush(); err != nil {
				return err
			}
		}
		batch, bytes = append(batch, u), bytes+u.len
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// worker reads, hashes and writes batches of units, one after the other, through
// one buffer that stands for a contiguous run of the file.
type worker struct {
	f    *image.File
	sink RangeSink
	o    Options

	buf    []byte
	base   int64 // file offset of buf[0]
	from   int   // buf[from:n] is filled and not yet sent
	n      int
	hash   hasher
	blocks []journal.Block   // of the batch
	ends   []int             // of each unit's, in blocks
	sums   []journal.FileSum // of the file's blocks that were sent
}

func newWorker(f *image.File, sink RangeSink, o Options) *worker {
	w := &worker{f: f, sink: sink, o: o}
	unit := max(o.Block, digest.LeafSize)
	size := max(min(o.MaxRange/unit, f.Size()/unit+1), 1) * unit // no more than there is
	w.buf = make([]byte, size)
	w.hash = hasher{size: f.Source().Size(), off: o.NoDigest}
	return w
}

// do sends a batch; when it returns nil all of it has landed.
func (w *worker) do(ctx context.Context, batch []unit) error {
	w.from, w.n = 0, 0
	w.blocks, w.ends, w.sums = w.blocks[:0], w.ends[:0], w.sums[:0]
	for _, u := range batch {
		for _, s := range u.segs {
			if err := w.segment(ctx, s); err != nil {
				return err
			}
		}
		w.blocks = w.hash.end(w.blocks)
		w.ends = append(w.ends, len(w.blocks))
	}
	return w.send(ctx, w.n)
}

// landed is the digests of the blocks in unit i of the batch that was sent.
func (w *worker) landed(i int) []journal.Block {
	from := 0
	if i > 0 {
		from = w.ends[i-1]
	}
	return w.blocks[from:w.ends[i]]
}

func (w *worker) segment(ctx context.Context, s image.Segment) error {
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
	return nil
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
	if w.n > 0 && off == next && b > 1 { // the file goes on: a block that is not full waits
		keep := w.n % int(b)
		if err := w.send(ctx, w.n-keep); err != nil {
			return err
		}
		copy(w.buf, w.buf[w.n-keep:w.n])
		w.base, w.from, w.n = next-int64(keep), 0, keep
		w.grow()
		return nil
	}
	if err := w.send(ctx, w.n); err != nil {
		return err
	}
	w.base = off - off%b
	w.from, w.n = 0, int(off%b)
	clear(w.buf[:w.n])
	w.grow()
	return nil
}

// grow sees to it that a leaf fits behind the part of a block that is kept back,
// which it does by itself where the file keeps the disk's leaves at their place.
func (w *worker) grow() {
	if len(w.buf)-w.n < digest.LeafSize {
		w.buf = append(w.buf, make([]byte, max(w.o.Block, digest.LeafSize))...)
	}
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

// sendBlocks writes whole aligned blocks and leaves out those of zeros. p lies in
// the buffer, which is a multiple of a block long, as p's beginning is.
func (w *worker) sendBlocks(ctx context.Context, p []byte, off int64) error {
	b := int(w.o.Block)
	if cut := len(p) % b; cut > 0 {
		whole := p[:len(p)-cut+b]
		clear(whole[len(p):])
		p = whole
	}
	most := max(int(w.o.MaxRange)/b, 1) * b
	if w.o.BlockSums {
		most = b // each with its digest
	}
	for len(p) > 0 {
		n := 0
		for n < len(p) && n < most && (w.o.Dirty || !digest.IsZero(p[n:n+b])) {
			n += b
		}
		if n == 0 {
			p, off = p[b:], off+int64(b)
			continue
		}
		if err := w.write(ctx, off, p[:n]); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
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
