package nutanix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"ascend/internal/target"
)

// apiV3Base is the root of the v3 API (Prism Central's "intent" API).
const apiV3Base = "/api/nutanix/v3/"

// v3 is Prism Central's v3 API.
type v3 struct{ c *client }

// v3Query asks for a page of a list.
type v3Query struct {
	Kind   string `json:"kind"`
	Length int    `json:"length"`
	Offset int    `json:"offset"`
	Filter string `json:"filter,omitempty"`
}

type v3Ref struct {
	Kind string `json:"kind"`
	UUID string `json:"uuid"`
}

// v3Entity is what is read of every entity.
type v3Entity struct {
	Status struct {
		Name      string          `json:"name"`
		State     string          `json:"state"`
		About     string          `json:"description"`
		Cluster   *v3Ref          `json:"cluster_reference"`
		Resources json.RawMessage `json:"resources"`
		Execution struct {
			// v3 has one task, or a list of them.
			Task json.RawMessage `json:"task_uuid"`
		} `json:"execution_context"`
		Messages []struct {
			Message string `json:"message"`
		} `json:"message_list"`
	} `json:"status"`
	Spec     json.RawMessage `json:"spec"`
	Metadata json.RawMessage `json:"metadata"`
	// UUID is metadata.uuid.
	UUID string `json:"-"`
}

func (e *v3Entity) fill() {
	var m v3Ref
	_ = json.Unmarshal(e.Metadata, &m) // without one there is no identifier
	e.UUID = m.UUID
}

func (e *v3Entity) task() string {
	var one string
	var many []string
	if json.Unmarshal(e.Status.Execution.Task, &one) != nil && json.Unmarshal(e.Status.Execution.Task, &many) == nil && len(many) > 0 {
		one = many[0]
	}
	return one
}

// v3List reads all pages of a list.
func v3List(ctx context.Context, c *client, kind, path, filter string) ([]v3Entity, error) {
	const size = 500
	var out []v3Entity
	for {
		r, err := c.do(ctx, call{method: http.MethodPost, path: apiV3Base + path + "/list", body: v3Query{kind, size, len(out), filter}})
		if err != nil {
			return nil, err
		}
		var v struct {
			Entities []v3Entity `json:"entities"`
			Metadata struct {
				Total int `json:"total_matches"`
			} `json:"metadata"`
		}
		if err := json.Unmarshal(r.body, &v); err != nil {
			return nil, fmt.Errorf("cannot read the list of %s: %w", path, err)
		}
		for _, e := range v.Entities {
			e.fill()
			out = append(out, e)
		}
		if len(v.Entities) == 0 || v.Metadata.Total > 0 && len(out) >= v.Metadata.Total {
			return out, nil
		}
	}
}

// entity makes a call whose answer is an entity.
func (c *client) entity(ctx context.Context, q call) (*v3Entity, error) {
	q.path = apiV3Base + q.path
	r, err := c.do(ctx, q)
	if err != nil {
		return nil, err
	}
	e := &v3Entity{}
	if err := json.Unmarshal(r.body, e); err != nil {
		return nil, fmt.Errorf("cannot read the answer of %s: %w", q.path, err)
	}
	e.fill()
	return e, nil
}

// hasV3 tells whether Prism Central answers to v3.
func (c *client) hasV3(ctx context.Context) bool {
	_, err := c.do(ctx, call{method: http.MethodPost, path: apiV3Base + "clusters/list", body: v3Query{Kind: "cluster", Length: 1}, once: true})
	return err == nil
}

// projects lists projects, which only v3 does.
func (c *client) projects(ctx context.Context) ([]named, error) {
	rows, err := v3List(ctx, c, "project", "projects", "")
	var out []named
	for _, r := range rows {
		out = append(out, named{ID: r.UUID, Name: r.Status.Name})
	}
	return out, err
}

func (v *v3) givesProject() bool { return true }

func (v *v3) clusters(ctx context.Context) ([]named, error) {
	rows, err := v3List(ctx, v.c, "cluster", "clusters", "")
	var out []named
	for _, r := range rows {
		var res struct {
			Config struct {
				Services []string `json:"service_list"`
				Build    struct {
					Version string `json:"version"`
				} `json:"build"`
			} `json:"config"`
		}
		if err := json.Unmarshal(r.Status.Resources, &res); err != nil {
			return nil, fmt.Errorf("cannot read the cluster %s: %w", r.Status.Name, err)
		}
		if !slices.Contains(res.Config.Services, "PRISM_CENTRAL") {
			out = append(out, named{r.UUID, r.Status.Name, "AOS " + res.Config.Build.Version})
		}
	}
	return out, err
}

// containers are not listed by v3: they are named by their identifiers.
func (*v3) containers(context.Context) ([]containerRow, error) { return nil, nil }

