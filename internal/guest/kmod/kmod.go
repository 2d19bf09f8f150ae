// Package kmod reads the indexes depmod writes: modules.dep, modules.builtin
// and modules.alias, and works out what a module needs.
package kmod

import (
	"path"
	"strings"
)

// Index is a kernel's modules.
type Index struct {
	Path    map[string]string   // module name to path below lib/modules/KV
	Deps    map[string][]string // module name to the names it needs, direct and indirect
	Builtin map[string]bool
}

// Name is a module's name by its file: base name without suffixes, with
// underscores.
func Name(p string) string {
	b := path.Base(p)
	if i := strings.Index(b, ".ko"); i > 0 {
		b = b[:i]
	}
	return strings.ReplaceAll(b, "-", "_")
}

// Parse reads the texts of modules.dep and modules.builtin.
func Parse(dep, builtin string) *Index {
	x := &Index{map[string]string{}, map[string][]string{}, map[string]bool{}}
	for line := range strings.Lines(dep) {
		p, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		n := Name(p)
		x.Path[n] = p
		for _, d := range strings.Fields(needs) {
			x.Deps[n] = append(x.Deps[n], Name(d))
		}
	}
	for line := range strings.Lines(builtin) {
		if l := strings.TrimSpace(line); l != "" {
			x.Builtin[Name(l)] = true
		}
	}
	return x
}

// Closure is names and all they need that is not built in, needed ones first,
// each once. Missing lists those that the kernel does not have.
func (x *Index) Closure(names ...string) (order, missing []string) {
	state := map[string]bool{}
	var visit func(n string)
	visit = func(n string) {
		n = Name(n)
		if state[n] || x.Builtin[n] {
			return
		}
		state[n] = true
		if _, ok := x.Path[n]; !ok {
			missing = append(missing, n)
			return
		}
		for i := len(x.Deps[n]) - 1; i >= 0; i-- { // depmod lists the nearest first
			visit(x.Deps[n][i])
		}
		order = append(order, n)
	}
	for _, n := range names {
		visit(n)
	}
	return order, missing
}

// Aliases is the modules whose alias pattern matches a modalias string.
func Aliases(alias, modalias string) []string {
	var out []string
	for line := range strings.Lines(alias) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "alias" && match(f[1], modalias) {
			out = append(out, f[2])
		}
	}
	return out
}

// match is fnmatch with "*", "?" and sets, in linear space.
func match(pat, s string) bool {
	star, mark := -1, 0
	i, j := 0, 0
	for j < len(s) {
		if i < len(pat) && pat[i] == '*' {
			star, mark = i, j
			i++
			continue
		}
		if i < len(pat) {
			if n, ok := one(pat[i:], s[j]); ok {
				i += n
				j++
				continue
			}
		}
		if star < 0 {
			return false
		}
		mark++
		i, j = star+1, mark
	}
	for i < len(pat) && pat[i] == '*' {
		i++
	}
	return i == len(pat)
}

func one(pat string, c byte) (int, bool) {
	switch pat[0] {
	case '?':
		return 1, true
	case '[':
		end := strings.IndexByte(pat, ']')
		if end < 0 {
			return 1, c == '['
		}
		set := pat[1:end]
		for k := 0; k < len(set); k++ {
			if k+2 < len(set) && set[k+1] == '-' {
				if set[k] <= c && c <= set[k+2] {
					return end + 1, true
				}
				k += 2
			} else if set[k] == c {
				return end + 1, true
			}
		}
		return 0, false
	}
	return 1, pat[0] == c
}
