package cloudstack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/cloudstack/cssim"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// order is a machine with disks of some MiB, as p takes it.
func order(t *testing.T, p *peer, job string, d target.Delivery, disks ...int64) (*target.Order, [][]byte) {
	t.Helper()
	o := &target.Order{Job: job, Machine: &vm.Machine{
		Name: "web " + job, CPU: vm.CPU{Sockets: 2, CoresPerSocket: 2}, Memory: 3 * vm.GiB, Firmware: vm.BIOS,
		Guest: vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64},
		NICs:  []vm.NIC{{MAC: "02:00:00:00:00:01", Model: vm.VirtioNet, Addresses: []string{"fe80::1", "10.1.1.50/24"}}},
	}}
	var files [][]byte
	for i, mib := range disks {
		raw := make([]byte, mib<<20)
		copy(raw, fmt.Sprintf("disk %d of %s", i, job))
		file := targettest.Encode(t, raw, d.Format)
		o.Machine.Disks = append(o.Machine.Disks, vm.Disk{Index: i, Size: mib << 20, Controller: vm.BusVirtioBlk, Boot: i == 0})
		o.Disks = append(o.Disks, target.DiskOrder{Delivery: d, Virtual: mib << 20, FileSize: int64(len(file))})
		files = append(files, file)
	}
	o.Placement.Networks = make([]string, len(o.Machine.NICs))
	p.Order(t, o)
	return o, files
}

func send(ctx context.Context, s target.Session, i int, file []byte) error {
	up, err := s.Upload(ctx, i)
	if err != nil {
		return err
	}
	defer up.Abort()
	switch u := up.(type) {
	case target.StreamUpload:
		err = u.Append(ctx, file)
	case target.RangeUpload:
		err = u.WriteRange(ctx, 0, file)
	}
	if err == nil {
		_, err = up.Complete(ctx, target.Sum{Bytes: int64(len(file))})
	}
	return err
}

func restoreAll(t *testing.T, tgt target.Target, o *target.Order, files [][]byte, rec target.Recorder) (*target.VM, error) {
	t.Helper()
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		return nil, err
	}
	defer s.Close(t.Context())
	for i, f := range files {
		if err := send(t.Context(), s, i, f); err != nil {
			return nil, err
		}
	}
	return s.Finish(t.Context())
}

// TestHardware looks at what the platform was told of the machine.
func TestHardware(t *testing.T) {
	p := startPeer(t, cssim.Options{Version: "4.20.3.0"}, nil)
	tgt := p.open(t)
	o, files := order(t, p, "hw", tgt.deliveries()[0], 1, 2, 1)
	m := o.Machine
	m.Firmware, m.SecureBoot, m.Guest = vm.UEFI, true, vm.GuestOS{Family: vm.Windows, Distribution: "windows-server", Version: "2019", Arch: vm.AMD64}
	m.Disks[0].Boot, m.Disks[1].Boot = false, true
	m.Disks[1].Controller = vm.BusVirtioSCSI
	m.NICs = append(m.NICs, vm.NIC{MAC: "02:00:00:00:00:02"})
	o.Placement.Networks = []string{cssim.OtherNetwork, cssim.Network}
	o.Placement.Adapters = []target.Adapter{{Address: target.AddressKeep, SecurityGroups: []string{cssim.SecurityGroup}}, {Address: target.AddressNew, Addresses: []string{"10.1.1.77"}}}
	o.Placement.Fields = map[string]string{fieldOffering: cssim.CustomOffering, fieldDisk: cssim.DiskOffering}
	o.Options = map[string]string{optAffinity: cssim.Affinity, optKeyPair: cssim.KeyPair, optSpeed: "2500"}
	v, err := restoreAll(t, tgt, o, files, new(targettest.MemRecorder))
	if err != nil {
		t.Fatal(err)
	}
	got := p.machine(t, o)
	if got.Name != hostName("web hw", "hw") || got.State != "Stopped" || v.Name != "web hw" || !strings.HasSuffix(v.URL, "/client/#/vm/"+got.ID) {
		t.Errorf("name %q, state %s, %+v", got.Name, got.State, v)
	}
	want := map[string]string{"cpuNumber": "4", "memory": "3072", "cpuSpeed": "2500", "rootDiskController": "scsi", "dataDiskController": "virtio", "nicAdapter": "virtio",
		"skip.force.disk.controller": "true", tagKey: "hw"}
	if !reflect.DeepEqual(got.Details, want) {
		t.Errorf("details %v", got.Details)
	}
	if got.BootType != "UEFI" || got.BootMode != "SECURE" || got.Tags[tagKey] != "hw" || len(got.KeyPairs) != 1 || len(got.Affinity) != 1 || len(got.SecurityGroups) != 1 {
		t.Errorf("%s %s %v %v %v %v", got.BootType, got.BootMode, got.Tags, got.KeyPairs, got.Affinity, got.SecurityGroups)
	}
	var nics []string
	for _, n := range got.NICs {
		nics = append(nics, n["networkname"]+" "+n["macaddress"]+" "+n["ipaddress"])
	}
	if !slices.Equal(nics, []string{"second-net 02:00:00:00:00:01 10.1.1.50", "guest-net 02:00:00:00:00:02 10.1.1.77"}) {
		t.Errorf("adapters %q", nics)
	}
	for i := range files {
		if b := p.Read(t, o, i); !strings.HasPrefix(string(b), fmt.Sprintf("disk %d of hw", i)) {
			t.Errorf("disk %d is in the wrong place", i)
		}
	}
}

