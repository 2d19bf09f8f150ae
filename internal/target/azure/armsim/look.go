package armsim

import (
	"fmt"
	"sort"
	"strings"
)

// Inventory lists every resource that was not there from the beginning, one
// line for each, sorted.
func (s *Sim) Inventory() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	var out []string
	for _, t := range s.things {
		line := fmt.Sprintf("%s %s/%s %s tags %v zones %v", t.kind, t.group, t.name, t.state, t.tags, t.zones)
		switch t.kind {
		case kindDisk:
			line += fmt.Sprintf(" %d bytes %s %s %s", t.file, t.sku, t.diskState, t.disk.Generation)
		case kindVM:
			line += fmt.Sprintf(" %s %s %d data disks", t.vm.Hardware.Size, t.power, len(t.vm.Storage.Data))
		case kindNIC, kindIP:
		default:
			continue
		}
		out = append(out, line)
	}
	sort.Strings(out)
	return out
}

// Machine is what a test looks at.
type Machine struct {
	ID, Name, Power, Size, OSDisk, Controller string
	DataDisks                                 map[int]string // by LUN, identifiers
	NICs                                      []string
	Zones                                     []string
	Tags                                      map[string]string
	TrustedLaunch, SecureBoot, TPM, BootDiag  bool
	Set, License                              string
}

// Machine finds a machine by its identifier; nil when there is none.
func (s *Sim) Machine(id string) *Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	t := s.things[strings.ToLower(id)]
	if t == nil || t.kind != kindVM {
		return nil
	}
	m := &Machine{ID: t.id, Name: t.name, Power: t.power, Size: t.vm.Hardware.Size, OSDisk: t.vm.Storage.OS.Disk.ID, DataDisks: map[int]string{},
		Zones: t.zones, Tags: t.tags, License: t.vm.License, Controller: t.vm.Storage.Controller}
	for _, d := range t.vm.Storage.Data {
		m.DataDisks[*d.LUN] = d.Disk.ID
	}
	for _, n := range t.vm.Network.Interfaces {
		m.NICs = append(m.NICs, n.ID)
	}
	if sec := t.vm.Security; sec != nil {
		m.TrustedLaunch = sec.Type == "TrustedLaunch"
		if sec.UEFI != nil {
			m.SecureBoot, m.TPM = sec.UEFI.SecureBoot, sec.UEFI.TPM
		}
	}
	if t.vm.Set != nil {
		m.Set = t.vm.Set.ID
	}
	m.BootDiag = t.vm.Diagnostics != nil && t.vm.Diagnostics.Boot.Enabled
	return m
}

// Disk is the file that a managed disk holds, footer included; its holes are
// zeros.
func (s *Sim) Disk(id string) ([]byte, error) {
	s.mu.Lock()
	t := s.things[strings.ToLower(id)]
	s.mu.Unlock()
	if t == nil || t.kind != kindDisk {
		return nil, fmt.Errorf("there is no disk %s", id)
	}
	return s.azurite.read(t.container, t.file)
}

// Disks lists the identifiers of all disks that have a tag of this value.
func (s *Sim) Disks(tag, value string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, t := range s.things {
		if t.kind == kindDisk && t.tags[tag] == value {
			out = append(out, t.id)
		}
	}
	sort.Strings(out)
	return out
}

// Properties is a resource as a GET answers it; nil when there is none.
func (s *Sim) Properties(id string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle()
	if t := s.things[strings.ToLower(id)]; t != nil {
		return s.view(t, true)
	}
	return nil
}
