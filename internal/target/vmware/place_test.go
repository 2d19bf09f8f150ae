package vmware

import (
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/target/targettest"
	"ascend/internal/target/trust"
	"ascend/internal/target/vmware/vcsimtest"
	"ascend/internal/vm"
)

// TestSignIn has the sign-in and the certificate go wrong.
func TestSignIn(t *testing.T) {
	v := newVcsim(t, vcsimtest.Bare())
	before := v.Inventory(t)
	ctx := context.Background()
	sum := func(n int) string { return strings.Repeat("ab", n) }
	good := trust.FormatThumbprint(sha1Of(leafCertificate(t).Raw))
	for _, c := range []struct {
		name  string
		pairs []string
		says  string // "" is success
	}{
		{"right", nil, ""},
		{"thumbprint", []string{"ca_file", "", "thumbprint", good}, ""},
		{"insecure", []string{"ca_file", "", "insecure", "true"}, ""},
		{"wrong password", []string{"password", "guess-4711"}, "wrong user name or password"},
		{"unknown authority", []string{"ca_file", ""}, "unknown authority"},
		{"wrong SHA-256", []string{"ca_file", "", "thumbprint", sum(32)}, "not the thumbprint that is set"},
		{"wrong SHA-1", []string{"thumbprint", sum(20)}, "not the thumbprint that is set"},
		{"other name", []string{"url", strings.Replace(v.Host, "127.0.0.1", "localhost", 1)}, "not for this name"},
	} {
		tgt := v.open(t, c.pairs...)
		_, err := tgt.Inventory(ctx)
		order := load(t, "x", pathNFC, 512)
		rec := new(targettest.MemRecorder)
		if c.says == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			tgt.Close()
			continue
		}
		_, err2 := tgt.Begin(ctx, order.Order, rec)
		for _, err := range []error{err, err2} {
			if err == nil || !target.IsPermanent(err) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "\nhint: ") || strings.Contains(err.Error(), "4711") {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if rec.Calls() > 0 {
			t.Errorf("%s: something was recorded", c.name)
		}
		tgt.Close()
	}
	v.Unchanged(t, before)
}

func sha1Of(p []byte) []byte {
	s := sha1.Sum(p)
	return s[:]
}

