package facts

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/guest"
	"ascend/internal/guest/vfs"
	"ascend/internal/guest/winpack"
	"ascend/internal/guest/winpack/winpacktest"
	"ascend/internal/plan"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

func linuxGuest(in ...string) *guest.Inspection {
	drivers := map[string]guest.Where{"ext4": guest.Builtin, "vmxnet3": guest.OnDisk, "e1000e": guest.OnDisk, "virtio_net": guest.OnDisk, "hv_netvsc": guest.OnDisk, "ena": guest.OnDisk}
	for _, m := range []string{"vmw_pvscsi", "virtio_blk", "virtio_scsi", "hv_storvsc", "nvme", "ahci"} {
		drivers[m] = guest.OnDisk
	}
	for _, m := range in {
		drivers[m] = guest.InInitrd
	}
	return &guest.Inspection{
		Firmware: vm.BIOS, BIOSBoots: true,
		Roots: []guest.Root{{
			Volume: "disk0p1", OS: vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64}, Hostname: "web",
			Linux: &guest.Linux{
				InitramfsTool: "initramfs-tools", DeviceNames: []guest.Device{{File: "/etc/fstab", Name: "/dev/sdb1"}, {File: "/etc/crypttab", Name: "/dev/sdb1"}},
				Kernels: []guest.Kernel{{Version: "5.10.0-1"}, {Version: "6.1.0-1", Default: true, Drivers: drivers}},
			},
			Interfaces: []guest.Interface{{Name: "ens192", Addresses: []string{"192.0.2.7/24"}}},
			Agents:     []guest.Agent{{Name: "open-vm-tools", Platform: vm.VMware}},
		}},
		Volumes: []guest.Volume{{ID: "disk0p1", Super: &vfs.Super{Dirty: true}}},
		Gaps:    []guest.Gap{{Code: "btrfs", Where: "disk1", Reason: "btrfs is not read here"}, {Code: "luks", Where: "disk2", Reason: "encrypted"}},
	}
}

func TestOf(t *testing.T) {
	zero := 0
	g := Of(linuxGuest("virtio_blk"))
	want := &plan.GuestFacts{
		Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64, Hostname: "web", BootDisk: &zero, Roots: 1, BootsBIOS: true,
		Incomplete: []string{"disk1: btrfs is not read here"}, Encrypted: []plan.Encrypted{{Volume: "disk2", Kind: "luks"}}, Dirty: []string{"disk0p1"},
		FstabDevices: []string{"/dev/sdb1"}, Initramfs: "initramfs-tools", Kernel: "6.1.0-1",
		Boot:      []string{"ext4", "virtio_blk"},
		Installed: []string{"ahci", "e1000e", "ena", "ext4", "hv_netvsc", "hv_storvsc", "nvme", "virtio_blk", "virtio_net", "virtio_scsi", "vmw_pvscsi", "vmxnet3"},
		Named:     true, StaticIP: []string{"192.0.2.7/24"}, Agents: []plan.Agent{{Name: "open-vm-tools", Platform: vm.VMware}},
	}
	if !reflect.DeepEqual(g, want) {
		t.Errorf("%+v\nwant %+v", g, want)
	}
}

func TestWindows(t *testing.T) {
	in := &guest.Inspection{BootDisk: 0, Roots: []guest.Root{{Volume: "disk0p2", OS: vm.GuestOS{Family: vm.Windows}, Windows: &guest.Windows{
		Hibernated: true, DirtyHives: []string{"SYSTEM"},
		Services: map[string]guest.Service{"lsi_sas": {Start: 0, File: true}, "stornvme": {Start: 3, File: true}, "vioscsi": {Start: 0}, "storahci": {Start: -1, File: true}},
	}}}}
	g := Of(in)
	if !slices.Equal(g.Boot, []string{"lsi_sas"}) || !slices.Equal(g.Installed, []string{"lsi_sas", "stornvme"}) || !g.HiveDirty || !slices.Equal(g.Hibernated, []string{"disk0p2"}) || *g.ClockUTC {
		t.Errorf("%+v", g)
	}
}

type broken struct{ disk.Disk }

func (broken) Size() int64                                                          { return 1 << 20 }
func (broken) ReadAt([]byte, int64) (int, error)                                    { return 0, errors.New("bad sector") }
func (broken) Extents(context.Context, int64, int64, func(disk.Extent) error) error { return nil }

