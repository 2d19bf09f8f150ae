package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"ascend/internal/guest/vfs"
)

const (
	maxDepth = 1000
	maxSkips = 100 // that are named
)

// Skips are what a walk could not read; it goes on without.
type Skips struct {
	Count int64    `json:"count"`
	First []string `json:"first,omitempty"` // at most 100, with the reasons
}

func (s *Skips) add(p string, err error) {
	if s.Count++; len(s.First) < maxSkips {
		s.First = append(s.First, strings.ToValidUTF8(fmt.Sprintf("%s: %v", p, err), "\ufffd"))
	}
}

func (s Skips) with(o Skips) Skips {
	return Skips{s.Count + o.Count, append(s.First, o.First[:min(len(o.First), max(0, maxSkips-len(s.First)))]...)}
}

// walker goes through a tree. A folder is entered once, however often a hostile
// file system names it.
type walker struct {
	ctx   context.Context
	skips Skips
	seen  map[uint64]bool
	fn    func(e Entry, n vfs.Node) error
}

func (w *walker) walk(p string, n vfs.Node, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	e, err := entry(p, n)
	if err != nil {
		w.skips.add(p, err)
		return nil
	}
	if e.Type == "directory" && e.Inode != 0 {
		if w.seen[e.Inode] {
			w.skips.add(p, errors.New("the folder was met before"))
			return nil
		}
		w.seen[e.Inode] = true
	}
	if err := w.fn(e, n); err != nil || e.Type != "directory" {
		if errors.Is(err, fs.SkipDir) {
			return nil
		}
		return err
	}
	list, err := n.List()
	if err == nil && depth > maxDepth {
		err = errors.New("too many folders in folders")
	}
	if err != nil {
		w.skips.add(p, err)
		return nil
	}
	slices.SortFunc(list, func(a, b vfs.Entry) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range list {
		if !vfs.Valid(c.Name) {
			continue
		}
		at := path.Join(p, c.Name)
		n, err := c.Open()
		if err != nil {
			w.skips.add(at, err)
			continue
		}
		if err := w.walk(at, n, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (v *Volume) walk(ctx context.Context, name string, fn func(Entry, vfs.Node) error) (Skips, error) {
	n, p, err := v.tree.Node(name, false)
	if err != nil {
		return Skips{}, err
	}
	w := &walker{ctx: ctx, seen: map[uint64]bool{}, fn: fn}
	err = w.walk(p, n, 0)
	return w.skips, err
}

// Walk tells of a file and, where it is a folder, of all below it, folders before
// what is in them. fn may return fs.SkipDir for a folder; any other error ends the
// walk and is returned.
func (v *Volume) Walk(ctx context.Context, name string, fn func(Entry) error) (Skips, error) {
	return v.walk(ctx, name, func(e Entry, _ vfs.Node) error { return fn(e) })
}

// Find walks what matches a pattern: path.Match for each part of a path, and **
// for any number of folders. A pattern without a slash is looked for everywhere.
func (v *Volume) Find(ctx context.Context, pattern string, fn func(Entry) error) (Skips, error) {
	if !strings.Contains(pattern, "/") {
		pattern = "**/" + pattern
	}
	parts := strings.Split(strings.Trim(path.Clean("/"+pattern), "/"), "/")
	for _, p := range parts {
		if _, err := path.Match(p, ""); err != nil {
			return Skips{}, fmt.Errorf("bad pattern %q: %w", pattern, err)
		}
	}
	// Begin below what is no pattern.
	start := 0
	for start < len(parts)-1 && !strings.ContainsAny(parts[start], `*?[\`) {
		start++
	}
	return v.Walk(ctx, "/"+strings.Join(parts[:start], "/"), func(e Entry) error {
		var have []string
		if e.Path != "/" {
			have = strings.Split(strings.Trim(e.Path, "/"), "/")
		}
		if len(have) < start {
			return nil
		}
		whole, prefix := match(parts[start:], have[start:], v.folds())
		if whole {
			if err := fn(e); err != nil {
				return err
			}
		}
		if e.Type == "directory" && !prefix {
			return fs.SkipDir
		}
		return nil
	})
}

func (v *Volume) folds() bool { return v.Type == "ntfs" || v.Type == "vfat" }

// match tells whether names match a pattern's parts, and whether what is below
// them may.
func match(parts, names []string, fold bool) (whole, prefix bool) {
	if len(parts) == 0 {
		return len(names) == 0, false
	}
	if parts[0] == "**" {
		for i := 0; i <= len(names); i++ {
			w, _ := match(parts[1:], names[i:], fold)
			whole = whole || w
		}
		return whole, true
	}
	if len(names) == 0 {
		return false, true
	}
	p, n := parts[0], names[0]
	if fold {
		p, n = strings.ToLower(p), strings.ToLower(n)
	}
	if ok, err := path.Match(p, n); err != nil || !ok {
		return false, false
	}
	return match(parts[1:], names[1:], fold)
}