// TestPlacement has each part of a placement be wrong.
func TestPlacement(t *testing.T) {
	m := vcsimtest.Small()
	m.Datacenter, m.Cluster, m.Datastore = 2, 2, 2
	v := newVcsim(t, m)
	before := v.Inventory(t)
	tgt := v.open(t)
	defer tgt.Close()
	full := map[string]string{fieldDatacenter: "DC1", fieldCluster: "DC1_C1", fieldDatastore: "LocalDS_1"}
	for _, c := range []struct {
		name   string
		fields map[string]string
		change func(o *target.Order)
		says   []string
	}{
		{"no datacenter", map[string]string{fieldDatacenter: ""}, nil, []string{"no datacenter is chosen", "DC0, DC1"}},
		{"unknown datacenter", map[string]string{fieldDatacenter: "DC7"}, nil, []string{`no datacenter "DC7"`, "DC0, DC1"}},
		{"no cluster", map[string]string{fieldCluster: ""}, nil, []string{"no cluster or host is chosen", "DC1_C0, DC1_C1"}},
		{"cluster of the other datacenter", map[string]string{fieldCluster: "DC0_C0"}, nil, []string{`no cluster "DC0_C0" in datacenter DC1`}},
		{"unknown host", map[string]string{fieldHost: "esx9"}, nil, []string{`no host "esx9"`, "DC1_C0_H0"}},
		{"host of the other cluster", map[string]string{fieldHost: "DC1_C0_H0"}, nil, []string{"host DC1_C0_H0 is not in cluster DC1_C1"}},
		{"pool of the other cluster", map[string]string{fieldPool: "DC1_C0_RP1"}, nil, []string{`no resource pool "DC1_C0_RP1" in DC1_C1`}},
		{"ambiguous pool", map[string]string{fieldCluster: "", fieldPool: "Resources"}, nil, []string{"ambiguous", "/DC1/host/DC1_C0/Resources, /DC1/host/DC1_C1/Resources"}},
		{"unknown folder", map[string]string{fieldFolder: "Prod/Web"}, nil, []string{`no folder "Prod/Web"`, "vm"}},
		{"no datastore", map[string]string{fieldDatastore: ""}, nil, []string{"no datastore is chosen", "LocalDS_0"}},
		{"unknown datastore", map[string]string{fieldDatastore: "nas"}, nil, []string{`no datastore "nas"`, "LocalDS_1"}},
		{"unknown storage of a disk", nil, func(o *target.Order) { o.Placement.Storage = []string{"nas"} }, []string{"disk 0", `"nas"`}},
		{"too much storage", nil, func(o *target.Order) { o.Placement.Storage = make([]string, 3) }, []string{"3 storage places"}},
		{"unmapped adapter", nil, func(o *target.Order) { o.Machine.NICs = make([]vm.NIC, 1) }, []string{"adapter 0 has no network", "VM Network"}},
		{"unknown network", nil, func(o *target.Order) { o.Machine.NICs = make([]vm.NIC, 1); o.Placement.Networks = []string{"dmz"} }, []string{`no network "dmz"`, "DC1_DVPG0"}},
		{"unknown field", map[string]string{"rack": "7"}, nil, []string{`unknown placement field "rack"`}},
		{"unknown option", nil, func(o *target.Order) { o.Options = map[string]string{"turbo": "1"} }, []string{`unknown option "turbo"`}},
		{"bad option", nil, func(o *target.Order) { o.Options = map[string]string{optUUID: "perhaps"} }, []string{"perhaps"}},
		{"no processors", nil, func(o *target.Order) { o.Machine.CPU = vm.CPU{} }, []string{"no processors"}},
		{"no memory", nil, func(o *target.Order) { o.Machine.Memory = 0 }, []string{"no memory"}},
		{"no name", nil, func(o *target.Order) { o.Machine.Name = " " }, []string{"no name"}},
		{"Secure Boot on BIOS", nil, func(o *target.Order) { o.Machine.SecureBoot = true }, []string{"Secure Boot"}},
		{"TPM without key provider", nil, func(o *target.Order) { o.Machine.Firmware, o.Machine.TPM = vm.UEFI, true }, []string{"key provider"}},
		{"odd disk", nil, func(o *target.Order) { o.Disks[0].Virtual = 1000 }, []string{"multiple of 512"}},
		{"huge disk", nil, func(o *target.Order) { o.Disks[0].Virtual = 63 << 40 }, []string{"62 TiB"}},
		{"more than the datastore has", nil, func(o *target.Order) { o.Disks[0].FileSize = 1 << 60 }, []string{"free"}},
		{"virtio disk", nil, func(o *target.Order) { o.Machine.Disks[0].Controller = vm.BusVirtioBlk }, []string{"virtio-blk"}},
		{"virtio adapter", nil, func(o *target.Order) {
			o.Machine.NICs, o.Placement.Networks = []vm.NIC{{Model: vm.VirtioNet}}, []string{"VM Network"}
		}, []string{"virtio"}},
		{"foreign delivery", nil, func(o *target.Order) { o.Disks[0].Delivery.Path = "carrier pigeon" }, []string{"carrier pigeon"}},
		{"no job", nil, func(o *target.Order) { o.Job = "" }, []string{"no job"}},
	} {
		o := load(t, "placed", pathNFC, 1<<20)
		o.Placement.Fields = map[string]string{}
		for k, f := range full {
			o.Placement.Fields[k] = f
		}
		for k, f := range c.fields {
			o.Placement.Fields[k] = f
		}
		if c.change != nil {
			c.change(o.Order)
		}
		rec := new(targettest.MemRecorder)
		_, err := tgt.Begin(context.Background(), o.Order, rec)
		if !errors.Is(err, target.ErrPermanent) || rec.Calls() > 0 {
			t.Errorf("%s: %v; %d records", c.name, err, rec.Calls())
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: the error does not say %q: %v", c.name, s, err)
			}
		}
	}
	v.Unchanged(t, before)
}

