package nutanix

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"strings"

	"ascend/internal/target"
)

// named is something that is chosen by name.
type named struct {
	ID   string
	Name string
	note string
}

type clusterRow struct {
	ID     string `json:"extId"`
	Name   string `json:"name"`
	Config struct {
		Functions []string `json:"clusterFunction"`
		Build     struct {
			Version string `json:"version"`
		} `json:"buildInfo"`
	} `json:"config"`
}

type containerRow struct {
	ID       string `json:"containerExtId"`
	OldID    string `json:"extId"`
	Name     string `json:"name"`
	Cluster  string `json:"clusterExtId"`
	Capacity int64  `json:"maxCapacityBytes"`
}

type subnetRow struct {
	ID      string    `json:"extId"`
	Name    string    `json:"name"`
	Kind    string    `json:"subnetType"`
	VLAN    int       `json:"networkId"`
	Cluster string    `json:"clusterReference"`
	IP      []ipRange `json:"ipConfig"`
}

type ipRange struct {
	V4 *ipv4Range `json:"ipv4"`
}

type ipv4Range struct {
	Subnet struct {
		IP struct {
			Value string `json:"value"`
		} `json:"ip"`
		Length int `json:"prefixLength"`
	} `json:"ipSubnet"`
}

// managed is the range of the subnet's own address management; zero without.
func (n subnetRow) managed() netip.Prefix {
	for _, c := range n.IP {
		if c.V4 == nil {
			continue
		}
		if a, err := netip.ParseAddr(c.V4.Subnet.IP.Value); err == nil {
			if p, err := a.Prefix(c.V4.Subnet.Length); err == nil {
				return p
			}
		}
	}
	return netip.Prefix{}
}

type categoryRow struct {
	ID    string `json:"extId"`
	Key   string `json:"key"`
	Value string `json:"value"`
}

// place is where the parts of an order go.
type place struct {
	cluster    named
	containers []string // by disk; "" is the cluster's choice
	nics       []nicPlace
	categories []string
	project    string
}

type nicPlace struct {
	subnet, mac, ip string
}

// pick finds one by name or identifier. Without one wanted, the only one there is.
func pick(what, want, setting string, all []named) (named, error) {
	var found, names []named
	for _, n := range all {
		if n.ID == want && isID(want) {
			return n, nil
		}
		if want == "" || n.Name == want {
			found = append(found, n)
		}
		names = append(names, n)
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case want == "":
		return named{}, target.Permanent(fmt.Sprintf("no %s is named and there are %d", what, len(all)), "set "+setting+": "+listed(names))
	case len(found) > 1:
		return named{}, target.Permanent(fmt.Sprintf("there are %d of the name %q: which %s is meant?", len(found), want, what), "set "+setting+" to its identifier")
	}
	return named{}, target.Permanent(fmt.Sprintf("there is no %s %q", what, want), "there are: "+listed(names))
}

// listed are some names, for a hint.
func listed(all []named) string {
	var s []string
	for i, n := range all {
		if i == 20 {
			s = append(s, "…")
			break
		}
		s = append(s, n.Name)
	}
	if len(s) == 0 {
		return "none that this user sees"
	}
	return strings.Join(s, ", ")
}

// locate finds where the parts of an order go.
func (t *prism) locate(ctx context.Context, a api, o *target.Order) (*place, error) {
	f := o.Placement.Fields
	clusters, err := a.clusters(ctx)
	if err != nil {
		return nil, err
	}
	p := &place{}
	if p.cluster, err = pick("cluster", cmp.Or(f[fieldCluster], t.cfg.cluster), fieldCluster, clusters); err != nil {
		return nil, err
	}
	if err := t.locateStorage(ctx, a, o, p); err != nil {
		return nil, err
	}
	if err := locateNICs(ctx, a, o, p); err != nil {
		return nil, err
	}
	if p.categories, err = locateCategories(ctx, a, f[fieldCategory]); err != nil {
		return nil, err
	}
	if want := cmp.Or(f[fieldProject], t.cfg.project); want != "" {
		if !a.givesProject() {
			return nil, target.Permanent("this Prism Central gives a machine a project only after it is made", "leave project out, or upgrade to pc.7.3 or later")
		}
		all, err := t.c.projects(ctx)
		if err != nil {
			return nil, err
		}
		n, err := pick("project", want, fieldProject, all)
		if err != nil {
			return nil, err
		}
		p.project = n.ID
	}
	return p, nil
}

