package adapt

import (
	"net/netip"
	"testing"
)

// TestAddresses has each kind of file say "by DHCP", and two new addresses with the
// gateway that stood there, which serves them.
func TestAddresses(t *testing.T) {
	static := addresses{static: []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24"), netip.MustParsePrefix("2001:db8::9/64")}}
	for file, c := range map[string][3]string{
		"/etc/network/interfaces": {
			"auto lo\niface lo inet loopback\nauto ens3\niface ens3 inet static\n  address 192.0.2.1/24\n  gateway 192.0.2.254\n  mtu 9000\niface ens3 inet6 auto\n",
			"auto lo\niface lo inet loopback\nauto ens3\niface ens3 inet dhcp\n  mtu 9000\niface ens3 inet6 auto\n",
			"auto lo\niface lo inet loopback\nauto ens3\niface ens3 inet6 static\n\taddress 2001:db8::9/64\niface ens3 inet static\n\taddress 192.0.2.9/24\n\tgateway 192.0.2.254\n  mtu 9000\niface ens3 inet6 auto\n",
		},
		"/etc/sysconfig/network-scripts/ifcfg-ens3": {
			"DEVICE=ens3\nBOOTPROTO=none\nIPADDR0=192.0.2.1\nPREFIX=24\nGATEWAY=\"192.0.2.254\"\nDNS1=192.0.2.53\nONBOOT=yes", "DEVICE=ens3\nONBOOT=yes\nBOOTPROTO=dhcp\n",
			"DEVICE=ens3\nDNS1=192.0.2.53\nONBOOT=yes\nBOOTPROTO=static\nIPADDR=192.0.2.9\nPREFIX=24\nGATEWAY=192.0.2.254\nIPV6INIT=yes\nIPV6ADDR=2001:db8::9/64\n",
		},
		"/etc/NetworkManager/system-connections/a.nmconnection": {
			"[connection]\nid=a\n[ipv4]\naddress1=192.0.2.1/24,192.0.2.254\ndns=192.0.2.53\nmethod=manual\n[ipv6]\nmethod=ignore\n",
			"[connection]\nid=a\n[ipv4]\nmethod=auto\n[ipv6]\nmethod=ignore\n",
			"[connection]\nid=a\n[ipv4]\nmethod=manual\naddress1=192.0.2.9/24,192.0.2.254\ndns=192.0.2.53\n[ipv6]\nmethod=manual\naddress1=2001:db8::9/64\n",
		},
		"/etc/systemd/network/a.network": {
			"[Match]\nName=ens3\n[Network]\nAddress=192.0.2.1/24\nDNS=192.0.2.53\n[Route]\nGateway=192.0.2.254\n[Route]\nDestination=198.51.100.0/24\nGateway=192.0.2.7\n",
			"[Match]\nName=ens3\n[Network]\nDHCP=yes\n[Route]\nDestination=198.51.100.0/24\nGateway=192.0.2.7\n",
			"[Match]\nName=ens3\n[Network]\nAddress=192.0.2.9/24\nAddress=2001:db8::9/64\nGateway=192.0.2.254\nDNS=192.0.2.53\n[Route]\nDestination=198.51.100.0/24\nGateway=192.0.2.7\n",
		},
		"/etc/netplan/50-cloud-init.yaml": {
			"# made by hand\nnetwork:\n  version: 2\n  ethernets:\n    ens3:\n      mtu: 9000\n      addresses: [192.0.2.1/24]\n      routes:\n      - to: default\n        via: 192.0.2.254\n      nameservers:\n        addresses: [192.0.2.53]\n    ens4:\n      dhcp4: true\n",
			"# made by hand\nnetwork:\n  version: 2\n  ethernets:\n    ens3:\n      mtu: 9000\n      dhcp4: true\n    ens4:\n      dhcp4: true\n",
			"# made by hand\nnetwork:\n  version: 2\n  ethernets:\n    ens3:\n      mtu: 9000\n      nameservers:\n        addresses:\n        - 192.0.2.53\n      dhcp4: false\n      addresses:\n      - 192.0.2.9/24\n      - 2001:db8::9/64\n      routes:\n      - to: default\n        via: 192.0.2.254\n    ens4:\n      dhcp4: true\n",
		},
	} {
		for i, want := range []addresses{{}, static} {
			got, err := rewriter(file)(c[0], "ens3", want)
			if err != nil || got != c[1+i] {
				t.Errorf("%s: %v\n%q\nwant\n%q", file, err, got, c[1+i])
			}
			again, err := rewriter(file)(got, "ens3", want)
			if err != nil || again != got && i == 0 {
				t.Errorf("%s, once more: %v\n%q", file, err, again)
			}
		}
	}
	// A gateway of another network does not serve the new addresses.
	elsewhere := addresses{static: []netip.Prefix{netip.MustParsePrefix("198.51.100.9/24")}, gateway: netip.MustParseAddr("198.51.100.1")}
	if got := editInterfaces("iface ens3 inet static\n address 192.0.2.1/24\n gateway 192.0.2.254\n", "ens3", elsewhere); got != "iface ens3 inet static\n\taddress 198.51.100.9/24\n\tgateway 198.51.100.1\n" {
		t.Errorf("%q", got)
	}
	if rewriter("/etc/conf.d/net") != nil {
		t.Error("a file that is not known")
	}
	if _, err := editNetplan("network: {ethernets: {a: {dhcp4: true}}}", "b", addresses{}); err == nil {
		t.Error("an adapter that is not there")
	}
}
