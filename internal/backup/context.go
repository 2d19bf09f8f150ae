package backup

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"ascend/internal/vm"
)

// contextFolder is one ctx-<vm>-<timestamp> folder.
type contextFolder struct {
	path  string // relative to the root; "." when the root is the folder
	vm    string // by the folder's name
	stamp string
	disks []*diskFolder
	json  bool // a vm.json is there
}

// diskFolder is one disk-<N> folder of a context.
type diskFolder struct {
	name   string
	number int
	folder *folder
	fault  string
}

// contextOf tells whether a folder is a context: by its name, or because it
// holds disk folders. nil when it is not.
func contextOf(f *folder) *contextFolder {
	c := &contextFolder{path: f.path, json: slices.Contains(f.files, machineFile)}
	name, stamp, named := parseContext(path.Base(f.path))
	c.vm, c.stamp = clean(name), stamp
	for _, d := range f.dirs {
		if n, ok := diskNumber(d); ok {
			c.disks = append(c.disks, &diskFolder{name: d, number: n})
		}
	}
	found := len(c.disks) > 0
	for _, d := range f.links {
		if n, ok := diskNumber(d); ok {
			c.disks = append(c.disks, &diskFolder{name: d, number: n, fault: "is a symbolic link, which is not followed"})
		}
	}
	if !named && !found {
		return nil
	}
	slices.SortStableFunc(c.disks, func(a, b *diskFolder) int { return cmp.Compare(a.number, b.number) })
	return c
}

// layer is one backup file of one disk.
type layer struct {
	path    string
	number  int // of the disk
	image   *image
	side    *sidecar // nil without one that is readable
	name    fileName
	named   bool
	kind    Type
	time    time.Time // to group by
	byName  time.Time // zero where the name holds no time
	created time.Time // to show
	depth   int       // layers below it
	fault   string
	notes   []string
}

func (y *layer) id() string {
	if y.side != nil {
		return y.side.id
	}
	return ""
}

// context reads one context folder: a backup for every point in time.
func (l *lister) context(ctx context.Context, c *contextFolder) []Backup {
	perDisk := map[int][]*layer{}
	var all []*layer
	var faults []string // of the whole context
	var notes []string
	for _, d := range c.disks {
		where := path.Join(c.path, d.name)
		switch {
		case ctx.Err() != nil:
			return nil
		case d.fault != "":
			faults = append(faults, where+": "+d.fault)
			continue
		case perDisk[d.number] != nil:
			faults = append(faults, fmt.Sprintf("%s: the context has two folders for disk %d", where, d.number))
			continue
		}
		layers := l.layers(c, d)
		if len(layers) == 0 {
			faults = append(faults, where+": the folder holds no backup file")
			continue
		}
		notes = append(notes, l.chainNotes(where, d, layers)...)
		perDisk[d.number] = layers
		all = append(all, layers...)
	}
	if len(all) == 0 {
		b := faulty(LayoutContext, c.path, "%s", cmp.Or(strings.Join(faults, "; "), "the context holds no disk folder"))
		b.VM = cmp.Or(c.vm, b.VM)
		b.Machine.Name = b.VM
		b.Created, _ = parseTime(c.stamp)
		return []Backup{b}
	}
	oneClock(all, perDisk)
	machine, machineNotes := l.machine(path.Join(c.path, machineFile), c.json)
	points := group(all, len(perDisk))
	vmName := nameOf(c, all)
	var out []Backup
	for _, p := range points {
		b := Backup{VM: vmName, Layout: LayoutContext, Path: c.path, Created: p.created, Type: Full, Machine: &vm.Machine{}}
		if len(faults) > 0 {
			b.fail("%s", strings.Join(faults, "; "))
		}
		tags := map[string]string{}
		for _, n := range sortedKeys(perDisk) {
			l.addDisk(&b, p, n, perDisk[n], tags)
		}
		b.Notes = append(b.Notes, notes...)
		b.Notes = append(b.Notes, machineNotes...)
		b.bare(tags)
		if machine != nil {
			b.describe(machine)
		}
		if len(b.Notes) > maxNotes {
			b.Notes = append(b.Notes[:maxNotes-1], "further notes are left out")
		}
		out = append(out, b)
	}
	return out
}

