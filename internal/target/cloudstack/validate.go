package cloudstack

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"ascend/internal/target"
)

// checkNames are the checks in the order they are made; each needs the ones
// before it.
var checkNames = []string{"reach", "certificate", "sign-in", "version", "permissions", "zone", "offerings", "networks", "upload time", "path"}

// Validate checks the connection, what is there and what the user may do.
func (t *cloud) Validate(ctx context.Context) []target.Check {
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
	t      *cloud
	checks []target.Check
	done   map[string]bool
}

// add notes a check; with an error it failed.
func (v *validation) add(name, detail string, err error) bool {
	c := target.Check{Name: name, OK: err == nil, Detail: detail}
	if err != nil {
		d, hint := target.SplitHint(translate(err))
		if c.Hint = hint; hint == "" {
			c.Hint = "look at the management server's log"
		}
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
	f, err := v.t.known(ctx)
	if err == nil {
		_, err = list[row](ctx, v.t.c, "listAccounts", "account", params{"listall": "false"})
	}
	if !v.add("sign-in", "with the API key "+v.t.cfg.apiKey[:min(6, len(v.t.cfg.apiKey))]+"…", err) {
		return
	}
	err = nil
	if !f.version.since(4, 6, 0) {
		err = target.Permanent("CloudStack "+f.version.String()+" has no uploads from a client", "upgrade to 4.6 or later")
	}
	v.add("version", "CloudStack "+f.version.String(), err)
	v.permissions(ctx)
	zone := v.zone(ctx)
	v.things(ctx, f, zone)
	v.uploadTime(ctx)
	v.path(ctx, f, zone)
}

// reach connects, first without and then with a look at the certificate.
func (v *validation) reach(ctx context.Context) bool {
	addr := v.t.cfg.trust.Server
	if v.t.cfg.api.Scheme == "http" && v.t.cfg.api.Port() == "" {
		addr = v.t.cfg.api.Hostname() + ":80"
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return v.add("reach", "", &target.Problem{Msg: translate(err).Error(), Hint: "check url, the name servers and the firewall"})
	}
	defer func() { _ = raw.Close() }()
	v.add("reach", addr, nil)
	if v.t.cfg.api.Scheme == "http" {
		return v.add("certificate", "none: insecure is set and the address is http", nil)
	}
	tc, err := v.t.cfg.trust.Handshake(ctx, raw, addr)
	if err != nil {
		return v.add("certificate", "", translate(err))
	}
	leaf := tc.ConnectionState().PeerCertificates[0]
	detail := fmt.Sprintf("%s, valid until %s", leaf.Subject, leaf.NotAfter.UTC().Format(time.DateOnly))
	if v.t.cfg.insecure {
		detail += ", not verified because insecure is set"
	}
	return v.add("certificate", detail, nil)
}

// commands are those that a restore needs, by the way it takes.
func (t *cloud) commands() []string {
	all := []string{
		"listZones", "listServiceOfferings", "listDiskOfferings", "listNetworks", "listOsTypes", "listVolumes", "listTemplates", "listVirtualMachines", "queryAsyncJobResult",
		"attachVolume", "detachVolume", "startVirtualMachine", "stopVirtualMachine", "destroyVirtualMachine", "deleteVolume", "createTags",
		"deployVirtualMachine", "getUploadParamsForVolume",
	}
	if t.cfg.path == pathTemplate {
		all = append(all, "getUploadParamsForTemplate", "deleteTemplate")
	}
	if t.cfg.pool != "" {
		all = append(all, "listStoragePools", "listClusters", "importVm", "importVolume", "addNicToVirtualMachine")
	}
	if t.cfg.worker != "" {
		all = append(all, "createVolume", "createTemplate", "deleteTemplate")
	}
	return all
}

// granted tells which commands the user's role allows: listApis lists no others.
func (t *cloud) granted(ctx context.Context) (map[string]bool, error) {
	var out struct {
		APIs []row `json:"api"`
	}
	if err := t.c.call(ctx, "listApis", nil, &out); err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, a := range out.APIs {
		have[a.Name] = true
	}
	return have, nil
}

func (v *validation) permissions(ctx context.Context) {
	have, err := v.t.granted(ctx)
	var missing []string
	for _, c := range v.t.commands() {
		if err == nil && !have[c] {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		err = target.Permanent("the user's role does not allow "+strings.Join(missing, ", "), "add the commands to the role")
	}
	v.add("permissions", fmt.Sprintf("%d commands needed, all granted", len(v.t.commands())), err)
}

func (v *validation) zone(ctx context.Context) string {
	zones, err := list[zoneRow](ctx, v.t.c, "listZones", "zone", params{"available": "true"})
	if err != nil || len(zones) == 0 {
		if err == nil {
			err = target.Permanent("the user sees no zone", "give the domain a zone")
		}
		v.add("zone", "", err)
		return ""
	}
	if v.t.cfg.zone == "" && len(zones) > 1 {
		v.add("zone", fmt.Sprintf("%d zones, named by each restore", len(zones)), nil)
		return ""
	}
	z, err := choose("zone", v.t.cfg.zone, zones)
	v.add("zone", z.Name, err)
	return z.ID
}

func (v *validation) things(ctx context.Context, f *facts, zone string) {
	offerings, err := list[row](ctx, v.t.c, "listServiceOfferings", "serviceoffering", params{"zoneid": zone})
	disks, derr := list[diskOfferingRow](ctx, v.t.c, "listDiskOfferings", "diskoffering", params{"zoneid": zone})
	custom := slices.ContainsFunc(disks, func(d diskOfferingRow) bool { return d.Custom })
	switch {
	case err == nil && derr != nil:
		err = derr
	case err == nil && len(offerings) == 0:
		err = target.Permanent("there is no compute offering", "make one, or give the domain one")
	case err == nil && !custom:
		err = target.Permanent("there is no disk offering of custom size, which every uploaded disk needs", "make one, or give the domain one")
	}
	v.add("offerings", fmt.Sprintf("%d of compute, %d of disks", len(offerings), len(disks)), err)
	nets, err := list[networkRow](ctx, v.t.c, "listNetworks", "network", f.owned(params{"zoneid": zone, "canusefordeploy": "true", "listall": "true"}))
	if err == nil && len(nets) == 0 {
		err = target.Permanent("the user sees no network", "make one, or give the account one")
	}
	v.add("networks", fmt.Sprintf("%d", len(nets)), err)
}

// uploadTime tells how long an upload may take, where the user may see it.
func (v *validation) uploadTime(ctx context.Context) {
	var confs []struct {
		Value string `json:"value"`
	}
	confs, err := list[struct {
		Value string `json:"value"`
	}](ctx, v.t.c, "listConfigurations", "configuration", params{"name": "upload.operation.timeout"})
	if err != nil || len(confs) == 0 {
		v.add("upload time", "the user may not see upload.operation.timeout (10 minutes unless changed): an upload that takes longer is given up by the cloud", nil)
		return
	}
	v.add("upload time", "a disk must be sent within "+confs[0].Value+" minutes (upload.operation.timeout)", nil)
}

// path tells which way the disks take, and why.
func (v *validation) path(ctx context.Context, f *facts, zone string) {
	p := &place{zone: zoneRow{row: row{ID: zone, Name: v.t.cfg.zone}}}
	way := v.t.deliveries()[0].Path
	detail := map[string]string{
		pathTemplate: "the boot disk as a template, the others as volumes: every cloud since 4.6 takes this",
		pathVolume:   "every disk as a volume, because path=volume is set",
		pathImport:   "files on " + v.t.cfg.pool + ", because it is mounted at " + v.t.cfg.poolDir,
		pathHotAdd:   "block devices of this machine, because worker is set",
	}[way]
	err := v.t.checkPath(ctx, f, p, way)
	if err == nil && way == pathImport {
		if fi, serr := os.Stat(v.t.cfg.poolDir); serr != nil || !fi.IsDir() {
			err = target.Permanent(v.t.cfg.poolDir+" is no folder", "mount the export of "+v.t.cfg.pool+" there")
		}
	}
	v.add("path", detail, err)
}
