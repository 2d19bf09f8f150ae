package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// TestNeverShown prints a secret in every way that programs print things.
func TestNeverShown(t *testing.T) {
	const value = "hunter2-Grüße"
	type holder struct {
		Name     string
		Password String
		Ptr      *String
		Map      map[string]String
		hidden   String
	}
	s := New(value)
	h := holder{"x", s, &s, map[string]String{"k": s}, s}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb+"\n", h, s, &s)
	}
	fmt.Fprintln(&out, fmt.Errorf("cannot sign in with %v: %s", s, s))
	j, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	y, err := yaml.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(y)
	for _, handler := range []slog.Handler{
		slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}), slog.NewJSONHandler(&out, nil),
	} {
		slog.New(handler).Error("x", "secret", s, "holder", h, "map", h.Map)
	}
	for _, form := range []string{value, fmt.Sprintf("%x", value), fmt.Sprintf("%X", value), "hunter2"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("the secret shows: %s", out.String())
		}
	}
	if s.Reveal() != value || s.Empty() || !New("").Empty() {
		t.Error("Reveal or Empty")
	}
	var back String
	if err := json.Unmarshal([]byte(`"`+value+`"`), &back); err != nil || back.Reveal() != value {
		t.Errorf("unmarshal: %v %q", err, back.Reveal())
	}
}
