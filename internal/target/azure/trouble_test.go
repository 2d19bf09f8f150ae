package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/log"

	"ascend/internal/target"
	"ascend/internal/target/azure/armsim"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

const mib = 1 << 20

// order is one of a machine with disks of so many MiB each.
func (s sim) order(t testing.TB, name string, sizes ...int64) *target.Order {
	o := &target.Order{Job: "job of " + name, Machine: &vm.Machine{
		Name: name, CPU: vm.CPU{Sockets: 2}, Memory: 4 << 30, Firmware: vm.BIOS,
		Guest: vm.GuestOS{Family: vm.Linux, Arch: vm.AMD64}, NICs: []vm.NIC{{Name: "a", Addresses: []string{"10.20.1.77/24"}}},
	}}
	d := (&azure{cfg: &config{}}).Capabilities().Deliveries[0]
	for i, n := range sizes {
		n *= mib
		o.Machine.Disks = append(o.Machine.Disks, vm.Disk{Index: i, Size: n, Boot: i == 0})
		o.Disks = append(o.Disks, target.DiskOrder{Delivery: d, Virtual: n, FileSize: n + footerSize})
	}
	o.Placement.Networks = []string{""}
	peer{s}.Order(t, o)
	return o
}

// files remembers what content made: qemu-img writes the time into a footer.
var files sync.Map

// content is a disk's file: some random bytes, and a footer of qemu-img's. It
// must not be written to.
func content(t testing.TB, o *target.Order, i int) []byte {
	key := fmt.Sprint(o.Disks[i].Virtual, i)
	if f, ok := files.Load(key); ok {
		return f.([]byte)
	}
	f := newContent(t, o, i)
	files.Store(key, f)
	return f
}

func newContent(t testing.TB, o *target.Order, i int) []byte {
	raw := make([]byte, o.Disks[i].Virtual)
	rnd := rand.NewChaCha8([32]byte{byte(i)})
	_, _ = rnd.Read(raw[:300_000])
	_, _ = rnd.Read(raw[len(raw)-70_000:])
	return targettest.Encode(t, raw, o.Disks[i].Delivery.Format)
}

// send writes what is not zeros of [from, to) in pieces of 64 KiB.
func send(ctx context.Context, up target.Upload, file []byte, from, to int) error {
	const piece = 64 << 10
	for off := from; off < to; off += piece {
		p := file[off:min(off+piece, len(file))]
		if len(bytes.TrimLeft(p, "\x00")) == 0 {
			continue
		}
		if err := up.(target.RangeUpload).WriteRange(ctx, int64(off), p); err != nil {
			return err
		}
	}
	return nil
}

