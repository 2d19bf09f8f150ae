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
	"ascend/internal/server/jobs"
	"ascend/internal/server/notify"
	"ascend/internal/server/records"
	"ascend/internal/vault"
)

// Settings of the server.
type Settings struct {
	PublicURL string            `json:"public_url,omitempty" maxLength:"500" doc:"where people reach this server; for links in notifications"`
	Limits    jobs.Limits       `json:"limits,omitzero" doc:"of all jobs together"`
	Retention records.Retention `json:"retention,omitzero" doc:"how long things are kept"`
	OIDC      auth.OIDC         `json:"oidc,omitzero" doc:"sign-in at an identity provider"`
	// Allow are networks that notifications may reach although they are private.
	Allow []string `json:"notify_networks,omitempty" maxItems:"100" doc:"private networks that webhooks may reach, as 10.1.0.0/16"`
}

// StoredSettings are settings as the store has them.
type StoredSettings struct {
	Settings
	Sealed []byte `json:"sealed,omitempty"` // the OIDC client's secret
}

// SettingsStore reads and writes them.
type SettingsStore struct {
	Table records.Table[StoredSettings]
	vault *vault.Vault
}

// NewSettings makes a SettingsStore.
func NewSettings(s records.Store, v *vault.Vault) *SettingsStore {
	return &SettingsStore{records.Table[StoredSettings]{Store: s, Kind: "settings"}, v}
}

const settingsID = "server"

// Get reads the settings; those that were never written are empty.
func (s *SettingsStore) Get(ctx context.Context) (records.Doc[StoredSettings], error) {
	d, err := s.Table.Get(ctx, settingsID)
	if errors.Is(err, records.ErrNotFound) {
		d, err = records.Doc[StoredSettings]{Record: records.Record{ID: settingsID}}, nil
	}
	return d, err
}

// ClientSecret is the OIDC client's secret.
func (s *SettingsStore) ClientSecret(v StoredSettings) (secret.String, error) {
	if len(v.Sealed) == 0 {
		return secret.String{}, nil
	}
	b, _, err := s.vault.Open("settings oidc", v.Sealed)
	return secret.New(string(b)), err
}

// SetClientSecret seals it.
func (s *SettingsStore) SetClientSecret(v *StoredSettings, text secret.String) (err error) {
	v.Sealed = nil
	if !text.Empty() {
		v.Sealed, err = s.vault.Seal("settings oidc", []byte(text.Reveal()))
	}
	return err
}

// Rotate seals the secrets with the vault's first key.
func (s *SettingsStore) Rotate(ctx context.Context) error {
	d, err := s.Get(ctx)
	if err != nil || len(d.Value.Sealed) == 0 {
		return err
	}
	text, err := s.ClientSecret(d.Value)
	if err == nil {
		err = s.SetClientSecret(&d.Value, text)
	}
	if err == nil {
		err = s.Table.Put(ctx, &d)
	}
	return err
}

// Guard is what notifications may reach.
func (s *SettingsStore) Guard(ctx context.Context) (notify.Guard, error) {
	d, err := s.Get(ctx)
	if err != nil {
		return notify.Guard{}, err
	}
	allow, err := notify.ParseAllow(d.Value.Allow)
	return notify.Guard{Allow: allow}, err
}

// Link is the address of one of this server's pages; empty when it is not known.
func (s *SettingsStore) Link(ctx context.Context, path string) string {
	d, err := s.Get(ctx)
	if err != nil || d.Value.PublicURL == "" {
		return ""
	}
	return strings.TrimRight(d.Value.PublicURL, "/") + path
}

type settingsBody struct {
	Settings
	OIDCSecretSet bool `json:"oidc_secret_set"`
}

type settingsIn struct {
	IfMatch
	Body struct {
		PublicURL  *string            `json:"public_url,omitempty" maxLength:"500"`
		Limits     *jobs.Limits       `json:"limits,omitempty"`
		Retention  *records.Retention `json:"retention,omitempty"`
		OIDC       *auth.OIDC         `json:"oidc,omitempty"`
		OIDCSecret *secret.String     `json:"oidc_secret,omitempty" format:"password" maxLength:"1000" doc:"the client's secret; written, never read"`
		Allow      *[]string          `json:"notify_networks,omitempty" maxItems:"100"`
	}
}

