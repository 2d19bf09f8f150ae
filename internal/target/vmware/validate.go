package vmware

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// oldest is the API version from which everything that is used here is known
// to work.
const oldest = "6.5"

// privileges are needed on the datacenter and what is below it (vSphere
// Security, "Defined Privileges").
var privileges = []string{
	"Datastore.AllocateSpace",
	"Datastore.Browse",
	"Datastore.FileManagement",
	"Network.Assign",
	"Resource.AssignVMToPool",
	"VApp.Import",
	"VirtualMachine.Config.AddNewDisk",
	"VirtualMachine.Config.AddExistingDisk",
	"VirtualMachine.Config.AddRemoveDevice",
	"VirtualMachine.Config.AdvancedConfig",
	"VirtualMachine.Config.Annotation",
	"VirtualMachine.Config.CPUCount",
	"VirtualMachine.Config.Memory",
	"VirtualMachine.Config.Settings",
	"VirtualMachine.Interact.PowerOff",
	"VirtualMachine.Interact.PowerOn",
	"VirtualMachine.Inventory.Create",
	"VirtualMachine.Inventory.Delete",
}

// checkNames are the checks in the order they are made; each needs the ones
// before it.
var checkNames = []string{"reach", "certificate", "sign-in", "version", "licence", "inventory", "datacenter", "compute", "datastore", "network", "privileges"}

// Validate checks the connection, what is there and what the user may do.
func (t *vmware) Validate(ctx context.Context) []target.Check {
	v := &validation{t: t, done: map[string]bool{}}
	v.run(ctx)
	for _, name := range checkNames {
		if !v.done[name] {
			v.add(name, "not checked: an earlier check failed", target.Permanent("", "solve the check that failed first"))
		}
	}
	return v.checks
}

type validation struct {
	t      *vmware
	c      *conn
	tree   *tree
	dcs    []*node
	checks []target.Check
	done   map[string]bool
}

// add notes a check; with an error it failed.
func (v *validation) add(name, detail string, err error) bool {
	c := target.Check{Name: name, OK: err == nil, Detail: detail}
	if err != nil {
		d, hint := target.SplitHint(err)
		c.Hint = hint
		if d != "" {
			c.Detail = d
		}
	}
	v.checks = append(v.checks, c)
	v.done[name] = true
	return err == nil
}

func (v *validation) run(ctx context.Context) {
	if !v.reach(ctx) {
		return
	}
	var err error
	v.c, err = v.t.connect(ctx)
	if !v.add("sign-in", "as "+v.t.cfg.username, err) {
		return
	}
	v.version(ctx)
	v.tree, err = v.c.readTree(ctx, false)
	if err != nil {
		v.add("inventory", "", err)
		return
	}
	v.add("inventory", fmt.Sprintf("%d objects", len(v.tree.list)), nil)
	if !v.datacenter() {
		return
	}
	v.places()
	v.privileges(ctx)
}

// reach connects, first without and then with a look at the certificate.
func (v *validation) reach(ctx context.Context) bool {
	addr := v.t.cfg.sdk.Host
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		p := &target.Problem{Msg: translate(err).Error(), Hint: "check url, the name servers and the firewall"}
		return v.add("reach", "", p)
	}
	defer func() { _ = raw.Close() }()
	v.add("reach", addr, nil)
	tc, err := v.t.cfg.trust.Handshake(ctx, raw, addr)
	if err != nil {
		return v.add("certificate", "", translate(err))
	}
	leaf := tc.ConnectionState().PeerCertificates[0]
	detail := fmt.Sprintf("%s, valid until %s", leaf.Subject, leaf.NotAfter.UTC().Format(time.DateOnly))
	if v.t.cfg.trust.Insecure {
		detail += ", not verified because insecure is set"
	}
	return v.add("certificate", detail, nil)
}

func (v *validation) version(ctx context.Context) {
	about := v.c.vim.ServiceContent.About
	var err error
	if versionLess(about.ApiVersion, oldest) {
		err = target.Permanent(fmt.Sprintf("%s has API version %s, older than %s", about.FullName, about.ApiVersion, oldest), "upgrade the server")
	}
	v.add("version", fmt.Sprintf("%s, API %s", about.FullName, about.ApiVersion), err)
	detail, err := v.licence(ctx)
	v.add("licence", detail, err)
}

