package ovf

import (
	"regexp"
	"strconv"
	"strings"

	"ascend/internal/vm"
)

// The names of guest operating systems: CIM_OperatingSystem.OSType numbers of
// the OperatingSystemSection (DSP0243 9.7), VMware's guest identifiers
// (vmw:osType, VirtualMachineGuestOsIdentifier of the vSphere API) and
// VirtualBox's (vbox:OSType).

// windows lists VMware's identifiers for Windows, whose numbers follow no rule.
// Each stem takes the endings "Guest", "64Guest" or "_64Guest".
var windows = []struct {
	stem, dist, version string
	cim32, cim64        int
	end64               string
}{
	{"windows2022srvNext", server, "2025", 0, 115, "_64Guest"},
	{"windows2019srvNext", server, "2022", 0, 115, "_64Guest"},
	{"windows2019srv", server, "2019", 0, 115, "_64Guest"},
	{"windows9Server", server, "2016", 0, 115, "64Guest"},
	// windows8Server stands for 2012 and 2012 R2.
	{"windows8Server", server, "2012", 0, 112, "64Guest"},
	{"windows8Server", server, "2012 R2", 0, 115, "64Guest"},
	{"windows7Server", server, "2008 R2", 0, 103, "64Guest"},
	{"winLonghorn", server, "2008", 76, 77, "64Guest"},
	{"winNetStandard", server, "2003", 69, 70, "64Guest"},
	{"winNetEnterprise", server, "2003", 69, 70, "64Guest"},
	{"windows12", client, "12", 0, 114, "_64Guest"},
	{"windows11", client, "11", 0, 114, "_64Guest"},
	{"windows9", client, "10", 114, 114, "_64Guest"},
	{"windows8", client, "8", 113, 113, "_64Guest"},
	{"windows7", client, "7", 105, 105, "_64Guest"},
	{"winVista", client, "vista", 73, 74, "64Guest"},
	{"winXPPro", client, "xp", 67, 71, "64Guest"},
	{"win2000Serv", server, "2000", 58, 0, ""},
	{"win2000Pro", client, "2000", 58, 0, ""},
}

const (
	server = "windows-server"
	client = "windows-client"
)

// linux lists the distributions: the os-release ID, VMware's stem, the endings
// of its 64-bit identifier with and without a version ("" where there is none),
// and the CIM numbers for 32 and 64 bits.
var linux = []struct {
	id, stem         string
	versioned, plain string
	cim32, cim64     int
}{
	{"ubuntu", "ubuntu", "", "64Guest", 93, 94},
	{"debian", "debian", "_64Guest", "", 95, 96},
	{"rhel", "rhel", "_64Guest", "", 79, 80},
	{"centos", "centos", "_64Guest", "64Guest", 106, 107},
	{"ol", "oracleLinux", "_64Guest", "64Guest", 108, 109},
	{"sles", "sles", "_64Guest", "64Guest", 84, 85},
	{"opensuse", "opensuse", "", "64Guest", 82, 83},
	{"rocky", "rockylinux", "", "_64Guest", 0, 101},
	{"almalinux", "almalinux", "", "_64Guest", 0, 101},
	{"fedora", "fedora", "", "64Guest", 36, 101},
	{"amzn", "amazonlinux", "_64Guest", "", 0, 101},
	{"photon", "vmwarePhoton", "", "64Guest", 0, 101},
	{"coreos", "coreos", "", "64Guest", 0, 101},
	{"rhel", "redhat", "", "", 79, 80},
	{"suse", "suse", "", "64Guest", 82, 83},
}

