package plan

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// Mapping says where networks and disks go, for many machines: a file, or a
// named set of the configuration. The first entry that matches counts.
//
//	networks:
//	  - from: "VM Network"          # a name, or a pattern with * and ?
//	    to: subnet-0a1
//	    security_groups: [sg-web]
//	    address: keep               # keep, dhcp, new
//	  - from: nic1                  # the second adapter
//	    to: backup-net
//	storage:
//	  - from: boot                  # boot, data, diskN, or a pattern of the disk's name
//	    to: gp3
//	    iops: 6000
//	    throughput: 500
//	  - from: "*"
//	    to: st1
//	fields:
//	  availability_zone: eu-west-1a
type Mapping struct {
	Networks []NetworkRule     `json:"networks,omitempty" maxItems:"1000"`
	Storage  []StorageRule     `json:"storage,omitempty" maxItems:"1000"`
	Fields   map[string]string `json:"fields,omitempty" doc:"placement fields of the target, as datacenter"`
}

// NetworkRule maps one network of the source.
type NetworkRule struct {
	From           string               `json:"from" minLength:"1" maxLength:"255" doc:"a network of the source, a pattern with * and ?, or nicN"`
	To             string               `json:"to" minLength:"1" maxLength:"255"`
	SecurityGroups []string             `json:"security_groups,omitempty" maxItems:"64"`
	Address        target.AddressPolicy `json:"address,omitempty" enum:",keep,dhcp,new"`
	Addresses      []string             `json:"addresses,omitempty" maxItems:"64"`
}

// StorageRule maps disks.
type StorageRule struct {
	From       string `json:"from" minLength:"1" maxLength:"255" doc:"boot, data, diskN, or a pattern of the disk's name"`
	To         string `json:"to" minLength:"1" maxLength:"255"`
	IOPS       int    `json:"iops,omitempty" minimum:"0"`
	Throughput int    `json:"throughput,omitempty" minimum:"0" doc:"MiB a second"`
}

// ParseMapping reads a mapping. An error names the line.
func ParseMapping(b []byte) (Mapping, error) {
	var m Mapping
	if err := yaml.UnmarshalWithOptions(b, &m, yaml.Strict()); err != nil {
		return m, fmt.Errorf("cannot read mapping: %w", err)
	}
	return m, m.Check()
}

// Check tells what is wrong with a mapping that was not read by ParseMapping.
func (m *Mapping) Check() error {
	for i, n := range m.Networks {
		if _, err := path.Match(n.From, ""); err != nil || n.From == "" || n.To == "" {
			return fmt.Errorf("cannot read mapping: networks[%d] needs from, a name or a pattern, and to", i)
		}
		if !slices.Contains(addressPolicies, n.Address) {
			return fmt.Errorf("cannot read mapping: networks[%d]: address %q is not one of keep, dhcp, new", i, n.Address)
		}
	}
	for i, s := range m.Storage {
		if _, err := path.Match(s.From, ""); err != nil || s.From == "" || s.To == "" || s.IOPS < 0 || s.Throughput < 0 {
			return fmt.Errorf("cannot read mapping: storage[%d] needs from, a name or a pattern, and to", i)
		}
	}
	return nil
}

var addressPolicies = []target.AddressPolicy{"", target.AddressKeep, target.AddressDHCP, target.AddressNew}

// Then is m with the entries of o after its own.
func (m Mapping) Then(o Mapping) Mapping {
	out := Mapping{Networks: slices.Concat(m.Networks, o.Networks), Storage: slices.Concat(m.Storage, o.Storage), Fields: map[string]string{}}
	for k, v := range o.Fields {
		out.Fields[k] = v
	}
	for k, v := range m.Fields {
		out.Fields[k] = v
	}
	return out
}

func match(pattern, name string) bool {
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(name, "/", "\x00"))
	return ok && err == nil
}

func (m Mapping) network(i int, name string) (NetworkRule, bool) {
	for _, r := range m.Networks {
		if r.From == "nic"+strconv.Itoa(i) || match(r.From, name) {
			return r, true
		}
	}
	return NetworkRule{}, false
}

