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
	"ascend/internal/target/trust"
)

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
var known = map[string]target.Problem{
	"InvalidLogin":                     {Msg: "wrong user name or password", Hint: "check username and password; a domain user is written user@domain", Kind: target.ErrPermanent},
	"PasswordExpired":                  {Msg: "the password has expired", Hint: "set a new password for the user", Kind: target.ErrPermanent},
	"NoPermission":                     {Msg: "the user may not do this", Hint: "give the user's role the privilege that is named", Kind: target.ErrPermanent},
	"NotAuthenticated":                 {Msg: "the session has ended"},
	"DuplicateName":                    {Msg: "something of that name is already there", Hint: "choose another name or folder", Kind: target.ErrExists},
	"AlreadyExists":                    {Msg: "something of that name is already there", Hint: "choose another name or folder", Kind: target.ErrExists},
	"NoDiskSpace":                      {Msg: "the datastore is full", Hint: "free space or choose another datastore", Kind: target.ErrPermanent},
	"InsufficientStorageSpace":         {Msg: "the datastore is full", Hint: "free space or choose another datastore", Kind: target.ErrPermanent},
	"InvalidDatastore":                 {Msg: "the datastore is not there", Hint: "choose another datastore", Kind: target.ErrPermanent},
	"InvalidDatastorePath":             {Msg: "the datastore path is not valid", Kind: target.ErrPermanent},
	"FileTooLarge":                     {Msg: "the disk is larger than the datastore allows", Hint: "choose another datastore", Kind: target.ErrPermanent},
	"InvalidName":                      {Msg: "the name is not allowed", Hint: "choose another name", Kind: target.ErrPermanent},
	"InvalidArgument":                  {Msg: "the platform does not accept a value", Kind: target.ErrPermanent},
	"InvalidVmConfig":                  {Msg: "the platform does not accept the machine's hardware", Kind: target.ErrPermanent},
	"InvalidDeviceSpec":                {Msg: "the platform does not accept a device of the machine", Kind: target.ErrPermanent},
	"DeviceUnsupportedForVmPlatform":   {Msg: "a device is not supported there", Kind: target.ErrPermanent},
	"InvalidPowerState":                {Msg: "the machine is not in the power state that is needed", Kind: target.ErrPermanent},
	"NotSupported":                     {Msg: "this is not supported there", Kind: target.ErrPermanent},
	"RestrictedVersion":                {Msg: "the licence of the host does not allow changes through the API", Hint: "a free ESXi licence is read-only: use a vCenter or a paid licence", Kind: target.ErrPermanent},
	"NotEnoughLicenses":                {Msg: "there are not enough licences", Kind: target.ErrPermanent},
	"LicenseAssignmentFailed":          {Msg: "the licence does not allow it", Kind: target.ErrPermanent},
	"InsufficientResourcesFault":       {Msg: "there is not enough CPU or memory for the machine", Hint: "choose another host or cluster, or free some", Kind: target.ErrPermanent},
	"InsufficientCpuResourcesFault":    {Msg: "there is not enough CPU for the machine", Hint: "choose another host or cluster, or free some", Kind: target.ErrPermanent},
	"InsufficientMemoryResourcesFault": {Msg: "there is not enough memory for the machine", Hint: "choose another host or cluster, or free some", Kind: target.ErrPermanent},
	"ManagedObjectNotFound":            {Msg: "the object is no longer there", Kind: target.ErrPermanent},
	"CannotCreateFile":                 {Msg: "a file cannot be created on the datastore"},
	"FileLocked":                       {Msg: "a file is in use"},
	"TaskInProgress":                   {Msg: "another task is at work on the object", Hint: "try again in a few minutes"},
	"HostNotConnected":                 {Msg: "the host is not connected"},
	"HostCommunication":                {Msg: "vCenter cannot reach the host"},
	"InvalidState":                     {Msg: "the object is not in a state that allows it"},
	"Timedout":                         {Msg: "the operation took too long"},
}

// translate puts an error of the platform or the network into words. Errors
// that are words already, and those of contexts, stay as they are.
func translate(err error) error {
	var (
		p    *target.Problem
		cert *trust.Error
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &cert):
		return &target.Problem{Msg: cert.Error(), Hint: cert.Hint(), Kind: target.ErrPermanent}
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
		return &target.Problem{Msg: fmt.Sprintf("the name %s cannot be resolved", dns.Name), Hint: "check url and the name servers"}
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
		return &target.Problem{Msg: said + " (" + name + ")", Cause: err}
	}
	p.Cause = err
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
		p.Msg += " (" + strings.Join(details, ": ") + ")"
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
	p := target.Problem{Msg: fmt.Sprintf("%s was refused: HTTP %s", what, res.Status)}
	switch s := res.StatusCode; {
	case s >= 200 && s < 300:
		return nil
	case s == http.StatusNotFound || s == http.StatusGone:
		p.Kind = target.ErrExpired
	case s == http.StatusForbidden:
		p.Kind, p.Hint = target.ErrPermanent, "the user needs the privileges Datastore.FileManagement and VApp.Import"
	case s == http.StatusInsufficientStorage:
		p.Kind, p.Hint = target.ErrPermanent, "the datastore is full: free space or choose another"
	case s == http.StatusMethodNotAllowed || s == http.StatusRequestEntityTooLarge || s == http.StatusLengthRequired:
		p.Kind = target.ErrPermanent
	case s == http.StatusServiceUnavailable || s == http.StatusTooManyRequests:
		p.Hint = "the host is busy with other transfers: try again later or lower parallel_disks"
	}
	return &p
}
