package cloudstack

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// Inventory lists what a restore can be placed on. What only administrators may
// see is left out for others.
func (t *cloud) Inventory(ctx context.Context) (*target.Inventory, error) {
	inv, err := t.inventory(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read what %s has: %w", t.cfg.api.Host, translate(err))
	}
	return inv, nil
}

func (t *cloud) inventory(ctx context.Context) (*target.Inventory, error) {
	f, err := t.known(ctx)
	if err != nil {
		return nil, err
	}
	inv := &target.Inventory{Places: map[string][]target.Place{}, Asked: time.Now().UTC()}
	zones, err := list[zoneRow](ctx, t.c, "listZones", "zone", params{"available": "true"})
	if err != nil {
		return nil, err
	}
	for _, z := range zones {
		inv.Places[fieldZone] = append(inv.Places[fieldZone], target.Place{Name: z.Name, Note: strings.ToLower(z.Type + " network")})
	}
	zone := ""
	if z, err := choose("zone", t.cfg.zone, zones); err == nil {
		zone, inv.Region = z.ID, z.Name
	}
	offerings, err := list[offeringRow](ctx, t.c, "listServiceOfferings", "serviceoffering", params{"zoneid": zone})
	if err != nil {
		return nil, err
	}
	for _, o := range offerings {
		s := o.size()
		inv.Sizes = append(inv.Sizes, s)
		note := fmt.Sprintf("%d processors, %s", s.CPUs, vm.FormatSize(s.Memory))
		if o.Custom {
			note = "custom"
		}
		inv.Places[fieldOffering] = append(inv.Places[fieldOffering], target.Place{Name: o.Name, Note: note})
	}
	disks, err := list[diskOfferingRow](ctx, t.c, "listDiskOfferings", "diskoffering", params{"zoneid": zone})
	if err != nil {
		return nil, err
	}
	for _, d := range disks {
		if d.Custom { // others take no upload
			inv.Places[fieldDisk] = append(inv.Places[fieldDisk], target.Place{Name: d.Name, Note: "custom size"})
		}
	}
	nets, err := list[networkRow](ctx, t.c, "listNetworks", "network", f.owned(params{"zoneid": zone, "canusefordeploy": "true", "listall": "true"}))
	if err != nil {
		return nil, err
	}
	for _, n := range nets {
		inv.Networks = append(inv.Networks, target.Place{Name: n.Name, Note: strings.TrimSpace(strings.ToLower(n.Type) + " " + n.CIDR)})
	}
	all, err := list[machineRow](ctx, t.c, "listVirtualMachines", "virtualmachine", f.owned(params{"listall": "true"}))
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		inv.Taken = append(inv.Taken, m.Display)
	}
	slices.Sort(inv.Taken)
	t.extras(ctx, f, zone, inv)
	return inv, nil
}

// extras adds what a user may not be allowed to see; refusals leave it out.
func (t *cloud) extras(ctx context.Context, f *facts, zone string, inv *target.Inventory) {
	if groups, err := list[row](ctx, t.c, "listSecurityGroups", "securitygroup", f.owned(params{"listall": "true"})); err == nil {
		for _, g := range groups {
			inv.SecurityGroups = append(inv.SecurityGroups, target.Place{Name: g.Name})
		}
	}
	if clusters, err := list[row](ctx, t.c, "listClusters", "cluster", params{"zoneid": zone}); err == nil {
		for _, c := range clusters {
			inv.Places[fieldCluster] = append(inv.Places[fieldCluster], target.Place{Name: c.Name})
		}
	}
	hosts, err := list[struct {
		row
		UEFI bool `json:"ueficapability"`
	}](ctx, t.c, "listHosts", "host", params{"zoneid": zone, "type": "Routing"})
	if err == nil && len(hosts) > 0 {
		uefi := false
		for _, h := range hosts {
			uefi = uefi || h.UEFI
			inv.Places[fieldHost] = append(inv.Places[fieldHost], target.Place{Name: h.Name})
		}
		inv.UEFI = &uefi
	}
	if have, err := t.granted(ctx); err == nil {
		for _, c := range t.commands() {
			inv.Permissions = append(inv.Permissions, target.Permission{Name: c, Granted: have[c]})
		}
	}
	accounts, err := list[map[string]any](ctx, t.c, "listAccounts", "account", params{"listall": "false"})
	if err == nil && len(accounts) == 1 && t.cfg.project == "" {
		inv.Quotas = quotas(accounts[0])
	}
}

// quotas are the limits in an account's answer, in the units of Quota.
func quotas(a map[string]any) []target.Quota {
	var out []target.Quota
	for _, q := range []struct {
		kind, name string
		unit       float64
	}{
		{"machines", "vm", 1}, {"disks", "volume", 1}, {"templates", "template", 1}, {"cpus", "cpu", 1},
		{"memory", "memory", float64(vm.MiB)}, {"disk", "primarystorage", float64(vm.GiB)}, {"secondary storage", "secondarystorage", float64(vm.GiB)},
	} {
		limit, ok := a[q.name+"limit"].(string)
		used, _ := a[q.name+"total"].(float64)
		if !ok {
			continue
		}
		x := target.Quota{Kind: q.kind, Name: q.name, Used: int64(used * q.unit), Limit: -1}
		if n, err := strconv.ParseFloat(limit, 64); err == nil && n >= 0 {
			x.Limit = int64(n * q.unit)
		}
		out = append(out, x)
	}
	return out
}

// size is an offering as plans compare them. A custom one takes up to what its
// details allow.
func (o offeringRow) size() target.Size {
	s := target.Size{Name: o.Name, CPUs: o.CPUs, Memory: o.Memory * vm.MiB, Custom: o.Custom}
	if o.Custom {
		s.CPUs, s.Memory = max(s.CPUs, number(o.Details["maxcpunumber"], 240)), max(s.Memory, int64(number(o.Details["maxmemory"], 4<<20))*vm.MiB)
	}
	return s
}

func number(s string, def int) int {
	if n, err := strconv.Atoi(s); err == nil && n > 0 {
		return n
	}
	return def
}
