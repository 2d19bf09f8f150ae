package cloudstack

import (
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/cloudstack/cssim"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// peer is a simulated cloud as the conformance suite sees it.
type peer struct {
	*cssim.Sim
	values map[string]string
	o      cssim.Options
}

func startPeer(t testing.TB, o cssim.Options, values map[string]string) *peer {
	t.Helper()
	s, err := cssim.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &peer{Sim: s, values: values, o: o}
}

// settings are those of a target that works, changed by pairs.
func (p *peer) settings(pairs ...string) target.Settings {
	s := target.Settings{
		Name: "cloud", Platform: vm.CloudStack,
		Values:  map[string]string{"url": p.URL, "api_key": cssim.APIKey, "ca_file": p.CAFile, "zone": cssim.Zone},
		Secrets: map[string]secret.String{"secret_key": secret.New(cssim.SecretKey)},
	}
	for k, v := range p.values {
		s.Values[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] == "secret_key" {
			s.Secrets["secret_key"] = secret.New(pairs[i+1])
		} else {
			s.Values[pairs[i]] = pairs[i+1]
		}
	}
	return s
}

// open opens a target through the registry, as the product does, with the
// patience of a test.
func (p *peer) open(t testing.TB, pairs ...string) *cloud {
	t.Helper()
	tgt, err := target.NewRegistry(Kind()).Open(t.Context(), p.settings(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	c := tgt.(*cloud)
	c.cfg.pause, c.cfg.maxPause, c.cfg.patience = 8*time.Millisecond, 50*time.Millisecond, 10*time.Second
	if p.o.Devices != "" {
		c.cfg.devices, c.cfg.unit = p.o.Devices, p.o.Unit
	}
	return c
}

func (p *peer) Open(t testing.TB) target.Target {
	c := p.open(t)
	t.Cleanup(func() { c.Close() })
	return c
}

func (p *peer) Order(_ testing.TB, o *target.Order) {
	o.Placement.Fields = map[string]string{fieldOffering: cssim.Offering}
	for i := range o.Placement.Networks {
		o.Placement.Networks[i] = cssim.Network
	}
}

// machine is the simulated machine that an order made.
func (p *peer) machine(t testing.TB, o *target.Order) cssim.Machine {
	t.Helper()
	name, err := displayName(o.Machine.Name)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range p.Machines() {
		if m.Display == name {
			return m
		}
	}
	t.Fatalf("there is no machine %q", name)
	return cssim.Machine{}
}

func (p *peer) Read(t testing.TB, o *target.Order, i int) []byte {
	t.Helper()
	disks := p.machine(t, o).Disks
	at := i // the boot disk comes first, then the others in order
	if boot := o.Machine.BootDisk(); i == boot {
		at = 0
	} else if i < boot {
		at = i + 1
	}
	if at >= len(disks) {
		t.Fatalf("the machine has %d disks", len(disks))
	}
	return targettest.Decode(t, disks[at].File, disks[at].Format)
}

func (p *peer) Inventory(testing.TB) []string { return p.Sim.Inventory() }

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
	p.Foreign(name)
}

func (p *peer) Break(t testing.TB) map[string]target.Target {
	return map[string]target.Target{
		"wrong secret key":  p.open(t, "secret_key", "wrong"),
		"wrong API key":     p.open(t, "api_key", "nobody"),
		"unknown authority": p.open(t, "ca_file", ""),
		"wrong thumbprint":  p.open(t, "thumbprint", strings.Repeat("ab", 32)),
		"nobody listens":    p.open(t, "url", "https://127.0.0.1:1"),
		"no such name":      p.open(t, "url", "https://cloud.invalid"),
		"no such zone":      p.open(t, "zone", "Atlantis"),
		"no API there":      p.open(t, "url", strings.TrimSuffix(p.URL, "/api")+"/nothing"),
	}
}

// Crash ends a target's connections as the death of its process does.
func (p *peer) Crash(_ testing.TB, tgt target.Target) {
	t := tgt.(*cloud)
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

// streams is a peer that takes uploads, and the faults that uploads have.
type streams struct{ *peer }

func newStreams(o cssim.Options, values map[string]string) func(testing.TB) targettest.Peer {
	return func(t testing.TB) targettest.Peer { return streams{startPeer(t, o, values)} }
}

func (p streams) Stall(testing.TB) (release func()) {
	p.Sim.Stall()
	return p.Release
}

func (p streams) Faults() []targettest.Fault {
	arm := func(n int, f cssim.UploadFault) func(testing.TB, *target.Order) {
		return func(testing.TB, *target.Order) { p.FailUploads(n, f) }
	}
	api := func(prefix string, n, status int) func(testing.TB, *target.Order) {
		return func(testing.TB, *target.Order) { p.FailAPI(prefix, n, status, "too many") }
	}
	return []targettest.Fault{
		{Name: "503 twice", Arm: arm(2, cssim.UploadFault{Status: http.StatusServiceUnavailable})},
		{Name: "500 after all bytes", Arm: arm(1, cssim.UploadFault{Status: 500, After: -1})},
		{Name: "502 after all bytes and yet they landed", Arm: arm(2, cssim.UploadFault{Status: 502, After: -1, Keep: true})},
		{Name: "connection breaks at byte 300", Arm: arm(2, cssim.UploadFault{After: 300})},
		{Name: "connection breaks at byte 70000", Arm: arm(2, cssim.UploadFault{After: 70_000})},
		{Name: "upload accepted and then found broken", Arm: arm(1, cssim.UploadFault{Spoil: true})},
		{Name: "permission expired before use", Arm: arm(2, cssim.UploadFault{Expired: true})},
		{Name: "API throttles", Arm: api("", 4, 429)},
		{Name: "API gives 503 to questions", Arm: api("listvolumes", 4, 503)},
		{Name: "API connection breaks", Arm: api("list", 3, -1)},
		{Name: "API 503 when asking for an upload", Arm: api("getuploadparams", 2, 503)},
	}
}

func harness(d target.Delivery, n func(testing.TB) targettest.Peer, light bool) targettest.Harness {
	return targettest.Harness{New: n, Delivery: d, MaxName: maxDisplay, UniqueNames: true, Light: light}
}

// unit stands for a GiB where volumes are written as devices.
const unit = 1 << 20

// deliveries are the ways of a target with some settings.
func deliveries(values map[string]string) []target.Delivery {
	cfg := &config{path: values["path"], pool: values["pool"], worker: values["worker"], unit: unit}
	if cfg.path == "" {
		cfg.path = pathTemplate
	}
	return (&cloud{cfg: cfg}).deliveries()
}

func TestConformance(t *testing.T) {
	t.Run("template", func(t *testing.T) {
		targettest.Run(t, harness(deliveries(nil)[0], newStreams(cssim.Options{}, nil), false))
	})
	t.Run("volume", func(t *testing.T) {
		values := map[string]string{"path": pathVolume}
		o := cssim.Options{Version: "4.21.0.0", ZoneWide: true, RootVolumes: true}
		targettest.Run(t, harness(deliveries(values)[0], newStreams(o, values), true))
	})
	t.Run("import", func(t *testing.T) {
		values := map[string]string{"pool": cssim.Pool}
		targettest.Run(t, harness(deliveries(values)[0], func(t testing.TB) targettest.Peer {
			dir := filepath.Clean(t.TempDir())
			return startPeer(t, cssim.Options{Dir: dir}, map[string]string{"pool": cssim.Pool, "pool_dir": dir})
		}, false))
	})
	t.Run("hotadd", func(t *testing.T) {
		values := map[string]string{"worker": cssim.WorkerID}
		targettest.Run(t, harness(deliveries(values)[0], func(t testing.TB) targettest.Peer {
			return startPeer(t, cssim.Options{Devices: t.TempDir(), Unit: unit}, values)
		}, false))
	})
}
