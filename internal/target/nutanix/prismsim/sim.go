// Package prismsim is a strict, stateful simulator of Nutanix Prism Central: a
// real HTTPS listener with the v4 REST API that a restore needs, Objects Lite (the
// S3 service that image files are uploaded to) and the older v3 API. It keeps the
// bytes it is sent and gives them back.
//
// It refuses what the real thing refuses: unknown and missing fields, writes
// without NTNX-Request-Id, changes without If-Match or with a stale one (412), S3
// requests whose signature or payload digest is wrong, ListParts, and a ninth S3
// request at once. Tests hold it to others' truth: Nutanix' own v4 models and v3
// document, and boto3 for S3.
//
// It serves tests, the demo and the browser's tests.
package prismsim

import (
	"crypto/tls"
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

// Credentials of the one user.
const (
	User     = "admin"
	Password = "nutanix/4u & ümlaut"
)

// Options of a simulator. The zero value is usable.
type Options struct {
	Addr  string // to listen at; 127.0.0.1 and any free port by default
	Plain bool   // HTTP instead of HTTPS
	// Version is the newest version of the vmm API served: "v4.1" (the default),
	// "v4.0", or "v3", where v4 is not there at all.
	Version string
	// MinPart is the least size in bytes of a part but the last; 5 MiB by default.
	MinPart int64
	// Polls is how often a task must be looked at before it has ended; 1 by default.
	Polls int
}

// Request is one request as a fault sees it.
type Request struct {
	Method, Path string
	Query        string
	ObjectsLite  bool
}

// Fault is what becomes of a request.
type Fault struct {
	Status int  // to answer; 0: the connection is dropped
	Done   bool // the request is carried out first, and only its answer is lost
}

// Sim is a running simulator. Its methods may be called concurrently.
type Sim struct {
	URL    string // https://127.0.0.1:port
	CAFile string // PEM of its certificate; empty with Plain

	o      Options
	dir    string
	server *http.Server
	done   sync.WaitGroup

	mu       sync.Mutex
	fault    func(Request) *Fault
	taskDoom map[string][]TaskEnd // by operation
	stale    int                  // reads of machines after which they change
	stalled  chan struct{}
	bodies   []Body
	requests map[string]answered // by NTNX-Request-Id
	serial   int
	world
	objects map[string]*object // by key
	uploads map[string]*multipart
	busy    int // Objects Lite requests under way
	busiest int
	refused int
}

// Body is a request's body that was taken.
type Body struct {
	Method, Path string
	JSON         []byte
}

type answered struct {
	key    string
	status int
	body   []byte
}

// Start starts a simulator.
func Start(o Options) (*Sim, error) {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	if o.Version == "" {
		o.Version = "v4.1"
	}
	if o.MinPart == 0 {
		o.MinPart = 5 << 20
	}
	if o.Polls == 0 {
		o.Polls = 1
	}
	s := &Sim{
		o: o, taskDoom: map[string][]TaskEnd{}, requests: map[string]answered{}, world: newWorld(),
		objects: map[string]*object{}, uploads: map[string]*multipart{},
	}
	var err error
	if s.dir, err = os.MkdirTemp("", "prismsim"); err != nil {
		return nil, err
	}
	scheme := "http"
	var conf *tls.Config
	if !o.Plain {
		scheme = "https"
		var pem []byte
		if conf, pem, err = certificate(); err == nil {
			s.CAFile = filepath.Join(s.dir, "ca.pem")
			err = os.WriteFile(s.CAFile, pem, 0o600)
		}
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(s.dir))
		}
	}
	l, err := net.Listen("tcp", o.Addr) //nolint:noctx // for as long as the simulator lives
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot listen: %w", err), os.RemoveAll(s.dir))
	}
	s.URL = scheme + "://" + l.Addr().String()
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	s.server = &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	s.done.Go(func() { _ = s.server.Serve(l) })
	return s, nil
}

// Close stops the simulator and forgets everything.
func (s *Sim) Close() error {
	s.Release()
	err := s.server.Close()
	s.done.Wait()
	return errors.Join(err, os.RemoveAll(s.dir))
}

// SetFault has f decide about every request; nil ends it. f is called by many
// goroutines.
func (s *Sim) SetFault(f func(Request) *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Stall makes everything that carries a disk's bytes hang until Release.
func (s *Sim) Stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stalled == nil {
		s.stalled = make(chan struct{})
	}
}

// Release ends Stall.
func (s *Sim) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stalled != nil {
		close(s.stalled)
		s.stalled = nil
	}
}

// Busiest is the greatest number of Objects Lite requests at once, and how many
// were refused because they were the ninth.
func (s *Sim) Busiest() (most, refused int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busiest, s.refused
}

// Bodies are the JSON bodies of all requests that were taken.
func (s *Sim) Bodies() []Body {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Body(nil), s.bodies...)
}

// answer is what a request is answered.
type answer struct {
	status int
	header map[string]string
	body   []byte
	file   string // instead of body
}

func (a answer) write(w http.ResponseWriter, r *http.Request) {
	for k, v := range a.header {
		w.Header().Set(k, v)
	}
	if a.file != "" {
		http.ServeFile(w, r, a.file)
		return
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body)
}

func (s *Sim) serve(w http.ResponseWriter, r *http.Request) {
	lite := strings.HasPrefix(r.URL.Path, litePrefix)
	s.mu.Lock()
	f := s.fault
	s.mu.Unlock()
	var fault *Fault
	if f != nil {
		fault = f(Request{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, ObjectsLite: lite})
	}
	if fault == nil || fault.Done {
		a := s.route(r, lite)
		if fault == nil {
			a.write(w, r)
			return
		}
	}
	if fault.Status == 0 {
		panic(http.ErrAbortHandler)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 64<<20))
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(fault.Status)
	_, _ = io.WriteString(w, "<html>the gateway says no</html>")
}

func (s *Sim) route(r *http.Request, lite bool) answer {
	if lite {
		return s.objectsLite(r)
	}
	user, password, ok := r.BasicAuth()
	if !ok || user != User || password != Password {
		return answer{status: http.StatusUnauthorized, header: map[string]string{"Content-Type": "application/json"}, body: []byte(`{"data":{"error":[{"message":"Authentication required","code":"IAM-401","severity":"ERROR"}]}}`)}
	}
	switch {
	case strings.HasPrefix(r.URL.Path, "/api/nutanix/v3/"):
		return s.v3(r)
	case strings.HasPrefix(r.URL.Path, "/api/"):
		return s.v4(r)
	}
	return answer{status: http.StatusNotFound}
}

// id makes an identifier; callers hold the lock.
func (s *Sim) id() string {
	s.serial++
	return fmt.Sprintf("5a1d0000-0000-4000-8000-%012x", s.serial)
}

// waits hangs while the simulator is stalled.
func (s *Sim) waits(r *http.Request) {
	s.mu.Lock()
	c := s.stalled
	s.mu.Unlock()
	if c != nil {
		select {
		case <-c:
		case <-r.Context().Done():
		}
	}
}
