package nutanix

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"ascend/internal/target"
)

// checkNames are the checks in the order they are made; each needs the ones
// before it.
var checkNames = []string{"reach", "certificate", "sign-in", "clock", "version", "cluster", "storage", "networks", "machines", "uploads"}

// Validate checks the connection, what is there and what the user may see.
func (t *prism) Validate(ctx context.Context) []target.Check {
	v := &validation{t: t}
	v.run(ctx)
	for _, name := range checkNames {
		if !slices.ContainsFunc(v.checks, func(c target.Check) bool { return c.Name == name }) {
			v.add(name, "", target.Permanent("not checked: an earlier check failed", "solve the check that failed first"))
		}
	}
	return v.checks
}

type validation struct {
	t      *prism
	checks []target.Check
}

// add notes a check; with an error it failed.
func (v *validation) add(name, detail string, err error) bool {
	c := target.Check{Name: name, OK: err == nil, Detail: detail}
	if err != nil {
		if c.Detail, c.Hint = target.SplitHint(translate(err)); c.Hint == "" {
			c.Hint = "look at Prism Central's alerts and at the network between here and there"
		}
	}
	v.checks = append(v.checks, c)
	return err == nil
}

func (v *validation) run(ctx context.Context) {
	t := v.t
	if !v.reach(ctx) {
		return
	}
	q := call{method: http.MethodGet, path: apiClusters}
	if t.old {
		q = call{method: http.MethodPost, path: apiV3Base + "clusters/list", body: v3Query{Kind: "cluster", Length: 1}}
	}
	r, err := t.c.do(ctx, q)
	if isGone(err) && !t.old {
		err = errNoV4
	}
	if !v.add("sign-in", "as "+t.cfg.user, err) {
		return
	}
	v.clock(r.header.Get("Date"))
	a, err := t.api(ctx)
	detail := "API v3"
	if v4, ok := a.(*v4); ok {
		detail = "API " + v4.version
	}
	if !v.add("version", detail, err) {
		return
	}
	v.places(ctx, a)
	_, err = a.machinesNamed(ctx, "ascend-validate")
	v.add("machines", "the user sees machines", err)
	if t.old {
		_, err = a.imageNamed(ctx, "ascend-validate")
		v.add("uploads", "the image service answers to this user", err)
		return
	}
	_, err = t.c.objectSize(ctx, "ascend-validate")
	v.add("uploads", "Objects Lite answers to this user", err)
}

// reach connects and looks at the certificate.
func (v *validation) reach(ctx context.Context) bool {
	cfg := v.t.cfg
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", cfg.base.Host)
	if err != nil {
		detail, _ := target.SplitHint(translate(err))
		return v.add("reach", "", &target.Problem{Msg: detail, Hint: "check url, the name servers and the firewall (port 9440)"})
	}
	defer func() { _ = raw.Close() }()
	v.add("reach", cfg.base.Host, nil)
	if cfg.base.Scheme == "http" {
		return v.add("certificate", "none: insecure is set and the address is http", nil)
	}
	tc, err := cfg.trust.Handshake(ctx, raw, cfg.base.Host)
	if err != nil {
		return v.add("certificate", "", err)
	}
	leaf := tc.ConnectionState().PeerCertificates[0]
	detail := fmt.Sprintf("%s, valid until %s", leaf.Subject, leaf.NotAfter.UTC().Format(time.DateOnly))
	if cfg.insecure {
		detail += ", not verified because insecure is set"
	}
	return v.add("certificate", detail, nil)
}

// maxSkew is how far clocks may be apart: S3's signatures allow 15 minutes.
const maxSkew = 14 * time.Minute

func (v *validation) clock(date string) {
	at, err := http.ParseTime(date)
	if err != nil {
		v.add("clock", "Prism Central does not tell its time", nil)
		return
	}
	off := time.Since(at).Round(time.Second)
	if off.Abs() > maxSkew {
		v.add("clock", "", target.Permanent(fmt.Sprintf("this machine's clock and Prism Central's are %s apart", off.Abs()), "set both by NTP: signatures of uploads are valid for 15 minutes"))
		return
	}
	v.add("clock", fmt.Sprintf("%s apart", off.Abs()), nil)
}

// places checks that what the settings name is there.
func (v *validation) places(ctx context.Context, a api) {
	t := v.t
	clusters, err := a.clusters(ctx)
	if err == nil && len(clusters) == 0 {
		err = target.Permanent("no AHV cluster is registered, or the user sees none", "register a cluster, or give the user's role a wider scope")
	}
	detail := fmt.Sprintf("%d", len(clusters))
	var home named
	if err == nil && t.cfg.cluster != "" {
		home, err = pick("cluster", t.cfg.cluster, fieldCluster, clusters)
		detail = home.Name
	}
	v.add("cluster", detail, err)
	rows, err := a.containers(ctx)
	if err == nil && t.cfg.container != "" && !t.old {
		var all []named
		for _, r := range rows {
			if home.ID == "" || r.Cluster == home.ID {
				all = append(all, named{ID: r.ID, Name: r.Name})
			}
		}
		if !slices.ContainsFunc(all, func(n named) bool { return n.Name == t.cfg.container || n.ID == t.cfg.container }) {
			err = target.Permanent(fmt.Sprintf("there is no storage container %q", t.cfg.container), "there are: "+listed(all))
		}
	}
	detail = fmt.Sprintf("%d storage containers", len(rows))
	if t.old {
		detail = "v3 does not list storage containers"
	}
	v.add("storage", detail, err)
	subnets, err := a.subnets(ctx)
	if err == nil && len(subnets) == 0 {
		err = target.Permanent("there are no subnets, or the user sees none", "create one, or give the user's role a wider scope")
	}
	v.add("networks", fmt.Sprintf("%d subnets", len(subnets)), err)
}
