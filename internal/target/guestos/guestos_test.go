package guestos

import (
	"slices"
	"testing"

	"ascend/internal/vm"
)

func TestFor(t *testing.T) {
	linux := vm.GuestOS{Family: vm.Linux, Distribution: "rhel", Version: "9.4", Arch: vm.AMD64}
	win := vm.GuestOS{Family: vm.Windows, Distribution: "windows-server", Version: "2019", Arch: vm.AMD64}
	for _, c := range []struct {
		p     vm.Platform
		m     vm.Machine
		first string
		last  string
	}{
		{vm.VMware, vm.Machine{Guest: linux}, "rhel9_64Guest", "otherGuest"},
		{vm.Azure, vm.Machine{Guest: win}, "Windows", "Windows"},
		{vm.Azure, vm.Machine{}, "Linux", "Linux"},
		{vm.AWS, vm.Machine{Guest: win}, "windows", "windows"},
		{vm.CloudStack, vm.Machine{Guest: linux}, "Red Hat Enterprise Linux 9.4 (64-bit)", "Other (64-bit)"},
		{vm.CloudStack, vm.Machine{Guest: vm.GuestOS{Family: vm.Linux, Distribution: "ubuntu", Version: "22.04"}}, "Ubuntu 22.04 (64-bit)", "Other (64-bit)"},
		{vm.CloudStack, vm.Machine{Guest: win}, "Windows Server 2019 (64-bit)", "Other (64-bit)"},
		{vm.CloudStack, vm.Machine{Guest: vm.GuestOS{Arch: vm.I386}}, "Other (32-bit)", "Other (32-bit)"},
		{vm.HyperV, vm.Machine{Guest: win, Firmware: vm.UEFI, SecureBoot: true}, "MicrosoftWindows", "MicrosoftWindows"},
		{vm.HyperV, vm.Machine{Guest: linux, Firmware: vm.UEFI, SecureBoot: true}, "MicrosoftUEFICertificateAuthority", "MicrosoftUEFICertificateAuthority"},
		{vm.HyperV, vm.Machine{Guest: linux, Firmware: vm.BIOS}, "", ""},
		{vm.Nutanix, vm.Machine{Guest: linux}, "", ""},
	} {
		ids := append(For(c.p, &c.m), "")
		if ids[0] != c.first || ids[max(len(ids)-2, 0)] != c.last {
			t.Errorf("%s %+v: %q", c.p, c.m.Guest, ids)
		}
		if s := slices.Clone(ids); len(slices.Compact(s)) != len(ids) {
			t.Errorf("%s: %q", c.p, ids)
		}
	}
}

func TestPick(t *testing.T) {
	c := CloudStack(vm.GuestOS{Family: vm.Linux, Distribution: "rocky", Version: "9.3"})
	if got := Pick(c, []string{"Other Linux (64-bit)", "rocky linux 9", "Rocky Linux 8"}); got != "rocky linux 9" {
		t.Error(got)
	}
	if got := Pick(c, []string{"Windows 10"}); got != "" {
		t.Error(got)
	}
}
