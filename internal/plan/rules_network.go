package plan

import (
	"net/netip"
	"slices"
	"strings"

	"ascend/internal/target"
	"ascend/internal/vm"
)

var networkRules = []rule{
	{"nic-count", Critical, "Every platform bounds the number of network adapters, some by firmware.", "restore fewer adapters or choose another target", "number of adapters, firmware, target's limits", func(p *Plan, r Request, say say) {
		most := limit(r.Caps.Traits.For(p.Machine.Firmware).MaxNICs, r.Caps.MaxNICs)
		if most > 0 && len(p.Machine.NICs) > most {
			say("the machine has %d network adapters and the target takes %d", len(p.Machine.NICs), most)
		}
	}},
	{"no-nic", Information, "A machine without an adapter is reached by its console only.", "add one after the restore if it needs a network", "adapters", func(p *Plan, _ Request, say say) {
		if len(p.Machine.NICs) == 0 {
			say("the machine has no network adapter")
		}
	}},
	{"network-unmapped", Critical, "Every adapter needs a network on the target.", "map it with --network SOURCE=TARGET or --network TARGET", "adapters, placement, target's inventory", func(p *Plan, r Request, say say) {
		if !r.Caps.NeedsNetwork {
			return
		}
		for i, n := range p.Machine.NICs {
			if p.networkOf(i) == "" {
				say("adapter %d (network %q) has no network on the target%s", i, n.Network, networkCandidates(r))
			}
		}
	}},
	{"network-missing", Critical, "The network chosen must be there.", "choose a network the target has", "placement, target's inventory", func(p *Plan, r Request, say say) {
		if r.Inventory == nil || len(r.Inventory.Networks) == 0 {
			return
		}
		for i, n := range p.Placement.Networks {
			if n != "" && !strings.Contains(n, "/") && !knows(r.Inventory.Networks, n) {
				say("adapter %d: the target has no network %q%s", i, n, networkCandidates(r))
			}
		}
	}},
	{"security-group-missing", Critical, "The security group chosen must be there.", "choose a group the target has", "placement, target's inventory", func(p *Plan, r Request, say say) {
		if r.Inventory == nil || len(r.Inventory.SecurityGroups) == 0 {
			return
		}
		for i, a := range p.Placement.Adapters {
			for _, g := range a.SecurityGroups {
				if !knows(r.Inventory.SecurityGroups, g) {
					say("adapter %d: the target has no security group %q%s", i, g, candidates(r.Inventory.SecurityGroups))
				}
			}
		}
	}},
	{"security-groups", Critical, "Security groups are of some platforms only.", "leave the groups out and set the network's rules by hand", "placement, target's capabilities", func(p *Plan, r Request, say say) {
		for i, a := range p.Placement.Adapters {
			if len(a.SecurityGroups) > 0 && !r.Caps.Traits.Groups {
				say("adapter %d: the target puts adapters into no security groups", i)
			}
		}
	}},
	{"address-policy", Critical, "Addresses are the platform's to give, or the guest's.", "choose another policy, or leave the addresses to the guest", "placement, target's capabilities", func(p *Plan, r Request, say say) {
		for i, a := range p.Placement.Adapters {
			if a.Address != "" && !slices.Contains(r.Caps.Traits.Addresses, a.Address) {
				say("adapter %d: the target does not give addresses by %q", i, a.Address)
			}
		}
	}},
	{"address-invalid", Critical, "A new address must be one, and a kept one known.", "give addresses such as 10.0.0.5", "placement, adapters", func(p *Plan, _ Request, say say) {
		for i, a := range p.Placement.Adapters {
			switch {
			case a.Address == target.AddressNew && len(a.Addresses) == 0:
				say("adapter %d is to have a new address and none is given", i)
			case a.Address == target.AddressKeep && i < len(p.Source.NICs) && len(p.Source.NICs[i].Addresses) == 0:
				say("adapter %d is to keep its address and the backup does not say which it had", i)
			}
			for _, s := range a.Addresses {
				if _, err := netip.ParseAddr(bare(s)); err != nil {
					say("adapter %d: %q is no address", i, s)
				}
			}
		}
	}},
	{"mac-lost", Information, "Licences and DHCP reservations bound to a MAC address see another machine.", "renew licences and reservations bound to the address", "adapters, target's capabilities", func(p *Plan, r Request, say say) {
		for i, n := range p.Source.NICs {
			if n.MAC != "" && i < len(p.Machine.NICs) && p.Machine.NICs[i].MAC == "" {
				say("adapter %d loses its MAC address %s", i, n.MAC)
			}
		}
	}},
	{"mac-duplicate", Warning, "Two machines with one MAC address disturb each other.", "keep the source off, or ask for new addresses with --mac new", "adapters, source and target", func(p *Plan, r Request, say say) {
		if r.Target.Platform == vm.Local || p.Source.Platform != r.Target.Platform || !r.PowerOn {
			return
		}
		for i, n := range p.Machine.NICs {
			if n.MAC != "" && p.networkOf(i) != "" && p.networkOf(i) == n.Network {
				say("adapter %d keeps its MAC address on the network it was on, where the source may still run", i)
			}
		}
	}},
	{"static-ip", Warning, "An address configured in the guest works only in the network it was made for.", "map the adapter to a network of the same range, or set the guest to DHCP", "adapters, guest inspection, target's platform", func(p *Plan, r Request, say say) {
		if r.Guest != nil && len(r.Guest.StaticIP) > 0 && (r.Target.Platform == vm.AWS || r.Target.Platform == vm.Azure) {
			say("the guest has fixed addresses (%s), and the target gives them by DHCP", list(r.Guest.StaticIP))
		}
	}},
	{"nic-names", Warning, "Interfaces named by their slot get other names in other hardware, and lose their configuration.", "bind the names to MAC addresses in the guest before the backup", "guest inspection, adapters", func(_ *Plan, r Request, say say) {
		if g := r.Guest; g != nil && g.Named && !g.Pinned && len(g.StaticIP) > 0 && r.Target.Platform != vm.Local {
			say("the guest configures fixed addresses for interfaces named by their slot; the names will change")
		}
	}},
	{"network-driver-missing", Critical, "A guest without the driver of its network adapter is not reachable.", "give a pack with the Windows driver (--drivers), install the driver before the backup, or choose another adapter", "guest inspection, target's drivers", func(p *Plan, r Request, say say) {
		if g := r.Guest; g != nil && g.Installed != nil && len(p.Machine.NICs) > 0 {
			d := r.Caps.Traits.Drivers
			want := d.LinuxNet
			if p.Machine.Guest.Family == vm.Windows {
				want = d.WindowsNet
			}
			if !has(g.Installed, want) {
				say("the guest has none of the network drivers %s", list(want))
			}
		}
	}},
	{"network-driver-unknown", Information, "Windows has no driver of its own for some platforms' network adapters.", "make sure that the driver is installed, or have it added", "guest, target's drivers", func(p *Plan, r Request, say say) {
		d := r.Caps.Traits.Drivers
		if len(p.Machine.NICs) == 0 || p.Machine.Guest.Family != vm.Windows || !d.PackNet || r.Guest != nil && r.Guest.Installed != nil {
			return
		}
		if len(r.Caps.NICModels) > 1 && p.Machine.NICs[0].Model != vm.VirtioNet {
			return // an adapter that Windows knows was chosen
		}
		say("Windows brings no driver for the target's network adapter; it is in %s", d.Pack)
	}},
	{"azure-wire-server", Information, "Azure's agent and DHCP speak through 168.63.129.16.", "let the guest's firewall reach 168.63.129.16", "target's platform", func(_ *Plan, r Request, say say) {
		if r.Target.Platform == vm.Azure {
			say("the guest must be able to reach 168.63.129.16")
		}
	}},
}

func networkCandidates(r Request) string {
	if r.Inventory == nil {
		return ""
	}
	return candidates(r.Inventory.Networks)
}

// bare is an address without its prefix length.
func bare(s string) string {
	a, _, _ := strings.Cut(s, "/")
	return a
}
