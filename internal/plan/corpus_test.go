package plan

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/prices"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

// specimen is one machine of the corpus.
type specimen struct {
	name    string
	machine vm.Machine
	guest   *GuestFacts
	head    []byte // of the boot disk
}

func linux(d, v string) vm.GuestOS {
	return vm.GuestOS{Family: vm.Linux, Distribution: d, Version: v, Arch: vm.AMD64}
}

func server(v string) vm.GuestOS {
	return vm.GuestOS{Family: vm.Windows, Distribution: "windows-server", Version: v, Arch: vm.AMD64}
}

func client(v string) vm.GuestOS {
	return vm.GuestOS{Family: vm.Windows, Distribution: "windows-client", Version: v, Arch: vm.AMD64}
}

// m makes a machine: disks of so many GiB on a bus, one adapter for each network.
func m(p vm.Platform, g vm.GuestOS, f vm.Firmware, cpus int, gib float64, bus vm.Bus, nic vm.NICModel, networks string, disks ...int64) vm.Machine {
	out := vm.Machine{Platform: p, Guest: g, Firmware: f, CPU: vm.CPU{Sockets: 1, CoresPerSocket: cpus}, Memory: int64(gib * float64(vm.GiB))}
	for i, n := range disks {
		out.Disks = append(out.Disks, vm.Disk{Index: i, Size: n * vm.GiB, Controller: bus, Unit: i})
		if bus == vm.BusIDE {
			out.Disks[i].ControllerNumber, out.Disks[i].Unit = i/2, i%2
		}
		if bus == vm.BusPVSCSI || bus == vm.BusLSISAS || bus == vm.BusLSILogic {
			out.Disks[i].ControllerNumber, out.Disks[i].Unit = i/15, i%15
			if i%15 >= 7 {
				out.Disks[i].Unit++
			}
		}
	}
	for i, n := range strings.Fields(networks) {
		out.NICs = append(out.NICs, vm.NIC{Model: nic, Network: n, MAC: fmt.Sprintf("00:50:56:00:00:%02x", i)})
	}
	return out
}

// with changes a machine.
func with(x vm.Machine, f func(x *vm.Machine)) vm.Machine { f(&x); return x }

func secure(x *vm.Machine) { x.SecureBoot = true }
func tpm(x *vm.Machine)    { x.SecureBoot, x.TPM = true, true }

// inspectedLinux is a guest that has the drivers of every target.
func inspectedLinux() *GuestFacts {
	all := []string{"vmw_pvscsi", "mptspi", "mptsas", "ahci", "ata_piix", "nvme", "virtio_blk", "virtio_scsi", "hv_storvsc", "xen-blkfront"}
	return &GuestFacts{Family: vm.Linux, Roots: 1, Initramfs: "dracut", EFIFallback: true, Boot: all, Installed: append(slices.Clone(all), "vmxnet3", "e1000", "e1000e", "virtio_net", "hv_netvsc", "ena")}
}

