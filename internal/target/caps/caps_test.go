package caps

import (
	"slices"
	"testing"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// TestTables holds every table to what plans rely on.
func TestTables(t *testing.T) {
	for _, p := range Targets() {
		c := For(p)
		tr := c.Traits
		if c.Platform != p || tr == nil || len(c.Deliveries) == 0 || len(c.Firmware) == 0 || len(c.Arch) == 0 || len(c.Controllers) == 0 || len(c.NICModels) == 0 || tr.Rate <= 0 || tr.Clock != "utc" && tr.Clock != "guest" {
			t.Errorf("%s: the table has holes: %+v", p, c)
		}
		for _, d := range c.Deliveries {
			if i, err := d.Format.Info(); err != nil || i.Format != d.Format || d.Format.Ordered() && d.Mode != target.Ordered {
				t.Errorf("%s: delivery %+v: %v", p, d, err)
			}
		}
		if f := tr.SizeField; f != "" && !slices.ContainsFunc(c.Fields, func(x target.Field) bool { return x.Name == f && x.Required }) {
			t.Errorf("%s: the size's field %s is not a required field", p, f)
		}
		if f := tr.StorageField; !slices.ContainsFunc(c.Fields, func(x target.Field) bool { return x.Name == f }) {
			t.Errorf("%s: the storage field %s is not a field", p, f)
		}
		for f, l := range tr.Firmware {
			if !slices.Contains(c.Firmware, f) || l.BootBus != "" && !slices.Contains(l.Controllers, l.BootBus) {
				t.Errorf("%s %s: %+v", p, f, l)
			}
			for _, a := range l.Arch {
				if !slices.Contains(c.Arch, a) {
					t.Errorf("%s %s: %s is not an architecture of the platform", p, f, a)
				}
			}
		}
		for _, s := range tr.Classes {
			if s.Name == "" || s.Help == "" || s.MaxSize <= s.MinSize || s.IOPS.Max < s.IOPS.Min {
				t.Errorf("%s: class %+v", p, s)
			}
		}
		if len(tr.Drivers.LinuxStorage) == 0 || len(tr.Drivers.LinuxNet) == 0 || len(tr.Drivers.WindowsStorage) == 0 || (tr.Drivers.PackNet || tr.Drivers.PackStorage) != (tr.Drivers.Pack != "") {
			t.Errorf("%s: drivers %+v", p, tr.Drivers)
		}
	}
}

func TestFill(t *testing.T) {
	own := &target.Traits{Rate: 1}
	if c := Fill(target.Capabilities{Platform: vm.AWS, Traits: own}); c.Traits != own {
		t.Error("a connector's own traits were replaced")
	}
	if c := Fill(target.Capabilities{Platform: vm.AWS}); c.Traits == nil || c.Traits.SizeField != InstanceType {
		t.Error("no traits were filled in")
	} else if gp3, ok := c.Traits.Class("gp3"); !ok || gp3.IOPS.Max != 0 || gp3.MaxSize == 0 || c.Traits.Groups || c.Traits.Addresses != nil {
		t.Errorf("a silent connector is taken to do what it may not: %+v", c.Traits)
	}
	if gp3, _ := For(vm.AWS).Traits.Class("gp3"); gp3.IOPS.Max == 0 {
		t.Error("the table was changed")
	}
	if c := For(vm.Local); c.Traits == nil || c.MaxDisks != 0 {
		t.Errorf("%+v", c)
	}
}
