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
}{
	{"open-vm-tools", vm.VMware, []string{"/usr/bin/vmtoolsd"}},
	{"vmware-tools", vm.VMware, []string{"/etc/vmware-tools/locations", "/usr/bin/vmware-uninstall-tools.pl"}},
	{"qemu-guest-agent", vm.CloudStack, []string{"/usr/sbin/qemu-ga", "/usr/bin/qemu-ga"}},
	{"hyperv-daemons", vm.HyperV, []string{"/usr/sbin/hv_kvp_daemon", "/usr/sbin/hypervkvpd", "/usr/lib/hyper-v/bin/hv_kvp_daemon"}},
	{"walinuxagent", vm.Azure, []string{"/usr/sbin/waagent", "/usr/bin/waagent"}},
	{"amazon-ssm-agent", vm.AWS, []string{"/usr/bin/amazon-ssm-agent", "/snap/amazon-ssm-agent"}},
	{"nutanix-guest-tools", vm.Nutanix, []string{"/usr/local/nutanix/ngt"}},
	{"cloud-init", "", []string{"/usr/bin/cloud-init"}},
	{"xe-guest-utilities", "", []string{"/usr/sbin/xe-daemon", "/usr/sbin/xe-linux-distribution"}},
	{"virtualbox-guest-additions", "", []string{"/usr/sbin/VBoxService"}},
	{"parallels-tools", "", []string{"/usr/bin/prltoolsd"}},
}

func agents(t *vfs.Tree, r *Root) {
	for _, a := range linuxAgents {
		for _, p := range a.paths {
			if t.Exists(p) {
				r.Agents = append(r.Agents, Agent{a.name, a.platform, p})
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
