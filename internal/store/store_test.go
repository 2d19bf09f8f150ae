package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"ascend/internal/store"
	"ascend/internal/store/storetest"
	"ascend/internal/vm"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// each runs a test on an empty store of every kind.
func each(t *testing.T, fn func(t *testing.T, s *store.Store)) {
	for _, k := range storetest.Kinds() {
		t.Run(string(k), func(t *testing.T) { fn(t, storetest.Open(t, k, store.Options{})) })
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, not %v", err, want)
	}
}

// hostile is a name that breaks whoever does not quote.
const hostile = `Ünï"cödé' \ 100%_ ; DROP TABLE x -- 😀`

func newJob(t testing.TB, s *store.Store, key string, steps ...string) *store.Job {
	t.Helper()
	j := &store.Job{Key: key, VMName: hostile, SourcePlatform: vm.VMware, TargetPlatform: vm.Nutanix,
		TargetName: "there", TargetConfig: json.RawMessage(`{"a": "b\\\"'"}`), Spec: json.RawMessage(`{"x":1}`)}
	var rows []store.Step
	for i, n := range steps {
		rows = append(rows, store.Step{Name: n, Kind: "k", Stage: i, MaxAttempts: 3})
	}
	made, err := s.CreateJob(t.Context(), j, rows)
	must(t, err)
	if !made {
		t.Fatal("not made")
	}
	return j
}

func TestJobAsStored(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		j := newJob(t, s, "key 1", "a", "b")
		got, err := s.Job(ctx, j.ID)
		must(t, err)
		if got.VMName != hostile || string(got.Spec) != `{"x":1}` || got.Status != store.Pending || !got.StartedAt.IsZero() || got.CreatedAt.Sub(j.CreatedAt) != 0 {
			t.Errorf("%+v", got)
		}
		var cfg map[string]string
		must(t, json.Unmarshal(got.TargetConfig, &cfg))
		if cfg["a"] != `b\"'` {
			t.Errorf("%s", got.TargetConfig)
		}
		again := &store.Job{Key: "key 1"}
		made, err := s.CreateJob(ctx, again, nil)
		must(t, err)
		if made || again.ID != j.ID {
			t.Errorf("made again: %v", again)
		}
		must(t, s.SetProgress(ctx, j.ID, 33.337, time.Now().Add(time.Hour)))
		must(t, s.SetProgress(ctx, j.ID, 12, time.Time{}))
		must(t, s.SetVM(ctx, j.ID, "vm-1", hostile))
		got, err = s.Job(ctx, j.ID)
		must(t, err)
		if got.ProgressPercent != 33.34 || !got.EstimatedCompletion.IsZero() || got.TargetVMName != hostile || got.Version <= j.Version {
			t.Errorf("%+v", got)
		}
		_, err = s.Job(ctx, "none")
		is(t, err, store.ErrNotFound)
		_, err = s.JobByPrefix(ctx, j.ID[:20])
		must(t, err)
		st, err := s.Steps(ctx, j.ID)
		must(t, err)
		if len(st) != 2 || st[1].Name != "b" || st[1].Order != 2 || st[0].BackoffMS != 1000 {
			t.Errorf("%+v", st)
		}
	})
}

