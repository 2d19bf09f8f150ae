// Package ovf reads and writes descriptors of the Open Virtualization Format
// and the manifests that stand beside them.
//
// Sources: DMTF DSP0243 1.1.1 and 2.1.1 (structure, units, references,
// manifest), DSP0004 Annex C.1 (programmatic units), the CIM schema's
// CIM_ResourceAllocationSettingData (resource types), and descriptors written
// by VMware, VirtualBox and others for what those leave open.
//
// Descriptors are hostile input: they are read with a bound on bytes, elements
// and depth; external entities and document type definitions are never
// followed. Nothing is opened by name: a Package holds names, the caller
// resolves them.
package ovf

import (
	"errors"
	"strings"

	"ascend/internal/vm"
)

// Bounds of what is read.
const (
	// MaxDescriptor is the largest descriptor read: 8 MiB.
	MaxDescriptor = 8 << 20
	// MaxManifest is the largest manifest read: 1 MiB.
	MaxManifest = 1 << 20

	maxElements = 200_000 // XML elements in a descriptor
	maxDepth    = 64      // of XML elements
	maxItems    = 4096    // hardware items, disks, files: more than any platform has
)

// Errors callers tell apart.
var (
	// ErrFormat: the text is no OVF descriptor, or no manifest.
	ErrFormat = errors.New("not an OVF descriptor")
	// ErrLimit: larger than any honest descriptor.
	ErrLimit = errors.New("descriptor exceeds a limit")
)

// Package is what a descriptor says.
type Package struct {
	// Files are the files that the package references, in order.
	Files []FileRef
	// Systems are the virtual machines: one for a VirtualSystem, any number for
	// a VirtualSystemCollection.
	Systems []System
}

// FileRef is one entry of the References section (DSP0243 7.1).
type FileRef struct {
	ID   string
	Href string // as written; see Names
	Size int64  // bytes of the file; -1 when the descriptor does not say
	// Compression is "" or "identity" for a file as it is, else a codec ("gzip").
	Compression string
	// ChunkSize, when not 0, says that the file lies in pieces of so many bytes,
	// named Href.000000000 and so on.
	ChunkSize int64
}

// System is one virtual machine of a package.
type System struct {
	ID string
	// Machine is the machine as described. Its Disks are parallel to Disks.
	Machine *vm.Machine
	Disks   []Disk
	Product Product
	// Notes say in sentences what a user should know: a part of the descriptor
	// that could not be taken over, or an assumption.
	Notes []string
}

// Disk is one hard disk of a System.
type Disk struct {
	ID string // of the DiskSection's entry; empty for a disk that is a bare file
	// File is the position in Package.Files, -1 for a disk without a file, which
	// starts empty.
	File int
	// Capacity is in bytes; 0 when the descriptor does not say.
	Capacity int64
	// Populated is the number of bytes in use that the descriptor states, 0 when
	// it does not.
	Populated int64
	// Format is the URI of the file's format; see FormatName.
	Format string
	// Parent is the ID of the disk this one is a delta of; empty mostly.
	Parent string
	// Fault says why what the disk refers to cannot be found in the descriptor;
	// File is -1 then, which does not mean a blank disk.
	Fault string
}

// Product is what a ProductSection says of the software in the machine.
type Product struct {
	Name, Vendor, Version string
}

// Format URIs. For VMDK they are those that VMware's tools write; DSP0243 7.1
// asks for the URI of the format's specification elsewhere.
const (
	URIStreamOptimized  = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
	URIMonolithicSparse = "http://www.vmware.com/interfaces/specifications/vmdk.html#monolithicSparse"
	URIMonolithicFlat   = "http://www.vmware.com/interfaces/specifications/vmdk.html#monolithicFlat"
	URIVMDK             = "http://www.vmware.com/interfaces/specifications/vmdk.html"
	URIQCOW2            = "http://www.gnome.org/~markmc/qcow-image-format.html"
	URIVHD              = "http://go.microsoft.com/fwlink/?LinkId=137171"
	URIVHDX             = "https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx"
	URIRaw              = "https://www.qemu.org/docs/master/system/images.html#raw"
)

// FormatURI is the URI of a format by the names of package image: raw, qcow2,
// vmdk, vhdx or vpc, and a subformat. It is empty for any other name.
func FormatURI(format, subformat string) string {
	switch format {
	case "vmdk":
		switch subformat {
		case "streamOptimized":
			return URIStreamOptimized
		case "monolithicFlat":
			return URIMonolithicFlat
		}
		return URIMonolithicSparse
	case "qcow2":
		return URIQCOW2
	case "vpc":
		return URIVHD
	case "vhdx":
		return URIVHDX
	case "raw":
		return URIRaw
	}
	return ""
}

// FormatName is the format a URI stands for, as "vmdk", "qcow2", "vhd", "vhdx"
// or "raw"; empty when it is not known. It is a hint only: what a file is, its
// signature tells.
func FormatName(uri string) string {
	u := strings.ToLower(uri)
	switch {
	case strings.Contains(u, "vmdk"):
		return "vmdk"
	case strings.Contains(u, "qcow"):
		return "qcow2"
	case strings.Contains(u, "vhdx"):
		return "vhdx"
	case strings.Contains(u, "vhd"), strings.Contains(u, "linkid=137171"):
		return "vhd"
	case strings.HasSuffix(u, "#raw"):
		return "raw"
	}
	return ""
}

// Resource types of CIM_ResourceAllocationSettingData.ResourceType.
const (
	typeProcessor = 3
	typeMemory    = 4
	typeIDE       = 5
	typeSCSI      = 6
	typeEthernet  = 10
	typeDisk      = 17
	typeLogical   = 31 // "logical disk": a hard disk in OVF 2.x
	typeStorage   = 20 // "other storage device": SATA and NVMe controllers
	typeVTPM      = 34 // not of CIM: as VMware writes it
)

// Subtypes of controllers as VMware writes them.
const (
	subBusLogic = "buslogic"
	subLSILogic = "lsilogic"
	subLSISAS   = "lsilogicsas"
	subPVSCSI   = "VirtualSCSI"
	subAHCI     = "vmware.sata.ahci"
	subNVMe     = "vmware.nvme.controller"
	subVTPM     = "vmware.vtpm"
)
