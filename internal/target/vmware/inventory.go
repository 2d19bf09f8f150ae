package vmware

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// node is one object of the server's inventory.
type node struct {
	ref    types.ManagedObjectReference
	raw    string // the name as the API writes it, escaped
	name   string // the name as people see it
	path   string // inventory path, of raw names
	parent *types.ManagedObjectReference
	props  map[string]types.AnyType
}

func (n *node) refs(prop string) []types.ManagedObjectReference {
	switch v := n.props[prop].(type) {
	case types.ArrayOfManagedObjectReference:
		return v.ManagedObjectReference
	case types.ManagedObjectReference:
		return []types.ManagedObjectReference{v}
	}
	return nil
}

// one is a property that holds a single reference; the zero one when missing.
func (n *node) one(prop string) types.ManagedObjectReference {
	if r := n.refs(prop); len(r) == 1 {
		return r[0]
	}
	return types.ManagedObjectReference{}
}

func (n *node) summary() (types.DatastoreSummary, bool) {
	s, ok := n.props["summary"].(types.DatastoreSummary)
	return s, ok
}

// uplink tells a distributed switch's uplink port group, to which no machine
// can be connected: it bears a system tag (DistributedVirtualPortgroup.tag).
func (n *node) uplink() bool {
	tags, _ := n.props["tag"].(types.ArrayOfTag)
	return slices.ContainsFunc(tags.Tag, func(t types.Tag) bool { return t.Key == "SYSTEM/DVS.UPLINKPG" })
}

// tree is the server's inventory at one moment.
type tree struct {
	nodes map[types.ManagedObjectReference]*node
	list  []*node // by path
}

// Kinds of objects by what they are used for.
var (
	kindsDatacenter = []string{"Datacenter"}
	kindsCompute    = []string{"ComputeResource", "ClusterComputeResource"}
	kindsHost       = []string{"HostSystem"}
	kindsPool       = []string{"ResourcePool", "VirtualApp"}
	kindsFolder     = []string{"Folder"}
	kindsDatastore  = []string{"Datastore"}
	kindsNetwork    = []string{"Network", "DistributedVirtualPortgroup", "OpaqueNetwork"}
	kindsVM         = []string{"VirtualMachine"}
)

// treeProps are the properties retrieved of each kind besides name and parent.
var treeProps = map[string][]string{
	"Datacenter":                  {"vmFolder", "hostFolder", "datastoreFolder", "networkFolder"},
	"Folder":                      nil,
	"StoragePod":                  nil,
	"ComputeResource":             {"resourcePool", "datastore", "network", "environmentBrowser", "host"},
	"ClusterComputeResource":      {"resourcePool", "datastore", "network", "environmentBrowser", "host"},
	"HostSystem":                  {"runtime.connectionState", "runtime.inMaintenanceMode", "datastore", "network"},
	"ResourcePool":                {"owner"},
	"VirtualApp":                  {"owner"},
	"Datastore":                   {"summary"},
	"Network":                     nil,
	"DistributedVirtualPortgroup": {"tag"},
	"OpaqueNetwork":               nil,
}

