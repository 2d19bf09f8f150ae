package fleet_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"ascend/internal/secret"
	"ascend/internal/server/fleet"
	"ascend/internal/server/jobs"
	"ascend/internal/server/storage"
	"ascend/internal/store"
	"ascend/internal/store/storetest"
	"ascend/internal/vault"
)

// TestReach: an empty folder is reached, one that is not there, is no folder or
// hangs is not, and one that hangs holds nothing up.
func TestReach(t *testing.T) {
	dir := t.TempDir()
	file, pipe, full := filepath.Join(dir, "file"), filepath.Join(dir, "pipe"), filepath.Join(dir, "full")
	for _, err := range []error{os.WriteFile(file, nil, 0o600), syscall.Mkfifo(pipe, 0o600), os.MkdirAll(filepath.Join(full, "x"), 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := fleet.NewReach()
	folders := map[string]string{"b": full, "a": t.TempDir(), "file": file, "hangs": pipe, "gone": filepath.Join(dir, "gone")}
	for range 2 { // opening the pipe hangs until somebody writes to it
		if got := r.Of(folders); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("%v", got)
		}
	}
	w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // lets the one that hangs go
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if err := os.RemoveAll(full); err != nil {
		t.Fatal(err)
	}
	delete(folders, "hangs")
	if got := r.Of(folders); !slices.Equal(got, []string{"a"}) {
		t.Errorf("%v", got)
	}
}

func TestShare(t *testing.T) {
	all := jobs.Limits{Jobs: 8, Disks: 5, Bandwidth: 100 << 20, Requests: map[string]int{"vc": 1, "aws": 9}}
	alive, dead := fleet.Listed{Alive: true}, fleet.Listed{}
	one := fleet.Share(all, []fleet.Listed{alive, dead})
	if one.Disks != 5 || one.Bandwidth != 100<<20 || !maps.Equal(one.Requests, all.Requests) {
		t.Errorf("%+v", one)
	}
	third := fleet.Share(all, []fleet.Listed{alive, alive, dead, alive})
	if third.Jobs != 8 || third.Disks != 1 || third.Bandwidth != (100<<20)/3 || !maps.Equal(third.Requests, map[string]int{"vc": 1, "aws": 3}) {
		t.Errorf("%+v", third)
	}
	if none := fleet.Share(jobs.Limits{}, []fleet.Listed{alive, alive}); none.Disks != 0 || none.Bandwidth != 0 || none.Requests != nil {
		t.Errorf("no limit became one: %+v", none)
	}
}

// TestKey: the first server's key of receipts is everybody's, sealed, and outlives
// a change of the key that seals it.
func TestKey(t *testing.T) {
	ctx := t.Context()
	s := storage.New(storetest.Open(t, store.SQLite, store.Options{}))
	seal := func(old secret.String) (*vault.Vault, secret.String) {
		fresh, err := vault.Generate()
		if err != nil {
			t.Fatal(err)
		}
		v, err := vault.New(secret.New(fresh.Reveal() + "\n" + old.Reveal()))
		if err != nil {
			t.Fatal(err)
		}
		return v, fresh
	}
	v, text := seal(secret.String{})
	if _, err := fleet.Key(ctx, s, v, nil); !errors.Is(err, fleet.ErrNoKey) {
		t.Errorf("%v", err)
	}
	_, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, others, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []ed25519.PrivateKey{own, nil, others} {
		if got, err := fleet.Key(ctx, s, v, k); err != nil || !got.Equal(own) {
			t.Errorf("%v", err)
		}
	}
	stranger, _ := seal(secret.String{})
	if _, err := fleet.Key(ctx, s, stranger, nil); err == nil {
		t.Error("opened by another key")
	}
	r, err := s.Record(ctx, "key", "receipts")
	if err != nil || bytes.Contains(r.Data, own.Seed()) {
		t.Errorf("it stands there in clear: %v", err)
	}
	both, fresh := seal(text)
	if err := fleet.RotateKey(ctx, s, both); err != nil {
		t.Fatal(err)
	}
	only, err := vault.New(fresh)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fleet.Key(ctx, s, only, nil); err != nil || !got.Equal(own) {
		t.Errorf("after the rotation: %v", err)
	}
}
