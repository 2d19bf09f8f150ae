package plan

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"ascend/internal/target"
	"ascend/internal/vm"
)

func TestMapping(t *testing.T) {
	set, err := ParseMapping([]byte(`
networks:
  - {from: nic2, to: third}
  - {from: "VLAN *", to: vlans, security_groups: [sg1], address: new, addresses: [10.0.0.9]}
  - {from: "dc/prod", to: production}
storage:
  - {from: disk7, to: io2, iops: 5000}
  - {from: boot, to: gp3, iops: 6000, throughput: 500}
  - {from: "log*", to: st1}
  - {from: data, to: gp2}
fields: {availability_zone: a, key_name: k}
`))
	if err != nil {
		t.Fatal(err)
	}
	r := request()
	on(r, vm.AWS)
	r.Inventory.Networks = []target.Place{{Name: "lan"}, {Name: "prod"}}
	setDisks(r, 200*vm.GiB, 200*vm.GiB, 200*vm.GiB, 200*vm.GiB)
	r.Machine.Disks[1].Index, r.Machine.Disks[2].Name = 7, "logs"
	r.Machine.NICs = nil
	for _, n := range []string{"VLAN 10", "dc/prod", "x", "lan", "other", "VLAN 11"} {
		r.Machine.NICs = append(r.Machine.NICs, vm.NIC{Network: n})
	}
	r.Placement.Networks = []string{"", "", "", "", "", "stated"}
	r.Placement.Fields = map[string]string{"key_name": "mine"}
	r.Mapping = set
	p, err := Make(*r)
	if err != nil {
		t.Fatal(err)
	}
	pl := p.Placement
	if want := []string{"vlans", "production", "third", "lan", "", "stated"}; !slices.Equal(pl.Networks, want) {
		t.Errorf("networks %q", pl.Networks)
	}
	if want := []string{"gp3", "io2", "st1", "gp2"}; !slices.Equal(pl.Storage, want) {
		t.Errorf("storage %q", pl.Storage)
	}
	if want := []target.Volume{{IOPS: 6000, Throughput: 500}, {IOPS: 5000}, {}, {}}; !slices.Equal(pl.Volumes, want) {
		t.Errorf("volumes %v", pl.Volumes)
	}
	if a := pl.Adapters[0]; a.Address != target.AddressNew || !slices.Equal(a.SecurityGroups, []string{"sg1"}) || !slices.Equal(p.Machine.NICs[0].Addresses, []string{"10.0.0.9"}) {
		t.Errorf("%+v", a)
	}
	if pl.Fields["availability_zone"] != "a" || pl.Fields["key_name"] != "mine" {
		t.Errorf("%v", pl.Fields)
	}
	for want, field := range map[string]string{`mapped by the rule for "VLAN *"`: "nic 0 network", "mapped": "nic 5 network"} {
		if !slices.ContainsFunc(p.Changes, func(c Change) bool { return c.Field == field && c.Reason == want }) {
			t.Errorf("%s: no change because %s: %+v", field, want, p.Changes)
		}
	}
	if !slices.ContainsFunc(p.Findings, func(f Finding) bool {
		return f.Code == "network-unmapped" && strings.Contains(f.Text, `adapter 4 (network "other") has no network on the target; it has lan, prod`)
	}) {
		t.Errorf("%+v", p.Findings)
	}
	first := Mapping{Networks: []NetworkRule{{From: "*", To: "first"}}}
	if got, _ := first.Then(set).network(0, "VLAN 1"); got.To != "first" {
		t.Errorf("%+v", got)
	}
}

