package adapt

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"ascend/internal/guest"
)

var (
	ifName   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)
	ifMAC    = regexp.MustCompile(`^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$`)
	ifDriver = regexp.MustCompile(`^[a-z0-9_]{1,32}$`)
)

// pin binds an interface's name to the adapter's MAC address, or to its driver.
func pin(w *work, ctx context.Context, r *guest.Root, c guest.Change) error {
	mac, driver := strings.ToLower(c.Args["mac"]), c.Args["driver"]
	if !ifName.MatchString(c.Subject) || !ifMAC.MatchString(mac) && (mac != "" || !ifDriver.MatchString(driver)) {
		return fmt.Errorf("%q cannot be bound to %q", c.Subject, mac+driver)
	}
	if r.Linux.Init == "systemd" {
		match := "MACAddress=" + mac
		if mac == "" {
			match = "Driver=" + driver
		}
		return w.edit(ctx, "/etc/systemd/network/10-ascend-"+c.Subject+".link", true, func(string) string {
			return "[Match]\n" + match + "\n\n[Link]\nName=" + c.Subject + "\n"
		})
	}
	return w.edit(ctx, "/etc/udev/rules.d/70-persistent-net.rules", true, func(s string) string {
		var keep []string
		for line := range strings.Lines(s) {
			if !strings.Contains(strings.ToLower(line), mac) && !strings.Contains(line, `NAME="`+c.Subject+`"`) {
				keep = append(keep, line)
			}
		}
		return ended(strings.Join(keep, "")) + `SUBSYSTEM=="net", ACTION=="add", ATTR{address}=="` + mac + `", NAME="` + c.Subject + "\"\n"
	})
}

// setMAC has a configuration that is bound to a MAC address name the new one.
func setMAC(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	if len(c.Detail) != 1 || !ifMAC.MatchString(c.Detail[0]) || !ifMAC.MatchString(c.Args["from"]) {
		return fmt.Errorf("%q is no MAC address", c.Detail)
	}
	old := regexp.MustCompile("(?i)" + strings.ReplaceAll(c.Args["from"], ":", "[:-]"))
	return w.edit(ctx, c.Args["source"], false, func(s string) string { return old.ReplaceAllString(s, c.Detail[0]) })
}

// setAddress rewrites the configuration of one interface: to ask for its address,
// or to have the new ones.
func setAddress(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	file := c.Args["source"]
	change := rewriter(file)
	if change == nil {
		return fmt.Errorf("the addresses of %s stand in %s, which is not rewritten here: %w", c.Subject, file, ErrCannot)
	}
	var want addresses
	if c.Kind == guest.SetAddress {
		for _, s := range c.Detail {
			p, err := netip.ParsePrefix(s)
			if err != nil {
				return err
			}
			want.static = append(want.static, p)
		}
		if g := c.Args["gateway"]; g != "" {
			gw, err := netip.ParseAddr(g)
			if err != nil {
				return err
			}
			want.gateway = gw
		}
	}
	var failed error
	err := w.edit(ctx, file, false, func(s string) string {
		out, err := change(s, c.Subject, want)
		if err != nil {
			failed = fmt.Errorf("%s: %w", file, err)
			return s
		}
		return out
	})
	if err == nil && failed == nil && want.gateway.IsValid() && path.Dir(file) == "/etc/sysconfig/network" { // wicked's routes stand apart
		err = w.edit(ctx, "/etc/sysconfig/network/ifroute-"+c.Subject, true, func(string) string {
			return "default " + want.gateway.String() + " - " + c.Subject + "\n"
		})
	}
	return errors.Join(err, failed)
}

// addresses are what an interface is to have; none: by DHCP.
type addresses struct {
	static  []netip.Prefix
	gateway netip.Addr
}

func (a addresses) dhcp() bool { return len(a.static) == 0 }

// keeps tells whether the gateway that stands there serves the new addresses.
func (a addresses) keeps(gateway string) bool {
	gw, err := netip.ParseAddr(strings.Trim(gateway, `"'`))
	return err == nil && !a.gateway.IsValid() && slices.ContainsFunc(a.static, func(p netip.Prefix) bool { return p.Contains(gw) })
}

