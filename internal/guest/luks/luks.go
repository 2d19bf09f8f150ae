// Package luks reads LUKS containers with a key: "LUKS1 On-Disk Format
// Specification" 1.2.3 and "LUKS2 On-Disk Format Specification" 1.1.4. Ciphers are
// AES in XTS, and in CBC with ESSIV as old containers have it. Nothing is written.
package luks

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/sha1" //nolint:gosec // LUKS1's default hash; not a choice of ours
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/xts"

	"ascend/internal/guest/vfs"
)

// ErrKey: no key slot opens with the key.
var ErrKey = errors.New("no key slot opens with the key")

const (
	sector = 512
	// Bounds of what a header may ask for.
	maxIterations = 50_000_000
	maxMemory     = 2 << 20 // KiB
	maxStripes    = 8192
	maxKey        = 128
)

// Volume is the opened content.
type Volume struct {
	r            io.ReaderAt
	offset, size int64
	unit         int64 // bytes that are encrypted as one
	dec          decrypter
}

// Open opens a container of size bytes with a key: a passphrase, or what a key file
// holds.
func Open(r io.ReaderAt, size int64, key []byte) (*Volume, error) {
	h, err := header(r, size)
	if err != nil {
		return nil, err
	}
	for _, s := range h.slots {
		master, err := s.unlock(r, size, key)
		if err != nil {
			return nil, err
		}
		for _, d := range h.digests {
			if !d.matches(s.id, master) {
				continue
			}
			dec, err := newDecrypter(h.cipher, master)
			if err != nil {
				return nil, err
			}
			return &Volume{r: r, offset: h.offset, size: h.size, unit: h.unit, dec: dec}, nil
		}
	}
	return nil, ErrKey
}

// head is what both versions say.
type head struct {
	slots        []slot
	digests      []digest
	cipher       string
	offset, size int64
	unit         int64
}

// slot holds the volume's key, split and encrypted.
type slot struct {
	id                string
	kdf, hash         string
	salt              []byte
	iterations        int // of argon2: passes
	memory, threads   int
	cipher            string
	wrapKey, keyBytes int
	offset            int64
	stripes           int
	afHash            string
}

type digest struct {
	slots      []string // nil: all
	hash       string
	salt, sum  []byte
	iterations int
}

func corrupt(format string, a ...any) error {
	return fmt.Errorf("LUKS: %w: %s", vfs.ErrCorrupt, fmt.Sprintf(format, a...))
}

func unsupported(format string, a ...any) error {
	return fmt.Errorf("LUKS %w: %s", vfs.ErrUnsupported, fmt.Sprintf(format, a...))
}

func header(r io.ReaderAt, size int64) (*head, error) {
	b := make([]byte, 4096)
	if n, err := r.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("%w: %w", vfs.ErrFormat, err)
	}
	if string(b[:6]) != "LUKS\xba\xbe" {
		return nil, vfs.ErrFormat
	}
	switch binary.BigEndian.Uint16(b[6:]) {
	case 1:
		return header1(b, size)
	case 2:
		return header2(r, b, size)
	}
	return nil, unsupported("version %d", binary.BigEndian.Uint16(b[6:]))
}

func cstr(b []byte) string { s, _, _ := bytes.Cut(b, []byte{0}); return string(s) }

func header1(b []byte, size int64) (*head, error) {
	be := binary.BigEndian
	keyBytes := int(be.Uint32(b[108:]))
	h := &head{cipher: cstr(b[8:40]) + "-" + cstr(b[40:72]), offset: int64(be.Uint32(b[104:])) * sector, unit: sector}
	h.size = size - h.offset
	spec := cstr(b[72:104])
	if keyBytes < 16 || keyBytes > maxKey || h.size < 0 {
		return nil, corrupt("header")
	}
	h.digests = []digest{{hash: spec, sum: b[112:132], salt: b[132:164], iterations: int(be.Uint32(b[164:]))}}
	for i := range 8 {
		s := b[208+i*48:]
		if be.Uint32(s) != 0x00AC71F3 {
			continue
		}
		h.slots = append(h.slots, slot{
			kdf: "pbkdf2", hash: spec, iterations: int(be.Uint32(s[4:])), salt: s[8:40], offset: int64(be.Uint32(s[40:])) * sector, stripes: int(be.Uint32(s[44:])),
			cipher: h.cipher, wrapKey: keyBytes, keyBytes: keyBytes, afHash: spec,
		})
	}
	return h, nil
}

func newHash(name string) (func() hash.Hash, error) {
	switch name {
	case "sha1":
		return sha1.New, nil
	case "sha256":
		return sha256.New, nil
	case "sha512":
		return sha512.New, nil
	}
	return nil, unsupported("hash %q", name)
}

func stretch(name string, key, salt []byte, iterations, length int) ([]byte, error) {
	if iterations < 1 || iterations > maxIterations {
		return nil, corrupt("%d iterations", iterations)
	}
	h, err := newHash(name)
	if err != nil {
		return nil, err
	}
	return pbkdf2.Key(h, string(key), salt, iterations, length)
}

