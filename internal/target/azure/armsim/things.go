package armsim

import (
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
)

// Kinds of resources, lower-case.
const (
	kindDisk    = "microsoft.compute/disks"
	kindVM      = "microsoft.compute/virtualmachines"
	kindAvail   = "microsoft.compute/availabilitysets"
	kindDES     = "microsoft.compute/diskencryptionsets"
	kindNIC     = "microsoft.network/networkinterfaces"
	kindIP      = "microsoft.network/publicipaddresses"
	kindNetwork = "microsoft.network/virtualnetworks"
	kindNSG     = "microsoft.network/networksecuritygroups"
)

var (
	kinds    = []string{kindDisk, kindVM, kindAvail, kindDES, kindNIC, kindIP, kindNetwork, kindNSG}
	spelling = map[string]string{
		kindDisk: "Microsoft.Compute/disks", kindVM: "Microsoft.Compute/virtualMachines", kindAvail: "Microsoft.Compute/availabilitySets",
		kindDES: "Microsoft.Compute/diskEncryptionSets", kindNIC: "Microsoft.Network/networkInterfaces", kindIP: "Microsoft.Network/publicIPAddresses",
		kindNetwork: "Microsoft.Network/virtualNetworks", kindNSG: "Microsoft.Network/networkSecurityGroups",
	}
)

// thing is one resource. Which of the fields count depends on its kind.
type thing struct {
	kind, id, name, group, location string
	tags                            map[string]string
	zones                           []string
	state                           string // of provisioning: Creating, Updating, Deleting, Succeeded, Failed
	user                            *thing // the machine or adapter that has it

	disk      diskBody
	sku       string
	file      int64 // bytes, footer included
	container string
	made      bool // the container is there
	policies  []policy
	diskState string

	nic     nicBody
	ip      ipBody
	subnets []string
	taken   map[string]bool // addresses of a network
	aligned bool            // an availability set for managed disks

	vm    vmBody
	power string // running, stopped, deallocated
}

// envelope is what every resource's body has.
type envelope struct {
	ID       string            `json:"id,omitempty"`
	Name     string            `json:"name,omitempty"`
	Type     string            `json:"type,omitempty"`
	Location string            `json:"location"`
	Tags     map[string]string `json:"tags,omitempty"`
	Zones    []string          `json:"zones,omitempty"`
}

type ref struct {
	ID string `json:"id,omitempty"`
}

// check is what every PUT must obey.
func (e *envelope) check(c *call, s *Sim) *apiError {
	if e.Location == "" {
		return bad("LocationRequired", "The location property is required for this definition.")
	}
	if e.Location != Region && e.Location != "northeurope" {
		return bad("LocationNotAvailableForResourceType", "The provided location '%s' is not available for resource type '%s'.", e.Location, spelling[c.kind])
	}
	if len(e.Tags) > 50 {
		return bad("InvalidTags", "Too many tags: at most 50 are allowed.")
	}
	for k, v := range e.Tags {
		if len(k) == 0 || len(k) > 512 || strings.ContainsAny(k, `<>%&\?/`) || len([]rune(v)) > 256 {
			return bad("InvalidTagNameCharacters", "The tag '%s' is invalid.", k)
		}
	}
	for _, z := range e.Zones {
		if !slices.Contains([]string{"1", "2", "3"}, z) || e.Location != Region {
			return bad("AvailabilityZoneNotSupported", "The zone(s) '%s' for resource '%s' is not supported.", z, c.name)
		}
	}
	return nil
}

func (c *call) thing(e envelope) *thing {
	return &thing{kind: c.kind, id: c.id(), name: c.name, group: c.group, location: e.Location, tags: e.Tags, zones: e.Zones, state: "Creating"}
}

