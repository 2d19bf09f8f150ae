package backup

import (
	"encoding/binary"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"ascend/internal/vm"
)

// vmcxOf writes a configuration's tree as a .vmcx: in two key tables, the second a
// newer one of its index with an old one beside it, long texts in objects of their
// own, the keys not in the order in which they were made.
func vmcxOf(t testing.TB, root *hvNode) []byte {
	t.Helper()
	const align = 0x1000
	tables := [][]byte{make([]byte, vmcxKeysHeader), make([]byte, vmcxKeysHeader)}
	for i, b := range tables {
		binary.LittleEndian.PutUint16(b, vmcxKeys)
		binary.LittleEndian.PutUint16(b[2:], uint16(i+1)) //nolint:gosec // two
		binary.LittleEndian.PutUint16(b[4:], 7)
	}
	var objects [][]byte
	order := uint32(0)
	var add func(n *hvNode, parent [2]uint32, in int)
	add = func(n *hvNode, parent [2]uint32, in int) {
		s := strings.TrimSpace(string(n.text))
		kind, v := byte(vmcxString), []byte(nil)
		flags := byte(0)
		number, err := strconv.ParseInt(s, 10, 64)
		switch {
		case len(n.kids) > 0:
			kind, v = vmcxNode, make([]byte, 12)
		case err == nil:
			kind, v = vmcxInt, binary.LittleEndian.AppendUint64(nil, uint64(number)) //nolint:gosec // as it is meant
		case s == "True" || s == "False":
			kind, v = vmcxBool, []byte{map[string]byte{"True": 1, "False": 0}[s], 0, 0, 0}
		default:
			var text []byte
			for _, u := range utf16.Encode([]rune(s)) {
				text = binary.LittleEndian.AppendUint16(text, u)
			}
			text = append(text, 0, 0)
			v = binary.LittleEndian.AppendUint32(nil, uint32(len(text))) //nolint:gosec // short
			if len(objects) == 0 && len(text) > 40 {
				flags = 1
				objects = append(objects, text)
				v = append(v, make([]byte, 8)...) // where: below
			} else {
				v = append(v, text...)
			}
		}
		order++
		at := uint32(len(tables[in])) //nolint:gosec // short
		e := []byte{kind, flags}
		e = binary.LittleEndian.AppendUint32(e, uint32(vmcxEntryHeader+len(n.name)+1+len(v))) //nolint:gosec // short
		e = binary.LittleEndian.AppendUint16(e, uint16(parent[0]))                            //nolint:gosec // two tables
		e = binary.LittleEndian.AppendUint32(e, parent[1])
		e = binary.LittleEndian.AppendUint32(e, 0)
		e = binary.LittleEndian.AppendUint32(e, order)
		e = append(e, byte(len(n.name)+1))
		e = append(append(append(e, n.name...), 0), v...)
		tables[in] = append(tables[in], e...)
		for _, k := range n.kids {
			add(k, [2]uint32{uint32(in + 1), at}, 1-in) //nolint:gosec // two
		}
	}
	add(&hvNode{name: "configuration", kids: root.kids}, [2]uint32{}, 0)
	// A key that was deleted.
	free := make([]byte, vmcxEntryHeader+9)
	free[0] = vmcxFree
	binary.LittleEndian.PutUint32(free[2:], uint32(len(free)))
	tables[0] = append(tables[0], free...)
	old := append([]byte(nil), tables[1][:vmcxKeysHeader]...)
	binary.LittleEndian.PutUint16(old[4:], 3)

	out := make([]byte, vmcxFirstTable+align)
	type object struct {
		kind byte
		data []byte
	}
	list := []object{{vmcxKeyTable, old}, {vmcxKeyTable, tables[0]}, {vmcxKeyTable, tables[1]}}
	for _, o := range objects {
		list = append(list, object{3, o})
	}
	binary.LittleEndian.PutUint32(out[vmcxFirstTable:], vmcxObjects)
	binary.LittleEndian.PutUint32(out[vmcxFirstTable+4:], uint32(len(list)+1)) //nolint:gosec // few
	for i, o := range list {
		where := uint64(len(out))
		size := (len(o.data) + align - 1) / align * align
		out = append(out, o.data...)
		out = append(out, make([]byte, size-len(o.data))...)
		e := out[vmcxFirstTable+8+i*vmcxObjectSize:]
		e[0], e[17] = o.kind, 1
		binary.LittleEndian.PutUint64(e[5:], where)
		binary.LittleEndian.PutUint32(e[13:], uint32(size)) //nolint:gosec // short
		if o.kind == 3 {                                    // the key that points here
			pointer := binary.LittleEndian.AppendUint32(nil, uint32(len(o.data))) //nolint:gosec // short
			pointer = append(pointer, make([]byte, 8)...)
			at := strings.Index(string(out), string(pointer))
			if at < 0 {
				t.Fatal("nothing points to the object")
			}
			binary.LittleEndian.PutUint64(out[at+4:], where)
		}
	}
	log := uint64(len(out))
	out = append(out, make([]byte, align)...)
	binary.LittleEndian.PutUint32(out[log:], vmcxLog)
	for i, off := range []int{0, vmcxSecond} {
		h := out[off:]
		binary.LittleEndian.PutUint32(h, vmcxSignature)
		binary.LittleEndian.PutUint16(h[8:], uint16(9-i)) //nolint:gosec // two
		binary.LittleEndian.PutUint32(h[10:], vmcxVersion)
		binary.LittleEndian.PutUint32(h[22:], align)
		binary.LittleEndian.PutUint64(h[26:], log)
		binary.LittleEndian.PutUint64(h[34:], align)
		binary.LittleEndian.PutUint32(h[42:], 0x1000)
	}
	return out
}

