// Package regf reads and edits Windows registry hives in memory. Layout facts
// are those of the "Windows registry file format specification" (Suhanov).
//
// A hive is hostile input: every cell is checked against the hive's bounds
// before it is used, lists and depths are bounded. A hive whose sequence
// numbers differ is dirty: Open refuses it, OpenLogs replays its logs.
package regf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
)

var le = binary.LittleEndian

// Errors that callers tell apart.
var (
	ErrFormat  = errors.New("not a registry hive")
	ErrCorrupt = errors.New("registry hive is damaged or hostile")
	ErrDirty   = errors.New("registry hive was not written completely; its logs must be replayed")
	ErrMissing = errors.New("no such registry key or value")
)

var errGone = fmt.Errorf("%w: the key was deleted", ErrMissing)

// Bounds.
const (
	base     = 4096
	maxHive  = 512 << 20
	maxValue = 64 << 20
	maxList  = 1 << 20
	none     = 0xffffffff
)

// Hive is an opened hive. It is not safe for concurrent use.
type Hive struct {
	b       []byte // base block and bins
	root    uint32
	minor   uint32
	changed bool
	sound   bool   // it was looked through
	hint    uint32 // where the last free cell was found
}

// Open opens a clean hive. It keeps b and edits it.
func Open(b []byte) (*Hive, error) {
	h, err := check(b)
	if err != nil {
		return nil, err
	}
	if le.Uint32(b[4:]) != le.Uint32(b[8:]) || sum(b) != le.Uint32(b[508:]) {
		return nil, ErrDirty
	}
	return h, h.finish()
}

func check(b []byte) (*Hive, error) {
	if len(b) < base || string(b[:4]) != "regf" {
		return nil, ErrFormat
	}
	if len(b) > maxHive || le.Uint32(b[20:]) != 1 || le.Uint32(b[28:]) != 0 {
		return nil, fmt.Errorf("%w: base block", ErrCorrupt)
	}
	return &Hive{b: b, minor: le.Uint32(b[24:])}, nil
}

// finish checks the chain of bins and the root.
func (h *Hive) finish() error {
	size := int64(le.Uint32(h.b[40:]))
	if size < 4096 || size%4096 != 0 || base+size > int64(len(h.b)) {
		return fmt.Errorf("%w: bins of %d bytes in a file of %d", ErrCorrupt, size, len(h.b))
	}
	for at := int64(0); at < size; {
		p := h.b[base+at:]
		n := int64(le.Uint32(p[8:]))
		if string(p[:4]) != "hbin" || int64(le.Uint32(p[4:])) != at || n < 4096 || n%4096 != 0 || n > size-at {
			return fmt.Errorf("%w: bin at %#x", ErrCorrupt, at)
		}
		at += n
	}
	h.root = le.Uint32(h.b[36:])
	_, err := h.key(h.root)
	return err
}

// sum is the base block's checksum.
func sum(b []byte) uint32 {
	s := uint32(0)
	for i := 0; i < 508; i += 4 {
		s ^= le.Uint32(b[i:])
	}
	switch s {
	case 0:
		return 1
	case 0xffffffff:
		return 0xfffffffe
	}
	return s
}

func (h *Hive) size() uint32 { return le.Uint32(h.b[40:]) }

// Dirty tells whether a hive's base block asks for its logs.
func Dirty(b []byte) bool {
	return len(b) >= 512 && string(b[:4]) == "regf" && (le.Uint32(b[4:]) != le.Uint32(b[8:]) || sum(b) != le.Uint32(b[508:]))
}

// cell is an allocated cell's content.
func (h *Hive) cell(off uint32) ([]byte, error) {
	if off == none || off < 32 || off%8 != 0 || off > h.size()-8 {
		return nil, fmt.Errorf("%w: cell %#x", ErrCorrupt, off)
	}
	n := int64(int32(le.Uint32(h.b[base+off:])))
	if n >= 0 || -n < 8 || -n > int64(h.size()-off) {
		return nil, fmt.Errorf("%w: cell %#x", ErrCorrupt, off)
	}
	return h.b[base+off+4 : int64(base+off)-n], nil
}

// Key is a key of a hive.
type Key struct {
	h   *Hive
	off uint32
}

