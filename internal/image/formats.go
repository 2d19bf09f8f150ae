package image

import (
	"fmt"
	"slices"

	"ascend/internal/disk"
)

// FormatInfo says what one writable format takes, as data for help texts,
// plans and checks.
type FormatInfo struct {
	Format  Format `json:"format"`
	Summary string `json:"summary"`
	// MaxSize is the largest virtual disk in bytes.
	MaxSize int64 `json:"max_size"`
	// MaxFile is the largest target file in bytes, 0 when only MaxSize bounds
	// it: a sparse disk may be larger than its file.
	MaxFile int64 `json:"max_file,omitempty"`
	// Sector is what the virtual size is rounded up to a multiple of, in bytes.
	Sector int64 `json:"sector"`
	// DefaultBlock, MinBlock and MaxBlock are for Options.BlockSize, in bytes; 0
	// when the format has no blocks.
	DefaultBlock int64 `json:"default_block,omitempty"`
	MinBlock     int64 `json:"min_block,omitempty"`
	MaxBlock     int64 `json:"max_block,omitempty"`
	// MaxLevel is the highest of Options.Level, 0 when nothing is compressed.
	MaxLevel int `json:"max_level,omitempty"`
}

// The defaults of each Name come first.
var formats = []FormatInfo{
	{
		Format:  Format{Name: "raw"},
		Summary: "the disk's bytes as they are",
		MaxSize: disk.MaxSize, Sector: 1,
	}, {
		Format:  Format{Name: "qcow2"},
		Summary: "QCOW2 version 3 (KVM, OpenStack, Proxmox VE)",
		MaxSize: disk.MaxSize, Sector: sectorSize,
		DefaultBlock: qcow2DefaultCluster, MinBlock: qcow2MinCluster, MaxBlock: qcow2MaxCluster,
	}, {
		Format:  Format{Name: "qcow2", Compression: "zlib"},
		Summary: "QCOW2 version 3 of clusters compressed with zlib",
		MaxSize: disk.MaxSize, Sector: sectorSize,
		DefaultBlock: qcow2DefaultCluster, MinBlock: qcow2DefaultCluster, MaxBlock: qcow2DefaultCluster,
		MaxLevel: 9,
	}, {
		Format:  Format{Name: "qcow2", Compression: "zstd"},
		Summary: "QCOW2 version 3 of clusters compressed with zstd (QEMU 5.1 and later)",
		MaxSize: disk.MaxSize, Sector: sectorSize,
		DefaultBlock: qcow2DefaultCluster, MinBlock: qcow2DefaultCluster, MaxBlock: qcow2DefaultCluster,
		MaxLevel: 22,
	}, {
		Format:  Format{Name: "vmdk", Subformat: "monolithicSparse"},
		Summary: "growing VMDK (VMware Workstation and Fusion, VirtualBox; not ESXi)",
		MaxSize: disk.MaxSize, MaxFile: vmdkMaxSectors * sectorSize, Sector: sectorSize,
		DefaultBlock: vmdkGrain, MinBlock: vmdkGrain, MaxBlock: vmdkGrain,
	}, {
		Format:  Format{Name: "vmdk", Subformat: "streamOptimized", Compression: "deflate"},
		Summary: "compressed VMDK for OVA and import into vSphere",
		MaxSize: disk.MaxSize, MaxFile: vmdkMaxSectors * sectorSize, Sector: sectorSize,
		DefaultBlock: vmdkGrain, MinBlock: vmdkGrain, MaxBlock: vmdkGrain,
		MaxLevel: 9,
	}, {
		Format:  Format{Name: "vmdk", Subformat: "streamOptimized", Compression: "stored"},
		Summary: "streamOptimized VMDK that is not compressed: of known size, for fast links",
		MaxSize: disk.MaxSize, MaxFile: vmdkMaxSectors * sectorSize, Sector: sectorSize,
		DefaultBlock: vmdkGrain, MinBlock: vmdkGrain, MaxBlock: vmdkGrain,
	}, {
		Format:  Format{Name: "vhdx", Subformat: "dynamic"},
		Summary: "VHDX (Hyper-V)",
		MaxSize: disk.MaxSize, Sector: sectorSize,
		DefaultBlock: vhdxDefaultBlock, MinBlock: vhdxMinBlock, MaxBlock: vhdxMaxBlock,
	}, {
		Format:  Format{Name: "vpc", Subformat: "dynamic"},
		Summary: "growing VHD (older Hyper-V, XenServer)",
		MaxSize: vhdMaxDynamic, Sector: sectorSize,
		DefaultBlock: vhdBlock, MinBlock: vhdBlock, MaxBlock: vhdBlock,
	}, {
		Format:  Format{Name: "vpc", Subformat: "fixed"},
		Summary: "fixed VHD: the disk and a footer (Azure)",
		MaxSize: disk.MaxSize, Sector: sectorSize,
	},
}

