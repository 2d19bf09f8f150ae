package nutanix

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"ascend/internal/target"
)

// Inventory lists what a restore can be placed on.
func (t *prism) Inventory(ctx context.Context) (*target.Inventory, error) {
	inv, err := t.inventory(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list what there is: %w", translate(err))
	}
	return inv, nil
}

func (t *prism) inventory(ctx context.Context) (*target.Inventory, error) {
	yes := true
	inv := &target.Inventory{Places: map[string][]target.Place{}, Asked: time.Now(), UEFI: &yes, KeyProvider: &yes}
	a, err := t.api(ctx)
	if err != nil {
		return nil, err
	}
	clusters, err := a.clusters(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	home := "" // of the settings: what other clusters have is then left out
	for _, c := range clusters {
		names[c.ID] = c.Name
		if t.cfg.cluster == c.Name || t.cfg.cluster == c.ID {
			home = c.ID
		}
		inv.Places[fieldCluster] = append(inv.Places[fieldCluster], target.Place{Name: c.Name, Note: c.note})
	}
	containers, err := a.containers(ctx)
	if err != nil {
		return nil, err
	}
	elsewhere := func(cluster string) bool { return home != "" && cluster != "" && cluster != home }
	for _, c := range containers {
		if elsewhere(c.Cluster) {
			continue
		}
		inv.Places[fieldContainer] = append(inv.Places[fieldContainer], target.Place{Name: c.Name, Note: "of cluster " + cmp.Or(names[c.Cluster], c.Cluster)})
	}
	subnets, err := a.subnets(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range subnets {
		if elsewhere(n.Cluster) {
			continue
		}
		note := fmt.Sprintf("VLAN %d", n.VLAN)
		if n.Kind != "VLAN" {
			note = "overlay"
		}
		if c := names[n.Cluster]; c != "" {
			note += " of cluster " + c
		}
		if p := n.managed(); p.IsValid() {
			note += ", gives addresses of " + p.Masked().String()
		}
		inv.Networks = append(inv.Networks, target.Place{Name: n.Name, Note: note})
	}
	categories, err := a.categories(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range categories {
		inv.Places[fieldCategory] = append(inv.Places[fieldCategory], target.Place{Name: c.Key + ":" + c.Value})
	}
	machines, err := a.machines(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range machines {
		inv.Taken = append(inv.Taken, m.Name)
	}
	return inv, nil
}
