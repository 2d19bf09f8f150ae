package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ascend/internal/disk/open"
)

// FromFiles makes a backup of files that the user names: one OVA or OVF
// descriptor, or image files, each of which becomes a disk, in order. A vm.json
// beside the first image describes the machine if it has as many disks. The
// repository is the folder that holds them all: parents and extents are found
// below it only. Formats are told from signatures. The repository lists nothing
// but this backup; the caller closes it.
func FromFiles(ctx context.Context, paths []string) (*Repository, Backup, error) {
	return FromFilesAs(ctx, paths, "")
}

// FromFilesAs is FromFiles for image files of a format that the user states, as
// package open names it; "" tells it from the signature.
func FromFilesAs(ctx context.Context, paths []string, format string) (*Repository, Backup, error) {
	r, b, err := fromFiles(ctx, paths, format)
	if err != nil {
		if r != nil {
			_ = r.Close()
		}
		return nil, Backup{}, fmt.Errorf("cannot read backup: %w", err)
	}
	r.files = &b
	return r, clone(b), nil
}

func fromFiles(ctx context.Context, paths []string, format string) (*Repository, Backup, error) {
	if len(paths) == 0 || len(paths) > maxDisks {
		return nil, Backup{}, fmt.Errorf("%d files", len(paths))
	}
	dir, names, err := common(paths)
	if err != nil {
		return nil, Backup{}, err
	}
	r, err := Open(dir)
	if err != nil {
		return nil, Backup{}, err
	}
	l := newLister(r)
	switch ext := strings.ToLower(filepath.Ext(names[0])); {
	case len(names) > 1 || ext != ".ova" && ext != ".ovf" || format != "":
		b, err := l.fromImages(ctx, names, format)
		return r, b, err
	case ext == ".ova":
		b, err := only(l.archive(names[0]))
		return r, b, err
	}
	b, err := only(l.descriptor(names[0]).backups(l))
	return r, b, err
}

// only is the one machine of a package.
func only(all []Backup) (Backup, error) {
	if len(all) != 1 {
		var names []string
		for _, b := range all {
			names = append(names, b.VM)
		}
		return Backup{}, fmt.Errorf("%w: the package holds %d machines (%.400s); open its folder as a repository and name one", ErrAmbiguous, len(all), strings.Join(names, ", "))
	}
	finish(all)
	if all[0].Fault != "" && len(all[0].Disks) == 0 {
		return all[0], fmt.Errorf("%s: %s", all[0].Path, all[0].Fault)
	}
	return all[0], nil
}

func (l *lister) fromImages(ctx context.Context, names []string, format string) (Backup, error) {
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return Backup{}, err
		}
		if format != "" {
			if err := l.as(n, format); err != nil {
				return Backup{}, err
			}
		}
	}
	for _, n := range names {
		if _, err := l.chain(l.header(n)); err != nil {
			return Backup{}, err
		}
	}
	b := l.backupOf(names, clean(stem(filepath.Base(names[0]))), names[0])
	beside := filepath.Join(filepath.Dir(names[0]), machineFile)
	_, there, _ := l.text(beside, maxMachine)
	m, notes := l.machine(beside, there)
	b.Notes = append(b.Notes, notes...)
	switch {
	case m != nil && len(m.Disks) == len(names):
		for i := range b.Disks {
			b.Disks[i].Index = m.Disks[i].Index
		}
		b.describe(m)
		if b.Machine.Name != "" {
			b.VM = b.Machine.Name
		}
	case m != nil:
		b.note("%s beside the image describes %d disks and is not used", machineFile, len(m.Disks))
	}
	all := []Backup{b}
	finish(all)
	return all[0], nil
}

// as reads a file's header as one of a stated format.
func (l *lister) as(name, format string) error {
	img, err := open.Disk(l.root, name, format)
	if err != nil {
		return err
	}
	info := img.Info()
	im := &image{path: name, format: info.Format, size: img.Size(), bytes: info.FileBytes, chain: max(len(info.Chain), 1), notes: info.Notes}
	f, err := l.root.Open(name)
	if err == nil {
		im.file = fileInfo{f.Modified(), f.Size()}
		_ = f.Close()
	}
	im.once.Do(func() {})
	l.files[name] = im
	return errors.Join(err, img.Close())
}

// common is the innermost folder that holds all files, and their paths in it.
// Links in what the user typed are followed: he named them.
func common(paths []string) (dir string, names []string, err error) {
	var full []string
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return "", nil, err
		}
		if abs, err = filepath.EvalSymlinks(abs); err != nil {
			return "", nil, err
		}
		st, err := os.Stat(abs)
		if err != nil {
			return "", nil, err
		}
		if st.IsDir() {
			return "", nil, fmt.Errorf("%s is a folder; open it as a repository", p)
		}
		full = append(full, abs)
	}
	dir = filepath.Dir(full[0])
	for _, f := range full {
		for !within(dir, f) {
			dir = filepath.Dir(dir)
		}
	}
	for _, f := range full {
		rel, err := filepath.Rel(dir, f)
		if err != nil {
			return "", nil, err
		}
		names = append(names, rel)
	}
	return dir, names, nil
}

func within(dir, file string) bool {
	return dir == "/" || strings.HasPrefix(file, dir+"/")
}
