package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/target/targettest"
	"ascend/internal/target/vmware/vcsimtest"
	"ascend/internal/vm"
)

// TestHardware restores one machine with everything and looks at what came about.
func TestHardware(t *testing.T) {
	for _, way := range []string{pathNFC, pathDatastore} {
		t.Run(way, func(t *testing.T) {
			v := newVcsim(t, vcsimtest.Small())
			// The simulator's leases cannot tell two disks whose files are of one
			// name: something is in the way of the first names on the other datastore.
			const odd = "Büro 50% a/b"
			file := vcsimtest.Disguise(escapeName(odd))
			dir := filepath.Join(v.Stores(t)["LocalDS_1"], file)
			err := os.Mkdir(dir, 0o700)
			for i := range 9 {
				err = errors.Join(err, os.WriteFile(filepath.Join(dir, file+strings.TrimSuffix(fmt.Sprintf("_%d", i), "_0")+".vmdk"), nil, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			before := v.Inventory(t)
			c := load(t, odd, way, 3<<20+512, 1<<20, 512, 2<<20, 1<<20, 1<<20, 1<<20, 1<<20)
			m := c.Machine
			m.UUID, m.Annotation = "4c4c4544-0051-4810-8057-b4c04f4d3732", "line one\nline two <&>"
			m.CPU, m.Memory = vm.CPU{Sockets: 2, CoresPerSocket: 3, Threads: 2}, 1<<30+1
			m.Firmware, m.SecureBoot = vm.UEFI, true
			m.Guest = vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "11"}
			for i, d := range []vm.Disk{
				{Controller: vm.BusPVSCSI, ControllerNumber: 1, Unit: 3}, {Controller: vm.BusLSISAS}, {Controller: vm.BusLSILogic, ControllerNumber: 2},
				{Controller: vm.BusLSIBus, ControllerNumber: 3, Unit: 9}, {Controller: vm.BusSATA, Unit: 4}, {Controller: vm.BusNVMe, ControllerNumber: 2, Unit: 1},
				{Controller: vm.BusIDE, ControllerNumber: 1}, {Controller: vm.BusPVSCSI, ControllerNumber: 1},
			} {
				d.Boot = i == 5
				m.Disks[i] = d
			}
			c.at = []slotKey{
				{"ParaVirtualSCSIController", 1, 3}, {"VirtualLsiLogicSASController", 0, 0}, {"VirtualLsiLogicController", 2, 0}, {"VirtualBusLogicController", 3, 9},
				{"VirtualAHCIController", 0, 4}, {"VirtualNVMEController", 2, 1}, {"VirtualIDEController", 1, 0}, {"ParaVirtualSCSIController", 1, 0},
			}
			off := false
			c.nic("DC0_DVPG0", vm.NIC{MAC: "52:54:00:AB:cd:ef", Model: vm.E1000E})
			c.nic("VM Network", vm.NIC{MAC: "00:50:56:81:02:03", Model: vm.VMXNET3})
			c.nic("/DC0/network/DC0_DVPG0", vm.NIC{Model: vm.E1000, Connected: &off})
			c.Placement.Fields = map[string]string{
				fieldDatacenter: "DC0", fieldCluster: "/DC0/host/DC0_C0", fieldHost: "DC0_C0_H0", fieldPool: "DC0_C0_RP1",
				fieldFolder: "/DC0/vm", fieldDatastore: "LocalDS_0",
			}
			c.Placement.Storage = []string{"", "LocalDS_1"}
			c.Options = map[string]string{optUUID: "keep", optHardware: "vmx-19"}
			tgt := v.open(t)
			defer tgt.Close()
			rec := new(targettest.MemRecorder)
			got := c.restore(t, tgt, rec)
			c.compare(t, v)
			x := v.Machine(t, m.Name)
			if got.ID != x.Self.Value || got.Name != m.Name || !strings.HasPrefix(got.URL, "https://") {
				t.Errorf("Finish gave %+v", got)
			}
			cfg := x.Config
			if cfg.Hardware.NumCPU != 12 || *cfg.Hardware.NumCoresPerSocket != 6 || cfg.Hardware.MemoryMB != 1028 || cfg.Firmware != "efi" ||
				!*cfg.BootOptions.EfiSecureBootEnabled || cfg.Uuid != m.UUID || cfg.GuestId != "debian11_64Guest" || cfg.Annotation != m.Annotation || cfg.Version != "vmx-19" {
				t.Errorf("the machine is %+v", cfg)
			}
			extra := map[string]any{}
			for _, o := range cfg.ExtraConfig {
				extra[o.GetOptionValue().Key] = o.GetOptionValue().Value
			}
			if extra[jobKey] != c.Job || extra["ethernet1.checkMACAddress"] != "FALSE" || extra["ethernet0.checkMACAddress"] != nil {
				t.Errorf("extraConfig %v", extra)
			}
			at := slotsOf(cfg.Hardware.Device)
			for i, want := range c.at {
				d := at[want]
				if d == nil {
					t.Errorf("disk %d is not at %v", i, want)
					continue
				}
				file := vcsimtest.File(d)
				if store := "[LocalDS_0]"; i != 1 && !strings.HasPrefix(file, store) || i == 1 && !strings.HasPrefix(file, "[LocalDS_1]") {
					t.Errorf("disk %d lies at %s", i, file)
				}
				if way == pathNFC && !*d.Backing.(*types.VirtualDiskFlatVer2BackingInfo).ThinProvisioned {
					t.Errorf("disk %d is thick", i)
				}
				if i == 5 {
					first := cfg.BootOptions.BootOrder[0].(*types.VirtualMachineBootOptionsBootableDiskDevice)
					if first.DeviceKey != d.Key || len(cfg.BootOptions.BootOrder) != 8 {
						t.Errorf("boot order %+v begins not with disk 5, key %d", cfg.BootOptions.BootOrder, d.Key)
					}
				}
			}
			var nics []string
			for _, d := range cfg.Hardware.Device {
				if n, ok := d.(types.BaseVirtualEthernetCard); ok {
					e := n.GetVirtualEthernetCard()
					nics = append(nics, fmt.Sprintf("%s %s %s %T connected %v", typeName(d), e.MacAddress, e.AddressType, e.Backing, e.Connectable.StartConnected))
				}
			}
			const (
				portgroup = "*types.VirtualEthernetCardDistributedVirtualPortBackingInfo"
				standard  = "*types.VirtualEthernetCardNetworkBackingInfo"
			)
			if len(nics) != 3 || nics[0] != "VirtualE1000e 52:54:00:ab:cd:ef manual "+portgroup+" connected true" ||
				nics[1] != "VirtualVmxnet3 00:50:56:81:02:03 manual "+standard+" connected true" ||
				!strings.HasPrefix(nics[2], "VirtualE1000 ") || !strings.HasSuffix(nics[2], portgroup+" connected false") {
				t.Errorf("network adapters:\n%s", strings.Join(nics, "\n"))
			}
			if x.ResourcePool.Value == "" || *x.Runtime.Host == (types.ManagedObjectReference{}) {
				t.Errorf("pool %v, host %v", x.ResourcePool, x.Runtime.Host)
			}
			undo(t, tgt, rec)
			v.Unchanged(t, before)
		})
	}
}

// TestLengthKnown sends a stream whose length is known as a stored one's is.
func TestLengthKnown(t *testing.T) {
	v := newVcsim(t, vcsimtest.Bare())
	var lengths []int64
	v.Handle(func(_ http.ResponseWriter, r *http.Request) bool {
		lengths = append(lengths, r.ContentLength)
		return false
	})
	tgt := v.open(t, "link", "fast")
	defer tgt.Close()
	for _, known := range []bool{true, false} {
		c := load(t, fmt.Sprintf("known %v", known), pathNFC, 2<<20)
		c.Disks[0].Delivery = tgt.Capabilities().Deliveries[0]
		if known {
			c.Disks[0].FileSize = int64(len(c.file[0]))
		}
		c.restore(t, tgt, new(targettest.MemRecorder))
		c.compare(t, v)
		want := int64(-1)
		if known {
			want = int64(len(c.file[0]))
		}
		if got := lengths[len(lengths)-1]; got != want {
			t.Errorf("Content-Length %d, want %d", got, want)
		}
	}
	c := load(t, "too long", pathNFC, 2<<20)
	c.Disks[0].FileSize = 1000
	s, err := tgt.Begin(context.Background(), c.Order, new(targettest.MemRecorder))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	if _, err := c.send(context.Background(), s, 0); !target.IsPermanent(err) {
		t.Errorf("more bytes than announced: %v", err)
	}
}

// TestParallel counts the streams that run at a time: each waits until as many as
// are allowed have come.
func TestParallel(t *testing.T) {
	for _, limit := range []int{1, 2, 4} {
		v := newVcsim(t, vcsimtest.Bare())
		var mu sync.Mutex
		now, most := 0, 0
		full := make(chan struct{})
		v.Handle(func(http.ResponseWriter, *http.Request) bool {
			mu.Lock()
			now++
			if now > most {
				if most = now; most == limit {
					close(full)
				}
			}
			mu.Unlock()
			select {
			case <-full:
			case <-time.After(20 * time.Second): // fewer come: the count says so
			}
			mu.Lock()
			now--
			mu.Unlock()
			return false
		})
		tgt := v.open(t, "parallel_disks", strconv.Itoa(limit))
		c := load(t, "parallel", pathNFC, 1<<20, 2<<20, 1<<20, 3<<20, 512)
		c.restore(t, tgt, new(targettest.MemRecorder))
		c.compare(t, v)
		if most != limit {
			t.Errorf("%d streams at a time, %d allowed", most, limit)
		}
		tgt.Close()
	}
}

// TestMixedPaths refuses an order whose disks go different ways.
func TestMixedPaths(t *testing.T) {
	v := newVcsim(t, vcsimtest.Bare())
	tgt := v.open(t)
	defer tgt.Close()
	c := load(t, "mixed", pathNFC, 512, 512)
	c.Disks[1] = load(t, "mixed", pathDatastore, 512).Disks[0]
	if _, err := tgt.Begin(context.Background(), c.Order, new(targettest.MemRecorder)); !target.IsPermanent(err) {
		t.Errorf("mixed deliveries: %v", err)
	}
}

// TestESXi restores to a host without vCenter, where lease addresses begin with "*".
func TestESXi(t *testing.T) {
	for _, way := range []string{pathNFC, pathDatastore} {
		v := newVcsim(t, simulator.ESX())
		before := v.Inventory(t)
		tgt := v.open(t)
		for _, c := range tgt.Validate(context.Background()) {
			if !c.OK {
				t.Errorf("%s: %s", c.Name, c.Detail)
			}
		}
		c := load(t, "on a host", way, 1<<20, 512)
		c.Placement.Fields = nil
		c.nic("VM Network", vm.NIC{})
		rec := new(targettest.MemRecorder)
		c.restore(t, tgt, rec)
		c.compare(t, v)
		undo(t, tgt, rec)
		v.Unchanged(t, before)
		tgt.Close()
	}
}

// TestGuestSupported takes the hosts' word for what they support.
func TestGuestSupported(t *testing.T) {
	v := newVcsim(t, vcsimtest.Bare())
	for _, b := range v.Model.Map().AllReference("EnvironmentBrowser") {
		b.(*simulator.EnvironmentBrowser).QueryConfigOptionResponse.Returnval = &types.VirtualMachineConfigOption{
			GuestOSDescriptor: []types.GuestOsDescriptor{{Id: "otherGuest64"}, {Id: "debian10_64Guest"}},
		}
	}
	tgt := v.open(t)
	defer tgt.Close()
	for name, c := range map[string]struct {
		options map[string]string
		want    string
	}{
		"supported": {nil, "debian10_64Guest"},
		"forced":    {map[string]string{optGuestID: "ubuntu64Guest"}, "ubuntu64Guest"},
	} {
		o := load(t, name, pathNFC, 512)
		o.Machine.Guest = vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12"}
		o.Options = c.options
		o.restore(t, tgt, new(targettest.MemRecorder))
		if got := v.Machine(t, name).Config.GuestId; got != c.want {
			t.Errorf("%s: guestId %s", name, got)
		}
	}
}

// TestTPM adds a TPM where there is a key provider.
func TestTPM(t *testing.T) {
	v := newVcsim(t, vcsimtest.Bare())
	c := v.Client(t)
	ctx := context.Background()
	id := types.KeyProviderId{Id: "native"}
	if _, err := methods.RegisterKmsCluster(ctx, c, &types.RegisterKmsCluster{
		This: *c.ServiceContent.CryptoManager, ClusterId: id, ManagementType: string(types.KmipClusterInfoKmsManagementTypeNativeProvider),
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := methods.MarkDefault(ctx, c, &types.MarkDefault{This: *c.ServiceContent.CryptoManager, ClusterId: id}); err != nil {
		t.Fatal(err)
	}
	o := load(t, "with TPM", pathNFC, 512)
	o.Machine.Firmware, o.Machine.TPM = vm.UEFI, true
	tgt := v.open(t)
	defer tgt.Close()
	rec := new(targettest.MemRecorder)
	o.restore(t, tgt, rec)
	o.restore(t, tgt, rec) // adopts and configures again
	n := 0
	for _, d := range v.Machine(t, "with TPM").Config.Hardware.Device {
		if isTPM(d) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the machine has %d TPMs", n)
	}
	if v.Posts() != 1 {
		t.Errorf("the disk was posted %d times", v.Posts())
	}
}

// TestReadBack reads what landed on a datastore by ranges.
func TestReadBack(t *testing.T) {
	v := newVcsim(t, vcsimtest.Bare())
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	c := load(t, "read back", pathDatastore, 3<<20+512)
	s, err := tgt.Begin(ctx, c.Order, new(targettest.MemRecorder))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	rb, _ := target.As[target.ReadBacker](s)
	if _, err := rb.ReadBack(ctx, 0); err == nil {
		t.Error("a disk that was not sent can be read back")
	}
	l, err := c.send(ctx, s, 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err := rb.ReadBack(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	later, err := tgt.ReadLanded(ctx, l.Object, c.Disks[0].Delivery.Format)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(c.raw[0]))
	for _, d := range []io.ReaderAt{d, later} {
		for _, r := range [][2]int64{{0, 1}, {0, size}, {511, 70_000}, {size - 1, 1}, {size - 10, 100}, {size, 5}, {2 << 20, 0}} {
			p := make([]byte, r[1])
			n, err := d.ReadAt(p, r[0])
			want := min(r[1], size-r[0])
			if int64(n) != want || !bytes.Equal(p[:n], c.raw[0][r[0]:r[0]+want]) || (err == io.EOF) != (want < r[1]) || err != nil && err != io.EOF {
				t.Errorf("%d bytes at %d: %d, %v", r[1], r[0], n, err)
			}
		}
		if _, err := d.ReadAt(make([]byte, 1), -1); err == nil {
			t.Error("a negative offset is no error")
		}
	}
	for _, object := range []string{
		"/vm-1/disk:0", "/vm-4711/VirtualNVMEController0:0", "/vm-1/VirtualNVMEController0:99999999999",
		"[LocalDS_0] ../x/disk-0.vmdk", "[LocalDS_0] gone_1/disk-0.vmdk", "[nas] a/disk-0.vmdk", "",
	} {
		if _, err := tgt.ReadLanded(ctx, object, c.Disks[0].Delivery.Format); !target.IsPermanent(err) {
			t.Errorf("reading %q: %v", object, err)
		}
	}
}

// TestReadLanded reads imported disks of a finished machine by the paths that
// the receipt names them by, and by their slots.
func TestReadLanded(t *testing.T) {
	v := newVcsim(t, vcsimtest.Small())
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	c := load(t, "landed", pathNFC, 1<<20, 2<<20+512)
	c.Machine.Disks[1].Controller, c.Machine.Disks[1].ControllerNumber = vm.BusNVMe, 1
	s, err := tgt.Begin(ctx, c.Order, new(targettest.MemRecorder))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	var objects []string
	for i := range c.Disks {
		l, err := c.send(ctx, s, i)
		if err != nil {
			t.Fatal(err)
		}
		if !landedPath.MatchString(l.Object) || !strings.HasPrefix(l.Object, "[LocalDS_0] ") {
			t.Errorf("disk %d landed as %q, want a path on the datastore", i, l.Object)
		}
		objects = append(objects, l.Object)
	}
	ns := s.(*nfcSession)
	for _, slot := range ns.hw.slots {
		objects = append(objects, fmt.Sprintf("/%s/%s", ns.ref.Value, slot))
	}
	if _, err := s.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	for k, object := range objects {
		i := k % len(c.Disks)
		d, err := tgt.ReadLanded(ctx, object, c.Disks[i].Delivery.Format)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, d.Size())
		if _, err := d.ReadAt(got, 0); err != nil || !bytes.Equal(got, c.raw[i]) {
			t.Errorf("%s reads other bytes: %v", object, err)
		}
	}
	if _, err := tgt.ReadLanded(ctx, strings.Replace(objects[3], "1:0", "1:1", 1), c.Disks[1].Delivery.Format); !target.IsPermanent(err) {
		t.Errorf("a slot without a disk: %v", err)
	}
}

// TestPowerOnFails tells the platform's reason.
func TestPowerOnFails(t *testing.T) {
	v := newVcsim(t, vcsimtest.Bare())
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	c := load(t, "no room", pathNFC, 512)
	s, err := tgt.Begin(ctx, c.Order, new(targettest.MemRecorder))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	if _, err := c.send(ctx, s, 0); err != nil {
		t.Fatal(err)
	}
	m, err := s.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	v.Model.Service.AddFaultRule(&simulator.FaultInjectionRule{
		MethodName: "PowerOnVM_Task", ObjectType: "*", ObjectName: "*", Probability: 1, Enabled: true,
		FaultType: simulator.FaultTypeCustom, Fault: &types.InsufficientMemoryResourcesFault{},
	})
	if err := s.PowerOn(ctx, m); !target.IsPermanent(err) || !strings.Contains(err.Error(), "not enough memory") {
		t.Errorf("PowerOn: %v", err)
	}
	v.Model.Service.ClearFaultRules()
	if err := s.PowerOn(ctx, m); err != nil {
		t.Error(err)
	}
	if err := s.PowerOn(ctx, &target.VM{ID: "vm-4711", Name: "gone"}); err == nil {
		t.Error("a machine that is not there is powered on")
	}
}

// TestLook tells whether the machine runs, and its addresses once the guest's
// tools report them.
func TestLook(t *testing.T) {
	v := newVcsim(t, vcsimtest.Bare())
	tgt := v.open(t)
	defer tgt.Close()
	ctx := context.Background()
	c := load(t, "looked at", pathNFC, 512)
	s, err := tgt.Begin(ctx, c.Order, new(targettest.MemRecorder))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(ctx)
	if _, err := c.send(ctx, s, 0); err != nil {
		t.Fatal(err)
	}
	m, err := s.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	looker, ok := target.As[target.Looker](tgt)
	if !ok {
		t.Fatal("it cannot look")
	}
	if st, err := looker.Look(ctx, *m); err != nil || st.Running || len(st.Addresses) > 0 {
		t.Fatalf("%+v %v", st, err)
	}
	if err := s.PowerOn(ctx, m); err != nil {
		t.Fatal(err)
	}
	guest := &types.GuestInfo{IpAddress: "10.0.0.9", Net: []types.GuestNicInfo{{IpAddress: []string{"fe80::1", "10.0.0.9", "2001:db8::9"}}}}
	sim := v.Model.Map().Get(types.ManagedObjectReference{Type: "VirtualMachine", Value: m.ID}).(*simulator.VirtualMachine)
	v.Model.Map().WithLock(v.Model.Service.Context, sim.Self, func() { sim.Guest = guest })
	if st, err := looker.Look(ctx, *m); err != nil || !st.Running || !slices.Equal(st.Addresses, []string{"10.0.0.9", "2001:db8::9"}) {
		t.Errorf("%+v %v", st, err)
	}
	if _, err := looker.Look(ctx, target.VM{ID: "vm-none", Name: "none"}); err == nil {
		t.Error("a machine that is not there was looked at")
	}
}
