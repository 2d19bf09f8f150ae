package local

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxName bounds the name of a folder or OVA in bytes: NAME_MAX is 255 on
	// Linux, less ".ova".
	maxName = 255 - len(".ova")
	// maxBase bounds the names inside: a ustar header takes 100 bytes, less
	// "-disk1000000.qcow2".
	maxBase = 80
)

// safeName is the machine's name as a file name: what a file system or a
// terminal would stumble over ('/', NUL, control characters, invalid UTF-8, a
// leading '.' or '-') becomes '_', and what is too long is cut between
// characters. A name that had to be changed ends in eight digits of its
// SHA-256, so that no two machines meet in one name.
func safeName(name string) string {
	var b strings.Builder
	for i, r := range name {
		switch {
		case r == '/' || r == utf8.RuneError || unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp),
			i == 0 && (r == '.' || r == '-'):
			b.WriteByte('_')
		default:
			b.WriteRune(r)
		}
	}
	safe := b.String()
	if safe == name && safe != "" && len(safe) <= maxName {
		return safe
	}
	sum := sha256.Sum256([]byte(name))
	suffix := "-" + hex.EncodeToString(sum[:4])
	if safe == "" {
		safe = "vm"
	}
	return cut(safe, maxName-len(suffix)) + suffix
}

// cut shortens s to at most n bytes, between characters.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// baseName is the machine's name in the names of the files of a package:
// letters, digits, '.', '-' and '_' of ASCII only, because it stands in URIs
// (the descriptor's references), in the manifest and in tar headers, and
// readers differ in how they decode anything else. It need not tell machines
// apart.
func baseName(name string) string {
	var b strings.Builder
	for _, r := range name {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '.', r == '-', r == '_':
			b.WriteRune(r)
		case !strings.HasSuffix(b.String(), "_"):
			b.WriteByte('_')
		}
	}
	base := b.String()
	if len(base) > maxBase {
		base = base[:maxBase]
	}
	if base = strings.Trim(base, "._-"); base == "" {
		return "vm"
	}
	return base
}

// hiddenName is where a job makes the resource name before it takes its
// place. Nobody else uses it.
func hiddenName(job, name string) string {
	sum := sha256.Sum256([]byte(job + "\x00" + name))
	return ".ascend-" + hex.EncodeToString(sum[:12])
}
