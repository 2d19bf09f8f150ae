package armsim

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// vmBody is the properties of a machine that a PUT may have.
type vmBody struct {
	Hardware struct {
		Size string `json:"vmSize"`
	} `json:"hardwareProfile"`
	Storage struct {
		Controller string     `json:"diskControllerType,omitempty"`
		OS         *attached  `json:"osDisk"`
		Data       []attached `json:"dataDisks,omitempty"`
	} `json:"storageProfile"`
	Network *struct {
		Interfaces []struct {
			ID         string `json:"id"`
			Properties struct {
				Primary *bool  `json:"primary,omitempty"`
				Delete  string `json:"deleteOption,omitempty"`
			} `json:"properties"`
		} `json:"networkInterfaces"`
	} `json:"networkProfile,omitempty"`
	Security *struct {
		Type string `json:"securityType,omitempty"`
		UEFI *struct {
			SecureBoot bool `json:"secureBootEnabled"`
			TPM        bool `json:"vTpmEnabled"`
		} `json:"uefiSettings,omitempty"`
	} `json:"securityProfile,omitempty"`
	Diagnostics *struct {
		Boot struct {
			Enabled bool   `json:"enabled"`
			URI     string `json:"storageUri,omitempty"`
		} `json:"bootDiagnostics"`
	} `json:"diagnosticsProfile,omitempty"`
	Set     *ref   `json:"availabilitySet,omitempty"`
	License string `json:"licenseType,omitempty"`
}

// attached is a disk of a machine.
type attached struct {
	OSType string `json:"osType,omitempty"`
	LUN    *int   `json:"lun,omitempty"`
	Name   string `json:"name,omitempty"`
	Create string `json:"createOption"`
	Cache  string `json:"caching,omitempty"`
	Delete string `json:"deleteOption,omitempty"`
	Disk   *struct {
		ID  string `json:"id"`
		SKU string `json:"storageAccountType,omitempty"`
	} `json:"managedDisk"`
}

