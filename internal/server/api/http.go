package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"ascend/internal/server/auth"
	"ascend/internal/server/records"
)

type addressKey struct{}

// addressOf is where a request came from.
func addressOf(ctx context.Context) string {
	s, _ := ctx.Value(addressKey{}).(string)
	return s
}

// cookieName is the session cookie's; under TLS its prefix has the browser hold it
// to this host (RFC 6265bis, 4.1.3.2).
func cookieName(secure bool) string {
	if secure {
		return "__Host-ascend"
	}
	return "ascend"
}

func (a *API) cookie(name, value string, life time.Duration, sameSite http.SameSite) http.Cookie {
	if a.Secure {
		name = "__Host-" + name
	}
	c := http.Cookie{Name: name, Value: value, Path: "/", HttpOnly: true, Secure: a.Secure, SameSite: sameSite, MaxAge: int(life.Seconds())}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

// identify finds out who asks.
func (a *API) identify(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), addressKey{}, hostOf(r.RemoteAddr))
		p, err := a.who(ctx, r)
		if err != nil {
			var problem *Problem
			if errors.Is(err, auth.ErrToken) {
				w.Header().Set("WWW-Authenticate", `Bearer realm="ascend", error="invalid_token"`)
			}
			errors.As(a.explain(ctx, err), &problem)
			writeProblem(w, problem)
			return
		}
		if p != nil && p.Session != "" && !safe(r.Method) {
			if origin.Check(r) != nil || r.Header.Get("X-CSRF-Token") != p.CSRF {
				writeProblem(w, newProblem(http.StatusForbidden, "csrf", "the request does not come from this server's page", "send X-CSRF-Token as "+Prefix+"/me tells it"))
				return
			}
		}
		if p != nil {
			ctx = auth.With(ctx, p)
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// who reads a token or a cookie. A token that is not valid is an error; a cookie
// that is not valid is nobody, so that signing in again works.
func (a *API) who(ctx context.Context, r *http.Request) (*auth.Principal, error) {
	if h := r.Header.Get("Authorization"); h != "" {
		scheme, text, _ := strings.Cut(h, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return nil, auth.ErrToken
		}
		return a.Keeper.ByToken(ctx, strings.TrimSpace(text))
	}
	c, err := r.Cookie(cookieName(a.Secure))
	if err != nil {
		return nil, nil //nolint:nilerr // no cookie is nobody
	}
	p, err := a.Keeper.BySession(ctx, c.Value)
	if errors.Is(err, auth.ErrToken) {
		return nil, nil
	}
	return p, err
}

func safe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

func hostOf(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}

// held keeps an answer back until it is whole.
type held struct {
	http.ResponseWriter
	status  int
	body    bytes.Buffer
	through bool // it is a stream, or too long to hold
}

func (h *held) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
	if ct := h.Header().Get("Content-Type"); !h.through && (strings.HasPrefix(ct, "text/event-stream") || h.Header().Get("X-Accel-Buffering") == "no" || status >= 300) {
		h.through = true
		h.ResponseWriter.WriteHeader(status)
	}
}

const maxHeld = 16 << 20

func (h *held) Write(p []byte) (int, error) {
	if h.status == 0 {
		h.WriteHeader(http.StatusOK)
	}
	if !h.through && h.body.Len()+len(p) <= maxHeld {
		return h.body.Write(p)
	}
	if !h.through {
		h.through = true
		h.ResponseWriter.WriteHeader(h.status)
		if _, err := h.ResponseWriter.Write(h.body.Bytes()); err != nil {
			return 0, err
		}
	}
	return h.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (h *held) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (h *held) Flush() {
	if h.through {
		_ = http.NewResponseController(h.ResponseWriter).Flush()
	}
}

// etags gives every answer to GET an entity tag, a hash where the handler has set
// none, and answers 304 to who has it.
func etags(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			next.ServeHTTP(w, r)
			return
		}
		h := &held{ResponseWriter: w}
		next.ServeHTTP(h, r)
		if h.through {
			return
		}
		if h.status == 0 {
			h.status = http.StatusOK
		}
		w.Header().Set("Cache-Control", "private, no-cache")
		if w.Header().Get("ETag") == "" && h.body.Len() > 0 {
			sum := sha256.Sum256(h.body.Bytes())
			w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:12])+`"`)
		}
		if tag := w.Header().Get("ETag"); tag != "" && matches(r.Header.Get("If-None-Match"), tag) {
			w.Header().Del("Content-Type")
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(h.body.Len()))
		w.WriteHeader(h.status)
		_, _ = w.Write(h.body.Bytes())
	})
}

// matches tells whether a list of entity tags holds one (RFC 9110, 13.1.2: by the
// weak comparison).
func matches(list, tag string) bool {
	for t := range strings.SplitSeq(list, ",") {
		if t = strings.TrimSpace(t); t == "*" || strings.TrimPrefix(t, "W/") == tag {
			return true
		}
	}
	return false
}

// tagOf is the entity tag of a revision.
func tagOf(rev int64) string { return `"` + strconv.FormatInt(rev, 10) + `"` }

