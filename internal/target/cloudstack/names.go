package cloudstack

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf16"

	"ascend/internal/target"
)

// tagKey is the tag and the machine's detail that hold the job's id.
const tagKey = "ascend.job"

// maxDisplay is the greatest length of most texts of the API, in UTF-16 units.
const maxDisplay = 255

// displayName is a machine's name as the platform shows it: anything but control
// characters, which the API refuses.
func displayName(name string) (string, error) {
	s := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(name, "\ufffd"))
	if strings.TrimSpace(s) == "" {
		return "", target.Permanent("the machine has no name", "give it one")
	}
	if n := len(utf16.Encode([]rune(s))); n > maxDisplay {
		return "", target.Permanent(fmt.Sprintf("the machine's name has %d characters and CloudStack takes %d", n, maxDisplay), "restore under a shorter name")
	}
	return s, nil
}

// label is what CloudStack takes as a host name (NetUtils.verifyDomainNameLabel).
var label = regexp.MustCompile(`^[a-zA-Z]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

// hostName is the machine's name where it is a host name; else the letters and
// digits in it and a mark of the job, for host names are unique in a network.
func hostName(display, job string) string {
	if label.MatchString(display) {
		return display
	}
	var b strings.Builder
	for _, r := range display {
		switch {
		case r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)):
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() >= 40 {
			break
		}
	}
	stem := strings.Trim(b.String(), "-")
	if stem == "" || !unicode.IsLetter(rune(stem[0])) {
		stem = strings.TrimSuffix("vm-"+stem, "-")
	}
	sum := sha256.Sum256([]byte(job))
	return stem + "-" + hex.EncodeToString(sum[:4])
}

// thing is the name of what disk i is uploaded as.
func thing(job string, i int) string { return fmt.Sprintf("ascend-%s-disk-%d", job, i) }

// bearsJob tells whether name is one that thing gives for the job.
func bearsJob(name, job string) bool {
	rest, ok := strings.CutPrefix(name, "ascend-"+job+"-disk-")
	return ok && job != "" && regexp.MustCompile(`^\d+(\.qcow2)?$`).MatchString(rest)
}

var reID = regexp.MustCompile(`^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)

func isID(s string) bool { return reID.MatchString(s) }
