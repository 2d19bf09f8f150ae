package adapt

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ascend/internal/appliance/appliancetest"
	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/disk/overlay"
	"ascend/internal/firstboot"
	"ascend/internal/guest"
	"ascend/internal/guest/vfs"
	"ascend/internal/guest/winpack"
	"ascend/internal/guest/winpack/winpacktest"
	"ascend/internal/vm"
)

// run runs a program of Debian's.
func run(t testing.TB, argv ...string) string {
	t.Helper()
	if _, err := exec.LookPath(argv[0]); err != nil {
		argv[0] = "/usr/sbin/" + argv[0]
	}
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v (build/deps installs it): %v\n%s", argv, err, out)
	}
	return string(out)
}

// program builds what Windows 10 and later run at their first start.
func program(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, "ascend-firstboot-amd64.exe"), "ascend/cmd/ascend-firstboot")
	cmd.Env = append(cmd.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv("ASCEND_FIRSTBOOT", dir)
}

// The system's partition of the guests that look like Windows.
const (
	partStart = 1 << 20
	partSize  = 255 << 20
)

// partition writes the partition of a disk to a file, and back into the disk.
func partition(t *testing.T, d disk.Disk) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "partition"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1<<20)
	for at := int64(0); at < partSize; at += int64(len(b)) {
		if _, err := d.ReadAt(b, partStart+at); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if !bytes.Equal(b, make([]byte, len(b))) {
			if _, err := f.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Truncate(partSize); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func putBack(t *testing.T, d *overlay.Overlay, part string) {
	t.Helper()
	f, err := os.Open(part)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	is, was := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < partSize; at += int64(len(is)) {
		if _, err := f.ReadAt(is, at); err != nil {
			t.Fatal(err)
		}
		if _, err := d.ReadAt(was, partStart+at); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(is, was) {
			if _, err := d.WriteAt(is, partStart+at); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// exported is what hivexregedit says of a hive: "key|line" for each line.
func exported(t *testing.T, hive []byte) (lines []string) {
	t.Helper()
	p := filepath.Join(t.TempDir(), "hive")
	if err := os.WriteFile(p, hive, 0o600); err != nil {
		t.Fatal(err)
	}
	key := ""
	for l := range strings.SplitSeq(run(t, "hivexregedit", "--export", "--unsafe-printable-strings", p, `\`), "\n") {
		switch {
		case strings.HasPrefix(l, "["):
			key = strings.Trim(l, "[]")
			lines = append(lines, key)
		case strings.HasPrefix(l, `"`), strings.HasPrefix(l, "@"):
			lines = append(lines, key+"|"+l)
		}
	}
	return lines
}

// difference is what came and went from one export to the next.
func difference(before, after []string) (out []string) {
	for _, l := range before {
		if !slices.Contains(after, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range after {
		if !slices.Contains(before, l) {
			out = append(out, "+ "+l)
		}
	}
	slices.Sort(out)
	return out
}

// ntfs reads files of a partition's file by ntfs-3g's own tool.
func ntfs(t *testing.T, part, name string) []byte {
	t.Helper()
	out, err := exec.Command("ntfscat", part, name).Output()
	if err != nil {
		t.Fatalf("ntfscat %s: %v", name, err)
	}
	return out
}

const systemHive = "/Windows/System32/config/SYSTEM"

// checked fails unless NTFS's tools find the partition sound.
func checked(t *testing.T, part string) {
	t.Helper()
	run(t, "ntfsfix", "-n", part)
	if out := run(t, "ntfsresize", "--info", "--force", "--no-progress-bar", part); strings.Contains(strings.ToLower(out), "error") || strings.Contains(strings.ToLower(out), "mismatch") {
		t.Errorf("ntfsresize: %s", out)
	}
}

// pack is a driver pack of disks' and adapters' drivers for three generations.
func pack(t *testing.T) string {
	dir := t.TempDir()
	for folder, d := range map[string]string{"2k8R2": "NTamd64.6.1", "2k12R2": "NTamd64.6.3", "2k19": "NTamd64.10.0"} {
		for _, s := range []string{"viostor", "vioscsi", "netkvm"} {
			winpacktest.Driver(t, dir, s+"/"+folder+"/amd64", s, d, "01/02/2024,100.1.2.3")
		}
	}
	winpacktest.Driver(t, dir, "ena", "ena", "NTamd64.6.1", "01/02/2024,2.0.0.0")
	return dir
}

func windowsDecision(t *testing.T, disks []disk.Disk, to guest.Target, source string) (*guest.Inspection, *guest.Adaptation) {
	t.Helper()
	in, err := guest.Inspect(t.Context(), disks, guest.Options{Firmware: to.Firmware})
	if err != nil {
		t.Fatal(err)
	}
	var c guest.Choices
	if source != "" {
		if c.Pack, err = winpack.Open(source); err != nil {
			t.Fatal(err)
		}
		defer c.Pack.Close()
	}
	return in, guest.Decide(in, to, c)
}

// blank is a second disk, without anything.
func blank(t *testing.T) disk.Disk {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "blank"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "blank"), 1<<20); err != nil {
		t.Fatal(err)
	}
	root, err := disk.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	img, err := open.Disk(root, "blank", "raw")
	if err != nil {
		t.Fatal(err)
	}
	o, err := overlay.Create(filepath.Join(dir, "layer"), img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// dirty makes a hive whose change stands in its log only, of the format before
// Windows 8.1: a copy of the base block, a bit for each piece of 512 bytes that
// changed, and those pieces. hivexregedit makes the change.
func dirty(t *testing.T, clean []byte) (hive, log []byte) {
	t.Helper()
	dir := t.TempDir()
	p, r := filepath.Join(dir, "SYSTEM"), filepath.Join(dir, "reg")
	reg := "Windows Registry Editor Version 5.00\n\n[HKLM\\S\\ControlSet001\\Services\\atapi]\n\"Start\"=dword:00000001\n\"ErrorControl\"=dword:00000001\n\"Type\"=dword:00000001\n\"Late\"=\"it stands in the log\"\n"
	if err := errors.Join(os.WriteFile(p, clean, 0o600), os.WriteFile(r, []byte(reg), 0o600)); err != nil {
		t.Fatal(err)
	}
	run(t, "hivexregedit", "--merge", p, "--prefix", `HKLM\S`, r)
	is, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	seal := func(b []byte) {
		s := uint32(0)
		for i := 0; i < 508; i += 4 {
			s ^= le.Uint32(b[i:])
		}
		le.PutUint32(b[508:], s)
	}
	hive = bytes.Clone(clean)
	seq := le.Uint32(hive[8:]) + 1
	le.PutUint32(hive[4:], seq)
	seal(hive)
	log = bytes.Clone(is[:512])
	le.PutUint32(log[4:], seq)
	le.PutUint32(log[8:], seq)
	le.PutUint32(log[28:], 1)
	seal(log)
	marks := make([]byte, (len(is)-4096)/512/8)
	var pieces []byte
	for at := 4096; at < len(is); at += 512 {
		if at+512 > len(clean) || !bytes.Equal(clean[at:at+512], is[at:at+512]) {
			i := (at - 4096) / 512
			marks[i/8] |= 1 << (i % 8)
			pieces = append(pieces, is[at:at+512]...)
		}
	}
	log = append(append(log, "DIRT"...), marks...)
	return hive, append(append(log, make([]byte, (512-len(log)%512)%512)...), pieces...)
}

// put replaces or makes a file of a partition.
func put(t *testing.T, part, name string, data []byte) {
	t.Helper()
	f := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(f, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "ntfscp", "-q", part, f, name)
}

// TestWindows adapts three generations of what looks like Windows: hivexregedit
// finds exactly the promised keys changed, NTFS's own tools find the volume sound,
// and a second decision finds nothing to do.
func TestWindows(t *testing.T) {
	im := appliancetest.Image(t)
	program(t)
	source := pack(t)
	for _, c := range []struct {
		name   string
		to     guest.Target
		source string
		dirty  bool
		second bool // disk
		files  []string
		want   string
		after  guest.Target
	}{
		{
			name: "win2008r2", source: source, dirty: true,
			to:    guest.Target{Platform: vm.CloudStack, Firmware: vm.BIOS, Controller: vm.BusVirtioBlk, NIC: vm.VirtioNet, NICs: []vm.NIC{{MAC: "00:50:56:84:79:b3"}}},
			files: []string{"/Windows/System32/drivers/viostor.sys", "/Windows/Ascend/drivers/viostor/viostor.inf", "/Windows/Ascend/drivers/netkvm/netkvm.cat", "/Windows/Ascend/firstboot.cmd"},
			want: `
+ \ControlSet001\Control\CriticalDeviceDatabase\PCI#VEN_1AF4&DEV_1001
+ \ControlSet001\Control\CriticalDeviceDatabase\PCI#VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00
+ \ControlSet001\Control\CriticalDeviceDatabase\PCI#VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00|"ClassGUID"=str(1):"{4d36e97b-e325-11ce-bfc1-08002be10318}"
+ \ControlSet001\Control\CriticalDeviceDatabase\PCI#VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00|"Service"=str(1):"viostor"
+ \ControlSet001\Control\CriticalDeviceDatabase\PCI#VEN_1AF4&DEV_1001|"ClassGUID"=str(1):"{4d36e97b-e325-11ce-bfc1-08002be10318}"
+ \ControlSet001\Control\CriticalDeviceDatabase\PCI#VEN_1AF4&DEV_1001|"Service"=str(1):"viostor"
+ \ControlSet001\Control\CriticalDeviceDatabase\PCI#VEN_1AF4&DEV_1042
+ \ControlSet001\Control\CriticalDeviceDatabase\PCI#VEN_1AF4&DEV_1042|"ClassGUID"=str(1):"{4d36e97b-e325-11ce-bfc1-08002be10318}"
+ \ControlSet001\Control\CriticalDeviceDatabase\PCI#VEN_1AF4&DEV_1042|"Service"=str(1):"viostor"
+ \ControlSet001\Services\VGAuthService|"Start"=dword:00000004
+ \ControlSet001\Services\VMTools|"Start"=dword:00000004
+ \ControlSet001\Services\atapi|"Late"=str(1):"it stands in the log"
+ \ControlSet001\Services\atapi|"Start"=dword:00000001
+ \ControlSet001\Services\viostor
+ \ControlSet001\Services\viostor\Parameters
+ \ControlSet001\Services\viostor\Parameters\PnpInterface
+ \ControlSet001\Services\viostor\Parameters\PnpInterface|"5"=dword:00000001
+ \ControlSet001\Services\viostor\Parameters|"Text"=str(1):"a, b"
+ \ControlSet001\Services\viostor|"ErrorControl"=dword:00000001
+ \ControlSet001\Services\viostor|"Group"=str(1):"SCSI miniport"
+ \ControlSet001\Services\viostor|"ImagePath"=str(2):"System32\drivers\viostor.sys"
+ \ControlSet001\Services\viostor|"Start"=dword:00000000
+ \ControlSet001\Services\viostor|"Type"=dword:00000001
+ \ControlSet001\Services\vmci|"Start"=dword:00000004
+ \Setup|"CmdLine"=str(1):"cmd.exe /d /c start \"\" /min cmd.exe /d /c %SystemRoot%\Ascend\firstboot.cmd"
+ \Setup|"SetupType"=dword:00000002
- \ControlSet001\Services\VGAuthService|"Start"=dword:00000002
- \ControlSet001\Services\VMTools|"Start"=dword:00000002
- \ControlSet001\Services\atapi|"Start"=dword:00000003
- \ControlSet001\Services\vmci|"Start"=dword:00000000
- \Setup|"CmdLine"=str(1):""
- \Setup|"SetupType"=dword:00000000
`,
		},
		{
			name: "win2012r2", source: source,
			to:    guest.Target{Platform: vm.AWS, Firmware: vm.BIOS, Controller: vm.BusNVMe, NIC: vm.ENA},
			files: []string{"/Windows/Ascend/drivers/ena/ena.sys", "/Windows/Ascend/firstboot.cmd"},
			want: `
+ \ControlSet001\Services\Tcpip\Parameters\Interfaces\{11111111-2222-3333-4444-555555555555}|"EnableDHCP"=dword:00000001
+ \ControlSet001\Services\Tcpip\Parameters\Interfaces\{11111111-2222-3333-4444-555555555555}|"NameServer"=str(1):""
+ \ControlSet001\Services\VGAuthService|"Start"=dword:00000004
+ \ControlSet001\Services\VMTools|"Start"=dword:00000004
+ \ControlSet001\Services\stornvme|"Start"=dword:00000000
+ \ControlSet001\Services\vmci|"Start"=dword:00000004
+ \Setup|"CmdLine"=str(1):"cmd.exe /d /c start \"\" /min cmd.exe /d /c %SystemRoot%\Ascend\firstboot.cmd"
+ \Setup|"SetupType"=dword:00000002
- \ControlSet001\Services\Tcpip\Parameters\Interfaces\{11111111-2222-3333-4444-555555555555}|"DefaultGateway"=hex(7):31,00,39,00,32,00,2e,00,30,00,2e,00,32,00,2e,00,31,00,00,00,00,00
- \ControlSet001\Services\Tcpip\Parameters\Interfaces\{11111111-2222-3333-4444-555555555555}|"EnableDHCP"=dword:00000000
- \ControlSet001\Services\Tcpip\Parameters\Interfaces\{11111111-2222-3333-4444-555555555555}|"IPAddress"=hex(7):31,00,39,00,32,00,2e,00,30,00,2e,00,32,00,2e,00,39,00,00,00,00,00
- \ControlSet001\Services\Tcpip\Parameters\Interfaces\{11111111-2222-3333-4444-555555555555}|"NameServer"=str(1):"192.0.2.53,192.0.2.54"
- \ControlSet001\Services\Tcpip\Parameters\Interfaces\{11111111-2222-3333-4444-555555555555}|"SubnetMask"=hex(7):32,00,35,00,35,00,2e,00,32,00,35,00,35,00,2e,00,32,00,35,00,35,00,2e,00,30,00,00,00,00,00
- \ControlSet001\Services\VGAuthService|"Start"=dword:00000002
- \ControlSet001\Services\VMTools|"Start"=dword:00000002
- \ControlSet001\Services\stornvme\StartOverride
- \ControlSet001\Services\stornvme\StartOverride|"0"=dword:00000003
- \ControlSet001\Services\stornvme|"Start"=dword:00000003
- \ControlSet001\Services\vmci|"Start"=dword:00000000
- \Setup|"CmdLine"=str(1):""
- \Setup|"SetupType"=dword:00000000
`,
		},
		{
			name: "win2019", source: source, second: true,
			to:    guest.Target{Platform: vm.Nutanix, Firmware: vm.BIOS, Controller: vm.BusVirtioSCSI, NIC: vm.VirtioNet, NICs: []vm.NIC{{MAC: "00:50:56:84:79:B3"}, {}}},
			files: []string{"/Windows/System32/drivers/vioscsi.sys", "/Windows/Ascend/drivers/vioscsi/vioscsi.cat", "/Windows/Ascend/drivers/netkvm/netkvm.inf", "/Windows/Ascend/ascend-firstboot.exe", "/Windows/Ascend/firstboot.json"},
			want: strings.ReplaceAll(`
+ \ControlSet001\Services\AscendFirstBoot
+ \ControlSet001\Services\AscendFirstBoot|"Description"=str(1):"Installs drivers and sets addresses once, after a restore, and removes itself."
+ \ControlSet001\Services\AscendFirstBoot|"DisplayName"=str(1):"Ascend first start"
+ \ControlSet001\Services\AscendFirstBoot|"ErrorControl"=dword:00000001
+ \ControlSet001\Services\AscendFirstBoot|"ImagePath"=str(2):"%SystemRoot%\Ascend\ascend-firstboot.exe"
+ \ControlSet001\Services\AscendFirstBoot|"ObjectName"=str(1):"LocalSystem"
+ \ControlSet001\Services\AscendFirstBoot|"Start"=dword:00000002
+ \ControlSet001\Services\AscendFirstBoot|"Type"=dword:00000010
+ \ControlSet001\Services\VGAuthService|"Start"=dword:00000004
+ \ControlSet001\Services\VMTools|"Start"=dword:00000004
+ \ControlSet001\Services\partmgr\Parameters|"SanPolicy"=dword:00000001
+ \ControlSet001\Services\vioscsi
+ \ControlSet001\Services\vioscsi\Parameters
+ \ControlSet001\Services\vioscsi\Parameters\PnpInterface
+ \ControlSet001\Services\vioscsi\Parameters\PnpInterface|"5"=dword:00000001
+ \ControlSet001\Services\vioscsi\Parameters|"Text"=str(1):"a, b"
+ \ControlSet001\Services\vioscsi|"ErrorControl"=dword:00000001
+ \ControlSet001\Services\vioscsi|"Group"=str(1):"SCSI miniport"
+ \ControlSet001\Services\vioscsi|"ImagePath"=str(2):"System32\drivers\vioscsi.sys"
+ \ControlSet001\Services\vioscsi|"Start"=dword:00000000
+ \ControlSet001\Services\vioscsi|"Type"=dword:00000001
+ \ControlSet001\Services\vmci|"Start"=dword:00000004
+ \DriverDatabase\DeviceIds\PCI
+ \DriverDatabase\DeviceIds\PCI\VEN_1AF4&DEV_1001
+ \DriverDatabase\DeviceIds\PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00
+ \DriverDatabase\DeviceIds\PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00|"ascend-vioscsi.inf"=hex(3):01,ff,00,00
+ \DriverDatabase\DeviceIds\PCI\VEN_1AF4&DEV_1001|"ascend-vioscsi.inf"=hex(3):01,ff,00,00
+ \DriverDatabase\DeviceIds\PCI\VEN_1AF4&DEV_1042
+ \DriverDatabase\DeviceIds\PCI\VEN_1AF4&DEV_1042|"ascend-vioscsi.inf"=hex(3):01,ff,00,00
+ \DriverDatabase\DriverInfFiles\ascend-vioscsi.inf
+ \DriverDatabase\DriverInfFiles\ascend-vioscsi.inf|"Active"=str(1):"PACKAGE"
+ \DriverDatabase\DriverInfFiles\ascend-vioscsi.inf|"Configurations"=hex(7):61,00,73,00,63,00,65,00,6e,00,64,00,5f,00,63,00,6f,00,6e,00,66,00,00,00,00,00
+ \DriverDatabase\DriverInfFiles\ascend-vioscsi.inf|@=hex(7):61,00,73,00,63,00,65,00,6e,00,64,00,2d,00,76,00,69,00,6f,00,73,00,63,00,73,00,69,00,2e,00,69,00,6e,00,66,00,5f,00,61,00,6d,00,64,00,36,00,34,00,5f,00,30,00,30,00,30,00,30,00,30,00,30,00,30,00,30,00,30,00,30,00,30,00,30,00,30,00,30,00,30,00,30,00,00,00,00,00
+ \DriverDatabase\DriverPackages\PACKAGE
+ \DriverDatabase\DriverPackages\PACKAGE\Configurations
+ \DriverDatabase\DriverPackages\PACKAGE\Configurations\ascend_conf
+ \DriverDatabase\DriverPackages\PACKAGE\Configurations\ascend_conf|"ConfigFlags"=dword:00000000
+ \DriverDatabase\DriverPackages\PACKAGE\Configurations\ascend_conf|"Service"=str(1):"vioscsi"
+ \DriverDatabase\DriverPackages\PACKAGE\Descriptors
+ \DriverDatabase\DriverPackages\PACKAGE\Descriptors\PCI
+ \DriverDatabase\DriverPackages\PACKAGE\Descriptors\PCI\VEN_1AF4&DEV_1001
+ \DriverDatabase\DriverPackages\PACKAGE\Descriptors\PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00
+ \DriverDatabase\DriverPackages\PACKAGE\Descriptors\PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00|"Configuration"=str(1):"ascend_conf"
+ \DriverDatabase\DriverPackages\PACKAGE\Descriptors\PCI\VEN_1AF4&DEV_1001|"Configuration"=str(1):"ascend_conf"
+ \DriverDatabase\DriverPackages\PACKAGE\Descriptors\PCI\VEN_1AF4&DEV_1042
+ \DriverDatabase\DriverPackages\PACKAGE\Descriptors\PCI\VEN_1AF4&DEV_1042|"Configuration"=str(1):"ascend_conf"
+ \DriverDatabase\DriverPackages\PACKAGE|"Version"=hex(3):00,ff,09,00,00,00,00,00,7b,e9,36,4d,25,e3,ce,11,bf,c1,08,00,2b,e1,03,18,00,80,f3,a0,0e,3d,da,01,03,00,02,00,01,00,64,00,00,00,00,00,00,00,00,00
- \ControlSet001\Services\VGAuthService|"Start"=dword:00000002
- \ControlSet001\Services\VMTools|"Start"=dword:00000002
- \ControlSet001\Services\partmgr\Parameters|"SanPolicy"=dword:00000003
- \ControlSet001\Services\vmci|"Start"=dword:00000000
`, "PACKAGE", "ascend-vioscsi.inf_amd64_0000000000000000"),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := layer(t, c.name)
			disks := []disk.Disk{o}
			if c.second {
				disks = append(disks, blank(t))
			}
			was := partition(t, o)
			hive := ntfs(t, was, systemHive)
			if c.dirty {
				torn, log := dirty(t, hive)
				put(t, was, systemHive, torn)
				put(t, was, systemHive+".LOG1", log)
				putBack(t, o, was)
			}
			in, a := windowsDecision(t, disks, c.to, c.source)
			if a.Boot.Verdict != guest.BootsAdapted || a.Stopped() || Unfit(in, a) != "" {
				t.Fatalf("before: %+v, unfit %q", a, Unfit(in, a))
			}
			res, err := Apply(t.Context(), disks, in, a, Options{Image: im})
			if err != nil {
				var f *Failure
				if errors.As(err, &f) {
					t.Log(f.Log)
				}
				t.Fatal(err)
			}
			t.Logf("%.1f s, %.1f s of processor time, %s trimmed", res.Seconds, res.CPU, vm.FormatSize(res.Trimmed))
			now := partition(t, o)
			if d := difference(exported(t, hive), exported(t, ntfs(t, now, systemHive))); !slices.Equal(d, sorted(c.want)) {
				t.Errorf("the registry:\n%s\nnot\n%s", strings.Join(difference(sorted(c.want), d), "\n"), "(- is promised and missing, + came unasked)")
			}
			checked(t, now)
			written := slices.Clone(res.Files)
			for _, x := range res.Changes {
				written = append(written, x.Files...)
			}
			for _, f := range c.files {
				i := slices.IndexFunc(written, func(w File) bool { return w.Path == f })
				if i < 0 || int64(len(ntfs(t, now, f))) != written[i].Is || len(written[i].SHA256) != 64 {
					t.Errorf("%s: %+v", f, written)
				}
			}
			if c.name == "win2019" {
				f, err := firstboot.Parse(ntfs(t, now, "/Windows/Ascend/firstboot.json"))
				if err != nil || f.Disks != 2 || len(f.Drivers) != 2 || len(f.Adapters) != 1 || f.Adapters[0].MAC != "00:50:56:84:79:b3" || f.Adapters[0].Gateways[0] != "192.0.2.1" || len(f.Adapters[0].DNS) != 2 {
					t.Errorf("%+v %v", f, err)
				}
			}
			for _, f := range append(c.files, "/Windows/Ascend", "/Windows/Ascend/drivers") {
				protected(t, now, f)
			}
			_, again := windowsDecision(t, disks, c.to, c.source)
			left := slices.DeleteFunc(again.Changes, func(c guest.Change) bool { return c.Kind == guest.FirstBoot }) // is done on the target only
			if again.Boot.Verdict != guest.Boots || len(left) != 0 || again.Stopped() {
				t.Errorf("after: %+v", again)
			}
			if _, err := json.Marshal(res); err != nil || o.Unchanged() != nil {
				t.Errorf("%v, %v", err, o.Unchanged())
			}
		})
	}
}

func sorted(s string) []string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	slices.Sort(l)
	return l
}

// protected fails when others than the system and administrators may write what
// Windows will run for the system.
func protected(t *testing.T, part, name string) {
	t.Helper()
	out, err := exec.Command("ntfssecaudit", "-v", part, name).CombinedOutput()
	if err != nil {
		t.Fatalf("ntfssecaudit: %v: %s", err, out)
	}
	for _, want := range []string{"Windows owner S-1-5-32-544", "mode 0755"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s: no %q in\n%s", name, want, out)
		}
	}
}

// TestWindowsFaults: each is a finding in the plan, and were it carried out all the
// same, an error that leaves the backup as it was.
func TestWindowsFaults(t *testing.T) {
	im := appliancetest.Image(t)
	program(t)
	source := pack(t)
	to := guest.Target{Platform: vm.Nutanix, Firmware: vm.BIOS, Controller: vm.BusVirtioSCSI, NIC: vm.VirtioNet, NICs: []vm.NIC{{}}}
	for _, c := range []struct {
		name, code, err string
		spoil           func(t *testing.T, part string)
	}{
		{"hibernated", "guest-hibernated", "hibernated", func(t *testing.T, part string) {
			put(t, part, "/hiberfil.sys", append([]byte("HIBR"), make([]byte, 8192)...))
		}},
		{"a hive without its log", "guest-registry", "", func(t *testing.T, part string) {
			torn, _ := dirty(t, ntfs(t, part, systemHive))
			put(t, part, systemHive, torn)
		}},
		{"full volume", "guest-no-space", "space", func(t *testing.T, part string) {
			for i := 0; ; i++ {
				free := int64(0)
				for l := range strings.SplitSeq(run(t, "ntfsinfo", "-m", part), "\n") {
					if _, v, ok := strings.Cut(l, "Free Clusters:"); ok {
						_, _ = fmt.Sscanf(strings.TrimSpace(v), "%d", &free)
					}
				}
				if free < 400 {
					return
				}
				put(t, part, fmt.Sprintf("/filler%d", i), bytes.Repeat([]byte{0xa5}, int(min(free-250, 8000))*4096))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := layer(t, "win2019")
			// What is wanted of a sound guest is carried out on the spoilt one.
			sound, a := windowsDecision(t, []disk.Disk{o}, to, source)
			part := partition(t, o)
			c.spoil(t, part)
			putBack(t, o, part)
			in, decided := windowsDecision(t, []disk.Disk{o}, to, source)
			if !decided.Stopped() || !slices.ContainsFunc(decided.Findings, func(f guest.Finding) bool { return f.Code == c.code }) || Unfit(in, decided) == "" {
				t.Errorf("%+v", decided.Findings)
			}
			if c.err == "" { // regf's own tests have it refused; an appliance takes its time
				return
			}
			top, err := overlay.Create(filepath.Join(t.TempDir(), "layer"), o)
			if err != nil {
				t.Fatal(err)
			}
			defer top.Close()
			_, err = Apply(t.Context(), []disk.Disk{top}, sound, a, Options{Image: im})
			var f *Failure
			if !errors.As(err, &f) || !strings.Contains(strings.ToLower(err.Error()), c.err) {
				t.Errorf("%v", err)
			}
			if now := partition(t, o); !bytes.Equal(read(t, now), read(t, part)) {
				t.Error("the disk below was changed")
			}
		})
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestWindowsCannot: what the appliance need not be started for.
func TestWindowsCannot(t *testing.T) {
	in := &guest.Inspection{Volumes: []guest.Volume{{ID: "w", Super: &vfs.Super{Free: -1}}}, Roots: []guest.Root{{Volume: "w", Windows: &guest.Windows{Major: 10}}}}
	t.Setenv("ASCEND_FIRSTBOOT", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	a := &guest.Adaptation{Changes: []guest.Change{{Kind: guest.FirstBoot, Root: "w", Subject: "disks"}}}
	if why := Unfit(in, a); !strings.Contains(why, "ascend-firstboot-amd64.exe") {
		t.Errorf("%q", why)
	}
	if in.Roots[0].Windows.Major = 6; Unfit(in, a) != "" {
		t.Error("Windows before 10 has no use of the program")
	}
	a.Changes[0].Kind = guest.PersistModules
	if why := Unfit(in, a); !strings.Contains(why, "is not carried out") {
		t.Errorf("%q", why)
	}
}