func (h *Hive) key(off uint32) (Key, error) {
	c, err := h.cell(off)
	if err != nil {
		return Key{}, err
	}
	if len(c) < 76 || string(c[:2]) != "nk" || int(le.Uint16(c[72:])) > len(c)-76 {
		return Key{}, fmt.Errorf("%w: key %#x", ErrCorrupt, off)
	}
	return Key{h, off}, nil
}

func (k Key) c() []byte { c, _ := k.h.cell(k.off); return c }

// here tells whether a key that was found is still one: its hive may have been
// edited since.
func (k Key) here() bool {
	_, err := k.h.key(k.off)
	return err == nil
}

// Root is the hive's root key.
func (h *Hive) Root() Key { return Key{h, h.root} }

func decode(b []byte, ascii bool) string {
	if ascii {
		r := make([]rune, len(b))
		for i, c := range b {
			r[i] = rune(c)
		}
		return string(r)
	}
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = le.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

// Name is the key's own name; "" for a key that was deleted.
func (k Key) Name() string {
	if !k.here() {
		return ""
	}
	c := k.c()
	n := int(le.Uint16(c[72:]))
	return decode(c[76:76+n], le.Uint16(c[2:])&0x20 != 0)
}

// Keys is the subkeys.
func (k Key) Keys() ([]Key, error) {
	if !k.here() {
		return nil, errGone
	}
	c := k.c()
	if le.Uint32(c[20:]) == 0 {
		return nil, nil
	}
	offs, err := k.h.sublist(le.Uint32(c[28:]), 0)
	if err != nil {
		return nil, err
	}
	out := make([]Key, 0, len(offs))
	for _, o := range offs {
		s, err := k.h.key(o)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (h *Hive) sublist(off uint32, depth int) ([]uint32, error) {
	c, err := h.cell(off)
	if err != nil {
		return nil, err
	}
	if len(c) < 4 {
		return nil, fmt.Errorf("%w: list of keys", ErrCorrupt)
	}
	n, step := int(le.Uint16(c[2:])), 8
	switch string(c[:2]) {
	case "li", "ri":
		step = 4
	case "lf", "lh":
	default:
		return nil, fmt.Errorf("%w: list of keys", ErrCorrupt)
	}
	if 4+n*step > len(c) || depth > 2 {
		return nil, fmt.Errorf("%w: list of keys", ErrCorrupt)
	}
	var out []uint32
	for i := range n {
		o := le.Uint32(c[4+i*step:])
		if string(c[:2]) != "ri" {
			out = append(out, o)
			continue
		}
		sub, err := h.sublist(o, depth+1)
		if err != nil {
			return nil, err
		}
		if out = append(out, sub...); len(out) > maxList {
			return nil, fmt.Errorf("%w: too many keys", ErrCorrupt)
		}
	}
	return out, nil
}

// Key finds a subkey by a path with backslashes, case-insensitively.
func (k Key) Key(path string) (Key, error) {
	for part := range strings.SplitSeq(path, `\`) {
		if part == "" {
			continue
		}
		subs, err := k.Keys()
		if err != nil {
			return Key{}, err
		}
		found := false
		for _, s := range subs {
			if strings.EqualFold(s.Name(), part) {
				k, found = s, true
				break
			}
		}
		if !found {
			return Key{}, fmt.Errorf("%w: %s", ErrMissing, part)
		}
	}
	return k, nil
}

// Value is a value of a key.
type Value struct {
	h   *Hive
	off uint32
}

// Types of values.
const (
	SZ       = 1
	ExpandSZ = 2
	Binary   = 3
	DWord    = 4
	MultiSZ  = 7
	QWord    = 11
)

// Values is the key's values.
func (k Key) Values() ([]Value, error) {
	if !k.here() {
		return nil, errGone
	}
	c := k.c()
	n := int(le.Uint32(c[36:]))
	if n == 0 {
		return nil, nil
	}
	l, err := k.h.cell(le.Uint32(c[40:]))
	if err != nil {
		return nil, err
	}
	if n > len(l)/4 {
		return nil, fmt.Errorf("%w: list of values", ErrCorrupt)
	}
	out := make([]Value, 0, n)
	for i := range n {
		o := le.Uint32(l[4*i:])
		if (Value{k.h, o}).c() == nil {
			return nil, fmt.Errorf("%w: value %#x", ErrCorrupt, o)
		}
		out = append(out, Value{k.h, o})
	}
	return out, nil
}

// Value finds a value by name, case-insensitively.
func (k Key) Value(name string) (Value, error) {
	vs, err := k.Values()
	if err != nil {
		return Value{}, err
	}
	for _, v := range vs {
		if strings.EqualFold(v.Name(), name) {
			return v, nil
		}
	}
	return Value{}, fmt.Errorf("%w: value %q", ErrMissing, name)
}

// c is the value's cell; nil for a value that was removed.
func (v Value) c() []byte {
	c, err := v.h.cell(v.off)
	if err != nil || len(c) < 20 || string(c[:2]) != "vk" || int(le.Uint16(c[2:])) > len(c)-20 {
		return nil
	}
	return c
}

// Name is the value's name; "" is the default value.
func (v Value) Name() string {
	c := v.c()
	if c == nil {
		return ""
	}
	return decode(c[20:20+le.Uint16(c[2:])], le.Uint16(c[16:])&1 != 0)
}

// Type is the value's type.
func (v Value) Type() uint32 {
	c := v.c()
	if c == nil {
		return 0
	}
	return le.Uint32(c[12:])
}

// Data is a copy of the value's data.
func (v Value) Data() ([]byte, error) {
	c := v.c()
	if c == nil {
		return nil, errGone
	}
	n := le.Uint32(c[4:])
	if n&0x80000000 != 0 {
		n &= 0x7fffffff
		if n > 4 {
			return nil, fmt.Errorf("%w: value in place of %d bytes", ErrCorrupt, n)
		}
		return append([]byte{}, c[8:8+n]...), nil
	}
	if n == 0 {
		return nil, nil
	}
	if n > maxValue {
		return nil, fmt.Errorf("%w: value of %d bytes", ErrCorrupt, n)
	}
	d, err := v.h.cell(le.Uint32(c[8:]))
	if err != nil {
		return nil, err
	}
	if v.big(d) {
		return v.h.big(d, int(n))
	}
	if int(n) > len(d) {
		return nil, fmt.Errorf("%w: value of %d bytes", ErrCorrupt, n)
	}
	return append([]byte{}, d[:n]...), nil
}

// big tells whether a value's data d is the head of pieces.
func (v Value) big(d []byte) bool {
	c := v.c()
	return c != nil && le.Uint32(c[4:]) > 16344 && v.h.minor >= 4 && len(d) >= 8 && string(d[:2]) == "db"
}

func (h *Hive) big(d []byte, n int) ([]byte, error) {
	l, err := h.cell(le.Uint32(d[4:]))
	if err != nil {
		return nil, err
	}
	var out []byte
	for i := 0; i < int(le.Uint16(d[2:])) && len(out) < n; i++ {
		if 4*i+4 > len(l) {
			break
		}
		s, err := h.cell(le.Uint32(l[4*i:]))
		if err != nil {
			return nil, err
		}
		out = append(out, s[:min(len(s), 16344, n-len(out))]...)
	}
	if len(out) < n {
		return nil, fmt.Errorf("%w: big value", ErrCorrupt)
	}
	return out, nil
}

// String is a string value's text up to its first zero.
func (k Key) String(name string) (string, bool) {
	v, err := k.Value(name)
	if err != nil || v.Type() != SZ && v.Type() != ExpandSZ {
		return "", false
	}
	d, err := v.Data()
	if err != nil {
		return "", false
	}
	s, _, _ := strings.Cut(decode(d, false), "\x00")
	return s, true
}

// Strings is a MultiSZ value's texts.
func (k Key) Strings(name string) []string {
	v, err := k.Value(name)
	if err != nil || v.Type() != MultiSZ {
		return nil
	}
	d, err := v.Data()
	if err != nil {
		return nil
	}
	return strings.FieldsFunc(decode(d, false), func(r rune) bool { return r == 0 })
}

// DWord is a 32-bit value.
func (k Key) DWord(name string) (uint32, bool) {
	v, err := k.Value(name)
	if err != nil || v.Type() != DWord {
		return 0, false
	}
	d, err := v.Data()
	if err != nil || len(d) < 4 {
		return 0, false
	}
	return le.Uint32(d), true
}
