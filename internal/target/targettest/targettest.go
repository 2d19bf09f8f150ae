// Package targettest is the conformance suite that every target must pass. A
// connector's test describes its peer (a simulator, a real server, a folder) as
// a Peer and calls Run once for every Delivery it offers:
//
//	func TestConformance(t *testing.T) {
//		for _, d := range deliveries {
//			targettest.Run(t, targettest.Harness{Delivery: d, New: newPeer})
//		}
//	}
//
// The files that are sent are made by qemu-img, so that the suite shares no
// code with package image; what the peer holds is compared byte by byte with
// what qemu-img reads in the file that was sent.
package targettest

import (
	"context"
	"os/exec"
	"testing"

	"ascend/internal/target"
)

// Harness is one way of delivery of one connector, under test.
type Harness struct {
	// New makes a fresh peer that nobody else uses. It cleans up with t.Cleanup.
	New func(t testing.TB) Peer
	// Delivery is the way under test, one of the target's Capabilities.
	Delivery target.Delivery
	// MaxName, when not 0, is the number of bytes of a machine's name above which
	// the target may refuse it: permanently, and before anything is created.
	MaxName int
	// UniqueNames: the peer cannot have two machines of one name, so that the
	// second restore of a name is refused with target.ErrExists.
	UniqueNames bool
	// MaxDisks is the number of disks of the largest machine restored; 0 means 3.
	MaxDisks int
	// Light keeps to the bytes: restores of one and several disks, a few odd
	// contents, crashes and undoing. It is for the second and further deliveries of
	// a target, where they differ from the first in the file's format only.
	Light bool
}

// Peer is one platform as a test sees it, from outside the connector. The
// optional powers below are found by type assertion.
type Peer interface {
	// Open connects a new Target, as a new process would. The suite closes it.
	Open(t testing.TB) target.Target
	// Order fills in what is the platform's in an order that has a Machine and
	// Disks: Placement and Options.
	Order(t testing.TB, o *target.Order)
	// Read is what the peer holds for order.Disks[i] as the guest would see it.
	// Decode helps where the peer holds a file.
	Read(t testing.TB, o *target.Order, i int) []byte
	// Inventory lists everything that exists at the peer, one line for each
	// thing, with enough in it to see a change (a size, a digest, a power state).
	// It must not depend on time and need not be sorted.
	Inventory(t testing.TB) []string
}

// Runner is a Peer whose machines can be powered on. PowerOn of a target
// without it must be refused permanently.
type Runner interface {
	// Running tells whether the platform runs the machine.
	Running(t testing.TB, vm *target.VM) bool
}

// Occupier is a Peer where things may stand in the way.
type Occupier interface {
	// Occupy makes something foreign that has the name the order's machine would
	// get. A restore of it must be refused with target.ErrExists.
	Occupy(t testing.TB, o *target.Order)
}

// Breaker is a Peer that knows what wrong settings are.
type Breaker interface {
	// Break opens targets that cannot work: a wrong password, a folder that is
	// not there, … by a name for each. Each must fail at least one check of
	// Validate. When Open itself refuses, the peer asserts on that and leaves
	// the target out.
	Break(t testing.TB) map[string]target.Target
}

// Crasher is a Peer that can do to a Target what the death of its process
// does: connections break, nothing is closed properly.
type Crasher interface {
	Crash(t testing.TB, tgt target.Target)
}

// Staller is a Peer that can stop taking bytes without breaking connections.
type Staller interface {
	// Stall makes every transfer of disk bytes hang until release is called.
	Stall(t testing.TB) (release func())
}

// Faulty is a Peer that can misbehave.
type Faulty interface {
	// Faults lists what can go wrong and is to be survived by trying again.
	Faults() []Fault
}

// Fault is something that goes wrong at the peer.
type Fault struct {
	Name string // "connection breaks at byte 70000", "503 for three requests", …
	// Arm makes it go wrong during the next upload. It is called after Begin.
	Arm func(t testing.TB, o *target.Order)
}

