package regf

import "fmt"

// maxTree is how many levels of keys Windows allows.
const maxTree = 512

// ready looks through the whole hive before its first edit: every cell that a key
// leads to is an allocated one of a bin, and leads there once alone. So no edit can
// reach what it was not meant for; a hive that is otherwise is refused.
func (h *Hive) ready() error {
	if h.sound {
		return nil
	}
	s := &sounding{h: h, state: make([]byte, h.size()/8)}
	if err := s.bins(); err != nil {
		return err
	}
	if err := s.key(h.root, 0); err != nil {
		return err
	}
	h.sound = true
	return nil
}

// sounding is one look through a hive.
type sounding struct {
	h     *Hive
	state []byte // of each place where a cell may be
}

// States of a cell; descriptors are shared.
const (
	nothing byte = iota
	unused
	used
	descriptor
)

func (s *sounding) bins() error {
	h := s.h
	for bin := uint32(0); bin < h.size(); {
		end := bin + le.Uint32(h.b[base+bin+8:])
		for at := bin + 32; at < end; {
			n := int64(int32(le.Uint32(h.b[base+at:])))
			l := max(n, -n)
			if l < 8 || l%8 != 0 || l > int64(end-at) {
				return fmt.Errorf("%w: cell %#x of %d bytes", ErrCorrupt, at, l)
			}
			if n < 0 {
				s.state[at/8] = unused
			}
			at += uint32(l)
		}
		bin = end
	}
	return nil
}

// take marks a cell as what a key leads to.
func (s *sounding) take(off uint32, as byte) error {
	is := nothing
	if off%8 == 0 && off < s.h.size() {
		is = s.state[off/8]
	}
	if is != unused && (is != descriptor || as != descriptor) {
		return fmt.Errorf("%w: cell %#x is nobody's or somebody else's", ErrCorrupt, off)
	}
	s.state[off/8] = as
	return nil
}

func (s *sounding) key(off uint32, depth int) error {
	if depth > maxTree {
		return fmt.Errorf("%w: keys too deep", ErrCorrupt)
	}
	if err := s.take(off, used); err != nil {
		return err
	}
	k, err := s.h.key(off)
	if err != nil {
		return err
	}
	c := k.c()
	if err := s.take(le.Uint32(c[44:]), descriptor); err != nil {
		return err
	}
	if sk, err := s.h.cell(le.Uint32(c[44:])); err != nil || len(sk) < 20 || string(sk[:2]) != "sk" {
		return fmt.Errorf("%w: security descriptor of %#x", ErrCorrupt, off)
	}
	if class := le.Uint32(c[48:]); class != none && le.Uint16(c[74:]) > 0 {
		if err := s.take(class, used); err != nil {
			return err
		}
	}
	if err := s.values(k); err != nil {
		return err
	}
	if le.Uint32(c[20:]) == 0 {
		return nil
	}
	if err := s.list(le.Uint32(c[28:])); err != nil {
		return err
	}
	subs, err := k.Keys()
	if err != nil {
		return err
	}
	if uint32(len(subs)) != le.Uint32(c[20:]) {
		return fmt.Errorf("%w: %d keys below %#x, which counts %d", ErrCorrupt, len(subs), off, le.Uint32(c[20:]))
	}
	for _, sub := range subs {
		if err := s.key(sub.off, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// list marks a list of keys and the lists that it is made of. Keys has checked or
// will check what they hold.
func (s *sounding) list(off uint32) error {
	if err := s.take(off, used); err != nil {
		return err
	}
	c, err := s.h.cell(off)
	if err != nil || len(c) < 4 || string(c[:2]) != "ri" {
		return err
	}
	for i := range int(le.Uint16(c[2:])) {
		if 8+4*i > len(c) {
			return fmt.Errorf("%w: list of keys", ErrCorrupt)
		}
		if err := s.list(le.Uint32(c[4+4*i:])); err != nil {
			return err
		}
	}
	return nil
}

func (s *sounding) values(k Key) error {
	c := k.c()
	vs, err := k.Values()
	if err != nil || len(vs) == 0 {
		return err
	}
	if err := s.take(le.Uint32(c[40:]), used); err != nil {
		return err
	}
	for _, v := range vs {
		if err := s.take(v.off, used); err != nil {
			return err
		}
		c, err := s.h.cell(v.off)
		if err != nil {
			return err
		}
		if n := le.Uint32(c[4:]); n == 0 || n&0x80000000 != 0 {
			continue
		}
		if err := s.data(v, le.Uint32(c[8:])); err != nil {
			return err
		}
	}
	return nil
}

// data marks a value's data, which may be large and in pieces.
func (s *sounding) data(v Value, off uint32) error {
	if err := s.take(off, used); err != nil {
		return err
	}
	if _, err := v.Data(); err != nil {
		return err
	}
	c, err := s.h.cell(off)
	if err != nil || !v.big(c) {
		return err
	}
	list := le.Uint32(c[4:])
	if err := s.take(list, used); err != nil {
		return err
	}
	l, err := s.h.cell(list)
	if err != nil {
		return err
	}
	for i := range int(le.Uint16(c[2:])) {
		if 4*i+4 > len(l) {
			break
		}
		if err := s.take(le.Uint32(l[4*i:]), used); err != nil {
			return err
		}
	}
	return nil
}
