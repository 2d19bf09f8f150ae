package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// User is a local or OIDC user. Role is the server's vocabulary.
type User struct {
	bun.BaseModel `bun:"table:users,alias:u"`

	ID           string    `bun:"id,pk"`
	Name         string    `bun:"name"` // unique
	Email        string    `bun:"email"`
	Role         string    `bun:"role"`
	PasswordHash string    `bun:"password_hash,nullzero"` // argon2id, encoded; empty: no password sign-in
	Disabled     bool      `bun:"disabled"`
	LastSeenAt   time.Time `bun:"last_seen_at,nullzero"`
	Stamp
}

// CreateUser stores a new user and fills the ID.
func (s *Store) CreateUser(ctx context.Context, u *User) error {
	if u.ID == "" {
		u.ID = NewID()
	}
	return insert(ctx, s, "add user "+u.Name, u, nil)
}

// UpdateUser stores a changed user; see Stamp.
func (s *Store) UpdateUser(ctx context.Context, u *User) error {
	return update(ctx, s, "change user "+u.Name, u, "last_seen_at")
}

// SeenUser stores that the user was here, without a new version.
func (s *Store) SeenUser(ctx context.Context, id string) error {
	return s.tx(ctx, "store the visit", func(t *Store) error {
		_, err := t.db.NewUpdate().Model((*User)(nil)).Where("id = ?", id).Set("last_seen_at = ?", now()).Exec(ctx)
		return err
	})
}

// User returns one by ID or name.
func (s *Store) User(ctx context.Context, idOrName string) (*User, error) {
	return get[User](ctx, s, "find user "+cut(idOrName, 80), "id = ? OR name = ?", idOrName, idOrName)
}

// Users lists all by name.
func (s *Store) Users(ctx context.Context) ([]User, error) {
	return all[User](ctx, s, "list users", "name", "1 = 1")
}

// DeleteUser removes a user with tokens, sessions, identities and grants.
// version 0: whatever the version.
func (s *Store) DeleteUser(ctx context.Context, id string, version int64) error {
	return removeVersion[User](ctx, s, "delete the user", id, version)
}

// Identity joins a user to a subject of an OIDC issuer.
type Identity struct {
	bun.BaseModel `bun:"table:identities,alias:i"`

	Issuer    string    `bun:"issuer,pk"`
	Subject   string    `bun:"subject,pk"`
	UserID    string    `bun:"user_id"`
	CreatedAt time.Time `bun:"created_at"`
}

// LinkIdentity joins a subject to a user; one joined to another user is ErrExists.
func (s *Store) LinkIdentity(ctx context.Context, issuer, subject, user string) error {
	return s.tx(ctx, "link the identity", func(t *Store) error {
		i := &Identity{Issuer: issuer, Subject: subject, UserID: user, CreatedAt: now()}
		var have Identity
		err := t.db.NewSelect().Model(&have).Where("issuer = ? AND subject = ?", issuer, subject).Scan(ctx)
		switch {
		case err == nil && have.UserID == user:
			return nil
		case err == nil:
			return fmt.Errorf("cannot link the identity: %w", ErrExists)
		case !errors.Is(err, sql.ErrNoRows):
			return err
		}
		_, err = t.db.NewInsert().Model(i).Exec(ctx)
		return err
	})
}

// UserByIdentity returns the user that a subject is joined to.
func (s *Store) UserByIdentity(ctx context.Context, issuer, subject string) (*User, error) {
	return get[User](ctx, s, "find the user", "id = (SELECT user_id FROM identities WHERE issuer = ? AND subject = ?)", issuer, subject)
}

// Token is an API token or a one-time sign-in token; only its hash is kept.
type Token struct {
	bun.BaseModel `bun:"table:tokens,alias:t"`

	ID        string    `bun:"id,pk"`
	Hash      string    `bun:"hash"` // of the token, at most 64 characters; unique
	UserID    string    `bun:"user_id,nullzero"`
	Name      string    `bun:"name"`
	Role      string    `bun:"role"` // bounds the user's role; empty: the user's
	Once      bool      `bun:"once"` // is used up by UseToken
	Revoked   bool      `bun:"revoked"`
	ExpiresAt time.Time `bun:"expires_at,nullzero"`
	UsedAt    time.Time `bun:"used_at,nullzero"`
	CreatedAt time.Time `bun:"created_at"`
}

// CreateToken stores a token's hash and fills the ID.
func (s *Store) CreateToken(ctx context.Context, k *Token) error {
	if k.ID == "" {
		k.ID = NewID()
	}
	k.CreatedAt = now()
	return s.tx(ctx, "store the token", func(t *Store) error {
		_, err := t.db.NewInsert().Model(k).Exec(ctx)
		return err
	})
}

