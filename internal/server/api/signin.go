package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"ascend/internal/secret"
	"ascend/internal/server/auth"
)

// Methods says how to sign in.
type Methods struct {
	Password bool `json:"password"`
	OIDC     bool `json:"oidc"`
	Setup    bool `json:"setup" doc:"there is no account yet: the one-time token that the server printed makes the first"`
}

type signInIn struct {
	Agent string `header:"User-Agent" hidden:"true"`
	Body  struct {
		Username string        `json:"username" minLength:"1" maxLength:"128"`
		Password secret.String `json:"password" format:"password" maxLength:"1024"`
	}
}

type sessionOut struct {
	SetCookie []http.Cookie `header:"Set-Cookie"`
	Body      Me
}

type passwordIn struct {
	Body struct {
		Current secret.String `json:"current" format:"password" maxLength:"1024"`
		New     secret.String `json:"new" format:"password" maxLength:"1024"`
	}
}

type redirect struct {
	Status    int           `json:"-"`
	Location  string        `header:"Location"`
	SetCookie []http.Cookie `header:"Set-Cookie"`
	Cache     string        `header:"Cache-Control"`
}

const flowCookie = "ascend-oidc"

func (a *API) signIn() {
	add(a, op{method: "GET", path: "/auth/methods", id: "auth-methods", summary: "How to sign in", tag: "sign-in"},
		func(ctx context.Context, _ *struct{}) (*One[Methods], error) {
			any, err := a.Keeper.AnyUser(ctx)
			if err != nil {
				return nil, err
			}
			s, err := a.Settings.Get(ctx)
			return &One[Methods]{Body: Methods{Password: true, OIDC: s.Value.OIDC.Issuer != "", Setup: !any}}, err
		})
	add(a, op{method: "POST", path: "/auth/sign-in", id: "sign-in", summary: "Sign in with a password", tag: "sign-in", maxBody: 16 << 10, errors: []int{401}},
		func(ctx context.Context, in *signInIn) (*sessionOut, error) {
			p, text, err := a.Keeper.SignIn(ctx, in.Body.Username, in.Body.Password, addressOf(ctx), in.Agent)
			if err != nil {
				return nil, errors.Join(err, a.record(ctx, "sign-in", auth.UserID(in.Body.Username), "refused"))
			}
			return a.begin(ctx, p, text)
		})
	add(a, op{method: "POST", path: "/auth/sign-out", id: "sign-out", summary: "End this session", tag: "sign-in", role: auth.Viewer, onTarget: true},
		func(ctx context.Context, _ *struct{}) (*struct {
			SetCookie http.Cookie `header:"Set-Cookie"`
		}, error) {
			p := auth.From(ctx)
			if p.Session == "" {
				return nil, newProblem(http.StatusConflict, "no-session", "a token has no session", "revoke the token instead")
			}
			if err := a.Keeper.SignOut(ctx, p.Session); err != nil {
				return nil, err
			}
			return &struct {
				SetCookie http.Cookie `header:"Set-Cookie"`
			}{a.cookie("ascend", "", 0, http.SameSiteStrictMode)}, a.audit(ctx, "sign-out", p.UserID)
		})
	add(a, op{method: "POST", path: "/auth/password", id: "change-password", summary: "Change my password; other sessions end", tag: "sign-in", role: auth.Viewer, onTarget: true, maxBody: 16 << 10},
		func(ctx context.Context, in *passwordIn) (*struct{}, error) {
			p := auth.From(ctx)
			if p.Session == "" {
				return nil, newProblem(http.StatusForbidden, "needs-session", "a password is changed in a session", "sign in first")
			}
			// The same guard as at sign-in: a stolen session must not try passwords.
			if err := a.Keeper.Prove(ctx, p.UserID, in.Body.Current, addressOf(ctx)); err != nil {
				return nil, err
			}
			if err := a.Keeper.SetPassword(ctx, p.UserID, in.Body.New, p.Session); err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "password.change", p.UserID)
		})
	a.oidc()
}