func (m Mapping) storage(d vm.Disk, boot bool) (StorageRule, bool) {
	for _, r := range m.Storage {
		switch {
		case r.From == "disk"+strconv.Itoa(d.Index), r.From == "boot" && boot, r.From == "data" && !boot, match(r.From, d.Name):
			return r, true
		}
	}
	return StorageRule{}, false
}

// Over puts what m says of a machine over a placement; what m does not map stays.
func (m Mapping) Over(machine *vm.Machine, pl *target.Placement) {
	for k, v := range m.Fields {
		setField(pl, k, v)
	}
	grow := func(list []string, n int) []string {
		return append(list, make([]string, max(n-len(list), 0))...)
	}
	for i, n := range machine.NICs {
		rule, ok := m.network(i, n.Network)
		if !ok {
			continue
		}
		pl.Networks = grow(pl.Networks, len(machine.NICs))
		pl.Networks[i] = rule.To
		if rule.Address != "" || len(rule.SecurityGroups) > 0 {
			pl.Adapters = append(pl.Adapters, make([]target.Adapter, max(len(machine.NICs)-len(pl.Adapters), 0))...)
			pl.Adapters[i] = target.Adapter{SecurityGroups: rule.SecurityGroups, Address: rule.Address, Addresses: rule.Addresses}
		}
	}
	boot := machine.BootDisk()
	for i, d := range machine.Disks {
		rule, ok := m.storage(d, i == boot)
		if !ok {
			continue
		}
		pl.Storage = grow(pl.Storage, len(machine.Disks))
		pl.Storage[i] = rule.To
		if rule.IOPS > 0 || rule.Throughput > 0 {
			pl.Volumes = append(pl.Volumes, make([]target.Volume, max(len(machine.Disks)-len(pl.Volumes), 0))...)
			pl.Volumes[i] = target.Volume{IOPS: rule.IOPS, Throughput: rule.Throughput}
		}
	}
}

// place fills in the placement that the user did not state: from the mapping,
// then by equal names, then where there is one choice only.
func (p *Plan) place(r Request) {
	if r.Want != nil {
		p.Placement = ClonePlacement(r.Want.Placement)
		return
	}
	m, pl := p.Source, &p.Placement
	for k, v := range r.Mapping.Fields {
		if pl.Fields[k] == "" {
			setField(pl, k, v)
		}
	}
	p.placeNetworks(r, m, pl)
	p.placeStorage(r, m, pl)
}

func setField(pl *target.Placement, k, v string) {
	if pl.Fields == nil {
		pl.Fields = map[string]string{}
	}
	pl.Fields[k] = v
}

func (p *Plan) placeNetworks(r Request, m *vm.Machine, pl *target.Placement) {
	p.facts.networkWhy = make([]string, len(m.NICs))
	if len(pl.Networks) < len(m.NICs) {
		pl.Networks = append(pl.Networks, make([]string, len(m.NICs)-len(pl.Networks))...)
	}
	adapters := make([]target.Adapter, len(m.NICs))
	copy(adapters, pl.Adapters)
	for i, n := range m.NICs {
		a := &adapters[i]
		if pl.Networks[i] != "" {
			p.facts.networkWhy[i] = "mapped"
		}
		if rule, ok := r.Mapping.network(i, n.Network); ok {
			if pl.Networks[i] == "" {
				pl.Networks[i], p.facts.networkWhy[i] = rule.To, "mapped by the rule for "+strconv.Quote(rule.From)
			}
			if len(a.SecurityGroups) == 0 && r.Caps.Traits.Groups {
				a.SecurityGroups = rule.SecurityGroups
			}
			if a.Address == "" {
				a.Address, a.Addresses = rule.Address, rule.Addresses
			}
		}
		if pl.Networks[i] == "" && r.Caps.NeedsNetwork && n.Network != "" && r.Inventory != nil {
			for _, have := range r.Inventory.Networks {
				if have.Name == n.Network || strings.HasSuffix(have.Name, "/"+n.Network) {
					pl.Networks[i], p.facts.networkWhy[i] = have.Name, "the target has a network of that name"
					break
				}
			}
		}
	}
	if slices.ContainsFunc(adapters, func(a target.Adapter) bool {
		return a.Address != "" || len(a.SecurityGroups) > 0 || len(a.Addresses) > 0
	}) {
		pl.Adapters = adapters
	}
	if len(m.NICs) == 0 || !slices.ContainsFunc(pl.Networks, func(s string) bool { return s != "" }) {
		pl.Networks = nil
	}
}