func corpus() []specimen {
	return []specimen{
		{name: "web-debian12-vmware", machine: m(vm.VMware, linux("debian", "12"), vm.BIOS, 2, 4, vm.BusPVSCSI, vm.VMXNET3, "prod", 20)},
		{name: "web-debian12-inspected", machine: m(vm.VMware, linux("debian", "12"), vm.BIOS, 2, 4, vm.BusPVSCSI, vm.VMXNET3, "prod", 20), guest: inspectedLinux()},
		{name: "windows2008r2-bios-5-disks", machine: m(vm.VMware, server("2008 R2"), vm.BIOS, 4, 16, vm.BusLSISAS, vm.E1000, "prod backup", 60, 200, 200, 500, 1000), head: mbrHead()},
		{name: "windows2022-uefi-secure-vtpm", machine: with(m(vm.VMware, server("2022"), vm.UEFI, 4, 16, vm.BusLSISAS, vm.E1000E, "prod", 100), tpm), head: gptHead(guidESP)},
		{name: "windows11-secure-vtpm", machine: with(m(vm.HyperV, client("11"), vm.UEFI, 4, 8, vm.BusVMBusSCSI, vm.NetVSC, "prod", 127), tpm), head: gptHead(guidESP)},
		{name: "disk-3tib-mbr-bios", machine: m(vm.VMware, linux("centos", "7"), vm.BIOS, 2, 8, vm.BusPVSCSI, vm.VMXNET3, "prod", 3072), head: mbrHead()},
		{name: "disk-3tib-gpt-uefi", machine: m(vm.VMware, linux("rhel", "9.4"), vm.UEFI, 2, 8, vm.BusPVSCSI, vm.VMXNET3, "prod", 3072), head: gptHead(guidESP)},
		{name: "debian-32bit-bios", machine: m(vm.CloudStack, vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "10", Arch: vm.I386}, vm.BIOS, 1, 1, vm.BusVirtioBlk, vm.VirtioNet, "prod", 8)},
		{name: "windows7-32bit", machine: m(vm.VMware, vm.GuestOS{Family: vm.Windows, Distribution: "windows-client", Version: "7", Arch: vm.I386}, vm.BIOS, 2, 3, vm.BusLSILogic, vm.E1000, "prod", 40)},
		{name: "router-12-nics", machine: m(vm.Nutanix, linux("debian", "12"), vm.UEFI, 4, 4, vm.BusVirtioSCSI, vm.VirtioNet, "n1 n2 n3 n4 n5 n6 n7 n8 n9 n10 n11 n12", 10)},
		{name: "graviton-arm64", machine: with(m(vm.AWS, linux("ubuntu", "24.04"), vm.UEFI, 4, 16, vm.BusNVMe, vm.ENA, "prod", 30), func(x *vm.Machine) { x.Guest.Arch = vm.ARM64 })},
		{name: "azure-arm64", machine: with(m(vm.Azure, linux("ubuntu", "22.04"), vm.UEFI, 2, 8, vm.BusVMBusSCSI, vm.NetVSC, "prod", 30), func(x *vm.Machine) { x.Guest.Arch = vm.ARM64 })},
		{name: "database-26-disks", machine: m(vm.VMware, linux("ol", "8.9"), vm.BIOS, 16, 128, vm.BusPVSCSI, vm.VMXNET3, "prod", append([]int64{50}, slices.Repeat([]int64{200}, 25)...)...)},
		{name: "database-61-disks", machine: m(vm.HyperV, linux("rhel", "8.6"), vm.UEFI, 16, 128, vm.BusVMBusSCSI, vm.NetVSC, "prod", append([]int64{50}, slices.Repeat([]int64{100}, 60)...)...)},
		{name: "unicode-name", machine: with(m(vm.VMware, linux("debian", "12"), vm.BIOS, 1, 2, vm.BusPVSCSI, vm.VMXNET3, "prod", 10), func(x *vm.Machine) { x.Name = "Büro-Server „Köln“ 東京" })},
		{name: "hostile-name", machine: with(m(vm.VMware, linux("debian", "12"), vm.BIOS, 1, 2, vm.BusPVSCSI, vm.VMXNET3, "prod", 10), func(x *vm.Machine) { x.Name = `a/b\c:"$(id)" & 100%` })},
		{name: "long-name", machine: with(m(vm.HyperV, server("2019"), vm.BIOS, 2, 4, vm.BusIDE, vm.NetVSC, "prod", 60), func(x *vm.Machine) { x.Name = strings.Repeat("finance-", 12) + "1" })},
		{name: "windows2003-ide", machine: m(vm.VMware, server("2003"), vm.BIOS, 1, 1, vm.BusIDE, vm.PCNet32, "prod", 20)},
		{name: "windows2008-lsi", machine: m(vm.VMware, server("2008"), vm.BIOS, 2, 4, vm.BusLSILogic, vm.E1000, "prod", 40)},
		{name: "windows2012r2-hyperv-gen1", machine: m(vm.HyperV, server("2012 R2"), vm.BIOS, 4, 8, vm.BusIDE, vm.NetVSC, "prod", 80, 200), head: mbrHead()},
		{name: "windows2019-hyperv-gen2", machine: with(m(vm.HyperV, server("2019"), vm.UEFI, 4, 8, vm.BusVMBusSCSI, vm.NetVSC, "prod", 80, 200), secure), head: gptHead(guidESP)},
		{name: "windows2025-azure-gen2", machine: with(m(vm.Azure, server("2025"), vm.UEFI, 8, 32, vm.BusVMBusSCSI, vm.NetVSC, "prod", 127, 512), tpm)},
		{name: "windows2016-aws", machine: m(vm.AWS, server("2016"), vm.BIOS, 4, 16, vm.BusNVMe, vm.ENA, "prod", 50, 100)},
		{name: "windows-22-disks", machine: m(vm.VMware, server("2019"), vm.BIOS, 8, 32, vm.BusLSISAS, vm.E1000E, "prod", slices.Repeat([]int64{100}, 22)...)},
		{name: "rhel6-old", machine: m(vm.VMware, linux("rhel", "6.2"), vm.BIOS, 2, 4, vm.BusLSILogic, vm.E1000, "prod", 40)},
		{name: "rhel5-older", machine: m(vm.VMware, linux("rhel", "5.3"), vm.BIOS, 2, 4, vm.BusLSILogic, vm.E1000, "prod", 40)},
		{name: "rhel10-baseline", machine: with(m(vm.Nutanix, linux("rhel", "10.0"), vm.UEFI, 4, 8, vm.BusVirtioSCSI, vm.VirtioNet, "prod", 40), secure)},
		{name: "sles15-luks-tpm", machine: m(vm.CloudStack, linux("sles", "15.5"), vm.UEFI, 4, 8, vm.BusVirtioSCSI, vm.VirtioNet, "prod", 60),
			guest: &GuestFacts{Roots: 1, Initramfs: "dracut", EFIFallback: true, Encrypted: []Encrypted{{Volume: "sda2", Kind: "luks", Root: true, TPM: true}}}},
		{name: "windows-bitlocker", machine: with(m(vm.VMware, client("10"), vm.UEFI, 2, 8, vm.BusNVMe, vm.E1000E, "prod", 100), tpm),
			guest: &GuestFacts{Roots: 1, EFIFallback: true, Encrypted: []Encrypted{{Volume: "C:", Kind: "bitlocker", Root: true, TPM: true}}}},
		{name: "windows-hibernated-dirty", machine: m(vm.VMware, client("10"), vm.BIOS, 2, 8, vm.BusSATA, vm.E1000E, "prod", 100), guest: &GuestFacts{Roots: 1, Hibernated: []string{"C:"}, Dirty: []string{"D:"}, HiveDirty: true}},
		{name: "windows-dynamic-disks", machine: m(vm.VMware, server("2012"), vm.BIOS, 2, 8, vm.BusLSISAS, vm.E1000, "prod", 60, 300), guest: &GuestFacts{Roots: 1, LDMBoot: true, LDMData: true}},
		{name: "debian-cloud-kernel", machine: m(vm.AWS, linux("debian", "12"), vm.BIOS, 2, 4, vm.BusNVMe, vm.ENA, "prod", 10),
			guest: &GuestFacts{Roots: 1, Initramfs: "initramfs-tools", Kernel: "6.1.0-cloud-amd64", Boot: []string{"nvme", "ata_piix"}, Installed: []string{"nvme", "ata_piix", "vmw_pvscsi", "virtio_blk", "virtio_scsi", "hv_storvsc", "vmxnet3", "virtio_net", "hv_netvsc", "ena"}}},
		{name: "kernel-without-nvme-ena", machine: m(vm.VMware, linux("centos", "6.8"), vm.BIOS, 2, 4, vm.BusPVSCSI, vm.VMXNET3, "prod", 20),
			guest: &GuestFacts{Roots: 1, Initramfs: "dracut", Boot: []string{"vmw_pvscsi", "virtio_blk"}, Installed: []string{"vmw_pvscsi", "virtio_blk", "virtio_scsi", "hv_storvsc", "xen-blkfront", "vmxnet3", "e1000", "virtio_net", "hv_netvsc", "xen-netfront", "ixgbevf"}}},
		{name: "fstab-devices-static-ip", machine: m(vm.VMware, linux("ubuntu", "18.04"), vm.BIOS, 2, 4, vm.BusPVSCSI, vm.VMXNET3, "prod", 30),
			guest: &GuestFacts{Roots: 1, Initramfs: "initramfs-tools", FstabDevices: []string{"/dev/sdb1"}, Named: true, StaticIP: []string{"192.0.2.7/24"}, ResolvFixed: true, LVMDevices: true, Agents: []Agent{{"open-vm-tools", vm.VMware}}}},
		{name: "full-boot-partition", machine: m(vm.VMware, linux("rhel", "7.9"), vm.BIOS, 2, 4, vm.BusPVSCSI, vm.VMXNET3, "prod", 30), guest: &GuestFacts{Roots: 1, Initramfs: "dracut", Space: []Space{{"/boot", 50 << 20, 10 << 20, false}}}},
		{name: "btrfs-snapshots-two-roots", machine: m(vm.CloudStack, linux("opensuse", "15.5"), vm.BIOS, 2, 4, vm.BusVirtioBlk, vm.VirtioNet, "prod", 40), guest: &GuestFacts{Roots: 2, Initramfs: "dracut", BtrfsRoots: 3}},
		{name: "cluster-shared-rdm", machine: with(m(vm.VMware, server("2016"), vm.BIOS, 4, 16, vm.BusLSISAS, vm.VMXNET3, "prod heartbeat", 60, 500, 10), func(x *vm.Machine) {
			x.Disks[1].Shared, x.Disks[1].RawDevice, x.Disks[2].Independent = true, true, true
		})},
		{name: "gpu-usb-sriov", machine: with(m(vm.VMware, linux("ubuntu", "22.04"), vm.UEFI, 8, 64, vm.BusPVSCSI, vm.VMXNET3, "prod", 100), func(x *vm.Machine) {
			x.Devices = []vm.Device{{Kind: vm.GPU, Name: "A40"}, {Kind: vm.USB, Name: "dongle"}, {Kind: vm.SRIOV}}
			x.Snapshots = 3
		})},
		{name: "boot-disk-second", machine: with(m(vm.VMware, linux("debian", "11"), vm.BIOS, 2, 4, vm.BusPVSCSI, vm.VMXNET3, "prod", 500, 16), func(x *vm.Machine) { x.Disks[1].Boot = true })},
		{name: "odd-size-raw", machine: with(m(vm.Unknown, vm.GuestOS{}, "", 2, 4, "", "", "prod", 1), func(x *vm.Machine) { x.Disks[0].Size = vm.GiB + 512 })},
		{name: "nothing-known", machine: vm.Machine{Disks: []vm.Disk{{Size: 5 * vm.GiB}}}},
		{name: "four-kib-sectors", machine: with(m(vm.VMware, linux("rhel", "8.8"), vm.UEFI, 2, 4, vm.BusNVMe, vm.VMXNET3, "prod", 40), func(x *vm.Machine) { x.Disks[0].SectorSize = 4096 })},
		{name: "monster-256-cpus-6tib", machine: m(vm.VMware, linux("sles", "15.5"), vm.UEFI, 256, 6144, vm.BusPVSCSI, vm.VMXNET3, "prod", 200, 4096)},
		{name: "data-40tib", machine: m(vm.Nutanix, linux("rhel", "9.2"), vm.UEFI, 8, 64, vm.BusVirtioSCSI, vm.VirtioNet, "prod", 50, 40*1024)},
		{name: "freebsd-firewall", machine: m(vm.VMware, vm.GuestOS{Family: vm.BSD, Distribution: "freebsd", Version: "13.2", Arch: vm.AMD64}, vm.BIOS, 2, 2, vm.BusLSILogic, vm.E1000, "wan lan dmz", 8)},
		{name: "topology-2x4x2", machine: with(m(vm.Nutanix, linux("rocky", "9.3"), vm.BIOS, 4, 32, vm.BusVirtioSCSI, vm.VirtioNet, "prod", 60), func(x *vm.Machine) {
			x.CPU, x.UUID, x.Clock = vm.CPU{Sockets: 2, CoresPerSocket: 4, Threads: 2}, "ec2b8f2e-1111-2222-3333-444455556666", vm.ClockUTC
		})},
		{name: "xen-aws-old", machine: with(m(vm.AWS, linux("amzn", "2"), vm.BIOS, 1, 1, vm.BusXenBlk, "", "prod", 8), func(x *vm.Machine) { x.UUID = "ec2a1111-0000-0000-0000-000000000000" })},
	}
}