func (a *API) begin(ctx context.Context, p *auth.Principal, text secret.String) (*sessionOut, error) {
	out := &sessionOut{SetCookie: []http.Cookie{a.cookie("ascend", text.Reveal(), auth.SessionLife, http.SameSiteStrictMode)}, Body: meOf(p)}
	return out, a.audit(auth.With(ctx, p), "sign-in", p.UserID)
}

func (a *API) oidc() {
	add(a, op{method: "GET", path: "/auth/oidc/start", id: "oidc-start", summary: "Sign in at the identity provider", tag: "sign-in", status: http.StatusFound, errors: []int{403, 404}},
		func(ctx context.Context, in *struct {
			Return string `query:"return" maxLength:"500" doc:"a path of this server to come back to"`
		}) (*redirect, error) {
			c, err := a.provider(ctx)
			if err != nil {
				return nil, err
			}
			to, state, err := a.Provider.Start(ctx, c, localPath(in.Return))
			if err != nil {
				return nil, err
			}
			// Lax: the provider sends the browser back from another site.
			return &redirect{Status: http.StatusFound, Location: to, Cache: "no-store", SetCookie: []http.Cookie{a.cookie(flowCookie, state.Reveal(), 10*time.Minute, http.SameSiteLaxMode)}}, nil
		})
	add(a, op{method: "GET", path: "/auth/oidc/callback", id: "oidc-callback", summary: "Come back from the identity provider", tag: "sign-in", status: http.StatusFound, errors: []int{403, 404}},
		func(ctx context.Context, in *struct {
			Agent   string `header:"User-Agent" hidden:"true"`
			Code    string `query:"code" maxLength:"4096"`
			State   string `query:"state" maxLength:"200"`
			Error   string `query:"error" maxLength:"200"`
			Why     string `query:"error_description" maxLength:"1000"`
			Session string `query:"session_state" maxLength:"1000"`
			Issuer  string `query:"iss" maxLength:"1000"`
			Flow    string `cookie:"ascend-oidc" hidden:"true"`
			Secure  string `cookie:"__Host-ascend-oidc" hidden:"true"`
		}) (*redirect, error) {
			c, err := a.provider(ctx)
			if err != nil {
				return nil, err
			}
			if in.Error != "" || in.Code == "" {
				return nil, newProblem(http.StatusForbidden, "oidc", "the identity provider refused: "+clipText(in.Error+" "+in.Why, 300), "begin again")
			}
			flow := in.Flow
			if a.Secure {
				flow = in.Secure
			}
			p, text, back, err := a.Provider.Finish(ctx, c, in.Code, in.State, flow, addressOf(ctx), in.Agent)
			if err != nil {
				return nil, errors.Join(err, a.record(ctx, "sign-in", "oidc", "refused"))
			}
			s, err := a.begin(ctx, p, text)
			if err != nil {
				return nil, err
			}
			return &redirect{Status: http.StatusFound, Location: back, Cache: "no-store", SetCookie: append(s.SetCookie, a.cookie(flowCookie, "", 0, http.SameSiteLaxMode))}, nil
		})
}

func (a *API) provider(ctx context.Context) (auth.OIDC, error) {
	s, err := a.Settings.Get(ctx)
	if err != nil {
		return auth.OIDC{}, err
	}
	if s.Value.OIDC.Issuer == "" {
		return auth.OIDC{}, newProblem(http.StatusNotFound, "no-oidc", "no identity provider is set up", "an admin sets it up in the settings")
	}
	c := s.Value.OIDC
	c.ClientSecret, err = a.Settings.ClientSecret(s.Value)
	return c, err
}

// localPath is a path of this server, whatever was asked for.
func localPath(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.Contains(s, `\`) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
		return "/"
	}
	return u.String()
}

func clipText(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}