func (p *Plan) placeStorage(r Request, m *vm.Machine, pl *target.Placement) {
	t := r.Caps.Traits
	if len(m.Disks) == 0 || t.StorageField == "" {
		return
	}
	stores := make([]string, len(m.Disks))
	copy(stores, pl.Storage)
	volumes := make([]target.Volume, len(m.Disks))
	copy(volumes, pl.Volumes)
	field := pl.Fields[t.StorageField]
	var only string
	if r.Inventory != nil {
		if places := r.Inventory.Places[t.StorageField]; len(places) == 1 {
			only = places[0].Name
		}
	}
	boot := m.BootDisk()
	for i, d := range m.Disks {
		if rule, ok := r.Mapping.storage(d, i == boot); ok && stores[i] == "" {
			stores[i], volumes[i] = rule.To, target.Volume{IOPS: rule.IOPS, Throughput: rule.Throughput}
		}
		if stores[i] == "" && len(t.Classes) > 0 {
			if stores[i] = field; field == "" {
				stores[i] = t.Classes[0].Name
			}
		}
	}
	if slices.Contains(stores, "") && field == "" && only != "" {
		setField(pl, t.StorageField, only)
	}
	if slices.ContainsFunc(stores, func(s string) bool { return s != "" }) {
		pl.Storage = stores
	}
	if slices.ContainsFunc(volumes, func(v target.Volume) bool { return v != target.Volume{} }) {
		pl.Volumes = volumes
	}
}

// storageOf is where disk i goes: its own storage, else the machine's; "" is the
// platform's choice.
func (p *Plan) storageOf(i int, t *target.Traits) string {
	if i < len(p.Placement.Storage) && p.Placement.Storage[i] != "" {
		return p.Placement.Storage[i]
	}
	return p.Placement.Fields[t.StorageField]
}

func (p *Plan) volumeOf(i int) target.Volume {
	if i < len(p.Placement.Volumes) {
		return p.Placement.Volumes[i]
	}
	return target.Volume{}
}

func (p *Plan) adapterOf(i int) target.Adapter {
	if i < len(p.Placement.Adapters) {
		return p.Placement.Adapters[i]
	}
	return target.Adapter{}
}

func (p *Plan) networkOf(i int) string {
	if i < len(p.Placement.Networks) {
		return p.Placement.Networks[i]
	}
	return ""
}

// Need is the space that the disks take at one place of the target.
type Need struct {
	Place string `json:"place"`
	Bytes int64  `json:"bytes"`
	Free  int64  `json:"free,omitempty"` // 0: not known
}

// Needs is the space that the disks take, by the places they go to, in the order
// of the disks. Data counts, or the whole disk where its space is taken at once.
func (p *Plan) Needs(t *target.Traits, inv *target.Inventory) []Need {
	field := t.StorageField
	if field == "" {
		field = "dir"
	}
	places := inv.Places[field]
	var out []Need
	for i, d := range p.Disks {
		s := p.storageOf(i, t)
		if s == "" && len(places) == 1 {
			s = places[0].Name
		}
		bytes := max(d.Source.Allocated, 0)
		if p.Options["disk"] == "thick" || !d.Delivery.Clean && d.Delivery.Format.Name == "raw" {
			bytes = d.Virtual
		}
		k := slices.IndexFunc(out, func(n Need) bool { return n.Place == s })
		if k < 0 {
			out = append(out, Need{Place: s})
			k = len(out) - 1
		}
		out[k].Bytes += bytes
	}
	for k := range out {
		n := &out[k]
		for _, pl := range places {
			if pl.Free > 0 && (pl.Name == n.Place || strings.HasSuffix(pl.Name, "/"+n.Place) && n.Place != "") && (n.Free == 0 || pl.Free < n.Free) {
				n.Free = pl.Free
			}
		}
	}
	return out
}
