package plan

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/image"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// blank is a disk of zeros of any size.
type blank int64

func (d blank) Size() int64 { return int64(d) }
func (d blank) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}
func (d blank) Extents(_ context.Context, off, n int64, yield func(disk.Extent) error) error {
	return yield(disk.Extent{Off: off, Len: min(n, int64(d)-off)})
}
func (d blank) Unchanged() error { return nil }
func (d blank) Close() error     { return nil }
func (d blank) Info() disk.Info  { return disk.Info{Format: "raw", Size: int64(d)} }

// source is a disk of which the first MiB is allocated.
func source(size int64) Source {
	m := disk.NewMap(size, 65536)
	n := min(size, 1<<20)
	if n > 0 {
		m.Add(0, n)
	}
	m.Seal()
	return Source{Image: blank(size), Info: disk.Info{Format: "raw", Size: size, Allocated: n}, Map: m}
}

// request is one that no rule finds anything in.
func request() *Request {
	return &Request{
		Backup: BackupRef{ID: "b1", VM: "web"}, Target: TargetRef{Name: "there", Platform: vm.Local},
		Machine: &vm.Machine{
			Name: "web", CPU: vm.CPU{Sockets: 2, CoresPerSocket: 1}, Memory: 2 * vm.GiB, Firmware: vm.BIOS, Guest: vm.GuestOS{Arch: vm.AMD64},
			Disks: []vm.Disk{{Size: 8 << 20, Controller: vm.BusSATA}, {Index: 3, Size: 4 << 20, Controller: vm.BusSATA, Unit: 1}},
			NICs:  []vm.NIC{{Model: vm.E1000, Network: "lan", MAC: "00:11:22:33:44:55"}},
		},
		Caps: target.Capabilities{
			Platform: vm.Local, Deliveries: []target.Delivery{
				{Format: image.Format{Name: "raw"}, Path: "file"},
				{Format: image.Format{Name: "vpc", Subformat: "dynamic"}, Path: "file"},
			},
			Firmware: []vm.Firmware{vm.BIOS, vm.UEFI}, SecureBoot: true, TPM: true, Arch: []vm.Arch{vm.AMD64},
			Controllers: []vm.Bus{vm.BusSATA, vm.BusIDE}, NICModels: []vm.NICModel{vm.E1000}, KeepsMAC: true, KeepsUUID: true,
			MaxDisks: 2, MaxNICs: 1, MaxCPUs: 4, MaxMemory: 4 * vm.GiB, MaxDiskSize: vm.TiB, NeedsNetwork: true,
		},
		Inventory: &target.Inventory{Networks: []target.Place{{Name: "prod"}, {Name: "/dc/network/test"}}, Taken: []string{"db"}},
		Sources:   []Source{source(8 << 20), source(4 << 20)},
		Placement: target.Placement{Networks: []string{"prod"}},
		Seed:      "b1", Now: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	}
}

func codes(p *Plan) []string {
	var out []string
	for _, f := range p.Findings {
		out = append(out, f.Code)
	}
	return out
}

func setDisks(r *Request, sizes ...int64) {
	r.Sources, r.Machine.Disks = nil, nil
	for i, n := range sizes {
		r.Sources = append(r.Sources, source(n))
		r.Machine.Disks = append(r.Machine.Disks, vm.Disk{Index: i, Size: n})
	}
}

func TestFaultless(t *testing.T) {
	r := request()
	p, err := Make(*r)
	if err != nil || len(p.Findings) > 0 || len(p.Changes) != 1 || p.Changes[0].To != "prod" || p.Stopped() {
		t.Fatalf("%v %+v", err, p)
	}
	if p.Estimate.Allocated != 2<<20 || p.Estimate.Virtual != 12<<20 || p.Estimate.Staging != 0 || p.Disks[1].Index != 3 || p.Disks[0].FileSize != 8<<20 {
		t.Errorf("%+v %+v", p.Estimate, p.Disks)
	}
	o := p.Order("j1")
	if o.Job != "j1" || len(o.Disks) != 2 || o.Disks[1].Virtual != 4<<20 || o.Machine.Name != "web" || o.Placement.Networks[0] != "prod" {
		t.Errorf("%+v", o)
	}
}

