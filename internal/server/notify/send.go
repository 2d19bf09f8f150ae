package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nicholas-fedor/shoutrrr"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"
	"github.com/wneessen/go-mail"
)

// Headers of a webhook. The signature is over TIMESTAMP "." BODY, so that a
// message caught on its way cannot be sent again later: the receiver refuses old
// timestamps, and ids that it has seen.
const (
	HeaderID        = "Ascend-Id"
	HeaderTimestamp = "Ascend-Timestamp" // seconds since 1970
	HeaderSignature = "Ascend-Signature" // v1=HEX, HMAC-SHA256
)

// Sign is a webhook's signature.
func Sign(key string, timestamp int64, body []byte) string {
	m := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(m, "%d.", timestamp)
	m.Write(body)
	return "v1=" + hex.EncodeToString(m.Sum(nil))
}

// Chat services that are known to send nowhere but to themselves, and those whose
// host the URL names; other schemes would reach anything.
var (
	chatFixed = []string{"discord", "slack", "teams", "telegram", "googlechat", "pushover", "pushbullet", "opsgenie", "pagerduty", "join", "ifttt"}
	chatHost  = []string{"mattermost", "rocketchat", "matrix", "gotify", "ntfy", "zulip"}
)

// Check refuses a channel that cannot work.
func (c *Channel) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrChannel, fmt.Sprintf(format, args...))
	}
	for _, e := range c.Events {
		if !slices.Contains(Events(), e) {
			return bad("there is no event %q; there are %s", e, strings.Join(Events(), ", "))
		}
	}
	switch c.Kind {
	case Webhook:
		u, err := url.Parse(c.Secrets.URL.Reveal())
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
			return bad("the URL is not https://HOST/…")
		}
		if len(c.Secrets.Key.Reveal()) < 16 {
			return bad("the key that messages are signed with needs 16 characters")
		}
	case Email:
		if c.Host == "" || len(c.To) == 0 || c.From == "" {
			return bad("e-mail needs host, from and to")
		}
		m := mail.NewMsg()
		if m.From(c.From) != nil || m.To(c.To...) != nil {
			return bad("from and to are e-mail addresses")
		}
		if !slices.Contains([]string{"", "starttls", "tls", "none"}, c.TLS) {
			return bad("tls is starttls, tls or none")
		}
	case Chat:
		u, err := url.Parse(c.Secrets.URL.Reveal())
		if err != nil || !slices.Contains(chatFixed, u.Scheme) && !slices.Contains(chatHost, u.Scheme) {
			return bad("the URL's scheme is not one of %s", strings.Join(slices.Concat(chatFixed, chatHost), ", "))
		}
		if _, err := shoutrrr.CreateSender(c.Secrets.URL.Reveal()); err != nil {
			return bad("the URL is not one of the service %s", u.Scheme) // the error tells the URL
		}
	default:
		return bad("kind is webhook, email or chat")
	}
	return nil
}

// Send sends a message once. Errors hold no secret; ErrRefused says that trying
// again is of no use.
func (c *Channel) Send(ctx context.Context, g Guard, m *Message) error {
	if err := c.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	switch c.Kind {
	case Webhook:
		return c.webhook(ctx, g, m)
	case Email:
		return c.email(ctx, m)
	}
	return c.chat(ctx, g, m)
}

func (c *Channel) webhook(ctx context.Context, g Guard, m *Message) error {
	body, err := json.Marshal(m)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Secrets.URL.Reveal(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%w: the URL is not valid", ErrRefused)
	}
	now := time.Now().Unix()
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "ascend")
	r.Header.Set(HeaderID, m.ID)
	r.Header.Set(HeaderTimestamp, strconv.FormatInt(now, 10))
	r.Header.Set(HeaderSignature, Sign(c.Secrets.Key.Reveal(), now, body))
	resp, err := g.client().Do(r)
	if err != nil {
		var ue *url.Error // its text tells the URL
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return fmt.Errorf("cannot reach the webhook: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	switch s := resp.StatusCode; {
	case s < 300:
		return nil
	case s == http.StatusRequestTimeout || s == http.StatusTooManyRequests || s >= 500:
		return fmt.Errorf("the webhook answered %s", resp.Status)
	default:
		return fmt.Errorf("%w: the webhook answered %s", ErrRefused, resp.Status)
	}
}

