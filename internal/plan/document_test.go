package plan

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

// planned is the plan of a specimen and the request it was made of.
func planned(t *testing.T, name string, p vm.Platform) (*Plan, *Request) {
	t.Helper()
	all := corpus()
	i := slices.IndexFunc(all, func(s specimen) bool { return s.name == name })
	if i < 0 {
		t.Fatal("no such machine: " + name)
	}
	r := goldenRequest(all[i], p)
	made, err := Make(*r)
	if err != nil {
		t.Fatal(err)
	}
	return made, r
}

// again makes the plan of a document in the world of r.
func again(d *Document, r *Request) (*Plan, error) {
	n, err := d.Request(r.Sources, r.Caps)
	if err != nil {
		return nil, err
	}
	n.Backup, n.Target, n.Inventory, n.Prices, n.Now, n.Guest, n.ScratchFree = r.Backup, r.Target, r.Inventory, r.Prices, r.Now, r.Guest, r.ScratchFree
	if err := d.Check(*n); err != nil {
		return nil, err
	}
	return Make(*n)
}

func parse(t *testing.T, p *Plan) *Document {
	t.Helper()
	b, err := p.YAML()
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDocument("plan.yaml", b)
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	return d
}

// TestRoundTrip: a plan of the corpus that its document makes again is the
// same plan, byte by byte, and nothing is called a change of the world.
func TestRoundTrip(t *testing.T) {
	for i, s := range corpus() {
		for _, on := range []vm.Platform{caps.Targets()[i%6], caps.Targets()[(i+3)%6]} { // each target with many
			r := goldenRequest(s, on)
			p, err := Make(*r)
			if err != nil {
				t.Fatal(err)
			}
			want, _ := p.YAML()
			d := parse(t, p)
			if got, _ := d.Plan.YAML(); string(got) != string(want) {
				t.Errorf("%s to %s: what is read is not what was written\n%s", s.name, on, firstDifference(string(want), string(got)))
				continue
			}
			if strings.TrimSpace(p.Machine.Name) == "" {
				continue
			}
			q, err := again(d, r)
			if err != nil {
				if p.Stopped() {
					continue // what cannot be is refused a line earlier
				}
				t.Errorf("%s to %s: %v", s.name, on, err)
				continue
			}
			if drift := p.Drift(q); len(drift.Stops)+len(drift.Notes) > 0 {
				t.Errorf("%s to %s: %+v", s.name, on, drift)
			}
			a, _ := json.Marshal(p.Order("j"))
			b, _ := json.Marshal(q.Order("j"))
			if string(a) != string(b) {
				t.Errorf("%s to %s: the order is another:\n%s\n%s", s.name, on, a, b)
			}
		}
	}
}

// leaves flattens JSON to paths and values.
func leaves(t *testing.T, v any) map[string]string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var x any
	if err := json.Unmarshal(b, &x); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	var walk func(path string, x any)
	walk = func(path string, x any) {
		switch x := x.(type) {
		case map[string]any:
			for k, v := range x {
				walk(path+"."+k, v)
			}
		case []any:
			for i, v := range x {
				walk(path+"["+string(rune('0'+i))+"]", v)
			}
		default:
			b, _ := json.Marshal(x)
			out[path] = string(b)
		}
	}
	walk("", x)
	return out
}

// TestEdit: each edit changes exactly what was edited of what is carried out.
func TestEdit(t *testing.T) {
	for _, c := range []struct {
		on       vm.Platform
		from, to string // in the document's text
		changed  []string
	}{
		{vm.VMware, "  name: windows2008r2-bios-5-disks\n  platform: vmware\n  cpu:", "  name: neu\n  platform: vmware\n  cpu:", []string{".machine.name"}},
		{vm.VMware, "power_on: false", "power_on: true", []string{".power_on"}},
		{vm.VMware, "placement:\n  fields:\n    datastore: ds1\n", "placement:\n  fields:\n    datastore: ds1\n    folder: lab\n", []string{".placement.fields.folder"}},
		{vm.AWS, "  storage:\n  - gp3\n", "  storage:\n  - gp2\n", []string{".placement.storage[0]"}},
		{vm.AWS, "    instance_type: t3a.xlarge\n", "    instance_type: m7i.2xlarge\n", []string{".machine.cpu.cores_per_socket", ".machine.memory", ".placement.fields.instance_type"}},
	} {
		p, r := planned(t, "windows2008r2-bios-5-disks", c.on)
		b, err := p.YAML()
		if err != nil {
			t.Fatal(err)
		}
		at := strings.LastIndex(string(b), c.from)
		if at < 0 {
			t.Errorf("the plan holds no %q:\n%s", c.from, b)
			continue
		}
		text := string(b[:at]) + c.to + string(b[at+len(c.from):])
		d, err := ParseDocument("plan.yaml", []byte(text))
		if err != nil {
			t.Errorf("%q: %v", c.to, err)
			continue
		}
		q, err := again(d, r)
		if err != nil {
			t.Errorf("%q: %v", c.to, err)
			continue
		}
		was, is := leaves(t, p.Order("j")), leaves(t, q.Order("j"))
		var changed []string
		for k, v := range is {
			if was[k] != v {
				changed = append(changed, k)
			}
		}
		for k := range was {
			if _, ok := is[k]; !ok {
				changed = append(changed, k)
			}
		}
		slices.Sort(changed)
		if !reflect.DeepEqual(changed, c.changed) {
			t.Errorf("%q changes %v and not %v", c.to, changed, c.changed)
		}
		if stops := d.Plan.Drift(q).Stops; len(stops) > 0 {
			t.Errorf("%q is taken for a change of the world: %v", c.to, stops)
		}
	}
}

