package hyperv

import (
	"context"
	"fmt"
	"strings"
	"time"

	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostscript"
)

// Inventory lists what a restore can be placed on.
func (t *host) Inventory(ctx context.Context) (*target.Inventory, error) {
	l, err := t.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list what there is: %w", translate(err))
	}
	yes := true
	inv := &target.Inventory{Places: map[string][]target.Place{fieldPath: t.places(l)}, Asked: time.Now(), UEFI: &yes, KeyProvider: &yes}
	for _, sw := range l.Switches {
		inv.Networks = append(inv.Networks, target.Place{Name: sw.Name, Note: strings.ToLower(sw.Kind)})
	}
	for _, m := range l.Machines {
		inv.Taken = append(inv.Taken, m.Name)
	}
	return inv, nil
}

// places are folders that disks can be put into: the one of the settings, Hyper-V's
// own, those that are shared, and Cluster Shared Volumes.
func (t *host) places(l *hostscript.Look) []target.Place {
	var out []target.Place
	seen := map[string]bool{}
	add := func(path, note string) {
		p, err := cleanPath(path)
		if err != nil || seen[strings.ToLower(p)] {
			return
		}
		if t.cfg.pull == "" {
			if _, err := t.spot(l, join(p, "x")); err != nil {
				return
			}
		}
		seen[strings.ToLower(p)] = true
		v, _ := volume(l, p)
		out = append(out, target.Place{Name: p, Free: v.Free, Note: note})
	}
	if t.cfg.path != "" {
		add(t.cfg.path, "of the settings")
	}
	add(l.Path, "Hyper-V's own")
	for _, s := range l.Shares {
		if !s.Special {
			add(s.Path, "share "+s.Name)
		}
	}
	for _, v := range l.Volumes {
		if onCluster(v.Path) {
			add(v.Path, "Cluster Shared Volume")
		}
	}
	return out
}
