package nutanix

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"ascend/internal/target"
)

// Kinds of recorded resources. A parts record holds the ETags of parts that
// landed; it stands for nothing of its own.
const (
	kindObject = "object"
	kindParts  = "parts"
	kindImage  = "image"
	kindVM     = "vm"
)

// Keys of a recorded resource's Data.
const (
	dataRequest = "request" // NTNX-Request-Id, made before it is used
	dataTask    = "task"    // that makes the resource
	dataUpload  = "upload"  // S3's identifier of a multipart upload
	dataBytes   = "bytes"   // length of the file
)

var errClosed = errors.New("the session is closed")

// session is one restore under way.
type session struct {
	t     *prism
	api   api
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
	vm     string                     // identifier of the machine, once it exists
}

// newSession finds where the order's parts go, and what of them is there
// already. It creates nothing.
func (t *prism) newSession(ctx context.Context, o *target.Order, rec target.Recorder, recorded []target.Resource) (*session, error) {
	n := len(o.Disks)
	a, err := t.api(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{t: t, api: a, order: o, rec: rec, res: map[string]target.Resource{}, landed: make([]*target.Landed, n), ups: make([]target.Upload, n)}
	for _, r := range recorded {
		s.res[r.Kind+"\x00"+r.Name] = r
	}
	if s.name, err = displayName(o.Machine.Name); err != nil {
		return nil, err
	}
	if s.place, err = t.locate(ctx, a, o); err != nil {
		return nil, err
	}
	spec, err := s.spec(make([]string, n)) // to be told before the first byte
	if err == nil && t.old {
		_, err = v3Spec(spec)
	}
	if err != nil {
		return nil, err
	}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	for i := range o.Disks {
		r := s.resource(kindImage, thing(o.Job, i))
		if !r.Done || r.Data[dataBytes] != strconv.FormatInt(o.Disks[i].FileSize, 10) {
			continue
		}
		there := s.vm != ""
		if !there && !r.Gone {
			if there, err = a.imageThere(ctx, r.ID, r.Name); err != nil {
				return nil, err
			}
		}
		if there {
			s.landed[i] = s.landing(r.ID, i)
		}
	}
	s.life, s.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	return s, nil
}

func (s *session) landing(id string, i int) *target.Landed {
	verdict := "sha256 of the file"
	if s.t.old {
		verdict = "sha256 of the file, read back"
	}
	return &target.Landed{Object: id, Bytes: s.order.Disks[i].FileSize, Verdict: verdict}
}

// look finds the job's machine and refuses a name that others have.
func (s *session) look(ctx context.Context) error {
	r := s.resource(kindVM, s.name)
	all, err := s.api.machinesNamed(ctx, s.name)
	if err != nil {
		return err
	}
	for _, m := range all {
		if m.Name != s.name {
			continue
		}
		if !marked(m.About, s.order.Job) {
			return &target.Problem{Msg: fmt.Sprintf("a machine named %q already exists", s.name), Hint: "restore under another name", Kind: target.ErrExists}
		}
		if r.Done && !r.Gone { // else it may be half made: Finish sees to that
			s.vm = m.ID
		}
	}
	return nil
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

// gone records that the job removed a resource itself.
func (s *session) gone(ctx context.Context, kind, name string) error {
	r := s.resource(kind, name)
	if r.Name == "" || r.Gone {
		return nil
	}
	r.Gone = true
	return s.record(ctx, r)
}

// made is something that a task makes.
type made struct {
	kind, name string
	data       map[string]string // recorded with it
	find       func() (id string, err error)
	ready      func(id string) error // nil when what was found is made whole
	start      func(request string) (task string, err error)
	remove     func(id string) error
}

// errHalf is what is found half made, by a task that is not known.
var errHalf = &target.Problem{Msg: "what an earlier attempt began is still being made", Hint: "try again in a moment; if that does not help, undo the job and begin again"}

// make makes an image or a machine once. The intent is recorded with the request
// identifier that makes the call idempotent, then the task, then the result. What
// an earlier process began is waited for or found. After a failure what is left
// is removed, and the next attempt is another request.
func (s *session) make(ctx context.Context, m made) (target.Resource, error) {
	intent := func() (target.Resource, error) {
		r := target.Resource{Kind: m.kind, Name: m.name, Data: map[string]string{dataRequest: newRequest()}}
		maps.Copy(r.Data, m.data)
		return r, s.record(ctx, r)
	}
	done := func(r target.Resource, id string) (target.Resource, error) {
		r.ID, r.Done = id, true
		return r, s.record(ctx, r)
	}
	r := s.resource(m.kind, m.name)
	task := r.Data[dataTask]
	if r.Data[dataRequest] == "" || r.Gone {
		var err error
		if r, err = intent(); err != nil {
			return r, err
		}
		task = ""
	}
	if r.Done || task == "" {
		id, err := m.find()
		switch {
		case err != nil:
			return r, err
		case r.Done && r.ID == id:
			return r, nil
		case id != "": // its task is not known
			if err := m.ready(id); err != nil {
				return r, err
			}
			return done(r, id)
		case r.Done: // somebody removed it
			if r, err = intent(); err != nil {
				return r, err
			}
			task = ""
		}
	}
	if task == "" {
		var err error
		if task, err = m.start(r.Data[dataRequest]); err != nil {
			if statusOf(err) == http.StatusConflict { // the identifier was used for another request
				_, rerr := intent()
				err = errors.Join(err, rerr)
			}
			return r, err
		}
		r.Data = maps.Clone(r.Data)
		r.Data[dataTask] = task
		if err := s.record(ctx, r); err != nil {
			return r, err
		}
	}
	id, err := s.api.wait(ctx, task)
	if err == nil && id != "" {
		return done(r, id)
	}
	var failed *taskError
	if err != nil && !errors.As(err, &failed) && !isGone(err) {
		return r, err
	}
	// It failed, or Prism Central has forgotten the task: what is there tells.
	left, ferr := m.find()
	if ferr == nil && left != "" && failed == nil {
		if err := m.ready(left); err != nil {
			return r, err
		}
		return done(r, left)
	}
	if ferr == nil && left != "" {
		ferr = m.remove(left)
	}
	if err == nil {
		err = errors.New("the platform does not tell what it made")
	}
	_, rerr := intent()
	return r, errors.Join(err, ferr, rerr)
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
	if s.t.old {
		u, err = s.openFile(ctx, i)
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

// Finish makes the machine of the disks that have landed, powered off, and
// deletes their images. It may be repeated.
func (s *session) Finish(ctx context.Context) (*target.VM, error) {
	fail := func(err error) (*target.VM, error) {
		return nil, fmt.Errorf("cannot finish restoring %q: %w", s.order.Machine.Name, translate(err))
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	s.mu.Lock()
	landed, id := slices.Clone(s.landed), s.vm
	s.mu.Unlock()
	for i, l := range landed {
		if l == nil {
			return fail(target.Permanent(fmt.Sprintf("disk %d has not been completed", i), ""))
		}
	}
	if id == "" {
		var err error
		if id, err = s.createVM(ctx, landed); err != nil {
			return fail(err)
		}
	}
	for i, l := range landed {
		if err := s.discard(ctx, i, l.Object); err != nil {
			return fail(fmt.Errorf("the machine is made, but what disk %d was uploaded as cannot be deleted: %w", i, translate(err)))
		}
	}
	return &target.VM{ID: id, Name: s.name, URL: s.t.page(id)}, nil
}

// discard deletes what only served to make the machine: the image of disk i, and
// its object where a crash left it.
func (s *session) discard(ctx context.Context, i int, image string) error {
	name := thing(s.order.Job, i)
	if r := s.resource(kindObject, name); r.Name != "" && !r.Gone {
		if err := s.t.c.deleteObject(ctx, name); err != nil {
			return err
		}
		if err := s.gone(ctx, kindObject, name); err != nil {
			return err
		}
	}
	if s.resource(kindImage, name).Gone {
		return nil
	}
	if err := s.api.deleteImage(ctx, image); err != nil {
		return err
	}
	return s.gone(ctx, kindImage, name)
}

func (s *session) createVM(ctx context.Context, landed []*target.Landed) (string, error) {
	if err := s.look(ctx); err != nil {
		return "", err
	}
	var images []string
	for _, l := range landed {
		images = append(images, l.Object)
	}
	spec, err := s.spec(images)
	if err != nil {
		return "", err
	}
	find := func() (string, error) {
		all, err := s.api.machinesNamed(ctx, s.name)
		for _, m := range all {
			if m.Name == s.name && marked(m.About, s.order.Job) {
				return m.ID, nil
			}
		}
		return "", err
	}
	r, err := s.make(ctx, made{
		kind: kindVM, name: s.name, find: find,
		ready: func(id string) error {
			m, err := s.api.machine(ctx, id)
			if err == nil && (m == nil || m.pending || len(m.Disks) < len(images)) {
				err = errHalf
			}
			return err
		},
		start:  func(request string) (string, error) { return s.api.createVM(ctx, request, spec) },
		remove: func(id string) error { return s.api.deleteVM(ctx, id) },
	})
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.vm = r.ID
	s.mu.Unlock()
	return r.ID, nil
}

// page is where a person can look at a machine.
func (t *prism) page(id string) string {
	u := &url.URL{Scheme: t.cfg.base.Scheme, Host: t.cfg.base.Host, Path: "/console/", Fragment: "page/explore/s/vms/details/" + strings.ToLower(id)}
	return u.String()
}

// PowerOn starts the machine and waits until it runs.
func (s *session) PowerOn(ctx context.Context, v *target.VM) error {
	if err := s.api.powerOn(ctx, v.ID); err != nil {
		// Somebody else may have started it meanwhile.
		if m, gerr := s.api.machine(ctx, v.ID); gerr == nil && m != nil && m.Power == "ON" {
			return nil
		}
		return fmt.Errorf("cannot power %q on: %w", v.Name, translate(err))
	}
	return nil
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
