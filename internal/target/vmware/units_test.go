package vmware

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/guestos"
	"ascend/internal/target/trust"
	"ascend/internal/target/vmware/vcsimtest"
	"ascend/internal/vm"
)

func TestServer(t *testing.T) {
	for in, want := range map[string]string{
		"vc.example":                  "https://vc.example:443/sdk",
		" vc.example:8443 ":           "https://vc.example:8443/sdk",
		"https://vc.example":          "https://vc.example:443/sdk",
		"https://vc.example/":         "https://vc.example:443/sdk",
		"https://vc.example/sdk":      "https://vc.example:443/sdk",
		"https://[2001:db8::1]:9443":  "https://[2001:db8::1]:9443/sdk",
		"[2001:db8::1]":               "https://[2001:db8::1]:443/sdk",
		"192.0.2.7":                   "https://192.0.2.7:443/sdk",
		"":                            "",
		"http://vc.example":           "",
		"https://":                    "",
		"https://u:p4ss@vc.example":   "",
		"https://vc.example/ui":       "",
		"https://vc.example?p4ss=1":   "",
		"https://vc.example/%zz:p4ss": "",
		"https://vc example":          "",
	} {
		u, err := parseServer(in)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q is read as %s", in, u)
		case want == "" && strings.Contains(err.Error(), "p4ss"):
			t.Errorf("the error about %q repeats it: %v", in, err)
		case want != "" && (err != nil || u.String() != want):
			t.Errorf("%q is read as %v, %v", in, u, err)
		}
	}
}

func TestThumbprint(t *testing.T) {
	s256, s1 := sha256.Sum256([]byte("x")), sha1.Sum([]byte("x"))
	for _, c := range []struct {
		in   string
		want []byte
	}{
		{hex.EncodeToString(s256[:]), s256[:]},
		{strings.ToUpper(hex.EncodeToString(s1[:])), s1[:]},
		{trust.FormatThumbprint(s256[:]), s256[:]},
		{"SHA256:" + hex.EncodeToString(s256[:]), s256[:]},
		{"sha256 Fingerprint=" + trust.FormatThumbprint(s256[:]), s256[:]},
		{"SHA1 Fingerprint=" + trust.FormatThumbprint(s1[:]), s1[:]},
		{"sha-1: " + trust.FormatThumbprint(s1[:]), s1[:]},
		{"", nil},
		{"abcd", nil},
		{hex.EncodeToString(s256[:31]), nil},
		{strings.Repeat("z", 64), nil},
	} {
		got, err := trust.ParseThumbprint(c.in)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%q is read as %x, %v", c.in, got, err)
		}
	}
}

func TestSettings(t *testing.T) {
	good := func() target.Settings {
		return target.Settings{Name: "vc", Platform: vm.VMware,
			Values:  map[string]string{"url": "vc.example", "username": "u"},
			Secrets: map[string]secret.String{"password": secret.New("hunter2")}}
	}
	if _, err := newConfig(good()); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"url": "", "username": "", "password": "", "ca_file": "/nonexistent", "thumbprint": "zz",
		"insecure": "perhaps", "link": "slow", "parallel_disks": "17",
	} {
		s := good()
		if s.Values[name] = value; name == "password" {
			delete(s.Secrets, name)
		}
		_, err := newConfig(s)
		if err == nil || !target.IsPermanent(err) || !strings.Contains(err.Error(), `"`+name+`"`) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s=%q gives %v", name, value, err)
		}
	}
	s := good()
	s.Values["insecure"], s.Values["thumbprint"] = "true", strings.Repeat("ab", 32)
	if _, err := newConfig(s); err == nil {
		t.Error("insecure and a thumbprint together are no error")
	}
	s = good()
	s.Values["link"] = "fast"
	cfg, err := newConfig(s)
	if err != nil {
		t.Fatal(err)
	}
	if c := (&vmware{cfg: cfg}).Capabilities().Deliveries[0].Format.Compression; c != "stored" {
		t.Errorf("with link=fast the first delivery is %s", c)
	}
	if got := fmt.Sprintf("%v %+v %#v", s, s, s); strings.Contains(got, "hunter2") {
		t.Errorf("the password is printed: %s", got)
	}
}

