package notify

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"ascend/internal/secret"
	"ascend/internal/server/records"
	"ascend/internal/server/storage"
	"ascend/internal/store"
	"ascend/internal/vault"
)

func TestGuard(t *testing.T) {
	var g Guard
	for _, bad := range []string{"127.0.0.1", "::1", "10.0.0.1", "172.16.3.4", "192.168.0.1", "169.254.169.254", "fe80::1", "fd00::1", "0.0.0.0", "::", "224.0.0.1", "100.64.0.1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "255.255.255.255", "198.18.0.1"} {
		if g.Check(netip.MustParseAddr(bad)) == nil {
			t.Errorf("%s is reached", bad)
		}
	}
	for _, good := range []string{"93.184.216.34", "2606:2800:220:1::1"} {
		if err := g.Check(netip.MustParseAddr(good)); err != nil {
			t.Error(err)
		}
	}
	allow, err := ParseAllow([]string{"10.1.0.0/16", "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	g.Allow = allow
	if g.Check(netip.MustParseAddr("10.1.2.3")) != nil || g.Check(netip.MustParseAddr("10.2.0.1")) == nil || g.Check(netip.MustParseAddr("::ffff:127.0.0.1")) != nil {
		t.Error("the allowed networks are others")
	}
	if _, err := ParseAllow([]string{"x"}); err == nil {
		t.Error("x is a network")
	}
}

type made struct {
	q     *Queue
	url   string
	mu    sync.Mutex
	code  []int // to answer, then 200
	got   []*http.Request
	body  [][]byte
	clock time.Time
}

func (m *made) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clock
}

func prepare(t *testing.T) *made {
	m := &made{clock: time.Now()}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.got, m.body = append(m.got, r), append(m.body, b)
		code := 200
		if len(m.code) > 0 {
			code, m.code = m.code[0], m.code[1:]
		}
		if code == 302 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(code)
	}))
	t.Cleanup(s.Close)
	m.url = s.URL + "/hook-secret-path"
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "n.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	key, _ := vault.Generate()
	v, err := vault.New(key)
	if err != nil {
		t.Fatal(err)
	}
	m.q = NewQueue(storage.New(db), v, func(context.Context) (Guard, error) {
		return Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, nil
	}, slog.New(slog.DiscardHandler))
	m.q.now = m.now
	return m
}

func (m *made) channel(t *testing.T, events ...string) {
	t.Helper()
	c := Channel{Kind: Webhook, Events: events, Secrets: Secrets{URL: secret.New(m.url), Key: secret.New("0123456789abcdef")}}
	s, err := m.q.Seal("hook", c)
	if err == nil {
		err = m.q.Channels.Put(t.Context(), &records.Doc[Stored]{Record: records.Record{ID: "hook"}, Value: s})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (m *made) round(t *testing.T, later time.Duration) Delivery {
	t.Helper()
	m.mu.Lock()
	m.clock = m.clock.Add(later)
	m.mu.Unlock()
	if err := m.q.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := m.q.Deliveries.All(t.Context(), "")
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v %v", list, err)
	}
	return list[0].Value
}

// TestWebhook: a message is signed, sent again with backoff until it is taken, and
// not again after; a message told twice is sent once.
func TestWebhook(t *testing.T) {
	m := prepare(t)
	m.channel(t, Failed)
	m.code = []int{503, 429}
	msg := Message{ID: "j1.2.failed", Event: Failed, Time: time.Now(), Job: "j1", VM: "wéb\r\nBcc: x", Text: "It failed."}
	for range 2 {
		if err := m.q.Tell(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.q.Tell(t.Context(), Message{ID: "j1.1.started", Event: Started}); err != nil { // nobody asked
		t.Fatal(err)
	}
	d := m.round(t, 0)
	if d.State != Waiting || d.Attempts != 1 || !strings.Contains(d.Error, "503") || strings.Contains(d.Error, "hook-secret-path") {
		t.Errorf("%+v", d)
	}
	if d = m.round(t, time.Second); d.Attempts != 1 {
		t.Error("tried too early")
	}
	if d = m.round(t, time.Minute); d.Attempts != 2 || d.State != Waiting {
		t.Errorf("%+v", d)
	}
	if d = m.round(t, time.Minute); d.State != Delivered || d.Attempts != 3 || d.Error != "" {
		t.Errorf("%+v", d)
	}
	m.round(t, time.Hour)
	if len(m.got) != 3 {
		t.Errorf("%d requests", len(m.got))
	}
	r := m.got[2]
	at, err := strconv.ParseInt(r.Header.Get(HeaderTimestamp), 10, 64)
	if err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute || r.Header.Get(HeaderID) != msg.ID || r.Header.Get(HeaderSignature) != Sign("0123456789abcdef", at, m.body[2]) {
		t.Errorf("%v", r.Header)
	}
	if Sign("0123456789abcdef", at+1, m.body[2]) == r.Header.Get(HeaderSignature) || Sign("another key here", at, m.body[2]) == r.Header.Get(HeaderSignature) {
		t.Error("the signature binds neither time nor key")
	}
	var got Message
	if json.Unmarshal(m.body[2], &got) != nil || got.Job != "j1" {
		t.Errorf("%s", m.body[2])
	}
	if strings.ContainsAny(msg.Subject(), "\r\n") {
		t.Errorf("%q", msg.Subject())
	}
}

// TestGivenUp: what will never be taken is not tried for ever, and a redirect is
// not followed.
func TestGivenUp(t *testing.T) {
	for _, code := range []int{404, 302} {
		m := prepare(t)
		m.channel(t, Failed)
		m.code = []int{code}
		if err := m.q.Tell(t.Context(), Message{ID: "x", Event: Failed}); err != nil {
			t.Fatal(err)
		}
		if d := m.round(t, 0); d.State != GivenUp || d.Attempts != 1 || len(m.got) != 1 {
			t.Errorf("%+v", d)
		}
	}
	m := prepare(t)
	m.channel(t, Failed)
	m.q.guard = func(context.Context) (Guard, error) { return Guard{}, nil }
	if err := m.q.Tell(t.Context(), Message{ID: "x", Event: Failed}); err != nil {
		t.Fatal(err)
	}
	if d := m.round(t, 0); d.State != GivenUp || len(m.got) != 0 {
		t.Errorf("the guard let it through: %+v", d)
	}
}

func TestChannels(t *testing.T) {
	key := secret.New("0123456789abcdef")
	for name, c := range map[string]Channel{
		"no URL":         {Kind: Webhook, Secrets: Secrets{Key: key}},
		"a file":         {Kind: Webhook, Secrets: Secrets{Key: key, URL: secret.New("file:///etc/passwd")}},
		"a short key":    {Kind: Webhook, Secrets: Secrets{URL: secret.New("https://x/"), Key: secret.New("k")}},
		"no event":       {Kind: Webhook, Events: []string{"x"}, Secrets: Secrets{URL: secret.New("https://x/"), Key: key}},
		"any host":       {Kind: Chat, Secrets: Secrets{URL: secret.New("generic://127.0.0.1/x")}},
		"a script":       {Kind: Chat, Secrets: Secrets{URL: secret.New("script:///bin/sh")}},
		"a header":       {Kind: Email, Host: "h", From: "a@b.c\r\nBcc: x@y.z", To: []string{"a@b.c"}},
		"no kind at all": {},
	} {
		if err := c.Check(); !errors.Is(err, ErrChannel) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := Channel{Kind: Chat, Secrets: Secrets{URL: secret.New("ntfy://user:topsecret@127.0.0.1/topic-secret")}}
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	err := good.Send(t.Context(), Guard{}, &Message{Event: Test})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}
