package ovf

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"

	govmomi "github.com/vmware/govmomi/ovf"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/vm"
)

// machine is one with something of everything.
func machine() *vm.Machine {
	off := false
	return &vm.Machine{
		Name: `mail & "web" <1>`, CPU: vm.CPU{Sockets: 2, CoresPerSocket: 4}, Memory: 6*vm.GiB + 1,
		Firmware: vm.UEFI, SecureBoot: true, TPM: true, HardwareNote: "vmx-19", Annotation: "keep\nthis",
		Guest: vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64},
		Disks: []vm.Disk{
			{Index: 0, Size: 40 * vm.GiB, Controller: vm.BusPVSCSI, Unit: 0, Boot: true},
			{Index: 1, Size: 1<<41 + 512, Controller: vm.BusPVSCSI, Unit: 8},
			{Index: 2, Size: 512, Controller: vm.BusNVMe, ControllerNumber: 1, Unit: 3},
			{Index: 3, Size: vm.GiB, Controller: vm.BusIDE, ControllerNumber: 1, Unit: 1},
			{Index: 5, Size: vm.GiB, Controller: vm.BusVirtioBlk},
			{Index: 6, Size: vm.GiB, Controller: vm.BusLSISAS, ControllerNumber: 2, Unit: 4},
		},
		NICs: []vm.NIC{
			{MAC: "00:50:56:aa:bb:01", Model: vm.VMXNET3, Network: "prod & dev"},
			{MAC: "00:50:56:aa:bb:02", Model: vm.VirtioNet, Network: "prod & dev", Connected: &off},
			{Model: vm.E1000E},
		},
	}
}

func filesOf(m *vm.Machine) []File {
	var out []File
	for i := range m.Disks {
		out = append(out, File{Name: "disk-" + string(rune('1'+i)) + ".vmdk", Size: int64(1000 + i), Format: "vmdk", Subformat: "streamOptimized", Disk: i})
	}
	out[1].Size = -1
	return out
}

func TestMarshalReadByGovmomi(t *testing.T) {
	m := machine()
	b, err := Marshal(m, filesOf(m))
	if err != nil {
		t.Fatal(err)
	}
	e, err := govmomi.Unmarshal(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("govmomi cannot read it: %v\n%s", err, b)
	}
	if got := *e.VirtualSystem.Name; got != m.Name {
		t.Errorf("name %q, want %q", got, m.Name)
	}
	if len(e.References) != 6 || e.References[0].Href != "disk-1.vmdk" || e.References[0].Size != 1000 || e.References[1].Size != 0 {
		t.Errorf("references %+v", e.References)
	}
	if bytes.Count(b, []byte("ovf:size=")) != 5 {
		t.Error("an unknown size must leave the attribute out")
	}
	if e.Disk.Disks[1].Capacity != "2199023256064" || *e.Disk.Disks[0].Format != URIStreamOptimized {
		t.Errorf("disk %+v", e.Disk.Disks[1])
	}
	spec, err := e.ToConfigSpec()
	if err != nil {
		t.Fatalf("govmomi cannot turn it into a machine: %v\n%s", err, b)
	}
	if spec.NumCPUs != 8 || *spec.NumCoresPerSocket != 4 || spec.MemoryMB != 6*1024+1 || spec.Version != "vmx-19" || spec.Firmware != "efi" ||
		spec.BootOptions == nil || spec.BootOptions.EfiSecureBootEnabled == nil || !*spec.BootOptions.EfiSecureBootEnabled {
		t.Errorf("spec %+v", spec)
	}
	if spec.GuestId != "debian12_64Guest" {
		t.Errorf("guest id %q", spec.GuestId)
	}
	bus := map[int32]string{}
	var disks, tpms int
	var nics []string
	for _, c := range spec.DeviceChange {
		switch d := c.GetVirtualDeviceConfigSpec().Device.(type) {
		case *types.ParaVirtualSCSIController:
			bus[d.Key] = "pvscsi"
		case *types.VirtualLsiLogicSASController:
			bus[d.Key] = "sas"
		case *types.VirtualNVMEController:
			bus[d.Key] = "nvme"
		case *types.VirtualIDEController:
			bus[d.Key] = "ide"
		case *types.VirtualAHCIController:
			bus[d.Key] = "sata"
		case *types.VirtualDisk:
			want := []struct {
				bus  string
				unit int32
				size int64
			}{
				{"pvscsi", 0, 40 * vm.GiB},
				{"pvscsi", 8, 1<<41 + 512},
				{"nvme", 3, 512},
				{"ide", 1, vm.GiB},
				{"sata", 0, vm.GiB},
				{"sas", 4, vm.GiB},
			}[disks]
			if bus[d.ControllerKey] != want.bus || *d.UnitNumber != want.unit || d.CapacityInBytes != want.size {
				t.Errorf("disk %d on %s unit %d of %d bytes, want %+v", disks, bus[d.ControllerKey], *d.UnitNumber, d.CapacityInBytes, want)
			}
			disks++
		case *types.VirtualVmxnet3:
			nics = append(nics, "vmxnet3")
		case *types.VirtualE1000:
			nics = append(nics, "e1000")
		case *types.VirtualE1000e:
			nics = append(nics, "e1000e")
		}
	}
	if disks != 6 || strings.Join(nics, " ") != "vmxnet3 e1000 e1000e" {
		t.Errorf("%d disks, adapters %v", disks, nics)
	}
	for _, it := range e.VirtualSystem.VirtualHardware[0].Item { // govmomi makes no device of it
		if *it.ResourceType == typeVTPM && *it.ResourceSubType == subVTPM {
			tpms++
		}
	}
	if tpms != 1 {
		t.Errorf("%d TPMs", tpms)
	}
	again, err := Marshal(m, filesOf(m))
	if err != nil || !bytes.Equal(b, again) {
		t.Error("the same machine gives another descriptor")
	}
}

