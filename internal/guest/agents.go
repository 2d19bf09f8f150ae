package guest

import (
	"strings"

	"ascend/internal/guest/vfs"
	"ascend/internal/vm"
)

var linuxAgents = []struct {
	name     string
	platform vm.Platform
	paths    []string
	units    []string // without ".service"
}{
	{"open-vm-tools", vm.VMware, []string{"/usr/bin/vmtoolsd"}, []string{"open-vm-tools", "vmtoolsd", "vgauth", "vgauthd"}},
	{"vmware-tools", vm.VMware, []string{"/etc/vmware-tools/locations", "/usr/bin/vmware-uninstall-tools.pl"}, []string{"vmware-tools", "vmware-tools-thinprint"}},
	{"qemu-guest-agent", vm.CloudStack, []string{"/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"}, []string{"qemu-guest-agent"}},
	{"hyperv-daemons", vm.HyperV, []string{"/usr/sbin/hv_kvp_daemon", "/usr/sbin/hypervkvpd", "/usr/lib/hyper-v/bin/hv_kvp_daemon"}, []string{"hv-kvp-daemon", "hv-vss-daemon", "hv-fcopy-daemon", "hypervkvpd", "hypervvssd", "hypervfcopyd"}},
	{"walinuxagent", vm.Azure, []string{"/usr/sbin/waagent", "/usr/bin/waagent"}, []string{"walinuxagent", "waagent"}},
	{"amazon-ssm-agent", vm.AWS, []string{"/usr/bin/amazon-ssm-agent", "/snap/amazon-ssm-agent"}, []string{"amazon-ssm-agent", "snap.amazon-ssm-agent.amazon-ssm-agent"}},
	{"nutanix-guest-tools", vm.Nutanix, []string{"/usr/local/nutanix/ngt"}, []string{"ngt_guest_agent"}},
	{"cloud-init", "", []string{"/usr/bin/cloud-init"}, nil},
	{"xe-guest-utilities", "", []string{"/usr/sbin/xe-daemon", "/usr/sbin/xe-linux-distribution"}, []string{"xe-linux-distribution", "xe-daemon"}},
	{"virtualbox-guest-additions", "", []string{"/usr/sbin/VBoxService"}, []string{"vboxadd", "vboxadd-service", "vboxservice"}},
	{"parallels-tools", "", []string{"/usr/bin/prltoolsd"}, []string{"prltoolsd"}},
}

func agents(t *vfs.Tree, r *Root) {
	for _, a := range linuxAgents {
		for _, p := range a.paths {
			if t.Exists(p) {
				r.Agents = append(r.Agents, Agent{a.name, a.platform, p})
				if us := services(t, a.units); len(us) > 0 {
					if r.Linux.AgentUnits == nil {
						r.Linux.AgentUnits = map[string][]string{}
					}
					r.Linux.AgentUnits[a.name] = us
				}
				break
			}
		}
	}
	for _, p := range append([]string{"/etc/cloud/cloud.cfg"}, glob(t, "/etc/cloud/cloud.cfg.d", ".cfg")...) {
		for line := range strings.Lines(read(t, p)) {
			if _, v, ok := strings.Cut(strings.TrimSpace(line), "datasource_list:"); ok && !strings.HasPrefix(strings.TrimSpace(line), "#") {
				r.Linux.CloudInit = nil // the last file wins
				for _, d := range strings.Split(strings.Trim(strings.TrimSpace(v), "[]"), ",") {
					if d = strings.Trim(d, " '\""); d != "" {
						r.Linux.CloudInit = append(r.Linux.CloudInit, d)
					}
				}
			}
		}
	}
}

// services are those of units that systemd would start: known, and not masked.
func services(t *vfs.Tree, units []string) (out []string) {
	for _, u := range units {
		u += ".service"
		if to, err := t.ReadLink("/etc/systemd/system/" + u); err == nil && to == "/dev/null" {
			continue
		}
		for _, dir := range []string{"/lib/systemd/system/", "/usr/lib/systemd/system/", "/etc/systemd/system/"} {
			if _, err := t.Lstat(dir + u); err == nil {
				out = append(out, u)
				break
			}
		}
	}
	return out
}
