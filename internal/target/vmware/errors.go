package vmware

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"strings"

	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
)

// problem is an error of the platform in words, with what to do about it.
type problem struct {
	msg   string
	hint  string
	kind  error // a sentinel of package target, or nil
	cause error // the platform's own error, or nil; not shown
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

// faulter is what govmomi's errors that carry a fault of the platform have.
type faulter interface{ Fault() types.BaseMethodFault }

// faultOf is the platform's fault in err, or nil.
func faultOf(err error) types.BaseMethodFault {
	var f faulter
	if errors.As(err, &f) {
		return f.Fault()
	}
	return nil
}

// isFault tells whether err carries a fault of type T.
func isFault[T types.BaseMethodFault](err error) bool {
	_, ok := faultOf(err).(T)
	return ok
}

// known are the faults that are told in own words. A fault that is not here is
// told in the platform's words and may be retried.
var known = map[string]problem{
	"InvalidLogin":                     {msg: "wrong user name or password", hint: "check username and password; a domain user is written user@domain", kind: target.ErrPermanent},
	"PasswordExpired":                  {msg: "the password has expired", hint: "set a new password for the user", kind: target.ErrPermanent},
	"NoPermission":                     {msg: "the user may not do this", hint: "give the user's role the privilege that is named", kind: target.ErrPermanent},
	"NotAuthenticated":                 {msg: "the session has ended"},
	"DuplicateName":                    {msg: "something of that name is already there", hint: "choose another name or folder", kind: target.ErrExists},
	"AlreadyExists":                    {msg: "something of that name is already there", hint: "choose another name or folder", kind: target.ErrExists},
	"NoDiskSpace":                      {msg: "the datastore is full", hint: "free space or choose another datastore", kind: target.ErrPermanent},
	"InsufficientStorageSpace":         {msg: "the datastore is full", hint: "free space or choose another datastore", kind: target.ErrPermanent},
	"InvalidDatastore":                 {msg: "the datastore is not there", hint: "choose another datastore", kind: target.ErrPermanent},
	"InvalidDatastorePath":             {msg: "the datastore path is not valid", kind: target.ErrPermanent},
	"FileTooLarge":                     {msg: "the disk is larger than the datastore allows", hint: "choose another datastore", kind: target.ErrPermanent},
	"InvalidName":                      {msg: "the name is not allowed", hint: "choose another name", kind: target.ErrPermanent},
	"InvalidArgument":                  {msg: "the platform does not accept a value", kind: target.ErrPermanent},
	"InvalidVmConfig":                  {msg: "the platform does not accept the machine's hardware", kind: target.ErrPermanent},
	"InvalidDeviceSpec":                {msg: "the platform does not accept a device of the machine", kind: target.ErrPermanent},
	"DeviceUnsupportedForVmPlatform":   {msg: "a device is not supported there", kind: target.ErrPermanent},
	"InvalidPowerState":                {msg: "the machine is not in the power state that is needed", kind: target.ErrPermanent},
	"NotSupported":                     {msg: "this is not supported there", kind: target.ErrPermanent},
	"RestrictedVersion":                {msg: "the licence of the host does not allow changes through the API", hint: "a free ESXi licence is read-only: use a vCenter or a paid licence", kind: target.ErrPermanent},
	"NotEnoughLicenses":                {msg: "there are not enough licences", kind: target.ErrPermanent},
	"LicenseAssignmentFailed":          {msg: "the licence does not allow it", kind: target.ErrPermanent},
	"InsufficientResourcesFault":       {msg: "there is not enough CPU or memory for the machine", hint: "choose another host or cluster, or free some", kind: target.ErrPermanent},
	"InsufficientCpuResourcesFault":    {msg: "there is not enough CPU for the machine", hint: "choose another host or cluster, or free some", kind: target.ErrPermanent},
	"InsufficientMemoryResourcesFault": {msg: "there is not enough memory for the machine", hint: "choose another host or cluster, or free some", kind: target.ErrPermanent},
	"ManagedObjectNotFound":            {msg: "the object is no longer there", kind: target.ErrPermanent},
	"CannotCreateFile":                 {msg: "a file cannot be created on the datastore"},
	"FileLocked":                       {msg: "a file is in use"},
	"TaskInProgress":                   {msg: "another task is at work on the object", hint: "try again in a few minutes"},
	"HostNotConnected":                 {msg: "the host is not connected"},
	"HostCommunication":                {msg: "vCenter cannot reach the host"},
	"InvalidState":                     {msg: "the object is not in a state that allows it"},
	"Timedout":                         {msg: "the operation took too long"},
}

// translate puts an error of the platform or the network into words. Errors
// that are words already, and those of contexts, stay as they are.
func translate(err error) error {
	var (
		p    *problem
		cert *certificateError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &cert):
		return &problem{msg: cert.Error(), hint: cert.hint(), kind: target.ErrPermanent}
	}
	if f := faultOf(err); f != nil {
		return faultProblem(f, err)
	}
	var (
		u   *url.Error
		dns *net.DNSError
	)
	switch {
	case errors.As(err, &dns):
		return &problem{msg: fmt.Sprintf("the name %s cannot be resolved", dns.Name), hint: "check url and the name servers"}
	case errors.As(err, &u):
		// The address in a url.Error may hold a lease's token.
		return fmt.Errorf("no answer from the server: %w", u.Err)
	}
	return err
}

