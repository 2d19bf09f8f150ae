package vault

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"ascend/internal/secret"
)

func made(t *testing.T, keys ...secret.String) *Vault {
	t.Helper()
	var lines []string
	for _, k := range keys {
		lines = append(lines, k.Reveal())
	}
	v, err := New(secret.New("# a key\n\n" + strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRotation(t *testing.T) {
	k1, _ := Generate()
	k2, _ := Generate()
	old, both, fresh := made(t, k1), made(t, k2, k1), made(t, k2)
	sealed, err := old.Seal("target t1", []byte("pässword"))
	if err != nil || bytes.Contains(sealed, []byte("pässword")) {
		t.Fatalf("%v %q", err, sealed)
	}
	if b, stale, err := old.Open("target t1", sealed); err != nil || stale || string(b) != "pässword" {
		t.Errorf("%q %v %v", b, stale, err)
	}
	if b, stale, err := both.Open("target t1", sealed); err != nil || !stale || string(b) != "pässword" {
		t.Errorf("%q %v %v", b, stale, err)
	}
	if _, _, err := fresh.Open("target t1", sealed); !errors.Is(err, ErrKey) {
		t.Errorf("opened by a key that did not seal: %v", err)
	}
	if _, _, err := both.Open("target t2", sealed); !errors.Is(err, ErrPlace) {
		t.Errorf("opened in another place: %v", err)
	}
	for i := range sealed { // every bit counts
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if b, _, err := old.Open("target t1", bad); err == nil {
			t.Fatalf("byte %d changed and opened: %q", i, b)
		}
	}
	if old.ID() == fresh.ID() || both.ID() != fresh.ID() {
		t.Error("the sealing key is not the first")
	}
	// The age library's own tools open it.
	id, _ := age.ParseX25519Identity(k1.Reveal())
	if _, err := age.Decrypt(bytes.NewReader(sealed), id); err != nil {
		t.Error(err)
	}
}

func TestSources(t *testing.T) {
	dir := t.TempDir()
	s, err := ParseSource("file:" + filepath.Join(dir, "sub", "key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(false); err == nil {
		t.Error("a key that is not there was read")
	}
	k, err := s.Load(true)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Load(true)
	if err != nil || strings.TrimSpace(again.Reveal()) != k.Reveal() {
		t.Errorf("another key the second time: %v", err)
	}
	path := filepath.Join(dir, "sub", "key")
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	_ = os.Chmod(path, 0o640)
	if _, err := s.Load(false); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read: %v", err)
	}
	t.Setenv("ASCEND_TEST_KEY", k.Reveal())
	if s, _ = ParseSource("env:ASCEND_TEST_KEY"); s.Writable() {
		t.Error("writes the environment")
	}
	if got, err := s.Load(true); err != nil || got.Reveal() != k.Reveal() {
		t.Error(err)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	_ = os.WriteFile(filepath.Join(dir, "ascend-key"), []byte(k.Reveal()), 0o400)
	s, _ = ParseSource("credential:ascend-key")
	if got, err := s.Load(true); err != nil || got.Reveal() != k.Reveal() {
		t.Error(err)
	}
	for _, bad := range []string{"", "file:", "x:y", "key"} {
		if _, err := ParseSource(bad); err == nil {
			t.Errorf("%q is a source", bad)
		}
	}
	_, err = New(secret.New("AGE-SECRET-KEY-1QQQ"))
	if err == nil || strings.Contains(fmt.Sprint(err), "QQQ") {
		t.Errorf("%v", err)
	}
}
