package ovf

import (
	"fmt"

	"ascend/internal/vm"
)

// class is a family of controllers that are numbered together.
type class uint8

const (
	classIDE class = iota
	classSCSI
	classSATA
	classNVMe
)

// kind says what a class can hold, by VMware's limits, which are the narrowest.
type kind struct {
	name     string
	resource int // ResourceType
	count    int // controllers
	units    int // places on each
	reserved int // a place that the controller itself takes; -1 for none
}

var kinds = map[class]kind{
	classIDE:  {"IDE Controller", typeIDE, 2, 2, -1},
	classSCSI: {"SCSI Controller", typeSCSI, 4, 16, 7},
	classSATA: {"SATA Controller", typeStorage, 4, 30, -1},
	classNVMe: {"NVMe Controller", typeStorage, 4, 15, -1},
}

type controllerKey struct {
	class  class
	number int
}

// spot is where a disk stands.
type spot struct {
	key     controllerKey
	subtype string
	unit    int
}

// controllerOf is the class and the subtype that stand for a bus. What OVF's
// readers have no name for becomes SATA.
func controllerOf(b vm.Bus) (class, string) {
	switch b {
	case vm.BusIDE:
		return classIDE, ""
	case vm.BusNVMe:
		return classNVMe, subNVMe
	case vm.BusLSILogic, vm.BusSCSI:
		return classSCSI, subLSILogic
	case vm.BusLSISAS:
		return classSCSI, subLSISAS
	case vm.BusLSIBus:
		return classSCSI, subBusLogic
	case vm.BusPVSCSI:
		return classSCSI, subPVSCSI
	}
	return classSATA, subAHCI
}

// place gives every disk a controller and a unit: its own where that exists and
// is free, else the next free one of the same kind.
func place(disks []vm.Disk) ([]spot, error) {
	out := make([]spot, 0, len(disks))
	subtypes := map[controllerKey]string{}
	taken := map[spot]bool{}
	fits := func(s spot) bool {
		k := kinds[s.key.class]
		if s.key.number < 0 || s.key.number >= k.count || s.unit < 0 || s.unit >= k.units || s.unit == k.reserved {
			return false
		}
		have, ok := subtypes[s.key]
		return (!ok || have == s.subtype) && !taken[s]
	}
	// Disks that stand where they can stay go first, so that no other disk takes
	// their place.
	placed := make([]bool, len(disks))
	for i, d := range disks {
		c, sub := controllerOf(d.Controller)
		s := spot{controllerKey{c, d.ControllerNumber}, sub, d.Unit}
		if fits(s) {
			placed[i], taken[s], subtypes[s.key] = true, true, sub
		}
		out = append(out, s)
	}
	for i := range disks {
		if placed[i] {
			continue
		}
		s, ok := free(out[i], fits)
		if !ok {
			return nil, fmt.Errorf("no place left on an %s for disk %d", kinds[out[i].key.class].name, i)
		}
		taken[s], subtypes[s.key], out[i] = true, s.subtype, s
	}
	return out, nil
}

// free finds the lowest place of the spot's kind.
func free(s spot, fits func(spot) bool) (spot, bool) {
	k := kinds[s.key.class]
	for s.key.number = range k.count {
		for s.unit = range k.units {
			if fits(s) {
				return s, true
			}
		}
	}
	return s, false
}
