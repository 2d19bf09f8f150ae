package ovf

import (
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ascend/internal/vm"
)

// Parse reads a descriptor of OVF 1.x or 2.x, or of OVF 0.9 as older products
// wrote it. It reads at most MaxDescriptor bytes. The error is ErrFormat for
// what is no descriptor and ErrLimit beyond a bound. What the descriptor leaves
// out stays zero in the Machine; what it says and cannot be taken over is a note
// of its System.
func Parse(r io.Reader) (*Package, error) {
	var e inEnvelope
	if err := decode(r, &e); err != nil {
		return nil, fmt.Errorf("cannot read OVF descriptor: %w", err)
	}
	if e.XMLName.Local != "Envelope" {
		return nil, fmt.Errorf("cannot read OVF descriptor: the root element is %.40q: %w", e.XMLName.Local, ErrFormat)
	}
	systems := e.System
	collect(e.Nested, &systems)
	if len(systems) == 0 {
		return nil, fmt.Errorf("cannot read OVF descriptor: it holds no virtual machine: %w", ErrFormat)
	}
	items := 0
	for _, s := range systems {
		for _, h := range s.Hardware {
			items += len(h.Items) + len(h.Storage) + len(h.Ports)
		}
	}
	if max(len(e.Files), len(e.Disks), len(systems), items) > maxItems {
		return nil, fmt.Errorf("cannot read OVF descriptor: more than %d files, disks or devices: %w", maxItems, ErrLimit)
	}
	p := &Package{}
	for _, f := range e.Files {
		ref := FileRef{ID: f.ID, Href: f.Href, Size: -1, Compression: strings.ToLower(f.Compression)}
		if n, err := strconv.ParseInt(strings.TrimSpace(f.Size), 10, 64); err == nil && n >= 0 {
			ref.Size = n
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(f.ChunkSize), 10, 64); err == nil && n > 0 {
			ref.ChunkSize = n
		}
		p.Files = append(p.Files, ref)
	}
	deployment := defaultDeployment(e.Configs)
	for i := range systems {
		b := builder{env: &e, pkg: p, sys: &systems[i], deployment: deployment}
		p.Systems = append(p.Systems, b.build())
	}
	return p, nil
}

func collect(nested []inCollection, out *[]inSystem) {
	for _, c := range nested {
		*out = append(*out, c.System...)
		collect(c.Nested, out)
	}
}

// defaultDeployment is the configuration that applies when none is chosen: the
// one marked so, else the first (DSP0243 9.8).
func defaultDeployment(all []inDeployment) string {
	for _, c := range all {
		if v := strings.TrimSpace(c.Default); v == "true" || v == "1" {
			return c.ID
		}
	}
	if len(all) > 0 {
		return all[0].ID
	}
	return ""
}

// Names are the file names that Href can mean, the likeliest first: as written,
// because products write names with spaces and percent signs as they are, then
// with escapes undone, as DSP0243 7.1 has it.
func (f FileRef) Names() []string {
	out := []string{f.Href}
	if u, err := url.PathUnescape(f.Href); err == nil && u != f.Href {
		out = append(out, u)
	}
	return out
}

// builder makes one System.
type builder struct {
	env        *inEnvelope
	pkg        *Package
	sys        *inSystem
	deployment string
	out        System
	m          *vm.Machine
}

func (b *builder) note(format string, args ...any) {
	if len(b.out.Notes) < 64 {
		b.out.Notes = append(b.out.Notes, fmt.Sprintf(format, args...))
	}
}

func (b *builder) build() System {
	s := b.sys
	b.m = &vm.Machine{Name: strings.TrimSpace(s.Name), Annotation: strings.TrimSpace(s.Annotation)}
	b.out = System{ID: s.ID, Machine: b.m}
	if b.m.Name == "" {
		b.m.Name = s.ID
	}
	for _, p := range s.Products {
		v := p.Version
		if v == "" {
			v = p.FullVersion
		}
		if b.out.Product.Name == "" {
			b.out.Product = Product{strings.TrimSpace(p.Product), strings.TrimSpace(p.Vendor), strings.TrimSpace(v)}
		}
	}
	b.guest()
	if len(s.Hardware) == 0 {
		b.note("the descriptor has no hardware section")
		return b.out
	}
	if len(s.Hardware) > 1 {
		b.note("the descriptor has %d hardware sections, the first one is used", len(s.Hardware))
	}
	h := &s.Hardware[0]
	b.platform(h)
	items := b.applicable(slices.Concat(h.Items, h.Storage, h.Ports))
	b.processors(items)
	b.disks(items)
	b.adapters(items)
	b.options(h)
	b.virtualBox()
	if b.m.TPM {
		b.note("the content of the virtual TPM is not in the package")
	}
	return b.out
}

// platform tells the product by the hardware family.
func (b *builder) platform(h *inHardware) {
	family := strings.TrimSpace(h.Family)
	b.m.HardwareNote = family
	switch low := strings.ToLower(family); {
	case strings.HasPrefix(low, "vmx-") && b.sys.VBox == nil:
		b.m.Platform = vm.VMware
	case strings.HasPrefix(low, "ahv"), strings.Contains(low, "nutanix"):
		b.m.Platform = vm.Nutanix
	}
}