// TestImported looks at a machine that was imported: adapters after the first are
// added, once.
func TestImported(t *testing.T) {
	dir := t.TempDir()
	p := startPeer(t, cssim.Options{Dir: dir}, map[string]string{"pool": cssim.Pool, "pool_dir": dir})
	tgt := p.open(t)
	o, files := order(t, p, "imp", tgt.deliveries()[0], 1, 1)
	o.Machine.Firmware = vm.UEFI
	o.Machine.NICs = append(o.Machine.NICs, vm.NIC{MAC: "02:00:00:00:00:02"}, vm.NIC{MAC: "02:00:00:00:00:03"})
	o.Placement.Networks = []string{cssim.Network, cssim.OtherNetwork, cssim.Network}
	rec := new(targettest.MemRecorder)
	p.FailJobs("addNicToVirtualMachine", 1)
	if _, err := restoreAll(t, tgt, o, files, rec); err == nil {
		t.Error("an adapter that cannot be added is no error")
	}
	if _, err := restoreAll(t, tgt, o, nil, rec); err != nil {
		t.Fatal(err)
	}
	m := p.machine(t, o)
	if len(m.NICs) != 3 || m.NICs[1]["macaddress"] != "02:00:00:00:00:02" || m.NICs[2]["networkname"] != cssim.Network || m.Details["UEFI"] != "LEGACY" {
		t.Errorf("%v %v", m.NICs, m.Details)
	}
	o.Job, o.Machine.Name, o.Options = "imp2", "other", map[string]string{optKeyPair: cssim.KeyPair}
	if _, err := tgt.Begin(t.Context(), o, new(targettest.MemRecorder)); !target.IsPermanent(err) {
		t.Errorf("what importing cannot do is not refused: %v", err)
	}
}

