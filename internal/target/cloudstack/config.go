package cloudstack

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
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
	field := func(name, help string, required bool) target.Setting {
		return target.Setting{Field: target.Field{Name: name, Help: help, Required: required}}
	}
	choice := func(name, help, def string, values ...string) target.Setting {
		return target.Setting{Field: target.Field{Name: name, Help: help, Default: def, Values: values}}
	}
	key := field("secret_key", "secret key of the user", true)
	key.Secret = true
	return target.Kind{
		Platform: vm.CloudStack,
		Settings: []target.Setting{
			field("url", "address of the API, for instance https://cloud.example.com/client/api", true),
			field("api_key", "API key of the user who restores", true),
			key,
			field("ca_file", "PEM file of the certificate authorities to trust instead of the system's: the management server's and the secondary storage VM's", false),
			field("thumbprint", "SHA-256 of the management server's certificate; no other is accepted from it", false),
			choice("insecure", "accept any certificate, and addresses without TLS: whoever is on the network path can read the disks", "false", "false", "true"),
			field("zone", "zone that is used when a restore names none", false),
			field("domain", "domain of account, as a path like ROOT/sales or an identifier", false),
			field("account", "account that owns what is restored; without one the user's own", false),
			field("project", "project that owns what is restored, instead of an account", false),
			choice("path", "how the boot disk gets there: as a template, or as a volume that the machine is deployed from (4.21 or later, KVM, zone-wide storage, and a cloud that takes uploaded volumes as root disks)", pathTemplate, pathTemplate, pathVolume),
			field("pool", "primary storage whose export is mounted at pool_dir: disks are written into it and imported, for administrators", false),
			field("pool_dir", "folder where the export of pool is mounted on this machine", false),
			field("worker", "identifier of the machine of this cloud that Ascend runs in: volumes are attached to it and written as block devices", false),
			choice("parallel_disks", "disks of one machine that are sent at a time, 1 to 16", "4"),
		},
		Open: func(ctx context.Context, s target.Settings) (target.Target, error) { return connect(ctx, s) },
	}
}

// config is the checked form of the settings.
type config struct {
	name            string
	api             *url.URL
	apiKey          string
	secretKey       secret.String
	trust           *trust.Trust
	insecure        bool
	zone, domain    string
	account         string
	project         string
	path            string
	pool, poolDir   string
	worker          string
	devices         string // where udev names disks; tests have their own
	unit            int64  // what volumes' sizes are counted in; tests have less than a GiB
	parallel        int
	call            time.Duration // one API call
	stall           time.Duration // a transfer that moves nothing for so long has failed
	patience        time.Duration // for an upload that ended to be deletable
	pause, maxPause time.Duration // between two looks at something
}

func newConfig(s target.Settings) (*config, error) {
	bad := func(setting, format string, args ...any) error {
		return fmt.Errorf("target %s: setting %q: %w", s.Name, setting, target.Permanent(fmt.Sprintf(format, args...), ""))
	}
	v := s.Values
	c := &config{
		name: s.Name, apiKey: strings.TrimSpace(v["api_key"]), secretKey: s.Secrets["secret_key"], zone: v["zone"], domain: v["domain"], account: v["account"],
		project: v["project"], path: v["path"], pool: v["pool"], poolDir: v["pool_dir"], worker: v["worker"], devices: "/dev/disk/by-id", unit: vm.GiB, parallel: 4,
		call: time.Minute, stall: 5 * time.Minute, patience: 3 * time.Minute, pause: 500 * time.Millisecond, maxPause: 5 * time.Second,
	}
	if c.path == "" {
		c.path = pathTemplate
	}
	var err error
	if b := v["insecure"]; b != "" {
		if c.insecure, err = strconv.ParseBool(b); err != nil {
			return nil, bad("insecure", "%q is neither true nor false", b)
		}
	}
	if c.api, err = parseServer(v["url"], c.insecure); err != nil {
		return nil, bad("url", "%v", err)
	}
	server := c.api.Host
	if c.api.Port() == "" {
		server += ":443"
	}
	t := trust.New(server)
	t.Insecure = c.insecure
	t.Others = "set ca_file to a file with the authority of the secondary storage VM's certificate too"
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
		t.Pin(server, sum)
	}
	if p := v["parallel_disks"]; p != "" {
		if c.parallel, err = strconv.Atoi(p); err != nil || c.parallel < 1 || c.parallel > 16 {
			return nil, bad("parallel_disks", "%q is not a number from 1 to 16", p)
		}
	}
	switch {
	case c.apiKey == "":
		return nil, bad("api_key", "is missing")
	case c.secretKey.Empty():
		return nil, bad("secret_key", "is missing")
	case c.path != pathTemplate && c.path != pathVolume:
		return nil, bad("path", "%q is neither %s nor %s", c.path, pathTemplate, pathVolume)
	case (c.pool == "") != (c.poolDir == ""):
		return nil, bad("pool", "and pool_dir are set together")
	case c.poolDir != "" && !filepath.IsAbs(c.poolDir):
		return nil, bad("pool_dir", "%q is no absolute path", c.poolDir)
	case c.worker != "" && !isID(c.worker):
		return nil, bad("worker", "%q is no machine's identifier", c.worker)
	case c.account != "" && c.project != "":
		return nil, bad("account", "cannot be combined with project")
	case c.account != "" && c.domain == "":
		return nil, bad("account", "needs domain")
	}
	return c, nil
}

// parseServer reads the API's address; a bare host is completed.
func parseServer(s string, plain bool) (*url.URL, error) {
	u, err := trust.ParseServer(s, plain)
	if err != nil {
		return nil, err
	}
	if u.Path == "" || u.Path == "/" || u.Path == "/client" || u.Path == "/client/" {
		u.Path = "/client/api"
	}
	return u, nil
}