func leafCertificate(t testing.TB) *x509.Certificate {
	t.Helper()
	cert, err := vcsimtest.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

func TestTrust(t *testing.T) {
	leaf := leafCertificate(t)
	s256, s1 := sha256.Sum256(leaf.Raw), sha1.Sum(leaf.Raw)
	known := x509.NewCertPool()
	known.AddCert(leaf)
	const addr = "127.0.0.1:443"
	for _, c := range []struct {
		name string
		ok   bool
		set  func(*trust.Trust)
		addr string
	}{
		{"system authorities", false, func(*trust.Trust) {}, addr},
		{"its authority", true, func(t *trust.Trust) { t.Roots = known }, addr},
		{"its authority, by name", true, func(t *trust.Trust) { t.Roots = known }, "vcenter.test:443"},
		{"its authority, wrong name", false, func(t *trust.Trust) { t.Roots = known }, "localhost:443"},
		{"insecure", true, func(t *trust.Trust) { t.Insecure = true }, addr},
		{"SHA-256 pin", true, func(t *trust.Trust) { t.Pin(addr, s256[:]) }, addr},
		{"SHA-1 pin", true, func(t *trust.Trust) { t.Pin(addr, s1[:]) }, addr},
		{"wrong pin beats the authority", false, func(t *trust.Trust) { t.Roots = known; t.Pin(addr, s256[:20]) }, addr},
		{"wrong pin beats insecure", false, func(t *trust.Trust) { t.Insecure = true; t.Pin(addr, s1[1:]) }, addr},
		{"a pin of another port", false, func(t *trust.Trust) { t.Pin("127.0.0.1:444", s256[:]) }, addr},
		{"vouched for", true, func(t *trust.Trust) { t.Vouch(addr, trust.FormatThumbprint(s1[:])) }, addr},
		{"vouched for another", false, func(t *trust.Trust) { t.Vouch("192.0.2.1:443", trust.FormatThumbprint(s1[:])) }, addr},
		{"a pin beats a voucher", false, func(t *trust.Trust) { t.Pin(addr, s256[1:]); t.Vouch(addr, trust.FormatThumbprint(s1[:])) }, addr},
		{"nonsense voucher", false, func(t *trust.Trust) { t.Vouch(addr, "") }, addr},
	} {
		tr := trust.New(addr)
		c.set(tr)
		err := tr.Verify(c.addr, []*x509.Certificate{leaf})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && (!target.IsPermanent(translate(err)) || !strings.Contains(translate(err).Error(), "hint: ")) {
			t.Errorf("%s: the error is not permanent or has no hint: %v", c.name, translate(err))
		}
	}
	if err := trust.New(addr).Verify(addr, nil); err == nil {
		t.Error("no certificate is accepted")
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ name, escaped string }{
		{"plain", "plain"},
		{"50% of a/b\\c", "50%25 of a%2fb%5cc"},
		{"%2f", "%252f"},
		{"Büro 🖥", "Büro 🖥"},
	} {
		if got := escapeName(c.name); got != c.escaped {
			t.Errorf("%q is escaped as %q", c.name, got)
		}
		if got := unescapeName(c.escaped); got != c.name {
			t.Errorf("%q is unescaped as %q", c.escaped, got)
		}
	}
	for name, ok := range map[string]bool{
		"": false, " \t": false, strings.Repeat("ü", 80): true, strings.Repeat("ü", 81): false,
		"a\x00b": false, "a\x1bb": false, "tab\there": true, "\xff": false,
	} {
		if err := checkName(name); (err == nil) != ok {
			t.Errorf("name %q: %v", name, err)
		}
	}
	seen := map[string]string{}
	for _, c := range [][2]string{
		{"a", "01J"}, {"../..", "01J"}, {strings.Repeat("サ", 80), "01J"}, {"a", "x_01J"}, {"a", "../01J"}, {"a", strings.Repeat("j", 500)}, {".", "01J"},
	} {
		dir := folderName(c[0], c[1])
		if strings.ContainsAny(dir, `/\[]%`) || strings.Contains(dir, "..") || len(dir) > 200 || strings.HasPrefix(dir, ".") {
			t.Errorf("folder of %q: %q", c, dir)
		}
		if other, ok := seen[dir]; ok && other != c[1] {
			t.Errorf("jobs %q and %q share folder %q", other, c[1], dir)
		}
		seen[dir] = c[1]
		for _, job := range []string{"01J", "x_01J", "../01J", "J", "1J", "", strings.Repeat("j", 500)} {
			if got := bearsJob("[ds] "+dir, job); got != (job == c[1]) {
				t.Errorf("folder %q bears job %q: %v", dir, job, got)
			}
		}
		if bearsJob("[ds] other/"+dir, c[1]) || bearsJob(dir, c[1]) {
			t.Errorf("a folder elsewhere bears job %q", c[1])
		}
	}
}

func TestAssign(t *testing.T) {
	linux, windows := vm.GuestOS{Family: vm.Linux}, vm.GuestOS{Family: vm.Windows}
	many := func(n int, d vm.Disk) []vm.Disk {
		out := make([]vm.Disk, n)
		for i := range out {
			out[i] = d
		}
		return out
	}
	for _, c := range []struct {
		name  string
		disks []vm.Disk
		guest vm.GuestOS
		want  string
	}{
		{"default Linux", many(2, vm.Disk{}), linux, "ParaVirtualSCSIController0:0 ParaVirtualSCSIController0:1"},
		{"default Windows", many(1, vm.Disk{}), windows, "VirtualLsiLogicSASController0:0"},
		{"as asked", []vm.Disk{
			{Controller: vm.BusPVSCSI, ControllerNumber: 1, Unit: 3}, {Controller: vm.BusSATA, Unit: 5}, {Controller: vm.BusNVMe, ControllerNumber: 3, Unit: 14},
			{Controller: vm.BusIDE, ControllerNumber: 1, Unit: 1}, {Controller: vm.BusLSILogic, Unit: 15}, {Controller: vm.BusLSIBus, ControllerNumber: 2},
			{Controller: vm.BusLSISAS, ControllerNumber: 3, Unit: 2},
		}, linux, "ParaVirtualSCSIController1:3 VirtualAHCIController0:5 VirtualNVMEController3:14 VirtualIDEController1:1 " +
			"VirtualLsiLogicController0:15 VirtualBusLogicController2:0 VirtualLsiLogicSASController3:2"},
		{"unit 7 is the controller", []vm.Disk{{Controller: vm.BusPVSCSI, Unit: 7}}, linux, "ParaVirtualSCSIController0:0"},
		{"unit 40 of PVSCSI", []vm.Disk{{Controller: vm.BusPVSCSI, Unit: 40}}, linux, "ParaVirtualSCSIController0:40"},
		{"unit 40 of LSI", []vm.Disk{{Controller: vm.BusLSILogic, Unit: 40}}, linux, "VirtualLsiLogicController0:0"},
		{"a unit twice", []vm.Disk{{Controller: vm.BusSATA, Unit: 1}, {Controller: vm.BusSATA, Unit: 1}}, linux, "VirtualAHCIController0:1 VirtualAHCIController0:0"},
		{"asked for wins over the order", []vm.Disk{{}, {Controller: vm.BusPVSCSI}}, linux, "ParaVirtualSCSIController0:1 ParaVirtualSCSIController0:0"},
		{"two models on one bus", []vm.Disk{{Controller: vm.BusPVSCSI}, {Controller: vm.BusLSILogic}}, linux, "ParaVirtualSCSIController0:0 VirtualLsiLogicController1:0"},
		{"bus 4 is none", []vm.Disk{{Controller: vm.BusPVSCSI, ControllerNumber: 4}}, linux, "ParaVirtualSCSIController0:0"},
		{"negative", []vm.Disk{{Controller: vm.BusPVSCSI, ControllerNumber: -1, Unit: -5}}, linux, "ParaVirtualSCSIController0:0"},
		{"IDE is full after four", many(5, vm.Disk{Controller: vm.BusIDE}), linux, ""},
		{"virtio", []vm.Disk{{Controller: vm.BusVirtioBlk}}, linux, ""},
	} {
		slots, err := assign(c.disks, c.guest)
		var got []string
		for _, s := range slots {
			got = append(got, s.String())
		}
		if s := strings.Join(got, " "); s != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %s, %v", c.name, s, err)
		}
	}
	slots, err := assign(many(60, vm.Disk{}), linux)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[slot]bool{}
	for _, s := range slots {
		if seen[s] || s.unit == 7 || s.number > 3 || s.unit > 15 {
			t.Errorf("slot %s", s)
		}
		seen[s] = true
	}
	if _, err := assign(many(61, vm.Disk{}), linux); err == nil || !target.IsPermanent(err) {
		t.Errorf("61 SCSI disks: %v", err)
	}
}

