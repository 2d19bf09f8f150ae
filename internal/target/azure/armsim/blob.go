package armsim

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// maxPut is the largest Put Page (Azure Storage REST API, Put Page).
const maxPut = 4 << 20

// serveBlob is the host of a managed disk's bytes ("md-…"): it takes pages and
// gives ranges by a shared access signature, and nothing else. Azurite checks
// signatures and checksums; what it is lax about is checked here.
func (s *Sim) serveBlob(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, code, msg string) {
		// Some clients cannot read an answer before all is sent.
		_, _ = io.CopyN(io.Discard, r.Body, 16<<20)
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("x-ms-error-code", code)
		w.WriteHeader(status)
		fmt.Fprintf(w, "<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>%s</Code><Message>%s</Message></Error>", code, msg)
	}
	release, fault := s.faults.blob(r)
	if release != nil {
		select {
		case <-release:
		case <-r.Context().Done():
			return
		}
	}
	if fault != nil {
		fault(w, r)
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	q := r.URL.Query()
	d := s.diskByContainer(parts)
	switch {
	case d == nil:
		refuse(http.StatusNotFound, "ResourceNotFound", "The specified resource does not exist.")
		return
	case q.Get("sig") == "" || r.Header.Get("Authorization") != "":
		refuse(http.StatusForbidden, "AuthenticationFailed", "Server failed to authenticate the request: a managed disk is opened by its shared access signature only.")
		return
	case r.Header.Get("Content-MD5") != "":
		refuse(http.StatusBadRequest, "UnsupportedHeader", "One of the HTTP headers specified in the request is not supported.")
		return
	case r.Header.Get("x-ms-version") == "":
		refuse(http.StatusBadRequest, "MissingRequiredHeader", "x-ms-version is required.")
		return
	}
	put := r.Method == http.MethodPut && q.Get("comp") == "page"
	get := r.Method == http.MethodGet && (q.Get("comp") == "" || q.Get("comp") == "pagelist") || r.Method == http.MethodHead && q.Get("comp") == ""
	if !put && !get {
		refuse(http.StatusForbidden, "AuthorizationPermissionMismatch", "This request is not authorized to perform this operation on a managed disk.")
		return
	}
	if put {
		from, to, ok := parseRange(r.Header.Get("x-ms-range"), r.Header.Get("Range"))
		n := to - from
		switch update := r.Header.Get("x-ms-page-write") == "update"; {
		case !ok || from%512 != 0 || to%512 != 0 || n <= 0 || to > d.file:
			refuse(http.StatusRequestedRangeNotSatisfiable, "InvalidPageRange", "The page range specified is invalid.")
			return
		case update && n > maxPut:
			refuse(http.StatusRequestEntityTooLarge, "RequestBodyTooLarge", "The request body is too large and exceeds the maximum permissible limit.")
			return
		case update && r.ContentLength != n:
			refuse(http.StatusBadRequest, "InvalidHeaderValue", "Content-Length does not match the range.")
			return
		case !update && r.Header.Get("x-ms-page-write") != "clear":
			refuse(http.StatusBadRequest, "InvalidHeaderValue", "x-ms-page-write")
			return
		}
		s.mu.Lock()
		s.faults.puts++
		s.faults.bytes += n
		if d.diskState == stateReady {
			d.diskState = stateUploading
		}
		s.mu.Unlock()
	}
	s.forward(w, r)
}