// applicable are the items of the default deployment configuration: those
// without a configuration, each replaced by one of the same instance that names
// the configuration. Items that only bound a range are left out (DSP0243 8.4).
func (b *builder) applicable(all []inItem) []inItem {
	var out []inItem
	at := map[string]int{}
	for _, it := range all {
		if it.Instance == "" {
			it.Instance = it.Instance09
		}
		it.Instance = strings.TrimSpace(it.Instance)
		it.Parent = strings.TrimSpace(it.Parent)
		it.Type = strings.TrimSpace(it.Type)
		it.Subtype = strings.TrimSpace(it.Subtype)
		if it.Bound != "" && it.Bound != "normal" {
			continue
		}
		names := strings.Fields(it.Configuration)
		if len(names) > 0 && !slices.Contains(names, b.deployment) {
			continue
		}
		if i, ok := at[it.Instance]; ok && it.Instance != "" && len(names) > 0 {
			out[i] = it
			continue
		}
		if it.Instance != "" {
			at[it.Instance] = len(out)
		}
		out = append(out, it)
	}
	return out
}

func (it *inItem) is(resource int) bool { return it.Type == strconv.Itoa(resource) }

func (b *builder) processors(items []inItem) {
	for i := range items {
		it := &items[i]
		switch {
		case it.is(typeProcessor) && b.m.CPU.Sockets == 0:
			total, ok := small(it.Quantity)
			if !ok || total == 0 {
				b.note("the number of processors %.20q is not understood", it.Quantity)
				continue
			}
			b.m.CPU = vm.CPU{Sockets: total, CoresPerSocket: 1}
			if cores, ok := small(it.Cores); ok && cores > 1 {
				if total%cores != 0 {
					b.note("%d processors are not divisible by %d cores per socket, which is left out", total, cores)
					continue
				}
				b.m.CPU = vm.CPU{Sockets: total / cores, CoresPerSocket: cores}
			}
		case it.is(typeMemory) && b.m.Memory == 0:
			units := it.Units
			if it.QuantityUnits != "" {
				units = it.QuantityUnits
			}
			n, ok := quantity(it.Quantity, units)
			if !ok || n == 0 {
				b.note("the memory size %.20q in units of %.40q is not understood", it.Quantity, units)
				continue
			}
			if units == "" && n < vm.MiB {
				b.note("the memory size has no unit, %d is taken as MiB", n)
				n *= vm.MiB
			}
			b.m.Memory = n
		case it.is(typeVTPM) && strings.EqualFold(it.Subtype, subVTPM):
			b.m.TPM = true
		case strings.HasPrefix(strings.ToLower(it.Subtype), "vmware.pci.passthrough"):
			b.note("a passed-through PCI device is not carried over")
		case strings.HasPrefix(strings.ToLower(it.Subtype), "vmware.nvdimm.device"):
			b.note("a persistent memory device (NVDIMM) is not carried over")
		}
	}
}

// options reads VMware's settings.
func (b *builder) options(h *inHardware) {
	for _, c := range slices.Concat(h.Config, h.Extra) {
		value := strings.TrimSpace(c.Value)
		switch c.Key {
		case "firmware":
			switch strings.ToLower(value) {
			case "efi":
				b.m.Firmware = vm.UEFI
			case "bios":
				b.m.Firmware = vm.BIOS
			default:
				b.note("the firmware %.20q is not known", value)
			}
		case "bootOptions.efiSecureBootEnabled", "uefi.secureBoot.enabled":
			b.m.SecureBoot = strings.EqualFold(value, "true")
		case "uuid.bios", "uuid":
			if u := normalUUID(value); u != "" && b.m.UUID == "" {
				b.m.UUID = u
			}
		case "nvram":
			b.note("the firmware's variables (NVRAM) are not carried over")
		}
	}
	if b.m.SecureBoot && b.m.Firmware == "" {
		b.m.Firmware = vm.UEFI
	}
}

// virtualBox reads VirtualBox's own element. A machine there without a Firmware
// element has a BIOS.
func (b *builder) virtualBox() {
	v := b.sys.VBox
	if v == nil {
		return
	}
	if u := normalUUID(v.UUID); u != "" {
		b.m.UUID = u
	}
	if v.Hardware == nil {
		return
	}
	b.m.Firmware = vm.BIOS
	if f := v.Hardware.Firmware; f != nil && strings.HasPrefix(strings.ToUpper(f.Type), "EFI") {
		b.m.Firmware = vm.UEFI
	}
	if t := v.Hardware.TPM; t != nil && t.Type != "" && !strings.EqualFold(t.Type, "none") {
		b.m.TPM = true
	}
}

var reUUID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// normalUUID reads a UUID in braces, with dashes or with VMware's spaces;
// "" for anything else and for the nil UUID.
func normalUUID(s string) string {
	s = strings.NewReplacer("{", "", "}", "", "-", "", " ", "").Replace(strings.ToLower(s))
	if !reUUID.MatchString(s) || strings.Trim(s, "0") == "" {
		return ""
	}
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

func (b *builder) guest() {
	o := b.sys.OS
	if o == nil {
		return
	}
	var g vm.GuestOS
	id, ok := small(o.ID)
	if ok {
		g = fromCIM(id)
	}
	vmw, vbox := strings.TrimSpace(o.OSType), strings.TrimSpace(o.VBox)
	switch {
	case vmw != "":
		if n := fromVMware(vmw); n.Family != "" {
			g = n
		}
		g.SourceID = vmw
	case vbox != "":
		if n := fromVirtualBox(vbox); n.Family != "" {
			g = n
		}
		g.SourceID = vbox
	case ok && id > 1:
		g.SourceID = strconv.Itoa(id)
	}
	b.m.Guest = g
}
