package vhdx

import (
	"fmt"

	"ascend/internal/disk"
	"ascend/internal/disk/backing"
)

// link is what a differencing disk knows of its parent ([MS-VHDX] 2.6.2.6.3).
type link struct {
	// ids are the parent's possible DataWriteGuids: parent_linkage and, while a
	// merge was under way, parent_linkage2.
	ids   []guid
	names []string // in the order in which they must be tried
}

// parentLink reads the parent locator's pairs.
func parentLink(name string, pairs map[string]string) (link, error) {
	var l link
	for _, key := range []string{"parent_linkage", "parent_linkage2"} {
		if s, ok := pairs[key]; ok {
			id, ok := parseGUID(s)
			if !ok {
				return link{}, fmt.Errorf("%s: %s is %.80q, which is no GUID: %w", name, key, s, disk.ErrCorrupt)
			}
			if id != (guid{}) {
				l.ids = append(l.ids, id)
			}
		}
	}
	if len(l.ids) == 0 {
		return link{}, fmt.Errorf("%s: parent locator without the parent's identifier: %w", name, disk.ErrCorrupt)
	}
	for _, key := range []string{"relative_path", "volume_path", "absolute_win32_path"} {
		if s := pairs[key]; s != "" {
			l.names = append(l.names, s)
		}
	}
	return l, nil
}

// open opens the parent by the first name that leads to the image with one of
// the identifiers. It returns the name too.
func (l link) open(env *disk.Env, f *disk.File, logical int64) (*image, string, error) {
	img, name, err := backing.Open(env, f.Name(), l.names, "vhdx", func(p *disk.File) error {
		if err := checkIdentifier(p); err != nil {
			return fmt.Errorf("%s: cannot open its parent: %w", f.Name(), err)
		}
		h, err := readHeader(p)
		if err != nil {
			return fmt.Errorf("%s: cannot open its parent: %w", f.Name(), err)
		}
		return l.check(f.Name(), p.Name(), h.dataWrite)
	})
	if err != nil {
		return nil, "", fmt.Errorf("%s: cannot open the parent of a differencing VHDX: %w", f.Name(), err)
	}
	parent, ok := img.(*image)
	if !ok {
		img.Close()
		return nil, "", fmt.Errorf("%s: the parent %q was not opened as VHDX: %w", f.Name(), name, disk.ErrFormat)
	}
	// Once more: the file may have been replaced between the two looks at it.
	err = l.check(f.Name(), parent.view.f.Name(), parent.dataWrite)
	if err == nil && parent.meta.logical != logical {
		// [MS-VHDX] 2.6.2.4
		err = fmt.Errorf("%s has sectors of %d bytes and its parent %s of %d: %w", f.Name(), logical, parent.view.f.Name(), parent.meta.logical, disk.ErrCorrupt)
	}
	if err != nil {
		parent.Close()
		return nil, "", err
	}
	return parent, name, nil
}

func (l link) check(child, parent string, id guid) error {
	for _, want := range l.ids {
		if id == want {
			return nil
		}
	}
	return fmt.Errorf("%s was made on an image with the data identifier %v, and %s has %v: it is not its parent, or was written to since: %w", child, l.ids[0], parent, id, disk.ErrCorrupt)
}
