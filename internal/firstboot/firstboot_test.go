package firstboot

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// double is a Windows that keeps what it is told. There is none to test on here:
// the programs' names and arguments are those of their own documentation.
type double struct {
	ran    []string
	codes  map[string]int // by the first word of the command, or the whole
	fails  string         // a program that is not there
	seen   [][]Interface  // what each look at the adapters shows; the last stays
	waits  int
	files  map[string]string
	logged []string
}

func (d *double) Exec(_ context.Context, argv ...string) (string, int, error) {
	if argv[0] == d.fails {
		return "", 0, errors.New("no such program")
	}
	c := strings.Join(argv, " ")
	d.ran = append(d.ran, c)
	for k, n := range d.codes {
		if strings.Contains(c, k) {
			return "it  says\r\nwhy", n, nil
		}
	}
	return "", 0, nil
}

func (d *double) Interfaces() ([]Interface, error) {
	if len(d.seen) == 0 {
		return nil, errors.New("none")
	}
	s := d.seen[0]
	if len(d.seen) > 1 {
		d.seen = d.seen[1:]
	}
	return s, nil
}

func (d *double) WriteFile(name, text string) (string, error) {
	d.files[name] = text
	return `C:\Windows\Ascend\` + name, nil
}
func (d *double) Wait(context.Context, time.Duration) bool { d.waits++; return true }
func (d *double) Log(f string, a ...any)                   { d.logged = append(d.logged, fmt.Sprintf(f, a...)) }

var whole = Config{
	Version: 1, Drivers: []string{"drivers/viostor/viostor.inf", "drivers/netkvm/netkvm.inf"}, Disks: 3,
	Adapters: []Adapter{
		{MAC: "52:54:00:00:00:01", Addresses: []string{"192.0.2.9/24", "192.0.2.10/32"}, Gateways: []string{"192.0.2.1", "192.0.2.2"}, DNS: []string{"198.51.100.1", "198.51.100.2"}},
		{MAC: "52:54:00:00:00:02", Addresses: []string{"10.0.0.5/20"}},
	},
}

func TestRun(t *testing.T) {
	one, two := Interface{Index: 7, MAC: "52:54:00:00:00:01", Addresses: []string{"169.254.0.1/16"}}, Interface{Index: 12, MAC: "52:54:00:00:00:02", Addresses: []string{"10.0.0.5/20"}}
	d := &double{files: map[string]string{}, codes: map[string]int{"netkvm": codeRestart}, seen: [][]Interface{{}, {two}, {two, one}}}
	r := Run(t.Context(), d, "dir", &whole)
	if len(r.Failed) != 0 || !r.Reboot || d.waits != 2 {
		t.Errorf("%+v after %d waits\n%s", r, d.waits, strings.Join(d.logged, "\n"))
	}
	want := []string{
		"pnputil.exe /add-driver " + filepath.Join("dir", "drivers", "viostor", "viostor.inf") + " /install",
		"pnputil.exe /add-driver " + filepath.Join("dir", "drivers", "netkvm", "netkvm.inf") + " /install",
		"netsh interface ipv4 set address name=7 source=static address=192.0.2.9 mask=255.255.255.0 gateway=192.0.2.1 gwmetric=1",
		"netsh interface ipv4 add address name=7 address=192.0.2.10 mask=255.255.255.255",
		"netsh interface ipv4 add address name=7 gateway=192.0.2.2 gwmetric=2",
		"netsh interface ipv4 set dnsservers name=7 source=static address=198.51.100.1 validate=no",
		"netsh interface ipv4 add dnsservers name=7 address=198.51.100.2 index=2 validate=no",
		`diskpart.exe /s C:\Windows\Ascend\disks.txt`,
	}
	if !slices.Equal(d.ran, want) {
		t.Errorf("ran\n%s\nwant\n%s", strings.Join(d.ran, "\n"), strings.Join(want, "\n"))
	}
	if s := d.files[DiskFile]; !strings.Contains(s, "select disk 2 noerr\r\nonline disk noerr\r\n") || strings.Contains(s, "disk 0") || strings.Contains(s, "disk 3") {
		t.Errorf("%q", s)
	}
}

// TestRunFails: whatever fails is named, and the rest is done.
func TestRunFails(t *testing.T) {
	d := &double{files: map[string]string{}, codes: map[string]int{"viostor": 2, "set address": 1}, fails: "diskpart.exe", seen: [][]Interface{{{Index: 7, MAC: "52:54:00:00:00:01"}}}}
	r := Run(t.Context(), d, "dir", &whole)
	want := []string{"driver drivers/viostor/viostor.inf: code 2: it says why", "adapter 52:54:00:00:00:01: netsh", "adapter 52:54:00:00:00:02 with 10.0.0.5/20 was not found", "disks: diskpart.exe"}
	if len(r.Failed) != len(want) {
		t.Fatalf("%q", r.Failed)
	}
	for i, w := range want {
		if !strings.HasPrefix(r.Failed[i], w) {
			t.Errorf("%q, not %q", r.Failed[i], w)
		}
	}
	if d.waits != int(Patience/Between) {
		t.Errorf("waited %d times", d.waits)
	}
	if !slices.ContainsFunc(d.ran, func(s string) bool { return strings.Contains(s, "add dnsservers name=7") }) {
		t.Errorf("%q", d.ran)
	}
	// One adapter without a MAC address is the only one there is, or none.
	c := Config{Version: 1, Adapters: []Adapter{{Addresses: []string{"192.0.2.9/24"}}}}
	d = &double{files: map[string]string{}, seen: [][]Interface{{{Index: 1, MAC: "a"}, {Index: 2, MAC: "b"}}, {{Index: 2, MAC: "b"}}}}
	if r := Run(t.Context(), d, "dir", &c); len(r.Failed) != 0 || len(d.ran) != 1 || !strings.Contains(d.ran[0], "name=2") {
		t.Errorf("%+v %q", r, d.ran)
	}
}

func TestCheck(t *testing.T) {
	if err := whole.Check(); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]Config{
		"version":       {},
		"path":          {Version: 1, Drivers: []string{"drivers/../x/y.inf"}},
		"quoted path":   {Version: 1, Drivers: []string{`drivers/a/b".inf`}},
		"two nameless":  {Version: 1, Adapters: []Adapter{{Addresses: []string{"192.0.2.1/24"}}, {Addresses: []string{"192.0.2.2/24"}}}},
		"MAC":           {Version: 1, Adapters: []Adapter{{MAC: "52:54:00:00:00:01' or 1=1", Addresses: []string{"192.0.2.1/24"}}}},
		"address":       {Version: 1, Adapters: []Adapter{{Addresses: []string{"192.0.2.1/24 & calc"}}}},
		"no address":    {Version: 1, Adapters: []Adapter{{}}},
		"gateway":       {Version: 1, Adapters: []Adapter{{Addresses: []string{"192.0.2.1/24"}, Gateways: []string{"&calc"}}}},
		"name server":   {Version: 1, Adapters: []Adapter{{Addresses: []string{"192.0.2.1/24"}, DNS: []string{"::1"}}}},
		"many disks":    {Version: 1, Disks: 1 << 20},
		"IPv6 address":  {Version: 1, Adapters: []Adapter{{Addresses: []string{"2001:db8::1/64"}}}},
		"folder itself": {Version: 1, Drivers: []string{"drivers/./x.inf"}},
	} {
		if c.Check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := Parse([]byte("{")); err == nil {
		t.Error("a broken file is read")
	}
}