// TestHostChosen picks a host that can do it, and not always the same.
func TestHostChosen(t *testing.T) {
	m := vcsimtest.Bare()
	m.ClusterHost = 4
	v := newVcsim(t, m)
	hosts := v.Model.Map().AllReference("HostSystem")
	slices.SortFunc(hosts, func(a, b mo.Reference) int {
		return strings.Compare(a.(*simulator.HostSystem).Name, b.(*simulator.HostSystem).Name)
	})
	hosts[0].(*simulator.HostSystem).Runtime.InMaintenanceMode = true
	hosts[1].(*simulator.HostSystem).Datastore = hosts[1].(*simulator.HostSystem).Datastore[1:]
	tgt := v.open(t)
	defer tgt.Close()
	used := map[string]bool{}
	for i := range 8 {
		c := load(t, fmt.Sprintf("spread %d", i), pathNFC, 512)
		c.nic("VM Network", vm.NIC{})
		c.restore(t, tgt, new(targettest.MemRecorder))
		used[v.Machine(t, c.Machine.Name).Runtime.Host.Value] = true
	}
	for i, h := range hosts {
		if used[h.Reference().Value] != (i > 1) {
			t.Errorf("host %d used: %v", i, i <= 1)
		}
	}
	c := load(t, "nowhere", pathNFC, 512)
	hosts[2].(*simulator.HostSystem).Runtime.ConnectionState = types.HostSystemConnectionStateDisconnected
	hosts[3].(*simulator.HostSystem).Runtime.InMaintenanceMode = true
	if _, err := tgt.Begin(context.Background(), c.Order, new(targettest.MemRecorder)); !target.IsPermanent(err) || !strings.Contains(err.Error(), "no host") {
		t.Errorf("no host can: %v", err)
	}
}

