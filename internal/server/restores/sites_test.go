package restores

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"

	"ascend/internal/server/api"
	"ascend/internal/server/fleet"
	"ascend/internal/server/jobs"
	"ascend/internal/server/records"
	"ascend/internal/server/storage"
	"ascend/internal/store"
	"ascend/internal/store/storetest"
	"ascend/internal/vault"
	"ascend/internal/vm"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// TestSites: a job goes where its repository is reached, near its target, then
// where least is to do; one that reads nothing goes anywhere; and where nobody can,
// it is said.
func TestSites(t *testing.T) {
	ctx := t.Context()
	db := storetest.Open(t, store.SQLite, store.Options{})
	st := storage.New(db)
	text, err := vault.Generate()
	if err != nil {
		t.Fatal(err)
	}
	v, err := vault.New(text)
	if err != nil {
		t.Fatal(err)
	}
	s := &Sites{Fleet: fleet.New(st), Store: db, Scanner: api.NewScanner(st, slog.New(slog.DiscardHandler)), Targets: api.NewTargets(st, v, nil)}
	for id, path := range map[string]string{"main": "/backups", "far": "/far"} {
		d := records.Doc[api.StoredRepository]{Record: records.Record{ID: id}, Value: api.StoredRepository{Path: path}}
		if err := s.Scanner.Table.Put(ctx, &d); err != nil {
			t.Fatal(err)
		}
	}
	d := records.Doc[api.StoredTarget]{Record: records.Record{ID: "aws"}, Value: api.StoredTarget{Platform: vm.AWS, Settings: map[string]string{"region": "eu-central-1"}}}
	if err := s.Targets.Table.Put(ctx, &d); err != nil {
		t.Fatal(err)
	}
	is := func(folder, target, wanted string, reads bool, want string) {
		t.Helper()
		site, err := s.place(ctx, folder, target, wanted, reads)
		if site != want && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s to %s: %q %v, not %q", folder, target, site, err, want)
		}
		if err != nil && !strings.Contains(want, "no longer") && !errors.Is(err, jobs.ErrNoWorker) {
			t.Errorf("%v", err)
		}
	}
	is("/backups", "vc", "", true, "no worker is alive")
	for id, w := range map[string]fleet.Worker{
		"1": {Site: "berlin", Repositories: []string{"main"}, Capacity: 4},
		"2": {Site: "frankfurt", Repositories: []string{"main"}, Capacity: 4, Regions: []string{"eu-central-1"}},
	} {
		if _, err := s.Fleet.Beat(ctx, id, w); err != nil {
			t.Fatal(err)
		}
	}
	is("/backups/", "vc", "", true, "berlin")
	is("/backups", "aws", "", true, "frankfurt")
	is("/backups", "aws", "berlin", true, "berlin")
	is("/backups", "vc", "paris", true, "of site paris is alive")
	is("/far", "vc", "", true, "can read the repository far")
	is("/nowhere", "vc", "", true, "no longer a repository")
	is("/nowhere", "vc", "", false, "berlin")
	j := &store.Job{VMName: "busy", Site: "berlin"}
	if _, err := db.CreateJob(ctx, j, nil); err != nil {
		t.Fatal(err)
	}
	is("/backups", "vc", "", true, "frankfurt")

	// A job under way keeps its site; one that has none, or is at rest, gets one.
	if site, err := db.SetSite(ctx, j.ID, "paris"); err != nil || site != "berlin" {
		t.Errorf("%q %v", site, err)
	}
	driven, err := db.TakeDrive(ctx, j.ID, "d")
	if err == nil {
		err = db.Settle(ctx, j.ID, driven.Drive, store.Failed, "no", false)
	}
	if err != nil {
		t.Fatal(err)
	}
	if site, err := db.SetSite(ctx, j.ID, "paris"); err != nil || site != "paris" {
		t.Errorf("%q %v", site, err)
	}
}