// TestEditReason: an edited field is a change because it was edited.
func TestEditReason(t *testing.T) {
	p, r := planned(t, "web-debian12-vmware", vm.VMware)
	d := parse(t, p)
	d.Plan.Machine.Memory = 8 * vm.GiB
	q, err := again(d, r)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(q.Changes, Change{"memory", "4.00 GiB", "8.00 GiB", "edited in the plan"}) {
		t.Errorf("%+v", q.Changes)
	}
}

// TestInvalidEdits: each names the line and what is allowed.
func TestInvalidEdits(t *testing.T) {
	for _, c := range []struct {
		on       vm.Platform
		from, to string
		field    string
		allowed  string // among the values allowed; "" where they cannot be listed
	}{
		{vm.VMware, "firmware: bios", "firmware: efi", "machine.firmware", "uefi"},
		{vm.VMware, "firmware: bios", "startup: bios", "startup", "firmware"},
		{vm.VMware, "controller: lsilogic-sas", "controller: virtio-blk", "machine.disks[4].controller", "pvscsi"},
		{vm.VMware, "unit: 4", "unit: 3", "machine.disks[4].unit", ""},
		{vm.VMware, "unit: 4", "unit: 7", "machine.disks[4].unit", ""},
		{vm.VMware, "model: e1000", "model: ena", "machine.nics[1].model", "vmxnet3"},
		{vm.VMware, "mac: 00:50:56:00:00:01", "mac: 01:50:56:00:00:01", "machine.nics[1].mac", ""},
		{vm.VMware, "  - prod\n", "  - moon\n", "placement.networks[1]", "prod"},
		{vm.VMware, "datastore: ds1", "stable: ds1", "placement.fields.stable", "datastore"},
		{vm.VMware, "power_on: false", "power_on: perhaps", "power_on", ""},
		{vm.VMware, "    path: nfc\n", "    path: pigeon\n", "disks[4].delivery.path", "datastore"},
		{vm.VMware, "subformat: streamOptimized", "subformat: monolithicSparse", "disks[4].delivery.format.subformat", "vmdk/streamOptimized+deflate"},
		{vm.AWS, "  - gp3\n", "  - gp9\n", "placement.storage[4]", "io2"},
		{vm.AWS, "instance_type: t3a.xlarge", "instance_type: t3a.enormous", "placement.fields.instance_type", "t3a.xlarge"},
		{vm.AWS, "cores_per_socket: 4", "cores_per_socket: 2", "machine.cpu.cores_per_socket", "4"},
		{vm.Azure, "    size: 1073741824000\n    controller: vmbus-scsi", "    size: 1073741824000\n    controller: ide", "machine.disks[4].controller", "nvme"},
		{vm.AWS, "    allocated: 268435456000\n", "    allocated: 1\n", "disks", ""},
		{vm.AWS, "  id: b1\n", "  id: b2\n", "backup", ""},
		{vm.AWS, "version: 1\n", "version: 2\n", "version", "1"},
	} {
		p, r := planned(t, "windows2008r2-bios-5-disks", c.on)
		b, _ := p.YAML()
		at := strings.LastIndex(string(b), c.from)
		if at < 0 {
			t.Errorf("the plan holds no %q", c.from)
			continue
		}
		text := string(b[:at]) + c.to + string(b[at+len(c.from):])
		line := strings.Count(text[:at], "\n") + 1
		last := line + strings.Count(c.to, "\n")
		d, err := ParseDocument("plan.yaml", []byte(text))
		if err == nil {
			_, err = again(d, r)
		}
		var e *EditError
		if !errors.As(err, &e) {
			t.Errorf("%q: %v", c.to, err)
			continue
		}
		fixed := c.field == "disks" || c.field == "backup" // named by their section
		if !fixed && (e.Line < line || e.Line > last) || fixed && e.Line == 0 || e.Field != c.field && !strings.HasSuffix(e.Field, c.field) || !strings.HasPrefix(e.Error(), "plan.yaml:") {
			t.Errorf("%q on line %d: %v", c.to, line, err)
		}
		if c.allowed != "" && !slices.Contains(e.Allowed, c.allowed) {
			t.Errorf("%q: %q is not among the values allowed: %v", c.to, c.allowed, err)
		}
	}
}

