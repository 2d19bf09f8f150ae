package vmware

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/target/targettest"
)

// begin begins or dies; the session is closed at the test's end.
func begin(t testing.TB, tgt *vmware, c *cargo, rec target.Recorder) target.Session {
	t.Helper()
	s, err := tgt.Begin(context.Background(), c.Order, rec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(context.Background()) })
	return s
}

// digested gives the simulator other bytes to digest than were sent.
func (v *vcsim) digested(w http.ResponseWriter, r *http.Request, change func([]byte)) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	change(body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	lease := types.ManagedObjectReference{Type: "HttpNfcLease", Value: r.PathValue("lease")}
	v.model.Map().WithLock(new(simulator.Context), lease, func() { simulator.ServeNFC(w, r) })
}

// TestDigestDiffers has one bit flip on its way into the platform.
func TestDigestDiffers(t *testing.T) {
	v := newVcsim(t, bare())
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	c := load(t, "bit flip", pathNFC, 1<<20, 512)
	s := begin(t, tgt, c, new(targettest.MemRecorder))
	v.first(1, func(w http.ResponseWriter, r *http.Request) {
		v.digested(w, r, func(p []byte) { p[len(p)/2] ^= 1 })
	})
	if l, err := c.send(ctx, s, 0); !errors.Is(err, target.ErrDigest) {
		t.Errorf("a flipped bit gives %+v, %v", l, err)
	}
	if _, err := c.send(ctx, s, 1); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Finish(ctx); err == nil {
		t.Errorf("Finish makes %+v of a disk with a flipped bit", m)
	}
	l, err := c.send(ctx, s, 0)
	if err != nil || l.Verdict != "sha1" {
		t.Fatalf("sent again: %+v, %v", l, err)
	}
	if _, err := s.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	c.compare(t, v)
}

// TestFalseSuccess has the platform answer well for a disk it did not take.
func TestFalseSuccess(t *testing.T) {
	v := newVcsim(t, bare())
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	lie := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusOK)
	}
	c := load(t, "believed", pathNFC, 1<<20, 512)
	s := begin(t, tgt, c, new(targettest.MemRecorder))
	v.first(1, lie)
	// Nothing has a digest yet: some platforms tell theirs only at the end.
	if l, err := c.send(ctx, s, 0); err != nil || l.Verdict != "" {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, err := c.send(ctx, s, 1); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Finish(ctx); !errors.Is(err, errMissing) || target.IsPermanent(err) {
		t.Fatalf("Finish makes %+v of a disk that never arrived: %v", m, err)
	}
	v.first(1, lie)
	if _, err := c.send(ctx, s, 0); !errors.Is(err, errMissing) {
		t.Errorf("the second lie: %v", err)
	}
	if l, err := c.send(ctx, s, 0); err != nil || l.Verdict != "sha1" {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, err := s.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	c.compare(t, v)

	// An answer before the last byte, however good, is none.
	c = load(t, "hasty", pathNFC, 8<<20)
	s = begin(t, tgt, c, new(targettest.MemRecorder))
	v.first(1, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 100)
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
	})
	u, err := s.Upload(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	junk := make([]byte, 300<<10)
	wait(t, "the early answer", func() bool { return u.(target.StreamUpload).Append(ctx, junk) != nil })
	if l, err := u.Complete(ctx, c.sum(0)); err == nil {
		t.Errorf("an early answer gives %+v", l)
	}
}

