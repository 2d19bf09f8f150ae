// Package awssim is an AWS account in memory behind real HTTP listeners: the
// parts of EC2, the EBS direct APIs, S3, STS and Service Quotas that a restore uses, as
// strict as their documentation. It verifies SigV4, refuses parameters it does not
// know, and keeps what was written so that it can be read back. It is a test
// double: boto3 drives it in its tests, and those of target/aws hold its answers to
// AWS's service models.
package awssim

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest" //nolint:depguard // a test double, which no program links
	"net/url"
	"strings"
	"sync"
	"time"
)

// Options of a simulated account. The zero value is usable.
type Options struct {
	TLS    bool   // serve HTTPS with a certificate of its own
	Region string // "": eu-central-1
	// Invisible is the number of requests for a new snapshot that are answered as
	// if it did not exist yet.
	Invisible int
	// Polls is the number of descriptions for which a snapshot, an image, a volume
	// or an instance stays in the state it passes through; 0: 1.
	Polls int
	// Log is given every exchange when it is over; nil: none. It is called
	// concurrently.
	Log func(Exchange)
}

// Exchange is a request and its answer as they went over the wire. Bodies of
// blocks are left out.
type Exchange struct {
	Service, Action string
	Method, URL     string
	Header          http.Header
	Body            string
	Status          int
	AnswerHeader    http.Header
	Answer          string
	Block, AskedFor int // bytes of a block in the request, in the answer
}

// The keys of the account that exist from the beginning.
const (
	AccessKey = "AKIAASCENDSIM0000001"
	SecretKey = "sim/secret+key/that-must-never-be-seen-anywhere"
	Account   = "111122223333"
)

type key struct {
	secret, token string
	expires       time.Time // zero: never
}

// Sim is a running account. Its methods may be called concurrently.
type Sim struct {
	URL string // of every service
	srv *httptest.Server
	o   Options

	mu      sync.Mutex
	keys    map[string]key
	n       int // for identifiers
	snaps   map[string]*snapshot
	images  map[string]*image
	insts   map[string]*instance
	vols    map[string]*volume
	tokens  map[string]tokenUse
	imports map[string]*importTask
	uploads map[string]*multipart
	objects map[string][]byte

	diskImports map[string]*diskImport

	failing string // why imports are given up
	fault   func(Request) *Fault
	hold    chan struct{}
	seen    []Request
	latency time.Duration
	last    time.Time // of a snapshot
}

// Request is one request as it arrived.
type Request struct {
	Service, Action string
	Params          url.Values // of the query protocol
	Bytes           int
}

// Fault is what happens to a request instead of its answer.
type Fault struct {
	Status     int // with Code; 0: the connection is cut
	Code       string
	RetryAfter string
	// Late cuts the connection when the request was carried out: its answer is lost.
	Late bool
}

// Start serves an account on a free port of the loopback interface.
func Start(o Options) *Sim {
	if o.Region == "" {
		o.Region = "eu-central-1"
	}
	if o.Polls <= 0 {
		o.Polls = 1
	}
	s := &Sim{
		o: o, keys: map[string]key{AccessKey: {secret: SecretKey}}, snaps: map[string]*snapshot{}, images: map[string]*image{},
		insts: map[string]*instance{}, vols: map[string]*volume{}, tokens: map[string]tokenUse{}, imports: map[string]*importTask{},
		uploads: map[string]*multipart{}, objects: map[string][]byte{}, diskImports: map[string]*diskImport{},
	}
	s.srv = httptest.NewUnstartedServer(s)
	if o.TLS {
		s.srv.StartTLS()
	} else {
		s.srv.Start()
	}
	s.URL = s.srv.URL
	return s
}

// Close stops serving.
func (s *Sim) Close() { s.Release(); s.srv.CloseClientConnections(); s.srv.Close() }

// Drop breaks every connection.
func (s *Sim) Drop() { s.srv.CloseClientConnections() }

// CertificatePEM is the certificate of a TLS account.
func (s *Sim) CertificatePEM() []byte { return pemOf(s.srv.Certificate()) }

// SetFault has f decide what goes wrong; nil: nothing. f must be quick.
func (s *Sim) SetFault(f func(Request) *Fault) { s.mu.Lock(); s.fault = f; s.mu.Unlock() }

// SetLatency delays every answer.
func (s *Sim) SetLatency(d time.Duration) { s.mu.Lock(); s.latency = d; s.mu.Unlock() }

// Stall makes every PutSnapshotBlock and UploadPart hang until Release.
func (s *Sim) Stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold == nil {
		s.hold = make(chan struct{})
	}
}

// Release ends Stall.
func (s *Sim) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold != nil {
		close(s.hold)
		s.hold = nil
	}
}

// Requests is every request that was let in, in order of arrival.
func (s *Sim) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.seen...)
}

// AddKey makes temporary credentials that end at a time.
func (s *Sim) AddKey(access, secret, token string, expires time.Time) {
	s.mu.Lock()
	s.keys[access] = key{secret, token, expires}
	s.mu.Unlock()
}

