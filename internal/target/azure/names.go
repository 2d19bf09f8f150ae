package azure

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"ascend/internal/target"
)

// Tags that everything bears that a job makes. Undo touches nothing whose jobTag
// is not the job's.
const (
	jobTag     = "ascend-job"
	machineTag = "ascend-machine"
)

// maxName is the number of bytes in a machine's name ("Naming rules and
// restrictions for Azure resources": virtualMachines 1-64 on Linux).
const maxName = 64

// checkName refuses names that no machine can have here.
func checkName(s string) error {
	switch {
	case strings.TrimSpace(s) == "":
		return target.Permanent("the machine has no name", "give the restored machine a name")
	case !utf8.ValidString(s):
		return target.Permanent("the machine's name is not valid UTF-8", "give the restored machine another name")
	case len(s) > maxName:
		return target.Permanent(fmt.Sprintf("the machine's name has %d bytes; Azure allows %d", len(s), maxName), "give the restored machine a shorter name")
	}
	return nil
}

// safe writes a name with what names of resources may hold: ASCII letters,
// digits, periods, hyphens and underscores, beginning and ending with a letter
// or digit. Where more than spaces was lost a digest of the name is added, so
// that different names stay different.
func safe(s string) string {
	lost := false
	out := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		case r == ' ':
			return '-'
		}
		lost = true
		return '-'
	}, s)
	trimmed := strings.Trim(out, "._-")
	if lost || trimmed != out {
		const digits = 8
		trimmed = cut(trimmed, maxName-digits-1)
		if trimmed == "" {
			trimmed = "vm"
		}
		trimmed += "-" + digest(s, digits)
	}
	return trimmed
}

// cut shortens an ASCII name.
func cut(s string, n int) string { return strings.TrimRight(s[:min(len(s), n)], "._-") }

func digest(s string, digits int) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:digits]
}

// partName is the name of a part of a job's machine, such as "web-disk-0-1a2b3c4d5e".
// It holds a digest of the job, so that no other job makes it.
func partName(o *target.Order, part string) string {
	return cut(safe(o.Machine.Name), 40) + "-" + part + "-" + digest(o.Job, 10)
}

// jobValue is the job as a tag's value, of which Azure allows 256 characters.
func jobValue(job string) string {
	if len(job) <= 200 {
		return job
	}
	return digest(job, 64)
}

// tagText makes a text one that a tag can hold.
func tagText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 256 {
		s = string(r[:256])
	}
	return s
}
