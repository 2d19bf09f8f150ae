package nutanix

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// trust decides which server certificates are accepted.
type trust struct {
	roots    *x509.CertPool // nil: the system's
	pin      []byte         // SHA-256 of the only certificate accepted
	insecure bool
}

// certificateError says why a server's certificate was not accepted.
type certificateError struct {
	addr, reason, sha256 string
	pinned               bool
}

func (e *certificateError) Error() string {
	return fmt.Sprintf("the certificate of %s is not trusted: %s", e.addr, e.reason)
}

func (e *certificateError) hint() string {
	if e.pinned {
		return "if the certificate was replaced on purpose, set thumbprint=" + e.sha256
	}
	return "set ca_file to the authority that signed it, or, after comparing it with the server's own, thumbprint=" + e.sha256
}

// parseThumbprint reads the hexadecimal SHA-256 of a certificate.
func parseThumbprint(s string) ([]byte, error) {
	t := strings.ToLower(strings.TrimSpace(s))
	t = strings.TrimLeft(strings.TrimPrefix(t, "sha256"), ":= ")
	b, err := hex.DecodeString(strings.NewReplacer(":", "", " ", "", "-", "").Replace(t))
	if err != nil || len(b) != sha256.Size {
		return nil, fmt.Errorf("%q is not the hexadecimal SHA-256 of a certificate", s)
	}
	return b, nil
}

func (t *trust) verify(addr string, certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return &certificateError{addr: addr, reason: "the server sent none"}
	}
	sum := sha256.Sum256(certs[0].Raw)
	fail := &certificateError{addr: addr, sha256: strings.ToUpper(hex.EncodeToString(sum[:]))}
	if t.pin != nil {
		if bytes.Equal(t.pin, sum[:]) {
			return nil
		}
		fail.pinned, fail.reason = true, "its SHA-256 is "+fail.sha256+", which is not the thumbprint that is set"
		return fail
	}
	if t.insecure {
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
	if _, err := certs[0].Verify(opts); err != nil {
		var unknown x509.UnknownAuthorityError
		fail.reason = strings.TrimPrefix(err.Error(), "x509: ")
		if errors.As(err, &unknown) {
			fail.reason = "it is signed by an unknown authority"
		}
		return fail
	}
	return nil
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
		ServerName: host, MinVersion: tls.VersionTLS12,
		// The chain is verified by VerifyConnection, which also knows the pin.
		InsecureSkipVerify: true, //nolint:gosec // see VerifyConnection
		VerifyConnection:   func(s tls.ConnectionState) error { return t.verify(addr, s.PeerCertificates) },
	})
	hctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := c.HandshakeContext(hctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return c, nil
}

// transport uses no proxy, for Prism Central is a management address, and
// HTTP/1.1, whose connections carry a part each.
func (t *trust) transport() *http.Transport {
	return &http.Transport{
		DialTLSContext: t.dialTLS, MaxIdleConnsPerHost: 16,
		IdleConnTimeout: 60 * time.Second, WriteBufferSize: 256 << 10, DisableCompression: true,
	}
}
