package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"ascend/internal/store"
	"ascend/internal/store/storetest"
	"ascend/internal/vm"
)

// TestCopy copies a store with something in every corner from each kind of database,
// and to each, and compares all that can be read; what it was copied to goes on
// with its numbers.
func TestCopy(t *testing.T) {
	for _, c := range [][2]store.Kind{{store.SQLite, store.Postgres}, {store.SQLite, store.MySQL}, {store.Postgres, store.MySQL}, {store.MySQL, store.SQLite}} {
		t.Run(string(c[0])+" to "+string(c[1]), func(t *testing.T) {
			ctx := t.Context()
			a, b := storetest.Open(t, c[0], store.Options{}), storetest.Open(t, c[1], store.Options{})
			job, backup := fill(t, a)
			all, err := b.Copy(ctx, a)
			must(t, err)
			rows := map[string]int64{}
			for _, c := range all {
				rows[c.Table] = c.Rows
			}
			if rows["restore_jobs"] != 251 || rows["restore_steps"] != 252 || rows["job_blobs"] == 0 || rows["records"] == 0 || rows["events"] == 0 || rows["checkpoints"] != 1 {
				t.Errorf("%v", rows)
			}
			if x, y := seen(t, a, job, backup), seen(t, b, job, backup); x != y {
				t.Errorf("copied: %s\nfrom:   %s", y, x)
			}
			if _, err := b.Copy(ctx, a); !errors.Is(err, store.ErrNotEmpty) {
				t.Errorf("copied twice: %v", err)
			}
			j := &store.Job{VMName: "after"}
			_, err = b.CreateJob(ctx, j, nil)
			must(t, err)
			if j.Seq != 252 {
				t.Errorf("the next job has number %d", j.Seq)
			}
		})
	}
}

// fill stores something of everything that lists show, and one job under way.
func fill(t *testing.T, s *store.Store) (job, backup string) {
	t.Helper()
	ctx := t.Context()
	repo := &store.Repository{Name: `it's "ours" ü`, RepoKind: "folder"}
	must(t, s.CreateRepository(ctx, repo))
	found := []*store.Backup{{ExternalID: "b", VMName: "web 01", SourcePlatform: vm.VMware, TakenAt: time.Unix(1_700_000_000, 123_456_000), Detail: []byte(`{"a":["?"]}`)}}
	must(t, s.PutBackups(ctx, repo.ID, found))
	must(t, s.Tx(ctx, func(tx *store.Store) error {
		for i := range 250 {
			if _, err := tx.CreateJob(ctx, &store.Job{VMName: fmt.Sprint("vm ? ", i)}, []store.Step{{Name: "one", Kind: "k", MaxAttempts: 1}}); err != nil {
				return err
			}
		}
		return nil
	}))
	j := &store.Job{VMName: "under way", Key: "k1", Spec: json.RawMessage(`{"plan":"?'\\"}`), TargetConfig: json.RawMessage(`{"x": 1}`), KeepOnFailure: true}
	_, err := s.CreateJob(ctx, j, []store.Step{{Name: "a", Kind: "k", MaxAttempts: 3, Input: json.RawMessage(`{"disk":0}`)}, {Name: "b", Kind: "k", Stage: 1, MaxAttempts: 3}})
	must(t, err)
	driven, err := s.TakeDrive(ctx, j.ID, "me")
	must(t, err)
	must(t, s.SetPhase(ctx, j.ID, driven.Drive, store.Running))
	begun, err := s.BeginAttempt(ctx, store.Begin{Job: j.ID, Step: "a", Attempt: store.NewID(), Worker: "w", Drive: driven.Drive, Epoch: 1})
	must(t, err)
	_, err = s.SaveAttempt(ctx, store.Save{Job: j.ID, StepID: begun.Step.ID, Fence: begun.Step.Fence, Checkpoint: []byte(`{"at":5}`), Progress: true, Done: 1 << 40, Total: 1 << 41})
	must(t, err)
	must(t, s.SetProgress(ctx, j.ID, 33.33, time.Now().Add(time.Hour)))
	every := make([]byte, 3<<20) // more than one row
	for i := range every {
		every[i] = byte(i)
	}
	must(t, s.PutBlob(ctx, j.ID, "map", every))
	must(t, s.PutRecord(ctx, &store.Record{Kind: "user", ID: "u", Data: []byte(`{"name":"ann","disabled":true,"last_seen":"2026-11-28T01:02:03.5Z"}`)}, 0))
	must(t, s.PutRecord(ctx, &store.Record{Kind: "note", ID: "n", Ref: "r", Data: []byte(`{"a":"?'\\\"ü"}`)}, 0))
	return j.ID, found[0].ID
}

// seen is what can be read of a store, as text.
func seen(t *testing.T, s *store.Store, job, backup string) string {
	t.Helper()
	ctx := context.Background()
	var out bytes.Buffer
	jobs, err := s.Jobs(ctx, store.JobFilter{}, store.Page{Limit: 1000})
	must(t, err)
	j, err := s.Job(ctx, job)
	must(t, err)
	steps, err := s.Steps(ctx, job)
	must(t, err)
	events, err := s.Events(ctx, "", 0, 1000)
	must(t, err)
	repositories, err := s.Repositories(ctx)
	must(t, err)
	found, err := s.Backup(ctx, backup)
	must(t, err)
	record, err := s.Record(ctx, "note", "n")
	must(t, err)
	user, err := s.Record(ctx, "user", "u")
	must(t, err)
	name, err := s.Column(ctx, "users", "name", "u")
	must(t, err)
	blob, err := s.Blob(ctx, job, "map")
	must(t, err)
	next, err := s.BeginAttempt(ctx, store.Begin{Job: job, Step: "a", Attempt: "the next one", Worker: "w2", Drive: j.Drive, Epoch: 2})
	must(t, err)
	for _, v := range []any{jobs.Items, j, steps, events, repositories, found, record, user, name} {
		b, err := json.Marshal(utc(v))
		must(t, err)
		out.Write(b)
	}
	fmt.Fprintf(&out, "%d %x %s %d", len(blob), blob[len(blob)-4:], next.Checkpoint, next.Number)
	return out.String()
}

// utc is a value with the times of all databases written alike, and JSON too.
func utc(v any) any {
	b, _ := json.Marshal(v)
	var x any
	_ = json.Unmarshal(b, &x)
	var walk func(x any) any
	walk = func(x any) any {
		switch x := x.(type) {
		case map[string]any:
			for k := range x {
				x[k] = walk(x[k])
			}
		case []any:
			for i := range x {
				x[i] = walk(x[i])
			}
		case string:
			if at, err := time.Parse(time.RFC3339Nano, x); err == nil {
				return at.UTC().Format(time.RFC3339Nano)
			}
		}
		return x
	}
	return walk(x)
}
