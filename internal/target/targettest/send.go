package targettest

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"ascend/internal/target"
)

// The suite's own sender: a small transfer with no optimisation, so that what
// it asks of a target is plain to see.

const (
	pieceSize = 64 << 10 // of a range, where the Delivery allows
	headSize  = 512      // what is patched at the end, where the Delivery allows
	attempts  = 6        // at one disk, with faults
)

// errReader is what a source fails with in tests.
var errReader = errors.New("the source was made to fail")

// delivery is one disk on its way, with the journal of what has landed, which
// survives crashes.
type delivery struct {
	order  *target.Order
	i      int
	file   []byte
	landed map[int64]bool // offsets of ranges that landed
	// limit, when not 0, is the number of bytes after which sending stops with
	// errReader, counted over this attempt.
	limit int64
	sent  int64
	// kept, when not 0, is the number of bytes of a stream that were synced before
	// a crash.
	kept int64
	mu   sync.Mutex
}

func (sh *shipment) delivery(i int) *delivery {
	return &delivery{order: sh.order, i: i, file: sh.disks[i].file, landed: map[int64]bool{}}
}

func (d *delivery) how() target.Delivery { return d.order.Disks[d.i].Delivery }

// sum is what Complete is told.
func (d *delivery) sum() target.Sum {
	sum := target.Sum{Bytes: int64(len(d.file))}
	for _, name := range d.how().Digests {
		switch strings.ToLower(name) {
		case "sha1":
			h := sha1.Sum(d.file)
			sum.SHA1 = h[:]
		case "sha256":
			h := sha256.Sum256(d.file)
			sum.SHA256 = h[:]
		}
	}
	if d.how().BlockSums {
		sum.Blocks = d.blockSums
	}
	return sum
}

// blockSums yields the digests of the blocks that are sent.
func (d *delivery) blockSums(yield func(int64, [sha256.Size]byte) bool) {
	block := d.how().Block
	for off := int64(0); off < int64(len(d.file)); off += block {
		p := d.piece(off, block)
		if d.how().Clean && zeros(p) {
			continue
		}
		if !yield(off/block, sha256.Sum256(p)) {
			return
		}
	}
}

// attempt opens the upload, sends what has not landed yet, and completes. On
// an error it aborts.
func (d *delivery) attempt(ctx context.Context, sess target.Session) (*target.Landed, error) {
	up, err := sess.Upload(ctx, d.i)
	if err != nil {
		return nil, fmt.Errorf("cannot open the upload: %w", err)
	}
	if err := d.send(ctx, up); err != nil {
		return nil, errors.Join(err, up.Abort())
	}
	landed, err := up.Complete(ctx, d.sum())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot complete: %w", err), up.Abort())
	}
	return landed, nil
}

// deliver attempts until it works, as a transfer does.
func (d *delivery) deliver(ctx context.Context, sess target.Session) (*target.Landed, error) {
	for n := 1; ; n++ {
		landed, err := d.attempt(ctx, sess)
		if err == nil || n == attempts || target.IsPermanent(err) {
			return landed, err
		}
		if errors.Is(err, target.ErrExpired) || !d.how().Resumable {
			d.forget()
		}
	}
}

// forget empties the journal.
func (d *delivery) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.landed)
}

// send sends what has not landed.
func (d *delivery) send(ctx context.Context, up target.Upload) error {
	d.sent = 0
	if d.how().Mode == target.Ranges {
		r, ok := up.(target.RangeUpload)
		if !ok {
			return fmt.Errorf("for mode %q the upload is a %T", target.Ranges, up)
		}
		return d.sendRanges(ctx, r)
	}
	st, ok := up.(target.StreamUpload)
	if !ok {
		return fmt.Errorf("for mode %q the upload is a %T", target.Ordered, up)
	}
	return d.sendStream(ctx, st)
}

// pieces are the ranges to send, holes left out for a clean target.
func (d *delivery) pieces() (offs []int64, size int64) {
	how := d.how()
	size = pieceSize
	if b := how.Block; b > 0 {
		size = max(size/b, 1) * b
	}
	if how.MaxRange > 0 && size > how.MaxRange {
		size = how.MaxRange
		if how.Block > 0 {
			size -= size % how.Block
		}
	}
	for off := int64(0); off < int64(len(d.file)); off += size {
		if how.Clean && zeros(d.file[off:min(off+size, int64(len(d.file)))]) {
			continue
		}
		offs = append(offs, off)
	}
	return offs, size
}

// piece is the range at off, its last block filled up where the Delivery asks.
func (d *delivery) piece(off, size int64) []byte {
	p := slices.Clone(d.file[off:min(off+size, int64(len(d.file)))])
	if b := d.how().Block; b > 0 && int64(len(p))%b != 0 {
		p = append(p, make([]byte, b-int64(len(p))%b)...)
	}
	return p
}

