package nutanix

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ascend/internal/target"
	"ascend/internal/target/nutanix/prismsim"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// order is a machine with disks of some KiB of noise, as p takes it.
func order(t testing.TB, p *peer, tgt *prism, job string, disks ...int) (*target.Order, [][]byte) {
	t.Helper()
	o := &target.Order{Job: job, Machine: &vm.Machine{
		Name: "web " + job, CPU: vm.CPU{Sockets: 2, CoresPerSocket: 2}, Memory: 3 * vm.GiB, Firmware: vm.BIOS,
		Guest: vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64},
		NICs:  []vm.NIC{{MAC: "50:6b:8d:00:00:01", Model: vm.VirtioNet, Addresses: []string{"fe80::1", "10.10.3.4/16"}}},
	}}
	d := slices.MaxFunc(tgt.Capabilities().Deliveries, func(a, b target.Delivery) int { return strings.Compare(a.Format.Name, b.Format.Name) }) // raw, if offered: the file is the disk
	var files [][]byte
	for i, kib := range disks {
		raw := bytes.Repeat(fmt.Appendf(nil, "%-16s", fmt.Sprintf("%s %d", job, i)), kib*64)
		o.Machine.Disks = append(o.Machine.Disks, vm.Disk{Index: i, Size: int64(len(raw)), Controller: vm.BusVirtioSCSI, Boot: i == 0})
		o.Disks = append(o.Disks, target.DiskOrder{Delivery: d, Virtual: int64(len(raw)), FileSize: int64(len(raw))})
		files = append(files, raw)
	}
	o.Placement.Networks = make([]string, len(o.Machine.NICs))
	p.Order(t, o)
	return o, files
}

// everything is an order that sets all there is to set.
func everything(t testing.TB, p *peer, tgt *prism) (*target.Order, [][]byte) {
	o, files := order(t, p, tgt, "all", 1, 100, 65)
	m := o.Machine
	m.Firmware, m.SecureBoot, m.TPM, m.Annotation = vm.UEFI, true, true, "the annotation\nof two lines"
	m.Disks[0].Boot, m.Disks[1].Boot = false, true
	m.Disks[2].Controller = vm.BusSATA
	off := false
	m.NICs[0].Model = vm.E1000
	m.NICs = append(m.NICs, vm.NIC{MAC: "50:6b:8d:00:00:02", Connected: &off})
	o.Placement.Networks = []string{prismsim.Subnet, prismsim.OtherSubnet}
	o.Placement.Adapters = []target.Adapter{{Address: target.AddressNew, Addresses: []string{"10.10.0.77"}}, {Address: target.AddressKeep}}
	o.Placement.Fields = map[string]string{fieldContainer: prismsim.Container, fieldCategory: prismsim.CategoryKey + ":it's quoted", fieldProject: prismsim.Project}
	o.Placement.Storage = []string{"", prismsim.Fast, ""}
	o.Options = map[string]string{optTimezone: "Europe/Berlin"}
	return o, files
}

func sum(file []byte) target.Sum {
	h := sha256.Sum256(file)
	return target.Sum{Bytes: int64(len(file)), SHA256: h[:]}
}

// send sends what the platform does not have, in pieces.
func send(ctx context.Context, s target.Session, i int, file []byte) error {
	up, err := s.Upload(ctx, i)
	if err != nil {
		return err
	}
	u := up.(target.StreamUpload)
	off, err := u.Offset(ctx)
	if err != nil {
		return err
	}
	for p := range slices.Chunk(file[off:], 100_000) {
		if err := u.Append(ctx, p); err != nil {
			return errors.Join(err, u.Abort())
		}
	}
	if _, err = u.Complete(ctx, sum(file)); err != nil {
		return errors.Join(err, u.Abort())
	}
	return nil
}

