package cloudstack

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"ascend/internal/target"
	"ascend/internal/target/guestos"
	"ascend/internal/vm"
)

// place is a Placement found in the cloud.
type place struct {
	zone     zoneRow
	offering offeringRow
	disks    []string // disk offerings, by the order's disks; "": the platform's own choice
	nics     []nic
	groups   []string
	affinity []string
	keyPair  string
	cluster  string
	host     string
	osType   string
	pool     poolRow // of pathImport
	speed    int
	windows  bool
}

type nic struct{ network, ip, mac string }

// locate finds everything that an order's placement names. It changes nothing.
func (t *cloud) locate(ctx context.Context, f *facts, o *target.Order, path string) (*place, error) {
	p := &place{windows: o.Machine.Guest.Family == vm.Windows}
	field := func(name string) string { return o.Placement.Fields[name] }
	zones, err := list[zoneRow](ctx, t.c, "listZones", "zone", params{"available": "true"})
	if err != nil {
		return nil, fmt.Errorf("cannot list zones: %w", translate(err))
	}
	want := field(fieldZone)
	if want == "" {
		want = t.cfg.zone
	}
	if p.zone, err = choose("zone", want, zones); err != nil {
		return nil, err
	}
	if err := t.checkPath(ctx, f, p, path); err != nil {
		return nil, err
	}
	offerings, err := list[offeringRow](ctx, t.c, "listServiceOfferings", "serviceoffering", params{"zoneid": p.zone.ID})
	if err != nil {
		return nil, fmt.Errorf("cannot list compute offerings: %w", translate(err))
	}
	if p.offering, err = choose("compute offering", field(fieldOffering), offerings); err != nil {
		return nil, err
	}
	p.speed = 1000
	if s := o.Options[optSpeed]; s != "" {
		if p.speed, err = strconv.Atoi(s); err != nil || p.speed <= 0 {
			return nil, target.Permanent(fmt.Sprintf("option %s: %q is no number of MHz", optSpeed, s), "")
		}
	}
	for _, step := range []func(context.Context, *facts, *target.Order, *place) error{t.findDisks, t.findNetworks, t.findExtras, t.findOS} {
		if err := step(ctx, f, o, p); err != nil {
			return nil, err
		}
	}
	if path == pathImport {
		return p, p.checkImport()
	}
	return p, nil
}

// checkImport refuses what importVm has no parameter for.
func (p *place) checkImport() error {
	for what, given := range map[string]bool{
		"security groups": len(p.groups) > 0, "affinity groups": len(p.affinity) > 0, "an SSH key pair": p.keyPair != "",
		"a fixed address of the first adapter": len(p.nics) > 0 && p.nics[0].ip != "",
	} {
		if given {
			return target.Permanent("a machine that is imported cannot be given "+what, "leave it out and set it afterwards, or let the disks be uploaded")
		}
	}
	return nil
}

// checkPath refuses a way that the version or the zone does not have.
func (t *cloud) checkPath(ctx context.Context, f *facts, p *place, path string) error {
	if !f.version.since(4, 6, 0) {
		return target.Permanent("CloudStack "+f.version.String()+" has no uploads from a client, which came with 4.6", "upgrade the server")
	}
	var kinds struct {
		Rows []row `json:"hypervisor"`
	}
	if err := t.c.call(ctx, "listHypervisors", params{"zoneid": p.zone.ID}, &kinds); err == nil && len(kinds.Rows) > 0 {
		if _, err := choose("hypervisor", "KVM", kinds.Rows); err != nil {
			return target.Permanent(fmt.Sprintf("zone %s has no KVM hosts, but %s", p.zone.Name, kinds.Rows[0].Name), "choose a zone with KVM")
		}
	}
	switch path {
	case pathVolume:
		if !f.version.since(4, 21, 0) {
			return target.Permanent("CloudStack "+f.version.String()+" deploys no machine from a volume, which came with 4.21", "set path=template")
		}
		pools, err := t.pools(ctx, p.zone.ID)
		if err == nil && len(pools) > 0 && !zoneWide(pools) {
			return target.Permanent("zone "+p.zone.Name+" has no zone-wide primary storage, from which alone a machine is deployed from a volume", "set path=template")
		}
	case pathImport:
		if !f.version.since(4, 19, 1) {
			return target.Permanent("CloudStack "+f.version.String()+" imports no disks of KVM, which came with 4.19.1", "leave pool and pool_dir out: disks are then uploaded")
		}
		pools, err := t.pools(ctx, p.zone.ID)
		if err != nil {
			return fmt.Errorf("cannot list primary storage: %w", translate(err))
		}
		if p.pool, err = choose("primary storage", t.cfg.pool, pools); err != nil {
			return err
		}
	}
	return nil
}

func (t *cloud) pools(ctx context.Context, zone string) ([]poolRow, error) {
	return list[poolRow](ctx, t.c, "listStoragePools", "storagepool", params{"zoneid": zone})
}

