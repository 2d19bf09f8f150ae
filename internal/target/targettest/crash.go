package targettest

import (
	"path/filepath"

	"ascend/internal/target"
)

// crash drops the process at every stage of a restore of two disks and has a
// new one go on with the same job.
func (s *suite) crash() {
	stages := []struct {
		name string
		// until runs the restore to where the process dies.
		until func(s *suite, sess target.Session, a, b *delivery, o *target.Order)
	}{
		{"after Begin", func(*suite, target.Session, *delivery, *delivery, *target.Order) {}},
		{"in the first disk", func(s *suite, sess target.Session, a, _ *delivery, _ *target.Order) {
			s.half(sess, a)
		}},
		{"in the second disk", func(s *suite, sess target.Session, a, b *delivery, _ *target.Order) {
			s.deliverEach(sess, []*delivery{a})
			s.half(sess, b)
		}},
		{"before Complete", func(s *suite, sess target.Session, a, _ *delivery, _ *target.Order) {
			up, err := sess.Upload(s.ctx(), 0)
			if err != nil {
				s.Fatalf("Upload: %v", err)
			}
			if err := a.send(s.ctx(), up); err != nil {
				s.Fatal(err)
			}
			a.kept = int64(len(a.file))
		}},
		{"before Finish", func(s *suite, sess target.Session, a, b *delivery, _ *target.Order) {
			s.deliverEach(sess, []*delivery{a, b})
		}},
		{"after Finish", func(s *suite, sess target.Session, a, b *delivery, o *target.Order) {
			s.deliverEach(sess, []*delivery{a, b})
			s.finish(sess, o)
		}},
	}
	second := contents()[4]
	calm := s.h.New(s)
	empty := s.inventoryOf(calm)
	s.whole(calm, s.ship(calm, small(), second), new(MemRecorder))
	things := len(s.inventoryOf(calm))
	for _, stage := range stages {
		s.sub(stage.name, func(s *suite) {
			p := s.h.New(s)
			ship := s.ship(p, small(), second)
			a, b := ship.delivery(0), ship.delivery(1)
			journal := filepath.Join(s.TempDir(), "resources")
			dead := p.Open(s)
			stage.until(s, s.begin(dead, ship.order, NewFileRecorder(journal)), a, b, ship.order)
			if c, ok := p.(Crasher); ok {
				c.Crash(s, dead)
			}
			if !s.h.Delivery.Resumable {
				a.forget()
				b.forget()
			}
			rec := NewFileRecorder(journal)
			tgt := s.open(p)
			sess := s.begin(tgt, ship.order, rec)
			s.deliverEach(sess, []*delivery{a, b})
			s.finish(sess, ship.order)
			s.same(p, ship)
			if err := sess.Close(s.ctx()); err != nil {
				s.Errorf("Session.Close: %v", err)
			}
			if now := s.inventoryOf(p); len(now) != things {
				s.Errorf("a restore that crashed leaves %d things at the peer, an undisturbed one %d: %q", len(now), things, now)
			}
			if err := UndoAll(s.ctx(), tgt, rec); err != nil {
				s.Error(err)
			}
			s.unchanged(p, empty, "undoing")
		})
	}
}

// half sends about half of a disk, makes it durable, and leaves the upload
// open.
func (s *suite) half(sess target.Session, d *delivery) {
	s.Helper()
	up, err := sess.Upload(s.ctx(), d.i)
	if err != nil {
		s.Fatalf("Upload: %v", err)
	}
	offs, size := d.pieces()
	switch u := up.(type) {
	case target.RangeUpload:
		for n, off := range offs {
			if n%2 == 1 {
				continue
			}
			if err := u.WriteRange(s.ctx(), off, d.piece(off, size)); err != nil {
				s.Fatalf("WriteRange at %d: %v", off, err)
			}
			d.landed[off] = true
		}
		if err := u.Sync(s.ctx()); err != nil {
			s.Fatalf("Sync: %v", err)
		}
	case target.StreamUpload:
		s.appendHalf(u, d)
	default:
		s.Fatalf("Upload gave a %T", up)
	}
}

func (s *suite) appendHalf(u target.StreamUpload, d *delivery) {
	s.Helper()
	off, err := u.Offset(s.ctx())
	if err != nil || off != 0 {
		s.Fatalf("Offset of a new upload is %d, %v", off, err)
	}
	half := make([]byte, len(d.file)/2)
	copy(half, d.file)
	if d.how().Patchable {
		clear(half[:min(headSize, len(half))])
	}
	if m := d.how().MaxRange; m > 0 && int64(len(half)) > m {
		half = half[:m]
	}
	if err := u.Append(s.ctx(), half); err != nil {
		s.Fatalf("Append: %v", err)
	}
	if err := u.Sync(s.ctx()); err != nil {
		s.Fatalf("Sync: %v", err)
	}
	off, err = u.Offset(s.ctx())
	if err != nil || off != int64(len(half)) {
		s.Fatalf("Offset after %d bytes is %d, %v", len(half), off, err)
	}
	d.kept = off
}