// forward hands the request to Azurite, as it is.
func (s *Sim) forward(w http.ResponseWriter, r *http.Request) {
	req, err := http.NewRequestWithContext(r.Context(), r.Method, s.azurite.URL+r.URL.RequestURI(), r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	req.Header = r.Header.Clone()
	req.ContentLength = r.ContentLength
	res, err := s.azurite.http.Do(req)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer func() { _ = res.Body.Close() }()
	for k, v := range res.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(res.StatusCode)
	_, _ = io.Copy(w, res.Body)
}

func parseRange(values ...string) (from, to int64, ok bool) {
	for _, v := range values {
		v, found := strings.CutPrefix(v, "bytes=")
		if !found {
			continue
		}
		a, b, _ := strings.Cut(v, "-")
		x, err1 := strconv.ParseInt(a, 10, 64)
		y, err2 := strconv.ParseInt(b, 10, 64)
		return x, y + 1, err1 == nil && err2 == nil
	}
	return 0, 0, false
}

// parsePages reads the answer of Get Page Ranges.
func parsePages(b []byte) ([][2]int64, error) {
	var list struct {
		PageRange []struct{ Start, End int64 }
	}
	if err := xml.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("cannot read page ranges: %w", err)
	}
	var out [][2]int64
	for _, p := range list.PageRange {
		out = append(out, [2]int64{p.Start, p.End + 1})
	}
	return out, nil
}

func (s *Sim) diskByContainer(parts []string) *thing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(parts) != 3 || parts[2] != "abcd" {
		return nil
	}
	for _, d := range s.things {
		if d.kind == kindDisk && d.container == parts[1] {
			return d
		}
	}
	return nil
}

// Fault answers a request in the simulator's place.
type Fault func(w http.ResponseWriter, r *http.Request)

// faults are what goes wrong. Its methods lock; the fields belong to the lock
// of the Sim.
type faults struct {
	sim     *Sim
	blobs   []Fault // for the next requests for bytes
	arm     []Fault // for the next requests to the resource manager
	stalled chan struct{}
	fail    map[string]apiError // by kind of operation: the next of it fails
	puts    int
	bytes   int64
}

func (f *faults) blob(r *http.Request) (release chan struct{}, fault Fault) {
	f.sim.mu.Lock()
	defer f.sim.mu.Unlock()
	if len(f.blobs) > 0 && (r.Method == http.MethodPut || r.Method == http.MethodGet) {
		fault, f.blobs = f.blobs[0], f.blobs[1:]
	}
	return f.stalled, fault
}

// FailBytes has the next n requests for a disk's bytes answered by fault, in the
// place of what was to go wrong before.
func (s *Sim) FailBytes(n int, fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.blobs = slices.Repeat([]Fault{fault}, n)
}

// FailCalls has the next n requests to the resource manager answered by fault,
// in the place of what was to go wrong before.
func (s *Sim) FailCalls(n int, fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.arm = slices.Repeat([]Fault{fault}, n)
}

// FailOperation has the next operation of a kind ("vm put", "disk put", "nic
// delete", "disk beginGetAccess", …) fail after it was accepted.
func (s *Sim) FailOperation(kind, code, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.faults.fail == nil {
		s.faults.fail = map[string]apiError{}
	}
	s.faults.fail[kind] = apiError{http.StatusConflict, code, message}
}

// Stall has every transfer of bytes hang until release is called.
func (s *Sim) Stall() (release func()) {
	c := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.stalled = c
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.faults.stalled == c {
			s.faults.stalled = nil
			close(c)
		}
	}
}

// ExpireTokens ends every token that was given out.
func (s *Sim) ExpireTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// ExpireAccess ends every shared access signature, as their time running out
// does; the disks' states stay.
func (s *Sim) ExpireAccess() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.things {
		if d.kind == kindDisk && len(d.policies) > 0 {
			d.policies = nil
			if err := s.azurite.allow(d.container, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// Puts counts the writes of pages that were let through, and their bytes.
func (s *Sim) Puts() (n int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults.puts, s.faults.bytes
}

// Status is a fault that answers with an HTTP status, and Retry-After where it
// is a throttle.
func Status(status int, code string) Fault {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("x-ms-error-code", code)
		w.Header().Set("Content-Type", "application/json")
		if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "1")
			w.Header().Set("retry-after-ms", "20")
		}
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":{"code":%q,"message":"simulated"}}`, code)
	}
}

// Sever is a fault that reads n bytes of the body and breaks the connection.
func Sever(n int64) Fault {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, n)
		panic(http.ErrAbortHandler)
	}
}
