package prismsim

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// obj is a JSON object to be answered.
type obj map[string]any

// reserved is the version that every object of v4 bears; Nutanix' client keeps
// the ETag beside it.
var reserved = obj{"$fv": "v4.r1"}

func v4Data(status int, data any, header map[string]string) answer {
	return v4Body(status, obj{"$reserved": reserved, "data": data}, header)
}

func v4Body(status int, body obj, header map[string]string) answer {
	b, err := json.Marshal(body)
	if err != nil {
		return answer{status: http.StatusInternalServerError}
	}
	h := map[string]string{"Content-Type": "application/json"}
	for k, v := range header {
		h[k] = v
	}
	return answer{status: status, header: h, body: b}
}

// v4Error is an error as v4 answers it (vmm.v4.error.ErrorResponse).
func v4Error(status int, code, format string, args ...any) answer {
	return v4Data(status, obj{"$objectType": "vmm.v4.error.ErrorResponse", "error": []obj{{
		"$objectType": "vmm.v4.error.AppMessage", "message": fmt.Sprintf(format, args...), "code": code, "severity": "ERROR", "locale": "en-US", "errorGroup": code,
	}}}, nil)
}

// accepted is the answer of what goes on as a task.
func accepted(t *task) answer {
	return v4Data(http.StatusAccepted, obj{"$objectType": "prism.v4.config.TaskReference", "extId": ergon + t.id}, nil)
}

var versions = map[string][]string{"vmm": {"v4.0", "v4.1"}, "prism": {"v4.0"}, "clustermgmt": {"v4.0"}, "networking": {"v4.0"}}

// v4 answers a request to the v4 API.
func (s *Sim) v4(r *http.Request) answer {
	p := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/"), "/")
	if len(p) < 4 || s.o.Version == "v3" || !slices.Contains(versions[p[0]], p[1]) || p[0] == "vmm" && p[1] > s.o.Version {
		return answer{status: http.StatusNotFound, header: map[string]string{"Content-Type": "text/html"}, body: []byte("<html>404</html>")}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 4<<20))
	if err != nil {
		return v4Error(http.StatusBadRequest, "BODY", "the body broke off")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodGet {
		return s.v4Get(r, p[0], strings.Join(p[2:4], "/"), p[4:])
	}
	id := r.Header.Get("NTNX-Request-Id")
	if !reUUID.MatchString(id) {
		return v4Error(http.StatusBadRequest, "VMM-20011", "the header NTNX-Request-Id must be a UUID")
	}
	sum := sha256.Sum256(body)
	key := r.Method + " " + r.URL.Path + " " + hex.EncodeToString(sum[:])
	if a, ok := s.requests[id]; ok {
		if a.key != key {
			return v4Error(http.StatusConflict, "VMM-20012", "the request identifier was used for another request")
		}
		return answer{status: a.status, header: map[string]string{"Content-Type": "application/json"}, body: a.body}
	}
	if len(body) > 0 {
		s.bodies = append(s.bodies, Body{Method: r.Method, Path: r.URL.Path, JSON: body})
	}
	a := s.v4Write(r, p[0]+" "+strings.Join(p[2:4], "/"), p[4:], body)
	if a.status == http.StatusAccepted {
		s.requests[id] = answered{key: key, status: a.status, body: a.body}
	}
	return a
}

var reUUID = regexp.MustCompile(`^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$`)

func (s *Sim) v4Get(r *http.Request, ns, what string, rest []string) answer {
	if len(rest) == 0 {
		return s.v4List(r, ns, what)
	}
	switch {
	case ns == "prism" && what == "config/tasks" && len(rest) == 1:
		id, ok := strings.CutPrefix(rest[0], ergon)
		if !ok {
			return v4Error(http.StatusBadRequest, "TASK-400", "a task's identifier begins with %s", ergon)
		}
		return s.getTask(id)
	case ns == "vmm" && what == "content/images" && len(rest) == 1:
		if i := s.images[rest[0]]; i != nil {
			return v4Data(http.StatusOK, i.json(), map[string]string{"ETag": fmt.Sprint(i.version)})
		}
	case ns == "vmm" && what == "content/images" && len(rest) == 2 && rest[1] == "file":
		if i := s.images[rest[0]]; i != nil {
			return answer{status: http.StatusOK, header: map[string]string{"Content-Type": "application/octet-stream"}, file: i.file}
		}
	case ns == "vmm" && what == "ahv/config" && len(rest) == 2 && rest[0] == "vms":
		if m := s.vms[rest[1]]; m != nil {
			return v4Data(http.StatusOK, m.json(), map[string]string{"ETag": m.etag()})
		}
	case ns == "vmm" && what == "ahv/config" && rest[0] == "vms" && len(rest) == 1:
		return s.v4List(r, ns, "ahv/config/vms")
	}
	return v4Error(http.StatusNotFound, "VMM-20005", "there is no such entity")
}