// licence looks for what forbids changes through the API: an ESXi host with
// the free licence.
func (v *validation) licence(ctx context.Context) (string, error) {
	if v.c.vim.ServiceContent.LicenseManager == nil {
		return "the server has no licence manager", nil
	}
	var m mo.LicenseManager
	if err := v.c.get(ctx, *v.c.vim.ServiceContent.LicenseManager, &m, "licenses"); err != nil {
		if isFault[*types.NoPermission](err) {
			return "the user may not see it", nil
		}
		return "", translate(err)
	}
	var names []string
	for _, l := range m.Licenses {
		if l.Name != "" && !slices.Contains(names, l.Name) {
			names = append(names, l.Name)
		}
		free := strings.HasPrefix(l.EditionKey, "esxBasic") || strings.HasPrefix(l.EditionKey, "esx.hypervisor")
		if free && !v.c.vim.IsVC() {
			return "", target.Permanent("the host has the free licence "+l.Name+", with which the API is read-only", "use a vCenter or a paid licence")
		}
	}
	return strings.Join(names, ", "), nil
}

func (v *validation) datacenter() bool {
	all := v.tree.kind(kindsDatacenter)
	if want := v.t.cfg.datacenter; want != "" {
		n, err := choose("datacenter", want, v.t.cfg.sdk.Host, all)
		if n != nil {
			v.dcs = []*node{n}
		}
		return v.add("datacenter", want, err)
	}
	v.dcs = all
	if len(all) == 0 {
		return v.add("datacenter", "", target.Permanent("the user sees no datacenter", "give the user a role on the datacenter"))
	}
	return v.add("datacenter", enumerate(all, false), nil)
}

// places checks that there is at least one of each thing a machine needs.
func (v *validation) places() {
	var computes, stores, usable, nets []*node
	for _, dc := range v.dcs {
		computes = append(computes, v.tree.under(v.tree.kind(kindsCompute), dc.one("hostFolder"))...)
		stores = append(stores, v.tree.under(v.tree.kind(kindsDatastore), dc.one("datastoreFolder"))...)
		nets = append(nets, v.tree.under(v.tree.networks(), dc.one("networkFolder"))...)
	}
	some := func(name, what string, nodes []*node) {
		if len(nodes) == 0 {
			v.add(name, "", target.Permanent("the user sees no "+what, "give the user a role on it that propagates"))
			return
		}
		v.add(name, enumerate(nodes, false), nil)
	}
	some("compute", "cluster or host", computes)
	var room []string
	for _, n := range stores {
		if s, ok := n.summary(); ok && unusable(s) == "" && s.FreeSpace > 0 {
			usable = append(usable, n)
			if len(room) < candidates {
				room = append(room, fmt.Sprintf("%s (%s free)", n.name, vm.FormatSize(s.FreeSpace)))
			}
		}
	}
	if len(usable) == 0 {
		v.add("datastore", "", target.Permanent("no datastore is accessible and has free space: "+enumerate(stores, false), ""))
	} else {
		v.add("datastore", strings.Join(room, ", "), nil)
	}
	some("network", "network", nets)
}

// privileges asks whether the user has what a restore needs on each datacenter.
func (v *validation) privileges(ctx context.Context) {
	if v.c.vim.ServiceContent.AuthorizationManager == nil {
		v.add("privileges", "", target.Permanent("the server cannot tell what the user may do", ""))
		return
	}
	for _, dc := range v.dcs {
		res, err := methods.HasPrivilegeOnEntity(ctx, v.c.vim, &types.HasPrivilegeOnEntity{
			This: *v.c.vim.ServiceContent.AuthorizationManager, Entity: dc.ref,
			SessionId: v.c.sessionKey(), PrivId: privileges,
		})
		if err != nil {
			v.add("privileges", "", translate(err))
			return
		}
		var missing []string
		for i, p := range privileges {
			if i >= len(res.Returnval) || !res.Returnval[i] {
				missing = append(missing, p)
			}
		}
		if len(missing) > 0 {
			v.add("privileges", "", target.Permanent(fmt.Sprintf("the user lacks on %s: %s", dc.name, strings.Join(missing, ", ")),
				"add them to the user's role on the datacenter, propagating"))
			return
		}
	}
	v.add("privileges", fmt.Sprintf("%d needed, all granted", len(privileges)), nil)
}
