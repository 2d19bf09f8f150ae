package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
)

// Kinds of recorded resources.
const (
	kindVM     = "vm"
	kindFolder = "folder" // of a datastore
	kindFile   = "file"   // of a datastore
)

// Keys of a recorded resource's Data.
const (
	dataStage      = "stage"
	dataPath       = "path"
	dataDatacenter = "datacenter"
	dataFolder     = "folder" // the inventory folder's object
	dataPool       = "pool"
	dataLease      = "lease"
	dataDisks      = "disks" // UUIDs of the machine's disks, comma-separated
	dataDatastore  = "datastore"
	dataBytes      = "bytes"
	dataSHA1       = "sha1"
	dataVerdict    = "verdict"
	dataObject     = "object"
)

// Stages of a machine, in dataStage.
const (
	stageIntent   = "intent"   // about to be created
	stageSending  = "sending"  // exists, its disks are under way
	stageImported = "imported" // exists with all its disks
	stageFinished = "finished" // as ordered
)

// session is what the two ways have in common: one order on one connection.
type session struct {
	t     *vmware
	c     *conn
	order *target.Order
	rec   target.Recorder
	place *place
	hw    *hardware
	life  context.Context // ends with the session; its cause says why
	stop  context.CancelCauseFunc
	gate  chan struct{}
	tasks sync.WaitGroup

	mu      sync.Mutex
	streams []*stream // by disk, nil before Upload
	res     target.Resource
	ref     types.ManagedObjectReference // the machine, once it exists
}

var errClosed = errors.New("the session is closed")

// newSession finds where the order's parts go and what the machine looks like
// there. It creates nothing.
func newSession(ctx context.Context, t *vmware, c *conn, o *target.Order, rec target.Recorder) (*session, error) {
	fail := func(err error) (*session, error) {
		return nil, fmt.Errorf("cannot place %q: %w", o.Machine.Name, err)
	}
	tr, err := c.readTree(ctx, false)
	if err != nil {
		return fail(err)
	}
	s := &session{t: t, c: c, order: o, rec: rec, gate: make(chan struct{}, t.cfg.parallel), streams: make([]*stream, len(o.Disks))}
	if s.place, err = c.locate(ctx, tr, o); err != nil {
		return fail(err)
	}
	if s.hw, err = c.translateMachine(ctx, o, s.place); err != nil {
		return fail(err)
	}
	s.life, s.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	return s, nil
}

// end stops everything that runs for the session.
func (s *session) end(cause error) {
	s.stop(cause)
	s.mu.Lock()
	streams := append([]*stream(nil), s.streams...)
	s.mu.Unlock()
	for _, u := range streams {
		if u != nil {
			_ = u.Abort()
		}
	}
	s.tasks.Wait()
}

// signOut ends the session's connection, after end.
func (s *session) signOut(ctx context.Context) error {
	s.t.mu.Lock()
	delete(s.t.open, s)
	s.t.mu.Unlock()
	return s.c.close(ctx)
}

// record stores the machine's resource with changes; nothing is created or
// changed on the platform before it returns.
func (s *session) record(ctx context.Context, change func(r *target.Resource)) error {
	s.mu.Lock()
	r := s.res
	s.mu.Unlock()
	r.Data = maps.Clone(r.Data)
	if r.Data == nil {
		r.Data = map[string]string{}
	}
	change(&r)
	if err := s.rec.Record(ctx, r); err != nil {
		return fmt.Errorf("cannot record the machine: %w", err)
	}
	s.mu.Lock()
	s.res = r
	s.mu.Unlock()
	return nil
}

// intend records that the machine is about to be created.
func (s *session) intend(ctx context.Context, path string) error {
	s.res = target.Resource{Job: s.order.Job, Kind: kindVM, Name: s.order.Machine.Name}
	return s.record(ctx, func(r *target.Resource) {
		r.Data[dataStage] = stageIntent
		r.Data[dataPath] = path
		r.Data[dataDatacenter] = s.place.dc.ref.Value
		r.Data[dataFolder] = s.place.folder.ref.Value
		r.Data[dataPool] = s.place.pool.String()
	})
}

func (s *session) stage() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.res.Data[dataStage]
}

// recordedVM is the job's machine among recorded resources, if any.
func recordedVM(recorded []target.Resource) *target.Resource {
	for i := range recorded {
		if recorded[i].Kind == kindVM && !recorded[i].Gone {
			return &recorded[i]
		}
	}
	return nil
}

// adopt continues with a recorded machine that exists in one of the stages. It
// reports false when it is not there or not the job's.
func (s *session) adopt(ctx context.Context, r *target.Resource, stages ...string) (bool, error) {
	if r.ID == "" || !slices.Contains(stages, r.Data[dataStage]) {
		return false, nil
	}
	ref := types.ManagedObjectReference{Type: kindsVM[0], Value: r.ID}
	ours, err := s.c.isOurs(ctx, ref, r.Job)
	if err != nil || !ours {
		return false, err
	}
	s.res, s.ref = *r, ref
	return true, nil
}