func (v *v3) subnets(ctx context.Context) ([]subnetRow, error) {
	rows, err := v3List(ctx, v.c, "subnet", "subnets", "")
	var out []subnetRow
	for _, r := range rows {
		var res struct {
			Kind string `json:"subnet_type"`
			VLAN int    `json:"vlan_id"`
			IP   struct {
				Subnet string `json:"subnet_ip"`
				Length int    `json:"prefix_length"`
			} `json:"ip_config"`
		}
		if err := json.Unmarshal(r.Status.Resources, &res); err != nil {
			return nil, fmt.Errorf("cannot read the subnet %s: %w", r.Status.Name, err)
		}
		n := subnetRow{ID: r.UUID, Name: r.Status.Name, Kind: res.Kind, VLAN: res.VLAN}
		if r.Status.Cluster != nil {
			n.Cluster = r.Status.Cluster.UUID
		}
		if res.IP.Subnet != "" {
			n.IP = []ipRange{{}}
			n.IP[0].V4 = &ipv4Range{}
			n.IP[0].V4.Subnet.IP.Value, n.IP[0].V4.Subnet.Length = res.IP.Subnet, res.IP.Length
		}
		out = append(out, n)
	}
	return out, err
}

// categories are not listed: v3 lists keys only.
func (*v3) categories(context.Context) ([]categoryRow, error) { return nil, nil }

// category is KEY:VALUE itself, which is how v3 refers to one.
func (v *v3) category(ctx context.Context, key, value string) (string, error) {
	_, err := v.c.do(ctx, call{method: http.MethodGet, path: apiV3Base + "categories/" + key + "/" + value})
	if isGone(err) {
		return "", nil
	}
	return key + ":" + value, err
}

func (v *v3) imageNamed(ctx context.Context, name string) (*imageInfo, error) {
	rows, err := v3List(ctx, v.c, "image", "images", "name=="+name)
	for _, r := range rows {
		if r.Status.Name == name {
			return &imageInfo{ID: r.UUID, Name: name}, nil
		}
	}
	return nil, err
}

func (v *v3) imageThere(ctx context.Context, id, name string) (bool, error) {
	e, err := v.c.entity(ctx, call{method: http.MethodGet, path: "images/" + id})
	if isGone(err) {
		return false, nil
	}
	return err == nil && e.Status.Name == name, err
}

// remove deletes an entity and waits until it is gone.
func (v *v3) remove(ctx context.Context, path string) error {
	e, err := v.c.entity(ctx, call{method: http.MethodDelete, path: path})
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if t := e.task(); t != "" {
		_, err = v.wait(ctx, t)
	}
	if err != nil { // somebody else may have removed it meanwhile
		if _, gerr := v.c.entity(ctx, call{method: http.MethodGet, path: path}); isGone(gerr) {
			return nil
		}
	}
	return err
}

func (v *v3) deleteImage(ctx context.Context, id string) error { return v.remove(ctx, "images/"+id) }

func (v *v3) deleteVM(ctx context.Context, id string) error { return v.remove(ctx, "vms/"+id) }

func v3Machine(e *v3Entity) vmInfo {
	var res struct {
		Power string `json:"power_state"`
		Disks []struct {
			UUID string `json:"uuid"`
		} `json:"disk_list"`
	}
	_ = json.Unmarshal(e.Status.Resources, &res) // a machine without them is off and has no disks
	m := vmInfo{ID: e.UUID, Name: e.Status.Name, About: e.Status.About, Power: res.Power, pending: e.Status.State != "COMPLETE"}
	for _, d := range res.Disks {
		m.Disks = append(m.Disks, struct {
			ID string `json:"extId"`
		}{d.UUID})
	}
	return m
}

func (v *v3) machines(ctx context.Context) ([]vmInfo, error) {
	rows, err := v3List(ctx, v.c, "vm", "vms", "")
	var out []vmInfo
	for i := range rows {
		out = append(out, v3Machine(&rows[i]))
	}
	return out, err
}

// machinesNamed looks through all: a filter of v3 cannot hold every name.
func (v *v3) machinesNamed(ctx context.Context, name string) ([]vmInfo, error) {
	all, err := v.machines(ctx)
	return slices.DeleteFunc(all, func(m vmInfo) bool { return m.Name != name }), err
}

func (v *v3) machine(ctx context.Context, id string) (*vmInfo, error) {
	e, err := v.c.entity(ctx, call{method: http.MethodGet, path: "vms/" + id})
	if isGone(err) {
		return nil, nil //nolint:nilnil // absence is an answer
	}
	if err != nil {
		return nil, err
	}
	m := v3Machine(e)
	return &m, nil
}

// createVM is sent once: v3 knows no request identifiers, and would make two.
func (v *v3) createVM(ctx context.Context, _ string, m *vmSpec) (task string, err error) {
	body, err := v3Spec(m)
	if err != nil {
		return "", err
	}
	e, err := v.c.entity(ctx, call{method: http.MethodPost, path: "vms", body: body, once: true})
	if err != nil {
		return "", err
	}
	if task = e.task(); task == "" {
		return "", errors.New("the answer names no task")
	}
	return task, nil
}

