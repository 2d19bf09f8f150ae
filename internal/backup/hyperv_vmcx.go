package backup

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf16"
)

// A .vmcx holds the same tree as the older XML, in the key-value store of Hyper-V's
// VmDataStore.dll. Microsoft publishes no specification; the layout is that which
// dissect.hypervisor documents (descriptor/c_hyperv.py), which also judges the tests.
// All numbers are little-endian and packed.
const (
	vmcxSignature   = 0x01282014 // of the two headers, at 0 and 0x1000
	vmcxSecond      = 0x1000
	vmcxVersion     = 0x400
	vmcxLog         = 0x01110003 // of the replay log
	vmcxObjects     = 0x01110001 // of an object table; the first is at 0x2000
	vmcxFirstTable  = 0x2000
	vmcxObjectSize  = 18
	vmcxKeys        = 2 // of a key table
	vmcxKeysHeader  = 10
	vmcxEntryHeader = 21
	maxVMCXTables   = 4096
)

// Types of an object, and of a value.
const (
	vmcxObjectTable, vmcxKeyTable = 1, 2

	vmcxFree, vmcxInt, vmcxUint, vmcxDouble, vmcxString, vmcxArray, vmcxBool, vmcxNode = 1, 3, 4, 5, 6, 7, 8, 9
)

// errVMCX: the file is not what is understood here.
var errVMCX = errors.New("it is not a configuration as Windows Server 2016 and later write it")

// vmcxEntry is one key.
type vmcxEntry struct {
	node   *hvNode
	parent [2]uint32 // its table's index, and its place there
	order  uint32    // in which keys were made
}

// parseVMCX reads a binary configuration into the tree that the XML has.
func parseVMCX(b []byte) (*hvNode, error) {
	at := func(off uint64, n int) []byte {
		if off > uint64(len(b)) || uint64(len(b))-off < uint64(n) { //nolint:gosec // never negative
			return nil
		}
		return b[off : off+uint64(n)] //nolint:gosec // never negative
	}
	var header []byte
	for _, off := range []uint64{0, vmcxSecond} {
		h := at(off, 0x2e)
		if h != nil && le32(h) == vmcxSignature && (header == nil || le16(h[8:]) > le16(header[8:])) {
			header = h
		}
	}
	if header == nil {
		return nil, errVMCX
	}
	if v := le32(header[10:]); v != vmcxVersion {
		return nil, fmt.Errorf("its version is %#x, and %#x is the one that is read", v, vmcxVersion)
	}
	log := at(binary.LittleEndian.Uint64(header[26:]), 0x22)
	if log == nil || le32(log) != vmcxLog {
		return nil, errVMCX
	}
	if le32(log[8:]) != 0 {
		return nil, errors.New("changes of it stand in its log alone: it was copied while the machine was being changed")
	}
	keys, err := vmcxTables(at)
	if err != nil {
		return nil, err
	}
	return vmcxTree(keys, at)
}

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

// vmcxTables finds the key tables: of those with one index, the newest.
func vmcxTables(at func(uint64, int) []byte) (map[uint16][]byte, error) {
	keys := map[uint16][]byte{}
	seen := map[uint64]bool{}
	for queue := []uint64{vmcxFirstTable}; len(queue) > 0; queue = queue[1:] {
		off := queue[0]
		h := at(off, 8)
		if h == nil || le32(h) != vmcxObjects || seen[off] || len(seen) > maxVMCXTables {
			return nil, errVMCX
		}
		seen[off] = true
		n := le32(h[4:])
		if n > maxHVNodes {
			return nil, errVMCX
		}
		list := at(off+8, int(n)*vmcxObjectSize)
		if list == nil {
			return nil, errVMCX
		}
		for ; len(list) > 0; list = list[vmcxObjectSize:] {
			where, size := binary.LittleEndian.Uint64(list[5:]), le32(list[13:])
			switch {
			case list[17] == 0: // not in use
			case list[0] == vmcxObjectTable:
				queue = append(queue, where)
			case list[0] == vmcxKeyTable:
				t := at(where, int(size))
				if len(t) < vmcxKeysHeader || le16(t) != vmcxKeys {
					return nil, errVMCX
				}
				if old := keys[le16(t[2:])]; old == nil || le16(t[4:]) > le16(old[4:]) {
					keys[le16(t[2:])] = t
				}
			}
			if len(keys) > maxVMCXTables || len(queue) > maxVMCXTables {
				return nil, errVMCX
			}
		}
	}
	return keys, nil
}

