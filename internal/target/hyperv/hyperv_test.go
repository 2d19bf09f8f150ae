package hyperv

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ascend/internal/image"
	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostscript"
	"ascend/internal/target/hyperv/hostshare/sambatest"
	"ascend/internal/target/hyperv/wsmansim"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// order is a machine with disks of some KiB of noise, as p takes it, and the
// files to send.
func order(t testing.TB, p *peer, tgt *host, job string, disks ...int) (*target.Order, [][]byte) {
	t.Helper()
	o := &target.Order{Job: job, Machine: &vm.Machine{
		Name: "web " + job, CPU: vm.CPU{Sockets: 2, CoresPerSocket: 2}, Memory: 3 * vm.GiB, Firmware: vm.BIOS,
		Guest: vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64},
		NICs:  []vm.NIC{{MAC: "00:15:5d:00:00:01", Model: vm.NetVSC}},
	}}
	d := tgt.Capabilities().Deliveries[0]
	var files [][]byte
	for i, kib := range disks {
		raw := bytes.Repeat(fmt.Appendf(nil, "%-16s", fmt.Sprintf("%s %d", job, i)), kib*64)
		file := targettest.Encode(t, raw, d.Format)
		o.Machine.Disks = append(o.Machine.Disks, vm.Disk{Index: i, Size: int64(len(raw)), Boot: i == 0})
		o.Disks = append(o.Disks, target.DiskOrder{Delivery: d, Virtual: int64(len(raw)), FileSize: int64(len(file))})
		files = append(files, file)
	}
	o.Placement.Networks = make([]string, len(o.Machine.NICs))
	p.Order(t, o)
	return o, files
}

// ranges is the size of the pieces that send sends.
const ranges = 64 << 10

