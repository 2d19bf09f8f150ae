// Package auth says who somebody is and what they may do: passwords, sessions,
// tokens, sign-in by OpenID Connect, roles and grants. It speaks HTTP only where
// the protocol of a sign-in is HTTP.
package auth

import (
	"context"
	"errors"
	"slices"
)

// Role is what somebody may do; each includes the ones before it.
type Role string

// Roles.
const (
	None     Role = ""         // signed in or not: nothing but signing in
	Viewer   Role = "viewer"   // sees everything but users, audit and secrets
	Operator Role = "operator" // restores, retries, cancels, undoes
	Admin    Role = "admin"    // configures targets, users and the server
)

var ranks = []Role{None, Viewer, Operator, Admin}

// Roles that can be given.
func Roles() []string { return []string{string(Viewer), string(Operator), string(Admin)} }

// Valid tells whether r is a role that can be given.
func (r Role) Valid() bool { return r != None && slices.Contains(ranks, r) }

// Has tells whether r includes want.
func (r Role) Has(want Role) bool {
	i, j := slices.Index(ranks, r), slices.Index(ranks, want)
	return i >= 0 && i >= j && j >= 0
}

func lower(a, b Role) Role {
	if a.Has(b) {
		return b
	}
	return a
}

// Grant raises somebody's role on one target.
type Grant struct {
	Target string `json:"target" minLength:"1" maxLength:"128" doc:"the target's id"`
	Role   Role   `json:"role" enum:"viewer,operator,admin"`
}

// Principal is who asks.
type Principal struct {
	UserID string
	Name   string // for the audit log
	Role   Role
	Grants []Grant
	// Only, when not nil, are the targets that a token is bound to.
	Only []string
	// Session and CSRF are set for a browser's session.
	Session, CSRF string
	Token         string // the token's id, when one was shown
	Setup         bool   // the one-time token of the first start
}

// On is the role that p has on a target: the higher of its own and the grant's.
func (p *Principal) On(target string) Role {
	if p == nil || p.Only != nil && !slices.Contains(p.Only, target) {
		return None
	}
	r := p.Role
	for _, g := range p.Grants {
		if g.Target == target && g.Role.Has(r) {
			r = g.Role
		}
	}
	return r
}

// Global is the role that p has on what belongs to no target. A token that is
// bound to targets only looks.
func (p *Principal) Global() Role {
	if p == nil {
		return None
	}
	if p.Only != nil {
		return lower(p.Role, Viewer)
	}
	return p.Role
}

// Somewhere is the highest role that p has on any target.
func (p *Principal) Somewhere() Role {
	r := p.Global()
	for _, g := range p.Grants {
		if on := p.On(g.Target); on.Has(r) {
			r = on
		}
	}
	if p != nil && len(p.Only) > 0 && p.Role.Has(r) {
		r = p.Role
	}
	return r
}

// Errors of access.
var (
	// ErrCredentials: the name or the password is wrong, or the account is off.
	ErrCredentials = errors.New("user name or password is wrong")
	// ErrToken: the token is unknown, expired or revoked.
	ErrToken = errors.New("the token is not valid")
	// ErrWeak: a password that is easily guessed.
	ErrWeak = errors.New("the password is too weak")
)

type key struct{}

// With puts p into a context.
func With(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, key{}, p)
}

// From is the principal of a context; nil: nobody.
func From(ctx context.Context) *Principal {
	p, _ := ctx.Value(key{}).(*Principal)
	return p
}
