package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// CertificateFiles is TLS by a certificate and its key, which are read again when
// they change: a renewed certificate needs no restart.
func CertificateFiles(cert, key string) (*tls.Config, error) {
	f := &files{cert: cert, key: key}
	if _, err := f.load(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.load() }}, nil
}

type files struct {
	cert, key string
	mu        sync.Mutex
	have      *tls.Certificate
	stamp     [2]time.Time
	checked   time.Time
}

func (f *files) load() (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.have != nil && time.Since(f.checked) < time.Minute {
		return f.have, nil
	}
	f.checked = time.Now()
	var stamp [2]time.Time
	for i, name := range []string{f.cert, f.key} {
		st, err := os.Stat(name)
		if err != nil {
			return f.or(err)
		}
		stamp[i] = st.ModTime()
	}
	if f.have != nil && stamp == f.stamp {
		return f.have, nil
	}
	c, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return f.or(err)
	}
	f.have, f.stamp = &c, stamp
	return f.have, nil
}

// or keeps the certificate that is there while the files are being replaced.
func (f *files) or(err error) (*tls.Certificate, error) {
	if f.have != nil {
		return f.have, nil
	}
	return nil, fmt.Errorf("cannot read the certificate: %w", err)
}

// SelfSigned is TLS by a certificate that is made in dir, and made again a month
// before it ends. fingerprint is the SHA-256 of the certificate, by which clients
// can know it.
func SelfSigned(dir string, hosts []string) (c *tls.Config, fingerprint string, err error) {
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	b, err := os.ReadFile(cert)
	if err == nil {
		if block, _ := pem.Decode(b); block != nil {
			x, perr := x509.ParseCertificate(block.Bytes)
			if perr == nil && time.Until(x.NotAfter) > 30*24*time.Hour && covers(x, hosts) {
				c, err = CertificateFiles(cert, key)
				return c, fingerprintOf(block.Bytes), err
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("cannot read the certificate: %w", err)
	}
	der, err := makeCertificate(cert, key, hosts)
	if err != nil {
		return nil, "", fmt.Errorf("cannot make a certificate: %w", err)
	}
	c, err = CertificateFiles(cert, key)
	return c, fingerprintOf(der), err
}

func fingerprintOf(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

func covers(x *x509.Certificate, hosts []string) bool {
	for _, h := range hosts {
		if x.VerifyHostname(h) != nil {
			return false
		}
	}
	return true
}

func makeCertificate(cert, key string, hosts []string) ([]byte, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "ascend"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &k.PublicKey, k)
	if err != nil {
		return nil, err
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(key), 0o700); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		path, kind string
		b          []byte
		mode       os.FileMode
	}{{key, "PRIVATE KEY", kder, 0o600}, {cert, "CERTIFICATE", der, 0o644}} {
		if err := os.WriteFile(f.path+".new", pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.b}), f.mode); err != nil {
			return nil, err
		}
		if err := os.Rename(f.path+".new", f.path); err != nil {
			return nil, err
		}
	}
	return der, nil
}
