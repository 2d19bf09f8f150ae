package restore

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"io"
	"log"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"ascend/internal/image"
	"ascend/internal/plan"
	"ascend/internal/secret"
	"ascend/internal/target"
	"ascend/internal/target/vmware"
	"ascend/internal/vm"
)

// vcenter is govmomi's simulator, which digests what it is sent and throws it
// away; posted keeps it, by file name.
type vcenter struct {
	mu     sync.Mutex
	posted map[string][]byte
}

func newVcenter(t *testing.T) (*vcenter, target.Target) {
	t.Helper()
	log.SetOutput(io.Discard) // the simulator's remarks
	m := simulator.VPX()
	m.Host, m.ClusterHost, m.Datastore, m.Pool, m.Portgroup, m.Machine = 0, 1, 1, 0, 0, 0
	if err := m.Create(); err != nil {
		t.Fatal(err)
	}
	v := &vcenter{posted: map[string][]byte{}}
	m.Service.TLS = new(tls.Config)
	m.Service.Listen = &url.URL{User: url.UserPassword("restore@vsphere.local", "pa55")}
	m.Service.HandleFunc("POST /nfc/{lease}/{file}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // broken: nothing landed
		}
		v.mu.Lock()
		v.posted[r.PathValue("file")] = body
		v.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		lease := types.ManagedObjectReference{Type: "HttpNfcLease", Value: r.PathValue("lease")}
		m.Map().WithLock(new(simulator.Context), lease, func() { simulator.ServeNFC(w, r) })
	})
	s := m.Service.NewServer()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		m.Remove()
	})
	ca, err := s.CertificateFile()
	if err != nil {
		t.Fatal(err)
	}
	tgt, err := target.NewRegistry(vmware.Kind()).Open(t.Context(), target.Settings{
		Name: "vc", Platform: vm.VMware,
		Values:  map[string]string{"url": s.URL.Host, "username": "restore@vsphere.local", "ca_file": ca},
		Secrets: map[string]secret.String{"password": secret.New("pa55")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tgt.Close() })
	return v, tgt
}

// TestToVcenter restores two disks by NFC; what the vCenter was sent is read by
// qemu-img.
func TestToVcenter(t *testing.T) {
	f := setup(t, 2, diskSize+512<<10-512)
	v, tgt := newVcenter(t)
	f.tgt = tgt
	j := f.job("web", nil, "nfc", func(r *plan.Request) {
		r.Target = plan.TargetRef{Name: "vc", Platform: vm.VMware}
		r.Placement.Fields = map[string]string{"datastore": "LocalDS_0"}
		r.PowerOn = true
	})
	rc, err := j.Run(t.Context(), tgt, f.options())
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range rc.Disks {
		name := []string{"web.vmdk", "web_1.vmdk"}[i] // as the simulator names the files of a machine
		v.mu.Lock()
		body, ok := v.posted[name]
		v.mu.Unlock()
		if !ok {
			t.Fatalf("nothing was posted as %s (%s): %v", name, d.Object, slices.Collect(maps.Keys(v.posted)))
		}
		file := filepath.Join(f.dir, name)
		if err := os.WriteFile(file, body, 0o600); err != nil {
			t.Fatal(err)
		}
		f.compare(i, image.Format{Name: "vmdk"}, file)
		if d.Bytes != int64(len(body)) || d.Format.Subformat != "streamOptimized" {
			t.Errorf("disk %d: %d bytes as %s, and %d arrived", i, d.Bytes, d.Format, len(body))
		}
	}
	if _, err := ReadReceipt(j.Receipt(), f.key.Public().(ed25519.PublicKey)); err != nil || !rc.PoweredOn {
		t.Errorf("receipt: %v", err)
	}
	inv, err := tgt.Inventory(t.Context())
	if err != nil || len(inv.Taken) != 1 || inv.Taken[0] != "web" {
		t.Errorf("the vCenter has %v: %v", inv, err)
	}
	for range 2 {
		if err := j.Undo(t.Context(), tgt); err != nil {
			t.Fatal(err)
		}
	}
	if inv, err = tgt.Inventory(t.Context()); err != nil || len(inv.Taken) != 0 {
		t.Errorf("left behind: %v, %v", inv, err)
	}
}
