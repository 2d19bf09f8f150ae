// Package caps holds what is known of each platform without asking it: limits,
// firmware, virtual hardware, kinds of storage, names, drivers. It is data that
// plans and the compatibility matrix are made from; a connector starts from it
// and refines it by what its connection tells:
//
//	c := caps.For(vm.AWS)
//	c.Deliveries = t.deliveries()
//
// Sources stand beside the facts; where none is named it is the platform's
// documentation of its limits.
package caps

import (
	"slices"

	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// Names of placement fields that hold a machine's size.
const (
	InstanceType    = "instance_type"    // AWS
	VMSize          = "vm_size"          // Azure
	ServiceOffering = "service_offering" // CloudStack
)

// Targets lists the platforms that have a table, in the order they are shown.
func Targets() []vm.Platform {
	return []vm.Platform{vm.VMware, vm.CloudStack, vm.HyperV, vm.AWS, vm.Azure, vm.Nutanix}
}

// For is the table of a platform; the caller owns it. Local and unknown
// platforms have none of their own: the result then limits nothing.
func For(p vm.Platform) target.Capabilities {
	switch p {
	case vm.VMware:
		return vmware()
	case vm.CloudStack:
		return cloudstack()
	case vm.HyperV:
		return hyperv()
	case vm.AWS:
		return aws()
	case vm.Azure:
		return azure()
	case vm.Nutanix:
		return nutanix()
	}
	return target.Capabilities{Platform: p, Traits: &target.Traits{Topology: true, Clock: "guest", Rate: 200e6}}
}

// Fill gives c the platform's traits where the connector told none. What a
// connector must do something about, and is not known to, is left out: address
// policies, security groups, the choice of IOPS and throughput.
func Fill(c target.Capabilities) target.Capabilities {
	if c.Traits != nil {
		return c
	}
	t := *For(c.Platform).Traits
	t.Addresses, t.Groups = nil, false
	t.Classes = slices.Clone(t.Classes)
	for i := range t.Classes {
		t.Classes[i].IOPS, t.Classes[i].Throughput = target.Range{}, target.Range{}
	}
	c.Traits = &t
	return c
}

// field makes a placement field.
func field(name, help string, required bool) target.Field {
	return target.Field{Name: name, Help: help, Required: required}
}

// Versions of Windows NT, for Traits.OldestWindows.
const (
	nt52 = 5.2 // 2003
	nt61 = 6.1 // 7 and 2008 R2
)

var x86 = []vm.Arch{vm.AMD64, vm.I386}

// vmware: VMware Configuration Maximums, vSphere 8.0.
func vmware() target.Capabilities {
	return target.Capabilities{
		Platform: vm.VMware,
		Deliveries: []target.Delivery{
			{Format: image.Format{Name: "vmdk", Subformat: "streamOptimized", Compression: "deflate"}, Mode: target.Ordered, Clean: true, Digests: []string{"sha1"}, Align: 512, Path: "nfc"},
			{Format: image.Format{Name: "raw"}, Mode: target.Ordered, NeedSize: true, Align: 512, Path: "datastore"},
		},
		Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, SecureBoot: true, TPM: true, Arch: slices.Clone(x86),
		Controllers: []vm.Bus{vm.BusPVSCSI, vm.BusLSISAS, vm.BusLSILogic, vm.BusSATA, vm.BusNVMe, vm.BusIDE, vm.BusLSIBus},
		NICModels:   []vm.NICModel{vm.VMXNET3, vm.E1000E, vm.E1000, vm.PCNet32},
		KeepsMAC:    true, KeepsUUID: true,
		MaxDisks: 60, MaxNICs: 10, MaxCPUs: 768, MaxMemory: 24 * vm.TiB, MaxDiskSize: 62 * vm.TiB, NeedsNetwork: true,
		Fields: []target.Field{
			field("datacenter", "datacenter, by name or inventory path", false),
			field("cluster", "cluster or standalone host, by name or inventory path", false),
			field("host", "host inside the cluster; without one the platform chooses", false),
			field("resource_pool", "resource pool or vApp; without one the cluster's own", false),
			field("folder", "folder of machines; without one the datacenter's own", false),
			field("datastore", "datastore of the machine and of every disk that names none", false),
		},
		Options: []target.Field{
			{Name: "uuid", Help: "keep the source's SMBIOS UUID, or let the platform make a new one", Default: "new", Values: []string{"new", "keep"}},
		},
		Traits: &target.Traits{
			StorageField: "datastore", Topology: true, MemoryStep: 4 * vm.MiB, Clock: "guest", Name: target.NameRule{Max: 80},
			OldestWindows: nt52, Rate: 100e6, // one NFC stream is slow; several disks make it up
			Drivers: target.Drivers{
				LinuxStorage: [][]string{{"vmw_pvscsi"}, {"mptspi"}, {"mptsas"}, {"ahci"}, {"nvme"}}, LinuxNet: []string{"vmxnet3", "e1000e", "e1000"},
				WindowsStorage: []string{"LSI_SAS", "storahci", "stornvme", "pvscsi", "LSI_SCSI", "symmpi", "atapi", "msahci"},
			},
		},
	}
}

// cloudstack: the KVM hypervisor; the limits are global settings of a cloud, and
// these its defaults.
func cloudstack() target.Capabilities {
	return target.Capabilities{
		Platform: vm.CloudStack,
		Deliveries: []target.Delivery{
			{Format: image.Format{Name: "qcow2"}, Mode: target.Ordered, Clean: true, NeedSize: true, Align: 512, Path: "volume"},
		},
		Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, SecureBoot: true, Arch: []vm.Arch{vm.AMD64, vm.I386},
		Controllers: []vm.Bus{vm.BusVirtioBlk, vm.BusVirtioSCSI, vm.BusSATA, vm.BusIDE},
		NICModels:   []vm.NICModel{vm.VirtioNet, vm.E1000, vm.RTL8139, vm.PCNet32},
		KeepsMAC:    true,
		MaxDisks:    26, MaxNICs: 25, MaxCPUs: 240, MaxMemory: 4 * vm.TiB, NeedsNetwork: true,
		Fields: []target.Field{
			field("zone", "zone, by name", true), field(ServiceOffering, "compute offering, by name", true),
			field("disk_offering", "disk offering of data disks that name none", false), field("cluster", "cluster or host, where an administrator may choose", false),
		},
		Traits: &target.Traits{
			SizeField: ServiceOffering, StorageField: "disk_offering", Clock: "guest", Groups: true, Name: target.NameRule{Max: 63, Host: true},
			Addresses: []target.AddressPolicy{target.AddressDHCP, target.AddressKeep, target.AddressNew}, OldestWindows: nt61, OldestRHEL: 5.4, Rate: 100e6,
			Drivers: target.Drivers{
				LinuxStorage: [][]string{{"virtio_pci", "virtio_blk"}, {"virtio_pci", "virtio_scsi"}, {"ahci"}, {"ata_piix"}}, LinuxNet: []string{"virtio_net", "e1000"},
				WindowsStorage: []string{"viostor", "vioscsi", "storahci", "intelide"}, WindowsNet: []string{"netkvm", "E1G60"}, Pack: "the virtio-win ISO", PackStorage: true, PackNet: true,
			},
		},
	}
}

// hyperv: "Plan for Hyper-V scalability in Windows Server", for 2022; generation 1
// "Should I create a generation 1 or 2 virtual machine".
func hyperv() target.Capabilities {
	return target.Capabilities{
		Platform: vm.HyperV,
		Deliveries: []target.Delivery{
			{Format: image.Format{Name: "vhdx", Subformat: "dynamic"}, Mode: target.Ranges, Clean: true, Resumable: true, Align: 512, Path: "smb"},
			{Format: image.Format{Name: "vpc", Subformat: "dynamic"}, Mode: target.Ranges, Clean: true, Resumable: true, Align: 512, Path: "smb"},
		},
		Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, SecureBoot: true, TPM: true, Arch: slices.Clone(x86),
		Controllers: []vm.Bus{vm.BusVMBusSCSI, vm.BusIDE}, NICModels: []vm.NICModel{vm.NetVSC},
		KeepsMAC: true,
		MaxDisks: 256, MaxNICs: 64, MaxCPUs: 1024, MaxMemory: 240 * vm.TiB, MaxDiskSize: 64 * vm.TiB, NeedsNetwork: true,
		Fields: []target.Field{field("path", "folder of the host for the machine and its disks", false)},
		Traits: &target.Traits{
			Firmware: map[vm.Firmware]target.Limits{
				vm.BIOS: {What: "generation 1", MaxDisks: 4 + 256, MaxNICs: 12, MaxCPUs: 64, MaxMemory: vm.TiB, BootBus: vm.BusIDE, Controllers: []vm.Bus{vm.BusIDE, vm.BusVMBusSCSI}},
				vm.UEFI: {What: "generation 2", MaxDisks: 256, MaxNICs: 68, BootBus: vm.BusVMBusSCSI, Controllers: []vm.Bus{vm.BusVMBusSCSI}, Arch: []vm.Arch{vm.AMD64}},
			},
			StorageField: "path", MemoryStep: 2 * vm.MiB, Clock: "guest", Name: target.NameRule{Max: 100, Forbid: "\\/:*?\"<>|"}, OldestWindows: nt61, OldestRHEL: 6.4, Rate: 150e6,
			Drivers: target.Drivers{
				LinuxStorage: [][]string{{"hv_vmbus", "hv_storvsc"}}, LinuxNet: []string{"hv_netvsc"},
				WindowsStorage: []string{"storvsc"}, WindowsNet: []string{"netvsc"},
			},
		},
	}
}

// aws: Amazon EBS user guide, "Amazon EBS volume types" and "volume limits";
// quotas of instance types come with each type.
func aws() target.Capabilities {
	return target.Capabilities{
		Platform: vm.AWS,
		Deliveries: []target.Delivery{
			{Format: image.Format{Name: "raw"}, Mode: target.Ranges, Clean: true, Resumable: true, Align: vm.GiB, Block: 512 << 10, MaxRange: 512 << 10, Path: "ebs"},
		},
		Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, SecureBoot: true, TPM: true, Arch: []vm.Arch{vm.AMD64, vm.I386, vm.ARM64},
		Controllers: []vm.Bus{vm.BusNVMe, vm.BusXenBlk}, NICModels: []vm.NICModel{vm.ENA},
		MaxDisks: 128, MaxNICs: 15, MaxCPUs: 1920, MaxMemory: 32 * vm.TiB, MaxDiskSize: 64 * vm.TiB, NeedsNetwork: true,
		Fields: []target.Field{
			field(InstanceType, "instance type", true), field("volume_type", "EBS volume type of disks that name none", false),
			field("availability_zone", "availability zone; without one the subnet's", false), field("key_name", "key pair for signing in", false),
		},
		Traits: &target.Traits{
			Firmware: map[vm.Firmware]target.Limits{
				vm.BIOS: {What: "boot mode legacy-bios"},
				vm.UEFI: {What: "boot mode uefi", Arch: []vm.Arch{vm.AMD64, vm.ARM64}},
			},
			SizeField: InstanceType, StorageField: "volume_type", Groups: true, Clock: "utc", Name: target.NameRule{Max: 255},
			Addresses: []target.AddressPolicy{target.AddressDHCP, target.AddressKeep, target.AddressNew}, OldestWindows: nt61, OldestRHEL: 6.4, Rate: 200e6,
			Classes: []target.StorageClass{
				{Name: "gp3", Help: "general purpose SSD", MinSize: vm.GiB, MaxSize: 64 * vm.TiB, IOPS: target.Range{Min: 3000, Max: 80000}, IOPSPerGiB: 500, Throughput: target.Range{Min: 125, Max: 2000}, PerThroughput: 4},
				{Name: "gp2", Help: "general purpose SSD, earlier", MinSize: vm.GiB, MaxSize: 16 * vm.TiB},
				{Name: "io1", Help: "provisioned IOPS SSD", MinSize: 4 * vm.GiB, MaxSize: 16 * vm.TiB, IOPS: target.Range{Min: 100, Max: 64000}, IOPSPerGiB: 50},
				{Name: "io2", Help: "provisioned IOPS SSD, durable", MinSize: 4 * vm.GiB, MaxSize: 64 * vm.TiB, IOPS: target.Range{Min: 100, Max: 256000}, IOPSPerGiB: 1000},
				{Name: "st1", Help: "throughput HDD", MinSize: 125 * vm.GiB, MaxSize: 16 * vm.TiB, NoBoot: true},
				{Name: "sc1", Help: "cold HDD", MinSize: 125 * vm.GiB, MaxSize: 16 * vm.TiB, NoBoot: true},
				{Name: "standard", Help: "magnetic, earlier", MinSize: vm.GiB, MaxSize: vm.TiB},
			},
			Drivers: target.Drivers{
				LinuxStorage: [][]string{{"nvme"}, {"xen-blkfront"}}, LinuxNet: []string{"ena", "ixgbevf", "xen-netfront"},
				WindowsStorage: []string{"stornvme", "AWSNVMe"}, WindowsNet: []string{"ena"}, Pack: "AWS's ENA and NVMe drivers", PackNet: true,
			},
		},
	}
}

// azure: "Azure managed disk types", "Support for generation 2 VMs".
func azure() target.Capabilities {
	return target.Capabilities{
		Platform: vm.Azure,
		Deliveries: []target.Delivery{
			{Format: image.Format{Name: "vpc", Subformat: "fixed"}, Mode: target.Ranges, Clean: true, Resumable: true, NeedSize: true, Align: vm.MiB, MinSize: 20 * vm.MiB, MaxRange: 4 << 20, Path: "disk"},
		},
		Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, SecureBoot: true, TPM: true, Arch: []vm.Arch{vm.AMD64, vm.I386, vm.ARM64},
		Controllers: []vm.Bus{vm.BusVMBusSCSI, vm.BusNVMe}, NICModels: []vm.NICModel{vm.NetVSC},
		MaxDisks: 65, MaxNICs: 8, MaxCPUs: 1792, MaxMemory: 32 * vm.TiB, MaxDiskSize: 32767 * vm.GiB, NeedsNetwork: true,
		Fields: []target.Field{
			field(VMSize, "size of the machine", true), field("resource_group", "resource group of what is made", false), field("sku", "managed disk SKU of disks that name none", false),
			field("zone", "availability zone", false),
		},
		Traits: &target.Traits{
			Firmware: map[vm.Firmware]target.Limits{
				vm.BIOS: {What: "generation 1", MaxBootDisk: 2 * vm.TiB, Arch: slices.Clone(x86)},
				vm.UEFI: {What: "generation 2", MaxBootDisk: 4095 * vm.GiB, Arch: []vm.Arch{vm.AMD64, vm.ARM64}},
			},
			SizeField: VMSize, StorageField: "sku", Groups: true, Clock: "utc", Name: target.NameRule{Max: 64, Forbid: "\\/\"[]:|<>+=;,?*@&~!#$%^(){}'"},
			Addresses: []target.AddressPolicy{target.AddressDHCP, target.AddressKeep, target.AddressNew}, OldestWindows: nt61, OldestRHEL: 6.4, Rate: 100e6,
			Classes: []target.StorageClass{
				{Name: "StandardSSD_LRS", Help: "standard SSD", MaxSize: 32767 * vm.GiB},
				{Name: "Premium_LRS", Help: "premium SSD", MaxSize: 32767 * vm.GiB, Premium: true},
				{Name: "Standard_LRS", Help: "standard HDD", MaxSize: 32767 * vm.GiB},
				{Name: "PremiumV2_LRS", Help: "premium SSD v2", MaxSize: 64 * vm.TiB, Premium: true, NoBoot: true, IOPS: target.Range{Min: 3000, Max: 80000}, IOPSPerGiB: 500, Throughput: target.Range{Min: 125, Max: 1200}, PerThroughput: 4},
				{Name: "StandardSSD_ZRS", Help: "standard SSD in three zones", MaxSize: 32767 * vm.GiB},
				{Name: "Premium_ZRS", Help: "premium SSD in three zones", MaxSize: 32767 * vm.GiB, Premium: true},
			},
			Drivers: target.Drivers{
				LinuxStorage: [][]string{{"hv_vmbus", "hv_storvsc"}, {"nvme"}}, LinuxNet: []string{"hv_netvsc"},
				WindowsStorage: []string{"storvsc", "stornvme"}, WindowsNet: []string{"netvsc"},
			},
		},
	}
}

// nutanix: "Nutanix Configuration Maximums", AHV.
func nutanix() target.Capabilities {
	return target.Capabilities{
		Platform: vm.Nutanix,
		Deliveries: []target.Delivery{
			{Format: image.Format{Name: "qcow2"}, Mode: target.Ordered, Clean: true, Resumable: true, NeedSize: true, Digests: []string{"sha256"}, Align: 512, Path: "objects"},
			{Format: image.Format{Name: "raw"}, Mode: target.Ordered, Resumable: true, NeedSize: true, Digests: []string{"sha256"}, Align: 512, Path: "objects"},
		},
		Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, SecureBoot: true, TPM: true, Arch: slices.Clone(x86),
		Controllers: []vm.Bus{vm.BusVirtioSCSI, vm.BusSATA, vm.BusIDE}, NICModels: []vm.NICModel{vm.VirtioNet, vm.E1000},
		KeepsMAC: true, KeepsUUID: false,
		MaxDisks: 256, MaxNICs: 32, MaxCPUs: 240, MaxMemory: 4 * vm.TiB, NeedsNetwork: true,
		Fields: []target.Field{
			field("cluster", "cluster, by name", false), field("storage_container", "storage container of disks that name none", false), field("category", "categories, KEY:VALUE, comma-separated", false),
		},
		Traits: &target.Traits{
			StorageField: "storage_container", Topology: true, MemoryStep: vm.MiB, Clock: "guest", Name: target.NameRule{Max: 245},
			Addresses: []target.AddressPolicy{target.AddressDHCP, target.AddressKeep, target.AddressNew}, OldestWindows: nt61, OldestRHEL: 5.4, Rate: 100e6,
			Firmware: map[vm.Firmware]target.Limits{vm.UEFI: {What: "UEFI", Arch: []vm.Arch{vm.AMD64}}},
			Drivers: target.Drivers{
				LinuxStorage: [][]string{{"virtio_pci", "virtio_scsi"}, {"ahci"}, {"ata_piix"}}, LinuxNet: []string{"virtio_net", "e1000"},
				WindowsStorage: []string{"vioscsi", "viostor", "storahci", "intelide"}, WindowsNet: []string{"netkvm"}, Pack: "the Nutanix VirtIO or virtio-win ISO", PackStorage: true, PackNet: true,
			},
		},
	}
}