// TestInventory lists places by the names that Placement takes.
func TestInventory(t *testing.T) {
	m := vcsimtest.Small()
	m.Datacenter, m.OpaqueNetwork, m.Host, m.App = 2, 1, 1, 1
	v := newVcsim(t, m)
	for _, ref := range v.Model.Map().AllReference("DistributedVirtualPortgroup") {
		if pg := ref.(*simulator.DistributedVirtualPortgroup); strings.Contains(pg.Name, "DVUplinks") {
			pg.Tag = []types.Tag{{Key: "SYSTEM/DVS.UPLINKPG"}} // as a vCenter tags them
		}
	}
	v.Foreign(t, "a/b 50%")
	tgt := v.open(t)
	defer tgt.Close()
	inv, err := tgt.Inventory(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	names := func(places []target.Place) (out []string) {
		for _, p := range places {
			out = append(out, p.Name)
		}
		slices.Sort(out)
		return out
	}
	for field, want := range map[string]string{
		fieldDatacenter: "DC0 DC1",
		fieldCluster:    "DC0_C0 DC0_H0 DC1_C0 DC1_H0",
		fieldPool:       "DC0_C0_APP0 DC0_C0_RP1 DC1_C0_APP0 DC1_C0_RP1",
		fieldFolder:     "/DC0/vm /DC1/vm",
		fieldDatastore:  "/DC0/datastore/LocalDS_0 /DC0/datastore/LocalDS_1 /DC1/datastore/LocalDS_0 /DC1/datastore/LocalDS_1",
	} {
		if got := strings.Join(names(inv.Places[field]), " "); got != want {
			t.Errorf("%s: %s", field, got)
		}
	}
	for _, p := range inv.Places[fieldDatastore] {
		if p.Free <= 0 {
			t.Errorf("datastore %+v has no free space", p)
		}
	}
	got := names(inv.Networks)
	for _, want := range []string{"/DC0/network/VM Network", "/DC1/network/VM Network", "DC0_DVPG0", "DC1_DVPG0"} {
		if !slices.Contains(got, want) {
			t.Errorf("networks %q lack %s", got, want)
		}
	}
	if slices.ContainsFunc(got, func(n string) bool { return strings.Contains(n, "Uplinks") }) {
		t.Errorf("an uplink group is offered as a network: %q", got)
	}
	if !slices.Contains(inv.Taken, "a/b 50%") || !slices.Contains(inv.Taken, "DC0_C0_RP1_VM0") {
		t.Errorf("taken names %q", inv.Taken)
	}
	// Every place can be placed on.
	for _, p := range inv.Networks {
		if !strings.Contains(p.Name, "DC0") || p.Name == "DC0_NSX0" { // no host is connected to that
			continue
		}
		c := load(t, "on "+path.Base(p.Name), pathNFC, 512)
		c.Placement.Fields = map[string]string{fieldDatacenter: "DC0", fieldCluster: "DC0_C0", fieldDatastore: "/DC0/datastore/LocalDS_0"}
		c.nic(p.Name, vm.NIC{})
		c.restore(t, tgt, new(targettest.MemRecorder))
	}
}

// noPrivilege is an authorization manager that grants all but the last one
// asked for (the simulator's encoder leaves out what is false).
type noPrivilege struct {
	mo.AuthorizationManager
}

func (a *noPrivilege) HasPrivilegeOnEntity(req *types.HasPrivilegeOnEntity) *methods.HasPrivilegeOnEntityBody {
	res := &types.HasPrivilegeOnEntityResponse{}
	for _, p := range req.PrivId {
		res.Returnval = append(res.Returnval, p != "VirtualMachine.Inventory.Delete")
	}
	return &methods.HasPrivilegeOnEntityBody{Res: res}
}

// TestValidate names what is wrong.
func TestValidate(t *testing.T) {
	v := newVcsim(t, vcsimtest.Small())
	ctx := context.Background()
	find := func(checks []target.Check, name string) target.Check {
		for _, c := range checks {
			if c.Name == name {
				return c
			}
		}
		t.Fatalf("no check %s in %+v", name, checks)
		return target.Check{}
	}
	run := func(pairs ...string) []target.Check {
		tgt := v.open(t, pairs...)
		defer tgt.Close()
		checks := tgt.Validate(ctx)
		var got []string
		for _, c := range checks {
			got = append(got, c.Name)
			if strings.Contains(c.Detail+c.Hint, vcsimtest.Password) {
				t.Errorf("check %s shows the password", c.Name)
			}
		}
		want := slices.Clone(checkNames)
		slices.Sort(want)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("checks %q", got)
		}
		return checks
	}
	for _, c := range run() {
		if !c.OK || c.Detail == "" {
			t.Errorf("%+v", c)
		}
	}
	if c := find(run("insecure", "true"), "certificate"); !c.OK || !strings.Contains(c.Detail, "not verified") {
		t.Errorf("insecure: %+v", c)
	}
	for _, c := range []struct {
		pairs []string
		check string
		after string
	}{
		{[]string{"url", "127.0.0.1:1"}, "reach", "certificate"},
		{[]string{"ca_file", ""}, "certificate", "sign-in"},
		{[]string{"password", "x"}, "sign-in", "inventory"},
		{[]string{"datacenter", "DC9"}, "datacenter", "privileges"},
	} {
		checks := run(c.pairs...)
		failed, after := find(checks, c.check), find(checks, c.after)
		if failed.OK || failed.Hint == "" || after.OK || !strings.Contains(after.Detail, "not checked") {
			t.Errorf("%v: %+v, %+v", c.pairs, failed, after)
		}
	}
	v.Model.Map().Put(&noPrivilege{mo.AuthorizationManager{Self: *v.Client(t).ServiceContent.AuthorizationManager}})
	if c := find(run(), "privileges"); c.OK || !strings.Contains(c.Detail, "VirtualMachine.Inventory.Delete") || strings.Contains(c.Detail, "Network.Assign") || c.Hint == "" {
		t.Errorf("privileges: %+v", c)
	}
}