// addDisk puts disk n at point p into the backup.
func (l *lister) addDisk(b *Backup, p *point, n int, layers []*layer, tags map[string]string) {
	y, fresh := p.layers[n], true
	if y == nil {
		y, fresh = newestBefore(layers, p.time), false
	}
	if y == nil {
		b.note("disk %d has no backup as early as this; it is left out", n)
		return
	}
	d := Disk{Index: n, ID: y.id(), Name: fmt.Sprintf("disk-%d", n), Type: y.kind, Time: y.created}
	l.measure(&d, y.image)
	d.Path = y.path
	if d.Fault == "" {
		d.Fault = y.fault
	}
	if d.Fault != "" {
		b.fail("disk %d: %s", n, d.Fault)
	}
	if !fresh {
		b.note("disk %d was not backed up at this point; its backup of %s is used", n, y.created.Format(time.RFC3339))
	}
	for _, s := range y.notes {
		b.note("%s", s)
	}
	if fresh && y.kind != Full {
		if b.Type == Full || y.kind == Incremental {
			b.Type = y.kind
		}
	}
	if fresh && b.ID == "" {
		b.ID = y.id()
	}
	if y.side != nil {
		if b.Origin == vm.Unknown {
			b.Origin = y.side.origin
		}
		for k, v := range y.side.tags {
			if _, ok := tags[k]; !ok {
				tags[k] = v
			}
		}
	}
	b.Disks = append(b.Disks, d)
}

// layers reads the backup files of one disk folder, oldest first.
func (l *lister) layers(c *contextFolder, d *diskFolder) []*layer {
	f := d.folder
	var out []*layer
	for _, name := range f.files {
		if isImageName(name) {
			out = append(out, l.layer(c, d, f, name))
		}
	}
	for _, name := range f.special {
		if isImageName(name) {
			y := &layer{path: f.join(name), number: d.number, kind: Full, image: &image{path: f.join(name)}}
			y.fault = "is a pipe, socket or device, not a file"
			y.name, y.named = parseFile(name)
			y.stampTimes(c)
			out = append(out, y)
		}
	}
	slices.SortStableFunc(out, olderFirst)
	return out
}

func olderFirst(a, b *layer) int {
	return cmp.Or(a.time.Compare(b.time), cmp.Compare(a.depth, b.depth), cmp.Compare(a.path, b.path))
}

func (l *lister) layer(c *contextFolder, d *diskFolder, f *folder, name string) *layer {
	y := &layer{path: f.join(name), number: d.number, kind: Full}
	y.name, y.named = parseFile(name)
	if y.named && y.name.disk != d.number {
		y.note("%s is named for disk %d and lies in the folder of disk %d", name, y.name.disk, d.number)
	}
	y.image = l.header(y.path)
	l.sidecar(y, f, name)
	below, err := l.chain(y.image)
	y.depth = len(below) - 1
	hasParent := y.image.ref != "" || y.image.chain > 1
	if y.image.err == nil {
		if hasParent {
			y.kind = Incremental
		}
		y.settle(below, hasParent)
		for _, n := range y.image.notes {
			y.note("%s: %s", name, n)
		}
	} else if y.side != nil && y.side.kind != "" {
		y.kind = y.side.kind
	}
	if err != nil && y.fault == "" {
		y.fault = reason(err)
	}
	y.stampTimes(c)
	return y
}

func (y *layer) note(format string, args ...any) {
	if len(y.notes) < maxNotes {
		y.notes = append(y.notes, fmt.Sprintf(format, args...))
	}
}

// sidecar reads the JSON beside a backup file.
func (l *lister) sidecar(y *layer, f *folder, name string) {
	side := name + ".json"
	if !slices.Contains(f.files, side) {
		y.note("%s has no sidecar", name)
		return
	}
	b, _, err := l.text(f.join(side), maxSidecar)
	if err == nil {
		y.side, err = parseSidecar(side, b)
	}
	if err != nil {
		y.side = nil
		y.note("the sidecar of %s is not usable: %s", name, reason(err))
		return
	}
	y.notes = append(y.notes, y.side.notes...)
}

// settle compares what the sidecar says with what the image is. An image
// without a parent whose sidecar calls it incremental holds only what changed,
// and nothing tells of what: restoring it would give a damaged disk.
func (y *layer) settle(below []*image, hasParent bool) {
	if y.side == nil {
		return
	}
	switch k := y.side.kind; {
	case k == Incremental || k == Differential:
		y.kind = k
		if !hasParent {
			y.fault = fmt.Sprintf("its sidecar says %s and the image names no parent", k)
		}
	case k == Full && hasParent:
		y.note("the sidecar of %s says full, the image has a parent", path.Base(y.path))
	}
	if v := y.side.virtual; v > 0 && v != y.image.size {
		y.note("the sidecar of %s says %d bytes, the image has %d", path.Base(y.path), v, y.image.size)
	}
	if hasParent && y.side.parent != "" && len(below) > 1 && y.side.parent == y.side.id {
		y.note("the sidecar of %s names the backup itself as its parent", path.Base(y.path))
	}
}

