package backup

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"ascend/internal/vm"
)

// Devices of a configuration, by the class that the manifest gives an instance.
// An emulated device has its class for its instance.
const (
	hvIDE   = "83f8638b-8dca-4152-9eda-2ca8b33039b4" // Microsoft Emulated IDE Controller
	hvSCSI  = "d422512d-2bf2-4752-809d-7b82b5fcb1b4" // Synthetic SCSI Controller
	hvSynth = "2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778" // Synthetic Ethernet Port
)

// Bounds of a configuration.
const (
	maxHVDepth = 24
	maxHVNodes = 100_000
)

// hvConfig is what is used of a configuration.
type hvConfig struct {
	machine *vm.Machine // without disks
	drives  []hvDrive
	notes   []string
}

// hvDrive is a drive with a disk in it.
type hvDrive struct {
	path             string // on the host
	bus              vm.Bus
	controller, unit int
	boot             bool
}

// hvNode is one element.
type hvNode struct {
	name string
	text []byte
	kids []*hvNode
}

// hvConfig reads a configuration; nil without an error for XML of another kind.
func (l *lister) hvConfig(name string) (*hvConfig, error) {
	b, _, err := l.text(name, maxMachine)
	if err != nil {
		return nil, err
	}
	return parseHVConfig(b)
}

func parseHVConfig(b []byte) (*hvConfig, error) {
	root, err := parseHVNodes(hvUTF8(b))
	if err != nil {
		return nil, err
	}
	return hvConfigOf(root)
}

// hvConfigOf reads the tree of a configuration; nil without an error for one of
// another kind.
func hvConfigOf(root *hvNode) (*hvConfig, error) {
	if root.name != "configuration" || root.at("properties") == nil {
		return nil, nil //nolint:nilnil // documented: no error, and no configuration
	}
	m := &vm.Machine{Name: clean(root.value("properties", "name")), Platform: vm.HyperV, Annotation: clean(root.value("properties", "notes"))}
	c := &hvConfig{machine: m}
	m.Firmware = vm.BIOS
	if root.value("properties", "subtype") == "1" { // generation 2
		m.Firmware = vm.UEFI
		m.SecureBoot = strings.EqualFold(root.find("secure_boot_enabled").value(), "true")
	}
	if v, err := strconv.ParseUint(root.value("properties", "version"), 10, 16); err == nil {
		m.HardwareNote = fmt.Sprintf("Hyper-V configuration version %d.%d", v>>8, v&0xff)
	}
	if id := strings.ToLower(strings.Trim(root.find("bios_guid").value(), "{}")); len(id) == 36 {
		m.UUID = clean(id)
	}
	if n := c.number(root, "settings", "processors", "count"); n > 0 {
		m.CPU = vm.CPU{Sockets: int(n), CoresPerSocket: 1}
	}
	m.Memory = c.number(root, "settings", "memory", "bank", "size") * vm.MiB
	if strings.EqualFold(root.value("settings", "memory", "bank", "dynamic_memory_enabled"), "true") {
		c.notes = append(c.notes, fmt.Sprintf("the machine's memory was dynamic, up to %d MiB; its start-up memory is taken", c.number(root, "settings", "memory", "bank", "limit")))
	}
	class := map[string]string{}
	for _, v := range root.at("manifest").children() {
		class[strings.ToLower(v.value("instance"))] = strings.ToLower(v.value("device"))
	}
	c.devices(root, class)
	slices.SortStableFunc(c.drives, hvCompare)
	if len(c.drives) > 0 && c.drives[0].bus == vm.BusIDE {
		c.drives[0].boot = true // generation 1 starts from IDE only
	}
	return c, nil
}

// number is a whole number, bounded far above what any machine has; what is none
// is noted and read as 0.
func (c *hvConfig) number(root *hvNode, path ...string) int64 {
	s := root.value(path...)
	n, err := strconv.ParseInt(s, 10, 32)
	if s != "" && (err != nil || n < 0) {
		c.notes = append(c.notes, fmt.Sprintf("the configuration's %s is %.40q, which is left out", path[len(path)-1], s))
		return 0
	}
	return n
}

// devices collects drives and adapters from the instances' elements, which are
// named _<instance>_.
func (c *hvConfig) devices(n *hvNode, class map[string]string) {
	scsi := 0
	var visit func(n *hvNode)
	visit = func(n *hvNode) {
		kind := strings.ToLower(strings.Trim(n.name, "_"))
		if k, ok := class[kind]; ok {
			kind = k
		}
		if n.at("MacAddress") != nil && len(c.machine.NICs) <= maxDisks {
			c.machine.NICs = append(c.machine.NICs, hvAdapter(n, kind))
			return
		}
		isController := false
		for _, k := range n.kids {
			number, ok := hvNumber(k.name, "controller")
			if !ok {
				continue
			}
			isController = true
			switch kind {
			case hvIDE:
				c.drivesOf(k, vm.BusIDE, number)
			case hvSCSI:
				c.drivesOf(k, vm.BusVMBusSCSI, scsi+number)
			default:
				c.drivesOf(k, vm.BusUnspecified, number)
			}
		}
		if isController {
			if kind == hvSCSI {
				scsi++
			}
			return
		}
		for _, k := range n.kids {
			visit(k)
		}
	}
	visit(n)
}

