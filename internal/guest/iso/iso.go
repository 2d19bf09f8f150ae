// Package iso reads the files of an ISO 9660 image (ECMA-119) with the names of
// Rock Ridge or Joliet where it has them. An image is hostile input: every
// extent is checked against the image, and folders are bounded.
package iso

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"unicode/utf16"
)

// Errors that callers tell apart.
var (
	ErrFormat  = errors.New("not an ISO 9660 image")
	ErrCorrupt = errors.New("ISO 9660 image is damaged or hostile")
)

const (
	sector     = 2048
	maxFolder  = 16 << 20
	maxFiles   = 200_000
	maxDepth   = 24
	maxVolumes = 64 // descriptors
)

// File is one file of an image.
type File struct {
	Path string // with slashes, from the image's root, without one before
	Size int64
	at   int64
}

// Image is an opened image.
type Image struct {
	r     io.ReaderAt
	size  int64
	Files []File
	names namer
}

// namer is how names are read.
type namer int

const (
	plain namer = iota
	rockRidge
	joliet
)

// Open lists all files of an image of size bytes. r is read as long as the image
// is in use.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	im := &Image{r: r, size: size}
	var primary, wide []byte
	for i := range int64(maxVolumes) {
		b, err := im.read((16+i)*sector, sector)
		if err != nil || string(b[1:6]) != "CD001" {
			break
		}
		switch {
		case b[0] == 1 && primary == nil:
			primary = b[156:190]
		case b[0] == 2 && b[88] == '%' && b[89] == '/' && strings.IndexByte("@CE", b[90]) >= 0:
			wide = b[156:190] // Joliet's escape sequences
		}
		if b[0] == 255 {
			break
		}
	}
	if primary == nil {
		return nil, ErrFormat
	}
	root := primary
	ridge, err := im.ridge(primary)
	switch {
	case err != nil:
		return nil, err
	case ridge:
		im.names = rockRidge
	case wide != nil:
		im.names, root = joliet, wide
	}
	return im, im.walk(root, "", 0, map[uint32]bool{})
}

// Read reads a whole file of at most limit bytes.
func (im *Image) Read(f File, limit int64) ([]byte, error) {
	if f.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", f.Path, f.Size, limit)
	}
	return im.read(f.at, f.Size)
}

func (im *Image) read(at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || at > im.size-n {
		return nil, fmt.Errorf("%w: it ends early", ErrCorrupt)
	}
	b := make([]byte, n)
	if _, err := im.r.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

// extent is a record's (ECMA-119, 9.1).
func extent(rec []byte) (lba uint32, size int64) {
	return binary.LittleEndian.Uint32(rec[2:]), int64(binary.LittleEndian.Uint32(rec[10:]))
}

func (im *Image) folder(rec []byte) ([]byte, error) {
	lba, n := extent(rec)
	if n > maxFolder {
		return nil, fmt.Errorf("%w: folder of %d bytes", ErrCorrupt, n)
	}
	return im.read(int64(lba)*sector, n)
}

// records calls f with each record of a folder but itself and its parent.
func records(b []byte, f func(rec []byte) error) error {
	for at := 0; at < len(b); {
		n := int(b[at])
		if n == 0 { // records do not cross sectors
			at = (at/sector + 1) * sector
			continue
		}
		if n < 34 || at+n > len(b) || 33+int(b[at+32]) > n {
			return fmt.Errorf("%w: folder's record", ErrCorrupt)
		}
		rec := b[at : at+n]
		at += n
		if rec[32] == 1 && rec[33] <= 1 {
			continue
		}
		if err := f(rec); err != nil {
			return err
		}
	}
	return nil
}

// ridge tells whether any record of the root has a Rock Ridge name.
func (im *Image) ridge(root []byte) (found bool, err error) {
	b, err := im.folder(root)
	if err == nil {
		err = records(b, func(rec []byte) error {
			found = found || ridgeName(rec) != ""
			return nil
		})
	}
	return found, err
}

// ridgeName joins the NM entries of a record (RRIP 4.1.4); continuation areas are
// not followed: a name that long falls back to the plain one.
func ridgeName(rec []byte) string {
	at := 33 + int(rec[32])
	at += at & 1 // padded to an even offset
	name := ""
	for at+4 <= len(rec) {
		n := int(rec[at+2])
		if n < 4 || at+n > len(rec) {
			break
		}
		if string(rec[at:at+2]) == "NM" && n > 5 && rec[at+4]&6 == 0 {
			name += string(rec[at+5 : at+n])
		}
		at += n
	}
	return name
}

func (im *Image) name(rec []byte) string {
	raw := rec[33 : 33+int(rec[32])]
	s := string(raw)
	switch im.names {
	case rockRidge:
		if r := ridgeName(rec); r != "" {
			return r
		}
	case joliet:
		u := make([]uint16, len(raw)/2)
		for i := range u {
			u[i] = binary.BigEndian.Uint16(raw[2*i:])
		}
		s = string(utf16.Decode(u))
	}
	s, _, _ = strings.Cut(s, ";") // the version
	return strings.TrimSuffix(s, ".")
}

func (im *Image) walk(rec []byte, at string, depth int, seen map[uint32]bool) error {
	lba, _ := extent(rec)
	if depth > maxDepth || seen[lba] {
		return fmt.Errorf("%w: folders in a circle", ErrCorrupt)
	}
	seen[lba] = true
	b, err := im.folder(rec)
	if err != nil {
		return err
	}
	return records(b, func(rec []byte) error {
		name := im.name(rec)
		if name == "" || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
			return fmt.Errorf("%w: name of a file", ErrCorrupt)
		}
		p := path.Join(at, name)
		if rec[25]&2 != 0 {
			return im.walk(rec, p, depth+1, seen)
		}
		if len(im.Files) >= maxFiles {
			return fmt.Errorf("%w: more than %d files", ErrCorrupt, maxFiles)
		}
		first, n := extent(rec)
		if rec[25]&0x80 != 0 {
			return fmt.Errorf("%s lies in several extents, which is not read", p)
		}
		im.Files = append(im.Files, File{Path: p, Size: n, at: int64(first) * sector})
		return nil
	})
}
