package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"ascend/internal/secret"
	"ascend/internal/server/records"
)

// User is an account. Password is a PHC string, empty for accounts that sign in
// elsewhere.
type User struct {
	Name     string    `json:"name"`
	Email    string    `json:"email,omitempty"`
	Role     Role      `json:"role"`
	Grants   []Grant   `json:"grants,omitempty"`
	Disabled bool      `json:"disabled,omitempty"`
	Password string    `json:"password,omitempty"`
	Subject  string    `json:"subject,omitempty"` // issuer and subject of OpenID Connect
	LastSeen time.Time `json:"last_seen,omitzero"`
}

// Token is an API token. Its secret is stored as a hash only: it has 256 bits.
type Token struct {
	Name    string    `json:"name"`
	User    string    `json:"user"` // id; empty for the one-time token
	Role    Role      `json:"role"` // at most this, and at most the user's
	Targets []string  `json:"targets,omitempty"`
	Hash    string    `json:"hash"`
	Setup   bool      `json:"setup,omitempty"`
	Used    time.Time `json:"used,omitzero"`
	Until   time.Time `json:"until,omitzero"`
}

// Session is a browser's sign-in.
type Session struct {
	User    string    `json:"user"`
	CSRF    string    `json:"csrf"`
	Address string    `json:"address"`
	Agent   string    `json:"agent"`
	Used    time.Time `json:"used"`
}

// How long a session lasts without use, and at most.
const (
	SessionIdle = 12 * time.Hour
	SessionLife = 7 * 24 * time.Hour
	setupLife   = 24 * time.Hour
)

// TokenPrefix begins every API token, for scanners that look for leaked ones.
const TokenPrefix = "ascend_"

// Keeper knows users, tokens and sessions. Safe for concurrent use.
type Keeper struct {
	Users    records.Table[User]
	Tokens   records.Table[Token]
	Sessions records.Table[Session]
	Guard    *Guard
	hasher   *Hasher
}

// NewKeeper makes a keeper over a store.
func NewKeeper(s records.Store) *Keeper {
	return &Keeper{
		Users:    records.Table[User]{Store: s, Kind: "user"},
		Tokens:   records.Table[Token]{Store: s, Kind: "token"},
		Sessions: records.Table[Session]{Store: s, Kind: "session"},
		Guard:    NewGuard(s),
		hasher:   NewHasher(2),
	}
}

// NewID is a new identifier that sorts by time.
func NewID() string { return ulid.MustNew(ulid.Now(), rand.Reader).String() }

func random() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// UserID is the id of the account of a name: names are unique whatever their case.
func UserID(name string) string { return "u" + digest(strings.ToLower(name))[:24] }

// CheckName refuses names that are no account's.
func CheckName(name string) error {
	if name == "" || len(name) > 128 || name != strings.TrimSpace(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }) {
		return errors.New("a user's name has 1 to 128 bytes and no spaces at its ends")
	}
	return nil
}

// AddUser makes an account; password is empty for accounts that sign in elsewhere.
func (k *Keeper) AddUser(ctx context.Context, u User, password secret.String) (records.Doc[User], error) {
	d := records.Doc[User]{Record: records.Record{ID: UserID(u.Name)}, Value: u}
	if err := CheckName(u.Name); err != nil {
		return d, err
	}
	if !password.Empty() {
		if err := k.setPassword(ctx, &d.Value, password); err != nil {
			return d, err
		}
	}
	return d, k.Users.Put(ctx, &d)
}

func (k *Keeper) setPassword(ctx context.Context, u *User, password secret.String) (err error) {
	if err := CheckPassword(u.Name, password); err != nil {
		return err
	}
	u.Password, err = k.hasher.Hash(ctx, password)
	return err
}

// SetPassword changes an account's password and ends its sessions, but for the
// one that is kept.
func (k *Keeper) SetPassword(ctx context.Context, id string, password secret.String, keep string) error {
	d, err := k.Users.Get(ctx, id)
	if err != nil {
		return err
	}
	if err := k.setPassword(ctx, &d.Value, password); err != nil {
		return err
	}
	if err := k.Users.Put(ctx, &d); err != nil {
		return err
	}
	return k.EndSessions(ctx, id, keep)
}

// EndSessions signs an account out everywhere, but for the session that is kept.
func (k *Keeper) EndSessions(ctx context.Context, user, keep string) error {
	list, err := k.Sessions.All(ctx, user)
	for _, s := range list {
		if s.ID != keep {
			err = errors.Join(err, ignoreGone(k.Sessions.Delete(ctx, s.ID, records.AnyRev)))
		}
	}
	return err
}

