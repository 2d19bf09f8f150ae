package ovf

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	govmomi "github.com/vmware/govmomi/ovf"

	"ascend/internal/vm"
)

// corpus is the folder of descriptors that the govmomi module carries, made by
// many products over fifteen years.
func corpus(t testing.TB) string {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/vmware/govmomi").Output()
	if err != nil {
		t.Fatalf("cannot find the govmomi module, whose descriptors are the corpus (run go mod download): %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "ovf", "fixtures")
}

// Every descriptor that govmomi reads is read here with the same disks, sizes,
// processors, memory and adapters.
func TestParseAgreesWithGovmomi(t *testing.T) {
	compared, old, refused := 0, 0, map[string]int{}
	err := filepath.WalkDir(corpus(t), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(strings.ToLower(path), ".ovf") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := filepath.Base(path)
		p, perr := Parse(bytes.NewReader(b))
		e, gerr := govmomi.Unmarshal(bytes.NewReader(b))
		if perr != nil {
			if gerr == nil && name != "invalid_env.ovf" && (e.VirtualSystem != nil || e.VirtualSystemCollection != nil && len(e.VirtualSystemCollection.VirtualSystem) > 0) {
				t.Errorf("%s: %v; govmomi reads it", path, perr)
			}
			refused[perr.Error()]++
			return nil
		}
		if gerr != nil || e.VirtualSystem == nil {
			old++
			return nil
		}
		if len(p.Systems) != 1 {
			t.Errorf("%s: %d systems", name, len(p.Systems))
			return nil
		}
		compare(t, name, p, e)
		compared++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if compared < 500 || old < 100 {
		t.Errorf("only %d compared and %d read besides", compared, old)
	}
	t.Logf("%d compared, %d read that govmomi does not read as one machine, refused: %v", compared, old, refused)
}

func compare(t *testing.T, name string, p *Package, e *govmomi.Envelope) {
	t.Helper()
	s := p.Systems[0]
	if len(p.Files) != len(e.References) {
		t.Errorf("%s: %d files, want %d", name, len(p.Files), len(e.References))
	}
	if len(e.VirtualSystem.VirtualHardware) == 0 || e.DeploymentOption != nil && len(e.DeploymentOption.Configuration) > 0 {
		return
	}
	units := map[string]int64{}
	if e.Disk != nil {
		for _, d := range e.Disk.Disks {
			unit := int64(1)
			if d.CapacityAllocationUnits != nil && *d.CapacityAllocationUnits != "" {
				unit = govmomi.ParseCapacityAllocationUnits(*d.CapacityAllocationUnits)
			}
			if n, ok := quantity(d.Capacity, ""); ok {
				units[d.DiskID] = n * unit
			}
		}
	}
	var cpu, nics int
	var memory int64
	var disks []int64
	for _, it := range e.VirtualSystem.VirtualHardware[0].Item {
		if it.ResourceType == nil || it.Bound != nil && *it.Bound != "normal" {
			continue
		}
		switch *it.ResourceType {
		case typeProcessor:
			if it.VirtualQuantity != nil && cpu == 0 {
				cpu = int(*it.VirtualQuantity)
			}
		case typeMemory:
			if it.VirtualQuantity != nil && it.AllocationUnits != nil && memory == 0 {
				u := strings.ReplaceAll(*it.AllocationUnits, " ", "")
				memory = int64(*it.VirtualQuantity) * map[string]int64{"byte*2^20": vm.MiB, "MegaBytes": vm.MiB, "byte*2^30": vm.GiB, "byte": 1}[u]
			}
		case typeEthernet:
			nics++
		case typeDisk:
			if len(it.HostResource) > 0 && strings.TrimSpace(it.HostResource[0]) != "" {
				h := strings.TrimSpace(it.HostResource[0])
				disks = append(disks, units[h[strings.LastIndexByte(h, '/')+1:]])
			}
		}
	}
	for _, it := range e.VirtualSystem.VirtualHardware[0].StorageItem {
		if it.ResourceType != nil && *it.ResourceType == typeDisk && len(it.HostResource) > 0 {
			h := it.HostResource[0]
			disks = append(disks, units[h[strings.LastIndexByte(h, '/')+1:]])
		}
	}
	m := s.Machine
	if m.CPU.Total() != cpu && cpu <= 65535 {
		t.Errorf("%s: %d processors, want %d (%v)", name, m.CPU.Total(), cpu, s.Notes)
	}
	if memory > 0 && m.Memory != memory {
		t.Errorf("%s: memory %d, want %d (%v)", name, m.Memory, memory, s.Notes)
	}
	if len(m.NICs) < nics {
		t.Errorf("%s: %d adapters, want %d", name, len(m.NICs), nics)
	}
	if len(m.Disks) != len(disks) || len(s.Disks) != len(disks) {
		t.Errorf("%s: %d disks, want %d (%v)", name, len(m.Disks), len(disks), s.Notes)
		return
	}
	for i, want := range disks {
		if m.Disks[i].Size != want && want != 0 {
			t.Errorf("%s: disk %d has %d bytes, want %d", name, i, m.Disks[i].Size, want)
		}
		if f := s.Disks[i].File; f >= len(p.Files) {
			t.Errorf("%s: disk %d has file %d of %d", name, i, f, len(p.Files))
		}
	}
}

func parseFixture(t *testing.T, name string) *Package {
	t.Helper()
	f, err := os.Open(filepath.Join(corpus(t), name))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	p, err := Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParseVMware(t *testing.T) {
	p := parseFixture(t, "external/vtpm-ovf/vtpm-spec-with-nvram.ovf")
	s := p.Systems[0]
	on := (*bool)(nil)
	want := &vm.Machine{
		Name: "vtpm-spec-with-nvram", Platform: vm.VMware, CPU: vm.CPU{Sockets: 1, CoresPerSocket: 1}, Memory: vm.GiB,
		Firmware: vm.UEFI, SecureBoot: true, TPM: true, HardwareNote: "vmx-17",
		Guest: vm.GuestOS{Family: vm.Linux, Distribution: "centos", Version: "8", Arch: vm.AMD64, SourceID: "centos8_64Guest"},
		Disks: []vm.Disk{{Name: "Hard Disk 1", Size: vm.GiB, Controller: vm.BusPVSCSI}},
		NICs:  []vm.NIC{{Name: "Network adapter 1", Model: vm.VMXNET3, Network: "VM Network", Connected: on}},
	}
	if !reflect.DeepEqual(s.Machine, want) {
		t.Errorf("got  %+v\nwant %+v", s.Machine, want)
	}
	if len(p.Files) != 2 || p.Files[0].Size != -1 || p.Files[1].Size != 270840 || s.Disks[0].File != 0 || FormatName(s.Disks[0].Format) != "vmdk" {
		t.Errorf("files %+v disks %+v", p.Files, s.Disks)
	}
	if len(s.Notes) != 2 || !strings.Contains(s.Notes[0], "NVRAM") || !strings.Contains(s.Notes[1], "TPM") {
		t.Errorf("notes %q", s.Notes)
	}
}

// OVF 0.9 as VirtualBox wrote it by default for years.
func TestParseOVF09(t *testing.T) {
	p := parseFixture(t, "external/OVFToolTemplates/OVF/xmltestfiles/LaxMode/Pos/vbox5_all_storage_controllers_0.9/vbox5_0.9.ovf")
	m := p.Systems[0].Machine
	if m.Name != "vbox5" || m.CPU.Total() != 1 || m.Memory != 384*vm.MiB || m.Guest.Distribution != "ubuntu" || m.Guest.Arch != vm.I386 {
		t.Errorf("%+v", m)
	}
	want := []vm.Disk{
		{Index: 0, Name: "disk1", Size: 4194304, Controller: vm.BusIDE, ControllerNumber: 1},
		{Index: 1, Name: "disk2", Size: 10737418240, Controller: vm.BusSATA, Unit: 1},
	}
	if !reflect.DeepEqual(m.Disks, want) {
		t.Errorf("disks %+v", m.Disks)
	}
	if len(m.NICs) != 1 || m.NICs[0].Model != vm.PCNet32 || m.NICs[0].Network != "NAT" {
		t.Errorf("adapters %+v", m.NICs)
	}
}

func TestParseCollection(t *testing.T) {
	p := parseFixture(t, "virtualsystemcollection.ovf")
	if len(p.Systems) != 2 || p.Systems[0].Machine.Name == p.Systems[1].Machine.Name {
		t.Fatalf("%d systems", len(p.Systems))
	}
	for _, s := range p.Systems {
		if s.Machine.Memory != vm.GiB || len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "no backing") {
			t.Errorf("%s: %+v", s.ID, s.Machine)
		}
	}
}

const vbox2 = `<?xml version="1.0"?>
<Envelope ovf:version="2.0" xml:lang="en-US" xmlns="http://schemas.dmtf.org/ovf/envelope/2" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/2"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData" xmlns:vbox="http://www.virtualbox.org/ovf/machine"
 xmlns:epasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_EthernetPortAllocationSettingData.xsd"
 xmlns:sasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_StorageAllocationSettingData.xsd"
 xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData">
 <References><File ovf:id="file1" ovf:href="box%20one-disk001.vmdk"/></References>
 <DiskSection><Info/><Disk ovf:capacity="8589934592" ovf:diskId="vmdisk1" ovf:fileRef="file1" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
 <VirtualSystem ovf:id="box">
  <Info/>
  <OperatingSystemSection ovf:id="96"><Info/><Description>Debian_64</Description><vbox:OSType ovf:required="false">Debian12_64</vbox:OSType></OperatingSystemSection>
  <VirtualHardwareSection><Info/>
   <System><vssd:ElementName>x</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID><vssd:VirtualSystemType>virtualbox-2.2</vssd:VirtualSystemType></System>
   <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
   <Item><rasd:AllocationUnits>MegaBytes</rasd:AllocationUnits><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>2048</rasd:VirtualQuantity></Item>
   <Item><rasd:Address>0</rasd:Address><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>AHCI</rasd:ResourceSubType><rasd:ResourceType>20</rasd:ResourceType></Item>
   <StorageItem><sasd:AddressOnParent>2</sasd:AddressOnParent><sasd:Caption>disk1</sasd:Caption><sasd:HostResource>/disk/vmdisk1</sasd:HostResource><sasd:InstanceID>8</sasd:InstanceID><sasd:Parent>3</sasd:Parent><sasd:ResourceType>17</sasd:ResourceType></StorageItem>
   <EthernetPortItem><epasd:Address>080027DDE185</epasd:Address><epasd:AutomaticAllocation>false</epasd:AutomaticAllocation><epasd:Caption>second</epasd:Caption><epasd:Connection>NAT</epasd:Connection><epasd:InstanceID>10</epasd:InstanceID><epasd:AddressOnParent>9</epasd:AddressOnParent><epasd:ResourceSubType>E1000</epasd:ResourceSubType><epasd:ResourceType>10</epasd:ResourceType></EthernetPortItem>
   <EthernetPortItem><epasd:Caption>first</epasd:Caption><epasd:Connection>LAN</epasd:Connection><epasd:InstanceID>11</epasd:InstanceID><epasd:AddressOnParent>8</epasd:AddressOnParent><epasd:ResourceSubType>virtio</epasd:ResourceSubType><epasd:ResourceType>10</epasd:ResourceType></EthernetPortItem>
  </VirtualHardwareSection>
  <vbox:Machine ovf:required="false" version="1.19-linux" OSType="Debian_64" name="box" uuid="{0cc19ee9-dbb3-4e19-a4da-8c1911046394}">
   <Hardware><Memory RAMSize="2048"/><Firmware type="EFI"/><TrustedPlatformModule type="v2_0"/></Hardware>
  </vbox:Machine>
 </VirtualSystem>
</Envelope>`

func TestParseVirtualBox2(t *testing.T) {
	p, err := Parse(strings.NewReader(vbox2))
	if err != nil {
		t.Fatal(err)
	}
	off := false
	want := &vm.Machine{
		Name: "box", UUID: "0cc19ee9-dbb3-4e19-a4da-8c1911046394", CPU: vm.CPU{Sockets: 2, CoresPerSocket: 1}, Memory: 2 * vm.GiB,
		Firmware: vm.UEFI, TPM: true, HardwareNote: "virtualbox-2.2",
		Guest: vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64, SourceID: "Debian12_64"},
		Disks: []vm.Disk{{Name: "disk1", Size: 8 * vm.GiB, Controller: vm.BusSATA, Unit: 2}},
		NICs: []vm.NIC{
			{Name: "first", Model: vm.VirtioNet, Network: "LAN"},
			{Name: "second", MAC: "08:00:27:dd:e1:85", Model: vm.E1000, Network: "NAT", Connected: &off},
		},
	}
	if !reflect.DeepEqual(p.Systems[0].Machine, want) {
		t.Errorf("got  %+v\nwant %+v", p.Systems[0].Machine, want)
	}
	if got := p.Files[0].Names(); !reflect.DeepEqual(got, []string{"box%20one-disk001.vmdk", "box one-disk001.vmdk"}) {
		t.Errorf("names %q", got)
	}
}

// A machine with a BIOS in VirtualBox's element has no Firmware element.
func TestParseVirtualBoxBIOS(t *testing.T) {
	p, err := Parse(strings.NewReader(strings.ReplaceAll(vbox2, `<Firmware type="EFI"/>`, "")))
	if err != nil || p.Systems[0].Machine.Firmware != vm.BIOS {
		t.Errorf("%v, firmware %q", err, p.Systems[0].Machine.Firmware)
	}
}

func TestParseDeploymentOptions(t *testing.T) {
	p := parseFixture(t, "deployment-configs.ovf")
	if len(p.Systems) != 1 || p.Systems[0].Machine.CPU.Total() == 0 {
		t.Fatalf("%+v", p.Systems)
	}
	item := func(config, n string) inItem {
		return inItem{Configuration: config, Instance: "1", Type: "3", Quantity: n}
	}
	for def, want := range map[string]int{"big": 8, "small": 2, "other": 4} {
		b := builder{deployment: def, m: &vm.Machine{}}
		b.processors(b.applicable([]inItem{item("", "4"), item("small tiny", "2"), item("big", "8"), {Bound: "max", Type: "3", Quantity: "64", Instance: "1"}}))
		if got := b.m.CPU.Total(); got != want {
			t.Errorf("%s: %d processors, want %d", def, got, want)
		}
	}
}

// What Marshal writes, Parse reads.
func TestRoundTrip(t *testing.T) {
	m := machine()
	m.Disks[4].Controller = vm.BusSATA
	m.NICs[1].Model = vm.E1000
	b, err := Marshal(m, filesOf(m))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Parse(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	got := p.Systems[0].Machine
	want := m.Clone()
	want.Platform = vm.VMware
	want.Memory = 6*vm.GiB + vm.MiB // whole MiB
	want.Guest.SourceID = "debian12_64Guest"
	for i := range want.Disks {
		want.Disks[i].Index, want.Disks[i].Boot, want.Disks[i].Name = i, false, got.Disks[i].Name
	}
	for i := range want.NICs {
		want.NICs[i].Name = got.NICs[i].Name
	}
	want.NICs[2].Network = "VM Network"
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v\n%s", got, want, b)
	}
}

func TestParseHostile(t *testing.T) {
	envelope := func(body string) string {
		return `<Envelope xmlns:ovf="x">` + body + `<VirtualSystem ovf:id="a"></VirtualSystem></Envelope>`
	}
	if _, err := Parse(strings.NewReader(envelope(""))); err != nil {
		t.Fatalf("the honest one: %v", err)
	}
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty":           {"", ErrFormat},
		"not XML":         {"KDMV\x00\x01", ErrFormat},
		"other XML":       {"<html><body/></html>", ErrFormat},
		"cut":             {envelope("")[:40], ErrFormat},
		"no machine":      {"<Envelope/>", ErrFormat},
		"crossed tags":    {"<Envelope><a></b></Envelope>", ErrFormat},
		"entity":          {`<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>` + envelope("<References>&a;</References>"), ErrFormat},
		"billion laughs":  {`<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>` + envelope("&b;"), ErrFormat},
		"too long":        {envelope("<!--" + strings.Repeat("a", MaxDescriptor) + "-->"), ErrLimit},
		"too deep":        {envelope(strings.Repeat("<a>", 100000)), ErrLimit},
		"deep machines":   {strings.Replace(envelope(""), "<VirtualSystem ", strings.Repeat("<VirtualSystemCollection>", 100)+"<VirtualSystem ", 1), ErrLimit},
		"many elements":   {envelope(strings.Repeat("<a/>", maxElements)), ErrLimit},
		"many files":      {envelope("<References>" + strings.Repeat("<File/>", maxItems+1) + "</References>"), ErrLimit},
		"many machines":   {envelope(strings.Repeat("<VirtualSystem/>", maxItems)), ErrLimit},
		"strange charset": {`<?xml version="1.0" encoding="UTF-7"?>` + envelope(""), ErrFormat},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			if _, err := Parse(strings.NewReader(c.text)); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if d := time.Since(start); d > time.Minute {
				t.Errorf("took %v", d)
			}
		})
	}
}