// The children of an item stand in the order of the CIM schema's sequence, which
// is the alphabet's; VMware's own come last.
func TestMarshalItemOrder(t *testing.T) {
	m := machine()
	b, err := Marshal(m, filesOf(m))
	if err != nil {
		t.Fatal(err)
	}
	items := regexp.MustCompile(`(?s)<Item.*?</Item>`).FindAllString(string(b), -1)
	if len(items) != 2+5+6+3+1 {
		t.Errorf("%d items", len(items))
	}
	for _, it := range items {
		var names []string
		for _, n := range regexp.MustCompile(`<(rasd|vmw):(\w+)`).FindAllStringSubmatch(it, -1) {
			names = append(names, n[1]+":"+n[2])
		}
		if len(names) < 4 || !slices.IsSorted(names) {
			t.Errorf("%q", names)
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	one := func() (*vm.Machine, []File) {
		m := &vm.Machine{Name: "a", CPU: vm.CPU{Sockets: 1}, Memory: vm.GiB, Disks: []vm.Disk{{Size: 512}}}
		return m, []File{{Name: "a.qcow2", Size: 1, Format: "qcow2"}}
	}
	if m, f := one(); true {
		if _, err := Marshal(m, f); err != nil {
			t.Fatalf("the honest one: %v", err)
		}
	}
	for name, spoil := range map[string]func(*vm.Machine, *[]File){
		"no processors":   func(m *vm.Machine, _ *[]File) { m.CPU = vm.CPU{} },
		"no memory":       func(m *vm.Machine, _ *[]File) { m.Memory = 0 },
		"no size":         func(m *vm.Machine, _ *[]File) { m.Disks[0].Size = 0 },
		"no file":         func(_ *vm.Machine, f *[]File) { *f = nil },
		"two files":       func(_ *vm.Machine, f *[]File) { *f = append(*f, (*f)[0]) },
		"no such disk":    func(_ *vm.Machine, f *[]File) { (*f)[0].Disk = 1 },
		"path":            func(_ *vm.Machine, f *[]File) { (*f)[0].Name = "../a.qcow2" },
		"dots":            func(_ *vm.Machine, f *[]File) { (*f)[0].Name = ".." },
		"unknown format":  func(_ *vm.Machine, f *[]File) { (*f)[0].Format = "img" },
		"too many on IDE": func(m *vm.Machine, f *[]File) { manyDisks(m, f, 5, vm.BusIDE) },
		"too many at all": func(m *vm.Machine, f *[]File) { manyDisks(m, f, 121, vm.BusVirtioSCSI) },
	} {
		t.Run(name, func(t *testing.T) {
			m, f := one()
			spoil(m, &f)
			if b, err := Marshal(m, f); err == nil {
				t.Fatalf("accepted:\n%s", b)
			}
		})
	}
}

func manyDisks(m *vm.Machine, f *[]File, n int, bus vm.Bus) {
	m.Disks, *f = nil, nil
	for i := range n {
		m.Disks = append(m.Disks, vm.Disk{Index: i, Size: 512, Controller: bus})
		*f = append(*f, File{Name: "d", Format: "raw", Disk: i})
	}
}

// A disk whose place another disk holds moves; the SCSI controller's own unit 7
// is given to none; two SCSI kinds do not share a controller.
func TestPlace(t *testing.T) {
	var disks []vm.Disk
	for range 16 {
		disks = append(disks, vm.Disk{Size: 1, Controller: vm.BusPVSCSI})
	}
	disks = append(disks, vm.Disk{Size: 1, Controller: vm.BusLSILogic}, vm.Disk{Size: 1, Controller: vm.BusPVSCSI, Unit: 3}, vm.Disk{Size: 1, Controller: vm.BusPVSCSI, Unit: 7})
	got, err := place(disks)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[spot]bool{}
	kind := map[controllerKey]string{}
	for i, s := range got {
		if s.unit == 7 {
			t.Errorf("disk %d on unit 7", i)
		}
		if seen[s] {
			t.Errorf("disk %d shares %+v", i, s)
		}
		if k := kind[s.key]; k != "" && k != s.subtype {
			t.Errorf("controller %+v is %s and %s", s.key, k, s.subtype)
		}
		seen[s], kind[s.key] = true, s.subtype
	}
	if got[17].unit != 3 || got[17].key.number != 0 {
		t.Errorf("the disk that could stay moved to %+v", got[17])
	}
}

func TestEscapeHref(t *testing.T) {
	for in, want := range map[string]string{
		"vm-disk1.vmdk":   "vm-disk1.vmdk",
		"my vm:1 50%.raw": "my%20vm%3A1%2050%25.raw",
		"ä?#.vmdk":        "%C3%A4%3F%23.vmdk",
	} {
		if got := escapeHref(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
