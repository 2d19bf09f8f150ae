package nutanix

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"ascend/internal/target"
)

// maxName is the greatest length of a machine's name in bytes.
const maxName = 245

// displayName is a machine's name as the platform has it: anything but control
// characters.
func displayName(name string) (string, error) {
	s := strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(name, "\ufffd")))
	if s == "" {
		return "", target.Permanent("the machine has no name", "give it one")
	}
	if len(s) > maxName {
		return "", target.Permanent(fmt.Sprintf("the machine's name has %d bytes and Nutanix takes %d", len(s), maxName), "restore under a shorter name")
	}
	return s, nil
}

var plainJob = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)

// jobPart is the job's identifier where it must be part of a name or a path.
func jobPart(job string) string {
	if plainJob.MatchString(job) {
		return job
	}
	sum := sha256.Sum256([]byte(job))
	return hex.EncodeToString(sum[:16])
}

// thing is the name of the image, and the key of the object, of disk i.
func thing(job string, i int) string { return fmt.Sprintf("ascend-%s-disk-%d", jobPart(job), i) }

// bearsJob tells whether name is one that thing gives for the job.
func bearsJob(name, job string) bool {
	rest, ok := strings.CutPrefix(name, "ascend-"+jobPart(job)+"-disk-")
	_, err := strconv.ParseUint(rest, 10, 16)
	return ok && job != "" && err == nil
}

// mark is the line of a description that says whose a machine is.
func mark(job string) string { return "ascend.job=" + jobPart(job) }

// marked tells whether a description has the job's mark.
func marked(description, job string) bool {
	for line := range strings.Lines(description) {
		if strings.TrimSpace(line) == mark(job) {
			return true
		}
	}
	return false
}

// maxDescription is the greatest length of a description in bytes.
const maxDescription = 1000

// describe is the machine's own annotation, as far as there is room, and the
// job's mark.
func describe(annotation, job string) string {
	m := mark(job)
	a := strings.TrimSpace(strings.ToValidUTF8(annotation, ""))
	if most := maxDescription - len(m) - 1; len(a) > most {
		a = strings.ToValidUTF8(a[:most], "")
	}
	if a == "" {
		return m
	}
	return a + "\n" + m
}

var reID = regexp.MustCompile(`^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)

func isID(s string) bool { return reID.MatchString(s) }