// find is a resource by an identifier in a body.
func (s *Sim) find(kind, id, what string) (*thing, *apiError) {
	t := s.things[strings.ToLower(id)]
	if t == nil || t.kind != kind {
		return nil, bad("InvalidResourceReference", "Resource %s referenced by %s was not found. Please make sure that the referenced resource exists.", id, what)
	}
	return t, nil
}

// furnish puts in what is there from the beginning.
func (s *Sim) furnish() {
	s.faults.sim = s
	add := func(kind, group, name string, more func(*thing)) {
		c := &call{kind: kind, group: group, name: name}
		t := c.thing(envelope{Location: Region})
		t.state = "Succeeded"
		if more != nil {
			more(t)
		}
		s.things[strings.ToLower(t.id)] = t
	}
	add(kindNetwork, OtherGroup, Network, func(t *thing) { t.subnets, t.taken = []string{Subnet, "desktops"}, map[string]bool{} })
	add(kindNSG, OtherGroup, SecurityGroup, nil)
	add(kindAvail, Group, AvailSet, func(t *thing) { t.aligned = true })
	add(kindDES, Group, EncryptionSet, nil)
}

// put creates or changes a resource.
func (s *Sim) put(c *call, old *thing) *apiError {
	var (
		t   *thing
		e   *apiError
		do  func() *apiError
		how = "put"
	)
	switch c.kind {
	case kindDisk:
		t, do, e = s.makeDisk(c, old)
	case kindNIC:
		t, do, e = s.makeNIC(c, old)
	case kindIP:
		t, do, e = s.makeIP(c, old)
	case kindVM:
		t, do, e = s.makeVM(c, old)
	default:
		return refuse(http.StatusMethodNotAllowed, "MethodNotAllowed", "the simulator makes no %s", c.kind)
	}
	if e != nil {
		return e
	}
	if old != nil && old.state == "Deleting" {
		return refuse(http.StatusConflict, "OperationNotAllowed", "The resource '%s' is being deleted.", c.name)
	}
	status := http.StatusCreated
	if old != nil && c.r.Header.Get("If-None-Match") == "*" {
		return refuse(http.StatusPreconditionFailed, "PreconditionFailed", "The resource '%s' exists already.", c.name)
	}
	if old != nil {
		if same(old, t) {
			c.json(http.StatusOK, s.view(old, false)) // a repeated request changes nothing
			return nil
		}
		return refuse(http.StatusConflict, "PropertyChangeNotAllowed", "Changing the properties of '%s' is not allowed.", c.name)
	}
	if c.kind == kindDisk {
		status, t.state = http.StatusAccepted, "Updating"
	}
	s.things[strings.ToLower(t.id)] = t
	short := map[string]string{kindDisk: "disk", kindNIC: "nic", kindIP: "ip", kindVM: "vm"}[c.kind]
	s.begin(c, status, s.view(t, false), short+" "+how, &operation{
		apply: func() *apiError {
			if do != nil {
				if e := do(); e != nil {
					t.state = "Failed"
					return e
				}
			}
			t.state = "Succeeded"
			return nil
		},
		failure: func() { t.state = "Failed" },
	})
	return nil
}

// same tells whether a PUT asks for what is there already.
func same(a, b *thing) bool {
	return a.location == b.location && maps.Equal(a.tags, b.tags) && slices.Equal(a.zones, b.zones) && a.sku == b.sku &&
		reflect.DeepEqual(a.disk, b.disk) && reflect.DeepEqual(a.nic, b.nic) && reflect.DeepEqual(a.ip, b.ip) && reflect.DeepEqual(a.vm, b.vm)
}

