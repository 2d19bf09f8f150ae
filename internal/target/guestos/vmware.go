package guestos

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/vm"
)

var reVMwareID = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}Guest(64)?$`)

// guestRule maps a distribution, from a major version on, to the guest
// operating system identifiers of VirtualMachineGuestOsIdentifier (vSphere Web
// Services API Reference), 64 bit and 32 bit.
type guestRule struct {
	distribution string
	from         int // major version; 0: any
	id64, id32   string
}

// Within a distribution the highest version that is not above the guest's comes
// first, the older ones after it.
var linuxRules = []guestRule{
	{"almalinux", 0, "almalinux_64Guest", ""},
	{"alpine", 0, "other5xLinux64Guest", "other5xLinuxGuest"},
	{"amzn", 2, "amazonlinux2_64Guest", ""},
	{"amzn", 2023, "amazonlinux3_64Guest", ""},
	{"arch", 0, "other5xLinux64Guest", ""},
	{"centos", 0, "centos64Guest", "centosGuest"},
	{"centos", 6, "centos6_64Guest", "centos6Guest"},
	{"centos", 7, "centos7_64Guest", "centos7Guest"},
	{"centos", 8, "centos8_64Guest", ""},
	{"centos", 9, "centos9_64Guest", ""},
	{"coreos", 0, "coreos64Guest", ""},
	{"debian", 0, "debian6_64Guest", "debian6Guest"},
	{"debian", 7, "debian7_64Guest", "debian7Guest"},
	{"debian", 8, "debian8_64Guest", "debian8Guest"},
	{"debian", 9, "debian9_64Guest", "debian9Guest"},
	{"debian", 10, "debian10_64Guest", "debian10Guest"},
	{"debian", 11, "debian11_64Guest", "debian11Guest"},
	{"debian", 12, "debian12_64Guest", "debian12Guest"},
	{"debian", 13, "debian13_64Guest", "debian13Guest"},
	{"fedora", 0, "fedora64Guest", "fedoraGuest"},
	{"flatcar", 0, "coreos64Guest", ""},
	{"ol", 0, "oracleLinux64Guest", "oracleLinuxGuest"},
	{"ol", 6, "oracleLinux6_64Guest", "oracleLinux6Guest"},
	{"ol", 7, "oracleLinux7_64Guest", "oracleLinux7Guest"},
	{"ol", 8, "oracleLinux8_64Guest", ""},
	{"ol", 9, "oracleLinux9_64Guest", ""},
	{"opensuse", 0, "opensuse64Guest", "opensuseGuest"},
	{"photon", 0, "vmwarePhoton64Guest", ""},
	{"rhel", 0, "rhel5_64Guest", "rhel5Guest"},
	{"rhel", 6, "rhel6_64Guest", "rhel6Guest"},
	{"rhel", 7, "rhel7_64Guest", "rhel7Guest"},
	{"rhel", 8, "rhel8_64Guest", ""},
	{"rhel", 9, "rhel9_64Guest", ""},
	{"rhel", 10, "rhel10_64Guest", ""},
	{"rocky", 0, "rockylinux_64Guest", ""},
	{"sles", 0, "sles11_64Guest", "sles11Guest"},
	{"sles", 12, "sles12_64Guest", "sles12Guest"},
	{"sles", 15, "sles15_64Guest", ""},
	{"sles", 16, "sles16_64Guest", ""},
	{"ubuntu", 0, "ubuntu64Guest", "ubuntuGuest"},
}

// aliases of os-release IDs.
var distributions = map[string]string{
	"oracle": "ol", "oraclelinux": "ol", "redhat": "rhel", "red hat": "rhel",
	"opensuse-leap": "opensuse", "opensuse-tumbleweed": "opensuse", "suse": "sles", "sled": "sles", "sles_sap": "sles",
	"amazon": "amzn", "rocky linux": "rocky", "alma": "almalinux", "centos-stream": "centos",
	"fedora-coreos": "coreos", "linuxmint": "ubuntu", "raspbian": "debian",
}

// windowsRules are matched by the first word found in the version.
var windowsRules = []struct {
	server     bool
	version    string
	id64, id32 string
}{
	{true, "2025", "windows2022srvNext_64Guest", ""},
	{true, "2022", "windows2019srvNext_64Guest", ""},
	{true, "2019", "windows2019srv_64Guest", ""},
	{true, "2016", "windows9Server64Guest", ""},
	{true, "2012", "windows8Server64Guest", ""},
	{true, "2008 r2", "windows7Server64Guest", ""},
	{true, "2008r2", "windows7Server64Guest", ""},
	{true, "2008", "winLonghorn64Guest", "winLonghornGuest"},
	{true, "2003", "winNetEnterprise64Guest", "winNetEnterpriseGuest"},
	{false, "12", "windows12_64Guest", ""},
	{false, "11", "windows11_64Guest", ""},
	{false, "10", "windows9_64Guest", "windows9Guest"},
	{false, "8", "windows8_64Guest", "windows8Guest"},
	{false, "7", "windows7_64Guest", "windows7Guest"},
	{false, "vista", "winVista64Guest", "winVistaGuest"},
	{false, "xp", "winXPPro64Guest", "winXPProGuest"},
}

// VMware lists the identifiers that may describe a guest, the best first. The
// last is one that every host knows.
func VMware(m *vm.Machine) []string {
	g := m.Guest
	wide := g.Arch != vm.I386
	var ids []string
	add := func(list ...string) {
		for _, id := range list {
			if id != "" && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	by := func(id64, id32 string) string {
		if wide {
			return id64
		}
		return id32
	}
	if m.Platform == vm.VMware && reVMwareID.MatchString(g.SourceID) {
		add(g.SourceID)
	}
	switch g.Family {
	case vm.Linux:
		add(linuxIDs(g, by)...)
		for _, k := range []string{"5x", "4x", "3x", ""} {
			add("other" + k + "Linux" + by("64Guest", "Guest"))
		}
	case vm.Windows:
		add(windowsID(g, by))
		if isServer(g) {
			add(by("windows9Server64Guest", ""), by("windows8Server64Guest", ""), by("windows7Server64Guest", "winLonghornGuest"))
		} else {
			add(by("windows9_64Guest", "windows9Guest"), by("windows8_64Guest", "windows8Guest"), by("windows7_64Guest", "windows7Guest"))
		}
	case vm.BSD:
		add(bsdID(g, by))
	}
	if wide {
		add("otherGuest64")
	}
	add("otherGuest")
	return ids
}

// linuxIDs are the distribution's own identifiers up to the guest's version,
// newest first. With the version not known, one that depends on it is no good.
func linuxIDs(g vm.GuestOS, by func(id64, id32 string) string) []string {
	d := strings.ToLower(strings.TrimSpace(g.Distribution))
	if a, ok := distributions[d]; ok {
		d = a
	}
	major, versioned := majorVersion(g.Version), false
	var ids []string
	for _, r := range slices.Backward(linuxRules) {
		if r.distribution != d {
			continue
		}
		versioned = versioned || r.from > 0
		if r.from <= major {
			ids = append(ids, by(r.id64, r.id32))
		}
	}
	if versioned && major == 0 {
		return nil
	}
	return ids
}

func windowsID(g vm.GuestOS, by func(id64, id32 string) string) string {
	v := strings.ToLower(g.Version)
	for _, r := range windowsRules {
		if r.server == isServer(g) && strings.Contains(v, r.version) {
			return by(r.id64, r.id32)
		}
	}
	return ""
}

func isServer(g vm.GuestOS) bool {
	d := strings.ToLower(g.Distribution)
	if d == "windows-server" || strings.Contains(d, "server") {
		return true
	}
	v := strings.ToLower(g.Version)
	return d == "" && (strings.Contains(v, "server") || majorVersion(v) > 2000)
}

func bsdID(g vm.GuestOS, by func(id64, id32 string) string) string {
	if d := strings.ToLower(g.Distribution); d != "" && !strings.Contains(d, "freebsd") {
		return ""
	}
	switch v := majorVersion(g.Version); {
	case v >= 11:
		v = min(v, 14)
		return "freebsd" + strconv.Itoa(v) + by("_64Guest", "Guest")
	default:
		return by("freebsd64Guest", "freebsdGuest")
	}
}

// majorVersion is the first number in a version; 0 without one.
func majorVersion(v string) int {
	start := strings.IndexFunc(v, func(r rune) bool { return r >= '0' && r <= '9' })
	if start < 0 {
		return 0
	}
	end := start
	for end < len(v) && v[end] >= '0' && v[end] <= '9' && end-start < 6 {
		end++
	}
	n, err := strconv.Atoi(v[start:end])
	if err != nil {
		return 0
	}
	return n
}

// VMwareIDs lists every identifier that the tables hold, for tests.
func VMwareIDs() []string {
	var ids []string
	for _, r := range linuxRules {
		ids = append(ids, r.id64, r.id32)
	}
	for _, r := range windowsRules {
		ids = append(ids, r.id64, r.id32)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