// readTree retrieves the inventory in one query, with the machines' names when
// asked: on a large vCenter these are most of it.
func (c *conn) readTree(ctx context.Context, machines bool) (*tree, error) {
	t := &tree{nodes: map[types.ManagedObjectReference]*node{}}
	var kinds []string
	var props []types.PropertySpec
	for kind, more := range treeProps {
		if kind == "StoragePod" && !c.vim.IsVC() {
			continue
		}
		kinds = append(kinds, kind)
		props = append(props, types.PropertySpec{Type: kind, PathSet: append([]string{"name", "parent"}, more...)})
	}
	if machines {
		kinds = append(kinds, kindsVM...)
		props = append(props, types.PropertySpec{Type: kindsVM[0], PathSet: []string{"name", "parent"}})
	}
	slices.Sort(kinds)
	v, err := view.NewManager(c.vim).CreateContainerView(ctx, c.vim.ServiceContent.RootFolder, kinds, true)
	if err != nil {
		return nil, fmt.Errorf("cannot read the inventory: %w", translate(err))
	}
	defer func() { _ = v.Destroy(context.WithoutCancel(ctx)) }()
	res, err := property.DefaultCollector(c.vim).RetrieveProperties(ctx, types.RetrieveProperties{
		SpecSet: []types.PropertyFilterSpec{{
			PropSet: props,
			ObjectSet: []types.ObjectSpec{{
				Obj:       v.Reference(),
				Skip:      types.NewBool(true),
				SelectSet: []types.BaseSelectionSpec{v.TraversalSpec()},
			}},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot read the inventory: %w", translate(err))
	}
	for _, o := range res.Returnval {
		n := &node{ref: o.Obj, props: map[string]types.AnyType{}}
		for _, p := range o.PropSet {
			switch val := p.Val.(type) {
			case string:
				if p.Name == "name" {
					n.raw, n.name = val, unescapeName(val)
					continue
				}
			case types.ManagedObjectReference:
				if p.Name == "parent" {
					n.parent = &val
					continue
				}
			}
			n.props[p.Name] = p.Val
		}
		t.nodes[o.Obj] = n
	}
	for _, n := range t.nodes {
		n.path = t.pathOf(n)
		t.list = append(t.list, n)
	}
	slices.SortFunc(t.list, func(a, b *node) int { return strings.Compare(a.path, b.path) })
	return t, nil
}

func (t *tree) pathOf(n *node) string {
	path := ""
	// Bounded, should a server's answer hold a loop.
	for depth := 0; n != nil && depth < 64; depth++ {
		path = "/" + n.raw + path
		if n.parent == nil {
			break
		}
		n = t.nodes[*n.parent]
	}
	return path
}

// kind lists the objects of the given kinds by path.
func (t *tree) kind(kinds []string) []*node {
	var out []*node
	for _, n := range t.list {
		if slices.Contains(kinds, n.ref.Type) {
			out = append(out, n)
		}
	}
	return out
}

// under lists those of nodes that lie below ancestor.
func (t *tree) under(nodes []*node, ancestor types.ManagedObjectReference) []*node {
	var out []*node
	for _, n := range nodes {
		p := n.parent
		for depth := 0; p != nil && depth < 64; depth++ {
			if *p == ancestor {
				out = append(out, n)
				break
			}
			if up := t.nodes[*p]; up != nil {
				p = up.parent
			} else {
				p = nil
			}
		}
	}
	return out
}

// vmFolders lists the folders that machines can be in: each datacenter's root
// and the folders below it.
func (t *tree) vmFolders(dcs []*node) []*node {
	var out []*node
	for _, dc := range dcs {
		root := dc.one("vmFolder")
		if n := t.nodes[root]; n != nil {
			out = append(out, n)
		}
		out = append(out, t.under(t.kind(kindsFolder), root)...)
	}
	return out
}

// label is what Placement takes for n among nodes: its name when that says
// which, else its path.
func label(n *node, nodes []*node) string {
	for _, o := range nodes {
		if o != n && o.name == n.name {
			return n.path
		}
	}
	return n.name
}

// Placement fields.
const (
	fieldDatacenter = "datacenter"
	fieldCluster    = "cluster"
	fieldHost       = "host"
	fieldPool       = "resource_pool"
	fieldFolder     = "folder"
	fieldDatastore  = "datastore"
)

// inventory lists what a restore can be placed on.
func (t *tree) inventory() *target.Inventory {
	inv := &target.Inventory{Places: map[string][]target.Place{}, Asked: time.Now().UTC()}
	dcs := t.kind(kindsDatacenter)
	add := func(field string, nodes []*node, describe func(n *node, p *target.Place) bool) {
		for _, n := range nodes {
			p := target.Place{Name: label(n, nodes), Note: "in " + parentPath(n.path)}
			if describe == nil || describe(n, &p) {
				inv.Places[field] = append(inv.Places[field], p)
			}
		}
	}
	add(fieldDatacenter, dcs, func(_ *node, p *target.Place) bool { p.Note = ""; return true })
	add(fieldCluster, t.kind(kindsCompute), nil)
	add(fieldHost, t.kind(kindsHost), func(n *node, p *target.Place) bool {
		if n.props["runtime.inMaintenanceMode"] == true {
			p.Note += ", in maintenance mode"
		}
		return true
	})
	add(fieldPool, t.pools(), nil)
	add(fieldFolder, t.vmFolders(dcs), func(n *node, p *target.Place) bool {
		p.Name = n.path // folders of one name are common
		return true
	})
	add(fieldDatastore, t.kind(kindsDatastore), func(n *node, p *target.Place) bool {
		s, ok := n.summary()
		if !ok {
			return false
		}
		p.Free = s.FreeSpace
		p.Note = fmt.Sprintf("%s, %s free of %s", s.Type, vm.FormatSize(s.FreeSpace), vm.FormatSize(s.Capacity))
		if why := unusable(s); why != "" {
			p.Note += ", " + why
		}
		return true
	})
	networks := t.networks()
	for _, n := range networks {
		inv.Networks = append(inv.Networks, target.Place{Name: label(n, networks), Note: networkNote(n)})
	}
	for _, n := range t.kind(kindsVM) {
		inv.Taken = append(inv.Taken, n.name)
	}
	slices.Sort(inv.Taken)
	return inv
}

func (t *tree) networks() []*node {
	return slices.DeleteFunc(t.kind(kindsNetwork), (*node).uplink)
}

// pools lists the resource pools that have a name of their own: the root pool
// of a cluster or host is meant by naming the cluster or host.
func (t *tree) pools() []*node {
	return slices.DeleteFunc(t.kind(kindsPool), func(n *node) bool {
		return n.parent != nil && slices.Contains(kindsCompute, n.parent.Type)
	})
}

func networkNote(n *node) string {
	switch n.ref.Type {
	case "DistributedVirtualPortgroup":
		return "distributed port group"
	case "OpaqueNetwork":
		return "NSX segment"
	}
	return "standard port group"
}

// unusable says why a datastore cannot take a machine; empty when it can.
func unusable(s types.DatastoreSummary) string {
	switch {
	case !s.Accessible:
		return "not accessible"
	case s.MaintenanceMode != "" && s.MaintenanceMode != string(types.DatastoreSummaryMaintenanceModeStateNormal):
		return "in maintenance mode"
	}
	return ""
}

func parentPath(path string) string {
	if i := strings.LastIndexByte(path, '/'); i > 0 {
		return path[:i]
	}
	return "/"
}
