package hyperv

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/hyperv/hostshare/sambatest"
	"ascend/internal/target/hyperv/wsmansim"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// samba is one real SMB server for all tests; each peer has a folder in its share.
var samba struct {
	sync.Mutex
	*sambatest.Server
	n int
}

func TestMain(m *testing.M) {
	code := m.Run()
	if samba.Server != nil {
		if err := samba.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// peer is a simulated host, whose disks a real SMB server serves through a
// network that can be broken.
type peer struct {
	*wsmansim.Sim
	smb    *sambatest.Server
	net    *network
	user   string
	root   string // the folder, as the host calls it
	values map[string]string
}

// startPeer starts a host; a nil server is the common one.
func startPeer(t testing.TB, o wsmansim.Options, srv *sambatest.Server, values map[string]string) *peer {
	t.Helper()
	if srv == nil {
		samba.Lock()
		if samba.Server == nil {
			s, err := sambatest.Run(sambatest.Options{})
			if err != nil {
				samba.Unlock()
				t.Fatal(err)
			}
			samba.Server = s
		}
		samba.n++
		sub := fmt.Sprintf("host%d", samba.n)
		srv = samba.Server
		samba.Unlock()
		o.Dir, o.Root = filepath.Join(srv.Dir, sub), wsmansim.Shared+`\`+sub
	} else {
		o.Dir = srv.Dir
	}
	o.User, o.Password = srv.Config.User, srv.Config.Password.Reveal()
	s, err := wsmansim.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	n, err := listen(srv.Config.Address)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{Sim: s, smb: srv, net: n, user: o.User, root: o.Root, values: values}
	t.Cleanup(func() {
		if n := s.Shells(); n != 0 {
			t.Errorf("%d shells are left open", n)
		}
		if f := s.Foreign(); len(f) != 0 {
			t.Errorf("the host was told to run %q", f)
		}
		n.close()
		if err := errors.Join(s.Close(), os.RemoveAll(o.Dir)); err != nil {
			t.Error(err)
		}
	})
	return p
}

func newPeer(t testing.TB) targettest.Peer { return startPeer(t, wsmansim.Options{}, nil, nil) }

// settings are those of a target that works, changed by pairs.
func (p *peer) settings(pairs ...string) target.Settings {
	s := target.Settings{
		Name: "hv", Platform: vm.HyperV,
		Values:  map[string]string{"url": p.URL, "user": p.user, "ca_file": p.CAFile, "smb_address": p.net.addr()},
		Secrets: map[string]secret.String{"password": p.smb.Config.Password},
	}
	for k, v := range p.values {
		s.Values[k] = v
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

// open opens a target through the registry, as the product does, with the
// patience of a test.
func (p *peer) open(t testing.TB, pairs ...string) *host {
	t.Helper()
	tgt, err := target.NewRegistry(Kind()).Open(t.Context(), p.settings(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	h := tgt.(*host)
	h.cfg.pause, h.cfg.maxPause = 4*time.Millisecond, 30*time.Millisecond
	return h
}

func (p *peer) Open(t testing.TB) target.Target {
	h := p.open(t)
	t.Cleanup(func() { h.Close() })
	return h
}

func (p *peer) Order(_ testing.TB, o *target.Order) {
	for i := range o.Placement.Networks {
		o.Placement.Networks[i] = wsmansim.Switch
	}
}

// machine is the simulated machine that an order made.
func (p *peer) machine(t testing.TB, o *target.Order) wsmansim.Machine {
	t.Helper()
	for _, m := range p.Machines() {
		if strings.Contains(m.Notes+"\n", mark(o.Job)+"\n") {
			return m
		}
	}
	t.Fatalf("there is no machine of %s", o.Job)
	return wsmansim.Machine{}
}

func (p *peer) Read(t testing.TB, o *target.Order, i int) []byte {
	t.Helper()
	at, err := drives(o.Machine)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range p.machine(t, o).Disks {
		if d.Controller != at[i].Controller || d.Number != at[i].Number || d.Location != at[i].Location {
			continue
		}
		b, err := os.ReadFile(p.Path(d.File))
		if err != nil {
			t.Fatal(err)
		}
		return targettest.Decode(t, b, o.Disks[i].Delivery.Format.Name)
	}
	t.Fatalf("the machine has no disk at %v", at[i])
	return nil
}

func (p *peer) Inventory(t testing.TB) []string {
	t.Helper()
	inv, err := p.Sim.Inventory()
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func (p *peer) Running(t testing.TB, v *target.VM) bool {
	for _, m := range p.Machines() {
		if m.ID == v.ID {
			return m.State == "Running"
		}
	}
	t.Fatalf("there is no machine %s", v.ID)
	return false
}

func (p *peer) Occupy(t testing.TB, o *target.Order) {
	name, err := displayName(o.Machine.Name)
	if err != nil {
		t.Fatal(err)
	}
	p.AddMachine(name)
}

func (p *peer) Break(t testing.TB) map[string]target.Target {
	return map[string]target.Target{
		"wrong password":    p.open(t, "password", "wrong"),
		"wrong user":        p.open(t, "user", "nobody"),
		"unknown authority": p.open(t, "ca_file", ""),
		"wrong thumbprint":  p.open(t, "thumbprint", strings.Repeat("ab", 32)),
		"nobody listens":    p.open(t, "url", "https://127.0.0.1:1"),
		"no such name":      p.open(t, "url", "https://hv1.invalid"),
		"no such volume":    p.open(t, "path", `X:\VMs`),
		"no such share":     p.open(t, "share", "Other"),
		"folder not shared": p.open(t, "share", "VMs", "path", `C:\VMs`),
		"no SMB":            p.open(t, "smb_address", "127.0.0.1:1"),
	}
}

// Crash ends a target's connections as the death of its process does.
func (p *peer) Crash(_ testing.TB, tgt target.Target) {
	t := tgt.(*host)
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
	p.net.breakAll()
}

func (p *peer) Stall(testing.TB) func() { return p.net.stall() }

// first gives the first n calls that match to the fault.
func (p *peer) first(n int, match wsmansim.Call, f wsmansim.Fault) func(testing.TB, *target.Order) {
	return func(testing.TB, *target.Order) {
		var mu sync.Mutex
		p.SetFault(func(c wsmansim.Call) *wsmansim.Fault {
			mu.Lock()
			defer mu.Unlock()
			if n == 0 || c != match {
				return nil
			}
			n--
			return &f
		})
	}
}

func (p *peer) Faults() []targettest.Fault {
	call := func(action string) wsmansim.Call { return wsmansim.Call{Action: action} }
	return []targettest.Fault{
		{Name: "SMB breaks at byte 70000", Arm: func(testing.TB, *target.Order) { p.net.breakAt(70_000) }},
		{Name: "SMB breaks at byte 300000", Arm: func(testing.TB, *target.Order) { p.net.breakAt(300_000) }},
		{Name: "503 for shells", Arm: p.first(3, call("Create"), wsmansim.Fault{Status: 503})},
		{Name: "429 for shells", Arm: p.first(2, call("Create"), wsmansim.Fault{Status: 429})},
		{Name: "connections break in Send", Arm: p.first(2, call("Send"), wsmansim.Fault{})},
		{Name: "connections break in Receive", Arm: p.first(2, call("Receive"), wsmansim.Fault{})},
		{Name: "answers to Receive are lost", Arm: p.first(4, call("Receive"), wsmansim.Fault{Done: true})},
		{Name: "answers to Command are lost", Arm: p.first(2, call("Command"), wsmansim.Fault{Done: true})},
	}
}

func TestConformance(t *testing.T) {
	for i, d := range (&host{cfg: &config{pull: "127.0.0.1:0"}}).deliveries() {
		t.Run(d.Path+" "+d.Format.String(), func(t *testing.T) {
			t.Parallel()
			h := targettest.Harness{New: newPeer, Delivery: d, MaxName: maxName, UniqueNames: true, Light: i == 1}
			if d.Path == pathPull {
				h.New = func(t testing.TB) targettest.Peer {
					return startPeer(t, wsmansim.Options{}, nil, map[string]string{"pull_listen": "127.0.0.1:0"})
				}
			}
			targettest.Run(t, h)
		})
	}
}

// network is between here and the SMB server.
type network struct {
	l    net.Listener
	to   string
	left atomic.Int64 // bytes until all connections break; negative: never
	sent atomic.Int64 // bytes that went to the server

	mu    sync.Mutex
	conns map[net.Conn]bool
	gate  chan struct{} // nil: open
	shut  chan struct{}
}

func listen(to string) (*network, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &network{l: l, to: to, conns: map[net.Conn]bool{}, shut: make(chan struct{})}
	n.left.Store(-1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go n.serve(c)
		}
	}()
	return n, nil
}

func (n *network) addr() string { return n.l.Addr().String() }

func (n *network) serve(c net.Conn) {
	d, err := net.Dial("tcp", n.to)
	if err != nil {
		c.Close()
		return
	}
	n.mu.Lock()
	n.conns[c], n.conns[d] = true, true
	n.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(c, d)
		c.Close()
	}()
	buf := make([]byte, 16<<10)
	for {
		k, err := c.Read(buf)
		if !n.pass(k) || err != nil {
			break
		}
		n.sent.Add(int64(k))
		if _, err := d.Write(buf[:k]); err != nil {
			break
		}
	}
	c.Close()
	d.Close()
	<-done
	n.mu.Lock()
	delete(n.conns, c)
	delete(n.conns, d)
	n.mu.Unlock()
}

// pass lets k bytes go on, or not.
func (n *network) pass(k int) bool {
	n.mu.Lock()
	gate := n.gate
	n.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-n.shut:
			return false
		}
	}
	if left := n.left.Load(); left >= 0 && n.left.Add(-int64(k)) < 0 {
		n.left.Store(-1)
		n.breakAll()
		return false
	}
	return true
}

func (n *network) breakAt(bytes int64) { n.left.Store(bytes) }

func (n *network) breakAll() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		c.Close()
	}
}

func (n *network) stall() (release func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	gate := make(chan struct{})
	n.gate = gate
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		close(gate)
		n.gate = nil
	}
}

func (n *network) close() {
	close(n.shut)
	n.l.Close()
	n.breakAll()
}
