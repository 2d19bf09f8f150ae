package plan

import (
	"slices"
	"strconv"
	"strings"

	"ascend/internal/vm"
)

// ntVersions map the names of Windows releases to NT versions, the longer names
// first.
var ntVersions = []struct {
	name string
	nt   float64
}{
	{"2008 r2", 6.1}, {"2008r2", 6.1}, {"2012 r2", 6.3}, {"2012r2", 6.3}, {"2003 r2", 5.2}, {"8.1", 6.3},
	{"2000", 5.0}, {"2003", 5.2}, {"2008", 6.0}, {"2012", 6.2}, {"2016", 10}, {"2019", 10}, {"2022", 10}, {"2025", 10},
	{"vista", 6.0}, {"xp", 5.1}, {"11", 10}, {"10", 10}, {"8", 6.2}, {"7", 6.1},
}

// ntVersion is the NT version of a Windows; 0: not known.
func ntVersion(g vm.GuestOS) float64 {
	if g.Family != vm.Windows {
		return 0
	}
	v := strings.ToLower(g.Version)
	for _, n := range ntVersions {
		if strings.Contains(v, n.name) {
			return n.nt
		}
	}
	return 0
}

// rhelKin are the distributions that count their releases as RHEL does.
var rhelKin = []string{"rhel", "centos", "ol", "oracle", "oraclelinux", "rocky", "almalinux", "scientific"}

// rhelVersion is the release of RHEL or its kin; 0: another system, or not known.
func rhelVersion(g vm.GuestOS) float64 {
	if g.Family != vm.Linux || !slices.Contains(rhelKin, strings.ToLower(g.Distribution)) {
		return 0
	}
	major, minor, _ := strings.Cut(g.Version, ".")
	if len(minor) > 2 {
		minor = minor[:2]
	}
	n, err := strconv.Atoi(major)
	if err != nil {
		return 0
	}
	k, err := strconv.Atoi(strings.TrimRight(minor, "."))
	if err != nil {
		k = 9 // a release without a minor number is taken for its last
	}
	return float64(n) + float64(k)/10
}
