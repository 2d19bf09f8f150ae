package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ascend/internal/qemu"
	"ascend/internal/server"
	"ascend/internal/server/api"
	"ascend/internal/server/auth"
	"ascend/internal/server/jobs"
	"ascend/internal/server/jobs/jobstest"
	"ascend/internal/server/storage"
	"ascend/internal/store"
	"ascend/internal/target/all"
	"ascend/internal/vault"
)

func TestMain(m *testing.M) {
	qemu.Main()
	os.Exit(m.Run())
}

const adminPassword = "correct horse battery"

// made is a server that answers, with an admin's token.
type made struct {
	t      testing.TB
	s      *server.Server
	url    string
	dir    string
	store  *storage.Store
	jobs   *jobstest.Double
	db     *store.Store
	admin  string // token
	log    *logged
	vault  *vault.Vault
	client *http.Client
}

// logged is a log that tests read.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t testing.TB) *made {
	t.Helper()
	return startWith(t, nil)
}

// startWith starts a server whose jobs are carried out by another service than the
// double.
func startWith(t testing.TB, service func(*store.Store) jobs.Service) *made {
	t.Helper()
	m := &made{t: t, dir: t.TempDir(), jobs: jobstest.New(), log: &logged{}}
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(m.dir, "ascend.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	m.db, m.store = db, storage.New(db)
	if service == nil {
		service = func(*store.Store) jobs.Service { return m.jobs }
	}
	key, err := vault.Generate()
	if err != nil {
		t.Fatal(err)
	}
	if m.vault, err = vault.New(key); err != nil {
		t.Fatal(err)
	}
	m.s, err = server.New(server.Options{
		Store: m.store, Vault: m.vault, Registry: all.Registry(), Version: "test",
		Jobs: func(*api.Targets, *api.Scanner) (jobs.Service, error) { return service(db), nil },
		Log:  slog.New(slog.NewJSONHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.s.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.url = "http://" + l.Addr().String()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	m.client = &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(m.client.CloseIdleConnections)
	setup, err := m.s.SetupToken(t.Context())
	if err != nil || setup.Empty() {
		t.Fatal("no one-time token", err)
	}
	m.want(201, "POST", "/users", setup.Reveal(), map[string]any{"name": "root", "role": "admin", "password": adminPassword}, nil)
	m.want(401, "GET", "/users", setup.Reveal(), nil, nil) // once
	m.admin = m.token("root", auth.Admin)
	return m
}

// user makes an account.
func (m *made) user(name string, role auth.Role, grants ...auth.Grant) {
	m.t.Helper()
	m.want(201, "POST", "/users", m.admin, map[string]any{"name": name, "role": role, "password": adminPassword + name[:1], "grants": grants}, nil)
}

// token makes a token for an account, as its owner would.
func (m *made) token(name string, role auth.Role, targets ...string) string {
	m.t.Helper()
	_, text, err := m.s.Keeper().AddToken(m.t.Context(), auth.Token{Name: "test", User: auth.UserID(name), Role: role, Targets: targets, Until: time.Now().Add(time.Hour)})
	if err != nil {
		m.t.Fatal(err)
	}
	return text.Reveal()
}

// do sends a request; body is JSON.
func (m *made) do(method, path, token string, body any, header ...string) (*http.Response, []byte) {
	m.t.Helper()
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			m.t.Fatal(err)
		}
		r = bytes.NewReader(b)
	}
	url := m.url + path
	switch path {
	case "", "/healthz", "/readyz", "/metrics": // beside the API
	default:
		url = m.url + api.Prefix + path
	}
	req, err := http.NewRequestWithContext(m.t.Context(), method, url, r)
	if err != nil {
		m.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := m.client.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return resp, b
}

// want sends a request and wants a status; out, when not nil, is decoded.
func (m *made) want(status int, method, path, token string, body, out any, header ...string) *http.Response {
	m.t.Helper()
	resp, b := m.do(method, path, token, body, header...)
	if resp.StatusCode != status {
		m.t.Fatalf("%s %s: %d, not %d: %s", method, path, resp.StatusCode, status, b)
	}
	if status >= 400 {
		var p api.Problem
		if err := json.Unmarshal(b, &p); err != nil || p.Code == "" || p.Detail == "" || p.Status != status || resp.Header.Get("Content-Type") != "application/problem+json" {
			m.t.Fatalf("%s %s: no problem details: %s", method, path, b)
		}
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			m.t.Fatalf("%s %s: %v: %s", method, path, err, b)
		}
	}
	return resp
}

// repository makes a folder with one backup and waits for its scan.
func (m *made) repository(id string) (backup string) {
	m.t.Helper()
	dir := filepath.Join(m.dir, "repo-"+id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	b := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b[:300_000])
	if err := os.WriteFile(filepath.Join(dir, "web01.raw"), b, 0o600); err != nil {
		m.t.Fatal(err)
	}
	machine := `{"name":"web01","cpu":{"sockets":2},"memory":1073741824,"firmware":"bios","guest":{},"disks":[{"index":0,"size":1048576}],"nics":[{"mac":"52:54:00:00:00:01","network":"VM Network"}]}`
	if err := os.WriteFile(filepath.Join(dir, "vm.json"), []byte(machine), 0o600); err != nil {
		m.t.Fatal(err)
	}
	m.want(201, "POST", "/repositories", m.admin, map[string]any{"id": id, "path": dir}, nil)
	m.wait("the scan", func() bool {
		var r api.Repository
		m.want(200, "GET", "/repositories/"+id, m.admin, nil, &r)
		if r.Error != "" {
			m.t.Fatal(r.Error)
		}
		return r.Scanned != nil && !r.Scan.Running
	})
	var list api.Page[api.BackupRow]
	m.want(200, "GET", "/backups?repository="+id, m.admin, nil, &list)
	if len(list.Items) != 1 {
		m.t.Fatalf("%+v", list)
	}
	return list.Items[0].ID
}

// target makes a local target.
func (m *made) target(id string) {
	m.t.Helper()
	dir := filepath.Join(m.dir, "target-"+id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	m.want(201, "POST", "/targets", m.admin, map[string]any{"id": id, "platform": "local", "settings": map[string]string{"dir": dir}}, nil)
}

// wait polls until ok, for ten seconds at most.
func (m *made) wait(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("waited for %s in vain: %s", what, m.log)
		}
	}
}
