// Package winpacktest makes packs of Windows drivers to test with. Nothing of a
// real driver is in them.
package winpacktest

import (
	"os"
	"path/filepath"
	"testing"
)

// INF is one as drivers of disks have it: for the systems of a decoration.
func INF(service, decoration, version string) string {
	return `; a comment with [brackets]
[Version]
Signature="$WINDOWS NT$"
Class=SCSIAdapter
ClassGUID={4D36E97B-E325-11CE-BFC1-08002BE10318}
Provider=%VENDOR%
DriverVer=` + version + ` ; comment
CatalogFile=` + service + `.cat

[SourceDisksNames]
1 = %DISK%,,,""
[SourceDisksFiles]
` + service + `.sys = 1,,

[Manufacturer]
%VENDOR%=Models,` + decoration + `

[Models.` + decoration + `]
%D0% = scsi_inst, PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00, PCI\VEN_1AF4&DEV_1001
"Quoted; name" = scsi_inst, PCI\VEN_1AF4&DEV_1042

[scsi_inst]
CopyFiles=x
[scsi_inst.Services]
AddService = ` + service + `, %SERVICE%, svc_inst

[svc_inst]
ServiceType=1
StartType=0
ServiceBinary=%12%\` + service + `.sys
LoadOrderGroup=SCSI miniport
AddReg=pnp_addreg
[pnp_addreg]
HKR, "Parameters\PnpInterface", "5", 0x00010001, 0x00000001
HKR, "Parameters", "Text", , "a, b"
HKR, "Parameters", "Bytes", 0x00000001, 01,02
HKLM, "Software", "No", , "no"

[Strings]
VENDOR = "Example; Inc."
DISK="disk"
SERVICE=0x00000002
D0="100% of it"
`
}

// Put makes a file below dir.
func Put(t testing.TB, dir, name string, data []byte) {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Driver makes a whole driver in a folder of a pack.
func Driver(t testing.TB, dir, folder, service, decoration, version string) {
	t.Helper()
	Put(t, dir, folder+"/"+service+".inf", []byte(INF(service, decoration, version)))
	Put(t, dir, folder+"/"+service+".sys", []byte("MZ "+folder))
	Put(t, dir, folder+"/"+service+".cat", []byte("catalogue"))
}
