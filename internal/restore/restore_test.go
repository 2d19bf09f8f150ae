package restore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/engine"
	"ascend/internal/image"
	"ascend/internal/plan"
	"ascend/internal/store"
	"ascend/internal/target"
	"ascend/internal/target/vmware/vcsimtest"
	"ascend/internal/transfer/digest"
	"ascend/internal/vm"
)

func TestChainsToFormats(t *testing.T) {
	for n, links := range []int{1, 2, 5} {
		f := setup(t, links, diskSize)
		for i, info := range image.Formats() {
			if i%3 != n && info.Format.Name != "raw" { // each format from one of the chains
				continue
			}
			format := info.Format
			j := f.submit(f.request(fmt.Sprint("vm ", i), &format, asFile, nil))
			j = f.wait(j.ID, Completed)
			if j.Percent != 100 {
				t.Errorf("%v percent", j.Percent)
			}
			rc := f.receipt(j.ID)
			for k, d := range rc.Disks {
				f.compare(k, format, d.Object)
				if d.Verified == "" || d.Empty || len(d.Chain) != links || d.Digest == rc.Disks[1-k].Digest {
					t.Errorf("%s disk %d: verified %q, %d files, digest %v", format, k, d.Verified, len(d.Chain), d.Digest)
				}
			}
			if _, err := ReadReceipt(f.s.ReceiptFile(j.ID), f.key.Public().(ed25519.PublicKey)); err != nil {
				t.Errorf("%s: %v", format, err)
			}
		}
	}
}

// asFile is the delivery of disks as files of their own.
const asFile = "file"

