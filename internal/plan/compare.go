package plan

import (
	"fmt"
	"strings"

	"ascend/internal/target"
	"ascend/internal/vm"
)

// Row is one field of the machine before and after.
type Row struct {
	Field  string `json:"field"`
	Before string `json:"before"`
	After  string `json:"after"`
	// Reason says why it changes; empty where it stays.
	Reason string `json:"reason,omitempty"`
}

// Compare lists every field of the machine as backed up and as it will be.
func (p *Plan) Compare() []Row {
	before, after := describe(p.Source, target.Placement{}, false), describe(p.Machine, p.Placement, true)
	why := map[string]string{}
	for _, c := range p.Changes {
		why[c.Field] = c.Reason
	}
	if why["cpus"] == "" {
		why["cpus"] = why["cpu"]
	}
	old := map[string]string{}
	for _, f := range before {
		old[f.name] = f.value
	}
	var rows []Row
	for _, f := range after {
		r := Row{Field: f.name, Before: orUnknown(old[f.name]), After: orUnknown(f.value)}
		if _, had := old[f.name]; !had {
			r.Before = "none"
		}
		if r.Before != r.After {
			if r.Reason = why[f.name]; r.Reason == "" {
				r.Reason = defaultReason(f.name)
			}
		}
		rows = append(rows, r)
	}
	return rows
}

func defaultReason(field string) string {
	switch {
	case strings.HasSuffix(field, " size"):
		return "the target's alignment"
	case strings.HasSuffix(field, " place"):
		return "the order of the disks on the new controllers"
	case strings.Contains(field, "storage"), strings.Contains(field, "iops"), strings.Contains(field, "throughput"), strings.Contains(field, "security groups"), strings.Contains(field, "network"), strings.Contains(field, "placement"):
		return "placed there"
	}
	return "the target's"
}

type fieldValue struct{ name, value string }

// describe lists a machine's fields; those that a change can name have the
// change's name.
func describe(m *vm.Machine, pl target.Placement, placed bool) []fieldValue {
	var out []fieldValue
	add := func(value, format string, args ...any) {
		out = append(out, fieldValue{fmt.Sprintf(format, args...), value})
	}
	onOff := func(b bool, on, off string) string {
		if b {
			return on
		}
		return off
	}
	add(m.Name, "name")
	add(string(m.Platform), "platform")
	cpus, top, memory := "", "", ""
	if m.CPU.Total() > 0 {
		cpus, top = fmt.Sprint(m.CPU.Total()), topology(m.CPU)
	}
	if m.Memory > 0 {
		memory = vm.FormatSize(m.Memory)
	}
	add(cpus, "cpus")
	add(top, "cpu topology")
	add(memory, "memory")
	add(string(m.Firmware), "firmware")
	add(onOff(m.SecureBoot, "on", "off"), "secure boot")
	add(onOff(m.TPM, "present", "none"), "tpm")
	add(m.UUID, "uuid")
	if placed && m.UUID == "" {
		out[len(out)-1].value = "new"
	}
	add(string(m.Clock), "clock")
	add(strings.TrimSpace(strings.Join([]string{string(m.Guest.Family), m.Guest.Distribution, m.Guest.Version, string(m.Guest.Arch)}, " ")), "guest")
	boot := m.BootDisk()
	for i, d := range m.Disks {
		add(fmt.Sprint(d.Size), "disk %d size", d.Index)
		add(string(d.Controller), "disk %d controller", d.Index)
		if d.Controller != "" || placed {
			add(place(d), "disk %d place", d.Index)
		}
		add(onOff(i == boot, "yes", "no"), "disk %d boot", d.Index)
		if !placed {
			continue
		}
		if i < len(pl.Storage) && pl.Storage[i] != "" {
			add(pl.Storage[i], "disk %d storage", d.Index)
		}
		if i < len(pl.Volumes) {
			if v := pl.Volumes[i]; v != (target.Volume{}) {
				add(fmt.Sprint(v.IOPS), "disk %d iops", d.Index)
				add(fmt.Sprint(v.Throughput), "disk %d throughput", d.Index)
			}
		}
	}
	for i, n := range m.NICs {
		add(string(n.Model), "nic %d model", i)
		mac := n.MAC
		if placed && mac == "" {
			mac = "new"
		}
		add(mac, "nic %d mac", i)
		network := n.Network
		if placed && i < len(pl.Networks) && pl.Networks[i] != "" {
			network = pl.Networks[i]
		}
		add(network, "nic %d network", i)
		address := strings.Join(n.Addresses, ", ")
		if placed && i < len(pl.Adapters) {
			if pl.Adapters[i].Address == target.AddressDHCP {
				address = "by DHCP"
			}
			if g := pl.Adapters[i].SecurityGroups; len(g) > 0 {
				add(strings.Join(g, ", "), "nic %d security groups", i)
			}
		}
		add(address, "nic %d address", i)
	}
	if placed {
		for _, k := range sortedKeys(pl.Fields) {
			add(pl.Fields[k], "placement %s", k)
		}
	}
	return out
}
