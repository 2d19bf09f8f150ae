package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"ascend/internal/vm"
)

// Hardware is what QEMU gives the guest for a target.
type Hardware struct {
	Machine    string      `json:"machine"` // QEMU's machine type
	Firmware   vm.Firmware `json:"firmware"`
	SecureBoot bool        `json:"secure_boot,omitempty"`
	Storage    vm.Bus      `json:"storage"`
	NIC        vm.NICModel `json:"nic"`
	// Best is the best grade that this proof can give, and Limit why no better.
	Best  Grade  `json:"best"`
	Limit string `json:"limit,omitempty"`
}

// HardwareFor is the table target × firmware → models. QEMU has the devices of KVM
// and VMware, NVMe, and none of Hyper-V's or AWS's network: there the guest is shown
// to start on neutral hardware, and the grade says so.
func HardwareFor(p vm.Platform, fw vm.Firmware, storage vm.Bus, nic vm.NICModel) (Hardware, error) {
	h := Hardware{Machine: "pc", Firmware: fw, Storage: storage, NIC: nic, Best: A}
	if fw == vm.UEFI {
		h.Machine = "q35"
	}
	def := func(b vm.Bus, n vm.NICModel) {
		if h.Storage == "" {
			h.Storage = b
		}
		if h.NIC == "" {
			h.NIC = n
		}
	}
	neutral := func(limit string) {
		h.Best, h.Limit = C, limit
		h.Storage, h.NIC = vm.BusIDE, vm.E1000
		if fw == vm.UEFI {
			h.Storage, h.NIC = vm.BusSATA, vm.E1000E
		}
	}
	switch p {
	case vm.VMware:
		def(vm.BusPVSCSI, vm.VMXNET3)
	case vm.CloudStack, vm.Local:
		def(vm.BusVirtioBlk, vm.VirtioNet)
	case vm.Nutanix:
		def(vm.BusVirtioSCSI, vm.VirtioNet)
	case vm.HyperV:
		neutral("QEMU has no VMBus storage or network: it is shown that the system starts on neutral hardware; that hv_storvsc and hv_netvsc find their devices is not")
	case vm.Azure:
		neutral("QEMU has no VMBus: it is shown that the system starts on neutral hardware; Azure's storage and network are not")
	case vm.AWS:
		def(vm.BusNVMe, vm.E1000E)
		h.Best, h.Limit = C, "QEMU has no ENA adapter: storage (NVMe) is shown on AWS's model, the network is not"
		h.NIC = vm.E1000E
	default:
		return h, fmt.Errorf("there is no virtual hardware for %q: one of %v", p, vm.Platforms())
	}
	if !slices.Contains([]vm.Bus{vm.BusIDE, vm.BusSATA, vm.BusNVMe, vm.BusPVSCSI, vm.BusLSISAS, vm.BusLSILogic, vm.BusVirtioBlk, vm.BusVirtioSCSI}, h.Storage) {
		return h, fmt.Errorf("QEMU has no %s controller", h.Storage)
	}
	if nicDevice(h.NIC) == "" {
		return h, fmt.Errorf("QEMU has no %s adapter", h.NIC)
	}
	return h, nil
}

func nicDevice(n vm.NICModel) string {
	return map[vm.NICModel]string{
		vm.VMXNET3: "vmxnet3", vm.E1000: "e1000", vm.E1000E: "e1000e", vm.VirtioNet: "virtio-net-pci", vm.RTL8139: "rtl8139", vm.PCNet32: "pcnet",
	}[n]
}

// devices are QEMU's arguments for the disks: nodes d0, d1, …
func (h Hardware) devices(disks int, bootindex bool) []string {
	var args []string
	dev := func(format string, a ...any) { args = append(args, "-device", fmt.Sprintf(format, a...)) }
	scsi := func(controller string) {
		dev("%s,id=target", controller)
		for i := range disks {
			dev("scsi-hd,bus=target.0,scsi-id=%d,drive=d%d,id=disk%d%s", i, i, i, index(bootindex, i))
		}
	}
	switch h.Storage {
	case vm.BusPVSCSI:
		scsi("pvscsi")
	case vm.BusLSISAS:
		scsi("mptsas1068")
	case vm.BusLSILogic:
		scsi("lsi53c895a")
	case vm.BusVirtioSCSI:
		scsi("virtio-scsi-pci")
	case vm.BusVirtioBlk:
		for i := range disks {
			dev("virtio-blk-pci,drive=d%d,id=disk%d%s", i, i, index(bootindex, i))
		}
	case vm.BusNVMe:
		for i := range disks {
			dev("nvme,serial=ascend%d,drive=d%d,id=disk%d%s", i, i, i, index(bootindex, i))
		}
	case vm.BusSATA, vm.BusIDE:
		bus := "ide" // of the machine: PIIX of pc, AHCI of q35
		if h.Storage == vm.BusSATA && h.Machine == "pc" {
			dev("ahci,id=ahci")
			bus = "ahci"
		} else if h.Storage == vm.BusIDE && h.Machine != "pc" {
			dev("piix4-ide,id=pata")
			bus = "pata"
		}
		for i := range disks {
			if bus == "ide" && h.Machine == "pc" || bus == "pata" {
				dev("ide-hd,bus=%s.%d,unit=%d,drive=d%d,id=disk%d%s", bus, i/2, i%2, i, i, index(bootindex, i))
			} else {
				dev("ide-hd,bus=%s.%d,drive=d%d,id=disk%d%s", bus, i, i, i, index(bootindex, i))
			}
		}
	}
	return args
}

func index(want bool, i int) string {
	if !want {
		return ""
	}
	return fmt.Sprintf(",bootindex=%d", i+1)
}

// firmwareFiles are OVMF's, where distributions put them: code, and the variables
// that a machine starts with (with Microsoft's keys for Secure Boot).
func firmwareFiles(secure bool) (code, vars string, err error) {
	names := [][2]string{{"OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"}, {"OVMF_CODE.fd", "OVMF_VARS.fd"}}
	if secure {
		names = [][2]string{{"OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"}, {"OVMF_CODE.secboot.fd", "OVMF_VARS.secboot.fd"}}
	}
	for _, dir := range []string{"/usr/share/OVMF", "/usr/share/edk2/ovmf", "/usr/share/edk2/x64"} {
		for _, n := range names {
			code, vars = filepath.Join(dir, n[0]), filepath.Join(dir, n[1])
			_, err1 := os.Stat(code)
			_, err2 := os.Stat(vars)
			if err1 == nil && err2 == nil {
				return code, vars, nil
			}
		}
	}
	return "", "", fmt.Errorf("cannot find the UEFI firmware %s (Debian package ovmf)", names[0][0])
}
