package cssim

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Files of primary storage (Options.Dir) and devices of the worker
// (Options.Devices).

// bytes is what a volume holds.
func (s *Sim) bytes(v *volume) []byte {
	name := v.node
	if v.place != "" {
		name = filepath.Join(s.o.Dir, v.place)
	}
	if name != "" {
		b, _ := os.ReadFile(name) // gone reads as nothing
		return b
	}
	return v.file
}

// placed lists the files of primary storage.
func (s *Sim) placed() []string {
	var out []string
	if s.o.Dir == "" {
		return nil
	}
	list, _ := os.ReadDir(s.o.Dir)
	for _, e := range list {
		out = append(out, "file "+e.Name())
	}
	return out
}

func (s *Sim) removePlace(v *volume) {
	if v.place != "" {
		_ = os.Remove(filepath.Join(s.o.Dir, v.place))
	}
	if v.node != "" {
		_ = os.Remove(v.node)
	}
}

// plug makes the device of a volume appear in the worker under the serial that
// libvirt is given: the volume's identifier without hyphens, cut to 20
// characters (LibvirtComputingResource.diskUuidToSerial).
func (s *Sim) plug(v *volume) *failure {
	if s.o.Devices == "" {
		return invalid("the simulated cloud has no worker")
	}
	serial := strings.ReplaceAll(v.id, "-", "")[:20]
	v.node = filepath.Join(s.o.Devices, "store-"+serial)
	f, err := os.OpenFile(v.node, os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = f.Truncate(v.size)
		_ = f.Close()
	}
	if err == nil {
		err = os.Symlink(filepath.Base(v.node), filepath.Join(s.o.Devices, "virtio-"+serial))
	}
	if err != nil {
		return refuse(codeInternal, "%v", err)
	}
	return nil
}

func (s *Sim) unplug(v *volume) {
	_ = os.Remove(filepath.Join(s.o.Devices, "virtio-"+strings.ReplaceAll(v.id, "-", "")[:20]))
}

// take makes a volume of a file of primary storage.
func (s *Sim) take(path string) (*volume, *failure) {
	if s.o.Dir == "" || path != filepath.Base(path) || slices.ContainsFunc(s.volumes, func(v *volume) bool { return v.place == path }) {
		return nil, invalid("Disk %s is not found on the storage pool or is used already", path)
	}
	b, err := os.ReadFile(filepath.Join(s.o.Dir, path))
	if err != nil || len(b) < 72 || string(b[:4]) != "QFI\xfb" {
		return nil, refuse(codeInternal, "Disk not found or is invalid: %s", path)
	}
	if binary.BigEndian.Uint64(b[8:]) != 0 {
		return nil, invalid("Volume %s has a backing file", path)
	}
	return &volume{id: newID(), name: path, state: "Ready", place: path, format: "qcow2", primary: true, kind: "DATADISK",
		size: int64(binary.BigEndian.Uint64(b[24:])), offering: s.diskOfferings[0].id(), created: time.Now()}, nil
}

func (s *Sim) importVolume(a args) (any, *failure) {
	v, fail := s.take(a["path"])
	if fail != nil {
		return nil, fail
	}
	if a["name"] != "" {
		v.name = a["name"]
	}
	s.volumes = append(s.volumes, v)
	return entity{"volume": s.volumeJSON(v)}, nil
}

// importVM makes a stopped machine of a disk; details are those of deploying.
func (s *Sim) importVM(a args) (any, *failure) {
	if a["importsource"] != "shared" || !strings.EqualFold(a["hypervisor"], "KVM") || a["storageid"] == "" {
		return nil, invalid("the simulator imports from shared storage of KVM only")
	}
	m := &machine{id: newID(), name: a["name"], display: a["displayname"], state: "Stopped", tags: map[string]string{}}
	if m.display == "" {
		m.display = m.name
	}
	root, fail := s.take(a["diskpath"])
	for _, check := range []func() *failure{
		func() *failure { return fail }, func() *failure { return s.nameFree(m.name) }, func() *failure { return s.hardware(m, a) },
		func() *failure { return s.adapters(m, args{"networkids": a["networkid"]}) },
	} {
		if fail := check(); fail != nil {
			return nil, fail
		}
	}
	root.kind, root.machine, root.name = "ROOT", m.id, fmt.Sprintf("ROOT-%s", m.id[:8])
	s.volumes, s.machines = append(s.volumes, root), append(s.machines, m)
	return entity{"virtualmachine": s.machineJSON(m)}, nil
}
