package vmware

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// place is a Placement found in the inventory.
type place struct {
	dc         *node
	compute    *node
	host       *node // nil: the platform chooses, because it shows none
	pool       types.ManagedObjectReference
	folder     *node
	home       *node   // datastore of the machine's own files
	datastores []*node // parallel to the disks
	networks   []types.BaseVirtualDeviceBackingInfo
	wires      []*node                      // the networks themselves
	browser    types.ManagedObjectReference // the compute resource's environment browser
}

// candidates is how many names an error lists.
const candidates = 20

// choose finds the one node that want names, by inventory path, by the path's
// end or by name.
func choose(what, want, where string, nodes []*node) (*node, error) {
	var hits []*node
	for _, n := range nodes {
		if n.path == strings.TrimSuffix(want, "/") || "/"+want == n.path {
			return n, nil
		}
		if n.name == want || n.raw == want || strings.HasSuffix(n.path, "/"+strings.Trim(want, "/")) && strings.Contains(want, "/") {
			hits = append(hits, n)
		}
	}
	switch len(hits) {
	case 1:
		return hits[0], nil
	case 0:
		return nil, target.Permanent(fmt.Sprintf("there is no %s %q in %s", what, want, where), "there are: "+enumerate(nodes, false))
	}
	return nil, target.Permanent(fmt.Sprintf("%s %q in %s is ambiguous", what, want, where), "give one of the paths: "+enumerate(hits, true))
}

// only is the node to use when none was named.
func only(what, where string, nodes []*node) (*node, error) {
	switch len(nodes) {
	case 1:
		return nodes[0], nil
	case 0:
		return nil, target.Permanent(fmt.Sprintf("there is no %s in %s", what, where), "")
	}
	return nil, target.Permanent(fmt.Sprintf("no %s is chosen and %s has %d", what, where, len(nodes)), "choose one of: "+enumerate(nodes, false))
}

func enumerate(nodes []*node, paths bool) string {
	if len(nodes) == 0 {
		return "none"
	}
	var names []string
	for _, n := range nodes {
		if len(names) == candidates {
			names = append(names, fmt.Sprintf("and %d more", len(nodes)-candidates))
			break
		}
		if paths {
			names = append(names, n.path)
		} else {
			names = append(names, label(n, nodes))
		}
	}
	return strings.Join(names, ", ")
}

func pick(what, want, where string, nodes []*node) (*node, error) {
	if want == "" {
		return only(what, where, nodes)
	}
	return choose(what, want, where, nodes)
}

// locate finds everything an order's placement names. It changes nothing.
func (c *conn) locate(ctx context.Context, t *tree, o *target.Order) (*place, error) {
	f := o.Placement.Fields
	p := &place{}
	var err error
	want := f[fieldDatacenter]
	if want == "" {
		want = c.cfg.datacenter
	}
	if p.dc, err = pick("datacenter", want, c.cfg.sdk.Host, t.kind(kindsDatacenter)); err != nil {
		return nil, err
	}
	if err := p.findCompute(t, f); err != nil {
		return nil, err
	}
	if err := p.findFolder(t, f[fieldFolder]); err != nil {
		return nil, err
	}
	if err := p.findDatastores(t, f[fieldDatastore], o); err != nil {
		return nil, err
	}
	if err := c.findNetworks(ctx, t, p, o); err != nil {
		return nil, err
	}
	return p, p.chooseHost(t, o.Job)
}

