package restore

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/target"
)

func TestChainsToFormats(t *testing.T) {
	for n, links := range []int{1, 2, 5} {
		f := setup(t, links, diskSize)
		for i, info := range image.Formats() {
			if i%3 != n && info.Format.Name != "raw" { // each format from one of the chains
				continue
			}
			format := info.Format
			j := f.job(fmt.Sprint("vm ", i), &format, asFile, nil)
			rc, err := j.Run(t.Context(), f.tgt, f.options())
			if err != nil {
				t.Fatalf("%d links to %s: %v", links, format, err)
			}
			for k, d := range rc.Disks {
				f.compare(k, format, d.Object)
				if d.Verified == "" || len(d.Chain) != links || d.Digest == (rc.Disks[1-k].Digest) {
					t.Errorf("%s disk %d: verified %q, %d files, digest %v", format, k, d.Verified, len(d.Chain), d.Digest)
				}
			}
			if _, err := ReadReceipt(j.Receipt(), f.key.Public().(ed25519.PublicKey)); err != nil {
				t.Errorf("%s: %v", format, err)
			}
			if j.Status != Completed {
				t.Errorf("status %s", j.Status)
			}
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
	f.openBackup()
	j := f.job("web", nil, "", nil)
	if _, err := j.Run(t.Context(), f.tgt, f.options()); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadReceipt(j.Receipt(), nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(j.Receipt())
	if err != nil {
		t.Fatal(err)
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
	if _, err := ReadReceipt(j.Receipt(), other); !errors.Is(err, ErrUntrusted) {
		t.Errorf("another key: %v", err)
	}
}

func TestKillAndGoOn(t *testing.T) {
	for _, name := range []string{"raw", "qcow2", "vmdk/streamOptimized+deflate"} {
		f := setup(t, 2, 8<<20)
		format := formatNamed(t, name)
		j := f.job("killed", &format, asFile, nil)
		id := j.ID
		j.Close()
		kills := 0
		var out []byte
		for try := 0; ; try++ {
			cmd := exec.Command(os.Args[0], append([]string{f.dir, id}, f.files...)...)
			cmd.Env = append(os.Environ(), "ASCEND_TEST_RESTORE=1")
			var o, e bytes.Buffer
			cmd.Stdout, cmd.Stderr = &o, &e
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if try < 3 {
				timer := time.AfterFunc(time.Duration(150+rand.IntN(350))*time.Millisecond, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
				defer timer.Stop()
			}
			err := cmd.Wait()
			out = o.Bytes()
			if err == nil {
				break
			}
			var ee *exec.ExitError
			if !errors.As(err, &ee) || !strings.Contains(ee.String(), "killed") {
				t.Fatalf("%s: %v: %s", name, err, e.String())
			}
			kills++
		}
		if kills == 0 {
			t.Errorf("%s: no run was killed: %s", name, out)
		}
		again, err := f.st.Open(id)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			f.compare(i, format, again.Landed[i].Object)
		}
		if _, err := ReadReceipt(again.Receipt(), f.key.Public().(ed25519.PublicKey)); err != nil || again.Status != Completed {
			t.Errorf("%s: %v, status %s", name, err, again.Status)
		}
		again.Close()
	}
}

// broken cancels a job in mid-transfer and returns what each disk had sent.
func (f *fixture) broken(j *Job) []int64 {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	o := f.options()
	o.Limit, o.Workers, o.InFlight = rate.NewLimiter(4<<20, 1<<20), 1, window
	var mu sync.Mutex
	sent := map[int]func() int64{}
	o.Observe = func(e Event) {
		if e.Meter == nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		sent[e.Disk] = func() int64 { return e.Meter.Read().Sent }
		if len(sent) == 2 {
			time.AfterFunc(600*time.Millisecond, cancel)
		}
	}
	if _, err := j.Run(ctx, f.tgt, o); !errors.Is(err, context.Canceled) {
		f.t.Fatalf("not cancelled: %v", err)
	}
	if j.Status != Cancelled {
		f.t.Errorf("status %s", j.Status)
	}
	return []int64{sent[0](), sent[1]()}
}

func TestGoingOnSendsOnlyWhatIsMissing(t *testing.T) {
	f := setup(t, 1, 8<<20)
	format := image.Format{Name: "raw"}
	j := f.job("resumed", &format, asFile, nil)
	first := f.broken(j)
	rc, err := j.Run(t.Context(), f.tgt, f.options())
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range rc.Disks {
		f.compare(i, format, d.Object)
		if first[i] == 0 || d.Sent >= d.Allocated || first[i]+d.Sent > d.Allocated+window {
			t.Errorf("disk %d: first %d bytes, then %d of %d", i, first[i], d.Sent, d.Allocated)
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
	for _, whole := range []bool{false, true} {
		j := f.job("gone", &format, asFile, nil)
		if whole {
			if _, err := j.Run(t.Context(), f.tgt, f.options()); err != nil {
				t.Fatal(err)
			}
		} else {
			f.broken(j)
		}
		if maps.Equal(before, listing(t, f.out)) {
			t.Error("nothing was made")
		}
		for range 2 {
			if err := j.Undo(t.Context(), f.tgt); err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(before, listing(t, f.out)) {
				t.Error("the folder is not as before")
			}
			if j.Status != Undone {
				t.Errorf("status %s", j.Status)
			}
		}
	}
}

// stubborn refuses to undo files.
type stubborn struct{ target.Target }

func (s stubborn) Undo(ctx context.Context, r target.Resource) error {
	if r.Kind == "folder" {
		return errors.New("not now")
	}
	return s.Target.Undo(ctx, r)
}

// TestHalfUndone goes on with a job that was undone in part.
func TestHalfUndone(t *testing.T) {
	f := setup(t, 1, diskSize)
	format := image.Format{Name: "raw"}
	j := f.job("half", &format, asFile, nil)
	before := listing(t, f.out)
	f.broken(j)
	if err := j.Undo(t.Context(), stubborn{f.tgt}); err == nil || j.Status == Undone {
		t.Fatalf("%v, status %s", err, j.Status)
	}
	rc, err := j.Run(t.Context(), f.tgt, f.options())
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range rc.Disks {
		f.compare(i, format, d.Object)
	}
	if err := j.Undo(t.Context(), f.tgt); err != nil || !maps.Equal(before, listing(t, f.out)) {
		t.Errorf("undo: %v", err)
	}
}

func TestBackupChangedBetweenRuns(t *testing.T) {
	f := setup(t, 2, 8<<20)
	format := image.Format{Name: "raw"}
	j := f.job("changed", &format, asFile, nil)
	f.broken(j)
	sh(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 4096", f.files[1])
	f.openBackup()
	if _, err := j.Run(t.Context(), f.tgt, f.options()); !errors.Is(err, ErrSourceChanged) || j.Status != Failed {
		t.Errorf("%v, status %s", err, j.Status)
	}
	if _, err := os.Stat(j.Receipt()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a receipt stands there: %v", err)
	}
}

// flipper damages the landed disks before they are read back.
type flipper struct {
	target.Target
	dir string
}

type flipping struct {
	target.Session
	rb  target.ReadBacker
	dir string
}

func (f flipper) Begin(ctx context.Context, o *target.Order, rec target.Recorder) (target.Session, error) {
	s, err := f.Target.Begin(ctx, o, rec)
	if err != nil {
		return nil, err
	}
	rb, ok := target.As[target.ReadBacker](s)
	if !ok {
		return nil, errors.New("no read-back")
	}
	return flipping{s, rb, f.dir}, nil
}

func (s flipping) ReadBack(ctx context.Context, i int) (disk.Disk, error) {
	name := filepath.Join(s.dir, "red", fmt.Sprintf("red-disk%d.raw", i+1))
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 1)
	_, err = file.ReadAt(b, 1<<20)
	b[0] ^= 1
	_, werr := file.WriteAt(b, 1<<20)
	if err := errors.Join(err, werr, file.Close()); err != nil {
		return nil, err
	}
	return s.rb.ReadBack(ctx, i)
}

func TestReadBackMismatch(t *testing.T) {
	f := setup(t, 1, diskSize)
	format := image.Format{Name: "raw"}
	j := f.job("red", &format, asFile, nil)
	o := f.options()
	var mu sync.Mutex
	failed := false
	o.Observe = func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		failed = failed || e.Step == "verify" && e.State == "failed"
	}
	_, err := j.Run(t.Context(), flipper{f.tgt, f.out}, o)
	if !errors.Is(err, target.ErrDigest) || j.Status != Failed || !failed {
		t.Errorf("%v, status %s, told %v", err, j.Status, failed)
	}
	if _, err := os.Stat(j.Receipt()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a receipt stands there: %v", err)
	}
	all, err := f.st.List()
	if err != nil || len(all) != 1 || all[0].Status != Failed || all[0].Error == "" {
		t.Errorf("%+v %v", all, err)
	}
}

func TestStateIsLocked(t *testing.T) {
	f := setup(t, 1, diskSize)
	j := f.job("locked", nil, "", nil)
	if _, err := f.st.Open(j.ID); !errors.Is(err, ErrLocked) {
		t.Errorf("%v", err)
	}
	if _, err := f.st.Unfinished("locked"); !errors.Is(err, ErrLocked) {
		t.Errorf("%v", err)
	}
	if _, err := f.st.Unfinished("other"); !errors.Is(err, ErrNoJob) {
		t.Errorf("%v", err)
	}
	j.Close()
	again, err := f.st.Unfinished("locked")
	if err != nil || again.ID != j.ID {
		t.Fatal(err)
	}
	again.Close()
	for _, id := range []string{"", "zzz", "../" + j.ID} {
		if _, err := f.st.Open(id); !errors.Is(err, ErrNoJob) {
			t.Errorf("%q: %v", id, err)
		}
	}
}