func (c *Channel) email(ctx context.Context, m *Message) error {
	msg := mail.NewMsg()
	if err := errors.Join(msg.From(c.From), msg.To(c.To...)); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	msg.Subject(m.Subject())
	msg.SetMessageIDWithValue(m.ID + "@ascend.invalid")
	msg.SetDate()
	msg.SetBodyString(mail.TypeTextPlain, m.Body())
	var d interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	if c.TLS == "tls" {
		d = &tls.Dialer{Config: &tls.Config{ServerName: c.Host, MinVersion: tls.VersionTLS12}}
	}
	// The client waits for ever for a server that answers a refusal with silence.
	o := []mail.Option{mail.WithTimeout(mailTime), mail.WithDialContextFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err == nil {
			conn = &bounded{conn, time.Now().Add(mailTime)}
			err = conn.SetDeadline(time.Time{})
		}
		return conn, err
	})}
	switch c.TLS {
	case "tls":
		o = append(o, mail.WithSSLPort(false))
	case "none":
		o = append(o, mail.WithTLSPolicy(mail.NoTLS))
	default:
		o = append(o, mail.WithTLSPolicy(mail.TLSMandatory))
	}
	if c.Port > 0 {
		o = append(o, mail.WithPort(c.Port))
	}
	if c.User != "" {
		o = append(o, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(c.User), mail.WithPassword(c.Secrets.Password.Reveal()))
	}
	client, err := mail.NewClient(c.Host, o...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := client.DialAndSendWithContext(ctx, msg); err != nil {
		return fmt.Errorf("cannot send the e-mail: %s", c.hide(err))
	}
	return nil
}

// mailTime bounds the sending of one mail; tests wait less.
var mailTime = 30 * time.Second

// bounded is a connection that ends at a time, whatever its user sets.
type bounded struct {
	net.Conn
	until time.Time
}

func (b *bounded) sooner(t time.Time) time.Time {
	if t.IsZero() || t.After(b.until) {
		return b.until
	}
	return t
}

func (b *bounded) SetDeadline(t time.Time) error      { return b.Conn.SetDeadline(b.sooner(t)) }
func (b *bounded) SetReadDeadline(t time.Time) error  { return b.Conn.SetReadDeadline(b.sooner(t)) }
func (b *bounded) SetWriteDeadline(t time.Time) error { return b.Conn.SetWriteDeadline(b.sooner(t)) }

func (c *Channel) chat(ctx context.Context, g Guard, m *Message) error {
	u, err := url.Parse(c.Secrets.URL.Reveal())
	if err != nil {
		return fmt.Errorf("%w: the URL is not valid", ErrRefused)
	}
	if slices.Contains(chatHost, u.Scheme) {
		if err := g.Host(ctx, u.Hostname()); err != nil {
			return err
		}
	}
	sender, err := shoutrrr.CreateSender(c.Secrets.URL.Reveal())
	if err != nil {
		return fmt.Errorf("%w: the URL is not one of the service %s", ErrRefused, u.Scheme)
	}
	sender.Timeout = 20 * time.Second
	for _, err := range sender.Send(m.Subject()+"\n"+m.Body(), &types.Params{}) {
		if err != nil {
			return fmt.Errorf("cannot send to %s: %s", u.Scheme, c.hide(err))
		}
	}
	return nil
}

// hide is an error's text without the channel's secrets and their parts.
func (c *Channel) hide(err error) string {
	s := err.Error()
	parts := []string{c.Secrets.URL.Reveal(), c.Secrets.Key.Reveal(), c.Secrets.Password.Reveal()}
	if u, err := url.Parse(parts[0]); err == nil {
		if u.User != nil {
			p, _ := u.User.Password()
			parts = append(parts, p, u.User.Username())
		}
		parts = append(parts, strings.FieldsFunc(u.Path+"/"+u.RawQuery+"/"+u.Fragment, func(r rune) bool { return strings.ContainsRune("/&=?@:", r) })...)
		if !slices.Contains(chatHost, u.Scheme) {
			parts = append(parts, u.Host)
		}
	}
	slices.SortFunc(parts, func(a, b string) int { return len(b) - len(a) })
	for _, p := range parts {
		if len(p) >= 4 {
			s = strings.ReplaceAll(s, p, "**redacted**")
		}
	}
	return oneLine(s)
}
