package backup

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"ascend/internal/disk"
	"ascend/internal/disk/nbd"
	"ascend/internal/disk/open"
	"ascend/internal/disk/qcow2"
	"ascend/internal/vm"
)

// List finds every backup below the root, sorted by machine, time and path. Only
// headers and small text files are read. Folders are followed to a depth of 6,
// symbolic links to folders and folders whose names start with a dot are not.
// The error is for a root that cannot be read and for ctx; what is wrong with a
// single entry stands in its Fault.
func (r *Repository) List(ctx context.Context) ([]Backup, error) {
	if r.files != nil {
		return []Backup{clone(*r.files)}, nil
	}
	if r.ebs != nil {
		out, err := r.ebs.list(ctx)
		if err != nil {
			return nil, fmt.Errorf("cannot list the snapshots of %s: %w", r.name, err)
		}
		finish(out)
		return out, nil
	}
	l := newLister(r)
	jobs, faults, err := l.walk(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list backups: %w", err)
	}
	results := make([][]Backup, len(jobs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxWorkers)
	for i, job := range jobs {
		g.Go(func() error {
			if ctx.Err() == nil {
				results[i] = job(ctx)
			}
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("cannot list backups: %w", err)
	}
	out := faults
	for _, bs := range results {
		out = append(out, bs...)
	}
	l.flagParents(out)
	finish(out)
	return out, nil
}

// finish sorts backups and makes their IDs unique.
func finish(all []Backup) {
	slices.SortStableFunc(all, func(a, b Backup) int {
		return cmp.Or(cmp.Compare(a.VM, b.VM), a.Created.Compare(b.Created), cmp.Compare(a.Path, b.Path), cmp.Compare(key(a), key(b)))
	})
	count := map[string]int{}
	for i := range all {
		count[all[i].ID]++
	}
	for i := range all {
		b := &all[i]
		if !goodID(b.ID) || count[b.ID] > 1 {
			b.ID = derivedID(key(*b))
		}
	}
}

// key tells a backup from all others of the repository.
func key(b Backup) string {
	parts := []string{b.Path, b.Created.String(), b.Machine.Name}
	for _, d := range b.Disks {
		parts = append(parts, d.Path, d.Member)
	}
	return strings.Join(parts, "\x00")
}

func derivedID(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:6])
}

// goodID is an identifier that can be typed and shown.
func goodID(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xfffd || r == '@' })
}

func clone(b Backup) Backup {
	b.Disks, b.Notes, b.Machine = slices.Clone(b.Disks), slices.Clone(b.Notes), b.Machine.Clone()
	return b
}

// faulty is an entry that is nothing but its fault.
func faulty(layout Layout, name, format string, args ...any) Backup {
	stem := strings.ToValidUTF8(stem(path.Base(name)), "�")
	return Backup{
		VM: stem, Type: Full, Layout: layout, Path: strings.ToValidUTF8(name, "�"), Machine: &vm.Machine{Name: stem},
		Fault: fmt.Sprintf(format, args...),
	}
}

// lister is one listing. It remembers the headers of the files it has read, for
// a parent is the parent of many.
type lister struct {
	repo *Repository
	root *disk.Root

	mu    sync.Mutex
	files map[string]*image
}

func newLister(r *Repository) *lister {
	return &lister{repo: r, root: r.root, files: map[string]*image{}}
}

// image is what the header of one image file says.
type image struct {
	once   sync.Once
	path   string
	format string
	size   int64 // virtual
	bytes  int64 // of the file, with its parents' for formats other than qcow2
	file   fileInfo
	ref    string   // the backing file as the header names it
	parent string   // the backing file in the repository, when ref is not empty
	err    error    // why the file itself is no good
	refErr error    // why its parent cannot be found
	chain  int      // files, for formats other than qcow2
	below  []string // the parents' files, for formats other than qcow2
	notes  []string
}

// header reads the header of a file once.
func (l *lister) header(name string) *image {
	l.mu.Lock()
	im := l.files[name]
	if im == nil {
		im = &image{path: name}
		l.files[name] = im
	}
	l.mu.Unlock()
	im.once.Do(func() { l.read(im) })
	return im
}

