package plan

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf16"

	"ascend/internal/vm"
)

// Evidence is one thing that speaks for a platform, with a weight from 1 (a
// hint) to 100 (the backup says so itself).
type Evidence struct {
	Platform vm.Platform `json:"platform"`
	Weight   int         `json:"weight"`
	What     string      `json:"what"`
}

// Detection is where a machine ran as far as can be told.
type Detection struct {
	Platform vm.Platform `json:"platform"`
	// Confidence is "stated" (by the user), "certain", "likely" or "guessed".
	Confidence string     `json:"confidence"`
	Evidence   []Evidence `json:"evidence,omitempty"`
	// Other is the platform that speaks second loudest, when any does.
	Other vm.Platform `json:"other,omitempty"`
}

// Weights.
const (
	certain = 80
	likely  = 35
)

// Detect weighs the evidence: what the caller found in the backup's files, the
// machine's virtual hardware and the guest's tools. stated overrules it. nil:
// nothing speaks for any platform.
func Detect(evidence []Evidence, m *vm.Machine, g *GuestFacts, stated vm.Platform) *Detection {
	all := append(slices.Clone(evidence), machineEvidence(m)...)
	all = append(all, guestEvidence(g)...)
	slices.SortStableFunc(all, func(a, b Evidence) int {
		return cmp.Or(cmp.Compare(b.Weight, a.Weight), strings.Compare(string(a.Platform), string(b.Platform)), strings.Compare(a.What, b.What))
	})
	score := map[vm.Platform]int{}
	for _, e := range all {
		score[e.Platform] += e.Weight
	}
	var best, second vm.Platform
	for _, p := range vm.Platforms() {
		switch {
		case score[p] > score[best]:
			best, second = p, best
		case score[p] > score[second]:
			second = p
		}
	}
	if stated != vm.Unknown {
		d := &Detection{Platform: stated, Confidence: "stated", Evidence: all}
		if best != stated {
			d.Other = best
		}
		return d
	}
	if best == vm.Unknown {
		return nil
	}
	d := &Detection{Platform: best, Evidence: all, Other: second, Confidence: "guessed"}
	switch lead := score[best] - score[second]; {
	case lead >= certain:
		d.Confidence = "certain"
	case lead >= likely:
		d.Confidence = "likely"
	}
	return d
}

// ouis are the first bytes of the MAC addresses that platforms give.
var ouis = []struct {
	prefix string
	p      vm.Platform
	weight int
}{
	{"00:50:56", vm.VMware, 30}, {"00:0c:29", vm.VMware, 30}, {"00:05:69", vm.VMware, 30},
	{"00:15:5d", vm.HyperV, 30}, {"50:6b:8d", vm.Nutanix, 30},
	{"00:0d:3a", vm.Azure, 30}, {"00:22:48", vm.Azure, 30}, {"60:45:bd", vm.Azure, 30}, {"7c:1e:52", vm.Azure, 30},
	{"1e:00:", vm.CloudStack, 25}, {"02:00:", vm.CloudStack, 5},
}