// chooseHost names a host where the order does not: a cluster without DRS wants
// one (Folder.CreateVM_Task, parameter host), and disks are sent to it. Jobs
// spread over the hosts that reach everything; DRS may move the machine later.
func (p *place) chooseHost(t *tree, job string) error {
	if p.host != nil {
		return nil
	}
	hosts := t.under(t.kind(kindsHost), p.compute.ref)
	if len(hosts) == 0 {
		return nil
	}
	able := slices.DeleteFunc(slices.Clone(hosts), func(h *node) bool {
		lacks := func(prop string) func(*node) bool {
			have := h.refs(prop)
			return func(n *node) bool { return !slices.Contains(have, n.ref) }
		}
		return h.props["runtime.connectionState"] != types.HostSystemConnectionStateConnected ||
			h.props["runtime.inMaintenanceMode"] == true ||
			lacks("datastore")(p.home) || slices.ContainsFunc(p.datastores, lacks("datastore")) || slices.ContainsFunc(p.wires, lacks("network"))
	})
	if len(able) == 0 {
		return target.Permanent(fmt.Sprintf("no host of %s is connected, not in maintenance and reaches every chosen datastore and network", p.compute.name),
			"choose other datastores or networks, or one of the hosts: "+enumerate(hosts, false))
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(job))
	p.host = able[int(h.Sum32()%uint32(len(able)))] //nolint:gosec // a few hosts
	return nil
}

// findCompute finds the host or cluster and the resource pool.
func (p *place) findCompute(t *tree, f map[string]string) error {
	where := "datacenter " + p.dc.name
	root := p.dc.one("hostFolder")
	computes := t.under(t.kind(kindsCompute), root)
	var err error
	if want := f[fieldHost]; want != "" {
		if p.host, err = choose("host", want, where, t.under(t.kind(kindsHost), root)); err != nil {
			return err
		}
		if p.host.props["runtime.inMaintenanceMode"] == true {
			return target.Permanent(fmt.Sprintf("host %s is in maintenance mode", p.host.name), "choose another host")
		}
		p.compute = t.nodes[*p.host.parent]
	}
	if want := f[fieldCluster]; want != "" {
		n, err := choose("cluster", want, where, computes)
		if err != nil {
			return err
		}
		if p.compute != nil && p.compute != n {
			return target.Permanent(fmt.Sprintf("host %s is not in cluster %s", p.host.name, n.name), "")
		}
		p.compute = n
	}
	var pool *node
	if want := f[fieldPool]; want != "" {
		pools, inside := t.under(t.kind(kindsPool), root), where
		if p.compute != nil {
			pools, inside = t.under(pools, p.compute.ref), p.compute.name
		}
		if pool, err = choose("resource pool", want, inside, pools); err != nil {
			return err
		}
		if p.compute == nil {
			p.compute = t.nodes[pool.one("owner")]
		}
	}
	if p.compute == nil {
		if p.compute, err = only("cluster or host", where, computes); err != nil {
			return err
		}
	}
	if p.compute == nil {
		return target.Permanent("the cluster of the chosen host or resource pool cannot be read", "give the user the privilege System.View on it")
	}
	p.pool = p.compute.one("resourcePool")
	if pool != nil {
		p.pool = pool.ref
	}
	p.browser = p.compute.one("environmentBrowser")
	return nil
}

func (p *place) findFolder(t *tree, want string) error {
	folders := t.vmFolders([]*node{p.dc})
	if want == "" || strings.Trim(want, "/") == "" {
		p.folder = t.nodes[p.dc.one("vmFolder")]
		if p.folder == nil {
			return target.Permanent("the folder of machines of datacenter "+p.dc.name+" cannot be read", "give the user the privilege System.View on it")
		}
		return nil
	}
	var err error
	p.folder, err = choose("folder", want, "datacenter "+p.dc.name, folders)
	return err
}

