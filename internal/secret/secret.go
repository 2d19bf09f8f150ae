// Package secret holds the one type for passwords, keys and tokens. It prints
// as **redacted** everywhere; only Reveal gives the value.
package secret

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "**redacted**"

// String is a secret text. It never shows its value through fmt, encoding/json,
// encoding.TextMarshaler users (YAML) or log/slog. The zero value is no secret.
//
// The value stands behind a pointer: fmt cannot call methods of unexported
// fields of other structs, and then prints the pointer and not the value.
type String struct{ v *string }

// New wraps a secret value.
func New(v string) String { return String{&v} }

// Reveal returns the value, for the one call that must send it.
func (s String) Reveal() string {
	if s.v == nil {
		return ""
	}
	return *s.v
}

// Empty tells whether no secret is set.
func (s String) Empty() bool { return s.Reveal() == "" }

// String is for fmt.
func (s String) String() string { return s.mask() }

// Format is for every verb of fmt.
func (s String) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.mask()) }

// GoString is for %#v.
func (s String) GoString() string { return s.mask() }

// LogValue is for log/slog.
func (s String) LogValue() slog.Value { return slog.StringValue(s.mask()) }

// MarshalText is for JSON, YAML and whoever else writes text.
func (s String) MarshalText() ([]byte, error) { return []byte(s.mask()), nil }

// UnmarshalText reads the plain value.
func (s *String) UnmarshalText(b []byte) error {
	*s = New(string(b))
	return nil
}

func (s String) mask() string {
	if s.Empty() {
		return ""
	}
	return redacted
}
