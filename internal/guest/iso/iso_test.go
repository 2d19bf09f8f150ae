package iso

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func image(t testing.TB, options ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, size := range map[string]int{"a.txt": 3, "folder/with a long name that is kept/Ünïcode.SYS": 5000, "folder/empty": 0} {
		p := filepath.Join(dir, "in", name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, bytes.Repeat([]byte("x"), size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f := filepath.Join(dir, "x.iso")
	args := slices.Concat(options, []string{"-input-charset", "utf-8", "-quiet", "-o", f, filepath.Join(dir, "in")})
	if out, err := exec.Command("genisoimage", args...).CombinedOutput(); err != nil {
		t.Fatalf("genisoimage (build/deps installs it): %v: %s", err, out)
	}
	b, err := os.ReadFile(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOpen(t *testing.T) {
	long := "folder/with a long name that is kept/Ünïcode.SYS"
	for options, want := range map[string]string{"-J": long, "-R": long, "-J -R": long, "": "FOLDER/WITH_A_L/__N__COD.SYS"} {
		b := image(t, strings.Fields(options)...)
		im, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(im.Files, func(f File) bool { return f.Path == want })
		if len(im.Files) != 3 || i < 0 {
			t.Errorf("%q: %+v", options, im.Files)
			continue
		}
		if got, err := im.Read(im.Files[i], 1<<20); err != nil || !bytes.Equal(got, bytes.Repeat([]byte("x"), 5000)) {
			t.Errorf("%q: %d bytes, %v", options, len(got), err)
		}
		if _, err := im.Read(im.Files[i], 100); err == nil {
			t.Error("a file beyond the limit is read")
		}
		if _, err := Open(bytes.NewReader(b), 20*sector); !errors.Is(err, ErrCorrupt) {
			t.Errorf("cut short: %v", err)
		}
	}
	if _, err := Open(bytes.NewReader(make([]byte, 100)), 100); !errors.Is(err, ErrFormat) {
		t.Errorf("%v", err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(image(f, "-R")[:64*sector])
	f.Add(image(f, "-J")[:64*sector])
	f.Fuzz(func(_ *testing.T, b []byte) {
		im, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, x := range im.Files[:min(len(im.Files), 10)] {
			_, _ = im.Read(x, 1<<20)
		}
	})
}