var reFilter = regexp.MustCompile(`^(\w+) eq '((?:[^']|'')*)'(?: and (.+))?$`)

func (s *Sim) v4List(r *http.Request, ns, what string) answer {
	var rows []obj
	switch ns + " " + what {
	case "clustermgmt config/clusters":
		for _, c := range s.clusters {
			f := "AOS"
			if c.Central {
				f = "PRISM_CENTRAL"
			}
			rows = append(rows, obj{"extId": c.ID, "name": c.Name, "config": obj{"clusterFunction": []string{f}, "hypervisorTypes": []string{"AHV"}, "buildInfo": obj{"version": c.Version}}})
		}
	case "clustermgmt config/storage-containers":
		for _, c := range s.containers {
			rows = append(rows, obj{"containerExtId": c.ID, "name": c.Name, "clusterExtId": c.Cluster, "maxCapacityBytes": c.Capacity})
		}
	case "networking config/subnets":
		for _, n := range s.subnets {
			row := obj{"extId": n.ID, "name": n.Name, "subnetType": "VLAN", "networkId": n.VLAN, "clusterReference": n.Cluster}
			if n.Managed != "" {
				ip, bits, _ := strings.Cut(n.Managed, "/")
				length, _ := strconv.Atoi(bits) // our own
				row["ipConfig"] = []obj{{"ipv4": obj{"ipSubnet": obj{"ip": obj{"value": ip}, "prefixLength": length}}}}
			}
			rows = append(rows, row)
		}
	case "prism config/categories":
		for _, c := range s.categories {
			rows = append(rows, obj{"extId": c.ID, "key": c.Key, "value": c.Value})
		}
	case "vmm content/images":
		for _, i := range s.images {
			rows = append(rows, i.json())
		}
	case "vmm ahv/config/vms":
		for _, m := range s.vms {
			rows = append(rows, m.json())
		}
	default:
		return v4Error(http.StatusNotFound, "VMM-20005", "there is no such list")
	}
	sort.Slice(rows, func(i, j int) bool { return fmt.Sprint(rows[i]["extId"]) < fmt.Sprint(rows[j]["extId"]) })
	q := r.URL.Query()
	for k := range q {
		if k != "$page" && k != "$limit" && k != "$filter" {
			return v4Error(http.StatusBadRequest, "VMM-20003", "unknown parameter %s", k)
		}
	}
	for f := q.Get("$filter"); f != ""; {
		m := reFilter.FindStringSubmatch(f)
		if m == nil {
			return v4Error(http.StatusBadRequest, "VMM-20004", "the filter %s cannot be parsed", f)
		}
		rows = slices.DeleteFunc(rows, func(o obj) bool { return fmt.Sprint(o[m[1]]) != strings.ReplaceAll(m[2], "''", "'") })
		f = m[3]
	}
	page, limit := 0, 50
	for name, v := range map[string]*int{"$page": &page, "$limit": &limit} {
		if t := q.Get(name); t != "" {
			n, err := strconv.Atoi(t)
			if err != nil || n < 0 || name == "$limit" && (n < 1 || n > 100) {
				return v4Error(http.StatusBadRequest, "VMM-20003", "%s is out of range", name)
			}
			*v = n
		}
	}
	total := len(rows)
	rows = rows[min(page*limit, total):min((page+1)*limit, total)]
	out := obj{"$reserved": reserved, "metadata": obj{"totalAvailableResults": total}}
	if len(rows) > 0 { // an empty list has no data
		out["data"] = rows
	}
	return v4Body(http.StatusOK, out, nil)
}

