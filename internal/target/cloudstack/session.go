package cloudstack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"

	"ascend/internal/target"
)

// Kinds of recorded resources.
const (
	kindVM       = "vm"
	kindVolume   = "volume"
	kindTemplate = "template"
	kindFile     = "file" // of primary storage, below pool_dir
)

// Keys of a recorded resource's Data.
const (
	dataBytes = "bytes" // length of the file that landed
	dataDir   = "dir"   // folder of a file
)

// session is one restore under way.
type session struct {
	t             *cloud
	f             *facts
	order         *target.Order
	path          string
	rec           target.Recorder
	place         *place
	display, host string
	life          context.Context // ends with the session; its cause says why
	stop          context.CancelCauseFunc
	gate          chan struct{} // bounds the uploads that run at once

	mu    sync.Mutex
	disks []diskState
	vm    string // identifier of the machine, once it exists
}

// diskState is what is known of one disk.
type diskState struct {
	id     string // of the volume or template
	landed *target.Landed
	up     target.Upload // under way
}

var errClosed = errors.New("the session is closed")

// newSession finds where the order's parts go, and what of them is there
// already. It creates nothing.
func (t *cloud) newSession(ctx context.Context, o *target.Order, path string, rec target.Recorder, recorded []target.Resource) (*session, error) {
	f, err := t.known(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{t: t, f: f, order: o, path: path, rec: rec, gate: make(chan struct{}, t.cfg.parallel), disks: make([]diskState, len(o.Disks))}
	if s.display, err = displayName(o.Machine.Name); err != nil {
		return nil, err
	}
	if s.host = o.Options[optHostName]; s.host == "" {
		s.host = hostName(s.display, o.Job)
	}
	if s.place, err = t.locate(ctx, f, o, path); err != nil {
		return nil, err
	}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	for i := range o.Disks {
		if err := s.restore(ctx, i, recorded); err != nil {
			return nil, err
		}
	}
	s.life, s.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	return s, nil
}

// look finds the job's machine and refuses a name that others have.
func (s *session) look(ctx context.Context) error {
	all, err := s.t.machinesNamed(ctx, s.f, s.display)
	if err != nil {
		return err
	}
	m := ours(all, s.order.Job)
	switch {
	case m != nil && m.State == "Error":
		// A deployment that failed leaves a machine that cannot be used.
		return s.t.undoVM(ctx, s.f, target.Resource{Job: s.order.Job, Kind: kindVM, ID: m.ID, Name: s.display})
	case m != nil:
		s.vm = m.ID
	case len(all) > 0:
		return &target.Problem{
			Msg:  fmt.Sprintf("a machine named %q already exists", s.display),
			Hint: "restore under another name", Kind: target.ErrExists,
		}
	}
	return nil
}

func (s *session) isBoot(i int) bool { return i == s.order.Machine.BootDisk() }

// kind is what disk i is while it travels.
func (s *session) kind(i int) string {
	switch {
	case s.path == pathImport:
		return kindFile
	case s.path == pathTemplate && s.isBoot(i):
		return kindTemplate
	}
	return kindVolume
}

func (s *session) name(i int) string {
	if s.path == pathImport {
		return thing(s.order.Job, i) + ".qcow2"
	}
	return thing(s.order.Job, i)
}

// restore finds disk i where an earlier session completed it.
func (s *session) restore(ctx context.Context, i int, recorded []target.Resource) error {
	want := strconv.FormatInt(s.order.Disks[i].FileSize, 10)
	for _, r := range recorded {
		if r.Kind != s.kind(i) || r.Name != s.name(i) || !r.Done || r.Data[dataBytes] != want {
			continue
		}
		there := s.vm != ""
		if !there && !r.Gone {
			var err error
			if there, err = s.there(ctx, i, r.ID); err != nil {
				return err
			}
		}
		if there {
			s.disks[i] = diskState{id: r.ID, landed: &target.Landed{Object: r.ID, Bytes: s.order.Disks[i].FileSize}}
		}
	}
	return nil
}

// there tells whether what disk i was uploaded as is there and whole.
func (s *session) there(ctx context.Context, i int, id string) (bool, error) {
	switch s.kind(i) {
	case kindFile:
		size, err := s.t.fileSize(s.name(i))
		return size == s.order.Disks[i].FileSize, err
	case kindTemplate:
		t, err := s.t.templateNamed(ctx, s.f, s.name(i))
		return t != nil && t.ID == id && t.Ready, err
	}
	v, err := s.t.volumeNamed(ctx, s.f, s.name(i))
	return v != nil && v.ID == id && (v.State == "Uploaded" || v.State == "Ready"), err
}

// record stores a resource; nothing is created before it returns.
func (s *session) record(ctx context.Context, kind, name, id string, done bool, data map[string]string) error {
	r := target.Resource{Job: s.order.Job, Kind: kind, Name: name, ID: id, Done: done, Data: maps.Clone(data)}
	if err := s.rec.Record(ctx, r); err != nil {
		return fmt.Errorf("cannot record %s %s: %w", kind, name, err)
	}
	return nil
}

// arrived records that disk i has landed as id.
func (s *session) arrived(ctx context.Context, i int, id string) (*target.Landed, error) {
	size := s.order.Disks[i].FileSize
	data := map[string]string{dataBytes: strconv.FormatInt(size, 10)}
	if s.kind(i) == kindFile {
		data[dataDir] = s.t.cfg.poolDir
	}
	if err := s.record(ctx, s.kind(i), s.name(i), id, true, data); err != nil {
		return nil, err
	}
	l := &target.Landed{Object: id, Bytes: size}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disks[i].id, s.disks[i].landed = id, l
	return l, nil
}

// Upload opens the upload of disk i, anew unless it can be continued.
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
	if i < 0 || i >= len(s.disks) {
		return fail(target.Permanent(fmt.Sprintf("the machine has %d disks", len(s.disks)), ""))
	}
	s.mu.Lock()
	d := s.disks[i]
	s.mu.Unlock()
	if d.up != nil {
		_ = d.up.Abort()
	}
	var up target.Upload
	var err error
	switch {
	case d.landed != nil && s.order.Disks[i].Delivery.Mode == target.Ranges:
		up = &fileUpload{s: s, i: i, size: d.landed.Bytes, landed: d.landed, again: true}
	case d.landed != nil:
		up = landedStream(s, i, d.landed)
	case s.path == pathImport:
		up, err = s.openFile(ctx, i)
	case s.path == pathHotAdd:
		up, err = s.openDevice(ctx, i)
	default:
		up = newStream(s, i)
	}
	if err != nil {
		return fail(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disks[i].up = up
	return up, nil
}

// end stops everything that runs for the session.
func (s *session) end(cause error) {
	s.stop(cause)
	s.mu.Lock()
	disks := append([]diskState(nil), s.disks...)
	s.mu.Unlock()
	for _, d := range disks {
		if d.up != nil {
			_ = d.up.Abort()
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
