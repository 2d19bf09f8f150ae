package backup

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"ascend/internal/vm"
)

const (
	csVM   = "6f2a1a3e-3c44-4a0e-8c7d-2a90e1f0c111"
	csRoot = "0b3c5f68-7f0a-4a3e-9d61-5f2b1a0c9e77"
	csData = "9e77c0de-1111-4222-8333-444455556666"
)

// csAnswers are answers as CloudStack 4.20 gives them, shortened.
const (
	csMachines = `{"listvirtualmachinesresponse":{"count":1,"virtualmachine":[{"id":"` + csVM + `","name":"web01","displayname":"Web 01 – prod",
"cpunumber":4,"cpuspeed":2000,"memory":8192,"osdisplayname":"Debian GNU/Linux 12 (64-bit)","boottype":"UEFI","bootmode":"SECURE","hypervisor":"KVM",
"details":{"rootDiskController":"scsi","nicAdapter":"virtio","Message.ReservedCapacityFreed.Flag":"false"},"tags":[{"key":"team","value":"blue"}],"nic":[
{"deviceid":"1","macaddress":"02:00:3a:51:00:02","networkname":"db-net","ipaddress":"10.9.0.5","netmask":"255.255.0.0"},
{"deviceid":"0","macaddress":"02:00:3A:51:00:01","networkname":"front","ipaddress":"10.1.1.20","netmask":"255.255.255.0","ip6address":"fd00::20"}]}]}}`
	csVolumes = `{"count":3,"volume":[{"id":"` + csData + `","name":"DATA-7","type":"DATADISK","deviceid":2,"size":3146240,"virtualmachineid":"` + csVM + `","path":"aaaa1111-2222-4333-8444-555566667777"},
{"id":"` + csRoot + `","name":"ROOT-7","type":"ROOT","deviceid":0,"size":3146240,"virtualmachineid":"` + csVM + `","path":"` + csRoot + `"},
{"id":"1","name":"lonely","type":"DATADISK"}]}`
)

func csFolder(t testing.TB, machines, volumes string) (dir string, want [][]byte) {
	t.Helper()
	dir = t.TempDir()
	sub := filepath.Join(dir, "i-2-7-VM", "2026.05.01.03.12.07")
	for i, name := range []string{"root." + csRoot + ".qcow2", "datadisk.aaaa1111-2222-4333-8444-555566667777.qcow2", "other.qcow2"} {
		raw := filepath.Join(t.TempDir(), "raw")
		b := rawFile(t, raw, uint64(40+i))
		mkdir(t, sub)
		qemu(t, "convert", "-f", "raw", "-O", "qcow2", raw, filepath.Join(sub, name))
		want = append(want, b)
	}
	write(t, filepath.Join(sub, "listVirtualMachines.json"), machines)
	write(t, filepath.Join(sub, "volumes.json"), volumes)
	return dir, want
}

func csList(t testing.TB, dir string) (*Repository, []Backup) {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	all, err := r.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return r, all
}

func TestCloudStack(t *testing.T) {
	dir, want := csFolder(t, csMachines, csVolumes)
	r, all := csList(t, dir)
	if len(all) != 2 || all[0].Layout != LayoutCloudStack || all[1].Layout != LayoutImage || all[1].VM != "other" {
		t.Fatalf("%+v", all)
	}
	b := all[0]
	if b.Fault != "" || len(b.Notes) != 0 || b.Origin != vm.CloudStack || len(b.Disks) != 2 {
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
	m := &vm.Machine{
		Name: "Web 01 – prod", Platform: vm.CloudStack, UUID: csVM, CPU: vm.CPU{Sockets: 4, CoresPerSocket: 1}, Memory: 8 * vm.GiB, Firmware: vm.UEFI, SecureBoot: true,
		Guest: vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64, SourceID: "Debian GNU/Linux 12 (64-bit)"}, HardwareNote: "KVM",
		Tags: map[string]string{"team": "blue"},
		Disks: []vm.Disk{
			{Index: 0, Name: "ROOT-7", Size: size, Boot: true, Controller: vm.BusVirtioSCSI, Serial: "0b3c5f687f0a4a3e9d61"},
			{Index: 2, Name: "DATA-7", Size: size, Serial: "9e77c0de111142228333"},
		},
		NICs: []vm.NIC{
			{MAC: "02:00:3a:51:00:01", Network: "front", Model: vm.VirtioNet, Addresses: []string{"10.1.1.20/24", "fd00::20"}},
			{MAC: "02:00:3a:51:00:02", Network: "db-net", Model: vm.VirtioNet, Addresses: []string{"10.9.0.5/16"}},
		},
	}
	if !reflect.DeepEqual(b.Machine, m) {
		got, _ := json.MarshalIndent(b.Machine, "", " ")
		t.Errorf("%s", got)
	}
}

