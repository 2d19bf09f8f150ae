package azure

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/azure/armsim"
	"ascend/internal/target/caps"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// azurite holds the bytes of every simulator of the package's tests.
var azurite *armsim.Azurite

func TestMain(m *testing.M) {
	os.Exit(func() int {
		a, err := armsim.StartAzurite()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		azurite = a
		defer a.Close()
		return m.Run()
	}())
}

// sim is a simulated Azure and how targets of it are opened.
type sim struct{ *armsim.Sim }

func newSim(t testing.TB, opts armsim.Options) sim {
	t.Helper()
	opts.Azurite, opts.Dir = azurite, t.TempDir()
	if opts.Delay == 0 {
		opts.Delay = 4 * time.Millisecond
	}
	s, err := armsim.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return sim{s}
}

// settings are those of a target that works, changed by pairs.
func (s sim) settings(pairs ...string) target.Settings {
	set := target.Settings{
		Name: "az", Platform: vm.Azure,
		Values: map[string]string{
			"subscription": armsim.Subscription, "tenant": armsim.Tenant, "client_id": armsim.ClientID,
			"resource_group": armsim.Group, "ca_file": s.CAFile, "arm_endpoint": s.URL, "authority_host": s.URL,
		},
		Secrets: map[string]secret.String{"client_secret": secret.New(armsim.ClientSecret)},
	}
	for i := 0; i < len(pairs); i += 2 {
		if strings.HasSuffix(pairs[i], "_secret") || strings.HasSuffix(pairs[i], "_password") {
			set.Secrets[pairs[i]] = secret.New(pairs[i+1])
		} else {
			set.Values[pairs[i]] = pairs[i+1]
		}
	}
	return set
}

