package target

import (
	"errors"
	"strings"
)

// Problem is an error of a platform in words, with what to do about it.
type Problem struct {
	Msg   string
	Hint  string // what to do, or empty
	Kind  error  // one of this package's sentinels, or nil
	Cause error  // the platform's own error, or nil; never shown: it may hold a signed address
}

// Error is the message, then the hint on a line of its own.
func (p *Problem) Error() string {
	if p.Hint == "" {
		return p.Msg
	}
	return p.Msg + "\nhint: " + p.Hint
}

// Unwrap gives what errors.Is and errors.As look at: the sentinel and the cause.
func (p *Problem) Unwrap() []error {
	var out []error
	for _, e := range []error{p.Kind, p.Cause} {
		if e != nil {
			out = append(out, e)
		}
	}
	return out
}

// Permanent is a problem that trying again does not solve.
func Permanent(msg, hint string) error {
	return &Problem{Msg: msg, Hint: hint, Kind: ErrPermanent}
}

// SplitHint gives an error's text without its hint, and the hint.
func SplitHint(err error) (detail, hint string) {
	detail = err.Error()
	var p *Problem
	if errors.As(err, &p) && p.Hint != "" {
		return strings.TrimSuffix(detail, "\nhint: "+p.Hint), p.Hint
	}
	return detail, ""
}
