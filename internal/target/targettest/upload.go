package targettest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"ascend/internal/target"
)

// prompt is how soon a call must return once its context is cancelled.
const prompt = 5 * time.Second

// beginTwice begins the same job again, in the same and in a new process.
func (s *suite) beginTwice() {
	p := s.h.New(s)
	ship := s.ship(p, small(), contents()[0])
	rec := new(MemRecorder)
	tgt := s.open(p)
	first := s.begin(tgt, ship.order, rec)
	after := s.inventoryOf(p)
	second := s.begin(tgt, ship.order, rec)
	s.unchanged(p, after, "a second Begin")
	third := s.begin(s.open(p), ship.order, rec)
	s.unchanged(p, after, "a third Begin")
	s.deliverAll(third, ship)
	s.finish(third, ship.order)
	s.same(p, ship)
	for _, sess := range []target.Session{first, second, third} {
		if err := sess.Close(s.ctx()); err != nil {
			s.Errorf("Session.Close: %v", err)
		}
	}
	s.same(p, ship)
}

// one begins a job of one small disk and opens its upload.
func (s *suite) one() (Peer, *shipment, target.Session, target.Upload) {
	s.Helper()
	p := s.h.New(s)
	ship := s.ship(p, small())
	sess := s.begin(s.open(p), ship.order, new(MemRecorder))
	up, err := sess.Upload(s.ctx(), 0)
	if err != nil {
		s.Fatalf("Upload: %v", err)
	}
	return p, ship, sess, up
}

// completeTwice completes each upload twice, and once more through a new Upload.
func (s *suite) completeTwice() {
	p, ship, sess, up := s.one()
	d := ship.delivery(0)
	if err := d.send(s.ctx(), up); err != nil {
		s.Fatal(err)
	}
	first, err := up.Complete(s.ctx(), d.sum())
	if err != nil {
		s.Fatalf("Complete: %v", err)
	}
	second, err := up.Complete(s.ctx(), d.sum())
	if err != nil {
		s.Fatalf("the second Complete: %v", err)
	}
	if first == nil || second == nil || *first != *second {
		s.Errorf("the second Complete gave %+v, not %+v", second, first)
	}
	if err := up.Abort(); err != nil {
		s.Errorf("Abort after Complete: %v", err)
	}
	s.finish(sess, ship.order)
	s.same(p, ship)
}

// finishIncomplete must not make a machine of disks that did not arrive.
func (s *suite) finishIncomplete() {
	p := s.h.New(s)
	ship := s.ship(p, small(), contents()[0])
	sess := s.begin(s.open(p), ship.order, new(MemRecorder))
	if vm, err := sess.Finish(s.ctx()); err == nil {
		s.Errorf("Finish before any upload made %+v", vm)
	}
	if _, err := ship.delivery(0).deliver(s.ctx(), sess); err != nil {
		s.Fatal(err)
	}
	if vm, err := sess.Finish(s.ctx()); err == nil {
		s.Errorf("Finish before the second upload made %+v", vm)
	}
	if _, err := ship.delivery(1).deliver(s.ctx(), sess); err != nil {
		s.Fatal(err)
	}
	s.finish(sess, ship.order)
	s.same(p, ship)
}

// misuse must be an error and never a panic or wrong bytes.
func (s *suite) misuse() {
	p := s.h.New(s)
	ship := s.ship(p, small())
	tgt := s.open(p)
	sess := s.begin(tgt, ship.order, new(MemRecorder))
	for _, i := range []int{-1, 1, 1 << 40} {
		if _, err := sess.Upload(s.ctx(), i); err == nil {
			s.Errorf("Upload(%d) of a machine with one disk is no error", i)
		}
	}
	up, err := sess.Upload(s.ctx(), 0)
	if err != nil {
		s.Fatalf("Upload: %v", err)
	}
	if r, ok := up.(target.RangeUpload); ok {
		size := int64(len(ship.disks[0].file))
		block := max(s.h.Delivery.Block, 512)
		for _, off := range []int64{-block, size + block - size%block, 1 << 62} {
			if err := r.WriteRange(s.ctx(), off, make([]byte, block)); err == nil {
				s.Errorf("WriteRange at %d of a file of %d bytes is no error", off, size)
			}
		}
		if b := s.h.Delivery.Block; b > 1 {
			if err := r.WriteRange(s.ctx(), 1, make([]byte, b)); err == nil {
				s.Error("WriteRange at offset 1 of whole blocks is no error")
			}
		}
	}
	if err := ship.delivery(0).send(s.ctx(), up); err != nil {
		s.Fatal(err)
	}
	if _, err := up.Complete(s.ctx(), ship.delivery(0).sum()); err != nil {
		s.Fatalf("Complete: %v", err)
	}
	switch u := up.(type) {
	case target.RangeUpload:
		if err := u.WriteRange(s.ctx(), 0, make([]byte, max(s.h.Delivery.Block, 512))); err == nil {
			s.Error("WriteRange after Complete is no error")
		}
	case target.StreamUpload:
		if err := u.Append(s.ctx(), make([]byte, 512)); err == nil {
			s.Error("Append after Complete is no error")
		}
	}
	s.finish(sess, ship.order)
	s.same(p, ship)
	none := *ship.order
	none.Disks = none.Disks[:0]
	none.Job = ship.order.Job + "-broken"
	before := s.inventoryOf(p)
	if _, err := tgt.Begin(s.ctx(), &none, new(MemRecorder)); err == nil {
		s.Error("Begin of an order whose Disks are not parallel to the machine's is no error")
	}
	s.unchanged(p, before, "a broken order")
}

