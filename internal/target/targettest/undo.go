package targettest

import (
	"errors"
	"fmt"
	"slices"

	"ascend/internal/target"
)

// undo undoes a restore from every stage, twice, in a new process.
func (s *suite) undo() {
	for _, stage := range []struct {
		name  string
		until func(s *suite, sess target.Session, ship *shipment)
	}{
		{"after Begin", func(*suite, target.Session, *shipment) {}},
		{"in the middle", func(s *suite, sess target.Session, ship *shipment) { s.half(sess, ship.delivery(0)) }},
		{"with one disk", func(s *suite, sess target.Session, ship *shipment) {
			s.deliverEach(sess, []*delivery{ship.delivery(0)})
		}},
		{"before Finish", func(s *suite, sess target.Session, ship *shipment) { s.deliverAll(sess, ship) }},
		{"after Finish", func(s *suite, sess target.Session, ship *shipment) {
			s.deliverAll(sess, ship)
			s.finish(sess, ship.order)
		}},
	} {
		s.sub(stage.name, func(s *suite) {
			p := s.h.New(s)
			before := s.inventoryOf(p)
			ship := s.ship(p, small(), contents()[0])
			rec := new(MemRecorder)
			tgt := s.open(p)
			sess := s.begin(tgt, ship.order, rec)
			if slices.Equal(before, s.inventoryOf(p)) && rec.Calls() == 0 {
				s.Log("Begin of this target makes nothing")
			}
			stage.until(s, sess, ship)
			if err := sess.Close(s.ctx()); err != nil {
				s.Errorf("Session.Close: %v", err)
			}
			made, err := rec.Recorded(s.ctx())
			if err != nil {
				s.Fatal(err)
			}
			fresh := s.open(p)
			if err := UndoAll(s.ctx(), fresh, rec); err != nil {
				s.Error(err)
			}
			s.unchanged(p, before, "undoing")
			for _, r := range slices.Backward(made) {
				if err := fresh.Undo(s.ctx(), r); err != nil {
					s.Errorf("the second Undo of %s %q: %v", r.Kind, r.Name, err)
				}
			}
			s.unchanged(p, before, "undoing twice")
		})
	}
}

// undoForeignIntents undoes what another job only meant to make and which
// this job has made under the same names.
func (s *suite) undoForeignIntents() {
	p := s.h.New(s)
	ship := s.ship(p, small(), contents()[0])
	rec := new(MemRecorder)
	s.whole(p, ship, rec)
	after := s.inventoryOf(p)
	tgt := s.open(p)
	seen := map[string]bool{}
	intents := 0
	for _, r := range rec.History() {
		key := r.Kind + "\x00" + r.Name
		if seen[key] {
			continue
		}
		seen[key] = true
		if r.ID != "" || r.Done {
			s.Errorf("the first record of %s %q is no mere intent: %+v", r.Kind, r.Name, r)
			continue
		}
		intents++
		r.Job = "another-" + r.Job
		if err := tgt.Undo(s.ctx(), r); err != nil {
			s.Errorf("Undo of a mere intent to make %s %q: %v", r.Kind, r.Name, err)
		}
		s.unchanged(p, after, fmt.Sprintf("another job's Undo of its intent to make %s %q", r.Kind, r.Name))
	}
	if intents == 0 {
		s.Error("nothing was recorded")
	}
	s.same(p, ship)
}

