package guest

import (
	"errors"
	"fmt"
	"strings"

	"ascend/internal/guest/regf"
	"ascend/internal/guest/vfs"
	"ascend/internal/vm"
)

const maxHive = 256 << 20

// windows reads a Windows system on an NTFS volume, if one is.
func (in *inspector) windows(v *Volume) {
	t := vfs.NewTree(v.driver)
	dir := "/Windows/System32/config"
	if !t.Exists(dir + "/SYSTEM") {
		return
	}
	w := &Windows{Services: map[string]Service{}, SystemHive: dir + "/SYSTEM", DirtyVolume: v.Super.Dirty}
	r := Root{Volume: v.ID, Windows: w, OS: vm.GuestOS{Family: vm.Windows}}
	if f, err := t.Open("/hiberfil.sys"); err == nil {
		b := make([]byte, 4)
		if n, _ := f.ReadAt(b, 0); n == 4 {
			s := strings.ToUpper(string(b))
			w.Hibernated = s == "HIBR" || s == "RSTR"
		}
	}
	if h := in.hive(t, v, w, dir+"/SOFTWARE"); h != nil {
		software(h, w, &r)
	}
	if h := in.hive(t, v, w, dir+"/SYSTEM"); h != nil {
		system(t, h, w, &r)
	}
	w.PendingReboot = w.PendingReboot || t.Exists("/Windows/WinSxS/pending.xml")
	for _, a := range []Agent{
		{"vmware-tools", vm.VMware, "/Program Files/VMware/VMware Tools/vmtoolsd.exe"}, {"qemu-guest-agent", vm.CloudStack, "/Program Files/Qemu-ga/qemu-ga.exe"},
		{"azure-vm-agent", vm.Azure, "/WindowsAzure/Packages/WaAppAgent.exe"}, {"amazon-ssm-agent", vm.AWS, "/Program Files/Amazon/SSM/amazon-ssm-agent.exe"},
		{"ec2launch", vm.AWS, "/Program Files/Amazon/EC2Launch/EC2Launch.exe"}, {"nutanix-guest-tools", vm.Nutanix, "/Program Files/Nutanix/Guest Agent/guest_agent_service.exe"},
	} {
		if t.Exists(a.Path) {
			r.Agents = append(r.Agents, a)
			w.VMwareTools = w.VMwareTools || a.Name == "vmware-tools"
		}
	}
	in.Roots = append(in.Roots, r)
	v.MountedAt = append(v.MountedAt, "C:")
}

// hive opens a registry hive, its logs replayed in memory; nil and a gap when
// it cannot be.
func (in *inspector) hive(t *vfs.Tree, v *Volume, w *Windows, p string) *regf.Hive {
	b, err := t.ReadFile(p, maxHive)
	var h *regf.Hive
	if err == nil {
		h, err = regf.Open(b)
	}
	if errors.Is(err, regf.ErrDirty) {
		w.DirtyHives = append(w.DirtyHives, p)
		var logs [][]byte
		for _, s := range []string{".LOG1", ".LOG2", ".LOG"} {
			if l, err := t.ReadFile(p+s, maxHive); err == nil {
				logs = append(logs, l)
			}
		}
		h, err = regf.OpenLogs(b, logs...)
	}
	if err != nil {
		in.gap("registry", v.ID+p, "%v", err)
		return nil
	}
	return h
}

func software(h *regf.Hive, w *Windows, r *Root) {
	if _, err := h.Root().Key(`Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired`); err == nil {
		w.PendingReboot = true
	}
	if _, err := h.Root().Key(`Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending`); err == nil {
		w.PendingReboot = true
	}
	k, err := h.Root().Key(`Microsoft\Windows NT\CurrentVersion`)
	if err != nil {
		return
	}
	r.Name, _ = k.String("ProductName")
	w.Build, _ = k.String("CurrentBuildNumber")
	w.Edition, _ = k.String("EditionID")
	if n, ok := k.DWord("CurrentMajorVersionNumber"); ok {
		w.Major = int(n)
		m, _ := k.DWord("CurrentMinorVersionNumber")
		w.Minor = int(m)
	} else if s, ok := k.String("CurrentVersion"); ok {
		_, _ = fmt.Sscanf(s, "%d.%d", &w.Major, &w.Minor) // what is no number stays 0
	}
	r.OS.Distribution = "windows-client"
	if s, _ := k.String("InstallationType"); strings.HasPrefix(s, "Server") || strings.Contains(r.Name, "Server") {
		r.OS.Distribution = "windows-server"
	}
	for _, word := range strings.Fields(r.Name) {
		if word[0] >= '0' && word[0] <= '9' {
			r.OS.Version = word
			break
		}
	}
}

