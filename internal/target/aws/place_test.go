package aws

import (
	"slices"
	"strings"
	"testing"

	"ascend/internal/target"
	"ascend/internal/target/aws/awssim"
	"ascend/internal/target/caps"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// TestInventory: sizes, quotas with what is used of them, rights and names are
// told as plans take them.
func TestInventory(t *testing.T) {
	p := newPeer(t).(*peer)
	tgt := p.Open(t)
	inv, err := tgt.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k := slices.IndexFunc(inv.Sizes, func(s target.Size) bool { return s.Name == "m5.large" })
	if k < 0 {
		t.Fatalf("sizes: %+v", inv.Sizes)
	}
	if s := inv.Sizes[k]; s.CPUs != 2 || s.Memory != 8*vm.GiB || !s.NVMe || !s.ENA || !s.Shared || s.MaxDisks != 27 || s.Burst || s.Old ||
		!slices.Equal(s.Arch, []vm.Arch{vm.AMD64}) || !slices.Equal(s.Firmware, []vm.Firmware{vm.BIOS, vm.UEFI}) {
		t.Errorf("m5.large: %+v", s)
	}
	if inv.Region != "eu-central-1" || len(inv.Networks) != 1 || len(inv.SecurityGroups) != 1 || len(inv.Places[fieldKey]) != 1 || len(inv.Places[fieldZone]) != 1 {
		t.Errorf("%+v", inv)
	}
	for _, q := range inv.Quotas {
		if q.Used != 0 || q.Limit <= 0 {
			t.Errorf("quota %+v", q)
		}
	}
	if len(inv.Quotas) != 2 || inv.Quotas[0].Limit != 64 || inv.Quotas[1].Limit != 50*vm.TiB {
		t.Errorf("quotas: %+v", inv.Quotas)
	}
	for _, r := range inv.Permissions {
		if !r.Granted {
			t.Errorf("%s is not granted", r.Name)
		}
	}
	if len(inv.Permissions) != len(rights) {
		t.Errorf("%d rights", len(inv.Permissions))
	}
	if c := tgt.Capabilities(); c.Traits.SizeField != caps.InstanceType || c.Deliveries[0].Path != pathEBS {
		t.Errorf("%+v", c.Deliveries)
	}
}

// TestPermissionMissing: what the account may not do is said by name, before
// anything is made; quotas that may not be asked for stop nothing.
func TestPermissionMissing(t *testing.T) {
	p := newPeer(t).(*peer)
	tgt := p.Open(t)
	p.sim.SetFault(func(q awssim.Request) *awssim.Fault {
		switch q.Action {
		case "RegisterImage":
			return &awssim.Fault{Status: 403, Code: "UnauthorizedOperation"}
		case "PutSnapshotBlock":
			return &awssim.Fault{Status: 403, Code: "AccessDeniedException"}
		case "GetServiceQuota":
			return &awssim.Fault{Status: 400, Code: "AccessDeniedException"}
		}
		return nil
	})
	var failed []string
	for _, c := range tgt.Validate(t.Context()) {
		if !c.OK {
			failed = append(failed, c.Name)
			if !strings.Contains(c.Hint, "docs/aws.md") {
				t.Errorf("%s: the hint is %q", c.Name, c.Hint)
			}
		}
	}
	if want := []string{"permission ebs:PutSnapshotBlock", "permission ec2:RegisterImage"}; !slices.Equal(failed, want) {
		t.Errorf("failed: %q", failed)
	}
	inv, err := tgt.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(inv.Quotas) != 0 {
		t.Errorf("quotas: %+v", inv.Quotas)
	}
	for _, r := range inv.Permissions {
		if want := r.Name != "ebs:PutSnapshotBlock" && r.Name != "ec2:RegisterImage"; r.Granted != want {
			t.Errorf("%+v", r)
		}
	}
	if left := p.sim.Inventory(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestOneWayIsEnough: with a bucket, a way whose rights are missing is told and does not
// stop a restore; without any way the target is not ready.
func TestOneWayIsEnough(t *testing.T) {
	for _, c := range []struct {
		denied []string
		failed int
	}{{nil, 0}, {[]string{"PutSnapshotBlock"}, 0}, {[]string{"ImportSnapshot"}, 0}, {[]string{"HeadBucket"}, 0}, {[]string{"CompleteSnapshot", "UploadPart"}, 2}} {
		p := newS3Peer(t).(*peer)
		tgt := p.Open(t)
		p.sim.SetFault(func(q awssim.Request) *awssim.Fault {
			if slices.Contains(c.denied, q.Action) {
				return &awssim.Fault{Status: 403, Code: "AccessDeniedException"}
			}
			return nil
		})
		failed, told := 0, 0
		for _, k := range tgt.Validate(t.Context()) {
			if !k.OK {
				failed++
			} else if strings.Contains(k.Detail, "no disk travels by") {
				told++
			}
		}
		if failed != c.failed || failed+told != len(c.denied) {
			t.Errorf("denied %q: %d checks failed, %d ways are told to be shut", c.denied, failed, told)
		}
		if left := p.sim.Inventory(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}

// TestAdapters: networks, groups and addresses are those of each adapter, and
// volumes are of the type and performance asked for.
func TestAdapters(t *testing.T) {
	p := newPeer(t).(*peer)
	tgt := p.Open(t)
	const size = 1 << 20
	o := &target.Order{
		Job: "nics", Machine: &vm.Machine{
			Name: "two", CPU: vm.CPU{Sockets: 1}, Memory: vm.GiB, Firmware: vm.UEFI, Disks: []vm.Disk{{Size: size}},
			NICs: []vm.NIC{{Addresses: []string{"10.0.0.40/24", "10.0.0.41/24", "fe80::1/64"}}, {}},
		},
		Disks: []target.DiskOrder{{Delivery: tgt.Capabilities().Deliveries[0], Virtual: size, FileSize: size}},
		Placement: target.Placement{
			Networks: []string{awssim.Subnet, awssim.Subnet}, Storage: []string{"io2"}, Volumes: []target.Volume{{IOPS: 400}},
			Adapters: []target.Adapter{{Address: target.AddressKeep, SecurityGroups: []string{awssim.Group}}, {Address: target.AddressNew, Addresses: []string{"10.0.0.50"}}},
			Fields:   map[string]string{caps.InstanceType: "m5.xlarge", fieldKey: awssim.KeyName, fieldZone: "eu-central-1a"},
		},
	}
	v := restoreEmpty(t, tgt, o, new(targettest.MemRecorder))
	for _, q := range p.sim.Requests() {
		switch q.Action {
		case "RunInstances":
			if q.Params.Get("DryRun") != "" {
				continue
			}
			for k, want := range map[string]string{
				"InstanceType": "m5.xlarge", "Placement.AvailabilityZone": "eu-central-1a",
				"NetworkInterface.1.SubnetId": awssim.Subnet, "NetworkInterface.1.SecurityGroupId.1": awssim.Group,
				"NetworkInterface.1.PrivateIpAddresses.1.PrivateIpAddress": "10.0.0.40", "NetworkInterface.1.PrivateIpAddresses.2.PrivateIpAddress": "10.0.0.41",
				"NetworkInterface.1.PrivateIpAddresses.2.Primary": "false", "NetworkInterface.1.Ipv6Addresses.1.Ipv6Address": "",
				"NetworkInterface.2.PrivateIpAddresses.1.PrivateIpAddress": "10.0.0.50", "NetworkInterface.2.SecurityGroupId.1": "",
			} {
				if got := q.Params.Get(k); got != want {
					t.Errorf("%s is %q, not %q", k, got, want)
				}
			}
		case "RegisterImage":
			if q.Params.Get("BlockDeviceMapping.1.Ebs.VolumeType") != "io2" || q.Params.Get("BlockDeviceMapping.1.Ebs.Iops") != "400" {
				t.Errorf("volume: %v", q.Params)
			}
		}
	}
	if p.sim.State(v.ID) != "running" {
		t.Errorf("%+v does not run", v)
	}
}

// restoreEmpty restores a machine whose disks are zeros and powers it on.
func restoreEmpty(t *testing.T, tgt target.Target, o *target.Order, rec target.Recorder) *target.VM {
	t.Helper()
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	for i, d := range o.Disks {
		u, err := s.Upload(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Complete(t.Context(), target.Sum{Bytes: d.FileSize, Blocks: func(func(int64, [32]byte) bool) {}}); err != nil {
			t.Fatal(err)
		}
	}
	v, err := s.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PowerOn(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestRefusedBeforeBytes: what EC2 would refuse at the end is refused at the
// beginning, for good, and nothing is made.
func TestRefusedBeforeBytes(t *testing.T) {
	p := newPeer(t).(*peer)
	tgt := p.Open(t)
	for name, change := range map[string]func(o *target.Order){
		"io2 without IOPS":   func(o *target.Order) { o.Placement.Storage = []string{"io2"} },
		"type of no volume":  func(o *target.Order) { o.Placement.Storage = []string{"ssd"} },
		"too much user data": func(o *target.Order) { o.Options = map[string]string{optUserData: strings.Repeat("x", maxUserData+1)} },
		"no address": func(o *target.Order) {
			o.Placement.Adapters = []target.Adapter{{Address: target.AddressNew, Addresses: []string{"10.0.0"}}}
		},
		"no address policy":   func(o *target.Order) { o.Placement.Adapters = []target.Adapter{{Address: "any"}} },
		"field of nobody":     func(o *target.Order) { o.Placement.Fields = map[string]string{"instance-type": "m5.large"} },
		"value of no option":  func(o *target.Order) { o.Options = map[string]string{optIMDS: "v1"} },
		"22 disks to import":  func(o *target.Order) { o.Options = map[string]string{optImport: "yes"}; grow(o, 22) },
		"more disks than fit": func(o *target.Order) { grow(o, maxDisks+1) },
	} {
		o := &target.Order{
			Job: "refused", Machine: &vm.Machine{Name: "refused", Disks: []vm.Disk{{Size: 1 << 20}}, NICs: []vm.NIC{{}}},
			Disks: []target.DiskOrder{{Delivery: tgt.Capabilities().Deliveries[0], Virtual: 1 << 20, FileSize: 1 << 20}},
		}
		change(o)
		if _, err := tgt.Begin(t.Context(), o, new(targettest.MemRecorder)); !target.IsPermanent(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(p.sim.Requests()); n != 0 {
		t.Errorf("%d requests", n)
	}
}

func grow(o *target.Order, n int) {
	for len(o.Disks) < n {
		o.Disks, o.Machine.Disks = append(o.Disks, o.Disks[0]), append(o.Machine.Disks, o.Machine.Disks[0])
	}
}
