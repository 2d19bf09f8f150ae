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

// TestRules changes the faultless request so that each rule finds something,
// and so that it just does not.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		code     string
		severity Severity
		find     func(r *Request)
		spare    func(r *Request)
		text     string
	}{
		{"no-disks", Critical, func(r *Request) { setDisks(r) }, func(r *Request) { setDisks(r, 1<<20) }, "no disks"},
		{"zero-size-disk", Critical, func(r *Request) { setDisks(r, 1<<20, 0) }, func(r *Request) { setDisks(r, 512) }, "disk 1 has no size"},
		{"empty-disk", Warning, func(r *Request) { r.Sources[1].Info.Allocated = 0 }, func(r *Request) { r.Sources[1].Info.Allocated = 1 }, "disk 3 holds no data"},
		{"vm-name", Critical, func(r *Request) { r.Name = " \t" }, func(r *Request) { r.Name = "wéb \"$(id)\" 1" }, "no name"},
		{"vm-name", Critical, func(r *Request) { r.Name = "a\nb" }, func(r *Request) { r.Name = "a b" }, `"a\nb"`},
		{"name-taken", Critical, func(r *Request) { r.Name = "db" }, func(r *Request) { r.Name = "DB2" }, `"db"`},
		{"disk-count", Critical, func(r *Request) { setDisks(r, 1<<20, 1<<20, 1<<20) }, func(r *Request) { setDisks(r, 1<<20, 1<<20) }, "3 disks and the target takes 2"},
		{"disk-size", Critical, func(r *Request) { setDisks(r, vm.TiB+512) }, func(r *Request) { setDisks(r, vm.TiB) }, "the target takes 1.00 TiB"},
		{"disk-padded", Information, func(r *Request) { r.Caps.Deliveries[0].Align = 16 << 20 }, func(r *Request) { r.Caps.Deliveries[0].Align = 4 << 20 }, "from 8388608 to 16777216"},
		{"cpu-limit", Critical, func(r *Request) { r.Machine.CPU.Sockets = 5 }, func(r *Request) { r.Machine.CPU = vm.CPU{Sockets: 2, CoresPerSocket: 2} }, "5 processors"},
		{"memory-limit", Critical, func(r *Request) { r.Machine.Memory = 4*vm.GiB + 1 }, func(r *Request) { r.Machine.Memory = 4 * vm.GiB }, "4.00 GiB"},
		{"cpu-unknown", Information, func(r *Request) { r.Machine.CPU = vm.CPU{} }, func(r *Request) { r.Machine.CPU = vm.CPU{Sockets: 1} }, "processors"},
		{"memory-unknown", Information, func(r *Request) { r.Machine.Memory = 0 }, func(r *Request) { r.Machine.Memory = 1 }, "memory"},
		{"firmware-unknown", Information, func(r *Request) { r.Machine.Firmware = "" }, func(r *Request) { r.Machine.Firmware = vm.UEFI }, "BIOS or UEFI; it will by bios"},
		{"firmware-unsupported", Critical, func(r *Request) { r.Caps.Firmware = []vm.Firmware{vm.UEFI} }, func(r *Request) { r.Caps.Firmware = nil }, "by bios"},
		{"arch-unsupported", Critical, func(r *Request) { r.Machine.Guest.Arch = vm.ARM64 }, func(r *Request) { r.Machine.Guest.Arch = "" }, "arm64"},
		{"uefi-nvram", Information, func(r *Request) { r.Machine.Firmware, r.Target.Platform = vm.UEFI, vm.VMware }, func(r *Request) { r.Machine.Firmware = vm.UEFI }, "start empty"},
		{"secure-boot-lost", Warning, func(r *Request) { r.Machine.SecureBoot, r.Caps.SecureBoot = true, false }, func(r *Request) { r.Machine.SecureBoot = true }, "switched off"},
		{"vtpm-lost", Warning, func(r *Request) { r.Machine.TPM = true }, func(r *Request) { r.Caps.TPM = false }, "virtual TPM"},
		{"shared-disk", Warning, func(r *Request) { r.Machine.Disks[1].Shared = true }, func(r *Request) { r.Machine.Disks[1].ReadOnly = true }, "disk 3 was shared"},
		{"boot-disk", Information, func(r *Request) { r.Machine.Disks[1].Boot = true }, func(r *Request) { r.Machine.Disks[0].Boot = true }, "disk 3"},
		{"nic-count", Critical, func(r *Request) { r.Machine.NICs = make([]vm.NIC, 2) }, func(r *Request) { r.Machine.NICs = make([]vm.NIC, 1) }, "2 network adapters"},
		{"no-nic", Information, func(r *Request) { r.Machine.NICs = nil }, func(r *Request) { r.Machine.NICs = make([]vm.NIC, 1) }, "no network adapter"},
		{"network-unmapped", Critical, func(r *Request) { r.Placement.Networks = []string{""} }, func(r *Request) { r.Placement.Networks, r.Caps.NeedsNetwork = nil, false }, `"lan") has no network on the target; it has prod`},
		{"network-missing", Critical, func(r *Request) { r.Placement.Networks = []string{"moon"} }, func(r *Request) { r.Placement.Networks = []string{"test"} }, `"moon"`},
		{"source-note", Information, func(r *Request) { r.Sources[1].Info.Notes = []string{"log replayed"} }, func(r *Request) { r.Sources[1].Info.Notes = nil }, "disk 3: log replayed"},
	} {
		r := request()
		c.find(r)
		p, err := Make(*r)
		if err != nil {
			t.Errorf("%s: %v", c.code, err)
			continue
		}
		i := slices.Index(codes(p), c.code)
		if i < 0 || p.Findings[i].Severity != c.severity || !strings.Contains(p.Findings[i].Text, c.text) {
			t.Errorf("%s: found %+v", c.code, p.Findings)
			continue
		}
		if c.severity == Critical && !p.Stopped() {
			t.Errorf("%s does not stop the plan", c.code)
		}
		r = request()
		c.spare(r)
		if p, err = Make(*r); err != nil || slices.Contains(codes(p), c.code) {
			t.Errorf("%s: found where nothing is: %v", c.code, err)
		}
	}
}

// TestEveryRuleIsTested fails when a rule is added that TestRules does not know.
func TestEveryRuleIsTested(t *testing.T) {
	if n := len(Rules()); n != 25 {
		t.Errorf("%d rules; TestRules must have both sides of each", n)
	}
	seen := map[string]bool{}
	for _, r := range Rules() {
		if seen[r.Code] || r.Code == "" || !slices.Contains([]Severity{Critical, Warning, Information}, r.Severity) || r.Advice == "" && r.Code != "source-note" {
			t.Errorf("%+v", r)
		}
		seen[r.Code] = true
	}
}

func TestFaultless(t *testing.T) {
	r := request()
	p, err := Make(*r)
	if err != nil || len(p.Findings) > 0 || len(p.Changes) != 1 || p.Changes[0].To != "prod" || p.Stopped() {
		t.Fatalf("%v %+v", err, p)
	}
	if p.Estimate != (Estimate{Allocated: 2 << 20, Virtual: 12 << 20}) || p.Disks[1].Index != 3 || p.Disks[0].FileSize != 8<<20 {
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
	slots := map[[2]int]bool{}
	for _, d := range m.Disks {
		at := [2]int{d.ControllerNumber, d.Unit}
		if d.Controller != vm.BusSATA || slots[at] || d.Unit > 14 || d.Unit == 7 {
			t.Errorf("disk %d is at %s %v", d.Index, d.Controller, at)
		}
		slots[at] = true
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