func (a *API) settings() {
	answer := func(d records.Doc[StoredSettings]) *One[settingsBody] {
		return &One[settingsBody]{tagOf(d.Rev), settingsBody{d.Value.Settings, len(d.Value.Sealed) > 0}}
	}
	add(a, op{method: "GET", path: "/settings", id: "get-settings", summary: "The server's settings", tag: "settings", role: auth.Admin},
		func(ctx context.Context, _ *struct{}) (*One[settingsBody], error) {
			d, err := a.Settings.Get(ctx)
			return answer(d), err
		})
	add(a, op{method: "PATCH", path: "/settings", id: "change-settings", summary: "Change settings; absent ones stay", tag: "settings", role: auth.Admin, maxBody: 256 << 10, errors: []int{412}},
		func(ctx context.Context, in *settingsIn) (*One[settingsBody], error) {
			d, err := a.Settings.Get(ctx)
			if err == nil {
				err = in.check(d.Rev)
			}
			if err != nil {
				return nil, err
			}
			what, err := a.applySettings(in, &d.Value)
			if err != nil {
				return nil, err
			}
			if err := a.Settings.Table.Put(ctx, &d); err != nil {
				return nil, err
			}
			a.Jobs.SetLimits(d.Value.Limits)
			return answer(d), a.audit(ctx, "settings.change", "", what...)
		})
}

func (a *API) applySettings(in *settingsIn, v *StoredSettings) (what []string, err error) {
	b := in.Body
	if b.PublicURL != nil {
		if u, err := url.Parse(*b.PublicURL); *b.PublicURL != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
			return nil, notValid("body.public_url", "it is not https://HOST")
		}
		v.PublicURL = *b.PublicURL
		what = append(what, "public_url", "changed")
	}
	if b.Limits != nil {
		v.Limits = *b.Limits
		what = append(what, "limits", "changed")
	}
	if b.Retention != nil {
		v.Retention = *b.Retention
		what = append(what, "retention", "changed")
	}
	if b.Allow != nil {
		if _, err := notify.ParseAllow(*b.Allow); err != nil {
			return nil, notValid("body.notify_networks", "%v", err)
		}
		v.Allow = *b.Allow
		what = append(what, "notify_networks", "changed")
	}
	if b.OIDC != nil {
		if b.OIDC.Issuer != v.OIDC.Issuer && len(v.Sealed) > 0 && b.OIDCSecret == nil {
			return nil, notValid("body.oidc_secret", "the issuer changes: give the client's secret again, it must not go to another place unasked")
		}
		if b.OIDC.Issuer != "" {
			u, err := url.Parse(b.OIDC.Issuer)
			if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
				return nil, notValid("body.oidc.issuer", "the issuer is not https://HOST…")
			}
			if b.OIDC.ClientID == "" || b.OIDC.RedirectURL == "" {
				return nil, notValid("body.oidc", "client_id and redirect_url are missing")
			}
		}
		for k, r := range b.OIDC.Roles {
			if !r.Valid() {
				return nil, notValid("body.oidc.roles."+k, "%q is no role", r)
			}
		}
		v.OIDC = *b.OIDC
		what = append(what, "oidc", "changed")
	}
	if b.OIDCSecret != nil {
		what = append(what, "oidc_secret", "changed")
		return what, a.Settings.SetClientSecret(v, *b.OIDCSecret)
	}
	return what, nil
}

func isLoopback(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}

func (a *API) auditLog() {
	add(a, op{method: "GET", path: "/audit", id: "list-audit", summary: "Who changed what, from where, the newest first", tag: "audit", role: auth.Admin},
		func(ctx context.Context, in *struct {
			PageIn
			Span
			Actor  string `query:"actor" maxLength:"300"`
			Action string `query:"action" maxLength:"100" doc:"or the beginning of one, as target."`
			Object string `query:"object" maxLength:"200"`
		}) (*List[records.Entry], error) {
			list, next, err := a.Store.Entries(ctx, records.EntryFilter{Actor: in.Actor, Action: in.Action, Object: in.Object, Since: in.Since, Until: in.Until, Cursor: in.Cursor, Limit: in.Limit})
			return listOf(list, next), err
		})
}

