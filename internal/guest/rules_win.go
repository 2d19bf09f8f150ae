package guest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/guest/winpack"
	"ascend/internal/vm"
)

func (a *Adaptation) windows(in *Inspection, r *Root, t Target, o Choices, boots bool) {
	w := r.Windows
	if w.Hibernated {
		a.find(Critical, "guest-hibernated", "shut the source down with \"shutdown /s /t 0\" and back up again", "Windows is hibernated, or fast startup kept its kernel on disk: its volume must not be written to")
	}
	if w.DirtyVolume {
		a.find(Warning, "guest-dirty-volume", "Windows will check the volume at its first start", "%s is marked dirty", r.Volume)
	}
	if len(w.DirtyHives) > 0 {
		a.find(Information, "guest-dirty-hive", "", "registry hives whose logs must be replayed: %s", strings.Join(w.DirtyHives, ", "))
	}
	for _, g := range in.Gaps {
		if g.Code == "registry" && g.Where == r.Volume+w.SystemHive {
			a.find(Critical, "guest-registry", "shut the source down and back up again", "the registry of Windows cannot be read, nor changed: %s", g.Reason)
		}
	}
	if w.PendingReboot {
		a.find(Warning, "guest-pending-reboot", "restart the source and back up again, if you can", "updates wait for a restart and will be installed at the first start")
	}
	if w.Major < 6 || w.Major == 6 && w.Minor < 1 {
		a.find(Critical, "guest-windows-too-old", "", "Windows before 7 and 2008 R2 is not adapted")
	}
	if slices.ContainsFunc(in.Gaps, func(g Gap) bool { return g.Code == "bitlocker" }) {
		a.find(Warning, "guest-bitlocker", "keep the recovery key at hand", "a volume is protected by BitLocker")
	}
	if t.Firmware == vm.BIOS && in.BootDisk >= 0 && in.BootDisk < len(in.Disks) && in.Disks[in.BootDisk].Scheme == "gpt" {
		a.find(Critical, "guest-windows-gpt-bios", "choose UEFI", "Windows does not start from GPT by BIOS")
	}
	if boots {
		d := winDrivers{w: w}
		d.pack(r, o)
		a.windowsBoot(r, t, &d)
		a.windowsNIC(r, t, &d)
	}
	if t.Firmware == vm.UEFI && in.ESP != nil && !in.ESP.Fallback {
		a.change(Change{Kind: AddFallbackLoader, Root: r.Volume, Subject: "/EFI/BOOT", Reason: "the firmware's boot entries do not travel; only the fallback path is found", Detail: in.ESP.Loaders})
	}
	if len(in.Disks) > 1 && w.ControlSet != "" {
		if w.SANPolicy == nil || *w.SANPolicy != onlineAll {
			a.change(Change{Kind: SetRegistry, Root: r.Volume, Subject: `Services\partmgr\Parameters\SanPolicy`, Reason: "so that further disks come online", Args: map[string]string{"control_set": w.ControlSet, "type": "dword", "value": strconv.Itoa(onlineAll)}})
			a.change(Change{Kind: FirstBoot, Root: r.Volume, Subject: "disks", Reason: "disks that Windows has taken offline before are brought online", Args: map[string]string{"disks": strconv.Itoa(len(in.Disks))}})
		}
	}
	if !o.Agents {
		for _, g := range sourceAgents(r, t.Platform) {
			a.windowsAgent(r, g)
		}
	}
	a.windowsHostname(r, o)
	a.windowsAddresses(r, t, o)
	a.windowsRoom(in, r)
}

// onlineAll is the SAN policy that brings every disk online (Virtual Disk Service,
// VDS_SAN_POLICY).
const onlineAll = 1

// startDisabled is a service that is not started.
const startDisabled = 4

func (a *Adaptation) windowsAgent(r *Root, g Agent) {
	var names []string
	for _, s := range agentServices[g.Name] {
		if v, ok := r.Windows.Services[strings.ToLower(s)]; ok && v.Start >= 0 && v.Start < startDisabled {
			names = append(names, s)
		}
	}
	if len(names) > 0 {
		a.change(Change{Kind: DisableAgent, Root: r.Volume, Subject: g.Name, Detail: names, Reason: "it belongs to the platform the machine leaves; storage drivers stay", Args: map[string]string{"control_set": r.Windows.ControlSet}})
	}
}