// unlock is the key that the slot gives for a passphrase, right or wrong.
func (s *slot) unlock(r io.ReaderAt, size int64, key []byte) ([]byte, error) {
	var wrap []byte
	var err error
	switch s.kdf {
	case "pbkdf2":
		wrap, err = stretch(s.hash, key, s.salt, s.iterations, s.wrapKey)
	case "argon2i", "argon2id":
		if s.iterations < 1 || s.iterations > 1000 || s.memory < 8 || s.memory > maxMemory || s.threads < 1 || s.threads > 64 {
			return nil, corrupt("%s of %d passes over %d KiB", s.kdf, s.iterations, s.memory)
		}
		derive := argon2.Key
		if s.kdf == "argon2id" {
			derive = argon2.IDKey
		}
		wrap = derive(key, s.salt, uint32(s.iterations), uint32(s.memory), uint8(s.threads), uint32(s.wrapKey))
	default:
		err = unsupported("key derivation %q", s.kdf)
	}
	if err != nil {
		return nil, err
	}
	if s.stripes < 1 || s.stripes > maxStripes || s.keyBytes < 16 || s.keyBytes > maxKey {
		return nil, corrupt("key slot")
	}
	n := int64(s.stripes * s.keyBytes)
	padded := (n + sector - 1) / sector * sector
	if s.offset < 0 || s.offset > size-padded {
		return nil, corrupt("the key material lies outside")
	}
	b := make([]byte, padded)
	if k, err := r.ReadAt(b, s.offset); k < len(b) {
		return nil, fmt.Errorf("LUKS: cannot read the key material: %w", err)
	}
	dec, err := newDecrypter(s.cipher, wrap)
	if err != nil {
		return nil, err
	}
	for i := range int(padded / sector) {
		dec.decrypt(b[i*sector:(i+1)*sector], uint64(i))
	}
	return merge(b[:n], s.keyBytes, s.stripes, s.afHash)
}

// merge undoes the anti-forensic split (LUKS1 specification, 2.4).
func merge(b []byte, keyBytes, stripes int, name string) ([]byte, error) {
	h, err := newHash(name)
	if err != nil {
		return nil, err
	}
	d := make([]byte, keyBytes)
	for i := range stripes {
		subtle.XORBytes(d, d, b[i*keyBytes:])
		if i == stripes-1 {
			break
		}
		var out []byte
		for n, rest := uint32(0), d; len(rest) > 0; n++ {
			x := h()
			k := min(x.Size(), len(rest))
			x.Write(binary.BigEndian.AppendUint32(nil, n))
			x.Write(rest[:k])
			out = append(out, x.Sum(nil)[:k]...)
			rest = rest[k:]
		}
		d = out
	}
	return d, nil
}

func (d *digest) matches(slot string, master []byte) bool {
	in := d.slots == nil
	for _, s := range d.slots {
		in = in || s == slot
	}
	if !in || len(d.sum) == 0 || len(d.sum) > 64 {
		return false
	}
	sum, err := stretch(d.hash, master, d.salt, d.iterations, len(d.sum))
	return err == nil && subtle.ConstantTimeCompare(sum, d.sum) == 1
}

// decrypter decrypts one unit in place; iv counts sectors of 512 bytes.
type decrypter interface{ decrypt(b []byte, iv uint64) }

type xtsMode struct{ *xts.Cipher }

func (m xtsMode) decrypt(b []byte, iv uint64) { m.Decrypt(b, b, iv) }

type cbcMode struct {
	block cipher.Block
	essiv cipher.Block // nil: plain
	short bool         // plain: 32 bits
}

func (m cbcMode) decrypt(b []byte, n uint64) {
	var iv [aes.BlockSize]byte
	if m.short {
		n &= 1<<32 - 1
	}
	binary.LittleEndian.PutUint64(iv[:], n)
	if m.essiv != nil {
		m.essiv.Encrypt(iv[:], iv[:])
	}
	cipher.NewCBCDecrypter(m.block, iv[:]).CryptBlocks(b, b)
}

func newDecrypter(name string, key []byte) (decrypter, error) {
	switch name {
	case "aes-xts-plain64", "aes-xts-plain":
		c, err := xts.NewCipher(aes.NewCipher, key)
		if err != nil {
			return nil, corrupt("key of %d bytes", len(key))
		}
		return xtsMode{c}, nil
	}
	mode, ok := strings.CutPrefix(name, "aes-cbc-")
	block, err := aes.NewCipher(key)
	if !ok || err != nil {
		return nil, unsupported("cipher %q", name)
	}
	m := cbcMode{block: block, short: mode == "plain"}
	if h, ok := strings.CutPrefix(mode, "essiv:"); ok {
		hash, err := newHash(h)
		if err != nil {
			return nil, err
		}
		x := hash()
		x.Write(key)
		if m.essiv, err = aes.NewCipher(x.Sum(nil)); err != nil {
			return nil, unsupported("cipher %q", name)
		}
	} else if mode != "plain" && mode != "plain64" {
		return nil, unsupported("cipher %q", name)
	}
	return m, nil
}

// Size is the content's.
func (v *Volume) Size() int64 { return v.size }

// ReadAt is io.ReaderAt; it may be called concurrently.
func (v *Volume) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= v.size {
		return 0, io.EOF
	}
	want := len(p)
	p = p[:min(int64(want), v.size-off)]
	done := 0
	const most = 1 << 20
	for len(p) > 0 {
		from := off / v.unit * v.unit
		n := min((off-from+int64(len(p))+v.unit-1)/v.unit*v.unit, most, v.size-from)
		b := make([]byte, n)
		if k, err := v.r.ReadAt(b, v.offset+from); int64(k) < n {
			return done, errors.Join(io.ErrUnexpectedEOF, err)
		}
		for u := int64(0); u+v.unit <= n; u += v.unit {
			v.dec.decrypt(b[u:u+v.unit], uint64(from+u)/sector)
		}
		k := copy(p, b[off-from:])
		p, off, done = p[k:], off+int64(k), done+k
	}
	if done < want {
		return done, io.EOF
	}
	return done, nil
}
