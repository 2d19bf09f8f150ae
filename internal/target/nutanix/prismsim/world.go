package prismsim

import (
	"fmt"
	"io"
	"os"
	"sort"
)

// What there is from the beginning.
const (
	Cluster      = "ahv-one"
	OtherCluster = "ahv-two"
	Container    = "default-container"
	Fast         = "fast-container"
	Subnet       = "vlan.100"
	OtherSubnet  = "vlan.200"
	AwaySubnet   = "vlan.300" // of OtherCluster
	CategoryKey  = "Environment"
	CategoryVal  = "Restored"
	Project      = "default"
)

type cluster struct {
	ID, Name, Version string
	Central           bool
}

type container struct {
	ID, Name, Cluster string
	Capacity, Used    int64
}

type subnet struct {
	ID, Name, Cluster string
	VLAN              int
	Managed           string // CIDR of its own address management; "": none
}

type category struct{ ID, Key, Value string }

type image struct {
	ID, Name, Description string
	Size                  int64
	SHA256                string
	file                  string
	version               int
}

// Disk is a disk of a machine: what an image was, copied.
type Disk struct {
	Bus       string
	Index     int
	Size      int64
	Container string
	file      string
	sha256    string
}

// NIC is an adapter of a machine.
type NIC struct {
	Subnet, Model, MAC, IP string
	Connected              bool
}

// Machine is a machine as the simulator keeps it.
type Machine struct {
	ID, Name, Description string
	Cluster               string
	Sockets, Cores        int
	Threads               int
	Memory                int64
	MachineType           string
	UEFI, SecureBoot      bool
	VTPM                  bool
	BootDisk              int // in Disks; -1: none named
	Timezone              string
	Power                 string // "ON", "OFF"
	Categories            []string
	Project               string
	Disks                 []Disk
	NICs                  []NIC
	version               int
}

type world struct {
	clusters   []cluster
	containers []container
	subnets    []subnet
	categories []category
	projects   []category
	images     map[string]*image
	vms        map[string]*Machine
	tasks      map[string]*task
}

func uuid(kind, n int) string { return fmt.Sprintf("c0de%04x-0000-4000-8000-%012x", kind, n) }

func newWorld() world {
	return world{
		clusters: []cluster{
			{ID: uuid(1, 0), Name: "prism-central", Version: "pc.2024.3.1", Central: true},
			{ID: uuid(1, 1), Name: Cluster, Version: "7.0"},
			{ID: uuid(1, 2), Name: OtherCluster, Version: "6.10"},
		},
		containers: []container{
			{ID: uuid(2, 1), Name: Container, Cluster: uuid(1, 1), Capacity: 40 << 40, Used: 10 << 40},
			{ID: uuid(2, 2), Name: Fast, Cluster: uuid(1, 1), Capacity: 8 << 40, Used: 1 << 40},
			{ID: uuid(2, 3), Name: Container, Cluster: uuid(1, 2), Capacity: 20 << 40, Used: 2 << 40},
		},
		subnets: []subnet{
			{ID: uuid(3, 1), Name: Subnet, Cluster: uuid(1, 1), VLAN: 100, Managed: "10.10.0.0/16"},
			{ID: uuid(3, 2), Name: OtherSubnet, Cluster: uuid(1, 1), VLAN: 200},
			{ID: uuid(3, 3), Name: AwaySubnet, Cluster: uuid(1, 2), VLAN: 300},
		},
		categories: []category{{uuid(4, 1), CategoryKey, CategoryVal}, {uuid(4, 2), CategoryKey, "it's quoted"}},
		projects:   []category{{ID: uuid(5, 1), Key: Project}},
		images:     map[string]*image{}, vms: map[string]*Machine{}, tasks: map[string]*task{},
	}
}

// Inventory lists everything that can be created, one line for each thing.
func (s *Sim) Inventory() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for key, o := range s.objects {
		out = append(out, fmt.Sprintf("object %q of %d bytes %.8s", key, o.size, o.sha256))
	}
	for _, u := range s.uploads {
		out = append(out, fmt.Sprintf("unfinished upload of %q", u.key))
	}
	for _, i := range s.images {
		out = append(out, fmt.Sprintf("image %q of %d bytes %.8s", i.Name, i.Size, i.SHA256))
	}
	for _, m := range s.vms {
		line := fmt.Sprintf("vm %q %s in %s", m.Name, m.Power, m.Cluster)
		for _, d := range m.Disks {
			line += fmt.Sprintf(" %s.%d=%.8s", d.Bus, d.Index, d.sha256)
		}
		out = append(out, line)
	}
	sort.Strings(out)
	return out
}

// Machines are all machines.
func (s *Sim) Machines() []Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Machine
	for _, m := range s.vms {
		c := *m
		c.Disks, c.NICs = append([]Disk(nil), m.Disks...), append([]NIC(nil), m.NICs...)
		out = append(out, c)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

// File is the image file that a machine's disk was made of, as long as the
// machine is there.
func (d Disk) File() ([]byte, error) { return os.ReadFile(d.file) }

// ImageFile is the file of the image with that name.
func (s *Sim) ImageFile(name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.images {
		if i.Name == name {
			return os.ReadFile(i.file)
		}
	}
	return nil, fmt.Errorf("there is no image %q", name)
}

// AddMachine makes a machine that is nobody's.
func (s *Sim) AddMachine(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.id()
	s.vms[id] = &Machine{ID: id, Name: name, Cluster: uuid(1, 1), Power: "OFF", BootDisk: -1, version: 1}
}

// Describe changes the description of the machines of a name.
func (s *Sim) Describe(name, description string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.vms {
		if m.Name == name {
			m.Description = description
			m.version++
		}
	}
}

// Touch changes every machine n times, each before a write of it is looked at,
// so that the ETag that the writer has is stale.
func (s *Sim) Touch(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = n
}

// virtual is the size of the disk in an image file: of QCOW2 what its header
// says, of anything else the file's.
func virtual(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	var h [32]byte
	if _, err := io.ReadFull(f, h[:]); err != nil || string(h[:4]) != "QFI\xfb" {
		return st.Size(), nil //nolint:nilerr // too short for a header: raw
	}
	var n int64
	for _, b := range h[24:32] {
		n = n<<8 | int64(b)
	}
	return n, nil
}