// powerOn sends the machine's own specification back with another power state.
// When somebody else changed it in between (409), it is read again.
func (v *v3) powerOn(ctx context.Context, id string) error {
	for n := 1; ; n++ {
		e, err := v.c.entity(ctx, call{method: http.MethodGet, path: "vms/" + id})
		if err != nil {
			return err
		}
		if v3Machine(e).Power == "ON" {
			return nil
		}
		var spec map[string]any
		if err := json.Unmarshal(e.Spec, &spec); err != nil {
			return fmt.Errorf("cannot read the machine: %w", err)
		}
		res, ok := spec["resources"].(map[string]any)
		if !ok {
			return errors.New("the machine has no resources")
		}
		res["power_state"] = "ON"
		e, err = v.c.entity(ctx, call{method: http.MethodPut, path: "vms/" + id, body: map[string]any{"spec": spec, "metadata": e.Metadata, "api_version": "3.1"}, once: true})
		if statusOf(err) == http.StatusConflict && n < staleTries {
			if err := sleep(ctx, v.c.cfg.pause); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		_, err = v.wait(ctx, e.task())
		return err
	}
}

func (v *v3) wait(ctx context.Context, id string) (entity string, err error) {
	return v.c.follow(ctx, id, func() (s taskState, err error) {
		r, err := v.c.do(ctx, call{method: http.MethodGet, path: apiV3Base + "tasks/" + url.PathEscape(id)})
		if err != nil {
			return s, err
		}
		var t struct {
			Status   string  `json:"status"`
			Progress int     `json:"percentage_complete"`
			Error    string  `json:"error_detail"`
			Entities []v3Ref `json:"entity_reference_list"`
		}
		if err := json.Unmarshal(r.body, &t); err != nil {
			return s, fmt.Errorf("cannot read the task: %w", err)
		}
		for _, e := range t.Entities {
			if e.Kind == "vm" || e.Kind == "image" {
				s.entity = e.UUID
			}
		}
		s.status, s.progress, s.text = t.Status, t.Progress, t.Error
		return s, nil
	})
}

// v3Spec is the machine as v3 takes it (vm_intent_input).
func v3Spec(m *vmSpec) (map[string]any, error) {
	type obj = map[string]any
	boot := obj{"boot_type": "LEGACY"}
	if strings.HasSuffix(m.Boot.Type, "UefiBoot") {
		boot["boot_type"] = "UEFI"
		if m.Boot.Secure != nil && *m.Boot.Secure {
			boot["boot_type"] = "SECURE_BOOT"
		}
	}
	address := func(a diskAddress) obj { return obj{"adapter_type": a.Bus, "device_index": a.Index} }
	boot["boot_device"] = obj{"disk_address": address(m.Boot.Device.Address)}
	var disks, nics []obj
	for i, d := range m.Disks {
		disk := obj{
			"device_properties":     obj{"device_type": "DISK", "disk_address": address(d.Address)},
			"data_source_reference": obj{"kind": "image", "uuid": d.Backing.Source.Reference.Image},
		}
		if c := d.Backing.Container; c != nil {
			if !isID(c.ID) {
				return nil, target.Permanent(fmt.Sprintf("disk %d: v3 knows storage containers by their identifiers only", i), "give the identifier of "+c.ID)
			}
			disk["storage_config"] = obj{"storage_container_reference": obj{"kind": "storage_container", "uuid": c.ID}}
		}
		disks = append(disks, disk)
	}
	for _, n := range m.NICs {
		nic := obj{
			"nic_type": "NORMAL_NIC", "model": n.Backing.Model, "is_connected": n.Backing.Connected, "vlan_mode": n.Network.Mode,
			"subnet_reference": obj{"kind": "subnet", "uuid": n.Network.Subnet.ID},
		}
		if n.Backing.MAC != "" {
			nic["mac_address"] = n.Backing.MAC
		}
		if n.Network.IPv4 != nil {
			nic["ip_endpoint_list"] = []obj{{"ip": n.Network.IPv4.IP.Value, "type": "ASSIGNED"}}
		}
		nics = append(nics, nic)
	}
	res := obj{
		"num_sockets": m.Sockets, "num_vcpus_per_socket": m.Cores, "num_threads_per_core": m.Threads, "memory_size_mib": m.Memory >> 20,
		"machine_type": m.Chipset, "hardware_clock_timezone": m.Timezone, "power_state": "OFF", "boot_config": boot, "disk_list": disks, "nic_list": nics,
	}
	if m.TPM != nil {
		res["vtpm_config"] = obj{"vtpm_enabled": m.TPM.Enabled}
	}
	meta := obj{"kind": "vm"}
	if m.Project != nil {
		meta["project_reference"] = obj{"kind": "project", "uuid": m.Project.ID}
	}
	if len(m.Categories) > 0 {
		cats := obj{}
		for _, c := range m.Categories {
			k, val, _ := strings.Cut(c.ID, ":")
			if cats[k] != nil {
				return nil, target.Permanent("v3 gives a machine one value of a category only", "name "+k+" once")
			}
			cats[k] = val
		}
		meta["categories"] = cats
	}
	return obj{
		"api_version": "3.1", "metadata": meta,
		"spec": obj{"name": m.Name, "description": m.About, "cluster_reference": obj{"kind": "cluster", "uuid": m.Cluster.ID}, "resources": res},
	}, nil
}