// TestRefusals are orders that cannot work: said before anything is created.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		o      cssim.Options
		values map[string]string
		edit   func(o *target.Order)
		want   string
	}{
		{"no such zone", cssim.Options{}, nil, func(o *target.Order) { o.Placement.Fields[fieldZone] = "Mars" }, `no zone "Mars"`},
		{"no such offering", cssim.Options{}, nil, func(o *target.Order) { o.Placement.Fields[fieldOffering] = "Tiny" }, "there are: Medium"},
		{"no such network", cssim.Options{}, nil, func(o *target.Order) { o.Placement.Networks[0] = "lan" }, "no network"},
		{"no network chosen", cssim.Options{}, nil, func(o *target.Order) { o.Placement.Networks[0] = "" }, "there are 2"},
		{"fixed disk offering", cssim.Options{}, nil, func(o *target.Order) { o.Placement.Storage = []string{cssim.FixedDisk} }, "custom size"},
		{"address elsewhere", cssim.Options{}, nil, func(o *target.Order) {
			o.Placement.Adapters = []target.Adapter{{Address: target.AddressNew, Addresses: []string{"192.0.2.1"}}}
		}, "is not in network"},
		{"no such key pair", cssim.Options{}, nil, func(o *target.Order) { o.Options = map[string]string{optKeyPair: "lost"} }, "no SSH key pair"},
		{"unknown option", cssim.Options{}, nil, func(o *target.Order) { o.Options = map[string]string{"x": "y"} }, "unknown option"},
		{"long name", cssim.Options{}, nil, func(o *target.Order) { o.Machine.Name = strings.Repeat("n", 256) }, "255"},
		{"not KVM", cssim.Options{Hypervisor: "VMware"}, nil, func(*target.Order) {}, "no KVM hosts"},
		{"before uploads", cssim.Options{Version: "4.5.2"}, nil, func(*target.Order) {}, "4.6"},
		{"volume before 4.21", cssim.Options{Version: "4.20.1.0", ZoneWide: true}, map[string]string{"path": pathVolume}, func(*target.Order) {}, "set path=template"},
		{"volume without zone-wide storage", cssim.Options{Version: "4.21.0.0"}, map[string]string{"path": pathVolume}, func(*target.Order) {}, "set path=template"},
		{"import before 4.19.1", cssim.Options{Version: "4.19.0.0"}, map[string]string{"pool": cssim.Pool, "pool_dir": "/tmp"}, func(*target.Order) {}, "4.19.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPeer(t, c.o, c.values)
			tgt := p.open(t)
			o, _ := order(t, p, "refused", tgt.deliveries()[0], 1)
			c.edit(o)
			rec := new(targettest.MemRecorder)
			_, err := tgt.Begin(t.Context(), o, rec)
			if err == nil || !target.IsPermanent(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if inv := p.Sim.Inventory(); len(inv) != 0 || rec.Calls() != 0 {
				t.Errorf("%q, %d records", inv, rec.Calls())
			}
		})
	}
}

// TestVolumeRefused: a cloud that takes no uploaded volume as a root disk says so
// only when the machine is deployed.
func TestVolumeRefused(t *testing.T) {
	p := startPeer(t, cssim.Options{Version: "4.21.0.0", ZoneWide: true}, map[string]string{"path": pathVolume})
	tgt := p.open(t)
	o, files := order(t, p, "root", tgt.deliveries()[0], 1, 1)
	rec := new(targettest.MemRecorder)
	_, err := restoreAll(t, tgt, o, files, rec)
	if !errors.Is(err, target.ErrPermanent) || !strings.Contains(err.Error(), "hint: ") || !strings.Contains(err.Error(), "set path=template") {
		t.Errorf("%v", err)
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Error(err)
	}
	if inv := p.Sim.Inventory(); len(inv) != 0 {
		t.Errorf("left: %q", inv)
	}
}

// TestNoOrphan: after breaks there is one volume, made with new parameters.
func TestNoOrphan(t *testing.T) {
	p := startPeer(t, cssim.Options{}, nil)
	tgt := p.open(t)
	o, files := order(t, p, "orphan", tgt.deliveries()[0], 1, 1)
	s, err := tgt.Begin(t.Context(), o, new(targettest.MemRecorder))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	for range 4 {
		p.FailUploads(1, cssim.UploadFault{After: 1000})
		if err := send(t.Context(), s, 1, files[1]); err == nil || target.IsPermanent(err) {
			t.Fatalf("a broken upload gives %v", err)
		}
	}
	if err := send(t.Context(), s, 1, files[1]); err != nil {
		t.Fatal(err)
	}
	if inv := p.Sim.Inventory(); len(inv) != 1 || !strings.Contains(inv[0], "Uploaded") {
		t.Errorf("%q", inv)
	}
}

