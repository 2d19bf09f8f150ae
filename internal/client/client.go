// Package client speaks to a server's API. Its types are the server's own, and a
// test holds every call against the published OpenAPI document.
package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"ascend/internal/secret"
	"ascend/internal/server/api"
)

// Config says where a server is and who asks.
type Config struct {
	URL   string
	Token secret.String
	// CAFile holds certificates that are trusted besides the system's.
	CAFile string
	// Fingerprint is the SHA-256 of the only certificate that is believed, as the
	// server prints it; for certificates that it made itself.
	Fingerprint string
}

// Client asks a server. Safe for concurrent use.
type Client struct {
	base  string
	token secret.String
	http  *http.Client
}

// Error is what the server said.
type Error struct{ api.Problem }

func (e *Error) Error() string { return e.Detail }

// ErrUnreachable: the server did not answer.
var ErrUnreachable = errors.New("cannot reach the server")

// New makes a client. It asks nobody yet.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("%q is not the URL of a server, as https://restore.example.org:8443", c.URL)
	}
	if h := u.Hostname(); u.Scheme == "http" && !c.Token.Empty() && h != "localhost" && h != "127.0.0.1" && h != "::1" {
		return nil, fmt.Errorf("%s would show the token to the network: use https", c.URL)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read certificates: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot read certificates: %s holds none", c.CAFile)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	if c.Fingerprint != "" {
		want := strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(c.Fingerprint))
		t.TLSClientConfig.InsecureSkipVerify = true //nolint:gosec // the one certificate is named
		t.TLSClientConfig.VerifyConnection = func(s tls.ConnectionState) error {
			sum := sha256.Sum256(s.PeerCertificates[0].Raw)
			if got := hex.EncodeToString(sum[:]); got != want {
				return fmt.Errorf("the server's certificate has the fingerprint %s", strings.ToUpper(got))
			}
			return nil
		}
	}
	return &Client{base: strings.TrimRight(c.URL, "/"), token: c.Token, http: &http.Client{Transport: t}}, nil
}

// Call is one operation of the API.
type Call struct{ Method, Path string }

// The calls, with {id} for what varies.
var (
	Version         = Call{"GET", "/version"}
	Me              = Call{"GET", "/me"}
	Platforms       = Call{"GET", "/platforms"}
	ListBackups     = Call{"GET", "/backups"}
	GetBackup       = Call{"GET", "/backups/{id}"}
	ListRepos       = Call{"GET", "/repositories"}
	AddRepo         = Call{"POST", "/repositories"}
	ScanRepo        = Call{"POST", "/repositories/{id}/scan"}
	ListTargets     = Call{"GET", "/targets"}
	AddTarget       = Call{"POST", "/targets"}
	DeleteTarget    = Call{"DELETE", "/targets/{id}"}
	ValidateTarget  = Call{"POST", "/targets/{id}/validate"}
	TargetInventory = Call{"GET", "/targets/{id}/inventory"}
	MakePlan        = Call{"POST", "/plans"}
	ImportPlan      = Call{"POST", "/plans/import"}
	ListJobs        = Call{"GET", "/jobs"}
	SubmitJob       = Call{"POST", "/jobs"}
	GetJob          = Call{"GET", "/jobs/{id}"}
	JobLog          = Call{"GET", "/jobs/{id}/log"}
	JobReceipt      = Call{"GET", "/jobs/{id}/receipt"}
	RetryJob        = Call{"POST", "/jobs/{id}/retry"}
	CancelJob       = Call{"POST", "/jobs/{id}/cancel"}
	UndoJob         = Call{"POST", "/jobs/{id}/undo"}
	StreamJob       = Call{"GET", "/jobs/{id}/stream"}
	StreamJobs      = Call{"GET", "/events"}
	ListWorkers     = Call{"GET", "/workers"}
	DrainWorker     = Call{"POST", "/workers/{id}/drain"}
	MakeToken       = Call{"POST", "/tokens"}
	ListRuns        = Call{"GET", "/runbook-runs"}
	NewRun          = Call{"POST", "/runbook-runs"}
	GetRun          = Call{"GET", "/runbook-runs/{id}"}
	ApplyRun        = Call{"POST", "/runbook-runs/{id}/apply"}
	RetryRun        = Call{"POST", "/runbook-runs/{id}/retry"}
	CancelRun       = Call{"POST", "/runbook-runs/{id}/cancel"}
	RunReport       = Call{"GET", "/runbook-runs/{id}/report"}
	StreamRun       = Call{"GET", "/runbook-runs/{id}/stream"}
)

// Calls lists them, for the test.
func Calls() []Call {
	return []Call{ListWorkers, DrainWorker, Version, Me, Platforms, ListBackups, GetBackup, ListRepos, AddRepo, ScanRepo, ListTargets, AddTarget, DeleteTarget, ValidateTarget, TargetInventory,
		MakePlan, ImportPlan, ListJobs, SubmitJob, GetJob, JobLog, JobReceipt, RetryJob, CancelJob, UndoJob, StreamJob, StreamJobs, MakeToken,
		ListRuns, NewRun, GetRun, ApplyRun, RetryRun, CancelRun, RunReport, StreamRun}
}

