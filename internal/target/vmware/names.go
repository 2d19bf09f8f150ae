package vmware

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"ascend/internal/target"
)

// jobKey is the extraConfig key that marks a machine as made by a job; its
// value is the job's id. Undo touches nothing without it.
const jobKey = "ascend.job"

// maxName is the number of characters vSphere allows in a machine's name.
const maxName = 80

var (
	escaper   = strings.NewReplacer("%", "%25", "/", "%2f", `\`, "%5c")
	unescaper = strings.NewReplacer("%25", "%", "%2f", "/", "%2F", "/", "%5c", `\`, "%5C", `\`)
)

// escapeName writes a name as the vSphere API wants names of managed entities:
// %, / and \ as %25, %2f and %5c (vSphere Web Services API Reference,
// ManagedEntity.name and VirtualMachineConfigSpec.name).
func escapeName(s string) string { return escaper.Replace(s) }

// unescapeName is the name as people see it.
func unescapeName(s string) string { return unescaper.Replace(s) }

// checkName refuses names that vSphere cannot hold.
func checkName(name string) error {
	switch {
	case strings.TrimSpace(name) == "":
		return target.Permanent("the machine has no name", "give the restored machine a name")
	case !utf8.ValidString(name):
		return target.Permanent("the machine's name is not valid UTF-8", "")
	case utf8.RuneCountInString(name) > maxName:
		return target.Permanent(fmt.Sprintf("the machine's name has %d characters; vSphere allows %d",
			utf8.RuneCountInString(name), maxName), "give the restored machine a shorter name")
	case strings.ContainsFunc(name, func(r rune) bool { return r < ' ' && !strings.ContainsRune("\t\n\r", r) || r == 0xfffe || r == 0xffff }):
		// XML 1.0, production 2, has no way to write these.
		return target.Permanent("the machine's name holds a character that the API cannot carry", "give the restored machine another name")
	}
	return nil
}

// folderName makes the name of the datastore folder of a job's machine. It
// holds the job's id, so that nothing else can have made it.
func folderName(name, job string) string {
	const room = 100 // bytes; a component of a datastore path may have 255
	name = safeFileName(name)
	for len(name) > room {
		_, n := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-n]
	}
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-'
	}
	if len(job) <= 64 && !strings.ContainsFunc(job, func(r rune) bool { return !plain(r) }) {
		return name + "_" + job // no job's id is the end of another's: it has no "_"
	}
	sum := sha256.Sum256([]byte(job))
	return name + "_" + hex.EncodeToString(sum[:])
}

// safeFileName replaces what is special in datastore paths and URLs.
func safeFileName(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || strings.ContainsRune(`/\:*?"<>|%[]#`, r) || r == utf8.RuneError {
			return '_'
		}
		return r
	}, s)
	for strings.Contains(s, "..") {
		s = strings.ReplaceAll(s, "..", "__")
	}
	return strings.Trim(s, " .")
}
