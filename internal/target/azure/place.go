package azure

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

// place is where an order's parts go and what they become, all of it asked for
// and found.
type place struct {
	group, location string
	zones           []string
	size            machineSize
	des, set        string // identifiers, "" without
	nics            []placedNIC
	disks           []placedDisk
	osDisk          int    // position
	osType          string // Linux, Windows
	generation      string // V1, V2
	arch            string // x64, Arm64
	trusted         bool
	controller      string
	tags            map[string]string
}

type placedNIC struct {
	subnet, group string // identifiers; group "" without
	address       string // "": the network gives one
}

type placedDisk struct {
	sku        string
	iops, mbps int
}

// identify makes the identifier of a resource that is named by itself, as
// group/name or by its identifier.
func (t *azure) identify(kind, value, group string) (string, error) {
	if strings.HasPrefix(strings.ToLower(value), "/subscriptions/") {
		return value, nil
	}
	parts := strings.Split(value, "/")
	if len(parts) == 2 {
		group, parts = parts[0], parts[1:]
	}
	if len(parts) != 1 || parts[0] == "" || group == "" {
		return "", target.Permanent(fmt.Sprintf("%q names no %s", value, kind[strings.LastIndexByte(kind, '/')+1:]), "write NAME, GROUP/NAME or the whole identifier")
	}
	return t.c.path("resourceGroups", group, "providers", kind, parts[0]), nil
}

// locate finds where the order's parts go. It makes nothing.
func (t *azure) locate(ctx context.Context, o *target.Order) (*place, error) {
	f := o.Placement.Fields
	p := &place{group: f[fieldGroup], osDisk: o.Machine.BootDisk(), osType: "Linux", generation: "V1", arch: "x64"}
	if p.group == "" {
		p.group = t.cfg.group
	}
	if p.group == "" {
		return nil, target.Permanent("no resource group is named", "set the placement field resource_group")
	}
	var g plain
	if err := t.c.get(ctx, t.c.path("resourceGroups", p.group), apiResources, &g); err != nil {
		return nil, err
	}
	if p.location = t.cfg.location; p.location == "" {
		p.location = g.Location
	}
	if z := f[fieldZone]; z != "" {
		p.zones = []string{z}
	}
	if o.Machine.Guest.Family == vm.Windows {
		p.osType = "Windows"
	}
	if o.Machine.Firmware == vm.UEFI {
		p.generation = "V2"
	}
	if o.Machine.Guest.Arch == vm.ARM64 {
		p.arch = "Arm64"
	}
	var err error
	if p.tags, err = tagsOf(o); err != nil {
		return nil, err
	}
	if err := t.placeSize(ctx, p, o); err != nil {
		return nil, err
	}
	if err := placeDisks(p, o); err != nil {
		return nil, err
	}
	for _, x := range []struct {
		to          *string
		field, kind string
		api         string
	}{
		{&p.set, fieldSet, "Microsoft.Compute/availabilitySets", apiCompute},
		{&p.des, fieldDES, "Microsoft.Compute/diskEncryptionSets", apiDisks},
	} {
		if f[x.field] == "" {
			continue
		}
		if *x.to, err = t.identify(x.kind, f[x.field], p.group); err != nil {
			return nil, err
		}
		if err := t.exists(ctx, *x.to, x.api, x.field, p.location); err != nil {
			return nil, err
		}
	}
	if p.set != "" && len(p.zones) > 0 {
		return nil, target.Permanent("a machine cannot have both an availability set and a zone", "leave one of them out")
	}
	return p, t.placeNICs(ctx, p, o)
}

// exists checks that a resource that is named is there and in the region.
func (t *azure) exists(ctx context.Context, id, api, what, location string) error {
	var r plain
	if err := t.c.get(ctx, id, api, &r); err != nil {
		if notFound(err) {
			return target.Permanent(fmt.Sprintf("%s: there is no %s", what, id), "choose one that is there; the inventory lists them")
		}
		return err
	}
	if !strings.EqualFold(r.Location, location) {
		return target.Permanent(fmt.Sprintf("%s: %s is in %s and the machine is to be in %s", what, id, r.Location, location), "choose one of the region")
	}
	return nil
}

