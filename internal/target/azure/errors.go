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

// known are the codes that are told with a hint or are not what their status
// says ("Troubleshoot common Azure deployment errors").
var known = map[string]target.Problem{
	"AuthorizationFailed":                  {Hint: "give the identity a role with the action that is named, on the resource group or the network", Kind: target.ErrPermanent},
	"LinkedAuthorizationFailed":            {Hint: "give the identity a role with the action that is named, on the resource that is named", Kind: target.ErrPermanent},
	"SubscriptionNotFound":                 {Hint: "check subscription, and that the identity has a role in it", Kind: target.ErrPermanent},
	"InvalidSubscriptionId":                {Hint: "check subscription", Kind: target.ErrPermanent},
	"ResourceGroupNotFound":                {Hint: "create the resource group, or name another by resource_group", Kind: target.ErrPermanent},
	"MissingSubscriptionRegistration":      {Hint: "az provider register --namespace Microsoft.Compute (and Microsoft.Network)", Kind: target.ErrPermanent},
	"SkuNotAvailable":                      {Hint: "choose another vm_size, zone or region", Kind: target.ErrPermanent},
	"QuotaExceeded":                        {Hint: "ask for more quota in the portal (Usage + quotas), or choose a smaller vm_size", Kind: target.ErrPermanent},
	"PrivateIPAddressInUse":                {Hint: "choose another address or let the network give one", Kind: target.ErrPermanent},
	"PrivateIPAddressNotInSubnet":          {Hint: "choose an address of the subnet or let the network give one", Kind: target.ErrPermanent},
	"RequestDisallowedByPolicy":            {Hint: "a policy of the subscription forbids it: see which in the portal, or restore elsewhere", Kind: target.ErrPermanent},
	"ScopeLocked":                          {Hint: "remove the lock on the resource or its group", Kind: target.ErrPermanent},
	"ReadOnlyDisabledSubscription":         {Hint: "the subscription is disabled", Kind: target.ErrPermanent},
	"AllocationFailed":                     {Hint: "the region has no room for this size now: try again later, or choose another vm_size or zone"},
	"ZonalAllocationFailed":                {Hint: "the zone has no room for this size now: try again later, or choose another vm_size or zone"},
	"OverconstrainedAllocationRequest":     {Hint: "leave out the zone or availability set, or choose another vm_size"},
	"OverconstrainedZonalAllocationReques": {Hint: "leave out the zone or availability set, or choose another vm_size"},
	"PreconditionFailed":                   {Hint: "something of that name was made meanwhile: restore under another name", Kind: target.ErrExists},
	"PropertyChangeNotAllowed":             {Kind: target.ErrPermanent},
	"AttachDiskWhileBeingDetached":         {Hint: "try again in a few minutes"},
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
		p    *target.Problem
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
		return &target.Problem{Msg: "the server's certificate is not trusted: " + strip(err).Error(),
			Hint: "set ca_file to the certificate authority that signed it; a proxy that opens TLS has one of its own", Kind: target.ErrPermanent, Cause: err}
	case errors.As(err, &dns):
		return &target.Problem{Msg: fmt.Sprintf("the name %s cannot be resolved", dns.Name), Hint: "check cloud, the endpoints and the name servers", Cause: err}
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
	p.Cause = re
	p.Msg = messageOf(re.RawResponse)
	if p.Msg == "" {
		p.Msg = "the platform refuses"
	}
	code := re.ErrorCode
	if code == "" {
		code = fmt.Sprintf("HTTP %d", re.StatusCode)
	}
	p.Msg += " (" + code + ")"
	if strings.Contains(strings.ToLower(p.Msg), "quota") && re.StatusCode == http.StatusConflict {
		p.Kind, p.Hint = target.ErrPermanent, known["QuotaExceeded"].Hint
	}
	if _, ok := known[re.ErrorCode]; ok {
		return &p
	}
	switch re.StatusCode {
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnauthorized:
		if p.Kind == nil {
			p.Kind = target.ErrPermanent
		}
	case http.StatusTooManyRequests:
		p.Hint = "the subscription is throttled: try again later, or run fewer restores at once"
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
	p := &target.Problem{Msg: "cannot sign in", Cause: e}
	if e.RawResponse == nil {
		text := e.Error()
		if i := strings.IndexByte(text, '\n'); i > 0 {
			text = text[:i]
		}
		var u *url.Error
		if errors.As(e, &u) {
			text = strip(e).Error()
		}
		p.Msg += ": " + text
		return p
	}
	said := messageOf(e.RawResponse)
	p.Msg += ": " + said
	if s := e.RawResponse.StatusCode; s >= 400 && s < 500 && s != http.StatusTooManyRequests {
		p.Kind, p.Hint = target.ErrPermanent, "check tenant, client_id and the secret or certificate: it may have expired"
	}
	return p
}