// machineName is what a machine may be called.
var machineName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_])?$`)

func (s *Sim) makeVM(c *call, old *thing) (*thing, func() *apiError, *apiError) {
	var b struct {
		envelope
		Properties vmBody `json:"properties"`
	}
	if e := c.decode(&b); e != nil {
		return nil, nil, e
	}
	if e := b.check(c, s); e != nil {
		return nil, nil, e
	}
	t := c.thing(b.envelope)
	t.vm = b.Properties
	if !machineName.MatchString(c.name) {
		return nil, nil, bad("InvalidParameter", "The name '%s' is not one a virtual machine may have.", c.name)
	}
	size, e := s.sizeFor(t)
	if e != nil {
		return nil, nil, e
	}
	if old == nil {
		used := 0
		for _, other := range s.things {
			if other.kind == kindVM && other.power != "deallocated" {
				used += sizes[other.vm.Hardware.Size].cores
			}
		}
		if used+size.cores > s.opts.Cores {
			return nil, nil, refuse(http.StatusConflict, "OperationNotAllowed",
				"Operation could not be completed as it results in exceeding approved Total Regional Cores quota. Current Limit: %d, Current Usage: %d, Additional Required: %d.", s.opts.Cores, used, size.cores)
		}
	}
	disks, e := s.disksFor(t, size, old)
	if e != nil {
		return nil, nil, e
	}
	nics, e := s.nicsFor(t, size, old)
	if e != nil {
		return nil, nil, e
	}
	if set := t.vm.Set; set != nil {
		if _, e := s.find(kindAvail, set.ID, t.id); e != nil {
			return nil, nil, e
		}
		if len(t.zones) > 0 {
			return nil, nil, bad("InvalidParameter", "A virtual machine with an availability set cannot have a zone.")
		}
	}
	if old == nil {
		t.power = "starting"
		for _, d := range disks {
			d.user, d.diskState = t, stateAttached
		}
		for _, n := range nics {
			n.user = t
		}
	}
	return t, func() *apiError { t.power = "running"; return nil }, nil // a machine that is made is started
}

// sizeFor checks the machine's size against its generation and security.
func (s *Sim) sizeFor(t *thing) (size, *apiError) {
	v := t.vm
	size, ok := sizes[v.Hardware.Size]
	if !ok {
		return size, bad("InvalidParameter", "The value %s provided for the VM size is not valid.", v.Hardware.Size)
	}
	if t.location != Region {
		return size, refuse(http.StatusConflict, "SkuNotAvailable", "The requested VM size %s is currently not available in location '%s'.", v.Hardware.Size, t.location)
	}
	if len(t.zones) > 1 || len(t.zones) == 1 && !slices.Contains(size.zones, t.zones[0]) {
		return size, refuse(http.StatusConflict, "SkuNotAvailable", "The requested VM size %s is not available in zones %v.", v.Hardware.Size, t.zones)
	}
	if l := v.License; l != "" && !slices.Contains([]string{"None", "Windows_Server", "Windows_Client", "RHEL_BYOS", "SLES_BYOS"}, l) {
		return size, bad("InvalidParameter", "licenseType '%s' is invalid.", l)
	}
	if k := v.Storage.Controller; k != "" && k != "SCSI" && (k != "NVMe" || !size.nvme) {
		return size, bad("InvalidParameter", "The VM size %s cannot boot with disk controller type '%s'.", v.Hardware.Size, k)
	}
	return size, nil
}

// disksFor checks the machine's disks.
func (s *Sim) disksFor(t *thing, size size, old *thing) ([]*thing, *apiError) {
	os := t.vm.Storage.OS
	if os == nil || os.LUN != nil || os.OSType != "Linux" && os.OSType != "Windows" {
		return nil, bad("InvalidParameter", "Required parameter 'osDisk' with an osType is missing.")
	}
	if len(t.vm.Storage.Data) > size.disks {
		return nil, refuse(http.StatusConflict, "OperationNotAllowed", "The maximum number of data disks allowed to be attached to a VM of this size is %d.", size.disks)
	}
	var out []*thing
	luns := map[int]bool{}
	for i, a := range append([]attached{*os}, t.vm.Storage.Data...) {
		if a.Create != "Attach" || a.Disk == nil {
			return nil, bad("InvalidParameter", "The simulator's machines are made of specialised disks: createOption Attach and managedDisk.id.")
		}
		d, e := s.find(kindDisk, a.Disk.ID, t.id)
		if e != nil {
			return nil, refuse(http.StatusNotFound, "ResourceNotFound", "Disk %s is not found.", a.Disk.ID)
		}
		if i > 0 {
			if a.LUN == nil || *a.LUN < 0 || *a.LUN > 63 || luns[*a.LUN] {
				return nil, bad("InvalidParameter", "dataDisks: a lun is missing, out of range or there twice.")
			}
			luns[*a.LUN] = true
		}
		mine := old != nil && d.user == old
		switch {
		case d.user != nil && !mine:
			return nil, refuse(http.StatusConflict, "ConflictingUserInput", "Disk '%s' cannot be attached as the disk is already owned by VM '%s'.", d.name, d.user.id)
		case !mine && d.diskState != stateUnattached, len(d.policies) > 0:
			return nil, refuse(http.StatusConflict, "OperationNotAllowed", "Disk %s cannot be attached: its state is %s. Revoke access to it first.", d.name, d.diskState)
		case d.location != t.location:
			return nil, bad("InvalidParameter", "Disk %s is in another location.", d.name)
		case len(d.zones) > 0 && !slices.Equal(d.zones, t.zones):
			return nil, bad("BadRequest", "Disk %s cannot be attached to the VM because it is not in the same zone.", d.name)
		case len(d.zones) == 0 && len(t.zones) > 0 && !strings.HasSuffix(d.sku, "_ZRS"):
			return nil, bad("BadRequest", "Disk %s cannot be attached to the VM because it is not in zone %v.", d.name, t.zones)
		case strings.HasPrefix(d.sku, "Premium") && !size.premium:
			return nil, bad("InvalidParameter", "Requested operation cannot be performed because the VM size %s does not support the storage account type %s.", t.vm.Hardware.Size, d.sku)
		case d.sku == "PremiumV2_LRS" && a.Cache != "None" && a.Cache != "":
			return nil, bad("InvalidParameter", "Host caching is not supported for disk %s.", d.name)
		}
		if i == 0 {
			if e := fitsOS(t, d, size, a); e != nil {
				return nil, e
			}
		}
		out = append(out, d)
	}
	return out, nil
}

// fitsOS checks the OS disk's generation, architecture and security.
func fitsOS(t, d *thing, size size, a attached) *apiError {
	gen := d.disk.Generation
	if gen == "" {
		gen = "V1"
	}
	arch := "x64"
	if d.disk.Capabilities != nil {
		arch = d.disk.Capabilities.Architecture
	}
	sec := t.vm.Security
	trusted := sec != nil && sec.Type == "TrustedLaunch"
	onDisk := d.disk.Security != nil && d.disk.Security.Type == "TrustedLaunch"
	switch {
	case d.disk.OSType == "":
		return bad("InvalidParameter", "Disk %s has no osType and cannot be an OS disk.", d.name)
	case d.disk.OSType != a.OSType:
		return bad("InvalidParameter", "The osType of the machine and of disk %s differ.", d.name)
	case !slices.Contains(size.generations, gen):
		return bad("BadRequest", "The selected VM size '%s' cannot boot Hypervisor Generation '%s'.", t.vm.Hardware.Size, strings.TrimPrefix(gen, "V"))
	case size.arch != arch:
		return bad("BadRequest", "Cannot create a VM of size '%s' because this VM size only supports a CPU Architecture of '%s', but an image or disk of '%s' was given.", t.vm.Hardware.Size, size.arch, arch)
	case t.vm.Storage.Controller == "NVMe" && (d.disk.Capabilities == nil || !strings.Contains(d.disk.Capabilities.Controllers, "NVMe")):
		return bad("InvalidParameter", "The OS disk %s does not support the disk controller type NVMe.", d.name)
	case trusted != onDisk:
		return bad("BadRequest", "The securityType of the machine and of its OS disk %s differ.", d.name)
	case trusted && (gen != "V2" || !size.trusted):
		return bad("BadRequest", "Use of TrustedLaunch setting is not supported for the provided image and size.")
	case sec != nil && sec.UEFI != nil && !trusted:
		return bad("BadRequest", "uefiSettings are for the securityType TrustedLaunch.")
	}
	return nil
}

// nicsFor checks the machine's adapters.
func (s *Sim) nicsFor(t *thing, size size, old *thing) ([]*thing, *apiError) {
	if t.vm.Network == nil || len(t.vm.Network.Interfaces) == 0 {
		return nil, bad("InvalidParameter", "Required parameter 'networkProfile' is missing (null).")
	}
	list := t.vm.Network.Interfaces
	if len(list) > size.nics {
		return nil, bad("NetworkInterfaceCountExceeded", "The number of network interfaces for virtual machine %s exceeds the maximum allowed for the virtual machine size %s.", t.name, t.vm.Hardware.Size)
	}
	var out []*thing
	primary := 0
	network := ""
	for _, i := range list {
		n, e := s.find(kindNIC, i.ID, t.id)
		if e != nil {
			return nil, e
		}
		if n.state != "Succeeded" || n.location != t.location {
			return nil, bad("InvalidParameter", "Network interface %s is not ready or in another location.", n.id)
		}
		if n.user != nil && (old == nil || n.user != old) {
			return nil, bad("NicInUse", "Network Interface %s is used by existing resource %s.", n.id, n.user.id)
		}
		if i.Properties.Primary != nil && *i.Properties.Primary {
			primary++
		}
		of, _, _ := strings.Cut(n.nic.Configurations[0].Properties.Subnet.ID, "/subnets/")
		if network != "" && !strings.EqualFold(network, of) {
			return nil, bad("SubnetsNotInSameVnet", "All network interfaces of a virtual machine must be in one virtual network.")
		}
		network = of
		out = append(out, n)
	}
	if len(list) > 1 && primary != 1 {
		return nil, bad("VirtualMachineMustHaveOneNetworkInterfaceAsPrimary", "Virtual machine %s must have one network interface set as the primary.", t.id)
	}
	return out, nil
}

func (s *Sim) freeVM(t *thing) {
	for _, other := range s.things {
		if other.user == t {
			other.user = nil
			if other.kind == kindDisk {
				other.diskState = stateUnattached
			}
		}
	}
}

// powerVM is start, powerOff, deallocate and restart.
func (s *Sim) powerVM(c *call, t *thing, what string) *apiError {
	to := map[string]string{"start": "running", "restart": "running", "poweroff": "stopped", "deallocate": "deallocated"}[what]
	if to == "" {
		return refuse(http.StatusNotFound, "InvalidResourceType", "there is no %s of a machine", what)
	}
	if t.state != "Succeeded" && t.state != "Failed" {
		return refuse(http.StatusConflict, "OperationNotAllowed", "The machine %s is in state %s.", t.name, t.state)
	}
	if to == "running" {
		for _, d := range s.things {
			if d.kind == kindDisk && d.user == t && len(d.policies) > 0 {
				return refuse(http.StatusConflict, "OperationNotAllowed", "The machine %s cannot be started: there is an active shared access signature outstanding for disk %s. Call EndGetAccess to revoke it.", t.name, d.name)
			}
		}
	}
	s.begin(c, http.StatusAccepted, nil, "vm "+what, &operation{apply: func() *apiError {
		t.power = to
		for _, d := range s.things {
			if d.kind == kindDisk && d.user == t {
				d.diskState = map[bool]string{true: stateReserved, false: stateAttached}[to == "deallocated"]
			}
		}
		return nil
	}})
	return nil
}

func instanceView(t *thing) map[string]any {
	state := map[string]string{"Succeeded": "succeeded", "Failed": "failed"}[t.state]
	if state == "" {
		state = "updating"
	}
	return map[string]any{"statuses": []any{
		map[string]any{"code": "ProvisioningState/" + state, "level": "Info"},
		map[string]any{"code": "PowerState/" + t.power, "level": "Info"},
	}}
}

func vmView(t *thing) map[string]any {
	p := map[string]any{"hardwareProfile": t.vm.Hardware, "storageProfile": t.vm.Storage, "networkProfile": t.vm.Network, "vmId": "00000000-0000-0000-0000-000000000001"}
	if t.vm.Security != nil {
		p["securityProfile"] = t.vm.Security
	}
	if t.vm.Diagnostics != nil {
		p["diagnosticsProfile"] = t.vm.Diagnostics
	}
	if t.vm.Set != nil {
		p["availabilitySet"] = t.vm.Set
	}
	if t.vm.License != "" {
		p["licenseType"] = t.vm.License
	}
	return p
}
