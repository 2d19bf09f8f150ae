package vmware

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/targettest"
	"ascend/internal/vm"
)

// certificate is the simulators', signed by itself.
var certificate = selfSigned()

func selfSigned() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vcenter.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"vcenter.test"},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // the simulator's remarks
	os.Exit(m.Run())
}

const password = "s3cret-p%ss/word"

// vcsim is a vCenter: govmomi's simulator behind TLS, with what it throws away,
// the bytes of imported disks, kept.
type vcsim struct {
	model  *simulator.Model
	server *simulator.Server
	ca     string
	once   sync.Once
	admin  *govmomi.Client
	dirs   map[string]string

	mu     sync.Mutex
	posted map[string][]byte // by file name: bytes of complete NFC uploads
	puts   []string          // paths that were put to the datastore, in order
	posts  int
	refuse func(w http.ResponseWriter, r *http.Request) bool // handles a request instead, when not nil
	stall  chan struct{}                                     // bytes are taken once it is closed, when not nil
}

// model is the inventory most tests use: a cluster of one host, two datastores,
// a resource pool and one machine of somebody else's.
func model() *simulator.Model {
	m := simulator.VPX()
	m.Host, m.ClusterHost, m.Datastore, m.Pool, m.Machine = 0, 1, 2, 1, 1
	return m
}

// bare is the least that a machine can be restored to; it takes a fifth of the
// time to make.
func bare() *simulator.Model {
	m := model()
	m.Pool, m.Portgroup, m.Machine = 0, 0, 0
	return m
}

func newVcsim(t testing.TB, m *simulator.Model) *vcsim {
	t.Helper()
	v := &vcsim{model: m, posted: map[string][]byte{}}
	if err := m.Create(); err != nil {
		t.Fatal(err)
	}
	svc := m.Service
	svc.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	svc.Listen = &url.URL{User: url.UserPassword("restore@vsphere.local", disguise(password))}
	svc.HandleFunc("POST /sdk", v.serveSDK)
	svc.HandleFunc("POST /nfc/{lease}/{file}", v.serveNFC)
	svc.HandleFunc("PUT /folder/{path...}", v.servePut)
	v.server = svc.NewServer()
	var err error
	if v.ca, err = v.server.CertificateFile(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		v.mu.Lock()
		if v.stall != nil {
			close(v.stall)
			v.stall = nil
		}
		v.mu.Unlock()
		v.server.CloseClientConnections()
		v.server.Close()
		m.Remove()
	})
	return v
}

// intercept runs what stands in the way of a request for bytes.
func (v *vcsim) intercept(w http.ResponseWriter, r *http.Request) (handled bool) {
	v.mu.Lock()
	v.posts++
	refuse, stall := v.refuse, v.stall
	v.mu.Unlock()
	if stall != nil {
		<-stall
	}
	return refuse != nil && refuse(w, r)
}

// serveNFC keeps what the simulator only digests. The simulator's map of
// digests is not safe for two uploads at once.
func (v *vcsim) serveNFC(w http.ResponseWriter, r *http.Request) {
	if v.intercept(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // broken: nothing landed
	}
	v.mu.Lock()
	v.posted[reveal(r.PathValue("file"))] = body
	v.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	lease := types.ManagedObjectReference{Type: "HttpNfcLease", Value: r.PathValue("lease")}
	v.model.Map().WithLock(new(simulator.Context), lease, func() { simulator.ServeNFC(w, r) })
}

// The simulator doubles every device of a machine whose name holds a "%", as an
// escaped name does (deepCopy in its createVM.Run). It never sees one: on the
// way in "%" becomes a character for private use, on the way out "%" again.
const percent = "\ue025"

func disguise(s string) string { return strings.ReplaceAll(s, "%", percent) }
func reveal(s string) string   { return strings.ReplaceAll(s, percent, "%") }

func (v *vcsim) serveSDK(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(strings.NewReader(disguise(string(body))))
	v.model.Service.ServeSDK(revealer{w}, r)
}

// revealer undoes disguise in an answer, which the simulator writes at once.
type revealer struct{ http.ResponseWriter }

func (r revealer) Write(p []byte) (int, error) {
	_, err := r.ResponseWriter.Write([]byte(reveal(string(p))))
	return len(p), err
}

