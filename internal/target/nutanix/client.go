package nutanix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"ascend/internal/target"
	"ascend/internal/target/trust"
)

// client speaks to Prism Central. Every call carries the credentials, so that no
// session expires. It is safe for concurrent use.
type client struct {
	cfg  *config
	http *http.Client
	gate chan struct{} // bounds Objects Lite requests to this Prism Central
}

// gates bounds the requests to each Objects Lite by everybody in this process.
var gates struct {
	sync.Mutex
	m map[string]chan struct{}
}

// liteMost is how many requests Objects Lite takes at once.
const liteMost = 8

func newClient(cfg *config) *client {
	gates.Lock()
	defer gates.Unlock()
	g, ok := gates.m[cfg.base.Host]
	if !ok {
		if gates.m == nil {
			gates.m = map[string]chan struct{}{}
		}
		g = make(chan struct{}, liteMost)
		gates.m[cfg.base.Host] = g
	}
	return &client{cfg: cfg, gate: g, http: &http.Client{
		Transport:     cfg.trust.Transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Roots of the namespaces of v4.
const (
	apiClusters   = "/api/clustermgmt/v4.0/config/clusters"
	apiContainers = "/api/clustermgmt/v4.0/config/storage-containers"
	apiSubnets    = "/api/networking/v4.0/config/subnets"
	apiCategories = "/api/prism/v4.0/config/categories"
	apiTasks      = "/api/prism/v4.0/config/tasks"
)

const (
	attempts  = 8        // at one request
	maxAnswer = 64 << 20 // bytes read of one
)

// call is one request to the REST API.
type call struct {
	method, path string
	query        url.Values
	body         any    // sent as JSON unless nil
	request      string // NTNX-Request-Id: makes repeating harmless
	match        string // If-Match
	// once: sent once, because repeating would do it twice.
	once bool
}

// reply is the answer to a call.
type reply struct {
	header http.Header
	body   []byte
}

// do makes a call and repeats it while the platform is busy or unreachable.
func (c *client) do(ctx context.Context, q call) (*reply, error) {
	var body []byte
	if q.body != nil {
		var err error
		if body, err = json.Marshal(q.body); err != nil {
			return nil, err
		}
	}
	var out *reply
	err := c.again(ctx, q.once, func() (err error) {
		out, err = c.send(ctx, q, body)
		return err
	})
	return out, err
}

// again does f until it works, fails for good, or has failed too often.
func (c *client) again(ctx context.Context, once bool, f func() error) error {
	pause := c.cfg.pause
	for n := 1; ; n++ {
		err := f()
		if ctx.Err() != nil && err != nil {
			return ctx.Err()
		}
		var cert *trust.Error
		if err == nil || once || n == attempts || !busy(err) || errors.As(err, &cert) {
			return err
		}
		if err := sleep(ctx, max(pause, afterOf(err))); err != nil {
			return err
		}
		pause = min(2*pause, c.cfg.maxPause)
	}
}

// busy tells whether err is one that goes away: no answer, or one that says so.
func busy(err error) bool {
	switch s := statusOf(err); s {
	case http.StatusTooManyRequests, http.StatusRequestTimeout:
		return true
	default:
		return s == 0 || s >= 500 && s != http.StatusNotImplemented
	}
}

// waitError is an answer that says how long to wait.
type waitError struct {
	error
	after time.Duration
}

func (e *waitError) Unwrap() error { return e.error }

func afterOf(err error) time.Duration {
	var w *waitError
	if errors.As(err, &w) {
		return w.after
	}
	return 0
}

// withWait adds what Retry-After says, at most a minute.
func withWait(err error, h http.Header) error {
	if n, perr := strconv.Atoi(h.Get("Retry-After")); perr == nil && n > 0 {
		return &waitError{err, min(time.Duration(n)*time.Second, time.Minute)}
	}
	return err
}

func (c *client) send(ctx context.Context, q call, body []byte) (*reply, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.call)
	defer cancel()
	u := *c.cfg.base
	u.Path = q.path
	u.RawQuery = q.query.Encode()
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, target.Permanent("an identifier cannot be part of an address", "check the names that are set")
	}
	req.SetBasicAuth(c.cfg.user, c.cfg.password.Reveal())
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "ascend")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if q.request != "" {
		req.Header.Set("NTNX-Request-Id", q.request)
	}
	if q.match != "" {
		req.Header.Set("If-Match", q.match)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	if res.StatusCode >= 300 {
		return nil, withWait(refusal(q, res.StatusCode, b), res.Header)
	}
	return &reply{header: res.Header, body: b}, nil
}

// refusal reads an error's body: v4's ErrorResponse, with messages or with those
// of a schema that was not kept, or v3's message_list.
func refusal(q call, status int, b []byte) error {
	type message struct {
		Message string `json:"message"`
		Code    string `json:"code"`
		Reason  string `json:"reason"`
	}
	e := &apiError{what: q.method + " " + q.path, status: status}
	var v struct {
		Data struct {
			Error json.RawMessage `json:"error"`
		} `json:"data"`
		List []message `json:"message_list"`
	}
	if json.Unmarshal(b, &v) != nil {
		return e
	}
	list := v.List
	var schema struct {
		Error    string    `json:"error"`
		Messages []message `json:"validationErrorMessages"`
	}
	if json.Unmarshal(v.Data.Error, &list) != nil && json.Unmarshal(v.Data.Error, &schema) == nil {
		list = schema.Messages
		if len(list) == 0 {
			e.text = schema.Error
		}
	}
	var all []string
	for _, m := range list {
		all = append(all, m.Message)
		if e.code == "" {
			e.code = m.Code + m.Reason
		}
	}
	if len(all) > 0 {
		e.text = strings.Join(all, "; ")
	}
	return e
}

// get reads one entity into out and returns its ETag.
func (c *client) get(ctx context.Context, path string, out any) (etag string, err error) {
	r, err := c.do(ctx, call{method: http.MethodGet, path: path})
	if err != nil {
		return "", err
	}
	v := struct {
		Data any `json:"data"`
	}{Data: out}
	if err := json.Unmarshal(r.body, &v); err != nil {
		return "", fmt.Errorf("cannot read the answer of %s: %w", path, err)
	}
	return r.header.Get("ETag"), nil
}

// quoted is a text in a filter (OData: quotes are doubled).
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// list reads all pages of a list; filter may be empty.
func list[T any](ctx context.Context, c *client, path, filter string) ([]T, error) {
	const size, most = 100, 10_000
	var all []T
	for page := range most {
		q := url.Values{"$page": {strconv.Itoa(page)}, "$limit": {strconv.Itoa(size)}}
		if filter != "" {
			q.Set("$filter", filter)
		}
		r, err := c.do(ctx, call{method: http.MethodGet, path: path, query: q})
		if err != nil {
			return nil, err
		}
		var v struct {
			Data []T `json:"data"`
			Meta struct {
				Total int `json:"totalAvailableResults"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(r.body, &v); err != nil {
			return nil, fmt.Errorf("cannot read the answer of %s: %w", path, err)
		}
		all = append(all, v.Data...)
		if len(v.Data) == 0 || v.Meta.Total > 0 && len(all) >= v.Meta.Total || v.Meta.Total == 0 && len(v.Data) < size {
			return all, nil
		}
	}
	return nil, errors.New("the list at " + path + " does not end")
}

// start makes a change and returns the task that carries it out.
func (c *client) start(ctx context.Context, q call) (task string, err error) {
	r, err := c.do(ctx, q)
	if err != nil {
		return "", err
	}
	var v struct {
		Data struct {
			ID string `json:"extId"`
		} `json:"data"`
	}
	if err := json.Unmarshal(r.body, &v); err != nil || v.Data.ID == "" {
		return "", fmt.Errorf("the answer of %s %s names no task", q.method, q.path)
	}
	return v.Data.ID, nil
}

// taskState is what a look at a task tells.
type taskState struct {
	status   string // QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELED, ABORTED, …
	progress int    // percent
	entity   string
	text     string // of its errors
}

// follow looks at a task until it has ended.
func (c *client) follow(ctx context.Context, id string, look func() (taskState, error)) (entity string, err error) {
	pause := c.cfg.pause / 8
	last, since := "", time.Now()
	for {
		t, err := look()
		if err != nil {
			return "", err
		}
		switch t.status {
		case "SUCCEEDED":
			return t.entity, nil
		case "FAILED", "CANCELED", "ABORTED":
			return "", &taskError{id: id, status: t.status, text: t.text}
		}
		if now := fmt.Sprint(t.status, t.progress); now != last {
			last, since = now, time.Now()
		} else if time.Since(since) >= c.cfg.idle {
			return "", &target.Problem{
				Msg:  fmt.Sprintf("the task %s is %s at %d %% and has not moved for %s", id, strings.ToLower(t.status), t.progress, c.cfg.idle.Round(time.Second)),
				Hint: "look at it in Prism Central; continue the job when it has ended, or cancel it there and undo the job",
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return "", err
		}
		pause = min(pause*3/2, c.cfg.maxPause)
	}
}

func (v *v4) wait(ctx context.Context, id string) (entity string, err error) {
	return v.c.follow(ctx, id, func() (s taskState, err error) {
		var t struct {
			Status   string `json:"status"`
			Progress int    `json:"progressPercentage"`
			Entities []struct {
				ID string `json:"extId"`
			} `json:"entitiesAffected"`
			Errors []struct {
				Message string `json:"message"`
			} `json:"errorMessages"`
		}
		if _, err := v.c.get(ctx, apiTasks+"/"+id, &t); err != nil {
			return s, err
		}
		s.status, s.progress = t.Status, t.Progress
		if len(t.Entities) > 0 {
			s.entity = t.Entities[0].ID
		}
		for _, m := range t.Errors {
			s.text = strings.TrimPrefix(s.text+"; "+m.Message, "; ")
		}
		return s, nil
	})
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