// wrongDigest must be refused where the Delivery asks for digests.
func (s *suite) wrongDigest() {
	if len(s.h.Delivery.Digests) == 0 && !s.h.Delivery.BlockSums {
		return
	}
	_, ship, sess, up := s.one()
	d := ship.delivery(0)
	if err := d.send(s.ctx(), up); err != nil {
		s.Fatal(err)
	}
	sum := d.sum()
	sum.SHA1, sum.SHA256 = flip(sum.SHA1), flip(sum.SHA256)
	if right := sum.Blocks; right != nil {
		sum.Blocks = func(yield func(int64, [32]byte) bool) {
			for n, b := range right {
				b[0] ^= 1
				if !yield(n, b) {
					return
				}
			}
		}
	}
	if _, err := up.Complete(s.ctx(), sum); !errors.Is(err, target.ErrDigest) {
		s.Errorf("Complete with a wrong digest: %v, want ErrDigest", err)
	}
	if vm, err := sess.Finish(s.ctx()); err == nil {
		s.Errorf("Finish after a wrong digest made %+v", vm)
	}
}

func flip(p []byte) []byte {
	p = slices.Clone(p)
	if len(p) > 0 {
		p[0] ^= 1
	}
	return p
}

// shortStream must not complete when bytes are missing.
func (s *suite) shortStream() {
	if s.h.Delivery.Mode != target.Ordered {
		return
	}
	_, ship, sess, up := s.one()
	d := ship.delivery(0)
	short := *ship.delivery(0)
	short.file = d.file[:len(d.file)-100]
	if err := short.send(s.ctx(), up); err != nil {
		s.Fatal(err)
	}
	if l, err := up.Complete(s.ctx(), d.sum()); err == nil {
		s.Errorf("Complete of a stream that lacks 100 bytes gave %+v", l)
	}
	if vm, err := sess.Finish(s.ctx()); err == nil {
		s.Errorf("Finish after a short stream made %+v", vm)
	}
}

// repeatedRanges sends every range three times, at once and later.
func (s *suite) repeatedRanges() {
	if s.h.Delivery.Mode != target.Ranges {
		return
	}
	p, ship, sess, up := s.one()
	r, ok := up.(target.RangeUpload)
	if !ok {
		s.Fatalf("Upload gave a %T", up)
	}
	d := ship.delivery(0)
	offs, size := d.pieces()
	for range 3 {
		var wg sync.WaitGroup
		for _, off := range offs {
			wg.Go(func() {
				if err := r.WriteRange(s.ctx(), off, d.piece(off, size)); err != nil {
					s.Errorf("WriteRange at %d: %v", off, err)
				}
			})
		}
		wg.Wait()
		slices.Reverse(offs)
		if err := r.Sync(s.ctx()); err != nil {
			s.Errorf("Sync: %v", err)
		}
	}
	if _, err := up.Complete(s.ctx(), d.sum()); err != nil {
		s.Fatalf("Complete: %v", err)
	}
	s.finish(sess, ship.order)
	s.same(p, ship)
}

// brokenReader has the source fail at several points; what follows goes on or
// starts again, and the bytes are right.
func (s *suite) brokenReader() {
	p := s.h.New(s)
	ship := s.ship(p, small())
	sess := s.begin(s.open(p), ship.order, new(MemRecorder))
	d := ship.delivery(0)
	for _, limit := range []int64{1, 600, 50_000, 80_000} {
		d.limit = limit
		if _, err := d.attempt(s.ctx(), sess); !errors.Is(err, errReader) {
			s.Fatalf("the source fails after %d bytes and the attempt gives %v", limit, err)
		}
		if !d.how().Resumable {
			d.forget()
		}
	}
	d.limit = 0
	if _, err := d.deliver(s.ctx(), sess); err != nil {
		s.Fatal(err)
	}
	s.finish(sess, ship.order)
	s.same(p, ship)
}

