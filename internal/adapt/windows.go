package adapt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"ascend/internal/appliance/proto"
	"ascend/internal/firstboot"
	"ascend/internal/guest"
	"ascend/internal/guest/regf"
	"ascend/internal/guest/winpack"
	"ascend/internal/vm"
)

// doesWindows has one function for each kind of change of a Windows guest.
var doesWindows = map[guest.ChangeKind]func(*work, context.Context, *guest.Root, guest.Change) error{
	guest.BootStartService:  bootStart,
	guest.InstallDriver:     installDriver,
	guest.SetRegistry:       setRegistry,
	guest.DisableAgent:      disableServices,
	guest.SetHostname:       windowsHostname,
	guest.SetDHCP:           windowsDHCP,
	guest.FirstBoot:         atFirstBoot,
	guest.AddFallbackLoader: fallbackLoader,
}

// windows is the Windows under way: its hive is opened once and written once, when
// all changes are made.
type windows struct {
	root    *guest.Root
	hive    *regf.Hive
	hiveAt  string
	hiveWas int64
	edited  bool
	staged  map[string]bool // drivers that stand beside the first start's program
	first   firstboot.Config
}

func newWindows(r *guest.Root) *windows {
	return &windows{root: r, staged: map[string]bool{}, first: firstboot.Config{Version: 1}}
}

// folder is Windows' own, as "/Windows".
func (g *windows) folder() string {
	return path.Dir(path.Dir(path.Dir(g.root.Windows.SystemHive)))
}