// open opens a target through the registry, as the product does, with short
// times.
func (s sim) open(t testing.TB, pairs ...string) *azure {
	t.Helper()
	tgt, err := target.NewRegistry(Kind()).Open(t.Context(), s.settings(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	a := tgt.(*azure)
	a.cfg.poll, a.cfg.delay, a.cfg.waiting = 5*time.Millisecond, 5*time.Millisecond, 2*time.Second
	t.Cleanup(func() { a.Close() })
	return a
}

// peer is an Azure as the conformance suite sees it.
type peer struct{ sim }

func newPeer(t testing.TB) targettest.Peer { return peer{newSim(t, armsim.Options{})} }

func (p peer) Open(t testing.TB) target.Target { return p.open(t) }

func (p peer) Order(_ testing.TB, o *target.Order) {
	o.Placement.Fields = map[string]string{caps.VMSize: "Standard_D2s_v5"}
	for i := range o.Placement.Networks {
		o.Placement.Networks[i] = armsim.OtherGroup + "/" + armsim.Network + "/" + armsim.Subnet
	}
}

// Read finds the disk by the tag and the name, and its bytes in Azurite.
func (p peer) Read(t testing.TB, o *target.Order, i int) []byte {
	t.Helper()
	for _, id := range p.Disks(jobTag, jobValue(o.Job)) {
		if strings.Contains(id, fmt.Sprintf("-disk-%d-", i)) {
			file, err := p.Disk(id)
			if err != nil {
				t.Fatal(err)
			}
			checkFooter(t, file)
			return file[:len(file)-footerSize]
		}
	}
	t.Fatalf("there is no disk %d of job %s", i, o.Job)
	return nil
}

// checkFooter holds a file's end to the rules for fixed VHDs ("Prepare a Windows
// VHD for Azure"; Virtual Hard Disk Image Format Specification).
func checkFooter(t testing.TB, file []byte) {
	t.Helper()
	f := file[len(file)-footerSize:]
	be := binary.BigEndian
	size := int64(len(file) - footerSize)
	var sum uint32
	for i, b := range f {
		if i < 64 || i >= 68 {
			sum += uint32(b)
		}
	}
	switch {
	case !bytes.Equal(f[:8], []byte("conectix")):
		t.Errorf("the footer has no cookie: % x", f[:8])
	case be.Uint32(f[12:]) != 0x00010000 || be.Uint64(f[16:]) != ^uint64(0) || be.Uint32(f[60:]) != 2:
		t.Errorf("the footer is not that of a fixed disk: % x", f[:64])
	case int64(be.Uint64(f[48:])) != size || size%(1<<20) != 0:
		t.Errorf("the footer tells %d bytes; the disk has %d", be.Uint64(f[48:]), size)
	case be.Uint32(f[64:]) != ^sum:
		t.Errorf("the footer's checksum is %#x, not %#x", be.Uint32(f[64:]), ^sum)
	}
}

func (p peer) Inventory(testing.TB) []string { return p.Sim.Inventory() }

func (p peer) Running(_ testing.TB, v *target.VM) bool {
	m := p.Machine(v.ID)
	return m != nil && m.Power == "running"
}

// Occupy makes a machine of somebody else's with the order's name.
func (p peer) Occupy(t testing.TB, o *target.Order) {
	t.Helper()
	p.foreign(t, safe(o.Machine.Name))
}

// foreign makes a machine as somebody else does.
func (p peer) foreign(t testing.TB, name string) {
	t.Helper()
	c := p.open(t).c
	ctx := t.Context()
	group := c.path("resourceGroups", armsim.Group, "providers")
	disk := group + "/Microsoft.Compute/disks/foreign-disk"
	nic := group + "/Microsoft.Network/networkInterfaces/foreign-nic"
	for _, x := range []struct {
		id, api string
		body    any
	}{
		{disk, apiDisks, managedDisk{Location: armsim.Region, Properties: diskProperties{OSType: "Linux", Generation: "V1", CreationData: &creationData{Option: "Upload", Upload: 20<<20 + footerSize}}}},
		{nic, apiNetwork, resource[nicProperties]{Location: armsim.Region, Properties: nicProperties{Configurations: []ipConfig{{Name: "a",
			Properties: ipConfigProperties{Method: "Dynamic", Subnet: &ref{c.path("resourceGroups", armsim.OtherGroup, "providers/Microsoft.Network/virtualNetworks", armsim.Network, "subnets", armsim.Subnet)}}}}}}},
	} {
		if err := c.do(ctx, http.MethodPut, x.id, x.api, x.body, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.revoke(ctx, disk); err != nil {
		t.Fatal(err)
	}
	var m machine
	m.Location = armsim.Region
	m.Properties.Hardware.Size = "Standard_D2s_v5"
	m.Properties.Storage.OS = &vmDisk{OSType: "Linux", Create: "Attach", Caching: "None", Delete: "Detach", Managed: ref{disk}}
	m.Properties.Network = &vmNetwork{Interfaces: []vmNIC{{ID: nic, Properties: vmNICProperties{Primary: true, Delete: "Detach"}}}}
	if err := c.do(ctx, http.MethodPut, group+"/Microsoft.Compute/virtualMachines/"+name, apiCompute, m, nil); err != nil {
		t.Fatal(err)
	}
}

func (p peer) Break(t testing.TB) map[string]target.Target {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	other, err := armsim.Start(armsim.Options{Azurite: azurite, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	few := newSim(t, armsim.Options{Actions: []string{"*/read", "Microsoft.Compute/disks/*"}})
	full := newSim(t, armsim.Options{Cores: 1})
	peer{full}.open(t)
	out := map[string]target.Target{
		"wrong secret":       p.open(t, "client_secret", "wrong"),
		"wrong application":  p.open(t, "client_id", "11111111-2222-3333-4444-555555555555"),
		"wrong tenant":       p.open(t, "tenant", "11111111-2222-3333-4444-555555555555"),
		"wrong subscription": p.open(t, "subscription", "11111111-2222-3333-4444-555555555555"),
		"no such group":      p.open(t, "resource_group", "atlantis"),
		"no such region":     p.open(t, "location", "atlantis"),
		"unknown authority":  p.open(t, "ca_file", other.CAFile),
		"too few rights":     few.open(t),
	}
	nobody := p.open(t, "arm_endpoint", "https://127.0.0.1:1")
	nobody.cfg.call = time.Second
	out["nobody listens"] = nobody
	if _, err := newConfig(p.settings("ca_file", empty)); err == nil {
		t.Error("a file without certificates is taken as ca_file")
	}
	return out
}

// Crash ends a target's connections as the death of its process does.
func (p peer) Crash(_ testing.TB, tgt target.Target) {
	a := tgt.(*azure)
	a.stop()
	a.cfg.http.CloseIdleConnections()
}

func (p peer) Faults() []targettest.Fault {
	bytesFail := func(n int, f armsim.Fault) func(testing.TB, *target.Order) {
		return func(testing.TB, *target.Order) { p.FailBytes(n, f) }
	}
	callsFail := func(n int, f armsim.Fault) func(testing.TB, *target.Order) {
		return func(testing.TB, *target.Order) { p.FailCalls(n, f) }
	}
	return []targettest.Fault{
		{Name: "503 for 12 writes", Arm: bytesFail(12, armsim.Status(http.StatusServiceUnavailable, "ServerBusy"))},
		{Name: "500 once", Arm: bytesFail(1, armsim.Status(http.StatusInternalServerError, "InternalError"))},
		{Name: "408 twice", Arm: bytesFail(2, armsim.Status(http.StatusRequestTimeout, "OperationTimedOut"))},
		{Name: "connection breaks at once", Arm: bytesFail(2, armsim.Sever(0))},
		{Name: "connection breaks at byte 5000", Arm: bytesFail(3, armsim.Sever(5000))},
		{Name: "bytes arrive changed", Arm: bytesFail(1, armsim.Status(http.StatusBadRequest, "Crc64Mismatch"))},
		{Name: "429 for five calls", Arm: callsFail(5, armsim.Status(http.StatusTooManyRequests, "TooManyRequests"))},
		{Name: "503 for three calls", Arm: callsFail(3, armsim.Status(http.StatusServiceUnavailable, "ServerTimeout"))},
		{Name: "calls' connections break", Arm: callsFail(2, armsim.Sever(0))},
		{Name: "tokens end", Arm: func(testing.TB, *target.Order) { p.ExpireTokens() }},
	}
}