// cancel cancels in the middle of an upload, then goes on with it.
func (s *suite) cancel() {
	p := s.h.New(s)
	ship := s.ship(p, small())
	rec := new(MemRecorder)
	gone, stop := context.WithCancel(s.ctx())
	stop()
	before := s.inventoryOf(p)
	tgt := s.open(p)
	if _, err := tgt.Begin(gone, ship.order, rec); !errors.Is(err, context.Canceled) {
		s.Errorf("Begin with a cancelled context: %v", err)
	}
	s.unchanged(p, before, "Begin with a cancelled context")
	sess := s.begin(tgt, ship.order, rec)
	if _, err := sess.Upload(gone, 0); !errors.Is(err, context.Canceled) {
		s.Errorf("Upload with a cancelled context: %v", err)
	}
	d := ship.delivery(0)
	s.hasty(sess, d)
	if !d.how().Resumable {
		d.forget()
	}
	if _, err := d.deliver(s.ctx(), sess); err != nil {
		s.Fatalf("after a cancelled upload: %v", err)
	}
	if _, err := sess.Finish(gone); !errors.Is(err, context.Canceled) {
		s.Errorf("Finish with a cancelled context: %v", err)
	}
	s.finish(sess, ship.order)
	s.same(p, ship)
}

// hasty opens the disk's upload, sends with a context that is cancelled a
// moment later, again and again until the cancellation strikes, and asserts
// that it does so promptly.
func (s *suite) hasty(sess target.Session, d *delivery) {
	s.Helper()
	ctx, stop := context.WithCancel(s.ctx())
	defer stop()
	up, err := sess.Upload(ctx, d.i)
	if err != nil {
		s.Fatalf("Upload: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			if r, ok := up.(target.RangeUpload); ok {
				offs, size := d.pieces()
				for n := 0; ; n++ {
					off := offs[n%len(offs)]
					if err := r.WriteRange(ctx, off, d.piece(off, size)); err != nil {
						return err
					}
				}
			}
			st := up.(target.StreamUpload)
			off, err := st.Offset(ctx)
			for ; err == nil; off++ {
				if off >= int64(len(d.file))/2 {
					<-ctx.Done()
				}
				err = st.Append(ctx, d.file[off:off+1])
			}
			return err
		}()
	}()
	time.Sleep(20 * time.Millisecond)
	stop()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			s.Errorf("a cancelled upload returns %v, want context.Canceled", err)
		}
	case <-time.After(prompt):
		s.Fatalf("an upload does not return within %v of its cancellation", prompt)
	}
	if err := up.Abort(); err != nil {
		s.Errorf("Abort: %v", err)
	}
}

// cancelStalled cancels while the peer hangs.
func (s *suite) cancelStalled() {
	p := s.h.New(s)
	st, ok := p.(Staller)
	if !ok {
		return
	}
	ship := s.ship(p, small())
	sess := s.begin(s.open(p), ship.order, new(MemRecorder))
	release := st.Stall(s)
	ctx, stop := context.WithCancel(s.ctx())
	defer stop()
	d := ship.delivery(0)
	done := make(chan error, 1)
	go func() {
		_, err := d.attempt(ctx, sess)
		done <- err
	}()
	time.Sleep(100 * time.Millisecond)
	stop()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			s.Errorf("an upload cancelled while the peer hangs returns %v, want context.Canceled", err)
		}
	case <-time.After(prompt):
		s.Fatalf("with a hanging peer an upload does not return within %v of its cancellation", prompt)
	}
	release()
	d.forget()
	if _, err := d.deliver(s.ctx(), sess); err != nil {
		s.Fatalf("after a stalled upload: %v", err)
	}
	s.finish(sess, ship.order)
	s.same(p, ship)
}

// faults has the peer misbehave in every way it knows.
func (s *suite) faults() {
	f, ok := s.h.New(s).(Faulty)
	if !ok {
		return
	}
	for n, fault := range f.Faults() {
		s.sub(fault.Name, func(s *suite) {
			p := s.h.New(s)
			before := s.inventoryOf(p)
			ship := s.ship(p, small(), contents()[4])
			rec := new(MemRecorder)
			tgt := s.open(p)
			sess := s.begin(tgt, ship.order, rec)
			p.(Faulty).Faults()[n].Arm(s, ship.order)
			s.deliverAll(sess, ship)
			s.finish(sess, ship.order)
			s.same(p, ship)
			if err := sess.Close(s.ctx()); err != nil {
				s.Errorf("Session.Close: %v", err)
			}
			if err := UndoAll(s.ctx(), tgt, rec); err != nil {
				s.Error(err)
			}
			s.unchanged(p, before, "undoing")
		})
	}
}
