// Package cssim is a simulated CloudStack: the API of a management server and
// the upload service of its secondary storage, as real HTTPS listeners. It is
// strict where the real ones are:
//
//   - every call is held to the official list of commands (apis.txt): a
//     parameter that is not known, missing or of the wrong type is refused with
//     431, a command that is not there with 432, a signature that is wrong or has
//     expired with 401;
//   - long commands are jobs that are asked for with queryAsyncJobResult;
//   - an upload is one POST of multipart/form-data with a Content-Length, signed
//     for one volume or template, at most once; its content must be what the file
//     name says (see ssvm.go).
//
// It keeps the bytes: State shows what there is. It deletes no volume that is
// being uploaded and deploys from no volume that is not a root disk's, as the
// real one.
package cssim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Credentials of the simulated account.
const (
	APIKey    = "sim-api-key-0123456789"
	SecretKey = "sim-secret-key-ABCDEFGHIJ" //nolint:gosec // of a simulator
)

// Options of a simulated cloud. The zero value is CloudStack 4.20.1 with KVM.
type Options struct {
	Version    string // "4.20.1.0"
	Hypervisor string // "KVM"
	// ZoneWide: primary storage is one pool for the whole zone, else for a cluster.
	ZoneWide bool
	// RootVolumes: uploaded volumes count as root disks, so that a machine can be
	// deployed from them (CloudStack 4.21; asks for a template of the volume).
	RootVolumes bool
	// UploadTimeout is upload.operation.timeout; 0: 10 minutes.
	UploadTimeout time.Duration
	// Monitor is upload.monitoring.interval: how late the cloud notices what became
	// of an upload.
	Monitor time.Duration
	// Denied commands are those that the account's role does not allow.
	Denied []string
	// Dir, when not empty, stands for the NFS export of primary storage: importVm
	// and importVolume find their files in it.
	Dir string
	// Devices, when not empty, gets a file for each volume that is attached to the
	// machine of ID WorkerID, named as udev names virtio disks.
	Devices string
	// Unit is what sizes of volumes are counted in; 0: 1 GiB. Tests take less.
	Unit int64
	// Plain serves HTTP instead of HTTPS.
	Plain bool
	// Addr is where to listen; "" is a free port of the loopback.
	Addr string
}

// Sim is a running simulated cloud. Its methods may be called concurrently.
type Sim struct {
	URL    string // of the API
	CAFile string // PEM of the certificate's authority; "" with Plain

	o      Options
	tmp    string
	table  map[string]*command
	server *http.Server
	ssvm   *http.Server
	upload string // address of the upload service
	psk    []byte
	done   sync.WaitGroup

	mu      sync.Mutex
	stalled chan struct{} // open while uploads hang
	faults  faults
	world
}

// Start serves a simulated cloud on the loopback until Close.
func Start(o Options) (*Sim, error) {
	if o.Version == "" {
		o.Version = "4.20.1.0"
	}
	if o.Hypervisor == "" {
		o.Hypervisor = "KVM"
	}
	if o.Unit == 0 {
		o.Unit = 1 << 30
	}
	if o.UploadTimeout == 0 {
		o.UploadTimeout = 10 * time.Minute
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	s := &Sim{o: o, psk: []byte(newID())}
	var err error
	if s.table, err = readTable(); err != nil {
		return nil, err
	}
	s.world = newWorld()
	var conf *tls.Config
	scheme := "http"
	if !o.Plain {
		scheme = "https"
		if s.tmp, err = os.MkdirTemp("", "cssim"); err != nil {
			return nil, err
		}
		s.CAFile = filepath.Join(s.tmp, "ca.pem")
		if conf, err = certificate(s.CAFile); err != nil {
			return nil, err
		}
	}
	api, err := s.serve(o.Addr, conf, http.HandlerFunc(s.serveAPI), &s.server)
	if err != nil {
		return nil, err
	}
	s.URL = scheme + "://" + api + "/client/api"
	up, err := s.serve("127.0.0.1:0", conf, http.HandlerFunc(s.serveUpload), &s.ssvm)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.upload = scheme + "://" + up
	return s, nil
}

func (s *Sim) serve(addr string, conf *tls.Config, h http.Handler, srv **http.Server) (string, error) {
	l, err := net.Listen("tcp", addr) //nolint:noctx // for as long as the simulator lives
	if err != nil {
		return "", fmt.Errorf("cannot listen: %w", err)
	}
	at := l.Addr().String()
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	*srv = &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	s.done.Go(func() { _ = (*srv).Serve(l) })
	return at, nil
}

// Close ends the simulated cloud and drops every connection.
func (s *Sim) Close() error {
	s.Release()
	var errs []error
	for _, srv := range []*http.Server{s.server, s.ssvm} {
		if srv != nil {
			errs = append(errs, srv.Close())
		}
	}
	s.done.Wait()
	if s.tmp != "" {
		errs = append(errs, os.RemoveAll(s.tmp))
	}
	return errors.Join(errs...)
}

// certificate makes one for the loopback and writes its authority to file.
func certificate(file string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "simulated CloudStack"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, nil
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // documented to never fail
	return fmt.Sprintf("%x-%x-4%03x-8%03x-%x", b[:4], b[4:6], int(b[6])<<4&0xfff, int(b[8])<<4&0xfff, b[10:])
}
