package vmware

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // see config.go
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// trust decides which server certificates are accepted. It is shared by every
// connection of a target: the API, and the hosts that an import lease names.
type trust struct {
	server   string         // host:port of the API
	roots    *x509.CertPool // nil: the system's
	insecure bool

	mu    sync.Mutex
	pins  map[string][]byte // host:port → the only certificate accepted there
	vouch map[string][]byte // host:port → a certificate the trusted vCenter names
}

func newTrust(server string) *trust {
	return &trust{server: server, pins: map[string][]byte{}, vouch: map[string][]byte{}}
}

// pin makes sum the only certificate accepted from addr.
func (t *trust) pin(addr string, sum []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pins[addr] = sum
}

// vouched accepts, for addr, the certificate of the given thumbprint besides
// those that verify. A vCenter names its hosts' thumbprints in a lease.
func (t *trust) vouched(addr, thumbprint string) {
	sum, err := parseThumbprint(thumbprint)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.vouch[addr] = sum
}

// certificateError says why a server's certificate was not accepted. It never
// goes away by trying again.
type certificateError struct {
	addr   string
	reason string
	sha256 string
	pinned bool
	server bool // it is the API's own, not that of a host that a lease names
}

func (e *certificateError) Error() string {
	return fmt.Sprintf("the certificate of %s is not trusted: %s", e.addr, e.reason)
}

func (e *certificateError) hint() string {
	if e.pinned {
		return "if the certificate was replaced on purpose, set thumbprint=" + e.sha256
	}
	if !e.server {
		return "set ca_file to the certificate authority that signs the hosts' certificates, for instance vCenter's own"
	}
	return "set ca_file to the certificate authority that signed it, or, after comparing it with the server's own, thumbprint=" + e.sha256
}

// verify checks the certificate that addr ("host:port") presented.
func (t *trust) verify(addr string, certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return &certificateError{addr: addr, reason: "the server sent none"}
	}
	leaf := certs[0]
	s256, s1 := sha256.Sum256(leaf.Raw), sha1.Sum(leaf.Raw) //nolint:gosec // see config.go
	is := func(sum []byte) bool {
		return sum != nil && (bytes.Equal(sum, s256[:]) || bytes.Equal(sum, s1[:]))
	}
	t.mu.Lock()
	pin, vouch := t.pins[addr], t.vouch[addr]
	t.mu.Unlock()
	fail := &certificateError{addr: addr, server: addr == t.server, sha256: formatThumbprint(s256[:])}
	if pin != nil {
		if is(pin) {
			return nil
		}
		fail.pinned = true
		fail.reason = "its SHA-256 is " + fail.sha256 + ", which is not the thumbprint that is set"
		return fail
	}
	if t.insecure || is(vouch) {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	opts := x509.VerifyOptions{Roots: t.roots, DNSName: host, Intermediates: x509.NewCertPool()}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(opts); err != nil {
		fail.reason = certificateReason(err)
		return fail
	}
	return nil
}

func certificateReason(err error) string {
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

func formatThumbprint(sum []byte) string {
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}

// dialTLS connects to addr and checks the certificate before a byte is sent.
func (t *trust) dialTLS(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: 15 * time.Second}
	raw, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	c := tls.Client(raw, &tls.Config{
		ServerName: host,
		MinVersion: tls.VersionTLS12,
		// The chain is verified by VerifyConnection, which also knows pins.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection: func(s tls.ConnectionState) error {
			return t.verify(addr, s.PeerCertificates)
		},
	})
	hctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := c.HandshakeContext(hctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c, nil
}

// transport makes the HTTP transport of one connection. It speaks HTTP/1.1,
// which is what NFC endpoints take, and uses no proxy: hosts and vCenter are
// management addresses.
func (t *trust) transport() *http.Transport {
	return &http.Transport{
		DialTLSContext:      t.dialTLS,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
		// An upload is one long write; small buffers cost a system call and a
		// TLS record header each 4 KiB.
		WriteBufferSize: 256 << 10,
	}
}
