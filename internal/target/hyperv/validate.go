package hyperv

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostscript"
)

// checkNames are the checks in the order they are made; each needs the ones
// before it.
var checkNames = []string{"reach", "certificate", "sign-in", "version", "folder", "share", "networks", "machines"}

// Validate checks the connection, the sign-in, the host and where disks go.
func (t *host) Validate(ctx context.Context) []target.Check {
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
	t      *host
	checks []target.Check
}

// add notes a check; with an error it failed.
func (v *validation) add(name, detail string, err error) bool {
	c := target.Check{Name: name, OK: err == nil, Detail: detail}
	if err != nil {
		if c.Detail, c.Hint = target.SplitHint(translate(err)); c.Hint == "" {
			c.Hint = "look at the host's event logs and at the network between here and there"
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
	var l hostscript.Look
	err := t.once(ctx, hostscript.Request{Op: hostscript.OpLook}, &l)
	if !v.add("sign-in", fmt.Sprintf("as %s by %s", t.cfg.user, t.cfg.auth), err) {
		return
	}
	detail := strings.TrimSpace(l.System + " " + l.Build)
	if l.Cluster != "" {
		detail += ", node of cluster " + l.Cluster
	}
	if !v.add("version", detail, tooOld(l.Build)) {
		return
	}
	v.folder(ctx, &l)
	var names []string
	for _, s := range l.Switches {
		names = append(names, s.Name)
	}
	err = nil
	if len(names) == 0 {
		err = target.Permanent("the host has no virtual switch", "make one (New-VMSwitch): a machine with an adapter cannot be restored without")
	}
	v.add("networks", "switches "+strings.Join(names, ", "), err)
	v.add("machines", fmt.Sprintf("the user sees %d", len(l.Machines)), nil)
}

// leastBuild is Windows Server 2016: Windows PowerShell 5.1, kinds of checkpoints,
// and virtual TPMs came with it.
const leastBuild = 14393

func tooOld(version string) error {
	parts := strings.Split(version, ".")
	if n, err := strconv.Atoi(parts[len(parts)-1]); err != nil || n < leastBuild {
		return target.Permanent(fmt.Sprintf("the host runs Windows %s", version), "Windows Server 2016 or later is needed (10.0.14393)")
	}
	return nil
}

// folder looks at the folder of machines that name none, and at its share.
func (v *validation) folder(ctx context.Context, l *hostscript.Look) {
	t := v.t
	path, err := t.folder(l, "")
	detail := path
	if vol, ok := volume(l, path); ok {
		detail = fmt.Sprintf("%s, %d GiB free", path, vol.Free>>30)
	}
	if !v.add("folder", detail, err) {
		return
	}
	at, err := t.spot(l, join(path, "x"))
	if err != nil && t.cfg.pull != "" && t.cfg.share == "" {
		v.add("share", "none holds the folder: disks are fetched by the host from "+t.cfg.pull, nil)
		return
	}
	if err == nil {
		sh, serr := t.share(ctx, at.share)
		if err = serr; err == nil {
			_, err = sh.Free(ctx)
			_ = sh.Close() // nothing was written
		}
	}
	v.add("share", fmt.Sprintf(`\\%s\%s`, t.cfg.smb, at.share), err)
}

// reach connects and looks at the certificate.
func (v *validation) reach(ctx context.Context) bool {
	cfg := v.t.cfg
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", cfg.url.Host)
	if err != nil {
		detail, _ := target.SplitHint(translate(err))
		return v.add("reach", "", &target.Problem{Msg: detail, Hint: "check url, the name servers, the firewall (port 5986), and that the service listens with HTTPS (winrm enumerate winrm/config/listener)"})
	}
	defer func() { _ = raw.Close() }()
	v.add("reach", cfg.url.Host, nil)
	tc, err := cfg.trust.Handshake(ctx, raw, cfg.url.Host)
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
