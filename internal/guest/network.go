package guest

import (
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"sort"
	"strings"

	"github.com/goccy/go-yaml"

	"ascend/internal/guest/vfs"
)

const maxInterfaces = 128

// network reads every way the interfaces may be configured.
func network(t *vfs.Tree, r *Root) {
	add := func(style string, is ...Interface) {
		for _, i := range is {
			if i.Name == "lo" || len(r.Interfaces) >= maxInterfaces {
				continue
			}
			r.Interfaces = append(r.Interfaces, i)
			if !slices.Contains(r.Linux.NetworkStyle, style) {
				r.Linux.NetworkStyle = append(r.Linux.NetworkStyle, style)
			}
		}
	}
	for _, p := range glob(t, "/etc/netplan", ".yaml") {
		add("netplan", netplan(read(t, p), p)...)
	}
	for _, p := range glob(t, "/etc/NetworkManager/system-connections", "") {
		if i, ok := keyfile(read(t, p), p); ok {
			add("networkmanager", i)
		}
	}
	for _, dir := range []string{"/etc/sysconfig/network-scripts", "/etc/sysconfig/network"} {
		for _, p := range glob(t, dir, "") {
			if name, ok := strings.CutPrefix(path.Base(p), "ifcfg-"); ok && !strings.HasSuffix(name, "~") && !strings.Contains(name, ".bak") {
				style := "ifcfg"
				if dir == "/etc/sysconfig/network" {
					style = "wicked"
				}
				add(style, ifcfg(read(t, p), name, p))
			}
		}
	}
	for _, p := range append([]string{"/etc/network/interfaces"}, glob(t, "/etc/network/interfaces.d", "")...) {
		add("interfaces", interfaces(read(t, p), p)...)
	}
	for _, p := range glob(t, "/etc/systemd/network", ".network") {
		if i, ok := networkd(read(t, p), p); ok {
			add("networkd", i)
		}
	}
}

func (i *Interface) static() bool { return len(i.Addresses) > 0 }

// cidr joins an address with a prefix length or a mask.
func cidr(addr, mask string) string {
	if addr == "" || strings.Contains(addr, "/") || mask == "" {
		return addr
	}
	if m, err := netip.ParseAddr(mask); err == nil {
		n := 0
		for _, b := range m.AsSlice() {
			for ; b&0x80 != 0; b <<= 1 {
				n++
			}
		}
		return fmt.Sprintf("%s/%d", addr, n)
	}
	return addr + "/" + strings.TrimPrefix(mask, "/")
}

func isAddr(s string) bool {
	s, _, _ = strings.Cut(s, "/")
	_, err := netip.ParseAddr(s)
	return err == nil
}

func mac(s string) string {
	return strings.ToLower(strings.ReplaceAll(strings.Trim(s, `"' `), "-", ":"))
}

func netplan(s, file string) []Interface {
	var doc struct {
		Network struct {
			Ethernets map[string]struct {
				Match struct {
					MAC  string `yaml:"macaddress"`
					Name string `yaml:"name"`
				} `yaml:"match"`
				SetName     string `yaml:"set-name"`
				DHCP4       any    `yaml:"dhcp4"`
				DHCP6       any    `yaml:"dhcp6"`
				Addresses   []any  `yaml:"addresses"`
				Gateway4    string `yaml:"gateway4"`
				Gateway6    string `yaml:"gateway6"`
				Nameservers struct {
					Addresses []string `yaml:"addresses"`
				} `yaml:"nameservers"`
				Routes []struct {
					To  string `yaml:"to"`
					Via string `yaml:"via"`
				} `yaml:"routes"`
			} `yaml:"ethernets"`
		} `yaml:"network"`
	}
	if len(s) > 256<<10 || yaml.Unmarshal([]byte(s), &doc) != nil {
		return nil
	}
	yes := func(v any) bool { return v == true || v == "true" || v == "yes" }
	var out []Interface
	for id, e := range doc.Network.Ethernets {
		i := Interface{Name: id, MAC: mac(e.Match.MAC), DHCP: yes(e.DHCP4) || yes(e.DHCP6), DNS: e.Nameservers.Addresses, Source: file}
		if e.Match.Name != "" {
			i.Name = e.Match.Name
		}
		if e.SetName != "" {
			i.Name = e.SetName
		}
		for _, a := range e.Addresses {
			if m, ok := a.(map[string]any); ok { // an address with its options
				for k := range m {
					i.Addresses = append(i.Addresses, k)
				}
			} else {
				i.Addresses = append(i.Addresses, fmt.Sprint(a))
			}
		}
		for _, g := range []string{e.Gateway4, e.Gateway6} {
			if g != "" {
				i.Gateways = append(i.Gateways, g)
			}
		}
		for _, rt := range e.Routes {
			if rt.To == "default" || rt.To == "0.0.0.0/0" || rt.To == "::/0" {
				i.Gateways = append(i.Gateways, rt.Via)
			}
		}
		out = append(out, i)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// sections reads an ini file: values by "section.key", in order.
func sections(s string, yield func(section, key, value string)) {
	sec := ""
	for line := range strings.Lines(s) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' {
			sec = strings.Trim(line, "[]")
			continue
		}
		if k, v, ok := strings.Cut(line, "="); ok {
			yield(sec, strings.TrimSpace(k), strings.TrimSpace(v))
		}
	}
}

