package vmware

import (
	"context" //nolint:gosec // vSphere's own thumbprints are SHA-1; it identifies a certificate, it protects no secret
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/trust"
	"ascend/internal/vm"
)

// Kind describes the connector for the registry. Open checks the settings and
// connects on first use, so that Validate can say which part of a connection
// fails.
func Kind() target.Kind {
	return target.Kind{
		Platform: vm.VMware,
		Settings: []target.Setting{
			{Field: target.Field{Name: "url", Required: true,
				Help: "vCenter or ESXi: a host name, host:port or an https URL"}},
			{Field: target.Field{Name: "username", Required: true, Help: "user to sign in as, for instance restore@vsphere.local"}},
			{Field: target.Field{Name: "password", Required: true, Help: "password of the user"}, Secret: true},
			{Field: target.Field{Name: "ca_file", Help: "PEM file of the certificate authorities to trust instead of the system's"}},
			{Field: target.Field{Name: "thumbprint", Help: "SHA-256 or SHA-1 fingerprint of the server's certificate; no other certificate is accepted"}},
			{Field: target.Field{Name: "insecure", Default: "false", Values: []string{"false", "true"},
				Help: "accept any certificate: whoever is on the network path can read the password"}},
			{Field: target.Field{Name: "datacenter", Help: "datacenter that is used when a restore names none"}},
			{Field: target.Field{Name: "link", Default: "normal", Values: []string{"normal", "fast"},
				Help: "fast: prefer streams that are not compressed, for links of 10 Gbit/s and more"}},
			{Field: target.Field{Name: "parallel_disks", Default: strconv.Itoa(defaultParallel),
				Help: "disks of one machine that are sent at a time, 1 to 16"}},
		},
		Open: func(ctx context.Context, s target.Settings) (target.Target, error) { return open(ctx, s) },
	}
}

// defaultParallel is the number of NFC streams at once: one stream is limited
// to tens of MB/s by the host, and a host's NFC service has few connections.
const defaultParallel = 4

// config is the checked form of the settings.
type config struct {
	name       string
	sdk        *url.URL // https://host[:port]/sdk, without user information
	username   string
	password   secret.String
	trust      *trust.Trust
	datacenter string
	fast       bool
	parallel   int

	// Times. Tests shorten them.
	keepalive time.Duration // between signs of life; 0: a tenth of the lease's timeout
	stall     time.Duration // a transfer that moves nothing for so long has failed
	call      time.Duration // one API call
}

func newConfig(s target.Settings) (*config, error) {
	bad := func(setting, format string, args ...any) error {
		return fmt.Errorf("target %s: setting %q: %w", s.Name, setting, target.Permanent(fmt.Sprintf(format, args...), ""))
	}
	c := &config{
		name: s.Name, username: s.Values["username"], password: s.Secrets["password"],
		datacenter: s.Values["datacenter"], parallel: defaultParallel,
		stall: 5 * time.Minute, call: 3 * time.Minute,
	}
	var err error
	if c.sdk, err = parseServer(s.Values["url"]); err != nil {
		return nil, bad("url", "%v", err)
	}
	if c.username == "" {
		return nil, bad("username", "is missing")
	}
	if c.password.Empty() {
		return nil, bad("password", "is missing")
	}
	t := trust.New(c.sdk.Host)
	t.Others = "set ca_file to the certificate authority that signs the hosts' certificates, for instance vCenter's own"
	if file := s.Values["ca_file"]; file != "" {
		if err := t.ReadRoots(file); err != nil {
			return nil, bad("ca_file", "%v", err)
		}
	}
	if t.Insecure, err = parseBool(s.Values["insecure"]); err != nil {
		return nil, bad("insecure", "%v", err)
	}
	if p := s.Values["thumbprint"]; p != "" {
		if t.Insecure {
			return nil, bad("thumbprint", "cannot be combined with insecure=true")
		}
		sum, err := trust.ParseThumbprint(p)
		if err != nil {
			return nil, bad("thumbprint", "%v", err)
		}
		t.Pin(c.sdk.Host, sum)
	}
	c.trust = t
	switch s.Values["link"] {
	case "", "normal":
	case "fast":
		c.fast = true
	default:
		return nil, bad("link", "%q is neither normal nor fast", s.Values["link"])
	}
	if p := s.Values["parallel_disks"]; p != "" {
		if c.parallel, err = strconv.Atoi(p); err != nil || c.parallel < 1 || c.parallel > 16 {
			return nil, bad("parallel_disks", "%q is not a number from 1 to 16", p)
		}
	}
	return c, nil
}

// parseServer reads a host name, host:port or https URL. The result always has
// a port and the path /sdk, where the vSphere web services live.
func parseServer(s string) (*url.URL, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil, fmt.Errorf("is missing")
	}
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		// The parser's error repeats its input, which may hold a password.
		return nil, fmt.Errorf("cannot be read as a host name or URL")
	}
	switch {
	case u.User != nil:
		return nil, fmt.Errorf("must not hold a user name or password: use username and password")
	case u.Scheme != "https":
		return nil, fmt.Errorf("must begin with https://, not %s://", u.Scheme)
	case u.Hostname() == "":
		return nil, fmt.Errorf("names no host")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("must not hold a query or fragment")
	case u.Path != "" && u.Path != "/" && strings.TrimSuffix(u.Path, "/") != "/sdk":
		return nil, fmt.Errorf("must be the server's address, without the path %q", u.Path)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	host := u.Hostname()
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return &url.URL{Scheme: "https", Host: host + ":" + port, Path: "/sdk"}, nil
}

func parseBool(s string) (bool, error) {
	if s == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", s)
	}
	return b, nil
}
