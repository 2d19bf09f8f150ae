package local

import (
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSafeName(t *testing.T) {
	for _, name := range []string{
		"plain", "two words", "Büro-Server № 5 サーバー 🖥", `it's "quoted" $(x) ; rm -rf *`, "a\\b", "~root", "trailing.", strings.Repeat("x", maxName),
	} {
		if got := safeName(name); got != name {
			t.Errorf("safeName(%q) = %q; nothing is wrong with the name", name, got)
		}
	}
	for name, want := range map[string]string{
		"":                       `^vm-[0-9a-f]{8}$`,
		".":                      `^_-[0-9a-f]{8}$`,
		"..":                     `^_\.-[0-9a-f]{8}$`,
		"../../etc/passwd":       `^_\._\.\._etc_passwd-|^_\._\.\._`,
		"/":                      `^_-`,
		"a/b":                    `^a_b-`,
		".hidden":                `^_hidden-`,
		"-rf":                    `^_rf-`,
		"a\x00b":                 `^a_b-`,
		"a\nb\x7f\x1b[2J":        `^a_b__\[2J-`,
		"bad \xff utf8":          `^bad _ utf8-`,
		"x\u202egpj.exe":         `^x_gpj\.exe-`,
		"line\u2028separator":    `^line_separator-`,
		strings.Repeat("ü", 200): `^ü{121}-[0-9a-f]{8}$`,
		strings.Repeat("x", 252): `^x{242}-[0-9a-f]{8}$`,
	} {
		if got := safeName(name); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("safeName(%q) = %q, want %s", name, got, want)
		}
	}
	if safeName("a/b") == safeName("a_b") || safeName("a/b") == safeName("a\x00b") {
		t.Error("two machines meet in one name")
	}
}

func TestBaseName(t *testing.T) {
	for name, want := range map[string]string{
		"web-01.example.org":     "web-01.example.org",
		"two words":              "two_words",
		"Büro  Server":           "B_ro_Server",
		"サーバー":                   "vm",
		"":                       "vm",
		"../../etc":              "etc",
		"-rf":                    "rf",
		"$(id)":                  "id",
		strings.Repeat("x", 200): strings.Repeat("x", maxBase),
	} {
		if got := baseName(name); got != want {
			t.Errorf("baseName(%q) = %q, want %q", name, got, want)
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"", "a", "..", "a/b", "ü\xff", strings.Repeat("🖥", 99), "\u202e", "-x", "a\x00"} {
		f.Add(s, s+"/")
	}
	base := regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	f.Fuzz(func(t *testing.T, a, b string) {
		safe := safeName(a)
		if safe == "" || len(safe) > maxName || !utf8.ValidString(safe) || strings.ContainsAny(safe, "/\x00\n") || safe[0] == '.' || safe[0] == '-' {
			t.Errorf("safeName(%q) = %q", a, safe)
		}
		if safe == safeName(b) && a != b {
			t.Errorf("%q and %q are both called %q", a, b, safe)
		}
		if got := baseName(a); !base.MatchString(got) || len(got) > maxBase {
			t.Errorf("baseName(%q) = %q", a, got)
		}
	})
}
