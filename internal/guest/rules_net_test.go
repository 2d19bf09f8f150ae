package guest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"ascend/internal/vm"
)

func TestParseAddress(t *testing.T) {
	for s, want := range map[string]string{
		"": "{false [] }", "keep": "{false [] }", "dhcp": "{true [] }", "192.0.2.9/24": "{false [192.0.2.9/24] }",
		"192.0.2.9/24,2001:db8::9/64,192.0.2.1": "{false [192.0.2.9/24 2001:db8::9/64] 192.0.2.1}",
		"192.0.2.9":                             "", "192.0.2.9/24,198.51.100.1": "", "192.0.2.9/24,192.0.2.1,192.0.2.8/24": "", "DHCP": "", "192.0.2.9/33": "", "$(x)": "",
	} {
		a, err := ParseAddress(s)
		if got := fmt.Sprint(a); (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%q: %s, %v", s, got, err)
		}
	}
}

// TestInterfaces decides for guests' interfaces and adapters.
func TestInterfaces(t *testing.T) {
	static := func(name, mac string) Interface {
		return Interface{Name: name, MAC: mac, Addresses: []string{"192.0.2.1/24"}, Source: "/f"}
	}
	a, b := "02:00:00:00:00:0a", "02:00:00:00:00:0b"
	for _, c := range []struct {
		name  string
		in    []Interface
		pins  map[string]string
		nics  []vm.NIC
		to    vm.Platform
		o     Choices
		wants string
	}{
		{"in order", []Interface{static("eth0", ""), static("eth1", "")}, nil, []vm.NIC{{MAC: a}, {MAC: b}}, vm.VMware, Choices{}, "nic-pin eth0 " + a + "; nic-pin eth1 " + b},
		{"by what they name", []Interface{static("eth0", b), static("eth1", "")}, nil, []vm.NIC{{MAC: a}, {MAC: b}}, vm.VMware, Choices{}, "nic-pin eth0 " + b + "; nic-pin eth1 " + a},
		{"two families are one adapter", []Interface{static("eth0", ""), {Name: "eth0", Source: "/f"}, static("eth1", "")}, nil, []vm.NIC{{MAC: a}, {MAC: b}}, vm.VMware, Choices{}, "nic-pin eth0 " + a + "; nic-pin eth1 " + b},
		{"bridges and VLANs are none", []Interface{static("br0", ""), static("eth0.7", ""), static("eth0", "")}, nil, []vm.NIC{{MAC: a}}, vm.VMware, Choices{}, "nic-pin eth0 " + a},
		{"bound already", []Interface{static("eth0", "")}, map[string]string{"eth0": a}, []vm.NIC{{MAC: a}}, vm.VMware, Choices{}, ""},
		{"bound to the old one", []Interface{static("eth0", b)}, map[string]string{"eth0": b}, []vm.NIC{{MAC: a}}, vm.VMware, Choices{}, "nic-pin eth0 " + a + "; nic-mac eth0 " + a},
		{"one, of an address not known", []Interface{static("eth0", "")}, nil, []vm.NIC{{Model: vm.VMXNET3}}, vm.VMware, Choices{}, "nic-pin eth0 vmxnet3"},
		{"two, of addresses not known", []Interface{static("eth0", ""), static("eth1", "")}, nil, []vm.NIC{{}, {}}, vm.VMware, Choices{}, "guest-static-address; guest-static-address"},
		{"the cloud's own", []Interface{static("eth0", "")}, nil, []vm.NIC{{Model: vm.ENA}}, vm.AWS, Choices{}, "nic-dhcp eth0; nic-pin eth0 ena"},
		{"DHCP", []Interface{static("eth0", "")}, nil, []vm.NIC{{MAC: a}}, vm.VMware, Choices{Addresses: []Address{{DHCP: true}}}, "nic-dhcp eth0; nic-pin eth0 " + a},
		{"another address", []Interface{{Name: "eth0", DHCP: true, Source: "/f"}}, nil, []vm.NIC{{MAC: a}}, vm.VMware, Choices{Addresses: []Address{{Static: []string{"192.0.2.9/24"}}}}, "nic-address eth0; nic-pin eth0 " + a},
		{"the address it has", []Interface{static("eth0", "")}, map[string]string{"eth0": a}, []vm.NIC{{MAC: a}}, vm.VMware, Choices{Addresses: []Address{{Static: []string{"192.0.2.1/24"}}}}, ""},
		{"more than there are", []Interface{static("eth0", "")}, map[string]string{"eth0": a}, []vm.NIC{{MAC: a}}, vm.VMware, Choices{Addresses: []Address{{}, {DHCP: true}}}, "guest-interface-unknown"},
		{"by a pattern", []Interface{{Name: "en*", DHCP: true, Source: "/f"}}, nil, []vm.NIC{{MAC: a}}, vm.VMware, Choices{}, ""},
	} {
		in := lin(drivers(Builtin, matrixModules()...), func(i *Inspection) {
			i.Roots[0].Interfaces, i.Roots[0].Linux.Pins = c.in, c.pins
		})
		d := Decide(in, Target{Platform: c.to, NICs: c.nics}, c.o)
		var got []string
		for _, x := range d.Changes {
			got = append(got, strings.TrimSpace(fmt.Sprint(string(x.Kind)+" "+x.Subject+" ", x.Args["mac"], x.Args["driver"])))
			if x.Kind == SetMAC {
				got[len(got)-1] = string(x.Kind) + " " + x.Subject + " " + x.Detail[0]
			}
		}
		for _, f := range d.Findings {
			if strings.HasPrefix(f.Code, "guest-static") || strings.HasPrefix(f.Code, "guest-interface") {
				got = append(got, f.Code)
			}
		}
		if s := strings.Join(got, "; "); s != c.wants {
			t.Errorf("%s: %s", c.name, s)
		}
	}
}

func TestPins(t *testing.T) {
	tree := treeOf(t, map[string]string{
		"etc/udev/rules.d/70-persistent-net.rules": "# x\nSUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"02:00:00:00:00:0A\", NAME=\"eth0\"\n",
		"etc/systemd/network/10-a.link":            "[Match]\nMACAddress=02:00:00:00:00:0b\n[Link]\nName=lan0\n",
		"etc/systemd/network/11-b.link":            "[Match]\nDriver=ena\n[Link]\nName=ens3\n",
		"etc/systemd/network/12-c.link":            "[Match]\nOriginalName=*\n[Link]\nNamePolicy=kernel\n",
	})
	got := pins(tree)
	if len(got) != 3 || got["eth0"] != "02:00:00:00:00:0a" || got["lan0"] != "02:00:00:00:00:0b" || got["ens3"] != "ena" {
		t.Errorf("%v", got)
	}
	units := treeOf(t, map[string]string{"lib/systemd/system/a.service": "x", "usr/lib/systemd/system/b.service": "x"})
	if u := services(units, []string{"a", "b", "c"}); !slices.Equal(u, []string{"a.service", "b.service"}) {
		t.Errorf("%v", u)
	}
}
