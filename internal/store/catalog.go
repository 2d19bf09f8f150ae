package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/uptrace/bun"

	"ascend/internal/vm"
)

// Repository is a place where backups lie.
type Repository struct {
	bun.BaseModel `bun:"table:repositories,alias:r"`

	ID           string          `bun:"id,pk"`
	Name         string          `bun:"name"` // unique
	RepoKind     string          `bun:"kind"`
	Location     string          `bun:"location"`
	Options      json.RawMessage `bun:"options,nullzero"`
	Secrets      []byte          `bun:"secrets,nullzero"` // encrypted by the caller
	ScannedAt    time.Time       `bun:"scanned_at,nullzero"`
	ErrorMessage string          `bun:"error_message,nullzero"` // of the last scan
	Stamp
}

// CreateRepository stores a new repository and fills its ID.
func (s *Store) CreateRepository(ctx context.Context, r *Repository) error {
	if r.ID == "" {
		r.ID = NewID()
	}
	return insert(ctx, s, "add repository "+r.Name, r, nil)
}

// UpdateRepository stores a changed repository; see Stamp.
func (s *Store) UpdateRepository(ctx context.Context, r *Repository) error {
	return update(ctx, s, "change repository "+r.Name, r)
}

// Repository returns one by ID or name.
func (s *Store) Repository(ctx context.Context, idOrName string) (*Repository, error) {
	return get[Repository](ctx, s, "find repository "+cut(idOrName, 80), "id = ? OR name = ?", idOrName, idOrName)
}

// Repositories lists all by name.
func (s *Store) Repositories(ctx context.Context) ([]Repository, error) {
	return all[Repository](ctx, s, "list repositories", "name", "1 = 1")
}

// DeleteRepository removes a repository and its catalogue of backups, not the
// backups. version 0: whatever its version.
func (s *Store) DeleteRepository(ctx context.Context, id string, version int64) error {
	return removeVersion[Repository](ctx, s, "delete the repository", id, version)
}

// Backup is one backup found in a repository.
type Backup struct {
	bun.BaseModel `bun:"table:backups,alias:b"`

	ID             string          `bun:"id,pk"`
	Seq            int64           `bun:"seq"` // order of finding
	RepositoryID   string          `bun:"repository_id"`
	ExternalID     string          `bun:"external_id"` // unique in the repository: the backup room's own
	VMName         string          `bun:"vm_name"`
	SourcePlatform vm.Platform     `bun:"source_platform"`
	BackupType     string          `bun:"backup_type"` // full, incremental, differential
	Status         Status          `bun:"status"`      // completed, failed, missing, …
	SizeBytes      int64           `bun:"size_bytes"`
	DiskCount      int             `bun:"disk_count"`
	TakenAt        time.Time       `bun:"taken_at,nullzero"`
	Detail         json.RawMessage `bun:"detail,nullzero"` // machine and disks; not in lists
	Stamp
}

// PutBackups stores what a scan of a repository found: new backups are added,
// known ones (same ExternalID) replaced and keep ID and Seq, which are filled.
func (s *Store) PutBackups(ctx context.Context, repository string, found []*Backup) error {
	for len(found) > 0 {
		n := min(len(found), 200) // one transaction a batch: others write in between
		if err := s.putBackups(ctx, repository, found[:n]); err != nil {
			return err
		}
		found = found[n:]
	}
	return nil
}

func (s *Store) putBackups(ctx context.Context, repository string, found []*Backup) error {
	return s.tx(ctx, "store the backups found", func(t *Store) error {
		var ids []string
		for _, b := range found {
			b.RepositoryID, b.VMName, b.ExternalID = repository, cut(b.VMName, maxName), cut(b.ExternalID, maxName)
			ids = append(ids, b.ExternalID)
		}
		var known []Backup
		err := t.db.NewSelect().Model(&known).ExcludeColumn("detail").Where("repository_id = ? AND external_id IN (?)", repository, bun.In(ids)).Scan(ctx)
		if err != nil {
			return err
		}
		have := map[string]*Backup{}
		for i := range known {
			have[known[i].ExternalID] = &known[i]
		}
		var fresh []*Backup
		for _, b := range found {
			b.UpdatedAt = now()
			old := have[b.ExternalID]
			if old == nil {
				b.ID, b.Version, b.CreatedAt = NewID(), 1, b.UpdatedAt
				have[b.ExternalID] = b
				fresh = append(fresh, b)
				continue
			}
			b.ID, b.Seq, b.CreatedAt, b.Version = old.ID, old.Seq, old.CreatedAt, old.Version+1
			if old == b {
				continue
			}
			if _, err := t.db.NewUpdate().Model(b).WherePK().Exec(ctx); err != nil {
				return err
			}
		}
		if len(fresh) == 0 {
			return nil
		}
		seq, err := t.next(ctx, "backups", int64(len(fresh)))
		if err != nil {
			return err
		}
		for i, b := range fresh {
			b.Seq = seq + int64(i)
		}
		_, err = t.db.NewInsert().Model(&fresh).Exec(ctx)
		return err
	})
}