func (v *vcsim) servePut(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	v.puts = append(v.puts, r.URL.Path)
	v.mu.Unlock()
	if v.intercept(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	v.model.Service.ServeDatastore(w, r)
}

// settings are those of a target that works, changed by pairs.
func (v *vcsim) settings(pairs ...string) target.Settings {
	s := target.Settings{
		Name: "vc", Platform: vm.VMware,
		Values: map[string]string{
			"url": v.server.URL.Host, "username": "restore@vsphere.local", "ca_file": v.ca,
		},
		Secrets: map[string]secret.String{"password": secret.New(password)},
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

// open opens a target through the registry, as the product does.
func (v *vcsim) open(t testing.TB, pairs ...string) *vmware {
	t.Helper()
	tgt, err := target.NewRegistry(Kind()).Open(context.Background(), v.settings(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	return tgt.(*vmware)
}

// client is a connection of the test's own.
func (v *vcsim) client(t testing.TB) *govmomi.Client {
	t.Helper()
	v.once.Do(func() {
		u := *v.server.URL
		u.User = url.UserPassword("restore@vsphere.local", password)
		var err error
		if v.admin, err = govmomi.NewClient(context.Background(), &u, true); err != nil {
			t.Fatal(err)
		}
	})
	return v.admin
}

// machines lists every machine.
func (v *vcsim) machines(t testing.TB) []mo.VirtualMachine {
	t.Helper()
	var out []mo.VirtualMachine
	retrieve(t, v.client(t), "VirtualMachine", []string{"name", "parent", "config", "runtime", "resourcePool", "network"}, &out)
	return out
}

// retrieve reads properties of every object of a kind; none is no error.
func retrieve(t testing.TB, c *govmomi.Client, kind string, props []string, dst any) {
	t.Helper()
	ctx := context.Background()
	cv, err := view.NewManager(c.Client).CreateContainerView(ctx, c.ServiceContent.RootFolder, []string{kind}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer cv.Destroy(ctx)
	if err := cv.Retrieve(ctx, []string{kind}, props, dst); err != nil {
		t.Fatal(err)
	}
}

// machine is the machine of a name.
func (v *vcsim) machine(t testing.TB, name string) mo.VirtualMachine {
	t.Helper()
	for _, m := range v.machines(t) {
		if unescapeName(m.Name) == name {
			return m
		}
	}
	t.Fatalf("there is no machine %q", name)
	return mo.VirtualMachine{}
}

// stores are the folders on this machine that are the datastores, by name.
func (v *vcsim) stores(t testing.TB) map[string]string {
	t.Helper()
	if v.dirs == nil {
		var all []mo.Datastore
		retrieve(t, v.client(t), "Datastore", []string{"name", "summary"}, &all)
		v.dirs = map[string]string{}
		for _, d := range all {
			v.dirs[d.Name] = d.Summary.Url
		}
	}
	return v.dirs
}

// disksOf are a machine's disks in the order of their controllers and units.
func disksOf(m mo.VirtualMachine) []*types.VirtualDisk {
	bus := map[int32]int32{}
	var out []*types.VirtualDisk
	for _, d := range m.Config.Hardware.Device {
		switch d := d.(type) {
		case *types.VirtualDisk:
			out = append(out, d)
		case types.BaseVirtualController:
			bus[d.GetVirtualController().Key] = d.GetVirtualController().BusNumber
		}
	}
	slices.SortStableFunc(out, func(a, b *types.VirtualDisk) int {
		return int(bus[a.ControllerKey]*100+*a.UnitNumber) - int(bus[b.ControllerKey]*100+*b.UnitNumber)
	})
	return out
}

func fileOf(d *types.VirtualDisk) string {
	return d.Backing.(types.BaseVirtualDeviceFileBackingInfo).GetVirtualDeviceFileBackingInfo().FileName
}

// landed is what the vCenter holds for disk i of a machine, as the guest sees it.
func (v *vcsim) landed(t testing.TB, o *target.Order, i int) []byte {
	t.Helper()
	disks := disksOf(v.machine(t, o.Machine.Name))
	if i >= len(disks) {
		t.Fatalf("the machine has %d disks", len(disks))
	}
	file := fileOf(disks[i])
	if o.Disks[i].Delivery.Path == pathNFC {
		v.mu.Lock()
		b, ok := v.posted[path.Base(file)]
		v.mu.Unlock()
		if !ok {
			t.Fatalf("nothing was posted as %s", file)
		}
		return targettest.Decode(t, b, "vmdk")
	}
	return v.flat(t, disks[i])
}

// flat is what a descriptor on a datastore describes.
func (v *vcsim) flat(t testing.TB, d *types.VirtualDisk) []byte {
	t.Helper()
	store, name, _ := strings.Cut(strings.TrimPrefix(fileOf(d), "["), "] ")
	dir := v.stores(t)[store]
	desc, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, strings.TrimSuffix(name, ".vmdk")+"-flat.vmdk"))
	if err != nil {
		t.Fatal(err)
	}
	extent := fmt.Sprintf("\nRW %d VMFS \"%s-flat.vmdk\"\n", len(b)/512, strings.TrimSuffix(path.Base(name), ".vmdk"))
	if !bytes.Contains(desc, []byte(extent)) {
		t.Fatalf("the descriptor does not describe the flat file by %q:\n%s", extent, desc)
	}
	return b
}

// inventory lists machines and every file and folder of the datastores.
func (v *vcsim) inventory(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, m := range v.machines(t) {
		line := fmt.Sprintf("machine %q in %s pool %s %s firmware %s", m.Name, m.Parent, m.ResourcePool, m.Runtime.PowerState, m.Config.Firmware)
		for _, d := range disksOf(m) {
			line += fmt.Sprintf(" disk %q %d", fileOf(d), d.CapacityInBytes)
		}
		line += fmt.Sprintf(" networks %v", m.Network)
		out = append(out, line)
	}
	for store, dir := range v.stores(t) {
		err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			line := "[" + store + "] " + reveal(strings.TrimPrefix(p, dir))
			if !e.IsDir() && path.Ext(p) != ".log" {
				info, err := e.Info()
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %d bytes", info.Size())
			}
			out = append(out, line)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var all []mo.ManagedEntity
	retrieve(t, v.client(t), "ManagedEntity", []string{"name"}, &all)
	for _, e := range all {
		if e.Self.Type != "VirtualMachine" { // told above, without identifiers
			out = append(out, e.Self.String()+" "+e.Name)
		}
	}
	slices.Sort(out)
	return out
}

// same fails where the inventory is not as before.
func (v *vcsim) same(t testing.TB, before []string) {
	t.Helper()
	now := v.inventory(t)
	for _, l := range now {
		if !slices.Contains(before, l) {
			t.Errorf("left behind: %s", l)
		}
	}
	for _, l := range before {
		if !slices.Contains(now, l) {
			t.Errorf("lost: %s", l)
		}
	}
}

// peer is a vCenter as the conformance suite sees it.
type peer struct{ *vcsim }

func newPeer(t testing.TB) targettest.Peer { return peer{newVcsim(t, bare())} }

func (p peer) Open(t testing.TB) target.Target {
	tgt := p.open(t)
	t.Cleanup(func() { tgt.Close() })
	return tgt
}

func (p peer) Order(_ testing.TB, o *target.Order) {
	o.Placement.Fields = map[string]string{fieldDatastore: "LocalDS_0"}
	for i := range o.Placement.Networks {
		o.Placement.Networks[i] = "VM Network"
	}
}

func (p peer) Read(t testing.TB, o *target.Order, i int) []byte { return p.landed(t, o, i) }
func (p peer) Inventory(t testing.TB) []string                  { return p.inventory(t) }

func (p peer) Running(t testing.TB, v *target.VM) bool {
	return p.machine(t, v.Name).Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
}

// Occupy makes a machine of somebody else's with the order's name.
func (p peer) Occupy(t testing.TB, o *target.Order) {
	p.foreign(t, o.Machine.Name)
}

// foreign makes a machine that no job of ours made.
func (v *vcsim) foreign(t testing.TB, name string) types.ManagedObjectReference {
	t.Helper()
	c := v.client(t)
	ctx := context.Background()
	tgt := v.open(t)
	defer tgt.Close()
	conn, err := tgt.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := conn.readTree(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	dc := tr.kind(kindsDatacenter)[0]
	task, err := object.NewFolder(c.Client, dc.one("vmFolder")).CreateVM(ctx, types.VirtualMachineConfigSpec{
		Name: escapeName(name), GuestId: "otherGuest64", Files: &types.VirtualMachineFileInfo{VmPathName: "[LocalDS_1]"},
	}, object.NewResourcePool(c.Client, tr.kind(kindsCompute)[0].one("resourcePool")), nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := task.WaitForResult(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return info.Result.(types.ManagedObjectReference)
}

func (p peer) Break(t testing.TB) map[string]target.Target {
	pin := "SHA256:" + strings.Repeat("ab", 32)
	return map[string]target.Target{
		"wrong password":     p.open(t, "password", "wrong"),
		"wrong user":         p.open(t, "username", "nobody"),
		"unknown authority":  p.open(t, "ca_file", ""),
		"wrong thumbprint":   p.open(t, "thumbprint", pin),
		"nobody listens":     p.open(t, "url", "127.0.0.1:1"),
		"no such name":       p.open(t, "url", "vcenter.invalid"),
		"no such datacenter": p.open(t, "datacenter", "Atlantis"),
	}
}

// Crash ends a target's connections as the death of its process does.
func (p peer) Crash(_ testing.TB, tgt target.Target) {
	t := tgt.(*vmware)
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

func (p peer) Stall(testing.TB) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gate := make(chan struct{})
	p.stall = gate
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.stall == gate {
			close(gate)
			p.stall = nil
		}
	}
}

// first handles the first n requests for bytes with f.
func (v *vcsim) first(n int, f func(w http.ResponseWriter, r *http.Request)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refuse = func(w http.ResponseWriter, r *http.Request) bool {
		v.mu.Lock()
		left := n
		n--
		v.mu.Unlock()
		if left <= 0 {
			return false
		}
		f(w, r)
		return true
	}
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

// sever reads n bytes, then drops the connection.
func sever(n int64) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, n)
		c, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			c.Close()
		}
	}
}

func (p peer) Faults() []targettest.Fault {
	arm := func(n int, f func(http.ResponseWriter, *http.Request)) func(testing.TB, *target.Order) {
		return func(testing.TB, *target.Order) { p.first(n, f) }
	}
	return []targettest.Fault{
		{Name: "503 twice", Arm: arm(2, status(http.StatusServiceUnavailable))},
		{Name: "500 after all bytes", Arm: arm(1, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusInternalServerError)
		})},
		{Name: "connection breaks at once", Arm: arm(1, sever(0))},
		{Name: "connection breaks at byte 5000", Arm: arm(2, sever(5000))},
	}
}

// wait polls until f is true.
func wait(t testing.TB, what string, f func() bool) {
	t.Helper()
	for start := time.Now(); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