func TestGuestID(t *testing.T) {
	for _, c := range []struct {
		family  vm.OSFamily
		distro  string
		version string
		arch    vm.Arch
		api     string
		want    string
	}{
		{vm.Linux, "debian", "12", vm.AMD64, "8.0.2.0", "debian12_64Guest"},
		{vm.Linux, "debian", "12", vm.AMD64, "7.0.3.0", "debian11_64Guest"},
		{vm.Linux, "debian", "14", vm.AMD64, "9.0.0.0", "debian13_64Guest"},
		{vm.Linux, "debian", "", vm.AMD64, "8.0.2.0", "other5xLinux64Guest"},
		{vm.Linux, "rhel", "9.4", vm.AMD64, "8.0.2.0", "rhel9_64Guest"},
		{vm.Linux, "rhel", "5", vm.I386, "8.0.2.0", "rhel5Guest"},
		{vm.Linux, "rhel", "8", vm.AMD64, "6.7", "rhel8_64Guest"},
		{vm.Linux, "ubuntu", "24.04", vm.AMD64, "6.7", "ubuntu64Guest"},
		{vm.Linux, "Rocky Linux", "9", vm.AMD64, "7.0.3.0", "other5xLinux64Guest"},
		{vm.Linux, "rocky", "9", vm.AMD64, "8.0.2.0", "rockylinux_64Guest"},
		{vm.Linux, "opensuse-leap", "15.5", vm.AMD64, "8.0.2.0", "opensuse64Guest"},
		{vm.Linux, "sles", "15", vm.AMD64, "8.0.2.0", "sles15_64Guest"},
		{vm.Linux, "amzn", "2023", vm.AMD64, "8.0.2.0", "amazonlinux3_64Guest"},
		{vm.Linux, "hannah-montana", "1", vm.AMD64, "8.0.2.0", "other5xLinux64Guest"},
		{vm.Linux, "hannah-montana", "1", vm.AMD64, "6.7", "other4xLinux64Guest"},
		{vm.Linux, "", "", vm.I386, "6.7", "other4xLinuxGuest"},
		{vm.Windows, "windows-server", "2019", vm.AMD64, "7.0.3.0", "windows2019srv_64Guest"},
		{vm.Windows, "windows-server", "2022", vm.AMD64, "6.7", "windows9Server64Guest"},
		{vm.Windows, "windows-server", "2022", vm.AMD64, "7.0.3.0", "windows2019srvNext_64Guest"},
		{vm.Windows, "windows-server", "2025", vm.AMD64, "8.0.2.0", "windows2022srvNext_64Guest"},
		{vm.Windows, "windows-server", "2008 R2", vm.AMD64, "8.0.2.0", "windows7Server64Guest"},
		{vm.Windows, "windows-server", "2003", vm.I386, "8.0.2.0", "winNetEnterpriseGuest"},
		{vm.Windows, "windows-client", "11", vm.AMD64, "8.0.2.0", "windows11_64Guest"},
		{vm.Windows, "windows-client", "11", vm.AMD64, "7.0.3.0", "windows9_64Guest"},
		{vm.Windows, "windows-client", "10", vm.I386, "8.0.2.0", "windows9Guest"},
		{vm.BSD, "freebsd", "13.2", vm.AMD64, "8.0.2.0", "freebsd13_64Guest"},
		{vm.BSD, "freebsd", "9", vm.AMD64, "8.0.2.0", "freebsd64Guest"},
		{vm.BSD, "openbsd", "7", vm.AMD64, "8.0.2.0", "otherGuest64"},
		{"", "", "", vm.AMD64, "8.0.2.0", "otherGuest64"},
		{"", "", "", vm.I386, "8.0.2.0", "otherGuest"},
	} {
		m := &vm.Machine{Guest: vm.GuestOS{Family: c.family, Distribution: c.distro, Version: c.version, Arch: c.arch}}
		if got := selectGuestID(guestos.VMware(m), nil, c.api); got != c.want {
			t.Errorf("%s %s %s %s on API %s: %s, want %s", c.family, c.distro, c.version, c.arch, c.api, got, c.want)
		}
	}
	// Every identifier that can be chosen is one of the API's.
	for _, id := range guestos.VMwareIDs() {
		if id != "" && !knownGuestID(id) {
			t.Errorf("the API has no %s", id)
		}
	}
	for id := range since {
		if !knownGuestID(id) {
			t.Errorf("the API has no %s", id)
		}
	}
	// What the hosts support decides; the source's own identifier comes first.
	m := &vm.Machine{Platform: vm.VMware, Guest: vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", SourceID: "asianux9_64Guest"}}
	if got := selectGuestID(guestos.VMware(m), nil, "8.0.2.0"); got != "asianux9_64Guest" {
		t.Errorf("the source's own identifier becomes %s", got)
	}
	if got := selectGuestID(guestos.VMware(m), []string{"otherGuest64", "debian11_64Guest", "otherLinux64Guest"}, "8.0.2.0"); got != "debian11_64Guest" {
		t.Errorf("of those supported %s is chosen", got)
	}
	m.Guest.SourceID = "ubuntu; rm -rf /"
	if got := guestos.VMware(m)[0]; got != "debian12_64Guest" {
		t.Errorf("a nonsense identifier of the source leads to %s", got)
	}
}

func TestLeaseMatch(t *testing.T) {
	slots, err := assign([]vm.Disk{{Controller: vm.BusPVSCSI}, {Controller: vm.BusPVSCSI, Unit: 1}, {Controller: vm.BusIDE, ControllerNumber: 1}, {Controller: vm.BusSATA, ControllerNumber: 2, Unit: 11}}, vm.GuestOS{})
	if err != nil {
		t.Fatal(err)
	}
	unit := func(u int32) *int32 { return &u }
	disk := func(ctrl, u int32) *types.VirtualDisk {
		return &types.VirtualDisk{VirtualDevice: types.VirtualDevice{ControllerKey: ctrl, UnitNumber: unit(u)}}
	}
	// The platform lists devices in an order of its own.
	devices := []types.BaseVirtualDevice{
		newController(slots[0].kind, 1000, 0), newController(slots[3].kind, 15000, 2),
		&types.VirtualIDEController{VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: 201}, BusNumber: 1}},
		disk(15000, 11), disk(1000, 1), disk(201, 0), disk(1000, 0),
	}
	no := false
	for _, c := range []struct {
		name string
		keys []string
		want string // which key each of our disks gets; "" is an error
	}{
		{"by slot", []string{"/vm-7/VirtualIDEController1:0", "/vm-7/ParaVirtualSCSIController0:1", "/vm-7/VirtualAHCIController2:11", "/vm-7/ParaVirtualSCSIController0:0"}, "3 1 0 2"},
		{"by position", []string{"/vm-7/disk:0", "/vm-7/disk:1", "/vm-7/disk:2", "/vm-7/disk:3"}, "3 1 2 0"},
		{"an nvram besides", []string{"/vm-7/nvram", "/vm-7/disk:0", "/vm-7/disk:1", "/vm-7/disk:2", "/vm-7/disk:3"}, "4 2 3 1"},
		{"one missing", []string{"/vm-7/disk:0", "/vm-7/disk:1", "/vm-7/disk:2"}, ""},
		{"one twice", []string{"/vm-7/disk:0", "/vm-7/disk:1", "/vm-7/disk:2", "/vm-7/disk:2"}, ""},
		{"one too many", []string{"/vm-7/disk:0", "/vm-7/disk:1", "/vm-7/disk:2", "/vm-7/disk:3", "/vm-7/disk:4"}, ""},
		{"foreign slot", []string{"/vm-7/VirtualIDEController0:0"}, ""},
		{"nonsense", []string{"what", "/vm-7/disk:99999999999999999999", ""}, ""},
	} {
		l := &lease{c: &conn{cfg: &config{sdk: &url.URL{Host: "vc.example:443"}, trust: trust.New("")}}}
		for i, k := range c.keys {
			d := types.HttpNfcLeaseDeviceUrl{Key: k, Url: fmt.Sprintf("https://esx.example/nfc/%d", i)}
			if strings.HasSuffix(k, "nvram") {
				d.Disk = &no
			}
			l.info.DeviceUrl = append(l.info.DeviceUrl, d)
		}
		err := l.match(slots, devices)
		var got []string
		for _, d := range l.disks {
			if d.url != nil {
				got = append(got, strings.TrimPrefix(d.url.Path, "/nfc/"))
			}
		}
		if s := strings.Join(got, " "); c.want != "" && (err != nil || s != c.want) || c.want == "" && !target.IsPermanent(err) {
			t.Errorf("%s: %s, %v", c.name, s, err)
		}
	}
	l := &lease{c: &conn{cfg: &config{sdk: &url.URL{Host: "vc.example:8443"}, trust: trust.New("")}}}
	for in, want := range map[string]string{
		"https://*/nfc/52/disk-0.vmdk": "https://vc.example:8443/nfc/52/disk-0.vmdk",
		"https://esx.example/nfc/1":    "https://esx.example:443/nfc/1",
		"https://esx.example:902/n":    "https://esx.example:902/n",
		"http://esx.example/nfc/1":     "",
		"://":                          "",
		"/nfc/1":                       "",
	} {
		u, err := l.address(types.HttpNfcLeaseDeviceUrl{Url: in})
		if (err == nil) != (want != "") || err == nil && u.String() != want {
			t.Errorf("%s: %v, %v", in, u, err)
		}
	}
}