// TestMonitor: the cloud notices late what became of an upload; until then it
// deletes nothing, and says nothing of what has landed.
func TestMonitor(t *testing.T) {
	p := startPeer(t, cssim.Options{Monitor: 40 * time.Millisecond}, nil)
	tgt := p.open(t)
	o, files := order(t, p, "monitor", tgt.deliveries()[0], 1, 1)
	rec := new(targettest.MemRecorder)
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	p.FailUploads(1, cssim.UploadFault{After: 1000})
	if err := send(t.Context(), s, 0, files[0]); err == nil {
		t.Error("a broken upload is no error")
	}
	for i, f := range files {
		if err := send(t.Context(), s, i, f); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if b := p.Read(t, o, i); !strings.HasPrefix(string(b), fmt.Sprintf("disk %d of monitor", i)) {
			t.Errorf("disk %d is not what was sent", i)
		}
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Error(err)
	}
	// One that is given up after its permission was asked for.
	o.Job, rec = "given-up", &targettest.MemRecorder{FailAt: 2}
	if _, err := restoreAll(t, tgt, o, files, rec); !errors.Is(err, targettest.ErrRecorder) {
		t.Errorf("%v", err)
	}
	rec2 := new(targettest.MemRecorder)
	if err := rec2.Record(t.Context(), rec.History()[0]); err != nil {
		t.Fatal(err)
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec2); err != nil {
		t.Error(err)
	}
	if inv := p.Sim.Inventory(); len(inv) != 0 {
		t.Errorf("left: %q", inv)
	}
}

// TestJobsFail: a deployment that fails leaves nothing and can be repeated; so
// can attaching.
func TestJobsFail(t *testing.T) {
	p := startPeer(t, cssim.Options{}, nil)
	tgt := p.open(t)
	o, files := order(t, p, "jobs", tgt.deliveries()[0], 1, 1)
	rec := new(targettest.MemRecorder)
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	for i, f := range files {
		if err := send(t.Context(), s, i, f); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []string{"deployVirtualMachine", "attachVolume", "deleteTemplate"} {
		p.FailJobs(c, 1)
		if _, err := s.Finish(t.Context()); err == nil || !strings.Contains(err.Error(), "simulated failure of "+c) || target.IsPermanent(err) {
			t.Errorf("%s fails: %v", c, err)
		}
	}
	p.FailAPI("deployvirtualmachine", 1, -1, "") // after the machine exists it is not deployed again
	v, err := s.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ms := p.Machines(); len(ms) != 1 || len(ms[0].Disks) != 2 {
		t.Errorf("%d machines", len(ms))
	}
	p.FailJobs("startVirtualMachine", 1)
	if err := s.PowerOn(t.Context(), v); err == nil {
		t.Error("a start that fails is no error")
	}
	if err := s.PowerOn(t.Context(), v); err != nil {
		t.Error(err)
	}
	// A disk that somebody attached since is not lost with the machine.
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Error(err)
	}
	if inv := p.Sim.Inventory(); len(inv) != 0 {
		t.Errorf("left: %q", inv)
	}
}

// TestKeyRevoked: credentials that end before the machine is made are told as
// what they are, and with new ones the job goes on.
func TestKeyRevoked(t *testing.T) {
	p := startPeer(t, cssim.Options{}, nil)
	tgt := p.open(t)
	o, files := order(t, p, "revoked", tgt.deliveries()[0], 1)
	rec := new(targettest.MemRecorder)
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t.Context(), s, 0, files[0]); err != nil {
		t.Fatal(err)
	}
	tgt.cfg.secretKey = secret.New("ended")
	if _, err := s.Finish(t.Context()); !errors.Is(err, target.ErrPermanent) || !strings.Contains(err.Error(), "secret_key") {
		t.Errorf("%v", err)
	}
	s.Close(t.Context())
	if _, err := restoreAll(t, p.open(t), o, nil, rec); err != nil {
		t.Errorf("with the new key: %v", err)
	}
}

