package azure

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"ascend/internal/target"
)

// needed are the actions that a restore takes, on the resource group; joining
// the network is asked for where the network is.
var needed = []string{
	"Microsoft.Resources/subscriptions/resourceGroups/read",
	"Microsoft.Compute/disks/read", "Microsoft.Compute/disks/write", "Microsoft.Compute/disks/delete",
	"Microsoft.Compute/disks/beginGetAccess/action", "Microsoft.Compute/disks/endGetAccess/action",
	"Microsoft.Compute/virtualMachines/read", "Microsoft.Compute/virtualMachines/write", "Microsoft.Compute/virtualMachines/delete",
	"Microsoft.Compute/virtualMachines/start/action", "Microsoft.Compute/virtualMachines/deallocate/action",
	"Microsoft.Network/networkInterfaces/read", "Microsoft.Network/networkInterfaces/write",
	"Microsoft.Network/networkInterfaces/delete", "Microsoft.Network/networkInterfaces/join/action",
	"Microsoft.Network/virtualNetworks/read", "Microsoft.Network/virtualNetworks/subnets/join/action",
}

// permissions tells which of the needed actions are granted on a resource group,
// or, without one, on the subscription.
func (t *azure) permissions(ctx context.Context, group string) ([]target.Permission, error) {
	path := t.c.path("providers/Microsoft.Authorization/permissions")
	if group != "" {
		path = t.c.path("resourceGroups", group, "providers/Microsoft.Authorization/permissions")
	}
	type grants struct {
		Actions    []string `json:"actions"`
		NotActions []string `json:"notActions"`
	}
	all, err := list[grants](ctx, t.c, path, apiPermissions)
	if err != nil {
		return nil, err
	}
	var out []target.Permission
	for _, action := range needed {
		p := target.Permission{Name: action}
		for _, g := range all { // each is a role's: what one takes out another may give
			p.Granted = p.Granted || covers(g.Actions, action) && !covers(g.NotActions, action)
		}
		out = append(out, p)
	}
	return out, nil
}

// covers tells whether one of the patterns, with * for anything, is the action.
func covers(patterns []string, action string) bool {
	for _, p := range patterns {
		re := "(?is)^" + strings.ReplaceAll(regexp.QuoteMeta(p), `\*`, ".*") + "$"
		if ok, err := regexp.MatchString(re, action); err == nil && ok {
			return true
		}
	}
	return false
}

// Validate makes each check that the one before makes possible.
func (t *azure) Validate(ctx context.Context) []target.Check {
	var out []target.Check
	add := func(name, detail string, err error) bool {
		c := target.Check{Name: name, OK: err == nil, Detail: detail}
		if err != nil {
			c.Detail, c.Hint = target.SplitHint(translate(err))
			if c.Hint == "" {
				c.Hint = "check the network between here and " + t.cfg.endpoint() + ", then validate again"
			}
		}
		out = append(out, c)
		return err == nil
	}
	var sub struct {
		Name   string `json:"displayName"`
		State  string `json:"state"`
		Tenant string `json:"tenantId"`
	}
	// The first call signs in: what fails is told apart by its error.
	err := t.c.get(ctx, t.c.path(), apiSubscriptions, &sub)
	if !add("sign-in and subscription", fmt.Sprintf("%s by %s", sub.Name, t.cfg.auth), err) {
		return out
	}
	if sub.State != "Enabled" && sub.State != "Warned" {
		add("subscription state", "", target.Permanent("the subscription is "+strings.ToLower(sub.State), "enable it in the portal"))
	}
	for _, ns := range []string{"Microsoft.Compute", "Microsoft.Network"} {
		var p struct {
			State string `json:"registrationState"`
		}
		err := t.c.get(ctx, t.c.path("providers", ns), apiResources, &p)
		if err == nil && p.State != "Registered" {
			err = target.Permanent(fmt.Sprintf("the resource provider is %s", strings.ToLower(p.State)), "az provider register --namespace "+ns)
		}
		add("provider "+ns, "registered", err)
	}
	location := t.cfg.location
	if t.cfg.group != "" {
		var g plain
		if add("resource group", t.cfg.group, t.c.get(ctx, t.c.path("resourceGroups", t.cfg.group), apiResources, &g)) && location == "" {
			location = g.Location
		}
	}
	t.checkRights(ctx, add)
	if location == "" {
		return out
	}
	sizes, err := t.machineSizes(ctx, location)
	usable := 0
	for _, s := range sizes {
		if s.refused == "" {
			usable++
		}
	}
	if err == nil && usable == 0 {
		err = target.Permanent("the subscription has no machine sizes in "+location, "check location: az account list-locations")
	}
	add("machine sizes", fmt.Sprintf("%d in %s", usable, location), err)
	quotas, err := list[usage](ctx, t.c, t.c.path("providers/Microsoft.Compute/locations", location, "usages"), apiCompute)
	detail := ""
	for _, q := range quotas {
		if q.Name.Value != "cores" {
			continue
		}
		detail = fmt.Sprintf("%d of %d CPUs used in %s", q.Current, q.Limit, location)
		if q.Current >= q.Limit {
			err = target.Permanent(detail, known["QuotaExceeded"].Hint)
		}
	}
	add("quota", detail, err)
	return out
}

// checkRights checks the identity's rights.
func (t *azure) checkRights(ctx context.Context, add func(name, detail string, err error) bool) {
	rights, err := t.permissions(ctx, t.cfg.group)
	var lack []string
	for _, r := range rights {
		if !r.Granted {
			lack = append(lack, r.Name)
		}
	}
	if err == nil && len(lack) > 0 {
		err = target.Permanent("the identity lacks "+strings.Join(lack, ", "), "give it a role that has them, for instance Contributor on the resource group; see docs/azure.md")
	}
	add("permissions", fmt.Sprintf("%d needed, all granted", len(needed)), err)
}
