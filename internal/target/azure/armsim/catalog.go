package armsim

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// size is one machine size as "Resource SKUs - List" tells it.
type size struct {
	cores       int
	memory      string // GB
	disks, nics int
	generations []string
	arch        string
	zones       []string
	premium     bool
	trusted     bool
	nvme        bool
}

var (
	both    = []string{"V1", "V2"}
	allZone = []string{"1", "2", "3"}
	sizes   = map[string]size{
		"Standard_B2s":      {2, "4", 4, 3, both, "x64", allZone, true, true, false},
		"Standard_D2s_v5":   {2, "8", 4, 2, both, "x64", allZone, true, true, false},
		"Standard_D4s_v5":   {4, "16", 8, 2, both, "x64", allZone, true, true, false},
		"Standard_D8s_v5":   {8, "32", 16, 4, both, "x64", []string{"1", "2"}, true, true, false},
		"Standard_D16s_v5":  {16, "64", 32, 8, both, "x64", allZone, true, true, false},
		"Standard_D2_v3":    {2, "8", 4, 2, []string{"V1"}, "x64", allZone, false, false, false},
		"Standard_D2ps_v5":  {2, "8", 4, 2, []string{"V2"}, "Arm64", allZone, true, false, false},
		"Standard_D4s_v6":   {4, "16", 12, 2, []string{"V2"}, "x64", allZone, true, true, true},
		"Standard_NC24s_v9": {24, "448", 32, 8, both, "x64", nil, true, true, false}, // restricted
	}
)

// restricted sizes exist and cannot be used by the subscription.
const restricted = "Standard_NC24s_v9"

// plain answers what is only read.
func (s *Sim) plain(c *call) (any, bool) {
	sub := "/subscriptions/" + Subscription
	list := func(v ...any) (any, bool) {
		if v == nil {
			v = []any{}
		}
		return map[string]any{"value": v}, true
	}
	group := func(name string) map[string]any {
		return map[string]any{"id": sub + "/resourceGroups/" + name, "name": name, "type": "Microsoft.Resources/resourceGroups",
			"location": s.groups[strings.ToLower(name)], "properties": map[string]any{"provisioningState": "Succeeded"}}
	}
	switch c.kind {
	case "subscription":
		return map[string]any{"id": sub, "subscriptionId": Subscription, "tenantId": Tenant, "displayName": "Simulated", "state": "Enabled"}, true
	case "group":
		return group(c.group), true
	case "resourcegroups":
		var out []any
		var names []string
		for n := range s.groups {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, n := range names {
			out = append(out, group(n))
		}
		return list(out...)
	case "locations":
		return list(map[string]any{"name": Region, "displayName": "West Europe"}, map[string]any{"name": "northeurope", "displayName": "North Europe"})
	case "provider":
		return map[string]any{"id": sub + "/providers/" + c.name, "namespace": c.name, "registrationState": "Registered"}, true
	case "microsoft.authorization/permissions":
		actions := s.opts.Actions
		if actions == nil {
			actions = []string{"*"}
		}
		return list(map[string]any{"actions": actions, "notActions": []string{}})
	case "microsoft.compute/skus":
		if f := c.r.URL.Query().Get("$filter"); f != "" && f != "location eq '"+Region+"'" {
			return list()
		}
		return list(s.skus()...)
	case "microsoft.compute/locations":
		if len(c.sub) == 1 && strings.EqualFold(c.sub[0], "usages") {
			cores, machines := 0, 0
			for _, t := range s.things {
				if t.kind == kindVM {
					machines++
					cores += sizes[t.vm.Hardware.Size].cores
				}
			}
			return list(usage("cores", "Total Regional vCPUs", cores, s.opts.Cores), usage("virtualMachines", "Virtual Machines", machines, 25000),
				usage("StandardSSDStorageDisks", "StandardSSDStorageDisks", s.count(kindDisk), 50000))
		}
	case "microsoft.network/locations":
		if len(c.sub) == 1 && strings.EqualFold(c.sub[0], "usages") {
			return list(usage("NetworkInterfaces", "Network Interfaces", s.count(kindNIC), 65536))
		}
	}
	return nil, false
}

func (s *Sim) count(kind string) (n int) {
	for _, t := range s.things {
		if t.kind == kind {
			n++
		}
	}
	return n
}

func usage(value, localized string, current, limit int) any {
	return map[string]any{"unit": "Count", "currentValue": current, "limit": limit,
		"name": map[string]any{"value": value, "localizedValue": localized}}
}

func (s *Sim) skus() []any {
	var names []string
	for n := range sizes {
		names = append(names, n)
	}
	sort.Strings(names)
	var out []any
	for _, n := range names {
		z := sizes[n]
		restrictions := []any{}
		if n == restricted {
			restrictions = append(restrictions, map[string]any{"type": "Location", "values": []string{Region}, "reasonCode": "NotAvailableForSubscription"})
		}
		capability := func(name string, v any) any { return map[string]any{"name": name, "value": fmt.Sprint(v)} }
		word := map[bool]string{true: "True", false: "False"}
		caps := []any{
			capability("vCPUs", z.cores), capability("MemoryGB", z.memory), capability("MaxDataDiskCount", z.disks),
			capability("MaxNetworkInterfaces", z.nics), capability("HyperVGenerations", strings.Join(z.generations, ",")),
			capability("CpuArchitectureType", z.arch), capability("PremiumIO", word[z.premium]),
			capability("DiskControllerTypes", map[bool]string{true: "NVMe", false: "SCSI"}[z.nvme]),
		}
		if !z.trusted {
			caps = append(caps, capability("TrustedLaunchDisabled", "True"))
		}
		zones := slices.Clone(z.zones)
		if zones == nil {
			zones = []string{}
		}
		out = append(out, map[string]any{
			"resourceType": "virtualMachines", "name": n, "family": "standardDSv5Family", "locations": []string{Region}, "capabilities": caps,
			"locationInfo": []any{map[string]any{"location": Region, "zones": zones}}, "restrictions": restrictions,
		})
	}
	return append(out, map[string]any{"resourceType": "disks", "name": "Premium_LRS", "locations": []string{Region}, "restrictions": []any{}})
}
