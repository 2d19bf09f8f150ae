// Package guestos names guest operating systems as each platform does, the best
// name first and after it names that are less exact and more widely known. It
// is data shared by plans and connectors.
package guestos

import (
	"fmt"
	"slices"
	"strings"

	"ascend/internal/vm"
)

// For lists the names that a platform may know a guest by, best first; none
// where the platform does not ask.
func For(p vm.Platform, m *vm.Machine) []string {
	switch p {
	case vm.VMware:
		return VMware(m)
	case vm.CloudStack:
		return CloudStack(m.Guest)
	case vm.Azure:
		return Azure(m.Guest)
	case vm.HyperV:
		return HyperV(m)
	case vm.AWS:
		return AWS(m.Guest)
	}
	return nil
}

// Azure is the osType of an OS disk: Azure knows two.
func Azure(g vm.GuestOS) []string {
	if g.Family == vm.Windows {
		return []string{"Windows"}
	}
	return []string{"Linux"}
}

// AWS is the platform of an image: "windows", or nothing said, which is Linux.
func AWS(g vm.GuestOS) []string {
	if g.Family == vm.Windows {
		return []string{"windows"}
	}
	return []string{"linux"}
}

// HyperV is the Secure Boot template of a generation 2 machine (Set-VMFirmware,
// -SecureBootTemplate); generation 1 has none.
func HyperV(m *vm.Machine) []string {
	switch {
	case m.Firmware != vm.UEFI || !m.SecureBoot:
		return nil
	case m.Guest.Family == vm.Windows:
		return []string{"MicrosoftWindows"}
	}
	return []string{"MicrosoftUEFICertificateAuthority"}
}

var cloudStackNames = map[string]string{
	"debian": "Debian GNU/Linux", "ubuntu": "Ubuntu", "rhel": "Red Hat Enterprise Linux", "centos": "CentOS", "rocky": "Rocky Linux", "almalinux": "AlmaLinux",
	"ol": "Oracle Linux", "sles": "SUSE Linux Enterprise Server", "opensuse": "openSUSE", "fedora": "Fedora Linux",
}

// CloudStack lists OS type descriptions as listOsTypes spells them in one release
// or another; use Pick to find the one that a cloud has.
func CloudStack(g vm.GuestOS) []string {
	bits := "(64-bit)"
	if g.Arch == vm.I386 {
		bits = "(32-bit)"
	}
	var ids []string
	add := func(format string, args ...any) {
		if s := fmt.Sprintf(format, args...); !slices.Contains(ids, s) {
			ids = append(ids, s)
		}
	}
	v := g.Version
	switch g.Family {
	case vm.Linux:
		d := strings.ToLower(strings.TrimSpace(g.Distribution))
		if a, ok := distributions[d]; ok {
			d = a
		}
		if name := cloudStackNames[d]; name != "" && v != "" {
			major := majorVersion(v)
			add("%s %s %s", name, v, bits)
			add("%s %s", name, v)
			if d == "ubuntu" {
				add("%s %s LTS", name, v)
			} else {
				add("%s %d %s", name, major, bits)
				add("%s %d", name, major)
				add("%s %d.0", name, major)
			}
		}
		add("Other Linux %s", bits)
	case vm.Windows:
		name := "Windows"
		if isServer(g) {
			name = "Windows Server"
		}
		if v != "" {
			add("%s %s %s", name, v, bits)
			add("%s %s", name, v)
		}
		add("Windows PV")
		add("Other %s", bits)
	case vm.BSD:
		if v != "" {
			add("FreeBSD %d %s", majorVersion(v), bits)
		}
	}
	add("Other %s", bits)
	return ids
}

// Pick is the first candidate that a platform has, without regard to case; ""
// when it has none of them.
func Pick(candidates, have []string) string {
	for _, c := range candidates {
		for _, h := range have {
			if strings.EqualFold(c, h) {
				return h
			}
		}
	}
	return ""
}