// tagsOf are the tags of everything that the job makes.
func tagsOf(o *target.Order) (map[string]string, error) {
	tags := map[string]string{jobTag: jobValue(o.Job), machineTag: tagText(o.Machine.Name)}
	for _, kv := range strings.Split(o.Options[optTags], ",") {
		if strings.TrimSpace(kv) == "" {
			continue
		}
		k, v, ok := strings.Cut(kv, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if !ok || k == "" || len(k) > 512 || strings.ContainsAny(k, `<>%&\?/`) || len([]rune(v)) > 256 {
			return nil, target.Permanent(fmt.Sprintf("%q is no tag", kv), `write NAME=VALUE; a name has none of <>%&\?/`)
		}
		if strings.EqualFold(k, jobTag) || strings.EqualFold(k, machineTag) {
			return nil, target.Permanent(fmt.Sprintf("the tag %s is not free", k), "choose another name")
		}
		tags[k] = v
	}
	if len(tags) > 50 {
		return nil, target.Permanent(fmt.Sprintf("%d tags are too many", len(tags)), "Azure allows 50")
	}
	return tags, nil
}

// placeSize checks that the size can be had and takes the machine.
func (t *azure) placeSize(ctx context.Context, p *place, o *target.Order) error {
	name := o.Placement.Fields[caps.VMSize]
	if name == "" {
		return target.Permanent("no size is named", "set the placement field "+caps.VMSize+", for instance Standard_D2s_v5")
	}
	all, err := t.machineSizes(ctx, p.location)
	if err != nil {
		return err
	}
	size, ok := all[strings.ToLower(name)]
	if !ok {
		return target.Permanent(fmt.Sprintf("there is no size %s in %s", name, p.location), "choose another size or region; the inventory lists them")
	}
	p.size = size
	switch want := o.Options[optSecurity]; want {
	case "trusted-launch":
		p.trusted = true
	case "", "auto":
		p.trusted = p.generation == "V2" && (o.Machine.SecureBoot || o.Machine.TPM) && size.trusted
	}
	p.controller = o.Options[optController]
	if p.controller == "auto" {
		p.controller = ""
	}
	if p.controller == "" && len(size.controllers) == 1 {
		p.controller = size.controllers[0]
	}
	refuse := func(format string, args ...any) error {
		return target.Permanent(fmt.Sprintf("size %s %s", size.Name, fmt.Sprintf(format, args...)), "choose another vm_size; the inventory lists them")
	}
	data := len(o.Disks) - 1
	switch {
	case size.refused != "":
		return refuse("cannot be used in %s: %s", p.location, size.refused)
	case len(p.zones) == 1 && !slices.Contains(size.zones, p.zones[0]):
		return refuse("is not offered in zone %s of %s", p.zones[0], p.location)
	case !slices.Contains(size.generations, p.generation):
		return refuse("does not start generation %s machines (%s)", p.generation[1:], o.Machine.Firmware)
	case size.arch != "" && size.arch != p.arch:
		return refuse("is for %s and the guest for %s", size.arch, p.arch)
	case data > size.data:
		return refuse("takes %d data disks and the machine has %d", size.data, data)
	case max(len(o.Machine.NICs), 1) > size.MaxNICs:
		return refuse("takes %d adapters and the machine has %d", size.MaxNICs, len(o.Machine.NICs))
	case p.trusted && (p.generation != "V2" || !size.trusted):
		return refuse("has no trusted launch, or the machine is not of generation 2")
	case p.controller != "" && len(size.controllers) > 0 && !slices.Contains(size.controllers, p.controller):
		return refuse("has no disk controller %s", p.controller)
	}
	return nil
}

// placeDisks finds each disk's SKU.
func placeDisks(p *place, o *target.Order) error {
	traits := caps.For(vm.Azure).Traits
	for i := range o.Disks {
		d := placedDisk{sku: o.Placement.Fields[fieldSKU]}
		if i < len(o.Placement.Storage) && o.Placement.Storage[i] != "" {
			d.sku = o.Placement.Storage[i]
		}
		if d.sku == "" {
			d.sku = traits.Classes[0].Name
		}
		if i < len(o.Placement.Volumes) {
			d.iops, d.mbps = o.Placement.Volumes[i].IOPS, o.Placement.Volumes[i].Throughput
		}
		class, ok := traits.Class(d.sku)
		v2 := class.IOPS.Max > 0
		switch {
		case !ok:
			var names []string
			for _, c := range traits.Classes {
				names = append(names, c.Name)
			}
			return target.Permanent(fmt.Sprintf("disk %d: there is no SKU %q", i, d.sku), "one of "+strings.Join(names, ", "))
		case class.Premium && !p.size.Premium:
			return target.Permanent(fmt.Sprintf("disk %d: size %s takes no %s", i, p.size.Name, d.sku), "choose a size with an s in its name, or another SKU")
		case class.NoBoot && i == p.osDisk:
			return target.Permanent(fmt.Sprintf("disk %d: %s cannot hold the boot disk", i, d.sku), "choose Premium_LRS for it")
		case v2 && len(p.zones) == 0:
			return target.Permanent(fmt.Sprintf("disk %d: %s needs a zone", i, d.sku), "set the placement field zone")
		case !v2 && (d.iops != 0 || d.mbps != 0):
			return target.Permanent(fmt.Sprintf("disk %d: the performance of %s cannot be chosen", i, d.sku), "choose PremiumV2_LRS, or leave IOPS and throughput out")
		case i == p.osDisk && o.Disks[i].Virtual > traits.For(o.Machine.Firmware).MaxBootDisk && traits.For(o.Machine.Firmware).MaxBootDisk > 0:
			return target.Permanent(fmt.Sprintf("disk %d: a boot disk of %d bytes is too large for a machine of generation %s", i, o.Disks[i].Virtual, p.generation[1:]), "")
		}
		p.disks = append(p.disks, d)
	}
	return nil
}

// placeNICs finds each adapter's subnet, rules and address.
func (t *azure) placeNICs(ctx context.Context, p *place, o *target.Order) error {
	networks := map[string]*network{}
	count := max(len(o.Machine.NICs), 1) // no machine is without one here
	for i := range count {
		n, a := o.Placement.Fields[fieldNetwork], target.Adapter{}
		if i < len(o.Placement.Networks) && o.Placement.Networks[i] != "" {
			n = o.Placement.Networks[i]
		}
		if i < len(o.Placement.Adapters) {
			a = o.Placement.Adapters[i]
		}
		fail := func(err error) error { return fmt.Errorf("adapter %d: %w", i, translate(err)) }
		if n == "" {
			return fail(target.Permanent("no network is named", "map every adapter to NETWORK/SUBNET, or set the placement field network"))
		}
		id, sub, err := t.subnetOf(n, p.group)
		if err != nil {
			return fail(err)
		}
		vnet := networks[strings.ToLower(id)]
		if vnet == nil {
			vnet = &network{}
			if err := t.c.get(ctx, id, apiNetwork, vnet); err != nil {
				if notFound(err) {
					err = target.Permanent("there is no network "+id, "choose one that is there; the inventory lists them")
				}
				return fail(err)
			}
			networks[strings.ToLower(id)] = vnet
		}
		if !strings.EqualFold(vnet.Location, p.location) {
			return fail(target.Permanent(fmt.Sprintf("network %s is in %s and the machine is to be in %s", vnet.Name, vnet.Location, p.location), "choose a network of the region"))
		}
		if len(networks) > 1 {
			return fail(target.Permanent("the adapters of one machine must be in one virtual network", "map them to subnets of the same network"))
		}
		x := placedNIC{subnet: id + "/subnets/" + sub}
		if x.address, err = addressOf(vnet, sub, a, o.Machine, i); err != nil {
			return fail(err)
		}
		groups := a.SecurityGroups
		if len(groups) == 0 && o.Placement.Fields[fieldSecurity] != "" {
			groups = []string{o.Placement.Fields[fieldSecurity]}
		}
		if len(groups) > 1 {
			return fail(target.Permanent("an adapter has one network security group in Azure", "name one"))
		}
		if len(groups) == 1 {
			if x.group, err = t.identify("Microsoft.Network/networkSecurityGroups", groups[0], p.group); err != nil {
				return fail(err)
			}
			if err := t.exists(ctx, x.group, apiNetwork, fieldSecurity, p.location); err != nil {
				return fail(err)
			}
		}
		p.nics = append(p.nics, x)
	}
	return nil
}

// subnetOf takes a subnet's name apart: network/subnet, group/network/subnet or
// an identifier.
func (t *azure) subnetOf(value, group string) (net, sub string, err error) {
	if strings.HasPrefix(strings.ToLower(value), "/subscriptions/") {
		i := strings.LastIndex(strings.ToLower(value), "/subnets/")
		if i < 0 || strings.Contains(value[i+9:], "/") {
			return "", "", target.Permanent(fmt.Sprintf("%q is no subnet's identifier", value), "")
		}
		return value[:i], value[i+9:], nil
	}
	parts := strings.Split(value, "/")
	if len(parts) == 3 {
		group, parts = parts[0], parts[1:]
	}
	if len(parts) != 2 || slices.Contains(parts, "") {
		return "", "", target.Permanent(fmt.Sprintf("%q names no subnet", value), "write NETWORK/SUBNET or GROUP/NETWORK/SUBNET")
	}
	return t.c.path("resourceGroups", group, "providers/Microsoft.Network/virtualNetworks", parts[0]), parts[1], nil
}

// addressOf is the address that adapter i is to have; "" is any.
func addressOf(n *network, name string, a target.Adapter, m *vm.Machine, i int) (string, error) {
	at := slices.IndexFunc(n.Properties.Subnets, func(s subnet) bool { return strings.EqualFold(s.Name, name) })
	if at < 0 {
		return "", target.Permanent(fmt.Sprintf("network %s has no subnet %s", n.Name, name), "choose one that is there; the inventory lists them")
	}
	var wanted []string
	switch a.Address {
	case "", target.AddressDHCP:
		return "", nil
	case target.AddressNew:
		wanted = a.Addresses
	case target.AddressKeep:
		if i < len(m.NICs) {
			wanted = m.NICs[i].Addresses
		}
	default:
		return "", target.Permanent(fmt.Sprintf("address policy %q is not known", a.Address), "")
	}
	sub := n.Properties.Subnets[at].Properties
	prefixes := sub.Prefixes
	if sub.Prefix != "" {
		prefixes = append(prefixes, sub.Prefix)
	}
	for _, w := range wanted {
		w, _, _ = strings.Cut(w, "/")
		ip, err := netip.ParseAddr(w)
		if err != nil {
			return "", target.Permanent(fmt.Sprintf("%q is no address", w), "")
		}
		if !ip.Is4() {
			continue
		}
		for _, p := range prefixes {
			if x, err := netip.ParsePrefix(p); err == nil && x.Contains(ip) {
				return ip.String(), nil
			}
		}
		return "", target.Permanent(fmt.Sprintf("%s is not in subnet %s (%s)", ip, name, strings.Join(prefixes, ", ")), "choose the subnet it belongs to, another address, or dhcp")
	}
	return "", target.Permanent("no IPv4 address is known that the adapter could have", "name one, or let the network give it (dhcp)")
}

// free refuses to begin where a machine of the name exists that is not the
// job's. One that is the job's and is to stay off is stopped.
func (s *session) free(ctx context.Context) error {
	var m machine
	err := s.c.get(ctx, s.vmID(), apiCompute, &m)
	switch {
	case notFound(err):
		return nil
	case err != nil:
		return err
	case m.Tags[jobTag] == jobValue(s.order.Job):
		if s.order.PowerOn {
			return nil
		}
		// An attempt died after it had the machine made, which runs then.
		switch state, err := s.c.settle(ctx, m.ID, apiCompute); {
		case state == "Failed", notFound(err):
			return nil // Finish makes another in its place
		case err != nil:
			return err
		}
		return s.powerOff(ctx)
	}
	return &target.Problem{Msg: fmt.Sprintf("a machine named %q already exists in resource group %s", m.Name, s.place.group),
		Hint: "restore under another name or into another resource group", Kind: target.ErrExists}
}