// RemoveUser deletes an account with its sessions and tokens.
func (k *Keeper) RemoveUser(ctx context.Context, id string, ifRev int64) error {
	if err := k.Users.Delete(ctx, id, ifRev); err != nil {
		return err
	}
	err := k.EndSessions(ctx, id, "")
	list, lerr := k.Tokens.All(ctx, id)
	err = errors.Join(err, lerr)
	for _, t := range list {
		err = errors.Join(err, ignoreGone(k.Tokens.Delete(ctx, t.ID, records.AnyRev)))
	}
	return err
}

func ignoreGone(err error) error {
	if errors.Is(err, records.ErrNotFound) {
		return nil
	}
	return err
}

// SignIn checks a name and a password and begins a session. The secret is what
// the browser's cookie holds.
func (k *Keeper) SignIn(ctx context.Context, name string, password secret.String, address, agent string) (*Principal, secret.String, error) {
	id := UserID(name)
	free, err := k.Guard.Begin(ctx, id, address)
	if err != nil {
		return nil, secret.String{}, err
	}
	defer free()
	d, err := k.Users.Get(ctx, id)
	if err != nil && !errors.Is(err, records.ErrNotFound) {
		return nil, secret.String{}, err
	}
	if err := k.hasher.Verify(ctx, password, d.Value.Password); err != nil || d.Value.Disabled || d.Value.Password == "" {
		if err == nil || errors.Is(err, ErrCredentials) {
			err = errors.Join(ErrCredentials, k.Guard.Failed(ctx, id, address))
		}
		return nil, secret.String{}, err
	}
	if err := k.Guard.Passed(ctx, id); err != nil {
		return nil, secret.String{}, err
	}
	return k.Begin(ctx, d, address, agent)
}

// Begin begins a session of an account whose owner has proved who they are.
func (k *Keeper) Begin(ctx context.Context, d records.Doc[User], address, agent string) (*Principal, secret.String, error) {
	now := time.Now().UTC().Truncate(time.Second)
	text := random()
	s := records.Doc[Session]{
		Record: records.Record{ID: digest(text), Ref: d.ID, Expires: now.Add(SessionIdle)},
		Value:  Session{User: d.ID, CSRF: random(), Address: address, Agent: clip(agent, 200), Used: now},
	}
	if err := k.Sessions.Put(ctx, &s); err != nil {
		return nil, secret.String{}, err
	}
	d.Value.LastSeen = now
	if err := k.Users.Put(ctx, &d); err != nil && !errors.Is(err, records.ErrConflict) {
		return nil, secret.String{}, err
	}
	return principal(d, s), secret.New(text), nil
}

func principal(d records.Doc[User], s records.Doc[Session]) *Principal {
	return &Principal{UserID: d.ID, Name: d.Value.Name, Role: d.Value.Role, Grants: d.Value.Grants, Session: s.ID, CSRF: s.Value.CSRF}
}

func clip(s string, n int) string {
	if len(s) > n {
		s = strings.ToValidUTF8(s[:n], "")
	}
	return s
}

// SignOut ends a session.
func (k *Keeper) SignOut(ctx context.Context, session string) error {
	return ignoreGone(k.Sessions.Delete(ctx, session, records.AnyRev))
}

// BySession is who a cookie's secret stands for.
func (k *Keeper) BySession(ctx context.Context, text string) (*Principal, error) {
	s, err := k.Sessions.Get(ctx, digest(text))
	if err != nil {
		return nil, tokenError(err)
	}
	d, err := k.Users.Get(ctx, s.Value.User)
	if err != nil {
		return nil, tokenError(err)
	}
	now := time.Now().UTC()
	if d.Value.Disabled || now.After(s.Created.Add(SessionLife)) || now.After(s.Expires) {
		return nil, ErrToken
	}
	if now.Sub(s.Value.Used) > 5*time.Minute {
		s.Value.Used, s.Expires = now.Truncate(time.Second), now.Add(SessionIdle)
		if err := k.Sessions.Put(ctx, &s); err != nil && !errors.Is(err, records.ErrConflict) && !errors.Is(err, records.ErrNotFound) {
			return nil, err
		}
	}
	return principal(d, s), nil
}

func tokenError(err error) error {
	if errors.Is(err, records.ErrNotFound) {
		return ErrToken
	}
	return err
}

