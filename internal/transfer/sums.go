package transfer

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding"
	"fmt"
	"hash"
	"sync"
)

// sums are running digests of a file's bytes, whose state can be kept.
type sums map[string]hash.Hash

func newSums(names []string) (sums, error) {
	s := sums{}
	for _, n := range names {
		switch n {
		case "sha1": // what vSphere's NFC manifest holds; an integrity check, not a signature
			s[n] = sha1.New()
		case "sha256":
			s[n] = sha256.New()
		default:
			return nil, fmt.Errorf("unknown digest %q", n)
		}
	}
	return s, nil
}

func (s sums) write(p []byte) {
	for _, h := range s {
		_, _ = h.Write(p) // hash.Hash never fails
	}
}

func (s sums) state() (map[string][]byte, error) {
	m := map[string][]byte{}
	for n, h := range s {
		b, err := h.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			return nil, err
		}
		m[n] = b
	}
	return m, nil
}

func (s sums) restore(m map[string][]byte) error {
	for n, h := range s {
		if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(m[n]); err != nil {
			return fmt.Errorf("cannot continue %s: %w", n, err)
		}
	}
	return nil
}

func (s sums) sum() map[string][]byte {
	m := map[string][]byte{}
	for n, h := range s {
		m[n] = h.Sum(nil)
	}
	return m
}

// buffers keeps buffers of pieces for reuse.
type buffers struct{ pool sync.Pool }

func newBuffers() *buffers { return &buffers{} }

func (b *buffers) get(n int) []byte {
	if p, ok := b.pool.Get().(*[]byte); ok && cap(*p) >= n {
		return (*p)[:0]
	}
	return make([]byte, 0, n)
}

func (b *buffers) put(p []byte) {
	if cap(p) > 0 {
		b.pool.Put(&p)
	}
}