// apiError is an answer that is not what was asked for.
type apiError struct {
	status int
	code   string
	msg    string
	retry  string
}

func bad(code, format string, args ...any) *apiError {
	return &apiError{status: http.StatusBadRequest, code: code, msg: fmt.Sprintf(format, args...)}
}

const maxBody = 1 << 20

// answer keeps what is written through it.
type answer struct {
	http.ResponseWriter
	status int
	body   []byte
}

func (a *answer) WriteHeader(status int) { a.status = status; a.ResponseWriter.WriteHeader(status) }

func (a *answer) Write(p []byte) (int, error) {
	a.body = append(a.body, p...)
	return a.ResponseWriter.Write(p)
}

// log gives an exchange to Options.Log.
func (s *Sim) log(q Request, r *http.Request, body []byte, a *answer) {
	x := Exchange{
		Service: q.Service, Action: q.Action, Method: r.Method, URL: r.URL.String(), Header: r.Header, Body: string(body),
		Status: a.status, AnswerHeader: a.Header().Clone(), Answer: string(a.body),
	}
	if q.Action == "PutSnapshotBlock" || q.Action == "UploadPart" {
		x.Body, x.Block = "", len(body)
	}
	if q.Action == "GetSnapshotBlock" && a.status == http.StatusOK {
		x.Answer, x.AskedFor = "", len(a.body)
	}
	s.o.Log(x)
}

// ServeHTTP lets a request in, or not, and answers.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	most := int64(maxBody)
	if s3Action(r) == "UploadPart" {
		most = maxPart
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	service, aerr := s.signed(r, body)
	q := Request{Service: service, Bytes: len(body)}
	query := service == "ec2" || service == "sts"
	if query {
		q.Params, _ = url.ParseQuery(string(body))
		if r.Method == http.MethodGet {
			q.Params = r.URL.Query()
		}
		q.Action = q.Params.Get("Action")
	} else if service == "servicequotas" {
		_, q.Action, _ = strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	} else if service == "s3" {
		q.Action = s3Action(r)
	} else {
		q.Action = ebsAction(r.Method, r.URL.Path)
	}
	if aerr == nil && int64(len(body)) > most {
		aerr = bad("RequestEntityTooLarge", "the request is too long")
	}
	late := false
	if aerr == nil {
		aerr, late = s.disturb(r, q)
	}
	if late {
		defer func() { panic(http.ErrAbortHandler) }()
	}
	w.Header().Set("X-Amzn-Requestid", s.id("req"))
	if s.o.Log != nil {
		a := &answer{ResponseWriter: w, status: http.StatusOK}
		w = a
		defer func() { s.log(q, r, body, a) }()
	}
	switch {
	case query:
		s.serveQuery(w, q, aerr)
	case service == "servicequotas":
		s.serveQuotas(w, body, aerr)
	case service == "s3":
		s.serveS3(w, r, q, body, aerr)
	default:
		s.serveEBS(w, r, q, body, aerr)
	}
}

// disturb notes the request and does to it what tests asked for.
func (s *Sim) disturb(r *http.Request, q Request) (_ *apiError, late bool) {
	s.mu.Lock()
	s.seen = append(s.seen, q)
	fault, hold, latency := s.fault, s.hold, s.latency
	s.mu.Unlock()
	if hold != nil && (q.Action == "PutSnapshotBlock" || q.Action == "UploadPart") {
		select {
		case <-hold:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	if latency > 0 {
		time.Sleep(latency)
	}
	if fault == nil {
		return nil, false
	}
	f := fault(q)
	switch {
	case f == nil:
		return nil, false
	case f.Late:
		return nil, true
	case f.Status == 0:
		panic(http.ErrAbortHandler)
	}
	return &apiError{status: f.Status, code: f.Code, msg: "as the test asked for", retry: f.RetryAfter}, false
}

// id makes an identifier nobody has.
func (s *Sim) id(prefix string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newID(prefix)
}

func (s *Sim) newID(prefix string) string {
	s.n++
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", prefix, s.n))
	return prefix + "-0" + hex.EncodeToString(sum[:])[:16]
}

// ebsAction names a REST request.
func ebsAction(method, path string) string {
	p := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case p[0] != "snapshots":
	case method == http.MethodPost && len(p) == 1:
		return "StartSnapshot"
	case method == http.MethodPost && len(p) == 3 && p[1] == "completion":
		return "CompleteSnapshot"
	case method == http.MethodPut && len(p) == 4 && p[2] == "blocks":
		return "PutSnapshotBlock"
	case method == http.MethodGet && len(p) == 4 && p[2] == "blocks":
		return "GetSnapshotBlock"
	case method == http.MethodGet && len(p) == 3 && p[2] == "blocks":
		return "ListSnapshotBlocks"
	case method == http.MethodGet && len(p) == 3 && p[2] == "changedblocks":
		return "ListChangedBlocks"
	}
	return ""
}