// Findings of Windows that a plan names: what an adaptation leaves to a person.
const (
	StaticAddress = "guest-static-address" // one that is not carried over
	DomainMember  = "guest-domain-member"  // a new name leaves the domain's account behind
)

// startAuto is a service that starts with the system; Netlogon does so in members
// of a domain.
const startAuto = 2

func (a *Adaptation) windowsHostname(r *Root, o Choices) {
	if o.Hostname == "" || o.Hostname == r.Hostname {
		return
	}
	a.change(Change{Kind: SetHostname, Root: r.Volume, Subject: o.Hostname, Reason: "as asked", Args: map[string]string{"control_set": r.Windows.ControlSet}})
	if s, ok := r.Windows.Services["netlogon"]; ok && s.Start == startAuto {
		a.find(Warning, DomainMember, "join the domain again, or keep the name", "Windows is a member of a domain, whose account of the machine keeps the name %s", r.Hostname)
	}
}

// windowsAddresses gives the adapters the addresses asked for, and those that are
// kept to the adapters that have them.
func (a *Adaptation) windowsAddresses(r *Root, t Target, o Choices) {
	cloud := t.Platform == vm.AWS || t.Platform == vm.Azure
	at := func(i Interface) int { // the adapter of the target; -1: it cannot be told
		if n := slices.IndexFunc(t.NICs, func(n vm.NIC) bool { return i.MAC != "" && strings.EqualFold(n.MAC, i.MAC) }); n >= 0 || len(t.NICs) != 1 {
			return n
		}
		return 0 // whatever its address: there is no other
	}
	wish := func(n int) Address {
		if n < 0 || n >= len(o.Addresses) {
			return Address{}
		}
		return o.Addresses[n]
	}
	given := map[int]bool{}
	for _, i := range r.Interfaces {
		n := at(i)
		w := wish(n)
		switch {
		case !i.static() || len(w.Static) > 0 && !o.DHCP:
		case o.DHCP || w.DHCP || cloud:
			a.change(Change{Kind: SetDHCP, Root: r.Volume, Subject: i.Name, Detail: i.Addresses, Reason: "the platform assigns addresses by DHCP, or as asked", Args: map[string]string{"control_set": r.Windows.ControlSet}})
		case n < 0:
			a.find(Warning, StaticAddress, "keep the adapters' MAC addresses, or set the address by hand after the first start", "which adapter of the target is to have the static address %s cannot be told", strings.Join(i.Addresses, " "))
		case given[n]:
			a.find(Warning, StaticAddress, "set the address by hand after the first start", "Windows has several adapters with static addresses and the target has one: %s is not set", strings.Join(i.Addresses, " "))
		case strings.EqualFold(i.MAC, t.NICs[n].MAC) && r.Windows.VMwareTools && t.Platform == vm.VMware && serialModels[t.NICs[n].Model]:
			// Windows knows such an adapter by its MAC address: it is the same one.
		default:
			given[n] = true
			a.windowsAddress(r, t, n, i.Addresses, i.Gateways, i.DNS, "Windows ties addresses to the old adapter; they are set again at the first start")
		}
	}
	for n, w := range o.Addresses {
		if n >= len(t.NICs) || len(w.Static) == 0 || o.DHCP {
			continue
		}
		var dns []string
		for _, i := range r.Interfaces {
			if at(i) == n {
				dns = i.DNS
			}
		}
		a.windowsAddress(r, t, n, w.Static, strings.Fields(w.Gateway), dns, "as asked; set at the first start")
	}
}