// sendRanges sends the pieces from four goroutines, out of order.
func (d *delivery) sendRanges(ctx context.Context, up target.RangeUpload) error {
	offs, size := d.pieces()
	rnd := rand.New(rand.NewPCG(uint64(len(d.file)), uint64(d.i)))
	rnd.Shuffle(len(offs), func(i, j int) { offs[i], offs[j] = offs[j], offs[i] })
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan int64)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for off := range work {
				p := d.piece(off, size)
				if err := d.spend(len(p)); err != nil {
					cancel(err)
					continue
				}
				if ctx.Err() != nil {
					continue
				}
				if err := up.WriteRange(ctx, off, p); err != nil {
					cancel(fmt.Errorf("cannot write %d bytes at %d: %w", len(p), off, err))
					continue
				}
				clear(p) // the target must not have kept it
				d.mu.Lock()
				d.landed[off] = true
				d.mu.Unlock()
			}
		})
	}
	for _, off := range offs {
		d.mu.Lock()
		done := d.landed[off]
		d.mu.Unlock()
		if !done {
			work <- off
		}
	}
	close(work)
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := up.Sync(ctx); err != nil {
		return fmt.Errorf("cannot sync: %w", err)
	}
	return nil
}

// sendStream appends in odd sizes, from where the target is.
func (d *delivery) sendStream(ctx context.Context, up target.StreamUpload) error {
	off, err := up.Offset(ctx)
	if err != nil {
		return fmt.Errorf("cannot find the offset: %w", err)
	}
	if off < 0 || off > int64(len(d.file)) {
		return fmt.Errorf("offset %d of a file of %d bytes", off, len(d.file))
	}
	switch kept := d.kept; {
	case kept > 0 && d.how().Resumable && off < kept-d.how().Lag:
		return fmt.Errorf("%d bytes were synced before the crash, and a resumable stream with a lag of %d bytes goes on at %d", kept, d.how().Lag, off)
	case kept > 0 && !d.how().Resumable && off != 0:
		return fmt.Errorf("after a crash a stream that is not resumable goes on at %d", off)
	}
	d.kept = 0
	file := d.file
	if d.how().Patchable && len(file) > headSize {
		file = slices.Clone(file)
		clear(file[:headSize])
	}
	sizes := []int64{1, 511, 4097, 65_535, 131_085, 7}
	for n := 0; off < int64(len(file)); n++ {
		size := min(sizes[n%len(sizes)], int64(len(file))-off)
		if m := d.how().MaxRange; m > 0 {
			size = min(size, m)
		}
		if err := d.spend(int(size)); err != nil {
			return err
		}
		p := slices.Clone(file[off : off+size])
		if err := up.Append(ctx, p); err != nil {
			return fmt.Errorf("cannot append %d bytes at %d: %w", size, off, err)
		}
		for i := range p {
			p[i] = 0xEE // the target must not have kept it
		}
		off += size
		if n%5 == 4 {
			if err := up.Sync(ctx); err != nil {
				return fmt.Errorf("cannot sync: %w", err)
			}
		}
	}
	if d.how().Patchable && len(file) > headSize {
		if err := up.Patch(ctx, slices.Clone(d.file[:headSize])); err != nil {
			return fmt.Errorf("cannot patch: %w", err)
		}
	}
	if err := up.Sync(ctx); err != nil {
		return fmt.Errorf("cannot sync: %w", err)
	}
	return nil
}

// spend counts bytes against the limit.
func (d *delivery) spend(n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sent += int64(n)
	if d.limit != 0 && d.sent > d.limit {
		return errReader
	}
	return nil
}

// zeros compares with a block of zeros, which the race detector does not slow.
func zeros(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(nothing))
		if !bytes.Equal(p[:n], nothing[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

var nothing [pieceSize]byte

// deliverAll sends every disk, all at once, or dies. It checks what the target
// says has landed.
func (s *suite) deliverAll(sess target.Session, ship *shipment) []*target.Landed {
	s.Helper()
	var ds []*delivery
	for i := range ship.disks {
		ds = append(ds, ship.delivery(i))
	}
	return s.deliverEach(sess, ds)
}

// deliverEach is deliverAll with the journals given. The first failure cancels
// the other uploads, which may be waiting for the one that failed.
func (s *suite) deliverEach(sess target.Session, ds []*delivery) []*target.Landed {
	s.Helper()
	ctx, cancel := context.WithCancelCause(s.ctx())
	defer cancel(nil)
	var wg sync.WaitGroup
	all := make([]*target.Landed, len(ds))
	for n, d := range ds {
		wg.Go(func() {
			landed, err := d.deliver(ctx, sess)
			if err == nil {
				err = d.check(landed)
			}
			all[n] = landed
			if err != nil {
				cancel(fmt.Errorf("disk %d: %w", d.i, err))
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		s.Fatal(err)
	}
	return all
}

func (d *delivery) check(l *target.Landed) error {
	switch {
	case l == nil || l.Object == "":
		return fmt.Errorf("what landed is not named: %+v", l)
	case l.Bytes != 0 && l.Bytes != int64(len(d.file)):
		return fmt.Errorf("it is said that %d bytes landed of %d", l.Bytes, len(d.file))
	}
	return nil
}
