package vmware

import (
	"strings"
	"testing"
	"unicode/utf8"

	"ascend/internal/target/guestos"
	"ascend/internal/target/trust"
	"ascend/internal/vm"
)

// FuzzWords feeds what users and servers write into the readers of single words.
func FuzzWords(f *testing.F) {
	for _, s := range []string{
		"vc.example", "https://[::1]:443/sdk", "https://u:p@h", "SHA256:ab:cd", "sha1 Fingerprint=00:11",
		"/vm-7/ParaVirtualSCSIController0:1", "/vm-7/disk:3", "/vm-7/VirtualIDEController99999999999:0",
		"[LocalDS_0] a_b/disk-0.vmdk", "[x] ../../etc_j", "a%2fb%5c%25", "..", "\x00", "%", "8.0.2.0", "Windows Server 2019",
	} {
		f.Add(s)
	}
	slots, err := assign([]vm.Disk{{}, {}}, vm.GuestOS{})
	if err != nil {
		f.Fatal(err)
	}
	at := map[slotKey]int{slots[0].key(): 0, slots[1].key(): 1}
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := parseServer(s); err == nil && (u.Scheme != "https" || u.User != nil || u.Port() == "" || u.Path != "/sdk") {
			t.Errorf("%q is read as %s", s, u)
		}
		if sum, err := trust.ParseThumbprint(s); err == nil && len(sum) != 20 && len(sum) != 32 {
			t.Errorf("%q is read as %x", s, sum)
		}
		if i, ok := find(s, at, []int{-1, 1, 0}); ok && (i < 0 || i > 1) {
			t.Errorf("%q is disk %d", s, i)
		}
		if got := unescapeName(escapeName(s)); got != s {
			t.Errorf("%q comes back as %q", s, got)
		}
		if strings.ContainsAny(escapeName(s), `/\`) {
			t.Errorf("%q is escaped as %q", s, escapeName(s))
		}
		dir := folderName(s, s)
		if strings.ContainsAny(dir, "/\\[]%\x00") || strings.Contains(dir, "..") || len(dir) > 200 || utf8.ValidString(s) != utf8.ValidString(s+dir) {
			t.Errorf("folder of %q: %q", s, dir)
		}
		if got := bearsJob("[ds] "+dir, s); got != (s != "") {
			t.Errorf("folder %q bears job %q: %v", dir, s, got)
		}
		bearsJob(s, s)
		if landedPath.MatchString(s) && strings.Contains(s, "] ..") {
			t.Errorf("%q is a landed file", s)
		}
		if versionLess(s, s) {
			t.Errorf("version %q is less than itself", s)
		}
		ids := guestos.VMware(&vm.Machine{Platform: vm.VMware, Guest: vm.GuestOS{Family: vm.OSFamily(s), Distribution: s, Version: s, SourceID: s}})
		if id := selectGuestID(ids, nil, s); !knownGuestID(id) {
			t.Errorf("%q leads to guest %q", s, id)
		}
	})
}
