package guest

import (
	"slices"
	"strings"
	"testing"

	"ascend/internal/guest/part"
	"ascend/internal/guest/vfs"
	"ascend/internal/guest/winpack"
	"ascend/internal/guest/winpack/winpacktest"
	"ascend/internal/vm"
)

func lin(drivers map[string]Where, edit func(*Inspection)) *Inspection {
	in := &Inspection{
		BootDisk: 0, Firmware: vm.BIOS, BIOSBoots: true,
		Disks:   []DiskLayout{{Table: part.Table{Scheme: "gpt"}}},
		Volumes: []Volume{{ID: "r", MountedAt: []string{"/"}}},
		Roots: []Root{{Volume: "r", OS: vm.GuestOS{Family: vm.Linux, Arch: vm.AMD64}, Linux: &Linux{
			Init: "systemd", InitramfsTool: "dracut", Kernels: []Kernel{{Version: "6.1", Initrd: []string{"/i"}, Drivers: drivers, Default: true}},
		}}},
	}
	if edit != nil {
		edit(in)
	}
	return in
}

func win(major, minor int, services map[string]Service, edit func(*Inspection)) *Inspection {
	in := &Inspection{
		BootDisk: 0, Firmware: vm.BIOS, BIOSBoots: true, Disks: []DiskLayout{{Table: part.Table{Scheme: "mbr"}}},
		Roots: []Root{{Volume: "w", OS: vm.GuestOS{Distribution: "windows-server"}, Windows: &Windows{Major: major, Minor: minor, Build: map[int]string{1: "7601", 3: "9600"}[minor], Services: services, SystemHive: "/S", ControlSet: "ControlSet001"}}},
	}
	if major == 10 {
		in.Roots[0].Windows.Build = "20348"
	}
	if edit != nil {
		edit(in)
	}
	return in
}

// virtio is an operator's pack in virtio-win's layout.
func virtio(t *testing.T) *winpack.Pack {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"viostor", "vioscsi", "netkvm", "balloon"} {
		winpacktest.Driver(t, dir, d+"/2k19/amd64", d, "NTamd64.10.0", "1/1/2024,100.0.0.0")
	}
	winpacktest.Driver(t, dir, "viostor/2k8R2/amd64", "viostor", "NTamd64.6.1", "1/1/2020,80.0.0.0")
	p, err := winpack.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// static has an interface with an address.
func static(mac string) func(*Inspection) {
	return func(i *Inspection) {
		i.Roots[0].Interfaces = append(i.Roots[0].Interfaces, Interface{Name: "{1}", MAC: mac, Addresses: []string{"192.0.2.1/24"}})
	}
}

func drivers(w Where, ms ...string) map[string]Where {
	d := map[string]Where{}
	for _, m := range ms {
		d[m] = w
	}
	return d
}

