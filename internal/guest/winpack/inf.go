package winpack

import (
	"encoding/binary"
	"errors"
	"strconv"
	"strings"
	"unicode/utf16"
)

// inf is a driver's setup information file (Windows Driver Kit, "General Syntax
// Rules for INF Files"): sections of lines, by names in small letters.
type inf struct {
	sections map[string][]line
	strings  map[string]string
}

// line is "key = a, b, …"; key is "" for a line without one.
type line struct {
	key  string
	args []string
}

// Bounds of an INF.
const (
	maxINF      = 2 << 20
	maxInfLines = 50_000
)

var errINF = errors.New("not a setup information file that can be read")

func parseINF(b []byte) (*inf, error) {
	if len(b) > maxINF {
		return nil, errINF
	}
	f := &inf{sections: map[string][]line{}, strings: map[string]string{}}
	section, lines, long := "", 0, ""
	for l := range strings.Lines(text(b)) {
		if lines++; lines > maxInfLines {
			return nil, errINF
		}
		l = strings.TrimSpace(uncomment(l))
		if strings.HasSuffix(l, `\`) && !strings.Contains(l, "=") && long == "" || strings.HasSuffix(l, `\`) && long != "" {
			if long += strings.TrimSuffix(l, `\`); len(long) > maxText {
				return nil, errINF
			}
			continue
		}
		l, long = long+l, ""
		switch {
		case l == "":
		case l[0] == '[':
			end := strings.IndexByte(l, ']')
			if end < 0 {
				return nil, errINF
			}
			section = strings.ToLower(strings.TrimSpace(l[1:end]))
		case section == "strings":
			k, v, _ := strings.Cut(l, "=")
			f.strings[strings.ToLower(strings.TrimSpace(k))] = unquote(v)
		default:
			key, rest, ok := cutUnquoted(l, '=')
			if !ok {
				key, rest = "", l
			}
			f.sections[section] = append(f.sections[section], line{unquote(key), fields(rest)})
		}
	}
	if len(f.sections["version"]) == 0 {
		return nil, errINF
	}
	for s, ls := range f.sections {
		for i, l := range ls {
			ls[i].key = f.expand(l.key)
			for j, a := range l.args {
				l.args[j] = f.expand(a)
			}
		}
		f.sections[s] = ls
	}
	return f, nil
}

// maxText bounds one text of an INF.
const maxText = 16 << 10

// text decodes UTF-16 with a mark, else takes the bytes as they are.
func text(b []byte) string {
	order := binary.ByteOrder(binary.LittleEndian)
	switch {
	case len(b) >= 2 && b[0] == 0xff && b[1] == 0xfe:
	case len(b) >= 2 && b[0] == 0xfe && b[1] == 0xff:
		order = binary.BigEndian
	default:
		return strings.TrimPrefix(strings.ToValidUTF8(string(b), "?"), "\ufeff")
	}
	b = b[2:]
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = order.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

func uncomment(l string) string {
	before, _, _ := cutUnquoted(l, ';')
	return before
}

// cutUnquoted cuts at the first c outside of quotes.
func cutUnquoted(s string, c byte) (before, after string, ok bool) {
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == c && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func unquote(s string) string {
	s = strings.TrimSpace(s)
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	return strings.ReplaceAll(s, `""`, `"`)
}

func fields(s string) (out []string) {
	for s != "" {
		f, rest, _ := cutUnquoted(s, ',')
		out, s = append(out, unquote(f)), rest
	}
	return out
}

// expand puts the strings in for %name%; %% is a percent sign, and what is no
// string (a directory's number) stays.
func (f *inf) expand(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	var b strings.Builder
	for b.Len() < maxText {
		before, rest, ok := strings.Cut(s, "%")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		name, after, ok := strings.Cut(rest, "%")
		if !ok {
			b.WriteString("%" + rest)
			return b.String()
		}
		v, known := f.strings[strings.ToLower(name)]
		switch {
		case name == "":
			b.WriteByte('%')
		case known:
			b.WriteString(v)
		default:
			b.WriteString("%" + name + "%")
		}
		s = after
	}
	return b.String()
}

func (f *inf) get(section, key string) []string {
	for _, l := range f.sections[strings.ToLower(section)] {
		if strings.EqualFold(l.key, key) {
			return l.args
		}
	}
	return nil
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// install is the section of a model's installation that an architecture takes:
// NAME.ntamd64, NAME.nt, NAME ("INF DDInstall Section").
func (f *inf) install(name, arch string) string {
	for _, s := range []string{"." + arch, ".nt", ""} {
		if _, ok := f.sections[strings.ToLower(name+s)]; ok {
			return strings.ToLower(name + s)
		}
	}
	return ""
}

// number reads a decimal or hexadecimal number.
func number(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 0, 32)
	return uint32(n), err == nil
}

// target is a models section's decoration: NT[arch][.[major][.[minor]
// [.[product type][.[suite][.[build]]]]]] ("INF Manufacturer Section").
type target struct {
	arch                string
	major, minor, build int
	product             int
}

func parseTarget(s string) (t target, ok bool) {
	p := strings.Split(strings.ToLower(strings.TrimSpace(s)), ".")
	if !strings.HasPrefix(p[0], "nt") || len(p) > 6 {
		return t, false
	}
	t.arch = strings.TrimPrefix(p[0], "nt")
	for i, v := range p[1:] {
		if v == "" {
			continue
		}
		n, known := number(v)
		if !known {
			return t, false
		}
		switch i {
		case 0:
			t.major = int(n)
		case 1:
			t.minor = int(n)
		case 2:
			t.product = int(n)
		case 4:
			t.build = int(n)
		}
	}
	return t, true
}

// takes tells whether a system is one that the decoration is for.
func (t target) takes(s System) bool {
	if t.arch != s.arch() && (t.arch != "" || s.arch() != "x86") {
		return false
	}
	if t.product != 0 && (t.product == 1) == s.Server {
		return false
	}
	return compare([]int{t.major, t.minor, t.build}, []int{s.Major, s.Minor, s.Build}) <= 0
}

func (t target) rank() []int { return []int{t.major, t.minor, t.build, t.product} }
