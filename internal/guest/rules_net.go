package guest

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"ascend/internal/vm"
)

// Address is what an interface is to have in the guest. The zero value leaves
// what it has.
type Address struct {
	DHCP    bool     `json:"dhcp,omitempty"`
	Static  []string `json:"static,omitempty"` // with the length of the prefix: 192.0.2.9/24
	Gateway string   `json:"gateway,omitempty"`
}

// ParseAddress reads "keep", "dhcp" or ADDRESS/PREFIX[,ADDRESS/PREFIX…][,GATEWAY]; a
// gateway is an address without a prefix, the last one.
func ParseAddress(s string) (Address, error) {
	var a Address
	switch s {
	case "", "keep":
		return a, nil
	case "dhcp":
		a.DHCP = true
		return a, nil
	}
	parts := strings.Split(s, ",")
	for i, p := range parts {
		if x, err := netip.ParsePrefix(p); err == nil {
			a.Static = append(a.Static, x.String())
			continue
		}
		gw, err := netip.ParseAddr(p)
		if err != nil || i == 0 || i < len(parts)-1 {
			return Address{}, fmt.Errorf("%q is not keep, dhcp or ADDRESS/PREFIX[,GATEWAY]", s)
		}
		a.Gateway = gw.String()
		if !slices.ContainsFunc(a.Static, func(s string) bool { return netip.MustParsePrefix(s).Contains(gw) }) {
			return Address{}, fmt.Errorf("the gateway %s is not in the network of %s", p, strings.Join(a.Static, ", "))
		}
	}
	return a, nil
}

var virtualName = regexp.MustCompile(`^(lo|(br|bond|team|vlan|docker|virbr|veth|tun|tap|wg|dummy|ovs)[0-9-].*)$|[.:]`)

// adapter is an interface of the guest's configuration with all that is said of
// it: one name may have a stanza for each family.
type adapter struct {
	name, mac string
	entries   []Interface
	nic       vm.NIC // the new machine's
	known     bool   // there is such a NIC
}

// adapters are the interfaces that stand for network adapters, each with the one of the
// new machine: by the MAC that its configuration names, else by their order.
func adapters(r *Root, nics []vm.NIC) []adapter {
	var out []adapter
	for _, i := range r.Interfaces {
		if virtualName.MatchString(i.Name) {
			continue // a bridge, bond or VLAN is no adapter: nothing binds it to one
		}
		k := slices.IndexFunc(out, func(a adapter) bool { return i.Name != "" && a.name == i.Name })
		if k < 0 {
			k = len(out)
			out = append(out, adapter{name: i.Name})
		}
		out[k].entries = append(out[k].entries, i)
		if i.MAC != "" {
			out[k].mac = i.MAC
		}
	}
	free := slices.Clone(nics)
	taken := make([]bool, len(free))
	for k := range out {
		for n := range free {
			if out[k].mac != "" && !taken[n] && strings.EqualFold(free[n].MAC, out[k].mac) {
				out[k].nic, out[k].known, taken[n] = free[n], true, true
			}
		}
	}
	for k := range out {
		for n := range free {
			if !out[k].known && !taken[n] {
				out[k].nic, out[k].known, taken[n] = free[n], true, true
			}
		}
	}
	return out
}

// interfaces keeps names and addresses, or changes them as asked.
func (a *Adaptation) interfaces(r *Root, t Target, o Choices) {
	cloud := t.Platform == vm.AWS || t.Platform == vm.Azure
	list := adapters(r, t.NICs)
	if n := len(o.Addresses); n > len(list) {
		a.find(Warning, "guest-interface-unknown", "set it after the restore", "an address is asked for adapter %d, and the guest has configuration for %d", n-1, len(list))
	}
	for n, i := range list {
		static := slices.ContainsFunc(i.entries, func(e Interface) bool { return e.static() })
		var want Address
		if n < len(o.Addresses) {
			want = o.Addresses[n]
		}
		why := "as asked"
		if cloud && static && len(want.Static) == 0 {
			want, why = Address{DHCP: true}, "the platform assigns addresses by DHCP"
		}
		if o.DHCP && len(want.Static) == 0 {
			want.DHCP = true
		}
		a.address(r, i, want, why)
		a.pin(r, i, t, len(list), static && !want.DHCP || len(want.Static) > 0)
	}
}

// has tells whether an interface is configured as is wanted.
func (i *Interface) has(want Address) bool {
	return !i.DHCP && slices.Equal(i.Addresses, want.Static) && (want.Gateway == "" || slices.Contains(i.Gateways, want.Gateway))
}

// address has the guest's own configuration give an interface what is wanted.
func (a *Adaptation) address(r *Root, i adapter, want Address, why string) {
	for n, e := range i.entries {
		c := Change{Root: r.Volume, Subject: i.name, Reason: why, Args: map[string]string{"source": e.Source}}
		switch {
		case want.DHCP && e.static():
			c.Kind, c.Detail = SetDHCP, e.Addresses
		case len(want.Static) > 0 && n == 0 && !e.has(want):
			c.Kind, c.Detail, c.Args["gateway"] = SetAddress, want.Static, want.Gateway
		default:
			continue
		}
		a.change(c)
	}
}

// pin binds a name to its adapter: by the MAC address where it is known, and a
// single one by its driver where it is not.
func (a *Adaptation) pin(r *Root, i adapter, t Target, of int, static bool) {
	if i.name == "" || strings.ContainsAny(i.name, "*?") {
		return // matched by something else than the name
	}
	mac := i.nic.MAC
	if mac == "" && !i.known {
		mac = i.mac // nothing is known of the new machine
	}
	mac = strings.ToLower(mac)
	pinned := r.Linux.Pins[i.name]
	c := Change{Kind: PinInterface, Root: r.Volume, Subject: i.name, Reason: "the name depends on the adapter's slot, which will be another"}
	driver := adapterDriver(t, a.NIC)
	switch {
	case mac != "" && pinned == mac:
		return
	case mac != "":
		c.Args = map[string]string{"mac": mac}
	case of == 1 && len(t.NICs) < 2 && driver != "" && r.Linux.Init == "systemd":
		if pinned == driver {
			return
		}
		c.Args = map[string]string{"driver": driver}
		c.Reason = "the name depends on the adapter's slot, and its MAC address is given by the platform"
	case static:
		a.find(Warning, "guest-static-address", "give the adapters' MAC addresses", "%s has a static address, and no MAC address is known to bind it to", i.name)
		return
	default:
		a.find(Information, "guest-interface-name", "", "%s is configured by name, which may be another on the target", i.name)
		return
	}
	a.change(c)
	if i.mac != "" && mac != "" && i.mac != mac {
		for _, e := range i.entries {
			if e.MAC != "" {
				a.change(Change{Kind: SetMAC, Root: r.Volume, Subject: i.name, Reason: "its configuration names the MAC address of the adapter it had", Detail: []string{mac}, Args: map[string]string{"source": e.Source, "from": e.MAC}})
			}
		}
	}
}

// adapterDriver is the kernel driver of the new machine's adapters as the rules of
// systemd.link(5) know it: as ethtool has it.
func adapterDriver(t Target, n vm.NICModel) string {
	if len(t.NICs) > 0 && t.NICs[0].Model != "" {
		n = t.NICs[0].Model
	}
	if ms := linuxNIC[n]; len(ms) > 0 {
		return ms[len(ms)-1]
	}
	return ""
}