// windowsAddress has the first start give an adapter its addresses. It is found by
// its MAC address, or, where that is not known, is the only one.
func (a *Adaptation) windowsAddress(r *Root, t Target, n int, addresses, gateways, dns []string, why string) {
	mac := strings.ToLower(t.NICs[n].MAC)
	if mac == "" && len(t.NICs) > 1 {
		a.find(Warning, StaticAddress, "keep the adapters' MAC addresses, or set the address by hand after the first start", "adapter %d is to have %s, and its MAC address is not known", n, strings.Join(addresses, " "))
		return
	}
	if slices.ContainsFunc(addresses, func(s string) bool { return strings.Contains(s, ":") }) {
		a.find(Warning, StaticAddress, "set the address by hand after the first start", "addresses of IPv6 are not set in Windows: %s", strings.Join(addresses, " "))
		return
	}
	a.change(Change{Kind: FirstBoot, Root: r.Volume, Subject: staticAddress, Detail: addresses, Reason: why, Args: map[string]string{"mac": mac, "gateway": strings.Join(gateways, " "), "dns": strings.Join(dns, " ")}})
}

const staticAddress = "static address"

// serialModels are VMware's adapters with a serial number, which is their MAC
// address.
var serialModels = map[vm.NICModel]bool{vm.VMXNET3: true, vm.E1000E: true}

// windowsRoom adds up what will be written.
func (a *Adaptation) windowsRoom(in *Inspection, r *Root) {
	const program, hive = 8 << 20, 1 << 20
	need := int64(0)
	for _, c := range a.Changes {
		if c.Root != r.Volume || c.Kind == AddFallbackLoader {
			continue
		}
		if need == 0 {
			need = hive + program
		}
		if c.Driver != nil {
			need += 2 * c.Driver.Size() // in the drivers' folder, and the store that Windows copies it to
		}
	}
	if v := in.find(r.Volume); v != nil && v.Super != nil && v.Super.Free >= 0 && v.Super.Free < need {
		a.find(Critical, "guest-no-space", "free space on the source and back up again", "%s has %s free, and the changes need %s", r.Volume, vm.FormatSize(v.Super.Free), vm.FormatSize(need))
	}
}

// winDrivers are those that Windows has and those that a pack brings.
type winDrivers struct {
	w    *Windows
	from map[string]*winpack.Driver // by service, in small letters
	why  map[string]string
}

func (d *winDrivers) pack(r *Root, o Choices) {
	d.from = map[string]*winpack.Driver{}
	if o.Pack == nil {
		return
	}
	list, why := o.Pack.For(SystemOf(r))
	for _, x := range list {
		d.from[strings.ToLower(x.Service)] = x
	}
	d.why = why
}

// SystemOf is a Windows system as drivers are chosen for it.
func SystemOf(r *Root) winpack.System {
	build, _ := strconv.Atoi(r.Windows.Build) // 0 takes the first release's
	return winpack.System{Major: r.Windows.Major, Minor: r.Windows.Minor, Build: build, Server: r.OS.Distribution == "windows-server", Arch: r.OS.Arch}
}

func (d *winDrivers) have(s string) bool {
	v, ok := d.w.Services[strings.ToLower(s)]
	return ok && v.Start >= 0 && v.File
}

func (d *winDrivers) ready(s string) bool {
	v := d.w.Services[strings.ToLower(s)]
	return d.have(s) && v.Start == 0 && len(v.Override) == 0
}

func (d *winDrivers) cost(services []string) int {
	n := 0
	for _, s := range services {
		switch {
		case d.ready(s):
		case d.have(s):
			n = max(n, 1) // start types are changed at one go
		case d.from[strings.ToLower(s)] != nil:
			n += 10
		default:
			n += 1000
		}
	}
	return n
}

// Before8 tells Windows 7 and Server 2008 R2: they have another AHCI driver, and look
// boot devices up in the CriticalDeviceDatabase.
func (w *Windows) Before8() bool { return w.Major == 6 && w.Minor < 2 }

// storage is the drivers of each controller for a Windows.
func (w *Windows) storage() map[vm.Bus][]string {
	if !w.Before8() {
		return windowsStorage
	}
	m := map[vm.Bus][]string{}
	for b, l := range windowsStorage {
		m[b] = l
	}
	m[vm.BusSATA] = []string{"msahci"}
	return m
}

