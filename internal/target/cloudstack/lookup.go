package cloudstack

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"ascend/internal/target"
)

// What the API answers, as far as it is used.

type row struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (r row) ref() (id, name string) { return r.ID, r.Name }

type zoneRow struct {
	row
	State    string `json:"allocationstate"`
	Type     string `json:"networktype"`
	Security bool   `json:"securitygroupsenabled"`
}

type offeringRow struct {
	row
	CPUs   int   `json:"cpunumber"`
	Speed  int   `json:"cpuspeed"`
	Memory int64 `json:"memory"` // MiB
	Custom bool  `json:"iscustomized"`
	// Details hold the bounds of a custom offering: maxcpunumber, maxmemory.
	Details map[string]string `json:"serviceofferingdetails"`
}

type diskOfferingRow struct {
	row
	Custom bool  `json:"iscustomized"`
	Size   int64 `json:"disksize"` // GiB
}

type networkRow struct {
	row
	Type   string `json:"type"`
	CIDR   string `json:"cidr"`
	Zone   string `json:"zoneid"`
	Usable *bool  `json:"canusefordeploy"`
}

type poolRow struct {
	row
	Scope string `json:"scope"`
	State string `json:"state"`
	Type  string `json:"type"`
	Total int64  `json:"disksizetotal"`
	Used  int64  `json:"disksizeused"`
	Zone  string `json:"zoneid"`
}

type domainRow struct {
	row
	Path string `json:"path"`
}

type osRow struct {
	ID          string `json:"id"`
	Description string `json:"description"`
}

type volumeRow struct {
	row
	State   string `json:"state"`
	Type    string `json:"type"` // ROOT, DATADISK
	Size    int64  `json:"size"`
	Machine string `json:"virtualmachineid"`
}

type templateRow struct {
	row
	Ready  bool   `json:"isready"`
	Status string `json:"status"` // of an upload that is not complete: its state, or how far it is
	Size   int64  `json:"size"`
}

type machineRow struct {
	row
	Display string            `json:"displayname"`
	State   string            `json:"state"`
	Details map[string]string `json:"details"`
	NICs    []row             `json:"nic"`
}

// reference is anything with an identifier and a name.
type reference interface{ ref() (id, name string) }

// choose finds the one that want names, by identifier or name.
func choose[T reference](what, want string, all []T) (T, error) {
	var hits []T
	var names []string
	var none T
	for _, r := range all {
		id, name := r.ref()
		if id == want {
			return r, nil
		}
		if name == want {
			hits = append(hits, r)
		}
		if len(names) < 20 {
			names = append(names, name)
		}
	}
	switch {
	case len(hits) == 1:
		return hits[0], nil
	case len(hits) > 1:
		return none, target.Permanent(fmt.Sprintf("%d are named %s %q", len(hits), what, want), "give the identifier instead of the name")
	case want == "" && len(all) == 1:
		return all[0], nil
	case want == "":
		return none, target.Permanent(fmt.Sprintf("no %s is chosen and there are %d", what, len(all)), "choose one of: "+strings.Join(names, ", "))
	}
	return none, target.Permanent(fmt.Sprintf("there is no %s %q", what, want), "there are: "+strings.Join(names, ", "))
}

// facts are what a connection is asked once.
type facts struct {
	version version
	owner   params // account and domainid, or projectid; empty: the user's own
}

// version is CloudStack's, as 4.20.1.0.
type version [3]int

func parseVersion(s string) version {
	var v version
	for i, part := range strings.SplitN(s, ".", 4) {
		digits := strings.IndexFunc(part+"x", func(r rune) bool { return r < '0' || r > '9' })
		if i < len(v) {
			v[i], _ = strconv.Atoi(part[:digits]) // what is no number is 0
		}
	}
	return v
}

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

// since tells whether the version is at least this one.
func (v version) since(major, minor, patch int) bool {
	for i, n := range []int{major, minor, patch} {
		if v[i] != n {
			return v[i] > n
		}
	}
	return true
}

