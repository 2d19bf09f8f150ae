package vmware

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/targettest"
	"ascend/internal/target/vmware/vcsimtest"
	"ascend/internal/vm"
)

// vcsim is a simulated vCenter and how targets of it are opened.
type vcsim struct{ *vcsimtest.VCenter }

func newVcsim(t testing.TB, m *simulator.Model) vcsim { return vcsim{vcsimtest.New(t, m)} }

// settings are those of a target that works, changed by pairs.
func (v vcsim) settings(pairs ...string) target.Settings {
	s := target.Settings{
		Name: "vc", Platform: vm.VMware,
		Values: map[string]string{
			"url": v.Host, "username": vcsimtest.Username, "ca_file": v.CAFile,
		},
		Secrets: map[string]secret.String{"password": secret.New(vcsimtest.Password)},
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == "password" {
			s.Secrets["password"] = secret.New(pairs[i+1])
		} else {
			s.Values[pairs[i]] = pairs[i+1]
		}
	}
	return s
}

// open opens a target through the registry, as the product does.
func (v vcsim) open(t testing.TB, pairs ...string) *vmware {
	t.Helper()
	tgt, err := target.NewRegistry(Kind()).Open(context.Background(), v.settings(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	return tgt.(*vmware)
}

// peer is a vCenter as the conformance suite sees it.
type peer struct{ vcsim }

func newPeer(t testing.TB) targettest.Peer { return peer{newVcsim(t, vcsimtest.Bare())} }

func (p peer) Open(t testing.TB) target.Target {
	tgt := p.open(t)
	t.Cleanup(func() { tgt.Close() })
	return tgt
}

func (p peer) Order(_ testing.TB, o *target.Order) {
	o.Placement.Fields = map[string]string{fieldDatastore: "LocalDS_0"}
	for i := range o.Placement.Networks {
		o.Placement.Networks[i] = "VM Network"
	}
}

// Read decodes with the suite's memory of what it decoded before.
func (p peer) Read(t testing.TB, o *target.Order, i int) []byte {
	disks := vcsimtest.Disks(p.Machine(t, o.Machine.Name))
	if i >= len(disks) {
		t.Fatalf("the machine has %d disks", len(disks))
	}
	if posted := p.Posted(path.Base(vcsimtest.File(disks[i]))); posted != nil {
		return targettest.Decode(t, posted, "vmdk")
	}
	return p.Disk(t, disks[i])
}

func (p peer) Running(t testing.TB, v *target.VM) bool {
	return p.Machine(t, v.Name).Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
}

// Occupy makes a machine of somebody else's with the order's name.
func (p peer) Occupy(t testing.TB, o *target.Order) {
	p.Foreign(t, o.Machine.Name)
}

func (p peer) Break(t testing.TB) map[string]target.Target {
	pin := "SHA256:" + strings.Repeat("ab", 32)
	return map[string]target.Target{
		"wrong password":     p.open(t, "password", "wrong"),
		"wrong user":         p.open(t, "username", "nobody"),
		"unknown authority":  p.open(t, "ca_file", ""),
		"wrong thumbprint":   p.open(t, "thumbprint", pin),
		"nobody listens":     p.open(t, "url", "127.0.0.1:1"),
		"no such name":       p.open(t, "url", "vcenter.invalid"),
		"no such datacenter": p.open(t, "datacenter", "Atlantis"),
	}
}

// Crash ends a target's connections as the death of its process does.
func (p peer) Crash(_ testing.TB, tgt target.Target) {
	t := tgt.(*vmware)
	t.mu.Lock()
	var open []*session
	for s := range t.open {
		open = append(open, s)
	}
	clear(t.open)
	t.mu.Unlock()
	for _, s := range open {
		s.end(errors.New("killed"))
	}
}

func (p peer) Stall(testing.TB) (release func()) { return p.VCenter.Stall() }

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// sever reads n bytes, then drops the connection.
func sever(n int64) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, n)
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			c.Close()
		}
	}
}

func (p peer) Faults() []targettest.Fault {
	arm := func(n int, f func(http.ResponseWriter, *http.Request)) func(testing.TB, *target.Order) {
		return func(testing.TB, *target.Order) { p.First(n, f) }
	}
	return []targettest.Fault{
		{Name: "503 twice", Arm: arm(2, status(http.StatusServiceUnavailable))},
		{Name: "500 after all bytes", Arm: arm(1, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusInternalServerError)
		})},
		{Name: "connection breaks at once", Arm: arm(1, sever(0))},
		{Name: "connection breaks at byte 5000", Arm: arm(2, sever(5000))},
	}
}

// wait polls until f is true.
func wait(t testing.TB, what string, f func() bool) {
	t.Helper()
	for start := time.Now(); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
