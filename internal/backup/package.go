package backup

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"ascend/internal/disk"
	"ascend/internal/ovf"
)

// ovfPackage is an OVF package: a descriptor with files beside it, or an
// archive of them.
type ovfPackage struct {
	layout  Layout
	path    string // of the descriptor or of the archive
	pkg     *ovf.Package
	info    fileInfo
	err     error
	notes   []string
	archive *archive // nil for a folder
	partial error    // the archive is cut off after the descriptor
}

// descriptor reads an OVF descriptor of a folder.
func (l *lister) descriptor(name string) *ovfPackage {
	p := &ovfPackage{layout: LayoutOVF, path: name}
	f, err := l.root.Open(name)
	if err != nil {
		p.err = err
		return p
	}
	p.info = fileInfo{f.Modified(), f.Size()}
	p.parse(l.text(name, ovf.MaxDescriptor))
	_ = f.Close()
	return p
}

func (p *ovfPackage) parse(b []byte, _ bool, err error) {
	if err == nil {
		p.pkg, err = ovf.Parse(bytes.NewReader(b))
	}
	p.err = err
}

// archive reads an OVA.
func (l *lister) archive(name string) []Backup {
	p := &ovfPackage{layout: LayoutOVA, path: name}
	f, err := l.root.Open(name)
	if err != nil {
		p.err = err
		return p.backups(l)
	}
	defer func() { _ = f.Close() }()
	p.info = fileInfo{f.Modified(), f.Size()}
	p.archive, p.partial = scan(f)
	m, ok := p.archive.first(".ovf")
	switch {
	case ok:
		b, err := m.read(f, ovf.MaxDescriptor)
		p.parse(b, true, err)
	case p.partial != nil:
		p.err = p.partial
	default:
		p.err = fmt.Errorf("the archive holds no OVF descriptor: %w", ovf.ErrFormat)
	}
	if _, ok := p.archive.first(".cert"); ok {
		p.notes = append(p.notes, "the package is signed; the signature is not checked")
	}
	return p.backups(l)
}

// uses names the files of the descriptor's folder that belong to the package.
func (p *ovfPackage) uses() []string {
	if p.pkg == nil {
		return nil
	}
	var out []string
	for _, f := range p.pkg.Files {
		out = append(out, f.Names()...)
	}
	return out
}

// backups makes a backup of every machine of the package.
func (p *ovfPackage) backups(l *lister) []Backup {
	if p.err != nil {
		b := faulty(p.layout, p.path, "%s", reason(p.err))
		b.Created = p.info.modified.UTC()
		return []Backup{b}
	}
	var out []Backup
	for i := range p.pkg.Systems {
		out = append(out, p.backup(l, &p.pkg.Systems[i]))
	}
	return out
}

func (p *ovfPackage) backup(l *lister, s *ovf.System) Backup {
	m := s.Machine
	m.Name = clean(m.Name)
	if m.Name == "" {
		m.Name = clean(stem(path.Base(p.path)))
	}
	b := Backup{
		VM: m.Name, Origin: m.Platform, Type: Full, Created: p.info.modified.UTC(), Layout: p.layout, Path: p.path, Machine: m,
	}
	if len(s.Disks) > maxDisks {
		b.fail("the descriptor gives the machine %d disks", len(s.Disks))
		m.Disks = nil
		return b
	}
	for i := range s.Disks {
		d := Disk{Index: i, Name: clean(m.Disks[i].Name), Type: Full, Time: b.Created, Size: s.Disks[i].Capacity}
		if d.Name == "" {
			d.Name = fmt.Sprintf("disk-%d", i)
		}
		if err := p.disk(l, &b, &d, &s.Disks[i]); err != nil {
			d.Fault = reason(err)
			b.fail("disk %d: %s", i, d.Fault)
		}
		m.Disks[i].Size = d.Size
		b.Disks = append(b.Disks, d)
	}
	if len(s.Disks) == 0 {
		b.fail("the descriptor gives the machine no disk")
	}
	b.Notes = append(b.Notes, p.notes...)
	b.Notes = append(b.Notes, s.Notes...)
	if s.Product.Name != "" {
		m.Tags = map[string]string{"product": clean(s.Product.Name)}
		for k, v := range map[string]string{"product.vendor": s.Product.Vendor, "product.version": s.Product.Version} {
			if v = clean(v); v != "" {
				m.Tags[k] = v
			}
		}
	}
	return b
}