// goldenRequest is a specimen on a target with an ordinary inventory.
func goldenRequest(s specimen, p vm.Platform) *Request {
	c := caps.For(p)
	mc := s.machine.Clone()
	if mc.Name == "" {
		mc.Name = s.name
	}
	r := &Request{
		Backup: BackupRef{ID: "b1", VM: mc.Name}, Target: TargetRef{Name: "there", Platform: p}, Machine: mc, Caps: c, Guest: s.guest, Prices: prices.Builtin(), Seed: "b1",
		Now: time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC), ScratchFree: -1,
		Inventory: &target.Inventory{Places: map[string][]target.Place{}, Networks: []target.Place{{Name: "prod"}}, Permissions: []target.Permission{{Name: "all", Granted: true}},
			Quotas: []target.Quota{{Kind: "cpus", Name: "processors", Used: 100, Limit: 1000}}},
		Mapping: Mapping{Networks: []NetworkRule{{From: "*", To: "prod"}}},
	}
	switch p {
	case vm.VMware:
		r.Inventory.Places["datastore"] = []target.Place{{Name: "ds1", Free: 20 * vm.TiB}}
		r.Inventory.KeyProvider = yes()
	case vm.CloudStack:
		r.Inventory.Places["zone"], r.Placement.Fields = []target.Place{{Name: "z1"}}, map[string]string{"zone": "z1"}
		r.Inventory.UEFI = yes()
		r.Inventory.Sizes = []target.Size{{Name: "Small", CPUs: 1, Memory: 2 * vm.GiB}, {Name: "Medium", CPUs: 2, Memory: 4 * vm.GiB}, {Name: "Large", CPUs: 4, Memory: 16 * vm.GiB}, {Name: "Custom", Custom: true}}
	case vm.AWS:
		r.Inventory.Region = "eu-central-1"
	case vm.Azure:
		r.Inventory.Region = "westeurope"
	}
	for i, d := range mc.Disks {
		mp := disk.NewMap(d.Size, disk.LeafSize)
		mp.Add(0, d.Size/4)
		mp.Seal()
		src := Source{Image: blank(d.Size), Info: disk.Info{Format: "qcow2", Size: d.Size, Allocated: mp.Bytes()}, Map: mp}
		if i == mc.BootDisk() && s.head != nil {
			src.Image = headed{blank(d.Size), s.head}
		}
		r.Sources = append(r.Sources, src)
	}
	return r
}

