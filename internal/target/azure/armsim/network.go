package armsim

import (
	"net/netip"
	"strings"
)

// nicBody is the properties of a network interface that a PUT may have.
type nicBody struct {
	Accelerated    bool        `json:"enableAcceleratedNetworking,omitempty"`
	Forwarding     bool        `json:"enableIPForwarding,omitempty"`
	Group          *ref        `json:"networkSecurityGroup,omitempty"`
	Configurations []nicConfig `json:"ipConfigurations"`
}

type nicConfig struct {
	Name       string `json:"name"`
	Properties struct {
		Primary *bool  `json:"primary,omitempty"`
		Method  string `json:"privateIPAllocationMethod,omitempty"`
		Address string `json:"privateIPAddress,omitempty"`
		Version string `json:"privateIPAddressVersion,omitempty"`
		Subnet  *ref   `json:"subnet,omitempty"`
		Public  *ref   `json:"publicIPAddress,omitempty"`
	} `json:"properties"`
}

type ipBody struct {
	Method  string `json:"publicIPAllocationMethod,omitempty"`
	Version string `json:"publicIPAddressVersion,omitempty"`
}

func (s *Sim) makeNIC(c *call, old *thing) (*thing, func() *apiError, *apiError) {
	var b struct {
		envelope
		Properties nicBody `json:"properties"`
	}
	if e := c.decode(&b); e != nil {
		return nil, nil, e
	}
	if e := b.check(c, s); e != nil {
		return nil, nil, e
	}
	t := c.thing(b.envelope)
	t.nic = b.Properties
	if len(t.nic.Configurations) == 0 {
		return nil, nil, bad("InvalidRequestFormat", "A network interface must have at least one ip configuration.")
	}
	if g := t.nic.Group; g != nil {
		if _, e := s.find(kindNSG, g.ID, t.id); e != nil {
			return nil, nil, e
		}
	}
	for i, cfg := range t.nic.Configurations {
		p := cfg.Properties
		if cfg.Name == "" || p.Subnet == nil {
			return nil, nil, bad("SubnetIsNull", "Subnet is required for ip configuration %s of network interface %s.", cfg.Name, t.id)
		}
		network, sub, e := s.subnet(p.Subnet.ID, t.id)
		if e != nil {
			return nil, nil, e
		}
		if network.location != t.location {
			return nil, nil, bad("InvalidResourceReference", "The virtual network %s is in another location.", network.name)
		}
		switch p.Method {
		case "Static":
			a, err := netip.ParseAddr(p.Address)
			prefix := netip.MustParsePrefix(subnetView(network, sub)["properties"].(map[string]any)["addressPrefix"].(string))
			if err != nil || !prefix.Contains(a) {
				return nil, nil, bad("PrivateIPAddressNotInSubnet", "Private static IP address %s does not belong to the range of subnet prefix %s.", p.Address, prefix)
			}
			if network.taken[a.String()] && (old == nil || old.nic.Configurations[i].Properties.Address != p.Address) {
				return nil, nil, bad("PrivateIPAddressInUse", "IP configuration is using the private IP address %s which is already allocated to another resource.", p.Address)
			}
		case "Dynamic", "":
			if p.Address != "" {
				return nil, nil, bad("InvalidRequestFormat", "privateIPAddress is for the method Static.")
			}
		default:
			return nil, nil, bad("InvalidRequestFormat", "privateIPAllocationMethod '%s'", p.Method)
		}
		if p.Public != nil {
			ip, e := s.find(kindIP, p.Public.ID, t.id)
			if e != nil {
				return nil, nil, e
			}
			if ip.user != nil && (old == nil || ip.user != old) {
				return nil, nil, bad("PublicIPAddressInUse", "Public IP address %s is in use by %s.", ip.id, ip.user.id)
			}
		}
	}
	if old == nil {
		for _, cfg := range t.nic.Configurations {
			if a := cfg.Properties.Address; a != "" {
				n, _, _ := s.subnet(cfg.Properties.Subnet.ID, "")
				n.taken[a] = true
			}
			if p := cfg.Properties.Public; p != nil {
				s.things[strings.ToLower(p.ID)].user = t
			}
		}
	}
	return t, nil, nil
}

func (s *Sim) subnet(id, by string) (*thing, string, *apiError) {
	net, name, _ := strings.Cut(id, "/subnets/")
	t, e := s.find(kindNetwork, net, by)
	if e != nil {
		return nil, "", e
	}
	for _, sub := range t.subnets {
		if strings.EqualFold(sub, name) {
			return t, sub, nil
		}
	}
	return nil, "", bad("InvalidResourceReference", "Resource %s referenced by %s was not found.", id, by)
}

func (s *Sim) freeNIC(t *thing) {
	for _, cfg := range t.nic.Configurations {
		if n, _, e := s.subnet(cfg.Properties.Subnet.ID, ""); e == nil {
			delete(n.taken, cfg.Properties.Address)
		}
		if p := cfg.Properties.Public; p != nil {
			if ip := s.things[strings.ToLower(p.ID)]; ip != nil {
				ip.user = nil
			}
		}
	}
}

func nicView(t *thing) map[string]any {
	p := map[string]any{"ipConfigurations": t.nic.Configurations, "enableAcceleratedNetworking": t.nic.Accelerated, "macAddress": "00-0D-3A-01-02-03"}
	if t.nic.Group != nil {
		p["networkSecurityGroup"] = t.nic.Group
	}
	if t.user != nil {
		p["virtualMachine"] = ref{t.user.id}
	}
	return p
}

func (s *Sim) makeIP(c *call, _ *thing) (*thing, func() *apiError, *apiError) {
	var b struct {
		envelope
		SKU        *skuBody `json:"sku,omitempty"`
		Properties ipBody   `json:"properties"`
	}
	if e := c.decode(&b); e != nil {
		return nil, nil, e
	}
	if e := b.check(c, s); e != nil {
		return nil, nil, e
	}
	t := c.thing(b.envelope)
	t.ip, t.sku = b.Properties, "Basic"
	if b.SKU != nil {
		t.sku = b.SKU.Name
	}
	if t.sku != "Standard" {
		return nil, nil, bad("IPv4BasicSkuPublicIpCountLimitReached", "Cannot create more than 0 IPv4 Basic SKU public IP addresses for this subscription in this region.")
	}
	if t.ip.Method != "Static" {
		return nil, nil, bad("StandardSkuPublicIPAddressesMustBeStatic", "Standard sku publicIp %s must have AllocationMethod set to Static.", t.id)
	}
	return t, nil, nil
}