func TestDecide(t *testing.T) {
	ide := drivers(InInitrd, "ata_piix", "sd_mod")
	all := drivers(OnDisk, matrixModules()...)
	inbox := map[string]Service{"lsi_sas": {Start: 3, File: true}, "stornvme": {Start: 3, Override: map[string]int{"0": 3}, File: true}, "storvsc": {Start: 3, File: true}, "vmbus": {Start: 3, File: true}, "storahci": {Start: 0, File: true}}
	for _, c := range []struct {
		name    string
		in      *Inspection
		to      vm.Platform
		bus     vm.Bus
		o       Choices
		verdict Verdict
		want    string // controller, kinds of changes and codes of findings, each once
	}{
		{"pvscsi on disk only", lin(all, nil), vm.VMware, "", Choices{}, BootsAdapted, "nvme initramfs-append initramfs-persist first-boot hardware-controller"},
		{"pvscsi insisted on", lin(all, nil), vm.VMware, vm.BusPVSCSI, Choices{}, BootsAdapted, "pvscsi initramfs-append initramfs-persist first-boot"},
		{"kvm", lin(all, nil), vm.CloudStack, "", Choices{}, BootsAdapted, "virtio-blk initramfs-append initramfs-persist first-boot"},
		{"ahv", lin(all, nil), vm.Nutanix, "", Choices{}, BootsAdapted, "sata initramfs-append initramfs-persist first-boot hardware-controller"},
		{"hyper-v gen1 is no IDE to Linux", lin(ide, nil), vm.HyperV, vm.BusIDE, Choices{}, BootsNot, "ide guest-driver-missing guest-nic-driver"},
		{"hyper-v", lin(all, nil), vm.HyperV, "", Choices{}, BootsAdapted, "vmbus-scsi initramfs-append initramfs-persist first-boot"},
		{"aws, nvme built in", lin(drivers(Builtin, "nvme", "ena"), nil), vm.AWS, "", Choices{}, Boots, "nvme"},
		{"aws without ena", lin(drivers(Builtin, "nvme"), nil), vm.AWS, "", Choices{}, Boots, "nvme guest-nic-driver"},
		{"azure", lin(drivers(Builtin, "hv_vmbus", "hv_storvsc", "sd_mod", "hv_netvsc"), nil), vm.Azure, "", Choices{}, Boots, "vmbus-scsi"},
		{"no driver at all", lin(nil, nil), vm.AWS, "", Choices{}, BootsNot, "nvme guest-driver-missing guest-nic-driver"},
		{"no initramfs tool", lin(all, func(i *Inspection) { i.Roots[0].Linux.InitramfsTool = "" }), vm.AWS, "", Choices{}, BootsAdapted, "nvme initramfs-append guest-no-initramfs-tool"},
		{"no initramfs", lin(all, func(i *Inspection) { i.Roots[0].Linux.Kernels[0].Initrd = nil }), vm.AWS, "", Choices{}, BootsNot, "nvme guest-no-initramfs"},
		{"unified image", lin(all, func(i *Inspection) { i.Roots[0].Linux.Kernels[0].UKI = true }), vm.AWS, "", Choices{}, CannotTell, "nvme guest-uki"},
		{"no fallback path", lin(drivers(Builtin, "nvme", "ena"), func(i *Inspection) {
			i.Firmware, i.UEFIBoots, i.ESP = vm.UEFI, true, &ESP{Loaders: []string{"/EFI/debian/shimx64.efi"}}
		}), vm.AWS, "", Choices{}, Boots, "nvme efi-fallback"},
		{"names of devices", lin(drivers(Builtin, "nvme", "ena"), func(i *Inspection) {
			i.Roots[0].Linux.DeviceNames = []Device{{File: "/etc/fstab", Name: "/dev/sda1", UUID: "u"}, {File: "/etc/fstab", Name: "/dev/sdz1"}}
		}), vm.AWS, "", Choices{}, Boots, "nvme device-name-to-uuid guest-device-name"},
		{"static address in the cloud", lin(drivers(Builtin, "nvme", "ena"), func(i *Inspection) {
			i.Roots[0].Interfaces = []Interface{{Name: "eth0", Addresses: []string{"192.0.2.1/24"}}}
		}), vm.AWS, "", Choices{}, Boots, "nvme nic-dhcp nic-pin"},
		{"static address kept", lin(drivers(Builtin, "nvme", "vmxnet3"), func(i *Inspection) {
			i.Roots[0].Interfaces = []Interface{{Name: "eth0", MAC: "02:00:00:00:00:01", Addresses: []string{"192.0.2.1/24"}}, {Name: "eth1", Addresses: []string{"192.0.2.2/24"}}}
		}), vm.VMware, vm.BusNVMe, Choices{}, Boots, "nvme nic-pin guest-static-address"},
		{"encrypted root", lin(all, func(i *Inspection) { i.Roots[0].Linux.EncryptedRoot = true }), vm.AWS, "", Choices{}, BootsAdapted, "nvme initramfs-append initramfs-persist first-boot guest-encrypted"},
		{"full file system", lin(all, func(i *Inspection) { i.Volumes[0].Super = super(1<<20, 5) }), vm.AWS, "", Choices{}, BootsAdapted, "nvme initramfs-append initramfs-persist first-boot guest-no-space guest-no-inodes"},
		{"agents and cloud-init", lin(drivers(Builtin, "nvme", "ena"), func(i *Inspection) {
			i.Roots[0].Agents = []Agent{{Name: "open-vm-tools", Platform: vm.VMware}, {Name: "amazon-ssm-agent", Platform: vm.AWS}}
			i.Roots[0].Linux.AgentUnits = map[string][]string{"open-vm-tools": {"vgauth.service"}, "amazon-ssm-agent": {"amazon-ssm-agent.service"}}
			i.Roots[0].Linux.CloudInit = []string{"VMware"}
		}), vm.AWS, "", Choices{}, Boots, "nvme agent-disable cloud-init-datasource"},
		{"32-bit on azure", lin(drivers(Builtin, "nvme"), func(i *Inspection) { i.Roots[0].OS.Arch = vm.I386 }), vm.Azure, vm.BusNVMe, Choices{}, Boots, "nvme guest-nic-driver guest-32-bit"},
		{"two systems", lin(drivers(Builtin, "nvme", "ena"), func(i *Inspection) { i.Roots = append(i.Roots, i.Roots[0]) }), vm.AWS, "", Choices{}, Boots, "nvme guest-several-systems"},
		{"no system", &Inspection{BootDisk: -1}, vm.VMware, "", Choices{}, CannotTell, "pvscsi guest-no-boot-loader guest-unknown-os"},
		{"locked", &Inspection{BootDisk: -1, Gaps: []Gap{{Code: "luks"}, {Code: "bitlocker"}}}, vm.VMware, "", Choices{}, CannotTell, "pvscsi guest-no-boot-loader guest-encrypted guest-bitlocker guest-unknown-os"},
		{"firmware", lin(drivers(Builtin, "nvme", "ena"), func(i *Inspection) { i.Firmware = vm.UEFI }), vm.AWS, "", Choices{}, Boots, "nvme guest-firmware"},
		{"windows 2008 R2 on VMware", win(6, 1, map[string]Service{"lsi_sas": {Start: 3, File: true}}, nil), vm.VMware, "", Choices{}, BootsAdapted, "lsilogic-sas service-boot-start guest-nic-driver hardware-controller"},
		{"windows 2012 R2 on AWS", win(6, 3, inbox, nil), vm.AWS, "", Choices{}, BootsAdapted, "nvme service-boot-start guest-nic-driver"},
		{"windows 2022 on Hyper-V", win(10, 0, inbox, nil), vm.HyperV, "", Choices{}, BootsAdapted, "vmbus-scsi service-boot-start"},
		{"windows 2022 on VMware boots by AHCI", win(10, 0, inbox, nil), vm.VMware, "", Choices{}, Boots, "sata guest-nic-driver hardware-controller"},
		{"windows on virtio without a pack", win(10, 0, inbox, nil), vm.CloudStack, vm.BusVirtioBlk, Choices{}, BootsNot, "virtio-blk guest-driver-missing guest-nic-driver"},
		{"windows on virtio with a pack", win(10, 0, inbox, nil), vm.CloudStack, vm.BusVirtioBlk, Choices{Pack: virtio(t)}, BootsAdapted, "virtio-blk driver-install first-boot"},
		{"windows 2022 on virtio-scsi, incomplete pack", win(10, 0, inbox, nil), vm.Nutanix, vm.BusVirtioSCSI, Choices{Pack: virtio(t)}, BootsAdapted, "virtio-scsi driver-install first-boot"},
		{"windows 2008 R2 on virtio", win(6, 1, map[string]Service{}, nil), vm.CloudStack, vm.BusVirtioBlk, Choices{Pack: virtio(t)}, BootsAdapted, "virtio-blk driver-install guest-nic-driver"},
		{"windows 2012 R2 finds nothing in the pack", win(6, 3, map[string]Service{}, nil), vm.CloudStack, vm.BusVirtioBlk, Choices{Pack: virtio(t)}, BootsNot, "virtio-blk guest-driver-missing guest-nic-driver"},
		{"windows 2008 R2 by AHCI", win(6, 1, map[string]Service{"msahci": {Start: 3, File: true}}, nil), vm.VMware, vm.BusSATA, Choices{}, BootsAdapted, "sata service-boot-start guest-nic-driver"},
		{"an override alone", win(10, 0, map[string]Service{"storahci": {Start: 0, Override: map[string]int{"0": 3}, File: true}}, nil), vm.VMware, vm.BusSATA, Choices{}, BootsAdapted, "sata service-boot-start guest-nic-driver"},
		{"further disks", win(10, 0, inbox, func(i *Inspection) { i.Disks = append(i.Disks, DiskLayout{}) }), vm.VMware, vm.BusSATA, Choices{}, Boots, "sata registry-set first-boot guest-nic-driver"},
		{"further disks, online already", win(10, 0, inbox, func(i *Inspection) {
			one := 1
			i.Disks, i.Roots[0].Windows.SANPolicy = append(i.Disks, DiskLayout{}), &one
		}), vm.VMware, vm.BusSATA, Choices{}, Boots, "sata guest-nic-driver"},
		{"tools of VMware", win(10, 0, map[string]Service{"storvsc": {Start: 0, File: true}, "vmbus": {Start: 0, File: true}, "vmtools": {Start: 2}, "pvscsi": {Start: 0, File: true}}, func(i *Inspection) {
			i.Roots[0].Agents = []Agent{{Name: "vmware-tools", Platform: vm.VMware}}
		}), vm.HyperV, "", Choices{}, Boots, "vmbus-scsi agent-disable"},
		{"tools of VMware, disabled already", win(10, 0, map[string]Service{"storvsc": {Start: 0, File: true}, "vmbus": {Start: 0, File: true}, "vmtools": {Start: 4}}, func(i *Inspection) {
			i.Roots[0].Agents = []Agent{{Name: "vmware-tools", Platform: vm.VMware}}
		}), vm.HyperV, "", Choices{}, Boots, "vmbus-scsi"},
		{"windows with a static address in the cloud", win(10, 0, inbox, static("")), vm.Azure, "", Choices{}, BootsAdapted, "vmbus-scsi service-boot-start nic-dhcp"},
		{"windows with a static address and no adapter", win(10, 0, inbox, static("")), vm.HyperV, "", Choices{}, BootsAdapted, "vmbus-scsi service-boot-start guest-static-address"},
		{"windows with another name", win(10, 0, map[string]Service{"storvsc": {Start: 0, File: true}, "vmbus": {Start: 0, File: true}}, nil), vm.HyperV, "", Choices{Hostname: "new"}, Boots, "vmbus-scsi hostname"},
		{"a member of a domain with another name", win(10, 0, map[string]Service{"storvsc": {Start: 0, File: true}, "vmbus": {Start: 0, File: true}, "netlogon": {Start: 2}}, nil), vm.HyperV, "", Choices{Hostname: "new"}, Boots, "vmbus-scsi hostname guest-domain-member"},
		{"unreadable registry", win(10, 0, map[string]Service{}, func(i *Inspection) { i.Gaps = []Gap{{Code: "registry", Where: "w/S", Reason: "damaged"}} }), vm.HyperV, "", Choices{}, BootsNot, "vmbus-scsi guest-registry guest-driver-missing"},
		{"full volume", win(10, 0, inbox, func(i *Inspection) {
			i.Volumes = []Volume{{ID: "w", Super: &vfs.Super{Type: "ntfs", Free: 1 << 20}}}
		}), vm.HyperV, "", Choices{}, BootsAdapted, "vmbus-scsi service-boot-start guest-no-space"},
		{"hibernated", win(10, 0, inbox, func(i *Inspection) { i.Roots[0].Windows.Hibernated = true }), vm.HyperV, "", Choices{}, BootsAdapted, "vmbus-scsi service-boot-start guest-hibernated"},
		{"windows on GPT by BIOS", win(10, 0, inbox, func(i *Inspection) { i.Disks[0].Scheme = "gpt" }), vm.HyperV, "", Choices{}, BootsAdapted, "vmbus-scsi service-boot-start guest-windows-gpt-bios"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := Decide(c.in, Target{Platform: c.to, Controller: c.bus}, c.o)
			got := []string{string(a.Controller)}
			for _, x := range a.Changes {
				got = append(got, string(x.Kind))
			}
			for _, f := range a.Findings {
				got = append(got, f.Code)
			}
			slices.Sort(got)
			got = slices.Compact(got)
			want := strings.Fields(c.want)
			slices.Sort(want)
			if !slices.Equal(got, want) || a.Boot.Verdict != c.verdict {
				t.Errorf("%s (%s): %v\nwant %s: %v", a.Boot.Verdict, a.Boot.Reason, got, c.verdict, want)
			}
		})
	}
}