// TestTooSlow: the cloud gives an upload up that takes too long.
func TestTooSlow(t *testing.T) {
	p := startPeer(t, cssim.Options{UploadTimeout: 50 * time.Millisecond}, nil)
	tgt := p.open(t)
	o, files := order(t, p, "slow", tgt.deliveries()[0], 1)
	s, err := tgt.Begin(t.Context(), o, new(targettest.MemRecorder))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	up, err := s.Upload(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	st := up.(target.StreamUpload)
	if err := st.Append(t.Context(), files[0][:1000]); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(strings.Join(p.Sim.Inventory(), ""), "UploadError"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the simulated cloud does not give up")
		}
	}
	if err = st.Append(t.Context(), files[0][1000:]); err == nil {
		_, err = up.Complete(t.Context(), target.Sum{})
	}
	if !target.IsPermanent(err) || !strings.Contains(err.Error(), "upload.operation.timeout") {
		t.Errorf("%v", err)
	}
}

// TestUndoForeign: what does not bear the job's mark is left alone.
func TestUndoForeign(t *testing.T) {
	p := startPeer(t, cssim.Options{}, nil)
	p.Foreign("precious")
	before := p.Sim.Inventory()
	tgt := p.open(t)
	id := p.Machines()[0].ID
	for _, r := range []target.Resource{
		{Job: "j", Kind: kindVM, Name: "precious", ID: id, Done: true},
		{Job: "j", Kind: kindVolume, Name: "ascend-other-disk-0", ID: id, Done: true},
		{Job: "j", Kind: kindFile, Name: "../../etc/passwd", ID: "x", Done: true},
		{Job: "j", Kind: "planet", Name: "ascend-j-disk-0", ID: "x"},
	} {
		if err := tgt.Undo(t.Context(), r); !errors.Is(err, target.ErrPermanent) {
			t.Errorf("%s %s: %v", r.Kind, r.Name, err)
		}
	}
	if after := p.Sim.Inventory(); !slices.Equal(before, after) {
		t.Errorf("%q", after)
	}
}

// TestSecrets: no error and no print of the target holds a secret.
func TestSecrets(t *testing.T) {
	p := startPeer(t, cssim.Options{}, nil)
	tgt := p.open(t, "api_key", "nobody")
	_, err := tgt.Inventory(t.Context())
	b, jerr := json.Marshal(tgt.Validate(t.Context()))
	if jerr != nil {
		t.Fatal(jerr)
	}
	for _, s := range []string{fmt.Sprint(err), string(b), fmt.Sprintf("%+v %#v", *tgt.cfg, tgt.cfg)} {
		if strings.Contains(s, cssim.SecretKey) || strings.Contains(s, "signature=") {
			t.Errorf("a secret is told: %s", s)
		}
	}
}

// TestSignature compares with the example of CloudStack's developer guide.
func TestSignature(t *testing.T) {
	q := url.Values{"command": {"listUsers"}, "response": {"json"},
		"apiKey": {"plgWJfZK4gyS3mOMTVmjUVg-X-jlWlnfaUJ9GAbBbf9EdM-kAYMmAiLqzzq1ElZLYq_u38zCm0bewzGUdP66mg"}}
	key := secret.New("VDaACYb0LV9eNjTetIOElcVQkvJck_J_QljX_FcHRj87ZKiy0z0ty0ZsYBkoXkY9b7eq1EhwJaw7FF3akA3KBQ")
	if got := signature(q, key); got != "TTpdDq/7j/J58XCRHomKoQXEQds=" {
		t.Errorf("the guide's call is signed %s", got)
	}
}