// ifMatch checks the ETag that a change was made for.
func (s *Sim) ifMatch(r *http.Request, m *Machine) *answer {
	if s.stale > 0 {
		s.stale--
		m.version++
	}
	var a answer
	switch h := r.Header.Get("If-Match"); {
	case h == "":
		a = v4Error(http.StatusPreconditionRequired, "VMM-20007", "the header If-Match is missing")
	case h != m.etag():
		a = v4Error(http.StatusPreconditionFailed, "VMM-20008", "the entity was changed: its ETag is another")
	default:
		return nil
	}
	return &a
}

func (s *Sim) v4Write(r *http.Request, what string, rest []string, body []byte) answer {
	missing := v4Error(http.StatusNotFound, "VMM-20005", "there is no such entity")
	switch {
	case what == "vmm content/images" && len(rest) == 0 && r.Method == http.MethodPost:
		return s.createImage(body)
	case what == "vmm content/images" && len(rest) == 1 && r.Method == http.MethodDelete:
		i := s.images[rest[0]]
		if i == nil {
			return missing
		}
		return accepted(s.begin(OpDeleteImage, "vmm:content:image", func() (string, string) {
			_ = os.Remove(i.file)
			delete(s.images, i.ID)
			return i.ID, ""
		}))
	case what == "vmm ahv/config" && len(rest) == 1 && rest[0] == "vms" && r.Method == http.MethodPost:
		return s.createVM(body)
	case what == "vmm ahv/config" && len(rest) >= 2 && rest[0] == "vms":
		m := s.vms[rest[1]]
		if m == nil {
			return missing
		}
		if a := s.ifMatch(r, m); a != nil {
			return *a
		}
		switch {
		case len(rest) == 2 && r.Method == http.MethodDelete:
			return accepted(s.begin(OpDeleteVM, "vmm:ahv:vm", func() (string, string) {
				s.remove(m)
				return m.ID, ""
			}))
		case len(rest) == 4 && rest[2] == "$actions" && rest[3] == "power-on" && r.Method == http.MethodPost:
			return accepted(s.begin(OpPower, "vmm:ahv:vm", func() (string, string) {
				if m.Power == "ON" {
					return "", "The VM is powered on already"
				}
				m.Power = "ON"
				m.version++
				return m.ID, ""
			}))
		}
	}
	return v4Error(http.StatusNotFound, "VMM-20005", "there is no such operation")
}

func (s *Sim) remove(m *Machine) {
	for _, d := range m.Disks {
		_ = os.Remove(d.file)
	}
	delete(s.vms, m.ID)
}

// strict reads a body, refusing fields that are not known.
func strict(body []byte, out any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	return d.Decode(out)
}

func invalid(format string, args ...any) answer {
	return v4Error(http.StatusBadRequest, "VMM-20001", format, args...)
}

func (i *image) json() obj {
	return obj{
		"$objectType": "vmm.v4.content.Image", "$reserved": reserved, "extId": i.ID, "name": i.Name, "description": i.Description, "type": "DISK_IMAGE", "sizeBytes": i.Size,
		"checksum": obj{"$objectType": "vmm.v4.content.ImageSha256Checksum", "hexDigest": i.SHA256},
	}
}