func TestAttemptsAndFences(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		j := newJob(t, s, "", "a")
		begin := func(id string) (*store.Begun, error) {
			return s.BeginAttempt(ctx, store.Begin{Job: j.ID, Step: "a", Attempt: id, Worker: "w"})
		}
		one, err := begin("1")
		must(t, err)
		same, err := begin("1")
		must(t, err)
		if same.Step.Fence != one.Step.Fence || same.Number != 1 {
			t.Errorf("the same attempt began twice: %+v", same)
		}
		save := func(b *store.Begun, done int64, cp string) error {
			_, err := s.SaveAttempt(ctx, store.Save{Job: j.ID, StepID: b.Step.ID, Fence: b.Step.Fence, Progress: true, Done: done, Total: 100, Checkpoint: json.RawMessage(cp)})
			return err
		}
		must(t, save(one, 10, `{"at":10}`))
		two, err := begin("2")
		must(t, err)
		if string(two.Checkpoint) != `{"at":10}` || two.Number != 1 { // progress gave the attempt back
			t.Errorf("%+v %s", two, two.Checkpoint)
		}
		is(t, save(one, 90, `{"at":90}`), store.ErrFenced)
		is(t, s.EndAttempt(ctx, store.End{Job: j.ID, Step: "a", StepID: one.Step.ID, Fence: one.Step.Fence, Status: store.Completed}), store.ErrFenced)
		must(t, save(two, 5, `{"at":5}`)) // less than the best: no attempt back
		for _, id := range []string{"3", "4"} {
			two, err = begin(id)
			must(t, err)
		}
		if !two.Last {
			t.Error("not the last")
		}
		must(t, s.EndAttempt(ctx, store.End{Job: j.ID, Step: "a", StepID: two.Step.ID, Fence: two.Step.Fence, Status: store.Completed}))
		fin, err := begin("6")
		must(t, err)
		if !fin.Finished {
			t.Error("not finished")
		}
		k := newJob(t, s, "", "a")
		for n := range 4 {
			b, err := s.BeginAttempt(ctx, store.Begin{Job: k.ID, Step: "a", Attempt: fmt.Sprint("k", n)})
			must(t, err)
			if b.Exhausted != (n == 3) {
				t.Errorf("attempt %d: %+v", n, b)
			}
		}
		must(t, s.RequestCancel(ctx, j.ID))
		evs, err := s.Events(ctx, j.ID, 0, 0)
		must(t, err)
		for i, e := range evs {
			if e.JobSeq != int64(i+1) || i > 0 && e.Seq <= evs[i-1].Seq {
				t.Errorf("event %d: %+v", i, e)
			}
		}
	})
}

func TestEverythingElseOnce(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		r := &store.Repository{Name: hostile, RepoKind: "folder", Location: "/b", Secrets: []byte{0, 1, 0xff, '\''}}
		must(t, s.CreateRepository(ctx, r))
		is(t, s.CreateRepository(ctx, &store.Repository{Name: hostile, RepoKind: "f"}), store.ErrExists)
		got, err := s.Repository(ctx, hostile)
		must(t, err)
		if string(got.Secrets) != string(r.Secrets) || got.Version != 1 {
			t.Errorf("%+v", got)
		}
		stale := *got
		got.Location = "/c"
		must(t, s.UpdateRepository(ctx, got))
		if got.Version != 2 {
			t.Errorf("version %d", got.Version)
		}
		is(t, s.UpdateRepository(ctx, &stale), store.ErrConflict)
		if got, err = s.Repository(ctx, r.ID); err != nil || got.Location != "/c" || got.Version != 2 || got.CreatedAt.IsZero() {
			t.Errorf("%+v %v", got, err)
		}
		b := []*store.Backup{{ExternalID: "x", VMName: hostile, SourcePlatform: vm.VMware, TakenAt: time.Now()}, {ExternalID: "y", VMName: "two"}}
		must(t, s.PutBackups(ctx, r.ID, b))
		first := b[0].ID
		must(t, s.PutBackups(ctx, r.ID, []*store.Backup{{ExternalID: "x", VMName: "renamed"}}))
		again, err := s.Backup(ctx, first)
		must(t, err)
		if again.VMName != "renamed" || again.Seq != b[0].Seq {
			t.Errorf("%+v", again)
		}
		must(t, s.AppendAudit(ctx, &store.Audit{Actor: "ann", Action: "x"}))
		au, err := s.Audits(ctx, store.AuditFilter{Actor: "ann"}, store.Page{})
		must(t, err)
		if len(au.Items) != 1 || au.Items[0].Seq != 1 {
			t.Errorf("%+v", au)
		}
		for range 20 {
			must(t, s.RecordRate(ctx, "t", "nfc", 10<<20, 2*time.Second))
		}
		if rate, n, err := s.Rate(ctx, "t", "nfc"); err != nil || rate != 5<<20 || n != 10 {
			t.Error(rate, err)
		}
		must(t, s.DeleteRepository(ctx, r.ID, 0))
		_, err = s.Backup(ctx, first)
		is(t, err, store.ErrNotFound)
	})
}

