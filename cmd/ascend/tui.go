package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/restore"
	"ascend/internal/target"
	"ascend/internal/transfer/journal"
)

// The command line's voice: no capitals at the start, no full stop, the error
// on one line and what to do about it on the next.

// hinted is an error that knows what the user can do.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func withHint(err error, format string, args ...any) error {
	return hinted{err, fmt.Sprintf(format, args...)}
}

// codes are the stable codes of errors in JSON output, and their hints.
var codes = []struct {
	err  error
	code string
	hint string
}{
	{disk.ErrEscape, "reference-escapes", "the image names a file outside the repository; if that is right, give the common folder with --root"},
	{disk.ErrMissing, "file-missing", "copy the missing file into the repository, or give the folder that holds it with --root"},
	{disk.ErrChanged, "source-changed", "something wrote to the backup while it was read; restore from a copy that rests"},
	{disk.ErrCorrupt, "image-damaged", "restore another point in time"},
	{disk.ErrUnsupported, "image-unsupported", ""},
	{disk.ErrFormat, "wrong-format", "name the format with --source-format"},
	{target.ErrDigest, "digest-mismatch", "the target holds other bytes than were sent; undo the job and restore again"},
	{target.ErrExists, "exists", "choose another name with --name"},
	{journal.ErrBusy, "busy", "wait for the other process, or end it"},
	{restore.ErrLocked, "busy", "wait for the other process, or end it"},
	{restore.ErrNoJob, "no-job", "see: ascend jobs ls"},
	{restore.ErrSourceChanged, "source-changed", "ascend undo JOB, then restore again"},
	{restore.ErrSignature, "bad-signature", "the receipt was changed after it was signed"},
	{restore.ErrUntrusted, "untrusted-key", "give the right key with --key"},
	{target.ErrPermanent, "refused-by-target", ""},
}

// report prints an error for a person, or as JSON, and gives the exit code.
func (a *app) report(err error) int {
	code, hint := "failed", ""
	for _, c := range codes {
		if errors.Is(err, c.err) {
			code, hint = c.code, c.hint
			break
		}
	}
	if errors.As(err, new(*image.SizeError)) {
		code, hint = "format-limit", "choose another format"
	}
	var h hinted
	if errors.As(err, &h) {
		hint = h.hint
	}
	exit := exitCode(err)
	switch exit {
	case exitUsage:
		code = "usage"
		if hint == "" {
			hint = "see --help"
		}
	case exitCanceled:
		code = "cancelled"
	}
	if a.json {
		_ = json.NewEncoder(os.Stderr).Encode(map[string]any{"error": err.Error(), "code": code, "hint": hint, "exit": exit})
		return exit
	}
	fmt.Fprintf(os.Stderr, "ascend: %s\n", strings.TrimSpace(err.Error()))
	if hint != "" {
		fmt.Fprintf(os.Stderr, "ascend: hint: %s\n", hint)
	}
	return exit
}

// note tells the user something that is no result.
func (a *app) note(format string, args ...any) {
	if !a.quiet && !a.json {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

// printJSON writes a JSON document.
func printJSON(c *cobra.Command, v any) error {
	e := json.NewEncoder(c.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// table prints rows with aligned columns.
func table(w io.Writer, rows [][]string) {
	var width []int
	for _, r := range rows {
		for i, cell := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	for _, r := range rows {
		var b strings.Builder
		for i, cell := range r {
			if i > 0 {
				b.WriteString("  ")
			}
			b.WriteString(cell)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-len([]rune(cell))))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// clean makes a name from a backup safe for a terminal: control characters and
// direction overrides are shown as escapes.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '\uFFFD'
		}
		return r
	}, s)
}

// interactive tells whether bars make sense on stderr.
func interactive() bool { return term.IsTerminal(int(os.Stderr.Fd())) }
