package targettest

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"ascend/internal/disk"
	"ascend/internal/target"
)

// restore is one disk from beginning to end.
func (s *suite) restore() {
	p := s.h.New(s)
	ship := s.ship(p, small())
	before := s.inventoryOf(p)
	tgt := s.open(p)
	sess := s.begin(tgt, ship.order, new(MemRecorder))
	landed := s.deliverAll(sess, ship)
	rb, readsBack := target.As[target.ReadBacker](sess)
	if readsBack {
		s.readBack(rb, ship)
	}
	vm := s.finish(sess, ship.order)
	again := s.finish(sess, ship.order)
	if *again != *vm {
		s.Errorf("the second Finish gave %+v, not %+v", *again, *vm)
	}
	if readsBack {
		s.readBack(rb, ship)
	}
	if err := sess.Close(s.ctx()); err != nil {
		s.Errorf("Session.Close: %v", err)
	}
	s.same(p, ship)
	if r, ok := target.As[target.Reader](s.open(p)); ok {
		d, err := r.ReadLanded(s.ctx(), landed[0].Object, s.h.Delivery.Format)
		s.reads("ReadLanded", d, err, ship.disks[0].want)
		if d, err := r.ReadLanded(s.ctx(), landed[0].Object+"-not-there", s.h.Delivery.Format); err == nil {
			s.Errorf("ReadLanded of what never landed gave a disk of %d bytes", d.Size())
		}
	}
	if after := s.inventoryOf(p); slices.Equal(before, after) {
		s.Errorf("the peer's inventory does not show the restore: %q", after)
	}
}

// readBack compares what the session reads back.
func (s *suite) readBack(rb target.ReadBacker, ship *shipment) {
	s.Helper()
	for i, d := range ship.disks {
		back, err := rb.ReadBack(s.ctx(), i)
		s.reads("ReadBack", back, err, d.want)
	}
}

// reads compares what an opened disk, or the error instead, gives, and closes it.
func (s *suite) reads(what string, d disk.Disk, err error, want []byte) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", what, err)
	}
	got := make([]byte, d.Size())
	if n, err := d.ReadAt(got, 0); n != len(got) {
		s.Errorf("%s: read %d of %d bytes: %v", what, n, len(got), err)
	}
	compare(s, what, got, want)
	if err := d.Close(); err != nil {
		s.Errorf("%s: cannot close: %v", what, err)
	}
}

// severalDisks sends the largest machine's disks at once.
func (s *suite) severalDisks() {
	p := s.h.New(s)
	all := []content{small(), contents()[4], contents()[0], contents()[7], contents()[3]}
	var disks []content
	for i := range s.h.MaxDisks {
		c := all[i%len(all)]
		c.name = fmt.Sprintf("%s, disk %d", c.name, i)
		disks = append(disks, c)
	}
	s.whole(p, s.ship(p, disks...), new(MemRecorder))
}

// contents restores each odd disk.
func (s *suite) contents() {
	all := contents()
	if s.h.Light {
		all = lightContents()
	}
	for _, c := range all {
		s.sub(c.name, func(s *suite) {
			p := s.h.New(s)
			s.whole(p, s.ship(p, c), new(MemRecorder))
		})
	}
}

// hostileNames are machine names people have, or would like us to have.
func hostileNames() []string {
	return []string{
		"plain",
		"two words",
		"Büro-Server № 5 サーバー 🖥",
		`it's "quoted"`,
		"$(touch /tmp/owned)",
		"`id`; rm -rf x & | > y",
		"../../etc/passwd",
		"a/b\\c",
		".hidden",
		"-rf",
		"..",
		"%2e%2e%2f %s %n",
		"<name attr=\"&amp;\">",
		"{{.Name}} ${job}",
		"trailing dot.",
		"tab\tand\nnewline",
		"CON",
		strings.Repeat("long name ", 20), // 200 bytes
		strings.Repeat("ü", 200),         // 400 bytes
	}
}