func zoneWide(pools []poolRow) bool {
	for _, p := range pools {
		if strings.EqualFold(p.Scope, "ZONE") && strings.EqualFold(p.State, "Up") {
			return true
		}
	}
	return false
}

func (t *cloud) findDisks(ctx context.Context, _ *facts, o *target.Order, p *place) error {
	all, err := list[diskOfferingRow](ctx, t.c, "listDiskOfferings", "diskoffering", params{"zoneid": p.zone.ID})
	if err != nil {
		return fmt.Errorf("cannot list disk offerings: %w", translate(err))
	}
	for i := range o.Disks {
		want := o.Placement.Fields[fieldDisk]
		if i < len(o.Placement.Storage) && o.Placement.Storage[i] != "" {
			want = o.Placement.Storage[i]
		}
		if want == "" {
			p.disks = append(p.disks, "")
			continue
		}
		d, err := choose("disk offering", want, all)
		if err != nil {
			return fmt.Errorf("cannot place disk %d: %w", i, err)
		}
		if !d.Custom {
			return target.Permanent(fmt.Sprintf("disk %d: the disk offering %q has a fixed size of %d GiB, and an upload needs one of custom size", i, d.Name, d.Size), "choose an offering of custom size")
		}
		p.disks = append(p.disks, d.ID)
	}
	if o.Disks[0].Delivery.Path == pathHotAdd {
		for i := range p.disks {
			for j := 0; p.disks[i] == "" && j < len(all); j++ {
				if all[j].Custom {
					p.disks[i] = all[j].ID
				}
			}
			if p.disks[i] == "" {
				return target.Permanent("there is no disk offering of custom size", "make one, or choose another way")
			}
		}
	}
	return nil
}

func (t *cloud) findNetworks(ctx context.Context, f *facts, o *target.Order, p *place) error {
	if len(o.Machine.NICs) == 0 && len(o.Placement.Networks) == 0 {
		return nil
	}
	all, err := list[networkRow](ctx, t.c, "listNetworks", "network", f.owned(params{"zoneid": p.zone.ID, "canusefordeploy": "true", "listall": "true"}))
	if err != nil {
		return fmt.Errorf("cannot list networks: %w", translate(err))
	}
	for i, a := range o.Machine.NICs {
		want := ""
		if i < len(o.Placement.Networks) {
			want = o.Placement.Networks[i]
		}
		n, err := choose("network", want, all)
		if err != nil {
			return fmt.Errorf("cannot place network adapter %d: %w", i, err)
		}
		out := nic{network: n.ID}
		if o.Options[optMAC] != "new" {
			out.mac = a.MAC
		}
		if i < len(o.Placement.Adapters) {
			ad := o.Placement.Adapters[i]
			addresses := ad.Addresses
			if ad.Address == target.AddressKeep {
				addresses = a.Addresses
			}
			if ad.Address == target.AddressKeep || ad.Address == target.AddressNew {
				if out.ip, err = fits(addresses, n); err != nil {
					return fmt.Errorf("cannot place network adapter %d: %w", i, err)
				}
			}
			if err := t.findGroups(ctx, f, ad.SecurityGroups, p); err != nil {
				return err
			}
		}
		p.nics = append(p.nics, out)
	}
	return nil
}

// fits is the first IPv4 address of a list, which must be in the network.
func fits(addresses []string, n networkRow) (string, error) {
	for _, s := range addresses {
		s, _, _ = strings.Cut(s, "/")
		ip, err := netip.ParseAddr(s)
		if err != nil || !ip.Is4() {
			continue
		}
		if cidr, err := netip.ParsePrefix(n.CIDR); err == nil && !cidr.Contains(ip) {
			return "", target.Permanent(fmt.Sprintf("the address %s is not in network %s (%s)", ip, n.Name, n.CIDR), "choose another address or network, or let DHCP give one")
		}
		return ip.String(), nil
	}
	return "", target.Permanent("there is no IPv4 address to give it", "name one, or let DHCP give one")
}

func (t *cloud) findGroups(ctx context.Context, f *facts, names []string, p *place) error {
	if len(names) == 0 {
		return nil
	}
	all, err := list[row](ctx, t.c, "listSecurityGroups", "securitygroup", f.owned(params{"listall": "true"}))
	if err != nil {
		return fmt.Errorf("cannot list security groups: %w", translate(err))
	}
	for _, n := range names {
		g, err := choose("security group", n, all)
		if err != nil {
			return err
		}
		p.groups = append(p.groups, g.ID)
	}
	return nil
}