// TestScript: the command file for older Windows holds what Run does, every label
// it goes to is there once, and lines end as cmd wants them.
func TestScript(t *testing.T) {
	s, disks := whole.Script()
	for _, w := range []string{
		`pnputil.exe -i -a "%DIR%\drivers\viostor\viostor.inf"`, `MACAddress='52:54:00:00:00:02'`, `SetupType /t REG_DWORD /d 0`,
		`netsh interface ipv4 set address name="%NIC%" source=static address=192.0.2.9 mask=255.255.255.0 gateway=192.0.2.1 gwmetric=1`, `mask=255.255.240.0`,
		`diskpart /s "%DIR%\disks.txt"`,
	} {
		if strings.Count(s, w) != 1 {
			t.Errorf("%q stands %d times in\n%s", w, strings.Count(s, w), s)
		}
	}
	labels := map[string]int{}
	for l := range strings.SplitSeq(strings.TrimSuffix(s, "\r\n"), "\r\n") {
		if strings.ContainsAny(l, "\r\n") || strings.Contains(l, "%!") {
			t.Errorf("%q", l)
		}
		if n, ok := strings.CutPrefix(l, ":"); ok {
			labels[n]++
		}
	}
	for _, part := range strings.Split(s, "goto ")[1:] {
		if n := strings.Fields(part)[0]; labels[n] != 1 {
			t.Errorf("goto %s: %d labels", n, labels[n])
		}
	}
	if !strings.HasSuffix(s, "del \"%~f0\"\r\n") || !strings.Contains(disks, "select disk 2") {
		t.Error("it does not remove itself, or leaves disks")
	}
	if s, disks := (&Config{Version: 1}).Script(); strings.Contains(s, "diskpart") || disks != "" {
		t.Error("disks without any")
	}
}

// TestBuilds: the program builds, and vet has nothing to say.
func TestBuilds(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "vet", "ascend/cmd/ascend-firstboot")
	cmd.Env = append(cmd.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