func begin(t testing.TB, tgt *azure, o *target.Order, rec target.Recorder) target.Session {
	t.Helper()
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func upload0(t testing.TB, s target.Session, i int) target.Upload {
	t.Helper()
	u, err := s.Upload(t.Context(), i)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// land sends every disk.
func land(t testing.TB, s target.Session, o *target.Order) {
	t.Helper()
	for i := range o.Disks {
		u := upload0(t, s, i)
		file := content(t, o, i)
		if err := send(t.Context(), u, file, 0, len(file)); err != nil {
			t.Fatal(err)
		}
		if _, err := u.Complete(t.Context(), target.Sum{Bytes: int64(len(file))}); err != nil {
			t.Fatal(err)
		}
	}
}

// gone undoes and wants nothing left.
func gone(t testing.TB, s sim, tgt target.Target, rec target.Recorder) {
	t.Helper()
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Error(err)
	}
	if left := s.Inventory(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Tokens and signatures end in the middle and right before the commit.
func TestExpiry(t *testing.T) {
	s := newSim(t, armsim.Options{})
	o, rec, tgt := s.order(t, "expiry", 21), new(targettest.MemRecorder), s.open(t)
	sess := begin(t, tgt, o, rec)
	u := upload0(t, sess, 0)
	file := content(t, o, 0)
	if err := send(t.Context(), u, file, 0, 131072); err != nil {
		t.Fatal(err)
	}
	expire := func() {
		s.ExpireTokens()
		if err := s.ExpireAccess(); err != nil {
			t.Fatal(err)
		}
	}
	expire()
	if err := send(t.Context(), u, file, 131072, len(file)); err != nil {
		t.Fatal(err)
	}
	expire()
	l, err := u.Complete(t.Context(), target.Sum{Bytes: int64(len(file))})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Disk(l.Object); err != nil || !bytes.Equal(got, file) {
		t.Errorf("other bytes landed (%v)", err)
	}
	gone(t, s, tgt, rec)
}

// Access is renewed before it ends.
func TestRenewedInTime(t *testing.T) {
	s := newSim(t, armsim.Options{})
	o, rec, tgt := s.order(t, "renewal", 20), new(targettest.MemRecorder), s.open(t)
	tgt.cfg.access = 2 * time.Second
	u := upload0(t, begin(t, tgt, o, rec), 0).(*upload)
	first := u.access.url
	if err := send(t.Context(), u, content(t, o, 0), 0, 65536); err != nil {
		t.Fatal(err)
	}
	if u.access.url != first {
		t.Error("access was renewed although it was fresh")
	}
	u.access.fresh = time.Now() // four fifths are over
	before := len(s.Requests())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := send(t.Context(), u, content(t, o, 0), 0, 65536); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if asked := len(s.Requests()) - before; u.access.url == first || asked != 1 {
		t.Errorf("eight writers asked for access %d times", asked)
	}
	gone(t, s, tgt, rec)
}

// Somebody revokes access, or removes the disk, while it is being sent: the
// upload says so, and the next begins anew.
func TestEndedFromOutside(t *testing.T) {
	for _, how := range []string{"revoked", "removed"} {
		s := newSim(t, armsim.Options{})
		o, rec, tgt := s.order(t, how, 20), new(targettest.MemRecorder), s.open(t)
		sess := begin(t, tgt, o, rec)
		u := upload0(t, sess, 0)
		file := content(t, o, 0)
		if err := send(t.Context(), u, file, 0, 131072); err != nil {
			t.Fatal(err)
		}
		id := u.(*upload).id
		if err := tgt.c.revoke(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		if how == "removed" {
			if err := tgt.c.do(t.Context(), http.MethodDelete, id, apiDisks, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if err := send(t.Context(), u, file, 131072, len(file)); !errors.Is(err, target.ErrExpired) {
			t.Errorf("%s: writing goes on with %v, want ErrExpired", how, err)
		}
		if _, err := sess.Upload(t.Context(), 0); !errors.Is(err, target.ErrExpired) {
			t.Errorf("%s: the next Upload gives %v, want ErrExpired", how, err)
		}
		land(t, sess, o)
		if _, err := sess.Finish(t.Context()); err != nil {
			t.Error(err)
		}
		if got, err := s.Disk(id); err != nil || !bytes.Equal(got, file) {
			t.Errorf("%s: other bytes landed (%v)", how, err)
		}
		gone(t, s, tgt, rec)
	}
}

// A disk that has landed can be compared with, and not be written.
func TestLandedIsCompared(t *testing.T) {
	s := newSim(t, armsim.Options{})
	o, rec, tgt := s.order(t, "compared", 20), new(targettest.MemRecorder), s.open(t)
	sess := begin(t, tgt, o, rec)
	land(t, sess, o)
	u := upload0(t, begin(t, s.open(t), o, rec), 0)
	file := slices.Clone(content(t, o, 0))
	if err := send(t.Context(), u, file, 0, len(file)); err != nil {
		t.Error(err)
	}
	file[0] ^= 1
	if err := send(t.Context(), u, file, 0, 65536); !errors.Is(err, target.ErrDigest) {
		t.Errorf("other bytes for a disk that has landed: %v, want ErrDigest", err)
	}
	if err := u.Abort(); err != nil {
		t.Error(err)
	}
	if _, err := sess.Finish(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, s, tgt, rec)
}

// Bytes that arrive changed again and again are not accepted, whoever changes
// them.
func TestChangedBytes(t *testing.T) {
	s := newSim(t, armsim.Options{})
	o, rec, tgt := s.order(t, "changed", 20), new(targettest.MemRecorder), s.open(t)
	u := upload0(t, begin(t, tgt, o, rec), 0)
	s.FailBytes(3, armsim.Status(http.StatusBadRequest, "Crc64Mismatch"))
	if err := send(t.Context(), u, content(t, o, 0), 0, 65536); !errors.Is(err, target.ErrDigest) {
		t.Errorf("%v, want ErrDigest", err)
	}
	gone(t, s, tgt, rec)
}

// The service itself refuses a write whose checksum is not that of its bytes.
func TestWrongChecksumRefused(t *testing.T) {
	s := newSim(t, armsim.Options{})
	o, rec, tgt := s.order(t, "checksum", 20), new(targettest.MemRecorder), s.open(t)
	u := upload0(t, begin(t, tgt, o, rec), 0).(*upload)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, u.access.url+"&comp=page", bytes.NewReader(make([]byte, 512)))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"x-ms-version": "2023-11-03", "x-ms-range": "bytes=0-511", "x-ms-page-write": "update", "x-ms-content-crc64": "AAAAAAAAAAE="} {
		req.Header.Set(k, v)
	}
	res, err := tgt.cfg.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if code := res.Header.Get("x-ms-error-code"); res.StatusCode != http.StatusBadRequest || code != "Crc64Mismatch" {
		t.Errorf("%s %s", res.Status, code)
	}
	gone(t, s, tgt, rec)
}

// Operations fail after they were accepted.
func TestOperationsFail(t *testing.T) {
	for _, c := range []struct {
		kind, code string
		permanent  bool
		say        string
	}{
		{"vm put", "AllocationFailed", false, "try again later"},
		{"vm put", "SkuNotAvailable", true, "choose another vm_size"},
		{"nic put", "InternalServerError", false, ""},
		{"vm deallocate", "InternalExecutionError", false, "cannot be stopped"},
	} {
		t.Run(c.kind+" "+c.code, func(t *testing.T) {
			s := newSim(t, armsim.Options{})
			o, rec, tgt := s.order(t, "failing", 20), new(targettest.MemRecorder), s.open(t)
			sess := begin(t, tgt, o, rec)
			land(t, sess, o)
			s.FailOperation(c.kind, c.code, "the platform's own words")
			_, err := sess.Finish(t.Context())
			if err == nil || target.IsPermanent(err) != c.permanent || !strings.Contains(err.Error(), c.say) || !strings.Contains(err.Error(), "the platform's own words") {
				t.Errorf("Finish: %v", err)
			}
			v, err := sess.Finish(t.Context())
			if err != nil {
				t.Fatalf("the next attempt: %v", err)
			}
			if m := s.Machine(v.ID); m == nil || m.Power != "deallocated" {
				t.Errorf("%+v", m)
			}
			gone(t, s, tgt, rec)
		})
	}
	for _, kind := range []string{"disk put", "disk beginGetAccess", "disk endGetAccess"} {
		t.Run(kind, func(t *testing.T) {
			s := newSim(t, armsim.Options{})
			o, rec, tgt := s.order(t, "failing", 20), new(targettest.MemRecorder), s.open(t)
			s.FailOperation(kind, "InternalServerError", "the platform's own words")
			failed := 0
			try := func(f func() error) {
				for range 2 {
					if err := f(); err == nil {
						return
					} else if !strings.Contains(err.Error(), "the platform's own words") {
						t.Errorf("%v", err)
					}
					failed++
				}
				t.Fatal("it fails a second time")
			}
			var sess target.Session
			var u target.Upload
			try(func() (err error) { sess, err = tgt.Begin(t.Context(), o, rec); return err })
			try(func() (err error) { u, err = sess.Upload(t.Context(), 0); return err })
			file := content(t, o, 0)
			if err := send(t.Context(), u, file, 0, len(file)); err != nil {
				t.Fatal(err)
			}
			try(func() error { _, err := u.Complete(t.Context(), target.Sum{Bytes: int64(len(file))}); return err })
			if failed != 1 {
				t.Errorf("it failed %d times", failed)
			}
			if _, err := sess.Finish(t.Context()); err != nil {
				t.Error(err)
			}
			gone(t, s, tgt, rec)
		})
	}
}

// Undo tells what it leaves alone.
func TestUndoForeign(t *testing.T) {
	s := newSim(t, armsim.Options{})
	o, rec, tgt := s.order(t, "mine", 20), new(targettest.MemRecorder), s.open(t)
	begin(t, tgt, o, rec)
	made, _ := rec.Recorded(t.Context())
	before := s.Inventory()
	theirs := made[0]
	theirs.Job = "another"
	if err := tgt.Undo(t.Context(), theirs); !errors.Is(err, target.ErrPermanent) || !strings.Contains(err.Error(), "ascend-job") {
		t.Errorf("a disk that is another job's: %v", err)
	}
	theirs = made[0]
	theirs.ID = strings.Replace(theirs.ID, armsim.Subscription, "11111111-2222-3333-4444-555555555555", 1)
	if err := tgt.Undo(t.Context(), theirs); !errors.Is(err, target.ErrPermanent) {
		t.Errorf("a disk of another subscription: %v", err)
	}
	theirs = made[0]
	theirs.Kind = kindVM
	if err := tgt.Undo(t.Context(), theirs); !errors.Is(err, target.ErrPermanent) {
		t.Errorf("a machine that is a disk: %v", err)
	}
	if now := s.Inventory(); !slices.Equal(before, now) {
		t.Errorf("%q became %q", before, now)
	}
	gone(t, s, tgt, rec)
}

// Neither secrets nor signatures nor tokens are in errors or in the SDK's log.
func TestNothingSecretIsTold(t *testing.T) {
	var mu sync.Mutex
	var told strings.Builder
	tell := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		told.WriteString(s + "\n")
	}
	log.SetListener(func(e log.Event, s string) { tell(string(e) + " " + s) })
	defer log.SetListener(nil)
	s := newSim(t, armsim.Options{})
	o, rec, tgt := s.order(t, "secretive", 20), new(targettest.MemRecorder), s.open(t)
	u := upload0(t, begin(t, tgt, o, rec), 0).(*upload)
	address := u.access.url
	_, query, _ := strings.Cut(address, "sig=")
	for _, f := range []armsim.Fault{
		armsim.Sever(0), armsim.Sever(5000), armsim.Status(http.StatusServiceUnavailable, "ServerBusy"), armsim.Status(http.StatusForbidden, "AuthenticationFailed"),
		armsim.Status(http.StatusConflict, "Conflict"), armsim.Status(http.StatusNotFound, "BlobNotFound"),
	} {
		s.FailBytes(attempts, f)
		if err := send(t.Context(), u, content(t, o, 0), 0, 65536); err != nil {
			tell(fmt.Sprintf("%v %+v %#v", err, err, err.Error()))
		}
	}
	for _, pairs := range [][]string{{"client_id", "11111111-2222-3333-4444-555555555555"}, {"tenant", "nobody.example"}, {"arm_endpoint", "https://127.0.0.1:1"}} {
		bad := s.open(t, pairs...)
		bad.cfg.call = time.Second
		tell(fmt.Sprintf("%+v", bad.Validate(t.Context())))
	}
	made, _ := rec.Recorded(t.Context())
	tell(fmt.Sprintf("%+v %+v", made, tgt.cfg))
	for what, text := range map[string]string{"the secret": armsim.ClientSecret, "a signature": query[:20], "a token": "simulated."} {
		if strings.Contains(told.String(), text) {
			t.Errorf("%s is told: %.400s", what, told.String()[max(strings.Index(told.String(), text)-200, 0):])
		}
	}
	if !strings.Contains(told.String(), "ServerBusy") || strings.Count(told.String(), "\n") < 50 {
		t.Error("nothing was told at all")
	}
}