// TestGoldenPlans compares the plans of every specimen for every target with
// those in testdata/plans, one file for a machine. With ASCEND_UPDATE=1 it
// writes them.
func TestGoldenPlans(t *testing.T) {
	all := corpus()
	if len(all) < 40 {
		t.Errorf("%d machines", len(all))
	}
	dir := filepath.Join("testdata", "plans")
	want := map[string]bool{}
	for _, s := range all {
		var b strings.Builder
		fmt.Fprintf(&b, "# %s\n", s.name)
		for _, p := range caps.Targets() {
			made, err := Make(*goldenRequest(s, p))
			if err != nil {
				t.Fatalf("%s to %s: %v", s.name, p, err)
			}
			digest(&b, made)
			checkPlan(t, s.name, made)
		}
		file := filepath.Join(dir, s.name+".txt")
		want[s.name+".txt"] = true
		if os.Getenv("ASCEND_UPDATE") != "" {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil || string(got) != b.String() {
			t.Errorf("%s: the plans are not those of %s (%v); if that is meant: ASCEND_UPDATE=1 go test ./internal/plan -run TestGoldenPlans\n%s", s.name, file, err, firstDifference(string(got), b.String()))
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !want[e.Name()] {
			t.Errorf("%s belongs to no machine of the corpus", e.Name())
		}
	}
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("line %d\n- %s\n+ %s", i+1, x[i], y[i])
		}
	}
	return fmt.Sprintf("%d lines and %d", len(x), len(y))
}

