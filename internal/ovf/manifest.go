package ovf

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// Digest is one line of a manifest: the digest of a file of the package.
type Digest struct {
	Name      string
	Algorithm string // "SHA1", "SHA256" or "SHA512"
	Sum       []byte
}

// New makes the digest's hash.
func (d Digest) New() hash.Hash {
	switch d.Algorithm {
	case "SHA1":
		return sha1.New()
	case "SHA512":
		return sha512.New()
	}
	return sha256.New()
}

// ErrManifest: the text is no manifest.
var ErrManifest = errors.New("not an OVF manifest")

// ParseManifest reads a manifest (.mf): lines such as
//
//	SHA256(disk1.vmdk)= 9f86d081…
//
// (DSP0243 6.1 clause on integrity), with or without spaces around the
// parentheses and the equals sign, as openssl dgst prints them. SHA1, SHA256 and
// SHA512 are read. At most MaxManifest bytes are.
func ParseManifest(r io.Reader) ([]Digest, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	if len(b) > MaxManifest {
		return nil, fmt.Errorf("cannot read manifest: longer than %d bytes: %w", MaxManifest, ErrLimit)
	}
	var out []Digest
	lines := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))))
	lines.Buffer(nil, MaxManifest+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		d, err := parseDigest(line)
		if err != nil {
			return nil, fmt.Errorf("cannot read manifest: line %d: %w: %w", n, err, ErrManifest)
		}
		out = append(out, d)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot read manifest: %w", err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("cannot read manifest: it lists no file: %w", ErrManifest)
	}
	return out, nil
}

func parseDigest(line string) (Digest, error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return Digest{}, errors.New("no file name in parentheses")
	}
	sum, ok := strings.CutPrefix(strings.TrimSpace(line[end+1:]), "=")
	if !ok {
		return Digest{}, errors.New("no equals sign after the file name")
	}
	d := Digest{Name: line[open+1 : end]}
	switch strings.ToUpper(strings.ReplaceAll(strings.TrimSpace(line[:open]), "-", "")) {
	case "SHA1":
		d.Algorithm = "SHA1"
	case "SHA256", "SHA2256":
		d.Algorithm = "SHA256"
	case "SHA512", "SHA2512":
		d.Algorithm = "SHA512"
	default:
		return Digest{}, fmt.Errorf("the digest algorithm %.20q is not read", line[:open])
	}
	var err error
	if d.Sum, err = hex.DecodeString(strings.TrimSpace(sum)); err != nil || len(d.Sum) != d.New().Size() {
		return Digest{}, fmt.Errorf("no %s digest", d.Algorithm)
	}
	if d.Name == "" || strings.ContainsAny(d.Name, "\r\x00") {
		return Digest{}, errors.New("no file name in the parentheses")
	}
	return d, nil
}

// MarshalManifest writes a manifest as VMware's tools do: one line a file, in
// the order given, names as in the descriptor's references.
func MarshalManifest(digests []Digest) ([]byte, error) {
	var b bytes.Buffer
	for _, d := range digests {
		if d.Name == "" || strings.ContainsAny(d.Name, "\r\n\x00") {
			return nil, fmt.Errorf("cannot write manifest: %q is no file name", d.Name)
		}
		switch d.Algorithm {
		case "SHA1", "SHA256", "SHA512":
		default:
			return nil, fmt.Errorf("cannot write manifest: unknown digest algorithm %q", d.Algorithm)
		}
		if len(d.Sum) != d.New().Size() {
			return nil, fmt.Errorf("cannot write manifest: %s has a digest of %d bytes", d.Name, len(d.Sum))
		}
		fmt.Fprintf(&b, "%s(%s)= %x\n", d.Algorithm, d.Name, d.Sum)
	}
	return b.Bytes(), nil
}
