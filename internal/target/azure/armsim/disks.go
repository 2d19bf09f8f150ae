package armsim

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// States of a managed disk ("Disks - Get", DiskState).
const (
	stateUnattached = "Unattached"
	stateAttached   = "Attached"
	stateReserved   = "Reserved" // of a machine that is deallocated
	stateSAS        = "ActiveSAS"
	stateReady      = "ReadyToUpload"
	stateUploading  = "ActiveUpload"
)

// Bounds of an upload's size, the footer included ("Upload a VHD to Azure").
const (
	minUpload = 20_972_032
	maxUpload = 35_183_298_347_520
)

// diskBody is the properties of a disk that a PUT may have.
type diskBody struct {
	OSType       string `json:"osType,omitempty"`
	Generation   string `json:"hyperVGeneration,omitempty"`
	CreationData *struct {
		CreateOption string `json:"createOption"`
		Upload       int64  `json:"uploadSizeBytes,omitempty"`
	} `json:"creationData,omitempty"`
	DiskSizeGB int `json:"diskSizeGB,omitempty"`
	IOPS       int `json:"diskIOPSReadWrite,omitempty"`
	MBps       int `json:"diskMBpsReadWrite,omitempty"`
	Encryption *struct {
		Set  string `json:"diskEncryptionSetId,omitempty"`
		Type string `json:"type,omitempty"`
	} `json:"encryption,omitempty"`
	Security *struct {
		Type string `json:"securityType,omitempty"`
	} `json:"securityProfile,omitempty"`
	Capabilities *struct {
		Architecture string `json:"architecture,omitempty"`
		Controllers  string `json:"diskControllerTypes,omitempty"`
	} `json:"supportedCapabilities,omitempty"`
	Network string `json:"networkAccessPolicy,omitempty"`
	Public  string `json:"publicNetworkAccess,omitempty"`
}

type skuBody struct {
	Name string `json:"name,omitempty"`
	Tier string `json:"tier,omitempty"`
}

var diskSKUs = []string{"Standard_LRS", "Premium_LRS", "StandardSSD_LRS", "UltraSSD_LRS", "Premium_ZRS", "StandardSSD_ZRS", "PremiumV2_LRS"}

func (s *Sim) makeDisk(c *call, _ *thing) (*thing, func() *apiError, *apiError) {
	var b struct {
		envelope
		SKU        *skuBody `json:"sku,omitempty"`
		Properties diskBody `json:"properties"`
	}
	if e := c.decode(&b); e != nil {
		return nil, nil, e
	}
	if e := b.check(c, s); e != nil {
		return nil, nil, e
	}
	p := b.Properties
	t := c.thing(b.envelope)
	t.disk, t.sku = p, "Standard_LRS"
	if b.SKU != nil && b.SKU.Name != "" {
		t.sku = b.SKU.Name
	}
	param := func(format string, args ...any) (*thing, func() *apiError, *apiError) {
		return nil, nil, bad("InvalidParameter", format, args...)
	}
	v2 := t.sku == "PremiumV2_LRS" || t.sku == "UltraSSD_LRS"
	switch cd := p.CreationData; {
	case cd == nil:
		return param("Required parameter 'creationData' is missing (null).")
	case !slices.Contains(diskSKUs, t.sku):
		return param("The requested sku '%s' is not available.", t.sku)
	case cd.CreateOption == "Upload":
		if cd.Upload < minUpload || cd.Upload > maxUpload {
			return param("The value '%d' of uploadSizeBytes is out of range: %d to %d.", cd.Upload, minUpload, int64(maxUpload))
		}
		if (cd.Upload-512)%(1<<20) != 0 {
			return param("The specified upload size %d is invalid: the disk's size must be a multiple of 1 MiB, plus a footer of 512 bytes.", cd.Upload)
		}
		if p.DiskSizeGB != 0 {
			return param("diskSizeGB may not be given with an upload.")
		}
		t.file, t.diskState = cd.Upload, stateReady
	case cd.CreateOption == "Empty":
		if p.DiskSizeGB < 1 || p.DiskSizeGB > 32767 {
			return param("Required parameter 'diskSizeGB' is missing or out of range.")
		}
		t.file, t.diskState = int64(p.DiskSizeGB)<<30+512, stateUnattached
	default:
		return param("The value '%s' of createOption is not one that the simulator has.", cd.CreateOption)
	}
	if p.OSType != "" && p.OSType != "Linux" && p.OSType != "Windows" || p.Generation != "" && p.Generation != "V1" && p.Generation != "V2" {
		return param("osType is Linux or Windows, hyperVGeneration V1 or V2.")
	}
	if p.OSType == "" && p.Generation != "" {
		return param("hyperVGeneration is for disks with an osType.")
	}
	if a := p.Capabilities; a != nil && a.Architecture != "x64" && a.Architecture != "Arm64" {
		return param("architecture is x64 or Arm64.")
	}
	if sec := p.Security; sec != nil && sec.Type != "TrustedLaunch" && sec.Type != "Standard" {
		return param("The securityType '%s' is not one that the simulator has.", sec.Type)
	} else if sec != nil && sec.Type == "TrustedLaunch" && (p.Generation != "V2" || p.OSType == "") {
		return param("Trusted launch is supported on generation 2 OS disks only.")
	}
	if enc := p.Encryption; enc != nil && enc.Set != "" {
		if _, e := s.find(kindDES, enc.Set, t.id); e != nil {
			return nil, nil, e
		}
	}
	switch {
	case (p.IOPS != 0 || p.MBps != 0) && !v2:
		return param("diskIOPSReadWrite and diskMBpsReadWrite can be set for PremiumV2_LRS and UltraSSD_LRS only.")
	case v2 && len(t.zones) == 0:
		return param("A disk of sku '%s' needs a zone in this region.", t.sku)
	case strings.HasSuffix(t.sku, "_ZRS") && len(t.zones) > 0:
		return param("A zone-redundant disk has no zone.")
	case v2 && p.OSType != "":
		return param("A disk of sku '%s' cannot be an OS disk.", t.sku)
	}
	t.container = "md-" + random(8)
	return t, func() *apiError {
		if err := s.azurite.create(t.container, t.file); err != nil {
			return refuse(http.StatusInternalServerError, "InternalServerError", "%v", err)
		}
		t.made = true
		return nil
	}, nil
}

