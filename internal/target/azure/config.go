package azure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// Ways of signing in.
const (
	authSecret      = "client-secret"
	authCertificate = "client-certificate"
	authManaged     = "managed-identity"
	authWorkload    = "workload-identity"
	authCLI         = "cli"
)

// Kind describes the connector for the registry. Open checks the settings and
// signs in on first use, so that Validate can say which part fails.
func Kind() target.Kind {
	set := func(name, help string, required bool, values ...string) target.Setting {
		return target.Setting{Field: target.Field{Name: name, Help: help, Required: required, Values: values}}
	}
	hidden := func(name, help string) target.Setting {
		return target.Setting{Field: target.Field{Name: name, Help: help}, Secret: true}
	}
	return target.Kind{
		Platform: vm.Azure,
		Settings: []target.Setting{
			set("subscription", "subscription to restore into, by its identifier", true),
			set("auth", "how to sign in; without it, what the other settings tell", false, authSecret, authCertificate, authManaged, authWorkload, authCLI),
			set("tenant", "directory (tenant) identifier or domain; needed with an application", false),
			set("client_id", "application (client) identifier; that of a user-assigned managed identity", false),
			hidden("client_secret", "secret of the application"),
			set("certificate_file", "PEM or PKCS#12 file with the application's certificate and key", false),
			hidden("certificate_password", "password of certificate_file"),
			set("token_file", "file with the federated token of a workload identity", false),
			set("resource_group", "resource group that is used when a restore names none", false),
			set("location", "region, for instance westeurope; without it that of the resource group", false),
			{Field: target.Field{Name: "cloud", Help: "the cloud", Default: "public", Values: []string{"public", "usgovernment", "china"}}},
			set("arm_endpoint", "address of the resource manager, instead of the cloud's", false),
			set("arm_audience", "audience of the resource manager's tokens, instead of the cloud's", false),
			set("authority_host", "address to sign in at, instead of the cloud's", false),
			set("ca_file", "PEM file of the certificate authorities to trust instead of the system's", false),
			{Field: target.Field{Name: "insecure", Default: "false", Values: []string{"false", "true"},
				Help: "accept any certificate: whoever is on the network path can read tokens and disks"}},
			{Field: target.Field{Name: "access_hours", Default: strconv.Itoa(defaultAccess),
				Help: "hours for which access to a disk is asked, 1 to 720; it is renewed in time"}},
		},
		Open: func(_ context.Context, s target.Settings) (target.Target, error) { return open(s) },
	}
}

const defaultAccess = 24

// config is the checked form of the settings.
type config struct {
	name         string
	subscription string
	auth         string
	tenant       string
	clientID     string
	secret       secret.String
	certificate  string // file
	password     secret.String
	tokenFile    string
	group        string
	location     string
	cloud        cloud.Configuration
	portal       string // https://portal…; "" where there is none that is known
	custom       bool   // the authority is not one that Microsoft lists
	http         *http.Client
	access       time.Duration // of a shared access signature

	// Times. Tests shorten them.
	poll    time.Duration // between two looks at an operation, unless told
	delay   time.Duration // before a first repetition
	put     time.Duration // one write of pages
	call    time.Duration // one API call, repetitions included
	waiting time.Duration // for what a resource's user must give up first
}

// subscriptionID is how Azure's identifiers look.
var subscriptionID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

