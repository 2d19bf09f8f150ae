package backup

import (
	"context"
	"encoding/json"
	"io"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"ascend/internal/vm"
)

const (
	nxVM   = "5c1f3b7a-2f64-4c6e-9b7f-4f1b6a1d0e01"
	nxRoot = "7d0d1d5e-15a1-4ce9-8c22-0d4f8f0f2a10"
	nxData = "a1b2c3d4-0000-4000-8000-00000000abcd"
)

// nxAnswerV4 and nxAnswerV3 are answers of GET vms/{id}, shortened.
const (
	nxAnswerV4 = `{"data": {"$objectType": "vmm.v4.ahv.config.Vm", "$reserved": {"$fv": "v4.r1"}, "extId": "` + nxVM + `", "name": "Web 01 – prod", "description": "front",
"numSockets": 2, "numCoresPerSocket": 4, "numThreadsPerCore": 1, "memorySizeBytes": 8589934592, "machineType": "Q35",
"bootConfig": {"$objectType": "vmm.v4.ahv.config.UefiBoot", "isSecureBootEnabled": true, "bootDevice": {"$objectType": "vmm.v4.ahv.config.BootDeviceDisk",
"diskAddress": {"busType": "SCSI", "index": 1}}}, "vtpmConfig": {"isVtpmEnabled": true, "version": "2.0"}, "guestTools": {"guestInfo": {"guestOsFullName": "Windows Server 2022"}},
"disks": [{"extId": "` + nxData + `", "diskAddress": {"busType": "SATA", "index": 0}, "backingInfo": {"$objectType": "vmm.v4.ahv.config.VmDisk", "diskExtId": "x", "diskSizeBytes": 3146240}},
{"extId": "00000000-0000-0000-0000-000000000000", "diskAddress": {"busType": "SCSI", "index": 1}, "backingInfo": {"$objectType": "vmm.v4.ahv.config.VmDisk", "diskExtId": "` + nxRoot + `", "diskSizeBytes": 3146240}}],
"nics": [{"backingInfo": {"model": "VIRTIO", "macAddress": "50:6B:8D:11:22:33", "isConnected": true}, "networkInfo": {"nicType": "NORMAL_NIC",
"subnet": {"extId": "11111111-2222-4333-8444-555555555555"}, "ipv4Config": {"ipAddress": {"value": "10.1.2.3", "prefixLength": 32}}, "ipv4Info": {"learnedIpAddresses": [{"value": "10.1.2.3"}, {"value": "10.1.2.4"}]}}},
{"nicBackingInfo": {"model": "E1000", "macAddress": "50:6b:8d:11:22:34", "isConnected": false}}], "gpus": [{"name": "Tesla T4", "mode": "PASSTHROUGH_COMPUTE"}]}}`
	nxAnswerV3 = `{"entities": [{"metadata": {"kind": "vm", "uuid": "` + nxVM + `", "categories": {"Environment": "Production"}}, "spec": {"name": "old name"},
"status": {"name": "db", "description": "", "resources": {"num_sockets": 1, "num_vcpus_per_socket": 2, "num_threads_per_core": 1, "memory_size_mib": 4096, "machine_type": "PC",
"boot_config": {"boot_type": "LEGACY", "boot_device": {"disk_address": {"adapter_type": "SCSI", "device_index": 0}}}, "vtpm_config": {"vtpm_enabled": false},
"disk_list": [{"uuid": "` + nxRoot + `", "disk_size_bytes": 3146240, "device_properties": {"device_type": "DISK", "disk_address": {"adapter_type": "SCSI", "device_index": 0}}},
{"uuid": "99999999-0000-4000-8000-000000000009", "device_properties": {"device_type": "CDROM", "disk_address": {"adapter_type": "IDE", "device_index": 0}}},
{"uuid": "` + nxData + `", "disk_size_bytes": 3146240, "device_properties": {"device_type": "DISK", "disk_address": {"adapter_type": "PCI", "device_index": 0}}}],
"nic_list": [{"mac_address": "50:6b:8d:aa:bb:cc", "model": "VIRTIO", "is_connected": true, "subnet_reference": {"kind": "subnet", "name": "vlan.100", "uuid": "x"}, "ip_endpoint_list": [{"ip": "10.9.9.9", "type": "LEARNED"}]}]}}}],
"metadata": {"kind": "vm", "total_matches": 1}}`
)

// nxFolder is a folder with an answer and two images.
func nxFolder(t testing.TB, answer, root, data string) (dir string, want [][]byte) {
	t.Helper()
	dir = t.TempDir()
	sub := filepath.Join(dir, "export")
	mkdir(t, sub)
	for i, name := range []string{root, data, "other.raw"} {
		raw := filepath.Join(t.TempDir(), "raw")
		want = append(want, rawFile(t, raw, uint64(60+i)))
		qemu(t, "convert", "-f", "raw", "-O", strings.TrimPrefix(filepath.Ext(name), "."), raw, filepath.Join(sub, name))
	}
	write(t, filepath.Join(sub, "vm-answer.json"), answer)
	return dir, want
}