func TestSettings(t *testing.T) {
	p := startPeer(t, cssim.Options{Plain: true}, nil)
	file := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.values = map[string]string{"url": "https://cloud.example.com", "ca_file": ""}
	for _, c := range [][]string{
		{"url", "http://cloud.example.com"}, {"url", "https://user:pass@cloud.example.com"}, {"url", "https://"}, {"url", "ftp://x"}, {"url", "https://x?command=y"},
		{"insecure", "perhaps"}, {"ca_file", file}, {"ca_file", file + ".none"}, {"thumbprint", "abc"}, {"parallel_disks", "0"}, {"path", "teleport"},
		{"pool", "a"}, {"pool", "a", "pool_dir", "relative"}, {"worker", "me"}, {"account", "a"}, {"account", "a", "domain", "b", "project", "c"}, {"secret_key", ""},
	} {
		if _, err := newConfig(p.settings(c...)); err == nil || !target.IsPermanent(err) || strings.Contains(err.Error(), "pass@") {
			t.Errorf("%q: %v", c, err)
		}
	}
	for in, want := range map[string]string{
		"cloud.example.com": "https://cloud.example.com/client/api", "https://c:8443/": "https://c:8443/client/api", "https://c/cloud/api": "https://c/cloud/api",
	} {
		if u, err := parseServer(in, false); err != nil || u.String() != want {
			t.Errorf("%s: %v, %v", in, u, err)
		}
	}
}

// TestPlain: disks are not sent without encryption unless that is said.
func TestPlain(t *testing.T) {
	p := startPeer(t, cssim.Options{Plain: true}, map[string]string{"insecure": "true", "ca_file": ""})
	tgt := p.open(t)
	o, files := order(t, p, "plain", tgt.deliveries()[0], 1)
	rec := new(targettest.MemRecorder)
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	tgt.cfg.insecure = false
	if err := send(t.Context(), s, 0, files[0]); !errors.Is(err, target.ErrPermanent) || !strings.Contains(err.Error(), "without encryption") {
		t.Errorf("%v", err)
	}
	tgt.cfg.insecure = true
	if err := send(t.Context(), s, 0, files[0]); err != nil {
		t.Error(err)
	}
}