// findDatastores finds the home datastore and that of each disk.
func (p *place) findDatastores(t *tree, home string, o *target.Order) error {
	from, where := p.compute, p.compute.name
	if p.host != nil {
		from, where = p.host, p.host.name
	}
	reach := from.refs("datastore")
	stores := t.kind(kindsDatastore)
	stores = slices.DeleteFunc(stores, func(n *node) bool { return !slices.Contains(reach, n.ref) })
	find := func(want string) (*node, error) {
		n, err := pick("datastore", want, where, stores)
		if err != nil {
			return nil, err
		}
		s, ok := n.summary()
		if !ok {
			return nil, target.Permanent("datastore "+n.name+" cannot be read", "give the user the privilege Datastore.Browse on it")
		}
		if why := unusable(s); why != "" {
			return nil, target.Permanent("datastore "+n.name+" is "+why, "choose another datastore")
		}
		return n, nil
	}
	storage := o.Placement.Storage
	if len(storage) > len(o.Disks) {
		return target.Permanent(fmt.Sprintf("%d storage places are given for %d disks", len(storage), len(o.Disks)), "")
	}
	for i := range o.Disks {
		want := home
		if i < len(storage) && storage[i] != "" {
			want = storage[i]
		}
		n, err := find(want)
		if err != nil {
			return fmt.Errorf("cannot place disk %d: %w", i, err)
		}
		p.datastores = append(p.datastores, n)
	}
	// Without a datastore of its own the machine lies with its first disk.
	var err error
	switch {
	case home == "" && len(p.datastores) > 0:
		p.home = p.datastores[0]
	default:
		if p.home, err = find(home); err != nil {
			return fmt.Errorf("cannot place the machine's files: %w", err)
		}
	}
	return nil
}

// checkSpace refuses to begin what cannot fit: the files still to be sent, as
// far as their sizes are known.
func (p *place) checkSpace(o *target.Order, there func(i int) bool) error {
	need := map[*node]int64{}
	for i, d := range o.Disks {
		n := p.datastores[i]
		if s, _ := n.summary(); strings.EqualFold(s.Type, "vvol") && d.Virtual%vm.MiB != 0 {
			return target.Permanent(fmt.Sprintf("disk %d has %d bytes and datastore %s takes whole MiB only", i, d.Virtual, n.name), "choose another datastore")
		}
		if !there(i) {
			need[n] += max(d.FileSize, 0)
		}
	}
	for n, bytes := range need {
		if s, _ := n.summary(); bytes > s.FreeSpace {
			return target.Permanent(fmt.Sprintf("datastore %s has %s free and the disks need at least %s",
				n.name, vm.FormatSize(s.FreeSpace), vm.FormatSize(bytes)), "free space or choose another datastore")
		}
	}
	return nil
}

// findNetworks finds the network of each adapter and how a device is backed by it.
func (c *conn) findNetworks(ctx context.Context, t *tree, p *place, o *target.Order) error {
	from, where := p.compute, p.compute.name
	if p.host != nil {
		from, where = p.host, p.host.name
	}
	reach := from.refs("network")
	nets := slices.DeleteFunc(t.networks(), func(n *node) bool { return !slices.Contains(reach, n.ref) })
	for i := range o.Machine.NICs {
		if i >= len(o.Placement.Networks) || o.Placement.Networks[i] == "" {
			return target.Permanent(fmt.Sprintf("network adapter %d has no network", i), "choose one of: "+enumerate(nets, false))
		}
		n, err := choose("network", o.Placement.Networks[i], where, nets)
		if err != nil {
			return fmt.Errorf("cannot connect network adapter %d: %w", i, err)
		}
		b, err := c.networkBacking(ctx, n)
		if err != nil {
			return fmt.Errorf("cannot connect network adapter %d to %s: %w", i, n.name, translate(err))
		}
		p.networks, p.wires = append(p.networks, b), append(p.wires, n)
	}
	return nil
}

func (c *conn) networkBacking(ctx context.Context, n *node) (types.BaseVirtualDeviceBackingInfo, error) {
	switch n.ref.Type {
	case "DistributedVirtualPortgroup":
		return object.NewDistributedVirtualPortgroup(c.vim, n.ref).EthernetCardBackingInfo(ctx)
	case "OpaqueNetwork":
		return object.NewOpaqueNetwork(c.vim, n.ref).EthernetCardBackingInfo(ctx)
	}
	ref := n.ref
	return &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: n.name},
		Network:                        &ref,
	}, nil
}
