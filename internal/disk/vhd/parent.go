package vhd

import (
	"encoding/binary"
	"fmt"
	"net/url"
	"strings"
	"time"

	"ascend/internal/disk"
	"ascend/internal/disk/backing"
)

// epoch is where VHD's time stamps start ("Hard Disk Footer Format", Time Stamp).
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// parentNames lists the names that the header states for the parent, the ones
// relative to the image first: W2ru (relative Windows path) and W2ku (absolute)
// in UTF-16 little-endian, MacX (a file URL in UTF-8), then the name without a
// path, which the header itself holds in UTF-16 big-endian ("Dynamic Disk Header
// Format"). The deprecated codes Wi2r, Wi2k and Mac are of unstated encoding
// and are left out. Locators outside the file are left out as well: one good
// name is enough.
func (h header) parentNames(f *disk.File) []string {
	byCode := make(map[string][]string)
	for _, l := range h.locators {
		if l.length == 0 || l.length > maxLocator || l.offset > uint64(f.Size()) || uint64(f.Size())-l.offset < uint64(l.length) {
			continue
		}
		p := make([]byte, l.length)
		if f.ReadFull(p, int64(l.offset)) != nil {
			continue
		}
		switch l.code {
		case "W2ru", "W2ku":
			byCode[l.code] = append(byCode[l.code], utf16String(p, binary.LittleEndian))
		case "MacX":
			s, _, _ := strings.Cut(string(p), "\x00")
			byCode[l.code] = append(byCode[l.code], fileURL(s)...)
		}
	}
	var names []string
	for _, code := range []string{"W2ru", "W2ku", "MacX"} {
		names = append(names, byCode[code]...)
	}
	if h.parentName != "" {
		names = append(names, h.parentName)
	}
	return names
}

// fileURL turns a file URL into paths: decoded by RFC 2396, as the specification
// says, and verbatim, as XenServer writes it ("file://./parent.vhd").
func fileURL(s string) []string {
	s = strings.TrimPrefix(s, "file://")
	s = strings.TrimPrefix(s, "localhost")
	names := []string{s}
	if d, err := url.PathUnescape(s); err == nil && d != s {
		names = append(names, d)
	}
	return names
}

// openParent opens the parent by the first name that leads to the image with
// the identifier that the header states ("Identification of the Parent Hard
// Disk Image"). It returns the name too.
func (h header) openParent(env *disk.Env, f *disk.File) (*image, string, error) {
	if h.parent == (uid{}) {
		// Without an identifier nothing tells whether it is the right parent.
		return nil, "", fmt.Errorf("%s: a differencing VHD without its parent's identifier (XenServer: a raw parent): %w", f.Name(), disk.ErrUnsupported)
	}
	names := h.parentNames(f)
	img, name, err := backing.Open(env, f.Name(), names, "vhd", func(p *disk.File) error {
		foot, err := findFooter(p)
		if err != nil {
			return fmt.Errorf("%s: cannot open its parent: %w", f.Name(), err)
		}
		return h.isParent(f.Name(), p.Name(), foot.id)
	})
	if err != nil {
		return nil, "", fmt.Errorf("%s: cannot open the parent of a differencing VHD: %w", f.Name(), err)
	}
	parent, ok := img.(*image)
	if !ok {
		img.Close()
		return nil, "", fmt.Errorf("%s: the parent %q was not opened as VHD: %w", f.Name(), name, disk.ErrFormat)
	}
	// Once more: the file may have been replaced between the two looks at it.
	if err := h.isParent(f.Name(), parent.file.Name(), parent.foot.id); err != nil {
		parent.Close()
		return nil, "", err
	}
	return parent, name, nil
}

func (h header) isParent(child, parent string, id uid) error {
	if id == h.parent {
		return nil
	}
	return fmt.Errorf("%s was made on an image with the identifier %v, and %s is %v: it is not its parent: %w", child, h.parent, parent, id, disk.ErrCorrupt)
}

// parentNote says when the parent's modification time is not the one that the
// child recorded ("Modification of Parent Hard Disk Image"). Copying a backup
// does that too, so it proves nothing.
func (h header) parentNote(child string, parent *disk.File) (string, error) {
	st, err := parent.Fd().Stat()
	if err != nil {
		return "", fmt.Errorf("%s: %w", parent.Name(), err)
	}
	if h.parentTime == 0 || st.ModTime().Unix()-epoch.Unix() == int64(h.parentTime) {
		return "", nil
	}
	return fmt.Sprintf("%s: its parent %s has another modification time (%s) than was recorded (%s): it was copied, or changed since; the identifiers agree",
		child, parent.Name(), st.ModTime().UTC().Format(time.RFC3339), epoch.Add(time.Duration(h.parentTime)*time.Second).Format(time.RFC3339)), nil
}
