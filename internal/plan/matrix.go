package plan

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"ascend/internal/disk"
	"ascend/internal/prices"
	"ascend/internal/target"
	"ascend/internal/target/caps"
	"ascend/internal/vm"
)

// Verdict is whether a restore works.
type Verdict string

// Verdicts.
const (
	Yes        Verdict = "yes"
	Conditions Verdict = "with conditions"
	No         Verdict = "no"
)

// Matrix says which sources can be restored to which targets. It is made by
// planning machines of each source for each target, with the same rules as
// every plan.
type Matrix struct {
	Backup  string        `json:"backup,omitempty"` // "" in general
	Sources []vm.Platform `json:"sources"`
	Targets []vm.Platform `json:"targets"`
	Cells   []Cell        `json:"cells"`
}

// Cell is one source and one target.
type Cell struct {
	Source  vm.Platform `json:"source"`
	Target  vm.Platform `json:"target"`
	Verdict Verdict     `json:"verdict"`
	// Plain counts the kinds of machines that were tried and need nothing, of Of.
	Plain   int      `json:"plain,omitempty"`
	Of      int      `json:"of,omitempty"`
	Reasons []Reason `json:"reasons,omitempty"`
}

func (c Cell) String() string {
	if c.Verdict == Conditions && c.Of > 0 {
		return fmt.Sprintf("%s: %d of %d as they are", c.Verdict, c.Plain, c.Of)
	}
	return string(c.Verdict)
}

// Reason is why something is not an unconditional yes.
type Reason struct {
	When    string  `json:"when,omitempty"` // the machines it holds for
	Verdict Verdict `json:"verdict"`
	Code    string  `json:"code"`
	Text    string  `json:"text"`
	Advice  string  `json:"advice,omitempty"`
}

// Cell finds a cell.
func (m *Matrix) Cell(source, to vm.Platform) Cell {
	for _, c := range m.Cells {
		if c.Source == source && c.Target == to {
			return c
		}
	}
	return Cell{}
}

// probe is a kind of machine that the general matrix is made with.
type probe struct {
	when string
	make func(m *vm.Machine)
	// needs tells whether a source has such machines.
	needs func(c target.Capabilities) bool
}

func uefi(m *vm.Machine) { m.Firmware = vm.UEFI }

func always(target.Capabilities) bool { return true }

func windows(m *vm.Machine, version string) {
	m.Guest = vm.GuestOS{Family: vm.Windows, Distribution: "windows-server", Version: version, Arch: vm.AMD64}
}

var probes = []probe{
	{"Linux, BIOS", func(*vm.Machine) {}, always},
	{"Linux, UEFI", uefi, always},
	{"Linux, UEFI with Secure Boot", func(m *vm.Machine) { uefi(m); m.SecureBoot = true }, func(c target.Capabilities) bool { return c.SecureBoot }},
	{"Windows Server 2019, BIOS", func(m *vm.Machine) { windows(m, "2019") }, always},
	{"Windows Server 2022, UEFI with Secure Boot and a virtual TPM", func(m *vm.Machine) { uefi(m); windows(m, "2022"); m.SecureBoot, m.TPM = true, true },
		func(c target.Capabilities) bool { return c.SecureBoot && c.TPM }},
	{"Windows Server 2003, BIOS", func(m *vm.Machine) { windows(m, "2003") }, func(c target.Capabilities) bool { return c.Traits.OldestWindows <= 5.2 }},
	{"32-bit Linux, BIOS", func(m *vm.Machine) { m.Guest.Arch = vm.I386 }, func(c target.Capabilities) bool { return slices.Contains(c.Arch, vm.I386) }},
	{"32-bit Linux, UEFI", func(m *vm.Machine) { uefi(m); m.Guest.Arch = vm.I386 }, func(c target.Capabilities) bool {
		l := c.Traits.For(vm.UEFI).Arch
		return slices.Contains(c.Arch, vm.I386) && (len(l) == 0 || slices.Contains(l, vm.I386))
	}},
	{"ARM64 Linux, UEFI", func(m *vm.Machine) { uefi(m); m.Guest.Arch = vm.ARM64 }, func(c target.Capabilities) bool { return slices.Contains(c.Arch, vm.ARM64) }},
	{"a boot disk of 3 TiB, UEFI", func(m *vm.Machine) { uefi(m); m.Disks[0].Size = 3 * vm.TiB }, func(c target.Capabilities) bool {
		l := c.Traits.For(vm.UEFI).MaxBootDisk
		return l == 0 || l >= 3*vm.TiB
	}},
	{"a disk of 40 TiB", func(m *vm.Machine) { m.Disks = append(m.Disks, vm.Disk{Index: 1, Size: 40 * vm.TiB}) }, func(c target.Capabilities) bool { return c.MaxDiskSize >= 40*vm.TiB }},
	{"40 disks", func(m *vm.Machine) {
		for i := 1; i < 40; i++ {
			m.Disks = append(m.Disks, vm.Disk{Index: i, Size: 10 * vm.GiB})
		}
	}, func(c target.Capabilities) bool { return c.MaxDisks >= 40 }},
	{"10 network adapters", func(m *vm.Machine) { m.NICs = slices.Repeat(m.NICs, 10) }, func(c target.Capabilities) bool { return c.MaxNICs >= 10 }},
}

