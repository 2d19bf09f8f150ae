package lvm

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"

	"ascend/internal/guest/vfs"
)

// config is one section of LVM's text: values are int64, string, []any or config.
type config map[string]any

func (c config) sub(k string) config { v, _ := c[k].(config); return v }
func (c config) str(k string) string { v, _ := c[k].(string); return v }
func (c config) num(k string) int64  { v, _ := c[k].(int64); return v }
func (c config) list(k string) []any { v, _ := c[k].([]any); return v }
func (c config) sections() []string {
	var out []string
	for k, v := range c {
		if _, ok := v.(config); ok {
			out = append(out, k)
		}
	}
	sort.Strings(out)
	return out
}

type parser struct {
	s     string
	depth int
}

func (p *parser) space() {
	for p.s != "" {
		switch {
		case strings.ContainsRune(" \t\r\n,\x00", rune(p.s[0])):
			p.s = p.s[1:]
		case p.s[0] == '#':
			_, p.s, _ = strings.Cut(p.s, "\n")
		default:
			return
		}
	}
}

func (p *parser) section() (config, error) {
	if p.depth++; p.depth > 16 {
		return nil, fmt.Errorf("%w: LVM metadata is nested too deeply", vfs.ErrCorrupt)
	}
	defer func() { p.depth-- }()
	c := config{}
	for {
		p.space()
		if p.s == "" || p.s[0] == '}' {
			return c, nil
		}
		i := strings.IndexAny(p.s, " \t\n={")
		if i <= 0 {
			return nil, fmt.Errorf("%w: LVM metadata", vfs.ErrCorrupt)
		}
		key := p.s[:i]
		p.s = p.s[i:]
		p.space()
		switch {
		case strings.HasPrefix(p.s, "{"):
			p.s = p.s[1:]
			sub, err := p.section()
			if err != nil {
				return nil, err
			}
			if !strings.HasPrefix(p.s, "}") {
				return nil, fmt.Errorf("%w: LVM metadata ends in a section", vfs.ErrCorrupt)
			}
			p.s = p.s[1:]
			c[key] = sub
		case strings.HasPrefix(p.s, "="):
			p.s = p.s[1:]
			v, err := p.value()
			if err != nil {
				return nil, err
			}
			c[key] = v
		default:
			return nil, fmt.Errorf("%w: LVM metadata at %q", vfs.ErrCorrupt, key)
		}
	}
}

func (p *parser) value() (any, error) {
	p.space()
	if p.s == "" {
		return nil, fmt.Errorf("%w: LVM metadata ends early", vfs.ErrCorrupt)
	}
	switch p.s[0] {
	case '[':
		p.s = p.s[1:]
		var l []any
		for {
			p.space()
			if strings.HasPrefix(p.s, "]") {
				p.s = p.s[1:]
				return l, nil
			}
			if strings.HasPrefix(p.s, "[") {
				return nil, fmt.Errorf("%w: nested list in LVM metadata", vfs.ErrCorrupt)
			}
			v, err := p.value()
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
	case '"':
		var b strings.Builder
		for i := 1; i < len(p.s); i++ {
			switch p.s[i] {
			case '\\':
				if i++; i < len(p.s) {
					b.WriteByte(p.s[i])
				}
			case '"':
				p.s = p.s[i+1:]
				return b.String(), nil
			default:
				b.WriteByte(p.s[i])
			}
		}
		return nil, fmt.Errorf("%w: open string in LVM metadata", vfs.ErrCorrupt)
	}
	i := strings.IndexAny(p.s, " \t\r\n,]}#")
	if i < 0 {
		i = len(p.s)
	}
	w := p.s[:i]
	p.s = p.s[i:]
	if n, err := strconv.ParseInt(w, 10, 64); err == nil {
		return n, nil
	}
	if i == 0 {
		return nil, fmt.Errorf("%w: LVM metadata", vfs.ErrCorrupt)
	}
	return w, nil
}

type group struct {
	name, id string
	seq      int64
	c        config
}

func parse(text string) (*group, error) {
	p := &parser{s: text}
	c, err := p.section()
	if err != nil {
		return nil, err
	}
	for _, name := range c.sections() {
		if g := c.sub(name); g.str("id") != "" && g.num("extent_size") > 0 {
			return &group{name, g.str("id"), g.num("seqno"), g}, nil
		}
	}
	return nil, fmt.Errorf("%w: LVM metadata names no group", vfs.ErrCorrupt)
}

func (g *group) build(pvs map[string]*PV) VG {
	vg := VG{Name: g.name, UUID: g.id}
	type place struct {
		pv    *PV
		start int64
	}
	places := map[string]place{}
	for _, n := range g.c.sub("physical_volumes").sections() {
		s := g.c.sub("physical_volumes").sub(n)
		pv := pvs[s.str("id")]
		if pv == nil {
			vg.Missing = append(vg.Missing, s.str("id"))
		}
		places[n] = place{pv, s.num("pe_start")}
	}
	ext := g.c.num("extent_size")
	bytes := func(sectors, times int64) (int64, bool) {
		if sectors < 0 || times < 0 || sectors > 0 && times > math.MaxInt64/512/sectors {
			return 0, false
		}
		return sectors * times * 512, true
	}
	for _, n := range g.c.sub("logical_volumes").sections() {
		s := g.c.sub("logical_volumes").sub(n)
		lv := LV{Name: n, UUID: s.str("id")}
		hidden := true
		for _, st := range s.list("status") {
			hidden = hidden && st != "VISIBLE"
		}
		if hidden {
			continue
		}
		gap := func(f string, a ...any) {
			if lv.Gap == "" {
				lv.Gap = fmt.Sprintf(f, a...)
			}
		}
		for _, sn := range s.sections() {
			if !strings.HasPrefix(sn, "segment") {
				continue
			}
			sg := s.sub(sn)
			at, ok1 := bytes(ext, sg.num("start_extent"))
			size, ok2 := bytes(ext, sg.num("extent_count"))
			if !ok1 || !ok2 || size == 0 || at > math.MaxInt64-size {
				gap("metadata is damaged")
				continue
			}
			lv.Size = max(lv.Size, at+size)
			if t := sg.str("type"); t != "striped" {
				gap("segment type %s is not read here", t)
				continue
			}
			q := segment{at: at, size: size}
			stripes := sg.list("stripes")
			if len(stripes) > 2 {
				q.stripe = sg.num("stripe_size") * 512
			}
			for i := 0; i+1 < len(stripes); i += 2 {
				name, _ := stripes[i].(string)
				pe, _ := stripes[i+1].(int64)
				off, ok := bytes(ext, pe)
				pl := places[name]
				if pl.pv == nil {
					gap("physical volume %s is missing", name)
					continue
				}
				if !ok || pl.start < 0 || pl.start > 1<<40 {
					gap("metadata is damaged")
					continue
				}
				q.legs = append(q.legs, leg{pl.pv.r, pl.start*512 + off})
			}
			if len(q.legs) == 0 || len(q.legs) > 1 && q.stripe <= 0 {
				gap("metadata is damaged")
			}
			lv.segs = append(lv.segs, q)
		}
		sort.Slice(lv.segs, func(i, j int) bool { return lv.segs[i].at < lv.segs[j].at })
		vg.LVs = append(vg.LVs, lv)
	}
	return vg
}
