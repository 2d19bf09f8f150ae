package backup

import (
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The names of the platform's layout: ctx-<vm>-<timestamp>/disk-<N>/
// backup-<vm>-disk<N>-<timestamp>.<ext>. The machine's name may hold dashes,
// spaces and any letters, and the timestamp's form is not fixed, so the longest
// ending that reads as a time is the timestamp.

var stampForms = []string{
	"20060102-150405", "20060102_150405", "20060102150405", "20060102T150405Z0700", "20060102T150405",
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999",
	"2006-01-02T15-04-05Z0700", "2006-01-02T15-04-05", "2006-01-02-150405", "2006-01-02_150405", "2006-01-02-15-04-05", "2006-01-02_15-04-05",
	"20060102-1504", "200601021504", "2006-01-02", "20060102",
}

// parseTime reads a timestamp of a name or of a sidecar: the forms above, or
// seconds, milliseconds, microseconds or nanoseconds since 1970. A time without
// a zone is UTC.
func parseTime(s string) (time.Time, bool) {
	s = strings.TrimSpace(s)
	if len(s) < 8 || len(s) > 40 {
		return time.Time{}, false
	}
	for _, form := range stampForms {
		if t, err := time.Parse(form, s); err == nil && plausible(t) {
			return t.UTC(), true
		}
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n > 0 {
		for _, unit := range []int64{1e9, 1e6, 1e3, 1} {
			if perSecond := 1e9 / unit; n/perSecond < 1<<33 {
				if t := time.Unix(n/perSecond, n%perSecond*unit); plausible(t) {
					return t.UTC(), true
				}
			}
		}
	}
	return time.Time{}, false
}

// plausible: there were no backups of virtual machines before, and later years
// are numbers that only look like a date.
func plausible(t time.Time) bool { return t.Year() >= 1998 && t.Year() < 2200 }

// parseContext splits the name of a context folder.
func parseContext(name string) (vmName, stamp string, ok bool) {
	rest, ok := strings.CutPrefix(name, "ctx-")
	if !ok || rest == "" {
		return "", "", false
	}
	for i := 1; i < len(rest); i++ {
		if rest[i-1] != '-' || i < 2 {
			continue
		}
		if _, ok := parseTime(rest[i:]); ok {
			return rest[:i-1], rest[i:], true
		}
	}
	return rest, "", true
}

var (
	reDiskFolder = regexp.MustCompile(`^disk-([0-9]{1,4})$`)
	reBackupFile = regexp.MustCompile(`^backup-(.+)-disk([0-9]{1,4})-(.+)$`)
)

// diskNumber is N of a folder disk-N.
func diskNumber(name string) (int, bool) {
	m := reDiskFolder.FindStringSubmatch(name)
	if m == nil {
		return 0, false
	}
	n, err := strconv.Atoi(m[1])
	return n, err == nil
}

// fileName is what the name of a backup file says.
type fileName struct {
	vm    string
	disk  int
	stamp string
}

// parseFile splits the name of a backup file; ok is false for other names.
func parseFile(name string) (fileName, bool) {
	m := reBackupFile.FindStringSubmatch(stem(name))
	if m == nil {
		return fileName{}, false
	}
	n, err := strconv.Atoi(m[2])
	return fileName{m[1], n, m[3]}, err == nil
}

// stem is a file's name without its extension.
func stem(name string) string {
	s := strings.TrimSuffix(name, path.Ext(name))
	if s == "" {
		return name
	}
	return s
}

// clean makes text from a file fit to be shown: one line, valid, bounded.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
	if len(s) > maxNameSize {
		s = strings.ToValidUTF8(s[:maxNameSize], "")
	}
	return strings.TrimSpace(s)
}
