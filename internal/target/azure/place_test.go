package azure

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"ascend/internal/target"
	"ascend/internal/target/azure/armsim"
	"ascend/internal/target/caps"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// props digs in what a resource's GET answers.
func props(t testing.TB, s sim, id string) map[string]any {
	t.Helper()
	p := s.Properties(id)
	if p == nil {
		t.Fatalf("there is no %s", id)
	}
	return p
}

// A machine with everything that can be chosen.
func TestEverythingPlaced(t *testing.T) {
	s := newSim(t, armsim.Options{})
	o, rec, tgt := s.order(t, "Büro №5", 21, 20, 22), new(targettest.MemRecorder), s.open(t)
	m := o.Machine
	m.Firmware, m.SecureBoot, m.TPM, m.Guest.Family = vm.UEFI, true, true, vm.Windows
	m.Disks[0].Boot, m.Disks[1].Boot = false, true
	m.NICs = append(m.NICs, vm.NIC{Name: "b"})
	o.Placement = target.Placement{
		Fields: map[string]string{
			caps.VMSize: "standard_d8s_V5", fieldZone: "2", fieldNetwork: armsim.OtherGroup + "/" + armsim.Network + "/desktops",
			fieldDES: armsim.EncryptionSet, fieldSKU: "Premium_LRS", fieldSecurity: armsim.OtherGroup + "/" + armsim.SecurityGroup,
		},
		Networks: []string{armsim.OtherGroup + "/" + armsim.Network + "/" + armsim.Subnet, ""},
		Storage:  []string{"", "StandardSSD_ZRS", "PremiumV2_LRS"},
		Volumes:  []target.Volume{{}, {}, {IOPS: 4000, Throughput: 200}},
		Adapters: []target.Adapter{{Address: target.AddressKeep}, {Address: target.AddressNew, Addresses: []string{"10.20.2.9"}}},
	}
	o.Options = map[string]string{optPublicIP: "new", optDiagnostics: "managed", optLicense: "Windows_Server", optTags: "cost=4711, owner = Grüße", optAccelerated: "true"}
	sess := begin(t, tgt, o, rec)
	land(t, sess, o)
	v, err := sess.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	vmNow := s.Machine(v.ID)
	if vmNow == nil {
		t.Fatal("there is no machine")
	}
	if !vmNow.TrustedLaunch || !vmNow.SecureBoot || !vmNow.TPM || !vmNow.BootDiag || vmNow.License != "Windows_Server" ||
		!slices.Equal(vmNow.Zones, []string{"2"}) || vmNow.Tags["cost"] != "4711" || vmNow.Tags["owner"] != "Grüße" || vmNow.Tags[machineTag] != "Büro №5" || vmNow.Tags[jobTag] != o.Job {
		t.Errorf("%+v", vmNow)
	}
	if !strings.Contains(vmNow.OSDisk, "-disk-1-") || len(vmNow.DataDisks) != 2 || !strings.Contains(vmNow.DataDisks[0], "-disk-0-") || !strings.Contains(vmNow.DataDisks[1], "-disk-2-") {
		t.Errorf("disks: %s, %v", vmNow.OSDisk, vmNow.DataDisks)
	}
	for i, want := range []string{"Premium_LRS", "StandardSSD_ZRS", "PremiumV2_LRS"} {
		id := append([]string{vmNow.DataDisks[0], vmNow.OSDisk}, vmNow.DataDisks[1])[i]
		d := props(t, s, id)
		p := d["properties"].(map[string]any)
		if d["sku"].(map[string]any)["name"] != want || p["encryption"] == nil || (d["zones"] == nil) != (i == 1) {
			t.Errorf("disk %d: %v", i, d)
		}
		if i == 2 && (p["diskIOPSReadWrite"] != 4000 || p["diskMBpsReadWrite"] != 200) {
			t.Errorf("disk 2: %v", p)
		}
		if i == 1 && (p["osType"] != "Windows" || p["hyperVGeneration"] != "V2") {
			t.Errorf("disk 1: %v", p)
		}
		file, err := s.Disk(id)
		if err != nil || !slices.Equal(file, content(t, o, i)) {
			t.Errorf("disk %d holds other bytes (%v)", i, err)
		}
	}
	var nics []nicProperties
	for _, id := range vmNow.NICs {
		var n resource[nicProperties]
		if err := tgt.c.get(t.Context(), id, apiNetwork, &n); err != nil {
			t.Fatal(err)
		}
		nics = append(nics, n.Properties)
	}
	a, b := nics[0].Configurations[0].Properties, nics[1].Configurations[0].Properties
	if a.Address != "10.20.1.77" || a.Public == nil || !strings.HasSuffix(a.Subnet.ID, "/"+armsim.Subnet) || nics[0].Group == nil || !nics[0].Accelerated {
		t.Errorf("the first adapter: %+v", nics[0])
	}
	if b.Address != "10.20.2.9" || b.Public != nil || !strings.HasSuffix(b.Subnet.ID, "/desktops") {
		t.Errorf("the second adapter: %+v", nics[1])
	}
	gone(t, s, tgt, rec)
}

