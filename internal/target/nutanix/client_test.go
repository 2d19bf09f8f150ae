package nutanix

import (
	"net/url"
	"reflect"
	"strconv"
	"testing"

	vmmapi "github.com/nutanix/ntnx-api-golang-clients/vmm-go-client/v4/api"
	vmm "github.com/nutanix/ntnx-api-golang-clients/vmm-go-client/v4/client"
	vmmconfig "github.com/nutanix/ntnx-api-golang-clients/vmm-go-client/v4/models/vmm/v4/ahv/config"
	"github.com/nutanix/ntnx-api-golang-clients/vmm-go-client/v4/models/vmm/v4/content"

	"ascend/internal/target/nutanix/prismsim"
	"ascend/internal/target/targettest"
)

// TestOfficialClient has Nutanix' own v4 client use the simulator after a restore:
// it must understand every answer, see what was restored, and change it by the ETag
// that it read.
func TestOfficialClient(t *testing.T) {
	p := startPeer(t, prismsim.Options{Plain: true}, map[string]string{"insecure": "true"})
	tgt := p.open(t)
	o, files := everything(t, p, tgt)
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
	at, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := vmm.NewApiClient()
	c.Scheme, c.Host, c.Username, c.Password, c.MaxRetryAttempts = at.Scheme, at.Hostname(), prismsim.User, prismsim.Password, 0
	if c.Port, err = strconv.Atoi(at.Port()); err != nil {
		t.Fatal(err)
	}
	images, machines := vmmapi.NewImagesApi(c), vmmapi.NewVmApi(c)
	list, err := images.ListImages(nil, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, ok := list.GetData().([]content.Image)
	if !ok || len(all) != len(files) || *list.Metadata.TotalAvailableResults != len(files) {
		t.Fatalf("%T of %d", list.GetData(), len(all))
	}
	known(t, reflect.ValueOf(all), "images")
	v, err := s.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if list, err = images.ListImages(nil, nil, nil, nil, nil); err != nil || list.GetData() != nil {
		t.Errorf("the images are there: %v, %v", list.GetData(), err)
	}
	got, err := machines.GetVmById(&v.ID)
	if err != nil {
		t.Fatal(err)
	}
	m, ok := got.GetData().(vmmconfig.Vm)
	if !ok || *m.Name != v.Name || m.PowerState.GetName() != "OFF" || len(m.Disks) != len(files) || *m.NumCoresPerSocket != 2 {
		t.Fatalf("%T %+v", got.GetData(), m)
	}
	known(t, reflect.ValueOf(m), "vm")
	filter := "name eq 'web all'"
	named, err := machines.ListVms(nil, nil, &filter, nil, nil)
	if rows, ok := named.GetData().([]vmmconfig.Vm); err != nil || !ok || len(rows) != 1 {
		t.Errorf("%v %v", named.GetData(), err)
	}
	if _, err := machines.PowerOnVm(&v.ID); err == nil {
		t.Error("a change without If-Match is taken")
	}
	on, err := machines.PowerOnVm(&v.ID, map[string]any{"If-Match": ptr(c.GetEtag(m))})
	if err != nil || on.GetData() == nil || !p.Running(t, v) {
		t.Errorf("%v", err)
	}
	if _, err := machines.DeleteVmById(&v.ID, map[string]any{"If-Match": ptr(c.GetEtag(m))}); err == nil {
		t.Error("a change with a stale ETag is taken")
	}
	if got, err = machines.GetVmById(&v.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := machines.DeleteVmById(&v.ID, map[string]any{"If-Match": ptr(c.GetEtag(got.GetData()))}); err != nil {
		t.Error(err)
	}
	if left := p.Sim.Inventory(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

func ptr[T any](v T) *T { return &v }