// TestReceiptTampered changes every value of a receipt, one at a time.
func TestReceiptTampered(t *testing.T) {
	f := setup(t, 2, diskSize)
	// A name that is no UTF-8 must not break the signature.
	odd := filepath.Join(filepath.Dir(f.files[0]), "disk\xff.qcow2")
	if err := os.Rename(f.files[0], odd); err != nil {
		t.Fatal(err)
	}
	f.files[0] = odd
	r := f.request("web", nil, "", nil)
	spec, err := json.Marshal(r.Spec)
	if err != nil {
		t.Fatal(err)
	}
	j := f.submit(r)
	f.wait(j.ID, Completed)
	b, err := f.s.Receipt(t.Context(), j.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseReceipt(b, nil); err != nil {
		t.Fatalf("%v: %s", err, spec)
	}
	var doc any
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(f.dir, "tampered.json")
	n := 0
	try := func(what string) {
		n++
		x, err := json.Marshal(doc)
		if err == nil {
			err = os.WriteFile(path, x, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadReceipt(path, nil); !errors.Is(err, ErrSignature) {
			t.Errorf("%s was changed: %v", what, err)
		}
	}
	var walk func(at string, v any, set func(any))
	walk = func(at string, v any, set func(any)) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Collect(maps.Keys(v)) {
				walk(at+"."+k, v[k], func(x any) { v[k] = x })
			}
			v["added"] = 1
			try(at + ".added")
			delete(v, "added")
			return
		case []any:
			for i := range v {
				walk(fmt.Sprint(at, i), v[i], func(x any) { v[i] = x })
			}
			set(v[:len(v)-1])
		case string:
			r := []byte(v)
			if len(r) == 0 {
				set("x")
				break
			}
			r[len(r)/2] ^= 1
			set(string(r))
		case json.Number:
			set(json.Number(fmt.Sprint("1", strings.TrimPrefix(v.String(), "0"))))
		case bool:
			set(!v)
		}
		try(at)
		set(v)
	}
	walk("", doc, nil)
	if n < 40 {
		t.Errorf("only %d fields", n)
	}
	if err := os.WriteFile(path, append(b, "{}"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadReceipt(path, nil); !errors.Is(err, ErrSignature) {
		t.Errorf("with something after it: %v", err)
	}
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseReceipt(b, other); !errors.Is(err, ErrUntrusted) {
		t.Errorf("another key: %v", err)
	}
}

// until waits for something that another goroutine brings about.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for begin := time.Now(); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Since(begin) > 2*time.Minute {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// sending waits until a job has sent some of each disk.
func (f *fixture) sending(id string) {
	f.t.Helper()
	until(f.t, "both disks are under way", func() bool {
		steps, err := f.s.Steps(f.t.Context(), id)
		n := 0
		for _, s := range steps {
			if s.Kind == "transfer" && s.Done > 256<<10 && s.Done < s.Total {
				n++
			}
		}
		return err == nil && n == 2
	})
}

// TestRestartSendsOnlyWhatIsMissing stops a service in mid-transfer, as a
// signal does, and starts another.
func TestRestartSendsOnlyWhatIsMissing(t *testing.T) {
	f := setup(t, 1, 8<<20)
	format := image.Format{Name: "raw"}
	r := f.request("resumed", &format, asFile, nil)
	r.Options = Options{Bandwidth: 8 << 20, Workers: 1, InFlight: window}
	j := f.submit(r)
	f.sending(j.ID)
	if err := f.s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if j, err := f.s.Wait(t.Context(), j.ID); !errors.Is(err, ErrStopped) || j.Status.AtRest() {
		t.Errorf("%v", err)
	}
	f.start(nil)
	j, err := f.s.Job(t.Context(), j.ID[:20])
	if err != nil || !j.Idle || j.Percent <= 0 && !j.ETA.IsZero() {
		t.Errorf("%+v, %v", j, err)
	}
	if err := f.s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.wait(j.ID, Completed)
	for i, d := range f.receipt(j.ID).Disks {
		f.compare(i, format, d.Object)
		if d.Sent >= d.Allocated {
			t.Errorf("disk %d: %d of %d bytes were sent after the restart", i, d.Sent, d.Allocated)
		}
	}
}

func TestCancelAndUndo(t *testing.T) {
	f := setup(t, 1, 8<<20)
	for name, text := range map[string]string{"gone.txt": "mine", "gone-disk1.raw": "also mine", ".gone": "hidden"} {
		if err := os.WriteFile(filepath.Join(f.out, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := listing(t, f.out)
	format := image.Format{Name: "raw"}
	r := f.request("gone", &format, asFile, nil)
	unchanged := func() {
		t.Helper()
		if !maps.Equal(before, listing(t, f.out)) {
			t.Error("the folder is not as before")
		}
	}
	j := f.submit(r)
	f.wait(j.ID, Completed)
	if err := f.s.Cancel(t.Context(), j.ID); !errors.Is(err, engine.ErrState) {
		t.Errorf("a completed job was cancelled: %v", err)
	}
	for range 2 {
		if err := f.s.Undo(t.Context(), j.ID); err != nil {
			t.Fatal(err)
		}
		f.wait(j.ID, Undone)
		unchanged()
	}
	r.Options = Options{Bandwidth: 4 << 20, Workers: 1, InFlight: window}
	j = f.submit(r)
	f.sending(j.ID)
	if err := f.s.Cancel(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	f.wait(j.ID, Cancelled)
	unchanged()
	if err := f.s.Retry(t.Context(), j.ID); !errors.Is(err, engine.ErrState) {
		t.Errorf("a cancelled job was retried: %v", err)
	}
}

// TestCancelFromAnotherProcess asks the one that holds the lock.
func TestCancelFromAnotherProcess(t *testing.T) {
	f := setup(t, 1, 8<<20)
	format := image.Format{Name: "raw"}
	r := f.request("theirs", &format, asFile, nil)
	r.Options = Options{Bandwidth: 4 << 20, Workers: 1, InFlight: window}
	j := f.submit(r)
	f.sending(j.ID)
	st, err := openStore(t.Context(), f.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	other, err := New(Config{Store: Tables(st), Engine: localEngine(st), Resolver: f, Dir: f.s.folder, Key: f.key, Tick: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	for _, do := range []func(context.Context, string) error{other.Resume, other.Retry, other.Undo} {
		if err := do(t.Context(), j.ID); !errors.Is(err, ErrLocked) {
			t.Errorf("%v", err)
		}
	}
	if err := other.Recover(t.Context()); err != nil {
		t.Errorf("recover: %v", err)
	}
	if err := other.Cancel(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	if j, err := other.Wait(t.Context(), j.ID); err != nil || j.Status != Cancelled {
		t.Errorf("%+v, %v", j, err)
	}
	if got := listing(t, f.out); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
	for _, id := range []string{"", "zzz", "../" + j.ID} {
		if _, err := other.Job(t.Context(), id); !errors.Is(err, ErrNoJob) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestSubmitTwice(t *testing.T) {
	f := setup(t, 1, diskSize)
	r := f.request("once", nil, "", nil)
	r.Unique = "key"
	a, b := f.submit(r), f.submit(r)
	if a.ID != b.ID {
		t.Errorf("two jobs: %s, %s", a.ID, b.ID)
	}
	f.wait(a.ID, Completed)
	if _, err := f.s.Unfinished(t.Context(), r.Key); !errors.Is(err, ErrNoJob) {
		t.Errorf("%v", err)
	}
}

// stubborn refuses to undo folders.
type stubborn struct{ target.Target }

func (s stubborn) Undo(ctx context.Context, r target.Resource) error {
	if r.Kind == "folder" {
		return fmt.Errorf("not now: %w", target.ErrPermanent)
	}
	return s.Target.Undo(ctx, r)
}

// TestHalfUndone undoes what a first attempt left.
func TestHalfUndone(t *testing.T) {
	f := setup(t, 1, diskSize)
	before := listing(t, f.out)
	j := f.submit(f.request("half", nil, "", nil))
	f.wait(j.ID, Completed)
	there, err := openLocal(f.out)
	if err != nil {
		t.Fatal(err)
	}
	f.tgt = stubborn{there}
	if err := f.s.Undo(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	if j = f.wait(j.ID, Failed); !strings.Contains(j.Error, "not now") {
		t.Errorf("%q", j.Error)
	}
	f.tgt = nil
	if err := f.s.Undo(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	f.wait(j.ID, Undone)
	if !maps.Equal(before, listing(t, f.out)) {
		t.Error("the folder is not as before")
	}
}

// TestBackupChanged changes the backup while a job rests.
func TestBackupChanged(t *testing.T) {
	f := setup(t, 2, 8<<20)
	format := image.Format{Name: "raw"}
	r := f.request("changed", &format, asFile, nil)
	r.Options = Options{Bandwidth: 8 << 20, Workers: 1, InFlight: window, Keep: true}
	j := f.submit(r)
	f.sending(j.ID)
	if err := f.s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	sh(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 4096", f.files[1])
	f.start(nil)
	if err := f.s.Resume(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	j = f.wait(j.ID, Failed)
	if !strings.Contains(j.Error, ErrSourceChanged.Error()) {
		t.Errorf("%q", j.Error)
	}
	if b, err := f.s.Receipt(t.Context(), j.ID); err != nil || b != nil {
		t.Errorf("a receipt stands there: %v", err)
	}
}

// flipper damages the landed disks before they are read back, once.
type flipper struct {
	target.Target
	dir  string
	once *sync.Once
}

type flipping struct {
	target.Session
	f flipper
}

func (f flipper) Begin(ctx context.Context, o *target.Order, rec target.Recorder) (target.Session, error) {
	s, err := f.Target.Begin(ctx, o, rec)
	return flipping{s, f}, err
}

func (s flipping) ReadBack(ctx context.Context, i int) (disk.Disk, error) {
	rb, ok := target.As[target.ReadBacker](s.Session)
	if !ok {
		return nil, errors.New("no read-back")
	}
	var err error
	s.f.once.Do(func() { err = flip(filepath.Join(s.f.dir, "red", fmt.Sprintf("red-disk%d.raw", i+1)), 1<<20) })
	if err != nil {
		return nil, err
	}
	return rb.ReadBack(ctx, i)
}

func flip(name string, at int64) error {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	_, err = file.ReadAt(b, at)
	b[0] ^= 1
	_, werr := file.WriteAt(b, at)
	return errors.Join(err, werr, file.Close())
}

// TestReadBackMismatch: a job whose disk landed otherwise than it was sent is
// never completed, and what it made is removed.
func TestReadBackMismatch(t *testing.T) {
	f := setup(t, 1, diskSize)
	format := image.Format{Name: "raw"}
	there, err := openLocal(f.out)
	if err != nil {
		t.Fatal(err)
	}
	f.tgt = flipper{there, f.out, &sync.Once{}}
	j := f.submit(f.request("red", &format, asFile, nil))
	j = f.wait(j.ID, RolledBack)
	if !strings.Contains(j.Error, target.ErrDigest.Error()) || !strings.Contains(j.Error, "disk ") {
		t.Errorf("%q", j.Error)
	}
	if b, err := f.s.Receipt(t.Context(), j.ID); err != nil || b != nil {
		t.Errorf("a receipt stands there: %v", err)
	}
	if got := listing(t, f.out); len(got) != 1 {
		t.Errorf("left behind: %v", slices.Collect(maps.Keys(got)))
	}
}

// failing fails the first writes.
type failing struct {
	target.Target
	left *atomic.Int64
	err  error
}

type failingSession struct {
	target.Session
	f failing
}

type failingUpload struct {
	target.RangeUpload
	f failing
}

func (f failing) Begin(ctx context.Context, o *target.Order, rec target.Recorder) (target.Session, error) {
	s, err := f.Target.Begin(ctx, o, rec)
	return failingSession{s, f}, err
}

func (s failingSession) Unwrap() any { return s.Session }

func (s failingSession) Upload(ctx context.Context, i int) (target.Upload, error) {
	u, err := s.Session.Upload(ctx, i)
	if err != nil {
		return nil, err
	}
	return failingUpload{u.(target.RangeUpload), s.f}, nil
}

func (u failingUpload) WriteRange(ctx context.Context, off int64, p []byte) error {
	if u.f.left.Add(-1) >= 0 {
		return u.f.err
	}
	return u.RangeUpload.WriteRange(ctx, off, p)
}

// TestRetryOfAKeptJob: what a failure left is kept, gone on with, and proven.
func TestRetryOfAKeptJob(t *testing.T) {
	f := setup(t, 1, diskSize)
	there, err := openLocal(f.out)
	if err != nil {
		t.Fatal(err)
	}
	fl := failing{there, &atomic.Int64{}, fmt.Errorf("quota is used up: %w", target.ErrPermanent)}
	fl.left.Store(1)
	f.tgt = fl
	format := image.Format{Name: "raw"}
	r := f.request("kept", &format, asFile, nil)
	r.Options.Keep = true
	j := f.submit(r)
	j = f.wait(j.ID, Failed)
	if !strings.Contains(j.Error, "quota is used up") {
		t.Errorf("%q", j.Error)
	}
	if again, err := f.s.Unfinished(t.Context(), r.Key); err != nil || again.ID != j.ID {
		t.Errorf("%v", err)
	}
	if err := f.s.Retry(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	f.wait(j.ID, Completed)
	for i, d := range f.receipt(j.ID).Disks {
		f.compare(i, format, d.Object)
	}
	if err := f.s.Retry(t.Context(), j.ID); !errors.Is(err, engine.ErrState) {
		t.Errorf("a completed job was retried: %v", err)
	}
}

// TestTargetIsAwayForAWhile: errors that may pass are waited out.
func TestTargetIsAwayForAWhile(t *testing.T) {
	f := setup(t, 1, diskSize)
	there, err := openLocal(f.out)
	if err != nil {
		t.Fatal(err)
	}
	fl := failing{there, &atomic.Int64{}, errors.New("503 Service Unavailable")}
	fl.left.Store(4)
	f.tgt = fl
	format := image.Format{Name: "raw"}
	j := f.submit(f.request("away", &format, asFile, nil))
	f.wait(j.ID, Completed)
	for i, d := range f.receipt(j.ID).Disks {
		f.compare(i, format, d.Object)
	}
	events, err := f.s.Events(t.Context(), j.ID, 0, 0)
	if err != nil || !slices.ContainsFunc(events, func(e Event) bool { return strings.Contains(e.Text, "503") }) {
		t.Errorf("nothing says why it was tried again: %+v, %v", events, err)
	}
}

// TestClockJumps: the clock jumps an hour ahead and two back in mid-transfer, while
// the target is away for a while: nobody waits for an hour, nothing is lost, and
// the log keeps its order.
func TestClockJumps(t *testing.T) {
	f := setup(t, 1, 8<<20)
	there, err := openLocal(f.out)
	if err != nil {
		t.Fatal(err)
	}
	fl := failing{there, &atomic.Int64{}, errors.New("503 Service Unavailable")}
	f.tgt = fl
	format := image.Format{Name: "raw"}
	r := f.request("jump", &format, asFile, nil)
	r.Options = Options{Bandwidth: 4 << 20, Workers: 1, InFlight: window}
	t.Cleanup(func() { store.Skew(0) })
	j := f.submit(r)
	f.sending(j.ID)
	store.Skew(time.Hour)
	fl.left.Store(2)
	until(t, "the target was away", func() bool { return fl.left.Load() <= 0 })
	store.Skew(-time.Hour)
	f.wait(j.ID, Completed)
	for i, d := range f.receipt(j.ID).Disks {
		f.compare(i, format, d.Object)
	}
	events, err := f.s.Events(t.Context(), j.ID, 0, 0)
	if err != nil || !slices.IsSortedFunc(events, func(a, b Event) int { return cmp.Compare(a.Seq, b.Seq) }) {
		t.Errorf("%+v, %v", events, err)
	}
	again := f.request("later", &format, asFile, nil) // what comes now stands behind what was
	if all, err := f.tab.Jobs(t.Context(), Filter{}); err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	k := f.submit(again)
	f.wait(k.ID, Completed)
	if all, err := f.tab.Jobs(t.Context(), Filter{}); err != nil || len(all) != 2 || all[0].ID != k.ID {
		t.Errorf("the newest is not first: %+v, %v", all, err)
	}
}

// TestVcenterBreaksOneUpload: of an import, the disk whose upload broke is sent
// again, in the same session; the other is not, and the machine is made once.
func TestVcenterBreaksOneUpload(t *testing.T) {
	f := setup(t, 1, 2<<20)
	v := vcsimtest.New(t, vcsimtest.Bare())
	o := order{Host: v.Host, CAFile: v.CAFile}
	f.open = func() (target.Target, error) { return o.open(context.Background()) }
	v.First(1, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "busy", http.StatusServiceUnavailable) })
	j := f.submit(f.request("web", nil, "nfc", func(r *plan.Request) {
		r.Target = plan.TargetRef{Name: "there", Platform: vm.VMware}
		r.Placement.Fields = map[string]string{"datastore": "LocalDS_0"}
	}))
	f.wait(j.ID, Completed)
	if v.Posts() != 3 {
		t.Errorf("%d uploads, and not three", v.Posts())
	}
	res, err := f.s.Resources(t.Context(), j.ID)
	if err != nil || len(res) != 1 || res[0].Gone {
		t.Errorf("%+v, %v", res, err)
	}
	for i, d := range vcsimtest.Disks(v.Machine(t, "web")) {
		file := filepath.Join(f.dir, "disk")
		if err := os.WriteFile(file, v.Disk(t, d), 0o600); err != nil {
			t.Fatal(err)
		}
		f.compare(i, image.Format{Name: "raw"}, file)
	}
}

// TestAnotherMachineGoesOn: two services that share tables and no folder.
func TestAnotherMachineGoesOn(t *testing.T) {
	f := setup(t, 1, 8<<20)
	shared := func(dir string) func(c *Config) {
		return func(c *Config) { c.Shared, c.Dir, c.SyncEvery = true, filepath.Join(f.dir, dir), 20*time.Millisecond }
	}
	f.start(shared("one"))
	format := image.Format{Name: "raw"}
	r := f.request("moved", &format, asFile, nil)
	r.Options = Options{Bandwidth: 4 << 20, Workers: 1, InFlight: window}
	j := f.submit(r)
	f.sending(j.ID)
	until(t, "the journals are in the tables", func() bool {
		for i := range f.files {
			names, err := f.tab.Blobs(t.Context(), j.ID, journalPrefix(i))
			if err != nil || len(names) < 3 {
				return false
			}
		}
		return true
	})
	until(t, "the progress is in the tables", func() bool {
		now, err := f.tab.Job(t.Context(), j.ID)
		return err == nil && now.Percent > 0
	})
	if err := f.s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	left := func() int {
		names, err := filepath.Glob(filepath.Join(f.dir, "one", "jobs", j.ID, "disk-*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	// Nothing is swept of a job that is not at rest.
	if err := f.s.Sweep(t.Context()); err != nil || left() == 0 {
		t.Errorf("%d files, %v", left(), err)
	}
	f.start(shared("two"))
	if err := f.s.Resume(t.Context(), j.ID); err != nil {
		t.Fatal(err)
	}
	f.wait(j.ID, Completed)
	f.start(shared("one"))
	if err := f.s.Sweep(t.Context()); err != nil || left() != 0 {
		t.Errorf("%d files are left where the job was lost: %v", left(), err)
	}
	for i, d := range f.receipt(j.ID).Disks {
		f.compare(i, format, d.Object)
		if d.Sent >= d.Allocated {
			t.Errorf("disk %d: %d of %d bytes were sent by the second machine", i, d.Sent, d.Allocated)
		}
		if names, err := f.tab.Blobs(t.Context(), j.ID, journalPrefix(i)); err != nil || len(names) > 0 {
			t.Errorf("left in the tables: %v, %v", names, err)
		}
	}
}

// TestEmptyAndUnverifiedAreSaid: a job that proves little says so.
func TestEmptyAndUnverifiedAreSaid(t *testing.T) {
	f := setup(t, 1, diskSize)
	f.files = f.files[:1]
	zeros := filepath.Join(filepath.Dir(f.files[0]), "zeros.qcow2")
	sh(t, "qemu-img", "create", "-q", "-f", "qcow2", zeros, "1M")
	sh(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 0 0 1M", zeros)
	f.files = append(f.files, zeros)
	format := image.Format{Name: "raw"}
	r := f.request("quiet", &format, asFile, nil)
	r.Options.NoVerify = true
	j := f.submit(r)
	f.wait(j.ID, Completed)
	rc := f.receipt(j.ID)
	if rc.Disks[0].Empty || !rc.Disks[1].Empty || rc.Disks[0].Verified != "" || rc.Disks[0].Unverified == "" {
		t.Errorf("%+v", rc.Disks)
	}
	events, err := f.s.Events(t.Context(), j.ID, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"disk 1 is empty", "disk 0 was not verified"} {
		if !slices.ContainsFunc(events, func(e Event) bool { return e.Level == levelWarning && strings.Contains(e.Text, want) }) {
			t.Errorf("nothing says %q: %+v", want, events)
		}
	}
	if e, err := isEmpty(digest.Sum{}, 1<<20); err != nil || e {
		t.Errorf("%v %v", e, err)
	}
}

// TestWatch sees every step from the start, percentages that never fall, every
// event once, and the end.
func TestWatch(t *testing.T) {
	f := setup(t, 1, 8<<20)
	format := image.Format{Name: "raw"}
	r := f.request("seen", &format, asFile, nil)
	r.Options = Options{Bandwidth: 8 << 20, Workers: 1, InFlight: window, NoVerify: true}
	j := f.submit(r)
	want := Steps(&r.Spec)
	last, n, end := 0.0, int64(0), Status("")
	moved := false
	for u := range f.s.Watch(t.Context(), j.ID, 0) {
		if len(u.Steps) != len(want) || u.Steps[0].Name != want[0].Name {
			t.Fatalf("%+v", u.Steps)
		}
		if u.Job.Percent < last {
			t.Errorf("from %v to %v percent", last, u.Job.Percent)
		}
		moved = moved || u.Job.Percent > 0 && u.Job.Percent < 100
		last, end = u.Job.Percent, u.Job.Status
		for _, e := range u.Events {
			if e.Seq <= n {
				t.Errorf("event %d comes after %d", e.Seq, n)
			}
			n = e.Seq
		}
	}
	if end != Completed || last != 100 || n == 0 || !moved {
		t.Errorf("ended %s at %v percent after %d events, moved: %v", end, last, n, moved)
	}
}

// TestSourceGone: a backup that is no longer there stops the job at its first
// look, not after every attempt, and nothing is made for it.
func TestSourceGone(t *testing.T) {
	f := setup(t, 1, 4<<20)
	format := image.Format{Name: "raw"}
	r := f.request("gone", &format, asFile, nil)
	for _, n := range f.files {
		if err := os.Remove(n); err != nil {
			t.Fatal(err)
		}
	}
	j := f.wait(f.submit(r).ID, RolledBack)
	if !strings.Contains(j.Error, "is the repository mounted") {
		t.Errorf("%q does not say what to do", j.Error)
	}
	steps, err := f.s.Steps(t.Context(), j.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range steps {
		if st.Kind == "source" && st.Attempt > 2 || st.Kind == "begin" && st.Attempt > 0 {
			t.Errorf("%s was tried %d times", st.Name, st.Attempt)
		}
	}
}