func TestTranslate(t *testing.T) {
	r := request()
	r.Name = "new"
	r.Target.Platform = vm.VMware
	r.Machine.CPU, r.Machine.Memory, r.Machine.Firmware, r.Machine.UUID = vm.CPU{}, 0, "", "u"
	r.Machine.TPM, r.Machine.SecureBoot = true, true
	r.Machine.NICs[0].Model = vm.ENA
	r.Machine.Disks = nil
	r.Sources = nil
	for i := range 18 { // the disk on SATA stays, although others come before it
		d := vm.Disk{Index: i, Size: 1 << 20, Controller: vm.BusVirtioBlk}
		if i == 5 {
			d.Controller = vm.BusSATA
		}
		r.Machine.Disks = append(r.Machine.Disks, d)
		r.Sources = append(r.Sources, source(1<<20))
	}
	r.Caps.KeepsMAC, r.Caps.KeepsUUID, r.Caps.TPM, r.Caps.SecureBoot = false, false, false, false
	p, err := Make(*r)
	if err != nil {
		t.Fatal(err)
	}
	m := p.Machine
	if m.Name != "new" || m.CPU != (vm.CPU{Sockets: 1, CoresPerSocket: 1}) || m.Memory != vm.GiB || m.Firmware != vm.BIOS || m.UUID != "" || m.TPM || m.SecureBoot ||
		m.Platform != vm.VMware || m.NICs[0].Model != vm.E1000 || m.NICs[0].MAC != "" {
		t.Errorf("%+v", m)
	}
	taken := map[[2]int]bool{}
	for _, d := range m.Disks {
		at := [2]int{d.ControllerNumber, d.Unit}
		if d.Controller != vm.BusSATA || taken[at] || d.Unit > 29 {
			t.Errorf("disk %d is at %s %v", d.Index, d.Controller, at)
		}
		taken[at] = true
	}
	if d := m.Disks[5]; d.ControllerNumber != 0 || d.Unit != 0 {
		t.Errorf("the disk that was on SATA moved to %d:%d", d.ControllerNumber, d.Unit)
	}
	for _, field := range []string{"name", "cpu", "memory", "firmware", "secure boot", "tpm", "uuid", "nic 0 model", "nic 0 mac", "nic 0 network", "disk 0 controller"} {
		if !slices.ContainsFunc(p.Changes, func(c Change) bool { return c.Field == field && c.Reason != "" && c.From != c.To }) {
			t.Errorf("the change of %s is not told: %+v", field, p.Changes)
		}
	}
	if r.Machine.Name != "web" || r.Machine.Disks[0].Controller != vm.BusVirtioBlk || p.Source.Memory != 0 {
		t.Error("the source's machine was changed")
	}
}

func TestDeliver(t *testing.T) {
	r := request()
	vpc := image.Format{Name: "vpc", Subformat: "dynamic"}
	setDisks(r, 3*vm.TiB)
	r.Caps.MaxDiskSize = 0
	r.Format = &vpc
	p, err := Make(*r)
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.Index(codes(p), "disk-format-limit"); i < 0 || p.Findings[i].Severity != Critical || !p.Stopped() {
		t.Errorf("%+v", p.Findings)
	}
	r = request()
	r.Format = &vpc
	if p, err = Make(*r); err != nil || p.Disks[0].Delivery.Format != vpc || p.Stopped() {
		t.Errorf("%v %+v", err, p)
	}
	r.Path = "nfc"
	if _, err = Make(*r); err == nil || !strings.Contains(err.Error(), "file:raw, file:vpc/dynamic") {
		t.Errorf("%v", err)
	}
	r = request()
	r.Sources = r.Sources[:1]
	if _, err := Make(*r); err == nil {
		t.Error("disks without a source were planned")
	}
}
