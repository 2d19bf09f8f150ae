package guest

import "ascend/internal/vm"

// The driver matrix: which Linux modules and Windows services a controller or
// adapter needs.
var (
	linuxStorage = map[vm.Bus][]string{
		vm.BusIDE: {"ata_piix", "sd_mod"}, vm.BusSATA: {"ahci", "sd_mod"}, vm.BusNVMe: {"nvme"},
		vm.BusLSILogic: {"mptspi", "sd_mod"}, vm.BusLSISAS: {"mptsas", "sd_mod"}, vm.BusPVSCSI: {"vmw_pvscsi", "sd_mod"},
		vm.BusVirtioBlk: {"virtio_pci", "virtio_blk"}, vm.BusVirtioSCSI: {"virtio_pci", "virtio_scsi", "sd_mod"},
		vm.BusVMBusSCSI: {"hv_vmbus", "hv_storvsc", "sd_mod"}, vm.BusXenBlk: {"xen_blkfront"},
	}
	linuxNIC = map[vm.NICModel][]string{
		vm.VMXNET3: {"vmxnet3"}, vm.E1000: {"e1000"}, vm.E1000E: {"e1000e"}, vm.VirtioNet: {"virtio_pci", "virtio_net"},
		vm.NetVSC: {"hv_vmbus", "hv_netvsc"}, vm.ENA: {"ena"}, vm.RTL8139: {"8139cp"}, vm.PCNet32: {"pcnet32"},
	}
	windowsStorage = map[vm.Bus][]string{
		vm.BusIDE: {"intelide", "atapi"}, vm.BusSATA: {"storahci"}, vm.BusNVMe: {"stornvme"}, vm.BusLSISAS: {"LSI_SAS"}, vm.BusLSILogic: {"LSI_SCSI"},
		vm.BusPVSCSI: {"pvscsi"}, vm.BusVirtioBlk: {"viostor"}, vm.BusVirtioSCSI: {"vioscsi"}, vm.BusVMBusSCSI: {"vmbus", "storvsc"}, vm.BusXenBlk: {"xenvbd"},
	}
	windowsNIC = map[vm.NICModel][]string{
		vm.VMXNET3: {"vmxnet3ndis6"}, vm.E1000E: {"e1i65x64", "e1iexpress", "e1i68x64"}, vm.VirtioNet: {"netkvm"}, vm.NetVSC: {"netvsc"}, vm.ENA: {"ena"},
	}
	// otherModules are looked up too, for reports and later moves.
	otherModules = []string{"virtio_console", "virtio_balloon", "vmw_balloon", "hv_utils", "mlx5_core", "mana", "ixgbevf", "xen_netfront", "udf", "vfat", "nvme_core"}
	// otherServices of Windows matter although they drive no disk or adapter.
	otherServices = []string{"Netlogon", "msahci", "storflt", "partmgr", "pvscsi", "vmicheartbeat", "rhelscsi", "prl_strg", "vioser", "balloon"}
	// agentServices are those of each agent of Windows: what is switched off when the
	// machine leaves its platform. No driver of disks or networks is among them.
	agentServices = map[string][]string{
		"vmware-tools":        {"VMTools", "VGAuthService", "vm3dservice", "vmvss", "VMwareCAFCommAmqpListener", "VMwareCAFManagementAgentHost", "VMMemCtl", "vmhgfs", "vmci"},
		"qemu-guest-agent":    {"QEMU-GA", "QEMU Guest Agent VSS Provider"},
		"azure-vm-agent":      {"WindowsAzureGuestAgent", "RdAgent", "WindowsAzureTelemetryService"},
		"amazon-ssm-agent":    {"AmazonSSMAgent"},
		"ec2launch":           {"Amazon EC2Launch"},
		"nutanix-guest-tools": {"Nutanix Guest Agent", "Nutanix Self Service Restore Gateway", "Nutanix VSS Hardware Provider"},
	}
)

// fits tells which controllers and adapters a platform offers, preferred first.
var (
	platformBuses = map[vm.Platform][]vm.Bus{
		vm.VMware:     {vm.BusPVSCSI, vm.BusLSISAS, vm.BusLSILogic, vm.BusSATA, vm.BusNVMe, vm.BusIDE},
		vm.CloudStack: {vm.BusVirtioBlk, vm.BusVirtioSCSI, vm.BusSATA, vm.BusIDE},
		vm.Nutanix:    {vm.BusVirtioSCSI, vm.BusSATA, vm.BusIDE},
		vm.HyperV:     {vm.BusVMBusSCSI},
		vm.Azure:      {vm.BusVMBusSCSI, vm.BusNVMe},
		vm.AWS:        {vm.BusNVMe},
	}
	platformNICs = map[vm.Platform][]vm.NICModel{
		vm.VMware:     {vm.VMXNET3, vm.E1000E, vm.E1000},
		vm.CloudStack: {vm.VirtioNet, vm.E1000, vm.RTL8139},
		vm.Nutanix:    {vm.VirtioNet, vm.E1000},
		vm.HyperV:     {vm.NetVSC},
		vm.Azure:      {vm.NetVSC},
		vm.AWS:        {vm.ENA},
	}
)

// matrixModules is every Linux module of the matrix.
func matrixModules() []string {
	seen := map[string]bool{}
	var out []string
	add := func(l []string) {
		for _, m := range l {
			if !seen[m] {
				seen[m] = true
				out = append(out, m)
			}
		}
	}
	for _, l := range linuxStorage {
		add(l)
	}
	for _, l := range linuxNIC {
		add(l)
	}
	add(otherModules)
	return out
}
