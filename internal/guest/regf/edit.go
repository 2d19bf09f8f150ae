package regf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf16"
)

// Bytes ends an edit: it counts the sequence numbers up, writes the checksum
// and returns the hive, which stays usable.
func (h *Hive) Bytes() []byte {
	if h.changed {
		seq := le.Uint32(h.b[4:]) + 1
		le.PutUint32(h.b[4:], seq)
		le.PutUint32(h.b[8:], seq)
		le.PutUint32(h.b[508:], sum(h.b))
		h.changed = false
	}
	return h.b
}

// alloc makes a cell for n bytes of content, zeroed.
func (h *Hive) alloc(n int) (uint32, error) {
	h.changed = true
	need := uint32((n + 4 + 7) &^ 7)
	if off, ok := h.scan(need); ok {
		return off, nil
	}
	// A new bin at the end. What may stand in the file behind the bins is
	// left over of no use.
	size := h.size()
	add := (need + 32 + 4095) &^ 4095
	if int64(base)+int64(size)+int64(add) > maxHive {
		return 0, errors.New("cannot edit the registry hive: it would grow beyond 512 MiB")
	}
	h.b = append(h.b[:base+size:base+size], make([]byte, add)...)
	p := h.b[base+size:]
	copy(p, "hbin")
	le.PutUint32(p[4:], size)
	le.PutUint32(p[8:], add)
	le.PutUint32(p[32:], add-32)
	le.PutUint32(h.b[40:], size+add)
	h.hint = size
	off, ok := h.scan(need)
	if !ok {
		return 0, fmt.Errorf("%w: no room in a new bin", ErrCorrupt)
	}
	return off, nil
}

// scan takes the first free cell that is large enough, from the bin of the
// last one on.
func (h *Hive) scan(need uint32) (uint32, bool) {
	for bin := h.hint; bin < h.size(); {
		end := bin + le.Uint32(h.b[base+bin+8:])
		if end <= bin || end > h.size() {
			return 0, false
		}
		for at := bin + 32; at+8 <= end; {
			n := int32(le.Uint32(h.b[base+at:]))
			l := uint32(max(n, -n))
			if l < 8 || l%8 != 0 || l > end-at {
				break // a bin that is damaged is not used
			}
			if n > 0 && l >= need {
				if rest := l - need; rest >= 8 {
					le.PutUint32(h.b[base+at+need:], rest)
					l = need
				}
				clear(h.b[base+at : base+at+l])
				le.PutUint32(h.b[base+at:], -l)
				h.hint = bin
				return at, true
			}
			at += l
		}
		bin = end
	}
	return 0, false
}

// free gives a cell back.
func (h *Hive) free(off uint32) {
	if _, err := h.cell(off); err == nil {
		n := int32(le.Uint32(h.b[base+off:]))
		le.PutUint32(h.b[base+off:], uint32(-n))
		h.changed = true
	}
}

func encode(s string) []byte {
	u := utf16.Encode([]rune(s))
	b := make([]byte, 2*len(u))
	for i, c := range u {
		le.PutUint16(b[2*i:], c)
	}
	return b
}

// name is a name as it is stored: one byte a letter where that can be.
func name(s string) (b []byte, ascii bool) {
	for _, r := range s {
		if r > 0x7f {
			return encode(s), false
		}
	}
	return []byte(s), true
}

