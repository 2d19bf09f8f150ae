package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// job reads one thing that was found: a context folder, an archive, a
// descriptor or the images of a folder.
type job func(context.Context) []Backup

// fileInfo is what is kept of a file's metadata.
type fileInfo struct {
	modified time.Time
	size     int64
}

// folder is one folder's names by kind, each sorted.
type folder struct {
	path    string
	dirs    []string
	files   []string // regular files and symbolic links
	links   []string // symbolic links, which are also in files
	special []string // pipes, sockets, devices
	fault   string   // why the names are not complete
}

func (f *folder) join(name string) string { return path.Join(f.path, name) }

var errTooMany = errors.New("too many entries")

// walk goes through the tree and tells what there is to be read.
func (l *lister) walk(ctx context.Context) (jobs []job, faults []Backup, err error) {
	left := maxEntries
	var visit func(dir string, depth int) error
	visit = func(dir string, depth int) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := l.folder(dir, &left)
		if err != nil {
			if dir == "." || errors.Is(err, errTooMany) {
				return err
			}
			faults = append(faults, faulty(LayoutImage, dir, "cannot read folder: %s", reason(err)))
			return nil
		}
		if f.fault != "" {
			faults = append(faults, faulty(LayoutImage, dir, "%s", f.fault))
		}
		more, skip := l.classify(ctx, f, &left)
		jobs = append(jobs, more...)
		for _, d := range f.dirs {
			if skip[d] || strings.HasPrefix(d, ".") || depth >= maxDepth {
				continue
			}
			if err := visit(f.join(d), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	err = visit(".", 0)
	if errors.Is(err, errTooMany) {
		faults = append(faults, faulty(LayoutImage, ".", "the folder holds more than %d names; what comes after them is not listed", maxEntries))
		err = nil
	}
	return jobs, faults, err
}

// folder reads one folder's names. left is what may still be read of the tree.
func (l *lister) folder(dir string, left *int) (*folder, error) {
	h, err := l.root.FS().Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = h.Close() }()
	list, ok := h.(fs.ReadDirFile)
	if !ok {
		return nil, fmt.Errorf("%s is no folder", dir)
	}
	f := &folder{path: dir}
	for {
		names, err := list.ReadDir(1024)
		for _, e := range names {
			if *left--; *left < 0 {
				return nil, errTooMany
			}
			f.add(e)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			f.fault = "cannot read all of the folder: " + reason(err)
			break
		}
	}
	slices.Sort(f.dirs)
	slices.Sort(f.files)
	return f, nil
}

func (f *folder) add(e fs.DirEntry) {
	name := e.Name()
	switch {
	case !utf8.ValidString(name):
		f.fault = fmt.Sprintf("the name %q is not UTF-8, which is not read", name)
	case e.IsDir():
		f.dirs = append(f.dirs, name)
	case e.Type()&fs.ModeSymlink != 0:
		f.links = append(f.links, name)
		f.files = append(f.files, name)
	case e.Type().IsRegular():
		f.files = append(f.files, name)
	default:
		f.special = append(f.special, name)
	}
}

// classify tells what a folder holds. skip names the subfolders that belong to
// what was found and are not visited by themselves.
func (l *lister) classify(ctx context.Context, f *folder, left *int) (jobs []job, skip map[string]bool) {
	skip = map[string]bool{}
	if c := contextOf(f); c != nil {
		for _, d := range c.disks {
			if d.fault != "" {
				continue
			}
			skip[d.name] = true
			sub, err := l.folder(f.join(d.name), left)
			if err != nil {
				d.fault = "cannot read folder: " + reason(err)
				continue
			}
			d.folder, d.fault = sub, sub.fault
		}
		jobs = append(jobs, func(ctx context.Context) []Backup { return l.context(ctx, c) })
		f.files = slices.DeleteFunc(f.files, func(n string) bool { return n == machineFile })
	}
	taken := map[string]bool{}
	if e, dirs := l.hyperv(f, left); e != nil {
		for _, d := range dirs {
			skip[d] = true
		}
		jobs = append(jobs, func(ctx context.Context) []Backup { return l.hypervBackups(ctx, e) })
	}
	for _, name := range f.files {
		switch strings.ToLower(path.Ext(name)) {
		case ".ova":
			taken[name] = true
			jobs = append(jobs, func(context.Context) []Backup { return l.archive(f.join(name)) })
		case ".ovf":
			taken[name] = true
			p := l.descriptor(f.join(name))
			for _, used := range p.uses() {
				taken[used] = true
			}
			jobs = append(jobs, func(context.Context) []Backup { return p.backups(l) })
		}
	}
	if ctx.Err() == nil {
		if e := l.export(f); e != nil {
			jobs = append(jobs, l.exported(f, e, taken)...)
		}
		jobs = append(jobs, l.nutanix(f, taken)...)
		jobs = append(jobs, l.images(f, taken)...)
	}
	return jobs, skip
}