func system(t *vfs.Tree, h *regf.Hive, w *Windows, r *Root) {
	n := uint32(1)
	if k, err := h.Root().Key("Select"); err == nil {
		if c, ok := k.DWord("Current"); ok {
			n = c
		}
	}
	w.ControlSet = fmt.Sprintf("ControlSet%03d", n)
	cs, err := h.Root().Key(w.ControlSet)
	if err != nil {
		return
	}
	if k, err := cs.Key(`Control\Session Manager`); err == nil && len(k.Strings("PendingFileRenameOperations")) > 0 {
		w.PendingReboot = true
	}
	if k, err := cs.Key(`Control\Session Manager\Power`); err == nil {
		v, _ := k.DWord("HiberbootEnabled")
		w.FastStartup = v == 1
	}
	if k, err := cs.Key(`Control\TimeZoneInformation`); err == nil {
		v, _ := k.DWord("RealTimeIsUniversal")
		w.UTCClock = v == 1
	}
	if k, err := cs.Key(`Control\Session Manager\Environment`); err == nil {
		switch s, _ := k.String("PROCESSOR_ARCHITECTURE"); s {
		case "AMD64":
			r.OS.Arch = vm.AMD64
		case "x86":
			r.OS.Arch = vm.I386
		case "ARM64":
			r.OS.Arch = vm.ARM64
		}
	}
	if k, err := cs.Key(`Services\Tcpip\Parameters`); err == nil {
		r.Hostname, _ = k.String("Hostname")
		addresses(k, r)
	}
	names := otherServices
	for _, l := range windowsStorage {
		names = append(names[:len(names):len(names)], l...)
	}
	for _, l := range windowsNIC {
		names = append(names[:len(names):len(names)], l...)
	}
	svc, err := cs.Key("Services")
	if err != nil {
		return
	}
	for _, name := range names {
		s := Service{Start: -1, File: t.Exists("/Windows/System32/drivers/" + name + ".sys")}
		if k, err := svc.Key(name); err == nil {
			if v, ok := k.DWord("Start"); ok && v <= 4 {
				s.Start = int(v)
			}
			if o, err := k.Key("StartOverride"); err == nil {
				vs, _ := o.Values()
				for _, v := range vs {
					if d, ok := o.DWord(v.Name()); ok && d != 0 && len(s.Override) < 16 {
						if s.Override == nil {
							s.Override = map[string]int{}
						}
						s.Override[v.Name()] = int(d)
					}
				}
			}
		}
		if s.Start >= 0 || s.File {
			w.Services[strings.ToLower(name)] = s
		}
	}
}

// addresses reads the static addresses of Tcpip\Parameters\Interfaces.
func addresses(k regf.Key, r *Root) {
	is, err := k.Key("Interfaces")
	if err != nil {
		return
	}
	keys, _ := is.Keys()
	for _, n := range keys[:min(len(keys), maxInterfaces)] {
		i := Interface{Name: n.Name(), Source: `Tcpip\Parameters\Interfaces`}
		d, _ := n.DWord("EnableDHCP")
		i.DHCP = d == 1
		masks := n.Strings("SubnetMask")
		for j, a := range n.Strings("IPAddress") {
			if a != "0.0.0.0" && !i.DHCP {
				m := ""
				if j < len(masks) {
					m = masks[j]
				}
				i.Addresses = append(i.Addresses, cidr(a, m))
			}
		}
		i.Gateways = n.Strings("DefaultGateway")
		dns, _ := n.String("NameServer")
		i.DNS = strings.FieldsFunc(dns, func(c rune) bool { return c == ',' || c == ' ' })
		if i.static() || i.DHCP {
			r.Interfaces = append(r.Interfaces, i)
		}
	}
}
