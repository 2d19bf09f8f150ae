package nutanix

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	vmmconfig "github.com/nutanix/ntnx-api-golang-clients/vmm-go-client/v4/models/vmm/v4/ahv/config"
	"github.com/nutanix/ntnx-api-golang-clients/vmm-go-client/v4/models/vmm/v4/content"

	"ascend/internal/target/nutanix/prismsim"
	"ascend/internal/target/targettest"
)

// TestOfficialModels has Nutanix' own models of v4 read every request that made
// the images and the machine of a restore that sets everything: no field may be
// unknown to them, no enumeration unknown, nothing required missing, and what
// they read must say what was meant.
func TestOfficialModels(t *testing.T) {
	p := startPeer(t, prismsim.Options{}, nil)
	tgt := p.open(t)
	o, files := everything(t, p, tgt)
	v, err := restoreAll(t, tgt, o, files, new(targettest.MemRecorder))
	if err != nil {
		t.Fatal(err)
	}
	images, machines := 0, 0
	for _, b := range p.Bodies() {
		switch {
		case strings.HasSuffix(b.Path, "/content/images"):
			images++
			m := content.NewImage()
			if err := json.Unmarshal(b.JSON, m); err != nil {
				t.Fatalf("%v\n%s", err, b.JSON)
			}
			known(t, reflect.ValueOf(m), "image")
			required(t, b.JSON, "name", "type")
			src, ok := m.GetSource().(content.ObjectsLiteSource)
			sum, ok2 := m.Checksum.GetValue().(content.ImageSha256Checksum)
			if !ok || !ok2 || *src.Key != *m.Name || len(*sum.HexDigest) != 64 || m.Type.GetName() != "DISK_IMAGE" {
				t.Errorf("the models read %s", b.JSON)
			}
		case strings.HasSuffix(b.Path, "/config/vms"):
			machines++
			m := vmmconfig.NewVm()
			if err := json.Unmarshal(b.JSON, m); err != nil {
				t.Fatalf("%v\n%s", err, b.JSON)
			}
			known(t, reflect.ValueOf(m), "vm")
			boot, ok := m.GetBootConfig().(vmmconfig.UefiBoot)
			if !ok || !*boot.IsSecureBootEnabled || *m.Name != v.Name || *m.MemorySizeBytes != o.Machine.Memory || m.MachineType.GetName() != "Q35" || !*m.VtpmConfig.IsVtpmEnabled {
				t.Errorf("the models read %s", b.JSON)
			}
			for i, d := range m.Disks {
				back, ok := d.GetBackingInfo().(vmmconfig.VmDisk)
				if !ok {
					t.Fatalf("disk %d is a %T", i, d.GetBackingInfo())
				}
				if ref, ok := back.DataSource.GetReference().(vmmconfig.ImageReference); !ok || !isID(*ref.ImageExtId) {
					t.Errorf("disk %d is made of %v", i, back.DataSource)
				}
			}
			if len(m.Disks) != len(files) || m.Nics[0].BackingInfo.Model.GetName() != "E1000" || *m.Nics[0].NetworkInfo.Ipv4Config.IpAddress.Value != "10.10.0.77" {
				t.Errorf("the models read %s", b.JSON)
			}
		}
	}
	if images != len(files) || machines != 1 {
		t.Errorf("%d images and %d machines were asked for", images, machines)
	}
}

func required(t *testing.T, b []byte, fields ...string) {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	for _, f := range fields {
		if m[f] == nil {
			t.Errorf("%s is required and missing in %s", f, b)
		}
	}
}

// unknown walks everything that a model read and lists what it did not know.
func unknown(v reflect.Value, path string) (out []string) {
	if n, ok := v.Interface().(interface{ GetName() string }); ok && (v.Kind() != reflect.Pointer || !v.IsNil()) {
		if name := n.GetName(); strings.HasPrefix(name, "$") {
			out = append(out, path+" is "+name)
		}
		return out
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		if g, ok := v.Interface().(interface{ GetValue() any }); ok {
			return unknown(reflect.ValueOf(g.GetValue()), path)
		}
		return unknown(v.Elem(), path)
	case reflect.Slice:
		for i := range v.Len() {
			out = append(out, unknown(v.Index(i), path)...)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			switch {
			case !f.IsExported() || f.Name == "Reserved_":
			case f.Name == "UnknownFields_":
				for name := range v.Field(i).Interface().(map[string]any) {
					out = append(out, path+"."+name)
				}
			case strings.HasPrefix(f.Type.String(), "*time.") || f.Type.Kind() == reflect.String:
			default:
				out = append(out, unknown(v.Field(i), path+"."+f.Name)...)
			}
		}
	}
	return out
}

func known(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	if u := unknown(v, path); len(u) != 0 {
		t.Errorf("not known to Nutanix' models: %q", u)
	}
}

// TestUnknown: the walk finds what it is there to find.
func TestUnknown(t *testing.T) {
	m := vmmconfig.NewVm()
	err := json.Unmarshal([]byte(`{"nome": 1, "disks": [{"diskAddress": {"busType": "MFM", "slot": 1},
		"backingInfo": {"$objectType": "vmm.v4.ahv.config.VmDisk", "size": 1}}]}`), m)
	if err != nil {
		t.Fatal(err)
	}
	got := unknown(reflect.ValueOf(m), "vm")
	slices.Sort(got)
	want := []string{"vm.Disks.BackingInfo.size", "vm.Disks.DiskAddress.BusType is $UNKNOWN", "vm.Disks.DiskAddress.slot", "vm.nome"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
