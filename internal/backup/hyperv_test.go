package backup

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf16"

	"ascend/internal/vm"
)

// hvXML is a configuration as Windows Server 2012 R2 writes it, shortened.
const hvXML = `<?xml version="1.0" encoding="UTF-16" standalone="yes"?>
<configuration>
 <_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
  <controller0><drive0><pathname type="string">D:\VMs\web01\Virtual Hard Disks\System Disk.vhdx</pathname><type type="string">VHD</type></drive0>
   <drive1><type type="string">NONE</type></drive1></controller0>
  <controller1><drive0><pathname type="string">D:\iso\tools.iso</pathname><type type="string">ISO</type></drive0></controller1>
 </_83f8638b-8dca-4152-9eda-2ca8b33039b4_>
 <_2b0b1b3a-1111-4222-8333-944455556666_>
  <AltSwitchName type="string">External – Büro</AltSwitchName><FriendlyName type="string">Network Adapter</FriendlyName><IsConnected type="bool">True</IsConnected>
  <MacAddress type="string">00155D010203</MacAddress>
 </_2b0b1b3a-1111-4222-8333-944455556666_>
 <_3c0b1b3a-1111-4222-8333-944455556666_>
  <Connection><AltSwitchName type="string">Backup</AltSwitchName></Connection><FriendlyName type="string">Second</FriendlyName><IsConnected type="bool">False</IsConnected>
  <MacAddress type="string">00-15-5D-01-02-04</MacAddress>
 </_3c0b1b3a-1111-4222-8333-944455556666_>
 <_4d0b1b3a-1111-4222-8333-944455556666_>
  <ChannelInstanceGuid type="string">{4d0b1b3a-1111-4222-8333-944455556666}</ChannelInstanceGuid>
  <controller0><drive3><pathname type="string">D:\VMs\web01\DATA_1F0A.avhd</pathname><type type="string">VHD</type></drive3></controller0>
 </_4d0b1b3a-1111-4222-8333-944455556666_>
 <_ac6b8dc1-3257-4a70-b1b2-a9c9215659ad_><bios_guid type="string">{5F0C1B3A-7777-4222-8333-944455556666}</bios_guid></_ac6b8dc1-3257-4a70-b1b2-a9c9215659ad_>
 <manifest>
  <vdev001><device type="string">83f8638b-8dca-4152-9eda-2ca8b33039b4</device><instance type="string">83f8638b-8dca-4152-9eda-2ca8b33039b4</instance></vdev001>
  <vdev002><device type="string">2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778</device><instance type="string">2B0B1B3A-1111-4222-8333-944455556666</instance></vdev002>
  <vdev003><device type="string">2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778</device><instance type="string">3C0B1B3A-1111-4222-8333-944455556666</instance></vdev003>
  <vdev004><device type="string">d422512d-2bf2-4752-809d-7b82b5fcb1b4</device><instance type="string">4D0B1B3A-1111-4222-8333-944455556666</instance></vdev004>
 </manifest>
 <properties><name type="string">web01 &amp; "co" $(x)</name><subtype type="integer">0</subtype><version type="integer">1280</version></properties>
 <settings><memory><bank><dynamic_memory_enabled type="bool">True</dynamic_memory_enabled><limit type="integer">8192</limit><size type="integer">2048</size></bank></memory>
  <processors><count type="integer">4</count></processors></settings>
</configuration>`

// utf16File is text as Hyper-V writes it.
func utf16File(text string) string {
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(text)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return string(b)
}

// differencing turns a dynamic VHD into a child of another one ("Virtual Hard
// Disk Image Format Specification" 1.0: footer, dynamic disk header).
func differencing(t testing.TB, child, parent string) {
	t.Helper()
	p, err := os.ReadFile(parent)
	if err != nil {
		t.Fatal(err)
	}
	c, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	seal := func(b []byte, at int) {
		var sum uint32
		clear(b[at : at+4])
		for _, v := range b {
			sum += uint32(v)
		}
		binary.BigEndian.PutUint32(b[at:], ^sum)
	}
	for _, footer := range [][]byte{c[:512], c[len(c)-512:]} {
		binary.BigEndian.PutUint32(footer[60:], 4)
		footer[68] ^= 0xff // an identifier of its own
		seal(footer, 64)
	}
	head := c[512:1536]
	copy(head[40:56], p[68:84])
	copy(head[56:60], p[24:28])
	for i, u := range utf16.Encode([]rune(filepath.Base(parent))) {
		binary.BigEndian.PutUint16(head[64+2*i:], u)
	}
	seal(head, 36)
	if err := os.WriteFile(child, c, 0o644); err != nil {
		t.Fatal(err)
	}
}

