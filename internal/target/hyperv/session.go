package hyperv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostscript"
)

// Kinds of recorded resources.
const (
	kindFolder = "folder"
	kindFile   = "file"
	kindVM     = "vm"
)

// Keys of a recorded resource's Data.
const (
	dataFile   = "file"   // identity of a file that was made
	dataBytes  = "bytes"  // length of a file that has landed
	dataFolder = "folder" // of a machine
)

// session is one restore under way.
type session struct {
	t     *host
	order *target.Order
	rec   target.Recorder
	place *place
	name  string          // of the machine
	life  context.Context // ends with the session; its cause says why
	stop  context.CancelCauseFunc

	mu     sync.Mutex
	res    map[string]target.Resource // by kind and name
	landed []*target.Landed           // by disk
	ups    []target.Upload            // under way, by disk
}

// newSession finds where the order's parts go and what of them is there, and
// makes the folders.
func (t *host) newSession(ctx context.Context, o *target.Order, rec target.Recorder, recorded []target.Resource) (*session, error) {
	n := len(o.Disks)
	l, err := t.look(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{t: t, order: o, rec: rec, res: map[string]target.Resource{}, landed: make([]*target.Landed, n), ups: make([]target.Upload, n)}
	for _, r := range recorded {
		s.res[r.Kind+"\x00"+r.Name] = r
	}
	if s.name, err = displayName(o.Machine.Name); err != nil {
		return nil, err
	}
	if s.place, err = t.locate(l, o); err != nil {
		return nil, err
	}
	if _, err := s.spec(l); err != nil { // to be told before the first byte
		return nil, err
	}
	if err := s.taken(l); err != nil {
		return nil, err
	}
	if err := s.reach(ctx); err != nil {
		return nil, err
	}
	for _, f := range s.place.folders {
		if err := s.makeFolder(ctx, f); err != nil {
			return nil, err
		}
	}
	for i, f := range s.place.files {
		if r := s.resource(kindFile, f); r.Done && r.Data[dataBytes] == strconv.FormatInt(o.Disks[i].FileSize, 10) {
			s.landed[i] = s.landing(i)
		}
	}
	s.life, s.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	return s, nil
}

func (s *session) landing(i int) *target.Landed {
	l := &target.Landed{Object: s.place.files[i], Bytes: s.order.Disks[i].FileSize}
	if s.order.Disks[i].Delivery.Path == pathPull {
		l.Verdict = "sha256 of the file, computed by the host"
	}
	return l
}

// taken refuses a name that another machine has.
func (s *session) taken(l *hostscript.Look) error {
	for _, m := range l.Machines {
		if strings.EqualFold(m.Name, s.name) && m.Job != jobPart(s.order.Job) {
			return &target.Problem{Msg: fmt.Sprintf("a machine named %q already exists", s.name), Hint: "restore under another name", Kind: target.ErrExists}
		}
	}
	return nil
}

// reach opens each share once, so that what is wrong with it is said before
// anything is made.
func (s *session) reach(ctx context.Context) error {
	seen := map[string]bool{"": true}
	for _, at := range s.place.shares {
		if seen[at.share] {
			continue
		}
		seen[at.share] = true
		sh, err := s.t.share(ctx, at.share)
		if err != nil {
			return err
		}
		_ = sh.Close() // nothing was written
	}
	return nil
}

func (s *session) makeFolder(ctx context.Context, folder string) error {
	r := s.resource(kindFolder, folder)
	if r.Done && !r.Gone {
		return nil
	}
	r = target.Resource{Kind: kindFolder, Name: folder}
	if err := s.record(ctx, r); err != nil {
		return err
	}
	var made hostscript.Folder
	if err := s.t.run(ctx, hostscript.Request{Op: hostscript.OpFolder, Folder: folder}, &made); err != nil {
		return err
	}
	if made.Compressed || made.Encrypted {
		return target.Permanent(fmt.Sprintf("NTFS compresses or encrypts the files in %s, and Hyper-V starts no machine from such disks", folder), "choose another folder, or turn that off for this one")
	}
	r.ID, r.Done = folder, true
	return s.record(ctx, r)
}

func (s *session) resource(kind, name string) target.Resource {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.res[kind+"\x00"+name]
}

// record stores a resource; nothing is created before it returns.
func (s *session) record(ctx context.Context, r target.Resource) error {
	r.Job, r.Data = s.order.Job, maps.Clone(r.Data)
	if err := s.rec.Record(ctx, r); err != nil {
		return fmt.Errorf("cannot record the %s %s: %w", r.Kind, r.Name, err)
	}
	s.mu.Lock()
	s.res[r.Kind+"\x00"+r.Name] = r
	s.mu.Unlock()
	return nil
}

// Upload opens the upload of disk i, or continues it.
func (s *session) Upload(ctx context.Context, i int) (target.Upload, error) {
	fail := func(err error) (target.Upload, error) {
		return nil, fmt.Errorf("cannot upload disk %d: %w", i, translate(err))
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if s.life.Err() != nil {
		return fail(context.Cause(s.life))
	}
	if i < 0 || i >= len(s.order.Disks) {
		return fail(target.Permanent(fmt.Sprintf("the machine has %d disks", len(s.order.Disks)), ""))
	}
	s.mu.Lock()
	old := s.ups[i]
	s.mu.Unlock()
	if old != nil {
		_ = old.Abort() // never fails
	}
	var u target.Upload
	var err error
	if s.order.Disks[i].Delivery.Path == pathPull {
		u, err = s.openPull(ctx, i)
	} else {
		u, err = s.openUpload(ctx, i)
	}
	if err != nil {
		return fail(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ups[i] = u
	return u, nil
}

// settle has the host look at a file that was sent, and records that it landed.
// With sum, the host's SHA-256 of the file is compared.
func (s *session) settle(ctx context.Context, i int, sum string) (*target.Landed, error) {
	file, o := s.place.files[i], s.order.Disks[i]
	var d hostscript.Disk
	if err := s.t.run(ctx, hostscript.Request{Op: hostscript.OpDisk, File: file, Read: true, Digest: sum != ""}, &d); err != nil {
		return nil, err
	}
	wrong := func(format string, args ...any) error {
		return &target.Problem{Msg: "the host does not hold what was sent: " + fmt.Sprintf(format, args...), Hint: "undo the job and restore again; no machine was made of it", Kind: target.ErrDigest}
	}
	switch {
	case !d.Found:
		return nil, wrong("the file is not there")
	case d.Length != o.FileSize:
		return nil, wrong("its file has %d bytes and %d were sent", d.Length, o.FileSize)
	case d.Size != o.Virtual:
		return nil, wrong("Hyper-V reads a disk of %d bytes in it, not of %d", d.Size, o.Virtual)
	case sum != "" && !strings.EqualFold(d.SHA256, sum):
		return nil, wrong("the SHA-256 of its file is %s, not %s", d.SHA256, sum)
	}
	r := s.resource(kindFile, file)
	r.Data = map[string]string{dataFile: r.Data[dataFile], dataBytes: strconv.FormatInt(o.FileSize, 10)}
	if err := s.record(ctx, r); err != nil {
		return nil, err
	}
	l := s.landing(i)
	s.mu.Lock()
	s.landed[i] = l
	s.mu.Unlock()
	return l, nil
}

// Finish makes the machine of the disks that have landed, powered off. It may be
// repeated.
func (s *session) Finish(ctx context.Context) (*target.VM, error) {
	v, err := s.finish(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot finish restoring %q: %w", s.order.Machine.Name, translate(err))
	}
	return v, nil
}

func (s *session) finish(ctx context.Context) (*target.VM, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	landed := slices.Clone(s.landed)
	s.mu.Unlock()
	for i, l := range landed {
		if l == nil {
			return nil, target.Permanent(fmt.Sprintf("disk %d has not been completed", i), "")
		}
	}
	l, err := s.t.look(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.taken(l); err != nil {
		return nil, err
	}
	q, err := s.spec(l)
	if err != nil {
		return nil, err
	}
	r := s.resource(kindVM, s.name)
	if r.Name == "" || r.Gone {
		r = target.Resource{Kind: kindVM, Name: s.name, Data: map[string]string{dataFolder: s.place.folder}}
		if err := s.record(ctx, r); err != nil {
			return nil, err
		}
	}
	var made hostscript.Made
	if err := s.t.run(ctx, q, &made); err != nil {
		return nil, err
	}
	if made.ID == "" {
		return nil, errors.New("the host does not tell which machine it made")
	}
	if !r.Done || r.ID != made.ID {
		r.ID, r.Done = made.ID, true
		if err := s.record(ctx, r); err != nil {
			return nil, err
		}
	}
	return &target.VM{ID: made.ID, Name: s.name}, nil
}

// PowerOn starts the machine and waits until it runs and, where that is asked
// for, until the guest answers.
func (s *session) PowerOn(ctx context.Context, v *target.VM) error {
	if err := s.powerOn(ctx, v.ID); err != nil {
		return fmt.Errorf("cannot power %q on: %w", v.Name, translate(err))
	}
	return nil
}

// heartbeat is how long is waited for the guest; 0: not at all.
func heartbeat(options map[string]string) (time.Duration, error) {
	h := options[optHeartbeat]
	if h == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(h, 10, 20)
	if err != nil {
		return 0, target.Permanent(fmt.Sprintf("option %s: %q is no number of seconds", optHeartbeat, h), "")
	}
	return time.Duration(n) * time.Second, nil
}

func (s *session) powerOn(ctx context.Context, id string) error {
	beat, err := heartbeat(s.order.Options)
	if err != nil {
		return err
	}
	var now hostscript.State
	if err := s.t.run(ctx, hostscript.Request{Op: hostscript.OpStart, ID: id}, &now); err != nil {
		return err
	}
	start := time.Now()
	for pause := s.t.cfg.pause; ; pause = min(2*pause, s.t.cfg.maxPause) {
		runs, answers := now.State == "Running", strings.HasPrefix(now.Heartbeat, "Ok")
		switch age := time.Since(start); {
		case runs && (beat == 0 || answers):
			return nil
		case runs && age > beat:
			return &target.Problem{
				Msg:  fmt.Sprintf("the machine runs, and its integration services did not answer within %s (heartbeat %s)", beat, now.Heartbeat),
				Hint: "look at its console: vmconnect on the host; a guest without integration services never answers",
				Kind: target.ErrPermanent,
			}
		case !runs && age > s.t.cfg.boot:
			return &target.Problem{Msg: "the machine was started and is " + now.State, Hint: "look at the host: Event Viewer › Hyper-V-VMMS and Hyper-V-Worker"}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		if err := s.t.run(ctx, hostscript.Request{Op: hostscript.OpState, ID: id}, &now); err != nil {
			return err
		}
	}
}

// end stops everything that runs for the session.
func (s *session) end(cause error) {
	s.stop(cause)
	s.mu.Lock()
	ups := slices.Clone(s.ups)
	s.mu.Unlock()
	for _, u := range ups {
		if u != nil {
			_ = u.Abort() // never fails
		}
	}
}

// Close stops what is under way. What was created stays.
func (s *session) Close(context.Context) error {
	s.end(errClosed)
	s.t.mu.Lock()
	delete(s.t.open, s)
	s.t.mu.Unlock()
	return nil
}