// send sends a file's ranges but those that skip says.
func send(ctx context.Context, s target.Session, i int, file []byte, skip func(off int64) bool, done func(off int64)) error {
	up, err := s.Upload(ctx, i)
	if err != nil {
		return err
	}
	u := up.(target.RangeUpload)
	for off := int64(0); off < int64(len(file)); off += ranges {
		if skip != nil && skip(off) {
			continue
		}
		if err := u.WriteRange(ctx, off, file[off:min(off+ranges, int64(len(file)))]); err != nil {
			return errors.Join(err, u.Abort())
		}
		if done != nil {
			done(off)
		}
	}
	if _, err = u.Complete(ctx, target.Sum{Bytes: int64(len(file))}); err != nil {
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
		wg.Go(func() { errs[i] = send(t.Context(), s, i, f, nil, nil) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s.Finish(t.Context())
}

// TestHardware looks at the machines that the host was told to make: generation 2
// and all there is to set, and generation 1.
func TestHardware(t *testing.T) {
	off := false
	for _, c := range []struct {
		name string
		sim  wsmansim.Options
		edit func(o *target.Order)
		want wsmansim.Machine
	}{
		{"generation 2", wsmansim.Options{Cluster: "CLU1"}, func(o *target.Order) {
			m := o.Machine
			m.Firmware, m.SecureBoot, m.TPM, m.Annotation = vm.UEFI, true, true, "the annotation\nascend.job=another\nof two lines"
			m.Disks[0].Boot, m.Disks[1].Boot = false, true
			m.Memory = 3*vm.GiB + 1
			m.NICs = append(m.NICs, vm.NIC{Name: "second; $(x)", MAC: "00-50-56-AA-BB-CC", Connected: &off})
			o.Placement.Networks = []string{wsmansim.Internal, wsmansim.Switch}
			o.Options = map[string]string{optVLAN: "0,42", optMemory: "dynamic", optMinimum: "1024", optMaximum: "8191", optCheckpoints: "production-only", optCluster: "yes"}
		}, wsmansim.Machine{
			Generation: 2, Processors: 4, Memory: hostscript.Memory{Startup: 3*vm.GiB + 2*vm.MiB, Dynamic: true, Minimum: vm.GiB, Maximum: 8 * vm.GiB},
			SecureBoot: true, Template: "MicrosoftUEFICertificateAuthority", TPM: true, Checkpoints: "ProductionOnly", Clustered: true,
			Notes: "the annotation\nof two lines\nascend.job=hw",
			Disks: []hostscript.Drive{{Controller: "SCSI"}, {Controller: "SCSI", Location: 1}, {Controller: "SCSI", Location: 2}}, Boot: hostscript.Drive{Controller: "SCSI", Location: 1},
			NICs: []hostscript.Adapter{{Name: "Network Adapter 1", Switch: wsmansim.Internal, MAC: "00155D000001"}, {Name: "second; $(x)", MAC: "005056AABBCC", VLAN: 42}},
		}},
		{"generation 2, Windows", wsmansim.Options{}, func(o *target.Order) {
			o.Machine.Firmware, o.Machine.SecureBoot, o.Machine.Guest.Family = vm.UEFI, true, vm.Windows
			o.Options = map[string]string{optMAC: "new"}
		}, wsmansim.Machine{
			Generation: 2, Processors: 4, Memory: hostscript.Memory{Startup: 3 * vm.GiB}, SecureBoot: true, Template: "MicrosoftWindows", Checkpoints: "Production", Notes: "ascend.job=hw",
			Disks: []hostscript.Drive{{Controller: "SCSI"}, {Controller: "SCSI", Location: 1}, {Controller: "SCSI", Location: 2}}, Boot: hostscript.Drive{Controller: "SCSI"},
			NICs: []hostscript.Adapter{{Name: "Network Adapter 1", Switch: wsmansim.Switch}},
		}},
		{"generation 1", wsmansim.Options{}, func(o *target.Order) {
			m := o.Machine
			m.Disks[0].Boot, m.Disks[2].Boot = false, true
			m.Disks[1].Controller = vm.BusIDE
			o.Options = map[string]string{optVLAN: "7", optCheckpoints: "disabled"}
		}, wsmansim.Machine{
			Generation: 1, Processors: 4, Memory: hostscript.Memory{Startup: 3 * vm.GiB}, Checkpoints: "Disabled", Notes: "ascend.job=hw",
			Disks: []hostscript.Drive{{Controller: "SCSI"}, {Controller: "IDE", Location: 1}, {Controller: "IDE"}},
			NICs:  []hostscript.Adapter{{Name: "Network Adapter 1", Switch: wsmansim.Switch, MAC: "00155D000001", VLAN: 7}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPeer(t, c.sim, nil, nil)
			tgt := p.open(t)
			o, files := order(t, p, tgt, "hw", 1, 2, 3)
			c.edit(o)
			rec := new(targettest.MemRecorder)
			v, err := restoreAll(t, tgt, o, files, rec)
			if err != nil {
				t.Fatal(err)
			}
			m := p.machine(t, o)
			if v.ID != m.ID || m.Name != "web hw" || m.State != "Off" {
				t.Errorf("%+v %+v", v, m)
			}
			for i := range m.Disks {
				c.want.Disks[i].File = m.Disks[i].File
				if m.Boot.Location == m.Disks[i].Location && m.Generation == 2 {
					c.want.Boot.File = m.Boot.File
				}
			}
			got, want := fmt.Sprintf("%+v", shape(m)), fmt.Sprintf("%+v", shape(c.want))
			if got != want {
				t.Errorf("made  %s\nwanted %s", got, want)
			}
			for i := range files {
				if b, err := os.ReadFile(p.Path(m.Disks[i].File)); err != nil || !bytes.Equal(b, files[i]) {
					t.Errorf("disk %d holds other bytes (%v)", i, err)
				}
			}
			// The same job once more makes nothing twice.
			if again, err := restoreAll(t, p.open(t), o, files, rec); err != nil || again.ID != v.ID || len(p.Machines()) != 1 {
				t.Errorf("%+v %v, %d machines", again, err, len(p.Machines()))
			}
			if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil || len(p.Inventory(t)) != 0 {
				t.Errorf("%v, left %q", err, p.Inventory(t))
			}
		})
	}
}

// shape is what of a machine an order says.
func shape(m wsmansim.Machine) wsmansim.Machine {
	return wsmansim.Machine{
		Generation: m.Generation, Processors: m.Processors, Memory: m.Memory, SecureBoot: m.SecureBoot, Template: m.Template, TPM: m.TPM, Checkpoints: m.Checkpoints,
		Clustered: m.Clustered, Notes: m.Notes, Disks: m.Disks, Boot: m.Boot, NICs: m.NICs,
	}
}

// TestHostileName makes a machine of exactly that name and runs nothing: what the
// host is told to run is one constant, which the simulated host compares.
func TestHostileName(t *testing.T) {
	p := startPeer(t, wsmansim.Options{}, nil, nil)
	tgt := p.open(t)
	name := `'"$(Stop-Computer)` + "`; Remove-VM * -Force; & 日本語 🖥 %PATH% {0} </s:Body>]]>"
	name += strings.Repeat("ü", 200-len([]rune(name)))
	o, files := order(t, p, tgt, "hostile", 1)
	o.Machine.Name, o.Machine.Annotation, o.Machine.NICs[0].Name = name, name, name
	rec := new(targettest.MemRecorder)
	p.AddMachine("bystander")
	if _, err := restoreAll(t, tgt, o, files, rec); err != nil {
		t.Fatal(err)
	}
	if m := p.machine(t, o); m.Name != name || m.NICs[0].Name != name || len(p.Machines()) != 2 {
		t.Errorf("made %q", m.Name)
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Error(err)
	}
	if left := p.Machines(); len(left) != 1 || left[0].Name != "bystander" {
		t.Errorf("left %+v", left)
	}
}

// TestRefusals are orders that cannot work: said before anything is created.
func TestRefusals(t *testing.T) {
	nic := func(o *target.Order) *vm.NIC { return &o.Machine.NICs[0] }
	for _, c := range []struct {
		name string
		edit func(o *target.Order)
		want string
	}{
		{"no such volume", func(o *target.Order) { o.Placement.Fields = map[string]string{fieldPath: `X:\VMs`} }, "no volume for the folder"},
		{"not shared", func(o *target.Order) { o.Placement.Storage = []string{`D:\Other`} }, "no share of the host holds"},
		{"another server", func(o *target.Order) { o.Placement.Fields = map[string]string{fieldPath: `\\nas\vms`} }, "on another server"},
		{"no folder", func(o *target.Order) { o.Placement.Fields = map[string]string{fieldPath: `D:\VMs\..\Windows`} }, "no folder of a Windows drive"},
		{"a stream of a file", func(o *target.Order) { o.Placement.Fields = map[string]string{fieldPath: `D:\VMs\a:b`} }, "no folder of a Windows drive"},
		{"no such switch", func(o *target.Order) { o.Placement.Networks[0] = "Exter*" }, `no virtual switch "Exter*"`},
		{"no switch chosen", func(o *target.Order) { o.Placement.Networks[0] = "" }, "there are 2"},
		{"VLAN", func(o *target.Order) { o.Options = map[string]string{optVLAN: "4095"} }, "no VLAN"},
		{"VLANs", func(o *target.Order) { o.Options = map[string]string{optVLAN: "1,2"} }, "2 numbers for 1 adapters"},
		{"multicast MAC", func(o *target.Order) { nic(o).MAC = "01:00:5e:00:00:01" }, "no address of a single adapter"},
		{"no MAC", func(o *target.Order) { nic(o).MAC = "zz" }, "no MAC address"},
		{"Secure Boot on BIOS", func(o *target.Order) { o.Machine.SecureBoot = true }, "needs UEFI"},
		{"TPM on BIOS", func(o *target.Order) { o.Machine.TPM = true }, "UEFI machines only"},
		{"32 bits on UEFI", func(o *target.Order) { o.Machine.Firmware, o.Machine.Guest.Arch = vm.UEFI, vm.I386 }, "32-bit"},
		{"65 processors on BIOS", func(o *target.Order) { o.Machine.CPU = vm.CPU{Sockets: 65} }, "at most 64"},
		{"13 adapters on BIOS", func(o *target.Order) {
			for range 12 {
				o.Machine.NICs = append(o.Machine.NICs, vm.NIC{})
			}
		}, "at most 12"},
		{"memory", func(o *target.Order) { o.Options = map[string]string{optMemory: "dynamic", optMaximum: "1024"} }, "does not hold"},
		{"heartbeat", func(o *target.Order) { o.Options = map[string]string{optHeartbeat: "soon"} }, "no number of seconds"},
		{"no cluster", func(o *target.Order) { o.Options = map[string]string{optCluster: "yes"} }, "no failover cluster"},
		{"unknown option", func(o *target.Order) { o.Options = map[string]string{"x": "y"} }, "unknown option"},
		{"unknown value", func(o *target.Order) { o.Options = map[string]string{optCheckpoints: "many"} }, `cannot be "many"`},
		{"VHD on UEFI", func(o *target.Order) {
			o.Machine.Firmware, o.Disks[0].Delivery.Format = vm.UEFI, image.Format{Name: "vpc", Subformat: "dynamic"}
		}, "no VHD"},
		{"long name", func(o *target.Order) { o.Machine.Name = strings.Repeat("n", 256) }, "255"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPeer(t, wsmansim.Options{}, nil, nil)
			tgt := p.open(t)
			o, _ := order(t, p, tgt, "refused", 1)
			c.edit(o)
			rec := new(targettest.MemRecorder)
			_, err := tgt.Begin(t.Context(), o, rec)
			if err == nil || !target.IsPermanent(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if inv := p.Inventory(t); len(inv) != 0 || rec.Calls() != 0 {
				t.Errorf("%q, %d records", inv, rec.Calls())
			}
		})
	}
}

// TestSettings are settings that cannot work.
func TestSettings(t *testing.T) {
	base := func() target.Settings {
		return target.Settings{Name: "hv", Platform: vm.HyperV, Values: map[string]string{"url": "https://x:5986", "user": "u"}, Secrets: map[string]secret.String{"password": secret.New("p")}}
	}
	for _, c := range [][3]string{
		{"url", "http://hv1", "without TLS"}, {"url", "https://u:p@hv1", "must not hold"}, {"url", "https://hv1/x", "without a path"},
		{"auth", "magic", "none of"}, {"thumbprint", "zz", "SHA-256"}, {"insecure", "maybe", "neither"}, {"path", "VMs", "no folder"},
		{"ca_file", filepath.Join(t.TempDir(), "none"), "no such file"}, {"pull_listen", "0.0.0.0:1", "no address"}, {"auth", "kerberos", "realm"},
	} {
		s := base()
		s.Values[c[0]] = c[1]
		if _, err := target.NewRegistry(Kind()).Open(t.Context(), s); err == nil || !target.IsPermanent(err) || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s=%q: %v", c[0], c[1], err)
		}
	}
	u, err := parseServer("hv1.example.com")
	if err != nil || u.String() != "https://hv1.example.com:5986/wsman" {
		t.Errorf("%v %v", u, err)
	}
}

// TestShares restores through a server that requires encryption, and one that
// signs alone; a wrong password is said before anything is made.
func TestShares(t *testing.T) {
	for _, encrypt := range []string{"required", "off"} {
		t.Run("encryption "+encrypt, func(t *testing.T) {
			p := startPeer(t, wsmansim.Options{}, sambatest.Start(t, sambatest.Options{Encrypt: encrypt}), nil)
			tgt := p.open(t)
			o, files := order(t, p, tgt, "shares", 100)
			if _, err := restoreAll(t, tgt, o, files, new(targettest.MemRecorder)); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(p.Path(p.machine(t, o).Disks[0].File)); err != nil || !bytes.Equal(b, files[0]) {
				t.Errorf("other bytes (%v)", err)
			}
			other, _ := order(t, p, tgt, "refused", 1)
			before := p.Inventory(t)
			bad := p.open(t)
			bad.ws = tgt.ws // the host lets us in, the share does not
			bad.cfg.password = secret.New("do-not-show-this")
			rec := new(targettest.MemRecorder)
			_, err := bad.Begin(t.Context(), other, rec)
			if !target.IsPermanent(err) || strings.Contains(err.Error(), "do-not-show-this") || !slices.Equal(before, p.Inventory(t)) || rec.Calls() != 0 {
				t.Errorf("a wrong password: %v", err)
			}
		})
	}
}

// TestSignIn signs in by each way, and refuses a wrong password without a second try.
func TestSignIn(t *testing.T) {
	for _, auth := range []string{authNTLM, authBasic} {
		p := startPeer(t, wsmansim.Options{}, nil, nil)
		if _, err := p.open(t, "auth", auth).Inventory(t.Context()); err != nil {
			t.Errorf("%s: %v", auth, err)
		}
		if _, err := p.open(t, "auth", auth, "user", `CORP\`+p.user).Inventory(t.Context()); err != nil {
			t.Errorf("%s with a domain: %v", auth, err)
		}
		var shells atomic.Int32
		p.SetFault(func(wsmansim.Call) *wsmansim.Fault { shells.Add(1); return nil })
		bad := p.open(t, "auth", auth, "password", "do-not-show-this")
		_, err := bad.Inventory(t.Context())
		if !target.IsPermanent(err) || !strings.Contains(err.Error(), "hint: check user") || shells.Load() != 0 {
			t.Errorf("%s: %v", auth, err)
		}
		if said := fmt.Sprintf("%v %+v %#v", err, bad.Validate(t.Context()), bad.cfg); strings.Contains(said, "do-not-show-this") {
			t.Errorf("%s: the password is shown", auth)
		}
	}
}

// TestSlowHost: a script that runs longer than the service holds a Receive.
func TestSlowHost(t *testing.T) {
	p := startPeer(t, wsmansim.Options{Slow: 300 * time.Millisecond, Quiet: 50 * time.Millisecond}, nil, nil)
	if inv, err := p.open(t).Inventory(t.Context()); err != nil || len(inv.Networks) != 2 {
		t.Errorf("%+v %v", inv, err)
	}
	// Who is cancelled is not held, and leaves no shell behind.
	ctx, cancel := context.WithCancel(t.Context())
	p.SetFault(func(c wsmansim.Call) *wsmansim.Fault {
		if c.Action == "Receive" {
			cancel()
		}
		return nil
	})
	if _, err := p.open(t).Inventory(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestManyMachines: an answer of many parts.
func TestManyMachines(t *testing.T) {
	p := startPeer(t, wsmansim.Options{}, nil, nil)
	for i := range 3000 {
		p.AddMachine(fmt.Sprintf("maschine %d ü", i))
	}
	inv, err := p.open(t).Inventory(t.Context())
	if err != nil || len(inv.Taken) != 3000 || inv.Taken[2999] != "maschine 2999 ü" {
		t.Errorf("%d machines, %v", len(inv.Taken), err)
	}
}

// TestPort: several disks are fetched from one port, one after the other; a port
// that somebody else has is said.
func TestPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	p := startPeer(t, wsmansim.Options{}, nil, map[string]string{"pull_listen": addr})
	tgt := p.open(t)
	o, files := order(t, p, tgt, "port", 1, 2, 3)
	all := tgt.Capabilities().Deliveries
	for i := range o.Disks {
		o.Disks[i].Delivery = all[len(all)-1]
	}
	send := func(s target.Session, i int) error {
		up, err := s.Upload(t.Context(), i)
		if err != nil {
			return err
		}
		if err := up.(target.StreamUpload).Append(t.Context(), files[i]); err != nil {
			return errors.Join(err, up.Abort())
		}
		sum := sha256.Sum256(files[i])
		_, err = up.Complete(t.Context(), target.Sum{Bytes: int64(len(files[i])), SHA256: sum[:]})
		return err
	}
	s, err := tgt.Begin(t.Context(), o, new(targettest.MemRecorder))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if err := send(s, 0); err == nil || !strings.Contains(err.Error(), "pull_listen") {
		t.Errorf("a port that is taken: %v", err)
	}
	l.Close()
	var wg sync.WaitGroup
	for i := range files {
		wg.Go(func() {
			if err := send(s, i); err != nil {
				t.Errorf("disk %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if _, err := s.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if b, err := os.ReadFile(p.Path(p.machine(t, o).Disks[i].File)); err != nil || !bytes.Equal(b, files[i]) {
			t.Errorf("disk %d holds other bytes (%v)", i, err)
		}
	}
}

// TestPullIsClosed: who has no token, comes a second time or asks for another range
// is let nowhere.
func TestPullIsClosed(t *testing.T) {
	p := startPeer(t, wsmansim.Options{}, nil, map[string]string{"pull_listen": "127.0.0.1:0"})
	tgt := p.open(t)
	o, _ := order(t, p, tgt, "closed", 1)
	all := tgt.Capabilities().Deliveries
	o.Disks[0].Delivery = all[len(all)-1]
	ts, err := tgt.Begin(t.Context(), o, new(targettest.MemRecorder))
	if err != nil {
		t.Fatal(err)
	}
	defer ts.Close(t.Context())
	s := ts.(*session)
	u := &pull{s: s, size: 100}
	u.life, u.stop = context.WithCancelCause(s.life)
	defer u.stop(errAborted)
	q, err := u.serve()
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(cs tls.ConnectionState) error {
		if sum := sha256.Sum256(cs.PeerCertificates[0].Raw); hex.EncodeToString(sum[:]) != q.Pin {
			return errors.New("another certificate")
		}
		return nil
	}}}}
	defer c.CloseIdleConnections()
	get := func(url, token, ranges string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Range", ranges)
		a, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		return a.StatusCode, a.Header.Get("Content-Range")
	}
	for _, bad := range [][3]string{{q.URL, "", "bytes=0-"}, {q.URL, q.Token + "x", "bytes=0-"}, {q.URL, q.Token, "bytes=1-"}, {q.URL + "/../x", q.Token, "bytes=0-"}} {
		if n, _ := get(bad[0], bad[1], bad[2]); n != http.StatusForbidden {
			t.Errorf("%q: %d", bad, n)
		}
	}
	if n, part := get(q.URL, q.Token, "bytes=0-"); n != http.StatusPartialContent || part != "bytes 0-99/100" {
		t.Errorf("%d %q", n, part)
	}
	if n, _ := get(q.URL, q.Token, "bytes=0-"); n != http.StatusGone {
		t.Errorf("the second time: %d", n)
	}
}

// TestHeartbeat waits for the guest, or says that it does not answer.
func TestHeartbeat(t *testing.T) {
	for _, beats := range []int{3, -1} {
		p := startPeer(t, wsmansim.Options{Beats: beats}, nil, nil)
		tgt := p.open(t)
		o, files := order(t, p, tgt, "beat", 1)
		o.Options = map[string]string{optHeartbeat: "1"}
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
		err = s.PowerOn(t.Context(), v)
		if beats < 0 && (!target.IsPermanent(err) || !strings.Contains(err.Error(), "did not answer within 1s")) || beats >= 0 && err != nil || !p.Running(t, v) {
			t.Errorf("beats %d: %v", beats, err)
		}
	}
}

// TestMarkLost: a machine whose notes lost the mark is nobody's; the disks it holds stay.
func TestMarkLost(t *testing.T) {
	p := startPeer(t, wsmansim.Options{}, nil, nil)
	tgt := p.open(t)
	o, files := order(t, p, tgt, "mark", 1)
	rec := new(targettest.MemRecorder)
	if _, err := restoreAll(t, tgt, o, files, rec); err != nil {
		t.Fatal(err)
	}
	before := p.Inventory(t)
	p.SetNotes("web mark", "mine now")
	if err := targettest.UndoAll(t.Context(), tgt, rec); !target.IsPermanent(err) || !strings.Contains(err.Error(), "by hand") {
		t.Errorf("%v", err)
	}
	if !slices.Equal(before, p.Inventory(t)) {
		t.Errorf("changed: %q", p.Inventory(t))
	}
}

// TestForeignFiles: what somebody put into the machine's folder stays, with the folder.
func TestForeignFiles(t *testing.T) {
	p := startPeer(t, wsmansim.Options{}, nil, nil)
	tgt := p.open(t)
	o, files := order(t, p, tgt, "foreign", 1)
	rec := new(targettest.MemRecorder)
	if _, err := restoreAll(t, tgt, o, files, rec); err != nil {
		t.Fatal(err)
	}
	mine := filepath.Join(filepath.Dir(p.Path(p.machine(t, o).Disks[0].File)), "notes.txt")
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := targettest.UndoAll(t.Context(), tgt, rec); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(mine); err != nil || len(p.Machines()) != 0 {
		t.Errorf("%v", err)
	}
}

// TestDamaged: a disk that the host cannot read is no landed disk.
func TestDamaged(t *testing.T) {
	p := startPeer(t, wsmansim.Options{}, nil, nil)
	tgt := p.open(t)
	o, files := order(t, p, tgt, "damaged", 1)
	files[0] = bytes.Clone(files[0])
	clear(files[0][:1<<20])
	if v, err := restoreAll(t, tgt, o, files, new(targettest.MemRecorder)); err == nil || len(p.Machines()) != 0 {
		t.Errorf("%+v %v", v, err)
	}
	o.Disks[0].Virtual += 512
	_, files = order(t, p, tgt, "damaged", 1)
	if _, err := restoreAll(t, tgt, o, files, new(targettest.MemRecorder)); !errors.Is(err, target.ErrDigest) {
		t.Errorf("a disk of another size: %v", err)
	}
}

// killed is set in the process that is to be killed.
const killed = "ASCEND_HYPERV_KILLED"

// TestKill9 kills the process that uploads with SIGKILL, twice, and goes on in
// the same file with what had not landed.
func TestKill9(t *testing.T) {
	if os.Getenv(killed) != "" {
		childUploads(t)
		return
	}
	p := startPeer(t, wsmansim.Options{}, nil, nil)
	tgt := p.open(t)
	o, files := order(t, p, tgt, "kill", 4096)
	dir := t.TempDir()
	resources, journal, file := filepath.Join(dir, "resources"), filepath.Join(dir, "journal"), filepath.Join(dir, "file")
	if err := os.WriteFile(file, files[0], 0o600); err != nil { // qemu-img never makes the same file twice
		t.Fatal(err)
	}
	inode := uint64(0)
	for n := range 2 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKill9$")
		cmd.Env = append(os.Environ(), killed+"="+strings.Join([]string{p.URL, p.CAFile, p.net.addr(), p.user, p.smb.Config.Password.Reveal(), resources, journal, file}, "\n"))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// It says a line for each range that landed.
		buf := make([]byte, 1)
		for lines := 0; lines < 10; {
			if _, err := out.Read(buf); err != nil {
				t.Fatalf("the process ended by itself: %v", err)
			}
			if buf[0] == '\n' {
				lines++
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		i := onlyFile(t, p)
		if n > 0 && i != inode {
			t.Error("the second process wrote another file")
		}
		inode = i
	}
	landed := landedIn(t, journal)
	if len(landed) < 18 {
		t.Errorf("%d ranges landed", len(landed))
	}
	s, err := tgt.Begin(t.Context(), o, targettest.NewFileRecorder(resources))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if err := send(t.Context(), s, 0, files[0], func(off int64) bool { return landed[off] }, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if onlyFile(t, p) != inode {
		t.Error("another file was written")
	}
	if b, err := os.ReadFile(p.Path(p.machine(t, o).Disks[0].File)); err != nil || !bytes.Equal(b, files[0]) {
		t.Errorf("other bytes (%v)", err)
	}
	if err := targettest.UndoAll(t.Context(), tgt, targettest.NewFileRecorder(resources)); err != nil || len(p.Inventory(t)) != 0 {
		t.Errorf("%v, left %q", err, p.Inventory(t))
	}
}
