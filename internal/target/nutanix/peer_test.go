package nutanix

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/nutanix/prismsim"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// part is the size of parts in tests.
const part = 64 << 10

// peer is a simulated Prism Central as the conformance suite sees it.
type peer struct {
	*prismsim.Sim
	values map[string]string
}

func startPeer(t testing.TB, o prismsim.Options, values map[string]string) *peer {
	t.Helper()
	o.MinPart = part
	s, err := prismsim.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &peer{Sim: s, values: values}
}

func newPeer(t testing.TB) targettest.Peer {
	return startPeer(t, prismsim.Options{}, nil)
}

// settings are those of a target that works, changed by pairs.
func (p *peer) settings(pairs ...string) target.Settings {
	s := target.Settings{
		Name: "prism", Platform: vm.Nutanix,
		Values:  map[string]string{"url": p.URL, "user": prismsim.User, "ca_file": p.CAFile, "cluster": prismsim.Cluster},
		Secrets: map[string]secret.String{"password": secret.New(prismsim.Password)},
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
func (p *peer) open(t testing.TB, pairs ...string) *prism {
	t.Helper()
	tgt, err := target.NewRegistry(Kind()).Open(t.Context(), p.settings(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	c := tgt.(*prism)
	c.cfg.part, c.cfg.pause, c.cfg.maxPause = part, 4*time.Millisecond, 30*time.Millisecond
	return c
}

func (p *peer) Open(t testing.TB) target.Target {
	c := p.open(t)
	t.Cleanup(func() { c.Close() })
	return c
}

func (p *peer) Order(_ testing.TB, o *target.Order) {
	for i := range o.Placement.Networks {
		o.Placement.Networks[i] = prismsim.Subnet
	}
}

// machine is the simulated machine that an order made.
func (p *peer) machine(t testing.TB, o *target.Order) prismsim.Machine {
	t.Helper()
	name, err := displayName(o.Machine.Name)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range p.Machines() {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("there is no machine %q", name)
	return prismsim.Machine{}
}

func (p *peer) Read(t testing.TB, o *target.Order, i int) []byte {
	t.Helper()
	at, err := addresses(o.Machine)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range p.machine(t, o).Disks {
		if d.Bus != at[i].Bus || d.Index != at[i].Index {
			continue
		}
		b, err := d.File()
		if err != nil {
			t.Fatal(err)
		}
		return targettest.Decode(t, b, o.Disks[i].Delivery.Format.Name)
	}
	t.Fatalf("the machine has no disk at %v", at[i])
	return nil
}

func (p *peer) Inventory(testing.TB) []string { return p.Sim.Inventory() }

func (p *peer) Running(t testing.TB, v *target.VM) bool {
	for _, m := range p.Machines() {
		if m.ID == v.ID {
			return m.Power == "ON"
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
		"no such name":      p.open(t, "url", "https://prism.invalid"),
		"no such cluster":   p.open(t, "cluster", "Atlantis"),
		"no such container": p.open(t, "storage_container", "hole"),
	}
}

// Crash ends a target's connections as the death of its process does.
func (p *peer) Crash(_ testing.TB, tgt target.Target) {
	t := tgt.(*prism)
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

func (p *peer) Stall(testing.TB) func() {
	p.Sim.Stall()
	return p.Release
}

// first gives the first n requests that match to the fault.
func (p *peer) first(n int, match func(prismsim.Request) bool, f prismsim.Fault) func(testing.TB, *target.Order) {
	return func(testing.TB, *target.Order) {
		var mu sync.Mutex
		p.SetFault(func(q prismsim.Request) *prismsim.Fault {
			mu.Lock()
			defer mu.Unlock()
			if n == 0 || !match(q) {
				return nil
			}
			n--
			return &f
		})
	}
}

func isPart(q prismsim.Request) bool { return strings.Contains(q.Query, "partNumber") }

func isCompletion(q prismsim.Request) bool {
	return q.ObjectsLite && q.Method == http.MethodPost && strings.Contains(q.Query, "uploadId")
}

func isPost(path string) func(prismsim.Request) bool {
	return func(q prismsim.Request) bool { return q.Method == http.MethodPost && strings.HasSuffix(q.Path, path) }
}

func isTask(q prismsim.Request) bool { return strings.Contains(q.Path, "/config/tasks/") }

func (p *peer) Faults() []targettest.Fault {
	doom := func(op string, end prismsim.TaskEnd) func(testing.TB, *target.Order) {
		return func(testing.TB, *target.Order) { p.DoomTasks(op, 1, end) }
	}
	return []targettest.Fault{
		{Name: "503 for parts", Arm: p.first(9, isPart, prismsim.Fault{Status: 503})},
		{Name: "429 for parts", Arm: p.first(5, isPart, prismsim.Fault{Status: 429})},
		{Name: "connections break in parts", Arm: p.first(5, isPart, prismsim.Fault{})},
		{Name: "answers to parts are lost", Arm: p.first(5, isPart, prismsim.Fault{Done: true})},
		{Name: "the completion is lost", Arm: p.first(1, isCompletion, prismsim.Fault{})},
		{Name: "the completion's answer is lost", Arm: p.first(2, isCompletion, prismsim.Fault{Done: true})},
		{Name: "the image's answer is lost", Arm: p.first(2, isPost("/content/images"), prismsim.Fault{Done: true})},
		{Name: "the machine's answer is lost", Arm: p.first(2, isPost("/config/vms"), prismsim.Fault{Done: true})},
		{Name: "500 for tasks", Arm: p.first(4, isTask, prismsim.Fault{Status: 500})},
		{Name: "the image's task fails", Arm: doom(prismsim.OpImage, prismsim.Fails)},
		{Name: "the image's task fails and leaves an image", Arm: doom(prismsim.OpImage, prismsim.Half)},
		{Name: "the image's task is cancelled", Arm: doom(prismsim.OpImage, prismsim.Canceled)},
	}
}

func TestConformance(t *testing.T) {
	for i, d := range (&prism{cfg: &config{part: part}}).deliveries() {
		t.Run(d.Format.String(), func(t *testing.T) {
			targettest.Run(t, targettest.Harness{New: newPeer, Delivery: d, MaxName: maxName, UniqueNames: true, Light: i > 0})
		})
	}
}