// Channel is somewhere to be told. Its secrets are written and never read.
type Channel struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind" enum:"webhook,email,chat"`
	Events   []string  `json:"events" nullable:"false"`
	Disabled bool      `json:"disabled"`
	Host     string    `json:"host,omitempty"`
	Port     int       `json:"port,omitempty"`
	TLS      string    `json:"tls,omitempty"`
	User     string    `json:"user,omitempty"`
	From     string    `json:"from,omitempty"`
	To       []string  `json:"to,omitempty"`
	Secrets  []string  `json:"secrets" nullable:"false" doc:"the names of the secrets that are set"`
	Created  time.Time `json:"created"`
	Updated  time.Time `json:"updated"`
}

// ChannelIn is a channel to be made or replaced.
type ChannelIn struct {
	Kind     string         `json:"kind" enum:"webhook,email,chat"`
	Events   []string       `json:"events" maxItems:"20" nullable:"false" doc:"started, needs-consent, failed, completed, undone, cancelled"`
	Disabled bool           `json:"disabled,omitempty"`
	Host     string         `json:"host,omitempty" maxLength:"255" doc:"of the mail server"`
	Port     int            `json:"port,omitempty" minimum:"0" maximum:"65535"`
	TLS      string         `json:"tls,omitempty" enum:",starttls,tls,none"`
	User     string         `json:"user,omitempty" maxLength:"255"`
	From     string         `json:"from,omitempty" maxLength:"320"`
	To       []string       `json:"to,omitempty" maxItems:"50"`
	URL      *secret.String `json:"url,omitempty" maxLength:"2000" doc:"of a webhook or a chat service; a secret: absent, it stays"`
	Key      *secret.String `json:"key,omitempty" maxLength:"500" doc:"that webhooks are signed with; absent, it stays"`
	Password *secret.String `json:"password,omitempty" maxLength:"500" doc:"of the mail server; absent, it stays"`
}

func (a *API) channels() {
	q := a.Queue
	add(a, op{method: "GET", path: "/channels", id: "list-channels", summary: "Where restores are told of", tag: "notifications", role: auth.Admin},
		func(ctx context.Context, in *PageIn) (*List[Channel], error) {
			return page(ctx, q.Channels, "", *in, false, a.channelOf)
		})
	add(a, op{method: "GET", path: "/channels/{id}", id: "get-channel", summary: "A channel", tag: "notifications", role: auth.Admin, errors: []int{404}},
		func(ctx context.Context, in *ID) (*One[Channel], error) {
			d, err := q.Channels.Get(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			return &One[Channel]{tagOf(d.Rev), a.channelOf(d)}, nil
		})
	add(a, op{method: "PUT", path: "/channels/{id}", id: "put-channel", summary: "Make or replace a channel", tag: "notifications", role: auth.Admin, maxBody: 64 << 10, errors: []int{412}},
		func(ctx context.Context, in *struct {
			ID string `path:"id" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$" maxLength:"63"`
			IfMatch
			Body ChannelIn
		}) (*One[Channel], error) {
			d, err := a.putChannel(ctx, in.ID, in.IfMatch, in.Body)
			if err != nil {
				return nil, err
			}
			return &One[Channel]{tagOf(d.Rev), a.channelOf(d)}, a.audit(ctx, "channel.put", in.ID, "kind", in.Body.Kind)
		})
	add(a, op{method: "DELETE", path: "/channels/{id}", id: "delete-channel", summary: "Remove a channel", tag: "notifications", role: auth.Admin, status: 204, errors: []int{404}},
		func(ctx context.Context, in *ID) (*struct{}, error) {
			if err := q.Channels.Delete(ctx, in.ID, records.AnyRev); err != nil {
				return nil, err
			}
			return nil, a.audit(ctx, "channel.delete", in.ID)
		})
	add(a, op{method: "POST", path: "/channels/{id}/test", id: "test-channel", summary: "Send a message now", tag: "notifications", role: auth.Admin, errors: []int{404, 502}},
		func(ctx context.Context, in *ID) (*One[struct {
			Sent bool `json:"sent"`
		}], error) {
			d, err := q.Channels.Get(ctx, in.ID)
			if err != nil {
				return nil, err
			}
			m := notify.Message{ID: auth.NewID(), Event: notify.Test, Time: time.Now().UTC(), Text: "This is a test of the channel " + in.ID + ", asked for by " + auth.From(ctx).Name + "."}
			if err := q.Try(ctx, d, &m); err != nil {
				if errors.Is(err, vault.ErrKey) {
					return nil, err
				}
				return nil, newProblem(http.StatusBadGateway, "not-delivered", err.Error(), "check the channel")
			}
			out := &One[struct {
				Sent bool `json:"sent"`
			}]{}
			out.Body.Sent = true
			return out, a.audit(ctx, "channel.test", in.ID)
		})
	add(a, op{method: "GET", path: "/deliveries", id: "list-deliveries", summary: "What was told, and what became of it, the newest first", tag: "notifications", role: auth.Admin},
		func(ctx context.Context, in *struct {
			PageIn
			Channel string `query:"channel" maxLength:"63"`
		}) (*List[DeliveryRow], error) {
			return page(ctx, q.Deliveries, in.Channel, in.PageIn, true, func(d records.Doc[notify.Delivery]) DeliveryRow {
				return DeliveryRow{d.ID, d.Created, d.Value}
			})
		})
}

// DeliveryRow is a delivery in a list.
type DeliveryRow struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	notify.Delivery
}

