package cloudstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"ascend/internal/target"
	"ascend/internal/target/trust"
)

// apiError is an error as the API answers it, of a call or of a job.
type apiError struct {
	command string
	status  int    // errorcode; the HTTP status where the answer is no JSON
	text    string // errortext
}

func (e *apiError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("%s was refused with status %d", e.command, e.status)
	}
	return fmt.Sprintf("%s (%s, %d)", strings.TrimSuffix(strings.TrimSpace(e.text), "."), e.command, e.status)
}

// Codes of ApiErrorCode (CloudStack's source, api/ApiErrorCode.java).
const (
	codeAuth        = 401
	codeTooMany     = 429
	codeMalformed   = 430
	codeParam       = 431
	codeUnsupported = 432
	codeAccount     = 531
	codeLimit       = 532
	codeCapacity    = 533
	codeResource    = 535
)

// refusal is the API's own error in err, or nil.
func refusal(err error) *apiError {
	var e *apiError
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// says tells whether err is an answer of the API with one of the texts in it.
func says(err error, texts ...string) bool {
	e := refusal(err)
	if e == nil {
		return false
	}
	for _, t := range texts {
		if strings.Contains(strings.ToLower(e.text), strings.ToLower(t)) {
			return true
		}
	}
	return false
}

// isGone tells whether the thing that a call named is not there.
func isGone(err error) bool {
	return says(err, "entity does not exist", "unable to find", "could not find", "doesn't exist")
}

// isUploading: CloudStack deletes nothing that is being uploaded.
func isUploading(err error) bool { return says(err, "getting uploaded", "not uploading") }

// unsure tells whether err leaves open if the call was carried out: it broke off
// or something between us and the server answered.
func unsure(err error) bool {
	e := refusal(err)
	return e == nil && !target.IsPermanent(err) || e != nil && e.status >= 500 && e.status < 530
}

// translate puts an error of the platform or the network into words. Errors
// that are words already, and those of contexts, stay as they are.
func translate(err error) error {
	var (
		p    *target.Problem
		cert *trust.Error
		dns  *net.DNSError
		u    *url.Error
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &cert):
		return &target.Problem{Msg: cert.Error(), Hint: cert.Hint(), Kind: target.ErrPermanent}
	case errors.As(err, &dns):
		return &target.Problem{Msg: fmt.Sprintf("the name %s cannot be resolved", dns.Name), Hint: "check url and the name servers"}
	}
	if e := refusal(err); e != nil {
		return e.explain()
	}
	if errors.As(err, &u) { // the address may be a signed one
		return fmt.Errorf("no answer from the server: %w", u.Err)
	}
	return err
}

func (e *apiError) explain() error {
	p := &target.Problem{Msg: e.Error(), Cause: e}
	switch e.status {
	case codeAuth:
		p.Kind, p.Hint = target.ErrPermanent, "check api_key and secret_key (a key that was generated anew ends the old one), and this machine's clock: a call is valid for minutes"
	case codeUnsupported:
		p.Kind, p.Hint = target.ErrPermanent, "give the account's role the command "+e.command+", or check the server's version"
	case codeAccount:
		p.Kind, p.Hint = target.ErrPermanent, "the account may not do this: check account, domain and project"
	case codeLimit, codeResource:
		p.Kind, p.Hint = target.ErrPermanent, "a limit of the account, domain or project is reached: raise it or remove something"
	case codeCapacity:
		p.Kind, p.Hint = target.ErrPermanent, "no host or storage has room for it: choose another offering or zone, or free some"
	case codeMalformed, codeParam:
		p.Kind = target.ErrPermanent
		if says(e, "already exists in the network domain") {
			p.Kind, p.Hint = target.ErrExists, "restore under another name"
		}
	case codeTooMany:
		p.Hint = "the server limits how often it may be called: raise api.throttling.max or wait"
	}
	return p
}
