package azure

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

// Inventory lists what a restore can be placed on.
func (t *azure) Inventory(ctx context.Context) (*target.Inventory, error) {
	inv, err := t.inventory(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list what is there: %w", translate(err))
	}
	return inv, nil
}

func (t *azure) inventory(ctx context.Context) (*target.Inventory, error) {
	inv := &target.Inventory{Places: map[string][]target.Place{}, Asked: time.Now()}
	groups, err := list[plain](ctx, t.c, t.c.path("resourcegroups"), apiResources)
	if err != nil {
		return nil, err
	}
	inv.Region = t.cfg.location
	for _, g := range groups {
		inv.Places[fieldGroup] = append(inv.Places[fieldGroup], target.Place{Name: g.Name, Note: g.Location})
		if strings.EqualFold(g.Name, t.cfg.group) && inv.Region == "" {
			inv.Region = g.Location
		}
	}
	machines, err := list[plain](ctx, t.c, t.c.path("providers/Microsoft.Compute/virtualMachines"), apiCompute)
	if err != nil {
		return nil, err
	}
	for _, m := range machines {
		// Names are a resource group's own.
		if t.cfg.group == "" || strings.EqualFold(groupOf(m.ID), t.cfg.group) {
			inv.Taken = append(inv.Taken, m.Name)
		}
	}
	if err := t.networks(ctx, inv); err != nil {
		return nil, err
	}
	for field, of := range map[string][2]string{
		fieldSet: {"Microsoft.Compute/availabilitySets", apiCompute}, fieldDES: {"Microsoft.Compute/diskEncryptionSets", apiDisks},
	} {
		all, err := list[plain](ctx, t.c, t.c.path("providers", of[0]), of[1])
		if err != nil {
			return nil, err
		}
		for _, r := range all {
			if t.here(inv, r.Location) {
				inv.Places[field] = append(inv.Places[field], target.Place{Name: groupOf(r.ID) + "/" + r.Name, Note: r.Location})
			}
		}
	}
	for _, c := range caps.For(vm.Azure).Traits.Classes {
		inv.Places[fieldSKU] = append(inv.Places[fieldSKU], target.Place{Name: c.Name, Note: c.Help})
	}
	if inv.Region == "" {
		return inv, nil // sizes and quotas are a region's
	}
	return inv, t.regional(ctx, inv)
}

// here tells whether a location is the inventory's region, or that has none.
func (t *azure) here(inv *target.Inventory, location string) bool {
	return inv.Region == "" || strings.EqualFold(location, inv.Region)
}

// groupOf is the resource group in an identifier.
func groupOf(id string) string {
	parts := strings.Split(id, "/")
	for i := range len(parts) - 1 {
		if strings.EqualFold(parts[i], "resourceGroups") {
			return parts[i+1]
		}
	}
	return ""
}

// networks lists subnets and groups of rules.
func (t *azure) networks(ctx context.Context, inv *target.Inventory) error {
	all, err := list[network](ctx, t.c, t.c.path("providers/Microsoft.Network/virtualNetworks"), apiNetwork)
	if err != nil {
		return err
	}
	for _, n := range all {
		if !t.here(inv, n.Location) {
			continue
		}
		for _, s := range n.Properties.Subnets {
			prefixes := s.Properties.Prefixes
			if s.Properties.Prefix != "" {
				prefixes = append(prefixes, s.Properties.Prefix)
			}
			inv.Networks = append(inv.Networks, target.Place{Name: groupOf(n.ID) + "/" + n.Name + "/" + s.Name, Note: strings.Join(prefixes, ", ")})
		}
	}
	groups, err := list[plain](ctx, t.c, t.c.path("providers/Microsoft.Network/networkSecurityGroups"), apiNetwork)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if t.here(inv, g.Location) {
			inv.SecurityGroups = append(inv.SecurityGroups, target.Place{Name: groupOf(g.ID) + "/" + g.Name, Note: g.Location})
		}
	}
	return nil
}

// kindsOfQuota are the quotas that plans understand.
var kindsOfQuota = map[string]string{"cores": "cpus", "virtualMachines": "machines", "NetworkInterfaces": "nics"}

// regional adds sizes, zones and quotas.
func (t *azure) regional(ctx context.Context, inv *target.Inventory) error {
	sizes, err := t.machineSizes(ctx, inv.Region)
	if err != nil {
		return err
	}
	zones := map[string]bool{}
	for _, s := range sizes {
		for _, z := range s.zones {
			zones[z] = true
		}
		if s.refused == "" {
			inv.Sizes = append(inv.Sizes, s.Size)
			inv.Places[caps.VMSize] = append(inv.Places[caps.VMSize], target.Place{Name: s.Name, Note: fmt.Sprintf("%d CPUs, %g GiB", s.CPUs, float64(s.Memory)/float64(vm.GiB))})
		}
	}
	slices.SortFunc(inv.Sizes, func(a, b target.Size) int { return strings.Compare(a.Name, b.Name) })
	for z := range zones {
		inv.Places[fieldZone] = append(inv.Places[fieldZone], target.Place{Name: z})
	}
	for _, field := range []string{caps.VMSize, fieldZone} {
		slices.SortFunc(inv.Places[field], func(a, b target.Place) int { return strings.Compare(a.Name, b.Name) })
	}
	for provider, api := range map[string]string{"Microsoft.Compute": apiCompute, "Microsoft.Network": apiNetwork} {
		all, err := list[usage](ctx, t.c, t.c.path("providers", provider, "locations", inv.Region, "usages"), api)
		if err != nil {
			return err
		}
		for _, u := range all {
			q := target.Quota{Kind: kindsOfQuota[u.Name.Value], Name: u.Name.Localized, Used: u.Current, Limit: u.Limit}
			if q.Kind != "" || u.Current > 0 {
				if q.Kind == "" {
					q.Kind = u.Name.Value
				}
				inv.Quotas = append(inv.Quotas, q)
			}
		}
	}
	slices.SortFunc(inv.Quotas, func(a, b target.Quota) int { return strings.Compare(a.Name, b.Name) })
	inv.Permissions, err = t.permissions(ctx, t.cfg.group)
	return err
}
