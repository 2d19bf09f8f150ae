package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ascend/internal/server/api"
	"ascend/internal/server/auth"
)

// document is what the tests read of the OpenAPI document.
type document struct {
	Paths map[string]map[string]struct {
		ID       string `json:"operationId"`
		Role     string `json:"x-ascend-role"`
		OnTarget bool   `json:"x-ascend-on-target"`
		Body     any    `json:"requestBody"`
	} `json:"paths"`
}

func (m *made) document() document {
	m.t.Helper()
	var d document
	if err := json.Unmarshal(m.s.Document(), &d); err != nil {
		m.t.Fatal(err)
	}
	return d
}

// open are the operations that need no sign-in; a new one is to be thought about.
var open = []string{"version", "auth-methods", "sign-in", "oidc-start", "oidc-callback"}

// TestRoles asks for every operation of the document as nobody, as each role, and
// with tokens that are bound to a target: who may not is refused before anything
// of the request is read, and who may is not.
func TestRoles(t *testing.T) {
	m := start(t)
	m.target("t1")
	m.target("t2")
	m.user("vera", auth.Viewer)
	m.user("otto", auth.Operator)
	m.user("gina", auth.Viewer, auth.Grant{Target: "t1", Role: auth.Operator})
	m.user("zoe", auth.Admin)
	who := []struct {
		name     string
		token    string
		global   auth.Role
		anywhere auth.Role
	}{
		{"nobody", "", auth.None, auth.None},
		{"viewer", m.token("vera", auth.Admin), auth.Viewer, auth.Viewer},
		{"operator", m.token("otto", auth.Admin), auth.Operator, auth.Operator},
		{"granted", m.token("gina", auth.Admin), auth.Viewer, auth.Operator},
		{"admin", m.token("zoe", auth.Admin), auth.Admin, auth.Admin},
		{"an admin's viewing token", m.token("zoe", auth.Viewer), auth.Viewer, auth.Viewer},
		{"an admin's token for t1", m.token("zoe", auth.Admin, "t1"), auth.Viewer, auth.Admin},
	}
	n := 0
	for path, methods := range m.document().Paths {
		for method, op := range methods {
			if op.Role == "" != slices.Contains(open, op.ID) {
				t.Errorf("%s: role %q; is it to be open?", op.ID, op.Role)
			}
			for _, w := range who {
				n++
				p := strings.TrimPrefix(strings.ReplaceAll(path, "{id}", "no-such-thing"), api.Prefix)
				header := []string{}
				if strings.HasSuffix(path, "/events") || strings.HasSuffix(path, "/stream") {
					header = append(header, "Last-Event-ID", "not a number") // end at once
				}
				var body any
				if op.Body != nil {
					body = "not an object" // is refused before anything is done
				}
				resp, b := m.do(strings.ToUpper(method), p, w.token, body, header...)
				have := w.global
				if op.OnTarget {
					have = w.anywhere
				}
				var problem api.Problem
				_ = json.Unmarshal(b, &problem)
				refused := resp.StatusCode == http.StatusUnauthorized && problem.Code == "sign-in" || resp.StatusCode == http.StatusForbidden && problem.Code == "not-allowed"
				switch {
				case op.Role == "" || have.Has(auth.Role(op.Role)):
					if refused && !op.OnTarget || resp.StatusCode >= 500 {
						t.Errorf("%s %s as %s: %d %s", method, path, w.name, resp.StatusCode, b)
					}
				case w.token == "" && resp.StatusCode != http.StatusUnauthorized, w.token != "" && resp.StatusCode != http.StatusForbidden, !refused:
					t.Errorf("%s %s as %s was not refused: %d %s", method, path, w.name, resp.StatusCode, b)
				}
			}
		}
	}
	if n < 60*len(who) {
		t.Errorf("only %d cases", n)
	}
}