// TestRefused tells apart what trying again cannot mend.
func TestRefused(t *testing.T) {
	v := newVcsim(t, bare())
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	for _, way := range []string{pathNFC, pathDatastore} {
		c := load(t, "refused "+way, way, 1<<20)
		s := begin(t, tgt, c, new(targettest.MemRecorder))
		for code, kind := range map[int]error{
			http.StatusServiceUnavailable: nil, http.StatusInternalServerError: nil,
			http.StatusForbidden: target.ErrPermanent, http.StatusInsufficientStorage: target.ErrPermanent, http.StatusNotFound: target.ErrExpired,
		} {
			v.first(1, status(code))
			_, err := c.send(ctx, s, 0)
			if err == nil || kind != nil && !errors.Is(err, kind) || kind == nil && target.IsPermanent(err) {
				t.Errorf("%s: HTTP %d: %v", way, code, err)
			}
			if err != nil && (strings.Contains(err.Error(), "/nfc/") || strings.Contains(err.Error(), "dcPath")) {
				t.Errorf("%s: the error shows the address: %v", way, err)
			}
		}
		v.first(1, sever(10_000))
		if _, err := c.send(ctx, s, 0); err == nil || target.IsPermanent(err) || strings.Contains(err.Error(), "/nfc/") {
			t.Errorf("%s: a broken connection: %v", way, err)
		}
		if _, err := c.send(ctx, s, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Finish(ctx); err != nil {
			t.Fatal(err)
		}
		c.compare(t, v)
	}
}

// TestLeaseLost ends an import lease while a disk is on its way.
func TestLeaseLost(t *testing.T) {
	for name, end := range map[string]func(v *vcsim, s *nfcSession) error{
		"aborted": func(_ *vcsim, s *nfcSession) error {
			_, err := methods.HttpNfcLeaseAbort(context.Background(), s.c.vim, &types.HttpNfcLeaseAbort{This: s.lease.ref})
			return err
		},
		// The simulator's leases belong to the session that made them.
		"session ended": func(v *vcsim, s *nfcSession) error {
			_, err := methods.TerminateSession(context.Background(), v.admin, &types.TerminateSession{
				This: *v.admin.ServiceContent.SessionManager, SessionId: []string{s.c.sessionKey()},
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVcsim(t, model())
			before := v.inventory(t)
			tgt := v.open(t)
			defer tgt.Close()
			tgt.cfg.keepalive = 10 * time.Millisecond
			ctx := context.Background()
			rec := new(targettest.MemRecorder)
			c := load(t, "lost lease", pathNFC, 2<<20, 512)
			s := begin(t, tgt, c, rec)
			if _, err := c.send(ctx, s, 1); err != nil {
				t.Fatal(err)
			}
			u, err := s.Upload(ctx, 0)
			if err != nil {
				t.Fatal(err)
			}
			st := u.(target.StreamUpload)
			if err := st.Append(ctx, c.file[0][:1000]); err != nil {
				t.Fatal(err)
			}
			if err := end(v, s.(*nfcSession)); err != nil {
				t.Fatal(err)
			}
			var lost error
			wait(t, "the loss of the lease", func() bool { lost = st.Append(ctx, c.file[0][1000:1001]); return lost != nil })
			_, err1 := st.Complete(ctx, c.sum(0))
			_, err2 := s.Upload(ctx, 0)
			_, err3 := s.Finish(ctx)
			for _, err := range []error{lost, err1, err2, err3} {
				if !errors.Is(err, target.ErrExpired) || target.IsPermanent(err) || !strings.Contains(err.Error(), "lease") {
					t.Errorf("after the loss: %v", err)
				}
			}
			if err := s.Close(ctx); err != nil {
				t.Error(err)
			}
			c.restore(t, tgt, rec)
			c.compare(t, v)
			if n := len(v.machines(t)); n != 2 {
				t.Errorf("there are %d machines", n)
			}
			undo(t, tgt, rec)
			v.same(t, before)
		})
	}
}

// TestSessionEnds ends the sign-in in the middle of a restore to a datastore.
func TestSessionEnds(t *testing.T) {
	v := newVcsim(t, model())
	before := v.inventory(t)
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	rec := new(targettest.MemRecorder)
	c := load(t, "session ends", pathDatastore, 1<<20)
	s := begin(t, tgt, c, rec)
	kill := func() {
		t.Helper()
		_, err := methods.TerminateSession(ctx, v.admin, &types.TerminateSession{
			This: *v.admin.ServiceContent.SessionManager, SessionId: []string{s.(*storeSession).c.sessionKey()},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	kill()
	if _, err := c.send(ctx, s, 0); err != nil { // the first call renews the session
		t.Fatal(err)
	}
	kill()
	m, err := s.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c.compare(t, v)
	kill()
	if err := s.PowerOn(ctx, m); err != nil {
		t.Fatal(err)
	}
	undo(t, tgt, rec)
	v.same(t, before)
}

// TestSessionsEnd counts the sessions that are left.
func TestSessionsEnd(t *testing.T) {
	v := newVcsim(t, bare())
	ctx := context.Background()
	count := func() int {
		var m mo.SessionManager
		if err := v.client(t).RetrieveOne(ctx, *v.client(t).ServiceContent.SessionManager, []string{"sessionList"}, &m); err != nil {
			t.Fatal(err)
		}
		return len(m.SessionList)
	}
	alone := count()
	tgt := v.open(t)
	if _, err := tgt.Inventory(ctx); err != nil {
		t.Fatal(err)
	}
	c := load(t, "one", pathNFC, 512)
	c.restore(t, tgt, new(targettest.MemRecorder))
	if n := count(); n != alone+1 {
		t.Errorf("%d sessions after a restore, %d before", n, alone+1)
	}
	abandoned := begin(t, tgt, load(t, "two", pathNFC, 512), new(targettest.MemRecorder))
	if err := tgt.Close(); err != nil {
		t.Error(err)
	}
	if n := count(); n != alone {
		t.Errorf("%d sessions after Close, %d before", n, alone)
	}
	if _, err := abandoned.Upload(ctx, 0); err == nil {
		t.Error("a closed target takes an upload")
	}
	if err := errors.Join(abandoned.Close(ctx), tgt.Close()); err != nil {
		t.Error(err)
	}
	if _, err := tgt.Begin(ctx, load(t, "three", pathNFC, 512).Order, new(targettest.MemRecorder)); err == nil {
		t.Error("a closed target begins")
	}
}

// TestKeepAlive counts the signs of life while nothing is sent.
func TestKeepAlive(t *testing.T) {
	v := newVcsim(t, bare())
	var mu sync.Mutex
	var percents []int32
	v.model.Map().Handler = func(_ *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
		if p, ok := m.Body.(*types.HttpNfcLeaseProgress); ok {
			mu.Lock()
			percents = append(percents, p.Percent)
			mu.Unlock()
		}
		return nil, nil
	}
	seen := func() []int32 {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(percents)
	}
	tgt := v.open(t)
	defer tgt.Close()
	tgt.cfg.keepalive = 5 * time.Millisecond
	ctx := context.Background()
	c := load(t, "alive", pathNFC, 1<<20, 1<<20)
	s := begin(t, tgt, c, new(targettest.MemRecorder))
	wait(t, "signs of life", func() bool { return len(seen()) > 3 })
	if p := seen(); p[0] != 0 {
		t.Errorf("the first sign of life says %d %%", p[0])
	}
	if _, err := c.send(ctx, s, 1); err != nil {
		t.Fatal(err)
	}
	wait(t, "half of it", func() bool { p := seen(); return p[len(p)-1] == 50 })
	if _, err := c.send(ctx, s, 0); err != nil {
		t.Fatal(err)
	}
	wait(t, "nearly all", func() bool { p := seen(); return p[len(p)-1] == 99 })
	if _, err := s.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Finish(ctx); err != nil { // the end of the lease was no loss
		t.Fatal(err)
	}
}

// TestStall has the platform take nothing for longer than is waited.
func TestStall(t *testing.T) {
	v := newVcsim(t, bare())
	tgt := v.open(t)
	defer tgt.Close()
	tgt.cfg.stall = 150 * time.Millisecond
	ctx := context.Background()
	c := load(t, "stalled", pathNFC, 1<<20)
	s := begin(t, tgt, c, new(targettest.MemRecorder))
	release := peer{v}.Stall(t)
	u, err := s.Upload(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	st := u.(target.StreamUpload)
	start := time.Now()
	junk := make([]byte, 1<<20) // more than the connection holds
	for err = nil; err == nil && time.Since(start) < 20*time.Second; {
		err = st.Append(ctx, junk)
	}
	if err == nil || target.IsPermanent(err) || !strings.Contains(err.Error(), "nothing could be sent") {
		t.Errorf("Append to a platform that hangs: %v", err)
	}
	if u, err = s.Upload(ctx, 0); err != nil {
		t.Fatal(err)
	}
	if err := u.(target.StreamUpload).Append(ctx, c.file[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Complete(ctx, c.sum(0)); err == nil || target.IsPermanent(err) || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("Complete of a platform that hangs: %v", err)
	}
	release()
	if _, err := c.send(ctx, s, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	c.compare(t, v)
}

// TestUndoRefuses asserts that what is not the job's, or no longer only, stays.
func TestUndoRefuses(t *testing.T) {
	v := newVcsim(t, model())
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	client := v.client(t)
	reconfigure := func(name string, spec types.VirtualMachineConfigSpec) {
		t.Helper()
		task, err := object.NewVirtualMachine(client.Client, v.machine(t, name).Self).Reconfigure(ctx, spec)
		if err == nil {
			err = task.Wait(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	mark := func(job string) types.VirtualMachineConfigSpec {
		return types.VirtualMachineConfigSpec{ExtraConfig: []types.BaseOptionValue{&types.OptionValue{Key: jobKey, Value: job}}}
	}
	refused := func(what string, rec *targettest.MemRecorder) {
		t.Helper()
		before := v.inventory(t)
		if err := targettest.UndoAll(ctx, tgt, rec); !target.IsPermanent(err) || !strings.Contains(err.Error(), "hint: ") {
			t.Errorf("%s: %v", what, err)
		}
		v.same(t, before)
	}
	rec := new(targettest.MemRecorder)
	c := load(t, "marked", pathNFC, 512)
	c.restore(t, tgt, rec)
	reconfigure("marked", mark("somebody"))
	refused("another mark", rec)
	reconfigure("marked", mark("")) // removes it
	refused("no mark", rec)
	reconfigure("marked", mark(c.Job))

	// A disk that somebody attached would be deleted with the machine.
	unit := int32(5)
	ctrl := disksOf(v.machine(t, "marked"))[0].ControllerKey
	reconfigure("marked", types.VirtualMachineConfigSpec{DeviceChange: []types.BaseVirtualDeviceConfigSpec{&types.VirtualDeviceConfigSpec{
		Operation: types.VirtualDeviceConfigSpecOperationAdd, FileOperation: types.VirtualDeviceConfigSpecFileOperationCreate,
		Device: &types.VirtualDisk{VirtualDevice: types.VirtualDevice{
			Key: -1, ControllerKey: ctrl, UnitNumber: &unit,
			Backing: &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: types.VirtualDeviceFileBackingInfo{FileName: "[LocalDS_1] payroll.vmdk"}},
		}, CapacityInKB: 1024},
	}}})
	refused("a disk of somebody else's", rec)

	// A foreign file in the job's own folder.
	rec = new(targettest.MemRecorder)
	c = load(t, "folder", pathDatastore, 512)
	before := v.inventory(t)
	begin(t, tgt, c, rec)
	thesis := filepath.Join(v.stores(t)["LocalDS_0"], folderName("folder", c.Job), "thesis.docx")
	if err := os.WriteFile(thesis, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("a file of somebody else's", rec)
	if err := os.Remove(thesis); err != nil {
		t.Fatal(err)
	}
	undo(t, tgt, rec)
	v.same(t, before)

	dc := map[string]string{dataDatacenter: "datacenter-2"}
	before = v.inventory(t)
	for _, r := range []target.Resource{
		{Job: "j", Kind: "snapshot", ID: "x", Name: "x"},
		{Job: "j", Kind: kindFolder, ID: "x", Name: "[LocalDS_0] DC0_C0_RP1_VM0", Data: dc},
		{Job: "j", Kind: kindFolder, ID: "x", Name: "[LocalDS_0]", Data: dc},
		{Job: "j", Kind: kindFolder, ID: "x", Name: "[LocalDS_0] a/b_j", Data: dc},
		{Job: "j", Kind: kindFile, ID: "x", Name: "[LocalDS_0] DC0_C0_RP1_VM0/disk1.vmdk", Data: dc},
		{Job: "", Kind: kindFolder, ID: "x", Name: "[LocalDS_0] DC0_C0_RP1_VM0", Data: dc},
		{Job: "j", Kind: kindVM, ID: v.machine(t, "DC0_C0_RP1_VM0").Self.Value, Name: "DC0_C0_RP1_VM0", Data: dc},
		{Job: "", Kind: kindVM, ID: v.machine(t, "DC0_C0_RP1_VM0").Self.Value, Name: "DC0_C0_RP1_VM0", Data: dc},
	} {
		if err := tgt.Undo(ctx, r); !target.IsPermanent(err) {
			t.Errorf("Undo of %+v: %v", r, err)
		}
	}
	v.same(t, before)
}

// TestUndoWaits undoes a machine whose creation was still under way when the
// process died.
func TestUndoWaits(t *testing.T) {
	for name, way := range map[string]string{"ImportVAppLRO": pathNFC, "CreateVm": pathDatastore} {
		t.Run(way, func(t *testing.T) {
			v := newVcsim(t, model())
			before := v.inventory(t)
			tgt := v.open(t)
			defer tgt.Close()
			rec := new(targettest.MemRecorder)
			c := load(t, "slow birth", way, 512)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			create := func() error {
				_, err := tgt.Begin(ctx, c.Order, rec)
				return err
			}
			if way == pathDatastore {
				s := begin(t, tgt, c, rec)
				if _, err := c.send(ctx, s, 0); err != nil {
					t.Fatal(err)
				}
				create = func() error { _, err := s.Finish(ctx); return err }
			}
			simulator.TaskDelay = simulator.DelayConfig{MethodDelay: map[string]int{name: 400, "LockHandoff": 0}}
			defer func() { simulator.TaskDelay = simulator.DelayConfig{} }()
			done := make(chan error)
			go func() { done <- create() }()
			wait(t, "the intent", func() bool {
				return slices.ContainsFunc(rec.History(), func(r target.Resource) bool { return r.Kind == kindVM })
			})
			// What another process finds that starts now.
			intent := rec.History()[slices.IndexFunc(rec.History(), func(r target.Resource) bool { return r.Kind == kindVM })]
			wait(t, "the task", func() bool {
				conn, err := tgt.connect(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				busy, err := conn.creating(context.Background(), types.ManagedObjectReference{Type: "Folder", Value: intent.Data[dataFolder]}, intent.Data[dataPool])
				if err != nil {
					t.Fatal(err)
				}
				return busy
			})
			cancel()
			if err := tgt.Undo(context.Background(), intent); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err == nil {
				t.Error("the creation that was cancelled succeeds")
			}
			undo(t, tgt, rec)
			v.same(t, before)
		})
	}
}

// TestFolders restores a name that another folder has already, and refuses one
// that is taken in the same.
func TestFolders(t *testing.T) {
	v := newVcsim(t, model())
	ctx := context.Background()
	root := object.NewRootFolder(v.client(t).Client)
	dcs, err := root.Children(ctx)
	if err != nil {
		t.Fatal(err)
	}
	folders, err := dcs[0].(*object.Datacenter).Folders(ctx)
	if err != nil {
		t.Fatal(err)
	}
	prod, err := folders.VmFolder.CreateFolder(ctx, "Prod")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := prod.CreateFolder(ctx, "Web"); err != nil {
		t.Fatal(err)
	}
	foreign := v.foreign(t, "twin")
	before := v.inventory(t)
	tgt := v.open(t)
	defer tgt.Close()
	c := load(t, "twin", pathNFC, 512)
	rec := new(targettest.MemRecorder)
	if _, err := tgt.Begin(ctx, c.Order, rec); !errors.Is(err, target.ErrExists) || rec.Calls() > 0 {
		t.Errorf("a name that is taken: %v, %d records", err, rec.Calls())
	}
	for _, where := range []string{"Prod/Web", "Web", "/DC0/vm/Prod/Web", "/DC0/vm/Prod/"} {
		c.Placement.Fields[fieldFolder] = where
		m := c.restore(t, tgt, rec)
		if m.ID == foreign.Value {
			t.Fatal("the foreign machine was taken for ours")
		}
		var made mo.VirtualMachine
		if err := v.client(t).RetrieveOne(ctx, types.ManagedObjectReference{Type: "VirtualMachine", Value: m.ID}, []string{"parent"}, &made); err != nil {
			t.Fatal(err)
		}
		var parent mo.Folder
		if err := v.client(t).RetrieveOne(ctx, *made.Parent, []string{"name"}, &parent); err != nil {
			t.Fatal(err)
		}
		if want := map[bool]string{true: "Prod", false: "Web"}[strings.HasSuffix(where, "/")]; parent.Name != want {
			t.Errorf("into %s: the machine is in %s", where, parent.Name)
		}
		undo(t, tgt, rec)
		v.same(t, before)
	}
}

// TestDeletedMeanwhile begins again a job whose machine somebody deleted.
func TestDeletedMeanwhile(t *testing.T) {
	for _, way := range []string{pathNFC, pathDatastore} {
		v := newVcsim(t, bare())
		before := v.inventory(t)
		tgt := v.open(t)
		rec := new(targettest.MemRecorder)
		c := load(t, "deleted", way, 1<<20, 512)
		m := c.restore(t, tgt, rec)
		v.destroy(t, types.ManagedObjectReference{Type: "VirtualMachine", Value: m.ID})
		c.restore(t, tgt, rec)
		c.compare(t, v)
		undo(t, tgt, rec)
		v.same(t, before)
		tgt.Close()
	}
}

// TestFilesSurvive restores to a datastore in two processes: what the first
// completed is not sent again.
func TestFilesSurvive(t *testing.T) {
	v := newVcsim(t, bare())
	ctx := context.Background()
	rec := new(targettest.MemRecorder)
	c := load(t, "two halves", pathDatastore, 1<<20, 2<<20)
	first := v.open(t)
	s := begin(t, first, c, rec)
	if _, err := c.send(ctx, s, 1); err != nil {
		t.Fatal(err)
	}
	peer{v}.Crash(t, first)
	second := v.open(t)
	defer second.Close()
	c.restore(t, second, rec)
	c.compare(t, v)
	v.mu.Lock()
	defer v.mu.Unlock()
	sent := map[string]int{}
	for _, p := range v.puts {
		sent[p[strings.LastIndexByte(p, '/')+1:]]++
	}
	for _, file := range []string{"disk-0-flat.vmdk", "disk-0.vmdk", "disk-1-flat.vmdk", "disk-1.vmdk"} {
		if sent[file] != 1 {
			t.Errorf("%s was put %d times", file, sent[file])
		}
	}
}
