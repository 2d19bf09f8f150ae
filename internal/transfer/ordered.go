package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"ascend/internal/transfer/journal"
)

// piece is one job of an ordered transfer: prepared by any worker, sent in
// order by one goroutine.
type piece struct {
	number int64 // of the block or unit; ascending
	unit   unit
	buf    *buffers
	out    []byte // what the worker made
	final  bool   // out is the file's bytes as they are; emit is not asked
	blocks []journal.Block
	data   int64 // allocated bytes of the disk in it
	done   chan error
}

// producer makes the bytes of an ordered transfer.
type producer interface {
	// pieces yields the pieces from number first on, in order.
	pieces(first int64, yield func(*piece) error) error
	// prepare reads, hashes and encodes; called concurrently.
	prepare(p *piece) error
	// begin, emit and end append file bytes to dst; called in order.
	begin(dst []byte) ([]byte, error)
	emit(dst []byte, p *piece) ([]byte, error)
	end(dst []byte) ([]byte, error)
	// state and restore carry what the producer knows between two pieces.
	state() ([]byte, error)
	restore(state []byte) error
}

// checkpoint is what the journal keeps of an ordered transfer.
type checkpoint struct {
	Next   int64             `json:"next"`   // first piece not emitted
	Offset int64             `json:"offset"` // bytes of the file emitted
	State  []byte            `json:"state,omitempty"`
	Sums   map[string][]byte `json:"sums,omitempty"` // hash states
}

const (
	appendSize      = 256 << 10 // bytes gathered before one Append
	checkpointEvery = 2 * time.Second
)

// ordered runs the pieces of p through workers and sends the bytes in order.
// It resumes from the newest checkpoint at or before the sink's offset, makes
// the bytes between again and does not send them twice.
func ordered(ctx context.Context, p producer, sink StreamSink, j *journal.Journal, root *lockedRoot, o Options) (*Result, error) {
	o.Meter.begin()
	have, err := sink.Offset(ctx)
	if err != nil {
		return nil, err
	}
	sums, err := newSums(o.Sums)
	if err != nil {
		return nil, err
	}
	w := &orderedWriter{sink: sink, o: o, have: have, sums: sums}
	cp, resumed, err := lastCheckpoint(j, have)
	if err != nil {
		return nil, err
	}
	if resumed {
		if err := p.restore(cp.State); err != nil {
			return nil, fmt.Errorf("cannot continue from checkpoint: %w", err)
		}
		if err := sums.restore(cp.Sums); err != nil {
			return nil, err
		}
		w.off = cp.Offset
	}
	if r, ok := sink.(Rewinder); ok && j != nil && j.Restarted() && have > w.off {
		// What was appended after the checkpoint may be lost or garbage.
		if err := r.Rewind(ctx, w.off); err != nil {
			return nil, err
		}
		w.have = w.off
	}
	sync := startSyncer(ctx, sink, j, o.SyncEvery)
	err = runPieces(ctx, p, cp, resumed, w, j, root, o)
	if err := sync.finish(ctx, err); err != nil {
		return nil, err
	}
	res := &Result{Bytes: w.off, Sent: o.Meter.sent.Load(), Sums: sums.sum()}
	return res, res.setDigest(root, j, o)
}

func lastCheckpoint(j *journal.Journal, have int64) (cp checkpoint, ok bool, err error) {
	if j == nil || j.LastCheckpoint() == nil || have == 0 {
		return cp, false, nil
	}
	if err := json.Unmarshal(j.LastCheckpoint(), &cp); err != nil {
		return cp, false, fmt.Errorf("cannot read checkpoint: %w", err)
	}
	if cp.Offset > have { // the sink lost bytes: make all of it again from the start
		return checkpoint{}, false, nil
	}
	return cp, true, nil
}