// recordFails has the recorder fail at every one of its calls in turn: nothing
// that is not recorded may exist, undoing removes what there is, and a job
// whose recorder works again goes on.
func (s *suite) recordFails() {
	p := s.h.New(s)
	before := s.inventoryOf(p)
	for _, late := range []bool{false, true} {
		for n := 1; ; n++ {
			job := fmt.Sprintf("job-record-%v-%d", late, n)
			ship := s.shipAs(p, "record fails "+job, job, contents()[0], contents()[2])
			rec := &MemRecorder{FailAt: n, Late: late}
			tgt := p.Open(s)
			err := s.attemptAll(tgt, ship, rec)
			failed := rec.Calls() >= n
			if failed && !errors.Is(err, ErrRecorder) {
				s.Fatalf("call %d of the recorder failed and the restore gives %v", n, err)
			}
			if !failed && err != nil {
				s.Fatalf("the recorder did not fail: %v", err)
			}
			if failed && n == 1 && !late {
				s.unchanged(p, before, "the first record failed")
			}
			rec.heal()
			if failed && n%2 == 0 {
				if err := s.attemptAll(tgt, ship, rec); err != nil {
					s.Fatalf("after call %d of the recorder failed, the job does not go on: %v", n, err)
				}
				s.same(p, ship)
			}
			if err := UndoAll(s.ctx(), tgt, rec); err != nil {
				s.Fatal(err)
			}
			s.unchanged(p, before, fmt.Sprintf("undoing a job whose record %d failed (late: %v)", n, late))
			if err := tgt.Close(); err != nil {
				s.Errorf("Close: %v", err)
			}
			if s.Failed() || !failed {
				break
			}
		}
	}
}

// attemptAll is a restore that gives up at the first error.
func (s *suite) attemptAll(tgt target.Target, ship *shipment, rec target.Recorder) (err error) {
	sess, err := tgt.Begin(s.ctx(), ship.order, rec)
	if err != nil {
		return fmt.Errorf("cannot begin: %w", err)
	}
	defer func() { err = errors.Join(err, sess.Close(s.ctx())) }()
	for i := range ship.disks {
		landed, err := ship.delivery(i).attempt(s.ctx(), sess)
		if err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
		if err := ship.delivery(i).check(landed); err != nil {
			return err
		}
	}
	if _, err := sess.Finish(s.ctx()); err != nil {
		return fmt.Errorf("cannot finish: %w", err)
	}
	return nil
}

// occupied has something foreign stand in the way.
func (s *suite) occupied() {
	p := s.h.New(s)
	occ, ok := p.(Occupier)
	if !ok {
		return
	}
	ship := s.ship(p, contents()[0])
	occ.Occupy(s, ship.order)
	s.refused(p, ship)
}

// sameName restores a name that another job has restored already.
func (s *suite) sameName() {
	if !s.h.UniqueNames {
		return
	}
	p := s.h.New(s)
	first := s.ship(p, contents()[0])
	s.whole(p, first, new(MemRecorder))
	s.refused(p, s.shipAs(p, first.order.Machine.Name, "another-job", contents()[0]))
	s.same(p, first)
}

// refused asserts that a restore is refused with ErrExists and that undoing it
// touches nothing.
func (s *suite) refused(p Peer, ship *shipment) {
	s.Helper()
	before := s.inventoryOf(p)
	rec := new(MemRecorder)
	tgt := s.open(p)
	if err := s.attemptAll(tgt, ship, rec); !errors.Is(err, target.ErrExists) {
		s.Errorf("a restore to a name that is taken: %v, want ErrExists", err)
	}
	if err := UndoAll(s.ctx(), tgt, rec); err != nil {
		s.Error(err)
	}
	s.unchanged(p, before, "undoing a restore that was refused")
}

// twoJobs restores two machines at once and undoes one of them.
func (s *suite) twoJobs() {
	p := s.h.New(s)
	before := s.inventoryOf(p)
	one, two := s.ship(p, small()), s.ship(p, contents()[4], contents()[0])
	recOne, recTwo := new(MemRecorder), new(MemRecorder)
	tgt := s.open(p)
	first, second := s.begin(tgt, one.order, recOne), s.begin(tgt, two.order, recTwo)
	s.half(first, one.delivery(0))
	s.deliverAll(second, two)
	s.finish(second, two.order)
	if err := first.Close(s.ctx()); err != nil {
		s.Errorf("Session.Close: %v", err)
	}
	if err := UndoAll(s.ctx(), tgt, recOne); err != nil {
		s.Error(err)
	}
	s.same(p, two)
	if err := second.Close(s.ctx()); err != nil {
		s.Errorf("Session.Close: %v", err)
	}
	s.whole(p, one, new(MemRecorder))
	s.same(p, two)
	if err := UndoAll(s.ctx(), tgt, recTwo); err != nil {
		s.Error(err)
	}
	s.same(p, one)
	if slices.Equal(before, s.inventoryOf(p)) {
		s.Error("undoing one machine removed the other")
	}
}