// Formats lists every format that can be made, the default of each name first.
// The slice belongs to the caller.
func Formats() []FormatInfo { return slices.Clone(formats) }

// Info finds what f takes. Empty fields of f mean the default: Info().Format
// has them filled in.
func (f Format) Info() (FormatInfo, error) {
	for _, i := range formats {
		if i.Format.Name != f.Name {
			continue
		}
		if (f.Subformat == "" || f.Subformat == i.Format.Subformat) &&
			(f.Compression == i.Format.Compression || f.Compression == "" && f.Subformat != "" && f.Subformat == i.Format.Subformat) {
			return i, nil
		}
	}
	return FormatInfo{}, fmt.Errorf("cannot make an image of format %s: not known", f)
}

// VirtualSize is the size that the guest sees of a disk of size bytes. Formats
// that count in sectors round up; the bytes added are zeros.
func (i FormatInfo) VirtualSize(size int64) int64 { return roundUp(size, i.Sector) }

// Check refuses, with a *SizeError, a disk of size bytes that the format cannot
// hold. Whether the file of a VMDK stays below MaxFile is known only with the
// disk's map, to New and to the stream.
func (i FormatInfo) Check(size int64) error {
	switch {
	case size <= 0:
		return &SizeError{Format: i.Format, Size: size, Reason: "it is empty"}
	case size > i.MaxSize:
		return &SizeError{Format: i.Format, Size: size, Reason: fmt.Sprintf("the format holds at most %d bytes", i.MaxSize)}
	}
	return nil
}

// options checks o against what the format takes and fills in the defaults.
func (i FormatInfo) options(o Options) (Options, error) {
	if o.BlockSize == 0 {
		o.BlockSize = i.DefaultBlock
	}
	switch b := o.BlockSize; {
	case b < i.MinBlock || b > i.MaxBlock || b&(b-1) != 0:
		if i.MaxBlock == 0 {
			return o, fmt.Errorf("cannot make %s with blocks of %d bytes: the format has no blocks", i.Format, b)
		}
		if i.MinBlock == i.MaxBlock {
			return o, fmt.Errorf("cannot make %s with blocks of %d bytes: the format has blocks of %d bytes", i.Format, b, i.MinBlock)
		}
		return o, fmt.Errorf("cannot make %s with blocks of %d bytes: use a power of two from %d to %d", i.Format, b, i.MinBlock, i.MaxBlock)
	case o.Level < 0 || o.Level > i.MaxLevel:
		if i.MaxLevel == 0 {
			return o, fmt.Errorf("cannot make %s at level %d: it is not compressed", i.Format, o.Level)
		}
		return o, fmt.Errorf("cannot make %s at level %d: use 1 to %d", i.Format, o.Level, i.MaxLevel)
	}
	return o, nil
}

// New plans the file of the source in a format. It reads nothing of the disk;
// its time and memory grow with the runs of the map at most. A disk that the
// format cannot hold is a *SizeError. Formats that are Ordered are made by
// NewStream.
func New(src Source, f Format, o Options) (*File, error) {
	info, err := f.Info()
	if err != nil {
		return nil, err
	}
	f = info.Format
	if f.Ordered() {
		return nil, fmt.Errorf("cannot compute %s at random: it is made in order", f)
	}
	if o, err = info.options(o); err != nil {
		return nil, err
	}
	if err := src.check(info); err != nil {
		return nil, err
	}
	switch f.Name {
	case "qcow2":
		return newQCOW2(src, f, o), nil
	case "vmdk":
		if f.Compression != "" {
			return newVMDKStored(src, f, o)
		}
		return newVMDKSparse(src, f, o)
	case "vhdx":
		return newVHDX(src, f, o), nil
	case "vpc":
		if f.Subformat == "fixed" {
			return newVHDFixed(src, f, o), nil
		}
		return newVHDDynamic(src, f, o), nil
	}
	return newRaw(src, f), nil
}

// check is for New and NewStream.
func (s Source) check(info FormatInfo) error {
	if g := s.Map.Granularity(); g != disk.LeafSize {
		return fmt.Errorf("cannot make %s: the disk's map counts blocks of %d bytes, not %d", info.Format, g, disk.LeafSize)
	}
	return info.Check(s.Size())
}
