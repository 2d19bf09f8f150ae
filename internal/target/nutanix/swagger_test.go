package nutanix

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-openapi/loads"
	"github.com/go-openapi/spec"
	"github.com/go-openapi/strfmt"
	"github.com/go-openapi/validate"
	_ "github.com/nutanix-cloud-native/prism-go-client/utils" // the module that has v3's document

	"ascend/internal/target/nutanix/prismsim"
	"ascend/internal/target/targettest"
)

// swagger is Nutanix' own document of v3.
func swagger(t *testing.T) *spec.Swagger {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/nutanix-cloud-native/prism-go-client").Output()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := loads.Spec(filepath.Join(strings.TrimSpace(string(dir)), "v3", "swagger.json"))
	if err != nil {
		t.Fatal(err)
	}
	return doc.Spec()
}

// judge is the schema of one definition.
func judge(t *testing.T, doc *spec.Swagger, definition string) *spec.Schema {
	t.Helper()
	s := spec.RefSchema("#/definitions/" + definition)
	if err := spec.ExpandSchema(s, doc, nil); err != nil {
		t.Fatal(err)
	}
	return s
}

// verdict lists what is wrong with a body: what the schema refuses, and fields it
// does not have.
func verdict(s *spec.Schema, body []byte) (out []string) {
	var v any
	if err := json.Unmarshal(body, &v); err != nil {
		return []string{err.Error()}
	}
	if err := validate.AgainstSchema(s, v, strfmt.Default); err != nil {
		out = append(out, err.Error())
	}
	return append(out, extra(s, v, "body")...)
}

func extra(s *spec.Schema, v any, at string) (out []string) {
	switch v := v.(type) {
	case map[string]any:
		if len(s.Properties) == 0 { // anything
			return nil
		}
		for k, x := range v {
			p, ok := s.Properties[k]
			if !ok {
				out = append(out, at+"."+k+" is not in the document")
				continue
			}
			out = append(out, extra(&p, x, at+"."+k)...)
		}
	case []any:
		if s.Items == nil || s.Items.Schema == nil {
			return nil
		}
		for i, x := range v {
			out = append(out, extra(s.Items.Schema, x, fmt.Sprintf("%s[%d]", at, i))...)
		}
	}
	slices.Sort(out)
	return out
}

// TestSwagger has Nutanix' document of v3 judge every request that a restore which
// sets everything makes, and what the simulator answers.
func TestSwagger(t *testing.T) {
	p := startPeer(t, prismsim.Options{Version: "v3"}, nil)
	tgt := p.open(t)
	if !tgt.old {
		t.Fatal("v3 was not chosen")
	}
	o, files := everything(t, p, tgt)
	id := "c0de0002-0000-4000-8000-000000000001"
	o.Placement.Fields[fieldContainer] = id
	o.Placement.Storage = nil
	for i := range o.Disks {
		o.Disks[i].Delivery = tgt.Capabilities().Deliveries[0]
		files[i] = targettest.Encode(t, files[i], o.Disks[i].Delivery.Format)
		o.Disks[i].FileSize = int64(len(files[i]))
	}
	rec := new(targettest.MemRecorder)
	v, err := restoreAll(t, tgt, o, files, rec)
	if err != nil {
		t.Fatal(err)
	}
	m := p.machine(t, o)
	if !m.UEFI || !m.SecureBoot || !m.VTPM || m.MachineType != "Q35" || m.BootDisk != 1 || m.Project == "" || len(m.Categories) != 1 || m.Disks[0].Container != prismsim.Container ||
		m.NICs[0].IP != "10.10.0.77" || m.NICs[1].Connected || m.Timezone != "Europe/Berlin" {
		t.Errorf("%+v", m)
	}
	s, err := tgt.Begin(t.Context(), o, rec)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	p.Touch(2)
	if err := s.PowerOn(t.Context(), v); err != nil || !p.Running(t, v) {
		t.Error(err)
	}
	doc := swagger(t)
	machine, image := judge(t, doc, "vm_intent_input"), judge(t, doc, "image_intent_input")
	seen := map[string]int{}
	for _, b := range p.Bodies() {
		var schema *spec.Schema
		switch path := strings.TrimPrefix(b.Path, apiV3Base); {
		case path == "images":
			schema = image
		case path == "vms", b.Method == http.MethodPut && strings.HasPrefix(path, "vms/"):
			schema = machine
		case path == "images/list", path == "vms/list", path == "projects/list", path == "clusters/list", path == "subnets/list":
			schema = judge(t, doc, strings.TrimSuffix(strings.ReplaceAll(path, "s/list", ""), "s")+"_list_metadata")
		default:
			t.Errorf("%s %s is not judged", b.Method, b.Path)
			continue
		}
		seen[b.Method+" "+strings.Split(strings.TrimPrefix(b.Path, apiV3Base), "/")[0]]++
		if w := verdict(schema, b.JSON); len(w) > 0 {
			t.Errorf("%s %s: %q\n%s", b.Method, b.Path, w, b.JSON)
		}
	}
	if seen["PUT vms"] == 0 || seen["POST images"] < len(files) || seen["POST vms"] == 0 {
		t.Errorf("%v", seen)
	}
	if w := verdict(machine, []byte(`{"metadata": {"kind": "vm"}, "spec": {"nome": "x", "resources": {"num_sockets": "two"}}}`)); len(w) != 2 {
		t.Errorf("the judge finds %q", w)
	}
}
