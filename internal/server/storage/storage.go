// Package storage is records.Store over the tables of package store.
package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"ascend/internal/server/records"
	"ascend/internal/store"
	"ascend/internal/vm"
)

// Store is a records.Store. The zero value is of no use; see New.
type Store struct{ s *store.Store }

var _ records.Store = (*Store)(nil)

// New makes one.
func New(s *store.Store) *Store { return &Store{s} }

// plain makes the tables' errors this room's.
func plain(err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("%w: %w", records.ErrNotFound, err)
	case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrExists):
		return fmt.Errorf("%w: %w", records.ErrConflict, err)
	case errors.Is(err, store.ErrCursor):
		return fmt.Errorf("%w: %w", records.ErrCursor, err)
	}
	return err
}

func recordOf(r *store.Record) records.Record {
	return records.Record{Kind: r.Kind, ID: r.ID, Ref: r.Ref, Rev: r.Version, Created: r.CreatedAt.UTC(), Updated: r.UpdatedAt.UTC(), Expires: r.ExpiresAt, Data: r.Data}
}

// Record reads one.
func (s *Store) Record(ctx context.Context, kind, id string) (records.Record, error) {
	if kind == repository {
		r, err := s.s.Repository(ctx, id)
		if err != nil || r.ID != id {
			return records.Record{}, plain(errors.Join(err, missing(err == nil)))
		}
		return repositoryOf(r), nil
	}
	r, err := s.s.Record(ctx, kind, id)
	if err != nil {
		return records.Record{}, plain(err)
	}
	return recordOf(r), nil
}

func missing(yes bool) error {
	if yes {
		return store.ErrNotFound
	}
	return nil
}

// PutRecord writes one.
func (s *Store) PutRecord(ctx context.Context, r records.Record, ifRev int64) (int64, error) {
	if r.Kind == repository {
		return s.putRepository(ctx, r, ifRev)
	}
	row := &store.Record{Kind: r.Kind, ID: r.ID, Ref: r.Ref, Data: r.Data, ExpiresAt: r.Expires}
	err := s.s.PutRecord(ctx, row, ifRev)
	return row.Version, plain(err)
}

// DeleteRecord removes one.
func (s *Store) DeleteRecord(ctx context.Context, kind, id string, ifRev int64) error {
	if kind == repository {
		return plain(s.s.DeleteRepository(ctx, id, max(ifRev, 0)))
	}
	return plain(s.s.DeleteRecord(ctx, kind, id, ifRev))
}

// Records lists.
func (s *Store) Records(ctx context.Context, kind, ref string, p records.Page) ([]records.Record, error) {
	var out []records.Record
	if kind == repository {
		rows, err := s.s.Repositories(ctx)
		for i := range rows {
			if rows[i].ID > p.After && len(out) < p.Limit {
				out = append(out, repositoryOf(&rows[i]))
			}
		}
		return out, plain(err)
	}
	rows, err := s.s.Records(ctx, kind, ref, p.After, p.Limit, p.Desc)
	for i := range rows {
		out = append(out, recordOf(&rows[i]))
	}
	return out, plain(err)
}

// ExpireRecords removes what has expired.
func (s *Store) ExpireRecords(ctx context.Context, now time.Time) error {
	return plain(s.s.ExpireRecords(ctx, now))
}

// Repositories have a table of their own, which backups refer to.
const repository = "repository"

func repositoryOf(r *store.Repository) records.Record {
	return records.Record{Kind: repository, ID: r.ID, Rev: r.Version, Created: r.CreatedAt.UTC(), Updated: r.UpdatedAt.UTC(), Data: r.Options}
}

func (s *Store) putRepository(ctx context.Context, r records.Record, ifRev int64) (int64, error) {
	var v struct {
		Path    string    `json:"path"`
		Scanned time.Time `json:"scanned"`
		Error   string    `json:"error"`
	}
	if err := json.Unmarshal(r.Data, &v); err != nil {
		return 0, err
	}
	row := &store.Repository{ID: r.ID, Name: r.ID, RepoKind: "folder", Location: v.Path, Options: r.Data, ScannedAt: v.Scanned, ErrorMessage: v.Error}
	if ifRev == 0 {
		err := s.s.CreateRepository(ctx, row)
		return row.Version, plain(err)
	}
	row.Version = max(ifRev, 0)
	err := s.s.UpdateRepository(ctx, row)
	if errors.Is(err, store.ErrNotFound) {
		err = store.ErrConflict // it was removed meanwhile
	}
	return row.Version, plain(err)
}

// Statuses of a backup's row.
const (
	good   store.Status = "completed"
	faulty store.Status = "failed"
)

