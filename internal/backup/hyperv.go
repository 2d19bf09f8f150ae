package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"ascend/internal/vm"
)

// A Hyper-V export, as Export-VM and Hyper-V Manager write it, is a folder with
// the machine's name. "Virtual Machines" in it holds the configuration, "Virtual
// Hard Disks" the disks with their parents, "Snapshots" the configuration of each
// checkpoint:
//
//	web01/Virtual Machines/<GUID>.xml     Windows Server 2008 R2 to 2012 R2
//	web01/Virtual Machines/<GUID>.vmcx    Windows Server 2016 and later
//	web01/Virtual Hard Disks/web01.vhdx
//	web01/Snapshots/<GUID>.xml
//
// Both forms are read (hyperv_xml.go, hyperv_vmcx.go). The machine of a .vmcx that
// cannot be has its disks and the folder's name, and a note that says why.
const (
	hvMachines  = "Virtual Machines"
	hvDisks     = "Virtual Hard Disks"
	hvSnapshots = "Snapshots"
)

// hvExport is one export folder.
type hvExport struct {
	path      string
	folders   []*folder // where disks are looked for: hvDisks first
	xml, vmcx []string  // configurations, relative to the root
	snapshots int
	faults    []string
}

// hyperv looks for an export in a folder; nil when it is none. skip is what
// belongs to it.
func (l *lister) hyperv(f *folder, left *int) (e *hvExport, skip []string) {
	named := func(name string) string {
		i := slices.IndexFunc(f.dirs, func(d string) bool { return strings.EqualFold(d, name) })
		if i < 0 {
			return ""
		}
		return f.dirs[i]
	}
	if named(hvMachines) == "" {
		return nil, nil
	}
	e = &hvExport{path: f.path}
	for _, name := range []string{hvDisks, hvMachines, hvSnapshots} {
		d := named(name)
		if d == "" {
			continue
		}
		sub, err := l.folder(f.join(d), left)
		if err != nil {
			e.faults = append(e.faults, fmt.Sprintf("cannot read folder %s: %s", clean(d), reason(err)))
			continue
		}
		if sub.fault != "" {
			e.faults = append(e.faults, sub.fault)
		}
		skip = append(skip, d)
		e.folders = append(e.folders, sub)
		for _, n := range sub.files {
			ext := strings.ToLower(path.Ext(n))
			switch {
			case name == hvSnapshots && (ext == ".xml" || ext == ".vmcx"):
				e.snapshots++
			case name == hvMachines && ext == ".xml":
				e.xml = append(e.xml, sub.join(n))
			case name == hvMachines && ext == ".vmcx":
				e.vmcx = append(e.vmcx, sub.join(n))
			}
		}
	}
	// A folder of several .vmcx is a host's own, in which nothing that is read says
	// whose disks are whose: they are listed as images.
	if len(e.xml) == 0 && len(e.vmcx) != 1 || len(e.xml) > maxExportFiles {
		return nil, nil
	}
	return e, skip
}

// image is the file that a path of the host means: the one of that name in the
// export, for Export-VM moves disks and Windows does not tell case apart. "" when
// there is none.
func (e *hvExport) image(hostPath string) string {
	base := hvBase(hostPath)
	for _, f := range e.folders {
		for _, n := range f.files {
			if strings.EqualFold(n, base) && isImageName(n) {
				return f.join(n)
			}
		}
	}
	return ""
}

// images are the folder's files that are images by their names.
func (f *folder) images() []string {
	return slices.DeleteFunc(slices.Clone(f.files), func(n string) bool { return !isImageName(n) })
}

// hvBase is the file name of a Windows path.
func hvBase(p string) string { return p[strings.LastIndexAny(p, `\/:`)+1:] }

// hypervBackups makes a backup of every machine of the export, and one of every
// image that none of them has.
func (l *lister) hypervBackups(ctx context.Context, e *hvExport) []Backup {
	var out []Backup
	used := map[string]bool{}
	foreign := 0
	for _, name := range e.xml {
		if ctx.Err() != nil {
			return nil
		}
		c, err := l.hvConfig(name)
		switch {
		case err != nil:
			out = append(out, faulty(LayoutHyperV, name, "cannot read the configuration: %s", reason(err)))
		case c == nil:
			foreign++
		default:
			out = append(out, l.hypervMachine(e, c, name, used))
		}
	}
	if foreign == len(e.xml) && len(e.vmcx) == 1 {
		c, err := l.hvBinary(e.vmcx[0])
		if err == nil {
			out = append(out, l.hypervMachine(e, c, e.vmcx[0], used))
		} else {
			out = append(out, l.hypervDisks(e, err, used))
		}
	}
	for i := range out {
		for _, s := range e.faults {
			out[i].note("%s", s)
		}
	}
	for _, f := range e.folders {
		for _, name := range l.tops(f, f.images()) {
			if !used[name] && ctx.Err() == nil {
				out = append(out, l.single(name))
			}
		}
	}
	return out
}