func runPieces(ctx context.Context, p producer, cp checkpoint, resumed bool, w *orderedWriter, j *journal.Journal, root *lockedRoot, o Options) error {
	pool := newBuffers()
	workers := max(1, min(o.Workers, int(o.InFlight/(2*unitSize))))
	g, gctx := errgroup.WithContext(ctx)
	jobs := make(chan *piece)
	queue := make(chan *piece, max(workers, min(int(o.InFlight/(2*unitSize)), 4*workers)))
	g.Go(func() error {
		defer close(jobs)
		defer close(queue)
		if resumed {
			o.Meter.skipTo(p, cp.Next)
		}
		return p.pieces(cp.Next, func(pc *piece) error {
			pc.done = make(chan error, 1)
			pc.buf = pool
			for _, ch := range []chan *piece{queue, jobs} {
				select {
				case ch <- pc:
				case <-gctx.Done():
					return gctx.Err()
				}
			}
			return nil
		})
	})
	for range workers {
		g.Go(func() error {
			for pc := range jobs {
				pc.done <- p.prepare(pc)
			}
			return nil
		})
	}
	g.Go(func() error {
		var err error
		if !resumed {
			if w.buf, err = p.begin(w.buf); err != nil {
				return err
			}
		}
		var blocks []journal.Block
		last := time.Now()
		for pc := range queue {
			select {
			case err = <-pc.done:
			case <-gctx.Done():
				err = gctx.Err()
			}
			if err != nil {
				return err
			}
			if pc.final {
				err = w.give(gctx, pc.out)
			} else if w.buf, err = p.emit(w.buf, pc); err == nil {
				err = w.drain(gctx, appendSize)
			}
			if err != nil {
				return err
			}
			o.Meter.add(pc.data)
			if j != nil {
				blocks = append(blocks, pc.blocks...)
			} else if !o.NoDigest {
				root.put(pc.blocks)
			}
			pool.put(pc.out)
			if j != nil && (time.Since(last) >= checkpointEvery || len(blocks) >= 256) {
				if err := w.checkpoint(gctx, p, pc.number+1, j, blocks); err != nil {
					return err
				}
				blocks, last = blocks[:0], time.Now()
			}
		}
		if gctx.Err() != nil {
			return gctx.Err()
		}
		if j != nil && len(blocks) > 0 {
			if err := w.checkpoint(gctx, p, 1<<62, j, blocks); err != nil {
				return err
			}
		}
		if w.buf, err = p.end(w.buf); err != nil {
			return err
		}
		if err := w.drain(gctx, 0); err != nil {
			return err
		}
		if w.have > w.off {
			return fmt.Errorf("cannot continue: the target holds %d bytes and the whole file has %d", w.have, w.off)
		}
		return nil
	})
	return g.Wait()
}

// orderedWriter gathers the file's bytes, hashes them and sends those that the
// sink does not have.
type orderedWriter struct {
	sink StreamSink
	o    Options
	sums sums
	buf  []byte
	off  int64 // of the file: bytes drained
	have int64 // bytes the sink had at the start
}

// drain sends what is gathered when it is more than keep bytes.
func (w *orderedWriter) drain(ctx context.Context, keep int) error {
	if len(w.buf) <= keep {
		return nil
	}
	err := w.give(ctx, w.buf)
	w.buf = w.buf[:0]
	return err
}

// give sends the next bytes of the file. Nothing may be gathered when p is not
// what is gathered.
func (w *orderedWriter) give(ctx context.Context, p []byte) error {
	w.sums.write(p)
	off := w.off
	w.off += int64(len(p))
	p = p[min(max(w.have-off, 0), int64(len(p))):]
	for len(p) > 0 {
		q := p[:min(int64(len(p)), w.o.MaxRange)]
		if err := w.o.wait(ctx, len(q)); err != nil {
			return err
		}
		if err := w.sink.Append(ctx, q); err != nil {
			return err
		}
		w.o.Meter.sent.Add(int64(len(q)))
		p = p[len(q):]
	}
	return nil
}

func (w *orderedWriter) checkpoint(ctx context.Context, p producer, next int64, j *journal.Journal, blocks []journal.Block) error {
	if err := w.drain(ctx, 0); err != nil {
		return err
	}
	st, err := p.state()
	if err != nil {
		return err
	}
	cp := checkpoint{Next: next, Offset: w.off, State: st}
	if cp.Sums, err = w.sums.state(); err != nil {
		return err
	}
	b, err := json.Marshal(cp)
	if err != nil {
		return err
	}
	return j.Checkpoint(b, blocks)
}

// skipTo counts what an earlier process has landed.
func (m *Meter) skipTo(p producer, next int64) {
	_ = p.pieces(0, func(pc *piece) error {
		if pc.number >= next {
			return errStop
		}
		m.addOld(pc.data)
		return nil
	})
}

var errStop = errors.New("stop")
