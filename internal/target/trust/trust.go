// Package trust decides which certificates a target's connector accepts: those
// of the system's authorities, of a file's, or one by its fingerprint. Every
// connector that speaks TLS to a management address uses it.
package trust

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // vCenter and Windows name certificates by it
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Trust is what one target's connections accept: to the API, and to the other
// servers that the API names. It is safe for concurrent use once set up.
type Trust struct {
	Server   string         // host:port of the API
	Roots    *x509.CertPool // nil: the system's
	Insecure bool           // accept any certificate that is not pinned
	// Others says what to do when the certificate of a server that the API named
	// is not accepted.
	Others string

	mu    sync.Mutex
	pins  map[string][]byte // host:port → the only certificate accepted there
	vouch map[string][]byte // host:port → a certificate the trusted API names
}

// New trusts the system's authorities. server is the API's host:port.
func New(server string) *Trust {
	return &Trust{Server: server, pins: map[string][]byte{}, vouch: map[string][]byte{}}
}

// ReadRoots trusts the authorities of a PEM file instead of the system's.
func (t *Trust) ReadRoots(file string) error {
	pem, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	t.Roots = x509.NewCertPool()
	if !t.Roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no PEM certificate", file)
	}
	return nil
}

// Pin makes sum, a SHA-256 or SHA-1, the only certificate accepted from addr.
func (t *Trust) Pin(addr string, sum []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pins[addr] = sum
}

// Vouch accepts, for addr, the certificate of the given fingerprint besides
// those that verify. A vCenter names its hosts' so. What is none is ignored.
func (t *Trust) Vouch(addr, thumbprint string) {
	sum, err := ParseThumbprint(thumbprint)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.vouch[addr] = sum
}

// Error says why a server's certificate was not accepted. It never goes away by
// trying again.
type Error struct {
	addr   string
	reason string
	sha256 string
	pinned bool
	others string // what to do, for a server that the API named
}

func (e *Error) Error() string {
	return fmt.Sprintf("the certificate of %s is not trusted: %s", e.addr, e.reason)
}

// Hint says what to do.
func (e *Error) Hint() string {
	switch {
	case e.pinned:
		return "if the certificate was replaced on purpose, set thumbprint=" + e.sha256
	case e.others != "":
		return e.others
	}
	return "set ca_file to the certificate authority that signed it, or, after comparing it with the server's own, thumbprint=" + e.sha256
}

// Verify checks the certificate that addr ("host:port") presented.
func (t *Trust) Verify(addr string, certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return &Error{addr: addr, reason: "the server sent none"}
	}
	leaf := certs[0]
	s256, s1 := sha256.Sum256(leaf.Raw), sha1.Sum(leaf.Raw) //nolint:gosec // see the import
	is := func(sum []byte) bool {
		return sum != nil && (bytes.Equal(sum, s256[:]) || bytes.Equal(sum, s1[:]))
	}
	t.mu.Lock()
	pin, vouch := t.pins[addr], t.vouch[addr]
	t.mu.Unlock()
	fail := &Error{addr: addr, sha256: FormatThumbprint(s256[:])}
	if addr != t.Server {
		fail.others = t.Others
	}
	if pin != nil {
		if is(pin) {
			return nil
		}
		fail.pinned = true
		fail.reason = "its SHA-256 is " + fail.sha256 + ", which is not the thumbprint that is set"
		return fail
	}
	if t.Insecure || is(vouch) {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	opts := x509.VerifyOptions{Roots: t.Roots, DNSName: host, Intermediates: x509.NewCertPool()}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(opts); err != nil {
		fail.reason = reason(err)
		return fail
	}
	return nil
}

func reason(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &name):
		return "it is not for this name (" + name.Error() + ")"
	case errors.As(err, &unknown):
		return "it is signed by an unknown authority"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "it has expired or is not yet valid"
	}
	return strings.TrimPrefix(err.Error(), "x509: ")
}

// FormatThumbprint is a fingerprint as people compare it: 1F:A0:…
func FormatThumbprint(sum []byte) string {
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}

// ParseThumbprint reads the hexadecimal SHA-256 or SHA-1 of a certificate, with
// or without colons or spaces and a "SHA256:" or "sha1=" in front.
func ParseThumbprint(s string) ([]byte, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	for _, p := range []string{"sha256", "sha-256", "sha1", "sha-1"} {
		if rest, ok := strings.CutPrefix(t, p); ok {
			t = strings.TrimLeft(rest, ":= ")
			t = strings.TrimPrefix(t, "fingerprint=") // as openssl x509 -fingerprint prints it
			t = strings.TrimLeft(strings.TrimPrefix(t, "fingerprint"), ":= ")
			break
		}
	}
	t = strings.NewReplacer(":", "", " ", "", "-", "").Replace(t)
	b, err := hex.DecodeString(t)
	if err != nil || (len(b) != sha256.Size && len(b) != sha1.Size) {
		return nil, fmt.Errorf("%q is not the hexadecimal SHA-256 (32 bytes) or SHA-1 (20 bytes) of a certificate", s)
	}
	return b, nil
}

// Handshake makes the TLS connection over raw to addr, "host:port", and verifies
// the certificate before a byte is sent. It closes nothing.
func (t *Trust) Handshake(ctx context.Context, raw net.Conn, addr string) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	c := tls.Client(raw, &tls.Config{
		ServerName: host, MinVersion: tls.VersionTLS12,
		// The chain is verified by VerifyConnection, which also knows pins.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection:   func(s tls.ConnectionState) error { return t.Verify(addr, s.PeerCertificates) },
	})
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return c, c.HandshakeContext(ctx)
}

func (t *Trust) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 15 * time.Second}
	raw, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c, err := t.Handshake(ctx, raw, addr)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c, nil
}

// Transport makes the HTTP transport of one connection. It speaks HTTP/1.1,
// which is what upload services take, and uses no proxy: these are management
// addresses.
func (t *Trust) Transport() *http.Transport {
	return &http.Transport{
		DialTLSContext:      t.dial,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
		// An upload is one long write; small buffers cost a system call and a
		// TLS record header each 4 KiB.
		WriteBufferSize: 256 << 10,
	}
}
