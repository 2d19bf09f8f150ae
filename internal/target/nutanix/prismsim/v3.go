package prismsim

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// v3Error is an error as v3 answers it.
func v3Error(status int, reason, format string, args ...any) answer {
	return v4Body(status, obj{
		"api_version": "3.1", "code": status, "state": "ERROR", "kind": "api",
		"message_list": []obj{{"message": fmt.Sprintf(format, args...), "reason": reason}},
	}, nil)
}

// v3 answers a request to the v3 API.
func (s *Sim) v3(r *http.Request) answer {
	p := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/nutanix/v3/"), "/")
	if len(p) == 3 && p[0] == "images" && p[2] == "file" {
		return s.v3File(r, p[1])
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return v3Error(http.StatusBadRequest, "BAD_REQUEST", "the body broke off")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(body) > 0 {
		s.bodies = append(s.bodies, Body{Method: r.Method, Path: r.URL.Path, JSON: body})
	}
	switch what := r.Method + " " + p[0]; {
	case len(p) == 2 && p[1] == "list" && r.Method == http.MethodPost:
		return s.v3Lists(p[0], body)
	case what == "GET tasks" && len(p) == 2:
		return s.v3Task(p[1])
	case what == "GET categories" && len(p) == 3:
		if slices.ContainsFunc(s.categories, func(c category) bool { return c.Key == p[1] && c.Value == p[2] }) {
			return v4Body(http.StatusOK, obj{"name": p[1], "value": p[2]}, nil)
		}
	case what == "POST images" && len(p) == 1:
		return s.v3CreateImage(body)
	case what == "POST vms" && len(p) == 1:
		return s.v3CreateVM(body)
	case p[0] == "images" && len(p) == 2 && s.images[p[1]] != nil:
		i := s.images[p[1]]
		switch r.Method {
		case http.MethodGet:
			return v4Body(http.StatusOK, i.v3(), nil)
		case http.MethodDelete:
			return s.v3Accepted(i.v3(), s.begin(OpDeleteImage, "image", func() (string, string) {
				_ = os.Remove(i.file)
				delete(s.images, i.ID)
				return i.ID, ""
			}))
		}
	case p[0] == "vms" && len(p) == 2 && s.vms[p[1]] != nil:
		m := s.vms[p[1]]
		switch r.Method {
		case http.MethodGet:
			return v4Body(http.StatusOK, m.v3(), nil)
		case http.MethodDelete:
			return s.v3Accepted(m.v3(), s.begin(OpDeleteVM, "vm", func() (string, string) {
				s.remove(m)
				return m.ID, ""
			}))
		case http.MethodPut:
			return s.v3Power(m, body)
		}
	}
	return v3Error(http.StatusNotFound, "ENTITY_NOT_FOUND", "there is no %s", r.URL.Path)
}

// v3File takes an image's file, or gives it.
func (s *Sim) v3File(r *http.Request, id string) answer {
	s.mu.Lock()
	i := s.images[id]
	s.mu.Unlock()
	if i == nil {
		return v3Error(http.StatusNotFound, "ENTITY_NOT_FOUND", "there is no image %s", id)
	}
	if r.Method == http.MethodGet {
		s.mu.Lock()
		file := i.file
		s.mu.Unlock()
		if file == "" {
			return v3Error(http.StatusNotFound, "ENTITY_NOT_FOUND", "the image has no file")
		}
		return answer{status: http.StatusOK, header: map[string]string{"Content-Type": "application/octet-stream"}, file: file}
	}
	if r.Method != http.MethodPut || r.Header.Get("Content-Type") != "application/octet-stream" {
		return v3Error(http.StatusUnsupportedMediaType, "BAD_REQUEST", "a file is application/octet-stream")
	}
	if r.ContentLength < 0 {
		return v3Error(http.StatusLengthRequired, "BAD_REQUEST", "the length must be known")
	}
	p, sum, bad := s.receive(r, "")
	if bad != nil {
		return v3Error(http.StatusBadRequest, "BAD_REQUEST", "the file broke off")
	}
	want := r.Header.Get("X-Nutanix-Checksum-Bytes")
	if kind := r.Header.Get("X-Nutanix-Checksum-Type"); kind != "" && (kind != "SHA_256" || want != sum) {
		_ = os.Remove(p.file)
		return v3Error(http.StatusUnprocessableEntity, "CHECKSUM_MISMATCH", "the file's checksum is another")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images[id] == nil {
		_ = os.Remove(p.file)
		return v3Error(http.StatusNotFound, "ENTITY_NOT_FOUND", "there is no image %s", id)
	}
	if i.file != "" {
		_ = os.Remove(i.file)
	}
	i.file, i.SHA256, i.Size = p.file, sum, p.size
	return answer{status: http.StatusOK}
}

func (s *Sim) v3Accepted(entity obj, t *task) answer {
	entity["status"].(obj)["execution_context"] = obj{"task_uuid": t.id}
	return v4Body(http.StatusAccepted, entity, nil)
}

func (s *Sim) v3Task(id string) answer {
	t := s.tasks[id]
	if t == nil {
		return v3Error(http.StatusNotFound, "ENTITY_NOT_FOUND", "there is no task")
	}
	status := s.taskStatus(t)
	out := obj{"uuid": t.id, "api_version": "3.1", "operation_type": t.op, "status": status, "percentage_complete": 50}
	switch status {
	case Succeeds:
		out["percentage_complete"] = 100
		out["entity_reference_list"] = []obj{{"kind": t.rel, "uuid": t.entity}}
	case Canceled:
		out["status"], out["error_detail"] = "ABORTED", t.message
	case Fails:
		out["error_detail"] = t.message
	}
	return v4Body(http.StatusOK, out, nil)
}

func (i *image) v3() obj {
	state := "PENDING"
	if i.file != "" {
		state = "COMPLETE"
	}
	return obj{
		"api_version": "3.1", "metadata": obj{"kind": "image", "uuid": i.ID, "spec_version": i.version},
		"spec":   obj{"name": i.Name, "description": i.Description, "resources": obj{"image_type": "DISK_IMAGE"}},
		"status": obj{"name": i.Name, "description": i.Description, "state": state, "resources": obj{"image_type": "DISK_IMAGE", "size_bytes": i.Size}},
	}
}

func (m *Machine) v3() obj {
	var disks []obj
	for n, d := range m.Disks {
		disks = append(disks, obj{
			"uuid": fmt.Sprintf("d15c%04x%s", n, m.ID[8:]), "device_properties": obj{"device_type": "DISK", "disk_address": obj{"adapter_type": d.Bus, "device_index": d.Index}},
		})
	}
	res := obj{"disk_list": disks, "power_state": m.Power, "num_sockets": m.Sockets, "num_vcpus_per_socket": m.Cores, "memory_size_mib": m.Memory >> 20}
	ref := obj{"kind": "cluster", "uuid": m.Cluster}
	return obj{
		"api_version": "3.1", "metadata": obj{"kind": "vm", "uuid": m.ID, "spec_version": m.version},
		"spec":   obj{"name": m.Name, "description": m.Description, "cluster_reference": ref, "resources": res},
		"status": obj{"name": m.Name, "description": m.Description, "state": "COMPLETE", "cluster_reference": ref, "resources": res},
	}
}

func (s *Sim) v3Lists(kind string, body []byte) answer {
	switch kind {
	case "projects":
		return s.v3List(body, "project", func() (rows []obj) {
			for _, p := range s.projects {
				rows = append(rows, obj{"status": obj{"name": p.Key, "state": "COMPLETE"}, "spec": obj{"name": p.Key}, "metadata": obj{"kind": "project", "uuid": p.ID}})
			}
			return rows
		})
	case "clusters":
		return s.v3List(body, "cluster", func() (rows []obj) {
			for _, c := range s.clusters {
				service := "AOS"
				if c.Central {
					service = "PRISM_CENTRAL"
				}
				conf := obj{"service_list": []string{service}, "build": obj{"version": c.Version}}
				rows = append(rows, obj{"status": obj{"name": c.Name, "state": "COMPLETE", "resources": obj{"config": conf}}, "metadata": obj{"kind": "cluster", "uuid": c.ID}})
			}
			return rows
		})
	case "subnets":
		return s.v3List(body, "subnet", func() (rows []obj) {
			for _, n := range s.subnets {
				res := obj{"subnet_type": "VLAN", "vlan_id": n.VLAN}
				if ip, bits, ok := strings.Cut(n.Managed, "/"); ok {
					length, _ := strconv.Atoi(bits) // our own
					res["ip_config"] = obj{"subnet_ip": ip, "prefix_length": length}
				}
				rows = append(rows, obj{
					"status": obj{"name": n.Name, "state": "COMPLETE", "cluster_reference": obj{"kind": "cluster", "uuid": n.Cluster}, "resources": res}, "metadata": obj{"kind": "subnet", "uuid": n.ID},
				})
			}
			return rows
		})
	case "images":
		return s.v3List(body, "image", func() (rows []obj) {
			for _, i := range s.images {
				rows = append(rows, i.v3())
			}
			return rows
		})
	case "vms":
		return s.v3List(body, "vm", func() (rows []obj) {
			for _, m := range s.vms {
				rows = append(rows, m.v3())
			}
			return rows
		})
	}
	return v3Error(http.StatusNotFound, "ENTITY_NOT_FOUND", "there is no list of %s", kind)
}

func v3Invalid(format string, args ...any) answer {
	return v3Error(http.StatusUnprocessableEntity, "INVALID_REQUEST", format, args...)
}

type v3Ref struct {
	Kind string `json:"kind"`
	ID   string `json:"uuid"`
}

func (s *Sim) v3CreateImage(body []byte) answer {
	var q struct {
		API  string `json:"api_version"`
		Meta v3Ref  `json:"metadata"`
		Spec struct {
			Name  string `json:"name"`
			About string `json:"description"`
			Res   struct {
				Type  string  `json:"image_type"`
				Place []v3Ref `json:"initial_placement_ref_list"`
			} `json:"resources"`
		} `json:"spec"`
	}
	if err := strict(body, &q); err != nil || q.Meta.Kind != "image" || q.Spec.Name == "" || q.Spec.Res.Type != "DISK_IMAGE" {
		return v3Invalid("the image is not valid: %v", err)
	}
	i := &image{ID: s.id(), Name: q.Spec.Name, Description: q.Spec.About, version: 1}
	s.images[i.ID] = i
	return s.v3Accepted(i.v3(), s.begin(OpImage, "image", func() (string, string) { return i.ID, "" }))
}

// v3Power changes what a restore changes of a machine: its power.
func (s *Sim) v3Power(m *Machine, body []byte) answer {
	var q struct {
		Meta struct {
			Version int `json:"spec_version"`
		} `json:"metadata"`
		Spec struct {
			Res struct {
				Power string `json:"power_state"`
			} `json:"resources"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(body, &q); err != nil {
		return v3Invalid("the machine is not valid: %v", err)
	}
	if s.stale > 0 {
		s.stale--
		m.version++
	}
	if q.Meta.Version != m.version {
		return v3Error(http.StatusConflict, "CONFLICT", "Edit conflict: please change data against the latest spec version")
	}
	return s.v3Accepted(m.v3(), s.begin(OpPower, "vm", func() (string, string) {
		m.Power = q.Spec.Res.Power
		m.version++
		return m.ID, ""
	}))
}

type v3VM struct {
	API  string `json:"api_version"`
	Meta struct {
		Kind       string            `json:"kind"`
		Project    *v3Ref            `json:"project_reference"`
		Categories map[string]string `json:"categories"`
	} `json:"metadata"`
	Spec struct {
		Name    string `json:"name"`
		About   string `json:"description"`
		Cluster v3Ref  `json:"cluster_reference"`
		Res     struct {
			Sockets  int    `json:"num_sockets"`
			Cores    int    `json:"num_vcpus_per_socket"`
			Threads  int    `json:"num_threads_per_core"`
			Memory   int64  `json:"memory_size_mib"`
			Chipset  string `json:"machine_type"`
			Timezone string `json:"hardware_clock_timezone"`
			Power    string `json:"power_state"`
			TPM      struct {
				Enabled bool `json:"vtpm_enabled"`
			} `json:"vtpm_config"`
			Boot struct {
				Type   string `json:"boot_type"`
				Device struct {
					Address v3Address `json:"disk_address"`
				} `json:"boot_device"`
			} `json:"boot_config"`
			Disks []struct {
				Properties struct {
					Type    string    `json:"device_type"`
					Address v3Address `json:"disk_address"`
				} `json:"device_properties"`
				Source  v3Ref `json:"data_source_reference"`
				Storage struct {
					Container v3Ref `json:"storage_container_reference"`
				} `json:"storage_config"`
			} `json:"disk_list"`
			NICs []struct {
				Type      string `json:"nic_type"`
				Model     string `json:"model"`
				Connected *bool  `json:"is_connected"`
				Mode      string `json:"vlan_mode"`
				Subnet    v3Ref  `json:"subnet_reference"`
				MAC       string `json:"mac_address"`
				IPs       []struct {
					IP   string `json:"ip"`
					Type string `json:"type"`
				} `json:"ip_endpoint_list"`
			} `json:"nic_list"`
		} `json:"resources"`
	} `json:"spec"`
}

type v3Address struct {
	Bus   string `json:"adapter_type"`
	Index int    `json:"device_index"`
}

// v3CreateVM puts the request into v4's words, so that both are judged alike.
func (s *Sim) v3CreateVM(body []byte) answer {
	var q v3VM
	if err := strict(body, &q); err != nil || q.Meta.Kind != "vm" {
		return v3Invalid("the machine is not valid: %v", err)
	}
	res := q.Spec.Res
	v := obj{
		"name": q.Spec.Name, "description": q.Spec.About, "numSockets": res.Sockets, "numCoresPerSocket": res.Cores, "numThreadsPerCore": res.Threads,
		"memorySizeBytes": res.Memory << 20, "machineType": res.Chipset, "hardwareClockTimezone": res.Timezone, "cluster": obj{"extId": q.Spec.Cluster.ID},
		"vtpmConfig": obj{"isVtpmEnabled": res.TPM.Enabled},
	}
	boot := obj{
		"$objectType": "vmm.v4.ahv.config.UefiBoot", "isSecureBootEnabled": res.Boot.Type == "SECURE_BOOT",
		"bootDevice": obj{"$objectType": "vmm.v4.ahv.config.BootDeviceDisk", "diskAddress": obj{"busType": res.Boot.Device.Address.Bus, "index": res.Boot.Device.Address.Index}},
	}
	if res.Boot.Type == "LEGACY" {
		boot["$objectType"] = "vmm.v4.ahv.config.LegacyBoot"
	} else if res.Boot.Type != "UEFI" && res.Boot.Type != "SECURE_BOOT" {
		return v3Invalid("the boot type %q is not known", res.Boot.Type)
	}
	v["bootConfig"] = boot
	if q.Meta.Project != nil {
		v["project"] = obj{"extId": q.Meta.Project.ID}
	}
	var cats, disks, nics []obj
	for k, val := range q.Meta.Categories {
		i := slices.IndexFunc(s.categories, func(c category) bool { return c.Key == k && c.Value == val })
		if i < 0 {
			return v3Invalid("there is no category %s:%s", k, val)
		}
		cats = append(cats, obj{"extId": s.categories[i].ID})
	}
	for _, d := range res.Disks {
		if d.Source.Kind != "image" || d.Properties.Type != "DISK" || s.images[d.Source.ID] == nil || s.images[d.Source.ID].file == "" {
			return v3Invalid("a disk is made of no image that is complete")
		}
		back := obj{
			"$objectType": "vmm.v4.ahv.config.VmDisk",
			"dataSource":  obj{"reference": obj{"$objectType": "vmm.v4.ahv.config.ImageReference", "imageExtId": d.Source.ID}},
		}
		if d.Storage.Container.ID != "" {
			back["storageContainer"] = obj{"extId": d.Storage.Container.ID}
		}
		disks = append(disks, obj{"diskAddress": obj{"busType": d.Properties.Address.Bus, "index": d.Properties.Address.Index}, "backingInfo": back})
	}
	for _, n := range res.NICs {
		net := obj{"nicType": n.Type, "vlanMode": n.Mode, "subnet": obj{"extId": n.Subnet.ID}}
		if len(n.IPs) > 0 {
			net["ipv4Config"] = obj{"shouldAssignIp": true, "ipAddress": obj{"value": n.IPs[0].IP}}
		}
		back := obj{"model": n.Model, "macAddress": n.MAC}
		if n.Connected != nil {
			back["isConnected"] = *n.Connected
		}
		nics = append(nics, obj{"backingInfo": back, "networkInfo": net})
	}
	v["categories"], v["disks"], v["nics"] = cats, disks, nics
	b, err := json.Marshal(v)
	if err != nil {
		return v3Invalid("%v", err)
	}
	a := s.createVM(b)
	if a.status != http.StatusAccepted {
		return v3Error(http.StatusUnprocessableEntity, "INVALID_REQUEST", "%s", a.body)
	}
	var made struct {
		Data struct {
			ID string `json:"extId"`
		} `json:"data"`
	}
	if err := json.Unmarshal(a.body, &made); err != nil {
		return v3Invalid("%v", err)
	}
	t := s.tasks[strings.TrimPrefix(made.Data.ID, ergon)]
	t.rel = "vm"
	m := &Machine{ID: t.entity, Name: q.Spec.Name, Description: q.Spec.About, Cluster: q.Spec.Cluster.ID, Power: "OFF"}
	if m.ID == "" { // the task failed: the identifier is nobody's
		m.ID = s.id()
	}
	return s.v3Accepted(m.v3(), t)
}

// v3List answers a list by the limits that its body sets.
func (s *Sim) v3List(body []byte, kind string, all func() []obj) answer {
	var q struct {
		Kind   string `json:"kind"`
		Length int    `json:"length"`
		Offset int    `json:"offset"`
		Filter string `json:"filter"`
	}
	if err := json.Unmarshal(body, &q); err != nil || q.Kind != "" && q.Kind != kind || q.Length < 0 || q.Length > 500 || q.Offset < 0 {
		return v3Error(http.StatusUnprocessableEntity, "INVALID_REQUEST", "the list's metadata are not valid")
	}
	rows := all()
	if name, ok := strings.CutPrefix(q.Filter, "name=="); ok {
		rows = slices.DeleteFunc(rows, func(o obj) bool { return o["status"].(obj)["name"] != name })
	} else if q.Filter != "" {
		return v3Error(http.StatusUnprocessableEntity, "INVALID_REQUEST", "the filter cannot be parsed")
	}
	sort.Slice(rows, func(i, j int) bool { return fmt.Sprint(rows[i]["metadata"]) < fmt.Sprint(rows[j]["metadata"]) })
	total := len(rows)
	rows = rows[min(q.Offset, total):]
	if q.Length == 0 {
		q.Length = 20
	}
	rows = rows[:min(q.Length, len(rows))]
	return v4Body(http.StatusOK, obj{
		"api_version": "3.1", "entities": rows, "metadata": obj{"kind": kind, "offset": q.Offset, "length": len(rows), "total_matches": total},
	}, nil)
}