func (s *Sim) diskView(t *thing, out map[string]any) map[string]any {
	out["sku"] = map[string]any{"name": t.sku, "tier": strings.SplitN(t.sku, "_", 2)[0]}
	if t.user != nil {
		out["managedBy"] = t.user.id
	}
	size := t.file - 512
	p := map[string]any{
		"diskSizeBytes": size, "diskSizeGB": max((size+1<<30-1)>>30, 1), "diskState": t.diskState, "uniqueId": t.container,
		"creationData": t.disk.CreationData, "timeCreated": "2026-01-01T00:00:00Z",
	}
	if t.disk.OSType != "" {
		p["osType"], p["hyperVGeneration"] = t.disk.OSType, t.disk.Generation
	}
	if t.disk.Security != nil {
		p["securityProfile"] = t.disk.Security
	}
	if t.disk.Encryption != nil {
		p["encryption"] = t.disk.Encryption
	}
	if t.disk.IOPS != 0 {
		p["diskIOPSReadWrite"], p["diskMBpsReadWrite"] = t.disk.IOPS, t.disk.MBps
	}
	return p
}

// beginAccess gives a shared access signature ("Disks - Grant Access"). While an
// upload lasts another may be asked for, as after the first has ended.
func (s *Sim) beginAccess(c *call, t *thing) *apiError {
	var b struct {
		Access   string `json:"access"`
		Duration int64  `json:"durationInSeconds"`
		Format   string `json:"fileFormat,omitempty"`
		Secure   bool   `json:"getSecureVMGuestStateSAS,omitempty"`
	}
	if e := c.decode(&b); e != nil {
		return e
	}
	if b.Access != "Read" && b.Access != "Write" || b.Duration < 1 || b.Duration > 60*86400 {
		return bad("InvalidParameter", "access is Read or Write, durationInSeconds 1 to 5184000.")
	}
	if t.state != "Succeeded" {
		return refuse(http.StatusConflict, "OperationNotAllowed", "The disk %s is in state %s.", t.name, t.state)
	}
	uploading := t.diskState == stateReady || t.diskState == stateUploading
	switch {
	case b.Access == "Write" && !uploading:
		return refuse(http.StatusConflict, "OperationNotAllowed", "Write access to disk %s cannot be granted: its state is %s and only disks that are being uploaded can be written.", t.name, t.diskState)
	case b.Access == "Read" && uploading:
		return refuse(http.StatusConflict, "OperationNotAllowed", "Read access to disk %s cannot be granted: its state is %s.", t.name, t.diskState)
	case b.Access == "Read" && t.diskState == stateAttached:
		return refuse(http.StatusConflict, "OperationNotAllowed", "Access cannot be granted to disk %s: it is attached to the running virtual machine %s.", t.name, t.user.name)
	}
	op := &operation{}
	op.apply = func() *apiError {
		p := policy{id: random(6), permissions: map[string]string{"Read": "r", "Write": "rw"}[b.Access], ends: s.clock().Add(time.Duration(b.Duration) * time.Second)}
		t.policies = append(t.policies, p)
		if len(t.policies) > 3 { // the platform, too, lets old ones end
			t.policies = t.policies[len(t.policies)-3:]
		}
		if err := s.azurite.allow(t.container, t.policies); err != nil {
			return refuse(http.StatusInternalServerError, "InternalServerError", "%v", err)
		}
		if b.Access == "Write" {
			t.diskState = stateUploading
		} else if t.diskState == stateUnattached {
			t.diskState = stateSAS
		}
		op.result = map[string]any{"accessSAS": s.URL + "/" + Account + "/" + t.container + "/abcd?" + signature(t.container, p.id)}
		return nil
	}
	s.begin(c, http.StatusAccepted, nil, "disk beginGetAccess", op)
	return nil
}

// endAccess voids the signatures ("Disks - Revoke Access"); an upload is over
// then for good.
func (s *Sim) endAccess(c *call, t *thing) *apiError {
	s.begin(c, http.StatusAccepted, nil, "disk endGetAccess", &operation{apply: func() *apiError {
		t.policies = nil
		if err := s.azurite.allow(t.container, nil); err != nil {
			return refuse(http.StatusInternalServerError, "InternalServerError", "%v", err)
		}
		if t.diskState == stateUploading || t.diskState == stateSAS || t.diskState == stateReady {
			t.diskState = stateUnattached
		}
		return nil
	}})
	return nil
}
