package cloudstack

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // CloudStack's API signs with HMAC-SHA1
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/trust"
)

// params are the parameters of one API call.
type params map[string]string

// client calls the API. Every call is signed anew and valid for some minutes, so
// that nothing expires; calls go in the body, so that signatures stand in no log.
// Its methods may be called concurrently.
type client struct {
	cfg  *config
	http *http.Client
}

func newClient(cfg *config) *client {
	return &client{cfg: cfg, http: &http.Client{
		Transport:     cfg.trust.Transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// validity of a signed call; CloudStack takes at most 15 minutes by default.
const validity = 10 * time.Minute

// maxAnswer bounds what is read of an answer: lists come by pages.
const maxAnswer = 64 << 20

// encode is java.net.URLEncoder's form of a value, with %20 for a space: what
// both ends sign.
func encode(v string) string {
	var b strings.Builder
	for _, c := range []byte(v) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '*', c == '_':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// sign adds who calls, until when that is valid, and the signature (CloudStack
// developer guide, "How to sign an API call with Java", signature version 3).
func (c *client) sign(command string, p params) url.Values {
	q := url.Values{
		"command": {command}, "response": {"json"}, "apiKey": {c.cfg.apiKey}, "signatureVersion": {"3"},
		"expires": {time.Now().Add(validity).UTC().Format("2006-01-02T15:04:05-0700")},
	}
	for k, v := range p {
		if v != "" {
			q.Set(k, v)
		}
	}
	q.Set("signature", signature(q, c.cfg.secretKey))
	return q
}

// signature signs a call's parameters: sorted by name, and only then put into
// lower case, as ApiServer.verifyRequest does it.
func signature(q url.Values, key secret.String) string {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(q)) {
		pairs = append(pairs, strings.ToLower(k+"="+encode(q.Get(k))))
	}
	m := hmac.New(sha1.New, []byte(key.Reveal()))
	m.Write([]byte(strings.Join(pairs, "&")))
	return base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// attempts at a call that may be repeated.
const attempts = 7

// call makes one call and reads what is inside the answer's one key into out,
// which may be nil. Calls that only ask are repeated when they fail for a while;
// others only when the server said that it did nothing.
func (c *client) call(ctx context.Context, command string, p params, out any) error {
	asks := strings.HasPrefix(command, "list") || strings.HasPrefix(command, "query")
	pause := c.cfg.pause / 4
	for n := 1; ; n++ {
		err := c.once(ctx, command, p, out)
		if err == nil || ctx.Err() != nil {
			if ctx.Err() != nil && err != nil {
				err = ctx.Err()
			}
			return err
		}
		e := refusal(err)
		again := e != nil && e.status == codeTooMany || asks && (e == nil || e.status >= 500 && e.status < 530)
		var cert *trust.Error
		if n == attempts || !again || errors.As(err, &cert) {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(pause*2, c.cfg.maxPause)
	}
}

func (c *client) once(ctx context.Context, command string, p params, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.call)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.cfg.api.String(), strings.NewReader(c.sign(command, p).Encode()))
	if err != nil {
		return errors.New("the API's address is not valid")
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("User-Agent", "ascend")
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("the answer to %s broke off: %w", command, err)
	}
	return parseAnswer(command, res.StatusCode, b, out)
}

// parseAnswer reads {"…response": {…}}; it is an error with errorcode in it.
func parseAnswer(command string, status int, b []byte, out any) error {
	var outer map[string]json.RawMessage
	if err := json.Unmarshal(b, &outer); err != nil || len(outer) == 0 || len(b) > maxAnswer {
		if status == http.StatusOK {
			return target.Permanent("the server does not answer as CloudStack's API", "check url: it ends in /client/api")
		}
		return &apiError{command: command, status: status}
	}
	var inner json.RawMessage
	for _, v := range outer { // there is one; a cloud with warnings adds none beside it
		inner = v
	}
	var e struct {
		Code int    `json:"errorcode"`
		Text string `json:"errortext"`
	}
	_ = json.Unmarshal(inner, &e) // what is no object has no error in it
	if status != http.StatusOK || e.Code != 0 {
		if e.Code == 0 {
			e.Code = status
		}
		return &apiError{command: command, status: e.Code, text: e.Text}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(inner, out); err != nil {
		return fmt.Errorf("cannot read the answer to %s: %w", command, err)
	}
	return nil
}

// list asks for all pages of a list command; key is the rows' name.
func list[T any](ctx context.Context, c *client, command, key string, p params) ([]T, error) {
	const size = 500
	var all []T
	for page := 1; ; page++ {
		q := params{"page": strconv.Itoa(page), "pagesize": strconv.Itoa(size)}
		for k, v := range p {
			q[k] = v
		}
		var out map[string]json.RawMessage
		if err := c.call(ctx, command, q, &out); err != nil {
			return nil, err
		}
		var rows []T
		if raw, ok := out[key]; ok {
			if err := json.Unmarshal(raw, &rows); err != nil {
				return nil, fmt.Errorf("cannot read the answer to %s: %w", command, err)
			}
		}
		all = append(all, rows...)
		if len(rows) < size || page > 1000 {
			return all, nil
		}
	}
}

// start begins a long command and returns its job and, where the answer tells
// it, the identifier of what is being made.
func (c *client) start(ctx context.Context, command string, p params) (job, id string, err error) {
	var out struct {
		Job string `json:"jobid"`
		ID  string `json:"id"`
	}
	if err := c.call(ctx, command, p, &out); err != nil {
		return "", "", err
	}
	if out.Job == "" {
		return "", "", fmt.Errorf("the answer to %s names no job", command)
	}
	return out.Job, out.ID, nil
}

// await waits for a job and reads its result into out, which may be nil.
func (c *client) await(ctx context.Context, command, job string, out any) error {
	pause := c.cfg.pause / 8
	for {
		var j struct {
			Status int             `json:"jobstatus"`
			Result json.RawMessage `json:"jobresult"`
		}
		if err := c.call(ctx, "queryAsyncJobResult", params{"jobid": job}, &j); err != nil {
			return err
		}
		switch j.Status {
		case 1:
			if out == nil || len(j.Result) == 0 {
				return nil
			}
			if err := json.Unmarshal(j.Result, out); err != nil {
				return fmt.Errorf("cannot read the result of %s: %w", command, err)
			}
			return nil
		case 2:
			e := &apiError{command: command}
			var r struct {
				Code int    `json:"errorcode"`
				Text string `json:"errortext"`
			}
			if json.Unmarshal(j.Result, &r) != nil {
				r.Text = strings.Trim(string(j.Result), `"`)
			}
			e.status, e.text = r.Code, r.Text
			return e
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(pause*3/2, c.cfg.maxPause)
	}
}

// job runs a long command to its end.
func (c *client) job(ctx context.Context, command string, p params, out any) error {
	job, _, err := c.start(ctx, command, p)
	if err != nil {
		return err
	}
	return c.await(ctx, command, job, out)
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
