package adapt

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"ascend/internal/firstboot"
	"ascend/internal/guest"
	"ascend/internal/guest/regf"
)

// onHive is a session whose hive was read already: what changes nothing but the
// registry needs no appliance.
func onHive(t *testing.T, major, minor int, keys ...string) (*work, func(key, value string) string) {
	t.Helper()
	h, err := regf.Open(regf.New())
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if _, err := h.Root().Create(k); err != nil {
			t.Fatal(err)
		}
	}
	r := &guest.Root{Windows: &guest.Windows{Major: major, Minor: minor, ControlSet: "ControlSet001", SystemHive: systemHive}}
	w := &work{res: &Result{}, now: &Applied{}, win: newWindows(r)}
	w.win.hive = h
	return w, func(key, value string) string {
		k, err := h.Root().Key(key)
		if err != nil {
			return "no key"
		}
		v, err := k.Value(value)
		if err != nil {
			return "no value"
		}
		b, err := v.Data()
		if err != nil {
			t.Fatal(err)
		}
		return regf.Format(v.Type(), b)
	}
}

// TestBootStart: before Windows 8 the devices of a driver are entered as well, and
// later they are not.
func TestBootStart(t *testing.T) {
	for _, c := range []struct {
		major, minor int
		want         string
	}{{6, 1, `"storvsc"`}, {10, 0, "no key"}} {
		w, get := onHive(t, c.major, c.minor, `ControlSet001\Services\storvsc\StartOverride`)
		if err := bootStart(w, t.Context(), w.win.root, guest.Change{Subject: "storvsc"}); err != nil {
			t.Fatal(err)
		}
		if got := get(`ControlSet001\Control\CriticalDeviceDatabase\VMBUS#{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}`, "Service"); got != c.want {
			t.Errorf("%d.%d: %s", c.major, c.minor, got)
		}
		if get(`ControlSet001\Services\storvsc`, "Start") != "0" || get(`ControlSet001\Services\storvsc\StartOverride`, "") != "no key" {
			t.Error("it does not start at boot")
		}
		if !slices.Contains(w.now.Registry, `ControlSet001\Services\storvsc\Start: 0, was not there`) || !w.win.edited {
			t.Errorf("%q", w.now.Registry)
		}
		// Done again, nothing is changed and nothing is said.
		w.now, w.win.edited = &Applied{}, false
		if err := bootStart(w, t.Context(), w.win.root, guest.Change{Subject: "storvsc"}); err != nil || w.win.edited || len(w.now.Registry) != 0 {
			t.Errorf("again: %v %q", err, w.now.Registry)
		}
	}
}

func TestAtFirstBoot(t *testing.T) {
	w, _ := onHive(t, 6, 1)
	for _, c := range []struct {
		c    guest.Change
		want string
	}{
		{guest.Change{Detail: []string{"192.0.2.1/24"}, Args: map[string]string{"mac": "", "gateway": "192.0.2.254"}}, ""},
		{guest.Change{Args: map[string]string{"disks": "3"}}, ""},
		{guest.Change{Args: map[string]string{"disks": "many"}}, "invalid syntax"},
		{guest.Change{Detail: []string{"192.0.2.1 & calc"}}, "no address"},
		{guest.Change{Subject: "initramfs rebuild"}, ErrCannot.Error()},
	} {
		err := atFirstBoot(w, t.Context(), w.win.root, c.c)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) && !strings.Contains(c.want, "no address") {
			t.Errorf("%+v: %v", c.c, err)
		}
	}
	// A guest that is being set up has its own command there.
	w, _ = onHive(t, 6, 1, "Setup")
	w.win.first = firstboot.Config{Version: 1, Disks: 2}
	if err := w.set(t.Context(), "Setup", "SetupType", dword(2)); err != nil {
		t.Fatal(err)
	}
	if err := w.script(t.Context(), "/Windows/Ascend"); err == nil || !strings.Contains(err.Error(), "its own setup") {
		t.Errorf("%v", err)
	}
}

func TestSetRegistry(t *testing.T) {
	w, get := onHive(t, 10, 0)
	if err := setRegistry(w, t.Context(), w.win.root, guest.Change{Subject: `Services\partmgr\Parameters\SanPolicy`, Args: map[string]string{"type": "dword", "value": "1"}}); err != nil {
		t.Fatal(err)
	}
	if got := get(`ControlSet001\Services\partmgr\Parameters`, "sanpolicy"); got != "1" {
		t.Error(got)
	}
	for _, c := range []guest.Change{{Subject: "SanPolicy", Args: map[string]string{"type": "dword", "value": "1"}}, {Subject: `a\b`, Args: map[string]string{"type": "binary"}}} {
		if err := setRegistry(w, t.Context(), w.win.root, c); !errors.Is(err, ErrCannot) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := setRegistry(w, t.Context(), w.win.root, guest.Change{Subject: `a\b`, Args: map[string]string{"type": "dword", "value": "one"}}); err == nil {
		t.Error("a number that is none is set")
	}
}

func TestWindowsHostname(t *testing.T) {
	w, get := onHive(t, 10, 0)
	if err := windowsHostname(w, t.Context(), w.win.root, guest.Change{Subject: "a-rather-long-name.example"}); err != nil {
		t.Fatal(err)
	}
	if get(`ControlSet001\Control\ComputerName\ComputerName`, "ComputerName") != `"A-RATHER-LONG-N"` || get(`ControlSet001\Services\Tcpip\Parameters`, "NV Hostname") != `"a-rather-long-name"` || get(`ControlSet001\Services\Tcpip\Parameters`, "Hostname") != `"a-rather-long-name"` {
		t.Errorf("%q", w.now.Registry)
	}
}
