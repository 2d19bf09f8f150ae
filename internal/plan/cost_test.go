package plan

import (
	"strings"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/prices"
	"ascend/internal/target"
	"ascend/internal/vm"
)

// TestCosts compares ten estimates with computations by hand. The prices are
// those of 2025-05-28: machines an hour, storage a month, 730 hours a month.
func TestCosts(t *testing.T) {
	const gib = vm.GiB
	card := &prices.RateCard{Currency: "EUR", Date: "2026-01-01", CPU: 6.5, Memory: 1.8, Windows: 12, Storage: map[string]float64{"default": 0.05, "fast": 0.12}}
	for i, c := range []struct {
		what     string
		on       vm.Platform
		region   string
		guest    vm.GuestOS
		disks    []int64 // bytes
		data     int64   // allocated bytes of each disk
		field    map[string]string
		storage  []string
		volumes  []target.Volume
		once     string
		total    string
		currency string
		note     string // part of a line, or of what is left out
	}{
		{what: "m7i.large Linux: 0.1008 × 730 = 73.584; gp3 100 × 0.08 = 8", on: vm.AWS, region: "us-east-1", guest: linux("debian", "12"), disks: []int64{100 * gib}, data: gib,
			field: map[string]string{"instance_type": "m7i.large"}, once: "0.01" /* 2,048 puts × 0.000006 = 0.012288 */, total: "81.58", currency: "USD"},
		{what: "m7i.large Windows: 0.1928 × 730 = 140.744; gp3 8", on: vm.AWS, region: "us-east-1", guest: server("2022"), disks: []int64{100 * gib}, data: gib,
			field: map[string]string{"instance_type": "m7i.large"}, once: "0.01", total: "148.74", currency: "USD"},
		{what: "eu-west-1: 0.11235 × 730 = 82.0155; gp3 100 × 0.088 = 8.8", on: vm.AWS, region: "eu-west-1", guest: linux("debian", "12"), disks: []int64{100 * gib}, data: gib,
			field: map[string]string{"instance_type": "m7i.large"}, once: "0.01", total: "90.82", currency: "USD"},
		{what: "gp3 with 6000 IOPS and 500 MiB/s: 73.584 + 500 × 0.08 + 3000 × 0.005 + 375 × 0.04 = 73.584 + 40 + 15 + 15", on: vm.AWS, region: "us-east-1", guest: linux("debian", "12"), disks: []int64{500 * gib}, data: 100 * gib,
			field: map[string]string{"instance_type": "m7i.large"}, volumes: []target.Volume{{IOPS: 6000, Throughput: 500}}, once: "1.23" /* 204,800 puts = 1.2288 */, total: "143.58", currency: "USD"},
		{what: "io2 40,000 IOPS: 73.584 + 1000 × 0.125 + 32000 × 0.065 + 8000 × 0.0455 = 73.584 + 125 + 2080 + 364", on: vm.AWS, region: "us-east-1", guest: linux("debian", "12"), disks: []int64{1000 * gib}, data: gib,
			field: map[string]string{"instance_type": "m7i.large"}, storage: []string{"io2"}, volumes: []target.Volume{{IOPS: 40000}}, once: "0.01", total: "2642.58", currency: "USD"},
		{what: "gp2 and st1 in eu-central-1: 0.12075 × 730 = 88.1475; 50 × 0.119 = 5.95; 500 × 0.054 = 27", on: vm.AWS, region: "eu-central-1", guest: linux("debian", "12"), disks: []int64{50 * gib, 500 * gib}, data: gib,
			field: map[string]string{"instance_type": "m7i.large"}, storage: []string{"gp2", "st1"}, once: "0.02" /* 4,096 puts = 0.024576 */, total: "121.10", currency: "USD"},
		{what: "a dense TiB is 2,097,152 puts = 12.582912; 73.584 + 1024 × 0.08 = 81.92", on: vm.AWS, region: "us-east-1", guest: linux("debian", "12"), disks: []int64{1024 * gib}, data: 1024 * gib,
			field: map[string]string{"instance_type": "m7i.large"}, once: "12.58", total: "155.50", currency: "USD"},
		{what: "D4s v6 Linux: 0.202 × 730 = 147.46; 100 GiB are an E10: 9.60", on: vm.Azure, region: "eastus", guest: linux("debian", "12"), disks: []int64{100 * gib}, data: gib,
			field: map[string]string{"vm_size": "Standard_D4s_v6"}, once: "0.00", total: "157.06", currency: "USD"},
		{what: "B2s Windows in westeurope: 0.056 × 730 = 40.88; P10 19.71, at the price of eastus", on: vm.Azure, region: "westeurope", guest: server("2019"), disks: []int64{128 * gib}, data: gib,
			field: map[string]string{"vm_size": "Standard_B2s"}, storage: []string{"Premium_LRS"}, once: "0.00", total: "60.59", currency: "USD", note: "at the price of eastus"},
		{what: "rate card: 2 × 6.5 + 8 × 1.8 + 12 + 100 × 0.12 + 50 × 0.05 = 13 + 14.4 + 12 + 12 + 2.5", on: vm.VMware, guest: server("2019"), disks: []int64{100 * gib, 50 * gib}, data: gib,
			storage: []string{"fast", ""}, total: "53.90", currency: "EUR", note: "rate card does not list"},
	} {
		s := specimen{name: "m", machine: with(m(vm.VMware, c.guest, vm.UEFI, 2, 8, vm.BusNVMe, vm.E1000E, "prod"), func(x *vm.Machine) {
			for i, n := range c.disks {
				x.Disks = append(x.Disks, vm.Disk{Index: i, Size: n})
			}
		})}
		r := goldenRequest(s, c.on)
		r.Inventory.Region, r.Placement.Storage, r.Placement.Volumes = c.region, c.storage, c.volumes
		if c.field != nil {
			r.Placement.Fields = c.field
		}
		for k := range r.Sources {
			r.Sources[k] = denseSource(c.disks[k], c.data)
		}
		book := *prices.Builtin()
		book.Rates = card
		r.Prices = &book
		p, err := Make(*r)
		if err != nil {
			t.Fatal(err)
		}
		k := p.Estimate.Cost
		if k == nil {
			t.Errorf("%d, %s: no cost", i, c.what)
			continue
		}
		once := ""
		if len(k.Once) > 0 {
			once = k.Once[0].Amount
		}
		date := "2025-05-28"
		if c.on == vm.VMware {
			date = "2026-01-01"
		}
		if k.Total != c.total || once != c.once || k.Currency != c.currency || k.Date != date || len(k.LeftOut) == 0 {
			t.Errorf("%d, %s: %+v", i, c.what, k)
		}
		if text := strings.Join(k.LeftOut, "; ") + lines(k.Monthly); !strings.Contains(text, c.note) {
			t.Errorf("%d: %q is not said: %s", i, c.note, text)
		}
	}
}

func lines(list []CostLine) string {
	var b strings.Builder
	for _, l := range list {
		b.WriteString(l.What + "\n")
	}
	return b.String()
}

// denseSource is a disk of which the first data bytes are allocated.
func denseSource(size, data int64) Source {
	s := source(size)
	mp := disk.NewMap(size, disk.LeafSize)
	mp.Add(0, data)
	mp.Seal()
	s.Map, s.Info.Allocated = mp, data
	return s
}
