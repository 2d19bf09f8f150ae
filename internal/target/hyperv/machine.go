package hyperv

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/target"
	"ascend/internal/target/guestos"
	"ascend/internal/target/hyperv/hostscript"
	"ascend/internal/vm"
)

// Hyper-V's bounds ("Plan for Hyper-V scalability in Windows Server").
const (
	perSCSI    = 64 // disks on a SCSI controller, of which there are 4
	maxSCSI    = 4 * perSCSI
	maxIDE     = 4 // generation 1: two controllers of two
	memoryStep = 2 * vm.MiB
	leastMem   = 32 * vm.MiB
	maxVLAN    = 4094
)

// drives gives every disk a place: generation 1 starts from IDE 0:0 alone.
func drives(m *vm.Machine) ([]hostscript.Drive, error) {
	out := make([]hostscript.Drive, len(m.Disks))
	ide, scsi := 0, 0
	order := make([]int, 0, len(m.Disks))
	if m.Firmware != vm.UEFI {
		order = append(order, m.BootDisk())
	}
	for i := range m.Disks {
		if m.Firmware == vm.UEFI || i != m.BootDisk() {
			order = append(order, i)
		}
	}
	for n, i := range order {
		if m.Firmware != vm.UEFI && (n == 0 || m.Disks[i].Controller == vm.BusIDE && ide < maxIDE) {
			out[i] = hostscript.Drive{Controller: "IDE", Number: ide / 2, Location: ide % 2}
			ide++
			continue
		}
		if scsi == maxSCSI {
			return nil, target.Permanent(fmt.Sprintf("Hyper-V takes %d disks on SCSI controllers", maxSCSI), "restore fewer disks")
		}
		out[i] = hostscript.Drive{Controller: "SCSI", Number: scsi / perSCSI, Location: scsi % perSCSI}
		scsi++
	}
	return out, nil
}

// spec is the document that makes the machine.
func (s *session) spec(l *hostscript.Look) (hostscript.Request, error) {
	m, o := s.order.Machine, s.order
	q := hostscript.Request{
		Op: hostscript.OpCreate, Job: jobPart(o.Job), Temporary: folderName(m.Name, o.Job), Folder: s.place.folder, Path: s.place.path,
		Name: s.name, Notes: describe(m.Annotation, o.Job), Generation: 1, Processors: max(m.CPU.Total(), 1), TPM: m.TPM, Secure: m.SecureBoot,
		Checkpoints: checkpoints[cmp.Or(o.Options[optCheckpoints], "production")], Boot: m.BootDisk(), Cluster: s.place.cluster, NICs: []hostscript.Adapter{},
	}
	what := "generation 1"
	if m.Firmware == vm.UEFI {
		q.Generation, what = 2, "generation 2"
	}
	limits := s.t.Capabilities().Traits.For(cmp.Or(m.Firmware, vm.BIOS))
	switch {
	case q.Generation == 1 && m.SecureBoot:
		return q, target.Permanent("Secure Boot needs UEFI: generation 1 machines have none", "restore without Secure Boot, or as UEFI")
	case q.Generation == 1 && m.TPM:
		return q, target.Permanent("Hyper-V gives a virtual TPM to UEFI machines only", "restore without TPM, or as UEFI")
	case q.Generation == 2 && m.Guest.Arch == vm.I386:
		return q, target.Permanent("generation 2 machines start no 32-bit system", "restore with BIOS")
	case limits.MaxCPUs > 0 && q.Processors > limits.MaxCPUs:
		return q, target.Permanent(fmt.Sprintf("%s machines have at most %d processors, not %d", what, limits.MaxCPUs, q.Processors), "restore with fewer")
	case limits.MaxNICs > 0 && len(m.NICs) > limits.MaxNICs:
		return q, target.Permanent(fmt.Sprintf("%s machines have at most %d network adapters, not %d", what, limits.MaxNICs, len(m.NICs)), "restore with fewer")
	}
	if m.SecureBoot {
		if q.Template = o.Options[optTemplate]; q.Template == "" {
			q.Template = guestos.HyperV(m)[0]
		}
	}
	if _, err := heartbeat(o.Options); err != nil {
		return q, err
	}
	var err error
	if q.Memory, err = memory(m, o.Options); err != nil {
		return q, err
	}
	if q.Disks, err = drives(m); err != nil {
		return q, err
	}
	for i := range q.Disks {
		q.Disks[i].File = s.place.files[i]
	}
	return q, s.adapters(l, &q)
}