// hypervMachine is a machine that an XML configuration describes.
func (l *lister) hypervMachine(e *hvExport, c *hvConfig, name string, used map[string]bool) Backup {
	m := c.machine
	if m.Name == "" {
		m.Name = clean(path.Base(e.path))
	}
	m.Snapshots = e.snapshots
	b := Backup{VM: m.Name, Origin: vm.HyperV, Type: Full, Layout: LayoutHyperV, Path: e.path, Machine: m}
	if len(e.xml) > 1 {
		b.Path = name
	}
	for _, n := range c.notes {
		b.note("%s", n)
	}
	if len(c.drives) > maxDisks {
		b.fail("the configuration gives the machine %d disks", len(c.drives))
		return b
	}
	for i, dr := range c.drives {
		file := e.image(dr.path)
		d := Disk{Index: i, Name: clean(hvBase(dr.path)), Type: Full}
		switch {
		case file == "":
			d.Fault = fmt.Sprintf("its image %s is not in the export", d.Name)
		case used[file]:
			d.Fault = fmt.Sprintf("its image %s is another disk's too", d.Name)
		default:
			used[file] = true
			l.hypervImage(&b, &d, file)
		}
		l.hypervAdd(&b, d, vm.Disk{Controller: dr.bus, ControllerNumber: dr.controller, Unit: dr.unit, Boot: dr.boot})
	}
	if len(c.drives) == 0 {
		b.fail("the configuration gives the machine no disk")
	}
	if err := plausibleMachine(m); err != nil {
		b.fail("the configuration describes a machine that cannot be: %v", err)
		b.bare(nil)
	}
	return b
}

// hvBinary reads a .vmcx.
func (l *lister) hvBinary(name string) (*hvConfig, error) {
	b, _, err := l.text(name, maxMachine)
	if err != nil {
		return nil, err
	}
	root, err := parseVMCX(b)
	if err != nil {
		return nil, err
	}
	if root == nil {
		return nil, errVMCX
	}
	root.name = "configuration"
	c, err := hvConfigOf(root)
	if err == nil && (c == nil || len(c.drives) == 0) {
		err = errors.New("it names no disk where it is looked for")
	}
	return c, err
}

// hypervDisks is the machine of a .vmcx that cannot be read: its disks alone.
func (l *lister) hypervDisks(e *hvExport, why error, used map[string]bool) Backup {
	name := clean(path.Base(e.path))
	if e.path == "." {
		name = clean(stem(path.Base(e.vmcx[0])))
	}
	b := Backup{VM: name, Origin: vm.HyperV, Type: Full, Layout: LayoutHyperV, Path: e.path, Machine: &vm.Machine{Name: name, Platform: vm.HyperV, Snapshots: e.snapshots}}
	b.note("the configuration %s cannot be read (%s): processors, memory, firmware and networks are not known, and the disks are in the order of their names", clean(path.Base(e.vmcx[0])), reason(why))
	for _, f := range e.folders {
		for _, file := range l.tops(f, f.images()) {
			if len(b.Disks) == maxDisks {
				b.fail("the export holds more than %d disks", maxDisks)
				return b
			}
			used[file] = true
			d := Disk{Index: len(b.Disks), Name: clean(path.Base(file)), Type: Full}
			l.hypervImage(&b, &d, file)
			l.hypervAdd(&b, d, vm.Disk{})
		}
	}
	if len(b.Disks) == 0 {
		b.fail("the export holds no disk")
	}
	return b
}

// hypervImage reads the header of a disk's image, with its parents'.
func (l *lister) hypervImage(b *Backup, d *Disk, file string) {
	im := l.header(file)
	d.Time = im.file.modified.UTC()
	l.measure(d, im)
	if d.Chain > 1 {
		d.Type, b.Type = Incremental, Incremental
	}
	for _, s := range im.notes {
		b.note("%s", s)
	}
}

// hypervAdd adds a disk to the backup and to its machine.
func (l *lister) hypervAdd(b *Backup, d Disk, v vm.Disk) {
	if d.Fault != "" {
		b.fail("disk %d: %s", d.Index, d.Fault)
	}
	if d.Time.After(b.Created) {
		b.Created = d.Time
	}
	v.Index, v.Name, v.Size = d.Index, d.Name, d.Size
	b.Disks = append(b.Disks, d)
	b.Machine.Disks = append(b.Machine.Disks, v)
}

// hvCompare orders drives as the firmware does: IDE before SCSI, then by place.
func hvCompare(a, b hvDrive) int {
	rank := func(d hvDrive) int {
		if d.bus == vm.BusIDE {
			return 0
		}
		return 1
	}
	return cmp.Or(rank(a)-rank(b), a.controller-b.controller, a.unit-b.unit)
}