// General is the matrix of all platforms.
func General() (*Matrix, error) {
	m := &Matrix{Sources: caps.Targets(), Targets: caps.Targets()}
	for _, from := range m.Sources {
		c := caps.For(from)
		for _, to := range m.Targets {
			cell := Cell{Source: from, Target: to}
			var seen [3]int
			for _, p := range probes {
				if !p.needs(c) {
					continue
				}
				machine := &vm.Machine{
					Name: "machine", Platform: from, CPU: vm.CPU{Sockets: 1, CoresPerSocket: 2}, Memory: 4 * vm.GiB, Firmware: vm.BIOS,
					Guest: vm.GuestOS{Family: vm.Linux, Distribution: "debian", Version: "12", Arch: vm.AMD64},
					Disks: []vm.Disk{{Size: 40 * vm.GiB}}, NICs: []vm.NIC{{Model: c.NICModels[0], Network: "network"}},
				}
				p.make(machine)
				list := c.Controllers
				if l := c.Traits.For(machine.Firmware).Controllers; len(l) > 0 {
					list = l
				}
				for i := range machine.Disks {
					machine.Disks[i].Controller, machine.Disks[i].Unit = list[0], i
				}
				var sources []Source
				for _, d := range machine.Disks {
					m := disk.NewMap(d.Size, disk.LeafSize)
					m.Add(0, vm.GiB)
					sources = append(sources, Source{Image: zeros(d.Size), Info: disk.Info{Format: "raw", Size: d.Size, Allocated: vm.GiB}, Map: m.Seal()})
				}
				v, reasons, err := judge(to, machine, sources)
				if err != nil {
					return nil, err
				}
				seen[map[Verdict]int{Yes: 0, Conditions: 1, No: 2}[v]]++
				cell.add(p.when, reasons)
			}
			cell.Plain, cell.Of = seen[0], seen[0]+seen[1]+seen[2]
			switch {
			case seen[1] == 0 && seen[2] == 0:
				cell.Verdict = Yes
			case seen[0] == 0 && seen[1] == 0:
				cell.Verdict = No
			default:
				cell.Verdict = Conditions
			}
			m.Cells = append(m.Cells, cell)
		}
	}
	return m, nil
}

// add takes over reasons; one of the same kind is told once, with all machines
// it holds for.
func (c *Cell) add(when string, reasons []Reason) {
	for _, r := range reasons {
		r.When = when
		i := slices.IndexFunc(c.Reasons, func(o Reason) bool { return o.Code == r.Code && o.Text == r.Text })
		if i < 0 {
			c.Reasons = append(c.Reasons, r)
			continue
		}
		if o := &c.Reasons[i]; !strings.Contains("; "+o.When+";", "; "+when+";") {
			o.When += "; " + when
		}
	}
}

// Of is the row of one machine, such as a backup's.
func Of(name string, m *vm.Machine, sources []Source) (*Matrix, error) {
	out := &Matrix{Backup: name, Sources: []vm.Platform{m.Platform}, Targets: caps.Targets()}
	for _, to := range out.Targets {
		v, reasons, err := judge(to, m, sources)
		if err != nil {
			return nil, err
		}
		out.Cells = append(out.Cells, Cell{Source: m.Platform, Target: to, Verdict: v, Reasons: reasons})
	}
	return out, nil
}

// judge plans a machine for a platform of which nothing but its capabilities is
// known. Findings about what a real target would have told do not count.
func judge(to vm.Platform, m *vm.Machine, sources []Source) (Verdict, []Reason, error) {
	c := caps.For(to)
	r := Request{
		Target: TargetRef{Name: string(to), Platform: to}, Caps: c, Machine: m, Sources: sources, Prices: prices.Builtin(),
		Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Placement: target.Placement{Fields: map[string]string{}},
	}
	for _, f := range c.Fields {
		if f.Required && (f.Name != c.Traits.SizeField || prices.Builtin().Table(to) == nil) {
			r.Placement.Fields[f.Name] = "any"
		}
	}
	for range m.NICs {
		r.Placement.Networks = append(r.Placement.Networks, "network")
	}
	p, err := Make(r)
	if err != nil {
		return "", nil, err
	}
	v := Yes
	var reasons []Reason
	for _, f := range p.Findings {
		reason := Reason{Verdict: Conditions, Code: f.Code, Text: f.Text, Advice: f.Advice}
		switch f.Severity {
		case Information:
			continue
		case Critical:
			v, reason.Verdict = No, No
		case Warning:
			if v == Yes {
				v = Conditions
			}
		}
		reasons = append(reasons, reason)
	}
	return v, reasons, nil
}