func (a *Adaptation) windowsBoot(r *Root, t Target, d *winDrivers) {
	w := r.Windows
	if a.Controller == "" {
		if best, ok := choose(platformBuses[t.Platform], w.storage(), d.cost); ok {
			a.Controller = best
			if want := platformBuses[t.Platform][0]; best != want {
				a.find(Information, "hardware-controller", "", "%s is chosen instead of %s: Windows has its driver", best, want)
			}
		}
	}
	a.defaults(t)
	need := slices.Clone(w.storage()[a.Controller])
	var helps []string // where they are there
	if t.Platform == vm.HyperV || t.Platform == vm.Azure && a.Controller == vm.BusVMBusSCSI {
		if helps = append(helps, "storflt"); t.Firmware == vm.BIOS {
			helps = append(helps, "intelide", "atapi")
		}
	}
	a.Boot.Verdict = Boots
	a.Boot.Reason = fmt.Sprintf("the drivers of %s start at boot", a.Controller)
	for _, s := range append(need, helps...) {
		from := d.from[strings.ToLower(s)]
		switch {
		case d.ready(s):
		case d.have(s):
			v := w.Services[strings.ToLower(s)]
			why := fmt.Sprintf("%s needs it at boot; it starts as %d", a.Controller, v.Start)
			if v.Start == 0 {
				why = fmt.Sprintf("%s needs it at boot, and an override holds it back", a.Controller)
			}
			a.change(Change{Kind: BootStartService, Root: r.Volume, Subject: s, Reason: why, Args: map[string]string{"control_set": w.ControlSet}})
			if a.Boot.Verdict == Boots {
				a.Boot.Verdict, a.Boot.Reason = BootsAdapted, s+" is made to start at boot"
			}
		case slices.Contains(helps, s):
		case from != nil:
			a.change(Change{Kind: InstallDriver, Root: r.Volume, Subject: s, Reason: string(a.Controller) + " needs it at boot", Driver: from, Args: map[string]string{"control_set": w.ControlSet, "database": w.database()}})
			if a.Boot.Verdict == Boots {
				a.Boot.Verdict, a.Boot.Reason = BootsAdapted, s+" is installed from the driver pack"
			}
		default:
			a.Boot.Verdict, a.Boot.Reason = BootsNot, "Windows has no driver "+s
			a.find(Critical, "guest-driver-missing", "give a driver pack that has it with --drivers", "Windows has no driver %s, which %s needs%s", s, a.Controller, d.because(s))
		}
	}
}

// database is where Windows looks for the drivers of devices at boot.
func (w *Windows) database() string {
	if w.Before8() {
		return "CriticalDeviceDatabase"
	}
	return "DriverDatabase"
}

// because is why a pack's driver is not used.
func (d *winDrivers) because(s string) string {
	if why := d.why[strings.ToLower(s)]; why != "" {
		return " (in the pack, but not whole: " + why + ")"
	}
	return ""
}

// windowsNIC has the adapter's driver, and what else the platform's pack brings,
// installed at the first start.
func (a *Adaptation) windowsNIC(r *Root, t Target, d *winDrivers) {
	stage := func(s, why string) bool {
		from := d.from[strings.ToLower(s)]
		if from == nil || d.have(s) {
			return false
		}
		a.change(Change{Kind: FirstBoot, Root: r.Volume, Subject: "driver " + from.Service, Driver: from, Reason: why})
		return true
	}
	if t.Platform == vm.CloudStack || t.Platform == vm.Nutanix {
		for _, s := range []string{"vioser", "balloon"} {
			stage(s, "the platform's agent and memory balloon use it")
		}
	}
	var missing string
	for _, s := range windowsNIC[a.NIC] {
		if d.have(s) || a.NIC == vm.NetVSC || stage(s, "the network adapter "+string(a.NIC)+" needs it") {
			return
		}
		missing = s
	}
	switch a.NIC {
	case vm.ENA:
		a.find(Critical, "guest-nic-driver", "give the AWS ENA driver with --drivers", "Windows has no driver for ENA and would not be reachable%s", d.because(missing))
	case vm.VirtioNet, vm.VMXNET3:
		a.find(Warning, "guest-nic-driver", "give a driver pack with --drivers, or choose e1000", "Windows has no driver for the network adapter %s%s", a.NIC, d.because(missing))
	}
}