// IfMatch is the header of a change that must not undo another's.
type IfMatch struct {
	IfMatch string `header:"If-Match" maxLength:"200" doc:"the ETag that was read; the change is refused with 412 when it is another now"`
}

// check refuses a change of what is not as it was read.
func (m IfMatch) check(rev int64) error {
	if m.IfMatch == "" || matches(m.IfMatch, tagOf(rev)) {
		return nil
	}
	return newProblem(http.StatusPreconditionFailed, "changed", "it has changed since it was read", "read it again and repeat the change")
}

// replay is the answer to a request, for when it is repeated.
type replay struct {
	Body   string `json:"body"` // hash of the request's
	Done   bool   `json:"done"`
	Status int    `json:"status,omitempty"`
	Type   string `json:"type,omitempty"`
	Header http.Header
	Sealed []byte `json:"sealed,omitempty"` // the answer: it may hold a new token
}

const (
	replayLife = 24 * time.Hour
	maxReplay  = 4 << 20
)

// idempotent answers a POST that is repeated with the same Idempotency-Key as the
// first time, without doing it again. Answers that say try again are not kept.
func (a *API) idempotent(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Idempotency-Key")
		p := auth.From(r.Context())
		if key == "" || r.Method != http.MethodPost || p == nil {
			next.ServeHTTP(w, r)
			return
		}
		if len(key) > 255 {
			writeProblem(w, newProblem(http.StatusBadRequest, "bad-request", "the Idempotency-Key is longer than 255 bytes", ""))
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxReplay))
		if err != nil {
			writeProblem(w, newProblem(http.StatusRequestEntityTooLarge, "too-large", "the request is too large", ""))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		sum := sha256.Sum256([]byte(p.UserID + "\x00" + p.Token + "\x00" + r.URL.Path + "\x00" + key))
		d := records.Doc[replay]{Record: records.Record{ID: hex.EncodeToString(sum[:]), Expires: time.Now().UTC().Add(replayLife)}}
		hash := sha256.Sum256(append([]byte(r.URL.RawQuery+"\x00"), body...))
		d.Value.Body = hex.EncodeToString(hash[:])
		if err := a.replays.Put(r.Context(), &d); err != nil {
			a.repeat(w, r, d, err)
			return
		}
		a.first(w, r, d, next)
	})
}

func (a *API) first(w http.ResponseWriter, r *http.Request, d records.Doc[replay], next http.Handler) {
	ctx := context.WithoutCancel(r.Context())
	rec := &recorder{ResponseWriter: w}
	keep := false
	defer func() {
		if !keep {
			if err := a.replays.Delete(ctx, d.ID, records.AnyRev); err != nil {
				a.Log.WarnContext(ctx, "cannot forget a request", "error", err)
			}
		}
	}()
	next.ServeHTTP(rec, r)
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	if rec.status >= 500 || rec.status == http.StatusTooManyRequests || rec.status == http.StatusRequestTimeout || rec.long {
		return
	}
	b, err := a.Vault.Seal("replay "+d.ID, rec.body.Bytes())
	if err == nil {
		d.Value.Done, d.Value.Status, d.Value.Sealed = true, rec.status, b
		d.Value.Header = http.Header{}
		for _, k := range []string{"Content-Type", "Etag", "Location"} {
			if v := w.Header().Values(k); len(v) > 0 {
				d.Value.Header[k] = slices.Clone(v)
			}
		}
		err = a.replays.Put(ctx, &d)
	}
	if err != nil {
		a.Log.WarnContext(ctx, "cannot remember a request", "error", err)
		return
	}
	keep = true
}

func (a *API) repeat(w http.ResponseWriter, r *http.Request, d records.Doc[replay], err error) {
	var problem *Problem
	if !errors.Is(err, records.ErrConflict) {
		errors.As(a.explain(r.Context(), err), &problem)
		writeProblem(w, problem)
		return
	}
	old, err := a.replays.Get(r.Context(), d.ID)
	var body []byte
	if err == nil && old.Value.Done {
		body, _, err = a.Vault.Open("replay "+d.ID, old.Value.Sealed)
	}
	switch {
	case errors.Is(err, records.ErrNotFound) || err == nil && !old.Value.Done && old.Value.Body == d.Value.Body:
		p := newProblem(http.StatusConflict, "in-progress", "the same request is being carried out", "try again in a moment")
		p.retryAfter = time.Second
		writeProblem(w, p)
	case err != nil:
		errors.As(a.explain(r.Context(), err), &problem)
		writeProblem(w, problem)
	case old.Value.Body != d.Value.Body:
		writeProblem(w, newProblem(http.StatusUnprocessableEntity, "key-reused", "the Idempotency-Key was used for another request", "use a new key for each request"))
	default:
		for k, v := range old.Value.Header {
			w.Header()[k] = v
		}
		w.Header().Set("Idempotent-Replayed", "true")
		w.WriteHeader(old.Value.Status)
		_, _ = w.Write(body)
	}
}

// recorder passes an answer on and keeps a copy.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
	long   bool
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	if r.body.Len()+len(p) > maxReplay {
		r.long = true
	} else {
		r.body.Write(p)
	}
	return r.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// mustJSON is for values that always can.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