// A machine in an availability set, with no choices and no adapters.
func TestPlainPlaced(t *testing.T) {
	s := newSim(t, armsim.Options{})
	o, rec, tgt := s.order(t, "plain", 20), new(targettest.MemRecorder), s.open(t)
	o.Machine.NICs, o.Placement.Networks = nil, nil
	o.Placement.Fields = map[string]string{caps.VMSize: "Standard_D2_v3", fieldSet: armsim.AvailSet, fieldNetwork: armsim.OtherGroup + "/" + armsim.Network + "/" + armsim.Subnet}
	o.Options = map[string]string{optDiagnostics: "none"}
	sess := begin(t, tgt, o, rec)
	land(t, sess, o)
	v, err := sess.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Machine(v.ID); m.BootDiag || m.TrustedLaunch || !strings.HasSuffix(m.Set, armsim.AvailSet) || len(m.NICs) != 1 || m.Power != "deallocated" {
		t.Errorf("%+v", m)
	}
	gone(t, s, tgt, rec)
}

// A size that has NVMe only.
func TestNVMePlaced(t *testing.T) {
	s := newSim(t, armsim.Options{})
	o, rec, tgt := s.order(t, "nvme", 20), new(targettest.MemRecorder), s.open(t)
	o.Machine.Firmware = vm.UEFI
	o.Placement.Fields[caps.VMSize] = "Standard_D4s_v6"
	sess := begin(t, tgt, o, rec)
	land(t, sess, o)
	v, err := sess.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Machine(v.ID); m.Controller != "NVMe" || m.TrustedLaunch {
		t.Errorf("%+v", m)
	}
	gone(t, s, tgt, rec)
}

