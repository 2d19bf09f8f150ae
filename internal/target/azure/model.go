package azure

// What is said to the resource manager and what is read of its answers:
// "Disks", "Virtual Machines", "Network Interfaces", "Public IP Addresses" of
// the Azure REST API, in the versions that client.go names.

type ref struct {
	ID string `json:"id"`
}

type name struct {
	Name string `json:"name,omitempty"`
}

// resource is what every resource has.
type resource[P any] struct {
	ID         string            `json:"id,omitempty"`
	Name       string            `json:"name,omitempty"`
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Zones      []string          `json:"zones,omitempty"`
	SKU        *name             `json:"sku,omitempty"`
	Properties P                 `json:"properties"`
}

// plain is a resource of which only the frame and the state matter.
type plain = resource[struct {
	State string `json:"provisioningState"`
}]

type creationData struct {
	Option string `json:"createOption"`
	Upload int64  `json:"uploadSizeBytes,omitempty"`
}

type encryption struct {
	Set  string `json:"diskEncryptionSetId,omitempty"`
	Type string `json:"type,omitempty"`
}

type security struct {
	Type string `json:"securityType,omitempty"`
}

type supported struct {
	Arch        string `json:"architecture,omitempty"`
	Controllers string `json:"diskControllerTypes,omitempty"`
}

// diskProperties: the first are said, the last read.
type diskProperties struct {
	OSType       string        `json:"osType,omitempty"`
	Generation   string        `json:"hyperVGeneration,omitempty"`
	CreationData *creationData `json:"creationData,omitempty"`
	IOPS         int           `json:"diskIOPSReadWrite,omitempty"`
	MBps         int           `json:"diskMBpsReadWrite,omitempty"`
	Encryption   *encryption   `json:"encryption,omitempty"`
	Security     *security     `json:"securityProfile,omitempty"`
	Capabilities *supported    `json:"supportedCapabilities,omitempty"`

	State     string `json:"provisioningState,omitempty"`
	DiskState string `json:"diskState,omitempty"`
	Bytes     int64  `json:"diskSizeBytes,omitempty"`
}

type managedDisk = resource[diskProperties]

// grantRequest asks for access to a disk's bytes; grantAnswer is the answer.
type grantRequest struct {
	Access   string `json:"access"`
	Duration int64  `json:"durationInSeconds"`
}

type grantAnswer struct {
	SAS string `json:"accessSAS"`
}

type ipProperties struct {
	Method  string `json:"publicIPAllocationMethod,omitempty"`
	Version string `json:"publicIPAddressVersion,omitempty"`
}

type ipConfigProperties struct {
	Primary bool   `json:"primary"`
	Method  string `json:"privateIPAllocationMethod"`
	Address string `json:"privateIPAddress,omitempty"`
	Subnet  *ref   `json:"subnet"`
	Public  *ref   `json:"publicIPAddress,omitempty"`
}

type ipConfig struct {
	Name       string             `json:"name"`
	Properties ipConfigProperties `json:"properties"`
}

type nicProperties struct {
	Accelerated    bool       `json:"enableAcceleratedNetworking"`
	Group          *ref       `json:"networkSecurityGroup,omitempty"`
	Configurations []ipConfig `json:"ipConfigurations"`
}

type vmDisk struct {
	OSType  string `json:"osType,omitempty"`
	LUN     *int   `json:"lun,omitempty"`
	Create  string `json:"createOption"`
	Caching string `json:"caching"`
	Delete  string `json:"deleteOption"`
	Managed ref    `json:"managedDisk"`
}

type hardware struct {
	Size string `json:"vmSize"`
}

type storage struct {
	Controller string   `json:"diskControllerType,omitempty"`
	OS         *vmDisk  `json:"osDisk"`
	Data       []vmDisk `json:"dataDisks"`
}

type vmNICProperties struct {
	Primary bool   `json:"primary"`
	Delete  string `json:"deleteOption"`
}

type vmNIC struct {
	ID         string          `json:"id"`
	Properties vmNICProperties `json:"properties"`
}

type vmNetwork struct {
	Interfaces []vmNIC `json:"networkInterfaces"`
}

type uefi struct {
	SecureBoot bool `json:"secureBootEnabled"`
	TPM        bool `json:"vTpmEnabled"`
}

type vmSecurity struct {
	Type string `json:"securityType"`
	UEFI *uefi  `json:"uefiSettings"`
}

type bootDiagnostics struct {
	Enabled bool `json:"enabled"`
}

type diagnostics struct {
	Boot bootDiagnostics `json:"bootDiagnostics"`
}

type vmProperties struct {
	Hardware    hardware     `json:"hardwareProfile"`
	Storage     storage      `json:"storageProfile"`
	Network     *vmNetwork   `json:"networkProfile,omitempty"`
	Security    *vmSecurity  `json:"securityProfile,omitempty"`
	Diagnostics *diagnostics `json:"diagnosticsProfile,omitempty"`
	Set         *ref         `json:"availabilitySet,omitempty"`
	License     string       `json:"licenseType,omitempty"`

	State    string        `json:"provisioningState,omitempty"`
	Instance *instanceView `json:"instanceView,omitempty"`
}

type instanceView struct {
	Statuses []struct {
		Code string `json:"code"`
	} `json:"statuses"`
}

type machine = resource[vmProperties]

type subnet struct {
	Name       string `json:"name"`
	Properties struct {
		Prefix   string   `json:"addressPrefix"`
		Prefixes []string `json:"addressPrefixes"`
	} `json:"properties"`
}

type network = resource[struct {
	Subnets []subnet `json:"subnets"`
}]

// sku is one entry of "Resource SKUs - List".
type sku struct {
	Type         string `json:"resourceType"`
	Name         string `json:"name"`
	Family       string `json:"family"`
	Capabilities []struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	} `json:"capabilities"`
	Info []struct {
		Location string   `json:"location"`
		Zones    []string `json:"zones"`
	} `json:"locationInfo"`
	Restrictions []struct {
		Type   string `json:"type"`
		Reason string `json:"reasonCode"`
		Info   struct {
			Zones []string `json:"zones"`
		} `json:"restrictionInfo"`
	} `json:"restrictions"`
}

type usage struct {
	Current int64 `json:"currentValue"`
	Limit   int64 `json:"limit"`
	Name    struct {
		Value     string `json:"value"`
		Localized string `json:"localizedValue"`
	} `json:"name"`
}
