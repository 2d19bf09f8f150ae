// Package notify tells people what happens to restores: by webhook, e-mail and
// chat services. What is to be told is stored before it is sent, tried again
// when it fails, and what became of it is recorded.
package notify

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"ascend/internal/secret"
)

// Events that are told.
const (
	Started   = "started"
	Consent   = "needs-consent"
	Failed    = "failed"
	Completed = "completed"
	Undone    = "undone"
	Cancelled = "cancelled"
	Test      = "test"
)

// Events lists those a channel can ask for.
func Events() []string { return []string{Started, Consent, Failed, Completed, Undone, Cancelled} }

// Message is one thing that happened.
type Message struct {
	ID     string    `json:"id"` // the same however often it is sent
	Event  string    `json:"event"`
	Time   time.Time `json:"time"`
	Job    string    `json:"job,omitempty"`
	Status string    `json:"status,omitempty"`
	VM     string    `json:"vm,omitempty"`
	Backup string    `json:"backup,omitempty"`
	Target string    `json:"target,omitempty"`
	Error  string    `json:"error,omitempty"`
	Text   string    `json:"text"`          // one sentence
	URL    string    `json:"url,omitempty"` // where to look
}

// Subject is a line for people.
func (m *Message) Subject() string {
	what := strings.ReplaceAll(m.Event, "-", " ")
	if m.VM == "" {
		return "ascend: " + what
	}
	return oneLine(fmt.Sprintf("ascend: restore of %s to %s: %s", m.VM, m.Target, what))
}

// Body is the text for people.
func (m *Message) Body() string {
	var b strings.Builder
	fmt.Fprintln(&b, m.Text)
	for _, l := range [][2]string{{"job", m.Job}, {"status", m.Status}, {"error", m.Error}, {"see", m.URL}} {
		if l[1] != "" {
			fmt.Fprintf(&b, "%s: %s\n", l[0], oneLine(l[1]))
		}
	}
	return b.String()
}

// oneLine makes a text of others safe for headers and terminals.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return ' '
		}
		return r
	}, s)
}

// Kinds of channels.
const (
	Webhook = "webhook"
	Email   = "email"
	Chat    = "chat"
)

// Channel is somewhere to tell. Secrets stand in Secrets only; a chat service's
// URL is one.
type Channel struct {
	Kind     string   `json:"kind"`
	Events   []string `json:"events"`
	Disabled bool     `json:"disabled,omitempty"`
	// Of e-mail.
	Host string   `json:"host,omitempty"`
	Port int      `json:"port,omitempty"`
	TLS  string   `json:"tls,omitempty"` // starttls (the default), tls, none
	User string   `json:"user,omitempty"`
	From string   `json:"from,omitempty"`
	To   []string `json:"to,omitempty"`

	Secrets Secrets `json:"-"`
}

// Secrets of a channel.
type Secrets struct {
	URL      secret.String // of a webhook or chat service
	Key      secret.String // that webhooks are signed with
	Password secret.String // of the mail server
}

// ErrChannel: the channel's settings cannot be.
var ErrChannel = errors.New("cannot use the channel")

// ErrRefused: the other side will not take it; trying again is of no use.
var ErrRefused = errors.New("refused")
