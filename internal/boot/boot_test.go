package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/qemu"
	"ascend/internal/vm"
)

func TestMain(m *testing.M) {
	qemu.Main()
	os.Exit(m.Run())
}

// guest opens a built guest.
func guest(t *testing.T, name string) disk.Image {
	t.Helper()
	dir := os.Getenv("ASCEND_GUESTS")
	if dir == "" {
		dir = "/var/cache/ascend-guests"
	}
	return image(t, filepath.Join(dir, name+".qcow2"))
}

func image(t *testing.T, file string) disk.Image {
	t.Helper()
	root, err := disk.OpenRoot(filepath.Dir(file))
	if err != nil {
		t.Fatalf("%v (\"make guests-ci\" builds the guests)", err)
	}
	defer root.Close()
	img, err := open.Disk(root, filepath.Base(file), "qcow2")
	if err != nil {
		t.Fatalf("%v (\"make guests-ci\" builds the guests)", err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

// TestRealGuest boots the Debian guest, whose initramfs has only its source's
// storage driver: it comes up there, and not on VMware's pvscsi.
func TestRealGuest(t *testing.T) {
	img := guest(t, "debian")
	evidence := t.TempDir()
	res, err := Prove(t.Context(), Request{Disks: []disk.Disk{img}, Platform: vm.VMware, Firmware: vm.BIOS, Storage: vm.BusIDE, NIC: vm.VMXNET3, Until: Root, Evidence: evidence})
	if err != nil {
		t.Fatal(err)
	}
	if res.Grade != B || !res.Milestone.Reached(Root) || res.Reads == 0 {
		t.Errorf("on its own hardware: %+v", res)
	}
	for _, f := range []string{"console.txt", "screen.png", "result.json"} {
		if st, err := os.Stat(filepath.Join(evidence, f)); err != nil || st.Size() == 0 {
			t.Errorf("evidence %s: %v", f, err)
		}
	}
	res, err = Prove(t.Context(), Request{Disks: []disk.Disk{img}, Platform: vm.VMware, Firmware: vm.BIOS, Until: Root})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the second boot: %.0f s, %.0f s of processor time", res.Seconds, res.CPU)
	if res.Grade != F || !strings.Contains(res.Failure, "initramfs") {
		t.Errorf("on pvscsi: %+v", res)
	}
	if err := img.Unchanged(); err != nil {
		t.Error(err)
	}
}

// TestNothingToBoot: an empty disk is a clear failure, by BIOS and UEFI.
func TestNothingToBoot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "empty.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", file, "64M").CombinedOutput(); err != nil {
		t.Fatalf("qemu-img (Debian package qemu-utils): %v: %s", err, out)
	}
	for _, fw := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		res, err := Prove(t.Context(), Request{Disks: []disk.Disk{image(t, file)}, Platform: vm.AWS, Firmware: fw})
		if err != nil {
			t.Fatal(err)
		}
		if res.Grade != F || res.Milestone != None || !strings.Contains(res.Failure, "nothing to boot") {
			t.Errorf("%s: %+v", fw, res)
		}
	}
}