func TestOwner(t *testing.T) {
	p := startPeer(t, cssim.Options{}, nil)
	for _, c := range []struct {
		pairs []string
		want  []string
	}{
		{[]string{"project", cssim.Project}, []string{"projectid"}},
		{[]string{"domain", "/ROOT/", "account", cssim.Account}, []string{"domainid", "account"}},
	} {
		tgt := p.open(t, c.pairs...)
		f, err := tgt.known(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range c.want {
			if f.owner[k] == "" || len(f.owner) != len(c.want) {
				t.Errorf("%q: %v", c.pairs, f.owner)
			}
		}
		o, files := order(t, p, "owner-"+c.want[0], tgt.deliveries()[0], 1, 1)
		if _, err := restoreAll(t, tgt, o, files, new(targettest.MemRecorder)); err != nil {
			t.Errorf("%q: %v", c.pairs, err)
		}
	}
	if _, err := p.open(t, "project", "red team").known(t.Context()); !target.IsPermanent(err) {
		t.Errorf("%v", err)
	}
}

func TestNames(t *testing.T) {
	for display, want := range map[string]string{
		"web01": "web01", "Web-01": "Web-01", "two words": "two-words-", "01web": "vm-01web-", "ü": "vm-", "-a-": "a-", "..": "vm-", strings.Repeat("x", 70): strings.Repeat("x", 40) + "-",
	} {
		got := hostName(display, "job")
		if !strings.HasPrefix(got, want) || !label.MatchString(got) || got != want && got == hostName(display, "other") {
			t.Errorf("%q: %q", display, got)
		}
	}
	if bearsJob("ascend-a-disk-1-disk-2", "a") || bearsJob("ascend--disk-1", "") || !bearsJob(thing("a", 12), "a") || bearsJob("ascend-a-disk-1/../x", "a") {
		t.Error("bearsJob")
	}
	for s, want := range map[string]version{"4.20.1.0": {4, 20, 1}, "4.21.0.0-SNAPSHOT": {4, 21, 0}, "4.9": {4, 9, 0}, "": {}, "x.y": {}} {
		if got := parseVersion(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
	if !(version{4, 21, 0}).since(4, 20, 9) || (version{4, 20, 2}).since(4, 20, 3) || !(version{5, 0, 0}).since(4, 21, 0) {
		t.Error("since")
	}
}

// TestLateDevice: the worker's device appears after a while, found by its serial
// among others.
func TestLateDevice(t *testing.T) {
	dir := t.TempDir()
	tgt := &cloud{cfg: &config{devices: dir, patience: 10 * time.Second, pause: 4 * time.Millisecond, worker: cssim.WorkerID}}
	const id = "0b3c5f68-7f0a-4a3e-9d61-5f2b1a0c9e77"
	if err := os.WriteFile(filepath.Join(dir, "virtio-ffffffffffffffffffff"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		_ = os.WriteFile(filepath.Join(dir, "scsi-0QEMU_QEMU_HARDDISK_0b3c5f687f0a4a3e9d61"), make([]byte, 4096), 0o600)
	}()
	if _, err := tgt.device(t.Context(), id, 4097); err == nil || !strings.Contains(err.Error(), "4096") {
		t.Errorf("a device that is too small: %v", err)
	}
	f, err := tgt.device(t.Context(), id, 4096)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	tgt.cfg.patience = time.Millisecond
	if _, err := tgt.device(t.Context(), "ffffffff-0000-4000-8000-000000000000", 1); !target.IsPermanent(err) {
		t.Errorf("a device that never appears: %v", err)
	}
}

func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		`{"listvolumesresponse":{}}`, `{"listvolumesresponse":{"count":1,"volume":[{"id":"x","size":1}]}}`, `{"errorresponse":{"errorcode":431,"errortext":"no"}}`,
		`<html>`, `{}`, `[]`, `{"a":1}`, `{"a":{"errorcode":"x"}}`, ``, `null`, `{"a":null}`,
	} {
		f.Add(200, []byte(s))
		f.Add(503, []byte(s))
	}
	f.Fuzz(func(t *testing.T, status int, b []byte) {
		var out struct {
			Volume []volumeRow `json:"volume"`
		}
		if err := parseAnswer("listVolumes", status, b, &out); err == nil && status != http.StatusOK {
			t.Errorf("status %d of %q is no error", status, b)
		}
	})
}

// TestAnswers are answers of what is no CloudStack, or not today.
func TestAnswers(t *testing.T) {
	var status int
	var body string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	defer srv.Close()
	p := &peer{Sim: &cssim.Sim{URL: srv.URL}, values: map[string]string{"insecure": "true"}}
	for _, c := range []struct {
		status    int
		body      string
		permanent bool
	}{
		{200, "<html>hello</html>", true}, {503, "<html>later</html>", false}, {401, `{"r":{"errorcode":401,"errortext":"no"}}`, true}, {200, `{"r":7}`, false},
	} {
		status, body = c.status, c.body
		if _, err := p.open(t).Inventory(t.Context()); err == nil || target.IsPermanent(err) != c.permanent {
			t.Errorf("%d %s: %v", c.status, c.body, err)
		}
	}
}

// TestBackslash: a name that the server's search does not find is found.
func TestBackslash(t *testing.T) {
	p := startPeer(t, cssim.Options{}, nil)
	p.Foreign(`a\b`)
	tgt := p.open(t)
	o, _ := order(t, p, "slash", tgt.deliveries()[0], 1)
	o.Machine.Name = `a\b`
	if _, err := tgt.Begin(t.Context(), o, new(targettest.MemRecorder)); !errors.Is(err, target.ErrExists) {
		t.Errorf("%v", err)
	}
}

// TestOtherSize: an image in which the platform reads a disk of another size is
// not the one that was sent.
func TestOtherSize(t *testing.T) {
	p := startPeer(t, cssim.Options{}, nil)
	tgt := p.open(t)
	o, files := order(t, p, "size", tgt.deliveries()[0], 1, 1)
	for i := range o.Disks {
		o.Disks[i].Virtual += 512
	}
	rec := new(targettest.MemRecorder)
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	for i, f := range files {
		if err := send(t.Context(), s, i, f); !errors.Is(err, target.ErrDigest) {
			t.Errorf("disk %d: %v", i, err)
		}
	}
	if v, err := s.Finish(t.Context()); err == nil {
		t.Errorf("a machine was made: %+v", v)
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Error(err)
	}
	if inv := p.Sim.Inventory(); len(inv) != 0 {
		t.Errorf("left: %q", inv)
	}
}
