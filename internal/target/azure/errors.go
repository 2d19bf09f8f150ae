package azure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"ascend/internal/target"
)

// problem is an error of the platform in words, with what to do about it.
type problem struct {
	msg   string
	hint  string
	kind  error // a sentinel of package target, or nil
	cause error // the platform's own error, or nil; not shown: it may hold an address with a signature
}

// Error is the cause, then the hint on a line of its own.
func (p *problem) Error() string {
	if p.hint == "" {
		return p.msg
	}
	return p.msg + "\nhint: " + p.hint
}

// Unwrap gives what errors.Is and errors.As look at: the sentinel and the cause.
func (p *problem) Unwrap() []error {
	var out []error
	for _, e := range []error{p.kind, p.cause} {
		if e != nil {
			out = append(out, e)
		}
	}
	return out
}

func permanent(msg, hint string) error {
	return &problem{msg: msg, hint: hint, kind: target.ErrPermanent}
}

// split gives an error's text without its hint, and the hint.
func split(err error) (detail, hint string) {
	detail = err.Error()
	var p *problem
	if errors.As(err, &p) && p.hint != "" {
		return strings.TrimSuffix(detail, "\nhint: "+p.hint), p.hint
	}
	return detail, ""
}

// known are the codes that are told with a hint or are not what their status
// says ("Troubleshoot common Azure deployment errors").
var known = map[string]problem{
	"AuthorizationFailed":                  {hint: "give the identity a role with the action that is named, on the resource group or the network", kind: target.ErrPermanent},
	"LinkedAuthorizationFailed":            {hint: "give the identity a role with the action that is named, on the resource that is named", kind: target.ErrPermanent},
	"SubscriptionNotFound":                 {hint: "check subscription, and that the identity has a role in it", kind: target.ErrPermanent},
	"InvalidSubscriptionId":                {hint: "check subscription", kind: target.ErrPermanent},
	"ResourceGroupNotFound":                {hint: "create the resource group, or name another by resource_group", kind: target.ErrPermanent},
	"MissingSubscriptionRegistration":      {hint: "az provider register --namespace Microsoft.Compute (and Microsoft.Network)", kind: target.ErrPermanent},
	"SkuNotAvailable":                      {hint: "choose another vm_size, zone or region", kind: target.ErrPermanent},
	"QuotaExceeded":                        {hint: "ask for more quota in the portal (Usage + quotas), or choose a smaller vm_size", kind: target.ErrPermanent},
	"PrivateIPAddressInUse":                {hint: "choose another address or let the network give one", kind: target.ErrPermanent},
	"PrivateIPAddressNotInSubnet":          {hint: "choose an address of the subnet or let the network give one", kind: target.ErrPermanent},
	"RequestDisallowedByPolicy":            {hint: "a policy of the subscription forbids it: see which in the portal, or restore elsewhere", kind: target.ErrPermanent},
	"ScopeLocked":                          {hint: "remove the lock on the resource or its group", kind: target.ErrPermanent},
	"ReadOnlyDisabledSubscription":         {hint: "the subscription is disabled", kind: target.ErrPermanent},
	"AllocationFailed":                     {hint: "the region has no room for this size now: try again later, or choose another vm_size or zone"},
	"ZonalAllocationFailed":                {hint: "the zone has no room for this size now: try again later, or choose another vm_size or zone"},
	"OverconstrainedAllocationRequest":     {hint: "leave out the zone or availability set, or choose another vm_size"},
	"OverconstrainedZonalAllocationReques": {hint: "leave out the zone or availability set, or choose another vm_size"},
	"PreconditionFailed":                   {hint: "something of that name was made meanwhile: restore under another name", kind: target.ErrExists},
	"PropertyChangeNotAllowed":             {kind: target.ErrPermanent},
	"AttachDiskWhileBeingDetached":         {hint: "try again in a few minutes"},
}

// codeOf is the platform's code in err, or "".
func codeOf(err error) string {
	var re *azcore.ResponseError
	if errors.As(err, &re) {
		return re.ErrorCode
	}
	return ""
}

// statusOf is the HTTP status in err, or 0.
func statusOf(err error) int {
	var re *azcore.ResponseError
	if errors.As(err, &re) {
		return re.StatusCode
	}
	return 0
}