func (g *windows) services() string { return g.root.Windows.ControlSet + `\Services\` }

// unfitWindows says what Apply would lack.
func unfitWindows(in *guest.Inspection, a *guest.Adaptation) string {
	for _, c := range a.Changes {
		r := system(in, c.Root)
		if r == nil || r.Windows == nil || c.Kind != guest.FirstBoot && c.Kind != guest.InstallDriver || !hasProgram(r) {
			continue
		}
		if _, err := firstboot.Find(goArch(r)); err != nil {
			return err.Error()
		}
	}
	return ""
}

// hasProgram tells the systems that run the program at their first start: it needs
// Windows 10 or Server 2016. The others run a command file.
func hasProgram(r *guest.Root) bool { return r.Windows.Major >= 10 }

func goArch(r *guest.Root) string {
	if r.OS.Arch == vm.I386 {
		return "386"
	}
	return "amd64"
}

// Types, start types and error controls of services (winnt.h, SERVICE_*).
const (
	kernelDriver = 1
	ownProcess   = 0x10
	startBoot    = 0
	startAuto    = 2
	startNever   = 4
	errorNormal  = 1
)

// bootStart has Windows load a driver with its kernel. From Windows 8 on
// StartOverride tells otherwise on hardware that setup did not see.
func bootStart(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	key := w.win.services() + c.Subject
	if err := w.set(ctx, key, "Start", dword(startBoot)); err != nil {
		return err
	}
	if err := w.drop(ctx, key, "StartOverride"); err != nil {
		return err
	}
	if !w.win.root.Windows.Before8() {
		return nil
	}
	for _, d := range inbox[strings.ToLower(c.Subject)] {
		if err := w.critical(ctx, d.id, c.Subject, d.class); err != nil {
			return err
		}
	}
	return nil
}

// Setup classes of devices.
const (
	classSCSI   = "{4d36e97b-e325-11ce-bfc1-08002be10318}"
	classHDC    = "{4d36e96a-e325-11ce-bfc1-08002be10318}"
	classSystem = "{4d36e97d-e325-11ce-bfc1-08002be10318}"
)

// inbox are the devices of drivers that Windows before 8 brings, for its
// CriticalDeviceDatabase.
var inbox = map[string][]struct{ id, class string }{
	"lsi_sas":  {{`PCI\VEN_1000&DEV_0054`, classSCSI}},
	"lsi_scsi": {{`PCI\VEN_1000&DEV_0030`, classSCSI}},
	"msahci":   {{`PCI\CC_0106`, classHDC}},
	"intelide": {{`PCI\VEN_8086&DEV_7111`, classHDC}},
	"vmbus":    {{`ACPI\VMBUS`, classSystem}},
	"storvsc":  {{`VMBUS\{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}`, classSCSI}},
}

// critical enters a device into the CriticalDeviceDatabase: what Windows before 8
// starts without having installed it.
func (w *work) critical(ctx context.Context, id, service, class string) error {
	key := w.win.root.Windows.ControlSet + `\Control\CriticalDeviceDatabase\` + strings.ReplaceAll(id, `\`, "#")
	if err := w.set(ctx, key, "Service", text(service)); err != nil {
		return err
	}
	return w.set(ctx, key, "ClassGUID", text(class))
}

// installDriver puts a driver of a pack where Windows loads it at boot, and enters
// it into the database that leads from the device to the driver; the rest of the
// installation is done at the first start.
func installDriver(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	d := c.Driver
	if d == nil || d.ImageFile() == nil {
		return errors.New("the plan names no driver")
	}
	b, err := w.fromPack(d, *d.ImageFile())
	if err != nil {
		return err
	}
	at, err := w.resolve(ctx, w.win.folder()+"/System32/drivers/"+d.Image)
	if err != nil {
		return err
	}
	if err := w.write(ctx, sys, at, b, 0o644); err != nil {
		return err
	}
	key := w.win.services() + d.Service
	group := d.Group
	if group == "" {
		group = "SCSI miniport"
	}
	for _, v := range []struct {
		name string
		d    datum
	}{
		{"Type", dword(kernelDriver)}, {"Start", dword(startBoot)}, {"ErrorControl", dword(errorNormal)}, {"Group", text(group)},
		{"ImagePath", expandable(`System32\drivers\` + d.Image)},
	} {
		if err := w.set(ctx, key, v.name, v.d); err != nil {
			return err
		}
	}
	if err := w.drop(ctx, key, "StartOverride"); err != nil {
		return err
	}
	for _, v := range d.Registry {
		value := text(v.Data)
		if v.Number {
			n, err := strconv.ParseUint(v.Data, 0, 32)
			if err != nil {
				return fmt.Errorf("the driver's value %s: %w", v.Name, err)
			}
			value = dword(uint32(n))
		}
		if err := w.set(ctx, strings.TrimSuffix(key+`\`+v.Key, `\`), v.Name, value); err != nil {
			return err
		}
	}
	if err := w.database(ctx, d, c.Args["database"]); err != nil {
		return err
	}
	return w.stage(ctx, d)
}

// database enters a driver's devices. In the DriverDatabase (Windows 8 and later)
// devices lead to an INF, it to a package, and that to a configuration with a
// service; the package's version holds the architecture, the class, the date and
// the number of the driver.
func (w *work) database(ctx context.Context, d *winpack.Driver, kind string) error {
	if kind == "CriticalDeviceDatabase" {
		for _, id := range d.Hardware {
			if err := w.critical(ctx, id, d.Service, d.ClassGUID); err != nil {
				return err
			}
		}
		return nil
	}
	inf := "ascend-" + strings.ToLower(d.Service) + ".inf"
	arch, config := goArch(w.win.root), "ascend_conf"
	if arch == "386" {
		arch = "x86"
	}
	label := inf + "_" + arch + "_0000000000000000"
	version, err := packageVersion(d, w.win.root.OS.Arch)
	if err != nil {
		return err
	}
	const db = `DriverDatabase\`
	type value struct {
		key, name string
		d         datum
	}
	values := []value{
		{`DriverInfFiles\` + inf, "", texts(label)}, {`DriverInfFiles\` + inf, "Active", text(label)}, {`DriverInfFiles\` + inf, "Configurations", texts(config)},
		{`DriverPackages\` + label, "Version", blob(version)},
		{`DriverPackages\` + label + `\Configurations\` + config, "ConfigFlags", dword(0)}, {`DriverPackages\` + label + `\Configurations\` + config, "Service", text(d.Service)},
	}
	for _, id := range d.Hardware {
		if !strings.Contains(id, `\`) {
			continue
		}
		values = append(values, value{`DeviceIds\` + id, inf, blob([]byte{1, 0xff, 0, 0})}, value{`DriverPackages\` + label + `\Descriptors\` + id, "Configuration", text(config)})
	}
	for _, v := range values {
		if err := w.set(ctx, db+v.key, v.name, v.d); err != nil {
			return err
		}
	}
	return nil
}

// stage puts a driver's files where the first start installs it from.
func (w *work) stage(ctx context.Context, d *winpack.Driver) error {
	if w.win.staged[d.Service] {
		return nil
	}
	w.win.staged[d.Service] = true
	at, err := w.own(ctx)
	if err != nil {
		return err
	}
	for _, f := range d.Files {
		b, err := w.fromPack(d, f)
		if err != nil {
			return err
		}
		if err := w.write(ctx, sys, path.Join(at, firstboot.Drivers, d.Service, f.Name), b, 0o644); err != nil {
			return err
		}
	}
	w.win.first.Drivers = append(w.win.first.Drivers, path.Join(firstboot.Drivers, d.Service, d.INF))
	return nil
}

// own is the folder of the first start's files.
func (w *work) own(ctx context.Context) (string, error) {
	return w.resolve(ctx, w.win.folder()+"/"+firstboot.Folder)
}

// packs are the opened packs of drivers, by their sources.
type packs map[string]*winpack.Pack

// openPacks opens the packs of an adaptation and holds every file to its digest:
// what is not as the plan has it is better said before anything is begun.
func openPacks(a *guest.Adaptation) (packs, error) {
	out := packs{}
	for _, c := range a.Changes {
		if c.Driver == nil {
			continue
		}
		if out[c.Driver.Source] == nil {
			p, err := winpack.Open(c.Driver.Source)
			if err != nil {
				return out, err
			}
			out[c.Driver.Source] = p
		}
		for _, f := range c.Driver.Files {
			if _, err := out[c.Driver.Source].Read(c.Driver, f); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

func (p packs) close() {
	for _, x := range p {
		_ = x.Close() // it was only read
	}
}

func (w *work) fromPack(d *winpack.Driver, f winpack.File) ([]byte, error) {
	return w.packs[d.Source].Read(d, f)
}

// overwrite writes a file that is there anew, in place.
func (w *work) overwrite(ctx context.Context, name string, data []byte) error {
	err := w.Send(ctx, func(port int) proto.Call {
		return proto.Call{Write: &proto.Write{Root: sys, Path: proto.Name(name), Port: &port, InPlace: true}}
	}, bytes.NewReader(data), nil)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	return nil
}

func setRegistry(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	i := strings.LastIndexByte(c.Subject, '\\')
	if i < 0 || c.Args["type"] != "dword" {
		return fmt.Errorf("%q of type %q: %w", c.Subject, c.Args["type"], ErrCannot)
	}
	n, err := strconv.ParseUint(c.Args["value"], 0, 32)
	if err != nil {
		return err
	}
	return w.set(ctx, w.win.root.Windows.ControlSet+`\`+c.Subject[:i], c.Subject[i+1:], dword(uint32(n)))
}

// disableServices keeps an agent's services from starting; nothing is removed.
func disableServices(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	for _, s := range c.Detail {
		if err := w.set(ctx, w.win.services()+s, "Start", dword(startNever)); err != nil {
			return err
		}
	}
	return nil
}

// windowsHostname sets the name by DNS and the one of NetBIOS, which is its first
// 15 letters in capitals.
func windowsHostname(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	set := w.win.root.Windows.ControlSet
	label, _, _ := strings.Cut(c.Subject, ".")
	for _, v := range [][3]string{
		{set + `\Control\ComputerName\ComputerName`, "ComputerName", strings.ToUpper(label[:min(len(label), 15)])},
		{set + `\Services\Tcpip\Parameters`, "NV Hostname", label}, {set + `\Services\Tcpip\Parameters`, "Hostname", label},
	} {
		if err := w.set(ctx, v[0], v[1], text(v[2])); err != nil {
			return err
		}
	}
	return nil
}

// windowsDHCP has an interface ask for its address: for the case that it is there
// again on the target.
func windowsDHCP(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	key := w.win.services() + `Tcpip\Parameters\Interfaces\` + c.Subject
	if err := w.set(ctx, key, "EnableDHCP", dword(1)); err != nil {
		return err
	}
	for _, n := range []string{"IPAddress", "SubnetMask", "DefaultGateway", "DefaultGatewayMetric"} {
		if err := w.unset(ctx, key, n); err != nil {
			return err
		}
	}
	return w.set(ctx, key, "NameServer", text(""))
}

// atFirstBoot notes what the first start is to do; settle writes it.
func atFirstBoot(w *work, ctx context.Context, _ *guest.Root, c guest.Change) error {
	f := &w.win.first
	switch {
	case c.Driver != nil:
		return w.stage(ctx, c.Driver)
	case c.Args["disks"] != "":
		n, err := strconv.Atoi(c.Args["disks"])
		f.Disks = n
		return err
	case len(c.Detail) > 0:
		f.Adapters = append(f.Adapters, firstboot.Adapter{MAC: c.Args["mac"], Addresses: c.Detail, Gateways: strings.Fields(c.Args["gateway"]), DNS: strings.Fields(c.Args["dns"])})
		return f.Check()
	}
	return fmt.Errorf("%q at the first start: %w", c.Subject, ErrCannot)
}

// settle writes what the changes have in common: the first start and the hive.
func (w *work) settle(ctx context.Context) error {
	w.now = &Applied{}
	if err := w.settleFirstBoot(ctx); err != nil {
		return fmt.Errorf("cannot prepare the first start: %w", err)
	}
	if err := w.saveHive(ctx); err != nil {
		return err
	}
	w.res.Files = append(w.res.Files, w.now.Files...)
	w.res.Registry = append(w.res.Registry, w.now.Registry...)
	return nil
}

func (w *work) settleFirstBoot(ctx context.Context) error {
	f := &w.win.first
	if f.Empty() {
		return nil
	}
	if err := f.Check(); err != nil {
		return err
	}
	at, err := w.own(ctx)
	if err != nil {
		return err
	}
	if !hasProgram(w.win.root) {
		return w.script(ctx, at)
	}
	exe, err := firstboot.Find(goArch(w.win.root))
	if err != nil {
		return err
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		return err
	}
	config, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := w.write(ctx, sys, at+"/"+firstboot.Program, program, 0o644); err != nil {
		return err
	}
	if err := w.write(ctx, sys, at+"/"+firstboot.ConfigFile, config, 0o644); err != nil {
		return err
	}
	key := w.win.services() + firstboot.Service
	for _, v := range []struct {
		name string
		d    datum
	}{
		{"Type", dword(ownProcess)}, {"Start", dword(startAuto)}, {"ErrorControl", dword(errorNormal)}, {"ObjectName", text("LocalSystem")},
		{"DisplayName", text("Ascend first start")}, {"Description", text("Installs drivers and sets addresses once, after a restore, and removes itself.")},
		{"ImagePath", expandable(`%SystemRoot%\` + firstboot.Folder + `\` + firstboot.Program)},
	} {
		if err := w.set(ctx, key, v.name, v.d); err != nil {
			return err
		}
	}
	return nil
}

// runThenLogon is the SetupType with which winlogon runs CmdLine and goes on.
const runThenLogon = 2

// script has Windows before 10 run a command file before its first logon.
func (w *work) script(ctx context.Context, at string) error {
	h, err := w.hive(ctx)
	if err != nil {
		return err
	}
	if k, err := h.Root().Key("Setup"); err == nil {
		if n, ok := k.DWord("SetupType"); ok && n != 0 {
			return errors.New("the guest is in the middle of its own setup: finish it on the source and back up again")
		}
	}
	script, disks := w.win.first.Script()
	if err := w.write(ctx, sys, at+"/"+firstboot.ScriptFile, []byte(script), 0o644); err != nil {
		return err
	}
	if disks != "" {
		if err := w.write(ctx, sys, at+"/"+firstboot.DiskFile, []byte(disks), 0o644); err != nil {
			return err
		}
	}
	if err := w.set(ctx, "Setup", "SetupType", dword(runThenLogon)); err != nil {
		return err
	}
	return w.set(ctx, "Setup", "CmdLine", text(firstboot.CommandLine))
}