func TestMappingErrors(t *testing.T) {
	for s, want := range map[string]string{
		"networks:\n  - {form: a, to: b}":              "[2:6]",
		"networks:\n  - {from: a}":                     "networks[0] needs",
		"networks:\n  - {from: '[', to: b}":            "networks[0] needs",
		"networks:\n  - {from: a, to: b, address: ip}": `address "ip" is not one of`,
		"storage:\n  - {from: a, to: b, iops: -1}":     "storage[0] needs",
		"storage: 3": "cannot read mapping",
	} {
		if _, err := ParseMapping([]byte(s)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestDetect(t *testing.T) {
	hw := func(bus vm.Bus, nic vm.NICModel, mac, uuid, id string) *vm.Machine {
		return &vm.Machine{Disks: []vm.Disk{{Controller: bus}}, NICs: []vm.NIC{{Model: nic, MAC: mac}}, UUID: uuid, Guest: vm.GuestOS{SourceID: id}}
	}
	for _, c := range []struct {
		what       string
		evidence   []Evidence
		m          *vm.Machine
		g          *GuestFacts
		stated     vm.Platform
		want       vm.Platform
		confidence string
	}{
		{"the record", []Evidence{{vm.Nutanix, 100, "record"}}, hw(vm.BusPVSCSI, "", "", "", ""), nil, "", vm.Nutanix, "likely"},
		{"the description", nil, &vm.Machine{Platform: vm.CloudStack}, nil, "", vm.CloudStack, "certain"},
		{"VMware's hardware", nil, hw(vm.BusPVSCSI, vm.VMXNET3, "00:50:56:01:02:03", "", "debian12_64Guest"), nil, "", vm.VMware, "certain"},
		{"a MAC alone", nil, hw("", "", "00:15:5D:01:02:03", "", ""), nil, "", vm.HyperV, "guessed"},
		{"Azure's agent on VMBus", nil, hw(vm.BusVMBusSCSI, vm.NetVSC, "00:0d:3a:01:02:03", "", ""), &GuestFacts{Agents: []Agent{{"waagent", vm.Azure}}}, "", vm.Azure, "likely"},
		{"EC2's UUID and ENA", nil, hw(vm.BusNVMe, vm.ENA, "", "EC2b8f2e", ""), nil, "", vm.AWS, "certain"},
		{"overruled", nil, hw(vm.BusPVSCSI, vm.VMXNET3, "", "", ""), nil, vm.HyperV, vm.HyperV, "stated"},
	} {
		d := Detect(c.evidence, c.m, c.g, c.stated)
		if d == nil || d.Platform != c.want || d.Confidence != c.confidence {
			t.Errorf("%s: %+v", c.what, d)
		}
	}
	if d := Detect(nil, &vm.Machine{}, nil, ""); d != nil {
		t.Errorf("nothing speaks for %+v", d)
	}
}

func TestCreator(t *testing.T) {
	vhd := make([]byte, 2048)
	copy(vhd[1536:], "conectix")
	copy(vhd[1536+28:], "win ")
	vhdx := make([]byte, 1024)
	copy(vhdx, "vhdxfile")
	for i, r := range "Microsoft Windows 10.0.20348.0" {
		binary.LittleEndian.PutUint16(vhdx[8+2*i:], uint16(r))
	}
	vmdk := append([]byte("KDMV"), make([]byte, 1020)...)
	copy(vmdk[512:], "# Disk DescriptorFile\nddb.toolsVersion = \"12352\"\n")
	for _, c := range []struct {
		b    []byte
		want vm.Platform
	}{{vhd, vm.HyperV}, {vhdx, vm.HyperV}, {vmdk, vm.VMware}, {make([]byte, 4096), ""}, {nil, ""}, {[]byte("KD"), ""}, {append([]byte("conectix"), make([]byte, 504)...), ""}} {
		got := Creator(strings.NewReader(string(c.b)), int64(len(c.b)))
		if c.want == "" && got != nil || c.want != "" && (len(got) != 1 || got[0].Platform != c.want) {
			t.Errorf("%.20q: %+v", c.b, got)
		}
	}
}

func FuzzCreator(f *testing.F) {
	f.Add([]byte("conectix"))
	f.Add([]byte("vhdxfile"))
	f.Add([]byte("KDMV"))
	f.Fuzz(func(_ *testing.T, b []byte) { Creator(strings.NewReader(string(b)), int64(len(b))) })
}

func FuzzMapping(f *testing.F) {
	f.Add([]byte("networks:\n  - {from: a, to: b}\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if m, err := ParseMapping(b); err == nil {
			m.network(0, "x")
			m.storage(vm.Disk{Name: "x"}, true)
		}
	})
}

// TestControllers: what is chosen follows what the guest can drive.
func TestControllers(t *testing.T) {
	for _, c := range []struct {
		what  string
		on    vm.Platform
		guest vm.GuestOS
		facts *GuestFacts
		bus   vm.Bus
		nic   vm.NICModel
	}{
		{"Linux, not inspected", vm.VMware, linux("debian", "12"), nil, vm.BusPVSCSI, vm.VMXNET3},
		{"Windows has no pvscsi", vm.VMware, server("2019"), nil, vm.BusLSISAS, vm.E1000E},
		{"Windows 2003 has no SAS", vm.VMware, server("2003"), nil, vm.BusLSILogic, vm.E1000E},
		{"Windows without virtio", vm.CloudStack, server("2019"), nil, vm.BusSATA, vm.E1000},
		{"Windows with virtio", vm.CloudStack, server("2019"), &GuestFacts{Roots: 1, Boot: []string{"viostor"}, Installed: []string{"netkvm"}}, vm.BusVirtioBlk, vm.VirtioNet},
		{"a kernel with pvscsi only", vm.VMware, linux("debian", "12"), &GuestFacts{Roots: 1, Boot: []string{"vmw_pvscsi"}, Installed: []string{"vmxnet3"}}, vm.BusPVSCSI, vm.VMXNET3},
		{"a kernel with AHCI in the initramfs", vm.VMware, linux("debian", "12"), &GuestFacts{Roots: 1, Boot: []string{"ahci"}, Installed: []string{"vmw_pvscsi", "e1000"}}, vm.BusSATA, vm.E1000},
		{"a driver that adaptation can use", vm.Nutanix, linux("debian", "12"), &GuestFacts{Roots: 1, Boot: []string{"vmw_pvscsi"}, Installed: []string{"virtio_scsi", "virtio_net"}}, vm.BusVirtioSCSI, vm.VirtioNet},
	} {
		r := goldenRequest(specimen{name: "x", machine: m(vm.Unknown, c.guest, vm.BIOS, 2, 4, vm.BusUnspecified, "", "prod", 10), guest: c.facts}, c.on)
		p, err := Make(*r)
		if err != nil {
			t.Fatal(err)
		}
		if d, n := p.Machine.Disks[0], p.Machine.NICs[0]; d.Controller != c.bus || n.Model != c.nic {
			t.Errorf("%s: %s and %s", c.what, d.Controller, n.Model)
		}
	}
}

// BenchmarkPlan plans a machine of 26 disks for AWS: every rule, 895 sizes, the
// cost. What opening the disks takes is not in it.
func BenchmarkPlan(b *testing.B) {
	all := corpus()
	s := all[slices.IndexFunc(all, func(s specimen) bool { return s.name == "database-26-disks" })]
	r := goldenRequest(s, vm.AWS)
	for b.Loop() {
		if _, err := Make(*r); err != nil {
			b.Fatal(err)
		}
	}
}