// The guest of a machine that is to run starts once, and after its disks could
// be verified.
func TestStartsOnce(t *testing.T) {
	s := newSim(t, armsim.Options{})
	o, rec, tgt := s.order(t, "once", 20), new(targettest.MemRecorder), s.open(t)
	o.PowerOn = true
	sess := begin(t, tgt, o, rec)
	land(t, sess, o)
	v, err := sess.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m := s.Machine(v.ID); m != nil {
		t.Errorf("the machine runs before it was verified: %+v", m)
	}
	for range 2 {
		if err := sess.PowerOn(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	puts, others := 0, 0
	for _, r := range s.Requests() {
		switch {
		case strings.HasPrefix(r, "PUT ") && strings.Contains(r, "/virtualMachines/"):
			puts++
		case strings.Contains(r, "/virtualMachines/"):
			others++
		}
	}
	if m := s.Machine(v.ID); puts != 1 || others != 0 || m == nil || m.Power != "running" {
		t.Errorf("made %d times, %d other changes, %+v", puts, others, m)
	}
	gone(t, s, tgt, rec)
}

// What cannot work is refused before anything is made.
func TestRefusedBeforeByteOne(t *testing.T) {
	subnet := armsim.OtherGroup + "/" + armsim.Network + "/" + armsim.Subnet
	field := func(kv ...string) func(*target.Order) {
		return func(o *target.Order) {
			for i := 0; i < len(kv); i += 2 {
				o.Placement.Fields[kv[i]] = kv[i+1]
			}
		}
	}
	for name, c := range map[string]struct {
		change func(o *target.Order)
		say    string
	}{
		"no size":               {func(o *target.Order) { delete(o.Placement.Fields, caps.VMSize) }, "vm_size"},
		"unknown size":          {field(caps.VMSize, "Standard_X1"), "Standard_X1"},
		"restricted size":       {field(caps.VMSize, "Standard_NC24s_v9"), "NotAvailableForSubscription"},
		"size for arm":          {func(o *target.Order) { o.Machine.Firmware = vm.UEFI; field(caps.VMSize, "Standard_D2ps_v5")(o) }, "Arm64"},
		"size for gen 2":        {field(caps.VMSize, "Standard_D4s_v6"), "generation 1"},
		"size not in zone":      {field(caps.VMSize, "Standard_D8s_v5", fieldZone, "3"), "zone 3"},
		"premium on plain size": {field(caps.VMSize, "Standard_D2_v3", fieldSKU, "Premium_LRS"), "Premium_LRS"},
		"unknown sku":           {field(fieldSKU, "Gold_LRS"), "StandardSSD_LRS"},
		"v2 boots":              {field(fieldSKU, "PremiumV2_LRS", fieldZone, "1"), "boot disk"},
		"performance":           {func(o *target.Order) { o.Placement.Volumes = []target.Volume{{IOPS: 5000}} }, "performance"},
		"no group":              {field(fieldGroup, "atlantis"), "atlantis"},
		"no network":            {func(o *target.Order) { o.Placement.Networks = []string{""} }, "adapter 0"},
		"network not there":     {func(o *target.Order) { o.Placement.Networks[0] = "atlantis/servers" }, "atlantis"},
		"subnet not there": {func(o *target.Order) {
			o.Placement.Networks[0] = armsim.OtherGroup + "/" + armsim.Network + "/atlantis"
		}, "atlantis"},
		"subnet misspelt": {func(o *target.Order) { o.Placement.Networks[0] = "a/b/c/d" }, "NETWORK/SUBNET"},
		"address of elsewhere": {func(o *target.Order) {
			o.Placement.Adapters = []target.Adapter{{Address: target.AddressNew, Addresses: []string{"10.99.0.1"}}}
		}, "10.20.1.0/24"},
		"no address to keep": {func(o *target.Order) {
			o.Machine.NICs[0].Addresses = nil
			o.Placement.Adapters = []target.Adapter{{Address: target.AddressKeep}}
		}, "no IPv4 address"},
		"two groups":           {func(o *target.Order) { o.Placement.Adapters = []target.Adapter{{SecurityGroups: []string{"a", "b"}}} }, "one network security group"},
		"group not there":      {field(fieldSecurity, "atlantis"), "atlantis"},
		"set and zone":         {field(fieldSet, armsim.AvailSet, fieldZone, "1"), "availability set and a zone"},
		"set not there":        {field(fieldSet, "atlantis"), "atlantis"},
		"des not there":        {field(fieldDES, "atlantis"), "atlantis"},
		"trusted launch on v1": {func(o *target.Order) { o.Options = map[string]string{optSecurity: "trusted-launch"} }, "trusted launch"},
		"nvme":                 {func(o *target.Order) { o.Options = map[string]string{optController: "NVMe"} }, "NVMe"},
		"too many adapters": {func(o *target.Order) {
			o.Machine.NICs = make([]vm.NIC, 3)
			o.Placement.Networks = []string{subnet, subnet, subnet}
		}, "adapters"},
		"bad tag":         {func(o *target.Order) { o.Options = map[string]string{optTags: "a?=b"} }, "a?=b"},
		"our tag":         {func(o *target.Order) { o.Options = map[string]string{optTags: "Ascend-Job=x"} }, "not free"},
		"unknown option":  {func(o *target.Order) { o.Options = map[string]string{"colour": "red"} }, "colour"},
		"unknown field":   {field("shelf", "3"), "shelf"},
		"option's value":  {func(o *target.Order) { o.Options = map[string]string{optPublicIP: "two"} }, "two"},
		"too small":       {func(o *target.Order) { o.Disks[0].Virtual, o.Disks[0].FileSize = 19*mib, 19*mib+512 }, "20 MiB"},
		"not whole MiB":   {func(o *target.Order) { o.Disks[0].Virtual, o.Disks[0].FileSize = 20*mib+512, 20*mib+1024 }, "whole MiB"},
		"no footer":       {func(o *target.Order) { o.Disks[0].FileSize -= 512 }, "footer"},
		"large boot disk": {func(o *target.Order) { o.Disks[0].Virtual, o.Disks[0].FileSize = 3<<40, 3<<40+512 }, "too large"},
		"no name":         {func(o *target.Order) { o.Machine.Name = " " }, "no name"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, armsim.Options{})
			o, rec := s.order(t, "refused", 20), new(targettest.MemRecorder)
			c.change(o)
			_, err := s.open(t).Begin(t.Context(), o, rec)
			if !errors.Is(err, target.ErrPermanent) || !strings.Contains(err.Error(), c.say) {
				t.Errorf("%v", err)
			}
			for _, r := range s.Requests() {
				if !strings.HasPrefix(r, http.MethodGet) {
					t.Errorf("asked for %s", r)
				}
			}
			if rec.Calls() != 0 {
				t.Error("something was recorded")
			}
		})
	}
}