// Markdown is the matrix for docs and pages.
func (m *Matrix) Markdown() string {
	var b strings.Builder
	b.WriteString("| from \\ to |")
	for _, t := range m.Targets {
		fmt.Fprintf(&b, " %s |", Title(t))
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(m.Targets)) + "\n")
	for _, s := range m.Sources {
		fmt.Fprintf(&b, "| **%s** |", Title(s))
		for _, t := range m.Targets {
			fmt.Fprintf(&b, " %s |", m.Cell(s, t))
		}
		b.WriteString("\n")
	}
	for _, s := range m.Sources {
		fmt.Fprintf(&b, "\n### From %s\n", Title(s))
		for _, t := range m.Targets {
			c := m.Cell(s, t)
			if len(c.Reasons) == 0 {
				continue
			}
			fmt.Fprintf(&b, "\nTo %s:\n\n", Title(t))
			for _, r := range c.Reasons {
				fmt.Fprintf(&b, "- ")
				if r.When != "" {
					fmt.Fprintf(&b, "%s: ", r.When)
				}
				fmt.Fprintf(&b, "**%s**, %s (`%s`); %s\n", r.Verdict, r.Text, r.Code, r.Advice)
			}
		}
	}
	return b.String()
}

// CapabilityTable is what the platforms take, as a Markdown table.
func CapabilityTable() string {
	var b strings.Builder
	b.WriteString("| | firmware | architectures | Secure Boot | vTPM | disks | disk size | adapters | processors | memory | keeps MAC | formats |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	yes := func(v bool) string { return map[bool]string{true: "yes", false: "no"}[v] }
	num := func(n int) string {
		if n == 0 {
			return "—"
		}
		return fmt.Sprint(n)
	}
	size := func(n int64) string {
		if n == 0 {
			return "—"
		}
		return vm.FormatSize(n)
	}
	row := func(name, firmware string, arch []vm.Arch, c target.Capabilities, l target.Limits) {
		var formats []string
		for _, d := range c.Deliveries {
			if f := d.Format.String(); !slices.Contains(formats, f) {
				formats = append(formats, f)
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", name, firmware, strings.Join(texts(arch), ", "), yes(c.SecureBoot && firmware != string(vm.BIOS)), yes(c.TPM && firmware != string(vm.BIOS)),
			num(limit(l.MaxDisks, c.MaxDisks)), size(c.MaxDiskSize), num(limit(l.MaxNICs, c.MaxNICs)), num(limit(l.MaxCPUs, c.MaxCPUs)), size(limit(l.MaxMemory, c.MaxMemory)), yes(c.KeepsMAC), strings.Join(formats, ", "))
	}
	for _, p := range caps.Targets() {
		c := caps.For(p)
		if len(c.Traits.Firmware) < 2 {
			arch := c.Arch
			row("**"+Title(p)+"**", strings.Join(texts(c.Firmware), ", "), arch, c, target.Limits{})
			continue
		}
		for _, f := range c.Firmware {
			l := c.Traits.For(f)
			arch := l.Arch
			if len(arch) == 0 {
				arch = c.Arch
			}
			row(fmt.Sprintf("**%s**, %s", Title(p), l.What), string(f), arch, c, l)
		}
	}
	return b.String()
}

// Title is a platform's name for people.
func Title(p vm.Platform) string {
	if t, ok := map[vm.Platform]string{vm.VMware: "VMware", vm.CloudStack: "CloudStack", vm.HyperV: "Hyper-V", vm.AWS: "AWS", vm.Azure: "Azure", vm.Nutanix: "Nutanix", vm.Local: "local files", vm.Unknown: "unknown"}[p]; ok {
		return t
	}
	return string(p)
}

// zeros is a disk without data: what stands for the disks of a machine that is
// only thought of.
type zeros int64

func (z zeros) Size() int64      { return int64(z) }
func (z zeros) Close() error     { return nil }
func (z zeros) Unchanged() error { return nil }
func (z zeros) Info() disk.Info  { return disk.Info{Format: "raw", Size: int64(z)} }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), max(int64(z)-off, 0))
	clear(p[:n])
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (z zeros) Extents(_ context.Context, off, n int64, yield func(disk.Extent) error) error {
	if n = min(n, int64(z)-off); n <= 0 {
		return nil
	}
	return yield(disk.Extent{Off: off, Len: n})
}
