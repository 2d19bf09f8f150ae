package guest

import (
	"fmt"
	"slices"
	"strings"

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
		a.windowsBoot(r, t, o)
	}
	if t.Firmware == vm.UEFI && in.ESP != nil && !in.ESP.Fallback {
		a.change(Change{Kind: AddFallbackLoader, Root: r.Volume, Subject: "/EFI/BOOT", Reason: "the firmware's boot entries do not travel; only the fallback path is found", Detail: in.ESP.Loaders})
	}
	if cur, ok := w.Services["partmgr"]; ok && cur.Start >= 0 && len(in.Disks) > 1 {
		a.change(Change{Kind: SetRegistry, Root: r.Volume, Subject: `SYSTEM\Services\partmgr\Parameters\SanPolicy`, Reason: "so that further disks come online", Args: map[string]string{"type": "dword", "value": "1"}})
	}
	if !o.Agents {
		for _, g := range sourceAgents(r, t.Platform) {
			a.change(Change{Kind: DisableAgent, Root: r.Volume, Subject: g.Name, Reason: "it belongs to the platform the machine leaves; storage drivers stay"})
		}
	}
	for _, i := range r.Interfaces {
		if !i.static() {
			continue
		}
		if o.DHCP || t.Platform == vm.AWS || t.Platform == vm.Azure {
			a.change(Change{Kind: SetDHCP, Root: r.Volume, Subject: i.Name, Detail: i.Addresses, Reason: "the platform assigns addresses by DHCP, or as asked"})
			continue
		}
		a.change(Change{Kind: FirstBoot, Root: r.Volume, Subject: "static address", Detail: i.Addresses, Reason: "Windows ties addresses to the old adapter; they are set again at the first start", Args: map[string]string{"gateway": strings.Join(i.Gateways, " "), "dns": strings.Join(i.DNS, " ")}})
	}
}

func (a *Adaptation) windowsBoot(r *Root, t Target, o Choices) {
	w := r.Windows
	have := func(s string) bool {
		v, ok := w.Services[strings.ToLower(s)]
		return ok && v.Start >= 0 && v.File
	}
	pack := func(s string) bool {
		return slices.ContainsFunc(o.DriverPack, func(p string) bool { return strings.EqualFold(p, s) })
	}
	ready := func(s string) bool {
		v := w.Services[strings.ToLower(s)]
		return v.Start == 0 && len(v.Override) == 0
	}
	cost := func(services []string) int {
		n := 0
		for _, s := range services {
			switch {
			case have(s) && ready(s):
			case have(s):
				n++
			case pack(s):
				n += 10
			default:
				n += 1000
			}
		}
		return n
	}
	if a.Controller == "" {
		if best, ok := choose(platformBuses[t.Platform], windowsStorage, cost); ok {
			a.Controller = best
			if want := platformBuses[t.Platform][0]; best != want {
				a.find(Information, "hardware-controller", "", "%s is chosen instead of %s: Windows has its driver", best, want)
			}
		}
	}
	a.defaults(t)
	need := windowsStorage[a.Controller]
	if t.Platform == vm.HyperV || t.Platform == vm.Azure && a.Controller == vm.BusVMBusSCSI {
		need = append(slices.Clone(need), "storflt")
		if t.Firmware == vm.BIOS {
			need = append(need, "intelide", "atapi")
		}
	}
	a.Boot.Verdict = Boots
	a.Boot.Reason = fmt.Sprintf("the drivers of %s start at boot", a.Controller)
	for _, s := range need {
		switch {
		case have(s) && ready(s):
		case have(s):
			v := w.Services[strings.ToLower(s)]
			a.change(Change{Kind: BootStartService, Root: r.Volume, Subject: s, Reason: fmt.Sprintf("%s needs it at boot; it starts as %d", a.Controller, v.Start), Args: map[string]string{"control_set": w.ControlSet}})
			if a.Boot.Verdict == Boots {
				a.Boot.Verdict, a.Boot.Reason = BootsAdapted, s+" is made to start at boot"
			}
		case pack(s):
			db := "DriverDatabase"
			if w.Major == 6 && w.Minor < 2 {
				db = "CriticalDeviceDatabase"
			}
			a.change(Change{Kind: InstallDriver, Root: r.Volume, Subject: s, Reason: string(a.Controller) + " needs it at boot", Args: map[string]string{"database": db}})
			if a.Boot.Verdict == Boots {
				a.Boot.Verdict, a.Boot.Reason = BootsAdapted, s+" is installed from the driver pack"
			}
		case s == "storflt" || s == "intelide" || s == "atapi": // helps where it is there
		default:
			a.Boot.Verdict, a.Boot.Reason = BootsNot, "Windows has no driver "+s
			a.find(Critical, "guest-driver-missing", "put a driver pack that holds it into the driver folder", "Windows has no driver %s, which %s needs", s, a.Controller)
		}
	}
	for _, s := range windowsNIC[a.NIC] {
		if have(s) || a.NIC == vm.NetVSC {
			return
		}
		if pack(s) {
			a.change(Change{Kind: FirstBoot, Root: r.Volume, Subject: "driver " + s, Reason: "the network adapter " + string(a.NIC) + " needs it"})
			return
		}
	}
	switch a.NIC {
	case vm.ENA:
		a.find(Critical, "guest-nic-driver", "put the AWS ENA driver into the driver folder", "Windows has no driver for ENA and would not be reachable")
	case vm.VirtioNet, vm.VMXNET3:
		a.find(Warning, "guest-nic-driver", "put a driver pack into the driver folder, or choose e1000", "Windows has no driver for the network adapter %s", a.NIC)
	}
}
