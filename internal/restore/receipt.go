package restore

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/plan"
	"ascend/internal/target"
	"ascend/internal/transfer/digest"
)

// Receipt is the signed record of one restore: what was read, what landed, and
// how that was verified. docs/receipt.md describes it.
type Receipt struct {
	Version   int            `json:"version"` // 1
	Job       string         `json:"job"`
	Software  string         `json:"software"` // name and version that made it
	Started   time.Time      `json:"started"`
	Finished  time.Time      `json:"finished"`
	Backup    plan.BackupRef `json:"backup"`
	Target    plan.TargetRef `json:"target"`
	VM        target.VM      `json:"vm"`
	PoweredOn bool           `json:"powered_on"`
	Disks     []*DiskReceipt `json:"disks"`
	Guest     *GuestReceipt  `json:"guest,omitempty"`
	Sign      *Signature     `json:"signature,omitempty"`
}

// DiskReceipt is the part of one disk.
type DiskReceipt struct {
	Index     int          `json:"index"`
	Virtual   int64        `json:"virtual"`
	Allocated int64        `json:"allocated"`
	Chain     []disk.Layer `json:"chain"` // the files read
	// Digest is that of the disk as it was sent: the backup's, after the changes of
	// Guest and after Patches.
	Digest  digest.Sum    `json:"digest"`
	Patches []image.Patch `json:"patches,omitempty"`
	Format  image.Format  `json:"format"`
	Bytes   int64         `json:"bytes"` // of the target file
	Sent    int64         `json:"sent"`  // bytes that had to be sent
	Object  string        `json:"object"`
	SHA1    string        `json:"sha1,omitempty"` // of the target file
	SHA256  string        `json:"sha256,omitempty"`
	// Verified says how: "read back" (the landed disk's digest is Digest), or
	// the platform's own verdict on the bytes, or "" when it has none.
	Verified string `json:"verified"`
	// Unverified says why Verified is empty.
	Unverified string `json:"unverified,omitempty"`
	// Empty: the disk holds nothing but zeros.
	Empty    bool      `json:"empty,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
}

// Signature is an ed25519 signature over the receipt's canonical form: its JSON
// as encoding/json writes it, without this field and without spaces.
type Signature struct {
	Algorithm string `json:"algorithm"` // ed25519
	Key       string `json:"key"`       // public key, base64
	Value     string `json:"value"`     // base64
}

// Errors of a receipt that does not prove what it says.
var (
	ErrSignature = errors.New("the receipt's signature is not valid")
	ErrUntrusted = errors.New("the receipt is signed by a key that is not trusted")
)

// canonical goes through JSON twice: what a reader decodes, as of a file name
// that is no UTF-8, must give the same bytes.
func (r *Receipt) canonical() ([]byte, error) {
	c := *r
	c.Sign = nil
	b, err := json.Marshal(&c)
	if err != nil {
		return nil, err
	}
	var read Receipt
	if err := json.Unmarshal(b, &read); err != nil {
		return nil, err
	}
	return json.Marshal(&read)
}

// SignWith signs the receipt.
func (r *Receipt) SignWith(key ed25519.PrivateKey) error {
	b, err := r.canonical()
	if err != nil {
		return err
	}
	r.Sign = &Signature{
		Algorithm: "ed25519",
		Key:       base64.StdEncoding.EncodeToString(key.Public().(ed25519.PublicKey)),
		Value:     base64.StdEncoding.EncodeToString(ed25519.Sign(key, b)),
	}
	return nil
}

// ReadReceipt reads a receipt file; see ParseReceipt.
func ReadReceipt(path string, trusted ed25519.PublicKey) (*Receipt, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read receipt: %w", err)
	}
	return ParseReceipt(b, trusted)
}

// ParseReceipt reads a receipt and checks its signature against the key it
// names; trusted, when not nil, is the only key that is believed. Fields that are
// not known make it invalid: they would not be covered by the signature.
func ParseReceipt(b []byte, trusted ed25519.PublicKey) (*Receipt, error) {
	var r Receipt
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("cannot read receipt: %w: %w", ErrSignature, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read receipt: %w: something follows it", ErrSignature)
	}
	if r.Sign == nil || r.Sign.Algorithm != "ed25519" {
		return &r, fmt.Errorf("%w: it carries none", ErrSignature)
	}
	pub, err1 := base64.StdEncoding.DecodeString(r.Sign.Key)
	sig, err2 := base64.StdEncoding.DecodeString(r.Sign.Value)
	msg, err3 := r.canonical()
	if err := errors.Join(err1, err2, err3); err != nil || len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, msg, sig) {
		return &r, ErrSignature
	}
	if trusted != nil && !bytes.Equal(trusted, pub) {
		return &r, ErrUntrusted
	}
	return &r, nil
}

// SigningKey reads the key that receipts are signed with, an unencrypted PKCS#8
// PEM file, and makes it on first use. The public half stands beside it as
// PATH.pub, base64.
func SigningKey(path string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read receipt key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("cannot read receipt key %s: not a PEM file", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := k.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, fmt.Errorf("cannot read receipt key %s: not an ed25519 key in PKCS#8", path)
	}
	return key, nil
}

// receiptName is the receipt's file in the job's folder.
const receiptName = "receipt.json"

// writeFile replaces a file so that a crash leaves the old one or the new one.
func writeFile(path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func makeKey(path string) (ed25519.PrivateKey, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	// The public half first: where the private one is, it is too.
	if err == nil {
		err = writeFile(path+".pub", []byte(base64.StdEncoding.EncodeToString(pub)+"\n"))
	}
	if err == nil {
		err = writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make receipt key: %w", err)
	}
	return key, nil
}

// ParsePublicKey reads the base64 form of a public key.
func ParsePublicKey(s string) (ed25519.PublicKey, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("not an ed25519 public key in base64")
	}
	return b, nil
}
