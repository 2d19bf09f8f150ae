package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"ascend/internal/secret"
	"ascend/internal/server/records"
)

// OIDC is how people sign in at an OpenID Connect provider.
type OIDC struct {
	Issuer       string          `json:"issuer,omitempty" maxLength:"1000" doc:"the provider's issuer URL; empty: no such sign-in"`
	ClientID     string          `json:"client_id,omitempty" maxLength:"500"`
	RedirectURL  string          `json:"redirect_url,omitempty" maxLength:"1000" doc:"https://THIS-SERVER/api/v1/auth/oidc/callback, as registered with the provider"`
	Scopes       []string        `json:"scopes,omitempty" maxItems:"20" doc:"besides openid, profile and email"`
	RoleClaim    string          `json:"role_claim,omitempty" maxLength:"200" doc:"the claim that roles are told by, as groups"`
	Roles        map[string]Role `json:"roles,omitempty" doc:"values of the claim and the role that each gives"`
	DefaultRole  Role            `json:"default_role,omitempty" enum:",viewer,operator,admin" doc:"of people without such a value; empty: they are refused"`
	ClientSecret secret.String   `json:"-"`
}

// ErrOIDC: the sign-in at the provider came to nothing.
var ErrOIDC = errors.New("cannot sign in at the identity provider")

// flowLife is how long somebody may take at the provider.
const flowLife = 10 * time.Minute

// flow is a sign-in under way. It is bound to the browser by a cookie.
type flow struct {
	Nonce    string `json:"nonce"`
	Verifier string `json:"verifier"` // of PKCE (RFC 7636)
	Issuer   string `json:"issuer"`
	Return   string `json:"return"`
}

// Provider signs people in at an OpenID Connect provider. Safe for concurrent use.
type Provider struct {
	keeper *Keeper
	flows  records.Table[flow]
	client *http.Client

	mu     sync.Mutex
	issuer string
	found  *oidc.Provider
}

// NewProvider makes a provider; client may be nil.
func NewProvider(k *Keeper, client *http.Client) *Provider {
	if client == nil {
		client = &http.Client{Timeout: 15 * time.Second}
	}
	return &Provider{keeper: k, client: client, flows: records.Table[flow]{Store: k.Users.Store, Kind: "oidcflow"}}
}

// discover reads the provider's description, once.
func (p *Provider) discover(ctx context.Context, issuer string) (*oidc.Provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.issuer == issuer {
		return p.found, nil
	}
	found, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), p.client), issuer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOIDC, err)
	}
	p.issuer, p.found = issuer, found
	return found, nil
}

func (c *OIDC) oauth(p *oidc.Provider) *oauth2.Config {
	return &oauth2.Config{
		ClientID: c.ClientID, ClientSecret: c.ClientSecret.Reveal(), Endpoint: p.Endpoint(), RedirectURL: c.RedirectURL,
		Scopes: append([]string{oidc.ScopeOpenID, "profile", "email"}, c.Scopes...),
	}
}

// Start is where to send the browser, and what its cookie must hold.
func (p *Provider) Start(ctx context.Context, c OIDC, back string) (url string, state secret.String, err error) {
	found, err := p.discover(ctx, c.Issuer)
	if err != nil {
		return "", secret.String{}, err
	}
	text := random()
	d := records.Doc[flow]{
		Record: records.Record{ID: digest(text), Expires: time.Now().UTC().Add(flowLife)},
		Value:  flow{Nonce: random(), Verifier: oauth2.GenerateVerifier(), Issuer: c.Issuer, Return: back},
	}
	if err := p.flows.Put(ctx, &d); err != nil {
		return "", secret.String{}, err
	}
	return c.oauth(found).AuthCodeURL(text, oidc.Nonce(d.Value.Nonce), oauth2.S256ChallengeOption(d.Value.Verifier)), secret.New(text), nil
}