func TestUnreadable(t *testing.T) {
	_, g, err := Look(t.Context(), []disk.Disk{broken{}}, "")
	if err != nil || g.Roots != 0 || !strings.Contains(strings.Join(g.Incomplete, " "), "bad sector") {
		t.Errorf("%+v, %v", g, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Look(ctx, []disk.Disk{broken{}}, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// blank is a disk of zeros.
type blank int64

func (d blank) Size() int64 { return int64(d) }
func (d blank) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}
func (d blank) Extents(context.Context, int64, int64, func(disk.Extent) error) error { return nil }
func (d blank) Unchanged() error                                                     { return nil }
func (d blank) Close() error                                                         { return nil }
func (d blank) Info() disk.Info                                                      { return disk.Info{Format: "raw", Size: int64(d)} }

// A plan for each platform says whether the guest finds its disk there.
func TestPlan(t *testing.T) {
	const missing = "boot-driver-missing"
	for _, c := range []struct {
		to   vm.Platform
		in   []string
		want bool // the finding
	}{
		{vm.VMware, []string{"vmw_pvscsi"}, false}, {vm.VMware, []string{"ahci"}, false}, {vm.VMware, []string{"xen_blkfront"}, true},
		{vm.AWS, []string{"nvme"}, false}, {vm.AWS, []string{"virtio_blk"}, true},
		{vm.HyperV, []string{"hv_storvsc"}, false}, {vm.HyperV, []string{"nvme"}, true},
		{vm.Azure, []string{"hv_storvsc"}, false}, {vm.Azure, []string{"ahci"}, true},
		{vm.CloudStack, []string{"virtio_blk"}, false}, {vm.Nutanix, []string{"virtio_scsi"}, false},
	} {
		size := int64(1 << 30)
		m := &vm.Machine{Name: "web", CPU: vm.CPU{Sockets: 1, CoresPerSocket: 2}, Memory: 4 << 30, Firmware: vm.BIOS, Disks: []vm.Disk{{Size: size, Controller: vm.BusPVSCSI}}}
		p, err := plan.Make(plan.Request{
			Machine: m, Target: plan.TargetRef{Name: "t", Platform: c.to}, Caps: caps.For(c.to), Guest: Of(linuxGuest(c.in...)),
			Sources: []plan.Source{{Image: blank(size), Info: disk.Info{Size: size, Format: "raw"}, Map: disk.NewMap(size, 64<<10).Seal()}}, Inventory: &target.Inventory{},
		})
		if err != nil {
			t.Fatalf("%s: %v", c.to, err)
		}
		var codes []string
		for _, f := range p.Findings {
			codes = append(codes, f.Code)
		}
		if slices.Contains(codes, missing) != c.want {
			t.Errorf("to %s with %v at start: %v", c.to, c.in, codes)
		}
	}
}

// TestPack: what a pack brings counts for the choice of hardware, and afterwards
// where it is put in.
func TestPack(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"viostor", "vioscsi"} {
		winpacktest.Driver(t, dir, d, d, "NTamd64.10.0", "01/02/2024,100.1.2.3")
	}
	pack, err := winpack.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer pack.Close()
	in := &guest.Inspection{Roots: []guest.Root{{OS: vm.GuestOS{Family: vm.Windows, Arch: vm.AMD64}, Windows: &guest.Windows{Major: 10, Build: "20348", Services: map[string]guest.Service{"storahci": {File: true}}}}}}
	g := Of(in)
	With(g, in, pack)
	if want := []string{"storahci", "vioscsi", "viostor"}; !slices.Equal(g.Installed, want) || !slices.Equal(g.Boot, want[:1]) {
		t.Errorf("%q %q", g.Installed, g.Boot)
	}
	g = Of(in)
	Decided(g, guest.Decide(in, guest.Target{Platform: vm.Nutanix, Controller: vm.BusVirtioSCSI}, guest.Choices{Pack: pack}))
	if !slices.Equal(g.Installed, []string{"storahci", "vioscsi"}) || len(g.Packed) != 1 || !strings.HasPrefix(g.Packed[0], "vioscsi 01/02/2024,100.1.2.3 of Example; Inc. from "+dir+", folder vioscsi (SHA-256 of vioscsi.inf: ") {
		t.Errorf("%q %q", g.Installed, g.Packed)
	}
	in.Roots[0].Interfaces = []guest.Interface{{Name: "{1}", Addresses: []string{"192.0.2.1/24"}}}
	Decided(g, guest.Decide(in, guest.Target{Platform: vm.Nutanix, NICs: []vm.NIC{{}, {}}}, guest.Choices{}))
	if len(g.Unsettled) != 1 || !strings.Contains(g.Unsettled[0], "192.0.2.1/24") {
		t.Errorf("%q", g.Unsettled)
	}
}