// Request is what is asked with a call.
type Request struct {
	ID    string
	Query url.Values
	Body  any    // sent as JSON
	Key   string // Idempotency-Key: the request may be repeated
}

func (c *Client) request(ctx context.Context, call Call, r Request) (*http.Request, error) {
	path := c.base + api.Prefix + strings.Replace(call.Path, "{id}", url.PathEscape(r.ID), 1)
	if len(r.Query) > 0 {
		path += "?" + r.Query.Encode()
	}
	var body io.Reader
	if r.Body != nil {
		b, err := json.Marshal(r.Body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, call.Method, path, body)
	if err != nil {
		return nil, err
	}
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.Key != "" {
		req.Header.Set("Idempotency-Key", r.Key)
	}
	if !c.token.Empty() {
		req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	return req, nil
}

func (c *Client) send(ctx context.Context, call Call, r Request) (*http.Response, error) {
	req, err := c.request(ctx, call, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w %s: %w", ErrUnreachable, c.base, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	e := &Error{}
	if json.Unmarshal(b, &e.Problem) != nil || e.Code == "" {
		e.Problem = api.Problem{Status: resp.StatusCode, Code: "http", Detail: "the server answered " + resp.Status, Hint: "is this the URL of an ascend server?"}
	}
	for _, d := range e.Errors {
		if d.Message != e.Detail {
			e.Detail += "; " + d.Location + ": " + d.Message
		}
	}
	return nil, e
}

// Bytes asks and returns the answer as it is.
func (c *Client) Bytes(ctx context.Context, call Call, r Request) ([]byte, error) {
	resp, err := c.send(ctx, call, r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	return io.ReadAll(io.LimitReader(resp.Body, 64<<20))
}

// Do asks and decodes the answer.
func Do[T any](ctx context.Context, c *Client, call Call, r Request) (T, error) {
	var out T
	b, err := c.Bytes(ctx, call, r)
	if err == nil && len(b) > 0 {
		if err = json.Unmarshal(b, &out); err != nil {
			err = fmt.Errorf("cannot read the server's answer: %w", err)
		}
	}
	return out, err
}

// All asks for a list, page by page, up to max things; 0: all.
func All[T any](ctx context.Context, c *Client, call Call, r Request, limit int) ([]T, error) {
	if r.Query == nil {
		r.Query = url.Values{}
	}
	r.Query.Set("limit", "500")
	if limit > 0 && limit < 500 {
		r.Query.Set("limit", strconv.Itoa(limit))
	}
	out := []T{}
	for {
		page, err := Do[api.Page[T]](ctx, c, call, r)
		if err != nil {
			return nil, err
		}
		out = append(out, page.Items...)
		if page.Next == "" || limit > 0 && len(out) >= limit {
			return out, nil
		}
		r.Query.Set("cursor", page.Next)
	}
}

// Event is one of a stream's.
type Event struct {
	ID   string
	Name string
	Data []byte
}

// ErrEnd, returned by the function given to Stream, ends it without an error.
var ErrEnd = errors.New("end of stream")

// Stream calls f for each event, and connects again after a broken connection
// with what it had last. It returns when f or ctx says so, or when the server
// refuses. broken, when not nil, is told why a connection ended.
func (c *Client) Stream(ctx context.Context, call Call, r Request, broken func(error), f func(Event) error) error {
	last := ""
	wait := 500 * time.Millisecond
	for {
		err := c.stream(ctx, call, r, &last, func(e Event) error {
			wait = 500 * time.Millisecond
			return f(e)
		})
		var said *Error
		var own *stopped
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &own):
			if errors.Is(own.error, ErrEnd) {
				return nil
			}
			return own.error
		case errors.As(err, &said) && said.Status < 500 && said.Status != http.StatusTooManyRequests:
			return err
		}
		if broken != nil {
			broken(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			wait = min(2*wait, 10*time.Second)
		}
	}
}

// stopped is an error of the receiver.
type stopped struct{ error }

func (c *Client) stream(ctx context.Context, call Call, r Request, last *string, f func(Event) error) error {
	// The server says something every 15 s; silence for longer is a dead connection.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	alive := time.AfterFunc(time.Minute, cancel)
	defer alive.Stop()
	req, err := c.request(ctx, call, r)
	if err != nil {
		return &stopped{err}
	}
	if *last != "" {
		req.Header.Set("Last-Event-ID", *last)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w %s", ErrUnreachable, c.base)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		e := &Error{}
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if json.Unmarshal(b, &e.Problem) != nil || e.Code == "" {
			e.Problem = api.Problem{Status: resp.StatusCode, Code: "http", Detail: "the server answered " + resp.Status}
		}
		return e
	}
	s := bufio.NewScanner(resp.Body)
	s.Buffer(make([]byte, 64<<10), 16<<20)
	var e Event
	for s.Scan() {
		alive.Reset(time.Minute)
		field, value, _ := strings.Cut(s.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "":
			if s.Text() == "" && len(e.Data) > 0 {
				if e.ID != "" {
					*last = e.ID
				}
				if err := f(e); err != nil {
					return &stopped{err}
				}
				e = Event{}
			}
		case "id":
			e.ID = value
		case "event":
			e.Name = value
		case "data":
			e.Data = append(e.Data, value...)
		}
	}
	if err := s.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}
