package vmware

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/target"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// cargo is an order with the files to send and what the guest must see.
type cargo struct {
	*target.Order
	raw, file [][]byte
	at        []slotKey // where the disks are, if not in the order of buses and units
}

var jobs int

// load makes an order of disks of these sizes by the delivery of a path.
func load(t testing.TB, name, path string, sizes ...int64) *cargo {
	t.Helper()
	jobs++
	c := &cargo{Order: &target.Order{
		Job:     fmt.Sprintf("01JTEST%04d", jobs),
		Machine: &vm.Machine{Name: name, CPU: vm.CPU{Sockets: 2, CoresPerSocket: 2}, Memory: 1 << 30, Firmware: vm.BIOS},
		Placement: target.Placement{
			Fields: map[string]string{fieldDatastore: "LocalDS_0"},
		},
	}}
	var d target.Delivery
	for _, offered := range (&vmware{cfg: &config{}}).Capabilities().Deliveries {
		if offered.Path == path {
			d = offered
			break
		}
	}
	d.Format.Compression = map[string]string{pathNFC: "deflate"}[path]
	for i, size := range sizes {
		raw := make([]byte, size)
		rnd := rand.NewChaCha8([32]byte{byte(jobs), byte(i)})
		for off := int64(0); off < size; off += 1 << 20 { // data in a hole-ridden disk
			_, _ = rnd.Read(raw[off:min(off+100_000, size)])
		}
		file := targettest.Encode(t, raw, d.Format)
		o := target.DiskOrder{Delivery: d, Virtual: size, FileSize: -1}
		if d.NeedSize {
			o.FileSize = size
		}
		c.raw, c.file = append(c.raw, raw), append(c.file, file)
		c.Disks = append(c.Disks, o)
		c.Machine.Disks = append(c.Machine.Disks, vm.Disk{Index: i, Size: size})
	}
	return c
}

func (c *cargo) nic(network string, n vm.NIC) {
	c.Machine.NICs = append(c.Machine.NICs, n)
	c.Placement.Networks = append(c.Placement.Networks, network)
}

func (c *cargo) sum(i int) target.Sum {
	h := sha1.Sum(c.file[i])
	return target.Sum{Bytes: int64(len(c.file[i])), SHA1: h[:]}
}

// send sends disk i.
func (c *cargo) send(ctx context.Context, s target.Session, i int) (*target.Landed, error) {
	u, err := s.Upload(ctx, i)
	if err != nil {
		return nil, err
	}
	st := u.(target.StreamUpload)
	off, err := st.Offset(ctx)
	if err != nil {
		return nil, err
	}
	for p := c.file[i][off:]; len(p) > 0; {
		n := min(len(p), 64<<10)
		if err := st.Append(ctx, p[:n]); err != nil {
			return nil, errors.Join(err, st.Abort())
		}
		p = p[n:]
	}
	return st.Complete(ctx, c.sum(i))
}

