// Package memory is a records.Store that forgets: for tests, and the yardstick
// of what a store must do.
package memory

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"ascend/internal/server/records"
	"ascend/internal/vm"
)

// Store is a store in memory. The zero value is ready.
type Store struct {
	mu      sync.RWMutex
	docs    map[string]map[string]records.Record
	backups map[string]records.Backup
	audit   []records.Entry
	Broken  error // answered to everything, when not nil
}

var _ records.Store = (*Store)(nil)

// Record finds one.
func (s *Store) Record(_ context.Context, kind, id string) (records.Record, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.Broken != nil {
		return records.Record{}, s.Broken
	}
	r, ok := s.docs[kind][id]
	if !ok || expired(r, time.Now()) {
		return records.Record{}, records.ErrNotFound
	}
	r.Data = slices.Clone(r.Data)
	return r, nil
}

func expired(r records.Record, now time.Time) bool {
	return !r.Expires.IsZero() && now.After(r.Expires)
}

// PutRecord writes one.
func (s *Store) PutRecord(_ context.Context, r records.Record, ifRev int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Broken != nil {
		return 0, s.Broken
	}
	old, ok := s.docs[r.Kind][r.ID]
	if ok && expired(old, time.Now()) {
		old, ok = records.Record{}, false
	}
	if ifRev != records.AnyRev && old.Rev != ifRev {
		return 0, records.ErrConflict
	}
	if s.docs == nil {
		s.docs = map[string]map[string]records.Record{}
	}
	if s.docs[r.Kind] == nil {
		s.docs[r.Kind] = map[string]records.Record{}
	}
	if ok {
		r.Created = old.Created
	}
	r.Rev, r.Data = old.Rev+1, slices.Clone(r.Data)
	s.docs[r.Kind][r.ID] = r
	return r.Rev, nil
}

// DeleteRecord removes one.
func (s *Store) DeleteRecord(_ context.Context, kind, id string, ifRev int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.docs[kind][id]
	switch {
	case s.Broken != nil:
		return s.Broken
	case !ok:
		return records.ErrNotFound
	case ifRev != records.AnyRev && old.Rev != ifRev:
		return records.ErrConflict
	}
	delete(s.docs[kind], id)
	return nil
}

// Records lists.
func (s *Store) Records(_ context.Context, kind, ref string, p records.Page) ([]records.Record, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.Broken != nil {
		return nil, s.Broken
	}
	ids := slices.Sorted(maps.Keys(s.docs[kind]))
	if p.Desc {
		slices.Reverse(ids)
	}
	var out []records.Record
	for _, id := range ids {
		r := s.docs[kind][id]
		if p.After != "" && (!p.Desc && id <= p.After || p.Desc && id >= p.After) || ref != "" && r.Ref != ref || expired(r, time.Now()) {
			continue
		}
		if len(out) == p.Limit {
			break
		}
		r.Data = slices.Clone(r.Data)
		out = append(out, r)
	}
	return out, nil
}

// ExpireRecords removes what has expired.
func (s *Store) ExpireRecords(_ context.Context, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.docs {
		maps.DeleteFunc(m, func(_ string, r records.Record) bool { return expired(r, now) })
	}
	return s.Broken
}

// ReplaceBackups replaces a repository's.
func (s *Store) ReplaceBackups(_ context.Context, repository string, list []records.Backup) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Broken != nil {
		return s.Broken
	}
	if s.backups == nil {
		s.backups = map[string]records.Backup{}
	}
	maps.DeleteFunc(s.backups, func(_ string, b records.Backup) bool { return b.Repository == repository })
	for _, b := range list {
		b.ID, b.Repository = backupID(repository, b.Backup.ID), repository
		s.backups[b.ID] = b
	}
	return nil
}

// Backup finds one.
func (s *Store) Backup(_ context.Context, id string) (records.Backup, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.backups[id]
	if s.Broken != nil {
		return b, s.Broken
	}
	if !ok {
		return b, fmt.Errorf("backup %q: %w", id, records.ErrNotFound)
	}
	return b, nil
}

func backupID(repository, id string) string {
	sum := sha256.Sum256([]byte(repository + "\x00" + id))
	return "b" + hex.EncodeToString(sum[:12])
}

// FindBackup finds one by its own id in its repository.
func (s *Store) FindBackup(ctx context.Context, repository, id string) (records.Backup, error) {
	return s.Backup(ctx, backupID(repository, id))
}

func place(b records.Backup) string {
	return b.Created.UTC().Format("20060102T150405.000000000") + "/" + b.ID
}

// Backups lists, the newest first.
func (s *Store) Backups(_ context.Context, f records.BackupFilter) ([]records.Backup, string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.Broken != nil {
		return nil, "", s.Broken
	}
	var hits []records.Backup
	for _, b := range s.backups {
		low := strings.ToLower(b.VM + "\x00" + b.Backup.ID)
		if f.Repository != "" && b.Repository != f.Repository || f.Text != "" && !strings.Contains(low, strings.ToLower(f.Text)) || f.VM != "" && b.VM != f.VM ||
			f.Origin != "" && b.Origin != f.Origin || f.Type != "" && b.Type != f.Type || f.Faulty != nil && *f.Faulty != (b.Fault != "") ||
			!f.Since.IsZero() && b.Created.Before(f.Since) || !f.Until.IsZero() && b.Created.After(f.Until) || f.Cursor != "" && place(b) >= f.Cursor {
			continue
		}
		hits = append(hits, b)
	}
	slices.SortFunc(hits, func(a, b records.Backup) int { return cmp.Compare(place(b), place(a)) })
	if f.Limit > 0 && len(hits) > f.Limit {
		return hits[:f.Limit], place(hits[f.Limit-1]), nil
	}
	return hits, "", nil
}

// CountBackups counts by platform.
func (s *Store) CountBackups(context.Context) (map[vm.Platform]int, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := map[vm.Platform]int{}
	for _, b := range s.backups {
		out[b.Origin]++
	}
	return out, s.Broken
}

// Audit adds a line.
func (s *Store) Audit(_ context.Context, e records.Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Broken != nil {
		return s.Broken
	}
	s.audit = append(s.audit, e)
	return nil
}

// Entries lists the audit log, the newest first.
func (s *Store) Entries(_ context.Context, f records.EntryFilter) ([]records.Entry, string, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.Broken != nil {
		return nil, "", s.Broken
	}
	var out []records.Entry
	for _, e := range slices.Backward(s.audit) {
		if f.Actor != "" && e.Actor != f.Actor || f.Action != "" && e.Action != f.Action && !(strings.HasSuffix(f.Action, ".") && strings.HasPrefix(e.Action, f.Action)) || f.Object != "" && e.Object != f.Object ||
			!f.Since.IsZero() && e.Time.Before(f.Since) || !f.Until.IsZero() && e.Time.After(f.Until) || f.Cursor != "" && e.ID >= f.Cursor {
			continue
		}
		if f.Limit > 0 && len(out) == f.Limit {
			return out, out[len(out)-1].ID, nil
		}
		out = append(out, e)
	}
	return out, "", nil
}

// Ping answers Broken.
func (s *Store) Ping(context.Context) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.Broken
}
