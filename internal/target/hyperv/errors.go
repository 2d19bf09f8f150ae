package hyperv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostscript"
	"ascend/internal/target/hyperv/wsman"
	"ascend/internal/target/trust"
)

var errClosed = errors.New("the session is closed")

// translate puts an error of the host or the network into words. Errors that are
// words already, and those of contexts, stay as they are.
func translate(err error) error {
	var (
		p    *target.Problem
		cert *trust.Error
		dns  *net.DNSError
		u    *url.Error
		ps   *hostscript.Error
		f    *wsman.Fault
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p), errors.Is(err, context.Canceled), errors.Is(err, target.ErrPermanent), errors.Is(err, target.ErrDigest), errors.Is(err, target.ErrExists):
		return err
	case errors.As(err, &cert):
		return &target.Problem{Msg: cert.Error(), Hint: cert.Hint(), Kind: target.ErrPermanent}
	case errors.As(err, &dns):
		return &target.Problem{Msg: fmt.Sprintf("the name %s cannot be resolved", dns.Name), Hint: "check url and the name servers"}
	case errors.As(err, &ps):
		p := explain(ps)
		p.Msg, p.Cause = strings.Replace(err.Error(), ps.Error(), p.Msg, 1), err
		return p
	case errors.As(err, &f):
		p := explainFault(f)
		p.Msg, p.Cause = err.Error(), err
		return p
	case errors.As(err, &u):
		return fmt.Errorf("no answer from the host: %w", u.Err)
	}
	return err
}

// explain says what to do about an error of the script.
func explain(e *hostscript.Error) *target.Problem {
	p := &target.Problem{Msg: e.Error()}
	low := strings.ToLower(e.Message)
	kind, text, marked := strings.Cut(e.Message, ": ")
	switch {
	case marked && kind == "GONE":
		p.Kind, p.Msg = target.ErrPermanent, text
		p.Hint = "somebody deleted or moved it: undo the job and restore again"
	case marked && kind == "MARK":
		p.Kind, p.Msg = target.ErrPermanent, text
		p.Hint = "put the line back, or delete the machine by hand"
	case marked && kind == "SWITCH":
		p.Kind, p.Msg = target.ErrPermanent, text
		p.Hint = "choose another network"
	case e.Category == "PermissionDenied" || strings.Contains(low, "required permission") || strings.Contains(low, "access is denied"):
		p.Kind, p.Hint = target.ErrPermanent, "make the user an administrator of the host, or a member of Hyper-V Administrators with rights in the folder and its share"
	case strings.Contains(low, "not recognized as the name of a cmdlet"), strings.Contains(low, "not recognized as a name of a cmdlet"):
		p.Kind, p.Hint = target.ErrPermanent, "install the Hyper-V module for Windows PowerShell on the host: Install-WindowsFeature Hyper-V-PowerShell"
	case strings.Contains(low, "0x80070070") || strings.Contains(low, "not enough space"):
		p.Kind, p.Hint = target.ErrPermanent, "the volume is full: make room, or choose another folder"
	case strings.Contains(low, "out of memory") || strings.Contains(low, "0x8007000e") || strings.Contains(low, "not enough memory"):
		p.Hint = "the host has not enough free memory to start the machine: stop another one, or restore with less"
	case e.Category == "InvalidArgument" || e.Category == "ObjectNotFound" || e.Category == "InvalidOperation" || e.Category == "ParserError":
		p.Kind, p.Hint = target.ErrPermanent, "the host refused it: see what it says, and Event Viewer › Hyper-V-VMMS"
	default:
		p.Hint = "look at the host: Event Viewer › Hyper-V-VMMS"
	}
	return p
}

// explainFault says what to do about an answer of the WinRM service.
func explainFault(f *wsman.Fault) *target.Problem {
	p := &target.Problem{}
	switch {
	case f.Status == http.StatusUnauthorized:
		p.Kind, p.Hint = target.ErrPermanent, "check user, password and auth; a local account other than Administrator needs LocalAccountTokenFilterPolicy=1, and Basic must be allowed by the service (winrm get winrm/config/service/auth)"
	case f.Status == http.StatusForbidden || strings.Contains(strings.ToLower(f.Text), "access is denied"):
		p.Kind, p.Hint = target.ErrPermanent, "make the user an administrator of the host, or a member of Remote Management Users and Hyper-V Administrators"
	case f.Status == http.StatusNotFound || f.Status == http.StatusMethodNotAllowed:
		p.Kind, p.Hint = target.ErrPermanent, "this is no WinRM service: check url"
	case strings.Contains(f.Subcode, "QuotaLimit"):
		p.Hint = "the host has as many shells open as it allows: try again, or raise MaxShellsPerUser (winrm get winrm/config/winrs)"
	default:
		p.Hint = "the WinRM service is busy or restarting: try again"
	}
	return p
}

// transient tells whether a run of the script is worth trying again at once.
func transient(err error) bool {
	var (
		ps   *hostscript.Error
		f    *wsman.Fault
		cert *trust.Error
		p    *target.Problem
	)
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.As(err, &ps), errors.As(err, &cert), errors.As(err, &p) && p.Kind != nil, target.IsPermanent(err):
		return false
	case errors.As(err, &f):
		return f.Status >= 500 || f.Status == http.StatusTooManyRequests
	}
	return true
}

// firstLine is what a program said first, of a bounded length.
func firstLine(p []byte) string {
	s := strings.TrimSpace(strings.ToValidUTF8(string(p), ""))
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	if s == "" {
		return "it said nothing"
	}
	return strings.TrimSpace(s)
}
