package winpack

import (
	"regexp"
	"strings"
)

// release is a Windows that packs have folders for.
type release struct {
	major, minor, build int
	server              bool
}

// folders are virtio-win's names of releases; "Windows Server 2019" and the like,
// as Nutanix has them, are read by words.
var folders = map[string]release{
	"xp": {5, 1, 2600, false}, "2k3": {5, 2, 3790, true}, "2k8": {6, 0, 6002, true}, "w7": {6, 1, 7600, false}, "2k8r2": {6, 1, 7600, true},
	"w8": {6, 2, 9200, false}, "2k12": {6, 2, 9200, true}, "w8.1": {6, 3, 9600, false}, "2k12r2": {6, 3, 9600, true},
	"w10": {10, 0, 10240, false}, "2k16": {10, 0, 14393, true}, "2k19": {10, 0, 17763, true}, "2k22": {10, 0, 20348, true},
	"w11": {10, 0, 22000, false}, "2k25": {10, 0, 26100, true},
}

var words = regexp.MustCompile(`^(?:windows|win)[ _-]*(?:server)?[ _-]*(7|8|8\.1|10|11|2008[ _-]*r2|2012|2012[ _-]*r2|2016|2019|2022|2025)(?:[ _-].*)?$`)

// releaseOf reads a folder's name.
func releaseOf(name string) (release, bool) {
	name = strings.ToLower(name)
	if r, ok := folders[name]; ok {
		return r, true
	}
	m := words.FindStringSubmatch(name)
	if m == nil {
		return release{}, false
	}
	v := strings.NewReplacer(" ", "", "_", "", "-", "").Replace(m[1])
	if s, ok := strings.CutPrefix(v, "20"); ok {
		v = "2k" + strings.TrimPrefix(s, "0")
	} else {
		v = "w" + v
	}
	r, ok := folders[v]
	return r, ok
}

// folderRank tells how well the folder of a driver suits a system: -1 not at all
// (it is for a later or another generation), 0 it says nothing, higher is nearer.
func folderRank(p string, s System) int {
	rank := 0
	for part := range strings.SplitSeq(p, "/") {
		r, ok := releaseOf(part)
		if !ok {
			continue
		}
		// Drivers of one generation are taken by all its later releases, of one of
		// Windows 8 and before by its own only.
		if r.major != s.Major || r.minor != s.Minor || r.build > s.Build {
			return -1
		}
		if rank = r.build; r.server == s.Server {
			rank += 1 << 20
		}
	}
	return rank
}
