package cssim

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Names of what every simulated cloud has.
const (
	Zone           = "zone1"
	Network        = "guest-net"
	OtherNetwork   = "second-net"
	Offering       = "Medium"
	CustomOffering = "Custom"
	DiskOffering   = "Custom disk"
	FixedDisk      = "Small disk" // of a fixed size: no upload can use it
	Pool           = "primary1"
	KeyPair        = "ops-key"
	Affinity       = "apart"
	SecurityGroup  = "default"
	Account        = "restore"
	Project        = "blue team"
)

// WorkerID is the machine that a worker is taken to run in.
const WorkerID = "aaaaaaaa-0000-4000-8000-00000000beef"

// world is the state of the cloud, guarded by Sim.mu.
type world struct {
	zoneID, clusterID, poolID, domainID, projectID string

	networks, offerings, diskOfferings, osTypes []entity
	volumes                                     []*volume
	templates                                   []*template
	machines                                    []*machine
	uploads                                     map[string]*upload
	jobs                                        map[string]*job
}

// entity is something that only has a name and fields.
type entity map[string]any

func (e entity) id() string { return e["id"].(string) }

type volume struct {
	id, name, state, kind string
	machine               string // of the machine it is attached to
	device                int
	size                  int64
	file                  []byte
	format                string // of file, as qemu-img says it
	node                  string // path of the file that stands for the device in the worker
	place                 string // path below Options.Dir instead of file
	offering, template    string
	primary               bool
	tags                  map[string]string
	created               time.Time
}

type template struct {
	id, name, status, osType string
	ready                    bool
	size                     int64
	file                     []byte
	format                   string
	details, tags            map[string]string
	created                  time.Time
}

type machine struct {
	id, name, display, state, boottype, bootmode, offering, template, project string
	keypairs, affinity, groups                                                []string
	cpus, memory                                                              int64
	details, tags                                                             map[string]string
	nics                                                                      []map[string]string
}

// upload is the permission to send one volume or template.
type upload struct {
	metadata, expires, signature string
	volume                       *volume
	template                     *template
	used                         bool
	created                      time.Time
}

type job struct {
	polls  int
	result any
	fail   *failure
}

func newWorld() world {
	w := world{
		zoneID: newID(), clusterID: newID(), poolID: newID(), domainID: newID(), projectID: newID(),
		uploads: map[string]*upload{}, jobs: map[string]*job{},
	}
	for _, n := range []string{Network, OtherNetwork} {
		w.networks = append(w.networks, entity{"id": newID(), "name": n, "displaytext": n, "type": "Isolated", "traffictype": "Guest",
			"zoneid": w.zoneID, "cidr": "10.1.1.0/24", "state": "Implemented", "canusefordeploy": true})
	}
	w.offerings = []entity{
		{"id": newID(), "name": Offering, "cpunumber": 2, "cpuspeed": 2000, "memory": 2048, "iscustomized": false},
		{"id": newID(), "name": CustomOffering, "iscustomized": true},
		{"id": newID(), "name": "Large", "cpunumber": 8, "cpuspeed": 2000, "memory": 16384, "iscustomized": false},
	}
	w.diskOfferings = []entity{
		{"id": newID(), "name": DiskOffering, "iscustomized": true, "disksize": 0},
		{"id": newID(), "name": FixedDisk, "iscustomized": false, "disksize": 5},
	}
	for _, n := range []string{"Debian GNU/Linux 12 (64-bit)", "Other Linux (64-bit)", "Windows Server 2019 (64-bit)", "Other (64-bit)"} {
		w.osTypes = append(w.osTypes, entity{"id": newID(), "description": n, "name": n})
	}
	return w
}

func find(list []entity, id string) entity {
	for _, e := range list {
		if e["id"] == id {
			return e
		}
	}
	return nil
}

func (w *world) volume(id string) *volume {
	for _, v := range w.volumes {
		if v.id == id {
			return v
		}
	}
	return nil
}

func (w *world) template(id string) *template {
	for _, t := range w.templates {
		if t.id == id {
			return t
		}
	}
	return nil
}

func (w *world) machine(id string) *machine {
	for _, m := range w.machines {
		if m.id == id {
			return m
		}
	}
	return nil
}

func (w *world) disksOf(id string) []*volume {
	var out []*volume
	for _, v := range w.volumes {
		if v.machine == id {
			out = append(out, v)
		}
	}
	slices.SortFunc(out, func(a, b *volume) int { return a.device - b.device })
	return out
}

// age lets uploads that nobody sent, or that take too long, end.
func (s *Sim) age() {
	for _, u := range s.uploads {
		if time.Since(u.created) < s.o.UploadTimeout {
			continue
		}
		u.end(map[bool]string{false: "UploadAbandoned", true: "UploadError"}[u.used])
	}
}

// end ends an upload that is not complete.
func (u *upload) end(state string) {
	if v := u.volume; v != nil && (v.state == "NotUploaded" || v.state == "UploadInProgress") {
		v.state = state
	}
	if t := u.template; t != nil && !t.ready && (t.status == "NotUploaded" || t.status == "0% Downloaded") {
		t.status = state
	}
}

