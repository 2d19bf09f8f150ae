package guest

import (
	"slices"
	"testing"
)

func TestNetworkFormats(t *testing.T) {
	key, ok := keyfile("[connection]\ntype=ethernet\ninterface-name=ens1\n[ipv4]\nmethod=manual\naddress1=192.0.2.7/24,192.0.2.1\ndns=192.0.2.53;\n[ethernet]\nmac-address=02:00:00:00:00:0A\n", "k")
	netd, ok2 := networkd("[Match]\nMACAddress=02:00:00:00:00:0a\n[Network]\nAddress=192.0.2.7/24\nGateway=192.0.2.1\nDNS=192.0.2.53\n", "n")
	if !ok || !ok2 {
		t.Fatal("not recognised")
	}
	for name, i := range map[string]Interface{
		"keyfile": key, "networkd": netd,
		"netplan": netplan("network:\n  version: 2\n  ethernets:\n    a:\n      match: {macaddress: '02:00:00:00:00:0A'}\n      dhcp4: false\n      addresses: [192.0.2.7/24]\n      routes: [{to: default, via: 192.0.2.1}]\n      nameservers: {addresses: [192.0.2.53]}\n", "p")[0],
		"ifcfg":   ifcfg("DEVICE=eth0\nHWADDR=\"02:00:00:00:00:0A\"\nBOOTPROTO=none\nIPADDR=192.0.2.7\nNETMASK=255.255.255.0\nGATEWAY=192.0.2.1\nDNS1=192.0.2.53\n", "eth0", "i"),
	} {
		if i.MAC != "02:00:00:00:00:0a" || i.DHCP || !slices.Equal(i.Addresses, []string{"192.0.2.7/24"}) || !slices.Equal(i.Gateways, []string{"192.0.2.1"}) || !slices.Equal(i.DNS, []string{"192.0.2.53"}) {
			t.Errorf("%s: %+v", name, i)
		}
	}
	if len(netplan("network: [", "p")) != 0 {
		t.Error("broken netplan")
	}
}
