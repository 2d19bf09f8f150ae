package plan

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/prices"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

// headed is a disk of zeros after a few bytes.
type headed struct {
	blank
	head []byte
}

func (d headed) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(d.head)) {
		copy(p, d.head[off:])
	}
	return len(p), nil
}

// mbrHead and gptHead are the starts of disks with a partition table.
func mbrHead() []byte {
	b := make([]byte, 1024)
	b[0], b[510], b[511] = 0xeb, 0x55, 0xaa
	return b
}

func gptHead(types ...[]byte) []byte {
	b := make([]byte, 1024+128*128)
	b[510], b[511] = 0x55, 0xaa
	copy(b[512:], "EFI PART")
	binary.LittleEndian.PutUint64(b[512+72:], 2)
	binary.LittleEndian.PutUint32(b[512+84:], 128)
	for i, t := range types {
		copy(b[1024+128*i:], t)
	}
	return b
}

func setHead(r *Request, i int, head []byte) {
	r.Sources[i].Image = headed{blank(r.Sources[i].Info.Size), head}
}

// on makes the request one for a platform as its table has it.
func on(r *Request, p vm.Platform) {
	c := caps.For(p)
	r.Caps, r.Target.Platform = c, p
	r.Inventory = &target.Inventory{Networks: []target.Place{{Name: "prod"}}, Places: map[string][]target.Place{}, Permissions: []target.Permission{{Name: "all", Granted: true}},
		Quotas: []target.Quota{{Kind: "cpus", Name: "processors", Limit: -1}}, Region: map[vm.Platform]string{vm.AWS: "us-east-1", vm.Azure: "eastus"}[p]}
	r.Prices = prices.Builtin()
	r.Machine.Guest.Family, r.Machine.Guest.Distribution, r.Machine.Guest.Version = vm.Linux, "debian", "12"
	for _, f := range c.Fields {
		if f.Required && f.Name != caps.InstanceType && f.Name != caps.VMSize {
			if r.Placement.Fields == nil {
				r.Placement.Fields = map[string]string{}
			}
			r.Placement.Fields[f.Name] = "any"
		}
	}
	r.Machine.Disks[1].Controller, r.Machine.Disks[0].Controller = "", ""
	r.Guest = &GuestFacts{Roots: 1, Initramfs: "dracut", EFIFallback: true}
}

func to(p vm.Platform, f func(r *Request)) func(r *Request) {
	return func(r *Request) {
		on(r, p)
		if f != nil {
			f(r)
		}
	}
}

// guest is a request for VMware with facts of the guest.
func guest(f func(g *GuestFacts)) func(r *Request) {
	return to(vm.VMware, func(r *Request) { f(r.Guest) })
}

func win(r *Request, version string) {
	r.Machine.Guest = vm.GuestOS{Family: vm.Windows, Distribution: "windows-server", Version: version, Arch: vm.AMD64}
}

func no() *bool  { return new(bool) }
func yes() *bool { b := true; return &b }

type ruleCase struct {
	code  string
	find  func(r *Request)
	spare func(r *Request)
	text  string // part of the sentence
}

