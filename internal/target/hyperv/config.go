package hyperv

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostshare"
	"ascend/internal/target/trust"
	"ascend/internal/vm"
)

// Ways to sign in.
const (
	authNTLM     = "ntlm"
	authKerberos = "kerberos"
	authBasic    = "basic"
)

// Kind describes the connector for the registry.
func Kind() target.Kind {
	field := func(name, help string, required bool) target.Setting {
		return target.Setting{Field: target.Field{Name: name, Help: help, Required: required}}
	}
	choice := func(name, help, def string, values ...string) target.Setting {
		return target.Setting{Field: target.Field{Name: name, Help: help, Default: def, Values: values}}
	}
	password := field("password", "password of the user", true)
	password.Secret = true
	return target.Kind{
		Platform: vm.HyperV,
		Settings: []target.Setting{
			field("url", "address of the host's WinRM service with HTTPS, for instance https://hv1.example.com:5986", true),
			field("user", `user who restores: DOMAIN\user, user@domain, or a local account; an administrator of the host`, true),
			password,
			choice("auth", "how the user signs in", authNTLM, authNTLM, authKerberos, authBasic),
			field("realm", "Kerberos realm; without it the part of the user after the @", false),
			field("krb5_conf", "Kerberos configuration; without it /etc/krb5.conf", false),
			field("ca_file", "PEM file of the certificate authorities to trust instead of the system's", false),
			field("thumbprint", "SHA-256 or SHA-1 of the WinRM service's certificate; no other is accepted", false),
			choice("insecure", "accept any certificate: whoever is on the network path can run programs on the host", "false", "false", "true"),
			field("smb_address", "host, or host:port, where the host's shares are; without it the host of url", false),
			field("share", "the only share that is used; without it the one that holds the folder", false),
			field("path", `folder of the host for machines that name none, for instance D:\VMs; without it a plan asks for one where there are several`, false),
			field("pull_listen", "address and port, for instance 192.0.2.7:8443, at which this machine serves disks to the host, for networks without SMB", false),
		},
		Open: func(_ context.Context, s target.Settings) (target.Target, error) { return connect(s) },
	}
}

// config is the checked form of the settings.
type config struct {
	name            string
	url             *url.URL // with /wsman
	user, domain    string
	password        secret.String
	auth            string
	krb5, realm     string
	trust           *trust.Trust
	insecure        bool
	smb             string // host or host:port
	share           string
	path            string
	pull            string        // where disks are served; "" nowhere
	pause, maxPause time.Duration // between two attempts or looks
	boot            time.Duration // in which a machine must run
}

func newConfig(s target.Settings) (*config, error) {
	bad := func(setting, format string, args ...any) error {
		return fmt.Errorf("target %s: setting %q: %w", s.Name, setting, target.Permanent(fmt.Sprintf(format, args...), ""))
	}
	v := s.Values
	c := &config{
		name: s.Name, password: s.Secrets["password"], auth: v["auth"], krb5: v["krb5_conf"], realm: v["realm"], smb: v["smb_address"], share: v["share"], pull: v["pull_listen"],
		pause: time.Second, maxPause: 10 * time.Second, boot: 3 * time.Minute,
	}
	if c.auth == "" {
		c.auth = authNTLM
	}
	var err error
	if c.url, err = parseServer(v["url"]); err != nil {
		return nil, bad("url", "%v", err)
	}
	c.user, c.domain = splitUser(v["user"])
	if b := v["insecure"]; b != "" {
		if c.insecure, err = strconv.ParseBool(b); err != nil {
			return nil, bad("insecure", "%q is neither true nor false", b)
		}
	}
	c.trust = trust.New(c.url.Host)
	c.trust.Insecure = c.insecure
	if file := v["ca_file"]; file != "" {
		if err := c.trust.ReadRoots(file); err != nil {
			return nil, bad("ca_file", "%v", err)
		}
	}
	if p := v["thumbprint"]; p != "" {
		sum, err := trust.ParseThumbprint(p)
		if err != nil {
			return nil, bad("thumbprint", "%v", err)
		}
		c.trust.Pin(c.url.Host, sum)
	}
	if c.smb == "" {
		c.smb = c.url.Hostname()
	}
	if p := v["path"]; p != "" {
		if c.path, err = cleanPath(p); err != nil {
			return nil, bad("path", "%v", err)
		}
	}
	if c.pull != "" {
		host, _, err := net.SplitHostPort(c.pull)
		if err != nil || host == "" || net.ParseIP(host).IsUnspecified() {
			return nil, bad("pull_listen", "%q is no address and port that the host can be told", c.pull)
		}
	}
	switch {
	case c.user == "":
		return nil, bad("user", "is missing")
	case c.password.Empty():
		return nil, bad("password", "is missing")
	case c.auth != authNTLM && c.auth != authKerberos && c.auth != authBasic:
		return nil, bad("auth", "%q is none of %s, %s, %s", c.auth, authNTLM, authKerberos, authBasic)
	case c.auth == authBasic && strings.Contains(c.user, ":"):
		return nil, bad("user", "cannot hold a colon with auth=basic")
	}
	if c.auth == authKerberos {
		if c.realm == "" {
			_, c.realm, _ = strings.Cut(v["user"], "@")
		}
		if c.realm = strings.ToUpper(c.realm); c.realm == "" {
			return nil, bad("realm", "is missing: set it, or write the user as user@realm")
		}
		if c.krb5 == "" {
			c.krb5 = "/etc/krb5.conf"
		}
		if _, err := os.Stat(c.krb5); err != nil {
			return nil, bad("krb5_conf", "%v", err)
		}
	}
	return c, nil
}

// splitUser reads DOMAIN\user; user@domain is a user's name as it stands.
func splitUser(s string) (user, domain string) {
	if d, u, ok := strings.Cut(s, `\`); ok {
		if d == "." {
			d = ""
		}
		return u, d
	}
	return s, ""
}

// parseServer reads the WinRM service's address; a bare host is completed.
func parseServer(s string) (*url.URL, error) {
	u, err := trust.ParseServer(s, true)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" {
		return nil, fmt.Errorf("must begin with https://: the WinRM service is not spoken to without TLS")
	}
	if p := strings.Trim(u.Path, "/"); p != "" && p != "wsman" {
		return nil, fmt.Errorf("must be the address of the WinRM service alone, without a path")
	}
	if u.Port() == "" {
		u.Host += ":5986"
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/wsman"}, nil
}

// cargo is how a share is reached.
func (c *config) cargo(share string) hostshare.Config {
	h := hostshare.Config{Address: c.smb, Share: share, User: c.user, Domain: c.domain, Password: c.password}
	if c.auth == authKerberos {
		h.Kerberos = &hostshare.Kerberos{Realm: c.realm, Config: c.krb5}
	}
	return h
}
