package api

import (
	"context"
	"net/http"
	"time"

	"ascend/internal/server/auth"
	"ascend/internal/server/records"
)

// Token is an API token, without its secret.
type Token struct {
	ID      string     `json:"id"`
	Prefix  string     `json:"prefix" doc:"how the token's text begins"`
	Name    string     `json:"name"`
	User    string     `json:"user" doc:"whose it is; its rights never pass this account's"`
	Role    auth.Role  `json:"role"`
	Targets []string   `json:"targets,omitempty" doc:"the only targets that it changes anything on"`
	Until   *time.Time `json:"until,omitempty"`
	Used    *time.Time `json:"used,omitempty" doc:"to ten minutes"`
	Created time.Time  `json:"created"`
}

func tokenOf(d records.Doc[auth.Token]) Token {
	t := Token{ID: d.ID, Prefix: auth.TokenPrefix + d.ID, Name: d.Value.Name, User: d.Value.User, Role: d.Value.Role, Targets: d.Value.Targets, Created: d.Created}
	if !d.Value.Until.IsZero() {
		t.Until = &d.Value.Until
	}
	if !d.Value.Used.IsZero() {
		t.Used = &d.Value.Used
	}
	return t
}

// NewToken is a token to be made.
type NewToken struct {
	Name    string    `json:"name" minLength:"1" maxLength:"128" pattern:"^[^\\x00-\\x1f\\x7f]+$"`
	Role    auth.Role `json:"role" enum:"viewer,operator,admin" doc:"at most this; never more than the account's"`
	Targets []string  `json:"targets,omitempty" maxItems:"1000" doc:"bind it to these targets"`
	Days    int       `json:"days" minimum:"1" maximum:"3650" doc:"how long it is valid"`
}

// MadeToken is a token with its text, which is told this once.
type MadeToken struct {
	Token
	Text string `json:"text"`
}

func (a *API) tokens() {
	k := a.Keeper
	add(a, op{method: "GET", path: "/tokens", id: "list-tokens", summary: "My API tokens; all for an admin", tag: "tokens", role: auth.Viewer, onTarget: true},
		func(ctx context.Context, in *struct {
			PageIn
			User string `query:"user" maxLength:"128" doc:"an account's id; only an admin sees others'"`
		}) (*List[Token], error) {
			p := auth.From(ctx)
			ref := in.User
			if !p.Global().Has(auth.Admin) {
				if ref != "" && ref != p.UserID {
					return nil, forbidden(auth.Admin)
				}
				ref = p.UserID
			}
			return page(ctx, k.Tokens, ref, in.PageIn, true, tokenOf)
		})
	add(a, op{method: "POST", path: "/tokens", id: "create-token", summary: "Make an API token for myself", tag: "tokens", role: auth.Viewer, onTarget: true, status: http.StatusCreated, maxBody: 64 << 10},
		func(ctx context.Context, in *struct{ Body NewToken }) (*Created[MadeToken], error) {
			p := auth.From(ctx)
			if p.UserID == "" || p.Only != nil {
				return nil, newProblem(http.StatusForbidden, "needs-account", "tokens are made by accounts, and not with a token that is bound to targets", "sign in first")
			}
			if !p.Somewhere().Has(in.Body.Role) {
				return nil, forbidden(in.Body.Role)
			}
			t := auth.Token{Name: in.Body.Name, User: p.UserID, Role: in.Body.Role, Targets: in.Body.Targets, Until: time.Now().UTC().Truncate(time.Second).AddDate(0, 0, in.Body.Days)}
			d, text, err := k.AddToken(ctx, t)
			if err != nil {
				return nil, err
			}
			return &Created[MadeToken]{Prefix + "/tokens/" + d.ID, tagOf(d.Rev), MadeToken{tokenOf(d), text.Reveal()}}, a.audit(ctx, "token.create", d.ID, "name", t.Name, "role", string(t.Role))
		})
	add(a, op{method: "DELETE", path: "/tokens/{id}", id: "revoke-token", summary: "Revoke a token", tag: "tokens", role: auth.Viewer, onTarget: true, status: 204, errors: []int{404}},
		func(ctx context.Context, in *ID) (*struct{}, error) {
			p := auth.From(ctx)
			d, err := k.Tokens.Get(ctx, in.ID)
			if err == nil && d.Value.User != p.UserID && !p.Global().Has(auth.Admin) {
				err = records.ErrNotFound // others' tokens are not told apart from none
			}
			if err != nil {
				return nil, err
			}
			if err := k.Tokens.Delete(ctx, d.ID, records.AnyRev); err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "token.revoke", d.ID, "name", d.Value.Name, "user", d.Value.User)
		})
}
