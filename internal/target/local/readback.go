package local

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"ascend/internal/disk"
	"ascend/internal/disk/open"
	"ascend/internal/image"
	"ascend/internal/target"
)

// memberMark stands between an OVA's path and a member's name in
// target.Landed.Object. The names of disks' files never contain it.
const memberMark = "#"

// maxMembers bounds how far an OVA is searched for a member.
const maxMembers = 10_000

var _ target.Reader = (*Target)(nil)

// ReadLanded implements target.Reader. It reads below the target's folder only.
func (t *Target) ReadLanded(ctx context.Context, object string, f image.Format) (disk.Disk, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, name := filepath.Split(object)
	ova, member, inside := strings.Cut(name, memberMark)
	if i := strings.LastIndex(name, memberMark); inside {
		ova, member = name[:i], name[i+len(memberMark):]
	}
	path, err := filepath.Rel(t.dir, filepath.Join(dir, ova))
	if err != nil || !filepath.IsAbs(object) || !filepath.IsLocal(path) {
		return nil, fmt.Errorf("cannot read %s: it is not below %s: %w", object, t.dir, target.ErrPermanent)
	}
	var part func(*disk.File) (*disk.File, error)
	if inside {
		part = func(f *disk.File) (*disk.File, error) { return findMember(ctx, f, member) }
	}
	d, err := read(t.dir, path, f, part)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", object, err)
	}
	return d, nil
}

// read opens the image at path below dir, or the part of it that part makes.
func read(dir, path string, f image.Format, part func(*disk.File) (*disk.File, error)) (disk.Disk, error) {
	root, err := disk.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	file, err := root.Open(path)
	if err != nil {
		return nil, err
	}
	if part != nil {
		p, err := part(file)
		if err != nil {
			return nil, errors.Join(err, file.Close())
		}
		file = p
	}
	return open.File(root, file, open.Options{Format: f.Name})
}

// findMember makes f its member of that name.
func findMember(ctx context.Context, f *disk.File, name string) (*disk.File, error) {
	r := io.NewSectionReader(f, 0, f.Size())
	tr := tar.NewReader(r)
	for range maxMembers {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s is no OVA: %w", f.Name(), err)
		}
		if h.Name != name {
			continue
		}
		// The reader reads whole blocks and stands where the member starts.
		off, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		return f.Part(f.Name()+memberMark+name, off, h.Size)
	}
	return nil, fmt.Errorf("%s has no member %s: %w", f.Name(), name, disk.ErrMissing)
}
