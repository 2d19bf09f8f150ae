package vmdk

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"ascend/internal/disk"
)

// Descriptors as products write them.
func TestDescriptor(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want descriptor
	}{
		"Workstation, split": {
			"# Disk DescriptorFile\r\nversion=1\r\nencoding=\"windows-1252\"\r\nCID=fffffffe\r\nparentCID=ffffffff\r\nisNativeSnapshot=\"no\"\r\ncreateType=\"twoGbMaxExtentSparse\"\r\n\r\n" +
				"# Extent description\r\nRW 4192256 SPARSE \"Windows XP-s001.vmdk\"\r\nRW 2048 SPARSE \"Windows XP-s002.vmdk\"\r\n\r\n# The Disk Data Base \r\n#DDB\r\n\r\nddb.adapterType = \"ide\"\r\nddb.uuid = \"60 00 C2 9e\"\r\n",
			descriptor{createType: "twoGbMaxExtentSparse", encoding: "windows-1252", cid: 0xfffffffe, hasCID: true, parentCID: noParent, extents: []extentLine{
				{"RW", 4192256, "SPARSE", "Windows XP-s001.vmdk", 0}, {"RW", 2048, "SPARSE", "Windows XP-s002.vmdk", 0},
			}},
		},
		"ESXi, changed block tracking": {
			"# Disk DescriptorFile\nversion=3\nencoding=\"UTF-8\"\nCID=7a1ba3f4\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\n# Extent description\nRW 83886080 VMFS \"vm-flat.vmdk\"\n\n" +
				"# Change Tracking File\nchangeTrackPath=\"vm-ctk.vmdk\"\n\n# The Disk Data Base\n#DDB\n\nddb.thinProvisioned = \"1\"\n",
			descriptor{createType: "vmfs", encoding: "utf-8", cid: 0x7a1ba3f4, hasCID: true, parentCID: noParent, extents: []extentLine{{"RW", 83886080, "VMFS", "vm-flat.vmdk", 0}}},
		},
		"ESXi, snapshot": {
			"# Disk DescriptorFile\nversion=1\nCID=00000002\nparentCID=00000001\ncreateType=\"vmfsSparse\"\nparentFileNameHint=\"vm.vmdk\"\n# Extent description\nRW 100 VMFSSPARSE \"vm-000001-delta.vmdk\"\n",
			descriptor{createType: "vmfsSparse", cid: 2, hasCID: true, parentCID: 1, parentHint: "vm.vmdk", extents: []extentLine{{"RW", 100, "VMFSSPARSE", "vm-000001-delta.vmdk", 0}}},
		},
		"VirtualBox, stream": {
			"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"streamOptimized\"\n\n# Extent description\nRDONLY 16384 SPARSE \"disk.vmdk\"\n\n# The disk Data Base \n#DDB\n\nddb.comment=\"\"\nddb.uuid.image=\"5f1c\"\x00\x00\xff garbage",
			descriptor{createType: "streamOptimized", cid: 1, hasCID: true, parentCID: noParent, extents: []extentLine{{"RDONLY", 16384, "SPARSE", "disk.vmdk", 0}}},
		},
		"odd cases, spaces and tabs": {
			"\xef\xbb\xbf\n  # disk descriptorfile  \n\tVERSION = 1\nCid = ABCDEF01\nParentCID=FFFFFFFF\nCREATETYPE=\"2GBMAXEXTENTFLAT\"\n  rw\t 100   flat \t\"Ünï cødé 磁盘.vmdk\"  20 \n\n#\n",
			descriptor{createType: "twoGbMaxExtentFlat", cid: 0xabcdef01, hasCID: true, parentCID: noParent, extents: []extentLine{{"RW", 100, "FLAT", "Ünï cødé 磁盘.vmdk", 20}}},
		},
		"no line end": {
			"# Disk DescriptorFile\nNOACCESS 7 ZERO",
			descriptor{parentCID: noParent, extents: []extentLine{{"NOACCESS", 7, "ZERO", "", 0}}},
		},
		"said twice alike": {"# Disk DescriptorFile\nCID=1\nCID=1", descriptor{parentCID: noParent, cid: 1, hasCID: true}},
	} {
		d, err := parseDescriptor([]byte(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(*d, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, *d, c.want)
		}
	}
}

