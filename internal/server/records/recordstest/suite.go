// Package recordstest is what every records.Store must do.
package recordstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"ascend/internal/backup"
	"ascend/internal/server/records"
	"ascend/internal/vm"
)

// Run tests an empty store.
func Run(t *testing.T, s records.Store) {
	for _, kind := range []string{"thing", "repository", "user", "target", "plan", "delivery"} {
		t.Run("documents/"+kind, func(t *testing.T) { documents(t, s, kind) })
	}
	t.Run("expiry", func(t *testing.T) { expiry(t, s) })
	t.Run("backups", func(t *testing.T) { backups(t, s) })
	t.Run("audit", func(t *testing.T) { audit(t, s) })
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%v, not %v", err, want)
	}
}

func documents(t *testing.T, s records.Store, kind string) {
	ctx := t.Context()
	data := json.RawMessage(`{"path":"/Ünï'\"` + kind + `"}`)
	_, err := s.Record(ctx, kind, "a")
	is(t, err, records.ErrNotFound)
	_, err = s.PutRecord(ctx, records.Record{Kind: kind, ID: "a", Data: data}, 7)
	is(t, err, records.ErrConflict)
	rev, err := s.PutRecord(ctx, records.Record{Kind: kind, ID: "a", Ref: "r", Data: data}, 0)
	is(t, err, nil)
	_, err = s.PutRecord(ctx, records.Record{Kind: kind, ID: "a", Data: data}, 0)
	is(t, err, records.ErrConflict)
	got, err := s.Record(ctx, kind, "a")
	if err != nil || string(got.Data) != string(data) || got.Rev != rev || got.Created.IsZero() {
		t.Fatalf("%+v %v", got, err)
	}
	_, err = s.Record(ctx, kind, "A")
	is(t, err, records.ErrNotFound)
	data = json.RawMessage(`{"path":"/other"}`)
	next, err := s.PutRecord(ctx, records.Record{Kind: kind, ID: "a", Ref: "r", Data: data}, rev)
	if err != nil || next != rev+1 {
		t.Fatal(next, err)
	}
	if got, err = s.Record(ctx, kind, "a"); err != nil || string(got.Data) != string(data) {
		t.Fatalf("%s %v", got.Data, err)
	}
	_, err = s.PutRecord(ctx, records.Record{Kind: kind, ID: "a", Data: data}, rev)
	is(t, err, records.ErrConflict)
	again, err := s.PutRecord(ctx, records.Record{Kind: kind, ID: "a", Ref: "r", Data: data}, records.AnyRev)
	if err != nil || again != rev+2 {
		t.Fatal(again, err)
	}
	// Of many at once with the same revision, one wins.
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 8 {
		wg.Go(func() {
			if _, err := s.PutRecord(ctx, records.Record{Kind: kind, ID: "a", Ref: "r", Data: data}, again); err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			} else if !errors.Is(err, records.ErrConflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d of 8 won", won)
	}
	for _, id := range []string{"b", "c", "d"} {
		_, err := s.PutRecord(ctx, records.Record{Kind: kind, ID: id, Data: data}, 0)
		is(t, err, nil)
	}
	list, err := s.Records(ctx, kind, "", records.Page{After: "a", Limit: 2})
	if err != nil || len(list) != 2 || list[0].ID != "b" || list[1].ID != "c" {
		t.Errorf("%+v %v", list, err)
	}
	if kind != "repository" {
		list, err = s.Records(ctx, kind, "r", records.Page{Limit: 9})
		if err != nil || len(list) != 1 {
			t.Errorf("%+v %v", list, err)
		}
		list, err = s.Records(ctx, kind, "", records.Page{After: "d", Limit: 9, Desc: true})
		if err != nil || len(list) != 3 || list[0].ID != "c" {
			t.Errorf("%+v %v", list, err)
		}
	}
	is(t, s.DeleteRecord(ctx, kind, "a", 1), records.ErrConflict)
	for _, id := range []string{"a", "b", "c", "d"} {
		is(t, s.DeleteRecord(ctx, kind, id, records.AnyRev), nil)
	}
	is(t, s.DeleteRecord(ctx, kind, "a", records.AnyRev), records.ErrNotFound)
}

func expiry(t *testing.T, s records.Store) {
	ctx := t.Context()
	put := func(id string, at time.Time) {
		_, err := s.PutRecord(ctx, records.Record{Kind: "e", ID: id, Expires: at, Data: []byte("{}")}, 0)
		is(t, err, nil)
	}
	put("old", time.Now().Add(-time.Second))
	put("new", time.Now().Add(time.Hour))
	_, err := s.Record(ctx, "e", "old")
	is(t, err, records.ErrNotFound)
	put("old", time.Now().Add(-time.Second)) // an expired one is not in the way
	list, err := s.Records(ctx, "e", "", records.Page{Limit: 9})
	if err != nil || len(list) != 1 || list[0].ID != "new" {
		t.Errorf("%+v %v", list, err)
	}
	is(t, s.ExpireRecords(ctx, time.Now()), nil)
	_, err = s.Record(ctx, "e", "new")
	is(t, err, nil)
}

func backups(t *testing.T, s records.Store) {
	ctx := t.Context()
	_, err := s.PutRecord(ctx, records.Record{Kind: "repository", ID: "r", Data: []byte(`{"path":"/r"}`)}, 0)
	is(t, err, nil)
	var list []records.Backup
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 25 {
		b := records.Backup{Backup: backup.Backup{ID: fmt.Sprint("id", i), VM: fmt.Sprintf("web%% %d", i%3), Origin: vm.VMware, Type: backup.Full, Created: begin.Add(time.Duration(i*7%25) * time.Hour), Machine: &vm.Machine{Name: "web"}}}
		if i == 4 {
			b.Fault = "torn"
		}
		list = append(list, b)
	}
	is(t, s.ReplaceBackups(ctx, "r", list), nil)
	seen := map[string]bool{}
	last := begin.AddDate(1, 0, 0)
	for cursor := ""; ; {
		page, next, err := s.Backups(ctx, records.BackupFilter{Limit: 4, Cursor: cursor})
		is(t, err, nil)
		for _, b := range page {
			if seen[b.ID] || b.Created.After(last) || b.Repository != "r" || b.Machine == nil {
				t.Fatalf("%+v", b)
			}
			seen[b.ID], last = true, b.Created
		}
		if cursor = next; next == "" {
			break
		}
	}
	if len(seen) != 25 {
		t.Errorf("%d", len(seen))
	}
	yes := true
	for _, c := range []struct {
		f records.BackupFilter
		n int
	}{
		{records.BackupFilter{Text: "WEB% 1", Limit: 99}, 8}, {records.BackupFilter{Text: "%", Limit: 99}, 25}, {records.BackupFilter{Text: "_", Limit: 99}, 0}, {records.BackupFilter{VM: "web% 0", Limit: 99}, 9},
		{records.BackupFilter{Faulty: &yes, Limit: 99}, 1}, {records.BackupFilter{Origin: vm.AWS, Limit: 99}, 0}, {records.BackupFilter{Repository: "x", Limit: 99}, 0},
		{records.BackupFilter{Since: begin.Add(20 * time.Hour), Limit: 99}, 5},
	} {
		if got, _, err := s.Backups(ctx, c.f); err != nil || len(got) != c.n {
			t.Errorf("%+v: %d %v", c.f, len(got), err)
		}
	}
	b, err := s.FindBackup(ctx, "r", "id4")
	if err != nil || b.Fault != "torn" {
		t.Fatalf("%+v %v", b, err)
	}
	is(t, s.ReplaceBackups(ctx, "r", list[3:6]), nil)
	kept, err := s.Backup(ctx, b.ID)
	if err != nil || kept.Backup.ID != "id4" {
		t.Errorf("the id of a backup changed: %v", err)
	}
	_, err = s.FindBackup(ctx, "r", "id0")
	is(t, err, records.ErrNotFound)
	if n, err := s.CountBackups(ctx); err != nil || n[vm.VMware] != 3 {
		t.Errorf("%v %v", n, err)
	}
}

func audit(t *testing.T, s records.Store) {
	ctx := t.Context()
	for i := range 5 {
		is(t, s.Audit(ctx, records.Entry{ID: fmt.Sprintf("%026d", i), Time: time.Now(), Actor: "ann", Action: []string{"target.create", "user.create"}[i%2], Object: "o", Outcome: "done", Detail: map[string]string{"n": fmt.Sprint(i)}}), nil)
	}
	page, next, err := s.Entries(ctx, records.EntryFilter{Limit: 2})
	if err != nil || len(page) != 2 || page[0].Detail["n"] != "4" || next == "" {
		t.Fatalf("%+v %v", page, err)
	}
	page, _, err = s.Entries(ctx, records.EntryFilter{Limit: 9, Cursor: next, Action: "user."})
	if err != nil || len(page) != 1 || page[0].Detail["n"] != "1" {
		t.Errorf("%+v %v", page, err)
	}
}
