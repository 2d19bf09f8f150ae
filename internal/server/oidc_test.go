package server_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"ascend/internal/server/api"
)

// provider is an OpenID Connect provider that takes nothing that the standards
// forbid: codes once, PKCE by S256, the client's secret and redirect as registered.
type provider struct {
	*httptest.Server
	t      *testing.T
	key    *rsa.PrivateKey
	mu     sync.Mutex
	codes  map[string]url.Values // by code: the request of authorisation
	claims map[string]any        // of the next ID token, over the right ones
	sign   *rsa.PrivateKey       // another key than the published one, when not nil
}

const redirectURL = "https://ascend.example/api/v1/auth/oidc/callback"

func newProvider(t *testing.T) *provider {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{t: t, key: key, codes: map[string]url.Values{}}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/auth", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k1", Algorithm: "RS256", Use: "sig"}}})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		id, secret, ok := r.BasicAuth()
		_ = r.ParseForm()
		p.mu.Lock()
		defer p.mu.Unlock()
		asked, known := p.codes[r.Form.Get("code")]
		delete(p.codes, r.Form.Get("code"))
		sum := sha256.Sum256([]byte(r.Form.Get("code_verifier")))
		if !ok || id != "ascend" || secret != "s3cret" || !known || r.Form.Get("grant_type") != "authorization_code" || r.Form.Get("redirect_uri") != asked.Get("redirect_uri") ||
			base64.RawURLEncoding.EncodeToString(sum[:]) != asked.Get("code_challenge") {
			w.WriteHeader(http.StatusBadRequest)
			answer(w, map[string]string{"error": "invalid_grant"})
			return
		}
		now := time.Now()
		claims := map[string]any{"iss": p.URL, "sub": "42", "aud": "ascend", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "nonce": asked.Get("nonce"), "preferred_username": "ann", "groups": []string{"ops"}}
		for k, v := range p.claims {
			claims[k] = v
		}
		k := p.key
		if p.sign != nil {
			k = p.sign
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: k}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
		if err != nil {
			t.Error(err)
		}
		token, err := jwt.Signed(signer).Claims(claims).Serialize()
		if err != nil {
			t.Error(err)
		}
		answer(w, map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": token, "expires_in": 60})
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// authorise is the provider's page: the user signs in there and is sent back.
func (p *provider) authorise(to string) (code, state string) {
	u, err := url.Parse(to)
	if err != nil {
		p.t.Fatal(err)
	}
	q := u.Query()
	if q.Get("response_type") != "code" || q.Get("client_id") != "ascend" || q.Get("redirect_uri") != redirectURL || q.Get("code_challenge_method") != "S256" || q.Get("nonce") == "" || len(q.Get("state")) < 20 {
		p.t.Fatalf("the provider refuses %s", to)
	}
	code = "code-" + q.Get("state")
	p.mu.Lock()
	defer p.mu.Unlock()
	p.codes[code] = q
	return code, q.Get("state")
}

func TestOIDC(t *testing.T) {
	m := start(t)
	p := newProvider(t)
	m.want(404, "GET", "/auth/oidc/start", "", nil, nil)
	m.want(200, "PATCH", "/settings", m.admin, map[string]any{"oidc_secret": "s3cret", "oidc": map[string]any{
		"issuer": p.URL, "client_id": "ascend", "redirect_url": redirectURL, "role_claim": "groups", "roles": map[string]string{"ops": "operator", "boss": "admin"},
	}}, nil)
	begin := func(back string) (code, state, cookie string) {
		resp := m.want(302, "GET", "/auth/oidc/start?return="+url.QueryEscape(back), "", nil, nil)
		code, state = p.authorise(resp.Header.Get("Location"))
		c := resp.Cookies()[0]
		if !c.HttpOnly || c.SameSite != http.SameSiteLaxMode {
			t.Errorf("%+v", c)
		}
		return code, state, c.Name + "=" + c.Value
	}
	finish := func(status int, code, state, cookie string) *http.Response {
		t.Helper()
		return m.want(status, "GET", "/auth/oidc/callback?code="+url.QueryEscape(code)+"&state="+url.QueryEscape(state), "", nil, nil, "Cookie", cookie)
	}
	code, state, cookie := begin("/jobs")
	resp := finish(302, code, state, cookie)
	if resp.Header.Get("Location") != "/jobs" {
		t.Error(resp.Header)
	}
	var session string
	for _, c := range resp.Cookies() {
		if c.Name == "ascend" {
			session = c.Name + "=" + c.Value
		}
	}
	var me api.Me
	m.want(200, "GET", "/me", "", nil, &me, "Cookie", session)
	if me.Name != "ann" || me.Role != "operator" {
		t.Errorf("%+v", me)
	}
	// Again, another browser, another's state, nothing at all.
	finish(403, code, state, cookie)
	code, state, cookie = begin("/")
	finish(403, code, state, "ascend-oidc=x")
	finish(403, code, state, "")
	finish(403, "stolen", state, cookie)
	for _, back := range []string{"https://evil.example/", "//evil.example", `/\evil.example`, "javascript:alert(1)"} {
		code, state, cookie = begin(back)
		if to := finish(302, code, state, cookie).Header.Get("Location"); to != "/" {
			t.Errorf("%s leads to %s", back, to)
		}
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]map[string]any{
		"another issuer": {"iss": "https://evil.example"}, "another client": {"aud": "other"}, "an old token": {"exp": time.Now().Add(-time.Hour).Unix()},
		"another nonce": {"nonce": "x"}, "no role": {"groups": []string{"guests"}}, "a local account's name": {"sub": "43", "preferred_username": "root"},
	} {
		p.claims = c
		code, state, cookie = begin("/")
		if resp, _ := m.do("GET", "/auth/oidc/callback?code="+url.QueryEscape(code)+"&state="+url.QueryEscape(state), "", nil, "Cookie", cookie); resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d", what, resp.StatusCode)
		}
	}
	p.claims, p.sign = nil, other
	code, state, cookie = begin("/")
	finish(403, code, state, cookie)
	// The role follows the provider.
	p.sign, p.claims = nil, map[string]any{"groups": []string{"boss"}}
	code, state, cookie = begin("/")
	finish(302, code, state, cookie)
	m.want(200, "GET", "/me", "", nil, &me, "Cookie", session)
	if me.Role != "admin" {
		t.Errorf("%+v", me)
	}
}