var (
	reVMwareID = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}Guest(64)?$`)
	reName     = regexp.MustCompile(`^([A-Za-z]+)(\d*)`)
)

// osOf is what the OperatingSystemSection says of the machine: the CIM number,
// the version, VMware's identifier.
func osOf(m *vm.Machine) (id int, version, osType string) {
	g := m.Guest
	if reVMwareID.MatchString(g.SourceID) {
		if g.Family == "" {
			g = fromVMware(g.SourceID)
		}
		id, _, _ = describe(g)
		return id, "", m.Guest.SourceID
	}
	return describe(g)
}

func describe(g vm.GuestOS) (id int, version, osType string) {
	is32 := g.Arch == vm.I386
	pick := func(a, b int) int {
		if is32 && a != 0 || b == 0 {
			return a
		}
		return b
	}
	switch g.Family {
	case vm.Windows:
		for _, w := range windows {
			if w.dist != g.Distribution || !sameRelease(w.version, g.Version) {
				continue
			}
			if is32 || w.end64 == "" {
				return pick(w.cim32, w.cim64), "", w.stem + "Guest"
			}
			return w.cim64, "", w.stem + w.end64
		}
		if g.Distribution == client {
			return 114, "", "windows9" + map[bool]string{true: "Guest", false: "_64Guest"}[is32]
		}
		return 115, "", "windows9Server64Guest"
	case vm.Linux:
		major, _, _ := strings.Cut(g.Version, ".")
		_, err := strconv.ParseUint(major, 10, 8)
		for _, l := range linux {
			end, stem := l.plain, l.stem
			if l.versioned != "" && err == nil {
				end, stem = l.versioned, l.stem+major
			}
			if l.id != g.Distribution || end == "" {
				continue
			}
			if is32 {
				end = "Guest"
			}
			return pick(l.cim32, l.cim64), major, stem + end
		}
		if is32 {
			return 36, "", "otherLinuxGuest"
		}
		return 101, "", "otherLinux64Guest"
	case vm.BSD:
		if is32 {
			return 42, "", "freebsdGuest"
		}
		return 78, "", "freebsd64Guest"
	}
	if is32 {
		return 1, "", "otherGuest"
	}
	return 102, "", "otherGuest64"
}

// sameRelease compares Windows releases: "2012R2", "2012 r2" and "2012 R2" are
// one.
func sameRelease(a, b string) bool {
	norm := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, " ", "")) }
	return norm(a) == norm(b)
}

// fromVMware reads a VMware guest identifier such as rhel9_64Guest.
func fromVMware(id string) vm.GuestOS {
	g := vm.GuestOS{SourceID: id, Arch: vm.I386}
	s := strings.TrimSuffix(id, "Guest")
	if t, ok := strings.CutSuffix(id, "Guest64"); ok {
		s, g.Arch = t, vm.AMD64
	}
	if t, ok := strings.CutPrefix(s, "arm"); ok {
		s, g.Arch = t, vm.ARM64
	}
	s = strings.TrimPrefix(s, "_")
	if t, ok := strings.CutSuffix(s, "64"); ok {
		s = strings.TrimSuffix(t, "_")
		if g.Arch == vm.I386 {
			g.Arch = vm.AMD64
		}
	}
	for _, w := range windows {
		if strings.EqualFold(s, w.stem) {
			g.Family, g.Distribution, g.Version = vm.Windows, w.dist, w.version
			return g
		}
	}
	byName(&g, s)
	return g
}

// fromVirtualBox reads a VirtualBox identifier such as Windows2019_64.
func fromVirtualBox(id string) vm.GuestOS {
	g := vm.GuestOS{SourceID: id, Arch: vm.I386}
	s := id
	if t, ok := strings.CutSuffix(s, "_64"); ok {
		s, g.Arch = t, vm.AMD64
	} else if t, ok := strings.CutSuffix(s, "_arm64"); ok {
		s, g.Arch = t, vm.ARM64
	}
	if v, ok := strings.CutPrefix(s, "Windows"); ok {
		g.Family = vm.Windows
		g.Distribution, g.Version = client, strings.ToLower(v)
		if len(v) == 4 && strings.HasPrefix(v, "20") {
			g.Distribution = server
		}
		return g
	}
	if strings.EqualFold(s, "Oracle") {
		s = "oracleLinux"
	}
	byName(&g, s)
	return g
}

// byName tells family, distribution and version from a stem with digits.
func byName(g *vm.GuestOS, s string) {
	low := strings.ToLower(s)
	m := reName.FindStringSubmatch(s)
	if m == nil {
		m = []string{s, s, ""}
	}
	for _, l := range linux {
		if strings.EqualFold(m[1], l.stem) {
			g.Family, g.Distribution, g.Version = vm.Linux, l.id, m[2]
			return
		}
	}
	switch {
	case strings.HasPrefix(low, "win"):
		g.Family = vm.Windows
	case strings.Contains(low, "bsd"):
		g.Family = vm.BSD
	case strings.Contains(low, "linux"), strings.HasPrefix(low, "mandr"), strings.HasPrefix(low, "asianux"),
		strings.HasPrefix(low, "gentoo"), strings.HasPrefix(low, "oes"), strings.HasPrefix(low, "nld"):
		g.Family = vm.Linux
	case low == "other" || low == "":
		*g = vm.GuestOS{SourceID: g.SourceID}
	default:
		g.Family = vm.OtherOS
	}
}

// fromCIM reads a CIM OSType number; the zero GuestOS when it says nothing.
func fromCIM(id int) vm.GuestOS {
	switch id {
	case 0, 1, 66, 102:
		return vm.GuestOS{}
	case 36: // written for Linux of any width
		return vm.GuestOS{Family: vm.Linux}
	case 97, 99:
		return vm.GuestOS{Family: vm.Linux, Arch: vm.I386}
	case 98, 100, 101:
		return vm.GuestOS{Family: vm.Linux, Arch: vm.AMD64}
	case 41, 42, 43, 65:
		return vm.GuestOS{Family: vm.BSD, Arch: vm.I386}
	case 78:
		return vm.GuestOS{Family: vm.BSD, Arch: vm.AMD64}
	}
	for _, l := range linux {
		switch id {
		case l.cim32:
			return vm.GuestOS{Family: vm.Linux, Distribution: l.id, Arch: vm.I386}
		case l.cim64:
			return vm.GuestOS{Family: vm.Linux, Distribution: l.id, Arch: vm.AMD64}
		}
	}
	for _, w := range windows {
		switch id {
		case 114, 115: // several releases
			return vm.GuestOS{Family: vm.Windows, Distribution: map[int]string{114: client, 115: server}[id]}
		case w.cim64:
			return vm.GuestOS{Family: vm.Windows, Distribution: w.dist, Version: w.version, Arch: archOf(w.cim32 != id)}
		case w.cim32:
			return vm.GuestOS{Family: vm.Windows, Distribution: w.dist, Version: w.version, Arch: vm.I386}
		}
	}
	return vm.GuestOS{Family: vm.OtherOS}
}

// archOf is AMD64 when the identifier says so, else not known: one CIM number
// then stands for both widths.
func archOf(sure bool) vm.Arch {
	if sure {
		return vm.AMD64
	}
	return ""
}