// Finish takes what the provider sent back and begins a session. cookie is what
// Start gave the browser. back is where it wanted to go.
func (p *Provider) Finish(ctx context.Context, c OIDC, code, state, cookie, address, agent string) (who *Principal, session secret.String, back string, err error) {
	fail := func(err error) (*Principal, secret.String, string, error) {
		return nil, secret.String{}, "", fmt.Errorf("%w: %w", ErrOIDC, err)
	}
	if cookie == "" || subtle.ConstantTimeCompare([]byte(state), []byte(cookie)) != 1 {
		return fail(errors.New("it was begun in another browser"))
	}
	f, err := p.flows.Get(ctx, digest(state))
	if err != nil {
		return fail(errors.New("it took too long, or was finished before"))
	}
	if err := p.flows.Delete(ctx, f.ID, f.Rev); err != nil { // once only
		return fail(err)
	}
	if f.Value.Issuer != c.Issuer {
		return fail(errors.New("the provider was changed meanwhile"))
	}
	found, err := p.discover(ctx, c.Issuer)
	if err != nil {
		return nil, secret.String{}, "", err
	}
	octx := oidc.ClientContext(ctx, p.client)
	tokens, err := c.oauth(found).Exchange(octx, code, oauth2.VerifierOption(f.Value.Verifier))
	if err != nil {
		var re *oauth2.RetrieveError
		if errors.As(err, &re) { // its text may hold what was sent
			err = fmt.Errorf("the provider answered %q", re.ErrorCode)
		}
		return fail(err)
	}
	raw, ok := tokens.Extra("id_token").(string)
	if !ok {
		return fail(errors.New("the provider sent no ID token"))
	}
	id, err := found.Verifier(&oidc.Config{ClientID: c.ClientID}).Verify(octx, raw)
	if err != nil {
		return fail(err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(f.Value.Nonce)) != 1 {
		return fail(errors.New("the ID token is of another sign-in"))
	}
	claims := map[string]any{}
	if err := id.Claims(&claims); err != nil {
		return fail(err)
	}
	u, err := c.user(id.Subject, claims)
	if err != nil {
		return fail(err)
	}
	d, err := p.keeper.adopt(ctx, u)
	if err != nil {
		return fail(err)
	}
	who, session, err = p.keeper.Begin(ctx, d, address, agent)
	return who, session, f.Value.Return, err
}

// user is the account that the claims describe.
func (c *OIDC) user(subject string, claims map[string]any) (User, error) {
	text := func(k string) string { s, _ := claims[k].(string); return s }
	u := User{Subject: c.Issuer + " " + subject, Email: text("email"), Role: c.DefaultRole}
	for _, k := range []string{"preferred_username", "email", "name"} {
		if u.Name == "" && CheckName(text(k)) == nil {
			u.Name = text(k)
		}
	}
	if u.Name == "" {
		u.Name = clip(subject, 128)
	}
	for _, v := range values(claims[c.RoleClaim]) {
		if r := c.Roles[v]; r.Has(u.Role) {
			u.Role = r
		}
	}
	if !u.Role.Valid() {
		return u, fmt.Errorf("%s has no role here; an admin can map a value of the claim %q to one", u.Name, c.RoleClaim)
	}
	return u, nil
}

// values are those of a claim: a text, a list, or words.
func values(v any) []string {
	switch v := v.(type) {
	case string:
		return append(strings.Fields(v), v)
	case []any:
		var out []string
		for _, x := range v {
			if s, ok := x.(string); ok {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

// adopt finds the account of a subject, or makes it. A local account of the same
// name is never taken over. The role follows the provider; grants stay.
func (k *Keeper) adopt(ctx context.Context, u User) (records.Doc[User], error) {
	all, err := k.Users.All(ctx, "")
	if err != nil {
		return records.Doc[User]{}, err
	}
	if i := slices.IndexFunc(all, func(d records.Doc[User]) bool { return d.Value.Subject == u.Subject }); i >= 0 {
		d := all[i]
		if d.Value.Disabled {
			return d, errors.New("the account is switched off")
		}
		if d.Value.Role != u.Role || d.Value.Email != u.Email {
			d.Value.Role, d.Value.Email = u.Role, u.Email
			return d, k.Users.Put(ctx, &d)
		}
		return d, nil
	}
	d, err := k.AddUser(ctx, u, secret.String{})
	if errors.Is(err, records.ErrConflict) {
		return d, fmt.Errorf("there is another account named %s", u.Name)
	}
	return d, err
}
