package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"ascend/internal/secret"
	"ascend/internal/server/auth"
	"ascend/internal/server/records"
)

// User is an account.
type User struct {
	ID       string       `json:"id"`
	Name     string       `json:"name"`
	Email    string       `json:"email,omitempty"`
	Role     auth.Role    `json:"role"`
	Grants   []auth.Grant `json:"grants,omitempty"`
	Disabled bool         `json:"disabled"`
	SignIn   string       `json:"sign_in" enum:"password,oidc,none" doc:"how the person signs in"`
	LastSeen *time.Time   `json:"last_seen,omitempty"`
	Created  time.Time    `json:"created"`
	Updated  time.Time    `json:"updated"`
}

func userOf(d records.Doc[auth.User]) User {
	u := User{ID: d.ID, Name: d.Value.Name, Email: d.Value.Email, Role: d.Value.Role, Grants: d.Value.Grants, Disabled: d.Value.Disabled, SignIn: "none", Created: d.Created, Updated: d.Updated}
	if d.Value.Subject != "" {
		u.SignIn = "oidc"
	} else if d.Value.Password != "" {
		u.SignIn = "password"
	}
	if !d.Value.LastSeen.IsZero() {
		u.LastSeen = &d.Value.LastSeen
	}
	return u
}

// NewUser is an account to be made.
type NewUser struct {
	Name     string        `json:"name" minLength:"1" maxLength:"128"`
	Email    string        `json:"email,omitempty" maxLength:"320"`
	Role     auth.Role     `json:"role" enum:"viewer,operator,admin"`
	Grants   []auth.Grant  `json:"grants,omitempty" maxItems:"1000" doc:"higher roles on some targets"`
	Password secret.String `json:"password" format:"password" maxLength:"1024" doc:"at least 12 characters; never returned"`
}

// UserChange is what is to be otherwise; absent fields stay.
type UserChange struct {
	Email    *string        `json:"email,omitempty" maxLength:"320"`
	Role     *auth.Role     `json:"role,omitempty" enum:"viewer,operator,admin"`
	Grants   *[]auth.Grant  `json:"grants,omitempty" maxItems:"1000"`
	Disabled *bool          `json:"disabled,omitempty"`
	Password *secret.String `json:"password,omitempty" format:"password" maxLength:"1024"`
}