func (t *cloud) findExtras(ctx context.Context, f *facts, o *target.Order, p *place) error {
	if names := o.Options[optAffinity]; names != "" {
		all, err := list[row](ctx, t.c, "listAffinityGroups", "affinitygroup", f.owned(params{"listall": "true"}))
		if err != nil {
			return fmt.Errorf("cannot list affinity groups: %w", translate(err))
		}
		for n := range strings.SplitSeq(names, ",") {
			g, err := choose("affinity group", strings.TrimSpace(n), all)
			if err != nil {
				return err
			}
			p.affinity = append(p.affinity, g.ID)
		}
	}
	if k := o.Options[optKeyPair]; k != "" {
		all, err := list[row](ctx, t.c, "listSSHKeyPairs", "sshkeypair", f.owned(params{"name": k}))
		if err != nil {
			return fmt.Errorf("cannot list SSH key pairs: %w", translate(err))
		}
		if _, err := choose("SSH key pair", k, all); err != nil {
			return err
		}
		p.keyPair = k
	}
	for _, x := range []struct {
		field, command, key string
		id                  *string
	}{{fieldCluster, "listClusters", "cluster", &p.cluster}, {fieldHost, "listHosts", "host", &p.host}} {
		want := o.Placement.Fields[x.field]
		if want == "" && (x.field != fieldCluster || o.Disks[0].Delivery.Path != pathImport) {
			continue
		}
		all, err := list[row](ctx, t.c, x.command, x.key, params{"zoneid": p.zone.ID})
		if err != nil {
			return fmt.Errorf("cannot find %s %q: %w", x.field, want, translate(err))
		}
		r, err := choose(x.field, want, all)
		if err != nil {
			return err
		}
		*x.id = r.ID
	}
	if h := o.Options[optHostName]; h != "" && !label.MatchString(h) {
		return target.Permanent(fmt.Sprintf("option %s: %q is no host name", optHostName, h), "letters, digits and hyphens, a letter first, at most 63")
	}
	return nil
}

// findOS finds the guest's operating system, which a template must have.
func (t *cloud) findOS(ctx context.Context, _ *facts, o *target.Order, p *place) error {
	all, err := list[osRow](ctx, t.c, "listOsTypes", "ostype", nil)
	if err != nil {
		return fmt.Errorf("cannot list operating systems: %w", translate(err))
	}
	var have []string
	for _, r := range all {
		have = append(have, r.Description)
	}
	best := guestos.Pick(guestos.CloudStack(o.Machine.Guest), have)
	for _, r := range all {
		if strings.EqualFold(r.Description, best) && best != "" {
			p.osType = r.ID
		}
	}
	return nil
}

// details are the machine's hardware as CloudStack's details say it
// (VmDetailConstants), and the job's mark.
func (p *place) details(o *target.Order, v version) map[string]string {
	m := o.Machine
	d := map[string]string{tagKey: o.Job}
	boot := m.BootDisk()
	if c := controller(m.Disks[boot].Controller); c != "" {
		d["rootDiskController"] = c
	}
	for i, disk := range m.Disks {
		if c := controller(disk.Controller); i != boot && c != "" {
			d["dataDiskController"] = c
			break
		}
	}
	if len(m.NICs) > 0 {
		switch m.NICs[0].Model {
		case vm.VirtioNet:
			d["nicAdapter"] = "virtio"
		case vm.E1000, vm.E1000E:
			d["nicAdapter"] = "e1000"
		case vm.RTL8139:
			d["nicAdapter"] = "rtl8139"
		case vm.PCNet32:
			d["nicAdapter"] = "pcnet"
		}
	}
	if p.offering.Custom {
		if n := m.CPU.Total(); n > 0 && p.offering.CPUs == 0 {
			d["cpuNumber"] = strconv.Itoa(n)
		}
		if m.Memory > 0 && p.offering.Memory == 0 {
			d["memory"] = strconv.FormatInt((m.Memory+vm.MiB-1)/vm.MiB, 10)
		}
		if p.offering.Speed == 0 {
			d["cpuSpeed"] = strconv.Itoa(p.speed)
		}
	}
	// A Windows guest that starts by UEFI with Secure Boot would be moved to SATA.
	if p.windows && m.SecureBoot && v.since(4, 20, 3) && d["rootDiskController"] != "sata" {
		d["skip.force.disk.controller"] = "true"
	}
	return d
}

func controller(b vm.Bus) string {
	switch b {
	case vm.BusVirtioBlk:
		return "virtio"
	case vm.BusVirtioSCSI:
		return "scsi"
	case vm.BusSATA:
		return "sata"
	case vm.BusIDE:
		return "ide"
	}
	return ""
}

// firmware are the parameters boottype and bootmode.
func firmware(m *vm.Machine) (kind, mode string) {
	switch {
	case m.Firmware == vm.UEFI && m.SecureBoot:
		return "UEFI", "SECURE"
	case m.Firmware == vm.UEFI:
		return "UEFI", "LEGACY"
	}
	return "", "" // BIOS is what there is without a word, in old versions too
}