// notFound tells that the platform has no such resource.
func notFound(err error) bool { return statusOf(err) == http.StatusNotFound }

// translate puts an error of the platform or the network into words. Errors
// that are words already, and those of contexts, stay as they are.
func translate(err error) error {
	var (
		p    *problem
		re   *azcore.ResponseError
		auth *azidentity.AuthenticationFailedError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return strip(err)
	case errors.As(err, &re):
		return responseProblem(re)
	case errors.As(err, &auth):
		return signInProblem(auth)
	}
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		cert      *tls.CertificateVerificationError
		dns       *net.DNSError
	)
	switch {
	case errors.As(err, &authority), errors.As(err, &name), errors.As(err, &invalid), errors.As(err, &cert):
		return &problem{msg: "the server's certificate is not trusted: " + strip(err).Error(),
			hint: "set ca_file to the certificate authority that signed it; a proxy that opens TLS has one of its own", kind: target.ErrPermanent, cause: err}
	case errors.As(err, &dns):
		return &problem{msg: fmt.Sprintf("the name %s cannot be resolved", dns.Name), hint: "check cloud, the endpoints and the name servers", cause: err}
	}
	return strip(err)
}

// strip takes addresses out of errors: they may hold signatures.
func strip(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("no answer from the server: %w", strip(u.Err))
	}
	return err
}

// responseProblem translates what the resource manager answered.
func responseProblem(re *azcore.ResponseError) error {
	p := known[re.ErrorCode]
	p.cause = re
	p.msg = messageOf(re.RawResponse)
	if p.msg == "" {
		p.msg = "the platform refuses"
	}
	code := re.ErrorCode
	if code == "" {
		code = fmt.Sprintf("HTTP %d", re.StatusCode)
	}
	p.msg += " (" + code + ")"
	if strings.Contains(strings.ToLower(p.msg), "quota") && re.StatusCode == http.StatusConflict {
		p.kind, p.hint = target.ErrPermanent, known["QuotaExceeded"].hint
	}
	if _, ok := known[re.ErrorCode]; ok {
		return &p
	}
	switch re.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnauthorized:
		if p.kind == nil {
			p.kind = target.ErrPermanent
		}
	case http.StatusTooManyRequests:
		p.hint = "the subscription is throttled: try again later, or run fewer restores at once"
	}
	return &p
}

// messageOf is the platform's own words in a JSON answer: an error's, or a
// failed operation's. Answers about bytes are XML and are not repeated.
func messageOf(res *http.Response) string {
	if res == nil || res.Body == nil {
		return ""
	}
	b, err := runtime.Payload(res)
	if err != nil {
		return ""
	}
	var body struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
		Text    string          `json:"error_description"`
	}
	if json.Unmarshal(b, &body) != nil {
		return ""
	}
	var inner struct {
		Message string `json:"message"`
		Details []struct {
			Message string `json:"message"`
		} `json:"details"`
	}
	msg := body.Message
	if json.Unmarshal(body.Error, &inner) == nil {
		msg = inner.Message
		if len(inner.Details) > 0 && inner.Details[0].Message != "" {
			msg = strings.TrimSuffix(msg, ".") + ": " + inner.Details[0].Message
		}
	}
	if msg == "" {
		msg, _, _ = strings.Cut(body.Text, "\n")
	}
	if len(msg) > 600 {
		msg = strings.ToValidUTF8(msg[:600], "") + "…"
	}
	return strings.TrimSuffix(strings.TrimSpace(strings.ReplaceAll(msg, "\r\n", " ")), ".")
}

// signInProblem translates what the authority answered.
func signInProblem(e *azidentity.AuthenticationFailedError) error {
	p := &problem{msg: "cannot sign in", cause: e}
	if e.RawResponse == nil {
		text := e.Error()
		if i := strings.IndexByte(text, '\n'); i > 0 {
			text = text[:i]
		}
		var u *url.Error
		if errors.As(e, &u) {
			text = strip(e).Error()
		}
		p.msg += ": " + text
		return p
	}
	said := messageOf(e.RawResponse)
	p.msg += ": " + said
	if s := e.RawResponse.StatusCode; s >= 400 && s < 500 && s != http.StatusTooManyRequests {
		p.kind, p.hint = target.ErrPermanent, "check tenant, client_id and the secret or certificate: it may have expired"
	}
	return p
}