var ruleCases = []ruleCase{
	// disks
	{"no-disks", func(r *Request) { setDisks(r) }, func(r *Request) { setDisks(r, 1<<20) }, "no disks"},
	{"zero-size-disk", func(r *Request) { setDisks(r, 1<<20, 0) }, func(r *Request) { setDisks(r, 512) }, "disk 1 has no size"},
	{"empty-disk", func(r *Request) { r.Sources[1].Info.Allocated = 0 }, func(r *Request) { r.Sources[1].Info.Allocated = 1 }, "disk 3 holds no data"},
	{"disk-count", func(r *Request) { setDisks(r, 1<<20, 1<<20, 1<<20) }, func(r *Request) { setDisks(r, 1<<20, 1<<20) }, "3 disks and the target takes 2"},
	{"disk-count", to(vm.CloudStack, func(r *Request) { setDisks(r, slices.Repeat([]int64{1 << 20}, 27)...) }), to(vm.CloudStack, func(r *Request) { setDisks(r, slices.Repeat([]int64{1 << 20}, 26)...) }), "27 disks"},
	{"disk-size", func(r *Request) { setDisks(r, vm.TiB+512) }, func(r *Request) { setDisks(r, vm.TiB) }, "the target takes 1.00 TiB"},
	{"boot-disk-size", to(vm.Azure, func(r *Request) { setDisks(r, 2*vm.TiB+vm.MiB) }), to(vm.Azure, func(r *Request) { setDisks(r, 2*vm.TiB) }), "generation 1 starts from 2.00 TiB"},
	{"boot-disk-size", to(vm.Azure, func(r *Request) { setDisks(r, 4*vm.TiB); r.Machine.Firmware = vm.UEFI }), to(vm.Azure, func(r *Request) { setDisks(r, 4095*vm.GiB); r.Machine.Firmware = vm.UEFI }), "generation 2"},
	{"boot-disk-mbr", to(vm.VMware, func(r *Request) { setDisks(r, 3*vm.TiB); setHead(r, 0, mbrHead()) }), to(vm.VMware, func(r *Request) { setDisks(r, 2*vm.TiB); setHead(r, 0, mbrHead()) }), "2 TiB"},
	{"boot-disk-mbr", to(vm.AWS, func(r *Request) { setDisks(r, 3*vm.TiB); setHead(r, 0, mbrHead()) }), to(vm.AWS, func(r *Request) { setDisks(r, 3*vm.TiB); setHead(r, 0, gptHead(guidBIOSBoot)) }), "MBR"},
	{"bios-gpt", to(vm.VMware, func(r *Request) { setHead(r, 0, gptHead(guidESP)) }), to(vm.VMware, func(r *Request) { setHead(r, 0, gptHead(guidBIOSBoot)) }), "without a BIOS boot partition"},
	{"bios-gpt", to(vm.VMware, func(r *Request) { win(r, "2019"); setHead(r, 0, gptHead(guidBIOSBoot)) }), to(vm.VMware, func(r *Request) { win(r, "2019"); setHead(r, 0, mbrHead()) }), "Windows starts by BIOS from an MBR only"},
	{"disk-format-limit", func(r *Request) {
		setDisks(r, 3*vm.TiB)
		r.Format = &image.Format{Name: "vpc", Subformat: "dynamic"}
	}, func(r *Request) {
		setDisks(r, vm.TiB)
		r.Format = &image.Format{Name: "vpc", Subformat: "dynamic"}
	}, "vpc/dynamic"},
	{"disk-padded", func(r *Request) { r.Caps.Deliveries[0].Align = 16 << 20 }, func(r *Request) { r.Caps.Deliveries[0].Align = 4 << 20 }, "from 8388608 to 16777216"},
	{"sector-size", to(vm.VMware, func(r *Request) { r.Machine.Disks[1].SectorSize = 4096 }), to(vm.VMware, func(r *Request) { r.Machine.Disks[1].SectorSize = 512 }), "4096"},
	{"shared-disk", func(r *Request) { r.Machine.Disks[1].Shared = true }, func(r *Request) { r.Machine.Disks[1].ReadOnly = true }, "disk 3 was shared"},
	{"independent-disk", func(r *Request) { r.Machine.Disks[1].Independent = true }, func(*Request) {}, "disk 3"},
	{"raw-device-disk", func(r *Request) { r.Machine.Disks[1].RawDevice = true }, func(*Request) {}, "disk 3"},
	{"boot-disk", func(r *Request) { r.Machine.Disks[1].Boot = true }, func(r *Request) { r.Machine.Disks[0].Boot = true }, "disk 3"},
	{"aws-import-volumes", to(vm.AWS, func(r *Request) { win(r, "2019"); setDisks(r, slices.Repeat([]int64{vm.GiB}, 22)...) }), to(vm.AWS, func(r *Request) { win(r, "2019"); setDisks(r, slices.Repeat([]int64{vm.GiB}, 21)...) }), "22 disks"},
	{"source-note", func(r *Request) { r.Sources[1].Info.Notes = []string{"log replayed"} }, func(r *Request) { r.Sources[1].Info.Notes = nil }, "disk 3: log replayed"},
	// storage
	{"storage-unmapped", to(vm.VMware, func(r *Request) { r.Inventory.Places["datastore"] = []target.Place{{Name: "a"}, {Name: "b"}} }),
		to(vm.VMware, func(r *Request) { r.Inventory.Places["datastore"] = []target.Place{{Name: "a"}} }), "disk 3 has no datastore on the target; it has a, b"},
	{"storage-missing", to(vm.VMware, func(r *Request) {
		r.Inventory.Places["datastore"] = []target.Place{{Name: "a"}}
		r.Placement.Storage = []string{"", "c"}
	}), to(vm.VMware, func(r *Request) {
		r.Inventory.Places["datastore"] = []target.Place{{Name: "/dc/datastore/a"}}
		r.Placement.Storage = []string{"a", "a"}
	}), `no datastore "c"; it has a`},
	{"storage-missing", to(vm.AWS, func(r *Request) { r.Placement.Storage = []string{"gp9", ""} }), to(vm.AWS, func(r *Request) { r.Placement.Storage = []string{"io2", ""} }), "it has gp3, gp2"},
	{"storage-class", to(vm.AWS, func(r *Request) { r.Placement.Storage = []string{"st1", ""} }), to(vm.AWS, func(r *Request) { r.Placement.Storage = []string{"gp2", ""} }), "cannot be on st1"},
	{"storage-class", to(vm.AWS, func(r *Request) { r.Placement.Volumes = []target.Volume{{IOPS: 2999}} }), to(vm.AWS, func(r *Request) { r.Placement.Volumes = []target.Volume{{IOPS: 3000, Throughput: 125}} }), "takes 3000 to 80000 IOPS"},
	{"storage-class", to(vm.AWS, func(r *Request) { r.Placement.Volumes = []target.Volume{{Throughput: 1000}} }), to(vm.AWS, func(r *Request) { r.Placement.Volumes = []target.Volume{{Throughput: 750}} }), "needs 4000 IOPS"},
	{"storage-class", to(vm.AWS, func(r *Request) {
		r.Placement.Storage, r.Placement.Volumes = []string{"io1"}, []target.Volume{{IOPS: 400}}
		setDisks(r, 5*vm.GiB)
	}), to(vm.AWS, func(r *Request) {
		r.Placement.Storage, r.Placement.Volumes = []string{"io1"}, []target.Volume{{IOPS: 250}}
		setDisks(r, 5*vm.GiB)
	}), "50 IOPS for each GiB"},
	{"storage-large", to(vm.AWS, func(r *Request) { setDisks(r, vm.GiB, 17*vm.TiB) }), to(vm.AWS, func(r *Request) { setDisks(r, vm.GiB, 16*vm.TiB) }), "17.0 TiB"},
	{"storage-full", to(vm.VMware, func(r *Request) { r.Inventory.Places["datastore"] = []target.Place{{Name: "a", Free: 2<<20 - 1}} }),
		to(vm.VMware, func(r *Request) { r.Inventory.Places["datastore"] = []target.Place{{Name: "a", Free: 2 << 20}} }), "a has 2.00 MiB free and the disks need 2.00 MiB"},
	{"storage-full", to(vm.VMware, func(r *Request) {
		r.Inventory.Places["datastore"], r.Options = []target.Place{{Name: "a", Free: 11 << 20}}, map[string]string{"disk": "thick"}
	}), to(vm.VMware, func(r *Request) { r.Inventory.Places["datastore"] = []target.Place{{Name: "a", Free: 11 << 20}} }), "need 12.0 MiB"},
	{"storage-unknown", to(vm.VMware, func(r *Request) { r.Inventory.Places["datastore"] = []target.Place{{Name: "a"}} }),
		to(vm.VMware, func(r *Request) { r.Inventory.Places["datastore"] = []target.Place{{Name: "a", Free: vm.TiB}} }), "a is not known"},
	// machine
	{"vm-name", func(r *Request) { r.Name = " \t" }, func(r *Request) { r.Name = "wéb \"$(id)\" 1" }, "no name"},
	{"vm-name", func(r *Request) { r.Name = "a\nb" }, func(r *Request) { r.Name = "a b" }, `"a\nb"`},
	{"name-changed", to(vm.CloudStack, func(r *Request) { r.Machine.Name = "wéb 1" }), to(vm.CloudStack, func(r *Request) { r.Machine.Name = "web-1" }), `called "w-b-1"`},
	{"name-taken", func(r *Request) { r.Name = "db" }, func(r *Request) { r.Name = "DB2" }, `"db"`},
	{"cpu-limit", func(r *Request) { r.Machine.CPU.Sockets = 5 }, func(r *Request) { r.Machine.CPU = vm.CPU{Sockets: 2, CoresPerSocket: 2} }, "5 processors"},
	{"cpu-limit", to(vm.HyperV, func(r *Request) { r.Machine.CPU.Sockets = 65 }), to(vm.HyperV, func(r *Request) { r.Machine.CPU.Sockets, r.Machine.Firmware = 65, vm.UEFI }), "the target takes 64"},
	{"memory-limit", func(r *Request) { r.Machine.Memory = 4*vm.GiB + 1 }, func(r *Request) { r.Machine.Memory = 4 * vm.GiB }, "4.00 GiB"},
	{"cpu-unknown", func(r *Request) { r.Machine.CPU = vm.CPU{} }, func(r *Request) { r.Machine.CPU = vm.CPU{Sockets: 1} }, "processors"},
	{"memory-unknown", func(r *Request) { r.Machine.Memory = 0 }, func(r *Request) { r.Machine.Memory = 1 }, "memory"},
	{"firmware-unknown", func(r *Request) { r.Machine.Firmware = "" }, func(r *Request) { r.Machine.Firmware = vm.UEFI }, "BIOS or UEFI; it will by bios"},
	{"firmware-mismatch", guest(func(g *GuestFacts) { g.BootsUEFI = true }), guest(func(g *GuestFacts) { g.BootsUEFI, g.BootsBIOS = true, true }), "for uefi only"},
	{"firmware-changed", to(vm.VMware, func(r *Request) {
		p, err := Make(*r)
		if err != nil {
			panic(err)
		}
		p.Machine.Firmware, r.Want = vm.UEFI, p
	}), to(vm.VMware, func(r *Request) { r.Machine.Firmware = vm.UEFI }), "by bios and will by uefi"},
	{"firmware-unsupported", func(r *Request) { r.Caps.Firmware = []vm.Firmware{vm.UEFI} }, func(r *Request) { r.Caps.Firmware = nil }, "by bios"},
	{"uefi-host", to(vm.CloudStack, func(r *Request) { r.Machine.Firmware, r.Inventory.UEFI = vm.UEFI, no() }), to(vm.CloudStack, func(r *Request) { r.Machine.Firmware, r.Inventory.UEFI = vm.UEFI, yes() }), "UEFI"},
	{"uefi-host-unknown", to(vm.CloudStack, func(r *Request) { r.Machine.Firmware = vm.UEFI }), to(vm.CloudStack, nil), "not known"},
	{"arch-unsupported", func(r *Request) { r.Machine.Guest.Arch = vm.ARM64 }, func(r *Request) { r.Machine.Guest.Arch = "" }, "arm64"},
	{"arch-unsupported", to(vm.AWS, func(r *Request) { r.Machine.Guest.Arch = "riscv64" }), to(vm.AWS, func(r *Request) { r.Machine.Guest.Arch, r.Machine.Firmware = vm.ARM64, vm.UEFI }), "riscv64"},
	{"arch-unknown", to(vm.VMware, func(r *Request) { r.Machine.Guest.Arch = "" }), to(vm.VMware, nil), "amd64"},
	{"guest-32bit-uefi", to(vm.HyperV, func(r *Request) { r.Machine.Guest.Arch, r.Machine.Firmware = vm.I386, vm.UEFI }), to(vm.HyperV, func(r *Request) { r.Machine.Guest.Arch = vm.I386 }), "generation 2"},
	{"guest-32bit", to(vm.VMware, func(r *Request) { r.Machine.Guest.Arch = vm.I386 }), to(vm.VMware, nil), "32 bits"},
	{"uefi-nvram", to(vm.VMware, func(r *Request) { r.Machine.Firmware, r.Guest = vm.UEFI, nil }), func(r *Request) { r.Machine.Firmware = vm.UEFI }, "start empty"},
	{"secure-boot-lost", func(r *Request) { r.Machine.SecureBoot, r.Caps.SecureBoot = true, false }, func(r *Request) { r.Machine.SecureBoot = true }, "switched off"},
	{"secure-boot-keys", to(vm.HyperV, func(r *Request) { r.Machine.SecureBoot, r.Machine.Firmware = true, vm.UEFI }), to(vm.HyperV, func(r *Request) {
		win(r, "2022")
		r.Machine.SecureBoot, r.Machine.Firmware = true, vm.UEFI
	}), "Microsoft"},
	{"secure-boot-unsigned", to(vm.VMware, func(r *Request) {
		r.Machine.SecureBoot, r.Machine.Firmware, r.Guest.Unsigned = true, vm.UEFI, []string{"zfs"}
	}), to(vm.VMware, func(r *Request) { r.Guest.Unsigned = []string{"zfs"} }), "zfs"},
	{"vtpm-lost", func(r *Request) { r.Machine.TPM = true }, func(r *Request) { r.Caps.TPM = false }, "virtual TPM"},
	{"vtpm-key-provider", to(vm.VMware, func(r *Request) { r.Machine.TPM, r.Machine.Firmware, r.Inventory.KeyProvider = true, vm.UEFI, no() }),
		to(vm.VMware, func(r *Request) { r.Machine.TPM, r.Machine.Firmware, r.Inventory.KeyProvider = true, vm.UEFI, yes() }), "key provider"},
	{"vtpm-key-provider-unknown", to(vm.VMware, func(r *Request) { r.Machine.TPM, r.Machine.Firmware = true, vm.UEFI }), to(vm.VMware, nil), "not known"},
	{"devices-dropped", func(r *Request) { r.Machine.Devices = []vm.Device{{Kind: vm.GPU, Name: "A100"}} }, func(*Request) {}, "gpu device A100"},
	{"snapshots-flattened", func(r *Request) { r.Machine.Snapshots = 2 }, func(*Request) {}, "2 snapshots"},
	{"os-unknown", to(vm.VMware, func(r *Request) { r.Machine.Guest.Family = "" }), to(vm.VMware, nil), "not known"},
	{"os-too-old", to(vm.Azure, func(r *Request) { win(r, "2008") }), to(vm.Azure, func(r *Request) { win(r, "2008 R2") }), "Windows 2008"},
	{"os-too-old", to(vm.AWS, func(r *Request) { r.Machine.Guest.Distribution, r.Machine.Guest.Version = "centos", "6.3" }), to(vm.AWS, func(r *Request) { r.Machine.Guest.Distribution, r.Machine.Guest.Version = "centos", "6.4" }), "6.4"},
	{"os-unsupported", to(vm.AWS, func(r *Request) {
		r.Machine.Guest = vm.GuestOS{Family: vm.Windows, Distribution: "windows-client", Version: "11", Arch: vm.AMD64}
	}), to(vm.VMware, func(r *Request) {
		r.Machine.Guest = vm.GuestOS{Family: vm.Windows, Distribution: "windows-client", Version: "11", Arch: vm.AMD64}
	}), "dedicated"},
	{"os-unsupported", to(vm.Azure, func(r *Request) { r.Machine.Guest.Family = vm.BSD }), to(vm.Nutanix, func(r *Request) { r.Machine.Guest.Family = vm.BSD }), "BSD"},
	{"cpu-baseline", to(vm.VMware, func(r *Request) { r.Machine.Guest.Distribution, r.Machine.Guest.Version = "rhel", "10.0" }), to(vm.VMware, func(r *Request) { r.Machine.Guest.Distribution, r.Machine.Guest.Version = "rhel", "8.9" }), "x86-64-v3"},
	{"aws-import-arm64", to(vm.AWS, func(r *Request) { win(r, "11"); r.Machine.Guest.Arch, r.Machine.Firmware = vm.ARM64, vm.UEFI }), to(vm.AWS, func(r *Request) { win(r, "2022") }), "ARM64"},
	{"uuid-changed", to(vm.AWS, func(r *Request) { r.Machine.UUID = "u" }), to(vm.HyperV, func(r *Request) { r.Caps.KeepsUUID, r.Machine.UUID = true, "u" }), "new UUID"},
	{"clock-changed", to(vm.AWS, func(r *Request) { win(r, "2019"); r.Machine.Clock = vm.ClockLocal }), to(vm.VMware, func(r *Request) { win(r, "2019"); r.Machine.Clock = vm.ClockLocal }), "shows utc"},
	{"azure-temp-disk", to(vm.Azure, func(r *Request) { win(r, "2019") }), to(vm.Azure, nil), "D:"},
	{"source-unknown", to(vm.VMware, nil), to(vm.VMware, func(r *Request) { r.Machine.Platform = vm.HyperV }), "not known"},
	{"source-unsure", func(r *Request) { r.Evidence = []Evidence{{vm.AWS, 10, "a hint"}} }, func(r *Request) { r.Evidence = []Evidence{{vm.AWS, 90, "a record"}} }, "ran on aws is a guess"},
	// network
	{"nic-count", func(r *Request) { r.Machine.NICs = make([]vm.NIC, 2) }, func(r *Request) { r.Machine.NICs = make([]vm.NIC, 1) }, "2 network adapters"},
	{"no-nic", func(r *Request) { r.Machine.NICs = nil }, func(r *Request) { r.Machine.NICs = make([]vm.NIC, 1) }, "no network adapter"},
	{"network-unmapped", func(r *Request) { r.Placement.Networks = []string{""} }, func(r *Request) { r.Placement.Networks, r.Caps.NeedsNetwork = nil, false }, `"lan") has no network on the target; it has prod`},
	{"network-unmapped", func(r *Request) { r.Placement.Networks = nil }, func(r *Request) { r.Placement.Networks, r.Machine.NICs[0].Network = nil, "test" }, "has no network"},
	{"network-missing", func(r *Request) { r.Placement.Networks = []string{"moon"} }, func(r *Request) { r.Placement.Networks = []string{"test"} }, `"moon"`},
	{"security-group-missing", to(vm.AWS, func(r *Request) {
		r.Inventory.SecurityGroups, r.Placement.Adapters = []target.Place{{Name: "web"}}, []target.Adapter{{SecurityGroups: []string{"wen"}}}
	}), to(vm.AWS, func(r *Request) {
		r.Inventory.SecurityGroups, r.Placement.Adapters = []target.Place{{Name: "web"}}, []target.Adapter{{SecurityGroups: []string{"web"}}}
	}), `"wen"; it has web`},
	{"security-groups", to(vm.VMware, func(r *Request) { r.Placement.Adapters = []target.Adapter{{SecurityGroups: []string{"web"}}} }), to(vm.AWS, func(r *Request) { r.Placement.Adapters = []target.Adapter{{SecurityGroups: []string{"web"}}} }), "no security groups"},
	{"address-policy", to(vm.VMware, func(r *Request) { r.Placement.Adapters = []target.Adapter{{Address: target.AddressDHCP}} }), to(vm.AWS, func(r *Request) { r.Placement.Adapters = []target.Adapter{{Address: target.AddressDHCP}} }), `"dhcp"`},
	{"address-invalid", to(vm.AWS, func(r *Request) { r.Placement.Adapters = []target.Adapter{{Address: target.AddressNew}} }),
		to(vm.AWS, func(r *Request) {
			r.Placement.Adapters = []target.Adapter{{Address: target.AddressNew, Addresses: []string{"10.0.0.5"}}}
		}), "none is given"},
	{"address-invalid", to(vm.AWS, func(r *Request) { r.Placement.Adapters = []target.Adapter{{Address: target.AddressKeep}} }), to(vm.AWS, func(r *Request) {
		r.Placement.Adapters, r.Machine.NICs[0].Addresses = []target.Adapter{{Address: target.AddressKeep}}, []string{"10.0.0.5/24"}
	}), "does not say"},
	{"mac-lost", to(vm.AWS, nil), to(vm.VMware, nil), "00:11:22:33:44:55"},
	{"mac-duplicate", to(vm.VMware, func(r *Request) { r.Machine.Platform, r.Machine.NICs[0].Network, r.PowerOn = vm.VMware, "prod", true }),
		to(vm.VMware, func(r *Request) {
			r.Machine.Platform, r.Machine.NICs[0].Network, r.PowerOn, r.MAC = vm.VMware, "prod", true, "new"
		}), "adapter 0"},
	{"static-ip", to(vm.Azure, func(r *Request) { r.Guest.StaticIP = []string{"10.1.1.1"} }), to(vm.VMware, func(r *Request) { r.Guest.StaticIP = []string{"10.1.1.1"} }), "10.1.1.1"},
	{"nic-names", guest(func(g *GuestFacts) { g.Named, g.StaticIP = true, []string{"10.1.1.1"} }), guest(func(g *GuestFacts) { g.Named, g.Pinned, g.StaticIP = true, true, []string{"10.1.1.1"} }), "slot"},
	{"network-driver-missing", to(vm.AWS, func(r *Request) { r.Guest.Installed = []string{"nvme", "vmxnet3"} }), to(vm.AWS, func(r *Request) { r.Guest.Installed = []string{"nvme", "ena"} }), "ena"},
	{"network-driver-unknown", to(vm.AWS, func(r *Request) { win(r, "2019") }), to(vm.Azure, func(r *Request) { win(r, "2019") }), "AWS's ENA"},
	{"azure-wire-server", to(vm.Azure, nil), to(vm.HyperV, nil), "168.63.129.16"},
	// guest
	{"guest-not-inspected", to(vm.VMware, func(r *Request) { r.Guest = nil }), to(vm.VMware, nil), "not inspected"},
	{"guest-incomplete", guest(func(g *GuestFacts) { g.Incomplete = []string{"a ZFS pool was not read"} }), guest(func(*GuestFacts) {}), "ZFS"},
	{"guest-no-root", guest(func(g *GuestFacts) { g.Roots = 0 }), guest(func(g *GuestFacts) { g.Roots, g.Encrypted = 0, []Encrypted{{Kind: "luks", Root: true}} }), "no operating system"},
	{"several-roots", guest(func(g *GuestFacts) { g.Roots = 2 }), guest(func(*GuestFacts) {}), "2 systems"},
	{"arch-differs", guest(func(g *GuestFacts) { g.Arch = vm.ARM64 }), guest(func(g *GuestFacts) { g.Arch = vm.I386 }), "arm64"},
	{"bitlocker-locked", guest(func(g *GuestFacts) { g.Encrypted = []Encrypted{{Volume: "C:", Kind: "bitlocker", Root: true}} }), guest(func(g *GuestFacts) {
		g.Encrypted = []Encrypted{{Volume: "C:", Kind: "bitlocker", Root: true, Open: true}}
	}), "C:"},
	{"luks-locked", guest(func(g *GuestFacts) { g.Encrypted = []Encrypted{{Volume: "sda2", Kind: "luks", Root: true}} }), guest(func(g *GuestFacts) { g.Encrypted = []Encrypted{{Volume: "sda2", Kind: "luks", Root: true, Key: true}} }), "sda2"},
	{"encrypted-data", guest(func(g *GuestFacts) { g.Encrypted = []Encrypted{{Volume: "D:", Kind: "bitlocker"}} }), guest(func(g *GuestFacts) { g.Encrypted = []Encrypted{{Volume: "D:", Kind: "bitlocker", Key: true}} }), "D:"},
	{"key-in-tpm", guest(func(g *GuestFacts) { g.Encrypted = []Encrypted{{Volume: "C:", Kind: "bitlocker", TPM: true}} }), guest(func(g *GuestFacts) { g.Encrypted = []Encrypted{{Volume: "C:", Kind: "bitlocker"}} }), "recovery key"},
	{"hibernated", guest(func(g *GuestFacts) { g.Hibernated = []string{"C:"} }), guest(func(*GuestFacts) {}), "C:"},
	{"dirty-volume", guest(func(g *GuestFacts) { g.Dirty = []string{"sda1"} }), guest(func(*GuestFacts) {}), "sda1"},
	{"registry-dirty", guest(func(g *GuestFacts) { g.HiveDirty = true }), guest(func(*GuestFacts) {}), "logs"},
	{"fstab-devices", guest(func(g *GuestFacts) { g.FstabDevices = []string{"/dev/sdb1"} }), guest(func(*GuestFacts) {}), "/dev/sdb1"},
	{"lvm-devices", guest(func(g *GuestFacts) { g.LVMDevices = true }), guest(func(*GuestFacts) {}), "devices file"},
	{"lvm-missing-disk", guest(func(g *GuestFacts) { g.MissingPVs = []string{"vg0"} }), guest(func(*GuestFacts) {}), "vg0"},
	{"btrfs-roots", guest(func(g *GuestFacts) { g.BtrfsRoots = 2 }), guest(func(g *GuestFacts) { g.BtrfsRoots = 1 }), "2 subvolumes"},
	{"multi-device", guest(func(g *GuestFacts) { g.MultiDevice = []string{"tank"} }), guest(func(*GuestFacts) {}), "tank"},
	{"ldm-boot", guest(func(g *GuestFacts) { g.LDMBoot = true }), guest(func(g *GuestFacts) { g.LDMData = true }), "LDM"},
	{"ldm-data", guest(func(g *GuestFacts) { g.LDMData = true }), guest(func(*GuestFacts) {}), "LDM"},
	{"resolv-conf", guest(func(g *GuestFacts) { g.ResolvFixed = true }), guest(func(*GuestFacts) {}), "immutable"},
	{"guest-space", guest(func(g *GuestFacts) { g.Space = []Space{{"/boot", 50 << 20, 49 << 20, false}} }), guest(func(g *GuestFacts) { g.Space = []Space{{"/boot", 50 << 20, 50 << 20, false}} }), "/boot has 49.0 MiB"},
	{"guest-space", guest(func(g *GuestFacts) { g.Space = []Space{{"/", 100, 99, true}} }), guest(func(g *GuestFacts) { g.Space = []Space{{"/", 100, 100, true}} }), "99 inodes"},
	{"initramfs-tool", guest(func(g *GuestFacts) { g.Initramfs = "" }), guest(func(*GuestFacts) {}), "initramfs"},
	{"initramfs-signed", to(vm.HyperV, func(r *Request) { r.Machine.Firmware, r.Guest.UKI, r.Guest.Boot = vm.UEFI, true, []string{"ata_piix"} }),
		to(vm.HyperV, func(r *Request) {
			r.Machine.Firmware, r.Guest.UKI, r.Guest.Boot = vm.UEFI, true, []string{"hv_storvsc"}
		}), "signed"},
	{"boot-driver-missing", to(vm.HyperV, func(r *Request) {
		r.Machine.Firmware, r.Guest.Boot, r.Guest.Installed = vm.UEFI, []string{"vmw_pvscsi"}, []string{"hv_storvsc", "hv_netvsc"}
	}), to(vm.HyperV, func(r *Request) {
		r.Machine.Firmware, r.Guest.Boot, r.Guest.Installed = vm.UEFI, []string{"hv_storvsc"}, []string{"hv_storvsc", "hv_netvsc"}
	}), "hv_storvsc"},
	{"kernel-driver-missing", to(vm.HyperV, func(r *Request) {
		r.Machine.Firmware, r.Guest.Boot, r.Guest.Installed, r.Guest.Kernel = vm.UEFI, []string{"vmw_pvscsi"}, []string{"vmw_pvscsi"}, "6.1"
	}), to(vm.HyperV, func(r *Request) {
		r.Machine.Firmware, r.Guest.Boot, r.Guest.Installed = vm.UEFI, []string{"vmw_pvscsi"}, []string{"hv_storvsc"}
	}), "kernel 6.1"},
	{"windows-driver-unknown", to(vm.CloudStack, func(r *Request) { win(r, "2019"); r.Machine.Disks[0].Controller = vm.BusVirtioBlk }), to(vm.CloudStack, func(r *Request) { win(r, "2019") }), "virtio-win"},
	{"driver-pack", guest(func(g *GuestFacts) { g.Packed = []string{"vioscsi 1.0 of a pack"} }), guest(func(*GuestFacts) {}), "vioscsi 1.0"},
	{"guest-unsettled", guest(func(g *GuestFacts) { g.Unsettled = []string{"an address is not set"} }), guest(func(*GuestFacts) {}), "not set"},
	{"xen-only", guest(func(g *GuestFacts) { g.XenOnly = true }), guest(func(*GuestFacts) {}), "Xen"},
	{"efi-fallback", to(vm.VMware, func(r *Request) { r.Machine.Firmware, r.Guest.EFIFallback = vm.UEFI, false }), to(vm.VMware, func(r *Request) { r.Machine.Firmware = vm.UEFI }), "fallback"},
	{"foreign-agents", guest(func(g *GuestFacts) { g.Agents = []Agent{{"waagent", vm.Azure}} }), guest(func(g *GuestFacts) { g.Agents = []Agent{{"open-vm-tools", vm.VMware}, {"qemu-ga", ""}} }), "waagent, which belongs to azure"},
	// target
	{"inventory-unknown", to(vm.VMware, func(r *Request) { r.Inventory = nil }), to(vm.VMware, nil), "not asked"},
	{"inventory-old", func(r *Request) { r.Inventory.Asked = r.Now.Add(-2 * time.Hour) }, func(r *Request) { r.Inventory.Asked = r.Now.Add(-time.Minute) }, "2h0m0s ago"},
	{"field-missing", to(vm.CloudStack, func(r *Request) {
		delete(r.Placement.Fields, "zone")
		r.Inventory.Places["zone"] = []target.Place{{Name: "z1"}}
	}), to(vm.CloudStack, nil), "zone is missing: zone, by name; it has z1"},
	{"field-unknown", to(vm.VMware, func(r *Request) { r.Placement.Fields = map[string]string{"stable": "x"} }), to(vm.VMware, func(r *Request) { r.Placement.Fields = map[string]string{"folder": "x"} }), `"stable"; it has datacenter`},
	{"place-missing", to(vm.VMware, func(r *Request) {
		r.Placement.Fields, r.Inventory.Places["folder"] = map[string]string{"folder": "x"}, []target.Place{{Name: "y"}}
	}), to(vm.VMware, func(r *Request) {
		r.Placement.Fields, r.Inventory.Places["folder"] = map[string]string{"folder": "x"}, []target.Place{{Name: "/dc/vm/x"}}
	}), `no folder "x"; it has y`},
	{"option-invalid", to(vm.VMware, func(r *Request) { r.Options = map[string]string{"uuid": "old"} }), to(vm.VMware, func(r *Request) { r.Options = map[string]string{"uuid": "keep"} }), "may be new, keep"},
	{"option-invalid", to(vm.VMware, func(r *Request) { r.Options = map[string]string{"wings": "2"} }), to(vm.VMware, nil), `"wings"`},
	{"size-none", to(vm.AWS, func(r *Request) { r.Machine.CPU.Sockets = 1900 }), to(vm.AWS, nil), "none takes 1900 processors"},
	{"size-unknown", to(vm.AWS, func(r *Request) {
		r.Placement.Fields, r.Inventory.Sizes = map[string]string{"instance_type": "x9.huge"}, []target.Size{{Name: "a1.small", CPUs: 8, Memory: vm.TiB}}
		r.Prices = nil
	}), to(vm.AWS, func(r *Request) {
		r.Placement.Fields, r.Inventory.Sizes = map[string]string{"instance_type": "a1.small"}, []target.Size{{Name: "a1.small", CPUs: 8, Memory: vm.TiB}}
		r.Prices = nil
	}), "such as a1.small"},
	{"size-unverified", to(vm.AWS, func(r *Request) { r.Placement.Fields = map[string]string{"instance_type": "x9.huge"} }), to(vm.AWS, func(r *Request) { r.Placement.Fields = map[string]string{"instance_type": "m7i.large"} }), "x9.huge"},
	{"size-unfit", to(vm.AWS, func(r *Request) { r.Placement.Fields = map[string]string{"instance_type": "m7g.large"} }), to(vm.AWS, func(r *Request) { r.Placement.Fields = map[string]string{"instance_type": "m7i.large"} }), "it is arm64; such as"},
	{"size-small", to(vm.AWS, func(r *Request) { r.Placement.Fields = map[string]string{"instance_type": "t3.micro"} }), to(vm.AWS, func(r *Request) { r.Placement.Fields = map[string]string{"instance_type": "t3.small"} }), "2 processors and 1.00 GiB"},
	{"size-burst", to(vm.AWS, func(r *Request) { r.Placement.Fields = map[string]string{"instance_type": "t3.small"} }), to(vm.AWS, func(r *Request) { r.Placement.Fields = map[string]string{"instance_type": "m7i.large"} }), "t3.small"},
	{"size-large", to(vm.AWS, func(r *Request) {
		r.Machine.NICs = slices.Repeat(r.Machine.NICs, 12)
		r.Placement.Networks = slices.Repeat([]string{"prod"}, 12)
	}), to(vm.AWS, nil), "for a machine that had 2"},
	{"quota", to(vm.VMware, func(r *Request) {
		r.Inventory.Quotas = []target.Quota{{Kind: "cpus", Name: "vCPU", Used: 9, Limit: 10}}
	}), to(vm.VMware, func(r *Request) {
		r.Inventory.Quotas = []target.Quota{{Kind: "cpus", Name: "vCPU", Used: 8, Limit: 10}}
	}), "vCPU: 9 of 10 are used and the machine needs 2"},
	{"quota", to(vm.VMware, func(r *Request) { r.Inventory.Quotas = []target.Quota{{Kind: "memory", Name: "RAM", Limit: vm.GiB}} }), to(vm.VMware, func(r *Request) { r.Inventory.Quotas = []target.Quota{{Kind: "memory", Name: "RAM", Limit: -1}} }), "needs 2.00 GiB"},
	{"quota-unknown", to(vm.AWS, func(r *Request) { r.Inventory.Quotas = nil }), to(vm.AWS, nil), "quotas"},
	{"permission-missing", to(vm.VMware, func(r *Request) { r.Inventory.Permissions = []target.Permission{{Name: "VApp.Import"}} }), to(vm.VMware, nil), "VApp.Import"},
	{"way-second-best", to(vm.AWS, func(r *Request) {
		twoWays(r)
		r.Inventory.Permissions = []target.Permission{{Name: "ebs:PutSnapshotBlock"}}
	}), to(vm.AWS, twoWays), "travel by s3 and not by ebs"},
	{"permission-missing", to(vm.AWS, func(r *Request) {
		twoWays(r)
		r.Inventory.Permissions = []target.Permission{{Name: "s3:PutObject"}, {Name: "ebs:PutSnapshotBlock"}}
	}),
		to(vm.AWS, func(r *Request) { twoWays(r); r.Inventory.Permissions = []target.Permission{{Name: "s3:PutObject"}} }), "ebs:PutSnapshotBlock"},
	{"permission-unknown", to(vm.VMware, func(r *Request) { r.Inventory.Permissions = nil }), to(vm.VMware, nil), "rights"},
	{"token-lifetime", func(r *Request) { r.Rate, r.Inventory.TokenExpires = 1000, r.Now.Add(time.Hour) }, func(r *Request) { r.Rate, r.Inventory.TokenExpires = 1000, r.Now.Add(5*time.Hour) }, "end in 1h0m0s and the copy takes about 3h30m0s"},
	{"region-unknown", to(vm.AWS, func(r *Request) { r.Inventory.Region = "" }), to(vm.AWS, func(r *Request) { r.Inventory.Region, r.Region = "", "eu-west-1" }), "us-east-1"},
	// estimate
	{"scratch-space", func(r *Request) { r.Scratch, r.ScratchFree = 2, 1 }, func(r *Request) { r.Scratch, r.ScratchFree = 2, -1 }, "2 B of temporary space and 1 B are free"},
	{"cost-incomplete", to(vm.AWS, func(r *Request) { r.Placement.Fields = map[string]string{"instance_type": "x9.huge"} }), to(vm.AWS, nil), "x9.huge has no price"},
	{"price-old", to(vm.AWS, func(r *Request) { r.Now = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC) }), to(vm.AWS, nil), "2025-05-28"},
}