func nxCheck(t *testing.T, dir string, want [][]byte, m *vm.Machine) {
	t.Helper()
	r, all := csList(t, dir)
	if len(all) != 2 || all[0].Layout != LayoutNutanix || all[1].VM != "other" {
		t.Fatalf("%+v", all)
	}
	b := all[0]
	if b.Fault != "" || len(b.Notes) != 0 || b.Origin != vm.Nutanix || len(b.Disks) != len(want) {
		t.Fatalf("%q %q %+v", b.Fault, b.Notes, b.Disks)
	}
	for i := range b.Disks {
		img, err := r.OpenDisk(context.Background(), b, i)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(img, 0, img.Size()))
		if err != nil || string(got) != string(want[i]) {
			t.Errorf("disk %d: %v", i, err)
		}
		img.Close()
	}
	if !reflect.DeepEqual(b.Machine, m) {
		got, _ := json.MarshalIndent(b.Machine, "", " ")
		t.Errorf("%s", got)
	}
}

func TestNutanixV4(t *testing.T) {
	off := false
	dir, want := nxFolder(t, nxAnswerV4, "vmdisk-"+strings.ToUpper(nxRoot)+".qcow2", nxData+".raw")
	nxCheck(t, dir, [][]byte{want[1], want[0]}, &vm.Machine{
		Name: "Web 01 – prod", Platform: vm.Nutanix, UUID: nxVM, CPU: vm.CPU{Sockets: 2, CoresPerSocket: 4, Threads: 1}, Memory: 8 * vm.GiB, Firmware: vm.UEFI, SecureBoot: true, TPM: true,
		Guest: vm.GuestOS{Family: vm.Windows, Distribution: "windows-server", Version: "2022", SourceID: "Windows Server 2022"}, HardwareNote: "Q35", Annotation: "front",
		Disks: []vm.Disk{
			{Index: 0, Name: "sata.0", Size: size, Controller: vm.BusSATA},
			{Index: 1, Name: "scsi.1", Size: size, Controller: vm.BusVirtioSCSI, Unit: 1, Boot: true},
		},
		NICs: []vm.NIC{
			{MAC: "50:6b:8d:11:22:33", Model: vm.VirtioNet, Network: "11111111-2222-4333-8444-555555555555", Addresses: []string{"10.1.2.3", "10.1.2.4"}},
			{MAC: "50:6b:8d:11:22:34", Model: vm.E1000, Connected: &off},
		},
		Devices: []vm.Device{{Kind: vm.GPU, Name: "Tesla T4"}},
	})
}

func TestNutanixV3(t *testing.T) {
	dir, want := nxFolder(t, nxAnswerV3, "db_scsi.0.qcow2", "db_pci.0.qcow2") // by address
	nxCheck(t, dir, want[:2], &vm.Machine{
		Name: "db", Platform: vm.Nutanix, UUID: nxVM, CPU: vm.CPU{Sockets: 1, CoresPerSocket: 2, Threads: 1}, Memory: 4 * vm.GiB, Firmware: vm.BIOS, HardwareNote: "PC",
		Tags: map[string]string{"Environment": "Production"},
		Disks: []vm.Disk{
			{Index: 0, Name: "scsi.0", Size: size, Controller: vm.BusVirtioSCSI, Boot: true},
			{Index: 1, Name: "pci.0", Size: size, Controller: vm.BusVirtioBlk},
		},
		NICs: []vm.NIC{{MAC: "50:6b:8d:aa:bb:cc", Model: vm.VirtioNet, Network: "vlan.100", Addresses: []string{"10.9.9.9"}}},
	})
}

// TestNutanixBroken: what is missing or wrong is said and hides nothing.
func TestNutanixBroken(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		fault, note  string
		images       int // that are listed by themselves
	}{
		{"not JSON", nxAnswerV4[:90], "", "", 3},
		{"another kind", strings.Replace(nxAnswerV4, "config.Vm", "config.Host", 1), "", "", 3},
		{"an image is missing", strings.ReplaceAll(nxAnswerV4, nxData, "b"+nxData[1:]), "its image is not in the folder", "", 2},
		{"another size", strings.Replace(nxAnswerV4, "3146240", "512", 1), "", "says that disk", 1},
		{"impossible memory", strings.Replace(nxAnswerV4, "8589934592", "-7", 1), "cannot be", "", 1},
		{"both disks are one image", strings.ReplaceAll(nxAnswerV4, nxData, nxRoot), "its image is not", "", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _ := nxFolder(t, c.answer, nxRoot+".qcow2", nxData+".raw")
			_, all := csList(t, dir)
			images := 0
			var b Backup
			for _, x := range all {
				if x.Layout == LayoutImage {
					images++
				} else {
					b = x
				}
			}
			if images != c.images || !strings.Contains(b.Fault, c.fault) || (c.fault == "") != (b.Fault == "") || !strings.Contains(strings.Join(b.Notes, "\n"), c.note) {
				t.Errorf("%d images, fault %q, notes %q", images, b.Fault, b.Notes)
			}
		})
	}
}

func FuzzNutanix(f *testing.F) {
	for _, s := range []string{nxAnswerV4, nxAnswerV3, `{"data":[{"$objectType":"vmm.v4.ahv.config.Vm","nics":[{}],"disks":[{}]}]}`, `{"metadata":{"kind":"vm"},"status":{"resources":{}}}`, `{"data":7}`, `[]`, ``} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		e := &nxExport{}
		e.read("x.json", b)
		for _, m := range e.machines {
			for _, d := range m.disks {
				d.imageOf([]string{"a.qcow2", "scsi.0.raw", nxRoot + ".qcow2"}, true)
			}
		}
	})
}
