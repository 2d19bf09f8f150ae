package ovf

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"ascend/internal/vm"
)

// File is one disk file of a package that is written.
type File struct {
	// Name is the file's name beside the descriptor, without a path. Letters,
	// digits, '.', '-' and '_' are safe with every reader; what else a URI does
	// not allow is percent-encoded.
	Name string
	// Size is the file's length in bytes; negative when it is not known, which
	// leaves the attribute out.
	Size int64
	// Format and Subformat are named as package image names them.
	Format, Subformat string
	// Disk is the position in Machine.Disks.
	Disk int
}

// Namespaces of OVF 1.x (DSP0243 1.1.1 clause 6) and VMware's extension.
const (
	nsOVF  = "http://schemas.dmtf.org/ovf/envelope/1"
	nsRASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
	nsVSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
	nsVMW  = "http://www.vmware.com/schema/ovf"
)

// The written form. Child elements of an item stand in alphabetical order, as
// the CIM schema's sequence has them.
type (
	outEnvelope struct {
		XMLName  xml.Name     `xml:"Envelope"`
		NS       string       `xml:"xmlns,attr"`
		OVF      string       `xml:"xmlns:ovf,attr"`
		RASD     string       `xml:"xmlns:rasd,attr"`
		VMW      string       `xml:"xmlns:vmw,attr"`
		VSSD     string       `xml:"xmlns:vssd,attr"`
		Files    []outFile    `xml:"References>File"`
		Disks    outDisks     `xml:"DiskSection"`
		Networks *outNetworks `xml:"NetworkSection,omitempty"`
		System   outSystem    `xml:"VirtualSystem"`
	}
	outFile struct {
		Href string `xml:"ovf:href,attr"`
		ID   string `xml:"ovf:id,attr"`
		Size string `xml:"ovf:size,attr,omitempty"`
	}
	outDisks struct {
		Info  string    `xml:"Info"`
		Disks []outDisk `xml:"Disk"`
	}
	outDisk struct {
		Capacity string `xml:"ovf:capacity,attr"`
		ID       string `xml:"ovf:diskId,attr"`
		File     string `xml:"ovf:fileRef,attr"`
		Format   string `xml:"ovf:format,attr"`
	}
	outNetworks struct {
		Info     string       `xml:"Info"`
		Networks []outNetwork `xml:"Network"`
	}
	outNetwork struct {
		Name        string `xml:"ovf:name,attr"`
		Description string `xml:"Description"`
	}
	outSystem struct {
		ID         string         `xml:"ovf:id,attr"`
		Info       string         `xml:"Info"`
		Name       string         `xml:"Name"`
		Annotation *outAnnotation `xml:"AnnotationSection,omitempty"`
		OS         outOS          `xml:"OperatingSystemSection"`
		Hardware   outHardware    `xml:"VirtualHardwareSection"`
	}
	outAnnotation struct {
		Info       string `xml:"Info"`
		Annotation string `xml:"Annotation"`
	}
	outOS struct {
		ID      int    `xml:"ovf:id,attr"`
		Version string `xml:"ovf:version,attr,omitempty"`
		OSType  string `xml:"vmw:osType,attr,omitempty"`
		Info    string `xml:"Info"`
	}
	outHardware struct {
		Info   string      `xml:"Info"`
		System outVSSD     `xml:"System"`
		Items  []outItem   `xml:"Item"`
		Config []outConfig `xml:"vmw:Config"`
	}
	outVSSD struct {
		ElementName string `xml:"vssd:ElementName"`
		InstanceID  int    `xml:"vssd:InstanceID"`
		Identifier  string `xml:"vssd:VirtualSystemIdentifier"`
		Type        string `xml:"vssd:VirtualSystemType"`
	}
	outItem struct {
		Required  string    `xml:"ovf:required,attr,omitempty"`
		Address   string    `xml:"rasd:Address,omitempty"`
		OnParent  string    `xml:"rasd:AddressOnParent,omitempty"`
		Units     string    `xml:"rasd:AllocationUnits,omitempty"`
		Automatic string    `xml:"rasd:AutomaticAllocation,omitempty"`
		Network   string    `xml:"rasd:Connection,omitempty"`
		About     string    `xml:"rasd:Description,omitempty"`
		Name      string    `xml:"rasd:ElementName"`
		Host      string    `xml:"rasd:HostResource,omitempty"`
		Instance  int       `xml:"rasd:InstanceID"`
		Parent    string    `xml:"rasd:Parent,omitempty"`
		Subtype   string    `xml:"rasd:ResourceSubType,omitempty"`
		Type      int       `xml:"rasd:ResourceType"`
		Quantity  string    `xml:"rasd:VirtualQuantity,omitempty"`
		Cores     *outCores `xml:"vmw:CoresPerSocket,omitempty"`
	}
	outCores struct {
		Required string `xml:"ovf:required,attr"`
		Value    int    `xml:",chardata"`
	}
	outConfig struct {
		Required string `xml:"ovf:required,attr"`
		Key      string `xml:"vmw:key,attr"`
		Value    string `xml:"vmw:value,attr"`
	}
)