// hvFolder makes an export of a machine with a VHDX and with a VHD that has a
// checkpoint's child, and what a guest sees of both.
func hvFolder(t testing.TB) (dir string, want [][]byte) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "repo")
	export := filepath.Join(dir, "web01")
	disks, tmp := filepath.Join(export, "Virtual Hard Disks"), t.TempDir()
	mkdir(t, disks)
	system, data := rawFile(t, filepath.Join(tmp, "system"), 1), rawFile(t, filepath.Join(tmp, "data"), 2)
	qemu(t, "convert", "-f", "raw", "-O", "vhdx", filepath.Join(tmp, "system"), filepath.Join(disks, "system disk.VHDX"))
	parent, child := filepath.Join(disks, "data.vhd"), filepath.Join(disks, "data_1f0a.avhd")
	qemu(t, "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on", filepath.Join(tmp, "data"), parent)
	own := make([]byte, size)
	copy(own, bytes.Repeat([]byte("newer "), 10_000))
	write(t, filepath.Join(tmp, "own"), string(own))
	qemu(t, "convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on", filepath.Join(tmp, "own"), child)
	differencing(t, child, parent)
	return dir, [][]byte{system, append(own[:2<<20:2<<20], data[2<<20:]...)}
}

func hvCheck(t *testing.T, r *Repository, b Backup, want [][]byte) {
	t.Helper()
	if b.Fault != "" || len(b.Disks) != len(want) || len(b.Machine.Disks) != len(want) {
		t.Fatalf("%q %+v", b.Fault, b.Disks)
	}
	for i := range want {
		img, err := r.OpenDisk(context.Background(), b, i)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(img, 0, img.Size()))
		if err != nil || !bytes.Equal(got[:min(len(got), len(want[i]))], want[i]) || len(bytes.Trim(got[len(want[i]):], "\x00")) > 0 {
			t.Errorf("disk %d: %d bytes, %v", i, len(got), err)
		}
		img.Close()
	}
}

func TestHyperV(t *testing.T) {
	dir, want := hvFolder(t)
	write(t, filepath.Join(dir, "web01", "Virtual Machines", "1B2C.XML"), utf16File(hvXML))
	write(t, filepath.Join(dir, "web01", "Snapshots", "9F.xml"), utf16File(hvXML))
	r, all := csList(t, dir)
	if len(all) != 1 || all[0].Layout != LayoutHyperV || all[0].Type != Incremental || all[0].Path != "web01" || all[0].Disks[1].Chain != 2 {
		t.Fatalf("%+v", all)
	}
	b := all[0]
	hvCheck(t, r, b, want)
	if len(b.Notes) != 1 || !strings.Contains(b.Notes[0], "dynamic, up to 8192 MiB") {
		t.Errorf("%q", b.Notes)
	}
	off := false
	m := &vm.Machine{
		Name: `web01 & "co" $(x)`, Platform: vm.HyperV, UUID: "5f0c1b3a-7777-4222-8333-944455556666", CPU: vm.CPU{Sockets: 4, CoresPerSocket: 1}, Memory: 2 * vm.GiB,
		Firmware: vm.BIOS, HardwareNote: "Hyper-V configuration version 5.0", Snapshots: 1,
		Disks: []vm.Disk{
			{Index: 0, Name: "System Disk.vhdx", Size: b.Disks[0].Size, Boot: true, Controller: vm.BusIDE},
			{Index: 1, Name: "DATA_1F0A.avhd", Size: b.Disks[1].Size, Controller: vm.BusVMBusSCSI, Unit: 3},
		},
		NICs: []vm.NIC{
			{Name: "Network Adapter", MAC: "00:15:5d:01:02:03", Model: vm.NetVSC, Network: "External – Büro"},
			{Name: "Second", MAC: "00:15:5d:01:02:04", Model: vm.NetVSC, Network: "Backup", Connected: &off},
		},
	}
	if !reflect.DeepEqual(b.Machine, m) {
		got, _ := json.MarshalIndent(b.Machine, "", " ")
		t.Errorf("%s", got)
	}
}

