package backup

import (
	"context"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	"ascend/internal/vm"
)

// Find is the backup that ref names:
//
//   - an ID, of the backup or of one of its disks;
//   - a path of the repository: of a context folder, an archive, a descriptor or
//     an image, relative to the root or absolute; or a context folder's name;
//   - a machine's name: its newest backup;
//   - NAME@TIME: the machine's backup of that time, in any usual form and as much
//     of it as makes it unique (web@2026-05-01, web@20260501-0312).
//
// Where a name stands for several backups of one machine the newest is meant,
// with its fault if it has one. The error is ErrNotFound or ErrAmbiguous; both
// name what was found instead.
func (r *Repository) Find(ctx context.Context, ref string) (Backup, error) {
	all, err := r.List(ctx)
	if err != nil {
		return Backup{}, err
	}
	return r.find(all, ref)
}

func (r *Repository) find(all []Backup, ref string) (Backup, error) {
	if ref == "" {
		if len(all) == 1 {
			return all[0], nil
		}
		return Backup{}, fmt.Errorf("%w: name one of %s", pick(len(all) == 0, ErrNotFound, ErrAmbiguous), names(all))
	}
	if hits := where(all, func(b *Backup) bool { return b.ID == ref }); len(hits) == 1 {
		return hits[0], nil
	}
	if hits := where(all, func(b *Backup) bool { return hasDisk(b, ref) }); len(hits) > 0 {
		return oldest(hits), nil
	}
	p := r.inside(ref)
	if hits := where(all, func(b *Backup) bool { return b.Path == p }); len(hits) > 0 {
		return newest(hits, ref)
	}
	if hits := where(all, func(b *Backup) bool { return hasPath(b, p) }); len(hits) > 0 {
		return oldest(hits), nil
	}
	if hits := where(all, func(b *Backup) bool { return path.Base(b.Path) == ref }); len(hits) > 0 {
		return newest(hits, ref)
	}
	if hits := where(all, func(b *Backup) bool { return b.VM == ref }); len(hits) > 0 {
		return newest(hits, ref)
	}
	if name, at, ok := cutLast(ref, "@"); ok {
		hits := where(all, func(b *Backup) bool { return b.VM == name && matchesTime(b, at) })
		switch {
		case len(hits) == 1:
			return hits[0], nil
		case len(hits) > 1:
			return Backup{}, fmt.Errorf("%w %q: %s", ErrAmbiguous, ref, names(hits))
		}
		if others := where(all, func(b *Backup) bool { return b.VM == name }); len(others) > 0 {
			return Backup{}, fmt.Errorf("%w at that time: %q; there are %s", ErrNotFound, ref, names(others))
		}
	}
	if hits := where(all, func(b *Backup) bool { return strings.EqualFold(b.VM, ref) }); len(hits) > 0 {
		return newest(hits, ref)
	}
	return Backup{}, fmt.Errorf("%w: %q; there are %s", ErrNotFound, ref, names(all))
}

// newest is the newest of several backups of one machine. Two machines of one
// name are told apart by where they ran and by their UUID; bare images, which
// are named by their files alone, are never taken for one machine.
func newest(hits []Backup, ref string) (Backup, error) {
	var origin vm.Platform
	var name, uuid string
	best, good := -1, -1
	for i, b := range hits {
		u := b.Machine.UUID
		if i > 0 && (b.VM != name || b.Layout == LayoutImage || hits[0].Layout == LayoutImage) || origin != "" && b.Origin != "" && b.Origin != origin || uuid != "" && u != "" && u != uuid {
			return Backup{}, fmt.Errorf("%w %q: %s", ErrAmbiguous, ref, names(hits))
		}
		name = b.VM
		if b.Origin != "" {
			origin = b.Origin
		}
		if u != "" {
			uuid = u
		}
		if best < 0 || !b.Created.Before(hits[best].Created) {
			best = i
		}
		if b.Fault == "" && (good < 0 || !b.Created.Before(hits[good].Created)) {
			good = i
		}
	}
	out := hits[best]
	if out.Fault != "" && good >= 0 {
		out = clone(out)
		out.note("the newest backup without a fault is %s of %s", hits[good].ID, hits[good].Created.Format(time.RFC3339))
	}
	return out, nil
}

func where(all []Backup, ok func(*Backup) bool) []Backup {
	var out []Backup
	for i := range all {
		if ok(&all[i]) {
			out = append(out, all[i])
		}
	}
	return out
}

func hasDisk(b *Backup, id string) bool {
	for _, d := range b.Disks {
		if d.ID == id {
			return true
		}
	}
	return false
}

func hasPath(b *Backup, p string) bool {
	for _, d := range b.Disks {
		if d.Path == p {
			return true
		}
	}
	return false
}

// oldest is the backup that a file was made in: later ones only use it again.
func oldest(hits []Backup) Backup {
	best := 0
	for i := range hits {
		if hits[i].Created.Before(hits[best].Created) {
			best = i
		}
	}
	return hits[best]
}

// inside is a path as the repository has it: relative to the root.
func (r *Repository) inside(ref string) string {
	if filepath.IsAbs(ref) && r.root != nil {
		if root, err := filepath.Abs(r.root.Path()); err == nil {
			if rel, err := filepath.Rel(root, ref); err == nil {
				return rel
			}
		}
	}
	return path.Clean(ref)
}

// matchesTime compares digits: "2026-05-01 03:12" is the beginning of
// 20260501031207. Times are in UTC, as they are shown.
func matchesTime(b *Backup, at string) bool {
	if t, err := time.Parse(time.RFC3339, at); err == nil {
		return t.Equal(b.Created.Truncate(time.Second))
	}
	d := digits(at)
	return len(d) >= 4 && strings.HasPrefix(digits(b.Created.UTC().Format("20060102150405.000000000")), d)
}

func digits(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, s)
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i > 0 {
		return s[:i], s[i+len(sep):], true
	}
	return "", "", false
}

func pick(first bool, a, b error) error {
	if first {
		return a
	}
	return b
}

// names lists candidates for a message.
func names(all []Backup) string {
	const most = 8
	var out []string
	for i, b := range all {
		if i == most {
			out = append(out, fmt.Sprintf("and %d more", len(all)-most))
			break
		}
		out = append(out, fmt.Sprintf("%s (%s@%s)", b.ID, b.VM, b.Created.Format("20060102-150405")))
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}