func (s *Sim) createImage(body []byte) answer {
	var req struct {
		Type     string `json:"$objectType"`
		Name     string `json:"name"`
		About    string `json:"description"`
		Kind     string `json:"type"`
		Checksum *struct {
			Type string `json:"$objectType"`
			Hex  string `json:"hexDigest"`
		} `json:"checksum"`
		Source *struct {
			Type string `json:"$objectType"`
			Key  string `json:"key"`
		} `json:"source"`
		Clusters []string `json:"clusterLocationExtIds"`
	}
	if err := strict(body, &req); err != nil {
		return invalid("the image cannot be read: %v", err)
	}
	switch {
	case req.Name == "" || len(req.Name) > 256:
		return invalid("an image's name has 1 to 256 characters")
	case req.Kind != "DISK_IMAGE" && req.Kind != "ISO_IMAGE":
		return invalid("the type %q is not known", req.Kind)
	case req.Source == nil || req.Source.Type != "vmm.v4.content.ObjectsLiteSource":
		return invalid("the source must be of a known $objectType")
	case req.Checksum != nil && req.Checksum.Type != "vmm.v4.content.ImageSha256Checksum":
		return invalid("the checksum must be of a known $objectType")
	}
	for _, c := range req.Clusters {
		if !slices.ContainsFunc(s.clusters, func(x cluster) bool { return x.ID == c && !x.Central }) {
			return invalid("there is no cluster %s", c)
		}
	}
	return accepted(s.begin(OpImage, "vmm:content:image", func() (string, string) {
		o := s.objects[req.Source.Key]
		if o == nil {
			return "", "There is no object " + req.Source.Key
		}
		if req.Checksum != nil && req.Checksum.Hex != o.sha256 {
			return "", "Image checksum mismatch: the SHA-256 of the file is " + o.sha256
		}
		id := s.id()
		file := o.file + "-image-" + id
		if err := os.Link(o.file, file); err != nil {
			return "", err.Error()
		}
		s.images[id] = &image{ID: id, Name: req.Name, Description: req.About, Size: o.size, SHA256: o.sha256, file: file, version: 1}
		return id, ""
	}))
}

// ref is a nested object of one identifier.
type ref struct {
	ID string `json:"extId"`
}

type vmRequest struct {
	Type     string `json:"$objectType"`
	Name     string `json:"name"`
	About    string `json:"description"`
	Sockets  int    `json:"numSockets"`
	Cores    int    `json:"numCoresPerSocket"`
	Threads  int    `json:"numThreadsPerCore"`
	Memory   int64  `json:"memorySizeBytes"`
	Chipset  string `json:"machineType"`
	Timezone string `json:"hardwareClockTimezone"`
	Cluster  *ref   `json:"cluster"`
	Project  *ref   `json:"project"`
	Cats     []ref  `json:"categories"`
	Boot     *struct {
		Type   string `json:"$objectType"`
		Secure bool   `json:"isSecureBootEnabled"`
		Device *struct {
			Type    string   `json:"$objectType"`
			Address *address `json:"diskAddress"`
		} `json:"bootDevice"`
	} `json:"bootConfig"`
	TPM *struct {
		Enabled bool `json:"isVtpmEnabled"`
	} `json:"vtpmConfig"`
	Disks []struct {
		Type    string   `json:"$objectType"`
		Address *address `json:"diskAddress"`
		Backing *struct {
			Type   string `json:"$objectType"`
			Size   int64  `json:"diskSizeBytes"`
			Store  *ref   `json:"storageContainer"`
			Source *struct {
				Type      string `json:"$objectType"`
				Reference *struct {
					Type  string `json:"$objectType"`
					Image string `json:"imageExtId"`
				} `json:"reference"`
			} `json:"dataSource"`
		} `json:"backingInfo"`
	} `json:"disks"`
	NICs []struct {
		Type    string `json:"$objectType"`
		Backing *struct {
			Type      string `json:"$objectType"`
			Model     string `json:"model"`
			MAC       string `json:"macAddress"`
			Connected *bool  `json:"isConnected"`
		} `json:"backingInfo"`
		Network *struct {
			Type   string `json:"$objectType"`
			Kind   string `json:"nicType"`
			Mode   string `json:"vlanMode"`
			Subnet *ref   `json:"subnet"`
			IPv4   *struct {
				Assign bool `json:"shouldAssignIp"`
				IP     *struct {
					Value  string `json:"value"`
					Length int    `json:"prefixLength"`
				} `json:"ipAddress"`
			} `json:"ipv4Config"`
		} `json:"networkInfo"`
	} `json:"nics"`
}

type address struct {
	Type  string `json:"$objectType"`
	Bus   string `json:"busType"`
	Index int    `json:"index"`
}

func (m *Machine) etag() string { return fmt.Sprintf("YXBwbGljYXRpb24vanNvbg==:%d", m.version) }

