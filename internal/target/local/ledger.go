package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"ascend/internal/target"
)

// How a thing comes into being:
//
//  1. The intent is recorded: kind and name.
//  2. It is made under a hidden name that only this job uses.
//  3. It is recorded again with its identity (inode number and time of birth).
//  4. It is renamed to its name, which fails when anything is there.
//
// So whenever the process dies, what exists is found by the hidden name or by
// the identity, and a foreign thing of the same name is never taken for it.

// Kinds of target.Resource. Name is the path relative to the target's folder.
const (
	kindFolder = "folder"
	kindFile   = "file"
)

// ledger is the job's recorded resources. It is safe for concurrent use.
type ledger struct {
	mu      sync.Mutex
	rec     target.Recorder
	job     string
	entries map[string]target.Resource // by name; a name has one kind
}

func openLedger(ctx context.Context, rec target.Recorder, job string) (*ledger, error) {
	all, err := rec.Recorded(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the job's resources: %w", err)
	}
	l := &ledger{rec: rec, job: job, entries: map[string]target.Resource{}}
	for _, r := range all {
		if !r.Gone && (r.Kind == kindFolder || r.Kind == kindFile) {
			l.entries[r.Name] = r
		}
	}
	return l, nil
}

func (l *ledger) find(name string) (target.Resource, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.entries[name]
	return r, ok
}

func (l *ledger) put(ctx context.Context, r target.Resource) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.record(ctx, r)
}

func (l *ledger) record(ctx context.Context, r target.Resource) error {
	if err := l.rec.Record(ctx, r); err != nil {
		return fmt.Errorf("cannot record %s %s: %w", r.Kind, r.Name, err)
	}
	if r.Gone {
		delete(l.entries, r.Name)
		return nil
	}
	l.entries[r.Name] = r
	return nil
}

// data is what is kept with a resource under key.
func (l *ledger) data(name, key string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries[name].Data[key]
}

// keep stores values with a resource durably. Values that are kept already
// cost nothing.
func (l *ledger) keep(ctx context.Context, name string, values map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.entries[name]
	data := maps.Clone(r.Data)
	if data == nil {
		data = map[string]string{}
	}
	maps.Copy(data, values)
	if maps.Equal(data, r.Data) {
		return nil
	}
	r.Data = data
	return l.record(ctx, r)
}

// place makes the thing called name in the folder dir, or finds it again. The
// thing is recorded as path. fill makes it under the name it is given; what it
// returns is open and is closed here. Placing a thing that was placed before
// returns at once.
func (l *ledger) place(ctx context.Context, dir *os.Root, kind, path, name string, data map[string]string, fill func(hidden string) (*os.File, error)) error {
	hidden := hiddenName(l.job, path)
	r, known := l.find(path)
	if known && r.ID != "" {
		return l.again(ctx, dir, r, hidden, name)
	}
	if !known {
		switch _, err := dir.Lstat(name); {
		case err == nil:
			return fmt.Errorf("%s: %w", filepath.Join(dir.Name(), name), target.ErrExists)
		case !errors.Is(err, fs.ErrNotExist):
			return permanent(err)
		}
		r = target.Resource{Job: l.job, Kind: kind, Name: path, Data: data}
		if err := l.put(ctx, r); err != nil {
			return err
		}
	}
	// What a process that died has left.
	if err := dir.Remove(hidden); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return permanent(err)
	}
	f, err := fill(hidden)
	if err != nil {
		return errors.Join(err, ignore(dir.Remove(hidden), fs.ErrNotExist))
	}
	id, err := identity(f)
	if err = errors.Join(err, f.Close(), syncDir(dir)); err != nil {
		return errors.Join(err, dir.Remove(hidden))
	}
	r.ID, r.Done = id, true
	if err := l.put(ctx, r); err != nil {
		return err
	}
	return l.move(ctx, dir, r, hidden, name)
}

// again finds a thing that was made before, at its name or hidden still.
func (l *ledger) again(ctx context.Context, dir *os.Root, r target.Resource, hidden, name string) error {
	id, _, err := identityAt(dir, name)
	if err != nil {
		return permanent(err)
	}
	if id == r.ID {
		return nil
	}
	hid, _, err := identityAt(dir, hidden)
	if err != nil {
		return permanent(err)
	}
	path := filepath.Join(dir.Name(), name)
	switch {
	case hid == r.ID:
		return l.move(ctx, dir, r, hidden, name)
	case id != "":
		return fmt.Errorf("%s was replaced by something else since this job made it: %w", path, target.ErrExists)
	}
	return fmt.Errorf("%s was removed since this job made it; undo the job and start again: %w", path, target.ErrPermanent)
}

// move puts a thing in its place. When the place was taken meanwhile, the
// thing is removed and recorded as gone.
func (l *ledger) move(ctx context.Context, dir *os.Root, r target.Resource, hidden, name string) error {
	err := moveNoReplace(dir, hidden, name)
	if !errors.Is(err, fs.ErrExist) {
		return permanent(err)
	}
	err = fmt.Errorf("%s: %w", filepath.Join(dir.Name(), name), target.ErrExists)
	if rerr := dir.Remove(hidden); rerr != nil {
		return errors.Join(err, rerr)
	}
	r.Gone = true
	return errors.Join(err, l.put(ctx, r))
}

// remove removes the recorded resource r below root, and nothing else. It does
// not follow a symlink in the resource's place.
func remove(root *os.Root, r target.Resource) error {
	folder, name, nested := strings.Cut(filepath.ToSlash(r.Name), "/")
	if !nested {
		folder, name = ".", r.Name
	}
	if !filepath.IsLocal(r.Name) || name == "" || name == "." || strings.Contains(name, "/") {
		return fmt.Errorf("cannot undo %s %q: the name is not one of this target's: %w", r.Kind, r.Name, target.ErrPermanent)
	}
	if nested {
		st, err := root.Lstat(folder)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !st.IsDir() {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot undo %s: %w", r.Name, permanent(err))
		}
	}
	dir, err := root.OpenRoot(folder)
	if err != nil {
		return fmt.Errorf("cannot undo %s: %w", r.Name, permanent(err))
	}
	defer dir.Close()
	hidden := hiddenName(r.Job, r.Name)
	for _, n := range []string{hidden, name} {
		id, mode, err := identityAt(dir, n)
		if err != nil {
			return fmt.Errorf("cannot undo %s: %w", r.Name, permanent(err))
		}
		// Without an identity nothing was ever moved to the name.
		if id == "" || id != r.ID && (r.ID != "" || n != hidden) || mode.IsDir() != (r.Kind == kindFolder) {
			continue
		}
		switch err := dir.Remove(n); {
		case isNotEmpty(err):
			return fmt.Errorf("cannot remove folder %s: it holds files that this job did not make: %w", filepath.Join(root.Name(), r.Name), target.ErrPermanent)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("cannot undo %s: %w", r.Name, permanent(err))
		}
	}
	return syncDir(dir)
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}
