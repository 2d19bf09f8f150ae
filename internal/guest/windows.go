package guest

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
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
		addresses(k, interfaceAdapters(cs), r)
	}
	if k, err := cs.Key(`Services\partmgr\Parameters`); err == nil {
		if v, ok := k.DWord("SanPolicy"); ok {
			n := int(min(v, 4))
			w.SANPolicy = &n
		}
	}
	names := slices.Clone(otherServices)
	for _, l := range agentServices {
		names = append(names, l...)
	}
	for _, l := range windowsStorage {
		names = append(names, l...)
	}
	for _, l := range windowsNIC {
		names = append(names, l...)
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
func addresses(k regf.Key, macs map[string]string, r *Root) {
	is, err := k.Key("Interfaces")
	if err != nil {
		return
	}
	keys, _ := is.Keys()
	for _, n := range keys[:min(len(keys), maxInterfaces)] {
		i := Interface{Name: n.Name(), MAC: macs[strings.ToLower(n.Name())], Source: `Tcpip\Parameters\Interfaces`}
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
		i.Gateways = slices.DeleteFunc(n.Strings("DefaultGateway"), func(g string) bool { return g == "0.0.0.0" })
		dns, _ := n.String("NameServer")
		i.DNS = strings.FieldsFunc(dns, func(c rune) bool { return c == ',' || c == ' ' })
		if i.static() || i.DHCP {
			r.Interfaces = append(r.Interfaces, i)
		}
	}
}

// networkClass is the setup class of network adapters.
const networkClass = "{4d36e972-e325-11ce-bfc1-08002be10318}"

// interfaceAdapters finds the MAC addresses of the interfaces, by their names in small
// letters: Windows 10 and later note them, and those of VMware's adapters stand in
// the name of the device.
func interfaceAdapters(cs regf.Key) map[string]string {
	out := map[string]string{}
	if k, err := cs.Key(`Control\Class\` + networkClass); err == nil {
		keys, _ := k.Keys()
		for _, n := range keys[:min(len(keys), maxInterfaces)] {
			id, _ := n.String("NetCfgInstanceId")
			device, _ := n.String("DeviceInstanceID")
			if mac := serialMAC(device); mac != "" && id != "" {
				out[strings.ToLower(id)] = mac
			}
		}
	}
	if k, err := cs.Key(`Control\NetworkSetup2\Interfaces`); err == nil {
		keys, _ := k.Keys()
		for _, n := range keys[:min(len(keys), maxInterfaces)] {
			kernel, err := n.Key("Kernel")
			if err != nil {
				continue
			}
			for _, name := range []string{"PermanentAddress", "CurrentAddress"} { // the latter counts
				v, err := kernel.Value(name)
				if err != nil {
					continue
				}
				if d, err := v.Data(); err == nil && len(d) == 6 && !bytes.Equal(d, make([]byte, 6)) {
					out[strings.ToLower(n.Name())] = net.HardwareAddr(d).String()
				}
			}
		}
	}
	return out
}

// serialMAC reads the MAC address that VMware's adapters have in their PCI Express
// serial number, an EUI-64 with FF FE in its middle, which ends the device's name:
// ...\FF565000B37984FE00 is 00:50:56:84:79:b3.
func serialMAC(device string) string {
	b, err := hex.DecodeString(device[strings.LastIndexByte(device, '\\')+1:])
	if err != nil || len(b) != 9 || b[0] != 0xff || b[7] != 0xfe || b[8] != 0 {
		return ""
	}
	return net.HardwareAddr{b[3], b[2], b[1], b[6], b[5], b[4]}.String()
}
