package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ascend/internal/vm"
)

// sidecar is what is used of the JSON file beside a backup file. Every field is
// optional; one of the wrong type is left out and noted.
type sidecar struct {
	id, context, vm, disk string
	kind                  Type
	parent                string
	virtual               int64
	created               time.Time
	origin                vm.Platform
	tags                  map[string]string
	notes                 []string
}

// object reads the fields of a JSON object one by one, so that one bad field
// does not spoil the others.
type object struct {
	fields map[string]json.RawMessage
	bad    []string
}

func parseObject(b []byte) (*object, error) {
	o := &object{}
	if err := json.Unmarshal(b, &o.fields); err != nil {
		return nil, fmt.Errorf("it is no JSON object: %w", err)
	}
	if o.fields == nil {
		return nil, errors.New("it is no JSON object")
	}
	return o, nil
}

func (o *object) has(name string) bool {
	raw, ok := o.fields[name]
	return ok && string(raw) != "null"
}

// text is a string, or a number as it is written.
func (o *object) text(name string) string {
	if !o.has(name) {
		return ""
	}
	var s string
	if json.Unmarshal(o.fields[name], &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(o.fields[name], &n) == nil {
		return n.String()
	}
	o.bad = append(o.bad, name)
	return ""
}

// number is a whole number, or a string that holds one.
func (o *object) number(name string) (int64, bool) {
	if !o.has(name) {
		return 0, false
	}
	n, err := json.Number(strings.TrimSpace(o.text(name))).Int64()
	if err != nil {
		o.bad = append(o.bad, name)
		return 0, false
	}
	return n, true
}

func (o *object) time(name string) time.Time {
	s := o.text(name)
	t, ok := parseTime(s)
	if !ok && s != "" {
		o.bad = append(o.bad, name)
	}
	return t
}

func (o *object) list(name string) []string {
	if !o.has(name) {
		return nil
	}
	var out []string
	if json.Unmarshal(o.fields[name], &out) != nil {
		o.bad = append(o.bad, name)
	}
	return out
}

func (o *object) object(name string) *object {
	if !o.has(name) {
		return &object{}
	}
	sub, err := parseObject(o.fields[name])
	if err != nil {
		o.bad = append(o.bad, name)
		return &object{}
	}
	return sub
}

func (o *object) complaint(name string) []string {
	if len(o.bad) == 0 {
		return nil
	}
	slices.Sort(o.bad)
	return []string{fmt.Sprintf("%s: not understood and left out: %s", name, strings.Join(slices.Compact(o.bad), ", "))}
}

// platformInfo names the parts of metadata that tell where the machine ran.
var platformInfo = []struct {
	field string
	p     vm.Platform
}{
	{"vmware_info", vm.VMware},
	{"cloudstack_info", vm.CloudStack},
	{"hyperv_info", vm.HyperV},
	{"aws_info", vm.AWS},
	{"azure_info", vm.Azure},
	{"nutanix_info", vm.Nutanix},
}

// maxTags bounds what is kept of the metadata of one backup.
const maxTags = 32

// parseSidecar reads a sidecar; name is for the notes.
func parseSidecar(name string, b []byte) (*sidecar, error) {
	o, err := parseObject(b)
	if err != nil {
		return nil, err
	}
	s := &sidecar{
		id: clean(o.text("backup_id")), context: clean(o.text("vm_context_id")), vm: clean(o.text("vm_name")), disk: clean(o.text("disk_id")),
		parent: clean(o.text("parent_backup_id")), tags: map[string]string{},
	}
	switch k := Type(strings.ToLower(o.text("backup_type"))); k {
	case Full, Incremental, Differential:
		s.kind = k
	case "":
	default:
		o.bad = append(o.bad, "backup_type")
	}
	if s.created = o.time("created_at"); s.created.IsZero() {
		s.created = o.time("completed_at")
	}
	info := o.object("qcow2_info")
	if n, ok := info.number("virtual_size"); ok && n >= 0 {
		s.virtual = n
	}
	meta := o.object("metadata")
	for _, p := range platformInfo {
		sub := meta.object(p.field)
		if len(sub.fields) > 0 && s.origin == vm.Unknown {
			s.origin = p.p
			s.keep(string(p.p), sub)
		}
	}
	s.keep("custom", meta.object("custom_metadata"))
	o.bad = append(append(o.bad, info.bad...), meta.bad...)
	s.notes = o.complaint(name)
	return s, nil
}

// keep takes over the plain values of an object as tags.
func (s *sidecar) keep(prefix string, o *object) {
	names := make([]string, 0, len(o.fields))
	for n := range o.fields {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		var v any
		if json.Unmarshal(o.fields[n], &v) != nil {
			continue
		}
		switch v.(type) {
		case string, float64, bool:
			text := clean(strings.Trim(string(o.fields[n]), `"`))
			if t, ok := v.(string); ok {
				text = clean(t)
			}
			if key := clean(n); text != "" && key != "" && len(s.tags) < maxTags {
				s.tags[prefix+"."+key] = text
			}
		}
	}
}

// chainFile is what is used of chain.json.
type chainFile struct {
	full    string
	ids     []string
	total   int64 // -1: not stated
	notes   []string
	repeats bool
}

func parseChain(name string, b []byte) (*chainFile, error) {
	o, err := parseObject(b)
	if err != nil {
		return nil, err
	}
	c := &chainFile{full: clean(o.text("full_backup_id")), total: -1}
	seen := map[string]bool{}
	for _, id := range o.list("backup_ids") {
		id = clean(id)
		if seen[id] {
			c.repeats = true
			continue
		}
		seen[id] = true
		c.ids = append(c.ids, id)
	}
	if n, ok := o.number("total_backups"); ok {
		c.total = n
	}
	c.notes = o.complaint(name)
	return c, nil
}
