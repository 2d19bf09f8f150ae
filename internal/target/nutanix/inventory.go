package nutanix

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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
	clusters, err := t.clusters(ctx)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, c := range clusters {
		names[c.ID] = c.Name
		inv.Places[fieldCluster] = append(inv.Places[fieldCluster], target.Place{Name: c.Name, Note: c.note})
	}
	containers, err := t.containers(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range containers {
		inv.Places[fieldContainer] = append(inv.Places[fieldContainer], target.Place{Name: c.Name, Note: "of cluster " + or(names[c.Cluster], c.Cluster)})
	}
	subnets, err := list[subnetRow](ctx, t.c, apiSubnets, "")
	if err != nil {
		return nil, err
	}
	for _, n := range subnets {
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
	categories, err := list[categoryRow](ctx, t.c, apiCategories, "")
	if err != nil {
		return nil, err
	}
	for _, c := range categories {
		inv.Places[fieldCategory] = append(inv.Places[fieldCategory], target.Place{Name: c.Key + ":" + c.Value})
	}
	path, err := t.vms(ctx)
	if err != nil {
		return nil, err
	}
	machines, err := list[vmInfo](ctx, t.c, path, "")
	if err != nil {
		return nil, err
	}
	for _, m := range machines {
		inv.Taken = append(inv.Taken, m.Name)
	}
	return inv, nil
}

// projects lists projects, which only v3 does.
func (t *prism) projects(ctx context.Context) ([]named, error) {
	const size = 500
	var out []named
	for {
		r, err := t.c.do(ctx, call{method: http.MethodPost, path: "/api/nutanix/v3/projects/list", body: map[string]any{"kind": "project", "length": size, "offset": len(out)}})
		if err != nil {
			return nil, err
		}
		var v struct {
			Entities []struct {
				Status struct {
					Name string `json:"name"`
				} `json:"status"`
				Metadata struct {
					UUID string `json:"uuid"`
				} `json:"metadata"`
			} `json:"entities"`
			Metadata struct {
				Total int `json:"total_matches"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(r.body, &v); err != nil {
			return nil, fmt.Errorf("cannot read the list of projects: %w", err)
		}
		for _, e := range v.Entities {
			out = append(out, named{ID: e.Metadata.UUID, Name: e.Status.Name})
		}
		if len(v.Entities) == 0 || len(out) >= v.Metadata.Total {
			return out, nil
		}
	}
}