// UseToken finds a token by its hash, that is neither expired nor revoked nor
// used up (else ErrNotFound), and stores its use, to the minute. Of two
// concurrent uses of a one-time token, one succeeds.
func (s *Store) UseToken(ctx context.Context, hash string) (*Token, error) {
	k, err := get[Token](ctx, s, "find the token", "hash = ?", hash)
	if err != nil {
		return nil, err
	}
	gone := fmt.Errorf("cannot find the token: %w", ErrNotFound)
	at := now()
	if k.Revoked || !k.ExpiresAt.IsZero() && !at.Before(k.ExpiresAt) {
		return nil, gone
	}
	if !k.Once && at.Sub(k.UsedAt).Abs() < time.Minute {
		return k, nil
	}
	err = s.tx(ctx, "store the token's use", func(t *Store) error {
		q := t.db.NewUpdate().Model((*Token)(nil)).Where("id = ?", k.ID).Where("revoked = ?", false).Set("used_at = ?", at)
		if k.Once {
			q = q.Where("used_at IS NULL").Set("revoked = ?", true)
		}
		r, err := q.Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return gone
	})
	if err != nil {
		return nil, err
	}
	k.UsedAt = at
	return k, nil
}

// Tokens lists a user's tokens, of all users when user is empty.
func (s *Store) Tokens(ctx context.Context, user string) ([]Token, error) {
	return all[Token](ctx, s, "list tokens", "created_at, id", "? = '' OR user_id = ?", user, user)
}

// RevokeToken makes a token useless; it stays listed.
func (s *Store) RevokeToken(ctx context.Context, id string) error {
	return s.tx(ctx, "revoke the token", func(t *Store) error {
		r, err := t.db.NewUpdate().Model((*Token)(nil)).Where("id = ?", id).Set("revoked = ?", true).Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return fmt.Errorf("cannot revoke the token: %w", ErrNotFound)
	})
}

// Session is a browser's session; only the cookie's hash is kept.
type Session struct {
	bun.BaseModel `bun:"table:sessions,alias:s"`

	Hash      string    `bun:"hash,pk"`
	UserID    string    `bun:"user_id"`
	CSRF      string    `bun:"csrf"`
	Remote    string    `bun:"remote"`
	Agent     string    `bun:"agent"`
	ExpiresAt time.Time `bun:"expires_at"`
	SeenAt    time.Time `bun:"seen_at"`
	CreatedAt time.Time `bun:"created_at"`
}

// CreateSession stores a session.
func (s *Store) CreateSession(ctx context.Context, v *Session) error {
	v.CreatedAt = now()
	v.SeenAt, v.Agent, v.Remote = v.CreatedAt, cut(v.Agent, maxName), cut(v.Remote, maxName)
	return s.tx(ctx, "store the session", func(t *Store) error {
		_, err := t.db.NewInsert().Model(v).Exec(ctx)
		return err
	})
}

// Session finds a session that has not expired, by its hash.
func (s *Store) Session(ctx context.Context, hash string) (*Session, error) {
	return get[Session](ctx, s, "find the session", "hash = ? AND expires_at > ?", hash, now())
}

// TouchSession stores that a session was used and when it now expires.
func (s *Store) TouchSession(ctx context.Context, hash string, expires time.Time) error {
	return s.tx(ctx, "store the session", func(t *Store) error {
		_, err := t.db.NewUpdate().Model((*Session)(nil)).Where("hash = ?", hash).Set("seen_at = ?", now()).Set("expires_at = ?", expires.UTC()).Exec(ctx)
		return err
	})
}

// DeleteSession ends a session; one that is not there is no error.
func (s *Store) DeleteSession(ctx context.Context, hash string) error {
	return s.tx(ctx, "end the session", func(t *Store) error {
		_, err := t.db.NewDelete().Model((*Session)(nil)).Where("hash = ?", hash).Exec(ctx)
		return err
	})
}

// DeleteSessions ends all sessions of a user.
func (s *Store) DeleteSessions(ctx context.Context, user string) error {
	return s.tx(ctx, "end the user's sessions", func(t *Store) error {
		_, err := t.db.NewDelete().Model((*Session)(nil)).Where("user_id = ?", user).Exec(ctx)
		return err
	})
}

// Grant gives a user a role on one target.
type Grant struct {
	bun.BaseModel `bun:"table:grants,alias:g"`

	UserID    string    `bun:"user_id,pk"`
	TargetID  string    `bun:"target_id,pk"`
	Role      string    `bun:"role"`
	CreatedAt time.Time `bun:"created_at"`
}

// PutGrant stores a grant in place of an earlier one; an empty role removes it.
func (s *Store) PutGrant(ctx context.Context, user, target, role string) error {
	return s.tx(ctx, "store the grant", func(t *Store) error {
		g := &Grant{UserID: user, TargetID: target, Role: role, CreatedAt: now()}
		if _, err := t.db.NewDelete().Model(g).WherePK().Exec(ctx); err != nil || role == "" {
			return err
		}
		_, err := t.db.NewInsert().Model(g).Exec(ctx)
		return err
	})
}

// Grants lists a user's grants; of all users when user is empty.
func (s *Store) Grants(ctx context.Context, user string) ([]Grant, error) {
	return all[Grant](ctx, s, "list grants", "user_id, target_id", "? = '' OR user_id = ?", user, user)
}