func super(free, inodes int64) *vfs.Super {
	return &vfs.Super{Type: "ext4", Free: free, FreeInodes: inodes}
}

// TestWindowsAddresses: static addresses follow the adapter's MAC address, and are
// set on no adapter that is not certainly theirs.
func TestWindowsAddresses(t *testing.T) {
	one, two := vm.NIC{MAC: "52:54:00:00:00:01"}, vm.NIC{MAC: "52:54:00:00:00:02"}
	both := func(i *Inspection) { static("52:54:00:00:00:02")(i); static("")(i) }
	for _, c := range []struct {
		name   string
		edit   func(*Inspection)
		to     vm.Platform
		nics   []vm.NIC
		want   string // MAC addresses of the changes
		unsure int
	}{
		{"kept MAC", static("52:54:00:00:00:02"), vm.HyperV, []vm.NIC{one, two}, "[52:54:00:00:00:02]", 0},
		{"one adapter with a new MAC", static("52:54:00:00:00:02"), vm.HyperV, []vm.NIC{{}}, "[]", 0},
		{"two adapters with new MACs", static("52:54:00:00:00:02"), vm.HyperV, []vm.NIC{{}, {}}, "", 1},
		{"one known, one not", both, vm.HyperV, []vm.NIC{one, two}, "[52:54:00:00:00:02]", 1},
		{"from VMware to VMware", static("52:54:00:00:00:02"), vm.VMware, []vm.NIC{{MAC: "52:54:00:00:00:02", Model: vm.VMXNET3}}, "", 0},
		{"from VMware to VMware, another model", static("52:54:00:00:00:02"), vm.VMware, []vm.NIC{{MAC: "52:54:00:00:00:02", Model: vm.E1000}}, "[52:54:00:00:00:02]", 0},
		{"two addresses for one adapter", func(i *Inspection) { static("")(i); static("")(i) }, vm.HyperV, []vm.NIC{one}, "[52:54:00:00:00:01]", 1},
	} {
		in := win(10, 0, map[string]Service{}, c.edit)
		in.Roots[0].Windows.VMwareTools = true
		a := Decide(in, Target{Platform: c.to, NICs: c.nics}, Choices{})
		got, unsure := "", 0
		for _, x := range a.Changes {
			if x.Kind == FirstBoot {
				got += "[" + x.Args["mac"] + "]"
			}
		}
		for _, f := range a.Findings {
			if f.Code == "guest-static-address" {
				unsure++
			}
		}
		if got != c.want || unsure != c.unsure {
			t.Errorf("%s: %s, %d not set", c.name, got, unsure)
		}
	}
}