func TestDescriptorRefused(t *testing.T) {
	for line, want := range map[string]error{
		"version=4":     disk.ErrUnsupported,
		"version=x":     disk.ErrUnsupported,
		"CID=100000000": disk.ErrCorrupt,
		"CID=-1":        disk.ErrCorrupt,
		"parentCID=":    disk.ErrCorrupt,
		"CID=1\nCID=2":  disk.ErrCorrupt,
		"parentFileNameHint=\"a\"\nPARENTFILENAMEHINT=\"b\"": disk.ErrCorrupt,
		`createType="seSparse"`:                              disk.ErrUnsupported,
		`createType="fullDevice"`:                            disk.ErrUnsupported,
		`createType="vmfsRDM"`:                               disk.ErrUnsupported,
		`createType="whatever"`:                              disk.ErrUnsupported,
		`createType="vmfs`:                                   disk.ErrCorrupt,
		`encryption.keySafe = "vmware:key/list/..."`:         disk.ErrUnsupported,
		`ddb.iofilters = "vmwarecrypto"`:                     disk.ErrUnsupported,
		`ddb.x`:                                              disk.ErrCorrupt,
		`= 1`:                                                disk.ErrCorrupt,
		`a b = 1`:                                            disk.ErrCorrupt,
		`WO 1 FLAT "x"`:                                      disk.ErrCorrupt,
		`RW`:                                                 disk.ErrCorrupt,
		`RW 1`:                                               disk.ErrCorrupt,
		`RW 1 FLAT`:                                          disk.ErrCorrupt,
		`RW 1 FLAT x`:                                        disk.ErrCorrupt,
		`RW 1 FLAT "x`:                                       disk.ErrCorrupt,
		`RW 1 FLAT ""`:                                       disk.ErrCorrupt,
		`RW 1 FLAT "x" y`:                                    disk.ErrCorrupt,
		`RW 1 FLAT "x" -1`:                                   disk.ErrCorrupt,
		`RW 0x10 FLAT "x"`:                                   disk.ErrCorrupt,
		`RW one FLAT "x"`:                                    disk.ErrCorrupt,
		`RW = 1`:                                             disk.ErrCorrupt,
		`RW 63 FLAT "\\.\PhysicalDrive0" 0 partitionUUID \\?\Volume`: disk.ErrUnsupported,
	} {
		if _, err := parseDescriptor([]byte("# Disk DescriptorFile\n" + line)); !errors.Is(err, want) {
			t.Errorf("%s: error is %v, want one that is %v", line, err, want)
		}
	}
	for _, text := range []string{"", "# Disk Descriptor\n", "version=1\n# Disk DescriptorFile\n", "\x00# Disk DescriptorFile\n", "# Disk DescriptorFile\n" + strings.Repeat("#", maxDescriptor)} {
		if _, err := parseDescriptor([]byte(text)); !errors.Is(err, disk.ErrCorrupt) {
			t.Errorf("%.40q: error is %v", text, err)
		}
	}
}

func FuzzDescriptor(f *testing.F) {
	f.Add(string(text("CID=11223344\nparentCID=ffffffff\ncreateType=\"vmfs\"", `RW 100 VMFS "a b-flat.vmdk" 0`)))
	f.Add(string(text("encoding=\"windows-1252\"\nCID=1\nparentCID=2\nparentFileNameHint=\"C:\\x\\ä.vmdk\"\ncreateType=\"vmfsSparse\"", `RW 7 VMFSSPARSE "d"`, "RDONLY 1 ZERO", "NOACCESS 5 ZERO")))
	f.Add("\xef\xbb\xbf# disk descriptorfile\r\n\trw 1\tflat\t\"\xf6\" 3\r\n\x00\x00")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDescriptor([]byte(text))
		if err != nil {
			if !errors.Is(err, disk.ErrCorrupt) && !errors.Is(err, disk.ErrUnsupported) {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		if len(d.extents) > maxExtents {
			t.Fatalf("%d extents", len(d.extents))
		}
		for _, e := range d.extents {
			switch {
			case e.sectors <= 0 || e.sectors > disk.MaxSize/sector || e.offset < 0 || e.offset > (1<<62)/sector:
				t.Fatalf("extent out of bounds: %+v", e)
			case (e.name == "") && e.kind != "ZERO", strings.ContainsAny(e.name, "\"\x00\n"):
				t.Fatalf("extent of an invalid name: %+v", e)
			}
			for _, name := range d.names(e.name) {
				if (name == "") != (e.name == "") {
					t.Fatalf("name %q became %q", e.name, name)
				}
			}
		}
	})
}