// Marshal writes an OVF 1.1 descriptor of the machine, one file for each of its
// disks. Processors, memory and the sizes of all disks must be known. Disk
// controllers and adapters that OVF's readers do not know become ones that they
// do: SATA (AHCI) and E1000, which every guest of the last fifteen years has
// drivers for. The result is a pure function of the arguments.
func Marshal(m *vm.Machine, files []File) ([]byte, error) {
	if err := complete(m, files); err != nil {
		return nil, fmt.Errorf("cannot write OVF descriptor: %w", err)
	}
	places, err := place(m.Disks)
	if err != nil {
		return nil, fmt.Errorf("cannot write OVF descriptor: %w", err)
	}
	name := m.Name
	if strings.TrimSpace(name) == "" {
		name = "vm"
	}
	id, version, osType := osOf(m)
	e := outEnvelope{NS: nsOVF, OVF: nsOVF, RASD: nsRASD, VMW: nsVMW, VSSD: nsVSSD}
	e.Disks.Info = "Virtual disk information"
	for i, f := range files {
		of := outFile{Href: escapeHref(f.Name), ID: "file" + strconv.Itoa(i+1)}
		if f.Size >= 0 {
			of.Size = strconv.FormatInt(f.Size, 10)
		}
		e.Files = append(e.Files, of)
		e.Disks.Disks = append(e.Disks.Disks, outDisk{
			Capacity: strconv.FormatInt(m.Disks[f.Disk].Size, 10),
			ID:       diskID(f.Disk),
			File:     of.ID,
			Format:   FormatURI(f.Format, f.Subformat),
		})
	}
	e.Networks = networks(m.NICs)
	e.System = outSystem{ID: name, Info: "A virtual machine", Name: name}
	if m.Annotation != "" {
		e.System.Annotation = &outAnnotation{Info: "A human-readable annotation", Annotation: m.Annotation}
	}
	e.System.OS = outOS{ID: id, Version: version, OSType: osType, Info: "The kind of installed guest operating system"}
	e.System.Hardware = outHardware{
		Info:   "Virtual hardware requirements",
		System: outVSSD{ElementName: "Virtual Hardware Family", Identifier: name, Type: hardwareType(m)},
		Items:  items(m, places),
		Config: config(m),
	}
	var b bytes.Buffer
	b.WriteString(xml.Header)
	enc := xml.NewEncoder(&b)
	enc.Indent("", "  ")
	if err := enc.Encode(e); err != nil {
		return nil, fmt.Errorf("cannot write OVF descriptor: %w", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func complete(m *vm.Machine, files []File) error {
	if m.CPU.Total() <= 0 {
		return errors.New("the number of processors is not known")
	}
	if m.Memory <= 0 {
		return errors.New("the size of the memory is not known")
	}
	seen := make([]bool, len(m.Disks))
	for _, f := range files {
		switch {
		case f.Disk < 0 || f.Disk >= len(m.Disks):
			return fmt.Errorf("%s belongs to disk %d of a machine with %d disks", f.Name, f.Disk, len(m.Disks))
		case seen[f.Disk]:
			return fmt.Errorf("disk %d has two files", f.Disk)
		case f.Name == "" || f.Name == "." || f.Name == ".." || strings.ContainsAny(f.Name, "/\\\x00"):
			return fmt.Errorf("%q is no file name", f.Name)
		case FormatURI(f.Format, f.Subformat) == "":
			return fmt.Errorf("%s has the unknown format %q", f.Name, f.Format)
		case m.Disks[f.Disk].Size <= 0:
			return fmt.Errorf("the size of disk %d is not known", f.Disk)
		}
		seen[f.Disk] = true
	}
	for i, ok := range seen {
		if !ok {
			return fmt.Errorf("disk %d has no file", i)
		}
	}
	return nil
}

func diskID(i int) string { return "vmdisk" + strconv.Itoa(i+1) }

// escapeHref makes a file name a relative URI reference (RFC 3986 4.2); the
// colon is escaped because it would end a scheme.
func escapeHref(name string) string {
	return strings.ReplaceAll((&url.URL{Path: name}).EscapedPath(), ":", "%3A")
}

var reHardware = regexp.MustCompile(`^vmx-0*([0-9]{1,2})$`)

// hardwareType is the source's VMware hardware version if it has one, but no
// lower than what the devices need: 10 for SATA, 13 for NVMe and Secure Boot,
// 14 for a vTPM.
func hardwareType(m *vm.Machine) string {
	v := 10
	if s := reHardware.FindStringSubmatch(m.HardwareNote); s != nil {
		n, _ := strconv.Atoi(s[1])
		v = max(v, n)
	}
	if m.SecureBoot {
		v = max(v, 13)
	}
	for _, d := range m.Disks {
		if d.Controller == vm.BusNVMe {
			v = max(v, 13)
		}
	}
	if m.TPM {
		v = max(v, 14)
	}
	return "vmx-" + fmt.Sprintf("%02d", v)
}

func networkName(n vm.NIC) string {
	if n.Network == "" {
		return "VM Network"
	}
	return n.Network
}

func networks(nics []vm.NIC) *outNetworks {
	if len(nics) == 0 {
		return nil
	}
	out := &outNetworks{Info: "The list of logical networks"}
	seen := map[string]bool{}
	for _, n := range nics {
		name := networkName(n)
		if !seen[name] {
			seen[name] = true
			out.Networks = append(out.Networks, outNetwork{Name: name, Description: "The " + name + " network"})
		}
	}
	return out
}

func config(m *vm.Machine) []outConfig {
	var c []outConfig
	add := func(k, v string) { c = append(c, outConfig{Required: "false", Key: k, Value: v}) }
	switch m.Firmware {
	case vm.UEFI:
		add("firmware", "efi")
		add("bootOptions.efiSecureBootEnabled", strconv.FormatBool(m.SecureBoot))
	case vm.BIOS:
		add("firmware", "bios")
	}
	return c
}

// items are the hardware: processors, memory, controllers, disks, adapters.
func items(m *vm.Machine, places []spot) []outItem {
	total := m.CPU.Total()
	var out []outItem
	add := func(it outItem) int {
		it.Instance = len(out) + 1
		out = append(out, it)
		return it.Instance
	}
	cpu := outItem{
		Units: "hertz * 10^6", About: "Number of Virtual CPUs", Name: fmt.Sprintf("%d virtual CPU(s)", total),
		Type: typeProcessor, Quantity: strconv.Itoa(total),
	}
	if c := max(m.CPU.CoresPerSocket, 1) * max(m.CPU.Threads, 1); c > 1 {
		cpu.Cores = &outCores{Required: "false", Value: c}
	}
	add(cpu)
	mem := (m.Memory + vm.MiB - 1) / vm.MiB
	add(outItem{
		Units: "byte * 2^20", About: "Memory Size", Name: fmt.Sprintf("%dMB of memory", mem),
		Type: typeMemory, Quantity: strconv.FormatInt(mem, 10),
	})
	controllers := map[controllerKey]int{}
	for _, p := range places {
		if _, ok := controllers[p.key]; ok {
			continue
		}
		k := kinds[p.key.class]
		controllers[p.key] = add(outItem{
			Address: strconv.Itoa(p.key.number), About: k.name, Name: fmt.Sprintf("%s %d", k.name, p.key.number),
			Subtype: p.subtype, Type: k.resource,
		})
	}
	for i, p := range places {
		add(outItem{
			OnParent: strconv.Itoa(p.unit), Name: fmt.Sprintf("Hard Disk %d", i+1), Host: "ovf:/disk/" + diskID(i),
			Parent: strconv.Itoa(controllers[p.key]), Type: typeDisk,
		})
	}
	for i, n := range m.NICs {
		connected := n.Connected == nil || *n.Connected
		add(outItem{
			// The MAC: VirtualBox takes it from here, VMware ignores it.
			Address: n.MAC, OnParent: strconv.Itoa(7 + i), Automatic: strconv.FormatBool(connected),
			Network: networkName(n), Name: fmt.Sprintf("Ethernet %d", i+1), Subtype: nicSubtype(n.Model), Type: typeEthernet,
		})
	}
	if m.TPM {
		add(outItem{Required: "false", Automatic: "false", Name: "Virtual TPM", Subtype: subVTPM, Type: typeVTPM})
	}
	return out
}

func nicSubtype(m vm.NICModel) string {
	switch m {
	case vm.VMXNET3:
		return "VmxNet3"
	case vm.E1000E:
		return "E1000e"
	case vm.PCNet32:
		return "PCNet32"
	}
	return "E1000"
}