func newConfig(s target.Settings) (*config, error) {
	bad := func(setting, hint, format string, args ...any) error {
		return fmt.Errorf("target %s: setting %q: %w", s.Name, setting, target.Permanent(fmt.Sprintf(format, args...), hint))
	}
	v := s.Values
	c := &config{
		name: s.Name, subscription: v["subscription"], auth: v["auth"], tenant: v["tenant"], clientID: v["client_id"],
		secret: s.Secrets["client_secret"], certificate: v["certificate_file"], password: s.Secrets["certificate_password"],
		tokenFile: v["token_file"], group: v["resource_group"], location: strings.ToLower(strings.ReplaceAll(v["location"], " ", "")),
		access: defaultAccess * time.Hour,
		poll:   2 * time.Second, delay: 800 * time.Millisecond, put: time.Minute, call: 10 * time.Minute, waiting: 6 * time.Minute,
	}
	if !subscriptionID.MatchString(c.subscription) {
		return nil, bad("subscription", "az account show --query id prints it", "%q is no subscription's identifier", c.subscription)
	}
	if err := c.chooseAuth(bad); err != nil {
		return nil, err
	}
	if err := c.chooseCloud(v, bad); err != nil {
		return nil, err
	}
	if h := v["access_hours"]; h != "" {
		n, err := strconv.Atoi(h)
		if err != nil || n < 1 || n > 720 {
			return nil, bad("access_hours", "", "%q is not a number from 1 to 720", h)
		}
		c.access = time.Duration(n) * time.Hour
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12}
	if v["insecure"] != "" {
		b, err := strconv.ParseBool(v["insecure"])
		if err != nil {
			return nil, bad("insecure", "", "%q is neither true nor false", v["insecure"])
		}
		tc.InsecureSkipVerify = b //nolint:gosec // only when it is said
	}
	if file := v["ca_file"]; file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, bad("ca_file", "", "%v", err)
		}
		tc.RootCAs = x509.NewCertPool()
		if !tc.RootCAs.AppendCertsFromPEM(pem) {
			return nil, bad("ca_file", "", "%s holds no PEM certificate", file)
		}
	}
	c.http = &http.Client{Transport: &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		DialContext:     (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig: tc, TLSHandshakeTimeout: 30 * time.Second,
		MaxIdleConnsPerHost: maxWorkers, IdleConnTimeout: 90 * time.Second, WriteBufferSize: 128 << 10,
	}}
	return c, nil
}

type badSetting func(setting, hint, format string, args ...any) error

// chooseAuth checks that a way of signing in has what it needs.
func (c *config) chooseAuth(bad badSetting) error {
	if c.auth == "" {
		switch {
		case !c.secret.Empty():
			c.auth = authSecret
		case c.certificate != "":
			c.auth = authCertificate
		case c.tokenFile != "":
			c.auth = authWorkload
		default:
			return bad("auth", "set client_secret, certificate_file or token_file with tenant and client_id, or auth="+authManaged+" or auth="+authCLI, "nothing tells how to sign in")
		}
	}
	if !slices.Contains([]string{authSecret, authCertificate, authManaged, authWorkload, authCLI}, c.auth) {
		return bad("auth", "", "%q is not a way of signing in", c.auth)
	}
	if c.auth != authSecret && !c.secret.Empty() || c.auth != authCertificate && c.certificate != "" {
		return bad("auth", "take one of the settings away", "auth=%s does not use the secret or certificate that is set too", c.auth)
	}
	for _, need := range []struct {
		setting string
		missing bool
		by      []string
	}{
		{"tenant", c.tenant == "", []string{authSecret, authCertificate, authWorkload}},
		{"client_id", c.clientID == "", []string{authSecret, authCertificate, authWorkload}},
		{"client_secret", c.secret.Empty(), []string{authSecret}},
		{"certificate_file", c.certificate == "", []string{authCertificate}},
		{"token_file", c.tokenFile == "", []string{authWorkload}},
	} {
		if need.missing && slices.Contains(need.by, c.auth) {
			return bad(need.setting, "", "is missing: auth=%s needs it", c.auth)
		}
	}
	return nil
}

// chooseCloud finds the endpoints.
func (c *config) chooseCloud(v map[string]string, bad badSetting) error {
	var base cloud.Configuration
	switch v["cloud"] {
	case "", "public":
		base, c.portal = cloud.AzurePublic, "https://portal.azure.com"
	case "usgovernment":
		base, c.portal = cloud.AzureGovernment, "https://portal.azure.us"
	case "china":
		base, c.portal = cloud.AzureChina, "https://portal.azure.cn"
	default:
		return bad("cloud", "", "%q is not one of public, usgovernment, china", v["cloud"])
	}
	arm := base.Services[cloud.ResourceManager]
	c.cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: base.ActiveDirectoryAuthorityHost}
	for setting, to := range map[string]*string{"arm_endpoint": &arm.Endpoint, "authority_host": &c.cloud.ActiveDirectoryAuthorityHost} {
		if v[setting] == "" {
			continue
		}
		u, err := url.Parse(v[setting])
		switch {
		case err != nil:
			return bad(setting, "", "cannot be read as a URL")
		case u.User != nil:
			return bad(setting, "", "must not hold a user name or password")
		case u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
			return bad(setting, "", "must be an address that begins with https://")
		}
		*to = strings.TrimSuffix(u.String(), "/")
		c.portal = ""
		c.custom = c.custom || setting == "authority_host"
	}
	if a := v["arm_audience"]; a != "" {
		arm.Audience = a
	}
	c.cloud.Services = map[cloud.ServiceName]cloud.ServiceConfiguration{cloud.ResourceManager: arm}
	return nil
}