// names restores a machine under each name and undoes it again.
func (s *suite) names() {
	p := s.h.New(s)
	before := s.inventoryOf(p)
	for i, name := range hostileNames() {
		ship := s.shipAs(p, name, fmt.Sprintf("job-names-%d", i), contents()[0])
		rec := new(MemRecorder)
		tgt := s.open(p)
		sess, err := tgt.Begin(s.ctx(), ship.order, rec)
		if err != nil {
			if s.h.MaxName == 0 || len(name) <= s.h.MaxName {
				s.Errorf("name %q is refused: %v", name, err)
			} else if !target.IsPermanent(err) {
				s.Errorf("name %q is refused with an error that invites to try again: %v", name, err)
			}
			s.unchanged(p, before, "a refused name")
			continue
		}
		s.deliverAll(sess, ship)
		s.finish(sess, ship.order)
		s.same(p, ship)
		if err := sess.Close(s.ctx()); err != nil {
			s.Errorf("name %q: Session.Close: %v", name, err)
		}
		if err := UndoAll(s.ctx(), tgt, rec); err != nil {
			s.Errorf("name %q: %v", name, err)
		}
		s.unchanged(p, before, fmt.Sprintf("undoing name %q", name))
	}
}

// capabilities must be data that makes sense.
func (s *suite) capabilities() {
	caps := s.open(s.h.New(s)).Capabilities()
	d := s.h.Delivery
	if !slices.ContainsFunc(caps.Deliveries, func(c target.Delivery) bool {
		return c.Format == d.Format && c.Path == d.Path && c.Mode == d.Mode
	}) {
		s.Errorf("the Delivery under test is not among the Capabilities")
	}
	if caps.Platform == "" || len(caps.Firmware) == 0 || len(caps.Arch) == 0 || len(caps.Controllers) == 0 {
		s.Errorf("Capabilities leave out platform, firmware, architecture or controllers: %+v", caps)
	}
	for _, d := range caps.Deliveries {
		switch {
		case d.Mode != target.Ranges && d.Mode != target.Ordered:
			s.Errorf("%s: mode %q", d.Format, d.Mode)
		case d.Format.Ordered() && d.Mode == target.Ranges:
			s.Errorf("%s is made in order and cannot be sent as ranges", d.Format)
		case d.Mode == target.Ranges && (len(d.Digests) > 0 || d.Patchable):
			s.Errorf("%s: Digests and Patchable are for streams", d.Format)
		case d.Patchable && len(d.Digests) > 0:
			s.Errorf("%s: a stream that is patched has no digest in passing", d.Format)
		case d.Format.Ordered() && d.NeedSize:
			s.Errorf("%s: the size of an ordered stream is not known before", d.Format)
		case d.Block < 0 || d.MaxRange < 0 || d.Align < 0 || d.MinSize < 0 || d.Workers < 0:
			s.Errorf("%s: a negative bound: %+v", d.Format, d)
		case d.Block > 0 && d.MaxRange > 0 && d.MaxRange%d.Block != 0:
			s.Errorf("%s: MaxRange %d is not whole blocks of %d", d.Format, d.MaxRange, d.Block)
		case d.Padded(d.MinSize) != d.MinSize:
			s.Errorf("%s: MinSize %d is not a multiple of %d", d.Format, d.MinSize, d.Align)
		case d.Path == "":
			s.Errorf("%s: no Path", d.Format)
		}
	}
}

