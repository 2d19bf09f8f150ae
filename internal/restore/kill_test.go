package restore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/engine"
	"ascend/internal/image"
	"ascend/internal/plan"
	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/vmware"
	"ascend/internal/target/vmware/vcsimtest"
	"ascend/internal/vm"
)

// The tests of this file run jobs in processes of their own and kill them: at
// every point where something becomes durable or is about to be, and at random
// moments. The vCenter is the test's own process, and survives.

const childEnv = "ASCEND_TEST_CHILD"

// order is what a child is told to do.
type order struct {
	Dir    string // of the fixture
	Do     string // run, cancel, undo
	Spec   Spec
	Maps   [][]byte
	Host   string // of the vCenter; "": local
	CAFile string
	AWS    string // address of the account; "": none
	Out    string // of the local target
	KillAt int64  // the point at which it kills itself; 0: none
	Sync   time.Duration
}

func child() int {
	var o order
	b, err := os.ReadFile(os.Getenv(childEnv))
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err == nil {
		err = o.carry(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// points counts the points passed.
var points atomic.Int64

func (o *order) point() {
	if points.Add(1) == o.KillAt {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (o *order) carry(ctx context.Context) error {
	st, err := openStore(ctx, o.Dir)
	if err != nil {
		return err
	}
	defer st.Close()
	tab := Tables(st)
	key, err := SigningKey(filepath.Join(o.Dir, "key"))
	if err != nil {
		return err
	}
	s, err := New(Config{
		Store: &mortalStore{tab, o}, Resolver: o, Dir: filepath.Join(o.Dir, "state"), Key: key, Software: "test 1", Tick: 10 * time.Millisecond, SyncEvery: o.Sync,
		Engine: func(h engine.Handlers) (engine.Engine, error) {
			for kind, x := range h {
				h[kind] = &mortalHandler{x, o}
			}
			return localEngine(st)(h)
		},
	})
	if err != nil {
		return err
	}
	r := Request{Spec: o.Spec, Unique: "the one"}
	for _, b := range o.Maps {
		m, err := disk.ParseMap(b)
		if err != nil {
			return err
		}
		r.Maps = append(r.Maps, m)
	}
	j, err := s.Submit(ctx, r)
	if err != nil {
		return err
	}
	want := Completed
	switch {
	case o.Do == "cancel":
		want = Cancelled
		if j.Status != Cancelled {
			err = s.Cancel(ctx, j.ID)
		}
	case o.Do == "undo":
		want = Undone
		if j.Status == Completed {
			err = s.Undo(ctx, j.ID)
		} else if j.Idle {
			err = s.Resume(ctx, j.ID)
		}
	case j.Idle:
		err = s.Resume(ctx, j.ID)
	}
	if err != nil {
		return err
	}
	if j, err = s.Wait(ctx, j.ID); err != nil {
		return err
	}
	if j.Status != want {
		return fmt.Errorf("the job is %s, not %s: %s", j.Status, want, j.Error)
	}
	fmt.Println(points.Load())
	return s.Close(ctx)
}

func (o *order) Target(ctx context.Context, _ string) (target.Target, error) {
	t, err := o.open(ctx)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(o.Dir, "written"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &counted{t, log}, err
}

func (o *order) open(ctx context.Context) (target.Target, error) {
	switch {
	case o.AWS != "":
		return openAWS(ctx, o.AWS)
	case o.Host == "":
		return openLocal(o.Out)
	}
	return target.NewRegistry(vmware.Kind()).Open(ctx, target.Settings{
		Name: "there", Platform: vm.VMware,
		Values:  map[string]string{"url": o.Host, "username": vcsimtest.Username, "ca_file": o.CAFile},
		Secrets: map[string]secret.String{"password": secret.New(vcsimtest.Password)},
	})
}

func (o *order) Source(ctx context.Context, ref SourceRef) (Source, error) {
	return openFiles(ctx, ref)
}

// mortalHandler dies before and after a step.
type mortalHandler struct {
	engine.Handler
	o *order
}

func (m *mortalHandler) Do(ctx context.Context, a *engine.Attempt) error {
	m.o.point()
	err := m.Handler.Do(ctx, a)
	m.o.point()
	return err
}

func (m *mortalHandler) Undo(ctx context.Context, a *engine.Attempt) error {
	m.o.point()
	err := m.Handler.Undo(ctx, a)
	m.o.point()
	return err
}

// mortalStore dies before and after what is created is recorded and what landed
// is stored.
type mortalStore struct {
	Store
	o *order
}

func (m *mortalStore) Create(ctx context.Context, j *Job, n *NewJob) (string, error) {
	m.o.point()
	id, err := m.Store.Create(ctx, j, n)
	m.o.point()
	return id, err
}

func (m *mortalStore) Record(ctx context.Context, id string, r target.Resource) error {
	m.o.point()
	err := m.Store.Record(ctx, id, r)
	m.o.point()
	return err
}

func (m *mortalStore) PutBlob(ctx context.Context, id, name string, b []byte) error {
	m.o.point()
	err := m.Store.PutBlob(ctx, id, name, b)
	m.o.point()
	return err
}

// counted writes down the length of every write that is begun.
type counted struct {
	target.Target
	log *os.File
}

func (c *counted) Close() error { return errors.Join(c.Target.Close(), c.log.Close()) }

func (c *counted) Begin(ctx context.Context, o *target.Order, rec target.Recorder) (target.Session, error) {
	s, err := c.Target.Begin(ctx, o, rec)
	return &countedSession{s, c.log}, err
}

type countedSession struct {
	target.Session
	log *os.File
}

func (s *countedSession) Unwrap() any { return s.Session }

func (s *countedSession) Upload(ctx context.Context, i int) (target.Upload, error) {
	u, err := s.Session.Upload(ctx, i)
	if r, ok := u.(target.RangeUpload); ok {
		return &countedRanges{r, s.log}, err
	}
	return u, err
}

type countedRanges struct {
	target.RangeUpload
	log *os.File
}

func (u *countedRanges) WriteRange(ctx context.Context, off int64, p []byte) error {
	if _, err := fmt.Fprintf(u.log, "%d\n", len(p)); err != nil {
		return err
	}
	return u.RangeUpload.WriteRange(ctx, off, p)
}

// mortal is the program whose processes are killed: this test, or, where the race
// detector slows this one, the same built without. Hundreds are started and few
// live long; what they do side by side is watched by the other tests.
func mortal(t testing.TB) string {
	t.Helper()
	if !raced {
		return os.Args[0]
	}
	quickOnce.Do(func() {
		quick = filepath.Join(quickDir, "restore.test")
		if out, err := exec.Command("go", "test", "-c", "-race=false", "-o", quick, ".").CombinedOutput(); err != nil {
			quick = ""
			t.Errorf("cannot build the program to kill: %v: %s", err, out)
		}
	})
	if quick == "" {
		t.FailNow()
	}
	return quick
}

var (
	quickOnce sync.Once
	quick     string
	quickDir  string // of this run of the tests
)

// run runs a child to its end. killed tells that it was.
func (o *order) run(t testing.TB, after time.Duration) (killed bool, passed int64) {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "order")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(mortal(t))
	cmd.Env = append(os.Environ(), childEnv+"="+file)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err = cmd.Wait()
	var ee *exec.ExitError
	if errors.As(err, &ee) && ee.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true, 0
	}
	if err != nil {
		t.Fatalf("%s, to die at %d: %v: %s", o.Do, o.KillAt, err, errs.String())
	}
	_, _ = fmt.Sscan(out.String(), &passed)
	return false, passed
}

// fresh is the order with nothing done yet.
func (o order) fresh(t testing.TB) *order {
	t.Helper()
	o.Dir = t.TempDir()
	if o.Host == "" && o.AWS == "" {
		o.Out = filepath.Join(o.Dir, "out")
		if err := os.Mkdir(o.Out, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return &o
}

func orderOf(t testing.TB, r Request) order {
	t.Helper()
	o := order{Do: "run", Spec: r.Spec}
	for _, m := range r.Maps {
		b, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		o.Maps = append(o.Maps, b)
	}
	return o
}

// walk runs the order once undisturbed; then, for each of its points, kills a
// process there and has another do the rest.
func walk(t *testing.T, base *order, do string, before, after func(o *order), check func(o *order, at int64)) {
	t.Helper()
	walkEvery(t, 1, base, do, before, after, check)
}

// walkEvery is walk by steps of so many points.
func walkEvery(t *testing.T, step int64, base *order, do string, before, after func(o *order), check func(o *order, at int64)) {
	t.Helper()
	first := base.fresh(t)
	before(first)
	first.Do = do
	_, n := first.run(t, 0)
	if n < 4 {
		t.Fatalf("%s passes only %d points", do, n)
	}
	check(first, 0)
	after(first)
	for at := min(step, 2); at <= n; at += step {
		o := base.fresh(t)
		before(o)
		o.Do, o.KillAt = do, at
		killed, _ := o.run(t, 0)
		o.KillAt = 0
		if killed {
			o.run(t, 0)
		} else if at < n-2 { // how many there are depends on timing
			t.Errorf("%s: point %d of %d was not reached", do, at, n)
		}
		check(o, at)
		after(o)
	}
	t.Logf("%s: killed at every %d. of %d points", do, step, n)
}

func nothing(*order) {}

// halfway brings an order to where cancel and undo have something to do.
func halfway(t testing.TB, at int64) func(o *order) {
	return func(o *order) {
		o.Do, o.KillAt = "run", at
		o.run(t, 0)
		o.KillAt = 0
	}
}

func (o *order) resources(t testing.TB) []target.Resource {
	t.Helper()
	st, err := openStore(t.Context(), o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	all, err := Tables(st).Jobs(t.Context(), Filter{})
	if err != nil || len(all) != 1 {
		t.Fatalf("%d jobs: %v", len(all), err)
	}
	r, err := Tables(st).Resources(t.Context(), all[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestKilledAnywhereLocal(t *testing.T) {
	t.Parallel()
	f := setup(t, 2, 3<<20)
	format := image.Format{Name: "qcow2"}
	base := orderOf(t, f.request("web", &format, "file", nil))
	var want map[string]string
	walk(t, &base, "run", nothing, nothing, func(o *order, at int64) {
		got := listing(t, o.Out)
		if at == 0 {
			want = got
		} else if !maps.Equal(want, got) {
			t.Errorf("killed at point %d: %v, and %v undisturbed", at, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	})
	empty := func(o *order, at int64) {
		if got := listing(t, o.Out); len(got) != 1 {
			t.Errorf("%s, killed at point %d: left behind: %v", o.Do, at, slices.Sorted(maps.Keys(got)))
		}
		for _, r := range o.resources(t) {
			if !r.Gone {
				t.Errorf("%s, killed at point %d: %s %s is not marked gone", o.Do, at, r.Kind, r.Name)
			}
		}
	}
	walk(t, &base, "undo", halfway(t, 0), nothing, empty)
	walk(t, &base, "cancel", halfway(t, 24), nothing, empty)
}

// vcenter is a vCenter and the order of a restore to it.
func vcenter(t *testing.T, f *fixture) (*vcsimtest.VCenter, order) {
	t.Helper()
	v := vcsimtest.New(t, vcsimtest.Bare())
	o := order{Host: v.Host, CAFile: v.CAFile}
	var err error
	if f.tgt, err = o.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	base := orderOf(t, f.request("web", nil, "nfc", func(r *plan.Request) {
		r.Target = plan.TargetRef{Name: "there", Platform: vm.VMware}
		r.Placement.Fields = map[string]string{"datastore": "LocalDS_0"}
		r.PowerOn = true
	}))
	base.Host, base.CAFile = v.Host, v.CAFile
	return v, base
}

// TestKilledAtRandomMomentsVcenter: an import cannot go on in the middle, and
// begins again; what the killed ones made is not left beside it.
func TestKilledAtRandomMomentsVcenter(t *testing.T) {
	t.Parallel()
	f := setup(t, 1, 3<<20)
	v, base := vcenter(t, f)
	clean := v.Inventory(t)
	base.Spec.Options = Options{Bandwidth: 8 << 20}
	o := base.fresh(t)
	kills := 0
	for range 7 {
		if killed, _ := o.run(t, time.Duration(100+rand.IntN(600))*time.Millisecond); !killed {
			break
		}
		kills++
	}
	o.run(t, 0)
	if kills < 3 {
		t.Errorf("killed only %d times", kills)
	}
	for i, d := range vcsimtest.Disks(v.Machine(t, "web")) {
		if err := os.WriteFile(filepath.Join(o.Dir, "disk"), v.Disk(t, d), 0o600); err != nil {
			t.Fatal(err)
		}
		f.compare(i, image.Format{Name: "raw"}, filepath.Join(o.Dir, "disk"))
	}
	if n := len(v.Machines(t)); n != 1 {
		t.Errorf("%d machines", n)
	}
	o.Do = "undo"
	o.run(t, 0)
	v.Unchanged(t, clean)
}

func TestKilledAnywhereVcenter(t *testing.T) {
	t.Parallel()
	f := setup(t, 1, 2<<20)
	v, base := vcenter(t, f)
	clean := v.Inventory(t)
	undo := func(o *order) {
		o.Do, o.KillAt = "undo", 0
		o.run(t, 0)
		v.Unchanged(t, clean)
	}
	var want []string
	walk(t, &base, "run", nothing, undo, func(o *order, at int64) {
		got := v.Inventory(t)
		if at == 0 {
			want = got
		} else if !slices.Equal(want, got) {
			t.Errorf("killed at point %d: %v, and %v undisturbed", at, got, want)
		}
		m := v.Machine(t, "web")
		for i, d := range vcsimtest.Disks(m) {
			if err := os.WriteFile(filepath.Join(o.Dir, "disk"), v.Disk(t, d), 0o600); err != nil {
				t.Fatal(err)
			}
			f.compare(i, image.Format{Name: "raw"}, filepath.Join(o.Dir, "disk"))
		}
	})
	unchanged := func(*order, int64) { v.Unchanged(t, clean) }
	walk(t, &base, "undo", halfway(t, 0), nothing, unchanged)
	walk(t, &base, "cancel", halfway(t, 30), nothing, unchanged)
}

// TestKilledHereAndThereAWS: what a process that was killed has begun in an account is
// found by the next one and not made twice, and undone without a trace.
func TestKilledHereAndThereAWS(t *testing.T) {
	t.Parallel()
	f := setup(t, 1, 2<<20)
	sim, ask := onAWS(t, f)
	base := orderOf(t, f.request("web", nil, "", ask))
	base.AWS = sim.URL
	if left := sim.Inventory(); len(left) != 0 {
		t.Fatalf("planning made %q", left)
	}
	empty := func(o *order, at int64) {
		if left := sim.Inventory(); len(left) != 0 {
			t.Errorf("%s, killed at point %d: left behind: %q", o.Do, at, left)
		}
	}
	undo := func(o *order) {
		o.Do, o.KillAt = "undo", 0
		o.run(t, 0)
		empty(o, 0)
	}
	var things int
	walkEvery(t, 8, &base, "run", nothing, undo, func(o *order, at int64) {
		got := sim.Inventory()
		if at == 0 {
			things = len(got)
		} else if len(got) != things {
			t.Errorf("killed at point %d: %q, and %d things undisturbed", at, got, things)
		}
		if n := len(sim.Running("Name", "web")); n != 1 {
			t.Errorf("killed at point %d: %d machines run", at, n)
		}
		for i := range f.files {
			var disk string
			for _, r := range o.resources(t) {
				if r.Kind == "snapshot" && r.Name == fmt.Sprintf("disk %d", i) && !r.Gone {
					disk = r.ID
				}
			}
			file := filepath.Join(o.Dir, "disk")
			readSnapshot(t, sim, disk, o.Spec.Plan.Disks[i].Virtual, file)
			f.compare(i, image.Format{Name: "raw"}, file)
		}
	})
	walkEvery(t, 10, &base, "undo", halfway(t, 0), nothing, empty)
	walkEvery(t, 10, &base, "cancel", halfway(t, 30), nothing, empty)
}

// TestKilledAtRandomMoments kills a job again and again in mid-transfer.
func TestKilledAtRandomMoments(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"raw", "qcow2", "vmdk/streamOptimized+deflate"} {
		f := setup(t, 2, 8<<20)
		format := formatNamed(t, name)
		r := f.request("killed", &format, "file", nil)
		r.Options = Options{Bandwidth: 8 << 20, Workers: 2, InFlight: window}
		base := orderOf(t, r)
		base.Sync = 20 * time.Millisecond
		o := base.fresh(t)
		kills := int64(0)
		for try := 0; ; try++ {
			after := time.Duration(0)
			if try < 7 {
				after = time.Duration(100+rand.IntN(300)) * time.Millisecond
			}
			killed, _ := o.run(t, after)
			if !killed {
				break
			}
			kills++
		}
		if kills < 3 {
			t.Errorf("%s: killed only %d times", name, kills)
		}
		var size int64
		for i := range f.files {
			object := filepath.Join(o.Out, "killed", fmt.Sprintf("killed-disk%d.%s", i+1, format.Extension()))
			f.compare(i, format, object)
			size += r.Plan.Disks[i].FileSize
		}
		if format.Ordered() {
			continue // appended, not written at offsets: the file's length says it
		}
		b, err := os.ReadFile(filepath.Join(o.Dir, "written"))
		if err != nil {
			t.Fatal(err)
		}
		var written int64
		for _, l := range strings.Fields(string(b)) {
			var n int64
			_, _ = fmt.Sscan(l, &n)
			written += n
		}
		allocated := int64(0)
		for _, d := range r.Plan.Disks {
			allocated += d.Source.Allocated
		}
		overhead := int64(2 << 20) // metadata of the format, of both disks
		if written < allocated || written > allocated+overhead+kills*2*window {
			t.Errorf("%s: %d bytes were written for %d allocated, with %d kills and %d in flight", name, written, allocated, kills, int64(window))
		}
	}
}

func formatNamed(t *testing.T, name string) image.Format {
	t.Helper()
	for _, i := range image.Formats() {
		if i.Format.String() == name {
			return i.Format
		}
	}
	t.Fatalf("no format %s", name)
	return image.Format{}
}