func TestJobBelongings(t *testing.T) {
	each(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		must(t, s.PutBackupJob(ctx, &store.BackupJob{ID: "bj", VMName: "v", SourcePlatform: vm.HyperV, Status: store.Completed}))
		j := &store.Job{BackupJobID: "bj"}
		_, err := s.CreateJob(ctx, j, []store.Step{{Name: "a", Kind: "k"}})
		must(t, err)
		for _, n := range []string{"one", hostile, "one"} {
			must(t, s.RecordResource(ctx, &store.Resource{Job: j.ID, Kind: "vm", Name: n, ExternalID: "id " + n, Data: map[string]string{"k": hostile}, Done: true}))
		}
		rs, err := s.Resources(ctx, j.ID)
		must(t, err)
		if len(rs) != 2 || rs[0].Name != "one" || rs[1].Name != hostile || rs[1].Data["k"] != hostile || !rs[1].Done {
			t.Errorf("%+v", rs)
		}
		big := make([]byte, 3*store.ChunkSize+5)
		for i := range big {
			big[i] = byte(i * 7)
		}
		must(t, s.PutBlob(ctx, j.ID, "map/0", big))
		must(t, s.PutBlob(ctx, j.ID, "map/1", nil))
		got, err := s.Blob(ctx, j.ID, "map/0")
		must(t, err)
		if string(got) != string(big) {
			t.Error("another blob")
		}
		must(t, s.AppendBlob(ctx, j.ID, "journal", 0, []byte("a")))
		must(t, s.AppendBlob(ctx, j.ID, "journal", 1, []byte("b")))
		must(t, s.AppendBlob(ctx, j.ID, "journal", 1, []byte("b")))
		is(t, s.AppendBlob(ctx, j.ID, "journal", 1, []byte("c")), store.ErrConflict)
		is(t, s.AppendBlob(ctx, j.ID, "journal", 3, []byte("c")), store.ErrConflict)
		if b, err := s.Blob(ctx, j.ID, "journal"); err != nil || string(b) != "ab" {
			t.Errorf("%q %v", b, err)
		}
		names, err := s.Blobs(ctx, j.ID, "map/")
		must(t, err)
		if len(names) != 2 {
			t.Errorf("%q", names)
		}
		must(t, s.DeleteBlobs(ctx, j.ID, "map/"))
		_, err = s.Blob(ctx, j.ID, "map/0")
		is(t, err, store.ErrNotFound)
		must(t, s.PutReceipt(ctx, j.ID, []byte{1, 0, 2}))
		must(t, s.PutReceipt(ctx, j.ID, []byte{1, 0, 3}))
		if b, err := s.Receipt(ctx, j.ID); err != nil || string(b) != "\x01\x00\x03" {
			t.Errorf("%q %v", b, err)
		}
		must(t, s.DeleteBackupJob(ctx, "bj"))
		_, err = s.Job(ctx, j.ID)
		is(t, err, store.ErrNotFound)
		st, err := s.Steps(ctx, j.ID)
		must(t, err)
		if len(st) != 0 {
			t.Error("steps left")
		}
	})
}

// documents are one of each kind, and what a column says of it.
var documents = []struct{ kind, data, table, column, says string }{
	{"user", `{"name":"Ünï ann","role":"admin","disabled":true}`, "users", "name", "Ünï ann"},
	{"token", `{"name":"ci","user":"u1","role":"viewer","hash":"h"}`, "tokens", "user_id", "u1"},
	{"session", `{"user":"u1","csrf":"c","address":"::1"}`, "sessions", "remote", "::1"},
	{"target", `{"platform":"aws","healthy":true}`, "targets", "platform", "aws"},
	{"mapping", `{"note":"'; DROP TABLE plans; --"}`, "mapping_sets", "note", "'; DROP TABLE plans; --"},
	{"plan", `{"backup":"b","target":"t","by":"ann"}`, "plans", "created_by", "ann"},
	{"channel", `{"kind":"email","host":"mail"}`, "channels", "address", "mail"},
	{"delivery", `{"channel":"c","state":"waiting","attempts":3,"message":{"job":"j7"}}`, "deliveries", "job_id", "j7"},
	{"replay", `{"done":true,"status":201}`, "idempotency_keys", "status", "201"},
	{"settings", `{"x":1}`, "settings", "ref", "r"},
	{"waiting", `"a string"`, "records", "kind", "waiting"},
}