// digest writes a plan in a few lines.
func digest(b *strings.Builder, p *Plan) {
	verdict := "yes"
	for _, f := range p.Findings {
		if f.Severity == Critical {
			verdict = "NO"
		} else if f.Severity == Warning && verdict == "yes" {
			verdict = "with consent"
		}
	}
	fmt.Fprintf(b, "\n== %s: %s\n", p.Target.Platform, verdict)
	mc := p.Machine
	fmt.Fprintf(b, "machine  %q %s, %s, %s", mc.Name, topology(mc.CPU), vm.FormatSize(mc.Memory), orUnknown(string(mc.Firmware)))
	if mc.SecureBoot {
		b.WriteString(", secure boot")
	}
	if mc.TPM {
		b.WriteString(", tpm")
	}
	if len(p.GuestNames) > 0 {
		fmt.Fprintf(b, ", known as %q", p.GuestNames[0])
	}
	if p.Size != nil {
		var others []string
		for _, a := range p.Size.Alternatives {
			others = append(others, a.Name)
		}
		fmt.Fprintf(b, "\nsize     %s %s; %s; or %s", p.Size.Name, p.Size.Hourly, p.Size.Chosen, strings.Join(others, ", "))
	}
	b.WriteString("\ndisks   ")
	for i, d := range mc.Disks {
		if i == 6 && len(mc.Disks) > 8 {
			fmt.Fprintf(b, " … %d more", len(mc.Disks)-6)
			break
		}
		boot := ""
		if d.Boot {
			boot = " boot"
		}
		fmt.Fprintf(b, " %d@%s:%d:%d%s", p.Disks[i].Virtual, orUnknown(string(d.Controller)), d.ControllerNumber, d.Unit, boot)
		if i < len(p.Placement.Storage) {
			fmt.Fprintf(b, " %s", p.Placement.Storage[i])
		}
	}
	if len(mc.NICs) > 0 {
		fmt.Fprintf(b, "\nnics     %d %s on %s, MAC %s", len(mc.NICs), mc.NICs[0].Model, p.networkOf(0), orNew(mc.NICs[0].MAC))
	}
	fmt.Fprintf(b, "\nmoves    %s in %s, %d requests", vm.FormatSize(p.Estimate.Sent), p.Estimate.Time(), p.Estimate.Requests)
	if c := p.Estimate.Cost; c != nil {
		fmt.Fprintf(b, "; costs %s once, %s a month", c.Once[0].Amount, c.Total)
	}
	b.WriteString("\n")
	var info []string
	for _, f := range p.Findings {
		if f.Severity == Information {
			if !slices.Contains(info, f.Code) {
				info = append(info, f.Code)
			}
			continue
		}
		fmt.Fprintf(b, "%-8s %s: %s\n", f.Severity, f.Code, f.Text)
	}
	if len(info) > 0 {
		fmt.Fprintf(b, "info     %s\n", strings.Join(info, ", "))
	}
}

