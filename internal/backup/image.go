package backup

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"ascend/internal/disk/open"
	"ascend/internal/vm"
)

var imageExtensions = []string{".qcow2", ".qcow", ".vmdk", ".vhd", ".avhd", ".vhdx", ".avhdx", ".img", ".raw", ".vdi", ".hdd", ".hds"}

func isImageName(name string) bool {
	return slices.Contains(imageExtensions, strings.ToLower(path.Ext(name)))
}

// reExtent matches the data files of a VMDK, whose descriptor has the name
// before the match (VMware "Virtual Disk Format 5.0", extent descriptions).
var reExtent = regexp.MustCompile(`(?i)-(flat|delta|ctk|sesparse|rdmp?|[sf][0-9]{3})\.vmdk$`)

// parts are the names that belong to a VMDK whose descriptor is in the folder
// too. Snapshots have the same files with a number: disk-000001-delta.vmdk.
func parts(files []string) map[string]bool {
	out := map[string]bool{}
	for _, n := range files {
		if at := reExtent.FindStringIndex(n); at != nil && slices.Contains(files, n[:at[0]]+".vmdk") {
			out[n] = true
		}
	}
	return out
}

// images are the jobs for a folder's image files that belong to nothing else.
func (l *lister) images(f *folder, taken map[string]bool) []job {
	extents := parts(f.files)
	var named, unnamed []string
	for _, n := range f.files {
		switch {
		case taken[n] || extents[n]:
		case isImageName(n):
			named = append(named, n)
		case path.Ext(n) == "" && !slices.Contains(f.links, n):
			unnamed = append(unnamed, n)
		}
	}
	var special []Backup
	for _, n := range f.special {
		if isImageName(n) {
			special = append(special, faulty(LayoutImage, f.join(n), "is a pipe, socket or device, not a file"))
		}
	}
	if len(named)+len(unnamed)+len(special) == 0 {
		return nil
	}
	return []job{func(ctx context.Context) []Backup {
		for _, n := range unnamed {
			if ctx.Err() == nil && l.signed(f.join(n)) {
				named = append(named, n)
			}
		}
		slices.Sort(named)
		out := special
		var notes []string
		if slices.Contains(f.files, machineFile) && len(named) > 0 {
			b, ok := l.together(f, named)
			if ok {
				return append(out, b)
			}
			notes = b.Notes
		}
		for _, n := range named {
			if ctx.Err() == nil {
				b := l.single(f.join(n))
				b.Notes = append(b.Notes, notes...)
				out = append(out, b)
			}
		}
		return out
	}}
}

// signed tells whether a file without an extension is an image by its content.
func (l *lister) signed(name string) bool {
	f, err := l.root.Open(name)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	format, err := open.Detect(f)
	return err == nil && format != "raw"
}

// single is one image file as a backup.
func (l *lister) single(name string) Backup {
	return l.backupOf([]string{name}, clean(stem(path.Base(name))), name)
}

// backupOf makes a backup of bare images, one a disk.
func (l *lister) backupOf(names []string, vmName, where string) Backup {
	b := Backup{VM: vmName, Type: Full, Layout: LayoutImage, Path: where, Machine: &vm.Machine{}}
	for i, n := range names {
		im := l.header(n)
		d := Disk{Index: i, Name: clean(path.Base(n)), Type: Full, Time: im.file.modified.UTC()}
		l.measure(&d, im)
		d.Path = n
		if d.Chain > 1 {
			d.Type, b.Type = Incremental, Incremental
		}
		if d.Fault != "" {
			b.fail("disk %d: %s", i, d.Fault)
		}
		if d.Time.After(b.Created) {
			b.Created = d.Time
		}
		for _, s := range im.notes {
			b.note("%s", s)
		}
		b.Disks = append(b.Disks, d)
	}
	b.bare(nil)
	return b
}

// together takes the images of a folder with a vm.json as the disks of that
// machine: each disk by its name, which is a file's; or in order of the files'
// names when there are as many of both, or when vm.json describes no disks.
// Images that are only parents of others do not count. ok is false when they do
// not fit; the notes then say why.
func (l *lister) together(f *folder, names []string) (Backup, bool) {
	m, notes := l.machine(f.join(machineFile), true)
	misfit := Backup{Notes: notes}
	if m == nil {
		return misfit, false
	}
	var files []string
	for _, d := range m.Disks {
		if slices.Contains(names, d.Name) && !slices.Contains(files, f.join(d.Name)) {
			files = append(files, f.join(d.Name))
		}
	}
	byName := len(files) == len(m.Disks) && len(files) > 0
	if !byName {
		tops := l.tops(f, names)
		if len(m.Disks) > 0 && len(tops) != len(m.Disks) || len(files) > 0 || len(tops) > maxDisks {
			misfit.note("%s describes %d disks, which are not the %d images beside it", machineFile, len(m.Disks), len(tops))
			return misfit, false
		}
		files = tops
	}
	b := l.backupOf(files, m.Name, f.path)
	for i := range m.Disks {
		b.Disks[i].Index = m.Disks[i].Index
	}
	if !byName {
		b.note("the disks of %s are the images of the folder in the order of their names", machineFile)
	}
	b.Notes = append(b.Notes, notes...)
	b.describe(m)
	if b.VM == "" {
		b.VM = clean(path.Base(f.path))
		b.Machine.Name = b.VM
	}
	return b, true
}

// tops are the images that are no parents of others among them.
func (l *lister) tops(f *folder, names []string) []string {
	parent := map[string]bool{}
	for _, n := range names {
		im := l.header(f.join(n))
		parent[im.parent] = true
		for _, p := range im.below {
			parent[p] = true
		}
	}
	var out []string
	for _, n := range names {
		if p := f.join(n); !parent[p] {
			out = append(out, p)
		}
	}
	return out
}

// flagParents notes which bare images are only the parents of others.
func (l *lister) flagParents(all []Backup) {
	children := map[string]string{}
	for _, im := range l.files {
		for _, below := range append(slices.Clone(im.below), im.parent) {
			if below != "" && (children[below] == "" || im.path < children[below]) {
				children[below] = im.path
			}
		}
	}
	for i := range all {
		b := &all[i]
		if b.Layout != LayoutImage || len(b.Disks) != 1 {
			continue
		}
		if child := children[b.Disks[0].Path]; child != "" {
			b.Notes = append(b.Notes, fmt.Sprintf("%s has this image as its parent and is newer", child))
		}
	}
}