func (a *API) users() {
	k := a.Keeper
	add(a, op{method: "GET", path: "/users", id: "list-users", summary: "Accounts", tag: "users", role: auth.Admin},
		func(ctx context.Context, in *PageIn) (*List[User], error) {
			return page(ctx, k.Users, "", *in, false, userOf)
		})
	add(a, op{method: "POST", path: "/users", id: "create-user", summary: "Make an account", tag: "users", role: auth.Admin, status: http.StatusCreated, maxBody: 64 << 10},
		func(ctx context.Context, in *struct{ Body NewUser }) (*Created[User], error) {
			b := in.Body
			if err := auth.CheckName(b.Name); err != nil {
				return nil, notValid("body.name", "%v", err)
			}
			if p := auth.From(ctx); p.Setup && b.Role != auth.Admin {
				return nil, notValid("body.role", "the first account must be an admin")
			}
			d, err := k.AddUser(ctx, auth.User{Name: b.Name, Email: b.Email, Role: b.Role, Grants: b.Grants}, b.Password)
			if err != nil {
				return nil, err
			}
			return &Created[User]{Prefix + "/users/" + d.ID, tagOf(d.Rev), userOf(d)}, a.audit(ctx, "user.create", d.ID, "name", b.Name, "role", string(b.Role))
		})
	add(a, op{method: "GET", path: "/users/{id}", id: "get-user", summary: "An account", tag: "users", role: auth.Admin, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[User], error) {
			d, err := k.Users.Get(ctx, in.ID)
			return &One[User]{tagOf(d.Rev), userOf(d)}, err
		})
	add(a, op{method: "PATCH", path: "/users/{id}", id: "change-user", summary: "Change an account", tag: "users", role: auth.Admin, maxBody: 64 << 10, errors: []int{404, 412}},
		func(ctx context.Context, in *struct {
			ID
			IfMatch
			Body UserChange
		}) (*One[User], error) {
			d, err := a.changeUser(ctx, in.ID.ID, in.IfMatch, in.Body)
			return &One[User]{tagOf(d.Rev), userOf(d)}, err
		})
	add(a, op{method: "DELETE", path: "/users/{id}", id: "delete-user", summary: "Remove an account, its sessions and its tokens", tag: "users", role: auth.Admin, status: 204, errors: []int{404, 412}},
		func(ctx context.Context, in *struct {
			ID
			IfMatch
		}) (*struct{}, error) {
			d, err := k.Users.Get(ctx, in.ID.ID)
			if err != nil {
				return nil, err
			}
			if err := in.check(d.Rev); err != nil {
				return nil, err
			}
			if err := a.keepAdmin(ctx, d); err != nil {
				return nil, err
			}
			if err := k.RemoveUser(ctx, d.ID, d.Rev); err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "user.delete", d.ID, "name", d.Value.Name)
		})
	add(a, op{method: "DELETE", path: "/users/{id}/sessions", id: "end-sessions", summary: "Sign somebody out everywhere", tag: "users", role: auth.Admin, status: 204, errors: []int{404}},
		func(ctx context.Context, in *ID) (*struct{}, error) {
			if _, err := k.Users.Get(ctx, in.ID); err != nil {
				return nil, err
			}
			if err := k.EndSessions(ctx, in.ID, ""); err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "user.sign-out", in.ID)
		})
}

func (a *API) keepAdmin(ctx context.Context, d records.Doc[auth.User]) error {
	if d.Value.Role != auth.Admin {
		return nil
	}
	last, err := a.Keeper.LastAdmin(ctx, d.ID)
	if err == nil && last {
		err = auth.ErrLastAdmin
	}
	return err
}

func (a *API) changeUser(ctx context.Context, id string, m IfMatch, c UserChange) (records.Doc[auth.User], error) {
	k := a.Keeper
	d, err := k.Users.Get(ctx, id)
	if err != nil {
		return d, err
	}
	if err := m.check(d.Rev); err != nil {
		return d, err
	}
	if c.Role != nil && *c.Role != auth.Admin || c.Disabled != nil && *c.Disabled {
		if err := a.keepAdmin(ctx, d); err != nil {
			return d, err
		}
	}
	var what []string
	set := func(name string, f func()) { f(); what = append(what, name, "changed") }
	if c.Email != nil {
		set("email", func() { d.Value.Email = *c.Email })
	}
	if c.Role != nil {
		d.Value.Role = *c.Role
		what = append(what, "role", string(*c.Role))
	}
	if c.Grants != nil {
		set("grants", func() { d.Value.Grants = slices.Clone(*c.Grants) })
	}
	if c.Disabled != nil {
		set("disabled", func() { d.Value.Disabled = *c.Disabled })
	}
	if c.Password != nil {
		if d.Value.Subject != "" {
			return d, notValid("body.password", "the person signs in at the identity provider")
		}
		if err := auth.CheckPassword(d.Value.Name, *c.Password); err != nil {
			return d, err
		}
	}
	if err := k.Users.Put(ctx, &d); err != nil {
		return d, err
	}
	if c.Password != nil {
		what = append(what, "password", "changed")
		if err := k.SetPassword(ctx, id, *c.Password, ""); err != nil {
			return d, err
		}
	}
	if d.Value.Disabled {
		if err := k.EndSessions(ctx, id, ""); err != nil {
			return d, err
		}
	}
	if d, err = k.Users.Get(ctx, id); err != nil {
		return d, err
	}
	return d, a.audit(ctx, "user.change", id, what...)
}
