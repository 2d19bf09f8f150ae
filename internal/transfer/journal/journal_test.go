package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/transfer/digest"
)

func newMap() *disk.Map {
	m := disk.NewMap(10<<20, disk.LeafSize)
	m.Add(0, 3<<20)
	m.Add(7<<20, 100)
	return m.Seal()
}

func sum(i byte) digest.Sum { return digest.Sum{i} }

// filled makes a journal with three units, a checkpoint and a mark after the
// first two, and returns its path and its bytes.
func filled(t testing.TB) (string, []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "j")
	j, err := Create(path, "key", newMap())
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for i, f := range []func() error{
		func() error { return j.Landed(0, []Block{{0, sum(1)}}) },
		func() error { return j.Landed(2, []Block{{2, sum(3)}}) },
		func() error { return j.Synced(j.Position()) },
		func() error { return j.Checkpoint([]byte("state"), []Block{{1, sum(2)}}) },
		func() error { return j.Landed(9, []Block{{7, sum(4)}}) },
	} {
		if err := f(); err != nil {
			t.Fatal(i, err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, b
}

func TestEverythingIsThereAgain(t *testing.T) {
	path, _ := filled(t)
	j, err := Load(path, "key")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for unit, want := range map[int64]bool{0: true, 1: false, 2: true, 3: false, 9: true, 1 << 40: false} {
		if j.Has(unit) != want {
			t.Errorf("unit %d: %v", unit, !want)
		}
	}
	if string(j.LastCheckpoint()) != "state" || j.Restarted() {
		t.Errorf("checkpoint %q, restarted %v", j.LastCheckpoint(), j.Restarted())
	}
	a, _ := j.Map().AppendBinary(nil)
	b, _ := newMap().AppendBinary(nil)
	if !bytes.Equal(a, b) {
		t.Error("the map is another")
	}
	want := digest.NewRoot(10<<20, func(b int64) bool { return b > 2 && b != 7 })
	for b, s := range map[int64]digest.Sum{0: sum(1), 1: sum(2), 2: sum(3), 7: sum(4)} {
		want.Put(b, s)
	}
	w, _ := want.Sum()
	if got, err := j.Sum(); err != nil || got != w {
		t.Errorf("digest %v %v, want %v", got, err, w)
	}
}

// TestCutAnywhere cuts the journal at every byte: what is whole counts, the rest
// does not, and the journal can be written on.
func TestCutAnywhere(t *testing.T) {
	_, whole := filled(t)
	dir := t.TempDir()
	for n := range len(whole) {
		path := filepath.Join(dir, "j")
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Load(path, "key")
		if errors.Is(err, ErrNone) {
			continue
		}
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if j.Has(9) {
			t.Fatalf("cut at %d: the last unit counts", n)
		}
		if err := j.Landed(5, nil); err != nil {
			t.Fatal(err)
		}
		had0 := j.Has(0)
		j.Close()
		if j, err = Load(path, "key"); err != nil || !j.Has(5) || j.Has(0) != had0 {
			t.Fatalf("cut at %d: what was written on is lost: %v", n, err)
		}
		j.Close()
	}
}

func TestAfterRestartOnlyWhatWasFlushedCounts(t *testing.T) {
	path, b := filled(t)
	id := []byte(bootID())
	if len(id) == 0 {
		t.Fatal("this machine has no boot identifier")
	}
	// The same journal as another boot left it: header with another identifier.
	m := newMap()
	j, err := Create(path, "key", m)
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	other := bytes.Repeat([]byte("0"), len(id))
	r := &reader{r: bytes.NewReader(b), end: int64(len(b))}
	_, head, _ := r.next()
	f := &Journal{f: mustOpen(t, path)}
	if err := f.append(recHeader, bytes.Replace(head, id, other, 1)); err != nil {
		t.Fatal(err)
	}
	for {
		kind, payload, ok := r.next()
		if !ok {
			break
		}
		if err := f.append(kind, payload); err != nil {
			t.Fatal(err)
		}
	}
	f.f.Close()
	j, err = Load(path, "key")
	if err != nil {
		t.Fatal(err)
	}
	if !j.Restarted() || !j.Has(0) || !j.Has(2) || j.Has(9) || j.LastCheckpoint() != nil {
		t.Errorf("restarted %v, units %v %v %v, checkpoint %q", j.Restarted(), j.Has(0), j.Has(2), j.Has(9), j.LastCheckpoint())
	}
	j.Close()
	if j, err = Load(path, "key"); err != nil || j.Restarted() || !j.Has(2) {
		t.Errorf("loaded again: %v", err)
	}
	j.Close()
}

func mustOpen(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_TRUNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestOneProcessAndOneKey(t *testing.T) {
	path, _ := filled(t)
	if _, err := Load(path, "another"); !errors.Is(err, ErrNone) {
		t.Errorf("another key: %v", err)
	}
	j, err := Load(path, "key")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, "key"); !errors.Is(err, ErrBusy) {
		t.Errorf("a second process: %v", err)
	}
	if err := j.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, "key"); !errors.Is(err, ErrNone) {
		t.Errorf("removed: %v", err)
	}
}

func FuzzLoad(f *testing.F) {
	_, whole := filled(f)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "j")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Load(path, "key")
		if err != nil {
			return
		}
		j.Has(0)
		_, _ = j.Sum()
		j.Close()
	})
}