// of are the addresses of one family.
func (a addresses) of(v6 bool) (out []netip.Prefix) {
	for _, p := range a.static {
		if p.Addr().Is6() == v6 {
			out = append(out, p)
		}
	}
	return out
}

// rewriter is what rewrites a network configuration file for an interface; nil for
// a file that is not rewritten here.
func rewriter(file string) func(text, name string, want addresses) (string, error) {
	plain := func(f func(text, name string, want addresses) string) func(string, string, addresses) (string, error) {
		return func(text, name string, want addresses) (string, error) { return f(text, name, want), nil }
	}
	switch {
	case path.Base(file) == "interfaces" || path.Base(path.Dir(file)) == "interfaces.d":
		return plain(editInterfaces)
	case strings.HasPrefix(path.Base(file), "ifcfg-"):
		return plain(editIfcfg)
	case strings.HasSuffix(file, ".nmconnection") || strings.Contains(file, "/system-connections/"):
		return plain(editKeyfile)
	case strings.HasSuffix(file, ".network"):
		return plain(editNetworkd)
	case path.Dir(file) == "/etc/netplan":
		return editNetplan
	}
	return nil
}

// editInterfaces rewrites the stanzas of one interface (interfaces(5)). What is no
// address stays; a stanza for IPv6 without an address of its own stays whole.
func editInterfaces(s, name string, want addresses) string {
	var b strings.Builder
	within, done := false, false
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		switch {
		case len(f) > 0 && (slices.Contains([]string{"iface", "auto", "mapping", "source", "source-directory", "template", "rename", "no-auto-down", "no-scripts"}, f[0]) || strings.HasPrefix(f[0], "allow-")):
			within = f[0] == "iface" && len(f) >= 4 && f[1] == name && (f[3] == "static" || f[2] == "inet" && f[3] == "dhcp")
			if !within {
				break
			}
			switch {
			case want.dhcp() && f[2] == "inet":
				line = "iface " + name + " inet dhcp\n"
			case want.dhcp():
				line = "iface " + name + " inet6 auto\n"
			case done: // its addresses stand in the stanzas written already
				line = ""
			default:
				line = stanzas(s, name, want)
			}
			done = true
		case within && len(f) > 0 && slices.Contains([]string{"address", "netmask", "gateway", "network", "broadcast", "metric"}, f[0]),
			within && want.dhcp() && len(f) > 0 && strings.HasPrefix(f[0], "dns-"):
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}

// stanzas are one for each new address; options of the old one follow the last.
func stanzas(old, name string, want addresses) string {
	gateway := want.gateway
	if !gateway.IsValid() {
		for _, f := range regexp.MustCompile(`(?m)^\s*gateway\s+(\S+)`).FindAllStringSubmatch(old, -1) {
			if want.keeps(f[1]) {
				gateway = netip.MustParseAddr(f[1])
			}
		}
	}
	var b strings.Builder
	for _, p := range slices.Backward(want.static) {
		family := "inet"
		if p.Addr().Is6() {
			family = "inet6"
		}
		fmt.Fprintf(&b, "iface %s %s static\n\taddress %s\n", name, family, p)
		if gateway.IsValid() && p.Contains(gateway) {
			fmt.Fprintf(&b, "\tgateway %s\n", gateway)
			gateway = netip.Addr{}
		}
	}
	return b.String()
}

// editIfcfg rewrites an ifcfg file, of Red Hat's and of SUSE's kind.
func editIfcfg(s, _ string, want addresses) string {
	var b strings.Builder
	gateway := ""
	for line := range strings.Lines(s) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		k = strings.TrimRight(k, "0123456789_")
		switch k {
		case "GATEWAY":
			if want.keeps(v) {
				gateway = strings.Trim(v, `"'`)
			}
			continue
		case "BOOTPROTO", "IPADDR", "NETMASK", "PREFIX", "NETWORK", "BROADCAST", "PREFIXLEN", "IPV6ADDR", "IPV6ADDR_SECONDARIES", "IPV6_DEFAULTGW":
			continue
		case "DNS":
			if want.dhcp() {
				continue
			}
		}
		b.WriteString(line)
	}
	out := ended(b.String())
	if want.dhcp() {
		return out + "BOOTPROTO=dhcp\n"
	}
	out += "BOOTPROTO=static\n"
	for i, p := range want.of(false) {
		n := ""
		if i > 0 {
			n = fmt.Sprint(i)
		}
		out += fmt.Sprintf("IPADDR%s=%s\nPREFIX%s=%d\n", n, p.Addr(), n, p.Bits())
	}
	if want.gateway.IsValid() {
		gateway = want.gateway.String()
	}
	if gateway != "" {
		out += "GATEWAY=" + gateway + "\n"
	}
	for _, p := range want.of(true) {
		out += "IPV6INIT=yes\nIPV6ADDR=" + p.String() + "\n"
	}
	return out
}

