package ovf

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestManifestRoundTrip(t *testing.T) {
	var want []Digest
	for i, name := range []string{"a.ovf", "my disk (1).vmdk", "ä)= .vmdk"} {
		d := Digest{Name: name, Algorithm: []string{"SHA256", "SHA1", "SHA512"}[i]}
		h := d.New()
		h.Write([]byte(name))
		d.Sum = h.Sum(nil)
		want = append(want, d)
	}
	b, err := MarshalManifest(want)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256([]byte("a.ovf")); !strings.HasPrefix(string(b), fmt.Sprintf("SHA256(a.ovf)= %x\n", sum)) {
		t.Errorf("%s", b)
	}
	got, err := ParseManifest(bytes.NewReader(b))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v: %+v", err, got)
	}
}

// openssl's dgst writes the same lines: an independent writer, and for the sums
// an independent hash.
func TestManifestOfOpenSSL(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x.vmdk")
	if err := os.WriteFile(name, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, alg := range []string{"sha1", "sha256", "sha512"} {
		cmd := exec.Command("openssl", "dgst", "-"+alg, "x.vmdk")
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl (Debian package openssl) is needed: %v", err)
		}
		got, err := ParseManifest(bytes.NewReader(out))
		if err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		h := got[0].New()
		h.Write([]byte("content"))
		if len(got) != 1 || got[0].Name != "x.vmdk" || !bytes.Equal(got[0].Sum, h.Sum(nil)) {
			t.Errorf("%s: %+v", out, got)
		}
	}
}

func TestManifestForms(t *testing.T) {
	sum := strings.Repeat("ab", 20)
	for _, line := range []string{
		"SHA1(a.vmdk)= " + sum, "SHA1 (a.vmdk) = " + sum, "SHA1(a.vmdk)=" + strings.ToUpper(sum), "\xef\xbb\xbfSHA1(a.vmdk)= " + sum + "\r\n\r\n",
		"# comment\nsha1(a.vmdk)= " + sum,
	} {
		got, err := ParseManifest(strings.NewReader(line))
		if err != nil || len(got) != 1 || got[0].Name != "a.vmdk" || got[0].Algorithm != "SHA1" {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
	for _, text := range []string{
		"", "\n\n", "hello", "SHA1(a.vmdk) " + sum, "SHA1 a.vmdk = " + sum, "MD5(a.vmdk)= " + sum[:32], "SHA256(a.vmdk)= " + sum, "SHA1(a.vmdk)= xyz",
		"SHA1()= " + sum, ")(= " + sum,
	} {
		if got, err := ParseManifest(strings.NewReader(text)); !errors.Is(err, ErrManifest) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	if _, err := ParseManifest(strings.NewReader(strings.Repeat("\n", MaxManifest+1))); !errors.Is(err, ErrLimit) {
		t.Errorf("too long: %v", err)
	}
	for _, d := range []Digest{{Name: "a\nSHA1(b", Algorithm: "SHA1", Sum: make([]byte, 20)}, {Name: "a", Algorithm: "SHA1"}, {Name: "a", Algorithm: "MD5", Sum: make([]byte, 16)}} {
		if b, err := MarshalManifest([]Digest{d}); err == nil {
			t.Errorf("%+v was written as %q", d, b)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte("SHA1(a.vmdk)= " + strings.Repeat("ab", 20) + "\nSHA256 (b) = " + strings.Repeat("cd", 32)))
	f.Add([]byte("\xef\xbb\xbfSHA512(x (1))=" + strings.Repeat("0", 128) + "\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ds, err := ParseManifest(bytes.NewReader(b))
		if err != nil {
			return
		}
		out, err := MarshalManifest(ds)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseManifest(bytes.NewReader(out))
		if err != nil || !reflect.DeepEqual(ds, again) {
			t.Fatalf("%v: %+v, then %+v", err, ds, again)
		}
	})
}
