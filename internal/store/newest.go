package store

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"ascend/internal/vm"
)

// NewestBackups lists backups with their Detail, the one taken last first.
func (s *Store) NewestBackups(ctx context.Context, f BackupFilter, p Page) (Listing[Backup], error) {
	var rows []Backup
	at, seq, err := parseTaken(p.Cursor)
	if err != nil {
		return Listing[Backup]{}, err
	}
	err = s.read(ctx, "list backups", func(ctx context.Context) error {
		rows = nil
		q := s.db.NewSelect().Model(&rows).OrderExpr("taken_at DESC, seq DESC").Limit(p.limit() + 1)
		for column, v := range map[string]string{"repository_id": f.Repository, "source_platform": string(f.Platform), "vm_name": f.VM, "backup_type": f.Type} {
			if v != "" {
				q = q.Where("? = ?", bun.Ident(column), v)
			}
		}
		if len(f.Status) > 0 {
			q = q.Where("status IN (?)", bun.In(f.Status))
		}
		if f.Text != "" {
			like := contains(f.Text)
			q = q.Where("(LOWER(vm_name) LIKE ? ESCAPE '!' OR LOWER(external_id) LIKE ? ESCAPE '!')", like, like)
		}
		if p.Cursor != "" {
			q = q.Where("(taken_at < ? OR taken_at = ? AND seq < ?)", at, at, seq)
		}
		return between(q, "taken_at", f.Since, f.Until).Scan(ctx)
	})
	if err != nil {
		return Listing[Backup]{}, err
	}
	l := Listing[Backup]{Items: rows}
	if len(rows) > p.limit() {
		l.Items = rows[:p.limit()]
		last := l.Items[p.limit()-1]
		l.Next = base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d.%d", last.TakenAt.UnixMicro(), last.Seq))
	}
	return l, nil
}

func parseTaken(cursor string) (at time.Time, seq int64, err error) {
	if cursor == "" {
		return at, 0, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	micro, number, _ := strings.Cut(string(b), ".")
	us, err1 := strconv.ParseInt(micro, 10, 64)
	seq, err2 := strconv.ParseInt(number, 10, 64)
	if err != nil || err1 != nil || err2 != nil || us < -62135596800_000000 || us > 253402300799_000000 || seq < 0 {
		return at, 0, fmt.Errorf("cannot list: %w", ErrCursor)
	}
	return time.UnixMicro(us).UTC(), seq, nil
}

// BackupOf returns the backup of a repository that has an external ID.
func (s *Store) BackupOf(ctx context.Context, repository, external string) (*Backup, error) {
	return get[Backup](ctx, s, "find backup "+cut(external, 80), "repository_id = ? AND external_id = ?", repository, external)
}

// BackupCounts counts the backups of each platform.
func (s *Store) BackupCounts(ctx context.Context) (map[vm.Platform]int, error) {
	var rows []struct {
		Platform vm.Platform `bun:"source_platform"`
		N        int         `bun:"n"`
	}
	err := s.read(ctx, "count backups", func(ctx context.Context) error {
		rows = nil
		return s.db.NewSelect().Model((*Backup)(nil)).ColumnExpr("source_platform, COUNT(*) AS n").GroupExpr("source_platform").Scan(ctx, &rows)
	})
	out := map[vm.Platform]int{}
	for _, r := range rows {
		out[r.Platform] = r.N
	}
	return out, err
}