// AddToken makes a token for a user and returns its text, which is told once.
func (k *Keeper) AddToken(ctx context.Context, t Token) (records.Doc[Token], secret.String, error) {
	id := strings.ToLower(NewID())
	text := TokenPrefix + id + "_" + random()
	t.Hash = digest(text)
	d := records.Doc[Token]{Record: records.Record{ID: id, Ref: t.User}, Value: t}
	return d, secret.New(text), k.Tokens.Put(ctx, &d)
}

// ByToken is who a token's text stands for.
func (k *Keeper) ByToken(ctx context.Context, text string) (*Principal, error) {
	rest, ok := strings.CutPrefix(text, TokenPrefix)
	id, _, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || len(text) > 200 {
		return nil, ErrToken
	}
	t, err := k.Tokens.Get(ctx, id)
	if err != nil {
		return nil, tokenError(err)
	}
	now := time.Now().UTC()
	// The comparison is of hashes: its time tells nothing of the token.
	if t.Value.Hash != digest(text) || !t.Value.Until.IsZero() && now.After(t.Value.Until) {
		return nil, ErrToken
	}
	p := &Principal{Token: t.ID, Role: t.Value.Role, Only: t.Value.Targets, Name: "token:" + t.Value.Name, Setup: t.Value.Setup}
	if t.Value.Setup {
		if any, err := k.AnyUser(ctx); err != nil || any {
			return nil, errors.Join(err, ErrToken)
		}
		p.Name = "first start"
		return p, nil
	}
	d, err := k.Users.Get(ctx, t.Value.User)
	if err != nil {
		return nil, tokenError(err)
	}
	if d.Value.Disabled {
		return nil, ErrToken
	}
	p.UserID, p.Name = d.ID, d.Value.Name+" (token "+t.Value.Name+")"
	p.Role = lower(t.Value.Role, d.Value.Role)
	for _, g := range d.Value.Grants {
		p.Grants = append(p.Grants, Grant{g.Target, lower(t.Value.Role, g.Role)})
	}
	if now.Sub(t.Value.Used) > 10*time.Minute {
		t.Value.Used = now.Truncate(time.Second)
		if err := k.Tokens.Put(ctx, &t); err != nil && !errors.Is(err, records.ErrConflict) && !errors.Is(err, records.ErrNotFound) {
			return nil, err
		}
	}
	return p, nil
}

// AnyUser tells whether there is an account.
func (k *Keeper) AnyUser(ctx context.Context) (bool, error) {
	list, err := k.Users.List(ctx, "", records.Page{Limit: 1})
	return len(list) > 0, err
}

// SetupToken makes the one-time token of the first start; it takes the place of
// an earlier one and is of no use once there is an account. Empty when there is.
func (k *Keeper) SetupToken(ctx context.Context) (secret.String, error) {
	if any, err := k.AnyUser(ctx); err != nil || any {
		return secret.String{}, err
	}
	old, err := k.Tokens.All(ctx, "")
	if err != nil {
		return secret.String{}, err
	}
	for _, t := range old {
		if t.Value.Setup {
			if err := ignoreGone(k.Tokens.Delete(ctx, t.ID, records.AnyRev)); err != nil {
				return secret.String{}, err
			}
		}
	}
	_, text, err := k.AddToken(ctx, Token{Name: "first start", Role: Admin, Setup: true, Until: time.Now().UTC().Add(setupLife)})
	return text, err
}

// LastAdmin tells whether no other account than id that is not switched off is
// an admin: it must stay.
func (k *Keeper) LastAdmin(ctx context.Context, id string) (bool, error) {
	all, err := k.Users.All(ctx, "")
	return err == nil && !slices.ContainsFunc(all, func(d records.Doc[User]) bool {
		return d.ID != id && d.Value.Role == Admin && !d.Value.Disabled
	}), err
}

// ErrLastAdmin: somebody must be left who can let others in.
var ErrLastAdmin = fmt.Errorf("this is the last admin")

// Prove checks the password of somebody who is signed in.
func (k *Keeper) Prove(ctx context.Context, id string, password secret.String, address string) error {
	free, err := k.Guard.Begin(ctx, id, address)
	if err != nil {
		return err
	}
	defer free()
	d, err := k.Users.Get(ctx, id)
	if err != nil {
		return err
	}
	if err := k.hasher.Verify(ctx, password, d.Value.Password); err != nil {
		if errors.Is(err, ErrCredentials) {
			err = errors.Join(err, k.Guard.Failed(ctx, id, address))
		}
		return err
	}
	return k.Guard.Passed(ctx, id)
}
