package adapt

import (
	"slices"
	"strings"
)

// ended is a text whose last line has its end.
func ended(s string) string {
	if s != "" && !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return s
}

// addLines adds the lines that a text does not have.
func addLines(s string, lines []string) string {
	have := strings.Split(s, "\n")
	for i := range have {
		have[i] = strings.TrimSpace(have[i])
	}
	for _, l := range lines {
		if !slices.Contains(have, l) {
			s = ended(s) + l + "\n"
		}
	}
	return s
}

// inName are the bytes that a device's or host's name goes on with.
func inName(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '/' || c == '.'
}

// replaceName replaces a name where it stands alone: not as part of a longer
// one, and not in a comment.
func replaceName(s, old, with string) string {
	if old == "" {
		return s
	}
	var b strings.Builder
	for line := range strings.Lines(s) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			b.WriteString(line)
			continue
		}
		rest := line
		for {
			i := strings.Index(rest, old)
			if i < 0 {
				break
			}
			end := i + len(old)
			alone := (i == 0 || !inName(rest[i-1])) && (end == len(rest) || !inName(rest[end]))
			b.WriteString(rest[:i])
			if alone {
				b.WriteString(with)
			} else {
				b.WriteString(old)
			}
			rest = rest[end:]
		}
		b.WriteString(rest)
	}
	return b.String()
}
