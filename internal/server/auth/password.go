package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"

	"ascend/internal/secret"
)

// Parameters of argon2id: the second recommended choice of RFC 9106, section 4
// (64 MiB of memory, 3 passes), with one lane on a shared machine.
const (
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 1
	argonKey     = 32
	argonSalt    = 16
)

// Hasher hashes passwords, few at once: each takes 64 MiB. Safe for concurrent use.
type Hasher struct{ slots chan struct{} }

// NewHasher makes a hasher of n at once.
func NewHasher(n int) *Hasher { return &Hasher{make(chan struct{}, n)} }

// MinPassword is the least number of characters of a password (NIST SP 800-63B,
// 5.1.1.2, asks for 8 and for none of composition).
const MinPassword = 12

// maxPassword bounds the work for a password.
const maxPassword = 1024

// CheckPassword refuses passwords that are easily guessed.
func CheckPassword(name string, p secret.String) error {
	s := p.Reveal()
	switch n := len([]rune(s)); {
	case n < MinPassword:
		return fmt.Errorf("%w: it has %d characters and needs %d", ErrWeak, n, MinPassword)
	case len(s) > maxPassword:
		return fmt.Errorf("%w: it is longer than %d bytes", ErrWeak, maxPassword)
	case name != "" && strings.Contains(strings.ToLower(s), strings.ToLower(name)) && n < 2*MinPassword:
		return fmt.Errorf("%w: it holds the user's name", ErrWeak)
	}
	seen := map[rune]bool{}
	for _, r := range s {
		seen[r] = true
	}
	if len(seen) < 5 {
		return fmt.Errorf("%w: it has only %d different characters", ErrWeak, len(seen))
	}
	return nil
}

// Hash is the PHC string of a password.
func (h *Hasher) Hash(ctx context.Context, p secret.String) (string, error) {
	salt := make([]byte, argonSalt)
	_, _ = rand.Read(salt)
	key, err := h.derive(ctx, p, salt, argonTime, argonMemory, argonThreads)
	if err != nil {
		return "", err
	}
	enc := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads, enc(salt), enc(key)), nil
}

func (h *Hasher) derive(ctx context.Context, p secret.String, salt []byte, t, m uint32, threads uint8) ([]byte, error) {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return argon2.IDKey([]byte(p.Reveal()), salt, t, m, threads, argonKey), nil
}

// Verify compares a password with a PHC string. With an empty one it takes as
// long and refuses, so that nobody learns which names exist.
func (h *Hasher) Verify(ctx context.Context, p secret.String, phc string) error {
	var m, t uint32 = argonMemory, argonTime
	var threads uint8 = argonThreads
	salt, want := make([]byte, argonSalt), []byte(nil)
	if phc != "" {
		parts := strings.Split(phc, "$")
		if len(parts) != 6 || parts[1] != "argon2id" {
			return errors.New("cannot read the stored password")
		}
		_, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &m, &t, &threads)
		var err1, err2 error
		salt, err1 = base64.RawStdEncoding.DecodeString(parts[4])
		want, err2 = base64.RawStdEncoding.DecodeString(parts[5])
		if errors.Join(err, err1, err2) != nil || m > 1<<20 || t > 64 || t == 0 || threads == 0 || len(want) != argonKey {
			return errors.New("cannot read the stored password")
		}
	}
	if len(p.Reveal()) > maxPassword {
		return ErrCredentials
	}
	got, err := h.derive(ctx, p, salt, t, m, threads)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(got, want) != 1 {
		return ErrCredentials
	}
	return nil
}