func restoreAll(t testing.TB, tgt target.Target, o *target.Order, files [][]byte, rec target.Recorder) (*target.VM, error) {
	t.Helper()
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		return nil, err
	}
	defer s.Close(t.Context())
	var wg sync.WaitGroup
	errs := make([]error, len(files))
	for i, f := range files {
		wg.Go(func() { errs[i] = send(t.Context(), s, i, f) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s.Finish(t.Context())
}

// TestHardware looks at what the platform was told of the machine.
func TestHardware(t *testing.T) {
	p := startPeer(t, prismsim.Options{}, nil)
	tgt := p.open(t)
	o, files := everything(t, p, tgt)
	rec := new(targettest.MemRecorder)
	v, err := restoreAll(t, tgt, o, files, rec)
	if err != nil {
		t.Fatal(err)
	}
	m := p.machine(t, o)
	if v.ID != m.ID || !strings.HasSuffix(v.URL, m.ID) || m.Power != "OFF" || m.Sockets != 2 || m.Cores != 2 || m.Memory != 3*vm.GiB || m.Timezone != "Europe/Berlin" {
		t.Errorf("%+v", m)
	}
	if !m.UEFI || !m.SecureBoot || !m.VTPM || m.MachineType != "Q35" || m.BootDisk != 1 || m.Description != "the annotation\nof two lines\nascend.job=all" {
		t.Errorf("%+v", m)
	}
	if m.Project == "" || !reflect.DeepEqual(m.Categories, []string{prismsim.CategoryKey + ":it's quoted"}) {
		t.Errorf("project %q, categories %q", m.Project, m.Categories)
	}
	var disks, nics []string
	for _, d := range m.Disks {
		disks = append(disks, fmt.Sprintf("%s.%d %s", d.Bus, d.Index, d.Container))
	}
	if !slices.Equal(disks, []string{"SCSI.1 default-container", "SCSI.0 fast-container", "SATA.0 default-container"}) {
		t.Errorf("disks %q", disks)
	}
	for _, n := range m.NICs {
		nics = append(nics, fmt.Sprintln(n.Subnet, n.Model, n.MAC, n.IP, n.Connected))
	}
	if !slices.Equal(nics, []string{"vlan.100 E1000 50:6b:8d:00:00:01 10.10.0.77 true\n", "vlan.200 VIRTIO 50:6b:8d:00:00:02  false\n"}) {
		t.Errorf("adapters %q", nics)
	}
	for i := range files {
		if !bytes.Equal(p.Read(t, o, i), files[i]) {
			t.Errorf("disk %d holds other bytes", i)
		}
	}
	if inv := p.Sim.Inventory(); len(inv) != 1 {
		t.Errorf("beside the machine there is %q", inv)
	}
}

// TestRefusals are orders that cannot work: said before anything is created.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		o      prismsim.Options
		values map[string]string
		edit   func(o *target.Order)
		want   string
	}{
		{"no such cluster", prismsim.Options{}, nil, func(o *target.Order) { o.Placement.Fields = map[string]string{fieldCluster: "Mars"} }, `no cluster "Mars"`},
		{"which cluster", prismsim.Options{}, map[string]string{"cluster": ""}, func(*target.Order) {}, "there are 2"},
		{"no such container", prismsim.Options{}, nil, func(o *target.Order) { o.Placement.Storage = []string{"hole"} }, "there are: default-container, fast-container"},
		{"subnet of another cluster", prismsim.Options{}, nil, func(o *target.Order) { o.Placement.Networks[0] = prismsim.AwaySubnet }, "no subnet"},
		{"no subnet chosen", prismsim.Options{}, nil, func(o *target.Order) { o.Placement.Networks[0] = "" }, "there are 2"},
		{"address elsewhere", prismsim.Options{}, nil, func(o *target.Order) {
			o.Placement.Adapters = []target.Adapter{{Address: target.AddressNew, Addresses: []string{"192.0.2.1"}}}
		}, "is not in subnet"},
		{"no such category", prismsim.Options{}, nil, func(o *target.Order) { o.Placement.Fields = map[string]string{fieldCategory: "A:B"} }, "no category A:B"},
		{"half a category", prismsim.Options{}, nil, func(o *target.Order) { o.Placement.Fields = map[string]string{fieldCategory: "A"} }, "KEY:VALUE"},
		{"no such project", prismsim.Options{}, nil, func(o *target.Order) { o.Placement.Fields = map[string]string{fieldProject: "x"} }, `no project "x"`},
		{"project before v4.1", prismsim.Options{Version: "v4.0"}, map[string]string{"project": prismsim.Project}, func(*target.Order) {}, "leave project out"},
		{"unknown option", prismsim.Options{}, nil, func(o *target.Order) { o.Options = map[string]string{"x": "y"} }, "unknown option"},
		{"long name", prismsim.Options{}, nil, func(o *target.Order) { o.Machine.Name = strings.Repeat("n", 246) }, "245"},
		{"seven SATA disks", prismsim.Options{}, nil, func(o *target.Order) {
			for i := range 7 {
				d := vm.Disk{Index: i, Size: 1024, Controller: vm.BusSATA}
				if i == 0 {
					o.Machine.Disks[0] = d
					continue
				}
				o.Machine.Disks, o.Disks = append(o.Machine.Disks, d), append(o.Disks, o.Disks[0])
			}
		}, "6 disks on SATA"},
		{"Secure Boot on BIOS", prismsim.Options{}, nil, func(o *target.Order) { o.Machine.SecureBoot = true }, "needs UEFI"},
		{"TPM on BIOS", prismsim.Options{}, nil, func(o *target.Order) { o.Machine.TPM = true }, "UEFI machines only"},
		{"a file too large for S3", prismsim.Options{}, nil, func(o *target.Order) { o.Disks[0].FileSize = 60 << 40 }, "larger than Objects Lite"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPeer(t, c.o, c.values)
			tgt := p.open(t)
			o, _ := order(t, p, tgt, "refused", 1)
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

// TestNeverNine uploads three disks by two connections at once: Objects Lite is
// never asked for a ninth request, and is kept busy.
func TestNeverNine(t *testing.T) {
	p := startPeer(t, prismsim.Options{}, nil)
	one, two := p.open(t), p.open(t)
	release := p.Stall(t)
	var held atomic.Int32
	p.SetFault(func(q prismsim.Request) *prismsim.Fault {
		if isPart(q) && held.Add(1) == 8 {
			release() // all eight were under way at once
		}
		return nil
	})
	var wg sync.WaitGroup
	for n, tgt := range []*prism{one, two} {
		o, files := order(t, p, tgt, fmt.Sprint("busy", n), 1500, 1500, 1500)
		wg.Go(func() {
			if _, err := restoreAll(t, tgt, o, files, new(targettest.MemRecorder)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most, refused := p.Busiest(); most != 8 || refused != 0 {
		t.Errorf("%d requests at once, %d refused", most, refused)
	}
}

// TestStale has machines change between each look and the change that follows.
func TestStale(t *testing.T) {
	p := startPeer(t, prismsim.Options{}, nil)
	tgt := p.open(t)
	o, files := order(t, p, tgt, "stale", 10)
	rec := new(targettest.MemRecorder)
	v, err := restoreAll(t, tgt, o, files, rec)
	if err != nil {
		t.Fatal(err)
	}
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	p.Touch(3)
	if err := s.PowerOn(t.Context(), v); err != nil || !p.Running(t, v) {
		t.Errorf("%v", err)
	}
	p.Touch(1000)
	if err := targettest.UndoAll(t.Context(), tgt, rec); err == nil || !strings.Contains(err.Error(), "412") {
		t.Errorf("a machine that changes all the time: %v", err)
	}
	p.Touch(3)
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Error(err)
	}
	if inv := p.Sim.Inventory(); len(inv) != 0 {
		t.Errorf("left: %q", inv)
	}
}

// TestTasks has the task that makes the machine fail, be aborted, fail after it
// made the machine, and never end; the next attempt works and makes nothing twice.
func TestTasks(t *testing.T) {
	for _, c := range []struct {
		end  prismsim.TaskEnd
		want string
	}{
		{prismsim.Fails, "the task failed"}, {prismsim.Canceled, "the task was cancelled"}, {prismsim.Half, "the task failed"},
		{prismsim.Never, "has not moved for"},
	} {
		t.Run(string(c.end), func(t *testing.T) {
			p := startPeer(t, prismsim.Options{}, nil)
			tgt := p.open(t)
			tgt.cfg.idle = 200 * time.Millisecond
			o, files := order(t, p, tgt, "tasks", 10, 100)
			rec := new(targettest.MemRecorder)
			p.DoomTasks(prismsim.OpVM, 1, c.end)
			_, err := restoreAll(t, tgt, o, files, rec)
			if err == nil || target.IsPermanent(err) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "hint: ") {
				t.Fatalf("%v, want %q and a hint, to be tried again", err, c.want)
			}
			if n := len(p.Machines()); n != 0 {
				t.Errorf("%d machines are left of the attempt", n)
			}
			if c.end == prismsim.Never {
				p.EndTasks(prismsim.Fails)
				if _, err = restoreAll(t, tgt, o, files, rec); err == nil {
					t.Error("a task that failed at last is no error")
				}
			}
			if _, err = restoreAll(t, tgt, o, files, rec); err != nil {
				t.Fatal(err)
			}
			if inv := p.Sim.Inventory(); len(inv) != 1 {
				t.Errorf("%q", inv)
			}
			for i := range files {
				if !bytes.Equal(p.Read(t, o, i), files[i]) {
					t.Errorf("disk %d holds other bytes", i)
				}
			}
			if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil || len(p.Sim.Inventory()) != 0 {
				t.Errorf("%v, left: %q", err, p.Sim.Inventory())
			}
		})
	}
}

// TestForgottenUpload: Prism Central drops unfinished uploads; the disk begins anew.
func TestForgottenUpload(t *testing.T) {
	p := startPeer(t, prismsim.Options{}, nil)
	tgt := p.open(t)
	o, files := order(t, p, tgt, "forgotten", 500)
	rec := new(targettest.MemRecorder)
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	up, err := s.Upload(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	u := up.(target.StreamUpload)
	if err := errors.Join(u.Append(t.Context(), files[0][:300_000]), u.Sync(t.Context()), u.Abort()); err != nil {
		t.Fatal(err)
	}
	p.DropUploads()
	if err := send(t.Context(), s, 0, files[0]); !errors.Is(err, target.ErrExpired) {
		t.Fatalf("%v, want ErrExpired", err)
	}
	if err := send(t.Context(), s, 0, files[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p.Read(t, o, 0), files[0]) {
		t.Error("other bytes")
	}
}

// TestPasswordChanged: the password is changed before the completion. The upload
// ends at once, and goes on with the new one.
func TestPasswordChanged(t *testing.T) {
	p := startPeer(t, prismsim.Options{}, nil)
	tgt := p.open(t)
	o, files := order(t, p, tgt, "password", 300)
	rec := new(targettest.MemRecorder)
	p.first(1000, isCompletion, prismsim.Fault{Status: http.StatusForbidden})(t, o)
	if _, err := restoreAll(t, tgt, o, files, rec); !target.IsPermanent(err) {
		t.Fatalf("%v", err)
	}
	p.SetFault(nil)
	var parts atomic.Int32
	p.SetFault(func(q prismsim.Request) *prismsim.Fault {
		if isPart(q) {
			parts.Add(1)
		}
		return nil
	})
	if _, err := restoreAll(t, p.open(t), o, files, rec); err != nil {
		t.Fatal(err)
	}
	if n := parts.Load(); n != 0 {
		t.Errorf("%d parts are sent again", n)
	}
}

// TestPages lists more machines than a page has.
func TestPages(t *testing.T) {
	for _, version := range []string{"v4.1", "v3"} {
		p := startPeer(t, prismsim.Options{Version: version}, nil)
		for i := range 1100 {
			p.AddMachine(fmt.Sprint("m", i))
		}
		inv, err := p.open(t).Inventory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(inv.Taken)
		if n := len(slices.Compact(inv.Taken)); n != 1100 || len(inv.Networks) != 2 || len(inv.Places[fieldCluster]) != 2 {
			t.Errorf("%s: %d machines, %v", version, n, inv.Networks)
		}
	}
}

// TestNothingHidden: of several things that went wrong at once, each is said and found.
func TestNothingHidden(t *testing.T) {
	second := errors.New("the second")
	for _, first := range []error{&apiError{what: "GET /", status: 401}, &taskError{id: "t", status: "FAILED"}} {
		err := translate(fmt.Errorf("disk 3: %w", errors.Join(first, second)))
		if !errors.Is(err, second) || !strings.Contains(err.Error(), "the second") || !strings.Contains(err.Error(), "disk 3") || !strings.Contains(err.Error(), "\nhint: ") {
			t.Errorf("%v", err)
		}
	}
}

// TestMarkLost: a machine whose description lost the mark is nobody's.
func TestMarkLost(t *testing.T) {
	p := startPeer(t, prismsim.Options{}, nil)
	tgt := p.open(t)
	o, files := order(t, p, tgt, "mark", 10)
	rec := new(targettest.MemRecorder)
	if _, err := restoreAll(t, tgt, o, files, rec); err != nil {
		t.Fatal(err)
	}
	p.Describe("web mark", "mine now")
	if err := targettest.UndoAll(t.Context(), tgt, rec); !target.IsPermanent(err) || !strings.Contains(err.Error(), "by hand") {
		t.Errorf("%v", err)
	}
	if len(p.Machines()) != 1 {
		t.Error("it is deleted")
	}
}

// TestNoSecrets asks with a password that is wrong and looks for it in what is
// said and recorded.
func TestNoSecrets(t *testing.T) {
	p := startPeer(t, prismsim.Options{}, nil)
	const wrong = "do-not-show-this"
	tgt := p.open(t, "password", wrong)
	said := fmt.Sprintf("%+v %#v", tgt.Validate(t.Context()), tgt.cfg)
	_, err := tgt.Inventory(t.Context())
	said += fmt.Sprint(err)
	_, err = tgt.c.createUpload(t.Context(), "x")
	said += fmt.Sprint(err, translate(err))
	if strings.Contains(said, wrong) || strings.Contains(said, "ZG8tbm90") {
		t.Error("the password is shown")
	}
}

// TestSettings are settings that cannot work.
func TestSettings(t *testing.T) {
	p := &peer{Sim: &prismsim.Sim{URL: "https://x:9440"}}
	for _, c := range [][3]string{
		{"url", "http://prism", "https"}, {"url", "https://u:p@prism", "must not hold"}, {"url", "https://prism/api/nutanix", "without a path"},
		{"url", "https://", "no host"}, {"user", "a:b", "colon"}, {"thumbprint", "zz", "SHA-256"}, {"insecure", "maybe", "neither"},
		{"ca_file", filepath.Join(t.TempDir(), "none"), "no such file"},
	} {
		_, err := target.NewRegistry(Kind()).Open(t.Context(), p.settings("ca_file", "", c[0], c[1]))
		if err == nil || !target.IsPermanent(err) || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s=%q: %v", c[0], c[1], err)
		}
	}
	u, err := parseServer("prism.example.com", false)
	if err != nil || u.String() != "https://prism.example.com:9440" {
		t.Errorf("%v %v", u, err)
	}
}

// killed is set in the process that is to be killed.
const killed = "ASCEND_NUTANIX_KILLED"

// TestKill9 kills the process that uploads with SIGKILL, again and again, until
// the disk is whole: what is sent again is bounded by what was on its way.
func TestKill9(t *testing.T) {
	if os.Getenv(killed) != "" {
		childUploads(t)
		return
	}
	p := startPeer(t, prismsim.Options{}, nil)
	tgt := p.open(t)
	o, files := order(t, p, tgt, "kill", 4096)
	dir := t.TempDir()
	journal := filepath.Join(dir, "resources")
	var landed atomic.Int32
	kills := 0
	die := make(chan struct{}, 1)
	p.SetFault(func(q prismsim.Request) *prismsim.Fault {
		if isPart(q) {
			if landed.Add(1)%20 == 0 {
				select {
				case die <- struct{}{}:
				default:
				}
			}
		}
		return nil
	})
	for range 2 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKill9$")
		cmd.Env = append(os.Environ(), killed+"="+strings.Join([]string{p.URL, p.CAFile, journal}, "\n"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-die
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			kills++
		}
	}
	before := landed.Load()
	if _, err := restoreAll(t, tgt, o, files, targettest.NewFileRecorder(journal)); err != nil {
		t.Fatal(err)
	}
	parts := len(files[0]) / part
	if n := int(landed.Load()); kills != 2 || landed.Load() == before || n > parts+kills*(inFlight+1) {
		t.Errorf("%d parts were sent for a file of %d, with %d kills", n, parts, kills)
	}
	if !bytes.Equal(p.Read(t, o, 0), files[0]) {
		t.Error("other bytes")
	}
	if inv := p.Sim.Inventory(); len(inv) != 1 {
		t.Errorf("%q", inv)
	}
}

func childUploads(t *testing.T) {
	at := strings.Split(os.Getenv(killed), "\n")
	p := &peer{Sim: &prismsim.Sim{URL: at[0], CAFile: at[1]}}
	tgt := p.open(t)
	o, files := order(t, p, tgt, "kill", 4096)
	_, err := restoreAll(t, tgt, o, files, targettest.NewFileRecorder(at[2]))
	t.Fatalf("was to be killed and ended with %v", err)
}