// A reference that leads nowhere is not a blank disk.
func TestParseDanglingReferences(t *testing.T) {
	for from, to := range map[string]string{`ovf:fileRef="file1"`: `ovf:fileRef="file9"`, "/disk/vmdisk1": "/disk/vmdisk9", ">/disk/vmdisk1": ">/file/file9"} {
		p, err := Parse(strings.NewReader(strings.ReplaceAll(vbox2, from, to)))
		if err != nil {
			t.Fatal(err)
		}
		if d := p.Systems[0].Disks; len(d) != 1 || d[0].File != -1 || d[0].Fault == "" {
			t.Errorf("%s: %+v", to, d)
		}
	}
	p, err := Parse(strings.NewReader(strings.ReplaceAll(vbox2, "/disk/vmdisk1", "ovf:/file/file1")))
	if d := p.Systems[0].Disks; err != nil || len(d) != 1 || d[0].File != 0 || d[0].Fault != "" {
		t.Errorf("a file as disk: %v %+v", err, d)
	}
	p, err = Parse(strings.NewReader(strings.ReplaceAll(vbox2, ` ovf:fileRef="file1"`, "")))
	if d := p.Systems[0].Disks; err != nil || len(d) != 1 || d[0].File != -1 || d[0].Fault != "" || d[0].Capacity != 8*vm.GiB {
		t.Errorf("a blank disk: %v %+v", err, d)
	}
}

