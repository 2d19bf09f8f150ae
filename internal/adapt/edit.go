package adapt

import (
	"path"
	"slices"
	"strings"
)

// ended is a text whose last line has its end.
func ended(s string) string {
	if s != "" && !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	return s
}

// addLines adds the lines that a text does not have.
func addLines(s string, lines []string) string {
	have := strings.Split(s, "\n")
	for i := range have {
		have[i] = strings.TrimSpace(have[i])
	}
	for _, l := range lines {
		if !slices.Contains(have, l) {
			s = ended(s) + l + "\n"
		}
	}
	return s
}

// inName are the bytes that a device's or host's name goes on with.
func inName(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '/' || c == '.'
}

// replaceName replaces a name where it stands alone: not as part of a longer
// one, and not in a comment.
func replaceName(s, old, with string) string {
	if old == "" {
		return s
	}
	var b strings.Builder
	for line := range strings.Lines(s) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			b.WriteString(line)
			continue
		}
		rest := line
		for {
			i := strings.Index(rest, old)
			if i < 0 {
				break
			}
			end := i + len(old)
			alone := (i == 0 || !inName(rest[i-1])) && (end == len(rest) || !inName(rest[end]))
			b.WriteString(rest[:i])
			if alone {
				b.WriteString(with)
			} else {
				b.WriteString(old)
			}
			rest = rest[end:]
		}
		b.WriteString(rest)
	}
	return b.String()
}

// dhcpOf is how a network configuration file has its interface ask for its
// address; nil for a file that is not rewritten here.
func dhcpOf(file, name string) func(string) string {
	switch {
	case path.Base(file) == "interfaces" || path.Base(path.Dir(file)) == "interfaces.d":
		return func(s string) string { return dhcpInterfaces(s, name) }
	case strings.HasPrefix(path.Base(file), "ifcfg-"):
		return dhcpIfcfg
	case strings.HasSuffix(file, ".nmconnection") || strings.Contains(file, "/system-connections/"):
		return func(s string) string {
			return dhcpSections(s, map[string]string{"[ipv4]": "method=auto"}, "address", "addresses", "gateway", "dns", "method", "route")
		}
	case strings.HasSuffix(file, ".network"):
		return func(s string) string {
			return dhcpSections(s, map[string]string{"[network]": "DHCP=yes"}, "address", "gateway", "dns", "dhcp")
		}
	}
	return nil
}

// dhcpInterfaces rewrites the IPv4 stanza of one interface (interfaces(5)).
func dhcpInterfaces(s, name string) string {
	var b strings.Builder
	within := false
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		switch {
		case len(f) > 0 && slices.Contains([]string{"iface", "auto", "mapping", "source", "source-directory", "template", "rename"}, f[0]) || len(f) > 0 && strings.HasPrefix(f[0], "allow-"):
			within = f[0] == "iface" && len(f) >= 4 && f[1] == name && f[2] == "inet" && f[3] == "static"
			if within {
				line = "iface " + name + " inet dhcp\n"
			}
		case within && len(f) > 0 && slices.Contains([]string{"address", "netmask", "gateway", "network", "broadcast", "dns-nameservers", "dns-search", "dns-domain", "metric"}, f[0]):
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}

// dhcpIfcfg rewrites an ifcfg file.
func dhcpIfcfg(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		k, _, _ := strings.Cut(strings.TrimSpace(line), "=")
		k = strings.TrimRight(k, "0123456789")
		if !slices.Contains([]string{"BOOTPROTO", "IPADDR", "NETMASK", "PREFIX", "GATEWAY", "DNS", "NETWORK", "BROADCAST", "PREFIXLEN"}, k) {
			b.WriteString(line)
		}
	}
	return ended(b.String()) + "BOOTPROTO=dhcp\n"
}

// dhcpSections removes keys, with numbers after them or not, from sections and
// puts one line at the beginning of each.
func dhcpSections(s string, sections map[string]string, drop ...string) string {
	var b strings.Builder
	add := ""
	for line := range strings.Lines(s) {
		t := strings.ToLower(strings.TrimSpace(line))
		if strings.HasPrefix(t, "[") {
			add = sections[t]
			b.WriteString(ended(line))
			if add != "" {
				b.WriteString(add + "\n")
			}
			continue
		}
		k, _, _ := strings.Cut(t, "=")
		if add != "" && slices.Contains(drop, strings.TrimRight(strings.TrimSpace(k), "0123456789_")) {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}