func (l *lister) read(im *image) {
	f, err := l.root.Open(im.path)
	if err != nil {
		im.err = err
		return
	}
	im.bytes, im.file = f.Size(), fileInfo{f.Modified(), f.Size()}
	if im.format, im.err = open.Detect(f); im.err != nil {
		_ = f.Close()
		return
	}
	switch {
	case slices.Contains(nbd.Formats, im.format):
		im.size, im.err = declaredSize(f, im.format)
		im.chain = 1
		im.err = errors.Join(im.err, f.Close())
		return
	case im.format != "qcow2":
		_ = f.Close()
		l.whole(im)
		return
	}
	// One layer alone: its parent is named, not opened.
	env := &disk.Env{Root: l.root, Part: noPart, Parent: func(_, ref, _ string) (disk.Image, error) {
		im.ref = ref
		return blank(disk.MaxSize), nil
	}}
	img, err := qcow2.Open(env, f)
	if err != nil {
		im.err = err
		return
	}
	im.size, im.notes = img.Size(), img.Info().Notes
	im.err = img.Close()
	if im.ref != "" {
		im.parent, im.refErr = l.root.Resolve(im.path, im.ref)
	}
}

// whole opens a file of another format with all its parents.
func (l *lister) whole(im *image) {
	img, err := open.Disk(l.root, im.path, "")
	if err != nil {
		im.err = err
		return
	}
	info := img.Info()
	im.size, im.bytes, im.notes, im.chain = img.Size(), info.FileBytes, info.Notes, max(len(info.Chain), 1)
	im.format = info.Format
	for _, y := range info.Chain[min(1, len(info.Chain)):] {
		im.below = append(im.below, y.Path)
	}
	im.err = img.Close()
}

func noPart(from, ref string) (*disk.File, error) {
	return nil, fmt.Errorf("%s refers to %.120q: %w", from, ref, disk.ErrUnsupported)
}

// chain follows the backing files of a layer. It returns the layers, the top
// first, and why the last one has no good parent.
func (l *lister) chain(top *image) ([]*image, error) {
	all := []*image{top}
	for im := top; ; {
		switch {
		case im.err != nil && im != top:
			return all, fmt.Errorf("its parent %s is not readable: %w", im.path, im.err)
		case im.err != nil:
			return all, im.err
		case im.refErr != nil:
			return all, im.refErr
		case im.ref == "":
			return all, nil
		}
		next := l.header(im.parent)
		if slices.Contains(all, next) {
			return all, fmt.Errorf("the backing chain of %s comes back to %s: %w", top.path, next.path, disk.ErrCorrupt)
		}
		if len(all) >= disk.MaxChain {
			return all, fmt.Errorf("the backing chain of %s has more than %d files: %w", top.path, disk.MaxChain, disk.ErrCorrupt)
		}
		all = append(all, next)
		im = next
	}
}

// measure fills what the chain of a layer says of a disk.
func (l *lister) measure(d *Disk, top *image) []*image {
	d.Path, d.Format, d.Size, d.Chain = top.path, top.format, top.size, top.chain
	layers, err := l.chain(top)
	for _, im := range layers {
		d.Bytes += im.bytes
	}
	if top.format == "qcow2" {
		d.Chain = len(layers)
	}
	if err != nil {
		d.Fault, d.Format = reason(err), ""
	}
	return layers
}

// text reads a small file whole; ok is false when there is none.
func (l *lister) text(name string, limit int64) (b []byte, ok bool, err error) {
	f, err := l.root.Open(name)
	if errors.Is(err, disk.ErrMissing) {
		return nil, false, nil
	}
	if err != nil {
		return nil, true, err
	}
	defer func() { _ = f.Close() }()
	if f.Size() > limit {
		return nil, true, fmt.Errorf("%s has %d bytes, more than the %d that are read", name, f.Size(), limit)
	}
	b = make([]byte, f.Size())
	if n, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) || n < len(b) {
		return nil, true, fmt.Errorf("cannot read %s: %w", name, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	return b, true, nil
}

func readZeros(p []byte, off, size int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), size-off))
	clear(p[:n])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