func (m *Machine) json() obj {
	var disks []obj
	for n, d := range m.Disks {
		disks = append(disks, obj{"extId": fmt.Sprintf("d15c%04x%s", n, m.ID[8:]), "diskAddress": obj{"busType": d.Bus, "index": d.Index}})
	}
	return obj{
		"$objectType": "vmm.v4.ahv.config.Vm", "$reserved": reserved, "extId": m.ID, "name": m.Name, "description": m.Description, "powerState": m.Power,
		"numSockets": m.Sockets, "numCoresPerSocket": m.Cores, "memorySizeBytes": m.Memory, "cluster": obj{"extId": m.Cluster}, "disks": disks,
	}
}

// most are the greatest numbers of disks on a bus.
var most = map[string]int{"SCSI": 256, "SATA": 6, "IDE": 4, "PCI": 7}

// reMAC is what the model's pattern allows.
var reMAC = regexp.MustCompile(`^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$`)

func (s *Sim) createVM(body []byte) answer {
	var q vmRequest
	if err := strict(body, &q); err != nil {
		return invalid("the machine cannot be read: %v", err)
	}
	m := &Machine{
		Name: q.Name, Description: q.About, Sockets: q.Sockets, Cores: max(q.Cores, 1), Threads: max(q.Threads, 1), Memory: q.Memory,
		MachineType: q.Chipset, Timezone: q.Timezone, Power: "OFF", BootDisk: -1, version: 1,
	}
	switch {
	case q.Name == "" || len(q.Name) > 256:
		return invalid("a machine's name has 1 to 256 characters")
	case len(q.About) > 1000:
		return invalid("a description has at most 1000 characters")
	case q.Sockets < 1 || q.Cores < 0 || q.Memory < 64<<20 || q.Memory%(1<<20) != 0:
		return invalid("processors or memory are out of range")
	case q.Cluster == nil || !slices.ContainsFunc(s.clusters, func(c cluster) bool { return c.ID == q.Cluster.ID && !c.Central }):
		return invalid("there is no such cluster")
	case !slices.Contains([]string{"", "PC", "Q35"}, q.Chipset):
		return invalid("there is no machine type %q", q.Chipset)
	}
	m.Cluster = q.Cluster.ID
	if q.Project != nil {
		if !slices.ContainsFunc(s.projects, func(c category) bool { return c.ID == q.Project.ID }) {
			return invalid("there is no such project")
		}
		m.Project = q.Project.ID
	}
	for _, c := range q.Cats {
		i := slices.IndexFunc(s.categories, func(x category) bool { return x.ID == c.ID })
		if i < 0 {
			return invalid("there is no category %s", c.ID)
		}
		m.Categories = append(m.Categories, s.categories[i].Key+":"+s.categories[i].Value)
	}
	if q.TPM != nil {
		m.VTPM = q.TPM.Enabled
	}
	images, a := s.disksOf(m, &q)
	if a != nil {
		return *a
	}
	if a := s.bootOf(m, &q); a != nil {
		return *a
	}
	if a := s.nicsOf(m, &q); a != nil {
		return *a
	}
	return accepted(s.begin(OpVM, "vmm:ahv:vm", func() (string, string) {
		m.ID = s.id()
		for n := range m.Disks {
			i := images[n]
			m.Disks[n].file, m.Disks[n].sha256 = fmt.Sprintf("%s-%s-%d", i.file, m.ID, n), i.SHA256
			if err := os.Link(i.file, m.Disks[n].file); err != nil {
				return "", err.Error()
			}
		}
		s.vms[m.ID] = m
		return m.ID, ""
	}))
}

