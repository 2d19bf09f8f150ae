package vmware

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/target/targettest"
	"ascend/internal/target/vmware/vcsimtest"
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

// TestDigestDiffers has one bit flip on its way into the platform.
func TestDigestDiffers(t *testing.T) {
	v := newVcsim(t, vcsimtest.Bare())
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	c := load(t, "bit flip", pathNFC, 1<<20, 512)
	s := begin(t, tgt, c, new(targettest.MemRecorder))
	v.First(1, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		body[len(body)/2] ^= 1
		v.Digest(w, r, body)
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
	v := newVcsim(t, vcsimtest.Bare())
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	lie := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusOK)
	}
	c := load(t, "believed", pathNFC, 1<<20, 512)
	s := begin(t, tgt, c, new(targettest.MemRecorder))
	v.First(1, lie)
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
	v.First(1, lie)
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
	v.First(1, func(w http.ResponseWriter, r *http.Request) {
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
	v := newVcsim(t, vcsimtest.Bare())
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
			v.First(1, status(code))
			_, err := c.send(ctx, s, 0)
			if err == nil || kind != nil && !errors.Is(err, kind) || kind == nil && target.IsPermanent(err) {
				t.Errorf("%s: HTTP %d: %v", way, code, err)
			}
			if err != nil && (strings.Contains(err.Error(), "/nfc/") || strings.Contains(err.Error(), "dcPath")) {
				t.Errorf("%s: the error shows the address: %v", way, err)
			}
		}
		v.First(1, sever(10_000))
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
	for name, end := range map[string]func(t *testing.T, v vcsim, s *nfcSession) error{
		"aborted": func(_ *testing.T, _ vcsim, s *nfcSession) error {
			_, err := methods.HttpNfcLeaseAbort(context.Background(), s.c.vim, &types.HttpNfcLeaseAbort{This: s.lease.ref})
			return err
		},
		// The simulator's leases belong to the session that made them.
		"session ended": func(t *testing.T, v vcsim, s *nfcSession) error {
			_, err := methods.TerminateSession(context.Background(), v.Client(t), &types.TerminateSession{
				This: *v.Client(t).ServiceContent.SessionManager, SessionId: []string{s.c.sessionKey()},
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVcsim(t, vcsimtest.Small())
			before := v.Inventory(t)
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
			if err := end(t, v, s.(*nfcSession)); err != nil {
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
			if n := len(v.Machines(t)); n != 2 {
				t.Errorf("there are %d machines", n)
			}
			undo(t, tgt, rec)
			v.Unchanged(t, before)
		})
	}
}

// TestSessionEnds ends the sign-in in the middle of a restore to a datastore.
func TestSessionEnds(t *testing.T) {
	v := newVcsim(t, vcsimtest.Small())
	before := v.Inventory(t)
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	rec := new(targettest.MemRecorder)
	c := load(t, "session ends", pathDatastore, 1<<20)
	s := begin(t, tgt, c, rec)
	kill := func() {
		t.Helper()
		_, err := methods.TerminateSession(ctx, v.Client(t), &types.TerminateSession{
			This: *v.Client(t).ServiceContent.SessionManager, SessionId: []string{s.(*storeSession).c.sessionKey()},
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
	v.Unchanged(t, before)
}

// TestSessionsEnd counts the sessions that are left.
func TestSessionsEnd(t *testing.T) {
	v := newVcsim(t, vcsimtest.Bare())
	ctx := context.Background()
	count := func() int {
		var m mo.SessionManager
		if err := v.Client(t).RetrieveOne(ctx, *v.Client(t).ServiceContent.SessionManager, []string{"sessionList"}, &m); err != nil {
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
	v := newVcsim(t, vcsimtest.Bare())
	var mu sync.Mutex
	var percents []int32
	v.Model.Map().Handler = func(_ *simulator.Context, m *simulator.Method) (mo.Reference, types.BaseMethodFault) {
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
	v := newVcsim(t, vcsimtest.Bare())
	tgt := v.open(t)
	defer tgt.Close()
	tgt.cfg.stall = 150 * time.Millisecond
	ctx := context.Background()
	c := load(t, "stalled", pathNFC, 1<<20)
	s := begin(t, tgt, c, new(targettest.MemRecorder))
	release := v.Stall()
	u, err := s.Upload(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	st := u.(target.StreamUpload)
	start := time.Now()
	junk := make([]byte, 1<<20) // more than the connection holds
	for err = nil; err == nil && time.Since(start) < time.Minute; {
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