func hvTree(t testing.TB) *hvNode {
	t.Helper()
	root, err := parseHVNodes(hvUTF8([]byte(hvXML)))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// TestVMCX: the machine of a binary configuration is that of the XML; and another
// reader finds the same in the file.
func TestVMCX(t *testing.T) {
	dir, want := hvFolder(t)
	b := vmcxOf(t, hvTree(t))
	file := filepath.Join(dir, "web01", "virtual machines", "1B2C.vmcx")
	write(t, file, string(b))
	r, all := csList(t, dir)
	if len(all) != 1 || len(all[0].Disks) != 2 {
		t.Fatalf("%+v", all)
	}
	hvCheck(t, r, all[0], want)
	c, err := parseHVConfig([]byte(hvXML))
	if err != nil {
		t.Fatal(err)
	}
	got, m := *all[0].Machine, *c.machine
	if got.Disks[0].Controller != vm.BusIDE || !got.Disks[0].Boot || got.Disks[1].Unit != 3 {
		t.Errorf("%+v", got.Disks)
	}
	got.Disks, got.Snapshots = nil, 0
	if !reflect.DeepEqual(got, m) {
		x, _ := json.MarshalIndent(got, "", " ")
		y, _ := json.MarshalIndent(m, "", " ")
		t.Errorf("%s\nand not %s", x, y)
	}
	out, err := exec.Command("python3", "-c", `
import json, sys
from dissect.hypervisor.descriptor.hyperv import HyperVFile
c = HyperVFile(open(sys.argv[1], "rb")).as_dict()["configuration"]
print(json.dumps([c["properties"]["name"].rstrip("\0"), c["settings"]["processors"]["count"], sorted(c)]))`, file).CombinedOutput()
	if err != nil {
		t.Fatalf("%v (pip: dissect.hypervisor): %s", err, out)
	}
	var foreign []any
	if err := json.Unmarshal(out, &foreign); err != nil || foreign[0] != m.Name || foreign[1] != float64(m.CPU.Sockets) || len(foreign[2].([]any)) != len(hvTree(t).kids) {
		t.Errorf("%s", out)
	}
}

// TestVMCXBroken: a file that was changed while it was copied, of another version, or
// damaged, gives the disks alone and says why.
func TestVMCXBroken(t *testing.T) {
	good := vmcxOf(t, hvTree(t))
	log := binary.LittleEndian.Uint64(good[26:])
	for name, change := range map[string]func(b []byte) []byte{
		"log":     func(b []byte) []byte { b[log+8] = 1; return b },
		"version": func(b []byte) []byte { b[11], b[vmcxSecond+11] = 3, 3; return b },
		"cut":     func(b []byte) []byte { return b[:vmcxFirstTable+30] },
		"objects": func(b []byte) []byte {
			binary.LittleEndian.PutUint32(b[vmcxFirstTable+4:], 1<<31)
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, want := hvFolder(t)
			write(t, filepath.Join(dir, "web01", "virtual machines", "1B2C.vmcx"), string(change(append([]byte(nil), good...))))
			r, all := csList(t, dir)
			if len(all) != 1 || all[0].VM != "web01" || all[0].Machine.Memory != 0 || len(all[0].Notes) != 1 || !strings.Contains(all[0].Notes[0], "cannot be read (") {
				t.Fatalf("%+v", all)
			}
			hvCheck(t, r, all[0], [][]byte{want[1], want[0]})
		})
	}
}

func FuzzVMCX(f *testing.F) {
	f.Add(vmcxOf(f, hvTree(f)))
	f.Add([]byte{0x14, 0x20, 0x28, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxMachine {
			return
		}
		root, err := parseVMCX(b)
		if err != nil || root == nil {
			return
		}
		root.name = "configuration"
		_, _ = hvConfigOf(root)
	})
}