func faultProblem(f types.BaseMethodFault, err error) error {
	typ := reflect.TypeOf(f)
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	name := typ.Name()
	said := faultMessage(f, err, name)
	p, ok := known[name]
	if !ok {
		if said == "" {
			said = "the platform refuses"
		}
		return &problem{msg: said + " (" + name + ")", cause: err}
	}
	p.cause = err
	var details []string
	switch f := f.(type) {
	case *types.NoPermission:
		details = append(details, "needs "+f.PrivilegeId)
	case *types.InvalidArgument:
		if f.InvalidProperty != "" {
			details = append(details, f.InvalidProperty)
		}
	case *types.InvalidVmConfig:
		if f.Property != "" {
			details = append(details, f.Property)
		}
	case *types.InvalidDeviceSpec:
		details = append(details, fmt.Sprintf("device %d", f.DeviceIndex))
		if f.Property != "" {
			details = append(details, f.Property)
		}
	case *types.InvalidPowerState:
		details = append(details, "it is "+string(f.ExistingState))
	}
	if said != "" {
		details = append(details, said)
	}
	if len(details) > 0 {
		p.msg += " (" + strings.Join(details, ": ") + ")"
	}
	return &p
}

// faultMessage is what the platform itself says, when it says more than the
// fault's type.
func faultMessage(f types.BaseMethodFault, err error, name string) string {
	var parts []string
	add := func(s string) {
		s = strings.TrimSpace(strings.TrimPrefix(s, "ServerFaultCode:"))
		if s == "" || strings.TrimPrefix(s, "*types.") == name || s == "types."+name || len(parts) > 3 {
			return
		}
		parts = append(parts, strings.TrimSuffix(s, "."))
	}
	var outer faulter
	if errors.As(err, &outer) {
		if e, ok := outer.(error); ok {
			add(e.Error())
		}
	}
	if m := f.GetMethodFault(); m != nil {
		for _, l := range m.FaultMessage {
			add(l.Message)
		}
		if c := m.FaultCause; c != nil && c.LocalizedMessage != "" {
			add(c.LocalizedMessage)
		}
	}
	return strings.Join(parts, ": ")
}

// statusProblem translates the answer of a file or disk endpoint; nil when it
// is a success.
func statusProblem(res *http.Response, what string) error {
	p := problem{msg: fmt.Sprintf("%s was refused: HTTP %s", what, res.Status)}
	switch s := res.StatusCode; {
	case s >= 200 && s < 300:
		return nil
	case s == http.StatusNotFound || s == http.StatusGone:
		p.kind = target.ErrExpired
	case s == http.StatusForbidden:
		p.kind, p.hint = target.ErrPermanent, "the user needs the privileges Datastore.FileManagement and VApp.Import"
	case s == http.StatusInsufficientStorage:
		p.kind, p.hint = target.ErrPermanent, "the datastore is full: free space or choose another"
	case s == http.StatusMethodNotAllowed || s == http.StatusRequestEntityTooLarge || s == http.StatusLengthRequired:
		p.kind = target.ErrPermanent
	case s == http.StatusServiceUnavailable || s == http.StatusTooManyRequests:
		p.hint = "the host is busy with other transfers: try again later or lower parallel_disks"
	}
	return &p
}