// Run runs the suite. Each subtest has a peer of its own.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Fatal("qemu-img is needed: apt-get install qemu-utils")
	}
	if h.MaxDisks == 0 {
		h.MaxDisks = 3
	}
	for _, c := range []struct {
		name string
		full bool // not when Light
		run  func(*suite)
	}{
		{"Restore", false, (*suite).restore},
		{"SeveralDisks", false, (*suite).severalDisks},
		{"Contents", false, (*suite).contents},
		{"Names", true, (*suite).names},
		{"Capabilities", false, (*suite).capabilities},
		{"Validate", true, (*suite).validate},
		{"Inventory", true, (*suite).inventory},
		{"BeginTwice", true, (*suite).beginTwice},
		{"CompleteTwice", true, (*suite).completeTwice},
		{"FinishIncomplete", true, (*suite).finishIncomplete},
		{"Misuse", true, (*suite).misuse},
		{"WrongDigest", true, (*suite).wrongDigest},
		{"ShortStream", true, (*suite).shortStream},
		{"RepeatedRanges", true, (*suite).repeatedRanges},
		{"BrokenReader", true, (*suite).brokenReader},
		{"Cancel", true, (*suite).cancel},
		{"CancelStalled", true, (*suite).cancelStalled},
		{"Crash", false, (*suite).crash},
		{"Faults", true, (*suite).faults},
		{"Undo", false, (*suite).undo},
		{"UndoForeignIntents", true, (*suite).undoForeignIntents},
		{"RecordFails", true, (*suite).recordFails},
		{"Occupied", true, (*suite).occupied},
		{"SameName", true, (*suite).sameName},
		{"TwoJobs", true, (*suite).twoJobs},
		{"PowerOn", true, (*suite).powerOn},
	} {
		if c.full && h.Light {
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.run(&suite{T: t, h: h}) })
	}
}

// suite is one subtest's view.
type suite struct {
	*testing.T
	h Harness
}

// sub runs a part of the subtest under a name of its own.
func (s *suite) sub(name string, f func(*suite)) {
	s.Helper()
	s.Run(name, func(t *testing.T) { f(&suite{T: t, h: s.h}) })
}

// ctx ends when the test does.
func (s *suite) ctx() context.Context { return s.Context() }

// open connects to the peer and closes at the test's end.
func (s *suite) open(p Peer) target.Target {
	s.Helper()
	tgt := p.Open(s)
	s.Cleanup(func() {
		if err := tgt.Close(); err != nil {
			s.Errorf("Close: %v", err)
		}
	})
	return tgt
}

// begin begins or dies.
func (s *suite) begin(tgt target.Target, o *target.Order, rec target.Recorder) target.Session {
	s.Helper()
	sess, err := tgt.Begin(s.ctx(), o, rec)
	if err != nil {
		s.Fatalf("Begin: %v", err)
	}
	return sess
}

// finish makes the machine or dies.
func (s *suite) finish(sess target.Session, o *target.Order) *target.VM {
	s.Helper()
	vm, err := sess.Finish(s.ctx())
	if err != nil {
		s.Fatalf("Finish: %v", err)
	}
	if vm == nil || vm.ID == "" || vm.Name == "" {
		s.Fatalf("Finish gave no identity: %+v", vm)
	}
	return vm
}

// whole restores an order from beginning to end on a new connection.
func (s *suite) whole(p Peer, ship *shipment, rec target.Recorder) *target.VM {
	s.Helper()
	sess := s.begin(s.open(p), ship.order, rec)
	s.deliverAll(sess, ship)
	vm := s.finish(sess, ship.order)
	s.same(p, ship)
	if err := sess.Close(s.ctx()); err != nil {
		s.Errorf("Session.Close: %v", err)
	}
	return vm
}

// same compares all that landed with what was sent.
func (s *suite) same(p Peer, ship *shipment) {
	s.Helper()
	for i, d := range ship.disks {
		compare(s, ship.order.Disks[i].Delivery.Format.String(), p.Read(s, ship.order, i), d.want)
	}
}