// TestCloudStackBroken: what is missing or wrong is said and hides nothing.
func TestCloudStackBroken(t *testing.T) {
	for _, c := range []struct {
		name, machines, volumes string
		fault, note             string
		images                  int // that are listed by themselves
	}{
		{"no volumes", csMachines, `{}`, "", "", 3},
		{"not JSON", csMachines[:50], csVolumes, "", "", 3},
		{"an image is missing", csMachines, strings.ReplaceAll(csVolumes, "aaaa1111", "bbbb1111"), "its image is not in the folder", "", 2},
		{"another size", csMachines, strings.ReplaceAll(csVolumes, `"size":3146240`, `"size":1`), "", "says that disk", 1},
		{"impossible memory", strings.ReplaceAll(csMachines, `"memory":8192`, `"memory":99999999999`), csVolumes, "cannot be", "", 1},
		{"a bad row", csMachines, strings.Replace(csVolumes, `{"id":"1"`, `{"id":7`, 1), "", "is left out", 1},
		{"twice", csMachines, strings.Replace(csVolumes, `{"id":"1","name":"lonely","type":"DATADISK"}`, `{"id":"2","name":"again","virtualmachineid":"`+csVM+`","path":"`+csRoot+`"}`, 1), "its image is not", "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, _ := csFolder(t, c.machines, c.volumes)
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
	dir, _ := csFolder(t, csMachines, csVolumes)
	sub := filepath.Join(dir, "i-2-7-VM", "2026.05.01.03.12.07")
	if err := os.Symlink("/etc/passwd", filepath.Join(sub, "leak.json")); err != nil {
		t.Fatal(err)
	}
	if _, all := csList(t, dir); len(all) != 2 {
		t.Errorf("%+v", all)
	}
}

func TestCloudStackGuests(t *testing.T) {
	for name, want := range map[string]vm.GuestOS{
		"Windows Server 2019 (64-bit)": {Family: vm.Windows, Distribution: "windows-server", Version: "2019", Arch: vm.AMD64},
		"Windows 10 (32-bit)":          {Family: vm.Windows, Distribution: "windows-client", Version: "10", Arch: vm.I386},
		"Ubuntu 24.04 LTS":             {Family: vm.Linux, Distribution: "ubuntu", Version: "24.04"},
		"Red Hat Enterprise Linux 9.4": {Family: vm.Linux, Distribution: "rhel", Version: "9.4"},
		"Other Linux (64-bit)":         {Family: vm.Linux, Arch: vm.AMD64},
		"FreeBSD 13 (64-bit)":          {Family: vm.BSD, Version: "13", Arch: vm.AMD64},
		"Other (64-bit)":               {Arch: vm.AMD64},
		"":                             {},
	} {
		want.SourceID = name
		if got := csGuest(name, ""); got != want {
			t.Errorf("%q: %+v", name, got)
		}
	}
}

func FuzzCloudStack(f *testing.F) {
	for _, s := range []string{csMachines, csVolumes, `{"virtualmachine":[{"id":"x","nic":[{}],"details":null}]}`, `{"volume":{}}`, `[]`, ``, `{"listvolumesresponse":[]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		e := &csExport{}
		e.read("x.json", b)
		for _, m := range e.machines {
			m.machine()
		}
		for _, v := range e.volumes {
			v.disk(Disk{ID: clean(v.ID)}, nil)
			v.imageOf([]string{"a.qcow2", "root." + v.Path + ".qcow2"})
		}
	})
}