// ReplaceBackups stores what a scan found.
func (s *Store) ReplaceBackups(ctx context.Context, repository string, list []records.Backup) error {
	begun := time.Now().UTC().Add(-time.Millisecond)
	rows := make([]*store.Backup, 0, len(list))
	for _, b := range list {
		detail, err := json.Marshal(b.Backup)
		if err != nil {
			return err
		}
		row := &store.Backup{ExternalID: b.Backup.ID, VMName: b.VM, SourcePlatform: b.Origin, BackupType: string(b.Type), Status: good, SizeBytes: b.Bytes(), DiskCount: len(b.Disks), TakenAt: b.Created.UTC(), Detail: detail}
		if b.Fault != "" {
			row.Status = faulty
		}
		rows = append(rows, row)
	}
	if err := s.s.PutBackups(ctx, repository, rows); err != nil {
		return plain(err)
	}
	_, err := s.s.DeleteBackups(ctx, repository, begun)
	return plain(err)
}

func backupOf(r *store.Backup) (records.Backup, error) {
	b := records.Backup{ID: r.ID, Repository: r.RepositoryID}
	if err := json.Unmarshal(r.Detail, &b.Backup); err != nil {
		return b, fmt.Errorf("cannot read backup %s: %w", r.ID, err)
	}
	if b.Machine == nil {
		b.Machine = &vm.Machine{Name: b.VM}
	}
	return b, nil
}

// Backup finds one.
func (s *Store) Backup(ctx context.Context, id string) (records.Backup, error) {
	r, err := s.s.Backup(ctx, id)
	if err != nil {
		return records.Backup{}, plain(err)
	}
	return backupOf(r)
}

// FindBackup finds one by its own id in its repository.
func (s *Store) FindBackup(ctx context.Context, repository, id string) (records.Backup, error) {
	r, err := s.s.BackupOf(ctx, repository, id)
	if err != nil {
		return records.Backup{}, plain(err)
	}
	return backupOf(r)
}

// Backups lists.
func (s *Store) Backups(ctx context.Context, f records.BackupFilter) ([]records.Backup, string, error) {
	q := store.BackupFilter{Repository: f.Repository, Platform: f.Origin, VM: f.VM, Type: string(f.Type), Since: f.Since, Until: f.Until, Text: f.Text}
	if f.Faulty != nil {
		q.Status = []store.Status{good}
		if *f.Faulty {
			q.Status = []store.Status{faulty}
		}
	}
	l, err := s.s.NewestBackups(ctx, q, store.Page{Cursor: f.Cursor, Limit: f.Limit})
	if err != nil {
		return nil, "", plain(err)
	}
	out := make([]records.Backup, 0, len(l.Items))
	for i := range l.Items {
		b, err := backupOf(&l.Items[i])
		if err != nil {
			return nil, "", err
		}
		out = append(out, b)
	}
	return out, l.Next, nil
}

// CountBackups counts by platform.
func (s *Store) CountBackups(ctx context.Context) (map[vm.Platform]int, error) {
	m, err := s.s.BackupCounts(ctx)
	return m, plain(err)
}

// Audit adds a line.
func (s *Store) Audit(ctx context.Context, e records.Entry) error {
	kind, _, _ := cutDot(e.Action)
	a := &store.Audit{ID: e.ID, Actor: e.Actor, Action: e.Action, ObjectKind: kind, ObjectID: e.Object, Remote: e.Address, Result: e.Outcome}
	if len(e.Detail) > 0 {
		b, err := json.Marshal(e.Detail)
		if err != nil {
			return err
		}
		a.Detail = b
	}
	return plain(s.s.AppendAudit(ctx, a))
}

func cutDot(s string) (before, after string, ok bool) {
	for i := range s {
		if s[i] == '.' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

// Entries lists the audit log.
func (s *Store) Entries(ctx context.Context, f records.EntryFilter) ([]records.Entry, string, error) {
	q := store.AuditFilter{Actor: f.Actor, Action: f.Action, ObjectID: f.Object, Since: f.Since, Until: f.Until}
	if kind, rest, ok := cutDot(f.Action); ok && rest == "" { // "target.": all of a kind
		q.Action, q.ObjectKind = "", kind
	}
	l, err := s.s.Audits(ctx, q, store.Page{Cursor: f.Cursor, Limit: f.Limit})
	if err != nil {
		return nil, "", plain(err)
	}
	out := make([]records.Entry, 0, len(l.Items))
	for _, a := range l.Items {
		e := records.Entry{ID: a.ID, Time: a.Time.UTC(), Actor: a.Actor, Address: a.Remote, Action: a.Action, Object: a.ObjectID, Outcome: a.Result}
		if len(a.Detail) > 0 {
			if err := json.Unmarshal(a.Detail, &e.Detail); err != nil {
				return nil, "", fmt.Errorf("cannot read the audit log: %w", err)
			}
		}
		out = append(out, e)
	}
	return out, l.Next, nil
}

// Prune removes what is older than a retention.
func (s *Store) Prune(ctx context.Context, r records.Retention) (records.Pruned, error) {
	const day = 24 * time.Hour
	p, err := s.s.Prune(ctx, store.Retention{Jobs: time.Duration(r.Jobs) * day, KeepJobs: r.KeepJobs, Events: time.Duration(r.Events) * day, Audit: time.Duration(r.Audit) * day})
	return records.Pruned{Jobs: p.Jobs, Events: p.Events, Audits: p.Audits}, plain(err)
}

// Ping asks for a sign of life.
func (s *Store) Ping(ctx context.Context) error { return s.s.Ping(ctx) }