// machineEvidence is what the machine's description itself speaks for.
func machineEvidence(m *vm.Machine) []Evidence {
	var out []Evidence
	say := func(p vm.Platform, w int, format string, args ...any) {
		e := Evidence{p, w, fmt.Sprintf(format, args...)}
		if !slices.Contains(out, e) {
			out = append(out, e)
		}
	}
	if m.Platform != vm.Unknown && m.Platform != vm.Local {
		say(m.Platform, 100, "the machine's description names it")
	}
	if strings.HasPrefix(strings.ToLower(m.HardwareNote), "vmx-") {
		say(vm.VMware, 60, "hardware version %s", m.HardwareNote)
	}
	if strings.HasPrefix(strings.ToLower(m.HardwareNote), "generation ") {
		say(vm.HyperV, 60, "hardware %q", m.HardwareNote)
	}
	if s := m.Guest.SourceID; strings.HasSuffix(s, "Guest") || strings.HasSuffix(s, "Guest64") {
		say(vm.VMware, 20, "guest identifier %s", s)
	}
	if strings.HasPrefix(strings.ToLower(m.UUID), "ec2") {
		say(vm.AWS, 60, "SMBIOS UUID begins with ec2")
	}
	for _, d := range m.Disks {
		switch d.Controller {
		case vm.BusPVSCSI:
			say(vm.VMware, 40, "a disk on pvscsi")
		case vm.BusVMBusSCSI:
			say(vm.HyperV, 25, "a disk on VMBus")
			say(vm.Azure, 10, "a disk on VMBus")
		case vm.BusLSISAS:
			say(vm.VMware, 15, "a disk on LSI SAS")
		case vm.BusXenBlk:
			say(vm.AWS, 10, "a disk of Xen")
		}
	}
	for _, n := range m.NICs {
		switch n.Model {
		case vm.VMXNET3:
			say(vm.VMware, 40, "an adapter vmxnet3")
		case vm.ENA:
			say(vm.AWS, 60, "an adapter ENA")
		case vm.NetVSC:
			say(vm.HyperV, 20, "an adapter of VMBus")
		}
		for _, o := range ouis {
			if strings.HasPrefix(strings.ToLower(n.MAC), o.prefix) {
				say(o.p, o.weight, "a MAC address of %s", o.prefix)
			}
		}
	}
	return out
}

// agentWeight is what a platform's guest tools speak for: they may be left over
// from an earlier home.
const agentWeight = 50

func guestEvidence(g *GuestFacts) []Evidence {
	if g == nil {
		return nil
	}
	var out []Evidence
	for _, a := range g.Agents {
		if a.Platform != vm.Unknown {
			out = append(out, Evidence{a.Platform, agentWeight, "the guest has " + a.Name})
		}
	}
	return out
}

// Creator reads what an image file says of the program that made it: the
// footer of a VHD, the creator of a VHDX, the descriptor of a VMDK. size is the
// file's in bytes. It reads at most 64 KiB; nil: the file says nothing.
func Creator(f io.ReaderAt, size int64) []Evidence {
	head := make([]byte, min(size, 64<<10))
	if n, err := f.ReadAt(head, 0); n < len(head) && err != nil {
		return nil
	}
	foot := head
	if size > 512 {
		foot = make([]byte, 512)
		if n, err := f.ReadAt(foot, size-512); n < len(foot) && err != nil {
			return nil
		}
	}
	switch {
	case len(foot) >= 512 && string(foot[:8]) == "conectix":
		// Virtual Hard Disk Image Format Specification 1.0, "Hard Disk Footer".
		creator := strings.TrimRight(string(foot[28:32]), " \x00")
		cylinders := binary.BigEndian.Uint16(foot[56:58])
		switch creator {
		case "win":
			return []Evidence{{vm.HyperV, 35, fmt.Sprintf("a VHD made by Hyper-V (%d cylinders)", cylinders)}}
		case "wa":
			return []Evidence{{vm.Azure, 45, "a VHD made by Azure"}}
		case "tap":
			return []Evidence{{vm.CloudStack, 15, "a VHD made by XenServer"}}
		}
	case len(head) >= 520 && string(head[:8]) == "vhdxfile":
		// MS-VHDX 2.2.1: the creator, UTF-16LE, for diagnostics.
		u := make([]uint16, 256)
		for i := range u {
			u[i] = binary.LittleEndian.Uint16(head[8+2*i:])
		}
		s, _, _ := strings.Cut(string(utf16.Decode(u)), "\x00")
		if strings.Contains(s, "Microsoft") {
			return []Evidence{{vm.HyperV, 35, "a VHDX made by " + printable(s)}}
		}
	case len(head) >= 4 && (string(head[:4]) == "KDMV" || strings.HasPrefix(string(head[:min(len(head), 64)]), "# Disk DescriptorFile")):
		text := string(head)
		if strings.Contains(text, "ddb.toolsVersion") || strings.Contains(text, "ddb.toolsInstallType") {
			return []Evidence{{vm.VMware, 40, "a VMDK that knows the version of VMware Tools"}}
		}
		if strings.Contains(text, "ddb.virtualHWVersion") {
			return []Evidence{{vm.VMware, 15, "a VMDK with a virtual hardware version"}}
		}
	}
	return nil
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd {
			return -1
		}
		return r
	}, s)
}
