package backup

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"ascend/internal/disk"
	"ascend/internal/disk/nbd"
	"ascend/internal/disk/open"
)

// archive is the table of contents of a tar file (an OVA, DSP0243 5.3): ustar,
// GNU and PAX members, of any size. Names are only ever compared, never opened.
type archive struct {
	members []member
	byName  map[string]int // position in members
}

// member is one regular file of an archive.
type member struct {
	name      string
	off, size int64
	fault     string
}

// scan reads the headers of an archive. What it found before an error is
// returned with it.
func scan(f *disk.File) (*archive, error) {
	a := &archive{byName: map[string]int{}}
	in := io.NewSectionReader(f, 0, f.Size())
	r := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return a, fmt.Errorf("the archive is damaged after %d members: %w: %w", n, disk.ErrCorrupt, err)
		}
		if n >= maxMembers {
			return a, fmt.Errorf("the archive has more than %d members: %w", maxMembers, disk.ErrCorrupt)
		}
		off, err := in.Seek(0, io.SeekCurrent)
		if err != nil {
			return a, err
		}
		m := member{name: strings.TrimPrefix(h.Name, "./"), off: off, size: h.Size}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "GNU.sparse.") {
				m.fault = "is stored as a sparse member, which is not read in place"
			}
		}
		if m.fault == "" && (m.size > f.Size() || m.off > f.Size()-m.size) {
			return a, fmt.Errorf("member %.80q ends beyond the archive, which is cut off: %w", m.name, disk.ErrCorrupt)
		}
		if i, ok := a.byName[m.name]; ok {
			a.members[i].fault = "stands in the archive twice"
			continue
		}
		a.byName[m.name] = len(a.members)
		a.members = append(a.members, m)
	}
}

// find is the member of a name.
func (a *archive) find(name string) (member, error) {
	i, ok := a.byName[strings.TrimPrefix(name, "./")]
	if !ok {
		return member{}, fmt.Errorf("%.120q is not in the archive: %w", name, disk.ErrMissing)
	}
	m := a.members[i]
	if m.fault != "" {
		return m, fmt.Errorf("%.120q %s: %w", name, m.fault, disk.ErrUnsupported)
	}
	return m, nil
}

// first is the first member whose name ends so.
func (a *archive) first(ext string) (member, bool) {
	for _, m := range a.members {
		if strings.EqualFold(path.Ext(m.name), ext) && m.fault == "" {
			return m, true
		}
	}
	return member{}, false
}

// openMember opens a disk that lies in an archive, in place.
func (r *Repository) openMember(file, name, format string) (disk.Image, error) {
	f, err := r.root.Open(file)
	if err != nil {
		return nil, err
	}
	a, cut := scan(f)
	m, err := a.find(name)
	if err != nil {
		_ = f.Close()
		if cut != nil {
			err = cut
		}
		return nil, err
	}
	return openPart(r.root, f, file, m, format)
}

// openPart opens member m of the archive f, which it owns.
func openPart(root *disk.Root, f *disk.File, file string, m member, format string) (disk.Image, error) {
	part, err := f.Part(path.Join(file, path.Base(m.name)), m.off, m.size)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	if found, err := open.Detect(part); err == nil && slices.Contains(nbd.Formats, found) {
		_ = part.Close()
		return nil, fmt.Errorf("%s is a %s image, which is not read inside an archive; unpack it: %w", part.Name(), found, disk.ErrUnsupported)
	}
	img, err := open.File(root, part, open.Options{Format: format})
	if err != nil {
		return nil, err
	}
	if len(img.Info().Chain) > 1 {
		_ = img.Close()
		return nil, fmt.Errorf("%s refers to a file outside of its archive: %w", part.Name(), disk.ErrUnsupported)
	}
	return img, nil
}

// read reads a small member whole.
func (m member) read(f *disk.File, limit int64) ([]byte, error) {
	if m.size > limit {
		return nil, fmt.Errorf("%.120q has %d bytes, more than the %d that are read", m.name, m.size, limit)
	}
	b := make([]byte, m.size)
	if n, err := f.ReadAt(b, m.off); n < len(b) {
		return nil, fmt.Errorf("cannot read %.120q: %w", m.name, errors.Join(err, io.ErrUnexpectedEOF))
	}
	return b, nil
}
