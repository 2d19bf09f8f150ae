package winpack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"ascend/internal/guest/winpack/winpacktest"
	"ascend/internal/vm"
)

func utf16le(s string) []byte {
	b := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(s)) {
		b = append(b, byte(u), byte(u>>8))
	}
	return b
}

// pack makes a folder in virtio-win's layout, with oddities.
func pack(t testing.TB) string {
	dir := t.TempDir()
	add := func(folder, service, decoration, version string, wide bool) {
		winpacktest.Driver(t, dir, folder, service, decoration, version)
		if wide {
			winpacktest.Put(t, dir, folder+"/"+service+".inf", utf16le(winpacktest.INF(service, decoration, version)))
		}
	}
	for f, v := range map[string]string{"2k8R2": "NTamd64.6.1", "2k12R2": "NTamd64.6.3", "2k16": "NTamd64.10.0", "2k19": "NTamd64.10.0...17763", "w10": "NTamd64.10.0", "2k22": "NTamd64.10.0...17763"} {
		add("viostor/"+f+"/amd64", "viostor", v, "01/01/2024,100.1.2.3", f == "2k19")
	}
	add("viostor/2k19/x86", "viostor", "NTx86.10.0", "01/01/2025,200.0.0.0", false)
	add("flat/old", "ena", "NTamd64.6.1", "02/03/2020,2.1.0.0", false)
	add("flat/new", "ena", "NTamd64.10.0", "12/31/2019,1.9.0.0", false)
	add("versions/a", "awsnvme", "NTamd64", "02/03/2020,1.1.0.0", false)
	add("versions/b", "awsnvme", "NTamd64", "02/03/2021,1.0.0.0", false)
	add("Windows Server 2019/x64", "vioscsi", "NTamd64.10.0", "02/03/2020,1.0.0.0", false)
	add("broken", "netkvm", "NTamd64.10.0", "02/03/2020,1.0.0.0", false)
	if err := os.Remove(filepath.Join(dir, "broken/netkvm.sys")); err != nil {
		t.Fatal(err)
	}
	winpacktest.Put(t, dir, "autorun.inf", []byte("[autorun]"))
	winpacktest.Put(t, dir, "junk.inf", []byte("junk"))
	return dir
}

func chosen(t *testing.T, p *Pack, s System) (out []string, why map[string]string) {
	t.Helper()
	ds, why := p.For(s)
	for _, d := range ds {
		out = append(out, d.Service+" "+d.Folder)
	}
	return out, why
}

