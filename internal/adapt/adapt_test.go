package adapt

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ascend/internal/appliance/appliancetest"
	"ascend/internal/boot"
	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/disk/overlay"
	"ascend/internal/guest"
	"ascend/internal/guest/part"
	"ascend/internal/qemu"
	"ascend/internal/vm"
)

func TestMain(m *testing.M) {
	qemu.Main()
	os.Exit(m.Run())
}

// layer is a fresh layer over a built guest.
func layer(t *testing.T, name string) *overlay.Overlay {
	t.Helper()
	dir := os.Getenv("ASCEND_GUESTS")
	if dir == "" {
		dir = "/var/cache/ascend-guests"
	}
	root, err := disk.OpenRoot(dir)
	if err != nil {
		t.Fatalf("%v (\"make guests-ci\" builds the guests)", err)
	}
	defer root.Close()
	img, err := open.Disk(root, name+".qcow2", "qcow2")
	if err != nil {
		t.Fatalf("%v (\"make guests-ci\" builds the guests)", err)
	}
	o, err := overlay.Create(filepath.Join(t.TempDir(), "layer"), img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

func decide(t *testing.T, d disk.Disk, to guest.Target, c guest.Choices) (*guest.Inspection, *guest.Adaptation) {
	t.Helper()
	in, err := guest.Inspect(t.Context(), []disk.Disk{d}, guest.Options{Firmware: to.Firmware})
	if err != nil {
		t.Fatal(err)
	}
	return in, guest.Decide(in, to, c)
}

func kinds(a *guest.Adaptation) (out []guest.ChangeKind) {
	for _, c := range a.Changes {
		out = append(out, c.Kind)
	}
	return out
}

// TestRealGuest takes the Debian guest, which boot's own test shows not to come up
// on pvscsi, adapts it and has it come up there, with a name, an address and an
// adapter in another slot: its own report says so.
func TestRealGuest(t *testing.T) {
	im := appliancetest.Image(t)
	o := layer(t, "debian")
	disks := []disk.Disk{o}
	to := guest.Target{Platform: vm.VMware, Firmware: vm.BIOS, Controller: vm.BusPVSCSI, NIC: vm.VMXNET3}
	const mac = "52:54:00:00:00:2a"
	to.NICs = []vm.NIC{{Model: vm.VMXNET3, MAC: mac}}
	want := guest.Choices{Hostname: "restored", Addresses: []guest.Address{{Static: []string{"192.0.2.9/24"}, Gateway: "192.0.2.1"}}}
	in, a := decide(t, o, to, want)
	if a.Boot.Verdict != guest.BootsAdapted || !slices.Contains(kinds(a), guest.AppendInitramfs) {
		t.Fatalf("before: %+v", a)
	}
	res, err := Apply(t.Context(), disks, in, a, Options{Image: im})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f s, %.1f s of processor time, %s trimmed", res.Seconds, res.CPU, vm.FormatSize(res.Trimmed))
	if len(res.Changes) != len(a.Changes) {
		t.Errorf("%d changes of %d", len(res.Changes), len(a.Changes))
	}
	var before int64
	for _, c := range res.Changes {
		if c.Kind == guest.AppendInitramfs {
			if len(c.Files) != 1 || c.Files[0].Is <= c.Files[0].Was || len(c.Files[0].SHA256) != 64 {
				t.Errorf("%+v", c)
			}
			before = c.Files[0].Was
		}
	}
	if before == 0 {
		t.Error("nothing was appended")
	}
	in, again := decide(t, o, to, want)
	if again.Boot.Verdict != guest.Boots || !again.Nothing() {
		t.Errorf("after: %+v", again)
	}
	if in.Roots[0].Hostname != "restored" {
		t.Errorf("host name %q", in.Roots[0].Hostname)
	}
	parts := in.Disks[0].Partitions
	p := parts[slices.IndexFunc(parts, func(p part.Partition) bool { return in.Roots[0].Volume == fmt.Sprint("disk0p", p.Number) })]
	sh(t, "e2fsck", "-fn", raw(t, io.NewSectionReader(o, p.Start, p.Size)))
	proof, err := boot.Prove(t.Context(), boot.Request{Disks: disks, Platform: vm.VMware, Firmware: vm.BIOS, Storage: vm.BusPVSCSI, NIC: vm.VMXNET3, MAC: mac, Appliance: im})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("boot: %.0f s, %.0f s of processor time", proof.Seconds, proof.CPU)
	m := proof.Marker
	if proof.Grade != boot.A || m == nil || m.Driver != "vmw_pvscsi" || len(m.NICs) != 1 || m.NICs[0].Name != "ens3" || m.NICs[0].Driver != "vmxnet3" || !slices.Contains(m.NICs[0].Addresses, "192.0.2.9/24") {
		t.Errorf("on pvscsi: %+v, %+v", proof, m)
	}
	if err := o.Unchanged(); err != nil {
		t.Error(err)
	}
}

func TestReplaceName(t *testing.T) {
	for _, c := range [][4]string{
		{"/dev/sda1 / ext4\n/dev/sda11 /x ext4\n# /dev/sda1\n", "/dev/sda1", "UUID=1", "UUID=1 / ext4\n/dev/sda11 /x ext4\n# /dev/sda1\n"},
		{"linux /vmlinuz root=/dev/sda1 resume=/dev/sda2", "/dev/sda2", "UUID=2", "linux /vmlinuz root=/dev/sda1 resume=UUID=2"},
		{"GRUB_CMDLINE_LINUX=\"root=/dev/sda1\"\n", "/dev/sda1", "UUID=1", "GRUB_CMDLINE_LINUX=\"root=UUID=1\"\n"},
		{"x /run/dev/sda1\n", "/dev/sda1", "UUID=1", "x /run/dev/sda1\n"},
		{"127.0.1.1 web web.example\n", "web", "new", "127.0.1.1 new web.example\n"},
	} {
		if got := replaceName(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("%q: %q", c[0], got)
		}
	}
}

func TestPickLoader(t *testing.T) {
	from, beside := pickLoader([]string{"/EFI/debian/fbx64.efi", "/EFI/debian/grubx64.efi", "/EFI/debian/mmx64.efi", "/EFI/debian/shimx64.efi"})
	if from != "/EFI/debian/shimx64.efi" || strings.Join(beside, " ") != "/EFI/debian/grubx64.efi /EFI/debian/mmx64.efi" {
		t.Errorf("%s %s", from, beside)
	}
	if from, beside = pickLoader([]string{"/EFI/arch/grubx64.efi"}); from != "/EFI/arch/grubx64.efi" || beside != nil {
		t.Errorf("%s %s", from, beside)
	}
	if from, _ = pickLoader([]string{"/EFI/tools/memtest.efi"}); from != "" {
		t.Error(from)
	}
}
