// Package wsmansim is a WinRM service with a model of Hyper-V behind it, for
// tests and demonstrations. It listens on a loopback port with HTTPS, is strict
// about WS-Management, and runs one program: package hostscript's, byte for byte. Disks
// are files of a real folder, which a real SMB server may serve, and what is
// attached to a machine is looked at by qemu-img.
package wsmansim

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// What every simulated host has.
const (
	HostName = "HV1"
	User     = "restore"
	Domain   = "CORP"
	Password = `pass "word" $(x)`
	Shared   = `D:\VMs` // what the share is on the host
	Share    = "VMs"
	Switch   = "External"
	Internal = "it's internal"
)

// Options of a simulated host.
type Options struct {
	// Dir is the folder of the host's disks, and Root what the host calls it; empty is Shared.
	Dir, Root string
	// User and Password of who may sign in; empty are this package's.
	User, Password string
	// Build is the version of Windows; empty is Windows Server 2022.
	Build string
	// Cluster is the name of the failover cluster that the host is a node of.
	Cluster string
	// Quiet is the time after which a Receive is answered with a fault, whatever the
	// client's OperationTimeout; 0: the client's.
	Quiet time.Duration
	// Slow is how long each run of the script takes.
	Slow time.Duration
	// Keytab, when set, has the service accept Kerberos, for a service principal in it.
	Keytab string
	// Beats is how often State is asked before the guest's heartbeat is seen; negative: never.
	Beats int
}

// Sim is a running host.
type Sim struct {
	URL    string
	CAFile string

	o      Options
	srv    *http.Server
	l      net.Listener
	tmp    string
	served chan struct{}
	life   context.Context
	stop   context.CancelFunc

	mu      sync.Mutex
	shells  map[string]*shell
	seen    map[string]bool // message identifiers
	fault   func(Call) *Fault
	foreign []string // programs that are not the script
	calls   []string // operations that were run
	world
}

// Call is one message, or one run of the script.
type Call struct {
	Action string // the last word of the WS-Management action: Create, Command, …; or Run
	Op     string // of the script, for Run
}

// Fault is what happens instead.
type Fault struct {
	Status  int    // of an answer without a body; 0: the connection breaks
	Done    bool   // after the call did its work
	Message string // for Run: the script's error
}

// Start starts a host.
func Start(o Options) (*Sim, error) {
	if o.User == "" {
		o.User, o.Password = User, Password
	}
	if o.Root == "" {
		o.Root = Shared
	}
	if o.Build == "" {
		o.Build = "10.0.20348"
	}
	conf, pem, err := certificate()
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "wsmansim")
	if err != nil {
		return nil, err
	}
	s := &Sim{o: o, tmp: tmp, CAFile: filepath.Join(tmp, "ca.pem"), shells: map[string]*shell{}, seen: map[string]bool{}, served: make(chan struct{})}
	s.life, s.stop = context.WithCancel(context.Background())
	if o.Dir == "" {
		s.o.Dir = filepath.Join(tmp, "share")
	}
	if err := errors.Join(os.WriteFile(s.CAFile, pem, 0o600), os.MkdirAll(s.o.Dir, 0o755)); err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	l, err := (&net.ListenConfig{}).Listen(s.life, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	s.l = l
	s.URL = fmt.Sprintf("https://%s/wsman", l.Addr())
	s.srv = &http.Server{
		Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: 10 * time.Second,
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, &signIn{})
		},
		ErrorLog: quiet,
	}
	go func() {
		defer close(s.served)
		_ = s.srv.Serve(tls.NewListener(l, conf)) // ends with Close
	}()
	return s, nil
}

// Close stops the host and forgets it. The folder's files stay.
func (s *Sim) Close() error {
	s.stop()
	err := s.srv.Close()
	<-s.served
	return errors.Join(err, os.RemoveAll(s.tmp))
}

// Dir is the folder of the host's disks.
func (s *Sim) Dir() string { return s.o.Dir }

// SetFault has f asked before every message and every run of the script; nil asks nobody.
func (s *Sim) SetFault(f func(Call) *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

func (s *Sim) faulty(c Call) *Fault {
	s.mu.Lock()
	f := s.fault
	s.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(c)
}

// Foreign lists programs that somebody wanted to run and that are not the script.
func (s *Sim) Foreign() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.foreign...)
}

// Runs lists the operations of the script that were run.
func (s *Sim) Runs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

// Shells is how many shells are open.
func (s *Sim) Shells() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.shells)
}