// vmcxTree joins the keys of all tables, in the order in which they were made.
func vmcxTree(keys map[uint16][]byte, at func(uint64, int) []byte) (*hvNode, error) {
	all := map[[2]uint32]*vmcxEntry{}
	for index, t := range keys {
		for off := vmcxKeysHeader; off+vmcxEntryHeader <= len(t); {
			e := t[off:]
			size := le32(e[2:])
			if size == 0 {
				break
			}
			if size < vmcxEntryHeader || int64(size) > int64(len(e)) || len(all) == maxHVNodes {
				return nil, errVMCX
			}
			e = e[:size]
			if e[0] != vmcxFree {
				k, err := vmcxKey(e, at)
				if err != nil {
					return nil, err
				}
				all[[2]uint32{uint32(index), uint32(off)}] = k //nolint:gosec // within a table of a bounded file
			}
			off += int(size)
		}
	}
	list := make([]*vmcxEntry, 0, len(all))
	for _, k := range all {
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b *vmcxEntry) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.node.name, b.node.name))
	})
	root := &hvNode{}
	for _, k := range list {
		to := root
		if k.parent[0] != 0 {
			p := all[k.parent]
			if p == nil {
				return nil, errVMCX
			}
			to = p.node
		}
		to.kids = append(to.kids, k.node)
	}
	for level, depth := root.kids, 0; len(level) > 0; depth++ { // keys in a circle hang from no root
		if depth > maxHVDepth {
			return nil, errVMCX
		}
		var next []*hvNode
		for _, n := range level {
			next = append(next, n.kids...)
		}
		level = next
	}
	return root.at("configuration"), nil
}

// vmcxKey reads one key: its name, and its value as the XML writes it.
func vmcxKey(e []byte, at func(uint64, int) []byte) (*vmcxEntry, error) {
	kind, flags, named := e[0], e[1], int(e[20])
	body := e[vmcxEntryHeader:]
	if named < 1 || named > len(body) {
		return nil, errVMCX
	}
	k := &vmcxEntry{node: &hvNode{name: string(body[:named-1])}, parent: [2]uint32{uint32(le16(e[6:])), le32(e[8:])}, order: le32(e[16:])}
	v := body[named:]
	whole := func(n int) bool { return len(v) >= n }
	text := func(format func() string, n int) error {
		if !whole(n) {
			return errVMCX
		}
		k.node.text = []byte(format())
		return nil
	}
	switch kind {
	case vmcxInt:
		return k, text(func() string { return strconv.FormatInt(int64(binary.LittleEndian.Uint64(v)), 10) }, 8) //nolint:gosec // as it is meant
	case vmcxUint:
		return k, text(func() string { return strconv.FormatUint(binary.LittleEndian.Uint64(v), 10) }, 8)
	case vmcxDouble:
		return k, text(func() string {
			return strconv.FormatFloat(math.Float64frombits(binary.LittleEndian.Uint64(v)), 'g', -1, 64)
		}, 8)
	case vmcxBool:
		return k, text(func() string { return map[bool]string{true: "True", false: "False"}[le32(v) != 0] }, 4)
	case vmcxString:
		if !whole(4) {
			return nil, errVMCX
		}
		n := le32(v)
		s := v[4:]
		if flags&1 != 0 { // it lies elsewhere in the file
			if !whole(12) || int64(n) > maxMachine {
				return nil, errVMCX
			}
			s = at(binary.LittleEndian.Uint64(v[4:]), int(n))
		}
		if int64(n) > int64(len(s)) {
			return nil, errVMCX
		}
		k.node.text = utf16Text(s[:n])
	case vmcxArray, vmcxNode:
	default:
		return nil, fmt.Errorf("a key of it is of the unknown type %d", kind)
	}
	return k, nil
}

// utf16Text is UTF-16 in UTF-8, without what stands behind a zero.
func utf16Text(b []byte) []byte {
	units := make([]uint16, 0, len(b)/2)
	for ; len(b) > 1 && le16(b) != 0; b = b[2:] {
		units = append(units, le16(b))
	}
	return []byte(string(utf16.Decode(units)))
}
