package hyperv

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

// maxName is the greatest length of a machine's name in UTF-16 units that is tried;
// the reference of Rename-VM names no bound.
const maxName = 255

// displayName is a machine's name as Hyper-V has it: anything but control characters.
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
	if n := len(utf16.Encode([]rune(s))); n > maxName {
		return "", target.Permanent(fmt.Sprintf("the machine's name has %d characters, more than %d", n, maxName), "restore under a shorter name")
	}
	return s, nil
}

var plainJob = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)

// jobPart is the job's identifier where it must be one word.
func jobPart(job string) string {
	if plainJob.MatchString(job) {
		return job
	}
	sum := sha256.Sum256([]byte(job))
	return hex.EncodeToString(sum[:16])
}

// mark is the line of a machine's notes that says whose it is.
func mark(job string) string { return "ascend.job=" + jobPart(job) }

// maxNotes is the greatest length of notes that are taken over, in bytes.
const maxNotes = 1000

// describe is the machine's own annotation, as far as there is room, and the
// job's mark.
func describe(annotation, job string) string {
	m := mark(job)
	var lines []string
	for line := range strings.Lines(strings.ToValidUTF8(annotation, "")) {
		if line = strings.TrimRight(line, "\r\n"); !strings.HasPrefix(line, "ascend.job=") { // a machine that was restored before
			lines = append(lines, line)
		}
	}
	a := strings.TrimSpace(strings.Join(lines, "\n"))
	if len(a) > maxNotes {
		a = strings.ToValidUTF8(a[:maxNotes], "")
	}
	if a == "" {
		return m
	}
	return a + "\n" + m
}

// maxBase bounds what of a name is in files' names, so that paths stay below
// Windows' 260 characters.
const maxBase = 40

// baseName is the machine's name in names of files: letters and digits of any
// script, and what means nothing to Windows or PowerShell.
func baseName(name string) string {
	var b strings.Builder
	n := 0
	for _, r := range name {
		if n == maxBase {
			break
		}
		switch {
		case unicode.IsLetter(r) || unicode.IsDigit(r), r == '.', r == '-', r == '_':
			b.WriteRune(r)
			n++
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "_"):
			b.WriteByte('_')
			n++
		}
	}
	if s := strings.Trim(b.String(), "._-"); s != "" {
		return s
	}
	return "vm"
}

// tag is the end of the names of a job's folders: no two jobs have the same.
func tag(job string) string {
	sum := sha256.Sum256([]byte(job))
	return "-" + hex.EncodeToString(sum[:5])
}

// folderName is the name of a machine's folder; until the machine is made whole it has it too.
func folderName(name, job string) string { return baseName(name) + tag(job) }

// bears tells whether a path is a job's folder, or a file in it.
func bears(path, job string, file bool) bool {
	if job == "" {
		return false
	}
	parts := strings.Split(path, `\`)
	i := len(parts) - 1
	if file {
		i--
	}
	return i > 0 && strings.HasSuffix(parts[i], tag(job))
}

var (
	drivePath = regexp.MustCompile(`^[A-Za-z]:(\\[^\\/:*?"<>|\x00-\x1f]+)*\\?$`)
	dots      = regexp.MustCompile(`\\[^\\]*[. ](\\|$)`)
)

// cleanPath is a folder of the host as people write it: absolute, on a drive.
func cleanPath(p string) (string, error) {
	p = strings.ReplaceAll(strings.TrimSpace(p), "/", `\`)
	if strings.HasPrefix(p, `\\`) {
		return "", fmt.Errorf("%s is on another server: name a folder of the host itself, such as D:\\VMs", p)
	}
	if !drivePath.MatchString(p) || dots.MatchString(p) {
		return "", fmt.Errorf("%q is no folder of a Windows drive, such as D:\\VMs", p)
	}
	if p = strings.TrimSuffix(p, `\`); len(p) == 2 {
		p += `\`
	}
	return p, nil
}

// join puts a name below a folder.
func join(folder, name string) string { return strings.TrimSuffix(folder, `\`) + `\` + name }

// below is what path is relative to root; ok tells whether it lies there. Windows
// does not tell case apart.
func below(path, root string) (rest string, ok bool) {
	root = strings.TrimSuffix(root, `\`)
	if len(path) < len(root) || !strings.EqualFold(path[:len(root)], root) {
		return "", false
	}
	rest = path[len(root):]
	if rest == "" || rest == `\` {
		return "", true
	}
	return rest[1:], rest[0] == '\\'
}

var macDigits = regexp.MustCompile(`^[0-9A-F]{12}$`)

// macAddress is an address as Hyper-V takes it.
func macAddress(s string) (string, error) {
	m := strings.ToUpper(strings.NewReplacer(":", "", "-", "", ".", "").Replace(s))
	if !macDigits.MatchString(m) {
		return "", fmt.Errorf("%q is no MAC address", s)
	}
	if strings.ContainsRune("13579BDF", rune(m[1])) || m == "000000000000" {
		return "", fmt.Errorf("%s is no address of a single adapter", s)
	}
	return m, nil
}