// stampTimes finds when the layer was made: by the file's name to group by,
// because one run names its files alike; by the sidecar to show.
func (y *layer) stampTimes(c *contextFolder) {
	if y.named {
		y.byName, _ = parseTime(y.name.stamp)
	}
	var bySide time.Time
	if y.side != nil {
		bySide = y.side.created
	}
	byFolder, folderOK := parseTime(c.stamp)
	switch {
	case !y.byName.IsZero():
		y.time = y.byName
	case !bySide.IsZero():
		y.time = bySide
	case !y.image.file.modified.IsZero():
		y.time = y.image.file.modified.UTC()
		if y.image.err == nil {
			y.note("the time of %s is that of the file", path.Base(y.path))
		}
	case folderOK:
		y.time = byFolder
	}
	y.created = y.time
	if !bySide.IsZero() {
		y.created = bySide
	}
}

// oneClock groups all layers by the sidecars' times where not all names hold
// one: names may be in local time, and must not be compared with sidecars.
func oneClock(all []*layer, perDisk map[int][]*layer) {
	names, sides := true, true
	for _, y := range all {
		names = names && !y.byName.IsZero()
		sides = sides && y.side != nil && !y.side.created.IsZero()
	}
	if names || !sides {
		return
	}
	for _, y := range all {
		y.time = y.side.created
	}
	for _, layers := range perDisk {
		slices.SortStableFunc(layers, olderFirst)
	}
}

// nameOf is the machine's name: by the sidecars, else by the folder, else by
// the files.
func nameOf(c *contextFolder, all []*layer) string {
	for _, y := range slices.Backward(all) {
		if y.side != nil && y.side.vm != "" {
			return y.side.vm
		}
	}
	if c.vm != "" {
		return c.vm
	}
	for _, y := range all {
		if y.named {
			return clean(y.name.vm)
		}
	}
	return clean(path.Base(c.path))
}

// chainNotes compares chain.json with the files that are there.
func (l *lister) chainNotes(where string, d *diskFolder, layers []*layer) []string {
	const file = "chain.json"
	if !slices.Contains(d.folder.files, file) {
		return nil
	}
	name := path.Join(where, file)
	b, _, err := l.text(name, maxSidecar)
	var c *chainFile
	if err == nil {
		c, err = parseChain(name, b)
	}
	if err != nil {
		return []string{fmt.Sprintf("%s is not usable: %s", name, reason(err))}
	}
	notes := c.notes
	add := func(format string, args ...any) {
		if len(notes) < 8 {
			notes = append(notes, name+fmt.Sprintf(format, args...))
		}
	}
	if c.repeats {
		add(" lists a backup twice")
	}
	if c.total >= 0 && c.total != int64(len(layers)) {
		add(" counts %d backups, the folder holds %d", c.total, len(layers))
	}
	known := map[string]*layer{}
	sidecars := true
	for _, y := range layers {
		if y.id() == "" {
			sidecars = false
		}
		known[y.id()] = y
	}
	for _, id := range c.ids {
		if known[id] == nil && sidecars {
			add(" lists the backup %.80q, which is not in the folder", id)
		}
	}
	if len(c.ids) > 0 {
		for _, y := range layers {
			if id := y.id(); id != "" && !slices.Contains(c.ids, id) {
				add(" does not list the backup %.80q", id)
			}
		}
	}
	if y := known[c.full]; c.full != "" && y != nil && y.kind != Full {
		add(" names the %s backup %.80q as the full one", y.kind, c.full)
	}
	return notes
}

// machine reads the vm.json of a folder.
func (l *lister) machine(name string, there bool) (*vm.Machine, []string) {
	if !there {
		return nil, nil
	}
	b, _, err := l.text(name, maxMachine)
	if err == nil {
		var m *vm.Machine
		var notes []string
		if m, notes, err = parseMachine(b); err == nil {
			return m, notes
		}
	}
	return nil, []string{fmt.Sprintf("%s is not usable: %s", machineFile, reason(err))}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