func orNew(s string) string {
	if s == "" {
		return "new"
	}
	return s
}

// checkPlan holds a plan to what must be true of any.
func checkPlan(t *testing.T, name string, p *Plan) {
	t.Helper()
	used := map[string]bool{}
	for i, d := range p.Machine.Disks {
		units, self := places(d.Controller)
		key := slots{}.key(&p.Machine.Disks[i])
		if used[key] || d.Unit == self || d.Unit >= units {
			t.Errorf("%s to %s: disk %d is at %s, which is taken or no place", name, p.Target.Platform, d.Index, key)
		}
		used[key] = true
		if p.Machine.Disks[i].Index != p.Source.Disks[i].Index {
			t.Errorf("%s to %s: the order of the disks changed", name, p.Target.Platform)
		}
	}
	for _, r := range p.Compare() {
		if r.Before != r.After && r.Reason == "" {
			t.Errorf("%s to %s: %s changes without a reason", name, p.Target.Platform, r.Field)
		}
	}
	for _, c := range p.Changes {
		if c.From == c.To || c.Reason == "" {
			t.Errorf("%s to %s: %+v", name, p.Target.Platform, c)
		}
	}
	if b := p.Machine.BootDisk(); p.Target.Platform == vm.HyperV && b >= 0 {
		d := p.Machine.Disks[b]
		if bus := map[vm.Firmware]vm.Bus{vm.BIOS: vm.BusIDE, vm.UEFI: vm.BusVMBusSCSI}[p.Machine.Firmware]; d.Controller != bus || d.ControllerNumber != 0 || d.Unit != 0 {
			t.Errorf("%s: Hyper-V does not start from %s %d:%d", name, d.Controller, d.ControllerNumber, d.Unit)
		}
	}
}
