package nutanix

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"ascend/internal/target"
	"ascend/internal/target/trust"
)

// apiError is an error as the platform answers it.
type apiError struct {
	what   string // method and path
	status int
	code   string
	text   string
}

func (e *apiError) Error() string {
	if e.text == "" {
		return fmt.Sprintf("%s was refused with status %d", e.what, e.status)
	}
	return fmt.Sprintf("%s (%s, %s)", strings.TrimSuffix(strings.TrimSpace(e.text), "."), e.what, strings.TrimSpace(fmt.Sprintf("%d %s", e.status, e.code)))
}

// statusOf is the HTTP status in err; 0 where the platform did not answer.
func statusOf(err error) int {
	var e *apiError
	if errors.As(err, &e) {
		return e.status
	}
	return 0
}

func isGone(err error) bool { return statusOf(err) == http.StatusNotFound }

// taskError is a task that ended without success.
type taskError struct{ id, status, text string }

func (e *taskError) Error() string {
	s := "the task failed"
	if e.status == "CANCELED" || e.status == "ABORTED" {
		s = "the task was cancelled"
	}
	if e.text != "" {
		s += ": " + strings.TrimSuffix(e.text, ".")
	}
	return s
}

// translate puts an error of the platform or the network into words. Errors
// that are words already, and those of contexts, stay as they are.
func translate(err error) error {
	var (
		p    *target.Problem
		cert *trust.Error
		dns  *net.DNSError
		u    *url.Error
		api  *apiError
		task *taskError
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
	case errors.As(err, &api):
		p := api.explain()
		p.Msg, p.Cause = err.Error(), err // with what it is joined or wrapped with
		return p
	case errors.As(err, &task):
		return &target.Problem{Msg: err.Error(), Hint: "look at the task " + task.id + " in Prism Central; what was made for it is removed by undo", Cause: err}
	case errors.As(err, &u):
		return fmt.Errorf("no answer from Prism Central: %w", u.Err)
	}
	return err
}

// explain says what to do about an answer.
func (e *apiError) explain() *target.Problem {
	p := &target.Problem{}
	switch e.status {
	case http.StatusUnauthorized:
		p.Kind, p.Hint = target.ErrPermanent, "check user and password; the user must be a local or directory user of Prism Central"
	case http.StatusForbidden:
		p.Kind, p.Hint = target.ErrPermanent, "give the user's role the rights that docs/nutanix.md lists"
		switch e.code {
		case "RequestTimeTooSkewed":
			p.Hint = "set this machine's clock: it differs from Prism Central's by more than 15 minutes"
		case "SignatureDoesNotMatch", "InvalidAccessKeyId", "AccessDenied":
			p.Hint = "Objects Lite does not know the user: check user and password, and that nothing between here and Prism Central changes requests"
		}
	case http.StatusNotFound:
		p.Kind, p.Hint = target.ErrPermanent, "what was asked for is not there (any more), or this is no Prism Central: check url"
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		p.Hint = "Prism Central is busy or restarting: try again"
	default:
		if e.status >= 400 && e.status < 500 && e.status != http.StatusPreconditionFailed && e.status != http.StatusRequestTimeout {
			p.Kind = target.ErrPermanent
		}
	}
	return p
}

// errorAs finds an error of a type in err.
func errorAs[E error](err error) (E, bool) {
	var e E
	ok := errors.As(err, &e)
	return e, ok
}