// isOurs tells whether a machine exists and bears the job's mark.
func (c *conn) isOurs(ctx context.Context, ref types.ManagedObjectReference, job string) (bool, error) {
	mark, err := c.markerOf(ctx, ref)
	switch {
	case isFault[*types.ManagedObjectNotFound](err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("cannot look at the machine %s: %w", ref.Value, translate(err))
	}
	return mark != "" && mark == job, nil
}

// replace makes way for a new machine: it undoes the recorded one.
func (s *session) replace(ctx context.Context, r *target.Resource) error {
	if err := s.t.Undo(ctx, *r); err != nil {
		return fmt.Errorf("cannot remove what an interrupted attempt left: %w", err)
	}
	gone := *r
	gone.Gone = true
	if err := s.rec.Record(ctx, gone); err != nil {
		return fmt.Errorf("cannot record the machine: %w", err)
	}
	return nil
}

// free refuses to begin where a machine of the name exists.
func (s *session) free(ctx context.Context) error {
	ref, err := s.c.findVM(ctx, s.place.folder.ref, s.order.Machine.Name)
	if err != nil {
		return err
	}
	if ref != nil {
		return &target.Problem{
			Msg:  fmt.Sprintf("a machine named %q already exists in %s", s.order.Machine.Name, unescapeName(s.place.folder.path)),
			Hint: "restore under another name or into another folder", Kind: target.ErrExists,
		}
	}
	return nil
}

// findVM finds a machine by name directly inside a folder; nil when there is
// none.
func (c *conn) findVM(ctx context.Context, folder types.ManagedObjectReference, name string) (*types.ManagedObjectReference, error) {
	for _, n := range []string{escapeName(name), name} {
		res, err := methods.FindChild(ctx, c.vim, &types.FindChild{
			This: *c.vim.ServiceContent.SearchIndex, Entity: folder, Name: n,
		})
		if err != nil {
			return nil, fmt.Errorf("cannot look for a machine named %q: %w", name, translate(err))
		}
		if r := res.Returnval; r != nil && r.Type == kindsVM[0] {
			return r, nil
		}
	}
	return nil, nil
}

// markerOf is the job that made a machine; "" when none did. Its error is the
// platform's own.
func (c *conn) markerOf(ctx context.Context, ref types.ManagedObjectReference) (string, error) {
	var m mo.VirtualMachine
	if err := c.get(ctx, ref, &m, "config.extraConfig"); err != nil {
		return "", err
	}
	if m.Config == nil {
		return "", nil
	}
	for _, o := range m.Config.ExtraConfig {
		if v := o.GetOptionValue(); v != nil && v.Key == jobKey {
			s, _ := v.Value.(string)
			return s, nil
		}
	}
	return "", nil
}

// open makes disk i's upload, giving up an earlier one of the same disk.
func (s *session) open(ctx context.Context, i int, fresh func() *stream) (target.Upload, error) {
	if i < 0 || i >= len(s.streams) {
		return nil, target.Permanent(fmt.Sprintf("there is no disk %d", i), "")
	}
	err := ctx.Err()
	if err == nil {
		err = context.Cause(s.life)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot upload disk %d: %w", i, err)
	}
	s.mu.Lock()
	old := s.streams[i]
	s.mu.Unlock()
	if old != nil && old.complete() {
		return old, nil
	}
	if old != nil {
		_ = old.Abort()
	}
	u := fresh()
	s.mu.Lock()
	s.streams[i] = u
	s.mu.Unlock()
	return u, nil
}

// newStream makes an upload whose body goes to address.
func (s *session) newStream(i int, client *http.Client, method string, address *url.URL, mime string,
	land func(context.Context, target.Sum) (*target.Landed, error)) *stream {
	u := &stream{
		what: fmt.Sprintf("disk %d", i), size: s.order.Disks[i].FileSize,
		life: s.life, gate: s.gate, land: land,
	}
	u.body.Stall = s.t.cfg.stall
	u.send = func(ctx context.Context, body io.ReadCloser) error {
		req, err := http.NewRequestWithContext(ctx, method, address.String(), body)
		if err != nil {
			return errors.New("the address of the upload is not valid")
		}
		req.ContentLength = u.size
		req.Header.Set("Content-Type", mime)
		return request(client, req, "the upload of "+u.what)
	}
	return u
}

// keepAlive calls beat until the session ends or beat reports false.
func (s *session) keepAlive(every time.Duration, beat func(context.Context) bool) {
	s.tasks.Go(func() {
		for sleep(s.life, every) == nil && beat(s.life) {
		}
	})
}

// PowerOn starts the machine and returns when the platform says that it runs.
func (s *session) PowerOn(ctx context.Context, v *target.VM) error {
	ref := types.ManagedObjectReference{Type: kindsVM[0], Value: v.ID}
	fail := func(err error) error { return fmt.Errorf("cannot power on %q: %w", v.Name, translate(err)) }
	state := func() (types.VirtualMachinePowerState, error) {
		var m mo.VirtualMachine
		err := s.c.get(ctx, ref, &m, "runtime.powerState")
		return m.Runtime.PowerState, err
	}
	now, err := state()
	if err != nil {
		return fail(err)
	}
	if now == types.VirtualMachinePowerStatePoweredOn {
		return nil
	}
	res, err := methods.PowerOnVM_Task(ctx, s.c.vim, &types.PowerOnVM_Task{This: ref})
	if err != nil {
		return fail(err)
	}
	if _, err := s.c.await(ctx, res.Returnval); err != nil {
		return fail(err)
	}
	for {
		if now, err = state(); err != nil {
			return fail(err)
		}
		if now == types.VirtualMachinePowerStatePoweredOn {
			return nil
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return fail(err)
		}
	}
}

// machine is the restored machine as package target tells it.
func (s *session) machine() *target.VM {
	v := &target.VM{ID: s.ref.Value, Name: s.order.Machine.Name}
	host := s.c.cfg.sdk.Host
	if s.c.vim.IsVC() {
		v.URL = fmt.Sprintf("https://%s/ui/app/vm;nav=v/urn:vmomi:VirtualMachine:%s:%s/summary",
			host, s.ref.Value, s.c.vim.ServiceContent.About.InstanceUuid)
	} else {
		v.URL = fmt.Sprintf("https://%s/ui/#/host/vms/%s", host, s.ref.Value)
	}
	return v
}
