package adapt

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ascend/internal/appliance/appliancetest"
	"ascend/internal/disk"
	"ascend/internal/guest"
	"ascend/internal/vm"
)

// tool runs a program and gives what it says.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		name = "/usr/sbin/" + name
	}
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %v: %v (Debian packages e2fsprogs, dosfstools, mtools)", name, args, err)
	}
	return string(out)
}

// raw is a layer, or part of one, as a file.
func raw(t *testing.T, d interface {
	io.ReaderAt
	Size() int64
},
) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "raw")
	f, err := os.Create(name)
	if err == nil {
		_, err = io.Copy(f, io.NewSectionReader(d, 0, d.Size()))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// TestEveryChange has a system that everything but its kernel is wrong with: all of it
// is put right in one session, the labels of SELinux stay, both file systems are
// clean, and a second look finds nothing to do.
func TestEveryChange(t *testing.T) {
	im := appliancetest.Image(t)
	const uuid, mac = "11111111-2222-3333-4444-555555555555", "00:50:56:00:00:2a"
	root := smallFile(t, "32M", with(map[string]string{
		"etc/hosts": "127.0.0.1 localhost\n127.0.1.1 before.example before\n", "lib/systemd/systemd": "", "usr/bin/dracut": "", "etc/dracut.conf.d/own.conf": "",
		"etc/fstab":                           "/dev/sdb / ext4 defaults 0 1\nUUID=ABCD-1234 /boot/efi vfat nofail 0 1\n",
		"etc/default/grub":                    "# root=/dev/sdb is a comment\nGRUB_CMDLINE_LINUX=\"root=/dev/sdb quiet\"\n",
		"etc/lvm/devices/system.devices":      "IDTYPE=sys_serial IDNAME=1\n",
		"usr/bin/vmtoolsd":                    "",
		"lib/systemd/system/vgauth.service":   "[Unit]\n",
		"etc/systemd/system/vmtoolsd.service": "# the administrator's own\n",
		"etc/cloud/cloud.cfg":                 "datasource_list: [ VMware, OVF ]\n",
		"etc/network/interfaces":              "auto eth0\niface eth0 inet static\n\taddress 192.0.2.1/24\n\tgateway 192.0.2.254\n",
		"etc/selinux/config":                  "SELINUX=enforcing\n",
		"boot/efi/x":                          "",
	}), "-U", uuid)
	for _, f := range []string{"/etc", "/etc/hostname", "/etc/dracut.conf.d", "/etc/cloud", "/etc/fstab"} {
		sh(t, "debugfs", "-w", "-R", "ea_set "+f+" security.selinux system_u:object_r:etc_t:s0", root)
	}
	esp := filepath.Join(t.TempDir(), "esp.raw")
	sh(t, "mkfs.fat", "-C", "-F", "16", "-i", "ABCD1234", esp, "16384")
	loader := filepath.Join(t.TempDir(), "loader")
	if err := os.WriteFile(loader, []byte("a loader of the distribution's"), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, "mmd", "-i", esp, "::/EFI", "::/EFI/fedora")
	for _, n := range []string{"shimx64.efi", "grubx64.efi"} {
		sh(t, "mcopy", "-i", esp, loader, "::/EFI/fedora/"+n)
	}
	one, two := over(t, image(t, esp)), over(t, image(t, root))
	disks := []disk.Disk{one, two}
	to := guest.Target{Platform: vm.CloudStack, Firmware: vm.UEFI, Controller: vm.BusVirtioBlk, NIC: vm.VirtioNet, NICs: []vm.NIC{{MAC: mac, Model: vm.VirtioNet}}}
	want := guest.Choices{Hostname: "after", Addresses: []guest.Address{{Static: []string{"198.51.100.9/24"}, Gateway: "198.51.100.1"}}}
	look := func() (*guest.Inspection, *guest.Adaptation) {
		in, err := guest.Inspect(t.Context(), disks, guest.Options{Firmware: vm.UEFI})
		if err != nil {
			t.Fatal(err)
		}
		return in, guest.Decide(in, to, want)
	}
	in, a := look()
	got := kinds(a)
	for _, k := range []guest.ChangeKind{guest.DeviceToUUID, guest.RemoveLVMDevices, guest.AddFallbackLoader, guest.PinInterface, guest.SetAddress, guest.SetHostname, guest.DisableAgent, guest.CloudDatasource} {
		if !slices.Contains(got, k) {
			t.Errorf("%s is not decided: %v, %+v", k, got, a.Findings)
		}
	}
	// Without a kernel that lacks something these are not decided.
	first := in.Roots[0].Volume
	for _, tool := range []string{"dracut", "mkinitcpio", "initramfs-tools"} {
		a.Changes = append(a.Changes, guest.Change{Kind: guest.PersistModules, Root: first, Subject: tool, Detail: []string{"virtio_blk", "virtio_pci"}})
	}
	a.Changes = append(a.Changes, guest.Change{Kind: guest.FirstBoot, Root: first, Subject: "initramfs rebuild"})
	res, err := Apply(t.Context(), disks, in, a, Options{Image: im})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f s, %.1f s of processor time", res.Seconds, res.CPU)
	skipped := ""
	for _, c := range res.Changes {
		if skipped += c.Skipped; len(c.Files) == 0 && c.Skipped == "" {
			t.Errorf("nothing was done for %s %s", c.Kind, c.Subject)
		}
	}
	if !strings.Contains(skipped, "vmtoolsd.service is there") {
		t.Errorf("the administrator's own unit: %q", skipped)
	}
	if in, a = look(); !slices.Equal(kinds(a), []guest.ChangeKind{guest.DisableAgent}) { // the administrator's own unit is left
		t.Errorf("once more: %+v", a.Changes)
	}
	if h := in.Roots[0].Hostname; h != "after" || !in.ESP.Fallback {
		t.Errorf("%q, %+v", h, in.ESP)
	}
	disk1, disk0 := raw(t, two), raw(t, one)
	for file, want := range map[string]string{
		"/etc/fstab":              "UUID=" + uuid + " / ext4 defaults 0 1\nUUID=ABCD-1234 /boot/efi vfat nofail 0 1\n",
		"/etc/default/grub":       "# root=/dev/sdb is a comment\nGRUB_CMDLINE_LINUX=\"root=UUID=" + uuid + " quiet\"\n",
		"/etc/hosts":              "127.0.0.1 localhost\n127.0.1.1 before.example after\n",
		"/etc/network/interfaces": "auto eth0\niface eth0 inet static\n\taddress 198.51.100.9/24\n\tgateway 198.51.100.1\n",
		"/etc/systemd/network/10-ascend-eth0.link": "[Match]\nMACAddress=" + mac + "\n\n[Link]\nName=eth0\n",
		"/etc/dracut.conf.d/90-ascend.conf":        "add_drivers+=\" virtio_blk virtio_pci \"\n",
		"/etc/mkinitcpio.conf.d/90-ascend.conf":    "MODULES+=(virtio_blk virtio_pci)\n",
		"/etc/initramfs-tools/modules":             "virtio_blk\nvirtio_pci\n",
		"/etc/cloud/cloud.cfg.d/99-zz-ascend.cfg":  "datasource_list: [ CloudStack, None ]\n",
		"/etc/systemd/system/vmtoolsd.service":     "# the administrator's own\n",
	} {
		if got := tool(t, "debugfs", "-R", "cat "+file, disk1); got != want {
			t.Errorf("%s: %q", file, got)
		}
	}
	for link, to := range map[string]string{
		"/etc/systemd/system/vgauth.service":                                    "/dev/null",
		"/etc/systemd/system/multi-user.target.wants/ascend-first-boot.service": "/etc/systemd/system/ascend-first-boot.service",
	} {
		if got := tool(t, "debugfs", "-R", "stat "+link, disk1); !strings.Contains(got, `Fast link dest: "`+to+`"`) {
			t.Errorf("%s: %s", link, got)
		}
	}
	if got := tool(t, "debugfs", "-R", "ls -p /etc/lvm/devices", disk1); strings.Contains(got, "system.devices") {
		t.Errorf("LVM's devices file: %s", got)
	}
	for _, f := range []string{"/etc/hostname", "/etc/fstab", "/etc/dracut.conf.d/90-ascend.conf"} {
		if got := tool(t, "debugfs", "-R", "ea_get "+f+" security.selinux", disk1); !strings.Contains(got, "etc_t") {
			t.Errorf("the label of %s: %q", f, got)
		}
	}
	sh(t, "e2fsck", "-fn", disk1)
	sh(t, "fsck.fat", "-n", disk0)
	for _, n := range []string{"BOOTX64.EFI", "grubx64.efi"} {
		if got := tool(t, "mtype", "-i", disk0, "::/EFI/BOOT/"+n); got != "a loader of the distribution's" {
			t.Errorf("%s: %q", n, got)
		}
	}
}