// TestHyperVBinary: a .vmcx that cannot be read leaves its disks, and it is said.
func TestHyperVBinary(t *testing.T) {
	dir, want := hvFolder(t)
	write(t, filepath.Join(dir, "web01", "virtual machines", "1B2C.vmcx"), "\x01\x02\x03")
	r, all := csList(t, dir)
	if len(all) != 1 || all[0].VM != "web01" || all[0].Origin != vm.HyperV || all[0].Machine.Firmware != "" {
		t.Fatalf("%+v", all)
	}
	hvCheck(t, r, all[0], [][]byte{want[1], want[0]})
	if len(all[0].Notes) != 1 || !strings.Contains(all[0].Notes[0], "1B2C.vmcx") {
		t.Errorf("%q", all[0].Notes)
	}
}

// TestHyperVBroken: what is missing or wrong is said and hides nothing.
func TestHyperVBroken(t *testing.T) {
	for _, c := range []struct {
		name, xml   string
		fault, note string
		images      int // that are listed by themselves
	}{
		{"cut off", hvXML[:1500], "cannot read the configuration", "", 2},
		{"a disk is missing", strings.Replace(hvXML, "DATA_1F0A", "other", 1), "its image other.avhd is not in the export", "", 1},
		{"one disk twice", strings.Replace(hvXML, "DATA_1F0A.avhd", "System Disk.vhdx", 1), "is another disk's too", "", 1},
		{"a path upwards", strings.Replace(hvXML, `D:\VMs\web01\DATA_1F0A.avhd`, `..\..\..\secret.avhd`, 1), "not in the export", "", 1},
		{"impossible memory", strings.Replace(hvXML, ">2048<", ">99999999999999999999<", 1), "", "size is", 0},
		{"no disks", strings.ReplaceAll(hvXML, ">VHD<", ">ISO<"), "gives the machine no disk", "", 2},
		{"a disk of the host", strings.Replace(hvXML, `D:\iso\tools.iso</pathname><type type="string">ISO`, `PhysicalDrive3</pathname><type type="string">PHYSICAL`, 1), "", "no virtual hard disk", 0},
		{"too deep", strings.Repeat("<a>", 100), "within each other", "", 2},
		{"generation 2", strings.Replace(hvXML, `<subtype type="integer">0`, `<secure_boot_enabled type="bool">True</secure_boot_enabled><subtype type="integer">1`, 1), "", "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _ := hvFolder(t)
			write(t, filepath.Join(dir, "web01", "Virtual Machines", "1B2C.xml"), utf16File(c.xml))
			_, all := csList(t, dir)
			var hv Backup
			images := 0
			for _, b := range all {
				if b.Layout == LayoutHyperV {
					hv = b
				} else {
					images++
				}
			}
			if images != c.images || hv.Layout == "" {
				t.Fatalf("%+v", all)
			}
			if (hv.Fault != "") != (c.fault != "") || !strings.Contains(hv.Fault, c.fault) || !strings.Contains(fmt.Sprint(hv.Notes), c.note) {
				t.Errorf("%q %q", hv.Fault, hv.Notes)
			}
			if c.name == "generation 2" && (hv.Machine.Firmware != vm.UEFI || !hv.Machine.SecureBoot) {
				t.Errorf("%+v", hv.Machine)
			}
		})
	}
}

// FuzzHyperVConfig: no bytes make the reader fail otherwise than with an error,
// or describe more than it says it bounds.
func FuzzHyperVConfig(f *testing.F) {
	f.Add([]byte(hvXML))
	f.Add([]byte(utf16File(hvXML)))
	f.Add([]byte("\xfe\xff\x00<\x00a"))
	f.Add([]byte(`<configuration><properties/><controller0><drive0><pathname>a.vhd</pathname></drive0></controller0><x><MacAddress>1</MacAddress></x></configuration>`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseHVConfig(b)
		if err != nil || c == nil {
			return
		}
		if len(c.machine.NICs) > maxDisks+1 || c.machine.Memory < 0 || c.machine.CPU.Total() < 0 {
			t.Errorf("%+v", c.machine)
		}
		for _, d := range c.drives {
			if d.path == "" || d.unit < 0 || d.controller < 0 {
				t.Errorf("%+v", d)
			}
		}
	})
}