func keyfile(s, file string) (Interface, bool) {
	i := Interface{Source: file}
	ok := false
	sections(s, func(sec, k, v string) {
		switch {
		case sec == "connection" && k == "interface-name":
			i.Name = v
		case sec == "connection" && k == "type":
			ok = v == "ethernet" || v == "802-3-ethernet"
		case (sec == "ethernet" || sec == "802-3-ethernet") && k == "mac-address":
			i.MAC = mac(v)
		case (sec == "ipv4" || sec == "ipv6") && k == "method":
			i.DHCP = i.DHCP || sec == "ipv4" && v == "auto"
		case (sec == "ipv4" || sec == "ipv6") && strings.HasPrefix(k, "address"):
			for n, a := range strings.Split(v, ",") {
				if n == 0 {
					i.Addresses = append(i.Addresses, a)
				} else if a != "" {
					i.Gateways = append(i.Gateways, a)
				}
			}
		case (sec == "ipv4" || sec == "ipv6") && k == "gateway":
			i.Gateways = append(i.Gateways, v)
		case (sec == "ipv4" || sec == "ipv6") && k == "dns":
			i.DNS = append(i.DNS, strings.FieldsFunc(v, func(r rune) bool { return r == ';' || r == ',' })...)
		}
	})
	return i, ok
}

func ifcfg(s, name, file string) Interface {
	m := keyValues(s)
	i := Interface{Name: name, Source: file, MAC: mac(m["HWADDR"])}
	if m["DEVICE"] != "" {
		i.Name = m["DEVICE"]
	}
	i.DHCP = strings.HasPrefix(strings.ToLower(m["BOOTPROTO"]), "dhcp") || m["BOOTPROTO"] == "bootp"
	for _, n := range []string{"", "0", "1", "2", "3", "_0", "_1", "_2"} {
		if a := m["IPADDR"+n]; a != "" {
			mask := m["PREFIX"+n] + m["PREFIXLEN"+n]
			if mask == "" {
				mask = m["NETMASK"+n]
			}
			i.Addresses = append(i.Addresses, cidr(a, mask))
		}
		if g := m["GATEWAY"+n]; g != "" {
			i.Gateways = append(i.Gateways, g)
		}
		if d := m["DNS"+n]; d != "" {
			i.DNS = append(i.DNS, d)
		}
	}
	if a := m["IPV6ADDR"]; a != "" {
		i.Addresses = append(i.Addresses, a)
	}
	return i
}

func interfaces(s, file string) []Interface {
	var out []Interface
	var cur *Interface
	mask := ""
	flush := func() {
		if cur != nil {
			for k := range cur.Addresses {
				cur.Addresses[k] = cidr(cur.Addresses[k], mask)
			}
			out = append(out, *cur)
		}
		cur, mask = nil, ""
	}
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) < 2 || strings.HasPrefix(f[0], "#") {
			continue
		}
		switch f[0] {
		case "iface":
			flush()
			cur = &Interface{Name: f[1], Source: file, DHCP: len(f) > 3 && f[3] == "dhcp"}
		case "auto", "mapping", "source", "allow-hotplug":
			flush()
		case "address":
			if cur != nil {
				cur.Addresses = append(cur.Addresses, f[1])
			}
		case "netmask":
			mask = f[1]
		case "gateway":
			if cur != nil {
				cur.Gateways = append(cur.Gateways, f[1])
			}
		case "hwaddress":
			if cur != nil {
				cur.MAC = mac(f[len(f)-1])
			}
		case "dns-nameservers":
			if cur != nil {
				cur.DNS = append(cur.DNS, f[1:]...)
			}
		}
	}
	flush()
	return out
}

func networkd(s, file string) (Interface, bool) {
	i := Interface{Source: file}
	sections(s, func(sec, k, v string) {
		switch sec + "." + k {
		case "Match.Name":
			i.Name = v
		case "Match.MACAddress", "Match.PermanentMACAddress":
			i.MAC = mac(v)
		case "Network.DHCP":
			i.DHCP = v != "no" && v != "false"
		case "Network.Address", "Address.Address":
			i.Addresses = append(i.Addresses, v)
		case "Network.Gateway", "Route.Gateway":
			if isAddr(v) {
				i.Gateways = append(i.Gateways, v)
			}
		case "Network.DNS":
			i.DNS = append(i.DNS, strings.Fields(v)...)
		}
	})
	return i, i.Name != "" || i.MAC != ""
}

var ruleParts = regexp.MustCompile(`(?i)ATTR\{address\}=="([0-9a-f:]{17})".*\bNAME="([^"]+)"`)

// pins are the names that interfaces are given by MAC address or driver:
// systemd.link(5), and udev's rules of older systems.
func pins(t *vfs.Tree) map[string]string {
	out := map[string]string{}
	for _, m := range ruleParts.FindAllStringSubmatch(read(t, "/etc/udev/rules.d/70-persistent-net.rules"), maxInterfaces) {
		out[m[2]] = strings.ToLower(m[1])
	}
	for _, p := range glob(t, "/etc/systemd/network", ".link") {
		var name, by string
		sections(read(t, p), func(sec, k, v string) {
			switch sec + "." + k {
			case "Match.MACAddress", "Match.PermanentMACAddress":
				by = mac(v)
			case "Match.Driver":
				if by == "" {
					by = v
				}
			case "Link.Name":
				name = v
			}
		})
		if name != "" && by != "" {
			out[name] = by
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