func TestUnits(t *testing.T) {
	for in, want := range map[string]int64{
		"": 1, "byte": 1, "byte * 2^30": 1 << 30, "byte*2^20": 1 << 20, "byte * 2 ^ 10": 1 << 10, "MegaBytes": 1 << 20, "GigaBytes": 1 << 30,
		"KB": 1 << 10, "GB": 1 << 30, "byte*1024*1024": 1 << 20, "byte * 10^9": 1e9, "1048576": 1 << 20, "TB": 1 << 40,
	} {
		if got, ok := scale(in); !ok || got != want {
			t.Errorf("%q: %d, %v, want %d", in, got, ok, want)
		}
	}
	for _, in := range []string{"furlong", "byte * 2^64", "byte * 2^40 * 2^40", "byte ^ 2", "byte * 0", "byte * -1", "2^", strings.Repeat("1*", 60) + "1"} {
		if got, ok := scale(in); ok {
			t.Errorf("%q: %d", in, got)
		}
	}
	if _, ok := quantity("9223372036854775807", "byte * 2^1"); ok {
		t.Error("an overflow was taken")
	}
}

func TestGuestNames(t *testing.T) {
	for id, want := range map[string]vm.GuestOS{
		"rhel9_64Guest":          {Family: vm.Linux, Distribution: "rhel", Version: "9", Arch: vm.AMD64},
		"ubuntu64Guest":          {Family: vm.Linux, Distribution: "ubuntu", Arch: vm.AMD64},
		"oracleLinux8_64Guest":   {Family: vm.Linux, Distribution: "ol", Version: "8", Arch: vm.AMD64},
		"other5xLinux64Guest":    {Family: vm.Linux, Arch: vm.AMD64},
		"windows2019srv_64Guest": {Family: vm.Windows, Distribution: server, Version: "2019", Arch: vm.AMD64},
		"windows9_64Guest":       {Family: vm.Windows, Distribution: client, Version: "10", Arch: vm.AMD64},
		"winXPProGuest":          {Family: vm.Windows, Distribution: client, Version: "xp", Arch: vm.I386},
		"freebsd13_64Guest":      {Family: vm.BSD, Arch: vm.AMD64},
		"otherGuest64":           {},
	} {
		want.SourceID = id
		if got := fromVMware(id); got != want {
			t.Errorf("%s: %+v, want %+v", id, got, want)
		}
	}
	for id, want := range map[string]vm.GuestOS{
		"Windows2022_64": {Family: vm.Windows, Distribution: server, Version: "2022", Arch: vm.AMD64},
		"Windows11_64":   {Family: vm.Windows, Distribution: client, Version: "11", Arch: vm.AMD64},
		"RedHat9_64":     {Family: vm.Linux, Distribution: "rhel", Version: "9", Arch: vm.AMD64},
		"Ubuntu_arm64":   {Family: vm.Linux, Distribution: "ubuntu", Arch: vm.ARM64},
		"Linux26_64":     {Family: vm.Linux, Arch: vm.AMD64},
	} {
		want.SourceID = id
		if got := fromVirtualBox(id); got != want {
			t.Errorf("%s: %+v, want %+v", id, got, want)
		}
	}
	for _, c := range []struct {
		g  vm.GuestOS
		id int
		vm string
	}{
		{vm.GuestOS{Family: vm.Linux, Distribution: "ubuntu", Version: "24.04", Arch: vm.AMD64}, 94, "ubuntu64Guest"},
		{vm.GuestOS{Family: vm.Linux, Distribution: "rhel", Version: "9.4", Arch: vm.AMD64}, 80, "rhel9_64Guest"},
		{vm.GuestOS{Family: vm.Linux, Distribution: "rhel"}, 101, "otherLinux64Guest"},
		{vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "11", Arch: vm.I386}, 95, "debian11Guest"},
		{vm.GuestOS{Family: vm.Linux, Distribution: "nixos"}, 101, "otherLinux64Guest"},
		{vm.GuestOS{Family: vm.Windows, Distribution: server, Version: "2012R2"}, 115, "windows8Server64Guest"},
		{vm.GuestOS{Family: vm.Windows, Distribution: client, Version: "7", Arch: vm.I386}, 105, "windows7Guest"},
		{vm.GuestOS{Family: vm.Windows, Distribution: server, Version: "2031"}, 115, "windows9Server64Guest"},
		{vm.GuestOS{}, 102, "otherGuest64"},
		{vm.GuestOS{SourceID: "sles15_64Guest"}, 85, "sles15_64Guest"},
	} {
		id, _, osType := osOf(&vm.Machine{Guest: c.g})
		if id != c.id || osType != c.vm {
			t.Errorf("%+v: %d %s, want %d %s", c.g, id, osType, c.id, c.vm)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(vbox2))
	f.Add([]byte(`<Envelope><Section xsi:type="ovf:DiskSection_Type"><Disk capacity="${a}" diskId="x"/></Section><Content xsi:type="ovf:VirtualSystem_Type"><Section xsi:type="ovf:ProductSection_Type"><Property key="a" value="9"/></Section></Content></Envelope>`))
	if b, err := Marshal(machine(), filesOf(machine())); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, s := range p.Systems {
			if len(s.Disks) != len(s.Machine.Disks) {
				t.Fatal("disks are not parallel")
			}
			for i, d := range s.Disks {
				if d.File < -1 || d.File >= len(p.Files) || d.Capacity < 0 || s.Machine.Disks[i].Size < 0 {
					t.Fatalf("disk %+v", d)
				}
			}
			if s.Machine.Memory < 0 || s.Machine.CPU.Total() < 0 {
				t.Fatalf("machine %+v", s.Machine)
			}
			for _, file := range p.Files {
				file.Names()
			}
		}
	})
}