// remove deletes a resource that nothing uses.
func (s *Sim) remove(c *call, t *thing) *apiError {
	var do func() *apiError
	short := ""
	switch t.kind {
	case kindDisk:
		short = "disk"
		if t.user != nil {
			return refuse(http.StatusConflict, "OperationNotAllowed", "Disk %s is attached to VM %s.", t.name, t.user.id)
		}
		if len(t.policies) > 0 || t.diskState == stateUploading {
			return refuse(http.StatusConflict, "OperationNotAllowed", "Disk %s cannot be deleted: there is an active shared access signature outstanding. Call EndGetAccess to revoke it.", t.name)
		}
		do = func() *apiError {
			if !t.made {
				return nil
			}
			if err := s.azurite.remove(t.container); err != nil {
				return refuse(http.StatusInternalServerError, "InternalServerError", "%v", err)
			}
			return nil
		}
	case kindNIC:
		short = "nic"
		if t.user != nil {
			return bad("NicInUse", "Network Interface %s is used by existing resource %s. In order to delete the network interface, it must be dissociated from the resource.", t.id, t.user.id)
		}
		do = func() *apiError { s.freeNIC(t); return nil }
	case kindIP:
		short = "ip"
		if t.user != nil {
			return bad("PublicIPAddressCannotBeDeleted", "Public IP address %s can not be deleted since it is still allocated to resource %s.", t.id, t.user.id)
		}
	case kindVM:
		short = "vm"
		do = func() *apiError { s.freeVM(t); return nil }
	default:
		return refuse(http.StatusMethodNotAllowed, "MethodNotAllowed", "the simulator deletes no %s", t.kind)
	}
	before := t.state
	t.state = "Deleting"
	s.begin(c, http.StatusAccepted, nil, short+" delete", &operation{
		apply: func() *apiError {
			if do != nil {
				if e := do(); e != nil {
					return e
				}
			}
			delete(s.things, strings.ToLower(t.id))
			return nil
		},
		failure: func() { t.state = before },
	})
	return nil
}

// act is a POST.
func (s *Sim) act(c *call, t *thing, what string) *apiError {
	switch {
	case t.kind == kindDisk && strings.EqualFold(what, "beginGetAccess"):
		return s.beginAccess(c, t)
	case t.kind == kindDisk && strings.EqualFold(what, "endGetAccess"):
		return s.endAccess(c, t)
	case t.kind == kindVM:
		return s.powerVM(c, t, strings.ToLower(what))
	}
	return refuse(http.StatusNotFound, "InvalidResourceType", "there is no %s of %s", what, t.kind)
}

// view is a resource as it is answered.
func (s *Sim) view(t *thing, instance bool) map[string]any {
	out := map[string]any{"id": t.id, "name": t.name, "type": spelling[t.kind], "location": t.location}
	if t.tags != nil {
		out["tags"] = t.tags
	}
	if t.zones != nil {
		out["zones"] = t.zones
	}
	p := map[string]any{}
	switch t.kind {
	case kindDisk:
		p = s.diskView(t, out)
	case kindNIC:
		p = nicView(t)
	case kindIP:
		out["sku"] = map[string]any{"name": t.sku, "tier": "Regional"}
		p["publicIPAllocationMethod"], p["ipAddress"] = "Static", "203.0.113.7"
	case kindNetwork:
		subs := []any{}
		for _, sub := range t.subnets {
			subs = append(subs, subnetView(t, sub))
		}
		p["subnets"], p["addressSpace"] = subs, map[string]any{"addressPrefixes": []string{"10.20.0.0/16"}}
	case kindVM:
		p = vmView(t)
		if instance {
			p["instanceView"] = instanceView(t)
		}
	case kindAvail:
		out["sku"] = map[string]any{"name": map[bool]string{true: "Aligned", false: "Classic"}[t.aligned]}
	}
	if t.kind != kindAvail {
		p["provisioningState"] = t.state
	}
	out["properties"] = p
	return out
}

func subnetView(t *thing, name string) map[string]any {
	prefix := map[string]string{Subnet: "10.20.1.0/24"}[name]
	if prefix == "" {
		prefix = "10.20.2.0/24"
	}
	return map[string]any{"id": t.id + "/subnets/" + name, "name": name,
		"properties": map[string]any{"addressPrefix": prefix, "provisioningState": "Succeeded"}}
}