func TestMAC(t *testing.T) {
	for mac, want := range map[string]string{
		"00:50:56:01:02:03": "00:50:56:01:02:03", "52-54-00-AB-CD-EF": "52:54:00:ab:cd:ef", "": "",
		"01:00:5e:00:00:01": "error", "nonsense": "error", "00:11:22:33:44:55:66:77": "error",
	} {
		d, err := newNIC(vm.NIC{MAC: mac}, 0, nil)
		switch {
		case err != nil:
			if want != "error" || !target.IsPermanent(err) {
				t.Errorf("%s: %v", mac, err)
			}
		case d.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard().MacAddress != want:
			t.Errorf("%s becomes %s", mac, d.(types.BaseVirtualEthernetCard).GetVirtualEthernetCard().MacAddress)
		}
	}
	h := &hardware{machine: &vm.Machine{NICs: []vm.NIC{{MAC: "00:50:56:3f:00:00"}, {MAC: "00:50:56:80:00:01"}, {}, {MAC: "00:0c:29:00:00:01"}}}, order: &target.Order{Job: "j"}}
	got := map[string]any{}
	for _, o := range h.extraConfig() {
		got[o.GetOptionValue().Key] = o.GetOptionValue().Value
	}
	if len(got) != 3 || got[jobKey] != "j" || got["ethernet1.checkMACAddress"] != "FALSE" || got["ethernet3.checkMACAddress"] != "FALSE" {
		t.Errorf("extraConfig %v", got)
	}
}

