package vmware

import (
	"fmt"

	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// controllerKind is one model of disk controller.
type controllerKind struct {
	bus   vm.Bus
	scsi  bool   // shares bus numbers and rules with the other SCSI models
	class string // the API's type name, which also begins a lease's device keys
	buses int32  // controllers of the family a machine may have
	units int32  // disks on one that are assigned without being asked for
	top   int32  // highest unit that may be asked for
}

// Limits: VMware Configuration Maximums; unit 7 of a SCSI bus is the
// controller itself. A PVSCSI controller takes up to 64 disks from hardware
// version 14 on, which is only used when the source's placement asks for it.
var controllerKinds = []controllerKind{
	{bus: vm.BusPVSCSI, scsi: true, class: "ParaVirtualSCSIController", buses: 4, units: 16, top: 63},
	{bus: vm.BusLSISAS, scsi: true, class: "VirtualLsiLogicSASController", buses: 4, units: 16, top: 15},
	{bus: vm.BusLSILogic, scsi: true, class: "VirtualLsiLogicController", buses: 4, units: 16, top: 15},
	{bus: vm.BusSATA, class: "VirtualAHCIController", buses: 4, units: 30, top: 29},
	{bus: vm.BusNVMe, class: "VirtualNVMEController", buses: 4, units: 15, top: 14},
	{bus: vm.BusIDE, class: "VirtualIDEController", buses: 2, units: 2, top: 1},
	{bus: vm.BusLSIBus, scsi: true, class: "VirtualBusLogicController", buses: 4, units: 16, top: 15},
}

const scsiSelf = 7 // the unit of a SCSI controller on its own bus

// ideKey is the device key of IDE controller 0; every machine has the two
// (VirtualIDEController: keys 200 and 201).
const ideKey = 200

func kindOf(bus vm.Bus) (controllerKind, bool) {
	for _, k := range controllerKinds {
		if k.bus == bus {
			return k, true
		}
	}
	return controllerKind{}, false
}

// slot is where a disk is attached.
type slot struct {
	kind   controllerKind
	number int32 // of the bus
	unit   int32
}

func (s slot) String() string { return fmt.Sprintf("%s%d:%d", s.kind.class, s.number, s.unit) }

// assign gives every disk a slot: the one that its controller, number and unit
// ask for where that is valid and free, else the next free one of its kind of
// controller. Disks without a controller get the default for the guest.
func assign(disks []vm.Disk, guest vm.GuestOS) ([]slot, error) {
	var (
		out    = make([]slot, len(disks))
		placed = make([]bool, len(disks))
		taken  = map[string]map[[2]int32]bool{} // by family: {number, unit}
		models = map[int32]vm.Bus{}             // of the SCSI buses
	)
	family := func(k controllerKind) string {
		if k.scsi {
			return "scsi"
		}
		return string(k.bus)
	}
	take := func(i int, k controllerKind, number, unit int32) bool {
		f := family(k)
		if number < 0 || number >= k.buses || unit < 0 || unit > k.top || k.scsi && unit == scsiSelf {
			return false
		}
		if m, ok := models[number]; k.scsi && ok && m != k.bus {
			return false
		}
		if taken[f][[2]int32{number, unit}] {
			return false
		}
		if taken[f] == nil {
			taken[f] = map[[2]int32]bool{}
		}
		taken[f][[2]int32{number, unit}] = true
		if k.scsi {
			models[number] = k.bus
		}
		out[i], placed[i] = slot{k, number, unit}, true
		return true
	}
	kinds := make([]controllerKind, len(disks))
	for i, d := range disks {
		bus := d.Controller
		if bus == vm.BusUnspecified || bus == vm.BusSCSI {
			bus = defaultBus(guest)
		}
		k, ok := kindOf(bus)
		if !ok {
			return nil, target.Permanent(fmt.Sprintf("disk %d is on a %s controller, which vSphere does not have", i, d.Controller),
				"choose one of pvscsi, lsilogic-sas, lsilogic, sata, nvme, ide, buslogic")
		}
		kinds[i] = k
		if d.Controller != vm.BusUnspecified && d.ControllerNumber <= 255 && d.Unit <= 255 {
			take(i, k, int32(d.ControllerNumber), int32(d.Unit)) //nolint:gosec // bounded the line before
		}
	}
	for i, k := range kinds {
		for number := int32(0); number < k.buses && !placed[i]; number++ {
			for unit := int32(0); unit < k.units && !placed[i]; unit++ {
				take(i, k, number, unit)
			}
		}
		if !placed[i] {
			return nil, target.Permanent(fmt.Sprintf("disk %d does not fit: all %s controllers are full", i, k.bus),
				"spread the disks over other kinds of controller")
		}
	}
	return out, nil
}

// defaultBus is the controller of a disk whose order leaves it open. Windows
// has had a driver for LSI Logic SAS since 2008 and none for PVSCSI of its own.
func defaultBus(g vm.GuestOS) vm.Bus {
	if g.Family == vm.Windows {
		return vm.BusLSISAS
	}
	return vm.BusPVSCSI
}

// controllers makes the controller devices that slots need and returns the key
// by which a disk in a slot names its own. Keys are negative, as those of
// devices to be created are.
func controllers(slots []slot) (devices []types.BaseVirtualDevice, keyOf func(slot) int32) {
	type bus struct {
		class  string
		number int32
	}
	keys := map[bus]int32{}
	for _, s := range slots {
		b := bus{s.kind.class, s.number}
		if s.kind.bus == vm.BusIDE {
			keys[b] = ideKey + s.number
		}
		if _, ok := keys[b]; ok {
			continue
		}
		key := int32(-100 - len(keys))
		keys[b] = key
		devices = append(devices, newController(s.kind, key, s.number))
	}
	return devices, func(s slot) int32 { return keys[bus{s.kind.class, s.number}] }
}

func newController(k controllerKind, key, number int32) types.BaseVirtualDevice {
	c := types.VirtualController{VirtualDevice: types.VirtualDevice{Key: key}, BusNumber: number}
	scsi := types.VirtualSCSIController{
		VirtualController: c,
		SharedBus:         types.VirtualSCSISharingNoSharing,
	}
	switch k.bus {
	case vm.BusPVSCSI:
		return &types.ParaVirtualSCSIController{VirtualSCSIController: scsi}
	case vm.BusLSISAS:
		return &types.VirtualLsiLogicSASController{VirtualSCSIController: scsi}
	case vm.BusLSILogic:
		return &types.VirtualLsiLogicController{VirtualSCSIController: scsi}
	case vm.BusLSIBus:
		return &types.VirtualBusLogicController{VirtualSCSIController: scsi}
	case vm.BusSATA:
		return &types.VirtualAHCIController{VirtualSATAController: types.VirtualSATAController{VirtualController: c}}
	}
	return &types.VirtualNVMEController{VirtualController: c}
}

// slotsOf finds where the disks of a machine on the platform are attached.
func slotsOf(devices []types.BaseVirtualDevice) map[slotKey]*types.VirtualDisk {
	type ctrl struct {
		class  string
		number int32
	}
	byKey := map[int32]ctrl{}
	for _, d := range devices {
		c, ok := d.(types.BaseVirtualController)
		if !ok {
			continue
		}
		v := c.GetVirtualController()
		byKey[v.Key] = ctrl{typeName(d), v.BusNumber}
	}
	out := map[slotKey]*types.VirtualDisk{}
	for _, d := range devices {
		disk, ok := d.(*types.VirtualDisk)
		if !ok || disk.UnitNumber == nil {
			continue
		}
		c := byKey[disk.ControllerKey]
		out[slotKey{c.class, c.number, *disk.UnitNumber}] = disk
	}
	return out
}

// slotKey is a slot by the API's names.
type slotKey struct {
	class  string
	number int32
	unit   int32
}

func (s slot) key() slotKey { return slotKey{s.kind.class, s.number, s.unit} }