func (u *upload) pending() bool {
	return u.volume != nil && (u.volume.state == "NotUploaded" || u.volume.state == "UploadInProgress") ||
		u.template != nil && (u.template.status == "NotUploaded" || u.template.status == "0% Downloaded")
}

func tagsJSON(tags map[string]string) []entity {
	out := []entity{}
	for k, v := range tags {
		out = append(out, entity{"key": k, "value": v})
	}
	slices.SortFunc(out, func(a, b entity) int { return strings.Compare(a["key"].(string), b["key"].(string)) })
	return out
}

func (s *Sim) volumeJSON(v *volume) entity {
	e := entity{"id": v.id, "name": v.name, "state": v.state, "type": v.kind, "size": v.size, "zoneid": s.zoneID, "zonename": Zone,
		"account": Account, "tags": tagsJSON(v.tags), "hypervisor": s.o.Hypervisor, "diskofferingid": v.offering}
	if v.primary {
		e["storage"], e["storageid"], e["path"] = Pool, s.poolID, v.id
	}
	if m := s.machine(v.machine); m != nil {
		e["virtualmachineid"], e["vmname"], e["vmdisplayname"], e["vmstate"], e["deviceid"] = m.id, m.name, m.display, m.state, v.device
	}
	if v.machine == WorkerID {
		e["virtualmachineid"], e["vmname"], e["vmstate"] = WorkerID, "worker", "Running"
	}
	return e
}

func (s *Sim) templateJSON(t *template) entity {
	return entity{"id": t.id, "name": t.name, "isready": t.ready, "status": t.status, "size": t.size, "zoneid": s.zoneID, "account": Account,
		"hypervisor": s.o.Hypervisor, "format": "QCOW2", "ostypeid": t.osType, "details": t.details, "tags": tagsJSON(t.tags)}
}

func (s *Sim) machineJSON(m *machine) entity {
	return entity{"id": m.id, "name": m.name, "displayname": m.display, "state": m.state, "zoneid": s.zoneID, "zonename": Zone, "account": Account,
		"hypervisor": s.o.Hypervisor, "serviceofferingid": m.offering, "templateid": m.template, "cpunumber": m.cpus, "memory": m.memory,
		"boottype": m.boottype, "bootmode": m.bootmode, "details": m.details, "tags": tagsJSON(m.tags), "nic": m.nics, "instancename": "i-2-" + m.id[:4] + "-VM"}
}

// Machine is a simulated machine, for tests to look at.
type Machine struct {
	ID, Name, Display, State, BootType, BootMode, Offering, OSType string
	CPUs, Memory                                                   int64 // memory in MiB
	KeyPairs, Affinity, SecurityGroups                             []string
	Details, Tags                                                  map[string]string
	NICs                                                           []map[string]string
	Disks                                                          []Volume
}

// Volume is a simulated volume; File holds its bytes.
type Volume struct {
	ID, Name, State, Type, Format string
	Device                        int
	Size                          int64
	File                          []byte
	Tags                          map[string]string
}

// Machines lists the machines that are not expunged.
func (s *Sim) Machines() []Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Machine
	for _, m := range s.machines {
		x := Machine{ID: m.id, Name: m.name, Display: m.display, State: m.state, BootType: m.boottype, BootMode: m.bootmode, CPUs: m.cpus, Memory: m.memory,
			KeyPairs: m.keypairs, Affinity: m.affinity, SecurityGroups: m.groups, Details: m.details, Tags: m.tags, NICs: m.nics}
		if o := find(s.offerings, m.offering); o != nil {
			x.Offering = o["name"].(string)
		}
		for _, v := range s.disksOf(m.id) {
			x.Disks = append(x.Disks, s.look(v))
		}
		out = append(out, x)
	}
	return out
}

func (s *Sim) look(v *volume) Volume {
	return Volume{ID: v.id, Name: v.name, State: v.state, Type: v.kind, Format: v.format, Device: v.device, Size: v.size, File: s.bytes(v), Tags: v.tags}
}

// Foreign makes a stopped machine that no restore has made.
func (s *Sim) Foreign(display string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &machine{id: newID(), display: display, state: "Stopped", offering: s.offerings[0].id()}
	m.name = "foreign-" + m.id[:8]
	s.machines = append(s.machines, m)
}

// Inventory is a line for each thing that there is.
func (s *Sim) Inventory() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.age()
	out := []string{}
	for _, v := range s.volumes {
		out = append(out, fmt.Sprintf("volume %s %q %s %s %d bytes at %q/%d", v.id, v.name, v.state, v.kind, v.size, v.machine, v.device))
	}
	for _, t := range s.templates {
		out = append(out, fmt.Sprintf("template %s %q %s %d bytes", t.id, t.name, t.status, t.size))
	}
	for _, m := range s.machines {
		out = append(out, fmt.Sprintf("machine %s %q %q %s", m.id, m.name, m.display, m.state))
	}
	return append(out, s.placed()...)
}