func TestInventory(t *testing.T) {
	s := newSim(t, armsim.Options{Cores: 40, Actions: []string{"*/read"}})
	inv, err := s.open(t).Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	has := func(places []target.Place, name string) bool {
		return slices.ContainsFunc(places, func(p target.Place) bool { return p.Name == name })
	}
	if inv.Region != armsim.Region || !has(inv.Networks, "network/hub/servers") || !has(inv.SecurityGroups, "network/web-only") ||
		!has(inv.Places[fieldGroup], armsim.Group) || !has(inv.Places[fieldZone], "2") || !has(inv.Places[fieldSet], "restore/rack") ||
		!has(inv.Places[fieldDES], "restore/vault") || !has(inv.Places[caps.VMSize], "Standard_D4s_v5") || has(inv.Places[caps.VMSize], "Standard_NC24s_v9") {
		t.Errorf("%+v", inv)
	}
	i := slices.IndexFunc(inv.Sizes, func(z target.Size) bool { return z.Name == "Standard_D4s_v6" })
	if i < 0 || inv.Sizes[i].CPUs != 4 || inv.Sizes[i].Memory != 16*vm.GiB || !inv.Sizes[i].NVMe || inv.Sizes[i].MaxDisks != 13 || !slices.Equal(inv.Sizes[i].Firmware, []vm.Firmware{vm.UEFI}) {
		t.Errorf("sizes: %+v", inv.Sizes)
	}
	q := slices.IndexFunc(inv.Quotas, func(q target.Quota) bool { return q.Kind == "cpus" })
	if q < 0 || inv.Quotas[q].Limit != 40 {
		t.Errorf("quotas: %+v", inv.Quotas)
	}
	for _, p := range inv.Permissions {
		if p.Granted != strings.HasSuffix(p.Name, "/read") {
			t.Errorf("%+v", p)
		}
	}
}