// Backup returns one backup by ID.
func (s *Store) Backup(ctx context.Context, id string) (*Backup, error) {
	return get[Backup](ctx, s, "find backup "+cut(id, 80), "id = ?", id)
}

// BackupFilter chooses backups; zero fields choose all.
type BackupFilter struct {
	Repository   string // its ID
	Platform     vm.Platform
	VM           string // exactly
	Type         string
	Status       []Status
	Since, Until time.Time // taken in [Since, Until)
	Text         string    // in the machine's name or the external ID; any case
}

// DeleteBackups removes those of a repository that a scan begun at before did
// not find again, and returns how many.
func (s *Store) DeleteBackups(ctx context.Context, repository string, before time.Time) (n int64, err error) {
	err = s.tx(ctx, "forget backups", func(t *Store) error {
		r, err := t.db.NewDelete().Model((*Backup)(nil)).Where("repository_id = ? AND updated_at < ?", repository, before.UTC()).Exec(ctx)
		if err != nil {
			return err
		}
		n, err = r.RowsAffected()
		return err
	})
	return n, err
}

// BackupJob is a row of backup_jobs: a backup as the platform that made it
// tells it. Deleting one deletes the restores made of it.
type BackupJob struct {
	bun.BaseModel `bun:"table:backup_jobs,alias:bj"`

	ID             string          `bun:"id,pk"`
	VMContextID    string          `bun:"vm_context_id,nullzero"`
	VMName         string          `bun:"vm_name"`
	SourcePlatform vm.Platform     `bun:"source_platform"`
	RepositoryID   string          `bun:"repository_id,nullzero"`
	BackupType     string          `bun:"backup_type"`
	Status         Status          `bun:"status"`
	SizeBytes      int64           `bun:"size_bytes"`
	TotalBytes     int64           `bun:"total_bytes"`
	ParentBackupID string          `bun:"parent_backup_id,nullzero"`
	ErrorMessage   string          `bun:"error_message,nullzero"`
	Metadata       json.RawMessage `bun:"metadata,nullzero"`
	CreatedAt      time.Time       `bun:"created_at"`
	StartedAt      time.Time       `bun:"started_at,nullzero"`
	CompletedAt    time.Time       `bun:"completed_at,nullzero"`
}

// PutBackupJob stores a backup job under its ID, in place of an earlier one.
func (s *Store) PutBackupJob(ctx context.Context, b *BackupJob) error {
	if b.ID == "" {
		b.ID = NewID()
	}
	if b.CreatedAt.IsZero() {
		b.CreatedAt = now()
	}
	return s.tx(ctx, "store the backup job", func(t *Store) error {
		ok, err := t.db.NewSelect().Model(b).WherePK().Exists(ctx)
		switch {
		case err != nil:
			return err
		case ok:
			_, err = t.db.NewUpdate().Model(b).WherePK().Exec(ctx)
		default:
			_, err = t.db.NewInsert().Model(b).Exec(ctx)
		}
		return err
	})
}

// BackupJob returns one by ID.
func (s *Store) BackupJob(ctx context.Context, id string) (*BackupJob, error) {
	return get[BackupJob](ctx, s, "find backup job "+cut(id, 80), "id = ?", id)
}

// DeleteBackupJob removes a backup job and, with it, its restores.
func (s *Store) DeleteBackupJob(ctx context.Context, id string) error {
	return remove[BackupJob](ctx, s, "delete the backup job", "id = ?", id)
}