func (a *API) channelOf(d records.Doc[notify.Stored]) Channel {
	v := d.Value
	c := Channel{ID: d.ID, Kind: v.Kind, Events: v.Events, Disabled: v.Disabled, Host: v.Host, Port: v.Port, TLS: v.TLS, User: v.User, From: v.From, To: v.To, Secrets: []string{}, Created: d.Created, Updated: d.Updated}
	if c.Events == nil {
		c.Events = []string{}
	}
	if full, _, err := a.Queue.Open(d.ID, v); err == nil {
		for _, s := range []struct {
			name string
			v    secret.String
		}{{"url", full.Secrets.URL}, {"key", full.Secrets.Key}, {"password", full.Secrets.Password}} {
			if !s.v.Empty() {
				c.Secrets = append(c.Secrets, s.name)
			}
		}
	}
	return c
}

func (a *API) putChannel(ctx context.Context, id string, m IfMatch, b ChannelIn) (records.Doc[notify.Stored], error) {
	d, err := a.Queue.Channels.Get(ctx, id)
	var old notify.Channel
	switch {
	case errors.Is(err, records.ErrNotFound):
	case err != nil:
		return d, err
	default:
		if old, _, err = a.Queue.Open(id, d.Value); err != nil {
			return d, err
		}
	}
	if err := m.check(d.Rev); err != nil {
		return d, err
	}
	c := notify.Channel{Kind: b.Kind, Events: b.Events, Disabled: b.Disabled, Host: b.Host, Port: b.Port, TLS: b.TLS, User: b.User, From: b.From, To: b.To, Secrets: old.Secrets}
	if old.Kind == notify.Email && (b.Host != old.Host || b.TLS != old.TLS) && b.Password == nil && !old.Secrets.Password.Empty() {
		return d, notValid("body.password", "the mail server changes: give the password again, it must not go to another place unasked")
	}
	if old.Kind != b.Kind {
		c.Secrets = notify.Secrets{}
	}
	for _, s := range []struct {
		in *secret.String
		to *secret.String
	}{{b.URL, &c.Secrets.URL}, {b.Key, &c.Secrets.Key}, {b.Password, &c.Secrets.Password}} {
		if s.in != nil {
			*s.to = *s.in
		}
	}
	if err := c.Check(); err != nil {
		return d, err
	}
	d.ID = id
	if d.Value, err = a.Queue.Seal(id, c); err != nil {
		return d, err
	}
	return d, a.Queue.Channels.Put(ctx, &d)
}