func (s *Sim) disksOf(m *Machine, q *vmRequest) ([]*image, *answer) {
	fail := func(format string, args ...any) ([]*image, *answer) {
		a := invalid(format, args...)
		return nil, &a
	}
	var images []*image
	seen := map[string]bool{}
	for n, d := range q.Disks {
		if d.Address == nil || d.Address.Index < 0 || d.Address.Index >= most[d.Address.Bus] || seen[fmt.Sprint(d.Address.Bus, d.Address.Index)] {
			return fail("disk %d has no address that is free", n)
		}
		seen[fmt.Sprint(d.Address.Bus, d.Address.Index)] = true
		b := d.Backing
		if b == nil || b.Type != "vmm.v4.ahv.config.VmDisk" || b.Source == nil || b.Source.Reference == nil || b.Source.Reference.Type != "vmm.v4.ahv.config.ImageReference" {
			return fail("disk %d: backingInfo and its reference must be of a known $objectType", n)
		}
		i := s.images[b.Source.Reference.Image]
		if i == nil {
			return fail("disk %d: there is no image %s", n, b.Source.Reference.Image)
		}
		size, err := virtual(i.file)
		if err != nil || b.Size != 0 && b.Size < size {
			return fail("disk %d is smaller than its image", n)
		}
		disk := Disk{Bus: d.Address.Bus, Index: d.Address.Index, Size: max(size, b.Size)}
		if b.Store != nil {
			c := slices.IndexFunc(s.containers, func(c container) bool { return c.ID == b.Store.ID && c.Cluster == m.Cluster })
			if c < 0 {
				return fail("disk %d: there is no such storage container in the cluster", n)
			}
			disk.Container = s.containers[c].Name
		}
		m.Disks = append(m.Disks, disk)
		images = append(images, i)
	}
	return images, nil
}

func (s *Sim) bootOf(m *Machine, q *vmRequest) *answer {
	if q.Boot == nil {
		return nil
	}
	fail := func(format string, args ...any) *answer { a := invalid(format, args...); return &a }
	switch q.Boot.Type {
	case "vmm.v4.ahv.config.UefiBoot":
		m.UEFI, m.SecureBoot = true, q.Boot.Secure
	case "vmm.v4.ahv.config.LegacyBoot":
		if q.Boot.Secure {
			return fail("Secure Boot needs UEFI")
		}
	default:
		return fail("bootConfig must be of a known $objectType")
	}
	ide := slices.ContainsFunc(m.Disks, func(d Disk) bool { return d.Bus == "IDE" })
	switch {
	case m.SecureBoot && m.MachineType != "Q35":
		return fail("Secure Boot needs machine type Q35")
	case m.SecureBoot && ide:
		return fail("Secure Boot does not start from IDE disks")
	case m.VTPM && !m.UEFI:
		return fail("a vTPM needs UEFI")
	}
	if d := q.Boot.Device; d != nil {
		if d.Type != "vmm.v4.ahv.config.BootDeviceDisk" || d.Address == nil {
			return fail("bootDevice must be of a known $objectType")
		}
		m.BootDisk = slices.IndexFunc(m.Disks, func(x Disk) bool { return x.Bus == d.Address.Bus && x.Index == d.Address.Index })
		if m.BootDisk < 0 {
			return fail("the boot device is no disk of the machine")
		}
	}
	return nil
}

func (s *Sim) nicsOf(m *Machine, q *vmRequest) *answer {
	fail := func(format string, args ...any) *answer { a := invalid(format, args...); return &a }
	for n, c := range q.NICs {
		if c.Backing == nil || c.Network == nil || c.Network.Subnet == nil {
			return fail("adapter %d lacks backing or subnet", n)
		}
		i := slices.IndexFunc(s.subnets, func(x subnet) bool { return x.ID == c.Network.Subnet.ID && x.Cluster == m.Cluster })
		switch {
		case i < 0:
			return fail("adapter %d: there is no such subnet in the cluster", n)
		case c.Backing.Model != "VIRTIO" && c.Backing.Model != "E1000":
			return fail("adapter %d: there is no model %q", n, c.Backing.Model)
		case c.Backing.MAC != "" && !reMAC.MatchString(c.Backing.MAC):
			return fail("adapter %d: %q is no MAC address", n, c.Backing.MAC)
		case c.Network.Kind != "NORMAL_NIC":
			return fail("adapter %d: nicType %q", n, c.Network.Kind)
		}
		nic := NIC{Subnet: s.subnets[i].Name, Model: c.Backing.Model, MAC: c.Backing.MAC, Connected: c.Backing.Connected == nil || *c.Backing.Connected}
		if p := c.Network.IPv4; p != nil && p.IP != nil {
			if s.subnets[i].Managed == "" {
				return fail("adapter %d: the subnet %s has no address management", n, s.subnets[i].Name)
			}
			nic.IP = p.IP.Value
		}
		m.NICs = append(m.NICs, nic)
	}
	return nil
}
