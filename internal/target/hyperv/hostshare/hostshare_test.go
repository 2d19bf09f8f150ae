package hostshare_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostshare"
	"ascend/internal/target/hyperv/hostshare/sambatest"
)

func open(t *testing.T, c hostshare.Config) *hostshare.Share {
	t.Helper()
	s, err := hostshare.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// TestImage writes a VHDX by ranges in any order, in two lives, with encryption
// required and with signing alone; qemu-img compares what the server holds.
func TestImage(t *testing.T) {
	for _, encrypt := range []string{"required", "off"} {
		t.Run("encrypt "+encrypt, func(t *testing.T) {
			srv := sambatest.Start(t, sambatest.Options{Encrypt: encrypt})
			tmp := t.TempDir()
			raw := make([]byte, 5<<20+512)
			_, _ = rand.NewChaCha8([32]byte{1}).Read(raw[1<<20:])
			if err := os.WriteFile(filepath.Join(tmp, "raw"), raw, 0o600); err != nil {
				t.Fatal(err)
			}
			image := filepath.Join(tmp, "a.vhdx")
			if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "vhdx", filepath.Join(tmp, "raw"), image).CombinedOutput(); err != nil {
				t.Fatalf("qemu-img (Debian package qemu-utils): %v\n%s", err, out)
			}
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			const name = "Büro $(x) `y` ; 'z'/disk 1.vhdx"
			first, err := hostshare.Open(t.Context(), srv.Config)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(first.MakeFolder(t.Context(), filepath.Dir(name)), first.MakeFolder(t.Context(), filepath.Dir(name))); err != nil {
				t.Fatal(err)
			}
			f, err := first.Create(t.Context(), name, int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			const step = 700_001
			var wg sync.WaitGroup
			for off := 0; off < len(b)/2; off += step {
				wg.Add(1)
				go func() {
					defer wg.Done()
					if _, err := f.WriteAt(b[off:min(off+step, len(b))], int64(off)); err != nil {
						t.Error(err)
					}
				}()
			}
			wg.Wait()
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			// The first life ends with its file open, as a killed process leaves it.
			second := open(t, srv.Config)
			if _, err := second.Create(t.Context(), name, 1); !errors.Is(err, target.ErrExists) {
				t.Errorf("a file was made anew: %v", err)
			}
			g, err := second.Continue(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := g.Size(); err != nil || n != int64(len(b)) {
				t.Errorf("%d bytes, %v", n, err)
			}
			for off := (len(b)/2 + step - 1) / step * step; off < len(b); off += step {
				if _, err := g.WriteAt(b[off:min(off+step, len(b))], int64(off)); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(g.Sync(), g.Close(), f.Close(), first.Close()); err != nil {
				t.Fatal(err)
			}
			landed := filepath.Join(srv.Dir, filepath.FromSlash(name))
			if out, err := exec.Command("qemu-img", "compare", "-f", "raw", "-F", "vhdx", filepath.Join(tmp, "raw"), landed).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			r, err := second.Read(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(io.NewSectionReader(r, 0, int64(len(b))+10))
			if err != nil || !bytes.Equal(got, b) {
				t.Errorf("%d bytes read back, %v", len(got), err)
			}
			if err := errors.Join(r.Close(), second.Remove(t.Context(), name), second.Remove(t.Context(), name)); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(landed); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is still there: %v", err)
			}
			var fs syscall.Statfs_t
			if err := syscall.Statfs(srv.Dir, &fs); err != nil {
				t.Fatal(err)
			}
			// Others write to this file system meanwhile.
			want := int64(fs.Bavail) * fs.Bsize
			if free, err := second.Free(t.Context()); err != nil || free < want/2 || free > 2*want {
				t.Errorf("%d bytes free, not about %d, %v", free, want, err)
			}
		})
	}
}

// TestRefused: what can never work is said to be permanent, and shows no password.
func TestRefused(t *testing.T) {
	srv := sambatest.Start(t, sambatest.Options{Encrypt: "required"})
	for name, change := range map[string]func(*hostshare.Config){
		"wrong password": func(c *hostshare.Config) { c.Password = secret.New("s3cret-wrong") },
		"unknown user":   func(c *hostshare.Config) { c.User = "nobody-here" },
		"no such share":  func(c *hostshare.Config) { c.Share = "Other" },
		"bad share":      func(c *hostshare.Config) { c.Share = `VMs\..` },
	} {
		c := srv.Config
		change(&c)
		s, err := hostshare.Open(t.Context(), c)
		if !errors.Is(err, target.ErrPermanent) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), c.Password.Reveal()) {
			t.Errorf("%s: the error holds the password", name)
		}
		if s != nil {
			s.Close()
		}
	}
	s := open(t, srv.Config)
	for _, name := range []string{"../x", "/x", `a\b`, "a:stream", "a?", "a ", "b./x", "a//b", "", ".", "a\nb"} {
		if f, err := s.Create(t.Context(), name, 1); !errors.Is(err, target.ErrPermanent) {
			t.Errorf("%q: %v", name, err)
			if f != nil {
				f.Close()
			}
		}
	}
	if left, err := os.ReadDir(srv.Dir); err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}
}

// TestCancelled: a server that says nothing does not hold anybody.
func TestCancelled(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := hostshare.Open(ctx, hostshare.Config{Address: l.Addr().String(), Share: "VMs", User: "u", Password: secret.New("p")})
		done <- err
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	if err := <-done; err == nil || errors.Is(err, target.ErrPermanent) {
		t.Errorf("%v", err)
	}
}
