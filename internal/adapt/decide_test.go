package adapt

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"ascend/internal/disk"
	"ascend/internal/guest"
	"ascend/internal/plan"
	"ascend/internal/plan/facts"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

// asked is a request whose guest has only IDE's driver in its initramfs, and the others
// installed.
func asked(t *testing.T, w *plan.GuestWish) (*plan.Request, *guest.Inspection) {
	t.Helper()
	drivers := map[string]guest.Where{"ata_piix": guest.InInitrd, "sd_mod": guest.InInitrd, "virtio_net": guest.OnDisk, "virtio_pci": guest.OnDisk, "virtio_blk": guest.OnDisk}
	in := &guest.Inspection{
		BootDisk: 0, Firmware: vm.BIOS, BIOSBoots: true,
		Roots: []guest.Root{{
			Volume: "disk0p1", OS: vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64}, Hostname: "old",
			Linux: &guest.Linux{Init: "systemd", InitramfsTool: "dracut", Kernels: []guest.Kernel{{Version: "6.1", Default: true, Initrd: []string{"/i"}, ModuleDir: "lib/modules", Drivers: drivers}}},
		}},
	}
	img := small(t, "16M", with(nil))
	sources, err := plan.Measure(t.Context(), []disk.Image{img})
	if err != nil {
		t.Fatal(err)
	}
	return &plan.Request{
		Backup: plan.BackupRef{ID: "b", VM: "web"}, Target: plan.TargetRef{Name: "cloud", Platform: vm.CloudStack}, Caps: caps.For(vm.CloudStack),
		Machine: &vm.Machine{Name: "web", Firmware: vm.BIOS, Disks: []vm.Disk{{Size: img.Size(), Controller: vm.BusPVSCSI, Boot: true}}, NICs: []vm.NIC{{MAC: "02:00:00:00:00:01", Model: vm.VMXNET3}}},
		Sources: sources, Guest: facts.Of(in), GuestWish: w, Seed: "s", Now: time.Unix(1700000000, 0),
	}, in
}

func TestPlan(t *testing.T) {
	there := func() error { return nil }
	r, in := asked(t, &plan.GuestWish{Hostname: "new"})
	p, a, why, err := Plan(r, in, guest.Choices{}, there)
	if err != nil || why != "" || a == nil {
		t.Fatal(a, why, err)
	}
	if b := p.Machine.Disks[0].Controller; b != vm.BusVirtioBlk || !slices.Contains(kinds(a), guest.AppendInitramfs) || !slices.Contains(kinds(a), guest.SetHostname) {
		t.Errorf("on %s: %v", b, kinds(a))
	}
	for _, f := range p.Findings {
		if f.Severity == plan.Critical && f.Code == "boot-driver-missing" {
			t.Errorf("%+v", f)
		}
	}
	// Without the appliance the guest stays on hardware that it finds.
	r, in = asked(t, nil)
	p, a, why, err = Plan(r, in, guest.Choices{}, func() error { return errors.New("not built") })
	if b := p.Machine.Disks[0].Controller; err != nil || a != nil || b != vm.BusIDE {
		t.Errorf("without the appliance, on %s: %v, %q, %v", b, a, why, err)
	}
	for _, w := range []plan.GuestWish{{Hostname: "a b"}, {Hostname: "-x"}, {Addresses: []string{"1.2.3.4"}}} {
		r, in = asked(t, &w)
		if _, _, _, err := Plan(r, in, guest.Choices{}, there); err == nil || !strings.Contains(err.Error(), "cannot plan") {
			t.Errorf("%+v: %v", w, err)
		}
	}
	r, _ = asked(t, nil)
	if p, a, _, err := Plan(r, nil, guest.Choices{}, there); err != nil || a != nil || p.Machine.Disks[0].Controller == "" {
		t.Errorf("not inspected: %v, %v", a, err)
	}
}