func (t *prism) locateStorage(ctx context.Context, a api, o *target.Order, p *place) error {
	var all []named
	for i := range o.Disks {
		want := cmp.Or(o.Placement.Fields[fieldContainer], t.cfg.container)
		if i < len(o.Placement.Storage) && o.Placement.Storage[i] != "" {
			want = o.Placement.Storage[i]
		}
		if want == "" {
			p.containers = append(p.containers, "")
			continue
		}
		if t.old {
			p.containers = append(p.containers, want)
			continue
		}
		if all == nil {
			rows, err := a.containers(ctx)
			if err != nil {
				return err
			}
			for _, r := range rows {
				if r.Cluster == p.cluster.ID {
					all = append(all, named{ID: r.ID, Name: r.Name})
				}
			}
		}
		n, err := pick("storage container", want, fieldContainer, all)
		if err != nil {
			return fmt.Errorf("disk %d: %w", i, err)
		}
		p.containers = append(p.containers, n.ID)
	}
	return nil
}

func locateNICs(ctx context.Context, a api, o *target.Order, p *place) error {
	if len(o.Machine.NICs) == 0 {
		return nil
	}
	rows, err := a.subnets(ctx)
	if err != nil {
		return err
	}
	var all []named
	byID := map[string]subnetRow{}
	for _, r := range rows {
		if r.Cluster == "" || r.Cluster == p.cluster.ID { // overlay subnets belong to no cluster
			all = append(all, named{ID: r.ID, Name: r.Name})
			byID[r.ID] = r
		}
	}
	for i, nic := range o.Machine.NICs {
		want := ""
		if i < len(o.Placement.Networks) {
			want = o.Placement.Networks[i]
		}
		n, err := pick("subnet", want, "the network of adapter "+fmt.Sprint(i), all)
		if err != nil {
			return fmt.Errorf("network adapter %d: %w", i, err)
		}
		np := nicPlace{subnet: n.ID}
		if o.Options[optMAC] != "new" {
			np.mac = nic.MAC
		}
		var ad target.Adapter
		if i < len(o.Placement.Adapters) {
			ad = o.Placement.Adapters[i]
		}
		if np.ip, err = address(ad, nic.Addresses, byID[n.ID]); err != nil {
			return fmt.Errorf("network adapter %d: %w", i, err)
		}
		p.nics = append(p.nics, np)
	}
	return nil
}

// address is the IPv4 address that the subnet's management is to give an adapter;
// "" where there is none: then the guest's own settings count.
func address(a target.Adapter, had []string, n subnetRow) (string, error) {
	from := a.Addresses
	switch a.Address {
	case target.AddressNew:
	case target.AddressKeep:
		from = had
	default:
		return "", nil
	}
	managed := n.managed()
	if !managed.IsValid() {
		return "", nil
	}
	for _, s := range from {
		s, _, _ = strings.Cut(s, "/")
		ip, err := netip.ParseAddr(s)
		if err != nil || !ip.Is4() {
			continue
		}
		if !managed.Contains(ip) {
			return "", target.Permanent(fmt.Sprintf("the address %s is not in subnet %s (%s)", ip, n.Name, managed.Masked()), "choose another subnet or address")
		}
		return ip.String(), nil
	}
	return "", nil
}

func locateCategories(ctx context.Context, a api, want string) ([]string, error) {
	var out []string
	for part := range strings.SplitSeq(want, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		key, value, ok := strings.Cut(part, ":")
		if !ok {
			return nil, target.Permanent(fmt.Sprintf("the category %q is not KEY:VALUE", part), "")
		}
		id, err := a.category(ctx, key, value)
		if err != nil {
			return nil, err
		}
		if id == "" {
			return nil, target.Permanent(fmt.Sprintf("there is no category %s:%s", key, value), "create it in Prism Central, or leave it out")
		}
		out = append(out, id)
	}
	return out, nil
}