// TestGrants: a grant is good for its target and no other.
func TestGrants(t *testing.T) {
	m := start(t)
	backup := m.repository("main")
	m.target("t1")
	m.target("t2")
	m.user("gina", auth.Viewer, auth.Grant{Target: "t1", Role: auth.Operator})
	m.user("zoe", auth.Admin)
	for _, token := range []string{m.token("gina", auth.Admin), m.token("zoe", auth.Admin, "t1")} {
		for target, status := range map[string]int{"t1": 201, "t2": 403} {
			m.want(status, "POST", "/plans", token, map[string]any{"backup": backup, "target": target}, nil)
		}
		m.want(200, "POST", "/targets/t1/validate", token, nil, nil)
		m.want(403, "POST", "/targets/t2/validate", token, nil, nil)
		m.want(403, "PATCH", "/targets/t2", token, map[string]any{"note": "x"}, nil)
		m.want(403, "GET", "/users", token, nil, nil)
	}
	m.want(403, "PATCH", "/targets/t1", m.token("gina", auth.Admin), map[string]any{"note": "x"}, nil)
	m.want(200, "PATCH", "/targets/t1", m.token("zoe", auth.Admin, "t1"), map[string]any{"note": "x"}, nil)
	// A plan cannot be moved to a target that one has no grant for, nor its job touched.
	var p api.Plan
	m.want(201, "POST", "/plans", m.admin, map[string]any{"backup": backup, "target": "t2"}, &p)
	m.want(403, "POST", "/jobs", m.token("gina", auth.Admin), map[string]any{"plan": p.ID, "accept": p.Consent}, nil)
	m.want(403, "PATCH", "/plans/"+p.ID, m.token("gina", auth.Admin), map[string]any{"wish": map[string]any{}}, nil)
	m.want(403, "DELETE", "/plans/"+p.ID, m.token("gina", auth.Admin), nil, nil)
	var j map[string]any
	m.want(201, "POST", "/jobs", m.admin, map[string]any{"plan": p.ID, "accept": p.Consent}, &j)
	for _, verb := range []string{"cancel", "retry", "undo"} {
		m.want(403, "POST", fmt.Sprintf("/jobs/%s/%s", j["id"], verb), m.token("gina", auth.Admin), nil, nil)
	}
}