// known finds out the version and who owns what is made, once.
func (t *cloud) known(ctx context.Context) (*facts, error) {
	t.mu.Lock()
	f := t.facts
	t.mu.Unlock()
	if f != nil {
		return f, nil
	}
	f = &facts{owner: params{}}
	var out struct {
		Capability struct {
			Version string `json:"cloudstackversion"`
		} `json:"capability"`
	}
	if err := t.c.call(ctx, "listCapabilities", nil, &out); err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", t.cfg.api.Host, translate(err))
	}
	f.version = parseVersion(out.Capability.Version)
	if err := t.findOwner(ctx, f); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.facts = f
	t.mu.Unlock()
	return f, nil
}

func (t *cloud) findOwner(ctx context.Context, f *facts) error {
	if p := t.cfg.project; p != "" {
		all, err := list[row](ctx, t.c, "listProjects", "project", params{"listall": "true"})
		if err != nil {
			return fmt.Errorf("cannot find project %q: %w", p, translate(err))
		}
		r, err := choose("project", p, all)
		f.owner["projectid"] = r.ID
		return err
	}
	if t.cfg.domain == "" {
		return nil
	}
	all, err := list[domainRow](ctx, t.c, "listDomains", "domain", params{"listall": "true"})
	if err != nil {
		return fmt.Errorf("cannot find domain %q: %w", t.cfg.domain, translate(err))
	}
	for i := range all {
		if strings.EqualFold(strings.Trim(all[i].Path, "/"), strings.Trim(t.cfg.domain, "/")) {
			all[i].Name = t.cfg.domain
		}
	}
	d, err := choose("domain", t.cfg.domain, all)
	if err != nil {
		return err
	}
	f.owner["domainid"] = d.ID
	if t.cfg.account != "" {
		f.owner["account"] = t.cfg.account
	}
	return nil
}

// owned adds the owner to a command's parameters.
func (f *facts) owned(p params) params {
	out := params{}
	for k, v := range p {
		out[k] = v
	}
	for k, v := range f.owner {
		out[k] = v
	}
	return out
}

// volumeNamed finds an own volume by its exact name; nil when there is none.
func (t *cloud) volumeNamed(ctx context.Context, f *facts, name string) (*volumeRow, error) {
	all, err := list[volumeRow](ctx, t.c, "listVolumes", "volume", f.owned(params{"name": name, "listall": "true"}))
	if err != nil {
		return nil, fmt.Errorf("cannot look for volume %s: %w", name, translate(err))
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, nil
}

// templateNamed finds an own template by its exact name; nil when there is none.
func (t *cloud) templateNamed(ctx context.Context, f *facts, name string) (*templateRow, error) {
	all, err := list[templateRow](ctx, t.c, "listTemplates", "template", f.owned(params{"name": name, "templatefilter": "self", "listall": "true"}))
	if err != nil {
		return nil, fmt.Errorf("cannot look for template %s: %w", name, translate(err))
	}
	for i := range all {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, nil
}

// machinesNamed lists the machines of a display name that are not yet expunged.
// The server looks for the name with SQL's LIKE, in which a backslash is special.
func (t *cloud) machinesNamed(ctx context.Context, f *facts, display string) ([]machineRow, error) {
	p := params{"name": display, "listall": "true"}
	if strings.Contains(display, `\`) {
		delete(p, "name")
	}
	all, err := list[machineRow](ctx, t.c, "listVirtualMachines", "virtualmachine", f.owned(p))
	if err != nil {
		return nil, fmt.Errorf("cannot look for machines named %q: %w", display, translate(err))
	}
	var out []machineRow
	for _, m := range all {
		if m.Display == display && m.State != "Expunging" && m.State != "Destroyed" {
			out = append(out, m)
		}
	}
	return out, nil
}

// ours is the job's machine among those of a name, by its mark.
func ours(all []machineRow, job string) *machineRow {
	for i := range all {
		if job != "" && all[i].Details[tagKey] == job {
			return &all[i]
		}
	}
	return nil
}