func TestDocumentsHaveColumns(t *testing.T) {
	for _, k := range storetest.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			ctx := t.Context()
			dsn := storetest.DSN(t, k)
			s, err := store.Open(ctx, dsn, store.Options{})
			must(t, err)
			defer func() { must(t, s.Close()) }()
			for _, d := range documents {
				must(t, s.PutRecord(ctx, &store.Record{Kind: d.kind, ID: "one", Ref: "r", Data: []byte(d.data), ExpiresAt: time.Now().Add(time.Hour)}, 0))
				must(t, s.PutRecord(ctx, &store.Record{Kind: d.kind, ID: "two", Data: []byte(d.data)}, -1))
				must(t, s.DeleteRecord(ctx, d.kind, "two", 1))
			}
			look := func(when string) {
				for _, d := range documents {
					r, err := s.Record(ctx, d.kind, "one")
					must(t, err)
					says, err := s.Column(ctx, d.table, d.column, "one")
					must(t, err)
					if r.Kind != d.kind || r.Ref != "r" || r.Version != 1 || string(r.Data) != d.data || r.ExpiresAt.IsZero() || says != d.says {
						t.Errorf("%s: %s: %s, and the column says %q", when, d.kind, r.Data, says)
					}
				}
			}
			look("stored")
			must(t, s.MigrateDown(ctx, 10)) // when all lay in one table
			must(t, s.Close())
			s, err = store.Open(ctx, dsn, store.Options{})
			must(t, err)
			look("migrated")
			must(t, s.ExpireRecords(ctx, time.Now().Add(2*time.Hour)))
			for _, d := range documents {
				_, err := s.Record(ctx, d.kind, "one")
				is(t, err, store.ErrNotFound)
			}
		})
	}
}

func TestMigrationsDownAndUp(t *testing.T) {
	for _, k := range storetest.Kinds() {
		t.Run(string(k), func(t *testing.T) {
			ctx := t.Context()
			dsn := storetest.DSN(t, k)
			s, err := store.Open(ctx, dsn, store.Options{})
			must(t, err)
			defer s.Close()
			newJob(t, s, "", "a")
			must(t, s.MigrateDown(ctx, 0))
			if _, err := s.Jobs(ctx, store.JobFilter{}, store.Page{}); err == nil {
				t.Error("tables left")
			}
			_, err = store.Open(ctx, dsn, store.Options{NoMigrate: true})
			if err == nil {
				t.Error("an old schema was opened")
			}
			again, err := store.Open(ctx, dsn, store.Options{})
			must(t, err)
			defer again.Close()
			newJob(t, again, "", "a")
		})
	}
}

// TestLateWriters: what a driver that stood still still does when it wakes up
// changes nothing.
func TestLateWriters(t *testing.T) {
	ctx := t.Context()
	s := storetest.Open(t, store.SQLite, store.Options{})
	j := newJob(t, s, "", "a")
	first, err := s.TakeDrive(ctx, j.ID, "me#1")
	must(t, err)
	tenth, err := s.TakeDrive(ctx, j.ID, "me#10")
	must(t, err)
	_, err = s.TakeDrive(ctx, j.ID, "me#2")
	is(t, err, store.ErrFenced)
	again, err := s.TakeDrive(ctx, j.ID, "me#10")
	must(t, err)
	if first.Drive != 1 || tenth.Drive != 2 || again.Drive != 2 {
		t.Errorf("%d %d %d", first.Drive, tenth.Drive, again.Drive)
	}
	is(t, s.SetPhase(ctx, j.ID, first.Drive, "uploading"), store.ErrFenced)
	must(t, s.SetPhase(ctx, j.ID, tenth.Drive, "uploading"))
	must(t, s.Settle(ctx, j.ID, tenth.Drive, store.Completed, "", false))
	is(t, s.SetPhase(ctx, j.ID, tenth.Drive, "creating"), store.ErrFenced) // of the same drive, but too late
	if other, err := s.TakeDrive(ctx, j.ID, "you#1"); err != nil || other.Drive != 3 || other.Status != store.Completed {
		t.Errorf("%+v %v", other, err)
	}
}