// section is one of an ini file, its heading's line first.
type section struct {
	name  string
	lines []string
}

func sections(s string) []section {
	out := []section{{}}
	for line := range strings.Lines(s) {
		if t := strings.TrimSpace(line); strings.HasPrefix(t, "[") {
			out = append(out, section{name: strings.ToLower(strings.Trim(t, "[]"))})
		}
		out[len(out)-1].lines = append(out[len(out)-1].lines, ended(line))
	}
	return out
}

func (s *section) value(key string) (string, bool) {
	for _, l := range s.lines {
		if k, v, ok := strings.Cut(strings.TrimSpace(l), "="); ok && strings.EqualFold(strings.TrimSpace(k), key) {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// set drops keys, with numbers after them or not, and puts lines below the heading.
func (s *section) set(drop []string, lines ...string) {
	s.lines = slices.DeleteFunc(s.lines, func(l string) bool {
		k, _, ok := strings.Cut(strings.ToLower(strings.TrimSpace(l)), "=")
		return ok && slices.Contains(drop, strings.TrimRight(strings.TrimSpace(k), "0123456789_"))
	})
	for i := range lines {
		lines[i] += "\n"
	}
	s.lines = slices.Insert(s.lines, 1, lines...)
}

func join(list []section) string {
	var b strings.Builder
	for _, s := range list {
		b.WriteString(strings.Join(s.lines, ""))
	}
	return b.String()
}

// editKeyfile rewrites a profile of NetworkManager (nm-settings-keyfile(5)).
func editKeyfile(s, _ string, want addresses) string {
	list := sections(s)
	for _, f := range []struct {
		name string
		v6   bool
	}{{"ipv4", false}, {"ipv6", true}} {
		i := slices.IndexFunc(list, func(x section) bool { return x.name == f.name })
		mine := want.of(f.v6)
		if f.v6 && len(mine) == 0 {
			// An address of its own goes when all do; else IPv6 stays as it is.
			if m := ""; i >= 0 && want.dhcp() {
				if m, _ = list[i].value("method"); m == "manual" {
					list[i].set([]string{"method", "address", "addresses", "gateway", "dns", "route"}, "method=auto")
				}
			}
			continue
		}
		if i < 0 {
			i = len(list)
			list = append(list, section{f.name, []string{"[" + f.name + "]\n"}})
		}
		if want.dhcp() {
			list[i].set([]string{"method", "address", "addresses", "gateway", "dns", "route"}, "method=auto")
			continue
		}
		if len(mine) == 0 {
			list[i].set([]string{"method", "address", "addresses", "gateway"}, "method=disabled")
			continue
		}
		lines := []string{"method=manual"}
		gateway := want.gateway
		for n := 1; !gateway.IsValid() && n < 10; n++ {
			v, _ := list[i].value(fmt.Sprint("address", n))
			_, gw, _ := strings.Cut(v, ",")
			if g, _ := list[i].value("gateway"); gw == "" {
				gw = g
			}
			if want.keeps(gw) {
				gateway = netip.MustParseAddr(gw)
			}
		}
		for n, p := range mine {
			line := fmt.Sprintf("address%d=%s", n+1, p)
			if gateway.IsValid() && p.Contains(gateway) {
				line += "," + gateway.String()
				gateway = netip.Addr{}
			}
			lines = append(lines, line)
		}
		list[i].set([]string{"method", "address", "addresses", "gateway"}, lines...)
	}
	return join(list)
}

// editNetworkd rewrites a .network file (systemd.network(5)).
func editNetworkd(s, _ string, want addresses) string {
	list := sections(s)
	gateway := want.gateway
	keep := func(v string) {
		if want.keeps(v) {
			gateway = netip.MustParseAddr(v)
		}
	}
	list = slices.DeleteFunc(list, func(x section) bool {
		if x.name == "address" {
			return true
		}
		gw, ok := x.value("gateway")
		dest, some := x.value("destination")
		if x.name == "route" && ok && (!some || dest == "0.0.0.0/0" || dest == "::/0") {
			keep(gw)
			return true
		}
		return false
	})
	i := slices.IndexFunc(list, func(x section) bool { return x.name == "network" })
	if i < 0 {
		i = len(list)
		list = append(list, section{"network", []string{"[Network]\n"}})
	}
	if gw, ok := list[i].value("gateway"); ok {
		keep(gw)
	}
	if want.dhcp() {
		list[i].set([]string{"address", "gateway", "dns", "dhcp"}, "DHCP=yes")
		return join(list)
	}
	var lines []string
	for _, p := range want.static {
		lines = append(lines, "Address="+p.String())
	}
	if gateway.IsValid() {
		lines = append(lines, "Gateway="+gateway.String())
	}
	list[i].set([]string{"address", "gateway", "dhcp"}, lines...)
	return join(list)
}

// editNetplan rewrites a file of netplan's; its comments stay.
func editNetplan(s, name string, want addresses) (string, error) {
	var doc yaml.MapSlice
	comments := yaml.CommentMap{}
	if err := yaml.UnmarshalWithOptions([]byte(s), &doc, yaml.UseOrderedMap(), yaml.CommentToMap(comments)); err != nil {
		return "", err
	}
	found := false
	for i := range doc {
		network, ok := doc[i].Value.(yaml.MapSlice)
		for j := range network {
			list, ok2 := network[j].Value.(yaml.MapSlice)
			if !ok || !ok2 || doc[i].Key != "network" || network[j].Key != "ethernets" {
				continue
			}
			for k := range list {
				e, ok := list[k].Value.(yaml.MapSlice)
				if ok && (list[k].Key == name || get(e, "set-name") == name || matchName(e) == name) {
					list[k].Value, found = netplanAdapter(e, want), true
				}
			}
		}
	}
	if !found {
		return "", fmt.Errorf("there is no adapter %s in it", name)
	}
	b, err := yaml.MarshalWithOptions(doc, yaml.WithComment(comments))
	return string(b), err
}

func get(m yaml.MapSlice, key string) any {
	for _, x := range m {
		if x.Key == key {
			return x.Value
		}
	}
	return nil
}

func matchName(e yaml.MapSlice) any {
	m, _ := get(e, "match").(yaml.MapSlice)
	return get(m, "name")
}

func netplanAdapter(e yaml.MapSlice, want addresses) yaml.MapSlice {
	gateway := want.gateway
	keep := func(v any) {
		if s := fmt.Sprint(v); want.keeps(s) {
			gateway = netip.MustParseAddr(s)
		}
	}
	drop := []string{"dhcp4", "addresses", "gateway4", "gateway6", "routes"}
	if want.dhcp() {
		drop = append(drop, "nameservers")
	}
	var routes []any
	if list, ok := get(e, "routes").([]any); ok {
		for _, r := range list {
			m, _ := r.(yaml.MapSlice)
			if to := fmt.Sprint(get(m, "to")); to == "default" || to == "0.0.0.0/0" || to == "::/0" {
				keep(get(m, "via"))
				continue
			}
			if !want.dhcp() {
				routes = append(routes, r)
			}
		}
	}
	keep(get(e, "gateway4"))
	keep(get(e, "gateway6"))
	out := slices.DeleteFunc(slices.Clone(e), func(x yaml.MapItem) bool { return slices.Contains(drop, fmt.Sprint(x.Key)) })
	out = append(out, yaml.MapItem{Key: "dhcp4", Value: want.dhcp()})
	if want.dhcp() {
		return out
	}
	var list []string
	for _, p := range want.static {
		list = append(list, p.String())
	}
	out = append(out, yaml.MapItem{Key: "addresses", Value: list})
	if gateway.IsValid() {
		routes = append(routes, yaml.MapSlice{{Key: "to", Value: "default"}, {Key: "via", Value: gateway.String()}})
	}
	if len(routes) > 0 {
		out = append(out, yaml.MapItem{Key: "routes", Value: routes})
	}
	return out
}