// disk finds the file of one disk and reads its header.
func (p *ovfPackage) disk(l *lister, b *Backup, d *Disk, od *ovf.Disk) error {
	switch {
	case od.Fault != "":
		return fmt.Errorf("%s: %w", od.Fault, disk.ErrMissing)
	case od.Parent != "":
		return fmt.Errorf("it is a delta of the disk %.80q of the package: %w", od.Parent, disk.ErrUnsupported)
	case od.File < 0 && (d.Size <= 0 || d.Size > disk.MaxSize):
		return fmt.Errorf("a blank disk of %d bytes: %w", d.Size, disk.ErrCorrupt)
	case od.File < 0:
		b.note("disk %d has no file in the package and starts blank", d.Index)
		return nil
	}
	ref := p.pkg.Files[od.File]
	switch {
	case ref.Compression != "" && ref.Compression != "identity":
		return fmt.Errorf("%.120q is compressed as a whole (%.20s); unpack it first: %w", ref.Href, ref.Compression, disk.ErrUnsupported)
	case ref.ChunkSize > 0:
		return fmt.Errorf("%.120q is stored in pieces of %d bytes; join them first: %w", ref.Href, ref.ChunkSize, disk.ErrUnsupported)
	}
	capacity := d.Size
	var found int64
	var err error
	if p.archive != nil {
		found, err = p.inArchive(l, d, ref)
	} else {
		found, err = p.inFolder(l, d, ref)
	}
	switch {
	case err != nil:
		return err
	case ref.Size >= 0 && found < ref.Size:
		return fmt.Errorf("%.120q has %d bytes, the descriptor says %d: it is cut off: %w", ref.Href, found, ref.Size, disk.ErrCorrupt)
	case ref.Size >= 0 && found != ref.Size:
		b.note("%.120q has %d bytes, the descriptor says %d", ref.Href, found, ref.Size)
	}
	if capacity > 0 && capacity != d.Size {
		b.note("the descriptor says that disk %d has %d bytes, the image has %d", d.Index, capacity, d.Size)
	}
	return nil
}

// inArchive reads the header of a disk in the archive; it returns the member's
// length.
func (p *ovfPackage) inArchive(l *lister, d *Disk, ref ovf.FileRef) (int64, error) {
	var m member
	err := disk.ErrMissing
	for _, n := range ref.Names() {
		if m, err = p.archive.find(n); err == nil || !errors.Is(err, disk.ErrMissing) {
			break
		}
	}
	if err != nil {
		if p.partial != nil {
			err = p.partial
		}
		return 0, err
	}
	d.Path, d.Member, d.Bytes, d.Chain = p.path, m.name, m.size, 1
	f, err := l.root.Open(p.path)
	if err != nil {
		return 0, err
	}
	img, err := openPart(l.root, f, p.path, m, "")
	if err != nil {
		return 0, err
	}
	d.Size, d.Format = img.Size(), img.Info().Format
	return m.size, img.Close()
}

// inFolder reads the header of a disk beside the descriptor; it returns the
// file's length.
func (p *ovfPackage) inFolder(l *lister, d *Disk, ref ovf.FileRef) (int64, error) {
	err := disk.ErrMissing
	for _, n := range ref.Names() {
		var name string
		if name, err = beside(p.path, n); err != nil {
			continue
		}
		im := l.header(name)
		if errors.Is(im.err, disk.ErrMissing) && im.file.modified.IsZero() {
			err = im.err
			continue
		}
		size := d.Size
		l.measure(d, im)
		if d.Size == 0 {
			d.Size = size
		}
		if d.Fault != "" {
			return 0, errors.New(d.Fault)
		}
		return im.file.size, nil
	}
	return 0, err
}

// beside is the path of a file that a descriptor names. A name that leaves the
// descriptor's folder is refused, though it stayed in the repository.
func beside(from, href string) (string, error) {
	switch {
	case strings.Contains(href, "://"):
		return "", fmt.Errorf("%.120q lies elsewhere and is not fetched: %w", href, disk.ErrUnsupported)
	case !fs.ValidPath(href) && !fs.ValidPath(path.Clean(href)), slices.Contains(strings.Split(href, "/"), ".."), href == ".":
		return "", fmt.Errorf("%.120q is no name of a file beside the descriptor: %w", href, disk.ErrEscape)
	}
	return path.Join(path.Dir(from), href), nil
}
