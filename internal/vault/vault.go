// Package vault keeps secrets at rest: it seals small values with age
// (age-encryption.org/v1, X25519) under the server's own key. The key stands in
// a file, an environment variable, the service manager's credentials or the
// system's keyring; what is sealed may stand in a database that others can read.
//
// A key may be replaced at any time: the vault opens what any of its keys has
// sealed and seals with the first. Sealed values are bound to where they stand,
// so that whoever can write the database cannot swap one for another.
package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"

	"ascend/internal/secret"
)

// maxSealed bounds what is opened, in bytes.
const maxSealed = 4 << 20

// Errors of a vault.
var (
	// ErrKey: no key of the vault opens the value.
	ErrKey = errors.New("no key of this server opens it")
	// ErrPlace: the value was sealed for another place.
	ErrPlace = errors.New("it was sealed for another place")
)

// Vault seals and opens. Safe for concurrent use.
type Vault struct {
	keys []*age.X25519Identity // the first one seals
}

// New makes a vault of the text of a key file: one age identity a line, the
// newest first; empty lines and lines that begin with # are left out.
func New(keys secret.String) (*Vault, error) {
	v := &Vault{}
	for n, line := range strings.Split(keys.Reveal(), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, err := age.ParseX25519Identity(line)
		if err != nil { // its text may hold the key
			return nil, fmt.Errorf("cannot read the server's key: line %d is no age identity (AGE-SECRET-KEY-1…)", n+1)
		}
		v.keys = append(v.keys, id)
	}
	if len(v.keys) == 0 {
		return nil, errors.New("cannot read the server's key: it holds no age identity (AGE-SECRET-KEY-1…)")
	}
	return v, nil
}

// Generate makes a new key.
func Generate() (secret.String, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return secret.String{}, fmt.Errorf("cannot make a key: %w", err)
	}
	return secret.New(id.String()), nil
}

// ID names the sealing key without telling it: the beginning of a hash of its
// public half.
func (v *Vault) ID() string {
	sum := sha256.Sum256([]byte(v.keys[0].Recipient().String()))
	return hex.EncodeToString(sum[:8])
}

// Seal encrypts b for the place that is named; Open wants the same one.
func (v *Vault) Seal(place string, b []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, v.keys[0].Recipient())
	if err == nil {
		_, err = w.Write(append(bind(place), b...))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot seal %s: %w", place, err)
	}
	return out.Bytes(), nil
}

// Open decrypts what Seal made. stale tells that another key than the first one
// had sealed it, so that it should be sealed again.
func (v *Vault) Open(place string, sealed []byte) (b []byte, stale bool, err error) {
	for i, k := range v.keys {
		r, err := age.Decrypt(bytes.NewReader(sealed), k)
		var none *age.NoIdentityMatchError
		if errors.As(err, &none) {
			continue
		}
		if err == nil {
			b, err = io.ReadAll(io.LimitReader(r, maxSealed+1))
		}
		if err == nil && len(b) > maxSealed {
			err = fmt.Errorf("longer than %d bytes", maxSealed)
		}
		if err != nil {
			return nil, false, fmt.Errorf("cannot open %s: %w", place, err)
		}
		head := bind(place)
		if !bytes.HasPrefix(b, head) {
			return nil, false, fmt.Errorf("cannot open %s: %w", place, ErrPlace)
		}
		return b[len(head):], i > 0, nil
	}
	return nil, false, fmt.Errorf("cannot open %s: %w", place, ErrKey)
}

// bind is what stands before the value inside the sealed text.
func bind(place string) []byte {
	sum := sha256.Sum256([]byte("ascend vault 1\x00" + place))
	return sum[:]
}