// validate must pass on the peer and fail on broken settings.
func (s *suite) validate() {
	p := s.h.New(s)
	before := s.inventoryOf(p)
	checks := s.open(p).Validate(s.ctx())
	if len(checks) == 0 {
		s.Error("Validate makes no checks")
	}
	for _, c := range checks {
		if c.Name == "" {
			s.Errorf("a check without a name: %+v", c)
		}
		if !c.OK {
			s.Errorf("check %q failed: %s (%s)", c.Name, c.Detail, c.Hint)
		}
	}
	s.unchanged(p, before, "Validate")
	b, ok := p.(Breaker)
	if !ok {
		return
	}
	for name, tgt := range b.Break(s) {
		checks := tgt.Validate(s.ctx())
		failed := slices.IndexFunc(checks, func(c target.Check) bool { return !c.OK })
		switch {
		case failed < 0:
			s.Errorf("%s: no check fails: %+v", name, checks)
		case checks[failed].Detail == "" || checks[failed].Hint == "":
			s.Errorf("%s: the failed check gives no reason or no hint: %+v", name, checks[failed])
		}
		if err := tgt.Close(); err != nil {
			s.Errorf("%s: Close: %v", name, err)
		}
	}
}

// inventory must list places, and the machine once it is there.
func (s *suite) inventory() {
	p := s.h.New(s)
	ship := s.ship(p, contents()[0])
	tgt := s.open(p)
	vm := s.whole(p, ship, new(MemRecorder))
	before := s.inventoryOf(p)
	inv, err := tgt.Inventory(s.ctx())
	if err != nil {
		s.Fatalf("Inventory: %v", err)
	}
	if len(inv.Places) == 0 {
		s.Error("Inventory has no places")
	}
	for field, places := range inv.Places {
		if len(places) == 0 || slices.ContainsFunc(places, func(p target.Place) bool { return p.Name == "" }) {
			s.Errorf("Inventory: places for %q: %+v", field, places)
		}
	}
	if !slices.Contains(inv.Taken, vm.Name) {
		s.Errorf("Inventory: %q is not among the taken names %q", vm.Name, inv.Taken)
	}
	if inv.Asked.IsZero() {
		s.Error("Inventory does not say when it was asked")
	}
	s.unchanged(p, before, "Inventory")
}

// powerOn starts the machine where the peer can tell, and is refused elsewhere.
func (s *suite) powerOn() {
	p := s.h.New(s)
	before := s.inventoryOf(p)
	ship := s.ship(p, small())
	ship.order.PowerOn = true
	rec := new(MemRecorder)
	tgt := s.open(p)
	sess := s.begin(tgt, ship.order, rec)
	s.deliverAll(sess, ship)
	vm := s.finish(sess, ship.order)
	r, runs := p.(Runner)
	if runs && r.Running(s, vm) {
		s.Error("the machine runs before PowerOn")
	}
	err := sess.PowerOn(s.ctx(), vm)
	switch {
	case !runs && !errors.Is(err, target.ErrPermanent):
		s.Errorf("PowerOn of a target that has none: %v, want ErrPermanent", err)
	case runs && err != nil:
		s.Errorf("PowerOn: %v", err)
	case runs && !r.Running(s, vm):
		s.Error("the machine does not run after PowerOn")
	case runs:
		if err := sess.PowerOn(s.ctx(), vm); err != nil {
			s.Errorf("PowerOn of a running machine: %v", err)
		}
	}
	if err := sess.Close(s.ctx()); err != nil {
		s.Errorf("Session.Close: %v", err)
	}
	if err := UndoAll(s.ctx(), tgt, rec); err != nil {
		s.Error(err)
	}
	s.unchanged(p, before, "undoing a running machine")
}

// inventoryOf is the peer's inventory, sorted.
func (s *suite) inventoryOf(p Peer) []string {
	s.Helper()
	inv := slices.Clone(p.Inventory(s))
	slices.Sort(inv)
	return inv
}

// unchanged compares the peer's inventory with an earlier one.
func (s *suite) unchanged(p Peer, before []string, after string) {
	s.Helper()
	now := s.inventoryOf(p)
	for _, line := range now {
		if !slices.Contains(before, line) {
			s.Errorf("after %s the peer has %s", after, line)
		}
	}
	for _, line := range before {
		if !slices.Contains(now, line) {
			s.Errorf("after %s the peer lacks %s", after, line)
		}
	}
	if !s.Failed() && !slices.Equal(now, before) {
		s.Errorf("after %s the peer has %q, before %q", after, now, before)
	}
}