// TestWindowsAddressesAskedFor: what is asked for stands above what the guest has.
func TestWindowsAddressesAskedFor(t *testing.T) {
	nics := []vm.NIC{{MAC: "52:54:00:00:00:01"}, {MAC: "52:54:00:00:00:02"}}
	wish := Address{Static: []string{"192.0.2.77/24"}, Gateway: "192.0.2.254"}
	for _, c := range []struct {
		name string
		o    Choices
		want string
	}{
		{"of another adapter", Choices{Addresses: []Address{wish}}, "first-boot 52:54:00:00:00:02 192.0.2.1/24 gateway ; first-boot 52:54:00:00:00:01 192.0.2.77/24 gateway 192.0.2.254; "},
		{"of the same adapter", Choices{Addresses: []Address{{}, wish}}, "first-boot 52:54:00:00:00:02 192.0.2.77/24 gateway 192.0.2.254; "},
		{"DHCP", Choices{Addresses: []Address{{}, {DHCP: true}}}, "nic-dhcp  192.0.2.1/24 gateway ; "},
		{"DHCP of the other", Choices{Addresses: []Address{{DHCP: true}}}, "first-boot 52:54:00:00:00:02 192.0.2.1/24 gateway ; "},
		{"IPv6", Choices{Addresses: []Address{{}, {Static: []string{"2001:db8::1/64"}}}}, ""},
		{"of no adapter", Choices{Addresses: []Address{{}, {}, wish}}, "first-boot 52:54:00:00:00:02 192.0.2.1/24 gateway ; "},
	} {
		got := ""
		for _, x := range Decide(win(10, 0, map[string]Service{}, static("52:54:00:00:00:02")), Target{Platform: vm.HyperV, NICs: nics}, c.o).Changes {
			got += string(x.Kind) + " " + x.Args["mac"] + " " + strings.Join(x.Detail, " ") + " gateway " + x.Args["gateway"] + "; "
		}
		if got != c.want {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestSerialMAC(t *testing.T) {
	for device, want := range map[string]string{
		`PCI\VEN_15AD&DEV_07B0&SUBSYS_07B015AD&REV_01\FF565000B37984FE00`: "00:50:56:84:79:b3",
		`PCI\VEN_15AD&DEV_07B0&SUBSYS_07B015AD&REV_01\4&2B7C36E&0&00A8`:   "",
		`FF565000B37984FE00`: "00:50:56:84:79:b3", `x\00565000B37984FE00`: "", "": "",
	} {
		if got := serialMAC(device); got != want {
			t.Errorf("%s: %q", device, got)
		}
	}
}