// twoWays offers a second way, each with a right of its own.
func twoWays(r *Request) {
	r.Caps.Deliveries[0].Rights = []string{"ebs:PutSnapshotBlock"}
	second := r.Caps.Deliveries[0]
	second.Path, second.Rights = "s3", []string{"s3:PutObject"}
	r.Caps.Deliveries = append(r.Caps.Deliveries, second)
}

// TestRules changes a faultless request so that each rule finds something, and so
// that it just does not.
func TestRules(t *testing.T) {
	for _, c := range ruleCases {
		rule, ok := FindRule(c.code)
		if !ok {
			t.Errorf("there is no rule %s", c.code)
			continue
		}
		r := request()
		c.find(r)
		p, err := Make(*r)
		if err != nil {
			t.Errorf("%s: %v", c.code, err)
			continue
		}
		if !slices.ContainsFunc(p.Findings, func(f Finding) bool {
			return f.Code == c.code && f.Severity == rule.Severity && f.Advice == rule.Advice && strings.Contains(f.Text, c.text)
		}) {
			t.Errorf("%s: want %q, found %+v", c.code, c.text, p.Findings)
			continue
		}
		if rule.Severity == Critical && !p.Stopped() {
			t.Errorf("%s does not stop the plan", c.code)
		}
		if r.Guest != nil { // what the adaptation mends informs
			r.Guest.Mends = []string{c.code}
			if p, err = Make(*r); err != nil || slices.ContainsFunc(p.Findings, func(f Finding) bool { return f.Code == c.code && f.Severity != Information }) {
				t.Errorf("%s stops although it is mended: %v", c.code, err)
			}
		}
		r = request()
		c.spare(r)
		if p, err = Make(*r); err != nil || slices.Contains(codes(p), c.code) {
			t.Errorf("%s: found where nothing is: %v %+v", c.code, err, p)
		}
	}
}

// TestEveryRuleIsTested fails when a rule is added that TestRules does not know.
func TestEveryRuleIsTested(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Rules() {
		if seen[r.Code] || r.Code == "" || !slices.Contains([]Severity{Critical, Warning, Information}, r.Severity) || r.Advice == "" && r.Code != "source-note" ||
			!strings.HasSuffix(r.About, ".") || len(r.Facts) == 0 || r.Facts[0] == "" || r.Subject == "" {
			t.Errorf("%+v", r)
		}
		seen[r.Code] = true
		if !slices.ContainsFunc(ruleCases, func(c ruleCase) bool { return c.code == r.Code }) {
			t.Errorf("%s has no test of both sides", r.Code)
		}
	}
	if len(seen) < 100 {
		t.Errorf("%d rules", len(seen))
	}
}

var _ disk.Image = headed{}