func (c *hvConfig) drivesOf(controller *hvNode, bus vm.Bus, number int) {
	for _, k := range controller.kids {
		unit, ok := hvNumber(k.name, "drive")
		p := k.value("pathname")
		if !ok || p == "" || strings.EqualFold(k.value("type"), "ISO") {
			continue
		}
		if !isImageName(hvBase(p)) {
			c.notes = append(c.notes, fmt.Sprintf("drive %d:%d of the machine is no virtual hard disk (%.80q) and is not in the export", number, unit, clean(p)))
			continue
		}
		c.drives = append(c.drives, hvDrive{path: p, bus: bus, controller: number, unit: unit})
	}
}

// hvNumber reads names such as drive3.
func hvNumber(name, prefix string) (int, bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	n, err := strconv.ParseUint(rest, 10, 8)
	return int(n), ok && err == nil
}

// hvAdapter is a network adapter; Hyper-V's addresses stand as 00-15-5D-01-02-03.
func hvAdapter(n *hvNode, kind string) vm.NIC {
	out := vm.NIC{Name: clean(n.value("FriendlyName")), Network: clean(n.find("AltSwitchName").value())}
	if kind == hvSynth {
		out.Model = vm.NetVSC
	}
	text := n.value("MacAddress")
	if len(text) == 12 {
		text = text[:4] + "." + text[4:8] + "." + text[8:]
	}
	if mac, err := net.ParseMAC(text); err == nil && len(mac) == 6 && !bytes.Equal(mac, make([]byte, 6)) {
		out.MAC = mac.String() // zeros stand for an address that was never given
	}
	if s := n.find("IsConnected").value(); strings.EqualFold(s, "false") {
		off := false
		out.Connected = &off
	}
	return out
}

// children of a node, none of nil.
func (n *hvNode) children() []*hvNode {
	if n == nil {
		return nil
	}
	return n.kids
}

// at follows names down; nil when there is no such element.
func (n *hvNode) at(path ...string) *hvNode {
	for _, p := range path {
		i := slices.IndexFunc(n.children(), func(k *hvNode) bool { return k.name == p })
		if i < 0 {
			return nil
		}
		n = n.kids[i]
	}
	return n
}

// value is the text at a path; "" when there is no such element.
func (n *hvNode) value(path ...string) string {
	if n = n.at(path...); n == nil {
		return ""
	}
	return strings.TrimSpace(string(n.text))
}

// find is the first element of a name, at any depth.
func (n *hvNode) find(name string) *hvNode {
	for _, k := range n.children() {
		if k.name == name {
			return k
		}
		if hit := k.find(name); hit != nil {
			return hit
		}
	}
	return nil
}

// hvUTF8 turns UTF-16 with a byte order mark, which Hyper-V writes, into UTF-8.
func hvUTF8(b []byte) []byte {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(b, []byte{0xff, 0xfe}):
		order = binary.LittleEndian
	case bytes.HasPrefix(b, []byte{0xfe, 0xff}):
		order = binary.BigEndian
	default:
		return bytes.TrimPrefix(b, []byte{0xef, 0xbb, 0xbf})
	}
	units := make([]uint16, 0, len(b)/2)
	for b = b[2:]; len(b) >= 2; b = b[2:] {
		units = append(units, order.Uint16(b))
	}
	return []byte(string(utf16.Decode(units)))
}

// parseHVNodes reads elements into a tree, within bounds.
func parseHVNodes(b []byte) (*hvNode, error) {
	d := xml.NewDecoder(bytes.NewReader(b))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil } // it is UTF-8 by now
	top := &hvNode{}
	open := []*hvNode{top}
	for count := 0; ; {
		t, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		n := open[len(open)-1]
		switch t := t.(type) {
		case xml.StartElement:
			if count++; count > maxHVNodes || len(open) > maxHVDepth {
				return nil, fmt.Errorf("more than %d elements, or more than %d within each other", maxHVNodes, maxHVDepth)
			}
			k := &hvNode{name: t.Name.Local}
			n.kids = append(n.kids, k)
			open = append(open, k)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(n.kids) == 0 {
				n.text = append(n.text, t...)
			}
		}
	}
	if len(top.kids) != 1 {
		return nil, errors.New("it is no XML document")
	}
	return top.kids[0], nil
}