// TestDrift: what matters of a changed world stops, the rest is told.
func TestDrift(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(r *Request)
		stops  string // "" does not stop
	}{
		{"the same", func(*Request) {}, ""},
		{"an hour later", func(r *Request) { r.Now = r.Now.Add(3600e9) }, ""},
		{"another backup of that id", func(r *Request) { r.Backup.Created = r.Now }, "the backup is b1"},
		{"the machine's description changed", func(r *Request) { r.Backup.Machine = "other" }, "what the backup says"},
		{"data grew", func(r *Request) { r.Sources[0].Info.Allocated++ }, "disk 0: it holds"},
		{"a disk grew", func(r *Request) { r.Sources[0] = source(r.Sources[0].Info.Size + vm.GiB) }, "disk 0: it has"},
		{"the target's platform", func(r *Request) { r.Target.Platform = vm.Local }, "the target there is local"},
		{"the network went", func(r *Request) { r.Inventory.Networks = []target.Place{{Name: "other"}} }, `no network "prod"`},
		{"the name was taken", func(r *Request) { r.Inventory.Taken = []string{"web-debian12-vmware"} }, "name-taken"},
		{"the datastore filled", func(r *Request) { r.Inventory.Places["datastore"][0].Free = 1 }, "storage-full"},
		{"a right went", func(r *Request) { r.Inventory.Permissions[0].Granted = false }, "permission-missing"},
		{"more room", func(r *Request) { r.Inventory.Places["datastore"][0].Free *= 2 }, ""},
	} {
		p, r := planned(t, "web-debian12-vmware", vm.VMware)
		d := parse(t, p)
		c.change(r)
		q, err := again(d, r)
		text := ""
		if err != nil {
			text = err.Error()
		} else {
			text = strings.Join(d.Plan.Drift(q).Stops, "; ")
		}
		if c.stops == "" && text != "" || !strings.Contains(text, c.stops) {
			t.Errorf("%s: %q", c.what, text)
		}
	}
}

// TestSchema has somebody else's validator hold the schema and the plans to each
// other.
func TestSchema(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "schema.json"), Schema(), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, s := range corpus() {
		for _, on := range []vm.Platform{caps.Targets()[i%6], caps.Targets()[(i+3)%6]} {
			p, err := Make(*goldenRequest(s, on))
			if err != nil {
				t.Fatal(err)
			}
			b, _ := json.Marshal(p)
			if err := os.WriteFile(filepath.Join(dir, s.name+"-"+string(on)+".plan.json"), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	const script = `
import glob, json, sys, jsonschema
s = json.load(open(sys.argv[1] + "/schema.json"))
jsonschema.Draft202012Validator.check_schema(s)
v = jsonschema.Draft202012Validator(s)
n = 0
for f in sorted(glob.glob(sys.argv[1] + "/*.plan.json")):
    p = json.load(open(f))
    for e in v.iter_errors(p):
        print(f, e.json_path, e.message); sys.exit(1)
    p["machine"]["firmware"] = "coreboot"
    if v.is_valid(p): print(f, "takes any firmware"); sys.exit(1)
    p["machine"]["firmware"] = "bios"; p["wings"] = 2
    if v.is_valid(p): print(f, "takes any field"); sys.exit(1)
    n += 1
print(n)
`
	out, err := exec.Command("python3", "-c", script, dir).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) == "0" {
		t.Fatalf("%v: %s\nthe validator is PyPI's jsonschema; build/deps installs it", err, out)
	}
}

func FuzzDocument(f *testing.F) {
	p, err := Make(*goldenRequest(corpus()[0], vm.AWS))
	if err != nil {
		f.Fatal(err)
	}
	b, _ := p.YAML()
	f.Add(b)
	j, _ := json.Marshal(p)
	f.Add(j)
	for _, s := range []string{"", "version: 1", "a: &a [*a]", "machine: [", "disks: {}", "version: 1\nmachine: {}\nsource: {}\nbackup: {id: x}\ntarget: {name: y}\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDocument("f", b)
		if err != nil {
			return
		}
		r, err := d.Request(nil, caps.For(vm.AWS))
		if err == nil {
			_ = d.Check(*r)
		}
	})
}