// Create finds a key by path or makes it and all above it. New keys share
// their parent's security descriptor.
func (k Key) Create(path string) (Key, error) {
	for part := range strings.SplitSeq(path, `\`) {
		if part == "" {
			continue
		}
		s, err := k.Key(part)
		if errors.Is(err, ErrMissing) {
			s, err = k.create(part)
		}
		if err != nil {
			return Key{}, err
		}
		k = s
	}
	return k, nil
}

func (k Key) create(nm string) (Key, error) {
	if len(utf16.Encode([]rune(nm))) > 255 {
		return Key{}, fmt.Errorf("cannot create a registry key: name of more than 255 letters")
	}
	h := k.h
	if err := h.ready(); err != nil {
		return Key{}, err
	}
	subs, err := k.Keys()
	if err != nil {
		return Key{}, err
	}
	if len(subs) >= 0xfff0 {
		return Key{}, errors.New("cannot create a registry key: its parent has too many")
	}
	nb, ascii := name(nm)
	off, err := h.alloc(76 + len(nb))
	if err != nil {
		return Key{}, err
	}
	c, err := h.cell(off)
	if err != nil {
		return Key{}, err
	}
	p := k.c()
	copy(c, "nk")
	if ascii {
		le.PutUint16(c[2:], 0x20)
	}
	copy(c[4:12], p[4:12]) // the parent's time of last change
	le.PutUint32(c[16:], k.off)
	le.PutUint32(c[28:], none)
	le.PutUint32(c[32:], none)
	le.PutUint32(c[40:], none)
	sk := le.Uint32(p[44:])
	le.PutUint32(c[44:], sk)
	le.PutUint32(c[48:], none)
	le.PutUint16(c[72:], uint16(len(nb)))
	copy(c[76:], nb)
	if s, err := h.cell(sk); err == nil && len(s) >= 20 && string(s[:2]) == "sk" {
		le.PutUint32(s[12:], le.Uint32(s[12:])+1)
	}
	made := Key{h, off}
	at := len(subs)
	up := upper(nm)
	for i, s := range subs {
		if slices.Compare(upper(s.Name()), up) > 0 {
			at = i
			break
		}
	}
	subs = slices.Insert(subs, at, made)
	if err := k.setList(subs); err != nil {
		return Key{}, err
	}
	p = k.c()
	le.PutUint32(p[20:], uint32(len(subs)))
	le.PutUint32(p[52:], max(le.Uint32(p[52:]), uint32(2*len(utf16.Encode([]rune(nm))))))
	return made, nil
}

// setList writes the list of subkeys anew: leaves of at most 500 keys, under
// an index where one leaf does not do.
func (k Key) setList(subs []Key) error {
	h := k.h
	const per = 500
	var leaves []uint32
	for chunk := range slices.Chunk(subs, per) {
		off, err := h.alloc(4 + 8*len(chunk))
		if err != nil {
			return err
		}
		c, err := h.cell(off)
		if err != nil {
			return err
		}
		kind := "lh"
		if h.minor < 5 {
			kind = "lf"
		}
		copy(c, kind)
		le.PutUint16(c[2:], uint16(len(chunk)))
		for i, s := range chunk {
			le.PutUint32(c[4+8*i:], s.off)
			le.PutUint32(c[8+8*i:], hint(kind, s.Name()))
		}
		leaves = append(leaves, off)
	}
	list := leaves[0]
	if len(leaves) > 1 {
		off, err := h.alloc(4 + 4*len(leaves))
		if err != nil {
			return err
		}
		c, err := h.cell(off)
		if err != nil {
			return err
		}
		copy(c, "ri")
		le.PutUint16(c[2:], uint16(len(leaves)))
		for i, o := range leaves {
			le.PutUint32(c[4+4*i:], o)
		}
		list = off
	}
	p := k.c()
	old, had := le.Uint32(p[28:]), le.Uint32(p[20:]) > 0
	le.PutUint32(p[28:], list)
	if had {
		h.freeList(old)
	}
	return nil
}

// freeData gives the data of a value's cell back; the pieces of big data stay,
// unused.
func (h *Hive) freeData(c []byte) {
	if n := le.Uint32(c[4:]); n&0x80000000 == 0 && n > 0 && n <= 16344 {
		h.free(le.Uint32(c[8:]))
	}
}

func (h *Hive) freeList(off uint32) {
	c, err := h.cell(off)
	if err != nil {
		return
	}
	if len(c) >= 4 && string(c[:2]) == "ri" {
		for i := 0; i < int(le.Uint16(c[2:])) && 8+4*i <= len(c); i++ {
			h.free(le.Uint32(c[4+4*i:]))
		}
	}
	h.free(off)
}

// upper is a name as lists are sorted and hashed by: UTF-16 units in capitals.
func upper(nm string) []uint16 { return utf16.Encode([]rune(strings.ToUpper(nm))) }

// hint is what a leaf keeps of a name beside the key: four letters (lf) or a
// hash (lh).
func hint(kind, nm string) uint32 {
	if kind == "lf" {
		b, ascii := name(nm)
		if !ascii {
			return 0
		}
		var w [4]byte
		copy(w[:], b)
		return le.Uint32(w[:])
	}
	x := uint32(0)
	for _, c := range upper(nm) {
		x = x*37 + uint32(c)
	}
	return x
}

// Set sets a value, which it makes when it is not there.
func (k Key) Set(nm string, typ uint32, data []byte) error {
	h := k.h
	if len(data) > 16344 {
		return fmt.Errorf("cannot set registry value %q: %d bytes, more than 16344", nm, len(data))
	}
	if err := h.ready(); err != nil {
		return err
	}
	v, err := k.Value(nm)
	if err == nil {
		old, err := v.Data()
		if err == nil && v.Type() == typ && slices.Equal(old, data) {
			return nil
		}
	} else if !errors.Is(err, ErrMissing) {
		return err
	} else if v, err = k.addValue(nm); err != nil {
		return err
	}
	at := uint32(0)
	if len(data) > 4 {
		if at, err = h.alloc(len(data)); err != nil {
			return err
		}
		d, err := h.cell(at)
		if err != nil {
			return err
		}
		copy(d, data)
	}
	c, err := h.cell(v.off)
	if err != nil {
		return err
	}
	h.changed = true
	h.freeData(c)
	le.PutUint32(c[12:], typ)
	if len(data) > 4 {
		le.PutUint32(c[4:], uint32(len(data)))
		le.PutUint32(c[8:], at)
	} else {
		clear(c[8:12])
		copy(c[8:12], data)
		le.PutUint32(c[4:], uint32(len(data))|0x80000000)
	}
	p := k.c()
	le.PutUint32(p[64:], max(le.Uint32(p[64:]), uint32(len(data))))
	return nil
}

func (k Key) addValue(nm string) (Value, error) {
	h := k.h
	vs, err := k.Values()
	if err != nil {
		return Value{}, err
	}
	nb, ascii := name(nm)
	off, err := h.alloc(20 + len(nb))
	if err != nil {
		return Value{}, err
	}
	c, err := h.cell(off)
	if err != nil {
		return Value{}, err
	}
	copy(c, "vk")
	le.PutUint16(c[2:], uint16(len(nb)))
	le.PutUint32(c[4:], 0x80000000)
	if ascii && nm != "" {
		le.PutUint16(c[16:], 1)
	}
	copy(c[20:], nb)
	list, err := h.alloc(4 * (len(vs) + 1))
	if err != nil {
		return Value{}, err
	}
	l, err := h.cell(list)
	if err != nil {
		return Value{}, err
	}
	for i, v := range append(vs, Value{h, off}) {
		le.PutUint32(l[4*i:], v.off)
	}
	p := k.c()
	if len(vs) > 0 {
		h.free(le.Uint32(p[40:]))
	}
	le.PutUint32(p[36:], uint32(len(vs)+1))
	le.PutUint32(p[40:], list)
	le.PutUint32(p[60:], max(le.Uint32(p[60:]), uint32(2*len(utf16.Encode([]rune(nm))))))
	return Value{h, off}, nil
}

// SetDWord sets a 32-bit value.
func (k Key) SetDWord(nm string, v uint32) error {
	var b [4]byte
	le.PutUint32(b[:], v)
	return k.Set(nm, DWord, b[:])
}

// SetString sets a text; typ is SZ or ExpandSZ.
func (k Key) SetString(nm string, typ uint32, s string) error { return k.Set(nm, typ, Text(s)) }

// SetStrings sets a list of texts.
func (k Key) SetStrings(nm string, l []string) error { return k.Set(nm, MultiSZ, Texts(l)) }

// Text is a text as data: UTF-16 with its end.
func Text(s string) []byte { return append(encode(s), 0, 0) }

// Texts is a list of texts as data.
func Texts(l []string) []byte {
	var b []byte
	for _, s := range l {
		b = append(b, Text(s)...)
	}
	return append(b, 0, 0)
}

// Format is a value's data for people.
func Format(typ uint32, data []byte) string {
	switch {
	case typ == DWord && len(data) == 4:
		return fmt.Sprint(le.Uint32(data))
	case typ == SZ || typ == ExpandSZ || typ == MultiSZ:
		return fmt.Sprintf("%q", strings.Join(strings.FieldsFunc(decode(data, false), func(r rune) bool { return r == 0 }), " "))
	case len(data) > 64:
		return fmt.Sprintf("hex %x… (%d bytes)", data[:64], len(data))
	}
	return fmt.Sprintf("hex %x", data)
}