func TestTokens(t *testing.T) {
	m := start(t)
	m.user("vera", auth.Viewer)
	m.user("otto", auth.Operator)
	otto, vera := m.token("otto", auth.Operator), m.token("vera", auth.Viewer)
	var made api.MadeToken
	m.want(201, "POST", "/tokens", otto, map[string]any{"name": "ci", "role": "viewer", "days": 1}, &made)
	if !strings.HasPrefix(made.Text, made.Prefix) || made.Until == nil {
		t.Errorf("%+v", made)
	}
	m.want(200, "GET", "/jobs", made.Text, nil, nil)
	m.want(403, "POST", "/tokens", vera, map[string]any{"name": "up", "role": "admin", "days": 1}, nil)
	// Others' tokens cannot be seen or revoked, and are not told apart from none.
	m.want(404, "DELETE", "/tokens/"+made.ID, vera, nil, nil)
	m.want(403, "GET", "/tokens?user="+auth.UserID("otto"), vera, nil, nil)
	var list api.Page[api.Token]
	m.want(200, "GET", "/tokens", vera, nil, &list)
	for _, x := range list.Items {
		if x.User != auth.UserID("vera") {
			t.Errorf("sees %+v", x)
		}
	}
	// Wrong ends, other servers' tokens, other schemes, none at all.
	other := start(t)
	for _, bad := range []string{made.Text + "x", made.Text[:len(made.Text)-1], made.Prefix, "ascend_", "x", other.admin, strings.ToUpper(made.Text)} {
		m.want(401, "GET", "/jobs", bad, nil, nil)
	}
	m.want(401, "GET", "/jobs", "", nil, nil, "Authorization", "Basic cm9vdDpyb290")
	// Revoked.
	m.want(204, "DELETE", "/tokens/"+made.ID, otto, nil, nil)
	m.want(401, "GET", "/jobs", made.Text, nil, nil)
	// Expired.
	_, text, err := m.s.Keeper().AddToken(t.Context(), auth.Token{Name: "old", User: auth.UserID("otto"), Role: auth.Admin, Until: time.Now().Add(-time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	m.want(401, "GET", "/jobs", text.Reveal(), nil, nil)
	// A token loses what its account loses.
	m.want(200, "PATCH", "/users/"+auth.UserID("otto"), m.admin, map[string]any{"role": "viewer"}, nil)
	m.want(403, "PUT", "/mappings/x", otto, map[string]any{"mapping": map[string]any{}}, nil)
	m.want(200, "PATCH", "/users/"+auth.UserID("otto"), m.admin, map[string]any{"disabled": true}, nil)
	m.want(401, "GET", "/jobs", otto, nil, nil)
	m.want(204, "DELETE", "/users/"+auth.UserID("vera"), m.admin, nil, nil)
	m.want(401, "GET", "/jobs", vera, nil, nil)
	// The last admin stays.
	root := "/users/" + auth.UserID("root")
	m.want(409, "DELETE", root, m.admin, nil, nil)
	m.want(409, "PATCH", root, m.admin, map[string]any{"role": "viewer"}, nil)
	m.want(409, "PATCH", root, m.admin, map[string]any{"disabled": true}, nil)
}

// signIn signs in with a password and returns the cookie and the CSRF token.
func (m *made) signIn(name, password string) (cookie, csrf string) {
	m.t.Helper()
	var me api.Me
	resp := m.want(200, "POST", "/auth/sign-in", "", map[string]string{"username": name, "password": password}, &me)
	c := resp.Cookies()
	if len(c) != 1 || !c[0].HttpOnly || c[0].SameSite != http.SameSiteStrictMode || c[0].Path != "/" {
		m.t.Fatalf("%+v", c)
	}
	return c[0].Name + "=" + c[0].Value, me.CSRF
}

func TestSessions(t *testing.T) {
	m := start(t)
	cookie, csrf := m.signIn("root", adminPassword)
	m.want(200, "GET", "/users", "", nil, nil, "Cookie", cookie)
	body := map[string]any{"mapping": map[string]any{}}
	for _, h := range [][]string{
		{"Cookie", cookie},
		{"Cookie", cookie, "X-CSRF-Token", "wrong"},
		{"Cookie", cookie, "X-CSRF-Token", csrf + "x"},
		{"Cookie", cookie, "X-CSRF-Token", csrf, "Sec-Fetch-Site", "cross-site"},
		{"Cookie", cookie, "X-CSRF-Token", csrf, "Origin", "https://evil.example"},
	} {
		var p api.Problem
		m.want(403, "PUT", "/mappings/a", "", body, &p, h...)
		if p.Code != "csrf" {
			t.Errorf("%+v", p)
		}
	}
	m.want(404, "GET", "/mappings/a", m.admin, nil, nil)
	m.want(200, "PUT", "/mappings/a", "", body, nil, "Cookie", cookie, "X-CSRF-Token", csrf, "Origin", m.url, "Sec-Fetch-Site", "same-origin")
	// Another session's token is not good for this one.
	_, other := m.signIn("root", adminPassword)
	m.want(403, "PUT", "/mappings/a", "", body, nil, "Cookie", cookie, "X-CSRF-Token", other)
	// Another password ends the other sessions.
	second, _ := m.signIn("root", adminPassword)
	m.want(401, "POST", "/auth/password", "", map[string]string{"current": "wrong wrong wrong", "new": "another good password"}, nil, "Cookie", cookie, "X-CSRF-Token", csrf)
	m.want(422, "POST", "/auth/password", "", map[string]string{"current": adminPassword, "new": "short"}, nil, "Cookie", cookie, "X-CSRF-Token", csrf)
	m.want(204, "POST", "/auth/password", "", map[string]string{"current": adminPassword, "new": "another good password"}, nil, "Cookie", cookie, "X-CSRF-Token", csrf)
	m.want(200, "GET", "/me", "", nil, nil, "Cookie", cookie)
	m.want(401, "GET", "/me", "", nil, nil, "Cookie", second)
	m.want(204, "POST", "/auth/sign-out", "", nil, nil, "Cookie", cookie, "X-CSRF-Token", csrf)
	m.want(401, "GET", "/me", "", nil, nil, "Cookie", cookie)
}

func TestBruteForce(t *testing.T) {
	m := start(t)
	m.user("vera", auth.Viewer)
	try := func(name, password string) (int, string) {
		resp, _ := m.do("POST", "/auth/sign-in", "", map[string]string{"username": name, "password": password})
		return resp.StatusCode, resp.Header.Get("Retry-After")
	}
	for i := range 5 {
		if code, _ := try("vera", fmt.Sprint("wrong password ", i)); code != 401 {
			t.Fatalf("attempt %d: %d", i, code)
		}
	}
	// Even the right password waits now, and whoever asks is told for how long.
	if code, after := try("vera", adminPassword+"v"); code != 429 || after == "" {
		t.Errorf("%d %q", code, after)
	}
	// The counts are stored: a new guard over the same store knows them.
	if _, err := auth.NewGuard(m.store).Begin(t.Context(), auth.UserID("vera"), "192.0.2.1"); err == nil {
		t.Error("a restart forgives")
	}
	// Names that do not exist are treated the same.
	for i := range 6 {
		if code, _ := try("nobody", "wrong"); code != 401 && i < 5 || i == 5 && code != 429 {
			t.Errorf("attempt %d: %d", i, code)
		}
	}
	// Many at once do not slip past the count.
	results := make(chan int, 40)
	for i := range 40 {
		go func() {
			code, _ := try("root", fmt.Sprint("wrong password ", i))
			results <- code
		}()
	}
	passed := 0
	for range 40 {
		if code := <-results; code == 401 {
			passed++
		} else if code != 429 {
			t.Errorf("%d", code)
		}
	}
	if passed > 10 {
		t.Errorf("%d of 40 attempts at once were looked at", passed)
	}
	var audit api.Page[map[string]any]
	m.want(200, "GET", "/audit?action=sign-in", m.admin, nil, &audit)
	if len(audit.Items) < 10 {
		t.Errorf("%d refused sign-ins in the audit log", len(audit.Items))
	}
}

// TestSecrets puts secrets wherever the API takes them and looks for them in
// everything that is stored, logged and answered.
func TestSecrets(t *testing.T) {
	m := start(t)
	secrets := []string{"s3cret-of-vcenter-Ω", "s3cret-of-webhook-url", "s3cret-of-webhook-key", "s3cret-of-mail-server", "s3cret-of-oidc-client", "s3cret-new-user-password", "s3cret-changed-password"}
	var answers strings.Builder
	m.t = t
	send := func(method, path string, body any, header ...string) {
		resp, b := m.do(method, path, m.admin, body, header...)
		answers.Write(b)
		fmt.Fprint(&answers, resp.Header)
		if resp.StatusCode >= 500 && resp.StatusCode != http.StatusBadGateway {
			t.Errorf("%s %s: %s", method, path, b)
		}
	}
	target := map[string]any{"id": "vc", "platform": "vmware", "settings": map[string]string{"url": "https://127.0.0.1:1", "username": "u"}, "secrets": map[string]string{"password": secrets[0]}}
	send("POST", "/targets", target, "Idempotency-Key", "k1")
	send("POST", "/targets", target, "Idempotency-Key", "k1")
	send("POST", "/targets/validate", target)
	target["settings"] = map[string]string{"nonsense": secrets[0]}
	send("POST", "/targets", target)
	send("POST", "/targets", map[string]any{"id": []string{secrets[0]}, "secrets": secrets[0]})
	send("PUT", "/channels/hook", map[string]any{"kind": "webhook", "events": []string{"failed"}, "url": "https://127.0.0.1:1/" + secrets[1], "key": secrets[2]})
	send("PUT", "/channels/chat", map[string]any{"kind": "chat", "events": []string{"failed"}, "url": "slack://hook:" + secrets[1] + "@webhook"})
	send("PUT", "/channels/mail", map[string]any{"kind": "email", "events": []string{"failed"}, "host": "127.0.0.1", "port": 1, "user": "u", "from": "a@example.org", "to": []string{"b@example.org"}, "password": secrets[3]})
	for _, c := range []string{"hook", "chat", "mail"} {
		send("POST", "/channels/"+c+"/test", nil)
	}
	send("PATCH", "/settings", map[string]any{"oidc": map[string]any{"issuer": "https://127.0.0.1:1", "client_id": "c", "redirect_url": "https://x/cb"}, "oidc_secret": secrets[4]})
	send("GET", "/auth/oidc/start", nil)
	send("POST", "/users", map[string]any{"name": "vera", "role": "viewer", "password": secrets[5]})
	send("PATCH", "/users/"+auth.UserID("vera"), map[string]any{"password": secrets[6]})
	send("POST", "/auth/sign-in", map[string]string{"username": "vera", "password": secrets[5]})
	for _, p := range []string{"/targets", "/targets/vc", "/targets/vc/inventory", "/channels", "/channels/hook", "/settings", "/users", "/audit?limit=500", "/deliveries", "/tokens"} {
		send("GET", p, nil)
	}
	text := answers.String() + m.log.String()
	_ = filepath.WalkDir(m.dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			b, rerr := os.ReadFile(path)
			if rerr != nil {
				t.Error(rerr)
			}
			text += string(b)
		}
		return err
	})
	for _, s := range append(secrets, adminPassword, m.admin, m.admin[len(m.admin)-20:]) {
		if i := strings.Index(text, s); i >= 0 {
			t.Errorf("%q is told: …%q…", s, text[max(0, i-120):min(len(text), i+120)])
		}
	}
	if !strings.Contains(text, "127.0.0.1:1") {
		t.Error("the test looks in the wrong place")
	}
	// A target's password is not sent to another server unasked.
	m.want(422, "PATCH", "/targets/vc", m.admin, map[string]any{"settings": map[string]string{"url": "evil.example", "username": "u"}}, nil)
}

func TestHeaders(t *testing.T) {
	m := start(t)
	for _, p := range []string{"/healthz", "/readyz", "/version", "/jobs", "/"} {
		resp, _ := m.do("GET", p, "", nil)
		for k, v := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"} {
			if resp.Header.Get(k) != v {
				t.Errorf("%s: %s is %q", p, k, resp.Header.Get(k))
			}
		}
		csp := resp.Header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") {
			t.Errorf("%s: %s", p, csp)
		}
	}
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0"} {
		if l, err := m.s.Listen(t.Context(), addr); err == nil {
			_ = l.Close()
			t.Errorf("plain HTTP on %s", addr)
		}
	}
	resp, _ := m.do("POST", "/users", m.admin, map[string]string{"name": strings.Repeat("x", 1<<20)})
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a body of 1 MiB: %d", resp.StatusCode)
	}
	if resp, _ := m.do("GET", "/metrics", "", nil); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("metrics: %d", resp.StatusCode)
	}
	if resp, b := m.do("GET", "/metrics", m.admin, nil); resp.StatusCode != http.StatusOK || !strings.Contains(string(b), "ascend_build_info") {
		t.Errorf("metrics: %d", resp.StatusCode)
	}
}