func TestCancel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "empty.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", file, "64M").CombinedOutput(); err != nil {
		t.Fatalf("qemu-img (Debian package qemu-utils): %v: %s", err, out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Prove(ctx, Request{Disks: []disk.Disk{image(t, file)}, Platform: vm.Nutanix, Firmware: vm.BIOS}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestEveryHardwareStarts has QEMU accept each row of the table, paused.
func TestEveryHardwareStarts(t *testing.T) {
	for _, p := range []vm.Platform{vm.VMware, vm.CloudStack, vm.HyperV, vm.AWS, vm.Azure, vm.Nutanix} {
		for _, fw := range []vm.Firmware{vm.BIOS, vm.UEFI} {
			for _, bus := range []vm.Bus{"", vm.BusIDE, vm.BusSATA, vm.BusNVMe, vm.BusPVSCSI, vm.BusLSISAS, vm.BusLSILogic, vm.BusVirtioBlk, vm.BusVirtioSCSI} {
				h, err := HardwareFor(p, fw, bus, "")
				if err != nil {
					t.Fatal(err)
				}
				if (p == vm.HyperV || p == vm.Azure || p == vm.AWS) != (h.Best == C && h.Limit != "") {
					t.Errorf("%s: the grade hides what is not proven: %+v", p, h)
				}
				if p != vm.VMware && bus != "" {
					continue // the device arguments are the same
				}
				args := []string{"-S", "-machine", h.Machine, "-netdev", "user,id=n0,restrict=on", "-device", nicDevice(h.NIC) + ",netdev=n0,romfile="}
				for _, d := range []string{"d0", "d1"} {
					args = append(args, "-blockdev", "driver=null-co,read-zeroes=on,size=1048576,node-name="+d)
				}
				s, err := qemu.StartSystem(t.Context(), t.TempDir(), qemu.SystemOptions{Accel: qemu.TCG, Memory: 64 << 20, Args: append(args, h.devices(2, true)...), Limits: qemu.Limits{FileSize: 256 << 20}})
				if err != nil {
					t.Errorf("%s %s %s: %v", p, fw, bus, err)
					continue
				}
				s.Close()
			}
		}
	}
	if _, err := HardwareFor(vm.VMware, vm.BIOS, vm.BusVMBusSCSI, ""); err == nil {
		t.Error("a controller that QEMU has not")
	}
}

func TestJudge(t *testing.T) {
	for text, want := range map[string]struct {
		m    Milestone
		fail bool
	}{
		"": {},
		"[    0.000000] Linux version 6.1.0\n[    1.0] EXT4-fs (sda3): mounted filesystem with ordered data mode.":        {Root, false},
		"Welcome to Debian GNU/Linux 12 (bookworm) dracut-059-4 (Initramfs)!\nsystemd[1]: Starting":                       {None, false},
		"[    1.0] XFS (sda3): Ending clean mount":                                                                        {Root, false},
		"\nDebian GNU/Linux 12 debian ttyS0\n\ndebian login: ":                                                            {Login, false},
		"Gave up waiting for root file system device.\nALERT! UUID=1 does not exist.  Dropping to a shell!\n(initramfs) ": {None, true},
		"[ 2.0] Kernel panic - not syncing: VFS: Unable to mount root fs":                                                 {None, true},
		"Shell> ": {None, true},
	} {
		if m, f := judge(text); m != want.m || (f != "") != want.fail {
			t.Errorf("%q: %q %q", text, m, f)
		}
	}
}

// TestHostsFault tells an emulated timer that is late from a guest's own panic.
func TestHostsFault(t *testing.T) {
	if !hostsFault("[    0.1] Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic=debug and send a report.") || hostsFault("[ 2.0] Kernel panic - not syncing: VFS: Unable to mount root fs") {
		t.Error("whose fault it is")
	}
}

func TestMarker(t *testing.T) {
	if parseMarker("noise\nASCEND-MARKER {\"root\":\"/dev/sda3\"") != nil {
		t.Error("half a report was taken")
	}
	m := parseMarker("noise\nASCEND-MARKER {\"root\":\"/dev/sda3\",\"root_driver\":\"vmw_pvscsi\",\"nics\":[{\"name\":\"ens3\",\"driver\":\"vmxnet3\",\"addresses\":[\"10.0.2.15/24\"]}],\"failed_units\":[]}\n")
	if m == nil || m.Driver != "vmw_pvscsi" || m.NICs[0].Addresses[0] != "10.0.2.15/24" {
		t.Errorf("%+v", m)
	}
}

func capture(packets ...[]byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, make([]byte, 20)...)
	for _, p := range packets {
		b = append(b, make([]byte, 8)...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
		b = append(b, p...)
	}
	return b
}

func arp() []byte {
	p := append([]byte{255, 255, 255, 255, 255, 255, 0x52, 0x54, 0, 0xa5, 0xce, 0x0d, 8, 6}, make([]byte, 28)...)
	copy(p[28:], []byte{192, 0, 2, 17})
	return p
}

func TestCapture(t *testing.T) {
	n := readPcap(capture(arp(), arp()), defaultMAC)
	if n.Packets != 2 || n.ARP != 2 || len(n.Address) != 1 || n.Address[0] != "192.0.2.17" {
		t.Errorf("%+v", n)
	}
	if n := readPcap(capture(arp()), "52:54:00:00:00:01"); n.Packets != 0 {
		t.Errorf("another's packet: %+v", n)
	}
}

func FuzzCapture(f *testing.F) {
	f.Add(capture(arp()))
	f.Add(capture(arp())[:60])
	f.Fuzz(func(t *testing.T, b []byte) { readPcap(b, defaultMAC) })
}
