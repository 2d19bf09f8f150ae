package regf

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Bounds of what is deleted at once.
const (
	maxDepth   = 32
	maxDeleted = 10000
)

// Unset removes a value; one that is not there is no failure.
func (k Key) Unset(nm string) error {
	h := k.h
	if err := h.ready(); err != nil {
		return err
	}
	vs, err := k.Values()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(vs, func(v Value) bool { return strings.EqualFold(v.Name(), nm) })
	if i < 0 {
		return nil
	}
	h.freeValue(vs[i])
	vs = slices.Delete(vs, i, i+1)
	p := k.c()
	le.PutUint32(p[36:], uint32(len(vs)))
	if len(vs) == 0 {
		h.free(le.Uint32(p[40:]))
		le.PutUint32(p[40:], none)
		return nil
	}
	l, err := h.cell(le.Uint32(p[40:]))
	if err != nil {
		return err
	}
	for i, v := range vs { // the list stays as large as it was
		le.PutUint32(l[4*i:], v.off)
	}
	return nil
}

func (h *Hive) freeValue(v Value) {
	if c, err := h.cell(v.off); err == nil {
		h.freeData(c)
	}
	h.free(v.off)
}

// Delete removes a subkey with all below it; one that is not there is no
// failure. On error the hive must not be used further.
func (k Key) Delete(nm string) error {
	h := k.h
	if err := h.ready(); err != nil {
		return err
	}
	subs, err := k.Keys()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(subs, func(s Key) bool { return strings.EqualFold(s.Name(), nm) })
	if i < 0 {
		return nil
	}
	gone := subs[i]
	left := maxDeleted
	if err := gone.check(0, &left); err != nil {
		return err
	}
	subs = slices.Delete(subs, i, i+1)
	if len(subs) > 0 {
		if err := k.setList(subs); err != nil {
			return err
		}
	} else {
		p := k.c()
		h.freeList(le.Uint32(p[28:]))
		le.PutUint32(p[28:], none)
	}
	le.PutUint32(k.c()[20:], uint32(len(subs)))
	return gone.release()
}

// check looks at all that would be deleted before anything is.
func (k Key) check(depth int, left *int) error {
	if *left--; *left < 0 || depth > maxDepth {
		return errors.New("cannot delete a registry key: it holds too much")
	}
	if _, err := k.Values(); err != nil {
		return err
	}
	subs, err := k.Keys()
	for _, s := range subs {
		if err == nil {
			err = s.check(depth+1, left)
		}
	}
	return err
}

// release gives all cells of a key back.
func (k Key) release() error {
	h := k.h
	subs, err := k.Keys()
	if err != nil {
		return err
	}
	for _, s := range subs {
		if err := s.release(); err != nil {
			return err
		}
	}
	vs, err := k.Values()
	if err != nil {
		return err
	}
	for _, v := range vs {
		h.freeValue(v)
	}
	c, err := h.cell(k.off)
	if err != nil {
		return err
	}
	if len(vs) > 0 {
		h.free(le.Uint32(c[40:]))
	}
	if len(subs) > 0 {
		h.freeList(le.Uint32(c[28:]))
	}
	h.free(le.Uint32(c[48:])) // its class name, where it has one
	if err := h.unref(le.Uint32(c[44:])); err != nil {
		return err
	}
	h.free(k.off)
	return nil
}

// unref counts a security descriptor's users down; the last one's leaves the ring
// of descriptors.
func (h *Hive) unref(off uint32) error {
	s, err := h.cell(off)
	if err != nil || len(s) < 20 || string(s[:2]) != "sk" {
		return fmt.Errorf("%w: security descriptor %#x", ErrCorrupt, off)
	}
	n := le.Uint32(s[12:])
	if n > 1 {
		le.PutUint32(s[12:], n-1)
		return nil
	}
	next, prev := le.Uint32(s[4:]), le.Uint32(s[8:])
	a, err1 := h.cell(next)
	b, err2 := h.cell(prev)
	if err1 != nil || err2 != nil || len(a) < 20 || len(b) < 20 || string(a[:2]) != "sk" || string(b[:2]) != "sk" {
		return fmt.Errorf("%w: ring of security descriptors", ErrCorrupt)
	}
	if next == off {
		return nil // the only one there is stays
	}
	le.PutUint32(a[8:], prev)
	le.PutUint32(b[4:], next)
	h.free(off)
	return nil
}