// restore brings a machine up to Finish.
func (c *cargo) restore(t testing.TB, tgt *vmware, rec target.Recorder) *target.VM {
	t.Helper()
	ctx := context.Background()
	s, err := tgt.Begin(ctx, c.Order, rec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	var wg sync.WaitGroup
	for i := range c.Disks {
		wg.Go(func() {
			if _, err := c.send(ctx, s, i); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	v, err := s.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// compare has qemu-img compare what landed with the source.
func (c *cargo) compare(t testing.TB, v *vcsim) {
	t.Helper()
	dir := t.TempDir()
	for i := range c.Disks {
		disk := disksOf(v.machine(t, c.Machine.Name))[i]
		if c.at != nil {
			disk = slotsOf(v.machine(t, c.Machine.Name).Config.Hardware.Device)[c.at[i]]
		}
		src, dst, format := filepath.Join(dir, "src"), filepath.Join(dir, "dst"), "vmdk"
		var landed []byte
		if c.Disks[i].Delivery.Path == pathNFC {
			v.mu.Lock()
			landed = v.posted[path.Base(fileOf(disk))]
			v.mu.Unlock()
		} else {
			landed, format = v.flat(t, disk), "raw"
		}
		if err := errors.Join(os.WriteFile(src, c.raw[i], 0o600), os.WriteFile(dst, landed, 0o600)); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("qemu-img", "compare", "-f", "raw", "-F", format, src, dst).CombinedOutput()
		if err != nil {
			t.Errorf("disk %d: qemu-img compare: %v: %s", i, err, out)
		}
	}
}

func undo(t testing.TB, tgt target.Target, rec target.Recorder) {
	t.Helper()
	if err := targettest.UndoAll(context.Background(), tgt, rec); err != nil {
		t.Fatal(err)
	}
}

// TestHardware restores one machine with everything and looks at what came about.
func TestHardware(t *testing.T) {
	for _, way := range []string{pathNFC, pathDatastore} {
		t.Run(way, func(t *testing.T) {
			v := newVcsim(t, model())
			// The simulator's leases cannot tell two disks whose files are of one
			// name: something is in the way of the first names on the other datastore.
			const odd = "Büro 50% a/b"
			file := disguise(escapeName(odd))
			dir := filepath.Join(v.stores(t)["LocalDS_1"], file)
			err := os.Mkdir(dir, 0o700)
			for i := range 9 {
				err = errors.Join(err, os.WriteFile(filepath.Join(dir, file+strings.TrimSuffix(fmt.Sprintf("_%d", i), "_0")+".vmdk"), nil, 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
			before := v.inventory(t)
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
			x := v.machine(t, m.Name)
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
				file := fileOf(d)
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
			v.same(t, before)
		})
	}
}

// TestLengthKnown sends a stream whose length is known as a stored one's is.
func TestLengthKnown(t *testing.T) {
	v := newVcsim(t, bare())
	var lengths []int64
	v.refuse = func(_ http.ResponseWriter, r *http.Request) bool {
		lengths = append(lengths, r.ContentLength)
		return false
	}
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

// TestParallel counts the streams that run at a time.
func TestParallel(t *testing.T) {
	for _, limit := range []string{"1", "2", "4"} {
		v := newVcsim(t, bare())
		var mu sync.Mutex
		now, most := 0, 0
		v.refuse = func(http.ResponseWriter, *http.Request) bool {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(30 * time.Millisecond)
			mu.Lock()
			now--
			mu.Unlock()
			return false
		}
		tgt := v.open(t, "parallel_disks", limit)
		c := load(t, "parallel", pathNFC, 1<<20, 2<<20, 1<<20, 3<<20, 512)
		c.restore(t, tgt, new(targettest.MemRecorder))
		c.compare(t, v)
		if fmt.Sprint(most) != limit {
			t.Errorf("%d streams at a time, %s allowed", most, limit)
		}
		tgt.Close()
	}
}

// TestSignIn has the sign-in and the certificate go wrong.
func TestSignIn(t *testing.T) {
	v := newVcsim(t, bare())
	before := v.inventory(t)
	ctx := context.Background()
	sum := func(n int) string { return strings.Repeat("ab", n) }
	good := formatThumbprint(sha1Of(certificate.Certificate[0]))
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
		{"other name", []string{"url", strings.Replace(v.server.URL.Host, "127.0.0.1", "localhost", 1)}, "not for this name"},
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
	v.same(t, before)
}

func sha1Of(p []byte) []byte {
	s := sha1.Sum(p)
	return s[:]
}

// TestPlacement has each part of a placement be wrong.
func TestPlacement(t *testing.T) {
	m := model()
	m.Datacenter, m.Cluster, m.Datastore = 2, 2, 2
	v := newVcsim(t, m)
	before := v.inventory(t)
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
	v.same(t, before)
}

// TestMixedPaths refuses an order whose disks go different ways.
func TestMixedPaths(t *testing.T) {
	v := newVcsim(t, bare())
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
		before := v.inventory(t)
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
		v.same(t, before)
		tgt.Close()
	}
}

// TestGuestSupported takes the hosts' word for what they support.
func TestGuestSupported(t *testing.T) {
	v := newVcsim(t, bare())
	for _, b := range v.model.Map().AllReference("EnvironmentBrowser") {
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
		if got := v.machine(t, name).Config.GuestId; got != c.want {
			t.Errorf("%s: guestId %s", name, got)
		}
	}
}

// TestTPM adds a TPM where there is a key provider.
func TestTPM(t *testing.T) {
	v := newVcsim(t, bare())
	c := v.client(t)
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
	for _, d := range v.machine(t, "with TPM").Config.Hardware.Device {
		if isTPM(d) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the machine has %d TPMs", n)
	}
	if v.posts != 1 {
		t.Errorf("the disk was posted %d times", v.posts)
	}
}

// TestReadBack reads what landed on a datastore by ranges.
func TestReadBack(t *testing.T) {
	v := newVcsim(t, bare())
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
	for _, object := range []string{"/vm-1/disk:0", "[LocalDS_0] ../x/disk-0.vmdk", "[LocalDS_0] gone_1/disk-0.vmdk", "[nas] a/disk-0.vmdk", ""} {
		if _, err := tgt.ReadLanded(ctx, object, c.Disks[0].Delivery.Format); !target.IsPermanent(err) {
			t.Errorf("reading %q: %v", object, err)
		}
	}
}

// TestPowerOnFails tells the platform's reason.
func TestPowerOnFails(t *testing.T) {
	v := newVcsim(t, bare())
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
	v.model.Service.AddFaultRule(&simulator.FaultInjectionRule{
		MethodName: "PowerOnVM_Task", ObjectType: "*", ObjectName: "*", Probability: 1, Enabled: true,
		FaultType: simulator.FaultTypeCustom, Fault: &types.InsufficientMemoryResourcesFault{},
	})
	if err := s.PowerOn(ctx, m); !target.IsPermanent(err) || !strings.Contains(err.Error(), "not enough memory") {
		t.Errorf("PowerOn: %v", err)
	}
	v.model.Service.ClearFaultRules()
	if err := s.PowerOn(ctx, m); err != nil {
		t.Error(err)
	}
	if err := s.PowerOn(ctx, &target.VM{ID: "vm-4711", Name: "gone"}); err == nil {
		t.Error("a machine that is not there is powered on")
	}
}

// TestInventory lists places by the names that Placement takes.
func TestInventory(t *testing.T) {
	m := model()
	m.Datacenter, m.OpaqueNetwork, m.Host, m.App = 2, 1, 1, 1
	v := newVcsim(t, m)
	for _, ref := range v.model.Map().AllReference("DistributedVirtualPortgroup") {
		if pg := ref.(*simulator.DistributedVirtualPortgroup); strings.Contains(pg.Name, "DVUplinks") {
			pg.Tag = []types.Tag{{Key: "SYSTEM/DVS.UPLINKPG"}} // as a vCenter tags them
		}
	}
	v.foreign(t, "a/b 50%")
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
	v := newVcsim(t, model())
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
			if strings.Contains(c.Detail+c.Hint, password) {
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
	v.model.Map().Put(&noPrivilege{mo.AuthorizationManager{Self: *v.client(t).ServiceContent.AuthorizationManager}})
	if c := find(run(), "privileges"); c.OK || !strings.Contains(c.Detail, "VirtualMachine.Inventory.Delete") || strings.Contains(c.Detail, "Network.Assign") || c.Hint == "" {
		t.Errorf("privileges: %+v", c)
	}
}

// destroy deletes a machine as a user would.
func (v *vcsim) destroy(t testing.TB, ref types.ManagedObjectReference) {
	t.Helper()
	task, err := object.NewVirtualMachine(v.client(t).Client, ref).Destroy(context.Background())
	if err == nil {
		err = task.Wait(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
}