func TestHardwareCheck(t *testing.T) {
	unit := int32(0)
	want := &vm.Machine{
		Name: "m", UUID: "4C4C4544-0051-4810-8057-b4c04f4d3732", CPU: vm.CPU{Sockets: 2, CoresPerSocket: 2, Threads: 2}, Memory: 1<<30 + 1,
		Firmware: vm.UEFI, SecureBoot: true, TPM: true, Disks: []vm.Disk{{Controller: vm.BusSATA}}, NICs: []vm.NIC{{MAC: "00:50:56:01:02:03"}},
	}
	slots, err := assign(want.Disks, want.Guest)
	if err != nil {
		t.Fatal(err)
	}
	h := &hardware{name: "m", slots: slots, machine: want, order: &target.Order{
		Job: "j", Disks: []target.DiskOrder{{Virtual: 1 << 20}}, Options: map[string]string{optUUID: "keep"}}}
	good := func() *types.VirtualMachineConfigInfo {
		nic := &types.VirtualVmxnet3{}
		nic.MacAddress = "00:50:56:01:02:03"
		return &types.VirtualMachineConfigInfo{
			Uuid: "4c4c4544-0051-4810-8057-b4c04f4d3732", Firmware: "efi",
			BootOptions: &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(true)},
			Hardware: types.VirtualHardware{NumCPU: 8, MemoryMB: 1028, Device: []types.BaseVirtualDevice{
				newController(slots[0].kind, 15000, 0),
				&types.VirtualDisk{VirtualDevice: types.VirtualDevice{ControllerKey: 15000, UnitNumber: &unit}, CapacityInBytes: 1 << 20},
				nic, &types.VirtualTPM{},
			}},
		}
	}
	if err := h.check(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*types.VirtualMachineConfigInfo){
		"processors":       func(c *types.VirtualMachineConfigInfo) { c.Hardware.NumCPU = 1 },
		"memory":           func(c *types.VirtualMachineConfigInfo) { c.Hardware.MemoryMB = 1024 },
		"firmware":         func(c *types.VirtualMachineConfigInfo) { c.Firmware = "bios" },
		"secure boot":      func(c *types.VirtualMachineConfigInfo) { c.BootOptions = nil },
		"UUID":             func(c *types.VirtualMachineConfigInfo) { c.Uuid = "0" },
		"disk 0":           func(c *types.VirtualMachineConfigInfo) { c.Hardware.Device = c.Hardware.Device[2:] },
		"size of disk":     func(c *types.VirtualMachineConfigInfo) { c.Hardware.Device[1].(*types.VirtualDisk).CapacityInBytes++ },
		"network adapters": func(c *types.VirtualMachineConfigInfo) { c.Hardware.Device = slices.Delete(c.Hardware.Device, 2, 3) },
		"address":          func(c *types.VirtualMachineConfigInfo) { c.Hardware.Device[2].(*types.VirtualVmxnet3).MacAddress = "" },
		"TPM":              func(c *types.VirtualMachineConfigInfo) { c.Hardware.Device = c.Hardware.Device[:3] },
	} {
		c := good()
		spoil(c)
		if err := h.check(c); !target.IsPermanent(err) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		fault types.BaseMethodFault
		kind  error
		says  string
	}{
		{&types.InvalidLogin{}, target.ErrPermanent, "wrong user name or password"},
		{&types.DuplicateName{}, target.ErrExists, "already"},
		{&types.NoPermission{PrivilegeId: "VApp.Import"}, target.ErrPermanent, "VApp.Import"},
		{&types.InvalidArgument{InvalidProperty: "spec.guestId"}, target.ErrPermanent, "spec.guestId"},
		{&types.NoDiskSpace{}, target.ErrPermanent, "full"},
		{&types.RestrictedVersion{}, target.ErrPermanent, "licence"},
		{&types.TaskInProgress{}, nil, "another task"},
		{&types.SystemError{}, nil, "SystemError"},
	} {
		err := translate(fmt.Errorf("wrapped: %w", &taskError{&types.LocalizedMethodFault{Fault: c.fault, LocalizedMessage: "the host said so."}}))
		if !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "the host said so") {
			t.Errorf("%T: %v", c.fault, err)
		}
		if target.IsPermanent(err) != (c.kind != nil) || c.kind != nil && !errors.Is(err, c.kind) {
			t.Errorf("%T: permanent %v: %v", c.fault, target.IsPermanent(err), err)
		}
		if faultOf(err) != c.fault {
			t.Errorf("%T is lost in translation", c.fault)
		}
		if again := translate(err); again != err {
			t.Errorf("%T: translated twice: %v", c.fault, again)
		}
	}
	secretURL := &url.Error{Op: "Post", URL: "https://esx/nfc/52-token/disk-0.vmdk", Err: errors.New("connection refused")}
	if got := translate(secretURL).Error(); strings.Contains(got, "token") || !strings.Contains(got, "refused") {
		t.Errorf("a broken transfer says %q", got)
	}
	if err := translate(fmt.Errorf("x: %w", context.Canceled)); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancellation becomes %v", err)
	}
	for code, kind := range map[int]error{
		200: nil, 201: nil, 404: target.ErrExpired, 403: target.ErrPermanent, 507: target.ErrPermanent, 405: target.ErrPermanent,
	} {
		err := statusProblem(&http.Response{StatusCode: code, Status: http.StatusText(code)}, "it")
		if kind == nil && err != nil || kind != nil && !errors.Is(err, kind) {
			t.Errorf("HTTP %d: %v", code, err)
		}
	}
	for _, code := range []int{500, 502, 503, 429, 408} {
		if err := statusProblem(&http.Response{StatusCode: code}, "it"); err == nil || target.IsPermanent(err) || errors.Is(err, target.ErrExpired) {
			t.Errorf("HTTP %d: %v", code, err)
		}
	}
}