// memory rounds up to what Hyper-V counts in.
func memory(m *vm.Machine, options map[string]string) (*hostscript.Memory, error) {
	round := func(n int64) int64 { return (max(n, leastMem) + memoryStep - 1) / memoryStep * memoryStep }
	out := &hostscript.Memory{Startup: round(m.Memory)}
	if options[optMemory] != "dynamic" {
		return out, nil
	}
	out.Dynamic, out.Minimum, out.Maximum = true, round(out.Startup/2), out.Startup
	for name, into := range map[string]*int64{optMinimum: &out.Minimum, optMaximum: &out.Maximum} {
		v := options[name]
		if v == "" {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n <= 0 {
			return nil, target.Permanent(fmt.Sprintf("option %s: %q is no number of MiB", name, v), "")
		}
		*into = round(n * vm.MiB)
	}
	if out.Minimum > out.Startup || out.Maximum < out.Startup {
		return nil, target.Permanent(fmt.Sprintf("dynamic memory from %d to %d MiB does not hold the machine's own %d MiB", out.Minimum/vm.MiB, out.Maximum/vm.MiB, out.Startup/vm.MiB), "the machine starts with its own memory: it must lie between memory_minimum and memory_maximum")
	}
	return out, nil
}

// adapters places the network adapters.
func (s *session) adapters(l *hostscript.Look, q *hostscript.Request) error {
	o := s.order
	vlans, err := vlans(o.Options[optVLAN], len(o.Machine.NICs))
	if err != nil {
		return err
	}
	for i, nic := range o.Machine.NICs {
		a := hostscript.Adapter{Name: cmp.Or(nic.Name, fmt.Sprintf("Network Adapter %d", i+1)), VLAN: vlans[i]}
		if nic.MAC != "" && o.Options[optMAC] != "new" {
			if a.MAC, err = macAddress(nic.MAC); err != nil {
				return target.Permanent(fmt.Sprintf("network adapter %d: %v", i, err), "restore with mac=new")
			}
		}
		want := ""
		if i < len(o.Placement.Networks) {
			want = o.Placement.Networks[i]
		}
		var names []string
		for _, sw := range l.Switches {
			names = append(names, sw.Name)
		}
		switch {
		case want == "" && len(names) == 1:
			want = names[0]
		case !slices.Contains(names, want):
			msg := fmt.Sprintf("network adapter %d: the host has no virtual switch %q", i, want)
			if want == "" {
				msg = fmt.Sprintf("network adapter %d: no virtual switch is named and there are %d", i, len(names))
			}
			return target.Permanent(msg, "there are: "+cmp.Or(strings.Join(names, ", "), "none that this user sees"))
		}
		if nic.Connected == nil || *nic.Connected {
			a.Switch = want
		}
		q.NICs = append(q.NICs, a)
	}
	return nil
}

// vlans reads one number for all adapters or one for each.
func vlans(s string, n int) ([]int, error) {
	out := make([]int, n)
	if s == "" {
		return out, nil
	}
	parts := strings.Split(s, ",")
	if len(parts) != 1 && len(parts) != n {
		return nil, target.Permanent(fmt.Sprintf("option %s: there are %d numbers for %d adapters", optVLAN, len(parts), n), "give one for all, or one for each; 0 is untagged")
	}
	for i := range out {
		p := strings.TrimSpace(parts[min(i, len(parts)-1)])
		id, err := strconv.Atoi(p)
		if err != nil || id < 0 || id > maxVLAN {
			return nil, target.Permanent(fmt.Sprintf("option %s: %q is no VLAN from 1 to %d", optVLAN, p, maxVLAN), "")
		}
		out[i] = id
	}
	return out, nil
}
