package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"ascend/internal/disk"
	"ascend/internal/ovf"
)

// Verify computes the digests of the backup's files and compares them with its
// manifest. progress, which may be nil, is told the bytes read so far and in
// all, from the calling goroutine. The error is ErrNoManifest when there is
// nothing to compare with, ErrDigest when a file differs, and disk.ErrMissing
// when one that the manifest lists, or one that the manifest should list, is
// missing.
func (r *Repository) Verify(ctx context.Context, b Backup, progress func(done, total int64)) error {
	if err := r.verify(ctx, b, progress); err != nil {
		return fmt.Errorf("cannot verify backup %s: %w", b.ID, err)
	}
	return nil
}

// section is a file, or a member of one, that a manifest has a digest of.
type section struct {
	digest ovf.Digest
	f      *disk.File
	off, n int64
}

func (r *Repository) verify(ctx context.Context, b Backup, progress func(done, total int64)) error {
	var sections []section
	var err error
	switch b.Layout {
	case LayoutOVA:
		var f *disk.File
		if f, err = r.root.Open(b.Path); err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		sections, err = members(f, b)
	case LayoutOVF:
		sections, err = r.beside(b)
		defer func() {
			for _, s := range sections {
				_ = s.f.Close()
			}
		}()
	default:
		return fmt.Errorf("%w: backups of this layout carry no digests", ErrNoManifest)
	}
	if err != nil {
		return err
	}
	var total, done int64
	for _, s := range sections {
		total += s.n
	}
	buf := make([]byte, 1<<20)
	for _, s := range sections {
		h := s.digest.New()
		for off := int64(0); off < s.n; {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := buf[:min(int64(len(buf)), s.n-off)]
			if n, err := s.f.ReadAt(p, s.off+off); n < len(p) {
				return fmt.Errorf("cannot read %s: %w", s.digest.Name, errors.Join(err, disk.ErrChanged))
			}
			h.Write(p)
			off += int64(len(p))
			done += int64(len(p))
			if progress != nil {
				progress(done, total)
			}
		}
		if err := s.f.Unchanged(); err != nil {
			return err
		}
		if !bytes.Equal(h.Sum(nil), s.digest.Sum) {
			return fmt.Errorf("%.120q: %w", s.digest.Name, ErrDigest)
		}
	}
	return nil
}

// members are the sections of an archive that its manifest lists.
func members(f *disk.File, b Backup) ([]section, error) {
	a, err := scan(f)
	if err != nil {
		return nil, err
	}
	m, ok := a.first(".mf")
	if d, found := a.first(".ovf"); found {
		if own, err := a.find(strings.TrimSuffix(d.name, path.Ext(d.name)) + ".mf"); err == nil {
			m, ok = own, true
		}
	}
	if !ok {
		return nil, fmt.Errorf("%w in %s", ErrNoManifest, b.Path)
	}
	text, err := m.read(f, ovf.MaxManifest)
	if err != nil {
		return nil, err
	}
	digests, err := ovf.ParseManifest(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var out []section
	listed := map[string]bool{}
	for _, d := range digests {
		m, err := a.find(d.Name)
		if err != nil {
			return nil, fmt.Errorf("the manifest lists a file that cannot be read: %w", err)
		}
		listed[m.name] = true
		out = append(out, section{d, f, m.off, m.size})
	}
	return out, covered(b, listed, func(d Disk) string { return d.Member })
}

// beside are the files that the manifest beside a descriptor lists.
func (r *Repository) beside(b Backup) ([]section, error) {
	name := strings.TrimSuffix(b.Path, path.Ext(b.Path)) + ".mf"
	l := newLister(r)
	text, ok, err := l.text(name, ovf.MaxManifest)
	switch {
	case !ok && err == nil:
		return nil, fmt.Errorf("%w beside %s", ErrNoManifest, b.Path)
	case err != nil:
		return nil, err
	}
	digests, err := ovf.ParseManifest(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	var out []section
	listed := map[string]bool{}
	for _, d := range digests {
		file, err := beside(b.Path, d.Name)
		if err != nil {
			return out, err
		}
		f, err := r.root.Open(file)
		if err != nil {
			return out, fmt.Errorf("the manifest lists a file that cannot be read: %w", err)
		}
		listed[file] = true
		out = append(out, section{d, f, 0, f.Size()})
	}
	return out, covered(b, listed, func(d Disk) string { return d.Path })
}

// covered tells whether the manifest lists every disk.
func covered(b Backup, listed map[string]bool, name func(Disk) string) error {
	for _, d := range b.Disks {
		if n := name(d); n != "" && !listed[n] {
			return fmt.Errorf("the manifest has no digest of %s: %w", n, disk.ErrMissing)
		}
	}
	return nil
}
