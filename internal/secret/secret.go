// Package secret holds the one type for passwords, keys and tokens. It prints
// as **redacted** everywhere; only Reveal gives the value.
package secret

import "log/slog"

const redacted = "**redacted**"

// String is a secret text. It never shows its value through fmt, encoding/json,
// encoding.TextMarshaler users (YAML) or log/slog. The zero value is no secret.
type String struct{ v string }

// New wraps a secret value.
func New(v string) String { return String{v} }

// Reveal returns the value, for the one call that must send it.
func (s String) Reveal() string { return s.v }

// Empty tells whether no secret is set.
func (s String) Empty() bool { return s.v == "" }

func (s String) String() string               { return s.mask() }
func (s String) GoString() string             { return s.mask() }
func (s String) LogValue() slog.Value         { return slog.StringValue(s.mask()) }
func (s String) MarshalText() ([]byte, error) { return []byte(s.mask()), nil }

// UnmarshalText reads the plain value.
func (s *String) UnmarshalText(b []byte) error {
	s.v = string(b)
	return nil
}

func (s String) mask() string {
	if s.v == "" {
		return ""
	}
	return redacted
}
