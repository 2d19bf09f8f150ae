// Package armsim is a strict simulator of Azure: Azure Resource Manager for
// what a restore needs (managed disks, machines, networks, quotas), the token
// endpoints of Microsoft Entra, and the host that takes and gives a managed
// disk's bytes, all behind one real HTTPS listener. The bytes lie in Azurite,
// Microsoft's own storage emulator, behind it.
//
// It is for tests and demonstrations. What it refuses, it refuses with the
// status and the code that the platform documents; bodies with members that
// the API does not have are refused too. Long-running operations are real ones:
// 201 or 202 with Azure-AsyncOperation and Location, and a state in between.
package armsim

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The account that every simulator has.
const (
	Tenant        = "7b3c1f0e-94b2-4b8e-9a51-6a1f4a5d2c11"
	Subscription  = "2f1c9a57-0d0b-4c3e-8a5f-5d5f0e6b7a90"
	ClientID      = "c0ffee00-5a3d-4f2b-9f43-0b0c1d2e3f40"
	ClientSecret  = "q8Q~Simulated.secret-of-the-application_0" //nolint:gosec // opens nothing but the simulator
	Region        = "westeurope"
	Group         = "restore"  // a resource group that is there
	OtherGroup    = "network"  // another; the virtual network is here
	Network       = "hub"      // has the subnets "servers" and "desktops"
	Subnet        = "servers"  //
	SecurityGroup = "web-only" // of OtherGroup
	AvailSet      = "rack"     // availability set of Group
	EncryptionSet = "vault"    // disk encryption set of Group
	// MSIHeader is what the managed identity's endpoint wants in X-IDENTITY-HEADER.
	MSIHeader = "managed-identity-header"
)

// Options of a simulator. The zero value is good.
type Options struct {
	// Azurite holds the bytes; nil: one of the simulator's own is started.
	Azurite *Azurite
	// Delay is how long an operation takes; 0: 10 ms.
	Delay time.Duration
	// Dir is where the certificate is written; "": a temporary folder.
	Dir string
	// Listen is the address to listen on; "": any free port of 127.0.0.1.
	Listen string
	// Actions are what the account may do; nil: everything.
	Actions []string
	// Cores is the quota of processors; 0: 100.
	Cores int
	// TokenLife is how long tokens are good; 0: an hour.
	TokenLife time.Duration
	// Certificate, when not nil, is the application's, for signing in by a signed
	// assertion.
	Certificate *x509.Certificate
	// Federated is the assertion by which a workload identity signs in.
	Federated string
}

// Sim is one simulator. Methods are safe for concurrent use.
type Sim struct {
	// URL is https://127.0.0.1:port: resource manager and authority.
	URL string
	// CAFile is a PEM file of the authority to trust.
	CAFile string

	opts    Options
	azurite *Azurite
	own     bool // the Azurite is the simulator's
	tempDir string
	server  *http.Server
	served  chan struct{}

	mu     sync.Mutex
	groups map[string]string // resource group, lower-case → location
	things map[string]*thing // by lower-case identifier
	ops    map[string]*operation
	tokens map[string]time.Time
	faults faults
	log    []string // of requests that change something
	refuse []string // of what was refused with 400: code and message
	clock  func() time.Time
}

// Start starts a simulator.
func Start(opts Options) (*Sim, error) {
	if opts.Delay == 0 {
		opts.Delay = 10 * time.Millisecond
	}
	if opts.Cores == 0 {
		opts.Cores = 100
	}
	if opts.TokenLife == 0 {
		opts.TokenLife = time.Hour
	}
	s := &Sim{
		opts: opts, azurite: opts.Azurite, served: make(chan struct{}), clock: time.Now,
		groups: map[string]string{Group: Region, OtherGroup: Region, "empty": "northeurope"},
		things: map[string]*thing{}, ops: map[string]*operation{}, tokens: map[string]time.Time{},
	}
	if err := s.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the Azure simulator: %w", err), s.Close())
	}
	return s, nil
}

func (s *Sim) start() error {
	if s.azurite == nil {
		a, err := StartAzurite()
		if err != nil {
			return err
		}
		s.azurite, s.own = a, true
	}
	dir := s.opts.Dir
	if dir == "" {
		d, err := os.MkdirTemp("", "armsim")
		if err != nil {
			return err
		}
		dir, s.tempDir = d, d
	}
	conf, pem, err := certificate()
	if err != nil {
		return err
	}
	s.CAFile = filepath.Join(dir, "armsim-ca.pem")
	if err := os.WriteFile(s.CAFile, pem, 0o600); err != nil {
		return err
	}
	addr := s.opts.Listen
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return err
	}
	s.URL = "https://" + l.Addr().String()
	s.furnish()
	s.server = &http.Server{Handler: s, TLSConfig: conf, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		defer close(s.served)
		_ = s.server.ServeTLS(l, "", "")
	}()
	return nil
}

// Close stops the simulator and forgets everything.
func (s *Sim) Close() error {
	var errs []error
	if s.server != nil {
		errs = append(errs, s.server.Close())
		<-s.served
	}
	if s.own && s.azurite != nil {
		errs = append(errs, s.azurite.Close())
	}
	if s.tempDir != "" {
		errs = append(errs, os.RemoveAll(s.tempDir))
	}
	return errors.Join(errs...)
}

// ServeHTTP is the listener's handler.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("x-ms-request-id", random(16))
	p := strings.ToLower(r.URL.Path)
	switch {
	case strings.HasPrefix(p, "/"+Account+"/"):
		s.serveBlob(w, r)
	case strings.HasSuffix(p, "/oauth2/v2.0/token"), strings.HasSuffix(p, "/openid-configuration"), strings.HasPrefix(p, "/msi/token"):
		s.serveIdentity(w, r)
	default:
		s.serveARM(w, r)
	}
}

// Requests lists what changed something, as "METHOD path", in order.
func (s *Sim) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.log...)
}

// Refused lists what was refused as wrong (400), as "code: message", in order.
func (s *Sim) Refused() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.refuse...)
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // documented to never fail
	return hex.EncodeToString(b)
}