func TestFor(t *testing.T) {
	dir := pack(t)
	sources := map[string]string{"a folder": dir}
	for _, names := range []string{"-J", "-R", "-iso-level 4"} {
		f := filepath.Join(t.TempDir(), "pack.iso")
		args := append(strings.Fields(names), "-quiet", "-o", f, dir)
		if out, err := exec.Command("genisoimage", args...).CombinedOutput(); err != nil {
			t.Fatalf("genisoimage (build/deps installs it): %v: %s", err, out)
		}
		sources["an image with "+names] = f
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			p, err := Open(source)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if len(p.Notes) != 1 || !strings.HasPrefix(strings.ToLower(p.Notes[0]), "junk.inf") {
				t.Errorf("notes %q", p.Notes)
			}
			for _, c := range []struct {
				s    System
				want string
			}{
				{System{6, 1, 7601, true, vm.AMD64}, "awsnvme versions/b, ena flat/old, viostor viostor/2k8R2/amd64"},
				{System{6, 3, 9600, true, vm.AMD64}, "awsnvme versions/b, ena flat/old, viostor viostor/2k12R2/amd64"},
				{System{10, 0, 14393, true, vm.AMD64}, "awsnvme versions/b, ena flat/new, viostor viostor/2k16/amd64"},
				{System{10, 0, 17763, true, vm.AMD64}, "awsnvme versions/b, ena flat/new, vioscsi Windows Server 2019/x64, viostor viostor/2k19/amd64"},
				{System{10, 0, 19045, false, vm.AMD64}, "awsnvme versions/b, ena flat/new, vioscsi Windows Server 2019/x64, viostor viostor/w10/amd64"},
				{System{10, 0, 26100, true, vm.AMD64}, "awsnvme versions/b, ena flat/new, vioscsi Windows Server 2019/x64, viostor viostor/2k22/amd64"},
				{System{10, 0, 17763, true, vm.I386}, "viostor viostor/2k19/x86"},
				{System{10, 0, 22631, false, vm.ARM64}, ""},
				{System{6, 0, 6002, true, vm.AMD64}, "awsnvme versions/b"},
			} {
				got, why := chosen(t, p, c.s)
				if !strings.EqualFold(strings.Join(got, ", "), c.want) {
					t.Errorf("%+v: %s\nwant %s", c.s, strings.Join(got, ", "), c.want)
				}
				if (why["netkvm"] != "") != (c.s.Major == 10 && c.s.Arch == vm.AMD64) {
					t.Errorf("%+v: %q", c.s, why)
				}
			}
			ds, _ := p.For(System{10, 0, 17763, true, vm.AMD64})
			d := ds[slices.IndexFunc(ds, func(d *Driver) bool { return d.Service == "viostor" })]
			if d.Provider != "Example; Inc." || d.Group != "SCSI miniport" || !strings.EqualFold(d.Image, "viostor.sys") || d.Class != "SCSIAdapter" || d.ClassGUID != "{4d36e97b-e325-11ce-bfc1-08002be10318}" ||
				len(d.Files) != 3 || d.ImageFile() == nil || d.Size() == 0 || DriverVersion(d.Version) != [7]int{2024, 1, 1, 100, 1, 2, 3} {
				t.Errorf("%+v", d)
			}
			if want := []string{`PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00`, `PCI\VEN_1AF4&DEV_1001`, `PCI\VEN_1AF4&DEV_1042`}; !slices.Equal(d.Hardware, want) {
				t.Errorf("hardware %q", d.Hardware)
			}
			if want := []Value{{`Parameters\PnpInterface`, "5", true, "0x00000001"}, {"Parameters", "Text", false, "a, b"}}; !slices.Equal(d.Registry, want) {
				t.Errorf("registry %+v", d.Registry)
			}
			for _, f := range d.Files {
				b, err := p.Read(d, f)
				if err != nil || int64(len(b)) != f.Size {
					t.Errorf("%s: %v", f.Name, err)
				}
			}
		})
	}
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ds, _ := p.For(System{10, 0, 17763, true, vm.AMD64})
	winpacktest.Put(t, dir, "versions/b/awsnvme.sys", []byte("MZ another"))
	if _, err := p.Read(ds[0], *ds[0].ImageFile()); err == nil || !strings.Contains(err.Error(), "not the file that was chosen") {
		t.Errorf("a file that was changed: %v", err)
	}
}

func TestOpenFails(t *testing.T) {
	empty, text := t.TempDir(), filepath.Join(t.TempDir(), "text")
	winpacktest.Put(t, filepath.Dir(text), "text", []byte("no image"))
	for source, want := range map[string]string{empty: "no INF file", text: "not an ISO 9660 image", filepath.Join(empty, "none"): "no such file"} {
		if _, err := Open(source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", source, err)
		}
	}
}

// TestHostile: an INF names files outside of its folder, or a service that is no name.
func TestHostile(t *testing.T) {
	dir := t.TempDir()
	for i, change := range [][2]string{
		{"viostor.sys = 1,,", "../secret.sys = 1,,"}, {"AddService = viostor", `AddService = ..\viostor`}, {`%12%\viostor.sys`, `%12%\viostor.exe`},
		{"CatalogFile=viostor.cat", "CatalogFile=none.cat"},
	} {
		at := fmt.Sprintf("d%d", i)
		winpacktest.Put(t, dir, at+"/viostor.inf", []byte(strings.Replace(winpacktest.INF("viostor", "NTamd64.10.0", "1/1/2024,1.0.0.0"), change[0], change[1], 1)))
		winpacktest.Put(t, dir, at+"/viostor.sys", []byte("MZ"))
		winpacktest.Put(t, dir, at+"/viostor.cat", nil)
	}
	winpacktest.Put(t, dir, "secret.sys", []byte("MZ"))
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if ds, why := p.For(System{10, 0, 17763, true, vm.AMD64}); len(ds) != 0 || len(why) == 0 {
		t.Errorf("%+v %v", ds, why)
	}
}

func FuzzINF(f *testing.F) {
	f.Add([]byte(winpacktest.INF("viostor", "NTamd64.10.0...17763", "1/1/2024,1.0.0.0")))
	f.Add(utf16le("[Version]\na=%b%\n[Strings]\nb=\"%b%\"\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		i, err := parseINF(b)
		if err != nil {
			return
		}
		for _, m := range i.models(System{10, 0, 17763, true, vm.AMD64}) {
			_ = i.addReg(first(i.get(m.svc, "AddReg")))
		}
		_ = DriverVersion(i.version())
	})
}
