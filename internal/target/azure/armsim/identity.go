package armsim

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// serveIdentity is the token endpoint of Microsoft Entra ("OAuth 2.0 client
// credentials flow") and that of an App Service's managed identity.
func (s *Sim) serveIdentity(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	deny := func(status int, code, msg string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": code, "error_description": msg})
	}
	if strings.HasSuffix(r.URL.Path, "/openid-configuration") && !strings.HasPrefix(r.URL.Path, "/"+Tenant+"/") {
		deny(http.StatusBadRequest, "invalid_tenant", "AADSTS90002: Tenant not found. Check to make sure you have the correct tenant ID.")
		return
	}
	if strings.HasSuffix(r.URL.Path, "/openid-configuration") {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"token_endpoint":         s.URL + "/" + Tenant + "/oauth2/v2.0/token",
			"authorization_endpoint": s.URL + "/" + Tenant + "/oauth2/v2.0/authorize",
			"issuer":                 s.URL + "/" + Tenant + "/v2.0",
		})
		return
	}
	if strings.HasPrefix(r.URL.Path, "/msi/token") {
		if r.Header.Get("X-IDENTITY-HEADER") != MSIHeader {
			deny(http.StatusUnauthorized, "unauthorized", "the identity header is wrong")
			return
		}
		token := s.issue()
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": token, "token_type": "Bearer", "resource": r.URL.Query().Get("resource"),
			"expires_on": fmt.Sprint(s.clock().Add(s.opts.TokenLife).Unix()),
		})
		return
	}
	if r.Method != http.MethodPost || r.ParseForm() != nil {
		deny(http.StatusBadRequest, "invalid_request", "AADSTS900144: the request body is not a form")
		return
	}
	if !strings.HasPrefix(r.URL.Path, "/"+Tenant+"/") {
		deny(http.StatusBadRequest, "invalid_request", "AADSTS90002: Tenant not found. Check to make sure you have the correct tenant ID.")
		return
	}
	f := r.PostForm
	switch {
	case f.Get("grant_type") != "client_credentials" || !strings.HasSuffix(f.Get("scope"), "/.default") && !strings.Contains(f.Get("scope"), "/.default "):
		deny(http.StatusBadRequest, "invalid_request", "AADSTS900144: grant_type or scope")
	case f.Get("client_id") != ClientID:
		deny(http.StatusBadRequest, "unauthorized_client", "AADSTS700016: Application was not found in the directory.")
	case f.Get("client_assertion") != "":
		if err := s.assertion(f.Get("client_assertion")); err != nil {
			deny(http.StatusUnauthorized, "invalid_client", "AADSTS700027: The certificate with identifier used to sign the client assertion is not registered on application: "+err.Error())
			return
		}
		s.answer(w)
	case f.Get("client_secret") != ClientSecret:
		deny(http.StatusUnauthorized, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
	default:
		s.answer(w)
	}
}

func (s *Sim) answer(w http.ResponseWriter) {
	token := s.issue()
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": token, "token_type": "Bearer", "expires_in": int(s.opts.TokenLife.Seconds()),
	})
}

func (s *Sim) issue() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	token := "simulated." + random(24)
	s.tokens[token] = s.clock().Add(s.opts.TokenLife)
	return token
}

// assertion checks a federated token, or a JWT that the application's
// certificate must have signed (RS256 or PS256).
func (s *Sim) assertion(jwt string) error {
	if s.opts.Federated != "" && jwt == s.opts.Federated {
		return nil
	}
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 || s.opts.Certificate == nil {
		return fmt.Errorf("no such assertion is trusted")
	}
	dec := base64.RawURLEncoding
	head, err1 := dec.DecodeString(parts[0])
	claims, err2 := dec.DecodeString(parts[1])
	sig, err3 := dec.DecodeString(parts[2])
	key, ok := s.opts.Certificate.PublicKey.(*rsa.PublicKey)
	if err1 != nil || err2 != nil || err3 != nil || !ok {
		return fmt.Errorf("the assertion cannot be read")
	}
	var h struct{ Alg string }
	var c struct {
		Aud, Iss, Sub string
		Exp           int64
	}
	if json.Unmarshal(head, &h) != nil || json.Unmarshal(claims, &c) != nil {
		return fmt.Errorf("the assertion cannot be read")
	}
	if c.Iss != ClientID || c.Sub != ClientID || c.Exp < s.clock().Unix() || !strings.HasPrefix(c.Aud, s.URL) {
		return fmt.Errorf("the assertion's claims are wrong")
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if h.Alg == "PS256" {
		return rsa.VerifyPSS(key, crypto.SHA256, sum[:], sig, nil)
	}
	return rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig)
}

// Token gives a token as a signed-in program would have.
func (s *Sim) Token() string { return s.issue() }
