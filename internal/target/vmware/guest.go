package vmware

import (
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

// knownGuestID tells an identifier of the API from other platforms' words.
func knownGuestID(id string) bool {
	return slices.Contains(types.VirtualMachineGuestOsIdentifier("").Strings(), id)
}

// since is the API version that brought an identifier (vSphere Web Services API
// Reference, VirtualMachineGuestOsIdentifier); those not here are older than
// every server in use.
var since = map[string]string{
	"windows2019srvNext_64Guest": "7.0.1.0", "windows11_64Guest": "8.0.0.1", "windows12_64Guest": "8.0.0.1",
	"windows2022srvNext_64Guest": "8.0.0.1", "freebsd13Guest": "7.0.1.0", "freebsd13_64Guest": "7.0.1.0",
	"freebsd14Guest": "8.0.0.1", "freebsd14_64Guest": "8.0.0.1", "rhel9_64Guest": "7.0.1.0",
	"rhel10_64Guest": "9.0.0.0", "centos9_64Guest": "7.0.1.0", "oracleLinux9_64Guest": "7.0.1.0",
	"sles16_64Guest": "7.0.1.0", "debian12Guest": "8.0.0.1", "debian12_64Guest": "8.0.0.1",
	"debian13Guest": "9.0.0.0", "debian13_64Guest": "9.0.0.0", "amazonlinux3_64Guest": "7.0.1.0",
	"rockylinux_64Guest": "8.0.0.1", "almalinux_64Guest": "8.0.0.1",
	"other5xLinuxGuest": "7.0.1.0", "other5xLinux64Guest": "7.0.1.0",
	"other6xLinuxGuest": "8.0.0.1", "other6xLinux64Guest": "8.0.0.1",
}

// selectGuestID is the best of ids that the hosts support. Without a list of
// what they support, as some servers and roles give none, it is the best that
// the server's API version has.
func selectGuestID(ids, supported []string, apiVersion string) string {
	for _, id := range ids {
		if len(supported) > 0 && slices.Contains(supported, id) ||
			len(supported) == 0 && knownGuestID(id) && !versionLess(apiVersion, since[id]) {
			return id
		}
	}
	return ids[len(ids)-1]
}

// versionLess compares dotted version numbers.
func versionLess(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range max(len(x), len(y)) {
		var m, n int
		if i < len(x) {
			m, _ = strconv.Atoi(x[i])
		}
		if i < len(y) {
			n, _ = strconv.Atoi(y[i])
		}
		if m != n {
			return m < n
		}
	}
	return false
}
