package nutanix

import (
	"context"
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

// APIs that may be chosen.
const (
	apiAuto = "auto"
	apiV4   = "v4"
	apiV3   = "v3"
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
		Platform: vm.Nutanix,
		Settings: []target.Setting{
			field("url", "address of Prism Central, for instance https://prism.example.com:9440", true),
			field("user", "user who restores", true),
			password,
			field("ca_file", "PEM file of the certificate authorities to trust instead of the system's", false),
			field("thumbprint", "SHA-256 of Prism Central's certificate; no other is accepted", false),
			choice("insecure", "accept any certificate, and addresses without TLS: whoever is on the network path can read the disks", "false", "false", "true"),
			choice("api", "which of Prism Central's APIs is used; auto asks Prism Central, and takes v4 when it does not answer", apiAuto, apiAuto, apiV4, apiV3),
			field("cluster", "cluster that is used when a restore names none", false),
			field("storage_container", "storage container of disks that name none", false),
			field("project", "project of what is restored (v4.1 or later, or v3)", false),
		},
		Open: func(ctx context.Context, s target.Settings) (target.Target, error) { return connect(ctx, s) },
	}
}

// config is the checked form of the settings.
type config struct {
	name            string
	base            *url.URL // scheme and host
	user            string
	password        secret.String
	trust           *trust.Trust
	insecure        bool
	api             string
	cluster         string
	container       string
	project         string
	part            int64         // least size of a part in bytes; tests have smaller ones
	call            time.Duration // one call, its answer included
	stall           time.Duration // a part whose bytes do not move for so long has failed
	idle            time.Duration // a task that does not move for so long has failed
	pause, maxPause time.Duration // between two attempts or looks
}

func newConfig(s target.Settings) (*config, error) {
	bad := func(setting, format string, args ...any) error {
		return fmt.Errorf("target %s: setting %q: %w", s.Name, setting, target.Permanent(fmt.Sprintf(format, args...), ""))
	}
	v := s.Values
	c := &config{
		name: s.Name, user: v["user"], password: s.Secrets["password"], api: v["api"], cluster: v["cluster"], container: v["storage_container"], project: v["project"],
		part: 16 << 20, call: time.Minute, stall: 5 * time.Minute, idle: 2 * time.Hour, pause: 500 * time.Millisecond, maxPause: 10 * time.Second,
	}
	if c.api == "" {
		c.api = apiAuto
	}
	var err error
	if b := v["insecure"]; b != "" {
		if c.insecure, err = strconv.ParseBool(b); err != nil {
			return nil, bad("insecure", "%q is neither true nor false", b)
		}
	}
	if c.base, err = parseServer(v["url"], c.insecure); err != nil {
		return nil, bad("url", "%v", err)
	}
	t := trust.New(c.base.Host)
	t.Insecure = c.insecure
	c.trust = t
	if file := v["ca_file"]; file != "" {
		if err := t.ReadRoots(file); err != nil {
			return nil, bad("ca_file", "%v", err)
		}
	}
	if p := v["thumbprint"]; p != "" {
		sum, err := trust.ParseThumbprint(p)
		if err != nil {
			return nil, bad("thumbprint", "%v", err)
		}
		t.Pin(c.base.Host, sum)
	}
	switch {
	case c.user == "":
		return nil, bad("user", "is missing")
	case strings.Contains(c.user, ":"):
		return nil, bad("user", "cannot hold a colon")
	case c.password.Empty():
		return nil, bad("password", "is missing")
	case c.api != apiAuto && c.api != apiV4 && c.api != apiV3:
		return nil, bad("api", "%q is none of %s, %s, %s", c.api, apiAuto, apiV4, apiV3)
	}
	return c, nil
}

// parseServer reads Prism Central's address; a bare host is completed.
func parseServer(s string, plain bool) (*url.URL, error) {
	u, err := trust.ParseServer(s, plain)
	if err != nil {
		return nil, err
	}
	if u.Path != "" && u.Path != "/" && !strings.HasPrefix(u.Path, "/console") {
		return nil, fmt.Errorf("must be the address of Prism Central alone, without a path")
	}
	if u.Port() == "" {
		u.Host += ":9440"
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}
