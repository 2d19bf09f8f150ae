package guest

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ascend/internal/guest/regf"
	"ascend/internal/guest/vfs"
	"ascend/internal/vm"
)

// tree is a driver of files in memory: no tool makes folders on NTFS without a
// mount, so NTFS itself is tested in its own package.
type tree struct {
	files map[string][]byte
	at    string
}

func (d tree) Root() (vfs.Node, error) { return d, nil }
func (d tree) Super() vfs.Super        { return vfs.Super{Type: "ntfs", Free: -1, FreeInodes: -1} }
func (d tree) FoldsCase() bool         { return true }
func (d tree) Link() (string, error)   { return "", fs.ErrInvalid }
func (d tree) Data() (io.ReaderAt, error) {
	return bytes.NewReader(d.files[d.at]), nil
}
func (d tree) Stat() vfs.Info {
	if b, ok := d.files[d.at]; ok {
		return vfs.Info{Size: int64(len(b))}
	}
	return vfs.Info{Mode: fs.ModeDir}
}
func (d tree) List() ([]vfs.Entry, error) {
	seen := map[string]bool{}
	var out []vfs.Entry
	for p := range d.files {
		rest, ok := strings.CutPrefix(p, d.at+"/")
		if !ok {
			continue
		}
		n, _, _ := strings.Cut(rest, "/")
		if !seen[n] {
			seen[n] = true
			out = append(out, vfs.Entry{Name: n, Open: func() (vfs.Node, error) { return tree{d.files, d.at + "/" + n}, nil }})
		}
	}
	return out, nil
}

// hive makes a hive with hivexregedit out of an empty one.
func hive(t *testing.T, reg string) []byte {
	t.Helper()
	dir := t.TempDir()
	h, r := filepath.Join(dir, "h"), filepath.Join(dir, "r")
	for p, b := range map[string][]byte{h: regf.New(), r: []byte("Windows Registry Editor Version 5.00\n" + reg)} {
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, "hivexregedit", "--merge", h, "--prefix", "HKLM", r)
	b, err := os.ReadFile(h)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestInspectWindows(t *testing.T) {
	system := "\n[HKLM\\Select]\n\"Current\"=dword:00000001\n"
	for _, k := range []string{"", `\Control`, `\Control\Session Manager`, `\Control\Session Manager\Power`, `\Services`} {
		system += "\n[HKLM\\ControlSet001" + k + "]\n"
		if strings.HasSuffix(k, "Power") {
			system += "\"HiberbootEnabled\"=dword:00000001\n"
		}
	}
	system += "\n[HKLM\\ControlSet001\\Services\\stornvme]\n\"Start\"=dword:00000003\n\n[HKLM\\ControlSet001\\Services\\stornvme\\StartOverride]\n\"0\"=dword:00000003\n"
	for _, k := range []string{`Tcpip`, `Tcpip\Parameters`, `Tcpip\Parameters\Interfaces`} {
		system += "\n[HKLM\\ControlSet001\\Services\\" + k + "]\n"
		if strings.HasSuffix(k, "Parameters") {
			system += "\"Hostname\"=\"win01\"\n"
		}
	}
	system += "\n[HKLM\\ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces\\{1}]\n\"EnableDHCP\"=dword:00000000\n\"NameServer\"=\"192.0.2.53,192.0.2.54\"\n" +
		"\"IPAddress\"=hex(7):31,00,39,00,32,00,2e,00,30,00,2e,00,32,00,2e,00,39,00,00,00,00,00\n\"SubnetMask\"=hex(7):32,00,35,00,35,00,2e,00,32,00,35,00,35,00,2e,00,30,00,2e,00,30,00,00,00,00,00\n"
	software := "\n[HKLM\\Microsoft]\n\n[HKLM\\Microsoft\\Windows NT]\n\n[HKLM\\Microsoft\\Windows NT\\CurrentVersion]\n\"ProductName\"=\"Windows Server 2019 Standard\"\n\"CurrentBuildNumber\"=\"17763\"\n\"CurrentMajorVersionNumber\"=dword:0000000a\n\"CurrentMinorVersionNumber\"=dword:00000000\n"
	dirty := hive(t, software)
	files := map[string][]byte{
		"/Windows/System32/config/SYSTEM": hive(t, system), "/Windows/System32/config/SOFTWARE": dirty,
		"/Windows/System32/drivers/stornvme.sys": nil, "/hiberfil.sys": []byte("HIBRxxxx"),
		"/Program Files/VMware/VMware Tools/vmtoolsd.exe": nil,
	}
	look := func() *Inspection {
		in := &inspector{Inspection: &Inspection{}, ctx: context.Background()}
		in.Volumes = []Volume{{ID: "disk0p1", Content: "ntfs", Super: &vfs.Super{}, driver: tree{files: files}}}
		in.root(&in.Volumes[0])
		return in.Inspection
	}
	in := look()
	if len(in.Roots) != 1 || len(in.Gaps) != 0 {
		t.Fatalf("%+v", in)
	}
	r := in.Roots[0]
	w := r.Windows
	s := w.Services["stornvme"]
	if r.OS.Distribution != "windows-server" || r.OS.Version != "2019" || w.Major != 10 || w.Build != "17763" || r.Hostname != "win01" ||
		!w.Hibernated || !w.FastStartup || !w.VMwareTools || s.Start != 3 || s.Override["0"] != 3 || !s.File {
		t.Errorf("%+v %+v", r, w)
	}
	if len(r.Interfaces) != 1 || r.Interfaces[0].Addresses[0] != "192.0.2.9/16" || len(r.Interfaces[0].DNS) != 2 {
		t.Errorf("%+v", r.Interfaces)
	}
	a := Decide(in, Target{Platform: vm.AWS}, Choices{})
	if !a.Stopped() || a.Controller != vm.BusNVMe {
		t.Errorf("%+v", a)
	}
	dirty[4]++ // and no logs beside it
	if in = look(); len(in.Gaps) != 1 || in.Gaps[0].Code != "registry" || len(in.Roots) != 1 || in.Roots[0].Hostname != "win01" {
		t.Errorf("%+v", in)
	}
}
